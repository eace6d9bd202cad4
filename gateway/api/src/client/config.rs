//! Where a client's endpoints, tokens and authorities come from.
//!
//! `LIFEBOAT_ENDPOINT`, `LIFEBOAT_TOKEN`, `LIFEBOAT_TOKEN_FILE` and `LIFEBOAT_CA_CERT` are lists, separated by commas. A
//! list of tokens has one entry for all endpoints, or one for each, in the same order. Authorities are files; all
//! certificates of all files count for every endpoint.

use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;

use super::connection::Endpoint;
use super::error::ClientError;
use crate::types::Secret;

/// The port of an endpoint that names none.
pub(super) const DEFAULT_PORT: u16 = 443;

/// What a client needs to know.
#[derive(Clone)]
pub struct ClientConfig {
    /// `https://host:port` each, tried in order.
    pub endpoints: Vec<String>,
    /// One for all endpoints, or one for each.
    pub tokens: Vec<Secret>,
    /// PEM certificates of the authorities, one text or several.
    pub ca_certificates: Vec<String>,
    /// A certificate and a key of the client's own, PEM; for gateways that ask for one.
    pub client_identity: Option<(String, Secret)>,
    /// How long connecting may take.
    pub connect_timeout: Duration,
    /// How long an answer may take.
    pub request_timeout: Duration,
}

impl fmt::Debug for ClientConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientConfig").field("endpoints", &self.endpoints).finish_non_exhaustive()
    }
}

impl Default for ClientConfig {
    fn default() -> Self {
        Self {
            endpoints: Vec::new(),
            tokens: Vec::new(),
            ca_certificates: Vec::new(),
            client_identity: None,
            connect_timeout: Duration::from_secs(3),
            request_timeout: Duration::from_secs(30),
        }
    }
}

impl ClientConfig {
    /// From `LIFEBOAT_ENDPOINT`, `LIFEBOAT_TOKEN` or `LIFEBOAT_TOKEN_FILE`, and `LIFEBOAT_CA_CERT`, as `variable` gives
    /// them. What isn't set stays empty, for the caller to fill in.
    ///
    /// # Errors
    /// `Usage` when a file that is named can't be read.
    pub fn from_variables(variable: impl Fn(&str) -> Option<String>) -> Result<Self, ClientError> {
        let list = |name: &str| variable(name).map(|text| split(&text)).unwrap_or_default();
        let mut config = Self { endpoints: list("LIFEBOAT_ENDPOINT"), ..Self::default() };
        config.tokens = list("LIFEBOAT_TOKEN").into_iter().map(Secret::new).collect();
        if config.tokens.is_empty() {
            for path in list("LIFEBOAT_TOKEN_FILE") {
                config.add_token_file(&path)?;
            }
        }
        for path in list("LIFEBOAT_CA_CERT") {
            config.add_ca_file(&path)?;
        }
        Ok(config)
    }

    /// From the environment of this process.
    ///
    /// # Errors
    /// `Usage` when a file that is named can't be read.
    pub fn from_env() -> Result<Self, ClientError> {
        Self::from_variables(|name| std::env::var(name).ok().filter(|text| !text.is_empty()))
    }

    /// Adds the token in a file.
    ///
    /// # Errors
    /// `Usage` when it can't be read.
    pub fn add_token_file(&mut self, path: impl AsRef<Path>) -> Result<(), ClientError> {
        let text = read(path.as_ref(), "the token")?;
        self.tokens.push(Secret::new(text.trim().to_owned()));
        Ok(())
    }

    /// Adds the authorities in a file.
    ///
    /// # Errors
    /// `Usage` when it can't be read.
    pub fn add_ca_file(&mut self, path: impl AsRef<Path>) -> Result<(), ClientError> {
        self.ca_certificates.push(read(path.as_ref(), "the authority's certificate")?);
        Ok(())
    }

