//! The vault's own documents: `vault/`, `keys/`, `catalog/`, `audit/`. Each is proved by its MAC, which binds it to its name; the
//! revisions of one document, and the links of a chain of the audit log, are held against each other.

use std::collections::BTreeMap;

use futures::stream::{self, StreamExt};
use lifeboat_model::Timestamp;
use lifeboat_vault::{AuditLog, ObjectMeta, Proved, VaultError};

use super::{Fault, Found, Inquiry, Read, of_vault};
use crate::cause;
use crate::error::Result;

/// Documents read at a time.
const PARALLEL: usize = 16;
/// Longer than any document.
const DOCUMENT_BYTES_MAX: u64 = 1 << 20;
const VAULT: &str = "vault document";
const KEY: &str = "wrapped key";
const CATALOG: &str = "catalog document";
const AUDIT: &str = "part of the audit log";

pub(super) async fn check(inquiry: &Inquiry, broken: &[(String, VaultError)]) -> Result<()> {
    vault(inquiry, broken).await?;
    keys(inquiry).await?;
    catalog(inquiry).await?;
    audit(inquiry).await
}

async fn audit(inquiry: &Inquiry) -> Result<()> {
    inquiry.stage("audit log".to_owned());
    let objects = inquiry.list("audit").await?;
    inquiry.listed(objects.len());
    let log = inquiry.vault.audit();
    for object in objects.iter().filter(|object| !AuditLog::is_object(&object.key)) {
        inquiry.note(&object.key, "no name of a part of the audit log: left alone");
    }
    let report = inquiry.patiently(async || log.verify(&[]).await.map_err(cause::vault)).await?;
    objects.iter().for_each(|object| inquiry.looked_at(object.size));
    for found in report.findings {
        let costs = "nothing of the data: who asked for what can't be proved there any more";
        inquiry.damage(Found::new(&found.object, AUDIT, Fault::Contradiction, found.what).costs(costs));
    }
    Ok(())
}

/// Reads and proves the objects, and hands each that is one of ours to `each`, in the order of the names.
async fn prove(
    inquiry: &Inquiry,
    objects: &[ObjectMeta],
    mut each: impl FnMut(&ObjectMeta, Result<Proved, (Fault, String)>),
) -> Result<()> {
    inquiry.listed(objects.len());
    let mut found = stream::iter(objects)
        .map(|object| async move { (object, inquiry.get(&object.key, object.size, DOCUMENT_BYTES_MAX).await) })
        .buffered(PARALLEL);
    while let Some((object, read)) = found.next().await {
        inquiry.looked_at(object.size);
        match read? {
            Read::Bytes(bytes) => match inquiry.vault.check_document(&object.key, &bytes).await {
                Ok(Some(Proved::Outdated { master })) => {
                    let text = format!("undamaged, but sealed with master key {master}, which was replaced since");
                    inquiry.note(&object.key, text);
                    each(object, Ok(Proved::Outdated { master }));
                }
                Ok(Some(proved)) => each(object, Ok(proved)),
                Ok(None) => inquiry.note(&object.key, "no name of a document: left alone"),
                Err(error) => each(object, Err((of_vault(&error), error.to_string()))),
            },
            Read::TooLong => each(object, Err((Fault::Length, "it is longer than any document".to_owned()))),
            Read::Unreadable(why) => each(object, Err((Fault::Unreadable, why))),
            // Pruned, purged or destroyed since the listing: whether that may be, the chain says.
            Read::Gone => {}
        }
    }
    Ok(())
}

async fn vault(inquiry: &Inquiry, broken: &[(String, VaultError)]) -> Result<()> {
    inquiry.stage("vault documents".to_owned());
    let objects = inquiry.list("vault").await?;
    let mut revisions: Vec<u32> = Vec::new();
    let newest = objects.iter().map(|object| object.key.as_str()).max().unwrap_or_default().to_owned();
    prove(inquiry, &objects, |object, proved| match proved {
        Ok(Proved::Vault { revision }) => revisions.push(revision),
        Ok(_) => revisions.extend(number(&object.key)),
        Err((fault, detail)) => {
            revisions.extend(number(&object.key));
            let known = broken.iter().any(|(key, _)| *key == object.key);
            let costs = if known || object.key == newest {
                "the vault can't be opened for writing until the object is restored from a copy; it was checked by an \
                 older revision, which knows no key that was added and no setting that was changed since"
            } else {
                "nothing: a newer revision counts"
            };
            inquiry.damage(Found::new(&object.key, VAULT, fault, detail).costs(costs));
        }
    })
    .await?;
    for pair in revisions.windows(2) {
        if let [before, after] = pair {
            for missing in before.saturating_add(1)..*after {
                let key = format!("vault/{missing:08}.json");
                if !inquiry.is_there(&key).await? {
                    let detail = "revisions of the vault's document are never deleted, and this one is gone";
                    inquiry.damage(
                        Found::new(&key, VAULT, Fault::Missing, detail).costs("nothing: a newer revision counts"),
                    );
                }
            }
        }
    }
    if let Some(first) = revisions.first().filter(|first| **first > 1) {
        let key = format!("vault/{:08}.json", first.saturating_sub(1));
        let detail = format!("the vault's document begins with revision {first}: the ones before are gone");
        inquiry.damage(Found::new(&key, VAULT, Fault::Missing, detail).costs("nothing: a newer revision counts"));
    }
    Ok(())
}

