//! What the audit log is told of a request: before it is done, and how it was answered.

use std::sync::Arc;
use std::time::Instant;

use axum::extract::Request;
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use lifeboat_api::{AuditKind, ProblemCode};

use super::error::ApiError;
use super::listen::Peer;
use super::operations::Operation;
use crate::audit::{self, Entry};
use crate::auth::Identity;
use crate::context::Context;

/// Wrong or missing tokens from one address in a minute, after which the answer is to try later. Not for callers on this host,
/// behind whom may stand a proxy with everybody.
pub(super) const STRANGERS_MAX: u64 = 3000;

/// What a record says of a request.
fn entry(context: &Context, request: &Request, kind: AuditKind) -> Entry {
    let from = request.extensions().get::<Peer>().map(|peer| peer.address.ip().to_canonical().to_string());
    let who = request.extensions().get::<Arc<Identity>>().map(|identity| identity.principal.clone());
    let what = format!("{} {}", request.method(), request.uri().path());
    Entry { who, from, what: Some(what), ..Entry::new(context, kind) }
}

/// Does what was asked, between the two records of it.
pub(super) async fn run(row: &Operation, request: Request, next: Next) -> Response {
    if !row.is_audited() {
        return next.run(request).await;
    }
    let Some(context) = request.extensions().get::<Arc<Context>>().cloned() else { return next.run(request).await };
    let asked = entry(&context, &request, AuditKind::Asked);
    between(&context, asked, next.run(request)).await
}

/// Does what somebody asked who was recognised by what stands in the body; `detail` says by what.
pub(super) async fn run_for(
    context: &Arc<Context>,
    request: Request,
    detail: String,
    act: impl Future<Output = Response>,
) -> Response {
    let asked = Entry { detail: Some(detail), ..entry(context, &request, AuditKind::Asked) };
    drop(request);
    between(context, asked, act).await
}

async fn between(context: &Arc<Context>, asked: Entry, act: impl Future<Output = Response>) -> Response {
    let asked = Entry { request: Some(uuid::Uuid::new_v4().to_string()), ..asked };
    let mut answer = Answer { context: Arc::clone(context), asked: Some(asked.clone()) };
    if let Err(refused) = audit::record(context, asked).await {
        let response = refused.into_response();
        answer.is(&response);
        return response;
    }
    let response = act.await;
    answer.is(&response);
    response
}

/// The second record of a request, written also when it is broken off.
struct Answer {
    context: Arc<Context>,
    asked: Option<Entry>,
}

impl Answer {
    fn is(&mut self, response: &Response) {
        let Some(asked) = self.asked.take() else { return };
        let problem = response.extensions().get::<ProblemCode>().map(|code| code.as_str().to_owned());
        let (status, time) = (Some(response.status().as_u16()), lifeboat_api::Timestamp::now());
        audit::note(&self.context, Entry { kind: AuditKind::Answered, status, problem, time, ..asked });
    }
}

impl Drop for Answer {
    fn drop(&mut self) {
        let Some(asked) = self.asked.take() else { return };
        let detail = Some("broken off before it was answered: what became of it shows in what it was about".to_owned());
        let time = lifeboat_api::Timestamp::now();
        audit::note(&self.context, Entry { kind: AuditKind::Answered, detail, time, ..asked });
    }
}

/// Somebody asked for what its roles don't allow.
pub(super) fn forbidden(request: &Request, refused: &ApiError) {
    let Some(context) = request.extensions().get::<Arc<Context>>() else { return };
    if refused.0.code == ProblemCode::Forbidden {
        let (status, problem) = (Some(refused.0.status), Some(refused.0.code.as_str().to_owned()));
        audit::note(context, Entry { status, problem, ..entry(context, request, AuditKind::Forbidden) });
    }
}

/// Somebody wasn't let in. Counted by address: a record for the first, the tenth, the hundredth … in a minute.
pub(super) fn refused(context: &Arc<Context>, request: &Request, refused: ApiError) -> ApiError {
    if refused.0.code != ProblemCode::Unauthorized {
        return refused;
    }
    let peer = request.extensions().get::<Peer>();
    let address = peer.map(|peer| peer.address.ip().to_canonical());
    let count = context.gate.strangers.knocked(address, Instant::now());
    if count.to_string().trim_end_matches('0') == "1" {
        let detail = Some(format!("{count} in this minute: {}", refused.0.detail));
        let status = Some(refused.0.status);
        audit::note(context, Entry { status, detail, ..entry(context, request, AuditKind::Refused) });
    }
    if count <= STRANGERS_MAX || peer.is_none_or(|peer| peer.is_here) {
        return refused;
    }
    ApiError::new(
        ProblemCode::TooManyRequests,
        format!(
            "more than {STRANGERS_MAX} requests without a valid token came from this address within a minute: use a valid one, or wait a minute"
        ),
    )
}
