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
//! - [`provider`]: the traits that a provider implements
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
//! See `examples/minimal.rs`, a whole provider in one file.

pub mod core;
pub mod diagnostic;
mod proto5;
pub use proto5::{plugin, tfplugin5};
pub mod provider;
pub mod schema;
pub mod serve;
pub mod value;

pub use crate::core::context::Context;
pub use crate::core::plan::{PlanChange, PlanKind};
pub use crate::diagnostic::{Diagnostic, Diagnostics, Result, Severity};
pub use crate::provider::{
    Action, CreateRequest, DataSource, EphemeralOpened, EphemeralRenewed, EphemeralResource, Function,
    FunctionDefinition, FunctionError, FunctionParameter, ListResource, ListedResource, MoveRequest, Provider,
    Resource, UpdateRequest, import_by_id,
};
pub use crate::schema::{
    Attribute, Block, IdentityAttribute, IdentitySchema, NestedBlock, Nesting, Schema, Timeouts, modify, validate,
};
pub use crate::serve::{ReattachServer, ServeOptions, serve};
pub use crate::value::{Attr, ConvertError, FromValue, IntoValue, Number, Object, Path, Step, Type, Value};
pub use async_trait::async_trait;
