//! Waiting for a job, and telling how far it is on standard error.
//!
//! On a terminal one line is drawn over and over, with a bar while bytes are counted; elsewhere every change is a plain
//! line, so that a log shows the job's steps. The job belongs to the gateways: when this program is interrupted, or loses
//! its connection for good, the job goes on, and the message says how to see it again.

use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use lifeboat_api::{Client, ClientErrorKind, Job};
use lifeboat_model::state::JobState;

use crate::failure::{Exit, Failure, Result};
use crate::output::{Output, is_watched, note};
use crate::render::{clean, fields, seconds, size};

/// How long one request waits for news.
const NEWS_WITHIN: Duration = Duration::from_secs(20);
/// How long a gateway may be away before waiting is given up: a restart takes less.
const AWAY_MAX: Duration = Duration::from_secs(60);
const TRY_AGAIN_AFTER: Duration = Duration::from_secs(1);

/// Prints a job that was just begun: at once, or when it is over.
///
/// # Errors
/// The job failed or was cancelled, or waiting was given up.
pub(crate) async fn settle(client: &Client, output: Output, job: Job, wait: bool) -> Result<()> {
    if !wait {
        return output.show(&job, || format!("{}: watch it with `lifeboat job watch {}`", headline(&job), job.id));
    }
    let job = follow(client, job).await?;
    if let Some(failure) = verdict(&job) {
        // The document tells a program which step failed; the text would only repeat the error.
        if output == Output::Json {
            output.show(&job, String::new)?;
        }
        return Err(failure);
    }
    output.show(&job, || summary(&job))
}

/// Waits until a job is over.
///
/// # Errors
/// Waiting was given up: interrupted, or no gateway answered for a minute.
pub(crate) async fn follow(client: &Client, job: Job) -> Result<Job> {
    let mut reporter = Reporter::new(is_watched());
    let id = job.id;
    let goes_on = format!("the job goes on; see it with `lifeboat job watch {id}`");
    let over = tokio::select! {
        over = watch(client, job, &mut reporter) => over,
        _ = tokio::signal::ctrl_c() => Err(Failure::failed(format!("interrupted: {goes_on}"))),
    };
    reporter.close();
    over.map_err(|failure| match failure.exit() {
        Exit::Unreachable => Failure::new(Exit::Unreachable, format!("{failure}; {goes_on}")),
        _ => failure,
    })
}

async fn watch(client: &Client, mut job: Job, reporter: &mut Reporter) -> Result<Job> {
    let mut heard = Instant::now();
    loop {
        reporter.tell(&job);
        if job.is_over() {
            return Ok(job);
        }
        match client.watch_job(&job.id.to_string(), job.revision, NEWS_WITHIN).await {
            Ok(news) => {
                job = news;
                heard = Instant::now();
            }
            Err(error) if error.kind() == ClientErrorKind::Unreachable && heard.elapsed() < AWAY_MAX => {
                reporter.say("no gateway answers; trying again");
                tokio::time::sleep(TRY_AGAIN_AFTER).await;
            }
            Err(error) => return Err(error.into()),
        }
    }
}

/// What a job that is over means for the exit code.
pub(crate) fn verdict(job: &Job) -> Option<Failure> {
    match job.state {
        JobState::Failed => {
            let cause = job.cause.as_deref().unwrap_or("no cause is known");
            Some(Failure::failed(format!(
                "the {} of {} failed: {cause}; `lifeboat job show {}` shows its steps",
                job.kind, job.name, job.id
            )))
        }
        JobState::Cancelled => {
            Some(Failure::failed(format!("the {} of {} was cancelled ({})", job.kind, job.name, job.id)))
        }
        JobState::Queued | JobState::Running | JobState::Succeeded => {
            let outcome = job.result.drill.as_ref().filter(|outcome| !outcome.passed)?;
            let failures = outcome.failures.join("; ");
            Some(Failure::failed(format!(
                "the drill {0} didn't pass: {failures}; `lifeboat drill report {0}` shows everything",
                job.name
            )))
        }
    }
}

/// A job in half a line.
pub(crate) fn headline(job: &Job) -> String {
    format!("{} of {}: {}", job.kind, job.name, job.state)
}

