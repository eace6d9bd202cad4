//! `lifeboat_consistency_group`: volumes that share one write order.

use lifeboat_api::{
    AppConsistency, Client, ClientError, Group, GroupSpec, Machine, SharedPoints, Volume, default_hook_timeout,
    default_shared_every,
};
use tf_provider_sdk::{Attribute, Block, NestedBlock, Object, Schema, async_trait};

use super::{REPLACES, anchor, mention, short_timeouts};
use crate::declared::{Dependent, Kind, all};
use crate::mentions::Mention;
use crate::values::Values;

#[derive(Debug)]
pub(crate) struct GroupKind;

fn app_consistency_block() -> NestedBlock {
    let body = Block::new()
        .description(
            "What runs around an application-consistent point, at the gateway that serves the group. The names are of programs \
             in that gateway's directory of hooks (`/etc/lifeboat/hooks`).",
        )
        .attribute(Attribute::string("pre_script").optional().description(
            "Makes the applications hold still, such as a program that freezes a file system. An exit code but 0 means that \
             there is no point.",
        ))
        .attribute(
            Attribute::string("post_script")
                .optional()
                .description("Lets the applications go on; runs after every attempt."),
        )
        .attribute(
            Attribute::string("timeout")
                .default(default_hook_timeout())
                .description("How long each may take: `1s` to `10m`. Default: `30s`."),
        );
    NestedBlock::single("app_consistency", body)
}

fn app_consistency(block: &Values<'_>) -> AppConsistency {
    let (mut pre_script, post_script) = (block.optional("pre_script"), block.optional("post_script"));
    if pre_script.is_none() && (block.is_unknown("pre_script") || block.is_unknown("post_script")) {
        // One of them will be there.
        pre_script = post_script.clone().or_else(|| Some("unknown".to_owned()));
    }
    AppConsistency { pre_script, post_script, timeout: block.required("timeout", default_hook_timeout()) }
}

fn shared_points_block() -> NestedBlock {
    let body = Block::new()
        .description(
            "Recovery points that the group takes at one moment with groups of other gateways and agents, so that what an application \
             wrote to several machines fits together: `latest-shared` fails over to the newest. A gateway of the site has to be \
             started with `--listen-consistency`.",
        )
        .attribute(Attribute::string("replication_group").required().description(
            "All groups of the same vault and site that name it take these points together. 1 to 63 letters, digits, `.`, `_` or `-`.",
        ))
        .attribute(
            Attribute::string("every")
                .default(default_shared_every())
                .description("Time between two: `5s` to `24h`; the shortest of all members counts. Default: `1m`."),
        );
    NestedBlock::single("shared_points", body)
}

#[async_trait]
impl Kind for GroupKind {
    type Spec = GroupSpec;
    type View = Group;
    const TYPE: &'static str = "lifeboat_consistency_group";
    const NOUN: &'static str = "consistency group";

    fn schema() -> Schema {
        Schema::new()
            .description(
                "Volumes that share one write order: a recovery point of the group is one cut through all of them, and they fail \
                 over and back together. All of them are at home at one gateway.",
            )
            .attribute(Attribute::id())
            .attribute(anchor("vault_id", "The vault that the group is shipped to.", REPLACES))
            .attribute(anchor("site_id", "The site where the group is at home.", REPLACES))
            .attribute(
                Attribute::string("name")
                    .required()
                    .description("1 to 63 letters, digits, `.`, `_` or `-`, unique in the vault."),
            )
            .attribute(Attribute::string("policy_id").required().description("The replication policy that governs it."))
            .block(app_consistency_block())
            .block(shared_points_block())
            .timeouts(short_timeouts())
    }

    fn spec(values: &Values<'_>) -> GroupSpec {
        GroupSpec {
            vault_id: values.id("vault_id", "vlt"),
            site_id: values.id("site_id", "site"),
            name: values.name("name"),
            policy_id: values.id("policy_id", "pol"),
            app_consistency: values.block("app_consistency").map(|block| app_consistency(&block)),
            shared_points: values.block("shared_points").map(|block| SharedPoints {
                replication_group: block.name("replication_group"),
                every: block.required("every", default_shared_every()),
            }),
        }
    }

    fn describe(group: &Group, state: &mut Object) {
        state.set("vault_id", group.spec.vault_id.to_string());
        state.set("site_id", group.spec.site_id.to_string());
        state.set("name", &group.spec.name);
        state.set("policy_id", group.spec.policy_id.to_string());
        let app = group.spec.app_consistency.as_ref().map(|app| {
            Object::new()
                .with("pre_script", app.pre_script.clone())
                .with("post_script", app.post_script.clone())
                .with("timeout", &app.timeout)
        });
        state.set("app_consistency", app);
        let shared = group.spec.shared_points.as_ref().map(|shared| {
            Object::new().with("replication_group", &shared.replication_group).with("every", &shared.every)
        });
        state.set("shared_points", shared);
    }

    fn names(planned: &Object) -> Vec<Mention> {
        mention(planned, "policy_id".to_owned()).into_iter().collect()
    }

    async fn dependents(api: &Client, id: &str) -> Result<Vec<Dependent>, ClientError> {
        let volumes: Vec<Volume> = api.list("/v1/volumes", &[]).await?;
        let machines: Vec<Machine> = all(api).await?;
        let machines = machines.iter().filter(|machine| machine.spec.group_id.to_string() == id);
        let inside = |volume: &&Volume| volume.spec.group_id.is_some_and(|group| group.to_string() == id);
        Ok(volumes
            .iter()
            .filter(inside)
            .map(|volume| Dependent::new("volume", volume))
            .chain(machines.map(|machine| Dependent::new("machine", machine)))
            .collect())
    }
}
