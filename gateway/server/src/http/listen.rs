//! The HTTPS listener: accepts, does TLS, hands connections to the router, with the machine at the other end if it is one.
//!
//! Bounded everywhere: connections, handshakes, headers and idle time. On cancellation it stops accepting, lets requests
//! under way finish for a bounded time, then drops what is left.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_rustls::LazyConfigAcceptor;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower::util::MapRequest;

use crate::machines::Doors;

/// Connections at a time; more wait in the kernel's queue.
const CONNECTIONS_MAX: usize = 512;
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
const HEADER_TIMEOUT: Duration = Duration::from_secs(10);
const DRAIN_TIMEOUT: Duration = Duration::from_secs(5);

/// Serves until `stop` is cancelled and what was under way is done.
pub(crate) async fn serve(listener: TcpListener, doors: Doors, router: Router, stop: CancellationToken) {
    let doors = Arc::new(doors);
    let slots = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let tasks = TaskTracker::new();
    loop {
        let slot = tokio::select! {
            () = stop.cancelled() => break,
            slot = Arc::clone(&slots).acquire_owned() => slot,
        };
        let accepted = tokio::select! {
            () = stop.cancelled() => break,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, peer)) => {
                let (doors, router, stop) = (Arc::clone(&doors), router.clone(), stop.clone());
                tasks.spawn(async move {
                    if let Err(error) = connection(stream, peer, &doors, router, stop).await {
                        tracing::debug!(%peer, %error, "connection ended");
                    }
                    drop(slot);
                });
            }
            Err(error) => {
                // Out of file descriptors: wait for some to come back instead of spinning.
                tracing::warn!(%error, "connection can't be accepted");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
    tasks.close();
    if tokio::time::timeout(DRAIN_TIMEOUT, tasks.wait()).await.is_err() {
        tracing::info!("requests that were still under way were dropped");
    }
}

/// Where a request comes from.
#[derive(Clone, Copy, Debug)]
pub(super) struct Peer {
    pub(super) address: SocketAddr,
    /// Whether that is this host.
    pub(super) is_here: bool,
}

async fn connection(
    stream: TcpStream,
    peer: SocketAddr,
    doors: &Doors,
    router: Router,
    stop: CancellationToken,
) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    stream.set_nodelay(true)?;
    let reached = stream.local_addr()?.ip();
    let is_here = peer.ip().is_loopback() || reached == peer.ip();
    let shaking = async {
        let begun = LazyConfigAcceptor::new(rustls::server::Acceptor::default(), stream).await?;
        let config =
            doors.of(begun.client_hello().server_name(), reached.to_canonical()).map_err(std::io::Error::other)?;
        begun.into_stream(config).await
    };
    let stream = tokio::time::timeout(HANDSHAKE_TIMEOUT, shaking).await??;
    let machine = lifeboat_identity::peer(stream.get_ref().1).map(Arc::new);
    let mut builder = Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(HEADER_TIMEOUT).max_headers(64);
    builder
        .http2()
        .timer(TokioTimer::new())
        .keep_alive_interval(Duration::from_secs(30))
        .keep_alive_timeout(Duration::from_secs(20))
        .max_concurrent_streams(64)
        .max_header_list_size(32 << 10);
    let router = MapRequest::new(router, move |mut request: http::Request<_>| {
        request.extensions_mut().insert(Peer { address: peer, is_here });
        if let Some(machine) = &machine {
            request.extensions_mut().insert(Arc::clone(machine));
        }
        request
    });
    let served = builder.serve_connection(TokioIo::new(stream), TowerToHyperService::new(router));
    let mut served = std::pin::pin!(served);
    tokio::select! {
        done = served.as_mut() => return done,
        () = stop.cancelled() => served.as_mut().graceful_shutdown(),
    }
    served.await
}
