//! The real `terraform`, with the provider under test, in a directory of its own.
//!
//! Two tiers. [`Tier::Installed`]: the provider's binary in a file system mirror, `terraform init` as a user runs it, a
//! fresh provider process for each command: covers the handshake, TLS and the end of the process. [`Tier::Attached`]: one
//! provider process serves every command (`TF_REATTACH_PROVIDERS`), which saves a start each time.
//!
//! [`Workspace::step`] is the life of one configuration: plan, checks on the plan, apply, checks on the state, and then two plans
//! that must be empty, without and with refresh. Nothing here knows the provider's resources.

use std::ffi::OsString;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use rustix::process::{Pid, Signal, kill_process_group};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::binaries;
use crate::command::{Daemon, Outcome, Run};

/// The provider's address, as configurations and mirrors name it.
pub const PROVIDER: &str = "registry.terraform.io/lifeboat-dr/lifeboat";
const COMMAND_WITHIN: Duration = Duration::from_secs(180);

/// How Terraform reaches the provider.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tier {
    /// From a file system mirror, a process for each command.
    Installed,
    /// One process for all commands.
    Attached,
}

/// A directory with a configuration and its state.
#[derive(Debug)]
pub struct Workspace {
    dir: PathBuf,
    environment: Vec<(OsString, OsString)>,
    tier: Tier,
    _provider: Option<Daemon>,
}

/// What a plan says, from `terraform show -json`.
#[derive(Debug, Clone)]
pub struct Plan {
    /// The whole document.
    pub document: Value,
}

/// An error or a warning as `terraform … -json` reports it.
#[derive(Debug, Clone, Deserialize)]
pub struct Diagnostic {
    /// `error` or `warning`.
    pub severity: String,
    /// One line.
    pub summary: String,
    /// The rest.
    #[serde(default)]
    pub detail: String,
    /// The resource, where one is to blame.
    #[serde(default)]
    pub address: Option<String>,
    /// Where in the configuration.
    #[serde(default)]
    pub range: Option<Range>,
}

/// A place in the configuration.
#[derive(Debug, Clone, Deserialize)]
pub struct Range {
    /// The file's name.
    pub filename: String,
    /// Its first character.
    pub start: Position,
}

/// A line and a column, both from 1.
#[derive(Debug, Clone, Deserialize)]
pub struct Position {
    /// The line.
    pub line: u64,
    /// The column.
    pub column: u64,
}

impl Workspace {
    /// An empty workspace below `dir`; `environment` is added to every command (endpoint, token, certificate).
    ///
    /// # Errors
    /// When the provider isn't built, a file can't be written, or the attached provider doesn't start.
    pub fn new(dir: &Path, tier: Tier, environment: Vec<(OsString, OsString)>) -> Result<Self> {
        std::fs::create_dir_all(dir).with_context(|| format!("create {}", dir.display()))?;
        let mirror = dir.join(".mirror");
        let config = dir.join("terraform.rc");
        // No `direct` block: nothing is ever asked of a registry.
        let text = format!("provider_installation {{\n  filesystem_mirror {{\n    path = {mirror:?}\n  }}\n}}\n");
        std::fs::write(&config, text).with_context(|| format!("write {}", config.display()))?;
        let mut all: Vec<(OsString, OsString)> = vec![
            ("TF_CLI_CONFIG_FILE".into(), config.into()),
            ("TF_IN_AUTOMATION".into(), "1".into()),
            ("TF_INPUT".into(), "0".into()),
            ("CHECKPOINT_DISABLE".into(), "1".into()),
        ];
        all.extend(environment);
        let provider = match tier {
            Tier::Installed => {
                install(&mirror)?;
                None
            }
            Tier::Attached => {
                let (provider, reattach) = attach(dir, &all)?;
                all.push(("TF_REATTACH_PROVIDERS".into(), reattach.into()));
                Some(provider)
            }
        };
        Ok(Self { dir: dir.to_owned(), environment: all, tier, _provider: provider })
    }

