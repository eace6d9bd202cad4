//! What people may not ask of something because of what runs beside it. The jobs of plans ask their groups for things too,
//! and aren't held up by themselves.

use lifeboat_api::JobKind;
use lifeboat_model::{BranchId, GroupId, JobId};

use crate::http::error::{ApiError, ApiResult};
use crate::records::{AnySpec, RecoveryRecord, Subject, kind, status};
use crate::vaults::Snapshot;

/// Plans and machines, whose tests and jobs go through several groups; and gateways that are replaced.
const PROGRAMS: [(&str, &str); 3] = [(kind::PLANS, "plan"), (kind::MACHINES, "machine"), (kind::GATEWAYS, "gateway")];

/// Whether a job moves groups or their machines, so that nobody else may meanwhile.
const fn moves(kind: JobKind) -> bool {
    matches!(
        kind,
        JobKind::PlannedFailover
            | JobKind::UnplannedFailover
            | JobKind::ChangePoint
            | JobKind::Commit
            | JobKind::Reprotect
            | JobKind::Failback
            | JobKind::StartMachine
            | JobKind::StopMachine
            | JobKind::ReplaceGateway
            | JobKind::MoveGroup
    )
}

/// Refuses to move groups while the job of a plan or a machine other than `own` moves one of them.
///
/// # Errors
/// [`ApiError`] of a conflict, which names that job.
pub(crate) fn refuse_to_move(
    snapshot: &Snapshot,
    wanted: JobKind,
    groups: &[GroupId],
    own: Option<Subject>,
) -> ApiResult<()> {
    if !moves(wanted) {
        return Ok(());
    }
    for (of, what) in PROGRAMS {
        for document in snapshot.of(of) {
            if own.is_some_and(|own| own.kind() == of && own.id() == document.id) {
                continue;
            }
            let record: RecoveryRecord = status(document);
            let Some((job, spec)) = record.job.and_then(|job| program(snapshot, job).map(|spec| (job, spec))) else {
                continue;
            };
            let AnySpec::Program(spec) = spec else { continue };
            if let Some(shared) = spec.groups.iter().find(|member| moves(spec.kind) && groups.contains(&member.group)) {
                return Err(ApiError::conflict(format!(
                    "the group {} is in the hands of the {what} {}, whose {} runs ({job}): wait for it with `lifeboat job \
                     watch {job}`, or cancel it",
                    shared.name, document.name, spec.kind
                )));
            }
        }
    }
    Ok(())
}

fn program(snapshot: &Snapshot, job: JobId) -> Option<AnySpec> {
    snapshot.get(kind::JOBS, &job.to_string())?.spec_as().ok()
}

/// The branches of a group that are part of a test of a plan or a machine, each with whose test it is.
pub(crate) fn tests_of_programs(snapshot: &Snapshot, group: GroupId) -> Vec<(BranchId, String)> {
    let mut found = Vec::new();
    for (of, what) in PROGRAMS {
        for document in snapshot.of(of) {
            let record: RecoveryRecord = status(document);
            let members = record.tests.iter().flat_map(|test| &test.groups).filter(|member| member.group == group);
            let whose = || format!("the {what} {}", document.name);
            found.extend(members.map(|member| (BranchId::from_bytes(member.job.to_bytes()), whose())));
        }
    }
    found
}
