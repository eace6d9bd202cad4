//! The last step of what leaves the provider: the schema's shape, no unknown, no write-only value.

use crate::core::planning::null_write_only;
use crate::diagnostic::{Diagnostic, Diagnostics};
use crate::schema::Block;
use crate::value::{Object, Path, Value};

/// Brings a state that a provider returned into its final form.
///
/// # Errors
/// Not of the schema's shape, or something in it is unknown: mistakes in the provider.
pub(crate) fn finish(block: &Block, state: Object) -> Result<Object, Diagnostics> {
    let mut state = block.conform(state).map_err(|error| {
        Diagnostic::error("Wrong value from the provider", format!("{error}. {MISTAKE}")).at(error.path)
    })?;
    null_write_only(block, &mut state);
    let unknown = state.iter().find_map(|(name, value)| value.first_unknown(&Path::root().attr(name)));
    match unknown {
        None => Ok(state),
        Some(path) => {
            Err(Diagnostic::error("Value still unknown", format!("The provider left {path} unknown. {MISTAKE}"))
                .at(path)
                .into())
        }
    }
}

/// The same for what is kept after a failure: unknown values become null. `None` where even that
/// is not of the schema's shape.
pub(crate) fn finish_partial(block: &Block, state: Object) -> Option<Object> {
    let mut state = Value::Object(state);
    state.unknown_to_null();
    match state {
        Value::Object(state) => finish(block, state).ok(),
        _ => None,
    }
}

const MISTAKE: &str = "This is a mistake in the provider; please report it.";
