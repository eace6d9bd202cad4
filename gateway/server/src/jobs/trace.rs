//! Spans of jobs. All of a job's make one trace, whoever does its steps and however often it is begun again: its trace and the span
//! that holds the others are made of the job's id. That one is told by who ends the job, once it is over.

use lifeboat_model::JobId;
use lifeboat_vault::TRACE_TARGET;
use tracing::Span;
use tracing::field::Empty;

use crate::auth::hex;
use crate::records::{AnySpec, JobRecord, StepRecord};

/// `TRACE-SPAN` of the span that holds a job's others.
fn place(id: JobId) -> String {
    let bytes = id.to_bytes();
    let (_, own) = bytes.split_at(8);
    format!("{}-{}", hex(&bytes), hex(own))
}

/// One try at a step.
pub(super) fn step(id: JobId, spec: &AnySpec, step: &StepRecord) -> Span {
    tracing::info_span!(
        target: TRACE_TARGET, "job.step", trace.within = place(id), otel.name = step.step.title(),
        otel.status_message = Empty, lifeboat.job = %id, lifeboat.job.kind = %spec.kind(), lifeboat.job.of = spec.name(),
        lifeboat.group = spec.group().map(display),
    )
}

/// The job itself.
pub(super) fn job(id: JobId, spec: &AnySpec, record: &JobRecord, cause: Option<&str>) {
    // It ends where it is made.
    drop(tracing::info_span!(
        target: TRACE_TARGET, "job", trace.is = place(id), otel.name = format!("job {}", spec.kind()),
        otel.status_message = cause, trace.begun_us = record.started.map(|begun| begun.as_micros()), lifeboat.job = %id,
        lifeboat.job.kind = %spec.kind(), lifeboat.job.of = spec.name(), lifeboat.job.state = %record.state.0,
        lifeboat.group = spec.group().map(display),
    ));
}
