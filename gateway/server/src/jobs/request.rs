//! Requests that jobs make of others over HTTP/1.1: one connection, one exchange, nothing followed.

use std::net::SocketAddr;

use http::{Request, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

/// What was answered.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) body: Vec<u8>,
    /// Whether that is all of it: it may be longer than was read, or have been cut off.
    pub(crate) whole: bool,
}

/// A connection to the first of a host's addresses that answers. Who may write plans isn't who runs this machine: what only
/// it can reach is not asked for them.
pub(crate) async fn dial(host: &str, port: u16) -> Result<TcpStream, String> {
    let addresses: Vec<SocketAddr> =
        tokio::net::lookup_host((host, port)).await.map_err(|error| format!("{host}: {error}"))?.collect();
    let mut last = format!("{host} has no address");
    for address in addresses {
        if let Some(why) = lifeboat_vault::forbidden_address(address.ip()) {
            last = format!("no request is sent to {address}: {why}");
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
pub(crate) async fn exchange(
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

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_only_this_machine_can_reach_is_not_asked() {
        // The fourth is how the first is written to get past a check of IPv4 alone.
        for host in
            ["169.254.169.254", "168.63.129.16", "fd00:ec2::254", "::ffff:169.254.169.254", "fe80::1", "0.0.0.0"]
        {
            let error = dial(host, 80).await.expect_err(host);
            assert!(error.starts_with("no request is sent to "), "{host}: {error}");
        }
    }
}
