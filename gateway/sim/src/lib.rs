//! Faults by the seed: simulated disks, machines and an object store, models of what must be there, and drivers that take the
//! engine's own code through crashes (dev only).
//!
//! ```text
//! scenario ─steps─> Rig ─> WritePath ─> SimDisk ──crash──> SimDisk' ─> WritePath' ─┐
//!                    └───> Model <───────────────── compare ──────────────────────┘
//! world ───steps──> two gateways ─> Group ─> SimMachine (disks), Link ─> SimStore ─> a third reader ─┐
//!                    └───> History <──────────────────────── compare ────────────────────────────────┘
//! ```
//! The rig drives the write path alone, so closely that every boundary between two calls can be a crash; the world runs whole
//! groups, with everything that a gateway does. A run is named by one seed and does the same every time. A broken promise is a
//! value ([`Violation`]), so that tests can also ask for one: every bug in [`Planted`] and in `lifeboat_engine::planted`, and
//! every [`disk::Lie`], has to be caught.

pub mod disk;
pub mod machine;
pub mod model;
pub mod random;
pub mod rig;
pub mod scenario;
pub mod store;
pub mod world;

pub use disk::{CrashKind, SimDisk};
pub use machine::SimMachine;
pub use model::{Checked, Model, Violation};
pub use random::Random;
pub use rig::{Planted, Rig, Setup, Step};
pub use store::SimStore;
