//! `lifeboat terraform export`: configuration and import blocks for everything that is declared.
//!
//! For people who lost their repository in the disaster, and for those who began with the command line. What comes out is
//! what the provider would read back: a plan right after it imports everything and changes nothing.

mod hcl;

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use lifeboat_api::Client;
use serde_json::{Map, Value, json};

use self::hcl::{Body, Expression};
use crate::connect::ConnectionArgs;
use crate::failure::{Failure, Result};
use crate::output::Output;
use crate::resolve;

/// Write Terraform configuration for what is declared.
#[derive(Args, Debug)]
pub(crate) struct TerraformArgs {
    #[command(flatten)]
    connection: ConnectionArgs,
    #[command(subcommand)]
    verb: TerraformVerb,
}

#[derive(Subcommand, Debug)]
enum TerraformVerb {
    /// Configuration and import blocks for everything that is declared, on standard output or as files
    Export {
        /// Only what belongs to this vault, by id or name
        #[arg(long, value_name = "ID|NAME")]
        vault: Option<String>,
        /// A directory for the files versions.tf, main.tf and imports.tf; none of them may be there
        #[arg(long, value_name = "DIR")]
        out: Option<PathBuf>,
    },
}

/// A collection of the API and the resource type that manages its objects.
struct Kind {
    path: &'static str,
    resource: &'static str,
}

/// What is exported, each after what it refers to.
const KINDS: [Kind; 11] = [
    Kind { path: "/v1/vaults", resource: "lifeboat_vault" },
    Kind { path: "/v1/sites", resource: "lifeboat_site" },
    Kind { path: "/v1/gateways", resource: "lifeboat_gateway" },
    Kind { path: "/v1/policies", resource: "lifeboat_replication_policy" },
    Kind { path: "/v1/groups", resource: "lifeboat_consistency_group" },
    Kind { path: "/v1/volumes", resource: "lifeboat_volume" },
    Kind { path: "/v1/networks", resource: "lifeboat_network" },
    Kind { path: "/v1/network-mappings", resource: "lifeboat_network_mapping" },
    Kind { path: "/v1/machines", resource: "lifeboat_machine" },
    Kind { path: "/v1/plans", resource: "lifeboat_recovery_plan" },
    Kind { path: "/v1/drills", resource: "lifeboat_drill" },
];

const HEAD: &str = "\
# The endpoints, the token and the certificate come from LIFEBOAT_ENDPOINT, LIFEBOAT_TOKEN_FILE and
# LIFEBOAT_CA_CERT.
";

pub(crate) async fn run(args: TerraformArgs, output: Output) -> Result<()> {
    let client = args.connection.client()?;
    let TerraformVerb::Export { vault, out } = args.verb;
    let objects = declared(&client, vault.as_deref()).await?;
    let files = files(&objects);
    if let Some(dir) = out {
        let written = write(&dir, &files)?;
        let document = json!({ "files": written, "resources": objects.len() });
        return output.show(&document, || {
            let dir = dir.display();
            format!(
                "{} resources written to {dir}: go on with `terraform -chdir={dir} init` and `terraform -chdir={dir} plan`",
                objects.len()
            )
        });
    }
    output.show(&files, || files.values().map(String::as_str).collect::<Vec<_>>().join("\n"))
}

/// An object as it is declared.
#[derive(Debug)]
struct Declared {
    resource: &'static str,
    id: String,
    label: String,
    spec: Map<String, Value>,
}

/// Everything that is declared, or what belongs to one vault; each after what it refers to.
async fn declared(client: &Client, vault: Option<&str>) -> Result<Vec<Declared>> {
    let mut belongs: Option<BTreeSet<String>> = match vault {
        Some(text) => Some(BTreeSet::from([resolve::vault(client, Some(text)).await?.id.to_string()])),
        None => None,
    };
    let mut labels = BTreeSet::new();
    let mut found = Vec::new();
    for kind in KINDS {
        let mut all: Vec<Value> = client.list(kind.path, &[]).await?;
        // The same order whatever the order of the ids is, so that two exports can be compared.
        all.sort_by(|a, b| a["spec"]["name"].as_str().cmp(&b["spec"]["name"].as_str()));
        for mut object in all {
            // The group that a single volume has for itself comes with the volume.
            let implicit = object["status"]["implicit"] == true;
            let (Some(id), Value::Object(spec)) = (object["id"].as_str().map(str::to_owned), object["spec"].take())
            else {
                continue;
            };
            if implicit {
                continue;
            }
            if let Some(ids) = &mut belongs {
                let refers = spec.values().filter_map(Value::as_str).any(|text| ids.contains(text));
                if !refers && !ids.contains(&id) {
                    continue;
                }
                ids.insert(id.clone());
            }
            let label = label(kind.resource, spec.get("name").and_then(Value::as_str), &mut labels);
            found.push(Declared { resource: kind.resource, id, label, spec });
        }
    }
    Ok(found)
}

