//! Who comes over the network: in the clear nothing but the wish for TLS, then what the certificate that was shown may have.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use rustls_pki_types::CertificateDer;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use super::NbdServer;
use super::session::Broken;
use super::wire::{self, Negotiation, Refusal, Step, Violation};
use crate::tree::File;

/// Time between two looks whether a guest may still have what it has taken.
const LOOK_EVERY: Duration = Duration::from_secs(2);

/// Whether somebody may have an export.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Admitted {
    /// It may.
    Yes,
    /// It may not, or there is no such thing.
    No,
    /// That can't be said yet: this gateway has just started.
    Unsure,
}

/// Who may come over the network, and what for. Asked when a client comes, for each export, and again while it has one.
pub trait Admission: Send + Sync {
    /// How to shake hands with a client that came to this address of ours. A certificate has to be asked for, and its key to be
    /// proved; whom it belongs to is [`Self::admits`]'s business.
    ///
    /// # Errors
    /// It can't be said.
    fn tls(&self, reached: IpAddr) -> std::io::Result<Arc<rustls::ServerConfig>>;

    /// Whether who showed these certificates, its own first, may have an export.
    fn admits(&self, shown: &[CertificateDer<'static>], file: &File) -> Admitted;
}

/// Who is at the other end.
pub(super) enum Client<'a> {
    /// Somebody on this machine who could open our socket: everything may be had.
    Local,
    /// Who showed these certificates.
    Guest { admission: &'a dyn Admission, shown: Vec<CertificateDer<'static>> },
}

impl Client<'_> {
    pub(super) fn may_have(&self, file: &File) -> Admitted {
        match self {
            Self::Local => Admitted::Yes,
            Self::Guest { admission, shown } => admission.admits(shown, file),
        }
    }

    /// Waits until a client may no longer have what it has taken.
    pub(super) async fn loses(&self, file: &File) {
        loop {
            match self {
                Self::Local => std::future::pending().await,
                Self::Guest { .. } => tokio::time::sleep(LOOK_EVERY).await,
            }
            if self.may_have(file) == Admitted::No {
                return;
            }
        }
    }
}

/// Begins a conversation in the clear, and makes it a secret one; nothing when the client leaves before that.
pub(super) async fn secure(
    admission: &dyn Admission,
    mut stream: TcpStream,
) -> Result<Option<(TlsStream<TcpStream>, Negotiation)>, Broken> {
    let mut negotiation = Negotiation::default();
    let mut input = BytesMut::with_capacity(256);
    stream.write_all(&wire::greeting()).await?;
    loop {
        while let Some(step) = negotiation.next(&mut input)? {
            let mut out = BytesMut::new();
            match &step {
                Step::StartTls if !input.is_empty() => return Err(Violation::Early.into()),
                Step::StartTls => {
                    wire::put_ack(&mut out, &step);
                    stream.write_all(&out).await?;
                    let tls = admission.tls(stream.local_addr()?.ip().to_canonical())?;
                    return Ok(Some((TlsAcceptor::from(tls).accept(stream).await?, negotiation)));
                }
                Step::Abort => {
                    wire::put_ack(&mut out, &step);
                    stream.write_all(&out).await?;
                    return Ok(None);
                }
                Step::ExportName(_) => return Err(Violation::Clear.into()),
                Step::List | Step::Info(_) | Step::Go(_) | Step::Refuse { .. } => {
                    wire::put_refusal(&mut out, &step, Refusal::TlsRequired, "this server is used with TLS alone");
                    stream.write_all(&out).await?;
                }
            }
        }
        if stream.read_buf(&mut input).await? == 0 {
            return Ok(None);
        }
    }
}

/// The certificates that a client has shown.
pub(super) fn shown(stream: &TlsStream<TcpStream>) -> Vec<CertificateDer<'static>> {
    stream.get_ref().1.peer_certificates().unwrap_or_default().iter().map(|one| one.clone().into_owned()).collect()
}

impl NbdServer {
    /// A server for others than this machine: with TLS alone, and for whom `admission` knows. To be used with TCP.
    #[must_use]
    pub fn admitting(self, admission: Arc<dyn Admission>) -> Self {
        Self { admission: Some(admission), ..self }
    }
}
