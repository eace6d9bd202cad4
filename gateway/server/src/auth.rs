//! Who may ask: one administrator's token, of which only the hash is kept in memory.

use anyhow::Context;
use aws_lc_rs::{constant_time, digest, rand};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use crate::state_dir::StateDir;

/// Decides about tokens.
#[derive(Debug)]
pub(crate) struct Gate {
    hash: [u8; 32],
}

impl Gate {
    /// Takes the token from the state directory; makes one of 256 random bits when there is none.
    pub(crate) fn open(state: &StateDir) -> anyhow::Result<Self> {
        let token = state.text_or_make("admin.token", || {
            let mut bytes = [0; 32];
            rand::fill(&mut bytes).context("drawing a random token")?;
            Ok(format!("lbt_{}", URL_SAFE_NO_PAD.encode(bytes)))
        })?;
        Ok(Self { hash: hash(&token) })
    }

    /// Whether an `Authorization` header carries the token. Takes the same time whatever it carries.
    pub(crate) fn admits(&self, header: Option<&http::HeaderValue>) -> bool {
        let token = header
            .and_then(|value| value.to_str().ok())
            .and_then(|text| text.split_once(' '))
            .filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"))
            .map_or("", |(_, token)| token.trim());
        constant_time::verify_slices_are_equal(&hash(token), &self.hash).is_ok()
    }
}

fn hash(token: &str) -> [u8; 32] {
    let digest = digest::digest(&digest::SHA256, token.as_bytes());
    let mut bytes = [0; 32];
    bytes.copy_from_slice(digest.as_ref());
    bytes
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    #[test]
    fn only_the_token_opens_the_gate() {
        let directory = tempfile::tempdir().expect("tempdir");
        let state = StateDir::take(directory.path()).expect("free");
        let gate = Gate::open(&state).expect("made");
        let token = std::fs::read_to_string(directory.path().join("admin.token")).expect("there");
        let token = token.trim();
        assert!(token.len() >= 43);
        let header = |text: &str| HeaderValue::from_str(text).expect("a header");
        assert!(gate.admits(Some(&header(&format!("Bearer {token}")))));
        assert!(gate.admits(Some(&header(&format!("bearer {token}")))));
        for wrong in
            [String::new(), token.to_owned(), format!("Basic {token}"), format!("Bearer {token}x"), "Bearer ".into()]
        {
            assert!(!gate.admits(Some(&header(&wrong))), "{wrong:?}");
        }
        assert!(!gate.admits(None));
        assert!(!format!("{gate:?}").contains(token));
        assert!(Gate::open(&state).expect("kept").admits(Some(&header(&format!("Bearer {token}")))));
    }
}
