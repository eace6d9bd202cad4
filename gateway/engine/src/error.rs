//! The engine's one error type: a coarse kind that tells the caller what to do, and a sentence for people.

use std::fmt;

/// What the caller has to do about an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorKind {
    /// Try again later: network, throttling, time-out, a full cache.
    Retry,
    /// The vault's storage refuses, or is not what the settings say: credentials, permissions, a bucket that isn't there. Needs
    /// a person; nothing of the vault is known to be wrong, and asking again in a hurry may lock an account.
    Denied,
    /// The request itself is wrong: out of range, wrong size, unknown volume.
    Invalid,
    /// No such volume, point or branch.
    NotFound,
    /// Another gateway holds the branch now, or the volume is read-only by its nature.
    Fenced,
    /// The disk is full.
    NoSpace,
    /// Local data is damaged, or the disk reported an error: needs a person, never retried.
    Damaged,
    /// The vault's data fails its checks: needs a person.
    Tampered,
    /// The key does not open the vault.
    WrongKey,
    /// Written by a newer version of Lifeboat.
    NewerFormat,
    /// The group or gateway is being closed.
    Closed,
}

impl ErrorKind {
    /// One word for it, for metrics.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Retry => "retry",
            Self::Denied => "denied",
            Self::Invalid => "invalid",
            Self::NotFound => "not_found",
            Self::Fenced => "fenced",
            Self::NoSpace => "no_space",
            Self::Damaged => "damaged",
            Self::Tampered => "tampered",
            Self::WrongKey => "wrong_key",
            Self::NewerFormat => "newer_format",
            Self::Closed => "closed",
        }
    }

    /// Whether the vault was not heard, so that nothing is known of what it holds.
    #[must_use]
    pub const fn is_unanswered(self) -> bool {
        matches!(self, Self::Retry | Self::Denied)
    }
}

/// An engine error: kind, what happened to what and what to do, and its cause.
#[derive(Debug)]
pub struct EngineError {
    kind: ErrorKind,
    message: String,
    source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

impl EngineError {
    /// An error of this kind with a sentence for people.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), source: None }
    }

    /// The same, with its cause.
    #[must_use]
    pub fn with_source(mut self, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        self.source = Some(source.into());
        self
    }

    /// An I/O error on a local file, sorted by what the caller can do about it.
    #[must_use]
    pub fn io(what: impl fmt::Display, source: std::io::Error) -> Self {
        let kind = match source.kind() {
            std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded => ErrorKind::NoSpace,
            std::io::ErrorKind::NotFound => ErrorKind::NotFound,
            _ => ErrorKind::Damaged,
        };
        Self::new(kind, format!("{what}: {source}")).with_source(source)
    }

    /// What the caller has to do.
    #[must_use]
    pub const fn kind(&self) -> ErrorKind {
        self.kind
    }
}

impl fmt::Display for EngineError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for EngineError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.source.as_ref().map(|source| &**source as &(dyn std::error::Error + 'static))
    }
}

/// The engine's results.
pub type Result<T, E = EngineError> = std::result::Result<T, E>;

/// Turns what the format crate says about local bytes into an engine error.
pub(crate) fn format_error(what: &'static str) -> impl Fn(lifeboat_format::FormatError) -> EngineError {
    move |error| {
        let kind = match error {
            lifeboat_format::FormatError::NewerVersion { .. } => ErrorKind::NewerFormat,
            lifeboat_format::FormatError::WrongKey { .. } => ErrorKind::WrongKey,
            _ => ErrorKind::Damaged,
        };
        EngineError::new(kind, format!("{what}: {error}")).with_source(error)
    }
}
