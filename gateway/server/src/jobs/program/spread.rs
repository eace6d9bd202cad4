//! Which gateway each group of a program goes to, so that machines of one anti-affinity group run on different hosts.
//!
//! Machines run where their group's volumes are, so groups are what is spread. It is decided once, when a job is asked for, and
//! written into it. Without machines that are to be kept apart everything goes to the gateway that was asked; so does every
//! group that has none of them. A group that is at one of the hosts already stays there: an earlier try moved it.
//!
//! Of all ways the one with the fewest machines together is taken, and of those the one that leaves the most groups to the
//! gateway that was asked. What can't be kept apart is said, and stops nothing.

use std::collections::{BTreeMap, BTreeSet};

use lifeboat_api::{GatewaySpec, MachineSpec};
use lifeboat_model::state::Health;
use lifeboat_model::{GatewayId, GroupId, SiteId};

use crate::jobs::SILENCE;
use crate::records::{GatewayRecord, RecoveryRecord, kind, status};
use crate::vaults::Snapshot;
use crate::view;

/// Ways that are looked at before the best so far is taken: more than enough for dozens of groups on a few hosts.
const LOOKS_MAX: u32 = 20_000;

/// Where groups go, and which machines meet there although they are to be kept apart.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Spread {
    /// Groups that aren't in it go to the gateway that was asked.
    pub(crate) at: BTreeMap<GroupId, GatewayId>,
    pub(crate) together: Vec<String>,
}

/// The gateways of a site that can run machines: the one that was asked first, then those that were heard of lately and are
/// well.
pub(crate) fn hosts(snapshot: &Snapshot, site: SiteId, asked: Option<GatewayId>) -> Vec<GatewayId> {
    let mut found: Vec<(bool, &str, GatewayId)> = snapshot
        .of(kind::GATEWAYS)
        .iter()
        .filter(|document| document.spec_as::<GatewaySpec>().is_ok_and(|spec| spec.site_id == site))
        .filter_map(|document| {
            let id: GatewayId = document.id.parse().ok()?;
            let record: GatewayRecord = status(document);
            let first = Some(id) == asked;
            let well = first || (view::is_alive(&record, SILENCE) && record.health != Health::Critical);
            (record.compute.is_some() && well).then_some((!first, document.name.as_str(), id))
        })
        .collect();
    found.sort_unstable();
    found.into_iter().map(|(_, _, id)| id).collect()
}

/// The name under which a machine is kept apart from others.
fn label(spec: &MachineSpec) -> Option<&str> {
    spec.target.as_ref()?.anti_affinity_group.as_deref()
}

/// Machines that run at hosts already and don't move: where, and as what they are declared.
pub(crate) fn others<'a>(
    snapshot: &Snapshot,
    machines: impl Iterator<Item = &'a MachineSpec>,
) -> Vec<(GatewayId, MachineSpec)> {
    let moving: BTreeSet<&str> = machines.map(|spec| spec.name.as_str()).collect();
    let documents = snapshot.of(kind::MACHINES).iter().filter(|document| !moving.contains(document.name.as_str()));
    documents
        .filter_map(|document| {
            let record: RecoveryRecord = status(document);
            Some((record.run?.gateway_id, document.spec_as().ok()?))
        })
        .collect()
}

/// What is spread: the machines of groups that meet others of their kind.
struct Puzzle<'a> {
    /// The labels of each group's machines, with their names; groups that have much of it first.
    groups: Vec<(GroupId, Vec<(&'a str, &'a str)>)>,
    /// The hosts that each may go to.
    choices: Vec<Vec<usize>>,
    looks: u32,
    best: Option<((u32, u32), Vec<usize>)>,
}

/// How many machines of each label are at each host.
type Seats<'a> = BTreeMap<(usize, &'a str), u32>;

impl<'a> Puzzle<'a> {
    /// Gives the groups from `next` on their hosts, in every way that may be better than the best so far.
    fn solve(&mut self, cost: (u32, u32), taken: &mut Vec<usize>, seats: &mut Seats<'a>) {
        if self.best.as_ref().is_some_and(|(best, _)| cost >= *best) {
            return;
        }
        let next = taken.len();
        let (Some((_, machines)), Some(choices)) = (self.groups.get(next).cloned(), self.choices.get(next).cloned())
        else {
            self.best = Some((cost, taken.clone()));
            return;
        };
        let with = |host: usize| {
            let mut after = seats.clone();
            let (mut pairs, mut away) = cost;
            for (label, _) in &machines {
                let seated = after.entry((host, label)).or_default();
                pairs = pairs.saturating_add(*seated);
                *seated = seated.saturating_add(1);
            }
            away = away.saturating_add(u32::from(host != 0));
            ((pairs, away), host, after)
        };
        let mut ways: Vec<_> = choices.into_iter().map(with).collect();
        ways.sort_by_key(|(cost, host, _)| (*cost, *host));
        for (cost, host, mut after) in ways {
            self.looks = self.looks.saturating_add(1);
            if self.looks > LOOKS_MAX && self.best.is_some() {
                return;
            }
            taken.push(host);
            self.solve(cost, taken, &mut after);
            taken.pop();
        }
    }
}

