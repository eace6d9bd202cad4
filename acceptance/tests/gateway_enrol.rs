//! A second gateway registers by key. Terraform at the first one makes the key and hands it over; the new one starts with nothing but the
//! vault's key, is killed while it enrols, enrols again, attaches the vault by itself, is in a configuration that plans nothing, and
//! receives a failover. One that never ran and was declared before does the same. Keys that were used, have ended, or are for another
//! place let nobody in.

use std::ffi::OsString;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use lifeboat_acceptance::bench::Bench;
use lifeboat_acceptance::binaries::lifeboat;
use lifeboat_acceptance::command::{Daemon, Outcome, Run};
use lifeboat_acceptance::content::{content, scribble};
use lifeboat_acceptance::estate::Api;
use lifeboat_acceptance::eventually;
use lifeboat_acceptance::gateway::Gateway;
use lifeboat_acceptance::terraform::Tier;
use lifeboat_api::types::{Gateway as GatewayView, RegistrationKey};

const WITHIN: Duration = Duration::from_secs(90);
/// Longer than the shortest life of a key.
const KEY_ENDS_WITHIN: Duration = Duration::from_secs(180);

fn configuration(dir: &Path, more: &str) -> String {
    let dir = dir.display();
    format!(
        r#"
terraform {{
  required_providers {{
    lifeboat = {{
      source = "lifeboat-dr/lifeboat"
    }}
  }}
}}

resource "lifeboat_vault" "main" {{
  name        = "main"
  storage_url = "file://{dir}/vault"
  encryption {{
    key_source = "key_file"
    key_file   = "{dir}/vault.key"
  }}
}}

resource "lifeboat_site" "onprem" {{
  vault_id = lifeboat_vault.main.id
  name     = "onprem"
}}

resource "lifeboat_site" "recovery" {{
  vault_id = lifeboat_vault.main.id
  name     = "recovery"
}}

resource "lifeboat_gateway" "primary" {{
  site_id = lifeboat_site.onprem.id
  name    = "primary"
}}

resource "lifeboat_replication_policy" "standard" {{
  vault_id                = lifeboat_vault.main.id
  name                    = "standard"
  recovery_point_interval = "1s"
  retention {{
    every = "all"
    for   = "1h"
  }}
}}

resource "lifeboat_consistency_group" "ledger" {{
  vault_id  = lifeboat_vault.main.id
  site_id   = lifeboat_site.onprem.id
  name      = "ledger"
  policy_id = lifeboat_replication_policy.standard.id
}}

resource "lifeboat_volume" "db" {{
  group_id   = lifeboat_consistency_group.ledger.id
  gateway_id = lifeboat_gateway.primary.id
  name       = "db"
  size_gib   = 1
}}
{more}
"#
    )
}

/// A key for `gw-b`, handed over by a provisioner in a file that nobody else can read.
fn handed_over(file: &Path) -> String {
    format!(
        r#"
ephemeral "lifeboat_registration_key" "b" {{
  site_id = lifeboat_site.recovery.id
  roles   = ["configuration_server", "process_server", "master_target"]
  name    = "gw-b"
  keep    = true
}}

resource "terraform_data" "b" {{
  provisioner "local-exec" {{
    command = "umask 077 && printenv KEY > {}"
    environment = {{
      KEY = ephemeral.lifeboat_registration_key.b.key
    }}
  }}
}}
"#,
        file.display()
    )
}

fn adopted(id: &str) -> String {
    format!(
        r#"
import {{
  to = lifeboat_gateway.b
  id = "{id}"
}}

resource "lifeboat_gateway" "b" {{
  site_id = lifeboat_site.recovery.id
  name    = "gw-b"
}}

resource "lifeboat_gateway" "c" {{
  site_id = lifeboat_site.recovery.id
  name    = "gw-c"
  roles   = ["process_server"]
}}
"#
    )
}

/// Passes everything on until the request is there, and withholds what comes back then: whoever asked never hears the answer.
struct Withholder {
    address: SocketAddr,
    end: Arc<AtomicBool>,
}

impl Withholder {
    fn before(target: SocketAddr) -> Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("take a port")?;
        let address = listener.local_addr()?;
        let end = Arc::new(AtomicBool::new(false));
        let ended = Arc::clone(&end);
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                if ended.load(Ordering::SeqCst) {
                    return;
                }
                std::thread::spawn(move || pass(client, target));
            }
        });
        Ok(Self { address, end })
    }

    fn endpoint(&self) -> String {
        format!("https://{}", self.address)
    }
}

impl Drop for Withholder {
    fn drop(&mut self) {
        self.end.store(true, Ordering::SeqCst);
        // Its listener waits for one more.
        let _ = TcpStream::connect(self.address);
    }
}

