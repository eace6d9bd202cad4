//! A client for the API: one configuration that works before and after a disaster.
//!
//! Endpoints are tried in the order given; the one that answered last is asked first from then on. A request goes to the
//! next endpoint only when it can't have been carried out: the connection could not be made, or it reads only, or it
//! carries an idempotency key. Every POST carries one. Gateways have authorities and tokens of their own: the
//! certificates may hold several authorities, and the tokens are either one for all endpoints or one for each.
//!
//! It refuses plain HTTP and anything that its authorities didn't sign. Dropping a request's future abandons it; its
//! connection is then closed, not reused.

mod config;
mod connection;
mod error;

pub use config::ClientConfig;
pub use error::{ClientError, ClientErrorKind};

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::{Method, StatusCode};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::problem::Problem;
use crate::types::*;
use connection::Endpoint;

/// A client; cheap to clone, connections are shared.
#[derive(Clone, Debug)]
pub struct Client {
    endpoints: Arc<[Endpoint]>,
    /// Index of the endpoint that answered last.
    preferred: Arc<AtomicUsize>,
    timeout: Duration,
}

/// An answer: its status, its ETag as a generation, its body.
#[derive(Debug)]
struct Answer {
    status: StatusCode,
    body: Bytes,
}

/// Which objects a list holds and how many of them.
pub type Query<'a> = &'a [(&'a str, String)];

impl Client {
    /// A client for these endpoints. Connects when it is first used.
    ///
    /// # Errors
    /// `Usage` when the configuration makes no sense: no endpoint, no token, certificates that can't be read.
    pub fn new(config: &ClientConfig) -> Result<Self, ClientError> {
        let endpoints = config.endpoints()?;
        Ok(Self {
            endpoints: endpoints.into(),
            preferred: Arc::new(AtomicUsize::new(0)),
            timeout: config.request_timeout,
        })
    }

    /// A client for a machine, which shows no token: `tls` says whom it believes and which certificate it shows, and `name` is
    /// what it asks for when TLS begins, whatever the endpoint is called.
    ///
    /// # Errors
    /// `Usage` when there is no endpoint, or one that makes no sense.
    pub fn for_machine(
        endpoints: &[String],
        tls: Arc<rustls::ClientConfig>,
        name: &rustls_pki_types::ServerName<'static>,
    ) -> Result<Self, ClientError> {
        let ClientConfig { connect_timeout, request_timeout, .. } = ClientConfig::default();
        if endpoints.is_empty() {
            return Err(ClientError::usage("no endpoint: name a gateway, for example https://gateway.example:443"));
        }
        let endpoint =
            |url: &String| Ok(Endpoint::new(url, None, Arc::clone(&tls), connect_timeout)?.asking_for(name.clone()));
        let endpoints: Vec<Endpoint> = endpoints.iter().map(endpoint).collect::<Result<_, ClientError>>()?;
        Ok(Self { endpoints: endpoints.into(), preferred: Arc::new(AtomicUsize::new(0)), timeout: request_timeout })
    }

    /// The endpoint that answered last.
    #[must_use]
    pub fn endpoint(&self) -> &str {
        self.endpoints.get(self.preferred.load(Ordering::Relaxed)).map_or("", |endpoint| &endpoint.url)
    }

    /// Sends to the endpoints in turn; `extra` is added to the time-out (for requests that wait on purpose).
    async fn send(
        &self,
        method: Method,
        path: &str,
        headers: &[(&'static str, String)],
        body: Option<Bytes>,
        extra: Duration,
    ) -> Result<Answer, ClientError> {
        let repeatable = method == Method::GET || headers.iter().any(|(name, _)| *name == "idempotency-key");
        let first = self.preferred.load(Ordering::Relaxed);
        let mut unreachable = Vec::new();
        for turn in 0..self.endpoints.len() {
            let index = (first + turn) % self.endpoints.len();
            let Some(endpoint) = self.endpoints.get(index) else { break };
            let limit = self.timeout.saturating_add(extra);
            let sent = endpoint.request(&method, path, headers, body.clone(), limit, repeatable).await;
            match sent {
                Ok((status, body)) => {
                    self.preferred.store(index, Ordering::Relaxed);
                    return Ok(Answer { status, body });
                }
                Err(error) if error.kind() == ClientErrorKind::Unreachable && (!error.maybe_sent() || repeatable) => {
                    tracing::debug!(endpoint = %endpoint.url, %error, "endpoint not reachable");
                    unreachable.push(error);
                }
                Err(error) => return Err(error),
            }
        }
        Err(ClientError::all_unreachable(unreachable))
    }

    async fn call<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        headers: &[(&'static str, String)],
        body: Option<Bytes>,
        extra: Duration,
    ) -> Result<T, ClientError> {
        let answer = self.send(method.clone(), path, headers, body, extra).await?;
        if !answer.status.is_success() {
            return Err(ClientError::from_answer(answer.status, &answer.body, &method, path));
        }
        decode(&answer.body, path)
    }

    /// GETs `path` (beginning with `/v1/`).
    ///
    /// # Errors
    /// As [`ClientErrorKind`] says.
    pub async fn get<T: DeserializeOwned>(&self, path: &str, query: Query<'_>) -> Result<T, ClientError> {
        self.call(Method::GET, &with_query(path, query), &[], None, Duration::ZERO).await
    }

    /// GETs `path` as text: `/metrics`, `/v1/openapi.json`.
    ///
    /// # Errors
    /// As [`ClientErrorKind`] says.
    pub async fn get_text(&self, path: &str) -> Result<String, ClientError> {
        let answer = self.send(Method::GET, path, &[], None, Duration::ZERO).await?;
        if !answer.status.is_success() {
            return Err(ClientError::from_answer(answer.status, &answer.body, &Method::GET, path));
        }
        Ok(String::from_utf8_lossy(&answer.body).into_owned())
    }

    /// What stands there, byte for byte.
    ///
    /// # Errors
    /// As [`ClientErrorKind`] says.
    pub async fn get_bytes(&self, path: &str) -> Result<bytes::Bytes, ClientError> {
        let answer = self.send(Method::GET, path, &[], None, Duration::ZERO).await?;
        if !answer.status.is_success() {
            return Err(ClientError::from_answer(answer.status, &answer.body, &Method::GET, path));
        }
        Ok(answer.body)
    }

    /// Every page of a list.
    ///
    /// # Errors
    /// As [`ClientErrorKind`] says.
    pub async fn list<T: DeserializeOwned>(&self, path: &str, query: Query<'_>) -> Result<Vec<T>, ClientError> {
        let mut items = Vec::new();
        let mut token: Option<String> = None;
        loop {
            let mut parameters = query.to_vec();
            if let Some(token) = token.take() {
                parameters.push(("page_token", token));
            }
            let page: Page<T> = self.get(path, &parameters).await?;
            items.extend(page.items);
            match page.next_page_token {
                Some(next) => token = Some(next),
                None => return Ok(items),
            }
        }
    }

    /// POSTs `body` to `path` under a fresh idempotency key.
    ///
    /// # Errors
    /// As [`ClientErrorKind`] says.
    pub async fn post<T: DeserializeOwned>(&self, path: &str, body: &impl Serialize) -> Result<T, ClientError> {
        self.post_with_key(path, body, &uuid::Uuid::new_v4().to_string()).await
    }

    /// POSTs under an idempotency key of the caller's: the same key and body never act twice.
    ///
    /// # Errors
    /// As [`ClientErrorKind`] says.
    pub async fn post_with_key<T: DeserializeOwned>(
        &self,
        path: &str,
        body: &impl Serialize,
        key: &str,
    ) -> Result<T, ClientError> {
        let headers = [("idempotency-key", key.to_owned())];
        self.call(Method::POST, path, &headers, Some(encode(body)?), Duration::ZERO).await
    }

    /// Creates a resource: POSTs its spec to its collection.
    ///
    /// # Errors
    /// `Invalid` with the fields at fault, `Conflict` when the name is taken, and the others.
    pub async fn create<R: Resource + Collection>(&self, spec: &R::Spec) -> Result<R, ClientError> {
        self.post(R::PATH, spec).await
    }

    /// Reads a resource.
    ///
    /// # Errors
    /// `NotFound`, and the others.
    pub async fn read<R: Resource + Collection>(&self, id: &str) -> Result<R, ClientError> {
        self.get(&item_path::<R>(id)?, &[]).await
    }

    /// Replaces the spec of a resource, if it is still of that generation.
    ///
    /// # Errors
    /// `Conflict` when it changed since, `Invalid`, `NotFound`, and the others.
    pub async fn update<R: Resource + Collection>(
        &self,
        id: &str,
        generation: u64,
        spec: &R::Spec,
    ) -> Result<R, ClientError> {
        self.patch(id, generation, spec).await
    }

    /// Changes part of the spec of a resource (RFC 7396), if it is still of that generation.
    ///
    /// # Errors
    /// `Conflict` when it changed since, `Invalid`, `NotFound`, and the others.
    pub async fn patch<R: Resource + Collection>(
        &self,
        id: &str,
        generation: u64,
        patch: &impl Serialize,
    ) -> Result<R, ClientError> {
        let headers = [("if-match", format!("\"{generation}\""))];
        self.call(Method::PATCH, &item_path::<R>(id)?, &headers, Some(encode(patch)?), Duration::ZERO).await
    }

    /// Deletes a resource, if it is still of that generation. One that is gone already counts as deleted.
    ///
    /// # Errors
    /// `Conflict` when it changed since or something is in the way (see [`ClientError::blockers`]), and the others.
    pub async fn delete<R: Resource + Collection>(&self, id: &str, generation: u64) -> Result<(), ClientError> {
        self.delete_at(item_path::<R>(id)?, generation).await
    }

    /// The same also while others name it: they stay, and lack it until they name another, or none. A group whose policy it was
    /// goes on under its settings. Only for machines, volumes, networks and policies.
    ///
    /// # Errors
    /// As [`Self::delete`].
    pub async fn delete_while_named<R: Resource + Collection>(
        &self,
        id: &str,
        generation: u64,
    ) -> Result<(), ClientError> {
        self.delete_at(format!("{}?while_named=true", item_path::<R>(id)?), generation).await
    }

    async fn delete_at(&self, path: String, generation: u64) -> Result<(), ClientError> {
        let headers = [("if-match", format!("\"{generation}\""))];
        let answer = self.send(Method::DELETE, &path, &headers, None, Duration::ZERO).await?;
        if answer.status.is_success() || answer.status == StatusCode::NOT_FOUND {
            return Ok(());
        }
        Err(ClientError::from_answer(answer.status, &answer.body, &Method::DELETE, &path))
    }

    /// The only resource of that kind with that name; `None` when there is none.
    ///
    /// # Errors
    /// `Conflict` when there are several, and the others.
    pub async fn find_by_name<R: Resource + Collection>(&self, name: &str) -> Result<Option<R>, ClientError> {
        let mut found: Vec<R> = self.list(R::PATH, &[("name", name.to_owned())]).await?;
        if found.len() > 1 {
            return Err(ClientError::ambiguous(R::PATH, name));
        }
        Ok(found.pop())
    }

    /// Creates a vault in storage, or attaches the one that is there.
    ///
    /// # Errors
    /// `Conflict` when there is one and `attach` isn't set, `Invalid` for a wrong key, and the others.
    pub async fn create_vault(&self, request: &VaultCreate) -> Result<Vault, ClientError> {
        self.post(Vault::PATH, request).await
    }

    /// Makes a token. Its secret is in this answer and nowhere else.
    ///
    /// # Errors
    /// `Conflict` when an earlier try made it and its answer was lost: the message says how to get another secret; and the
    /// others.
    pub async fn create_token(&self, request: &TokenCreate) -> Result<NewToken, ClientError> {
        self.post(Token::PATH, request).await
    }

    /// Gives a token a new secret; the old ones end after the grace period.
    ///
    /// # Errors
    /// `NotFound`, `Conflict` when it has expired, and the others.
    pub async fn rotate_token(&self, id: &str, request: &RotateTokenRequest) -> Result<NewToken, ClientError> {
        self.post(&format!("{}:rotate", item_path::<Token>(id)?), request).await
    }

    /// Lets a token live on from now.
    ///
    /// # Errors
    /// `NotFound`, `Conflict` when it has expired, and the others.
    pub async fn renew_token(&self, id: &str, request: &RenewTokenRequest) -> Result<Token, ClientError> {
        self.post(&format!("{}:renew", item_path::<Token>(id)?), request).await
    }

    /// Makes a registration key. Its text is in this answer and nowhere else.
    ///
    /// # Errors
    /// `Conflict` when an earlier try made it and its answer was lost: the message says what to do; and the others.
    pub async fn create_registration_key(
        &self,
        request: &RegistrationKeyCreate,
    ) -> Result<NewRegistrationKey, ClientError> {
        self.post(RegistrationKey::PATH, request).await
    }

    /// Makes a machine known, with a registration key. The same key and public key again give the same identity.
    ///
    /// # Errors
    /// `Unauthorized` when the key isn't valid or was used by another machine, `Invalid`, and the others.
    pub async fn enrol(&self, request: &EnrolRequest) -> Result<Enrolment, ClientError> {
        self.post("/v1/enrolments", request).await
    }

    /// Makes a gateway known, with a registration key. The same key and public key again give the same answer.
    ///
    /// # Errors
    /// `Unauthorized` when the key isn't valid or was used by another machine, `Conflict` for a name that is taken or a site that
    /// isn't the key's, `Invalid`, and the others.
    pub async fn enrol_gateway(&self, request: &GatewayEnrolRequest) -> Result<GatewayEnrolment, ClientError> {
        self.post("/v1/gateway-enrolments", request).await
    }

    /// Has the gateway that is asked register itself by key.
    ///
    /// # Errors
    /// `Conflict` for what the other gateway refuses or when this one has a vault already, `Unreachable` when no gateway is
    /// reached, `Invalid`, and the others.
    pub async fn register(&self, request: &RegisterRequest) -> Result<Registration, ClientError> {
        self.post("/v1/registration", request).await
    }

    /// How far the registration by key of the gateway that is asked is.
    ///
    /// # Errors
    /// As [`ClientErrorKind`] says.
    pub async fn registration(&self) -> Result<Registration, ClientError> {
        self.get("/v1/registration", &[]).await
    }

    /// Another certificate for an agent, asked for by itself.
    ///
    /// # Errors
    /// `Unauthorized` or `Forbidden` for who isn't that agent, and the others.
    pub async fn renew_certificate(
        &self,
        agent: &str,
        request: &RenewCertificateRequest,
    ) -> Result<Enrolment, ClientError> {
        self.post(&format!("{}:renew", item_path::<Agent>(agent)?), request).await
    }

    /// The process servers that an agent may go to, asked for by itself.
    ///
    /// # Errors
    /// `Unauthorized` or `Forbidden` for who isn't that agent, and the others.
    pub async fn process_servers(&self, agent: &str) -> Result<KnownProcessServers, ClientError> {
        self.get(&format!("{}/process-servers", item_path::<Agent>(agent)?), &[]).await
    }

    /// Decides about what somebody else asked for; `verb` is `approve` or `reject`.
    ///
    /// # Errors
    /// `NotFound`, `Conflict` for one's own request or one that is decided, and the others.
    pub async fn decide(&self, id: &str, verb: &str, request: &DecideRequest) -> Result<Approval, ClientError> {
        self.post(&format!("{}:{verb}", item_path::<Approval>(id)?), request).await
    }

    /// Whom the gateway takes this client for.
    ///
    /// # Errors
    /// As [`ClientErrorKind`] says.
    pub async fn whoami(&self) -> Result<Whoami, ClientError> {
        self.get("/v1/whoami", &[]).await
    }

    /// A verb on a group, which begins a job.
    ///
    /// # Errors
    /// `Conflict` when the group's state doesn't allow it, and the others.
    pub async fn group_verb(&self, group: &str, verb: &str, body: &impl Serialize) -> Result<Job, ClientError> {
        self.verb::<Group>(group, verb, body).await
    }

    /// A verb on a group, a plan or a machine, which begins a job.
    ///
    /// # Errors
    /// `Conflict` when its state doesn't allow it, and the others.
    pub async fn verb<R: Collection>(&self, id: &str, verb: &str, body: &impl Serialize) -> Result<Job, ClientError> {
        let path = format!("{}:{verb}", item_path::<R>(id)?);
        self.post(&path, body).await
    }

    /// Brings back what was deleted and holds no data, with what it needs and was deleted too.
    ///
    /// # Errors
    /// `Conflict` when something is in the way, and the others.
    pub async fn undelete(&self, id: &str) -> Result<Restored, ClientError> {
        self.post(&format!("/v1/deleted/{}:undelete", segment("id", id)?), &RestoreRequest {}).await
    }

    /// The evidence of a run of a drill; of the newest when none is named.
    ///
    /// # Errors
    /// `NotFound` when none has come to an end, and the others.
    pub async fn drill_evidence(&self, drill: &str, run: Option<&str>) -> Result<DrillEvidence, ClientError> {
        let path = format!("{}/evidence", item_path::<Drill>(drill)?);
        self.get(&path, &run.map(|run| ("run", run.to_owned())).into_iter().collect::<Vec<_>>()).await
    }

    /// The same as a page for people.
    ///
    /// # Errors
    /// `NotFound` when none has come to an end, and the others.
    pub async fn drill_report(&self, drill: &str, run: Option<&str>) -> Result<String, ClientError> {
        let query: Vec<_> = run.map(|run| ("run", run.to_owned())).into_iter().collect();
        let path = with_query(&format!("{}/report", item_path::<Drill>(drill)?), &query);
        let answer = self.send(Method::GET, &path, &[], None, Duration::ZERO).await?;
        if answer.status.is_success() {
            return Ok(String::from_utf8_lossy(&answer.body).into_owned());
        }
        Err(ClientError::from_answer(answer.status, &answer.body, &Method::GET, &path))
    }

    /// A job as it is now.
    ///
    /// # Errors
    /// `NotFound`, and the others.
    pub async fn job(&self, id: &str) -> Result<Job, ClientError> {
        self.get(&format!("/v1/jobs/{}", segment("id", id)?), &[]).await
    }

    /// Waits until a job is past `revision`, or is over, or `wait` has passed; then the job as it is.
    ///
    /// # Errors
    /// `NotFound`, and the others.
    pub async fn watch_job(&self, id: &str, revision: u64, wait: Duration) -> Result<Job, ClientError> {
        let query = [("wait", format!("{}s", wait.as_secs().max(1))), ("since", revision.to_string())];
        let path = with_query(&format!("/v1/jobs/{}", segment("id", id)?), &query);
        self.call(Method::GET, &path, &[], None, wait).await
    }

    /// Waits until a job is over, telling `on_change` of everything that happens to it.
    ///
    /// # Errors
    /// `NotFound`, `Unreachable`, and the others. A job that failed is no error here: see [`Job::state`].
    pub async fn wait_for_job(&self, id: &str, mut on_change: impl FnMut(&Job)) -> Result<Job, ClientError> {
        let mut job = self.job(id).await?;
        loop {
            on_change(&job);
            if job.is_over() {
                return Ok(job);
            }
            job = self.watch_job(id, job.revision, Duration::from_secs(20)).await?;
        }
    }

    /// Asks a job to stop. A step that can't be left in the middle is brought to its end first.
    ///
    /// # Errors
    /// `Conflict` when it is over, and the others.
    pub async fn cancel_job(&self, id: &str) -> Result<Job, ClientError> {
        self.post(&format!("/v1/jobs/{}:cancel", segment("id", id)?), &serde_json::json!({})).await
    }
}

/// Where the resources of a kind are found.
pub trait Collection {
    /// Path of the collection.
    const PATH: &'static str;
}

macro_rules! collections {
    ($($name:ident => $path:literal,)*) => {$(
        impl Collection for $name { const PATH: &'static str = $path; }
    )*};
}

collections! {
    Vault => "/v1/vaults",
    Site => "/v1/sites",
    Gateway => "/v1/gateways",
    Policy => "/v1/policies",
    Group => "/v1/groups",
    Volume => "/v1/volumes",
    Network => "/v1/networks",
    NetworkMapping => "/v1/network-mappings",
    Machine => "/v1/machines",
    Plan => "/v1/plans",
    Drill => "/v1/drills",
    Token => "/v1/tokens",
    RegistrationKey => "/v1/registration-keys",
    Agent => "/v1/agents",
    Approval => "/v1/approvals",
}

fn item_path<R: Collection>(id: &str) -> Result<String, ClientError> {
    Ok(format!("{}/{}", R::PATH, segment("id", id)?))
}

/// Text that may stand in a path as one segment.
fn segment<'a>(field: &str, text: &'a str) -> Result<&'a str, ClientError> {
    let sound = !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'));
    if sound { Ok(text) } else { Err(ClientError::usage(format!("{text:?} can't be an {field}"))) }
}

fn with_query(path: &str, query: Query<'_>) -> String {
    let mut text = path.to_owned();
    for (index, (name, value)) in query.iter().enumerate() {
        text.push(if index == 0 { '?' } else { '&' });
        text.push_str(name);
        text.push('=');
        for byte in value.bytes() {
            if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.' | b'~' | b':') {
                text.push(char::from(byte));
            } else {
                text.push_str(&format!("%{byte:02X}"));
            }
        }
    }
    text
}

fn encode(body: &impl Serialize) -> Result<Bytes, ClientError> {
    serde_json::to_vec(body)
        .map(Bytes::from)
        .map_err(|source| ClientError::usage(format!("the request can't be written as JSON: {source}")))
}

fn decode<T: DeserializeOwned>(body: &[u8], path: &str) -> Result<T, ClientError> {
    // 202 and 204 of a verb that has nothing to say read as null.
    let body = if body.is_empty() { b"null" } else { body };
    let reader = &mut serde_json::Deserializer::from_slice(body);
    serde_path_to_error::deserialize(reader).map_err(|source| ClientError::not_understood(path, &source.to_string()))
}

impl ClientError {
    fn from_answer(status: StatusCode, body: &[u8], method: &Method, path: &str) -> Self {
        match serde_json::from_slice::<Problem>(body) {
            Ok(problem) => Self::problem(problem),
            Err(_) => {
                Self::not_understood(path, &format!("{method} was answered with {status} and no problem document"))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queries_are_escaped() {
        let path = with_query("/v1/points", &[("from", "2026-11-20T10:05:00+01:00".into()), ("name", "a b&c".into())]);
        assert_eq!(path, "/v1/points?from=2026-11-20T10:05:00%2B01:00&name=a%20b%26c");
    }

    #[test]
    fn an_id_cannot_leave_its_segment() {
        for id in ["", "..", "a/b", "a?b", "a:failover", "a%2fb"] {
            assert!(item_path::<Group>(id).is_err(), "{id:?}");
        }
    }
}
