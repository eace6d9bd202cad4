//! A tree in memory behind an NBD server for one test, and a client that says exactly what the test wants.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
#![allow(dead_code, unreachable_pub, reason = "each test program uses its own part of the doubles")]

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use lifeboat_export::ExportTree;
use lifeboat_export::nbd::{NbdOptions, NbdServer, bind_unix};
use tokio::runtime::Runtime;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::support::MemoryTree;

/// A server on a unix socket; it stops with the value.
pub struct Served {
    pub tree: Arc<MemoryTree>,
    pub runtime: Runtime,
    pub stop: CancellationToken,
    pub socket: PathBuf,
    pub dir: tempfile::TempDir,
    task: Option<JoinHandle<()>>,
}

impl Served {
    pub fn new() -> Self {
        Self::with(NbdOptions::default())
    }

    pub fn with(options: NbdOptions) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let tree = Arc::new(MemoryTree::default());
        let server = Arc::new(NbdServer::new(Arc::clone(&tree) as Arc<dyn ExportTree>, options));
        let stop = CancellationToken::new();
        let entered = runtime.enter();
        let listener = bind_unix(dir.path(), "nbd.sock").unwrap();
        drop(entered);
        let task = Some(runtime.spawn(server.serve(listener, stop.clone())));
        let socket = dir.path().join("nbd.sock");
        Self { tree, runtime, stop, socket, dir, task }
    }

    /// The URI of an export, as QEMU and libnbd take it.
    pub fn uri(&self, name: &str) -> String {
        format!("nbd+unix:///{name}?socket={}", self.socket.display())
    }

    /// Stops it, and waits until it has.
    pub fn stop(&mut self) {
        self.stop.cancel();
        if let Some(task) = self.task.take() {
            self.runtime.block_on(task).unwrap();
        }
    }

    pub fn client(&self) -> Client {
        Client::connect(UnixStream::connect(&self.socket).unwrap())
    }

    /// A client that has taken an export.
    pub fn taken(&self, name: &str) -> Client {
        let mut client = self.client();
        client.flags(3);
        client.go(name).unwrap();
        client
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Runs a tool, and gives what it printed. Panics with all that it said when it fails.
pub fn run(program: &str, args: &[&str]) -> String {
    let (ok, said) = outcome(program, args);
    assert!(ok, "{program} {args:?}: {said}");
    said
}

/// Whether a tool succeeded, and what it printed.
pub fn outcome(program: &str, args: &[&str]) -> (bool, String) {
    let output = Command::new(program).args(args).output();
    let output = output.unwrap_or_else(|error| panic!("{program}: {error}: `make deps` installs what tests need"));
    let said = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8_lossy(&said).into_owned())
}

/// One connection, spoken by hand.
pub struct Client(UnixStream);

impl Client {
    fn connect(stream: UnixStream) -> Self {
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        let mut client = Self(stream);
        assert_eq!(client.bytes(18), b"NBDMAGICIHAVEOPT\0\x03");
        client
    }

    pub fn send(&mut self, parts: &[&[u8]]) {
        self.0.write_all(&parts.concat()).unwrap();
    }

    pub fn bytes(&mut self, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        self.0.read_exact(&mut bytes).unwrap();
        bytes
    }

    fn u32(&mut self) -> u32 {
        u32::from_be_bytes(self.bytes(4).try_into().unwrap())
    }

    pub fn flags(&mut self, flags: u32) {
        self.send(&[&flags.to_be_bytes()]);
    }

    pub fn option(&mut self, option: u32, data: &[u8]) {
        self.send(&[b"IHAVEOPT", &option.to_be_bytes(), &u32::try_from(data.len()).unwrap().to_be_bytes(), data]);
    }

    /// Type and data of the next answer to an option.
    pub fn answer(&mut self) -> (u32, Vec<u8>) {
        assert_eq!(self.bytes(8), 0x0003_e889_0455_65a9_u64.to_be_bytes());
        let (_option, kind, len) = (self.u32(), self.u32(), self.u32());
        (kind, self.bytes(len as usize))
    }

    /// Size and flags of the export, or the refusal and its words.
    pub fn go(&mut self, name: &str) -> Result<(u64, u16), (u32, String)> {
        let len = u32::try_from(name.len()).unwrap();
        self.option(7, &[&len.to_be_bytes(), name.as_bytes(), &[0, 0]].concat());
        let mut export = None;
        loop {
            match self.answer() {
                (1, _) => return Ok(export.expect("the export comes before the acknowledgement")),
                (3, data) if data[..2] == [0, 0] => {
                    let size = u64::from_be_bytes(data[2..10].try_into().unwrap());
                    export = Some((size, u16::from_be_bytes(data[10..12].try_into().unwrap())));
                }
                (3, _) => {}
                (refusal, words) => return Err((refusal, String::from_utf8(words).unwrap())),
            }
        }
    }

    pub fn request(&mut self, command: u16, flags: u16, cookie: u64, range: (u64, u32), data: &[u8]) {
        let (offset, len) = range;
        self.send(&[
            &0x2560_9513_u32.to_be_bytes(),
            &flags.to_be_bytes(),
            &command.to_be_bytes(),
            &cookie.to_be_bytes(),
            &offset.to_be_bytes(),
            &len.to_be_bytes(),
            data,
        ]);
    }

    /// Error and cookie of the next reply.
    pub fn reply(&mut self) -> (u32, u64) {
        assert_eq!(self.u32(), 0x6744_6698);
        (self.u32(), u64::from_be_bytes(self.bytes(8).try_into().unwrap()))
    }

    /// The server closes the connection without another word.
    pub fn ended(&mut self) {
        let mut rest = Vec::new();
        let ended = self.0.read_to_end(&mut rest);
        let reset = ended.as_ref().is_err_and(|error| error.kind() == std::io::ErrorKind::ConnectionReset);
        assert!(reset || ended.is_ok(), "still open: {ended:?}");
        assert!(rest.is_empty(), "it said {rest:?} before it ended");
    }
}
