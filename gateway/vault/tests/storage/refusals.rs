//! Storage that isn't there, doesn't let us, or can't hold a vault: each says so, in its own words.

use lifeboat_lab::{Azurite, GcsDouble, Moto, S3rver};
use lifeboat_vault::{
    Access, Entropy, Environment, KeySource, StorageTarget, Store, StoreClass, Vault, VaultErrorKind, VaultOptions,
    VaultSettings, open_storage, probe,
};

use crate::{S3_CREDENTIALS, open, target};

async fn every_request(store: &dyn Store) -> Vec<lifeboat_vault::StoreError> {
    vec![
        store.list("vault").await.unwrap_err(),
        store.list_after("vault", "vault/1").await.unwrap_err(),
        store.list_dirs("").await.unwrap_err(),
        store.get("vault/1", 100).await.unwrap_err(),
        store.get_range("vault/1", 0..4).await.unwrap_err(),
        store.create("vault/1", "x".into()).await.unwrap_err(),
        store.delete("vault/1").await.unwrap_err(),
    ]
}

async fn there_is_no_bucket(target: &StorageTarget) {
    let store = open(target).await;
    for error in every_request(&*store).await {
        assert_eq!(error.class(), StoreClass::NoBucket, "{error}");
        assert!(error.to_string().contains("create it"), "{error}");
    }
    let key = KeySource::Passphrase("correct horse battery".to_owned().into());
    let error = Vault::open(store, &key, VaultOptions::for_tests()).await.unwrap_err();
    assert_eq!(error.kind(), VaultErrorKind::NoBucket, "{error}");
    assert!(!error.kind().is_recoverable());
}

