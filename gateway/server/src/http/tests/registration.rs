//! Gateways that register by key: at the one that has the vault, and from the one that hasn't, over real TLS.

use std::path::Path;

use http::StatusCode;
use lifeboat_api::{
    EncryptionKey, Gateway as GatewayView, KeySourceKind, RegisterRequest, Registration, RegistrationState, Secret,
    Timestamp,
};
use lifeboat_identity::{MachineError, Newcomer, enrol_gateway, forget_newcomer};
use serde_json::{Value, json};

use super::{Api, problem};
use crate::Gateway;
use crate::records::{GatewayRecord, RegistrationKeyRecord, kind};
use crate::testing::{client, config, eventually, registered};

/// The passphrase of the vault in tests.
fn passphrase() -> EncryptionKey {
    EncryptionKey {
        key_source: KeySourceKind::Passphrase,
        passphrase: Some(Secret::new("canary-correct-horse".into())),
        key_file: None,
        kms_key: None,
    }
}

fn newcomer<'a>(name: &'a str, process: &'a str) -> Newcomer<'a> {
    Newcomer { name, site: None, process_id: process, version: "0.1.0", address: None }
}

fn text(value: &Value) -> String {
    value.as_str().expect("a text").to_owned()
}

impl Api {
    fn at(&self) -> Vec<String> {
        vec![format!("https://{}", self.gateway.address())]
    }

    async fn site_named(&self, name: &str) -> Value {
        let vault = self.get("/v1/vaults").await.body["items"][0]["id"].clone();
        self.declare("/v1/sites", &json!({"vault_id": vault, "name": name})).await
    }

    /// A registration key for a gateway: its text and its id.
    async fn gateway_key(&self, site: &Value, roles: &[&str]) -> (String, String) {
        let made = self.declare("/v1/registration-keys", &json!({"site_id": site["id"], "roles": roles})).await;
        (text(&made["key"]), text(&made["registration_key"]["id"]))
    }

    async fn key_now(&self, id: &str) -> Value {
        self.get(&format!("/v1/registration-keys/{id}")).await.body
    }

    /// Why a gateway isn't let in.
    async fn refused(&self, home: &Path, key: &str, newcomer: Newcomer<'_>) -> String {
        match enrol_gateway(home, key, &self.at(), newcomer).await.expect_err("refused") {
            MachineError::Asking(error) => error.to_string(),
            other => panic!("{other}"),
        }
    }
}

async fn beside(dir: &Path, name: &str, site: &str) -> Gateway {
    Gateway::start(config(&dir.join(name), name, site)).await.expect("starts")
}

