//! Which agents a process server asks to go to another one.
//!
//! ```text
//! full     its cache is critical, another one has room            ─> half of its agents, those that fill it least first
//! home     an agent of another site, at whose site there is room ─> that agent
//! spread   another one has far fewer agents                      ─> half of the difference
//! ```
//! Process servers don't call one another: each knows of the others what they report to the catalog, which is up to a minute old. So
//! that nobody goes to and fro, an agent stays for a while wherever it comes ([`STAY`]), a server that has sent agents away waits until
//! the others have reported since, and what moves is less than what would turn the difference round. An agent that was sent away and came
//! back found no other one: it is left alone for an hour. Where there is no other process server with room, nobody is sent away.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use lifeboat_model::{GroupId, SiteId, Timestamp};

/// How long an agent stays at least where it came.
const STAY: Duration = Duration::from_secs(300);
/// The same where the cache is about to be full: its agents will wait there in any case.
const STAY_FULL: Duration = Duration::from_secs(20);
/// The same for one that was sent away and came back.
const STAY_BACK: Duration = Duration::from_secs(3600);
/// Time between two times that agents are sent away, at least.
const PAUSE: Duration = Duration::from_secs(30);
/// Agents that are sent away at once, at most: each opens a tenure, which asks the vault.
const BATCH: usize = 16;
/// How many agents more than another one it has at least before some go there.
const DIFFERENCE: u32 = 3;
/// Share of a cache, percent, below which there is room for others' agents.
const ROOM_PERCENT: u64 = 50;

/// An agent that streams here.
#[derive(Clone, Debug)]
pub(super) struct Guest {
    pub(super) group: GroupId,
    pub(super) site: Option<SiteId>,
    /// For how long it has been here.
    pub(super) here_for: Duration,
    /// Its bytes in the cache.
    pub(super) cached_bytes: u64,
    /// Nothing of it can be shipped from here.
    pub(super) stuck: bool,
}

/// This process server.
#[derive(Clone, Debug)]
pub(super) struct Own {
    pub(super) site: Option<SiteId>,
    /// Its cache is about to be full.
    pub(super) full: bool,
}

/// Another process server, as it reported.
#[derive(Clone, Debug)]
pub(super) struct Other {
    pub(super) site: SiteId,
    pub(super) address: String,
    pub(super) takes_more: bool,
    pub(super) agents: u32,
    pub(super) cache: (u64, u64),
    pub(super) measured: Option<Timestamp>,
}

impl Other {
    fn has_room(&self) -> bool {
        let (used, limit) = self.cache;
        self.takes_more && used.saturating_mul(100) < limit.saturating_mul(ROOM_PERCENT)
    }
}

/// Who goes, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Leave {
    pub(super) group: GroupId,
    pub(super) why: String,
}

/// What was sent away before.
#[derive(Debug, Default)]
pub(super) struct Spread {
    /// When agents were sent away last, and what the others had reported by then.
    last: Option<(Duration, BTreeMap<String, Option<Timestamp>>)>,
    /// Groups whose agents were sent away, and when.
    sent: BTreeMap<GroupId, Duration>,
    /// Those that came back, with when they were sent away.
    back: BTreeMap<GroupId, Duration>,
}

impl Spread {
    /// Decides at a time of a clock that never goes back. Who is named is asked to go.
    pub(super) fn decide(&mut self, at: Duration, own: &Own, guests: &[Guest], others: &[Other]) -> Vec<Leave> {
        self.note_who_came_back(at, guests);
        if self.last.as_ref().is_some_and(|(last, _)| at.saturating_sub(*last) < PAUSE) {
            return Vec::new();
        }
        // What one said before agents were sent to it says nothing of those.
        let stale = |other: &Other| {
            self.last
                .as_ref()
                .is_some_and(|(_, known)| known.get(&other.address).is_some_and(|measured| *measured == other.measured))
        };
        let open: Vec<&Other> = others.iter().filter(|other| other.has_room() && !stale(other)).collect();
        let stays = |guest: &&Guest, stay: Duration| {
            let back = self.back.get(&guest.group).is_some_and(|sent| at.saturating_sub(*sent) < STAY_BACK);
            guest.here_for < stay || back
        };
        let leave = full(own, guests, &open, &stays)
            .or_else(|| home(own, guests, &open, &stays))
            .or_else(|| spread(own, guests, &open, &stays))
            .unwrap_or_default();
        if !leave.is_empty() {
            let known = others.iter().map(|other| (other.address.clone(), other.measured)).collect();
            self.last = Some((at, known));
            self.sent.extend(leave.iter().map(|leave| (leave.group, at)));
        }
        leave
    }

