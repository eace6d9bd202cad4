//! Spans: where time goes, for whoever collects traces.
//!
//! All spans have one target, so that they are made only where traces are asked for and never get into the log. Names of their
//! fields, where the standard doesn't give one, begin with `lifeboat.`; what begins with `otel.` or `trace.` is for what exports
//! them. No span says anything that a log may not say: ids and names, never secrets or content.

use std::fmt::Display;
use std::future::Future;

use tracing::{Instrument, Span};

/// The target of every span.
pub const TRACE_TARGET: &str = "lifeboat_trace";

/// Does what a span is about; a failure is the span's too (its field `otel.status_message`).
///
/// # Errors
/// Those of `work`.
pub async fn traced<T, E: Display>(span: Span, work: impl Future<Output = Result<T, E>>) -> Result<T, E> {
    let done = work.instrument(span.clone()).await;
    if let Err(error) = &done {
        span.record("otel.status_message", tracing::field::display(error));
    }
    done
}
