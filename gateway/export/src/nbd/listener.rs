//! Where clients come in: a unix socket, or TCP.
//!
//! On cancellation nobody is let in any more, connections are drained for a bounded time, and what is left is dropped.

use std::collections::VecDeque;
use std::fs::File;
use std::net::SocketAddr;
use std::os::fd::AsRawFd;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::guest::{self, Admission, Client};
use super::session::Broken;
use super::{NbdServer, STRANGERS_MAX, session};

/// What may come on top of the time for requests under way, before connections are dropped.
const CLOSE_WITHIN: Duration = Duration::from_secs(1);

/// A socket that clients come to.
#[derive(Debug)]
pub enum NbdListener {
    /// A unix socket: whoever may open it may use every volume.
    Unix(UnixListener),
    /// TCP: without encryption or authentication, so for loopback alone, but for a server that asks who comes
    /// ([`NbdServer::admitting`]).
    Tcp(TcpListener),
}

enum Stream {
    Unix(UnixStream),
    Tcp(TcpStream, SocketAddr),
}

/// Makes a unix socket that only its owner may open, in place of one that a dead process left.
///
/// # Errors
/// The directory can't be written.
pub fn bind_unix(dir: &Path, name: &str) -> std::io::Result<NbdListener> {
    // By the directory's descriptor: a socket's address has room for 107 bytes, and a path may have more. Under another name
    // until its mode is right.
    let opened = File::open(dir)?;
    let at = |name: &str| PathBuf::from(format!("/proc/self/fd/{}/{name}", opened.as_raw_fd()));
    let (new, path) = (at(&format!(".{name}.new")), at(name));
    match std::fs::remove_file(&new) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(&new)?;
    std::fs::set_permissions(&new, std::fs::Permissions::from_mode(0o600))?;
    std::fs::rename(&new, &path)?;
    Ok(NbdListener::Unix(listener))
}

impl NbdListener {
    async fn accept(&self) -> std::io::Result<Stream> {
        match self {
            Self::Unix(listener) => Ok(Stream::Unix(listener.accept().await?.0)),
            Self::Tcp(listener) => {
                let (stream, peer) = listener.accept().await?;
                // A reply that waits for more to come would wait for the client's next request.
                stream.set_nodelay(true)?;
                Ok(Stream::Tcp(stream, peer))
            }
        }
    }
}

impl NbdServer {
    /// Serves clients until `stop` is cancelled and what was under way is done, or the time for that is up.
    pub async fn serve(self: Arc<Self>, listener: NbdListener, stop: CancellationToken) {
        let mut tasks = JoinSet::new();
        let mut strangers: VecDeque<(AbortHandle, Arc<AtomicBool>)> = VecDeque::new();
        loop {
            let next = async {
                let slot = Arc::clone(&self.connections).acquire_owned().await;
                (slot, listener.accept().await)
            };
            let (slot, accepted) = tokio::select! {
                () = stop.cancelled() => break,
                Some(_) = tasks.join_next() => continue,
                next = next => next,
            };
            match accepted {
                Ok(stream) => {
                    let (server, stop) = (Arc::clone(&self), stop.clone());
                    let known = Arc::new(AtomicBool::new(false));
                    let knows = Arc::clone(&known);
                    let client = tasks.spawn(async move {
                        server.client(stream, &knows, stop).await;
                        drop(slot);
                    });
                    if self.admission.is_some() {
                        strangers.retain(|(task, known)| !task.is_finished() && !known.load(Ordering::Relaxed));
                        if strangers.len() >= STRANGERS_MAX
                            && let Some((longest, _)) = strangers.pop_front()
                        {
                            longest.abort();
                        }
                        strangers.push_back((client, known));
                    }
                }
                Err(error) => {
                    // Out of file descriptors: wait for some to come back instead of spinning.
                    tracing::warn!(%error, "an NBD connection can't be accepted");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
        }
        drop(listener);
        let drained = async { while tasks.join_next().await.is_some() {} };
        if timeout(self.options.drain_for + CLOSE_WITHIN, drained).await.is_err() {
            tracing::info!("NBD requests that were still under way were dropped");
        }
        tasks.shutdown().await;
    }

    /// `known` is told once the client has taken an export.
    async fn client(self: Arc<Self>, stream: Stream, known: &AtomicBool, stop: CancellationToken) {
        let (peer, ended) = match stream {
            Stream::Unix(stream) => {
                let (reader, writer) = stream.into_split();
                let local = session::Begun::local(known);
                ("unix socket".to_owned(), session::run(&self, reader, writer, local, stop).await)
            }
            Stream::Tcp(stream, peer) => {
                let ended = match &self.admission {
                    Some(admission) => self.guest(admission.as_ref(), stream, known, stop).await,
                    None => {
                        let (reader, writer) = stream.into_split();
                        session::run(&self, reader, writer, session::Begun::local(known), stop).await
                    }
                };
                (peer.to_string(), ended)
            }
        };
        if let Err(error) = ended {
            tracing::info!(peer, %error, "an NBD connection ended");
        }
    }

    async fn guest(
        self: &Arc<Self>,
        admission: &dyn Admission,
        stream: TcpStream,
        known: &AtomicBool,
        stop: CancellationToken,
    ) -> Result<(), Broken> {
        let secured = timeout(self.options.negotiate_within, guest::secure(admission, stream));
        let secured = tokio::select! {
            () = stop.cancelled() => return Ok(()),
            secured = secured => secured.map_err(|_| Broken::Stalled("shaking hands"))??,
        };
        let Some((stream, negotiation)) = secured else { return Ok(()) };
        let client = Client::Guest { admission, shown: guest::shown(&stream) };
        let (reader, writer) = tokio::io::split(stream);
        session::run(self, reader, writer, session::Begun { negotiation, greets: false, client, known }, stop).await
    }
}
