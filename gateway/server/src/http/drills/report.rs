//! The report of a drill: its evidence as a page for people, with the pictures of the machines' screens.
//!
//! Everything in it is from the signed document, which stands at its end as it was signed.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde_json::Value;

use crate::records::EvidenceRecord;

const STYLE: &str = "body{font:15px/1.5 system-ui,sans-serif;color:#1b1f24;max-width:62rem;margin:2rem auto;padding:0 1rem}\
    h1{font-size:1.5rem}h2{font-size:1.1rem;margin-top:2rem}\
    .passed{color:#0a6b2d}.failed{color:#b3261e}.verdict{font-size:1.2rem;font-weight:600}\
    table{border-collapse:collapse;width:100%}td,th{text-align:left;vertical-align:top;padding:.3rem .6rem;border-bottom:1px solid #d5dae0}\
    th{font-weight:600}img{max-width:100%;border:1px solid #d5dae0;background:#000}\
    pre{overflow-x:auto;background:#f4f6f8;padding:1rem;font-size:12px}code{overflow-wrap:anywhere}\
    @media(prefers-color-scheme:dark){body{background:#14171a;color:#e4e7ea}pre{background:#1e2327}td,th,img{border-color:#3a4147}\
    .passed{color:#6bd58f}.failed{color:#ff8f86}}";

/// Text that may stand in a page.
fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            other => out.push(other),
        }
    }
    out
}

/// A value as text; nothing for what isn't there.
fn text(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => escaped(text),
        Value::Number(number) => number.as_f64().map_or_else(|| number.to_string(), |number| format!("{number:.1}")),
        other => escaped(&other.to_string()),
    }
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map(Vec::as_slice).unwrap_or_default()
}

fn verdict(passed: bool) -> &'static str {
    if passed { "<span class=\"passed\">passed</span>" } else { "<span class=\"failed\">not passed</span>" }
}

/// A measure beside its limit.
fn measure(found: &Value, limit: &Value) -> String {
    let found = if found.is_null() { "–".to_owned() } else { format!("{} s", text(found)) };
    if limit.is_null() { found } else { format!("{found} (at most {} is wanted)", text(limit)) }
}

/// The page; `pictures` are in base64, by the SHA-256 of their bytes.
pub(super) fn page(record: &EvidenceRecord, pictures: &BTreeMap<String, String>) -> String {
    let evidence: Value = serde_json::from_str(&record.evidence).unwrap_or_default();
    let mut out = String::new();
    // Writing to a string doesn't fail.
    let _ = write_page(&mut out, record, &evidence, pictures);
    out
}

