//! The RPCs on managed resources.

use serde_json::Value as Json;
use tonic::{Response, Status};

use super::convert;
use super::server::ProviderService;
use super::tfplugin5 as pb;
use crate::core::context::Private;
use crate::core::engine::Engine;
use crate::core::operations::{Change, ImportTarget, StateOutcome};
use crate::diagnostic::{Diagnostic, Diagnostics};
use crate::provider::{MoveRequest, Provider};
use crate::schema::{Block, Schema};
use crate::value::{Object, Path, Value, json};

type Reply<T> = Result<Response<T>, Status>;

pub(super) async fn validate<P: Provider>(
    service: &ProviderService<P>,
    message: pb::validate_resource_type_config::Request,
) -> Reply<pb::validate_resource_type_config::Response> {
    service
        .run(|engine| async move {
            let config = engine
                .resource(&message.type_name)
                .and_then(|entry| convert::config(message.config.as_ref(), &entry.schema));
            let mut found = match config {
                Ok(config) => {
                    let found = engine.validate_resource(&message.type_name, &config).await;
                    let capable = message.client_capabilities.is_some_and(|c| c.write_only_attributes_allowed);
                    with_write_only_check(&engine, &message.type_name, &config, capable, found)
                }
                Err(errors) => errors,
            };
            let diagnostics = convert::diagnostics(std::mem::take(&mut found));
            pb::validate_resource_type_config::Response { diagnostics }
        })
        .await
}

/// A Terraform before 1.11 would keep write-only values in its state: refuse it there.
fn with_write_only_check<P: Provider>(
    engine: &Engine<P>,
    name: &str,
    config: &Object,
    capable: bool,
    mut found: Diagnostics,
) -> Diagnostics {
    if capable {
        return found;
    }
    if let Ok(entry) = engine.resource(name) {
        refuse_write_only(entry.schema.root(), &Path::root(), config, &mut found);
    }
    found
}

fn refuse_write_only(block: &Block, base: &Path, config: &Object, found: &mut Diagnostics) {
    for attribute in block.attributes().iter().filter(|a| a.write_only && !config.is_null(&a.name)) {
        let detail = format!(
            "This Terraform would keep the value of {:?} in its state. Use Terraform 1.11 or later.",
            attribute.name
        );
        let diagnostic = Diagnostic::error("Write-only attributes need Terraform 1.11", detail);
        found.push(diagnostic.at(base.attr(&attribute.name)));
    }
    for nested in block.blocks() {
        let base = base.attr(nested.name());
        // Sets hold no write-only attributes: the schema's own check refuses that.
        match config.value(nested.name()) {
            Some(Value::Object(element)) => refuse_write_only(nested.body(), &base, element, found),
            Some(Value::List(items)) => {
                for (index, element) in items.iter().enumerate().filter_map(|(i, v)| Some((i, v.as_object()?))) {
                    refuse_write_only(nested.body(), &base.index(index), element, found);
                }
            }
            Some(Value::Map(map)) => {
                for (key, element) in map.iter().filter_map(|(key, v)| Some((key, v.as_object()?))) {
                    refuse_write_only(nested.body(), &base.key(key), element, found);
                }
            }
            _ => {}
        }
    }
}

/// Decodes what plan and apply have in common.
fn change(
    schema: &Schema,
    config: Option<&pb::DynamicValue>,
    prior: Option<&pb::DynamicValue>,
    planned: Option<&pb::DynamicValue>,
    private: &[u8],
    may_defer: bool,
) -> Result<Change, Diagnostics> {
    Ok(Change {
        config: convert::object(config, schema)?,
        prior: convert::object(prior, schema)?,
        planned: convert::object(planned, schema)?,
        private: convert::private(private),
        may_defer,
    })
}

pub(super) async fn plan<P: Provider>(
    service: &ProviderService<P>,
    message: pb::plan_resource_change::Request,
) -> Reply<pb::plan_resource_change::Response> {
    service
        .run(|engine| async move {
            let name = &message.type_name;
            let change = engine.resource(name).and_then(|entry| {
                change(
                    &entry.schema,
                    message.config.as_ref(),
                    message.prior_state.as_ref(),
                    message.proposed_new_state.as_ref(),
                    &message.prior_private,
                    convert::may_defer(message.client_capabilities),
                )
            });
            let change = match change {
                Ok(change) => change,
                Err(errors) => {
                    return pb::plan_resource_change::Response {
                        diagnostics: convert::diagnostics(errors),
                        ..Default::default()
                    };
                }
            };
            let outcome = engine.plan(name, change).await;
            pb::plan_resource_change::Response {
                planned_state: convert::dynamic_object(outcome.planned),
                requires_replace: outcome.requires_replace.iter().map(convert::path).collect(),
                planned_private: convert::private_bytes(&outcome.private),
                diagnostics: convert::diagnostics(outcome.diagnostics),
                legacy_type_system: false,
                deferred: convert::deferred(outcome.deferred),
                // An identity never changes by a plan; the one of a create is known after apply.
                planned_identity: message.prior_identity,
            }
        })
        .await
}

