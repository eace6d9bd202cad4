//! `lifeboat agent push HOST`: puts the agent on a server over SSH, enrols it, and leaves its settings there.
//!
//! ```text
//! this machine ─ ssh (the system's own program) ─> server: program or package ─> settings ─> enrol, with the key on standard input
//! ```
//! The server's host key has to be known: nobody is asked, and a key that is unknown or another one ends it before anything was sent.
//! The registration key goes through standard input, and is in no argument and no file. Whatever is copied gets its name once it is whole.
//! Done again it comes to the same; a server that has an identity keeps it. What breaks off in between leaves files that the next
//! run replaces.

use std::fs::File;
use std::io::Write as _;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use clap::Args;
use serde_json::json;

use super::read_key;
use crate::connect::environment;
use crate::failure::{Exit, Failure, Result};
use crate::output::Output;
use crate::render;

/// What ssh ends with when it got nowhere.
const SSH_FAILED: i32 = 255;
/// What `agent enrol` ends with where there is an identity.
const ENROLLED: i32 = 4;

/// Put the agent on a server over SSH, and enrol it.
#[derive(Args, Debug)]
pub(super) struct PushArgs {
    /// The server: HOST or USER@HOST, with a host key that this machine knows
    #[arg(value_name = "[USER@]HOST")]
    host: String,
    /// Its SSH port
    #[arg(long, default_value_t = 22)]
    port: u16,
    /// The private key to log in with; ssh's own choice when left out
    #[arg(long, value_name = "FILE")]
    identity: Option<PathBuf>,
    /// The file of known host keys; ssh's own when left out
    #[arg(long, value_name = "FILE")]
    known_hosts: Option<PathBuf>,
    /// The Debian package to install; this program itself is copied when left out
    #[arg(long, value_name = "FILE")]
    package: Option<PathBuf>,
    /// Where the program is to be on the server
    #[arg(long, value_name = "PATH", default_value = "/usr/bin/lifeboat")]
    program: String,
    /// Where its settings are to be on the server
    #[arg(long, value_name = "PATH", default_value = "/etc/lifeboat/agent.toml")]
    settings: String,
    /// The agent's state directory on the server
    #[arg(long, value_name = "DIR", default_value = "/var/lib/lifeboat-agent")]
    state: String,
    /// Where its disks are to be mounted on the server
    #[arg(long, value_name = "DIR", default_value = "/mnt/lifeboat")]
    mount: String,
    /// A disk image or block device of the server; again for each further one
    #[arg(long, value_name = "[NAME=]PATH", required = true)]
    disk: Vec<String>,
    /// The name of its consistency group; the server's name when left out
    #[arg(long)]
    group: Option<String>,
    /// The name of the policy that governs it
    #[arg(long)]
    policy: String,
    /// Process servers, tried in order: HOST:PORT, separated by commas
    #[arg(long, value_name = "HOST:PORT,…")]
    process_server: String,
    /// Gateways that coordinate its replication group, if it is in one: HOST:PORT, separated by commas
    #[arg(long, value_name = "HOST:PORT,…")]
    consistency_server: Option<String>,
    /// Program in the server's directory of hooks that runs before an application-consistent point; it has to be put there
    #[arg(long, value_name = "NAME")]
    pre_script: Option<String>,
    /// Program there that runs after every attempt at one
    #[arg(long, value_name = "NAME")]
    post_script: Option<String>,
    /// Gateways that enrol it, as the server reaches them: https://HOST:PORT, separated by commas
    #[arg(long, value_name = "URL,…")]
    endpoint: String,
    /// File of the registration key, - for standard input [env: LIFEBOAT_REGISTRATION_KEY for the key itself]
    #[arg(long, value_name = "FILE")]
    key_file: Option<PathBuf>,
    /// What people call the server; HOST when left out
    #[arg(long)]
    name: Option<String>,
}

pub(super) fn run(args: &PushArgs, output: Output) -> Result<()> {
    let host = args.host.rsplit_once('@').map_or(&*args.host, |(_, host)| host);
    if args.host.starts_with('-') || host.is_empty() {
        return Err(Failure::usage(format!("{:?} is no server: name it as HOST or USER@HOST", args.host)));
    }
    let key = match &args.key_file {
        Some(file) => read_key(file)?,
        None => environment("LIFEBOAT_REGISTRATION_KEY").ok_or_else(|| {
            Failure::usage(
                "no registration key: give --key-file FILE (- for standard input), or set LIFEBOAT_REGISTRATION_KEY",
            )
        })?,
    };
    let name = args.name.as_deref().unwrap_or(host);
    // Whether there is a way at all, before anything is copied.
    told(args, "reach", "true", None)?;
    match &args.package {
        Some(package) => told(
            args,
            "install the package on",
            "umask 077 && it=$(mktemp) && cat > \"$it\" && dpkg -i \"$it\"; end=$?; rm -f \"$it\"; exit $end",
            Some(Input::File(package.clone())),
        )?,
        None => {
            let this = std::env::current_exe()
                .map_err(|error| Failure::failed(format!("this program can't be found: {error}")))?;
            told(args, "copy the program to", &whole(&args.program, "755"), Some(Input::File(this)))?;
        }
    }
    told(args, "write the settings on", &whole(&args.settings, "600"), Some(Input::Text(settings(args))))?;
    let enrol = [&*args.program, "agent", "enrol", "--key-file", "-", "--state", &args.state]
        .into_iter()
        .chain(["--endpoint", &args.endpoint, "--name", name])
        .map(quoted)
        .collect::<Vec<_>>()
        .join(" ");
    let enrolled = match told(args, "enrol", &enrol, Some(Input::Text(key))) {
        Ok(()) => true,
        Err(failure) if failure.exit() == Exit::Conflict => false,
        Err(failure) => return Err(failure),
    };
    let document = json!({
        "host": host,
        "name": name,
        "program": args.program,
        "settings": args.settings,
        "state": args.state,
        "enrolled": enrolled,
    });
    output.show(&document, || {
        let how = if enrolled { "enrolled" } else { "has an identity already, and keeps it" };
        let start = match args.package {
            Some(_) => "systemctl enable --now lifeboat-agent".to_owned(),
            None => format!("{} agent run --config {}", args.program, args.settings),
        };
        render::clean(&format!("{name} {how}: begin there with `{start}`, once nothing else has its disks in use"))
    })
}

