//! Volumes for other hosts, as their `export` says: who may have which over NBD, and the line to the helper of the kernel's iSCSI
//! target.
//!
//! ```text
//! volume's export ─┬─ nbd:   certificates ──> Guests ──asked by──> the NBD server with TLS
//!                  └─ iscsi: initiators ────> Order ──line──> helper ──> kernel, over the files of the mount
//! what became of it ──> Standing ──> the group's observation ──> the volume's status, at every gateway
//! ```
//! Only volumes whose group is active here are targets; over NBD the home copy of one that is active elsewhere can be read, as in the
//! mount. Nothing is kept: a gateway that starts finds all of it in the catalog.

mod guests;

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use lifeboat_api::{ExportStatus, VolumeSpec};
use lifeboat_iscsi::{Line, Order, Report, Target, target_name};
use lifeboat_model::VolumeId;

use crate::context::{Context, host_name};
use crate::records::{GroupRecord, kind, status};

pub(crate) use guests::Guests;

/// Time between two looks at what is to be exported.
const LOOK: Duration = Duration::from_secs(1);
/// Time between two orders of the same: what failed is tried again, and what the kernel lost comes back.
const AGAIN: Duration = Duration::from_secs(10);
/// How long the helper gets to take everything away when the gateway stops.
const LEAVES_WITHIN: Duration = Duration::from_secs(5);

/// How exports stand at this gateway.
#[derive(Debug, Default)]
pub(crate) struct Exports {
    nbd: OnceLock<SocketAddr>,
    iscsi: Mutex<Standing>,
}

/// What the helper said last.
#[derive(Debug, Default)]
struct Standing {
    report: Option<Report>,
    /// Why there is no report.
    trouble: Option<String>,
}

impl Exports {
    /// NBD with TLS listens there.
    pub(crate) fn set_nbd(&self, address: SocketAddr) {
        let _ = self.nbd.set(address);
    }

    fn iscsi(&self) -> MutexGuard<'_, Standing> {
        self.iscsi.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Where other hosts find a volume that this gateway serves; nothing for one without an export.
    pub(crate) fn of(&self, context: &Context, volume: VolumeId) -> Option<ExportStatus> {
        let (name, spec) = declared(context, volume)?;
        let export = spec.export?;
        let mut found = ExportStatus::default();
        if export.nbd.is_some() {
            match self.nbd.get() {
                Some(at) => found.nbd_url = Some(format!("nbds://{}/{name}", reached_at(context, *at))),
                None => found.reasons.push(
                    "NBD for other hosts is not on at this gateway: start it with --listen-nbd and an address that they reach, for \
                     example [::]:10809"
                        .to_owned(),
                ),
            }
        }
        if export.iscsi.is_some() {
            found.iscsi_target = Some(target_name(volume));
            let standing = self.iscsi();
            let told = standing.report.as_ref();
            match told.and_then(|report| Some((report, report.targets.iter().find(|target| target.volume == volume)?))) {
                Some((report, target)) if target.trouble.is_none() => {
                    let at = report.portal.parse().ok();
                    found.iscsi_portal = at.map(|at| reached_at(context, at));
                }
                Some((_, target)) => found.reasons.extend(target.trouble.clone()),
                None => match (&context.settings.iscsi, &standing.trouble) {
                    (None, _) => found.reasons.push(
                        "there is no iSCSI at this gateway: start lifeboat-iscsi.service beside it, and the gateway with --iscsi"
                            .to_owned(),
                    ),
                    (Some(_), Some(trouble)) => found.reasons.push(trouble.clone()),
                    // It is told in a moment.
                    (Some(_), None) => {}
                },
            }
        }
        Some(found)
    }
}

/// A volume's name and declaration.
fn declared(context: &Context, volume: VolumeId) -> Option<(String, VolumeSpec)> {
    let id = volume.to_string();
    context.vaults.all().iter().find_map(|attached| {
        let snapshot = attached.snapshot();
        let document = snapshot.get(kind::VOLUMES, &id)?;
        Some((document.name.clone(), document.spec_as().ok()?))
    })
}

