//! `lifeboat_machine`: what boots from protected volumes, and where its interfaces are.
//!
//! Disks and interfaces are ordered: the order of the blocks is the order in the API, both ways. A failover changes what is
//! observed, nothing that is declared.

use lifeboat_api::{
    Client, ClientError, Firmware, Machine, MachineDisk, MachineSpec, MachineTarget, NetworkInterface, Plan,
};
use tf_provider_sdk::{Attribute, Block, NestedBlock, Object, PlanChange, Result, Schema, Type, async_trait, modify};

use super::{REPLACES, anchor, mentions_in, observed, short_timeouts};
use crate::claims::Claim;
use crate::declared::{Dependent, Kind, all};
use crate::mentions::Mention;
use crate::values::Values;

#[derive(Debug)]
pub(crate) struct MachineKind;

const FIRMWARE: [(&str, Firmware); 2] =
    [(Firmware::Bios.as_str(), Firmware::Bios), (Firmware::Uefi.as_str(), Firmware::Uefi)];

fn disk_block() -> NestedBlock {
    let body = Block::new()
        .description("A disk, in the order in which the machine sees them. At least one; the order is kept.")
        .attribute(Attribute::string("volume_id").required().description(
            "The volume that it is: of the machine's group, and of no other machine.",
        ))
        .attribute(Attribute::bool("boot").optional().description(
            "Whether the machine boots from it. One disk does: the one that says `true`, else the first that doesn't say `false`.",
        ));
    NestedBlock::list("disk", body).min(1)
}

fn interface_block() -> NestedBlock {
    let body = Block::new()
        .description("A network interface, in the order in which the machine sees them. The order is kept.")
        .attribute(Attribute::string("network_id").required().description("The network that it joins at home."))
        .attribute(Attribute::string("mac").optional().description(
            "Its hardware address, such as `52:54:00:12:34:56`, unique in the vault. Left out, it is given one that stays the \
             same: see `mac_addresses`.",
        ))
        .attribute(
            Attribute::string("address")
                .optional()
                .description("Its address at home: in a subnet of the network, and no other machine's."),
        )
        .attribute(Attribute::string("test_address").optional().description(
            "Its address in tests: in a subnet of the network that tests join, and no other machine's there.",
        ));
    NestedBlock::list("network_interface", body)
}

fn target_block() -> NestedBlock {
    let body = Block::new()
        .description("How the machine is different at another site. What is left out is as at home.")
        .attribute(Attribute::number("cpus").optional().description("Processors: 1 to 512."))
        .attribute(Attribute::number("memory_mib").optional().description("Memory, MiB: 64 to 16777216."))
        .attribute(
            Attribute::string("anti_affinity_group")
                .optional()
                .description(
                    "Machines that name the same are kept on different hosts, where the recovery site has several gateways that run \
                     machines. Machines of one consistency group can't be: they run where their volumes are.",
                ),
        );
    NestedBlock::single("target", body)
}

fn interface(block: &Values<'_>) -> NetworkInterface {
    NetworkInterface {
        network_id: block.id("network_id", "net"),
        mac: block.optional("mac"),
        address: block.optional("address"),
        test_address: block.optional("test_address"),
    }
}

fn firmware(values: &Values<'_>) -> Firmware {
    let text = values.required("firmware", Firmware::default().as_str().to_owned());
    values.word("firmware", &text, &FIRMWARE).unwrap_or_default()
}

#[async_trait]
impl Kind for MachineKind {
    type Spec = MachineSpec;
    type View = Machine;
    const TYPE: &'static str = "lifeboat_machine";
    const NOUN: &'static str = "machine";

    const GOES_WHILE_NAMED: bool = true;

    fn schema() -> Schema {
        let of_interfaces = modify::use_state_unless_changed(["network_interface"]);
        Schema::new()
            .description(
                "A machine that boots from protected volumes: its disks, its interfaces, and what it needs to run. A recovery plan \
                 says when it comes up at another site. All of its volumes are of one consistency group, so that its disks recover \
                 to the same instant.",
            )
            .attribute(Attribute::id())
            .attribute(anchor("site_id", "The site where the machine is at home.", REPLACES))
            .attribute(
                Attribute::string("name")
                    .required()
                    .description("1 to 63 letters, digits, `.`, `_` or `-`, unique in the vault."),
            )
            .attribute(anchor("group_id", "The consistency group of all of its volumes.", REPLACES))
            .attribute(Attribute::number("cpus").required().description("Processors: 1 to 512."))
            .attribute(Attribute::number("memory_mib").required().description("Memory, MiB: 64 to 16777216."))
            .attribute(
                Attribute::string("firmware")
                    .default(Firmware::default().as_str())
                    .description("What starts it: `bios` or `uefi`. Default: `bios`."),
            )
            .attribute(observed(Attribute::string("state")).description(
                "Where its volumes stand: `unprotected`, `protected`, `failing-over`, `failed-over`, `failing-back` or `split`. It \
                 says nothing of whether the machine runs.",
            ))
            .attribute(
                observed(Attribute::string("active_site"))
                    .description("The name of the site where its volumes are active."),
            )
            .attribute(observed(Attribute::string("health")).description("`healthy`, `warning` or `critical`."))
            .attribute(
                Attribute::list("mac_addresses", Type::String)
                    .computed()
                    .modify(of_interfaces)
                    .description("The hardware addresses of its interfaces, in their order, also those that were given."),
            )
            .block(disk_block())
            .block(interface_block())
            .block(target_block())
            .timeouts(short_timeouts())
    }

