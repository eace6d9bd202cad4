//! What Terraform says in the environment, and the line that answers it.

use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;

use super::ServeError;

const COOKIE_KEY: &str = "TF_PLUGIN_MAGIC_COOKIE";
/// Not a secret: it only tells Terraform from a person's shell.
const COOKIE: &str = "d602bf8f470bc67ca7faa0386276bbdd4330efaf76d1a219cb4d6991ca9872b2";
/// The version of go-plugin's own protocol.
const CORE_VERSION: u32 = 1;
/// The version of Terraform's protocol.
const PROTOCOL: &str = "5";

const NOT_A_PROGRAM: &str = "This program is a Terraform provider: Terraform starts it.\n\
    Declare the provider in a configuration and run terraform there. To debug it, start it with --debug.";

/// What Terraform said.
#[derive(Debug)]
pub(super) struct Handshake {
    pub(super) client_certificate: CertificateDer<'static>,
    pub(super) socket_dir: Option<PathBuf>,
}

impl Handshake {
    pub(super) fn from_env() -> Result<Self, ServeError> {
        Self::from_variables(|name| std::env::var(name).ok())
    }

    fn from_variables(get: impl Fn(&str) -> Option<String>) -> Result<Self, ServeError> {
        let refuse = |text: &str| Err(ServeError::Handshake(text.to_owned()));
        if get(COOKIE_KEY).as_deref() != Some(COOKIE) {
            return refuse(NOT_A_PROGRAM);
        }
        let versions = get("PLUGIN_PROTOCOL_VERSIONS").unwrap_or_default();
        if !versions.split(',').any(|version| version.trim() == PROTOCOL) {
            return refuse(&format!(
                "This provider speaks plugin protocol {PROTOCOL}; Terraform offers {versions:?}. Use Terraform 0.12 or later."
            ));
        }
        let Some(pem) = get("PLUGIN_CLIENT_CERT").filter(|pem| !pem.is_empty()) else {
            return refuse("PLUGIN_CLIENT_CERT is not set: without the client's certificate anybody could connect.");
        };
        let client_certificate = CertificateDer::from_pem_slice(pem.as_bytes())
            .map_err(|error| ServeError::Handshake(format!("PLUGIN_CLIENT_CERT is not a certificate: {error}")))?;
        Ok(Self {
            client_certificate,
            socket_dir: get("PLUGIN_UNIX_SOCKET_DIR").filter(|dir| !dir.is_empty()).map(PathBuf::from),
        })
    }

    /// The line: versions, socket, kind, and our certificate in base64 without padding, which is
    /// what the other side decodes.
    pub(super) fn line(&self, socket: &Path, certificate: &CertificateDer<'_>) -> String {
        format!("{CORE_VERSION}|{PROTOCOL}|unix|{}|grpc|{}", socket.display(), STANDARD_NO_PAD.encode(certificate))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attempt(cookie: &str, versions: &str, certificate: &str) -> Result<Handshake, String> {
        Handshake::from_variables(|name| {
            let value = match name {
                COOKIE_KEY => cookie,
                "PLUGIN_PROTOCOL_VERSIONS" => versions,
                "PLUGIN_CLIENT_CERT" => certificate,
                _ => return None,
            };
            Some(value.to_owned())
        })
        .map_err(|error| error.to_string())
    }

    fn certificate() -> String {
        rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap().cert.pem()
    }

    #[test]
    fn a_whole_environment_is_taken() {
        for versions in ["5", "6,5", "5, 6"] {
            assert!(attempt(COOKIE, versions, &certificate()).is_ok(), "{versions}");
        }
    }

    #[test]
    fn each_missing_part_is_named() {
        let pem = certificate();
        for (cookie, versions, certificate, said) in [
            ("", "5", pem.as_str(), "Terraform starts it"),
            ("wrong", "5", &pem, "Terraform starts it"),
            (COOKIE, "6", &pem, "protocol 5"),
            (COOKIE, "", &pem, "protocol 5"),
            (COOKIE, "5", "", "PLUGIN_CLIENT_CERT is not set"),
            (COOKIE, "5", "nonsense", "not a certificate"),
        ] {
            let error = attempt(cookie, versions, certificate).unwrap_err();
            assert!(error.contains(said), "{error}");
        }
    }

    #[test]
    fn the_line_is_unpadded() {
        let handshake = attempt(COOKIE, "5", &certificate()).unwrap();
        for length in 1..5 {
            let der = CertificateDer::from(vec![7; length]);
            let line = handshake.line(Path::new("/tmp/x.sock"), &der);
            assert!(line.starts_with("1|5|unix|/tmp/x.sock|grpc|"), "{line}");
            assert!(!line.contains('='), "{line}");
        }
    }
}
