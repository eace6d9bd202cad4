//! Errors of the store and the vault: a coarse class that says what the caller can do, and a message that says what
//! happened, to what, and what to do about it.
//!
//! Each class and kind says whether waiting can help ([`StoreClass::is_recoverable`], [`VaultErrorKind::is_recoverable`]):
//! what can't be recovered without a person is reported at once and not asked for again and again.

use std::error::Error;
use std::sync::Arc;
use std::time::Duration;

/// What a caller can do about a failed request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StoreClass {
    /// Try again later: network, throttling, time-out, full disk, directory not mounted. A *create* that failed
    /// this way may have landed all the same; see [`crate::create_once`].
    Retry,
    /// The storage doesn't let us: credentials that it doesn't know, permissions that are missing, a certificate that
    /// isn't trusted. A person has to act; asked again in a hurry it may lock the account.
    Denied,
    /// There is no such bucket or container. A person has to act. No object of the vault is known to be lost.
    NoBucket,
    /// Trying again gives the same: settings that can't be, damaged data, an operation the backend hasn't got.
    Fatal,
    /// There is no such object.
    NotFound,
    /// The name is taken; the object under it is durable.
    AlreadyExists,
}

impl StoreClass {
    /// Whether the same request can succeed later without a person doing something.
    #[must_use]
    pub const fn is_recoverable(self) -> bool {
        matches!(self, Self::Retry)
    }
}

type Cause = Arc<dyn Error + Send + Sync + 'static>;

/// A request to the object store that failed. Cheap to clone.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{message}")]
pub struct StoreError {
    class: StoreClass,
    message: String,
    retry_after: Option<Duration>,
    #[source]
    source: Option<Cause>,
}

impl StoreError {
    /// An error with this class and message; a message says what, to what, and what to do.
    pub fn new(class: StoreClass, message: impl Into<String>) -> Self {
        Self { class, message: message.into(), retry_after: None, source: None }
    }

    /// The same, with the time that the storage asked to wait.
    #[must_use]
    pub(crate) fn after(mut self, retry_after: Option<Duration>) -> Self {
        self.retry_after = retry_after;
        self
    }

    /// How long the storage asked to wait before the next request, where it did; at most five minutes.
    #[must_use]
    pub const fn retry_after(&self) -> Option<Duration> {
        self.retry_after
    }

    /// The same with its cause.
    #[must_use]
    pub fn with_source(mut self, source: impl Into<Box<dyn Error + Send + Sync + 'static>>) -> Self {
        self.source = Some(Arc::from(source.into()));
        self
    }

    /// What the caller can do.
    #[must_use]
    pub const fn class(&self) -> StoreClass {
        self.class
    }

    /// Whether trying again may help.
    #[must_use]
    pub fn is_retry(&self) -> bool {
        self.class == StoreClass::Retry
    }

    /// Whether there is no such object.
    #[must_use]
    pub fn is_not_found(&self) -> bool {
        self.class == StoreClass::NotFound
    }

    /// Whether the name was taken.
    #[must_use]
    pub fn is_already_exists(&self) -> bool {
        self.class == StoreClass::AlreadyExists
    }
}

/// What went wrong with a vault, for callers that branch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VaultErrorKind {
    /// The store can't be used right now: try again later.
    Retry,
    /// What the caller gave can't be used: a bad URL, name, key file, passphrase.
    InvalidInput,
    /// No such vault, key or document.
    NotFound,
    /// The keys were destroyed on purpose: nothing opens what they encrypted any more.
    Erased,
    /// There is one already.
    AlreadyExists,
    /// Somebody else changed the document first: read it again.
    Conflict,
    /// The key does not open this vault.
    WrongKey,
    /// Written by a newer version of Lifeboat: nothing was changed.
    NewerFormat,
    /// An object is not what was written: damaged, edited, swapped or rolled back.
    Tampered,
    /// The backend breaks a promise that a vault is built on.
    Unsafe,
    /// The store doesn't let us: credentials, permissions, a certificate that isn't trusted.
    Denied,
    /// There is no such bucket or container.
    NoBucket,
    /// The store can't do it, now or later.
    Fatal,
}

impl VaultErrorKind {
    /// Whether the same can succeed later without a person doing something: the network, a throttled or failing
    /// service, a conflict that the next reading solves.
    #[must_use]
    pub const fn is_recoverable(self) -> bool {
        matches!(self, Self::Retry | Self::Conflict)
    }
}

/// An operation on a vault that failed. Cheap to clone.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{message}")]
pub struct VaultError {
    kind: VaultErrorKind,
    message: String,
    #[source]
    source: Option<Cause>,
}

impl VaultError {
    pub(crate) fn new(kind: VaultErrorKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), source: None }
    }

    pub(crate) fn with_source(mut self, source: impl Into<Box<dyn Error + Send + Sync + 'static>>) -> Self {
        self.source = Some(Arc::from(source.into()));
        self
    }

    /// What the caller can do about it.
    #[must_use]
    pub const fn kind(&self) -> VaultErrorKind {
        self.kind
    }
}

impl From<StoreError> for VaultError {
    fn from(error: StoreError) -> Self {
        let kind = match error.class {
            StoreClass::Retry => VaultErrorKind::Retry,
            StoreClass::Denied => VaultErrorKind::Denied,
            StoreClass::NoBucket => VaultErrorKind::NoBucket,
            StoreClass::Fatal => VaultErrorKind::Fatal,
            StoreClass::NotFound => VaultErrorKind::NotFound,
            StoreClass::AlreadyExists => VaultErrorKind::AlreadyExists,
        };
        Self { kind, message: error.message, source: error.source }
    }
}

pub(crate) fn invalid(message: impl Into<String>) -> VaultError {
    VaultError::new(VaultErrorKind::InvalidInput, message)
}

pub(crate) fn tampered(message: impl Into<String>) -> VaultError {
    VaultError::new(VaultErrorKind::Tampered, message)
}
