//! What a caller does about a failure of a driver.

/// Why a driver didn't do what was asked, and what that means for the caller.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct ComputeError {
    kind: ErrorKind,
    message: String,
}

/// What to do about a [`ComputeError`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorKind {
    /// The same call may succeed later: something was busy or too slow.
    Retry,
    /// The same call fails again until the order or this host is changed: a missing program, bridge or disk.
    Refused,
    /// A person has to look: the driver met what it doesn't understand.
    Fatal,
}

impl ComputeError {
    /// What to do about it.
    #[must_use]
    pub const fn kind(&self) -> ErrorKind {
        self.kind
    }

    /// A failure of a driver's.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into() }
    }

    pub(crate) fn retry(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Retry, message)
    }

    pub(crate) fn refused(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Refused, message)
    }

    pub(crate) fn fatal(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Fatal, message)
    }
}
