//! The appliance's boot: before the network, and behind the gateway.

use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::time::Duration;

use lifeboat_appliance::plan::STATE;
use lifeboat_appliance::{live, machine};

use super::{about, registering};
use crate::failure::{Failure, Result};
use crate::output::note;
use crate::render::clean;

/// Time between two questions whether the gateway is ready.
const PAUSE: Duration = Duration::from_secs(1);
/// Questions until people are told that it isn't ready yet, and again.
const ASKED_UNTIL_TOLD: u32 = 30;

/// Settings, data disk, files for network and gateway.
pub(super) fn first() -> Result<()> {
    let ended = machine::boot();
    if let Err(error) = live::note_boot(&ended) {
        note(&format!("{error:#}"));
    }
    match ended {
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
pub(super) async fn ready() -> Result<()> {
    let state = Path::new(STATE);
    for asked in 1_u32.. {
        match about::ready(state).await {
            Ok(()) => break,
            Err(why) if asked.is_multiple_of(ASKED_UNTIL_TOLD) => tell(&format!("not ready yet: {why}")),
            Err(_) => {}
        }
        tokio::time::sleep(PAUSE).await;
    }
    let fingerprint = about::fingerprint(state).unwrap_or_else(|| "unknown".to_owned());
    tell(&format!("its authority's SHA-256 fingerprint is {fingerprint}"));
    tell(&format!("ready: https://{}/", about::address().unwrap_or_else(|| "address unknown".to_owned())));
    registering::told(state, tell).await;
    Ok(())
}

/// One line on every console of the system, and in the log.
pub(super) fn tell(text: &str) {
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
