//! The forms in which the appliance's disk is handed to hypervisors, written so that the same disk gives the same bytes.
//!
//! ```text
//! raw disk ──> vmdk (stream-optimised) ──┐
//!    │                          ovf ─────┼──> ova (ustar)
//!    │                          manifest ┘
//!    ├──> vhd (fixed)
//!    └──> vhdx (made by qemu-img, its random parts replaced)
//! ```
//!
//! Each writer refuses a disk that its form can't hold; none reads a clock or a random number: identifiers come from the content.
//! A file is written in place: one that an interrupted run left is no image, and whoever calls writes beside and renames.

pub mod boot;
pub mod ova;
pub mod ovf;
pub mod vhd;
pub mod vhdx;
pub mod vmdk;

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use anyhow::{Context, Result};
use aws_lc_rs::digest;

/// Bytes of a sector, as all forms count them.
pub const SECTOR: u64 = 512;
const MIB: u64 = 1 << 20;

/// The SHA-256 of a file's content.
///
/// # Errors
/// The file can't be read.
pub fn sha256(path: &Path) -> Result<[u8; 32]> {
    let mut file = File::open(path).with_context(|| format!("open {}", path.display()))?;
    let mut context = digest::Context::new(&digest::SHA256);
    let mut buffer = vec![0; 1 << 20];
    loop {
        match fill(&mut file, &mut buffer).with_context(|| format!("read {}", path.display()))? {
            0 => break,
            length => context.update(buffer.get(..length).unwrap_or_default()),
        }
    }
    let mut sum = [0; 32];
    sum.copy_from_slice(context.finish().as_ref());
    Ok(sum)
}

/// In lower-case hexadecimal digits.
#[must_use]
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Reads until the buffer is full or the file ends.
fn fill(file: &mut impl Read, buffer: &mut [u8]) -> io::Result<usize> {
    let mut length = 0;
    while let Some(rest) = buffer.get_mut(length..).filter(|rest| !rest.is_empty()) {
        match file.read(rest) {
            Ok(0) => break,
            Ok(read) => length += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(length)
}

/// A GUID from content, in the variant and version of random ones, whose readers look at nothing else.
fn guid(sum: &[u8; 32], what: &str) -> [u8; 16] {
    let mut context = digest::Context::new(&digest::SHA256);
    context.update(sum);
    context.update(what.as_bytes());
    let mut guid = [0; 16];
    guid.copy_from_slice(context.finish().as_ref().split_at(16).0);
    guid[6] = guid[6] & 0x0f | 0x40;
    guid[8] = guid[8] & 0x3f | 0x80;
    guid
}
