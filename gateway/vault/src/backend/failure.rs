//! What a failed request means for its caller: the one place where errors of `object_store`, of HTTP and of disks
//! become a [`StoreClass`].

use std::error::Error;
use std::io;

use http::StatusCode;

use super::transport::{ConnectError, Rejected};
use crate::error::{StoreClass, StoreError};
use crate::storage::Provider;

/// What was asked, of what, where.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Asked<'a> {
    pub(crate) verb: &'a str,
    pub(crate) key: &'a str,
    pub(crate) url: &'a str,
    /// `None` for a directory or memory.
    pub(crate) provider: Option<Provider>,
}

/// The verbs, as they stand in messages; the meaning of an answer depends on them.
pub(crate) mod verb {
    pub(crate) const WRITE: &str = "write";
    pub(crate) const READ: &str = "read";
    pub(crate) const LIST: &str = "list";
    pub(crate) const HEAD: &str = "look at";
    pub(crate) const DELETE: &str = "delete";
}

impl Asked<'_> {
    pub(crate) fn describe(&self) -> String {
        describe(self.verb, self.key, self.url)
    }
}

pub(crate) fn describe(verb: &str, key: &str, url: &str) -> String {
    if key.is_empty() { format!("can't {verb} {url}") } else { format!("can't {verb} {key} in {url}") }
}

/// The error for a request that `object_store` says failed.
pub(crate) fn translate(error: object_store::Error, asked: Asked<'_>) -> StoreError {
    match asked.provider {
        None => on_disk(error, asked),
        Some(provider) => remote(&error, asked, provider),
    }
}

/// A directory, or memory.
fn on_disk(error: object_store::Error, asked: Asked<'_>) -> StoreError {
    use object_store::Error as E;
    let (class, advice) = match &error {
        E::NotFound { .. } => (StoreClass::NotFound, "there is no such object"),
        E::AlreadyExists { .. } | E::Precondition { .. } => (StoreClass::AlreadyExists, "the name is taken"),
        E::PermissionDenied { .. } | E::Unauthenticated { .. } => {
            (StoreClass::Denied, "access was refused; check the owner and mode of the directory")
        }
        E::NotSupported { .. } | E::NotImplemented { .. } => (StoreClass::Fatal, "the backend can't do that"),
        E::InvalidPath { .. } => (StoreClass::Fatal, "the backend doesn't take that name"),
        E::Generic { .. } => match io_kind(&error) {
            Some(kind) => classify_io(kind),
            // Of what isn't an I/O error only a range beyond the end reaches us from a directory or memory.
            None => (StoreClass::Fatal, "the object is shorter than expected, or the backend refused the request"),
        },
        _ => (StoreClass::Retry, "the request was broken off"),
    };
    let what = asked.describe();
    let message = match class {
        StoreClass::NotFound | StoreClass::AlreadyExists => format!("{what}: {advice}"),
        _ => format!("{what}: {advice} ({})", root_cause(&error)),
    };
    StoreError::new(class, message).with_source(error)
}

