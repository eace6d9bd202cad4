//! The data source, the functions, the ephemeral resource, the list and the action.

use std::time::{Duration, SystemTime};

use tf_provider_sdk::{
    Action, Attribute, Context, DataSource, Deferral, Diagnostics, EphemeralOpened, EphemeralRenewed,
    EphemeralResource, Function, FunctionDefinition, FunctionError, FunctionParameter, ListRequest, ListResource,
    ListedResource, Listing, Object, Result, Schema, Type, Value, argument, arguments_from, async_trait, validate,
};

use super::Store;

/// Anything, and the same again.
#[derive(Debug)]
pub(crate) struct Mirror;

#[async_trait]
impl DataSource<Store> for Mirror {
    fn type_name(&self) -> &str {
        "torture_mirror"
    }

    fn schema(&self) -> Schema {
        Schema::new()
            .attribute(Attribute::new("value", Type::Dynamic).optional())
            .attribute(Attribute::new("value_again", Type::Dynamic).computed())
            .attribute(Attribute::bool("later").default(false))
    }

    async fn read(&self, _: &Store, cx: &Context, mut config: Object) -> Result<Object> {
        if config.get::<bool>("later")? {
            cx.defer(Deferral::ConfigUnknown)?;
            config.set("value_again", Value::Unknown);
            return Ok(config);
        }
        let value = config.value("value").cloned().unwrap_or_default();
        config.set("value_again", value);
        Ok(config)
    }
}

/// Whatever it is given.
#[derive(Debug)]
pub(crate) struct Same;

impl Function for Same {
    fn name(&self) -> &str {
        "same"
    }

    fn definition(&self) -> FunctionDefinition {
        FunctionDefinition::new("The same again", Type::Dynamic)
            .parameter(FunctionParameter::new("value", Type::Dynamic, "Anything.").nullable())
    }

    fn call(&self, arguments: &[Value]) -> std::result::Result<Value, FunctionError> {
        argument(arguments, 0)
    }
}

/// The longest of any number of texts.
#[derive(Debug)]
pub(crate) struct Longest;

impl Function for Longest {
    fn name(&self) -> &str {
        "longest"
    }

    fn definition(&self) -> FunctionDefinition {
        FunctionDefinition::new("The longest text", Type::String)
            .parameter(FunctionParameter::new("least", Type::Number, "It has at least so many characters."))
            .variadic(FunctionParameter::new("texts", Type::String, "The texts.").validate(validate::length(1, 100)))
    }

    fn call(&self, arguments: &[Value]) -> std::result::Result<Value, FunctionError> {
        let least: usize = argument::<u32>(arguments, 0)?.try_into().unwrap_or(usize::MAX);
        let texts: Vec<String> = arguments_from(arguments, 1)?;
        let longest = texts.into_iter().max_by_key(|text| text.chars().count()).unwrap_or_default();
        if longest.chars().count() < least {
            return Err(FunctionError::argument(0, format!("None has {least} characters.")));
        }
        Ok(Value::String(longest))
    }
}

/// A list of an object type, from an argument that may be null.
#[derive(Debug)]
pub(crate) struct OrNull;

impl Function for OrNull {
    fn name(&self) -> &str {
        "or_null"
    }

    fn definition(&self) -> FunctionDefinition {
        let object = Type::object([("n", Type::Number), ("was_null", Type::Bool)]);
        FunctionDefinition::new("Says whether it was null", Type::list(object))
            .parameter(FunctionParameter::new("n", Type::Number, "A number, or null.").nullable())
    }

    fn call(&self, arguments: &[Value]) -> std::result::Result<Value, FunctionError> {
        let number: Option<tf_provider_sdk::Number> = argument(arguments, 0)?;
        let was_null = number.is_none();
        Ok(Value::List(vec![Value::Object(Object::new().with("n", number).with("was_null", was_null))]))
    }
}

/// Opened, renewed and closed, each with a line in its log.
#[derive(Debug)]
pub(crate) struct Lease;

const RENEW_AFTER: Duration = Duration::from_millis(50);

#[async_trait]
impl EphemeralResource<Store> for Lease {
    fn type_name(&self) -> &str {
        "torture_lease"
    }

    fn schema(&self) -> Schema {
        Schema::new()
            .attribute(Attribute::string("name").required())
            .attribute(Attribute::string("secret").computed().sensitive())
    }

    async fn open(&self, store: &Store, _: &Context, mut config: Object) -> Result<EphemeralOpened> {
        let name: String = config.get("name")?;
        store.append(&name, "opened")?;
        config.set("secret", format!("the secret of {name}"));
        let renew_at = Some(SystemTime::now() + RENEW_AFTER);
        Ok(EphemeralOpened { result: config, renew_at, private: name.into_bytes() })
    }

    async fn renew(&self, store: &Store, _: &Context, private: Vec<u8>) -> Result<EphemeralRenewed> {
        store.append(&String::from_utf8_lossy(&private), "renewed")?;
        Ok(EphemeralRenewed { renew_at: Some(SystemTime::now() + RENEW_AFTER), private })
    }

    async fn close(&self, store: &Store, _: &Context, private: Vec<u8>) -> Result<()> {
        store.append(&String::from_utf8_lossy(&private), "closed")
    }
}

/// As many as are asked for: numbered, not stored.
#[derive(Debug)]
pub(crate) struct Numbered;

#[async_trait]
impl ListResource<Store> for Numbered {
    fn type_name(&self) -> &str {
        "torture_everything"
    }

    fn schema(&self) -> Schema {
        Schema::new().attribute(Attribute::number("how_many").default(3_u64).validate(validate::whole_number()))
    }

    async fn validate_config(&self, _: &Context, config: &Object) -> Result<()> {
        match config.get::<Option<u64>>("how_many") {
            Ok(Some(13)) => Err(Diagnostics::error("Unlucky", "Ask for another number.")),
            _ => Ok(()),
        }
    }

    async fn list(&self, store: &Store, cx: &Context, request: ListRequest, found: &Listing) -> Result<()> {
        let count: u64 = request.config.get("how_many")?;
        for number in 0..count {
            let mut thing =
                ListedResource::new(Object::new().with("id", format!("thing-{number}")), number.to_string());
            if request.with_resource {
                thing = thing.with_resource(Object::new().with("name", number.to_string()));
            }
            if !found.add(thing).await {
                store.append("list", &format!("enough after {number}"))?;
                return Ok(());
            }
        }
        cx.warn("That is all", format!("There are {count}."));
        Ok(())
    }
}

/// Counts, and tells.
#[derive(Debug)]
pub(crate) struct Count;

#[async_trait]
impl Action<Store> for Count {
    fn type_name(&self) -> &str {
        "torture_count"
    }

    fn schema(&self) -> Schema {
        Schema::new()
            .attribute(Attribute::number("to").required().validate(validate::at_least(1)))
            .attribute(Attribute::bool("hang").default(false))
    }

    async fn plan(&self, _: &Store, _: &Context, config: &Object) -> Result<()> {
        match config.get::<u64>("to") {
            Ok(to) if to > 1000 => Err(Diagnostics::error("Too far", "Nobody counts so far.")),
            _ => Ok(()),
        }
    }

    async fn invoke(&self, _: &Store, cx: &Context, config: Object) -> Result<()> {
        for number in 1..=config.get::<u64>("to")? {
            cx.progress(number.to_string());
        }
        if config.get::<bool>("hang")? {
            cx.sleep("counting on", Duration::from_secs(3600)).await?;
        }
        Ok(())
    }
}
