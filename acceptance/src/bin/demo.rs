//! The whole story on one machine: `make demo`.
//!
//! Declare with Terraform, run a database on the protected volume, lose the primary gateway in the middle of a write, fail
//! over from the vault alone, check every transaction, write on, fail back, check again. Every step prints when it happened,
//! what it took and what was found. A check that doesn't hold ends the demo with exit code 1; nothing is simulated, and what is
//! printed was measured. Every mount, loop device, process and file is removed at the end, also after a failure or an
//! interruption.

use std::fmt::Write as _;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use jiff::Timestamp;
use lifeboat_acceptance::command::Run;
use lifeboat_acceptance::device::{self, LoopFs};
use lifeboat_acceptance::documents::Documents;
use lifeboat_acceptance::gateway::{Gateway, client_environment};
use lifeboat_acceptance::ledger::{self, Commit, Writer};
use lifeboat_acceptance::scratch::Scratch;
use lifeboat_acceptance::terraform::{Tier, Workspace};
use lifeboat_acceptance::{binaries, cleanup, eventually, mounts};
use serde_json::Value;

const GROUP: &str = "ledger";
const VOLUME: &str = "db";
const POINT_INTERVAL: &str = "2s";
const SHORT: Duration = Duration::from_secs(60);

fn main() -> ExitCode {
    let mut story = Story { started: Instant::now(), chapter: 0 };
    match play(&mut story) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            if cleanup::stopping() {
                cleanup::park();
            }
            story.say(&format!("\nFAILED: {error:#}\n"));
            ExitCode::FAILURE
        }
    }
}

/// Prints the steps with their times.
#[derive(Debug)]
struct Story {
    started: Instant,
    chapter: u32,
}

impl Story {
    fn say(&self, text: &str) {
        let mut out = std::io::stdout().lock();
        // Whoever closed our output isn't reading; the checks still count.
        drop(writeln!(out, "{text}").and_then(|()| out.flush()));
    }

    fn chapter(&mut self, title: &str) {
        self.chapter += 1;
        self.say(&format!("\n{}. {title}", self.chapter));
    }

    /// Runs one step and prints its time, its name, what it took and what it found.
    fn step<T>(&self, name: &str, work: impl FnOnce() -> Result<(T, String)>) -> Result<T> {
        let began = Instant::now();
        let at = began.duration_since(self.started).as_secs_f64();
        match work() {
            Ok((value, found)) => {
                let took = began.elapsed().as_secs_f64();
                self.say(&format!("  [{at:7.2} s] {name}: {found} ({took:.2} s)"));
                Ok(value)
            }
            Err(error) => Err(error.context(format!("step at {at:.2} s: {name}"))),
        }
    }
}

/// Everything that was started, so that it ends in this order: workloads and mounts, then gateways, then files.
struct Stage {
    dir: PathBuf,
    primary: Gateway,
    standby: Gateway,
    terraform: Workspace,
    vault_url: String,
    key_file: PathBuf,
}

/// What was measured, for the end.
#[derive(Debug, Default)]
struct Figures {
    last_acknowledged: u64,
    recovered: u64,
    rpo: f64,
    rto_volumes: f64,
    rto_database: f64,
    bytes_changed: u64,
    bytes_moved: u64,
    passes: u64,
    downtime: f64,
    failback: f64,
}

fn play(story: &mut Story) -> Result<()> {
    device::require()?;
    let scratch = Scratch::new("demo")?;
    let dir = scratch.path().to_owned();
    story.say(&format!("Lifeboat demo in {}", dir.display()));

    let mut figures = Figures::default();
    let mut stage = declare(story, &scratch)?;
    let disk = stage.dir.join("ledger-primary");
    let before = run_until_disaster(story, &mut stage, &disk, &mut figures)?;
    let recovered = recover(story, &stage, &before, &mut figures)?;
    go_home(story, &mut stage, recovered, &mut figures)?;
    close(story, stage)?;
    drop(scratch);
    story.say(&summary(&figures)?);
    Ok(())
}

