//! Around setting a group up: what has to be there before, and what a recovery still needs afterwards.

use std::collections::BTreeSet;

use lifeboat_api::{NetworkMappingSpec, PlanSpec};
use lifeboat_model::NetworkId;

use super::{Done, Failure, Work};
use crate::adoption;
use crate::records::{GatewayRecord, kind, status};
use crate::view;

/// Least room in the state directory with which a group is begun, bytes: the smallest journal, and something beside it.
const ROOM_MIN: u64 = 64 << 20;

impl Work<'_> {
    /// Nothing is begun before all of it is there; everything that isn't is said at once.
    pub(super) fn prerequisites(&self) -> Result<Done, Failure> {
        let snapshot = self.attached.snapshot();
        let volumes = view::volumes_of(&snapshot, self.spec.group);
        if volumes.is_empty() {
            return Err(Failure::Final("its volumes were deleted before it was set up".to_owned()));
        }
        let mut missing: Vec<String> = Vec::new();
        for (volume, (_, spec)) in view::held(&volumes).iter().zip(&volumes) {
            missing.extend(
                adoption::admit(self.context, self.spec.gateway, spec.gateway_id, volume)
                    .err()
                    .map(|error| error.to_string()),
            );
        }
        let room = self.context.state.free_bytes();
        if room < ROOM_MIN {
            missing.push(format!(
                "{} has {} MiB free, and {} MiB is the least that a group is begun with: make room",
                self.context.state.path().display(),
                room >> 20,
                ROOM_MIN >> 20
            ));
        }
        if missing.is_empty() {
            return Ok(Done::new(format!("{} volumes can be protected", volumes.len())));
        }
        Err(Failure::Final(missing.join("; ")))
    }

    /// What a recovery still needs. It stops nothing: most of it is declared after the first volume.
    pub(super) fn finalize(&self) -> Done {
        let missing = self.missing_for_recovery();
        if missing.is_empty() {
            return Done::new("everything that a recovery needs is declared: try it with a test failover");
        }
        Done::new(format!("for a recovery there is still needed: {}", missing.join("; ")))
    }

    fn missing_for_recovery(&self) -> Vec<String> {
        let snapshot = self.attached.snapshot();
        let home = view::site_of(&snapshot, self.spec.gateway).map(|(site, _)| site);
        let elsewhere = snapshot.of(kind::GATEWAYS).iter().any(|document| {
            let record: GatewayRecord = status(document);
            let site = document.id.parse().ok().and_then(|id| view::site_of(&snapshot, id)).map(|(site, _)| site);
            record.process_id.is_some() && site.is_some() && site != home
        });
        let mut missing = Vec::new();
        if !elsewhere {
            missing.push("a gateway at another site that has opened this vault".to_owned());
        }
        let mapped: BTreeSet<NetworkId> = snapshot
            .of(kind::MAPPINGS)
            .iter()
            .filter_map(|document| document.spec_as::<NetworkMappingSpec>().ok())
            .map(|mapping| mapping.source_network_id)
            .collect();
        let plans: Vec<PlanSpec> =
            snapshot.of(kind::PLANS).iter().filter_map(|document| document.spec_as().ok()).collect();
        for (id, machine) in view::machines(&snapshot).filter(|(_, machine)| machine.group_id == self.spec.group) {
            for one in machine.network_interface.iter().filter(|one| !mapped.contains(&one.network_id)) {
                let network = view::declared_network(&snapshot, one.network_id);
                let network = network.map_or_else(|| one.network_id.to_string(), |network| network.name);
                missing.push(format!("a mapping of the network {network} of the machine {}", machine.name));
            }
            if !plans.iter().any(|plan| plan.machines().any(|(_, _, member)| member == id)) {
                missing.push(format!("a recovery plan with the machine {}", machine.name));
            }
        }
        missing
    }
}
