//! `lifeboat status`: whether everything is protected, how well each group is, what is being done, and what to do next.
//!
//! The first line is the gateway's own sentence; the web console shows the same. Exits with 0 whenever a gateway answered, however
//! unhealthy it says it is: its words are the result. With `--watch` it is shown again and again, until Ctrl-C: in place on a
//! terminal, one after the other elsewhere, and only when something has changed.

use std::time::Duration;

use clap::Args;
use lifeboat_api::summary::in_words;
use lifeboat_api::{
    Approval, ApprovalState, Client, Drill, DrillState, GatewayReport, Job, JobState, ProtectionState,
    ProtectionStatus, Vault,
};
use lifeboat_model::state::Health;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::declared::Names;
use crate::connect::ConnectionArgs;
use crate::failure::{Exit, Failure, Result};
use crate::output::{Output, is_terminal, note, painted};
use crate::progress::line;
use crate::render::{Table, clean, maybe, size};
use crate::verbs::declared::Listed;

/// Jobs, drills and approvals are told up to so many of each.
const TOLD_MAX: usize = 8;
/// A journal that is full in less is worth a step.
const FULL_SOON_SECONDS: f64 = 6.0 * 3600.0;

/// Show how the gateway and everything that it protects is.
#[derive(Args, Debug)]
pub(crate) struct StatusArgs {
    /// Show it again and again, every so many seconds, until Ctrl-C
    #[arg(long, value_name = "SECONDS", num_args = 0..=1, default_missing_value = "2", value_parser = clap::value_parser!(u64).range(1..=3600))]
    watch: Option<u64>,
    #[command(flatten)]
    connection: ConnectionArgs,
}

/// Everything that is shown: the gateway's report, and what goes on beside it.
#[derive(Debug, Serialize)]
struct Status {
    #[serde(flatten)]
    report: GatewayReport,
    /// Jobs that are queued or run.
    jobs: Vec<Job>,
    /// Drills whose evidence is worth nothing: never run, failed, or too old.
    drills_due: Vec<Drill>,
    /// Approvals that somebody waits for.
    approvals_pending: Vec<Approval>,
    /// What to do next, one a line.
    next: Vec<String>,
}

pub(crate) async fn run(args: StatusArgs, output: Output) -> Result<()> {
    let client = args.connection.client()?;
    let Some(seconds) = args.watch else {
        let status = asked(&client).await?;
        return output.show(&status, || shown(&status));
    };
    let every = Duration::from_secs(seconds);
    tokio::select! {
        outcome = watch(&client, output, every) => outcome,
        _ = tokio::signal::ctrl_c() => Ok(()),
    }
}

/// Shows it again and again; a gateway that is away is waited for.
async fn watch(client: &Client, output: Output, every: Duration) -> Result<()> {
    let in_place = output == Output::Text && is_terminal();
    let mut last = String::new();
    loop {
        match asked(client).await {
            Ok(status) => {
                let text = match output {
                    Output::Text => shown(&status),
                    Output::Json => serde_json::to_string(&status)
                        .map_err(|error| Failure::failed(format!("the result can't be written as JSON: {error}")))?,
                };
                if in_place {
                    // Home, the text, and away with what an earlier one left below.
                    output.text(&format!("\u{1b}[H\u{1b}[2J{text}"))?;
                } else if text != last {
                    output.text(&text)?;
                }
                last = text;
            }
            Err(failure) if failure.exit() == Exit::Unreachable => note(&format!("{failure}")),
            Err(failure) => return Err(failure),
        }
        tokio::time::sleep(every).await;
    }
}

async fn asked(client: &Client) -> Result<Status> {
    let report: GatewayReport = client.get("/v1/status", &[]).await?;
    let mut status =
        Status { report, jobs: Vec::new(), drills_due: Vec::new(), approvals_pending: Vec::new(), next: Vec::new() };
    if !status.report.vaults.is_empty() {
        for state in ["queued", "running"] {
            status.jobs.extend(listed::<Job>(client, "/v1/jobs", &[("state", state.to_owned())]).await);
        }
        status.drills_due = listed::<Drill>(client, "/v1/drills", &[]).await;
        status.drills_due.retain(|drill| {
            matches!(drill.status.state, DrillState::NeverRun | DrillState::Failed | DrillState::Expired)
        });
        status.approvals_pending = listed::<Approval>(client, "/v1/approvals", &[]).await;
        status.approvals_pending.retain(|approval| approval.status.state == ApprovalState::Pending);
    }
    status.next = next(&status);
    Ok(status)
}

