//! A proxy in front of a storage server that treats each request as a plan says.
//!
//! It reads a request whole before it does anything, and an answer whole before it passes it on, so that each fault
//! falls at one definite place: before the server saw the request, after it carried it out, or inside the answer.

use std::collections::HashMap;
use std::convert::Infallible;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result};
use bytes::Bytes;
use http::{Method, StatusCode, header};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

use crate::http::{Request, Response, send};

/// A request as the plan sees it.
#[derive(Clone, Debug)]
pub struct Seen {
    /// Its number, from 0.
    pub index: u64,
    /// Its method.
    pub method: Method,
    /// Path and query, escaped as on the wire.
    pub target: String,
    /// What it brings along.
    pub body: Bytes,
}

impl Seen {
    /// Whether it lists objects, of S3, Azure or Google.
    #[must_use]
    pub fn is_listing(&self) -> bool {
        self.method == Method::GET && (self.target.contains("list-type=2") || self.target.contains("comp=list"))
    }
}

/// What happens to a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Nothing.
    Pass,
    /// The connection is reset before the server sees the request.
    ResetBefore,
    /// The server carries the request out; the connection is reset instead of an answer.
    LostReply,
    /// The server never sees the request, and no answer comes.
    Hang,
    /// The server carries the request out, and no answer comes.
    HangAfter,
    /// The server never sees the request; this status comes, with these seconds as `Retry-After`.
    Status(u16, Option<u64>),
    /// The server carries the request out; this status comes all the same.
    StatusAfter(u16),
    /// Half of the answer's body comes, then the connection is reset.
    Truncate,
    /// The answer's body comes a little at a time.
    Slow,
    /// The server sees the request only after this: a store that is far away.
    Late(Duration),
    /// A listing that was asked for before is answered as it was answered first; any other request passes.
    StaleList,
}

type Plan = dyn Fn(&Seen) -> Fault + Send + Sync;

struct Shared {
    upstream: SocketAddr,
    plan: Mutex<Arc<Plan>>,
    seen: AtomicU64,
    /// Faults that struck, for tests that want to know that they tested something.
    struck: Mutex<Vec<(Seen, Fault)>>,
    /// First answers to listings, by what was asked.
    listings: Mutex<HashMap<String, Response>>,
}

/// The proxy; it ends when this is dropped.
pub struct FaultProxy {
    address: SocketAddr,
    shared: Arc<Shared>,
    task: JoinHandle<()>,
}

impl fmt::Debug for FaultProxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "FaultProxy({} -> {})", self.address, self.shared.upstream)
    }
}

impl Drop for FaultProxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl FaultProxy {
    /// Starts one in front of a server, on a free port of loopback; without a plan everything passes.
    ///
    /// # Errors
    /// No port is free.
    pub async fn start(upstream: SocketAddr) -> Result<Self> {
        Self::start_at(Ipv4Addr::LOCALHOST.into(), upstream).await
    }

    /// The same at another of this machine's addresses, for who reaches it over a network.
    ///
    /// # Errors
    /// No port is free, or the address isn't this machine's.
    pub async fn start_at(address: IpAddr, upstream: SocketAddr) -> Result<Self> {
        let listener = TcpListener::bind((address, 0)).await.with_context(|| format!("listen at {address}"))?;
        let address = listener.local_addr()?;
        let shared = Arc::new(Shared {
            upstream,
            plan: Mutex::new(Arc::new(|_: &Seen| Fault::Pass)),
            seen: AtomicU64::new(0),
            struck: Mutex::default(),
            listings: Mutex::default(),
        });
        let task = tokio::spawn(accept(listener, Arc::clone(&shared)));
        Ok(Self { address, shared, task })
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Its endpoint, for a server whose endpoint has no path.
    #[must_use]
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    /// From now on, this happens.
    pub fn plan(&self, plan: impl Fn(&Seen) -> Fault + Send + Sync + 'static) {
        *self.shared.plan.lock().unwrap_or_else(PoisonError::into_inner) = Arc::new(plan);
    }

    /// Requests seen so far.
    #[must_use]
    pub fn seen(&self) -> u64 {
        self.shared.seen.load(Ordering::Relaxed)
    }

    /// The faults that struck so far.
    #[must_use]
    pub fn struck(&self) -> Vec<(Seen, Fault)> {
        self.shared.struck.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    while let Ok((stream, _)) = listener.accept().await {
        let shared = Arc::clone(&shared);
        tokio::spawn(async move {
            // A second handle on the socket, to turn its end into a reset.
            let Ok(handle) = duplicate(&stream) else { return };
            let service = service_fn(move |request: http::Request<hyper::body::Incoming>| {
                let shared = Arc::clone(&shared);
                let handle = Arc::clone(&handle);
                async move {
                    let (parts, body) = request.into_parts();
                    let body = body.collect().await.map_err(|_| Reset)?.to_bytes();
                    shared.treat(Request::from_parts(parts, body), &handle).await
                }
            });
            let served = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service);
            // How the connection ends is the fault, if there is one.
            let _ = served.await;
        });
    }
}

fn duplicate(stream: &TcpStream) -> Result<Arc<OwnedFd>> {
    use std::os::fd::AsFd;
    Ok(Arc::new(stream.as_fd().try_clone_to_owned()?))
}

/// Ends the connection without an answer.
#[derive(Debug)]
struct Reset;

impl fmt::Display for Reset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the connection is cut by plan")
    }
}

