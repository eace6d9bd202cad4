//! The contract of a vault's storage, held against every backend: memory, a directory, and servers over HTTP.
//!
//! The servers are started by the tests (`make deps` installs them). Google Cloud Storage is a double of our own: see
//! `lifeboat-lab`.

#[cfg(test)]
mod conformance;
#[cfg(test)]
mod refusals;
#[cfg(test)]
mod tls;

use std::sync::Arc;

use lifeboat_vault::{Access, Credentials, Environment, StorageTarget, Store, open_storage};

/// A target with nothing from the environment of the machine that the tests run on.
fn target(url: &str, endpoint: &str, credentials: &[(&str, &str)]) -> StorageTarget {
    StorageTarget {
        endpoint: Some(endpoint.to_owned()),
        credentials: Credentials::of(credentials.iter().map(|(name, value)| ((*name).to_owned(), (*value).into()))),
        environment: Environment::of([]),
        ..StorageTarget::new(url)
    }
}

const S3_CREDENTIALS: [(&str, &str); 2] = [("AWS_ACCESS_KEY_ID", "AKLAB"), ("AWS_SECRET_ACCESS_KEY", "lab-secret")];

async fn open(target: &StorageTarget) -> Arc<dyn Store> {
    open_storage(target, Access::Open).await.expect("the target can be used")
}
