//! Who may: callers are authenticated before anything else, and each route asks for what its row in the table says.
//!
//! Denied by default. [`Routes`] is the only way to a handler, and builds none for a route that has no row; a verb that has no
//! row ends here, before its handler. What is looked at is the path as the handler will read it, escapes undone, so that the
//! two can't disagree about the verb. What is in a body decides nothing about who may send it.

use std::sync::Arc;

use axum::Router;
use axum::extract::rejection::RawPathParamsRejection;
use axum::extract::{RawPathParams, Request};
use axum::handler::Handler;
use axum::middleware::{self, Next};
use axum::response::IntoResponse;
use axum::routing::{MethodFilter, on};
use http::header;
use lifeboat_api::{Principal, PrincipalKind, Problem, ProblemCode};
use lifeboat_identity::{MachineKind, Peer};

use super::audited;
use super::error::{ApiError, ApiResult};
use super::operations::{Need, Operation, operations};
use super::resources::{self, Kind};
use super::verbs;
use crate::auth::{Identity, Refusal};
use crate::context::Context;
use crate::machines::{self, Refused};

/// Routes, each with what it needs.
#[derive(Debug, Default)]
pub(super) struct Routes(Router<Arc<Context>>);

impl Routes {
    pub(super) fn get<H: Handler<T, Arc<Context>>, T: 'static>(self, path: &'static str, handler: H) -> Self {
        self.add("get", MethodFilter::GET, path, handler)
    }

    pub(super) fn post<H: Handler<T, Arc<Context>>, T: 'static>(self, path: &'static str, handler: H) -> Self {
        self.add("post", MethodFilter::POST, path, handler)
    }

    pub(super) fn patch<H: Handler<T, Arc<Context>>, T: 'static>(self, path: &'static str, handler: H) -> Self {
        self.add("patch", MethodFilter::PATCH, path, handler)
    }

    pub(super) fn delete<H: Handler<T, Arc<Context>>, T: 'static>(self, path: &'static str, handler: H) -> Self {
        self.add("delete", MethodFilter::DELETE, path, handler)
    }

    /// A kind of resource: list, create, read, change, delete.
    pub(super) fn collection<K: Kind>(self, path: &'static str, item: &'static str) -> Self {
        self.get(path, resources::list::<K>)
            .post(path, resources::create::<K>)
            .get(item, resources::read::<K>)
            .patch(item, resources::update::<K>)
            .delete(item, resources::delete::<K>)
    }

    pub(super) fn into_router(self) -> Router<Arc<Context>> {
        self.0
    }

    fn add<H, T>(self, method: &'static str, filter: MethodFilter, path: &'static str, handler: H) -> Self
    where
        H: Handler<T, Arc<Context>>,
        T: 'static,
    {
        let rows: Arc<[&Operation]> = operations().filter(|row| row.method == method && row.route() == path).collect();
        assert!(!rows.is_empty(), "{method} {path} has no row in the table of operations: say there who may ask it");
        let admit = middleware::from_fn(move |params, request: Request, next: Next| {
            let rows = Arc::clone(&rows);
            async move {
                match admitted(&rows, params, &request) {
                    Ok(row) => audited::run(row, request, next).await,
                    Err(refused) => {
                        audited::forbidden(&request, &refused);
                        refused.into_response()
                    }
                }
            }
        });
        Self(self.0.route(path, on(filter, handler).route_layer(admit)))
    }
}

type Params = Result<RawPathParams, RawPathParamsRejection>;

fn admitted<'a>(rows: &[&'a Operation], params: Params, request: &Request) -> ApiResult<&'a Operation> {
    let params = params.map_err(|_| ApiError::new(ProblemCode::Malformed, "the path isn't properly escaped UTF-8"))?;
    let row = asked(rows, params.iter().last().map(|(_, value)| value))?;
    may(row, request.extensions().get::<Arc<Identity>>().map(AsRef::as_ref))?;
    Ok(row)
}

/// The row that a request on a route is about.
fn asked<'a>(rows: &[&'a Operation], segment: Option<&str>) -> ApiResult<&'a Operation> {
    if let [only] = rows
        && only.verb().is_none()
    {
        return Ok(only);
    }
    let (_, verb) = verbs::split(segment.unwrap_or_default())?;
    rows.iter().find(|row| row.verb() == Some(verb)).copied().ok_or_else(|| {
        let route = rows.first().map(|row| row.route()).unwrap_or_default();
        let known: Vec<&str> = rows.iter().filter_map(|row| row.verb()).collect();
        ApiError::new(
            ProblemCode::NotFound,
            format!("{route} has no verb {verb:?}; there are {}: see /v1/openapi.json", known.join(", ")),
        )
    })
}

fn may(row: &Operation, identity: Option<&Identity>) -> ApiResult<()> {
    match (row.need, identity) {
        (Need::Nothing | Need::RegistrationKey, _) => Ok(()),
        (Need::Machine(wanted), Some(identity)) if machine(&identity.principal) == Some(wanted) => Ok(()),
        (Need::Machine(wanted), Some(identity)) => Err(ApiError::new(
            ProblemCode::Forbidden,
            format!(
                "{} {} is for an {wanted}, by the certificate that it enrolled for; {} may not ask it",
                row.method.to_uppercase(),
                row.path,
                identity.principal
            ),
        )),
        (_, Some(identity)) if machine(&identity.principal).is_some() => Err(ApiError::new(
            ProblemCode::Forbidden,
            format!(
                "{} {} is for people and programs with a token, not for {}",
                row.method.to_uppercase(),
                row.path,
                identity.principal
            ),
        )),
        (Need::Token, Some(_)) => Ok(()),
        (Need::Role(wanted), Some(identity)) if identity.roles.iter().any(|role| role.covers(wanted)) => Ok(()),
        (Need::Role(wanted), Some(identity)) => {
            let has: Vec<&str> = identity.roles.iter().map(|role| role.as_str()).collect();
            let has = if has.is_empty() { "no role that this gateway knows".to_owned() } else { has.join(", ") };
            let detail = format!(
                "{} {} needs the role {wanted}, and {} has {has}: use another token, or have a security administrator make one \
                 (`lifeboat token create --role {wanted}`)",
                row.method.to_uppercase(),
                row.path,
                identity.principal
            );
            Err(Problem::forbidden(wanted, identity.roles.clone(), detail).into())
        }
        (_, None) => Err(refusal(Refusal::Missing)),
    }
}

