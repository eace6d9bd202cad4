//! The gateway's end of the line to the helper.

use std::path::Path;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::UnixStream;
use tokio::time::timeout;

use crate::order::{MESSAGE_BYTES_MAX, Order, Report};

/// How long the kernel may take over an order: it waits for requests under way.
const ANSWERS_WITHIN: Duration = Duration::from_secs(60);

/// Why an order came to nothing.
#[derive(Debug, thiserror::Error)]
pub enum LineError {
    /// Nobody is at the other end, or not any more.
    #[error("{0}")]
    Io(#[from] std::io::Error),
    /// The other end speaks something else.
    #[error("it answers something that isn't understood: {0}")]
    Answer(#[from] serde_json::Error),
    /// No answer came.
    #[error("it gives no answer")]
    Silent,
}

/// A line to a helper. What was ordered over it is there until it is dropped.
#[derive(Debug)]
pub struct Line(BufReader<UnixStream>);

impl Line {
    /// Connects to the helper's socket.
    ///
    /// # Errors
    /// Nobody listens there.
    pub async fn open(socket: &Path) -> Result<Self, LineError> {
        Ok(Self(BufReader::new(UnixStream::connect(socket).await?)))
    }

    /// Says which targets there are to be, and hears how they stand. After an error the line is of no use any more.
    ///
    /// # Errors
    /// The helper has gone, or says nothing that makes sense.
    pub async fn order(&mut self, order: &Order) -> Result<Report, LineError> {
        let mut text = serde_json::to_vec(order)?;
        text.push(b'\n');
        let told = async {
            self.0.get_mut().write_all(&text).await?;
            let mut answer = Vec::new();
            let mut limited = tokio::io::AsyncReadExt::take(&mut self.0, MESSAGE_BYTES_MAX as u64);
            if limited.read_until(b'\n', &mut answer).await? == 0 {
                return Err(LineError::Io(std::io::ErrorKind::UnexpectedEof.into()));
            }
            Ok(serde_json::from_slice(&answer)?)
        };
        timeout(ANSWERS_WITHIN, told).await.map_err(|_| LineError::Silent)?
    }
}
