//! Bytes of a simulated file: sparse pages, shared between the copies of a disk until one of them changes.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::{Change, SECTOR};

/// Bytes of one page.
pub(super) const PAGE: u64 = 4096;

type Page = [u8; 4096];
static ZEROES: Page = [0; 4096];

/// What a file holds; absent pages are zero, and nothing but zero lies behind the length.
#[derive(Clone, Debug, Default)]
pub(super) struct Content {
    pages: Arc<BTreeMap<u64, Arc<Page>>>,
    len: u64,
}

/// Simulated files are small.
pub(super) fn index(value: u64) -> usize {
    usize::try_from(value).unwrap_or(usize::MAX)
}

impl Content {
    pub(super) const fn len(&self) -> u64 {
        self.len
    }

    /// Fills `buf`; zeroes where nothing is.
    pub(super) fn read(&self, buf: &mut [u8], offset: u64) {
        let mut at = 0;
        while at < buf.len() {
            let position = offset + at as u64;
            let within = index(position % PAGE);
            let step = (4096 - within).min(buf.len() - at);
            match self.pages.get(&(position / PAGE)) {
                Some(page) => buf[at..at + step].copy_from_slice(&page[within..within + step]),
                None => buf[at..at + step].fill(0),
            }
            at += step;
        }
    }

    pub(super) fn write(&mut self, data: &[u8], offset: u64) {
        let pages = Arc::make_mut(&mut self.pages);
        let mut at = 0;
        while at < data.len() {
            let position = offset + at as u64;
            let within = index(position % PAGE);
            let step = (4096 - within).min(data.len() - at);
            let part = &data[at..at + step];
            if part == ZEROES {
                pages.remove(&(position / PAGE));
            } else {
                let page = pages.entry(position / PAGE).or_insert_with(|| Arc::new([0; 4096]));
                Arc::make_mut(page)[within..within + step].copy_from_slice(part);
            }
            at += step;
        }
        self.len = self.len.max(offset + data.len() as u64);
    }

    /// Zeroes a range within the length.
    pub(super) fn punch(&mut self, offset: u64, len: u64) {
        let end = (offset + len).min(self.len);
        let pages = Arc::make_mut(&mut self.pages);
        let mut at = offset;
        while at < end {
            let within = index(at % PAGE);
            let step = (PAGE - at % PAGE).min(end - at);
            if step == PAGE {
                pages.remove(&(at / PAGE));
            } else if let Some(page) = pages.get_mut(&(at / PAGE)) {
                Arc::make_mut(page)[within..within + index(step)].fill(0);
            }
            at += step;
        }
    }

    pub(super) fn set_len(&mut self, len: u64) {
        if len < self.len {
            self.punch(len, self.len - len);
        }
        self.len = len;
    }

    pub(super) fn apply(&mut self, change: &Change) {
        match change {
            Change::Write { offset, data } => self.write(data, *offset),
            Change::Punch { offset, len } => self.punch(*offset, *len),
            Change::SetLen(len) => self.set_len(*len),
        }
    }

    /// Applies those sectors of a change that `survives` keeps. A length survives or not as a whole.
    pub(super) fn apply_sectors(&mut self, change: &Change, mut survives: impl FnMut() -> bool) {
        match change {
            Change::Write { offset, data } => {
                let mut at = 0;
                while at < data.len() {
                    let step = index(SECTOR - (offset + at as u64) % SECTOR).min(data.len() - at);
                    if survives() {
                        self.write(&data[at..at + step], offset + at as u64);
                    }
                    at += step;
                }
            }
            Change::Punch { offset, len } => {
                let end = offset + len;
                let mut at = *offset;
                while at < end {
                    let step = (SECTOR - at % SECTOR).min(end - at);
                    if survives() {
                        self.punch(at, step);
                    }
                    at += step;
                }
            }
            Change::SetLen(len) => {
                if survives() {
                    self.set_len(*len);
                }
            }
        }
    }
}
