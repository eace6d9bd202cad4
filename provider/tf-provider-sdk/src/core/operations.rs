//! The operations on managed resources: plan, apply, read, import, upgrade, move.
//!
//! Each takes and returns whole objects. Nothing that exists is lost: an apply that fails returns
//! the last partial state, else what was there before.

use serde_json::Value as Json;

use crate::core::context::{Context, Deferral, Private};
use crate::core::engine::{Engine, guarded, timeout};
use crate::core::plan::PlanChange;
use crate::core::planning::{self, differs};
use crate::core::registry::ResourceEntry;
use crate::core::state::{finish, finish_partial};
use crate::core::validation::validate;
use crate::diagnostic::{Diagnostic, Diagnostics};
use crate::provider::{CreateRequest, MoveRequest, Provider, UpdateRequest};
use crate::schema::{Block, TIMEOUTS};
use crate::value::{Object, Path, Value, conform::conform, json};

/// What planning a change gives.
#[derive(Debug, Default)]
pub(crate) struct PlanOutcome {
    pub(crate) planned: Option<Object>,
    pub(crate) requires_replace: Vec<Path>,
    pub(crate) private: Private,
    pub(crate) diagnostics: Diagnostics,
    pub(crate) deferred: Option<Deferral>,
}

/// A state, and what belongs to it.
#[derive(Debug, Default)]
pub(crate) struct StateOutcome {
    pub(crate) state: Option<Object>,
    pub(crate) identity: Option<Value>,
    pub(crate) private: Private,
    pub(crate) diagnostics: Diagnostics,
    pub(crate) deferred: Option<Deferral>,
}

/// A change to apply, as Terraform sends it.
#[derive(Debug)]
pub(crate) struct Change {
    pub(crate) config: Option<Object>,
    pub(crate) prior: Option<Object>,
    /// The proposal, for a plan; the plan, for an apply. `None` for a destroy.
    pub(crate) planned: Option<Object>,
    pub(crate) private: Private,
    /// Whether the plan may be put off.
    pub(crate) may_defer: bool,
}

/// How an import names what it imports.
#[derive(Debug)]
pub(crate) enum ImportTarget {
    Id(String),
    Identity(Object),
}

impl<P: Provider> Engine<P> {
    /// Validates a resource's configuration.
    pub(crate) async fn validate_resource(&self, name: &str, config: &Object) -> Diagnostics {
        let entry = match self.resource(name) {
            Ok(entry) => entry,
            Err(diagnostics) => return diagnostics,
        };
        let mut found = validate(&entry.schema.block, config);
        let cx = self.context("validate", name);
        if let Err(errors) = entry.item.validate_config(&cx, config).await {
            found.extend(errors);
        }
        found.extend(cx.take_diagnostics());
        found
    }

    /// Plans a change: see `planning` for the order.
    pub(crate) async fn plan(&self, name: &str, change: Change) -> PlanOutcome {
        let entry = match self.resource(name) {
            Ok(entry) => entry,
            Err(diagnostics) => {
                return PlanOutcome { diagnostics, ..PlanOutcome::default() };
            }
        };
        let mut diagnostics = Diagnostics::new();
        let mut plan = PlanChange::new(change.config, change.prior, None);
        if let Some(proposed) = change.planned {
            let config = plan.config.take().unwrap_or_default();
            let result = planning::plan(&entry.schema, &config, plan.prior.as_ref(), proposed);
            diagnostics.extend(result.diagnostics);
            plan.config = Some(config);
            plan.planned = Some(result.planned);
            plan.requires_replace = result.requires_replace;
        }
        let cx = self.context("plan", name).with_private(change.private).with_deferral(change.may_defer);
        if !diagnostics.has_errors() {
            // Without a client there is nobody to ask: Terraform plans so in tests of modules only.
            if let Ok(client) = self.client()
                && let Err(errors) = guarded(entry.item.modify_plan(&client, &cx, &mut plan)).await
            {
                diagnostics.extend(errors);
            }
        }
        diagnostics.extend(cx.take_diagnostics());
        let planned = plan.planned.map(|planned| {
            let kept = planned.clone();
            entry.schema.block.conform(planned).unwrap_or_else(|error| {
                diagnostics.push(error.into());
                kept
            })
        });
        PlanOutcome {
            planned,
            requires_replace: plan.requires_replace,
            private: cx.take_private(),
            diagnostics,
            deferred: cx.take_deferred(),
        }
    }

