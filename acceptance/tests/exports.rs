//! Volumes for other hosts: over NBD with TLS, declared by the real Terraform and used by libnbd and QEMU; and what the helper of the
//! kernel's iSCSI target is told. The kernel's target itself is in the tests of the appliance's image.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::TcpListener;
use std::os::unix::fs::FileExt as _;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use lifeboat_acceptance::bench::Bench;
use lifeboat_acceptance::command::Run;
use lifeboat_acceptance::estate::{Api, Estate};
use lifeboat_acceptance::eventually;
use lifeboat_acceptance::gateway::Gateway;
use lifeboat_acceptance::terraform::Tier;
use lifeboat_api::types::Volume;
use serde_json::{Value, json};

const MIB: u64 = 1 << 20;
const WITHIN: Duration = Duration::from_secs(60);
const ESX: &str = "iqn.1998-01.com.vmware:esx1";

/// A port that is free on every address.
fn free_port() -> Result<u16> {
    Ok(TcpListener::bind("0.0.0.0:0")?.local_addr()?.port())
}

/// A host that may come to use volumes: a directory with its key, its certificate, and the authority of the gateway.
struct Host(PathBuf);

impl Host {
    fn new(dir: PathBuf, gateway: &Gateway) -> Result<Self> {
        std::fs::create_dir(&dir)?;
        Run::new("openssl")
            .args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "3"])
            .args(["-subj", "/CN=host", "-keyout", "client-key.pem", "-out", "client-cert.pem"])
            .dir(&dir)
            .ok()?;
        std::fs::copy(gateway.ca_file(), dir.join("ca-cert.pem"))?;
        Ok(Self(dir))
    }

    fn uri(&self, url: &str) -> String {
        format!("{url}?tls-certificates={}", self.0.display())
    }

    fn may_use(&self, url: &str) -> Result<bool> {
        let asked = Run::new("nbdinfo").arg("--size").arg(self.uri(url)).outcome()?;
        ensure!(asked.code() == 0 || asked.stderr.contains("policy"), "{}", asked.stderr);
        Ok(asked.code() == 0)
    }
}

fn configuration(dir: &Path, export: &str) -> String {
    format!(
        r#"
terraform {{
  required_providers {{
    lifeboat = {{
      source = "registry.terraform.io/lifeboat-dr/lifeboat"
    }}
  }}
}}
provider "lifeboat" {{}}

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
resource "lifeboat_gateway" "primary" {{
  site_id = lifeboat_site.onprem.id
  name    = "primary"
}}
resource "lifeboat_replication_policy" "fast" {{
  vault_id                = lifeboat_vault.main.id
  name                    = "fast"
  recovery_point_interval = "2s"
  retention {{
    every = "all"
    for   = "2h"
  }}
}}
resource "lifeboat_volume" "data" {{
  policy_id  = lifeboat_replication_policy.fast.id
  gateway_id = lifeboat_gateway.primary.id
  name       = "data"
  size_gib   = 0.03125
{export}
}}
"#,
        dir = dir.display()
    )
}

