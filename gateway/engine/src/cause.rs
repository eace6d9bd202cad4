//! What failed below the engine, as the engine says it: the one place where errors of the vault and of the format
//! become [`EngineError`]s.

use lifeboat_format::FormatError;
use lifeboat_vault::{StoreClass, StoreError, VaultError, VaultErrorKind};

use crate::error::{EngineError, ErrorKind};

/// A failed request to the object store.
pub(crate) fn store(error: StoreError) -> EngineError {
    let kind = match error.class() {
        StoreClass::Retry => ErrorKind::Retry,
        StoreClass::NotFound => ErrorKind::NotFound,
        StoreClass::Denied | StoreClass::NoBucket | StoreClass::Fatal => ErrorKind::Denied,
        // Another gateway was faster.
        StoreClass::AlreadyExists => ErrorKind::Retry,
    };
    EngineError::new(kind, error.to_string()).with_source(error)
}

/// Whether the store said that the object isn't there: not a key, a branch or anything else that was looked for.
pub(crate) fn is_gone(error: &EngineError) -> bool {
    let source = std::error::Error::source(error).and_then(|source| source.downcast_ref::<StoreError>());
    source.is_some_and(StoreError::is_not_found)
}

/// A failed operation on the vault.
pub(crate) fn vault(error: VaultError) -> EngineError {
    let kind = match error.kind() {
        VaultErrorKind::Retry | VaultErrorKind::Conflict => ErrorKind::Retry,
        VaultErrorKind::Denied | VaultErrorKind::NoBucket | VaultErrorKind::Fatal => ErrorKind::Denied,
        VaultErrorKind::InvalidInput | VaultErrorKind::AlreadyExists => ErrorKind::Invalid,
        VaultErrorKind::NotFound | VaultErrorKind::Erased => ErrorKind::NotFound,
        VaultErrorKind::WrongKey => ErrorKind::WrongKey,
        VaultErrorKind::NewerFormat => ErrorKind::NewerFormat,
        VaultErrorKind::Tampered | VaultErrorKind::Unsafe => ErrorKind::Tampered,
    };
    EngineError::new(kind, error.to_string()).with_source(error)
}

/// An object of the vault that fails its checks; `key` is its name.
pub(crate) fn object(key: &str, error: FormatError) -> EngineError {
    let (kind, advice) = match error {
        FormatError::NewerVersion { .. } => (ErrorKind::NewerFormat, "upgrade this gateway"),
        FormatError::WrongKey { .. } => (ErrorKind::WrongKey, "open the vault with the key that wrote it"),
        FormatError::Refused { .. } => (ErrorKind::Invalid, "this is a defect of lifeboat: report it"),
        _ => (ErrorKind::Tampered, "the vault's data was damaged or altered: restore the object from a copy"),
    };
    EngineError::new(kind, format!("{key}: {error}; {advice}")).with_source(error)
}

/// Something that the history says must be there, or must be so, and isn't.
pub(crate) fn tampered(what: impl std::fmt::Display) -> EngineError {
    EngineError::new(
        ErrorKind::Tampered,
        format!("{what}: the vault's history was altered or has lost objects; recover from an earlier point"),
    )
}
