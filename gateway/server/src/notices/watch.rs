//! What lasts and is told: read every few seconds from what this gateway knows, also while the vault is away.
//!
//! A gateway speaks for itself, for the groups that it serves, and for those whose gateway says nothing any more.

use std::sync::Arc;
use std::time::Duration;

use lifeboat_model::state::Health;
use lifeboat_model::{GatewayId, Timestamp};

use super::kept::{Condition, Manners};
use super::{Notice, NoticeState};
use crate::context::{Context, Happening};
use crate::records::{AgentRecord, GatewayRecord, kind, status};
use crate::vaults::AttachedVault;
use crate::view::{self, GroupFacts, SILENCE_MAX};

/// Kinds that are watched for; events of these kinds are not told besides.
pub(super) const KINDS: [&str; 4] = ["gateway.health", "group.health", "group.rpo", "certificate.expires"];
/// Time between two looks.
const LOOK: Duration = Duration::from_secs(2);
/// An authority that ends so soon is told.
const AUTHORITY_LEFT: Duration = Duration::from_secs(30 * 24 * 3600);
/// An agent renews its certificate with a third of its day left: one that has less didn't.
const AGENT_LEFT: Duration = Duration::from_secs(4 * 3600);

pub(super) async fn run(context: Arc<Context>) {
    while context.stop.run_until_cancelled(tokio::time::sleep(LOOK)).await.is_some() {
        // Before that, nothing is open yet, and everything looks bad.
        if !context.is_ready() {
            continue;
        }
        let found = conditions(&context);
        let manners =
            Manners { settle: context.notices.settings.settle, remind_after: context.notices.settings.remind_after };
        let blank = |state, kind: &str, severity, message| Notice::new(&context, state, kind, severity, message);
        let told = context.notices.change(&context.state, |kept| {
            let notices = kept.look(Timestamp::now(), &found, manners, &blank);
            context.notices.queue(kept, &notices);
            notices
        });
        for notice in told {
            remember(&context, &notice).await;
        }
    }
}

/// What nobody else writes down as an event.
async fn remember(context: &Context, notice: &Notice) {
    let kind = match notice.kind.as_str() {
        "group.rpo" => "group.rpo",
        "certificate.expires" => "certificate.expires",
        _ => return,
    };
    let severity = match notice.state {
        NoticeState::Raised => notice.severity,
        NoticeState::Cleared => Health::Healthy,
        NoticeState::Happened | NoticeState::Reminder | NoticeState::Test => return,
    };
    for attached in context.vaults.all() {
        let snapshot = attached.snapshot();
        if notice.group.is_some_and(|group| snapshot.get(kind::GROUPS, &group.to_string()).is_none()) {
            continue;
        }
        let message = notice.message.clone();
        context
            .event(&attached, Happening { severity, kind, message, group: notice.group, ..Happening::default() })
            .await;
    }
}

fn conditions(context: &Context) -> Vec<Condition> {
    let mut found = Vec::new();
    let (health, reasons) = context.health();
    let name = &context.settings.name;
    if health != Health::Healthy {
        found.push(Condition {
            key: "gateway.health".to_owned(),
            kind: "gateway.health",
            severity: health,
            message: format!("the gateway {name} is {health}: {}", reasons.join("; ")),
            over: format!("the gateway {name} is healthy again"),
            group: None,
        });
    }
    let now = Timestamp::now();
    if let Some(end) = context.authority_ends.get() {
        let what = format!("the authority of the gateway {name} (ca.pem)");
        let help = "remove ca.pem and ca.key from its state directory, restart it, and give its clients the new ca.pem";
        found.extend(ending(&format!("certificate/{name}"), &what, *end, now, AUTHORITY_LEFT, help));
    }
    for attached in context.vaults.all() {
        groups(context, &attached, &mut found);
        for document in attached.snapshot().of(kind::AGENTS) {
            let record: AgentRecord = status(document);
            let Some(signed) = record.certificate else { continue };
            let what = format!("the certificate of the agent {}", document.name);
            let help = "see whether it runs and reaches a gateway; after the end it has to enrol again";
            found.extend(ending(&format!("certificate/{}", document.id), &what, signed.expires, now, AGENT_LEFT, help));
        }
    }
    found
}

fn ending(key: &str, what: &str, end: Timestamp, now: Timestamp, left: Duration, help: &str) -> Option<Condition> {
    let seconds = end.seconds_since(now);
    if seconds > left.as_secs_f64() {
        return None;
    }
    let (severity, verb) =
        if seconds <= 0.0 { (Health::Critical, "ended at") } else { (Health::Warning, "wasn't renewed and ends at") };
    Some(Condition {
        key: key.to_owned(),
        kind: "certificate.expires",
        severity,
        message: format!("{what} {verb} {end}: {help}"),
        over: format!("{what} was renewed"),
        group: None,
    })
}

/// Whether this gateway speaks for a group.
fn is_ours(context: &Context, attached: &AttachedVault, facts: &GroupFacts, own: Option<GatewayId>) -> bool {
    let Some(gateway) = facts.record.active.as_ref().map(|active| active.gateway).or(facts.home) else { return false };
    if Some(gateway) == own {
        return true;
    }
    let snapshot = attached.snapshot();
    let record = snapshot.get(kind::GATEWAYS, &gateway.to_string()).map(|document| status::<GatewayRecord>(document));
    match record {
        // An agent has no voice of its own: its process server speaks.
        Some(record) if record.agent => context.tells(gateway),
        Some(record) => record.process_id.is_some() && !view::is_alive(&record, SILENCE_MAX),
        None => false,
    }
}

fn groups(context: &Context, attached: &AttachedVault, found: &mut Vec<Condition>) {
    let own = context.own_gateway(attached);
    for document in attached.snapshot().of(kind::GROUPS) {
        let Ok(facts) = view::group_facts(context, attached, document) else { continue };
        if !is_ours(context, attached, &facts, own) {
            continue;
        }
        let (id, name) = (facts.id, &facts.spec.name);
        if facts.health != Health::Healthy {
            found.push(Condition {
                key: format!("group.health/{id}"),
                kind: "group.health",
                severity: facts.health,
                message: format!("the group {name} is {}: {}", facts.health, facts.reasons.join("; ")),
                over: format!("the group {name} is healthy again"),
                group: Some(id),
            });
        }
        let threshold = facts.rpo_threshold.as_secs_f64();
        let told = view::protection(context, &facts);
        let served = facts.record.active.as_ref().map(|active| active.gateway) == own;
        let rpo = if served { told.landed_rpo_seconds } else { told.applied_rpo_seconds };
        if let Some(rpo) = rpo.filter(|rpo| *rpo > threshold) {
            found.push(Condition {
                key: format!("group.rpo/{id}"),
                kind: "group.rpo",
                severity: Health::Warning,
                message: format!(
                    "a disaster now would lose {rpo:.0} s of writes of the group {name}, more than its policy's {threshold:.0} s"
                ),
                over: format!("the RPO of the group {name} is within its policy's {threshold:.0} s again"),
                group: Some(id),
            });
        }
    }
}
