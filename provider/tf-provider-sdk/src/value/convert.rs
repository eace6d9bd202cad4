//! Between [`Value`] and Rust types: the two traits, their implementations for the usual types, and
//! [`model!`](crate::model) for structs.
//!
//! Null and unknown are never swallowed: a plain `T` refuses both, `Option<T>` takes null,
//! [`Attr<T>`] takes null and unknown.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::{Number, Object, Path, Step, Value};

/// A value that does not fit the Rust type asked for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{path}: {message}")]
pub struct ConvertError {
    /// Where, from the object that was converted.
    pub path: Path,
    /// What is wrong.
    pub message: String,
}

impl ConvertError {
    /// An error about the value itself.
    pub fn new(message: impl Into<String>) -> Self {
        Self { path: Path::root(), message: message.into() }
    }

    /// The same error seen from one step further out.
    #[must_use]
    pub fn under(mut self, step: Step) -> Self {
        self.path = Path::from_steps(vec![step]).join(&self.path);
        self
    }

    fn expected(what: &str, value: &Value) -> Self {
        Self::new(format!("expected {what}, got {}", value.kind()))
    }
}

/// A Rust type that can be read from a [`Value`].
pub trait FromValue: Sized {
    /// Reads it.
    ///
    /// # Errors
    /// The value is of another type or out of range; the path leads to the part to blame.
    fn from_value(value: &Value) -> Result<Self, ConvertError>;

    /// Reads it from an object's attributes; structs made with [`model!`](crate::model) avoid a copy.
    ///
    /// # Errors
    /// As [`FromValue::from_value`].
    fn from_object(object: &Object) -> Result<Self, ConvertError> {
        Self::from_value(&Value::Object(object.clone()))
    }
}

/// A Rust type that becomes a [`Value`].
///
/// `Vec` becomes a list and a map becomes a map; where the schema says set or object, the SDK converts.
pub trait IntoValue {
    /// Converts.
    fn into_value(self) -> Value;
}

/// An attribute's value that may be null or unknown: what a computed attribute is at plan time.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Attr<T> {
    /// Not set.
    #[default]
    Null,
    /// Known only after apply.
    Unknown,
    /// Known now.
    Known(T),
}

impl<T> Attr<T> {
    /// The value, if it is known and not null.
    pub fn known(&self) -> Option<&T> {
        match self {
            Self::Known(value) => Some(value),
            Self::Null | Self::Unknown => None,
        }
    }

    /// The value, if it is known and not null.
    pub fn into_known(self) -> Option<T> {
        match self {
            Self::Known(value) => Some(value),
            Self::Null | Self::Unknown => None,
        }
    }

    /// True for `Unknown`.
    pub fn is_unknown(&self) -> bool {
        matches!(self, Self::Unknown)
    }

    /// True for `Null`.
    pub fn is_null(&self) -> bool {
        matches!(self, Self::Null)
    }
}

impl<T> From<T> for Attr<T> {
    fn from(value: T) -> Self {
        Self::Known(value)
    }
}

impl<T> From<Option<T>> for Attr<T> {
    fn from(value: Option<T>) -> Self {
        value.map_or(Self::Null, Self::Known)
    }
}

impl<T: FromValue> FromValue for Attr<T> {
    fn from_value(value: &Value) -> Result<Self, ConvertError> {
        match value.inner() {
            Value::Null => Ok(Self::Null),
            Value::Unknown | Value::Refined(_) => Ok(Self::Unknown),
            known => T::from_value(known).map(Self::Known),
        }
    }
}

impl<T: IntoValue> IntoValue for Attr<T> {
    fn into_value(self) -> Value {
        match self {
            Self::Null => Value::Null,
            Self::Unknown => Value::Unknown,
            Self::Known(value) => value.into_value(),
        }
    }
}

impl<T: FromValue> FromValue for Option<T> {
    fn from_value(value: &Value) -> Result<Self, ConvertError> {
        match value.inner() {
            Value::Null => Ok(None),
            known => T::from_value(known).map(Some),
        }
    }
}

impl<T: IntoValue> IntoValue for Option<T> {
    fn into_value(self) -> Value {
        self.map_or(Value::Null, IntoValue::into_value)
    }
}

