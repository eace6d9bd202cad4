//! `lifeboat_volume`: a protected volume.
//!
//! ```text
//! create:  POST ── pending ── creating ──> protected          (or active elsewhere: protected from there)
//!                     │           └──────> failed             an error with the reasons; the volume stays, tainted
//!                     └── its gateway isn't registered: waits, says so, ends at the time-out
//! ```
//! A volume that holds data is replaced only with `allow_replace`, and never shrinks. A failover changes what is observed
//! (`path`, `nbd_url`, `active_site`), nothing that is declared: the next plan is empty.

use lifeboat_api::{
    Client, ClientError, Gateway, Group, IscsiExport, Machine, NbdExport, Plan, ProtectionState, Volume, VolumeExport,
    VolumeSource, VolumeSpec,
};
use tf_provider_sdk::modify::{self, AttributePlan};
use tf_provider_sdk::{
    Attribute, Block, Context, Diagnostic, Diagnostics, NestedBlock, Number, Object, PlanChange, Result, Schema,
    Timeouts, Type, Value, async_trait, validate,
};

use super::{MINUTE, anchor, in_a_mount, mention, observed};
use crate::declared::{Dependent, Kind, LOOK_INTERVAL, all};
use crate::link::Link;
use crate::mentions::Mention;
use crate::values::{Values, bytes_to_gib};
use crate::wording::{failed, sentence};

#[derive(Debug)]
pub(crate) struct VolumeKind;

fn source_block() -> NestedBlock {
    let body = Block::new()
        .description(
            "A disk image or block device that is adopted: it is the volume from then on, in place and with its content, which is \
             replicated while it is used. `size_gib` is its size, or more where it is a file. It is never deleted or made \
             shorter, also not with the volume. Recovery points begin once the vault has all of it. While the volume is failed over, \
             its path can be changed in place: a failback with the mode `create` builds the volume on the new disk, whatever that \
             holds. Any other change needs `allow_replace`.",
        )
        .attribute(Attribute::string("path").required().description(
            "Its absolute path on the machine of the volume's gateway. Its size is a multiple of 4096 bytes, and nothing else \
             may have it in use.",
        ));
    NestedBlock::single("source", body)
}

fn export_block() -> NestedBlock {
    let nbd = Block::new()
        .description(
            "Over NBD with TLS (QEMU, libvirt, nbd-client, Linux). The gateway has to be started with `--listen-nbd` and an address \
             that others reach, as the appliance is.",
        )
        .attribute(Attribute::set("client_certificates", Type::String).required().validate(validate::size(1, 16)).description(
            "Certificates, each in PEM: who shows one of them, or one that one of them signed, may use the volume and its \
             recovery points.",
        ));
    let iscsi = Block::new()
        .description(
            "Over iSCSI (VMware, Hyper-V, Windows, Linux), as logical unit 0 of a target of its own. `lifeboat-iscsi.service` has to run \
             beside the gateway, as it does in the appliance.",
        )
        .attribute(Attribute::set("initiators", Type::String).required().validate(validate::size(1, 64)).description(
            "Names of the initiators that may use it: `iqn.…`, `eui.…` or `naa.…`, in small letters.",
        ));
    let body = Block::new()
        .description(
            "Which other hosts may use the volume over the network, at the gateway that serves it: after a failover at the other one, by \
             the same names. At least one of `nbd` and `iscsi`. Only one of these, or the file in the mount, may be written to at \
             a time, unless what writes is made for that.",
        )
        .rule(validate::at_least_one_of(["nbd", "iscsi"]))
        .block(NestedBlock::single("nbd", nbd))
        .block(NestedBlock::single("iscsi", iscsi));
    NestedBlock::single("export", body)
}

fn export(block: &Values<'_>) -> VolumeExport {
    let pem = "-----BEGIN CERTIFICATE-----\nAA==\n-----END CERTIFICATE-----\n".to_owned();
    VolumeExport {
        nbd: block
            .block("nbd")
            .map(|nbd| NbdExport { client_certificates: nbd.required("client_certificates", vec![pem]) }),
        iscsi: block.block("iscsi").map(|iscsi| IscsiExport {
            initiators: iscsi.required("initiators", vec!["iqn.2026-01.io.lifeboat:neutral".to_owned()]),
        }),
    }
}

fn export_object(export: &VolumeExport) -> Object {
    let nbd = export.nbd.as_ref();
    let iscsi = export.iscsi.as_ref();
    Object::new()
        .with("nbd", nbd.map(|nbd| Object::new().with("client_certificates", nbd.client_certificates.clone())))
        .with("iscsi", iscsi.map(|iscsi| Object::new().with("initiators", iscsi.initiators.clone())))
}

/// Where other hosts find it: that stays while the same hosts may use it.
fn found_at(name: &str) -> Attribute {
    Attribute::string(name).computed().modify(modify::custom("kept while the export stays", |plan| {
        if plan.planned.is_unknown()
            && let Some(prior) = plan.prior_object
            && prior.value("export") == plan.planned_object.value("export")
        {
            *plan.planned = plan.prior.clone();
        }
    }))
}

