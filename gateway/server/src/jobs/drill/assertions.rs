//! What is asserted of machines and by programs, looked at until it holds or its time is over.
//!
//! All of it side by side. A look that fails says why, and the last why is what the evidence says was found.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::future::join_all;
use http::{Request, header};
use http_body_util::Full;
use hyper::body::Bytes;
use lifeboat_api::validate::parse_duration;
use lifeboat_api::{Assertion, AssertionType};
use lifeboat_compute::{Driver, RunId, RunState};
use lifeboat_model::{JobId, MachineId, Timestamp};
use rustls_pki_types::ServerName;
use tokio::time::Instant;
use tokio_rustls::TlsConnector;

use super::looks::{self, Looks};
use super::{Run, evidence};
use crate::hooks;
use crate::jobs::perform::Failure;
use crate::jobs::program::run_id;
use crate::jobs::report_progress;
use crate::jobs::request::{Answer, dial, exchange};
use crate::records::{AssertionResult, Findings, kind};
use crate::vaults::Snapshot;

/// Time between two looks at the same thing.
const PAUSE: Duration = Duration::from_millis(500);
/// Time between two reports of how far it is.
const REPORT: Duration = Duration::from_secs(1);
/// How much of a console is read: all that a machine says while it boots.
const CONSOLE_BYTES: usize = 1 << 20;
/// How long one request may take.
const REQUEST_LIMIT: Duration = Duration::from_secs(20);
/// How much of an answer is read.
const ANSWER_BYTES: usize = 16 << 20;
/// In how many of 64 bits a screen may differ from the picture that it has to look like.
const ALIKE: u32 = 10;

/// What one look found: what is as it has to be, or what isn't.
type Look = Result<String, String>;

/// What has to be, for people.
pub(super) fn wanted(one: &Assertion) -> String {
    let port = || one.port.map_or_else(String::new, |port| format!(" port {port}"));
    match one.kind {
        AssertionType::Boots => format!("the console shows {:?}", one.contains.as_deref().unwrap_or("login:")),
        AssertionType::Tcp => format!("{} takes connections", port().trim_start()),
        AssertionType::Http => {
            let scheme = if one.tls { "https" } else { "http" };
            let mut text = format!("{scheme}{} {} answers", port(), one.path.as_deref().unwrap_or("/"));
            text.push_str(&one.status.map_or_else(|| " 2xx".to_owned(), |status| format!(" {status}")));
            if let Some(contains) = &one.contains {
                text.push_str(&format!(", with {contains:?} in it"));
            }
            if let Some(sha256) = &one.sha256 {
                text.push_str(&format!(", SHA-256 {sha256}"));
            }
            text
        }
        AssertionType::FileHash => {
            let partition = one.partition.map(|number| format!(" of partition {number}")).unwrap_or_default();
            let (path, sha256) = (one.path.as_deref().unwrap_or_default(), one.sha256.as_deref().unwrap_or_default());
            format!("{path}{partition} has SHA-256 {sha256}")
        }
        AssertionType::Script => format!("{} ends well", one.script.as_deref().unwrap_or_default()),
        AssertionType::Screen => match &one.picture {
            Some(picture) => format!("the screen looks like {picture}"),
            None => "the screen shows something".to_owned(),
        },
    }
}

/// What an assertion is about, by name.
pub(super) fn of(snapshot: &Snapshot, one: &Assertion) -> String {
    let named = |kind: &str, id: String| snapshot.get(kind, &id).map_or(id, |document| document.name.clone());
    match (one.machine_id, one.volume_id) {
        (Some(machine), _) => named(kind::MACHINES, machine.to_string()),
        (None, Some(volume)) => named(kind::VOLUMES, volume.to_string()),
        (None, None) => one.script.clone().unwrap_or_default(),
    }
}