pub(super) async fn apply<P: Provider>(
    service: &ProviderService<P>,
    message: pb::apply_resource_change::Request,
) -> Reply<pb::apply_resource_change::Response> {
    service
        .run(|engine| async move {
            let name = &message.type_name;
            let change = engine.resource(name).and_then(|entry| {
                change(
                    &entry.schema,
                    message.config.as_ref(),
                    message.prior_state.as_ref(),
                    message.planned_state.as_ref(),
                    &message.planned_private,
                    false,
                )
            });
            let change = match change {
                Ok(change) => change,
                Err(errors) => {
                    // Nothing was touched: the state stays what it was.
                    return pb::apply_resource_change::Response {
                        new_state: message.prior_state,
                        private: message.planned_private,
                        diagnostics: convert::diagnostics(errors),
                        ..Default::default()
                    };
                }
            };
            let outcome = engine.apply(name, change).await;
            pb::apply_resource_change::Response {
                new_identity: identity_or(&outcome, message.planned_identity),
                new_state: convert::dynamic_object(outcome.state),
                private: convert::private_bytes(&outcome.private),
                diagnostics: convert::diagnostics(outcome.diagnostics),
                legacy_type_system: false,
            }
        })
        .await
}

pub(super) async fn read<P: Provider>(
    service: &ProviderService<P>,
    message: pb::read_resource::Request,
) -> Reply<pb::read_resource::Response> {
    service
        .run(|engine| async move {
            let name = &message.type_name;
            let state =
                engine.resource(name).and_then(|entry| convert::object(message.current_state.as_ref(), &entry.schema));
            let state = match state {
                Ok(Some(state)) => state,
                Ok(None) => {
                    return pb::read_resource::Response {
                        new_state: convert::dynamic_object(None),
                        ..Default::default()
                    };
                }
                Err(errors) => {
                    return pb::read_resource::Response {
                        new_state: message.current_state,
                        private: message.private,
                        diagnostics: convert::diagnostics(errors),
                        ..Default::default()
                    };
                }
            };
            let private = convert::private(&message.private);
            let may_defer = convert::may_defer(message.client_capabilities);
            let outcome = engine.read(name, state, private, may_defer).await;
            pb::read_resource::Response {
                new_identity: identity_or(&outcome, message.current_identity),
                new_state: convert::dynamic_object(outcome.state),
                diagnostics: convert::diagnostics(outcome.diagnostics),
                private: convert::private_bytes(&outcome.private),
                deferred: convert::deferred(outcome.deferred),
            }
        })
        .await
}

/// The outcome's identity, or the one that Terraform has, for what still exists.
fn identity_or(outcome: &StateOutcome, known: Option<pb::ResourceIdentityData>) -> Option<pb::ResourceIdentityData> {
    outcome.state.as_ref()?;
    convert::identity(outcome.identity.clone()).or(known)
}

pub(super) async fn import<P: Provider>(
    service: &ProviderService<P>,
    message: pb::import_resource_state::Request,
) -> Reply<pb::import_resource_state::Response> {
    service
        .run(|engine| async move {
            let outcome = match import_target(&engine, &message) {
                Ok(target) => {
                    let may_defer = convert::may_defer(message.client_capabilities);
                    engine.import(&message.type_name, target, may_defer).await
                }
                Err(errors) => Err(errors),
            };
            match outcome {
                Ok(outcome) => pb::import_resource_state::Response {
                    imported_resources: vec![pb::import_resource_state::ImportedResource {
                        type_name: message.type_name,
                        state: convert::dynamic_object(outcome.state),
                        private: convert::private_bytes(&outcome.private),
                        identity: convert::identity(outcome.identity),
                    }],
                    diagnostics: convert::diagnostics(outcome.diagnostics),
                    deferred: convert::deferred(outcome.deferred),
                },
                Err(errors) => pb::import_resource_state::Response {
                    diagnostics: convert::diagnostics(errors),
                    ..Default::default()
                },
            }
        })
        .await
}

/// By identity if Terraform sent one, else by id.
fn import_target<P: Provider>(
    engine: &Engine<P>,
    message: &pb::import_resource_state::Request,
) -> Result<ImportTarget, Diagnostics> {
    let entry = engine.resource(&message.type_name)?;
    let sent = message.identity.as_ref().and_then(|i| i.identity_data.as_ref());
    let (Some(sent), Some(schema), true) = (sent, &entry.identity, message.id.is_empty()) else {
        return Ok(ImportTarget::Id(message.id.clone()));
    };
    match convert::value(Some(sent), &schema.value_type())? {
        Value::Object(identity) => Ok(ImportTarget::Identity(identity)),
        _ => Err(Diagnostics::error("Empty identity", "The identity to import is null.")),
    }
}

