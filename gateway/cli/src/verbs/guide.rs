//! `lifeboat failback --guided`: the way home in three phases, each begun only once the one before is done.
//!
//! ```text
//! 1 bring the home copies forward ──> 2 on a person's word: fail back ──> 3 a new point of each group, from home
//!   nothing stops                       writes stop shortly                 replication runs again
//! ```
//! It keeps no state: where things stand is asked of the gateway. Interrupted at any place and begun again it goes on from there:
//! a job that is under way is followed, what is at home already is at the third phase. What was looked at may be past when a phase is
//! asked for: an interrupted command's last request arrives after it, or somebody else is at it. Then it looks again. Without a word for the second phase it
//! stops before that and says what to do; nothing has stopped then, and the home copies are forward.

use std::collections::BTreeSet;
use std::io::{BufRead as _, IsTerminal as _};
use std::time::Duration;

use lifeboat_api::{
    Client, ClientErrorKind, FailbackMode, FailbackRequest, Group, Job, JobKind, Machine, Plan, Point, PointRequest,
    ProtectionState, ProtectionStatus, RecoveryState, ReprotectRequest, Volume,
};
use lifeboat_model::{GroupId, JobId, Timestamp};
use serde::Serialize;

use super::failover::Of;
use crate::failure::{Exit, Failure, Result};
use crate::output::{Output, note};
use crate::progress::{follow, summary, verdict};
use crate::render::{clean, seconds, size};
use crate::resolve;

/// What is called that its third phase takes.
const LABEL: &str = "failed back";
/// How often, and with what pause, a point that was taken is looked for.
const POINT_LOOKS: u32 = 40;
/// The same, for what is in the way of a phase.
const CHANGE_LOOKS: u32 = 20;
const LOOK: Duration = Duration::from_millis(250);

/// What goes home.
enum Subject {
    Plan(String),
    Machine(String),
    Group(String),
}

/// Where it stands.
struct Stand {
    /// For people: `plan shop`.
    it: String,
    is_home: bool,
    groups: BTreeSet<GroupId>,
    job: Option<JobId>,
}

/// What asking for a phase came to.
enum Begun {
    Job(Box<Job>),
    /// Something else was begun, or done, since it was looked: how it stands now.
    Overtaken(Stand),
}

/// What was done, for programs.
#[derive(Debug, Default, Serialize)]
struct Guided {
    /// The first phase; absent where it wasn't needed.
    reprotect: Option<Job>,
    /// The second; absent where it is at home already.
    failback: Option<Job>,
    /// The third: a point of each group.
    points: Vec<Job>,
}

impl Subject {
    async fn find(client: &Client, of: &Of) -> Result<Self> {
        Ok(match (&of.plan, &of.machine, &of.group) {
            (Some(plan), _, _) => Self::Plan(resolve::find::<Plan>(client, plan).await?.id.to_string()),
            (_, Some(machine), _) => Self::Machine(resolve::find::<Machine>(client, machine).await?.id.to_string()),
            (_, _, named) => Self::Group(resolve::group(client, named.as_deref().unwrap_or_default()).await?),
        })
    }

    async fn look(&self, client: &Client) -> Result<Stand> {
        Ok(match self {
            Self::Plan(id) => {
                let plan: Plan = client.read(id).await?;
                let mut groups = BTreeSet::new();
                for (_, _, machine) in plan.spec.machines() {
                    groups.insert(client.read::<Machine>(&machine.to_string()).await?.spec.group_id);
                }
                for (_, _, volume) in plan.spec.volumes() {
                    groups.extend(client.read::<Volume>(&volume.to_string()).await?.status.group_id);
                }
                let is_home = plan.status.state == RecoveryState::Protected;
                Stand { it: format!("plan {}", plan.spec.name), is_home, groups, job: plan.status.job_id }
            }
            Self::Machine(id) => {
                let machine: Machine = client.read(id).await?;
                let is_home = machine.status.state == RecoveryState::Protected;
                let groups = BTreeSet::from([machine.spec.group_id]);
                Stand { it: format!("machine {}", machine.spec.name), is_home, groups, job: machine.status.job_id }
            }
            Self::Group(id) => {
                let group: Group = client.read(id).await?;
                let is_home = group.status.state == ProtectionState::Protected;
                let groups = BTreeSet::from([group.id]);
                Stand { it: format!("group {}", group.spec.name), is_home, groups, job: group.status.job_id }
            }
        })
    }