impl Run<'_> {
    /// Looks at everything that is this gateway's to look at. Returns what became of it, and whether a person broke it off.
    pub(super) async fn look_at_all(
        &self,
        findings: &Findings,
        test: JobId,
    ) -> Result<(Vec<AssertionResult>, bool), Failure> {
        let own = self.own()?;
        let leads = own == self.spec.gateway;
        let here: BTreeSet<MachineId> =
            findings.machines.iter().filter(|run| run.gateway_id == own).map(|run| run.machine_id).collect();
        let elsewhere: BTreeSet<MachineId> =
            findings.machines.iter().filter(|run| run.gateway_id != own).map(|run| run.machine_id).collect();
        let is_ours = |one: &Assertion| match one.machine_id {
            Some(machine) => here.contains(&machine) || leads && !elsewhere.contains(&machine),
            None => leads && one.kind == AssertionType::Script,
        };
        let ours: Vec<(usize, &Assertion)> =
            self.spec.spec.assertion.iter().enumerate().filter(|(_, one)| is_ours(one)).collect();
        let results = Mutex::new(Vec::new());
        let looks = ours.iter().map(|(index, one)| async {
            let result = self.look_at(*index, one, findings, test).await;
            results.lock().unwrap_or_else(PoisonError::into_inner).push(result);
        });
        let all = join_all(looks);
        tokio::pin!(all);
        let mut broken_off = false;
        loop {
            tokio::select! {
                _ = &mut all => break,
                () = tokio::time::sleep(REPORT) => {
                    let held = {
                        let results = results.lock().unwrap_or_else(PoisonError::into_inner);
                        results.iter().filter(|result: &&AssertionResult| result.passed).count()
                    };
                    let message = format!("{held} of {} hold", ours.len());
                    if report_progress(self.attached, self.id, &message, None).await {
                        broken_off = true;
                        break;
                    }
                    self.context.notify_watchers();
                }
            }
        }
        // What didn't come to an end leaves nothing here.
        let results = std::mem::take(&mut *results.lock().unwrap_or_else(PoisonError::into_inner));
        Ok((results, broken_off))
    }

    /// Looks at one until it holds or its time is over.
    async fn look_at(&self, index: usize, one: &Assertion, findings: &Findings, test: JobId) -> AssertionResult {
        let within = parse_duration(&one.within).unwrap_or_default();
        let looked = match one.kind {
            AssertionType::Script => self.run_program(one, findings, test, within).await,
            _ => self.look_until(one, test, Instant::now() + within).await,
        };
        let (passed, found) = match looked {
            Ok(found) => (true, found),
            Err(found) => (false, found),
        };
        AssertionResult {
            index,
            kind: one.kind,
            of: of(&self.attached.snapshot(), one),
            wanted: wanted(one),
            found,
            passed,
            at: Timestamp::now(),
        }
    }

    async fn look_until(&self, one: &Assertion, test: JobId, until: Instant) -> Look {
        let machine = one.machine_id.ok_or("the assertion names no machine")?;
        let run = run_id(machine, Some(test)).ok_or("the machine's run has no name")?;
        let driver = self.context.compute.as_ref().ok_or("this gateway runs no machines")?;
        let mut last = "there was no time to look".to_owned();
        loop {
            let look = tokio::time::timeout_at(until, look(driver, &run, one)).await;
            match look {
                Ok(Ok(found)) => return Ok(found),
                Ok(Err(found)) => last = found,
                Err(_) => return Err(last),
            }
            if tokio::time::timeout_at(until, tokio::time::sleep(PAUSE)).await.is_err() {
                return Err(last);
            }
        }
    }

    /// Runs a program of the administrator's, which has the whole time for itself.
    async fn run_program(&self, one: &Assertion, findings: &Findings, test: JobId, within: Duration) -> Look {
        let name = one.script.as_deref().unwrap_or_default();
        let addresses = findings.machines.iter().filter_map(|run| {
            let address = run.interfaces.iter().find_map(|one| one.address.as_deref())?;
            Some(format!("{}={address}", run.name))
        });
        let mut environment = vec![
            ("LIFEBOAT_DRILL".to_owned(), self.spec.spec.name.clone()),
            ("LIFEBOAT_PLAN".to_owned(), self.spec.plan_name.clone()),
            ("LIFEBOAT_JOB".to_owned(), self.id.to_string()),
            ("LIFEBOAT_TEST".to_owned(), test.to_string()),
            ("LIFEBOAT_ADDRESSES".to_owned(), addresses.collect::<Vec<_>>().join(" ")),
        ];
        if let Some(mount) = self.context.exported.path() {
            environment.push(("LIFEBOAT_MOUNT".to_owned(), mount.display().to_string()));
        }
        let ran = hooks::run(&self.context.settings.hooks, name, &environment);
        match tokio::time::timeout(within, ran).await {
            Ok(Ok(())) => Ok("it ended well".to_owned()),
            Ok(Err(why)) => Err(why),
            Err(_) => Err(format!("it wasn't done within {within:?} and was ended")),
        }
    }
}

