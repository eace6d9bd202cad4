//! `lifeboat support-bundle`: what somebody who wasn't there needs to understand what is wrong, in one file without secrets.
//!
//! ```text
//! lifeboat-support-HOST-TIME/
//!   bundle.json            when, by which version, what is in it, what couldn't be had and why
//!   api/NAME.json          what the gateway shows: its status, what is declared, jobs, events; metrics.txt
//!   host/…                 the system, memory, disks, mounts
//!   state/files.txt        names, sizes and times in the state directory: no content
//!   settings/…             files of settings
//!   logs/…                 the journal of the units, and files that were named
//! ```
//! It needs no gateway that answers: what can't be had is said, and the rest is made. Every text goes through [`scrub`]. Nothing of a
//! volume or a vault is read.

mod scrub;

use std::fmt::Write as _;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use clap::Args;
use lifeboat_api::{Client, Timestamp};
use serde::Serialize;
use serde_json::{Value, json};

use crate::connect::ConnectionArgs;
use crate::failure::{Failure, Result};
use crate::output::{Output, note};
use crate::render;
use scrub::Scrub;

/// Of each log, its end.
const LOG_BYTES_MAX: usize = 16 << 20;
/// Entries of a listing of files.
const FILES_MAX: usize = 20_000;
/// Longest that a program may take that is asked for something.
const PROGRAM_LIMIT: Duration = Duration::from_secs(20);
const SETTINGS: &str = "/etc/lifeboat";
/// Lists of the API, by path.
const LISTS: [&str; 17] = [
    "vaults",
    "sites",
    "gateways",
    "policies",
    "groups",
    "volumes",
    "networks",
    "network-mappings",
    "machines",
    "plans",
    "drills",
    "agents",
    "registration-keys",
    "tokens",
    "approvals",
    "jobs",
    "events",
];

/// Gather what explains a fault, without secrets, in one file.
#[derive(Args, Debug)]
pub(crate) struct SupportBundleArgs {
    #[command(flatten)]
    connection: ConnectionArgs,
    /// The file to write, a tar archive under zstd; lifeboat-support-HOST-TIME.tar.zst in this directory when left out
    #[arg(long, value_name = "FILE")]
    to: Option<PathBuf>,
    /// A log file to put in, besides the journal of lifeboat's units; may be given several times
    #[arg(long = "log", value_name = "FILE")]
    logs: Vec<PathBuf>,
    /// Instead of making one, take the newest that was made at the console of the gateway's appliance
    #[arg(long, conflicts_with = "logs")]
    fetch: bool,
}

/// What is in a bundle.
#[derive(Debug, Serialize)]
struct Entry {
    path: String,
    bytes: usize,
    /// Secrets that were taken out of it.
    removed: usize,
}

/// What isn't.
#[derive(Debug, Serialize)]
struct Missing {
    what: String,
    why: String,
}

/// A bundle that is being made.
struct Bundle {
    root: String,
    archive: tar::Builder<zstd::Encoder<'static, File>>,
    scrub: Scrub,
    now: Timestamp,
    contents: Vec<Entry>,
    missing: Vec<Missing>,
}

impl Bundle {
    fn begin(to: &Path, root: String, scrub: Scrub, now: Timestamp) -> io::Result<Self> {
        let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(to)?;
        let archive = tar::Builder::new(zstd::Encoder::new(file, 3)?);
        Ok(Self { root, archive, scrub, now, contents: Vec::new(), missing: Vec::new() })
    }

    fn put(&mut self, path: &str, text: &str) -> io::Result<()> {
        let (text, removed) = self.scrub.text(text);
        self.append(path, text.as_bytes())?;
        self.contents.push(Entry { path: path.to_owned(), bytes: text.len(), removed });
        Ok(())
    }