    /// Applies a planned change.
    pub(crate) async fn apply(&self, name: &str, change: Change) -> StateOutcome {
        let prior = change.prior.clone();
        match self.try_apply(name, change).await {
            Ok(outcome) => outcome,
            Err(diagnostics) => StateOutcome { state: prior, diagnostics, ..StateOutcome::default() },
        }
    }

    async fn try_apply(&self, name: &str, change: Change) -> Result<StateOutcome, Diagnostics> {
        let entry = self.resource(name)?;
        let client = self.client()?;
        let config = change.config.unwrap_or_default();
        let cx = |operation, values: &Object| {
            self.context(operation, name)
                .with_timeout(timeout(&entry.schema, values, operation))
                .with_private(change.private.clone())
        };
        match (change.prior, change.planned) {
            (None, None) => Ok(StateOutcome::default()),
            (None, Some(plan)) => {
                let cx = cx("create", &plan);
                let fallback = plan.clone();
                let request = CreateRequest { plan, config };
                let result = guarded(entry.item.create(&client, &cx, request)).await;
                Ok(applied(entry, &cx, result, Fallback::Created(fallback)))
            }
            (Some(prior), Some(plan)) => {
                let cx = cx("update", &plan);
                if !differs(&prior, &plan) {
                    // Only the `timeouts` block changed, which exists nowhere but in the state.
                    return Ok(applied(entry, &cx, Ok(plan), Fallback::Prior(prior)));
                }
                let fallback = prior.clone();
                let request = UpdateRequest { prior, plan, config };
                let result = guarded(entry.item.update(&client, &cx, request)).await;
                Ok(applied(entry, &cx, result, Fallback::Prior(fallback)))
            }
            (Some(prior), None) => {
                let cx = cx("delete", &prior);
                match guarded(entry.item.delete(&client, &cx, prior.clone())).await {
                    Ok(()) => Ok(StateOutcome { diagnostics: cx.take_diagnostics(), ..StateOutcome::default() }),
                    Err(errors) => Ok(applied(entry, &cx, Err(errors), Fallback::Prior(prior))),
                }
            }
        }
    }

    /// Reads a resource again.
    pub(crate) async fn read(&self, name: &str, state: Object, private: Private, may_defer: bool) -> StateOutcome {
        let kept = state.clone();
        match self.try_read(name, state, private, may_defer).await {
            Ok(outcome) => outcome,
            Err(diagnostics) => StateOutcome { state: Some(kept), diagnostics, ..StateOutcome::default() },
        }
    }

    async fn try_read(
        &self,
        name: &str,
        state: Object,
        private: Private,
        may_defer: bool,
    ) -> Result<StateOutcome, Diagnostics> {
        let entry = self.resource(name)?;
        let client = self.client()?;
        let cx = self
            .context("read", name)
            .with_timeout(timeout(&entry.schema, &state, "read"))
            .with_private(private)
            .with_deferral(may_defer);
        let prior = state.clone();
        match guarded(entry.item.read(&client, &cx, state)).await {
            Ok(None) => Ok(StateOutcome { diagnostics: cx.take_diagnostics(), ..StateOutcome::default() }),
            Ok(Some(state)) => Ok(applied(entry, &cx, Ok(state), Fallback::Prior(prior))),
            Err(errors) => Ok(applied(entry, &cx, Err(errors), Fallback::Prior(prior))),
        }
    }