    /// Asks for a phase of what is away from home.
    async fn begin(&self, client: &Client, verb: &str, body: &impl Serialize) -> Result<Begun> {
        let asked = match self {
            Self::Plan(id) => client.verb::<Plan>(id, verb, body).await,
            Self::Machine(id) => client.verb::<Machine>(id, verb, body).await,
            Self::Group(id) => client.group_verb(id, verb, body).await,
        };
        let refused = match asked {
            Ok(job) => return Ok(Begun::Job(Box::new(job))),
            Err(error) if error.kind() == ClientErrorKind::Conflict => error,
            Err(error) => return Err(error.into()),
        };
        for _ in 0..CHANGE_LOOKS {
            let now = self.look(client).await?;
            if now.is_home || now.under_way(client).await?.is_some() {
                return Ok(Begun::Overtaken(now));
            }
            // The gateway that answers may not have learned yet what the vault says.
            tokio::time::sleep(LOOK).await;
        }
        Err(refused.into())
    }
}

impl Stand {
    /// The job that is under way; refuses one that isn't of the way home.
    async fn under_way(&self, client: &Client) -> Result<Option<Job>> {
        let Some(id) = self.job else { return Ok(None) };
        let job = client.job(&id.to_string()).await?;
        if job.is_over() {
            return Ok(None);
        }
        if matches!(job.kind, JobKind::Reprotect | JobKind::Failback) {
            return Ok(Some(job));
        }
        Err(Failure::new(
            Exit::Conflict,
            format!(
                "the {} is busy with the job {id} ({}): wait for it with `lifeboat job watch {id}`, then begin again",
                self.it, job.kind
            ),
        ))
    }
}

/// Goes home in three phases.
///
/// # Errors
/// A phase failed or was interrupted; `Conflict` without a word for the second.
pub(super) async fn run(client: &Client, output: Output, of: &Of, mode: FailbackMode, yes: bool) -> Result<()> {
    tokio::select! {
        // Whoever waits for something says what that was.
        biased;
        done = guide(client, output, of, mode, yes) => done,
        _ = tokio::signal::ctrl_c() => Err(Failure::failed(
            "interrupted: what was begun goes on; run the same command again to go on from there",
        )),
    }
}

async fn guide(client: &Client, output: Output, of: &Of, mode: FailbackMode, yes: bool) -> Result<()> {
    let subject = Subject::find(client, of).await?;
    let mut stand = subject.look(client).await?;
    let mut done = Guided::default();
    while let Some(overtaken) = go_home(client, &subject, &stand, mode, yes, &mut done).await? {
        note(&format!("{}: something was begun meanwhile; looking again", overtaken.it));
        stand = overtaken;
    }
    let it = &stand.it;
    note(&format!("{it}: phase 3 of 3, whether replication runs again from home"));
    let mut said = vec![format!("{it} is at home, and replication runs again:")];
    for group in &stand.groups {
        let (job, point) = prove(client, &group.to_string()).await?;
        said.push(point);
        done.points.push(job);
    }
    output.show(&done, || {
        let failback = done.failback.as_ref().map(|job| format!("{}\n", summary(job).trim_end())).unwrap_or_default();
        format!("{failback}{}", clean_lines(&said))
    })
}

/// The first two phases, as far as they are needed. `None` when it is at home; otherwise how it stands since something else overtook it.
async fn go_home(
    client: &Client,
    subject: &Subject,
    stand: &Stand,
    mode: FailbackMode,
    yes: bool,
    done: &mut Guided,
) -> Result<Option<Stand>> {
    let (it, under_way) = (&stand.it, stand.under_way(client).await?);
    let fails_back = under_way.as_ref().is_some_and(|job| job.kind == JobKind::Failback);
    if stand.is_home && !fails_back {
        note(&format!("{it}: at home already; phase 3 is left"));
        return Ok(None);
    }
    let failing_back = if fails_back {
        note(&format!("{it}: phase 2 of 3 is under way"));
        under_way
    } else {
        if let Some(overtaken) = bring_forward(client, subject, stand, mode, under_way, done).await? {
            return Ok(Some(overtaken));
        }
        let expected = expect(client, stand, done.reprotect.as_ref()).await?;
        note(&format!("{it}: {expected}"));
        if !yes {
            word(it).await?;
        }
        None
    };
    note(&format!("{it}: phase 2 of 3, the failback; writes stop for a moment"));
    let job = match failing_back {
        Some(job) => job,
        None => match subject.begin(client, "failback", &FailbackRequest::new(mode)).await? {
            Begun::Job(job) => *job,
            Begun::Overtaken(now) => return Ok(Some(now)),
        },
    };
    done.failback = Some(through(client, job).await?);
    Ok(None)
}

