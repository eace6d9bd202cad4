//! As much of YAML as settings need: maps and lists by indentation, lists in brackets, plain and quoted words, comments.
//!
//! Whatever else YAML has (anchors, texts of several lines, maps in braces, tabs, tags) is refused with its line, so that nothing is
//! understood otherwise than it was meant. All values are texts.

/// Most lines of a document, and deepest nesting.
const LINES_MAX: usize = 10_000;
const DEPTH_MAX: usize = 32;

/// What a document says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    /// A key without a value.
    Empty,
    /// A word or text.
    Text(String),
    /// A list.
    List(Vec<Value>),
    /// Keys with their values, in the document's order.
    Map(Vec<(String, Value)>),
}

impl Value {
    /// What stands under a key.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<&Self> {
        self.entries().iter().find(|(name, _)| name == key).map(|(_, value)| value)
    }

    /// The keys with their values; none where there is no map.
    #[must_use]
    pub fn entries(&self) -> &[(String, Self)] {
        if let Self::Map(entries) = self { entries } else { &[] }
    }

    /// The text, where there is one.
    #[must_use]
    pub fn text(&self) -> Option<&str> {
        if let Self::Text(text) = self { Some(text) } else { None }
    }

    /// The texts of a list, or the only one.
    #[must_use]
    pub fn texts(&self) -> Vec<&str> {
        match self {
            Self::List(items) => items.iter().filter_map(Self::text).collect(),
            other => other.text().into_iter().collect(),
        }
    }
}

struct Line<'a> {
    number: usize,
    indent: usize,
    text: &'a str,
}

/// Reads a document.
///
/// # Errors
/// A sentence with the line that isn't understood.
pub fn parse(text: &str) -> Result<Value, String> {
    let mut lines = Vec::new();
    for (number, line) in (1..).zip(text.lines()) {
        let content = without_comment(line).trim_end();
        let indent = content.len() - content.trim_start_matches(' ').len();
        let content = content.trim_start_matches(' ');
        if content.starts_with('\t') {
            return Err(format!("line {number}: a tab can't indent"));
        }
        if !content.is_empty() && content != "---" {
            lines.push(Line { number, indent, text: content });
        }
    }
    if lines.len() > LINES_MAX {
        return Err(format!("more than {LINES_MAX} lines"));
    }
    let mut rest = lines.as_slice();
    let value = block(&mut rest, DEPTH_MAX)?;
    match rest.first() {
        None => Ok(value),
        Some(line) => Err(format!("line {}: its indentation belongs to nothing", line.number)),
    }
}

