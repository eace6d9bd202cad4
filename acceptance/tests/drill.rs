//! Drills as code: the example, with a real guest, through the real `terraform`; with a gateway that is killed in the middle.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use lifeboat_acceptance::binaries::repository;
use lifeboat_acceptance::eventually;
use lifeboat_acceptance::gateway::Gateway;
use lifeboat_acceptance::scratch::Scratch;
use lifeboat_acceptance::terraform::{State, Tier, Workspace};
use lifeboat_lab::{GUEST_READY, guest_image};
use serde_json::Value;

/// SHA-256 of `made` and a line end, what the guest's log is made with.
const MADE: &str = "9ccbd3f1b19a1cdfd8d7c6ae48e9e822e2345f5be1a6187b19e41486c6941004";

/// The variables of the example: with drills or without, and the hash that the guest's log is to have.
fn variables(workspace: &Workspace, dir: &Path, drills: bool, sha256: &str) -> Result<()> {
    let dir = dir.display();
    let text = format!(
        "vault_url = \"file://{dir}/vault\"\nvault_key_file = \"{dir}/vault.key\"\nrun_drills = {drills}\nsystem_gib = 0.0390625\n\
         console_text = \"{GUEST_READY}\"\nhealth_path = \"/data/log\"\n\
         canary = {{ partition = 2, path = \"/log\", sha256 = \"{sha256}\" }}\n"
    );
    std::fs::write(workspace.dir().join("terraform.tfvars"), text).context("write the variables")
}

fn attribute(state: &State, address: &str, name: &str) -> Value {
    state.attributes(address).expect(address)[name].clone()
}

fn drill(gateway: &Gateway) -> Result<Value> {
    gateway.json(&["drill", "show", "shop"])
}

/// Nothing of a test is left at the recovery site: no machine, no branch, nothing mounted for a look.
fn nothing_is_left(standby: &Gateway) -> Result<()> {
    eventually("nothing of a test to be left", Duration::from_secs(60), || {
        let count = |path: &Path| std::fs::read_dir(path).map_or(0, |entries| entries.flatten().count());
        let machines = count(&standby.state().join("compute"));
        let branches = count(&standby.mount().join("branches"));
        let plan = standby.json(&["plan", "show", "shop"])?;
        let tests = plan["status"]["tests"].as_array().map_or(0, Vec::len);
        Ok((machines + branches + tests == 0).then_some(()))
    })?;
    let loops = std::process::Command::new("losetup").arg("--all").output().context("losetup")?;
    let mount = standby.mount().display().to_string();
    let loops = String::from_utf8_lossy(&loops.stdout).into_owned();
    anyhow::ensure!(!loops.contains(&mount), "a loop device is left: {loops}");
    Ok(())
}