fn clean_lines(lines: &[String]) -> String {
    lines.iter().map(|line| clean(line)).collect::<Vec<_>>().join("\n")
}

/// Waits for a phase's job; what went wrong says how to go on.
async fn through(client: &Client, job: Job) -> Result<Job> {
    let again = "run the same command again to go on from there";
    let job =
        follow(client, job).await.map_err(|failure| Failure::new(failure.exit(), format!("{failure}; {again}")))?;
    match verdict(&job) {
        Some(failure) => Err(Failure::new(failure.exit(), format!("{failure}; {again}"))),
        None => Ok(job),
    }
}

/// The first phase. A new disk has nothing to be brought forward: it is filled once it is in use.
async fn bring_forward(
    client: &Client,
    subject: &Subject,
    stand: &Stand,
    mode: FailbackMode,
    under_way: Option<Job>,
    done: &mut Guided,
) -> Result<Option<Stand>> {
    if mode == FailbackMode::Create && under_way.is_none() {
        note(&format!("{}: phase 1 of 3 is not needed: a new disk is filled once it is in use", stand.it));
        return Ok(None);
    }
    note(&format!("{}: phase 1 of 3, the home copies are brought forward; nothing stops", stand.it));
    let job = match under_way {
        Some(job) => job,
        None => match subject.begin(client, "reprotect", &ReprotectRequest::default()).await? {
            Begun::Job(job) => *job,
            Begun::Overtaken(now) => return Ok(Some(now)),
        },
    };
    done.reprotect = Some(through(client, job).await?);
    Ok(None)
}

/// What is left to move, as far as can be told now.
async fn expect(client: &Client, stand: &Stand, reprotect: Option<&Job>) -> Result<String> {
    let mut statuses = Vec::new();
    for group in &stand.groups {
        let query = [("group", group.to_string())];
        statuses.extend(client.list::<ProtectionStatus>("/v1/protection-status", &query).await?);
    }
    Ok(expected(reprotect, &statuses, Timestamp::now()))
}

/// What a failback would have to move at this moment, and for how long writes would stop for that.
fn expected(reprotect: Option<&Job>, statuses: &[ProtectionStatus], now: Timestamp) -> String {
    let Some(job) = reprotect else {
        return "the stop takes as long as shipping what is not in the vault yet, and as machines take to stop and start".to_owned();
    };
    let since = job.finished.map_or(0.0, |finished| now.seconds_since(finished)).max(0.0);
    let churn: f64 = statuses.iter().map(|status| status.churn_bytes_per_second).sum();
    let backlog: u64 = statuses.iter().map(|status| status.backlog_bytes).sum();
    let written = std::time::Duration::from_secs_f64((churn * since).clamp(0.0, 1e15) / 1e9).as_nanos();
    let left = backlog.saturating_add(u64::try_from(written).unwrap_or(u64::MAX));
    let took = job.started.zip(job.finished).map_or(0.0, |(started, finished)| finished.seconds_since(started));
    let moved = job.result.bytes_changed.unwrap_or(0);
    let stop = "and machines take their time to stop and start";
    if took <= 0.0 || moved < 1 << 20 {
        return format!("about {} are left to move: writes stop for seconds, {stop}", size(left));
    }
    // Both are far below what a double holds exactly.
    let as_float = |bytes: u64| std::time::Duration::from_nanos(bytes).as_secs_f64() * 1e9;
    let speed = as_float(moved) / took;
    format!(
        "about {} are left to move, which takes {} at the speed of the first phase: writes stop for that long, {stop}",
        size(left),
        seconds(as_float(left) / speed)
    )
}

/// Waits for a person's word to go on.
async fn word(it: &str) -> Result<()> {
    let stopped = |why: &str| {
        Failure::new(
            Exit::Conflict,
            format!(
                "{it}: stopped before phase 2, {why}; nothing has stopped, and the home copies are forward. Run the same command again \
                 with --yes to fail back"
            ),
        )
    };
    if !std::io::stdin().is_terminal() || !std::io::stderr().is_terminal() {
        return Err(stopped("since nobody said to go on"));
    }
    note("Fail back now? Type yes to go on:");
    let (told, answer) = tokio::sync::oneshot::channel();
    // A thread of its own: one of the runtime's would be waited for when the program is interrupted.
    std::thread::spawn(move || {
        let mut line = String::new();
        let read = std::io::stdin().lock().read_line(&mut line);
        let _ = told.send(read.map(|_| line).unwrap_or_default());
    });
    let answer = tokio::select! {
        answer = answer => answer.unwrap_or_default(),
        _ = tokio::signal::ctrl_c() => return Err(stopped("interrupted")),
    };
    match answer.trim().to_ascii_lowercase().as_str() {
        "y" | "yes" => Ok(()),
        _ => Err(stopped("as you said")),
    }
}

