//! Key management services: a slot's secret wrapped by something that this program can ask but never holds.
//!
//! ```text
//! new slot:  32 random bytes ──wrap(context)────> opaque bytes, kept in the slot
//! opening:   opaque bytes    ──unwrap(context)──> the 32 bytes, from which the slot's check and key derive
//! ```
//! The context binds a wrapped secret to its vault and slot: a service refuses to unwrap it for another. A service is
//! asked when a vault is opened, when a slot is made or tried, and when the vault document names a new master key; never
//! while data is read or written. Calls end after a time limit, whatever the service does. Dropping one stops it.

mod command;
#[cfg(test)]
mod tests;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use lifeboat_model::VaultId;
use zeroize::Zeroizing;

use crate::error::{VaultError, VaultErrorKind, invalid};
use crate::secret::Secret;

pub use command::CommandKms;

/// Longest wrapped secret that a slot takes, in bytes.
pub(crate) const WRAPPED_BYTES_MAX: usize = 4096;
/// How long a call may take where the key's name doesn't say. Less than what a gateway that lost its vault waits for it.
const TIMEOUT: Duration = Duration::from_secs(15);
/// The longest that it may say.
const TIMEOUT_MAX: Duration = Duration::from_secs(300);

/// What a caller can do about a failed call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KmsErrorClass {
    /// Try again later: network, throttling, no answer in time.
    Retry,
    /// The service won't: permissions, a key that is disabled, a context that isn't the one that was wrapped with.
    Refused,
    /// There is no such key, or no such service.
    NotFound,
}

/// A failed call. Its message is shown to people and must not hold a secret.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{message}")]
pub struct KmsError {
    class: KmsErrorClass,
    message: String,
}

impl KmsError {
    /// An error of this class; the message says what, to what, and what to do.
    pub fn new(class: KmsErrorClass, message: impl Into<String>) -> Self {
        Self { class, message: message.into() }
    }

    /// What the caller can do.
    #[must_use]
    pub const fn class(&self) -> KmsErrorClass {
        self.class
    }
}

/// What a wrapped secret is for. A service must refuse to unwrap it under another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KmsContext {
    /// The vault.
    pub vault: VaultId,
    /// Number of the key slot, from 1.
    pub slot: u32,
}

/// A key management service, with one of its keys.
#[async_trait]
pub trait Kms: Send + Sync {
    /// Wraps 32 secret bytes. What comes back is kept in clear and means nothing to us; 1 to 4096 bytes.
    async fn wrap(&self, context: KmsContext, secret: &[u8; 32]) -> Result<Vec<u8>, KmsError>;

    /// Unwraps what [`Self::wrap`] gave under the same context.
    async fn unwrap(&self, context: KmsContext, wrapped: &[u8]) -> Result<Zeroizing<Vec<u8>>, KmsError>;
}

/// A key in a key management service, by the name that people give it.
#[derive(Clone)]
pub struct KmsKey {
    name: String,
    service: Arc<dyn Kms>,
    timeout: Duration,
}

impl fmt::Debug for KmsKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("KmsKey").field(&self.name).finish()
    }
}

impl KmsKey {
    /// The key that a name such as `command:/usr/local/bin/my-kms?key=vault&timeout_seconds=10` says. Nothing is asked
    /// or run yet.
    ///
    /// [`VaultErrorKind::InvalidInput`] for a name that can't be one.
    pub fn parse(name: &str) -> Result<Self, VaultError> {
        let refuse = |why: &str| {
            invalid(format!(
                "the KMS key {name:?} can't be used: {why}; give command:/absolute/path/of/a/program?key=NAME, with \
                 &timeout_seconds=1 to 300 if {} s is wrong",
                TIMEOUT.as_secs()
            ))
        };
        if name.len() > 1024 || name.chars().any(char::is_control) {
            return Err(refuse("it is too long, or has control characters"));
        }
        let rest = name.strip_prefix("command:").ok_or_else(|| refuse("only command: is known"))?;
        let (path, query) = rest.split_once('?').unwrap_or((rest, ""));
        if !path.starts_with('/') || path.ends_with('/') {
            return Err(refuse("the program's path is not absolute"));
        }
        let (mut key, mut timeout) = (String::new(), TIMEOUT);
        for part in query.split('&').filter(|part| !part.is_empty()) {
            match part.split_once('=') {
                Some(("key", value)) => key = value.to_owned(),
                Some(("timeout_seconds", value)) => {
                    timeout =
                        value.parse().map(Duration::from_secs).map_err(|_| refuse("the time limit is no number"))?;
                }
                _ => return Err(refuse("it says something else than key and timeout_seconds")),
            }
        }
        if timeout.is_zero() || timeout > TIMEOUT_MAX {
            return Err(refuse("the time limit is out of bounds"));
        }
        Ok(Self { name: name.to_owned(), service: Arc::new(CommandKms::new(path, key)), timeout })
    }

    /// A key of any other service. `name` is what people see of it.
    pub fn new(name: impl Into<String>, service: Arc<dyn Kms>, timeout: Duration) -> Self {
        Self { name: name.into(), service, timeout }
    }

    /// What people call it.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    pub(crate) async fn wrap(&self, context: KmsContext, secret: &Secret) -> Result<Vec<u8>, VaultError> {
        let wrapped = self.limited(self.service.wrap(context, secret)).await?;
        if wrapped.is_empty() || wrapped.len() > WRAPPED_BYTES_MAX {
            return Err(self.misbehaves(format!("it wrapped 32 bytes into {}", wrapped.len())));
        }
        // What can't be unwrapped must not become the only way into a vault.
        if self.unwrap(context, &wrapped).await?.as_slice() != secret.as_slice() {
            return Err(self.misbehaves("it doesn't give back what it wrapped".to_owned()));
        }
        if wrapped.windows(16).any(|part| secret.windows(16).any(|secret| part == secret)) {
            return Err(self.misbehaves("what it gives back holds the secret in clear".to_owned()));
        }
        Ok(wrapped)
    }

    pub(crate) async fn unwrap(&self, context: KmsContext, wrapped: &[u8]) -> Result<Secret, VaultError> {
        let found = self.limited(self.service.unwrap(context, wrapped)).await?;
        let mut secret = Secret::default();
        if found.len() != secret.len() {
            return Err(self.misbehaves(format!("it unwrapped {} bytes instead of 32", found.len())));
        }
        secret.copy_from_slice(&found);
        Ok(secret)
    }

    async fn limited<T>(&self, call: impl Future<Output = Result<T, KmsError>> + Send) -> Result<T, VaultError> {
        let outcome = tokio::time::timeout(self.timeout, call).await.unwrap_or_else(|_| {
            let seconds = self.timeout.as_secs();
            Err(KmsError::new(
                KmsErrorClass::Retry,
                format!("no answer within {seconds} s; try again, or raise timeout_seconds"),
            ))
        });
        outcome.map_err(|error| {
            let (kind, what) = match error.class() {
                KmsErrorClass::Retry => (VaultErrorKind::Retry, "can't answer now"),
                KmsErrorClass::Refused => (VaultErrorKind::WrongKey, "refuses"),
                KmsErrorClass::NotFound => (VaultErrorKind::InvalidInput, "isn't there"),
            };
            VaultError::new(kind, format!("the KMS key {} {what}: {error}", self.name)).with_source(error)
        })
    }

    fn misbehaves(&self, what: String) -> VaultError {
        invalid(format!("the KMS key {} can't be used: {what}; correct the service, or use another", self.name))
    }
}
