//! Actions on the way: a program of the administrator's, a request, a task for a person.
//!
//! A program and a request know what they are part of, and may be run a second time when the gateway died while they ran: the
//! request says so by its idempotency key, the program by the job's id and the action's name.

use std::sync::Arc;
use std::time::Duration;

use http::{Request, Uri, header};
use http_body_util::Full;
use hyper::body::Bytes;
use lifeboat_api::validate::parse_duration;
use lifeboat_api::{ActionType, PlanAction};
use lifeboat_model::Timestamp;
use rustls_pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsConnector;

use super::Run;
use crate::hooks;
use crate::jobs::change_job;
use crate::jobs::perform::{Done, Failure};
use crate::jobs::request::{self, dial, exchange};
use crate::records::{ActionPlace, Answer, Part};

/// How long an action may take that says nothing about it.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(300);
/// What is read of an answer, for the message.
const ANSWER_BYTES: usize = 16 << 10;
/// Time between two looks at whether a person has answered.
const LOOK: Duration = Duration::from_millis(500);

impl Run<'_> {
    /// The action of this step.
    fn action(&self) -> Result<&PlanAction, Failure> {
        let Some(Part::Action(place, index)) = self.step.part else {
            return Err(Failure::Final("the step names no action".to_owned()));
        };
        let shutdown = self.spec.shutdown.as_ref();
        let group = |at: usize| self.spec.boot_group.get(at);
        let row = match place {
            ActionPlace::BeforeShutdown => shutdown.map(|shutdown| &shutdown.pre_action),
            ActionPlace::AfterShutdown => shutdown.map(|shutdown| &shutdown.post_action),
            ActionPlace::Before(at) => group(at).map(|group| &group.pre_action),
            ActionPlace::After(at) => group(at).map(|group| &group.post_action),
        };
        let action = row.and_then(|row| row.get(index));
        action.ok_or_else(|| Failure::Final("the step names an action that isn't there".to_owned()))
    }

    /// Does an action.
    pub(super) async fn act(&self) -> Result<Done, Failure> {
        let action = self.action()?;
        let limit = action.timeout.as_ref().and_then(|text| parse_duration(text).ok());
        let work = async {
            match action.kind {
                ActionType::Script => self.script(action, limit.unwrap_or(DEFAULT_TIMEOUT)).await,
                ActionType::Http => self.request(action, limit.unwrap_or(DEFAULT_TIMEOUT)).await,
                ActionType::Manual => self.wait_for_person(action, limit).await,
            }
        };
        tokio::select! {
            done = work => done,
            () = self.cancelled() => Err(Failure::Cancelled),
        }
    }

    /// Until a person asks for the job to stop.
    async fn cancelled(&self) {
        let mut changes = self.context.watch();
        loop {
            changes.borrow_and_update();
            if self.is_cancelled().await {
                return;
            }
            let _ = tokio::time::timeout(LOOK, changes.changed()).await;
        }
    }

    /// What an action is part of.
    fn facts(&self, action: &PlanAction) -> [(&'static str, String); 6] {
        [
            ("job", self.id.to_string()),
            (self.spec.subject.what(), self.spec.name.clone()),
            ("action", action.name.clone()),
            ("direction", self.spec.direction.as_str().to_owned()),
            ("kind", self.spec.failover.map_or("", lifeboat_api::FailoverKind::as_str).to_owned()),
            ("point", self.spec.point.clone().unwrap_or_default()),
        ]
    }

    async fn script(&self, action: &PlanAction, limit: Duration) -> Result<Done, Failure> {
        let name = action.script.as_deref().unwrap_or_default();
        let mut environment: Vec<(String, String)> = self
            .facts(action)
            .into_iter()
            .map(|(name, value)| (format!("LIFEBOAT_{}", name.to_uppercase()), value))
            .collect();
        if let Some(mount) = self.context.exported.path() {
            environment.push(("LIFEBOAT_MOUNT".to_owned(), mount.display().to_string()));
        }
        let ran = hooks::run(&self.context.settings.hooks, name, &environment);
        match tokio::time::timeout(limit, ran).await {
            Ok(Ok(())) => Ok(Done::new(format!("{name} was run"))),
            Ok(Err(why)) => Err(Failure::Final(format!(
                "the action {}: {why}; mend it and try the job again, or leave the action out with --skip",
                action.name
            ))),
            Err(_) => Err(Failure::Final(format!(
                "the action {}: {name} was not done within {limit:?} and was ended; give it more time, or leave it out with --skip",
                action.name
            ))),
        }
    }

    async fn request(&self, action: &PlanAction, limit: Duration) -> Result<Done, Failure> {
        let url = action.url.as_deref().unwrap_or_default();
        let body: serde_json::Map<String, serde_json::Value> =
            self.facts(action).into_iter().map(|(name, value)| (name.to_owned(), value.into())).collect();
        let body = serde_json::Value::Object(body).to_string();
        let key = format!("{}-{}", self.id, self.index);
        let asked = tokio::time::timeout(limit, post(url, &key, body)).await;
        let why = match asked {
            Ok(Ok(status)) => return Ok(Done::new(format!("answered {status}"))),
            Ok(Err(why)) => why,
            Err(_) => format!("no answer within {limit:?}"),
        };
        Err(Failure::Final(format!(
            "the action {}: {url}: {why}; mend it and try the job again, or leave the action out with --skip",
            action.name
        )))
    }

    async fn wait_for_person(&self, action: &PlanAction, limit: Option<Duration>) -> Result<Done, Failure> {
        let instruction = action.instruction.clone().unwrap_or_else(|| action.name.clone());
        let since = self.step.started.unwrap_or_else(Timestamp::now);
        let mut changes = self.context.watch();
        loop {
            changes.borrow_and_update();
            let record = change_job(self.attached, self.id, |record| {
                let Some(step) = record.steps.get_mut(self.index) else { return false };
                if step.waits_for.as_ref() == Some(&instruction) {
                    return false;
                }
                step.waits_for = Some(instruction.clone());
                step.message = format!("waits for a person: {instruction}");
                true
            })
            .await?;
            self.context.notify_watchers();
            if let Some(Answer { time, note }) = record.steps.get(self.index).and_then(|step| step.answer.clone()) {
                let said = note.map(|note| format!(": {note}")).unwrap_or_default();
                return Ok(Done::new(format!("done by a person at {time}{said}")));
            }
            if limit.is_some_and(|limit| Timestamp::now().seconds_since(since) > limit.as_secs_f64()) {
                return Err(Failure::Final(format!(
                    "the action {}: nobody said within {} that it is done ({instruction}); do it and try the job again, or leave it out with --skip",
                    action.name,
                    action.timeout.as_deref().unwrap_or_default()
                )));
            }
            let _ = tokio::time::timeout(LOOK, changes.changed()).await;
        }
    }
}

