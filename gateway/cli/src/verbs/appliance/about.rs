//! What this appliance is, as its own gateway and kernel say.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use aws_lc_rs::digest;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use lifeboat_api::{Client, GatewayReport};
use lifeboat_appliance::console::Facts;
use lifeboat_appliance::live::{self, Set};
use lifeboat_appliance::plan::{DATA, STATE};
use lifeboat_server::outward;
use serde_json::Value;

use crate::connect;
use crate::failure::Exit;

/// How long the gateway is waited for before the screen shows that it doesn't answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// Whether the gateway with this state directory is ready, or why it isn't.
pub(super) async fn ready(state: &Path) -> Result<(), String> {
    client(state)?.get::<Value>("/readyz", &[]).await.map(drop).map_err(|error| error.to_string())
}

fn client(state: &Path) -> Result<Client, String> {
    let config = connect::local(state).map_err(|error| match error.exit() {
        Exit::Unreachable => "the gateway is starting".to_owned(),
        _ => error.to_string(),
    })?;
    Client::new(&config).map_err(|error| error.to_string())
}

/// All that the console shows. The gateway is asked for a moment at most: it may be what doesn't work.
pub(super) async fn facts() -> Facts {
    let text = |path: &str| fs::read_to_string(path).unwrap_or_default().trim().to_owned();
    let state = Path::new(STATE);
    let (failed, notes) = live::boot_notes();
    let report = match &failed {
        Some(why) => Err(format!("not started: {why}")),
        None => tokio::time::timeout(PATIENCE, report(state))
            .await
            .unwrap_or_else(|_| Err("the gateway doesn't answer".to_owned())),
    };
    let mut facts = Facts {
        name: text("/proc/sys/kernel/hostname"),
        version: Some(text("/usr/share/lifeboat/version"))
            .filter(|text| !text.is_empty())
            .unwrap_or_else(|| env!("CARGO_PKG_VERSION").to_owned()),
        slot: slot(&text("/proc/cmdline")).unwrap_or("none").to_owned(),
        reasons: live::update_note().into_iter().chain(notes).collect(),
        url: address().map(|address| format!("https://{address}/")),
        addresses: interfaces(&said_by("ip", &["-brief", "address", "show", "scope", "global"])),
        network: network_line(live::network()),
        is_synchronised: Path::new("/run/systemd/timesync/synchronized").exists(),
        disk: space(Path::new(DATA)),
        memory: memory(&text("/proc/meminfo")),
        fingerprint: fingerprint(state),
        ..Facts::default()
    };
    match report {
        Err(why) => facts.not_ready = Some(why),
        Ok(report) => {
            facts.not_ready = (!report.ready).then(|| "the gateway is starting".to_owned());
            facts.is_declared = !report.gateway_ids.is_empty();
            facts.vaults =
                report.vaults.iter().map(|vault| (vault.spec.name.clone(), vault.status.health.to_string())).collect();
            facts.reasons.extend(report.reasons);
            facts.site = report.site;
        }
    }
    facts
}

async fn report(state: &Path) -> Result<GatewayReport, String> {
    client(state)?.get("/v1/status", &[]).await.map_err(|error| error.to_string())
}

fn network_line(set: anyhow::Result<Set>) -> String {
    match set {
        Ok(set) => format!(
            "{} ({})",
            set.network.line(),
            if set.is_ours { "set here" } else { "by the hypervisor's properties" }
        ),
        Err(error) => format!("not known: {error:#}"),
    }
}

/// The slot that the boot loader started.
pub(super) fn slot(command_line: &str) -> Option<&str> {
    command_line.split_whitespace().find_map(|word| word.strip_prefix("lifeboat.slot="))
}

/// Interfaces with their addresses, from `ip -brief address`.
fn interfaces(said: &str) -> Vec<String> {
    let line = |line: &str| {
        let mut words = line.split_whitespace();
        let name = words.next()?.split('@').next()?;
        let addresses: Vec<&str> = words.skip(1).filter(|word| word.contains('/')).collect();
        (name != "lo" && !addresses.is_empty()).then(|| format!("{name} {}", addresses.join(", ")))
    };
    said.lines().filter_map(line).collect()
}

/// Bytes of memory in use and all, from `/proc/meminfo`.
fn memory(said: &str) -> Option<(u64, u64)> {
    let of = |name: &str| -> Option<u64> {
        let line = said.lines().find_map(|line| line.strip_prefix(name))?;
        Some(line.trim().trim_end_matches(" kB").parse::<u64>().ok()? << 10)
    };
    let all = of("MemTotal:")?;
    Some((all.saturating_sub(of("MemAvailable:")?), all))
}

/// Bytes free and all of the data disk; nothing where none is mounted.
fn space(data: &Path) -> Option<(u64, u64)> {
    let (here, above) = (rustix::fs::stat(data).ok()?, rustix::fs::stat("/").ok()?);
    let space = rustix::fs::statvfs(data).ok()?;
    (here.st_dev != above.st_dev).then(|| (space.f_bavail * space.f_frsize, space.f_blocks * space.f_frsize))
}

/// What a program prints; nothing when it fails.
fn said_by(program: &str, args: &[&str]) -> String {
    let output = Command::new(program).args(args).stdin(Stdio::null()).stderr(Stdio::null()).output();
    output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default()
}

/// The fingerprint of the gateway's authority.
pub(super) fn fingerprint(state: &Path) -> Option<String> {
    fingerprint_of(&fs::read_to_string(state.join("ca.pem")).ok()?)
}

/// SHA-256 of the certificate, as `openssl x509 -fingerprint -sha256` prints it.
fn fingerprint_of(pem: &str) -> Option<String> {
    let inner = pem.split("-----BEGIN CERTIFICATE-----").nth(1)?.split("-----END").next()?;
    let der = STANDARD.decode(inner.split_whitespace().collect::<String>()).ok()?;
    let sum = digest::digest(&digest::SHA256, &der);
    Some(sum.as_ref().iter().map(|byte| format!("{byte:02X}")).collect::<Vec<_>>().join(":"))
}

/// The address by which this machine most likely is reached, as a URL has it.
pub(super) fn address() -> Option<String> {
    outward().map(|ip| if ip.is_ipv4() { ip.to_string() } else { format!("[{ip}]") })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_programs_and_the_kernel_say_is_understood() {
        let said = "lo               UNKNOWN        127.0.0.1/8 ::1/128 \neth0@if3         UP             192.0.2.10/24 2001:db8::7/64 \neth1 DOWN\n";
        assert_eq!(interfaces(said), ["eth0 192.0.2.10/24, 2001:db8::7/64"]);
        let said = "MemTotal:        1000 kB\nMemFree:          100 kB\nMemAvailable:     400 kB\n";
        assert_eq!(memory(said), Some((600 << 10, 1000 << 10)));
        assert_eq!(memory("nothing"), None);
        assert_eq!(slot("quiet lifeboat.slot=b ro"), Some("b"));
        assert_eq!(slot("quiet"), None);
        assert_eq!(space(Path::new("/")), None, "it would be the system's own");
    }

    #[test]
    fn a_fingerprint_is_that_of_the_certificate_in_it() {
        let pem = "-----BEGIN CERTIFICATE-----\nYWJj\n-----END CERTIFICATE-----\n";
        let text = fingerprint_of(pem).unwrap();
        assert!(text.starts_with("BA:78:16:BF") && text.len() == 95, "{text}");
        assert_eq!(fingerprint_of("nothing"), None);
    }
}
