//! `lifeboat_feasibility`: whether a policy can keep what it promises, with what is written and the line that there is.

use lifeboat_api::validate::parse_duration;
use lifeboat_api::{Client, ClientError, Page, Policy, ProtectionStatus};
use tf_provider_sdk::{
    Attribute, Context, DataSource, Diagnostic, Diagnostics, Number, Object, Result, Schema, Type, Value, async_trait,
    validate,
};

use crate::feasibility::{self, Tier};
use crate::link::Link;
use crate::wording::{failed, same};

#[derive(Debug)]
pub(crate) struct Feasibility;

#[async_trait]
impl DataSource<Link> for Feasibility {
    fn type_name(&self) -> &str {
        "lifeboat_feasibility"
    }

    fn schema(&self) -> Schema {
        let computed = |attribute: Attribute, text: &str| attribute.computed().description(text.to_owned());
        Schema::new()
            .description(
                "Whether a replication policy can keep its RPO threshold, by what is written and by the bandwidth that there is: \
                 before anything is protected with figures of your own, afterwards with what is measured. Refuse in the plan what \
                 can't work with `precondition { condition = data.lifeboat_feasibility.NAME.feasible }`.",
            )
            .attribute(Attribute::string("policy_id").required().description("The policy."))
            .attribute(
                Attribute::number("churn_bytes_per_second")
                    .optional()
                    .computed()
                    .validate(validate::at_least(0))
                    .description("Bytes written per second in a busy hour; left out: what is measured now, of all groups that the \
                         policy governs."),
            )
            .attribute(
                Attribute::number("mbps")
                    .optional()
                    .computed()
                    .validate(validate::custom("must be above 0", |mbps: f64| {
                        if mbps > 0.0 { Ok(()) } else { Err("A bandwidth must be above 0.".to_owned()) }
                    }))
                    .description(
                        "Megabits per second to the vault; left out: the policy's lowest `bandwidth_limit`, null where it has none.",
                    ),
            )
            .attribute(
                Attribute::number("compression_ratio")
                    .default(1_u64)
                    .validate(validate::at_least(1))
                    .description("Bytes before compression over bytes after. Default: `1`, the worst case."),
            )
            .attribute(
                Attribute::number("size_gib")
                    .optional()
                    .validate(validate::at_least(0))
                    .description("Size of the volumes, for `vault_gib`."),
            )
            .attribute(computed(Attribute::bool("feasible"), "Whether nothing speaks against it."))
            .attribute(computed(Attribute::list("reasons", Type::String), "What speaks against it, if anything."))
            .attribute(computed(
                Attribute::number("required_mbps"),
                "Megabits per second that keep the threshold. Null where none can.",
            ))
            .attribute(computed(
                Attribute::number("expected_rpo_seconds"),
                "Seconds of writes that a disaster loses at worst. Null where the bandwidth is not known or can't carry what is \
                 written.",
            ))
            .attribute(computed(
                Attribute::number("vault_gib"),
                "GiB that the vault holds at most. Null without `size_gib`.",
            ))
    }

    async fn read(&self, link: &Link, cx: &Context, mut config: Object) -> Result<Object> {
        let api = link.api()?;
        let id: String = config.get("policy_id")?;
        let policy: Policy = cx.run("reading the policy", api.read(&id)).await?.map_err(|error| {
            if error.is_not_found() {
                let detail = format!("The gateway {} knows no policy {id}: check the id.", api.endpoint());
                return Diagnostic::error("No such policy", detail).at("policy_id").into();
            }
            failed("read the policy", &error, same)
        })?;
        let churn = match config.get::<Option<f64>>("churn_bytes_per_second")? {
            Some(churn) => churn,
            None => cx
                .run("reading what is written", measured(api, &policy))
                .await?
                .map_err(|error| failed("read what is written", &error, same))?,
        };
        let limits = policy.spec.bandwidth_limit.iter().map(|limit| f64::from(limit.mbps));
        let mbps = config.get::<Option<f64>>("mbps")?.or_else(|| limits.reduce(f64::min));
        config.set("churn_bytes_per_second", churn);
        config.set("mbps", mbps);
        judge(&policy, churn, mbps, &mut config)?;
        Ok(config)
    }
}

/// Bytes a second of all groups that the policy governs.
pub(crate) async fn measured(api: &Client, policy: &Policy) -> std::result::Result<f64, ClientError> {
    let mut churn = 0.0;
    for group in &policy.status.group_ids {
        let page: Page<ProtectionStatus> = api.get("/v1/protection-status", &[("group", group.to_string())]).await?;
        for status in page.items {
            churn += status.churn_bytes_per_second;
        }
    }
    Ok(churn)
}

/// Fills in the verdict.
fn judge(policy: &Policy, churn: f64, mbps: Option<f64>, state: &mut Object) -> Result<()> {
    let seconds = |text: &str| {
        parse_duration(text).map(|time| time.as_secs_f64()).map_err(|error| {
            Diagnostics::error("The policy can't be understood", format!("The gateway says {text:?}: {error}."))
        })
    };
    let ratio: f64 = state.get("compression_ratio")?;
    let (interval, rpo) = (seconds(&policy.spec.recovery_point_interval)?, seconds(&policy.spec.rpo_threshold)?);
    let mut reasons = Vec::new();
    let required = feasibility::required_mbps(churn, ratio, rpo, interval);
    let expected = mbps.map(|mbps| feasibility::expected_rpo(churn, ratio, mbps, interval)).transpose();
    if let Err(error) = &required {
        reasons.push(error.message.clone());
    }
    match &expected {
        Err(error) => reasons.push(error.message.clone()),
        Ok(Some(expected)) if *expected > rpo => {
            reasons.push(format!("The RPO would be {expected} s, and the policy's threshold is {rpo} s."));
        }
        Ok(_) => {}
    }
    let mut tiers = Vec::new();
    for rule in &policy.spec.retention {
        let every = if rule.every == "all" { 0.0 } else { seconds(&rule.every)? };
        tiers.push(Tier { every, keep_for: seconds(&rule.keep_for)? });
    }
    let size: Option<f64> = state.get("size_gib")?;
    state.set("feasible", reasons.is_empty());
    state.set("reasons", reasons);
    state.set("required_mbps", required.ok());
    state.set("expected_rpo_seconds", expected.ok().flatten());
    state.set("vault_gib", size.map_or(Value::Null, |size| number(feasibility::vault_gib(size, churn, ratio, &tiers))));
    Ok(())
}

fn number(value: f64) -> Value {
    Number::from_f64(value).map_or(Value::Null, Value::Number)
}
