//! Whatever is asked of a plan, in whatever order, while gateways are killed and lines are cut: the volumes are what was promised,
//! one side can write, and nothing is left of what has ended. Real processes, real mounts, a writer that never rests.
//!
//! `CASES=N` plays N sequences instead of a few, `SEED=0x…` begins at that seed.

use std::time::Duration;

use anyhow::{Context, Result};
use lifeboat_acceptance::ambush::{At, Side, Weapon};
use lifeboat_acceptance::content::scribble;
use lifeboat_acceptance::hosts::Cut;
use lifeboat_acceptance::random::{Random, from_environment};
use lifeboat_acceptance::sites::{Sites, Verb, contents};
use lifeboat_acceptance::stamps::{History, Writer};
use lifeboat_api::types::FailbackMode;

/// What is done in a sequence.
const LENGTH: usize = 6;

/// What may be done; each besides [`Verb`]s with what strikes in its jobs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Move {
    Test,
    Cleanup,
    Planned,
    /// The home site is there, and learns that it was left.
    Unplanned,
    /// The home site is lost, and comes back later.
    Lost,
    ChangePoint,
    Commit,
    Reprotect,
    Failback(FailbackMode),
    /// A gateway is killed while nothing is done, and started again.
    Kill,
    /// Both lines are cut for a while, under writes.
    Cut,
}

/// Where the plan is, as whoever asks for things knows it.
#[derive(Clone, Copy, Debug, Default)]
struct Stands {
    away: bool,
    committed: bool,
    tested: bool,
}

impl Stands {
    const fn side(self) -> Side {
        if self.away { Side::Away } else { Side::Home }
    }

    fn moves(self) -> Vec<Move> {
        use FailbackMode::{Create, FullDownload, MinimizeDowntime};
        let mut moves = vec![if self.tested { Move::Cleanup } else { Move::Test }];
        if self.away {
            moves.extend([Move::Reprotect, Move::Failback(MinimizeDowntime), Move::Failback(FullDownload)]);
            moves.push(Move::Failback(Create));
            if !self.committed {
                moves.extend([Move::ChangePoint, Move::Commit]);
            }
        } else {
            moves.extend([Move::Planned, Move::Unplanned, Move::Lost]);
        }
        // Twice as likely as what is done to the gateways beside it.
        moves.extend(moves.clone());
        moves.extend([Move::Kill, Move::Cut]);
        moves
    }

    fn after(self, done: Move) -> Self {
        match done {
            Move::Test => Self { tested: true, ..self },
            Move::Cleanup => Self { tested: false, ..self },
            Move::Planned | Move::Unplanned | Move::Lost => Self { away: true, committed: false, ..self },
            Move::Commit => Self { committed: true, ..self },
            Move::Failback(_) => Self { away: false, committed: false, ..self },
            Move::ChangePoint | Move::Reprotect | Move::Kill | Move::Cut => self,
        }
    }
}

/// A sequence that is played.
struct Play {
    sites: Sites,
    writer: Writer,
    random: Random,
    stands: Stands,
    /// Points of the home's branch since everything is there, and what each has to hold.
    points: Vec<(String, History)>,
    /// The last write of the point that the failover went on from.
    from: u64,
}

impl Play {
    /// Takes a point at the active side while nothing is written; what it holds is safe from then on.
    fn point(&mut self) -> Result<History> {
        let side = self.stands.side();
        self.writer.pause()?;
        let (id, history) = (self.sites.point(side, "a")?, self.writer.history());
        if side == Side::Home {
            self.points.push((id, history.clone()));
        }
        self.writer.resume(&self.sites.files(side)?);
        self.writer.write(10)?;
        Ok(history)
    }

    /// From now on some steps are struck.
    fn lie_in_wait(&mut self) {
        let (mut random, troubled) = (Random(self.random.number()), self.random.below(4) > 0);
        self.sites.cut_for = Duration::from_millis(500 + self.random.below(2000));
        self.sites.ambush.strike(move |_| {
            if !troubled || random.below(3) > 0 {
                return None;
            }
            let at = match random.below(4) {
                0 => At::Begin,
                1 => At::End,
                _ => At::Request(u32::try_from(random.below(12)).unwrap_or(0)),
            };
            let weapon = match random.below(4) {
                0 => Weapon::Cut(Cut::Silent),
                1 => Weapon::Cut(Cut::Plain),
                _ => Weapon::Kill,
            };
            Some((at, weapon))
        });
    }

