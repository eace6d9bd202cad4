//! Secrets are where they are meant to be and nowhere else: in no log at its most talkative, no output, error or metric, no plan or
//! state of Terraform, no object of the vault, no file of the gateway but those that keep them; and no core dump is ever written.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use lifeboat_acceptance::binaries::lifeboat;
use lifeboat_acceptance::command::Run;
use lifeboat_acceptance::estate::Api;
use lifeboat_acceptance::eventually;
use lifeboat_acceptance::gateway::Gateway;
use lifeboat_acceptance::random::Random;
use lifeboat_acceptance::scratch::Scratch;
use lifeboat_acceptance::terraform::{Tier, Workspace};
use lifeboat_api::ClientError;
use lifeboat_lab::Moto;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use serde_json::{Value, json};

/// Where a gateway keeps what it needs to come back by itself, readable by nobody else.
const KEEPERS: [&str; 2] = ["admin.token", "vaults.json"];
/// A file with a line of variables for Terraform has them by the test's own doing.
const OWN: [&str; 1] = ["secrets"];

/// What must not be found, and everything that was looked at.
struct Watch {
    secrets: Vec<(&'static str, String)>,
    /// What was printed, and by what.
    said: Vec<(String, String)>,
    random: Random,
}

impl Watch {
    fn new() -> Self {
        Self { secrets: Vec::new(), said: Vec::new(), random: Random(0x5ec2_e75e) }
    }

    /// A new secret.
    fn make(&mut self, what: &'static str) -> String {
        let secret = format!("canary{:016x}{:016x}", self.random.number(), self.random.number());
        self.watch(what, &secret);
        secret
    }

    fn watch(&mut self, what: &'static str, secret: &str) {
        let secret = secret.trim().to_owned();
        assert!(secret.len() >= 20, "{what} is too short to be looked for");
        self.secrets.push((what, secret));
    }

    /// Runs a command; what it prints is looked at.
    fn run(&mut self, gateway: &Gateway, args: &[&str], succeeds: bool) -> Result<()> {
        let outcome = gateway.run(args)?;
        let line = args.join(" ");
        ensure!(outcome.status.success() == succeeds, "lifeboat {line}: {} {}", outcome.stdout, outcome.stderr);
        self.said.push((line, format!("{}\n{}", outcome.stdout, outcome.stderr)));
        Ok(())
    }

    /// Runs a command that prints a secret on one line, and nothing of it on standard error.
    fn take(&mut self, what: &'static str, gateway: &Gateway, args: &[&str]) -> Result<String> {
        let outcome = gateway.run(args)?;
        let line = args.join(" ");
        ensure!(outcome.status.success(), "lifeboat {line}: {}", outcome.stderr);
        self.said.push((line, outcome.stderr));
        let secret = outcome.stdout.trim().to_owned();
        self.watch(what, &secret);
        Ok(secret)
    }

    /// What of the secrets is in this.
    fn found(&self, text: &[u8]) -> Vec<&'static str> {
        let holds = |needle: &[u8]| text.windows(needle.len()).any(|window| window == needle);
        let any = |secret: &str| {
            let hex: String = secret.bytes().map(|byte| format!("{byte:02x}")).collect();
            holds(secret.as_bytes()) || holds(hex.as_bytes()) || holds(STANDARD.encode(secret).as_bytes())
        };
        self.secrets.iter().filter(|(_, secret)| any(secret)).map(|(what, _)| *what).collect()
    }
}

fn files_below(directory: &Path) -> Result<Vec<PathBuf>> {
    let (mut stack, mut files) = (vec![directory.to_owned()], Vec::new());
    while let Some(path) = stack.pop() {
        let kind = std::fs::symlink_metadata(&path).with_context(|| format!("look at {}", path.display()))?;
        if kind.is_dir() {
            for entry in std::fs::read_dir(&path).with_context(|| format!("list {}", path.display()))? {
                stack.push(entry?.path());
            }
        } else if kind.is_file() {
            files.push(path);
        }
    }
    Ok(files)
}

