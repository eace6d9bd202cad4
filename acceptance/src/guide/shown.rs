//! Whether a command showed what a guide says.
//!
//! A reader's times, ids and figures are others than the guide's: a number stands for any number, a time for any time, an id for any id
//! of its kind, runs of spaces for any others, `…` for anything.

/// What differs first, if anything: what was expected, and what was shown.
#[must_use]
pub fn differs(expected: &str, shown: &str) -> Option<String> {
    compared(expected, shown, plain)
}

/// The same where figures, times and ids count: spaces and `…` alone stand for others.
#[must_use]
pub(super) fn differs_at_all(expected: &str, shown: &str) -> Option<String> {
    compared(expected, shown, |line| line.split_whitespace().collect::<Vec<_>>().join(" "))
}

fn compared(expected: &str, shown: &str, plain: impl Fn(&str) -> String + Copy) -> Option<String> {
    let expected: Vec<String> = expected.lines().map(plain).filter(|line| !line.is_empty()).collect();
    let shown: Vec<String> = shown.lines().map(plain).filter(|line| !line.is_empty()).collect();
    (!lines_match(&expected, &shown)).then(|| {
        let missing = expected.iter().find(|line| !shown.iter().any(|other| line_matches(line, other)));
        let missing = missing.map_or("the order of the lines differs", String::as_str);
        format!("expected, and not shown: {missing}")
    })
}

fn lines_match(expected: &[String], shown: &[String]) -> bool {
    match expected.split_first() {
        None => shown.is_empty(),
        Some((first, rest)) if first == "…" => (0..=shown.len()).any(|skipped| lines_match(rest, &shown[skipped..])),
        Some((first, rest)) => {
            shown.split_first().is_some_and(|(line, others)| line_matches(first, line) && lines_match(rest, others))
        }
    }
}

fn line_matches(expected: &str, shown: &str) -> bool {
    let mut parts = expected.split('…');
    let first = parts.next().unwrap_or_default();
    let Some(mut rest) = shown.strip_prefix(first) else { return false };
    let mut parts: Vec<&str> = parts.collect();
    let Some(last) = parts.pop() else { return rest.is_empty() };
    for part in parts {
        let Some(at) = rest.find(part) else { return false };
        rest = &rest[at + part.len()..];
    }
    rest.ends_with(last)
}

/// A line with what differs from run to run taken out.
fn plain(line: &str) -> String {
    let words: Vec<String> = line.split_whitespace().map(word).collect();
    words.join(" ")
}

fn word(word: &str) -> String {
    // An id: a short word, a dash, and many hexadecimal digits (a guide may cut them short by `…`).
    if let Some((kind, digits)) = word.split_once('-') {
        let hex = digits.trim_end_matches(['.', ',', ':', ')', '`']);
        let short = hex.strip_suffix('…').unwrap_or(hex);
        let id = kind.len() <= 5
            && kind.chars().all(|c| c.is_ascii_lowercase())
            && short.len() >= 4
            && short.chars().all(|c| c.is_ascii_hexdigit())
            && short.chars().any(|c| c.is_ascii_digit());
        if id {
            return format!("{kind}-ID{}", &digits[hex.len()..]);
        }
    }
    let mut plain = String::new();
    let mut digits = false;
    let mut characters = word.chars().peekable();
    while let Some(c) = characters.next() {
        let within = digits && (c == '.') && characters.peek().is_some_and(char::is_ascii_digit);
        if c.is_ascii_digit() || within {
            if !digits {
                plain.push('#');
            }
            digits = true;
        } else {
            digits = false;
            plain.push(c);
        }
    }
    // With and without fractions of a second.
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_times_and_ids_are_anybodys() {
        for (expected, shown) in [
            ("ledger  protected  0.4 s", "ledger   protected   12 s\n"),
            ("2026-11-20T10:05:00Z x", "2026-11-30T01:02:03.456789Z x"),
            ("point pt-01a2… ok", "point pt-0198f2c0000070008000000000000003 ok"),
            ("a …\n…\nz", "a b c\nq\nr\nz"),
            ("…", ""),
            ("…\nz\n…", "a\nz"),
            ("x … y", "x 1 2 y"),
        ] {
            assert_eq!(differs(expected, shown), None, "{expected:?} {shown:?}");
        }
        for (expected, shown) in [
            ("ledger protected", "ledger failed"),
            ("a\nb", "a"),
            ("a", "a\nb"),
            ("a\nb", "b\na"),
            ("x … y", "x y z"),
            ("", "a"),
        ] {
            assert!(differs(expected, shown).is_some(), "{expected:?} {shown:?}");
        }
        assert_eq!(differs_at_all("a  1", "a 1"), None);
        assert!(differs_at_all("a 1", "a 2").is_some());
        assert_eq!(differs("a\nb protected", "a\nb failed").as_deref(), Some("expected, and not shown: b protected"));
    }
}
