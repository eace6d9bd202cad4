//! The long forms of what CI runs in short: which there are, what has been run of each so far, and what it missed.
//!
//! ```text
//! DIR/soak.json     of every row: how much was done, from which seeds, for how long, every miss with the line that repeats it
//! DIR/miss-….log    what the run said that missed something
//! ```
//! A run is a part of a row that takes minutes at most and is named by its seed. The file is replaced after each one, so that an
//! interruption loses no more than the run under way, and the next start goes on behind the last seed. A miss stops nothing.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use serde::{Deserialize, Serialize};

/// Of the file.
const VERSION: u32 = 1;

/// What carries a run out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Runner {
    /// Tests of this package that a filter of nextest names.
    Tests(&'static str, &'static str),
    /// The simulation's own program.
    Simulation,
}

/// A row of the table of promises.
#[derive(Clone, Copy, Debug)]
pub struct Row {
    /// Its name.
    pub name: &'static str,
    /// What is tried.
    pub what: &'static str,
    /// How much of it CI does.
    pub in_ci: &'static str,
    /// How much the long form is to come to.
    pub target: u64,
    /// How much one run does.
    pub a_run: u64,
    /// What does it.
    pub runner: Runner,
    /// The variable that says how much, if that can be said.
    pub count: Option<&'static str>,
    /// The variable that names the seed, if there is one.
    pub seed: Option<&'static str>,
    /// Seeds that a run of one case more uses up: one for each case, or one for the whole run.
    pub seed_a_case: bool,
    /// Further variables.
    pub more: &'static [(&'static str, &'static str)],
}

const ONCE: Row = Row {
    name: "",
    what: "",
    in_ci: "",
    target: 1,
    a_run: 1,
    runner: Runner::Simulation,
    count: None,
    seed: None,
    seed_a_case: false,
    more: &[],
};

