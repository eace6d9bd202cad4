//! The written documentation, held against the repository: every relative link leads to a file and a heading that exist,
//! every target of `make` and every file that a document names in a code span is there.
//!
//! Links to the outside are not followed: a test must not need a network.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use lifeboat_acceptance::binaries::repository;

/// A link found in a document.
#[derive(Debug, PartialEq, Eq)]
struct Link {
    target: String,
    line: usize,
}

fn documents() -> std::io::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    let mut next = vec![repository().to_owned()];
    while let Some(dir) = next.pop() {
        for entry in std::fs::read_dir(&dir)? {
            let path = entry?.path();
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            if name.starts_with('.') || name == "target" {
                continue;
            }
            if path.is_dir() {
                next.push(path);
            } else if name.ends_with(".md") {
                found.push(path);
            }
        }
    }
    found.sort();
    Ok(found)
}

/// Links outside code blocks and code spans.
fn links(text: &str) -> Vec<Link> {
    let mut found = Vec::new();
    let mut in_block = false;
    for (index, line) in text.lines().enumerate() {
        if line.trim_start().starts_with("```") {
            in_block = !in_block;
            continue;
        }
        if in_block {
            continue;
        }
        let plain: String = line.split('`').enumerate().filter(|(i, _)| i % 2 == 0).map(|(_, part)| part).collect();
        let mut rest = plain.as_str();
        while let Some(start) = rest.find("](") {
            rest = &rest[start + 2..];
            let Some(end) = rest.find(')') else { break };
            found.push(Link { target: rest[..end].to_owned(), line: index + 1 });
            rest = &rest[end..];
        }
    }
    found
}

/// The anchors of a document's headings, as code forges make them, and those that it sets itself (`<a id="…">`).
fn anchors(text: &str) -> BTreeSet<String> {
    let mut in_block = false;
    let mut found = BTreeSet::new();
    for line in text.lines() {
        if line.trim_start().starts_with("```") {
            in_block = !in_block;
        }
        if !in_block {
            let ids = line.split("<a id=\"").skip(1).filter_map(|rest| rest.split_once('"'));
            found.extend(ids.map(|(id, _)| id.to_owned()));
        }
        let heading = line.trim_start_matches('#');
        if in_block || heading.len() == line.len() || !heading.starts_with(' ') {
            continue;
        }
        let kept: String = heading
            .trim()
            .to_lowercase()
            .chars()
            .filter(|c| c.is_alphanumeric() || *c == ' ' || *c == '-' || *c == '_')
            .collect();
        found.insert(kept.replace(' ', "-"));
    }
    found
}

/// What is wrong with a link in `document`, if anything.
fn fault(document: &Path, link: &Link) -> Option<String> {
    let target = &link.target;
    if target.contains("://") || target.starts_with("mailto:") {
        return None;
    }
    let (path, anchor) = target.split_once('#').unwrap_or((target, ""));
    let file = if path.is_empty() { document.to_owned() } else { document.parent()?.join(path) };
    let at = format!("{}:{}: ({target})", document.display(), link.line);
    if !file.exists() {
        return Some(format!("{at} leads nowhere"));
    }
    if !anchor.is_empty() && !anchors(&std::fs::read_to_string(&file).ok()?).contains(anchor) {
        return Some(format!("{at} names a heading that is not there"));
    }
    None
}

