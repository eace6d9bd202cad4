//! `lifeboat vault check`: is everything in a vault as it was written, and what does it cost where it isn't? And `lifeboat
//! check`: the same for a gateway's local files.
//!
//! Needs the vault and its key, and no gateway. Reads only, unless it is to put lists right (`--repair`). A vault may be written to meanwhile. Interrupted, it says what it
//! found until then. Exit codes: 0 sound, 1 damaged, 5 not finished.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use lifeboat_engine::check::local::{LocalReport, check_state_directory};
use lifeboat_engine::check::{CheckOptions, CheckProgress, Cost, Damage, PointName, Report, check_vault};
use lifeboat_engine::gc::{Repaired, repair};
use lifeboat_model::{BLOCK_SIZE_U64, Extent};
use lifeboat_vault::{Access, Vault, VaultError, VaultOptions, open_store};
use serde::Serialize;

use super::key::KeyArgs;
use super::verify;
use crate::failure::{Exit, Failure, Result};
use crate::local_key::LocalKeyArgs;
use crate::output::{Output, is_watched, note};
use crate::render::{Table, clean, maybe, size};

/// How often a watcher sees how far it is.
const DRAWN_EVERY: Duration = Duration::from_millis(200);
/// Drawings to a line of a log.
const DRAWINGS_A_LINE: u32 = 50;
/// Extents named in a text.
const EXTENTS_SHOWN: usize = 6;

/// What to check.
#[derive(Args, Debug)]
pub(crate) struct CheckArgs {
    /// The vault, as this machine sees it: file:///absolute/directory
    url: String,
    /// Read all data too and hash every block, not only what describes it: as many bytes as the vault holds
    #[arg(long)]
    read_data: bool,
    /// This group only, by id or name
    #[arg(long, value_name = "ID|NAME")]
    group: Option<String>,
    /// Put right what collecting garbage keeps in the vault, if it is damaged: the list of kept points is written anew from what
    /// is there, delete intents that can't be read are taken away; then check once more. Never touches data
    #[arg(long)]
    repair: bool,
    #[command(flatten)]
    key: KeyArgs,
}

pub(crate) async fn run(args: CheckArgs, output: Output) -> Result<()> {
    let store = open_store(&args.url, Access::Open).await?;
    let (vault, broken) = Vault::open_soundest(store, &args.key.for_here()?, VaultOptions::default()).await?;
    let vault = Arc::new(vault);
    let group = match &args.group {
        Some(text) => Some(verify::group(&vault, text).await?),
        None => None,
    };
    let options = CheckOptions { group, read_data: args.read_data, ..CheckOptions::default() };
    let mut report = checked(&vault, &broken, &options).await;
    let mut repaired = Vec::new();
    if args.repair && report.complete {
        for group in report.repairable() {
            note(&format!("{group}: putting its lists right"));
            repaired.push(repair(&vault, group).await?);
        }
        if !repaired.is_empty() {
            report = checked(&vault, &broken, &options).await;
        }
    }
    let outcome = Outcome { report, repaired };
    output.show(&outcome, || {
        let repaired: String = outcome.repaired.iter().map(repaired_shown).collect();
        format!("{repaired}{}", shown(&outcome.report, &args.url))
    })?;
    verdict(&outcome.report)
}

/// What was found, after what was put right.
#[derive(Serialize)]
struct Outcome {
    #[serde(flatten)]
    report: Report,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    repaired: Vec<Repaired>,
}

/// Checks, and shows how far it is. Ctrl-C ends it early.
async fn checked(vault: &Arc<Vault>, broken: &[(String, VaultError)], options: &CheckOptions) -> Report {
    let progress = Arc::new(CheckProgress::default());
    let stop = options.stop.clone();
    let mut check = std::pin::pin!(check_vault(vault, broken, options, &progress));
    let mut watcher = Watcher::new(is_watched());
    let mut tick = tokio::time::interval(DRAWN_EVERY);
    let report = loop {
        tokio::select! {
            report = &mut check => break report,
            _ = tick.tick() => watcher.tell(&progress),
            _ = tokio::signal::ctrl_c(), if !stop.is_cancelled() => stop.cancel(),
        }
    };
    watcher.close();
    report
}