/// What goes to the other side's standard input.
enum Input {
    File(PathBuf),
    Text(String),
}

/// A command that puts its input under a name once it is whole.
fn whole(path: &str, mode: &str) -> String {
    let (path, new) = (quoted(path), quoted(&format!("{path}.new")));
    format!(
        "umask 077 && mkdir -p \"$(dirname {path})\" && cat > {new} && chmod {mode} {new} && sync && mv {new} {path}"
    )
}

/// One word of the other side's shell, whatever is in it.
fn quoted(word: &str) -> String {
    format!("'{}'", word.replace('\'', "'\\''"))
}

/// The agent's file of settings.
fn settings(args: &PushArgs) -> String {
    // A string of TOML is one of JSON, for what has no control characters.
    let text = |value: &str| json!(value).to_string();
    let disks: Vec<String> = args.disk.iter().map(|disk| text(disk)).collect();
    let mut lines = vec![
        format!("state = {}", text(&args.state)),
        format!("mount = {}", text(&args.mount)),
        format!("disk = [{}]", disks.join(", ")),
        format!("policy = {}", text(&args.policy)),
        format!("process_server = {}", text(&args.process_server)),
        format!("endpoint = {}", text(&args.endpoint)),
    ];
    lines.extend(args.consistency_server.iter().map(|peers| format!("consistency_server = {}", text(peers))));
    lines.extend(args.pre_script.iter().map(|name| format!("pre_script = {}", text(name))));
    lines.extend(args.post_script.iter().map(|name| format!("post_script = {}", text(name))));
    lines.extend(args.group.iter().map(|group| format!("group = {}", text(group))));
    lines.join("\n") + "\n"
}

/// Runs a command on the server. `what`: for people, with the server behind it.
fn told(args: &PushArgs, what: &str, command: &str, input: Option<Input>) -> Result<()> {
    let failed = |why: String| Failure::failed(format!("can't {what} {}: {why}", args.host));
    let mut ssh = Command::new("ssh");
    ssh.args(["-o", "BatchMode=yes", "-o", "StrictHostKeyChecking=yes", "-o", "ConnectTimeout=10"]);
    ssh.args(["-p", &args.port.to_string()]);
    if let Some(known) = &args.known_hosts {
        ssh.arg("-o").arg(format!("UserKnownHostsFile={}", known.display()));
        ssh.args(["-o", "GlobalKnownHostsFile=/dev/null"]);
    }
    if let Some(identity) = &args.identity {
        ssh.args(["-o", "IdentitiesOnly=yes"]).arg("-i").arg(identity);
    }
    ssh.arg("--").arg(&args.host).arg(command).stdout(Stdio::null()).stderr(Stdio::piped());
    let text = match input {
        None => {
            ssh.stdin(Stdio::null());
            None
        }
        Some(Input::File(path)) => {
            let file = File::open(&path).map_err(|error| Failure::unreadable("what is to be copied", &path, &error))?;
            ssh.stdin(file);
            None
        }
        Some(Input::Text(text)) => {
            ssh.stdin(Stdio::piped());
            Some(text)
        }
    };
    let mut child = ssh.spawn().map_err(|error| failed(format!("ssh can't be run: {error}: install an SSH client")))?;
    if let (Some(text), Some(mut input)) = (text, child.stdin.take()) {
        // One that ended without reading says why itself.
        let _ = input.write_all(text.as_bytes());
    }
    let done = child.wait_with_output().map_err(|error| failed(error.to_string()))?;
    if done.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&done.stderr);
    let (exit, advice) = match done.status.code() {
        Some(SSH_FAILED) => (Exit::Unreachable, ": see that its host key is known here and that you may log in"),
        Some(ENROLLED) => (Exit::Conflict, ""),
        _ => (Exit::Failed, ""),
    };
    Err(Failure::new(exit, format!("can't {what} {}: {}{advice}", args.host, said.trim())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_stay_words_in_the_other_shell() {
        for word in ["plain", "two words", "it's", "$(reboot)", "a\\b", "\"quoted\"", "`x`", "*", ""] {
            let said = Command::new("sh").args(["-c", &format!("printf %s {}", quoted(word))]).output().unwrap();
            assert_eq!(String::from_utf8(said.stdout).unwrap(), word);
        }
    }
}
