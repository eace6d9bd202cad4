//! Awkward moments: many at once, Ctrl-C, older states, imports, moves, secrets, leases.

use std::process::Stdio;

use serde_json::{Value as Json, json};

use super::common::{APPLY, DEADLINE, PLAN, Workspace, eventually, with};
use super::{attached, everything, main_with, refused};

#[tokio::test]
async fn ten_creates_run_at_once() {
    let body = "resource \"torture_slow\" \"s\" {\n  count = 10\n  name = \"s${count.index}\"\n  at_once = 10\n}\n";
    let (server, workspace) = attached(body).await;
    workspace.settle().await;
    assert_eq!(workspace.files("data").len(), 10);
    workspace.destroy().await;
    assert!(workspace.files("data").is_empty());
    server.shutdown().await;
}

#[tokio::test]
async fn ctrl_c_in_the_middle_loses_nothing() {
    let configuration = |hang: bool| {
        main_with(&format!(
            "resource \"torture_slow\" \"s\" {{\n  count = 6\n  name  = \"s${{count.index}}\"\n  hang  = {hang} && count.index % 2 \
             == 0\n}}\n\
             resource \"torture_slow\" \"after\" {{\n  count = 3\n  name  = \"after${{count.index}}-${{torture_slow.s[count.index * \
             2].state}}\"\n}}\n"
        ))
    };
    // A process for each command, so that Ctrl-C reaches the provider as well.
    let workspace = Workspace::new("torture", &configuration(true));
    let mut command = workspace.command(&APPLY);
    let child = command.process_group(0).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let group = rustix::process::Pid::from_raw(i32::try_from(child.id().unwrap()).unwrap()).unwrap();
    let made = |name: &str| workspace.files("data").contains(&format!("slow-{name}.thing"));
    eventually("all six exist", || (0..6).all(|i| made(&format!("s{i}")))).await;
    rustix::process::kill_process_group(group, rustix::process::Signal::INT).unwrap();
    let output = tokio::time::timeout(DEADLINE, child.wait_with_output()).await.unwrap().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    assert!(stderr.contains("told to stop while waiting in vain"), "{stderr}");

    // All that exists is in the state, what was not ready as tainted; what depends on that was not begun.
    let state: Json = serde_json::from_str(&workspace.state()).unwrap();
    let instances: Vec<Json> = state["resources"]
        .as_array()
        .unwrap()
        .iter()
        .flat_map(|resource| resource["instances"].as_array().unwrap().clone())
        .collect();
    let ids: Vec<&str> = instances.iter().map(|instance| instance["attributes"]["id"].as_str().unwrap()).collect();
    assert_eq!(ids, ["slow-s0", "slow-s1", "slow-s2", "slow-s3", "slow-s4", "slow-s5"]);
    let tainted: Vec<bool> = instances.iter().map(|instance| instance["status"] == "tainted").collect();
    assert_eq!(tainted, [true, false, true, false, true, false]);
    assert_eq!(workspace.files("data").len(), 6);

    workspace.write(&configuration(false));
    workspace.settle().await;
    assert_eq!(workspace.files("data").len(), 9);
    workspace.destroy().await;
    assert!(workspace.files("data").is_empty());
    assert!(workspace.files("tmp").is_empty(), "sockets are left behind");
}

#[tokio::test]
async fn a_panic_is_an_error_and_the_provider_goes_on() {
    let body =
        "resource \"torture_old\" \"p\" { name = \"panics\" }\nresource \"torture_old\" \"q\" { name = \"fine\" }\n";
    let (server, workspace) = attached(body).await;
    let stderr = refused(&workspace, &with(&APPLY, &["-parallelism=1"])).await;
    assert!(stderr.contains("The provider failed") && stderr.contains("so the test says"), "{stderr}");
    assert_eq!(workspace.attributes("torture_old", "q")["id"], "old-fine");
    server.shutdown().await;
}

#[tokio::test]
async fn older_states_are_upgraded_and_plan_empty() {
    let (server, workspace) = attached(&everything("u", [("string", "\"kept\"".to_owned())], "")).await;
    workspace.expect(0, &APPLY).await;
    let now: Json = serde_json::from_str(&workspace.state()).unwrap();
    for version in [1, 0] {
        let mut old = now.clone();
        let instance = &mut old["resources"][0]["instances"][0];
        instance["schema_version"] = version.into();
        let attributes = instance["attributes"].as_object_mut().unwrap();
        attributes.remove("defaulted");
        attributes.insert("gone".into(), json!({"from": ["an", "old", "version"]}));
        if version == 0 {
            let name = attributes.remove("name").unwrap();
            attributes.insert("title".into(), name);
        }
        workspace.write_state(&old);
        workspace.expect(0, &PLAN).await;
    }
    let mut newer = now;
    newer["resources"][0]["instances"][0]["schema_version"] = 3.into();
    workspace.write_state(&newer);
    let said = refused(&workspace, &PLAN).await;
    assert!(said.contains("newer"), "{said}");
    server.shutdown().await;
}

fn change<'a>(plan: &'a Json, kind: &str) -> &'a Json {
    let changes = plan["resource_changes"].as_array().unwrap();
    &changes.iter().find(|change| change["type"] == kind).unwrap()["change"]
}

