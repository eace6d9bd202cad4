//! The guides, run: what a document tells a reader to type is typed, in order, in a shell on a machine of its own.
//!
//! ```text
//! document ── blocks: what is there, and how each is meant ──> machine: a shell behind namespaces ──> shown: is that what it says?
//! ```
//! A block is meant to be run unless a comment before it says otherwise; readers don't see the comment:
//!
//! | Comment | Meaning |
//! |---|---|
//! | `<!-- run: again -->` | repeated until it ends well and shows what it should, as a person would look again |
//! | `<!-- run: exactly -->` | figures have to be those that are shown |
//! | `<!-- run: fails -->` | it has to fail, with what is shown |
//! | `<!-- run: file NAME -->` | the block is what stands in that file; of HCL that has no name, nothing can be run |
//! | `<!-- run: not, REASON -->` | it can't be run here, for one of the [`Reason`]s |
//!
//! `<!-- meanwhile: SCRIPT -->` is what happens to the reader at that place, and isn't in the reader's hands: the loss of a site.
//!
//! `sh` blocks are scripts. `console` blocks have commands behind `$ ` and below each what it shows: numbers, times and ids stand for
//! any other of their kind, `…` for anything, a line of nothing but `…` for any lines.
//!
//! What has to be there before a guide begins (other guides made it) is a script in `acceptance/guides`, run by the same shell.

mod blocks;
mod machine;
mod shown;

use std::path::Path;

use anyhow::{Context, Result, bail};

pub use blocks::{Block, Guide, Mark, Reason};
pub use machine::Machine;
pub use shown::differs;

use crate::binaries::repository;

/// Every document whose commands readers type: the guides, the README, those of the examples.
///
/// # Errors
/// A directory can't be listed, or a document has a comment that makes no sense.
pub fn all() -> Result<Vec<Guide>> {
    let mut paths = vec![repository().join("README.md")];
    for (dir, file) in [("docs/guides", ""), ("examples", "README.md")] {
        let dir = repository().join(dir);
        for entry in std::fs::read_dir(&dir).with_context(|| format!("list {}", dir.display()))? {
            let path = entry.with_context(|| format!("list {}", dir.display()))?.path().join(file);
            let path = if file.is_empty() { path.components().collect() } else { path };
            if path.is_file() && path.extension().is_some_and(|extension| extension == "md") {
                paths.push(path);
            }
        }
    }
    paths.sort();
    paths.iter().map(|path| Guide::read(path)).collect()
}

/// What became of a guide's blocks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Run, or written into the file that they are.
    pub run: usize,
    /// Not to be run here, with a reason.
    pub marked: usize,
}

/// Runs every block of a guide that is to be run, in order, after `before` (a script of `acceptance/guides`, or none).
///
/// # Errors
/// A block that is neither runnable nor marked; a command that fails, or shows something else than the guide says.
pub fn run(name: &str, before: &[&str]) -> Result<Tally> {
    let guide = Guide::read(&repository().join(name))?;
    let mut machine = Machine::new(&guide.label())?;
    let mut tally = Tally::default();
    let played = (|| {
        // Whoever reads an example is in its directory.
        if let Some(example) = name.strip_suffix("/README.md") {
            machine.enter(example)?;
        }
        for script in before {
            machine.prepare(&Path::new("acceptance/guides").join(script))?;
        }
        for block in &guide.blocks {
            match &block.mark {
                Mark::Not(_) => tally.marked += 1,
                Mark::Meanwhile(script) => machine.prepare(&Path::new("acceptance/guides").join(script))?,
                Mark::Unknown => bail!("{}\nit is neither to be run nor marked", guide.at(block)),
                _ => {
                    machine.play(block).with_context(|| guide.at(block))?;
                    tally.run += 1;
                }
            }
        }
        Ok(())
    })();
    if let Err(error) = played {
        return Err(machine.explained(error));
    }
    machine.close()?;
    Ok(tally)
}
