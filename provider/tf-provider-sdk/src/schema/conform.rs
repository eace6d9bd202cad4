//! Bringing what a provider returns into the schema's exact shape.

use super::block::{Block, NestedBlock, Nesting};
use crate::value::{ConvertError, Object, Value, conform::conform};

impl Block {
    /// Fills what is missing (null for attributes, empty for blocks), turns lists into sets and
    /// maps into objects where the schema says so.
    ///
    /// # Errors
    /// A name that the schema doesn't have, or a value of another type, with its path.
    pub(crate) fn conform(&self, mut object: Object) -> Result<Object, ConvertError> {
        let mut whole = Object::new();
        for attribute in &self.attributes {
            let value = object.remove(&attribute.name).unwrap_or_default();
            let value = conform(value, &attribute.ty).map_err(|e| e.under(step(&attribute.name)))?;
            whole.set(attribute.name.clone(), value);
        }
        for nested in &self.blocks {
            let value = object.remove(&nested.name).unwrap_or_default();
            let value = nested.conform(value).map_err(|e| e.under(step(&nested.name)))?;
            whole.set(nested.name.clone(), value);
        }
        match object.iter().next() {
            None => Ok(whole),
            Some((name, _)) => {
                Err(ConvertError::new(format!("the provider set {name:?}, which its schema does not have")))
            }
        }
    }
}

impl NestedBlock {
    fn conform(&self, value: Value) -> Result<Value, ConvertError> {
        let body = |value: Value| match value {
            Value::Object(object) => self.block.conform(object).map(Value::Object),
            Value::Map(map) => self.block.conform(map.into()).map(Value::Object),
            value @ (Value::Unknown | Value::Refined(_)) => Ok(value),
            other => Err(ConvertError::new(format!("expected an object, got {}", other.kind()))),
        };
        let elements = |items: Vec<Value>, in_order: bool| {
            items
                .into_iter()
                .enumerate()
                .map(|(i, item)| body(item).map_err(|e| if in_order { e.under(index(i)) } else { e }))
                .collect::<Result<Vec<_>, _>>()
        };
        match (self.nesting, value) {
            (_, value @ (Value::Unknown | Value::Refined(_))) => Ok(value),
            (Nesting::Group, Value::Null) => body(Value::Object(Object::new())),
            (Nesting::Single, Value::Null) => Ok(Value::Null),
            (Nesting::Single | Nesting::Group, value) => body(value),
            (Nesting::List, Value::Null) => Ok(Value::List(Vec::new())),
            (Nesting::Set, Value::Null) => Ok(Value::Set(Vec::new())),
            (Nesting::Map, Value::Null) => Ok(Value::Map(std::collections::BTreeMap::new())),
            (Nesting::List, Value::List(items) | Value::Tuple(items)) => elements(items, true).map(Value::List),
            (Nesting::Set, Value::List(items) | Value::Set(items) | Value::Tuple(items)) => {
                elements(items, false).map(Value::Set)
            }
            (Nesting::Map, Value::Map(map)) => map
                .into_iter()
                .map(|(key, item)| {
                    let at = crate::value::Step::Key(key.clone());
                    body(item).map(|item| (key, item)).map_err(|e| e.under(at))
                })
                .collect::<Result<_, _>>()
                .map(Value::Map),
            (_, other) => Err(ConvertError::new(format!("expected the blocks {:?}, got {}", self.name, other.kind()))),
        }
    }
}

fn step(name: &str) -> crate::value::Step {
    crate::value::Step::Attribute(name.to_owned())
}

fn index(index: usize) -> crate::value::Step {
    crate::value::Step::Index(i64::try_from(index).unwrap_or(i64::MAX))
}
