//! Frames over a connection: read with a limit and a patience, verified before anything is made of them.

use std::time::Duration;

use bytes::Bytes;
use lifeboat_format::stream::{End, FRAME_HEAD_LEN, FrameHead, FrameKind};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadHalf, WriteHalf};

use super::{Line, wire};
use crate::error::{EngineError, ErrorKind, Result};

/// How often either side says that it is there.
pub(super) const BEAT: Duration = Duration::from_secs(5);
/// How long a side that says nothing counts as there.
pub(super) const SILENCE: Duration = Duration::from_secs(20);
/// How long a frame may take on its way.
const WRITE_PATIENCE: Duration = Duration::from_secs(30);

/// A frame that came.
#[derive(Debug)]
pub(super) struct Received {
    pub(super) kind: FrameKind,
    /// Head and body.
    pub(super) frame: Bytes,
}

impl Received {
    pub(super) fn body(&self) -> Bytes {
        self.frame.slice(FRAME_HEAD_LEN.min(self.frame.len())..)
    }
}

/// Reads one frame; `allowed` decides by its kind whether its body is worth reading.
pub(super) async fn read(
    from: &mut (impl AsyncRead + Unpin),
    peer: &str,
    allowed: impl Fn(FrameKind) -> bool,
) -> Result<Received> {
    let broken = |error: std::io::Error| broken(peer, &error);
    let bad = |error| EngineError::new(ErrorKind::Invalid, format!("{peer} sent what can't be read: {error}"));
    let reading = async {
        let mut bytes = vec![0; FRAME_HEAD_LEN];
        from.read_exact(&mut bytes).await.map_err(broken)?;
        let head = FrameHead::decode(&bytes).map_err(bad)?;
        if !allowed(head.kind) {
            let why = format!("{peer} sent a frame that has no place here: {:?}", head.kind);
            return Err(EngineError::new(ErrorKind::Invalid, why));
        }
        bytes.resize(FRAME_HEAD_LEN + head.body_len, 0);
        let (_, body) = bytes.split_at_mut(FRAME_HEAD_LEN);
        from.read_exact(body).await.map_err(broken)?;
        head.verify(body).map_err(bad)?;
        Ok(Received { kind: head.kind, frame: Bytes::from(bytes) })
    };
    tokio::time::timeout(SILENCE, reading).await.unwrap_or_else(|_| {
        Err(EngineError::new(ErrorKind::Retry, format!("{peer} has said nothing for {} s", SILENCE.as_secs())))
    })
}

/// Writes one frame. One that was cut short ends the line.
pub(super) async fn write(to: &mut (impl AsyncWrite + Unpin), peer: &str, frame: &[u8]) -> Result<()> {
    let writing = async {
        to.write_all(frame).await?;
        to.flush().await
    };
    match tokio::time::timeout(WRITE_PATIENCE, writing).await {
        Ok(written) => written.map_err(|error| broken(peer, &error)),
        Err(_) => Err(EngineError::new(
            ErrorKind::Retry,
            format!("{peer} has taken nothing for {} s", WRITE_PATIENCE.as_secs()),
        )),
    }
}

/// An agent's end of a line on which it asks and a process server answers.
pub(super) struct Asking {
    input: ReadHalf<Line>,
    output: WriteHalf<Line>,
    pub(super) server: String,
}

impl Asking {
    pub(super) fn new((line, server): (Line, String)) -> Self {
        let (input, output) = tokio::io::split(line);
        Self { input, output, server }
    }

    pub(super) async fn write(&mut self, frame: &[u8]) -> Result<()> {
        write(&mut self.output, &self.server, frame).await
    }

    /// The next frame that is more than a sign of life.
    ///
    /// # Errors
    /// What [`read`] says; why the process server ended the line.
    pub(super) async fn read(&mut self, wanted: impl Fn(FrameKind) -> bool) -> Result<(FrameKind, Bytes)> {
        loop {
            let allowed = |kind| wanted(kind) || matches!(kind, FrameKind::Beat | FrameKind::End);
            let received = read(&mut self.input, &self.server, allowed).await?;
            match received.kind {
                FrameKind::Beat => {}
                FrameKind::End => {
                    let end = End::decode(&received.body()).map_err(wire::refused)?;
                    return Err(wire::ended(&self.server, &end).into());
                }
                kind => return Ok((kind, received.body())),
            }
        }
    }
}

fn broken(peer: &str, error: &std::io::Error) -> EngineError {
    EngineError::new(ErrorKind::Retry, format!("the line to {peer} broke: {error}"))
}
