//! What a gateway is started with: flags over `LIFEBOAT_*` over the file.
//!
//! The file is TOML, with the flags' names and underscores for hyphens. A key that isn't known is refused by name: a
//! setting with a typing error would otherwise be a setting that isn't there. Variables that are set to nothing count as
//! not set.

use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{Args, ValueEnum};
use lifeboat_api::validate::parse_duration;
use lifeboat_api::{EncryptionKey, KeySourceKind};
use lifeboat_server::{ComputeConfig, ServeConfig};
use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::notices::{ChannelFile, NoticesFile};
use crate::failure::{Failure, Result};
use crate::local_key::{self, LocalKeyArgs};
use crate::render::parse_size;

/// Run a gateway.
#[derive(Args, Debug, Default)]
pub(crate) struct ServeArgs {
    /// File of settings, TOML; flags and variables come before it [env: LIFEBOAT_CONFIG]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Where it keeps its journals, images and identity [env: LIFEBOAT_STATE]
    #[arg(long, value_name = "DIR")]
    state: Option<PathBuf>,
    /// Where it mounts its volumes; what its declaration says when left out [env: LIFEBOAT_MOUNT]
    #[arg(long, value_name = "DIR")]
    mount: Option<PathBuf>,
    /// The name of its site [env: LIFEBOAT_SITE]
    #[arg(long)]
    site: Option<String>,
    /// Its name; this machine's when left out [env: LIFEBOAT_NAME]
    #[arg(long)]
    name: Option<String>,
    /// ADDRESS:PORT of its API; port 443 on every address when left out [env: LIFEBOAT_LISTEN_MANAGEMENT]
    #[arg(long, value_name = "ADDRESS:PORT")]
    listen_management: Option<String>,
    /// ADDRESS:PORT of NBD: on loopback (127.0.0.1:10809) for this machine, on other addresses ([::]:10809) with TLS for whom the
    /// `export` of a volume names; only the socket in the state directory when left out [env: LIFEBOAT_LISTEN_NBD]
    #[arg(long, value_name = "ADDRESS:PORT")]
    listen_nbd: Option<String>,
    /// Socket of `lifeboat iscsi`, through which volumes with an `export` are served over iSCSI; they aren't when left out [env:
    /// LIFEBOAT_ISCSI]
    #[arg(long, value_name = "SOCKET")]
    iscsi: Option<PathBuf>,
    /// Host by which others reach exported volumes, if it isn't the address that is listened on or by which this machine reaches
    /// others [env: LIFEBOAT_EXPORT_ADDRESS]
    #[arg(long, value_name = "HOST")]
    export_address: Option<String>,
    /// ADDRESS:PORT at which it is a process server for mobility agents, port 9443 by custom; it is none when left out [env:
    /// LIFEBOAT_LISTEN_DATA]
    #[arg(long, value_name = "ADDRESS:PORT")]
    listen_data: Option<String>,
    /// HOST:PORT at which agents reach that, if it isn't the address that is listened on [env: LIFEBOAT_DATA_ADDRESS]
    #[arg(long, value_name = "HOST:PORT")]
    data_address: Option<String>,
    /// Most that a process server may cache of what agents send until its vault has it, for example 20GiB; a quarter of the free
    /// space when left out [env: LIFEBOAT_CACHE_BYTES]
    #[arg(long, value_name = "SIZE")]
    cache_bytes: Option<String>,
    /// ADDRESS:PORT at which it coordinates replication groups, port 20004 by custom; it coordinates none when left out [env:
    /// LIFEBOAT_LISTEN_CONSISTENCY]
    #[arg(long, value_name = "ADDRESS:PORT")]
    listen_consistency: Option<String>,
    /// Gateways that coordinate the replication groups of its groups: HOST:PORT, separated by commas, in the same order at every
    /// gateway and agent; itself when left out [env: LIFEBOAT_CONSISTENCY_SERVER]
    #[arg(long, value_name = "HOST:PORT,…")]
    consistency_server: Option<String>,
    /// Time between two looks at the catalog, 2s when left out [env: LIFEBOAT_RECONCILE_INTERVAL]
    #[arg(long, value_name = "DURATION")]
    reconcile_interval: Option<String>,
    /// Most that a group's journal may take, for example 4GiB; by the space there is when left out [env:
    /// LIFEBOAT_JOURNAL_BYTES]
    #[arg(long, value_name = "SIZE")]
    journal_bytes: Option<String>,
    /// Directory of the programs that may quiet applications around a recovery point, /etc/lifeboat/hooks when left out [env:
    /// LIFEBOAT_HOOKS]
    #[arg(long, value_name = "DIR")]
    hooks: Option<PathBuf>,
    /// What it runs machines with: none, qemu or script; none when left out [env: LIFEBOAT_COMPUTE]
    #[arg(long, value_name = "DRIVER")]
    compute: Option<String>,
    /// Directory of the programs start, stop, status, … of --compute script, /etc/lifeboat/compute when left out [env:
    /// LIFEBOAT_COMPUTE_PROGRAMS]
    #[arg(long, value_name = "DIR")]
    compute_programs: Option<PathBuf>,
    /// Programs that may be asked for keys (kms_key = command:PROGRAM), absolute paths separated by commas; none when left
    /// out [env: LIFEBOAT_KMS_PROGRAMS]
    #[arg(long, value_name = "PROGRAMS")]
    kms_programs: Option<String>,
    /// Whether what no recovery point and no branch needs is deleted from vaults, a day after it was found, and sparse segments
    /// are rebuilt; true when left out [env: LIFEBOAT_COLLECT_GARBAGE]
    #[arg(long, value_name = "true|false", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    collect_garbage: Option<bool>,
    /// Key file of the vault that it registers with by key, an absolute path; otherwise what is given with the registration key, or
    /// where the other gateway has it [env: LIFEBOAT_VAULT_KEY_FILE]
    #[arg(long, value_name = "FILE")]
    vault_key_file: Option<PathBuf>,
    /// The same in a key management service, of a program in --kms-programs [env: LIFEBOAT_VAULT_KMS_KEY]
    #[arg(long, value_name = "NAME", conflicts_with = "vault_key_file")]
    vault_kms_key: Option<String>,
    /// File of whom it tells what happens, TOML: the `[[notice]]` that may stand in the file of settings too [env:
    /// LIFEBOAT_NOTICES]
    #[arg(long, value_name = "FILE")]
    notices: Option<PathBuf>,
    /// What is logged: info, debug, or module=level, separated by commas [env: LIFEBOAT_LOG]
    #[arg(long, value_name = "FILTER")]
    log: Option<String>,
    /// text or json; text on a terminal when left out [env: LIFEBOAT_LOG_FORMAT]
    #[arg(long, value_name = "FORMAT")]
    log_format: Option<String>,
    #[command(flatten)]
    local_key: LocalKeyArgs,
}

