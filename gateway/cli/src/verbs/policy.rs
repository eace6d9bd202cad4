//! `lifeboat policy`: list, show, create, delete.
//!
//! The command line declares what most policies need; windows for resyncs and for bandwidth are Terraform's.

use std::str::FromStr;

use clap::{Args, Subcommand};
use lifeboat_api::{BandwidthLimit, Policy, PolicySpec, RetentionRule};

use super::declared::{self, Listed, Named, Names};
use crate::connect::ConnectionArgs;
use crate::failure::Result;
use crate::output::Output;
use crate::resolve;

/// Declare replication policies: how often, how long, how fast.
#[derive(Args, Debug)]
pub(crate) struct PolicyArgs {
    #[command(flatten)]
    connection: ConnectionArgs,
    #[command(subcommand)]
    verb: PolicyVerb,
}

#[derive(Subcommand, Debug)]
enum PolicyVerb {
    /// List the policies
    List,
    /// Show one
    Show(Named),
    /// Declare a policy
    Create(Wanted),
    /// Delete a policy that nothing uses
    Delete(Named),
}

#[derive(Args, Debug)]
struct Wanted {
    /// Its name, unique in the vault
    #[arg(long)]
    name: String,
    /// The vault it belongs to, by id or name; the only one when left out
    #[arg(long)]
    vault: Option<String>,
    /// Time between recovery points
    #[arg(long, value_name = "DURATION", default_value_t = lifeboat_api::default_interval())]
    interval: String,
    /// Time between application-consistent points
    #[arg(long, value_name = "DURATION")]
    app_consistent_interval: Option<String>,
    /// What is kept, from the newest points to the oldest: all:24h keeps every point for a day, 1h:15d one an hour for
    /// 15 days; may be repeated
    #[arg(long = "retain", value_name = "EVERY:FOR", required = true)]
    retention: Vec<Retain>,
    /// A landed recovery point older than this makes a group unhealthy
    #[arg(long, value_name = "DURATION", default_value_t = lifeboat_api::default_rpo_threshold())]
    rpo_threshold: String,
    /// Most that is sent to the vault, megabits per second
    #[arg(long, value_name = "MBPS")]
    bandwidth_limit: Option<u32>,
    /// auto, off, or zstd:1 to zstd:19
    #[arg(long, default_value_t = lifeboat_api::default_compression())]
    compression: String,
}

/// One rule of a retention schedule: `EVERY:FOR`.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Retain(RetentionRule);

impl FromStr for Retain {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once(':') {
            Some((every, keep_for)) if !every.is_empty() && !keep_for.is_empty() => {
                Ok(Self(RetentionRule { every: every.to_owned(), keep_for: keep_for.to_owned() }))
            }
            _ => Err("expected EVERY:FOR, for example all:24h or 1h:15d".to_owned()),
        }
    }
}

impl Listed for Policy {
    const HEAD: &'static [&'static str] = &["NAME", "INTERVAL", "RETENTION", "RPO LIMIT", "GROUPS", "ID"];

    fn cells(&self, _: &Names) -> Vec<String> {
        let spec = &self.spec;
        let rules = spec.retention.iter().map(|rule| format!("{}:{}", rule.every, rule.keep_for));
        vec![
            spec.name.clone(),
            spec.recovery_point_interval.clone(),
            rules.collect::<Vec<_>>().join(" "),
            spec.rpo_threshold.clone(),
            self.status.group_ids.len().to_string(),
            self.id.to_string(),
        ]
    }
}

pub(crate) async fn run(args: PolicyArgs, output: Output) -> Result<()> {
    let client = args.connection.client()?;
    match args.verb {
        PolicyVerb::List => declared::list::<Policy>(&client, output, "no policy is declared").await,
        PolicyVerb::Show(named) => declared::show::<Policy>(&client, output, &named).await,
        PolicyVerb::Create(wanted) => {
            let limit = |mbps| BandwidthLimit { mbps, days: Vec::new(), start: None, end: None, timezone: None };
            let spec = PolicySpec {
                vault_id: resolve::vault(&client, wanted.vault.as_deref()).await?.id,
                name: wanted.name,
                recovery_point_interval: wanted.interval,
                app_consistent_interval: wanted.app_consistent_interval,
                retention: wanted.retention.into_iter().map(|Retain(rule)| rule).collect(),
                rpo_threshold: wanted.rpo_threshold,
                resync: None,
                bandwidth_limit: wanted.bandwidth_limit.into_iter().map(limit).collect(),
                compression: wanted.compression,
            };
            declared::create::<Policy>(&client, output, &spec).await
        }
        PolicyVerb::Delete(named) => declared::delete::<Policy>(&client, output, &named, "deleted").await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rule_is_every_and_for() {
        let rule = RetentionRule { every: "1h".into(), keep_for: "15d".into() };
        assert_eq!("1h:15d".parse(), Ok(Retain(rule)));
        for wrong in ["1h", ":15d", "all:", ""] {
            assert!(wrong.parse::<Retain>().is_err(), "{wrong:?}");
        }
    }
}
