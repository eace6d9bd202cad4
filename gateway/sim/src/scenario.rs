//! Scripts: random ones by the seed, every small one at every boundary, and faults at every call.

use lifeboat_engine::journal::JournalSizes;
use lifeboat_engine::write_path::Limits;
use lifeboat_model::{Extent, VolumeId};

use crate::disk::{CrashKind, Errno, Fault, Lie, SimDisk};
use crate::model::{Checked, ModelVolume, Violation};
use crate::random::Random;
use crate::rig::{Planted, Rig, Setup, Step};

/// Figures of a run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Scripts run.
    pub runs: u64,
    /// Steps done.
    pub steps: u64,
    /// Restarts that a run went on from.
    pub restarts: u64,
    /// States after a power loss that were recovered and compared.
    pub power_states: u64,
    /// States after a kill that were recovered and compared.
    pub kill_states: u64,
    /// Faults that were injected.
    pub faults: u64,
    /// Submissions that had to wait.
    pub waits: u64,
}

impl Tally {
    /// Adds another run's figures.
    pub const fn add(&mut self, other: Self) {
        self.runs += other.runs;
        self.steps += other.steps;
        self.restarts += other.restarts;
        self.power_states += other.power_states;
        self.kill_states += other.kill_states;
        self.faults += other.faults;
        self.waits += other.waits;
    }
}

/// What makes a random run.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The mistake around the write path.
    pub planted: Planted,
    /// The disk's lies.
    pub lies: Vec<Lie>,
    /// Crashes that the run goes on from.
    pub rounds: u64,
    /// Steps between two of them.
    pub steps: u64,
    /// Power losses tried at each of three moments in a round.
    pub probes: u64,
    /// Whether the machine also stops within a step, at any call.
    pub stops: bool,
}

impl Default for Plan {
    fn default() -> Self {
        Self { planted: Planted::Nothing, lies: Vec::new(), rounds: 6, steps: 50, probes: 32, stops: false }
    }
}

/// Bounds so small that journal files turn over all the time.
#[must_use]
pub fn small_limits(file_blocks: u64, files: u64) -> Limits {
    let file_bytes = file_blocks * 4096;
    // Records of two blocks at least.
    let quarter = (file_blocks / 4).max(4) * 4096;
    Limits {
        overlay_bytes: 24 * 4096,
        unsettled_bytes: 16 * 4096,
        batch_bytes: usize::try_from(quarter).unwrap_or(usize::MAX),
        queue_bytes: quarter,
        journal: JournalSizes { file_bytes, limit_bytes: files * file_bytes },
    }
}

fn volumes(random: &mut Random) -> Vec<ModelVolume> {
    (0..=random.below(3))
        .map(|at| ModelVolume {
            id: VolumeId::from_bytes([u8::try_from(at + 1).unwrap_or(1); 16]),
            blocks: 6 + random.below(14),
            lazy: random.one_in(3),
        })
        .collect()
}

/// Runs the script that a seed stands for.
///
/// # Errors
/// The promise that was broken, with the seed and the place.
pub fn random_run(seed: u64, plan: &Plan) -> Checked<Tally> {
    let mut random = Random::new(seed);
    let setup =
        Setup { volumes: volumes(&mut random), limits: small_limits(12 + 4 * random.below(3), 3 + random.below(4)) };
    let disk = SimDisk::new(random.next());
    let at = |round: u64, step: u64| {
        move |violation: Violation| Violation(format!("seed {seed:#x}, round {round}, step {step}: {violation}"))
    };
    let mut rig =
        Rig::new(setup.clone(), plan.planted, disk).map_err(|error| Violation(format!("seed {seed:#x}: {error}")))?;
    // A disk that lies from the first byte on is refused at once.
    plan.lies.iter().for_each(|lie| rig.disk().plant(*lie));
    let mut tally = Tally { runs: 1, ..Tally::default() };
    for round in 0..plan.rounds {
        let steps = 1 + random.below(plan.steps);
        let stop = (plan.stops && random.chance(2, 3)).then(|| random.below(steps));
        for step in 0..steps {
            if stop == Some(step) {
                rig.disk().halt_at(rig.disk().calls() + 1 + random.below(12));
            }
            rig.step(&random_step(&mut random, &setup)).map_err(at(round, step))?;
            tally.steps += 1;
            // Three moments in each round, on average.
            if random.chance(3, steps) {
                for _ in 0..plan.probes {
                    rig.probe(random.next(), CrashKind::Power).map_err(at(round, step))?;
                    tally.power_states += 1;
                }
                rig.probe(random.next(), CrashKind::Kill).map_err(at(round, step))?;
                tally.kill_states += 1;
            }
            if rig.disk().halted() {
                break;
            }
        }
        if stop.is_none() && random.one_in(3) {
            rig.settle().map_err(at(round, steps))?;
        }
        let kind = if random.one_in(2) { CrashKind::Kill } else { CrashKind::Power };
        let interrupted = random.one_in(3).then(|| random.below(256));
        rig.restart(random.next(), kind, interrupted).map_err(at(round, steps + 1))?;
        tally.restarts += 1;
    }
    rig.settle().map_err(at(plan.rounds, 0))?;
    tally.waits = rig.waits;
    Ok(tally)
}