/// The file of settings.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    state: Option<String>,
    mount: Option<String>,
    site: Option<String>,
    name: Option<String>,
    listen_management: Option<String>,
    listen_nbd: Option<String>,
    iscsi: Option<String>,
    export_address: Option<String>,
    listen_data: Option<String>,
    data_address: Option<String>,
    cache_bytes: Option<String>,
    listen_consistency: Option<String>,
    consistency_server: Option<String>,
    reconcile_interval: Option<String>,
    journal_bytes: Option<String>,
    hooks: Option<String>,
    collect_garbage: Option<bool>,
    compute: Option<String>,
    compute_programs: Option<String>,
    kms_programs: Option<String>,
    vault_key_file: Option<String>,
    vault_kms_key: Option<String>,
    log: Option<String>,
    log_format: Option<String>,
    notices: Option<String>,
    notice_settle: Option<String>,
    notice_remind_after: Option<String>,
    #[serde(default)]
    notice: Vec<ChannelFile>,
    local_key_file: Option<String>,
    local_passphrase_file: Option<String>,
}

/// What is logged, and how.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct LogSettings {
    pub(crate) filter: String,
    pub(crate) format: Option<LogFormat>,
}

/// How a log is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum LogFormat {
    /// For people.
    Text,
    /// For programs.
    Json,
}

