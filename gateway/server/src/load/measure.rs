//! What the kernel says of this machine, as far as this process may use it: processors, and memory.
//!
//! Where a control group (version 2) bounds the process, its bounds are what counts: a container with two of 64 processors is
//! busy when those two are. Groups nest; the one that leaves least counts. Files are read by a function that is passed in, so that
//! tests say what stands in them. What can't be read is left out, never guessed.

use std::collections::VecDeque;
use std::time::Duration;

/// Reads a small file of the kernel's; nothing when there is none.
pub(super) fn kernel(path: &str) -> Option<String> {
    std::fs::read_to_string(path).ok()
}

/// Processor time since some beginning: used, and what there was of it. One unit for both, whichever that is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Processor {
    used: f64,
    there: f64,
}

/// Bytes of memory that can't be given back at will, and how many there may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Memory {
    pub(super) used: u64,
    pub(super) limit: u64,
}

/// How much processor time was used. `running`: for how long this has been asked, by a clock that never goes back.
pub(super) fn processor(read: &dyn Fn(&str) -> Option<String>, running: Duration) -> Option<Processor> {
    let bounded = groups(read).into_iter().filter_map(|group| {
        let text = read(&format!("{group}/cpu.max"))?;
        let mut words = text.split_whitespace();
        let quota: f64 = words.next()?.parse().ok()?;
        let period: f64 = words.next()?.parse().ok()?;
        (quota > 0.0 && period > 0.0).then(|| (group, quota / period))
    });
    let tightest = bounded.min_by(|a, b| a.1.total_cmp(&b.1));
    if let Some((group, processors)) = tightest
        && let Some(used) = field(&read(&format!("{group}/cpu.stat"))?, "usage_usec")
    {
        return Some(Processor { used: float(used), there: running.as_secs_f64() * 1e6 * processors });
    }
    let stat = read("/proc/stat")?;
    let line = stat.lines().find_map(|line| line.strip_prefix("cpu "))?;
    // user nice system idle iowait irq softirq steal: guests' time is in the user's already.
    let times: Vec<f64> = line.split_whitespace().take(8).filter_map(|word| word.parse().ok()).collect();
    let idle = times.get(3)? + times.get(4)?;
    let there: f64 = times.iter().sum();
    Some(Processor { used: there - idle, there })
}

/// How much memory is in use. Caches of files that the kernel may drop don't count.
pub(super) fn memory(read: &dyn Fn(&str) -> Option<String>) -> Option<Memory> {
    let bounded = groups(read).into_iter().filter_map(|group| {
        let limit: u64 = read(&format!("{group}/memory.max"))?.trim().parse().ok()?;
        let current: u64 = read(&format!("{group}/memory.current"))?.trim().parse().ok()?;
        let droppable = read(&format!("{group}/memory.stat")).and_then(|text| field(&text, "inactive_file"));
        Some(Memory { used: current.saturating_sub(droppable.unwrap_or(0)).min(limit), limit })
    });
    let machine = read("/proc/meminfo").and_then(|text| {
        let kib = |name: &str| field(&text, name).map(|kib| kib.saturating_mul(1024));
        let limit = kib("MemTotal:")?;
        Some(Memory { used: limit.saturating_sub(kib("MemAvailable:")?), limit })
    });
    bounded.chain(machine).filter(|found| found.limit > 0).min_by_key(|found| found.limit.saturating_sub(found.used))
}

/// The directories of the control groups that this process is in, the innermost first.
fn groups(read: &dyn Fn(&str) -> Option<String>) -> Vec<String> {
    let Some(text) = read("/proc/self/cgroup") else { return Vec::new() };
    let Some(mut path) = text.lines().find_map(|line| line.strip_prefix("0::")).map(|path| path.trim_end_matches('/'))
    else {
        return Vec::new();
    };
    let mut found = vec![format!("/sys/fs/cgroup{path}")];
    while let Some((parent, _)) = path.rsplit_once('/') {
        path = parent;
        found.push(format!("/sys/fs/cgroup{path}"));
    }
    found
}

/// The number behind a word at the beginning of a line.
fn field(text: &str, name: &str) -> Option<u64> {
    text.lines().find_map(|line| {
        let mut words = line.split_whitespace();
        (words.next()? == name).then(|| words.next()?.parse().ok()).flatten()
    })
}

#[expect(clippy::cast_precision_loss, reason = "microseconds of processor time: exact for 285 years of one processor")]
fn float(number: u64) -> f64 {
    number as f64
}

/// What was measured of the processors within a stretch of time.
#[derive(Debug)]
pub(super) struct Window {
    length: Duration,
    seen: VecDeque<(Duration, Processor)>,
}

