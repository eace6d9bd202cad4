//! The resources: one file each, with its schema and what is particular to it.

mod drill;
mod gateway;
mod group;
mod machine;
mod network;
mod network_mapping;
mod policy;
mod recovery_plan;
mod site;
mod vault;
mod volume;

pub(crate) use drill::DrillResource;
pub(crate) use gateway::GatewayKind;
pub(crate) use group::GroupKind;
pub(crate) use machine::MachineKind;
pub(crate) use network::NetworkKind;
pub(crate) use network_mapping::NetworkMappingKind;
pub(crate) use policy::PolicyKind;
pub(crate) use recovery_plan::RecoveryPlanKind;
pub(crate) use site::SiteKind;
pub(crate) use vault::VaultKind;
pub(crate) use volume::VolumeKind;

use std::path::Path;
use std::time::Duration;

use lifeboat_api::{Client, Volume};

use tf_provider_sdk::{Attribute, Object, Timeouts, Value};

use crate::mentions::Mention;

const MINUTE: Duration = Duration::from_secs(60);

/// Time for what the gateway does at once.
fn short_timeouts() -> Timeouts {
    Timeouts::new().create(5 * MINUTE).update(5 * MINUTE).delete(5 * MINUTE)
}

/// An attribute that is observed, not declared. A plan of a change promises the value of the last refresh, so that a
/// value that moves by itself is never part of a plan.
fn observed(attribute: Attribute) -> Attribute {
    attribute.computed().use_state_for_unknown()
}

/// A required attribute that says what or where the object is: another value means another object.
fn anchor(name: &str, description: &str, on_change: &str) -> Attribute {
    Attribute::string(name).required().requires_replace().description(format!("{description} {on_change}"))
}

/// What a change of an [`anchor`] does to an object that holds no data.
const REPLACES: &str = "A change replaces the resource.";

/// The volume in whose gateway's mount a path lies, as far as volumes are served already. `at` says of which gateways.
async fn in_a_mount(api: &Client, path: &str, at: impl Fn(&Volume) -> bool) -> Option<Volume> {
    let volumes: Vec<Volume> = api.list("/v1/volumes", &[]).await.ok()?;
    volumes.into_iter().find(|volume| {
        // MOUNT/volumes/NAME.img
        let file = volume.status.path.as_deref().map(Path::new);
        let mount = file.and_then(Path::parent).and_then(Path::parent);
        mount.is_some_and(|mount| mount != Path::new("/") && Path::new(path).starts_with(mount)) && at(volume)
    })
}

/// What an attribute names, as far as it is known.
fn mention(object: &Object, path: String) -> Option<Mention> {
    let id = object.at(path.as_str())?.as_str()?.to_owned();
    Some(Mention { path, id })
}

/// What an attribute of each block of a kind names: one id, or a list of them.
fn mentions_in(object: &Object, block: &str, attribute: &str) -> Vec<Mention> {
    let count = |path: &str| object.at(path).and_then(Value::as_elements).map(<[Value]>::len);
    let paths = (0..count(block).unwrap_or_default()).flat_map(|index| {
        let path = format!("{block}[{index}].{attribute}");
        match count(&path) {
            Some(elements) => (0..elements).map(|element| format!("{path}[{element}]")).collect(),
            None => vec![path],
        }
    });
    paths.filter_map(|path| mention(object, path)).collect()
}

/// An absent list and an empty one are the same to the API. A configuration may say either: what it says is kept.
fn list_or_absent(said: Option<&Value>, found: Vec<String>) -> Value {
    use tf_provider_sdk::IntoValue as _;
    let says_empty = said.and_then(Value::as_elements).is_some_and(<[Value]>::is_empty);
    if found.is_empty() && !says_empty { Value::Null } else { found.into_value() }
}

#[cfg(test)]
mod tests;