    fn note_who_came_back(&mut self, at: Duration, guests: &[Guest]) {
        let here: BTreeSet<GroupId> = guests.iter().map(|guest| guest.group).collect();
        let back = self.sent.iter().filter(|(group, sent)| {
            let since = guests.iter().find(|guest| guest.group == **group).map(|guest| guest.here_for);
            // It has a line that is younger than the one that it was sent away from.
            since.is_some_and(|here_for| here_for < at.saturating_sub(**sent))
        });
        self.back.extend(back.map(|(group, sent)| (*group, *sent)));
        self.sent.retain(|group, sent| {
            !(here.contains(group) && self.back.contains_key(group)) && at.saturating_sub(*sent) < STAY
        });
        self.back.retain(|_, sent| at.saturating_sub(*sent) < STAY_BACK);
    }
}

type Stays<'a> = &'a dyn Fn(&&Guest, Duration) -> bool;

/// Those of this site first, the ones with the fewest agents first.
fn best<'a>(open: &[&'a Other], site: Option<SiteId>) -> Option<&'a Other> {
    open.iter().filter(|other| site.is_none_or(|site| other.site == site)).min_by_key(|other| other.agents).copied()
}

fn full(own: &Own, guests: &[Guest], open: &[&Other], stays: Stays<'_>) -> Option<Vec<Leave>> {
    let there = own.full.then(|| best(open, own.site)).flatten()?;
    // Who writes more than can be shipped fills any cache: the others go, who wait because of it. Only where nothing is shipped it goes too.
    let stuck = guests.iter().all(|guest| guest.stuck);
    let heaviest = guests.iter().max_by_key(|guest| guest.cached_bytes).map(|guest| guest.group).filter(|_| !stuck);
    let may = |guest: &&Guest| !stays(guest, STAY_FULL) && Some(guest.group) != heaviest;
    let mut going: Vec<&Guest> = guests.iter().filter(may).collect();
    going.sort_by_key(|guest| guest.cached_bytes);
    let half = if stuck { guests.len().div_ceil(2) } else { guests.len() / 2 };
    going.truncate(half.min(BATCH));
    let why = format!("the cache here is nearly full, and {} has room", there.address);
    Some(going.into_iter().map(|guest| Leave { group: guest.group, why: why.clone() }).collect())
        .filter(|leave: &Vec<Leave>| !leave.is_empty())
}

fn home(own: &Own, guests: &[Guest], open: &[&Other], stays: Stays<'_>) -> Option<Vec<Leave>> {
    let strangers = guests.iter().filter(|guest| guest.site.is_some() && own.site.is_some() && guest.site != own.site);
    let going = strangers.filter(|guest| !stays(guest, STAY)).filter_map(|guest| {
        let there = best(open, guest.site)?;
        let why = format!("{} stands at the agent's own site", there.address);
        Some(Leave { group: guest.group, why })
    });
    Some(going.take(BATCH).collect()).filter(|leave: &Vec<Leave>| !leave.is_empty())
}

