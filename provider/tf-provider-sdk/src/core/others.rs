//! The operations on everything but managed resources: provider configuration, data sources,
//! functions, ephemeral resources, lists and actions.

use tokio::sync::mpsc::Sender;

use crate::core::context::{Context, Deferral};
use crate::core::engine::{Engine, find, guarded, timeout};
use crate::core::planning::apply_defaults;
use crate::core::state::finish;
use crate::core::validation::validate;
use crate::diagnostic::Diagnostics;
use crate::function::FunctionError;
use crate::listing::{ListRequest, ListedResource, Listing};
use crate::provider::{EphemeralOpened, EphemeralRenewed, Provider};
use crate::schema::Schema;
use crate::value::{Object, Type, Value, conform::conform};

/// A result, the warnings beside it, and whether it has to wait for something else.
#[derive(Debug)]
pub(crate) struct Outcome<T> {
    pub(crate) result: Result<T, Diagnostics>,
    pub(crate) beside: Diagnostics,
    pub(crate) deferred: Option<Deferral>,
}

impl<T> Outcome<T> {
    fn of(cx: &Context, result: Result<T, Diagnostics>) -> Self {
        Self { result, beside: cx.take_diagnostics(), deferred: cx.take_deferred() }
    }
}

impl<T> From<Diagnostics> for Outcome<T> {
    fn from(errors: Diagnostics) -> Self {
        Self { result: Err(errors), beside: Diagnostics::new(), deferred: None }
    }
}

/// Runs the schema's checks, then the provider's own.
macro_rules! validate_with {
    ($engine:expr, $entries:expr, $kind:literal, $name:expr, $config:expr) => {{
        match find($entries, $kind, $name) {
            Err(diagnostics) => diagnostics,
            Ok(entry) => {
                let mut found = validate(entry.schema.root(), $config);
                let cx = $engine.context("validate", $name);
                if let Err(errors) = entry.item.validate_config(&cx, $config).await {
                    found.extend(errors);
                }
                found.extend(cx.take_diagnostics());
                found
            }
        }
    }};
}

impl<P: Provider> Engine<P> {
    /// Validates the provider's own configuration.
    pub(crate) async fn validate_provider(&self, config: &Object) -> Diagnostics {
        let mut found = validate(self.registry.schema.root(), config);
        let cx = self.context("validate", self.provider.address());
        if let Err(errors) = self.provider.validate_config(&cx, config).await {
            found.extend(errors);
        }
        found.extend(cx.take_diagnostics());
        found
    }

    /// Configures the provider.
    pub(crate) async fn configure(&self, mut config: Object, terraform: String) -> Diagnostics {
        with_defaults(&self.registry.schema, &mut config);
        let cx = self.context("configure", self.provider.address()).with_terraform_version(terraform);
        let result = guarded(self.provider.configure(&cx, &config)).await;
        let mut found = cx.take_diagnostics();
        match result {
            Ok(client) => self.set_client(client),
            Err(errors) => found.extend(errors),
        }
        found
    }

    /// Validates a data source's configuration.
    pub(crate) async fn validate_data_source(&self, name: &str, config: &Object) -> Diagnostics {
        validate_with!(self, &self.registry.data_sources, "data source", name, config)
    }

    /// Validates an ephemeral resource's configuration.
    pub(crate) async fn validate_ephemeral(&self, name: &str, config: &Object) -> Diagnostics {
        validate_with!(self, &self.registry.ephemeral, "ephemeral resource", name, config)
    }

    /// Validates an action's configuration.
    pub(crate) async fn validate_action(&self, name: &str, config: &Object) -> Diagnostics {
        validate_with!(self, &self.registry.actions, "action", name, config)
    }

    /// Validates a list's configuration.
    pub(crate) async fn validate_list(&self, name: &str, config: &Object) -> Diagnostics {
        validate_with!(self, &self.registry.lists, "list resource", name, config)
    }

