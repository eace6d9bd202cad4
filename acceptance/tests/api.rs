//! A stranger's requests: the API's own description, and requests made from it by Schemathesis, right ones and wrong ones.
//! No answer is the gateway's fault, and all of them are as described.
//!
//! `CASES=N` tries N requests an operation instead of a few, `SEED=N` others.

use std::time::Duration;

use anyhow::{Context, Result};
use lifeboat_acceptance::command::Run;
use lifeboat_acceptance::gateway::Gateway;
use lifeboat_acceptance::hosts::{Cut, Host};
use lifeboat_acceptance::scratch::Scratch;

/// What no description can say, so that a request that fits it may be refused all the same, and what the protocol says
/// otherwise: without `If-Match` the answer is 428 (RFC 6585).
const NOT_CHECKED: &str = "positive_data_acceptance,missing_required_header";

/// Something of every kind, so that requests find what they are about. Returns the ids by the collections' names.
fn declare(gateway: &Gateway, dir: &std::path::Path) -> Result<Vec<(&'static str, String)>> {
    let run = |args: &[&str]| gateway.run(args)?.ok();
    std::fs::write(dir.join("pass"), "canary-correct-horse\n")?;
    let (pass, url) = (dir.join("pass").display().to_string(), format!("file://{}", dir.join("vault").display()));
    run(&["vault", "create", "--name", "offsite", "--passphrase-file", &pass, &url])?;
    run(&["site", "create", "--name", "home"])?;
    run(&["site", "create", "--name", "away"])?;
    run(&["gateway", "create", "--name", "primary", "--site", "home"])?;
    run(&["policy", "create", "--name", "standard", "--interval", "1s", "--retain", "all:1h"])?;
    run(&["volume", "create", "--name", "db", "--gateway", "primary", "--policy", "standard", "--size", "4MiB"])?;
    run(&["network", "create", "--name", "servers", "--site", "home", "--subnet", "a=10.20.0.0/24"])?;
    run(&["network", "create", "--name", "servers", "--site", "away", "--subnet", "a=10.30.0.0/24"])?;
    run(&["network-mapping", "create", "--source", "home/servers", "--target", "away/servers"])?;
    run(&["machine", "create", "--name", "db", "--group", "db", "--cpus", "1", "--memory", "64MiB", "--disk", "db"])?;
    run(&["plan", "create", "--name", "shop", "--source", "home", "--target", "away", "--boot", "db"])?;
    run(&["drill", "create", "--name", "weekly", "--plan", "shop", "--assert", "boots:db"])?;
    run(&["token", "create", "--name", "ci", "--role", "reader"])?;
    run(&["registration-key", "create", "--site", "home"])?;
    let mut ids = Vec::new();
    for (collection, verb) in [
        ("vaults", "vault"),
        ("sites", "site"),
        ("gateways", "gateway"),
        ("policies", "policy"),
        ("volumes", "volume"),
        ("groups", "group"),
        ("networks", "network"),
        ("network-mappings", "network-mapping"),
        ("machines", "machine"),
        ("plans", "plan"),
        ("drills", "drill"),
        ("jobs", "job"),
        ("tokens", "token"),
        ("registration-keys", "registration-key"),
    ] {
        let listed = gateway.json(&[verb, "list"])?;
        let items = listed["items"].as_array().or(listed.as_array()).context("a list")?;
        let id = items.first().and_then(|first| first["id"].as_str());
        ids.push((collection, id.with_context(|| format!("no {verb}: {listed}"))?.to_owned()));
    }
    Ok(ids)
}

/// How requests find what was declared.
fn settings(ids: &[(&str, String)]) -> String {
    let mut text = String::new();
    for (collection, id) in ids {
        text.push_str(&format!(
            "[[operations]]\ninclude-path-regex = \"^/v1/{collection}/\"\nparameters = {{ \"path.id\" = \"{id}\" }}\n\n"
        ));
    }
    text
}

#[test]
fn requests_of_strangers_are_answered_as_described() {
    let scratch = Scratch::new("api").unwrap();
    // Requests name storage, proxies and addresses of all kinds: from here none of them is reached.
    let host = Host::new().unwrap();
    let mut gateway = Gateway::prepare("home", "primary", scratch.path()).unwrap();
    gateway.on(&host);
    gateway.restart().unwrap();
    let ids = declare(&gateway, scratch.path()).unwrap();
    host.cut(Cut::Plain).unwrap();
    std::fs::write(scratch.path().join("schemathesis.toml"), settings(&ids)).unwrap();

    let number = |name: &str, otherwise: &str| std::env::var(name).unwrap_or_else(|_| otherwise.to_owned());
    let token = std::fs::read_to_string(gateway.token_file()).unwrap();
    let program = lifeboat_lab::tools().unwrap().join("schemathesis/bin/schemathesis");
    let outcome = Run::new(program)
        .dir(scratch.path())
        .args(["run", &format!("{}/v1/openapi.json", gateway.endpoint())])
        .args(["--tls-verify", &gateway.ca_file().display().to_string()])
        .args(["--header", &format!("Authorization: Bearer {}", token.trim())])
        .args(["--phases", "examples,coverage,fuzzing", "--exclude-checks", NOT_CHECKED])
        .args(["--max-examples", &number("CASES", "5"), "--seed", &number("SEED", "1")])
        .args(["--suppress-health-check", "all", "--continue-on-failure", "--no-shrink", "--request-timeout", "60"])
        .within(Duration::from_secs(60 * 60))
        .outcome()
        .unwrap();
    println!("{}", outcome.stdout);
    outcome.ok().unwrap();
    // It is well after all that.
    gateway.run(&["status"]).unwrap().ok().unwrap();
    gateway.stop().unwrap();
}