/// Everything that `serve` needs to know.
#[derive(Debug)]
pub(crate) struct Settings {
    pub(crate) serve: ServeConfig,
    pub(crate) log: LogSettings,
}

/// A value, and who gave it, for messages.
struct Given<T> {
    value: T,
    by: String,
}

impl<T> Given<T> {
    fn read<U>(self, parse: impl FnOnce(&T) -> Result<U, String>) -> Result<U> {
        parse(&self.value).map_err(|error| Failure::usage(format!("{}: {error}", self.by)))
    }
}

impl ServeArgs {
    /// The settings that count.
    ///
    /// # Errors
    /// `Usage` for a value that makes no sense, an unknown key, or no state directory; `NotFound` for a file that isn't
    /// there.
    pub(crate) fn settings(self, variable: impl Fn(&str) -> Option<String>) -> Result<Settings> {
        let path = self.config.clone().or_else(|| variable("LIFEBOAT_CONFIG").map(PathBuf::from));
        let file: File = path.as_deref().map(read).transpose()?.unwrap_or_default();
        let pick = |name: &str, flag: Option<String>, kept: Option<String>| -> Option<Given<String>> {
            let upper = format!("LIFEBOAT_{}", name.to_uppercase());
            if let Some(value) = flag {
                return Some(Given { value, by: format!("--{}", name.replace('_', "-")) });
            }
            if let Some(value) = variable(&upper) {
                return Some(Given { value, by: upper });
            }
            let file = path.as_deref().unwrap_or_else(|| Path::new("")).display();
            kept.map(|value| Given { value, by: format!("`{name}` in {file}") })
        };
        // Paths stay as they were given, also when they are no UTF-8.
        let pick_path = |name: &str, flag: Option<PathBuf>, kept: Option<String>| {
            flag.or_else(|| pick(name, None, kept).map(|given| PathBuf::from(given.value)))
        };
        let state = pick_path("state", self.state, file.state).ok_or_else(|| {
            Failure::usage(
                "the gateway has no state directory: give --state DIR, set LIFEBOAT_STATE, or set `state` in the file of \
                 settings",
            )
        })?;
        let mut serve = ServeConfig::new(state);
        serve.mount = pick_path("mount", self.mount, file.mount);
        serve.site = pick("site", self.site, file.site).map(|given| given.value);
        if let Some(given) = pick("name", self.name, file.name) {
            serve.name = given.value;
        }
        if let Some(given) = pick("listen_management", self.listen_management, file.listen_management) {
            serve.listen_management = given.read(address)?;
        }
        serve.listen_data =
            pick("listen_data", self.listen_data, file.listen_data).map(|given| given.read(address)).transpose()?;
        serve.data_address =
            pick("data_address", self.data_address, file.data_address).map(|given| given.read(address)).transpose()?;
        serve.listen_consistency = pick("listen_consistency", self.listen_consistency, file.listen_consistency)
            .map(|given| given.read(address))
            .transpose()?;
        if let Some(given) = pick("consistency_server", self.consistency_server, file.consistency_server) {
            serve.consistency_servers = given.read(|text| peers(text))?;
        }
        serve.listen_nbd =
            pick("listen_nbd", self.listen_nbd, file.listen_nbd).map(|given| given.read(address)).transpose()?;
        serve.iscsi = pick_path("iscsi", self.iscsi, file.iscsi);
        serve.export_address = pick("export_address", self.export_address, file.export_address)
            .map(|given| given.read(|text| host(text)))
            .transpose()?;
        if let Some(given) = pick("reconcile_interval", self.reconcile_interval, file.reconcile_interval) {
            serve.reconcile_interval = given.read(interval)?;
        }
        if let Some(given) = pick("cache_bytes", self.cache_bytes, file.cache_bytes) {
            serve.cache_bytes = Some(given.read(|text| parse_size(text))?);
        }
        if let Some(given) = pick("journal_bytes", self.journal_bytes, file.journal_bytes) {
            serve.journal_bytes = Some(given.read(|text| parse_size(text))?);
        }
        serve.collect_garbage = match (self.collect_garbage, variable("LIFEBOAT_COLLECT_GARBAGE")) {
            (Some(given), _) => given,
            (None, None) => file.collect_garbage.unwrap_or(true),
            (None, Some(text)) => text
                .parse()
                .map_err(|_| Failure::usage(format!("LIFEBOAT_COLLECT_GARBAGE: {text:?} must be true or false")))?,
        };
        if let Some(hooks) = pick_path("hooks", self.hooks, file.hooks) {
            serve.hooks = hooks;
        }
        let programs_dir = pick_path("compute_programs", self.compute_programs, file.compute_programs);
        if let Some(given) = pick("compute", self.compute, file.compute) {
            let directory = programs_dir.unwrap_or_else(|| PathBuf::from("/etc/lifeboat/compute"));
            serve.compute = given.read(|text| compute(text, directory.clone()))?;
        }
        if let Some(given) = pick("kms_programs", self.kms_programs, file.kms_programs) {
            serve.kms_programs = given.read(|text| programs(text))?;
        }
        let vault_key_file = pick_path("vault_key_file", self.vault_key_file, file.vault_key_file);
        let vault_kms_key = pick("vault_kms_key", self.vault_kms_key, file.vault_kms_key);
        serve.vault_key = vault_key(vault_key_file, vault_kms_key.map(|given| given.value))?;
        let (key_file, passphrase_file) = (self.local_key.local_key_file, self.local_key.local_passphrase_file);
        serve.local_key = local_key::source(
            pick_path("local_key_file", key_file, file.local_key_file),
            pick_path("local_passphrase_file", passphrase_file, file.local_passphrase_file),
        )?;
        let own = pick_path("notices", self.notices, file.notices);
        let notices = NoticesFile::new(file.notice_settle, file.notice_remind_after, file.notice);
        serve.notices = super::notices::settings(own.as_deref(), notices, path.as_deref())?;
        let log = LogSettings {
            filter: pick("log", self.log, file.log).map_or_else(|| "info".to_owned(), |given| given.value),
            format: pick("log_format", self.log_format, file.log_format)
                .map(|given| {
                    given.read(|text| LogFormat::from_str(text, false).map_err(|_| "must be text or json".into()))
                })
                .transpose()?,
        };
        Ok(Settings { serve, log })
    }
}

