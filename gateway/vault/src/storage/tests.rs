//! Credentials: taken whole or not at all, known by name, shown nowhere.

use super::*;

fn given(pairs: &[(&str, &str)]) -> Credentials {
    Credentials::of(pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).into())))
}

fn target<const N: usize>(credentials: &[(&str, &str)], environment: [(&str, &str); N]) -> StorageTarget {
    StorageTarget {
        credentials: given(credentials),
        environment: Environment::of(environment),
        ..StorageTarget::new("s3://bucket")
    }
}

#[test]
fn given_credentials_are_never_mixed_with_those_of_the_environment() {
    let environment =
        [("AWS_ACCESS_KEY_ID", "theirs"), ("AWS_SECRET_ACCESS_KEY", "secret"), ("AWS_SESSION_TOKEN", "t")];
    let found = Provider::S3.credentials(&target(&[], environment)).unwrap();
    assert_eq!(found.get("AWS_ACCESS_KEY_ID"), Some("theirs"));
    let found = Provider::S3.credentials(&target(&[("AWS_ACCESS_KEY_ID", "ours")], environment)).unwrap();
    assert_eq!(found.get("AWS_ACCESS_KEY_ID"), Some("ours"));
    assert_eq!(found.get("AWS_SESSION_TOKEN"), None);
}

#[test]
fn the_environment_may_use_the_other_common_names() {
    let environment = [("AZURE_STORAGE_ACCOUNT", "acme"), ("AZURE_STORAGE_KEY", "a2V5"), ("AZURE_CLIENT_ID", " ")];
    let found = Provider::Azure.credentials(&target(&[], environment)).unwrap();
    assert_eq!(found.names().collect::<Vec<_>>(), ["AZURE_STORAGE_ACCOUNT_KEY", "AZURE_STORAGE_ACCOUNT_NAME"]);
}

#[test]
fn names_that_are_unknown_or_name_a_file_of_this_machine_are_refused() {
    for name in ["AWS_WEB_IDENTITY_TOKEN_FILE", "AWS_ENDPOINT_URL", "allow_http", "AZURE_STORAGE_ACCOUNT_KEY"] {
        let error = Provider::S3.credentials(&target(&[(name, "hunter2")], [])).unwrap_err();
        assert_eq!(error.class(), StoreClass::Fatal);
        let text = error.to_string();
        assert!(text.contains(name) && text.contains("AWS_SECRET_ACCESS_KEY") && !text.contains("hunter2"), "{text}");
    }
    let error = Provider::Gcs.credentials(&target(&[("GOOGLE_APPLICATION_CREDENTIALS", "/etc/shadow")], []));
    assert!(error.is_err());
}

#[test]
fn secrets_are_shown_nowhere() {
    let target = StorageTarget {
        proxy: Some("http://me:hunter2@proxy:3128".to_owned().into()),
        ..target(&[("AWS_SECRET_ACCESS_KEY", "hunter2-key")], [("AWS_SESSION_TOKEN", "hunter2-token")])
    };
    let shown = format!("{target:?}");
    assert!(!shown.contains("hunter2") && shown.contains("AWS_SECRET_ACCESS_KEY"), "{shown}");
    assert_eq!(target.credentials.blot("bad value 'hunter2-key' at 3"), "bad value '…' at 3");
}