fn request(api: &Api, key: &str, vault_key: Option<EncryptionKey>) -> RegisterRequest {
    RegisterRequest { endpoints: api.at(), key: Secret::new(key.to_owned()), vault_key, storage_credentials: None }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_registers_by_key_and_serves_under_its_declaration() {
    let api = Api::start().await;
    api.vault().await;
    let west = api.site_named("west").await;
    let (key, id) = api.gateway_key(&west, &["process_server", "master_target"]).await;
    let gateway = beside(api.dir.path(), "b", "west").await;
    let there = client(&gateway);
    assert_eq!(there.registration().await.expect("asked").state, RegistrationState::NotAsked);
    let done = there.register(&request(&api, &key, Some(passphrase()))).await.expect("registered");
    assert_eq!(done.state, RegistrationState::Registered, "{}", done.message);
    registered(&there, "b").await;
    eventually("it is seen at the first one", async || {
        let seen = client(&api.gateway).find_by_name::<GatewayView>("b").await.expect("list")?;
        let roles: Vec<&str> = seen.spec.roles.iter().flatten().map(|role| role.as_str()).collect();
        assert_eq!(roles, ["process_server", "master_target"]);
        assert_eq!((seen.id, seen.generation), (done.gateway_id.expect("known"), 1));
        seen.status.registered.then_some(())
    })
    .await;
    let used = api.key_now(&id).await;
    assert_eq!(used["status"]["used_by_gateway"], id.replace("rgk-", "gw-"), "{used}");
    assert_eq!((&used["status"]["used_by"], used["status"]["used"].is_string()), (&Value::Null, true), "{used}");
    let events = api.get("/v1/events").await.body.to_string();
    assert!(events.contains("gateway.enrolled"), "{events}");
    let audit = api.get("/v1/audit").await.body.to_string();
    assert!(audit.contains("as b with the registration key") && !audit.contains(&key), "{audit}");

    // Nothing that could be used again is left, and the same request again changes nothing.
    let kept = std::fs::read_to_string(gateway.state_path().join("registration.json")).expect("kept");
    assert!(!kept.contains(&key) && !kept.contains("canary-correct-horse"), "{kept}");
    assert!(!gateway.state_path().join("registering.pem").exists());
    let again = there.register(&request(&api, &key, None)).await.expect("the same");
    assert_eq!((again.state, again.gateway_id), (RegistrationState::Registered, done.gateway_id));
    let (other, _) = api.gateway_key(&west, &["process_server"]).await;
    let refused = there.register(&request(&api, &other, None)).await.expect_err("it has the vault");
    assert!(refused.to_string().contains("nothing to register"), "{refused}");

    // A restart needs nothing.
    let state = gateway.state_path().to_owned();
    gateway.stop().await;
    let gateway = Gateway::start(config(&state, "b", "west")).await.expect("starts");
    let shown = client(&gateway).registration().await.expect("asked");
    assert_eq!(shown.state, RegistrationState::Registered, "{}", shown.message);
    gateway.stop().await;
    api.gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_the_vaults_key_it_waits_says_so_and_goes_on_when_it_is_given() {
    let api = Api::start().await;
    api.vault().await;
    let west = api.site_named("west").await;
    let (key, _) = api.gateway_key(&west, &["process_server"]).await;
    let gateway = beside(api.dir.path(), "b", "west").await;
    let waits = client(&gateway).register(&request(&api, &key, None)).await.expect("enrolled");
    let says_it = |shown: &Registration| {
        assert_eq!(shown.state, RegistrationState::WaitingForVault, "{}", shown.message);
        assert!(
            shown.message.contains("passphrase is missing") && shown.message.contains("lifeboat vault open"),
            "{}",
            shown.message
        );
    };
    says_it(&waits);
    let place = waits.vault.expect("known");
    assert!(place.storage_url.starts_with("file:///"), "{place:?}");
    let report: Value = client(&gateway).get("/v1/status", &[]).await.expect("a report");
    assert!(report["reasons"].to_string().contains("passphrase is missing"), "{report}");
    let declared = client(&api.gateway).find_by_name::<GatewayView>("b").await.expect("list").expect("declared");
    assert!(!declared.status.registered);

    // It is the same after a restart, and a wrong key is said to be one.
    let state = gateway.state_path().to_owned();
    gateway.stop().await;
    let gateway = Gateway::start(config(&state, "b", "west")).await.expect("starts");
    let there = client(&gateway);
    eventually("it waits again", async || {
        let shown = there.registration().await.expect("asked");
        shown.message.contains("missing").then(|| says_it(&shown))
    })
    .await;
    let wrong = EncryptionKey { passphrase: Some(Secret::new("something else".into())), ..passphrase() };
    let shown = there.register(&request(&api, &key, Some(wrong))).await.expect("the same registration");
    assert_eq!(shown.state, RegistrationState::WaitingForVault);
    assert!(shown.message.contains("does not open"), "{}", shown.message);
    let mut open = crate::testing::vault_create(Path::new("/"), true);
    open.storage_url = place.storage_url;
    there.create_vault(&open).await.expect("opened by hand");
    registered(&there, "b").await;
    let shown = there.registration().await.expect("asked");
    assert_eq!(shown.state, RegistrationState::Registered, "{}", shown.message);
    eventually("what was asked for is forgotten", async || {
        let kept = std::fs::read_to_string(state.join("registration.json")).expect("kept");
        (!kept.contains(&key)).then_some(())
    })
    .await;
    gateway.stop().await;
    api.gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_declaration_that_is_there_is_taken_up_as_it_is_and_a_living_gateway_is_left_alone() {
    let api = Api::start().await;
    api.vault().await;
    let (east, west) = (api.site_named("east").await, api.site_named("west").await);
    let declared =
        api.declare("/v1/gateways", &json!({"site_id": west["id"], "name": "b", "roles": ["process_server"]})).await;
    api.declare("/v1/gateways", &json!({"site_id": east["id"], "name": "a"})).await;
    registered(&client(&api.gateway), "a").await;
    let home = tempfile::tempdir().expect("tempdir");
    let home = home.path();

    let all = ["configuration_server", "process_server", "master_target"];
    let (key, id) = api.gateway_key(&west, &all).await;
    let (of_east, _) = api.gateway_key(&east, &all).await;
    let (less, _) = api.gateway_key(&west, &["master_target"]).await;
    let of = |site| Newcomer { site: Some(site), ..newcomer("b", "p-1") };
    for (said, key, newcomer) in [
        ("is declared at the site west", &of_east, newcomer("b", "p-1")),
        ("declared as process_server, which the registration key isn't for", &less, newcomer("b", "p-1")),
        ("was started for north", &key, of("north")),
        ("is at work", &of_east, newcomer("a", "p-1")),
        ("state directory is that of the gateway a", &key, newcomer("b", api.gateway.context.state.process_id())),
    ] {
        let why = api.refused(home, key, newcomer).await;
        assert!(why.contains(said), "{said} in {why}");
    }
    // Nothing of that has used a key up.
    let first = enrol_gateway(home, &key, &api.at(), of("west")).await.expect("enrolled");
    assert_eq!(json!(first.gateway_id), declared["id"]);
    assert_eq!(first.vault.id.to_string(), text(&api.get("/v1/vaults").await.body["items"][0]["id"]));
    let now = api.get(&format!("/v1/gateways/{}", first.gateway_id)).await.body;
    assert_eq!((&now["generation"], &now["spec"]), (&json!(1), &declared["spec"]), "what was declared is as it was");
    assert_eq!(api.key_now(&id).await["status"]["used_by_gateway"], declared["id"]);

    // The answer was lost: the same machine asks again. Another one, or the same under another name, doesn't get it.
    let again = enrol_gateway(home, &key, &api.at(), of("west")).await.expect("again");
    assert_eq!(again, first);
    let why = api.refused(home, &key, newcomer("c", "p-1")).await;
    assert!(why.contains("was used for the gateway b"), "{why}");
    forget_newcomer(home);
    let why = api.refused(home, &key, newcomer("b", "p-2")).await;
    assert!(why.contains("was used by another machine"), "{why}");
    assert_eq!(api.get("/v1/gateways").await.body["items"].as_array().map(Vec::len), Some(2));
    api.gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_are_for_gateways_or_for_agents_once_and_while_they_last() {
    let api = Api::start().await;
    api.vault().await;
    let west = api.site_named("west").await;
    let mixed = json!({"site_id": west["id"], "roles": ["agent", "process_server"]});
    let answer = api.post("/v1/registration-keys", &mixed).await;
    problem(&answer, 422, "invalid");
    let home = tempfile::tempdir().expect("tempdir");

    // As before when nothing is said: an agent's, which lets no gateway in.
    let made = api.declare("/v1/registration-keys", &json!({"site_id": west["id"]})).await;
    assert_eq!(made["registration_key"]["spec"]["roles"], json!(["agent"]));
    let why = api.refused(home.path(), &text(&made["key"]), newcomer("b", "p-1")).await;
    assert!(why.contains("isn't for a gateway"), "{why}");
    let (key, id) = api.gateway_key(&west, &["process_server"]).await;
    let machine = tempfile::tempdir().expect("tempdir");
    let error =
        lifeboat_identity::Machine::enrol(machine.path(), &key, &api.at(), "web").await.expect_err("a gateway's");
    assert!(error.to_string().contains("is for a gateway"), "{error}");

    // A clock that is off is told before anything else.
    let asked = |change: &dyn Fn(&mut Value)| {
        let pair = rcgen::KeyPair::generate().expect("a key");
        let mut params = rcgen::CertificateParams::default();
        params.distinguished_name = rcgen::DistinguishedName::new();
        let csr = params.serialize_request(&pair).expect("a request").pem().expect("PEM");
        let mut body = json!({
            "key": key, "csr": csr, "name": "b", "process_id": "p-1", "version": "0.1.0", "time": Timestamp::now(),
        });
        change(&mut body);
        body
    };
    let late = Timestamp::from_micros(Timestamp::now().as_micros() - 3_600_000_000);
    let answer = api.post("/v1/gateway-enrolments", &asked(&|body| body["time"] = json!(late))).await;
    problem(&answer, 409, "conflict");
    assert!(text(&answer.body["detail"]).contains("seconds behind this one's"), "{}", answer.body);
    let answer = api.post("/v1/gateway-enrolments", &asked(&|body| body["name"] = json!("../b"))).await;
    problem(&answer, 422, "invalid");

    // Between the two writes the gateway that serves was killed: the repetition makes the declaration.
    let catalog = api.gateway.context.vaults.all().remove(0).vault().expect("open").catalog().clone();
    let first = enrol_gateway(home.path(), &key, &api.at(), newcomer("b", "p-1")).await.expect("enrolled");
    catalog.delete(kind::GATEWAYS, &first.gateway_id.to_string(), None).await.expect("deleted");
    catalog.purge(kind::GATEWAYS, &first.gateway_id.to_string()).await.expect("as if it had never been");
    let again = enrol_gateway(home.path(), &key, &api.at(), newcomer("b", "p-1")).await.expect("again");
    assert_eq!(again.gateway_id, first.gateway_id);

    // Deleted by somebody since, it doesn't come back with the same key.
    catalog.delete(kind::GATEWAYS, &first.gateway_id.to_string(), None).await.expect("deleted");
    let why = api.refused(home.path(), &key, newcomer("b", "p-1")).await;
    assert!(why.contains("was deleted since"), "{why}");

    // Over.
    let mut end = |document: &lifeboat_vault::Document| {
        let mut record: RegistrationKeyRecord = document.status_as().expect("a record");
        record.expires = Some(document.created);
        serde_json::to_value(record).ok()
    };
    catalog.update_status(kind::REGISTRATION_KEYS, &id, &mut end).await.expect("written");
    let why = api.refused(home.path(), &key, newcomer("b", "p-1")).await;
    assert!(why.contains("has ended"), "{why}");
    let flipped = key.replacen(&key[72..75], if &key[72..75] == "AAA" { "BBB" } else { "AAA" }, 1);
    let why = api.refused(home.path(), &flipped, newcomer("b", "p-1")).await;
    assert!(why.contains("isn't valid here"), "{why}");
    api.gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_gateways_name_is_taken_up_and_one_that_is_heard_of_is_not() {
    let api = Api::start().await;
    api.vault().await;
    let west = api.site_named("west").await;
    let declared = api.declare("/v1/gateways", &json!({"site_id": west["id"], "name": "b"})).await;
    let id = text(&declared["id"]);
    let catalog = api.gateway.context.vaults.all().remove(0).vault().expect("open").catalog().clone();
    let heard = async |seconds_ago: i64| {
        let mut write = |document: &lifeboat_vault::Document| {
            let mut record: GatewayRecord = document.status_as().expect("a record");
            record.process_id = Some("p-old".to_owned());
            record.last_seen = Some(Timestamp::from_micros(Timestamp::now().as_micros() - seconds_ago * 1_000_000));
            serde_json::to_value(record).ok()
        };
        catalog.update_status(kind::GATEWAYS, &id, &mut write).await.expect("written");
    };
    let home = tempfile::tempdir().expect("tempdir");
    let (key, _) = api.gateway_key(&west, &["configuration_server", "process_server", "master_target"]).await;
    heard(1).await;
    let why = api.refused(home.path(), &key, newcomer("b", "p-new")).await;
    assert!(why.contains("is at work"), "{why}");
    heard(3600).await;
    let taken = enrol_gateway(home.path(), &key, &api.at(), newcomer("b", "p-new")).await.expect("it is dead");
    assert_eq!(taken.gateway_id.to_string(), id);
    // Enrolling alone takes nothing away: who has the vault's key takes the declaration up.
    let document = catalog.get(kind::GATEWAYS, &id).await.expect("there");
    let record: GatewayRecord = document.status_as().expect("a record");
    assert_eq!(record.process_id.as_deref(), Some("p-old"));
    api.gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_left_for_the_start_is_tried_until_the_endpoint_is_there_and_no_longer_than_it_is_good() {
    let api = Api::start().await;
    api.vault().await;
    let west = api.site_named("west").await;
    let (key, _) = api.gateway_key(&west, &["process_server"]).await;
    let state = api.dir.path().join("b");
    std::fs::create_dir(&state).expect("made");
    let left = |endpoint: &str, key: &str| {
        let left = json!({
            "version": 1, "endpoints": [endpoint], "key": key,
            "vault_key": {"key_source": "passphrase", "passphrase": "canary-correct-horse"},
        });
        std::fs::write(state.join("register.json"), left.to_string()).expect("written");
    };
    // Nobody is there.
    left("https://127.0.0.1:1", &key);
    let gateway = Gateway::start(config(&state, "b", "west")).await.expect("starts");
    assert!(!state.join("register.json").exists(), "it is taken in once");
    eventually("it says that nobody is there", async || {
        let shown = client(&gateway).registration().await.expect("asked");
        assert_eq!(shown.state, RegistrationState::Enrolling, "{}", shown.message);
        shown.message.contains("can't reach").then_some(())
    })
    .await;
    gateway.stop().await;
    left(&api.at()[0], &key);
    let gateway = Gateway::start(config(&state, "b", "west")).await.expect("starts");
    eventually("it has the vault", async || {
        let shown = client(&gateway).registration().await.expect("asked");
        (shown.state == RegistrationState::Registered).then_some(())
    })
    .await;
    registered(&client(&gateway), "b").await;
    gateway.stop().await;

    // The same settings at every boot: they say nothing new, and don't bring the secrets back.
    left("https://127.0.0.1:1", &key);
    let gateway = Gateway::start(config(&state, "b", "west")).await.expect("starts");
    let shown = client(&gateway).registration().await.expect("asked");
    assert_eq!(shown.state, RegistrationState::Registered, "{}", shown.message);
    let kept = std::fs::read_to_string(state.join("registration.json")).expect("kept");
    assert!(!kept.contains(&key) && !kept.contains("canary") && !state.join("register.json").exists(), "{kept}");
    gateway.stop().await;

    // A key that was used elsewhere is refused for good.
    let state = api.dir.path().join("c");
    std::fs::create_dir(&state).expect("made");
    let left = json!({"version": 1, "endpoints": api.at(), "key": key});
    std::fs::write(state.join("register.json"), left.to_string()).expect("written");
    let gateway = Gateway::start(config(&state, "c", "west")).await.expect("starts");
    eventually("it is refused", async || {
        let shown = client(&gateway).registration().await.expect("asked");
        (shown.state == RegistrationState::Refused && shown.message.contains("another machine")).then_some(())
    })
    .await;
    let answer: Value = client(&gateway).get("/readyz", &[]).await.expect("it works all the same");
    assert_eq!(answer["degraded"], true, "{answer}");
    gateway.stop().await;
    let status = api.get("/v1/status").await.status;
    assert_eq!(status, StatusCode::OK);
    api.gateway.stop().await;
}