const WHEN_ALLOWED: &str = "A change needs `allow_replace`.";

/// Whether another gateway than the one where it really is at home is declared.
fn moves(plan: &AttributePlan<'_>) -> bool {
    let home = plan.prior_object.and_then(|prior| prior.value("home_gateway_id"));
    plan.planned.as_str().is_none() || plan.planned.as_str() != home.and_then(Value::as_str)
}

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
                 `allow_replace` is set. Destroying it keeps its history in the vault: `lifeboat group undelete` brings it back.",
            )
            .attribute(Attribute::id())
            .attribute(
                Attribute::string("group_id").optional().computed().use_state_for_unknown().requires_replace().description(
                    "The consistency group that it belongs to; this or `policy_id`. With `policy_id` it is the group that the \
                     volume has for itself, and may be left as it is in configuration that was generated by an import. A change \
                     needs `allow_replace`.",
                ),
            )
            .attribute(Attribute::string("policy_id").optional().modify(joins_or_leaves).description(
                "The replication policy that governs it by itself; this or `group_id`. Another policy is taken up in place.",
            ))
            .attribute(Attribute::string("gateway_id").required().modify(modify::requires_replace_if(moves)).description(
                "The gateway where it is at home. After a failback to another gateway (`home_gateway_id`) it may stay as it is, or \
                 be changed to that one in place. After `lifeboat gateway replace` it has to name the gateway that took over. Any \
                 other change needs `allow_replace`.",
            ))
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
            .attribute(observed(Attribute::string("nbd_url")).description(
                "Where it is served over NBD at that gateway, for QEMU and others that speak it: a unix socket, or a TCP port on \
                 loopback where the gateway was started with `--listen-nbd`.",
            ))
            .attribute(found_at("export_nbd_url").description(
                "Where other hosts find it over NBD with TLS, with `export`: `nbds://HOST:PORT/NAME`.",
            ))
            .attribute(found_at("iscsi_target").description(
                "The name of its target, with `export`: the same at each gateway.",
            ))
            .attribute(found_at("iscsi_portal").description("Where its target is, with `export`: `HOST:PORT`."))
            .attribute(observed(Attribute::string("home_gateway_id")).description(
                "The gateway where it is at home: another one than `gateway_id` after a failback to that one.",
            ))
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
            .block(export_block())
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
            // With a policy of its own, a group that is set is the volume's own: `judge` sees to that.
            group_id: group.filter(|_| policy.is_none()).map(|text| values.read_id("group_id", &text, "grp")),
            policy_id: policy.map(|text| values.read_id("policy_id", &text, "pol")),
            cache_bytes: cache.and_then(|gib| values.bytes_of_gib("cache_gib", &gib)),
            source: values
                .block("source")
                .map(|block| VolumeSource { path: block.required("path", "/neutral".to_owned()) }),
            export: values.block("export").map(|block| export(&block)),
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
        state.set("export", spec.export.as_ref().map(export_object));
        let found = status.export.clone().unwrap_or_default();
        state.set("export_nbd_url", found.nbd_url);
        state.set("iscsi_target", found.iscsi_target);
        state.set("iscsi_portal", found.iscsi_portal);
        state.set("path", status.path.clone());
        state.set("nbd_url", status.nbd_url.clone());
        state.set("home_gateway_id", status.home_gateway_id.unwrap_or(spec.gateway_id).to_string());
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

    /// Another disk, but for a volume that is failed over: it is built there by the failback.
    fn replaces(plan: &PlanChange) -> Vec<&'static str> {
        let (Some(prior), Some(planned)) = (plan.prior(), plan.planned()) else { return Vec::new() };
        let away = prior.value("state").and_then(Value::as_str) == Some("failed-over");
        let source = |object: &Object| object.value("source").filter(|value| !value.is_null()).cloned();
        let (before, after) = (source(prior), source(planned));
        let moves = before.is_some() && after.is_some() && away;
        if before == after || moves { Vec::new() } else { vec!["source"] }
    }

    fn judge(plan: &PlanChange) -> Result<()> {
        let is_set = |name: &str| plan.config().is_some_and(|config| !config.is_null(name));
        if plan.is_create() && is_set("group_id") && is_set("policy_id") {
            let detail = "A volume is in a consistency group, whose policy governs it, or has a policy to itself: set group_id or \
                          policy_id, not both.";
            return Err(Diagnostic::error("Conflicting attributes", detail).at("policy_id").into());
        }
        if !plan.is_update() {
            return Ok(());
        }
        let mut found = Diagnostics::new();
        if plan.is_replacement() {
            if plan.get::<Option<bool>>("allow_replace").ok().flatten() == Some(true) {
                return Ok(());
            }
            let name: String = plan.get_prior("name")?.unwrap_or_default();
            let home: Option<String> = plan.get_prior("home_gateway_id")?;
            for path in plan.requires_replace() {
                let detail = format!(
                    "A change of {path} needs a new, empty volume in the place of {name}, and what {name} holds would be \
                     destroyed. Set it back{}; or set allow_replace = true if the data may go; or declare another volume and copy.",
                    match &home {
                        Some(home) if path.to_string() == "gateway_id" => format!(" to {home}, where it is at home"),
                        _ => String::new(),
                    }
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

    async fn refuse_change(api: &Client, plan: &PlanChange) -> Result<()> {
        let prior: Option<String> = plan.get_prior("gateway_id")?;
        match plan.get::<String>("gateway_id") {
            Ok(planned) if Some(&planned) != prior.as_ref() => refuse_replaced(api, &planned).await,
            _ => Ok(()),
        }
    }

    /// A create may be the second half of a replacement that no change of an attribute asked for: the volume is tainted,
    /// or `-replace` was given. The plan doesn't say so, but the volume is still there.
    async fn foresee(_: &Link, api: &Client, plan: &PlanChange) -> Result<()> {
        let (Ok(name), Ok(gateway)) = (plan.get::<String>("name"), plan.get::<String>("gateway_id")) else {
            return Ok(());
        };
        refuse_replaced(api, &gateway).await?;
        if let Some(path) = plan.planned().and_then(|planned| planned.at("source.path")).and_then(Value::as_str)
            && let Some(other) = in_a_mount(api, path, |volume| volume.spec.gateway_id.to_string() == gateway).await
        {
            let detail = format!(
                "{path} lies in the gateway's own mount, where {} is served: a volume can't be made of another one. Name the disk or \
                 the image itself.",
                other.spec.name
            );
            return Err(Diagnostic::error("A volume in a volume", detail).at("source.path").into());
        }
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

    const GOES_WHILE_NAMED: bool = true;

    fn names(planned: &Object) -> Vec<Mention> {
        mention(planned, "policy_id".to_owned()).into_iter().collect()
    }

    async fn namers(api: &Client, id: &str) -> std::result::Result<Vec<Dependent>, ClientError> {
        let machines: Vec<Machine> = all(api).await?;
        let plans: Vec<Plan> = all(api).await?;
        let is_disk = |machine: &&Machine| machine.spec.disk.iter().any(|disk| disk.volume_id.to_string() == id);
        let boots = |plan: &&Plan| plan.spec.volumes().any(|(_, _, volume)| volume.to_string() == id);
        Ok(machines
            .iter()
            .filter(is_disk)
            .map(|machine| Dependent::new("machine", machine))
            .chain(plans.iter().filter(boots).map(|plan| Dependent::new("recovery plan", plan)))
            .collect())
    }

    async fn settle(api: &Client, cx: &Context, mut found: Volume, spec: &VolumeSpec) -> Result<Volume> {
        let id = found.id.to_string();
        let mut said = String::new();
        loop {
            let text = match progress(&found, spec) {
                Progress::Done => {
                    let lacking = found.status.export.iter().flat_map(|export| &export.reasons);
                    let lacking: Vec<String> = lacking.map(|why| sentence(why)).collect();
                    if !lacking.is_empty() {
                        cx.warn(format!("Other hosts can't use the volume {}", spec.name), lacking.join(" "));
                    }
                    return Ok(found);
                }
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

/// Refuses a gateway whose place another one has taken: what was at home there is at home with that one.
async fn refuse_replaced(api: &Client, gateway: &str) -> Result<()> {
    let Ok(found) = api.read::<Gateway>(gateway).await else { return Ok(()) };
    let Some(by) = found.status.replaced_by else { return Ok(()) };
    let name = match api.read::<Gateway>(&by.to_string()).await {
        Ok(by) => by.spec.name,
        Err(_) => by.to_string(),
    };
    let detail = format!(
        "The gateway {} ({gateway}) was lost and replaced by {name} ({by}), which has its volumes now. Write {by} here, or refer to \
         {name}'s resource; then the plan is empty. The declaration of {} can be removed.",
        found.spec.name, found.spec.name
    );
    Err(Diagnostic::error("The gateway was replaced", detail).at("gateway_id").into())
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

fn progress(volume: &Volume, spec: &VolumeSpec) -> Progress {
    let (status, size_bytes) = (&volume.status, spec.size_bytes);
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
            _ if is_exported_soon(volume, spec) => Progress::Waiting("other hosts find it in a moment".to_owned()),
            _ => Progress::Done,
        },
    }
}

/// Whether its gateway has still to say where other hosts find it, or why they don't.
fn is_exported_soon(volume: &Volume, spec: &VolumeSpec) -> bool {
    let Some(wanted) = &spec.export else { return false };
    // An agent's disk is where it is; only a gateway that serves the volume has something to say.
    if volume.status.path.is_none() {
        return false;
    }
    let found = volume.status.export.clone().unwrap_or_default();
    let lacks =
        (wanted.nbd.is_some() && found.nbd_url.is_none()) || (wanted.iscsi.is_some() && found.iscsi_portal.is_none());
    lacks && found.reasons.is_empty()
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
