//! Results as text for people: tables, lists of named values, sizes and times.
//!
//! Pure functions. Names and messages come from a catalog that other machines write, so whatever could move a terminal's
//! cursor or turn its text around is shown escaped.

use std::borrow::Cow;
use std::fmt::Write as _;

use serde::Serialize;
use serde_json::Value;

use crate::output::line_width;

/// What stands in a cell that has no value.
pub(crate) const NOTHING: &str = "-";

/// Escapes what a terminal would act on instead of showing it.
pub(crate) fn clean(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for c in text.chars() {
        let turns_text = matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{200e}' | '\u{200f}');
        if c.is_control() || turns_text {
            shown.extend(c.escape_default());
        } else {
            shown.push(c);
        }
    }
    shown
}

fn width(text: &str) -> usize {
    text.chars().count()
}

/// Narrower than this no column is made but the last resort.
const COLUMN_MIN: usize = 8;
/// Between two columns.
const GAP: usize = 2;

/// Rows under headings, in columns. On a terminal it is never wider than a line: cells are cut, those of the least important column
/// first, and end with `…` then; nothing is cut where a program reads.
#[derive(Debug)]
pub(crate) struct Table {
    head: Vec<&'static str>,
    rows: Vec<Vec<String>>,
    yielding: &'static [&'static str],
    line: Option<usize>,
}

impl Table {
    pub(crate) fn new(head: &[&'static str]) -> Self {
        Self { head: head.to_vec(), rows: Vec::new(), yielding: &[], line: line_width() }
    }

    /// The columns that are cut first where there isn't room, the least important one first. The others follow, the widest first,
    /// those with ids last: they are there to be copied.
    pub(crate) const fn yielding(mut self, columns: &'static [&'static str]) -> Self {
        self.yielding = columns;
        self
    }

    /// One more row; empty cells are shown as `-`.
    pub(crate) fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        let shown = |cell: String| if cell.is_empty() { NOTHING.to_owned() } else { clean(&cell) };
        self.rows.push(cells.into_iter().map(shown).collect());
    }

    /// The table, or a sentence that there is nothing.
    pub(crate) fn or(&self, nothing: &str) -> String {
        if self.rows.is_empty() { nothing.to_owned() } else { self.to_string() }
    }
}

impl std::fmt::Display for Table {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let head: Vec<String> = self.head.iter().map(ToString::to_string).collect();
        let lines: Vec<&Vec<String>> = std::iter::once(&head).chain(&self.rows).collect();
        let columns = lines.iter().map(|line| line.len()).max().unwrap_or(0);
        let mut widths: Vec<usize> = (0..columns)
            .map(|column| lines.iter().filter_map(|line| line.get(column)).map(|cell| width(cell)).max().unwrap_or(0))
            .collect();
        if let Some(line) = self.line {
            self.fit(&mut widths, line);
        }
        for line in lines {
            let mut text = String::new();
            for (cell, wide) in line.iter().zip(&widths) {
                let cell = cut(cell, *wide);
                let gap = wide.saturating_sub(width(&cell)).saturating_add(GAP);
                text.push_str(&cell);
                text.push_str(&" ".repeat(gap));
            }
            writeln!(f, "{}", cut(text.trim_end(), self.line.unwrap_or(usize::MAX)))?;
        }
        Ok(())
    }
}

impl Table {
    /// Makes columns narrower until a line holds them all, or none can give more.
    fn fit(&self, widths: &mut [usize], line: usize) {
        let name = |column: usize| self.head.get(column).copied().unwrap_or_default();
        let mut order: Vec<usize> = (0..widths.len()).collect();
        let wide = |column: usize| widths.get(column).copied().unwrap_or_default();
        order.sort_by_key(|&column| {
            let first = self.yielding.iter().position(|yields| *yields == name(column));
            (first.unwrap_or(usize::MAX), name(column) == "ID", std::cmp::Reverse(wide(column)))
        });
        let gaps = widths.len().saturating_sub(1).saturating_mul(GAP);
        for column in order {
            let excess = widths.iter().sum::<usize>().saturating_add(gaps).saturating_sub(line);
            if let Some(wide) = widths.get_mut(column) {
                let least = COLUMN_MIN.min(*wide);
                *wide = wide.saturating_sub(excess).max(least);
            }
        }
    }
}

