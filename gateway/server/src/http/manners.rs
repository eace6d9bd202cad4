//! What every answer owes whoever asked: a connection that can be used again, and the methods that would have been right.

use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::{Body, HttpBody};
use axum::extract::Request;
use axum::middleware::Next;
use axum::response::Response;
use bytes::Bytes;
use http::{HeaderValue, StatusCode, header};
use http_body_util::BodyExt;
use hyper::body::{Frame, SizeHint};

use super::operations::operations;

/// How much of a body that nobody reads is taken off the line before the connection is given up, bytes.
const DRAINED_MAX: usize = 64 << 10;
/// How long that may take.
const DRAIN_TIME: Duration = Duration::from_secs(1);

type Left = Arc<Mutex<Option<Body>>>;

/// A request's body that leaves what wasn't read of it behind.
struct Kept {
    body: Option<Body>,
    left: Left,
}

impl Drop for Kept {
    fn drop(&mut self) {
        if let Some(body) = self.body.take().filter(|body| !body.is_end_stream()) {
            *self.left.lock().unwrap_or_else(PoisonError::into_inner) = Some(body);
        }
    }
}

impl HttpBody for Kept {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        match &mut self.body {
            Some(body) => Pin::new(body).poll_frame(context),
            None => Poll::Ready(None),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body.as_ref().is_none_or(HttpBody::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.body.as_ref().map(HttpBody::size_hint).unwrap_or_default()
    }
}

/// In front of everything else. A request that is refused before its body was read would cost its connection: the rest of
/// the body stands in the way of the next request, which a client may have sent already. It is read, if it is short.
pub(super) async fn keep(request: Request, next: Next) -> Response {
    let left = Left::default();
    let path = request.uri().path().to_owned();
    let request = request.map(|body| Body::new(Kept { body: Some(body), left: Arc::clone(&left) }));
    let mut response = next.run(request).await;
    let rest = left.lock().unwrap_or_else(PoisonError::into_inner).take();
    if let Some(mut rest) = rest {
        let drain = async {
            let mut drained = 0_usize;
            while drained <= DRAINED_MAX
                && let Some(Ok(frame)) = rest.frame().await
            {
                drained = drained.saturating_add(frame.data_ref().map_or(0, Bytes::len));
            }
        };
        // Whoever sends no end of it loses the connection.
        let _ = tokio::time::timeout(DRAIN_TIME, drain).await;
    }
    if response.status() == StatusCode::METHOD_NOT_ALLOWED
        && let Ok(allowed) = HeaderValue::try_from(allowed(&path).join(", "))
    {
        response.headers_mut().insert(header::ALLOW, allowed);
    }
    response
}

/// The methods that are described for a path, as words of the protocol.
fn allowed(path: &str) -> Vec<String> {
    let fits = |route: &str, path: &str| {
        let same = |(ours, theirs): (&str, &str)| ours == theirs || ours.starts_with('{');
        route.split('/').count() == path.split('/').count() && route.split('/').zip(path.split('/')).all(same)
    };
    let of = |path: &str, verb: Option<&str>| {
        let mut methods = Vec::new();
        for row in operations().filter(|row| row.verb() == verb && fits(row.route(), path)) {
            methods.push(row.method.to_uppercase());
            if row.method == "get" {
                methods.push("HEAD".to_owned());
            }
        }
        methods
    };
    // A verb where the path has one that is known; what may be done with the object itself otherwise.
    let verbs = path.rsplit_once(':').map(|(object, verb)| of(object, Some(verb)));
    verbs.filter(|methods| !methods.is_empty()).unwrap_or_else(|| of(path, None))
}

#[cfg(test)]
mod tests {
    use axum::{Router, middleware};
    use hyper_util::rt::{TokioExecutor, TokioIo};
    use hyper_util::server::conn::auto::Builder;
    use hyper_util::service::TowerToHyperService;
    use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};

    use super::*;

    /// A connection to something that refuses everything before it has read it.
    fn refusing() -> DuplexStream {
        let router = Router::new()
            .fallback(|| async { StatusCode::NOT_FOUND })
            .layer(middleware::from_fn(keep))
            .into_service::<hyper::body::Incoming>();
        let (near, far) = tokio::io::duplex(1 << 20);
        tokio::spawn(async move {
            let builder = Builder::new(TokioExecutor::new());
            let _ = builder.serve_connection(TokioIo::new(far), TowerToHyperService::new(router)).await;
        });
        near
    }

    /// Reads until so many answers are there, or the end.
    async fn answers(line: &mut DuplexStream, wanted: usize) -> usize {
        let mut text = String::new();
        let count = |text: &str| text.matches("HTTP/1.1 404").count();
        let mut part = [0; 4096];
        while count(&text) < wanted {
            match line.read(&mut part).await {
                Ok(0) | Err(_) => break,
                Ok(length) => text.push_str(&String::from_utf8_lossy(&part[..length])),
            }
        }
        count(&text)
    }

    #[tokio::test]
    async fn a_request_that_is_refused_before_it_was_read_costs_no_connection() {
        let mut line = refusing();
        for _ in 0..2 {
            line.write_all(b"POST /v1/x HTTP/1.1\r\nhost: a\r\ncontent-length: 4\r\n\r\n").await.unwrap();
            // The body comes when the refusal has long been decided.
            for _ in 0..50 {
                tokio::task::yield_now().await;
            }
            line.write_all(b"body").await.unwrap();
            assert_eq!(answers(&mut line, 1).await, 1);
        }
    }

    #[tokio::test]
    async fn a_long_one_does_and_a_slow_one_is_not_waited_for() {
        for length in [10 << 20, 4] {
            let mut line = refusing();
            let head = format!("POST /v1/x HTTP/1.1\r\nhost: a\r\ncontent-length: {length}\r\n\r\n");
            line.write_all(head.as_bytes()).await.unwrap();
            if length > 4 {
                line.write_all(&vec![b'x'; 200 << 10]).await.unwrap();
            }
            assert_eq!(answers(&mut line, 2).await, 1, "the answer, and then the end");
        }
    }

    #[test]
    fn a_path_allows_what_is_described_for_it() {
        assert_eq!(allowed("/v1/groups/grp-1"), ["GET", "HEAD", "PATCH", "DELETE"]);
        assert_eq!(allowed("/v1/groups/grp-1:failover"), ["POST"]);
        assert_eq!(allowed("/v1/groups"), ["GET", "HEAD", "POST"]);
        assert_eq!(allowed("/v1/groups/grp-1/points/pnt-1:label"), ["POST"]);
        assert_eq!(allowed("/v1/drills/d/report"), ["GET", "HEAD"]);
        assert_eq!(allowed("/nothing"), Vec::<String>::new());
    }
}
