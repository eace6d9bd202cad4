//! Values and types as Terraform knows them, and the way to and from Rust.
//!
//! [`Value`] is what travels; [`Type`] says how to read it; [`Object`] is a value's attributes by
//! name, with typed access; [`Path`] points into it. `msgpack` and `json` are the two encodings:
//! both are bounded in depth and in memory, and answer hostile bytes with an error.

pub(crate) mod conform;
pub(crate) mod convert;
pub(crate) mod json;
pub(crate) mod msgpack;
mod number;
mod object;
mod path;
mod refinement;
mod ty;

use std::cmp::Ordering;
use std::collections::BTreeMap;

pub use convert::{Attr, ConvertError, FromValue, IntoValue};
pub use json::DecodeError;
pub use number::{Number, ParseNumberError};
pub use object::Object;
pub use path::{Path, Step};
pub use refinement::Refinement;
pub use ty::Type;

#[doc(hidden)]
pub use convert::field_name;

/// How deep values and types may nest in what is decoded.
pub const DEPTH_MAX: usize = 64;

/// A Terraform value.
///
/// Equality is exact: sets compare whatever their order, numbers by their mathematical value, and
/// `Unknown` equals `Unknown` (so that a plan can be compared with a state).
///
/// ```
/// use tf_provider_sdk::{Object, Value};
///
/// let disk = Object::new().with("path", "/dev/sdb").with("size_gib", 20_u64).with("serial", Value::Unknown);
/// assert_eq!(disk.get::<u64>("size_gib"), Ok(20));
/// assert!(disk.is_unknown("serial") && disk.get::<String>("serial").is_err());
/// assert_eq!(disk.at("path").and_then(Value::as_str), Some("/dev/sdb"));
/// ```
#[derive(Debug, Clone, Default)]
pub enum Value {
    /// Not set.
    #[default]
    Null,
    /// Not known until apply.
    Unknown,
    /// Not known until apply, except for what its refinement says.
    Refined(Box<Refinement>),
    /// `true` or `false`.
    Bool(bool),
    /// An exact number.
    Number(Number),
    /// A string.
    String(String),
    /// A list: ordered, one element type.
    List(Vec<Value>),
    /// A set: the order means nothing.
    Set(Vec<Value>),
    /// A map: string keys, one element type.
    Map(BTreeMap<String, Value>),
    /// An object: named attributes, each with its own type.
    Object(Object),
    /// A tuple: ordered, each element with its own type.
    Tuple(Vec<Value>),
    /// A value whose type travels with it.
    Dynamic(Box<Type>, Box<Value>),
}

impl Value {
    /// True for `Null`, also inside `Dynamic`.
    pub fn is_null(&self) -> bool {
        matches!(self.inner(), Self::Null)
    }

    /// True for `Unknown` itself, refined or not; see [`Value::is_wholly_known`] for what is inside.
    pub fn is_unknown(&self) -> bool {
        matches!(self.inner(), Self::Unknown | Self::Refined(_))
    }

    /// True if nothing in it is unknown.
    pub fn is_wholly_known(&self) -> bool {
        self.first_unknown(&Path::root()).is_none()
    }

    /// The value behind `Dynamic`, or the value itself.
    pub fn inner(&self) -> &Value {
        match self {
            Self::Dynamic(_, value) => value.inner(),
            other => other,
        }
    }