fn write_page(
    out: &mut String,
    record: &EvidenceRecord,
    evidence: &Value,
    pictures: &BTreeMap<String, String>,
) -> std::fmt::Result {
    let passed = evidence["passed"] == true;
    let (drill, plan) = (text(&evidence["drill"]["name"]), text(&evidence["plan"]["name"]));
    write!(
        out,
        "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\
         <meta name=\"viewport\" content=\"width=device-width,initial-scale=1\">\
         <title>Drill {drill}</title><style>{STYLE}</style></head><body>\n<h1>Drill {drill} of the plan {plan}</h1>\n\
         <p class=\"verdict\">{}</p>\n",
        verdict(passed)
    )?;
    let failures = list(&evidence["failures"]);
    if !failures.is_empty() {
        out.push_str("<ul>");
        for failure in failures {
            write!(out, "<li class=\"failed\">{}</li>", text(failure))?;
        }
        out.push_str("</ul>\n");
    }
    let begun = if evidence["scheduled"] == true { "by its schedule" } else { "by a person or a program" };
    let end = match (evidence["kept"] == true, evidence["cleaned_up"] == true) {
        (true, _) => "left up, as declared",
        (false, true) => "cleaned up",
        (false, false) => "nothing was there to clean up, or it isn't cleaned up yet",
    };
    let rows = [
        ("Recovery time", measure(&evidence["rto_seconds"], &evidence["max_rto"])),
        ("Data that would have been lost", measure(&evidence["rpo_seconds"], &evidence["max_rpo"])),
        ("Begun", format!("{} {begun}", text(&evidence["started"]))),
        ("Signed", text(&evidence["finished"])),
        ("Worth something for", text(&evidence["valid_for"])),
        ("Vault", text(&evidence["vault"]["name"])),
        ("Gateway", format!("{} {}", text(&evidence["gateway"]["name"]), text(&evidence["gateway"]["version"]))),
        ("Test", end.to_owned()),
        ("Run", format!("<code>{}</code>", text(&evidence["run"]))),
    ];
    out.push_str("<table>");
    for (name, value) in rows {
        write!(out, "<tr><th>{name}</th><td>{value}</td></tr>")?;
    }
    out.push_str("</table>\n");
    table(
        out,
        "What was asserted",
        &["", "What", "Of", "Wanted", "Found", "Seconds"],
        list(&evidence["assertions"]).iter().map(|one| {
            let held = one["passed"] == true;
            let fields = ["type", "of", "wanted", "found", "seconds"].map(|name| text(&one[name]));
            [vec![verdict(held).to_owned()], fields.into()].concat()
        }),
    )?;
    table(
        out,
        "Where it began",
        &["Group", "Recovery point", "Of"],
        list(&evidence["points"])
            .iter()
            .map(|point| ["group", "point_id", "point_time"].map(|name| text(&point[name])).into()),
    )?;
    table(
        out,
        "What ran",
        &["Machine", "Addresses"],
        list(&evidence["machines"]).iter().map(|machine| {
            let addresses = list(&machine["interfaces"]).iter().map(|one| text(&one["address"]));
            vec![text(&machine["name"]), addresses.filter(|one| !one.is_empty()).collect::<Vec<_>>().join(", ")]
        }),
    )?;
    for picture in list(&evidence["pictures"]) {
        let Some(content) = picture["sha256"].as_str().and_then(|sum| pictures.get(sum)) else { continue };
        let machine = text(&picture["machine"]);
        write!(
            out,
            "<h2>Screen of {machine}</h2>\n<p><img alt=\"Screen of {machine}\" src=\"data:image/png;base64,{content}\"></p>\
             <p>Looks like <code>{}</code></p>\n",
            text(&picture["picture"])
        )?;
    }
    let notes = list(&evidence["notes"]);
    if !notes.is_empty() {
        out.push_str("<h2>Notes</h2><ul>");
        for note in notes {
            write!(out, "<li>{}</li>", text(note))?;
        }
        out.push_str("</ul>\n");
    }
    write!(
        out,
        "<h2>What was signed</h2>\n<p>Ed25519 signature <code>{}</code><br>by the public key <code>{}</code></p>\n<pre>{}</pre>\n</body></html>\n",
        escaped(&record.signature),
        escaped(&record.public_key),
        escaped(&record.evidence)
    )
}

fn table(out: &mut String, title: &str, columns: &[&str], rows: impl Iterator<Item = Vec<String>>) -> std::fmt::Result {
    let rows: Vec<Vec<String>> = rows.collect();
    if rows.is_empty() {
        return Ok(());
    }
    write!(out, "<h2>{title}</h2>\n<table><tr>")?;
    for column in columns {
        write!(out, "<th>{column}</th>")?;
    }
    out.push_str("</tr>");
    for row in rows {
        out.push_str("<tr>");
        for cell in row {
            write!(out, "<td>{cell}</td>")?;
        }
        out.push_str("</tr>");
    }
    out.push_str("</table>\n");
    Ok(())
}

#[cfg(test)]
mod tests {
    use lifeboat_model::DrillId;
    use serde_json::json;

    use super::*;

    #[test]
    fn nothing_of_a_machine_gets_out_of_its_text() {
        let evidence = json!({
            "passed": false,
            "failures": ["boots of <web>: its console ends with \"<script>alert(1)</script>\""],
            "drill": {"name": "d"}, "plan": {"name": "p"},
            "assertions": [{"type": "boots", "of": "web", "wanted": "login:", "found": "<img src=x onerror=y>", "passed": false}],
            "pictures": [{"machine": "web", "sha256": "abc", "picture": "00"}, {"machine": "db", "sha256": "gone"}],
        });
        let record = EvidenceRecord {
            drill: DrillId::from_bytes([1; 16]),
            evidence: evidence.to_string(),
            signature: "s".into(),
            public_key: "k".into(),
            pictures: Vec::new(),
        };
        let page = page(&record, &BTreeMap::from([("abc".to_owned(), "AAAA".to_owned())]));
        assert!(!page.contains("<script>") && !page.contains("<img src=x"), "{page}");
        assert!(page.contains("&lt;script&gt;") && page.contains("not passed"), "{page}");
        assert!(page.contains("data:image/png;base64,AAAA") && !page.contains("Screen of db"), "{page}");
    }
}