/// A list that is shown beside the status: one that can't be read is left out, for the rest is worth more.
async fn listed<T: DeserializeOwned>(client: &Client, path: &str, query: &[(&str, String)]) -> Vec<T> {
    match client.list(path, query).await {
        Ok(items) => items,
        Err(error) => {
            note(&format!("{path} can't be read, and is left out: {error}"));
            Vec::new()
        }
    }
}

fn shown(status: &Status) -> String {
    let report = &status.report;
    let place = report.site.as_ref().map(|site| format!(" at {site}")).unwrap_or_default();
    let mount = report.mount_path.as_ref().map(|path| format!(", mounted at {path}")).unwrap_or_default();
    let mut text = String::new();
    if let Some(summary) = &report.summary {
        text += &format!("{}\n\n", painted(summary.health, &clean(&summary.sentence)));
    }
    text += &clean(&format!("gateway {}{place}, version {}, {}{mount}", report.name, report.version, report.health));
    text.push('\n');
    for reason in &report.reasons {
        text += &clean(&format!("  {reason}"));
        text.push('\n');
    }
    let mut vaults = Table::new(Vault::HEAD);
    for vault in &report.vaults {
        vaults.row(vault.cells(&Names::default()));
    }
    text += &format!("\n{}\n\n{}", vaults.or("no vault is attached").trim_end(), protection(&report.protection));
    let jobs = status.jobs.iter().map(|job| format!("{} ({})", line(job), job.id));
    text += &section("Jobs", jobs.collect());
    let drills = status.drills_due.iter().map(|drill| format!("{}: {}", drill.spec.name, evidence(drill)));
    text += &section("Drills whose evidence is worth nothing", drills.collect());
    let approvals = status.approvals_pending.iter().map(|approval| {
        let (spec, until) = (&approval.spec, approval.status.expires);
        format!("{}, asked for by {}, until {until} ({})", spec.name, spec.requested_by, approval.id)
    });
    text += &section("Waiting for a second person", approvals.collect());
    text += &section("Next", status.next.clone());
    text
}

fn section(title: &str, lines: Vec<String>) -> String {
    if lines.is_empty() {
        return String::new();
    }
    let more = lines.len().saturating_sub(TOLD_MAX);
    let shown: String = lines.iter().take(TOLD_MAX).map(|line| format!("  {}\n", clean(line))).collect();
    let more = if more == 0 { String::new() } else { format!("  and {more} more\n") };
    format!("\n{title}\n{shown}{more}")
}

fn evidence(drill: &Drill) -> String {
    let last = drill.status.runs.first();
    match drill.status.state {
        DrillState::Expired => {
            let since = maybe(drill.status.expires);
            format!("passed last, but its evidence has expired at {since}")
        }
        DrillState::Failed => {
            let why = last.and_then(|run| run.outcome.failures.first());
            format!("failed last: {}", why.map_or("it came to no end", String::as_str))
        }
        _ => "never run".to_owned(),
    }
}

