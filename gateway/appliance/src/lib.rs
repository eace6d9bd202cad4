//! The first boot of the appliance, and every later one: settings from the hypervisor become files of a running system.
//!
//! ```text
//! CD, labelled disk ──read──> documents ──parse──> Properties ─┐
//! data disk ──────────────────────────> Settings from before ──┴─> Plan: files, host name ──> apply
//! ```
//!
//! Nothing here decides twice: [`properties`] and the readers of documents ([`ovf`], [`nocloud`], [`yaml`]) are functions of text,
//! [`disk`] is a function of what disks look like, [`plan`] of settings; [`machine`] alone touches the system, and does it again at every
//! boot. What is interrupted is done anew: each step leaves either nothing or what the next boot finds done. Only a disk that has
//! nothing but zeros where file systems and tables begin and end is ever formatted.

pub mod attempts;
pub mod console;
pub mod disk;
pub mod install;
pub mod live;
pub mod machine;
pub mod network;
pub mod nocloud;
pub mod ovf;
pub mod plan;
pub mod properties;
pub mod update;
pub mod yaml;
