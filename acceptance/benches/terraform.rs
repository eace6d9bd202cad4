//! `terraform plan` and `apply` over 1,000 volumes and 200 policies, beside as many built-in `terraform_data` (T1).
//!
//! Real binaries of the release profile, the installed provider, a real gateway with a mount. Rounds alternate.
//! `make bench BENCH=terraform`; root, as mounting takes it.

#![allow(clippy::unwrap_used, reason = "a benchmark that can't measure ends with a panic")]

#[path = "../../gateway/engine/benches/support/report.rs"]
mod report;

use std::fmt::Write as _;
use std::path::Path;
use std::time::Duration;

use lifeboat_acceptance::gateway::Gateway;
use lifeboat_acceptance::scratch::Scratch;
use lifeboat_acceptance::terraform::{Tier, Workspace};
use report::{Report, Row, rounds, timed};

const VOLUMES: usize = 1_000;
const POLICIES: usize = 200;
/// Volumes share journals by group.
const GROUPS: usize = 10;

const HEAD: &str = r#"
terraform {
  required_providers {
    lifeboat = {
      source = "lifeboat-dr/lifeboat"
    }
  }
}
"#;

/// Everything in one vault, written out: as many resources as objects, and no `count`.
fn ours(dir: &Path) -> String {
    let dir = dir.display();
    let mut text = format!(
        r#"{HEAD}
resource "lifeboat_vault" "main" {{
  name        = "main"
  storage_url = "file://{dir}/vault"
  encryption {{
    key_source = "key_file"
    key_file   = "{dir}/vault.key"
  }}
}}
resource "lifeboat_site" "onprem" {{
  vault_id = lifeboat_vault.main.id
  name     = "onprem"
}}
resource "lifeboat_gateway" "primary" {{
  site_id = lifeboat_site.onprem.id
  name    = "primary"
}}
"#
    );
    for number in 0..POLICIES {
        let _ = write!(
            text,
            r#"
resource "lifeboat_replication_policy" "p{number}" {{
  vault_id = lifeboat_vault.main.id
  name     = "policy-{number}"
  retention {{
    every = "all"
    for   = "1h"
  }}
}}
"#
        );
    }
    for number in 0..GROUPS {
        let _ = write!(
            text,
            r#"
resource "lifeboat_consistency_group" "g{number}" {{
  vault_id  = lifeboat_vault.main.id
  site_id   = lifeboat_site.onprem.id
  name      = "group-{number}"
  policy_id = lifeboat_replication_policy.p{number}.id
}}
"#
        );
    }
    for number in 0..VOLUMES {
        let group = number % GROUPS;
        let _ = write!(
            text,
            r#"
resource "lifeboat_volume" "v{number}" {{
  group_id   = lifeboat_consistency_group.g{group}.id
  gateway_id = lifeboat_gateway.primary.id
  name       = "volume-{number}"
  size_gib   = 0.0009765625
}}
"#
        );
    }
    text
}

/// As many resources that ask nobody anything, referring to each other alike.
fn built_in() -> String {
    let mut text = String::new();
    for number in 0..POLICIES {
        let _ = write!(text, "\nresource \"terraform_data\" \"p{number}\" {{\n  input = \"policy-{number}\"\n}}\n");
    }
    for number in 0..VOLUMES {
        let of = number % GROUPS;
        let _ = write!(
            text,
            "\nresource \"terraform_data\" \"v{number}\" {{\n  input = [\"volume-{number}\", terraform_data.p{of}.id]\n}}\n"
        );
    }
    text
}

/// A command that has as long as it takes, up to an hour.
fn seconds(workspace: &Workspace, args: &[&str]) -> f64 {
    let (done, time) = timed(|| workspace.run_within(args, Duration::from_secs(3600)).unwrap());
    done.ok().unwrap();
    time.as_secs_f64()
}

fn main() {
    let mut report = Report::new("terraform");
    let scratch = Scratch::new("bench-terraform").unwrap();
    scratch.write_key("vault.key").unwrap();
    let gateway = Gateway::start("onprem", "primary", &scratch.path().join("onprem")).unwrap();
    let of =
        |name: &str| Workspace::new(&scratch.path().join(name), Tier::Installed, gateway.client_environment()).unwrap();
    let (lifeboat, data) = (of("lifeboat"), of("data"));
    lifeboat.write(&ours(scratch.path())).unwrap();
    data.write(&built_in()).unwrap();
    lifeboat.init().unwrap();
    data.init().unwrap();

    let count = VOLUMES + POLICIES;
    let row = |what: String, ours: Vec<f64>, beside: Vec<f64>, wanted| Row {
        target: "T1",
        what,
        ours,
        beside,
        baseline: "terraform_data, as many",
        unit: "s",
        wanted,
    };
    let plan = ["plan", "-no-color", "-detailed-exitcode"];
    let create = ["plan", "-no-color", "-out=plan.bin"];
    let (mut first, mut beside) = (Vec::new(), Vec::new());
    for _ in 0..rounds(3) {
        first.push(seconds(&lifeboat, &create));
        beside.push(seconds(&data, &create));
    }
    report.row(row(format!("plan that creates {count} resources"), first, beside, "<= 1.5"));
    let apply = ["apply", "-no-color", "plan.bin"];
    let (one, other) = (seconds(&lifeboat, &apply), seconds(&data, &apply));
    report.row(row("apply of it, until every volume is protected".into(), vec![one], vec![other], ""));
    for (what, refresh) in
        [("plan that finds nothing to do", "-refresh=true"), ("the same, without a refresh", "-refresh=false")]
    {
        let arguments: Vec<&str> = plan.into_iter().chain([refresh]).collect();
        let (mut ours, mut beside) = (Vec::new(), Vec::new());
        for _ in 0..rounds(3) {
            ours.push(seconds(&lifeboat, &arguments));
            beside.push(seconds(&data, &arguments));
        }
        report.row(row(what.into(), ours, beside, "<= 1.5"));
    }
    let destroy = ["destroy", "-no-color", "-auto-approve"];
    let (one, other) = (seconds(&lifeboat, &destroy), seconds(&data, &destroy));
    report.row(row("destroy".into(), vec![one], vec![other], ""));
    report.finish();
}
