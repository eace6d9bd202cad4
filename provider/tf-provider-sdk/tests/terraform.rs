//! The real `terraform` drives the example provider, found through `dev_overrides`: no network, no
//! init.

#![allow(clippy::unwrap_used, reason = "a test that can't go on fails right there")]

mod common;
#[allow(dead_code, reason = "its main is not called here")]
#[path = "../examples/minimal.rs"]
mod minimal;

use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Output;

use common::{DEADLINE, eventually, minimal_binary};
use serde_json::Value as Json;
use tokio::process::Command;

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

struct Workspace {
    root: tempfile::TempDir,
}

impl Workspace {
    fn new() -> Self {
        let root = tempfile::tempdir().unwrap();
        let at = |name: &str| root.path().join(name);
        for directory in ["bin", "notes", "work", "tmp"] {
            std::fs::create_dir(at(directory)).unwrap();
        }
        symlink(minimal_binary(), at("bin/terraform-provider-minimal")).unwrap();
        let overrides = format!(
            "provider_installation {{\n  dev_overrides {{ \"example/minimal\" = {:?} }}\n  direct {{}}\n}}\n",
            at("bin")
        );
        std::fs::write(at("rc"), overrides).unwrap();
        std::fs::write(at("work/main.tf"), MAIN).unwrap();
        Self { root }
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let at = |name: &str| self.root.path().join(name);
        let mut command = Command::new("terraform");
        command
            .args(arguments)
            .current_dir(at("work"))
            .env("TF_CLI_CONFIG_FILE", at("rc"))
            .env("TF_VAR_directory", at("notes"))
            .env("CHECKPOINT_DISABLE", "1")
            .env("TMPDIR", at("tmp"))
            .env_remove("TF_LOG")
            .env_remove("TF_REATTACH_PROVIDERS")
            .kill_on_drop(true);
        command
    }

    async fn run(&self, arguments: &[&str]) -> Output {
        let output = self.command(arguments).output();
        tokio::time::timeout(DEADLINE, output).await.unwrap().unwrap()
    }

    /// Runs a command that must exit with `code`, and returns its stdout.
    async fn expect(&self, code: i32, arguments: &[&str]) -> String {
        let output = self.run(arguments).await;
        let stdout = String::from_utf8_lossy(&output.stdout).into_owned();
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{arguments:?}\n{stdout}\n{stderr}");
        stdout
    }

    fn state(&self) -> String {
        std::fs::read_to_string(self.root.path().join("work/terraform.tfstate")).unwrap()
    }

    fn is_empty(&self, directory: &str) -> bool {
        let mut entries = std::fs::read_dir(self.root.path().join(directory)).unwrap();
        entries.next().is_none()
    }

    fn note(&self, name: &str) -> std::path::PathBuf {
        self.root.path().join(Path::new("notes")).join(format!("{name}.json"))
    }
}

const APPLY: [&str; 4] = ["apply", "-auto-approve", "-no-color", "-input=false"];
const PLAN: [&str; 4] = ["plan", "-detailed-exitcode", "-no-color", "-input=false"];

fn with<'a>(base: &[&'a str], more: &[&'a str]) -> Vec<&'a str> {
    [base, more].concat()
}

#[tokio::test]
async fn a_resource_lives_from_plan_to_destroy() {
    let workspace = Workspace::new();
    workspace.expect(0, &["validate", "-no-color"]).await;
    workspace.expect(2, &PLAN).await;
    workspace.expect(0, &APPLY).await;
    assert!(!workspace.state().contains("hunter2"));
    assert!(std::fs::read_to_string(workspace.note("first")).unwrap().contains("hunter2"));
    let outputs: Json = serde_json::from_str(&workspace.expect(0, &["output", "-json"]).await).unwrap();
    assert_eq!(outputs["loud"]["value"], "HELLO");
    assert_eq!(outputs["exact"]["value"].to_string(), "0.1");
    assert_eq!(outputs["words"]["value"], 3);
    assert!(workspace.root.path().join("notes/closed-reader").exists());

    workspace.expect(0, &PLAN).await;
    workspace.expect(0, &with(&PLAN, &["-refresh=false"])).await;

    // An update in place, then drift, then a replacement.
    let plan = workspace.expect(2, &with(&PLAN, &["-var", "text=bye"])).await;
    assert!(plan.contains("will be updated in-place"), "{plan}");
    workspace.expect(0, &with(&APPLY, &["-var", "text=bye"])).await;
    workspace.expect(0, &with(&PLAN, &["-var", "text=bye"])).await;
    std::fs::remove_file(workspace.note("first")).unwrap();
    let plan = workspace.expect(2, &PLAN).await;
    assert!(plan.contains("will be created"), "{plan}");
    workspace.expect(0, &APPLY).await;
    let plan = workspace.expect(2, &with(&PLAN, &["-var", "name=second"])).await;
    assert!(plan.contains("forces replacement"), "{plan}");

    workspace.expect(0, &["destroy", "-auto-approve", "-no-color"]).await;
    assert!(!workspace.note("first").exists());
    assert!(workspace.is_empty("tmp"), "sockets are left behind");
}

#[tokio::test]
async fn a_protected_resource_is_refused_at_plan_and_imports() {
    let workspace = Workspace::new();
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
    let workspace = Workspace::new();
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
    let workspace = Workspace::new();
    let mut command = workspace.command(&with(&APPLY, &["-var", "delay=1h"]));
    // A group of its own, so that the signal reaches Terraform and the provider, as Ctrl-C does.
    let child = command
        .process_group(0)
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let group = rustix::process::Pid::from_raw(i32::try_from(child.id().unwrap()).unwrap()).unwrap();
    eventually("the note is being made", || workspace.note("first").exists()).await;
    rustix::process::kill_process_group(group, rustix::process::Signal::INT).unwrap();
    let output = tokio::time::timeout(DEADLINE, child.wait_with_output()).await.unwrap().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(stderr.contains("Stopped"), "{stderr}");
    let state: Json = serde_json::from_str(&workspace.state()).unwrap();
    let instance = &state["resources"][0]["instances"][0];
    assert_eq!(instance["attributes"]["id"], "note-first");
    assert_eq!(instance["status"], "tainted");
    workspace.expect(0, &["destroy", "-auto-approve", "-no-color"]).await;
    assert!(!workspace.note("first").exists());
}

#[tokio::test]
async fn a_running_provider_serves_several_commands() {
    let server = tf_provider_sdk::ReattachServer::start(minimal::Minimal).await.unwrap();
    let workspace = Workspace::new();
    // Without the overrides: Terraform must find the running provider.
    std::fs::remove_file(workspace.root.path().join("bin/terraform-provider-minimal")).unwrap();
    std::fs::write(workspace.root.path().join("rc"), "").unwrap();
    let expect = async |code: i32, arguments: &[&str]| {
        let mut command = workspace.command(arguments);
        let output = command.env("TF_REATTACH_PROVIDERS", server.reattach_config()).output();
        let output = tokio::time::timeout(DEADLINE, output).await.unwrap().unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{arguments:?}\n{stderr}");
    };
    expect(0, &APPLY).await;
    expect(0, &PLAN).await;
    expect(0, &["destroy", "-auto-approve", "-no-color"]).await;
    server.shutdown().await;
}