/// Declares things and does things, in every way in which a secret goes through a gateway.
fn story(watch: &mut Watch, gateway: &Gateway, dir: &Path, moto: &Moto) -> Result<()> {
    let kept = dir.join("secrets");
    std::fs::create_dir(&kept)?;
    let file = |name: &str, text: &str| -> Result<String> {
        let path = kept.join(name);
        std::fs::write(&path, text)?;
        Ok(path.display().to_string())
    };
    let url = format!("file://{}", dir.join("vault").display());
    let (first, second, wrong) = (watch.make("passphrase"), watch.make("second passphrase"), watch.make("wrong one"));
    let (first, second, wrong) = (file("first", &first)?, file("second", &second)?, file("wrong", &wrong)?);
    watch.run(gateway, &["vault", "create", &url, "--name", "main", "--passphrase-file", &first], true)?;
    watch.run(gateway, &["vault", "open", &url, "--passphrase-file", &wrong], false)?;
    watch.run(gateway, &["vault", "key", "add", "main", "--passphrase-file", &second], true)?;
    watch.run(gateway, &["vault", "key", "verify", "main", "--passphrase-file", &wrong], false)?;
    for args in [
        &["site", "create", "--name", "home"][..],
        &["gateway", "create", "--name", "primary", "--site", "home"],
        &["policy", "create", "--name", "standard", "--interval", "1s", "--retain", "all:1h"],
        &["volume", "create", "--name", "db", "--gateway", "primary", "--policy", "standard", "--size", "4MiB"],
    ] {
        watch.run(gateway, args, true)?;
    }
    let content = watch.make("content of a volume").repeat(128);
    let volume = gateway.volume("db");
    eventually("the volume", std::time::Duration::from_secs(60), || Ok(volume.exists().then_some(())))?;
    std::os::unix::fs::FileExt::write_all_at(
        &std::fs::File::options().write(true).open(&volume)?,
        content.as_bytes(),
        0,
    )?;
    watch.run(gateway, &["point", "take", "--group", "db", "--label", "known"], true)?;

    let token = watch.take("token", gateway, &["token", "create", "--name", "ci", "--role", "operator"])?;
    watch.take("rotated token", gateway, &["token", "rotate", "ci"])?;
    let key =
        watch.take("registration key", gateway, &["registration-key", "create", "--site", "home", "--name", "web"])?;
    let agent = dir.join("agent");
    let (key, agent) = (file("registration", &key)?, agent.display().to_string());
    let endpoint = gateway.endpoint();
    let enrol = ["agent", "enrol", "--key-file", &key, "--state", &agent, "--endpoint", &endpoint];
    watch.run(gateway, &enrol, true)?;
    // A key is for one machine.
    let other = dir.join("other").display().to_string();
    watch.run(gateway, &["agent", "enrol", "--key-file", &key, "--state", &other, "--endpoint", &endpoint], false)?;
    let create = ["registration-key", "create", "--site", "home", "--name", "gw", "--role", "process_server"];
    let key = file("gateway", &watch.take("gateway's registration key", gateway, &create)?)?;
    let newcomer = dir.join("newcomer").display().to_string();
    let enrol = ["gateway", "enrol", "--state", &newcomer, "--endpoint", &endpoint, "--key-file", &key];
    let as_gateway = ["--name", "gw", "--site", "home", "--vault-passphrase-file", &first];
    watch.run(gateway, &[&enrol[..], &as_gateway].concat(), true)?;
    let other = dir.join("stranger").display().to_string();
    let again = ["gateway", "enrol", "--state", &other, "--endpoint", &endpoint, "--key-file", &key, "--name", "gw"];
    watch.run(gateway, &again, false)?;
    let private = std::fs::read_to_string(dir.join("agent/identity.pem"))?;
    let body = private.lines().find(|line| line.len() == 64).context("a private key")?;
    watch.watch("agent's private key", body);
    for (name, value) in [("right", token.clone()), ("mutilated", token.chars().rev().collect())] {
        let mut environment = gateway.client_environment();
        environment.retain(|(variable, _)| variable != "LIFEBOAT_TOKEN_FILE");
        environment.push(("LIFEBOAT_TOKEN".into(), value.into()));
        let outcome = Run::new(lifeboat()?).args(["whoami"]).envs(&environment).outcome()?;
        watch.said.push((format!("whoami with the {name} token"), format!("{}{}", outcome.stdout, outcome.stderr)));
    }

    let storage = watch.make("storage secret");
    let credentials = file("credentials", &format!("AWS_ACCESS_KEY_ID=AKLAB\nAWS_SECRET_ACCESS_KEY={storage}\n"))?;
    let (bucket, endpoint) = ("s3://lifeboat-vaults/acme", moto.endpoint());
    let args = ["vault", "create", bucket, "--name", "bucket", "--passphrase-file", &first];
    let more = ["--storage-endpoint", &endpoint, "--credentials-file", &credentials];
    watch.run(gateway, &[&args[..], &more].concat(), true)?;
    let nowhere = ["--storage-endpoint", "https://127.0.0.1:9", "--credentials-file", &credentials];
    watch.run(
        gateway,
        &[&["vault", "open", "s3://lifeboat-vaults/other", "--passphrase-file", &first][..], &nowhere].concat(),
        false,
    )?;

    for verb in
        ["vault", "site", "gateway", "policy", "group", "volume", "job", "event", "token", "registration-key", "agent"]
    {
        watch.run(gateway, &[verb, "list", "--output", "json"], true)?;
    }
    watch.run(gateway, &["point", "list", "--group", "db", "--output", "json"], true)?;
    watch.run(gateway, &["audit", "list", "--output", "json"], true)?;
    watch.run(gateway, &["status", "--output", "json"], true)?;
    watch.run(
        gateway,
        &["terraform", "export", "--vault", "main", "--out", &dir.join("export").display().to_string()],
        true,
    )
}