/// `HOST:PORT`, separated by commas.
pub(crate) fn peers(text: &str) -> Result<Vec<String>, String> {
    let peer = |one: &str| {
        let port =
            one.rsplit_once(':').filter(|(host, _)| !host.is_empty()).and_then(|(_, port)| port.parse::<u16>().ok());
        port.filter(|port| *port > 0).map(|_| one.to_owned()).ok_or_else(|| format!("{one:?} is no HOST:PORT"))
    };
    text.split(',').map(str::trim).filter(|one| !one.is_empty()).map(peer).collect()
}

/// A host or address with a port, as it is listened on.
fn address(text: &String) -> Result<String, String> {
    let port =
        text.rsplit_once(':').filter(|(host, _)| !host.is_empty()).and_then(|(_, port)| port.parse::<u16>().ok());
    match port {
        Some(_) => Ok(text.clone()),
        None => Err(format!("{text:?} must be ADDRESS:PORT, for example 127.0.0.1:8443 or [::]:443")),
    }
}

fn compute(text: &str, programs: PathBuf) -> Result<ComputeConfig, String> {
    match text {
        "none" => Ok(ComputeConfig::None),
        "qemu" => Ok(ComputeConfig::Qemu),
        "script" => Ok(ComputeConfig::Script(programs)),
        other => Err(format!("{other:?} must be none, qemu or script")),
    }
}

