//! Where a vault is and how it is reached: URL, endpoint, region, credentials, proxy.
//!
//! Owns which settings a caller may give and which the gateway's environment supplies. A caller's credentials are taken
//! whole or not at all: when any are given, none come from the environment, so that two halves of different accounts are
//! never mixed. What names a file on this machine, and what weakens the transport, is the operator's to decide: it is
//! read from the environment only. Secrets are shown nowhere: not by `Debug`, not in an error, not in a URL.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use secrecy::{ExposeSecret, SecretString};

use crate::error::{StoreClass, StoreError};

/// Settings of the operator: variables of the gateway's environment.
#[derive(Clone)]
pub struct Environment(Arc<Lookup>);

type Lookup = dyn Fn(&str) -> Option<String> + Send + Sync;

impl Environment {
    /// That of this process.
    #[must_use]
    pub fn process() -> Self {
        Self(Arc::new(|name| std::env::var(name).ok()))
    }

    /// Exactly these variables.
    #[must_use]
    pub fn of<const N: usize>(variables: [(&str, &str); N]) -> Self {
        let variables: BTreeMap<String, String> =
            variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        Self(Arc::new(move |name| variables.get(name).cloned()))
    }

    /// The first of these variables that is set and not empty.
    pub(crate) fn first(&self, names: &[&str]) -> Option<String> {
        names.iter().find_map(|name| (self.0)(name).filter(|value| !value.trim().is_empty()))
    }
}

impl fmt::Debug for Environment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Environment(…)")
    }
}

/// Credentials by the names that their owners know: `AWS_…`, `AZURE_…`, `GOOGLE_…`. `Debug` shows the names only.
#[derive(Clone, Default)]
pub struct Credentials(BTreeMap<String, SecretString>);

impl Credentials {
    /// These.
    #[must_use]
    pub fn of(pairs: impl IntoIterator<Item = (String, SecretString)>) -> Self {
        Self(pairs.into_iter().collect())
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Their names, sorted.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(String::as_str)
    }

    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(ExposeSecret::expose_secret)
    }

    fn put(&mut self, name: &str, value: String) {
        self.0.insert(name.to_owned(), value.into());
    }

    /// `text` with every secret in it blotted out: what a library says of a value may quote it.
    pub(crate) fn blot(&self, text: &str) -> String {
        self.0.values().map(ExposeSecret::expose_secret).filter(|value| value.len() >= 4).fold(
            text.to_owned(),
            |text, value| {
                if text.contains(value) { text.replace(value, "…") } else { text }
            },
        )
    }
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

/// Where a vault is and how it is reached.
#[derive(Clone)]
pub struct StorageTarget {
    /// `file:///directory`, `s3://bucket/prefix`, `az://container/prefix`, `gs://bucket/prefix`.
    pub url: String,
    /// Address of the storage service, where it isn't the provider's own: `https://host[:port][/path]`.
    pub endpoint: Option<String>,
    /// Region of an S3 bucket.
    pub region: Option<String>,
    /// Credentials; those of the environment when empty.
    pub credentials: Credentials,
    /// `http://[user:password@]host:port` through which to reach the storage; `HTTPS_PROXY` and `NO_PROXY` of the
    /// environment when absent.
    pub proxy: Option<SecretString>,
    /// The operator's settings.
    pub environment: Environment,
}

impl StorageTarget {
    /// The target at `url`, everything else from the environment of this process.
    pub fn new(url: impl Into<String>) -> Self {
        Self {
            url: url.into(),
            endpoint: None,
            region: None,
            credentials: Credentials::default(),
            proxy: None,
            environment: Environment::process(),
        }
    }
}

impl fmt::Debug for StorageTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StorageTarget")
            .field("url", &self.url)
            .field("endpoint", &self.endpoint)
            .field("region", &self.region)
            .field("credentials", &self.credentials)
            .field("proxy", &self.proxy.as_ref().map(|_| "…"))
            .finish_non_exhaustive()
    }
}

/// A provider of object storage.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Provider {
    S3,
    Azure,
    Gcs,
}

