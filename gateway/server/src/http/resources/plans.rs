//! Recovery plans: everything in one is of its source site, and has somewhere to go.

use std::borrow::Cow;
use std::sync::Arc;

use async_trait::async_trait;
use lifeboat_api::{Plan, PlanSpec};
use lifeboat_model::PlanId;
use lifeboat_vault::{Document, VaultError};

use super::{ApiResult, Kind, attached, fitting, fixed, referred, same_vault};
use crate::context::Context;
use crate::records::{RecoveryRecord, kind, status};
use crate::vaults::{AttachedVault, Snapshot};
use crate::view;

/// See [`Plan`].
#[derive(Debug)]
pub(crate) struct Plans;

fn boots(document: &Document, member: &str) -> bool {
    document.spec_as::<PlanSpec>().is_ok_and(|spec| {
        let machines = spec.machines().map(|(_, _, machine)| machine.to_string());
        machines.chain(spec.volumes().map(|(_, _, volume)| volume.to_string())).any(|id| id == member)
    })
}

/// The plans that a machine or a volume is in.
pub(super) fn that_boot(snapshot: &Snapshot, member: &str) -> Vec<String> {
    super::named("plan", snapshot.of(kind::PLANS).iter().filter(|plan| boots(plan, member)))
}

/// Those of them that something is under way with, or that are at their target.
pub(super) fn that_move(snapshot: &Snapshot, member: &str) -> Vec<String> {
    let moves = |plan: &&Arc<Document>| {
        let record: RecoveryRecord = status(plan);
        boots(plan, member) && (record.failover.is_some() || !under_way(plan).is_empty())
    };
    super::named("plan", snapshot.of(kind::PLANS).iter().filter(moves))
}

/// What is under way with a plan or a machine.
pub(super) fn under_way(document: &Document) -> Vec<String> {
    let record: RecoveryRecord = status(document);
    let mut found: Vec<String> = record.job.iter().map(|job| format!("the job {job}")).collect();
    found.extend(record.tests.iter().map(|test| format!("the test {} (lifeboat cleanup ends it)", test.job)));
    found.extend(
        record.run.iter().map(|run| format!("the gateway {} that runs it (lifeboat machine stop)", run.gateway_id)),
    );
    found
}

#[async_trait]
impl Kind for Plans {
    const KIND: &'static str = kind::PLANS;
    const WHAT: &'static str = "plan";
    const CLASHES: bool = true;
    type Spec = PlanSpec;
    type View = Plan;

    fn id(bytes: [u8; 16]) -> String {
        PlanId::from_bytes(bytes).to_string()
    }
    fn name(spec: &PlanSpec) -> Cow<'_, str> {
        (&spec.name).into()
    }
    fn view(context: &Context, vault: &AttachedVault, document: &Document) -> Result<Plan, VaultError> {
        view::plan(context, vault, document)
    }

    async fn admit(context: &Context, spec: &PlanSpec) -> ApiResult<Arc<AttachedVault>> {
        let vault = attached(context, spec.vault_id)?;
        for (field, site) in [("source_site_id", spec.source_site_id), ("target_site_id", spec.target_site_id)] {
            let (of_site, _) = referred(context, kind::SITES, field, "site", &site).await?;
            same_vault(field, &vault, &of_site)?;
        }
        Ok(vault)
    }

    async fn prepare(vault: &AttachedVault, _: &str, spec: &PlanSpec) -> ApiResult<()> {
        fitting(view::plan_misfits(&vault.snapshot(), spec))
    }

    fn blockers(vault: &AttachedVault, document: &Document) -> Vec<String> {
        let mut blockers = under_way(document);
        blockers.extend(super::drills::that_need(&vault.snapshot(), &document.id));
        blockers
    }

    async fn admit_change(
        _: &Context,
        vault: &AttachedVault,
        _: &str,
        old: &PlanSpec,
        new: &PlanSpec,
    ) -> ApiResult<()> {
        fixed("vault_id", &old.vault_id, &new.vault_id)?;
        fixed("source_site_id", &old.source_site_id, &new.source_site_id)?;
        fixed("target_site_id", &old.target_site_id, &new.target_site_id)?;
        fitting(view::plan_misfits(&vault.snapshot(), new))
    }
}