fn repaired_shown(repaired: &Repaired) -> String {
    let mut text = String::new();
    for intent in &repaired.intents {
        text += &format!("repaired: {} was taken away; the next collection finds its garbage again\n", clean(intent));
    }
    if let Some(list) = &repaired.list {
        let from = match &list.from {
            Some(from) => format!("by {}", clean(from)),
            None => "by all points that the log records".to_owned(),
        };
        text += &format!("repaired: {} lists {} points, {from}\n", clean(&list.written), list.points);
        if !list.left_out.is_empty() {
            let some: Vec<String> = list.left_out.iter().take(EXTENTS_SHOWN).map(ToString::to_string).collect();
            text += &format!(
                "  {} points lack objects, as points do that were dropped, and are not on it: {}{}\n",
                list.left_out.len(),
                some.join(", "),
                if list.left_out.len() > some.len() { ", …" } else { "" }
            );
        }
    }
    text
}

/// Local files to check.
#[derive(Args, Debug)]
pub(crate) struct LocalArgs {
    /// The state directory of a gateway that is stopped: states, journals, presence maps and images of its groups
    #[arg(long, value_name = "DIR")]
    state: PathBuf,
    #[command(flatten)]
    local_key: LocalKeyArgs,
}

pub(crate) async fn run_local(args: &LocalArgs, output: Output) -> Result<()> {
    let key = args.local_key.of(&args.state).await?;
    let report = check_state_directory(&args.state, key.as_ref())?;
    output.show(&report, || local_shown(&report))?;
    if report.sound {
        return Ok(());
    }
    let count = u64::try_from(report.damage.len()).unwrap_or(u64::MAX);
    Err(Failure::failed(format!("{} found in {}", objects(count), args.state.display())))
}

fn local_shown(report: &LocalReport) -> String {
    let mut table = Table::new(&["GROUP", "STATE", "IMAGE AT", "SHIPPED", "JOURNAL UP TO", "BATCHES", "DIRECTORY"]);
    for group in &report.groups {
        let journal = group.journal.as_ref();
        table.row([
            maybe(group.group),
            maybe(group.phase),
            maybe(group.image_lsn),
            maybe(group.shipped_lsn),
            maybe(journal.map(|journal| journal.last_lsn)),
            maybe(journal.map(|journal| journal.batches)),
            group.directory.display().to_string(),
        ]);
    }
    let said = if report.sound { "sound" } else { "DAMAGED" };
    let mut text = format!("{} files: {said}\n\n{}\n", report.files, table.or("no group has files here"));
    report.damage.iter().for_each(|damage| text += &damage_shown(damage));
    for one in &report.notes {
        text += &format!("note: {}: {}\n", clean(&one.object), clean(&one.text));
    }
    text
}

/// What a report means for the exit code.
fn verdict(report: &Report) -> Result<()> {
    if !report.sound {
        return Err(Failure::failed(format!("{} found damaged", objects(report.damage_total))));
    }
    match &report.incomplete_because {
        None => Ok(()),
        Some(why) => Err(Failure::new(Exit::Unreachable, format!("the check was not finished: {why}"))),
    }
}

fn objects(count: u64) -> String {
    if count == 1 { "1 damage was".to_owned() } else { format!("{count} damages were") }
}

