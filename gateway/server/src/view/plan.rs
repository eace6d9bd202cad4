//! Recovery plans: what of them fits to what else is declared, whether they could be carried out, how the API shows them.

use std::collections::{BTreeMap, BTreeSet};

use lifeboat_api::{
    FieldError, GatewaySpec, MachineSpec, NetworkMappingSpec, Plan, PlanFailover, PlanSpec, PlanStatus, PlanTest,
    ProtectionState, Readiness, RecoveryState, VolumeSpec,
};
use lifeboat_model::{GroupId, NetworkId, SiteId, VolumeId};
use lifeboat_vault::{Document, VaultError};

use super::machine::{Misfits, machine_with, misfits};
use super::{
    GroupFacts, declared_network, group_facts, group_of, id, machines, site_name, spec, status, volume_status,
};
use crate::context::Context;
use crate::jobs::program::spread;
use crate::records::{GatewayRecord, RecoveryFailover, RecoveryRecord, RecoveryTest, kind};
use crate::vaults::{AttachedVault, Snapshot};

fn declared_machine(snapshot: &Snapshot, id: lifeboat_model::MachineId) -> Option<MachineSpec> {
    snapshot.get(kind::MACHINES, &id.to_string())?.spec_as().ok()
}

fn declared_volume(snapshot: &Snapshot, id: VolumeId) -> Option<VolumeSpec> {
    snapshot.get(kind::VOLUMES, &id.to_string())?.spec_as().ok()
}

/// Whether an interface in a network knows where to go at a site.
fn is_mapped(snapshot: &Snapshot, network: NetworkId, site: SiteId) -> bool {
    let mappings = snapshot.of(kind::MAPPINGS).iter();
    mappings.filter_map(|document| document.spec_as::<NetworkMappingSpec>().ok()).any(|mapping| {
        mapping.source_network_id == network
            && declared_network(snapshot, mapping.target_network_id).is_some_and(|target| target.site_id == site)
    })
}

/// The networks of a machine that lead nowhere at a site, by name.
fn unmapped(snapshot: &Snapshot, machine: &MachineSpec, site: SiteId) -> Vec<String> {
    let networks: BTreeSet<NetworkId> = machine.network_interface.iter().map(|one| one.network_id).collect();
    let lost = networks.into_iter().filter(|network| !is_mapped(snapshot, *network, site));
    lost.map(|id| declared_network(snapshot, id).map_or_else(|| id.to_string(), |network| network.name)).collect()
}

fn nowhere(snapshot: &Snapshot, machine: &str, network: &str, site: SiteId) -> String {
    let site = site_name(snapshot, site).unwrap_or_else(|| site.to_string());
    format!(
        "the network {network} of the machine {machine} has no mapping to a network of the site {site}: declare one"
    )
}

/// Holds a plan against everything else that is declared.
pub(crate) fn plan_misfits(snapshot: &Snapshot, spec: &PlanSpec) -> Misfits {
    let mut found = Misfits::default();
    let fault = |field: String, message: String| FieldError { field, message };
    for (group, at, machine) in spec.machines() {
        let field = format!("boot_group[{group}].machine_ids[{at}]");
        match declared_machine(snapshot, machine) {
            None => found.wrong.push(fault(field, format!("there is no machine {machine}"))),
            Some(declared) if declared.site_id != spec.source_site_id => {
                let message = format!("must be a machine of the source site, and {} is of another", declared.name);
                found.wrong.push(fault(field, message));
            }
            Some(declared) => {
                for network in unmapped(snapshot, &declared, spec.target_site_id) {
                    let message = nowhere(snapshot, &declared.name, &network, spec.target_site_id);
                    found.taken.push(fault(field.clone(), message));
                }
            }
        }
    }
    for (group, at, volume) in spec.volumes() {
        let field = format!("boot_group[{group}].volume_ids[{at}]");
        let Some(declared) = declared_volume(snapshot, volume) else {
            found.wrong.push(fault(field, format!("there is no volume {volume}")));
            continue;
        };
        let gateway = snapshot.get(kind::GATEWAYS, &declared.gateway_id.to_string());
        let site = gateway.and_then(|gateway| gateway.spec_as::<GatewaySpec>().ok()).map(|gateway| gateway.site_id);
        if site != Some(spec.source_site_id) {
            let message = format!("must be a volume of the source site, and {} is of another", declared.name);
            found.wrong.push(fault(field.clone(), message));
        }
        if let Some((owner, machine)) = machine_with(snapshot, volume)
            && spec.machines().any(|(_, _, member)| member == owner)
        {
            let message = format!("{} is a disk of the machine {}, which is in the plan", declared.name, machine.name);
            found.wrong.push(fault(field, message));
        }
    }
    found
}

/// The volumes of a plan, those of its machines too.
pub(crate) fn volumes_of(snapshot: &Snapshot, spec: &PlanSpec) -> Vec<(VolumeId, VolumeSpec)> {
    let machines = spec.machines().filter_map(|(_, _, machine)| declared_machine(snapshot, machine));
    let disks = machines.flat_map(|machine| machine.disk.into_iter().map(|disk| disk.volume_id));
    let all: BTreeSet<VolumeId> = disks.chain(spec.volumes().map(|(_, _, volume)| volume)).collect();
    all.into_iter().filter_map(|volume| Some((volume, declared_volume(snapshot, volume)?))).collect()
}

