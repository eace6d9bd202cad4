//! State machines of the control plane: an enumeration and one transition table each.
//!
//! ```text
//! group:  Idle ──activate──> Active ──fence──> Fenced ──rehydrate──> Rehydrating ──take over──> Active
//!           │                  │  ^                                       │
//!           │                  │  └──resume── Standby <──release── Active └──fail──> Fenced
//!           └──rehydrate──> Rehydrating                (Standby ──rehydrate──> Rehydrating)
//! job:    Queued ──> Running ──> Succeeded       (Queued ──> Failed: nobody can begin it)
//!                       ├──> Failed ──retry──> Queued
//!                       └──> Cancelled
//! ```
//! What a state *holds* for a group at one gateway: `Active` holds an epoch and serves writes; `Fenced` has lost its
//! epoch to another gateway and serves reads only, its unshipped tail kept; `Standby` gave its epoch up in order;
//! `Rehydrating` has an image between two points, which nothing may read as a volume; `Idle` has nothing open.
//! An illegal move is a value ([`Illegal`]), never a panic.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A move that the transition table does not have.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a {machine} that is {from} can't become {to}")]
pub struct Illegal {
    machine: &'static str,
    from: &'static str,
    to: &'static str,
}

macro_rules! machine {
    ($(#[$doc:meta])* $name:ident, $label:literal, { $($(#[$sdoc:meta])* $state:ident = $text:literal => [$($next:ident),*];)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
        #[serde(rename_all = "kebab-case")]
        pub enum $name { $($(#[$sdoc])* $state,)* }

        impl $name {
            /// Every state.
            pub const ALL: &'static [$name] = &[$(Self::$state,)*];

            /// The word used in the API, the CLI and Terraform.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$state => $text,)* }
            }

            /// The states that may follow this one.
            #[must_use]
            pub const fn next(self) -> &'static [$name] {
                match self { $(Self::$state => &[$(Self::$next,)*],)* }
            }

            /// Moves to `to`, or says that it can't.
            pub fn to(self, to: Self) -> Result<Self, Illegal> {
                if self.next().contains(&to) {
                    Ok(to)
                } else {
                    Err(Illegal { machine: $label, from: self.as_str(), to: to.as_str() })
                }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.as_str())
            }
        }
    };
}

machine! {
    /// A group at one gateway.
    GroupState, "group", {
        /// Nothing is open here.
        Idle = "idle" => [Active, Rehydrating, Fenced];
        /// Holds the epoch, serves writes, ships.
        Active = "active" => [Fenced, Standby, Idle];
        /// Lost its epoch to another gateway: read-only, its tail kept.
        Fenced = "fenced" => [Rehydrating, Idle];
        /// Gave its epoch up in order: read-only.
        Standby = "standby" => [Rehydrating, Active, Idle];
        /// Its image is being brought to another branch's point.
        Rehydrating = "rehydrating" => [Active, Fenced, Standby, Idle];
    }
}

machine! {
    /// A job.
    JobState, "job", {
        /// Written down, not begun.
        Queued = "queued" => [Running, Failed, Cancelled];
        /// A gateway works on it.
        Running = "running" => [Succeeded, Failed, Cancelled];
        /// Done.
        Succeeded = "succeeded" => [];
        /// Ended with a cause; may be tried again.
        Failed = "failed" => [Queued];
        /// Ended by a person.
        Cancelled = "cancelled" => [];
    }
}

/// How well something is, and what a person has to do about it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Health {
    /// As it should be.
    #[default]
    Healthy,
    /// Works, but a promise (the RPO, free space) is not kept or soon won't be.
    Warning,
    /// Needs a person.
    Critical,
}

impl Health {
    /// The word used in the API, the CLI and Terraform.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Healthy => "healthy",
            Self::Warning => "warning",
            Self::Critical => "critical",
        }
    }
}

impl fmt::Display for Health {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The whole table, so that a change of it is seen in review.
    #[test]
    fn the_transitions_are_these() {
        let table: Vec<String> = GroupState::ALL
            .iter()
            .map(|s| format!("{s} -> {}", s.next().iter().map(|n| n.as_str()).collect::<Vec<_>>().join(" ")))
            .chain(
                JobState::ALL
                    .iter()
                    .map(|s| format!("{s} -> {}", s.next().iter().map(|n| n.as_str()).collect::<Vec<_>>().join(" "))),
            )
            .collect();
        assert_eq!(
            table,
            [
                "idle -> active rehydrating fenced",
                "active -> fenced standby idle",
                "fenced -> rehydrating idle",
                "standby -> rehydrating active idle",
                "rehydrating -> active fenced standby idle",
                "queued -> running failed cancelled",
                "running -> succeeded failed cancelled",
                "succeeded -> ",
                "failed -> queued",
                "cancelled -> ",
            ]
        );
    }

    /// The words between backticks.
    fn words(text: &str) -> Vec<&str> {
        text.split('`').skip(1).step_by(2).collect()
    }

    fn read_states() -> String {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/states.md");
        std::fs::read_to_string(path).expect("the document is there")
    }

    #[test]
    fn the_document_has_every_move_of_a_group_and_no_other() {
        let text = read_states();
        let table = text.lines().skip_while(|line| !line.starts_with("| From | To, by the table")).skip(2);
        let mut told = std::collections::BTreeSet::new();
        for row in table.take_while(|line| line.starts_with('|')) {
            let cells: Vec<&str> = row.split('|').collect();
            for from in words(cells[1]) {
                told.extend(words(cells[2]).into_iter().map(|to| (from.to_owned(), to.to_owned())));
            }
        }
        let moves = GroupState::ALL.iter().flat_map(|from| from.next().iter().map(move |to| (from, to)));
        let table: std::collections::BTreeSet<_> = moves.map(|(from, to)| (from.to_string(), to.to_string())).collect();
        assert_eq!(told, table, "docs/states.md, left, and the code differ");
    }

    #[test]
    fn the_diagrams_of_the_document_have_moves_that_there_are() {
        let text = read_states();
        let group = |name: &str| {
            let name = if name == "[*]" { "idle".to_owned() } else { name.to_lowercase() };
            GroupState::ALL.iter().copied().find(|state| state.as_str() == name)
        };
        let job = |name: &str| JobState::ALL.iter().copied().find(|state| state.as_str() == name);
        let mut arrows = 0;
        for line in text.lines().filter(|line| line.contains(" --> ")) {
            let (from, rest) = line.trim().split_once(" --> ").expect("an arrow");
            let to = rest.split(':').next().unwrap_or(rest).trim();
            let known = match (group(from), group(to), job(from), job(to)) {
                (Some(from), Some(to), ..) => from.to(to).is_ok(),
                (_, _, Some(from), Some(to)) => from.to(to).is_ok(),
                // Where a job begins.
                (_, _, _, Some(JobState::Queued)) if from == "[*]" => true,
                _ => false,
            };
            assert!(known, "docs/states.md: no such move: {line}");
            arrows += 1;
        }
        assert!(arrows >= 15, "{arrows} arrows");
    }

    #[test]
    fn an_illegal_move_is_a_value_that_says_what_was_tried() {
        let error =
            GroupState::Fenced.to(GroupState::Active).expect_err("a fenced group never serves writes again by itself");
        assert_eq!(error.to_string(), "a group that is fenced can't become active");
        assert_eq!(JobState::Queued.to(JobState::Running), Ok(JobState::Running));
    }
}
