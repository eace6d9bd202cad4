//! What QEMU says that a machine does.

use serde_json::{Value, json};

use super::qmp::{Qmp, QmpError};

/// What a machine does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Status {
    Running,
    /// Its disks stopped it.
    Paused {
        reason: String,
    },
    /// Somebody paused it by hand.
    Held,
    /// It never ran.
    Unstarted,
    /// It can't go on.
    Broken {
        reason: String,
    },
}

pub(super) async fn status(qmp: &mut Qmp) -> Result<Status, QmpError> {
    let answer = qmp.execute("query-status", json!({})).await?;
    let word = answer.get("status").and_then(Value::as_str).unwrap_or_default();
    Ok(match word {
        "running" => Status::Running,
        "prelaunch" => Status::Unstarted,
        "io-error" => Status::Paused { reason: stopped_by(&qmp.execute("query-block", json!({})).await?) },
        "paused" => Status::Held,
        _ => Status::Broken { reason: format!("QEMU says {word:?}: it can't go on, a start begins anew") },
    })
}

/// Which disks stopped the machine.
fn stopped_by(blocks: &Value) -> String {
    let mut reasons = Vec::new();
    for block in blocks.as_array().into_iter().flatten() {
        let device = block.get("qdev").and_then(Value::as_str).unwrap_or_default();
        let disk = device.split('/').find_map(|part| part.strip_prefix("vd")).unwrap_or("?");
        match block.get("io-status").and_then(Value::as_str) {
            Some("failed") => reasons.push(format!("disk {disk} fails")),
            Some("nospace") => reasons.push(format!("there is no room to write disk {disk}")),
            _ => {}
        }
    }
    if reasons.is_empty() { "a disk failed".to_owned() } else { reasons.join(", ") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_disks_that_stopped_a_machine_are_named() {
        let blocks = json!([
            {"qdev": "/machine/peripheral/vd0/virtio-backend", "io-status": "ok"},
            {"qdev": "/machine/peripheral/vd1/virtio-backend", "io-status": "nospace"},
            {"qdev": "/machine/peripheral/vd2/virtio-backend", "io-status": "failed"},
        ]);
        assert_eq!(stopped_by(&blocks), "there is no room to write disk 1, disk 2 fails");
        assert_eq!(stopped_by(&json!([])), "a disk failed");
    }
}