/// What speaks against carrying a plan out now.
fn reasons(snapshot: &Snapshot, spec: &PlanSpec, groups: &BTreeMap<GroupId, GroupFacts>) -> Vec<String> {
    let mut reasons = Vec::new();
    for misfit in plan_misfits(snapshot, spec).wrong {
        reasons.push(misfit.to_string());
    }
    let members: BTreeSet<_> = spec.machines().map(|(_, _, machine)| machine).collect();
    for (machine, declared) in machines(snapshot) {
        if members.contains(&machine) {
            for network in unmapped(snapshot, &declared, spec.target_site_id) {
                reasons.push(nowhere(snapshot, &declared.name, &network, spec.target_site_id));
            }
            let Misfits { wrong, taken } = misfits(snapshot, machine, &declared);
            let said = wrong.iter().chain(&taken);
            reasons.extend(said.map(|misfit| format!("the machine {}: {misfit}", declared.name)));
        } else if let Some(group) = groups.get(&declared.group_id) {
            reasons.push(format!(
                "the machine {} moves with the group {}, and is in no boot group",
                declared.name, group.spec.name
            ));
        }
    }
    for facts in groups.values() {
        let account = facts.account.as_ref().map(|account| &account.observed);
        if account.is_none_or(|observed| observed.latest_point.is_none()) {
            reasons.push(format!("the group {} has no recovery point in the vault", facts.spec.name));
        }
    }
    for (volume, declared) in volumes_of(snapshot, spec) {
        let Some(facts) = groups.get(&group_of(volume, &declared)) else { continue };
        let state = volume_status(facts, volume, &declared).state;
        if RecoveryState::from(state) == RecoveryState::Unprotected {
            reasons.push(format!("the volume {} is {state}", declared.name));
        }
    }
    let at_target = |document: &&std::sync::Arc<Document>| {
        document.spec_as::<GatewaySpec>().is_ok_and(|gateway| gateway.site_id == spec.target_site_id)
    };
    let there = snapshot.of(kind::GATEWAYS).iter().filter(at_target).map(|document| status(document));
    let there: Vec<GatewayRecord> = there.filter(|record: &GatewayRecord| record.process_id.is_some()).collect();
    let site = || site_name(snapshot, spec.target_site_id).unwrap_or_else(|| spec.target_site_id.to_string());
    if there.is_empty() {
        reasons.push(format!("no gateway of the site {} has registered: start one with this vault", site()));
    } else if !members.is_empty() && there.iter().all(|record| record.compute.is_none()) {
        reasons.push(format!(
            "no gateway of the site {} runs machines: start one there with --compute qemu or --compute script",
            site()
        ));
    }
    reasons
}

/// What would not be as it was wished for, if the plan were carried out now.
fn warnings(snapshot: &Snapshot, spec: &PlanSpec) -> Vec<String> {
    let machines: Vec<MachineSpec> =
        spec.machines().filter_map(|(_, _, machine)| declared_machine(snapshot, machine)).collect();
    let machines: Vec<&MachineSpec> = machines.iter().collect();
    let hosts = spread::hosts(snapshot, spec.target_site_id, None);
    let others = spread::others(snapshot, machines.iter().copied());
    spread::spread(&machines, &hosts, &BTreeMap::new(), &others).together
}

/// A failover as the API shows it.
pub(super) const fn shown_failover(failover: &RecoveryFailover) -> PlanFailover {
    PlanFailover {
        kind: failover.kind,
        job_id: failover.job,
        gateway_id: failover.gateway,
        committed: failover.committed,
    }
}

/// A test as the API shows it.
pub(super) fn shown_test(test: RecoveryTest) -> PlanTest {
    PlanTest {
        job_id: test.job,
        gateway_id: test.gateway,
        started: test.started,
        expires: test.expires,
        machines: test.machines,
    }
}

pub(crate) fn plan(context: &Context, attached: &AttachedVault, document: &Document) -> Result<Plan, VaultError> {
    let snapshot = attached.snapshot();
    let own: PlanSpec = spec(document)?;
    let volumes = volumes_of(&snapshot, &own);
    let mut groups = BTreeMap::new();
    for group in volumes.iter().map(|(id, spec)| group_of(*id, spec)).collect::<BTreeSet<GroupId>>() {
        if let Some(document) = snapshot.get(kind::GROUPS, &group.to_string()) {
            groups.insert(group, group_facts(context, attached, document)?);
        }
    }
    let states = volumes.iter().map(|(id, spec)| {
        let facts = groups.get(&group_of(*id, spec));
        facts.map_or(ProtectionState::Pending, |facts| volume_status(facts, *id, spec).state)
    });
    let sites: BTreeSet<_> = groups.values().map(|facts| facts.active_site.clone()).collect();
    let active = if sites.len() == 1 { sites.into_iter().next().flatten() } else { None };
    let reasons = reasons(&snapshot, &own, &groups);
    let record: RecoveryRecord = status(document);
    Ok(Plan {
        id: id(document)?,
        generation: document.generation,
        created: document.created,
        updated: document.updated,
        status: PlanStatus {
            state: RecoveryState::of(states),
            active_site_id: active.as_ref().map(|(id, _)| *id),
            active_site: active.map(|(_, name)| name),
            job_id: record.job.or(record.failed_job),
            failover: record.failover.map(|failover| shown_failover(&failover)),
            tests: record.tests.into_iter().map(shown_test).collect(),
            warnings: warnings(&snapshot, &own),
            readiness: if reasons.is_empty() { Readiness::Ready } else { Readiness::NotReady },
            reasons,
        },
        spec: own,
    })
}
