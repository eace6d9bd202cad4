//! One connection from its first byte to its last: the negotiation, then the transmission.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::BytesMut;
use lifeboat_engine::{BlockVolume, EngineError, ErrorKind};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;

use super::guest::{Admitted, Client};
use super::wire::{self, ExportInfo, Negotiation, Refusal, Step, Violation};
use super::{NbdServer, name, transmission};
use crate::tree::{Dir, File};

/// Time between two looks for a volume that is not open yet.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// The most names of a list; what is not listed can be opened nevertheless.
const LISTED_MAX: usize = 10_000;

/// Why a connection ended that wasn't left in order.
#[derive(Debug, thiserror::Error)]
pub(super) enum Broken {
    /// The client speaks something else.
    #[error(transparent)]
    Violation(#[from] Violation),
    /// The connection broke.
    #[error("the connection broke: {0}")]
    Io(#[from] std::io::Error),
    /// The client stopped in the middle.
    #[error("the client took too long over {0}")]
    Stalled(&'static str),
    /// A request's task panicked.
    #[error("a request was not answered: {0}")]
    Lost(#[from] tokio::task::JoinError),
}

/// An export that a client has taken.
#[derive(Debug)]
pub(super) struct Taken {
    pub(super) file: File,
    pub(super) volume: Arc<dyn BlockVolume>,
    /// Its size when it was taken: the client knows no other.
    pub(super) size_bytes: u64,
}

/// A conversation up to where it is taken over.
pub(super) struct Begun<'a> {
    pub(super) negotiation: Negotiation,
    /// Whether the server's first words are still to be said.
    pub(super) greets: bool,
    pub(super) client: Client<'a>,
    /// Told once an export is taken.
    pub(super) known: &'a AtomicBool,
}

impl<'a> Begun<'a> {
    /// Not begun, with somebody on this machine.
    pub(super) fn local(known: &'a AtomicBool) -> Self {
        Self { negotiation: Negotiation::default(), greets: true, client: Client::Local, known }
    }
}

/// Serves a client until it leaves, its volume goes away, it may no longer have that, or `stop` is cancelled.
pub(super) async fn run<R, W>(
    server: &Arc<NbdServer>,
    mut reader: R,
    mut writer: W,
    begun: Begun<'_>,
    stop: CancellationToken,
) -> Result<(), Broken>
where
    R: AsyncRead + Unpin + Send,
    W: AsyncWrite + Unpin + Send + 'static,
{
    let Begun { negotiation, greets, client, known } = begun;
    let mut input = BytesMut::with_capacity(4096);
    let talk = Talk { server, client: &client, stop: &stop };
    let negotiated = timeout(
        server.options.negotiate_within,
        talk.negotiate(negotiation, greets, &mut reader, &mut writer, &mut input),
    );
    let taken = tokio::select! {
        () = stop.cancelled() => return Ok(()),
        taken = negotiated => taken.map_err(|_| Broken::Stalled("the negotiation"))??,
    };
    let Some(taken) = taken else { return Ok(()) };
    known.store(true, Ordering::Relaxed);
    let file = taken.file.clone();
    // Who is to go leaves as when the server stops: what is under way is done first.
    let leave = stop.child_token();
    let served = transmission::run(server, taken, reader, input, writer, leave.clone());
    let mut served = std::pin::pin!(served);
    tokio::select! {
        ended = served.as_mut() => ended,
        () = client.loses(&file) => {
            tracing::info!(%file, "an NBD client may no longer have its export");
            leave.cancel();
            served.await
        }
    }
}

/// Who negotiates with whom.
struct Talk<'a> {
    server: &'a NbdServer,
    client: &'a Client<'a>,
    stop: &'a CancellationToken,
}

impl Talk<'_> {
    /// Answers options until an export is taken; `None` when the client leaves before that.
    async fn negotiate<R, W>(
        &self,
        mut negotiation: Negotiation,
        greets: bool,
        reader: &mut R,
        writer: &mut W,
        input: &mut BytesMut,
    ) -> Result<Option<Taken>, Broken>
    where
        R: AsyncRead + Unpin,
        W: AsyncWrite + Unpin,
    {
        if greets {
            writer.write_all(&wire::greeting()).await?;
        }
        loop {
            while let Some(step) = negotiation.next(input)? {
                let mut out = BytesMut::new();
                let no_zeroes = negotiation.no_zeroes();
                let next = self.answer(&step, no_zeroes, &mut out).await;
                writer.write_all(&out).await?;
                writer.flush().await?;
                match next {
                    Next::Go(taken) => return Ok(Some(taken)),
                    Next::Leave => return Ok(None),
                    Next::Option => {}
                }
            }
            if reader.read_buf(input).await? == 0 {
                return Ok(None);
            }
        }
    }

    async fn answer(&self, step: &Step, no_zeroes: bool, out: &mut BytesMut) -> Next {
        match step {
            Step::ExportName(name) => match self.find(name).await {
                Ok(taken) => {
                    wire::put_export(out, info(&taken), no_zeroes);
                    Next::Go(taken)
                }
                Err((_, message)) => {
                    tracing::info!(name, message, "an NBD client asked for an export that can't be had");
                    Next::Leave
                }
            },
            Step::Abort => {
                wire::put_ack(out, step);
                Next::Leave
            }
            Step::List => {
                for name in self.list().await {
                    wire::put_listed(out, &name);
                }
                wire::put_ack(out, step);
                Next::Option
            }
            Step::Info(asked) | Step::Go(asked) => match self.find(&asked.name).await {
                Ok(taken) => {
                    let spelled = name::of(&taken.file);
                    wire::put_info(out, step, info(&taken), asked.wants_name.then_some(spelled.as_str()));
                    wire::put_ack(out, step);
                    if matches!(step, Step::Go(_)) { Next::Go(taken) } else { Next::Option }
                }
                Err((refusal, message)) => {
                    wire::put_refusal(out, step, refusal, &message);
                    Next::Option
                }
            },
            Step::StartTls => {
                let (refusal, message) = match self.client {
                    Client::Local => (Refusal::Unsupported, "there is no TLS on this socket"),
                    Client::Guest { .. } => (Refusal::Invalid, "this is TLS already"),
                };
                wire::put_refusal(out, step, refusal, message);
                Next::Option
            }
            Step::Refuse { refusal, message, .. } => {
                wire::put_refusal(out, step, *refusal, message);
                Next::Option
            }
        }
    }

    /// The volume behind a name; waits for one that is to come.
    async fn find(&self, name: &str) -> Result<Taken, (Refusal, String)> {
        let Some(file) = name::parse(name) else {
            return Err((
                Refusal::Unknown,
                format!("{name:?} names no volume: NAME, points/GROUP/TIME/NAME or branches/BRANCH/NAME"),
            ));
        };
        let deadline = Instant::now() + self.server.options.wait_for_volume;
        loop {
            let error = match self.client.may_have(&file) {
                Admitted::No => {
                    // The same for what is not there: names are nobody else's business.
                    let message = format!("no export block of a volume lets who shows this certificate have {name:?}");
                    return Err((Refusal::Policy, message));
                }
                Admitted::Unsure => EngineError::new(ErrorKind::Retry, "this gateway has just started"),
                Admitted::Yes => match self.server.tree.open(&file).await {
                    Ok(volume) => {
                        let size_bytes = volume.size_bytes();
                        return Ok(Taken { file, volume, size_bytes });
                    }
                    Err(error) => error,
                },
            };
            let may_come = match error.kind() {
                ErrorKind::Retry => true,
                ErrorKind::NotFound | ErrorKind::Closed => self.server.tree.expects(&file),
                _ => false,
            };
            if !may_come {
                tracing::debug!(%file, %error, "export refused");
                return Err((Refusal::Unknown, error.to_string()));
            }
            if Instant::now() >= deadline {
                return Err((Refusal::Unknown, format!("{name} is not open at this gateway yet; try again: {error}")));
            }
            tokio::select! {
                () = self.stop.cancelled() => return Err((Refusal::Shutdown, "the gateway is stopping".to_owned())),
                () = tokio::time::sleep(LOOK_EVERY) => {}
            }
        }
    }

    /// The names of the volumes and of the branches' volumes, as far as this client may have them. A directory that can't be read is
    /// left out.
    async fn list(&self) -> Vec<String> {
        let mut files = Vec::new();
        let listed = async |dir: &Dir| {
            self.server.tree.list(dir).await.unwrap_or_else(|error| {
                tracing::debug!(%dir, %error, "left out of the list of exports");
                Vec::new()
            })
        };
        for volume in listed(&Dir::Volumes).await {
            files.push(File::Volume { volume });
        }
        for branch in listed(&Dir::Branches).await {
            for volume in listed(&Dir::Branch { branch: branch.clone() }).await {
                files.push(File::Branch { branch: branch.clone(), volume });
            }
        }
        let mut names: Vec<String> =
            files.iter().filter(|file| self.client.may_have(file) == Admitted::Yes).map(name::of).collect();
        names.sort();
        names.truncate(LISTED_MAX);
        names
    }
}

/// What follows on an option.
enum Next {
    Option,
    Go(Taken),
    Leave,
}

fn info(taken: &Taken) -> ExportInfo {
    let read_only = matches!(taken.file, File::Point { .. }) || taken.volume.read_only();
    ExportInfo::new(taken.size_bytes, read_only)
}
