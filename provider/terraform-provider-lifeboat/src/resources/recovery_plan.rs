//! `lifeboat_recovery_plan`: what comes up at another site, in what order, and what is done in between.
//!
//! Boot groups and actions are ordered: the order of the blocks is the order in the API, both ways. A plan that couldn't be
//! carried out, since a machine's network leads nowhere, is refused; what else is missing is in `reasons`.

use std::collections::BTreeMap;

use lifeboat_api::{
    ActionType, BootGroup, Client, ClientError, Drill, FailoverKind, Machine, Network, NetworkMapping, Plan,
    PlanAction, PlanDirection, PlanShutdown, PlanSpec, default_shutdown_timeout,
};
use tf_provider_sdk::{
    Attribute, Block, Diagnostic, Diagnostics, NestedBlock, Object, PlanChange, Result, Schema, Type, Value,
    async_trait,
};

use super::{REPLACES, anchor, list_or_absent, mentions_in, observed, short_timeouts};
use crate::declared::{Dependent, Kind, all};
use crate::link::Link;
use crate::mentions::Mention;
use crate::values::Values;

#[derive(Debug)]
pub(crate) struct RecoveryPlanKind;

const TYPES: [(&str, ActionType); 3] = [
    (ActionType::Script.as_str(), ActionType::Script),
    (ActionType::Manual.as_str(), ActionType::Manual),
    (ActionType::Http.as_str(), ActionType::Http),
];
const DIRECTIONS: [(&str, PlanDirection); 2] = [
    (PlanDirection::Failover.as_str(), PlanDirection::Failover),
    (PlanDirection::Failback.as_str(), PlanDirection::Failback),
];
const KINDS: [(&str, FailoverKind); 3] = [
    (FailoverKind::Test.as_str(), FailoverKind::Test),
    (FailoverKind::Planned.as_str(), FailoverKind::Planned),
    (FailoverKind::Unplanned.as_str(), FailoverKind::Unplanned),
];

fn action_block(name: &str, when: &str) -> NestedBlock {
    let body = Block::new()
        .description(format!("What is done {when}. One after the other; the order is kept."))
        .attribute(
            Attribute::string("name").required().description("1 to 64 characters, unique among the actions beside it."),
        )
        .attribute(Attribute::string("type").required().description(
            "`script`: a program is run; `manual`: a person does something and says so; `http`: a request is made.",
        ))
        .attribute(Attribute::string("script").optional().description(
            "With `script`: the name of a program in the directory of hooks of the gateway that carries the plan out.",
        ))
        .attribute(Attribute::string("url").optional().description("With `http`: the address that is asked."))
        .attribute(Attribute::string("instruction").optional().description("With `manual`: what the person has to do."))
        .attribute(
            Attribute::list("directions", Type::String)
                .optional()
                .description("Only in these directions, `failover` and `failback`. Both when left out."),
        )
        .attribute(
            Attribute::list("kinds", Type::String)
                .optional()
                .description("Only in failovers of these kinds, `test`, `planned` and `unplanned`. All when left out."),
        )
        .attribute(Attribute::string("timeout").optional().description(
            "How long it may take: `1s` to `24h`. `5m` when left out; a person may take as long as it takes.",
        ));
    NestedBlock::list(name, body)
}

fn boot_group_block() -> NestedBlock {
    let ids = |name: &str, text: &str| Attribute::list(name, Type::String).optional().description(text.to_owned());
    let body = Block::new()
        .description(
            "Machines and volumes that come up side by side, once the group before is up. At least one group with at least one \
             of either; the order is kept.",
        )
        .attribute(Attribute::string("name").optional().description("For people; unique in the plan."))
        .attribute(ids("machine_ids", "Machines of the source site, each in one group at most."))
        .attribute(ids("volume_ids", "Volumes of the source site that are no disk of a machine of the plan."))
        .block(action_block("pre_action", "before it comes up"))
        .block(action_block("post_action", "once it is up"));
    NestedBlock::list("boot_group", body).min(1)
}

fn shutdown_block() -> NestedBlock {
    let body = Block::new()
        .description(
            "How the machines of the side that is left are stopped, where they can be: in the reverse order of the boot groups.",
        )
        .attribute(
            Attribute::string("timeout")
                .default(default_shutdown_timeout())
                .description("How long a machine may take before it is switched off: `1s` to `24h`. Default: `5m`."),
        )
        .block(action_block("pre_action", "before they are stopped"))
        .block(action_block("post_action", "once they are stopped"));
    NestedBlock::single("shutdown", body)
}

