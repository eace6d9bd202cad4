//! `lifeboat_volume`: a protected volume.
//!
//! ```text
//! create:  POST ── pending ── creating ──> protected          (or active elsewhere: protected from there)
//!                     │           └──────> failed             an error with the reasons; the volume stays, tainted
//!                     └── its gateway isn't registered: waits, says so, ends at the time-out
//! ```
//! A volume that holds data is replaced only with `allow_replace`, and never shrinks. A failover changes what is observed
//! (`path`, `active_site`), nothing that is declared: the next plan is empty.

use lifeboat_api::{Client, ClientError, Group, ProtectionState, Volume, VolumeSource, VolumeSpec};
use tf_provider_sdk::{
    Attribute, Block, Context, Diagnostic, Diagnostics, NestedBlock, Number, Object, PlanChange, Result, Schema,
    Timeouts, async_trait, modify,
};

use super::{MINUTE, anchor, observed};
use crate::declared::{Kind, LOOK_INTERVAL};
use crate::values::{Values, bytes_to_gib};
use crate::wording::{failed, sentence};

#[derive(Debug)]
pub(crate) struct VolumeKind;

fn source_block() -> NestedBlock {
    let body = Block::new()
        .description(
            "A disk image or block device that is adopted: it is the volume from then on, in place and with its content, which is \
             replicated while it is used. `size_gib` is its size, or more where it is a file. It is never deleted or made \
             shorter, also not with the volume. Recovery points begin once the vault has all of it. A change needs \
             `allow_replace`.",
        )
        .attribute(Attribute::string("path").required().description(
            "Its absolute path on the machine of the volume's gateway. Its size is a multiple of 4096 bytes, and nothing else \
             may have it in use.",
        ));
    NestedBlock::single("source", body).requires_replace()
}

const WHEN_ALLOWED: &str = "A change needs `allow_replace`.";

/// Attributes and fields differ in their unit.
fn rename(field: &str) -> String {
    match field {
        "size_bytes" => "size_gib",
        "cache_bytes" => "cache_gib",
        other => other,
    }
    .to_owned()
}

#[async_trait]
impl Kind for VolumeKind {
    type Spec = VolumeSpec;
    type View = Volume;
    const TYPE: &'static str = "lifeboat_volume";
    const NOUN: &'static str = "volume";
    const RENAME: crate::wording::Rename = rename;

    fn schema() -> Schema {
        // From one policy to another in place; to or from a group means another group.
        let joins_or_leaves = modify::requires_replace_if(|plan| plan.prior.is_null() != plan.planned.is_null());
        Schema::new()
            .description(
                "A protected volume: a file of a fixed size in the mount of the gateway that serves it, shipped to the vault. \
                 Creating it waits until it is protected. It is in a consistency group, or by itself under a policy.\n\n\
                 A volume that holds data is never replaced silently: a change that would need it is refused at plan, unless \
                 `allow_replace` is set.",
            )
            .attribute(Attribute::id())
            .attribute(
                Attribute::string("group_id").optional().computed().use_state_for_unknown().requires_replace().description(
                    "The consistency group that it belongs to; this or `policy_id`. With `policy_id` it is the group that the \
                     volume has for itself. A change needs `allow_replace`.",
                ),
            )
            .attribute(Attribute::string("policy_id").optional().modify(joins_or_leaves).description(
                "The replication policy that governs it by itself; this or `group_id`. Another policy is taken up in place.",
            ))
            .attribute(anchor("gateway_id", "The gateway where it is at home.", WHEN_ALLOWED))
            .attribute(anchor("name", "1 to 63 letters, digits, `.`, `_` or `-`, unique in the vault; its file in the mount is `volumes/NAME.img`.", WHEN_ALLOWED))
            .attribute(Attribute::number("size_gib").required().description(
                "Size in GiB: from 1 MiB to 64 TiB, a fraction (`0.5`) where it gives whole blocks of 4096 bytes. It grows in \
                 place and never shrinks.",
            ))
            .attribute(Attribute::number("cache_gib").optional().description(
                "Local space, in GiB, for what is fetched from the vault after a failover. The gateway's default when left out.",
            ))
            .attribute(Attribute::bool("allow_replace").default(false).description(
                "Whether a change that can't be made in place may destroy the volume and make an empty one. Default: `false`.",
            ))
            .attribute(
                observed(Attribute::string("path"))
                    .description("Its file in the mount of the gateway that serves it: loop-mount it, or hand it to a machine."),
            )
            .attribute(observed(Attribute::string("state")).description(
                "`pending`, `creating`, `protected`, `failing-over`, `failed-over`, `failing-back`, `deleting` or `failed`.",
            ))
            .attribute(observed(Attribute::string("active_site")).description("The name of the site that serves it."))
            .attribute(observed(Attribute::string("health")).description("`healthy`, `warning` or `critical`."))
            .attribute(
                observed(Attribute::number("landed_rpo_seconds"))
                    .description("Seconds of acknowledged writes that a disaster at the last refresh would have lost."),
            )
            .attribute(
                observed(Attribute::string("latest_recovery_point"))
                    .description("Time of the newest recovery point in the vault at the last refresh (RFC 3339)."),
            )
            .block(source_block())
            .timeouts(Timeouts::new().create(30 * MINUTE).update(30 * MINUTE).delete(10 * MINUTE))
    }