/// Asks an address; any answer of the 2xx kind is a success. Redirections are not followed.
async fn post(url: &str, key: &str, body: String) -> Result<http::StatusCode, String> {
    let uri: Uri = url.parse().map_err(|error| format!("{error}"))?;
    let host = uri.host().ok_or("names no host")?.trim_matches(['[', ']']).to_owned();
    let tls = uri.scheme_str() == Some("https");
    let port = uri.port_u16().unwrap_or(if tls { 443 } else { 80 });
    let stream = dial(&host, port).await?;
    let authority = uri.authority().map(ToString::to_string).unwrap_or_default();
    let path = uri.path_and_query().map_or("/", http::uri::PathAndQuery::as_str);
    let request = Request::post(path)
        .header(header::HOST, authority.rsplit('@').next().unwrap_or_default())
        .header(header::CONTENT_TYPE, "application/json")
        .header(header::USER_AGENT, concat!("lifeboat/", env!("CARGO_PKG_VERSION")))
        .header("idempotency-key", key)
        .body(Full::new(Bytes::from(body)))
        .map_err(|error| error.to_string())?;
    if tls {
        let name = ServerName::try_from(host).map_err(|error| error.to_string())?;
        let secured = TlsConnector::from(Arc::new(client_config()?)).connect(name, stream).await;
        send(secured.map_err(|error| error.to_string())?, request).await
    } else {
        send(stream, request).await
    }
}

fn client_config() -> Result<rustls::ClientConfig, String> {
    let mut roots = rustls::RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| format!("TLS can't be set up: {error}"))?;
    Ok(config.with_root_certificates(roots).with_no_client_auth())
}

/// Sends a request, and says what was wrong with an answer that isn't of the 2xx kind.
async fn send(
    stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
    request: Request<Full<Bytes>>,
) -> Result<http::StatusCode, String> {
    let request::Answer { status, body, .. } = exchange(stream, request, ANSWER_BYTES).await?;
    if status.is_success() {
        return Ok(status);
    }
    let said = String::from_utf8_lossy(&body);
    let first = said.lines().find(|line| !line.trim().is_empty()).unwrap_or_default();
    Err(format!("answered {status} {}", first.chars().take(200).collect::<String>()).trim_end().to_owned())
}