/// A list of words, each one of `all`.
fn words<T: Copy>(block: &Values<'_>, path: &str, all: &[(&str, T)]) -> Vec<T> {
    let texts: Vec<String> = block.optional(path).unwrap_or_default();
    let words = texts.iter().enumerate();
    words.filter_map(|(index, text)| block.word(&format!("{path}[{index}]"), text, all)).collect()
}

fn action(block: &Values<'_>) -> PlanAction {
    let text = block.required("type", ActionType::Script.as_str().to_owned());
    let kind = block.word("type", &text, &TYPES);
    // With a type that isn't known, no argument can be missing or too much.
    let judged = kind.is_some() && !block.is_unknown("type");
    let kind = kind.filter(|_| judged).unwrap_or(ActionType::Manual);
    let argument = |path: &str, of: ActionType, neutral: &str| match judged {
        true if block.is_unknown(path) => Some(neutral.to_owned()),
        true => block.optional(path),
        false => (of == kind).then(|| neutral.to_owned()),
    };
    PlanAction {
        name: block.name("name"),
        script: argument("script", ActionType::Script, "neutral"),
        url: argument("url", ActionType::Http, "https://neutral"),
        instruction: argument("instruction", ActionType::Manual, "neutral"),
        kind,
        directions: words(block, "directions", &DIRECTIONS),
        kinds: words(block, "kinds", &KINDS),
        timeout: block.optional("timeout"),
    }
}

fn actions(block: &Values<'_>, name: &str) -> Vec<PlanAction> {
    block.blocks(name).iter().map(action).collect()
}

