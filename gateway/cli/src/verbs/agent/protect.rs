//! `lifeboat agent run` and `lifeboat agent status`: protecting disks of this machine, and how that goes.
//!
//! `run` takes its settings from flags, or from a TOML file with the same names. It runs until SIGTERM or SIGINT, like a gateway.
//! `status` asks nobody: it reads what the agent wrote two seconds ago at most, and says so when that is long ago.

use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use lifeboat_agent::{AgentConfig, AgentStatus, AppHooks, DiskConfig};
use lifeboat_api::default_hook_timeout;
use lifeboat_api::validate::parse_duration;
use lifeboat_engine::at_rest::Encrypted;
use lifeboat_model::Timestamp;
use lifeboat_vault::KeySource;
use serde::Deserialize;
use tokio::sync::watch;

use crate::connect::environment;
use crate::failure::{Failure, Result};
use crate::local_key::{self, LocalKeyArgs};
use crate::notify::Notify;
use crate::output::Output;
use crate::render;
use crate::serve::{LogSettings, TraceSettings, peers, read_settings, stop_signal};

/// What a running agent wrote longer ago than this is no longer true.
const STALE: Duration = Duration::from_secs(15);
const HOOK_TIMEOUT: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(600));
const HOOKS: &str = "/etc/lifeboat/hooks";
const POINT_INTERVAL: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(3600));

/// Protect disks of this machine.
#[derive(Args, Debug, Default)]
pub(super) struct RunArgs {
    /// File of settings, TOML, with the names of these flags; flags come before it
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// The directory that holds this machine's identity, its journal and what it protects
    #[arg(long, value_name = "DIR")]
    state: Option<PathBuf>,
    /// Where the disks are mounted, as files volumes/NAME.img
    #[arg(long, value_name = "DIR")]
    mount: Option<PathBuf>,
    /// A disk image or block device; again for each further one
    #[arg(long, value_name = "[NAME=]PATH")]
    disk: Vec<String>,
    /// The name of its consistency group; this machine's when left out
    #[arg(long)]
    group: Option<String>,
    /// The name of the policy that governs it
    #[arg(long)]
    policy: Option<String>,
    /// Process servers, tried in order: HOST:PORT, separated by commas
    #[arg(long, value_name = "HOST:PORT,…")]
    process_server: Option<String>,
    /// Gateways that coordinate its replication group, if it is in one: HOST:PORT, separated by commas, in the same order at every
    /// member
    #[arg(long, value_name = "HOST:PORT,…")]
    consistency_server: Option<String>,
    /// Gateways that renew its certificate: https://HOST:PORT, separated by commas [env: LIFEBOAT_ENDPOINT]
    #[arg(long, value_name = "URL,…")]
    endpoint: Option<String>,
    /// Time between recovery points while there are writes, 1s to 1h; the policy's when left out
    #[arg(long, value_name = "DURATION")]
    point_interval: Option<String>,
    /// Program in this machine's directory of hooks that runs before an application-consistent point
    #[arg(long, value_name = "NAME")]
    pre_script: Option<String>,
    /// Program there that runs after every attempt at one
    #[arg(long, value_name = "NAME")]
    post_script: Option<String>,
    /// How long each of them may take, 1s to 10m, 30s when left out
    #[arg(long, value_name = "DURATION")]
    hook_timeout: Option<String>,
    /// The directory of hooks, /etc/lifeboat/hooks when left out
    #[arg(long, value_name = "DIR")]
    hooks: Option<PathBuf>,
    /// Most that the journal may take, for example 4GiB; by the policy, the disks and the space there is when left out
    #[arg(long, value_name = "SIZE")]
    journal_bytes: Option<String>,
    /// What is logged: info, debug, or module=level, separated by commas [env: LIFEBOAT_LOG]
    #[arg(long, value_name = "FILTER")]
    log: Option<String>,
    #[command(flatten)]
    local_key: LocalKeyArgs,
}

