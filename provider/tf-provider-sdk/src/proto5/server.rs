//! The gRPC service: what there is, configuration, data sources, functions, ephemeral resources,
//! Stop. Managed resources are in `lifecycle`, RPCs that answer with a stream in `streams`.
//!
//! Each operation runs in a task of its own: it goes on to its end even if the connection breaks,
//! and a panic becomes a diagnostic instead of a broken connection.

use std::future::Future;
use std::sync::Arc;

use tonic::{Request, Response, Status};

use super::convert;
use super::streams::EventStream;
use super::tfplugin5::{self as pb, provider_server};
use crate::core::engine::{Engine, find};
use crate::core::others::Outcome;
use crate::function::FunctionError;
use crate::provider::Provider;
use crate::value::Value;

/// The service of one provider.
pub(crate) struct ProviderService<P: Provider> {
    pub(super) engine: Arc<Engine<P>>,
}

type Reply<T> = Result<Response<T>, Status>;

impl<P: Provider> ProviderService<P> {
    pub(crate) fn new(provider: P) -> Self {
        Self { engine: Arc::new(Engine::new(provider)) }
    }

    /// Runs an operation in a task, with the engine.
    pub(super) async fn run<T, F, Fut>(&self, operation: F) -> Reply<T>
    where
        T: Send + 'static,
        F: FnOnce(Arc<Engine<P>>) -> Fut,
        Fut: Future<Output = T> + Send + 'static,
    {
        match tokio::spawn(operation(Arc::clone(&self.engine))).await {
            Ok(message) => Ok(Response::new(message)),
            Err(error) => {
                tracing::error!(%error, "an operation panicked");
                Err(Status::internal("The provider failed in a way it should not; its log says where."))
            }
        }
    }
}

/// The result, if there is one, and all diagnostics.
fn split<T>(outcome: Outcome<T>) -> (Option<T>, Vec<pb::Diagnostic>) {
    let mut found = outcome.beside;
    let value = match outcome.result {
        Ok(value) => Some(value),
        Err(errors) => {
            found.extend(errors);
            None
        }
    };
    (value, convert::diagnostics(found))
}

fn server_capabilities() -> pb::ServerCapabilities {
    pb::ServerCapabilities {
        plan_destroy: true,
        get_provider_schema_optional: true,
        move_resource_state: true,
        generate_resource_config: true,
    }
}

/// Decodes the configuration of something else than a managed resource, and validates it.
macro_rules! validate_rpc {
    ($self:ident, $request:ident, $entries:ident, $kind:literal, $name:ident, $method:ident) => {{
        let message = $request.into_inner();
        $self
            .run(|engine| async move {
                let config = find(&engine.registry.$entries, $kind, &message.$name)
                    .and_then(|entry| convert::config(message.config.as_ref(), &entry.schema));
                match config {
                    Ok(config) => engine.$method(&message.$name, &config).await,
                    Err(errors) => errors,
                }
            })
            .await
            .map(|found| found.map(convert::diagnostics))
    }};
}

#[tonic::async_trait]
impl<P: Provider> provider_server::Provider for ProviderService<P> {
    async fn get_metadata(&self, _: Request<pb::get_metadata::Request>) -> Reply<pb::get_metadata::Response> {
        use pb::get_metadata as metadata;
        let registry = &self.engine.registry;
        macro_rules! names {
            ($entries:ident, $message:ident) => {
                registry.$entries.keys().map(|name| metadata::$message { type_name: name.clone() }).collect()
            };
        }
        Ok(Response::new(metadata::Response {
            server_capabilities: Some(server_capabilities()),
            diagnostics: convert::diagnostics(registry.check()),
            data_sources: names!(data_sources, DataSourceMetadata),
            resources: names!(resources, ResourceMetadata),
            functions: registry
                .functions
                .keys()
                .map(|name| metadata::FunctionMetadata { name: name.clone() })
                .collect(),
            ephemeral_resources: names!(ephemeral, EphemeralResourceMetadata),
            list_resources: names!(lists, ListResourceMetadata),
            actions: names!(actions, ActionMetadata),
        }))
    }