/// One look at a machine.
async fn look(driver: &Arc<dyn Driver>, run: &RunId, one: &Assertion) -> Look {
    match driver.state(run).await.map_err(|error| error.to_string())? {
        RunState::Running => {}
        RunState::Paused { reason } => return Err(format!("the machine stands still: {reason}")),
        RunState::Stopped { how } => return Err(format!("the machine has stopped: {how}")),
        RunState::Absent => return Err("the machine doesn't run in this test".to_owned()),
    }
    let interface = one.interface.and_then(|number| usize::try_from(number).ok()).unwrap_or(0);
    let port = one.port.unwrap_or(if one.tls { 443 } else { 80 });
    match one.kind {
        AssertionType::Boots => {
            let said = driver.console(run, CONSOLE_BYTES).await.map_err(|error| error.to_string())?;
            let said = String::from_utf8_lossy(&said);
            let contains = one.contains.as_deref().unwrap_or("login:");
            let line =
                said.lines().find(|line| line.contains(contains)).or_else(|| said.contains(contains).then_some(""));
            match (line, said.lines().rev().find(|line| !line.trim().is_empty())) {
                (Some(line), _) => Ok(shortened(line.trim())),
                (None, Some(last)) => Err(format!("its console ends with {:?}", shortened(last.trim()))),
                (None, None) => Err("its console says nothing".to_owned()),
            }
        }
        AssertionType::Tcp => match driver.listens(run, interface, port).await {
            Ok(true) => Ok(format!("port {port} took a connection")),
            Ok(false) => Err(format!("port {port} takes no connection")),
            Err(error) => Err(error.to_string()),
        },
        AssertionType::Http => {
            let there = driver.reach(run, interface, port).await.map_err(|error| error.to_string())?;
            let asked = tokio::time::timeout(REQUEST_LIMIT, get(&there.to_string(), one)).await;
            judge(one, asked.map_err(|_| format!("no answer within {REQUEST_LIMIT:?}"))??)
        }
        AssertionType::Screen => {
            let picture = driver.screen(run).await.map_err(|error| error.to_string())?;
            let looks = Looks::of(&picture.ok_or("it has no screen")?)?;
            match one.picture.as_deref().and_then(looks::parse) {
                Some(expected) if looks.distance(expected) <= ALIKE => Ok(format!("it looks like {looks}")),
                Some(expected) => Err(format!("it looks like {looks}, {} of 64 apart", looks.distance(expected))),
                None if looks.drawn => Ok(format!("it looks like {looks}")),
                None => Err("the screen is blank".to_owned()),
            }
        }
        AssertionType::FileHash | AssertionType::Script => Err("it is looked at elsewhere".to_owned()),
    }
}

/// Asks a web server of a machine.
async fn get(address: &str, one: &Assertion) -> Result<Answer, String> {
    let (host, port) = address.rsplit_once(':').ok_or("the machine has no address")?;
    let stream = dial(host.trim_matches(['[', ']']), port.parse().map_err(|_| "the machine has no port")?).await?;
    let request = Request::get(one.path.as_deref().unwrap_or("/"))
        .header(header::HOST, address)
        .header(header::USER_AGENT, concat!("lifeboat/", env!("CARGO_PKG_VERSION")))
        .body(Full::new(Bytes::new()))
        .map_err(|error| error.to_string())?;
    if !one.tls {
        return exchange(stream, request, ANSWER_BYTES).await;
    }
    let config = unchecked::config()?;
    let name = ServerName::try_from(host.trim_matches(['[', ']']).to_owned()).map_err(|error| error.to_string())?;
    let stream = TlsConnector::from(Arc::new(config)).connect(name, stream).await;
    exchange(stream.map_err(|error| error.to_string())?, request, ANSWER_BYTES).await
}

