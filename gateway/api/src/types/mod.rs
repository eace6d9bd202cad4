//! The JSON bodies of version 1.
//!
//! A resource reads as `{id, generation, created, updated, spec, status}`: `spec` is what a person declared, `status`
//! what the gateways observe. It is created by POSTing its spec, and changed by PATCHing a partial spec (RFC 7396: what
//! is absent stays, `null` clears, lists are replaced whole) under `If-Match: "<generation>"`. Only changes of the spec
//! raise the generation. Ids are opaque strings, compared exactly. Times are RFC 3339, UTC. Sizes are bytes.

mod action;
mod approval;
mod audit;
mod clean_point;
mod drill;
mod group;
mod identity;
mod job;
mod machine;
mod network;
mod notice;
mod place;
mod plan;
mod policy;
mod principal;
mod registration;
mod token;
mod vault;
mod volume;

pub use action::*;
pub use approval::*;
pub use audit::*;
pub use clean_point::*;
pub use drill::*;
pub use group::*;
pub use identity::*;
pub use job::*;
pub use machine::*;
pub use network::*;
pub use notice::*;
pub use place::*;
pub use plan::*;
pub use policy::*;
pub use principal::*;
pub use registration::*;
pub use token::*;
pub use vault::*;
pub use volume::*;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Declares the read view of a resource: id, generation, times, spec, status.
///
/// Its name is the spec's, unless another part is named as what people call it.
macro_rules! resource {
    ($(#[$doc:meta])* $name:ident, $id:ty, $spec:ty, $status:ty) => {
        crate::types::resource! { $(#[$doc])* $name, $id, $spec, $status, spec }
    };
    ($(#[$doc:meta])* $name:ident, $id:ty, $spec:ty, $status:ty, $named_by:ident) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize, utoipa::ToSchema)]
        pub struct $name {
            /// Opaque, unique, never used again.
            #[schema(value_type = String)]
            pub id: $id,
            /// Raised by every change of the spec; the ETag.
            pub generation: u64,
            /// When it was declared.
            #[schema(value_type = String, format = DateTime)]
            pub created: lifeboat_model::Timestamp,
            /// When the spec or the status last changed.
            #[schema(value_type = String, format = DateTime)]
            pub updated: lifeboat_model::Timestamp,
            /// What was declared.
            pub spec: $spec,
            /// What the gateways observe.
            pub status: $status,
        }

        impl crate::types::Resource for $name {
            type Spec = $spec;
            fn id(&self) -> String {
                self.id.to_string()
            }
            fn generation(&self) -> u64 {
                self.generation
            }
            fn name(&self) -> &str {
                &self.$named_by.name
            }
        }
    };
}
pub(crate) use resource;

/// A kind of object with a spec, a path and an ETag.
pub trait Resource: serde::de::DeserializeOwned + Serialize + Send + 'static {
    /// What is declared.
    type Spec: Serialize;
    /// Its id as text.
    fn id(&self) -> String;
    /// Its generation, to be sent as `If-Match`.
    fn generation(&self) -> u64;
    /// Its name.
    fn name(&self) -> &str;
}

/// One page of a list.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Page<T> {
    /// The objects, in a stable order.
    pub items: Vec<T>,
    /// Send it as `page_token` to get the next page; absent on the last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_page_token: Option<String>,
}

/// A secret in a request: never shown, wiped when dropped.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(transparent)]
#[schema(value_type = String, format = Password)]
pub struct Secret(String);

impl Secret {
    /// Takes the secret over.
    #[must_use]
    pub fn new(text: String) -> Self {
        Self(text)
    }

    /// The secret itself.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl Drop for Secret {
    fn drop(&mut self) {
        zeroize::Zeroize::zeroize(&mut self.0);
    }
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("[secret]")
    }
}
