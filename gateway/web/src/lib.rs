//! The web console's files, as they are in the program.
//!
//! Everything that a browser needs is here; the pages ask nobody but the gateway that served them, which their policy for content
//! makes certain ([`CONTENT_SECURITY_POLICY`]). The files are served as they were written: no build step stands in between, so what is
//! reviewed is what runs. They hold no secret and may be read by everybody; what they show comes from the API, for who has a token.

/// A file of the console.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct File {
    /// Its path below the console's.
    pub path: &'static str,
    /// Its media type.
    pub content_type: &'static str,
    /// Its bytes.
    pub content: &'static [u8],
}

/// The policy for everything of the console: scripts and styles only from these files, connections only to this gateway, no markup made
/// of text, no frames, no forms that go anywhere.
pub const CONTENT_SECURITY_POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; \
     connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; \
     require-trusted-types-for 'script'; trusted-types 'none'";

macro_rules! files {
    ($($path:literal: $kind:ident),* $(,)?) => {
        /// All of them.
        pub const FILES: &[File] = &[$(File {
            path: $path,
            content_type: $kind,
            content: include_bytes!(concat!("../assets/", $path)),
        }),*];
    };
}

const HTML: &str = "text/html; charset=utf-8";
const CSS: &str = "text/css; charset=utf-8";
const SCRIPT: &str = "text/javascript; charset=utf-8";
const SVG: &str = "image/svg+xml";

files! {
    "index.html": HTML,
    "app.css": CSS,
    "icon.svg": SVG,
    "api.js": SCRIPT,
    "app.js": SCRIPT,
    "dialog.js": SCRIPT,
    "dom.js": SCRIPT,
    "format.js": SCRIPT,
    "ui.js": SCRIPT,
    "pages/approvals.js": SCRIPT,
    "pages/drills.js": SCRIPT,
    "pages/gateways.js": SCRIPT,
    "pages/group.js": SCRIPT,
    "pages/jobs.js": SCRIPT,
    "pages/logs.js": SCRIPT,
    "pages/machines.js": SCRIPT,
    "pages/overview.js": SCRIPT,
    "pages/plans.js": SCRIPT,
    "pages/recovery.js": SCRIPT,
}

/// The file at a path below the console's; the empty one is its page.
#[must_use]
pub fn file(path: &str) -> Option<&'static File> {
    let wanted = if path.is_empty() { "index.html" } else { path };
    FILES.iter().find(|file| file.path == wanted)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::path::{Path, PathBuf};

    use super::*;

    fn assets() -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("assets")
    }

    fn on_disk(under: &Path, found: &mut BTreeSet<String>) {
        for entry in std::fs::read_dir(under).expect("a directory") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                on_disk(&path, found);
            } else {
                found.insert(path.strip_prefix(assets()).expect("below").display().to_string());
            }
        }
    }

    fn text(file: &File) -> &'static str {
        std::str::from_utf8(file.content).expect("text")
    }

    #[test]
    fn every_file_that_was_written_is_served_and_no_other() {
        let mut written = BTreeSet::new();
        on_disk(&assets(), &mut written);
        let served: BTreeSet<String> = FILES.iter().map(|file| file.path.to_owned()).collect();
        assert_eq!(served, written);
        assert_eq!(file("").map(|file| file.path), Some("index.html"));
        assert_eq!(file("../Cargo.toml"), None);
    }

    #[test]
    fn what_a_script_imports_is_there() {
        for script in FILES.iter().filter(|file| file.content_type == SCRIPT) {
            for line in text(script).lines().filter(|line| line.starts_with("import ")) {
                let from = line.rsplit('"').nth(1).expect("a quoted path");
                let folder = Path::new(script.path).parent().expect("a folder");
                let mut path = folder.to_path_buf();
                for part in Path::new(from).components() {
                    match part {
                        std::path::Component::ParentDir => assert!(path.pop(), "{from} in {}", script.path),
                        std::path::Component::Normal(name) => path.push(name),
                        _ => {}
                    }
                }
                assert!(file(&path.display().to_string()).is_some(), "{} imports {from}", script.path);
            }
        }
    }

    #[test]
    fn nothing_makes_markup_of_text_or_asks_somebody_else() {
        let forbidden = [
            "innerHTML",
            "outerHTML",
            "insertAdjacentHTML",
            "document.write",
            "eval(",
            "new Function",
            "https://",
            "http://",
            "style=",
            "localStorage",
            "document.cookie",
            "WebSocket",
        ];
        for file in FILES {
            for word in forbidden {
                let found = text(file).lines().find(|line| line.contains(word) && !line.contains("www.w3.org"));
                assert_eq!(found, None, "{} in {}", word, file.path);
            }
        }
    }

    /// Relative luminance of `#rrggbb`, by WCAG 2.2.
    fn luminance(colour: &str) -> f64 {
        let part = |at: usize| {
            let value = u8::from_str_radix(&colour[at..at + 2], 16).expect("hexadecimal");
            let share = f64::from(value) / 255.0;
            if share <= 0.04045 { share / 12.92 } else { ((share + 0.055) / 1.055).powf(2.4) }
        };
        0.2126 * part(1) + 0.7152 * part(3) + 0.0722 * part(5)
    }

    #[test]
    fn text_stands_out_in_the_light_and_in_the_dark() {
        let sheet = text(file("app.css").expect("there"));
        let (light, rest) = sheet.split_once("@media (prefers-color-scheme: dark)").expect("both");
        let dark = rest.split_once("\n}").expect("its end").0;
        for (name, part) in [("light", light), ("dark", dark)] {
            let colour = |wanted: &str| {
                let line = part.lines().find_map(|line| line.trim().strip_prefix(&format!("--{wanted}: ")));
                luminance(line.unwrap_or_else(|| panic!("{wanted} in the {name}")).trim_end_matches(';'))
            };
            for (front, back) in [
                ("text", "page"),
                ("text", "raised"),
                ("quiet", "page"),
                ("quiet", "raised"),
                ("link", "page"),
                ("link", "bad-page"),
                ("link", "warn-page"),
                ("good", "good-page"),
                ("warn", "warn-page"),
                ("bad", "bad-page"),
                ("bad", "page"),
                ("page", "bad"),
                ("on-accent", "accent"),
                ("text", "warn-page"),
                ("text", "bad-page"),
            ] {
                let (one, other) = (colour(front), colour(back));
                let ratio = (one.max(other) + 0.05) / (one.min(other) + 0.05);
                assert!(ratio >= 4.5, "{front} on {back} in the {name}: {ratio:.2}");
            }
        }
    }
}