    fn append(&mut self, path: &str, bytes: &[u8]) -> io::Result<()> {
        let mut header = tar::Header::new_gnu();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o600);
        header.set_mtime(u64::try_from(self.now.as_micros() / 1_000_000).unwrap_or(0));
        self.archive.append_data(&mut header, format!("{}/{path}", self.root), bytes)
    }

    /// Puts it in, or why it isn't there.
    fn put_or_say<E: std::fmt::Display>(&mut self, path: &str, found: Result<String, E>) -> io::Result<()> {
        match found {
            Ok(text) => self.put(path, &text),
            Err(error) => {
                self.lacks(path, &error.to_string());
                Ok(())
            }
        }
    }

    fn lacks(&mut self, what: &str, why: &str) {
        let (why, _) = self.scrub.text(why);
        self.missing.push(Missing { what: what.to_owned(), why });
    }

    fn finish(mut self) -> io::Result<Value> {
        let about = json!({
            "made": self.now,
            "version": env!("CARGO_PKG_VERSION"),
            "contents": self.contents,
            "missing": self.missing,
        });
        let text = serde_json::to_string_pretty(&about)?;
        self.append("bundle.json", text.as_bytes())?;
        let file = self.archive.into_inner()?.finish()?;
        file.sync_all()?;
        Ok(about)
    }
}

pub(crate) async fn run(args: SupportBundleArgs, output: Output) -> Result<()> {
    if args.fetch {
        return fetch(&args, output).await;
    }
    let (to, about) = make(&args.connection, args.to, None, &args.logs).await?;
    for missing in about["missing"].as_array().into_iter().flatten() {
        let text = |field: &str| missing[field].as_str().unwrap_or_default().to_owned();
        note(&format!("not in it: {}: {}", text("what"), text("why")));
    }
    let document = json!({"file": to.display().to_string(), "bundle": about});
    output.show(&document, || render::clean(&to.display().to_string()))
}

/// Takes the newest that was made on the gateway's machine.
async fn fetch(args: &SupportBundleArgs, output: Output) -> Result<()> {
    let bytes = args.connection.client()?.get_bytes("/v1/support-bundles/latest").await?;
    let time: String = Timestamp::now().to_string().chars().take(19).map(|c| if c == ':' { '-' } else { c }).collect();
    let to = args.to.clone().unwrap_or_else(|| PathBuf::from(format!("lifeboat-support-{time}Z.tar.zst")));
    let written = (|| {
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&to)?;
        io::Write::write_all(&mut file, &bytes)?;
        file.sync_all()
    })();
    written.map_err(|error| unwritable(&to, &error))?;
    output.show(&json!({"file": to.display().to_string(), "bytes": bytes.len()}), || {
        render::clean(&to.display().to_string())
    })
}

fn unwritable(to: &Path, error: &io::Error) -> Failure {
    let what = match error.kind() {
        io::ErrorKind::AlreadyExists => "it is there already: name another file with --to".to_owned(),
        io::ErrorKind::NotFound => "its directory isn't there: make it, or name another file with --to".to_owned(),
        _ => error.to_string(),
    };
    Failure::failed(format!("the support bundle {} can't be written: {what}", to.display()))
}

/// Makes one: the file `to`, or one with a name of its own in `directory`. The file, and what is in it.
pub(crate) async fn make(
    connection: &ConnectionArgs,
    to: Option<PathBuf>,
    directory: Option<&Path>,
    extra: &[PathBuf],
) -> Result<(PathBuf, Value)> {
    let now = Timestamp::now();
    let host = lifeboat_server::host_name();
    let name: String = host.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).collect();
    let time: String = now.to_string().chars().take(19).map(|c| if c == ':' { '-' } else { c }).collect();
    let root = format!("lifeboat-support-{name}-{time}Z");
    let to = to.unwrap_or_else(|| directory.unwrap_or(Path::new("")).join(format!("{root}.tar.zst")));
    let failed = |error: io::Error| unwritable(&to, &error);
    let state = connection.state();
    let mut bundle = Bundle::begin(&to, root, Scrub::of(state.as_deref()), now).map_err(failed)?;
    let made = async {
        gateway(&mut bundle, connection).await?;
        machine(&mut bundle)?;
        match &state {
            Some(state) => bundle.put_or_say("state/files.txt", listing(state))?,
            None => {
                bundle.lacks("state/files.txt", "no state directory is named: give --state DIR or set LIFEBOAT_STATE")
            }
        }
        settings(&mut bundle)?;
        logs(&mut bundle, extra)?;
        bundle.finish()
    };
    let about = made.await.inspect_err(|_| drop(fs::remove_file(&to))).map_err(failed)?;
    Ok((to, about))
}

