//! GRUB for BIOS on a disk with a GPT, as grub-bios-setup would install it, without a device.
//!
//! ```text
//! sector 0            440 bytes of boot.img, with the place of the core image's first sector at 92
//! BIOS boot partition core.img: its first sector reads the rest, from the list that ends at its byte 512:
//!                     12 bytes (place of the first sector u64, how many u16, segment to load at u16)
//! ```

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::Path;

use anyhow::{Context, Result, ensure};

use crate::SECTOR;

/// Code of a master boot record, before the disk's signature and its table.
const CODE: usize = 440;
const CORE_PLACE: usize = 92;
/// boot.img jumps over a floppy's code with these two bytes; on a hard disk they do nothing (grub-setup writes them too).
const DRIVE_CHECK: usize = 0x66;
const LIST: usize = 500;

/// Installs `boot` (boot.img) and `core` (core.img) on the disk image, the core at `place` (in sectors), with `sectors` for it.
///
/// # Errors
/// A file is none of GRUB's, the core is larger than its partition, or something can't be read or written.
pub fn install(disk: &Path, boot: &Path, core: &Path, place: u64, sectors: u64) -> Result<()> {
    let mut stage = read(boot)?;
    ensure!(stage.len() == 512, "{} has {} bytes: no first stage of GRUB", boot.display(), stage.len());
    put(&mut stage, CORE_PLACE, &place.to_le_bytes());
    put(&mut stage, DRIVE_CHECK, &[0x90, 0x90]);
    stage.truncate(CODE);

    let mut core = read(core)?;
    core.resize(core.len().next_multiple_of(512), 0);
    let length = core.len() as u64 / SECTOR;
    ensure!((2..=sectors).contains(&length), "GRUB's core has {length} sectors, its partition {sectors}");
    put(&mut core, LIST, &(place + 1).to_le_bytes());
    put(&mut core, LIST + 8, &u16::try_from(length - 1)?.to_le_bytes());

    let file = File::options().write(true).open(disk).with_context(|| format!("open {}", disk.display()))?;
    file.write_all_at(&stage, 0)?;
    file.write_all_at(&core, place * SECTOR).with_context(|| format!("write {}", disk.display()))
}

fn read(path: &Path) -> Result<Vec<u8>> {
    fs::read(path).with_context(|| format!("read {}", path.display()))
}

fn put(bytes: &mut [u8], at: usize, what: &[u8]) {
    for (place, byte) in bytes.iter_mut().skip(at).zip(what) {
        *place = *byte;
    }
}