impl FromValue for Value {
    fn from_value(value: &Value) -> Result<Self, ConvertError> {
        Ok(value.clone())
    }
}

impl IntoValue for Value {
    fn into_value(self) -> Value {
        self
    }
}

impl FromValue for String {
    fn from_value(value: &Value) -> Result<Self, ConvertError> {
        value.as_str().map(str::to_owned).ok_or_else(|| ConvertError::expected("a string", value))
    }
}

impl FromValue for bool {
    fn from_value(value: &Value) -> Result<Self, ConvertError> {
        value.as_bool().ok_or_else(|| ConvertError::expected("a bool", value))
    }
}

impl FromValue for Number {
    fn from_value(value: &Value) -> Result<Self, ConvertError> {
        value.as_number().cloned().ok_or_else(|| ConvertError::expected("a number", value))
    }
}

/// The nearest `f64`; use [`Number`] where the exact value matters.
impl FromValue for f64 {
    fn from_value(value: &Value) -> Result<Self, ConvertError> {
        Number::from_value(value).map(|number| number.as_f64())
    }
}

macro_rules! integers {
    ($($int:ty),*) => {$(
        impl FromValue for $int {
            fn from_value(value: &Value) -> Result<Self, ConvertError> {
                let number = Number::from_value(value)?;
                number
                    .as_i128()
                    .and_then(|wide| <$int>::try_from(wide).ok())
                    .ok_or_else(|| ConvertError::new(format!(
                        "expected a whole number from {} to {}, got {number}", <$int>::MIN, <$int>::MAX
                    )))
            }
        }

        impl IntoValue for $int {
            fn into_value(self) -> Value {
                Value::Number(Number::from(self))
            }
        }
    )*};
}

integers!(i32, i64, u8, u16, u32, u64);

impl<T: FromValue> FromValue for Vec<T> {
    fn from_value(value: &Value) -> Result<Self, ConvertError> {
        let is_set = matches!(value.inner(), Value::Set(_));
        let elements = value.as_elements().ok_or_else(|| ConvertError::expected("a list or a set", value))?;
        elements
            .iter()
            .zip(0_i64..)
            .map(|(element, index)| {
                T::from_value(element).map_err(|error| {
                    // Elements of a set have no address: the error is about the set.
                    if is_set { ConvertError::new(error.to_string()) } else { error.under(Step::Index(index)) }
                })
            })
            .collect()
    }
}

impl<T: FromValue + Ord> FromValue for BTreeSet<T> {
    fn from_value(value: &Value) -> Result<Self, ConvertError> {
        Vec::from_value(value).map(|items| items.into_iter().collect())
    }
}

impl<T: FromValue> FromValue for BTreeMap<String, T> {
    fn from_value(value: &Value) -> Result<Self, ConvertError> {
        value
            .as_map()
            .ok_or_else(|| ConvertError::expected("a map", value))?
            .iter()
            .map(|(key, item)| {
                T::from_value(item).map(|item| (key.clone(), item)).map_err(|error| error.under(Step::Key(key.clone())))
            })
            .collect()
    }
}

impl FromValue for Object {
    fn from_value(value: &Value) -> Result<Self, ConvertError> {
        value.as_object().cloned().ok_or_else(|| ConvertError::expected("an object", value))
    }

    fn from_object(object: &Object) -> Result<Self, ConvertError> {
        Ok(object.clone())
    }
}

/// From a string such as `"90s"`, `"1h30m"` or `"250ms"`; see
/// [`parse_duration`](crate::schema::parse_duration).
impl FromValue for Duration {
    fn from_value(value: &Value) -> Result<Self, ConvertError> {
        let text = String::from_value(value)?;
        crate::schema::parse_duration(&text).map_err(ConvertError::new)
    }
}

impl IntoValue for &str {
    fn into_value(self) -> Value {
        Value::String(self.to_owned())
    }
}

impl IntoValue for String {
    fn into_value(self) -> Value {
        Value::String(self)
    }
}

impl IntoValue for &String {
    fn into_value(self) -> Value {
        Value::String(self.clone())
    }
}

