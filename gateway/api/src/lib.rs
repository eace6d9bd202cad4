//! The contract: what a gateway's HTTPS API speaks, version 1.
//!
//! Owns the JSON bodies ([`types`]), the rules that say which values make sense ([`validate`]), the shape of every
//! error ([`Problem`]), the sentence that says whether everything is protected ([`summary`]) and a client ([`client`]). Server, command line, Terraform provider and tests build on the same
//! definitions, so that a value the server would refuse is refused at plan time, under the same field name.
//!
//! It refuses to know how anything is done: no engine, no storage, no terminal. It keeps no state that a crash could lose.

pub mod client;
pub mod problem;
pub mod summary;
pub mod types;
pub mod validate;

pub use client::{Client, ClientConfig, ClientError, ClientErrorKind};
pub use lifeboat_model::Timestamp;
pub use lifeboat_model::state::JobState;
pub use problem::{FieldError, Problem, ProblemCode};
pub use summary::{Summary, summarise};
pub use types::*;