/// What opens the vault that the gateway registers with.
fn vault_key(key_file: Option<PathBuf>, kms_key: Option<String>) -> Result<Option<EncryptionKey>> {
    let key = |key_source| EncryptionKey { key_source, passphrase: None, key_file: None, kms_key: None };
    match (key_file, kms_key) {
        (None, None) => Ok(None),
        (Some(path), None) if path.is_absolute() => {
            Ok(Some(EncryptionKey { key_file: Some(path.display().to_string()), ..key(KeySourceKind::KeyFile) }))
        }
        (Some(path), None) => {
            Err(Failure::usage(format!("--vault-key-file: {} must be an absolute path", path.display())))
        }
        (None, Some(name)) => Ok(Some(EncryptionKey { kms_key: Some(name), ..key(KeySourceKind::Kms) })),
        (Some(_), Some(_)) => Err(Failure::usage(
            "both a key file (--vault-key-file) and a key of a service (--vault-kms-key) are given for the vault: give one",
        )),
    }
}

fn programs(text: &str) -> Result<Vec<PathBuf>, String> {
    let paths: Vec<PathBuf> =
        text.split(',').map(str::trim).filter(|path| !path.is_empty()).map(PathBuf::from).collect();
    match paths.iter().find(|path| !path.is_absolute()) {
        Some(path) => Err(format!("{} must be an absolute path", path.display())),
        None => Ok(paths),
    }
}

fn interval(text: &String) -> Result<Duration, String> {
    let interval = parse_duration(text)?;
    if interval < Duration::from_millis(100) || interval > Duration::from_secs(60) {
        return Err(format!("must lie between 100ms and 1m, not {text}"));
    }
    Ok(interval)
}

/// A host's name or address, without a port.
fn host(text: &str) -> std::result::Result<String, String> {
    let name = |text: &str| text.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-'));
    if text.parse::<std::net::IpAddr>().is_ok() || (!text.is_empty() && name(text)) {
        return Ok(text.to_owned());
    }
    Err(format!("{text:?} must be a host's name or address, without a port"))
}

