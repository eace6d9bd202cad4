//! `lifeboat status`: the answering gateway's account of itself, its vaults and how well each group is protected.
//!
//! Exits with 0 whenever a gateway answered, however unhealthy it says it is: its words are the result.

use clap::Args;
use lifeboat_api::{GatewayReport, ProtectionStatus, Vault};

use super::declared::Names;
use crate::connect::ConnectionArgs;
use crate::failure::Result;
use crate::output::Output;
use crate::render::{Table, clean, fields, maybe, seconds, size};
use crate::verbs::declared::Listed;

/// Show how the gateway and everything that it protects is.
#[derive(Args, Debug)]
pub(crate) struct StatusArgs {
    #[command(flatten)]
    connection: ConnectionArgs,
}

pub(crate) async fn run(args: StatusArgs, output: Output) -> Result<()> {
    let client = args.connection.client()?;
    let report: GatewayReport = client.get("/v1/status", &[]).await?;
    output.show(&report, || shown(&report))
}

fn shown(report: &GatewayReport) -> String {
    let place = report.site.as_ref().map(|site| format!(" at {site}")).unwrap_or_default();
    let mut pairs = vec![
        ("gateway", format!("{}{place}", report.name)),
        ("version", report.version.clone()),
        ("health", report.health.to_string()),
        ("mount", maybe(report.mount_path.as_ref())),
    ];
    pairs.extend(report.reasons.iter().map(|reason| ("reason", reason.clone())));
    let mut vaults = Table::new(Vault::HEAD);
    for vault in &report.vaults {
        vaults.row(vault.cells(&Names::default()));
    }
    let vaults = vaults.or("no vault is attached: `lifeboat vault open` or `lifeboat vault create`");
    format!("{}\n{}\n\n{}", fields(&pairs), vaults.trim_end(), protection(&report.protection))
}

/// A table of groups, and below it what is wrong with them.
fn protection(groups: &[ProtectionStatus]) -> String {
    let head = ["GROUP", "STATE", "HEALTH", "ACTIVE SITE", "RPO", "LIMIT", "BACKLOG", "LATEST POINT"];
    let mut table = Table::new(&head);
    let mut reasons = String::new();
    for group in groups {
        table.row([
            group.group.clone(),
            group.state.to_string(),
            group.health.to_string(),
            maybe(group.active_site.as_ref()),
            maybe(group.landed_rpo_seconds.map(seconds)),
            seconds(group.rpo_threshold_seconds),
            size(group.backlog_bytes),
            maybe(group.latest_recovery_point.as_ref().map(|point| point.time)),
        ]);
        for reason in &group.reasons {
            reasons.push_str(&clean(&format!("{}: {reason}", group.group)));
            reasons.push('\n');
        }
    }
    format!("{}{reasons}", table.or("no group is declared"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_blank_gateway_says_what_to_do_next() {
        let report: GatewayReport = serde_json::from_value(json!({
            "version": "0.1.0", "process_id": "p", "name": "standby", "site": "recovery", "gateway_ids": [],
            "mount_path": "/mnt", "health": "healthy", "reasons": [], "vaults": [], "protection": []
        }))
        .expect("a report");
        assert_eq!(
            shown(&report),
            "gateway  standby at recovery\nversion  0.1.0\nhealth   healthy\nmount    /mnt\n\n\
             no vault is attached: `lifeboat vault open` or `lifeboat vault create`\n\nno group is declared"
        );
    }

    #[test]
    fn a_group_is_one_row_and_its_reasons_follow() {
        let group: ProtectionStatus = serde_json::from_value(json!({
            "group_id": "grp-0198f2c0000070008000000000000002", "group": "ledger", "state": "protected",
            "active_gateway_id": null, "active_site": "onprem", "health": "warning", "reasons": ["the RPO is exceeded"],
            "landed_rpo_seconds": 400.5, "rpo_threshold_seconds": 300.0, "latest_recovery_point": null,
            "backlog_bytes": 1_048_576, "journal_bytes_used": 0, "churn_bytes_per_second": 0.0, "hydrated_bytes": null,
            "observed": "2026-11-20T10:05:00Z"
        }))
        .expect("a status");
        let text = protection(&[group]);
        let lines: Vec<String> =
            text.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect();
        assert_eq!(lines.get(1).map(String::as_str), Some("ledger protected warning onprem 400.5 s 300 s 1 MiB -"));
        assert_eq!(lines.get(2).map(String::as_str), Some("ledger: the RPO is exceeded"));
    }
}
