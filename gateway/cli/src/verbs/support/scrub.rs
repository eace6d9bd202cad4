//! Takes secrets out of texts before they leave the machine.
//!
//! Nothing that we write is meant to hold one. This is the second line: what this machine's secrets are, word by word, and what
//! looks like a secret wherever it stands. What is taken out leaves `[removed]`, and is counted.

use std::path::Path;

use serde_json::Value;

/// What stands in a secret's place.
pub(super) const REMOVED: &str = "[removed]";
/// Shorter ones would be found in words that mean nothing.
const SECRET_BYTES_MIN: usize = 8;
/// Names whose values are secrets, in whatever case and whatever stands around: settings, variables, fields.
const NAMES: [&str; 9] =
    ["secret", "password", "passphrase", "passwd", "token", "access_key", "account_key", "private_key", "credential"];
/// Names like these whose values say where a secret is, and how long it lives.
const NOT_NAMES: [&str; 6] = ["_file", "_id", "_days", "_ttl", "_source", "_seconds"];
/// What texts of ours that let somebody in begin with.
const OURS: [&str; 2] = ["lbt_", "lbr_"];

/// Knows what has to be taken out.
#[derive(Debug, Default)]
pub(super) struct Scrub {
    known: Vec<String>,
}

impl Scrub {
    /// With the secrets of a gateway's state directory and of this process's environment.
    pub(super) fn of(state: Option<&Path>) -> Self {
        let mut scrub = Self::default();
        for (name, value) in std::env::vars() {
            if is_name(&name) {
                scrub.add(&value);
            }
        }
        if let Some(state) = state {
            for file in ["admin.token", "ca.key"] {
                if let Ok(text) = std::fs::read_to_string(state.join(file)) {
                    scrub.add(&text);
                }
            }
            // Where it is encrypted there is nothing to take from it.
            for file in ["vaults.json", "registration.json", "register.json"] {
                let kept = std::fs::read(state.join(file)).ok();
                if let Some(kept) = kept.and_then(|bytes| serde_json::from_slice::<Value>(&bytes).ok()) {
                    scrub.add_fields(&kept, false);
                }
            }
        }
        scrub.known.sort_by_key(|one| std::cmp::Reverse(one.len()));
        scrub.known.dedup();
        scrub
    }

    fn add(&mut self, secret: &str) {
        let secret = secret.trim();
        if secret.len() >= SECRET_BYTES_MIN {
            self.known.push(secret.to_owned());
        }
    }

    /// The texts in fields whose name says that they are secret, and everything below those.
    fn add_fields(&mut self, value: &Value, secret: bool) {
        match value {
            Value::String(text) if secret => self.add(text),
            Value::Array(items) => items.iter().for_each(|item| self.add_fields(item, secret)),
            Value::Object(fields) => {
                for (name, value) in fields {
                    self.add_fields(value, secret || is_name(name) || name == "proxy");
                }
            }
            _ => {}
        }
    }

    /// The text without secrets, and how many were taken out.
    pub(super) fn text(&self, text: &str) -> (String, usize) {
        let (mut text, mut count) = (text.to_owned(), 0);
        for secret in &self.known {
            let found = text.matches(secret.as_str()).count();
            if found > 0 {
                text = text.replace(secret.as_str(), REMOVED);
                count += found;
            }
        }
        let mut clean = String::with_capacity(text.len());
        let mut within_key = false;
        for line in text.split_inclusive('\n') {
            // A key in PEM goes with everything between its lines; on one line, with what follows.
            let (begins, ends) = (line.contains("PRIVATE KEY-----"), line.contains("-----END"));
            if within_key || begins {
                if begins && !within_key && !line.trim_start().starts_with("-----END") {
                    count += 1;
                    clean.push_str(REMOVED);
                    clean.push('\n');
                }
                within_key = !ends;
                continue;
            }
            let (line, found) = scrub_line(line);
            count += found;
            clean.push_str(&line);
        }
        (clean, count)
    }
}

/// Whether what goes by this name is a secret.
fn is_name(name: &str) -> bool {
    let name = name.to_ascii_lowercase().replace('-', "_");
    NAMES.iter().any(|known| name.contains(known)) && !NOT_NAMES.iter().any(|end| name.ends_with(end))
}

/// Whether a name may have this character.
const fn is_word(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '_' | '-')
}

/// A line without what looks like a secret.
fn scrub_line(line: &str) -> (String, usize) {
    let (mut clean, mut rest, mut count) = (String::with_capacity(line.len()), line, 0);
    while !rest.is_empty() {
        let (length, kept) = secret_at(&clean, rest);
        if length > 0 {
            clean.push_str(kept);
            clean.push_str(REMOVED);
            count += 1;
            rest = rest.get(length..).unwrap_or_default();
            continue;
        }
        let mut chars = rest.chars();
        clean.extend(chars.next());
        rest = chars.as_str();
    }
    (clean, count)
}

