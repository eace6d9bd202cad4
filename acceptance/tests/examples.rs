//! The examples: each is planned as it stands, and those that one machine can hold are applied and plan empty afterwards.

use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use lifeboat_acceptance::binaries::repository;
use lifeboat_acceptance::command::Outcome;
use lifeboat_acceptance::gateway::Gateway;
use lifeboat_acceptance::scratch::Scratch;
use lifeboat_acceptance::terraform::{Tier, Workspace};
use lifeboat_lab::{Azurite, Moto};

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
        self.is_applied()?;
        self.workspace.destroy()
    }

    /// Applied, and planned twice: there is nothing to do.
    fn is_applied(&self) -> Result<()> {
        self.workspace.plan()?;
        self.workspace.apply()?;
        self.workspace.plan_is_empty(false)?;
        self.workspace.plan_is_empty(true)
    }

    /// The same with secrets in ephemeral variables, which no plan holds for an apply. None of them is kept.
    fn lives_with_secrets(&self, secrets: &[&str]) -> Result<()> {
        self.workspace.init()?;
        self.workspace.plan()?;
        self.workspace.run(&["apply", "-no-color", "-auto-approve"]).and_then(Outcome::ok)?;
        self.workspace.plan_is_empty(false)?;
        self.workspace.plan_is_empty(true)?;
        for file in ["terraform.tfstate", "plan.bin"] {
            let bytes = std::fs::read(self.workspace.dir().join(file)).with_context(|| format!("read {file}"))?;
            let text = String::from_utf8_lossy(&bytes);
            ensure!(!secrets.iter().any(|secret| text.contains(secret)), "{file} holds a secret");
        }
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

/// Servers are started asynchronously; the tests themselves are not.
fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime")
}

#[test]
fn two_sites_begin_with_the_one_that_runs_and_protect_each_other() {
    let example = Example::new("two-site", "geneva", "gateway-geneva").unwrap();
    let (one, other) = (example.in_a_directory("vault_url_of_geneva"), example.in_a_directory("vault_url_of_zurich"));
    let other = other.lines().next().unwrap();
    example.variables(&format!("{one}{other}\nat_home = [\"geneva\"]\n")).unwrap();
    example.workspace.init().unwrap();
    example.is_applied().unwrap();

    let dir = example.scratch.path();
    let zurich = Gateway::start("zurich", "gateway-zurich", &dir.join("zurich")).unwrap();
    let key = dir.join("vault.key").display().to_string();
    for vault in ["vault_url_of_geneva", "vault_url_of_zurich"] {
        let url = format!("file://{}/{vault}", dir.display());
        zurich.run(&["vault", "open", &url, "--key-file", &key]).unwrap().ok().unwrap();
    }
    example.variables(&format!("{one}{other}\n")).unwrap();
    example.is_applied().unwrap();
    assert!(zurich.volume("files-zurich").exists(), "the volume is at home in Zurich");
    example.workspace.destroy().unwrap();
}

#[test]
fn a_vault_in_a_bucket_is_declared_with_secrets_that_nothing_keeps() {
    let moto = runtime().block_on(Moto::start(&["acme"])).unwrap();
    let example = Example::new("s3-vault", "onprem", "primary").unwrap();
    let secrets = "secret_access_key = \"canary-of-the-bucket\"\npassphrase = \"canary-of-the-vault\"\n";
    let endpoint = moto.endpoint();
    let variables = format!("bucket = \"acme\"\nendpoint = \"{endpoint}\"\naccess_key_id = \"AK\"\n{secrets}");
    example.variables(&variables).unwrap();
    example.lives_with_secrets(&["canary"]).unwrap();
}

#[test]
fn a_vault_in_a_container_is_declared_with_secrets_that_nothing_keeps() {
    let azurite = runtime().block_on(Azurite::start(&["acme"])).unwrap();
    let example = Example::new("azure-vault", "onprem", "primary").unwrap();
    let [account, key] = Azurite::CREDENTIALS.map(|(_, value)| value);
    let variables = format!(
        "container = \"acme\"\nendpoint = \"{}\"\naccount_name = \"{account}\"\naccount_key = \"{key}\"\n\
         passphrase = \"canary-of-the-vault\"\n",
        azurite.endpoint()
    );
    example.variables(&variables).unwrap();
    example.lives_with_secrets(&["canary", key]).unwrap();
}

/// By example: the test that applies it and finds nothing to do afterwards.
const APPLIED: [(&str, &str); 8] = [
    ("azure-vault", "a_vault_in_a_container_is_declared_with_secrets_that_nothing_keeps"),
    ("drills", "a_drill_proves_that_a_real_machine_recovers"),
    ("multi-machine-group", "machines_of_one_group_are_protected_together"),
    ("protected-application", "an_application_is_protected_by_the_module"),
    ("quickstart", "the_quick_start_works_as_written_with_the_installed_provider"),
    ("recovery-plan", "the_example_of_a_recovery_plan_becomes_ready_as_written"),
    ("s3-vault", "a_vault_in_a_bucket_is_declared_with_secrets_that_nothing_keeps"),
    ("two-site", "two_sites_begin_with_the_one_that_runs_and_protect_each_other"),
];

#[test]
fn every_example_is_applied_by_a_test_that_plans_nothing_afterwards() {
    let names: Vec<String> =
        examples().iter().map(|dir| dir.file_name().unwrap().to_str().unwrap().to_owned()).collect();
    assert_eq!(names, APPLIED.map(|(name, _)| name));
    let tests = std::fs::read_dir(repository().join("acceptance/tests")).unwrap();
    let tests: String = tests.map(|entry| std::fs::read_to_string(entry.unwrap().path()).unwrap()).collect();
    for (name, test) in APPLIED {
        let (_, text) = tests.split_once(&format!("#[test]\nfn {test}(")).expect(test);
        let text = text.split("\n#[test]\n").next().unwrap();
        assert!(text.contains(name), "{test} does not apply {name}");
        assert!(text.contains("plan_is_empty") || text.contains("lives") || text.contains("is_applied"), "{test}");
    }
}
