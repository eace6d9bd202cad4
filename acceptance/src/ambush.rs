//! Lying in wait on the lines between gateways and their vault: what strikes when a step of a job begins, while it runs, or when it
//! is about to be written down as done.
//!
//! Gateways write each step of a job into the vault before they do it and after. The lines are ours ([`FaultProxy`]), so every step is
//! met, however short it is, and no clock is involved: the answer that would let the gateway go on is held back, and whoever
//! listens is told.
//!
//! ```text
//! "the step runs" ──At::Begin──> request, request, … ──At::Request(n)──> "the step is done" ──At::End
//!    carried out, no answer         not carried out, no answer             not carried out, no answer
//! ```
//! One write may end a step and begin the next one. A gateway that was struck gets no answer to anything until [`Ambush::spare`]. A step that makes fewer requests than
//! asked for is struck at its end.

use std::collections::HashSet;
use std::fmt;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use lifeboat_lab::{Fault, FaultProxy, Seen};
use serde_json::Value;

use crate::hosts::{Cut, Host};

/// One of two sites.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Side {
    /// Where everything is at home.
    Home,
    /// The recovery site.
    Away,
}

impl Side {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Home, Self::Away];

    const fn index(self) -> usize {
        match self {
            Self::Home => 0,
            Self::Away => 1,
        }
    }
}

/// A step of a job.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Step {
    /// The job's kind, `planned-failover` for example.
    pub kind: String,
    /// Whether the job is a plan's; otherwise a group's.
    pub of_plan: bool,
    /// What it does, `release` for example.
    pub name: String,
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of a {}: {}", self.kind, if self.of_plan { "plan" } else { "group" }, self.name)
    }
}

/// When.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum At {
    /// The step was written down as begun; nothing of it was done.
    Begin,
    /// At this request after that, from 0, of anything that the gateway does.
    Request(u32),
    /// The step is done, and not written down as such.
    End,
}

/// With what.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Weapon {
    /// No answer any more: the gateway is to be killed.
    Kill,
    /// The site's line is cut.
    Cut(Cut),
}

/// What struck.
#[derive(Clone, Debug)]
pub struct Strike {
    /// Where.
    pub side: Side,
    /// In which step.
    pub step: Step,
    /// When in it.
    pub at: At,
    /// With what.
    pub weapon: Weapon,
}

impl fmt::Display for Strike {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { side, step, at, weapon } = self;
        write!(f, "{weapon:?} at {side:?}, {at:?} of {step}")
    }
}

type Choose = dyn FnMut(&Step) -> Option<(At, Weapon)> + Send;

struct Shared {
    choose: Box<Choose>,
    /// Steps that have begun, by job and number: one that is begun again was struck before.
    begun: HashSet<(String, usize)>,
    /// Steps that are struck later.
    waiting: Vec<Waiting>,
    struck: [bool; 2],
    hosts: [Host; 2],
    tell: SyncSender<Strike>,
}

struct Waiting {
    strike: Strike,
    job: String,
    index: usize,
}

/// The ambush on both lines.
#[derive(Clone)]
pub struct Ambush(Arc<Mutex<Shared>>);

impl fmt::Debug for Ambush {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Ambush")
    }
}

impl Ambush {
    /// Lies in wait on both sites' lines; nothing strikes yet. What does is told to the receiver.
    #[must_use]
    pub fn lay(lines: &[FaultProxy; 2], hosts: [Host; 2]) -> (Self, Receiver<Strike>) {
        // More than a story has steps.
        let (tell, told) = sync_channel(1 << 10);
        let shared = Shared {
            choose: Box::new(|_| None),
            begun: HashSet::new(),
            waiting: Vec::new(),
            struck: [false; 2],
            hosts,
            tell,
        };
        let ambush = Self(Arc::new(Mutex::new(shared)));
        for (side, line) in Side::ALL.into_iter().zip(lines) {
            let mine = ambush.clone();
            line.plan(move |seen| mine.lock().treat(side, seen));
        }
        (ambush, told)
    }

    /// From now on, each step that begins for the first time is struck as this says.
    pub fn strike(&self, choose: impl FnMut(&Step) -> Option<(At, Weapon)> + Send + 'static) {
        let mut shared = self.lock();
        shared.choose = Box::new(choose);
        shared.waiting.clear();
    }

