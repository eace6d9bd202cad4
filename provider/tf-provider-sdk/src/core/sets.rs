//! Which element of one set an element of another set was before: sets have no positions, so
//! elements are matched by what the configuration says of them.
//!
//! Candidates are found by the attributes that the schema leaves to the configuration alone, so that
//! sets of ten thousand blocks are matched in n log n.

use std::collections::BTreeMap;

use crate::schema::Block;
use crate::value::{Object, Value};

/// The elements of a set that were not taken yet.
pub(crate) struct Counterparts<'a> {
    block: &'a Block,
    /// Where in `left` the elements with these configured values are.
    places: BTreeMap<Vec<&'a Value>, usize>,
    left: Vec<Vec<&'a Object>>,
}

impl<'a> Counterparts<'a> {
    /// The elements of `set`, blocks of this schema.
    pub(crate) fn new(block: &'a Block, set: &'a Value) -> Self {
        let mut all = Self { block, places: BTreeMap::new(), left: Vec::new() };
        // Last first: the first one is then taken from the end.
        for element in set.as_elements().unwrap_or_default().iter().rev().filter_map(Value::as_object) {
            let place = *all.places.entry(configured(block, element)).or_insert(all.left.len());
            match all.left.get_mut(place) {
                Some(same) => same.push(element),
                None => all.left.push(vec![element]),
            }
        }
        all
    }

    /// Takes the first one that agrees with `element` in everything that a person configures.
    pub(crate) fn take(&mut self, element: &Object) -> Option<&'a Object> {
        let place = *self.places.get(&configured(self.block, element))?;
        let candidates = self.left.get_mut(place)?;
        let found = candidates.iter().rposition(|candidate| agrees(self.block, element, candidate))?;
        Some(candidates.remove(found))
    }
}

/// The values that only a configuration decides.
fn configured<'v>(block: &Block, element: &'v Object) -> Vec<&'v Value> {
    const NULL: &Value = &Value::Null;
    let attributes = block.attributes.iter().filter(|attribute| !attribute.computed && !attribute.write_only);
    attributes.map(|attribute| element.value(&attribute.name).unwrap_or(NULL)).collect()
}

/// True if the two agree in all that a person configures, nested blocks included; where a value is
/// optional and computed, only where both have a known one.
fn agrees(block: &Block, a: &Object, b: &Object) -> bool {
    let computed = block.attributes.iter().filter(|attribute| attribute.computed).all(|attribute| {
        let (Some(left), Some(right)) = (a.value(&attribute.name), b.value(&attribute.name)) else {
            return true;
        };
        [left, right].iter().any(|value| value.is_null() || value.is_unknown()) || left == right
    });
    computed
        && configured(block, a) == configured(block, b)
        && block.blocks.iter().all(|nested| match (a.value(&nested.name), b.value(&nested.name)) {
            (Some(left), Some(right)) => nested_agree(&nested.block, left, right),
            _ => true,
        })
}

fn nested_agree(block: &Block, a: &Value, b: &Value) -> bool {
    let pair = |a: &Value, b: &Value| match (a, b) {
        (Value::Object(a), Value::Object(b)) => agrees(block, a, b),
        (a, b) => a == b,
    };
    match (a, b) {
        (Value::List(a), Value::List(b)) => a.len() == b.len() && a.iter().zip(b).all(|(a, b)| pair(a, b)),
        (Value::Map(a), Value::Map(b)) => {
            a.len() == b.len() && a.iter().zip(b).all(|((key, a), (other, b))| key == other && pair(a, b))
        }
        (Value::Set(items), Value::Set(others)) => {
            let mut left = Counterparts::new(block, b);
            items.len() == others.len()
                && items.iter().all(|item| item.as_object().is_none_or(|item| left.take(item).is_some()))
        }
        (a, b) => pair(a, b),
    }
}
