//! `lifeboat point`: list, show, take, pin, unpin, label, suggest, verify. `verify` is in [`super::verify`]: it needs no gateway.

use clap::{Args, Subcommand};
use lifeboat_api::{CleanPoint, Client, LabelRequest, PinRequest, Point, PointRequest, UnpinRequest};
use lifeboat_model::{PointId, Timestamp};

use super::verify::{self, VerifyArgs};
use crate::connect::ConnectionArgs;
use crate::failure::{Failure, Result};
use crate::output::{Output, note};
use crate::progress::settle;
use crate::render::{Table, fields, maybe, size};
use crate::resolve;

/// List, look into, take, pin and verify recovery points.
#[derive(Args, Debug)]
pub(crate) struct PointArgs {
    #[command(flatten)]
    connection: ConnectionArgs,
    #[command(subcommand)]
    verb: PointVerb,
}

#[derive(Subcommand, Debug)]
enum PointVerb {
    /// List the recovery points of a group, the newest first
    List {
        /// The group, by id or name, or by one of its volumes
        #[arg(long, value_name = "ID|NAME")]
        group: String,
        /// On this branch; the active one when left out
        #[arg(long, value_name = "ID")]
        branch: Option<String>,
        /// Not older than a time or an age: 2026-11-20T10:05:00Z, 2h
        #[arg(long, value_name = "TIME|AGE", value_parser = resolve::time)]
        from: Option<Timestamp>,
        /// Not younger than a time or an age
        #[arg(long, value_name = "TIME|AGE", value_parser = resolve::time)]
        to: Option<Timestamp>,
        /// Only those: crash-consistent, app-consistent, manual or final
        #[arg(long)]
        kind: Option<String>,
        /// At most so many
        #[arg(long, value_name = "COUNT", default_value_t = 100)]
        limit: usize,
    },
    /// Show one with its volumes and the root hashes of their content
    Show {
        /// Its id, or `latest`
        #[arg(value_name = "ID|latest", default_value = "latest")]
        point: String,
        /// The group, by id or name, or by one of its volumes
        #[arg(long, value_name = "ID|NAME")]
        group: String,
        /// On this branch; the active one when left out
        #[arg(long, value_name = "ID")]
        branch: Option<String>,
    },
    /// Take one now, and wait until it is in the vault
    Take {
        /// The group, by id or name, or by one of its volumes
        #[arg(long, value_name = "ID|NAME")]
        group: String,
        /// What to call it
        #[arg(long, value_name = "TEXT", default_value = "")]
        label: String,
        /// Between the group's hooks, so that its applications find a state that they know
        #[arg(long)]
        app_consistent: bool,
        /// Print the job and don't wait for it
        #[arg(long)]
        no_wait: bool,
    },
    /// Keep one, whatever the retention schedule says
    Pin {
        #[command(flatten)]
        of: OnePoint,
        /// Until a time, such as 2026-11-20T10:05:00Z; until it is unpinned when left out
        #[arg(long, value_name = "TIME")]
        until: Option<Timestamp>,
        /// Why
        #[arg(long, value_name = "TEXT", default_value = "")]
        reason: String,
    },
    /// Leave one to the retention schedule again
    Unpin {
        #[command(flatten)]
        of: OnePoint,
    },
    /// Call one by another name
    Label {
        #[command(flatten)]
        of: OnePoint,
        /// What to call it; an empty text for nothing
        #[arg(value_name = "TEXT")]
        label: String,
    },
    /// Say which is the newest before anything that looks like an encryption by somebody who shouldn't
    Suggest {
        /// The group, by id or name, or by one of its volumes
        #[arg(value_name = "ID|NAME", required_unless_present = "group", conflicts_with = "group")]
        of: Option<String>,
        /// The same
        #[arg(long, value_name = "ID|NAME")]
        group: Option<String>,
        /// On this branch; the active one when left out
        #[arg(long, value_name = "ID")]
        branch: Option<String>,
    },
    /// Compare a disk with a point, or read a whole point back, from the vault alone: no gateway is asked
    Verify(VerifyArgs),
}

/// A point to say something of.
#[derive(Args, Debug)]
struct OnePoint {
    /// Its id, or `latest`
    #[arg(value_name = "ID|latest")]
    point: String,
    /// The group, by id or name, or by one of its volumes
    #[arg(long, value_name = "ID|NAME")]
    group: String,
}

async fn list(client: &Client, output: Output, query: &[(&str, String)], limit: usize) -> Result<()> {
    let (points, more) = resolve::list::<Point>(client, "/v1/points", query, limit).await?;
    output.show(&points, || {
        let mut table = Table::new(&["TIME", "KIND", "PINNED", "LABEL", "ID", "FILES"]);
        for point in &points {
            table.row([
                point.time.to_string(),
                point.kind.to_string(),
                if point.pinned { "pinned" } else { "" }.to_owned(),
                point.label.clone(),
                point.id.to_string(),
                maybe(point.path.as_ref()),
            ]);
        }
        table.or("no recovery point fits")
    })?;
    if more {
        note(&format!("there are more than {limit}: raise --limit, or narrow with --from and --to"));
    }
    Ok(())
}