    fn spec(values: &Values<'_>) -> VolumeSpec {
        let size: Number = values.required("size_gib", 1_u64.into());
        let cache: Option<Number> = values.optional("cache_gib");
        // The group is computed where the configuration leaves it out: only what that says is declared.
        let group: Option<String> = values.configured_only("group_id");
        let policy: Option<String> = values.configured_only("policy_id");
        let mut spec = VolumeSpec {
            name: values.name("name"),
            gateway_id: values.id("gateway_id", "gw"),
            size_bytes: values.bytes_of_gib("size_gib", &size).unwrap_or(1 << 30),
            group_id: group.map(|text| values.read_id("group_id", &text, "grp")),
            policy_id: policy.map(|text| values.read_id("policy_id", &text, "pol")),
            cache_bytes: cache.and_then(|gib| values.bytes_of_gib("cache_gib", &gib)),
            source: values
                .block("source")
                .map(|block| VolumeSource { path: block.required("path", "/neutral".to_owned()) }),
        };
        let undecided = spec.group_id.is_none() && spec.policy_id.is_none();
        if undecided && (values.is_unknown("group_id") || values.is_unknown("policy_id")) {
            // One of them will be there.
            spec.group_id = Some(values.id("group_id", "grp"));
        }
        spec
    }

    fn describe(volume: &Volume, state: &mut Object) {
        let (spec, status) = (&volume.spec, &volume.status);
        state.set("name", &spec.name);
        state.set("gateway_id", spec.gateway_id.to_string());
        // One that was adopted without a size has that of its source.
        let size = if spec.size_bytes == 0 { status.size_bytes.unwrap_or(0) } else { spec.size_bytes };
        state.set("size_gib", bytes_to_gib(size));
        state.set("group_id", spec.group_id.or(status.group_id).map(|id| id.to_string()));
        state.set("policy_id", spec.policy_id.map(|id| id.to_string()));
        state.set("cache_gib", spec.cache_bytes.map(bytes_to_gib));
        state.set("source", spec.source.as_ref().map(|source| Object::new().with("path", source.path.as_str())));
        state.set("path", status.path.clone());
        state.set("state", status.state.as_str());
        state.set("active_site", status.active_site.clone());
        state.set("health", status.health.as_str());
        state.set("landed_rpo_seconds", status.landed_rpo_seconds);
        state.set("latest_recovery_point", status.latest_recovery_point.map(|time| time.to_string()));
        if state.is_null("allow_replace") {
            // After an import: the gateway doesn't know it.
            state.set("allow_replace", false);
        }
    }

    fn judge(plan: &PlanChange) -> Result<()> {
        if !plan.is_update() {
            return Ok(());
        }
        let mut found = Diagnostics::new();
        if plan.is_replacement() {
            if plan.get::<Option<bool>>("allow_replace").ok().flatten() == Some(true) {
                return Ok(());
            }
            let name: String = plan.get_prior("name")?.unwrap_or_default();
            for path in plan.requires_replace() {
                let detail = format!(
                    "A change of {path} needs a new, empty volume in the place of {name}, and what {name} holds would be \
                     destroyed. Set it back; or set allow_replace = true if the data may go; or declare another volume and copy."
                );
                found.push(Diagnostic::error("A volume with data would be replaced", detail).at(path));
            }
        }
        let (prior, planned) = (plan.get_prior::<Number>("size_gib")?, plan.get::<Number>("size_gib").ok());
        if let (Some(prior), Some(planned)) = (prior, planned)
            && planned < prior
        {
            let detail = format!(
                "The volume has {prior} GiB and can't shrink to {planned} GiB: its end holds data. Set size_gib to {prior} or more."
            );
            found.push(Diagnostic::error("A volume never shrinks", detail).at("size_gib"));
        }
        found.into_result()
    }

    /// A create may be the second half of a replacement that no change of an attribute asked for: the volume is tainted,
    /// or `-replace` was given. The plan doesn't say so, but the volume is still there.
    async fn foresee(api: &Client, plan: &PlanChange) -> Result<()> {
        let (Ok(name), Ok(gateway)) = (plan.get::<String>("name"), plan.get::<String>("gateway_id")) else {
            return Ok(());
        };
        if plan.get::<Option<bool>>("allow_replace").ok().flatten() == Some(true) {
            return Ok(());
        }
        match api.find_by_name::<Volume>(&name).await {
            Ok(Some(existing)) if existing.spec.gateway_id.to_string() == gateway && may_hold_data(&existing) => {
                Err(stands_already(&existing))
            }
            _ => Ok(()),
        }
    }

