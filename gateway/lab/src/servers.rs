//! Processes that serve object storage, started on a free port and killed when their handle is dropped.

use std::ffi::OsString;
use std::fs::{self, File};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use aws_lc_rs::hmac;
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use tempfile::TempDir;

use crate::http::{Request, send};

/// Longest that a server may take to listen: Node on a busy machine.
const START_LIMIT: Duration = Duration::from_secs(60);
/// Between two looks at what a server said.
const PAUSE: Duration = Duration::from_millis(25);

/// The directory that `make deps` installs the servers into (`LIFEBOAT_TOOLS` names it).
///
/// # Errors
/// When this program stands in no build directory.
pub fn tools() -> Result<PathBuf> {
    if let Some(dir) = std::env::var_os("LIFEBOAT_TOOLS") {
        return Ok(PathBuf::from(dir));
    }
    let this = std::env::current_exe().context("find this program")?;
    // target/debug/deps/PROGRAM, or target/debug/PROGRAM.
    let above = this.ancestors().skip(1).map(|dir| dir.join("tools")).find(|dir| dir.is_dir());
    above.context("there is no tools directory above this program: run `make deps`, or set LIFEBOAT_TOOLS")
}

/// A process that serves, and its files.
#[derive(Debug)]
struct Process {
    child: Child,
    address: SocketAddr,
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended by itself; then there is nothing to kill, and waiting for it still frees its entry.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Process {
    /// Starts a command that says `127.0.0.1:PORT` after `sign` on its output once it listens.
    fn start(mut command: Command, log: &Path, sign: &str) -> Result<Self> {
        let output = File::create(log).with_context(|| format!("write {}", log.display()))?;
        let errors = output.try_clone().context("share the log")?;
        let program = command.get_program().to_string_lossy().into_owned();
        let child = command
            .stdin(Stdio::null())
            .stdout(output)
            .stderr(errors)
            .spawn()
            .with_context(|| format!("start {program}: run `make deps`"))?;
        let mut process = Self { child, address: SocketAddr::from(([127, 0, 0, 1], 0)) };
        let started = Instant::now();
        loop {
            let said = fs::read_to_string(log).unwrap_or_default();
            if let Some(address) = listening(&said, sign) {
                process.address = address;
                return Ok(process);
            }
            if let Some(status) = process.child.try_wait().context("look at a server")? {
                bail!("{program} ended with {status} before it listened:\n{said}");
            }
            if started.elapsed() > START_LIMIT {
                bail!("{program} does not listen after {START_LIMIT:?}; it said:\n{said}");
            }
            std::thread::sleep(PAUSE);
        }
    }
}

/// The address after `sign` in what a server said; the line must be complete.
fn listening(said: &str, sign: &str) -> Option<SocketAddr> {
    let complete = &said[..=said.rfind('\n')?];
    let (_, rest) = complete.split_once(sign)?;
    let rest = rest.strip_prefix("127.0.0.1:")?;
    let digits: String = rest.chars().take_while(char::is_ascii_digit).collect();
    digits.parse().ok().filter(|port| *port != 0).map(|port: u16| SocketAddr::from(([127, 0, 0, 1], port)))
}

fn existing(path: PathBuf) -> Result<PathBuf> {
    if path.exists() { Ok(path) } else { bail!("{} is not there: run `make deps`", path.display()) }
}

/// Moto's server, whose create-only writes look whether there is an object and then write one, in steps that others come between: two at
/// once would both be told that theirs is the one.
const MOTO: &str = "\
import sys, threading
from moto.s3.responses import S3Response
from moto.server import main
lock, put = threading.Lock(), S3Response.put_object
def put_one(self):
    with lock:
        return put(self)
S3Response.put_object = put_one
main(sys.argv[1:])
";

/// An S3 server that keeps everything in memory, and honours create-only writes.
#[derive(Debug)]
pub struct Moto {
    process: Process,
    _home: TempDir,
}

impl Moto {
    /// Starts one with these buckets.
    ///
    /// # Errors
    /// It isn't installed, or doesn't start.
    pub async fn start(buckets: &[&str]) -> Result<Self> {
        Self::launch(|program, args| (program, args), Ipv4Addr::LOCALHOST, Ipv4Addr::LOCALHOST, buckets).await
    }

    /// The same elsewhere, as in a network namespace: `inside` says how a program and its arguments are run there, without becoming
    /// another process. It listens on all addresses there; this process reaches it at `here`.
    ///
    /// # Errors
    /// As [`Self::start`].
    pub async fn start_inside(
        inside: impl FnOnce(PathBuf, Vec<OsString>) -> (PathBuf, Vec<OsString>),
        here: Ipv4Addr,
        buckets: &[&str],
    ) -> Result<Self> {
        Self::launch(inside, Ipv4Addr::UNSPECIFIED, here, buckets).await
    }

    async fn launch(
        inside: impl FnOnce(PathBuf, Vec<OsString>) -> (PathBuf, Vec<OsString>),
        listen: Ipv4Addr,
        here: Ipv4Addr,
        buckets: &[&str],
    ) -> Result<Self> {
        let home = tempfile::tempdir()?;
        let python = existing(tools()?.join("python/bin/python"))?;
        let args = ["-c", MOTO, "-H", &listen.to_string(), "-p", "0"].map(OsString::from);
        let (program, args) = inside(python, args.to_vec());
        let mut command = Command::new(program);
        command.args(args).current_dir(home.path());
        let mut process = Process::start(command, &home.path().join("log"), "Running on http://")?;
        process.address.set_ip(here.into());
        for bucket in buckets {
            let request = http::Request::put(format!("/{bucket}"))
                .header("host", process.address.to_string())
                .body(Bytes::new())?;
            let answer = send(process.address, request).await?;
            if !answer.status().is_success() {
                bail!("moto doesn't make the bucket {bucket}: {}", answer.status());
            }
        }
        Ok(Self { process, _home: home })
    }

