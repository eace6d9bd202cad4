//! An OVA: a tape archive (POSIX.1-1988 "ustar") of an OVF package, and the manifest in it.
//!
//! DSP0243 1.1.0, 5.3 and 5.1: the descriptor comes first, the manifest next, then the files in the order of the descriptor. A line of
//! the manifest is `SHA256(name)= digits`. Owner, mode and time are the same for everybody.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use aws_lc_rs::digest;

use crate::{hex, sha256};

const BLOCK: u64 = 512;
/// What archives are filled up to, as tar does it.
const RECORD: u64 = 20 * BLOCK;
/// Largest file that a header's eleven octal digits can tell.
const FILE_BYTES_MAX: u64 = (8 << 30) - 1;

/// Writes `NAME.ovf` with this text, its manifest and these files into the archive `to`; `time` is in seconds since 1970.
///
/// # Errors
/// A file is too large or its name too long for an archive, or can't be read or written.
pub fn write(to: &Path, name: &str, descriptor: &str, files: &[PathBuf], time: u64) -> Result<()> {
    let names: Vec<String> =
        files.iter().map(|file| file.file_name().unwrap_or_default().to_string_lossy().into_owned()).collect();
    let mut manifest = line(&format!("{name}.ovf"), digest::digest(&digest::SHA256, descriptor.as_bytes()).as_ref());
    for (file, name) in files.iter().zip(&names) {
        manifest += &line(name, &sha256(file)?);
    }
    let file = File::create(to).with_context(|| format!("create {}", to.display()))?;
    let mut archive = Archive { out: BufWriter::new(file), bytes: 0, time };
    archive.entry(&format!("{name}.ovf"), descriptor.len() as u64, &mut descriptor.as_bytes())?;
    archive.entry(&format!("{name}.mf"), manifest.len() as u64, &mut manifest.as_bytes())?;
    for (path, name) in files.iter().zip(&names) {
        let mut file = File::open(path).with_context(|| format!("open {}", path.display()))?;
        let bytes = file.metadata()?.len();
        archive.entry(name, bytes, &mut file)?;
    }
    archive.finish().with_context(|| format!("write {}", to.display()))
}

fn line(name: &str, sum: &[u8]) -> String {
    format!("SHA256({name})= {}\n", hex(sum))
}

struct Archive<W: Write> {
    out: W,
    bytes: u64,
    time: u64,
}

impl<W: Write> Archive<W> {
    fn entry(&mut self, name: &str, bytes: u64, content: &mut impl io::Read) -> Result<()> {
        self.out.write_all(&header(name, bytes, self.time)?)?;
        let copied = io::copy(content, &mut self.out)?;
        ensure!(copied == bytes, "{name} changed while it was packed");
        self.bytes += BLOCK + bytes;
        self.pad(BLOCK)?;
        Ok(())
    }

    fn pad(&mut self, unit: u64) -> io::Result<()> {
        let missing = self.bytes.next_multiple_of(unit) - self.bytes;
        self.bytes += missing;
        self.out.write_all(&vec![0; usize::try_from(missing).unwrap_or_default()])
    }

    fn finish(mut self) -> io::Result<()> {
        self.out.write_all(&[0; 2 * 512])?;
        self.bytes += 2 * BLOCK;
        self.pad(RECORD)?;
        self.out.flush()
    }
}

fn header(name: &str, bytes: u64, time: u64) -> Result<[u8; 512]> {
    ensure!(name.len() < 100, "{name:?} is longer than the 99 bytes of a name in an archive");
    ensure!(bytes <= FILE_BYTES_MAX, "{name} has {bytes} bytes: more than the 8 GiB of a file in an archive");
    let mut header = [0; 512];
    let mut put = |at: usize, text: &[u8]| {
        for (place, byte) in header.iter_mut().skip(at).zip(text) {
            *place = *byte;
        }
    };
    put(0, name.as_bytes());
    put(100, b"0000644\0");
    put(108, b"0000000\0");
    put(116, b"0000000\0");
    put(124, format!("{bytes:011o}\0").as_bytes());
    put(136, format!("{time:011o}\0").as_bytes());
    put(148, b"        ");
    put(156, b"0");
    put(257, b"ustar\x0000");
    put(265, b"root");
    put(297, b"root");
    put(329, b"0000000\0");
    put(337, b"0000000\0");
    let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
    for (place, byte) in header.iter_mut().skip(148).zip(format!("{sum:06o}\0 ").bytes()) {
        *place = byte;
    }
    Ok(header)
}
