//! What this appliance is, as its own gateway and kernel say.

use std::fs;
use std::net::UdpSocket;
use std::path::Path;

use aws_lc_rs::digest;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use lifeboat_api::Client;
use serde_json::Value;

use crate::connect;
use crate::failure::Exit;

/// Whether the gateway with this state directory is ready, or why it isn't.
pub(super) async fn ready(state: &Path) -> Result<(), String> {
    let config = connect::local(state).map_err(|error| match error.exit() {
        Exit::Unreachable => "the gateway is starting".to_owned(),
        _ => error.to_string(),
    })?;
    let client = Client::new(&config).map_err(|error| error.to_string())?;
    client.get::<Value>("/readyz", &[]).await.map(drop).map_err(|error| error.to_string())
}

/// The fingerprint of the gateway's authority.
pub(super) fn fingerprint(state: &Path) -> Option<String> {
    fingerprint_of(&fs::read_to_string(state.join("ca.pem")).ok()?)
}

/// SHA-256 of the certificate, as `openssl x509 -fingerprint -sha256` prints it.
fn fingerprint_of(pem: &str) -> Option<String> {
    let inner = pem.split("-----BEGIN CERTIFICATE-----").nth(1)?.split("-----END").next()?;
    let der = STANDARD.decode(inner.split_whitespace().collect::<String>()).ok()?;
    let sum = digest::digest(&digest::SHA256, &der);
    Some(sum.as_ref().iter().map(|byte| format!("{byte:02X}")).collect::<Vec<_>>().join(":"))
}

/// The address by which others are reached, and so most likely reach this machine; nothing is sent.
pub(super) fn address() -> Option<String> {
    let ask = |from: &str, to: &str| {
        let socket = UdpSocket::bind(from).ok()?;
        socket.connect(to).ok()?;
        Some(socket.local_addr().ok()?.ip())
    };
    // Documentation's networks: no machine is there.
    let v4 = ask("0.0.0.0:0", "192.0.2.1:9").map(|ip| ip.to_string());
    v4.or_else(|| ask("[::]:0", "[2001:db8::1]:9").map(|ip| format!("[{ip}]")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fingerprint_is_that_of_the_certificate_in_it() {
        let pem = "-----BEGIN CERTIFICATE-----\nYWJj\n-----END CERTIFICATE-----\n";
        let text = fingerprint_of(pem).unwrap();
        assert!(text.starts_with("BA:78:16:BF") && text.len() == 95, "{text}");
        assert_eq!(fingerprint_of("nothing"), None);
    }
}
