//! `lifeboat inspect FILE|OBJECT`: what a file of a gateway or an object of a vault is. Reads only.
//!
//! Of a file it needs no key, and says what the bytes claim: only checksums are proved. With `--vault` and its key it
//! names an object of that vault, proves it, and shows what is encrypted in it too. What is damaged is shown as far as it
//! can be read, with the place where that ends. Binary kinds are the format crate's; the vault's
//! documents are JSON in a sealed envelope, whose clear content is shown. Wrapped keys are left out: nobody can use what is
//! shown, and nobody needs it.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::Args;
use lifeboat_engine::at_rest::{LocalKey, MARKER_NAME, is_encrypted, revealed};
use lifeboat_engine::check::reveal::reveal;
use lifeboat_engine::disk::{Io, LocalDisk};
use lifeboat_format::inspect::describe;
use lifeboat_vault::{Access, Vault, VaultOptions, open_store};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::key::KeyArgs;
use crate::failure::{Failure, Result};
use crate::local_key::LocalKeyArgs;
use crate::output::Output;
use crate::render::{clean, fields, flatten};

/// Larger files are no file of ours: a journal file or a segment is far smaller.
const FILE_BYTES_MAX: u64 = 4 << 30;
/// Longer than any object.
const OBJECT_BYTES_MAX: u64 = 1 << 30;
/// Members of a document that hold wrapped keys.
const WRAPPED: &str = "wrapped";

/// A file to look into.
#[derive(Args, Debug)]
pub(crate) struct InspectArgs {
    /// A file of a state directory or of a vault; with --vault the name of an object in it, such as
    /// groups/GROUP/BRANCH/log/00000001-000000000001
    #[arg(value_name = "FILE|OBJECT")]
    file: PathBuf,
    /// The vault that the object is in: what is encrypted in it is shown too
    #[arg(long, value_name = "URL")]
    vault: Option<String>,
    #[command(flatten)]
    key: KeyArgs,
    #[command(flatten)]
    local_key: LocalKeyArgs,
}

/// What bytes claim to be.
#[derive(Debug, PartialEq, Eq, Serialize)]
struct Found {
    kind: String,
    fields: Vec<Field>,
    problems: Vec<String>,
}

#[derive(Debug, PartialEq, Eq, Serialize)]
struct Field {
    name: String,
    value: String,
}

/// The envelope of a vault's document.
#[derive(Deserialize)]
struct Envelope {
    format_version: u32,
    mac: String,
    content: Value,
}

pub(crate) async fn run(args: InspectArgs, output: Output) -> Result<()> {
    let path = &args.file;
    let found = match &args.vault {
        None => look(path, &args.local_key).await?,
        Some(url) => object(url, &path.display().to_string(), &args.key).await?,
    };
    output.show(&found, || shown(&found))?;
    if found.problems.is_empty() {
        return Ok(());
    }
    Err(Failure::failed(format!("{} is damaged: {}", path.display(), found.problems.join("; "))))
}

/// An object of a vault, proved and decrypted.
async fn object(url: &str, name: &str, key: &KeyArgs) -> Result<Found> {
    let store = open_store(url, Access::Open).await?;
    let (vault, _) = Vault::open_soundest(store, &key.for_here()?, VaultOptions::default()).await?;
    let vault = Arc::new(vault);
    let bytes = vault.store().get(name, OBJECT_BYTES_MAX).await?;
    let mut found = claimed(name, &bytes)?;
    match reveal(&vault, name, &bytes).await {
        Ok(more) => found.fields.extend(more.into_iter().map(|(name, value)| Field { name, value })),
        Err(error) => found.problems.push(error.to_string()),
    }
    Ok(found)
}

async fn look(path: &Path, key: &LocalKeyArgs) -> Result<Found> {
    let unreadable = |error| Failure::unreadable("the file", path, &error);
    let metadata = std::fs::metadata(path).map_err(unreadable)?;
    if !metadata.is_file() || metadata.len() > FILE_BYTES_MAX {
        return Err(Failure::failed(format!(
            "{} is no file of Lifeboat: it isn't a plain file of at most 4 GiB",
            path.display()
        )));
    }
    let shown = path.display().to_string();
    let absolute = std::fs::canonicalize(path).map_err(unreadable)?;
    let bytes = match (absolute.parent(), absolute.file_name().and_then(OsStr::to_str)) {
        (Some(directory), Some(name)) if is_encrypted(directory) && name != MARKER_NAME => {
            let key = key.of(directory).await?;
            decrypted(directory, name, key.as_ref()).map_err(|error| Failure::failed(format!("{shown}: {error}")))?
        }
        _ => std::fs::read(path).map_err(unreadable)?,
    };
    claimed(&shown, &bytes)
}

/// A file of an encrypted directory.
fn decrypted(directory: &Path, name: &str, key: Option<&LocalKey>) -> std::io::Result<Vec<u8>> {
    let disk = revealed(LocalDisk::open(directory)?, key)?;
    let file = disk.open(name, false, Io::Buffered)?;
    let mut bytes = vec![0; usize::try_from(file.len()?).unwrap_or(usize::MAX)];
    file.read_at(&mut bytes, 0)?;
    Ok(bytes)
}

/// What bytes claim to be.
fn claimed(name: &str, bytes: &[u8]) -> Result<Found> {
    if let Ok(envelope) = serde_json::from_slice::<Envelope>(bytes) {
        return Ok(document(envelope));
    }
    let description = describe(bytes).map_err(|error| Failure::failed(format!("{name}: {error}")))?;
    let fields = description.fields.into_iter().map(|(name, value)| Field { name: name.to_owned(), value });
    Ok(Found {
        kind: description.kind.to_owned(),
        fields: fields.collect(),
        problems: description.problems.iter().map(ToString::to_string).collect(),
    })
}

/// A vault's document, by the members that each kind has.
fn document(envelope: Envelope) -> Found {
    let content = envelope.content;
    let has = |member: &str| content.get(member).is_some();
    let kind = if has("slots") {
        "vault description"
    } else if has("owner") {
        "wrapped key"
    } else if has("spec") {
        "catalog document"
    } else {
        "vault document"
    };
    let mut pairs =
        vec![("format_version".to_owned(), envelope.format_version.to_string()), ("mac".to_owned(), envelope.mac)];
    pairs.extend(flatten(&content).into_iter().filter(|(path, _)| path.rsplit('.').next() != Some(WRAPPED)));
    Found {
        kind: kind.to_owned(),
        fields: pairs.into_iter().map(|(name, value)| Field { name, value }).collect(),
        problems: Vec::new(),
    }
}

fn shown(found: &Found) -> String {
    let pairs: Vec<(String, String)> =
        found.fields.iter().map(|field| (format!("  {}", field.name), field.value.clone())).collect();
    format!("{}\n{}", clean(&found.kind), fields(&pairs))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn documents_of_a_vault_are_told_apart_and_show_no_wrapped_key() {
        let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../vault/vectors/v1");
        let expected = [
            ("vault.json", "vault description"),
            ("key-group.json", "wrapped key"),
            ("catalog.json", "catalog document"),
        ];
        for (file, kind) in expected {
            let found = look(&directory.join(file), &LocalKeyArgs::default()).await.expect("a document");
            assert_eq!(found.kind, kind, "{file}");
            assert!(found.fields.iter().all(|field| !field.name.contains(WRAPPED)), "{file}: {found:?}");
            assert_eq!(found.fields.first().map(|field| field.name.as_str()), Some("format_version"));
        }
    }
}
