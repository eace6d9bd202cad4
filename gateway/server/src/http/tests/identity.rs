//! The life of a machine's identity, over real TLS: enrolled, renewed, revoked; raced for, lost and found again.

use std::path::Path;
use std::time::Duration;

use http::StatusCode;
use lifeboat_api::{ClientErrorKind, Role, Timestamp};
use lifeboat_identity::{Machine, MachineError};
use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair};
use serde_json::{Value, json};

use super::{Answer, Api, blamed, problem};
use crate::Gateway;
use crate::records::{AgentRecord, RegistrationKeyRecord, kind};
use crate::testing::{client, config, eventually, vault_create};

impl Api {
    fn endpoints(&self) -> Vec<String> {
        vec![format!("https://{}", self.gateway.address())]
    }

    async fn site(&self) -> Value {
        let found = self.get("/v1/sites").await.body["items"][0].clone();
        if !found.is_null() {
            return found;
        }
        let vault = self.get("/v1/vaults").await.body["items"][0]["id"].clone();
        self.declare("/v1/sites", &json!({"vault_id": vault, "name": "east"})).await
    }

    /// A registration key: its text and its id.
    async fn registration_key(&self) -> (String, String) {
        let made = self.declare("/v1/registration-keys", &json!({"site_id": self.site().await["id"]})).await;
        let text = |value: &Value| value.as_str().expect("a text").to_owned();
        (text(&made["key"]), text(&made["registration_key"]["id"]))
    }

    /// An agent that has enrolled, in that directory.
    pub(super) async fn agent(&self, home: &Path, name: &str) -> Machine {
        let (key, _) = self.registration_key().await;
        Machine::enrol(home, &key, &self.endpoints(), name).await.expect("enrolled")
    }

    async fn enrol(&self, key: &str, csr: &str) -> Answer {
        let request = http::Request::builder().method("POST").uri("/v1/enrolments");
        let request = request.header("content-type", "application/json");
        let body = json!({"key": key, "csr": csr, "name": "web"}).to_string();
        self.send(request.body(axum::body::Body::from(body)).expect("sound")).await
    }

    /// Another gateway of the same vault.
    async fn beside(&self, name: &str) -> Self {
        let gateway = Gateway::start(config(&self.dir.path().join(name), name, "west")).await.expect("starts");
        client(&gateway).create_vault(&vault_create(&self.dir.path().join("vault"), true)).await.expect("attached");
        let token = std::fs::read_to_string(gateway.state_path().join("admin.token")).expect("made");
        Self { gateway, token: token.trim().to_owned(), dir: tempfile::tempdir().expect("tempdir") }
    }

    async fn revoke(&self, agent: &Machine) {
        let path = format!("/v1/agents/{}", agent.name().id);
        assert_eq!(self.change("DELETE", &path, "\"1\"", &json!({})).await.status, StatusCode::NO_CONTENT);
    }
}

/// A request for a certificate that asks for this.
fn csr(key: &KeyPair, change: impl FnOnce(&mut CertificateParams)) -> String {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    change(&mut params);
    params.serialize_request(key).expect("a request").pem().expect("PEM")
}

fn nothing(_: &mut CertificateParams) {}

