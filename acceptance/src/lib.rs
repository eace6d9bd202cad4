//! The acceptance harness: real gateways, real mounts, a real `terraform`, driven as a person would drive them.
//!
//! It owns the life of everything that a test or the demo starts: processes, mounts, loop devices, directories. What it
//! promises above all is that nothing of that is left behind: not when a check fails, not on a panic, not on Ctrl-C
//! ([`cleanup`]). It knows the product only from outside: the `lifeboat` command, the API, the mount and Terraform.
//! It needs Linux, root, `/dev/fuse` and loop devices, and refuses with the reason where one is missing.
//!
//! No test waits by sleeping: [`eventually`] polls a condition until a deadline and reports what it saw last.

pub mod agent;
pub mod ambush;
pub mod authority;
pub mod bench;
pub mod binaries;
pub mod browser;
pub mod cleanup;
pub mod command;
pub mod confine;
pub mod content;
pub mod device;
pub mod documents;
pub mod estate;
pub mod everything;
pub mod fio;
pub mod gateway;
pub mod go_between;
pub mod guest;
pub mod guide;
pub mod hosts;
pub mod lan;
pub mod ledger;
pub mod load;
pub mod mounts;
pub mod points;
pub mod random;
pub mod receiver;
pub mod scratch;
pub mod sites;
pub mod soak;
pub mod stamps;
pub mod terraform;
pub mod volatile;
mod wait;

pub use wait::{eventually, retry_until};