    async fn get_schema(
        &self,
        _: Request<pb::get_provider_schema::Request>,
    ) -> Reply<pb::get_provider_schema::Response> {
        let registry = &self.engine.registry;
        let functions = registry.functions.iter();
        let actions = registry.actions.iter().map(|(name, entry)| {
            let schema = Some(convert::schema(&entry.schema));
            (name.clone(), pb::ActionSchema { schema })
        });
        Ok(Response::new(pb::get_provider_schema::Response {
            provider: Some(convert::schema(&registry.schema)),
            resource_schemas: convert::schemas(registry.resources.iter().map(|(name, e)| (name, &e.schema))),
            data_source_schemas: convert::schemas(registry.data_sources.iter().map(|(name, e)| (name, &e.schema))),
            diagnostics: convert::diagnostics(registry.check()),
            provider_meta: None,
            server_capabilities: Some(server_capabilities()),
            functions: functions.map(|(name, f)| (name.clone(), convert::function(f.definition()))).collect(),
            ephemeral_resource_schemas: convert::schemas(registry.ephemeral.iter().map(|(name, e)| (name, &e.schema))),
            list_resource_schemas: convert::schemas(registry.lists.iter().map(|(name, e)| (name, &e.schema))),
            action_schemas: actions.collect(),
        }))
    }

    async fn get_resource_identity_schemas(
        &self,
        _: Request<pb::get_resource_identity_schemas::Request>,
    ) -> Reply<pb::get_resource_identity_schemas::Response> {
        let identities = self.engine.registry.resources.iter().filter_map(|(name, entry)| {
            let schema = entry.identity.as_ref()?;
            Some((name.clone(), convert::identity_schema(schema)))
        });
        Ok(Response::new(pb::get_resource_identity_schemas::Response {
            identity_schemas: identities.collect(),
            diagnostics: Vec::new(),
        }))
    }

    async fn prepare_provider_config(
        &self,
        request: Request<pb::prepare_provider_config::Request>,
    ) -> Reply<pb::prepare_provider_config::Response> {
        let message = request.into_inner();
        self.run(|engine| async move {
            let found = match convert::config(message.config.as_ref(), &engine.registry.schema) {
                Ok(config) => engine.validate_provider(&config).await,
                Err(errors) => errors,
            };
            pb::prepare_provider_config::Response {
                prepared_config: message.config,
                diagnostics: convert::diagnostics(found),
            }
        })
        .await
    }

    async fn configure(&self, request: Request<pb::configure::Request>) -> Reply<pb::configure::Response> {
        let message = request.into_inner();
        self.run(|engine| async move {
            let found = match convert::config(message.config.as_ref(), &engine.registry.schema) {
                Ok(config) => engine.configure(config, message.terraform_version).await,
                Err(errors) => errors,
            };
            pb::configure::Response { diagnostics: convert::diagnostics(found) }
        })
        .await
    }

    async fn validate_resource_type_config(
        &self,
        request: Request<pb::validate_resource_type_config::Request>,
    ) -> Reply<pb::validate_resource_type_config::Response> {
        super::lifecycle::validate(self, request.into_inner()).await
    }

    async fn upgrade_resource_state(
        &self,
        request: Request<pb::upgrade_resource_state::Request>,
    ) -> Reply<pb::upgrade_resource_state::Response> {
        super::lifecycle::upgrade(self, request.into_inner()).await
    }

    async fn upgrade_resource_identity(
        &self,
        request: Request<pb::upgrade_resource_identity::Request>,
    ) -> Reply<pb::upgrade_resource_identity::Response> {
        super::lifecycle::upgrade_identity(self, request.into_inner()).await
    }

    async fn read_resource(&self, request: Request<pb::read_resource::Request>) -> Reply<pb::read_resource::Response> {
        super::lifecycle::read(self, request.into_inner()).await
    }

    async fn plan_resource_change(
        &self,
        request: Request<pb::plan_resource_change::Request>,
    ) -> Reply<pb::plan_resource_change::Response> {
        super::lifecycle::plan(self, request.into_inner()).await
    }

