//! From what a person types to what the API wants: names to objects, ages to times, lists up to a limit.

use std::str::FromStr;

use lifeboat_api::client::{Collection, Query};
use lifeboat_api::validate::parse_duration;
use lifeboat_api::{
    Agent, Approval, Client, Drill, Gateway, Group, Machine, Network, NetworkMapping, Page, Plan, Policy,
    RegistrationKey, Resource, Site, Token, Vault, Volume,
};
use lifeboat_model::{
    AgentId, ApprovalId, DrillId, GatewayId, GroupId, MachineId, NetworkId, NetworkMappingId, PlanId, PolicyId,
    RegistrationKeyId, SiteId, Timestamp, TokenId, VaultId, VolumeId,
};
use serde::de::DeserializeOwned;

use crate::failure::{Exit, Failure, Result};

/// Most objects that a gateway gives at once.
const PAGE_MAX: usize = 1000;

/// A kind of object that people name.
pub(crate) trait Noun: Resource + Collection {
    /// Its id.
    type Id: FromStr;
    /// The word for it; also the verb that lists it.
    const NOUN: &'static str;
}

macro_rules! nouns {
    ($($name:ident, $id:ident, $noun:literal;)*) => {$(
        impl Noun for $name {
            type Id = $id;
            const NOUN: &'static str = $noun;
        }
    )*};
}

nouns! {
    Vault, VaultId, "vault";
    Site, SiteId, "site";
    Gateway, GatewayId, "gateway";
    Policy, PolicyId, "policy";
    Group, GroupId, "group";
    Volume, VolumeId, "volume";
    Network, NetworkId, "network";
    NetworkMapping, NetworkMappingId, "network-mapping";
    Machine, MachineId, "machine";
    Plan, PlanId, "plan";
    Drill, DrillId, "drill";
    Token, TokenId, "token";
    RegistrationKey, RegistrationKeyId, "registration-key";
    Agent, AgentId, "agent";
    Approval, ApprovalId, "approval";
}

/// The object with this id or name.
///
/// # Errors
/// `NotFound`, `Conflict` when there are several of that name, and the client's.
pub(crate) async fn find<R: Noun>(client: &Client, text: &str) -> Result<R> {
    if text.parse::<R::Id>().is_ok() {
        return Ok(client.read(text).await?);
    }
    match client.find_by_name(text).await? {
        Some(found) => Ok(found),
        None => Err(unknown::<R>(client, text).await),
    }
}

/// Says that there is none, and which one may have been meant.
async fn unknown<R: Noun>(client: &Client, text: &str) -> Failure {
    // A list that can't be read is no reason to say anything else.
    let all: Vec<R> = client.list(R::PATH, &[]).await.unwrap_or_default();
    let meant = closest(text, all.iter().map(Resource::name));
    let meant = meant.map_or_else(String::new, |name| format!("did you mean {name:?}? "));
    Failure::not_found(format!(
        "there is no {0} {text:?} here: {meant}`lifeboat {0} list` shows those that there are",
        R::NOUN
    ))
}

/// The name that is most like a text, if one is at all: as few letters changed, swapped, left out or too many as a slip of the
/// hand makes, or the one that begins or ends with it.
fn closest<'a>(text: &str, names: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let asked = text.to_lowercase();
    let allowed = (asked.chars().count() / 3).max(1);
    let mut best: Option<(usize, &str)> = None;
    for name in names {
        let lower = name.to_lowercase();
        let part =
            asked.len() >= 3 && (lower.starts_with(&asked) || lower.ends_with(&asked) || asked.starts_with(&lower));
        let away = if part { 1 } else { distance(&asked, &lower) };
        if away <= allowed && best.is_none_or(|(least, _)| away < least) {
            best = Some((away, name));
        }
    }
    best.map(|(_, name)| name)
}

/// Letters to change, insert, leave out or swap with their neighbour to get from one text to the other (Damerau and Levenshtein,
/// without editing a swapped pair again).
fn distance(from: &str, to: &str) -> usize {
    let (from, to): (Vec<char>, Vec<char>) = (from.chars().collect(), to.chars().collect());
    let mut rows: Vec<Vec<usize>> = vec![(0..=to.len()).collect()];
    for (i, a) in from.iter().enumerate() {
        let mut row = vec![i.saturating_add(1)];
        for (j, b) in to.iter().enumerate() {
            let above = |up: usize, left: usize| -> usize {
                let row = rows.len().checked_sub(up).and_then(|row| rows.get(row));
                row.and_then(|row| j.saturating_add(1).checked_sub(left).and_then(|at| row.get(at)).copied())
                    .unwrap_or(usize::MAX)
            };
            let before = row.last().copied().unwrap_or(usize::MAX);
            let mut least = above(1, 1).saturating_add(usize::from(a != b));
            least = least.min(above(1, 0).saturating_add(1)).min(before.saturating_add(1));
            let swapped = i > 0 && j > 0 && from.get(i - 1) == Some(b) && to.get(j - 1) == Some(a);
            if swapped {
                least = least.min(above(2, 2).saturating_add(1));
            }
            row.push(least);
        }
        rows.push(row);
    }
    rows.last().and_then(|row| row.last()).copied().unwrap_or(usize::MAX)
}

