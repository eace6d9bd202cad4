//! What is left for a start, and what becomes of it.

use std::os::unix::fs::PermissionsExt as _;

use lifeboat_model::VaultId;

use super::*;

fn key(id: RegistrationKeyId) -> Secret {
    let text = RegistrationKeyText::new(VaultId::new(), id, [7; 32], [9; 32]).expose();
    Secret::new(text.as_str().to_owned())
}

fn request(id: RegistrationKeyId) -> RegisterRequest {
    RegisterRequest {
        endpoints: vec!["https://gateway.example".to_owned()],
        key: key(id),
        vault_key: None,
        storage_credentials: None,
    }
}

fn learnt(key_id: RegistrationKeyId) -> Learnt {
    let encryption = lifeboat_api::EncryptionView { key_source: KeySourceKind::KeyFile, key_file: None, kms_key: None };
    let vault = VaultPlace {
        id: VaultId::new(),
        name: "vault".to_owned(),
        storage_url: "file:///vault".to_owned(),
        storage_endpoint: None,
        storage_region: None,
        encryption,
    };
    Learnt { key_id, gateway_id: GatewayId::new(), name: "b".to_owned(), site: "west".to_owned(), vault }
}

#[test]
fn a_key_that_did_its_part_brings_nothing_back_and_another_one_begins_anew() {
    let (mine, other) = (RegistrationKeyId::new(), RegistrationKeyId::new());
    let known = Kept { version: VERSION, learnt: Some(learnt(mine)), ..Kept::default() };
    let done = Kept { registered: true, ..known.clone() };

    let mut kept = done.clone();
    assert!(!take_in(&mut kept, request(mine), false), "registered already");
    assert!(!take_in(&mut kept, request(mine), true));
    assert!(!take_in(&mut kept, request(other), true), "it has a vault");
    assert_eq!(kept, done);

    // Enrolled and not attached: the same key may bring what opens the vault.
    let mut kept = known.clone();
    assert!(take_in(&mut kept, request(mine), false));
    assert_eq!((kept.learnt.is_some(), kept.request.is_some()), (true, true));
    // A refused one, and one of another vault, give way.
    let mut kept = Kept { refused: Some("it has ended".to_owned()), ..Kept::default() };
    assert!(take_in(&mut kept, request(other), false));
    assert_eq!((kept.refused, kept.learnt), (None, None));
    let mut kept = known;
    assert!(take_in(&mut kept, request(other), false) && kept.learnt.is_none());
}

#[test]
fn what_is_left_is_checked_and_told_without_its_secrets() {
    let dir = tempfile::tempdir().expect("tempdir");
    let state = StateDir::take(&dir.path().join("state")).expect("taken");
    let text = key(RegistrationKeyId::new()).expose().to_owned();
    let leave = |text: &str| std::fs::write(state.path().join(INBOX), text).expect("written");
    assert!(left(&state).expect("nothing").is_none());
    leave(&serde_json::json!({"version": 1, "endpoints": ["https://a"], "key": text}).to_string());
    assert_eq!(left(&state).expect("sound").expect("there").endpoints, ["https://a"]);
    for (wrong, why) in [
        (format!("{{\"key\": {text}"), "line 1"),
        (serde_json::json!({"version": 2, "endpoints": ["https://a"], "key": text}).to_string(), "version 2"),
        (serde_json::json!({"version": 1, "endpoints": [], "key": text}).to_string(), "endpoints"),
        (serde_json::json!({"version": 1, "endpoints": ["a"], "key": text}).to_string(), "https://"),
    ] {
        leave(&wrong);
        let refused = left(&state).expect_err(why);
        assert!(refused.contains(why) && !refused.contains(&text), "{refused}");
        // The gateway starts all the same, and says it.
        let registrar = Registrar::open(&state).expect("opened");
        assert!(registrar.kept().refused.as_deref().is_some_and(|said| said.contains(why)));
        assert!(!state.path().join(INBOX).exists());
    }
}

#[test]
fn what_is_kept_is_for_the_gateway_alone_and_of_a_version_that_it_knows() {
    let dir = tempfile::tempdir().expect("tempdir");
    let state = StateDir::take(&dir.path().join("state")).expect("taken");
    let id = RegistrationKeyId::new();
    let kept = Kept { version: VERSION, request: Some(request(id)), learnt: Some(learnt(id)), ..Kept::default() };
    keep(&state, &kept).expect("kept");
    let path = state.path().join(KEPT);
    assert_eq!(std::fs::metadata(&path).expect("there").permissions().mode() & 0o777, 0o600);
    assert_eq!(*Registrar::open(&state).expect("opened").kept(), kept);
    std::fs::write(&path, "{\"version\": 2}").expect("written");
    assert!(Registrar::open(&state).expect_err("newer").to_string().contains("newer gateway"));
    std::fs::write(&path, "{").expect("written");
    assert!(Registrar::open(&state).expect_err("damaged").to_string().contains("damaged"));
}

#[test]
fn what_may_pass_is_tried_again_and_the_rest_is_for_a_person() {
    let later = |error| matches!(judge(error), Failed::Later(_));
    assert!(!later(MachineError::Key));
    assert!(later(MachineError::Files("the disk is full".to_owned())));
    assert!(later(MachineError::Answer("the authority isn't the one that was asked for".to_owned())));
}