    async fn apply_resource_change(
        &self,
        request: Request<pb::apply_resource_change::Request>,
    ) -> Reply<pb::apply_resource_change::Response> {
        super::lifecycle::apply(self, request.into_inner()).await
    }

    async fn import_resource_state(
        &self,
        request: Request<pb::import_resource_state::Request>,
    ) -> Reply<pb::import_resource_state::Response> {
        super::lifecycle::import(self, request.into_inner()).await
    }

    async fn move_resource_state(
        &self,
        request: Request<pb::move_resource_state::Request>,
    ) -> Reply<pb::move_resource_state::Response> {
        super::lifecycle::move_state(self, request.into_inner()).await
    }

    async fn validate_data_source_config(
        &self,
        request: Request<pb::validate_data_source_config::Request>,
    ) -> Reply<pb::validate_data_source_config::Response> {
        let reply = validate_rpc!(self, request, data_sources, "data source", type_name, validate_data_source)?;
        Ok(reply.map(|diagnostics| pb::validate_data_source_config::Response { diagnostics }))
    }

    async fn read_data_source(
        &self,
        request: Request<pb::read_data_source::Request>,
    ) -> Reply<pb::read_data_source::Response> {
        let message = request.into_inner();
        self.run(|engine| async move {
            let name = message.type_name;
            let config = find(&engine.registry.data_sources, "data source", &name)
                .and_then(|entry| convert::config(message.config.as_ref(), &entry.schema));
            let may_defer = convert::may_defer(message.client_capabilities);
            let outcome = match config {
                Ok(config) => engine.read_data_source(&name, config, may_defer).await,
                Err(errors) => errors.into(),
            };
            let deferred = convert::deferred(outcome.deferred);
            let (state, diagnostics) = split(outcome);
            pb::read_data_source::Response {
                state: state.map(|state| convert::dynamic(&Value::Object(state))),
                diagnostics,
                deferred,
            }
        })
        .await
    }

    async fn generate_resource_config(
        &self,
        request: Request<pb::generate_resource_config::Request>,
    ) -> Reply<pb::generate_resource_config::Response> {
        super::lifecycle::generate_config(self, request.into_inner()).await
    }

    async fn validate_ephemeral_resource_config(
        &self,
        request: Request<pb::validate_ephemeral_resource_config::Request>,
    ) -> Reply<pb::validate_ephemeral_resource_config::Response> {
        let reply = validate_rpc!(self, request, ephemeral, "ephemeral resource", type_name, validate_ephemeral)?;
        Ok(reply.map(|diagnostics| pb::validate_ephemeral_resource_config::Response { diagnostics }))
    }

    async fn open_ephemeral_resource(
        &self,
        request: Request<pb::open_ephemeral_resource::Request>,
    ) -> Reply<pb::open_ephemeral_resource::Response> {
        let message = request.into_inner();
        self.run(|engine| async move {
            let name = message.type_name;
            let config = find(&engine.registry.ephemeral, "ephemeral resource", &name)
                .and_then(|entry| convert::config(message.config.as_ref(), &entry.schema));
            let may_defer = convert::may_defer(message.client_capabilities);
            let outcome = match config {
                Ok(config) => engine.open(&name, config, may_defer).await,
                Err(errors) => errors.into(),
            };
            let deferred = convert::deferred(outcome.deferred);
            let (opened, diagnostics) = split(outcome);
            let opened = opened.unwrap_or_default();
            pb::open_ephemeral_resource::Response {
                diagnostics,
                renew_at: opened.renew_at.map(convert::timestamp),
                result: Some(convert::dynamic(&Value::Object(opened.result))),
                private: (!opened.private.is_empty()).then_some(opened.private),
                deferred,
            }
        })
        .await
    }

    async fn renew_ephemeral_resource(
        &self,
        request: Request<pb::renew_ephemeral_resource::Request>,
    ) -> Reply<pb::renew_ephemeral_resource::Response> {
        let message = request.into_inner();
        self.run(|engine| async move {
            let private = message.private.unwrap_or_default();
            let (renewed, diagnostics) = split(engine.renew(&message.type_name, private).await);
            let renewed = renewed.unwrap_or_default();
            pb::renew_ephemeral_resource::Response {
                diagnostics,
                renew_at: renewed.renew_at.map(convert::timestamp),
                private: (!renewed.private.is_empty()).then_some(renewed.private),
            }
        })
        .await
    }

