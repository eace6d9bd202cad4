//! Whether everything is protected, in one sentence.
//!
//! The only place with the wording: `GET /v1/status` carries it, and whoever shows it (terminal, web console, notices) shows the
//! same. Pure: what a gateway knows goes in, with the time. A group counts as protected when it has a recovery point in the vault, no
//! more is lost than its policy allows, and nothing needs a person.

use lifeboat_model::Timestamp;
use lifeboat_model::state::Health;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::types::{ProtectionState, ProtectionStatus, Vault};

/// What other gateways say of their groups is added to by its age from so many seconds on: nobody knows what was written since.
const STALE_SECONDS: f64 = 60.0;
/// As many groups are named; the others are counted.
const NAMED_MAX: usize = 3;

/// Whether everything is protected.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Summary {
    /// `healthy`: everything is protected; `warning`: less than was declared; `critical`: somebody has to act.
    #[schema(value_type = String)]
    pub health: Health,
    /// One sentence for people.
    pub sentence: String,
    /// Groups that have something to protect.
    pub groups: u64,
    /// Those of them that are protected as declared.
    pub groups_protected: u64,
    /// Seconds of acknowledged writes that a disaster now would lose of the group that would lose most; absent when no group
    /// knows.
    pub worst_rpo_seconds: Option<f64>,
    /// That group's name.
    pub worst_rpo_group: Option<String>,
}

/// What is wrong with a group, the worst last.
#[derive(Clone, Debug, PartialEq, PartialOrd)]
enum Standing {
    Protected,
    /// Being set up, or not begun.
    NotYet,
    /// A warning of another kind.
    Warned,
    /// More would be lost than the policy allows.
    Behind,
    /// No recovery point, or nobody writes it any more, or a disk has failed.
    Unprotected,
}

fn standing(group: &ProtectionStatus, rpo: Option<f64>) -> Standing {
    if group.health == Health::Critical || group.state == ProtectionState::Failed {
        return Standing::Unprotected;
    }
    if matches!(group.state, ProtectionState::Pending | ProtectionState::Creating)
        || group.latest_recovery_point.is_none()
    {
        return Standing::NotYet;
    }
    if rpo.is_some_and(|rpo| rpo > group.rpo_threshold_seconds) {
        return Standing::Behind;
    }
    if group.health == Health::Warning { Standing::Warned } else { Standing::Protected }
}

/// Says whether everything is protected, of what a gateway knows at a time: its own health, its vaults, its groups.
#[must_use]
pub fn summarise(own: (Health, &[String]), vaults: &[Vault], groups: &[ProtectionStatus], now: Timestamp) -> Summary {
    let mut judged: Vec<(Standing, Option<f64>, &ProtectionStatus)> = groups
        .iter()
        .filter(|group| group.state != ProtectionState::Deleting)
        .map(|group| {
            let rpo = rpo_at(group, now);
            (standing(group, rpo), rpo, group)
        })
        .collect();
    let worst = judged
        .iter()
        .filter_map(|(_, rpo, group)| rpo.map(|rpo| (rpo, group.group.as_str())))
        .max_by(|left, right| left.0.total_cmp(&right.0));
    let protected = judged.iter().filter(|(standing, _, _)| *standing == Standing::Protected).count();
    let (total, count) = (judged.len(), u64::try_from(judged.len()).unwrap_or(u64::MAX));
    // The worst kind is told, with the groups that it is told of.
    let kind = judged
        .iter()
        .map(|(standing, _, _)| standing.clone())
        .fold(Standing::Protected, |one, other| if other > one { other } else { one });
    judged.retain(|(standing, _, _)| *standing == kind);
    let away: Vec<&Vault> = vaults.iter().filter(|vault| vault.status.health == Health::Critical).collect();
    let (health, sentence) = if vaults.is_empty() {
        (Health::Warning, "Nothing is protected: no vault is attached.".to_owned())
    } else if let Some(vault) = away.first() {
        let loss = worst.map_or_else(String::new, |(rpo, group)| format!("; {}", loss(rpo, Some(group))));
        let why = vault.status.reasons.first().map_or("it isn't usable", String::as_str);
        let name = &vault.spec.name;
        (Health::Critical, format!("Nothing new reaches the vault {name}: {}{loss}.", plain(why)))
    } else if total == 0 {
        (Health::Warning, "Nothing is protected yet: no group is declared.".to_owned())
    } else {
        told(&kind, &judged, total, worst)
    };
    // A gateway may be in trouble while its groups are well.
    let (health, sentence) = match own {
        (own, reasons) if own > health => {
            let why = reasons.first().map_or("it says no reason", String::as_str);
            (own, format!("{}, but this gateway is {own}: {}.", sentence.trim_end_matches('.'), plain(why)))
        }
        _ => (health, sentence),
    };
    Summary {
        health,
        sentence,
        groups: count,
        groups_protected: u64::try_from(protected).unwrap_or(u64::MAX),
        worst_rpo_seconds: worst.map(|(rpo, _)| rpo),
        worst_rpo_group: worst.map(|(_, group)| group.to_owned()),
    }
}

