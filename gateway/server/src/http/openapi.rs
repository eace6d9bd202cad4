//! The API's own description, OpenAPI 3.1: the types describe themselves, the routes are the table below.
//!
//! `docs/api/openapi-v1.json` is this document as of the last release; a test fails when they differ.

use axum::Json;
use lifeboat_api as api;
use serde_json::{Map, Value, json};
use utoipa::OpenApi;

#[derive(OpenApi)]
#[openapi(
    info(title = "Lifeboat", version = "1", description = "Disaster recovery as code: the API of a gateway."),
    components(schemas(
        api::Vault,
        api::VaultCreate,
        api::VaultSpec,
        api::VaultKeys,
        api::AddKeyRequest,
        api::RemoveKeyRequest,
        api::VerifyKeyRequest,
        api::VerifiedKey,
        api::RotateKeyRequest,
        api::KeyRotation,
        api::Site,
        api::SiteSpec,
        api::Gateway,
        api::GatewaySpec,
        api::Policy,
        api::PolicySpec,
        api::Group,
        api::GroupSpec,
        api::Volume,
        api::VolumeSpec,
        api::VolumeSource,
        api::RotateVolumeKeyRequest,
        api::VolumeKey,
        api::EraseRequest,
        api::VolumeErasure,
        api::Network,
        api::NetworkSpec,
        api::NetworkMapping,
        api::NetworkMappingSpec,
        api::Machine,
        api::MachineSpec,
        api::MachineLook,
        api::ReachRequest,
        api::ReachAnswer,
        api::Plan,
        api::PlanSpec,
        api::Drill,
        api::DrillSpec,
        api::DrillEvidence,
        api::DrillRunRequest,
        api::Point,
        api::WrittenBefore,
        api::CleanPoint,
        api::SuspicionView,
        api::Job,
        api::Event,
        api::ProtectionStatus,
        api::GatewayReport,
        api::Problem,
        api::FailoverRequest,
        api::AppConsistency,
        api::ChangePointRequest,
        api::CommitRequest,
        api::CleanupRequest,
        api::ReleaseRequest,
        api::ResumeRequest,
        api::FailbackRequest,
        api::PointRequest,
        api::ResyncRequest,
        api::PinRequest,
        api::UnpinRequest,
        api::LabelRequest,
        api::PlanFailoverRequest,
        api::PlanCleanupRequest,
        api::ReprotectRequest,
        api::StartRequest,
        api::StopRequest,
        api::RetryRequest,
        api::ContinueRequest,
        api::UndeleteRequest,
        api::DeletedGroup,
    ))
)]
struct Schemas;

/// How a route answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Shape {
    /// A page of objects.
    Page,
    /// One object.
    One,
    /// One object, made.
    Made,
    /// A job that was begun.
    Begun,
    /// Nothing.
    Nothing,
    /// Text.
    Text,
    /// A page.
    Html,
}

/// One operation: method, path, what it does, body, answer, query parameters.
#[derive(Debug)]
pub(crate) struct Operation {
    pub(crate) method: &'static str,
    pub(crate) path: &'static str,
    summary: &'static str,
    body: Option<&'static str>,
    shape: Shape,
    answer: &'static str,
    query: &'static [&'static str],
}

const fn operation(
    method: &'static str,
    path: &'static str,
    summary: &'static str,
    body: Option<&'static str>,
    shape: Shape,
    answer: &'static str,
    query: &'static [&'static str],
) -> Operation {
    Operation { method, path, summary, body, shape, answer, query }
}

/// A verb that begins a job.
const fn begins(path: &'static str, summary: &'static str, body: &'static str) -> Operation {
    operation("post", path, summary, Some(body), Shape::Begun, "Job", &[])
}

const LIST: &[&str] = &["limit", "page_token", "name"];

