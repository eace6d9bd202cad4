//! `lifeboat notice`: the ways through which the gateway that is asked tells people what happens.

use clap::{Args, Subcommand};
use lifeboat_api::{GatewayReport, NoticeTests};

use crate::connect::ConnectionArgs;
use crate::failure::{Failure, Result};
use crate::output::Output;
use crate::render::{Table, clean, maybe};

/// See and test the channels of notices.
#[derive(Args, Debug)]
pub(crate) struct NoticeArgs {
    #[command(flatten)]
    connection: ConnectionArgs,
    #[command(subcommand)]
    verb: NoticeVerb,
}

#[derive(Subcommand, Debug)]
enum NoticeVerb {
    /// List the channels of the gateway that is asked, and how each does
    List,
    /// Send a test through each channel of the gateway that is asked, and say what came of it
    Test,
}

const NONE: &str = "no channel is configured: `[[notice]]` in the gateway's settings makes one";

pub(crate) async fn run(args: NoticeArgs, output: Output) -> Result<()> {
    let client = args.connection.client()?;
    match args.verb {
        NoticeVerb::List => {
            let report: GatewayReport = client.get("/v1/status", &[]).await?;
            output.show(&report.notices, || {
                let mut table = Table::new(&["CHANNEL", "MEANS", "LAST SENT", "WAITING", "DROPPED", "FAILING SINCE"]);
                let mut errors = String::new();
                for channel in &report.notices {
                    table.row([
                        channel.name.clone(),
                        channel.means.clone(),
                        maybe(channel.last_sent),
                        channel.waiting.to_string(),
                        channel.dropped.to_string(),
                        maybe(channel.failing_since),
                    ]);
                    if let Some(error) = &channel.error {
                        errors.push_str(&format!("{}\n", clean(&format!("{}: {error}", channel.name))));
                    }
                }
                format!("{}{errors}", table.or(NONE))
            })
        }
        NoticeVerb::Test => {
            let tests: NoticeTests = client.post("/v1/notice-tests", &serde_json::json!({})).await?;
            output.show(&tests, || {
                let mut table = Table::new(&["CHANNEL", "SENT", "NOTICE", "ERROR"]);
                for test in &tests.results {
                    let sent = if test.sent { "yes" } else { "no" };
                    table.row([
                        test.channel.clone(),
                        sent.to_owned(),
                        test.id.clone(),
                        maybe(test.error.as_deref().map(clean)),
                    ]);
                }
                table.or(NONE)
            })?;
            let failed: Vec<&str> =
                tests.results.iter().filter(|test| !test.sent).map(|test| test.channel.as_str()).collect();
            match failed.as_slice() {
                [] if tests.results.is_empty() => Err(Failure::failed(NONE)),
                [] => Ok(()),
                failed => Err(Failure::failed(format!("no notice went through {}", failed.join(", ")))),
            }
        }
    }
}
