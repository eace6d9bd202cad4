//! The log: text on a terminal, one JSON object a line elsewhere.

use std::io::IsTerminal;

use lifeboat_vault::TRACE_TARGET;
use tracing_subscriber::filter::{FilterExt, filter_fn};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer};

use super::otlp::{self, Exporter};
use super::settings::{LogFormat, LogSettings};
use crate::connect::environment;
use crate::failure::{Failure, Result};

/// Begins the log of a gateway or an agent, on standard output, and traces where they are asked for. Spans are in traces alone: the log
/// has none, and without traces none is made.
///
/// # Errors
/// The filter makes no sense.
pub(crate) fn start(settings: &LogSettings, traces: Option<otlp::Settings>) -> Result<Option<Exporter>> {
    let terminal = std::io::stdout().is_terminal();
    let json = match settings.format {
        Some(format) => format == LogFormat::Json,
        None => !terminal,
    };
    let no_span = filter_fn(|metadata| metadata.target() != TRACE_TARGET);
    let logged = filter(&settings.filter)?.and(no_span);
    let log = tracing_subscriber::fmt::layer().with_ansi(terminal && !json);
    let log = if json { log.json().flatten_event(true).boxed() } else { log.boxed() };
    let (spans, exporter) = traces.map(otlp::begin).transpose()?.unzip();
    let begun = tracing_subscriber::registry().with(log.with_filter(logged)).with(spans).try_init();
    begun.map(|()| exporter).map_err(|error| Failure::failed(format!("the log can't be begun: {error}")))
}

/// For all other verbs: what happens inside, on standard error, when `LIFEBOAT_LOG` asks for it.
///
/// # Errors
/// The filter makes no sense.
pub(crate) fn verbose() -> Result<()> {
    let Some(text) = environment("LIFEBOAT_LOG") else { return Ok(()) };
    let log = tracing_subscriber::fmt().with_env_filter(filter(&text)?).with_writer(std::io::stderr).with_ansi(false);
    log.finish().try_init().map_err(|error| Failure::failed(format!("the log can't be begun: {error}")))
}

fn filter(text: &str) -> Result<EnvFilter> {
    EnvFilter::builder().parse(text).map_err(|error| {
        Failure::usage(format!(
            "the log filter {text:?} makes no sense ({error}): use a level such as info or debug, or module=level, separated \
             by commas"
        ))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filter_is_levels_by_module() {
        for sound in ["info", "warn,lifeboat_engine=debug"] {
            assert!(filter(sound).is_ok(), "{sound}");
        }
        assert!(filter("lifeboat=loud").is_err());
    }
}
