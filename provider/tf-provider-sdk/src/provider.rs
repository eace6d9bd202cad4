//! The traits that a provider implements.
//!
//! `C` is the provider's client: whatever [`Provider::configure`] made, shared by all operations.
//! Objects that arrive hold every name of the schema. Objects that are returned are brought into the
//! schema's shape: missing attributes become null, lists become sets where the schema says so.
//!
//! Cancellation is cooperative, on purpose: a create that is dropped half-way loses the resource it
//! made. Await long calls through [`Context::run`] or [`Context::poll`], and call
//! [`Context::save_partial`] as soon as something exists.

use std::time::SystemTime;

use async_trait::async_trait;
use serde_json::Value as Json;

use crate::core::context::Context;
use crate::core::plan::PlanChange;
use crate::diagnostic::{Diagnostics, Result};
use crate::function::Function;
use crate::listing::ListResource;
use crate::schema::{IdentitySchema, Schema, version_of};
use crate::value::{ConvertError, FromValue, Object, Path, Step};

/// A provider: its own configuration, and what it offers.
#[async_trait]
pub trait Provider: Send + Sync + 'static {
    /// What [`configure`](Provider::configure) makes and every operation gets.
    type Client: Send + Sync + 'static;

    /// The registry address: `registry.terraform.io/NAMESPACE/NAME`.
    fn address(&self) -> &str;

    /// The provider's version, for the log.
    fn version(&self) -> &str;

    /// The schema of the `provider` block.
    fn schema(&self) -> Schema {
        Schema::new()
    }

    /// Checks the `provider` block beyond its validators. Values may be unknown.
    async fn validate_config(&self, _cx: &Context, _config: &Object) -> Result<()> {
        Ok(())
    }

    /// Makes the client. During plan, values may be unknown: a provider that can't go on without
    /// them returns a client that says so when it is used.
    async fn configure(&self, cx: &Context, config: &Object) -> Result<Self::Client>;

    /// The managed resources.
    fn resources(&self) -> Vec<Box<dyn Resource<Self::Client>>> {
        Vec::new()
    }

    /// The data sources.
    fn data_sources(&self) -> Vec<Box<dyn DataSource<Self::Client>>> {
        Vec::new()
    }

    /// The functions, `provider::NAME::FUNCTION(…)`.
    fn functions(&self) -> Vec<Box<dyn Function>> {
        Vec::new()
    }

    /// The ephemeral resources.
    fn ephemeral_resources(&self) -> Vec<Box<dyn EphemeralResource<Self::Client>>> {
        Vec::new()
    }

    /// The list resources, for `terraform query`.
    fn list_resources(&self) -> Vec<Box<dyn ListResource<Self::Client>>> {
        Vec::new()
    }

    /// The actions.
    fn actions(&self) -> Vec<Box<dyn Action<Self::Client>>> {
        Vec::new()
    }
}

/// What [`Resource::create`] gets.
#[derive(Debug, Clone)]
pub struct CreateRequest {
    /// The plan; unknown where the provider decides.
    pub plan: Object,
    /// The configuration: the only place that holds write-only values.
    pub config: Object,
}

impl CreateRequest {
    /// A write-only argument, by its path; `None` where the configuration doesn't set it.
    ///
    /// # Errors
    /// It is of another type.
    pub fn write_only<T: FromValue>(&self, path: impl Into<Path>) -> std::result::Result<Option<T>, ConvertError> {
        value_at(&self.config, &path.into())
    }
}

/// What [`Resource::update`] gets.
#[derive(Debug, Clone)]
pub struct UpdateRequest {
    /// The state before.
    pub prior: Object,
    /// The plan; unknown where the provider decides.
    pub plan: Object,
    /// The configuration: the only place that holds write-only values.
    pub config: Object,
}

impl UpdateRequest {
    /// The new value of a write-only argument declared with [`Schema::write_only`]: `Some` only where
    /// its `…_version` changes and the configuration sets it.
    ///
    /// # Errors
    /// It is of another type.
    pub fn write_only<T: FromValue>(&self, path: impl Into<Path>) -> std::result::Result<Option<T>, ConvertError> {
        let path = path.into();
        let version = version_path(&path);
        if self.prior.at(&version) == self.plan.at(&version) {
            return Ok(None);
        }
        value_at(&self.config, &path)
    }
}

fn value_at<T: FromValue>(object: &Object, path: &Path) -> std::result::Result<Option<T>, ConvertError> {
    match object.at(path) {
        None => Ok(None),
        Some(value) => {
            Option::from_value(value).map_err(|error| ConvertError { path: path.join(&error.path), ..error })
        }
    }
}

/// The path of the version that goes with a write-only argument.
fn version_path(path: &Path) -> Path {
    let mut steps = path.steps().to_vec();
    if let Some(Step::Attribute(name)) = steps.last_mut() {
        *name = version_of(name);
    }
    Path::from_steps(steps)
}

