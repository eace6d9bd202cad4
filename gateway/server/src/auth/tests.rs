//! Who is let in, and as whom.

use http::HeaderValue;
use lifeboat_api::Secret;

use super::*;
use crate::records::SecretRecord;

const NOW: Timestamp = Timestamp::from_micros(1_800_000_000_000_000);

fn header(text: &str) -> HeaderValue {
    HeaderValue::from_str(text).expect("a header")
}

fn after(seconds: i64) -> Timestamp {
    Timestamp::from_micros(NOW.as_micros() + seconds * 1_000_000)
}

/// A token with one secret, as its document.
fn token(change: impl Fn(&mut TokenRecord)) -> (TokenId, Secret, Document) {
    let id = TokenId::new();
    let (text, hash) = fresh(id).expect("random bits");
    let mut record =
        TokenRecord { secrets: vec![SecretRecord { hash, created: NOW, ends: None }], ..TokenRecord::default() };
    change(&mut record);
    let spec = TokenSpecRecord { roles: vec!["operator".into(), "shaman".into()], created_by: None };
    let document = Document {
        kind: kind::TOKENS.into(),
        id: id.to_string(),
        revision: 1,
        generation: 1,
        name: "ci".into(),
        created: NOW,
        updated: NOW,
        deleted: false,
        spec: serde_json::to_value(spec).expect("plain"),
        status: serde_json::to_value(record).expect("plain"),
    };
    (id, text, document)
}

#[test]
fn the_administrators_token_opens_the_gate_with_every_role() {
    let directory = tempfile::tempdir().expect("tempdir");
    let state = StateDir::take(directory.path()).expect("free");
    let gate = Gate::open(&state).expect("made");
    let token = std::fs::read_to_string(directory.path().join("admin.token")).expect("there");
    let token = token.trim();
    assert!(token.len() >= 43);
    let ask = |text: &str| gate.identify(Some(&header(text)), "a", &[], NOW);
    for right in [format!("Bearer {token}"), format!("bearer {token}")] {
        let identity = ask(&right).expect("let in");
        assert_eq!((identity.principal.kind, identity.roles), (PrincipalKind::Administrator, Role::ALL.to_vec()));
        assert_eq!(identity.principal.name, "a");
    }
    for (wrong, refusal) in [
        (String::new(), Refusal::Missing),
        (token.to_owned(), Refusal::Missing),
        (format!("Basic {token}"), Refusal::Missing),
        ("Bearer ".into(), Refusal::Missing),
        (format!("Bearer {token}x"), Refusal::Unknown),
        (format!("Bearer {}", fresh(TokenId::new()).expect("random bits").0.expose()), Refusal::Unknown),
    ] {
        assert_eq!(ask(&wrong), Err(refusal), "{wrong:?}");
    }
    assert_eq!(gate.identify(None, "a", &[], NOW), Err(Refusal::Missing));
    assert!(!format!("{gate:?}").contains(token));
    assert!(
        Gate::open(&state).expect("kept").identify(Some(&header(&format!("Bearer {token}"))), "a", &[], NOW).is_ok()
    );
}

#[test]
fn a_token_is_its_secret_and_gives_the_roles_that_are_known() {
    let (id, text, document) = token(|_| {});
    let found = holder(&document, id, &hash(text.expose()), NOW).expect("let in");
    assert_eq!(found.roles, [Role::Operator], "a role of a newer version gives nothing");
    assert_eq!(found.principal.id, Some(id.to_string()));
    let (_, other, _) = token(|_| {});
    assert_eq!(holder(&document, id, &hash(other.expose()), NOW), Err(Refusal::Unknown));
    let mut broken = document.clone();
    broken.status = serde_json::json!({"secrets": "none"});
    assert_eq!(holder(&broken, id, &hash(text.expose()), NOW), Err(Refusal::Unknown));
    broken = document;
    broken.spec = serde_json::json!({"roles": 1});
    assert_eq!(holder(&broken, id, &hash(text.expose()), NOW).expect("a secret that fits").roles, []);
}

#[test]
fn what_has_ended_ends_to_the_microsecond() {
    let (id, text, document) = token(|record| record.expires = Some(after(60)));
    let shown = hash(text.expose());
    assert!(holder(&document, id, &shown, after(59)).is_ok());
    assert_eq!(holder(&document, id, &shown, after(60)), Err(Refusal::Expired("ci".into())));
    // Who can't show the secret isn't told that there was a token.
    assert_eq!(holder(&document, id, &hash("lbt_other"), after(60)), Err(Refusal::Unknown));

    let newer = secret::hex(&hash("newer"));
    let (id, text, document) = token(|record| {
        record.secrets[0].ends = Some(after(60));
        record.secrets.insert(0, SecretRecord { hash: newer.clone(), created: NOW, ends: None });
    });
    let shown = hash(text.expose());
    assert!(holder(&document, id, &shown, after(59)).is_ok(), "in its grace period");
    assert_eq!(holder(&document, id, &shown, after(60)), Err(Refusal::Replaced("ci".into())));
    assert!(holder(&document, id, &hash("newer"), after(60)).is_ok());
}

#[test]
fn the_text_of_a_token_leads_to_its_document_and_is_strict() {
    let (id, text, _) = token(|_| {});
    let text = text.expose();
    assert_eq!(secret::id_of(text), Some(id));
    let upper = text.replacen(char::is_alphabetic, "L", 1);
    for wrong in ["", "lbt_", &text[..text.len() - 1], &text.replacen('_', "-", 1), &upper, &format!("{text}=")] {
        assert_eq!(secret::id_of(wrong), None, "{wrong}");
    }
    let (_, other, document) = token(|_| {});
    let printed = format!("{document:?} {other:?}");
    assert!(!printed.contains(other.expose()), "{printed}");
}

#[test]
fn a_use_is_noted_once_an_hour() {
    let directory = tempfile::tempdir().expect("tempdir");
    let gate = Gate::open(&StateDir::take(directory.path()).expect("free")).expect("made");
    let id = TokenId::new();
    assert!(gate.is_to_be_noted(id, None, NOW));
    assert!(!gate.is_to_be_noted(id, None, after(3599)), "it is being noted");
    assert!(gate.is_to_be_noted(id, None, after(3600)));
    assert!(!gate.is_to_be_noted(TokenId::new(), Some(NOW), after(10)), "another gateway did");
}

#[test]
fn a_token_that_was_revoked_here_is_refused_whatever_the_copy_of_the_catalog_says() {
    let directory = tempfile::tempdir().expect("tempdir");
    let gate = Gate::open(&StateDir::take(directory.path()).expect("free")).expect("made");
    let (id, text, _) = token(|_| {});
    gate.revoke(id);
    let shown = header(&format!("Bearer {}", text.expose()));
    assert_eq!(gate.identify(Some(&shown), "a", &[], NOW), Err(Refusal::Unknown));
}