/// What a job found and did, for people.
pub(crate) fn summary(job: &Job) -> String {
    let mut first = headline(job);
    if let (Some(started), Some(finished)) = (job.started, job.finished) {
        first = format!("{first} in {}", seconds(finished.seconds_since(started)));
    }
    let result = &job.result;
    let mut pairs: Vec<(&str, String)> = Vec::new();
    let mut add = |name, value: Option<String>| pairs.extend(value.map(|value| (name, value)));
    add("recovery point", result.point_time.map(|time| time.to_string()));
    add("point id", result.point_id.map(|id| id.to_string()));
    add("branch", result.branch_id.map(|id| id.to_string()));
    add("age of the point (RPO)", result.rpo_seconds.map(seconds));
    add("until writable (RTO)", result.rto_seconds.map(seconds));
    add("without writes", result.downtime_seconds.map(seconds));
    add("volumes", result.bytes_volume.map(size));
    add("compared", result.bytes_compared.map(size));
    add("differed", result.bytes_changed.map(size));
    add("from the vault", result.bytes_moved.map(size));
    add("passes", result.passes.map(|passes| passes.to_string()));
    add("orphan branch", result.orphan_branch_id.map(|id| id.to_string()));
    for path in &result.paths {
        add("volume", Some(path.clone()));
    }
    for machine in &result.machines {
        let addresses: Vec<&str> = machine.interfaces.iter().filter_map(|one| one.address.as_deref()).collect();
        let at = if addresses.is_empty() { String::new() } else { format!(" at {}", addresses.join(", ")) };
        add("machine", Some(format!("{}{at}", machine.name)));
    }
    add("notes", result.notes.clone());
    add("drill", result.drill.as_ref().map(|outcome| if outcome.passed { "passed" } else { "not passed" }.to_owned()));
    format!("{}\n{}", clean(&first), fields(&pairs))
}

/// The step that a job is at, with what it says of itself; `None` before the first and after the last.
fn current(job: &Job) -> Option<(usize, &lifeboat_api::JobStep)> {
    job.steps.iter().enumerate().find(|(_, step)| step.state == JobState::Running)
}

/// Where a job is, in one line.
pub(crate) fn line(job: &Job) -> String {
    let Some((index, step)) = current(job) else { return clean(&headline(job)) };
    let mut text =
        format!("{} of {}: step {} of {}, {}", job.kind, job.name, index.saturating_add(1), job.steps.len(), step.name);
    if !step.message.is_empty() {
        text = format!("{text}: {}", step.message);
    }
    clean(&text)
}

/// What is drawn while bytes are counted, and while they aren't.
const COUNTING: &str = "{spinner} [{bar:24}] {binary_bytes}/{binary_total_bytes} {msg}";
const WORKING: &str = "{spinner} {msg}";

fn style(counts: bool) -> ProgressStyle {
    let template = ProgressStyle::with_template(if counts { COUNTING } else { WORKING });
    template.unwrap_or_else(|_| ProgressStyle::default_spinner()).progress_chars("=> ")
}

/// Tells of a job: a line that is drawn over on a terminal, plain lines elsewhere.
#[derive(Debug)]
struct Reporter {
    bar: Option<ProgressBar>,
    counts: bool,
    last: String,
}

impl Reporter {
    fn new(watched: bool) -> Self {
        let bar = watched.then(|| {
            let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr()).with_style(style(false));
            bar.enable_steady_tick(Duration::from_millis(120));
            bar
        });
        Self { bar, counts: false, last: String::new() }
    }

    fn tell(&mut self, job: &Job) {
        if job.state == JobState::Running && current(job).is_none() {
            // Between two steps: the one before stays until the next one begins.
            return;
        }
        self.say(&line(job));
        let Some(bar) = &self.bar else { return };
        let progress = current(job).and_then(|(_, step)| step.progress).filter(|progress| progress.total_bytes > 0);
        if progress.is_some() != self.counts {
            self.counts = progress.is_some();
            bar.set_style(style(self.counts));
        }
        if let Some(progress) = progress {
            bar.set_length(progress.total_bytes);
            bar.set_position(progress.done_bytes.min(progress.total_bytes));
        }
    }

    fn say(&mut self, text: &str) {
        if text == self.last {
            return;
        }
        text.clone_into(&mut self.last);
        match &self.bar {
            Some(bar) => bar.set_message(text.to_owned()),
            None => note(text),
        }
    }

    fn close(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

/// Tells how much of an amount of bytes is done, of work that this program does itself: a bar on a terminal, a line for each tenth
/// elsewhere.
#[derive(Debug)]
pub(crate) struct Amount {
    bar: Option<ProgressBar>,
    what: String,
    tenth: u64,
}

impl Amount {
    /// `what` is done with the bytes, as in "data: read back".
    pub(crate) fn new(watched: bool, what: String) -> Self {
        let bar = watched.then(|| {
            let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr()).with_style(style(true));
            bar.set_message(what.clone());
            bar
        });
        Self { bar, what, tenth: 0 }
    }

    pub(crate) fn reached(&mut self, done: u64, all: u64) {
        if let Some(bar) = &self.bar {
            bar.set_length(all);
            bar.set_position(done.min(all));
            return;
        }
        let tenth = done.saturating_mul(10).checked_div(all).unwrap_or(10);
        if tenth > self.tenth {
            self.tenth = tenth;
            note(&format!("{}: {} %", self.what, tenth.saturating_mul(10)));
        }
    }
}

