//! Runs fio, and reads its results.

use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::Value;

/// What one run of fio found.
#[derive(Clone, Copy, Debug)]
pub struct Outcome {
    /// Operations a second, reads and writes together.
    pub iops: f64,
    /// Bytes a second.
    pub bytes_per_second: f64,
    /// 99th percentile of the time that an fsync takes, milliseconds; 0 without any.
    pub sync_p99_ms: f64,
}

/// One job on one file: `args` are fio's own, without dashes.
pub fn run(file: &Path, args: &[&str]) -> Outcome {
    let output = Command::new("fio")
        .args(["--name=bench", "--output-format=json", "--group_reporting=1", "--direct=1", "--randrepeat=0"])
        .arg(format!("--filename={}", file.display()))
        .args(args.iter().map(|arg| format!("--{arg}")))
        .stdin(Stdio::null())
        .output()
        .expect("fio runs: make deps installs it");
    let text = String::from_utf8_lossy(&output.stdout);
    // Warnings come before the JSON.
    let json = text.find('{').map(|at| &text[at..]).unwrap_or_default();
    assert!(output.status.success(), "fio {args:?}: {text} {}", String::from_utf8_lossy(&output.stderr));
    let found: Value = serde_json::from_str(json).unwrap_or_else(|error| panic!("fio {args:?}: {error}: {text}"));
    let job = &found["jobs"][0];
    let sum = |field: &str| ["read", "write"].iter().map(|side| number(&job[side][field])).sum();
    Outcome {
        iops: sum("iops"),
        bytes_per_second: sum("bw_bytes"),
        sync_p99_ms: number(&job["sync"]["lat_ns"]["percentile"]["99.000000"]) / 1e6,
    }
}

/// One figure of such a run: operations a second, or MiB a second.
pub fn figure(file: &Path, args: &[&str], operations: bool) -> f64 {
    let found = run(file, args);
    if operations { found.iops } else { found.bytes_per_second / super::mib(1 << 40) }
}

fn number(value: &Value) -> f64 {
    value.as_f64().unwrap_or(0.0)
}