    fn carry(&mut self, done: Move) -> Result<()> {
        let safe = match done {
            Move::Test | Move::Unplanned | Move::Lost => self.point()?,
            _ => History::default(),
        };
        if !matches!(done, Move::Kill | Move::Cut) {
            self.lie_in_wait();
        }
        match done {
            Move::Test => self.test(&safe)?,
            Move::Cleanup => drop(self.sites.carry(&Verb::Cleanup)?),
            Move::Planned => {
                self.sites.carry(&Verb::Planned)?;
                self.from = self.writer.history().last();
            }
            Move::Unplanned | Move::Lost => self.unplanned(&safe, done == Move::Lost)?,
            Move::ChangePoint => self.change_point()?,
            Move::Commit => drop(self.sites.carry(&Verb::Commit)?),
            Move::Reprotect => drop(self.sites.carry(&Verb::Reprotect)?),
            Move::Failback(mode) => {
                self.sites.carry(&Verb::Failback(mode))?;
                self.points.clear();
            }
            Move::Kill => {
                let side = if self.random.below(2) == 0 { Side::Home } else { Side::Away };
                self.sites.gateway_mut(side)?.kill9()?;
                self.sites.gateway_mut(side)?.restart()?;
            }
            Move::Cut => {
                let how = if self.random.below(2) == 0 { Cut::Silent } else { Cut::Plain };
                Side::ALL.into_iter().try_for_each(|side| self.sites.host(side).cut(how))?;
                // Writes go on without the vault.
                let written = self.writer.write(100);
                Side::ALL.into_iter().try_for_each(|side| self.sites.host(side).mend())?;
                written?;
            }
        }
        self.sites.stand_down()?;
        self.stands = self.stands.after(done);
        Ok(())
    }

    fn test(&mut self, safe: &History) -> Result<()> {
        let job = self.sites.carry(&Verb::Test)?;
        let files = self.sites.served(&job)?;
        let mut history = self.writer.history();
        history.check_prefix(&contents(&files)?, safe.last()).context("in the test")?;
        files.iter().try_for_each(|path| scribble(path, self.random.number(), 8)).context("write in the test")
    }

    fn unplanned(&mut self, safe: &History, lost: bool) -> Result<()> {
        let known = self.random.one_of(&self.points).cloned().filter(|_| self.random.below(2) == 0);
        if lost {
            self.sites.estate.primary.kill9()?;
        }
        match known {
            Some((point, history)) => {
                self.sites.carry(&Verb::Unplanned(point))?;
                self.writer.pause()?;
                self.writer.go_on_from(history)?;
            }
            None => {
                self.sites.carry(&Verb::Unplanned("latest".into()))?;
                self.writer.pause()?;
                let mut history = self.writer.history();
                history.check_prefix(&self.sites.contents(Side::Away)?, safe.last()).context("the latest point")?;
                self.writer.go_on_from(history)?;
            }
        }
        self.from = self.writer.history().last();
        if lost {
            self.sites.estate.primary.restart()?;
        }
        Ok(())
    }

    fn change_point(&mut self) -> Result<()> {
        // The point that it is at already would change nothing.
        let others: Vec<_> = self.points.iter().filter(|(_, history)| history.last() != self.from).cloned().collect();
        let Some((point, history)) = self.random.one_of(&others).cloned() else { return Ok(()) };
        // What is written once it went back to the point couldn't be told from what it left behind.
        self.writer.pause()?;
        self.sites.carry(&Verb::ChangePoint(point))?;
        self.from = history.last();
        self.writer.go_on_from(history)
    }

    /// Holds what has to be so against what is, and lets the writer go on.
    fn holds(&mut self) -> Result<()> {
        let side = self.stands.side();
        self.writer.pause()?;
        self.sites.one_writer(side)?;
        let mut history = self.writer.history();
        history.check(&self.sites.contents(side)?).with_context(|| format!("the volumes at {side:?}"))?;
        self.writer.go_on_from(history)?;
        self.sites.nothing_is_left(side, usize::from(self.stands.tested))?;
        self.writer.resume(&self.sites.files(side)?);
        self.writer.write(10 + self.random.below(60))
    }
}

/// Plays one sequence, and gives the number of strikes.
fn play(seed: u64, done: &mut Vec<Move>) -> Result<usize> {
    let (sites, writer) = (Sites::new("sequence")?, Writer::start()?);
    let (random, stands) = (Random(seed), Stands::default());
    let mut play = Play { sites, writer, random, stands, points: Vec::new(), from: 0 };
    play.writer.resume(&play.sites.files(Side::Home)?);
    play.writer.write(50)?;
    for _ in 0..LENGTH {
        let moves = play.stands.moves();
        let next = play.random.one_of(&moves).copied().context("nothing may be done")?;
        done.push(next);
        if !play.stands.away {
            play.point()?;
        }
        play.carry(next)?;
        play.holds()?;
    }
    Ok(play.sites.strikes.len())
}

#[test]
fn any_sequence_of_moves_kills_and_cuts_keeps_every_promise() {
    let (cases, first) = (from_environment("CASES").unwrap_or(2), from_environment("SEED").unwrap_or(0x51_7e5));
    for seed in first..first + cases {
        let mut done = Vec::new();
        let strikes = play(seed, &mut done).unwrap_or_else(|error| panic!("seed {seed:#x}: {done:?}: {error:?}"));
        eprintln!("seed {seed:#x}: {done:?}, {strikes} strikes");
    }
}
