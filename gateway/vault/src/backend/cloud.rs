//! S3, Azure Blob Storage and Google Cloud Storage: a target becomes a store of `object_store`.
//!
//! Each request is made once (`max_retries` is 0: the only repetition is in [`super::Backend`], and only of what changes
//! nothing by being repeated), single-shot, through [`super::transport`]. No metadata service of a cloud is asked for
//! credentials: without any, opening says what to give.

use std::sync::Arc;
use std::time::Duration;

use object_store::aws::AmazonS3Builder;
use object_store::azure::{AzureConfigKey, MicrosoftAzureBuilder};
use object_store::gcp::GoogleCloudStorageBuilder;
use object_store::path::Path;
use object_store::prefix::PrefixStore;
use object_store::{ClientOptions, ObjectStore, RetryConfig};

use super::endpoint;
use super::transport::Transport;
use crate::error::{StoreClass, StoreError};
use crate::storage::{Credentials, Provider, StorageTarget};

const GCS_ENDPOINT: &str = "https://storage.googleapis.com";

/// A bucket or container, and where in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) provider: Provider,
    pub(crate) bucket: String,
    /// Segments, without slashes at the ends; empty for the whole bucket.
    pub(crate) prefix: String,
}

/// The store at a place. Asks nothing of the network yet; reads certificates: blocking file work.
pub(crate) fn open(place: &Place, target: &StorageTarget) -> Result<Arc<dyn ObjectStore>, StoreError> {
    let Place { provider, bucket, prefix } = place;
    let credentials = provider.credentials(target)?;
    let allow_http = target.environment.first(&[endpoint::ALLOW_HTTP]).is_some_and(|value| value == "1");
    let endpoint = target.endpoint.clone().filter(|endpoint| !endpoint.trim().is_empty());
    let endpoint = endpoint.or_else(|| target.environment.first(provider.endpoint_variables()));
    let endpoint = endpoint.map(|endpoint| endpoint::check(&endpoint, allow_http)).transpose()?;
    let tls = endpoint.as_ref().is_none_or(|endpoint| endpoint.starts_with("https:"));
    if !tls && target.proxy.is_some() {
        return Err(StoreError::new(
            StoreClass::Fatal,
            format!("a proxy carries https only, and the endpoint of {} is http: leave the proxy away", target.url),
        ));
    }
    let transport = Transport::new(target, tls)?;
    let given = Given { bucket, endpoint, credentials, target, transport };
    let store = match provider {
        Provider::S3 => s3(&given)?,
        Provider::Azure => azure(&given)?,
        Provider::Gcs => gcs(&given)?,
    };
    Ok(if prefix.is_empty() { store } else { Arc::new(PrefixStore::new(store, Path::from(prefix.as_str()))) })
}

struct Given<'a> {
    bucket: &'a str,
    endpoint: Option<String>,
    credentials: Credentials,
    target: &'a StorageTarget,
    transport: Transport,
}

impl Given<'_> {
    fn unusable(&self, error: &dyn std::fmt::Display) -> StoreError {
        let text = self.credentials.blot(&error.to_string());
        StoreError::new(StoreClass::Fatal, format!("{} can't be used: {text}", self.target.url))
    }

    /// The names that are there out of those that belong together.
    fn has(&self, names: &[&str]) -> bool {
        names.iter().all(|name| self.credentials.get(name).is_some())
    }
}

fn once() -> RetryConfig {
    RetryConfig { max_retries: 0, retry_timeout: Duration::ZERO, ..RetryConfig::default() }
}

/// Whether a request may go without TLS is decided where the endpoint is checked and where connections are made.
fn options() -> ClientOptions {
    ClientOptions::new().with_allow_http(true)
}

