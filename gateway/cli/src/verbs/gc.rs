//! `lifeboat vault gc`: rebuilds sparse segments, and deletes what no kept recovery point and no branch needs any more, or says
//! what that would be.
//!
//! Needs the vault and its key, and no gateway; gateways may run and collect meanwhile. What is found is written down and
//! deleted by a later run, once its grace has passed and it was found to be needed by nobody again. Which points are kept is
//! the policies' to say; a group that no policy governs any more keeps all of its points. Interrupted, it leaves what any
//! collection leaves that was cut off: the next one goes on. Exit codes: 0 done, 1 something in a group stands in the way.

use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use lifeboat_api::validate::{parse_duration, retention_tiers};
use lifeboat_api::{GroupSpec, PolicySpec, VaultSpec};
use lifeboat_engine::gc::{self, Count, GcReport, GcSettings, Memory};
use lifeboat_engine::points::PointRetention;
use lifeboat_model::GroupId;
use lifeboat_vault::{Access, Document, Vault, VaultOptions, open_store};
use serde::Serialize;

use super::key::KeyArgs;
use super::verify;
use crate::failure::{Failure, Result};
use crate::output::{Output, note};
use crate::render::{Table, clean, size};

/// What to collect.
#[derive(Args, Debug)]
pub(crate) struct GcArgs {
    /// The vault, as this machine sees it: file:///absolute/directory
    url: String,
    /// Change nothing: say what would go, and how much space that frees
    #[arg(long)]
    dry_run: bool,
    /// This group only, by id or name
    #[arg(long, value_name = "ID|NAME")]
    group: Option<String>,
    /// Time between finding garbage and deleting it, for those who have a dropped recovery point open
    #[arg(long, value_name = "DURATION", default_value = "24h", value_parser = parse_duration)]
    grace: Duration,
    #[command(flatten)]
    key: KeyArgs,
}

/// What happened, or would.
#[derive(Debug, Serialize)]
struct Report {
    dry_run: bool,
    /// Garbage that is there: what goes once its grace has passed.
    garbage: Count,
    deleted: Count,
    groups: Vec<OfGroup>,
}

#[derive(Debug, Serialize)]
struct OfGroup {
    group_id: GroupId,
    name: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    failure: Option<String>,
    #[serde(flatten)]
    found: GcReport,
}

impl OfGroup {
    /// What is there and needed by nobody.
    const fn garbage(&self) -> Count {
        let GcReport { total, needed, deleted, .. } = &self.found;
        Count {
            objects: total.objects.saturating_sub(needed.objects).saturating_sub(deleted.objects),
            bytes: total.bytes.saturating_sub(needed.bytes).saturating_sub(deleted.bytes),
        }
    }
}

/// How long garbage stays, whatever the command line says.
async fn immutable_for(vault: &Vault) -> Result<Duration> {
    let declared = vault.catalog().list("vaults").await?;
    let own = declared.iter().find(|document| document.id == vault.id().to_string());
    let spec = own.and_then(|document| document.spec_as::<VaultSpec>().ok());
    Ok(spec.and_then(|spec| spec.immutability).map(|immutability| immutability.duration()).unwrap_or_default())
}

pub(crate) async fn run(args: GcArgs, output: Output) -> Result<()> {
    let store = open_store(&args.url, Access::Open).await?;
    let vault = Arc::new(Vault::open(store, &args.key.for_here()?, VaultOptions::default()).await?);
    let declared = vault.catalog().list("groups").await?;
    let wanted: Vec<(GroupId, Option<&Document>)> = match &args.group {
        Some(text) => {
            let id = verify::group(&vault, text).await?;
            vec![(id, declared.iter().find(|document| document.id == id.to_string()).map(|found| &**found))]
        }
        None => declared.iter().filter_map(|document| Some((document.id.parse().ok()?, Some(&**document)))).collect(),
    };
    let args = GcArgs { grace: args.grace.max(immutable_for(&vault).await?), ..args };
    let mut report =
        Report { dry_run: args.dry_run, garbage: Count::default(), deleted: Count::default(), groups: Vec::new() };
    let count = wanted.len();
    for (index, (id, document)) in wanted.into_iter().enumerate() {
        let name = document.map(|document| document.name.clone());
        let called = clean(&name.clone().unwrap_or_else(|| id.to_string()));
        note(&format!("{called}: looking at everything that its points need ({} of {count})", index.saturating_add(1)));
        let collected = collect(&vault, id, document, &args).await;
        let (found, failure) = match collected {
            Ok(found) => (found, None),
            Err(failure) if args.group.is_some() => return Err(failure),
            Err(failure) => (GcReport::default(), Some(failure.to_string())),
        };
        let of = OfGroup { group_id: id, name, failure, found };
        if of.failure.is_none() {
            let (garbage, deleted) = (of.garbage(), of.found.deleted);
            note(&format!("{called}: {} is garbage, {} were deleted", size(garbage.bytes), size(deleted.bytes)));
            report.garbage = sum(report.garbage, garbage);
            report.deleted = sum(report.deleted, deleted);
        }
        report.groups.push(of);
    }
    output.show(&report, || shown(&report, args.grace))?;
    match report.groups.iter().filter(|of| of.failure.is_some()).count() {
        0 => Ok(()),
        failed => Err(Failure::failed(format!("the garbage of {failed} of {count} groups could not be collected"))),
    }
}

