//! A port for machines alone: who shows no certificate of a vault's authority is out again soon, and many strangers keep nobody out.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use lifeboat_identity::Peer;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::AbortHandle;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Lines at a time of machines that have proved who they are: a stream, and one to be told something, for each of 256.
pub(crate) const LINES_MAX: usize = 512;
/// Strangers at a time. One more, and the one that has been at it for longest is shown the door: whoever is let in needs milliseconds.
pub(crate) const HANDSHAKES_MAX: usize = 64;
pub(crate) const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

/// Takes a port, if that is asked for. `whom`: who is listened for; `flag`: what says where.
///
/// # Errors
/// One sentence: the address is taken or makes no sense.
pub(crate) async fn bind(address: Option<&str>, whom: &str, flag: &str) -> anyhow::Result<Option<TcpListener>> {
    let Some(address) = address else { return Ok(None) };
    let listener = TcpListener::bind(address).await.with_context(|| {
        format!(
            "{whom} can't be listened for on {address}: choose another address with {flag}, or stop what listens there"
        )
    })?;
    Ok(Some(listener))
}

/// A port, and what is asked of whoever comes.
pub(crate) struct Door {
    pub(crate) listener: TcpListener,
    pub(crate) tls: TlsAcceptor,
    /// One of them has to be agreed upon when hands are shaken.
    pub(crate) protocols: &'static [&'static [u8]],
    /// Who comes, for the log: `agent's`, `member's`.
    pub(crate) whose: &'static str,
}

impl Door {
    /// Serves each machine that comes until `stop`, and then waits until all of them have left.
    pub(crate) async fn keep<F>(
        self,
        stop: CancellationToken,
        serve: impl Fn(TlsStream<TcpStream>, Peer) -> F + Clone + Send + 'static,
        closing: impl Future<Output = ()>,
    ) where
        F: Future<Output = anyhow::Result<()>> + Send + 'static,
    {
        let Self { listener, tls, protocols, whose } = self;
        let slots = Arc::new(Semaphore::new(LINES_MAX));
        let lines = TaskTracker::new();
        let mut strangers: VecDeque<AbortHandle> = VecDeque::new();
        loop {
            let accepted = tokio::select! {
                () = stop.cancelled() => break,
                accepted = listener.accept() => accepted,
            };
            match accepted {
                Ok((stream, from)) => {
                    strangers.retain(|stranger| !stranger.is_finished());
                    if strangers.len() >= HANDSHAKES_MAX
                        && let Some(longest) = strangers.pop_front()
                    {
                        longest.abort();
                    }
                    let (tls, serve, slots, let_in) = (tls.clone(), serve.clone(), Arc::clone(&slots), lines.clone());
                    let stranger = lines.spawn(async move {
                        let (stream, peer) = match shake_hands(stream, &tls, protocols).await {
                            Ok(known) => known,
                            Err(error) => return tracing::debug!(%from, %error, "no {whose} line"),
                        };
                        let Ok(slot) = slots.try_acquire_owned() else {
                            return tracing::warn!(%from, machine = %peer.name, "{LINES_MAX} lines are open: no more are taken");
                        };
                        let_in.spawn(async move {
                            if let Err(error) = serve(stream, peer).await {
                                tracing::debug!(%from, %error, "the {whose} line ended");
                            }
                            drop(slot);
                        });
                    });
                    strangers.push_back(stranger.abort_handle());
                }
                Err(error) => {
                    // Out of file descriptors: wait for some to come back instead of spinning.
                    tracing::warn!(%error, "the {whose} connection can't be accepted");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
        }
        strangers.iter().for_each(AbortHandle::abort);
        closing.await;
        lines.close();
        lines.wait().await;
    }
}

/// Who is at the other end of a connection, and that they speak our language.
async fn shake_hands(
    stream: TcpStream,
    tls: &TlsAcceptor,
    protocols: &[&[u8]],
) -> anyhow::Result<(TlsStream<TcpStream>, Peer)> {
    stream.set_nodelay(true)?;
    let stream = tokio::time::timeout(HANDSHAKE_TIMEOUT, tls.accept(stream)).await??;
    let connection = stream.get_ref().1;
    let spoken = connection.alpn_protocol();
    anyhow::ensure!(protocols.iter().any(|known| spoken == Some(*known)), "it speaks another protocol");
    let peer = lifeboat_identity::peer(connection).context("it showed no certificate")?;
    Ok((stream, peer))
}
