//! What went wrong, as a sentence and an exit code.
//!
//! The only place that decides which exit code an error gets:
//! ```text
//! 0 done   1 failed   2 wrong usage   3 not found   4 conflict or refused   5 unreachable
//! ```
//! A message is one line whatever its origin, so that a script can log it and a person can read it out.

use std::fmt;
use std::process::ExitCode;

use lifeboat_api::{ClientError, ClientErrorKind};
use lifeboat_engine::{EngineError, ErrorKind};
use lifeboat_vault::{StoreError, VaultError, VaultErrorKind};

use crate::render::clean;

/// How the program ends when it didn't do what it was asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Exit {
    /// It was tried and it failed.
    Failed = 1,
    /// The request makes no sense as it stands: a flag, a file of settings, a value that the gateway refuses.
    Usage = 2,
    /// What it names isn't there.
    NotFound = 3,
    /// Something is in the way, or the token doesn't allow it.
    Conflict = 4,
    /// Nobody answered, or the vault behind the gateway can't be reached: the same may work later.
    Unreachable = 5,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(match exit {
            Exit::Failed => 1_u8,
            Exit::Usage => 2,
            Exit::NotFound => 3,
            Exit::Conflict => 4,
            Exit::Unreachable => 5,
        })
    }
}

/// An exit code and one sentence: what happened, to what, what to do.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Failure {
    exit: Exit,
    message: String,
}

/// Results of verbs.
pub(crate) type Result<T, E = Failure> = std::result::Result<T, E>;

impl Failure {
    pub(crate) fn new(exit: Exit, message: impl AsRef<str>) -> Self {
        let lines = message.as_ref().lines().map(str::trim).filter(|line| !line.is_empty());
        Self { exit, message: clean(&lines.collect::<Vec<_>>().join(" ")) }
    }

    pub(crate) fn failed(message: impl AsRef<str>) -> Self {
        Self::new(Exit::Failed, message)
    }

    pub(crate) fn usage(message: impl AsRef<str>) -> Self {
        Self::new(Exit::Usage, message)
    }

    pub(crate) fn not_found(message: impl AsRef<str>) -> Self {
        Self::new(Exit::NotFound, message)
    }

    /// A file that can't be read.
    pub(crate) fn unreadable(what: &str, path: &std::path::Path, error: &std::io::Error) -> Self {
        let exit = if error.kind() == std::io::ErrorKind::NotFound { Exit::NotFound } else { Exit::Failed };
        Self::new(exit, format!("{what} {} can't be read: {error}", path.display()))
    }

    pub(crate) const fn exit(&self) -> Exit {
        self.exit
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl From<ClientError> for Failure {
    fn from(error: ClientError) -> Self {
        let exit = match error.kind() {
            ClientErrorKind::Unreachable => Exit::Unreachable,
            ClientErrorKind::Unauthorized | ClientErrorKind::Forbidden | ClientErrorKind::Conflict => Exit::Conflict,
            ClientErrorKind::NotFound => Exit::NotFound,
            ClientErrorKind::Invalid | ClientErrorKind::Usage => Exit::Usage,
            ClientErrorKind::Failed => Exit::Failed,
        };
        let mut message = error.to_string();
        let unsaid: Vec<&str> =
            error.blockers().iter().map(String::as_str).filter(|blocker| !message.contains(blocker)).collect();
        if !unsaid.is_empty() {
            message = format!("{message}; in the way: {}", unsaid.join(", "));
        }
        Self::new(exit, message)
    }
}

impl From<VaultError> for Failure {
    fn from(error: VaultError) -> Self {
        let exit = match error.kind() {
            VaultErrorKind::Retry => Exit::Unreachable,
            VaultErrorKind::InvalidInput => Exit::Usage,
            VaultErrorKind::NotFound => Exit::NotFound,
            VaultErrorKind::AlreadyExists | VaultErrorKind::Conflict | VaultErrorKind::Erased => Exit::Conflict,
            _ => Exit::Failed,
        };
        Self::new(exit, error.to_string())
    }
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        VaultError::from(error).into()
    }
}

impl From<EngineError> for Failure {
    fn from(error: EngineError) -> Self {
        let exit = match error.kind() {
            ErrorKind::Retry => Exit::Unreachable,
            ErrorKind::Invalid => Exit::Usage,
            ErrorKind::NotFound => Exit::NotFound,
            ErrorKind::Fenced => Exit::Conflict,
            _ => Exit::Failed,
        };
        Self::new(exit, error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_codes_are_those_of_the_contract() {
        let all = [Exit::Failed, Exit::Usage, Exit::NotFound, Exit::Conflict, Exit::Unreachable];
        let codes = all.map(|exit| format!("{:?}", ExitCode::from(exit)));
        let contract = [1_u8, 2, 3, 4, 5].map(|code| format!("{:?}", ExitCode::from(code)));
        assert_eq!(codes, contract);
    }

    #[test]
    fn engine_and_vault_errors_keep_their_meaning() {
        let exit = |kind| Failure::from(EngineError::new(kind, "x")).exit();
        assert_eq!(exit(ErrorKind::Retry), Exit::Unreachable);
        assert_eq!(exit(ErrorKind::NotFound), Exit::NotFound);
        assert_eq!(exit(ErrorKind::Invalid), Exit::Usage);
        assert_eq!(exit(ErrorKind::Fenced), Exit::Conflict);
        assert_eq!(exit(ErrorKind::Tampered), Exit::Failed);
        assert_eq!(exit(ErrorKind::WrongKey), Exit::Failed);
    }

    #[test]
    fn a_message_is_one_line_without_control_characters() {
        let failure = Failure::failed("it broke\n  because of\u{1b}[31m this\n\n");
        assert_eq!(failure.to_string(), "it broke because of\\u{1b}[31m this");
    }
}
