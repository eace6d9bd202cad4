//! Requests that jobs make of others over HTTP/1.1: one connection, one exchange, nothing followed.

use std::net::{IpAddr, SocketAddr};

use http::{Request, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

/// What was answered.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: StatusCode,
    pub(super) body: Vec<u8>,
    /// Whether that is all of it: it may be longer than was read, or have been cut off.
    pub(super) whole: bool,
}

/// A connection to the first of a host's addresses that answers. Addresses of this link alone are none of anybody's services.
pub(super) async fn dial(host: &str, port: u16) -> Result<TcpStream, String> {
    let addresses: Vec<SocketAddr> =
        tokio::net::lookup_host((host, port)).await.map_err(|error| format!("{host}: {error}"))?.collect();
    let mut last = format!("{host} has no address");
    for address in addresses {
        let local = match address.ip() {
            IpAddr::V4(ip) => ip.is_link_local() || ip.is_unspecified() || ip.is_multicast(),
            IpAddr::V6(ip) => ip.is_unicast_link_local() || ip.is_unspecified() || ip.is_multicast(),
        };
        if local {
            last = format!("{address} is an address that no request is sent to");
            continue;
        }
        match TcpStream::connect(address).await {
            Ok(stream) => return Ok(stream),
            Err(error) => last = format!("{address}: {error}"),
        }
    }
    Err(last)
}

/// Sends a request and reads at most so many bytes of what is answered.
pub(super) async fn exchange(
    stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
    request: Request<Full<Bytes>>,
    limit: usize,
) -> Result<Answer, String> {
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(|error| error.to_string())?;
    let asked = async {
        let answer = sender.send_request(request).await.map_err(|error| error.to_string())?;
        let status = answer.status();
        let mut incoming = answer.into_body();
        let (mut body, mut whole) = (Vec::new(), true);
        while let Some(frame) = incoming.frame().await {
            let Ok(frame) = frame else {
                whole = false;
                break;
            };
            let Some(data) = frame.data_ref() else { continue };
            let room = limit.saturating_sub(body.len());
            body.extend(data.iter().take(room));
            if data.len() > room {
                whole = false;
                break;
            }
        }
        Ok(Answer { status, body, whole })
    };
    tokio::pin!(asked);
    tokio::select! {
        answer = &mut asked => answer,
        ended = connection => match ended {
            Err(error) => Err(error.to_string()),
            // The connection is over once the answer is there.
            Ok(()) => asked.await,
        },
    }
}
