//! Who names whom, as the plans of one run say it.
//!
//! A plan is made of one resource at a time, in an order that nobody knows. Something that is destroyed while the same run keeps it
//! named elsewhere is refused by whichever of the two plans comes second; what is only known at apply the gateway says.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

/// One object's naming of another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Mention {
    /// The attribute.
    pub(crate) path: String,
    /// The id that stands there.
    pub(crate) id: String,
}

/// Who names whom, by the plans of this run.
#[derive(Debug, Default)]
pub(crate) struct Mentions {
    /// By the id of who names: what people call it, and what it names.
    by_holder: Mutex<BTreeMap<String, (String, Vec<Mention>)>>,
}

impl Mentions {
    /// Remembers what the object with this id names from now on; one that isn't made yet has none and is named by its words.
    pub(crate) fn set(&self, id: &str, called: &str, named: Vec<Mention>) {
        let holder = if id.is_empty() { called } else { id };
        let mut held = self.by_holder.lock().unwrap_or_else(PoisonError::into_inner);
        held.insert(holder.to_owned(), (called.to_owned(), named));
    }

    /// Who names this object, in words, and where.
    pub(crate) fn of(&self, id: &str) -> Option<(String, String)> {
        let held = self.by_holder.lock().unwrap_or_else(PoisonError::into_inner);
        held.values().find_map(|(called, named)| {
            let mention = named.iter().find(|mention| mention.id == id)?;
            Some((called.clone(), mention.path.clone()))
        })
    }

    /// Whether the object with this id has been planned.
    pub(crate) fn has(&self, id: &str) -> bool {
        self.by_holder.lock().unwrap_or_else(PoisonError::into_inner).contains_key(id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_named_last_counts() {
        let mentions = Mentions::default();
        let named = |id: &str| vec![Mention { path: "boot_group[0].machine_ids[0]".into(), id: id.into() }];
        mentions.set("plan-1", "recovery plan erp", named("mch-1"));
        assert_eq!(mentions.of("mch-1").map(|(holder, _)| holder).as_deref(), Some("recovery plan erp"));
        mentions.set("plan-1", "recovery plan erp", named("mch-2"));
        assert_eq!(mentions.of("mch-1"), None, "a plan is made twice");
        mentions.set("", "recovery plan new", named("mch-1"));
        assert!(mentions.of("mch-1").is_some() && mentions.has("plan-1") && !mentions.has("plan-2"));
    }
}
