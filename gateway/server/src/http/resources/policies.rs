//! Policies: what another one keeps less of, and what a group goes on with when its policy is deleted.

use std::borrow::Cow;
use std::sync::Arc;

use async_trait::async_trait;
use lifeboat_api::validate::format_duration;
use lifeboat_api::{Policy, PolicySpec};
use lifeboat_model::{GroupId, PolicyId};
use lifeboat_vault::{Document, VaultError};

use super::{ApiError, ApiResult, Kind, attached, fixed};
use crate::approvals;
use crate::context::Context;
use crate::records::{GroupRecord, LastPolicy, kind, status};
use crate::vaults::AttachedVault;
use crate::view;

/// See [`Policy`].
#[derive(Debug)]
pub(crate) struct Policies;

#[async_trait]
impl Kind for Policies {
    const KIND: &'static str = kind::POLICIES;
    const WHAT: &'static str = "policy";
    type Spec = PolicySpec;
    type View = Policy;

    fn id(bytes: [u8; 16]) -> String {
        PolicyId::from_bytes(bytes).to_string()
    }
    fn name(spec: &PolicySpec) -> Cow<'_, str> {
        (&spec.name).into()
    }
    fn view(_: &Context, vault: &AttachedVault, document: &Document) -> Result<Policy, VaultError> {
        view::policy(vault, document)
    }
    async fn admit(context: &Context, spec: &PolicySpec) -> ApiResult<Arc<AttachedVault>> {
        let vault = attached(context, spec.vault_id)?;
        approvals::refuse_short(&vault, &spec.retention)?;
        Ok(vault)
    }
    async fn admit_change(
        _: &Context,
        vault: &AttachedVault,
        _: &str,
        old: &PolicySpec,
        new: &PolicySpec,
    ) -> ApiResult<()> {
        fixed("vault_id", &old.vault_id, &new.vault_id)?;
        approvals::refuse_short(vault, &new.retention)
    }
    fn destroys(_: &AttachedVault, old: &PolicySpec, new: &PolicySpec) -> Option<String> {
        retention_cut(old, new)
    }
    /// Groups go on under its settings until they name another: what is protected stays so.
    const WHILE_NAMED: Option<fn(&AttachedVault, &Document) -> Vec<String>> = Some(|_, _| Vec::new());
    async fn bequeath(vault: &AttachedVault, document: &Document) -> ApiResult<()> {
        let last = LastPolicy {
            id: document.id.parse().map_err(|_| ApiError::not_found(Self::WHAT, &document.id))?,
            spec: document.spec_as()?,
        };
        let snapshot = vault.snapshot();
        for group in view::referring(&snapshot, kind::GROUPS, "policy_id", &document.id) {
            let Ok(group) = group.id.parse::<GroupId>() else { continue };
            let change = |record: &mut GroupRecord| {
                let is_new = record.last_policy.as_ref() != Some(&last);
                record.last_policy = Some(last.clone());
                is_new
            };
            crate::jobs::change_group_by_id(vault, group, change).await?;
        }
        Ok(())
    }
    fn blockers(vault: &AttachedVault, document: &Document) -> Vec<String> {
        let snapshot = vault.snapshot();
        let governed = view::referring(&snapshot, kind::GROUPS, "policy_id", &document.id);
        governed
            .map(|group| {
                let record: GroupRecord = status(group);
                let what = if record.implicit { "volume" } else { "group" };
                format!("{what} {} ({})", group.name, group.id)
            })
            .collect()
    }
}

/// What another schedule keeps less of.
fn retention_cut(old: &PolicySpec, new: &PolicySpec) -> Option<String> {
    let age = approvals::cut_from(&old.retention, &new.retention)?;
    Some(format!(
        "keep recovery points {} instead of {}, which drops some that are older than {}",
        approvals::in_words(&new.retention),
        approvals::in_words(&old.retention),
        format_duration(age)
    ))
}

/// What another policy keeps less of.
pub(super) fn cut(vault: &AttachedVault, old: &PolicyId, new: &PolicyId) -> Option<String> {
    let snapshot = vault.snapshot();
    let policy = |id: &PolicyId| {
        let groups = snapshot.of(kind::GROUPS).iter().map(|group| status::<GroupRecord>(group));
        let mut last = groups.filter_map(|record| record.last_policy).filter(|last| last.id == *id);
        view::declared_policy(&snapshot, *id).or_else(|| last.next().map(|last| last.spec))
    };
    if old == new {
        return None;
    }
    let (old, new) = (policy(old)?, policy(new)?);
    retention_cut(&old, &new).map(|cut| format!("the policy {} instead of {}: {cut}", new.name, old.name))
}