/// The gateway's part of the handshake is passed on; what it says after the client has spoken again is its answer.
fn pass(mut client: TcpStream, target: SocketAddr) {
    let Ok(mut gateway) = TcpStream::connect(target) else { return };
    let (Ok(mut from_gateway), Ok(mut to_client)) = (gateway.try_clone(), client.try_clone()) else { return };
    let (greeted, asked) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
    let (greeted_too, asked_too) = (Arc::clone(&greeted), Arc::clone(&asked));
    std::thread::spawn(move || {
        let mut buffer = [0; 16 << 10];
        while let Ok(count @ 1..) = from_gateway.read(&mut buffer) {
            if asked_too.load(Ordering::SeqCst) {
                continue;
            }
            greeted_too.store(true, Ordering::SeqCst);
            if to_client.write_all(&buffer[..count]).is_err() {
                return;
            }
        }
    });
    let mut buffer = [0; 16 << 10];
    while let Ok(count @ 1..) = client.read(&mut buffer) {
        if greeted.load(Ordering::SeqCst) {
            asked.store(true, Ordering::SeqCst);
        }
        if gateway.write_all(&buffer[..count]).is_err() {
            return;
        }
    }
}

fn gateway(api: &Api, name: &str) -> Result<Option<GatewayView>> {
    Ok(api.call(async |client| client.find_by_name::<GatewayView>(name).await)?)
}

fn registered(api: &Api, name: &str, log: impl Fn() -> String) -> Result<GatewayView> {
    eventually(&format!("{name} to be registered"), WITHIN, || {
        Ok(gateway(api, name)?.filter(|found| found.status.registered))
    })
    .with_context(log)
}

fn enrol_args(state: &Path, endpoint: &str, key: &Path) -> Vec<OsString> {
    let mut args: Vec<OsString> = ["gateway", "enrol", "--endpoint", endpoint].map(OsString::from).to_vec();
    args.extend(["--state".into(), state.into(), "--key-file".into(), key.into()]);
    args
}

fn enrol(state: &Path, endpoint: &str, key: &Path, more: &[&str]) -> Result<Outcome> {
    let args = enrol_args(state, endpoint, key);
    Run::new(lifeboat()?).args(args).args(more).within(WITHIN).outcome()
}

/// A key by the command line, in a file.
fn key(at: &Gateway, dir: &Path, name: &str, site: &str, more: &[&str]) -> Result<PathBuf> {
    let create = ["registration-key", "create", "--site", site, "--name", name];
    let text = at.run(&[&create[..], more].concat())?.ok()?;
    let path = dir.join(format!("{name}.key"));
    std::fs::write(&path, text).with_context(|| format!("write {}", path.display()))?;
    Ok(path)
}

fn refused(outcome: &Outcome, code: i32, why: &str) -> Result<()> {
    ensure!(outcome.code() == code && outcome.stderr.contains(why), "{why} ({code}): {outcome:?}");
    ensure!(!outcome.stderr.contains("lbr_"), "a key is shown: {outcome:?}");
    Ok(())
}