#[test]
fn every_relative_link_leads_somewhere() {
    let documents = documents().unwrap();
    assert!(documents.len() >= 10, "too few documents found: {documents:?}");
    let mut checked = 0;
    let mut faults = Vec::new();
    for document in &documents {
        for link in links(&std::fs::read_to_string(document).unwrap()) {
            checked += 1;
            faults.extend(fault(document, &link));
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
    assert!(checked >= 20, "only {checked} links found: the reader of links is broken");
}

#[test]
fn every_make_target_that_a_document_names_exists() {
    let makefile = std::fs::read_to_string(repository().join("GNUmakefile")).unwrap();
    let targets: BTreeSet<&str> = makefile
        .lines()
        .filter(|line| !line.starts_with(['\t', '#', '.', ' ']))
        .filter_map(|line| line.split_once(':'))
        .filter(|(name, rest)| !name.contains(' ') && !rest.starts_with('='))
        .map(|(name, _)| name)
        .collect();
    assert!(targets.contains("test") && targets.contains("demo"), "{targets:?}");
    for document in documents().unwrap() {
        let text = std::fs::read_to_string(&document).unwrap();
        for (_, after) in text.split('`').collect::<Vec<_>>().chunks(2).filter_map(|pair| {
            let [outside, inside] = pair else { return None };
            Some((outside, *inside))
        }) {
            let Some(target) = after.strip_prefix("make ") else { continue };
            let target = target.split_whitespace().next().unwrap_or_default();
            assert!(targets.contains(target), "{}: there is no `make {target}`", document.display());
        }
    }
}

#[test]
fn a_broken_link_is_found() {
    let dir = tempfile::tempdir().unwrap();
    let document = dir.path().join("a.md");
    std::fs::write(&document, "# Known words\n\n[b](b.md) [c](#known-words) [d](#unknown)\n```\n[x](y.md)\n```\n")
        .unwrap();
    let found = links(&std::fs::read_to_string(&document).unwrap());
    assert_eq!(found.len(), 3);
    let faults: Vec<_> = found.iter().filter_map(|link| fault(&document, link)).collect();
    assert_eq!(faults.len(), 2, "{faults:?}");
    assert!(faults[0].contains("leads nowhere") && faults[1].contains("not there"), "{faults:?}");
}

/// The names in the table of `docs/testing.md`, each of a test that is there.
#[test]
fn the_table_of_behaviours_names_tests_that_are_there() {
    let text = std::fs::read_to_string(repository().join("docs/testing.md")).unwrap();
    let (_, table) = text.split_once("| Behaviour | For every resource |").expect("the table is there");
    let rows: Vec<&str> = table.lines().skip(2).take_while(|line| line.starts_with('|')).collect();
    let tests: BTreeSet<String> = std::fs::read_dir(repository().join("acceptance/tests"))
        .unwrap()
        .flat_map(|entry| {
            let text = std::fs::read_to_string(entry.unwrap().path()).unwrap();
            let found = text.split("#[test]\nfn ").skip(1).filter_map(|rest| rest.split('(').next());
            found.map(str::to_owned).collect::<Vec<_>>()
        })
        .collect();
    assert!(rows.len() >= 11, "{rows:?}");
    for row in rows {
        let named: Vec<&str> = row.split('`').skip(1).step_by(2).collect();
        assert!(!named.is_empty(), "{row}");
        for name in named {
            assert!(tests.contains(name), "no acceptance test is called {name}");
        }
    }
    let matrix = std::fs::read_to_string(repository().join("acceptance/tests/terraform_matrix.rs")).unwrap();
    for name in matrix.split("#[test]\nfn ").skip(1).filter_map(|rest| rest.split('(').next()) {
        assert!(name == "every_resource_is_in_the_table" || text.contains(name), "{name} is not in docs/testing.md");
    }
}

/// The sources of the product, with string literals that go on over several lines joined.
fn sources() -> String {
    let mut all = String::new();
    let mut next = vec![repository().join("gateway"), repository().join("provider")];
    while let Some(dir) = next.pop() {
        for entry in std::fs::read_dir(&dir).expect("a directory") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                next.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text = std::fs::read_to_string(&path).expect("a source");
                let mut goes_on = false;
                for line in text.lines() {
                    // A literal that goes on does so behind the indent.
                    let line = if goes_on { line.trim_start() } else { line };
                    goes_on = line.ends_with('\\');
                    all.push_str(line.strip_suffix('\\').unwrap_or(line));
                    if !goes_on {
                        all.push('\n');
                    }
                }
            }
        }
    }
    all
}

#[test]
fn every_message_that_the_guide_to_troubleshooting_quotes_is_in_the_code() {
    let text = std::fs::read_to_string(repository().join("docs/guides/troubleshooting.md")).unwrap();
    let sources = sources();
    let mut checked = 0;
    for row in text.lines().filter(|line| line.starts_with("| `")) {
        let quoted = row.split('`').nth(1).unwrap();
        for part in quoted.split('…').map(str::trim).filter(|part| part.len() > 3) {
            assert!(sources.contains(part), "no message of the product has {part:?}, of {quoted:?}");
            checked += 1;
        }
    }
    assert!(checked >= 30, "only {checked} parts of messages were found: the reader of the guide is broken");
}
