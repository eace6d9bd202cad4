//! `lifeboat_consistency_group`: volumes that share one write order.

use lifeboat_api::{Client, ClientError, Group, GroupSpec, Volume};
use tf_provider_sdk::{Attribute, Object, Schema, async_trait};

use super::{REPLACES, anchor, short_timeouts};
use crate::declared::{Dependent, Kind};
use crate::values::Values;

#[derive(Debug)]
pub(crate) struct GroupKind;

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
            .timeouts(short_timeouts())
    }

    fn spec(values: &Values<'_>) -> GroupSpec {
        GroupSpec {
            vault_id: values.id("vault_id", "vlt"),
            site_id: values.id("site_id", "site"),
            name: values.name("name"),
            policy_id: values.id("policy_id", "pol"),
        }
    }

    fn describe(group: &Group, state: &mut Object) {
        state.set("vault_id", group.spec.vault_id.to_string());
        state.set("site_id", group.spec.site_id.to_string());
        state.set("name", &group.spec.name);
        state.set("policy_id", group.spec.policy_id.to_string());
    }

    async fn dependents(api: &Client, id: &str) -> Result<Vec<Dependent>, ClientError> {
        let volumes: Vec<Volume> = api.list("/v1/volumes", &[]).await?;
        let inside = |volume: &&Volume| volume.spec.group_id.is_some_and(|group| group.to_string() == id);
        Ok(volumes.iter().filter(inside).map(|volume| Dependent::new("volume", volume)).collect())
    }
}
