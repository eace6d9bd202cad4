//! `lifeboat_protection_status`: how well a group, a volume or a machine is protected, as the gateway that answers knows it.

use lifeboat_api::{Machine, Page, ProtectionStatus, ResyncStatus};
use tf_provider_sdk::{
    Attribute, Context, DataSource, Diagnostic, Object, Result, Schema, Type, Value, async_trait, validate,
};

use super::{POINT_FIELDS, point, point_type};
use crate::link::Link;
use crate::wording::failed;

#[derive(Debug)]
pub(crate) struct ProtectionStatusOf;

#[async_trait]
impl DataSource<Link> for ProtectionStatusOf {
    fn type_name(&self) -> &str {
        "lifeboat_protection_status"
    }

    fn schema(&self) -> Schema {
        let computed = |attribute: Attribute, text: &str| attribute.computed().description(text.to_owned());
        Schema::new()
            .description("How well a consistency group, or the group of a volume or of a machine, is protected now.")
            .attribute(Attribute::string("group_id").optional().description("The group; this or one of the others."))
            .attribute(Attribute::string("volume_id").optional().description("The volume; this or one of the others."))
            .attribute(Attribute::string("machine_id").optional().description("The machine; this or one of the others."))
            .attribute(computed(
                Attribute::string("state"),
                "`pending`, `creating`, `protected`, `failing-over`, `failed-over`, `failing-back`, `deleting` or `failed`.",
            ))
            .attribute(computed(Attribute::string("active_site"), "The name of the site that serves it. Null when none does."))
            .attribute(computed(
                Attribute::string("health"),
                "`healthy`; `warning`: a promise is not kept or soon won't be; `critical`: needs a person.",
            ))
            .attribute(computed(
                Attribute::list("reasons", Type::String),
                "Why it isn't healthy, and anything else worth knowing.",
            ))
            .attribute(computed(
                Attribute::number("landed_rpo_seconds"),
                "Seconds of acknowledged writes that a disaster now would lose. Null when nothing was observed yet.",
            ))
            .attribute(computed(
                Attribute::number("applied_rpo_seconds"),
                "Seconds of acknowledged writes that a failover to the newest recovery point would lose at most, by what the gateway \
                 that answers knows. Null while no point is known.",
            ))
            .attribute(computed(
                Attribute::number("oldest_unshipped_seconds"),
                "Age of the oldest acknowledged write that is not in the vault, at most; 0 while there is none. Null when it isn't known.",
            ))
            .attribute(computed(Attribute::number("rpo_threshold_seconds"), "The policy's limit for the landed RPO."))
            .attribute(computed(
                Attribute::new("latest_recovery_point", point_type()),
                &format!("The newest recovery point in the vault; null when there is none. It has {POINT_FIELDS}."),
            ))
            .attribute(computed(Attribute::number("backlog_bytes"), "Bytes acknowledged and not yet in the vault."))
            .attribute(computed(Attribute::number("journal_bytes_used"), "Bytes of the journal in use."))
            .attribute(computed(
                Attribute::number("journal_bytes_limit"),
                "Bytes that the journal may take. Null when it isn't known.",
            ))
            .attribute(computed(
                Attribute::number("journal_full_in_seconds"),
                "Seconds until the journal is full if writing and shipping go on as in the last minute. Null while it does not fill, or \
                 when it isn't known.",
            ))
            .attribute(computed(
                Attribute::number("churn_bytes_per_second"),
                "Bytes written per second, averaged over about a minute.",
            ))
            .attribute(computed(
                Attribute::number("shipped_bytes_per_second"),
                "Bytes put into the vault per second, over the last minute. Null when it isn't known.",
            ))
            .attribute(computed(
                Attribute::number("compression_ratio"),
                "Bytes of blocks for each byte put into the vault, since the gateway opened the group. Null before anything was shipped.",
            ))
            .attribute(computed(
                Attribute::number("hydrated_bytes"),
                "On a recovery gateway: bytes already fetched from the vault. Null elsewhere.",
            ))
            .attribute(computed(
                Attribute::new("resync", resync_type()),
                "What the vault lacks although the log does not bring it; no new recovery point is offered until it is copied. Null \
                 when it lacks nothing. It has `cause` (`journal-full`, `initial`, `compared` or `list-lost`), `state` (`waiting` \
                 or `copying`), `since` (RFC 3339), `bytes_left`, `bytes_total`, and `waits_for` (null while it copies).",
            ))
            .attribute(computed(
                Attribute::string("observed"),
                "When this was observed (RFC 3339): the present, unless another gateway serves the group.",
            ))
            .rule(validate::exactly_one_of(["group_id", "volume_id", "machine_id"]))
    }