/// Two gateways, one vault, one `terraform apply`.
fn declare(story: &mut Story, scratch: &Scratch) -> Result<Stage> {
    let dir = scratch.path();
    story.chapter("Declare: two sites, one vault, one protected volume");
    let vault = dir.join("vault");
    let key_file = scratch.write_key("vault.key")?;
    let primary = story.step("start the gateway of site onprem", || {
        let gateway = Gateway::start("onprem", "primary", &dir.join("onprem"))?;
        let found = format!("{} mounted at {}", gateway.endpoint(), gateway.mount().display());
        Ok((gateway, found))
    })?;
    let standby = story.step("start the gateway of site recovery", || {
        let gateway = Gateway::start("recovery", "standby", &dir.join("recovery"))?;
        let found = format!("{}, blank: it knows no vault yet", gateway.endpoint());
        Ok((gateway, found))
    })?;
    let environment = client_environment(&[&primary, &standby]);
    let terraform = Workspace::new(&dir.join("terraform"), Tier::Installed, environment)?;
    terraform.copy(&binaries::repository().join("examples/quickstart"))?;
    let vault_url = format!("file://{}", vault.display());
    std::fs::write(
        terraform.dir().join("terraform.tfvars"),
        format!(
            "vault_url = {vault_url:?}\nvault_key_file = {:?}\nrecovery_point_interval = {POINT_INTERVAL:?}\n",
            key_file.display().to_string()
        ),
    )
    .context("write terraform.tfvars")?;
    story.step("terraform init", || {
        terraform.init()?;
        Ok(((), "provider installed from a file system mirror".to_owned()))
    })?;
    story.step("terraform plan", || {
        let plan = terraform.plan()?;
        let changes = plan.changes();
        ensure!(changes > 0, "the plan creates nothing");
        Ok(((), format!("{changes} resources to create")))
    })?;
    story.step("terraform apply", || {
        terraform.apply()?;
        let state = terraform.state()?;
        let path = state.text("lifeboat_volume.db", "path")?.to_owned();
        ensure!(Path::new(&path).exists(), "{path} is not there");
        Ok(((), format!("the volume is {path}")))
    })?;
    Ok(Stage { dir: dir.to_owned(), primary, standby, terraform, vault_url, key_file })
}

/// What the primary site had when it was lost.
struct Lost {
    commits: Vec<Commit>,
    documents: Documents,
}

fn run_until_disaster(story: &mut Story, stage: &mut Stage, disk: &Path, figures: &mut Figures) -> Result<Lost> {
    story.chapter("Work: a database on the protected volume");
    let image = stage.primary.volume(VOLUME);
    let fs = story.step("make a file system on the volume and mount it", || {
        let fs = LoopFs::format(&image, disk)?;
        let found = format!("ext4 on {} (direct I/O)", fs.device());
        Ok((fs, found))
    })?;
    let documents = story.step("write files and record their hashes", || {
        let documents = Documents::write(&disk.join("documents"), 200)?;
        fs.sync()?;
        Ok((documents, "200 files, flushed".to_owned()))
    })?;
    let settled = Timestamp::now();
    let database = disk.join("ledger.db");
    let writer = story.step("start the database", || {
        ledger::create(&database)?;
        let writer = Writer::start(&database, 1)?;
        let commit = writer.reach(50, SHORT)?;
        Ok((writer, format!("SQLite, synchronous=EXTRA; transaction {} committed", commit.number)))
    })?;
    story.step("watch recovery points appear", || {
        let points = eventually("three recovery points with the database in them", SHORT, || {
            let points = points(&stage.primary)?;
            let fresh = points.iter().filter(|(time, _)| *time > settled).count();
            Ok((fresh >= 3).then_some(points))
        })?;
        let mut list = format!("{} in the vault", points.len());
        for (time, kind) in points.iter().take(3) {
            write!(list, "\n               {time} {kind}").context("format")?;
        }
        let files = stage.primary.point_directories(GROUP)?.len();
        ensure!(files > 0, "the mount shows no point");
        Ok(((), list))
    })?;
    story.chapter("Disaster");
    let commits = story.step("SIGKILL the primary gateway in the middle of a write", || {
        let next = writer.last().context("no transaction")?.number + 40;
        writer.reach(next, SHORT)?;
        stage.primary.kill9()?;
        let killed = Timestamp::now();
        let commits = writer.abandon();
        let last = commits.last().context("no transaction")?;
        figures.last_acknowledged = last.number;
        let found = format!("killed at {killed}; the last acknowledged transaction is {}", last.number);
        Ok((commits, found))
    })?;
    drop(fs);
    Ok(Lost { commits, documents })
}

