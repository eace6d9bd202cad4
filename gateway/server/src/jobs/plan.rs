//! What each kind of job consists of: its steps, in order, and who does them.

use lifeboat_api::JobKind;
use lifeboat_model::GatewayId;

use crate::records::{Step, StepRecord};

/// The steps of setting a group up at `here`.
pub(crate) fn protection(here: GatewayId) -> Vec<StepRecord> {
    [Step::Prerequisites, Step::SetUp, Step::Finalize].into_iter().map(|step| StepRecord::new(step, here)).collect()
}

/// The steps of a failover to `here` from `source`.
pub(crate) fn failover(kind: JobKind, here: GatewayId, source: Option<GatewayId>) -> Vec<StepRecord> {
    match (kind, source) {
        (JobKind::TestFailover, _) => vec![StepRecord::new(Step::TestBranch, here)],
        (JobKind::PlannedFailover, Some(source)) => vec![
            StepRecord::new(Step::Release, source),
            StepRecord::new(Step::Branch, here),
            StepRecord::new(Step::RecordFailover, here),
        ],
        _ => vec![StepRecord::new(Step::Branch, here), StepRecord::new(Step::RecordFailover, here)],
    }
}

/// The steps of a failback from `source` to `home`.
pub(crate) fn failback(home: GatewayId, source: GatewayId) -> Vec<StepRecord> {
    vec![
        StepRecord::new(Step::Rehydrate, home),
        StepRecord::new(Step::Release, source),
        StepRecord::new(Step::LastDelta, home),
        StepRecord::new(Step::TakeOver, home),
        StepRecord::new(Step::Retire, source),
    ]
}

/// The steps of a failback from `source` to a new disk at `home`: the disk is filled once it is in use.
pub(crate) fn failback_to_new_disk(home: GatewayId, source: GatewayId) -> Vec<StepRecord> {
    vec![
        StepRecord::new(Step::Release, source),
        StepRecord::new(Step::TakeOverLazily, home),
        StepRecord::new(Step::Retire, source),
    ]
}

/// The steps of going on from another point at `here`, where the group failed over to.
pub(crate) fn change_point(here: GatewayId) -> Vec<StepRecord> {
    [Step::Release, Step::Branch, Step::RecordFailover, Step::Retire]
        .into_iter()
        .map(|step| StepRecord::new(step, here))
        .collect()
}

/// The steps of giving a group its home at `here`, which `source` has it at now.
pub(crate) fn move_group(here: GatewayId, source: GatewayId) -> Vec<StepRecord> {
    vec![
        StepRecord::new(Step::Release, source),
        StepRecord::new(Step::Branch, here),
        StepRecord::new(Step::MoveHome, here),
        StepRecord::new(Step::Retire, source),
    ]
}

/// The steps of having a group at `here` that a lost gateway served: it goes on from what the vault has.
pub(crate) fn take_over(here: GatewayId) -> Vec<StepRecord> {
    [Step::Branch, Step::MoveHome].into_iter().map(|step| StepRecord::new(step, here)).collect()
}

/// The steps of having a group at home at `here` that a lost gateway was the home of, and that is served elsewhere.
pub(crate) fn move_home(here: GatewayId) -> Vec<StepRecord> {
    vec![StepRecord::new(Step::MoveHome, here)]
}

/// The steps of a resync at `here`.
pub(crate) fn resync(here: GatewayId, compare: bool) -> Vec<StepRecord> {
    let steps: &[Step] = if compare { &[Step::Compare, Step::Resync] } else { &[Step::Resync] };
    steps.iter().map(|step| StepRecord::new(*step, here)).collect()
}

/// Whether a job can still be cancelled when this step is next or runs: nothing has been decided yet that only going on
/// (or a job the other way) can undo.
pub(crate) const fn may_cancel(kind: JobKind, step: Step) -> bool {
    match step {
        // Of a plan: what was done stays, and asking for the same again goes on from there.
        Step::Check
        | Step::OpenTest
        | Step::Act
        | Step::StopMachines
        | Step::StartMachines
        | Step::Groups
        | Step::Reprotect => return true,
        // A drill that is broken off cleans up all the same: its steps look for that themselves.
        Step::RecordPlan | Step::TestPlan | Step::Assert | Step::HashFiles | Step::EndTest | Step::Attest => {
            return false;
        }
        _ => {}
    }
    match kind {
        JobKind::Failback => matches!(step, Step::Rehydrate | Step::Release | Step::LastDelta),
        JobKind::PlannedFailover
        | JobKind::UnplannedFailover
        | JobKind::ChangePoint
        | JobKind::ReplaceGateway
        | JobKind::MoveGroup => matches!(step, Step::Release | Step::Branch),
        _ => true,
    }
}