fn shown(report: &Report, url: &str) -> String {
    let mut text = format!("{} at {}: {} objects, ", maybe(report.vault), clean(url), report.objects);
    text +=
        &format!("{} {}\n", size(report.bytes_read), if report.read_data { "with all data" } else { "without data" });
    text += match (report.sound, report.complete) {
        (true, true) => "sound: everything is as it was written\n",
        (true, false) => "no damage up to where the check ended\n",
        (false, true) => "DAMAGED\n",
        (false, false) => "DAMAGED, and the check was not finished\n",
    };
    let mut table =
        Table::new(&["GROUP", "BRANCH", "SEGMENTS", "MAPS", "POINTS", "WHOLE", "NEWEST POINT", "NEWEST WHOLE"]);
    let time = |point: Option<PointName>| maybe(point.map(|point| point.time));
    for group in &report.groups {
        for branch in &group.branches {
            table.row([
                group.group.to_string(),
                branch.branch.to_string(),
                branch.segments.to_string(),
                branch.maps.to_string(),
                branch.points.to_string(),
                branch.points_sound.to_string(),
                time(branch.newest),
                time(branch.newest_sound),
            ]);
        }
    }
    text += &format!("\n{}\n", table.or("no group has a history here"));
    report.damage.iter().for_each(|damage| text += &damage_shown(damage));
    let unlisted = report.damage_total.saturating_sub(u64::try_from(report.damage.len()).unwrap_or(u64::MAX));
    if unlisted > 0 {
        text += &format!("… and {unlisted} more\n");
    }
    for one in &report.notes {
        text += &format!("note: {}: {}\n", clean(&one.object), clean(&one.text));
    }
    text
}

fn damage_shown(damage: &Damage) -> String {
    let part = damage.part.as_ref().map(|part| format!(", {part}")).unwrap_or_default();
    let offset = damage.offset.map(|offset| format!(" at byte {offset}")).unwrap_or_default();
    let mut text = format!("{} ({}{part}{offset})\n  {}\n", clean(&damage.object), damage.kind, clean(&damage.detail));
    for cost in &damage.costs {
        text += &format!("  costs {}\n", cost_shown(cost));
    }
    match &damage.consequence {
        Some(consequence) => text += &format!("  costs {}\n", clean(consequence)),
        None if damage.costs.is_empty() => text += "  costs nothing that a recovery point still needs\n",
        None => {}
    }
    text
}

fn cost_shown(cost: &Cost) -> String {
    let points = if cost.points == 1 {
        format!("the point of {} ({})", cost.first.time, cost.first.id)
    } else {
        format!("{} points from {} to {}", cost.points, cost.first.time, cost.last.time)
    };
    let Some(volume) = cost.volume else {
        return format!("{points} on {}: they can't be opened", cost.branch);
    };
    let runs: Vec<String> = cost.extents.iter().take(EXTENTS_SHOWN).map(|extent| blocks(*extent)).collect();
    let more = cost.extents_total.saturating_sub(u64::try_from(runs.len()).unwrap_or(0));
    let more = if more > 0 { format!(" and {more} more runs") } else { String::new() };
    format!(
        "{points} on {}: {} of {volume}, blocks {}{more}",
        cost.branch,
        size(cost.blocks.saturating_mul(BLOCK_SIZE_U64)),
        runs.join(", ")
    )
}

fn blocks(extent: Extent) -> String {
    if extent.blocks == 1 {
        extent.lba.to_string()
    } else {
        format!("{}-{}", extent.lba, extent.end().saturating_sub(1))
    }
}

/// Tells how far a check is: a line that is drawn over on a terminal, a line now and then elsewhere.
struct Watcher {
    bar: Option<ProgressBar>,
    drawings: u32,
}

impl Watcher {
    fn new(watched: bool) -> Self {
        let bar = watched.then(|| {
            let template = ProgressStyle::with_template("{spinner} [{bar:24}] {pos}/{len} {msg}");
            let style = template.unwrap_or_else(|_| ProgressStyle::default_bar()).progress_chars("=> ");
            ProgressBar::new(0).with_style(style)
        });
        Self { bar, drawings: 0 }
    }

    fn tell(&mut self, progress: &CheckProgress) {
        let damage = progress.damage();
        let found = if damage == 0 { String::new() } else { format!(", {damage} damaged") };
        let message = clean(&format!("{}, {}{found}", size(progress.bytes()), progress.stage()));
        if let Some(bar) = &self.bar {
            bar.set_length(progress.total());
            bar.set_position(progress.objects());
            bar.set_message(message);
            return;
        }
        self.drawings = self.drawings.saturating_add(1);
        if self.drawings.is_multiple_of(DRAWINGS_A_LINE) {
            note(&format!("{} of {} objects checked, {message}", progress.objects(), progress.total()));
        }
    }

    fn close(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}
