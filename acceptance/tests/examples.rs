//! The examples: each is planned as it stands, and those that one machine can hold are applied and plan empty afterwards.

use std::path::PathBuf;

use anyhow::{Context, Result};
use lifeboat_acceptance::binaries::repository;
use lifeboat_acceptance::command::Outcome;
use lifeboat_acceptance::gateway::Gateway;
use lifeboat_acceptance::scratch::Scratch;
use lifeboat_acceptance::terraform::{Tier, Workspace};
use lifeboat_lab::Moto;

/// An example's directory, a gateway that knows nothing, and variables.
struct Example {
    // Dropped in this order: Terraform's provider, the gateway, the files.
    workspace: Workspace,
    _gateway: Gateway,
    scratch: Scratch,
}

impl Example {
    fn new(name: &str, site: &str, gateway: &str) -> Result<Self> {
        let scratch = Scratch::new(&format!("example-{name}"))?;
        scratch.write_key("vault.key")?;
        let gateway = Gateway::start(site, gateway, &scratch.path().join(site))?;
        let dir = scratch.path().join("terraform");
        let workspace = Workspace::new(&dir, Tier::Installed, gateway.client_environment())?;
        workspace.copy(&repository().join("examples").join(name))?;
        Ok(Self { workspace, _gateway: gateway, scratch })
    }

    fn variables(&self, text: &str) -> Result<()> {
        std::fs::write(self.workspace.dir().join("terraform.tfvars"), text).context("write the variables")
    }

    /// Lines for a vault in a directory beside.
    fn in_a_directory(&self, variable: &str) -> String {
        let dir = self.scratch.path().display();
        format!("{variable} = \"file://{dir}/{variable}\"\nvault_key_file = \"{dir}/vault.key\"\n")
    }

    /// Applied, planned twice, destroyed.
    fn lives(&self) -> Result<()> {
        self.workspace.init()?;
        self.workspace.plan()?;
        self.workspace.apply()?;
        self.workspace.plan_is_empty(false)?;
        self.workspace.plan_is_empty(true)?;
        self.workspace.destroy()
    }
}

/// Directories with a configuration of their own; the others hold parts for the documentation.
fn examples() -> Vec<PathBuf> {
    let entries = std::fs::read_dir(repository().join("examples")).expect("the examples can be listed");
    let mut found: Vec<PathBuf> =
        entries.flatten().map(|entry| entry.path()).filter(|dir| dir.join("main.tf").exists()).collect();
    found.sort();
    found
}

#[test]
fn every_example_is_planned_as_it_stands() {
    let variables = [
        (
            "s3-vault",
            "bucket = \"acme\"\naccess_key_id = \"AK\"\nsecret_access_key = \"secret\"\npassphrase = \"correct horse\"\n",
        ),
        (
            "azure-vault",
            "container = \"acme\"\naccount_name = \"acme\"\naccount_key = \"a2V5\"\npassphrase = \"correct horse\"\n",
        ),
    ];
    let all = examples();
    assert!(all.len() >= 5, "{all:?}");
    for dir in all {
        let name = dir.file_name().unwrap().to_str().unwrap();
        assert!(dir.join("README.md").exists(), "{name} has no README.md");
        let example = Example::new(name, "onprem", "primary").unwrap();
        if let Some((_, text)) = variables.iter().find(|(of, _)| *of == name) {
            example.variables(text).unwrap();
        }
        example.workspace.init().unwrap();
        let plan = example.workspace.plan().with_context(|| name.to_owned()).unwrap();
        assert!(plan.changes() >= 5, "{name}: {}", plan.document["resource_changes"]);
    }
}

#[test]
fn an_application_is_protected_by_the_module() {
    let example = Example::new("protected-application", "onprem", "primary").unwrap();
    example.variables(&example.in_a_directory("vault_url")).unwrap();
    example.lives().unwrap();
}

#[test]
fn machines_of_one_group_are_protected_together() {
    let example = Example::new("multi-machine-group", "onprem", "primary").unwrap();
    example.variables(&example.in_a_directory("vault_url")).unwrap();
    example.lives().unwrap();
}

#[test]
fn two_sites_begin_with_the_one_that_runs() {
    let example = Example::new("two-site", "geneva", "gateway-geneva").unwrap();
    let (one, other) = (example.in_a_directory("vault_url_of_geneva"), example.in_a_directory("vault_url_of_zurich"));
    let other = other.lines().next().unwrap();
    example.variables(&format!("{one}{other}\nat_home = [\"geneva\"]\n")).unwrap();
    example.lives().unwrap();
}

#[test]
fn a_vault_in_a_bucket_is_declared_with_secrets_that_nothing_keeps() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let moto = runtime.block_on(Moto::start(&["acme"])).unwrap();
    let example = Example::new("s3-vault", "onprem", "primary").unwrap();
    let secrets = "secret_access_key = \"canary-of-the-bucket\"\npassphrase = \"canary-of-the-vault\"\n";
    let endpoint = moto.endpoint();
    let variables = format!("bucket = \"acme\"\nendpoint = \"{endpoint}\"\naccess_key_id = \"AK\"\n{secrets}");
    example.variables(&variables).unwrap();
    example.workspace.init().unwrap();
    example.workspace.plan().unwrap();
    example.workspace.run(&["apply", "-no-color", "-auto-approve"]).and_then(Outcome::ok).unwrap();
    example.workspace.plan_is_empty(false).unwrap();
    example.workspace.plan_is_empty(true).unwrap();
    for file in ["terraform.tfstate", "plan.bin"] {
        let bytes = std::fs::read(example.workspace.dir().join(file)).unwrap();
        assert!(!String::from_utf8_lossy(&bytes).contains("canary"), "{file} holds a secret");
    }
    example.workspace.destroy().unwrap();
}
