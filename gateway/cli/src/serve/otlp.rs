//! Traces over OTLP, where the standard variables (`OTEL_*`) ask for them. Sent as JSON over HTTP, one of the protocol's encodings.
//!
//! ```text
//! spans of TRACE_TARGET ──over──> queue, bounded ──> a thread of its own ──batches──> POST …/v1/traces
//! settings   what the variables say     layer   from spans to what is told of them     send   one request
//! ```
//! Spans are for people who look for where time went. Nothing waits for them: when the queue is full, or the collector doesn't
//! take them, they are given up and counted. The last ones are sent when the process stops, within [`FINISH_MAX`]. A crash loses those
//! that were not sent. Without the variables no span is made and no thread begun.

mod layer;
mod send;
mod settings;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use lifeboat_server::TraceCounts;
use lifeboat_vault::TRACE_TARGET;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tracing::Subscriber;
use tracing_subscriber::Layer;
use tracing_subscriber::filter::{LevelFilter, filter_fn};
use tracing_subscriber::registry::LookupSpan;

use crate::failure::{Failure, Result};
use layer::{Ended, Spans};
use send::Refused;
pub(crate) use settings::Settings;

/// How long the last spans may take when the process stops.
const FINISH_MAX: Duration = Duration::from_secs(5);
/// Pauses before a batch is sent again that the collector couldn't take just then.
const PAUSES: [Duration; 2] = [Duration::from_secs(1), Duration::from_secs(4)];

/// Until when everything has to be over, once that is known.
type Stop = watch::Receiver<Option<Instant>>;

/// What sends.
#[derive(Debug)]
pub(crate) struct Exporter {
    counts: Arc<TraceCounts>,
    stop: watch::Sender<Option<Instant>>,
    over: oneshot::Receiver<()>,
}

impl Exporter {
    /// What became of the spans.
    pub(crate) const fn counts(&self) -> &Arc<TraceCounts> {
        &self.counts
    }

    /// Sends what is left, within [`FINISH_MAX`].
    pub(crate) async fn finish(self) {
        self.stop.send_replace(Some(Instant::now() + FINISH_MAX));
        if timeout(FINISH_MAX + Duration::from_secs(1), self.over).await.is_err() {
            tracing::debug!("the last spans are given up");
        }
    }
}

/// Begins to send: the layer that is told of spans, and what sends them.
///
/// # Errors
/// The thread can't be started.
pub(super) fn begin<S>(settings: Settings) -> Result<(impl Layer<S>, Exporter)>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
{
    let counts = Arc::new(TraceCounts::default());
    let (sender, receiver) = mpsc::channel(settings.queue_max);
    let (stop, asked) = watch::channel(None);
    let (ended, over) = oneshot::channel();
    let spans = Spans::new(sender, settings.sampler, Arc::clone(&counts));
    let counted = Arc::clone(&counts);
    let begun = std::thread::Builder::new().name("traces".to_owned()).spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        match runtime {
            Ok(runtime) => {
                runtime.block_on(export(&settings, receiver, asked, &counted));
                // A name that is still looked up isn't waited for.
                runtime.shutdown_background();
            }
            Err(error) => tracing::warn!(%error, "no spans are sent: their thread can't begin"),
        }
        // Nobody may wait for it.
        let _ = ended.send(());
    });
    begun.map_err(|error| Failure::failed(format!("traces can't be sent, no thread begins: {error}")))?;
    // Only spans of ours; the level tells other places that they needn't ask.
    let wanted = filter_fn(|metadata| metadata.is_span() && metadata.target() == TRACE_TARGET)
        .with_max_level_hint(LevelFilter::INFO);
    Ok((spans.with_filter(wanted), Exporter { counts, stop, over }))
}

async fn stopping(stop: &mut Stop) {
    // Who could say it is gone: the same.
    drop(stop.wait_for(Option::is_some).await);
}

/// Until nothing may be done any more.
async fn past(stop: &mut Stop) {
    let until = match stop.wait_for(Option::is_some).await {
        Ok(until) => until.unwrap_or_else(Instant::now),
        Err(_) => return,
    };
    sleep_until(until).await;
}

async fn export(settings: &Settings, mut spans: mpsc::Receiver<Ended>, mut stop: Stop, counts: &TraceCounts) {
    let mut failing = false;
    loop {
        let (batch, last) = gather(&mut spans, settings, &mut stop).await;
        if !batch.is_empty() {
            let all = u64::try_from(batch.len()).unwrap_or(u64::MAX);
            let dropped = match deliver(settings, &batch, &mut stop).await {
                Ok(refused) => {
                    if std::mem::take(&mut failing) {
                        tracing::info!("the collector takes spans again");
                    }
                    refused.min(all)
                }
                Err(error) => {
                    if !std::mem::replace(&mut failing, true) {
                        let to = settings.shown();
                        tracing::warn!(
                            to,
                            error,
                            "spans can't be sent: they are given up until the collector takes them"
                        );
                    }
                    all
                }
            };
            counts.exported.fetch_add(all - dropped, Ordering::Relaxed);
            counts.dropped.fetch_add(dropped, Ordering::Relaxed);
        }
        if last && (batch.is_empty() || failing) {
            return;
        }
    }
}

/// Spans that came one after the other, and whether the process stops.
async fn gather(spans: &mut mpsc::Receiver<Ended>, settings: &Settings, stop: &mut Stop) -> (Vec<Ended>, bool) {
    let max = settings.batch_max;
    let mut batch = Vec::new();
    let mut last = tokio::select! {
        biased;
        () = stopping(stop) => true,
        found = spans.recv_many(&mut batch, max) => found == 0,
    };
    let until = sleep(settings.delay);
    tokio::pin!(until);
    while !last && batch.len() < max {
        let room = max - batch.len();
        tokio::select! {
            biased;
            () = stopping(stop) => last = true,
            () = &mut until => break,
            found = spans.recv_many(&mut batch, room) => last = found == 0,
        }
    }
    while batch.len() < max
        && let Ok(span) = spans.try_recv()
    {
        batch.push(span);
    }
    (batch, last)
}

/// Sends a batch, again if that may help. Gives how many spans of it were refused.
async fn deliver(settings: &Settings, batch: &[Ended], stop: &mut Stop) -> Result<u64, String> {
    let body = send::body(settings, batch);
    let mut pauses = PAUSES.iter();
    loop {
        let sent = tokio::select! {
            biased;
            sent = timeout(settings.timeout, send::post(settings, body.clone())) => sent,
            () = past(stop) => return Err("the process stopped".to_owned()),
        };
        let why = match sent {
            Ok(Ok(refused)) => return Ok(refused),
            Ok(Err(Refused::Final(why))) => return Err(why),
            Ok(Err(Refused::Passing(why))) => why,
            Err(_) => format!("no answer within {} ms", settings.timeout.as_millis()),
        };
        let Some(pause) = pauses.next().filter(|_| stop.borrow().is_none()) else { return Err(why) };
        tokio::select! {
            () = stopping(stop) => return Err(why),
            () = sleep(*pause) => {}
        }
    }
}
