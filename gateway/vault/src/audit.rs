//! The audit log: who asked for what, one chain of objects for each writer.
//!
//! ```text
//! audit/<writer>/<number of its first record>.json
//! record 1 … n ──SHA-256 of the whole object──> n + 1 … m ──> …      the chain of one writer
//!                        others: the newest object that it knew of every other chain, by its hash
//! ```
//! A writer is a gateway's state directory, so two gateways never wait for each other. An object is a batch of records; it
//! carries a MAC, as every document of the vault, and the hash of the object before it. The chain carries that MAC back:
//! objects that were sealed with a master key of long ago are vouched for by the ones after them, and the end of a
//! chain whose gateway is lost by the chains of others.
//!
//! Nothing here is ever deleted or written again. **Crashes**: an object is there or not; a lost reply is settled by reading
//! back. **A writer that exists twice** (a cloned appliance) finds its number taken and goes on after what is there.
//! **What it can't show**: that the newest records of a chain were cut off, as long as no other chain and no
//! [`AuditHead`] that was noted elsewhere knows of them.

mod verify;

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use aws_lc_rs::digest;
use serde::{Deserialize, Serialize};
use serde_json::Value;

pub use verify::{AuditChain, AuditFinding, AuditReport};

use crate::ambient::Entropy;
use crate::catalog::is_name;
use crate::envelope::{self, Binary};
use crate::error::{VaultError, VaultErrorKind, invalid, tampered};
use crate::masters::Masters;
use crate::once::create_exact;
use crate::store::Store;

const LABEL_MAC: &[u8] = b"lifeboat/v2/audit";
/// Largest object.
const OBJECT_BYTES_MAX: u64 = 1 << 20;
/// Records in an object, at most.
pub(crate) const RECORDS_MAX: usize = 256;
/// Times that a writer finds its number taken before it gives up.
const APPEND_ATTEMPTS: u32 = 16;
/// Other chains that an object names.
const OTHERS_MAX: usize = 64;

/// Where a chain ends, for whoever wants to know later that it was not cut.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuditHead {
    /// Whose chain.
    pub writer: String,
    /// Number of the first record in the newest object.
    pub first: u64,
    /// Number of the newest record.
    pub last: u64,
    /// SHA-256 of the newest object, in hexadecimal.
    pub hash: String,
}

/// The records of one object.
#[derive(Clone, Debug, PartialEq)]
pub struct AuditBatch {
    /// Number of the first of them.
    pub first: u64,
    /// They, in order.
    pub records: Vec<Value>,
}

/// The newest object that was known of a chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Seen {
    first: u64,
    hash: Binary<32>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Content {
    writer: String,
    first: u64,
    /// Hash of the object before it; zeros for the first.
    before: Binary<32>,
    others: BTreeMap<String, Seen>,
    /// Tells two objects apart that say the same.
    nonce: Binary<16>,
    records: Vec<Value>,
}

impl Content {
    fn next(&self) -> u64 {
        self.first.saturating_add(u64::try_from(self.records.len()).unwrap_or(u64::MAX))
    }
}

/// Where a writer goes on.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Tail {
    next: u64,
    newest: Option<Seen>,
}

/// The audit log of a vault. A handle: clones are the same.
#[derive(Clone)]
pub struct AuditLog {
    shared: Arc<Shared>,
}

struct Shared {
    store: Arc<dyn Store>,
    masters: Arc<Masters>,
    entropy: Entropy,
    /// Held while a batch is written: one at a time.
    tails: tokio::sync::Mutex<HashMap<String, Tail>>,
    others: Mutex<BTreeMap<String, Seen>>,
}

impl AuditLog {
    pub(crate) fn new(store: Arc<dyn Store>, masters: Arc<Masters>, entropy: Entropy) -> Self {
        Self {
            shared: Arc::new(Shared { store, masters, entropy, tails: Default::default(), others: Default::default() }),
        }
    }

    /// Writes records, as many objects as they take, and gives where the chain ends then.
    ///
    /// An error of kind [`VaultErrorKind::Retry`] leaves open whether they landed: they may stand there twice after another
    /// attempt, never less than once after a success.
    ///
    /// # Errors
    /// [`VaultErrorKind::InvalidInput`] for a record that is too large or no records, [`VaultErrorKind::Tampered`] when what
    /// the chain ends with isn't what was written there, and what the store says.
    pub async fn append(&self, writer: &str, records: Vec<Value>) -> Result<AuditHead, VaultError> {
        check_writer(writer)?;
        let mut tails = self.shared.tails.lock().await;
        let mut head = None;
        for batch in records.chunks(RECORDS_MAX) {
            head = Some(self.append_one(&mut tails, writer, batch).await?);
        }
        head.ok_or_else(|| invalid("an audit log takes no empty batch"))
    }

