//! When a volume is there, and when it never will be.

use super::*;
use lifeboat_api::VolumeStatus;
use serde_json::json;

const GIB: u64 = 1 << 30;

fn volume(state: ProtectionState, served: Option<u64>, reasons: &[&str]) -> Volume {
    let time = "2026-11-20T10:05:00Z";
    let zeros = format!("{:032x}", 7);
    let status = VolumeStatus {
        state,
        size_bytes: served,
        reasons: reasons.iter().map(|reason| (*reason).to_owned()).collect(),
        ..VolumeStatus::default()
    };
    let spec = json!({"name": "db", "gateway_id": format!("gw-{zeros}"), "size_bytes": 2 * GIB, "policy_id": format!("pol-{zeros}")});
    serde_json::from_value(json!({
        "id": format!("vol-{zeros}"), "generation": 1, "created": time, "updated": time, "spec": spec, "status": status,
    }))
    .unwrap()
}

#[test]
fn waiting_says_for_what() {
    let pending = volume(ProtectionState::Pending, None, &["the gateway primary isn't registered"]);
    assert_eq!(
        progress(&pending, 2 * GIB),
        Progress::Waiting("it is pending (the gateway primary isn't registered)".to_owned())
    );
    let growing = volume(ProtectionState::Protected, Some(GIB), &[]);
    assert_eq!(progress(&growing, 2 * GIB), Progress::Waiting("it grows from 1 to 2 GiB".to_owned()));
}

#[test]
fn every_state_ends_the_wait_or_says_why_not() {
    use ProtectionState::{Creating, Deleting, Failed, FailedOver, FailingBack, FailingOver, Pending, Protected};
    for state in [Protected, FailingOver, FailedOver, FailingBack] {
        assert_eq!(progress(&volume(state, Some(2 * GIB), &[]), 2 * GIB), Progress::Done, "{state}");
        assert!(may_hold_data(&volume(state, None, &[])), "{state}");
    }
    for state in [Pending, Creating, Deleting] {
        assert!(matches!(progress(&volume(state, None, &[]), 2 * GIB), Progress::Waiting(_)), "{state}");
    }
    assert_eq!(progress(&volume(Failed, None, &["no space"]), 2 * GIB), Progress::Failed);
    for state in [Pending, Creating, Failed] {
        assert!(!may_hold_data(&volume(state, None, &[])), "{state}");
    }
}

#[test]
fn a_name_that_is_taken_is_explained() {
    let said = stands_already(&volume(ProtectionState::Protected, None, &[])).to_string();
    for part in ["(name)", "untaint", "terraform import lifeboat_volume.NAME vol-", "moved", "allow_replace"] {
        assert!(said.contains(part), "{part} not in {said}");
    }
}
