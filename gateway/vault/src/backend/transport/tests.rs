//! What is read of an answer that says why not.

use super::*;

#[test]
fn codes_are_found_in_the_documents_of_each_service() {
    for (body, code) in [
        ("<?xml?><Error><Code>NoSuchKey</Code><Message>…</Message></Error>", Some("NoSuchKey")),
        (r#"{"error":"invalid_grant","error_description":"…"}"#, Some("invalid_grant")),
        (r#"{ "error" : "invalid_client" }"#, Some("invalid_client")),
        ("<Code>two words</Code>", None),
        ("<Code></Code>", None),
        ("<Code>", None),
        ("<html>nginx</html>", None),
        ("", None),
    ] {
        assert_eq!(code_in(body).as_deref(), code, "{body}");
    }
    assert_eq!(code_in(&format!("<Code>{}</Code>", "x".repeat(65))), None);
}

#[test]
fn a_refusal_inside_a_batch_is_found() {
    let part = |line: &str| {
        format!(
            "--batch_1\r\nContent-Type: application/http\r\nContent-ID: 0\r\n\r\nHTTP/1.1 {line}\r\n\r\n--batch_1--"
        )
    };
    assert!(batch_refusal(part("202 Accepted\r\nx-ms-request-id: 1").as_bytes()).is_none());
    for (line, status, code) in [
        ("404 Not Found\r\nx-ms-error-code: BlobNotFound", 404, "BlobNotFound"),
        ("409 Conflict\r\nx-ms-error-code: BlobImmutableDueToPolicy", 409, "BlobImmutableDueToPolicy"),
        ("404 Not Found\r\n\r\n<Error><Code>ContainerNotFound</Code></Error>", 404, "ContainerNotFound"),
    ] {
        let refused = batch_refusal(part(line).as_bytes()).unwrap();
        assert_eq!((refused.status.as_u16(), refused.code.as_deref()), (status, Some(code)));
    }
    assert!(batch_refusal(b"HTTP/1.1 9").is_none());
}