/// The number in the name of a document of the vault.
fn number(key: &str) -> Option<u32> {
    key.strip_prefix("vault/")?.strip_suffix(".json")?.parse().ok()
}

async fn keys(inquiry: &Inquiry) -> Result<()> {
    inquiry.stage("keys".to_owned());
    let objects = inquiry.list("keys").await?;
    let owner_of = |key: &str| key.split('/').nth(1).unwrap_or_default().to_owned();
    let newest: BTreeMap<String, &str> =
        objects.iter().map(|object| (owner_of(&object.key), object.key.as_str())).collect();
    prove(inquiry, &objects, |object, proved| {
        let owner = owner_of(&object.key);
        let is_newest = newest.get(&owner) == Some(&object.key.as_str());
        if let Err((fault, detail)) = put_back(proved, is_newest) {
            if !is_newest {
                let costs = "nothing: newer keys of the same owner count";
                inquiry.damage(Found::new(&object.key, KEY, fault, detail).costs(costs));
                return;
            }
            let costs = format!("whatever this key of {owner} encrypts can't be read until the object is restored");
            let damage = inquiry.damage(Found::new(&object.key, KEY, fault, detail).costs(costs));
            inquiry.findings().keys.insert(owner, damage);
        }
    })
    .await
}

/// The newest of something that is sealed with a master key of long ago is an old copy: it was written again since.
fn put_back(proved: Result<Proved, (Fault, String)>, newest: bool) -> Result<Proved, (Fault, String)> {
    match proved {
        Ok(Proved::Outdated { master }) if newest => Err((
            Fault::Misplaced,
            format!("it is sealed with master key {master}, which was replaced since: an old copy was put back"),
        )),
        proved => proved,
    }
}

/// What is known of one revision.
#[derive(Clone, Debug)]
struct Revision {
    number: u64,
    /// Generation, creation, tombstone; none when it is damaged.
    proved: Option<(u64, Timestamp, bool)>,
}

async fn catalog(inquiry: &Inquiry) -> Result<()> {
    inquiry.stage("catalog".to_owned());
    let objects = inquiry.list("catalog").await?;
    let mut documents: BTreeMap<String, Vec<Revision>> = BTreeMap::new();
    let mut newest: BTreeMap<&str, u64> = BTreeMap::new();
    for object in &objects {
        if let Some((document, number)) = revision_of(&object.key) {
            let entry = newest.entry(document).or_default();
            *entry = number.max(*entry);
        }
    }
    prove(inquiry, &objects, |object, proved| {
        let Some((document, number)) = revision_of(&object.key) else { return };
        let proved = match put_back(proved, newest.get(document) == Some(&number)) {
            Ok(Proved::Catalog { generation, created, deleted, .. }) => Some((generation, created, deleted)),
            Ok(_) => None,
            Err((fault, detail)) => {
                let costs = if newest.get(document) == Some(&number) {
                    "gateways refuse this declaration until the object is restored, or deleted to go back to the \
                     revision before; no data is lost"
                } else {
                    "nothing: a newer revision counts"
                };
                inquiry.damage(Found::new(&object.key, CATALOG, fault, detail).costs(costs));
                None
            }
        };
        documents.entry(document.to_owned()).or_default().push(Revision { number, proved });
    })
    .await?;
    for (document, revisions) in documents {
        let id = document.rsplit('/').next().unwrap_or_default();
        if revisions.last().is_some_and(|last| last.proved.is_none_or(|(_, _, deleted)| !deleted)) {
            inquiry.findings().live.insert(id.to_owned());
        }
        if let Some((number, fault, why)) = broken_chain(&revisions) {
            let key = format!("{document}/{number:012}.json");
            if fault == Fault::Missing && (inquiry.is_there(&key).await? || pruned(inquiry, &document, number).await?) {
                continue;
            }
            inquiry.damage(Found::new(&key, CATALOG, fault, why).costs("nothing: a newer revision counts"));
        }
    }
    Ok(())
}

/// Document and revision in the name of an object of the catalog.
fn revision_of(key: &str) -> Option<(&str, u64)> {
    let (document, revision) = key.rsplit_once('/')?;
    Some((document, revision.strip_suffix(".json")?.parse().ok()?))
}

/// Where the revisions of a document don't follow from each other.
fn broken_chain(revisions: &[Revision]) -> Option<(u64, Fault, &'static str)> {
    for pair in revisions.windows(2) {
        let [before, after] = pair else { continue };
        if before.number.saturating_add(1) != after.number {
            let why = "a revision between two others is gone; writers delete the oldest ones only";
            return Some((before.number.saturating_add(1), Fault::Missing, why));
        }
        let (Some((old, made, deleted)), Some((new, created, _))) = (before.proved, after.proved) else { continue };
        let why = if deleted {
            "it follows a tombstone, after which nothing may come"
        } else if created != made {
            "it says another time of creation than the revision before"
        } else if new < old || new > old.saturating_add(1) {
            "its generation doesn't follow from the revision before"
        } else {
            continue;
        };
        return Some((after.number, Fault::Contradiction, why));
    }
    None
}

/// Whether revisions up to `number` were pruned between the pages of the listing.
async fn pruned(inquiry: &Inquiry, document: &str, number: u64) -> Result<bool> {
    let now = inquiry.list(document).await?;
    let first = now.iter().filter_map(|object| revision_of(&object.key)).map(|(_, number)| number).min();
    Ok(first.is_none_or(|first| first > number))
}
