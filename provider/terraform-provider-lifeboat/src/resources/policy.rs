//! `lifeboat_replication_policy`: how often, how long, how fast.
//!
//! Retention rules and bandwidth limits are ordered: the order of the blocks is the order in the API, both ways.

use lifeboat_api::validate::parse_duration;
use lifeboat_api::{
    BandwidthLimit, Client, ClientError, Group, Policy, PolicySpec, Resync, RetentionRule, default_at_log_percent,
    default_compression, default_interval, default_rpo_threshold,
};
use tf_provider_sdk::{
    Attribute, Block, Diagnostic, NestedBlock, Object, PlanChange, Schema, Type, Value, async_trait,
};

use super::{REPLACES, anchor, list_or_absent, short_timeouts};
use crate::data_sources::feasibility::measured;
use crate::declared::{Dependent, Kind};
use crate::feasibility;
use crate::values::Values;

#[derive(Debug)]
pub(crate) struct PolicyKind;

/// No rule objects to it, whatever the interval is.
const NEUTRAL_INTERVAL: &str = "1s";
/// No rule objects to it, whatever the interval is.
const NEUTRAL_LIMIT: &str = "1d";

fn retention_block() -> NestedBlock {
    let body = Block::new()
        .description(
            "What is kept, from the newest points to the oldest: of the points younger than `for`, one every `every`. Each rule \
             keeps fewer points and reaches further back than the one before. At least one; the order is kept.",
        )
        .attribute(
            Attribute::string("every")
                .required()
                .description("`all`, or a duration not shorter than `recovery_point_interval`."),
        )
        .attribute(
            Attribute::string("for")
                .required()
                .description("Age up to which the rule counts, such as `24h` or `15d`."),
        );
    NestedBlock::list("retention", body).min(1)
}

fn resync_block() -> NestedBlock {
    let body = Block::new()
        .description(
            "When the log of a group that can't reach the vault is collapsed, and when it may be compared afresh.",
        )
        .attribute(Attribute::number("at_log_percent").default(default_at_log_percent()).description(
            "Size of a group's journal, in percent of its volumes' size: 10 to 95. When it is full, what was not \
             shipped is collapsed. Default: `50`.",
        ))
        .attribute(Attribute::string("window_start").optional().description("`HH:MM`, together with `window_end`."))
        .attribute(Attribute::string("window_end").optional().description("`HH:MM`, together with `window_start`."))
        .attribute(
            Attribute::string("timezone")
                .optional()
                .description("IANA name, such as `Europe/Zurich`. UTC when left out."),
        );
    NestedBlock::single("resync", body)
}

fn bandwidth_block() -> NestedBlock {
    let body = Block::new()
        .description("A limit on what is sent to the vault. The order is kept; the first that applies counts.")
        .attribute(Attribute::number("mbps").required().description("Megabits per second: 1 to 100000."))
        .attribute(
            Attribute::list("days", Type::String)
                .optional()
                .description("Days on which it counts, `mon` to `sun`. Every day when left out."),
        )
        .attribute(
            Attribute::string("start")
                .optional()
                .description("`HH:MM`, together with `end`. The whole day when left out."),
        )
        .attribute(Attribute::string("end").optional().description(
            "`HH:MM`, together with `start`. A window past midnight belongs to the day on which it begins.",
        ))
        .attribute(
            Attribute::string("timezone")
                .optional()
                .description("IANA name, such as `Europe/Zurich`. UTC when left out."),
        );
    NestedBlock::list("bandwidth_limit", body)
}

#[async_trait]
impl Kind for PolicyKind {
    type Spec = PolicySpec;
    type View = Policy;
    const TYPE: &'static str = "lifeboat_replication_policy";
    const NOUN: &'static str = "replication policy";

