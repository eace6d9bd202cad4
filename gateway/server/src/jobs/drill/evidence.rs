//! The evidence of a run: what was found, as a JSON document, signed by the gateway that led it.
//!
//! The bytes of the text are what is signed, by Ed25519. The key is made by a gateway when it signs for the first time and
//! never leaves its state directory; the public half is in the gateway's document, so that whoever has the vault can hold
//! a signature against the gateway that is said to have made it.

use aws_lc_rs::digest;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use lifeboat_api::validate::parse_duration;
use lifeboat_api::{AssertionType, DrillOutcome, DrillRun, DrillSpec};
use lifeboat_model::Timestamp;
use lifeboat_model::state::Health;
use lifeboat_vault::{Vault, VaultError, VaultErrorKind};
use serde_json::{Value, json};

use super::assertions::{of, wanted};
use super::{Run, change_drill};
use crate::auth;
use crate::context::{Context, Happening};
use crate::jobs::perform::Failure;
use crate::records::{AssertionResult, EvidenceRecord, Findings, GatewayRecord, kind, status};
use crate::vaults::{AttachedVault, Snapshot};

/// What the document calls itself.
const FORMAT: &str = "lifeboat-drill-evidence/1";
/// The private key's file in the state directory.
const KEY_FILE: &str = "evidence.key";
/// Runs that are remembered of a drill, with their evidence.
const RUNS_MAX: usize = 20;

/// A SHA-256 as 64 hexadecimal digits.
pub(crate) fn sha256(bytes: &[u8]) -> String {
    auth::hex(digest::digest(&digest::SHA256, bytes).as_ref())
}

