//! How a plan is made from the configuration, the prior state and Terraform's proposal.
//!
//! The order matters, and is the one that Terraform's users know from other providers:
//!
//! 1. defaults, where the configuration is null
//! 2. write-only values to null: they reach no plan
//! 3. what says the same as the prior state in other words becomes the prior state's value; and computed
//!    values in sets of blocks are taken from the prior state, where Terraform found no counterpart
//! 4. if the plan differs from the prior state: computed attributes that the configuration doesn't
//!    set become unknown. Where nothing differs, nothing becomes unknown: an empty plan stays empty
//! 5. attribute modifiers (keep the state's value, require replacement, custom)
//! 6. the resource's own check, which `operations` calls
//!
//! A change of the `timeouts` block alone is no difference in step 4: it touches nothing that exists.

use crate::core::sets::Counterparts;
use crate::diagnostic::{Diagnostic, Diagnostics};
use crate::schema::modify::AttributePlan;
use crate::schema::{Block, NestedBlock, Nesting, Schema, TIMEOUTS};
use crate::value::{Object, Path, Value};

/// A plan after step 5.
#[derive(Debug)]
pub(crate) struct Planned {
    pub(crate) planned: Object,
    pub(crate) requires_replace: Vec<Path>,
    pub(crate) diagnostics: Diagnostics,
}

/// Steps 1 to 5, for a create (`prior` is `None`) or an update.
pub(crate) fn plan(schema: &Schema, config: &Object, prior: Option<&Object>, proposed: Object) -> Planned {
    let mut planned = proposed;
    apply_defaults(&schema.block, config, &mut planned);
    null_write_only(&schema.block, &mut planned);
    if let Some(prior) = prior {
        keep_equivalents(&schema.block, prior, &mut planned);
        keep_computed(&schema.block, config, prior, &mut planned, false);
    }
    if prior.is_none_or(|prior| differs(prior, &planned)) {
        mark_computed(&schema.block, config, &mut planned);
    }
    let snapshot = planned.clone();
    let mut walk =
        Walk { config, prior, planned: &snapshot, requires_replace: Vec::new(), diagnostics: Diagnostics::new() };
    let root = Place::default();
    walk.block(&schema.block, &root, config, prior, &mut planned);
    Planned { planned, requires_replace: walk.requires_replace, diagnostics: walk.diagnostics }
}

/// True if anything but the `timeouts` block differs.
pub(crate) fn differs(a: &Object, b: &Object) -> bool {
    !a.iter().filter(|(name, _)| *name != TIMEOUTS).eq(b.iter().filter(|(name, _)| *name != TIMEOUTS))
}

/// Step 1; also used for the configuration of data sources.
pub(crate) fn apply_defaults(block: &Block, config: &Object, planned: &mut Object) {
    for attribute in &block.attributes {
        if config.is_null(&attribute.name)
            && let Some(default) = attribute.default_in(planned)
        {
            planned.set(attribute.name.clone(), default);
        }
    }
    for nested in &block.blocks {
        pairs(nested, config, None, planned, &mut |_, config, _, planned| {
            apply_defaults(&nested.block, config, planned);
        });
    }
}

/// Step 2; also used on every state that leaves the provider.
pub(crate) fn null_write_only(block: &Block, object: &mut Object) {
    for attribute in block.attributes.iter().filter(|a| a.write_only) {
        object.set(attribute.name.clone(), Value::Null);
    }
    for nested in &block.blocks {
        let Some(value) = object.value_mut(&nested.name) else {
            continue;
        };
        match value {
            Value::Object(inner) => null_write_only(&nested.block, inner),
            Value::List(items) | Value::Set(items) => {
                for item in items {
                    if let Value::Object(inner) = item {
                        null_write_only(&nested.block, inner);
                    }
                }
            }
            Value::Map(map) => {
                for item in map.values_mut() {
                    if let Value::Object(inner) = item {
                        null_write_only(&nested.block, inner);
                    }
                }
            }
            _ => {}
        }
    }
}

/// Step 3.
fn keep_equivalents(block: &Block, prior: &Object, planned: &mut Object) {
    for attribute in &block.attributes {
        let Some(same) = &attribute.same else { continue };
        let (Some(before), Some(after)) = (prior.value(&attribute.name), planned.value_mut(&attribute.name)) else {
            continue;
        };
        if same.holds(before, after) {
            *after = before.clone();
        }
    }
    for nested in &block.blocks {
        pairs(nested, &Object::new(), Some(prior), planned, &mut |_, _, prior, planned| {
            if let Some(prior) = prior {
                keep_equivalents(&nested.block, prior, planned);
            }
        });
    }
}

/// Also step 3. Terraform's proposal has the prior computed values wherever it finds an element's
/// counterpart in the prior state, and it doesn't look into sets within sets.
fn keep_computed(block: &Block, config: &Object, prior: &Object, planned: &mut Object, in_set: bool) {
    if in_set {
        for attribute in block.attributes.iter().filter(|a| a.computed && config.is_null(&a.name)) {
            if planned.is_null(&attribute.name)
                && let Some(before) = prior.value(&attribute.name)
            {
                planned.set(attribute.name.clone(), before.clone());
            }
        }
    }
    for nested in &block.blocks {
        let in_set = in_set || nested.nesting == Nesting::Set;
        pairs(nested, config, Some(prior), planned, &mut |_, config, prior, planned| {
            if let Some(prior) = prior {
                keep_computed(&nested.block, config, prior, planned, in_set);
            }
        });
    }
}