/// What [`Resource::move_state`] gets: a resource of another type, to become one of this type.
#[derive(Debug, Clone)]
pub struct MoveRequest {
    /// The provider that it came from, `registry.terraform.io/NAMESPACE/NAME`.
    pub source_provider: String,
    /// Its type there.
    pub source_type: String,
    /// Its schema version there.
    pub source_version: i64,
    /// Its state there.
    pub source_state: Json,
    /// Its private data there, in the form of its provider. What this provider itself kept is in
    /// [`Context::private`], and goes over to the new resource unless it is removed.
    pub source_private: Vec<u8>,
    /// Its identity there, and the version of the identity's schema.
    pub source_identity: Option<(Json, i64)>,
}

/// A managed resource.
///
/// ```
/// use tf_provider_sdk::{Attribute, Context, CreateRequest, Object, Resource, Result, Schema, async_trait, import_by_id};
///
/// /// What `Provider::configure` makes.
/// struct Client;
///
/// impl Client {
///     async fn register(&self, name: &str) -> String {
///         format!("domain-{name}")
///     }
/// }
///
/// struct Domain;
///
/// #[async_trait]
/// impl Resource<Client> for Domain {
///     fn type_name(&self) -> &str {
///         "example_domain"
///     }
///
///     fn schema(&self) -> Schema {
///         Schema::new()
///             .attribute(Attribute::id())
///             .attribute(Attribute::string("name").required().requires_replace())
///     }
///
///     async fn create(&self, client: &Client, _: &Context, request: CreateRequest) -> Result<Object> {
///         let mut state = request.plan;
///         let name: String = state.get("name")?;
///         state.set("id", client.register(&name).await);
///         Ok(state)
///     }
///
///     async fn read(&self, _: &Client, _: &Context, state: Object) -> Result<Option<Object>> {
///         Ok(Some(state))
///     }
///
///     async fn delete(&self, _: &Client, _: &Context, _: Object) -> Result<()> {
///         Ok(())
///     }
///
///     async fn import(&self, _: &Client, _: &Context, id: &str) -> Result<Object> {
///         Ok(import_by_id(id))
///     }
/// }
///
/// # tokio::runtime::Runtime::new().unwrap().block_on(async {
/// let plan = Object::new().with("name", "a.example");
/// let request = CreateRequest { config: plan.clone(), plan };
/// let state = Domain.create(&Client, &Context::for_test(), request).await?;
/// assert_eq!(state.get("id"), Ok("domain-a.example".to_owned()));
/// # tf_provider_sdk::Result::Ok(()) }).unwrap();
/// ```
#[async_trait]
pub trait Resource<C: Send + Sync + 'static>: Send + Sync + 'static {
    /// The full name: `"example_volume"`.
    fn type_name(&self) -> &str;

    /// The schema.
    fn schema(&self) -> Schema;

    /// The identity's schema, for a resource that has an identity.
    fn identity_schema(&self) -> Option<IdentitySchema> {
        None
    }

    /// The identity of a resource with this state. Called where there is an identity schema.
    fn identity(&self, _state: &Object) -> Option<Object> {
        None
    }

    /// Checks the configuration beyond validators and rules. Values may be unknown. There is no
    /// client: this runs in `terraform validate` too.
    async fn validate_config(&self, _cx: &Context, _config: &Object) -> Result<()> {
        Ok(())
    }

    /// The last word on a plan, after defaults and attribute modifiers; called for create, update
    /// and destroy, and also where nothing changes ([`PlanChange::is_unchanged`]). Refuse here what
    /// can't work, with the path. Without a configured client it is not called.
    ///
    /// An update whose [`PlanChange::requires_replace`] is not empty is a replacement; Terraform
    /// then asks again for a plan of the create.
    async fn modify_plan(&self, _client: &C, _cx: &Context, _plan: &mut PlanChange) -> Result<()> {
        Ok(())
    }

    /// Creates it and returns the whole state. Known values of the plan must come back unchanged.
    ///
    /// # Errors
    /// What was last given to [`Context::save_partial`] is kept in state, marked as tainted.
    async fn create(&self, client: &C, cx: &Context, request: CreateRequest) -> Result<Object>;

    /// Reads it: the state as it is now, or `None` if it is gone.
    async fn read(&self, client: &C, cx: &Context, state: Object) -> Result<Option<Object>>;

    /// Changes it in place and returns the whole state.
    ///
    /// # Errors
    /// What was last given to [`Context::save_partial`] is kept in state, else the prior state.
    async fn update(&self, _client: &C, _cx: &Context, _request: UpdateRequest) -> Result<Object> {
        Err(Diagnostics::error(
            "Update not supported",
            format!(
                "A {} can't be changed in place, yet the plan did not replace it. This is a mistake in the provider.",
                self.type_name()
            ),
        ))
    }

    /// Deletes it; one that is gone already is a success.
    ///
    /// # Errors
    /// What was last given to [`Context::save_partial`] is kept in state, else the prior state.
    async fn delete(&self, client: &C, cx: &Context, state: Object) -> Result<()>;

    /// The state for `terraform import`; a read follows, so the identifying attributes are enough:
    /// see [`import_by_id`].
    async fn import(&self, _client: &C, _cx: &Context, _id: &str) -> Result<Object> {
        Err(Diagnostics::error("Import not supported", format!("A {} can't be imported.", self.type_name())))
    }