impl std::error::Error for Reset {}

type Out = http::Response<http_body_util::combinators::BoxBody<Bytes, Reset>>;

fn whole(response: Response) -> Out {
    response.map(|body| http_body_util::Full::new(body).map_err(|never: Infallible| match never {}).boxed())
}

impl Shared {
    async fn treat(&self, request: Request, socket: &OwnedFd) -> Result<Out, Reset> {
        let seen = Seen {
            index: self.seen.fetch_add(1, Ordering::Relaxed),
            method: request.method().clone(),
            target: request.uri().to_string(),
            body: request.body().clone(),
        };
        let plan = Arc::clone(&*self.plan.lock().unwrap_or_else(PoisonError::into_inner));
        let fault = plan(&seen);
        // One that is only far away would be noted with every request.
        if !matches!(fault, Fault::Pass | Fault::Late(_)) {
            self.struck.lock().unwrap_or_else(PoisonError::into_inner).push((seen.clone(), fault));
        }
        let reset = || {
            // A connection that lingers for no time is reset when its last handle closes.
            let _ = rustix::net::sockopt::set_socket_linger(socket, Some(Duration::ZERO));
            Reset
        };
        match fault {
            Fault::ResetBefore => Err(reset()),
            Fault::Hang => std::future::pending().await,
            Fault::Status(status, retry_after) => Ok(whole(refusal(status, retry_after))),
            Fault::StaleList if seen.is_listing() => {
                let known = self.listings.lock().unwrap_or_else(PoisonError::into_inner).get(&seen.target).cloned();
                match known {
                    Some(old) => Ok(whole(old)),
                    None => self.forward(request, &seen).await.map(whole),
                }
            }
            Fault::Late(after) => {
                tokio::time::sleep(after).await;
                self.forward(request, &seen).await.map(whole)
            }
            Fault::Pass | Fault::StaleList => self.forward(request, &seen).await.map(whole),
            Fault::LostReply => {
                self.forward(request, &seen).await?;
                Err(reset())
            }
            Fault::HangAfter => {
                self.forward(request, &seen).await?;
                std::future::pending().await
            }
            Fault::StatusAfter(status) => {
                self.forward(request, &seen).await?;
                Ok(whole(refusal(status, None)))
            }
            Fault::Truncate => {
                let response = self.forward(request, &seen).await?;
                // What an answer without a body loses is itself.
                if response.body().is_empty() { Err(reset()) } else { Ok(in_pieces(response, true)) }
            }
            Fault::Slow => Ok(in_pieces(self.forward(request, &seen).await?, false)),
        }
    }

    async fn forward(&self, request: Request, seen: &Seen) -> Result<Response, Reset> {
        // A server that is away looks like a line that is cut.
        let response = send(self.upstream, request).await.map_err(|_| Reset)?;
        if seen.is_listing() {
            let mut listings = self.listings.lock().unwrap_or_else(PoisonError::into_inner);
            listings.entry(seen.target.clone()).or_insert_with(|| response.clone());
        }
        Ok(response)
    }
}

fn refusal(status: u16, retry_after: Option<u64>) -> Response {
    let mut response = crate::http::text(status, "");
    if let Some(seconds) = retry_after {
        response.headers_mut().insert(header::RETRY_AFTER, seconds.into());
    }
    if response.status() == StatusCode::OK {
        *response.status_mut() = StatusCode::INTERNAL_SERVER_ERROR;
    }
    response
}

/// The answer's body in eight pieces with a pause between them; cut off in the middle, or whole.
fn in_pieces(response: Response, cut: bool) -> Out {
    let (mut parts, body) = response.into_parts();
    parts.headers.remove(header::TRANSFER_ENCODING);
    parts.headers.insert(header::CONTENT_LENGTH, body.len().into());
    let piece = body.len().div_ceil(8).max(1);
    let pieces: Vec<Bytes> = body.chunks(piece).map(Bytes::copy_from_slice).collect();
    let sent = if cut { pieces.len() / 2 } else { pieces.len() };
    let (sender, receiver) = tokio::sync::mpsc::channel::<Result<Frame<Bytes>, Reset>>(1);
    tokio::spawn(async move {
        for piece in pieces.into_iter().take(sent) {
            tokio::time::sleep(Duration::from_millis(20)).await;
            if sender.send(Ok(Frame::data(piece))).await.is_err() {
                return;
            }
        }
        if cut {
            // The receiver may have given up already.
            let _ = sender.send(Err(Reset)).await;
        }
    });
    let body = StreamBody::new(Receiving(receiver));
    Out::from_parts(parts, body.boxed())
}

/// A channel as the stream of frames that a body is made of.
struct Receiving(tokio::sync::mpsc::Receiver<Result<Frame<Bytes>, Reset>>);

impl futures::Stream for Receiving {
    type Item = Result<Frame<Bytes>, Reset>;

    fn poll_next(
        mut self: std::pin::Pin<&mut Self>,
        context: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Self::Item>> {
        self.0.poll_recv(context)
    }
}
