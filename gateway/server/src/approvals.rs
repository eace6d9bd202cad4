//! Acts that destroy, where a vault wants a second person for them; and what an immutable vault lets nobody do.
//!
//! ```text
//! request ──approval required──> pending ──approve──> approved ──the same request, by who asked first──> used: it is done
//!                                   └──reject──> rejected     └── a day ──> expired
//! ```
//! What is approved is one text: the request, and what of its body decides what is lost. The same person's same request finds
//! its approval by that text and uses it up, which the catalog's create-only revisions let one request do. A request that
//! fails afterwards has used it up all the same.
//!
//! Two tokens are two people; all administrators' tokens are one, since who is root on one gateway has the vault's key. So that
//! nobody becomes a second person by making or taking over a token, those acts need an approval too.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use lifeboat_api::validate::{format_duration, retention_tiers};
use lifeboat_api::{
    ApprovalState, AuditKind, Immutability, Principal, PrincipalKind, Problem, ProblemCode, RetentionRule, Role,
    VaultSpec,
};
use lifeboat_model::state::Health;
use lifeboat_model::{ApprovalId, Timestamp};
use lifeboat_vault::{Catalog, Document};

use crate::audit::{self, Entry};
use crate::auth::Identity;
use crate::context::{Context, Happening};
use crate::http::error::{ApiError, ApiResult};
use crate::http::tokens::value;
use crate::records::{ApprovalRecord, ApprovalSpecRecord, TokenRecord, TokenSpecRecord, kind, status};
use crate::vaults::AttachedVault;

/// How long an approval can be decided, and then used.
const VALID: Duration = Duration::from_secs(24 * 3600);
/// Approvals that may wait for a decision in a vault.
const PENDING_MAX: usize = 256;

/// Something that destroys.
#[derive(Clone, Debug)]
pub(crate) struct Act {
    /// The request and what of its body matters.
    pub(crate) exact: String,
    /// For people.
    pub(crate) name: String,
}

fn spec(attached: &AttachedVault) -> Option<VaultSpec> {
    attached.snapshot().get(kind::VAULTS, &attached.id().to_string())?.spec_as().ok()
}

/// How long what the vault holds can't be destroyed.
pub(crate) fn immutability(attached: &AttachedVault) -> Option<Immutability> {
    spec(attached)?.immutability
}

/// Whether two principals are one person, as far as can be told.
pub(crate) fn is_same(a: &Principal, b: &Principal) -> bool {
    a.kind == b.kind && (a.kind == PrincipalKind::Administrator || a.id == b.id)
}

/// Goes on when nobody's word is needed for it, or when it was given; uses it up then.
///
/// # Errors
/// `ApprovalRequired`, naming the approval; `Conflict` when it was rejected.
pub(crate) async fn demand(
    context: &Arc<Context>,
    attached: &Arc<AttachedVault>,
    who: &Identity,
    act: Act,
) -> ApiResult<()> {
    if !attached.snapshot().is_read() {
        attached.refresh().await?;
    }
    if !spec(attached).is_some_and(|spec| spec.second_approval) {
        return Ok(());
    }
    let vault = attached.vault()?;
    let (catalog, now) = (vault.catalog(), Timestamp::now());
    let all = catalog.list(kind::APPROVALS).await?;
    let hers = |document: &&Arc<Document>| {
        document
            .spec_as::<ApprovalSpecRecord>()
            .is_ok_and(|spec| spec.act == act.exact && is_same(&spec.requested_by, &who.principal))
    };
    let mut waiting = None;
    for document in all.iter().filter(hers) {
        let Ok(record) = document.status_as::<ApprovalRecord>() else { continue };
        match record.state_at(now) {
            ApprovalState::Approved => {
                if let Some(by) = use_up(catalog, &document.id, now).await? {
                    let detail = Some(format!("{} ({}): approved by {by}", act.name, document.id));
                    let entry = Entry::new(context, AuditKind::Approved);
                    let (who, what) = (Some(who.principal.clone()), Some(act.exact));
                    audit::record(context, Entry { who, what, detail, ..entry }).await?;
                    return Ok(());
                }
            }
            ApprovalState::Pending => waiting = Some(document.id.clone()),
            ApprovalState::Rejected if record.expires > now => {
                let by = record.decided_by.map_or_else(|| "somebody".to_owned(), |by| by.to_string());
                let why = if record.comment.is_empty() { String::new() } else { format!(": {}", record.comment) };
                return Err(ApiError::conflict(format!(
                    "{} was asked for before, and {by} rejected it ({}){why}; it can be asked for again after {}",
                    act.name, document.id, record.expires
                )));
            }
            ApprovalState::Rejected | ApprovalState::Used | ApprovalState::Expired => {}
        }
    }
    let id = match waiting {
        Some(id) => id,
        None => {
            let id = ask(catalog, &all, who, &act, now).await?;
            let message = format!(
                "{} asks for {}: a security administrator other than that one has to approve it within a day (`lifeboat approval approve {id}`)",
                who.principal, act.name
            );
            let event =
                Happening { severity: Health::Warning, kind: "approval.requested", message, ..Happening::default() };
            context.event(attached, event).await;
            id
        }
    };
    let detail = format!(
        "{} needs a second person: a security administrator other than {} has to approve it (`lifeboat approval approve {id}`) \
         within a day; then send the same request again",
        act.name, who.principal
    );
    let mut problem = Problem::new(ProblemCode::ApprovalRequired, detail);
    problem.approval = Some(id);
    Err(problem.into())
}