    async fn close_ephemeral_resource(
        &self,
        request: Request<pb::close_ephemeral_resource::Request>,
    ) -> Reply<pb::close_ephemeral_resource::Response> {
        let message = request.into_inner();
        self.run(|engine| async move {
            let private = message.private.unwrap_or_default();
            let (_, diagnostics) = split(engine.close(&message.type_name, private).await);
            pb::close_ephemeral_resource::Response { diagnostics }
        })
        .await
    }

    async fn validate_list_resource_config(
        &self,
        request: Request<pb::validate_list_resource_config::Request>,
    ) -> Reply<pb::validate_list_resource_config::Response> {
        let reply = validate_rpc!(self, request, lists, "list resource", type_name, validate_list)?;
        Ok(reply.map(|diagnostics| pb::validate_list_resource_config::Response { diagnostics }))
    }

    async fn list_resource(
        &self,
        request: Request<pb::list_resource::Request>,
    ) -> Reply<EventStream<pb::list_resource::Event>> {
        super::streams::list(self, request.into_inner()).await
    }

    async fn get_functions(&self, _: Request<pb::get_functions::Request>) -> Reply<pb::get_functions::Response> {
        let functions = self.engine.registry.functions.iter();
        Ok(Response::new(pb::get_functions::Response {
            functions: functions.map(|(name, f)| (name.clone(), convert::function(f.definition()))).collect(),
            diagnostics: Vec::new(),
        }))
    }

    async fn call_function(&self, request: Request<pb::call_function::Request>) -> Reply<pb::call_function::Response> {
        let message = request.into_inner();
        self.run(|engine| async move {
            let result = message
                .arguments
                .iter()
                .enumerate()
                .map(|(index, argument)| {
                    let ty = engine
                        .argument_type(&message.name, index)
                        .ok_or_else(|| FunctionError::argument(index, "Unexpected argument."))?;
                    convert::value(Some(argument), &ty)
                        .map_err(|error| FunctionError::argument(index, error.to_string()))
                })
                .collect::<Result<Vec<_>, _>>()
                .and_then(|arguments| engine.call(&message.name, &arguments));
            match result {
                Ok(value) => pb::call_function::Response { result: Some(convert::dynamic(&value)), error: None },
                Err(error) => pb::call_function::Response { result: None, error: Some(convert::function_error(error)) },
            }
        })
        .await
    }

    async fn validate_action_config(
        &self,
        request: Request<pb::validate_action_config::Request>,
    ) -> Reply<pb::validate_action_config::Response> {
        let reply = validate_rpc!(self, request, actions, "action", action_type, validate_action)?;
        Ok(reply.map(|diagnostics| pb::validate_action_config::Response { diagnostics }))
    }

    async fn plan_action(&self, request: Request<pb::plan_action::Request>) -> Reply<pb::plan_action::Response> {
        let message = request.into_inner();
        self.run(|engine| async move {
            let name = message.action_type;
            let config = find(&engine.registry.actions, "action", &name)
                .and_then(|entry| convert::config(message.config.as_ref(), &entry.schema));
            let may_defer = convert::may_defer(message.client_capabilities);
            let outcome = match config {
                Ok(config) => engine.plan_action(&name, config, may_defer).await,
                Err(errors) => errors.into(),
            };
            let deferred = convert::deferred(outcome.deferred);
            let (_, diagnostics) = split(outcome);
            pb::plan_action::Response { diagnostics, deferred }
        })
        .await
    }

    async fn invoke_action(
        &self,
        request: Request<pb::invoke_action::Request>,
    ) -> Reply<EventStream<pb::invoke_action::Event>> {
        super::streams::invoke(self, request.into_inner()).await
    }

    async fn stop(&self, _: Request<pb::stop::Request>) -> Reply<pb::stop::Response> {
        tracing::info!("Terraform asks all operations to stop");
        self.engine.stop();
        Ok(Response::new(pb::stop::Response { error: String::new() }))
    }
}