    /// Imports a resource; Terraform reads it right after.
    pub(crate) async fn import(
        &self,
        name: &str,
        target: ImportTarget,
        may_defer: bool,
    ) -> Result<StateOutcome, Diagnostics> {
        let entry = self.resource(name)?;
        let client = self.client()?;
        let cx = self.context("import", name).with_deferral(may_defer);
        let state = match &target {
            ImportTarget::Id(id) => guarded(entry.item.import(&client, &cx, id)).await,
            ImportTarget::Identity(identity) => guarded(entry.item.import_by_identity(&client, &cx, identity)).await,
        }?;
        let deferred = cx.take_deferred();
        let state = match deferred {
            None => finish(&entry.schema.block, state)?,
            Some(_) => entry.schema.block.conform(state)?,
        };
        let identity = match target {
            ImportTarget::Identity(identity) => Some(Value::Object(identity)),
            ImportTarget::Id(_) => identity_of(entry, &state),
        };
        Ok(StateOutcome {
            state: Some(state),
            identity,
            private: cx.take_private(),
            diagnostics: cx.take_diagnostics(),
            deferred,
        })
    }

    /// Brings a stored state to the current schema version.
    pub(crate) async fn upgrade(
        &self,
        name: &str,
        version: i64,
        state: Json,
    ) -> Result<(Object, Diagnostics), Diagnostics> {
        let entry = self.resource(name)?;
        let current = entry.schema.version;
        let cx = self.context("upgrade", name);
        let state = if version == current {
            state
        } else if version > current {
            return Err(Diagnostics::error(
                "State too new",
                format!(
                    "The state of {name} has schema version {version}, and this provider knows versions \
                     up to {current}. Use the provider that wrote it, or a newer one."
                ),
            ));
        } else {
            guarded(entry.item.upgrade_state(&cx, version, state)).await?
        };
        let value = json::decode(&state, &entry.schema.value_type())
            .map_err(|error| Diagnostic::from_error("Cannot read the stored state", &error))?;
        let Value::Object(object) = value else {
            return Err(Diagnostics::error("Cannot read the stored state", "It is not an object."));
        };
        Ok((finish(&entry.schema.block, object)?, cx.take_diagnostics()))
    }

    /// Brings a stored identity to the current version of its schema.
    pub(crate) async fn upgrade_identity(&self, name: &str, version: i64, stored: Json) -> Result<Value, Diagnostics> {
        let entry = self.resource(name)?;
        let schema = entry
            .identity
            .as_ref()
            .ok_or_else(|| Diagnostics::error("No identity", format!("A {name} has no identity.")))?;
        let current = if version == schema.version {
            stored
        } else if version > schema.version {
            return Err(Diagnostics::error(
                "Identity too new",
                format!(
                    "The identity of {name} has schema version {version}, and this provider knows versions up to {}.",
                    schema.version
                ),
            ));
        } else {
            guarded(entry.item.upgrade_identity(&self.context("upgrade", name), version, stored)).await?
        };
        let identity = json::decode(&current, &schema.value_type());
        Ok(identity.map_err(|error| Diagnostic::from_error("Cannot read the stored identity", &error))?)
    }

    /// The configuration that would give a state.
    pub(crate) async fn generate_config(&self, name: &str, state: &Object) -> Result<Object, Diagnostics> {
        let entry = self.resource(name)?;
        let generated = configuration_of(&entry.schema.block, state);
        let cx = self.context("generate", name);
        let config = guarded(entry.item.generate_config(&cx, state, generated)).await?;
        finish(&entry.schema.block, config)
    }

    /// Takes over a resource of another type. `private` is what this provider kept with it.
    pub(crate) async fn move_state(
        &self,
        name: &str,
        request: &MoveRequest,
        private: Private,
    ) -> Result<StateOutcome, Diagnostics> {
        let entry = self.resource(name)?;
        let cx = self.context("move", name).with_private(private);
        let Some(state) = guarded(entry.item.move_state(&cx, request)).await? else {
            return Err(Diagnostics::error(
                "Move not supported",
                format!("A {} of {} can't become a {name}.", request.source_type, request.source_provider),
            ));
        };
        let state = finish(&entry.schema.block, state)?;
        Ok(StateOutcome {
            identity: identity_of(entry, &state),
            state: Some(state),
            private: cx.take_private(),
            diagnostics: cx.take_diagnostics(),
            deferred: None,
        })
    }
}

