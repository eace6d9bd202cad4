//! Start-up and shutdown of the provider's process.

mod reattach;

use std::process::ExitCode;

pub use reattach::ReattachServer;

use crate::provider::Provider;

/// How to serve.
#[derive(Debug, Clone, Default)]
pub struct ServeOptions {
    /// Reattach mode: print `TF_REATTACH_PROVIDERS` and serve in plaintext until interrupted,
    /// instead of being started by Terraform.
    pub debug: bool,
}

impl ServeOptions {
    /// From the process's arguments: `--debug` or `-debug` turns reattach mode on.
    pub fn from_args() -> Self {
        Self {
            debug: std::env::args()
                .skip(1)
                .any(|arg| arg == "--debug" || arg == "-debug"),
        }
    }
}

/// Serves `provider` until Terraform is done with it: the whole of a provider's `main`.
///
/// Starts its own runtime and log. The exit code is 1 where it was not started by Terraform (with
/// a message for a person) or where the handshake failed.
pub fn serve<P: Provider>(provider: P, options: ServeOptions) -> ExitCode {
    let _ = (provider, options);
    ExitCode::FAILURE
}
