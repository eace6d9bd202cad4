//! The Terraform provider of Lifeboat: what a configuration declares, through the API of a gateway.
//!
//! ```text
//! provider ── configure ──> link (one API client, or what it still waits for)
//! resources ─ declared ───> POST, GET, PATCH, DELETE of one kind of object
//!      │          └── wording ──> diagnostics
//!      └── values ──> API bodies, checked at plan by the rules of the API crate
//! data_sources ───────────> recovery points, protection status, inventory, feasibility
//! actions ────────────────> POST of a verb, and its job until it is over
//! ephemeral ──────────────> a token for the time of one run
//! functions ──────────────> the arithmetic of `feasibility`, without a gateway
//! ```
//! A resource's file holds its schema, how its attributes and the API's fields correspond, and what is particular to it;
//! everything that all resources have in common is in `declared`. It refuses to know the protocol (that is the SDK's) and
//! any rule about values (those are the API crate's). It keeps no state of its own: what a crash or a Ctrl-C leaves is
//! what the gateway was told, and the next refresh reads it.

mod actions;
mod claims;
mod data_sources;
mod declared;
mod ephemeral;
mod feasibility;
mod functions;
mod link;
mod mentions;
mod provider;
mod resources;
mod values;
mod wording;

pub use link::Link;
pub use provider::LifeboatProvider;