    fn schema() -> Schema {
        Schema::new()
            .description(
                "How often recovery points are taken, how long they are kept, and how much may be sent. Durations are a number \
                 and a unit: `5s`, `15m`, `24h`, `15d`.",
            )
            .attribute(Attribute::id())
            .attribute(anchor("vault_id", "The vault that the policy belongs to.", REPLACES))
            .attribute(Attribute::string("name").required().description("1 to 64 characters, unique in the vault."))
            .attribute(
                Attribute::string("recovery_point_interval")
                    .default(default_interval())
                    .description("Time between recovery points while there are writes: `1s` to `1h`. Default: `5s`."),
            )
            .attribute(Attribute::string("app_consistent_interval").optional().description(
                "Time between application-consistent points: at least `recovery_point_interval`, at most `7d`. None are taken \
                 when left out.",
            ))
            .attribute(Attribute::string("rpo_threshold").default(default_rpo_threshold()).description(
                "A group whose newest landed point is older than this is unhealthy: at least `recovery_point_interval`, at most \
                 `7d`. Default: `5m`.",
            ))
            .attribute(
                Attribute::string("compression")
                    .default(default_compression())
                    .description("`auto`, `off`, or `zstd:1` to `zstd:19`. Default: `auto`."),
            )
            .block(retention_block())
            .block(resync_block())
            .block(bandwidth_block())
            .timeouts(short_timeouts())
    }

    fn spec(values: &Values<'_>) -> PolicySpec {
        let interval = "recovery_point_interval";
        let or_default = |path: &str, default: String, neutral: &str| {
            values.required(path, if values.is_unknown(path) { neutral.to_owned() } else { default })
        };
        PolicySpec {
            vault_id: values.id("vault_id", "vlt"),
            name: values.name("name"),
            recovery_point_interval: or_default(interval, default_interval(), NEUTRAL_INTERVAL),
            app_consistent_interval: values.optional("app_consistent_interval"),
            retention: retention(values),
            rpo_threshold: or_default("rpo_threshold", default_rpo_threshold(), NEUTRAL_LIMIT),
            resync: values.block("resync").map(|block| resync(&block)),
            bandwidth_limit: values.blocks("bandwidth_limit").iter().map(bandwidth).collect(),
            compression: or_default("compression", default_compression(), "auto"),
        }
    }

    fn describe(policy: &Policy, state: &mut Object) {
        let spec = &policy.spec;
        state.set("vault_id", spec.vault_id.to_string());
        state.set("name", &spec.name);
        state.set("recovery_point_interval", &spec.recovery_point_interval);
        state.set("app_consistent_interval", spec.app_consistent_interval.clone());
        state.set("rpo_threshold", &spec.rpo_threshold);
        state.set("compression", &spec.compression);
        let rules = spec.retention.iter();
        let rules: Vec<Object> =
            rules.map(|rule| Object::new().with("every", &rule.every).with("for", &rule.keep_for)).collect();
        state.set("retention", rules);
        let resync = spec.resync.as_ref().map(|resync| {
            Object::new()
                .with("at_log_percent", resync.at_log_percent)
                .with("window_start", resync.window_start.clone())
                .with("window_end", resync.window_end.clone())
                .with("timezone", resync.timezone.clone())
        });
        state.set("resync", resync);
        let limits = spec.bandwidth_limit.iter().enumerate().map(|(index, limit)| {
            let said = state.at(format!("bandwidth_limit[{index}].days").as_str());
            Object::new()
                .with("mbps", limit.mbps)
                .with("days", list_or_absent(said, limit.days.clone()))
                .with("start", limit.start.clone())
                .with("end", limit.end.clone())
                .with("timezone", limit.timezone.clone())
        });
        let limits: Vec<Object> = limits.collect();
        state.set("bandwidth_limit", limits);
    }

    const GOES_WHILE_NAMED: bool = true;

    const FORESEES_CHANGES: bool = true;