/// A label that Terraform takes and that no other resource of the type has.
fn label(resource: &str, name: Option<&str>, taken: &mut BTreeSet<(String, String)>) -> String {
    let plain = |c: char| if c.is_ascii_alphanumeric() || c == '_' || c == '-' { c.to_ascii_lowercase() } else { '_' };
    let mut base: String = name.unwrap_or("this").chars().map(plain).collect();
    if !base.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_') {
        base.insert(0, '_');
    }
    let mut label = base.clone();
    let mut number = 1;
    while !taken.insert((resource.to_owned(), label.clone())) {
        number += 1;
        label = format!("{base}_{number}");
    }
    label
}

/// The files by name.
fn files(objects: &[Declared]) -> BTreeMap<&'static str, String> {
    let places: BTreeMap<&str, String> =
        objects.iter().map(|object| (object.id.as_str(), format!("{}.{}", object.resource, object.label))).collect();
    let resources: Vec<String> = objects
        .iter()
        .map(|object| {
            let mut body = Body::default();
            if object.resource == "lifeboat_vault" {
                body.comment(
                    "What opens the vault, and its storage's credentials, are never read back: the gateway has them.",
                );
            }
            fill(&mut body, object, &places);
            hcl::block("resource", &[object.resource, &object.label], &body)
        })
        .collect();
    let imports: Vec<String> = objects
        .iter()
        .map(|object| {
            let mut body = Body::default();
            body.attribute("to", Expression::Reference(format!("{}.{}", object.resource, object.label)));
            body.attribute("id", Expression::Literal(Value::String(object.id.clone())));
            hcl::block("import", &[], &body)
        })
        .collect();
    BTreeMap::from([("versions.tf", versions()), ("main.tf", resources.join("\n")), ("imports.tf", imports.join("\n"))])
}

fn versions() -> String {
    let mut lifeboat = Body::default();
    let literal = |text: &str| Expression::Literal(Value::String(text.to_owned()));
    lifeboat.attribute("source", literal("lifeboat-dr/lifeboat"));
    lifeboat.attribute("version", literal(&format!(">= {}", env!("CARGO_PKG_VERSION"))));
    let mut providers = Body::default();
    providers.attribute("lifeboat", Expression::Object(lifeboat));
    let mut terraform = Body::default();
    terraform.attribute("required_version", literal(">= 1.11"));
    terraform.block("required_providers", providers);
    let terraform = hcl::block("terraform", &[], &terraform);
    format!("{terraform}\n{HEAD}{}", hcl::block("provider", &["lifeboat"], &Body::default()))
}

/// The arguments of a resource: those of the API's object, with the names and units that the provider has for them.
fn fill(body: &mut Body, object: &Declared, places: &BTreeMap<&str, String>) {
    for (name, value) in &object.spec {
        match name.strip_suffix("_bytes") {
            Some(what) if object.resource == "lifeboat_volume" => {
                if let Some(bytes) = value.as_u64() {
                    body.attribute(&format!("{what}_gib"), Expression::Number(gib(bytes)));
                }
            }
            _ => put(body, name, value, places),
        }
    }
}

/// One value: objects are blocks, lists of objects are repeated blocks, what is absent is left out, and ids of what is
/// exported too are references to it.
fn put(body: &mut Body, name: &str, value: &Value, places: &BTreeMap<&str, String>) {
    let expression = |value: &Value| match value.as_str().and_then(|text| places.get(text)) {
        Some(place) => Expression::Reference(format!("{place}.id")),
        None => Expression::Literal(value.clone()),
    };
    match value {
        Value::Null => {}
        Value::Object(fields) => body.block(name, nested(fields, places)),
        Value::Array(items) if items.is_empty() => {}
        Value::Array(items) if items.iter().all(Value::is_object) => {
            for fields in items.iter().filter_map(Value::as_object) {
                body.block(name, nested(fields, places));
            }
        }
        Value::Array(items) => body.attribute(name, Expression::List(items.iter().map(expression).collect())),
        _ => body.attribute(name, expression(value)),
    }
}

fn nested(fields: &Map<String, Value>, places: &BTreeMap<&str, String>) -> Body {
    let mut body = Body::default();
    for (name, value) in fields {
        put(&mut body, name, value, places);
    }
    body
}

/// Bytes in GiB, to the last digit: a size that was rounded would be another size.
fn gib(bytes: u64) -> String {
    const GIB: u64 = 1 << 30;
    let mut digits = String::new();
    let mut rest = bytes % GIB;
    while rest > 0 {
        rest *= 10;
        digits.push_str(&(rest / GIB).to_string());
        rest %= GIB;
    }
    let whole = bytes / GIB;
    if digits.is_empty() { whole.to_string() } else { format!("{whole}.{digits}") }
}

