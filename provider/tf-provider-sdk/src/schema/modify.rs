//! Plan modifiers: what changes one attribute's planned value, or says that the resource must be
//! replaced.
//!
//! They run after defaults and after computed attributes were marked unknown, on every attribute,
//! nested ones included, never on destroy. Inside nested blocks of kind set, an element's prior
//! state is the one with the same configured values, and null where there is none.
//!
//! ```
//! use tf_provider_sdk::{Attribute, modify};
//!
//! // Recomputed where the plan changes `plan` or `region`, kept otherwise.
//! let price = Attribute::number("price").computed().modify(modify::use_state_unless_changed(["plan", "region"]));
//! // Growing happens in place.
//! let size = Attribute::number("size").required().modify(modify::requires_replace_if(|plan| {
//!     plan.planned.as_number() < plan.prior.as_number()
//! }));
//! # let _ = (price, size);
//! ```

use std::fmt;
use std::sync::Arc;

use crate::diagnostic::{Diagnostic, Diagnostics};
use crate::value::{Object, Path, Refinement, Value};

/// One attribute during planning.
#[derive(Debug)]
pub struct AttributePlan<'a> {
    /// Where the attribute is.
    pub path: &'a Path,
    /// The whole configuration.
    pub config_object: &'a Object,
    /// The whole prior state; `None` on create.
    pub prior_object: Option<&'a Object>,
    /// The whole plan as it was before the attribute modifiers.
    pub planned_object: &'a Object,
    /// This attribute in the configuration; null where not set.
    pub config: &'a Value,
    /// This attribute in the prior state; null on create.
    pub prior: &'a Value,
    /// This attribute in the plan: change it here.
    pub planned: &'a mut Value,
    /// Set it to replace the resource.
    pub requires_replace: &'a mut bool,
    /// Errors and warnings; paths are absolute.
    pub diagnostics: &'a mut Diagnostics,
}

impl AttributePlan<'_> {
    /// True if an existing resource would get another value here. Unknown counts as another value.
    pub fn is_changing(&self) -> bool {
        self.prior_object.is_some() && *self.planned != *self.prior
    }

    /// Adds an error about this attribute.
    pub fn error(&mut self, summary: &str, detail: impl Into<String>) {
        self.diagnostics.push(Diagnostic::error(summary, detail).at(self.path));
    }
}

type Change = dyn Fn(&mut AttributePlan<'_>) + Send + Sync;

/// A plan modifier of one attribute.
#[derive(Clone)]
pub struct Modifier {
    name: &'static str,
    change: Arc<Change>,
}

impl fmt::Debug for Modifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Modifier").field(&self.name).finish()
    }
}

impl Modifier {
    /// Its name, for documentation: `"requires_replace"`.
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// Runs it.
    pub fn apply(&self, plan: &mut AttributePlan<'_>) {
        (self.change)(plan);
    }
}

/// A modifier from a function.
pub fn custom(name: &'static str, change: impl Fn(&mut AttributePlan<'_>) + Send + Sync + 'static) -> Modifier {
    Modifier { name, change: Arc::new(change) }
}

/// Keeps the state's value where the plan is unknown and the state has one.
pub fn use_state_for_unknown() -> Modifier {
    custom("use_state_for_unknown", |plan| {
        if plan.planned.is_unknown() && !plan.config.is_unknown() && !plan.prior.is_null() {
            *plan.planned = plan.prior.clone();
        }
    })
}

/// Keeps the state's value where the plan is unknown, unless one of these top-level attributes changes:
/// for what depends on them alone.
pub fn use_state_unless_changed<S: Into<String>>(names: impl IntoIterator<Item = S>) -> Modifier {
    let names: Vec<String> = names.into_iter().map(Into::into).collect();
    let keep = use_state_for_unknown();
    custom("use_state_unless_changed", move |plan| {
        let changed = plan.prior_object.is_some_and(|prior| {
            names.iter().any(|name| prior.at(name.as_str()) != plan.planned_object.at(name.as_str()))
        });
        if !changed {
            keep.apply(plan);
        }
    })
}

/// Tells Terraform what is known of a value that the plan leaves unknown. The value must then keep to it.
pub fn refine(refinement: Refinement) -> Modifier {
    custom("refine", move |plan| {
        if plan.planned.is_unknown() && !plan.config.is_unknown() {
            *plan.planned = refinement.clone().into();
        }
    })
}

/// A change replaces the resource.
pub fn requires_replace() -> Modifier {
    custom("requires_replace", |plan| {
        if plan.is_changing() {
            *plan.requires_replace = true;
        }
    })
}

/// A change replaces the resource if `condition` says so; it is asked for changes only.
pub fn requires_replace_if(condition: impl Fn(&AttributePlan<'_>) -> bool + Send + Sync + 'static) -> Modifier {
    custom("requires_replace_if", move |plan| {
        if plan.is_changing() && condition(plan) {
            *plan.requires_replace = true;
        }
    })
}

/// A change replaces the resource, where the configuration sets the value: for what is optional and
/// computed, whose computed value may change by itself.
pub fn requires_replace_if_configured() -> Modifier {
    requires_replace_if(|plan| !plan.config.is_null())
}