async fn access_is_denied(target: &StorageTarget, secrets: &[&str]) {
    let store = open(target).await;
    let mut errors = every_request(&*store).await;
    errors.push(store.head("vault/1").await.unwrap_err());
    for error in errors {
        assert_eq!(error.class(), StoreClass::Denied, "{error}");
        let shown = format!("{error} {error:?} {store:?} {}", store.url());
        assert!(error.to_string().contains("credentials"), "{error}");
        for secret in secrets {
            assert!(!shown.contains(secret), "{shown}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bucket_that_is_missing_is_said_to_be_missing() {
    let moto = Moto::start(&[]).await.unwrap();
    there_is_no_bucket(&target("s3://absent/v", &moto.endpoint(), &S3_CREDENTIALS)).await;
    let gcs = GcsDouble::start("lab-bucket").await.unwrap();
    there_is_no_bucket(&target("gs://absent/v", &gcs.endpoint(), &GcsDouble::CREDENTIALS)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn azure_says_what_is_missing_and_who_is_wrong() {
    let azurite = Azurite::start(&["lab-container"]).await.unwrap();
    there_is_no_bucket(&target("az://absent/v", &azurite.endpoint(), &Azurite::CREDENTIALS)).await;
    let wrong = [Azurite::CREDENTIALS[0], ("AZURE_STORAGE_ACCOUNT_KEY", "aHVudGVyMg==")];
    access_is_denied(&target("az://lab-container/v", &azurite.endpoint(), &wrong), &["aHVudGVyMg", "hunter2"]).await;
    let sas = "sv=2021-12-02&ss=b&srt=sco&sp=rwdlac&se=2020-01-01T00:00:00Z&sig=aHVudGVyMg%3D%3D";
    let wrong = [Azurite::CREDENTIALS[0], ("AZURE_STORAGE_SAS_TOKEN", sas)];
    access_is_denied(&target("az://lab-container/v", &azurite.endpoint(), &wrong), &["aHVudGVyMg"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn google_says_who_is_wrong() {
    let gcs = GcsDouble::start("lab-bucket").await.unwrap();
    let wrong = [("GOOGLE_OAUTH_ACCESS_TOKEN", "hunter2-token")];
    access_is_denied(&target("gs://lab-bucket/v", &gcs.endpoint(), &wrong), &["hunter2"]).await;
}

/// It accepts the create-only condition and overwrites: two gateways would both believe that they own a branch.
#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_ignores_create_only_is_refused() {
    let s3rver = S3rver::start("lab-bucket").unwrap();
    let honest = target("s3://lab-bucket/v", &s3rver.endpoint(), &S3rver::CREDENTIALS);
    let store = open(&honest).await;
    let error = probe(&*store, &Entropy::system()).await.unwrap_err();
    assert_eq!(error.kind(), VaultErrorKind::Unsafe, "{error}");
    assert!(error.to_string().contains("second create-only write"), "{error}");
    assert!(store.list("").await.unwrap().is_empty(), "the probe cleans up");
    let key = KeySource::Passphrase("correct horse battery".to_owned().into());
    let made = Vault::create(store, VaultSettings::new("lab"), &key, VaultOptions::for_tests()).await;
    assert_eq!(made.unwrap_err().kind(), VaultErrorKind::Unsafe);
    let wrong = [("AWS_ACCESS_KEY_ID", "nobody"), ("AWS_SECRET_ACCESS_KEY", "hunter2-secret")];
    access_is_denied(&target("s3://lab-bucket/v", &s3rver.endpoint(), &wrong), &["hunter2"]).await;
}

#[tokio::test]
async fn settings_that_cannot_be_used_are_refused_before_anything_is_asked() {
    let s3 = |endpoint: &str| target("s3://bucket/v", endpoint, &S3_CREDENTIALS);
    let without = StorageTarget { environment: Environment::of([]), ..StorageTarget::new("s3://bucket/v") };
    let half = target("s3://bucket/v", "https://s3.example.com", &S3_CREDENTIALS[..1]);
    let region = StorageTarget { region: Some("eu-1/../x".into()), ..s3("https://s3.example.com") };
    let proxy =
        StorageTarget { proxy: Some("socks5://me:hunter2@p".to_owned().into()), ..s3("https://s3.example.com") };
    let plain = StorageTarget { proxy: Some("http://p:3128".to_owned().into()), ..s3("http://127.0.0.1:1") };
    let account = target("az://container/v", "https://a.example.com", &[("AZURE_STORAGE_ACCOUNT_NAME", "a")]);
    let broken = [("AZURE_STORAGE_ACCOUNT_NAME", "a"), ("AZURE_STORAGE_ACCOUNT_KEY", "hunter2 no base64")];
    let json = [("GOOGLE_SERVICE_ACCOUNT_KEY", "hunter2 no json")];
    let pem = r#"{"private_key":"hunter2","private_key_id":"i","client_email":"e@example.com"}"#;
    for (target, class, why) in [
        (s3("http://s3.example.com"), StoreClass::Fatal, "without TLS"),
        (s3("https://169.254.169.254"), StoreClass::Fatal, "link-local"),
        (without, StoreClass::Denied, "AWS_ACCESS_KEY_ID"),
        (half, StoreClass::Denied, "AWS_SECRET_ACCESS_KEY"),
        (region, StoreClass::Fatal, "no region"),
        (proxy, StoreClass::Fatal, "the proxy can't be used"),
        (plain, StoreClass::Fatal, "carries https only"),
        (account, StoreClass::Denied, "AZURE_STORAGE_SAS_TOKEN"),
        (target("az://container", "https://a.example.com", &broken), StoreClass::Fatal, "can't be used"),
        (target("gs://bucket", "https://g.example.com", &json), StoreClass::Fatal, "can't be used"),
        (
            target("gs://bucket", "https://g.example.com", &[("GOOGLE_SERVICE_ACCOUNT_KEY", pem)]),
            StoreClass::Fatal,
            "can't be used",
        ),
    ] {
        let error = open_storage(&target, Access::Open).await.expect_err(why);
        assert_eq!(error.class(), class, "{error}");
        let text = format!("{error} {error:?}");
        assert!(text.contains(why) && !text.contains("hunter2"), "{text}");
    }
}
