//! A small HTTP server of a test's own: takes requests one by one, with or without TLS, and keeps them.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use rustls::{ServerConfig, ServerConnection, StreamOwned};

/// Longest that a caller may say nothing.
const SILENCE: Duration = Duration::from_secs(10);
/// Longest body.
const BODY_MAX: usize = 16 << 20;

/// A request that came.
#[derive(Clone, Debug)]
pub struct Received {
    /// Path and query.
    pub path: String,
    /// Headers, names in lower case.
    pub headers: BTreeMap<String, String>,
    /// The body.
    pub body: Vec<u8>,
    /// What it was answered: the status.
    pub status: u16,
}

/// What a request is answered: status line without the version, and headers that end with `\r\n` each.
pub type Answer = (&'static str, String);

/// The server. It lives as long as the process.
#[derive(Clone, Debug)]
pub struct Receiver {
    address: SocketAddr,
    received: Arc<Mutex<Vec<Received>>>,
}

impl Receiver {
    /// Begins to take requests on loopback; `answer` is asked for each.
    ///
    /// # Errors
    /// When there is no port.
    pub fn start(
        tls: Option<Arc<ServerConfig>>,
        answer: impl Fn(SocketAddr, &Received) -> Answer + Send + 'static,
    ) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let address = listener.local_addr()?;
        let received: Arc<Mutex<Vec<Received>>> = Arc::default();
        let all = Arc::clone(&received);
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                // Who doesn't finish a request isn't heard.
                let took = stream.set_read_timeout(Some(SILENCE)).map_err(anyhow::Error::from).and_then(|()| {
                    let answer = |request: &Received| answer(address, request);
                    match &tls {
                        None => take(stream, answer),
                        Some(config) => take(secured(stream, config)?, answer),
                    }
                });
                if let Ok(request) = took {
                    all.lock().unwrap_or_else(PoisonError::into_inner).push(request);
                }
            }
        });
        Ok(Self { address, received })
    }

    /// Where it listens.
    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Everything that came so far.
    #[must_use]
    pub fn all(&self) -> Vec<Received> {
        self.received.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

fn secured(stream: TcpStream, config: &Arc<ServerConfig>) -> Result<StreamOwned<ServerConnection, TcpStream>> {
    Ok(StreamOwned::new(ServerConnection::new(Arc::clone(config))?, stream))
}

fn take<S: Read + Write>(mut stream: S, answer: impl Fn(&Received) -> Answer) -> Result<Received> {
    let mut reader = BufReader::new(&mut stream);
    let mut line = String::new();
    reader.read_line(&mut line)?;
    let path = line.split(' ').nth(1).context("no path")?.to_owned();
    let mut headers = BTreeMap::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line)?;
        let Some((name, value)) = line.trim().split_once(':') else { break };
        headers.insert(name.to_lowercase(), value.trim().to_owned());
    }
    let length: usize = headers.get("content-length").context("no length")?.parse()?;
    ensure!(length <= BODY_MAX, "a body of {length} bytes");
    let mut body = vec![0; length];
    reader.read_exact(&mut body)?;
    let mut request = Received { path, headers, body, status: 0 };
    let (status, more) = answer(&request);
    request.status = status.split(' ').next().unwrap_or_default().parse()?;
    let empty = if request.status == 204 { "" } else { "content-length: 0\r\n" };
    write!(stream, "HTTP/1.1 {status}\r\n{more}{empty}connection: close\r\n\r\n")?;
    stream.flush()?;
    Ok(request)
}
