//! A whole provider in one file: notes, kept as JSON files in a directory.
//!
//! It uses most of what the SDK offers: defaults, validators, a write-only attribute, ordered and
//! unordered blocks, replacement, timeouts, partial state, import, state upgrade and move, a data
//! source, a function, an ephemeral resource, a list and an action.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use serde_json::Value as Json;
use tf_provider_sdk::{
    Action, Attr, Attribute, Block, Context, CreateRequest, DataSource, Diagnostic, Diagnostics, EphemeralOpened,
    EphemeralResource, Function, FunctionDefinition, FunctionError, FunctionParameter, IdentitySchema, ListRequest,
    ListResource, ListedResource, Listing, MoveRequest, NestedBlock, Object, PlanChange, Provider, Resource, Result,
    Schema, ServeOptions, Timeouts, Type, UpdateRequest, Value, async_trait, import_by_id, model, validate,
};

fn main() -> ExitCode {
    tf_provider_sdk::serve(Minimal, ServeOptions::from_args())
}

/// The provider.
#[derive(Debug)]
pub(crate) struct Minimal;

/// The client: where the files are.
#[derive(Debug)]
pub(crate) struct Store {
    directory: PathBuf,
}

impl Store {
    fn path(&self, name: &str) -> PathBuf {
        self.directory.join(format!("{name}.json"))
    }

    fn write(&self, name: &str, content: &Json) -> Result<()> {
        std::fs::write(self.path(name), content.to_string())
            .map_err(|error| Diagnostic::from_error("Cannot write the note", &error).into())
    }

    fn read(&self, name: &str) -> Result<Option<Json>> {
        match std::fs::read(self.path(name)) {
            Ok(bytes) => Ok(serde_json::from_slice(&bytes).ok()),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(Diagnostic::from_error("Cannot read the note", &error).into()),
        }
    }
}

#[async_trait]
impl Provider for Minimal {
    type Client = Store;

    fn address(&self) -> &str {
        "registry.terraform.io/example/minimal"
    }

    fn version(&self) -> &str {
        "0.1.0"
    }

    fn schema(&self) -> Schema {
        Schema::new()
            .attribute(Attribute::string("directory").required().description("Where the notes are kept."))
            .attribute(Attribute::string("token").optional().sensitive())
    }

    async fn configure(&self, _cx: &Context, config: &Object) -> Result<Store> {
        let directory: String = config.get("directory")?;
        Ok(Store { directory: directory.into() })
    }

    fn resources(&self) -> Vec<Box<dyn Resource<Store>>> {
        vec![Box::new(Note)]
    }

    fn data_sources(&self) -> Vec<Box<dyn DataSource<Store>>> {
        vec![Box::new(NoteData)]
    }

    fn functions(&self) -> Vec<Box<dyn Function>> {
        vec![Box::new(Shout)]
    }

    fn ephemeral_resources(&self) -> Vec<Box<dyn EphemeralResource<Store>>> {
        vec![Box::new(Token)]
    }

    fn list_resources(&self) -> Vec<Box<dyn ListResource<Store>>> {
        vec![Box::new(Notes)]
    }

    fn actions(&self) -> Vec<Box<dyn Action<Store>>> {
        vec![Box::new(Touch)]
    }
}

model! {
    /// A note as its state has it.
    #[derive(Debug, Clone)]
    struct NoteModel {
        id: Attr<String>,
        name: String,
        text: String,
        size: Attr<u64>,
        exact: Attr<tf_provider_sdk::Number>,
        tags: Option<Vec<String>>,
        line: Vec<Line>,
        secret_version: Option<u64>,
        protected: bool,
    }

    /// One line of a note.
    #[derive(Debug, Clone)]
    struct Line {
        text: String,
        bold: Option<bool>,
    }
}

#[derive(Debug)]
struct Note;

fn note_schema() -> Schema {
    Schema::new()
        .version(1)
        .description("A note.")
        .attribute(Attribute::id())
        .attribute(Attribute::string("name").required().requires_replace().validate(validate::length(1, 40)).validate(
            validate::matches("lowercase letters, digits and -", |text| {
                text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
            }),
        ))
        .attribute(Attribute::string("text").default("hello"))
        .attribute(Attribute::number("size").computed())
        .attribute(Attribute::number("exact").optional().computed().use_state_for_unknown())
        .attribute(Attribute::set("tags", Type::String).optional())
        .write_only(Attribute::string("secret").optional())
        .attribute(Attribute::bool("protected").default(false))
        .attribute(Attribute::string("create_delay").optional().validate(validate::duration()))
        .block(NestedBlock::list(
            "line",
            Block::new().attribute(Attribute::string("text").required()).attribute(Attribute::bool("bold").optional()),
        ))
        .block(
            NestedBlock::set(
                "link",
                Block::new()
                    .attribute(Attribute::string("url").required())
                    .attribute(Attribute::string("title").default("untitled"))
                    .attribute(Attribute::string("hash").computed().use_state_for_unknown()),
            )
            .max(5),
        )
        .rule(validate::all_or_none(["secret", "secret_version"]))
        .timeouts(Timeouts::new().create(Duration::from_secs(60)).delete(Duration::from_secs(60)))
}