fn random_step(random: &mut Random, setup: &Setup) -> Step {
    let volume = usize::try_from(random.below(setup.volumes.len() as u64)).unwrap_or(0);
    let blocks = setup.volumes[volume].blocks;
    // Within the first size, so that a script needs no knowledge of what a crash left of a growth.
    let lba = random.below(blocks);
    let extent = Extent { lba, blocks: (1 + random.below(2)).min(blocks - lba) };
    let long = Extent { lba, blocks: 1 + random.below(blocks - lba) };
    match random.below(100) {
        0..=29 => Step::Write(volume, extent),
        30..=33 => Step::Zero(volume, long),
        34..=39 => Step::Trim(volume, long),
        40 => Step::Grow(volume, 1 + random.below(3)),
        41..=43 => Step::Point,
        44..=57 => Step::Commit,
        58..=63 => Step::Sync,
        64..=66 => Step::AskFlush,
        67..=69 => Step::Flush,
        70..=75 => Step::Destage,
        76..=80 => Step::Save,
        81..=84 => Step::Prepare,
        85..=89 => Step::Ship,
        90..=93 => Step::Reclaim,
        94..=96 => Step::Fill(volume, long),
        _ => Step::Read(volume, long),
    }
}

/// The operations that small workloads are made of.
fn alphabet() -> Vec<Vec<Step>> {
    let extent = |lba, blocks| Extent { lba, blocks };
    vec![
        vec![Step::Write(0, extent(0, 2)), Step::Commit],
        vec![Step::Write(1, extent(1, 1)), Step::Write(0, extent(1, 2)), Step::Commit],
        vec![Step::Trim(0, extent(0, 3)), Step::Zero(1, extent(0, 2)), Step::Commit],
        vec![Step::Flush],
        vec![Step::Destage, Step::Save],
        vec![Step::Sync, Step::Point, Step::Commit, Step::Sync, Step::Ship, Step::Save, Step::Reclaim],
        vec![Step::Grow(1, 2), Step::Fill(1, extent(0, 4)), Step::Commit],
        vec![Step::Prepare],
    ]
}

fn small_setup() -> Setup {
    let volume = |at: u8, lazy| ModelVolume { id: VolumeId::from_bytes([at; 16]), blocks: 4, lazy };
    // Nine blocks a file: every third or fourth batch begins a new one.
    Setup { volumes: vec![volume(1, false), volume(2, true)], limits: small_limits(10, 4) }
}

/// Every workload of up to `longest` operations, stopped at every call that it makes to the disk: each stop is recovered
/// after a kill and after `powers` power losses.
///
/// # Errors
/// The promise that was broken, with the workload and the call.
pub fn every_small_workload(longest: u32, powers: u64) -> Checked<Tally> {
    let alphabet = alphabet();
    let mut tally = Tally::default();
    for length in 1..=longest {
        for code in 0..alphabet.len().pow(length) {
            let digits = (0..length).map(|place| code / alphabet.len().pow(place) % alphabet.len());
            let script: Vec<Step> = digits.flat_map(|digit| alphabet[digit].clone()).collect();
            every_boundary(&script, powers, &mut tally).map_err(|why| Violation(format!("{script:?}: {why}")))?;
        }
    }
    Ok(tally)
}