/// What kind of machine somebody is; nothing for people and programs.
fn machine(principal: &Principal) -> Option<MachineKind> {
    match principal.kind {
        PrincipalKind::Agent => Some(MachineKind::Agent),
        PrincipalKind::Administrator | PrincipalKind::Token => None,
    }
}

/// Whether a path is for everybody, or for who has what stands in the body.
pub(super) fn is_open(path: &str) -> bool {
    operations().any(|row| matches!(row.need, Need::Nothing | Need::RegistrationKey) && row.path == path)
}

/// Who sends a request. Who has shown a certificate is that machine, whatever token it may send: the two don't add up.
pub(super) fn authenticate(context: &Arc<Context>, request: &Request) -> ApiResult<Arc<Identity>> {
    let now = lifeboat_api::Timestamp::now();
    let identity = match request.extensions().get::<Arc<Peer>>() {
        Some(peer) => {
            let principal = machines::admit(context, peer, now).map_err(|refused| machine_refusal(peer, refused))?;
            Identity::machine(principal, peer.not_after)
        }
        None => {
            let header = request.headers().get(header::AUTHORIZATION);
            let identity = context.gate.identify(header, &context.settings.name, &context.vaults.all(), now);
            identity.map_err(refusal)?
        }
    };
    let identity = Arc::new(identity);
    if !context.gate.haste.admits(&identity.principal, std::time::Instant::now()) {
        return Err(ApiError::new(
            ProblemCode::TooManyRequests,
            format!(
                "{} asks faster than this gateway answers one caller: wait a second, and see whether something asks in a loop",
                identity.principal
            ),
        ));
    }
    crate::auth::note_use(context, &identity);
    Ok(identity)
}

fn machine_refusal(peer: &Peer, refused: Refused) -> ApiError {
    let code = match refused {
        Refused::Unsure => ProblemCode::Unavailable,
        Refused::Time | Refused::Unknown | Refused::Kind => ProblemCode::Unauthorized,
    };
    ApiError::new(code, format!("the machine {} isn't let in: {refused}", peer.name))
}

fn refusal(refusal: Refusal) -> ApiError {
    let unauthorized = |detail: String| ApiError::new(ProblemCode::Unauthorized, detail);
    match refusal {
        Refusal::Missing => unauthorized(
            "this needs `Authorization: Bearer` and a token: one that `lifeboat token create` made, or admin.token of the \
             gateway's state directory"
                .to_owned(),
        ),
        Refusal::Unknown => unauthorized(
            "the token isn't valid here: it was revoked or mistyped, belongs to a vault that this gateway isn't attached to, or \
             was made at another gateway just now; check it, or have a security administrator make another"
                .to_owned(),
        ),
        Refusal::Expired(name) => unauthorized(format!(
            "the token {name} has expired: have a security administrator make another (`lifeboat token create`)"
        )),
        Refusal::Replaced(name) => unauthorized(format!(
            "the token {name} was rotated, and the time in which its old secret was still valid is over: use its new secret, or have a \
             security administrator rotate it again"
        )),
        Refusal::Unsure => ApiError::new(
            ProblemCode::Unavailable,
            "whether the token is valid can't be said now: this gateway hasn't been able to read one of its vaults since it \
             started; try again, or use admin.token of the gateway's state directory",
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[should_panic(expected = "get /v1/backdoor has no row")]
    fn a_route_without_a_row_cannot_be_built() {
        let _ = Routes::default().get("/v1/backdoor", || async { "open" });
    }

    #[test]
    #[should_panic(expected = "delete /v1/jobs/{id} has no row")]
    fn nor_a_method_without_one() {
        let _ = Routes::default().delete("/v1/jobs/{id}", || async { "gone" });
    }

    #[test]
    fn the_verb_decides_and_one_without_a_row_is_refused() {
        let rows: Vec<&Operation> =
            operations().filter(|row| row.method == "post" && row.route() == "/v1/groups/{id}").collect();
        let need = |segment: &str| asked(&rows, Some(segment)).map(|row| row.need);
        let role = |role| Need::Role(role);
        assert_eq!(need("grp-1:point").expect("a row"), role(lifeboat_api::Role::Operator));
        assert_eq!(need("grp-1:failover").expect("a row"), role(lifeboat_api::Role::Recovery));
        for (wrong, code) in [
            ("grp-1", ProblemCode::MethodNotAllowed),
            ("grp-1:", ProblemCode::NotFound),
            ("grp-1:failover:point", ProblemCode::NotFound),
            ("grp-1:Failover", ProblemCode::NotFound),
            ("grp-1:erase", ProblemCode::NotFound),
        ] {
            assert_eq!(need(wrong).expect_err(wrong).0.code, code, "{wrong}");
        }
    }
}