/// A text of at most so many characters; what is cut off leaves `…`.
fn cut(text: &str, wide: usize) -> Cow<'_, str> {
    if width(text) <= wide {
        return Cow::Borrowed(text);
    }
    Cow::Owned(text.chars().take(wide.saturating_sub(1)).chain(['…']).collect())
}

/// Names and values, one a line, values in one column.
pub(crate) fn fields<N: AsRef<str>>(pairs: &[(N, String)]) -> String {
    let wide = pairs.iter().map(|(name, _)| width(name.as_ref())).max().unwrap_or(0);
    pairs.iter().fold(String::new(), |mut text, (name, value)| {
        let name = name.as_ref();
        // Writing to a string can't fail.
        let _ = writeln!(text, "{name}{}  {}", " ".repeat(wide.saturating_sub(width(name))), clean(value));
        text
    })
}

/// A resource as `show` prints it: what it is, what was declared, what is observed.
pub(crate) fn resource(value: &impl Serialize) -> String {
    let value = serde_json::to_value(value).unwrap_or_default();
    let mut text = String::new();
    let top: Vec<(String, String)> = flatten(&value)
        .into_iter()
        .filter(|(path, _)| !path.starts_with("spec.") && !path.starts_with("status."))
        .collect();
    text.push_str(&fields(&top));
    for (part, title) in [("spec", "declared"), ("status", "observed")] {
        let pairs: Vec<(String, String)> = value
            .get(part)
            .map(flatten)
            .unwrap_or_default()
            .into_iter()
            .map(|(path, shown)| (format!("  {path}"), shown))
            .collect();
        if !pairs.is_empty() {
            let _ = write!(text, "{title}\n{}", fields(&pairs));
        }
    }
    text
}

/// Every value of a document with its path, as it is written in the API. What is absent is left out.
pub(crate) fn flatten(value: &Value) -> Vec<(String, String)> {
    let mut found = Vec::new();
    descend(value, String::new(), &mut found);
    found
}

fn descend(value: &Value, path: String, found: &mut Vec<(String, String)>) {
    match value {
        Value::Null => {}
        Value::Object(members) => {
            // Its identity comes first, whatever the alphabet says.
            let first = ["id", "name"];
            let leading = first.iter().filter_map(|name| members.get_key_value(*name));
            let rest = members.iter().filter(|(name, _)| !first.contains(&name.as_str()));
            for (name, member) in leading.chain(rest) {
                let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
                descend(member, path, found);
            }
        }
        Value::Array(items) if items.iter().all(Value::is_string) => {
            let items: Vec<&str> = items.iter().filter_map(Value::as_str).collect();
            if !items.is_empty() {
                found.push((path, items.join(", ")));
            }
        }
        Value::Array(items) => {
            for (index, item) in items.iter().enumerate() {
                descend(item, format!("{path}[{index}]"), found);
            }
        }
        Value::Number(number) => {
            let shown = match number.as_u64() {
                Some(count) if path.ends_with("_bytes") || path.contains("bytes_") => with_size(count),
                Some(count) => count.to_string(),
                None => number.as_f64().map_or_else(|| number.to_string(), decimal),
            };
            found.push((path, shown));
        }
        Value::String(text) => found.push((path, text.clone())),
        Value::Bool(truth) => found.push((path, truth.to_string())),
    }
}

fn with_size(count: u64) -> String {
    if count < 1024 { count.to_string() } else { format!("{count} ({})", size(count)) }
}

