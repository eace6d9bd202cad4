//! Terraform's language, as far as declarations need it, laid out as `terraform fmt` lays it out.

use std::fmt::Write as _;

use serde_json::Value;

/// What stands right of a `=`.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Expression {
    /// A string, number, truth value or null.
    Literal(Value),
    /// Digits.
    Number(String),
    /// An address such as `lifeboat_vault.main.id`.
    Reference(String),
    /// `[…]`
    List(Vec<Self>),
    /// `{…}`, of attributes only.
    Object(Body),
}

/// What stands between the braces of a block: comments, then attributes, then blocks.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Body {
    comments: Vec<String>,
    attributes: Vec<(String, Expression)>,
    blocks: Vec<(String, Self)>,
}

impl Body {
    pub(super) fn comment(&mut self, text: &str) {
        self.comments.push(text.to_owned());
    }

    pub(super) fn attribute(&mut self, name: &str, value: Expression) {
        self.attributes.push((name.to_owned(), value));
    }

    pub(super) fn block(&mut self, name: &str, body: Self) {
        self.blocks.push((name.to_owned(), body));
    }

    fn is_empty(&self) -> bool {
        self.comments.is_empty() && self.attributes.is_empty() && self.blocks.is_empty()
    }

    fn write(&self, text: &mut String, depth: usize) {
        let indent = "  ".repeat(depth);
        for comment in &self.comments {
            let _ = writeln!(text, "{indent}# {comment}");
        }
        let width = self.attributes.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
        for (name, value) in &self.attributes {
            let _ = write!(text, "{indent}{name:width$} = ");
            value.write(text, depth);
            text.push('\n');
        }
        for (at, (name, body)) in self.blocks.iter().enumerate() {
            if at > 0 || !self.attributes.is_empty() || !self.comments.is_empty() {
                text.push('\n');
            }
            let _ = write!(text, "{indent}{name} ");
            body.braces(text, depth);
            text.push('\n');
        }
    }

    fn braces(&self, text: &mut String, depth: usize) {
        if self.is_empty() {
            text.push_str("{}");
            return;
        }
        text.push_str("{\n");
        self.write(text, depth + 1);
        let _ = write!(text, "{}}}", "  ".repeat(depth));
    }
}

impl Expression {
    fn write(&self, text: &mut String, depth: usize) {
        match self {
            Self::Literal(Value::String(literal)) => quote(text, literal),
            Self::Literal(other) => {
                let _ = write!(text, "{other}");
            }
            Self::Number(plain) | Self::Reference(plain) => text.push_str(plain),
            Self::List(items) => {
                text.push('[');
                for (at, item) in items.iter().enumerate() {
                    if at > 0 {
                        text.push_str(", ");
                    }
                    item.write(text, depth);
                }
                text.push(']');
            }
            Self::Object(body) => body.braces(text, depth),
        }
    }
}

/// A block at the top of a file, with a line end.
pub(super) fn block(kind: &str, labels: &[&str], body: &Body) -> String {
    let mut text = kind.to_owned();
    for label in labels {
        text.push(' ');
        quote(&mut text, label);
    }
    text.push(' ');
    body.braces(&mut text, 0);
    text.push('\n');
    text
}

/// A string in which Terraform finds nothing to put in.
fn quote(text: &mut String, literal: &str) {
    text.push('"');
    let mut rest = literal.chars().peekable();
    while let Some(c) = rest.next() {
        match c {
            '"' | '\\' => text.extend(['\\', c]),
            '\n' => text.push_str("\\n"),
            '\r' => text.push_str("\\r"),
            '\t' => text.push_str("\\t"),
            '$' | '%' if rest.peek() == Some(&'{') => text.extend([c, c]),
            c if c.is_control() => {
                let _ = write!(text, "\\u{:04x}", u32::from(c));
            }
            c => text.push(c),
        }
    }
    text.push('"');
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_means_what_it_says() {
        let mut text = String::new();
        quote(&mut text, "a\"b\\c\n${d} %{e} $f \u{7}ü");
        assert_eq!(text, r#""a\"b\\c\n$${d} %%{e} $f \u0007ü""#);
    }

    #[test]
    fn lists_and_objects() {
        let mut body = Body::default();
        let items = vec![Expression::Literal("a".into()), Expression::Reference("b.id".into())];
        body.attribute("roles", Expression::List(items));
        let mut outer = Body::default();
        outer.attribute("of", Expression::Object(body));
        assert_eq!(block("t", &["l"], &outer), "t \"l\" {\n  of = {\n    roles = [\"a\", b.id]\n  }\n}\n");
    }
}
