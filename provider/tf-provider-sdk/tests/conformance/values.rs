//! Every type: full, awkward, empty, null, unknown, partly unknown, refined.

use std::fmt::Write as _;

use serde_json::Value as Json;

use super::common::{PLAN, Workspace};
use super::{attached, everything, main_with, refused, torture};

/// The name of an attribute, and three values of its type: a full one, an awkward one, an empty one.
const VALUES: &[(&str, [&str; 3])] = &[
    ("bool", ["true", "false", "false"]),
    ("number", ["0.1", "123456789012345678901234567890.5", "0"]),
    ("string", ["\"ordinary\"", UNICODE, "\"\""]),
    ("dynamic", ["{ a = [1, \"x\", true], b = null, c = {} }", "[[], {}, null, 1e40]", "{}"]),
    ("list_string", ["[\"b\", \"a\", \"b\"]", "[\"\", \"\\u0000\", \"e\\u0301\"]", "[]"]),
    ("list_number", ["[3, 1e100, -0.000000001]", "[1 / 3, 18446744073709551616, -9223372036854775809]", "[]"]),
    ("list_list", ["[[true], [], [false, null]]", "[[]]", "[]"]),
    (
        "list_object",
        ["[{ text = \"x\", number = 1, flag = true }]", "[{ text = null, number = null, flag = null }]", "[]"],
    ),
    ("set_string", ["[\"z\", \"a\", \"a\"]", "[\"\", \"ß\", \"ss\"]", "[]"]),
    ("set_number", ["[2, 1.5, 1.50, 1e20]", "[0.1, 0.2, 0.1 + 0.2, 0.3]", "[]"]),
    (
        "set_object",
        [
            "[{ text = \"x\", number = 1, flag = true }, { text = \"x\", number = 1.0, flag = true }]",
            "[{ text = null, number = 0, flag = null }, { text = \"\", number = 0, flag = null }]",
            "[]",
        ],
    ),
    ("map_string", ["{ a = \"1\", \"with space\" = \"\" }", "{ \"ü.\\\"q\\\"[0]\" = \"x\", \"\" = null }", "{}"]),
    ("map_set", ["{ a = [1, 2], b = [] }", "{ c = null }", "{}"]),
    ("map_object", ["{ a = { text = \"t\", number = 1, flag = null } }", "{ a = null }", "{}"]),
    (
        "object",
        [
            "{ text = \"t\", number = 2, flag = false }",
            "{ text = \"\", number = -0.5, flag = null }",
            "{ text = null, number = null, flag = null }",
        ],
    ),
    ("tuple", ["[\"t\", 3, true]", "[\"\", 0, false]", "[null, null, null]"]),
    ("deep", ["[{ k = { a = [[1], [2, 3], []] } }, {}]", "[{ k = { a = null }, l = null }]", "[]"]),
];

/// Combining characters, other directions, astral planes, control characters, and what HCL must not expand.
const UNICODE: &str = r#""e\u0301 日本語 \U0001F3F4\u200D\u2620\uFE0F \u202Eright to left\u202C \uFEFF\u2028 $${no} %%{no} \\ \"q\" \t\n end""#;

/// What of the values column `which` the resource has; `None` sets nothing.
fn column(name: &str, which: Option<usize>) -> String {
    let set = which.map(|which| VALUES.iter().map(move |(name, values)| (*name, values[which].to_owned())));
    everything(name, set.into_iter().flatten(), "")
}

/// Everything from the computed copies of another resource: unknown until that is applied.
fn copied(name: &str, from: &str) -> String {
    everything(name, VALUES.iter().map(|(name, _)| (*name, format!("torture_everything.{from}.{name}_again"))), "")
}

fn seeded(name: &str) -> String {
    let seed = "terraform_data.seed.output";
    let partly = [
        ("string", format!("\"prefix-${{{seed}}}\"")),
        ("dynamic", format!("{{ known = 1, unknown = [{seed}] }}")),
        ("list_string", format!("[\"a\", {seed}]")),
        ("set_string", format!("[\"a\", {seed}, \"${{{seed}}}!\"]")),
        (
            "set_object",
            format!("[{{ text = {seed}, number = 1, flag = null }}, {{ text = \"x\", number = 1, flag = null }}]"),
        ),
        ("map_string", format!("{{ a = {seed}, b = \"b\" }}")),
        ("object", format!("{{ text = {seed}, number = length({seed}), flag = {seed} == \"seed\" }}")),
        ("tuple", format!("[{seed}, 1, true]")),
        ("number", format!("length({seed}) + 0.5")),
        ("list_number", format!("[for c in split(\"\", {seed}) : length(c)]")),
    ];
    everything(name, partly, "")
}

fn assert_copies(workspace: &Workspace, name: &str) {
    let attributes = workspace.attributes("torture_everything", name);
    for (attribute, _) in torture::types() {
        // Text, not numbers: every digit counts.
        let (value, again) = (&attributes[attribute], &attributes[format!("{attribute}_again")]);
        assert_eq!(value.to_string(), again.to_string(), "{name}.{attribute}");
    }
}

#[test]
fn the_table_has_every_attribute() {
    let (mut there, mut tested): (Vec<_>, Vec<_>) =
        (torture::types().into_iter().map(|(name, _)| name).collect(), VALUES.iter().map(|(name, _)| *name).collect());
    there.sort_unstable();
    tested.sort_unstable();
    assert_eq!(there, tested);
}

