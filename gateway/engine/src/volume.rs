//! What a front end (FUSE, NBD) sees: a volume of bytes.

use async_trait::async_trait;
use bytes::Bytes;

use crate::error::Result;

/// A volume as a front end sees it: a fixed number of bytes that can be read, and written unless it is read-only.
///
/// Offsets and lengths are in bytes and need no alignment. Every method may be called from many tasks at a time; writes
/// that overlap and run at the same time land in one order or the other, never mixed within a block.
#[async_trait]
pub trait BlockVolume: Send + Sync + std::fmt::Debug {
    /// Size in bytes, a multiple of the block size. Grows when the volume is grown.
    fn size_bytes(&self) -> u64;

    /// Whether every write is refused: a recovery point, or a volume whose writer is elsewhere.
    fn read_only(&self) -> bool;

    /// Reads `len` bytes at `offset`; shorter only at the volume's end.
    ///
    /// # Errors
    /// `Damaged` when the disk fails, `Retry` when the vault cannot be reached, `Tampered` when its data fails its checks.
    async fn read(&self, offset: u64, len: u32) -> Result<Bytes>;

    /// Writes `data` at `offset`. When it returns the write survives the end of this process; [`Self::flush`] makes it
    /// survive the loss of power.
    ///
    /// # Errors
    /// `Invalid` past the end, `Fenced` when read-only, `NoSpace`, `Damaged`.
    async fn write(&self, offset: u64, data: Bytes) -> Result<()>;

    /// Makes every write acknowledged so far survive the loss of power.
    ///
    /// # Errors
    /// `Damaged` when the journal's disk failed: the group is poisoned, and nothing more is acknowledged.
    async fn flush(&self) -> Result<()>;

    /// The range reads as zeroes from here on. `trim`: the caller no longer uses it, so that its space may be given back.
    ///
    /// # Errors
    /// As for [`Self::write`].
    async fn zero(&self, offset: u64, len: u64, trim: bool) -> Result<()>;
}