/// What goes on at the recovery site.
struct Recovered {
    // Dropped in this order: who writes to the disk first.
    writer: Writer,
    fs: LoopFs,
    documents: Documents,
}

fn recover(story: &mut Story, stage: &Stage, lost: &Lost, figures: &mut Figures) -> Result<Recovered> {
    story.chapter("Recover: from the vault and its key alone");
    let standby = &stage.standby;
    story.step("open the vault at the recovery site", || {
        let key = stage.key_file.display().to_string();
        standby.run(&["vault", "open", &stage.vault_url, "--key-file", &key])?.ok()?;
        eventually("the gateway to take up its declaration", SHORT, || {
            let gateway = standby.json(&["gateway", "show", "standby"])?;
            Ok((gateway["status"]["registered"] == true).then_some(()))
        })?;
        Ok(((), "the gateway took up its declaration".to_owned()))
    })?;
    let commanded = Instant::now();
    let job = story.step("lifeboat failover unplanned --point latest", || {
        let job = standby.json(&["failover", "unplanned", "--group", GROUP, "--point", "latest"])?;
        ensure!(job["state"] == "succeeded", "the failover job is {}: {}", job["state"], job["cause"]);
        let found = format!("from the point of {}", text(&job["result"]["point_time"])?);
        Ok((job, found))
    })?;
    figures.rto_volumes = number(&job["result"]["rto_seconds"])?;
    let point_time: Timestamp = text(&job["result"]["point_time"])?.parse().context("the point's time")?;
    let image = PathBuf::from(text(&job["result"]["paths"][0])?);
    let disk = stage.dir.join("ledger-recovery");
    let fs = story.step("mount the volume", || {
        let fs = LoopFs::open(&image, &disk)?;
        let found = format!("{} on {}", image.display(), fs.device());
        Ok((fs, found))
    })?;
    let database = disk.join("ledger.db");
    let recovered = story.step("open the database and check it", || {
        let content = ledger::verify(&database)?;
        let must = lost.commits.iter().filter(|commit| commit.at <= point_time).map(|commit| commit.number).max();
        let must = must.context("no transaction was acknowledged before the point")?;
        let last = figures.last_acknowledged;
        let found = content.transactions;
        ensure!(found >= must, "transaction {must} was acknowledged before the point, and only {found} are there");
        ensure!(found <= last + 1, "{found} transactions are there, and only {last} were acknowledged");
        Ok((found, format!("integrity ok, transactions 1 to {found}; {must} had to be there")))
    })?;
    figures.recovered = recovered;
    let last = lost.commits.last().context("no transaction")?;
    let kept = lost.commits.iter().find(|commit| commit.number == recovered).unwrap_or(last);
    figures.rpo = seconds_between(kept.at, last.at)?;
    story.step("check the files", || {
        let count = lost.documents.verify(&disk.join("documents"))?;
        Ok(((), format!("{count} hashes are right")))
    })?;
    story.step("terraform plan, with the primary dead", || {
        stage.terraform.plan_is_empty(true)?;
        Ok(((), "empty".to_owned()))
    })?;

    story.chapter("Go on at the recovery site");
    let writer = Writer::start(&database, recovered + 1)?;
    let first = writer.reach(recovered + 1, SHORT)?;
    figures.rto_database = commanded.elapsed().as_secs_f64();
    let documents = story.step("write on", || {
        let documents = Documents::write(&disk.join("documents"), 40)?;
        fs.sync()?;
        let commit = writer.reach(recovered + 200, SHORT)?;
        Ok((documents, format!("transactions {} to {}, 40 files changed", first.number, commit.number)))
    })?;
    story.step("lifeboat commit", || {
        standby.run(&["commit", "--group", GROUP])?.ok()?;
        Ok(((), "the failover stands".to_owned()))
    })?;
    Ok(Recovered { writer, fs, documents })
}