/// How a running agent is doing.
#[derive(Args, Debug)]
pub(super) struct StatusArgs {
    /// The agent's state directory
    #[arg(long, value_name = "DIR")]
    state: PathBuf,
}

/// The file of settings.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    state: Option<PathBuf>,
    mount: Option<PathBuf>,
    #[serde(default)]
    disk: Vec<String>,
    group: Option<String>,
    policy: Option<String>,
    process_server: Option<String>,
    consistency_server: Option<String>,
    endpoint: Option<String>,
    point_interval: Option<String>,
    pre_script: Option<String>,
    post_script: Option<String>,
    hook_timeout: Option<String>,
    hooks: Option<PathBuf>,
    journal_bytes: Option<String>,
    log: Option<String>,
    local_key_file: Option<PathBuf>,
    local_passphrase_file: Option<PathBuf>,
}

pub(super) async fn run(args: RunArgs) -> Result<()> {
    let log = args.log.clone();
    let (mut config, local, kept) = settings(args)?;
    let filter = log.or_else(|| environment("LIFEBOAT_LOG")).or(kept).unwrap_or_else(|| "info".to_owned());
    let traces = TraceSettings::read(environment, &lifeboat_server::host_name())?;
    let exporter = crate::serve::start_log(&LogSettings { filter, format: None }, traces)?;
    let stop = stop_signal()?;
    config.host = Encrypted::host(local_key::open(&config.state, local.as_ref()).await?);
    let notify = Notify::new(environment);
    let (told, hears) = watch::channel(None);
    let stopping = notify.clone();
    let stop = async move {
        stop.await;
        stopping.stopping();
    };
    let telling = {
        let notify = notify.clone();
        let ready = mounted(notify.clone(), hears.clone());
        async move {
            tokio::join!(ready, notify.keep(|| said(hears.clone())));
        }
    };
    let ran = tokio::select! {
        ran = lifeboat_agent::run(config, told, stop) => ran,
        () = telling => Ok(()),
    };
    if let Some(exporter) = exporter {
        exporter.finish().await;
    }
    ran.map_err(|error| Failure::failed(format!("{error:#}")))
}

/// Says that the agent is up as soon as its disks are mounted, and why they aren't until then.
async fn mounted(notify: Notify, mut hears: watch::Receiver<Option<AgentStatus>>) {
    let is_up = |status: &Option<AgentStatus>| status.as_ref().is_some_and(|status| status.state != "waiting");
    if hears.wait_for(is_up).await.is_ok() {
        notify.ready();
    }
    std::future::pending::<()>().await;
}

/// What the agent says next of itself, once its disks are mounted. Its own loop says it: one that is stuck says nothing.
async fn said(mut hears: watch::Receiver<Option<AgentStatus>>) -> Option<String> {
    if hears.borrow_and_update().as_ref().is_some_and(|status| status.state != "waiting") {
        // Whoever said something and is gone is at its end.
        hears.changed().await.ok()?;
    }
    let status = hears.borrow_and_update().clone()?;
    let server = status.process_server.map_or_else(String::new, |server| format!(" at {server}"));
    let because = status.reasons.first().map_or_else(String::new, |reason| format!(": {reason}"));
    Some(format!("{}{server}; {}{because}", status.state, status.health))
}