/// What the file holds and the state repeats.
fn file_of(state: &Object, secret: Option<String>) -> Result<Json> {
    let note: NoteModel = state.decode()?;
    let lines: Vec<_> = note.line.iter().map(|line| &line.text).collect();
    Ok(serde_json::json!({
        "text": note.text, "lines": lines, "secret": secret, "protected": note.protected,
        "tags": note.tags,
    }))
}

/// Fills in what the provider decides.
fn complete(state: &mut Object) -> Result<()> {
    let name: String = state.get("name")?;
    let text: String = state.get("text")?;
    state.set("id", format!("note-{name}"));
    state.set("size", u64::try_from(text.len()).unwrap_or_default());
    if state.is_unknown("exact") {
        state.set("exact", "0.1".parse::<tf_provider_sdk::Number>().unwrap_or(0.into()));
    }
    if let Some(Value::Set(links)) = state.value_mut("link") {
        for link in links {
            if let Value::Object(link) = link {
                let url: String = link.get("url")?;
                link.set("hash", format!("h{}", url.len()));
            }
        }
    }
    Ok(())
}

#[async_trait]
impl Resource<Store> for Note {
    fn type_name(&self) -> &str {
        "minimal_note"
    }

    fn schema(&self) -> Schema {
        note_schema()
    }

    fn identity_schema(&self) -> Option<IdentitySchema> {
        Some(IdentitySchema::new().required("id", Type::String, "The note's id."))
    }

    fn identity(&self, state: &Object) -> Option<Object> {
        Some(Object::new().with("id", state.value("id")?.clone()))
    }

    async fn modify_plan(&self, _: &Store, _: &Context, plan: &mut PlanChange) -> Result<()> {
        let protected = plan.get_prior::<bool>("protected")?.unwrap_or(false);
        if protected && (plan.is_destroy() || plan.is_replacement()) {
            let detail = "Set protected = false and apply before it is destroyed.";
            return Err(Diagnostic::error("Note is protected", detail).at("protected").into());
        }
        Ok(())
    }

    async fn create(&self, store: &Store, cx: &Context, request: CreateRequest) -> Result<Object> {
        let mut state = request.plan.clone();
        let name: String = state.get("name")?;
        if store.read(&name)?.is_some() {
            return Err(Diagnostic::error("Note exists", "Import it.").at("name").into());
        }
        complete(&mut state)?;
        store.write(&name, &file_of(&state, request.write_only("secret")?)?)?;
        cx.save_partial(state.clone());
        if let Some(delay) = state.get::<Option<Duration>>("create_delay")? {
            cx.progress("waiting for the ink to dry");
            cx.sleep("waiting for the ink to dry", delay).await?;
        }
        Ok(state)
    }

    async fn read(&self, store: &Store, _: &Context, mut state: Object) -> Result<Option<Object>> {
        let id: String = state.get("id")?;
        let name = id.strip_prefix("note-").unwrap_or(&id).to_owned();
        let Some(file) = store.read(&name)? else {
            return Ok(None);
        };
        state.set("name", name);
        let text = file["text"].as_str().unwrap_or_default();
        state.set("text", text);
        state.set("size", u64::try_from(text.len()).unwrap_or_default());
        state.set("protected", file["protected"].as_bool().unwrap_or_default());
        Ok(Some(state))
    }

    async fn update(&self, store: &Store, _: &Context, request: UpdateRequest) -> Result<Object> {
        let mut state = request.plan.clone();
        let name: String = state.get("name")?;
        complete(&mut state)?;
        // Another version: the secret of the configuration; the same version: the one that is there.
        let secret = match request.write_only("secret")? {
            Some(new) => Some(new),
            None => store.read(&name)?.and_then(|file| Some(file["secret"].as_str()?.to_owned())),
        };
        store.write(&name, &file_of(&state, secret)?)?;
        Ok(state)
    }

    async fn delete(&self, store: &Store, _: &Context, state: Object) -> Result<()> {
        let name: String = state.get("name")?;
        match std::fs::remove_file(store.path(&name)) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(Diagnostic::from_error("Cannot delete the note", &error).into())
            }
            _ => Ok(()),
        }
    }

    async fn import(&self, _: &Store, _: &Context, id: &str) -> Result<Object> {
        Ok(import_by_id(id))
    }

    /// Version 0 called the text `body`.
    async fn upgrade_state(&self, _: &Context, _version: i64, mut state: Json) -> Result<Json> {
        if let Some(state) = state.as_object_mut()
            && let Some(body) = state.remove("body")
        {
            state.insert("text".into(), body);
        }
        Ok(state)
    }

    async fn move_state(&self, _: &Context, request: &MoveRequest) -> Result<Option<Object>> {
        if request.source_type != "minimal_memo" {
            return Ok(None);
        }
        let name = request.source_state["name"].as_str().unwrap_or_default();
        Ok(Some(
            Object::new()
                .with("id", format!("note-{name}"))
                .with("name", name)
                .with("text", request.source_state["memo"].as_str().unwrap_or_default()),
        ))
    }
}

