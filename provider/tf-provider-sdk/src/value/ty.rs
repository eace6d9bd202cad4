//! Types, and their JSON form in the protocol: `"string"`, `["list","string"]`,
//! `["object",{"a":"number"}]`, `["tuple",["bool"]]`, `"dynamic"`.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value as Json, json};

use super::json::DecodeError;
use super::{DEPTH_MAX, Value};

/// A type constraint.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Type {
    /// `bool`
    Bool,
    /// `number`
    Number,
    /// `string`
    String,
    /// Any type; the type travels with the value.
    Dynamic,
    /// `list(element)`
    List(Box<Type>),
    /// `set(element)`
    Set(Box<Type>),
    /// `map(element)`
    Map(Box<Type>),
    /// `object({...})`, and the names that may be left out in configuration.
    Object(BTreeMap<String, Type>, BTreeSet<String>),
    /// `tuple([...])`
    Tuple(Vec<Type>),
}

impl Type {
    /// `list(element)`
    pub fn list(element: Type) -> Self {
        Self::List(Box::new(element))
    }

    /// `set(element)`
    pub fn set(element: Type) -> Self {
        Self::Set(Box::new(element))
    }

    /// `map(element)`
    pub fn map(element: Type) -> Self {
        Self::Map(Box::new(element))
    }

    /// `object({...})`, with every attribute required.
    pub fn object<N: Into<String>>(attributes: impl IntoIterator<Item = (N, Type)>) -> Self {
        Self::Object(attributes.into_iter().map(|(name, ty)| (name.into(), ty)).collect(), BTreeSet::new())
    }

    /// The same object type, with these attributes optional: a configuration may leave them out, and
    /// their value is null then. Other types stay as they are.
    #[must_use]
    pub fn with_optional<N: Into<String>>(mut self, names: impl IntoIterator<Item = N>) -> Self {
        if let Self::Object(attributes, optional) = &mut self {
            optional.extend(names.into_iter().map(Into::into).filter(|name| attributes.contains_key(name)));
        }
        self
    }

    /// Encodes as the protocol's JSON.
    pub fn to_json(&self) -> Json {
        match self {
            Self::Bool => json!("bool"),
            Self::Number => json!("number"),
            Self::String => json!("string"),
            Self::Dynamic => json!("dynamic"),
            Self::List(element) => json!(["list", element.to_json()]),
            Self::Set(element) => json!(["set", element.to_json()]),
            Self::Map(element) => json!(["map", element.to_json()]),
            Self::Object(attributes, optional) => {
                let attributes: serde_json::Map<String, Json> =
                    attributes.iter().map(|(name, ty)| (name.clone(), ty.to_json())).collect();
                if optional.is_empty() {
                    json!(["object", attributes])
                } else {
                    json!(["object", attributes, optional])
                }
            }
            Self::Tuple(elements) => {
                json!(["tuple", elements.iter().map(Self::to_json).collect::<Vec<_>>()])
            }
        }
    }

    /// Decodes the protocol's JSON.
    ///
    /// # Errors
    /// Not such a type, or nested deeper than [`DEPTH_MAX`].
    pub fn from_json(json: &Json) -> Result<Self, DecodeError> {
        Self::parse(json, 0)
    }

    fn parse(json: &Json, depth: usize) -> Result<Self, DecodeError> {
        let unknown = || DecodeError::new("not a type");
        if depth > DEPTH_MAX {
            return Err(DecodeError::new("type nested too deep"));
        }
        let parts = match json {
            Json::String(name) => {
                return match name.as_str() {
                    "bool" => Ok(Self::Bool),
                    "number" => Ok(Self::Number),
                    "string" => Ok(Self::String),
                    "dynamic" => Ok(Self::Dynamic),
                    _ => Err(unknown()),
                };
            }
            Json::Array(parts) => parts,
            _ => return Err(unknown()),
        };
        let one = |inner: &Json| Self::parse(inner, depth + 1);
        match parts.as_slice() {
            [Json::String(kind), inner] if kind == "list" => Ok(Self::list(one(inner)?)),
            [Json::String(kind), inner] if kind == "set" => Ok(Self::set(one(inner)?)),
            [Json::String(kind), inner] if kind == "map" => Ok(Self::map(one(inner)?)),
            [Json::String(kind), Json::Array(inner)] if kind == "tuple" => {
                Ok(Self::Tuple(inner.iter().map(one).collect::<Result<_, _>>()?))
            }
            [Json::String(kind), Json::Object(inner), rest @ ..] if kind == "object" => {
                let attributes =
                    inner.iter().map(|(name, ty)| Ok((name.clone(), one(ty)?))).collect::<Result<_, DecodeError>>()?;
                let optional = match rest {
                    [] => BTreeSet::new(),
                    [Json::Array(names)] => names
                        .iter()
                        .map(|name| name.as_str().map(str::to_owned).ok_or_else(unknown))
                        .collect::<Result<_, _>>()?,
                    _ => return Err(unknown()),
                };
                Ok(Self::Object(attributes, optional))
            }
            _ => Err(unknown()),
        }
    }

    /// The type that a value has by itself, for a value that travels as dynamic. Collections take
    /// their first element's type; an empty collection, null and unknown have element type dynamic.
    pub fn of(value: &Value) -> Self {
        let first = |items: &mut dyn Iterator<Item = &Value>| items.next().map_or(Self::Dynamic, Self::of);
        match value {
            Value::Null | Value::Unknown | Value::Refined(_) => Self::Dynamic,
            Value::Bool(_) => Self::Bool,
            Value::Number(_) => Self::Number,
            Value::String(_) => Self::String,
            Value::List(items) => Self::list(first(&mut items.iter())),
            Value::Set(items) => Self::set(first(&mut items.iter())),
            Value::Map(map) => Self::map(first(&mut map.values())),
            Value::Object(object) => Self::object(object.iter().map(|(name, v)| (name.clone(), Self::of(v)))),
            Value::Tuple(items) => Self::Tuple(items.iter().map(Self::of).collect()),
            Value::Dynamic(ty, _) => (**ty).clone(),
        }
    }
}
