//! The data sources: what moves by itself, read when it is asked for.

mod clean_point;
pub(crate) mod feasibility;
mod inventory;
mod protection_status;
mod recovery_plan;
mod recovery_points;

pub(crate) use clean_point::CleanPoint;
pub(crate) use feasibility::Feasibility;
pub(crate) use inventory::{Gateways, Jobs, SiteOf, VaultOf};
pub(crate) use protection_status::ProtectionStatusOf;
pub(crate) use recovery_plan::RecoveryPlanOf;
pub(crate) use recovery_points::RecoveryPoints;

use lifeboat_api::Point;
use tf_provider_sdk::{Object, Type, Value};

/// The type of a recovery point.
fn point_type() -> Type {
    Type::object([
        ("id", Type::String),
        ("time", Type::String),
        ("kind", Type::String),
        ("label", Type::String),
        ("pinned", Type::Bool),
        ("lsn", Type::Number),
        ("epoch", Type::Number),
        ("branch_id", Type::String),
        ("path", Type::String),
    ])
}

const POINT_FIELDS: &str = "`id`; `time` (RFC 3339); `kind` (`crash-consistent`, `app-consistent`, `manual` or `final`); `label`; `pinned`, whether it is kept whatever the retention schedule says; \
`lsn`, its position in the group's write order; `epoch`, the tenure in which it was taken; `branch_id`; and `path`, the directory \
in the answering gateway's mount where its volumes can be read (null without a mount)";

fn point(point: &Point) -> Value {
    Value::Object(
        Object::new()
            .with("id", point.id.to_string())
            .with("time", point.time.to_string())
            .with("kind", point.kind.as_str())
            .with("label", &point.label)
            .with("pinned", point.pinned)
            .with("lsn", point.lsn)
            .with("epoch", point.epoch)
            .with("branch_id", point.branch_id.to_string())
            .with("path", point.path.clone()),
    )
}