impl Window {
    pub(super) fn new(length: Duration) -> Self {
        Self { length, seen: VecDeque::new() }
    }

    /// Takes a measurement in, and gives the share (0 to 1) that was used since the one at the window's beginning, or since the first.
    pub(super) fn share(&mut self, at: Duration, now: Option<Processor>) -> Option<f64> {
        let Some(now) = now else {
            self.seen.clear();
            return None;
        };
        // A counter that went back belongs to another group: the process was moved.
        if self.seen.back().is_some_and(|(_, before)| before.there > now.there || before.used > now.used) {
            self.seen.clear();
        }
        self.seen.push_back((at, now));
        let begin = at.saturating_sub(self.length);
        while self.seen.get(1).is_some_and(|(second, _)| *second <= begin) {
            self.seen.pop_front();
        }
        let (_, first) = self.seen.front()?;
        let there = now.there - first.there;
        (there > 0.0).then(|| ((now.used - first.used) / there).clamp(0.0, 1.0))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn files(list: &[(&str, &str)]) -> impl Fn(&str) -> Option<String> + use<> {
        let map: BTreeMap<String, String> =
            list.iter().map(|(path, text)| (path.to_string(), text.to_string())).collect();
        move |path: &str| map.get(path).cloned()
    }

    const MACHINE: [(&str, &str); 2] = [
        ("/proc/stat", "cpu  100 0 50 800 50 0 0 0 0 0\ncpu0 100 0 50 800 50 0 0 0 0 0\n"),
        ("/proc/meminfo", "MemTotal:       1000 kB\nMemFree:         100 kB\nMemAvailable:    250 kB\n"),
    ];

    #[test]
    fn without_a_control_group_the_machine_counts() {
        let read = files(&MACHINE);
        assert_eq!(processor(&read, Duration::ZERO), Some(Processor { used: 150.0, there: 1000.0 }));
        assert_eq!(memory(&read), Some(Memory { used: 750 << 10, limit: 1000 << 10 }));
        assert_eq!((processor(&files(&[]), Duration::ZERO), memory(&files(&[]))), (None, None));
    }

    #[test]
    fn bounds_of_control_groups_count_and_of_those_the_tightest() {
        let mut list = MACHINE.to_vec();
        list.extend([
            ("/proc/self/cgroup", "0::/lifeboat.slice/gateway.service\n"),
            ("/sys/fs/cgroup/lifeboat.slice/gateway.service/cpu.max", "max 100000\n"),
            ("/sys/fs/cgroup/lifeboat.slice/cpu.max", "200000 100000\n"),
            ("/sys/fs/cgroup/lifeboat.slice/cpu.stat", "usage_usec 3000000\nuser_usec 1\n"),
            ("/sys/fs/cgroup/lifeboat.slice/gateway.service/memory.max", "500000\n"),
            ("/sys/fs/cgroup/lifeboat.slice/gateway.service/memory.current", "450000\n"),
            ("/sys/fs/cgroup/lifeboat.slice/gateway.service/memory.stat", "anon 1\ninactive_file 50000\n"),
            ("/sys/fs/cgroup/lifeboat.slice/memory.max", "max\n"),
        ]);
        let read = files(&list);
        let found = processor(&read, Duration::from_secs(4));
        assert_eq!(found, Some(Processor { used: 3e6, there: 8e6 }), "two processors for four seconds");
        assert_eq!(memory(&read), Some(Memory { used: 400_000, limit: 500_000 }));
        // A group that may have more than the machine has left bounds nothing.
        list.retain(|(path, _)| !path.ends_with("memory.max"));
        list.push(("/sys/fs/cgroup/lifeboat.slice/gateway.service/memory.max", "5000000\n"));
        assert_eq!(memory(&files(&list)), Some(Memory { used: 750 << 10, limit: 1000 << 10 }));
    }

    #[test]
    fn a_share_is_of_the_window_and_begins_anew_with_another_counter() {
        let mut window = Window::new(Duration::from_secs(10));
        let mut at = |second: u64, used: f64, there: f64| {
            window.share(Duration::from_secs(second), Some(Processor { used, there }))
        };
        assert_eq!(at(0, 0.0, 0.0), None);
        assert_eq!(at(5, 5.0, 10.0), Some(0.5));
        assert_eq!(at(10, 15.0, 20.0), Some(0.75));
        // The measurement at 5 is the window's beginning now.
        assert_eq!(at(15, 25.0, 30.0), Some(1.0));
        assert_eq!(at(16, 0.0, 1.0), None, "another counter");
        assert_eq!(at(17, 0.0, 2.0), Some(0.0));
        assert_eq!(window.share(Duration::from_secs(18), None), None);
    }
}
