//! `lifeboat job`: list, show, watch, cancel, retry.

use clap::{Args, Subcommand};
use lifeboat_api::{Client, Job};
use lifeboat_model::JobId;
use serde_json::json;

use crate::connect::ConnectionArgs;
use crate::failure::Result;
use crate::output::{Output, note};
use crate::progress::{headline, settle, summary};
use crate::render::{Table, fields, maybe, size};
use crate::resolve;

/// See what is being done, stop it, try it again.
#[derive(Args, Debug)]
pub(crate) struct JobArgs {
    #[command(flatten)]
    connection: ConnectionArgs,
    #[command(subcommand)]
    verb: JobVerb,
}

#[derive(Subcommand, Debug)]
enum JobVerb {
    /// List jobs, the newest first
    List {
        /// Of this group only, by id or name, or by one of its volumes
        #[arg(long, value_name = "ID|NAME")]
        group: Option<String>,
        /// Only those: queued, running, succeeded, failed or cancelled
        #[arg(long, value_name = "STATE")]
        job_state: Option<String>,
        /// Only those: unplanned-failover, failback, take-point, …
        #[arg(long)]
        kind: Option<String>,
        /// At most so many
        #[arg(long, value_name = "COUNT", default_value_t = 100)]
        limit: usize,
    },
    /// Show one with its steps
    Show(JobNamed),
    /// Wait until one is over
    Watch(JobNamed),
    /// Ask one to stop; a step that can't be left in the middle is brought to its end first
    Cancel(JobNamed),
    /// Try one again that failed, from the step that failed
    Retry {
        #[command(flatten)]
        job: JobNamed,
        /// Print the job and don't wait for it
        #[arg(long)]
        no_wait: bool,
    },
}

#[derive(Args, Debug)]
struct JobNamed {
    /// Its id
    id: JobId,
}

async fn list(client: &Client, output: Output, query: &[(&str, String)], limit: usize) -> Result<()> {
    let (jobs, more) = resolve::list::<Job>(client, "/v1/jobs", query, limit).await?;
    output.show(&jobs, || {
        let mut table = Table::new(&["CREATED", "KIND", "GROUP", "STATE", "FINISHED", "ID"]);
        for job in &jobs {
            table.row([
                job.created.to_string(),
                job.kind.to_string(),
                job.group.clone(),
                job.state.to_string(),
                maybe(job.finished),
                job.id.to_string(),
            ]);
        }
        table.or("no job fits")
    })?;
    if more {
        note(&format!("there are more than {limit}: raise --limit to see older ones"));
    }
    Ok(())
}

/// A job with its steps.
fn shown(job: &Job) -> String {
    let mut pairs = vec![
        ("id", job.id.to_string()),
        ("group", format!("{} ({})", job.group, job.group_id)),
        ("led by", job.gateway_id.to_string()),
        ("created", job.created.to_string()),
        ("started", maybe(job.started)),
        ("finished", maybe(job.finished)),
    ];
    pairs.extend(job.cause.clone().map(|cause| ("cause", cause)));
    let mut steps = Table::new(&["STEP", "STATE", "STARTED", "FINISHED", "DONE", "MESSAGE"]);
    for step in &job.steps {
        let done = step.progress.map(|count| format!("{} of {}", size(count.done_bytes), size(count.total_bytes)));
        steps.row([
            step.name.clone(),
            step.state.to_string(),
            maybe(step.started),
            maybe(step.finished),
            maybe(done),
            step.message.clone(),
        ]);
    }
    format!("{}{}\n{steps}", summary(job), fields(&pairs))
}

pub(crate) async fn run(args: JobArgs, output: Output) -> Result<()> {
    let client = args.connection.client()?;
    match args.verb {
        JobVerb::List { group, job_state, kind, limit } => {
            let mut query = Vec::new();
            if let Some(group) = group {
                query.push(("group", resolve::group(&client, &group).await?));
            }
            query.extend(job_state.map(|state| ("state", state)));
            query.extend(kind.map(|kind| ("kind", kind)));
            list(&client, output, &query, limit).await
        }
        JobVerb::Show(named) => {
            let job = client.job(&named.id.to_string()).await?;
            output.show(&job, || shown(&job))
        }
        JobVerb::Watch(named) => {
            let job = client.job(&named.id.to_string()).await?;
            settle(&client, output, job, true).await
        }
        JobVerb::Cancel(named) => {
            let job = client.cancel_job(&named.id.to_string()).await?;
            output.show(&job, || headline(&job))
        }
        JobVerb::Retry { job, no_wait } => {
            let job: Job = client.post(&format!("/v1/jobs/{}:retry", job.id), &json!({})).await?;
            settle(&client, output, job, !no_wait).await
        }
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_job_is_shown_with_its_steps() {
        let text = super::shown(&crate::progress::tests::job());
        let step = text.lines().find(|line| line.starts_with("fetch")).expect("the step is listed");
        assert_eq!(step.split_whitespace().collect::<Vec<_>>().join(" "), "fetch running - - 1 MiB of 4 MiB pass 1");
        assert!(text.starts_with("failback of ledger: running\n"), "{text}");
    }
}
