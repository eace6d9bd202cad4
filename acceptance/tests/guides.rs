//! The guides, typed as a reader types them: every command of a guide is run, in order, and has to show what the guide says it shows.
//!
//! [`COVERED`] lists the guides that are run from their first block to their last, each by a test here; [`PARTLY`] those that aren't yet,
//! with the number of their blocks that are neither run nor marked as not to be run. That number may only fall.

use std::collections::BTreeMap;

use lifeboat_acceptance::guide::{self, Guide, Mark};

/// Guides that are run, with what has to be there before, by the test of that name.
const COVERED: &[(&str, &str)] = &[
    ("README.md", "the_readme_alone"),
    ("docs/guides/add-a-gateway.md", "a_gateway_is_added_by_key"),
    ("docs/guides/adopt-a-disk.md", "a_disk_is_adopted"),
    ("docs/guides/application-consistent-points.md", "hooks_are_put_where_they_belong"),
    ("docs/guides/carry-out-a-plan.md", "a_plan_is_carried_out"),
    ("docs/guides/check-a-vault.md", "a_vault_is_checked"),
    ("docs/guides/compute-drivers.md", "a_bridge_for_machines"),
    ("docs/guides/drill.md", "a_plan_is_drilled"),
    ("docs/guides/fail-back.md", "a_group_fails_back"),
    ("docs/guides/find-a-clean-point.md", "files_are_encrypted_by_a_stranger"),
    ("docs/guides/get-started.md", "from_nothing_to_home_again"),
    ("docs/guides/keys.md", "keys_come_and_go"),
    ("docs/guides/monitoring.md", "a_token_for_prometheus"),
    ("docs/guides/notices.md", "people_are_told"),
    ("docs/guides/object-storage.md", "vaults_in_object_storage"),
    ("docs/guides/plan-a-recovery.md", "a_plan_is_looked_at"),
    ("docs/guides/protect-a-database.md", "a_database_gets_its_disk"),
    ("docs/guides/protect-a-server.md", "a_server_is_protected_by_an_agent"),
    ("docs/guides/protect-postgresql.md", "a_database_recovers_to_an_application_consistent_point"),
    ("docs/guides/recover.md", "a_blank_machine_recovers"),
    ("docs/guides/replace-a-gateway.md", "a_lost_gateway_is_replaced"),
    ("docs/guides/security.md", "tokens_and_the_audit_log"),
    ("docs/guides/sizing.md", "sizes_are_what_the_functions_say"),
    ("docs/guides/space-in-the-vault.md", "points_are_kept_and_named"),
    ("docs/guides/support-bundle.md", "a_bundle_is_made"),
    ("docs/guides/survive-the-loss-of-a-site.md", "the_printed_runbook"),
    ("docs/guides/troubleshooting.md", "where_to_look_first"),
    ("docs/guides/undo-a-deletion.md", "a_deletion_is_taken_back"),
    ("docs/guides/upgrade.md", "a_restart_keeps_everything"),
    ("docs/guides/use-nbd.md", "volumes_over_nbd"),
    ("docs/guides/web-console.md", "a_token_for_the_web_console"),
    ("examples/quickstart/README.md", "the_quick_start_as_typed"),
];

/// What guides take for granted: two gateways, and what "Get started" declares.
const ESTATE: &[&str] = &["gateways.sh", "declared.sh"];
/// The primary is where the package has a gateway.
const DEFAULT: &[&str] = &["default-place.sh"];

/// Guides with so many blocks that nothing runs and nothing explains.
const PARTLY: &[(&str, usize)] = &[("examples/drills/README.md", 1), ("examples/recovery-plan/README.md", 2)];

fn covered(name: &str, before: &[&[&str]]) {
    let (guide, _) = COVERED.iter().find(|(guide, _)| *guide == name).expect("it is in the list");
    let tally = guide::run(guide, &before.concat()).expect("the guide works as it stands");
    eprintln!("{name}: {} blocks run, {} marked", tally.run, tally.marked);
    assert!(tally.run > 0, "{name}: nothing was run");
}

#[test]
fn the_readme_alone() {
    covered("README.md", &[]);
}

#[test]
fn a_disk_is_adopted() {
    covered("docs/guides/adopt-a-disk.md", &[DEFAULT, ESTATE, &["image.sh"]]);
}

#[test]
fn a_vault_is_checked() {
    covered("docs/guides/check-a-vault.md", &[DEFAULT, ESTATE, &["orders.sh"]]);
}

#[test]
fn a_token_for_the_web_console() {
    covered("docs/guides/web-console.md", &[ESTATE]);
}

#[test]
fn a_plan_is_drilled() {
    covered("docs/guides/drill.md", &[ESTATE, &["orders.sh", "plan.sh"]]);
}

#[test]
fn a_group_fails_back() {
    covered("docs/guides/fail-back.md", &[ESTATE, &["orders.sh", "failed-over.sh"]]);
}

#[test]
fn from_nothing_to_home_again() {
    covered("docs/guides/get-started.md", &[]);
}

#[test]
fn keys_come_and_go() {
    covered("docs/guides/keys.md", &[&["alone.sh", "gateways.sh", "spare-passphrase.sh"]]);
}

#[test]
fn people_are_told() {
    covered("docs/guides/notices.md", &[&["alone.sh", "gateways.sh", "receivers.sh"]]);
}

#[test]
fn vaults_in_object_storage() {
    covered("docs/guides/object-storage.md", &[&["gateways.sh", "storage.sh"]]);
}