    /// What this is, for a person: `"a string"`.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Null => "null",
            Self::Unknown | Self::Refined(_) => "a value that is not known yet",
            Self::Bool(_) => "a bool",
            Self::Number(_) => "a number",
            Self::String(_) => "a string",
            Self::List(_) => "a list",
            Self::Set(_) => "a set",
            Self::Map(_) => "a map",
            Self::Object(_) => "an object",
            Self::Tuple(_) => "a tuple",
            Self::Dynamic(_, value) => value.kind(),
        }
    }

    /// The string, if it is one.
    pub fn as_str(&self) -> Option<&str> {
        match self.inner() {
            Self::String(text) => Some(text),
            _ => None,
        }
    }

    /// The number, if it is one.
    pub fn as_number(&self) -> Option<&Number> {
        match self.inner() {
            Self::Number(number) => Some(number),
            _ => None,
        }
    }

    /// The bool, if it is one.
    pub fn as_bool(&self) -> Option<bool> {
        match self.inner() {
            Self::Bool(flag) => Some(*flag),
            _ => None,
        }
    }

    /// The elements of a list, set or tuple.
    pub fn as_elements(&self) -> Option<&[Value]> {
        match self.inner() {
            Self::List(items) | Self::Set(items) | Self::Tuple(items) => Some(items),
            _ => None,
        }
    }

    /// The object, if it is one.
    pub fn as_object(&self) -> Option<&Object> {
        match self.inner() {
            Self::Object(object) => Some(object),
            _ => None,
        }
    }

    /// The entries of a map.
    pub fn as_map(&self) -> Option<&BTreeMap<String, Value>> {
        match self.inner() {
            Self::Map(map) => Some(map),
            _ => None,
        }
    }

    /// The value at `path`. `None` where the path leads nowhere; an unknown or null on the way is
    /// returned in the place of what lies below it.
    pub fn at(&self, path: &Path) -> Option<&Value> {
        let mut here = self;
        for step in path.steps() {
            here = match (here.inner(), step) {
                (Self::Null | Self::Unknown | Self::Refined(_), _) => return Some(here.inner()),
                (Self::Object(object), Step::Attribute(name)) => object.value(name)?,
                (Self::Map(map), Step::Key(key)) => map.get(key)?,
                (Self::List(items) | Self::Set(items) | Self::Tuple(items), Step::Index(index)) => {
                    items.get(usize::try_from(*index).ok()?)?
                }
                _ => return None,
            };
        }
        Some(here)
    }

    /// The path of the first unknown in it, below `base`. A path stops at a set, whose elements
    /// have no address.
    pub(crate) fn first_unknown(&self, base: &Path) -> Option<Path> {
        match self {
            Self::Unknown | Self::Refined(_) => Some(base.clone()),
            Self::Null | Self::Bool(_) | Self::Number(_) | Self::String(_) => None,
            Self::List(items) | Self::Tuple(items) => {
                items.iter().enumerate().find_map(|(i, item)| item.first_unknown(&base.index(i)))
            }
            Self::Set(items) => items.iter().find_map(|item| item.first_unknown(base)),
            Self::Map(map) => map.iter().find_map(|(key, item)| item.first_unknown(&base.key(key))),
            Self::Object(object) => object.iter().find_map(|(name, item)| item.first_unknown(&base.attr(name))),
            Self::Dynamic(_, value) => value.first_unknown(base),
        }
    }

    /// Replaces every unknown with null, for a state that is saved after a failure.
    pub(crate) fn unknown_to_null(&mut self) {
        match self {
            Self::Unknown | Self::Refined(_) => *self = Self::Null,
            Self::Null | Self::Bool(_) | Self::Number(_) | Self::String(_) => {}
            Self::List(items) | Self::Set(items) | Self::Tuple(items) => {
                items.iter_mut().for_each(Self::unknown_to_null);
            }
            Self::Map(map) => map.values_mut().for_each(Self::unknown_to_null),
            Self::Object(object) => object.values_mut().for_each(Self::unknown_to_null),
            Self::Dynamic(_, value) => value.unknown_to_null(),
        }
    }

    fn rank(&self) -> u8 {
        match self {
            Self::Null => 0,
            Self::Unknown => 1,
            Self::Bool(_) => 2,
            Self::Number(_) => 3,
            Self::String(_) => 4,
            Self::List(_) => 5,
            Self::Set(_) => 6,
            Self::Map(_) => 7,
            Self::Object(_) => 8,
            Self::Tuple(_) => 9,
            Self::Dynamic(..) => 10,
            Self::Refined(_) => 11,
        }
    }
}

impl PartialEq for Value {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Value {}

impl PartialOrd for Value {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// A total order without meaning to a person: it exists so that sets can be compared as sets in
/// n log n, where a comparison pair by pair would let a large set stall the provider.
impl Ord for Value {
    fn cmp(&self, other: &Self) -> Ordering {
        match (self, other) {
            (Self::Bool(a), Self::Bool(b)) => a.cmp(b),
            (Self::Number(a), Self::Number(b)) => a.cmp(b),
            (Self::String(a), Self::String(b)) => a.cmp(b),
            (Self::List(a), Self::List(b)) | (Self::Tuple(a), Self::Tuple(b)) => a.cmp(b),
            (Self::Set(a), Self::Set(b)) => {
                if a.len() != b.len() {
                    return a.len().cmp(&b.len());
                }
                let (mut a, mut b): (Vec<_>, Vec<_>) = (a.iter().collect(), b.iter().collect());
                a.sort();
                b.sort();
                a.cmp(&b)
            }
            (Self::Map(a), Self::Map(b)) => a.cmp(b),
            (Self::Object(a), Self::Object(b)) => a.cmp(b),
            (Self::Refined(a), Self::Refined(b)) => a.cmp(b),
            (Self::Dynamic(ta, a), Self::Dynamic(tb, b)) => ta.cmp(tb).then_with(|| a.cmp(b)),
            _ => self.rank().cmp(&other.rank()),
        }
    }
}

#[cfg(test)]
mod tests;