    async fn read(&self, link: &Link, cx: &Context, mut config: Object) -> Result<Object> {
        let api = link.api()?;
        let said = |name: &str| config.get::<Option<String>>(name);
        let (attribute, query) = match (said("group_id")?, said("machine_id")?) {
            (Some(id), _) => ("group_id", ("group", id)),
            (None, Some(id)) => ("machine_id", ("group", group_of(link, cx, &id).await?)),
            (None, None) => ("volume_id", ("volume", config.get::<String>("volume_id")?)),
        };
        let id = query.1.clone();
        let page: Page<ProtectionStatus> = cx
            .run("reading the protection status", api.get("/v1/protection-status", &[query]))
            .await?
            .map_err(|error| failed("read the protection status", &error, crate::wording::same))?;
        let Some(status) = page.items.first() else {
            let detail = format!("The gateway {} knows nothing of {id}: check the id.", api.endpoint());
            return Err(Diagnostic::error("No protection status", detail).at(attribute).into());
        };
        describe(status, &mut config);
        Ok(config)
    }
}

/// The group of a machine's volumes.
async fn group_of(link: &Link, cx: &Context, id: &str) -> Result<String> {
    let api = link.api()?;
    match cx.run("reading the machine", api.read::<Machine>(id)).await? {
        Ok(machine) => Ok(machine.spec.group_id.to_string()),
        Err(error) if error.is_not_found() => {
            let detail = format!("The gateway {} knows no machine {id}: check the id.", api.endpoint());
            Err(Diagnostic::error("No such machine", detail).at("machine_id").into())
        }
        Err(error) => Err(failed("read the machine", &error, crate::wording::same)),
    }
}

fn resync_type() -> Type {
    Type::object([
        ("cause", Type::String),
        ("state", Type::String),
        ("since", Type::String),
        ("bytes_left", Type::Number),
        ("bytes_total", Type::Number),
        ("waits_for", Type::String),
    ])
}

fn resync(status: &ResyncStatus) -> Object {
    Object::new()
        .with("cause", status.cause.as_str())
        .with("state", status.state.as_str())
        .with("since", status.since.to_string())
        .with("bytes_left", status.bytes_left)
        .with("bytes_total", status.bytes_total)
        .with("waits_for", status.waits_for.clone())
}

fn describe(status: &ProtectionStatus, state: &mut Object) {
    state.set("state", status.state.as_str());
    state.set("active_site", status.active_site.clone());
    state.set("health", status.health.as_str());
    state.set("reasons", status.reasons.clone());
    state.set("landed_rpo_seconds", status.landed_rpo_seconds);
    state.set("applied_rpo_seconds", status.applied_rpo_seconds);
    state.set("oldest_unshipped_seconds", status.oldest_unshipped_seconds);
    state.set("rpo_threshold_seconds", status.rpo_threshold_seconds);
    state.set("latest_recovery_point", status.latest_recovery_point.as_ref().map_or(Value::Null, point));
    state.set("backlog_bytes", status.backlog_bytes);
    state.set("journal_bytes_used", status.journal_bytes_used);
    state.set("journal_bytes_limit", status.journal_bytes_limit);
    state.set("journal_full_in_seconds", status.journal_full_in_seconds);
    state.set("churn_bytes_per_second", status.churn_bytes_per_second);
    state.set("shipped_bytes_per_second", status.shipped_bytes_per_second);
    state.set("compression_ratio", status.compression_ratio);
    state.set("hydrated_bytes", status.hydrated_bytes);
    state.set("resync", status.resync.as_ref().map(resync));
    state.set("observed", status.observed.to_string());
}