    /// The same directory and state, with another way to the gateway. Only for a provider that is installed: one that is attached
    /// has its own way.
    #[must_use]
    pub fn through(&self, environment: Vec<(OsString, OsString)>) -> Self {
        let mut all = self.environment.clone();
        all.retain(|(name, _)| environment.iter().all(|(other, _)| other != name));
        all.extend(environment);
        Self { dir: self.dir.clone(), environment: all, tier: self.tier, _provider: None }
    }

    /// Where the configuration is.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Writes `main.tf`.
    ///
    /// # Errors
    /// When it can't be written.
    pub fn write(&self, configuration: &str) -> Result<()> {
        let path = self.dir.join("main.tf");
        std::fs::write(&path, configuration).with_context(|| format!("write {}", path.display()))
    }

    /// Copies a directory (an example), with the modules in it, into the workspace.
    ///
    /// # Errors
    /// When a file can't be copied.
    pub fn copy(&self, example: &Path) -> Result<()> {
        copy_into(example, &self.dir)
    }

    /// Runs `terraform ARGS`, whatever its exit code.
    ///
    /// # Errors
    /// When it can't be run or overruns its deadline.
    pub fn run(&self, args: &[&str]) -> Result<Outcome> {
        self.run_within(args, COMMAND_WITHIN)
    }

    /// Runs `terraform ARGS`, which may take so long.
    ///
    /// # Errors
    /// When it can't be run or overruns its deadline.
    pub fn run_within(&self, args: &[&str], limit: Duration) -> Result<Outcome> {
        Run::new("terraform").args(args).envs(&self.environment).dir(&self.dir).within(limit).outcome()
    }

    fn ok(&self, args: &[&str]) -> Result<String> {
        self.run(args)?.ok()
    }

    /// `terraform init`, as a user runs it.
    ///
    /// # Errors
    /// When it fails.
    pub fn init(&self) -> Result<String> {
        self.ok(&["init", "-no-color"])
    }

    /// `terraform plan -out`, and the plan read back.
    ///
    /// # Errors
    /// When planning fails.
    pub fn plan(&self) -> Result<Plan> {
        self.ok(&["plan", "-no-color", "-out=plan.bin"])?;
        let text = self.ok(&["show", "-json", "plan.bin"])?;
        Ok(Plan { document: serde_json::from_str(&text).context("read the plan")? })
    }

    /// `terraform apply` of the plan made last.
    ///
    /// # Errors
    /// When it fails.
    pub fn apply(&self) -> Result<String> {
        self.ok(&["apply", "-no-color", "plan.bin"])
    }

    /// The state, from `terraform show -json`.
    ///
    /// # Errors
    /// When it can't be read.
    pub fn state(&self) -> Result<State> {
        let text = self.ok(&["show", "-json"])?;
        Ok(State { document: serde_json::from_str(&text).context("read the state")? })
    }

    /// `terraform output -json`, as a map from name to value.
    ///
    /// # Errors
    /// When it can't be read.
    pub fn outputs(&self) -> Result<Value> {
        let text = self.ok(&["output", "-json"])?;
        let document: Value = serde_json::from_str(&text).context("read the outputs")?;
        let outputs = document.as_object().context("outputs are no object")?;
        Ok(outputs
            .iter()
            .map(|(name, output)| (name.clone(), output["value"].clone()))
            .collect::<serde_json::Map<_, _>>()
            .into())
    }

    /// Fails unless a plan would change nothing: `-detailed-exitcode` must be 0.
    ///
    /// # Errors
    /// With the plan's text when it has changes, or when planning fails.
    pub fn plan_is_empty(&self, refresh: bool) -> Result<()> {
        let refresh = format!("-refresh={refresh}");
        let outcome = self.run(&["plan", "-no-color", "-detailed-exitcode", &refresh])?;
        match outcome.code() {
            0 => Ok(()),
            2 => bail!("the plan ({refresh}) should be empty, and is:\n{}", outcome.stdout),
            _ => Err(outcome.failure()),
        }
    }

