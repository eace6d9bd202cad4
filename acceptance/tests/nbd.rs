//! Volumes over NBD with QEMU's own client: the same bytes as in the mount, durable when it says so, and a restart of the
//! gateway is a pause for a client that waits.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::FileExt;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::mpsc::{Receiver, sync_channel};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use lifeboat_acceptance::command::Run;
use lifeboat_acceptance::estate::{Api, Estate};
use lifeboat_acceptance::eventually;
use lifeboat_acceptance::gateway::{Gateway, free_address};
use lifeboat_api::types::Volume;

const MIB: u64 = 1 << 20;

/// Runs `qemu-io` on an export, with one command after the other; one that fails ends it.
fn qemu_io(url: &str, commands: &[&str]) -> Result<String> {
    let run = Run::new("qemu-io").args(["-t", "none", "-f", "raw", url]);
    let said = commands.iter().fold(run, |run, command| run.args(["-c", *command])).ok()?;
    if said.contains("failed") {
        bail!("qemu-io {commands:?}: {said}");
    }
    Ok(said)
}

fn nbd_url(gateway: &Gateway, volume: &str) -> Result<String> {
    let api = Api::of(gateway)?;
    eventually("the volume's NBD address", Duration::from_secs(30), || {
        let found = api.call(async |client| client.find_by_name::<Volume>(volume).await)?;
        Ok(found.and_then(|volume| volume.status.nbd_url))
    })
}

/// A `qemu-io` that stays, and waits for its server for up to two minutes.
struct Waiting {
    child: Child,
    input: ChildStdin,
    lines: Receiver<String>,
}

impl Waiting {
    fn open(gateway: &Gateway, export: &str) -> Result<Self> {
        let socket = gateway.state().join("nbd.sock");
        let image = format!(
            "driver=raw,file.driver=nbd,file.server.type=unix,file.server.path={},file.export={export},file.reconnect-delay=120",
            socket.display()
        );
        let mut child = Command::new("qemu-io")
            .args(["-t", "none", "--image-opts", &image])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("start qemu-io")?;
        let (input, output) = (child.stdin.take().context("its input")?, child.stdout.take().context("its output")?);
        let (tell, lines) = sync_channel(64);
        std::thread::spawn(move || {
            for line in BufReader::<ChildStdout>::new(output).lines().map_while(Result::ok) {
                if tell.send(line).is_err() {
                    return;
                }
            }
        });
        Ok(Self { child, input, lines })
    }

    fn say(&mut self, command: &str) -> Result<()> {
        writeln!(self.input, "{command}").context("tell qemu-io")
    }

    /// The line in which it says what came of a command.
    fn hear(&self, part: &str) -> Result<()> {
        loop {
            let line =
                self.lines.recv_timeout(Duration::from_secs(120)).with_context(|| format!("{part} never came"))?;
            if line.contains(part) {
                return Ok(());
            }
            if line.contains("failed") || line.contains("error") {
                bail!("{line}");
            }
        }
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn a_volume_is_the_same_over_nbd_and_in_the_mount() {
    let mut estate = Estate::protect("nbd", &[("data", 32 * MIB)]).unwrap();
    let url = nbd_url(&estate.primary, "data").unwrap();
    assert!(url.starts_with("nbd+unix:///data?socket=/"), "{url}");
    let file = std::fs::File::options().read(true).write(true).open(estate.primary.volume("data")).unwrap();
    let mut bytes = vec![0; 8192];

    qemu_io(&url, &["write -P 0x11 4000 9000", "write -P 0x22 1M 2M", "discard 2M 512k"]).unwrap();
    file.read_exact_at(&mut bytes, 4000).unwrap();
    assert!(bytes.iter().all(|byte| *byte == 0x11));
    file.read_exact_at(&mut bytes, 2 * MIB).unwrap();
    assert!(bytes.iter().all(|byte| *byte == 0));
    file.write_all_at(&[0x33; 8192], 5 * MIB).unwrap();
    qemu_io(&url, &["read -P 0x33 5M 8k", "read -P 0x22 1M 1M", "read -P 0 2M 512k"]).unwrap();

    // Written through on one connection and killed at once: it was durable when qemu-io was answered.
    qemu_io(&url, &["write -f -P 0x44 8M 1M"]).unwrap();
    estate.primary.kill9().unwrap();
    drop(file);
    // The next start serves TCP as well, and says so; the path to it differs, the volume doesn't.
    let address = free_address().unwrap();
    estate.primary.arg("--listen-nbd").arg(address.to_string()).restart().unwrap();
    let tcp = format!("nbd://{address}/data");
    qemu_io(&tcp, &["read -P 0x44 8M 1M", "read -P 0x11 4000 9000"]).unwrap();
    eventually("the new address to be told", Duration::from_secs(30), || {
        Ok((nbd_url(&estate.primary, "data")? == tcp).then_some(()))
    })
    .unwrap();
    qemu_io(&url, &["read -P 0x44 8M 1M"]).unwrap();

    // A recovery point by its name, read-only.
    let point = estate.take_point(&estate.primary, "for nbd").unwrap().result.point_id.unwrap();
    let points = estate.points(&estate.primary).unwrap();
    let time = points.into_iter().find(|candidate| candidate.id == point).unwrap().time;
    let at = format!("nbd://{address}/points/ledger/{time}/data");
    qemu_io(&tcp, &["write -f -P 0x55 8M 1M"]).unwrap();
    Run::new("qemu-io").args(["-r", "-f", "raw", &at, "-c", "read -P 0x44 8M 1M"]).ok().unwrap();
    let refused = Run::new("qemu-io").args(["-f", "raw", &at, "-c", "write 0 4k"]).outcome().unwrap();
    assert_ne!(refused.code(), 0, "{}", refused.stdout);
}

#[test]
fn a_restart_of_the_gateway_is_a_pause_for_a_client_that_waits() {
    let mut estate = Estate::protect("nbd-restart", &[("data", 32 * MIB)]).unwrap();
    let mut client = Waiting::open(&estate.primary, "data").unwrap();
    client.say("write -P 0x11 0 1M").unwrap();
    client.hear("wrote 1048576/1048576 bytes at offset 0").unwrap();
    for (round, kill) in [true, false].into_iter().enumerate() {
        if kill {
            estate.primary.kill9().unwrap();
        } else {
            estate.primary.stop().unwrap();
        }
        // Asked while nobody is there.
        let at = (round as u64 + 1) * MIB;
        client.say(&format!("write -f -P 0x22 {at} 1M")).unwrap();
        estate.primary.restart().unwrap();
        client.hear(&format!("wrote 1048576/1048576 bytes at offset {at}")).unwrap();
    }
    client.say("read -P 0x11 0 1M").unwrap();
    client.hear("read 1048576/1048576 bytes at offset 0").unwrap();
    let url = nbd_url(&estate.primary, "data").unwrap();
    qemu_io(&url, &["read -P 0x11 0 1M", "read -P 0x22 1M 2M"]).unwrap();
}
