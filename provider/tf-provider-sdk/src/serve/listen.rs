//! The unix socket, and the connections that come in through it.

use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use tempfile::TempDir;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::mpsc;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::transport::server::Connected;

use super::ServeError;

/// A peer that does not finish its TLS handshake by then is dropped.
const HANDSHAKE_TIME: Duration = Duration::from_secs(10);
/// A socket's path may have 108 bytes on Linux and 104 elsewhere, with the final zero.
const PATH_BYTES_MAX: usize = 100;

/// A socket in a directory of its own.
#[derive(Debug)]
pub(super) struct Listener {
    listener: UnixListener,
    path: PathBuf,
    directory: TempDir,
}

impl Listener {
    /// Binds below `base`, or the temporary directory. The directory has a random name and is for
    /// its owner only; it is removed with this value.
    pub(super) fn bind(base: Option<&Path>) -> Result<Self, ServeError> {
        let base = base.map_or_else(std::env::temp_dir, Path::to_path_buf);
        let mut directory = new_directory(&base)?;
        if directory.path().as_os_str().len() + "/plugin.sock".len() > PATH_BYTES_MAX {
            directory = new_directory(Path::new("/tmp"))?;
        }
        let path = directory.path().join("plugin.sock");
        let listener = UnixListener::bind(&path).map_err(ServeError::io("making the socket"))?;
        Ok(Self { listener, path, directory })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// The connections that got through TLS, until `shutdown`; and the directory, for whoever
    /// keeps the socket alive. TLS handshakes run beside each other, so that a peer that never
    /// speaks holds up nobody.
    pub(super) fn incoming(
        self,
        tls: Option<Arc<rustls::ServerConfig>>,
        shutdown: CancellationToken,
    ) -> (ReceiverStream<io::Result<Io>>, TempDir) {
        let (sender, receiver) = mpsc::channel(16);
        let acceptor = tls.map(TlsAcceptor::from);
        let listener = self.listener;
        tokio::spawn(async move {
            loop {
                let accepted = tokio::select! {
                    () = shutdown.cancelled() => return,
                    accepted = listener.accept() => accepted,
                };
                match accepted {
                    Ok((stream, _)) => {
                        tokio::spawn(handshake(acceptor.clone(), stream, sender.clone()));
                    }
                    Err(error) => {
                        tracing::warn!(%error, "a connection could not be accepted");
                        // Out of descriptors, most likely: give others time to close theirs.
                        tokio::time::sleep(Duration::from_millis(50)).await;
                    }
                }
            }
        });
        (ReceiverStream::new(receiver), self.directory)
    }
}

fn new_directory(base: &Path) -> Result<TempDir, ServeError> {
    tempfile::Builder::new()
        .prefix("tf-provider-")
        .permissions(std::fs::Permissions::from_mode(0o700))
        .tempdir_in(base)
        .map_err(ServeError::io("making the socket's directory"))
}

async fn handshake(acceptor: Option<TlsAcceptor>, stream: UnixStream, sender: mpsc::Sender<io::Result<Io>>) {
    let io = match acceptor {
        None => Io::Plain(stream),
        Some(acceptor) => match tokio::time::timeout(HANDSHAKE_TIME, acceptor.accept(stream)).await {
            Ok(Ok(stream)) => Io::Tls(Box::new(stream)),
            Ok(Err(error)) => return tracing::warn!(%error, "a connection was refused"),
            Err(_) => return tracing::warn!("a connection did not finish its handshake"),
        },
    };
    // The receiver is gone once the server shuts down: the connection is then dropped, as it should.
    let _ = sender.send(Ok(io)).await;
}

/// A connection, with or without TLS.
#[derive(Debug)]
pub(super) enum Io {
    Plain(UnixStream),
    Tls(Box<TlsStream<UnixStream>>),
}

impl Connected for Io {
    type ConnectInfo = ();

    fn connect_info(&self) {}
}

impl AsyncRead for Io {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_read(cx, buffer),
            Self::Tls(stream) => Pin::new(stream).poll_read(cx, buffer),
        }
    }
}

impl AsyncWrite for Io {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_write(cx, bytes),
            Self::Tls(stream) => Pin::new(stream).poll_write(cx, bytes),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_flush(cx),
            Self::Tls(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}
