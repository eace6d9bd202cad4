//! Validators for one attribute, and rules across the attributes of a block.
//!
//! Validators see known values only: null is the business of `required`, and unknown values are
//! validated again once they are known.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use super::duration::{format_duration, parse_duration};
use crate::diagnostic::{Diagnostic, Diagnostics};
use crate::value::{FromValue, Number, Object, Path, Value};

type Check = dyn Fn(&Value) -> Result<(), String> + Send + Sync;
type RuleCheck = dyn Fn(&Object) -> Diagnostics + Send + Sync;

/// A check of one attribute's value.
#[derive(Clone)]
pub struct Validator {
    description: String,
    check: Arc<Check>,
}

impl fmt::Debug for Validator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Validator").field(&self.description).finish()
    }
}

impl Validator {
    /// A validator from a function; `description` completes "the value …", and the function's error
    /// is a sentence for a person.
    pub fn new(
        description: impl Into<String>,
        check: impl Fn(&Value) -> Result<(), String> + Send + Sync + 'static,
    ) -> Self {
        Self { description: description.into(), check: Arc::new(check) }
    }

    /// What it demands, for documentation.
    pub fn description(&self) -> &str {
        &self.description
    }

    /// Runs it on a known value.
    ///
    /// # Errors
    /// A sentence for a person.
    pub fn check(&self, value: &Value) -> Result<(), String> {
        (self.check)(value)
    }
}

/// A function over the value as a Rust type: `custom("must be even", |n: i64| …)`.
pub fn custom<T: FromValue + 'static>(
    description: impl Into<String>,
    check: impl Fn(T) -> Result<(), String> + Send + Sync + 'static,
) -> Validator {
    Validator::new(description, move |value| T::from_value(value).map_err(|error| error.to_string()).and_then(&check))
}

/// One of these strings.
pub fn one_of<S: Into<String>>(allowed: impl IntoIterator<Item = S>) -> Validator {
    let allowed: Vec<String> = allowed.into_iter().map(Into::into).collect();
    let list = format!("must be one of \"{}\"", allowed.join("\", \""));
    custom(
        list.clone(),
        move |text: String| {
            if allowed.contains(&text) { Ok(()) } else { Err(format!("The value {list}, got {text:?}.")) }
        },
    )
}

/// A string of so many characters.
pub fn length(min: usize, max: usize) -> Validator {
    let demand = format!("must have {min} to {max} characters");
    custom(demand.clone(), move |text: String| {
        let count = text.chars().count();
        if (min..=max).contains(&count) { Ok(()) } else { Err(format!("The value {demand}, got {count}.")) }
    })
}

/// A number from `min` to `max`, both included.
pub fn range(min: impl Into<Number>, max: impl Into<Number>) -> Validator {
    let (min, max) = (min.into(), max.into());
    let demand = format!("must be between {min} and {max}");
    custom(demand.clone(), move |number: Number| {
        if number >= min && number <= max { Ok(()) } else { Err(format!("The value {demand}, got {number}.")) }
    })
}

/// A number of at least `min`.
pub fn at_least(min: impl Into<Number>) -> Validator {
    let min = min.into();
    let demand = format!("must be at least {min}");
    custom(
        demand.clone(),
        move |number: Number| {
            if number >= min { Ok(()) } else { Err(format!("The value {demand}, got {number}.")) }
        },
    )
}

/// A number without a fraction.
pub fn whole_number() -> Validator {
    custom("must be a whole number", |number: Number| {
        if number.as_i64().is_some() || number.as_u64().is_some() {
            Ok(())
        } else {
            Err(format!("The value must be a whole number, got {number}."))
        }
    })
}

/// A string that `accepts` takes; `form` completes "must be", such as `"lowercase letters, digits
/// and hyphens"`.
pub fn matches(form: impl Into<String>, accepts: impl Fn(&str) -> bool + Send + Sync + 'static) -> Validator {
    let demand = format!("must be {}", form.into());
    custom(
        demand.clone(),
        move |text: String| {
            if accepts(&text) { Ok(()) } else { Err(format!("The value {demand}, got {text:?}.")) }
        },
    )
}

/// A duration such as `90s` or `1h30m`.
pub fn duration() -> Validator {
    custom("must be a duration such as `90s` or `1h30m`", |text: String| parse_duration(&text).map(drop))
}

/// A duration from `min` to `max`, both included.
pub fn duration_between(min: Duration, max: Duration) -> Validator {
    let demand = format!("must be a duration between {} and {}", format_duration(min), format_duration(max));
    custom(demand.clone(), move |text: String| {
        let duration = parse_duration(&text)?;
        if (min..=max).contains(&duration) { Ok(()) } else { Err(format!("The value {demand}, got {text:?}.")) }
    })
}

/// A list, set or map with so many elements.
pub fn size(min: usize, max: usize) -> Validator {
    let demand = format!("must have {min} to {max} elements");
    Validator::new(demand.clone(), move |value| {
        let count =
            value.as_elements().map(<[Value]>::len).or_else(|| value.as_map().map(std::collections::BTreeMap::len));
        match count {
            Some(count) if !(min..=max).contains(&count) => Err(format!("The value {demand}, got {count}.")),
            _ => Ok(()),
        }
    })
}

/// Every known element of a list, set or map passes `validator`.
pub fn each(validator: Validator) -> Validator {
    let description = format!("each element {}", validator.description);
    Validator::new(description, move |value| {
        let empty = std::collections::BTreeMap::new();
        let elements = value.as_elements().unwrap_or_default().iter();
        elements
            .chain(value.as_map().unwrap_or(&empty).values())
            .filter(|element| !element.is_null() && !element.is_unknown())
            .try_for_each(|element| validator.check(element))
    })
}

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
/// not set.
struct Presence {
    set: Vec<String>,
    unknown: bool,
}

fn presence(block: &Object, names: &[String]) -> Presence {
    let mut found = Presence { set: Vec::new(), unknown: false };
    for name in names {
        match block.value(name).map(Value::inner) {
            None | Some(Value::Null) => {}
            Some(Value::Unknown) => found.unknown = true,
            Some(Value::List(items) | Value::Set(items)) if items.is_empty() => {}
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
        Diagnostic::error("Incomplete attributes", text).at(Path::root().attr(found.set[0].clone())).into()
    })
}

fn missing(text: &str) -> Diagnostics {
    Diagnostics::error("Missing attribute", text)
}

fn too_many(found: &Presence, list: &str) -> Diagnostics {
    let Some(second) = found.set.get(1) else {
        return Diagnostics::new();
    };
    let text = format!("Only one of {list} may be set, but \"{}\" are.", found.set.join("\", \""));
    Diagnostic::error("Conflicting attributes", text).at(Path::root().attr(second.clone())).into()
}