/// Requests that make no sense: what is wrong is said without what was sent. And the metrics.
fn mistakes(watch: &mut Watch, gateway: &Gateway) -> Result<()> {
    let secret = watch.make("secret in a request that makes no sense");
    let api = Api::of(gateway)?;
    let sound = json!({"name": "odd", "storage_url": "file:///nowhere", "create": true,
        "encryption": {"key_source": "passphrase", "passphrase": "long enough"}});
    let with = |field: &str, value: Value| {
        let mut body = sound.clone();
        body[field] = value;
        body
    };
    for body in [
        with("encryption", json!(secret)),
        with("encryption", json!({"key_source": "passphrase", "passphrase": [secret]})),
        with("encryption", json!({"key_source": secret})),
        with("encryption", json!({"key_source": "passphrase", "passphrase": secret, "key_file": "relative"})),
        with("storage_credentials", json!(secret)),
        with("storage_credentials", json!({"AWS_SECRET_ACCESS_KEY": [secret]})),
        with("storage_credentials", json!({"AWS_SECRET_ACCESS_KEY": secret})),
        with("storage_url", json!(format!("https://user:{secret}@127.0.0.1/"))),
        with("storage_endpoint", json!(format!("https://user:{secret}@127.0.0.1/"))),
        json!(secret),
    ] {
        let answer: Result<Value, ClientError> = api.call(async |client| client.post("/v1/vaults", &body).await);
        let Err(error) = answer else { bail!("{body} was taken") };
        watch.said.push((format!("an answer to {body}"), format!("{error} {error:?}")));
    }
    let metrics = api.call(async |client| client.get_text("/metrics").await)?;
    ensure!(metrics.contains("lifeboat"), "{metrics}");
    watch.said.push(("/metrics".into(), metrics));
    Ok(())
}

const CONFIGURATION: &str = r#"
terraform {
  required_providers {
    lifeboat = {
      source = "lifeboat-dr/lifeboat"
    }
  }
}

variable "passphrase" {
  type      = string
  ephemeral = true
}

variable "secret_access_key" {
  type      = string
  ephemeral = true
}

