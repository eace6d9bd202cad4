//! Holding what an object says of itself against the name that it was found under.

use std::fmt::Display;

use crate::FormatError;

/// Refuses an object that is intact but belongs under another name.
pub(crate) fn same<T: PartialEq + Display>(
    what: &'static str,
    field: &'static str,
    found: T,
    expected: T,
) -> Result<(), FormatError> {
    if found == expected {
        Ok(())
    } else {
        Err(FormatError::Misplaced { what, field, found: found.to_string(), expected: expected.to_string() })
    }
}