fn every_boundary(script: &[Step], powers: u64, tally: &mut Tally) -> Checked {
    tally.runs += 1;
    let made = SimDisk::new(1);
    let mut stop = 0;
    loop {
        let mut rig = Rig::new(small_setup(), Planted::Nothing, made.crash(1, CrashKind::Kill))
            .map_err(|e| Violation(e.to_string()))?;
        let begin = rig.disk().calls();
        rig.disk().halt_at(begin + 1 + stop);
        for step in script {
            rig.step(step)?;
            tally.steps += 1;
            if rig.disk().halted() {
                break;
            }
        }
        let place = |violation: Violation| Violation(format!("stopped at call {stop}: {violation}"));
        rig.probe(stop, CrashKind::Kill).map_err(place)?;
        tally.kill_states += 1;
        for seed in 0..powers {
            rig.probe(seed * 1000 + stop, CrashKind::Power).map_err(place)?;
            tally.power_states += 1;
        }
        if !rig.disk().halted() {
            return Ok(());
        }
        stop += 1;
    }
}

/// Runs a script on two small volumes, and recovers `powers` power losses and one kill after each of its steps.
///
/// # Errors
/// The promise that was broken, with the step.
pub fn every_step(script: &[Step], powers: u64) -> Checked<Tally> {
    let mut tally = Tally { runs: 1, ..Tally::default() };
    let mut rig = Rig::new(small_setup(), Planted::Nothing, SimDisk::new(1)).map_err(|e| Violation(e.to_string()))?;
    for (at, step) in script.iter().enumerate() {
        let place = |violation: Violation| Violation(format!("step {at} {step:?}: {violation}"));
        rig.step(step).map_err(place)?;
        tally.steps += 1;
        rig.probe(1, CrashKind::Kill).map_err(place)?;
        tally.kill_states += 1;
        for seed in 0..powers {
            rig.probe(seed, CrashKind::Power).map_err(place)?;
            tally.power_states += 1;
        }
    }
    tally.waits = rig.waits;
    Ok(tally)
}

/// Lets every call of a random script fail: once and for good, with `EIO` and with `ENOSPC`, whole and short; and every
/// call of the restart that follows.
///
/// # Errors
/// The promise that was broken, with the fault.
pub fn every_fault(seed: u64, steps: u64) -> Checked<Tally> {
    let mut tally = Tally::default();
    for errno in [Errno::Io, Errno::NoSpace] {
        for for_good in [false, true] {
            for short in [false, true] {
                let mut at = 1;
                loop {
                    let fault = Fault { at, errno, for_good, short };
                    let place = |violation: Violation| Violation(format!("seed {seed:#x}, {fault:?}: {violation}"));
                    if !run_with_fault(seed, steps, fault, &mut tally).map_err(place)? {
                        break;
                    }
                    at += 1;
                }
            }
        }
    }
    Ok(tally)
}

/// False when the script is over before the fault.
fn run_with_fault(seed: u64, steps: u64, fault: Fault, tally: &mut Tally) -> Checked<bool> {
    let mut random = Random::new(seed);
    let setup = Setup { volumes: volumes(&mut random), limits: small_limits(12, 4) };
    let disk = SimDisk::new(random.next());
    let mut rig = Rig::new(setup.clone(), Planted::Nothing, disk).map_err(|error| Violation(error.to_string()))?;
    rig.disk().set_fault(Some(Fault { at: rig.disk().calls() + fault.at, ..fault }));
    for _ in 0..steps {
        rig.step(&random_step(&mut random, &setup))?;
        tally.steps += 1;
    }
    let hit = rig.disk().fault_hit();
    tally.waits += rig.waits;
    rig.disk().set_fault(None);
    tally.runs += 1;
    tally.faults += u64::from(hit);
    for _ in 0..4 {
        rig.probe(random.next(), CrashKind::Power)?;
    }
    rig.probe(random.next(), CrashKind::Kill)?;
    tally.power_states += 4;
    tally.kill_states += 1;
    if !rig.poisoned() {
        // Nothing worse than a write that was refused: it all goes on.
        rig.settle()?;
    }
    // The same fault in the restart, counted from its first call.
    rig.probe_with_fault(
        random.next(),
        if fault.at.is_multiple_of(2) { CrashKind::Kill } else { CrashKind::Power },
        fault,
    )?;
    rig.restart(random.next(), if random.one_in(2) { CrashKind::Kill } else { CrashKind::Power }, None)?;
    rig.settle()?;
    rig.restart(random.next(), CrashKind::Power, None)?;
    tally.restarts += 2;
    Ok(hit)
}