    /// What the policy couldn't keep of what it promises, by what its groups write now. That is a measure of the moment, and nobody
    /// knows how well it compresses: a warning. `lifeboat_feasibility` refuses by figures that somebody stands by.
    async fn remarks(api: &Client, plan: &PlanChange) -> Vec<Diagnostic> {
        let (Some(planned), Ok(Some(id))) = (plan.planned(), plan.get_prior::<String>("id")) else { return Vec::new() };
        let seconds = |name: &str| {
            let text: String = planned.get(name).ok()?;
            parse_duration(&text).ok().map(|time| time.as_secs_f64())
        };
        let (Some(interval), Some(threshold)) = (seconds("recovery_point_interval"), seconds("rpo_threshold")) else {
            return Vec::new();
        };
        let limits =
            planned.value("bandwidth_limit").and_then(Value::as_elements).unwrap_or_default().iter().enumerate();
        let known = limits.filter_map(|(at, _)| {
            let path = format!("bandwidth_limit[{at}].mbps");
            Some((planned.at(path.as_str())?.as_number()?.as_f64(), path))
        });
        let Some((mbps, path)) = known.min_by(|a, b| a.0.total_cmp(&b.0)) else { return Vec::new() };
        let Ok(policy) = api.read::<Policy>(&id).await else { return Vec::new() };
        let Ok(churn) = measured(api, &policy).await else { return Vec::new() };
        let found = match feasibility::expected_rpo(churn, 1.0, mbps, interval) {
            Ok(expected) if expected <= threshold => return Vec::new(),
            Ok(expected) => format!("the RPO would be {expected} s, and rpo_threshold is {threshold} s"),
            Err(error) => error.message.trim_end_matches('.').to_owned(),
        };
        let detail = format!(
            "By what its groups write now, {churn:.0} bytes a second: {found}. It holds only as far as that compresses. Raise the \
             limit or rpo_threshold; or let a lifeboat_feasibility data source judge it by figures of your own."
        );
        vec![Diagnostic::warning("The line may be too slow for what is written", detail).at(path.as_str())]
    }

    async fn namers(api: &Client, id: &str) -> Result<Vec<Dependent>, ClientError> {
        let groups: Vec<Group> = api.list("/v1/groups", &[]).await?;
        let governed = groups.iter().filter(|group| group.spec.policy_id.to_string() == id);
        Ok(governed
            .map(|group| {
                if group.status.implicit {
                    // The group of a single volume goes with its volume.
                    let volume = group.status.volume_ids.first().map(ToString::to_string).unwrap_or_default();
                    Dependent { text: format!("volume {} ({volume})", group.spec.name), id: volume }
                } else {
                    Dependent::new("consistency group", group)
                }
            })
            .collect())
    }
}

/// The schedule. Its rules are judged against each other, once all of them are known; until then each duration is judged
/// by itself.
fn retention(values: &Values<'_>) -> Vec<RetentionRule> {
    let rules = values.blocks("retention");
    if !values.is_unknown("retention") && !values.is_unknown("recovery_point_interval") {
        return rules
            .iter()
            .map(|rule| RetentionRule { every: rule.name("every"), keep_for: rule.name("for") })
            .collect();
    }
    for rule in rules {
        for path in ["every", "for"] {
            let text: Option<String> = rule.optional(path);
            if let Some(text) = text.filter(|text| path != "every" || text != "all")
                && let Err(message) = parse_duration(&text)
            {
                rule.fault(path, message);
            }
        }
    }
    vec![RetentionRule { every: "all".to_owned(), keep_for: "3660d".to_owned() }]
}

fn resync(block: &Values<'_>) -> Resync {
    let (window_start, window_end) = window(block, "window_start", "window_end");
    Resync {
        at_log_percent: block.required("at_log_percent", default_at_log_percent()),
        window_start,
        window_end,
        timezone: block.optional("timezone"),
    }
}

fn bandwidth(block: &Values<'_>) -> BandwidthLimit {
    let (start, end) = window(block, "start", "end");
    BandwidthLimit {
        mbps: block.required("mbps", 1),
        days: block.optional("days").unwrap_or_default(),
        start,
        end,
        timezone: block.optional("timezone"),
    }
}

/// The two ends of a window, which are judged together.
fn window(block: &Values<'_>, start: &str, end: &str) -> (Option<String>, Option<String>) {
    if block.is_unknown(start) || block.is_unknown(end) {
        return (None, None);
    }
    (block.optional(start), block.optional(end))
}