const fn sum(one: Count, other: Count) -> Count {
    Count { objects: one.objects.saturating_add(other.objects), bytes: one.bytes.saturating_add(other.bytes) }
}

async fn collect(vault: &Arc<Vault>, group: GroupId, document: Option<&Document>, args: &GcArgs) -> Result<GcReport> {
    let retention = retention(vault, document).await?;
    let runner = gc::newest_tenure(vault, group).await?;
    let settings = GcSettings { retention, grace: args.grace, dry_run: args.dry_run, ..GcSettings::default() };
    Ok(gc::run(vault, group, runner, &settings, &mut Memory::default()).await?)
}

/// Which points of a group are kept: what its policy says, and all of them when nothing says anything.
async fn retention(vault: &Arc<Vault>, document: Option<&Document>) -> Result<PointRetention> {
    let everything = PointRetention::everything();
    let Some(spec) = document.and_then(|document| document.spec_as::<GroupSpec>().ok()) else { return Ok(everything) };
    let policies = vault.catalog().list("policies").await?;
    let policy = policies.iter().find(|document| document.id == spec.policy_id.to_string());
    let Some(policy) = policy.and_then(|document| document.spec_as::<PolicySpec>().ok()) else { return Ok(everything) };
    Ok(PointRetention { tiers: retention_tiers(&policy.retention), ..PointRetention::default() })
}

fn shown(report: &Report, grace: Duration) -> String {
    let mut table = Table::new(&[
        "GROUP", "STORED", "NEEDED", "GARBAGE", "DELETED", "LOCKED", "REBUILT", "POINTS", "DROPPED", "ID",
    ]);
    for of in &report.groups {
        let GcReport { total, needed, deleted, denied, points, dropped_points, .. } = &of.found;
        table.row([
            of.name.clone().unwrap_or_default(),
            size(total.bytes),
            size(needed.bytes),
            size(of.garbage().bytes),
            size(deleted.bytes),
            size(denied.bytes),
            size(if report.dry_run { of.found.to_rebuild.bytes } else { of.found.rebuilt.bytes }),
            points.to_string(),
            dropped_points.to_string(),
            of.group_id.to_string(),
        ]);
    }
    let mut text = table.or("the vault declares no group");
    for of in report.groups.iter().filter(|of| of.failure.is_some()) {
        text += &format!("{}: {}\n", of.group_id, clean(of.failure.as_deref().unwrap_or_default()));
    }
    if report.groups.iter().any(|of| of.found.unfinished) {
        text += "more segments are sparse than one run rebuilds: run it again to go on\n";
    }
    let garbage = &report.garbage;
    text += &match report.dry_run {
        true => format!("{} objects would go, {} in all; nothing was changed", garbage.objects, size(garbage.bytes)),
        false => format!(
            "{} objects were deleted, {} in all; {} wait for a run that is at least {} later than the one that found them",
            report.deleted.objects,
            size(report.deleted.bytes),
            size(garbage.bytes),
            hours(grace)
        ),
    };
    text
}

fn hours(time: Duration) -> String {
    match time.as_secs() {
        seconds if seconds.is_multiple_of(3600) => format!("{} h", seconds / 3600),
        seconds => format!("{seconds} s"),
    }
}
