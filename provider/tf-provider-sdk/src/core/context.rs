//! What an operation knows beside its values: whether it must stop, until when it may run, its
//! private data, and where to leave warnings and partial state.
//!
//! The deadline comes from the resource's `timeouts` block or its default. Stop and deadline are
//! both cooperative: nothing is dropped behind an operation's back.

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value as Json;
use tokio::sync::mpsc::Sender;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::diagnostic::{Diagnostic, Diagnostics, Result};
use crate::value::Object;

/// The private data of a resource: JSON by key.
pub(crate) type Private = BTreeMap<String, Json>;

/// Why an operation can't be done yet, for [`Context::defer`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Deferral {
    /// Something in its configuration is not known yet.
    ConfigUnknown,
    /// Something in the provider's configuration is not known yet.
    ProviderConfigUnknown,
    /// What it depends on does not exist yet.
    AbsentPrerequisite,
}

/// What an operation knows beside its values.
///
/// ```
/// use std::time::Duration;
/// use tf_provider_sdk::{Context, Diagnostics, Result};
///
/// async fn wait_for(cx: &Context, state: &str) -> Result<()> {
///     let look = || async {
///         match state {
///             "running" => Ok(Some(())),
///             "failed" => Err(Diagnostics::error("The machine failed", "Its console says why.")),
///             _ => Ok(None),
///         }
///     };
///     cx.poll("waiting for the machine", Duration::from_secs(1), look).await
/// }
/// # tokio::runtime::Runtime::new().unwrap().block_on(async {
/// let cx = Context::for_test();
/// assert!(wait_for(&cx, "running").await.is_ok());
/// assert!(wait_for(&cx, "failed").await.is_err());
/// # });
/// ```
#[derive(Debug)]
pub struct Context {
    operation: &'static str,
    type_name: String,
    cancellation: CancellationToken,
    deadline: Option<(Instant, Duration)>,
    terraform_version: String,
    progress: Option<Sender<String>>,
    deferral_allowed: bool,
    kept: Mutex<Kept>,
}

#[derive(Debug, Default)]
struct Kept {
    diagnostics: Diagnostics,
    partial: Option<Object>,
    private: Private,
    deferred: Option<Deferral>,
}

impl Context {
    pub(crate) fn new(operation: &'static str, type_name: &str, cancellation: CancellationToken) -> Self {
        Self {
            operation,
            type_name: type_name.to_owned(),
            cancellation,
            deadline: None,
            terraform_version: String::new(),
            progress: None,
            deferral_allowed: false,
            kept: Mutex::default(),
        }
    }

    /// A context for a provider's own unit tests: never cancelled unless through
    /// [`Context::cancellation`], without a deadline.
    pub fn for_test() -> Self {
        Self::new("test", "test", CancellationToken::new())
    }

    #[must_use]
    pub(crate) fn with_timeout(mut self, timeout: Option<Duration>) -> Self {
        self.deadline = timeout.and_then(|t| Some((Instant::now().checked_add(t)?, t)));
        self
    }

    #[must_use]
    pub(crate) fn with_private(self, private: Private) -> Self {
        self.kept().private = private;
        self
    }

    #[must_use]
    pub(crate) fn with_terraform_version(mut self, version: String) -> Self {
        self.terraform_version = version;
        self
    }

    #[must_use]
    pub(crate) fn with_progress(mut self, progress: Sender<String>) -> Self {
        self.progress = Some(progress);
        self
    }

    #[must_use]
    pub(crate) fn with_deferral(mut self, allowed: bool) -> Self {
        self.deferral_allowed = allowed;
        self
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The operation: `"create"`, `"read"`, `"plan"`, …
    pub fn operation(&self) -> &'static str {
        self.operation
    }

    /// The resource's, data source's or action's full name.
    pub fn type_name(&self) -> &str {
        &self.type_name
    }

    /// Terraform's version, in [`Provider::configure`](crate::Provider::configure); else empty.
    pub fn terraform_version(&self) -> &str {
        &self.terraform_version
    }