    /// One configuration's life: plan, `on_plan`, apply, `on_state`, then a plan without and one with refresh, both empty.
    ///
    /// # Errors
    /// The first thing that fails.
    pub fn step(
        &self,
        configuration: &str,
        on_plan: impl FnOnce(&Plan) -> Result<()>,
        on_state: impl FnOnce(&State) -> Result<()>,
    ) -> Result<()> {
        self.write(configuration)?;
        if self.tier == Tier::Installed {
            self.init()?;
        }
        on_plan(&self.plan()?).context("checks on the plan")?;
        self.apply()?;
        on_state(&self.state()?).context("checks on the state")?;
        self.plan_is_empty(false)?;
        self.plan_is_empty(true)
    }

    /// The diagnostics of a `terraform plan -json` that must fail.
    ///
    /// # Errors
    /// When it succeeds.
    pub fn plan_diagnostics(&self) -> Result<Vec<Diagnostic>> {
        let outcome = self.run(&["plan", "-json"])?;
        let changes = outcome.stdout.lines().filter(|line| line.contains("\"planned_change\"")).collect::<Vec<_>>();
        ensure!(!outcome.status.success(), "the plan should have been refused:\n{}", changes.join("\n"));
        diagnostics(&outcome.stdout)
    }

    /// `terraform import`, then a plan that must be empty.
    ///
    /// # Errors
    /// When the import fails or the imported state differs from the configuration.
    pub fn import(&self, address: &str, id: &str) -> Result<()> {
        self.ok(&["import", "-no-color", address, id])?;
        self.plan_is_empty(true)
    }

    /// Takes an object out of the state, leaving the object itself alone.
    ///
    /// # Errors
    /// When it isn't in the state.
    pub fn forget(&self, address: &str) -> Result<()> {
        self.ok(&["state", "rm", address]).map(drop)
    }

    /// `terraform apply ARGS`, interrupted as by Ctrl-C (the whole process group gets SIGINT) once `moment` has come. `then` is
    /// done when Terraform knows of it. What it printed.
    ///
    /// # Errors
    /// When the moment doesn't come, or the apply doesn't end as an interrupted one does: with exit code 1.
    pub fn interrupted_apply(
        &self,
        args: &[&str],
        what: &str,
        mut moment: impl FnMut() -> Result<bool>,
        then: impl FnOnce(),
    ) -> Result<String> {
        let log = self.dir.join("interrupted.log");
        let file = std::fs::File::create(&log).with_context(|| format!("create {}", log.display()))?;
        let errors = file.try_clone().context("share the log")?;
        let mut child = std::process::Command::new("terraform")
            .args(["apply", "-no-color", "-auto-approve"])
            .args(args)
            .envs(self.environment.iter().map(|(name, value)| (name, value)))
            .current_dir(&self.dir)
            .process_group(0)
            .stdin(std::process::Stdio::null())
            .stdout(file)
            .stderr(errors)
            .spawn()
            .context("start terraform")?;
        let group = i32::try_from(child.id()).ok().and_then(Pid::from_raw).context("terraform has no process id")?;
        let printed = || std::fs::read_to_string(&log).unwrap_or_default();
        let came = crate::eventually(what, COMMAND_WITHIN, || Ok(moment()?.then_some(())));
        // Also where it never came: nothing is left running.
        let interrupted = kill_process_group(group, Signal::INT);
        let noticed = crate::eventually("Terraform to notice the interrupt", COMMAND_WITHIN, || {
            let over = child.try_wait().context("look at terraform")?.is_some();
            Ok((over || printed().contains("Interrupt received")).then_some(()))
        });
        then();
        let ended = crate::eventually("the interrupted apply to end", COMMAND_WITHIN, || {
            child.try_wait().context("wait for terraform")
        });
        came.with_context(printed)?;
        interrupted.context("interrupt terraform")?;
        noticed?;
        let status = ended.with_context(printed)?;
        ensure!(status.code() == Some(1), "the interrupted apply ended with {status}:\n{}", printed());
        Ok(printed())
    }