    /// Reads a data source.
    pub(crate) async fn read_data_source(&self, name: &str, mut config: Object, may_defer: bool) -> Outcome<Object> {
        let (entry, client) = match (find(&self.registry.data_sources, "data source", name), self.client()) {
            (Ok(entry), Ok(client)) => (entry, client),
            (Err(errors), _) | (_, Err(errors)) => return errors.into(),
        };
        with_defaults(&entry.schema, &mut config);
        let cx =
            self.context("read", name).with_timeout(timeout(&entry.schema, &config, "read")).with_deferral(may_defer);
        let read = guarded(entry.item.read(&client, &cx, config)).await;
        let mut outcome = Outcome::of(&cx, read);
        outcome.result = outcome.result.and_then(|state| whole(&entry.schema, state, outcome.deferred));
        outcome
    }

    /// Calls a function.
    pub(crate) fn call(&self, name: &str, arguments: &[Value]) -> Result<Value, FunctionError> {
        let function = self.registry.functions.get(name);
        let function =
            function.ok_or_else(|| FunctionError::new(format!("This provider has no function {name:?}.")))?;
        let definition = function.definition();
        for (index, argument) in arguments.iter().enumerate().filter(|(_, argument)| !argument.is_null()) {
            let validators = definition.parameter_at(index).map(|parameter| parameter.validators.as_slice());
            let mut faults = validators.unwrap_or_default().iter().flat_map(|validator| validator.check(argument));
            if let Some(fault) = faults.next() {
                return Err(FunctionError::argument(index, fault.message));
            }
        }
        let result = function.call(arguments)?;
        let conformed = conform(result, &definition.returns);
        conformed.map_err(|error| FunctionError::new(format!("The provider returned a wrong value: {error}")))
    }

    /// The type of argument `index` of a function.
    pub(crate) fn argument_type(&self, name: &str, index: usize) -> Option<Type> {
        let definition = self.registry.functions.get(name)?.definition();
        definition.parameter_at(index).map(|parameter| parameter.ty.clone())
    }

    /// Opens an ephemeral resource.
    pub(crate) async fn open(&self, name: &str, mut config: Object, may_defer: bool) -> Outcome<EphemeralOpened> {
        let (entry, client) = match (find(&self.registry.ephemeral, "ephemeral resource", name), self.client()) {
            (Ok(entry), Ok(client)) => (entry, client),
            (Err(errors), _) | (_, Err(errors)) => return errors.into(),
        };
        with_defaults(&entry.schema, &mut config);
        let cx =
            self.context("open", name).with_timeout(timeout(&entry.schema, &config, "open")).with_deferral(may_defer);
        let opened = guarded(entry.item.open(&client, &cx, config)).await;
        let mut outcome = Outcome::of(&cx, opened);
        outcome.result = outcome.result.and_then(|mut opened| {
            opened.result = whole(&entry.schema, opened.result, outcome.deferred)?;
            Ok(opened)
        });
        outcome
    }

    /// Renews an ephemeral resource.
    pub(crate) async fn renew(&self, name: &str, private: Vec<u8>) -> Outcome<EphemeralRenewed> {
        match self.ephemeral("renew", name) {
            Ok((entry, client, cx)) => {
                let renewed = guarded(entry.item.renew(&client, &cx, private)).await;
                Outcome::of(&cx, renewed)
            }
            Err(errors) => errors.into(),
        }
    }

    /// Closes an ephemeral resource.
    pub(crate) async fn close(&self, name: &str, private: Vec<u8>) -> Outcome<()> {
        match self.ephemeral("close", name) {
            Ok((entry, client, cx)) => {
                let closed = guarded(entry.item.close(&client, &cx, private)).await;
                Outcome::of(&cx, closed)
            }
            Err(errors) => errors.into(),
        }
    }

