//! `lifeboat_site`: a place that can lose everything at once.

use lifeboat_api::{Client, ClientError, Gateway, Group, Machine, Network, Plan, Site, SiteSpec};
use tf_provider_sdk::{Attribute, Object, Schema, Type, async_trait};

use super::{REPLACES, anchor, observed, short_timeouts};
use crate::declared::{Dependent, Kind, all};
use crate::values::Values;

#[derive(Debug)]
pub(crate) struct SiteKind;

#[async_trait]
impl Kind for SiteKind {
    type Spec = SiteSpec;
    type View = Site;
    const TYPE: &'static str = "lifeboat_site";
    const NOUN: &'static str = "site";

    fn schema() -> Schema {
        Schema::new()
            .description("A place that can lose everything at once: a machine room, a region of a cloud.")
            .attribute(Attribute::id())
            .attribute(anchor("vault_id", "The vault that the site belongs to.", REPLACES))
            .attribute(anchor(
                "name",
                "1 to 64 characters, unique in the vault; gateways name it with `--site`.",
                REPLACES,
            ))
            .attribute(Attribute::string("description").optional().description("For people; at most 1024 characters."))
            .attribute(
                observed(Attribute::set("gateway_ids", Type::String)).description("The gateways that stand there."),
            )
            .timeouts(short_timeouts())
    }

    fn spec(values: &Values<'_>) -> SiteSpec {
        SiteSpec {
            vault_id: values.id("vault_id", "vlt"),
            name: values.name("name"),
            description: values.optional("description"),
        }
    }

    fn describe(site: &Site, state: &mut Object) {
        state.set("vault_id", site.spec.vault_id.to_string());
        state.set("name", &site.spec.name);
        state.set("description", site.spec.description.clone());
        let gateways: Vec<String> = site.status.gateway_ids.iter().map(ToString::to_string).collect();
        state.set("gateway_ids", gateways);
    }

    async fn dependents(api: &Client, id: &str) -> Result<Vec<Dependent>, ClientError> {
        let gateways: Vec<Gateway> = api.list("/v1/gateways", &[]).await?;
        let groups: Vec<Group> = api.list("/v1/groups", &[]).await?;
        let networks: Vec<Network> = all(api).await?;
        let machines: Vec<Machine> = all(api).await?;
        let plans: Vec<Plan> = all(api).await?;
        let gateways = gateways.iter().filter(|gateway| gateway.spec.site_id.to_string() == id);
        let groups = groups.iter().filter(|group| group.spec.site_id.to_string() == id && !group.status.implicit);
        let networks = networks.iter().filter(|network| network.spec.site_id.to_string() == id);
        let machines = machines.iter().filter(|machine| machine.spec.site_id.to_string() == id);
        let plans = plans.iter().filter(|plan| {
            [plan.spec.source_site_id, plan.spec.target_site_id].iter().any(|site| site.to_string() == id)
        });
        Ok(gateways
            .map(|gateway| Dependent::new("gateway", gateway))
            .chain(groups.map(|group| Dependent::new("consistency group", group)))
            .chain(networks.map(|network| Dependent::new("network", network)))
            .chain(machines.map(|machine| Dependent::new("machine", machine)))
            .chain(plans.map(|plan| Dependent::new("recovery plan", plan)))
            .collect())
    }
}