impl IntoValue for bool {
    fn into_value(self) -> Value {
        Value::Bool(self)
    }
}

impl IntoValue for Number {
    fn into_value(self) -> Value {
        Value::Number(self)
    }
}

/// The shortest decimal that names this `f64`; a value that is not finite becomes null, since
/// Terraform has no such number.
impl IntoValue for f64 {
    fn into_value(self) -> Value {
        Number::from_f64(self).map_or(Value::Null, Value::Number)
    }
}

impl<T: IntoValue> IntoValue for Vec<T> {
    fn into_value(self) -> Value {
        Value::List(self.into_iter().map(IntoValue::into_value).collect())
    }
}

impl<T: IntoValue, const N: usize> IntoValue for [T; N] {
    fn into_value(self) -> Value {
        Value::List(self.into_iter().map(IntoValue::into_value).collect())
    }
}

impl<T: IntoValue> IntoValue for BTreeSet<T> {
    fn into_value(self) -> Value {
        Value::Set(self.into_iter().map(IntoValue::into_value).collect())
    }
}

impl<T: IntoValue> IntoValue for BTreeMap<String, T> {
    fn into_value(self) -> Value {
        Value::Map(self.into_iter().map(|(key, item)| (key, item.into_value())).collect())
    }
}

impl IntoValue for Object {
    fn into_value(self) -> Value {
        Value::Object(self)
    }
}

/// A field's name as an attribute's name: raw identifiers lose their `r#`.
#[doc(hidden)]
pub fn field_name(field: &'static str) -> &'static str {
    field.strip_prefix("r#").unwrap_or(field)
}

/// Declares structs that convert from and to objects, field by field, by name.
///
/// A field's type decides what it takes: `T` refuses null and unknown, `Option<T>` takes null,
/// [`Attr<T>`](crate::Attr) takes both (computed attributes). Nested blocks are `Vec<Inner>` (list,
/// set), `Option<Inner>` (single) or `BTreeMap<String, Inner>` (map). `r#type` is the attribute `type`.
///
/// ```
/// use tf_provider_sdk::{Attr, Object, model};
///
/// model! {
///     /// A disk.
///     #[derive(Debug, Clone, PartialEq)]
///     pub struct Disk {
///         pub path: String,
///         pub size_gib: Option<u64>,
///     }
///
///     #[derive(Debug, Clone, PartialEq)]
///     pub struct Machine {
///         pub id: Attr<String>,
///         pub disk: Vec<Disk>,
///     }
/// }
///
/// let disk = Disk { path: "/a".into(), size_gib: None };
/// let machine = Machine { id: Attr::Unknown, disk: vec![disk] };
/// let object = Object::encode(machine.clone())?;
/// assert_eq!(object.decode::<Machine>()?, machine);
/// # Ok::<(), tf_provider_sdk::ConvertError>(())
/// ```
#[macro_export]
macro_rules! model {
    ($(
        $(#[$meta:meta])*
        $vis:vis struct $name:ident {
            $( $(#[$field_meta:meta])* $field_vis:vis $field:ident : $ty:ty ),* $(,)?
        }
    )+) => {$(
        $(#[$meta])*
        $vis struct $name {
            $( $(#[$field_meta])* $field_vis $field: $ty, )*
        }

        impl $crate::FromValue for $name {
            fn from_value(value: &$crate::Value) -> ::std::result::Result<Self, $crate::ConvertError> {
                match value.as_object() {
                    Some(object) => <Self as $crate::FromValue>::from_object(object),
                    None => Err($crate::ConvertError::new(format!(
                        "expected an object, got {}", value.kind()
                    ))),
                }
            }

            fn from_object(object: &$crate::Object) -> ::std::result::Result<Self, $crate::ConvertError> {
                Ok(Self {
                    $( $field: object.get($crate::value::field_name(stringify!($field)))?, )*
                })
            }
        }

        impl $crate::IntoValue for $name {
            fn into_value(self) -> $crate::Value {
                $crate::Value::Object(
                    $crate::Object::new()
                    $( .with($crate::value::field_name(stringify!($field)), self.$field) )*
                )
            }
        }
    )+};
}
