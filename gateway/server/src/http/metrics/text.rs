//! Prometheus's text form: families with their samples, each family once.

use std::fmt::{Display, Write};

use lifeboat_engine::meter::{BOUNDS_MICROS, Durations};

/// What kind of a number a metric is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Goes up and down.
    Gauge,
    /// Only goes up, from nothing at each start of the process or of what it is about.
    Counter,
    /// Observations in buckets.
    Histogram,
}

impl Kind {
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Gauge => "gauge",
            Self::Counter => "counter",
            Self::Histogram => "histogram",
        }
    }
}

/// A metric: its name is a promise.
#[derive(Debug)]
pub(super) struct Family {
    pub(super) name: &'static str,
    pub(super) kind: Kind,
    pub(super) labels: &'static [&'static str],
    pub(super) help: &'static str,
}

/// The values of a family's labels in order, and the number.
pub(super) type Sample = (Vec<String>, String);

/// A page that is being written.
#[derive(Debug, Default)]
pub(super) struct Page(String);

impl Page {
    /// A family; one without samples says at least that there could be some.
    pub(super) fn family(&mut self, family: &Family, samples: impl IntoIterator<Item = Sample>) {
        self.head(family);
        for (values, number) in samples {
            self.line(family.name, &labels(family, &values), &number);
        }
    }

    /// A family of histograms.
    pub(super) fn histograms(&mut self, family: &Family, samples: impl IntoIterator<Item = (Vec<String>, Durations)>) {
        self.head(family);
        for (values, found) in samples {
            let labels = labels(family, &values);
            let mut sum = 0_u64;
            let bounds = BOUNDS_MICROS.iter().map(|bound| seconds(*bound)).chain(["+Inf".to_owned()]);
            for (bound, count) in bounds.zip(found.counts) {
                sum = sum.saturating_add(count);
                self.line(&format!("{}_bucket", family.name), &format!("{labels},le=\"{bound}\""), &sum);
            }
            self.line(&format!("{}_sum", family.name), &labels, &seconds(found.sum_micros));
            self.line(&format!("{}_count", family.name), &labels, &sum);
        }
    }

    fn head(&mut self, family: &Family) {
        let Family { name, kind, help, .. } = family;
        // Writing to a string can't fail.
        let _ = writeln!(self.0, "# HELP {name} {help}\n# TYPE {name} {}", kind.as_str());
    }

    fn line(&mut self, name: &str, labels: &str, number: &dyn Display) {
        let _ = match labels {
            "" => writeln!(self.0, "{name} {number}"),
            labels => writeln!(self.0, "{name}{{{labels}}} {number}"),
        };
    }

    pub(super) fn into_text(self) -> String {
        self.0
    }
}

fn labels(family: &Family, values: &[String]) -> String {
    debug_assert_eq!(family.labels.len(), values.len(), "{}", family.name);
    let pairs = family.labels.iter().zip(values);
    pairs.map(|(name, value)| format!("{name}=\"{}\"", escape(value))).collect::<Vec<_>>().join(",")
}

fn escape(text: &str) -> String {
    text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

/// Microseconds as seconds, exactly.
fn seconds(micros: u64) -> String {
    let text = format!("{}.{:06}", micros / 1_000_000, micros % 1_000_000);
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    const TAKEN: Family = Family { name: "taken_seconds", kind: Kind::Histogram, labels: &["name"], help: "Time." };

    #[test]
    fn a_histogram_adds_its_buckets_up() {
        let mut page = Page::default();
        let mut found = Durations { sum_micros: 1_250_050, ..Durations::default() };
        found.counts[0] = 2;
        found.counts[16] = 1;
        page.histograms(&TAKEN, [(vec!["a \"b\"".to_owned()], found)]);
        let text = page.into_text();
        assert!(text.starts_with("# HELP taken_seconds Time.\n# TYPE taken_seconds histogram\n"), "{text}");
        for line in [
            "taken_seconds_bucket{name=\"a \\\"b\\\"\",le=\"0.00005\"} 2",
            "taken_seconds_bucket{name=\"a \\\"b\\\"\",le=\"10\"} 2",
            "taken_seconds_bucket{name=\"a \\\"b\\\"\",le=\"+Inf\"} 3",
            "taken_seconds_sum{name=\"a \\\"b\\\"\"} 1.25005",
            "taken_seconds_count{name=\"a \\\"b\\\"\"} 3",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} in {text}");
        }
    }
}
