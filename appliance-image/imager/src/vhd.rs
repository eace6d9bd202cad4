//! Fixed VHD: the disk, then a footer of 512 bytes, for Azure and Hyper-V generation 1.
//!
//! "Virtual Hard Disk Image Format Specification", 1.0. Azure takes fixed ones alone, of whole mebibytes without the footer. Time and
//! identifier come from the caller and from the content.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::Path;

use anyhow::{Context, Result, ensure};

use crate::{MIB, SECTOR, guid, sha256};

/// Seconds between the epochs of Unix and of VHD, which begins in 2000.
const EPOCH_2000: u64 = 946_684_800;
/// Largest disk of this form: Azure's limit for one with a system on it.
const BYTES_MAX: u64 = 2 << 40;

/// Writes the disk of the raw file `from` to `to`; `time` is in seconds since 1970.
///
/// # Errors
/// The disk is not of whole mebibytes or too large, or a file can't be read or written.
pub fn write(from: &Path, to: &Path, time: u64) -> Result<()> {
    let sum = sha256(from)?;
    let mut disk = File::open(from).with_context(|| format!("open {}", from.display()))?;
    let bytes = disk.metadata()?.len();
    ensure!(bytes > 0 && bytes.is_multiple_of(MIB), "{} has {bytes} bytes: no whole mebibytes", from.display());
    ensure!(bytes <= BYTES_MAX, "{} has {bytes} bytes: more than a VHD's 2 TiB", from.display());
    let mut file = File::create(to).with_context(|| format!("create {}", to.display()))?;
    file.set_len(bytes)?;
    // Zeros are left out: the file has the same bytes and takes less of the disk.
    let mut block = vec![0; 1 << 20];
    for at in (0..bytes).step_by(block.len()) {
        disk.read_exact(&mut block).with_context(|| format!("read {}", from.display()))?;
        if block.iter().any(|byte| *byte != 0) {
            file.seek(SeekFrom::Start(at))?;
            file.write_all(&block).with_context(|| format!("write {}", to.display()))?;
        }
    }
    file.seek(SeekFrom::Start(bytes))?;
    file.write_all(&footer(bytes, time, &guid(&sum, "vhd"))).with_context(|| format!("write {}", to.display()))
}

/// The footer. Numbers are big-endian.
fn footer(bytes: u64, time: u64, id: &[u8; 16]) -> Vec<u8> {
    let mut footer = Vec::with_capacity(512);
    footer.extend(b"conectix");
    footer.extend(2_u32.to_be_bytes());
    footer.extend(0x0001_0000_u32.to_be_bytes());
    footer.extend(u64::MAX.to_be_bytes());
    footer.extend(u32::try_from(time.saturating_sub(EPOCH_2000)).unwrap_or(u32::MAX).to_be_bytes());
    // By the creator readers choose whether size or geometry counts; with this one it is the size, which is exact.
    footer.extend(b"qem2");
    footer.extend(0x0005_0003_u32.to_be_bytes());
    footer.extend(b"Wi2k");
    footer.extend(bytes.to_be_bytes());
    footer.extend(bytes.to_be_bytes());
    let (cylinders, heads, sectors) = geometry(bytes / SECTOR);
    footer.extend(cylinders.to_be_bytes());
    footer.extend([heads, sectors]);
    footer.extend(2_u32.to_be_bytes());
    let checksum = footer.len();
    footer.extend([0; 4]);
    footer.extend(id);
    footer.resize(512, 0);
    let sum = footer.iter().fold(0_u32, |sum, byte| sum.wrapping_add(u32::from(*byte)));
    for (place, byte) in footer.iter_mut().skip(checksum).zip((!sum).to_be_bytes()) {
        *place = byte;
    }
    footer
}

/// Cylinders, heads and sectors of a track, as the specification's appendix has it.
fn geometry(sectors: u64) -> (u16, u8, u8) {
    let sectors = sectors.min(65_535 * 16 * 255);
    let (heads, track) = if sectors >= 65_535 * 16 * 63 {
        (16, 255)
    } else {
        let heads = sectors.div_ceil(17).div_ceil(1024).max(4);
        if sectors / 17 < heads * 1024 && heads <= 16 {
            (heads, 17)
        } else if sectors / 31 < 16 * 1024 {
            (16, 31)
        } else {
            (16, 63)
        }
    };
    let cylinders = sectors / (heads * track);
    (
        u16::try_from(cylinders).unwrap_or(u16::MAX),
        u8::try_from(heads).unwrap_or(16),
        u8::try_from(track).unwrap_or(255),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_footer_has_its_fields_and_its_checksum() {
        let footer = footer(600 << 20, EPOCH_2000 + 5, &[7; 16]);
        assert_eq!(footer.len(), 512);
        assert_eq!(&footer[..8], b"conectix");
        assert_eq!(footer[24..28], 5_u32.to_be_bytes());
        assert_eq!(footer[40..48], (600_u64 << 20).to_be_bytes());
        assert_eq!(footer[48..56], footer[40..48]);
        assert_eq!(footer[60..64], 2_u32.to_be_bytes());
        let checksum = u32::from_be_bytes(footer[64..68].try_into().unwrap());
        let mut without = footer.clone();
        without[64..68].fill(0);
        assert_eq!(!without.iter().map(|byte| u32::from(*byte)).sum::<u32>(), checksum);
    }

    #[test]
    fn geometry_is_never_larger_than_the_disk() {
        for mib in [1_u64, 16, 504, 580, 2048, 8192, 131_072] {
            let (cylinders, heads, track) = geometry(mib * 2048);
            let chs = u64::from(cylinders) * u64::from(heads) * u64::from(track);
            assert!(chs <= mib * 2048 && chs > 0, "{mib} MiB: {cylinders}/{heads}/{track}");
        }
    }
}