    /// Cancelled when Terraform says stop.
    pub fn cancellation(&self) -> &CancellationToken {
        &self.cancellation
    }

    /// True once Terraform said stop.
    pub fn is_cancelled(&self) -> bool {
        self.cancellation.is_cancelled()
    }

    /// How long the operation may still run; `None` without a timeout.
    pub fn remaining(&self) -> Option<Duration> {
        self.deadline.map(|(at, _)| at.saturating_duration_since(Instant::now()))
    }

    /// An error if the operation was told to stop or its time is over.
    pub fn check(&self) -> Result<()> {
        if self.is_cancelled() {
            return Err(self.cancelled("going on"));
        }
        match self.deadline {
            Some((at, timeout)) if at <= Instant::now() => Err(self.timed_out("going on", timeout)),
            _ => Ok(()),
        }
    }

    /// Awaits `future`, but no longer than until stop or the deadline; `what` completes "while …",
    /// such as `"waiting for the volume"`. The future is dropped then, so what it started may still
    /// go on elsewhere.
    pub async fn run<F: Future>(&self, what: &str, future: F) -> Result<F::Output> {
        let deadline = async {
            match self.deadline {
                Some((at, timeout)) => {
                    tokio::time::sleep_until(at).await;
                    timeout
                }
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            () = self.cancellation.cancelled() => Err(self.cancelled(what)),
            output = future => Ok(output),
            timeout = deadline => Err(self.timed_out(what, timeout)),
        }
    }

    /// Sleeps, but no longer than until stop or the deadline.
    pub async fn sleep(&self, what: &str, time: Duration) -> Result<()> {
        self.run(what, tokio::time::sleep(time)).await
    }

    /// Asks `attempt` every `interval` until it returns `Some`; ends early on its error, on stop
    /// and at the deadline. Put terminal failures into the error, so that nothing is waited for in
    /// vain.
    pub async fn poll<T, F, Fut>(&self, what: &str, interval: Duration, mut attempt: F) -> Result<T>
    where
        F: FnMut() -> Fut,
        Fut: Future<Output = Result<Option<T>>>,
    {
        loop {
            if let Some(found) = self.run(what, attempt()).await?? {
                return Ok(found);
            }
            tracing::debug!(type_name = %self.type_name, operation = self.operation, "still {what}");
            self.sleep(what, interval).await?;
        }
    }

    /// Leaves a warning beside the result.
    pub fn warn(&self, summary: impl Into<String>, detail: impl Into<String>) {
        self.diagnose(Diagnostic::warning(summary, detail));
    }

    /// Leaves a diagnostic beside the result; an error makes the operation fail.
    pub fn diagnose(&self, diagnostic: Diagnostic) {
        self.kept().diagnostics.push(diagnostic);
    }

    /// Keeps `state` in case the operation fails or is stopped later. Call it as soon as something
    /// exists, and again when there is more. Unknown values become null.
    pub fn save_partial(&self, state: Object) {
        self.kept().partial = Some(state);
    }

    /// Private data of the resource, kept beside its state and never shown.
    pub fn private<T: DeserializeOwned>(&self, key: &str) -> Option<T> {
        let json = self.kept().private.get(key).cloned()?;
        serde_json::from_value(json).ok()
    }

    /// Keeps private data beside the resource's state: at plan for its apply, at apply and read for
    /// later. What can't be JSON is an error.
    pub fn set_private<T: Serialize>(&self, key: &str, value: &T) -> Result<()> {
        let json =
            serde_json::to_value(value).map_err(|error| Diagnostic::from_error("Cannot keep private data", &error))?;
        self.kept().private.insert(key.to_owned(), json);
        Ok(())
    }

    /// Removes private data.
    pub fn remove_private(&self, key: &str) {
        self.kept().private.remove(key);
    }

    /// Tells Terraform that this can't be done before something else is applied; then return what is
    /// known, with unknown values for the rest. For read, plan, import, and for opening an ephemeral
    /// resource.
    ///
    /// # Errors
    /// Terraform doesn't accept that: most versions, and most runs, don't.
    pub fn defer(&self, why: Deferral) -> Result<()> {
        if !self.deferral_allowed {
            let reason = match why {
                Deferral::ConfigUnknown => "something in its configuration is not known yet",
                Deferral::ProviderConfigUnknown => "something in the provider's configuration is not known yet",
                Deferral::AbsentPrerequisite => "what it depends on does not exist yet",
            };
            return Err(Diagnostics::error(
                "Too early",
                format!(
                    "The {} of {} can't be done: {reason}. Apply that first, with -target.",
                    self.operation, self.type_name
                ),
            ));
        }
        self.kept().deferred = Some(why);
        Ok(())
    }

    /// True where [`Context::defer`] is accepted.
    pub fn may_defer(&self) -> bool {
        self.deferral_allowed
    }

    /// Tells the person how it goes: in an action on Terraform's screen, elsewhere in the log.
    pub fn progress(&self, message: impl Into<String>) {
        let message = message.into();
        tracing::info!(type_name = %self.type_name, operation = self.operation, "{message}");
        if let Some(progress) = &self.progress {
            // Full where Terraform reads slowly, closed where it hung up: a person loses a line that
            // the log still has, and the operation never waits for a screen.
            let _ = progress.try_send(message);
        }
    }

    pub(crate) fn take_diagnostics(&self) -> Diagnostics {
        std::mem::take(&mut self.kept().diagnostics)
    }

    pub(crate) fn take_partial(&self) -> Option<Object> {
        self.kept().partial.take()
    }

    pub(crate) fn take_private(&self) -> Private {
        std::mem::take(&mut self.kept().private)
    }

    pub(crate) fn take_deferred(&self) -> Option<Deferral> {
        self.kept().deferred.take()
    }

    fn cancelled(&self, what: &str) -> Diagnostics {
        Diagnostics::error(
            "Stopped",
            format!("Terraform was told to stop while {what} ({} of {}).", self.operation, self.type_name),
        )
    }

    fn timed_out(&self, what: &str, timeout: Duration) -> Diagnostics {
        Diagnostics::error(
            "Timed out",
            format!(
                "The {} of {} did not finish within {}: the time was over while {what}. \
                 The `timeouts` block sets a longer time.",
                self.operation,
                self.type_name,
                crate::schema::format_duration(timeout)
            ),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_deadline_ends_a_wait() {
        let cx = Context::for_test().with_timeout(Some(Duration::from_secs(90)));
        let error = cx.poll("waiting for it", Duration::from_secs(7), || async { Ok(None::<()>) }).await.unwrap_err();
        assert!(error.to_string().contains("within 1m30s"), "{error}");
        assert!(cx.check().is_err());
        assert_eq!(cx.remaining(), Some(Duration::ZERO));
    }

    #[tokio::test(start_paused = true)]
    async fn stop_ends_a_wait() {
        let cx = Context::for_test();
        cx.check().unwrap();
        let (waited, ()) = tokio::join!(cx.sleep("idling", Duration::from_secs(3600)), async {
            cx.cancellation().cancel();
        });
        assert!(waited.unwrap_err().to_string().contains("told to stop while idling"));
        assert!(cx.check().is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn poll_returns_what_it_finds_and_passes_errors_on() {
        let cx = Context::for_test();
        let tries = std::cell::Cell::new(0);
        let attempt = || {
            tries.set(tries.get() + 1);
            let now = tries.get();
            async move { Ok((now == 3).then_some(now)) }
        };
        let found = cx.poll("waiting", Duration::from_secs(1), attempt).await;
        assert_eq!(found, Ok(3));
        let failed: Result<()> = cx
            .poll("waiting", Duration::from_secs(1), || async { Err(Diagnostics::error("Broken", "for good")) })
            .await;
        assert!(failed.is_err());
    }

    #[test]
    fn private_data_is_typed() {
        let cx = Context::for_test();
        cx.set_private("n", &7_u32).unwrap();
        assert_eq!(cx.private::<u32>("n"), Some(7));
        assert_eq!(cx.private::<String>("n"), None);
        cx.remove_private("n");
        assert_eq!(cx.private::<u32>("n"), None);
    }
}
