//! A Terraform provider SDK for Rust: plugin protocol 5 (`tfplugin5.10`) over tonic.
//!
//! A provider is a [`Provider`] that lists [`Resource`]s, [`DataSource`]s, and where wanted
//! [`Function`]s, [`EphemeralResource`]s, [`ListResource`]s and [`Action`]s. Each of them is mostly
//! its [`Schema`] plus a few async functions over [`Object`]s; [`model!`] turns objects into plain
//! structs and back. [`serve()`] does everything else: the go-plugin handshake, mutual TLS, the
//! values' encodings, defaults, validators, plan modifiers, cancellation and partial state.
//!
//! # Map
//! - [`value`]: values, types, paths, conversion, msgpack and JSON
//! - [`schema`]: attributes, blocks, validators, plan modifiers, timeouts
//! - [`diagnostic`]: errors and warnings as Terraform shows them
//! - [`provider`], [`function`], [`listing`]: the traits that a provider implements
//! - `core`: what happens for each operation, neutral of the protocol's version
//! - `proto5`: the thin adapter between tfplugin5 messages and `core`
//! - [`mod@serve`]: start-up, TLS, shutdown, reattach mode, logs
//!
//! # Invariants
//! - Plans are checked by Terraform: the legacy type system flag is never set.
//! - Write-only values never reach a plan or a state.
//! - Numbers stay exact; sets compare as sets.
//! - An operation that is told to stop returns what it has: nothing that exists is lost from state.
//!
//! # Example
//! A provider with one data source. `serve(Example, ServeOptions::from_args())` is the whole of its
//! `main`; here a test calls it.
//!
//! ```
//! use tf_provider_sdk::{
//!     Attribute, Context, DataSource, Object, Provider, Result, Schema, async_trait, model, validate,
//! };
//!
//! struct Example;
//!
//! #[async_trait]
//! impl Provider for Example {
//!     type Client = String;
//!
//!     fn address(&self) -> &str {
//!         "registry.terraform.io/example/example"
//!     }
//!
//!     fn version(&self) -> &str {
//!         env!("CARGO_PKG_VERSION")
//!     }
//!
//!     fn schema(&self) -> Schema {
//!         Schema::new().attribute(Attribute::string("greeting").default("Hello"))
//!     }
//!
//!     async fn configure(&self, _: &Context, config: &Object) -> Result<String> {
//!         Ok(config.get("greeting")?)
//!     }
//!
//!     fn data_sources(&self) -> Vec<Box<dyn DataSource<String>>> {
//!         vec![Box::new(Greeting)]
//!     }
//! }
//!
//! model! {
//!     struct GreetingModel {
//!         name: String,
//!         text: Option<String>,
//!     }
//! }
//!
//! struct Greeting;
//!
//! #[async_trait]
//! impl DataSource<String> for Greeting {
//!     fn type_name(&self) -> &str {
//!         "example_greeting"
//!     }
//!
//!     fn schema(&self) -> Schema {
//!         Schema::new()
//!             .attribute(Attribute::string("name").required().validate(validate::length(1, 40)))
//!             .attribute(Attribute::string("text").computed())
//!     }
//!
//!     async fn read(&self, greeting: &String, _: &Context, config: Object) -> Result<Object> {
//!         let mut found: GreetingModel = config.decode()?;
//!         found.text = Some(format!("{greeting}, {}!", found.name));
//!         Ok(Object::encode(found)?)
//!     }
//! }
//!
//! # tokio::runtime::Runtime::new().unwrap().block_on(async {
//! let cx = Context::for_test();
//! let client = Example.configure(&cx, &Object::new().with("greeting", "Hi")).await?;
//! let config = Greeting.schema().conform(Object::new().with("name", "Ada"))?;
//! let state = Greeting.read(&client, &cx, config).await?;
//! assert_eq!(state.get("text"), Ok("Hi, Ada!".to_owned()));
//! # Result::Ok(()) }).unwrap();
//! ```
//!
//! `examples/minimal.rs` is a provider of everything, in one file, that keeps notes in a directory;
//! `examples/torture` is the one that the conformance tests drive through Terraform.
//!
//! # What Terraform calls, and what a provider implements
//! | In a configuration | Trait | Since |
//! |---|---|---|
//! | `provider` block | [`Provider`] | |
//! | `resource`, `import`, `moved` | [`Resource`] | import by identity 1.12 |
//! | `data` | [`DataSource`] | |
//! | `provider::NAME::FUNCTION()` | [`Function`] | 1.8 |
//! | `ephemeral` | [`EphemeralResource`] | 1.10 |
//! | write-only arguments | [`Schema::write_only`] | 1.11 |
//! | `list`, in `terraform query` | [`ListResource`] | 1.14 |
//! | `action` | [`Action`] | 1.14 |
//!
//! An older Terraform never calls what it doesn't know.

#![warn(missing_docs)]

pub mod core;
pub mod diagnostic;
pub mod function;
pub mod listing;
mod proto5;
pub use proto5::{plugin, tfplugin5};
pub mod provider;
pub mod schema;
pub mod serve;
pub mod value;

pub use crate::core::context::{Context, Deferral};
pub use crate::core::plan::{PlanChange, PlanKind};
pub use crate::diagnostic::{Diagnostic, Diagnostics, Result, Severity};
pub use crate::function::{Function, FunctionDefinition, FunctionError, FunctionParameter, argument, arguments_from};
pub use crate::listing::{ListRequest, ListResource, ListedResource, Listing};
pub use crate::provider::{
    Action, CreateRequest, DataSource, EphemeralOpened, EphemeralRenewed, EphemeralResource, MoveRequest, Provider,
    Resource, UpdateRequest, import_by_id,
};
pub use crate::schema::{
    Attribute, Block, IdentityAttribute, IdentitySchema, NestedBlock, Nesting, Schema, Timeouts, modify, validate,
};
pub use crate::serve::{ReattachServer, ServeOptions, serve};
pub use crate::value::{Attr, ConvertError, FromValue, IntoValue, Number, Object, Path, Refinement, Step, Type, Value};
pub use async_trait::async_trait;
