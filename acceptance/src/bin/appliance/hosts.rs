//! Another machine, that uses a volume of the appliance over iSCSI and NBD, as Terraform on this one declares it.
//!
//! ```text
//! Terraform ──443──> gateway in the appliance          another QEMU: Linux, open-iscsi ──3260──┐
//!                                                       nbdcopy on this machine ──10809, TLS──> the same volume ──> S3
//! ```

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use lifeboat_acceptance::command::Run;
use lifeboat_acceptance::eventually;
use lifeboat_acceptance::terraform::{Tier, Workspace};

use super::{Appliance, SETTLES_WITHIN, TOKEN};

const VOLUME: &str = "datastore";
const BYTES: usize = 32 << 20;
/// What is written of them over iSCSI.
const WRITTEN: usize = 8 << 20;
const WORD: &str = "lifeboat";
const INITIATOR: &str = "iqn.1993-08.org.debian:host2";

/// What another host knows of the volume.
pub(super) struct Hosts {
    place: PathBuf,
    workspace: Workspace,
    kernel: PathBuf,
    initrd: PathBuf,
    target: String,
    /// How it is known to the host: the disk's identifier and size.
    seen: String,
    /// With everything that the volume has to hold.
    image: PathBuf,
}

/// As the other machine says it.
fn sum(bytes: Vec<u8>) -> Result<String> {
    let said = Run::new("sha256sum").input(bytes).ok()?;
    said.split_whitespace().next().map(str::to_owned).context("a checksum")
}

/// What `yes WORD` says, so much of it.
fn pattern() -> Vec<u8> {
    format!("{WORD}\n").bytes().cycle().take(WRITTEN).collect()
}

fn configuration(appliance: &Appliance, authority: &Path, storage: &str, size_gib: &str) -> String {
    format!(
        r#"
terraform {{
  required_providers {{
    lifeboat = {{
      source = "registry.terraform.io/lifeboat-dr/lifeboat"
    }}
  }}
}}
provider "lifeboat" {{
  endpoint            = "{endpoint}"
  ca_certificate_file = "{authority}"
}}
variable "passphrase" {{
  type      = string
  ephemeral = true
}}
variable "credentials" {{
  type      = map(string)
  ephemeral = true
}}

resource "lifeboat_vault" "main" {{
  name             = "main"
  storage_url      = "s3://vaults/acme"
  storage_endpoint = "{storage}"

  storage_credentials         = var.credentials
  storage_credentials_version = 1
  encryption {{
    key_source         = "passphrase"
    passphrase         = var.passphrase
    passphrase_version = 1
  }}
}}
resource "lifeboat_site" "onprem" {{
  vault_id = lifeboat_vault.main.id
  name     = "onprem"
}}
resource "lifeboat_gateway" "appliance" {{
  site_id = lifeboat_site.onprem.id
  name    = "gw-test"
}}
resource "lifeboat_replication_policy" "gold" {{
  vault_id                = lifeboat_vault.main.id
  name                    = "gold"
  recovery_point_interval = "5s"
  retention {{
    every = "all"
    for   = "1h"
  }}
}}
resource "lifeboat_volume" "datastore" {{
  policy_id  = lifeboat_replication_policy.gold.id
  gateway_id = lifeboat_gateway.appliance.id
  name       = "{VOLUME}"
  size_gib   = {size_gib}
  export {{
    iscsi {{
      initiators = ["{INITIATOR}"]
    }}
    nbd {{
      client_certificates = [file("${{path.module}}/../host/client-cert.pem")]
    }}
  }}
}}
"#,
        endpoint = appliance.endpoint(),
        authority = authority.display(),
    )
}

