//! Which process server an agent tries first, of those that answered: a rule without a clock or a network.
//!
//! In this order: those for every day; those that didn't send it away; those that aren't critical; those with the fewest agents; and
//! among equals the one whose turn it is by the agent's id, so that many agents that come at once don't all go to one.

use std::cmp::Reverse;
use std::time::Duration;

use lifeboat_engine::relay::Standing;

/// From here on a process server takes agents only where there is no other.
const CRITICAL: u8 = 2;

/// A process server that answered.
#[derive(Clone, Debug)]
pub(super) struct Candidate {
    pub(super) server: String,
    /// It is of the settings, or at the agent's own site.
    pub(super) every_day: bool,
    /// How it is; nothing from one that is too old to say.
    pub(super) standing: Option<Standing>,
    /// For how long it has been avoided.
    pub(super) avoided: Option<Duration>,
    /// Its place in this agent's own order.
    pub(super) turn: usize,
}

/// The candidates as they are to be tried.
pub(super) fn in_order<T>(mut found: Vec<(Candidate, T)>) -> Vec<(Candidate, T)> {
    // Who doesn't say how many there are counts like the one with the fewest.
    let fewest = found.iter().filter_map(|(one, _)| one.standing.as_ref()).map(|one| one.agents).min().unwrap_or(0);
    found.sort_by_key(|(one, _)| {
        let (health, agents) = one.standing.as_ref().map_or((0, fewest), |one| (one.health, one.agents));
        // A tenth more is as good as equal.
        let agents = if agents <= fewest.saturating_add(fewest / 10) { 0 } else { agents };
        let avoided = one.avoided.map(Reverse);
        (!one.every_day, avoided.is_some(), avoided, health >= CRITICAL, agents, one.turn)
    });
    found
}

/// Where in a list of so many an agent begins.
pub(super) fn turn(id: &[u8], servers: usize) -> usize {
    // Ids begin with their time: what is at the end differs between machines that enrolled together.
    let sum = id.iter().fold(0_usize, |sum, byte| sum.wrapping_mul(31).wrapping_add(usize::from(*byte)));
    sum.checked_rem(servers).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn candidate(server: &str, agents: u32) -> Candidate {
        let standing = Some(Standing { agents, ..Standing::default() });
        Candidate { server: server.to_owned(), every_day: true, standing, avoided: None, turn: 0 }
    }

    fn order(found: Vec<Candidate>) -> Vec<String> {
        in_order(found.into_iter().map(|one| (one, ())).collect()).into_iter().map(|(one, ())| one.server).collect()
    }

    #[test]
    fn agents_spread_over_their_process_servers() {
        let mut of = [0; 3];
        for agent in 0_u8..=255 {
            of[turn(&[1, 2, 3, agent], 3)] += 1;
        }
        assert!(of.iter().all(|agents| (80..=90).contains(agents)), "{of:?}");
        assert_eq!(turn(&[7; 16], 0), 0);
    }

    #[test]
    fn the_one_with_the_fewest_agents_comes_first_and_among_equals_the_one_whose_turn_it_is() {
        let (a, b) = (candidate("a", 5), candidate("b", 2));
        assert_eq!(order(vec![a, b]), ["b", "a"]);
        let equal = |server, agents, turn| Candidate { turn, ..candidate(server, agents) };
        assert_eq!(order(vec![equal("a", 100, 1), equal("b", 108, 0)]), ["b", "a"], "a tenth is nothing");
        let old = Candidate { standing: None, turn: 1, ..candidate("old", 0) };
        assert_eq!(order(vec![old, equal("a", 7, 0), equal("b", 20, 2)]), ["a", "old", "b"]);
    }

    #[test]
    fn a_critical_one_one_that_sent_it_away_and_one_of_another_site_come_last_and_are_still_there() {
        let critical =
            Candidate { standing: Some(Standing { health: 2, ..Standing::default() }), ..candidate("critical", 0) };
        let away = |server, seconds| Candidate { avoided: Some(Duration::from_secs(seconds)), ..candidate(server, 0) };
        let far = Candidate { every_day: false, ..candidate("far", 0) };
        let found = vec![far, away("just", 1), critical, away("before", 99), candidate("busy", 50)];
        assert_eq!(order(found), ["busy", "critical", "before", "just", "far"]);
        assert_eq!(order(vec![away("only", 1)]), ["only"]);
    }
}