    fn spec(values: &Values<'_>) -> MachineSpec {
        let disk =
            |block: &Values<'_>| MachineDisk { volume_id: block.id("volume_id", "vol"), boot: block.optional("boot") };
        let target = |block: Values<'_>| MachineTarget {
            cpus: block.optional("cpus"),
            memory_mib: block.optional("memory_mib"),
            anti_affinity_group: block.optional("anti_affinity_group"),
        };
        let mut disks: Vec<MachineDisk> = values.blocks("disk").iter().map(disk).collect();
        if values.is_unknown("disk") && disks.is_empty() {
            disks.push(MachineDisk { volume_id: values.id("disk", "vol"), boot: None });
        }
        MachineSpec {
            site_id: values.id("site_id", "site"),
            name: values.name("name"),
            group_id: values.id("group_id", "grp"),
            cpus: values.required("cpus", 1),
            memory_mib: values.required("memory_mib", 64),
            firmware: firmware(values),
            disk: disks,
            network_interface: values.blocks("network_interface").iter().map(interface).collect(),
            target: values.block("target").map(target),
        }
    }

    fn describe(machine: &Machine, state: &mut Object) {
        let (spec, status) = (&machine.spec, &machine.status);
        state.set("site_id", spec.site_id.to_string());
        state.set("name", &spec.name);
        state.set("group_id", spec.group_id.to_string());
        state.set("cpus", spec.cpus);
        state.set("memory_mib", spec.memory_mib);
        state.set("firmware", spec.firmware.as_str());
        let disks = spec.disk.iter();
        let disks =
            disks.map(|disk| Object::new().with("volume_id", disk.volume_id.to_string()).with("boot", disk.boot));
        state.set("disk", disks.collect::<Vec<Object>>());
        let interfaces = spec.network_interface.iter().map(|one| {
            Object::new()
                .with("network_id", one.network_id.to_string())
                .with("mac", one.mac.clone())
                .with("address", one.address.clone())
                .with("test_address", one.test_address.clone())
        });
        state.set("network_interface", interfaces.collect::<Vec<Object>>());
        let target = spec.target.as_ref().map(|target| {
            Object::new()
                .with("cpus", target.cpus)
                .with("memory_mib", target.memory_mib)
                .with("anti_affinity_group", target.anti_affinity_group.clone())
        });
        state.set("target", target);
        state.set("state", status.state.as_str());
        state.set("active_site", status.active_site.clone());
        state.set("health", status.health.as_str());
        state.set("mac_addresses", status.mac_addresses.clone());
    }

    /// What no two machines of a configuration can have: a hardware address, a volume, an address in a network.
    fn claims(plan: &PlanChange) -> Result<Vec<Claim>> {
        let mut claims = Vec::new();
        let Some(planned) = plan.planned() else { return Ok(claims) };
        let text = |path: &str| planned.at(path).and_then(|value| value.as_str()).map(str::to_owned);
        let count = |name: &str| planned.value(name).and_then(|value| value.as_elements()).map_or(0, <[_]>::len);
        for index in 0..count("disk") {
            let path = format!("disk[{index}].volume_id");
            claims.extend(text(&path).map(|volume| Claim::new(path, "the volume", volume)));
        }
        for index in 0..count("network_interface") {
            let at = |name: &str| format!("network_interface[{index}].{name}");
            claims.extend(
                text(&at("mac")).map(|mac| Claim::new(at("mac"), "the hardware address", mac.to_ascii_lowercase())),
            );
            let network = text(&at("network_id"));
            for name in ["address", "test_address"] {
                if let (Some(network), Some(address)) = (&network, text(&at(name))) {
                    let what = if name == "address" { "the address" } else { "in tests the address" };
                    claims.push(Claim::within(at(name), what, address, network));
                }
            }
        }
        Ok(claims)
    }

    fn names(planned: &Object) -> Vec<Mention> {
        [mentions_in(planned, "disk", "volume_id"), mentions_in(planned, "network_interface", "network_id")].concat()
    }

    /// It runs, is tested or is away from home: what takes its place would stand beside it.
    async fn obstacles(api: &Client, id: &str) -> std::result::Result<Vec<String>, ClientError> {
        let machine: Machine = api.read(id).await?;
        let plans: Vec<Plan> = all(api).await?;
        let mut found = Vec::new();
        if let Some(run) = &machine.status.run {
            found.push(format!("the gateway {} runs it; end that with: lifeboat machine stop {id}", run.gateway_id));
        }
        if machine.status.failover.is_some() {
            found.push(format!("it is failed over; bring it home with: lifeboat failback {}", machine.spec.name));
        }
        if !machine.status.tests.is_empty() {
            found.push(format!("it is being tested; end that with: lifeboat cleanup {}", machine.spec.name));
        }
        let with_it = |plan: &&Plan| plan.spec.machines().any(|(_, _, machine)| machine.to_string() == id);
        for Plan { id, spec, status, .. } in plans.iter().filter(with_it) {
            let name = &spec.name;
            if status.failover.is_some() {
                found.push(format!(
                    "the recovery plan {name} ({id}) is failed over; bring it home with: lifeboat failback {name}"
                ));
            }
            if !status.tests.is_empty() {
                found.push(format!(
                    "the recovery plan {name} ({id}) is being tested; end that with: lifeboat cleanup {name}"
                ));
            }
        }
        Ok(found)
    }

    async fn namers(api: &Client, id: &str) -> std::result::Result<Vec<Dependent>, ClientError> {
        let plans: Vec<Plan> = all(api).await?;
        let with_it = |plan: &&Plan| plan.spec.machines().any(|(_, _, machine)| machine.to_string() == id);
        Ok(plans.iter().filter(with_it).map(|plan| Dependent::new("recovery plan", plan)).collect())
    }
}