/// What begins at the first line, to where the indentation ends.
fn block(lines: &mut &[Line<'_>], depth: usize) -> Result<Value, String> {
    let Some(first) = lines.first() else { return Ok(Value::Empty) };
    if depth == 0 {
        return Err(format!("line {}: nested too deeply", first.number));
    }
    let indent = first.indent;
    let is_list = item(first.text).is_some();
    let (mut items, mut entries) = (Vec::new(), Vec::<(String, Value)>::new());
    while let Some(line) = lines.first().filter(|line| line.indent == indent) {
        if let Some(rest) = item(line.text) {
            if !is_list {
                return Err(format!("line {}: an item of a list between keys", line.number));
            }
            let inner = indent + (line.text.len() - rest.len());
            let number = line.number;
            *lines = lines.get(1..).unwrap_or_default();
            if rest.is_empty() {
                items.push(nested(lines, indent, depth)?);
            } else if key(rest).is_some() {
                // A map whose first key stands behind the hyphen, the others below it.
                let mut own = vec![Line { number, indent: inner, text: rest }];
                while let Some(next) = lines.first().filter(|next| next.indent > indent) {
                    own.push(Line { number: next.number, indent: next.indent, text: next.text });
                    *lines = lines.get(1..).unwrap_or_default();
                }
                let mut own = own.as_slice();
                items.push(block(&mut own, depth - 1)?);
                if let Some(line) = own.first() {
                    return Err(format!("line {}: its indentation belongs to nothing", line.number));
                }
            } else {
                items.push(scalar(rest, number)?);
            }
        } else {
            let Some((name, rest)) = key(line.text).filter(|_| !is_list) else {
                return Err(format!("line {}: neither `key: value` nor an item of the list", line.number));
            };
            let number = line.number;
            let name = match scalar(name, number)? {
                Value::Text(name) => name,
                _ => return Err(format!("line {number}: no key")),
            };
            if entries.iter().any(|(known, _)| *known == name) {
                return Err(format!("line {number}: {name} is there already"));
            }
            *lines = lines.get(1..).unwrap_or_default();
            let value = if rest.is_empty() { nested(lines, indent, depth)? } else { scalar(rest, number)? };
            entries.push((name, value));
        }
    }
    Ok(if is_list { Value::List(items) } else { Value::Map(entries) })
}

/// What stands below a key or hyphen. A list may stand at the indentation of its key.
fn nested(lines: &mut &[Line<'_>], indent: usize, depth: usize) -> Result<Value, String> {
    match lines.first() {
        Some(next) if next.indent > indent || (next.indent == indent && item(next.text).is_some()) => {
            block(lines, depth - 1)
        }
        _ => Ok(Value::Empty),
    }
}

fn item(text: &str) -> Option<&str> {
    if text == "-" { Some("") } else { text.strip_prefix("- ").map(str::trim_start) }
}

/// `key: rest`, where the colon is outside of quotes.
fn key(text: &str) -> Option<(&str, &str)> {
    let mut quote = None;
    for (at, c) in text.char_indices() {
        match (quote, c) {
            (Some(open), _) if open == c => quote = None,
            (None, '"' | '\'') if at == 0 => quote = Some(c),
            (None, ':') => {
                let (name, rest) = text.split_at(at);
                let rest = rest.get(1..).unwrap_or_default();
                if rest.is_empty() || rest.starts_with(' ') {
                    return Some((name.trim_end(), rest.trim_start()));
                }
            }
            _ => {}
        }
    }
    None
}

fn scalar(text: &str, number: usize) -> Result<Value, String> {
    let refused = |why: &str| Err(format!("line {number}: {why}"));
    let quoted = |quote: char| text.strip_prefix(quote).and_then(|rest| rest.strip_suffix(quote));
    match text.chars().next() {
        Some('"') => match quoted('"') {
            Some(inner) if !inner.contains(['\\', '"']) => Ok(Value::Text(inner.to_owned())),
            _ => refused("a text in double quotes ends on its line and has no backslash and no quote"),
        },
        Some('\'') => match quoted('\'') {
            Some(inner) if !inner.replace("''", "").contains('\'') => Ok(Value::Text(inner.replace("''", "'"))),
            _ => refused("a text in quotes ends on its line"),
        },
        Some('[') => match text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            Some(inner) if !inner.contains(['[', ']', '{', '}']) => {
                let words = inner.split(',').map(str::trim).filter(|word| !word.is_empty());
                Ok(Value::List(words.map(|word| scalar(word, number)).collect::<Result<_, _>>()?))
            }
            _ => refused("a list in brackets ends on its line and has words alone"),
        },
        Some('|' | '>' | '&' | '*' | '!' | '{' | '}' | '@' | '`' | '%' | '?') => {
            refused("this part of YAML isn't read here: give plain words, texts in quotes, and lists")
        }
        _ if text == "~" || text == "null" => Ok(Value::Empty),
        _ => Ok(Value::Text(text.to_owned())),
    }
}

/// A line to its comment: a hash at its start or behind a space, outside of quotes. A doubled quote stays within them.
fn without_comment(line: &str) -> &str {
    let (mut quote, mut before) = (None, ' ');
    for (at, c) in line.char_indices() {
        match (quote, c) {
            (Some(open), _) if open == c => quote = None,
            (None, '"' | '\'') if matches!(before, ' ' | '[' | ',') || before == c => quote = Some(c),
            (None, '#') if before == ' ' => return line.get(..at).unwrap_or_default(),
            _ => {}
        }
        before = c;
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(text: &str) -> Value {
        Value::Text(text.to_owned())
    }

    #[test]
    fn a_network_is_read_as_it_is_meant() {
        let read = parse(
            "# made by hand\nversion: 2\nethernets:\n  eth0:\n    match: \n      name: \"e*\"\n    addresses: [192.0.2.10/24, '2001:db8::1/64']  # two\n\
             \n    routes:\n    - to: default\n      via: 192.0.2.1\n    - {}\n".replace("    - {}\n", "").as_str(),
        )
        .unwrap();
        assert_eq!(read.get("version"), Some(&text("2")));
        let eth0 = read.get("ethernets").unwrap().get("eth0").unwrap();
        assert_eq!(eth0.get("match").unwrap().get("name"), Some(&text("e*")));
        assert_eq!(eth0.get("addresses").unwrap().texts(), ["192.0.2.10/24", "2001:db8::1/64"]);
        let Some(Value::List(routes)) = eth0.get("routes") else { panic!("{eth0:?}") };
        assert_eq!(routes[0].get("via"), Some(&text("192.0.2.1")));
    }

    #[test]
    fn words_keep_their_hashes_colons_and_quotes() {
        let read = parse("a: x#y\nb: 'it''s # one'\nc: https://h:1\nd:\ne: ~\n\"f g\": 1\n").unwrap();
        let values: Vec<_> = read.entries().iter().map(|(name, value)| (name.as_str(), value.text())).collect();
        assert_eq!(
            values,
            [
                ("a", Some("x#y")),
                ("b", Some("it's # one")),
                ("c", Some("https://h:1")),
                ("d", None),
                ("e", None),
                ("f g", Some("1"))
            ]
        );
        assert_eq!(
            parse("- a\n- b: 1\n  c: 2\n-\n  - d\n").unwrap(),
            Value::List(vec![
                text("a"),
                Value::Map(vec![("b".into(), text("1")), ("c".into(), text("2"))]),
                Value::List(vec![text("d")]),
            ])
        );
        assert_eq!(parse("# nothing\n").unwrap(), Value::Empty);
    }

    #[test]
    fn what_is_not_read_is_refused_with_its_line() {
        for (document, line) in [
            ("a: |\n  text\n", 1),
            ("a: 1\n   b: 2\n", 2),
            ("a: &x 1\n", 1),
            ("a: 1\n- b\n", 2),
            ("a: {b: 1}\n", 1),
            ("a:\n\tb: 1\n", 2),
            ("a: 1\na: 2\n", 2),
            ("a: \"x\n", 1),
            ("just words\n", 1),
        ] {
            let refused = parse(document).expect_err(document);
            assert!(refused.starts_with(&format!("line {line}:")), "{document:?}: {refused}");
        }
        let deep = (0..100).map(|depth| format!("{}a:\n", " ".repeat(depth))).collect::<String>();
        assert!(parse(&deep).unwrap_err().contains("too deeply"));
    }
}