/// Writes the files; none that is there already is touched, and then none is written.
fn write(dir: &Path, files: &BTreeMap<&'static str, String>) -> Result<Vec<String>> {
    let failed =
        |path: &Path, error: &std::io::Error| Failure::failed(format!("{} can't be written: {error}", path.display()));
    std::fs::create_dir_all(dir).map_err(|error| failed(dir, &error))?;
    if let Some(there) = files.keys().map(|name| dir.join(name)).find(|path| path.exists()) {
        return Err(Failure::new(
            crate::failure::Exit::Conflict,
            format!(
                "{} is there already, and nothing was written: choose another directory with --out",
                there.display()
            ),
        ));
    }
    files
        .iter()
        .map(|(name, text)| {
            let path = dir.join(name);
            let written = File::create_new(&path).and_then(|mut file| file.write_all(text.as_bytes()));
            written.map(|()| path.display().to_string()).map_err(|error| failed(&path, &error))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn object(resource: &'static str, id: &str, label: &str, spec: Value) -> Declared {
        let Value::Object(spec) = spec else { panic!("{spec} is no object") };
        Declared { resource, id: id.to_owned(), label: label.to_owned(), spec }
    }

    #[test]
    fn objects_become_resources_that_refer_to_each_other() {
        let objects = [
            object(
                "lifeboat_vault",
                "vlt-1",
                "main",
                json!({ "name": "main", "encryption": { "key_source": "kms", "key_file": null } }),
            ),
            object(
                "lifeboat_replication_policy",
                "pol-1",
                "standard",
                json!({
                    "vault_id": "vlt-1",
                    "name": "standard",
                    "retention": [{ "every": "all", "for": "1h" }, { "every": "5m", "for": "24h" }],
                    "bandwidth_limit": [],
                    "compression": "auto",
                }),
            ),
            object(
                "lifeboat_volume",
                "vol-1",
                "db",
                json!({ "name": "db", "size_bytes": 1_610_612_736_u64, "cache_bytes": null }),
            ),
        ];
        let files = files(&objects);
        let wanted = r#"resource "lifeboat_vault" "main" {
  # What opens the vault, and its storage's credentials, are never read back: the gateway has them.
  name = "main"

  encryption {
    key_source = "kms"
  }
}

resource "lifeboat_replication_policy" "standard" {
  compression = "auto"
  name        = "standard"
  vault_id    = lifeboat_vault.main.id

  retention {
    every = "all"
    for   = "1h"
  }

  retention {
    every = "5m"
    for   = "24h"
  }
}

resource "lifeboat_volume" "db" {
  name     = "db"
  size_gib = 1.5
}
"#;
        assert_eq!(files["main.tf"], wanted);
        assert!(
            files["imports.tf"].starts_with("import {\n  to = lifeboat_vault.main\n  id = \"vlt-1\"\n}\n\nimport {")
        );
        assert!(files["versions.tf"].contains("provider \"lifeboat\" {}\n"), "{}", files["versions.tf"]);
    }

    #[test]
    fn labels_are_identifiers_and_unique_in_their_type() {
        let mut taken = BTreeSet::new();
        assert_eq!(label("a", Some("On-Prem 1"), &mut taken), "on-prem_1");
        assert_eq!(label("a", Some("on-prem 1"), &mut taken), "on-prem_1_2");
        assert_eq!(label("b", Some("on-prem 1"), &mut taken), "on-prem_1");
        assert_eq!(label("a", Some("1st"), &mut taken), "_1st");
        assert_eq!(label("a", Some("Zürich"), &mut taken), "z_rich");
        assert_eq!(label("a", None, &mut taken), "this");
    }

    #[test]
    fn sizes_lose_nothing() {
        assert_eq!(gib(3 << 30), "3");
        assert_eq!(gib((1 << 30) + (1 << 29)), "1.5");
        assert_eq!(gib(4096), "0.000003814697265625");
        assert_eq!(gib((1 << 46) - 4096), "65535.999996185302734375");
    }

    #[test]
    fn nothing_that_is_there_is_overwritten() {
        let dir = tempfile::tempdir().expect("a directory");
        let files = files(&[]);
        write(dir.path(), &files).expect("writes");
        std::fs::remove_file(dir.path().join("imports.tf")).expect("removes");
        let failure = write(dir.path(), &files).expect_err("two are there");
        assert!(failure.to_string().contains("is there already"), "{failure}");
        assert!(!dir.path().join("imports.tf").exists(), "then none is written");
    }
}