/// Begins a point of a group; somebody else's that is being taken is waited for first.
async fn take_point(client: &Client, id: &str) -> Result<Job> {
    let request = PointRequest { label: LABEL.to_owned(), ..PointRequest::default() };
    let mut looks = 0_u32;
    loop {
        let refused = match client.group_verb(id, "point", &request).await {
            Ok(job) => return Ok(job),
            Err(error) if error.kind() == ClientErrorKind::Conflict && looks < CHANGE_LOOKS => error,
            Err(error) => return Err(error.into()),
        };
        looks += 1;
        let group: Group = client.read(id).await?;
        let Some(held) = group.status.job_id else {
            // Over already, or the gateway that answers hasn't learned of it yet.
            tokio::time::sleep(LOOK).await;
            continue;
        };
        let job = client.job(&held.to_string()).await?;
        if !job.is_over() && job.kind != JobKind::TakePoint {
            return Err(refused.into());
        }
        follow(client, job).await?;
    }
}

/// The third phase, of a group: a new point, taken at home and landed in the vault.
async fn prove(client: &Client, id: &str) -> Result<(Job, String)> {
    let group: Group = client.read(id).await?;
    let job = through(client, take_point(client, id).await?).await?;
    let missing = || {
        Failure::failed(format!(
            "the group {} is at home, and its new recovery point isn't to be seen in the vault: look at `lifeboat status`",
            group.spec.name
        ))
    };
    let taken = job.result.point_id.ok_or_else(missing)?;
    let path = format!("/v1/points/{taken}");
    let mut looks = 0_u32;
    let point: Point = loop {
        match client.get(&path, &[("group", id.to_owned())]).await {
            Ok(point) => break point,
            // The gateway that answers may not have learned yet that the group is at home.
            Err(error) if error.is_not_found() && looks < POINT_LOOKS => looks += 1,
            Err(error) if error.is_not_found() => return Err(missing()),
            Err(error) => return Err(error.into()),
        }
        tokio::time::sleep(LOOK).await;
    };
    if group.status.health != lifeboat_model::state::Health::Healthy {
        note(&format!("group {} is {}: {}", group.spec.name, group.status.health, group.status.reasons.join("; ")));
    }
    Ok((job, format!("  group {}: point of {}", group.spec.name, point.time)))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::progress::tests::job;

    fn status(churn: f64, backlog: u64) -> ProtectionStatus {
        serde_json::from_value(json!({
            "group_id": "grp-0198f2c0000070008000000000000002", "group": "ledger", "state": "failed-over",
            "active_gateway_id": null, "active_site": null, "health": "healthy", "reasons": [],
            "landed_rpo_seconds": 0.0, "rpo_threshold_seconds": 300.0, "latest_recovery_point": null,
            "backlog_bytes": backlog, "journal_bytes_used": 0, "churn_bytes_per_second": churn, "hydrated_bytes": null,
            "resync": null, "observed": "2026-11-20T10:05:00Z",
        }))
        .expect("a status")
    }

    #[test]
    fn what_is_left_is_told_with_how_long_it_takes() {
        let mut forward = job();
        forward.finished = "2026-11-20T10:05:05Z".parse().ok();
        // Four seconds, 4 MiB: one MiB each second. Since then ten seconds, with as much again written in each.
        let now = "2026-11-20T10:05:15Z".parse().expect("a time");
        let mebibyte = f64::from(1 << 20);
        let told = expected(Some(&forward), &[status(mebibyte / 2.0, 1 << 20), status(mebibyte / 2.0, 0)], now);
        assert!(told.contains("about 11 MiB are left") && told.contains("11 s at the speed"), "{told}");
        forward.result.bytes_changed = Some(4096);
        let told = expected(Some(&forward), &[status(0.0, 0)], now);
        assert!(told.contains("writes stop for seconds"), "{told}");
        assert!(expected(None, &[], now).contains("what is not in the vault yet"));
    }
}