/// Ids of a list, some of which may be unknown.
fn ids<T>(block: &Values<'_>, path: &str, prefix: &str) -> Vec<T>
where
    T: std::str::FromStr,
    T::Err: std::fmt::Display,
{
    (0..block.count(path)).map(|index| block.id(&format!("{path}[{index}]"), prefix)).collect()
}

fn boot_group(block: &Values<'_>) -> BootGroup {
    let mut group = BootGroup {
        name: block.optional("name"),
        machine_ids: ids(block, "machine_ids", "mch"),
        volume_ids: ids(block, "volume_ids", "vol"),
        pre_action: actions(block, "pre_action"),
        post_action: actions(block, "post_action"),
    };
    let open = block.is_unknown("machine_ids") || block.is_unknown("volume_ids");
    if group.machine_ids.is_empty() && group.volume_ids.is_empty() && open {
        // Something will be there.
        group.machine_ids.push(block.id("machine_ids", "mch"));
    }
    group
}

/// Actions as they stand in a state; `at` is where.
fn shown(actions: &[PlanAction], state: &Object, at: &str) -> Vec<Object> {
    let shown = actions.iter().enumerate().map(|(index, action)| {
        let said = |name: &str| state.at(format!("{at}[{index}].{name}").as_str());
        let directions = action.directions.iter().map(|direction| direction.as_str().to_owned()).collect();
        let kinds = action.kinds.iter().map(|kind| kind.as_str().to_owned()).collect();
        Object::new()
            .with("name", &action.name)
            .with("type", action.kind.as_str())
            .with("script", action.script.clone())
            .with("url", action.url.clone())
            .with("instruction", action.instruction.clone())
            .with("directions", list_or_absent(said("directions"), directions))
            .with("kinds", list_or_absent(said("kinds"), kinds))
            .with("timeout", action.timeout.clone())
    });
    shown.collect()
}

#[async_trait]
impl Kind for RecoveryPlanKind {
    type Spec = PlanSpec;
    type View = Plan;
    const TYPE: &'static str = "lifeboat_recovery_plan";
    const NOUN: &'static str = "recovery plan";
    const FORESEES_CHANGES: bool = true;

    fn schema() -> Schema {
        Schema::new()
            .description(
                "What comes up at another site when the source site is lost or left, in what order, and what is done in between. \
                 The networks of its machines need a `lifeboat_network_mapping` to the target site; where the same configuration \
                 declares it, say `depends_on`, since a plan doesn't refer to it.",
            )
            .attribute(Attribute::id())
            .attribute(anchor("vault_id", "The vault that the plan belongs to.", REPLACES))
            .attribute(
                Attribute::string("name")
                    .required()
                    .description("1 to 63 letters, digits, `.`, `_` or `-`, unique in the vault."),
            )
            .attribute(anchor("source_site_id", "The site where everything in it is at home.", REPLACES))
            .attribute(anchor("target_site_id", "The site where it comes up.", REPLACES))
            .attribute(observed(Attribute::string("state")).description(
                "Where its volumes stand: `unprotected`, `protected`, `failing-over`, `failed-over`, `failing-back` or `split`.",
            ))
            .attribute(
                observed(Attribute::string("active_site"))
                    .description("The name of the site where its volumes are active. Null while they are not all at one."),
            )
            .attribute(
                observed(Attribute::string("readiness"))
                    .description("Whether it could be carried out at the last refresh: `ready` or `not-ready`."),
            )
            .attribute(observed(Attribute::list("reasons", Type::String)).description("Why it couldn't."))
            .attribute(observed(Attribute::list("warnings", Type::String)).description(
                "What would not be as it was wished for, and stops nothing: machines of one `anti_affinity_group` that would come up \
                 on one host.",
            ))
            .block(shutdown_block())
            .block(boot_group_block())
            .timeouts(short_timeouts())
    }

    fn spec(values: &Values<'_>) -> PlanSpec {
        let shutdown = |block: Values<'_>| PlanShutdown {
            timeout: block.required("timeout", default_shutdown_timeout()),
            pre_action: actions(&block, "pre_action"),
            post_action: actions(&block, "post_action"),
        };
        let mut boot_groups: Vec<BootGroup> = values.blocks("boot_group").iter().map(boot_group).collect();
        if boot_groups.is_empty() && values.is_unknown("boot_group") {
            // At least one will be there, with something in it.
            boot_groups.push(BootGroup {
                name: None,
                machine_ids: vec![values.id("boot_group", "mch")],
                volume_ids: Vec::new(),
                pre_action: Vec::new(),
                post_action: Vec::new(),
            });
        }
        PlanSpec {
            vault_id: values.id("vault_id", "vlt"),
            name: values.name("name"),
            source_site_id: values.id("source_site_id", "site"),
            target_site_id: values.id("target_site_id", "site"),
            shutdown: values.block("shutdown").map(shutdown),
            boot_group: boot_groups,
        }
    }

    fn describe(plan: &Plan, state: &mut Object) {
        let (spec, status) = (&plan.spec, &plan.status);
        state.set("vault_id", spec.vault_id.to_string());
        state.set("name", &spec.name);
        state.set("source_site_id", spec.source_site_id.to_string());
        state.set("target_site_id", spec.target_site_id.to_string());
        let shutdown = spec.shutdown.as_ref().map(|shutdown| {
            Object::new()
                .with("timeout", &shutdown.timeout)
                .with("pre_action", shown(&shutdown.pre_action, state, "shutdown.pre_action"))
                .with("post_action", shown(&shutdown.post_action, state, "shutdown.post_action"))
        });
        state.set("shutdown", shutdown);
        let groups = spec.boot_group.iter().enumerate().map(|(index, group)| {
            let at = |name: &str| format!("boot_group[{index}].{name}");
            let ids = |name: &str, ids: Vec<String>| list_or_absent(state.at(at(name).as_str()), ids);
            Object::new()
                .with("name", group.name.clone())
                .with("machine_ids", ids("machine_ids", group.machine_ids.iter().map(ToString::to_string).collect()))
                .with("volume_ids", ids("volume_ids", group.volume_ids.iter().map(ToString::to_string).collect()))
                .with("pre_action", shown(&group.pre_action, state, &at("pre_action")))
                .with("post_action", shown(&group.post_action, state, &at("post_action")))
        });
        let groups: Vec<Object> = groups.collect();
        state.set("boot_group", groups);
        state.set("state", status.state.as_str());
        state.set("active_site", status.active_site.clone());
        state.set("readiness", status.readiness.as_str());
        state.set("reasons", status.reasons.clone());
        state.set("warnings", status.warnings.clone());
    }

    fn names(planned: &Object) -> Vec<Mention> {
        ["machine_ids", "volume_ids"].iter().flat_map(|ids| mentions_in(planned, "boot_group", ids)).collect()
    }

    /// The networks of machines that are there already have somewhere to go.
    async fn foresee(link: &Link, api: &Client, plan: &PlanChange) -> Result<()> {
        let (Some(planned), Ok(site)) = (plan.planned(), plan.get::<String>("target_site_id")) else { return Ok(()) };
        let (Ok(machines), Ok(mappings), Ok(networks)) = (
            api.list::<Machine>("/v1/machines", &[]).await,
            api.list::<NetworkMapping>("/v1/network-mappings", &[]).await,
            api.list::<Network>("/v1/networks", &[]).await,
        ) else {
            return Ok(());
        };
        let there = |mapping: &&NetworkMapping| mapping.status.target_site_id.is_some_and(|at| at.to_string() == site);
        let mapped: Vec<_> = mappings.iter().filter(there).map(|mapping| mapping.spec.source_network_id).collect();
        // What this run declares isn't there yet. One whose target isn't known yet may lead there.
        let at_site =
            |id: &str| networks.iter().any(|one| one.id.to_string() == id && one.spec.site_id.to_string() == site);
        let is_coming =
            |source: String| link.expected_targets(&source).iter().any(|target| target.as_deref().is_none_or(at_site));
        let mut found = Diagnostics::new();
        let groups = planned.value("boot_group").and_then(Value::as_elements).unwrap_or_default();
        for (group, block) in groups.iter().enumerate() {
            let ids = block.as_object().and_then(|block| block.value("machine_ids")).and_then(Value::as_elements);
            for (at, id) in ids.unwrap_or_default().iter().enumerate() {
                let Some(machine) =
                    machines.iter().find(|machine| Some(machine.id.to_string().as_str()) == id.as_str())
                else {
                    continue;
                };
                let mut networks_of = machine.spec.network_interface.iter().map(|one| one.network_id);
                let Some(lost) =
                    networks_of.find(|network| !mapped.contains(network) && !is_coming(network.to_string()))
                else {
                    continue;
                };
                let name = networks.iter().find(|network| network.id == lost).map(|network| network.spec.name.clone());
                let detail = format!(
                    "The network {} of the machine {} has no mapping to a network of the target site, so that the machine would \
                     come up without. Declare a lifeboat_network_mapping; where this configuration declares it, name it in \
                     depends_on of the plan.",
                    name.unwrap_or_else(|| lost.to_string()),
                    machine.spec.name
                );
                let path = format!("boot_group[{group}].machine_ids[{at}]");
                found.push(Diagnostic::error("A network leads nowhere", detail).at(path));
            }
        }
        found.into_result()
    }

    async fn dependents(api: &Client, id: &str) -> std::result::Result<Vec<Dependent>, ClientError> {
        let drills: Vec<Drill> = all(api).await?;
        let of_it = |drill: &&Drill| drill.spec.plan_id.to_string() == id;
        Ok(drills.iter().filter(of_it).map(|drill| Dependent::new("drill", drill)).collect())
    }

    /// Machines that are there already and can never be kept apart: they move with one consistency group.
    async fn remarks(api: &Client, plan: &PlanChange) -> Vec<Diagnostic> {
        let Some(planned) = plan.planned() else { return Vec::new() };
        let Ok(machines) = api.list::<Machine>("/v1/machines", &[]).await else { return Vec::new() };
        let mut met: BTreeMap<(String, String), Vec<(String, String)>> = BTreeMap::new();
        for (group, block) in
            planned.value("boot_group").and_then(Value::as_elements).unwrap_or_default().iter().enumerate()
        {
            let ids = block.as_object().and_then(|block| block.value("machine_ids")).and_then(Value::as_elements);
            for (at, id) in ids.unwrap_or_default().iter().enumerate() {
                let machine = machines.iter().find(|machine| Some(machine.id.to_string().as_str()) == id.as_str());
                let target = machine.and_then(|machine| Some((machine, machine.spec.target.as_ref()?)));
                let Some((machine, label)) =
                    target.and_then(|(machine, target)| Some((machine, target.anti_affinity_group.clone()?)))
                else {
                    continue;
                };
                let path = format!("boot_group[{group}].machine_ids[{at}]");
                met.entry((label, machine.spec.group_id.to_string()))
                    .or_default()
                    .push((machine.spec.name.clone(), path));
            }
        }
        let together = met.into_iter().filter_map(|((label, group), machines)| {
            let (_, path) = machines.get(1)?;
            let names: Vec<&str> = machines.iter().map(|(name, _)| name.as_str()).collect();
            let detail = format!(
                "The machines {} are to be kept apart (anti_affinity_group = \"{label}\"), and their volumes are of one consistency \
                 group ({group}), which moves to one gateway: they come up on one host. Give them groups of their own, or leave \
                 anti_affinity_group out.",
                names.join(" and ")
            );
            Some(Diagnostic::warning("Machines come up on one host", detail).at(path.as_str()))
        });
        together.collect()
    }
}
