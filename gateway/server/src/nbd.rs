//! NBD at this gateway: a unix socket in the state directory, always, and TCP where the settings say so.
//!
//! The protocol here has neither encryption nor a password, so TCP is for this machine alone: an address that others can
//! reach is refused before anything is changed. From elsewhere a tunnel that has both leads to it (`ssh -L`).

use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::{Context as _, bail};
use lifeboat_export::nbd::{NbdListener, NbdOptions, NbdServer, bind_unix};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use crate::context::Context;
use crate::export::Tree;
use crate::state_dir::StateDir;

/// The socket's name in the state directory.
pub(crate) const SOCKET: &str = "nbd.sock";

/// Listens on TCP, if that is asked for.
///
/// # Errors
/// One sentence: the address is taken or makes no sense, or others than this machine could reach it.
pub(crate) async fn bind(address: Option<&str>) -> anyhow::Result<Option<TcpListener>> {
    let Some(address) = address else { return Ok(None) };
    let addresses: Vec<SocketAddr> = tokio::net::lookup_host(address)
        .await
        .with_context(|| format!("the address {address} of --listen-nbd can't be resolved"))?
        .collect();
    if let Some(open) = addresses.iter().find(|address| !address.ip().is_loopback()) {
        bail!(
            "NBD can't listen on {address}: it has neither encryption nor a password, and {} can be reached from other machines: \
             use 127.0.0.1:{port}, and lead others there through `ssh -L`",
            open.ip(),
            port = open.port()
        );
    }
    let listener = TcpListener::bind(addresses.as_slice()).await.with_context(|| {
        format!("NBD can't listen on {address}: choose another address with --listen-nbd, or stop what listens there")
    })?;
    Ok(Some(listener))
}

/// The sockets that clients come to.
#[derive(Debug)]
pub(crate) struct Listeners {
    listeners: Vec<NbdListener>,
    /// What others are told: TCP where there is TCP.
    address: String,
}

impl Listeners {
    /// Makes the socket in the state directory.
    ///
    /// # Errors
    /// It can't be made.
    pub(crate) fn open(state: &StateDir, tcp: Option<TcpListener>) -> anyhow::Result<Self> {
        let path = state.path().join(SOCKET);
        let unix = bind_unix(state.path(), SOCKET)
            .with_context(|| format!("the NBD socket {} can't be made", path.display()))?;
        let mut found = Self { listeners: vec![unix], address: path.display().to_string() };
        if let Some(tcp) = tcp {
            found.address = tcp.local_addr().context("NBD's address can't be read")?.to_string();
            found.listeners.push(NbdListener::Tcp(tcp));
        }
        Ok(found)
    }

    /// Begins to serve, until the gateway stops.
    pub(crate) fn serve(self, context: &Arc<Context>) -> Vec<JoinHandle<()>> {
        tracing::info!(address = self.address, "volumes are served over NBD");
        context.exported.set_nbd(self.address);
        let server = Arc::new(NbdServer::new(Arc::new(Tree::new(context)), NbdOptions::default()));
        let serve = |listener| tokio::spawn(Arc::clone(&server).serve(listener, context.stop.clone()));
        self.listeners.into_iter().map(serve).collect()
    }
}

/// The URL of a volume at a server: `address` is what it listens on, a path for a unix socket.
pub(crate) fn url(address: &str, export: &str) -> String {
    if !address.starts_with('/') {
        return format!("nbd://{address}/{export}");
    }
    let mut socket = String::with_capacity(address.len());
    for byte in address.bytes() {
        match byte {
            b'/' | b'-' | b'.' | b'_' | b'~' | b'0'..=b'9' | b'A'..=b'Z' | b'a'..=b'z' => socket.push(char::from(byte)),
            other => socket.push_str(&format!("%{other:02X}")),
        }
    }
    format!("nbd+unix:///{export}?socket={socket}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn only_this_machine_may_come_over_tcp() {
        assert!(bind(None).await.expect("nothing asked").is_none());
        let listener = bind(Some("127.0.0.1:0")).await.expect("loopback").expect("a listener");
        let taken = listener.local_addr().expect("an address").to_string();
        let refused = async |address: &str| format!("{:#}", bind(Some(address)).await.expect_err("refused"));
        assert!(refused(&taken).await.contains("stop what listens there"));
        for open in ["0.0.0.0:10809", "[::]:10809", "192.0.2.1:10809"] {
            let said = refused(open).await;
            assert!(said.contains("neither encryption nor a password") && said.contains("127.0.0.1:10809"), "{said}");
        }
        assert!(refused("nowhere.invalid:1").await.contains("can't be resolved"));
    }

    #[test]
    fn an_url_is_what_qemu_and_libnbd_take() {
        assert_eq!(url("127.0.0.1:10809", "db"), "nbd://127.0.0.1:10809/db");
        assert_eq!(url("[::1]:10809", "db"), "nbd://[::1]:10809/db");
        assert_eq!(url("/srv/a b/nbd.sock", "db"), "nbd+unix:///db?socket=/srv/a%20b/nbd.sock");
    }
}