/// The JSON of a stored state.
fn raw_json(raw: Option<&pb::RawState>) -> Result<Json, Diagnostics> {
    let fail = |detail: &str| Err(Diagnostics::error("Cannot read the stored state", detail));
    match raw {
        None => fail("There is none."),
        Some(raw) if !raw.json.is_empty() => json::parse(&raw.json)
            .map_err(|error| Diagnostic::from_error("Cannot read the stored state", &error).into()),
        Some(_) => fail("It has the form of Terraform 0.11 and earlier, which this provider never wrote."),
    }
}

pub(super) async fn upgrade<P: Provider>(
    service: &ProviderService<P>,
    message: pb::upgrade_resource_state::Request,
) -> Reply<pb::upgrade_resource_state::Response> {
    service
        .run(|engine| async move {
            let result = match raw_json(message.raw_state.as_ref()) {
                Ok(state) => engine.upgrade(&message.type_name, message.version, state).await,
                Err(errors) => Err(errors),
            };
            let (state, found) = match result {
                Ok((state, found)) => (Some(state), found),
                Err(errors) => (None, errors),
            };
            pb::upgrade_resource_state::Response {
                upgraded_state: state.map(|state| convert::dynamic(&Value::Object(state))),
                diagnostics: convert::diagnostics(found),
            }
        })
        .await
}

pub(super) async fn upgrade_identity<P: Provider>(
    service: &ProviderService<P>,
    message: pb::upgrade_resource_identity::Request,
) -> Reply<pb::upgrade_resource_identity::Response> {
    service
        .run(|engine| async move {
            let upgraded = match raw_json(message.raw_identity.as_ref()) {
                Ok(stored) => engine.upgrade_identity(&message.type_name, message.version, stored).await,
                Err(errors) => Err(errors),
            };
            match upgraded {
                Ok(identity) => pb::upgrade_resource_identity::Response {
                    upgraded_identity: convert::identity(Some(identity)),
                    diagnostics: Vec::new(),
                },
                Err(errors) => pb::upgrade_resource_identity::Response {
                    upgraded_identity: None,
                    diagnostics: convert::diagnostics(errors),
                },
            }
        })
        .await
}

pub(super) async fn generate_config<P: Provider>(
    service: &ProviderService<P>,
    message: pb::generate_resource_config::Request,
) -> Reply<pb::generate_resource_config::Response> {
    service
        .run(|engine| async move {
            let name = &message.type_name;
            let state = engine.resource(name).and_then(|entry| convert::object(message.state.as_ref(), &entry.schema));
            let generated = match state {
                Ok(Some(state)) => engine.generate_config(name, &state).await,
                Ok(None) => Err(Diagnostics::error("Nothing to configure", "The state is null.")),
                Err(errors) => Err(errors),
            };
            let (config, found) = match generated {
                Ok(config) => (Some(convert::dynamic(&Value::Object(config))), Diagnostics::new()),
                Err(errors) => (None, errors),
            };
            pb::generate_resource_config::Response { config, diagnostics: convert::diagnostics(found) }
        })
        .await
}

/// What another resource is, with the private data that this provider itself kept for it.
fn move_request<P: Provider>(
    engine: &Engine<P>,
    message: pb::move_resource_state::Request,
) -> Result<(MoveRequest, Private), Diagnostics> {
    let private = if message.source_provider_address == engine.provider.address() {
        convert::private(&message.source_private)
    } else {
        Private::new()
    };
    let identity = message.source_identity.as_ref().filter(|identity| !identity.json.is_empty());
    let identity = identity.map(|identity| raw_json(Some(identity))).transpose()?;
    let request = MoveRequest {
        source_state: raw_json(message.source_state.as_ref())?,
        source_provider: message.source_provider_address,
        source_type: message.source_type_name,
        source_version: message.source_schema_version,
        source_private: message.source_private,
        source_identity: identity.map(|identity| (identity, message.source_identity_schema_version)),
    };
    Ok((request, private))
}

pub(super) async fn move_state<P: Provider>(
    service: &ProviderService<P>,
    message: pb::move_resource_state::Request,
) -> Reply<pb::move_resource_state::Response> {
    service
        .run(|engine| async move {
            let target = message.target_type_name.clone();
            let outcome = match move_request(&engine, message) {
                Ok((request, private)) => engine.move_state(&target, &request, private).await,
                Err(errors) => Err(errors),
            };
            let outcome = outcome.unwrap_or_else(|diagnostics| StateOutcome { diagnostics, ..StateOutcome::default() });
            pb::move_resource_state::Response {
                target_state: outcome.state.map(|s| convert::dynamic(&Value::Object(s))),
                diagnostics: convert::diagnostics(outcome.diagnostics),
                target_private: convert::private_bytes(&outcome.private),
                target_identity: convert::identity(outcome.identity),
            }
        })
        .await
}