#[test]
fn a_second_gateway_registers_by_key_and_takes_part() {
    let bench = Bench::new("gateway-enrol", Tier::Installed).unwrap();
    let dir = bench.scratch.path().to_owned();
    let terraform = &bench.workspace;
    let handed = dir.join("handed-over.key");
    terraform.write(&configuration(&dir, &handed_over(&handed))).unwrap();
    terraform.init().unwrap();
    terraform.plan().unwrap();
    terraform.apply().unwrap();
    let api = bench.api().unwrap();
    let all = "configuration_server,process_server,master_target";
    // Its end is waited for last.
    let ends = key(&bench.gateway, &dir, "ends", "recovery", &["--roles", all, "--ttl", "1m"]).unwrap();
    let wrong_site = key(&bench.gateway, &dir, "elsewhere", "onprem", &["--roles", all]).unwrap();

    // Nothing is known to it but the vault's key.
    let mut second = Gateway::prepare("recovery", "gw-b", &dir.join("gw-b")).unwrap();
    let own_key = dir.join("own.key");
    std::fs::copy(dir.join("vault.key"), &own_key).unwrap();
    second.arg("--vault-key-file").arg(&own_key);
    second.restart().unwrap();
    let state = second.state();

    // What doesn't fit is refused, and uses nothing up.
    refused(&enrol(&state, &bench.gateway.endpoint(), &wrong_site, &[]).unwrap(), 4, "was started for recovery")
        .unwrap();
    let impostor = Gateway::start("onprem", "primary", &dir.join("impostor")).unwrap();
    let said = enrol(&impostor.state(), &bench.gateway.endpoint(), &wrong_site, &[]).unwrap();
    refused(&said, 4, "is at work").unwrap();
    drop(impostor);

    // It is killed when the first one has written everything down and the answer is on its way.
    let withholder = Withholder::before(bench.gateway.management()).unwrap();
    let args = enrol_args(&state, &withholder.endpoint(), &handed);
    let asking = Daemon::start("enrol", &lifeboat().unwrap(), &args, &[], &dir.join("enrol.log")).unwrap();
    eventually("the first gateway to know the second", WITHIN, || {
        let keys: Vec<RegistrationKey> = api.call(async |client| client.list("/v1/registration-keys", &[]).await)?;
        let used = keys.iter().any(|key| key.spec.name == "gw-b" && key.status.used_by_gateway.is_some());
        Ok((used && gateway(&api, "gw-b")?.is_some()).then_some(()))
    })
    .unwrap();
    second.kill9().unwrap();
    eventually("the one who asked to be told", WITHIN, || Ok(asking.ended()?.filter(|status| !status.success())))
        .unwrap();
    drop(withholder);
    second.restart().unwrap();
    let once = gateway(&api, "gw-b").unwrap().unwrap();
    assert!(!once.status.registered);
    let said = enrol(&state, &bench.gateway.endpoint(), &handed, &[]).unwrap();
    let said = said.ok().with_context(|| second.log_tail()).unwrap();
    assert!(said.contains("registered as the gateway gw-b at the site recovery"), "{said}");
    let found = registered(&api, "gw-b", || second.log_tail()).unwrap();
    assert_eq!((found.id, found.spec.roles), (once.id, None), "the same one, with every role");

    // It is Terraform's from now on, and nothing is to be done; one more is declared before it is there.
    terraform.write(&configuration(&dir, &adopted(&found.id.to_string()))).unwrap();
    let plan = terraform.plan().unwrap();
    assert_eq!(plan.importing("lifeboat_gateway.b"), Some(found.id.to_string().as_str()));
    assert_eq!(plan.actions("lifeboat_gateway.b").unwrap(), ["no-op"]);
    terraform.apply().unwrap();
    terraform.plan_is_empty(true).unwrap();

    // One that never ran: it enrols first, and its start does the rest.
    let of_c = key(&bench.gateway, &dir, "gw-c", "recovery", &["--role", "process_server"]).unwrap();
    let mut third = Gateway::prepare("recovery", "gw-c", &dir.join("gw-c")).unwrap();
    let named = ["--name", "gw-c", "--site", "recovery"];
    let said = enrol(&third.state(), &bench.gateway.endpoint(), &of_c, &named).unwrap().ok().unwrap();
    assert!(said.contains("known as the gateway gw-c"), "{said}");
    third.restart().unwrap();
    registered(&api, "gw-c", || third.log_tail()).unwrap();
    terraform.plan_is_empty(true).unwrap();
    let state = terraform.state().unwrap();
    assert_eq!(state.attributes("lifeboat_gateway.b").unwrap()["registered"], true);

    // They are used up.
    let fourth = Gateway::start("recovery", "gw-d", &dir.join("gw-d")).unwrap();
    for used in [&handed, &of_c] {
        let said = enrol(&fourth.state(), &bench.gateway.endpoint(), used, &[]).unwrap();
        refused(&said, 4, "was used by another machine").unwrap();
    }

    // It takes part: the group moves there, and nothing is lost.
    let volume = bench.gateway.volume("db");
    scribble(&volume, 7, 2000).unwrap();
    let written = content(&volume).unwrap();
    let job = second.json(&["failover", "planned", "--group", "ledger"]).unwrap();
    assert_eq!(job["state"], "succeeded", "{job}\n{}", second.log_tail());
    let there = second.volume("db");
    assert!(content(&there).unwrap() == written, "what was written is there");
    scribble(&there, 8, 100).unwrap();
    terraform.plan_is_empty(true).unwrap();

    // Over.
    let said = eventually("the key's end", KEY_ENDS_WITHIN, || {
        let keys: Vec<RegistrationKey> = api.call(async |client| client.list("/v1/registration-keys", &[]).await)?;
        let over = keys.iter().find(|key| key.spec.name == "ends").is_none_or(|key| key.status.expired);
        over.then(|| enrol(&fourth.state(), &bench.gateway.endpoint(), &ends, &[])).transpose()
    })
    .unwrap();
    refused(&said, 4, "has ended").unwrap();

    // No key is anywhere but where it was handed over.
    for log in [bench.gateway.log(), second.log(), third.log(), fourth.log()] {
        let text = std::fs::read_to_string(&log).unwrap();
        assert!(!text.contains("lbr_"), "{} has a key in it", log.display());
    }
    for state in [second.state(), third.state(), terraform.dir().to_owned()] {
        for entry in std::fs::read_dir(&state).unwrap().flatten().filter(|entry| entry.path().is_file()) {
            let bytes = std::fs::read(entry.path()).unwrap();
            assert!(!bytes.windows(4).any(|window| window == b"lbr_"), "{} has a key in it", entry.path().display());
        }
    }
}
