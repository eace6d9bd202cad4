//! An image in parts: file systems end a file long before a volume ends. ext4 does so at 16 TiB.
//!
//! ```text
//! NAME       the first PART_BYTES
//! NAME.1     the next, and so on; each but the last is as long as a part
//! ```
//! A growth makes the last part as long as a part before it makes the next, and shrinking takes parts away from the end: what
//! a crash leaves is a shorter image, or a part that is too short and grows when the image is opened.

use std::io;
use std::sync::Arc;

use crate::disk::{Disk, DiskFile, Io};
use crate::sync::Lock;

/// Bytes of every part but the last: what a file of ext4 can have, and room to spare.
pub(super) const PART_BYTES: u64 = 15 << 40;

/// The file of an image, however many files it is.
#[derive(Debug)]
pub(super) struct Parts {
    disk: Arc<dyn Disk>,
    name: String,
    part_bytes: u64,
    first: Arc<dyn DiskFile>,
    more: Lock<Vec<Arc<dyn DiskFile>>>,
}

/// The name of a part.
fn part_name(name: &str, number: u64) -> String {
    if number == 0 { name.to_owned() } else { format!("{name}.{number}") }
}

impl Parts {
    /// Opens the parts that there are, as they are; with `create`, an empty first one is made when there is none.
    pub(super) fn open(disk: &Arc<dyn Disk>, name: &str, create: bool, part_bytes: u64) -> io::Result<Self> {
        let first = disk.open(name, create, Io::Buffered)?;
        let mut more: Vec<Arc<dyn DiskFile>> = Vec::new();
        loop {
            match disk.open(&part_name(name, more.len() as u64 + 1), false, Io::Buffered) {
                Ok(part) => more.push(part),
                Err(error) if error.kind() == io::ErrorKind::NotFound => break,
                Err(error) => return Err(error),
            }
        }
        Ok(Self { disk: Arc::clone(disk), name: name.to_owned(), part_bytes, first, more: Lock::new(more) })
    }

    /// Makes parts as long as they have to be where a growth was interrupted.
    pub(super) fn mend(self) -> io::Result<Self> {
        let more = self.more.lock();
        let last = more.len();
        for part in std::iter::once(&self.first).chain(&*more).take(last) {
            if part.len()? < self.part_bytes {
                part.set_len(self.part_bytes)?;
            }
        }
        drop(more);
        Ok(self)
    }

    /// Removes every part.
    pub(super) fn remove(disk: &Arc<dyn Disk>, name: &str) -> io::Result<()> {
        let prefix = format!("{name}.");
        let mut numbers: Vec<u64> =
            disk.list()?.iter().filter_map(|found| found.strip_prefix(&prefix)?.parse().ok()).collect();
        numbers.sort_unstable();
        // From the end: a crash leaves a shorter image.
        numbers.into_iter().rev().chain([0]).try_for_each(|number| disk.remove(&part_name(name, number)))
    }

    fn part(&self, number: u64) -> io::Result<Arc<dyn DiskFile>> {
        if number == 0 {
            return Ok(Arc::clone(&self.first));
        }
        let more = self.more.lock();
        let found = usize::try_from(number - 1).ok().and_then(|at| more.get(at)).cloned();
        found.ok_or_else(|| io::Error::new(io::ErrorKind::UnexpectedEof, "past the image's last part"))
    }

    /// Calls `each` for the piece of a range in every part that it touches: the part, offset and length in it, and where the
    /// piece begins in the range.
    fn split(
        &self,
        offset: u64,
        len: u64,
        mut each: impl FnMut(&dyn DiskFile, u64, u64, u64) -> io::Result<()>,
    ) -> io::Result<()> {
        let mut done = 0;
        while done < len {
            let at = offset + done;
            let inside = at % self.part_bytes;
            let piece = (len - done).min(self.part_bytes - inside);
            each(&*self.part(at / self.part_bytes)?, inside, piece, done)?;
            done += piece;
        }
        Ok(())
    }

    /// Whether a range lies in the first part: that of nearly every image is all of it.
    const fn is_in_first(&self, offset: u64, len: usize) -> bool {
        offset.saturating_add(len as u64) <= self.part_bytes
    }
}

fn range(begin: u64, len: u64) -> std::ops::Range<usize> {
    let begin = usize::try_from(begin).unwrap_or(usize::MAX);
    begin..begin.saturating_add(usize::try_from(len).unwrap_or(usize::MAX))
}

impl DiskFile for Parts {
    fn len(&self) -> io::Result<u64> {
        let more = self.more.lock();
        let last = more.last().unwrap_or(&self.first);
        Ok(more.len() as u64 * self.part_bytes + last.len()?)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let last = len.saturating_sub(1) / self.part_bytes;
        let mut more = self.more.lock();
        let mut changed = false;
        while more.len() as u64 > last {
            self.disk.remove(&part_name(&self.name, more.len() as u64))?;
            more.pop();
            changed = true;
        }
        while (more.len() as u64) < last {
            more.last().unwrap_or(&self.first).set_len(self.part_bytes)?;
            let name = part_name(&self.name, more.len() as u64 + 1);
            more.push(self.disk.open(&name, true, Io::Buffered)?);
            changed = true;
        }
        more.last().unwrap_or(&self.first).set_len(len - last * self.part_bytes)?;
        if changed { self.disk.sync_names() } else { Ok(()) }
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        if self.is_in_first(offset, buf.len()) {
            return self.first.read_at(buf, offset);
        }
        self.split(offset, buf.len() as u64, |part, inside, len, at| part.read_at(&mut buf[range(at, len)], inside))
    }

