//! A directory with a configuration, its state, and an example provider for the real `terraform`, which
//! finds it through `dev_overrides` (a process for each command) or attached (one in this process):
//! no network, no init.

use std::os::unix::fs::symlink;
use std::path::PathBuf;
use std::process::Output;

use serde_json::Value as Json;
use tf_provider_sdk::ReattachServer;
use tokio::process::Command;

use super::{DEADLINE, example_binary};

pub(crate) const APPLY: [&str; 4] = ["apply", "-auto-approve", "-no-color", "-input=false"];
pub(crate) const PLAN: [&str; 4] = ["plan", "-detailed-exitcode", "-no-color", "-input=false"];

pub(crate) fn with<'a>(base: &[&'a str], more: &[&'a str]) -> Vec<&'a str> {
    [base, more].concat()
}

pub(crate) struct Workspace {
    root: tempfile::TempDir,
    reattach: Option<String>,
}

impl Workspace {
    /// For the example provider `name`, as `example/NAME`.
    pub(crate) fn new(name: &str, main: &str) -> Self {
        let workspace = Self::empty(main);
        symlink(example_binary(name), workspace.at(&format!("bin/terraform-provider-{name}"))).unwrap();
        let overrides = format!(
            "provider_installation {{\n  dev_overrides {{ \"example/{name}\" = {:?} }}\n  direct {{}}\n}}\n",
            workspace.at("bin")
        );
        std::fs::write(workspace.at("rc"), overrides).unwrap();
        workspace
    }

    /// For a provider that serves in this process already.
    pub(crate) fn attached(server: &ReattachServer, main: &str) -> Self {
        Self { reattach: Some(server.reattach_config()), ..Self::empty(main) }
    }

    fn empty(main: &str) -> Self {
        let workspace = Self { root: tempfile::tempdir().unwrap(), reattach: None };
        for directory in ["bin", "data", "work", "tmp"] {
            std::fs::create_dir(workspace.at(directory)).unwrap();
        }
        std::fs::write(workspace.at("rc"), "").unwrap();
        workspace.write(main);
        workspace
    }

    /// A path in it: `data/…` is the provider's, `work/…` Terraform's.
    pub(crate) fn at(&self, path: &str) -> PathBuf {
        self.root.path().join(path)
    }

    /// Another configuration.
    pub(crate) fn write(&self, main: &str) {
        std::fs::write(self.at("work/main.tf"), main).unwrap();
    }

    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new("terraform");
        command
            .args(arguments)
            .current_dir(self.at("work"))
            .env("TF_CLI_CONFIG_FILE", self.at("rc"))
            .env("TF_VAR_directory", self.at("data"))
            .env("CHECKPOINT_DISABLE", "1")
            .env("TMPDIR", self.at("tmp"))
            .env_remove("TF_LOG")
            .env_remove("TF_REATTACH_PROVIDERS")
            .kill_on_drop(true);
        if let Some(reattach) = &self.reattach {
            command.env("TF_REATTACH_PROVIDERS", reattach);
        }
        command
    }

    pub(crate) async fn run(&self, arguments: &[&str]) -> Output {
        let output = self.command(arguments).output();
        tokio::time::timeout(DEADLINE, output).await.unwrap().unwrap()
    }

    /// Runs a command that must exit with `code`, and returns its stdout.
    pub(crate) async fn expect(&self, code: i32, arguments: &[&str]) -> String {
        let output = self.run(arguments).await;
        let stdout = String::from_utf8_lossy(&output.stdout).into_owned();
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{arguments:?}\n{stdout}\n{stderr}");
        stdout
    }

    /// Applies, and then a plan must be empty.
    pub(crate) async fn settle(&self) {
        self.expect(0, &APPLY).await;
        self.expect(0, &PLAN).await;
    }

    /// The plan as JSON.
    pub(crate) async fn plan(&self) -> Json {
        self.expect(0, &["plan", "-no-color", "-input=false", "-out=plan"]).await;
        serde_json::from_str(&self.expect(0, &["show", "-json", "plan"]).await).unwrap()
    }

    pub(crate) async fn destroy(&self) {
        self.expect(0, &["destroy", "-auto-approve", "-no-color", "-input=false"]).await;
    }

    pub(crate) fn state(&self) -> String {
        std::fs::read_to_string(self.at("work/terraform.tfstate")).unwrap()
    }

    pub(crate) fn write_state(&self, state: &Json) {
        std::fs::write(self.at("work/terraform.tfstate"), state.to_string()).unwrap();
    }

    /// The attributes of the first instance of `kind.name` in the state.
    pub(crate) fn attributes(&self, kind: &str, name: &str) -> Json {
        let state: Json = serde_json::from_str(&self.state()).unwrap();
        let resources = state["resources"].as_array().unwrap();
        let found = resources.iter().find(|resource| resource["type"] == kind && resource["name"] == name);
        found.unwrap_or_else(|| panic!("{kind}.{name} is not in the state"))["instances"][0]["attributes"].clone()
    }

    /// The names of the files in a directory.
    pub(crate) fn files(&self, directory: &str) -> Vec<String> {
        let entries = std::fs::read_dir(self.at(directory)).unwrap();
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
    }
}