fn spread(own: &Own, guests: &[Guest], open: &[&Other], stays: Stays<'_>) -> Option<Vec<Leave>> {
    let there = best(open, own.site)?;
    let here = u32::try_from(guests.len()).unwrap_or(u32::MAX);
    let difference = here.saturating_sub(there.agents);
    if difference < DIFFERENCE || u64::from(here) * 2 < u64::from(there.agents) * 3 {
        return None;
    }
    let count = usize::try_from(difference / 2).unwrap_or(BATCH).min(BATCH);
    let why = format!("{} has {} agents, and {here} are here", there.address, there.agents);
    let going = guests.iter().filter(|guest| !stays(guest, STAY)).take(count);
    Some(going.map(|guest| Leave { group: guest.group, why: why.clone() }).collect())
        .filter(|leave: &Vec<Leave>| !leave.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn site(number: u8) -> SiteId {
        SiteId::from_bytes([number; 16])
    }

    fn guest(number: u8, here_for: u64) -> Guest {
        Guest {
            group: GroupId::from_bytes([number; 16]),
            site: Some(site(1)),
            here_for: Duration::from_secs(here_for),
            cached_bytes: u64::from(number),
            stuck: false,
        }
    }

    fn other(name: &str, agents: u32, used: u64, measured: i64) -> Other {
        Other {
            site: site(1),
            address: name.to_owned(),
            takes_more: true,
            agents,
            cache: (used, 100),
            measured: Some(Timestamp::from_micros(measured)),
        }
    }

    const LONG: u64 = 10_000;
    const FULL: Own = Own { site: Some(SiteId::from_bytes([1; 16])), full: true };
    const WELL: Own = Own { site: Some(SiteId::from_bytes([1; 16])), full: false };

    fn groups(leave: &[Leave]) -> Vec<u8> {
        leave.iter().map(|leave| leave.group.to_bytes()[0]).collect()
    }

    fn at(second: u64) -> Duration {
        Duration::from_secs(second)
    }

    #[test]
    fn a_full_one_sends_half_to_one_with_room_and_nobody_where_there_is_none() {
        let guests = [guest(1, LONG), guest(2, LONG), guest(3, 5), guest(4, LONG)];
        for nowhere in [vec![], vec![other("b", 0, 60, 1)], vec![Other { takes_more: false, ..other("b", 0, 0, 1) }]] {
            assert_eq!(Spread::default().decide(at(0), &FULL, &guests, &nowhere), [], "{nowhere:?}");
        }
        let elsewhere = Other { site: site(2), ..other("b", 0, 0, 1) };
        assert_eq!(Spread::default().decide(at(0), &FULL, &guests, &[elsewhere]), [], "another site's");
        let leave = Spread::default().decide(at(0), &FULL, &guests, &[other("b", 9, 10, 1)]);
        assert_eq!(groups(&leave), [1, 2], "those that fill it least, and not the one that has just come");
        assert!(leave[0].why.contains("b has room"), "{leave:?}");
        let just_come = [guest(1, 5), guest(9, LONG)];
        assert_eq!(Spread::default().decide(at(0), &FULL, &just_come, &[other("b", 9, 10, 1)]), [], "nor the heaviest");
        // The last one would fill the next one just so, unless it is this one that can't ship.
        let b = [other("b", 9, 10, 1)];
        assert_eq!(Spread::default().decide(at(0), &FULL, &guests[..1], &b), []);
        let stuck = Guest { stuck: true, ..guests[0].clone() };
        assert_eq!(groups(&Spread::default().decide(at(0), &FULL, &[stuck], &b)), [1]);
    }

    #[test]
    fn agents_spread_until_nearly_even_and_not_to_and_fro() {
        // Two servers that decide by what the other one reported every 20 s; whoever leaves arrives at the other one.
        let (mut spreads, mut held) = ([Spread::default(), Spread::default()], [Vec::new(), Vec::new()]);
        held[0] = (0..40).map(|number| (number, at(0))).collect::<Vec<(u8, Duration)>>();
        let (mut reported, mut moves) = ([0_u32; 2], BTreeMap::<u8, u32>::new());
        for second in (0..7200).step_by(5) {
            if second % 20 == 0 {
                reported = [0, 1].map(|one: usize| u32::try_from(held[one].len()).unwrap());
            }
            for one in [0, 1] {
                let now = at(second);
                let guests: Vec<Guest> =
                    held[one].iter().map(|(number, came)| guest(*number, (now - *came).as_secs())).collect();
                let report = i64::try_from(second / 20).unwrap();
                let there = other(if one == 0 { "b" } else { "a" }, reported[1 - one], 0, report);
                for leaving in groups(&spreads[one].decide(now, &WELL, &guests, &[there])) {
                    *moves.entry(leaving).or_default() += 1;
                    held[one].retain(|(number, _)| *number != leaving);
                    held[1 - one].push((leaving, now));
                }
            }
        }
        let counts = held.map(|held| held.len());
        assert!(counts[0].abs_diff(counts[1]) < 3, "{counts:?}");
        assert!(moves.values().all(|times| *times == 1), "each moved once at most: {moves:?}");
    }

    #[test]
    fn a_small_difference_moves_nobody_and_one_newly_come_stays() {
        let here = |count: u8, here_for| (0..count).map(|number| guest(number, here_for)).collect::<Vec<_>>();
        let decide = |guests: &[Guest], there: u32| {
            groups(&Spread::default().decide(at(0), &WELL, guests, &[other("b", there, 0, 1)])).len()
        };
        assert_eq!(decide(&here(2, LONG), 0), 0);
        assert_eq!(decide(&here(3, LONG), 0), 1);
        assert_eq!(decide(&here(12, LONG), 9), 0, "a quarter more is no reason");
        assert_eq!(decide(&here(30, LONG), 10), 10);
        assert_eq!(decide(&here(30, 100), 10), 0);
    }

    #[test]
    fn who_finds_no_other_one_comes_back_and_is_left_alone() {
        let mut spread = Spread::default();
        let there = |report| [other("b", 0, 0, report)];
        let guest = |number, here_for| Guest { stuck: true, ..guest(number, here_for) };
        let first = groups(&spread.decide(at(0), &FULL, &[guest(1, LONG)], &there(1)));
        assert_eq!(first, [1]);
        assert_eq!(spread.decide(at(10), &FULL, &[guest(1, 8)], &there(2)), [], "it came back at once");
        for second in (40..3600).step_by(30) {
            let report = i64::try_from(second).unwrap();
            assert_eq!(spread.decide(at(second), &FULL, &[guest(1, second - 2)], &there(report)), [], "at {second} s");
        }
        assert_eq!(groups(&spread.decide(at(3700), &FULL, &[guest(1, 3698)], &there(9999))), [1], "tried again");
    }

    #[test]
    fn after_agents_were_sent_to_it_another_one_has_to_report_first() {
        let mut spread = Spread::default();
        let guests = [guest(1, LONG), guest(2, LONG), guest(3, LONG), guest(4, LONG)];
        assert_eq!(spread.decide(at(0), &FULL, &guests, &[other("b", 0, 0, 1)]).len(), 2);
        let left = &guests[..2];
        assert_eq!(spread.decide(at(10), &FULL, left, &[other("b", 0, 0, 2)]), [], "not so soon");
        assert_eq!(spread.decide(at(60), &FULL, left, &[other("b", 0, 0, 1)]), [], "it has said nothing since");
        assert_eq!(spread.decide(at(60), &FULL, left, &[other("b", 2, 10, 2)]).len(), 1);
    }

    #[test]
    fn agents_go_home_when_there_is_a_process_server_at_their_site_again() {
        let stranger = Guest { site: Some(site(2)), ..guest(1, LONG) };
        let at_home = Other { site: site(2), ..other("home", 0, 0, 1) };
        let decide =
            |guests: &[Guest], others: &[Other]| groups(&Spread::default().decide(at(0), &WELL, guests, others));
        assert_eq!(decide(&[stranger.clone(), guest(2, LONG)], std::slice::from_ref(&at_home)), [1]);
        assert_eq!(
            decide(&[Guest { here_for: at(100), ..stranger.clone() }], std::slice::from_ref(&at_home)),
            [0_u8; 0]
        );
        let full = Other { cache: (90, 100), ..at_home };
        assert_eq!(decide(&[stranger], &[full, other("here", 0, 0, 1)]), [0_u8; 0], "home has no room");
    }
}