/// What the gateway shows of itself.
async fn gateway(bundle: &mut Bundle, connection: &ConnectionArgs) -> io::Result<()> {
    let client = match connection.client() {
        Ok(client) => client,
        Err(error) => {
            bundle.lacks("api", &error.to_string());
            return Ok(());
        }
    };
    let status = client.get::<Value>("/v1/status", &[]).await;
    if let Err(error) = &status {
        // Nor would anything else be answered: every question would wait as long.
        bundle.lacks("api", &error.to_string());
        return Ok(());
    }
    bundle.put_or_say("api/status.json", status.map(|value| pretty(&value)))?;
    for path in ["/readyz", "/metrics", "/v1/whoami"] {
        let name = path.rsplit('/').next().unwrap_or(path);
        bundle.put_or_say(&format!("api/{name}.txt"), client.get_text(path).await)?;
    }
    for list in LISTS {
        bundle.put_or_say(&format!("api/{list}.json"), listed(&client, list).await)?;
    }
    Ok(())
}

async fn listed(client: &Client, list: &str) -> Result<String, lifeboat_api::ClientError> {
    let items: Vec<Value> = client.list(&format!("/v1/{list}"), &[]).await?;
    Ok(pretty(&Value::Array(items)))
}

fn pretty(value: &Value) -> String {
    serde_json::to_string_pretty(value).unwrap_or_default()
}

/// What the machine is and has.
fn machine(bundle: &mut Bundle) -> io::Result<()> {
    for path in [
        "/etc/os-release",
        "/proc/version",
        "/proc/uptime",
        "/proc/loadavg",
        "/proc/meminfo",
        "/proc/mounts",
        "/proc/pressure/cpu",
        "/proc/pressure/io",
        "/proc/pressure/memory",
    ] {
        let name = path.trim_start_matches("/etc/").trim_start_matches("/proc/").replace('/', "-");
        bundle.put_or_say(&format!("host/{name}"), fs::read_to_string(path))?;
    }
    for (name, program, args) in [
        ("host/disks.txt", "df", &["-PT", "-x", "tmpfs", "-x", "devtmpfs"][..]),
        ("host/block-devices.txt", "lsblk", &["-o", "NAME,SIZE,TYPE,RO,FSTYPE,MOUNTPOINT"]),
        ("host/addresses.txt", "ip", &["-brief", "address"]),
        ("host/listening.txt", "ss", &["-ltn"]),
        ("host/time.txt", "timedatectl", &["show"]),
        ("host/units.txt", "systemctl", &["list-units", "--all", "--no-pager", "--plain", "lifeboat*"]),
    ] {
        bundle.put_or_say(name, ask(program, args))?;
    }
    Ok(())
}

fn settings(bundle: &mut Bundle) -> io::Result<()> {
    let Ok(entries) = fs::read_dir(SETTINGS) else {
        bundle.lacks("settings", &format!("there is no directory {SETTINGS}"));
        return Ok(());
    };
    let mut paths: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    paths.sort();
    for path in paths.into_iter().filter(|path| path.extension().is_some_and(|extension| extension == "toml")) {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        bundle.put_or_say(&format!("settings/{name}"), fs::read_to_string(&path))?;
    }
    Ok(())
}

