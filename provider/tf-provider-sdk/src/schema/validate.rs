//! Validators for one attribute; the rules across the attributes of a block are in `rules`, and both
//! are used under the name `validate`.
//!
//! Validators see known values only: null is the business of `required`, and unknown values are
//! validated again once they are known. They compose: [`each`], [`keys`] and [`field`] look inside,
//! [`any_of`] and [`all_of`] combine.
//!
//! ```
//! use tf_provider_sdk::{Attribute, Type, validate};
//!
//! let rule = Type::object([("port", Type::Number), ("cidr", Type::String)]);
//! let ports = Attribute::list("allow", rule)
//!     .required()
//!     .validate(validate::size(1, 50))
//!     .validate(validate::each(validate::field("port", validate::range(1_u32, 65535_u32))))
//!     .validate(validate::each(validate::field("cidr", validate::cidr())));
//! let name = Attribute::string("owner")
//!     .optional()
//!     .validate(validate::any_of([validate::one_of(["nobody"]), validate::matches("a mail address", |text| {
//!         text.contains('@')
//!     })]));
//! # let _ = (ports, name);
//! ```

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use super::duration::{format_duration, parse_duration};
pub use super::rules::*;
use crate::value::{FromValue, Number, Path, Value};

type Check = dyn Fn(&Value) -> Vec<Fault> + Send + Sync;

/// What a validator finds wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// Where, below the validated value; the root for the value itself.
    pub path: Path,
    /// A sentence for a person.
    pub message: String,
}

