//! Which crate may depend on which: the architecture's edges, held against what cargo says.
//!
//! The table is the architecture. A new edge is a decision: it changes this table and `ARCHITECTURE.md` together.
//! Dev-dependencies may point wherever a crate could already reach, and to the simulation; nothing shipped may.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use lifeboat_acceptance::binaries::repository;
use lifeboat_acceptance::command::Run;
use serde_json::{Value, json};

/// Every crate of the workspace and the crates of ours that it may depend on.
const ALLOWED: &[(&str, &[&str])] = &[
    ("lifeboat-model", &[]),
    ("lifeboat-format", &["lifeboat-model"]),
    ("lifeboat-vault", &["lifeboat-format", "lifeboat-model"]),
    ("lifeboat-engine", &["lifeboat-vault", "lifeboat-format", "lifeboat-model"]),
    ("lifeboat-export", &["lifeboat-engine", "lifeboat-model"]),
    ("lifeboat-iscsi", &["lifeboat-model"]),
    ("lifeboat-program", &[]),
    ("lifeboat-compute", &["lifeboat-program", "lifeboat-model"]),
    ("lifeboat-api", &["lifeboat-model"]),
    ("lifeboat-identity", &["lifeboat-api", "lifeboat-model"]),
    (
        "lifeboat-agent",
        &["lifeboat-identity", "lifeboat-program", "lifeboat-export", "lifeboat-engine", "lifeboat-model"],
    ),
    ("lifeboat-appliance", &[]),
    ("lifeboat-web", &[]),
    (
        "lifeboat-server",
        &[
            "lifeboat-api",
            "lifeboat-identity",
            "lifeboat-compute",
            "lifeboat-program",
            "lifeboat-export",
            "lifeboat-iscsi",
            "lifeboat-engine",
            "lifeboat-vault",
            "lifeboat-web",
            "lifeboat-model",
        ],
    ),
    (
        "lifeboat-cli",
        &[
            "lifeboat-appliance",
            "lifeboat-iscsi",
            "lifeboat-server",
            "lifeboat-agent",
            "lifeboat-api",
            "lifeboat-identity",
            "lifeboat-compute",
            "lifeboat-export",
            "lifeboat-engine",
            "lifeboat-vault",
            "lifeboat-format",
            "lifeboat-model",
        ],
    ),
    ("lifeboat-sim", &["lifeboat-engine", "lifeboat-vault", "lifeboat-format", "lifeboat-model"]),
    ("lifeboat-fuzz", &["lifeboat-export", "lifeboat-vault", "lifeboat-format", "lifeboat-model"]),
    ("tf-provider-sdk", &[]),
    ("terraform-provider-lifeboat", &["tf-provider-sdk", "lifeboat-api"]),
    ("lifeboat-lab", &[]),
    ("lifeboat-acceptance", &["lifeboat-api", "lifeboat-lab"]),
    ("lifeboat-imager", &[]),
];

/// Test doubles, scenarios and storage servers: for tests of the crates below, never in what is shipped.
const DEV_ONLY: &[&str] = &["lifeboat-sim", "lifeboat-lab"];
const MAY_SIMULATE: &[&str] =
    &["lifeboat-vault", "lifeboat-engine", "lifeboat-export", "lifeboat-compute", "lifeboat-server", "lifeboat-cli"];

/// Every edge that the table doesn't allow, as a sentence each.
fn violations(metadata: &Value) -> Vec<String> {
    let allowed: BTreeMap<&str, BTreeSet<&str>> =
        ALLOWED.iter().map(|(name, edges)| (*name, edges.iter().copied().collect())).collect();
    let packages: Vec<&Value> = metadata["packages"].as_array().into_iter().flatten().collect();
    let name_of = |package: &Value| package["name"].as_str().unwrap_or_default().to_owned();
    let ours: BTreeSet<String> = packages.iter().map(|package| name_of(package)).collect();
    let mut found = Vec::new();
    for package in packages {
        let from = name_of(package);
        let Some(edges) = allowed.get(from.as_str()) else {
            found.push(format!("{from} is not in the table of crates"));
            continue;
        };
        for dependency in package["dependencies"].as_array().into_iter().flatten() {
            let to = name_of(dependency);
            if !ours.contains(&to) || edges.contains(to.as_str()) || to == from {
                continue;
            }
            let dev = dependency["kind"] == "dev";
            let simulates = DEV_ONLY.contains(&to.as_str()) && MAY_SIMULATE.contains(&from.as_str());
            if dev && (simulates || reachable(&allowed, &from).contains(to.as_str())) {
                continue;
            }
            let kind = dependency["kind"].as_str().unwrap_or("normal");
            found.push(format!("{from} may not depend on {to} ({kind})"));
        }
    }
    found
}

