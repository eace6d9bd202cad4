//! The bytes of Lifeboat: every structure that is written to a disk or a vault, encoded, decoded and verified.
//!
//! Owns the layouts that `docs/format.md` specifies, and their limits. Sans-IO: bytes in, bytes out; no file, no
//! object store, no clock, no randomness (salts, nonces and times are parameters, which is also what makes golden
//! vectors possible). Refuses what it can't prove: a decoder answers with a value only after magic, version, checksum
//! and, for vault objects, authentication have passed.
//!
//! ```text
//! vault objects                                   local files
//!   segment  header │ frames │ index │ trailer      journal   header │ batches of records
//!   rebuilt  header │ frames │ index │ trailer      presence  header │ one bit a block
//!   map      header │ nodes  │ footer│ trailer      state     slot A │ slot B
//!   epoch    intent, cut
//!   gc       header │ sealed record                 dirty     map: runs of blocks that the vault lacks
//! local files, around them
//!   at rest  marker of a directory whose files are encrypted; texts of secrets
//! lines
//!   stream   frames between a mobility agent and a process server, which keeps them as they came
//! ```
//!
//! Bytes from outside never panic, allocate without bound or loop for ever: all reading goes through one cursor with
//! checked reads, and every count is held against the bytes that are left and against a named maximum.

#![cfg_attr(not(test), warn(clippy::indexing_slicing, clippy::arithmetic_side_effects))]

pub mod at_rest;
pub mod dirty;
pub mod epoch;
mod error;
pub mod gc;
pub mod hash;
pub mod inspect;
pub mod journal;
pub mod keys;
pub mod local;
pub mod map;
mod place;
pub mod rebuilt;
mod seal;
pub mod segment;
pub mod stream;
mod wire;

pub use error::FormatError;

/// Newest version of every format that this build writes and the newest that it reads.
pub const FORMAT_VERSION: u16 = 1;
/// Most volumes of one group: bounds every per-volume list.
pub const GROUP_VOLUMES_MAX: usize = 200;
/// Longest label of a recovery point, in bytes of UTF-8.
pub const LABEL_BYTES_MAX: usize = 255;
