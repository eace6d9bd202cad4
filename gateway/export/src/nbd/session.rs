//! One connection from its first byte to its last: the negotiation, then the transmission.

use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use lifeboat_engine::{BlockVolume, ErrorKind};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;

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

/// Serves a client until it leaves, its volume goes away, or `stop` is cancelled.
pub(super) async fn run<R, W>(
    server: &Arc<NbdServer>,
    mut reader: R,
    mut writer: W,
    stop: CancellationToken,
) -> Result<(), Broken>
where
    R: AsyncRead + Unpin + Send,
    W: AsyncWrite + Unpin + Send + 'static,
{
    let mut input = BytesMut::with_capacity(4096);
    let negotiated =
        timeout(server.options.negotiate_within, negotiate(server, &mut reader, &mut writer, &mut input, &stop));
    let taken = tokio::select! {
        () = stop.cancelled() => return Ok(()),
        taken = negotiated => taken.map_err(|_| Broken::Stalled("the negotiation"))??,
    };
    match taken {
        Some(taken) => transmission::run(server, taken, reader, input, writer, stop).await,
        None => Ok(()),
    }
}

/// Answers options until an export is taken; `None` when the client leaves before that.
async fn negotiate<R, W>(
    server: &NbdServer,
    reader: &mut R,
    writer: &mut W,
    input: &mut BytesMut,
    stop: &CancellationToken,
) -> Result<Option<Taken>, Broken>
where
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin,
{
    let mut negotiation = Negotiation::default();
    writer.write_all(&wire::greeting()).await?;
    loop {
        while let Some(step) = negotiation.next(input)? {
            let mut out = BytesMut::new();
            let no_zeroes = negotiation.no_zeroes();
            let next = answer(server, &step, no_zeroes, &mut out, stop).await;
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

/// What follows on an option.
enum Next {
    Option,
    Go(Taken),
    Leave,
}

async fn answer(
    server: &NbdServer,
    step: &Step,
    no_zeroes: bool,
    out: &mut BytesMut,
    stop: &CancellationToken,
) -> Next {
    match step {
        Step::ExportName(name) => match find(server, name, stop).await {
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
            for name in list(server).await {
                wire::put_listed(out, &name);
            }
            wire::put_ack(out, step);
            Next::Option
        }
        Step::Info(asked) | Step::Go(asked) => match find(server, &asked.name, stop).await {
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
        Step::Refuse { refusal, message, .. } => {
            wire::put_refusal(out, step, *refusal, message);
            Next::Option
        }
    }
}

fn info(taken: &Taken) -> ExportInfo {
    let read_only = matches!(taken.file, File::Point { .. }) || taken.volume.read_only();
    ExportInfo::new(taken.size_bytes, read_only)
}

/// The volume behind a name; waits for one that is to come.
async fn find(server: &NbdServer, name: &str, stop: &CancellationToken) -> Result<Taken, (Refusal, String)> {
    let Some(file) = name::parse(name) else {
        return Err((
            Refusal::Unknown,
            format!("{name:?} names no volume: NAME, points/GROUP/TIME/NAME or branches/BRANCH/NAME"),
        ));
    };
    let deadline = Instant::now() + server.options.wait_for_volume;
    loop {
        let error = match server.tree.open(&file).await {
            Ok(volume) => {
                let size_bytes = volume.size_bytes();
                return Ok(Taken { file, volume, size_bytes });
            }
            Err(error) => error,
        };
        let may_come = match error.kind() {
            ErrorKind::Retry => true,
            ErrorKind::NotFound | ErrorKind::Closed => server.tree.expects(&file),
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
            () = stop.cancelled() => return Err((Refusal::Shutdown, "the gateway is stopping".to_owned())),
            () = tokio::time::sleep(LOOK_EVERY) => {}
        }
    }
}

/// The names of the volumes and of the branches' volumes. A directory that can't be read is left out.
async fn list(server: &NbdServer) -> Vec<String> {
    let mut names = Vec::new();
    let listed = async |dir: &Dir| {
        server.tree.list(dir).await.unwrap_or_else(|error| {
            tracing::debug!(%dir, %error, "left out of the list of exports");
            Vec::new()
        })
    };
    for volume in listed(&Dir::Volumes).await {
        names.push(name::of(&File::Volume { volume }));
    }
    for branch in listed(&Dir::Branches).await {
        for volume in listed(&Dir::Branch { branch: branch.clone() }).await {
            names.push(name::of(&File::Branch { branch: branch.clone(), volume }));
        }
    }
    names.sort();
    names.truncate(LISTED_MAX);
    names
}