    /// `terraform destroy`, and that the state is empty then.
    ///
    /// # Errors
    /// When something can't be destroyed.
    pub fn destroy(&self) -> Result<()> {
        self.ok(&["destroy", "-no-color", "-auto-approve"])?;
        let left = self.ok(&["state", "list"])?;
        ensure!(left.trim().is_empty(), "still in the state after destroy:\n{left}");
        Ok(())
    }
}

fn copy_into(from: &Path, to: &Path) -> Result<()> {
    std::fs::create_dir_all(to).with_context(|| format!("create {}", to.display()))?;
    for entry in std::fs::read_dir(from).with_context(|| format!("list {}", from.display()))? {
        let path = entry.with_context(|| format!("list {}", from.display()))?.path();
        let Some(name) = path.file_name() else { continue };
        if path.is_dir() {
            copy_into(&path, &to.join(name))?;
        } else {
            std::fs::copy(&path, to.join(name)).with_context(|| format!("copy {}", path.display()))?;
        }
    }
    Ok(())
}

/// The state, from `terraform show -json`.
#[derive(Debug, Clone)]
pub struct State {
    /// The whole document.
    pub document: Value,
}

impl State {
    /// The attributes of a resource or data source by its address.
    ///
    /// # Errors
    /// When the state has no such address.
    pub fn attributes(&self, address: &str) -> Result<&Value> {
        self.document["values"]["root_module"]["resources"]
            .as_array()
            .into_iter()
            .flatten()
            .find(|resource| resource["address"] == address)
            .map(|resource| &resource["values"])
            .with_context(|| format!("{address} is not in the state"))
    }

    /// One text attribute.
    ///
    /// # Errors
    /// When it is not there or no text.
    pub fn text(&self, address: &str, attribute: &str) -> Result<&str> {
        let value = &self.attributes(address)?[attribute];
        value.as_str().with_context(|| format!("{address}.{attribute} is no text: {value}"))
    }
}

impl Plan {
    /// The actions planned for an address: `["create"]`, `["no-op"]`, `["delete", "create"]`.
    ///
    /// # Errors
    /// When the plan has no such address.
    pub fn actions(&self, address: &str) -> Result<Vec<&str>> {
        let changes = self.document["resource_changes"].as_array();
        let change = changes
            .into_iter()
            .flatten()
            .find(|change| change["address"] == address)
            .with_context(|| format!("{address} is not in the plan"))?;
        Ok(change["change"]["actions"].as_array().into_iter().flatten().filter_map(Value::as_str).collect())
    }

    /// The id that an address is imported with, if it is.
    #[must_use]
    pub fn importing(&self, address: &str) -> Option<&str> {
        let changes = self.document["resource_changes"].as_array();
        let change = changes.into_iter().flatten().find(|change| change["address"] == address)?;
        change["change"]["importing"]["id"].as_str()
    }

    /// How many resources the plan creates, changes or deletes.
    #[must_use]
    pub fn changes(&self) -> usize {
        let changes = self.document["resource_changes"].as_array();
        let is_change = |change: &&Value| {
            let actions = &change["change"]["actions"];
            *actions != json!(["no-op"]) && *actions != json!(["read"])
        };
        changes.into_iter().flatten().filter(is_change).count()
    }
}

/// Reads the diagnostics among the lines that `terraform … -json` printed.
///
/// # Errors
/// When a diagnostic can't be read.
pub fn diagnostics(lines: &str) -> Result<Vec<Diagnostic>> {
    let mut found = Vec::new();
    for line in lines.lines() {
        let Ok(message) = serde_json::from_str::<Value>(line) else { continue };
        if message["type"] == "diagnostic" {
            let diagnostic = serde_json::from_value(message["diagnostic"].clone());
            found.push(diagnostic.with_context(|| format!("read a diagnostic: {line}"))?);
        }
    }
    Ok(found)
}