fn s3(given: &Given<'_>) -> Result<Arc<dyn ObjectStore>, StoreError> {
    let environment = &given.target.environment;
    let region = given.target.region.clone().filter(|region| !region.trim().is_empty());
    let region = region.or_else(|| environment.first(&["AWS_REGION", "AWS_DEFAULT_REGION"]));
    let region = region.unwrap_or_else(|| "us-east-1".to_owned());
    // It becomes part of a host name.
    if region.len() > 63 || !region.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_') {
        return Err(StoreError::new(
            StoreClass::Fatal,
            format!("the region {region:?} is no region; give one such as eu-central-1"),
        ));
    }
    let mut builder = AmazonS3Builder::new()
        .with_bucket_name(given.bucket)
        .with_region(region)
        .with_retry(once())
        .with_client_options(options())
        .with_disable_bulk_delete(true)
        .with_disable_tagging(true)
        .with_http_connector(given.transport.clone());
    builder = match &given.endpoint {
        Some(endpoint) => builder.with_endpoint(endpoint).with_allow_http(true),
        // A dot in a bucket's name fits no certificate of the form *.s3.REGION.amazonaws.com.
        None => builder.with_virtual_hosted_style_request(!given.bucket.contains('.')),
    };
    let credentials = &given.credentials;
    if given.has(&["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"]) {
        builder = builder
            .with_access_key_id(credentials.get("AWS_ACCESS_KEY_ID").unwrap_or_default())
            .with_secret_access_key(credentials.get("AWS_SECRET_ACCESS_KEY").unwrap_or_default());
        if let Some(token) = credentials.get("AWS_SESSION_TOKEN") {
            builder = builder.with_token(token);
        }
    } else if given.has(&["AWS_WEB_IDENTITY_TOKEN_FILE", "AWS_ROLE_ARN"]) {
        use object_store::aws::AmazonS3ConfigKey as Key;
        for (name, key) in [
            ("AWS_WEB_IDENTITY_TOKEN_FILE", Key::WebIdentityTokenFile),
            ("AWS_ROLE_ARN", Key::RoleArn),
            ("AWS_ROLE_SESSION_NAME", Key::RoleSessionName),
        ] {
            if let Some(value) = credentials.get(name) {
                builder = builder.with_config(key, value);
            }
        }
    } else {
        return Err(Provider::S3.no_credentials(&given.target.url));
    }
    Ok(Arc::new(builder.build().map_err(|error| given.unusable(&error))?))
}

fn azure(given: &Given<'_>) -> Result<Arc<dyn ObjectStore>, StoreError> {
    let credentials = &given.credentials;
    let account = credentials.get("AZURE_STORAGE_ACCOUNT_NAME");
    let account = account.ok_or_else(|| Provider::Azure.no_credentials(&given.target.url))?;
    // It becomes part of a host name.
    if account.is_empty() || account.len() > 63 || !account.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-') {
        return Err(given.unusable(&"the storage account's name has characters that none has"));
    }
    let mut builder = MicrosoftAzureBuilder::new()
        .with_account(account)
        .with_container_name(given.bucket)
        .with_retry(once())
        .with_client_options(options())
        .with_disable_tagging(true)
        .with_http_connector(given.transport.clone());
    if let Some(endpoint) = &given.endpoint {
        builder = builder.with_endpoint(endpoint.clone()).with_allow_http(true);
    }
    if let Some(key) = credentials.get("AZURE_STORAGE_ACCOUNT_KEY") {
        builder = builder.with_access_key(key);
    } else if let Some(token) = credentials.get("AZURE_STORAGE_SAS_TOKEN") {
        builder = builder.with_config(AzureConfigKey::SasKey, token.trim_start_matches('?'));
    } else if given.has(&["AZURE_TENANT_ID", "AZURE_CLIENT_ID"])
        && (given.has(&["AZURE_CLIENT_SECRET"]) || given.has(&["AZURE_FEDERATED_TOKEN_FILE"]))
    {
        for (name, key) in [
            ("AZURE_TENANT_ID", AzureConfigKey::AuthorityId),
            ("AZURE_CLIENT_ID", AzureConfigKey::ClientId),
            ("AZURE_CLIENT_SECRET", AzureConfigKey::ClientSecret),
            ("AZURE_FEDERATED_TOKEN_FILE", AzureConfigKey::FederatedTokenFile),
            ("AZURE_AUTHORITY_HOST", AzureConfigKey::AuthorityHost),
        ] {
            if let Some(value) = credentials.get(name) {
                builder = builder.with_config(key, value);
            }
        }
    } else {
        return Err(Provider::Azure.no_credentials(&given.target.url));
    }
    Ok(Arc::new(builder.build().map_err(|error| given.unusable(&error))?))
}

fn gcs(given: &Given<'_>) -> Result<Arc<dyn ObjectStore>, StoreError> {
    let mut builder = GoogleCloudStorageBuilder::new()
        .with_bucket_name(given.bucket)
        // Given always: a service account's file may name another one, past the rules for endpoints.
        .with_base_url(given.endpoint.as_deref().unwrap_or(GCS_ENDPOINT))
        .with_retry(once())
        .with_client_options(options())
        .with_http_connector(given.transport.clone());
    let credentials = &given.credentials;
    builder = if let Some(key) = credentials.get("GOOGLE_SERVICE_ACCOUNT_KEY") {
        builder.with_service_account_key(key)
    } else if let Some(token) = credentials.get("GOOGLE_OAUTH_ACCESS_TOKEN") {
        builder.with_bearer_token(token)
    } else if let Some(path) = credentials.get("GOOGLE_APPLICATION_CREDENTIALS") {
        builder.with_application_credentials(path)
    } else {
        return Err(Provider::Gcs.no_credentials(&given.target.url));
    };
    Ok(Arc::new(builder.build().map_err(|error| given.unusable(&error))?))
}