macro_rules! resource_operations {
    ($path:literal, $item:literal, $what:literal, $view:literal, $create:literal, $spec:literal) => {
        [
            operation("get", $path, concat!("Lists ", $what, "."), None, Shape::Page, $view, LIST),
            operation(
                "post",
                $path,
                concat!("Declares one of the ", $what, "."),
                Some($create),
                Shape::Made,
                $view,
                &[],
            ),
            operation("get", $item, concat!("Reads one of the ", $what, "."), None, Shape::One, $view, &[]),
            operation(
                "patch",
                $item,
                concat!("Changes one of the ", $what, " (RFC 7396)."),
                Some($spec),
                Shape::One,
                $view,
                &[],
            ),
            operation("delete", $item, concat!("Deletes one of the ", $what, "."), None, Shape::Nothing, "", &[]),
        ]
    };
}

const RESOURCES: [[Operation; 5]; 11] = [
    resource_operations!("/v1/vaults", "/v1/vaults/{id}", "vaults", "Vault", "VaultCreate", "VaultSpec"),
    resource_operations!("/v1/sites", "/v1/sites/{id}", "sites", "Site", "SiteSpec", "SiteSpec"),
    resource_operations!("/v1/gateways", "/v1/gateways/{id}", "gateways", "Gateway", "GatewaySpec", "GatewaySpec"),
    resource_operations!("/v1/policies", "/v1/policies/{id}", "policies", "Policy", "PolicySpec", "PolicySpec"),
    resource_operations!("/v1/groups", "/v1/groups/{id}", "groups", "Group", "GroupSpec", "GroupSpec"),
    resource_operations!("/v1/volumes", "/v1/volumes/{id}", "volumes", "Volume", "VolumeSpec", "VolumeSpec"),
    resource_operations!("/v1/networks", "/v1/networks/{id}", "networks", "Network", "NetworkSpec", "NetworkSpec"),
    resource_operations!(
        "/v1/network-mappings",
        "/v1/network-mappings/{id}",
        "network mappings",
        "NetworkMapping",
        "NetworkMappingSpec",
        "NetworkMappingSpec"
    ),
    resource_operations!("/v1/machines", "/v1/machines/{id}", "machines", "Machine", "MachineSpec", "MachineSpec"),
    resource_operations!("/v1/plans", "/v1/plans/{id}", "recovery plans", "Plan", "PlanSpec", "PlanSpec"),
    resource_operations!("/v1/drills", "/v1/drills/{id}", "drills", "Drill", "DrillSpec", "DrillSpec"),
];

