//! Fitting a value to a type: what a provider builds naturally (lists, maps) becomes what the type
//! says (sets, objects), without ever changing a known value's meaning.

use super::{ConvertError, Object, Step, Type, Value};

/// Fits `value` to `ty`.
///
/// # Errors
/// The value is of another type; the path leads to it.
pub(crate) fn conform(value: Value, ty: &Type) -> Result<Value, ConvertError> {
    if let Type::Dynamic = ty {
        return Ok(dynamic(value));
    }
    let value = match value {
        Value::Dynamic(_, inner) => *inner,
        other => other,
    };
    match (ty, value) {
        (_, value @ (Value::Null | Value::Unknown | Value::Refined(_)))
        | (Type::Bool, value @ Value::Bool(_))
        | (Type::Number, value @ Value::Number(_))
        | (Type::String, value @ Value::String(_)) => Ok(value),
        (Type::List(element), Value::List(items) | Value::Tuple(items)) => {
            elements(items, element, true).map(Value::List)
        }
        (Type::Set(element), Value::Set(items) | Value::List(items) | Value::Tuple(items)) => {
            elements(items, element, false).map(unique).map(Value::Set)
        }
        (Type::Tuple(types), Value::Tuple(items) | Value::List(items)) => tuple(items, types),
        (Type::Map(element), Value::Map(map)) => entries(map, element),
        (Type::Map(element), Value::Object(object)) => entries(object, element),
        (Type::Object(..), Value::Object(object)) => attributes(object, ty),
        (Type::Object(..), Value::Map(map)) => attributes(map.into(), ty),
        (_, other) => Err(ConvertError::new(format!("expected {}, got {}", name_of(ty), other.kind()))),
    }
}

fn dynamic(value: Value) -> Value {
    match value {
        value @ (Value::Null | Value::Unknown | Value::Refined(_) | Value::Dynamic(..)) => value,
        value => Value::Dynamic(Box::new(Type::of(&value)), Box::new(value)),
    }
}

fn elements(items: Vec<Value>, ty: &Type, in_order: bool) -> Result<Vec<Value>, ConvertError> {
    items
        .into_iter()
        .zip(0_i64..)
        .map(|(item, index)| {
            conform(item, ty).map_err(|error| if in_order { error.under(Step::Index(index)) } else { error })
        })
        .collect()
}

/// Terraform refuses a set that holds a value twice. Unknown elements may still become different.
fn unique(mut items: Vec<Value>) -> Vec<Value> {
    items.sort();
    items.dedup_by(|a, b| a == b && a.is_wholly_known());
    items
}

fn tuple(items: Vec<Value>, types: &[Type]) -> Result<Value, ConvertError> {
    if items.len() != types.len() {
        return Err(ConvertError::new(format!("expected {} elements, got {}", types.len(), items.len())));
    }
    items
        .into_iter()
        .zip(types)
        .zip(0_i64..)
        .map(|((item, ty), index)| conform(item, ty).map_err(|e| e.under(Step::Index(index))))
        .collect::<Result<_, _>>()
        .map(Value::Tuple)
}

fn entries(map: impl IntoIterator<Item = (String, Value)>, ty: &Type) -> Result<Value, ConvertError> {
    map.into_iter()
        .map(|(key, item)| match conform(item, ty) {
            Ok(item) => Ok((key, item)),
            Err(error) => Err(error.under(Step::Key(key))),
        })
        .collect::<Result<_, _>>()
        .map(Value::Map)
}

fn attributes(mut object: Object, ty: &Type) -> Result<Value, ConvertError> {
    let Type::Object(types, _) = ty else {
        return Err(ConvertError::new("expected an object type"));
    };
    let mut whole = Object::new();
    for (name, ty) in types {
        let value = object.remove(name).unwrap_or_default();
        let value = conform(value, ty).map_err(|error| error.under(Step::Attribute(name.clone())))?;
        whole.set(name.clone(), value);
    }
    match object.iter().next() {
        None => Ok(Value::Object(whole)),
        Some((name, _)) => Err(ConvertError::new(format!("there is no attribute {name:?}"))),
    }
}

fn name_of(ty: &Type) -> &'static str {
    match ty {
        Type::Bool => "a bool",
        Type::Number => "a number",
        Type::String => "a string",
        Type::Dynamic => "any value",
        Type::List(_) => "a list",
        Type::Set(_) => "a set",
        Type::Map(_) => "a map",
        Type::Object(..) => "an object",
        Type::Tuple(_) => "a tuple",
    }
}
