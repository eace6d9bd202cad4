//! What happens for each operation, neutral of the protocol's version: values and schemas in,
//! values and diagnostics out. Only `proto5` knows messages.

pub mod context;
pub(crate) mod engine;
pub(crate) mod operations;
pub(crate) mod others;
pub mod plan;
pub(crate) mod planning;
pub(crate) mod registry;
pub(crate) mod sets;
pub(crate) mod state;
pub(crate) mod validation;
