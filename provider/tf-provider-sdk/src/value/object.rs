//! An object's attributes by name, with typed access whose errors carry the path.

use std::collections::BTreeMap;
use std::collections::btree_map;

use super::{ConvertError, FromValue, IntoValue, Path, Step, Value};

/// The attributes and nested blocks of a resource, a block, or an object-typed attribute.
///
/// Objects that the SDK hands to a provider hold every name of the schema, null where not set: a
/// missing name is a typing error in the provider and [`Object::get`] says so. Objects that a
/// provider returns may leave names out; the SDK fills them with null (or an empty list for blocks).
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Object(BTreeMap<String, Value>);

impl Object {
    /// Without attributes.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds an attribute, for building an object in one expression.
    #[must_use]
    pub fn with(mut self, name: impl Into<String>, value: impl IntoValue) -> Self {
        self.set(name, value);
        self
    }

    /// Sets an attribute and returns what was there.
    pub fn set(&mut self, name: impl Into<String>, value: impl IntoValue) -> Option<Value> {
        self.0.insert(name.into(), value.into_value())
    }

    /// The attribute as `T`.
    ///
    /// # Errors
    /// The value is of another type, is null or unknown where `T` can't say so (`Option<T>` takes
    /// null, [`Attr<T>`](super::Attr) takes both), or there is no such name.
    pub fn get<T: FromValue>(&self, name: &str) -> Result<T, ConvertError> {
        let value = self
            .0
            .get(name)
            .ok_or_else(|| ConvertError::new(format!("the provider has no attribute {name:?} here")))?;
        T::from_value(value).map_err(|error| error.under(Step::Attribute(name.to_owned())))
    }

    /// The raw value of an attribute.
    pub fn value(&self, name: &str) -> Option<&Value> {
        self.0.get(name)
    }

    /// The raw value of an attribute, for change.
    pub fn value_mut(&mut self, name: &str) -> Option<&mut Value> {
        self.0.get_mut(name)
    }

    /// The raw value at a path, such as `"disk[0].size_gib"`.
    pub fn at(&self, path: impl Into<Path>) -> Option<&Value> {
        let path = path.into();
        let (first, rest) = path.steps().split_first()?;
        let Step::Attribute(name) = first else {
            return None;
        };
        self.0.get(name)?.at(&Path::from_steps(rest.to_vec()))
    }

    /// True if the attribute is there and neither null nor unknown.
    pub fn is_known(&self, name: &str) -> bool {
        self.0.get(name).is_some_and(|v| !v.is_null() && !v.is_unknown())
    }

    /// True if the attribute is null or not there.
    pub fn is_null(&self, name: &str) -> bool {
        self.0.get(name).is_none_or(Value::is_null)
    }

    /// True if the attribute is unknown.
    pub fn is_unknown(&self, name: &str) -> bool {
        self.0.get(name).is_some_and(Value::is_unknown)
    }

    /// The whole object as `T`, most often a struct made with [`model!`](crate::model).
    ///
    /// # Errors
    /// As [`Object::get`], with the path of the attribute.
    pub fn decode<T: FromValue>(&self) -> Result<T, ConvertError> {
        T::from_object(self)
    }

    /// An object from a struct made with [`model!`](crate::model).
    ///
    /// # Errors
    /// `T` does not become an object.
    pub fn encode<T: IntoValue>(value: T) -> Result<Self, ConvertError> {
        match value.into_value() {
            Value::Object(object) => Ok(object),
            other => Err(ConvertError::new(format!("expected an object, got {}", other.kind()))),
        }
    }

    /// Names and values, by name.
    pub fn iter(&self) -> btree_map::Iter<'_, String, Value> {
        self.0.iter()
    }

    /// The values, for change.
    pub fn values_mut(&mut self) -> btree_map::ValuesMut<'_, String, Value> {
        self.0.values_mut()
    }

    /// Removes an attribute.
    pub fn remove(&mut self, name: &str) -> Option<Value> {
        self.0.remove(name)
    }

    /// How many attributes there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// True without attributes.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// True if nothing in it is unknown.
    pub fn is_wholly_known(&self) -> bool {
        self.0.values().all(Value::is_wholly_known)
    }
}

impl FromIterator<(String, Value)> for Object {
    fn from_iter<I: IntoIterator<Item = (String, Value)>>(iter: I) -> Self {
        Self(iter.into_iter().collect())
    }
}

impl IntoIterator for Object {
    type Item = (String, Value);
    type IntoIter = btree_map::IntoIter<String, Value>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.into_iter()
    }
}

impl<'a> IntoIterator for &'a Object {
    type Item = (&'a String, &'a Value);
    type IntoIter = btree_map::Iter<'a, String, Value>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.iter()
    }
}

impl From<BTreeMap<String, Value>> for Object {
    fn from(map: BTreeMap<String, Value>) -> Self {
        Self(map)
    }
}