    /// Lets a site that was struck have answers again.
    pub fn spare(&self, side: Side) {
        if let Some(struck) = self.lock().struck.get_mut(side.index()) {
            *struck = false;
        }
    }

    fn lock(&self) -> MutexGuard<'_, Shared> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Shared {
    fn treat(&mut self, side: Side, seen: &Seen) -> Fault {
        if self.struck.get(side.index()).copied().unwrap_or(false) {
            return Fault::Hang;
        }
        // Some clients escape the slashes of a key.
        let is_job = seen.target.replace("%2F", "/").contains("/catalog/jobs/");
        let job = (seen.method == "PUT" && is_job).then(|| serde_json::from_slice::<Value>(&seen.body).ok()).flatten();
        match job {
            Some(document) => self.job_written(side, &document["content"]),
            None => self.request(side),
        }
    }

    fn request(&mut self, side: Side) -> Fault {
        for at in 0..self.waiting.len() {
            let Some(waiting) = self.waiting.get_mut(at).filter(|waiting| waiting.strike.side == side) else {
                continue;
            };
            match &mut waiting.strike.at {
                At::Request(0) => {
                    let waiting = self.waiting.swap_remove(at);
                    return self.hit(waiting.strike);
                }
                At::Request(left) => *left -= 1,
                At::Begin | At::End => {}
            }
        }
        Fault::Pass
    }

    fn job_written(&mut self, side: Side, document: &Value) -> Fault {
        let steps = document["status"]["steps"].as_array().map(Vec::as_slice).unwrap_or_default();
        let id = document["id"].as_str().unwrap_or_default();
        let state = |index: usize| steps.get(index).and_then(|step| step["state"].as_str()).unwrap_or_default();
        let done = |waiting: &Waiting| waiting.job == id && state(waiting.index) == "succeeded";
        let ended = self.waiting.iter().position(done).map(|at| self.waiting.swap_remove(at).strike);
        // What a kill strikes isn't carried out and is asked for again, and the step that it begins is met then.
        if let Some(strike) = ended.clone().filter(|strike| strike.weapon == Weapon::Kill) {
            return self.hit(Strike { at: At::End, side, ..strike });
        }
        let begun = (0..steps.len())
            .find(|index| state(*index) != "succeeded")
            .filter(|index| state(*index) == "running" && self.begun.insert((id.to_owned(), *index)))
            .map(|index| {
                let step = Step {
                    kind: document["name"].as_str().unwrap_or_default().to_owned(),
                    of_plan: document["spec"].get("subject").is_some(),
                    name: steps.get(index).and_then(|step| step["step"].as_str()).unwrap_or_default().to_owned(),
                };
                (index, step)
            });
        let chosen = begun.and_then(|(index, step)| {
            let (at, weapon) = (self.choose)(&step)?;
            Some((index, Strike { side, step, at, weapon }))
        });
        match (ended, chosen) {
            (None, None) => Fault::Pass,
            (None, Some((_, strike))) if strike.at == At::Begin => self.hit(strike),
            (ended, chosen) => {
                // One write may end a step and begin the next. A line is cut once for it; the next one is struck later.
                if let Some((index, strike)) = chosen {
                    let at = if ended.is_some() { At::End } else { strike.at };
                    self.waiting.push(Waiting { strike: Strike { at, ..strike }, job: id.to_owned(), index });
                }
                ended.map_or(Fault::Pass, |strike| self.hit(Strike { at: At::End, side, ..strike }))
            }
        }
    }

    fn hit(&mut self, strike: Strike) -> Fault {
        let index = strike.side.index();
        let fault = match strike.weapon {
            Weapon::Kill => {
                if let Some(struck) = self.struck.get_mut(index) {
                    *struck = true;
                }
                // What begins is in the vault; what would be done is not.
                if strike.at == At::Begin { Fault::HangAfter } else { Fault::Hang }
            }
            Weapon::Cut(how) => {
                if let Some(Err(error)) = self.hosts.get(index).map(|host| host.cut(how)) {
                    eprintln!("cut a line: {error:#}");
                }
                Fault::Pass
            }
        };
        // Nobody listens any more when the test has failed.
        let _ = self.tell.try_send(strike);
        fault
    }
}