fn go_home(story: &mut Story, stage: &mut Stage, recovered: Recovered, figures: &mut Figures) -> Result<()> {
    story.chapter("Back home: only what differs travels");
    let Recovered { writer, fs, documents } = recovered;
    story.step("start the primary gateway again", || {
        stage.primary.restart()?;
        let image = stage.primary.volume(VOLUME);
        eventually("the old primary to refuse writes", SHORT, || {
            Ok(std::fs::File::options().write(true).open(&image).is_err().then_some(()))
        })?;
        Ok(((), "it is fenced: its volume can't be written".to_owned()))
    })?;
    let began = Instant::now();
    let commits = story.step("lifeboat failback --mode minimize-downtime, the database still writing", || {
        let before = writer.last().context("no transaction")?.number;
        let job = stage.primary.json(&["failback", "--group", GROUP, "--mode", "minimize-downtime"])?;
        ensure!(job["state"] == "succeeded", "the failback job is {}: {}", job["state"], job["cause"]);
        figures.failback = began.elapsed().as_secs_f64();
        let result = &job["result"];
        figures.bytes_changed = integer(&result["bytes_changed"])?;
        figures.bytes_moved = integer(&result["bytes_moved"])?;
        figures.passes = integer(&result["passes"])?;
        figures.downtime = number(&result["downtime_seconds"])?;
        let commits = writer.abandon();
        let last = commits.last().context("no transaction")?.number;
        let found = format!(
            "{} changed, {} moved in {} passes; {} transactions were written meanwhile",
            bytes(figures.bytes_changed),
            bytes(figures.bytes_moved),
            figures.passes,
            last - before
        );
        Ok((commits, found))
    })?;
    drop(fs);
    story.step("compare the primary's disk with the recovery point", || {
        let list = stage.primary.json(&["point", "list", "--group", GROUP, "--limit", "1"])?;
        let point = items(&list).first().context("there is no recovery point")?;
        let file = PathBuf::from(text(&point["path"])?).join(format!("{VOLUME}.img"));
        device::same_content(&file, &stage.primary.volume(VOLUME))?;
        Ok(((), format!("equal, byte for byte, to the point of {}", text(&point["time"])?)))
    })?;
    let disk = stage.dir.join("ledger-home");
    let fs = LoopFs::open(&stage.primary.volume(VOLUME), &disk)?;
    let database = disk.join("ledger.db");
    let content = story.step("open the database at home and check it", || {
        let last = commits.last().context("no transaction")?.number;
        let content = ledger::verify(&database)?.transactions;
        ensure!(content >= last, "transaction {last} was acknowledged, and only {content} are there");
        ensure!(content <= last + 1, "{content} transactions are there, and only {last} were acknowledged");
        let files = documents.verify(&disk.join("documents"))?;
        Ok((content, format!("integrity ok, transactions 1 to {content}, nothing lost; {files} hashes are right")))
    })?;
    story.step("write on at home, protected again", || {
        let since = Timestamp::now();
        let writer = Writer::start(&database, content + 1)?;
        writer.reach(content + 20, SHORT)?;
        let commits = writer.stop()?;
        fs.sync()?;
        eventually("a new recovery point", SHORT, || {
            Ok(points(&stage.primary)?.iter().any(|(time, _)| *time > since).then_some(()))
        })?;
        Ok(((), format!("transaction {}, and a new recovery point", commits.last().context("none")?.number)))
    })?;
    story.step("terraform plan", || {
        stage.terraform.plan_is_empty(false)?;
        stage.terraform.plan_is_empty(true)?;
        Ok(((), "empty, with and without refresh".to_owned()))
    })?;
    fs.close()
}

