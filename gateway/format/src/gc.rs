//! What collecting garbage and keeping points writes down: which points a group keeps, what is about to be deleted, what
//! people say of single points, which branches were given up.
//!
//! ```text
//! groups/<g>/gc/kept/<rev>              kept points     LBKP   every position that is kept, as of a moment
//! groups/<g>/gc/intent/<rev>            delete intent   LBDI   objects that nothing kept needs, by the list of that revision
//! groups/<g>/marks/<point>-<rev>        point mark      LBPM   pinned, until when, what it is called
//! groups/<g>/<branch>/epoch/dropped     dropped branch  LBBD
//! ```
//! All are created once and never changed. Each is one sealed record: a header in clear text that repeats the object's
//! name below its group, and a compressed body encrypted under a key of its own. An object under another name, of another
//! group or with one bit changed is refused.

mod dropped;
mod intent;
mod kept;
mod mark;
mod sealed;
#[cfg(test)]
mod tests;

pub use dropped::BranchDrop;
pub use intent::{DeleteIntent, Doomed, INTENT_OBJECTS_MAX, Reason};
pub use kept::{KeptBranch, KeptPoints, KeptPosition};
pub use mark::PointMark;
pub(crate) use sealed::is_record;
pub use sealed::{RECORD_LEN_MAX, RecordHeader, RecordPlace};