    /// The endpoints, ready to be connected to.
    pub(super) fn endpoints(&self) -> Result<Vec<Endpoint>, ClientError> {
        if self.endpoints.is_empty() {
            return Err(ClientError::usage(
                "no endpoint: set LIFEBOAT_ENDPOINT, for example https://gateway.example:443",
            ));
        }
        if self.tokens.len() != 1 && self.tokens.len() != self.endpoints.len() {
            return Err(ClientError::usage(if self.tokens.is_empty() {
                "no token: set LIFEBOAT_TOKEN_FILE to the admin.token of the gateway's state directory, or LIFEBOAT_TOKEN".to_owned()
            } else {
                format!(
                    "{} tokens for {} endpoints: give one token for all endpoints, or one for each, separated by commas",
                    self.tokens.len(),
                    self.endpoints.len()
                )
            }));
        }
        let tls = Arc::new(self.tls()?);
        self.endpoints
            .iter()
            .enumerate()
            .map(|(index, url)| {
                let token = self.tokens.get(index).or(self.tokens.first()).cloned().unwrap_or_default();
                Endpoint::new(url, Some(token), Arc::clone(&tls), self.connect_timeout)
            })
            .collect()
    }

    fn tls(&self) -> Result<rustls::ClientConfig, ClientError> {
        let mut roots = rustls::RootCertStore::empty();
        for text in &self.ca_certificates {
            for certificate in CertificateDer::pem_slice_iter(text.as_bytes()) {
                let certificate = certificate.map_err(|source| {
                    ClientError::usage(format!("the authority's certificate can't be read: {source}"))
                })?;
                roots.add(certificate).map_err(|source| {
                    ClientError::usage(format!("the authority's certificate makes no sense: {source}"))
                })?;
            }
        }
        if roots.is_empty() {
            return Err(ClientError::usage(
                "no authority: set LIFEBOAT_CA_CERT to the ca.pem of the gateway's state directory",
            ));
        }
        let builder =
            rustls::ClientConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
                .with_safe_default_protocol_versions()
                .map_err(|source| ClientError::usage(format!("TLS can't be set up: {source}")))?
                .with_root_certificates(roots);
        let mut tls = match &self.client_identity {
            None => builder.with_no_client_auth(),
            Some((certificates, key)) => {
                let certificates = CertificateDer::pem_slice_iter(certificates.as_bytes())
                    .collect::<Result<Vec<_>, _>>()
                    .map_err(|source| ClientError::usage(format!("the client certificate can't be read: {source}")))?;
                let key = rustls_pki_types::PrivateKeyDer::from_pem_slice(key.expose().as_bytes())
                    .map_err(|source| ClientError::usage(format!("the client key can't be read: {source}")))?;
                builder.with_client_auth_cert(certificates, key).map_err(|source| {
                    ClientError::usage(format!("the client certificate and key don't fit: {source}"))
                })?
            }
        };
        tls.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(tls)
    }
}

fn split(text: &str) -> Vec<String> {
    text.split(',').map(str::trim).filter(|part| !part.is_empty()).map(str::to_owned).collect()
}

fn read(path: &Path, what: &str) -> Result<String, ClientError> {
    std::fs::read_to_string(path)
        .map_err(|source| ClientError::usage(format!("{what} can't be read from {}: {source}", path.display())))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(config: &ClientConfig) -> String {
        config.endpoints().expect_err("refused").to_string()
    }

    #[test]
    fn lists_are_separated_by_commas() {
        let config = ClientConfig::from_variables(|name| match name {
            "LIFEBOAT_ENDPOINT" => Some("https://a:1, https://b:2".into()),
            "LIFEBOAT_TOKEN" => Some("one,two".into()),
            _ => None,
        })
        .expect("no files named");
        assert_eq!(config.endpoints, ["https://a:1", "https://b:2"]);
        assert_eq!(config.tokens.iter().map(Secret::expose).collect::<Vec<_>>(), ["one", "two"]);
        assert!(!format!("{config:?}").contains("two"));
    }

    #[test]
    fn what_is_missing_is_named() {
        let mut config = ClientConfig::default();
        assert!(message(&config).contains("LIFEBOAT_ENDPOINT"));
        config.endpoints = vec!["https://a".into(), "https://b".into(), "https://c".into()];
        assert!(message(&config).contains("LIFEBOAT_TOKEN"));
        config.tokens = vec![Secret::new("x".into()), Secret::new("y".into())];
        assert!(message(&config).contains("2 tokens for 3 endpoints"));
        config.tokens.truncate(1);
        assert!(message(&config).contains("LIFEBOAT_CA_CERT"));
    }
}