impl Provider {
    pub(crate) const fn service(self) -> &'static str {
        match self {
            Self::S3 => "S3",
            Self::Azure => "Azure Blob Storage",
            Self::Gcs => "Google Cloud Storage",
        }
    }

    /// What the provider calls the thing that holds objects.
    pub(crate) const fn bucket(self) -> &'static str {
        match self {
            Self::Azure => "container",
            Self::S3 | Self::Gcs => "bucket",
        }
    }

    /// Credentials that a caller may give, and other names under which the environment may have them.
    const fn given(self) -> &'static [(&'static str, &'static [&'static str])] {
        match self {
            Self::S3 => &[("AWS_ACCESS_KEY_ID", &[]), ("AWS_SECRET_ACCESS_KEY", &[]), ("AWS_SESSION_TOKEN", &[])],
            Self::Azure => &[
                ("AZURE_STORAGE_ACCOUNT_NAME", &["AZURE_STORAGE_ACCOUNT"]),
                ("AZURE_STORAGE_ACCOUNT_KEY", &["AZURE_STORAGE_KEY"]),
                ("AZURE_STORAGE_SAS_TOKEN", &[]),
                ("AZURE_TENANT_ID", &[]),
                ("AZURE_CLIENT_ID", &[]),
                ("AZURE_CLIENT_SECRET", &[]),
            ],
            Self::Gcs => &[("GOOGLE_SERVICE_ACCOUNT_KEY", &[]), ("GOOGLE_OAUTH_ACCESS_TOKEN", &[])],
        }
    }

    /// Credentials that name a file of this machine or another service: from the environment only.
    const fn ambient(self) -> &'static [&'static str] {
        match self {
            Self::S3 => &["AWS_WEB_IDENTITY_TOKEN_FILE", "AWS_ROLE_ARN", "AWS_ROLE_SESSION_NAME"],
            Self::Azure => &["AZURE_FEDERATED_TOKEN_FILE", "AZURE_AUTHORITY_HOST"],
            Self::Gcs => &["GOOGLE_APPLICATION_CREDENTIALS"],
        }
    }

    /// The endpoint that the environment gives, by the provider's own names for it.
    pub(crate) const fn endpoint_variables(self) -> &'static [&'static str] {
        match self {
            Self::S3 => &["AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL"],
            Self::Azure => &["AZURE_STORAGE_ENDPOINT"],
            Self::Gcs => &[],
        }
    }

    /// The credentials to use: those given, all of them known, or those of the environment.
    pub(crate) fn credentials(self, target: &StorageTarget) -> Result<Credentials, StoreError> {
        let known = || self.given().iter().map(|(name, _)| *name);
        if let Some(unknown) = target.credentials.names().find(|name| !known().any(|known| known == *name)) {
            let (service, known) = (self.service(), known().collect::<Vec<_>>().join(", "));
            return Err(StoreError::new(
                StoreClass::Fatal,
                format!("{unknown:?} is no credential for {service} that can be given; those are {known}"),
            ));
        }
        if !target.credentials.is_empty() {
            return Ok(target.credentials.clone());
        }
        let mut found = Credentials::default();
        for (name, others) in self.given() {
            let value = target.environment.first(&[name]).or_else(|| target.environment.first(others));
            if let Some(value) = value {
                found.put(name, value);
            }
        }
        for name in self.ambient() {
            if let Some(value) = target.environment.first(&[name]) {
                found.put(name, value);
            }
        }
        Ok(found)
    }

    /// What to do when there are none.
    pub(crate) fn no_credentials(self, url: &str) -> StoreError {
        let what = match self {
            Self::S3 => "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY",
            Self::Azure => {
                "AZURE_STORAGE_ACCOUNT_NAME with AZURE_STORAGE_ACCOUNT_KEY, AZURE_STORAGE_SAS_TOKEN, or \
                 AZURE_TENANT_ID, AZURE_CLIENT_ID and AZURE_CLIENT_SECRET"
            }
            Self::Gcs => "GOOGLE_SERVICE_ACCOUNT_KEY, or GOOGLE_APPLICATION_CREDENTIALS in the environment",
        };
        StoreError::new(
            StoreClass::Denied,
            format!("there are no credentials for {url}: give {what}, or set them in the gateway's environment"),
        )
    }
}

#[cfg(test)]
mod tests;