/// Reads a file of settings, TOML.
///
/// # Errors
/// It can't be read, or line so and so makes no sense.
pub(crate) fn read<T: DeserializeOwned>(path: &Path) -> Result<T> {
    let text =
        std::fs::read_to_string(path).map_err(|error| Failure::unreadable("the file of settings", path, &error))?;
    toml::from_str(&text).map_err(|error| {
        let line = error
            .span()
            .map_or(1, |span| text.bytes().take(span.start).filter(|byte| *byte == b'\n').count().saturating_add(1));
        Failure::usage(format!("{}:{line}: {}", path.display(), error.message()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::failure::Exit;

    fn file(text: &str) -> (tempfile::TempDir, PathBuf) {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("lifeboat.toml");
        std::fs::write(&path, text).expect("written");
        (dir, path)
    }

    #[test]
    fn flags_come_before_variables_and_variables_before_the_file() {
        let (_dir, path) = file(
            "state = \"/from/file\"\nmount = \"/mnt/file\"\nsite = \"file\"\nname = \"file\"\nreconcile_interval = \"5s\"\n\
             journal_bytes = \"2GiB\"\nlog_format = \"json\"\n",
        );
        let args = ServeArgs { config: Some(path), state: Some("/from/flag".into()), ..ServeArgs::default() };
        let variables = |name: &str| match name {
            "LIFEBOAT_STATE" => Some("/from/variable".to_owned()),
            "LIFEBOAT_SITE" => Some("variable".to_owned()),
            "LIFEBOAT_LOG" => Some("debug".to_owned()),
            _ => None,
        };
        let settings = args.settings(variables).expect("complete");
        assert_eq!(settings.serve.state, Path::new("/from/flag"));
        assert_eq!(settings.serve.site.as_deref(), Some("variable"));
        assert_eq!(settings.serve.mount.as_deref(), Some(Path::new("/mnt/file")));
        assert_eq!(settings.serve.name, "file");
        assert_eq!(settings.serve.reconcile_interval, Duration::from_secs(5));
        assert_eq!(settings.serve.journal_bytes, Some(2 << 30));
        assert!(settings.serve.collect_garbage, "garbage is collected unless somebody says otherwise");
        assert_eq!(settings.log, LogSettings { filter: "debug".into(), format: Some(LogFormat::Json) });
    }

    #[test]
    fn without_a_file_the_defaults_count() {
        let args = ServeArgs { state: Some("/s".into()), ..ServeArgs::default() };
        let settings = args.settings(|_| None).expect("complete");
        let defaults = ServeConfig::new("/s");
        assert_eq!(settings.serve.listen_management, defaults.listen_management);
        assert_eq!(settings.serve.name, defaults.name);
        assert_eq!(settings.log, LogSettings { filter: "info".into(), format: None });
    }

    #[test]
    fn an_unknown_key_is_named_with_its_line() {
        let (_dir, path) = file("state = \"/s\"\nmuont = \"/mnt\"\n");
        let args = ServeArgs { config: Some(path.clone()), ..ServeArgs::default() };
        let failure = args.settings(|_| None).expect_err("a typing error");
        assert_eq!(failure.exit(), Exit::Usage);
        let text = failure.to_string();
        assert!(text.contains("`muont`") && text.contains(&format!("{}:2", path.display())), "{text}");
    }

    #[test]
    fn a_wrong_value_is_refused_under_the_name_of_who_gave_it() {
        let refused = |args: ServeArgs, variable: Option<(&str, &str)>| {
            let variables =
                |name: &str| variable.filter(|(known, _)| *known == name).map(|(_, value)| value.to_owned());
            let args = ServeArgs { state: Some("/s".into()), ..args };
            args.settings(variables).expect_err("refused").to_string()
        };
        let programs = ServeArgs { kms_programs: Some("/bin/kms, my-kms".into()), ..ServeArgs::default() };
        assert!(refused(programs, None).starts_with("--kms-programs: my-kms must be"));
        let flag = ServeArgs { listen_management: Some("8443".into()), ..ServeArgs::default() };
        assert!(refused(flag, None).starts_with("--listen-management: "));
        let variable = Some(("LIFEBOAT_LISTEN_NBD", "10809"));
        assert!(refused(ServeArgs::default(), variable).starts_with("LIFEBOAT_LISTEN_NBD: "));
        let host = ServeArgs { export_address: Some("gw-1:10809".into()), ..ServeArgs::default() };
        assert!(refused(host, None).starts_with("--export-address: \"gw-1:10809\" must be a host's name"));
        let variable = Some(("LIFEBOAT_LOG_FORMAT", "xml"));
        assert_eq!(refused(ServeArgs::default(), variable), "LIFEBOAT_LOG_FORMAT: must be text or json");
        let (_dir, path) = file("reconcile_interval = \"soon\"\n");
        let text = refused(ServeArgs { config: Some(path), ..ServeArgs::default() }, None);
        assert!(text.starts_with("`reconcile_interval` in "), "{text}");
    }

    #[test]
    fn no_state_directory_and_no_file_are_told_apart() {
        assert_eq!(ServeArgs::default().settings(|_| None).expect_err("no state").exit(), Exit::Usage);
        let args = ServeArgs { config: Some("/nonexistent/lifeboat.toml".into()), ..ServeArgs::default() };
        assert_eq!(args.settings(|_| None).expect_err("no file").exit(), Exit::NotFound);
    }
}
