//! What can be wrong with bytes, by what the caller should do about it.

/// Why bytes were refused. `what` names the part of the file or object.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FormatError {
    /// The bytes are of another kind, or of no kind of ours.
    #[error("this is no {what}: it starts with {}", magic.escape_ascii())]
    NotThisKind {
        /// The kind that was expected.
        what: &'static str,
        /// The four bytes found where the kind stands.
        magic: [u8; 4],
    },
    /// Written by a newer release: nothing is damaged, this build just can't read it.
    #[error(
        "the {what} has format version {found}, this release reads versions up to {supported}: use a newer release of lifeboat"
    )]
    NewerVersion {
        /// The part.
        what: &'static str,
        /// Version found.
        found: u16,
        /// Newest version that this build reads.
        supported: u16,
    },
    /// The bytes end too early.
    #[error("the {what} is truncated: {needed} bytes needed, {available} there")]
    Truncated {
        /// The part.
        what: &'static str,
        /// Bytes needed.
        needed: u64,
        /// Bytes there.
        available: u64,
    },
    /// A checksum or a rule of the format is broken.
    #[error("the {what} is damaged at byte {at}: {why}")]
    Corrupt {
        /// The part.
        what: &'static str,
        /// Byte offset within the part.
        at: u64,
        /// The rule that is broken.
        why: &'static str,
    },
    /// The bytes were not written by a holder of the key, or not for this place.
    #[error("the {what} failed authentication: it was altered, or moved here from another place")]
    Authentication {
        /// The part.
        what: &'static str,
    },
    /// Intact, but sealed with another key than the one given.
    #[error("the {what} was sealed with another key than the one given")]
    WrongKey {
        /// The part.
        what: &'static str,
    },
    /// Intact, but it says that it belongs under another name.
    #[error("the {what} belongs elsewhere: its {field} is {found}, expected {expected}")]
    Misplaced {
        /// The part.
        what: &'static str,
        /// The field that differs.
        field: &'static str,
        /// Its value.
        found: String,
        /// The value that its name asks for.
        expected: String,
    },
    /// A length or a count is above the format's limit.
    #[error("the {what} is too large: {found}, the limit is {limit}")]
    TooLarge {
        /// The part.
        what: &'static str,
        /// Value found.
        found: u64,
        /// The limit.
        limit: u64,
    },
    /// A writer asked for something that the format doesn't allow: a defect of the caller.
    #[error("the {what} can't be written: {why}")]
    Refused {
        /// The part.
        what: &'static str,
        /// The rule.
        why: &'static str,
    },
}
