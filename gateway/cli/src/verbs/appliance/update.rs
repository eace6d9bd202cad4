//! Updates: into the slot that isn't in use, and what became of the one on trial ([`lifeboat_appliance::install`]).

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use clap::Args;
use lifeboat_api::Timestamp;
use lifeboat_appliance::install::{self, Settled};
use lifeboat_appliance::live;
use lifeboat_appliance::plan::STATE;
use lifeboat_appliance::update::{Trial, Trust};

use super::boot::tell;
use super::{about, console};
use crate::failure::{Failure, Result};
use crate::output::{Output, note};

/// How long a version on trial has to get ready.
const READY_WITHIN: Duration = Duration::from_secs(900);
const PAUSE: Duration = Duration::from_secs(1);

/// Install an update into the slot that isn't in use, and have it started once.
#[derive(Args, Debug)]
pub(crate) struct UpdateArgs {
    /// A directory with its files; the CD with the label LIFEBOAT-UPD when left out
    directory: Option<PathBuf>,
    /// The SHA-256 of its manifest, as its build printed it: for one that isn't signed by the key in this image
    #[arg(long, value_name = "HEX")]
    sha256: Option<String>,
}

pub(super) fn run(args: &UpdateArgs) -> Result<()> {
    let done = install::install(args.directory.as_deref(), args.sha256.as_deref());
    let text = match &done {
        Ok(installed) => {
            let trust = match installed.trust {
                Trust::Signature => "signed by the key in this image",
                Trust::Sum => "trusted by its sum",
            };
            format!(
                "version {} ({trust}) is in slot {}: the next restart tries it, once",
                installed.version, installed.slot
            )
        }
        Err(error) => format!("no update was installed: {error:#}"),
    };
    remember(&text);
    match done {
        Ok(_) => Output::Text.text(&text),
        Err(_) => Err(Failure::failed(text)),
    }
}

/// Waits for the version on trial to be ready and keeps it, or has the machine restarted without it.
pub(super) async fn confirm() -> Result<()> {
    let failed = |error: anyhow::Error| {
        let text = format!("the slots can't be settled: {error:#}");
        remember(&text);
        tell(&text);
        Failure::failed(text)
    };
    if install::trial().map_err(failed)? == Trial::Running {
        let begun = Instant::now();
        while let Err(why) = about::ready(Path::new(STATE)).await {
            if begun.elapsed() > READY_WITHIN {
                let text = format!(
                    "this version isn't ready after {} minutes ({why}): the one before is started again",
                    READY_WITHIN.as_secs() / 60
                );
                remember(&text);
                tell(&text);
                return console::systemctl(&["reboot"]);
            }
            tokio::time::sleep(PAUSE).await;
        }
    }
    let text = match install::settle().map_err(failed)? {
        Settled::Nothing => return Ok(()),
        Settled::Confirmed(slot) => format!("the update in slot {slot} is ready and stays"),
        Settled::FellBack { failed, running } => {
            format!("the update in slot {failed} didn't come up: slot {running} runs, as before it")
        }
    };
    remember(&text);
    tell(&text);
    Ok(())
}

/// For the console, and where it lasts.
fn remember(text: &str) {
    let kept = live::note_update(text).and_then(|()| live::log(&format!("{} update: {text}", Timestamp::now())));
    if let Err(error) = kept {
        note(&format!("it can't be written down: {error:#}"));
    }
}