#[test]
fn a_host_uses_a_volume_over_nbd_as_long_as_terraform_says_so() {
    let mut bench = Bench::new("exports", Tier::Attached).unwrap();
    let dir = bench.scratch.path().to_owned();
    let port = free_port().unwrap();
    let listen = format!("0.0.0.0:{port}");
    bench.gateway.stop().unwrap();
    bench.gateway.arg("--listen-nbd").arg(listen).arg("--export-address").arg("127.0.0.1").restart().unwrap();
    let first = Host::new(dir.join("first"), &bench.gateway).unwrap();
    let second = Host::new(dir.join("second"), &bench.gateway).unwrap();
    let nbd = |host: &Host| {
        format!(
            "  export {{\n    nbd {{\n      client_certificates = [file(\"{}/client-cert.pem\")]\n    }}\n  }}",
            host.0.display()
        )
    };
    bench.workspace.write(&configuration(&dir, &nbd(&first))).unwrap();
    bench.workspace.init().unwrap();
    bench.workspace.plan().unwrap();
    bench.workspace.apply().unwrap();
    bench.workspace.plan_is_empty(true).unwrap();
    let state = bench.workspace.state().unwrap();
    let url = state.text("lifeboat_volume.data", "export_nbd_url").unwrap().to_owned();
    assert_eq!(url, format!("nbds://127.0.0.1:{port}/data"));

    // What the host writes is in the mount.
    let image = dir.join("image");
    let bytes: Vec<u8> = (0..32 * MIB).map(|place| (place % 251) as u8).collect();
    std::fs::write(&image, &bytes).unwrap();
    Run::new("nbdcopy").args(["--flush", "--connections=2"]).arg(&image).arg(first.uri(&url)).ok().unwrap();
    assert!(std::fs::read(bench.gateway.volume("data")).unwrap() == bytes);
    // QEMU has its own opinion of certificates that their authority didn't sign, which only the gateway has to know.
    let credentials = format!("tls-creds-x509,id=tls,endpoint=client,sanity-check=off,dir={}", first.0.display());
    let options = format!(
        "driver=raw,file.driver=nbd,file.server.type=inet,file.server.host=127.0.0.1,file.server.port={port},file.export=data,file.tls-creds=tls"
    );
    Run::new("qemu-io")
        .args(["--object", &credentials, "--image-opts", &options, "-c", "write -P 0x5a 1M 64k", "-c", "flush"])
        .ok()
        .unwrap();
    let mut found = [0; 4096];
    let file = std::fs::File::open(bench.gateway.volume("data")).unwrap();
    file.read_exact_at(&mut found, MIB).unwrap();
    assert!(found.iter().all(|byte| *byte == 0x5a));
    drop(file);

    // Whom nobody named gets nothing, a restart changes nothing, and another host takes the place of the first.
    assert!(first.may_use(&url).unwrap() && !second.may_use(&url).unwrap());
    bench.gateway.kill9().unwrap();
    bench.gateway.restart().unwrap();
    eventually("the host to be served again", WITHIN, || Ok(first.may_use(&url).unwrap_or(false).then_some(())))
        .unwrap();
    bench.workspace.write(&configuration(&dir, &nbd(&second))).unwrap();
    let plan = bench.workspace.plan().unwrap();
    assert_eq!(plan.actions("lifeboat_volume.data").unwrap(), ["update"], "in place");
    bench.workspace.apply().unwrap();
    eventually("the other host to be the one", WITHIN, || {
        Ok((second.may_use(&url)? && !first.may_use(&url)?).then_some(()))
    })
    .unwrap();
    bench.workspace.plan_is_empty(true).unwrap();

    // Without the block there is no export.
    bench.workspace.write(&configuration(&dir, "")).unwrap();
    bench.workspace.plan().unwrap();
    bench.workspace.apply().unwrap();
    bench.workspace.plan_is_empty(true).unwrap();
    assert_eq!(
        bench.workspace.state().unwrap().attributes("lifeboat_volume.data").unwrap()["export_nbd_url"],
        Value::Null
    );
    eventually("nobody to be served", WITHIN, || Ok((!second.may_use(&url)?).then_some(()))).unwrap();
    bench.workspace.destroy().unwrap();
}

#[test]
fn what_makes_no_sense_is_refused_where_it_stands() {
    let bench = Bench::new("exports-refused", Tier::Attached).unwrap();
    let dir = bench.scratch.path().to_owned();
    for (export, part) in [
        ("  export {}", "At least one of"),
        ("  export {\n    iscsi {\n      initiators = [\"esx1\"]\n    }\n  }", "no initiator's name"),
        ("  export {\n    nbd {\n      client_certificates = [\"nothing\"]\n    }\n  }", "one certificate in PEM"),
    ] {
        let said = bench.refused(&configuration(&dir, export)).unwrap();
        let told = said
            .iter()
            .any(|one| format!("{} {}", one.summary, one.detail).to_lowercase().contains(&part.to_lowercase()));
        assert!(told, "{part}: {said:?}");
    }
}

/// A helper that does nothing but listen and answer what it is told to.
struct Helper {
    orders: Receiver<Value>,
    /// What it says of every target.
    trouble: Arc<Mutex<Option<&'static str>>>,
    line: Arc<Mutex<Option<UnixStream>>>,
}

impl Helper {
    fn start(socket: &Path) -> Result<Self> {
        let listener = UnixListener::bind(socket)?;
        let (tell, orders) = sync_channel(64);
        let trouble: Arc<Mutex<Option<&'static str>>> = Arc::default();
        let line: Arc<Mutex<Option<UnixStream>>> = Arc::default();
        let (said, held) = (Arc::clone(&trouble), Arc::clone(&line));
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                *held.lock().expect("not poisoned") = stream.try_clone().ok();
                // A gateway that goes ends its line, as it should.
                drop(serve(stream, &tell, &said));
            }
        });
        Ok(Self { orders, trouble, line })
    }

    /// The next order like that.
    fn hear(&self, what: &str, is: impl Fn(&Value) -> bool) -> Result<Value> {
        eventually(what, WITHIN, || {
            let order = self.orders.recv_timeout(WITHIN).with_context(|| format!("{what}: no order came"))?;
            Ok(is(&order).then_some(order))
        })
    }

    fn hang_up(&self) {
        if let Some(line) = self.line.lock().expect("not poisoned").take() {
            drop(line.shutdown(std::net::Shutdown::Both));
        }
    }
}

