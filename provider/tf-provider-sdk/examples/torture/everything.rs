//! `torture_everything`: one attribute of every type, each with a computed copy of it, and blocks of
//! every nesting inside blocks of every nesting.

use std::time::Duration;

use serde_json::Value as Json;
use tf_provider_sdk::{
    Attribute, Block, Context, CreateRequest, Diagnostics, IdentitySchema, MoveRequest, NestedBlock, Object, Resource,
    Result, Schema, Timeouts, Type, UpdateRequest, Value, async_trait, import_by_id, modify, validate,
};

use super::Store;

/// The attributes that are there twice: `NAME` as configured, and `NAME_again`, known after apply.
pub(crate) fn types() -> Vec<(&'static str, Type)> {
    use Type::{Bool, Dynamic, Number, String};
    let object = || Type::object([("text", String), ("number", Number), ("flag", Bool)]);
    vec![
        ("bool", Bool),
        ("number", Number),
        ("string", String),
        ("dynamic", Dynamic),
        ("list_string", Type::list(String)),
        ("list_number", Type::list(Number)),
        ("list_list", Type::list(Type::list(Bool))),
        ("list_object", Type::list(object())),
        ("set_string", Type::set(String)),
        ("set_number", Type::set(Number)),
        ("set_object", Type::set(object())),
        ("map_string", Type::map(String)),
        ("map_set", Type::map(Type::set(Number))),
        ("map_object", Type::map(object())),
        ("object", object()),
        ("tuple", Type::Tuple(vec![String, Number, Bool])),
        ("deep", Type::list(Type::map(Type::object([("a", Type::set(Type::list(Number)))])))),
    ]
}

fn body(inner: bool) -> Block {
    let block = Block::new()
        .attribute(Attribute::string("text").optional())
        .attribute(Attribute::number("number").default(7_u64))
        .attribute(Attribute::string("made").computed().use_state_for_unknown());
    if !inner {
        return block;
    }
    block
        .block(NestedBlock::single("one", body(false)))
        .block(NestedBlock::list("many", body(false)))
        .block(NestedBlock::set("bag", body(false)))
        .block(NestedBlock::map("named", body(false)))
}

fn schema() -> Schema {
    let schema = Schema::new()
        .version(2)
        .attribute(Attribute::id())
        .attribute(Attribute::string("name").required().requires_replace().validate(validate::length(1, 60)))
        .attribute(Attribute::string("defaulted").default("by default"))
        .attribute(Attribute::string("derived").default_from(|block| match block.value("name") {
            Some(name) if name.is_unknown() => Value::Unknown,
            Some(Value::String(name)) => Value::String(format!("derived from {name}")),
            _ => Value::Null,
        }))
        .attribute(Attribute::string("duration").optional().keep_equivalent(|a, b| {
            let time =
                |value: &Value| value.as_str().and_then(|text| tf_provider_sdk::schema::parse_duration(text).ok());
            time(a).is_some() && time(a) == time(b)
        }))
        .attribute(
            Attribute::number("secret_length").computed().modify(modify::use_state_unless_changed(["secret_version"])),
        )
        .write_only(Attribute::string("secret").optional());
    let schema = types().into_iter().fold(schema, |schema, (name, ty)| {
        schema
            .attribute(Attribute::new(name, ty.clone()).optional())
            .attribute(Attribute::new(format!("{name}_again"), ty).computed())
    });
    schema
        .block(NestedBlock::single("one", body(true)))
        .block(NestedBlock::group("group", body(true)))
        .block(NestedBlock::list("many", body(true)))
        .block(NestedBlock::set("bag", body(true)))
        .block(NestedBlock::map("named", body(true)))
        .timeouts(Timeouts::new().create(Duration::from_secs(60)))
}

/// Fills in what the provider decides: copies, and a serial number for whatever was made here.
fn complete(state: &mut Object, secret: Option<String>) -> Result<()> {
    let name: String = state.get("name")?;
    state.set("id", format!("thing-{name}"));
    for (name, _) in types() {
        let value = state.value(name).cloned().unwrap_or_default();
        state.set(format!("{name}_again"), value);
    }
    if let Some(secret) = secret {
        state.set("secret_length", u64::try_from(secret.chars().count()).unwrap_or_default());
    } else if state.is_unknown("secret_length") {
        state.set("secret_length", Value::Null);
    }
    for nested in ["one", "group", "many", "bag", "named"] {
        if let Some(value) = state.value_mut(nested) {
            make(value);
        }
    }
    Ok(())
}

