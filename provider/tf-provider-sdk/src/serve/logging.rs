//! The log: one JSON object a line on stderr, in the form that Terraform reads back:
//! `@level`, `@message`, `@module`, `@timestamp`, and the event's and spans' fields.
//!
//! The level is that of `TF_LOG_PROVIDER`, else `TF_LOG`, else warn. Libraries below the provider stay
//! at warn: their traces hold whole messages, and so secrets.

use std::fmt::Debug;
use std::io::Write;

use serde_json::{Map, Value as Json, json};
use tracing::field::{Field, Visit};
use tracing::level_filters::LevelFilter;
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::{Context, Layer, SubscriberExt as _};
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt as _;

const LIBRARIES: [&str; 7] = ["h2", "hyper", "hyper_util", "tonic", "tower", "rustls", "mio"];

/// Starts the log. A log that was started before stays.
pub(crate) fn init() {
    let level = ["TF_LOG_PROVIDER", "TF_LOG"]
        .iter()
        .find_map(|name| std::env::var(name).ok().filter(|value| !value.is_empty()))
        .map_or(LevelFilter::WARN, |value| level_of(&value));
    let quiet = level.min(LevelFilter::WARN);
    let targets = LIBRARIES
        .iter()
        .fold(Targets::new().with_default(level), |targets, library| targets.with_target(*library, quiet));
    let layer = JsonLines { write: std::io::stderr };
    let _ = tracing_subscriber::registry().with(layer.with_filter(targets)).try_init();
}

/// `JSON` and words that Terraform doesn't know mean trace, as in Terraform itself.
fn level_of(value: &str) -> LevelFilter {
    match value.to_ascii_uppercase().as_str() {
        "OFF" => LevelFilter::OFF,
        "ERROR" => LevelFilter::ERROR,
        "WARN" => LevelFilter::WARN,
        "INFO" => LevelFilter::INFO,
        "DEBUG" => LevelFilter::DEBUG,
        _ => LevelFilter::TRACE,
    }
}

/// Formats events as JSON lines.
struct JsonLines<F> {
    write: F,
}

/// A span's fields, kept with the span.
struct SpanFields(Map<String, Json>);

impl<S, F, W> Layer<S> for JsonLines<F>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    F: Fn() -> W + 'static,
    W: Write,
{
    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, cx: Context<'_, S>) {
        let mut fields = Map::new();
        attributes.record(&mut Collect(&mut fields));
        if let Some(span) = cx.span(id) {
            span.extensions_mut().insert(SpanFields(fields));
        }
    }

    fn on_record(&self, id: &Id, record: &Record<'_>, cx: Context<'_, S>) {
        if let Some(span) = cx.span(id)
            && let Some(SpanFields(fields)) = span.extensions_mut().get_mut()
        {
            record.record(&mut Collect(fields));
        }
    }

    fn on_event(&self, event: &Event<'_>, cx: Context<'_, S>) {
        let mut line = Map::new();
        for span in cx.event_scope(event).into_iter().flat_map(|scope| scope.from_root()) {
            if let Some(SpanFields(fields)) = span.extensions().get() {
                line.extend(fields.clone());
            }
        }
        event.record(&mut Collect(&mut line));
        let message = line.remove("message").unwrap_or_default();
        line.insert("@message".into(), message);
        line.insert("@level".into(), json!(level_name(*event.metadata().level())));
        line.insert("@module".into(), json!(event.metadata().target()));
        let now = jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%S%.6fZ");
        line.insert("@timestamp".into(), json!(now.to_string()));
        let mut text = Json::Object(line).to_string();
        text.push('\n');
        // Nobody is left to tell if stderr is closed.
        let _ = (self.write)().write_all(text.as_bytes());
    }
}

fn level_name(level: Level) -> &'static str {
    match level {
        Level::ERROR => "error",
        Level::WARN => "warn",
        Level::INFO => "info",
        Level::DEBUG => "debug",
        Level::TRACE => "trace",
    }
}

struct Collect<'a>(&'a mut Map<String, Json>);

impl Visit for Collect<'_> {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        self.0.insert(field.name().into(), json!(format!("{value:?}")));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.0.insert(field.name().into(), json!(value));
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.0.insert(field.name().into(), json!(value));
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.0.insert(field.name().into(), json!(value));
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        self.0.insert(field.name().into(), json!(value));
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.0.insert(field.name().into(), json!(value));
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    #[derive(Clone, Default)]
    struct Buffer(Arc<Mutex<Vec<u8>>>);

    impl Write for Buffer {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_line_has_terraforms_keys_and_the_fields() {
        let buffer = Buffer::default();
        let written = buffer.clone();
        let layer = JsonLines { write: move || written.clone() };
        let subscriber = tracing_subscriber::registry().with(layer);
        tracing::subscriber::with_default(subscriber, || {
            let span = tracing::info_span!("apply", volume = "v1", step = tracing::field::Empty);
            span.record("step", 3);
            let _inside = span.enter();
            tracing::warn!(bytes = 7_u64, ok = true, "it took {} s", 5);
        });
        let text = String::from_utf8(buffer.0.lock().unwrap().clone()).unwrap();
        let line: Json = serde_json::from_str(text.trim_end()).unwrap();
        assert_eq!(line["@level"], "warn");
        assert_eq!(line["@message"], "it took 5 s");
        assert!(line["@module"].as_str().unwrap().contains("logging"));
        assert_eq!((&line["volume"], &line["step"]), (&json!("v1"), &json!(3)));
        assert_eq!((&line["bytes"], &line["ok"]), (&json!(7), &json!(true)));
        let time = line["@timestamp"].as_str().unwrap();
        assert_eq!(time.len(), "2006-01-02T15:04:05.000000Z".len(), "{time}");
        assert_eq!(text.lines().count(), 1);
    }

    #[test]
    fn levels_are_terraforms() {
        assert_eq!(level_of("debug"), LevelFilter::DEBUG);
        assert_eq!(level_of("JSON"), LevelFilter::TRACE);
        assert_eq!(level_of("off"), LevelFilter::OFF);
    }
}