/// A machine at a host: the group that it moves with, and its name; one that runs there already has none.
type Met<'a> = (Option<GroupId>, &'a str);

/// Decides where groups go. `hosts` begins with the gateway that was asked; `settled` are groups that are at a host already,
/// `others` machines that run and don't move.
pub(crate) fn spread(
    machines: &[&MachineSpec],
    hosts: &[GatewayId],
    settled: &BTreeMap<GroupId, GatewayId>,
    others: &[(GatewayId, MachineSpec)],
) -> Spread {
    let at = |gateway: &GatewayId| hosts.iter().position(|host| host == gateway);
    let there: Vec<(usize, &str, &str)> =
        others.iter().filter_map(|(gateway, spec)| Some((at(gateway)?, label(spec)?, spec.name.as_str()))).collect();
    let mut count: BTreeMap<&str, usize> = BTreeMap::new();
    let labels = machines.iter().filter_map(|spec| label(spec)).chain(there.iter().map(|(_, label, _)| *label));
    labels.for_each(|label| *count.entry(label).or_default() += 1);
    let mut wanted: BTreeMap<GroupId, Vec<(&str, &str)>> = BTreeMap::new();
    for spec in machines {
        if let Some(label) = label(spec).filter(|label| count.get(label).is_some_and(|count| *count > 1)) {
            wanted.entry(spec.group_id).or_default().push((label, &spec.name));
        }
    }
    if wanted.is_empty() || hosts.is_empty() {
        return Spread::default();
    }
    let mut groups: Vec<_> = wanted.into_iter().collect();
    groups.sort_by_key(|(_, machines)| std::cmp::Reverse(machines.len()));
    let choices = groups.iter().map(|(group, _)| {
        settled.get(group).and_then(at).map_or_else(|| (0..hosts.len()).collect(), |host| vec![host])
    });
    let mut puzzle = Puzzle { choices: choices.collect(), groups, looks: 0, best: None };
    let mut seats = Seats::new();
    for (host, label, _) in &there {
        *seats.entry((*host, label)).or_default() += 1;
    }
    puzzle.solve((0, 0), &mut Vec::new(), &mut seats);
    let Puzzle { groups, best, .. } = puzzle;
    let taken = best.map(|(_, taken)| taken).unwrap_or_default();
    let placed = groups.iter().zip(&taken);
    let found = placed.clone().filter_map(|((group, _), host)| Some((*group, *hosts.get(*host)?))).collect();
    let movers = placed.flat_map(|((group, machines), host)| {
        machines.iter().map(move |(label, name)| ((*label, *host), (Some(*group), *name)))
    });
    let mut met: BTreeMap<(&str, usize), Vec<Met<'_>>> = BTreeMap::new();
    for (seat, who) in movers.chain(there.iter().map(|(host, label, name)| ((*label, *host), (None, *name)))) {
        met.entry(seat).or_default().push(who);
    }
    let together = met.into_iter().filter_map(|((label, _), who)| said(label, &who, hosts.len())).collect();
    Spread { at: found, together }
}