    /// The state for an import by identity. By default, the identity's attributes are taken as
    /// attributes of the state.
    async fn import_by_identity(&self, _client: &C, _cx: &Context, identity: &Object) -> Result<Object> {
        Ok(identity.clone())
    }

    /// Brings a state of an older schema version to the current one. Runs once, from `version` to
    /// the current version; attributes that the schema no longer has must be removed.
    async fn upgrade_state(&self, _cx: &Context, version: i64, _state: Json) -> Result<Json> {
        Err(Diagnostics::error(
            "State too old",
            format!(
                "The state of this {} has schema version {version}, which this provider can't upgrade.",
                self.type_name()
            ),
        ))
    }

    /// Brings an identity of an older identity schema to the current one, as
    /// [`upgrade_state`](Resource::upgrade_state) does with states.
    async fn upgrade_identity(&self, _cx: &Context, version: i64, _identity: Json) -> Result<Json> {
        Err(Diagnostics::error(
            "Identity of another version",
            format!(
                "The identity of this {} has schema version {version}, which this provider can't upgrade.",
                self.type_name()
            ),
        ))
    }

    /// The configuration that would give this state, for Terraform 1.14 and later to write down for
    /// what it imports. By default everything that a person may set, and leaves out what has its default
    /// or is deprecated. Override it to leave out what conflicts: start from `generated`.
    async fn generate_config(&self, _cx: &Context, _state: &Object, generated: Object) -> Result<Object> {
        Ok(generated)
    }

    /// Takes over a resource of another type, for a `moved` block. `None` if that type is not one
    /// that can become this one.
    async fn move_state(&self, _cx: &Context, _request: &MoveRequest) -> Result<Option<Object>> {
        Ok(None)
    }
}

/// The state for an import by `id`: `Ok(import_by_id(id))` is a whole [`Resource::import`].
pub fn import_by_id(id: &str) -> Object {
    Object::new().with("id", id)
}

/// A data source.
#[async_trait]
pub trait DataSource<C: Send + Sync + 'static>: Send + Sync + 'static {
    /// The full name: `"example_volumes"`.
    fn type_name(&self) -> &str;

    /// The schema.
    fn schema(&self) -> Schema;

    /// Checks the configuration beyond validators and rules. Values may be unknown.
    async fn validate_config(&self, _cx: &Context, _config: &Object) -> Result<()> {
        Ok(())
    }

    /// Reads it. Configured values must come back unchanged: start from `config`. Defaults of the
    /// schema are filled in already.
    async fn read(&self, client: &C, cx: &Context, config: Object) -> Result<Object>;
}

/// What [`EphemeralResource::open`] returns.
#[derive(Debug, Clone, Default)]
pub struct EphemeralOpened {
    /// The value: start from the configuration.
    pub result: Object,
    /// When Terraform must call [`EphemeralResource::renew`].
    pub renew_at: Option<SystemTime>,
    /// Kept by Terraform, in memory only, for renew and close.
    pub private: Vec<u8>,
}

/// What [`EphemeralResource::renew`] returns.
#[derive(Debug, Clone, Default)]
pub struct EphemeralRenewed {
    /// When to renew again.
    pub renew_at: Option<SystemTime>,
    /// The private data from now on.
    pub private: Vec<u8>,
}

/// An ephemeral resource: a value that is never stored.
#[async_trait]
pub trait EphemeralResource<C: Send + Sync + 'static>: Send + Sync + 'static {
    /// The full name: `"example_token"`.
    fn type_name(&self) -> &str;

    /// The schema.
    fn schema(&self) -> Schema;

    /// Checks the configuration beyond validators and rules. Values may be unknown.
    async fn validate_config(&self, _cx: &Context, _config: &Object) -> Result<()> {
        Ok(())
    }

    /// Opens it.
    async fn open(&self, client: &C, cx: &Context, config: Object) -> Result<EphemeralOpened>;

    /// Renews it; called only if a time for it was given.
    async fn renew(&self, _client: &C, _cx: &Context, private: Vec<u8>) -> Result<EphemeralRenewed> {
        Ok(EphemeralRenewed { renew_at: None, private })
    }

    /// Closes it.
    async fn close(&self, _client: &C, _cx: &Context, _private: Vec<u8>) -> Result<()> {
        Ok(())
    }
}

/// An action: something that is done, and leaves no state of its own.
#[async_trait]
pub trait Action<C: Send + Sync + 'static>: Send + Sync + 'static {
    /// The full name: `"example_restart"`.
    fn type_name(&self) -> &str;

    /// The schema.
    fn schema(&self) -> Schema;

    /// Checks the configuration beyond validators and rules. Values may be unknown.
    async fn validate_config(&self, _cx: &Context, _config: &Object) -> Result<()> {
        Ok(())
    }

    /// Checks at plan time that it can be invoked. Values may be unknown.
    async fn plan(&self, _client: &C, _cx: &Context, _config: &Object) -> Result<()> {
        Ok(())
    }

    /// Does it; [`Context::progress`] tells the person how it goes.
    async fn invoke(&self, client: &C, cx: &Context, config: Object) -> Result<()>;
}
