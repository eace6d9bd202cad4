//! `lifeboat volume`: list, show, create, set-source, export, delete, rotate-key, erase.
//!
//! `create` waits until the volume is protected, unless told not to. Waiting is bounded: a volume whose gateway never
//! starts stays pending for ever. Interrupting it changes nothing.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand};
use lifeboat_api::validate::parse_duration;
use lifeboat_api::{
    Client, ClientErrorKind, EraseRequest, Gateway, IscsiExport, NbdExport, Policy, ProtectionState,
    RotateVolumeKeyRequest, Volume, VolumeErasure, VolumeExport, VolumeKey, VolumeSource, VolumeSpec,
};
use lifeboat_model::VolumeId;
use tokio::time::Instant;

use super::declared::{self, Listed, Named, Names};
use crate::connect::ConnectionArgs;
use crate::failure::{Failure, Result};
use crate::output::{Output, note};
use crate::render::{self, clean, maybe, parse_size, seconds, size};
use crate::resolve::{self, find};

const LOOK_INTERVAL: Duration = Duration::from_millis(500);

/// Declare volumes: the disks that are protected.
#[derive(Args, Debug)]
pub(crate) struct VolumeArgs {
    #[command(flatten)]
    connection: ConnectionArgs,
    #[command(subcommand)]
    verb: VolumeVerb,
}

#[derive(Subcommand, Debug)]
enum VolumeVerb {
    /// List the volumes
    List,
    /// Show one
    Show(Named),
    /// Declare a volume, in a group or by itself under a policy, and wait until it is protected
    Create(Wanted),
    /// Name another disk for an adopted volume that is failed over: `failback --mode create` builds it there, whatever that holds
    SetSource {
        #[command(flatten)]
        volume: Named,
        /// The disk image or block device of the home gateway's machine
        #[arg(long, value_name = "PATH")]
        source: String,
    },
    /// Say which other hosts may use a volume over the network: all of them, in place of those before
    Export {
        #[command(flatten)]
        volume: Named,
        #[command(flatten)]
        hosts: Hosts,
        /// No host may use it any more
        #[arg(long, conflicts_with_all = ["iscsi", "nbd"], required_unless_present_any = ["iscsi", "nbd"])]
        none: bool,
    },
    /// Delete a volume; its gateway removes the local files soon after
    Delete(Named),
    /// Make a new data key: what is shipped from now on is encrypted under it
    RotateKey(Named),
    /// Destroy the keys of a volume: nobody can read any more what it held in the vault
    Erase(Erase),
}

#[derive(Args, Debug)]
struct Erase {
    /// Its id or name; the id of one that was deleted
    #[arg(value_name = "ID|NAME")]
    target: String,
    /// Its name once more, or its id where the name isn't known any more: there is no way back
    #[arg(long, value_name = "NAME")]
    confirm: String,
    /// Also while it is declared and protected
    #[arg(long)]
    force: bool,
}

/// Which other hosts may use a volume.
#[derive(Args, Debug)]
struct Hosts {
    /// An initiator that may use it over iSCSI (iqn.…, eui.…, naa.…); may be repeated
    #[arg(long, value_name = "INITIATOR")]
    iscsi: Vec<String>,
    /// A certificate, in PEM, that opens it over NBD with TLS, as does one that it signed; may be repeated
    #[arg(long, value_name = "FILE")]
    nbd: Vec<PathBuf>,
}

impl Hosts {
    fn read(self) -> Result<Option<VolumeExport>> {
        let read = |path: &PathBuf| {
            std::fs::read_to_string(path).map_err(|error| Failure::unreadable("the certificate", path, &error))
        };
        let client_certificates = self.nbd.iter().map(read).collect::<Result<Vec<String>>>()?;
        let export = VolumeExport {
            nbd: (!client_certificates.is_empty()).then_some(NbdExport { client_certificates }),
            iscsi: (!self.iscsi.is_empty()).then_some(IscsiExport { initiators: self.iscsi }),
        };
        Ok((export != VolumeExport::default()).then_some(export))
    }
}

#[derive(Args, Debug)]
struct Wanted {
    /// Its name, unique in the vault
    #[arg(long)]
    name: String,
    /// The gateway where it is at home, by id or name
    #[arg(long)]
    gateway: String,
    /// Its size, for example 10GiB; that of its source when left out
    #[arg(long, value_parser = parse_size, required_unless_present = "source")]
    size: Option<u64>,
    /// A disk image or block device of the gateway's machine that is the volume from now on, with its content and in place
    #[arg(long, value_name = "PATH")]
    source: Option<String>,
    /// The group it joins, by id or name
    #[arg(long, required_unless_present = "policy", conflicts_with = "policy")]
    group: Option<String>,
    /// The policy that governs it by itself, by id or name
    #[arg(long)]
    policy: Option<String>,
    /// Local space for data fetched from the vault after a failover, for example 1GiB
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    cache: Option<u64>,
    #[command(flatten)]
    hosts: Hosts,
    /// Don't wait until it is protected
    #[arg(long)]
    no_wait: bool,
    /// How long to wait
    #[arg(long, value_name = "DURATION", default_value = "5m", value_parser = parse_duration)]
    timeout: Duration,
}

impl Listed for Volume {
    const HEAD: &'static [&'static str] =
        &["NAME", "SIZE", "STATE", "HEALTH", "ACTIVE SITE", "RPO", "LATEST POINT", "FILE", "ID"];

    fn cells(&self, _: &Names) -> Vec<String> {
        let (spec, status) = (&self.spec, &self.status);
        vec![
            spec.name.clone(),
            size(status.size_bytes.unwrap_or(spec.size_bytes)),
            status.state.to_string(),
            status.health.to_string(),
            maybe(status.active_site.as_ref()),
            maybe(status.landed_rpo_seconds.map(seconds)),
            maybe(status.latest_recovery_point),
            maybe(status.path.as_ref()),
            self.id.to_string(),
        ]
    }
}

