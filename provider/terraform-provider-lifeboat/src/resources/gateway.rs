//! `lifeboat_gateway`: a declared gateway, which the process with its site and name takes up.
//!
//! Creating it doesn't wait for that process: it may be started later. What needs it (a volume) waits.

use lifeboat_api::{Client, ClientError, Gateway, GatewayRole, GatewaySpec, Volume};
use tf_provider_sdk::{Attribute, Object, Schema, Type, async_trait};

use super::{REPLACES, anchor, observed, short_timeouts};
use crate::declared::{Dependent, Kind};
use crate::values::Values;

#[derive(Debug)]
pub(crate) struct GatewayKind;

const ROLES: &[(&str, GatewayRole)] = &[
    ("configuration_server", GatewayRole::ConfigurationServer),
    ("process_server", GatewayRole::ProcessServer),
    ("master_target", GatewayRole::MasterTarget),
];

#[async_trait]
impl Kind for GatewayKind {
    type Spec = GatewaySpec;
    type View = Gateway;
    const TYPE: &'static str = "lifeboat_gateway";
    const NOUN: &'static str = "gateway";
    /// A set's elements have no address.
    const RENAME: crate::wording::Rename =
        |field| if field.starts_with("roles[") { "roles".to_owned() } else { field.to_owned() };

    fn schema() -> Schema {
        Schema::new()
            .description(
                "A gateway. The process that was started with its site and name (`lifeboat serve --site SITE --name NAME`) takes \
                 the declaration up, before or after it is made.",
            )
            .attribute(Attribute::id())
            .attribute(anchor("site_id", "The site where the gateway stands.", REPLACES))
            .attribute(anchor("name", "The name that its process is started with: 1 to 63 letters, digits, `.`, `_` or `-`, unique in the vault.", REPLACES))
            .attribute(Attribute::set("roles", Type::String).optional().description(
                "What it does: `configuration_server` (answers the API), `process_server` (ships writes to the vault), \
                 `master_target` (receives a failback). All of them when left out.",
            ))
            .attribute(Attribute::string("mount_path").optional().description(
                "Where it mounts its volumes when its process was started without `--mount`: an absolute path on the gateway.",
            ))
            .attribute(observed(Attribute::bool("registered")).description("Whether a process has taken it up."))
            .attribute(observed(Attribute::string("version")).description("The version of that process."))
            .attribute(observed(Attribute::string("health")).description("`healthy`, `warning` or `critical`."))
            .attribute(
                observed(Attribute::list("addresses", Type::String))
                    .description("Where its API answers, each as `host:port`."),
            )
            .attribute(
                observed(Attribute::string("last_seen"))
                    .description("When it was last heard of (RFC 3339), written about every 20 seconds."),
            )
            .timeouts(short_timeouts())
    }

    fn spec(values: &Values<'_>) -> GatewaySpec {
        let roles: Option<Vec<String>> = values.optional("roles");
        GatewaySpec {
            site_id: values.id("site_id", "site"),
            name: values.name("name"),
            roles: roles.map(|roles| roles.iter().filter_map(|role| values.word("roles", role, ROLES)).collect()),
            mount_path: values.optional("mount_path"),
        }
    }

    fn describe(gateway: &Gateway, state: &mut Object) {
        let role_name =
            |role: &GatewayRole| ROLES.iter().find(|(_, known)| known == role).map(|(name, _)| (*name).to_owned());
        let roles: Option<Vec<String>> =
            gateway.spec.roles.as_ref().map(|roles| roles.iter().filter_map(role_name).collect());
        state.set("site_id", gateway.spec.site_id.to_string());
        state.set("name", &gateway.spec.name);
        state.set("roles", roles);
        state.set("mount_path", gateway.spec.mount_path.clone());
        state.set("registered", gateway.status.registered);
        state.set("version", gateway.status.version.clone());
        state.set("health", gateway.status.health.as_str());
        state.set("addresses", gateway.status.addresses.clone());
        state.set("last_seen", gateway.status.last_seen.map(|time| time.to_string()));
    }

    /// Destroyed in the same apply, in no order with the gateway: a group doesn't refer to it, but is served by it.
    fn gives_way(blocker: &str) -> bool {
        blocker.starts_with("job ") || blocker.starts_with("group ")
    }

    async fn dependents(api: &Client, id: &str) -> Result<Vec<Dependent>, ClientError> {
        let volumes: Vec<Volume> = api.list("/v1/volumes", &[]).await?;
        let volumes = volumes.iter().filter(|volume| volume.spec.gateway_id.to_string() == id);
        Ok(volumes.map(|volume| Dependent::new("volume", volume)).collect())
    }
}
