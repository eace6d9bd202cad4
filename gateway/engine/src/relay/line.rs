//! Frames over a connection: read with a limit and a patience, verified before anything is made of them.

use std::time::Duration;

use bytes::Bytes;
use lifeboat_format::stream::{FRAME_HEAD_LEN, FrameHead, FrameKind};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

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

fn broken(peer: &str, error: &std::io::Error) -> EngineError {
    EngineError::new(ErrorKind::Retry, format!("the line to {peer} broke: {error}"))
}