    async fn obstacles(api: &Client, id: &str) -> std::result::Result<Vec<String>, ClientError> {
        let volume: Volume = api.read(id).await?;
        let Some(group) = volume.status.group_id else { return Ok(Vec::new()) };
        let group: Group = api.read(&group.to_string()).await?;
        let name = &group.spec.name;
        let tests = group.status.tests.iter().map(|test| {
            format!("the test failover {0}; end it with: lifeboat cleanup --group {name} --branch {0}", test.branch_id)
        });
        Ok(tests.collect())
    }

    async fn settle(api: &Client, cx: &Context, mut found: Volume, spec: &VolumeSpec) -> Result<Volume> {
        let id = found.id.to_string();
        let mut said = String::new();
        loop {
            let text = match progress(&found, spec.size_bytes) {
                Progress::Done => return Ok(found),
                Progress::Failed => return Err(setup_failed(api, &found).await),
                Progress::Waiting(text) => text,
            };
            if text != said {
                cx.progress(format!("volume {}: {text}", spec.name));
                said = text;
            }
            let mut what = format!("waiting for the volume {}: {said}", spec.name);
            cx.sleep(&what, LOOK_INTERVAL).await?;
            found = loop {
                match cx.run(&what, api.read::<Volume>(&id)).await? {
                    Ok(found) => break found,
                    Err(error) if error.kind() == lifeboat_api::ClientErrorKind::Unreachable => {
                        what = format!("waiting for a gateway to answer ({error})");
                        cx.sleep(&what, LOOK_INTERVAL).await?;
                    }
                    Err(error) => return Err(failed(&format!("wait for the volume {}", spec.name), &error, rename)),
                }
            };
        }
    }
}

/// How far a volume is on its way to what was asked for.
#[derive(Debug, PartialEq, Eq)]
enum Progress {
    Done,
    /// In words.
    Waiting(String),
    /// For good.
    Failed,
}

fn progress(volume: &Volume, size_bytes: u64) -> Progress {
    let status = &volume.status;
    let reasons = status.reasons.join("; ");
    let with_reasons = |text: String| if reasons.is_empty() { text } else { format!("{text} ({reasons})") };
    match status.state {
        ProtectionState::Pending | ProtectionState::Creating | ProtectionState::Deleting => {
            Progress::Waiting(with_reasons(format!("it is {}", status.state)))
        }
        ProtectionState::Failed => Progress::Failed,
        ProtectionState::Protected
        | ProtectionState::FailingOver
        | ProtectionState::FailedOver
        | ProtectionState::FailingBack => match status.size_bytes {
            Some(served) if served < size_bytes => Progress::Waiting(with_reasons(format!(
                "it grows from {} to {} GiB",
                bytes_to_gib(served),
                bytes_to_gib(size_bytes)
            ))),
            _ => Progress::Done,
        },
    }
}

/// Whether a volume ever got as far as holding data.
const fn may_hold_data(volume: &Volume) -> bool {
    !matches!(volume.status.state, ProtectionState::Pending | ProtectionState::Creating | ProtectionState::Failed)
}

async fn setup_failed(api: &Client, volume: &Volume) -> Diagnostics {
    let mut reasons = volume.status.reasons.clone();
    if let Some(job) = volume.status.job_id
        && let Ok(job) = api.job(&job.to_string()).await
        && let Some(cause) = job.cause.filter(|cause| !reasons.contains(cause))
    {
        reasons.push(cause);
    }
    let reasons: Vec<String> = reasons.iter().map(|reason| sentence(reason)).collect();
    let detail =
        if reasons.is_empty() { "The gateway gives no reason; its log does.".to_owned() } else { reasons.join(" ") };
    Diagnostics::error(
        format!("The volume {} can't be protected", volume.spec.name),
        format!("{detail} It holds no data yet: the next apply makes it again."),
    )
}

fn stands_already(volume: &Volume) -> Diagnostics {
    let (name, id) = (&volume.spec.name, volume.id);
    let detail = format!(
        "The volume {name} ({id}) is {} and may hold data; a new, empty one can't take its place.\n\
         - If Terraform calls it tainted, keep it: terraform untaint ADDRESS\n\
         - If it was made without Terraform, manage it here: terraform import lifeboat_volume.NAME {id}\n\
         - If it only moved in the configuration, say so with a `moved` block\n\
         - If its data may go, set allow_replace = true",
        volume.status.state
    );
    Diagnostic::error("A volume of this name exists", detail).at("name").into()
}

#[cfg(test)]
mod tests;