/// A picture that was kept.
pub(crate) async fn picture(vault: &Vault, document: &str) -> Result<Option<Vec<u8>>, VaultError> {
    match vault.catalog().get(kind::PICTURES, document).await {
        Ok(document) => {
            Ok(document.spec.get("png").and_then(Value::as_str).and_then(|text| STANDARD.decode(text).ok()))
        }
        Err(error) if error.kind() == VaultErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// The key that this gateway signs with; made when there is none.
fn key(context: &Context) -> Result<Ed25519KeyPair, String> {
    let text = context
        .state
        .text_or_make(KEY_FILE, || {
            let made = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new())?;
            Ok(STANDARD.encode(made.as_ref()))
        })
        .map_err(|error| format!("{error:#}"))?;
    let bytes = STANDARD.decode(text.trim()).map_err(|error| error.to_string())?;
    Ed25519KeyPair::from_pkcs8(&bytes).map_err(|error| error.to_string())
}

/// What became of every assertion, also of those that nobody came to look at.
fn results(snapshot: &Snapshot, spec: &DrillSpec, findings: &Findings, now: Timestamp) -> Vec<AssertionResult> {
    let all = spec.assertion.iter().enumerate();
    all.map(|(index, one)| {
        let looked = findings.results.iter().find(|result| result.index == index).cloned();
        looked.unwrap_or_else(|| AssertionResult {
            index,
            kind: one.kind,
            of: of(snapshot, one),
            wanted: wanted(one),
            found: if findings.broken_off { "it was broken off" } else { "nobody came to look at it" }.to_owned(),
            passed: false,
            at: now,
        })
    })
    .collect()
}

/// How a run came out.
fn outcome(spec: &DrillSpec, findings: &Findings, results: &[AssertionResult]) -> DrillOutcome {
    let mut failures = findings.troubles.clone();
    if findings.broken_off {
        failures.push("it was broken off".to_owned());
    }
    failures.extend(results.iter().filter(|result| !result.passed).map(|result| {
        format!(
            "assertion[{}], {} of {}: {}; wanted: {}",
            result.index,
            result.kind.as_str(),
            result.of,
            result.found,
            result.wanted
        )
    }));
    // Files are looked at on copies, beside what runs.
    let running: Vec<&AssertionResult> =
        results.iter().filter(|result| result.kind != AssertionType::FileHash).collect();
    let recovered = match (findings.started, findings.up) {
        (Some(started), Some(up)) if running.iter().all(|result| result.passed) => {
            let last = running.iter().map(|result| result.at).max().map_or(up, |last| last.max(up));
            Some(last.seconds_since(started))
        }
        _ => None,
    };
    let limits = [("max_rto", &spec.max_rto, recovered), ("max_rpo", &spec.max_rpo, findings.rpo_seconds)];
    for (name, limit, found) in limits {
        let Some((text, limit)) = limit.as_ref().and_then(|text| Some((text, parse_duration(text).ok()?))) else {
            continue;
        };
        if let Some(found) = found.filter(|found| *found > limit.as_secs_f64()) {
            failures.push(format!("{name}: {found:.1} s, and {text} at most is wanted"));
        }
    }
    DrillOutcome { passed: failures.is_empty(), rto_seconds: recovered, rpo_seconds: findings.rpo_seconds, failures }
}

/// Signs what a run has found, writes it down, and tells how it came out.
pub(super) async fn attest(run: &Run<'_>, findings: &Findings) -> Result<DrillRun, Failure> {
    let vault = run.attached.vault()?;
    let id = run.id.to_string();
    let kept = match vault.catalog().get(kind::EVIDENCE, &id).await {
        // An earlier try signed it: that is what counts.
        Ok(document) => document.spec_as::<EvidenceRecord>()?,
        Err(error) if error.kind() == VaultErrorKind::NotFound => {
            let record = sign(run, findings)?;
            let spec = serde_json::to_value(&record).map_err(|error| Failure::Final(error.to_string()))?;
            publish(run, &record.public_key).await?;
            vault.catalog().create(kind::EVIDENCE, &id, &run.spec.spec.name, spec, json!({})).await?;
            record
        }
        Err(error) => return Err(error.into()),
    };
    let unread = |error: serde_json::Error| Failure::Final(format!("the evidence can't be read back: {error}"));
    let told: Told = serde_json::from_str(&kept.evidence).map_err(unread)?;
    let outcome: DrillOutcome = serde_json::from_str(&kept.evidence).map_err(unread)?;
    let ended = DrillRun {
        job_id: run.id,
        gateway_id: run.spec.gateway,
        started: told.started,
        finished: told.finished,
        outcome,
    };
    let mut news = false;
    let mut dropped = Vec::new();
    let changed = change_drill(run.attached, run.spec.drill, |drill| {
        news = drill.runs.iter().all(|other| other.job_id != ended.job_id);
        if news {
            drill.runs.insert(0, ended.clone());
            dropped = drill.runs.split_off(drill.runs.len().min(RUNS_MAX));
        }
        news
    });
    match changed.await {
        Ok(_) => {}
        // It was deleted while it ran: the evidence goes with the last of its runs.
        Err(error) if error.kind() == VaultErrorKind::NotFound => {
            forget(&vault, &id).await;
            return Ok(ended);
        }
        Err(error) => return Err(error.into()),
    }
    for old in dropped {
        forget(&vault, &old.job_id.to_string()).await;
    }
    if news {
        let name = &run.spec.spec.name;
        let (severity, kind, message) = match ended.outcome.failures.first() {
            None => {
                (Health::Healthy, "drill.passed", format!("the drill {name} of the plan {} passed", run.spec.plan_name))
            }
            Some(first) => {
                let plan = &run.spec.plan_name;
                (Health::Warning, "drill.failed", format!("the drill {name} of the plan {plan} didn't pass: {first}"))
            }
        };
        let event = Happening { severity, kind, message, job: Some(run.id), ..Happening::default() };
        run.context.event(run.attached, event).await;
    }
    Ok(ended)
}

/// What is read back of an evidence.
#[derive(serde::Deserialize)]
struct Told {
    started: Timestamp,
    finished: Timestamp,
}

fn sign(run: &Run<'_>, findings: &Findings) -> Result<EvidenceRecord, Failure> {
    let snapshot = run.attached.snapshot();
    let spec = &run.spec.spec;
    let finished = Timestamp::now();
    let started = findings.started.or(run.record.started).unwrap_or(finished);
    let results = results(&snapshot, spec, findings, finished);
    let outcome = outcome(spec, findings, &results);
    let named = |kind: &str, id: String| {
        let name = snapshot.get(kind, &id).map(|document| document.name.clone());
        json!({"id": id, "name": name})
    };
    let assertions: Vec<Value> = results
        .iter()
        .map(|result| {
            json!({
                "type": result.kind, "of": result.of, "wanted": result.wanted, "found": result.found,
                "passed": result.passed, "seconds": result.at.seconds_since(findings.up.unwrap_or(started)),
            })
        })
        .collect();
    let pictures: Vec<Value> = findings
        .pictures
        .iter()
        .map(|picture| json!({"machine": picture.machine, "sha256": picture.sha256, "picture": picture.looks}))
        .collect();
    let mut gateway = named(kind::GATEWAYS, run.spec.gateway.to_string());
    gateway["version"] = env!("CARGO_PKG_VERSION").into();
    let evidence = json!({
        "format": FORMAT,
        "vault": named(kind::VAULTS, run.attached.id().to_string()),
        "plan": {"id": run.spec.plan, "name": run.spec.plan_name},
        "drill": {"id": run.spec.drill, "name": spec.name},
        "run": run.id,
        "gateway": gateway,
        "scheduled": run.spec.scheduled,
        "started": started,
        "finished": finished,
        "passed": outcome.passed,
        "failures": outcome.failures,
        "rto_seconds": outcome.rto_seconds,
        "rpo_seconds": outcome.rpo_seconds,
        "max_rto": spec.max_rto,
        "max_rpo": spec.max_rpo,
        "valid_for": spec.valid_for,
        "point": spec.point,
        "network": spec.network,
        "points": findings.points,
        "machines": findings.machines,
        "assertions": assertions,
        "pictures": pictures,
        "notes": findings.notes,
        "cleaned_up": findings.cleaned,
        "kept": spec.keep && findings.test.is_some() && !findings.cleaned,
    });
    let text = serde_json::to_string_pretty(&evidence).map_err(|error| Failure::Final(error.to_string()))?;
    let key = key(run.context).map_err(|why| Failure::Final(format!("the evidence can't be signed: {why}")))?;
    Ok(EvidenceRecord {
        drill: run.spec.drill,
        signature: STANDARD.encode(key.sign(text.as_bytes()).as_ref()),
        public_key: STANDARD.encode(key.public_key().as_ref()),
        evidence: text,
        pictures: findings.pictures.iter().map(|picture| picture.document.clone()).collect(),
    })
}

/// Writes the public key into the gateway's document.
async fn publish(run: &Run<'_>, public: &str) -> Result<(), Failure> {
    let vault = run.attached.vault()?;
    vault
        .catalog()
        .update_status(kind::GATEWAYS, &run.spec.gateway.to_string(), &mut |document| {
            let mut record: GatewayRecord = status(document);
            if record.evidence_key.as_deref() == Some(public) {
                return None;
            }
            record.evidence_key = Some(public.to_owned());
            serde_json::to_value(&record).ok()
        })
        .await?;
    Ok(())
}

/// Deletes the evidence of a run with its pictures; what is left of them goes when the vault is tidied. What can't be deleted now is left: it is in nobody's way.
pub(crate) async fn forget(vault: &Vault, run: &str) {
    let catalog = vault.catalog();
    let Ok(document) = catalog.get(kind::EVIDENCE, run).await else { return };
    let pictures = document.spec_as::<EvidenceRecord>().map(|record| record.pictures).unwrap_or_default();
    let all = pictures.into_iter().map(|id| (kind::PICTURES, id)).chain([(kind::EVIDENCE, run.to_owned())]);
    for (kind, id) in all {
        if let Err(error) = catalog.delete(kind, &id, None).await {
            tracing::debug!(kind, id, %error, "evidence can't be deleted");
        }
    }
}

/// Deletes the evidence of all runs of a drill that was deleted.
pub(crate) async fn forget_all(attached: &AttachedVault, runs: &[DrillRun]) {
    let Ok(vault) = attached.vault() else { return };
    for run in runs {
        forget(&vault, &run.job_id.to_string()).await;
    }
}