#[test]
fn a_plan_is_carried_out() {
    covered("docs/guides/carry-out-a-plan.md", &[ESTATE, &["orders.sh", "unmounted.sh", "plan.sh"]]);
}

#[test]
fn a_plan_is_looked_at() {
    covered("docs/guides/plan-a-recovery.md", &[ESTATE, &["plan.sh"]]);
}

#[test]
fn a_database_gets_its_disk() {
    covered("docs/guides/protect-a-database.md", &[DEFAULT, ESTATE, &["directory.sh"]]);
}

#[test]
fn a_database_recovers_to_an_application_consistent_point() {
    covered("docs/guides/protect-postgresql.md", &[ESTATE]);
}

#[test]
fn a_blank_machine_recovers() {
    covered("docs/guides/recover.md", &[&["alone.sh"], ESTATE, &["orders.sh", "lose-the-primary.sh"]]);
}

#[test]
fn tokens_and_the_audit_log() {
    covered("docs/guides/security.md", &[ESTATE]);
}

#[test]
fn sizes_are_what_the_functions_say() {
    covered("docs/guides/sizing.md", &[]);
}

#[test]
fn points_are_kept_and_named() {
    covered("docs/guides/space-in-the-vault.md", &[ESTATE, &["orders.sh"]]);
}

#[test]
fn a_bundle_is_made() {
    covered("docs/guides/support-bundle.md", &[DEFAULT, ESTATE]);
}

#[test]
fn the_printed_runbook() {
    covered("docs/guides/survive-the-loss-of-a-site.md", &[ESTATE, &["orders.sh"]]);
}

#[test]
fn where_to_look_first() {
    covered("docs/guides/troubleshooting.md", &[ESTATE]);
}

#[test]
fn a_deletion_is_taken_back() {
    covered("docs/guides/undo-a-deletion.md", &[ESTATE, &["orders.sh", "deleted.sh"]]);
}

#[test]
fn a_restart_keeps_everything() {
    covered("docs/guides/upgrade.md", &[ESTATE]);
}

#[test]
fn the_quick_start_as_typed() {
    covered("examples/quickstart/README.md", &[]);
}

#[test]
fn a_gateway_is_added_by_key() {
    covered("docs/guides/add-a-gateway.md", &[&["first-of-two.sh"]]);
}

#[test]
fn hooks_are_put_where_they_belong() {
    covered("docs/guides/application-consistent-points.md", &[ESTATE, &["orders.sh"]]);
}

#[test]
fn a_bridge_for_machines() {
    covered("docs/guides/compute-drivers.md", &[]);
}

#[test]
fn files_are_encrypted_by_a_stranger() {
    covered("docs/guides/find-a-clean-point.md", &[DEFAULT, &["alone.sh"], ESTATE, &["encrypted.sh"]]);
}

#[test]
fn a_token_for_prometheus() {
    covered("docs/guides/monitoring.md", &[ESTATE]);
}

#[test]
fn a_server_is_protected_by_an_agent() {
    covered("docs/guides/protect-a-server.md", &[&["process-server.sh", "gateways.sh", "declared.sh", "server.sh"]]);
}

#[test]
fn a_lost_gateway_is_replaced() {
    covered("docs/guides/replace-a-gateway.md", &[ESTATE, &["orders.sh", "lose-the-primary.sh", "nobody-is-named.sh"]]);
}

#[test]
fn volumes_over_nbd() {
    covered("docs/guides/use-nbd.md", &[DEFAULT, &["alone.sh", "nbd.sh"], ESTATE, &["old-disk.sh"]]);
}

/// How a guide's blocks are meant.
fn counted(guide: &Guide) -> (usize, usize, usize) {
    guide.blocks.iter().fold((0, 0, 0), |(run, marked, neither), block| match block.mark {
        Mark::Unknown => (run, marked, neither + 1),
        Mark::Not(_) => (run, marked + 1, neither),
        Mark::Meanwhile(_) => (run, marked, neither),
        _ => (run + 1, marked, neither),
    })
}

#[test]
fn every_block_is_run_or_says_why_not() {
    let tests =
        std::fs::read_to_string(file!().rsplit('/').next().map(|name| format!("tests/{name}")).unwrap()).unwrap();
    let partly: BTreeMap<&str, usize> = PARTLY.iter().copied().collect();
    let mut faults = Vec::new();
    for guide in guide::all().unwrap() {
        let name = guide.name();
        let (run, marked, neither) = counted(&guide);
        let is_covered = COVERED.iter().any(|(covered, _)| *covered == name);
        // What nobody runs yet counts as neither.
        let (run, neither) = if is_covered { (run, neither) } else { (0, neither + run) };
        eprintln!("{name}: {run} run, {marked} marked, {neither} neither");
        let allowed = if is_covered { 0 } else { partly.get(&*name).copied().unwrap_or(0) };
        if neither > allowed {
            faults.push(format!("{name}: {neither} blocks are neither run nor marked, and only {allowed} may be"));
        } else if neither < allowed {
            faults.push(format!("{name}: only {neither} blocks are neither run nor marked any more: say so in PARTLY"));
        }
    }
    for (name, test) in COVERED {
        let (_, body) = tests.split_once(&format!("#[test]\nfn {test}() {{")).expect(test);
        let body = body.split("\n}\n").next().unwrap();
        assert!(body.contains(&format!("covered(\"{name}\"")), "{test} does not run {name}");
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}
