//! A host that runs machines in a map, which outlives the gateways that use it.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use lifeboat_compute::{ComputeError, Driver, ErrorKind, Order, RunId, RunState, StopOutcome};

#[derive(Debug, Default)]
struct State {
    runs: BTreeMap<RunId, Order>,
    log: Vec<String>,
    /// Names of machines that don't start, and why.
    broken: BTreeMap<String, String>,
    /// What machines say on their consoles, by name.
    consoles: BTreeMap<String, String>,
    /// What answers at ports of machines, by name.
    served: BTreeMap<(String, u16), SocketAddr>,
    /// What the screens of machines show, by name.
    screens: BTreeMap<String, Vec<u8>>,
}

/// See above; clones are the same host.
#[derive(Debug, Clone, Default)]
pub(super) struct FakeHost(Arc<Mutex<State>>);

impl FakeHost {
    /// What runs, by name, in the order of the names of the runs.
    pub(super) fn running(&self) -> Vec<Order> {
        self.0.lock().expect("sound").runs.values().cloned().collect()
    }

    pub(super) fn names(&self) -> Vec<String> {
        let mut names: Vec<String> = self.running().into_iter().map(|order| order.name).collect();
        names.sort_unstable();
        names
    }

    /// What was done, in order; a start of what ran already isn't in it.
    pub(super) fn log(&self) -> Vec<String> {
        self.0.lock().expect("sound").log.clone()
    }

    /// What a machine of that name says on its console.
    pub(super) fn says(&self, name: &str, text: &str) {
        self.0.lock().expect("sound").consoles.insert(name.to_owned(), text.to_owned());
    }

    /// What answers at a port of a machine of that name.
    pub(super) fn serves(&self, name: &str, port: u16, there: SocketAddr) {
        self.0.lock().expect("sound").served.insert((name.to_owned(), port), there);
    }

    /// What the screen of a machine of that name shows.
    pub(super) fn shows(&self, name: &str, png: Vec<u8>) {
        self.0.lock().expect("sound").screens.insert(name.to_owned(), png);
    }

    /// From now on a machine of that name doesn't start; it does again with an empty reason.
    pub(super) fn break_machine(&self, name: &str, why: &str) {
        let mut state = self.0.lock().expect("sound");
        if why.is_empty() {
            state.broken.remove(name);
        } else {
            state.broken.insert(name.to_owned(), why.to_owned());
        }
    }
}

#[async_trait]
impl Driver for FakeHost {
    fn name(&self) -> &'static str {
        "fake"
    }

    async fn check(&self, order: &Order) -> Vec<String> {
        order.faults()
    }

    async fn start(&self, order: &Order) -> Result<(), ComputeError> {
        let mut state = self.0.lock().expect("sound");
        if let Some(why) = state.broken.get(&order.name) {
            return Err(ComputeError::new(ErrorKind::Refused, why.clone()));
        }
        if state.runs.insert(order.id.clone(), order.clone()).is_none() {
            state.log.push(format!("start {}", order.name));
        }
        Ok(())
    }

    async fn resume(&self, _: &RunId) -> Result<(), ComputeError> {
        // A machine in a map never stands still.
        Ok(())
    }

    async fn stop(&self, id: &RunId, _: Duration) -> Result<StopOutcome, ComputeError> {
        let mut state = self.0.lock().expect("sound");
        let Some(order) = state.runs.remove(id) else { return Ok(StopOutcome::WasOff) };
        state.log.push(format!("stop {}", order.name));
        Ok(StopOutcome::Graceful)
    }

    async fn state(&self, id: &RunId) -> Result<RunState, ComputeError> {
        let runs = self.0.lock().expect("sound").runs.contains_key(id);
        Ok(if runs { RunState::Running } else { RunState::Absent })
    }

    async fn list(&self) -> Result<Vec<RunId>, ComputeError> {
        Ok(self.0.lock().expect("sound").runs.keys().cloned().collect())
    }

    async fn console(&self, id: &RunId, _: usize) -> Result<Vec<u8>, ComputeError> {
        let state = self.0.lock().expect("sound");
        let said = state.runs.get(id).and_then(|order| state.consoles.get(&order.name));
        Ok(said.cloned().unwrap_or_default().into_bytes())
    }

    async fn screen(&self, id: &RunId) -> Result<Option<Vec<u8>>, ComputeError> {
        let state = self.0.lock().expect("sound");
        Ok(state.runs.get(id).and_then(|order| state.screens.get(&order.name)).cloned())
    }

    async fn reach(&self, id: &RunId, _: usize, port: u16) -> Result<SocketAddr, ComputeError> {
        let state = self.0.lock().expect("sound");
        let there = state.runs.get(id).and_then(|order| state.served.get(&(order.name.clone(), port)));
        there.copied().ok_or_else(|| ComputeError::new(ErrorKind::Refused, "nothing is at that port"))
    }

    async fn forget(&self, id: &RunId) -> Result<(), ComputeError> {
        let runs = self.0.lock().expect("sound").runs.contains_key(id);
        if runs { Err(ComputeError::new(ErrorKind::Refused, "it runs")) } else { Ok(()) }
    }
}