async fn ask(catalog: &Catalog, all: &[Arc<Document>], who: &Identity, act: &Act, now: Timestamp) -> ApiResult<String> {
    let is_pending = |document: &&Arc<Document>| {
        document.status_as::<ApprovalRecord>().is_ok_and(|record| record.state_at(now) == ApprovalState::Pending)
    };
    if all.iter().filter(is_pending).count() >= PENDING_MAX {
        return Err(ApiError::conflict(format!(
            "{PENDING_MAX} approvals wait for a decision already, which is as many as a vault takes: have them decided first \
             (`lifeboat approval list`)"
        )));
    }
    let id = ApprovalId::new().to_string();
    let spec = ApprovalSpecRecord { act: act.exact.clone(), requested_by: who.principal.clone() };
    let record = ApprovalRecord {
        state: ApprovalState::Pending,
        expires: later(now),
        decided_by: None,
        decided: None,
        comment: String::new(),
    };
    catalog.create(kind::APPROVALS, &id, &act.name, value(&spec)?, value(&record)?).await?;
    Ok(id)
}

pub(crate) fn later(now: Timestamp) -> Timestamp {
    Timestamp::from_micros(now.as_micros().saturating_add(i64::try_from(VALID.as_micros()).unwrap_or(i64::MAX)))
}

/// Uses an approval up, if nobody else has; gives who granted it then.
async fn use_up(catalog: &Catalog, id: &str, now: Timestamp) -> ApiResult<Option<String>> {
    let mut by = None;
    let mut change = |document: &Document| {
        by = None;
        let mut record: ApprovalRecord = document.status_as().ok()?;
        if record.state_at(now) != ApprovalState::Approved {
            return None;
        }
        record.state = ApprovalState::Used;
        by = record.decided_by.as_ref().map(ToString::to_string);
        serde_json::to_value(&record).ok()
    };
    catalog.update_status(kind::APPROVALS, id, &mut change).await?;
    Ok(by)
}

/// Whether somebody else than this one could approve what it asks for.
pub(crate) fn has_second(attached: &AttachedVault, who: &Principal) -> bool {
    let now = Timestamp::now();
    let secures = |document: &Arc<Document>| {
        let record: TokenRecord = status(document);
        secures(document) && !record.is_expired(now)
    };
    // For who has a token, the administrators are somebody else.
    who.kind != PrincipalKind::Administrator || attached.snapshot().of(kind::TOKENS).iter().any(secures)
}

/// Whether a token's document gives the role that approves.
pub(crate) fn secures(document: &Document) -> bool {
    document.spec_as::<TokenSpecRecord>().unwrap_or_default().known_roles().contains(&Role::SecurityAdministrator)
}

