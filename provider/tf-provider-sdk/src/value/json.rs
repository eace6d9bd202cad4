//! Values in JSON, as Terraform stores states. The type drives the decoder.
//!
//! Attributes that the type doesn't have are ignored: a state may come from a provider that still had
//! them. Scalars convert as Terraform's own decoder converts them. Depth is bounded by the JSON
//! parser and by [`DEPTH_MAX`].

use std::collections::BTreeMap;

use serde_json::Value as Json;

use super::{DEPTH_MAX, Object, Type, Value};

/// Bytes that are not a value of the expected type. The message never holds the value itself, which
/// may be secret.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct DecodeError(String);

impl DecodeError {
    pub(crate) fn new(message: impl Into<String>) -> Self {
        Self(message.into())
    }
}

/// Parses JSON text.
///
/// # Errors
/// Not JSON, or nested too deep.
pub(crate) fn parse(bytes: &[u8]) -> Result<Json, DecodeError> {
    serde_json::from_slice(bytes).map_err(|error| DecodeError::new(format!("not JSON at line {}", error.line())))
}

/// Decodes one value of type `ty`.
///
/// # Errors
/// JSON that is not such a value.
pub(crate) fn decode(json: &Json, ty: &Type) -> Result<Value, DecodeError> {
    value(json, ty, 0)
}

fn value(json: &Json, ty: &Type, depth: usize) -> Result<Value, DecodeError> {
    if depth > DEPTH_MAX {
        return Err(DecodeError::new("value nested too deep"));
    }
    match (ty, json) {
        (_, Json::Null) => Ok(Value::Null),
        (Type::Bool, Json::Bool(flag)) => Ok(Value::Bool(*flag)),
        (Type::Bool, Json::String(text)) => text.parse().map(Value::Bool).map_err(|_| unexpected("a bool", json)),
        (Type::Number, Json::Number(number)) => number_of(&number.to_string()),
        (Type::Number, Json::String(text)) => number_of(text),
        (Type::String, Json::String(text)) => Ok(Value::String(text.clone())),
        (Type::String, Json::Number(number)) => Ok(Value::String(number.to_string())),
        (Type::String, Json::Bool(flag)) => Ok(Value::String(flag.to_string())),
        (Type::List(element), Json::Array(items)) => elements(items, element, depth).map(Value::List),
        (Type::Set(element), Json::Array(items)) => elements(items, element, depth).map(Value::Set),
        (Type::Tuple(types), Json::Array(items)) if types.len() == items.len() => items
            .iter()
            .zip(types)
            .map(|(item, ty)| value(item, ty, depth + 1))
            .collect::<Result<_, _>>()
            .map(Value::Tuple),
        (Type::Map(element), Json::Object(map)) => map
            .iter()
            .map(|(key, item)| Ok((key.clone(), value(item, element, depth + 1)?)))
            .collect::<Result<_, _>>()
            .map(Value::Map),
        (Type::Object(types, _), Json::Object(map)) => object(map, types, depth),
        (Type::Dynamic, Json::Object(map)) => dynamic(map, depth),
        (ty, json) => Err(unexpected(&ty.to_json().to_string(), json)),
    }
}

fn number_of(text: &str) -> Result<Value, DecodeError> {
    text.parse().map(Value::Number).map_err(|_| DecodeError::new("not a number"))
}

fn elements(items: &[Json], ty: &Type, depth: usize) -> Result<Vec<Value>, DecodeError> {
    items.iter().map(|item| value(item, ty, depth + 1)).collect()
}

fn object(
    map: &serde_json::Map<String, Json>,
    types: &BTreeMap<String, Type>,
    depth: usize,
) -> Result<Value, DecodeError> {
    types
        .iter()
        .map(|(name, ty)| {
            let json = map.get(name).unwrap_or(&Json::Null);
            Ok((name.clone(), value(json, ty, depth + 1)?))
        })
        .collect::<Result<Object, _>>()
        .map(Value::Object)
}

fn dynamic(map: &serde_json::Map<String, Json>, depth: usize) -> Result<Value, DecodeError> {
    let (Some(ty), Some(inner)) = (map.get("type"), map.get("value")) else {
        return Err(DecodeError::new("a dynamic value lacks its type or value"));
    };
    let ty = Type::from_json(ty)?;
    Ok(match value(inner, &ty, depth + 1)? {
        value @ Value::Dynamic(..) => value,
        value => Value::Dynamic(Box::new(ty), Box::new(value)),
    })
}

fn unexpected(wanted: &str, json: &Json) -> DecodeError {
    let kind = match json {
        Json::Null => "null",
        Json::Bool(_) => "a bool",
        Json::Number(_) => "a number",
        Json::String(_) => "a string",
        Json::Array(_) => "an array",
        Json::Object(_) => "an object",
    };
    DecodeError::new(format!("expected {wanted}, got {kind}"))
}