/// Puts the provider into a file system mirror, laid out as `make install` does.
fn install(mirror: &Path) -> Result<()> {
    let version = env!("CARGO_PKG_VERSION");
    let platform = match std::env::consts::ARCH {
        "aarch64" => "linux_arm64",
        _ => "linux_amd64",
    };
    let dir = mirror.join(PROVIDER).join(version).join(platform);
    std::fs::create_dir_all(&dir).with_context(|| format!("create {}", dir.display()))?;
    let target = dir.join(format!("terraform-provider-lifeboat_v{version}"));
    if !target.exists() {
        std::os::unix::fs::symlink(binaries::provider()?, &target)
            .with_context(|| format!("install the provider as {}", target.display()))?;
    }
    Ok(())
}

/// Starts one provider process for all commands; gives it and the value of `TF_REATTACH_PROVIDERS`.
fn attach(dir: &Path, environment: &[(OsString, OsString)]) -> Result<(Daemon, String)> {
    let log = dir.join("provider.log");
    let provider = Daemon::start("the provider", &binaries::provider()?, &["--debug".into()], environment, &log)?;
    let reattach = crate::eventually("the provider's reattach line", Duration::from_secs(20), || {
        if let Some(status) = provider.ended()? {
            bail!("the provider ended instead of serving: {status}");
        }
        let printed = std::fs::read_to_string(&log).unwrap_or_default();
        Ok(reattach_value(&printed))
    })
    .with_context(|| provider.log_tail(20))?;
    Ok((provider, reattach))
}

/// The value in a line `TF_REATTACH_PROVIDERS='{…}'`.
fn reattach_value(printed: &str) -> Option<String> {
    let line = printed.lines().find(|line| line.contains("TF_REATTACH_PROVIDERS="))?;
    let (_, value) = line.split_once("TF_REATTACH_PROVIDERS=")?;
    let value = value.trim().trim_matches('\'');
    serde_json::from_str::<Value>(value).ok().map(|_| value.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn diagnostics_are_read_with_their_range() {
        let lines = concat!(
            r#"{"@level":"info","type":"version"}"#,
            "\n",
            r#"{"@level":"error","type":"diagnostic","diagnostic":{"severity":"error","summary":"Too small","detail":"d","#,
            r#""address":"lifeboat_volume.db","range":{"filename":"main.tf","start":{"line":7,"column":3,"byte":90},"end":{"line":7,"column":9,"byte":96}}}}"#,
            "\n"
        );
        let found = diagnostics(lines).unwrap();
        assert_eq!(found.len(), 1);
        let range = found[0].range.as_ref().unwrap();
        assert_eq!((found[0].summary.as_str(), range.start.line, range.start.column), ("Too small", 7, 3));
    }

    #[test]
    fn the_reattach_line_is_found_among_others() {
        let printed = "provider is ready\n\tTF_REATTACH_PROVIDERS='{\"a/b/c\":{\"Protocol\":\"grpc\"}}'\n";
        assert_eq!(reattach_value(printed).unwrap(), "{\"a/b/c\":{\"Protocol\":\"grpc\"}}");
        assert_eq!(reattach_value("nothing yet"), None);
    }

    #[test]
    fn a_plan_counts_changes_and_not_reads() {
        let plan = Plan {
            document: json!({"resource_changes": [
                {"address": "a.b", "change": {"actions": ["no-op"]}},
                {"address": "data.c.d", "change": {"actions": ["read"]}},
                {"address": "e.f", "change": {"actions": ["delete", "create"]}},
            ]}),
        };
        assert_eq!(plan.changes(), 1);
        assert_eq!(plan.actions("e.f").unwrap(), ["delete", "create"]);
        assert!(plan.actions("g.h").is_err());
    }
}
