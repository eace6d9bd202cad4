//! The transmission phase: requests come in, each becomes a task, replies go out as they are done.
//!
//! ```text
//! receive ──request──> task: volume ──reply──> write_replies ──> client
//!    └ admission: requests and bytes of this connection, bytes of all; given back when the reply is written
//! ```
//! Reading stops at an end of the stream, a disconnect, a violation, a stop of the server or a volume that has gone. What is
//! under way then is done and answered, within a bound; after that it is dropped unanswered, which a client has to take as
//! *not known to be done*.

use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use lifeboat_engine::{EngineError, ErrorKind};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::session::{Broken, Taken};
use super::wire::{self, Command, PAYLOAD_MAX, REPLY_BYTES, REQUEST_BYTES, Request, request_flags};
use super::{NbdServer, units};
use crate::errno::{Named, NbdError, nbd_error_of};
use crate::tree::File;
use crate::trouble::{Logged, Patience, report};

/// Requests under way on one connection; QEMU has 16, Linux up to a few hundred.
const REQUESTS_MAX: usize = 256;
/// Data under way on one connection, in units: two of the longest requests.
const UNITS_MAX: usize = 64 << 10;
/// Replies of up to so many bytes are put together before they are written.
const COALESCED_BYTES: usize = 64 << 10;
/// Data that is not worth a write of its own.
const SMALL_BYTES: usize = 16 << 10;

/// What all requests of a connection share.
#[derive(Debug)]
struct Connection {
    taken: Taken,
    patience: Patience,
    logged: Logged,
    /// The volume has gone, or the client takes no more replies.
    over: CancellationToken,
}

/// What a request holds until its reply is written.
#[derive(Debug)]
struct Admitted {
    _request: OwnedSemaphorePermit,
    _own: OwnedSemaphorePermit,
    _of_all: OwnedSemaphorePermit,
}

#[derive(Debug)]
struct Reply {
    cookie: u64,
    result: Result<Bytes, NbdError>,
    _admitted: Admitted,
}

/// Serves an export until one side ends it.
pub(super) async fn run<R, W>(
    server: &Arc<NbdServer>,
    taken: Taken,
    reader: R,
    input: BytesMut,
    writer: W,
    stop: CancellationToken,
) -> Result<(), Broken>
where
    R: AsyncRead + Unpin + Send,
    W: AsyncWrite + Unpin + Send + 'static,
{
    let options = &server.options;
    let over = CancellationToken::new();
    let connection = Arc::new(Connection {
        taken,
        patience: Patience::new(options.retry_for),
        logged: Logged::default(),
        over: over.clone(),
    });
    let (replies, queue) = mpsc::channel(REQUESTS_MAX);
    let writing = tokio::spawn(write_replies(writer, queue, options.stall_for, over.clone()));
    let abort_writing = AbortOnDrop(writing.abort_handle());
    let mut tasks = JoinSet::new();
    let mut requests = Requests { reader, input };
    let (ended, drain_for) = tokio::select! {
        biased;
        () = stop.cancelled() => (Ok(()), options.drain_for),
        () = over.cancelled() => (Ok(()), options.retry_for + options.drain_for),
        ended = receive(server, &connection, &mut requests, &mut tasks, &replies) => {
            (ended, options.retry_for + options.drain_for)
        }
    };
    drop(replies);
    let drained = timeout(drain_for, async {
        while let Some(done) = tasks.join_next().await {
            done?;
        }
        Ok::<(), Broken>(())
    });
    drained.await.unwrap_or(Ok(()))?;
    // What is left unanswered is dropped with its sender, and the writer comes to its end.
    tasks.shutdown().await;
    let written = writing.await;
    drop(abort_writing);
    ended?;
    written?
}

