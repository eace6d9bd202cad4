//! Between tfplugin5 messages and the SDK's own types.

use std::collections::HashMap;
use std::time::{SystemTime, UNIX_EPOCH};

use super::tfplugin5 as pb;
use crate::core::context::{Deferral, Private};
use crate::diagnostic::{Diagnostic, Diagnostics, Severity};
use crate::function::{FunctionDefinition, FunctionError, FunctionParameter};
use crate::schema::{Attribute, Block, IdentitySchema, NestedBlock, Nesting, Schema};
use crate::value::{DecodeError, Object, Path, Step, Type, Value, json, msgpack};

/// Decodes a value: msgpack, or JSON where that is empty; neither is null.
pub(super) fn value(message: Option<&pb::DynamicValue>, ty: &Type) -> Result<Value, Diagnostics> {
    let Some(message) = message else {
        return Ok(Value::Null);
    };
    let decoded = if !message.msgpack.is_empty() {
        msgpack::decode(&message.msgpack, ty)
    } else if !message.json.is_empty() {
        json::parse(&message.json).and_then(|json| json::decode(&json, ty))
    } else {
        Ok(Value::Null)
    };
    decoded.map_err(|error| malformed(&error))
}

/// Decodes an object of this schema, or null.
pub(super) fn object(message: Option<&pb::DynamicValue>, schema: &Schema) -> Result<Option<Object>, Diagnostics> {
    match value(message, &schema.value_type())? {
        Value::Object(object) => Ok(Some(object)),
        Value::Null => Ok(None),
        other => Err(malformed(&DecodeError::new(format!("expected an object, got {}", other.kind())))),
    }
}

/// Decodes a configuration: null is an empty one.
pub(super) fn config(message: Option<&pb::DynamicValue>, schema: &Schema) -> Result<Object, Diagnostics> {
    match object(message, schema)? {
        Some(object) => Ok(object),
        None => Ok(schema.root().conform(Object::new())?),
    }
}

/// Encodes a value as msgpack.
pub(super) fn dynamic(value: &Value) -> pb::DynamicValue {
    pb::DynamicValue { msgpack: msgpack::encode(value), json: Vec::new() }
}

/// Encodes an object, or null.
pub(super) fn dynamic_object(object: Option<Object>) -> Option<pb::DynamicValue> {
    Some(dynamic(&object.map_or(Value::Null, Value::Object)))
}

/// Encodes an identity.
pub(super) fn identity(identity: Option<Value>) -> Option<pb::ResourceIdentityData> {
    identity.map(|value| pb::ResourceIdentityData { identity_data: Some(dynamic(&value)) })
}

fn malformed(error: &DecodeError) -> Diagnostics {
    Diagnostic::from_error("Cannot read a value from Terraform", error).into()
}

/// Decodes private data. Bytes that are not ours (a state that another provider wrote) are dropped.
pub(super) fn private(bytes: &[u8]) -> Private {
    if bytes.is_empty() {
        return Private::new();
    }
    serde_json::from_slice(bytes).unwrap_or_else(|_| {
        tracing::warn!("private data in the state is not this provider's: ignored");
        Private::new()
    })
}

/// Encodes private data; none is no bytes.
pub(super) fn private_bytes(private: &Private) -> Vec<u8> {
    if private.is_empty() {
        return Vec::new();
    }
    serde_json::to_vec(private).unwrap_or_default()
}

/// Encodes diagnostics, in order.
pub(super) fn diagnostics(list: Diagnostics) -> Vec<pb::Diagnostic> {
    list.into_iter().map(diagnostic).collect()
}

fn diagnostic(diagnostic: Diagnostic) -> pb::Diagnostic {
    let severity = match diagnostic.severity {
        Severity::Error => pb::diagnostic::Severity::Error,
        Severity::Warning => pb::diagnostic::Severity::Warning,
    };
    pb::Diagnostic {
        severity: severity.into(),
        summary: diagnostic.summary,
        detail: diagnostic.detail,
        attribute: diagnostic.attribute.as_ref().map(path),
    }
}

/// Encodes a path.
pub(super) fn path(path: &Path) -> pb::AttributePath {
    use pb::attribute_path::step::Selector;
    let steps = path.steps().iter().map(|step| pb::attribute_path::Step {
        selector: Some(match step {
            Step::Attribute(name) => Selector::AttributeName(name.clone()),
            Step::Key(key) => Selector::ElementKeyString(key.clone()),
            Step::Index(index) => Selector::ElementKeyInt(*index),
        }),
    });
    pb::AttributePath { steps: steps.collect() }
}

/// Encodes a function's error.
pub(super) fn function_error(error: FunctionError) -> pb::FunctionError {
    pb::FunctionError {
        text: error.message,
        function_argument: error.argument.and_then(|index| i64::try_from(index).ok()),
    }
}

/// Encodes a schema.
pub(super) fn schema(schema: &Schema) -> pb::Schema {
    pb::Schema { version: schema.version, block: Some(block(schema.root(), schema.version)) }
}