const OTHERS: [Operation; 57] = [
    operation(
        "get",
        "/v1/vaults/{id}/keys",
        "Lists the ways to open a vault, without its keys.",
        None,
        Shape::One,
        "VaultKeys",
        &[],
    ),
    operation(
        "post",
        "/v1/vaults/{id}:add-key",
        "Makes another key open a vault.",
        Some("AddKeyRequest"),
        Shape::One,
        "VaultKeys",
        &[],
    ),
    operation(
        "post",
        "/v1/vaults/{id}:remove-key",
        "Makes a key open a vault no more.",
        Some("RemoveKeyRequest"),
        Shape::One,
        "VaultKeys",
        &[],
    ),
    operation(
        "post",
        "/v1/vaults/{id}:verify-key",
        "Says what a key opens.",
        Some("VerifyKeyRequest"),
        Shape::One,
        "VerifiedKey",
        &[],
    ),
    operation(
        "post",
        "/v1/vaults/{id}:rotate-key",
        "Replaces the master key of a vault.",
        Some("RotateKeyRequest"),
        Shape::One,
        "KeyRotation",
        &[],
    ),
    operation(
        "post",
        "/v1/volumes/{id}:rotate-key",
        "Makes a new data key for a volume.",
        Some("RotateVolumeKeyRequest"),
        Shape::One,
        "VolumeKey",
        &[],
    ),
    operation(
        "post",
        "/v1/volumes/{id}:erase",
        "Destroys the keys of a volume.",
        Some("EraseRequest"),
        Shape::One,
        "VolumeErasure",
        &[],
    ),
    operation(
        "post",
        "/v1/groups/{id}:undelete",
        "Takes the deletion of a group and of its volumes back.",
        Some("UndeleteRequest"),
        Shape::Begun,
        "Job",
        &[],
    ),
    operation(
        "get",
        "/v1/deleted-groups",
        "Lists the deleted groups that can come back.",
        None,
        Shape::Page,
        "DeletedGroup",
        &[],
    ),
    operation(
        "post",
        "/v1/groups/{id}:failover",
        "Fails a group over to this gateway.",
        Some("FailoverRequest"),
        Shape::Begun,
        "Job",
        &[],
    ),
    operation(
        "post",
        "/v1/groups/{id}:change-point",
        "Goes on from another recovery point after a failover that isn't committed.",
        Some("ChangePointRequest"),
        Shape::Begun,
        "Job",
        &[],
    ),
    operation(
        "post",
        "/v1/groups/{id}:commit",
        "Makes a failover final.",
        Some("CommitRequest"),
        Shape::Begun,
        "Job",
        &[],
    ),
    operation(
        "post",
        "/v1/groups/{id}:cleanup",
        "Ends test failovers.",
        Some("CleanupRequest"),
        Shape::Begun,
        "Job",
        &[],
    ),
    operation(
        "post",
        "/v1/groups/{id}:release",
        "Stops a group in order.",
        Some("ReleaseRequest"),
        Shape::Begun,
        "Job",
        &[],
    ),
    operation(
        "post",
        "/v1/groups/{id}:resume",
        "Starts a released group again.",
        Some("ResumeRequest"),
        Shape::Begun,
        "Job",
        &[],
    ),
    operation(
        "post",
        "/v1/groups/{id}:failback",
        "Moves a group back home.",
        Some("FailbackRequest"),
        Shape::Begun,
        "Job",
        &[],
    ),
    operation(
        "post",
        "/v1/groups/{id}:point",
        "Takes a recovery point.",
        Some("PointRequest"),
        Shape::Begun,
        "Job",
        &[],
    ),
    operation(
        "post",
        "/v1/groups/{id}:resync",
        "Copies what the vault lacks, at once.",
        Some("ResyncRequest"),
        Shape::Begun,
        "Job",
        &[],
    ),
    operation(
        "get",
        "/v1/points",
        "Lists recovery points, newest first.",
        None,
        Shape::Page,
        "Point",
        &["group", "branch", "from", "to", "kind", "limit", "page_token"],
    ),
    operation(
        "get",
        "/v1/points/{id}",
        "Reads a recovery point with its volumes.",
        None,
        Shape::One,
        "Point",
        &["group", "branch"],
    ),
    operation(
        "post",
        "/v1/groups/{id}/points/{point}:pin",
        "Keeps a recovery point whatever the retention schedule says.",
        Some("PinRequest"),
        Shape::One,
        "Point",
        &[],
    ),
    operation(
        "post",
        "/v1/groups/{id}/points/{point}:unpin",
        "Leaves a recovery point to the retention schedule again.",
        Some("UnpinRequest"),
        Shape::One,
        "Point",
        &[],
    ),
    operation(
        "post",
        "/v1/groups/{id}/points/{point}:label",
        "Calls a recovery point by another name.",
        Some("LabelRequest"),
        Shape::One,
        "Point",
        &[],
    ),
    operation(
        "get",
        "/v1/clean-point",
        "Suggests the newest recovery point before anything that looks like an encryption.",
        None,
        Shape::One,
        "CleanPoint",
        &["group", "branch"],
    ),
    operation(
        "get",
        "/v1/jobs",
        "Lists jobs, newest first.",
        None,
        Shape::Page,
        "Job",
        &["group", "plan", "machine", "drill", "state", "kind", "limit", "page_token"],
    ),
    operation(
        "get",
        "/v1/jobs/{id}",
        "Reads a job; with `wait`, once it changed.",
        None,
        Shape::One,
        "Job",
        &["wait", "since"],
    ),
    begins("/v1/plans/{id}:failover", "Carries a recovery plan out at this gateway.", "PlanFailoverRequest"),
    begins(
        "/v1/plans/{id}:change-point",
        "Goes on from another recovery point after a failover of a recovery plan that isn't committed.",
        "ChangePointRequest",
    ),
    begins("/v1/plans/{id}:commit", "Makes the failover of a recovery plan final.", "CommitRequest"),
    begins("/v1/plans/{id}:cleanup", "Ends the tests of a recovery plan.", "PlanCleanupRequest"),
    begins(
        "/v1/plans/{id}:reprotect",
        "Brings the home copies of a recovery plan forward while the recovery side runs.",
        "ReprotectRequest",
    ),
    begins("/v1/plans/{id}:failback", "Moves everything of a recovery plan back home.", "FailbackRequest"),
    begins("/v1/drills/{id}:run", "Runs a drill.", "DrillRunRequest"),
    begins("/v1/drills/{id}:cleanup", "Ends the test that a drill left up.", "PlanCleanupRequest"),
    operation(
        "get",
        "/v1/drills/{id}/evidence",
        "Reads the signed evidence of a run, the newest unless one is named.",
        None,
        Shape::One,
        "DrillEvidence",
        &["run"],
    ),
    operation(
        "get",
        "/v1/drills/{id}/report",
        "Reads the evidence of a run as a page for people.",
        None,
        Shape::Html,
        "",
        &["run"],
    ),
    begins("/v1/machines/{id}:failover", "Fails a machine by itself over to this gateway.", "PlanFailoverRequest"),
    begins(
        "/v1/machines/{id}:change-point",
        "Goes on from another recovery point after a failover of a machine by itself that isn't committed.",
        "ChangePointRequest",
    ),
    begins("/v1/machines/{id}:commit", "Makes the failover of a machine by itself final.", "CommitRequest"),
    begins("/v1/machines/{id}:cleanup", "Ends the tests of a machine by itself.", "PlanCleanupRequest"),
    begins(
        "/v1/machines/{id}:reprotect",
        "Brings the home copies of a machine by itself forward while the recovery side runs.",
        "ReprotectRequest",
    ),
    begins("/v1/machines/{id}:failback", "Moves everything of a machine by itself back home.", "FailbackRequest"),
    operation(
        "get",
        "/v1/machines/{id}/run",
        "Looks at a machine that this gateway runs.",
        None,
        Shape::One,
        "MachineLook",
        &["test", "console_bytes", "screen"],
    ),
    operation(
        "post",
        "/v1/machines/{id}:reach",
        "Says where a port of a machine that this gateway runs answers.",
        Some("ReachRequest"),
        Shape::One,
        "ReachAnswer",
        &[],
    ),
    begins("/v1/machines/{id}:start", "Starts a machine where its volumes are.", "StartRequest"),
    begins("/v1/machines/{id}:stop", "Stops a machine where it runs.", "StopRequest"),
    begins(
        "/v1/groups/{id}:reprotect",
        "Brings the home copy of a group forward while the recovery side runs.",
        "ReprotectRequest",
    ),
    operation("post", "/v1/jobs/{id}:cancel", "Asks a job to stop.", Some("Empty"), Shape::Begun, "Job", &[]),
    begins("/v1/jobs/{id}:retry", "Tries a failed job again.", "RetryRequest"),
    begins("/v1/jobs/{id}:continue", "Tells a job that waits for a person that the task is done.", "ContinueRequest"),
    operation(
        "get",
        "/v1/events",
        "Lists events, newest first.",
        None,
        Shape::Page,
        "Event",
        &["group", "since", "limit", "page_token"],
    ),
    operation(
        "get",
        "/v1/protection-status",
        "Says how well groups are protected.",
        None,
        Shape::Page,
        "ProtectionStatus",
        &["group", "volume", "limit", "page_token"],
    ),
    operation("get", "/v1/status", "The gateway's account of itself.", None, Shape::One, "GatewayReport", &[]),
    operation("get", "/v1/openapi.json", "This document.", None, Shape::One, "Empty", &[]),
    operation("get", "/metrics", "Metrics in Prometheus's text form.", None, Shape::Text, "", &[]),
    operation("get", "/livez", "Whether the process is alive; needs no token.", None, Shape::One, "Empty", &[]),
    operation("get", "/readyz", "Whether it is ready; needs no token.", None, Shape::One, "Empty", &[]),
];