struct AbortOnDrop(tokio::task::AbortHandle);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Takes requests until the client leaves.
async fn receive<R: AsyncRead + Unpin + Send>(
    server: &NbdServer,
    connection: &Arc<Connection>,
    requests: &mut Requests<R>,
    tasks: &mut JoinSet<()>,
    replies: &mpsc::Sender<Reply>,
) -> Result<(), Broken> {
    let slots = Arc::new(Semaphore::new(REQUESTS_MAX));
    let own = Arc::new(Semaphore::new(UNITS_MAX));
    loop {
        let request = tokio::select! {
            biased;
            Some(done) = tasks.join_next() => { done?; continue }
            request = requests.next() => request?,
        };
        let Some(request) = request.filter(|request| request.command != Command::Disconnect) else { return Ok(()) };
        let units = units(request.len.min(PAYLOAD_MAX));
        let units = if matches!(request.command, Command::Read | Command::Write) { units } else { 1 };
        let (Ok(slot), Ok(own), Ok(of_all)) = (
            Arc::clone(&slots).acquire_owned().await,
            Arc::clone(&own).acquire_many_owned(units).await,
            Arc::clone(&server.units).acquire_many_owned(units).await,
        ) else {
            // Nobody closes them.
            return Ok(());
        };
        let admitted = Admitted { _request: slot, _own: own, _of_all: of_all };
        let data = requests.payload(request.payload(), server.options.stall_for).await?;
        let (connection, replies) = (Arc::clone(connection), replies.clone());
        tasks.spawn(async move {
            let result = connection.perform(request, data).await;
            let gone = result == Err(NbdError::ESHUTDOWN);
            // The writer is gone with the client.
            let _ = replies.send(Reply { cookie: request.cookie, result, _admitted: admitted }).await;
            if gone {
                connection.over.cancel();
            }
        });
    }
}

/// Requests as they come in.
struct Requests<R> {
    reader: R,
    input: BytesMut,
}

impl<R: AsyncRead + Unpin> Requests<R> {
    /// The next header; `None` at the end of the stream. Nothing is lost when it is not waited for any longer.
    async fn next(&mut self) -> Result<Option<Request>, Broken> {
        loop {
            if let Some(header) = self.input.first_chunk::<REQUEST_BYTES>() {
                let request = Request::decode(header)?;
                bytes::Buf::advance(&mut self.input, REQUEST_BYTES);
                return Ok(Some(request));
            }
            self.input.reserve(COALESCED_BYTES);
            if self.reader.read_buf(&mut self.input).await? == 0 {
                return Ok(None);
            }
        }
    }

    /// The bytes that follow a header, in memory of their own: the engine keeps them, and would keep all else that came with
    /// them.
    async fn payload(&mut self, len: u32, stall_for: Duration) -> Result<Bytes, Broken> {
        let len = len as usize;
        if len == 0 {
            return Ok(Bytes::new());
        }
        let here = self.input.split_to(self.input.len().min(len));
        let mut data = BytesMut::with_capacity(len);
        data.extend_from_slice(&here);
        let mut rest = (&mut self.reader).take((len - data.len()) as u64);
        while data.len() < len {
            let more = timeout(stall_for, rest.read_buf(&mut data)).await;
            if more.map_err(|_| Broken::Stalled("the data of a write"))?? == 0 {
                return Err(Broken::Io(std::io::ErrorKind::UnexpectedEof.into()));
            }
        }
        Ok(data.freeze())
    }
}