fn make(value: &mut Value) {
    match value {
        Value::List(items) | Value::Set(items) => items.iter_mut().for_each(make),
        Value::Map(map) => map.values_mut().for_each(make),
        Value::Object(object) => {
            if object.is_unknown("made") {
                let text = object.value("text").and_then(Value::as_str).unwrap_or("nothing").to_owned();
                object.set("made", format!("made for {text}"));
            }
            object.values_mut().for_each(make);
        }
        _ => {}
    }
}

#[derive(Debug)]
pub(crate) struct Everything;

#[async_trait]
impl Resource<Store> for Everything {
    fn type_name(&self) -> &str {
        "torture_everything"
    }

    fn schema(&self) -> Schema {
        schema()
    }

    fn identity_schema(&self) -> Option<IdentitySchema> {
        Some(IdentitySchema::new().version(1).required("id", Type::String, "The id.").optional(
            "zones",
            Type::list(Type::String),
            "Where it is.",
        ))
    }

    fn identity(&self, state: &Object) -> Option<Object> {
        Some(Object::new().with("id", state.value("id")?.clone()))
    }

    async fn create(&self, store: &Store, cx: &Context, request: CreateRequest) -> Result<Object> {
        let mut state = request.plan.clone();
        complete(&mut state, request.write_only("secret")?)?;
        cx.set_private("made", &state.get::<String>("id")?)?;
        store.put(&state.get::<String>("id")?, &state)?;
        Ok(state)
    }

    async fn read(&self, store: &Store, cx: &Context, state: Object) -> Result<Option<Object>> {
        let id: String = state.get("id")?;
        if let Some(made) = cx.private::<String>("made")
            && made != id
        {
            return Err(Diagnostics::error("Wrong private data", format!("{made} came with {id}.")));
        }
        let Some(mut found) = store.get(&id, &schema())? else { return Ok(None) };
        // The store doesn't know it.
        found.set("timeouts", state.value("timeouts").cloned().unwrap_or_default());
        Ok(Some(found))
    }

    async fn update(&self, store: &Store, _: &Context, request: UpdateRequest) -> Result<Object> {
        let mut state = request.plan.clone();
        complete(&mut state, request.write_only("secret")?)?;
        store.put(&state.get::<String>("id")?, &state)?;
        Ok(state)
    }

    async fn delete(&self, store: &Store, _: &Context, state: Object) -> Result<()> {
        store.remove(&state.get::<String>("id")?)
    }

    async fn import(&self, _: &Store, _: &Context, id: &str) -> Result<Object> {
        Ok(import_by_id(id))
    }

    async fn import_by_identity(&self, _: &Store, _: &Context, identity: &Object) -> Result<Object> {
        Ok(import_by_id(&identity.get::<String>("id")?))
    }

    /// Version 0 called the name `title`; version 1 had no `defaulted`.
    async fn upgrade_state(&self, _: &Context, version: i64, mut state: Json) -> Result<Json> {
        let Some(attributes) = state.as_object_mut() else {
            return Err(Diagnostics::error("Cannot upgrade", "The state is not an object."));
        };
        if version == 0
            && let Some(title) = attributes.remove("title")
        {
            attributes.insert("name".into(), title);
        }
        attributes.entry("defaulted").or_insert_with(|| "by default".into());
        Ok(state)
    }

    /// Version 0 was a number.
    async fn upgrade_identity(&self, _: &Context, _: i64, identity: Json) -> Result<Json> {
        Ok(serde_json::json!({ "id": format!("thing-{}", identity["number"]) }))
    }

    async fn move_state(&self, cx: &Context, request: &MoveRequest) -> Result<Option<Object>> {
        if request.source_type != "torture_old" {
            return Ok(None);
        }
        // What the old type kept is the new type's too.
        let kept: Option<String> = cx.private("old");
        let name = request.source_state["name"].as_str().unwrap_or_default();
        cx.remove_private("old");
        Ok(Some(
            import_by_id(&format!("thing-{name}"))
                .with("name", name)
                .with("defaulted", "by default")
                .with("derived", format!("derived from {name}"))
                .with("string", kept),
        ))
    }
}