/// A table of groups, and below it what is wrong with them.
fn protection(groups: &[ProtectionStatus]) -> String {
    let head =
        ["GROUP", "STATE", "HEALTH", "SITE", "LANDED", "APPLIED", "TARGET", "BACKLOG", "JOURNAL", "LATEST POINT"];
    let mut table = Table::new(&head).yielding(&["LATEST POINT", "SITE", "STATE"]);
    let mut reasons = String::new();
    for group in groups {
        table.row([
            group.group.clone(),
            group.state.to_string(),
            group.health.to_string(),
            maybe(group.active_site.as_ref()),
            maybe(group.landed_rpo_seconds.map(in_words)),
            maybe(group.applied_rpo_seconds.map(in_words)),
            in_words(group.rpo_threshold_seconds),
            size(group.backlog_bytes),
            journal(group),
            maybe(group.latest_recovery_point.as_ref().map(|point| point.time)),
        ]);
        for reason in &group.reasons {
            reasons.push_str(&clean(&format!("{}: {reason}", group.group)));
            reasons.push('\n');
        }
        if let Some(resync) = &group.resync {
            let left = size(resync.bytes_left);
            let waits = resync.waits_for.as_ref().map(|what| format!(", waits for {what}")).unwrap_or_default();
            let said = format!("{}: a resync ({}) has {left} to copy{waits}", group.group, resync.cause.as_str());
            reasons.push_str(&clean(&said));
            reasons.push('\n');
        }
    }
    format!("{}{reasons}", table.or("no group is declared"))
}

/// How full the journal is, and for how long there is room.
fn journal(group: &ProtectionStatus) -> String {
    let Some(limit) = group.journal_bytes_limit.filter(|limit| *limit > 0) else {
        return size(group.journal_bytes_used);
    };
    let percent = u128::from(group.journal_bytes_used).saturating_mul(100) / u128::from(limit);
    match group.journal_full_in_seconds {
        Some(seconds) => format!("{percent}%, full in {}", in_words(seconds)),
        None => format!("{percent}%"),
    }
}

