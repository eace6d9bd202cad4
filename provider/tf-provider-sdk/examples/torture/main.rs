//! The torture provider: every type, every nesting, and every awkward moment that Terraform has for a
//! provider. The conformance tests drive it with the real `terraform`.
//!
//! It keeps what it makes as files in a directory, each the resource's state in msgpack, and reads it
//! back from there: what a plan compares with is what was stored, not what Terraform sent along.

mod everything;
mod others;
mod small;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;

use tf_provider_sdk::tfplugin5::DynamicValue;
use tf_provider_sdk::{
    Action, Attribute, Context, DataSource, Diagnostic, EphemeralResource, Function, ListResource, Object, Provider,
    Resource, Result, Schema, ServeOptions, Value, async_trait,
};

#[allow(unused_imports, reason = "the tests that include this file take it from here")]
pub(crate) use everything::types;

fn main() -> ExitCode {
    tf_provider_sdk::serve(Torture, ServeOptions::from_args())
}

/// The provider.
#[derive(Debug)]
pub(crate) struct Torture;

/// Where things are kept, and how many creates run at this moment.
#[derive(Debug)]
pub(crate) struct Store {
    directory: PathBuf,
    at_once: Arc<AtomicUsize>,
}

impl Store {
    fn path(&self, id: &str) -> PathBuf {
        self.directory.join(format!("{id}.thing"))
    }

    fn put(&self, id: &str, state: &Object) -> Result<()> {
        let bytes = DynamicValue::encode(&Value::Object(state.clone())).msgpack;
        // Whole or not at all, as a service would have it.
        let draft = self.directory.join(format!("{id}.draft"));
        std::fs::write(&draft, bytes).and_then(|()| std::fs::rename(&draft, self.path(id))).map_err(|e| io("keep", &e))
    }

    fn get(&self, id: &str, schema: &Schema) -> Result<Option<Object>> {
        match std::fs::read(self.path(id)) {
            Ok(msgpack) => match (DynamicValue { msgpack, json: Vec::new() }).decode(&schema.value_type())? {
                Value::Object(object) => Ok(Some(object)),
                _ => Ok(None),
            },
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(io("read", &error)),
        }
    }

    fn remove(&self, id: &str) -> Result<()> {
        match std::fs::remove_file(self.path(id)) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(io("remove", &error)),
            _ => Ok(()),
        }
    }

    fn log(&self, name: &str) -> PathBuf {
        self.directory.join(format!("{name}.log"))
    }

    fn append(&self, name: &str, line: &str) -> Result<()> {
        use std::io::Write as _;
        let file = std::fs::OpenOptions::new().create(true).append(true).open(self.log(name));
        file.and_then(|mut file| writeln!(file, "{line}")).map_err(|e| io("log", &e))
    }
}

fn io(doing: &str, error: &std::io::Error) -> tf_provider_sdk::Diagnostics {
    Diagnostic::from_error(format!("Cannot {doing}"), error).into()
}

/// How many lines of a file say this; none if it is not there.
pub(crate) fn count(path: &Path, what: &str) -> usize {
    std::fs::read_to_string(path).unwrap_or_default().lines().filter(|line| line.starts_with(what)).count()
}

#[async_trait]
impl Provider for Torture {
    type Client = Store;

    fn address(&self) -> &str {
        "registry.terraform.io/example/torture"
    }

    fn version(&self) -> &str {
        "0.1.0"
    }

    fn schema(&self) -> Schema {
        Schema::new().attribute(Attribute::string("directory").required())
    }

    async fn configure(&self, _: &Context, config: &Object) -> Result<Store> {
        let directory: String = config.get("directory")?;
        Ok(Store { directory: directory.into(), at_once: Arc::default() })
    }

    fn resources(&self) -> Vec<Box<dyn Resource<Store>>> {
        vec![Box::new(everything::Everything), Box::new(small::Old), Box::new(small::Slow), Box::new(small::Blob)]
    }

    fn data_sources(&self) -> Vec<Box<dyn DataSource<Store>>> {
        vec![Box::new(others::Mirror)]
    }

    fn functions(&self) -> Vec<Box<dyn Function>> {
        vec![Box::new(others::Same), Box::new(others::Longest), Box::new(others::OrNull)]
    }

    fn ephemeral_resources(&self) -> Vec<Box<dyn EphemeralResource<Store>>> {
        vec![Box::new(others::Lease)]
    }

    fn list_resources(&self) -> Vec<Box<dyn ListResource<Store>>> {
        vec![Box::new(others::Numbered)]
    }

    fn actions(&self) -> Vec<Box<dyn Action<Store>>> {
        vec![Box::new(others::Count)]
    }
}
