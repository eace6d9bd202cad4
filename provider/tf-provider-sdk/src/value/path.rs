//! Where a value is inside an object: attribute names, list indexes, map keys.

use std::fmt;

/// One step of a [`Path`].
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Step {
    /// An attribute, or a nested block's type.
    Attribute(String),
    /// An element of a map.
    Key(String),
    /// An element of a list or a tuple.
    Index(i64),
}

/// A path into a value.
///
/// Elements of sets have no address in the protocol: a path ends at the set.
///
/// A string converts: `"disk[0].size_gib"`, `"labels[\"env\"]"`. Text that does not follow this form
/// becomes one attribute step, since a wrong path only makes a message less precise.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Path(Vec<Step>);

impl Path {
    /// The whole value.
    pub fn root() -> Self {
        Self::default()
    }

    /// From its steps.
    pub fn from_steps(steps: Vec<Step>) -> Self {
        Self(steps)
    }

    /// True for the whole value.
    pub fn is_root(&self) -> bool {
        self.0.is_empty()
    }

    /// The steps, outermost first.
    pub fn steps(&self) -> &[Step] {
        &self.0
    }

    /// The path of attribute `name` below this one.
    #[must_use]
    pub fn attr(&self, name: impl Into<String>) -> Self {
        self.with(Step::Attribute(name.into()))
    }

    /// The path of element `index` below this one.
    #[must_use]
    pub fn index(&self, index: usize) -> Self {
        self.with(Step::Index(i64::try_from(index).unwrap_or(i64::MAX)))
    }

    /// The path of the map element `key` below this one.
    #[must_use]
    pub fn key(&self, key: impl Into<String>) -> Self {
        self.with(Step::Key(key.into()))
    }

    /// This path followed by `tail`.
    #[must_use]
    pub fn join(&self, tail: &Path) -> Self {
        Self(self.0.iter().chain(&tail.0).cloned().collect())
    }

    /// True if `prefix` is this path or lies above it.
    pub fn starts_with(&self, prefix: &Path) -> bool {
        self.0.starts_with(&prefix.0)
    }

    fn with(&self, step: Step) -> Self {
        let mut steps = self.0.clone();
        steps.push(step);
        Self(steps)
    }

    fn parse(text: &str) -> Option<Self> {
        let mut steps = Vec::new();
        let mut rest = text;
        while !rest.is_empty() {
            if let Some(after) = rest.strip_prefix("[\"") {
                let (key, tail) = after.split_once("\"]")?;
                steps.push(Step::Key(key.to_owned()));
                rest = tail;
            } else if let Some(after) = rest.strip_prefix('[') {
                let (index, tail) = after.split_once(']')?;
                steps.push(Step::Index(index.parse().ok()?));
                rest = tail;
            } else {
                let name = match rest.strip_prefix('.') {
                    Some(name) if !steps.is_empty() => name,
                    None if steps.is_empty() => rest,
                    _ => return None,
                };
                let end = name.find(['.', '[']).unwrap_or(name.len());
                let (name, tail) = name.split_at(end);
                if name.is_empty() {
                    return None;
                }
                steps.push(Step::Attribute(name.to_owned()));
                rest = tail;
            }
        }
        Some(Self(steps))
    }
}

impl From<&str> for Path {
    fn from(text: &str) -> Self {
        Self::parse(text).unwrap_or_else(|| Self::root().attr(text))
    }
}

impl From<String> for Path {
    fn from(text: String) -> Self {
        Self::from(text.as_str())
    }
}

impl From<&Path> for Path {
    fn from(path: &Path) -> Self {
        path.clone()
    }
}

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (position, step) in self.0.iter().enumerate() {
            match step {
                Step::Attribute(name) if position == 0 => f.write_str(name)?,
                Step::Attribute(name) => write!(f, ".{name}")?,
                Step::Key(key) => write!(f, "[\"{key}\"]")?,
                Step::Index(index) => write!(f, "[{index}]")?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_and_path_go_both_ways() {
        for text in ["name", "disk[0].size_gib", "labels[\"a.b\"]", "a.b[2][\"k\"].c"] {
            assert_eq!(Path::from(text).to_string(), text);
        }
        assert_eq!(Path::from("disk[1].size"), Path::root().attr("disk").index(1).attr("size"));
    }

    #[test]
    fn malformed_text_is_one_attribute() {
        for text in ["a..b", "a[", "[x]", ".a", "a[0]b"] {
            assert_eq!(Path::from(text).steps(), [Step::Attribute(text.to_owned())]);
        }
        assert!(Path::from("").is_root());
    }
}