impl Hosts {
    /// Declares a vault, the gateway and a volume for another host.
    pub(super) fn declare(
        appliance: &Appliance,
        place: &Path,
        authority: &Path,
        storage: &str,
        variables: &BTreeMap<&str, String>,
    ) -> Result<Self> {
        let host = place.join("host");
        fs::create_dir(&host)?;
        Run::new("openssl")
            .args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "3"])
            .args(["-subj", "/CN=host2", "-keyout", "client-key.pem", "-out", "client-cert.pem"])
            .dir(&host)
            .ok()?;
        fs::copy(authority, host.join("ca-cert.pem"))?;
        let secret = |name: &str| variables.get(name).cloned().unwrap_or_default();
        let credentials = serde_json::json!({
            "AWS_ACCESS_KEY_ID": secret("AWS_ACCESS_KEY_ID"), "AWS_SECRET_ACCESS_KEY": secret("AWS_SECRET_ACCESS_KEY"),
        });
        let environment: Vec<(OsString, OsString)> = [
            ("LIFEBOAT_TOKEN", TOKEN.to_owned()),
            ("TF_VAR_passphrase", secret("LIFEBOAT_VAULT_PASSPHRASE")),
            ("TF_VAR_credentials", credentials.to_string()),
        ]
        .map(|(name, value)| (name.into(), value.into()))
        .into();
        let workspace = Workspace::new(&place.join("terraform"), Tier::Installed, environment)?;
        workspace.write(&configuration(appliance, authority, storage, "0.03125"))?;
        workspace.init()?;
        workspace.plan()?;
        workspace.apply()?;
        workspace.plan_is_empty(true)?;
        let target = workspace.state()?.text("lifeboat_volume.datastore", "iscsi_target")?.to_owned();
        let (kernel, initrd) = lifeboat_lab::initiator(place)?;
        let image = place.join("datastore.raw");
        let bytes = [pattern(), vec![0; BYTES - WRITTEN]].concat();
        fs::write(&image, bytes)?;
        Ok(Self { place: place.to_owned(), workspace, kernel, initrd, target, seen: String::new(), image })
    }

    /// Boots the other machine with an order, until it is off; what it said.
    fn boot(&self, appliance: &Appliance, order: &str, initiator: &str) -> Result<String> {
        let words = [
            format!("lifeboat.do={order} lifeboat.word={WORD} lifeboat.mib={}", WRITTEN >> 20),
            format!("lifeboat.target={} lifeboat.initiator={initiator} lifeboat.port={}", self.target, appliance.iscsi),
        ];
        let args = "-accel tcg,tb-size=256 -smp 1 -cpu max -m 256 -machine q35 -nodefaults -display none -no-reboot -serial stdio";
        let said = Run::new("qemu-system-x86_64")
            .args(args.split(' '))
            .arg("-kernel")
            .arg(&self.kernel)
            .arg("-initrd")
            .arg(&self.initrd)
            .arg("-append")
            .arg(format!("console=ttyS0 quiet panic=-1 {}", words.join(" ")))
            .args(["-netdev", "user,id=net", "-device", "virtio-net-pci,netdev=net"])
            .within(SETTLES_WITHIN)
            .ok()?;
        ensure!(said.contains("INITIATOR DONE"), "the other machine came to no end: {said}");
        Ok(said)
    }

    /// Another machine writes over iSCSI, and one that nobody named doesn't.
    pub(super) fn write(&mut self, appliance: &Appliance) -> Result<()> {
        let said = self.boot(appliance, "write", INITIATOR)?;
        let wrote = format!("INITIATOR WROTE {}", sum(pattern())?);
        ensure!(said.contains(&wrote), "{wrote} was to be said: {said}");
        self.seen = seen(&said)?;
        ensure!(self.seen.starts_with("naa.6001405") && self.seen.contains(&format!(" {BYTES} ")), "{}", self.seen);
        ensure!(!self.seen.ends_with(" 0"), "space can't be given back: {}", self.seen);
        let stranger = self.boot(appliance, "read", "iqn.1993-08.org.debian:stranger")?;
        ensure!(stranger.contains("INITIATOR REFUSED"), "somebody whom nobody named came in: {stranger}");
        self.over_nbd(appliance)
    }

    /// The same volume over NBD has what was written.
    fn over_nbd(&self, appliance: &Appliance) -> Result<()> {
        let (host, copy) = (self.place.join("host"), self.place.join("copy.raw"));
        let url = format!("nbds://127.0.0.1:{}/{VOLUME}?tls-certificates={}", appliance.nbd, host.display());
        // It has just been written to the one way, or come up again.
        eventually("the volume over NBD", SETTLES_WITHIN, || {
            Ok((Run::new("nbdinfo").args(["--size", &url]).outcome()?.code() == 0).then_some(()))
        })?;
        Run::new("nbdcopy").arg(&url).arg(&copy).within(SETTLES_WITHIN).ok()?;
        let same = fs::read(&copy)? == fs::read(&self.image)?;
        ensure!(same, "what is read over NBD isn't what was written over iSCSI");
        Ok(())
    }

    /// At a fresh appliance: the same disk is there, with everything.
    pub(super) fn found_again(&self, appliance: &Appliance, authority: &Path, storage: &str) -> Result<()> {
        self.over_nbd(appliance)?;
        let said = eventually("the disk to be there again", SETTLES_WITHIN, || {
            let said = self.boot(appliance, "read", INITIATOR)?;
            Ok((!said.contains("INITIATOR REFUSED")).then_some(said))
        })?;
        let read = format!("INITIATOR READ {}", sum(pattern())?);
        ensure!(said.contains(&read), "{read} was to be said: {said}");
        ensure!(seen(&said)? == self.seen, "it is another disk: {said}, and was {}", self.seen);
        // Nothing to be done but for the port, which is another one each time; then it grows while it is a target.
        self.workspace.write(&configuration(appliance, authority, storage, "0.03125"))?;
        self.workspace.plan_is_empty(true)?;
        self.workspace.write(&configuration(appliance, authority, storage, "0.0625"))?;
        self.workspace.plan()?;
        self.workspace.apply()?;
        eventually("the disk to have grown", SETTLES_WITHIN, || {
            let said = self.boot(appliance, "read", INITIATOR)?;
            Ok(said.contains(&format!(" {} ", BYTES * 2)).then_some(()))
        })
    }

    /// The file that a recovery point of the volume is held against.
    pub(super) fn image(&self) -> String {
        self.image.display().to_string()
    }
}

/// Identifier, size and what can be given back at once, of the disk that the other machine found.
fn seen(said: &str) -> Result<String> {
    let line = said.lines().find_map(|line| line.split_once("INITIATOR SEES ").map(|(_, seen)| seen.trim().to_owned()));
    line.with_context(|| format!("the other machine saw no disk: {said}"))
}
