//! VHDX that qemu-img made, with its random identifiers replaced by ones from the content.
//!
//! "[MS-VHDX] Virtual Hard Disk v2 File Format", version 1. Two headers of 4 KiB (at 64 and 128 KiB), each under a CRC-32C, have one
//! identifier for the file's and one for the data's last change, and a number that starts at random, of which the higher one counts; the metadata region has the disk's own (for SCSI's page 83). The log still
//! has entries that were carried out long ago, under random identifiers: it is emptied. Nothing else in what qemu-img writes differs from
//! run to run. A file with a log to replay is refused.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

use anyhow::{Context, Result, ensure};

use crate::guid;

const HEADERS: [u64; 2] = [64 << 10, 128 << 10];
const REGION_TABLE: u64 = 192 << 10;
const HEADER_BYTES: usize = 4096;
/// Largest log that is emptied; qemu-img's has 1 MiB.
const LOG_BYTES_MAX: u32 = 64 << 20;
/// Most entries of a region table.
const REGIONS_MAX: u32 = 2047;
/// The metadata region, as region tables name it: 8b7ca206-4790-4b9a-b8fe-575f050f886e.
const METADATA: [u8; 16] =
    [0x06, 0xa2, 0x7c, 0x8b, 0x90, 0x47, 0x9a, 0x4b, 0xb8, 0xfe, 0x57, 0x5f, 0x05, 0x0f, 0x88, 0x6e];
/// The disk's identifier, as metadata tables name it: beca12ab-b2e6-4523-93ef-c309e000c746.
const DISK_ID: [u8; 16] =
    [0xab, 0x12, 0xca, 0xbe, 0xe6, 0xb2, 0x23, 0x45, 0x93, 0xef, 0xc3, 0x09, 0xe0, 0x00, 0xc7, 0x46];

/// Replaces the identifiers of the VHDX at `path`; `sum` is the SHA-256 of the raw disk that it was made from.
///
/// # Errors
/// The file is no VHDX of version 1 that was closed cleanly, or can't be read or written.
pub fn settle(path: &Path, sum: &[u8; 32]) -> Result<()> {
    let file = File::options().read(true).write(true).open(path).with_context(|| format!("open {}", path.display()))?;
    let read = |bytes: &mut [u8], at: u64| {
        file.read_exact_at(bytes, at).with_context(|| format!("{} is shorter than a VHDX", path.display()))
    };
    let number = |at: u64| -> Result<u64> {
        let mut number = [0; 8];
        read(&mut number, at + 8)?;
        Ok(u64::from_le_bytes(number))
    };
    let (first, second) = (number(HEADERS[0])?, number(HEADERS[1])?);
    for (at, counts) in HEADERS.into_iter().zip([first > second, second >= first]) {
        let mut header = [0; HEADER_BYTES];
        read(&mut header, at)?;
        ensure!(header.starts_with(b"head"), "{} has no VHDX header at {at}", path.display());
        ensure!(header[48..64].iter().all(|byte| *byte == 0), "{} has a log to be replayed", path.display());
        let bytes = u32::from_le_bytes([header[68], header[69], header[70], header[71]]);
        ensure!(bytes <= LOG_BYTES_MAX, "{} has a log of {bytes} bytes", path.display());
        file.write_all_at(&vec![0; usize::try_from(bytes)?], long(&header[72..80]))?;
        header[8..16].copy_from_slice(&u64::from(counts).to_le_bytes());
        header[16..32].copy_from_slice(&guid(sum, "vhdx file"));
        header[32..48].copy_from_slice(&guid(sum, "vhdx data"));
        header[4..8].fill(0);
        let checksum = crc32c::crc32c(&header);
        header[4..8].copy_from_slice(&checksum.to_le_bytes());
        file.write_all_at(&header, at)?;
    }

    let mut table = [0; 16];
    read(&mut table, REGION_TABLE)?;
    ensure!(table.starts_with(b"regi"), "{} has no region table", path.display());
    let regions = u32::from_le_bytes([table[8], table[9], table[10], table[11]]).min(REGIONS_MAX);
    let mut metadata = None;
    for index in 0..u64::from(regions) {
        let mut entry = [0; 32];
        read(&mut entry, REGION_TABLE + 16 + index * 32)?;
        if entry.starts_with(&METADATA) {
            metadata = Some(long(&entry[16..24]));
        }
    }
    let metadata = metadata.with_context(|| format!("{} has no metadata region", path.display()))?;
    let mut table = [0; 32];
    read(&mut table, metadata)?;
    ensure!(table.starts_with(b"metadata"), "{} has no metadata table", path.display());
    for index in 0..u64::from(u16::from_le_bytes([table[10], table[11]]).min(2047)) {
        let mut entry = [0; 32];
        read(&mut entry, metadata + 32 + index * 32)?;
        if entry.starts_with(&DISK_ID) {
            let offset = u32::from_le_bytes([entry[16], entry[17], entry[18], entry[19]]);
            file.write_all_at(&guid(sum, "vhdx disk"), metadata + u64::from(offset))?;
            return Ok(());
        }
    }
    anyhow::bail!("{} has no identifier of its disk", path.display())
}

fn long(bytes: &[u8]) -> u64 {
    bytes.iter().rev().fold(0, |number, byte| number << 8 | u64::from(*byte))
}
