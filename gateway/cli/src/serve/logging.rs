//! The log: text on a terminal, one JSON object a line elsewhere.

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::util::SubscriberInitExt;

use super::settings::{LogFormat, LogSettings};
use crate::connect::environment;
use crate::failure::{Failure, Result};

/// Begins the log of a gateway, on standard output.
///
/// # Errors
/// The filter makes no sense.
pub(crate) fn start(settings: &LogSettings) -> Result<()> {
    let terminal = std::io::stdout().is_terminal();
    let json = match settings.format {
        Some(format) => format == LogFormat::Json,
        None => !terminal,
    };
    let builder = tracing_subscriber::fmt().with_env_filter(filter(&settings.filter)?).with_ansi(terminal && !json);
    let begun = if json { builder.json().flatten_event(true).finish().try_init() } else { builder.finish().try_init() };
    begun.map_err(|error| Failure::failed(format!("the log can't be begun: {error}")))
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
