//! The registry's documentation and the schemas' snapshots, from the schemas as Terraform gets them.
//!
//! `LIFEBOAT_BLESS=1` writes the files; otherwise they must be as they would be written. A snapshot that differs is a
//! change of the interface: see whether existing configurations and states still work.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

mod session;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use session::Session;
use tf_provider_sdk::tfplugin5 as pb;
use tf_provider_sdk::tfplugin5::schema::nested_block::NestingMode;

const NAME: &str = "lifeboat";

struct Schemas {
    provider: pb::Schema,
    resources: BTreeMap<String, pb::Schema>,
    data_sources: BTreeMap<String, pb::Schema>,
    actions: BTreeMap<String, pb::Schema>,
    ephemeral: BTreeMap<String, pb::Schema>,
    functions: BTreeMap<String, pb::Function>,
}

async fn schemas() -> Schemas {
    let mut session = Session::start().await;
    let answer = session.client.get_schema(pb::get_provider_schema::Request {}).await.unwrap().into_inner();
    session.end().await;
    assert!(answer.diagnostics.is_empty(), "{:?}", answer.diagnostics);
    Schemas {
        provider: answer.provider.unwrap(),
        resources: answer.resource_schemas.into_iter().collect(),
        data_sources: answer.data_source_schemas.into_iter().collect(),
        actions: answer.action_schemas.into_iter().map(|(name, action)| (name, action.schema.unwrap())).collect(),
        ephemeral: answer.ephemeral_resource_schemas.into_iter().collect(),
        functions: answer.functions.into_iter().collect(),
    }
}

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn example(path: &str) -> String {
    let path = root().join("../../examples").join(path);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Compares the files below `directory` with what they should be, or writes them.
fn hold_against(directory: &Path, wanted: &BTreeMap<String, String>) {
    if std::env::var_os("LIFEBOAT_BLESS").is_some() {
        let _ = std::fs::remove_dir_all(directory);
        for (name, text) in wanted {
            let path = directory.join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
        return;
    }
    let mut found = BTreeMap::new();
    collect(directory, directory, &mut found);
    let names = |files: &BTreeMap<String, String>| files.keys().cloned().collect::<Vec<_>>();
    let advice =
        "write them with: LIFEBOAT_BLESS=1 cargo nextest run -p terraform-provider-lifeboat --test documentation";
    assert_eq!(names(&found), names(wanted), "{}: {advice}", directory.display());
    for (name, text) in wanted {
        assert!(found.get(name) == Some(text), "{} is out of date: {advice}", directory.join(name).display());
    }
}

fn collect(base: &Path, directory: &Path, found: &mut BTreeMap<String, String>) {
    for entry in std::fs::read_dir(directory).into_iter().flatten() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            collect(base, &path, found);
        } else {
            let name = path.strip_prefix(base).unwrap().display().to_string();
            found.insert(name, std::fs::read_to_string(&path).unwrap());
        }
    }
}

fn block(schema: &pb::Schema) -> &pb::schema::Block {
    schema.block.as_ref().unwrap()
}

/// A type in words: `List of String`.
fn type_in_words(json: &serde_json::Value) -> String {
    match json {
        serde_json::Value::String(word) => {
            let mut letters = word.chars();
            letters.next().map_or_else(String::new, |first| format!("{}{}", first.to_uppercase(), letters.as_str()))
        }
        serde_json::Value::Array(parts) => {
            let outer = type_in_words(&parts[0]);
            if parts[1].is_object() { outer } else { format!("{outer} of {}", type_in_words(&parts[1])) }
        }
        _ => "Object".to_owned(),
    }
}