    async fn append_one(
        &self,
        tails: &mut HashMap<String, Tail>,
        writer: &str,
        records: &[Value],
    ) -> Result<AuditHead, VaultError> {
        let mut taken = false;
        for _ in 0..APPEND_ATTEMPTS {
            let tail = match tails.remove(writer) {
                Some(tail) => tail,
                None => self.tail(writer, taken).await?,
            };
            let content = Content {
                writer: writer.to_owned(),
                first: tail.next,
                before: tail.newest.map_or(Binary([0; 32]), |seen| seen.hash),
                others: self.others(writer),
                nonce: Binary(self.shared.entropy.array()?),
                records: records.to_vec(),
            };
            let key = object_key(writer, content.first);
            let bytes = self.shared.masters.newest().seal(LABEL_MAC, &key, &content, OBJECT_BYTES_MAX)?;
            let seen = Seen { first: content.first, hash: hash(&bytes) };
            match create_exact(&*self.shared.store, &key, bytes).await {
                Ok(_) => {
                    let head = head(writer, seen, content.next());
                    tails.insert(writer.to_owned(), Tail { next: content.next(), newest: Some(seen) });
                    return Ok(head);
                }
                // Another process with this state, or an attempt of ours whose answer was lost: go on after it.
                Err(error) if error.is_already_exists() => taken = true,
                // Whether it landed is looked for next time.
                Err(error) => return Err(error.into()),
            }
        }
        Err(VaultError::new(
            VaultErrorKind::Retry,
            format!(
                "the audit log of {writer} is being written by another gateway all the time: is its state directory in use twice?"
            ),
        ))
    }

    /// Where a chain ends; none if there is no such chain.
    ///
    /// # Errors
    /// [`VaultErrorKind::Tampered`] when its newest object isn't what was written there, and what the store says.
    pub async fn head(&self, writer: &str) -> Result<Option<AuditHead>, VaultError> {
        check_writer(writer)?;
        let tail = self.tail(writer, false).await?;
        Ok(tail.newest.map(|seen| head(writer, seen, tail.next)))
    }

    /// Goes on after this record, whatever is there: what is missing then shows as missing.
    ///
    /// # Errors
    /// [`VaultErrorKind::InvalidInput`] for what is no head.
    pub async fn go_on_after(&self, known: &AuditHead) -> Result<(), VaultError> {
        check_writer(&known.writer)?;
        let newest = Seen { first: known.first, hash: parse_hash(&known.hash)? };
        let tail = Tail { next: known.last.saturating_add(1), newest: Some(newest) };
        self.shared.tails.lock().await.insert(known.writer.clone(), tail);
        Ok(())
    }

    /// Takes note of where the chains of others end: what is written from now on vouches for them.
    ///
    /// # Errors
    /// What the store says; one that can't be read is left as it was known.
    pub async fn note_others(&self, own: &str) -> Result<(), VaultError> {
        for writer in self.writers().await? {
            if writer == own {
                continue;
            }
            match self.tail(&writer, false).await {
                Ok(Tail { newest: Some(seen), .. }) => {
                    let mut others = self.shared.others.lock().unwrap_or_else(PoisonError::into_inner);
                    if others.len() < OTHERS_MAX || others.contains_key(&writer) {
                        others.insert(writer, seen);
                    }
                }
                Ok(_) => {}
                Err(error) if error.kind() == VaultErrorKind::Retry => return Err(error),
                Err(error) => tracing::warn!(%error, chain = writer, "the end of an audit chain can't be vouched for"),
            }
        }
        Ok(())
    }

    /// Whose chains there are.
    ///
    /// # Errors
    /// What the store says.
    pub async fn writers(&self) -> Result<Vec<String>, VaultError> {
        let mut found = self.shared.store.list_dirs("audit").await?;
        found.retain(|name| is_name(name));
        Ok(found)
    }

    /// The objects of a chain, oldest first, by the numbers of their first records.
    ///
    /// # Errors
    /// What the store says.
    pub async fn objects(&self, writer: &str) -> Result<Vec<u64>, VaultError> {
        check_writer(writer)?;
        let listed = self.shared.store.list(&format!("audit/{writer}")).await?;
        let mut found: Vec<u64> = listed.iter().filter_map(|object| first_of(writer, &object.key)).collect();
        found.sort_unstable();
        Ok(found)
    }

    /// The records of one object, which was written there: by its MAC, or, when its master key was replaced long ago, by its sum
    /// alone ([`Self::verify`] says whether the chain vouches for it).
    ///
    /// # Errors
    /// [`VaultErrorKind::NotFound`], [`VaultErrorKind::Tampered`], and what the store says.
    pub async fn read(&self, writer: &str, first: u64) -> Result<AuditBatch, VaultError> {
        check_writer(writer)?;
        let (content, _, _) = self.fetch(writer, first).await?;
        Ok(AuditBatch { first: content.first, records: content.records })
    }