fn refused(error: &MachineError) -> String {
    match error {
        MachineError::Asking(error) => error.to_string(),
        other => panic!("{other}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_enrols_once_and_renews_itself_at_any_gateway_until_it_is_revoked() {
    let api = Api::start().await;
    api.vault().await;
    let home = tempfile::tempdir().expect("tempdir");
    let (key, id) = api.registration_key().await;
    let agent = Machine::enrol(home.path(), &key, &api.endpoints(), "web").await.expect("enrolled");
    let name = agent.name();
    assert_eq!(name.id, id.replace("rgk-", "agt-"));

    let seen = api.get(&format!("/v1/agents/{}", name.id)).await;
    assert_eq!((seen.etag.as_str(), &seen.body["spec"]["name"]), ("\"1\"", &json!("web")), "{}", seen.body);
    assert_eq!(seen.body["status"]["serial"], json!(agent.certificate().serial));
    assert_eq!(api.get("/v1/agents?name=web").await.body["items"].as_array().map(Vec::len), Some(1));
    let used = api.get(&format!("/v1/registration-keys/{id}")).await.body;
    assert_eq!(used["status"]["used_by"], json!(name.id), "{used}");
    problem(&api.delete("sites", &api.site().await).await, 409, "conflict");

    // A certificate of an authority that both gateways have without having talked.
    let there = api.beside("b").await;
    for gateway in [&api, &there] {
        let before = agent.certificate();
        agent.renew(&gateway.endpoints()).await.expect("renewed");
        let after = agent.certificate();
        assert_ne!(before.serial, after.serial);
        assert_eq!((&before.name, before.public_key), (&after.name, after.public_key));
        assert_eq!(Machine::open(home.path()).expect("kept").certificate(), after);
        let kept = gateway.get(&format!("/v1/agents/{}", name.id)).await.body;
        assert_eq!(kept["status"]["serial"], json!(after.serial), "{kept}");
        assert_eq!(kept["generation"], 1, "a renewal changes nothing that a revocation goes by");
    }

    // After a restart the authority is what it was.
    let (state, dir) = (api.gateway.state_path().to_owned(), api.dir);
    api.gateway.stop().await;
    let gateway = Gateway::start(config(&state, "a", "east")).await.expect("starts");
    let api = Api { gateway, token: api.token, dir };
    eventually("the vault is read", async || agent.renew(&api.endpoints()).await.ok()).await;

    api.revoke(&agent).await;
    // With TLS 1.3 a client may see the connection end before it reads why: no try may succeed, and one reads why.
    eventually("the revocation to be given as the reason", async || {
        let error = agent.renew(&api.endpoints()).await.expect_err("at once where it was asked for");
        refused(&error).contains("CertificateRevoked").then_some(())
    })
    .await;
    eventually("revoked there too", async || {
        let error = agent.renew(&there.endpoints()).await.err()?;
        refused(&error).contains("CertificateRevoked").then_some(())
    })
    .await;
    problem(&api.get(&format!("/v1/agents/{}", name.id)).await, 404, "not-found");
    // Its key doesn't bring it back, another one makes another agent.
    std::fs::remove_file(home.path().join("identity.pem")).expect("there");
    let error = Machine::enrol(home.path(), &key, &api.endpoints(), "web").await.expect_err("used up");
    assert!(refused(&error).contains("registration key"), "{error}");
    let again = api.agent(home.path(), "web").await;
    assert_ne!(again.name(), name);

    let events = api.get("/v1/events").await.body.to_string();
    for happened in ["registration-key.created", "agent.enrolled", "agent.revoked"] {
        assert!(events.contains(happened), "{happened} in {events}");
    }
    there.gateway.stop().await;
    api.gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_machines_with_one_key_one_is_let_in_wherever_they_ask() {
    let api = Api::start().await;
    api.vault().await;
    let there = api.beside("b").await;
    for _ in 0..8 {
        let (key, id) = api.registration_key().await;
        let (one, other) = (tempfile::tempdir().expect("tempdir"), tempfile::tempdir().expect("tempdir"));
        let (here, away) = (api.endpoints(), there.endpoints());
        // Until the other gateway has made itself a certificate there is nothing to race for.
        eventually("the authority is known there", async || {
            there.gateway.context.vaults.all().first()?.known_authority()
        })
        .await;
        let (a, b) = tokio::join!(
            Machine::enrol(one.path(), &key, &here, "one"),
            Machine::enrol(other.path(), &key, &away, "other"),
        );
        let (winner, loser) = match (a, b) {
            (Ok(winner), Err(loser)) | (Err(loser), Ok(winner)) => (winner, loser),
            both => panic!("{both:?}"),
        };
        assert_eq!(winner.name().id, id.replace("rgk-", "agt-"));
        assert!(refused(&loser).contains("was used by another machine"), "{loser}");
    }
    // The last may have enrolled at the other gateway.
    eventually("all are known here", async || {
        let agents = api.get("/v1/agents").await.body["items"].as_array().map(Vec::len);
        (agents == Some(8)).then_some(())
    })
    .await;
    there.gateway.stop().await;
    api.gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_answer_is_given_again_to_the_same_machine_only() {
    let api = Api::start().await;
    api.vault().await;
    let (key, _) = api.registration_key().await;
    let (mine, thief) = (KeyPair::generate().expect("a key"), KeyPair::generate().expect("a key"));
    let first = api.enrol(&key, &csr(&mine, nothing)).await;
    assert_eq!(first.status, StatusCode::CREATED, "{}", first.body);
    let again = api.enrol(&key, &csr(&mine, nothing)).await;
    assert_eq!((again.status, &again.body["agent"]["id"]), (StatusCode::CREATED, &first.body["agent"]["id"]));
    assert_eq!(api.get("/v1/agents").await.body["items"].as_array().map(Vec::len), Some(1));
    let other = api.enrol(&key, &csr(&thief, nothing)).await;
    problem(&other, 401, "unauthorized");
    assert!(other.body["detail"].as_str().expect("a sentence").contains("used by another machine"));

    // Broken off after the key was used up and before the agent was made: the repetition makes it.
    let vault = api.gateway.context.vaults.all().remove(0);
    let catalog = vault.vault().expect("open").catalog().clone();
    let (key, id) = api.registration_key().await;
    let public_key =
        crate::auth::hex(&lifeboat_identity::Request::read(&csr(&mine, nothing)).expect("sound").public_key());
    let mut use_it = |document: &lifeboat_vault::Document| {
        let mut record: RegistrationKeyRecord = document.status_as().expect("a record");
        let used = crate::records::UseRecord { time: document.created, public_key: public_key.clone(), gateway: None };
        record.used = Some(used);
        serde_json::to_value(record).ok()
    };
    catalog.update_status(kind::REGISTRATION_KEYS, &id, &mut use_it).await.expect("written");
    let late = api.enrol(&key, &csr(&mine, nothing)).await;
    assert_eq!(late.status, StatusCode::CREATED, "{}", late.body);

    // Revoked meanwhile: the answer isn't given again.
    let path = format!("/v1/agents/{}", late.body["agent"]["id"].as_str().expect("id"));
    assert_eq!(api.change("DELETE", &path, "\"1\"", &json!({})).await.status, StatusCode::NO_CONTENT);
    let after = api.enrol(&key, &csr(&mine, nothing)).await;
    problem(&after, 401, "unauthorized");
    assert!(after.body["detail"].as_str().expect("a sentence").contains("was revoked"), "{}", after.body);
    api.gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_is_not_valid_lets_nobody_in() {
    let api = Api::start().await;
    api.vault().await;
    let pair = KeyPair::generate().expect("a key");
    let request = csr(&pair, nothing);

    let (key, id) = api.registration_key().await;
    let (token, _) = api.token("all", &Role::ALL).await;
    let flipped = format!("{}{}", &key[..90], if key[90..].starts_with('A') { "B" } else { "A" }) + &key[91..];
    for wrong in ["", "lbr_", token.as_str(), api.token.as_str(), &key[..key.len() - 1], flipped.as_str()] {
        let answer = api.enrol(wrong, &request).await;
        problem(&answer, 401, "unauthorized");
        let detail = answer.body["detail"].as_str().expect("a sentence");
        assert!(detail.contains("registration key") && (wrong.len() < 8 || !detail.contains(wrong)), "{detail}");
    }
    // What was sent with a wrong key used nothing up, and a request that isn't signed for doesn't either.
    for (asked, why) in [
        (csr(&pair, |params| params.distinguished_name.push(DnType::CommonName, "root")), "a name"),
        (
            csr(&pair, |params| params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained)),
            "the rights of an authority",
        ),
        ("nonsense".to_owned(), "no certificate signing request"),
    ] {
        let answer = api.enrol(&key, &asked).await;
        blamed(&answer, 422, "invalid", "csr");
        assert!(answer.body["detail"].as_str().expect("a sentence").contains(why), "{}", answer.body);
    }
    assert_eq!(api.enrol(&key, &request).await.status, StatusCode::CREATED);

    let (key, deleted) = api.registration_key().await;
    let path = format!("/v1/registration-keys/{deleted}");
    assert_eq!(api.change("DELETE", &path, "\"1\"", &json!({})).await.status, StatusCode::NO_CONTENT);
    problem(&api.enrol(&key, &request).await, 401, "unauthorized");

    let (key, expired) = api.registration_key().await;
    let vault = api.gateway.context.vaults.all().remove(0);
    let mut past = |document: &lifeboat_vault::Document| {
        let mut record: RegistrationKeyRecord = document.status_as().expect("a record");
        record.expires = Some(document.created);
        serde_json::to_value(record).ok()
    };
    let catalog = vault.vault().expect("open").catalog().clone();
    catalog.update_status(kind::REGISTRATION_KEYS, &expired, &mut past).await.expect("written");
    let answer = api.enrol(&key, &request).await;
    problem(&answer, 401, "unauthorized");
    assert!(answer.body["detail"].as_str().expect("a sentence").contains("has ended"));

    let site = api.site().await["id"].clone();
    for (wrong, field) in [
        (json!({"site_id": site, "roles": []}), "roles"),
        (json!({"site_id": site, "roles": ["root"]}), "roles[0]"),
        (json!({"site_id": site, "ttl": "2h"}), "ttl"),
        (json!({"site_id": site, "ttl": "5s"}), "ttl"),
        (json!({"site_id": site, "name": ""}), "name"),
        (json!({"site_id": "site-00000000000000000000000000000000"}), "site_id"),
        (json!({}), "site_id"),
    ] {
        blamed(&api.post("/v1/registration-keys", &wrong).await, 422, "invalid", field);
    }
    let post = async || {
        let request = api.request("POST", "/v1/registration-keys").header("idempotency-key", "one");
        api.send(request.body(axum::body::Body::from(json!({"site_id": site}).to_string())).expect("sound")).await
    };
    assert_eq!(post().await.status, StatusCode::CREATED);
    problem(&post().await, 409, "conflict");
    let used = api.get(&format!("/v1/registration-keys/{id}")).await.body;
    assert!(!used["status"]["used"].is_null(), "{used}");
    api.gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_renews_itself_and_nobody_else_and_for_its_own_key_only() {
    let api = Api::start().await;
    api.vault().await;
    let (one, other) = (tempfile::tempdir().expect("tempdir"), tempfile::tempdir().expect("tempdir"));
    let (one, other) = (api.agent(one.path(), "one").await, api.agent(other.path(), "other").await);
    let line =
        lifeboat_api::Client::for_machine(&api.endpoints(), one.tls(&[b"http/1.1"]).expect("TLS"), &one.server_name())
            .expect("sound");
    let request = |key: &KeyPair| lifeboat_api::RenewCertificateRequest { csr: csr(key, nothing) };
    let key = KeyPair::generate().expect("a key");
    let error = line.renew_certificate(&other.name().id, &request(&key)).await.expect_err("not its own");
    assert_eq!(error.kind(), ClientErrorKind::Forbidden, "{error}");
    let error = line.renew_certificate(&one.name().id, &request(&key)).await.expect_err("another key");
    assert_eq!(error.kind(), ClientErrorKind::Invalid, "{error}");

    // A connection from before the revocation is no way around it.
    api.revoke(&one).await;
    let error = line.renew_certificate(&one.name().id, &request(&key)).await.expect_err("revoked");
    assert_eq!(error.kind(), ClientErrorKind::Unauthorized, "{error}");
    assert!(error.to_string().contains("it was revoked"), "{error}");
    other.renew(&api.endpoints()).await.expect("the other one is as it was");

    // Who asks a gateway that hasn't read the vault is told to try again.
    let name = other.name();
    let peer = other.certificate();
    let context = &api.gateway.context;
    assert!(crate::machines::admit(context, &peer, peer.not_before).is_ok());
    for (now, refused) in [
        (Timestamp::from_micros(peer.not_before.as_micros() - 1), crate::machines::Refused::Time),
        (peer.not_after, crate::machines::Refused::Time),
    ] {
        assert_eq!(crate::machines::admit(context, &peer, now), Err(refused), "{name}");
    }
    api.gateway.stop().await;
}

/// The identity in a directory, with a certificate that was signed `ago` seconds ago for `life` seconds.
fn aged(api: &Api, home: &Path, ago: i64, life: u64) -> Machine {
    let path = home.join("identity.pem");
    let kept = std::fs::read_to_string(&path).expect("there");
    let (key, _) = kept.split_once("-----BEGIN CERTIFICATE-----").expect("a certificate");
    let pair = KeyPair::from_pem(key).expect("a key");
    let request = lifeboat_identity::Request::read(&csr(&pair, nothing)).expect("sound");
    let authority = api.gateway.context.vaults.all().remove(0).known_authority().expect("known");
    let then = Timestamp::from_micros(Timestamp::now().as_micros() - ago * 1_000_000);
    let id = Machine::open(home).expect("kept").name().id;
    let issued = authority.sign_for(&request, &id, then, Duration::from_secs(life)).expect("signed");
    std::fs::write(&path, format!("{key}{}{}", issued.pem, authority.pem())).expect("written");
    Machine::open(home).expect("kept")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_is_renewed_by_itself_at_two_thirds_and_not_after_its_end() {
    let api = Api::start().await;
    api.vault().await;
    let home = tempfile::tempdir().expect("tempdir");
    api.agent(home.path(), "web").await;
    // Nobody is there at the first endpoint.
    let endpoints = [vec!["https://127.0.0.1:1".to_owned()], api.endpoints()].concat();
    let renewed = async |machine: &Machine| {
        let before = machine.certificate().serial;
        let changed = eventually("renewed", async || (machine.certificate().serial != before).then_some(()));
        tokio::select! {
            () = machine.keep_renewed(&endpoints) => unreachable!("it goes on for ever"),
            () = changed => {}
        }
        assert!(machine.renew_at().seconds_since(Timestamp::now()) > 3600.0, "and then for another day");
    };
    // Past two thirds already; and soon, which is waited for.
    renewed(&aged(&api, home.path(), 70_000, 86_400)).await;
    let soon = aged(&api, home.path(), 0, 12);
    assert!(soon.renew_at() > Timestamp::now());
    renewed(&soon).await;

    let ended = aged(&api, home.path(), 90_000, 86_400);
    // As above: no try may succeed, and one reads why.
    eventually("the end to be given as the reason", async || {
        let error = ended.renew(&api.endpoints()).await.expect_err("over");
        refused(&error).contains("CertificateExpired").then_some(())
    })
    .await;
    api.gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_that_has_not_read_its_vault_believes_nobody() {
    let api = Api::start().await;
    api.vault().await;
    let home = tempfile::tempdir().expect("tempdir");
    let agent = api.agent(home.path(), "web").await;
    let (state, vault) = (api.gateway.state_path().to_owned(), api.dir.path().join("vault"));
    api.gateway.stop().await;
    let away = api.dir.path().join("away");
    std::fs::rename(&vault, &away).expect("renamed");
    let gateway = Gateway::start(config(&state, "a", "east")).await.expect("starts");
    let api = Api { gateway, ..api };
    let peer = agent.certificate();
    let now = Timestamp::now();
    assert_eq!(crate::machines::admit(&api.gateway.context, &peer, now), Err(crate::machines::Refused::Unsure));
    agent.renew(&api.endpoints()).await.expect_err("nobody is believed");
    std::fs::rename(&away, &vault).expect("renamed");
    eventually("believed again", async || agent.renew(&api.endpoints()).await.ok()).await;
    api.gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_enrolled_and_who_tried_to_is_written_down() {
    let api = Api::start().await;
    api.vault().await;
    let pair = KeyPair::generate().expect("a key");
    let (key, id) = api.registration_key().await;
    assert_eq!(api.enrol(&key, &csr(&pair, nothing)).await.status, StatusCode::CREATED);
    problem(&api.enrol("lbr_guess", &csr(&pair, nothing)).await, 401, "unauthorized");
    let records = eventually("they are written down", async || {
        let all = api.get("/v1/audit").await.body["items"].as_array().expect("a page").clone();
        let of: Vec<Value> = all.into_iter().filter(|one| one["what"] == "POST /v1/enrolments").collect();
        (of.len() == 3).then_some(of)
    })
    .await;
    let of = |kind: &str| records.iter().find(|one| one["kind"] == kind).expect("written down");
    let by = format!("with the registration key {id}");
    assert_eq!((&of("asked")["detail"], &of("answered")["status"]), (&json!(by), &json!(201)), "{records:?}");
    assert_eq!(of("refused")["status"], 401, "{records:?}");
    assert!(!json!(records).to_string().contains(&key[70..113]));
    api.gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_key_is_left_anywhere() {
    let api = Api::start().await;
    api.vault().await;
    let home = tempfile::tempdir().expect("tempdir");
    let (key, id) = api.registration_key().await;
    let agent = Machine::enrol(home.path(), &key, &api.endpoints(), "web").await.expect("enrolled");
    agent.renew(&api.endpoints()).await.expect("renewed");
    let kept = std::fs::read_to_string(home.path().join("identity.pem")).expect("there");
    let private = kept.lines().nth(1).expect("the key itself").to_owned();
    let vault = api.gateway.context.vaults.all().remove(0);
    let seed = vault.vault().expect("open").existing_authority_secret().await.expect("made");
    let hash = crate::auth::hex(&crate::auth::hash(&key));
    let secret = &key[70..113];

    let mut seen = String::new();
    for path in ["/v1/registration-keys", "/v1/agents", "/v1/events", "/v1/status", "/v1/openapi.json", "/metrics"] {
        seen.push_str(&api.get(path).await.body.to_string());
    }
    assert!(seen.contains(&id), "that there is a key is shown");
    assert!(!seen.contains(secret) && !seen.contains(&hash) && !seen.contains(&private));
    let hex = crate::auth::hex(seed.as_slice());
    let base64 = {
        use base64::Engine;
        base64::engine::general_purpose::STANDARD.encode(seed.as_slice())
    };
    let canaries = [secret.as_bytes(), private.as_bytes(), seed.as_slice(), hex.as_bytes(), base64.as_bytes()];
    // The gateway's state and the vault's objects.
    let mut stack = vec![api.dir.path().to_owned()];
    let mut files = 0;
    while let Some(path) = stack.pop() {
        if path.is_dir() {
            stack.extend(std::fs::read_dir(&path).expect("readable").flatten().map(|entry| entry.path()));
        } else if path.is_file() {
            files += 1;
            let bytes = std::fs::read(&path).expect("readable");
            for canary in canaries {
                assert!(!bytes.windows(canary.len()).any(|window| window == canary), "{}", path.display());
            }
        }
    }
    assert!(files > 10, "{files}");
    let record: AgentRecord = crate::records::status(
        api.gateway.context.find(kind::AGENTS, &agent.name().id).await.expect("known").1.as_ref(),
    );
    assert!(record.certificate.is_some());
    api.gateway.stop().await;
}