/// Every operation.
pub(crate) fn operations() -> impl Iterator<Item = &'static Operation> {
    RESOURCES.iter().flatten().chain(OTHERS.iter())
}

fn reference(name: &str) -> Value {
    match name {
        "Empty" => json!({"type": "object"}),
        name => json!({"$ref": format!("#/components/schemas/{name}")}),
    }
}

fn content(schema: Value) -> Value {
    json!({"application/json": {"schema": schema}})
}

fn answer(operation: &Operation) -> (&'static str, Value) {
    let object = reference(operation.answer);
    match operation.shape {
        Shape::Page => {
            let page = json!({
                "type": "object",
                "required": ["items"],
                "properties": {
                    "items": {"type": "array", "items": object},
                    "next_page_token": {"type": "string", "description": "Absent on the last page."},
                },
            });
            ("200", json!({"description": "A page.", "content": content(page)}))
        }
        Shape::One => ("200", json!({"description": "The object.", "content": content(object)})),
        Shape::Made => ("201", json!({"description": "Declared.", "content": content(object)})),
        Shape::Begun => ("202", json!({"description": "A job was begun.", "content": content(object)})),
        Shape::Nothing => ("204", json!({"description": "Done."})),
        Shape::Html => {
            ("200", json!({"description": "A page.", "content": {"text/html": {"schema": {"type": "string"}}}}))
        }
        Shape::Text => {
            ("200", json!({"description": "Text.", "content": {"text/plain": {"schema": {"type": "string"}}}}))
        }
    }
}

