//! One running provider: its registry, its client once configured, and the token that Stop cancels.

use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use futures::FutureExt as _;
use tokio_util::sync::CancellationToken;

use crate::core::context::Context;
use crate::core::registry::{Entry, Registry, ResourceEntry};
use crate::diagnostic::Diagnostics;
use crate::provider::Provider;
use crate::schema::{Schema, TIMEOUTS, parse_duration};
use crate::value::{Object, Value};

/// A provider's run-time.
pub(crate) struct Engine<P: Provider> {
    pub(crate) provider: P,
    pub(crate) registry: Registry<P>,
    client: RwLock<Option<Arc<P::Client>>>,
    stop: Mutex<CancellationToken>,
}

impl<P: Provider> Engine<P> {
    pub(crate) fn new(provider: P) -> Self {
        let registry = Registry::new(&provider);
        Self { provider, registry, client: RwLock::new(None), stop: Mutex::default() }
    }

    /// Cancels every operation under way. Later operations start afresh: Terraform still closes
    /// ephemeral resources after a Stop.
    pub(crate) fn stop(&self) {
        let mut token = self.stop.lock().unwrap_or_else(PoisonError::into_inner);
        token.cancel();
        *token = CancellationToken::new();
    }

    /// A context for one operation.
    pub(crate) fn context(&self, operation: &'static str, type_name: &str) -> Context {
        let token = self.stop.lock().unwrap_or_else(PoisonError::into_inner);
        Context::new(operation, type_name, token.child_token())
    }

    pub(crate) fn set_client(&self, client: P::Client) {
        let mut slot = self.client.write().unwrap_or_else(PoisonError::into_inner);
        *slot = Some(Arc::new(client));
    }

    /// The configured client.
    ///
    /// # Errors
    /// Terraform did not configure the provider first, or that failed.
    pub(crate) fn client(&self) -> Result<Arc<P::Client>, Diagnostics> {
        let slot = self.client.read().unwrap_or_else(PoisonError::into_inner);
        slot.clone()
            .ok_or_else(|| Diagnostics::error("Provider not configured", "The operation needs a configured provider."))
    }

    pub(crate) fn resource(&self, name: &str) -> Result<&ResourceEntry<P::Client>, Diagnostics> {
        self.registry.resources.get(name).ok_or_else(|| unknown("resource", name))
    }
}

/// Runs a provider's own code; a panic in it becomes an error like any other, so that what exists
/// stays in the state.
pub(crate) async fn guarded<T>(operation: impl Future<Output = Result<T, Diagnostics>>) -> Result<T, Diagnostics> {
    match std::panic::AssertUnwindSafe(operation).catch_unwind().await {
        Ok(result) => result,
        Err(panic) => {
            let text = panic.downcast_ref::<String>().map(String::as_str);
            let text = text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("no message");
            tracing::error!("an operation panicked: {text}");
            Err(Diagnostics::error(
                "The provider failed",
                format!("It failed in a way it should not ({text}). Please report it, with the provider's log."),
            ))
        }
    }
}

/// Looks up anything but a managed resource.
pub(crate) fn find<'a, T: ?Sized>(
    entries: &'a std::collections::BTreeMap<String, Entry<T>>,
    kind: &str,
    name: &str,
) -> Result<&'a Entry<T>, Diagnostics> {
    entries.get(name).ok_or_else(|| unknown(kind, name))
}

pub(crate) fn unknown(kind: &str, name: &str) -> Diagnostics {
    Diagnostics::error(format!("Unknown {kind}"), format!("This provider has no {kind} {name:?}."))
}

/// How long `operation` may take: what the `timeouts` block in `values` says, else the schema's
/// default, else without limit.
pub(crate) fn timeout(schema: &Schema, values: &Object, operation: &str) -> Option<Duration> {
    let default = schema.timeouts.as_ref()?.default_of(operation)?;
    let configured = values
        .value(TIMEOUTS)
        .and_then(Value::as_object)
        .and_then(|block| block.value(operation)?.as_str())
        .and_then(|text| parse_duration(text).ok());
    Some(configured.unwrap_or(default))
}