#[test]
fn a_drill_proves_that_a_real_machine_recovers() {
    let scratch = Scratch::new("drill").unwrap();
    let dir = scratch.path();
    scratch.write_key("vault.key").unwrap();
    let primary = Gateway::start("onprem", "primary", &dir.join("onprem")).unwrap();
    let workspace = Workspace::new(&dir.join("terraform"), Tier::Installed, primary.client_environment()).unwrap();
    workspace.copy(&repository().join("examples/drills")).unwrap();
    variables(&workspace, dir, false, MADE).unwrap();
    workspace.init().unwrap();
    workspace.plan().unwrap();
    workspace.apply().unwrap();
    let image = std::fs::read(guest_image().unwrap()).unwrap();
    let mut volume = std::fs::OpenOptions::new().write(true).open(primary.volume("shop-system")).unwrap();
    std::io::Write::write_all(&mut volume, &image).unwrap();
    volume.sync_all().unwrap();
    primary.run(&["point", "take", "--group", "shop"]).unwrap().ok().unwrap();
    let mut standby = Gateway::prepare("recovery", "standby", &dir.join("recovery")).unwrap();
    standby.env("LIFEBOAT_COMPUTE", "qemu");
    standby.restart().unwrap();
    let (url, key) = (format!("file://{}/vault", dir.display()), dir.join("vault.key").display().to_string());
    standby.run(&["vault", "open", &url, "--key-file", &key]).unwrap().ok().unwrap();

    // Both drills are created by one apply: the plan is tested twice at once. Any gateway takes the request.
    variables(&workspace, dir, true, MADE).unwrap();
    workspace.plan().unwrap();
    workspace.apply().unwrap();
    let state = workspace.state().unwrap();
    assert_eq!(attribute(&state, "lifeboat_drill.shop[0]", "failures"), Value::Array(Vec::new()));
    assert_eq!(attribute(&state, "lifeboat_drill.shop[0]", "passed"), true);
    assert_eq!(attribute(&state, "lifeboat_drill.weekly[0]", "passed"), true);
    let evidence: Value = serde_json::from_str(state.text("lifeboat_drill.shop[0]", "evidence").unwrap()).unwrap();
    assert_eq!((&evidence["cleaned_up"], &evidence["gateway"]["name"]), (&true.into(), &"standby".into()));
    assert!(evidence["rto_seconds"].as_f64().unwrap() > 1.0, "{evidence:#}");
    let address = evidence["machines"][0]["interfaces"][0]["address"].as_str().unwrap();
    assert!(address.starts_with("10.40.0."), "in the network for tests: {address}");
    workspace.plan_is_empty(false).unwrap();
    workspace.plan_is_empty(true).unwrap();
    nothing_is_left(&standby).unwrap();

    // What auditors get.
    let (report, saved) = (dir.join("report.html"), dir.join("evidence.json"));
    let (report_path, saved_path) = (report.display().to_string(), saved.display().to_string());
    primary.run(&["drill", "report", "shop", "--to", &report_path]).unwrap().ok().unwrap();
    let page = std::fs::read_to_string(&report).unwrap();
    assert!(page.contains("data:image/png;base64,") && page.contains(GUEST_READY), "{page}");
    primary.run(&["drill", "evidence", "shop", "--to", &saved_path]).unwrap().ok().unwrap();
    let verified = primary.run(&["drill", "verify", &saved_path]).unwrap().ok().unwrap();
    assert!(verified.contains("passed on"), "{verified}");
    let text = std::fs::read_to_string(&saved).unwrap();
    std::fs::write(&saved, text.replace("\\\"passed\\\": true", "\\\"passed\\\": false")).unwrap();
    let forged = primary.run(&["drill", "verify", &saved_path]).unwrap();
    assert!(forged.code() == 1 && forged.stderr.contains("isn't what was signed"), "{}", forged.stderr);

    // The recovery site's gateway is killed while the machine of a drill runs.
    let begun = standby.json(&["drill", "run", "shop", "--no-wait"]).unwrap();
    let id = begun["id"].as_str().unwrap();
    eventually("the machine of the drill to run", Duration::from_secs(60), || {
        let job = primary.json(&["job", "show", id])?;
        let steps = job["steps"].as_array().context("steps")?;
        Ok(steps
            .iter()
            .any(|step| step["name"] == "Look at what is asserted" && step["state"] == "running")
            .then_some(()))
    })
    .unwrap();
    standby.kill9().unwrap();
    standby.restart().unwrap();
    let over = standby.json(&["job", "watch", id]).unwrap();
    assert_eq!(over["result"]["drill"]["passed"], true, "{over:#}");
    nothing_is_left(&standby).unwrap();
    workspace.plan_is_empty(true).unwrap();

    // What doesn't hold fails no apply; the check and the state say so.
    variables(&workspace, dir, true, &"0".repeat(64)).unwrap();
    assert_eq!(workspace.plan().unwrap().changes(), 1, "the drill changes in place, and runs");
    workspace.plan().unwrap();
    workspace.apply().unwrap();
    let state = workspace.state().unwrap();
    assert_eq!(attribute(&state, "lifeboat_drill.shop[0]", "passed"), false);
    let failures = attribute(&state, "lifeboat_drill.shop[0]", "failures").to_string();
    assert!(failures.contains("file_hash of shop-system") && failures.contains(MADE), "{failures}");
    assert_eq!(drill(&primary).unwrap()["status"]["state"], "failed");
    workspace.plan_is_empty(true).unwrap();
    nothing_is_left(&standby).unwrap();
    workspace.destroy().unwrap();
}
