//! What the group's writes look like, and what is made of it: the ledger of the branch that it ships to.
//!
//! In memory; whoever runs the group keeps it (the server, in the vault's catalog) and puts back what was kept before.

use lifeboat_model::{BranchId, Timestamp};

use super::Group;
use crate::insight::{Ledger, PointInsight, Suspicion, suspicions};

/// The ledger of one branch.
#[derive(Debug, Default)]
pub(super) struct Insight {
    branch: Option<BranchId>,
    begun: Option<Timestamp>,
    ledger: Ledger,
    /// Computed when the ledger changes: status is asked for often.
    suspicions: Vec<Suspicion>,
}

impl Insight {
    /// Begins anew when the group is on another branch.
    fn of(&mut self, branch: BranchId, now: Timestamp) -> &mut Self {
        if self.branch != Some(branch) {
            *self = Self { branch: Some(branch), begun: Some(now), ..Self::default() };
        }
        self
    }
}

impl Group {
    /// A tenure begins: what is written from here on is measured.
    pub(super) fn begin_insight(&self) {
        let branch = self.state.lock().state.branch;
        self.insight.lock().of(branch, self.config.reach.now());
    }

    /// Takes down what landed.
    pub(super) fn note_insight(&self, branch: BranchId, insights: &[PointInsight]) {
        if insights.is_empty() {
            return;
        }
        let now = self.config.reach.now();
        let mut all = self.insight.lock();
        let insight = all.of(branch, now);
        for one in insights {
            insight.ledger.push(one.clone(), insight.begun.unwrap_or(now));
        }
        let found = suspicions(&insight.ledger);
        if found.len() > insight.suspicions.len()
            && let Some(newest) = found.last()
        {
            tracing::warn!(
                group = %self.config.group, volume = %newest.volume, since = %newest.since, bytes = newest.bytes,
                "a volume looks as if it was being encrypted"
            );
        }
        insight.suspicions = found;
    }

    /// What was measured on the branch that the group ships to.
    #[must_use]
    pub fn insight(&self) -> Option<(BranchId, Ledger)> {
        let insight = self.insight.lock();
        insight.branch.map(|branch| (branch, insight.ledger.clone()))
    }

    /// Puts back what was measured in an earlier life.
    pub fn restore_insight(&self, branch: BranchId, kept: Ledger) {
        let mut insight = self.insight.lock();
        if insight.branch == Some(branch) {
            insight.ledger.put_before(kept);
            insight.suspicions = suspicions(&insight.ledger);
        }
    }

    /// What looks as if it was being encrypted.
    pub(super) fn suspicions(&self) -> Vec<Suspicion> {
        self.insight.lock().suspicions.clone()
    }
}
