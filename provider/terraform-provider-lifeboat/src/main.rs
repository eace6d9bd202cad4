//! The provider's process: started by Terraform, or by a person with `--debug` to attach to.
//!
//! All that serving means (handshake, TLS, signals, shutdown) is the SDK's. A crash loses nothing: what exists is in the
//! vault, and Terraform's state is Terraform's.

use std::process::ExitCode;

use terraform_provider_lifeboat::LifeboatProvider;
use tf_provider_sdk::ServeOptions;

fn main() -> ExitCode {
    tf_provider_sdk::serve(LifeboatProvider, ServeOptions::from_args())
}