/// Step 4.
fn mark_computed(block: &Block, config: &Object, planned: &mut Object) {
    for attribute in &block.attributes {
        if attribute.computed && config.is_null(&attribute.name) && attribute.default_in(planned).is_none() {
            planned.set(attribute.name.clone(), Value::Unknown);
        }
    }
    for nested in &block.blocks {
        pairs(nested, config, None, planned, &mut |_, config, _, planned| {
            mark_computed(&nested.block, config, planned);
        });
    }
}

/// Step 5.
struct Walk<'a> {
    config: &'a Object,
    prior: Option<&'a Object>,
    planned: &'a Object,
    requires_replace: Vec<Path>,
    diagnostics: Diagnostics,
}

impl Walk<'_> {
    fn block(&mut self, block: &Block, place: &Place, config: &Object, prior: Option<&Object>, planned: &mut Object) {
        let null = Value::Null;
        for attribute in &block.attributes {
            let path = place.attr(&attribute.name).path;
            let Some(value) = planned.value_mut(&attribute.name) else {
                continue;
            };
            let mut replace = false;
            for modifier in &attribute.modifiers {
                modifier.apply(&mut AttributePlan {
                    path: &path,
                    config_object: self.config,
                    prior_object: self.prior,
                    planned_object: self.planned,
                    config: config.value(&attribute.name).unwrap_or(&null),
                    prior: prior.and_then(|p| p.value(&attribute.name)).unwrap_or(&null),
                    planned: value,
                    requires_replace: &mut replace,
                    diagnostics: &mut self.diagnostics,
                });
            }
            if replace {
                self.replace(path);
            }
        }
        for nested in &block.blocks {
            let base = place.attr(&nested.name);
            pairs(nested, config, prior, planned, &mut |at, config, prior, planned| {
                let place = base.element(nested.nesting, at);
                self.block(&nested.block, &place, config, prior, planned);
            });
            let changed = prior.is_some_and(|prior| prior.value(&nested.name) != planned.value(&nested.name));
            if nested.requires_replace && changed {
                self.replace(base.path);
            }
        }
    }

    fn replace(&mut self, path: Path) {
        if self.prior.is_some() && !self.requires_replace.contains(&path) {
            self.requires_replace.push(path);
        }
    }
}

/// Where the walk is: a path that stops at the outermost set, since nothing in a set has an address.
/// Terraform refuses a plan whose paths lead into one.
#[derive(Debug, Clone, Default)]
pub(crate) struct Place {
    pub(crate) path: Path,
    in_set: bool,
}

impl Place {
    /// An attribute or a nested block below.
    pub(crate) fn attr(&self, name: &str) -> Self {
        let path = if self.in_set { self.path.clone() } else { self.path.attr(name) };
        Self { path, ..*self }
    }

    /// An element, `at` below this nested block.
    pub(crate) fn element(&self, nesting: Nesting, at: &Path) -> Self {
        if self.in_set || nesting == Nesting::Set {
            Self { path: self.path.clone(), in_set: true }
        } else {
            Self { path: self.path.join(at), in_set: false }
        }
    }

    /// A diagnostic from below, whose path starts here.
    pub(crate) fn adopt(&self, diagnostic: Diagnostic) -> Diagnostic {
        match (&diagnostic.attribute, self.in_set, self.path.is_root()) {
            (None, _, true) => diagnostic,
            (None, _, false) | (Some(_), true, _) => diagnostic.at(&self.path),
            (Some(_), false, _) => diagnostic.under(&self.path),
        }
    }
}

/// What [`pairs`] calls: the path below the block's name, the element in the configuration, in the
/// prior state, and in the plan.
type OnPair<'f> = dyn FnMut(&Path, &Object, Option<&Object>, &mut Object) + 'f;

/// Calls `visit` for each planned element of a nested block, with its counterparts.
fn pairs(nested: &NestedBlock, config: &Object, prior: Option<&Object>, planned: &mut Object, visit: &mut OnPair<'_>) {
    let null = Value::Null;
    let config = config.value(&nested.name).unwrap_or(&null);
    let prior = prior.and_then(|p| p.value(&nested.name)).unwrap_or(&null);
    let Some(planned) = planned.value_mut(&nested.name) else {
        return;
    };
    let empty = Object::new();
    match (nested.nesting, planned) {
        (Nesting::Single | Nesting::Group, Value::Object(element)) => {
            let config = config.as_object().unwrap_or(&empty);
            visit(&Path::root(), config, prior.as_object(), element);
        }
        (Nesting::List, Value::List(items)) => {
            let in_config = config.as_elements().unwrap_or_default();
            let in_prior = prior.as_elements().unwrap_or_default();
            for (i, item) in items.iter_mut().enumerate() {
                let Value::Object(element) = item else { continue };
                let config = in_config.get(i).and_then(Value::as_object).unwrap_or(&empty);
                let prior = in_prior.get(i).and_then(Value::as_object);
                visit(&Path::root().index(i), config, prior, element);
            }
        }
        (Nesting::Map, Value::Map(map)) => {
            for (key, item) in map {
                let Value::Object(element) = item else { continue };
                let find = |side: &'_ Value| -> Option<Object> { side.as_map()?.get(key)?.as_object().cloned() };
                let config = find(config).unwrap_or_default();
                visit(&Path::root().key(key), &config, find(prior).as_ref(), element);
            }
        }
        (Nesting::Set, Value::Set(items)) => {
            let mut in_config = Counterparts::new(&nested.block, config);
            let mut in_prior = Counterparts::new(&nested.block, prior);
            for item in items {
                let Value::Object(element) = item else { continue };
                let (config, prior) = (in_config.take(element), in_prior.take(element));
                visit(&Path::root(), config.unwrap_or(&empty), prior, element);
            }
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests;
