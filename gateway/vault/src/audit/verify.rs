//! Is the audit log whole, in order and as it was written? Reads only.
//!
//! Each object is held against its MAC, its place and the hash that the object after it names. A MAC of a replaced master key
//! can't be proved any more; then the object is as good as the one after it, or as another chain that names its hash.

use std::collections::{BTreeMap, BTreeSet};

use futures::StreamExt;
use serde::Serialize;

use super::{AuditHead, AuditLog, Content, Seen, head, object_key, parse_hash};
use crate::envelope::Binary;
use crate::error::{VaultError, VaultErrorKind};

/// Objects read at a time.
const READS: usize = 8;

/// One writer's chain.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct AuditChain {
    /// Whose.
    pub writer: String,
    /// Objects that are there.
    pub objects: u64,
    /// Records in those that can be read.
    pub records: u64,
    /// Where it ends: worth noting somewhere else.
    pub head: Option<AuditHead>,
}

/// Something that isn't as it was written.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct AuditFinding {
    /// The object.
    pub object: String,
    /// What is wrong with it.
    pub what: String,
}

/// What a verification found.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct AuditReport {
    /// The chains.
    pub chains: Vec<AuditChain>,
    /// What isn't as it was written.
    pub findings: Vec<AuditFinding>,
}

/// What is kept of an object that can be read.
struct Link {
    first: u64,
    next: u64,
    hash: Binary<32>,
    before: Binary<32>,
    /// Whether its MAC proves it.
    proved: bool,
    others: BTreeMap<String, Seen>,
}

impl Link {
    fn of((content, hash, proved): (Content, Binary<32>, bool)) -> Self {
        let next = content.next();
        Self { first: content.first, next, hash, before: content.before, proved, others: content.others }
    }
}

struct Chain {
    writer: String,
    objects: u64,
    /// In order; damaged ones are missing.
    links: Vec<Link>,
}

impl AuditLog {
    /// Verifies every chain; `expected` are heads that were noted earlier, and that must be there still.
    ///
    /// # Errors
    /// What the store says: then nothing is known.
    pub async fn verify(&self, expected: &[AuditHead]) -> Result<AuditReport, VaultError> {
        let mut report = AuditReport::default();
        let mut chains = Vec::new();
        for writer in self.writers().await? {
            chains.push(self.read_chain(&writer, &mut report.findings).await?);
        }
        let mut vouched = vouched_for(&chains, expected)?;
        for chain in &chains {
            follow(chain, &mut vouched, &mut report.findings);
        }
        // What only a chain without proof names is not proved by it; what a proved one names must be there.
        cut(&chains, expected, &mut report.findings)?;
        report.chains = chains.iter().map(summary).collect();
        report.findings.sort_by(|a, b| a.object.cmp(&b.object));
        report.findings.dedup();
        Ok(report)
    }

    async fn read_chain(&self, writer: &str, findings: &mut Vec<AuditFinding>) -> Result<Chain, VaultError> {
        let firsts = self.objects(writer).await?;
        let objects = u64::try_from(firsts.len()).unwrap_or(u64::MAX);
        let reads = firsts.into_iter().map(|first| async move { (first, self.fetch(writer, first).await) });
        let mut links = Vec::new();
        let mut found = futures::stream::iter(reads).buffered(READS);
        while let Some((first, read)) = found.next().await {
            match read {
                Ok(read) => links.push(Link::of(read)),
                Err(error) if is_verdict(error.kind()) => findings.push(finding(writer, first, error.to_string())),
                Err(error) => return Err(error),
            }
        }
        Ok(Chain { writer: writer.to_owned(), objects, links })
    }
}

/// Whether an error says something about the object and not about the way to it.
fn is_verdict(kind: VaultErrorKind) -> bool {
    matches!(kind, VaultErrorKind::Tampered | VaultErrorKind::NewerFormat | VaultErrorKind::NotFound)
}

fn finding(writer: &str, first: u64, what: impl Into<String>) -> AuditFinding {
    AuditFinding { object: object_key(writer, first), what: what.into() }
}

/// Hashes that proved objects of other chains, or the caller, vouch for.
fn vouched_for(chains: &[Chain], expected: &[AuditHead]) -> Result<BTreeSet<[u8; 32]>, VaultError> {
    let mut vouched = BTreeSet::new();
    for link in chains.iter().flat_map(|chain| &chain.links).filter(|link| link.proved) {
        vouched.extend(link.others.values().map(|seen| seen.hash.0));
    }
    for head in expected {
        vouched.insert(parse_hash(&head.hash)?.0);
    }
    Ok(vouched)
}

/// Follows a chain: back for the proof, forward for what is missing.
fn follow(chain: &Chain, vouched: &mut BTreeSet<[u8; 32]>, findings: &mut Vec<AuditFinding>) {
    for link in chain.links.iter().rev() {
        if link.proved || vouched.contains(&link.hash.0) {
            vouched.insert(link.before.0);
        } else {
            let what = "it was sealed with a master key that was replaced since, and nothing that came after it vouches for it: \
                        it may have been put there by somebody who had that key";
            findings.push(finding(&chain.writer, link.first, what));
        }
    }
    let (mut next, mut before) = (1, Binary([0; 32]));
    for link in &chain.links {
        if link.first > next {
            let what =
                format!("records {next} to {} are missing: the object was deleted or is damaged", link.first - 1);
            findings.push(finding(&chain.writer, next, what));
        } else if link.first < next {
            findings.push(finding(
                &chain.writer,
                link.first,
                "it has the place of records that another object has too",
            ));
        } else if link.before != before {
            let what = "it doesn't follow from the object before it: one of the two was put in place of another";
            findings.push(finding(&chain.writer, link.first, what));
        }
        (next, before) = (link.next, link.hash);
    }
}

/// What is known elsewhere and isn't there, or not as it was.
fn cut(chains: &[Chain], expected: &[AuditHead], findings: &mut Vec<AuditFinding>) -> Result<(), VaultError> {
    let mut there = BTreeMap::new();
    let mut named: BTreeMap<(&str, u64, [u8; 32]), String> = BTreeMap::new();
    for chain in chains {
        for link in &chain.links {
            there.insert((chain.writer.as_str(), link.first), link.hash);
            for (writer, seen) in link.others.iter().filter(|_| link.proved) {
                let by = named.entry((writer, seen.first, seen.hash.0));
                by.or_insert_with(|| object_key(&chain.writer, link.first));
            }
        }
    }
    for head in expected {
        let by = "the head that was given".to_owned();
        named.insert((&head.writer, head.first, parse_hash(&head.hash)?.0), by);
    }
    for ((writer, first, hash), by) in named {
        match there.get(&(writer, first)) {
            Some(found) if found.0 == hash => {}
            Some(_) => findings.push(finding(writer, first, format!("it isn't the object that {by} names"))),
            None => findings.push(finding(writer, first, format!("it is gone or damaged: {by} names it"))),
        }
    }
    Ok(())
}

fn summary(chain: &Chain) -> AuditChain {
    let records = chain.links.iter().map(|link| link.next.saturating_sub(link.first)).sum();
    let newest = chain.links.last();
    let end = newest.map(|link| head(&chain.writer, Seen { first: link.first, hash: link.hash }, link.next));
    AuditChain { writer: chain.writer.clone(), objects: chain.objects, records, head: end }
}
