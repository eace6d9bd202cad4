//! QEMU's control connection: JSON lines over the unix socket in a run's directory.
//!
//! QEMU serves one connection at a time and lets others wait, so a connection lives for a few commands and every step
//! has a time-out. Nothing here depends on events: they are skipped. Whether a machine has ended is seen by its process.

use std::io;
use std::os::fd::AsRawFd;
use std::path::Path;
use std::time::Duration;

use rustix::fs::{Mode, OFlags};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};

/// The socket's name in a run's directory.
pub(super) const SOCKET: &str = "qmp.sock";
/// Longest that QEMU may take to greet or to answer: it does both in milliseconds, unless storage holds it up.
const ANSWER_LIMIT: Duration = Duration::from_secs(15);
/// Longest answer that is read.
const ANSWER_BYTES: u64 = 16 << 20;

/// A connection that is ready for commands.
#[derive(Debug)]
pub(super) struct Qmp {
    answers: BufReader<OwnedReadHalf>,
    commands: OwnedWriteHalf,
}

/// Why a command has no result.
#[derive(Debug, thiserror::Error)]
pub(super) enum QmpError {
    #[error("QEMU can't be reached: {0}")]
    Connection(#[from] io::Error),
    #[error("QEMU doesn't answer within {ANSWER_LIMIT:?}")]
    Silent,
    #[error("QEMU answered what can't be understood: {0}")]
    Garbled(String),
    #[error("QEMU refuses {command}: {reason}")]
    Refused { command: String, reason: String },
}

impl Qmp {
    /// Connects to the machine of a run's directory.
    pub(super) async fn connect(run: &Path) -> Result<Self, QmpError> {
        let open = async {
            // A socket's path is limited to 107 bytes, a directory's isn't: go in by its descriptor.
            let directory = rustix::fs::open(run, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
                .map_err(io::Error::from)?;
            let path = format!("/proc/self/fd/{}/{SOCKET}", directory.as_raw_fd());
            let (answers, commands) = UnixStream::connect(path).await?.into_split();
            let mut qmp = Self { answers: BufReader::new(answers), commands };
            let greeting = qmp.line().await?;
            if greeting.get("QMP").is_none() {
                return Err(QmpError::Garbled(greeting.to_string()));
            }
            qmp.exchange("qmp_capabilities", &json!({})).await?;
            Ok(qmp)
        };
        tokio::time::timeout(ANSWER_LIMIT, open).await.unwrap_or(Err(QmpError::Silent))
    }

    /// Gives a command and waits for its result.
    pub(super) async fn execute(&mut self, command: &str, arguments: Value) -> Result<Value, QmpError> {
        let exchange = self.exchange(command, &arguments);
        tokio::time::timeout(ANSWER_LIMIT, exchange).await.unwrap_or(Err(QmpError::Silent))
    }

    /// Gives a command of the monitor that people use, for what the other one lacks; its answer is text.
    pub(super) async fn monitor(&mut self, line: &str) -> Result<String, QmpError> {
        let said = self.execute("human-monitor-command", json!({"command-line": line})).await?;
        said.as_str().map(str::to_owned).ok_or_else(|| QmpError::Garbled(said.to_string()))
    }

    async fn exchange(&mut self, command: &str, arguments: &Value) -> Result<Value, QmpError> {
        let mut text = json!({"execute": command, "arguments": arguments}).to_string();
        text.push('\n');
        self.commands.write_all(text.as_bytes()).await?;
        loop {
            let mut answer = self.line().await?;
            if let Some(result) = answer.get_mut("return") {
                return Ok(result.take());
            }
            if let Some(error) = answer.get("error") {
                let reason = error.get("desc").and_then(Value::as_str).unwrap_or("it doesn't say why").to_owned();
                return Err(QmpError::Refused { command: command.to_owned(), reason });
            }
            if answer.get("event").is_none() {
                return Err(QmpError::Garbled(answer.to_string()));
            }
        }
    }

    async fn line(&mut self) -> Result<Value, QmpError> {
        let mut line = Vec::new();
        let length = (&mut self.answers).take(ANSWER_BYTES).read_until(b'\n', &mut line).await?;
        if length == 0 {
            return Err(QmpError::Connection(io::ErrorKind::UnexpectedEof.into()));
        }
        serde_json::from_slice(&line)
            .map_err(|_| QmpError::Garbled(String::from_utf8_lossy(&line).chars().take(200).collect()))
    }
}
