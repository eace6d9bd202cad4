//! The real `terraform` drives the example provider, found through `dev_overrides`: no network, no
//! init.

#![allow(clippy::unwrap_used, reason = "a test that can't go on fails right there")]

mod common;
#[allow(dead_code, reason = "its main is not called here")]
#[path = "../examples/minimal.rs"]
mod minimal;

use std::path::PathBuf;

use common::{APPLY, DEADLINE, PLAN, Workspace, eventually, with};
use serde_json::Value as Json;

const MAIN: &str = r#"
terraform {
  required_providers {
    minimal = { source = "example/minimal" }
  }
}

variable "directory" {}
variable "text" { default = "hello" }
variable "name" { default = "first" }
variable "protected" { default = false }
variable "delay" { default = null }

provider "minimal" {
  directory = var.directory
}

resource "minimal_note" "a" {
  name           = var.name
  text           = var.text
  secret         = "hunter2"
  secret_version = 1
  protected      = var.protected
  create_delay   = var.delay
  tags           = ["b", "a"]

  line { text = "one" }
  line {
    text = "two"
    bold = true
  }

  link { url = "http://x" }
  link {
    url   = "http://yy"
    title = "why"
  }

  timeouts { create = "5m" }
}

data "minimal_note" "a" {
  name = minimal_note.a.name
}

ephemeral "minimal_token" "t" {
  role = "reader"
}

output "loud" { value = provider::minimal::shout(data.minimal_note.a.text) }
output "exact" { value = minimal_note.a.exact }
output "words" { value = data.minimal_note.a.details.words }
"#;

fn workspace() -> Workspace {
    Workspace::new("minimal", MAIN)
}

fn note(workspace: &Workspace, name: &str) -> PathBuf {
    workspace.at(&format!("data/{name}.json"))
}

#[tokio::test]
async fn a_resource_lives_from_plan_to_destroy() {
    let workspace = workspace();
    workspace.expect(0, &["validate", "-no-color"]).await;
    workspace.expect(2, &PLAN).await;
    workspace.expect(0, &APPLY).await;
    assert!(!workspace.state().contains("hunter2"));
    assert!(std::fs::read_to_string(note(&workspace, "first")).unwrap().contains("hunter2"));
    let outputs: Json = serde_json::from_str(&workspace.expect(0, &["output", "-json"]).await).unwrap();
    assert_eq!(outputs["loud"]["value"], "HELLO");
    assert_eq!(outputs["exact"]["value"].to_string(), "0.1");
    assert_eq!(outputs["words"]["value"], 3);
    assert!(workspace.at("data/closed-reader").exists());

    workspace.expect(0, &PLAN).await;
    workspace.expect(0, &with(&PLAN, &["-refresh=false"])).await;

    // An update in place, then drift, then a replacement.
    let plan = workspace.expect(2, &with(&PLAN, &["-var", "text=bye"])).await;
    assert!(plan.contains("will be updated in-place"), "{plan}");
    workspace.expect(0, &with(&APPLY, &["-var", "text=bye"])).await;
    workspace.expect(0, &with(&PLAN, &["-var", "text=bye"])).await;
    std::fs::remove_file(note(&workspace, "first")).unwrap();
    let plan = workspace.expect(2, &PLAN).await;
    assert!(plan.contains("will be created"), "{plan}");
    workspace.expect(0, &APPLY).await;
    let plan = workspace.expect(2, &with(&PLAN, &["-var", "name=second"])).await;
    assert!(plan.contains("forces replacement"), "{plan}");

    workspace.destroy().await;
    assert!(!note(&workspace, "first").exists());
    assert!(workspace.files("tmp").is_empty(), "sockets are left behind");
}

#[tokio::test]
async fn a_protected_resource_is_refused_at_plan_and_imports() {
    let workspace = workspace();
    workspace.expect(0, &with(&APPLY, &["-var", "protected=true"])).await;
    let refused = workspace.run(&["plan", "-destroy", "-no-color", "-json"]).await;
    assert_eq!(refused.status.code(), Some(1));
    let text = String::from_utf8_lossy(&refused.stdout).into_owned();
    assert!(text.contains("Note is protected"), "{text}");
    workspace.expect(1, &with(&PLAN, &["-var", "protected=true", "-var", "name=second"])).await;

    workspace.expect(0, &["state", "rm", "minimal_note.a"]).await;
    workspace.expect(0, &["import", "-no-color", "-input=false", "minimal_note.a", "note-first"]).await;
    assert!(workspace.state().contains("\"text\": \"hello\""));
}

#[tokio::test]
async fn a_wrong_value_is_shown_at_its_line() {
    let workspace = workspace();
    let output = workspace.run(&["plan", "-no-color", "-input=false", "-json", "-var", "name=No Good"]).await;
    assert_eq!(output.status.code(), Some(1));
    let stdout = String::from_utf8_lossy(&output.stdout).into_owned();
    let diagnostic = stdout
        .lines()
        .filter_map(|line| serde_json::from_str::<Json>(line).ok())
        .find(|line| line["diagnostic"]["severity"] == "error")
        .unwrap();
    let diagnostic = &diagnostic["diagnostic"];
    assert_eq!(diagnostic["summary"], "Invalid value for \"name\"");
    assert!(diagnostic["snippet"]["code"].as_str().unwrap().contains("name "), "{diagnostic}");
}

#[tokio::test]
async fn ctrl_c_keeps_what_was_made() {
    let workspace = workspace();
    let mut command = workspace.command(&with(&APPLY, &["-var", "delay=1h"]));
    // A group of its own, so that the signal reaches Terraform and the provider, as Ctrl-C does.
    let child = command
        .process_group(0)
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let group = rustix::process::Pid::from_raw(i32::try_from(child.id().unwrap()).unwrap()).unwrap();
    eventually("the note is being made", || note(&workspace, "first").exists()).await;
    rustix::process::kill_process_group(group, rustix::process::Signal::INT).unwrap();
    let output = tokio::time::timeout(DEADLINE, child.wait_with_output()).await.unwrap().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(stderr.contains("Stopped"), "{stderr}");
    let state: Json = serde_json::from_str(&workspace.state()).unwrap();
    let instance = &state["resources"][0]["instances"][0];
    assert_eq!(instance["attributes"]["id"], "note-first");
    assert_eq!(instance["status"], "tainted");
    workspace.destroy().await;
    assert!(!note(&workspace, "first").exists());
}

#[tokio::test]
async fn a_running_provider_serves_several_commands() {
    let server = tf_provider_sdk::ReattachServer::start(minimal::Minimal).await.unwrap();
    let workspace = Workspace::attached(&server, MAIN);
    workspace.expect(0, &APPLY).await;
    workspace.expect(0, &PLAN).await;
    workspace.destroy().await;
    server.shutdown().await;
}
