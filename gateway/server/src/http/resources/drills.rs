//! Drills: what is asserted is of the plan; one that runs, or whose test is up, isn't deleted.

use std::borrow::Cow;
use std::sync::Arc;

use async_trait::async_trait;
use lifeboat_api::{Drill, DrillSpec};
use lifeboat_model::DrillId;
use lifeboat_vault::{Document, VaultError};

use super::{ApiResult, Kind, fixed, referred};
use crate::context::Context;
use crate::jobs::drill::evidence;
use crate::records::{DrillRecord, kind, status};
use crate::vaults::{AttachedVault, Snapshot};
use crate::view;

/// See [`Drill`].
#[derive(Debug)]
pub(crate) struct Drills;

/// The drills that assert something of a machine or a volume, or test a plan, or test in a network.
pub(super) fn that_need(snapshot: &Snapshot, id: &str) -> Vec<String> {
    let needs = |document: &&Arc<Document>| {
        document.spec_as::<DrillSpec>().is_ok_and(|spec| {
            let of = |one: &lifeboat_api::Assertion| {
                one.machine_id.is_some_and(|machine| machine.to_string() == id)
                    || one.volume_id.is_some_and(|volume| volume.to_string() == id)
            };
            spec.plan_id.to_string() == id || spec.network == id || spec.assertion.iter().any(of)
        })
    };
    super::named("drill", snapshot.of(kind::DRILLS).iter().filter(needs))
}

fn fits(vault: &AttachedVault, spec: &DrillSpec) -> ApiResult<()> {
    let wrong = view::drill_misfits(&vault.snapshot(), spec);
    if wrong.is_empty() { Ok(()) } else { Err(wrong.into()) }
}

#[async_trait]
impl Kind for Drills {
    const KIND: &'static str = kind::DRILLS;
    const WHAT: &'static str = "drill";
    type Spec = DrillSpec;
    type View = Drill;

    fn id(bytes: [u8; 16]) -> String {
        DrillId::from_bytes(bytes).to_string()
    }
    fn name(spec: &DrillSpec) -> Cow<'_, str> {
        (&spec.name).into()
    }
    fn view(_: &Context, vault: &AttachedVault, document: &Document) -> Result<Drill, VaultError> {
        view::drill(vault, document)
    }

    async fn admit(context: &Context, spec: &DrillSpec) -> ApiResult<Arc<AttachedVault>> {
        Ok(referred(context, kind::PLANS, "plan_id", "plan", &spec.plan_id).await?.0)
    }

    async fn prepare(vault: &AttachedVault, _: &str, spec: &DrillSpec) -> ApiResult<()> {
        fits(vault, spec)
    }

    fn blockers(vault: &AttachedVault, document: &Document) -> Vec<String> {
        let record: DrillRecord = status(document);
        let mut found: Vec<String> = record.job.iter().map(|job| format!("the job {job}")).collect();
        let test = document.spec_as().ok().and_then(|spec| view::kept_test(&vault.snapshot(), &spec, &record));
        found.extend(test.map(|test| format!("its test {test} (lifeboat drill cleanup ends it)")));
        found
    }

    async fn deleted(vault: &AttachedVault, document: &Document) -> ApiResult<()> {
        let record: DrillRecord = status(document);
        evidence::forget_all(vault, &record.runs).await;
        Ok(())
    }

    async fn admit_change(
        _: &Context,
        vault: &AttachedVault,
        _: &str,
        old: &DrillSpec,
        new: &DrillSpec,
    ) -> ApiResult<()> {
        fixed("plan_id", &old.plan_id, &new.plan_id)?;
        fits(vault, new)
    }
}
