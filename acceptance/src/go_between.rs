//! Between the provider and a gateway: every request passes here, one can be struck at, and an answer can be kept back.
//!
//! ```text
//! terraform ── provider ──TLS──> GoBetween ──TLS──> gateway
//!                                   │ before a request goes on: what the test does meanwhile
//!                                   └ after it was carried out: its answer, once it is let go
//! ```
//! So a change by somebody else falls between the provider's GET and its PATCH, and a Ctrl-C between a POST and its answer, each time
//! and without a clock. It speaks TLS with a certificate of its own, which clients trust beside the gateway's authority.

use std::convert::Infallible;
use std::ffi::OsString;
use std::fmt;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::{Context, Result};
use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio_rustls::{TlsAcceptor, TlsConnector};

use crate::gateway::Gateway;

/// What becomes of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Treatment {
    /// It goes on.
    Pass,
    /// It goes on, and its answer is kept back until [`GoBetween::let_go`].
    KeepAnswer,
}

/// A request that was answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answered {
    /// Its method.
    pub method: Method,
    /// Its path, without the query.
    pub path: String,
    /// The answer's status.
    pub status: StatusCode,
}

type Treat = dyn FnMut(&Method, &str) -> Treatment + Send;

struct Shared {
    gateway: SocketAddr,
    connector: TlsConnector,
    treat: Mutex<Box<Treat>>,
    answered: Mutex<Vec<Answered>>,
    /// Answers that are kept back now.
    kept: watch::Sender<usize>,
    /// How often answers were let go.
    let_go: watch::Sender<u64>,
}

/// The go-between; it ends when this is dropped.
pub struct GoBetween {
    address: SocketAddr,
    authorities: PathBuf,
    token_file: PathBuf,
    shared: Arc<Shared>,
    // Its tasks end with it.
    _runtime: tokio::runtime::Runtime,
}

impl fmt::Debug for GoBetween {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "GoBetween({} -> {})", self.address, self.shared.gateway)
    }
}

impl GoBetween {
    /// Stands before a gateway that runs; `dir` is for the certificates that clients are to trust.
    ///
    /// # Errors
    /// No port is free, a certificate can't be made, or the gateway's authority can't be read.
    pub fn start(gateway: &Gateway, dir: &Path) -> Result<Self> {
        let own =
            rcgen::generate_simple_self_signed([Ipv4Addr::LOCALHOST.to_string()]).context("make a certificate")?;
        let authority = std::fs::read_to_string(gateway.ca_file()).context("read the gateway's authority")?;
        let authorities = dir.join("go-between.pem");
        std::fs::write(&authorities, own.cert.pem() + &authority).context("write the authorities")?;

        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let key = PrivateKeyDer::try_from(own.signing_key.serialize_der()).map_err(anyhow::Error::msg)?;
        let server = rustls::ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_single_cert(vec![own.cert.der().clone()], key)?;
        let mut roots = rustls::RootCertStore::empty();
        for certificate in CertificateDer::pem_slice_iter(authority.as_bytes()) {
            roots.add(certificate.context("read the gateway's authority")?)?;
        }
        let client = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_no_client_auth();

        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        let listener = runtime.block_on(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))).context("listen")?;
        let address = listener.local_addr()?;
        let shared = Arc::new(Shared {
            gateway: gateway.management(),
            connector: TlsConnector::from(Arc::new(client)),
            treat: Mutex::new(Box::new(|_, _| Treatment::Pass)),
            answered: Mutex::default(),
            kept: watch::Sender::new(0),
            let_go: watch::Sender::new(0),
        });
        runtime.spawn(accept(listener, TlsAcceptor::from(Arc::new(server)), Arc::clone(&shared)));
        Ok(Self { address, authorities, token_file: gateway.token_file(), shared, _runtime: runtime })
    }

    /// The environment that points the command line and Terraform here.
    #[must_use]
    pub fn client_environment(&self) -> Vec<(OsString, OsString)> {
        vec![
            ("LIFEBOAT_ENDPOINT".into(), format!("https://{}", self.address).into()),
            ("LIFEBOAT_TOKEN_FILE".into(), self.token_file.clone().into()),
            ("LIFEBOAT_CA_CERT".into(), self.authorities.clone().into()),
        ]
    }

    /// From now on, this is asked of every request, by method and path, before it goes on. Requests wait for each other there, so
    /// that it can do something meanwhile.
    pub fn treat(&self, treat: impl FnMut(&Method, &str) -> Treatment + Send + 'static) {
        *locked(&self.shared.treat) = Box::new(treat);
    }

    /// What has been answered since this was asked last, in order.
    #[must_use]
    pub fn answered(&self) -> Vec<Answered> {
        std::mem::take(&mut *locked(&self.shared.answered))
    }

    /// Whether an answer is kept back now.
    #[must_use]
    pub fn keeps_answer(&self) -> bool {
        *self.shared.kept.borrow() > 0
    }

    /// Lets go the answers that are kept back.
    pub fn let_go(&self) {
        self.shared.let_go.send_modify(|times| *times += 1);
    }
}