/// Every row.
pub const ROWS: &[Row] = &[
    Row {
        name: "journal",
        what: "states of the journal after a loss of power",
        in_ci: "100,000",
        target: 100_000_000,
        a_run: 200_000,
        count: Some("STATES"),
        seed: Some("SEED"),
        // A case has many states, and begins at the next seed: so many are never used up.
        seed_a_case: true,
        more: &[("CASES", "0")],
        ..ONCE
    },
    Row {
        name: "engine",
        what: "seeds of the engine: storage, disk, crashes, clock, a second writer",
        in_ci: "200 and a fresh one",
        target: 1_000_000,
        a_run: 100,
        count: Some("CASES"),
        seed: Some("SEED"),
        seed_a_case: true,
        more: &[("STATES", "0")],
        ..ONCE
    },
    Row {
        name: "workloads",
        what: "every workload of up to three operations, stopped at every call",
        in_ci: "all",
        runner: Runner::Tests("lifeboat-sim", "binary(crashes) and test(every_small_workload)"),
        ..ONCE
    },
    Row {
        name: "calls",
        what: "every call to disk and storage fails, once and for good; every kind of trouble at every request",
        in_ci: "all calls; every kind at a part of the requests",
        runner: Runner::Tests("lifeboat-sim", "binary(faults) or binary(scripted)"),
        more: &[("LIFEBOAT_EVERY", "1")],
        ..ONCE
    },
    Row {
        name: "kills",
        what: "SIGKILL under fio, each followed by verification",
        in_ci: "11, and 9 under other loads",
        target: 1_000,
        a_run: 10,
        runner: Runner::Tests("lifeboat-acceptance", "binary(kills)"),
        count: Some("KILLS"),
        seed: Some("SEED"),
        ..ONCE
    },
    Row {
        name: "sequences",
        what: "sequences of drills, failovers and failbacks over processes that are killed and cut off",
        in_ci: "2",
        target: 100,
        a_run: 1,
        runner: Runner::Tests("lifeboat-acceptance", "binary(sequences)"),
        count: Some("CASES"),
        seed: Some("SEED"),
        seed_a_case: true,
        ..ONCE
    },
    Row {
        name: "faults",
        what: "storage that ends, crawls or has no room; a gateway's disk that somebody else fills",
        in_ci: "each once",
        target: 100,
        runner: Runner::Tests("lifeboat-acceptance", "binary(faults)"),
        ..ONCE
    },
    Row {
        name: "clock",
        what: "clocks that jump by an hour and by a year, forward and back, under writes",
        in_ci: "each once",
        target: 100,
        runner: Runner::Tests("lifeboat-acceptance", "binary(clock)"),
        ..ONCE
    },
    Row {
        name: "corruption",
        what: "objects with bytes flipped, cut off, exchanged or put back from an older state",
        in_ci: "20,000",
        target: 1_000_000,
        a_run: 40_000,
        runner: Runner::Tests("lifeboat-engine", "test(check::tests::corruption)"),
        count: Some("LIFEBOAT_CORRUPTIONS"),
        seed: Some("LIFEBOAT_SEED"),
        ..ONCE
    },
    Row {
        name: "fsx",
        what: "operations of fsx through FUSE, and its point compared",
        in_ci: "20,000",
        target: 10_000_000,
        a_run: 50_000,
        runner: Runner::Tests("lifeboat-acceptance", "binary(fsx) and test(operations_and_its_point)"),
        count: Some("OPERATIONS"),
        seed: Some("SEED"),
        ..ONCE
    },
    Row {
        name: "linearizability",
        what: "histories of concurrent reads and writes of a volume, each explained by one order",
        in_ci: "200",
        target: 100_000,
        a_run: 200,
        runner: Runner::Tests("lifeboat-export", "binary(linearizable)"),
        count: Some("CASES"),
        seed: Some("SEED"),
        seed_a_case: true,
        ..ONCE
    },
    Row {
        name: "blank",
        what: "recoveries by a blank machine from storage alone, the volume equal to the model",
        in_ci: "1",
        target: 100,
        runner: Runner::Tests("lifeboat-acceptance", "binary(object_storage) and test(a_blank_gateway)"),
        ..ONCE
    },
    Row {
        name: "planted",
        what: "planted bugs, each of which has to be caught",
        in_ci: "all",
        runner: Runner::Tests("lifeboat-sim", "binary(planted) or binary(planted_engine)"),
        ..ONCE
    },
    Row {
        name: "api",
        what: "Schemathesis examples for each operation of the API",
        in_ci: "5",
        target: 200,
        a_run: 10,
        runner: Runner::Tests("lifeboat-acceptance", "binary(api)"),
        count: Some("CASES"),
        seed: Some("SEED"),
        ..ONCE
    },
];

/// A run that is to be made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Run {
    /// Its seed; 0 where there is none.
    pub seed: u64,
    /// How much it does.
    pub count: u64,
}

/// A broken promise, or a test that failed for another reason: somebody has to look.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Miss {
    /// The run's seed.
    pub seed: u64,
    /// How much the run was to do.
    pub count: u64,
    /// The line that makes the same run again.
    pub repeat: String,
    /// What it said.
    pub log: PathBuf,
}

/// What has been done of a row.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Done {
    /// How much, in the row's unit. Runs that missed something count.
    pub count: u64,
    /// In how many runs.
    pub runs: u64,
    /// How long they took together, in seconds.
    pub seconds: f64,
    /// The first seed of the first run.
    pub first_seed: u64,
    /// Where the next one begins.
    pub next_seed: u64,
    /// What was missed.
    pub misses: Vec<Miss>,
}

/// Everything that has been done.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Record {
    version: u32,
    /// By the names of the rows.
    pub rows: BTreeMap<String, Done>,
}