/// The id of a group, from its id, its name, or the name or id of one of its volumes.
///
/// # Errors
/// As for [`find`].
pub(crate) async fn group(client: &Client, text: &str) -> Result<String> {
    if text.parse::<GroupId>().is_ok() {
        return Ok(text.to_owned());
    }
    if text.parse::<VolumeId>().is_err()
        && let Some(group) = client.find_by_name::<Group>(text).await?
    {
        return Ok(group.id.to_string());
    }
    let volume = match find::<Volume>(client, text).await {
        Err(failure) if failure.exit() == Exit::NotFound => {
            let groups: Vec<Group> = client.list(Group::PATH, &[]).await.unwrap_or_default();
            let meant = closest(text, groups.iter().map(Resource::name));
            let meant = meant.map_or_else(String::new, |name| format!("did you mean {name:?}? "));
            return Err(Failure::not_found(format!(
                "there is no group and no volume {text:?} here: {meant}`lifeboat group list` shows the groups"
            )));
        }
        found => found?,
    };
    volume.status.group_id.map(|id| id.to_string()).ok_or_else(|| {
        Failure::new(
            Exit::Conflict,
            format!("the volume {} has no group yet: wait until it is protected", volume.spec.name),
        )
    })
}

/// The network with this id or name; `SITE/NAME` where several sites have one of that name.
///
/// # Errors
/// As for [`find`].
pub(crate) async fn network(client: &Client, text: &str) -> Result<Network> {
    let Some((site, name)) = text.split_once('/') else { return find(client, text).await };
    let all: Vec<Network> = client.list(Network::PATH, &[("name", name.to_owned())]).await?;
    let found = all.into_iter().find(|network| network.status.site.as_deref() == Some(site));
    match found {
        Some(found) => Ok(found),
        None => Err(unknown::<Network>(client, text).await),
    }
}

/// The vault that was named, or the only one that is attached.
///
/// # Errors
/// `NotFound` without any, `Usage` when there are several and none was named.
pub(crate) async fn vault(client: &Client, named: Option<&str>) -> Result<Vault> {
    if let Some(text) = named {
        return find(client, text).await;
    }
    let mut all: Vec<Vault> = client.list(Vault::PATH, &[]).await?;
    match (all.pop(), all.is_empty()) {
        (Some(only), true) => Ok(only),
        (None, _) => Err(Failure::not_found(
            "this gateway has no vault: open one with `lifeboat vault open`, or make one with `lifeboat vault create`",
        )),
        (Some(_), false) => Err(Failure::usage("this gateway has several vaults: say which with --vault")),
    }
}

/// A time: RFC 3339, or an age such as `1h30m` before now.
///
/// # Errors
/// What is wrong with it, for the command line's parser.
pub(crate) fn time(text: &str) -> Result<Timestamp, String> {
    if let Ok(time) = text.parse() {
        return Ok(time);
    }
    let age = parse_duration(text)
        .map_err(|_| "expected a time such as 2026-11-20T10:05:00Z, or an age such as 15m or 2d".to_owned())?;
    let micros = i64::try_from(age.as_micros()).map_err(|_| "is before the beginning of the calendar".to_owned())?;
    Ok(Timestamp::from_micros(Timestamp::now().as_micros().saturating_sub(micros)))
}

/// At most `limit` objects of a list, in the gateway's order, and whether there are more.
///
/// # Errors
/// The client's.
pub(crate) async fn list<T: DeserializeOwned>(
    client: &Client,
    path: &str,
    query: Query<'_>,
    limit: usize,
) -> Result<(Vec<T>, bool)> {
    let mut items: Vec<T> = Vec::new();
    let mut token: Option<String> = None;
    loop {
        let missing = limit.saturating_sub(items.len());
        let mut parameters = query.to_vec();
        parameters.push(("limit", missing.clamp(1, PAGE_MAX).to_string()));
        if let Some(token) = token.take() {
            parameters.push(("page_token", token));
        }
        let page: Page<T> = client.get(path, &parameters).await?;
        items.extend(page.items);
        match page.next_page_token {
            None => return Ok((items, false)),
            Some(_) if items.len() >= limit => return Ok((items, true)),
            next => token = next,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slip_of_the_hand_is_understood() {
        let names = ["ledger", "web", "db-master", "shop"];
        let meant = |text: &str| closest(text, names.into_iter());
        for (text, name) in [
            ("legder", "ledger"),
            ("Ledger", "ledger"),
            ("ledgr", "ledger"),
            ("wbe", "web"),
            ("db-mastre", "db-master"),
            ("master", "db-master"),
            ("led", "ledger"),
        ] {
            assert_eq!(meant(text), Some(name), "{text}");
        }
        for text in ["x", "mail", "archive", ""] {
            assert_eq!(meant(text), None, "{text}");
        }
        let away =
            [("", ""), ("a", ""), ("ab", "ba"), ("kitten", "sitting"), ("ca", "abc")].map(|(a, b)| distance(a, b));
        assert_eq!(away, [0, 1, 1, 3, 3]);
    }

    #[test]
    fn times_are_absolute_or_ages() {
        let absolute = time("2026-11-20T10:05:00Z").expect("a time");
        assert_eq!(absolute.to_string(), "2026-11-20T10:05:00Z");
        let age = Timestamp::now().seconds_since(time("1h").expect("an age"));
        assert!((3599.0..3660.0).contains(&age), "{age}");
        assert!(time("yesterday").expect_err("no time").contains("2026-11-20T10:05:00Z"));
    }
}