/// `host:port` of what listens there, for others: as the settings say, by the address that is listened on, or by the one by which this
/// machine reaches others.
fn reached_at(context: &Context, listening: SocketAddr) -> String {
    let port = listening.port();
    match &context.settings.export_address {
        Some(host) if host.contains(':') => format!("[{host}]:{port}"),
        Some(host) => format!("{host}:{port}"),
        None if !listening.ip().is_unspecified() => listening.to_string(),
        None => outward().map_or_else(|| format!("{}:{port}", host_name()), |ip| SocketAddr::new(ip, port).to_string()),
    }
}

/// The address by which this machine reaches others, and so most likely is reached; nothing is sent.
#[must_use]
pub fn outward() -> Option<IpAddr> {
    let ask = |from: &str, to: &str| {
        let socket = UdpSocket::bind(from).ok()?;
        socket.connect(to).ok()?;
        Some(socket.local_addr().ok()?.ip())
    };
    // Documentation's networks: no machine is there.
    ask("0.0.0.0:0", "192.0.2.1:9").or_else(|| ask("[::]:0", "[2001:db8::1]:9"))
}

/// Every volume that is to be a target now: its group is active here, and its file is in the mount.
fn order(context: &Context) -> Order {
    let mut targets = BTreeMap::new();
    if context.exported.path().is_none() {
        return Order::default();
    }
    for attached in context.vaults.all() {
        let snapshot = attached.snapshot();
        let own = context.own_gateway(&attached);
        for document in snapshot.of(kind::GROUPS) {
            let record: GroupRecord = status(document);
            let Ok(group) = document.id.parse() else { continue };
            let Some(active) = record.active.as_ref().filter(|active| Some(active.gateway) == own) else { continue };
            let Some(open) = context.instances.get(group, &active.instance) else { continue };
            for held in open.instance.volumes() {
                let Some((name, spec)) = declared(context, held.id) else { continue };
                let Some(iscsi) = spec.export.and_then(|export| export.iscsi) else { continue };
                if open.instance.volume(held.id).is_some_and(|file| !file.read_only()) {
                    targets.insert(held.id, Target { volume: held.id, name, initiators: iscsi.initiators });
                }
            }
        }
    }
    Order { targets: targets.into_values().collect() }
}

/// Has the helper hold what is to be there, until the gateway stops; then nothing.
pub(crate) async fn keep(context: Arc<Context>, socket: PathBuf) {
    let mut line = None;
    let mut told = (Order::default(), tokio::time::Instant::now());
    while context.stop.run_until_cancelled(tokio::time::sleep(LOOK)).await.is_some() {
        let wanted = order(&context);
        let known = line.is_some() && wanted == told.0 && told.1.elapsed() < AGAIN;
        // Without anything to export nobody has to be there.
        if known || (line.is_none() && wanted.targets.is_empty()) {
            continue;
        }
        let heard = async {
            let open = match line.take() {
                Some(open) => open,
                None => Line::open(&socket).await?,
            };
            let open = line.insert(open);
            open.order(&wanted).await
        };
        let heard = match context.stop.run_until_cancelled(heard).await {
            None => break,
            Some(heard) => heard,
        };
        let mut standing = context.exports.iscsi();
        match heard {
            Ok(report) => {
                *standing = Standing { trouble: report.trouble.clone(), report: Some(report) };
                told = (wanted, tokio::time::Instant::now());
            }
            Err(error) => {
                line = None;
                let trouble = format!(
                    "the iSCSI helper at {} isn't reached ({error}): start lifeboat-iscsi.service",
                    socket.display()
                );
                if standing.trouble.as_ref() != Some(&trouble) {
                    tracing::warn!("{trouble}");
                }
                *standing = Standing { report: None, trouble: Some(trouble) };
            }
        }
    }
    // The kernel lets go of the files, so that they can be unmounted.
    if let Some(mut line) = line {
        let _ = tokio::time::timeout(LEAVES_WITHIN, line.order(&Order::default())).await;
    }
}