/// The settings that count, what opens the local key, and the log's filter in the file.
fn settings(args: RunArgs) -> Result<(AgentConfig, Option<KeySource>, Option<String>)> {
    let file: File = args.config.as_deref().map(read_settings).transpose()?.unwrap_or_default();
    let missing =
        |what: &str| Failure::usage(format!("the agent has no {what}: give --{what}, or set it in --config FILE"));
    let list = |text: Option<String>| -> Vec<String> {
        let text = text.unwrap_or_default();
        text.split(',').map(str::trim).filter(|one| !one.is_empty()).map(str::to_owned).collect()
    };
    let disks = if args.disk.is_empty() { file.disk } else { args.disk };
    let interval = args.point_interval.or(file.point_interval);
    let point_interval =
        interval.map(|text| duration("point-interval", &text, POINT_INTERVAL, "1s and 1h")).transpose()?;
    let hooks = hooks(
        (args.pre_script.or(file.pre_script), args.post_script.or(file.post_script)),
        args.hook_timeout.or(file.hook_timeout),
        args.hooks.or(file.hooks),
    )?;
    let journal = args.journal_bytes.or(file.journal_bytes);
    let config = AgentConfig {
        state: args.state.or(file.state).ok_or_else(|| missing("state"))?,
        mount: args.mount.or(file.mount).ok_or_else(|| missing("mount"))?,
        disks: disks.iter().map(|text| disk(text)).collect::<Result<_>>()?,
        group: args.group.or(file.group),
        policy: args.policy.or(file.policy).ok_or_else(|| missing("policy"))?,
        process_servers: list(args.process_server.or(file.process_server)),
        consistency_servers: args
            .consistency_server
            .or(file.consistency_server)
            .map(|text| peers(&text).map_err(|error| Failure::usage(format!("--consistency-server: {error}"))))
            .transpose()?
            .unwrap_or_default(),
        endpoints: list(args.endpoint.or_else(|| environment("LIFEBOAT_ENDPOINT")).or(file.endpoint)),
        point_interval,
        journal_bytes: journal
            .map(|text| render::parse_size(&text).map_err(|error| Failure::usage(format!("--journal-bytes: {error}"))))
            .transpose()?,
        hooks,
        host: Encrypted::host(None),
    };
    let local = match args.local_key.source()? {
        None => local_key::source(file.local_key_file, file.local_passphrase_file)?,
        given => given,
    };
    if config.process_servers.is_empty() {
        return Err(missing("process-server"));
    }
    if config.disks.is_empty() {
        return Err(missing("disk"));
    }
    Ok((config, local, file.log))
}

/// A duration within bounds; `between`: those, for people.
fn duration(flag: &str, text: &str, bounds: (Duration, Duration), between: &str) -> Result<Duration> {
    let found = parse_duration(text).map_err(|error| Failure::usage(format!("--{flag}: {error}")))?;
    if found < bounds.0 || found > bounds.1 {
        return Err(Failure::usage(format!("--{flag} must lie between {between}, not {text}")));
    }
    Ok(found)
}

/// The programs that hold applications, if any is named.
fn hooks(
    (pre, post): (Option<String>, Option<String>),
    timeout: Option<String>,
    directory: Option<PathBuf>,
) -> Result<Option<AppHooks>> {
    if pre.is_none() && post.is_none() {
        return match timeout {
            Some(_) => Err(Failure::usage("--hook-timeout is for hooks: name one with --pre-script or --post-script")),
            None => Ok(None),
        };
    }
    for (flag, name) in [("pre-script", &pre), ("post-script", &post)] {
        if name.as_ref().is_some_and(|name| name.is_empty() || name.contains('/') || name.starts_with('.')) {
            return Err(Failure::usage(format!(
                "--{flag} is the name of a program in the directory of hooks, no path: {:?}",
                name.as_deref().unwrap_or_default()
            )));
        }
    }
    let timeout = timeout.unwrap_or_else(default_hook_timeout);
    let timeout = duration("hook-timeout", &timeout, HOOK_TIMEOUT, "1s and 10m")?;
    Ok(Some(AppHooks { directory: directory.unwrap_or_else(|| HOOKS.into()), pre, post, timeout }))
}

/// `PATH` or `NAME=PATH`; the path is absolute.
fn disk(text: &str) -> Result<DiskConfig> {
    let (name, path) = match text.split_once('=') {
        Some((name, path)) if !name.contains('/') => (Some(name.to_owned()), path),
        _ => (None, text),
    };
    if !Path::new(path).is_absolute() {
        return Err(Failure::usage(format!("--disk {text}: name the disk by its absolute path")));
    }
    Ok(DiskConfig { name, path: PathBuf::from(path) })
}

