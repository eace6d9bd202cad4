//! From spans to what is told of them.
//!
//! A span is told once it is over. Its trace is that of the span it is made in; of a caller elsewhere (`trace.parent`, the
//! W3C's header); of a job (`trace.within`: `TRACE-SPAN`, which every gateway makes of the job's id); or a new one. Whether a trace is
//! told is decided where it begins, and holds for all of it.

use std::fmt::Debug;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use lifeboat_server::TraceCounts;
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tracing::Subscriber;
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::Context;
use tracing_subscriber::registry::LookupSpan;

use super::settings::Sampler;

/// Characters of a text in a span.
const TEXT_MAX: usize = 1024;

/// A span that is over.
#[derive(Debug)]
pub(super) struct Ended {
    pub(super) name: String,
    pub(super) place: Place,
    pub(super) begun: SystemTime,
    pub(super) ended: SystemTime,
    pub(super) fields: Fields,
}

/// Where a span is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) trace: [u8; 16],
    pub(super) id: [u8; 8],
    pub(super) parent: Option<[u8; 8]>,
    pub(super) sampled: bool,
}

/// What a span says.
#[derive(Debug, Default)]
pub(super) struct Fields {
    pub(super) attributes: Vec<(&'static str, Value)>,
    pub(super) error: Option<String>,
    pub(super) kind: Kind,
    name: Option<String>,
    above: Option<Above>,
    own: Option<([u8; 16], [u8; 8])>,
    begun: Option<SystemTime>,
}

/// Whom a span answers or asks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Kind {
    #[default]
    Internal = 1,
    Server = 2,
    Client = 3,
}

/// What a span is in that isn't of this process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Above {
    trace: [u8; 16],
    span: [u8; 8],
    /// Whether it is told, if anybody has decided that.
    sampled: Option<bool>,
}

fn bytes<const N: usize>(text: &str) -> Option<[u8; N]> {
    let digits = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
    if text.len() != 2 * N || !text.bytes().all(digits) {
        return None;
    }
    let mut found = [0; N];
    for (place, pair) in found.iter_mut().zip(text.as_bytes().chunks(2)) {
        *place = u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()?;
    }
    // All zeroes is no id.
    (found != [0; N]).then_some(found)
}

/// `TRACE-SPAN`.
fn pair(text: &str) -> Option<([u8; 16], [u8; 8])> {
    let (trace, span) = text.split_once('-')?;
    bytes(trace).zip(bytes(span))
}

/// The header `traceparent` of <https://www.w3.org/TR/trace-context/>: `VERSION-TRACE-SPAN-FLAGS`.
pub(super) fn traceparent(text: &str) -> Option<Above> {
    let mut parts = text.splitn(4, '-');
    let version = parts.next()?;
    let (trace, span, rest) = (parts.next()?, parts.next()?, parts.next()?);
    // Later versions may say more behind the flags.
    let flags = match version {
        "00" => rest,
        _ => rest.split('-').next()?,
    };
    let is_hex =
        |text: &str| text.len() == 2 && text.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte));
    if !is_hex(version) || version == "ff" || !is_hex(flags) {
        return None;
    }
    let sampled = u8::from_str_radix(flags, 16).ok()? & 1 == 1;
    Some(Above { trace: bytes(trace)?, span: bytes(span)?, sampled: Some(sampled) })
}

impl Fields {
    fn put(&mut self, field: &Field, value: Value) {
        let name = field.name();
        match self.attributes.iter_mut().find(|(known, _)| *known == name) {
            Some((_, known)) => *known = value,
            None => self.attributes.push((name, value)),
        }
    }
}