/// A number with at most three decimals.
fn decimal(number: f64) -> String {
    let text = format!("{number:.3}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

/// Seconds as people say them.
pub(crate) fn seconds(number: f64) -> String {
    format!("{} s", decimal(number))
}

/// A count of bytes in the unit that suits it: `1 GiB`, `12.5 MiB`.
pub(crate) fn size(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["KiB", "MiB", "GiB", "TiB", "PiB"];
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    let mut scale = 1024_u64;
    let mut unit = "KiB";
    for next in UNITS.iter().skip(1) {
        let Some(larger) = scale.checked_mul(1024) else { break };
        if bytes < larger {
            break;
        }
        (scale, unit) = (larger, next);
    }
    let tenths = u128::from(bytes) * 10 / u128::from(scale);
    if tenths.is_multiple_of(10) {
        format!("{} {unit}", tenths / 10)
    } else {
        format!("{}.{} {unit}", tenths / 10, tenths % 10)
    }
}

/// Reads a size: a whole number of bytes, or of `KiB`, `MiB`, `GiB`, `TiB`.
///
/// # Errors
/// What is wrong with it, for the command line's parser.
pub(crate) fn parse_size(text: &str) -> Result<u64, String> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let factor: u64 = match unit.trim() {
        "" | "B" => 1,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        "TiB" => 1 << 40,
        _ => return Err("expected a number and KiB, MiB, GiB or TiB, for example 10GiB".to_owned()),
    };
    let number: u64 = number.parse().map_err(|_| "expected a number and a unit, for example 10GiB".to_owned())?;
    number.checked_mul(factor).ok_or_else(|| "is larger than any volume can be".to_owned())
}

/// A value that may be absent, as a cell.
pub(crate) fn maybe<T: ToString>(value: Option<T>) -> String {
    value.map_or_else(|| NOTHING.to_owned(), |value| value.to_string())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn tables_line_up_and_show_what_is_missing() {
        let mut table = Table::new(&["NAME", "STATE", "ID"]);
        table.row(["db".into(), "protected".into(), "vol-1".into()]);
        table.row(["a-long-name".into(), String::new(), "vol-2".into()]);
        assert_eq!(
            table.to_string(),
            "NAME         STATE      ID\ndb           protected  vol-1\na-long-name  -          vol-2\n"
        );
        assert_eq!(Table::new(&["NAME"]).or("no volumes"), "no volumes");
    }

    #[test]
    fn a_table_is_never_wider_than_a_line() {
        let id = "grp-0198f2c0000070008000000000000002";
        let mut table = Table::new(&["NAME", "STATE", "REASON", "ID"]).yielding(&["REASON"]);
        table.row(["ledger".into(), "protected".into(), "the vault takes nothing since an hour".into(), id.into()]);
        let shown = |wide: usize| {
            Table { line: Some(wide), rows: table.rows.clone(), head: table.head.clone(), ..table }.to_string()
        };
        assert!(shown(120).contains("since an hour  grp-"), "{}", shown(120));
        assert_eq!(
            shown(80).lines().last(),
            Some("ledger  protected  the vault takes nothin…  grp-0198f2c0000070008000000000000002")
        );
        // At last the ids, and then the line itself.
        assert_eq!(shown(40).lines().last(), Some("ledger  protect…  the vau…  grp-0198f2c…"));
        for wide in 1..130 {
            assert!(shown(wide).lines().all(|line| line.chars().count() <= wide), "{wide}:\n{}", shown(wide));
        }
    }

    #[test]
    fn a_name_cannot_move_the_cursor_or_turn_the_text() {
        let mut table = Table::new(&["NAME"]);
        table.row(["\u{1b}[2Jx\ny\u{202e}z".into()]);
        assert_eq!(table.to_string(), "NAME\n\\u{1b}[2Jx\\ny\\u{202e}z\n");
    }

    #[test]
    fn a_resource_shows_what_was_declared_and_what_is_observed() {
        let value = json!({
            "id": "vol-1", "generation": 2,
            "spec": { "size_bytes": 1_073_741_824_u64, "name": "db", "policy_id": null },
            "status": { "reasons": ["a", "b"], "tests": [{ "path": "/x" }], "landed_rpo_seconds": 1.234_56, "ok": true }
        });
        let expected = "id          vol-1\n\
                        generation  2\n\
                        declared\n\
                        \x20 name        db\n\
                        \x20 size_bytes  1073741824 (1 GiB)\n\
                        observed\n\
                        \x20 landed_rpo_seconds  1.235\n\
                        \x20 ok                  true\n\
                        \x20 reasons             a, b\n\
                        \x20 tests[0].path       /x\n";
        assert_eq!(resource(&value), expected);
    }

    #[test]
    fn sizes_read_as_they_are_written() {
        for (text, bytes) in [("4096", 4096), ("1GiB", 1 << 30), ("512 MiB", 512 << 20), ("64TiB", 64 << 40)] {
            assert_eq!(parse_size(text), Ok(bytes), "{text}");
        }
        for wrong in ["", "GiB", "1GB", "1.5GiB", "-1", "99999999999TiB"] {
            assert!(parse_size(wrong).is_err(), "{wrong}");
        }
        let shown = [0, 1023, 1024, 1536, 1 << 20, (1 << 30) - 1, 1 << 30, u64::MAX].map(size);
        assert_eq!(shown, ["0 B", "1023 B", "1 KiB", "1.5 KiB", "1 MiB", "1023.9 MiB", "1 GiB", "16383.9 PiB"]);
    }
}
