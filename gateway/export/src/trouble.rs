//! What both front ends do about the engine's errors: wait for what may pass, and log what they hand on.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::future::Future;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use lifeboat_engine::{EngineError, ErrorKind};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::errno::{Errno, Named, errno_of};

const RETRY_FIRST: Duration = Duration::from_millis(20);
const RETRY_MAX: Duration = Duration::from_secs(1);
/// The same kind of error on the same file is logged once in this time: a poisoned group fails every write.
const LOG_EVERY: Duration = Duration::from_secs(10);

/// How long to wait for what may pass.
#[derive(Clone, Debug)]
pub(crate) struct Patience {
    retry_for: Duration,
    ended: CancellationToken,
}

impl Patience {
    pub(crate) fn new(retry_for: Duration) -> Self {
        Self { retry_for, ended: CancellationToken::new() }
    }

    /// Ends every wait: nobody will take the answer.
    pub(crate) fn end(&self) {
        self.ended.cancel();
    }

    /// Asks again while the engine answers `Retry`, until the time is up or patience ends.
    pub(crate) async fn retry<T, F, A>(&self, mut ask: F) -> Result<T, EngineError>
    where
        F: FnMut() -> A,
        A: Future<Output = Result<T, EngineError>>,
    {
        let mut deadline = None;
        let mut pause = RETRY_FIRST;
        loop {
            let error = match ask().await {
                Err(error) if error.kind() == ErrorKind::Retry => error,
                answer => return answer,
            };
            let now = Instant::now();
            let deadline = *deadline.get_or_insert(now + self.retry_for);
            if now >= deadline {
                return Err(error);
            }
            tokio::select! {
                () = self.ended.cancelled() => return Err(error),
                () = tokio::time::sleep_until(deadline.min(now + pause)) => {}
            }
            pause = (pause * 2).min(RETRY_MAX);
        }
    }
}

/// What was last logged about an open file.
#[derive(Debug, Default)]
pub(crate) struct Logged(Mutex<Option<(ErrorKind, Instant)>>);

impl Logged {
    /// Whether an error of this kind is worth a line.
    fn is_news(&self, kind: ErrorKind) -> bool {
        let mut last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if last.is_some_and(|(known, at)| known == kind && at.elapsed() < LOG_EVERY) {
            return false;
        }
        *last = Some((kind, Instant::now()));
        true
    }
}

/// Requests that failed in this process, each of a kind of error.
static FAILED: Mutex<BTreeMap<&'static str, u64>> = Mutex::new(BTreeMap::new());

/// How many requests of users of volumes failed in this process, through the mount and NBD, by the name of the kind of error.
#[must_use]
pub fn failed_requests() -> BTreeMap<&'static str, u64> {
    FAILED.lock().unwrap_or_else(PoisonError::into_inner).clone()
}

/// Logs an error where it leaves our hands, and gives its number.
pub(crate) fn report(path: &dyn Display, error: &EngineError, logged: Option<&Logged>, named: Named) -> Errno {
    let errno = errno_of(error.kind(), named);
    *FAILED.lock().unwrap_or_else(PoisonError::into_inner).entry(error.kind().name()).or_default() += 1;
    if logged.is_some_and(|logged| !logged.is_news(error.kind())) {
        return errno;
    }
    match error.kind() {
        ErrorKind::NotFound | ErrorKind::Invalid | ErrorKind::Fenced => {
            tracing::debug!(file = %path, ?errno, %error, "request refused");
        }
        ErrorKind::Retry | ErrorKind::Closed => tracing::warn!(file = %path, ?errno, %error, "request failed"),
        ErrorKind::NoSpace
        | ErrorKind::Denied
        | ErrorKind::Damaged
        | ErrorKind::Tampered
        | ErrorKind::WrongKey
        | ErrorKind::NewerFormat => tracing::error!(file = %path, ?errno, %error, "request failed"),
    }
    errno
}
