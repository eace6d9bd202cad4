//! What a document holds to be typed, and how each block is meant.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::binaries::repository;

/// A document with its blocks.
#[derive(Debug)]
pub struct Guide {
    /// Its file.
    pub path: PathBuf,
    /// Its blocks that somebody could type or save, in order; diagrams and the like are left out.
    pub blocks: Vec<Block>,
}

/// A fenced block.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Block {
    /// The line of its fence, from 1.
    pub line: usize,
    /// `sh`, `console`, `hcl`, …
    pub language: String,
    /// What stands in it.
    pub text: String,
    /// How it is meant.
    pub mark: Mark,
}

/// How a block is meant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Mark {
    /// To be run.
    Run,
    /// To be run until it ends well and shows what it should.
    Again,
    /// To be run, and figures count.
    Exactly,
    /// To be run, and it has to fail.
    Fails,
    /// The content of a file, in the directory where the reader works or at an absolute path.
    File(String),
    /// No block: what happens to the reader at that place, a script of `acceptance/guides`.
    Meanwhile(String),
    /// Not to be run.
    Not(Reason),
    /// Nobody said, and it can't be run as it is.
    Unknown,
}

/// Why a block can't be run by a test.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// It is typed on a machine that a test doesn't have: a server elsewhere, an administrator's desk.
    OtherMachine,
    /// It needs VMware, Hyper-V, libvirt.
    Hypervisor,
    /// It needs an account of a cloud.
    Cloud,
    /// It needs systemd as the first process.
    Systemd,
    /// It runs on the appliance only.
    Appliance,
    /// It builds the product: what runs the tests has done that.
    Build,
    /// It is a part of something that the same document, or an example that a test applies, has whole.
    Part,
}

impl Reason {
    const ALL: [(&'static str, Self); 7] = [
        ("another machine", Self::OtherMachine),
        ("a hypervisor", Self::Hypervisor),
        ("a cloud account", Self::Cloud),
        ("systemd", Self::Systemd),
        ("the appliance", Self::Appliance),
        ("the build", Self::Build),
        ("a part", Self::Part),
    ];
}

/// Languages of blocks that a reader types or saves.
const TYPED: [&str; 8] = ["sh", "console", "hcl", "terraform", "toml", "json", "sql", "powershell"];

impl Guide {
    /// Reads a document.
    ///
    /// # Errors
    /// It can't be read, or has a comment that makes no sense.
    pub fn read(path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path).with_context(|| format!("read {}", path.display()))?;
        let blocks = blocks(&text).with_context(|| path.display().to_string())?;
        Ok(Self { path: path.to_owned(), blocks })
    }

    /// Its path in the repository.
    #[must_use]
    pub fn name(&self) -> String {
        self.path.strip_prefix(repository()).unwrap_or(&self.path).display().to_string()
    }

    /// A word for it, for names of directories.
    #[must_use]
    pub fn label(&self) -> String {
        let mut words: Vec<&str> = self.path.iter().rev().take(2).filter_map(|part| part.to_str()).collect();
        words.reverse();
        words.join("-").trim_end_matches(".md").to_lowercase()
    }

    /// A block, for messages.
    #[must_use]
    pub fn at(&self, block: &Block) -> String {
        format!("{}:{}\n{}", self.name(), block.line, block.text)
    }
}

fn blocks(text: &str) -> Result<Vec<Block>> {
    let mut found = Vec::new();
    let mut comment: Option<&str> = None;
    let mut lines = text.lines().enumerate();
    while let Some((index, line)) = lines.next() {
        let trimmed = line.trim();
        let Some(language) = trimmed.strip_prefix("```") else {
            if let Some(script) = trimmed.strip_prefix("<!-- meanwhile: ").and_then(|rest| rest.strip_suffix("-->")) {
                let mark = Mark::Meanwhile(script.trim().to_owned());
                found.push(Block { line: index + 1, language: String::new(), text: String::new(), mark });
            } else if let Some(said) = trimmed.strip_prefix("<!-- run: ").and_then(|rest| rest.strip_suffix("-->")) {
                comment = Some(said.trim());
            } else if !trimmed.is_empty() && comment.is_some() {
                bail!("line {}: a comment that says how a block is run stands before none", index + 1);
            }
            continue;
        };
        let indent = line.len() - line.trim_start().len();
        let mut content = String::new();
        for (_, line) in lines.by_ref() {
            if line.trim() == "```" {
                break;
            }
            content.push_str(line.get(indent..).unwrap_or_default());
            content.push('\n');
        }
        let language = language.trim().to_owned();
        let typed = TYPED.contains(&language.as_str()) || content.lines().any(|line| line.starts_with("lifeboat "));
        let mark = match comment.take() {
            Some(said) => mark(said).with_context(|| format!("line {}: <!-- run: {said} -->", index + 1))?,
            None if language == "sh" || language == "console" => Mark::Run,
            None => Mark::Unknown,
        };
        if typed {
            found.push(Block { line: index + 1, language, text: content, mark });
        }
    }
    Ok(found)
}

fn mark(said: &str) -> Result<Mark> {
    if let Some(reason) = said.strip_prefix("not, ") {
        let known = Reason::ALL.iter().find(|(word, _)| *word == reason);
        let (_, reason) = known.with_context(|| {
            let words: Vec<&str> = Reason::ALL.iter().map(|(word, _)| *word).collect();
            format!("a reason is one of: {}", words.join(", "))
        })?;
        return Ok(Mark::Not(*reason));
    }
    Ok(match said {
        "again" => Mark::Again,
        "exactly" => Mark::Exactly,
        "fails" => Mark::Fails,
        _ => match said.strip_prefix("file ") {
            Some(name) => Mark::File(name.trim().to_owned()),
            None => bail!("expected again, exactly, fails, file NAME, or not, REASON"),
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_are_found_with_what_is_said_of_them() {
        let text = "# A\n```sh\nls\n```\n\n<!-- run: again -->\n```console\n$ ls\na\n```\n```mermaid\nx\n```\n```hcl\na = 1\n```\n\
                    1. x\n   <!-- run: file main.tf -->\n   ```hcl\n   b = 1\n   ```\n<!-- run: not, systemd -->\n```sh\nsystemctl\n```\n\
                    ```\nlifeboat status\n```\n";
        let found = blocks(text).unwrap();
        let marks: Vec<&Mark> = found.iter().map(|block| &block.mark).collect();
        let file = Mark::File("main.tf".into());
        assert_eq!(
            marks,
            [&Mark::Run, &Mark::Again, &Mark::Unknown, &file, &Mark::Not(Reason::Systemd), &Mark::Unknown]
        );
        assert_eq!(found.iter().map(|block| block.line).collect::<Vec<_>>(), [2, 7, 14, 19, 23, 26]);
        assert_eq!(found[3].text, "b = 1\n");
    }

    #[test]
    fn a_comment_that_makes_no_sense_is_an_error() {
        for wrong in [
            "<!-- run: not, lazy -->\n```sh\n```\n",
            "<!-- run: maybe -->\n```sh\n```\n",
            "<!-- run: again -->\ntext\n",
        ] {
            assert!(blocks(wrong).is_err(), "{wrong}");
        }
    }
}
