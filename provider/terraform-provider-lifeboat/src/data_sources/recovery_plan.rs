//! `lifeboat_recovery_plan`: whether a plan could be carried out, for configurations that don't manage it.

use lifeboat_api::Plan;
use tf_provider_sdk::{Attribute, Context, DataSource, Object, Result, Schema, Type, Value, async_trait};

use super::inventory::{computed, found, handle};
use crate::link::Link;

#[derive(Debug)]
pub(crate) struct RecoveryPlanOf;

fn group_type() -> Type {
    Type::object([
        ("name", Type::String),
        ("machine_ids", Type::list(Type::String)),
        ("volume_ids", Type::list(Type::String)),
    ])
}

#[async_trait]
impl DataSource<Link> for RecoveryPlanOf {
    fn type_name(&self) -> &str {
        "lifeboat_recovery_plan"
    }

    fn schema(&self) -> Schema {
        let description = "A recovery plan, and whether it could be carried out now. Refuse in a plan or check what isn't ready with \
                           `condition = data.lifeboat_recovery_plan.NAME.readiness == \"ready\"`.";
        handle(Schema::new().description(description), "recovery plan")
            .attribute(computed(Attribute::string("vault_id"), "The vault that it belongs to."))
            .attribute(computed(Attribute::string("source_site_id"), "The site where everything in it is at home."))
            .attribute(computed(Attribute::string("target_site_id"), "The site where it comes up."))
            .attribute(computed(
                Attribute::list("boot_groups", group_type()),
                "What comes up, in order. Each has `name`, `machine_ids` and `volume_ids`.",
            ))
            .attribute(computed(
                Attribute::string("state"),
                "Where its volumes stand: `unprotected`, `protected`, `failing-over`, `failed-over`, `failing-back` or `split`.",
            ))
            .attribute(computed(
                Attribute::string("active_site"),
                "The name of the site where its volumes are active. Null while they are not all at one.",
            ))
            .attribute(computed(Attribute::string("readiness"), "`ready` or `not-ready`."))
            .attribute(computed(Attribute::list("reasons", Type::String), "Why it isn't ready."))
            .attribute(computed(
                Attribute::list("warnings", Type::String),
                "What would not be as it was wished for, and stops nothing: machines that are to be kept apart and can't be.",
            ))
    }

    async fn read(&self, link: &Link, cx: &Context, mut config: Object) -> Result<Object> {
        let plan: Plan = found(link.api()?, cx, &config, "recovery plan").await?;
        let groups = plan.spec.boot_group.iter().map(|group| {
            Value::Object(
                Object::new()
                    .with("name", group.name.clone())
                    .with("machine_ids", group.machine_ids.iter().map(ToString::to_string).collect::<Vec<_>>())
                    .with("volume_ids", group.volume_ids.iter().map(ToString::to_string).collect::<Vec<_>>()),
            )
        });
        config.set("boot_groups", Value::List(groups.collect()));
        config.set("id", plan.id.to_string());
        config.set("name", &plan.spec.name);
        config.set("vault_id", plan.spec.vault_id.to_string());
        config.set("source_site_id", plan.spec.source_site_id.to_string());
        config.set("target_site_id", plan.spec.target_site_id.to_string());
        config.set("state", plan.status.state.as_str());
        config.set("active_site", plan.status.active_site.clone());
        config.set("readiness", plan.status.readiness.as_str());
        config.set("reasons", plan.status.reasons.clone());
        config.set("warnings", plan.status.warnings.clone());
        Ok(config)
    }
}
