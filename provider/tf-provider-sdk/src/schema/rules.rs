//! Rules across the attributes of a block. Used under the name [`validate`](super::validate).
//!
//! A rule sees the block's configuration when it is validated and again at each plan, when more of it
//! is known. It lets pass what is not known yet. Names are paths below the block:
//! `"encryption.key_file"` looks into a nested block that appears at most once.

use std::fmt;
use std::sync::Arc;

use super::validate::shown;
use crate::diagnostic::{Diagnostic, Diagnostics};
use crate::value::{IntoValue, Object, Path, Value};

type RuleCheck = dyn Fn(&Object) -> Diagnostics + Send + Sync;

/// A rule across the attributes of a block; it sees the block's configuration, which may hold
/// unknown values.
#[derive(Clone)]
pub struct Rule {
    check: Arc<RuleCheck>,
}

impl fmt::Debug for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Rule")
    }
}

impl Rule {
    /// A rule from a function. Paths in its diagnostics start at the block.
    pub fn new(check: impl Fn(&Object) -> Diagnostics + Send + Sync + 'static) -> Self {
        Self { check: Arc::new(check) }
    }

    /// Runs it.
    pub fn check(&self, block: &Object) -> Diagnostics {
        (self.check)(block)
    }
}

/// What the attributes of a rule are: set, not set, or not known yet. An empty list of blocks is
/// not set, and neither is any other empty collection.
struct Presence {
    set: Vec<String>,
    unknown: bool,
}

fn presence(block: &Object, names: &[String]) -> Presence {
    let mut found = Presence { set: Vec::new(), unknown: false };
    for name in names {
        match block.at(name.as_str()).map(Value::inner) {
            None | Some(Value::Null) => {}
            Some(Value::Unknown | Value::Refined(_)) => found.unknown = true,
            Some(Value::List(items) | Value::Set(items)) if items.is_empty() => {}
            Some(Value::Map(map)) if map.is_empty() => {}
            Some(_) => found.set.push(name.clone()),
        }
    }
    found
}

fn names_of<S: Into<String>>(names: impl IntoIterator<Item = S>) -> (Vec<String>, String) {
    let names: Vec<String> = names.into_iter().map(Into::into).collect();
    let list = format!("\"{}\"", names.join("\", \""));
    (names, list)
}

/// At most one of these is set.
pub fn conflicts<S: Into<String>>(names: impl IntoIterator<Item = S>) -> Rule {
    let (names, list) = names_of(names);
    Rule::new(move |block| too_many(&presence(block, &names), &list))
}

/// Exactly one of these is set.
pub fn exactly_one_of<S: Into<String>>(names: impl IntoIterator<Item = S>) -> Rule {
    let (names, list) = names_of(names);
    Rule::new(move |block| {
        let found = presence(block, &names);
        if found.set.is_empty() && !found.unknown {
            return missing(&format!("Exactly one of {list} must be set."));
        }
        too_many(&found, &list)
    })
}

/// At least one of these is set.
pub fn at_least_one_of<S: Into<String>>(names: impl IntoIterator<Item = S>) -> Rule {
    let (names, list) = names_of(names);
    Rule::new(move |block| {
        let found = presence(block, &names);
        if found.set.is_empty() && !found.unknown {
            return missing(&format!("At least one of {list} must be set."));
        }
        Diagnostics::new()
    })
}

/// All of these are set, or none.
pub fn all_or_none<S: Into<String>>(names: impl IntoIterator<Item = S>) -> Rule {
    let (names, list) = names_of(names);
    Rule::new(move |block| {
        let found = presence(block, &names);
        if found.set.is_empty() || found.unknown || found.set.len() == names.len() {
            return Diagnostics::new();
        }
        let text = format!("Either all of {list} must be set, or none.");
        Diagnostic::error("Incomplete attributes", text).at(Path::from(found.set[0].as_str())).into()
    })
}