/// All crates below `from`, directly or not.
fn reachable<'a>(allowed: &BTreeMap<&'a str, BTreeSet<&'a str>>, from: &str) -> BTreeSet<&'a str> {
    let mut seen = BTreeSet::new();
    let mut next: Vec<&str> = allowed.get(from).into_iter().flatten().copied().collect();
    while let Some(name) = next.pop() {
        if seen.insert(name) {
            next.extend(allowed.get(name).into_iter().flatten().copied());
        }
    }
    seen
}

#[test]
fn the_workspace_has_only_the_edges_of_the_architecture() {
    let printed = Run::new(env!("CARGO"))
        .args(["metadata", "--format-version", "1", "--no-deps", "--locked", "--offline"])
        .dir(repository())
        .within(Duration::from_secs(60))
        .ok()
        .unwrap();
    let metadata: Value = serde_json::from_str(&printed).unwrap();
    let names: BTreeSet<&str> =
        metadata["packages"].as_array().unwrap().iter().map(|package| package["name"].as_str().unwrap()).collect();
    let table: BTreeSet<&str> = ALLOWED.iter().map(|(name, _)| *name).collect();
    assert_eq!(names, table, "the table lists exactly the crates of the workspace");
    let found = violations(&metadata);
    assert!(found.is_empty(), "{}", found.join("\n"));
}

#[test]
fn the_table_itself_has_no_cycle() {
    let allowed: BTreeMap<&str, BTreeSet<&str>> =
        ALLOWED.iter().map(|(name, edges)| (*name, edges.iter().copied().collect())).collect();
    for (name, _) in ALLOWED {
        assert!(!reachable(&allowed, name).contains(name), "{name} can reach itself");
    }
}

fn planted(from: &str, to: &str, kind: Option<&str>) -> Value {
    json!({"packages": [
        {"name": from, "dependencies": [{"name": to, "kind": kind}, {"name": "serde", "kind": null}]},
        {"name": to, "dependencies": []},
    ]})
}

#[test]
fn planted_violations_are_found() {
    for (from, to, kind) in [
        ("lifeboat-model", "lifeboat-format", None),
        ("lifeboat-export", "lifeboat-vault", None),
        ("lifeboat-compute", "lifeboat-api", None),
        ("lifeboat-api", "lifeboat-engine", None),
        ("tf-provider-sdk", "lifeboat-model", None),
        ("terraform-provider-lifeboat", "lifeboat-server", Some("dev")),
        ("lifeboat-cli", "lifeboat-sim", None),
        ("lifeboat-vault", "lifeboat-lab", None),
        ("lifeboat-server", "lifeboat-sim", Some("build")),
        ("lifeboat-format", "lifeboat-sim", Some("dev")),
    ] {
        let found = violations(&planted(from, to, kind));
        assert_eq!(found.len(), 1, "{from} -> {to} ({kind:?}) should be found: {found:?}");
        assert!(found[0].contains(from) && found[0].contains(to), "{found:?}");
    }
    let stranger = violations(&planted("lifeboat-utils", "lifeboat-model", None));
    assert_eq!(stranger, ["lifeboat-utils is not in the table of crates"]);
}

#[test]
fn allowed_edges_pass() {
    for (from, to, kind) in [
        ("lifeboat-vault", "lifeboat-format", None),
        ("lifeboat-export", "lifeboat-vault", Some("dev")),
        ("lifeboat-engine", "lifeboat-sim", Some("dev")),
        ("lifeboat-vault", "lifeboat-lab", Some("dev")),
    ] {
        assert_eq!(violations(&planted(from, to, kind)), Vec::<String>::new());
    }
}