impl Visit for Fields {
    fn record_str(&mut self, field: &Field, value: &str) {
        let cut = || value.chars().take(TEXT_MAX).collect::<String>();
        match field.name() {
            "otel.name" => self.name = Some(cut()),
            "otel.status_message" => self.error = Some(cut()),
            "otel.kind" => {
                self.kind = match value {
                    "server" => Kind::Server,
                    "client" => Kind::Client,
                    _ => Kind::Internal,
                };
            }
            "trace.parent" => self.above = traceparent(value),
            "trace.within" => self.above = pair(value).map(|(trace, span)| Above { trace, span, sampled: None }),
            "trace.is" => self.own = pair(value),
            _ => self.put(field, json!({"stringValue": cut()})),
        }
    }

    // Integers are strings in OTLP's JSON.
    fn record_u64(&mut self, field: &Field, value: u64) {
        self.put(field, json!({"intValue": value.to_string()}));
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        match field.name() {
            "trace.begun_us" => self.begun = u64::try_from(value).ok().map(|us| UNIX_EPOCH + Duration::from_micros(us)),
            _ => self.put(field, json!({"intValue": value.to_string()})),
        }
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.put(field, json!({"boolValue": value}));
    }

    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        self.record_str(field, &format!("{value:?}"));
    }
}

fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    // Without randomness a span is lost among others, and nothing else.
    let _ = aws_lc_rs::rand::fill(&mut bytes);
    bytes
}

/// A span that lasts. One that isn't told has no fields.
struct Open {
    place: Place,
    begun: SystemTime,
    fields: Fields,
}

/// Hands spans that are over to what sends them.
#[derive(Debug)]
pub(super) struct Spans {
    queue: mpsc::Sender<Ended>,
    sampler: Sampler,
    counts: Arc<TraceCounts>,
}

impl Spans {
    pub(super) const fn new(queue: mpsc::Sender<Ended>, sampler: Sampler, counts: Arc<TraceCounts>) -> Self {
        Self { queue, sampler, counts }
    }

    fn place(&self, fields: &Fields, within: Option<Place>) -> Place {
        if let Some((trace, id)) = fields.own {
            return Place { trace, id, parent: None, sampled: self.sampler.takes(trace) };
        }
        if let Some(above) = fields.above {
            let told = above.sampled.filter(|_| self.sampler.by_parent);
            let sampled = told.unwrap_or_else(|| self.sampler.takes(above.trace));
            return Place { trace: above.trace, id: random(), parent: Some(above.span), sampled };
        }
        if let Some(within) = within {
            return Place { id: random(), parent: Some(within.id), ..within };
        }
        let trace = random();
        Place { trace, id: random(), parent: None, sampled: self.sampler.takes(trace) }
    }
}

impl<S: Subscriber + for<'a> LookupSpan<'a>> Layer<S> for Spans {
    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        let Some(span) = context.span(id) else { return };
        let within = span.parent().and_then(|above| above.extensions().get::<Open>().map(|open| open.place));
        let mut fields = Fields::default();
        attributes.record(&mut fields);
        let place = self.place(&fields, within);
        let begun = fields.begun.unwrap_or_else(SystemTime::now);
        if !place.sampled {
            fields = Fields::default();
        }
        span.extensions_mut().insert(Open { place, begun, fields });
    }

    fn on_record(&self, id: &Id, values: &Record<'_>, context: Context<'_, S>) {
        let Some(span) = context.span(id) else { return };
        if let Some(open) = span.extensions_mut().get_mut::<Open>()
            && open.place.sampled
        {
            values.record(&mut open.fields);
        }
    }

    fn on_close(&self, id: Id, context: Context<'_, S>) {
        let Some(span) = context.span(&id) else { return };
        let Some(Open { place, begun, mut fields }) = span.extensions_mut().remove::<Open>() else { return };
        if !place.sampled {
            return;
        }
        let name = fields.name.take().unwrap_or_else(|| span.name().to_owned());
        // Nothing waits for it: one that finds the queue full is given up.
        if self.queue.try_send(Ended { name, place, begun, ended: SystemTime::now(), fields }).is_err() {
            self.counts.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }
}