fn told(
    kind: &Standing,
    those: &[(Standing, Option<f64>, &ProtectionStatus)],
    total: usize,
    worst: Option<(f64, &str)>,
) -> (Health, String) {
    let (verb, named) = (if those.len() == 1 { "is" } else { "are" }, names(those));
    let of = if total == 1 { "The group".to_owned() } else { format!("{} of {total} groups", those.len()) };
    let why = those.first().and_then(|(_, _, group)| group.reasons.first()).map(String::as_str);
    let because = why.map_or_else(String::new, |why| format!(": {}", plain(why)));
    let behind = |group: &ProtectionStatus| in_words(group.rpo_threshold_seconds);
    // Only one group's reason is told: several would be a paragraph.
    match kind {
        Standing::Protected => {
            let elsewhere: Vec<&str> = those
                .iter()
                .filter(|(_, _, group)| group.state == ProtectionState::FailedOver)
                .map(|(_, _, group)| group.group.as_str())
                .collect();
            let elsewhere = match elsewhere.as_slice() {
                [] => String::new(),
                [one] => format!(", {one} away from home"),
                several => format!(", {} groups away from home", several.len()),
            };
            let (rpo, group) = worst.unwrap_or_default();
            let group = (total > 1).then_some(group);
            (Health::Healthy, format!("Everything is protected{elsewhere}: {}.", loss(rpo, group)))
        }
        Standing::NotYet => (Health::Warning, format!("{of} {verb} not protected yet ({named}){because}.")),
        Standing::Warned => (
            Health::Warning,
            format!("Everything is protected, but {named} {} attention{because}.", needs(those.len())),
        ),
        Standing::Behind => {
            let most = those.iter().max_by(|left, right| left.1.unwrap_or(0.0).total_cmp(&right.1.unwrap_or(0.0)));
            let said = most.map_or_else(String::new, |(_, rpo, group)| {
                let name = (total > 1).then_some(group.group.as_str());
                format!(": {}, more than the {} of its policy", loss(rpo.unwrap_or(0.0), name), behind(group))
            });
            (Health::Warning, format!("{of} {verb} behind ({named}){said}."))
        }
        Standing::Unprotected => (Health::Critical, format!("{of} {verb} NOT protected ({named}){because}.")),
    }
}

const fn needs(count: usize) -> &'static str {
    if count == 1 { "needs" } else { "need" }
}

fn names(those: &[(Standing, Option<f64>, &ProtectionStatus)]) -> String {
    let mut named: Vec<String> = those.iter().take(NAMED_MAX).map(|(_, _, group)| group.group.clone()).collect();
    if those.len() > NAMED_MAX {
        named.push(format!("{} more", those.len().saturating_sub(NAMED_MAX)));
    }
    named.join(", ")
}

fn loss(rpo: f64, group: Option<&str>) -> String {
    let group = group.map_or_else(String::new, |group| format!(", of {group}"));
    if rpo <= 0.0 {
        "a disaster now would lose nothing".to_owned()
    } else {
        format!("a disaster now would lose at most {} of writes{group}", in_words(rpo))
    }
}

/// A reason within a sentence.
fn plain(reason: &str) -> &str {
    reason.trim_end().trim_end_matches('.')
}

/// What a disaster would lose of a group at a time; an account that is old is added to by its age.
fn rpo_at(group: &ProtectionStatus, now: Timestamp) -> Option<f64> {
    let age = now.seconds_since(group.observed);
    group.landed_rpo_seconds.map(|rpo| if age > STALE_SECONDS { rpo + age } else { rpo })
}

/// A span of time as people say it: `0.4 s`, `45 s`, `6 min 40 s`, `5 h 20 min`, `3 d 4 h`.
#[must_use]
pub fn in_words(seconds: f64) -> String {
    if !seconds.is_finite() {
        return "an unknown time".to_owned();
    }
    let tenths = (seconds.max(0.0) * 10.0).round() / 10.0;
    if tenths < 10.0 && tenths.fract() != 0.0 {
        return format!("{tenths:.1} s");
    }
    let whole = seconds.max(0.0).round();
    let two = |large: f64, unit: &str, small: f64, smaller: &str| {
        let (first, rest) = ((whole / large).floor(), ((whole % large) / small).floor());
        if rest > 0.0 { format!("{first:.0} {unit} {rest:.0} {smaller}") } else { format!("{first:.0} {unit}") }
    };
    match whole {
        ..120.0 => format!("{whole:.0} s"),
        ..7200.0 => two(60.0, "min", 1.0, "s"),
        ..172_800.0 => two(3600.0, "h", 60.0, "min"),
        _ => two(86_400.0, "d", 3600.0, "h"),
    }
}

#[cfg(test)]
mod tests;
