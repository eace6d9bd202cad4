//! Rules of recovery plans that need nothing but the body.

use std::time::Duration;

use super::{DAY, Errors, Validate, duration, fault, file_name, title};
use crate::types::{ActionType, BootGroup, PlanAction, PlanSpec};

/// Most boot groups of a plan.
pub const BOOT_GROUPS_MAX: usize = 32;
/// Most members of a boot group, and most actions in a row.
const MEMBERS_MAX: usize = 256;
const SECOND: Duration = Duration::from_secs(1);

/// An action has the argument of its type and no other.
fn action(prefix: &str, one: &PlanAction, errors: &mut Errors) {
    title(&format!("{prefix}name"), &one.name, errors);
    let arguments = [
        ("script", ActionType::Script, one.script.is_some()),
        ("instruction", ActionType::Manual, one.instruction.is_some()),
        ("url", ActionType::Http, one.url.is_some()),
    ];
    for (name, kind, given) in arguments {
        if kind == one.kind && !given {
            fault(errors, format!("{prefix}{name}"), format!("is required when type is `{}`", kind.as_str()));
        } else if kind != one.kind && given {
            fault(errors, format!("{prefix}{name}"), format!("goes with type `{}` only", kind.as_str()));
        }
    }
    if let Some(script) = &one.script {
        file_name(&format!("{prefix}script"), script, errors);
    }
    if let Some(url) = &one.url {
        let rest = url.strip_prefix("https://").or_else(|| url.strip_prefix("http://"));
        let sound = rest.is_some_and(|rest| !rest.is_empty() && !rest.starts_with('/'))
            && url.len() <= 2048
            && url.bytes().all(|b| b.is_ascii_graphic());
        if !sound {
            fault(errors, format!("{prefix}url"), "must be an address such as https://example.org/hook");
        }
    }
    if let Some(text) = &one.instruction
        && !(1..=4096).contains(&text.chars().count())
    {
        fault(errors, format!("{prefix}instruction"), "must have 1 to 4096 characters");
    }
    if let Some(text) = &one.timeout {
        duration(&format!("{prefix}timeout"), text, SECOND, DAY, errors);
    }
    twice(&format!("{prefix}directions"), &one.directions, errors);
    twice(&format!("{prefix}kinds"), &one.kinds, errors);
}

fn twice<T: PartialEq>(field: &str, items: &[T], errors: &mut Errors) {
    for (index, item) in items.iter().enumerate() {
        if items.iter().take(index).any(|earlier| earlier == item) {
            fault(errors, format!("{field}[{index}]"), "stands here twice");
        }
    }
}

fn actions(field: &str, all: &[PlanAction], errors: &mut Errors) {
    if all.len() > MEMBERS_MAX {
        fault(errors, field, format!("can't have more than {MEMBERS_MAX} entries"));
    }
    for (index, one) in all.iter().enumerate() {
        action(&format!("{field}[{index}]."), one, errors);
        if all.iter().take(index).any(|earlier| earlier.name == one.name) {
            fault(errors, format!("{field}[{index}].name"), format!("names an action twice: {:?}", one.name));
        }
    }
}

fn boot_group(prefix: &str, group: &BootGroup, errors: &mut Errors) {
    if let Some(name) = &group.name {
        title(&format!("{prefix}name"), name, errors);
    }
    let members = group.machine_ids.len().saturating_add(group.volume_ids.len());
    if !(1..=MEMBERS_MAX).contains(&members) {
        let message = format!("needs 1 to {MEMBERS_MAX} machines and volumes with volume_ids, and has {members}");
        fault(errors, format!("{prefix}machine_ids"), message);
    }
    actions(&format!("{prefix}pre_action"), &group.pre_action, errors);
    actions(&format!("{prefix}post_action"), &group.post_action, errors);
}

/// Each of these stands in one place.
fn once<T: PartialEq + std::fmt::Display>(
    prefix: &str,
    list: &str,
    all: impl Iterator<Item = (usize, usize, T)>,
    errors: &mut Errors,
) {
    let mut seen: Vec<(usize, T)> = Vec::new();
    for (group, at, id) in all {
        match seen.iter().find(|(_, earlier)| *earlier == id) {
            Some((first, _)) => {
                let message = format!("{id} is in boot_group[{first}] already");
                fault(errors, format!("{prefix}boot_group[{group}].{list}[{at}]"), message);
            }
            None => seen.push((group, id)),
        }
    }
}

impl Validate for PlanSpec {
    fn check(&self, prefix: &str, errors: &mut Errors) {
        let field = |name: &str| format!("{prefix}{name}");
        file_name(&field("name"), &self.name, errors);
        if self.source_site_id == self.target_site_id {
            fault(errors, field("target_site_id"), "must be another site than source_site_id");
        }
        if let Some(shutdown) = &self.shutdown {
            duration(&field("shutdown.timeout"), &shutdown.timeout, SECOND, DAY, errors);
            actions(&field("shutdown.pre_action"), &shutdown.pre_action, errors);
            actions(&field("shutdown.post_action"), &shutdown.post_action, errors);
        }
        if self.boot_group.is_empty() || self.boot_group.len() > BOOT_GROUPS_MAX {
            let message = format!("needs 1 to {BOOT_GROUPS_MAX} entries, and has {}", self.boot_group.len());
            fault(errors, field("boot_group"), message);
        }
        for (index, group) in self.boot_group.iter().enumerate() {
            boot_group(&field(&format!("boot_group[{index}].")), group, errors);
            let same = |earlier: &&BootGroup| group.name.is_some() && earlier.name == group.name;
            if self.boot_group.iter().take(index).any(|earlier| same(&earlier)) {
                fault(errors, field(&format!("boot_group[{index}].name")), "names a boot group twice");
            }
        }
        once(prefix, "machine_ids", self.machines(), errors);
        once(prefix, "volume_ids", self.volumes(), errors);
    }
}