/// Ends everything in order, and makes sure that nothing is left.
fn close(story: &mut Story, stage: Stage) -> Result<()> {
    story.chapter("Clean up");
    story.step("stop both gateways", || {
        let Stage { dir, mut primary, mut standby, .. } = stage;
        standby.stop()?;
        primary.stop()?;
        drop((primary, standby));
        let left: Vec<_> = mounts::all()?.into_iter().filter(|mount| mount.target.starts_with(&dir)).collect();
        ensure!(left.is_empty(), "still mounted: {left:?}");
        let devices = Run::new("losetup").args(["--list", "--noheadings", "--output", "NAME,BACK-FILE"]).ok()?;
        let prefix = dir.display().to_string();
        let attached: Vec<&str> = devices.lines().filter(|line| line.contains(&prefix)).collect();
        ensure!(attached.is_empty(), "still attached: {attached:?}");
        Ok(((), "no mount, no loop device, no process left".to_owned()))
    })
}

fn summary(figures: &Figures) -> Result<String> {
    let lost = figures.last_acknowledged.saturating_sub(figures.recovered);
    if figures.bytes_changed == 0 {
        bail!("the failback says that nothing had changed, which can't be");
    }
    let ratio = figures.bytes_moved as f64 / figures.bytes_changed as f64;
    Ok(format!(
        "\nMeasured\n\
         \x20 recovery point   {:.2} s of writes lost: {lost} of {} acknowledged transactions (points every {POINT_INTERVAL})\n\
         \x20 recovery time    {:.2} s from the request to writable volumes, {:.2} s to the first new transaction\n\
         \x20 failback         {} moved for {} changed ({ratio:.2} to 1), {:.2} s in {} passes, {:.2} s without writes\n\
         \x20 acknowledged transactions lost by the failback: 0\n\
         Every check held.",
        figures.rpo,
        figures.last_acknowledged,
        figures.rto_volumes,
        figures.rto_database,
        bytes(figures.bytes_moved),
        bytes(figures.bytes_changed),
        figures.failback,
        figures.passes,
        figures.downtime,
    ))
}

/// The group's recovery points, newest first: time and kind.
fn points(gateway: &Gateway) -> Result<Vec<(Timestamp, String)>> {
    let list = gateway.json(&["point", "list", "--group", GROUP, "--limit", "100"])?;
    items(&list)
        .iter()
        .map(|point| {
            let time = text(&point["time"])?.parse().context("a point's time")?;
            Ok((time, text(&point["kind"])?.to_owned()))
        })
        .collect()
}

/// A list as the command line prints it: an array, or a page.
fn items(list: &Value) -> &[Value] {
    list.as_array().or_else(|| list["items"].as_array()).map_or(&[], Vec::as_slice)
}

fn text(value: &Value) -> Result<&str> {
    value.as_str().with_context(|| format!("expected a text, found {value}"))
}

fn number(value: &Value) -> Result<f64> {
    value.as_f64().with_context(|| format!("expected a number, found {value}"))
}

fn integer(value: &Value) -> Result<u64> {
    value.as_u64().with_context(|| format!("expected a whole number, found {value}"))
}

fn seconds_between(earlier: Timestamp, later: Timestamp) -> Result<f64> {
    later.since(earlier).context("subtract times")?.total(jiff::Unit::Second).context("count seconds")
}

fn bytes(count: u64) -> String {
    format!("{:.2} MiB", count as f64 / f64::from(1 << 20))
}
