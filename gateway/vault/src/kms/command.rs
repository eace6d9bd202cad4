//! A key management service that is a program of the user's own.
//!
//! The program is started once for each call, by its absolute path, without arguments and without a shell. It reads one
//! JSON object from standard input until the end, writes one to standard output, and says by its exit code what became
//! of it:
//!
//! ```text
//! stdin   {"version":1,"operation":"wrap","key":"NAME","context":{"vault":"vlt-…","slot":1},"secret":"<base64>"}
//!         {"version":1,"operation":"unwrap","key":"NAME","context":{"vault":"vlt-…","slot":1},"wrapped":"<base64>"}
//! stdout  {"wrapped":"<base64>"}                               {"secret":"<base64>"}
//! exit    0 done    10 try again later    11 refused    12 no such key    anything else: it failed, as refused
//! ```
//! The first line on standard error is shown to people and logged: no secret may be in it. The program gets our
//! environment without the variables that begin with `LIFEBOAT_`, since those may hold other secrets. It is killed when
//! the call is given up. At most 64 KiB of its output are read.

use std::path::PathBuf;
use std::process::Stdio;

use async_trait::async_trait;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::process::Command;
use zeroize::{Zeroize, Zeroizing};

use super::{Kms, KmsContext, KmsError, KmsErrorClass};

/// Longest answer that is read, in bytes.
const ANSWER_BYTES_MAX: usize = 65_536;
/// Longest part of standard error that is shown, in bytes.
const SAID_BYTES_MAX: usize = 300;

/// A program that wraps and unwraps.
#[derive(Clone, Debug)]
pub struct CommandKms {
    program: PathBuf,
    key: String,
}

#[derive(Serialize)]
struct Question<'a> {
    version: u32,
    operation: &'static str,
    key: &'a str,
    context: ContextOf,
    #[serde(skip_serializing_if = "Option::is_none")]
    secret: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    wrapped: Option<&'a str>,
}

#[derive(Serialize)]
struct ContextOf {
    vault: String,
    slot: u32,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Answer {
    secret: Option<String>,
    wrapped: Option<String>,
}

impl CommandKms {
    /// The program at an absolute path, asked for the key with this name.
    pub fn new(program: impl Into<PathBuf>, key: impl Into<String>) -> Self {
        Self { program: program.into(), key: key.into() }
    }

    async fn ask(&self, context: KmsContext, operation: &'static str, payload: &[u8]) -> Result<Answer, KmsError> {
        let encoded = Zeroizing::new(STANDARD.encode(payload));
        let is_wrap = operation == "wrap";
        let question = Question {
            version: 1,
            operation,
            key: &self.key,
            context: ContextOf { vault: context.vault.to_string(), slot: context.slot },
            secret: is_wrap.then_some(encoded.as_str()),
            wrapped: (!is_wrap).then_some(encoded.as_str()),
        };
        // Room for all of it at once: a vector that grows would leave an unwiped copy behind.
        let mut text = Zeroizing::new(Vec::with_capacity(encoded.len() + self.key.len() * 6 + 512));
        serde_json::to_writer(&mut *text, &question).map_err(|error| self.failed(error))?;

        let (code, said, answer) = self.run(&text).await?;
        match code {
            Some(0) => {}
            Some(10) => return Err(self.error(KmsErrorClass::Retry, &said)),
            Some(12) => return Err(self.error(KmsErrorClass::NotFound, &said)),
            Some(code) => return Err(self.error(KmsErrorClass::Refused, &format!("exit code {code}: {said}"))),
            None => return Err(self.error(KmsErrorClass::Retry, "it was killed by a signal")),
        }
        // The error isn't repeated: serde's messages quote what they read.
        serde_json::from_slice(&answer)
            .map_err(|_| self.error(KmsErrorClass::Refused, "its answer is not the JSON object that was asked for"))
    }