fn serve(mut stream: UnixStream, tell: &SyncSender<Value>, trouble: &Mutex<Option<&'static str>>) -> Result<()> {
    for order in BufReader::new(stream.try_clone()?).lines() {
        let order: Value = serde_json::from_str(&order?)?;
        let trouble = *trouble.lock().expect("not poisoned");
        let targets = order["targets"].as_array().into_iter().flatten();
        let targets: Vec<Value> =
            targets.map(|target| json!({ "volume": target["volume"], "trouble": trouble })).collect();
        writeln!(stream, "{}", json!({ "portal": "0.0.0.0:3260", "targets": targets }))?;
        tell.send(order)?;
    }
    Ok(())
}

fn volume(gateway: &Gateway) -> Result<Volume> {
    let found = Api::of(gateway)?.call(async |client| client.find_by_name::<Volume>("data").await)?;
    found.context("the volume is declared")
}

#[test]
fn the_iscsi_helper_is_told_what_there_is_to_be_and_what_it_says_is_seen() {
    let mut estate = Estate::protect("exports-iscsi", &[("data", 32 * MIB)]).unwrap();
    let json = estate.primary.json(&["volume", "export", "data", "--iscsi", ESX]).unwrap();
    assert_eq!(json["spec"]["export"]["iscsi"]["initiators"], json!([ESX]));
    let reasons = |gateway: &Gateway| -> Result<Vec<String>> {
        Ok(volume(gateway)?.status.export.map(|export| export.reasons).unwrap_or_default())
    };
    let said = |part: &'static str, gateway: &Gateway| -> Result<()> {
        eventually(part, WITHIN, || Ok(reasons(gateway)?.iter().any(|why| why.contains(part)).then_some(())))
    };
    said("start lifeboat-iscsi.service beside it", &estate.primary).unwrap();
    eventually("the volume's health", WITHIN, || {
        Ok((volume(&estate.primary)?.status.health.as_str() == "warning").then_some(()))
    })
    .unwrap();

    let socket = estate.dir().join("iscsi.sock");
    estate.primary.stop().unwrap();
    estate.primary.arg("--iscsi").arg(&socket).arg("--export-address").arg("192.0.2.10").restart().unwrap();
    said("isn't reached", &estate.primary).unwrap();

    let helper = Helper::start(&socket).unwrap();
    let order = helper.hear("the volume as a target", |order| order["targets"] != json!([])).unwrap();
    let id = volume(&estate.primary).unwrap().id.to_string();
    assert_eq!(order["targets"], json!([{ "volume": id, "name": "data", "initiators": [ESX] }]));
    let served = |gateway: &Gateway| -> Result<(String, String)> {
        eventually("the target to be told", WITHIN, || {
            let status = volume(gateway)?.status;
            let healthy = status.health.as_str() == "healthy";
            let export = status.export.unwrap_or_default();
            Ok(export.iscsi_target.zip(export.iscsi_portal).filter(|_| healthy && export.reasons.is_empty()))
        })
    };
    let (target, portal) = served(&estate.primary).unwrap();
    assert!(target.starts_with("iqn.2026-01.io.lifeboat:") && portal == "192.0.2.10:3260", "{target} {portal}");

    // What the kernel refuses is seen, and tried again until it is done.
    *helper.trouble.lock().unwrap() = Some("the kernel's iSCSI target refuses to begin");
    said("refuses to begin", &estate.primary).unwrap();
    *helper.trouble.lock().unwrap() = None;
    assert_eq!(served(&estate.primary).unwrap().0, target, "its name stays");

    // A helper that went and is back is told anew; another initiator goes the same way, and none is an order too.
    helper.hang_up();
    helper.hear("the target again", |order| order["targets"] != json!([])).unwrap();
    let other = "iqn.1991-05.com.microsoft:host";
    estate.primary.run(&["volume", "export", "data", "--iscsi", other]).unwrap().ok().unwrap();
    helper.hear("the other initiator", |order| order["targets"][0]["initiators"] == json!([other])).unwrap();
    estate.primary.run(&["volume", "export", "data", "--none"]).unwrap().ok().unwrap();
    helper.hear("nothing to be left", |order| order["targets"] == json!([])).unwrap();
    eventually("nothing to be told", WITHIN, || Ok(volume(&estate.primary)?.status.export.is_none().then_some(())))
        .unwrap();

    // A gateway that stops takes its targets away before its files go.
    estate.primary.run(&["volume", "export", "data", "--iscsi", ESX]).unwrap().ok().unwrap();
    helper.hear("the target once more", |order| order["targets"] != json!([])).unwrap();
    estate.primary.stop().unwrap();
    helper.hear("the last order", |order| order["targets"] == json!([])).unwrap();
}
