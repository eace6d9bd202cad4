//! A webhook: one POST of JSON, signed, to an address that is what it says. Nothing is followed, and what only this machine can reach by
//! its place in the network (link-local addresses, metadata services) is not asked.

use std::sync::Arc;

use aws_lc_rs::hmac;
use http::{Request, Uri, header};
use http_body_util::Full;
use hyper::body::Bytes;
use lifeboat_model::Timestamp;
use rustls_pki_types::ServerName;
use secrecy::ExposeSecret;
use tokio_rustls::TlsConnector;

use super::{Notice, WebhookSettings, send};
use crate::auth::hex;
use crate::jobs::request::{Answer, dial, exchange};

const ANSWER_BYTES: usize = 4096;

/// `t=SECONDS,v1=HEX`: HMAC-SHA256 over `SECONDS.BODY`.
pub(super) fn signature(secret: &str, seconds: i64, body: &[u8]) -> String {
    let key = hmac::Key::new(hmac::HMAC_SHA256, secret.as_bytes());
    let mut signed = hmac::Context::with_key(&key);
    signed.update(format!("{seconds}.").as_bytes());
    signed.update(body);
    format!("t={seconds},v1={}", hex(signed.sign().as_ref()))
}

pub(super) async fn send(settings: &WebhookSettings, notice: &Notice) -> Result<(), String> {
    let body = serde_json::to_vec(notice).map_err(|error| error.to_string())?;
    let uri: Uri = settings.url.parse().map_err(|error| format!("{error}"))?;
    let host = uri.host().ok_or("the URL names no host")?.trim_matches(['[', ']']).to_owned();
    let tls = uri.scheme_str() == Some("https");
    let port = uri.port_u16().unwrap_or(if tls { 443 } else { 80 });
    let seconds = Timestamp::now().as_micros() / 1_000_000;
    let authority = uri.authority().map(ToString::to_string).unwrap_or_default();
    let request = Request::post(uri.path_and_query().map_or("/", http::uri::PathAndQuery::as_str))
        .header(header::HOST, authority.rsplit('@').next().unwrap_or_default())
        .header(header::CONTENT_TYPE, "application/json")
        .header(header::USER_AGENT, concat!("lifeboat/", env!("CARGO_PKG_VERSION")))
        .header("lifeboat-notice-id", &notice.id)
        .header("lifeboat-signature", signature(settings.secret.expose_secret(), seconds, &body))
        .body(Full::new(Bytes::from(body)))
        .map_err(|error| error.to_string())?;
    let stream = dial(&host, port).await?;
    let answer = if tls {
        let mut roots = rustls::RootCertStore::empty();
        roots.add_parsable_certificates(send::trusted(settings.ca.as_ref()).await?);
        let config =
            rustls::ClientConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
                .with_safe_default_protocol_versions()
                .map_err(|error| format!("TLS can't be set up: {error}"))?
                .with_root_certificates(roots)
                .with_no_client_auth();
        let name = ServerName::try_from(host).map_err(|error| error.to_string())?;
        let secured = TlsConnector::from(Arc::new(config)).connect(name, stream).await;
        let secured = secured.map_err(|error| send::refusal(&error).unwrap_or_else(|| error.to_string()))?;
        exchange(secured, request, ANSWER_BYTES).await?
    } else {
        exchange(stream, request, ANSWER_BYTES).await?
    };
    let Answer { status, .. } = answer;
    match status {
        status if status.is_success() => Ok(()),
        status if status.is_redirection() => {
            Err(format!("it answered {status}: redirections are not followed, give the URL it means"))
        }
        status => Err(format!("it answered {status}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_signature_is_what_the_guide_says() {
        // printf '1700000000.{}' | openssl dgst -sha256 -hmac secret
        assert_eq!(
            signature("secret", 1_700_000_000, b"{}"),
            "t=1700000000,v1=b8569b78799ff9e3cbff0fc2d63a33a2b57f3282abd07c37ae5e8e7d79a5f163"
        );
    }
}