    /// Content, hash, and whether the MAC proves it.
    async fn fetch(&self, writer: &str, first: u64) -> Result<(Content, Binary<32>, bool), VaultError> {
        let key = object_key(writer, first);
        let bytes = self.shared.store.get(&key, OBJECT_BYTES_MAX).await?;
        let (content, proved) = self.open(writer, first, &key, &bytes).await?;
        Ok((content, hash(&bytes), proved))
    }

    async fn open(&self, writer: &str, first: u64, key: &str, bytes: &[u8]) -> Result<(Content, bool), VaultError> {
        let opened = envelope::open(bytes, key)?;
        let masters = &self.shared.masters;
        let outdated = opened.master < masters.newest().number && masters.get(opened.master).is_none();
        let content = match outdated {
            true => opened.content::<Content>(key)?,
            false => masters.open::<Content>(LABEL_MAC, key, bytes).await?.content,
        };
        if content.writer != writer || content.first != first || content.records.is_empty() {
            return Err(tampered(format!("{key} holds another part of the audit log; restore the object")));
        }
        Ok((content, !outdated))
    }

    /// Proves the object `key`, and gives the number of its first record. None when no part of the log has such a name.
    pub(crate) async fn check(&self, key: &str, bytes: &[u8]) -> Result<Option<u64>, VaultError> {
        let Some((writer, first)) = named(key) else { return Ok(None) };
        self.open(writer, first, key, bytes).await.map(|_| Some(first))
    }

    /// Where a chain ends by what is there. `proved`: nothing may go on after what only a replaced master key vouches for, since
    /// it has appeared just now.
    async fn tail(&self, writer: &str, proved: bool) -> Result<Tail, VaultError> {
        let Some(newest) = self.objects(writer).await?.pop() else { return Ok(Tail { next: 1, newest: None }) };
        let (content, hash, by_mac) = self.fetch(writer, newest).await?;
        if proved && !by_mac {
            let key = object_key(writer, newest);
            return Err(tampered(format!(
                "{key} appeared in the audit log, sealed with a master key that was replaced: somebody who had that key put it                  there; move it out of the vault and keep it"
            )));
        }
        Ok(Tail { next: content.next(), newest: Some(Seen { first: newest, hash }) })
    }

    fn others(&self, writer: &str) -> BTreeMap<String, Seen> {
        let mut others = self.shared.others.lock().unwrap_or_else(PoisonError::into_inner).clone();
        others.remove(writer);
        others
    }

    /// Whether an object of the audit log may have such a name.
    #[must_use]
    pub fn is_object(key: &str) -> bool {
        named(key).is_some()
    }
}

impl fmt::Debug for AuditLog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AuditLog").field("store", &self.shared.store).finish_non_exhaustive()
    }
}

fn head(writer: &str, seen: Seen, next: u64) -> AuditHead {
    AuditHead { writer: writer.to_owned(), first: seen.first, last: next.saturating_sub(1), hash: hex(&seen.hash) }
}

fn object_key(writer: &str, first: u64) -> String {
    format!("audit/{writer}/{first:012}.json")
}

fn first_of(writer: &str, key: &str) -> Option<u64> {
    let first: u64 = key.rsplit_once('/')?.1.strip_suffix(".json")?.parse().ok()?;
    (first > 0 && object_key(writer, first) == key).then_some(first)
}

/// Writer and number in the name of any object of the log.
fn named(key: &str) -> Option<(&str, u64)> {
    let (writer, _) = key.strip_prefix("audit/")?.split_once('/')?;
    is_name(writer).then_some((writer, first_of(writer, key)?))
}

fn check_writer(text: &str) -> Result<(), VaultError> {
    if is_name(text) {
        return Ok(());
    }
    Err(invalid(format!("{text:?} can't have an audit log: 1 to 64 lower-case letters, digits and hyphens can")))
}

fn hash(bytes: &[u8]) -> Binary<32> {
    let mut out = [0; 32];
    out.copy_from_slice(digest::digest(&digest::SHA256, bytes).as_ref());
    Binary(out)
}

fn hex(hash: &Binary<32>) -> String {
    hash.0.iter().fold(String::with_capacity(64), |mut text, byte| {
        text += &format!("{byte:02x}");
        text
    })
}

fn parse_hash(text: &str) -> Result<Binary<32>, VaultError> {
    let no_hash = || invalid(format!("{text:?} is no SHA-256 in hexadecimal"));
    if text.len() != 64 || !text.is_ascii() {
        return Err(no_hash());
    }
    let mut out = [0; 32];
    for (at, byte) in out.iter_mut().enumerate() {
        let pair = text.get(at * 2..at * 2 + 2).ok_or_else(no_hash)?;
        *byte = u8::from_str_radix(pair, 16).map_err(|_| no_hash())?;
    }
    Ok(Binary(out))
}

#[cfg(test)]
mod tests;