/// What a person would write for this state: nothing that is computed only, write-only, deprecated or
/// the default, and no `timeouts`, which exist nowhere else.
fn configuration_of(block: &Block, state: &Object) -> Object {
    let mut config = Object::new();
    for attribute in &block.attributes {
        let value = state.value(&attribute.name).cloned().unwrap_or_default();
        let computed_only = attribute.computed && !attribute.optional;
        let is_default = attribute.default_in(state).is_some_and(|default| default == value);
        let hidden = computed_only || attribute.write_only || attribute.deprecated.is_some() || is_default;
        config.set(attribute.name.clone(), if hidden { Value::Null } else { value });
    }
    for nested in block.blocks.iter().filter(|nested| nested.name != TIMEOUTS && nested.block.deprecated.is_none()) {
        let body = |value: &Value| match value {
            Value::Object(element) => Value::Object(configuration_of(&nested.block, element)),
            other => other.clone(),
        };
        let value = match state.value(&nested.name) {
            Some(Value::List(items)) => Value::List(items.iter().map(body).collect()),
            Some(Value::Set(items)) => Value::Set(items.iter().map(body).collect()),
            Some(Value::Map(map)) => Value::Map(map.iter().map(|(key, item)| (key.clone(), body(item))).collect()),
            Some(single) => body(single),
            None => Value::Null,
        };
        config.set(nested.name.clone(), value);
    }
    config
}

/// What stays in state after a failure where no partial state was saved.
enum Fallback {
    /// Update, delete, read: what was there before.
    Prior(Object),
    /// Create: nothing if the create itself failed; its plan if it succeeded and only its result
    /// can't be used, since then something exists.
    Created(Object),
}

/// The outcome of an operation that returned a state or failed.
fn applied<C: Send + Sync + 'static>(
    entry: &ResourceEntry<C>,
    cx: &Context,
    result: Result<Object, Diagnostics>,
    fallback: Fallback,
) -> StateOutcome {
    let block = &entry.schema.block;
    let mut diagnostics = cx.take_diagnostics();
    let partial = cx.take_partial();
    let (failure, succeeded) = match result.map(|state| finish(block, state)) {
        Ok(Ok(state)) => {
            return StateOutcome {
                identity: identity_of(entry, &state),
                state: Some(state),
                private: cx.take_private(),
                diagnostics,
                deferred: cx.take_deferred(),
            };
        }
        Ok(Err(errors)) => (errors, true),
        Err(errors) => (errors, false),
    };
    diagnostics.extend(failure);
    let partial = partial.and_then(|state| finish_partial(block, state));
    let state = partial.or_else(|| match fallback {
        Fallback::Prior(prior) => Some(prior),
        Fallback::Created(plan) if succeeded => finish_partial(block, plan),
        Fallback::Created(_) => None,
    });
    StateOutcome {
        identity: state.as_ref().and_then(|state| identity_of(entry, state)),
        state,
        private: cx.take_private(),
        diagnostics,
        deferred: cx.take_deferred(),
    }
}

/// The identity of a resource with this state, in its schema's shape.
fn identity_of<C: Send + Sync + 'static>(entry: &ResourceEntry<C>, state: &Object) -> Option<Value> {
    let schema = entry.identity.as_ref()?;
    let identity = entry.item.identity(state)?;
    match conform(Value::Object(identity), &schema.value_type()) {
        Ok(identity) => identity.is_wholly_known().then_some(identity),
        Err(error) => {
            tracing::error!(type_name = entry.item.type_name(), %error, "identity does not fit its schema");
            None
        }
    }
}

#[cfg(test)]
mod tests;