#[tokio::test]
async fn imports_and_generated_configuration_plan_empty() {
    let attributes = || [("number", "0.1".to_owned()), ("map_string", "{ a = \"$${x}\" }".to_owned())];
    let full = || everything("i", attributes(), "  many { text = \"a\" }\n  named \"n\" {}\n");
    let (server, workspace) = attached(&full()).await;
    workspace.expect(0, &APPLY).await;
    let forget = ["state", "rm", "torture_everything.i"];
    // By command.
    workspace.expect(0, &forget).await;
    workspace.expect(0, &["import", "-no-color", "-input=false", "torture_everything.i", "thing-i"]).await;
    workspace.expect(0, &PLAN).await;
    // By block, with configuration written by hand, then with configuration that Terraform writes.
    let import = "import {\n  to = torture_everything.i\n  id = \"thing-i\"\n}\n";
    for configuration in [full() + import, import.to_owned()] {
        workspace.expect(0, &forget).await;
        workspace.write(&main_with(&configuration));
        workspace
            .expect(0, &["plan", "-no-color", "-input=false", "-out=plan", "-generate-config-out=generated.tf"])
            .await;
        let plan: Json = serde_json::from_str(&workspace.expect(0, &["show", "-json", "plan"]).await).unwrap();
        let change = change(&plan, "torture_everything");
        assert_eq!(change["actions"], json!(["no-op"]), "{change}");
        assert_eq!(change["importing"]["id"], "thing-i");
        workspace.expect(0, &APPLY).await;
        workspace.expect(0, &PLAN).await;
    }
    // One that isn't there.
    workspace.write(&main_with(&import.replace("thing-i", "thing-none").replace("everything.i", "everything.n")));
    let said = refused(&workspace, &with(&PLAN, &["-generate-config-out=other.tf"])).await;
    assert!(said.contains("non-existent remote object"), "{said}");
    server.shutdown().await;
}

#[tokio::test]
async fn a_moved_block_takes_over_another_type() {
    let (server, workspace) = attached("resource \"torture_old\" \"o\" { name = \"m\" }\n").await;
    workspace.expect(0, &APPLY).await;
    let moved = "moved {\n  from = torture_old.o\n  to   = torture_everything.m\n}\n";
    workspace.write(&main_with(&(everything("m", [("string", "\"kept with m\"".to_owned())], "") + moved)));
    let plan = workspace.plan().await;
    let change = change(&plan, "torture_everything");
    assert_eq!(change["actions"], json!(["no-op"]), "{change}");
    workspace.settle().await;
    assert_eq!(workspace.attributes("torture_everything", "m")["id"], "thing-m");
    // A type that can't become this one.
    workspace.write(&main_with(
        "resource \"torture_old\" \"x\" { name = \"m\" }\nmoved {\n  from = torture_everything.m\n  to = torture_old.x\n}\n",
    ));
    let said = refused(&workspace, &PLAN).await;
    assert!(said.contains("can't become a torture_old"), "{said}");
    server.shutdown().await;
}

#[tokio::test]
async fn secrets_are_applied_and_kept_nowhere() {
    let secret = |secret: &str, version: u64| {
        let set = [("secret", format!("\"{secret}\"")), ("secret_version", version.to_string())];
        main_with(&everything("w", set, ""))
    };
    let (server, workspace) = attached("").await;
    workspace.write(&secret("hunter2", 1));
    workspace.settle().await;
    let length = || workspace.attributes("torture_everything", "w")["secret_length"].clone();
    assert_eq!(length(), 7);
    // Another secret alone is not seen, by design; with another version it is.
    workspace.write(&secret("correct horse", 1));
    workspace.expect(0, &PLAN).await;
    workspace.write(&secret("correct horse", 2));
    workspace.expect(0, &["plan", "-no-color", "-input=false", "-out=plan"]).await;
    let plan = workspace.expect(0, &["show", "-json", "plan"]).await;
    workspace.expect(0, &APPLY).await;
    for text in [workspace.state(), plan.replace(&secret("correct horse", 2), "")] {
        let planned = text.split("\"configuration\"").next().unwrap();
        assert!(!planned.contains("hunter2") && !planned.contains("correct horse"));
    }
    server.shutdown().await;
}

#[tokio::test]
async fn a_lease_is_opened_renewed_and_closed() {
    let body = "ephemeral \"torture_lease\" \"l\" { name = \"l\" }\n\
                resource \"torture_slow\" \"s\" {\n  name = \"s\"\n  lease = \"l\"\n  renewals = 3\n  key = \
                ephemeral.torture_lease.l.secret\n}\n";
    let (server, workspace) = attached(body).await;
    workspace.expect(0, &APPLY).await;
    let log = std::fs::read_to_string(workspace.at("data/l.log")).unwrap();
    // Once at plan and once at apply; renewed only where it took long enough.
    let count = |what: &str| log.lines().filter(|line| *line == what).count();
    assert_eq!(count("opened"), count("closed"), "{log}");
    assert!(count("renewed") >= 3, "{log}");
    assert!(!workspace.state().contains("the secret of"));
    server.shutdown().await;
}
