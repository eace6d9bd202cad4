//! The operations on everything but managed resources: provider configuration, data sources,
//! functions, ephemeral resources, lists and actions.

use tokio::sync::mpsc::Sender;

use crate::core::context::Context;
use crate::core::engine::{Engine, find, timeout};
use crate::core::planning::apply_defaults;
use crate::core::state::finish;
use crate::core::validation::validate;
use crate::diagnostic::Diagnostics;
use crate::provider::{EphemeralOpened, EphemeralRenewed, FunctionError, ListedResource, Provider};
use crate::schema::Schema;
use crate::value::{Object, Type, Value, conform::conform};

/// A result, and the warnings beside it.
pub(crate) type Outcome<T> = (Result<T, Diagnostics>, Diagnostics);

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
        let result = self.provider.configure(&cx, &config).await;
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
    pub(crate) fn validate_list(&self, name: &str, config: &Object) -> Diagnostics {
        match find(&self.registry.lists, "list resource", name) {
            Ok(entry) => validate(entry.schema.root(), config),
            Err(diagnostics) => diagnostics,
        }
    }

    /// Reads a data source.
    pub(crate) async fn read_data_source(&self, name: &str, mut config: Object) -> Outcome<Object> {
        let (entry, client) = match (find(&self.registry.data_sources, "data source", name), self.client()) {
            (Ok(entry), Ok(client)) => (entry, client),
            (Err(errors), _) | (_, Err(errors)) => return (Err(errors), Diagnostics::new()),
        };
        with_defaults(&entry.schema, &mut config);
        let cx = self.context("read", name).with_timeout(timeout(&entry.schema, &config, "read"));
        let read = entry.item.read(&client, &cx, config).await;
        let state = read.and_then(|state| finish(entry.schema.root(), state));
        (state, cx.take_diagnostics())
    }

    /// Calls a function.
    pub(crate) fn call(&self, name: &str, arguments: &[Value]) -> Result<Value, FunctionError> {
        let function = self.registry.functions.get(name);
        let function =
            function.ok_or_else(|| FunctionError::new(format!("This provider has no function {name:?}.")))?;
        let result = function.call(arguments)?;
        let conformed = conform(result, &function.definition().returns);
        conformed.map_err(|error| FunctionError::new(format!("The provider returned a wrong value: {error}")))
    }

    /// The type of argument `index` of a function.
    pub(crate) fn argument_type(&self, name: &str, index: usize) -> Option<Type> {
        let definition = self.registry.functions.get(name)?.definition();
        let parameter = definition.parameters.get(index).or(definition.variadic.as_ref());
        parameter.map(|parameter| parameter.ty.clone())
    }

    /// Opens an ephemeral resource.
    pub(crate) async fn open(&self, name: &str, mut config: Object) -> Outcome<EphemeralOpened> {
        let (entry, client) = match (find(&self.registry.ephemeral, "ephemeral resource", name), self.client()) {
            (Ok(entry), Ok(client)) => (entry, client),
            (Err(errors), _) | (_, Err(errors)) => return (Err(errors), Diagnostics::new()),
        };
        with_defaults(&entry.schema, &mut config);
        let cx = self.context("open", name).with_timeout(timeout(&entry.schema, &config, "open"));
        let opened = entry.item.open(&client, &cx, config).await;
        let opened = opened.and_then(|mut opened| {
            opened.result = finish(entry.schema.root(), opened.result)?;
            Ok(opened)
        });
        (opened, cx.take_diagnostics())
    }

    /// Renews an ephemeral resource.
    pub(crate) async fn renew(&self, name: &str, private: Vec<u8>) -> Outcome<EphemeralRenewed> {
        let (entry, client, cx) = match self.ephemeral("renew", name) {
            Ok(found) => found,
            Err(errors) => return (Err(errors), Diagnostics::new()),
        };
        let renewed = entry.item.renew(&client, &cx, private).await;
        (renewed, cx.take_diagnostics())
    }

    /// Closes an ephemeral resource.
    pub(crate) async fn close(&self, name: &str, private: Vec<u8>) -> Outcome<()> {
        let (entry, client, cx) = match self.ephemeral("close", name) {
            Ok(found) => found,
            Err(errors) => return (Err(errors), Diagnostics::new()),
        };
        let closed = entry.item.close(&client, &cx, private).await;
        (closed, cx.take_diagnostics())
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

    /// Lists resources; identities and states come in their schemas' shapes.
    pub(crate) async fn list(&self, name: &str, config: Object, limit: usize) -> Outcome<Vec<ListedResource>> {
        let cx = self.context("list", name);
        let listed = self.try_list(&cx, name, config, limit).await;
        (listed, cx.take_diagnostics())
    }

    async fn try_list(
        &self,
        cx: &Context,
        name: &str,
        config: Object,
        limit: usize,
    ) -> Result<Vec<ListedResource>, Diagnostics> {
        let entry = find(&self.registry.lists, "list resource", name)?;
        let resource = self.resource(name)?;
        let identity_type = resource.identity.as_ref().map(|schema| schema.value_type());
        let identity_type = identity_type
            .ok_or_else(|| Diagnostics::error("Cannot list", format!("{name} has no identity schema.")))?;
        let client = self.client()?;
        let mut listed = entry.item.list(&client, cx, config, limit).await?;
        listed.truncate(limit);
        for item in &mut listed {
            let identity = Value::Object(std::mem::take(&mut item.identity));
            if let Value::Object(identity) = conform(identity, &identity_type)? {
                item.identity = identity;
            }
            if let Some(state) = item.resource.take() {
                item.resource = Some(finish(&resource.schema.block, state)?);
            }
        }
        Ok(listed)
    }

    /// Checks an action at plan time.
    pub(crate) async fn plan_action(&self, name: &str, mut config: Object) -> Outcome<()> {
        let cx = self.context("plan", name);
        let result = async {
            let entry = find(&self.registry.actions, "action", name)?;
            with_defaults(&entry.schema, &mut config);
            match self.client() {
                Ok(client) => entry.item.plan(&client, &cx, &config).await,
                Err(_) => Ok(()),
            }
        }
        .await;
        (result, cx.take_diagnostics())
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
        let result = entry.item.invoke(&client, &cx, config).await;
        let mut found = cx.take_diagnostics();
        if let Err(errors) = result {
            found.extend(errors);
        }
        found
    }
}

fn with_defaults(schema: &Schema, config: &mut Object) {
    let configured = config.clone();
    apply_defaults(schema.root(), &configured, config);
}
