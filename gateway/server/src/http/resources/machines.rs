//! Machines: what they need is there, theirs alone, and of their site.

use std::borrow::Cow;
use std::sync::Arc;

use async_trait::async_trait;
use lifeboat_api::{Machine, MachineSpec};
use lifeboat_model::MachineId;
use lifeboat_vault::{Document, VaultError};

use super::{ApiError, ApiResult, Kind, fitting, fixed, plans, referred, same_vault};
use crate::context::Context;
use crate::records::{RecoveryRecord, kind, status};
use crate::vaults::{AttachedVault, Snapshot};
use crate::view;

/// See [`Machine`].
#[derive(Debug)]
pub(crate) struct Machines;

/// The machines that have a volume as a disk.
pub(super) fn with_disk<'a>(snapshot: &'a Snapshot, volume: &'a str) -> impl Iterator<Item = &'a Arc<Document>> {
    having(snapshot, move |spec| spec.disk.iter().any(|disk| disk.volume_id.to_string() == volume))
}

/// The machines with an interface in a network.
pub(super) fn within<'a>(snapshot: &'a Snapshot, network: &'a str) -> impl Iterator<Item = &'a Arc<Document>> {
    having(snapshot, move |spec| spec.network_interface.iter().any(|one| one.network_id.to_string() == network))
}

fn having<'a>(
    snapshot: &'a Snapshot,
    has: impl Fn(&MachineSpec) -> bool + 'a,
) -> impl Iterator<Item = &'a Arc<Document>> {
    snapshot.of(kind::MACHINES).iter().filter(move |document| document.spec_as().is_ok_and(|spec| has(&spec)))
}

/// Whether something is under way with a machine, or it is away from home, by itself or with a plan.
pub(super) fn moves(snapshot: &Snapshot, machine: &Document) -> bool {
    let record: RecoveryRecord = status(machine);
    record.failover.is_some()
        || !plans::under_way(machine).is_empty()
        || !plans::that_move(snapshot, &machine.id).is_empty()
}

fn fits(vault: &AttachedVault, id: &str, spec: &MachineSpec) -> ApiResult<()> {
    let machine: MachineId = id.parse().map_err(|_| ApiError::not_found(Machines::WHAT, id))?;
    fitting(view::misfits(&vault.snapshot(), machine, spec))
}

#[async_trait]
impl Kind for Machines {
    const KIND: &'static str = kind::MACHINES;
    const WHAT: &'static str = "machine";
    const CLASHES: bool = true;
    type Spec = MachineSpec;
    type View = Machine;

    fn id(bytes: [u8; 16]) -> String {
        MachineId::from_bytes(bytes).to_string()
    }
    fn name(spec: &MachineSpec) -> Cow<'_, str> {
        (&spec.name).into()
    }
    fn view(context: &Context, vault: &AttachedVault, document: &Document) -> Result<Machine, VaultError> {
        view::machine(context, vault, document)
    }

    async fn admit(context: &Context, spec: &MachineSpec) -> ApiResult<Arc<AttachedVault>> {
        let (vault, _) = referred(context, kind::SITES, "site_id", "site", &spec.site_id).await?;
        let (of_group, _) = referred(context, kind::GROUPS, "group_id", "group", &spec.group_id).await?;
        same_vault("group_id", &vault, &of_group)?;
        Ok(vault)
    }

    async fn prepare(vault: &AttachedVault, id: &str, spec: &MachineSpec) -> ApiResult<()> {
        fits(vault, id, spec)
    }

    async fn admit_change(
        _: &Context,
        vault: &AttachedVault,
        id: &str,
        old: &MachineSpec,
        new: &MachineSpec,
    ) -> ApiResult<()> {
        fixed("site_id", &old.site_id, &new.site_id)?;
        fixed("group_id", &old.group_id, &new.group_id)?;
        fits(vault, id, new)
    }

    /// Plans that nothing is under way with stay, not ready, and say why.
    const WHILE_NAMED: Option<fn(&AttachedVault, &Document) -> Vec<String>> = Some(|vault, document| {
        let record: RecoveryRecord = status(document);
        let mut blockers = plans::that_move(&vault.snapshot(), &document.id);
        blockers.extend(plans::under_way(document));
        blockers.extend(record.failover.map(|failover| format!("its failover by the job {}", failover.job)));
        blockers
    });

    fn blockers(vault: &AttachedVault, document: &Document) -> Vec<String> {
        let mut blockers = plans::that_boot(&vault.snapshot(), &document.id);
        blockers.extend(plans::under_way(document));
        blockers
    }
}
