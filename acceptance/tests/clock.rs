//! A gateway's clock jumps while applications write: by an hour and by a year, forward and back.
//!
//! What must hold: no write fails and none is lost; recovery points go on, and are listed in the order in which they were taken, whatever
//! times they say; no figure speaks of an hour or a year of lost writes when points land every second; nobody is fenced; a point that is
//! pinned stays, and reads as it was.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use lifeboat_acceptance::estate::{Estate, GROUP, Place};
use lifeboat_acceptance::scratch::Scratch;
use lifeboat_acceptance::stamps::Writer;
use lifeboat_acceptance::{content, eventually};
use serde_json::Value;

const SIZE: u64 = 16 << 20;
const SETTLES_WITHIN: Duration = Duration::from_secs(60);
/// More than a point takes on the slowest machine, and less than any jump.
const RPO_MAX_SECONDS: f64 = 600.0;
const HOUR: i64 = 3600;
const YEAR: i64 = 365 * 24 * HOUR;

/// A clock that is set by a file.
struct Clock {
    file: PathBuf,
    environment: Vec<(String, String)>,
}

impl Clock {
    fn new(dir: &Path) -> Result<Self> {
        let found = std::fs::read_dir("/usr/lib")?.flatten().map(|one| one.path().join("faketime/libfaketimeMT.so.1"));
        let library =
            found.into_iter().find(|path| path.exists()).context("libfaketime is missing: run `make deps`")?;
        let file = dir.join("clock");
        let environment = [
            ("LD_PRELOAD", library.display().to_string()),
            ("FAKETIME_TIMESTAMP_FILE", file.display().to_string()),
            ("FAKETIME_NO_CACHE", "1".to_owned()),
            // Time that passes is measured by another clock, which nobody sets.
            ("FAKETIME_DONT_FAKE_MONOTONIC", "1".to_owned()),
        ];
        let environment = environment.map(|(name, value)| (name.to_owned(), value)).to_vec();
        let clock = Self { file, environment };
        clock.set(0)?;
        Ok(clock)
    }

    /// Sets it so many seconds ahead of the machine's.
    fn set(&self, ahead: i64) -> Result<()> {
        // Renamed into place: a reader never finds half of it.
        let new = self.file.with_extension("new");
        std::fs::write(&new, format!("{ahead:+}\n"))?;
        Ok(std::fs::rename(new, &self.file)?)
    }
}

/// A point as the gateway lists it.
struct Listed {
    id: String,
    lsn: u64,
}

fn listed(estate: &Estate) -> Result<Vec<Listed>> {
    let points = estate.primary.json(&["point", "list", "--group", GROUP])?;
    let points = points.as_array().context("a list of points")?;
    let read = |point: &Value| {
        let lsn = point["lsn"].as_u64().with_context(|| format!("a point's place: {point}"))?;
        Ok(Listed { id: point["id"].as_str().context("a point's id")?.to_owned(), lsn })
    };
    points.iter().map(read).collect()
}

/// Looks at every figure of time of the group, again and again, until new points have landed.
fn figures_are_sane(estate: &Estate, writer: &Writer, what: &str) -> Result<()> {
    let before = listed(estate)?.iter().map(|point| point.lsn).max().unwrap_or(0);
    let (mut seen, mut renewed) = (0, false);
    eventually(&format!("points after {what}"), SETTLES_WITHIN, || {
        let status = estate.primary.json(&["status"])?;
        let newest = listed(estate)?.iter().map(|point| point.lsn).max().unwrap_or(0);
        for (name, value) in figures(&status) {
            // The applied one says how old the newest point is by the clock: with one that was taken after the jump it is right again.
            let said = name != "applied_rpo_seconds" || renewed;
            ensure!(value >= 0.0 && (value < RPO_MAX_SECONDS || !said), "after {what}: {name} is {value}: {status}");
        }
        ensure!(!status.to_string().contains("more than the policy's"), "after {what}: {status}");
        seen += 1;
        let applied = figures(&status).into_iter().filter(|(name, _)| name == "applied_rpo_seconds");
        renewed |=
            newest > before && applied.clone().count() > 0 && applied.clone().all(|(_, value)| value < RPO_MAX_SECONDS);
        Ok((renewed && seen >= 8).then_some(()))
    })
    .with_context(|| estate.primary.log_tail())?;
    writer.write(50).with_context(|| format!("after {what}"))
}

