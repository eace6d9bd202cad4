//! The adapter between tfplugin5 messages and `core`. It decodes, calls, encodes, and knows nothing
//! else.

mod convert;
mod lifecycle;
mod server;
mod streams;

pub(crate) use server::ProviderService;

use crate::diagnostic::Diagnostics;
use crate::value::{Type, Value};

/// The most bytes in one message, either way.
pub(crate) const MESSAGE_BYTES_MAX: usize = 256 << 20;

/// The messages and the service of tfplugin5.10, generated. Public for tests that call a provider
/// over gRPC; providers themselves have no use for them.
#[allow(
    missing_debug_implementations,
    unreachable_pub,
    missing_docs,
    clippy::all,
    clippy::pedantic,
    clippy::unwrap_used,
    clippy::allow_attributes_without_reason,
    reason = "generated code"
)]
pub mod tfplugin5 {
    tonic::include_proto!("tfplugin5");
}

/// The messages and services of go-plugin itself, generated. Public for the same reason.
#[allow(
    missing_debug_implementations,
    unreachable_pub,
    missing_docs,
    clippy::all,
    clippy::pedantic,
    clippy::unwrap_used,
    clippy::allow_attributes_without_reason,
    reason = "generated code"
)]
pub mod plugin {
    tonic::include_proto!("plugin");
}

impl tfplugin5::DynamicValue {
    /// Encodes a value as Terraform would send it, for tests over gRPC.
    pub fn encode(value: &Value) -> Self {
        convert::dynamic(value)
    }

    /// Decodes a value of type `ty`, for tests over gRPC.
    ///
    /// # Errors
    /// The bytes are not such a value.
    pub fn decode(&self, ty: &Type) -> Result<Value, Diagnostics> {
        convert::value(Some(self), ty)
    }
}
