//! The log as the API writes and shows it: before anything is done, whatever becomes of it, and through stops and cuts.

use std::path::Path;

use lifeboat_api::{AuditKind, AuditRecord, Client, GatewayReport, Page, Role, Token, TokenCreate};
use lifeboat_vault::{Access, KeySource, Vault, open_store};
use secrecy::SecretString;

use crate::Gateway;
use crate::testing::{client, client_with, config, eventually, vault_create};

async fn records(client: &Client) -> Vec<AuditRecord> {
    client.list("/v1/audit", &[]).await.expect("shown")
}

/// The log once its newest record of this kind is about `what`.
async fn settled(client: &Client, kind: AuditKind, what: &str) -> Vec<AuditRecord> {
    eventually("the record is there", async || {
        let found = records(client).await;
        let is_it = |record: &AuditRecord| {
            record.kind == kind && record.what.as_deref().is_some_and(|found| found.starts_with(what))
        };
        found.iter().any(is_it).then_some(found)
    })
    .await
}

async fn verified(dir: &Path) -> Vec<String> {
    let url = format!("file://{}", dir.display());
    let store = open_store(&url, Access::Open).await.expect("there");
    let key = KeySource::Passphrase(SecretString::from("canary-correct-horse"));
    let vault = Vault::open(store, &key, crate::vaults::options()).await.expect("opens");
    let report = vault.audit().verify(&[]).await.expect("read");
    report.findings.into_iter().map(|found| format!("{}: {}", found.object, found.what)).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_changes_something_is_written_down_with_its_answer() {
    let dir = tempfile::tempdir().expect("tempdir");
    let (state, vault) = (dir.path().join("state"), dir.path().join("vault"));
    let gateway = Gateway::start(config(&state, "a", "east")).await.expect("starts");
    let admin = client(&gateway);
    admin.create_vault(&vault_create(&vault, false)).await.expect("made");
    let token = TokenCreate { vault_id: None, name: "mallory".into(), roles: vec![Role::Reader], ttl: None };
    let made = admin.create_token(&token).await.expect("made");
    let reader = client_with(&gateway, &made.secret);
    let id = made.token.id.to_string();
    reader.delete::<Token>(&id, 1).await.expect_err("a reader");
    admin.delete::<Token>("tok-none", 1).await.expect("what is gone counts as deleted");
    // Reading leaves no record.
    records(&reader).await;

    let found = settled(&admin, AuditKind::Answered, "DELETE /v1/tokens/tok-none").await;
    let of = |kind: AuditKind, what: &str| {
        let fits = |record: &&AuditRecord| {
            record.kind == kind && record.what.as_deref().is_some_and(|found| found.starts_with(what))
        };
        found.iter().filter(fits).cloned().collect::<Vec<_>>()
    };
    let asked = of(AuditKind::Asked, "POST /v1/tokens");
    let answered = of(AuditKind::Answered, "POST /v1/tokens");
    assert_eq!((asked.len(), answered.len()), (1, 1), "{found:#?}");
    assert_eq!(asked[0].request, answered[0].request);
    assert_eq!((asked[0].status, answered[0].status), (None, Some(201)));
    assert_eq!(asked[0].from.as_deref(), Some("127.0.0.1"));
    assert!(asked[0].who.as_ref().is_some_and(|who| who.to_string() == "the administrator of gateway a"));
    let forbidden = of(AuditKind::Forbidden, "DELETE ");
    assert!(forbidden[0].who.as_ref().is_some_and(|who| who.name == "mallory"), "{forbidden:?}");
    assert_eq!(forbidden[0].status, Some(403));
    let refused = of(AuditKind::Answered, "DELETE /v1/tokens/tok-none");
    assert_eq!((refused[0].status, refused[0].problem.as_deref()), (Some(404), Some("not-found")));
    assert_eq!(of(AuditKind::Asked, "GET ").len(), 0);
    let times: Vec<_> = found.iter().map(|record| record.time).collect();
    assert!(times.is_sorted_by(|a, b| a >= b), "newest first");

    // In pages, and of one person.
    let whole: Vec<String> = records(&admin).await.into_iter().map(|record| record.id).collect();
    let paged = client_pages(&admin, 2).await;
    assert_eq!(paged, whole);
    let hers: Vec<AuditRecord> = admin.list("/v1/audit", &[("who", "mallory".into())]).await.expect("shown");
    assert_eq!(hers.len(), 1);

    // A restart goes on in the same chain; a stop writes what was waiting.
    admin.delete::<Token>(&id, 1).await.expect("revoked");
    gateway.stop().await;
    assert_eq!(verified(&vault).await, Vec::<String>::new());
    let gateway = Gateway::start(config(&state, "a", "east")).await.expect("starts");
    let admin = client(&gateway);
    let found = records(&admin).await;
    let answered = |record: &&AuditRecord| record.kind == AuditKind::Answered && record.status == Some(204);
    assert_eq!(found.iter().filter(answered).count(), 1, "{found:#?}");
    admin.create_token(&token).await.expect("made");
    let writer = |record: &AuditRecord| record.id.split_once(':').map(|(writer, _)| writer.to_owned());
    assert!(records(&admin).await.iter().all(|record| writer(record) == writer(&found[0])));
    gateway.stop().await;
    assert_eq!(verified(&vault).await, Vec::<String>::new());
    let text = everything(&vault.join("audit"));
    assert!(!text.contains(made.secret.expose()));
}

async fn client_pages(client: &Client, limit: usize) -> Vec<String> {
    let (mut found, mut token) = (Vec::new(), None);
    loop {
        let mut query = vec![("limit", limit.to_string())];
        query.extend(token.take().map(|token| ("page_token", token)));
        let page: Page<AuditRecord> = client.get("/v1/audit", &query).await.expect("shown");
        found.extend(page.items.into_iter().map(|record| record.id));
        token = page.next_page_token;
        if token.is_none() {
            return found;
        }
    }
}

fn everything(dir: &Path) -> String {
    let mut text = String::new();
    for entry in std::fs::read_dir(dir).expect("a directory").flatten() {
        let path = entry.path();
        if path.is_dir() {
            text += &everything(&path);
        } else {
            text += &String::from_utf8_lossy(&std::fs::read(&path).expect("readable"));
        }
    }
    text
}

#[tokio::test(flavor = "multi_thread")]
async fn what_can_not_be_written_down_is_not_done() {
    let dir = tempfile::tempdir().expect("tempdir");
    let (state, vault) = (dir.path().join("state"), dir.path().join("vault"));
    let gateway = Gateway::start(config(&state, "a", "east")).await.expect("starts");
    let admin = client(&gateway);
    admin.create_vault(&vault_create(&vault, false)).await.expect("made");
    let token = |name: &str| TokenCreate { vault_id: None, name: name.into(), roles: vec![Role::Reader], ttl: None };
    admin.create_token(&token("one")).await.expect("made");
    // The log alone can't be written: what it stands in is a file now.
    let (log, aside) = (vault.join("audit"), dir.path().join("aside"));
    std::fs::rename(&log, &aside).expect("moved");
    std::fs::write(&log, "").expect("written");
    let refused = admin.create_token(&token("two")).await.expect_err("not written down");
    assert!(refused.to_string().contains("audit log"), "{refused}");
    std::fs::remove_file(&log).expect("removed");
    std::fs::rename(&aside, &log).expect("moved back");
    let tokens: Vec<Token> = admin.list("/v1/tokens", &[]).await.expect("listed");
    assert_eq!(tokens.len(), 1, "{tokens:?}");
    admin.create_token(&token("three")).await.expect("made");
    // The request that was refused is in the log as well by now.
    let found = settled(&admin, AuditKind::Answered, "POST /v1/tokens").await;
    assert!(found.iter().any(|record| record.status == Some(503)), "{found:#?}");
    gateway.stop().await;
    assert_eq!(verified(&vault).await, Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_that_was_cut_while_the_gateway_was_stopped_is_told() {
    let dir = tempfile::tempdir().expect("tempdir");
    let (state, vault) = (dir.path().join("state"), dir.path().join("vault"));
    let gateway = Gateway::start(config(&state, "a", "east")).await.expect("starts");
    let admin = client(&gateway);
    admin.create_vault(&vault_create(&vault, false)).await.expect("made");
    let token = TokenCreate { vault_id: None, name: "one".into(), roles: vec![Role::Reader], ttl: None };
    admin.create_token(&token).await.expect("made");
    gateway.stop().await;
    let chain = std::fs::read_dir(vault.join("audit")).expect("there").flatten().next().expect("a chain").path();
    let mut objects: Vec<_> = std::fs::read_dir(&chain).expect("there").flatten().map(|entry| entry.path()).collect();
    objects.retain(|path| path.extension().is_some_and(|extension| extension == "json"));
    objects.sort();
    std::fs::remove_file(objects.last().expect("objects")).expect("removed");

    let gateway = Gateway::start(config(&state, "a", "east")).await.expect("starts");
    let admin = client(&gateway);
    admin.create_token(&token).await.expect("the log goes on");
    let report: GatewayReport = admin.get("/v1/status", &[]).await.expect("shown");
    assert!(report.reasons.iter().any(|reason| reason.contains("audit log")), "{report:?}");
    let events: Vec<lifeboat_api::Event> = admin.list("/v1/events", &[]).await.expect("listed");
    assert!(events.iter().any(|event| event.kind == "audit.cut"), "{events:?}");
    gateway.stop().await;
    let found = verified(&vault).await;
    assert!(matches!(&found[..], [one] if one.contains("missing")), "{found:?}");
}
