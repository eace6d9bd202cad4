//! What only one resource of a configuration can have, as the plans of one run say it.
//!
//! A plan is made of one resource at a time, and knows nothing of the others. What each has been planned to have is remembered
//! here for the length of a run, so that of two that want the same the second is refused while nothing has happened yet. What
//! isn't known yet clashes with nothing: the gateway looks again.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

/// Something that only one object can have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Claim {
    /// The attribute that claims it.
    pub(crate) path: String,
    /// What it is, in words, before its value.
    pub(crate) what: &'static str,
    /// Its value.
    pub(crate) value: String,
    /// Where it counts; everywhere when empty.
    within: String,
}

impl Claim {
    /// Something that counts everywhere.
    pub(crate) fn new(path: String, what: &'static str, value: String) -> Self {
        Self { path, what, value, within: String::new() }
    }

    /// Something that counts within an object.
    pub(crate) fn within(path: String, what: &'static str, value: String, within: &str) -> Self {
        Self { path, what, value, within: within.to_owned() }
    }

    fn key(&self) -> (String, String, String) {
        (self.what.to_owned(), self.within.clone(), self.value.clone())
    }
}

/// Who has what, by the plans of this run.
#[derive(Debug, Default)]
pub(crate) struct Claims {
    /// By what is claimed: who does.
    held: Mutex<BTreeMap<(String, String, String), String>>,
}

impl Claims {
    /// Gives `owner` what it claims, in the place of what it claimed before; the claims that somebody else has come back, with
    /// their owners.
    pub(crate) fn take(&self, owner: &str, claims: Vec<Claim>) -> Vec<(Claim, String)> {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        held.retain(|_, holder| holder != owner);
        let mut refused = Vec::new();
        for claim in claims {
            match held.get(&claim.key()) {
                Some(holder) if holder != owner => refused.push((claim, holder.clone())),
                _ => drop(held.insert(claim.key(), owner.to_owned())),
            }
        }
        refused
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(value: &str, network: &str) -> Claim {
        Claim::within("network_interface[0].address".into(), "the address", value.into(), network)
    }

    #[test]
    fn the_second_who_wants_the_same_is_refused() {
        let claims = Claims::default();
        assert_eq!(claims.take("machine a", vec![address("10.0.0.1", "n"), address("10.0.0.2", "n")]), []);
        assert_eq!(claims.take("machine a", vec![address("10.0.0.1", "n")]), [], "a plan is made twice");
        assert_eq!(claims.take("machine b", vec![address("10.0.0.1", "m"), address("10.0.0.2", "n")]), []);
        let refused = claims.take("machine c", vec![address("10.0.0.1", "n")]);
        assert_eq!(refused, [(address("10.0.0.1", "n"), "machine a".to_owned())]);
        assert_eq!(claims.take("machine a", vec![]), []);
        assert_eq!(claims.take("machine c", vec![address("10.0.0.1", "n")]), [], "it was given up");
    }
}