/// Whether an answer is as it has to be.
fn judge(one: &Assertion, answer: Answer) -> Look {
    let status = answer.status.as_u16();
    let right = one.status.map_or(answer.status.is_success(), |wanted| wanted == status);
    let text = String::from_utf8_lossy(&answer.body);
    if !right {
        let first = text.lines().find(|line| !line.trim().is_empty()).unwrap_or_default();
        return Err(format!("answered {status} {}", shortened(first)).trim_end().to_owned());
    }
    if let Some(contains) = &one.contains
        && !text.contains(contains.as_str())
    {
        return Err(format!("answered {status}, without {contains:?} in {} bytes", answer.body.len()));
    }
    if let Some(sha256) = &one.sha256 {
        if !answer.whole {
            return Err(format!("answered {status}, and not all of it came, or more than {ANSWER_BYTES} bytes"));
        }
        let found = evidence::sha256(&answer.body);
        if found != *sha256 {
            return Err(format!("answered {status}, SHA-256 {found}"));
        }
    }
    Ok(format!("answered {status}, {} bytes", answer.body.len()))
}

fn shortened(text: &str) -> String {
    text.chars().take(200).collect()
}

/// TLS whose other side proves nothing: in a network for tests nobody's name is right. Nothing secret is sent over it.
mod unchecked {
    use std::sync::Arc;

    use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
    use rustls::crypto::CryptoProvider;
    use rustls::{ClientConfig, DigitallySignedStruct, Error, SignatureScheme};
    use rustls_pki_types::{CertificateDer, ServerName, UnixTime};

    #[derive(Debug)]
    struct Unchecked(Arc<CryptoProvider>);

    impl ServerCertVerifier for Unchecked {
        fn verify_server_cert(
            &self,
            _: &CertificateDer<'_>,
            _: &[CertificateDer<'_>],
            _: &ServerName<'_>,
            _: &[u8],
            _: UnixTime,
        ) -> Result<ServerCertVerified, Error> {
            Ok(ServerCertVerified::assertion())
        }

        fn verify_tls12_signature(
            &self,
            message: &[u8],
            certificate: &CertificateDer<'_>,
            signed: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, Error> {
            let known = &self.0.signature_verification_algorithms;
            rustls::crypto::verify_tls12_signature(message, certificate, signed, known)
        }

        fn verify_tls13_signature(
            &self,
            message: &[u8],
            certificate: &CertificateDer<'_>,
            signed: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, Error> {
            let known = &self.0.signature_verification_algorithms;
            rustls::crypto::verify_tls13_signature(message, certificate, signed, known)
        }

        fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
            self.0.signature_verification_algorithms.supported_schemes()
        }
    }

    pub(super) fn config() -> Result<ClientConfig, String> {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .map_err(|error| format!("TLS can't be set up: {error}"))?;
        Ok(config.dangerous().with_custom_certificate_verifier(Arc::new(Unchecked(provider))).with_no_client_auth())
    }
}

#[cfg(test)]
mod tests {
    use http::StatusCode;

    use super::*;

    fn http(fields: serde_json::Value) -> Assertion {
        let mut all = serde_json::json!({"type": "http"});
        all.as_object_mut().expect("an object").extend(fields.as_object().expect("an object").clone());
        serde_json::from_value(all).expect("an assertion")
    }

    fn answer(status: StatusCode, body: &str) -> Answer {
        Answer { status, body: body.as_bytes().to_vec(), whole: true }
    }

    #[test]
    fn answers_are_held_against_what_is_wanted() {
        let any = http(serde_json::json!({}));
        assert!(judge(&any, answer(StatusCode::NO_CONTENT, "")).is_ok());
        let refused = judge(&any, answer(StatusCode::BAD_GATEWAY, "\nupstream is away\n")).expect_err("refused");
        assert_eq!(refused, "answered 502 upstream is away");
        let moved = http(serde_json::json!({"status": 301}));
        assert!(judge(&moved, answer(StatusCode::MOVED_PERMANENTLY, "")).is_ok());
        assert!(judge(&moved, answer(StatusCode::OK, "")).is_err());
        let says = http(serde_json::json!({"contains": "orders: 42"}));
        assert!(judge(&says, answer(StatusCode::OK, "<p>orders: 42</p>")).is_ok());
        assert!(judge(&says, answer(StatusCode::OK, "<p>orders: 41</p>")).expect_err("others").contains("without"));
        let sum = "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824";
        let hashed = http(serde_json::json!({"sha256": sum}));
        assert!(judge(&hashed, answer(StatusCode::OK, "hello")).is_ok());
        assert!(judge(&hashed, answer(StatusCode::OK, "hello!")).is_err());
        let cut = Answer { whole: false, ..answer(StatusCode::OK, "hello") };
        assert!(judge(&hashed, cut).expect_err("cut").contains("not all of it"));
    }
}
