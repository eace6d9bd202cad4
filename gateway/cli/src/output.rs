//! The only place that writes to standard output and standard error.
//!
//! Standard output gets the result and nothing else: a text for people, or with `--output json` exactly one JSON
//! document. Progress, notes and errors go to standard error. A reader that goes away (`lifeboat … | head`) ends the
//! output quietly; it is no failure.

use std::io::{self, IsTerminal, Write};

use clap::ValueEnum;
use lifeboat_model::state::Health;
use serde::Serialize;

use crate::failure::{Failure, Result};
use crate::render::clean;

/// How results are printed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Output {
    /// For people.
    #[default]
    Text,
    /// For programs: one JSON document.
    Json,
}

impl Output {
    /// Prints a result: the document, or the text that stands for it.
    ///
    /// # Errors
    /// Standard output can't be written (a full disk behind a redirection).
    pub(crate) fn show<T: Serialize + ?Sized>(self, document: &T, text: impl FnOnce() -> String) -> Result<()> {
        match self {
            Self::Text => self.text(&text()),
            Self::Json => {
                let json = serde_json::to_string_pretty(document)
                    .map_err(|error| Failure::failed(format!("the result can't be written as JSON: {error}")))?;
                self.text(&json)
            }
        }
    }

    /// Prints text as it is, and a line end.
    ///
    /// # Errors
    /// Standard output can't be written.
    pub(crate) fn text(self, text: &str) -> Result<()> {
        let mut out = io::stdout().lock();
        let written = writeln!(out, "{}", text.trim_end()).and_then(|()| out.flush());
        match written {
            Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
                Err(Failure::failed(format!("standard output can't be written: {error}")))
            }
            _ => Ok(()),
        }
    }
}

/// A line for people beside the result.
pub(crate) fn note(text: &str) {
    // Nobody is left to tell when standard error is gone.
    let _ = writeln!(io::stderr().lock(), "{}", clean(text));
}

/// The line that says why the program failed.
pub(crate) fn complain(failure: &Failure) {
    note(&format!("lifeboat: {failure}"));
}

/// Text of several lines on standard error: the help that answers an incomplete command.
pub(crate) fn explain(text: &str) {
    let _ = write!(io::stderr().lock(), "{text}");
}

/// Whether results go to a terminal that can move its cursor.
pub(crate) fn is_terminal() -> bool {
    io::stdout().is_terminal() && std::env::var_os("TERM").is_some_and(|term| term != "dumb")
}

/// How many characters fit on a line of the terminal that results go to; `None` where they go elsewhere, and nothing is cut.
pub(crate) fn line_width() -> Option<usize> {
    if cfg!(test) || !io::stdout().is_terminal() {
        return None;
    }
    let said = std::env::var("COLUMNS").ok().and_then(|columns| columns.parse().ok());
    let asked = || rustix::termios::tcgetwinsize(io::stdout()).ok().map(|size| usize::from(size.ws_col));
    said.or_else(asked).filter(|columns| *columns > 0)
}

/// A text in the colour of a health, on a terminal whose user didn't refuse colours (`NO_COLOR`).
pub(crate) fn painted(health: Health, text: &str) -> String {
    let refused = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    if cfg!(test) || refused || !is_terminal() {
        return text.to_owned();
    }
    let colour = match health {
        Health::Healthy => "1;32",
        Health::Warning => "1;33",
        Health::Critical => "1;31",
    };
    format!("\u{1b}[{colour}m{text}\u{1b}[0m")
}

/// Whether somebody watches standard error on a terminal that can move its cursor.
pub(crate) fn is_watched() -> bool {
    io::stderr().is_terminal() && std::env::var_os("TERM").is_some_and(|term| term != "dumb")
}