fn parameters(operation: &Operation) -> Vec<Value> {
    let parameter = |place: &str, name: &str, required: bool| json!({"in": place, "name": name, "required": required, "schema": {"type": "string"}});
    let mut all = Vec::new();
    if operation.path.contains("{id}") {
        all.push(parameter("path", "id", true));
    }
    if operation.path.contains("{point}") {
        all.push(parameter("path", "point", true));
    }
    // Points are found within their group.
    let required = |name: &str| name == "group" && operation.path.starts_with("/v1/points");
    all.extend(operation.query.iter().map(|name| parameter("query", name, required(name))));
    match operation.method {
        "patch" | "delete" => all.push(parameter("header", "If-Match", true)),
        "post" => all.push(parameter("header", "Idempotency-Key", false)),
        _ => {}
    }
    all
}

/// The whole document.
pub(crate) fn document() -> Value {
    let mut document = serde_json::to_value(Schemas::openapi()).unwrap_or_default();
    let mut paths: Map<String, Value> = Map::new();
    for operation in operations() {
        let (code, answer) = answer(operation);
        let problem = json!({
            "description": "A problem (RFC 9457).",
            "content": {api::problem::PROBLEM_JSON: {"schema": reference("Problem")}},
        });
        let mut entry = json!({
            "summary": operation.summary,
            "parameters": parameters(operation),
            "responses": {code: answer, "default": problem},
        });
        if matches!(operation.path, "/livez" | "/readyz") {
            entry["security"] = json!([]);
        }
        if let Some(body) = operation.body {
            entry["requestBody"] = json!({"required": true, "content": content(reference(body))});
        }
        let path = paths.entry(operation.path).or_insert_with(|| json!({}));
        path[operation.method] = entry;
    }
    document["paths"] = Value::Object(paths);
    document["security"] = json!([{"token": []}]);
    document["components"]["securitySchemes"] = json!({"token": {"type": "http", "scheme": "bearer"}});
    document
}

pub(super) async fn serve() -> Json<Value> {
    Json(document())
}