/// A service over HTTP. The error keeps no source: what the libraries below say may quote a URL with a signature in it.
fn remote(error: &object_store::Error, asked: Asked<'_>, provider: Provider) -> StoreError {
    let what = asked.describe();
    if let Some(rejected) = cause::<Rejected>(error) {
        let (class, advice) = classify(rejected, asked.verb, provider);
        let message = match class {
            StoreClass::NotFound | StoreClass::AlreadyExists => format!("{what}: {advice}"),
            _ => format!("{what}: {advice} (the storage answered {rejected})"),
        };
        return StoreError::new(class, message).after(rejected.retry_after);
    }
    if let Some(connect) = cause::<ConnectError>(error) {
        return match connect {
            ConnectError::Network(text) => StoreError::new(
                StoreClass::Retry,
                format!("{what}: the storage can't be reached; check the network and the endpoint ({text})"),
            ),
            ConnectError::Refused(text) => StoreError::new(StoreClass::Denied, format!("{what}: {text}")),
        };
    }
    use object_store::Error as E;
    let (class, advice) = match error {
        E::NotFound { .. } => (StoreClass::NotFound, "there is no such object"),
        E::AlreadyExists { .. } | E::Precondition { .. } => (StoreClass::AlreadyExists, "the name is taken"),
        E::PermissionDenied { .. } | E::Unauthenticated { .. } => {
            (StoreClass::Denied, "access was refused; check the credentials and their permissions")
        }
        E::NotSupported { .. } | E::NotImplemented { .. } => (StoreClass::Fatal, "the backend can't do that"),
        E::InvalidPath { .. } => (StoreClass::Fatal, "the backend doesn't take that name"),
        // The library keeps the type of this to itself; the conformance tests hold its words.
        E::Generic { .. } if root_cause(error).contains("Wanted range starting at") => {
            (StoreClass::Fatal, "the object is shorter than expected; it is damaged or not ours")
        }
        E::Generic { .. } if root_cause(error).contains("non-partial response when range requested") => {
            (StoreClass::Fatal, "the storage gave the whole object where a part was asked for")
        }
        // Cut off, or an answer that makes no sense: the next one may.
        _ => (StoreClass::Retry, "the answer was lost or makes no sense; check the network and the endpoint"),
    };
    match class {
        StoreClass::NotFound | StoreClass::AlreadyExists => StoreError::new(class, format!("{what}: {advice}")),
        _ => StoreError::new(class, format!("{what}: {advice} ({})", root_cause(error))),
    }
}

/// Codes that say that the bucket itself isn't there.
const NO_BUCKET: &[&str] = &["NoSuchBucket", "ContainerNotFound", "ContainerBeingDeleted", "ContainerDisabled"];
/// Codes that say that too much was asked for, whatever status they come with.
const THROTTLED: &[&str] = &[
    "SlowDown",
    "ServerBusy",
    "Throttling",
    "ThrottlingException",
    "RequestLimitExceeded",
    "TooManyRequests",
    "RequestTimeout",
    "OperationTimedOut",
    "InternalError",
    "ServiceUnavailable",
];
/// Codes with status 409 that say that another request on the same name is under way: nothing is decided yet.
const UNDER_WAY: &[&str] = &["ConditionalRequestConflict", "OperationAborted", "PendingCopyOperation"];
/// Codes with status 400 that are about who asks.
const WHO: &[&str] = &[
    "ExpiredToken",
    "InvalidToken",
    "TokenRefreshRequired",
    "InvalidAuthenticationInfo",
    "AuthenticationFailed",
    "InvalidAccessKeyId",
    "invalid_grant",
    "invalid_client",
    "unauthorized_client",
];

