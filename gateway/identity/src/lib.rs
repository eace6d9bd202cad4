//! Who a machine is: certificates of a vault's own authority, and the TLS that asks for them.
//!
//! ```text
//!  vault: seed ──> authority ──signs──> a gateway's certificate (server and client, made by who has the vault's key)
//!                      └──────signs──> an agent's certificate   (client only, 24 h, for a key pair made at the agent)
//!  registration key (id, secret, fingerprint of the authority) ──CSR──> enrolment ──> machine: renews itself at two thirds
//! ```
//! name `lifeboat://<vault>/<kind>/<id>`: what a certificate says, and what of a presented one is believed
//! authority    the vault's authority: made of its seed, the same at every gateway, signs and nothing else
//! key_text     the text of a registration key
//! server       TLS for machines: whom a gateway lets shake hands, and the certificate that it shows
//! client       connecting to a gateway, as a gateway or as a machine
//! machine      the other side: enrols, keeps key and certificate in a directory, renews, connects
//! newcomer     a gateway that has no vault yet: enrols, and is told where the vault is
//!
//! It knows no vault, no catalog and no HTTP server: who asks for a signature, and whether a machine was revoked, is decided by
//! the server. A certificate is believed by three things together: the authority of the vault that it names, its time, and
//! [`Trust::admit`]. Nothing here writes a private key but [`Machine`], mode 0600, before anybody hears of its public half.

mod authority;
mod client;
mod key_text;
mod machine;
mod name;
mod newcomer;
mod pinned;
mod server;

pub use authority::{Authority, CLOCK_SKEW, Issued, LIFE, Request, RequestError};
pub use client::{connect, gateway_config};
pub use key_text::RegistrationKeyText;
pub use machine::{Machine, MachineError};
pub use name::{MachineKind, MachineName, Peer, server_name, vault_of};
pub use newcomer::{Newcomer, enrol_gateway, forget_newcomer};
pub use server::{Demand, Trust, peer, server_config};

use std::sync::Arc;

/// SHA-256 of a public key (its SubjectPublicKeyInfo, DER): which key it is, whatever a certificate says about it.
pub type Fingerprint = [u8; 32];

fn fingerprint(public_key_info: &[u8]) -> Fingerprint {
    let mut bytes = [0; 32];
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, public_key_info);
    bytes.copy_from_slice(digest.as_ref());
    bytes
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn provider() -> Arc<rustls::crypto::CryptoProvider> {
    Arc::new(rustls::crypto::aws_lc_rs::default_provider())
}