/// Encodes schemas by name.
pub(super) fn schemas<'a>(entries: impl IntoIterator<Item = (&'a String, &'a Schema)>) -> HashMap<String, pb::Schema> {
    entries.into_iter().map(|(name, entry)| (name.clone(), schema(entry))).collect()
}

fn block(block: &Block, version: i64) -> pb::schema::Block {
    pb::schema::Block {
        version,
        attributes: block.attributes.iter().map(attribute).collect(),
        block_types: block.blocks.iter().map(nested).collect(),
        description: block.description.clone(),
        description_kind: pb::StringKind::Markdown.into(),
        deprecated: block.deprecated.is_some(),
        deprecation_message: block.deprecated.clone().unwrap_or_default(),
    }
}

fn attribute(attribute: &Attribute) -> pb::schema::Attribute {
    pb::schema::Attribute {
        name: attribute.name.clone(),
        r#type: type_bytes(&attribute.ty),
        description: attribute.description.clone(),
        required: attribute.required,
        optional: attribute.is_optional(),
        computed: attribute.computed,
        sensitive: attribute.sensitive,
        description_kind: pb::StringKind::Markdown.into(),
        deprecated: attribute.deprecated.is_some(),
        write_only: attribute.write_only,
        deprecation_message: attribute.deprecated.clone().unwrap_or_default(),
    }
}

fn nested(nested: &NestedBlock) -> pb::schema::NestedBlock {
    use pb::schema::nested_block::NestingMode;
    // What Terraform wants of the counts: single has both 0 or both 1, map has none.
    let (nesting, min, max) = match nested.nesting {
        Nesting::Single => (NestingMode::Single, nested.min.min(1), nested.min.min(1)),
        Nesting::Group => (NestingMode::Group, 0, 0),
        Nesting::List => (NestingMode::List, nested.min, nested.max),
        Nesting::Set => (NestingMode::Set, nested.min, nested.max),
        Nesting::Map => (NestingMode::Map, 0, 0),
    };
    pb::schema::NestedBlock {
        type_name: nested.name.clone(),
        block: Some(block(&nested.block, 0)),
        nesting: nesting.into(),
        min_items: min.into(),
        max_items: max.into(),
    }
}

/// Encodes an identity's schema.
pub(super) fn identity_schema(schema: &IdentitySchema) -> pb::ResourceIdentitySchema {
    use pb::resource_identity_schema::IdentityAttribute;
    let attributes = schema.attributes.iter().map(|a| IdentityAttribute {
        name: a.name.clone(),
        r#type: type_bytes(&a.ty),
        required_for_import: a.required,
        optional_for_import: !a.required,
        description: a.description.clone(),
    });
    pb::ResourceIdentitySchema { version: schema.version, identity_attributes: attributes.collect() }
}

/// Encodes a function's signature.
pub(super) fn function(definition: FunctionDefinition) -> pb::Function {
    pb::Function {
        parameters: definition.parameters.into_iter().map(parameter).collect(),
        variadic_parameter: definition.variadic.map(parameter),
        r#return: Some(pb::function::Return { r#type: type_bytes(&definition.returns) }),
        summary: definition.summary,
        description: definition.description,
        description_kind: pb::StringKind::Markdown.into(),
        deprecation_message: definition.deprecated.unwrap_or_default(),
    }
}

fn parameter(parameter: FunctionParameter) -> pb::function::Parameter {
    pb::function::Parameter {
        r#type: type_bytes(&parameter.ty),
        name: parameter.name,
        allow_null_value: parameter.allow_null,
        allow_unknown_values: false,
        description: parameter.description,
        description_kind: pb::StringKind::Markdown.into(),
    }
}

fn type_bytes(ty: &Type) -> Vec<u8> {
    ty.to_json().to_string().into_bytes()
}

/// Encodes why something has to wait.
pub(super) fn deferred(why: Option<Deferral>) -> Option<pb::Deferred> {
    use pb::deferred::Reason;
    let reason = match why? {
        Deferral::ConfigUnknown => Reason::ResourceConfigUnknown,
        Deferral::ProviderConfigUnknown => Reason::ProviderConfigUnknown,
        Deferral::AbsentPrerequisite => Reason::AbsentPrereq,
    };
    Some(pb::Deferred { reason: reason.into() })
}

/// Whether Terraform accepts a deferral.
pub(super) fn may_defer(capabilities: Option<pb::ClientCapabilities>) -> bool {
    capabilities.is_some_and(|capabilities| capabilities.deferral_allowed)
}

/// Encodes a time. One before 1970 is due at once anyway, so it becomes 1970.
pub(super) fn timestamp(time: SystemTime) -> prost_types::Timestamp {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    prost_types::Timestamp {
        seconds: i64::try_from(since.as_secs()).unwrap_or(i64::MAX),
        nanos: i32::try_from(since.subsec_nanos()).unwrap_or_default(),
    }
}

#[cfg(test)]
mod tests;
