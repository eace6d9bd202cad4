//! An agent that is put on a server over SSH: a real `sshd` on a host of its own, a real gateway, the system's `ssh`.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use lifeboat_acceptance::command::{Daemon, Outcome, Run};
use lifeboat_acceptance::estate::{Estate, Place};
use lifeboat_acceptance::hosts::Host;
use lifeboat_acceptance::{binaries, eventually};
use serde_json::Value;

const PORT: u16 = 2222;
const SETTLES_WITHIN: Duration = Duration::from_secs(60);

/// A server that runs `sshd` and nothing else. Files are this machine's, below its directory.
struct Server {
    dir: PathBuf,
    host: Host,
    _sshd: Daemon,
}

impl Server {
    fn start(dir: &Path) -> Result<Self> {
        let path = |name: &str| dir.join(name).display().to_string();
        for (name, comment) in [("host_key", "server"), ("other_host_key", "another"), ("login_key", "client")] {
            Run::new("ssh-keygen").args(["-q", "-t", "ed25519", "-N", "", "-C", comment, "-f", &path(name)]).ok()?;
        }
        std::fs::copy(dir.join("login_key.pub"), dir.join("authorized_keys"))?;
        // Where sshd leaves its privileges; Debian's service makes it.
        std::fs::create_dir_all("/run/sshd")?;
        let config = format!(
            "Port {PORT}\nHostKey {}\nAuthorizedKeysFile {}\nPidFile none\nPermitRootLogin yes\nStrictModes no\nUsePAM no\n\
             PasswordAuthentication no\nKbdInteractiveAuthentication no\n",
            path("host_key"),
            path("authorized_keys"),
        );
        std::fs::write(dir.join("sshd_config"), config)?;
        let host = Host::new()?;
        let args = ["-D", "-e", "-f", &path("sshd_config")].map(OsString::from).to_vec();
        let (program, args) = host.inside("/usr/sbin/sshd".as_ref(), args);
        let sshd = Daemon::start("sshd", &program, &args, &[], &dir.join("sshd.log"))
            .context("sshd is Debian's openssh-server: run `make deps`")?;
        let server = Self { dir: dir.to_owned(), host, _sshd: sshd };
        for (file, key) in [("known", "host_key.pub"), ("known_wrong", "other_host_key.pub")] {
            let key = std::fs::read_to_string(server.dir.join(key))?;
            std::fs::write(server.dir.join(file), format!("[{}]:{PORT} {key}", server.host.address()))?;
        }
        std::fs::write(server.dir.join("known_none"), "")?;
        let address = (std::net::IpAddr::from(server.host.address()), PORT).into();
        eventually("sshd to listen", SETTLES_WITHIN, || {
            Ok(std::net::TcpStream::connect_timeout(&address, Duration::from_millis(200)).ok().map(drop))
        })?;
        Ok(server)
    }

    fn path(&self, name: &str) -> String {
        self.dir.join(name).display().to_string()
    }

    fn push(&self, known: &str, endpoint: &str, key: &str) -> Result<Outcome> {
        let (host, port) = (format!("root@{}", self.host.address()), PORT.to_string());
        let (identity, known) = (self.path("login_key"), self.path(known));
        let (program, settings, state) =
            (self.path("there/bin/lifeboat"), self.path("there/etc/agent's.toml"), self.path("there/state"));
        let args = ["agent", "push", &host, "--port", &port, "--identity", &identity, "--known-hosts", &known];
        let there = ["--program", &program, "--settings", &settings, "--state", &state, "--mount", "/mnt/it's here"];
        let what = ["--disk", "data=/dev/vdb", "--policy", "standard", "--process-server", "gateway:9443"];
        let rest = ["--endpoint", endpoint, "--key-file", "-", "--name", "web", "--output", "json"];
        let run = Run::new(binaries::lifeboat()?).args([&args[..], &there, &what, &rest].concat());
        run.input(key).within(SETTLES_WITHIN).outcome()
    }
}

#[test]
fn an_agent_is_put_on_a_server_whose_host_key_is_known_and_enrolled() {
    let directory = tempfile::tempdir().unwrap();
    let server = Server::start(directory.path()).unwrap();
    // The gateway answers where the server reaches it.
    let vault = format!("file://{}", directory.path().join("vault").display());
    let listen = Some((server.host.upstream(), 8443).into());
    let places = [Place { listen, ..Place::default() }, Place::default()];
    let estate = Estate::protect_between("push", &vault, places, &[("other", 1 << 20)]).unwrap();
    let create = ["registration-key", "create", "--site", "onprem", "--name", "web", "--ttl", "10m"];
    let key = estate.primary.run(&create).unwrap().ok().unwrap();
    let endpoint = estate.primary.endpoint();

    // Nobody whose key isn't known is sent anything.
    for known in ["known_none", "known_wrong"] {
        let refused = server.push(known, &endpoint, &key).unwrap();
        assert_eq!(refused.code(), 5, "{known}: {refused:?}");
        assert!(refused.stderr.contains("host key"), "{known}: {}", refused.stderr);
        assert!(!server.dir.join("there").exists(), "{known}: something was copied");
    }

    let pushed = server.push("known", &endpoint, &key).unwrap().ok().unwrap();
    let pushed: Value = serde_json::from_str(&pushed).unwrap();
    assert_eq!((&pushed["name"], &pushed["enrolled"]), (&Value::from("web"), &Value::from(true)), "{pushed}");
    let there = |name: &str| std::fs::read(server.dir.join("there").join(name)).unwrap();
    assert!(there("bin/lifeboat") == std::fs::read(binaries::lifeboat().unwrap()).unwrap(), "the program itself");
    let settings = String::from_utf8(there("etc/agent's.toml")).unwrap();
    assert!(settings.contains("disk = [\"data=/dev/vdb\"]") && settings.contains("/mnt/it's here"), "{settings}");
    let agents = estate.primary.json(&["agent", "list"]).unwrap();
    assert!(agents.to_string().contains("\"web\""), "{agents}");

    // The key is used up, and was left nowhere.
    let secret = key.trim();
    for file in walk(&server.dir.join("there")) {
        let bytes = std::fs::read(&file).unwrap();
        let found = bytes.windows(secret.len()).any(|part| part == secret.as_bytes());
        assert!(!found, "the registration key is in {}", file.display());
    }

    // Again: another program, the same identity.
    let identity = there("state/identity.pem");
    let again = estate.primary.run(&create).unwrap().ok().unwrap();
    let pushed = server.push("known", &endpoint, &again).unwrap().ok().unwrap();
    let pushed: Value = serde_json::from_str(&pushed).unwrap();
    assert_eq!(pushed["enrolled"], false, "{pushed}");
    assert!(there("state/identity.pem") == identity, "it keeps its identity");
}

/// All files below a directory.
fn walk(dir: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    entries.flat_map(|entry| if entry.path().is_dir() { walk(&entry.path()) } else { vec![entry.path()] }).collect()
}
