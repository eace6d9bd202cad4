//! Stream-optimised VMDK: the disk as compressed grains, with what is needed to find them at the end.
//!
//! ```text
//! header │ descriptor │ grain marker, zlib … │ table marker, table │ … │ directory marker, directory │ footer marker, footer │ end
//! 512 B    to 64 KiB     whole sectors each     2 KiB each             4 B for each table               512 B
//! ```
//!
//! "VMware Virtual Disk Format 1.1", sections "Stream-Optimized Compressed Sparse Extents". The header says that the directory is at
//! the end; the footer is the header again, with its place. Grains of zeros are left out, and so are tables without grains. The content
//! identifier comes from the content, so that the same disk is the same file.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;

use anyhow::{Context, Result, ensure};
use flate2::Compression;
use flate2::write::ZlibEncoder;

use crate::{SECTOR, fill, hex, sha256};

/// Bytes of a grain.
const GRAIN: usize = 64 << 10;
const GRAIN_SECTORS: u64 = 128;
/// Grains that a table has.
const TABLE_GRAINS: usize = TABLE_ENTRIES as usize;
const TABLE_ENTRIES: u32 = 512;
/// Sectors before the first grain.
const OVERHEAD: u64 = 128;
const DESCRIPTOR_SECTORS: u64 = 20;
/// The directory's place, when it is at the end.
const AT_END: u64 = u64::MAX;
/// Newlines are checked, grains are compressed, markers are there.
const FLAGS: u32 = 1 | 1 << 16 | 1 << 17;

/// What follows a marker.
#[derive(Clone, Copy)]
enum Marker {
    End = 0,
    Table = 1,
    Directory = 2,
    Footer = 3,
}

/// Writes the disk of the raw file `from` to `to`; returns the bytes that grains hold, which an OVF calls populated.
///
/// # Errors
/// The disk is no whole number of sectors or larger than a table of 32 bit places reaches, or a file can't be read or written.
pub fn write(from: &Path, to: &Path) -> Result<u64> {
    let sum = sha256(from)?;
    let mut disk = File::open(from).with_context(|| format!("open {}", from.display()))?;
    let bytes = disk.metadata()?.len();
    ensure!(bytes > 0 && bytes.is_multiple_of(SECTOR), "{} has {bytes} bytes: no whole sectors", from.display());
    let name = to.file_name().unwrap_or_default().to_string_lossy();
    let capacity = bytes / SECTOR;
    let file = File::create(to).with_context(|| format!("create {}", to.display()))?;
    let mut out = Counted { out: BufWriter::with_capacity(1 << 20, file), bytes: 0 };
    out.put(&header(capacity, AT_END))?;
    out.put(&descriptor(capacity, &sum, &name)?)?;
    out.pad_to(OVERHEAD * SECTOR)?;

    let (mut grain, mut at, mut populated) = (vec![0; GRAIN], 0_u64, 0_u64);
    let (mut table, mut directory) = (Vec::with_capacity(TABLE_GRAINS), Vec::new());
    loop {
        let length = fill(&mut disk, &mut grain).with_context(|| format!("read {}", from.display()))?;
        if length > 0 {
            grain.get_mut(length..).unwrap_or_default().fill(0);
            if grain.iter().all(|byte| *byte == 0) {
                table.push(0);
            } else {
                table.push(out.sector()?);
                out.grain(at, &grain)?;
                populated += GRAIN as u64;
            }
            at += GRAIN_SECTORS;
        }
        if table.len() == TABLE_GRAINS || (length < GRAIN && !table.is_empty()) {
            directory.push(out.table(&mut table)?);
        }
        if length < GRAIN {
            break;
        }
    }

    let entries: Vec<u8> = directory.iter().flat_map(|place: &u32| place.to_le_bytes()).collect();
    out.marker((entries.len() as u64).div_ceil(SECTOR), Marker::Directory)?;
    let place = u64::from(out.sector()?);
    out.put(&entries)?;
    out.pad()?;
    out.marker(1, Marker::Footer)?;
    out.put(&header(capacity, place))?;
    out.marker(0, Marker::End)?;
    out.out.flush().with_context(|| format!("write {}", to.display()))?;
    Ok(populated)
}