resource "lifeboat_vault" "declared" {
  name                        = "declared"
  storage_url                 = "s3://lifeboat-vaults/declared"
  storage_endpoint            = "ENDPOINT"
  storage_credentials_version = 1
  storage_credentials = {
    AWS_ACCESS_KEY_ID     = "AKLAB"
    AWS_SECRET_ACCESS_KEY = var.secret_access_key
  }
  encryption {
    key_source         = "passphrase"
    passphrase         = var.passphrase
    passphrase_version = 1
  }
}
"#;

fn declare(watch: &mut Watch, gateway: &Gateway, dir: &Path, moto: &Moto) -> Result<()> {
    let mut environment = gateway.client_environment();
    let trace = dir.join("trace.log");
    environment.push(("TF_VAR_passphrase".into(), watch.make("passphrase for Terraform").into()));
    environment.push(("TF_VAR_secret_access_key".into(), watch.make("storage secret for Terraform").into()));
    environment.push(("TF_LOG".into(), "TRACE".into()));
    environment.push(("TF_LOG_PATH".into(), OsString::from(&trace)));
    let workspace = Workspace::new(&dir.join("terraform"), Tier::Installed, environment)?;
    workspace.write(&CONFIGURATION.replace("ENDPOINT", &moto.endpoint()))?;
    let mut print = |args: &[&str]| -> Result<()> {
        let outcome = workspace.run(args)?;
        ensure!(outcome.status.success(), "terraform {args:?}: {}{}", outcome.stdout, outcome.stderr);
        watch.said.push((format!("terraform {}", args.join(" ")), format!("{}{}", outcome.stdout, outcome.stderr)));
        Ok(())
    };
    print(&["init"])?;
    print(&["plan", "-out", "plan"])?;
    print(&["show", "-json", "plan"])?;
    print(&["apply", "-auto-approve"])?;
    print(&["show", "-json"])?;
    // What was written while it ran is looked at below `dir`.
    ensure!(std::fs::metadata(&trace)?.len() > 100_000, "Terraform and the provider told what they did");
    ensure!(dir.join("terraform/terraform.tfstate").is_file());
    Ok(())
}

/// A support bundle of all of that, with a log into which somebody has poured what this machine keeps secret: none of it is in there, and
/// what explains a fault is.
fn bundled(watch: &mut Watch, gateway: &Gateway, dir: &Path) -> Result<()> {
    let known = ["administrator's token", "passphrase", "storage secret"];
    let poured: String = watch
        .secrets
        .iter()
        .filter(|(what, _)| known.contains(what))
        .map(|(what, text)| format!("{what} {text}\n"))
        .collect();
    ensure!(poured.lines().count() >= known.len(), "{poured}");
    let log = dir.join("secrets/poured.log");
    std::fs::write(&log, poured)?;
    let (bundle, state) = (dir.join("bundle.tar.zst"), gateway.state());
    let [bundle_path, state, log, own_log] =
        [&bundle, &state, &log, &gateway.log()].map(|path| path.display().to_string());
    let args = ["support-bundle", "--to", &bundle_path, "--state", &state, "--log", &log, "--log", &own_log];
    watch.run(gateway, &args, true)?;
    watch.run(gateway, &args, false).context("it overwrites nothing")?;
    let mut files = std::collections::BTreeMap::new();
    let mut archive = tar::Archive::new(zstd::Decoder::new(std::fs::File::open(&bundle)?)?);
    for entry in archive.entries()? {
        let mut entry = entry?;
        let path = entry.path()?.components().skip(1).collect::<PathBuf>().display().to_string();
        let mut bytes = Vec::new();
        std::io::Read::read_to_end(&mut entry, &mut bytes)?;
        let found = watch.found(&bytes);
        ensure!(found.is_empty(), "{path} has {found:?}");
        files.insert(path, bytes);
    }
    std::fs::remove_file(&bundle)?;
    let about: Value = serde_json::from_slice(&files["bundle.json"])?;
    let entry =
        |name: &str| about["contents"].as_array().into_iter().flatten().find(|entry| entry["path"] == name).cloned();
    let removed = entry("logs/0-poured.log").context("the poured log")?["removed"].as_u64();
    ensure!(removed.is_some_and(|removed| removed >= known.len() as u64), "{about}");
    for name in
        ["api/status.json", "api/volumes.json", "api/events.json", "api/metrics.txt", "host/meminfo", "state/files.txt"]
    {
        ensure!(files.get(name).is_some_and(|bytes| bytes.len() > 20), "{name} is missing: {about}");
    }
    ensure!(String::from_utf8_lossy(&files["state/files.txt"]).contains("admin.token"), "files are listed by name");
    let log = files.get("logs/1-log").context("the gateway's own log")?;
    ensure!(log.len() > 100_000, "what the gateway told is in it");
    Ok(())
}