/// That machines meet, and why; nothing where they don't, or where none of them moves.
fn said(label: &str, who: &[Met<'_>], hosts: usize) -> Option<String> {
    let groups: BTreeSet<GroupId> = who.iter().filter_map(|(group, _)| *group).collect();
    if who.len() < 2 || groups.is_empty() {
        return None;
    }
    let mut names: Vec<&str> = who.iter().map(|(_, name)| *name).collect();
    names.sort_unstable();
    let why = match (groups.len(), who.iter().any(|(group, _)| group.is_none()), hosts) {
        (1, false, _) => "their volumes are of one consistency group".to_owned(),
        (_, _, 1) => "one gateway runs machines there".to_owned(),
        (_, _, hosts) => format!("{hosts} gateways run machines there, which is too few"),
    };
    Some(format!(
        "the machines {} are to be kept apart (anti-affinity group {label}) and come up on one host: {why}",
        names.join(" and ")
    ))
}

#[cfg(test)]
mod tests {
    use lifeboat_api::{Firmware, MachineTarget};

    use super::*;

    fn machine(name: &str, group: GroupId, label: Option<&str>) -> MachineSpec {
        MachineSpec {
            site_id: SiteId::from_bytes([0; 16]),
            name: name.into(),
            group_id: group,
            cpus: 1,
            memory_mib: 64,
            firmware: Firmware::Bios,
            disk: Vec::new(),
            network_interface: Vec::new(),
            target: label
                .map(|label| MachineTarget { anti_affinity_group: Some(label.to_owned()), ..MachineTarget::default() }),
        }
    }

    fn groups<const N: usize>() -> [GroupId; N] {
        std::array::from_fn(|index| GroupId::from_bytes([u8::try_from(index).expect("few") + 1; 16]))
    }

    fn gateways<const N: usize>() -> [GatewayId; N] {
        std::array::from_fn(|index| GatewayId::from_bytes([u8::try_from(index).expect("few") + 1; 16]))
    }

    fn spread_of(machines: &[MachineSpec], hosts: &[GatewayId]) -> Spread {
        spread(&machines.iter().collect::<Vec<_>>(), hosts, &BTreeMap::new(), &[])
    }

    #[test]
    fn nothing_is_spread_without_a_reason() {
        let [one, two] = groups();
        let hosts = gateways::<3>();
        let machines = [machine("web1", one, Some("web")), machine("db", two, Some("db"))];
        assert_eq!(spread_of(&machines, &hosts), Spread::default());
        assert_eq!(spread_of(&[machine("a", one, None), machine("b", two, None)], &hosts), Spread::default());
    }

    #[test]
    fn machines_are_kept_apart_and_the_one_that_was_asked_has_the_most() {
        let [one, two, three, four] = groups();
        let hosts = gateways::<3>();
        let machines = [
            machine("web1", one, Some("web")),
            machine("web2", two, Some("web")),
            machine("db1", three, Some("db")),
            machine("db2", four, Some("db")),
        ];
        let found = spread_of(&machines, &hosts);
        assert!(found.together.is_empty(), "{found:?}");
        assert_ne!(found.at[&one], found.at[&two]);
        assert_ne!(found.at[&three], found.at[&four]);
        assert_eq!(found.at.values().filter(|at| **at == hosts[0]).count(), 2, "{found:?}");
    }

    #[test]
    fn what_the_first_choice_would_spoil_is_found_by_another() {
        // A chain: each group meets its neighbours only, so that two hosts are enough.
        let chain: [GroupId; 6] = groups();
        let labels = ["p", "q", "r", "s", "t"];
        let mut machines = Vec::new();
        for (at, label) in labels.iter().enumerate() {
            machines.push(machine(&format!("{label}1"), chain[at], Some(label)));
            machines.push(machine(&format!("{label}2"), chain[at + 1], Some(label)));
        }
        let hosts = gateways::<2>();
        let found = spread_of(&machines, &hosts);
        assert!(found.together.is_empty(), "{found:?}");
        assert_eq!(found.at.values().filter(|at| **at == hosts[0]).count(), 3);
    }

    #[test]
    fn what_cannot_be_kept_apart_is_said_by_name() {
        let [one, two, three] = groups();
        let hosts = gateways::<2>();
        let machines = [
            machine("web1", one, Some("web")),
            machine("web2", one, Some("web")),
            machine("app1", one, Some("app")),
            machine("app2", two, Some("app")),
            machine("app3", three, Some("app")),
        ];
        let found = spread_of(&machines, &hosts);
        assert_eq!(found.together.len(), 2, "{found:?}");
        assert!(found.together[0].contains("app1 and app3") && found.together[0].contains("2 gateways"), "{found:?}");
        assert!(found.together[1].contains("web1 and web2") && found.together[1].contains("one consistency group"));
        let alone = spread_of(&machines[2..], &hosts[..1]);
        assert!(alone.together[0].contains("app1 and app2 and app3"), "{alone:?}");
        assert!(alone.together[0].contains("one gateway runs machines"), "{alone:?}");
    }

    #[test]
    fn what_runs_already_is_minded_and_what_is_there_already_stays() {
        let [one, two] = groups();
        let hosts = gateways::<2>();
        let web1 = machine("web1", one, Some("web"));
        let others = [(hosts[0], machine("web9", two, Some("web")))];
        let found = spread(&[&web1], &hosts, &BTreeMap::new(), &others);
        assert_eq!(found, Spread { at: BTreeMap::from([(one, hosts[1])]), together: Vec::new() });
        let settled = BTreeMap::from([(one, hosts[0])]);
        let found = spread(&[&web1], &hosts, &settled, &others);
        assert_eq!(found.at[&one], hosts[0]);
        assert!(found.together[0].contains("web1 and web9"), "{found:?}");
        // A host that isn't there any more holds nobody.
        let gone = spread(&[&web1], &hosts[1..], &settled, &others);
        assert_eq!((gone.at.get(&one), gone.together.len()), (None, 0));
    }

    #[test]
    fn many_groups_on_few_hosts_are_decided_soon() {
        let many: [GroupId; 60] = groups();
        let machines: Vec<MachineSpec> = many
            .iter()
            .enumerate()
            .flat_map(|(at, group)| {
                [
                    machine(&format!("a{at}"), *group, Some("a")),
                    machine(&format!("b{at}"), *group, Some(["b", "c"][at % 2])),
                ]
            })
            .collect();
        let hosts = gateways::<4>();
        let found = spread_of(&machines, &hosts);
        for host in hosts {
            assert_eq!(found.at.values().filter(|at| **at == host).count(), 15);
        }
    }
}
