//! `lifeboat appliance`: what the appliance's units run at its boot. Nothing in here is for a person to type.
//!
//! ```text
//! first-boot   before the network: settings of the hypervisor, data disk, files for network and gateway
//! ready        behind the gateway: asks it until it is ready, and says so on every console
//! ```
//! Consoles may be read by whoever watches a hypervisor: secrets never go there.

use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::net::UdpSocket;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::time::Duration;

use aws_lc_rs::digest;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use clap::{Args, Subcommand};
use lifeboat_api::Client;
use lifeboat_appliance::machine;
use lifeboat_appliance::plan::STATE;
use serde_json::Value;

use crate::connect;
use crate::failure::{Exit, Failure, Result};
use crate::output::note;
use crate::render::clean;

/// Time between two questions whether the gateway is ready.
const PAUSE: Duration = Duration::from_secs(1);
/// Questions until people are told that it isn't ready yet, and again.
const ASKED_UNTIL_TOLD: u32 = 30;

/// What the appliance does at its boot.
#[derive(Args, Debug)]
pub(crate) struct ApplianceArgs {
    #[command(subcommand)]
    verb: ApplianceVerb,
}

#[derive(Subcommand, Debug)]
enum ApplianceVerb {
    /// Take the hypervisor's settings and the data disk, at every boot
    FirstBoot,
    /// Wait until the gateway is ready, and say so on every console
    Ready,
}

pub(crate) async fn run(args: ApplianceArgs) -> Result<()> {
    match args.verb {
        ApplianceVerb::FirstBoot => first_boot(),
        ApplianceVerb::Ready => ready().await,
    }
}

fn first_boot() -> Result<()> {
    match machine::boot() {
        Ok(report) => {
            report.notes.iter().for_each(|text| tell(text));
            tell(&format!("this is {}", report.name));
            Ok(())
        }
        Err(error) => {
            tell(&format!("not started: {error:#}"));
            Err(Failure::failed(format!("{error:#}")))
        }
    }
}

/// Asks until the gateway says that it is ready.
async fn ready() -> Result<()> {
    let state = Path::new(STATE);
    for asked in 1_u32.. {
        match ask(state).await {
            Ok(()) => break,
            Err(why) if asked.is_multiple_of(ASKED_UNTIL_TOLD) => tell(&format!("not ready yet: {why}")),
            Err(_) => {}
        }
        tokio::time::sleep(PAUSE).await;
    }
    let fingerprint = fs::read_to_string(state.join("ca.pem")).ok().and_then(|pem| fingerprint(&pem));
    tell(&format!("its authority's SHA-256 fingerprint is {}", fingerprint.unwrap_or_else(|| "unknown".to_owned())));
    tell(&format!("ready: https://{}/", address().unwrap_or_else(|| "address unknown".to_owned())));
    Ok(())
}

async fn ask(state: &Path) -> Result<(), String> {
    let config = connect::local(state).map_err(|error| match error.exit() {
        Exit::Unreachable => "the gateway is starting".to_owned(),
        _ => error.to_string(),
    })?;
    let client = Client::new(&config).map_err(|error| error.to_string())?;
    client.get::<Value>("/readyz", &[]).await.map(drop).map_err(|error| error.to_string())
}

/// SHA-256 of the certificate, as `openssl x509 -fingerprint -sha256` prints it.
fn fingerprint(pem: &str) -> Option<String> {
    let inner = pem.split("-----BEGIN CERTIFICATE-----").nth(1)?.split("-----END").next()?;
    let der = STANDARD.decode(inner.split_whitespace().collect::<String>()).ok()?;
    let sum = digest::digest(&digest::SHA256, &der);
    Some(sum.as_ref().iter().map(|byte| format!("{byte:02X}")).collect::<Vec<_>>().join(":"))
}

/// The address by which others are reached, and so most likely reach this machine; nothing is sent.
fn address() -> Option<String> {
    let ask = |from: &str, to: &str| {
        let socket = UdpSocket::bind(from).ok()?;
        socket.connect(to).ok()?;
        Some(socket.local_addr().ok()?.ip())
    };
    // Documentation's networks: no machine is there.
    let v4 = ask("0.0.0.0:0", "192.0.2.1:9").map(|ip| ip.to_string());
    v4.or_else(|| ask("[::]:0", "[2001:db8::1]:9").map(|ip| format!("[{ip}]")))
}

/// One line on every console of the system, and in the log.
fn tell(text: &str) {
    let line = clean(text);
    note(&line);
    let consoles = fs::read_to_string("/sys/class/tty/console/active").unwrap_or_default();
    for console in consoles.split_whitespace() {
        // The first screen stands for the one in front. No terminal of this process's, and no waiting for a line that nobody reads.
        let device = Path::new("/dev").join(if console == "tty0" { "tty1" } else { console });
        let flags = rustix::fs::OFlags::NOCTTY | rustix::fs::OFlags::NONBLOCK;
        let opened = OpenOptions::new().write(true).custom_flags(flags.bits().cast_signed()).open(device);
        // A console that isn't there any more has no reader.
        let _ = opened.and_then(|mut console| write!(console, "lifeboat: {line}\r\n"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fingerprint_is_that_of_the_certificate_in_it() {
        let pem = "-----BEGIN CERTIFICATE-----\nYWJj\n-----END CERTIFICATE-----\n";
        let text = fingerprint(pem).unwrap();
        assert!(text.starts_with("BA:78:16:BF") && text.len() == 95, "{text}");
        assert_eq!(fingerprint("nothing"), None);
    }
}