    fn read_at_once(&self, buf: &mut [u8], offset: u64) -> io::Result<bool> {
        if self.is_in_first(offset, buf.len()) {
            return self.first.read_at_once(buf, offset);
        }
        let mut whole = true;
        self.split(offset, buf.len() as u64, |part, inside, len, at| {
            whole = whole && part.read_at_once(&mut buf[range(at, len)], inside)?;
            Ok(())
        })?;
        Ok(whole)
    }

    fn write_at(&self, data: &[u8], offset: u64) -> io::Result<()> {
        if self.is_in_first(offset, data.len()) {
            return self.first.write_at(data, offset);
        }
        self.split(offset, data.len() as u64, |part, inside, len, at| part.write_at(&data[range(at, len)], inside))
    }

    fn punch(&self, offset: u64, len: u64) -> io::Result<()> {
        self.split(offset, len, |part, inside, len, _| part.punch(inside, len))
    }

    fn sync(&self) -> io::Result<()> {
        self.first.sync()?;
        let more = self.more.lock().clone();
        more.iter().try_for_each(|part| part.sync())
    }

    fn each_data(&self, each: &mut dyn FnMut(u64, u64)) -> io::Result<()> {
        let more = self.more.lock().clone();
        for (number, part) in (0..).zip(std::iter::once(&self.first).chain(&more)) {
            part.each_data(&mut |offset, len| each(number * self.part_bytes + offset, len))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::LocalDisk;

    const PART: u64 = 64 << 10;

    fn disk() -> (tempfile::TempDir, Arc<dyn Disk>) {
        let dir = tempfile::tempdir().expect("a directory");
        let disk = LocalDisk::open(dir.path()).expect("opens");
        (dir, disk)
    }

    #[test]
    fn an_image_in_parts_is_like_one_in_one_file() {
        let (_dir, disk) = disk();
        let parts = Parts::open(&disk, "v.img", true, PART).expect("makes it");
        let plain = disk.open("plain", true, Io::Buffered).expect("makes it");
        let files: [&dyn DiskFile; 2] = [&parts, &*plain];
        let len = 3 * PART + 8192;
        for file in files {
            file.set_len(len).expect("grows");
            assert_eq!(file.len().expect("tells"), len);
            // Across one border, across two, at the very end.
            file.write_at(&[1; 8192], PART - 4096).expect("writes");
            file.write_at(&vec![2; usize::try_from(PART).expect("small") + 8192], 2 * PART - 4096).expect("writes");
            file.write_at(&[3; 4096], len - 4096).expect("writes");
            file.punch(3 * PART - 8192, 12_288).expect("punches");
            file.sync().expect("syncs");
        }
        let content = |file: &dyn DiskFile| {
            let mut all = vec![0xee; usize::try_from(len).expect("small")];
            file.read_at(&mut all, 0).expect("reads");
            all
        };
        assert!(content(&parts) == content(&*plain));
        let mut at_once = vec![0xee; 8192];
        if parts.read_at_once(&mut at_once, PART - 4096).expect("reads") {
            assert_eq!(at_once, [1; 8192]);
        }
        assert_eq!(disk.list().expect("lists"), ["plain", "v.img", "v.img.1", "v.img.2", "v.img.3"]);
        assert!(parts.read_at(&mut [0; 4096], len).is_err(), "past the end");
        let mut data = 0;
        parts.each_data(&mut |offset, len| data = data.max(offset + len)).expect("looks");
        assert_eq!(data, len, "the last block holds data");

        let again = Parts::open(&disk, "v.img", false, PART).expect("opens");
        assert!(content(&again) == content(&*plain));
        again.set_len(PART).expect("shrinks");
        assert_eq!((again.len().expect("tells"), disk.list().expect("lists").len()), (PART, 2));
        again.set_len(2 * PART).expect("grows");
        let mut back = vec![0xee; 8192];
        again.read_at(&mut back, PART).expect("reads");
        assert_eq!(back, [0; 8192], "what was cut off is gone");
        Parts::remove(&disk, "v.img").expect("removes");
        assert_eq!(disk.list().expect("lists"), ["plain"]);
        Parts::remove(&disk, "v.img").expect("nothing to remove is fine");
    }

    #[test]
    fn a_part_that_a_crash_left_too_short_is_mended() {
        let (_dir, disk) = disk();
        disk.open("v.img", true, Io::Buffered).and_then(|file| file.set_len(4096)).expect("makes it");
        disk.open("v.img.1", true, Io::Buffered).and_then(|file| file.set_len(4096)).expect("makes it");
        let parts = Parts::open(&disk, "v.img", false, PART).expect("opens");
        assert!(parts.read_at(&mut [0; 8192], PART - 4096).is_err(), "it is as it is");
        let parts = parts.mend().expect("mends");
        assert_eq!(parts.len().expect("tells"), PART + 4096);
        parts.read_at(&mut [0; 8192], PART - 4096).expect("reads across");
    }
}
