//! What each answer means, by provider and by what was asked.

use std::time::Duration;

use object_store::client::{HttpError, HttpErrorKind};

use super::*;

fn answered(status: u16, code: &str) -> object_store::Error {
    let rejected = Rejected {
        status: StatusCode::from_u16(status).unwrap(),
        code: (!code.is_empty()).then(|| code.to_owned()),
        retry_after: (status == 503).then_some(Duration::from_secs(7)),
        region: (status == 301).then(|| "eu-central-1".to_owned()),
    };
    object_store::Error::Generic { store: "S3", source: Box::new(HttpError::new(HttpErrorKind::Unknown, rejected)) }
}

fn asked(verb: &'static str, provider: Provider) -> Asked<'static> {
    Asked { verb, key: "vault/1", url: "s3://bucket", provider: Some(provider) }
}

#[test]
fn answers_are_sorted_by_what_the_caller_can_do() {
    use Provider::{Azure, Gcs, S3};
    use StoreClass as C;
    let table: &[(Provider, &'static str, u16, &str, StoreClass)] = &[
        // Create-only writes that found the name taken.
        (S3, verb::WRITE, 412, "PreconditionFailed", C::AlreadyExists),
        (S3, verb::WRITE, 409, "", C::AlreadyExists),
        (S3, verb::WRITE, 304, "", C::AlreadyExists),
        (Azure, verb::WRITE, 409, "BlobAlreadyExists", C::AlreadyExists),
        (Azure, verb::WRITE, 412, "ConditionNotMet", C::AlreadyExists),
        (Gcs, verb::WRITE, 412, "PreconditionFailed", C::AlreadyExists),
        // Another write of the same name is still under way: nothing is decided.
        (S3, verb::WRITE, 409, "ConditionalRequestConflict", C::Retry),
        (S3, verb::WRITE, 409, "OperationAborted", C::Retry),
        // Nothing there.
        (S3, verb::READ, 404, "NoSuchKey", C::NotFound),
        (S3, verb::HEAD, 404, "", C::NotFound),
        (Azure, verb::READ, 404, "BlobNotFound", C::NotFound),
        (Gcs, verb::DELETE, 404, "NoSuchKey", C::NotFound),
        // Nothing for it to be in.
        (S3, verb::READ, 404, "NoSuchBucket", C::NoBucket),
        (S3, verb::WRITE, 404, "", C::NoBucket),
        (S3, verb::LIST, 404, "", C::NoBucket),
        (Azure, verb::READ, 404, "ContainerNotFound", C::NoBucket),
        (Azure, verb::WRITE, 409, "ContainerBeingDeleted", C::NoBucket),
        // Who asks.
        (S3, verb::READ, 403, "AccessDenied", C::Denied),
        (S3, verb::LIST, 403, "SignatureDoesNotMatch", C::Denied),
        (S3, verb::WRITE, 403, "RequestTimeTooSkewed", C::Denied),
        (S3, verb::READ, 400, "ExpiredToken", C::Denied),
        (S3, verb::READ, 400, "AuthorizationHeaderMalformed", C::Denied),
        (Azure, verb::READ, 403, "AuthenticationFailed", C::Denied),
        (Gcs, verb::READ, 401, "", C::Denied),
        (Gcs, verb::READ, 400, "invalid_grant", C::Denied),
        (S3, verb::READ, 407, "", C::Denied),
        // For now.
        (S3, verb::WRITE, 503, "SlowDown", C::Retry),
        (S3, verb::READ, 429, "", C::Retry),
        (S3, verb::READ, 500, "InternalError", C::Retry),
        (S3, verb::WRITE, 400, "RequestTimeout", C::Retry),
        (Azure, verb::READ, 503, "ServerBusy", C::Retry),
        (Azure, verb::WRITE, 500, "OperationTimedOut", C::Retry),
        (Gcs, verb::READ, 408, "", C::Retry),
        (Gcs, verb::READ, 502, "", C::Retry),
        // Neither now nor later.
        (S3, verb::READ, 301, "PermanentRedirect", C::Fatal),
        (S3, verb::READ, 307, "TemporaryRedirect", C::Fatal),
        (S3, verb::READ, 416, "InvalidRange", C::Fatal),
        (S3, verb::READ, 400, "InvalidBucketName", C::Fatal),
        (S3, verb::WRITE, 501, "NotImplemented", C::Fatal),
        (Azure, verb::DELETE, 409, "BlobImmutableDueToPolicy", C::Fatal),
        (Azure, verb::DELETE, 412, "LeaseIdMissing", C::Fatal),
    ];
    for (provider, verb, status, code, class) in table {
        let error = translate(answered(*status, code), asked(verb, *provider));
        assert_eq!(error.class(), *class, "{provider:?} {verb} {status} {code}: {error}");
        assert_eq!(class.is_recoverable(), *class == C::Retry);
        let text = error.to_string();
        assert!(text.contains("vault/1") && text.contains("s3://bucket"), "{text}");
        assert!(std::error::Error::source(&error).is_none(), "what libraries say may quote secrets: {text}");
    }
}

#[test]
fn what_the_storage_asks_for_is_passed_on() {
    let error = translate(answered(503, "SlowDown"), asked(verb::READ, Provider::S3));
    assert_eq!(error.retry_after(), Some(Duration::from_secs(7)));
    let error = translate(answered(301, ""), asked(verb::READ, Provider::S3));
    assert!(error.to_string().contains("eu-central-1"), "{error}");
    let error = translate(answered(404, "ContainerNotFound"), asked(verb::LIST, Provider::Azure));
    assert!(error.to_string().contains("no such container; create it"), "{error}");
}

#[test]
fn without_an_answer_it_may_work_later_unless_a_person_must_act() {
    for (connect, class) in [
        (ConnectError::Network("no route".into()), StoreClass::Retry),
        (ConnectError::Refused("its certificate is not trusted".into()), StoreClass::Denied),
    ] {
        let source = Box::new(HttpError::new(HttpErrorKind::Connect, connect));
        let error = object_store::Error::Generic { store: "S3", source };
        assert_eq!(translate(error, asked(verb::READ, Provider::S3)).class(), class);
    }
    let cut = io::Error::new(io::ErrorKind::ConnectionReset, "reset");
    let source = Box::new(HttpError::new(HttpErrorKind::Interrupted, cut));
    let error = object_store::Error::Generic { store: "S3", source };
    assert_eq!(translate(error, asked(verb::WRITE, Provider::S3)).class(), StoreClass::Retry);
}