async fn create(client: &Client, output: Output, wanted: Wanted) -> Result<()> {
    let gateway_id = find::<Gateway>(client, &wanted.gateway).await?.id;
    let group_id = match &wanted.group {
        Some(text) => {
            let id = resolve::group(client, text).await?;
            Some(id.parse().map_err(|error: lifeboat_model::ParseIdError| Failure::failed(error.to_string()))?)
        }
        None => None,
    };
    let policy_id = match &wanted.policy {
        Some(text) => Some(find::<Policy>(client, text).await?.id),
        None => None,
    };
    let spec = VolumeSpec {
        name: wanted.name,
        gateway_id,
        size_bytes: wanted.size.unwrap_or(0),
        group_id,
        policy_id,
        cache_bytes: wanted.cache,
        source: wanted.source.map(|path| VolumeSource { path }),
        export: wanted.hosts.read()?,
    };
    let mut volume: Volume = client.create(&spec).await?;
    if !wanted.no_wait {
        volume = protected(client, volume, wanted.timeout).await?;
    }
    output.show(&volume, || render::resource(&volume))
}

/// Waits until a volume is protected.
///
/// # Errors
/// It failed, or the time is over; with the reasons.
async fn protected(client: &Client, mut volume: Volume, within: Duration) -> Result<Volume> {
    let deadline = Instant::now() + within;
    let id = volume.id.to_string();
    let mut told = String::new();
    loop {
        let status = &volume.status;
        let reasons =
            if status.reasons.is_empty() { String::new() } else { format!(": {}", status.reasons.join("; ")) };
        let now = format!("volume {}: {}{reasons}", volume.spec.name, status.state);
        match status.state {
            ProtectionState::Pending | ProtectionState::Creating => {}
            ProtectionState::Failed | ProtectionState::Deleting => return Err(Failure::failed(now)),
            _ => return Ok(volume),
        }
        if Instant::now() >= deadline {
            return Err(Failure::failed(format!(
                "{now}; it was declared and goes on by itself: see it with `lifeboat volume show {id}`"
            )));
        }
        if now != told {
            note(&now);
            told = now;
        }
        tokio::time::sleep(LOOK_INTERVAL).await;
        match client.read(&id).await {
            Ok(news) => volume = news,
            Err(error) if error.kind() == ClientErrorKind::Unreachable => note("no gateway answers; trying again"),
            Err(error) => return Err(error.into()),
        }
    }
}

async fn rotate_key(client: &Client, output: Output, named: &Named) -> Result<()> {
    let volume: Volume = find(client, &named.target).await?;
    let path = format!("/v1/volumes/{}:rotate-key", volume.id);
    let key: VolumeKey = client.post(&path, &RotateVolumeKeyRequest::default()).await?;
    output.show(&key, || {
        clean(&format!("volume {} has data key {} for what is shipped from now on", volume.spec.name, key.data_key))
    })
}

async fn erase(client: &Client, output: Output, wanted: Erase) -> Result<()> {
    // Deleted volumes are what is erased as a rule, and only an id finds those.
    let id: VolumeId = match wanted.target.parse() {
        Ok(id) => id,
        Err(_) => find::<Volume>(client, &wanted.target).await?.id,
    };
    let request = EraseRequest { confirm: wanted.confirm, force: wanted.force };
    let erasure: VolumeErasure = client.post(&format!("/v1/volumes/{id}:erase"), &request).await?;
    output.show(&erasure, || {
        let mut text = format!("the keys of volume {id} were destroyed on {} by {}", erasure.erased, erasure.by);
        for object in &erasure.left_behind {
            text.push_str(&format!("\nthe storage keeps {object}: erase again once it lets go of it"));
        }
        clean(&text)
    })
}

pub(crate) async fn run(args: VolumeArgs, output: Output) -> Result<()> {
    let client = args.connection.client()?;
    match args.verb {
        VolumeVerb::List => declared::list::<Volume>(&client, output, "no volume is declared").await,
        VolumeVerb::Show(named) => declared::show::<Volume>(&client, output, &named).await,
        VolumeVerb::Create(wanted) => create(&client, output, wanted).await,
        VolumeVerb::RotateKey(named) => rotate_key(&client, output, &named).await,
        VolumeVerb::Erase(wanted) => erase(&client, output, wanted).await,
        VolumeVerb::SetSource { volume, source } => {
            let found: Volume = find(&client, &volume.target).await?;
            let spec = VolumeSpec { source: Some(VolumeSource { path: source }), ..found.spec.clone() };
            let changed: Volume = client.update(&found.id.to_string(), found.generation, &spec).await?;
            output.show(&changed, || {
                clean(&format!(
                    "volume {}: `lifeboat failback --mode create` builds it on the new disk, whatever that holds",
                    changed.spec.name
                ))
            })
        }
        VolumeVerb::Export { volume, hosts, none: _ } => {
            let found: Volume = find(&client, &volume.target).await?;
            let spec = VolumeSpec { export: hosts.read()?, ..found.spec.clone() };
            let changed: Volume = client.update(&found.id.to_string(), found.generation, &spec).await?;
            let name = &changed.spec.name;
            output.show(&changed, || match &changed.spec.export {
                Some(_) => clean(&format!(
                    "volume {name}: its gateway serves it to these hosts in a moment; `lifeboat volume show {name}` says where"
                )),
                None => clean(&format!("volume {name}: no other host may use it any more")),
            })
        }
        VolumeVerb::Delete(named) => declared::delete::<Volume>(&client, output, &named, "deleted").await,
    }
}
