//! `lifeboat event`: list.

use clap::{Args, Subcommand};
use lifeboat_api::Event;
use lifeboat_model::Timestamp;

use crate::connect::ConnectionArgs;
use crate::failure::Result;
use crate::output::{Output, note};
use crate::render::Table;
use crate::resolve;

/// See what happened.
#[derive(Args, Debug)]
pub(crate) struct EventArgs {
    #[command(flatten)]
    connection: ConnectionArgs,
    #[command(subcommand)]
    verb: EventVerb,
}

#[derive(Subcommand, Debug)]
enum EventVerb {
    /// List events, the newest first
    List {
        /// Of this group only, by id or name, or by one of its volumes
        #[arg(long, value_name = "ID|NAME")]
        group: Option<String>,
        /// Only those after a time, or younger than an age: 2026-11-20T10:05:00Z, 2h
        #[arg(long, value_name = "TIME|AGE", value_parser = resolve::time)]
        since: Option<Timestamp>,
        /// At most so many
        #[arg(long, value_name = "COUNT", default_value_t = 100)]
        limit: usize,
    },
}

pub(crate) async fn run(args: EventArgs, output: Output) -> Result<()> {
    let client = args.connection.client()?;
    let EventVerb::List { group, since, limit } = args.verb;
    let mut query = Vec::new();
    if let Some(group) = group {
        query.push(("group", resolve::group(&client, &group).await?));
    }
    query.extend(since.map(|since| ("since", since.to_string())));
    let (events, more) = resolve::list::<Event>(&client, "/v1/events", &query, limit).await?;
    output.show(&events, || {
        let mut table = Table::new(&["TIME", "SEVERITY", "KIND", "MESSAGE"]);
        for event in &events {
            table.row([event.time.to_string(), event.severity.to_string(), event.kind.clone(), event.message.clone()]);
        }
        table.or("no event fits")
    })?;
    if more {
        note(&format!("there are more than {limit}: raise --limit to see older ones"));
    }
    Ok(())
}