#[tokio::test]
async fn every_type_goes_round_exactly() {
    let parts = [
        column("full", Some(0)),
        column("awkward", Some(1)),
        column("empty", Some(2)),
        column("null", None),
        copied("after_full", "full"),
        copied("after_awkward", "awkward"),
        copied("after_null", "null"),
        "resource \"terraform_data\" \"seed\" { input = \"seed\" }\n".to_owned(),
        seeded("seeded"),
    ];
    let (server, workspace) = attached(&parts.concat()).await;
    workspace.settle().await;
    for name in ["full", "awkward", "empty", "null", "after_full", "after_awkward", "after_null", "seeded"] {
        assert_copies(&workspace, name);
    }
    let of = |name: &str| workspace.attributes("torture_everything", name);
    let (full, awkward, empty, null) = (of("full"), of("awkward"), of("empty"), of("null"));
    assert_eq!(full["number"].to_string(), "0.1");
    assert_eq!(awkward["number"].to_string(), "123456789012345678901234567890.5");
    let text = awkward["string"].as_str().unwrap();
    // Terraform itself composes what can be composed, before anyone sees it.
    assert!(text.starts_with("\u{e9} 日本語 \u{1f3f4}\u{200d}\u{2620}\u{fe0f} \u{202e}right"), "{text:?}");
    assert!(text.ends_with("${no} %{no} \\ \"q\" \t\n end"), "{text:?}");
    for (attribute, _) in VALUES {
        assert!(null[*attribute].is_null(), "{attribute} is not null");
        assert!(!empty[*attribute].is_null(), "{attribute} is not empty but null");
    }
    assert_eq!(full["set_number"].as_array().unwrap().len(), 3);
    assert_eq!(of("seeded")["string"], "prefix-seed");
    assert_eq!(full["derived"], "derived from full");
    for (from, to) in [("full", "after_full"), ("awkward", "after_awkward")] {
        let (from, to) = (of(from), of(to));
        for (attribute, _) in VALUES {
            assert_eq!(from[*attribute].to_string(), to[*attribute].to_string(), "{attribute}");
        }
    }

    // In place, from each kind to another: full to null, null to full, empty to awkward, awkward to empty.
    let parts = [
        column("full", None),
        column("awkward", Some(2)),
        column("empty", Some(1)),
        column("null", Some(0)),
        copied("after_full", "full"),
        copied("after_awkward", "awkward"),
        copied("after_null", "null"),
        "resource \"terraform_data\" \"seed\" { input = \"another\" }\n".to_owned(),
        seeded("seeded"),
    ];
    workspace.write(&main_with(&parts.concat()));
    workspace.settle().await;
    for name in ["full", "awkward", "empty", "null", "after_full", "after_awkward", "after_null", "seeded"] {
        assert_copies(&workspace, name);
    }
    assert!(of("after_full")["deep"].is_null());
    assert_eq!(of("seeded")["string"], "prefix-another");
    workspace.destroy().await;
    assert_eq!(workspace.files("data"), Vec::<String>::new());
    server.shutdown().await;
}

#[tokio::test]
async fn data_sources_and_functions_give_back_what_they_got() {
    let mut body = String::new();
    for (which, suffix) in [(0, "full"), (1, "awkward"), (2, "empty")] {
        for (name, values) in VALUES {
            let value = values[which];
            write!(
                body,
                "data \"torture_mirror\" \"{name}_{suffix}\" {{\n  value = {value}\n}}\n\
                 output \"{name}_{suffix}\" {{\n  value = jsonencode(data.torture_mirror.{name}_{suffix}.value_again) == \
                 jsonencode({value}) && jsonencode(provider::torture::same({value})) == jsonencode({value})\n}}\n"
            )
            .unwrap();
        }
    }
    body.push_str(
        "output \"longest\" { value = provider::torture::longest(2, \"a\", \"ccc\", \"bb\") }\n\
         output \"null\" { value = provider::torture::or_null(null)[0].was_null }\n\
         output \"exact\" { value = provider::torture::or_null(0.1)[0].n }\n",
    );
    let (server, workspace) = attached(&body).await;
    workspace.settle().await;
    let outputs: Json = serde_json::from_str(&workspace.expect(0, &["output", "-json"]).await).unwrap();
    for (name, output) in outputs.as_object().unwrap() {
        match name.as_str() {
            "longest" => assert_eq!(output["value"], "ccc"),
            "exact" => assert_eq!(output["value"].to_string(), "0.1"),
            _ => assert_eq!(output["value"], true, "{name}"),
        }
    }
    // A wrong argument is blamed at plan, by the validator and by the function.
    for (call, said) in [
        ("longest(0, \"\")", "The value must have 1 to 100 characters, got 0."),
        ("longest(9, \"abc\")", "None has 9 characters."),
    ] {
        workspace.write(&main_with(&format!("output \"x\" {{ value = provider::torture::{call} }}\n")));
        let stderr = refused(&workspace, &PLAN).await;
        assert!(stderr.contains(said), "{stderr}");
    }
    server.shutdown().await;
}

#[tokio::test]
async fn what_is_known_of_the_unknown_is_used_at_plan() {
    let body = [
        column("new", Some(0)),
        "output \"has_id\" { value = torture_everything.new.id != null }\n\
         output \"id\" { value = torture_everything.new.id }\n"
            .to_owned(),
    ];
    let (server, workspace) = attached(&body.concat()).await;
    let plan = workspace.plan().await;
    assert_eq!(plan["output_changes"]["has_id"]["after"], true);
    assert_eq!(plan["output_changes"]["id"]["after_unknown"], true);
    server.shutdown().await;
}