#[test]
fn secrets_are_where_they_are_kept_and_nowhere_else() {
    // Whoever starts the gateway may allow core dumps, but has none of them.
    let allowed = Rlimit { current: Some(1 << 30), maximum: Some(1 << 30) };
    setrlimit(Resource::Core, allowed).unwrap();
    assert_eq!(getrlimit(Resource::Core).current, Some(1 << 30));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let moto = runtime.block_on(Moto::start(&["lifeboat-vaults"])).unwrap();
    let scratch = Scratch::new("secrets").unwrap();
    let dir = scratch.path();
    let mut watch = Watch::new();
    let mut gateway = Gateway::prepare("home", "primary", dir).unwrap();
    gateway.arg("--log").arg("trace");
    gateway.restart().unwrap();
    watch.watch("administrator's token", &std::fs::read_to_string(gateway.token_file()).unwrap());

    story(&mut watch, &gateway, dir, &moto).unwrap();
    declare(&mut watch, &gateway, dir, &moto).unwrap();
    mistakes(&mut watch, &gateway).unwrap();
    bundled(&mut watch, &gateway, dir).unwrap();

    let limits = std::fs::read_to_string(format!("/proc/{}/limits", gateway.pid().unwrap())).unwrap();
    let core: Vec<&str> =
        limits.lines().find(|line| line.starts_with("Max core file size")).unwrap().split_whitespace().collect();
    assert_eq!(core.get(4..6), Some(&["0", "0"][..]), "{core:?}");

    // While it still runs, and its journal and images hold what was written.
    for (what, text) in &watch.said {
        assert_eq!(watch.found(text.as_bytes()), [""; 0], "what `{what}` printed");
    }
    let (log, state, mount) = (gateway.log(), gateway.state(), gateway.mount());
    assert!(std::fs::metadata(&log).unwrap().len() > 100_000, "the gateway told what it did");
    let mut kept = Vec::new();
    for path in files_below(dir).unwrap().into_iter().filter(|path| !path.starts_with(&mount)) {
        let below = |part: &str| path.components().any(|one| one.as_os_str() == part);
        let mut found = watch.found(&std::fs::read(&path).unwrap());
        if path.starts_with(&state) {
            // Images and journals hold the volumes: they are the volumes.
            found.retain(|what| *what != "content of a volume");
        }
        let keeps = KEEPERS.iter().any(|name| path == state.join(name));
        if keeps {
            kept.extend(found);
        } else if path.ends_with("agent/identity.pem") {
            assert_eq!(found, ["agent's private key"]);
        } else if path.ends_with("newcomer/registration.json") {
            // Until it has opened the vault with it.
            found.sort_unstable();
            assert_eq!(found, ["gateway's registration key", "passphrase"]);
        } else if !OWN.iter().any(|own| below(own)) {
            assert_eq!(found, [""; 0], "{}", path.display());
        }
    }
    // That they are found where they are kept shows that the search finds.
    kept.sort_unstable();
    for what in [
        "administrator's token",
        "passphrase",
        "passphrase for Terraform",
        "storage secret",
        "storage secret for Terraform",
    ] {
        assert!(kept.contains(&what), "{kept:?}");
    }
    gateway.stop().unwrap();
}