/// What to do next, the most urgent first.
fn next(status: &Status) -> Vec<String> {
    let report = &status.report;
    if report.vaults.is_empty() {
        return vec![
            "lifeboat vault open URL       a vault that is there already: all that recovery needs".to_owned(),
            "lifeboat vault create URL     a new one; or declare one with Terraform".to_owned(),
        ];
    }
    let mut steps = Vec::new();
    if report.protection.is_empty() {
        steps.push(
            "declare what is to be protected: `terraform apply`, or `lifeboat group create` and `lifeboat volume create`"
                .to_owned(),
        );
    }
    for group in &report.protection {
        let name = &group.group;
        match group.state {
            ProtectionState::Failed => steps.push(format!("lifeboat job list --group {name} --job-state failed")),
            ProtectionState::FailedOver if group.health == Health::Healthy => {
                steps.push(format!("lifeboat failback --group {name}     when its home is well again"));
            }
            ProtectionState::Protected if group.health == Health::Critical => steps.push(format!(
                "{name} needs a person (its reasons are above); if its site is lost, at another one: lifeboat failover unplanned --group {name}"
            )),
            _ => {}
        }
        if let Some(seconds) = group.journal_full_in_seconds.filter(|seconds| *seconds < FULL_SOON_SECONDS) {
            steps.push(format!(
                "{name}: bring its vault back, or give it more bandwidth, within {}: then its journal is full, and points are lost",
                in_words(seconds)
            ));
        }
    }
    for job in status.jobs.iter().filter(|job| job.state == JobState::Running) {
        if let Some(task) = job.steps.iter().find_map(|step| step.waits_for.as_ref()) {
            steps.push(format!("{task}; then: lifeboat job continue {}", job.id));
        }
    }
    for approval in &status.approvals_pending {
        steps.push(format!("lifeboat approval show {}     then approve or reject it", approval.id));
    }
    for drill in &status.drills_due {
        steps.push(format!("lifeboat drill run {}", drill.spec.name));
    }
    steps
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn status(protection: Value) -> Status {
        let vault = json!({
            "id": "vlt-0198f2c0000070008000000000000001", "generation": 1, "created": "2026-11-20T10:05:00Z",
            "updated": "2026-11-20T10:05:00Z",
            "spec": { "name": "main", "storage_url": "file:///srv/vault", "storage_endpoint": null, "storage_region": null,
                "encryption": { "key_source": "key_file", "key_file": "/k", "kms_key": null }, "soft_delete_days": 14,
                "immutability": null },
            "status": { "vault_uuid": "vlt-0198f2c0000070008000000000000001", "format_version": 1, "health": "healthy",
                "reasons": [], "bytes_stored": null, "attached_url": "file:///srv/vault" }
        });
        let vaults = if protection == json!([]) { json!([]) } else { json!([vault]) };
        let report: GatewayReport = serde_json::from_value(json!({
            "version": "0.1.0", "process_id": "p", "name": "standby", "site": "recovery", "gateway_ids": [],
            "mount_path": "/mnt", "health": "healthy", "reasons": [], "vaults": vaults, "protection": protection,
            "summary": { "health": "warning", "sentence": "Nothing is protected: no vault is attached.", "groups": 0,
                "groups_protected": 0, "worst_rpo_seconds": null, "worst_rpo_group": null }
        }))
        .expect("a report");
        let (jobs, drills_due, approvals_pending) = (Vec::new(), Vec::new(), Vec::new());
        let mut status = Status { report, jobs, drills_due, approvals_pending, next: Vec::new() };
        status.next = next(&status);
        status
    }

    fn group(changes: Value) -> Value {
        let mut document = json!({
            "group_id": "grp-0198f2c0000070008000000000000002", "group": "ledger", "state": "protected",
            "active_gateway_id": null, "active_site": "onprem", "health": "warning", "reasons": ["the RPO is exceeded"],
            "landed_rpo_seconds": 400.0, "applied_rpo_seconds": 3.0, "rpo_threshold_seconds": 300.0,
            "latest_recovery_point": null, "backlog_bytes": 1_048_576, "journal_bytes_used": 25, "journal_bytes_limit": 100,
            "journal_full_in_seconds": 7300.0, "churn_bytes_per_second": 0.0, "hydrated_bytes": null,
            "observed": "2026-11-20T10:05:00Z"
        });
        if let (Some(fields), Some(changes)) = (document.as_object_mut(), changes.as_object()) {
            fields.extend(changes.clone());
        }
        document
    }

    #[test]
    fn a_blank_gateway_says_what_to_do_next() {
        assert_eq!(
            shown(&status(json!([]))),
            "Nothing is protected: no vault is attached.\n\n\
             gateway standby at recovery, version 0.1.0, healthy, mounted at /mnt\n\n\
             no vault is attached\n\nno group is declared\n\
             Next\n  lifeboat vault open URL       a vault that is there already: all that recovery needs\n\
             \x20 lifeboat vault create URL     a new one; or declare one with Terraform\n"
        );
    }

    #[test]
    fn a_group_is_one_row_and_its_reasons_follow() {
        let told = status(json!([group(json!({}))]));
        let text = protection(&told.report.protection);
        let lines: Vec<String> =
            text.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect();
        assert_eq!(
            lines.get(1).map(String::as_str),
            Some("ledger protected warning onprem 6 min 40 s 3 s 5 min 1 MiB 25%, full in 2 h 1 min -")
        );
        assert_eq!(lines.get(2).map(String::as_str), Some("ledger: the RPO is exceeded"));
        assert!(told.next[0].contains("its journal is full"), "{:?}", told.next);
    }

    #[test]
    fn what_to_do_next_follows_from_what_is() {
        let of = |changes: Value| status(json!([group(changes)])).next;
        let quiet = json!({ "journal_full_in_seconds": null, "health": "healthy" });
        assert_eq!(of(quiet.clone()), Vec::<String>::new());
        let lost = of(json!({ "journal_full_in_seconds": null, "health": "critical" }));
        assert!(lost[0].contains("lifeboat failover unplanned --group ledger"), "{lost:?}");
        let away = of(json!({ "journal_full_in_seconds": null, "health": "healthy", "state": "failed-over" }));
        assert!(away[0].starts_with("lifeboat failback --group ledger"), "{away:?}");
        let mut waits = status(json!([group(quiet)]));
        let mut job = crate::progress::tests::job();
        job.steps[1].waits_for = Some("turn the key".into());
        waits.jobs.push(job);
        assert_eq!(next(&waits), ["turn the key; then: lifeboat job continue job-0198f2c0000070008000000000000001"]);
        let text = shown(&waits);
        assert!(text.contains("Jobs\n  failback of ledger: step 2 of 2, fetch: pass 1 (job-"), "{text}");
    }
}
