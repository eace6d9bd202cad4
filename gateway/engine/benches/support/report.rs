//! What every benchmark needs: rounds that alternate, medians, the table, the raw results.
//!
//! A figure is a ratio to a baseline that was measured in the same run, round by round (A, B, A, B, …): on a busy machine both
//! suffer alike. Raw results go to `bench/NAME.json` in the build directory. Nothing here decides whether a figure is good.

#![allow(dead_code, unreachable_pub, reason = "each benchmark uses its own part")]
#![allow(clippy::print_stdout, reason = "a benchmark prints its figures")]
#![allow(clippy::unwrap_used, reason = "a benchmark that can't measure ends with a panic")]

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

/// One line of the table.
#[derive(Clone, Debug)]
pub struct Row {
    /// Number of the target, such as `V1`.
    pub target: &'static str,
    /// What was measured.
    pub what: String,
    /// Ours, by round.
    pub ours: Vec<f64>,
    /// The baseline, by round; empty for a figure that is absolute.
    pub beside: Vec<f64>,
    /// What the baseline is.
    pub baseline: &'static str,
    /// Unit of both.
    pub unit: &'static str,
    /// What the ratio, or the absolute figure, should be: `>= 0.9`.
    pub wanted: &'static str,
}

/// A line without figures yet.
pub fn row(target: &'static str, what: &str, unit: &'static str, wanted: &'static str, baseline: &'static str) -> Row {
    Row { target, what: what.to_owned(), ours: Vec::new(), beside: Vec::new(), baseline, unit, wanted }
}

/// Whether a part of a program was asked for: all of them, unless the command line names some.
pub fn wanted(part: &str) -> bool {
    let named: Vec<String> = std::env::args().skip(1).filter(|argument| !argument.starts_with('-')).collect();
    named.is_empty() || named.iter().any(|name| name == part)
}

/// The results of one program.
#[derive(Debug)]
pub struct Report {
    name: &'static str,
    rows: Vec<Row>,
    notes: Vec<(String, Value)>,
}

impl Report {
    pub fn new(name: &'static str) -> Self {
        println!("{name}");
        Self { name, rows: Vec::new(), notes: Vec::new() }
    }

    /// Takes a line, and prints it.
    pub fn row(&mut self, row: Row) {
        let ours = median(&row.ours);
        let line = if row.beside.is_empty() {
            format!("{:>14}  {:>14}  {:>6}", shown(ours, row.unit), "", "")
        } else {
            let beside = median(&row.beside);
            format!("{:>14}  {:>14}  {:>6.2}", shown(ours, row.unit), shown(beside, row.unit), ours / beside)
        };
        println!("  {:<3} {:<58} {line}  {:<10} {}", row.target, row.what, row.wanted, row.baseline);
        self.rows.push(row);
    }

    /// Keeps something worth knowing beside the figures.
    pub fn note(&mut self, what: &str, value: impl Into<Value>) {
        let value = value.into();
        println!("      {what}: {value}");
        self.notes.push((what.to_owned(), value));
    }

    /// Keeps a picture beside the raw results.
    pub fn picture(&self, name: &str, svg: &str) {
        std::fs::create_dir_all(results()).unwrap();
        std::fs::write(results().join(format!("{name}.svg")), svg).unwrap();
    }

    /// Writes the raw results.
    pub fn finish(self) {
        let rows: Vec<Value> = self
            .rows
            .iter()
            .map(|row| {
                let ratio = (!row.beside.is_empty()).then(|| median(&row.ours) / median(&row.beside));
                json!({
                    "target": row.target, "what": row.what, "unit": row.unit, "wanted": row.wanted,
                    "ours": row.ours, "beside": row.beside, "baseline": row.baseline, "ratio": ratio,
                })
            })
            .collect();
        let notes: serde_json::Map<String, Value> = self.notes.into_iter().collect();
        let text = json!({ "benchmark": self.name, "machine": machine(), "rows": rows, "notes": notes });
        let dir = results();
        std::fs::create_dir_all(&dir).unwrap();
        std::fs::write(dir.join(format!("{}.json", self.name)), format!("{text:#}\n")).unwrap();
    }
}

/// `bench` in the build directory.
fn results() -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).parent().map_or_else(|| PathBuf::from("bench"), |dir| dir.join("bench"))
}

fn machine() -> Value {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let field = |text: &str, name: &str| {
        let line = text.lines().find(|line| line.starts_with(name)).unwrap_or_default().to_owned();
        line.split_once(':').map(|(_, value)| value.trim().to_owned()).unwrap_or_default()
    };
    json!({
        "processors": std::thread::available_parallelism().map_or(0, usize::from),
        "model": field(&read("/proc/cpuinfo"), "model name"),
        "memory": field(&read("/proc/meminfo"), "MemTotal"),
        "kernel": read("/proc/sys/kernel/osrelease").trim(),
        "load": read("/proc/loadavg").trim(),
    })
}

/// The middle one; of an even number the lower.
pub fn median(figures: &[f64]) -> f64 {
    let mut sorted = figures.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len().saturating_sub(1) / 2).copied().unwrap_or(f64::NAN)
}

fn shown(figure: f64, unit: &str) -> String {
    match figure.abs() {
        size if size >= 1000.0 => format!("{figure:.0} {unit}"),
        size if size >= 10.0 => format!("{figure:.1} {unit}"),
        _ => format!("{figure:.3} {unit}"),
    }
}

/// Runs it, and says how long it took.
pub fn timed<T>(work: impl FnOnce() -> T) -> (T, Duration) {
    let started = Instant::now();
    let value = work();
    (value, started.elapsed())
}

/// Whether the programs of `make bench` are to be run briefly: `LIFEBOAT_BENCH_ROUNDS` overrides the number of rounds.
pub fn rounds(usual: usize) -> usize {
    std::env::var("LIFEBOAT_BENCH_ROUNDS").ok().and_then(|text| text.parse().ok()).unwrap_or(usual)
}