impl Connection {
    /// Does what a request asks; the bytes of a read.
    async fn perform(&self, request: Request, data: Bytes) -> Result<Bytes, NbdError> {
        if request.flags & !request_flags::KNOWN != 0 {
            return Err(NbdError::EINVAL);
        }
        let volume = &self.taken.volume;
        let inside = request.offset.checked_add(u64::from(request.len)).is_some_and(|end| end <= self.taken.size_bytes);
        let (offset, len) = (request.offset, request.len);
        match request.command {
            Command::Read if !inside || len > PAYLOAD_MAX => return Err(NbdError::EINVAL),
            Command::Write | Command::WriteZeroes if !inside => return Err(NbdError::ENOSPC),
            Command::Trim if !inside => return Err(NbdError::EINVAL),
            Command::Read if len == 0 => return Ok(Bytes::new()),
            Command::Read => return self.read(offset, len).await,
            Command::Flush => return self.flush().await,
            Command::Write => {
                self.done(self.patience.retry(|| volume.write(offset, data.clone())).await)?;
            }
            Command::Trim | Command::WriteZeroes => {
                let trim = request.command == Command::Trim || request.flags & request_flags::NO_HOLE == 0;
                if len > 0 {
                    self.done(self.patience.retry(|| volume.zero(offset, u64::from(len), trim)).await)?;
                }
            }
            Command::Disconnect | Command::Other(_) => return Err(NbdError::EINVAL),
        }
        if request.flags & request_flags::FUA != 0 { self.flush().await } else { Ok(Bytes::new()) }
    }

    async fn read(&self, offset: u64, len: u32) -> Result<Bytes, NbdError> {
        let data = self.done(self.patience.retry(|| self.taken.volume.read(offset, len)).await)?;
        if data.len() == len as usize {
            return Ok(data);
        }
        let message = format!("the volume answered {} bytes of {len} at {offset}", data.len());
        self.done(Err(EngineError::new(ErrorKind::Damaged, message)))
    }

    async fn flush(&self) -> Result<Bytes, NbdError> {
        if matches!(self.taken.file, File::Point { .. }) {
            return Ok(Bytes::new());
        }
        self.done(self.patience.retry(|| self.taken.volume.flush()).await).map(|()| Bytes::new())
    }

    fn done<T>(&self, result: Result<T, EngineError>) -> Result<T, NbdError> {
        result.map_err(|error| {
            report(&self.taken.file, &error, Some(&self.logged), Named::ByInode);
            nbd_error_of(error.kind())
        })
    }
}

/// Writes replies as they come, small ones together; ends the connection when the client takes none.
async fn write_replies<W: AsyncWrite + Unpin>(
    mut writer: W,
    mut queue: mpsc::Receiver<Reply>,
    stall_for: Duration,
    over: CancellationToken,
) -> Result<(), Broken> {
    let written = async {
        let mut out = BytesMut::with_capacity(COALESCED_BYTES + SMALL_BYTES + REPLY_BYTES);
        // What the replies in `out` hold is given back when they are written.
        let mut held = Vec::new();
        while let Some(first) = queue.recv().await {
            let mut next = Some(first);
            while let Some(reply) = next {
                wire::put_reply(&mut out, reply.cookie, reply.result.as_ref().err().map_or(0, |error| error.code()));
                let data = reply.result.as_ref().map_or(&[][..], |data| data);
                if data.len() <= SMALL_BYTES {
                    out.extend_from_slice(data);
                } else {
                    put(&mut writer, &out, stall_for).await?;
                    out.clear();
                    put(&mut writer, data, stall_for).await?;
                }
                held.push(reply);
                next = if out.len() < COALESCED_BYTES { queue.try_recv().ok() } else { None };
            }
            put(&mut writer, &out, stall_for).await?;
            // TLS may keep some of it back.
            timeout(stall_for, writer.flush()).await.map_err(|_| Broken::Stalled("taking replies"))??;
            out.clear();
            held.clear();
        }
        // The client may have gone already.
        let _ = writer.shutdown().await;
        Ok(())
    };
    let written: Result<(), Broken> = written.await;
    over.cancel();
    written
}

/// Writes all bytes; a client that is slow is waited for, one that takes nothing is not.
async fn put<W: AsyncWrite + Unpin>(writer: &mut W, mut bytes: &[u8], stall_for: Duration) -> Result<(), Broken> {
    while !bytes.is_empty() {
        let taken = timeout(stall_for, writer.write(bytes)).await.map_err(|_| Broken::Stalled("taking replies"))??;
        if taken == 0 {
            return Err(Broken::Io(std::io::ErrorKind::WriteZero.into()));
        }
        bytes = bytes.get(taken..).unwrap_or_default();
    }
    Ok(())
}