fn type_of(attribute: &pb::schema::Attribute) -> serde_json::Value {
    serde_json::from_slice(&attribute.r#type).unwrap()
}

fn attribute_line(attribute: &pb::schema::Attribute) -> String {
    let mut kind = type_in_words(&type_of(attribute));
    if attribute.sensitive {
        kind.push_str(", Sensitive");
    }
    if attribute.write_only {
        kind.push_str(", Write-only");
    }
    format!("- `{}` ({kind}) {}\n", attribute.name, attribute.description)
}

fn is_required(nested: &pb::schema::NestedBlock) -> bool {
    nested.min_items > 0
}

fn block_line(nested: &pb::schema::NestedBlock, anchor: &str) -> String {
    let kind = match nested.nesting() {
        NestingMode::Single => "Block",
        NestingMode::List => "Blocks, in order",
        _ => "Blocks",
    };
    let text = nested.block.as_ref().map(|block| block.description.clone()).unwrap_or_default();
    format!("- `{}` ({kind}) {text} See [below](#{anchor}).\n", nested.type_name)
}

fn reference(block: &pb::schema::Block, heading: &str, anchor: &str, out: &mut String) {
    type Wanted = fn(&pb::schema::Attribute) -> bool;
    let sections: [(&str, Wanted, Option<bool>); 3] = [
        ("Required", |attribute| attribute.required, Some(true)),
        ("Optional", |attribute| attribute.optional, Some(false)),
        ("Read-Only", |attribute| attribute.computed && !attribute.optional, None),
    ];
    let mut nested_blocks: Vec<&pb::schema::NestedBlock> = block.block_types.iter().collect();
    nested_blocks.sort_by(|a, b| a.type_name.cmp(&b.type_name));
    let mut attributes: Vec<&pb::schema::Attribute> = block.attributes.iter().collect();
    attributes.sort_by(|a, b| a.name.cmp(&b.name));
    for (title, wanted, required) in sections {
        let mut lines: Vec<String> = attributes
            .iter()
            .filter(|attribute| wanted(attribute))
            .map(|attribute| attribute_line(attribute))
            .collect();
        if let Some(required) = required {
            let blocks = nested_blocks.iter().filter(|nested| is_required(nested) == required);
            lines.extend(blocks.map(|nested| block_line(nested, &format!("{anchor}--{}", nested.type_name))));
        }
        if !lines.is_empty() {
            write!(out, "\n{heading} {title}\n\n{}", lines.concat()).unwrap();
        }
    }
    for nested in nested_blocks {
        let anchor = format!("{anchor}--{}", nested.type_name);
        write!(out, "\n<a id=\"{anchor}\"></a>\n### Nested Schema for `{}`\n", nested.type_name).unwrap();
        reference(nested.block.as_ref().unwrap(), "####", &anchor, out);
    }
}

/// A page in the form that the registry reads.
fn page(title: &str, heading: &str, schema: &pb::Schema, example: &str, import: Option<&str>) -> String {
    let text = &block(schema).description;
    let first = text.lines().next().unwrap_or_default();
    let mut out = format!(
        "---\npage_title: \"{title}\"\nsubcategory: \"\"\ndescription: |-\n  {first}\n---\n\n# {heading}\n\n{text}\n"
    );
    write!(out, "\n## Example Usage\n\n```terraform\n{}\n```\n\n## Schema\n", example.trim_end()).unwrap();
    reference(block(schema), "###", "nestedblock", &mut out);
    if let Some(import) = import {
        write!(out, "\n## Import\n\n```shell\n{}\n```\n", import.trim_end()).unwrap();
    }
    out
}

fn function_type(json: &[u8]) -> String {
    type_in_words(&serde_json::from_slice(json).unwrap()).to_lowercase()
}

/// A function's page in the form that the registry reads.
fn function_page(name: &str, function: &pb::Function, example: &str) -> String {
    let mut out = format!(
        "---\npage_title: \"{name} function - {NAME}\"\nsubcategory: \"\"\ndescription: |-\n  {}\n---\n\n# function: \
         {name}\n\n{}\n",
        function.summary, function.description
    );
    write!(out, "\n## Example Usage\n\n```terraform\n{}\n```\n", example.trim_end()).unwrap();
    let mut parameters: Vec<String> =
        function.parameters.iter().map(|p| format!("{} {}", p.name, function_type(&p.r#type))).collect();
    parameters
        .extend(function.variadic_parameter.iter().map(|p| format!("{} {}...", p.name, function_type(&p.r#type))));
    let returns = function_type(&function.r#return.as_ref().unwrap().r#type);
    write!(out, "\n## Signature\n\n```text\n{name}({}) {returns}\n```\n\n## Arguments\n\n", parameters.join(", "))
        .unwrap();
    for (index, parameter) in function.parameters.iter().chain(&function.variadic_parameter).enumerate() {
        let kind = if index < function.parameters.len() { "" } else { "Variadic, " };
        let ty = type_in_words(&serde_json::from_slice(&parameter.r#type).unwrap());
        writeln!(out, "{}. `{}` ({kind}{ty}) {}", index + 1, parameter.name, parameter.description).unwrap();
    }
    out
}

#[tokio::test]
async fn the_registry_documentation_is_up_to_date() {
    let schemas = schemas().await;
    let mut wanted = BTreeMap::new();
    let index =
        page("lifeboat Provider", "lifeboat Provider", &schemas.provider, &example("provider/provider.tf"), None);
    wanted.insert("index.md".to_owned(), index);
    for (name, schema) in &schemas.resources {
        let body = example(&format!("resources/{name}/resource.tf"));
        let import = example(&format!("resources/{name}/import.sh"));
        let text =
            page(&format!("{name} Resource - {NAME}"), &format!("{name} (Resource)"), schema, &body, Some(&import));
        let short = name.strip_prefix("lifeboat_").unwrap();
        wanted.insert(format!("resources/{short}.md"), text);
    }
    for (name, schema) in &schemas.data_sources {
        let body = example(&format!("data-sources/{name}/data-source.tf"));
        let text = page(&format!("{name} Data Source - {NAME}"), &format!("{name} (Data Source)"), schema, &body, None);
        let short = name.strip_prefix("lifeboat_").unwrap();
        wanted.insert(format!("data-sources/{short}.md"), text);
    }
    for (name, schema) in &schemas.actions {
        let body = example(&format!("actions/{name}/action.tf"));
        let text = page(&format!("{name} Action - {NAME}"), &format!("{name} (Action)"), schema, &body, None);
        let short = name.strip_prefix("lifeboat_").unwrap();
        wanted.insert(format!("actions/{short}.md"), text);
    }
    for (name, schema) in &schemas.ephemeral {
        let body = example(&format!("ephemeral-resources/{name}/ephemeral-resource.tf"));
        let text = page(
            &format!("{name} Ephemeral Resource - {NAME}"),
            &format!("{name} (Ephemeral Resource)"),
            schema,
            &body,
            None,
        );
        let short = name.strip_prefix("lifeboat_").unwrap();
        wanted.insert(format!("ephemeral-resources/{short}.md"), text);
    }
    for (name, function) in &schemas.functions {
        let body = example(&format!("functions/{name}/function.tf"));
        wanted.insert(format!("functions/{name}.md"), function_page(name, function, &body));
    }
    hold_against(&root().join("docs"), &wanted);
}

fn snapshot(block: &pb::schema::Block, indent: &str, out: &mut String) {
    for attribute in &block.attributes {
        let flags: Vec<&str> = [
            (attribute.required, "required"),
            (attribute.optional, "optional"),
            (attribute.computed, "computed"),
            (attribute.sensitive, "sensitive"),
            (attribute.write_only, "write-only"),
            (attribute.deprecated, "deprecated"),
        ]
        .into_iter()
        .filter_map(|(set, word)| set.then_some(word))
        .collect();
        writeln!(out, "{indent}{}: {} [{}]", attribute.name, type_of(attribute), flags.join(" ")).unwrap();
    }
    for nested in &block.block_types {
        let nesting = nested.nesting().as_str_name().to_lowercase();
        writeln!(out, "{indent}{} {{{nesting}, {}..{}}}", nested.type_name, nested.min_items, nested.max_items)
            .unwrap();
        snapshot(nested.block.as_ref().unwrap(), &format!("{indent}  "), out);
    }
}

#[tokio::test]
async fn the_schemas_are_as_they_were() {
    let schemas = schemas().await;
    let mut wanted = BTreeMap::new();
    let all = std::iter::once(("provider".to_owned(), &schemas.provider))
        .chain(schemas.resources.iter().map(|(name, schema)| (format!("resource {name}"), schema)))
        .chain(schemas.data_sources.iter().map(|(name, schema)| (format!("data {name}"), schema)))
        .chain(schemas.actions.iter().map(|(name, schema)| (format!("action {name}"), schema)))
        .chain(schemas.ephemeral.iter().map(|(name, schema)| (format!("ephemeral {name}"), schema)));
    for (name, schema) in all {
        let mut text = format!("{name}, version {}\n", schema.version);
        snapshot(block(schema), "", &mut text);
        wanted.insert(format!("{}.txt", name.replace(' ', "-")), text);
    }
    for (name, function) in &schemas.functions {
        let mut text = format!("function {name}\n");
        for parameter in function.parameters.iter().chain(&function.variadic_parameter) {
            let ty: serde_json::Value = serde_json::from_slice(&parameter.r#type).unwrap();
            writeln!(text, "{}: {ty}", parameter.name).unwrap();
        }
        let returns: serde_json::Value = serde_json::from_slice(&function.r#return.as_ref().unwrap().r#type).unwrap();
        writeln!(text, "-> {returns}, variadic: {}", function.variadic_parameter.is_some()).unwrap();
        wanted.insert(format!("function-{name}.txt"), text);
    }
    hold_against(&root().join("tests/schemas"), &wanted);
}

#[tokio::test]
async fn everything_is_described_and_can_wait() {
    let schemas = schemas().await;
    let undescribed = |block: &pb::schema::Block| {
        let attributes = block.attributes.iter();
        attributes.filter(|attribute| attribute.description.is_empty()).map(|a| a.name.clone()).collect::<Vec<_>>()
    };
    let all = schemas.resources.iter().chain(&schemas.data_sources).chain(&schemas.actions).chain(&schemas.ephemeral);
    for (name, schema) in all.chain([(&NAME.to_owned(), &schemas.provider)]) {
        assert!(!block(schema).description.is_empty(), "{name}");
        assert_eq!(undescribed(block(schema)), Vec::<String>::new(), "{name}");
        for nested in &block(schema).block_types {
            assert_eq!(
                undescribed(nested.block.as_ref().unwrap()),
                Vec::<String>::new(),
                "{name}.{}",
                nested.type_name
            );
        }
    }
    for (name, schema) in &schemas.resources {
        assert!(block(schema).attributes.iter().any(|attribute| attribute.name == "id"), "{name}");
        assert!(block(schema).block_types.iter().any(|nested| nested.type_name == "timeouts"), "{name}");
    }
}

#[test]
fn the_registry_is_told_the_protocol() {
    let text = std::fs::read_to_string(root().join("terraform-registry-manifest.json")).unwrap();
    let manifest: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(manifest["metadata"]["protocol_versions"], serde_json::json!(["5.0"]));
}