impl Record {
    /// The one in this directory, or one of nothing.
    ///
    /// # Errors
    /// It can't be read, or is of another version.
    pub fn open(dir: &Path) -> Result<Self> {
        let path = dir.join("soak.json");
        let text = match fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                return Ok(Self { version: VERSION, rows: BTreeMap::new() });
            }
            Err(error) => bail!("{} can't be read: {error}", path.display()),
        };
        let wrong = || format!("{} is no record of runs: move it away to begin anew", path.display());
        let found: Self = serde_json::from_str(&text).with_context(wrong)?;
        ensure!(
            found.version == VERSION,
            "{} is of version {}: move it away to begin anew",
            path.display(),
            found.version
        );
        Ok(found)
    }

    /// Replaces the file: after an interruption it is the old one or the new one.
    ///
    /// # Errors
    /// It can't be written.
    pub fn save(&self, dir: &Path) -> Result<()> {
        let (path, new) = (dir.join("soak.json"), dir.join("soak.json.new"));
        let write = || -> Result<()> {
            let mut file = fs::File::create(&new)?;
            file.write_all(serde_json::to_string_pretty(self)?.as_bytes())?;
            file.sync_all()?;
            Ok(fs::rename(&new, &path)?)
        };
        write().with_context(|| format!("write {}", path.display()))
    }

    /// The next run of a row; none when its target is reached. `fresh` is where a row begins that was never run.
    #[must_use]
    pub fn next(&self, row: &Row, fresh: u64) -> Option<Run> {
        let done = self.rows.get(row.name);
        let left = row.target.saturating_sub(done.map_or(0, |done| done.count));
        let seed = if row.seed.is_some() { done.map_or(fresh, |done| done.next_seed) } else { 0 };
        (left > 0).then(|| Run { seed, count: row.a_run.min(left) })
    }

    /// Notes a run, and what it missed.
    pub fn note(&mut self, row: &Row, run: &Run, seconds: f64, miss: Option<Miss>) {
        let done = self.rows.entry(row.name.to_owned()).or_insert_with(|| Done {
            first_seed: run.seed,
            next_seed: run.seed,
            ..Done::default()
        });
        done.count += run.count;
        done.runs += 1;
        done.seconds += seconds;
        done.next_seed = run.seed.wrapping_add(if row.seed_a_case { run.count } else { 1 });
        done.misses.extend(miss);
    }

    /// The table of [`docs/reliability.md`], without its head.
    #[must_use]
    pub fn table(&self) -> String {
        let lines = ROWS.iter().map(|row| {
            let none = Done::default();
            let done = self.rows.get(row.name).unwrap_or(&none);
            let seeds = match (done.runs, row.seed) {
                (0, _) | (_, None) => "–".to_owned(),
                _ => format!("`{:#x}` … `{:#x}`", done.first_seed, done.next_seed.wrapping_sub(1)),
            };
            let long = if done.runs == 0 {
                "not run yet".to_owned()
            } else {
                format!("{} in {:.0} min", thousands(done.count), (done.seconds / 60.0).ceil())
            };
            let target = if row.target == 1 { "once".to_owned() } else { thousands(row.target) };
            let misses = if done.runs == 0 { "–".to_owned() } else { done.misses.len().to_string() };
            format!("| `{}` | {} | {} | {target} | {long} | {seeds} | {misses} |\n", row.name, row.what, row.in_ci)
        });
        lines.collect()
    }
}

impl Row {
    /// The row of this name.
    ///
    /// # Errors
    /// There is none, with those that there are.
    pub fn find(name: &str) -> Result<&'static Self> {
        let names = || ROWS.iter().map(|row| row.name).collect::<Vec<_>>().join(", ");
        ROWS.iter().find(|row| row.name == name).with_context(|| format!("no row {name:?}: there are {}", names()))
    }

    /// The variables that make this run.
    #[must_use]
    pub fn variables(&self, run: &Run) -> Vec<(&'static str, String)> {
        let count = self.count.map(|name| (name, run.count.to_string()));
        // Not every test reads other numbers than decimal ones.
        let seed = self.seed.map(|name| (name, run.seed.to_string()));
        let more = self.more.iter().map(|(name, value)| (*name, (*value).to_owned()));
        more.chain(count).chain(seed).collect()
    }

    /// What a person types to make it again.
    #[must_use]
    pub fn repeat(&self, run: &Run) -> String {
        let variables: Vec<_> =
            self.variables(run).into_iter().map(|(name, value)| format!("{name}={value}")).collect();
        let program = match self.runner {
            Runner::Tests(package, filter) => format!("cargo nextest run -p {package} -E '{filter}'"),
            Runner::Simulation => "make sim".to_owned(),
        };
        if matches!(self.runner, Runner::Simulation) {
            return format!("{program} {}", variables.join(" "));
        }
        variables.into_iter().chain([program]).collect::<Vec<_>>().join(" ")
    }
}