fn logs(bundle: &mut Bundle, files: &[PathBuf]) -> io::Result<()> {
    let journal = ["-u", "lifeboat*", "-n", "50000", "--no-pager", "-o", "short-iso-precise"];
    bundle.put_or_say("logs/journal.txt", ask("journalctl", &journal))?;
    for (n, path) in files.iter().enumerate() {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let found = tail(path).map_err(|error| format!("{}: {error}", path.display()));
        bundle.put_or_say(&format!("logs/{n}-{name}"), found)?;
    }
    Ok(())
}

/// The end of a file.
fn tail(path: &Path) -> io::Result<String> {
    use std::io::{Seek, SeekFrom};
    let mut file = File::open(path)?;
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(LOG_BYTES_MAX as u64)))?;
    let mut bytes = Vec::new();
    file.take(LOG_BYTES_MAX as u64).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// The last bytes of what somebody says, up to its end or a failure.
fn end_of(mut said: impl Read, most: usize) -> Vec<u8> {
    let (mut end, mut chunk) = (Vec::new(), vec![0; 64 << 10]);
    loop {
        match said.read(&mut chunk) {
            Ok(length @ 1..) => end.extend_from_slice(chunk.get(..length).unwrap_or_default()),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Ok(0) | Err(_) => break,
        }
        if end.len() > most * 2 {
            end.drain(..end.len() - most);
        }
    }
    end.drain(..end.len().saturating_sub(most));
    end
}

/// What is in a directory and below: mode, bytes on the disk, length, seconds since 1970, path.
fn listing(directory: &Path) -> io::Result<String> {
    let (mut stack, mut lines) = (vec![directory.to_owned()], Vec::new());
    while let Some(path) = stack.pop() {
        let about = fs::symlink_metadata(&path)?;
        if about.is_dir() {
            stack.extend(fs::read_dir(&path)?.flatten().map(|entry| entry.path()));
        }
        let shown = path.strip_prefix(directory).unwrap_or(&path).display().to_string();
        lines.push((shown, about.mode(), about.blocks() * 512, about.len(), about.mtime()));
        if lines.len() == FILES_MAX {
            break;
        }
    }
    lines.sort();
    let mut text = format!("# {}\n# mode, bytes on the disk, length, changed, path\n", directory.display());
    for (path, mode, on_disk, length, changed) in &lines {
        // Writing into a text can't fail.
        let _ = writeln!(text, "{mode:06o} {on_disk:>14} {length:>14} {changed} {path}");
    }
    if lines.len() == FILES_MAX {
        text.push_str("# and more\n");
    }
    Ok(text)
}

/// What a program says, within a time and a size.
fn ask(program: &str, args: &[&str]) -> Result<String, String> {
    let child =
        Command::new(program).args(args).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn();
    let mut child = child.map_err(|error| format!("{program} can't be run: {error}"))?;
    let output = child.stdout.take();
    let reader = std::thread::spawn(move || {
        // What was read before a failure is kept.
        output.map(|output| end_of(output, LOG_BYTES_MAX)).unwrap_or_default()
    });
    let began = Instant::now();
    while !reader.is_finished() {
        if began.elapsed() > PROGRAM_LIMIT {
            let _ = child.kill();
            let _ = child.wait();
            return Err(format!("{program} said nothing for {PROGRAM_LIMIT:?}"));
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    let _ = child.kill();
    let _ = child.wait();
    let said = reader.join().unwrap_or_default();
    if said.is_empty() {
        Err(format!("{program} says nothing"))
    } else {
        Ok(String::from_utf8_lossy(&said).into_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_what_says_too_much_the_end_is_kept() {
        let said: Vec<u8> = (0..500_000_u32).flat_map(u32::to_le_bytes).collect();
        for most in [0, 1, 4096, 100_000, said.len(), said.len() + 1] {
            let kept = end_of(said.as_slice(), most);
            assert!(kept == said[said.len().saturating_sub(most)..], "{most}");
        }
    }
}
