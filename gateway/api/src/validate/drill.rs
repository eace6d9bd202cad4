//! Rules of drills that need nothing but the body.

use std::time::Duration;

use lifeboat_model::{Day, NetworkId};

use super::{DAY, Errors, HOUR, Validate, duration, fault, file_name, window, zone};
use crate::types::{Assertion, AssertionType, DrillSchedule, DrillSpec};

/// Most assertions of a drill.
pub const ASSERTIONS_MAX: usize = 256;
const SECOND: Duration = Duration::from_secs(1);

fn is_hex(text: &str, digits: usize) -> bool {
    text.len() == digits && text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
}

/// An assertion has the arguments of its type and no other.
fn assertion(prefix: &str, one: &Assertion, errors: &mut Errors) {
    use AssertionType::{Boots, FileHash, Http, Screen, Script, Tcp};
    // Name, the types that take it, the types that need it, whether it is given.
    let arguments: [(&str, &[AssertionType], &[AssertionType], bool); 12] = [
        ("machine_id", &[Boots, Tcp, Http, Screen], &[Boots, Tcp, Http, Screen], one.machine_id.is_some()),
        ("volume_id", &[FileHash], &[FileHash], one.volume_id.is_some()),
        ("contains", &[Boots, Http], &[], one.contains.is_some()),
        ("port", &[Tcp, Http], &[Tcp], one.port.is_some()),
        ("interface", &[Tcp, Http], &[], one.interface.is_some()),
        ("path", &[Http, FileHash], &[FileHash], one.path.is_some()),
        ("status", &[Http], &[], one.status.is_some()),
        ("tls", &[Http], &[], one.tls),
        ("sha256", &[Http, FileHash], &[FileHash], one.sha256.is_some()),
        ("partition", &[FileHash], &[], one.partition.is_some()),
        ("script", &[Script], &[Script], one.script.is_some()),
        ("picture", &[Screen], &[], one.picture.is_some()),
    ];
    for (name, takes, needs, given) in arguments {
        let kind = one.kind.as_str();
        if given && !takes.contains(&one.kind) {
            let others: Vec<String> = takes.iter().map(|kind| format!("`{}`", kind.as_str())).collect();
            fault(errors, format!("{prefix}{name}"), format!("goes with type {} only", others.join(", ")));
        } else if !given && needs.contains(&one.kind) {
            fault(errors, format!("{prefix}{name}"), format!("is required when type is `{kind}`"));
        }
    }
    duration(&format!("{prefix}within"), &one.within, SECOND, DAY, errors);
    if one.contains.as_ref().is_some_and(|text| !(1..=4096).contains(&text.len())) {
        fault(errors, format!("{prefix}contains"), "must have 1 to 4096 bytes");
    }
    if one.port == Some(0) {
        fault(errors, format!("{prefix}port"), "must lie between 1 and 65535");
    }
    if let Some(path) = &one.path {
        let plain = path.len() <= 2048 && path.starts_with('/') && !path.contains('\0');
        let sound = match one.kind {
            Http => plain && path.bytes().all(|b| b.is_ascii_graphic()),
            _ => plain && path.len() > 1 && !path.split('/').any(|part| part == ".."),
        };
        if !sound {
            let example = if one.kind == Http { "/health?full=1" } else { "/srv/data/orders.db" };
            fault(errors, format!("{prefix}path"), format!("must be a whole path such as {example}"));
        }
    }
    if one.status.is_some_and(|status| !(100..=599).contains(&status)) {
        fault(errors, format!("{prefix}status"), "must lie between 100 and 599");
    }
    if one.sha256.as_ref().is_some_and(|text| !is_hex(text, 64)) {
        fault(errors, format!("{prefix}sha256"), "must be 64 hexadecimal digits in lower case");
    }
    if one.partition.is_some_and(|number| !(1..=128).contains(&number)) {
        fault(errors, format!("{prefix}partition"), "must lie between 1 and 128");
    }
    if let Some(script) = &one.script {
        file_name(&format!("{prefix}script"), script, errors);
    }
    if one.picture.as_ref().is_some_and(|text| !is_hex(text, 16)) {
        fault(errors, format!("{prefix}picture"), "must be 16 hexadecimal digits in lower case");
    }
}

/// Days that exist, each once.
pub(super) fn days(field: &str, days: &[String], errors: &mut Errors) {
    for (index, day) in days.iter().enumerate() {
        let field = format!("{field}[{index}]");
        if Day::parse(day).is_none() {
            fault(errors, field, format!("{day:?} must be one of mon, tue, wed, thu, fri, sat, sun"));
        } else if days.iter().take(index).any(|earlier| earlier == day) {
            fault(errors, field, format!("{day} stands here twice"));
        }
    }
}

fn schedule(prefix: &str, schedule: &DrillSchedule, errors: &mut Errors) {
    duration(&format!("{prefix}every"), &schedule.every, HOUR, 365 * DAY, errors);
    days(&format!("{prefix}days"), &schedule.days, errors);
    window(
        (&format!("{prefix}start"), &format!("{prefix}end")),
        (schedule.start.as_deref(), schedule.end.as_deref()),
        errors,
    );
    zone(&format!("{prefix}timezone"), schedule.timezone.as_deref(), errors);
}

impl Validate for DrillSpec {
    fn check(&self, prefix: &str, errors: &mut Errors) {
        let field = |name: &str| format!("{prefix}{name}");
        file_name(&field("name"), &self.name, errors);
        if self.point.starts_with("pt-") {
            let message = "a point's id is of one group; give a time, or a word such as latest";
            fault(errors, field("point"), message);
        }
        if self.network != "isolated" && self.network.parse::<NetworkId>().is_err() {
            fault(errors, field("network"), "must be `isolated` or the id of a network of the target site");
        }
        if self.assertion.len() > ASSERTIONS_MAX {
            fault(errors, field("assertion"), format!("can't have more than {ASSERTIONS_MAX} entries"));
        }
        for (index, one) in self.assertion.iter().enumerate() {
            assertion(&field(&format!("assertion[{index}].")), one, errors);
        }
        for (name, limit) in [("max_rto", &self.max_rto), ("max_rpo", &self.max_rpo)] {
            if let Some(text) = limit {
                duration(&field(name), text, SECOND, 365 * DAY, errors);
            }
        }
        duration(&field("valid_for"), &self.valid_for, HOUR, 3650 * DAY, errors);
        if let Some(wanted) = &self.schedule {
            schedule(&field("schedule."), wanted, errors);
            if self.keep {
                fault(errors, field("keep"), "can't go with a schedule: each run would leave a test up");
            }
        }
    }
}
