//! `lifeboat inspect FILE`: what a file of a gateway or an object of a vault is. Reads only, and needs no key.
//!
//! What it says is what the bytes claim; only checksums are proved. Binary kinds are the format crate's; the vault's
//! documents are JSON in a sealed envelope, whose clear content is shown. Wrapped keys are left out: nobody can use what is
//! shown, and nobody needs it.

use std::path::{Path, PathBuf};

use clap::Args;
use lifeboat_format::inspect::describe;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::failure::{Failure, Result};
use crate::output::Output;
use crate::render::{clean, fields, flatten};

/// Larger files are no file of ours: a journal file or a segment is far smaller.
const FILE_BYTES_MAX: u64 = 4 << 30;
/// Members of a document that hold wrapped keys.
const WRAPPED: &str = "wrapped";

/// A file to look into.
#[derive(Args, Debug)]
pub(crate) struct InspectArgs {
    /// A file of a state directory, or an object of a vault
    file: PathBuf,
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

pub(crate) fn run(args: &InspectArgs, output: Output) -> Result<()> {
    let path = &args.file;
    let found = look(path)?;
    output.show(&found, || shown(&found))?;
    if found.problems.is_empty() {
        return Ok(());
    }
    Err(Failure::failed(format!("{} is damaged: {}", path.display(), found.problems.join("; "))))
}

fn look(path: &Path) -> Result<Found> {
    let unreadable = |error| Failure::unreadable("the file", path, &error);
    let metadata = std::fs::metadata(path).map_err(unreadable)?;
    if !metadata.is_file() || metadata.len() > FILE_BYTES_MAX {
        return Err(Failure::failed(format!(
            "{} is no file of Lifeboat: it isn't a plain file of at most 4 GiB",
            path.display()
        )));
    }
    let bytes = std::fs::read(path).map_err(unreadable)?;
    if let Ok(envelope) = serde_json::from_slice::<Envelope>(&bytes) {
        return Ok(document(envelope));
    }
    let description = describe(&bytes).map_err(|error| Failure::failed(format!("{}: {error}", path.display())))?;
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

    #[test]
    fn documents_of_a_vault_are_told_apart_and_show_no_wrapped_key() {
        let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../vault/vectors/v1");
        let expected = [
            ("vault.json", "vault description"),
            ("key-group.json", "wrapped key"),
            ("catalog.json", "catalog document"),
        ];
        for (file, kind) in expected {
            let found = look(&directory.join(file)).expect("a document");
            assert_eq!(found.kind, kind, "{file}");
            assert!(found.fields.iter().all(|field| !field.name.contains(WRAPPED)), "{file}: {found:?}");
            assert_eq!(found.fields.first().map(|field| field.name.as_str()), Some("format_version"));
        }
    }
}
