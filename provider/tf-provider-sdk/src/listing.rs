//! Lists of existing resources, for `terraform query`.
//!
//! What is found is sent on at once: a list of a hundred thousand never stands in memory, and ends as
//! soon as Terraform has as many as it asked for or hangs up.

use std::sync::atomic::{AtomicUsize, Ordering};

use async_trait::async_trait;
use tokio::sync::mpsc;

use crate::core::context::Context;
use crate::diagnostic::Result;
use crate::schema::Schema;
use crate::value::Object;

/// Found resources that may wait for Terraform to read them; then the list waits.
const WAITING_MAX: usize = 64;

/// What [`ListResource::list`] gets.
#[derive(Debug, Clone, Default)]
pub struct ListRequest {
    /// The query's configuration.
    pub config: Object,
    /// As many are wanted at most.
    pub limit: Option<usize>,
    /// Whether states are wanted too: [`ListedResource::resource`].
    pub with_resource: bool,
}

/// One resource that was found.
#[derive(Debug, Clone)]
pub struct ListedResource {
    /// Its identity, by the resource's identity schema.
    pub identity: Object,
    /// Its name, for a person.
    pub display_name: String,
    /// Its state, where the query asked for it.
    pub resource: Option<Object>,
}

impl ListedResource {
    /// A resource without its state.
    pub fn new(identity: Object, display_name: impl Into<String>) -> Self {
        Self { identity, display_name: display_name.into(), resource: None }
    }

    /// Adds its state.
    #[must_use]
    pub fn with_resource(mut self, state: Object) -> Self {
        self.resource = Some(state);
        self
    }
}

/// Where [`ListResource::list`] puts what it finds.
#[derive(Debug)]
pub struct Listing {
    found: mpsc::Sender<ListedResource>,
    left: AtomicUsize,
}

impl Listing {
    /// A listing, and the other end of it; for a provider's own unit tests too.
    pub fn new(limit: Option<usize>) -> (Self, mpsc::Receiver<ListedResource>) {
        let (found, receiver) = mpsc::channel(WAITING_MAX);
        (Self { found, left: AtomicUsize::new(limit.unwrap_or(usize::MAX)) }, receiver)
    }

    /// Adds one. False where no more are wanted: return then.
    pub async fn add(&self, resource: ListedResource) -> bool {
        let one_less = |left: usize| left.checked_sub(1);
        let Ok(left) = self.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_less) else {
            return false;
        };
        self.found.send(resource).await.is_ok() && left > 1
    }
}

/// A list of existing resources. The resource of the same type name must have an identity schema.
#[async_trait]
pub trait ListResource<C: Send + Sync + 'static>: Send + Sync + 'static {
    /// The full name of the resource that is listed.
    fn type_name(&self) -> &str;

    /// The schema of the query's configuration.
    fn schema(&self) -> Schema;

    /// Checks the configuration beyond validators and rules. Values may be unknown.
    async fn validate_config(&self, _cx: &Context, _config: &Object) -> Result<()> {
        Ok(())
    }

    /// Puts what there is into `found`, until that says that it is enough.
    ///
    /// # Errors
    /// What was found before is kept.
    async fn list(&self, client: &C, cx: &Context, request: ListRequest, found: &Listing) -> Result<()>;
}