    async fn run(&self, question: &[u8]) -> Result<(Option<i32>, String, Zeroizing<Vec<u8>>), KmsError> {
        let mut command = Command::new(&self.program);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true).current_dir("/");
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("LIFEBOAT_") {
                command.env_remove(name);
            }
        }
        let mut child = command.spawn().map_err(|error| match error.kind() {
            std::io::ErrorKind::NotFound => self.error(KmsErrorClass::NotFound, "there is no such program"),
            std::io::ErrorKind::PermissionDenied => {
                self.error(KmsErrorClass::NotFound, "this user may not run the program: check its mode")
            }
            // ENOEXEC: neither a binary of this machine nor a script with an interpreter.
            _ if error.raw_os_error() == Some(8) => self.error(KmsErrorClass::NotFound, "it is no program"),
            _ => self.error(KmsErrorClass::Retry, &format!("it can't be started: {error}")),
        })?;
        let (Some(mut stdin), Some(stdout), Some(stderr)) =
            (child.stdin.take(), child.stdout.take(), child.stderr.take())
        else {
            return Err(self.error(KmsErrorClass::Retry, "it has no standard streams"));
        };
        let feed = async move {
            // A program that needs no input may have closed it: its exit code tells.
            let _ = stdin.write_all(question).await;
            drop(stdin);
        };
        let ((), answer, said) = tokio::join!(feed, bounded(stdout, ANSWER_BYTES_MAX), bounded(stderr, 4096));
        let status = child.wait().await.map_err(|error| self.failed(error))?;
        let answer = answer.ok_or_else(|| self.error(KmsErrorClass::Refused, "its answer is longer than 64 KiB"))?;
        Ok((status.code(), first_line(&said.unwrap_or_default()), answer))
    }

    fn failed(&self, error: impl std::fmt::Display) -> KmsError {
        self.error(KmsErrorClass::Retry, &error.to_string())
    }

    fn error(&self, class: KmsErrorClass, what: &str) -> KmsError {
        let what = if what.is_empty() { "it gave no reason on standard error" } else { what };
        KmsError::new(class, format!("{}: {what}", self.program.display()))
    }

    fn decoded(&self, text: Option<&String>) -> Result<Zeroizing<Vec<u8>>, KmsError> {
        let bytes = text.and_then(|text| STANDARD.decode(text.as_bytes()).ok()).map(Zeroizing::new);
        bytes.ok_or_else(|| {
            self.error(KmsErrorClass::Refused, "its answer lacks the member that was asked for, in base64")
        })
    }
}

#[async_trait]
impl Kms for CommandKms {
    async fn wrap(&self, context: KmsContext, secret: &[u8; 32]) -> Result<Vec<u8>, KmsError> {
        let answer = self.ask(context, "wrap", secret).await?;
        Ok(self.decoded(answer.wrapped.as_ref())?.to_vec())
    }

    async fn unwrap(&self, context: KmsContext, wrapped: &[u8]) -> Result<Zeroizing<Vec<u8>>, KmsError> {
        let mut answer = self.ask(context, "unwrap", wrapped).await?;
        let secret = self.decoded(answer.secret.as_ref());
        answer.secret.zeroize();
        secret
    }
}

/// All that a stream gives, read to its end so that the writer isn't stopped; `None` if that is more than `max` bytes.
async fn bounded(mut stream: impl AsyncRead + Unpin, max: usize) -> Option<Zeroizing<Vec<u8>>> {
    let mut kept = Zeroizing::new(Vec::with_capacity(max));
    let mut chunk = Zeroizing::new([0_u8; 4096]);
    let mut whole = true;
    loop {
        match stream.read(chunk.as_mut_slice()).await {
            Ok(0) | Err(_) => return whole.then_some(kept),
            Ok(count) if kept.len() + count <= max => kept.extend_from_slice(chunk.get(..count).unwrap_or_default()),
            Ok(_) => whole = false,
        }
    }
}

/// The first line, printable and short.
fn first_line(said: &[u8]) -> String {
    let text = String::from_utf8_lossy(said);
    let line = text.lines().find(|line| !line.trim().is_empty()).unwrap_or_default();
    let mut line: String = line.chars().filter(|c| !c.is_control()).collect();
    let end = (0..=SAID_BYTES_MAX.min(line.len())).rev().find(|at| line.is_char_boundary(*at)).unwrap_or(0);
    line.truncate(end);
    line
}
