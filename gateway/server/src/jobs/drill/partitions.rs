//! Where a partition lies on a volume: by its partition table, GPT or the older kind.
//!
//! GPT: UEFI Specification 2.10, chapter 5. Tables count in sectors of 512 bytes, as those of virtual disks do; one that counts
//! in 4096 is found as well.

use std::io::{self, Read, Seek, SeekFrom};

/// Most entries of a table that are looked at.
const ENTRIES_MAX: u32 = 128;

/// First byte and length of a partition, counted from 1.
pub(super) fn find(disk: &mut (impl Read + Seek), number: u32) -> Result<(u64, u64), String> {
    let unreadable = |error: io::Error| format!("the partition table can't be read: {error}");
    let first = read(disk, 0, 512).map_err(unreadable)?;
    if first.get(510..512) != Some(&[0x55, 0xaa]) {
        return Err("it has no partition table".to_owned());
    }
    for sector in [512_u64, 4096] {
        let header = read(disk, sector, 92).map_err(unreadable)?;
        if header.starts_with(b"EFI PART") {
            return guid(disk, &header, sector, number);
        }
    }
    if !(1..=4).contains(&number) {
        return Err(format!("partition {number} would be in an extended partition, which isn't looked into"));
    }
    let at = 446 + 16 * (number as usize - 1);
    let entry = first.get(at..at + 16).unwrap_or_default();
    let kind = entry.get(4).copied().unwrap_or(0);
    let (start, length) = (u64::from(le32(entry, 8)) * 512, u64::from(le32(entry, 12)) * 512);
    match (kind, length) {
        (0, _) | (_, 0) => Err(format!("there is no partition {number}")),
        (0x05 | 0x0f | 0x85, _) => Err(format!("partition {number} is an extended one, which isn't looked into")),
        _ => Ok((start, length)),
    }
}

fn guid(disk: &mut (impl Read + Seek), header: &[u8], sector: u64, number: u32) -> Result<(u64, u64), String> {
    let (table, count, size) = (le64(header, 72), le32(header, 80).min(ENTRIES_MAX), le32(header, 84));
    if !(128..=4096).contains(&size) {
        return Err("its partition table makes no sense".to_owned());
    }
    if !(1..=count).contains(&number) {
        return Err(format!("there is no partition {number}"));
    }
    let offset = u64::from(number - 1).saturating_mul(u64::from(size));
    let at = table.saturating_mul(sector).saturating_add(offset);
    let entry = read(disk, at, 128).map_err(|error| format!("the partition table can't be read: {error}"))?;
    let (first, last) = (le64(&entry, 32), le64(&entry, 40));
    if entry.iter().take(16).all(|byte| *byte == 0) || first == 0 || last < first {
        return Err(format!("there is no partition {number}"));
    }
    let length = (last - first).saturating_add(1);
    Ok((first.saturating_mul(sector), length.saturating_mul(sector)))
}

fn read(disk: &mut (impl Read + Seek), at: u64, length: usize) -> io::Result<Vec<u8>> {
    disk.seek(SeekFrom::Start(at))?;
    let mut bytes = vec![0; length];
    disk.read_exact(&mut bytes)?;
    Ok(bytes)
}

fn le32(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..at + 4).and_then(|part| part.try_into().ok()).map_or(0, u32::from_le_bytes)
}

fn le64(bytes: &[u8], at: usize) -> u64 {
    bytes.get(at..at + 8).and_then(|part| part.try_into().ok()).map_or(0, u64::from_le_bytes)
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use super::*;

    fn old(entries: &[(usize, u8, u32, u32)]) -> Vec<u8> {
        let mut disk = vec![0; 64 << 10];
        disk[510..512].copy_from_slice(&[0x55, 0xaa]);
        for (number, kind, start, length) in entries {
            let at = 446 + 16 * (number - 1);
            disk[at + 4] = *kind;
            disk[at + 8..at + 12].copy_from_slice(&start.to_le_bytes());
            disk[at + 12..at + 16].copy_from_slice(&length.to_le_bytes());
        }
        disk
    }

    #[test]
    fn the_older_kind() {
        let mut disk = Cursor::new(old(&[(1, 0x83, 2048, 4096), (3, 0x05, 9000, 100)]));
        assert_eq!(find(&mut disk, 1), Ok((1 << 20, 2 << 20)));
        assert!(find(&mut disk, 2).expect_err("none").contains("no partition 2"));
        assert!(find(&mut disk, 3).expect_err("extended").contains("extended"));
        assert!(find(&mut disk, 5).expect_err("inside").contains("extended"));
    }

    #[test]
    fn guid_tables_of_both_sector_sizes() {
        for sector in [512_usize, 4096] {
            let mut disk = old(&[(1, 0xee, 1, u32::MAX)]);
            let header = &mut disk[sector..];
            header[..8].copy_from_slice(b"EFI PART");
            header[72..80].copy_from_slice(&2_u64.to_le_bytes());
            header[80..84].copy_from_slice(&128_u32.to_le_bytes());
            header[84..88].copy_from_slice(&128_u32.to_le_bytes());
            let entry = &mut disk[2 * sector + 128..];
            entry[0] = 7;
            entry[32..40].copy_from_slice(&40_u64.to_le_bytes());
            entry[40..48].copy_from_slice(&49_u64.to_le_bytes());
            let mut disk = Cursor::new(disk);
            let sector = sector as u64;
            assert_eq!(find(&mut disk, 2), Ok((40 * sector, 10 * sector)), "{sector}");
            assert!(find(&mut disk, 1).is_err());
            assert!(find(&mut disk, 129).is_err());
        }
    }

    #[test]
    fn a_volume_without_a_table() {
        assert!(find(&mut Cursor::new(vec![0; 8192]), 1).expect_err("none").contains("no partition table"));
        assert!(find(&mut Cursor::new(vec![0; 100]), 1).expect_err("short").contains("can't be read"));
    }
}
