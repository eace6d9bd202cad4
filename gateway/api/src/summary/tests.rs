use serde_json::{Value, json};

use super::*;

const NOW: &str = "2026-11-20T10:05:00Z";

fn vault(health: &str, reasons: &[&str]) -> Vault {
    serde_json::from_value(json!({
        "id": "vlt-0198f2c0000070008000000000000001", "generation": 1, "created": NOW, "updated": NOW,
        "spec": { "name": "main", "storage_url": "file:///srv/vault", "storage_endpoint": null, "storage_region": null,
            "encryption": { "key_source": "key_file", "key_file": "/k", "kms_key": null }, "soft_delete_days": 14,
            "immutability": null },
        "status": { "vault_uuid": "vlt-0198f2c0000070008000000000000001", "format_version": 1, "health": health,
            "reasons": reasons, "bytes_stored": null, "attached_url": "file:///srv/vault" }
    }))
    .expect("a vault")
}

/// A group that is well, with some of it changed.
fn group(name: &str, changes: Value) -> ProtectionStatus {
    let mut document = json!({
        "group_id": "grp-0198f2c0000070008000000000000002", "group": name, "state": "protected",
        "active_gateway_id": null, "active_site": "onprem", "health": "healthy", "reasons": [],
        "landed_rpo_seconds": 2.14, "rpo_threshold_seconds": 300.0,
        "latest_recovery_point": { "id": "pt-0198f2c0000070008000000000000003",
            "group_id": "grp-0198f2c0000070008000000000000002", "branch_id": "br-0198f2c0000070008000000000000004", "time": NOW,
            "kind": "crash-consistent", "label": "", "lsn": 7, "epoch": 1, "path": null },
        "backlog_bytes": 0, "journal_bytes_used": 0, "churn_bytes_per_second": 0.0, "hydrated_bytes": null, "observed": NOW
    });
    let fields = document.as_object_mut().expect("an object");
    fields.extend(changes.as_object().expect("an object").clone());
    serde_json::from_value(document).expect("a status")
}

fn said(groups: &[ProtectionStatus]) -> (Health, String) {
    let now = NOW.parse().expect("a time");
    let summary = summarise((Health::Healthy, &[]), &[vault("healthy", &[])], groups, now);
    (summary.health, summary.sentence)
}

#[test]
fn everything_is_protected() {
    let (health, sentence) = said(&[group("ledger", json!({}))]);
    assert_eq!(
        (health, sentence.as_str()),
        (Health::Healthy, "Everything is protected: a disaster now would lose at most 2.1 s of writes.")
    );
    let two = [group("ledger", json!({})), group("web", json!({ "landed_rpo_seconds": 7.0 }))];
    assert_eq!(said(&two).1, "Everything is protected: a disaster now would lose at most 7 s of writes, of web.");
    let idle = group("ledger", json!({ "landed_rpo_seconds": 0.0 }));
    assert_eq!(said(&[idle]).1, "Everything is protected: a disaster now would lose nothing.");
    let away = group("ledger", json!({ "state": "failed-over", "active_site": "recovery" }));
    assert_eq!(
        said(&[away]).1,
        "Everything is protected, ledger away from home: a disaster now would lose at most 2.1 s of writes."
    );
}

#[test]
fn the_worst_is_told() {
    let behind = group("web", json!({ "landed_rpo_seconds": 400.0, "health": "warning" }));
    let (health, sentence) = said(&[group("ledger", json!({})), behind.clone()]);
    assert_eq!(
        (health, sentence.as_str()),
        (
            Health::Warning,
            "1 of 2 groups is behind (web): a disaster now would lose at most 6 min 40 s of writes, of web, more than the 5 min of its policy."
        )
    );
    let lost = group(
        "db",
        json!({ "health": "critical", "reasons": ["the gateway primary was not heard of for more than 120s"] }),
    );
    let (health, sentence) = said(&[group("ledger", json!({})), behind, lost]);
    assert_eq!(
        (health, sentence.as_str()),
        (
            Health::Critical,
            "1 of 3 groups is NOT protected (db): the gateway primary was not heard of for more than 120s."
        )
    );
    let pending = group("db", json!({ "state": "pending", "latest_recovery_point": null, "landed_rpo_seconds": null }));
    let (health, sentence) = said(&[pending]);
    assert_eq!((health, sentence.as_str()), (Health::Warning, "The group is not protected yet (db)."));
    let warned = group("db", json!({ "health": "warning", "reasons": ["its disk is nearly full."] }));
    assert_eq!(said(&[warned]).1, "Everything is protected, but db needs attention: its disk is nearly full.");
    let several: Vec<_> = ["a", "b", "c", "d", "e"].map(|name| group(name, json!({ "health": "critical" }))).into();
    assert_eq!(said(&several).1, "5 of 5 groups are NOT protected (a, b, c, 2 more).");
}

#[test]
fn nothing_is_protected_without_a_vault_or_a_group() {
    let now: Timestamp = NOW.parse().expect("a time");
    let none = summarise((Health::Healthy, &[]), &[], &[], now);
    assert_eq!((none.health, none.sentence.as_str()), (Health::Warning, "Nothing is protected: no vault is attached."));
    assert_eq!(said(&[]).1, "Nothing is protected yet: no group is declared.");
    let deleting = group("db", json!({ "state": "deleting" }));
    assert_eq!(said(&[deleting]).1, "Nothing is protected yet: no group is declared.");
}

#[test]
fn a_vault_that_is_away_and_a_gateway_in_trouble_are_told() {
    let now: Timestamp = NOW.parse().expect("a time");
    let away = [vault("critical", &["connection refused"])];
    let summary =
        summarise((Health::Critical, &[]), &away, &[group("ledger", json!({ "landed_rpo_seconds": 61.0 }))], now);
    assert_eq!(summary.health, Health::Critical);
    assert_eq!(
        summary.sentence,
        "Nothing new reaches the vault main: connection refused; a disaster now would lose at most 61 s of writes, of ledger."
    );
    let reasons = ["its mount is gone".to_owned()];
    let summary = summarise((Health::Critical, &reasons), &[vault("healthy", &[])], &[group("ledger", json!({}))], now);
    assert_eq!(summary.health, Health::Critical);
    assert_eq!(
        summary.sentence,
        "Everything is protected: a disaster now would lose at most 2.1 s of writes, but this gateway is critical: its mount is gone."
    );
    assert_eq!((summary.groups, summary.groups_protected), (1, 1));
    assert_eq!(summary.worst_rpo_group.as_deref(), Some("ledger"));
}

#[test]
fn what_is_old_counts_with_its_age() {
    let old = group("ledger", json!({ "observed": "2026-11-20T10:03:00Z" }));
    assert_eq!(said(&[old]).1, "Everything is protected: a disaster now would lose at most 2 min 2 s of writes.");
}

#[test]
fn times_are_said_as_people_say_them() {
    let shown = [0.0, 0.04, 0.44, 3.0, 9.96, 45.4, 119.6, 400.0, 3600.0, 19_200.0, 273_600.0, f64::NAN].map(in_words);
    assert_eq!(
        shown,
        [
            "0 s",
            "0 s",
            "0.4 s",
            "3 s",
            "10 s",
            "45 s",
            "2 min",
            "6 min 40 s",
            "60 min",
            "5 h 20 min",
            "3 d 4 h",
            "an unknown time"
        ]
    );
}
