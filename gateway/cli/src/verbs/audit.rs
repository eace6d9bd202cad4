//! `lifeboat audit`: list who asked for what, and prove that the log is as it was written.
//!
//! `list` asks a gateway. `verify` asks none: it needs the vault and its key, reads only, and says for every object that was
//! changed, taken away, exchanged or put back which one it is. Exit codes of `verify`: 0 whole, 1 not whole.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use lifeboat_api::{AuditKind, AuditRecord};
use lifeboat_model::Timestamp;
use lifeboat_vault::{Access, AuditHead, AuditReport, Vault, VaultOptions, open_store};
use serde::Deserialize;

use super::key::KeyArgs;
use crate::connect::ConnectionArgs;
use crate::failure::{Failure, Result};
use crate::output::{Output, note};
use crate::render::{Table, clean, maybe};
use crate::resolve;

/// See who asked for what, and prove that the log says so still.
#[derive(Args, Debug)]
pub(crate) struct AuditArgs {
    #[command(subcommand)]
    verb: AuditVerb,
}

#[derive(Subcommand, Debug)]
enum AuditVerb {
    /// List the records of all gateways, the newest first
    List(ListArgs),
    /// Prove a vault's log: every record there, in order and as it was written. Asks no gateway
    Verify(VerifyArgs),
}

#[derive(Args, Debug)]
struct ListArgs {
    #[command(flatten)]
    connection: ConnectionArgs,
    /// Of this somebody only: a token's id or name, or the name of the gateway whose administrator it is
    #[arg(long, value_name = "ID|NAME")]
    who: Option<String>,
    /// Only those after a time, or younger than an age: 2026-11-20T10:05:00Z, 2h
    #[arg(long, value_name = "TIME|AGE", value_parser = resolve::time)]
    since: Option<Timestamp>,
    /// At most so many
    #[arg(long, value_name = "COUNT", default_value_t = 100)]
    limit: usize,
}

#[derive(Args, Debug)]
struct VerifyArgs {
    /// The vault, as this machine sees it: file:///absolute/directory
    url: String,
    /// What this command printed earlier with --output json, kept where nobody of the vault can change it: what it saw must still
    /// be there
    #[arg(long, value_name = "FILE")]
    against: Option<PathBuf>,
    #[command(flatten)]
    key: KeyArgs,
}

pub(crate) async fn run(args: AuditArgs, output: Output) -> Result<()> {
    match args.verb {
        AuditVerb::List(args) => list(args, output).await,
        AuditVerb::Verify(args) => verify(args, output).await,
    }
}

async fn list(args: ListArgs, output: Output) -> Result<()> {
    let client = args.connection.client()?;
    let mut query = Vec::new();
    query.extend(args.since.map(|since| ("since", since.to_string())));
    query.extend(args.who.map(|who| ("who", who)));
    let (records, more) = resolve::list::<AuditRecord>(&client, "/v1/audit", &query, args.limit).await?;
    output.show(&records, || {
        let mut table = Table::new(&["TIME", "GATEWAY", "WHO", "FROM", "WHAT", "OUTCOME"]);
        for record in &records {
            let who = maybe(record.who.as_ref());
            let (from, what) = (maybe(record.from.as_deref()), maybe(record.what.as_deref()));
            table.row([record.time.to_string(), record.gateway.clone(), who, from, what, outcome(record)]);
        }
        table.or("no record fits")
    })?;
    if more {
        note(&format!("there are more than {}: raise --limit to see older ones", args.limit));
    }
    Ok(())
}

fn outcome(record: &AuditRecord) -> String {
    let kind = match record.kind {
        AuditKind::Asked => "asked",
        AuditKind::Answered => "answered",
        AuditKind::Forbidden => "forbidden",
        AuditKind::Refused => "not let in",
        AuditKind::Began => "the log goes on here",
        AuditKind::LeftOut => "left out",
        AuditKind::Approved => "approved",
    };
    let status = record.status.map(|status| status.to_string());
    let parts = [Some(kind.to_owned()), status, record.problem.clone(), record.detail.clone()];
    parts.into_iter().flatten().collect::<Vec<_>>().join(" · ")
}

/// What of an earlier report counts.
#[derive(Deserialize)]
struct Earlier {
    chains: Vec<EarlierChain>,
}

#[derive(Deserialize)]
struct EarlierChain {
    head: Option<AuditHead>,
}

async fn verify(args: VerifyArgs, output: Output) -> Result<()> {
    let expected = match &args.against {
        Some(path) => heads(path)?,
        None => Vec::new(),
    };
    let store = open_store(&args.url, Access::Open).await?;
    let vault = Vault::open(store, &args.key.for_here()?, VaultOptions::default()).await?;
    let report = vault.audit().verify(&expected).await?;
    output.show(&report, || shown(&report, &args.url))?;
    match report.findings.len() {
        0 => Ok(()),
        1 => Err(Failure::failed("1 object of the audit log isn't as it was written")),
        many => Err(Failure::failed(format!("{many} objects of the audit log aren't as they were written"))),
    }
}

fn heads(path: &PathBuf) -> Result<Vec<AuditHead>> {
    let text = std::fs::read(path)
        .map_err(|error| Failure::usage(format!("the earlier report {} can't be read: {error}", path.display())))?;
    let earlier: Earlier = serde_json::from_slice(&text).map_err(|error| {
        Failure::usage(format!(
            "{} isn't what `lifeboat audit verify --output json` prints: {error}; give a file that it was written to",
            path.display()
        ))
    })?;
    Ok(earlier.chains.into_iter().filter_map(|chain| chain.head).collect())
}

fn shown(report: &AuditReport, url: &str) -> String {
    let mut table = Table::new(&["CHAIN", "OBJECTS", "RECORDS", "LAST", "SHA-256 OF THE NEWEST OBJECT"]);
    for chain in &report.chains {
        let head = chain.head.as_ref();
        table.row([
            clean(&chain.writer),
            chain.objects.to_string(),
            chain.records.to_string(),
            maybe(head.map(|head| head.last)),
            maybe(head.map(|head| head.hash.as_str())),
        ]);
    }
    let mut text = table.or("no gateway has written an audit log here");
    text.push('\n');
    for found in &report.findings {
        text += &format!("\n{}: {}", clean(&found.object), clean(&found.what));
    }
    text += if report.findings.is_empty() {
        "\nwhole: every record is there, in order and as it was written"
    } else {
        "\nNOT WHOLE: keep the vault as it is, and compare it with a copy"
    };
    text + &format!(" ({})", clean(url))
}
