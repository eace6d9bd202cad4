//! Reattach mode: a provider that runs already, and that Terraform finds through
//! `TF_REATTACH_PROVIDERS`. Plaintext on a socket that only its owner can open; for tests and
//! debuggers.
//!
//! One process serves all commands, and all aliases of the provider: they share the client that was
//! configured last.

use std::path::Path;

use serde_json::json;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::listen::Listener;
use super::plugin::Controller;
use super::{ServeError, print_line, run};
use crate::provider::Provider;

/// A provider that serves in this process, in plaintext, for tests and debuggers.
#[derive(Debug)]
pub struct ReattachServer {
    config: String,
    socket: std::path::PathBuf,
    shutdown: CancellationToken,
    task: JoinHandle<Result<(), ServeError>>,
}

impl ReattachServer {
    /// Starts to serve on a unix socket in the temporary directory. Needs a tokio runtime.
    ///
    /// # Errors
    /// The socket can't be made.
    pub async fn start<P: Provider>(provider: P) -> std::io::Result<Self> {
        let listener = Listener::bind(None).map_err(std::io::Error::other)?;
        let config = reattach_config(provider.address(), listener.path());
        let socket = listener.path().to_path_buf();
        let shutdown = CancellationToken::new();
        let serving = run(provider, listener, None, Controller::that_stays(), shutdown.clone());
        Ok(Self { config, socket, shutdown, task: tokio::spawn(serving) })
    }

    /// The value for the environment variable `TF_REATTACH_PROVIDERS`.
    pub fn reattach_config(&self) -> String {
        self.config.clone()
    }

    /// The socket, for a gRPC client.
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// Stops serving, waits for it, and removes the socket.
    pub async fn shutdown(self) {
        self.shutdown.cancel();
        match self.task.await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::warn!(%error, "reattach server"),
            Err(error) => tracing::warn!(%error, "reattach server"),
        }
    }
}

/// Prints the variable and serves until SIGINT or SIGTERM.
pub(super) async fn serve<P: Provider>(provider: P) -> Result<(), ServeError> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut interrupt = signal(SignalKind::interrupt()).map_err(ServeError::io("watching for SIGINT"))?;
    let mut terminate = signal(SignalKind::terminate()).map_err(ServeError::io("watching for SIGTERM"))?;
    let server = ReattachServer::start(provider).await.map_err(ServeError::io("making the socket"))?;
    print_line(&format!("TF_REATTACH_PROVIDERS='{}'", server.reattach_config()))?;
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
    server.shutdown().await;
    Ok(())
}

fn reattach_config(address: &str, socket: &Path) -> String {
    json!({
        address: {
            "Protocol": "grpc",
            "ProtocolVersion": 5,
            "Pid": std::process::id(),
            // Terraform then leaves the process alone when a command ends.
            "Test": true,
            "Addr": { "Network": "unix", "String": socket.to_string_lossy() },
        }
    })
    .to_string()
}
