//! The vault: objects in a bucket or a directory, the keys that protect them, and the control plane's documents.
//!
//! ```text
//! store     what an object store must do, and nothing more: create-only writes, reads, listings, deletes
//! backend   that, over `object_store`: a directory, memory, S3, Azure Blob, Google Cloud Storage
//! storage   where a vault is: URL, endpoint, credentials, proxy     directory   what durability on a disk takes besides
//! metered   a store whose requests are counted
//! once      a create whose reply was lost, settled by reading back   probe       refuses a store that breaks its promises
//! faulty    a store that fails as planned, for tests
//! secret    key sources, derivation, wrapping                        envelope    JSON with a MAC, one encoding per content
//! kms       what wraps a key slot's secret and isn't us               masters     the master keys of an open vault
//! vault     vault/<rev>.json: create, open, settings, slots, rotation  keyring    keys/<owner>/<n>
//! catalog   catalog/<kind>/<id>/<rev>.json                          audit       audit/<writer>/<n>.json, chained
//! traced    spans, for whoever collects traces
//! local_key what encrypts a gateway's own files, wrapped as a vault's key is
//! ```
//!
//! Every object is written once under a fresh name (I-7); what is read is verified before it is used (I-9, I-10). No
//! state lives outside the store: a process may die anywhere and the next one starts from the objects alone. This
//! crate knows nothing of segments, maps or volumes' contents, and never retries by itself for longer than one
//! call: [`StoreClass`] and [`VaultErrorKind`] tell the caller whether to.

mod ambient;
mod audit;
mod backend;
mod catalog;
mod directory;
mod envelope;
mod error;
mod faulty;
mod keyring;
mod kms;
mod local_key;
mod masters;
mod metered;
mod once;
mod probe;
mod secret;
mod storage;
mod store;
mod traced;
mod vault;

pub use ambient::{Clock, Entropy, VaultOptions};
pub use audit::{AuditBatch, AuditChain, AuditFinding, AuditHead, AuditLog, AuditReport};
pub use backend::endpoint::forbidden as forbidden_address;
pub use catalog::{Catalog, Document};
pub use error::{StoreClass, StoreError, VaultError, VaultErrorKind};
pub use faulty::{Counts, Effect, FaultyStore, OpKind, Request, Rule};
pub use keyring::{Erasure, VolumeKeys};
pub use kms::{CommandKms, Kms, KmsContext, KmsError, KmsErrorClass, KmsKey};
pub use local_key::{create_local_key, open_local_key, rewrap_local_key};
pub use metered::{MeteredStore, StoreCounts};
pub use once::{Landed, create_exact, create_once};
pub use probe::probe;
pub use secret::{KdfStrength, KeySource};
pub use storage::{Credentials, Environment, StorageTarget};
pub use store::{Access, ObjectMeta, Store, open_storage, open_store};
pub use traced::{TRACE_TARGET, traced};
pub use vault::{KeyRotation, KeySlot, Proved, Vault, VaultInfo, VaultSettings};
