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

/// What was asked for.
fn sized(size_bytes: u64) -> VolumeSpec {
    VolumeSpec { size_bytes, ..volume(ProtectionState::Pending, None, &[]).spec }
}

#[test]
fn an_export_is_waited_for_until_its_gateway_says_where_it_is_or_why_not() {
    let export = VolumeExport {
        nbd: None,
        iscsi: Some(IscsiExport { initiators: vec!["iqn.1998-01.com.vmware:esx1".to_owned()] }),
    };
    let spec = VolumeSpec { export: Some(export), ..sized(2 * GIB) };
    let mut found = volume(ProtectionState::Protected, Some(2 * GIB), &[]);
    assert_eq!(progress(&found, &spec), Progress::Done, "an agent's disk is exported by nobody");
    found.status.path = Some("/mnt/lifeboat/volumes/db.img".to_owned());
    assert!(matches!(progress(&found, &spec), Progress::Waiting(_)));
    let mut told = lifeboat_api::ExportStatus { iscsi_target: Some("iqn.x".to_owned()), ..Default::default() };
    found.status.export = Some(told.clone());
    assert!(matches!(progress(&found, &spec), Progress::Waiting(_)), "its portal is missing");
    told.reasons = vec!["there is no iSCSI at this gateway".to_owned()];
    found.status.export = Some(told.clone());
    assert_eq!(progress(&found, &spec), Progress::Done);
    told.reasons.clear();
    told.iscsi_portal = Some("192.0.2.10:3260".to_owned());
    found.status.export = Some(told);
    assert_eq!(progress(&found, &spec), Progress::Done);
}

#[test]
fn waiting_says_for_what() {
    let pending = volume(ProtectionState::Pending, None, &["the gateway primary isn't registered"]);
    assert_eq!(
        progress(&pending, &sized(2 * GIB)),
        Progress::Waiting("it is pending (the gateway primary isn't registered)".to_owned())
    );
    let growing = volume(ProtectionState::Protected, Some(GIB), &[]);
    assert_eq!(progress(&growing, &sized(2 * GIB)), Progress::Waiting("it grows from 1 to 2 GiB".to_owned()));
}

#[test]
fn every_state_ends_the_wait_or_says_why_not() {
    use ProtectionState::{Creating, Deleting, Failed, FailedOver, FailingBack, FailingOver, Pending, Protected};
    for state in [Protected, FailingOver, FailedOver, FailingBack] {
        assert_eq!(progress(&volume(state, Some(2 * GIB), &[]), &sized(2 * GIB)), Progress::Done, "{state}");
        assert!(may_hold_data(&volume(state, None, &[])), "{state}");
    }
    for state in [Pending, Creating, Deleting] {
        assert!(matches!(progress(&volume(state, None, &[]), &sized(2 * GIB)), Progress::Waiting(_)), "{state}");
    }
    assert_eq!(progress(&volume(Failed, None, &["no space"]), &sized(2 * GIB)), Progress::Failed);
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