fn classify(rejected: &Rejected, verb: &str, provider: Provider) -> (StoreClass, String) {
    let code = rejected.code.as_deref().unwrap_or_default();
    let is = |codes: &[&str]| codes.contains(&code);
    let bucket = provider.bucket();
    let say = |class: StoreClass, advice: &str| (class, advice.to_owned());
    let no_bucket =
        || (StoreClass::NoBucket, format!("there is no such {bucket}; create it, or correct the storage URL"));
    let denied = || say(StoreClass::Denied, "access was refused; check the credentials and their permissions");
    if is(NO_BUCKET) {
        return no_bucket();
    }
    if is(THROTTLED) {
        return say(StoreClass::Retry, "the storage is busy or failed; it is tried again later");
    }
    let status = rejected.status;
    match status {
        StatusCode::UNAUTHORIZED => denied(),
        StatusCode::FORBIDDEN if code == "RequestTimeTooSkewed" => {
            say(StoreClass::Denied, "this machine's clock is wrong; set it")
        }
        StatusCode::FORBIDDEN => denied(),
        StatusCode::PROXY_AUTHENTICATION_REQUIRED => {
            say(StoreClass::Denied, "the proxy wants a user name and password, or other ones")
        }
        StatusCode::BAD_REQUEST if is(WHO) => denied(),
        StatusCode::BAD_REQUEST if code == "AuthorizationHeaderMalformed" => {
            say(StoreClass::Denied, "the storage is in another region than was given; correct the region")
        }
        StatusCode::NOT_FOUND | StatusCode::GONE => match verb {
            // Whatever is listed or written, only what holds it can be missing.
            verb::WRITE | verb::LIST => no_bucket(),
            _ => say(StoreClass::NotFound, "there is no such object"),
        },
        StatusCode::CONFLICT if is(UNDER_WAY) => {
            say(StoreClass::Retry, "another request on the same name is under way; it is tried again")
        }
        StatusCode::CONFLICT | StatusCode::PRECONDITION_FAILED | StatusCode::NOT_MODIFIED if verb == verb::WRITE => {
            say(StoreClass::AlreadyExists, "the name is taken")
        }
        StatusCode::CONFLICT | StatusCode::PRECONDITION_FAILED => {
            say(StoreClass::Fatal, "the storage protects the object; check locks, leases and retention rules on it")
        }
        StatusCode::RANGE_NOT_SATISFIABLE => {
            say(StoreClass::Fatal, "the object is shorter than expected; it is damaged or not ours")
        }
        StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_EARLY | StatusCode::TOO_MANY_REQUESTS => {
            say(StoreClass::Retry, "the storage is busy; it is tried again later")
        }
        StatusCode::NOT_IMPLEMENTED | StatusCode::METHOD_NOT_ALLOWED | StatusCode::HTTP_VERSION_NOT_SUPPORTED => {
            say(StoreClass::Fatal, "the storage can't do that; check the endpoint")
        }
        _ if status.is_redirection() => {
            let there = rejected.region.as_deref();
            let there = there.map_or_else(String::new, |region| format!(" (the {bucket} is in the region {region})"));
            (
                StoreClass::Fatal,
                format!(
                    "the storage refers to another address, which isn't followed; correct the endpoint or region{there}"
                ),
            )
        }
        _ if status.is_server_error() => say(StoreClass::Retry, "the storage failed; it is tried again later"),
        _ => say(StoreClass::Fatal, "the storage refused the request; check the storage URL and the endpoint"),
    }
}

pub(crate) fn classify_io(kind: io::ErrorKind) -> (StoreClass, &'static str) {
    use io::ErrorKind as K;
    match kind {
        K::PermissionDenied => (StoreClass::Denied, "access was refused; check the owner and mode of the directory"),
        K::ReadOnlyFilesystem => (StoreClass::Fatal, "the file system is read-only; mount it writable"),
        K::NotADirectory | K::IsADirectory | K::InvalidFilename | K::InvalidInput | K::Unsupported => {
            (StoreClass::Fatal, "something there is not what a vault directory holds, or the file system can't do that")
        }
        K::StorageFull | K::QuotaExceeded => (StoreClass::Retry, "the disk or quota is full; free some space"),
        K::NotFound => (StoreClass::Retry, "a directory vanished; check that the storage is mounted"),
        _ => (StoreClass::Retry, "the storage failed; check the disk or the network mount"),
    }
}

/// The error of type `T` that lies under an error.
fn cause<'a, T: Error + 'static>(error: &'a (dyn Error + 'static)) -> Option<&'a T> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(found) = error.downcast_ref::<T>() {
            return Some(found);
        }
        next = error.source();
    }
    None
}

fn io_kind(error: &(dyn Error + 'static)) -> Option<io::ErrorKind> {
    cause::<io::Error>(error).map(io::Error::kind)
}

fn root_cause(error: &(dyn Error + 'static)) -> String {
    let mut last = error;
    while let Some(next) = last.source() {
        last = next;
    }
    last.to_string()
}

#[cfg(test)]
mod tests;