fn thousands(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(name: &str) -> &'static Row {
        Row::find(name).unwrap()
    }

    #[test]
    fn what_was_interrupted_goes_on_behind_the_last_run() {
        let dir = tempfile::tempdir().unwrap();
        let mut record = Record::open(dir.path()).unwrap();
        let first = record.next(row("sequences"), 7).unwrap();
        assert_eq!(first, Run { seed: 7, count: 1 });
        record.note(row("sequences"), &first, 60.0, None);
        let kills = record.next(row("kills"), 7).unwrap();
        assert_eq!(kills, Run { seed: 7, count: 10 });
        let miss = Miss { seed: 7, count: 10, repeat: row("kills").repeat(&kills), log: "miss.log".into() };
        record.note(row("kills"), &kills, 42.5, Some(miss.clone()));
        record.save(dir.path()).unwrap();

        // A run that an interruption broke off was never noted; a half-written file is in nobody's way.
        fs::write(dir.path().join("soak.json.new"), "{\"version\"").unwrap();
        let again = Record::open(dir.path()).unwrap();
        assert_eq!(again, record);
        // Another fresh seed changes nothing for rows that have begun; one seed makes a whole run of kills.
        assert_eq!(again.next(row("sequences"), 99), Some(Run { seed: 8, count: 1 }));
        assert_eq!(again.next(row("kills"), 99), Some(Run { seed: 8, count: 10 }));
        assert_eq!(again.next(row("engine"), 99), Some(Run { seed: 99, count: 100 }));
        assert_eq!(again.rows["kills"].misses, [miss]);
        assert_eq!((again.rows["kills"].count, again.rows["kills"].runs), (10, 1));
    }

    #[test]
    fn a_row_ends_with_its_target() {
        let mut record = Record::open(tempfile::tempdir().unwrap().path()).unwrap();
        let mut row = *row("sequences");
        (row.target, row.a_run) = (25, 10);
        let mut counts = Vec::new();
        while let Some(run) = record.next(&row, 0x100) {
            counts.push((run.seed, run.count));
            record.note(&row, &run, 1.0, None);
        }
        assert_eq!(counts, [(0x100, 10), (0x10a, 10), (0x114, 5)]);
        assert_eq!(record.rows["sequences"].next_seed, 0x119);
    }

    #[test]
    fn a_file_of_something_else_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        for text in ["nonsense", "{\"version\":2,\"rows\":{}}"] {
            fs::write(dir.path().join("soak.json"), text).unwrap();
            let error = Record::open(dir.path()).unwrap_err();
            assert!(error.to_string().contains("move it away"), "{error:#}");
        }
    }

    #[test]
    fn a_run_says_how_it_is_made_again() {
        let run = Run { seed: 255, count: 10 };
        assert_eq!(
            row("kills").repeat(&run),
            "KILLS=10 SEED=255 cargo nextest run -p lifeboat-acceptance -E 'binary(kills)'"
        );
        assert_eq!(row("engine").repeat(&run), "make sim STATES=0 CASES=10 SEED=255");
    }

    #[test]
    fn names_are_different_and_the_table_has_all_rows() {
        let mut record = Record::open(tempfile::tempdir().unwrap().path()).unwrap();
        record.note(row("journal"), &Run { seed: 16, count: 200_000 }, 61.0, None);
        let table = record.table();
        for row in ROWS {
            assert_eq!(table.matches(&format!("| `{}` |", row.name)).count(), 1, "{}", row.name);
        }
        assert!(table.contains("| 100,000,000 | 200,000 in 2 min | `0x10` … `0x30d4f` | 0 |"), "{table}");
        assert!(table.contains("not run yet"), "{table}");
    }
}