impl Fault {
    fn under(mut self, base: &Path) -> Self {
        self.path = base.join(&self.path);
        self
    }
}

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
        Self::inside(description, move |value| match check(value) {
            Ok(()) => Vec::new(),
            Err(message) => vec![Fault { path: Path::root(), message }],
        })
    }

    /// A validator that looks inside a value and says where what is wrong.
    pub fn inside(
        description: impl Into<String>,
        check: impl Fn(&Value) -> Vec<Fault> + Send + Sync + 'static,
    ) -> Self {
        Self { description: description.into(), check: Arc::new(check) }
    }

    /// What it demands, for documentation.
    pub fn description(&self) -> &str {
        &self.description
    }

    /// Runs it on a known value and returns all that is wrong.
    pub fn check(&self, value: &Value) -> Vec<Fault> {
        (self.check)(value)
    }

    /// The same on a value that may be null or unknown, which are let through.
    fn check_known(&self, value: &Value) -> Vec<Fault> {
        if value.is_null() || value.is_unknown() { Vec::new() } else { self.check(value) }
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

/// A number of at most `max`.
pub fn at_most(max: impl Into<Number>) -> Validator {
    let max = max.into();
    let demand = format!("must be at most {max}");
    custom(
        demand.clone(),
        move |number: Number| {
            if number <= max { Ok(()) } else { Err(format!("The value {demand}, got {number}.")) }
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

/// A list, set, tuple or map without null elements, which Terraform itself allows.
pub fn no_nulls() -> Validator {
    Validator::inside("must not have null elements", |value| {
        let nulls = parts(value).filter(|(_, element)| element.is_null());
        nulls.map(|(path, _)| Fault { path, message: "An element must not be null.".to_owned() }).collect()
    })
}

/// A list without two equal elements. Unknown elements may still become equal; a set can't have any.
pub fn distinct() -> Validator {
    Validator::inside("must not have an element twice", |value| {
        let mut seen = std::collections::BTreeSet::new();
        let known = parts(value).filter(|(_, element)| element.is_wholly_known());
        known
            .filter(|(_, element)| !seen.insert(*element))
            .map(|(path, _)| Fault { path, message: "The element is in the list twice.".to_owned() })
            .collect()
    })
}

/// Every known element of a list, set, tuple or map passes `validator`.
pub fn each(validator: Validator) -> Validator {
    let description = format!("each element {}", validator.description);
    Validator::inside(description, move |value| {
        let in_set = matches!(value.inner(), Value::Set(_));
        let found = parts(value).flat_map(|(path, element)| {
            let found = validator.check_known(element).into_iter();
            // Nothing in a set has an address.
            let place = |fault: Fault| if in_set { Fault { path: Path::root(), ..fault } } else { fault.under(&path) };
            found.map(place).collect::<Vec<_>>()
        });
        found.collect()
    })
}

/// Every key of a map passes `validator`.
pub fn keys(validator: Validator) -> Validator {
    let description = format!("each key {}", validator.description);
    Validator::inside(description, move |value| {
        let map = value.as_map().into_iter().flatten();
        map.flat_map(|(key, _)| {
            let found = validator.check(&Value::String(key.clone()));
            found
                .into_iter()
                .map(|fault| Fault { path: Path::root().key(key), message: fault.message })
                .collect::<Vec<_>>()
        })
        .collect()
    })
}

/// An attribute of an object passes `validator`, where it is known.
pub fn field(name: impl Into<String>, validator: Validator) -> Validator {
    let name = name.into();
    let description = format!("{name:?} {}", validator.description);
    Validator::inside(description, move |value| {
        let base = Path::root().attr(&name);
        let found = value.as_object().and_then(|object| object.value(&name)).map(|field| validator.check_known(field));
        found.into_iter().flatten().map(|fault| fault.under(&base)).collect()
    })
}

/// At least one of `validators` passes.
pub fn any_of(validators: impl IntoIterator<Item = Validator>) -> Validator {
    let validators: Vec<Validator> = validators.into_iter().collect();
    let demands: Vec<&str> = validators.iter().map(Validator::description).collect();
    let demand = demands.join(", or ");
    Validator::new(demand.clone(), move |value| {
        if validators.iter().any(|validator| validator.check(value).is_empty()) {
            Ok(())
        } else {
            Err(format!("The value {demand}, got {}.", shown(value)))
        }
    })
}

/// All of `validators` pass: a name for several demands.
pub fn all_of(validators: impl IntoIterator<Item = Validator>) -> Validator {
    let validators: Vec<Validator> = validators.into_iter().collect();
    let demands: Vec<&str> = validators.iter().map(Validator::description).collect();
    Validator::inside(demands.join(", and "), move |value| {
        validators.iter().flat_map(|validator| validator.check(value)).collect()
    })
}

/// An IPv4 or IPv6 address.
pub fn ip_address() -> Validator {
    matches("an IP address", |text| text.parse::<std::net::IpAddr>().is_ok())
}

/// A network as `ADDRESS/BITS` whose address is its first one.
pub fn cidr() -> Validator {
    matches("a network such as 10.1.0.0/16", is_network)
}

fn is_network(text: &str) -> bool {
    let Some((address, bits)) = text.split_once('/') else { return false };
    let host_bits_are_zero =
        |all: u128, width: u32, bits: u32| bits <= width && all.checked_shl(128 - width + bits).unwrap_or(0) == 0;
    match (address.parse(), bits.parse()) {
        (Ok(std::net::IpAddr::V4(v4)), Ok(bits)) => host_bits_are_zero(v4.to_bits().into(), 32, bits),
        (Ok(std::net::IpAddr::V6(v6)), Ok(bits)) => host_bits_are_zero(v6.to_bits(), 128, bits),
        _ => false,
    }
}

/// A time as RFC 3339 writes it.
pub fn rfc3339() -> Validator {
    matches("a time such as 2026-11-20T10:05:00Z", |text| text.parse::<jiff::Timestamp>().is_ok())
}

/// The elements of a list, set, tuple or map with their paths; elements of a set have none of their own.
fn parts(value: &Value) -> Box<dyn Iterator<Item = (Path, &Value)> + '_> {
    match value.inner() {
        Value::List(items) | Value::Tuple(items) => {
            Box::new(items.iter().enumerate().map(|(i, item)| (Path::root().index(i), item)))
        }
        Value::Set(items) => Box::new(items.iter().map(|item| (Path::root(), item))),
        Value::Map(map) => Box::new(map.iter().map(|(key, item)| (Path::root().key(key), item))),
        _ => Box::new(std::iter::empty()),
    }
}

/// A value in a message.
pub(super) fn shown(value: &Value) -> String {
    match value.inner() {
        Value::String(text) => format!("{text:?}"),
        Value::Number(number) => number.to_string(),
        Value::Bool(flag) => flag.to_string(),
        other => other.kind().to_owned(),
    }
}