/// The length of the secret that begins here, and what of it stays before [`REMOVED`]. `before` is the line up to here.
fn secret_at<'a>(before: &str, rest: &'a str) -> (usize, &'a str) {
    let nothing = (0, "");
    if !before.ends_with(is_word) {
        if let Some(ours) = OURS.into_iter().find(|ours| rest.starts_with(ours)) {
            let length = rest.find(|c| !is_word(c)).unwrap_or(rest.len());
            return if length > ours.len() + SECRET_BYTES_MIN { (length, "") } else { nothing };
        }
        if let Some(value) = rest.strip_prefix("Bearer ") {
            let length = value.find(|c: char| c.is_whitespace() || c == '"').unwrap_or(value.len());
            return if length >= SECRET_BYTES_MIN { ("Bearer ".len() + length, "Bearer ") } else { nothing };
        }
        // name=value, name = "value", "name": "value".
        let name = rest.find(|c| !is_word(c)).and_then(|length| rest.get(..length)).unwrap_or_default();
        if is_name(name) {
            let after = rest.get(name.len()..).unwrap_or_default();
            let value = after.trim_start_matches(['"', '\\', ' ']);
            let Some(value) = value.strip_prefix(['=', ':']) else { return nothing };
            let value = value.trim_start_matches(['"', '\\', '\'', ' ']);
            let length = value.find(['"', '\\', '\'', '\n', ',', '}', ' ']).unwrap_or(value.len());
            let is_word = value.get(..length).is_some_and(|word| matches!(word, "null" | "true" | "false" | REMOVED));
            if length == 0 || is_word {
                return nothing;
            }
            let head = rest.len() - value.len();
            return (head + length, rest.get(..head).unwrap_or_default());
        }
    }
    // scheme://user:password@host
    if before.ends_with("://") {
        let end = rest.find(['/', ' ', '"', '\n']).unwrap_or(rest.len());
        if let Some(at) = rest.get(..end).and_then(|place| place.rfind('@')) {
            return (at, "");
        }
    }
    nothing
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_this_machine_keeps_secret_is_taken_out_wherever_it_stands() {
        let dir = tempfile::tempdir().expect("a directory");
        std::fs::write(dir.path().join("admin.token"), "canary-administrator\n").expect("written");
        let vaults = r#"[{"url":"s3://vaults/acme","passphrase":"canary-passphrase","credentials":{"AWS_ACCESS_KEY_ID":"canary-access-id"},
            "proxy":"http://canary-user@proxy","key_file":"/etc/lifeboat/vault.key"}]"#;
        std::fs::write(dir.path().join("vaults.json"), vaults).expect("written");
        let scrub = Scrub::of(Some(dir.path()));
        let text = "a canary-administrator b canary-passphrase, canary-access-id at s3://vaults/acme by /etc/lifeboat/vault.key";
        let (clean, count) = scrub.text(text);
        assert_eq!(clean, "a [removed] b [removed], [removed] at s3://vaults/acme by /etc/lifeboat/vault.key");
        assert_eq!(count, 3);
    }

    #[test]
    fn what_looks_like_a_secret_is_taken_out_and_what_only_speaks_of_one_stays() {
        let scrub = Scrub::default();
        for (text, expected) in [
            ("AWS_SECRET_ACCESS_KEY=canary-1 next", "AWS_SECRET_ACCESS_KEY=[removed] next"),
            ("passphrase = \"canary-2\"\n", "passphrase = \"[removed]\"\n"),
            ("{\"storage-password\":\"canary-3\",\"x\":1}", "{\"storage-password\":\"[removed]\",\"x\":1}"),
            ("{\\\"client_secret\\\":\\\"canary-4\\\"}", "{\\\"client_secret\\\":\\\"[removed]\\\"}"),
            ("authorization: Bearer canary-5x", "authorization: Bearer [removed]"),
            ("token lbt_0123456789abcdef_canary refused", "token [removed] refused"),
            ("lbr_0123456789abcdef_canary", "[removed]"),
            ("via http://user:canary@proxy:3128/", "via http://[removed]@proxy:3128/"),
            ("a\n-----BEGIN PRIVATE KEY-----\ncanary\n-----END PRIVATE KEY-----\nb\n", "a\n[removed]\nb\n"),
            ("key_file = \"/etc/lifeboat/vault.key\"", "key_file = \"/etc/lifeboat/vault.key\""),
            ("token_file=/run/token", "token_file=/run/token"),
            ("token_id: tok-0123", "token_id: tok-0123"),
            ("the token has ended", "the token has ended"),
            ("\"passphrase\":null", "\"passphrase\":null"),
            ("https://[::1]:443/v1/status", "https://[::1]:443/v1/status"),
            ("mail to ops@example.org", "mail to ops@example.org"),
        ] {
            let (clean, count) = scrub.text(text);
            assert_eq!(clean, expected);
            assert_eq!(count, usize::from(text != expected), "{text}");
            assert_eq!(scrub.text(&clean).0, expected, "again: {text}");
        }
    }
}