/// The header, which is the footer too. Numbers are little-endian.
fn header(capacity: u64, directory: u64) -> Vec<u8> {
    let mut header = Vec::with_capacity(512);
    header.extend(b"KDMV");
    header.extend(3_u32.to_le_bytes());
    header.extend(FLAGS.to_le_bytes());
    for number in [capacity.next_multiple_of(GRAIN_SECTORS), GRAIN_SECTORS, 1, DESCRIPTOR_SECTORS] {
        header.extend(number.to_le_bytes());
    }
    header.extend(TABLE_ENTRIES.to_le_bytes());
    for number in [0, directory, OVERHEAD] {
        header.extend(number.to_le_bytes());
    }
    // Shut down cleanly; the newlines that a transfer as text would change; deflate.
    header.extend(b"\0\n \r\n");
    header.extend(1_u16.to_le_bytes());
    header.resize(512, 0);
    header
}

fn descriptor(capacity: u64, sum: &[u8; 32], name: &str) -> Result<Vec<u8>> {
    // All ones mean "no parent", and 0 is what some readers take for "not set".
    let cid = match hex(&sum[..4]).as_str() {
        "ffffffff" | "00000000" => "4c424f54".to_owned(),
        digits => digits.to_owned(),
    };
    let capacity = capacity.next_multiple_of(GRAIN_SECTORS);
    let text = format!(
        "# Disk DescriptorFile\nversion=1\nCID={cid}\nparentCID=ffffffff\ncreateType=\"streamOptimized\"\n\n\
         # Extent description\nRW {capacity} SPARSE \"{name}\"\n\n\
         # The Disk Data Base\n#DDB\n\nddb.adapterType = \"lsilogic\"\nddb.geometry.cylinders = \"{}\"\n\
         ddb.geometry.heads = \"255\"\nddb.geometry.sectors = \"63\"\nddb.longContentID = \"{}\"\n\
         ddb.virtualHWVersion = \"13\"\n",
        capacity.div_ceil(255 * 63),
        hex(&sum[..16]),
    );
    ensure!(text.len() as u64 <= DESCRIPTOR_SECTORS * SECTOR, "the name {name:?} is too long for a descriptor");
    Ok(text.into_bytes())
}

/// What is written, and how much of it there is.
struct Counted<W: Write> {
    out: W,
    bytes: u64,
}

impl<W: Write> Counted<W> {
    fn put(&mut self, bytes: &[u8]) -> Result<()> {
        self.out.write_all(bytes).context("write the VMDK")?;
        self.bytes += bytes.len() as u64;
        Ok(())
    }

    fn pad_to(&mut self, place: u64) -> Result<()> {
        let missing = usize::try_from(place.saturating_sub(self.bytes))?;
        self.put(&vec![0; missing])
    }

    fn pad(&mut self) -> Result<()> {
        self.pad_to(self.bytes.next_multiple_of(SECTOR))
    }

    /// Where it is, in sectors.
    fn sector(&self) -> Result<u32> {
        u32::try_from(self.bytes / SECTOR).context("the disk's content is too large for one VMDK: 2 TiB")
    }

    fn grain(&mut self, at: u64, grain: &[u8]) -> Result<()> {
        let mut encoder = ZlibEncoder::new(Vec::with_capacity(GRAIN), Compression::best());
        encoder.write_all(grain)?;
        let packed = encoder.finish()?;
        self.put(&at.to_le_bytes())?;
        self.put(&u32::try_from(packed.len())?.to_le_bytes())?;
        self.put(&packed)?;
        self.pad()
    }

    /// Ends a table; its place, 0 for one that has no grain.
    fn table(&mut self, table: &mut Vec<u32>) -> Result<u32> {
        if table.iter().all(|place| *place == 0) {
            table.clear();
            return Ok(0);
        }
        table.resize(TABLE_GRAINS, 0);
        self.marker((TABLE_GRAINS as u64 * 4).div_ceil(SECTOR), Marker::Table)?;
        let place = self.sector()?;
        let entries: Vec<u8> = table.drain(..).flat_map(u32::to_le_bytes).collect();
        self.put(&entries)?;
        Ok(place)
    }

    fn marker(&mut self, sectors: u64, what: Marker) -> Result<()> {
        self.put(&sectors.to_le_bytes())?;
        self.put(&0_u32.to_le_bytes())?;
        self.put(&(what as u32).to_le_bytes())?;
        self.pad()
    }
}
