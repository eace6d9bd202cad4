//! Faults by the seed: a simulated disk, a model of what a group must hold, and a driver that takes the engine's write
//! path step by step through crashes (dev only).
//!
//! ```text
//! scenario ─steps─> Rig ─> WritePath ─> SimDisk ──crash──> SimDisk' ─> WritePath' ─┐
//!                    └───> Model <───────────────── compare ──────────────────────┘
//! ```
//! A run is named by one seed and does the same every time, but for the wall clock in the journal's headers, which no
//! check looks at. A broken promise is a value ([`Violation`]), so that tests can also ask for one: every bug in
//! [`Planted`] and every [`disk::Lie`] has to be caught.

pub mod disk;
pub mod model;
pub mod random;
pub mod rig;
pub mod scenario;

pub use disk::{CrashKind, SimDisk};
pub use model::{Checked, Model, Violation};
pub use random::Random;
pub use rig::{Planted, Rig, Setup, Step};