async fn show(client: &Client, output: Output, group: String, branch: Option<String>, point: String) -> Result<()> {
    let mut query = vec![("group", group)];
    query.extend(branch.map(|branch| ("branch", branch)));
    let id = named(client, &query, &point).await?;
    let point: Point = client.get(&format!("/v1/points/{id}"), &query).await?;
    output.show(&point, || shown(&point))
}

/// The point that a text names.
async fn named(client: &Client, query: &[(&str, String)], text: &str) -> Result<PointId> {
    if text != "latest" {
        return text.parse().map_err(|error: lifeboat_model::ParseIdError| Failure::usage(error.to_string()));
    }
    let (points, _) = resolve::list::<Point>(client, "/v1/points", query, 1).await?;
    points.first().map(|point| point.id).ok_or_else(|| {
        Failure::not_found("the group has no recovery point in the vault yet: `lifeboat status` says why")
    })
}

/// Says something of a point: the verb, and what goes with it.
async fn mark(
    client: &Client,
    output: Output,
    of: OnePoint,
    verb: &str,
    body: &(impl serde::Serialize + Sync),
) -> Result<()> {
    let group = resolve::group(client, &of.group).await?;
    let id = named(client, &[("group", group.clone())], &of.point).await?;
    let point: Point = client.post(&format!("/v1/groups/{group}/points/{id}:{verb}"), body).await?;
    output.show(&point, || shown(&point))
}

fn shown(point: &Point) -> String {
    let pairs = [
        ("id", point.id.to_string()),
        ("time", point.time.to_string()),
        ("kind", point.kind.to_string()),
        ("label", point.label.clone()),
        ("pinned", if point.pinned { "yes" } else { "no" }.to_owned()),
        ("branch", point.branch_id.to_string()),
        ("epoch", point.epoch.to_string()),
        ("position", point.lsn.to_string()),
        ("files", maybe(point.path.as_ref())),
    ];
    // Only a point that was read by itself says what is in it.
    let Some(held) = &point.volumes else { return fields(&pairs) };
    let mut volumes = Table::new(&["VOLUME", "SIZE", "ROOT", "ID"]);
    for volume in held {
        volumes.row([
            maybe(volume.name.as_ref()),
            size(volume.size_bytes),
            if volume.erased { "erased".to_owned() } else { maybe(volume.root.as_ref()) },
            volume.id.to_string(),
        ]);
    }
    format!("{}\n{}", fields(&pairs), volumes.or("it has no volumes"))
}

fn suggested(found: &CleanPoint) -> String {
    let point = found.point.as_ref();
    let pairs = [
        ("point", maybe(point.map(|point| point.id))),
        ("time", maybe(point.map(|point| point.time))),
        ("confidence", found.confidence.clone()),
        ("reason", found.reason.clone()),
        ("measured since", maybe(found.measured_since)),
        ("files", maybe(point.and_then(|point| point.path.as_ref()))),
    ];
    if found.suspicions.is_empty() {
        return fields(&pairs);
    }
    let mut table = Table::new(&["VOLUME", "SINCE", "UNTIL", "TURNED RANDOM", "CONFIDENCE"]);
    for one in &found.suspicions {
        table.row([
            one.volume.clone().unwrap_or_else(|| one.volume_id.to_string()),
            one.since.to_string(),
            one.until.to_string(),
            size(one.bytes),
            one.confidence.clone(),
        ]);
    }
    format!("{}\n{}", fields(&pairs), table.or(""))
}

pub(crate) async fn run(args: PointArgs, output: Output) -> Result<()> {
    let verb = match args.verb {
        PointVerb::Verify(verify) => return verify::run(verify, output).await,
        verb => verb,
    };
    let client = args.connection.client()?;
    match verb {
        PointVerb::List { group, branch, from, to, kind, limit } => {
            let mut query = vec![("group", resolve::group(&client, &group).await?)];
            query.extend(branch.map(|branch| ("branch", branch)));
            query.extend(from.map(|from| ("from", from.to_string())));
            query.extend(to.map(|to| ("to", to.to_string())));
            query.extend(kind.map(|kind| ("kind", kind)));
            list(&client, output, &query, limit).await
        }
        PointVerb::Show { point, group, branch } => {
            let group = resolve::group(&client, &group).await?;
            show(&client, output, group, branch, point).await
        }
        PointVerb::Take { group, label, app_consistent, no_wait } => {
            let group = resolve::group(&client, &group).await?;
            let job = client.group_verb(&group, "point", &PointRequest { label, app_consistent }).await?;
            settle(&client, output, job, !no_wait).await
        }
        PointVerb::Suggest { of, group, branch } => {
            let text = of.or(group).unwrap_or_default();
            let mut query = vec![("group", resolve::group(&client, &text).await?)];
            query.extend(branch.map(|branch| ("branch", branch)));
            let found: CleanPoint = client.get("/v1/clean-point", &query).await?;
            output.show(&found, || suggested(&found))
        }
        PointVerb::Pin { of, until, reason } => {
            let body = PinRequest { until: until.map(|until| until.to_string()), reason };
            mark(&client, output, of, "pin", &body).await
        }
        PointVerb::Unpin { of } => mark(&client, output, of, "unpin", &UnpinRequest {}).await,
        PointVerb::Label { of, label } => mark(&client, output, of, "label", &LabelRequest { label }).await,
        PointVerb::Verify(verify) => verify::run(verify, output).await,
    }
}