fn locked<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // What a panicking strike leaves behind is whole.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn accept(listener: TcpListener, acceptor: TlsAcceptor, shared: Arc<Shared>) {
    while let Ok((stream, _)) = listener.accept().await {
        let (acceptor, shared) = (acceptor.clone(), Arc::clone(&shared));
        tokio::spawn(async move {
            // Who doesn't trust it goes away again.
            let Ok(stream) = acceptor.accept(stream).await else { return };
            let service = service_fn(move |request| {
                let shared = Arc::clone(&shared);
                async move { Ok::<_, Infallible>(shared.pass(request).await.unwrap_or_else(|error| unreachable(&error))) }
            });
            let _ = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
        });
    }
}

fn unreachable(error: &anyhow::Error) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::from(format!("{error:#}")));
    *response.status_mut() = StatusCode::BAD_GATEWAY;
    response
}

impl Shared {
    async fn pass(self: &Arc<Self>, request: Request<Incoming>) -> Result<Response<Full<Bytes>>> {
        let (method, path) = (request.method().clone(), request.uri().path().to_owned());
        let asked = (Arc::clone(self), method.clone(), path.clone());
        let treatment = tokio::task::spawn_blocking(move || {
            let (shared, method, path) = asked;
            let mut treat = locked(&shared.treat);
            treat(&method, &path)
        })
        .await
        .context("strike")?;
        let mut let_go = self.let_go.subscribe();
        let_go.mark_unchanged();
        let answer = self.forward(request).await?;
        if treatment == Treatment::KeepAnswer {
            self.kept.send_modify(|kept| *kept += 1);
            let waited = let_go.changed().await;
            self.kept.send_modify(|kept| *kept -= 1);
            waited.context("wait to be let go")?;
        }
        locked(&self.answered).push(Answered { method, path, status: answer.status() });
        Ok(answer)
    }

    async fn forward(&self, request: Request<Incoming>) -> Result<Response<Full<Bytes>>> {
        let (parts, body) = request.into_parts();
        let body = body.collect().await.context("read the request")?.to_bytes();
        let stream = TcpStream::connect(self.gateway).await.context("connect to the gateway")?;
        let name = ServerName::from(self.gateway.ip());
        let stream = self.connector.connect(name, stream).await.context("begin TLS with the gateway")?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
        let connection = tokio::spawn(connection);
        let answer =
            sender.send_request(Request::from_parts(parts, Full::new(body))).await.context("ask the gateway")?;
        let (parts, body) = answer.into_parts();
        let body = body.collect().await.context("read the answer")?.to_bytes();
        connection.abort();
        Ok(Response::from_parts(parts, Full::new(body)))
    }
}