/// Seconds that a disaster would cost, or that something is old, wherever they stand.
fn figures(value: &Value) -> Vec<(String, f64)> {
    match value {
        Value::Object(fields) => fields
            .iter()
            .flat_map(|(name, value)| match value.as_f64() {
                Some(number) if name.ends_with("rpo_seconds") || name == "oldest_unshipped_seconds" => {
                    vec![(name.clone(), number)]
                }
                _ => figures(value),
            })
            .collect(),
        Value::Array(values) => values.iter().flat_map(figures).collect(),
        _ => Vec::new(),
    }
}

#[test]
fn a_clock_that_jumps_by_an_hour_and_by_a_year_loses_nothing_and_alarms_nobody() {
    let scratch = Scratch::new("clock-file").unwrap();
    let clock = Clock::new(scratch.path()).unwrap();
    let place = Place { environment: clock.environment.clone(), ..Place::default() };
    let url = format!("file://{}", scratch.path().join("vault").display());
    let mut estate = Estate::protect_between("clock", &url, [place, Place::default()], &[("data", SIZE)]).unwrap();
    estate.add_standby().unwrap();
    estate.open_vault_at_standby().unwrap();
    let file = estate.primary.volume("data");
    let writer = Writer::start().unwrap();
    writer.resume(std::slice::from_ref(&file));
    writer.write(200).unwrap();

    // A point that is to stay, and what it holds.
    writer.pause().unwrap();
    let kept = content::content(&file).unwrap();
    let point = estate.take_point(&estate.primary, "before").unwrap().result.point_id.unwrap().to_string();
    estate.primary.run(&["point", "pin", &point, "--group", GROUP]).unwrap().ok().unwrap();
    writer.resume(std::slice::from_ref(&file));

    let mut order: Vec<String> = listed(&estate).unwrap().into_iter().rev().map(|point| point.id).collect();
    for (ahead, what) in [
        (HOUR, "an hour forward"),
        (0, "an hour back"),
        (-HOUR, "another hour back"),
        (0, "an hour forward again"),
        (YEAR, "a year forward"),
        (0, "a year back"),
    ] {
        clock.set(ahead).unwrap();
        figures_are_sane(&estate, &writer, what).unwrap();
        // In the order of the writes, and those that were there before in theirs.
        let points = listed(&estate).unwrap();
        assert!(points.windows(2).all(|two| two[0].lsn > two[1].lsn), "{what}: the order of points is another one");
        let now: Vec<String> = points.into_iter().rev().map(|point| point.id).collect();
        let old: Vec<&String> = order.iter().filter(|id| now.contains(id)).collect();
        let same: Vec<&String> = now.iter().filter(|id| order.contains(id)).collect();
        assert_eq!(old, same, "{what}");
        assert!(now.contains(&point), "{what}: the pinned point is gone");
        order = now;
    }

    // Nobody took anything over, nothing was lost, and the pinned point is what it was.
    writer.write(50).unwrap();
    writer.pause().unwrap();
    let volume = content::content(&file).unwrap();
    writer.history().check(std::slice::from_ref(&volume)).unwrap();
    let last = estate.take_point(&estate.primary, "after").unwrap().result.point_id.unwrap().to_string();
    let standby = estate.standby().unwrap();
    for (id, holds) in [(point, kept), (last, volume)] {
        let found = eventually("the point at the standby", SETTLES_WITHIN, || {
            Ok(estate.points(standby)?.into_iter().find(|point| point.id.to_string() == id))
        });
        let dir = found.unwrap().path.unwrap();
        assert!(content::content(&Path::new(&dir).join("data.img")).unwrap() == holds, "point {id} isn't what it was");
    }
}
