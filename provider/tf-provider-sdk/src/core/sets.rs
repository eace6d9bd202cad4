//! Which element of one set an element of another set was before: sets have no positions, so
//! elements are matched by what the configuration says of them.

use crate::schema::Block;
use crate::value::{Object, Value};

/// The first unused element of `candidates` that agrees with `element` in everything that a person
/// configures in blocks of this schema. `used` marks what was matched before.
pub(crate) fn match_element<'a>(
    block: &Block,
    element: &Object,
    candidates: &'a [Value],
    used: &mut [bool],
) -> Option<&'a Object> {
    let found = candidates.iter().enumerate().position(|(i, candidate)| {
        !used.get(i).copied().unwrap_or(true)
            && candidate.as_object().is_some_and(|candidate| agrees(block, element, candidate))
    })?;
    if let Some(flag) = used.get_mut(found) {
        *flag = true;
    }
    candidates.get(found)?.as_object()
}

/// True if the two agree wherever the schema leaves the value to the configuration alone, and, for
/// optional and computed attributes, wherever both have a known value.
fn agrees(block: &Block, a: &Object, b: &Object) -> bool {
    let attributes = block.attributes.iter().all(|attribute| {
        let (Some(left), Some(right)) = (a.value(&attribute.name), b.value(&attribute.name)) else {
            return true;
        };
        if attribute.write_only {
            return true;
        }
        let open = attribute.computed && [left, right].iter().any(|v| v.is_null() || v.is_unknown());
        open || left == right
    });
    attributes
        && block.blocks.iter().all(|nested| {
            match (a.value(&nested.name), b.value(&nested.name)) {
                // Nested blocks may hold computed values: equal counts are enough to agree.
                (Some(left), Some(right)) => {
                    left.as_elements().map(<[Value]>::len) == right.as_elements().map(<[Value]>::len)
                }
                _ => true,
            }
        })
}
