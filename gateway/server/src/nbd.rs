//! NBD at this gateway: a unix socket in the state directory, always, and TCP where the settings say so.
//!
//! On loopback TCP is as the socket is: whoever is on this machine gets what it asks for. An address that others can reach is served
//! with TLS alone, and to each as the `export` of volumes says ([`crate::exports`]).

use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::Context as _;
use lifeboat_export::nbd::{NbdListener, NbdOptions, NbdServer, bind_unix};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use crate::context::Context;
use crate::export::Tree;
use crate::exports::Guests;
use crate::state_dir::StateDir;
use crate::tls::Identity;

/// The socket's name in the state directory.
pub(crate) const SOCKET: &str = "nbd.sock";

/// Listens on TCP, if that is asked for.
///
/// # Errors
/// One sentence: the address is taken or makes no sense.
pub(crate) async fn bind(address: Option<&str>) -> anyhow::Result<Option<TcpListener>> {
    let Some(address) = address else { return Ok(None) };
    let addresses: Vec<SocketAddr> = tokio::net::lookup_host(address)
        .await
        .with_context(|| format!("the address {address} of --listen-nbd can't be resolved"))?
        .collect();
    let listener = TcpListener::bind(addresses.as_slice()).await.with_context(|| {
        format!("NBD can't listen on {address}: choose another address with --listen-nbd, or stop what listens there")
    })?;
    Ok(Some(listener))
}

/// The sockets that clients come to.
#[derive(Debug)]
pub(crate) struct Listeners {
    /// For this machine.
    listeners: Vec<NbdListener>,
    /// What is said of these: TCP where there is TCP.
    address: String,
    /// For other machines.
    others: Option<(TcpListener, SocketAddr)>,
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
        let mut found = Self { listeners: vec![unix], address: path.display().to_string(), others: None };
        if let Some(tcp) = tcp {
            let address = tcp.local_addr().context("NBD's address can't be read")?;
            if address.ip().to_canonical().is_loopback() {
                found.address = address.to_string();
                found.listeners.push(NbdListener::Tcp(tcp));
            } else {
                found.others = Some((tcp, address));
            }
        }
        Ok(found)
    }

    /// Begins to serve, until the gateway stops.
    pub(crate) fn serve(self, context: &Arc<Context>, identity: &Arc<Identity>) -> Vec<JoinHandle<()>> {
        tracing::info!(address = self.address, "volumes are served over NBD");
        context.exported.set_nbd(self.address);
        let server = || NbdServer::new(Arc::new(Tree::new(context)), NbdOptions::default());
        let here = Arc::new(server());
        let serve =
            |server: &Arc<NbdServer>, listener| tokio::spawn(Arc::clone(server).serve(listener, context.stop.clone()));
        let mut tasks: Vec<_> = self.listeners.into_iter().map(|listener| serve(&here, listener)).collect();
        if let Some((listener, address)) = self.others {
            tracing::info!(%address, "volumes with an export are served over NBD with TLS");
            context.exports.set_nbd(address);
            // Counted by itself: other machines keep nobody of this one out.
            let guests = Arc::new(Guests::new(context, Arc::clone(identity)));
            tasks.push(serve(&Arc::new(server().admitting(guests)), NbdListener::Tcp(listener)));
        }
        tasks
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
    async fn an_address_is_one_that_is_free_and_whoever_is_elsewhere_is_kept_apart() {
        assert!(bind(None).await.expect("nothing asked").is_none());
        let here = bind(Some("127.0.0.1:0")).await.expect("loopback").expect("a listener");
        let taken = here.local_addr().expect("an address").to_string();
        let refused = async |address: &str| format!("{:#}", bind(Some(address)).await.expect_err("refused"));
        assert!(refused(&taken).await.contains("stop what listens there"));
        assert!(refused("nowhere.invalid:1").await.contains("can't be resolved"));
        // What is on loopback is for everybody on this machine; what isn't has a door of its own.
        let dir = tempfile::tempdir().expect("a directory");
        let state = StateDir::take(dir.path()).expect("a state directory");
        let listeners = Listeners::open(&state, Some(here)).expect("opened");
        assert!(listeners.others.is_none() && listeners.listeners.len() == 2 && listeners.address == taken);
        let open = bind(Some("0.0.0.0:0")).await.expect("free").expect("a listener");
        let listeners = Listeners::open(&state, Some(open)).expect("opened");
        assert!(listeners.others.is_some() && listeners.listeners.len() == 1);
        assert!(listeners.address.ends_with("nbd.sock"), "{}", listeners.address);
    }

    #[test]
    fn an_url_is_what_qemu_and_libnbd_take() {
        assert_eq!(url("127.0.0.1:10809", "db"), "nbd://127.0.0.1:10809/db");
        assert_eq!(url("[::1]:10809", "db"), "nbd://[::1]:10809/db");
        assert_eq!(url("/srv/a b/nbd.sock", "db"), "nbd+unix:///db?socket=/srv/a%20b/nbd.sock");
    }
}