/// What a schedule keeps less of than another: from which age on. `None`: nothing.
pub(crate) fn cut_from(old: &[RetentionRule], new: &[RetentionRule]) -> Option<Duration> {
    let (old, new) = (retention_tiers(old), retention_tiers(new));
    let grain = |tiers: &[(Duration, Duration)], age: Duration| {
        tiers.iter().find(|(keep, _)| *keep >= age).map(|(_, every)| *every)
    };
    // What a schedule keeps changes only where a rule ends.
    let ages: BTreeSet<Duration> =
        old.iter().chain(&new).flat_map(|(keep, _)| [*keep, *keep + Duration::from_secs(1)]).collect();
    ages.into_iter().find(|age| match (grain(&old, *age), grain(&new, *age)) {
        (Some(before), Some(after)) => after > before,
        (Some(_), None) => true,
        (None, _) => false,
    })
}

/// A schedule in a few words.
pub(crate) fn in_words(rules: &[RetentionRule]) -> String {
    let rules: Vec<String> = rules.iter().map(|rule| format!("{} for {}", rule.every, rule.keep_for)).collect();
    rules.join(", then ")
}

/// Refuses a schedule that keeps points shorter than an immutable vault wants.
pub(crate) fn refuse_short(attached: &AttachedVault, rules: &[RetentionRule]) -> ApiResult<()> {
    let Some(immutability) = immutability(attached) else { return Ok(()) };
    match too_short(rules, immutability) {
        None => Ok(()),
        Some(horizon) => Err(ApiError::field(
            "retention",
            format!(
                "reaches back {}, and the vault {} is immutable for {} days: add a rule that keeps points for at least that long",
                format_duration(horizon),
                attached.attachment.name,
                immutability.days
            ),
        )),
    }
}

/// How far back a schedule reaches, when that is less than a vault is immutable for.
pub(crate) fn too_short(rules: &[RetentionRule], immutability: Immutability) -> Option<Duration> {
    let horizon = retention_tiers(rules).into_iter().map(|(keep, _)| keep).max()?;
    (horizon < immutability.duration()).then_some(horizon)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules(text: &[(&str, &str)]) -> Vec<RetentionRule> {
        text.iter()
            .map(|(every, keep_for)| RetentionRule { every: (*every).to_owned(), keep_for: (*keep_for).to_owned() })
            .collect()
    }

    #[test]
    fn a_schedule_is_cut_where_it_keeps_less() {
        let old = rules(&[("all", "1h"), ("5m", "24h"), ("1h", "15d")]);
        let cut = |new: &[(&str, &str)]| cut_from(&old, &rules(new)).map(|age| age.as_secs());
        assert_eq!(cut(&[("all", "1h"), ("5m", "24h"), ("1h", "15d")]), None, "the same");
        assert_eq!(cut(&[("all", "15d")]), None, "more of everything");
        assert_eq!(cut(&[("all", "2h"), ("5m", "24h"), ("1h", "30d")]), None, "more");
        assert_eq!(cut(&[("all", "30m"), ("5m", "24h"), ("1h", "15d")]), Some(1801), "less of the newest");
        assert_eq!(cut(&[("all", "1h"), ("10m", "24h"), ("1h", "15d")]), Some(3601), "coarser");
        assert_eq!(cut(&[("all", "1h"), ("5m", "24h"), ("1h", "14d")]), Some(14 * 86_400 + 1), "shorter");
        assert_eq!(cut(&[("all", "1h")]), Some(3601));
        assert_eq!(cut_from(&rules(&[("all", "1h")]), &old), None);
    }

    #[test]
    fn all_administrators_are_one_person() {
        let administrator = |name: &str| Principal { kind: PrincipalKind::Administrator, id: None, name: name.into() };
        let token = |id: &str| Principal { kind: PrincipalKind::Token, id: Some(id.into()), name: "same name".into() };
        assert!(is_same(&administrator("a"), &administrator("b")));
        assert!(is_same(&token("tok-1"), &token("tok-1")));
        assert!(!is_same(&token("tok-1"), &token("tok-2")));
        assert!(!is_same(&token("tok-1"), &administrator("a")));
    }
}
