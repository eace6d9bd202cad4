//! What tests need of the world: real object storage, a double of Google Cloud Storage, a line that breaks as planned, and
//! a small real operating system.
//!
//! ```text
//! servers   Azurite (Azure Blob), moto (S3), s3rver (S3 that lies): started by the test, on a free port, killed by it
//! gcs       the calls of Google Cloud Storage's XML interface that a vault makes, in memory
//! faults    an HTTP proxy in front of any of them that loses, cuts, delays and refuses by plan
//! guest     a disk image with a real Linux that serves its data over HTTP, for machines at a recovery site
//! http      the little HTTP that these need
//! ```
//! Development only: nothing shipped depends on it, and it knows nothing of vaults. A server lives as long as its
//! handle: dropping that kills the process by its id and removes its files. A test that is killed itself leaves its
//! servers to its process group, which the test runner ends. A missing server is an error that says `make deps`, never
//! a test that passes without one.

mod faults;
mod gcs;
mod guest;
mod http;
mod initiator;
mod servers;

pub use faults::{Fault, FaultProxy, Seen};
pub use gcs::GcsDouble;
pub use guest::{GUEST_READY, guest_data_disk, guest_image};
pub use initiator::initiator;
pub use servers::{Azurite, Moto, S3rver, tools};