    #[expect(clippy::type_complexity, reason = "named once, used twice above")]
    fn ephemeral(
        &self,
        operation: &'static str,
        name: &str,
    ) -> Result<
        (
            &crate::core::registry::Entry<dyn crate::provider::EphemeralResource<P::Client>>,
            std::sync::Arc<P::Client>,
            Context,
        ),
        Diagnostics,
    > {
        let entry = find(&self.registry.ephemeral, "ephemeral resource", name)?;
        Ok((entry, self.client()?, self.context(operation, name)))
    }

    /// Lists resources into `found`.
    pub(crate) async fn list(&self, name: &str, mut request: ListRequest, found: Listing) -> Diagnostics {
        let (entry, client) = match (find(&self.registry.lists, "list resource", name), self.client()) {
            (Ok(entry), Ok(client)) => (entry, client),
            (Err(errors), _) | (_, Err(errors)) => return errors,
        };
        with_defaults(&entry.schema, &mut request.config);
        let cx = self.context("list", name).with_timeout(timeout(&entry.schema, &request.config, "list"));
        let listed = guarded(entry.item.list(&client, &cx, request, &found)).await;
        let mut beside = cx.take_diagnostics();
        if let Err(errors) = listed {
            beside.extend(errors);
        }
        beside
    }

    /// Brings one listed resource into its schemas' shapes.
    pub(crate) fn listed(&self, name: &str, mut item: ListedResource) -> Result<ListedResource, Diagnostics> {
        let resource = self.resource(name)?;
        let schema = resource.identity.as_ref();
        let schema =
            schema.ok_or_else(|| Diagnostics::error("Cannot list", format!("{name} has no identity schema.")))?;
        if let Value::Object(identity) = conform(Value::Object(item.identity), &schema.value_type())? {
            item.identity = identity;
        } else {
            return Err(Diagnostics::error("Cannot list", "The provider gave no identity."));
        }
        item.resource = item.resource.map(|state| finish(&resource.schema.block, state)).transpose()?;
        Ok(item)
    }

    /// Checks an action at plan time.
    pub(crate) async fn plan_action(&self, name: &str, mut config: Object, may_defer: bool) -> Outcome<()> {
        let entry = match find(&self.registry.actions, "action", name) {
            Ok(entry) => entry,
            Err(errors) => return errors.into(),
        };
        with_defaults(&entry.schema, &mut config);
        let cx = self.context("plan", name).with_deferral(may_defer);
        let planned = match self.client() {
            Ok(client) => guarded(entry.item.plan(&client, &cx, &config)).await,
            Err(_) => Ok(()),
        };
        Outcome::of(&cx, planned)
    }

    /// Invokes an action; progress goes to `progress`.
    pub(crate) async fn invoke(&self, name: &str, mut config: Object, progress: Sender<String>) -> Diagnostics {
        let (entry, client) = match (find(&self.registry.actions, "action", name), self.client()) {
            (Ok(entry), Ok(client)) => (entry, client),
            (Err(errors), _) | (_, Err(errors)) => return errors,
        };
        with_defaults(&entry.schema, &mut config);
        let cx = self
            .context("invoke", name)
            .with_timeout(timeout(&entry.schema, &config, "invoke"))
            .with_progress(progress);
        let result = guarded(entry.item.invoke(&client, &cx, config)).await;
        let mut found = cx.take_diagnostics();
        if let Err(errors) = result {
            found.extend(errors);
        }
        found
    }
}

/// What is returned to Terraform: without unknown values, unless it has to wait for something else.
fn whole(schema: &Schema, state: Object, deferred: Option<Deferral>) -> Result<Object, Diagnostics> {
    match deferred {
        None => finish(schema.root(), state),
        Some(_) => Ok(schema.root().conform(state)?),
    }
}

fn with_defaults(schema: &Schema, config: &mut Object) {
    let configured = config.clone();
    apply_defaults(schema.root(), &configured, config);
}
