//! The API's own description, OpenAPI 3.1: the types describe themselves, the routes are those of [`super::operations`].
//!
//! `docs/api/openapi-v1.json` is this document as of the last release; a test fails when they differ.

use axum::Json;
use lifeboat_api as api;
use serde_json::{Map, Value, json};
use utoipa::OpenApi;

use super::operations::{Need, Operation, Shape, operations};

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
        api::Approval,
        api::DecideRequest,
        api::AuditRecord,
        api::Event,
        api::ProtectionStatus,
        api::ProtectionHistory,
        api::ProtectionSample,
        api::NoticeChannel,
        api::NoticeTest,
        api::NoticeTests,
        api::GatewayReport,
        api::Summary,
        api::Whoami,
        api::Token,
        api::TokenCreate,
        api::NewToken,
        api::RotateTokenRequest,
        api::RenewTokenRequest,
        api::RegistrationKey,
        api::RegistrationKeyCreate,
        api::NewRegistrationKey,
        api::EnrolRequest,
        api::GatewayEnrolRequest,
        api::GatewayEnrolment,
        api::VaultPlace,
        api::RegisterRequest,
        api::Registration,
        api::Enrolment,
        api::Agent,
        api::RenewCertificateRequest,
        api::KnownProcessServers,
        api::Problem,
        api::FailoverRequest,
        api::AppConsistency,
        api::ChangePointRequest,
        api::CommitRequest,
        api::CleanupRequest,
        api::ReleaseRequest,
        api::ResumeRequest,
        api::FailbackRequest,
        api::FailbackTarget,
        api::FailbackDisk,
        api::MoveGroupRequest,
        api::ReplaceGatewayRequest,
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
        api::RestoreRequest,
        api::DeletedObject,
        api::Restored,
    ))
)]
struct Schemas;

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
        Shape::Archive => (
            "200",
            json!({"description": "An archive.", "content": {"application/zstd": {"schema": {"type": "string", "format": "binary"}}}}),
        ),
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
            "responses": {code: answer, "default": &problem},
        });
        let refused = |text: &str| json!({"description": text, "content": problem["content"]});
        if !matches!(operation.need, Need::Nothing | Need::RegistrationKey) {
            entry["responses"]["401"] = refused("No token, or one that isn't valid here or not any more.");
        }
        match operation.need {
            Need::Nothing => entry["security"] = json!([]),
            Need::RegistrationKey => {
                entry["security"] = json!([]);
                entry["responses"]["401"] =
                    refused("The registration key in the body isn't valid here or not any more.");
            }
            Need::Machine(kind) => {
                entry["security"] = json!([{"certificate": []}]);
                entry["x-required-machine"] = json!(kind.as_str());
                entry["responses"]["403"] =
                    refused("Who asks isn't such a machine, or not the one that this is about.");
            }
            Need::Token => {}
            Need::Role(role) => {
                entry["x-required-role"] = json!(role);
                entry["responses"]["403"] = refused("The token has no role that may do this.");
            }
        }
        if let Some(body) = operation.body {
            entry["requestBody"] = json!({"required": true, "content": content(reference(body))});
        }
        let path = paths.entry(operation.path).or_insert_with(|| json!({}));
        path[operation.method] = entry;
    }
    document["paths"] = Value::Object(paths);
    document["security"] = json!([{"token": []}]);
    document["components"]["securitySchemes"] = json!({
        "token": {"type": "http", "scheme": "bearer"},
        "certificate": {
            "type": "mutualTLS",
            "description": "A certificate of the vault's authority, shown to the name vlt-….lifeboat.internal (SNI).",
        },
    });
    document
}

pub(super) async fn serve() -> Json<Value> {
    Json(document())
}