/// If `name` is set, all of `needed` must be.
pub fn requires<S: Into<String>>(name: impl Into<String>, needed: impl IntoIterator<Item = S>) -> Rule {
    let name = name.into();
    let (needed, _) = names_of(needed);
    Rule::new(move |block| {
        if presence(block, std::slice::from_ref(&name)).set.is_empty() {
            return Diagnostics::new();
        }
        absent(block, &needed)
            .map(|missing| {
                let text = format!("{missing:?} must be set where {name:?} is.");
                Diagnostic::error("Missing attribute", text).at(Path::from(name.as_str()))
            })
            .collect()
    })
}

/// If `name` has this value, all of `needed` must be set. A default of `name` is not seen.
pub fn required_if<S: Into<String>>(
    name: impl Into<String>,
    value: impl IntoValue,
    needed: impl IntoIterator<Item = S>,
) -> Rule {
    let (name, value) = (name.into(), value.into_value());
    let (needed, _) = names_of(needed);
    Rule::new(move |block| {
        if !has(block, &name, &value) {
            return Diagnostics::new();
        }
        absent(block, &needed)
            .map(|missing| {
                let text = format!("{missing:?} must be set where {name:?} is {}.", shown(&value));
                Diagnostic::error("Missing attribute", text).at(Path::from(name.as_str()))
            })
            .collect()
    })
}

/// If `name` has this value, none of `others` may be set. A default of `name` is not seen.
pub fn forbidden_if<S: Into<String>>(
    name: impl Into<String>,
    value: impl IntoValue,
    others: impl IntoIterator<Item = S>,
) -> Rule {
    let (name, value) = (name.into(), value.into_value());
    let (others, _) = names_of(others);
    Rule::new(move |block| {
        if !has(block, &name, &value) {
            return Diagnostics::new();
        }
        let set = presence(block, &others).set;
        set.iter()
            .map(|other| {
                let text = format!("{other:?} means nothing where {name:?} is {}: leave it out.", shown(&value));
                Diagnostic::error("Conflicting attributes", text).at(Path::from(other.as_str()))
            })
            .collect()
    })
}

/// No two of these have the same value.
pub fn differ<S: Into<String>>(names: impl IntoIterator<Item = S>) -> Rule {
    let (names, _) = names_of(names);
    Rule::new(move |block| {
        let known = |name: &String| block.at(name.as_str()).filter(|value| !value.is_null() && value.is_wholly_known());
        for (position, name) in names.iter().enumerate() {
            let Some(value) = known(name) else { continue };
            if let Some(same) = names.iter().take(position).find(|other| known(other) == Some(value)) {
                let text = format!("{name:?} and {same:?} must differ, and both are {}.", shown(value));
                return Diagnostic::error("Conflicting attributes", text).at(Path::from(name.as_str())).into();
            }
        }
        Diagnostics::new()
    })
}

/// The number `low` is not above the number `high`.
pub fn ordered(low: impl Into<String>, high: impl Into<String>) -> Rule {
    let (low, high) = (low.into(), high.into());
    Rule::new(move |block| {
        let number = |name: &str| block.at(name).and_then(Value::as_number);
        match (number(&low), number(&high)) {
            (Some(a), Some(b)) if a > b => {
                let text = format!("{low:?} must not be above {high:?}: {a} is above {b}.");
                Diagnostic::error("Conflicting attributes", text).at(Path::from(low.as_str())).into()
            }
            _ => Diagnostics::new(),
        }
    })
}

/// Which of `names` are surely not set.
fn absent<'a>(block: &'a Object, names: &'a [String]) -> impl Iterator<Item = &'a String> {
    names.iter().filter(|name| {
        let found = presence(block, std::slice::from_ref(*name));
        found.set.is_empty() && !found.unknown
    })
}

fn has(block: &Object, name: &str, value: &Value) -> bool {
    block.at(name).is_some_and(|found| found.inner() == value)
}

fn missing(text: &str) -> Diagnostics {
    Diagnostics::error("Missing attribute", text)
}

fn too_many(found: &Presence, list: &str) -> Diagnostics {
    let Some(second) = found.set.get(1) else {
        return Diagnostics::new();
    };
    let text = format!("Only one of {list} may be set, but \"{}\" are.", found.set.join("\", \""));
    Diagnostic::error("Conflicting attributes", text).at(Path::from(second.as_str())).into()
}