pub(super) fn status(args: &StatusArgs, output: Output) -> Result<()> {
    let found = lifeboat_agent::read_status(&args.state)
        .map_err(|error| Failure::unreadable("the status of an agent", &args.state, &error))?;
    let age = Timestamp::now().seconds_since(found.time);
    output.show(&found, || {
        let mut lines = vec![
            ("state", found.state.clone()),
            ("health", found.health.to_string()),
            ("group", found.group.clone()),
            ("process server", render::maybe(found.process_server.clone())),
            ("backlog", render::size(found.backlog_bytes)),
            ("still to be copied", render::maybe(found.resync_bytes_left.map(render::size))),
            ("last point", render::maybe(found.last_point)),
        ];
        lines.extend(found.reasons.iter().map(|reason| ("because", reason.clone())));
        for disk in &found.disks {
            let path = disk.path.as_deref().unwrap_or("");
            lines.push(("disk", format!("{} {} {path}", disk.name, render::size(disk.size_bytes))));
        }
        if found.state != "stopped" && age > STALE.as_secs_f64() {
            lines.push(("note", format!("written {age:.0} s ago: the agent doesn't run")));
        }
        render::fields(&lines)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_come_from_flags_before_the_file_and_what_is_missing_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("agent.toml");
        std::fs::write(
            &path,
            "state = \"/var/lib/lifeboat-agent\"\nmount = \"/mnt/lifeboat\"\ndisk = [\"data=/dev/vdb\"]\npolicy = \"gold\"\n\
             process_server = \"a:9443, b:9443\"\nconsistency_server = \"a:20004,b:20004\"\npoint_interval = \"10s\"\n",
        )
        .unwrap();
        let of = |args: RunArgs| settings(args).map(|(config, ..)| config);
        let args = || RunArgs { config: Some(path.clone()), ..RunArgs::default() };
        let config = of(args()).unwrap();
        assert_eq!(config.process_servers, ["a:9443", "b:9443"]);
        assert_eq!(config.consistency_servers, ["a:20004", "b:20004"]);
        assert_eq!(config.disks, [DiskConfig { name: Some("data".into()), path: "/dev/vdb".into() }]);
        assert_eq!((config.point_interval, config.hooks), (Some(Duration::from_secs(10)), None));
        let config =
            of(RunArgs { disk: vec!["/srv/a=b.raw".into()], policy: Some("silver".into()), ..args() }).unwrap();
        assert_eq!((config.policy.as_str(), config.disks[0].name.as_deref()), ("silver", None));
        assert_eq!(config.disks[0].path, Path::new("/srv/a=b.raw"));
        let hooked = RunArgs { post_script: Some("thaw".into()), hook_timeout: Some("5s".into()), ..args() };
        let hooks = of(hooked).unwrap().hooks.unwrap();
        assert_eq!((hooks.pre.as_deref(), hooks.post.as_deref(), hooks.timeout.as_secs()), (None, Some("thaw"), 5));
        assert_eq!(hooks.directory, Path::new("/etc/lifeboat/hooks"));
        for (wrong, named) in [
            (RunArgs { pre_script: Some("/bin/true".into()), ..args() }, "pre-script"),
            (RunArgs { post_script: Some("..".into()), ..args() }, "post-script"),
            (RunArgs { hook_timeout: Some("5s".into()), ..args() }, "hook-timeout"),
            (RunArgs { pre_script: Some("freeze".into()), hook_timeout: Some("1h".into()), ..args() }, "hook-timeout"),
            (RunArgs::default(), "state"),
            (RunArgs { point_interval: Some("2h".into()), ..args() }, "point-interval"),
            (RunArgs { disk: vec!["data.raw".into()], ..args() }, "absolute"),
            (RunArgs { journal_bytes: Some("much".into()), ..args() }, "journal-bytes"),
            (RunArgs { consistency_server: Some("a".into()), ..args() }, "consistency-server"),
        ] {
            let error = of(wrong).unwrap_err();
            assert!(error.to_string().contains(named), "{error}");
        }
        std::fs::write(&path, "stat = \"/s\"\n").unwrap();
        assert!(of(args()).is_err(), "an unknown key is refused");
    }
}