impl Drop for Amount {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use serde_json::json;

    use super::*;

    /// A failback as the API gives it, in the middle of its second step.
    pub(crate) fn job() -> Job {
        serde_json::from_value(json!({
            "id": "job-0198f2c0000070008000000000000001", "revision": 4, "kind": "failback",
            "group_id": "grp-0198f2c0000070008000000000000002", "group": "ledger",
            "gateway_id": "gw-0198f2c0000070008000000000000003", "state": "running",
            "created": "2026-11-20T10:05:00Z", "started": "2026-11-20T10:05:01Z", "finished": null,
            "steps": [
                { "name": "save-tail", "gateway_id": "gw-0198f2c0000070008000000000000003", "state": "succeeded",
                  "started": null, "finished": null, "message": "", "progress": null },
                { "name": "fetch", "gateway_id": "gw-0198f2c0000070008000000000000003", "state": "running",
                  "started": null, "finished": null, "message": "pass 1",
                  "progress": { "done_bytes": 1_048_576, "total_bytes": 4_194_304 } },
            ],
            "cause": null,
            "result": { "point_id": null, "point_time": null, "branch_id": null, "rpo_seconds": null,
                "rto_seconds": null, "downtime_seconds": 0.25, "bytes_volume": 1_073_741_824_u64, "bytes_compared": null,
                "bytes_changed": 4_194_304, "bytes_moved": 1_048_576, "passes": 2, "orphan_branch_id": null, "paths": [] }
        }))
        .expect("a job")
    }

    #[test]
    fn what_is_drawn_can_be_drawn() {
        for template in [COUNTING, WORKING] {
            assert!(ProgressStyle::with_template(template).is_ok(), "{template}");
        }
        let mut reporter = Reporter { bar: Some(ProgressBar::hidden()), counts: false, last: String::new() };
        reporter.tell(&job());
        let reached = reporter.bar.as_ref().map(|bar| (bar.position(), bar.length()));
        assert_eq!(reached, Some((1 << 20, Some(4 << 20))));
        assert_eq!(bar_message(&reporter), line(&job()));
        let mut between = job();
        between.steps[1].state = JobState::Succeeded;
        reporter.tell(&between);
        assert_eq!(bar_message(&reporter), line(&job()));
        let mut over = job();
        over.state = JobState::Succeeded;
        over.steps[1].state = JobState::Succeeded;
        reporter.tell(&over);
        assert_eq!(bar_message(&reporter), "failback of ledger: succeeded");
        assert!(!reporter.counts);
    }

    #[test]
    fn an_amount_moves_its_bar_or_counts_tenths() {
        let mut drawn = Amount { bar: Some(ProgressBar::hidden()), what: String::new(), tenth: 0 };
        drawn.reached(1 << 20, 4 << 20);
        let reached = drawn.bar.as_ref().map(|bar| (bar.position(), bar.length()));
        assert_eq!(reached, Some((1 << 20, Some(4 << 20))));
        let mut told = Amount::new(false, "data: read back".to_owned());
        let tenths: Vec<u64> = [0, 9, 10, 19, 100, 100]
            .into_iter()
            .map(|done| {
                told.reached(done, 100);
                told.tenth
            })
            .collect();
        assert_eq!(tenths, [0, 0, 1, 1, 10, 10]);
    }

    fn bar_message(reporter: &Reporter) -> String {
        reporter.bar.as_ref().map(ProgressBar::message).unwrap_or_default()
    }

    #[test]
    fn a_line_says_which_step_of_what() {
        assert_eq!(line(&job()), "failback of ledger: step 2 of 2, fetch: pass 1");
    }

    #[test]
    fn the_summary_names_what_was_measured() {
        let mut job = job();
        job.state = JobState::Succeeded;
        job.finished = "2026-11-20T10:05:03.5Z".parse().ok();
        assert_eq!(
            summary(&job),
            "failback of ledger: succeeded in 2.5 s\n\
             without writes  0.25 s\n\
             volumes         1 GiB\n\
             differed        4 MiB\n\
             from the vault  1 MiB\n\
             passes          2\n"
        );
        assert_eq!(verdict(&job), None);
    }

    #[test]
    fn a_failed_job_is_a_failure_with_its_cause() {
        let mut job = job();
        job.state = JobState::Failed;
        job.cause = Some("the vault is full: make room and retry".into());
        let failure = verdict(&job).expect("a failure");
        assert_eq!(failure.exit(), Exit::Failed);
        assert!(failure.to_string().contains("the vault is full: make room and retry"), "{failure}");
        job.state = JobState::Cancelled;
        assert!(verdict(&job).is_some());
    }
}