#[derive(Debug)]
struct NoteData;

#[async_trait]
impl DataSource<Store> for NoteData {
    fn type_name(&self) -> &str {
        "minimal_note"
    }

    fn schema(&self) -> Schema {
        Schema::new()
            .attribute(Attribute::string("name").required())
            .attribute(Attribute::string("text").computed())
            .attribute(Attribute::new("details", Type::Dynamic).computed())
    }

    async fn read(&self, store: &Store, _: &Context, mut config: Object) -> Result<Object> {
        let name: String = config.get("name")?;
        let Some(file) = store.read(&name)? else {
            let detail = format!("There is no note {name:?}.");
            return Err(Diagnostic::error("No such note", detail).at("name").into());
        };
        config.set("text", file["text"].as_str().unwrap_or_default());
        config.set("details", Object::new().with("words", 3_u64));
        Ok(config)
    }
}

#[derive(Debug)]
struct Shout;

impl Function for Shout {
    fn name(&self) -> &str {
        "shout"
    }

    fn definition(&self) -> FunctionDefinition {
        FunctionDefinition::new("Makes it loud", Type::String)
            .description("Returns the text in capitals.")
            .parameter(FunctionParameter::new("text", Type::String, "The text."))
    }

    fn call(&self, arguments: &[Value]) -> std::result::Result<Value, FunctionError> {
        match arguments.first().and_then(Value::as_str) {
            Some("") => Err(FunctionError::argument(0, "There is nothing to shout.")),
            Some(text) => Ok(Value::String(text.to_uppercase())),
            None => Err(FunctionError::new("There is no text.")),
        }
    }
}

#[derive(Debug)]
struct Token;

#[async_trait]
impl EphemeralResource<Store> for Token {
    fn type_name(&self) -> &str {
        "minimal_token"
    }

    fn schema(&self) -> Schema {
        Schema::new()
            .attribute(Attribute::string("role").required())
            .attribute(Attribute::string("value").computed().sensitive())
    }

    async fn open(&self, _: &Store, _: &Context, mut config: Object) -> Result<EphemeralOpened> {
        let role: String = config.get("role")?;
        config.set("value", format!("token-for-{role}"));
        Ok(EphemeralOpened { result: config, renew_at: None, private: role.into_bytes() })
    }

    async fn close(&self, store: &Store, _: &Context, private: Vec<u8>) -> Result<()> {
        let role = String::from_utf8_lossy(&private).into_owned();
        std::fs::write(store.directory.join(format!("closed-{role}")), "")
            .map_err(|error| Diagnostic::from_error("Cannot close", &error).into())
    }
}

#[derive(Debug)]
struct Notes;

#[async_trait]
impl ListResource<Store> for Notes {
    fn type_name(&self) -> &str {
        "minimal_note"
    }

    fn schema(&self) -> Schema {
        Schema::new().attribute(Attribute::string("prefix").optional())
    }

    async fn list(&self, store: &Store, _: &Context, request: ListRequest, found: &Listing) -> Result<()> {
        let prefix: Option<String> = request.config.get("prefix")?;
        let files =
            std::fs::read_dir(&store.directory).map_err(|error| Diagnostic::from_error("Cannot list", &error))?;
        let mut names: Vec<String> = files
            .filter_map(|file| {
                let name = file.ok()?.file_name().into_string().ok()?;
                name.strip_suffix(".json").map(str::to_owned)
            })
            .filter(|name| name.starts_with(prefix.as_deref().unwrap_or_default()))
            .collect();
        names.sort();
        for name in names {
            let state = Object::new().with("name", &name);
            let note = ListedResource::new(Object::new().with("id", format!("note-{name}")), name);
            if !found.add(note.with_resource(state)).await {
                break;
            }
        }
        Ok(())
    }
}

#[derive(Debug)]
struct Touch;

#[async_trait]
impl Action<Store> for Touch {
    fn type_name(&self) -> &str {
        "minimal_touch"
    }

    fn schema(&self) -> Schema {
        Schema::new().attribute(Attribute::string("name").required().validate(validate::length(1, 40)))
    }

    async fn invoke(&self, store: &Store, cx: &Context, config: Object) -> Result<()> {
        let name: String = config.get("name")?;
        cx.progress(format!("touching {name}"));
        if store.read(&name)?.is_none() {
            return Err(Diagnostics::error("No such note", format!("There is no note {name:?}.")));
        }
        Ok(())
    }
}
