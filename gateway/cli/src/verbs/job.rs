//! `lifeboat job`: list, show, watch, cancel, retry, continue.

use clap::{Args, Subcommand};
use lifeboat_api::{Client, ContinueRequest, Job, Machine, Plan, RetryRequest};
use lifeboat_model::JobId;

use crate::connect::ConnectionArgs;
use crate::failure::Result;
use crate::output::{Output, note};
use crate::progress::{headline, settle, summary};
use crate::render::{Table, clean, fields, maybe, size};
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
        /// Of this plan only, by id or name
        #[arg(long, value_name = "ID|NAME")]
        plan: Option<String>,
        /// Of this machine only, by id or name
        #[arg(long, value_name = "ID|NAME")]
        machine: Option<String>,
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
        /// Leave the action out that failed, instead of doing it again
        #[arg(long)]
        skip: bool,
        /// Print the job and don't wait for it
        #[arg(long)]
        no_wait: bool,
    },
    /// Say that the task is done that one waits for
    Continue {
        #[command(flatten)]
        job: JobNamed,
        /// What was done; kept with the job
        #[arg(long, value_name = "TEXT")]
        note: Option<String>,
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
        let mut table = Table::new(&["CREATED", "KIND", "OF", "STATE", "FINISHED", "ID"]);
        for job in &jobs {
            table.row([
                job.created.to_string(),
                job.kind.to_string(),
                job.name.clone(),
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
        of(job),
        ("led by", job.gateway_id.to_string()),
        ("created", job.created.to_string()),
        ("started", maybe(job.started)),
        ("finished", maybe(job.finished)),
    ];
    pairs.extend(job.parent_id.map(|parent| ("part of", parent.to_string())));
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
    let waits = job.steps.iter().find_map(|step| step.waits_for.as_ref());
    let waits = waits.map(|task| {
        format!(
            "\nIt waits for a person: {}\nSay that it is done with: lifeboat job continue {}\n",
            clean(task),
            job.id
        )
    });
    format!("{}{}\n{steps}{}", summary(job), fields(&pairs), waits.unwrap_or_default())
}

/// What a job is about.
fn of(job: &Job) -> (&'static str, String) {
    let (what, id) = match (job.plan_id, job.machine_id, job.group_id) {
        (Some(plan), _, _) => ("plan", plan.to_string()),
        (_, Some(machine), _) => ("machine", machine.to_string()),
        (_, _, Some(group)) => ("group", group.to_string()),
        (None, None, None) => return ("of", job.name.clone()),
    };
    (what, format!("{} ({id})", job.name))
}

pub(crate) async fn run(args: JobArgs, output: Output) -> Result<()> {
    let client = args.connection.client()?;
    match args.verb {
        JobVerb::List { group, plan, machine, job_state, kind, limit } => {
            let mut query = Vec::new();
            if let Some(group) = group {
                query.push(("group", resolve::group(&client, &group).await?));
            }
            if let Some(plan) = plan {
                query.push(("plan", resolve::find::<Plan>(&client, &plan).await?.id.to_string()));
            }
            if let Some(machine) = machine {
                query.push(("machine", resolve::find::<Machine>(&client, &machine).await?.id.to_string()));
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
        JobVerb::Retry { job, skip, no_wait } => {
            let job: Job = client.post(&format!("/v1/jobs/{}:retry", job.id), &RetryRequest { skip }).await?;
            settle(&client, output, job, !no_wait).await
        }
        JobVerb::Continue { job, note, no_wait } => {
            let job: Job = client.post(&format!("/v1/jobs/{}:continue", job.id), &ContinueRequest { note }).await?;
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