    /// Its process.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.process.child.id()
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.process.address
    }

    /// Its endpoint.
    #[must_use]
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.process.address)
    }
}

/// An S3 server that accepts the create-only condition and overwrites all the same.
#[derive(Debug)]
pub struct S3rver {
    process: Process,
    _home: TempDir,
}

impl S3rver {
    /// The credentials that it knows.
    pub const CREDENTIALS: [(&'static str, &'static str); 2] =
        [("AWS_ACCESS_KEY_ID", "S3RVER"), ("AWS_SECRET_ACCESS_KEY", "S3RVER")];

    /// Starts one with a bucket.
    ///
    /// # Errors
    /// It isn't installed, or doesn't start.
    pub fn start(bucket: &str) -> Result<Self> {
        let home = tempfile::tempdir()?;
        let data = home.path().join("data");
        let script = existing(tools()?.join("node/node_modules/s3rver/bin/s3rver.js"))?;
        let mut command = Command::new("node");
        command
            .arg(script)
            .args(["-a", "127.0.0.1", "-p", "0", "--no-vhost-buckets", "--configure-bucket", bucket, "-d"])
            .arg(data);
        let process = Process::start(command, &home.path().join("log"), "S3rver listening on ")?;
        Ok(Self { process, _home: home })
    }

    /// Its endpoint.
    #[must_use]
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.process.address)
    }
}

/// Azure Blob Storage as Microsoft's emulator has it, on disk.
#[derive(Debug)]
pub struct Azurite {
    process: Option<Process>,
    address: SocketAddr,
    home: TempDir,
}

/// Azurite's well-known account; it is no secret.
const ACCOUNT: &str = "devstoreaccount1";
const ACCOUNT_KEY: &str = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw==";

impl Azurite {
    /// The credentials that it knows.
    pub const CREDENTIALS: [(&'static str, &'static str); 2] =
        [("AZURE_STORAGE_ACCOUNT_NAME", ACCOUNT), ("AZURE_STORAGE_ACCOUNT_KEY", ACCOUNT_KEY)];

    /// Starts one with these containers.
    ///
    /// # Errors
    /// It isn't installed, or doesn't start.
    pub async fn start(containers: &[&str]) -> Result<Self> {
        let home = tempfile::tempdir()?;
        let process = Self::launch(home.path(), 0)?;
        let address = process.address;
        let azurite = Self { process: Some(process), address, home };
        for container in containers {
            azurite.make_container(container).await?;
        }
        Ok(azurite)
    }

    fn launch(home: &Path, port: u16) -> Result<Process> {
        let script = existing(tools()?.join("node/node_modules/azurite/dist/src/blob/main.js"))?;
        let mut command = Command::new("node");
        command
            .arg(script)
            .args(["--blobHost", "127.0.0.1", "--blobPort", &port.to_string(), "--disableTelemetry", "-l"])
            .arg(home.join("data"));
        Process::start(command, &home.join("log"), "successfully listens on http://")
    }

    async fn make_container(&self, container: &str) -> Result<()> {
        let date = jiff::Timestamp::now().strftime("%a, %d %b %Y %H:%M:%S GMT").to_string();
        let version = "2021-12-02";
        let signed = format!(
            "PUT\n\n\n\n\n\n\n\n\n\n\n\nx-ms-date:{date}\nx-ms-version:{version}\n/{ACCOUNT}/{ACCOUNT}/{container}\nrestype:container"
        );
        let key = hmac::Key::new(hmac::HMAC_SHA256, &BASE64_STANDARD.decode(ACCOUNT_KEY)?);
        let signature = BASE64_STANDARD.encode(hmac::sign(&key, signed.as_bytes()));
        let request: Request = http::Request::put(format!("/{ACCOUNT}/{container}?restype=container"))
            .header("host", self.address.to_string())
            .header("x-ms-date", date)
            .header("x-ms-version", version)
            .header("authorization", format!("SharedKey {ACCOUNT}:{signature}"))
            .body(Bytes::new())?;
        let answer = send(self.address, request).await?;
        if !answer.status().is_success() {
            bail!("Azurite doesn't make the container {container}: {} {:?}", answer.status(), answer.body());
        }
        Ok(())
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Its endpoint.
    #[must_use]
    pub fn endpoint(&self) -> String {
        Self::endpoint_at(self.address)
    }

    /// The endpoint of an Azurite that is reached through another address.
    #[must_use]
    pub fn endpoint_at(address: SocketAddr) -> String {
        format!("http://{address}/{ACCOUNT}")
    }

    /// Ends the server as an operator does, so that it writes down its books, and starts it again on the same port.
    ///
    /// # Errors
    /// It doesn't end, or doesn't start again.
    pub fn restart(&mut self) -> Result<()> {
        if let Some(mut process) = self.process.take() {
            if let Some(pid) = i32::try_from(process.child.id()).ok().and_then(rustix::process::Pid::from_raw) {
                rustix::process::kill_process(pid, rustix::process::Signal::TERM).context("end Azurite")?;
            }
            let started = Instant::now();
            while process.child.try_wait().context("look at Azurite")?.is_none() {
                if started.elapsed() > START_LIMIT {
                    bail!("Azurite does not end");
                }
                std::thread::sleep(PAUSE);
            }
        }
        self.process = Some(Self::launch(self.home.path(), self.address.port())?);
        Ok(())
    }
}
