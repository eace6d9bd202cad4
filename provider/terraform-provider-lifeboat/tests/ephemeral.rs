//! Ephemeral resources over gRPC, as Terraform opens, renews and closes them.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

mod fake_gateway;
mod session;

use std::time::{Duration, SystemTime};

use fake_gateway::{FakeGateway, problem};
use serde_json::{Value as Json, json};
use session::{Session, send};
use terraform_provider_lifeboat::LifeboatProvider;
use tf_provider_sdk::tfplugin5 as pb;
use tf_provider_sdk::{Object, Provider as _, Schema, Value};

const TIME: &str = "2026-11-20T10:05:00Z";
const NAME: &str = "lifeboat_token";
const CANARY: &str = "lbt_canary_of_a_secret";

fn schema_of(name: &str) -> Schema {
    let all = LifeboatProvider.ephemeral_resources();
    all.iter().find(|resource| resource.type_name() == name).unwrap().schema()
}

fn schema() -> Schema {
    schema_of(NAME)
}

fn id() -> String {
    format!("tok-{:032x}", 7)
}

fn token() -> Json {
    json!({
        "id": id(), "generation": 1, "created": TIME, "updated": TIME,
        "spec": {"vault_id": format!("vlt-{:032x}", 1), "name": "ci", "roles": ["reader", "recovery"]},
        "status": {"expires": TIME, "expired": false, "last_used": null, "created_by": null,
                   "secrets": [{"created": TIME, "ends": null}]},
    })
}

async fn started() -> (FakeGateway, Session) {
    let gateway = FakeGateway::start().await;
    let mut session = Session::start().await;
    session.configure(gateway.block(&[])).await;
    (gateway, session)
}

fn said(diagnostics: &[pb::Diagnostic]) -> Vec<String> {
    diagnostics.iter().map(|d| format!("{}: {}", d.summary, d.detail)).collect()
}

async fn open(session: &mut Session, config: Object) -> pb::open_ephemeral_resource::Response {
    let request = pb::open_ephemeral_resource::Request {
        type_name: NAME.into(),
        config: send(&schema(), config),
        client_capabilities: None,
    };
    session.client.open_ephemeral_resource(request).await.unwrap().into_inner()
}

fn config() -> Object {
    Object::new().with("name", "ci").with("roles", vec!["recovery".to_owned(), "reader".to_owned()]).with("ttl", "30m")
}

#[tokio::test]
async fn it_is_made_renewed_before_half_its_life_is_over_and_revoked() {
    let (gateway, mut session) = started().await;
    gateway
        .answers("POST /v1/tokens", 201, json!({"token": token(), "secret": CANARY}))
        .answers(&format!("POST /v1/tokens/{}:renew", id()), 200, token())
        .answers(&format!("DELETE /v1/tokens/{}", id()), 204, Json::Null);
    let opened = open(&mut session, config()).await;
    assert_eq!(said(&opened.diagnostics), Vec::<String>::new());
    let Value::Object(result) = opened.result.unwrap().decode(&schema().value_type()).unwrap() else {
        panic!("no object")
    };
    assert_eq!(result.get("token"), Ok(CANARY.to_owned()));
    assert_eq!(result.get("id"), Ok(id()));
    assert_eq!(result.get("expires"), Ok(TIME.to_owned()));
    let sent = gateway.asked("POST /v1/tokens").concat();
    assert!(sent.contains("\"ttl\":\"30m\"") && sent.contains("\"recovery\""), "{sent}");
    let private = opened.private.unwrap();
    assert!(!String::from_utf8_lossy(&private).contains(CANARY), "what is kept names the token and can't use it");
    let in_time = |seconds: i64| {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
        let left = Duration::from_secs(seconds.try_into().unwrap()).saturating_sub(now);
        assert!(left > Duration::from_secs(10 * 60) && left <= Duration::from_secs(15 * 60), "{left:?}");
    };
    in_time(opened.renew_at.unwrap().seconds);

    let request = pb::renew_ephemeral_resource::Request { type_name: NAME.into(), private: Some(private.clone()) };
    let renewed = session.client.renew_ephemeral_resource(request).await.unwrap().into_inner();
    assert_eq!(said(&renewed.diagnostics), Vec::<String>::new());
    in_time(renewed.renew_at.unwrap().seconds);
    assert!(gateway.asked(&format!("POST /v1/tokens/{}:renew", id()))[0].contains("\"ttl\":\"30m\""));

    let request = pb::close_ephemeral_resource::Request { type_name: NAME.into(), private: renewed.private };
    let closed = session.client.close_ephemeral_resource(request).await.unwrap().into_inner();
    assert_eq!(said(&closed.diagnostics), Vec::<String>::new());
    assert_eq!(gateway.asked(&format!("DELETE /v1/tokens/{}", id())).len(), 1);
    session.end().await;
}

#[tokio::test]
async fn what_cannot_be_made_or_revoked_says_what_to_do() {
    let (gateway, mut session) = started().await;
    let lacking = json!({"required_role": "security_administrator", "token_roles": ["operator"]});
    let detail = "POST /v1/tokens needs the role security_administrator, and the token ci has operator";
    gateway.answers("POST /v1/tokens", 403, problem("forbidden", 403, detail, lacking));
    let said_of = said(&open(&mut session, config()).await.diagnostics);
    assert_eq!(said_of.len(), 1, "{said_of:?}");
    assert!(
        said_of[0].starts_with("Cannot make the token ci: ") && said_of[0].contains("LIFEBOAT_TOKEN"),
        "{said_of:?}"
    );

    gateway.answers(&format!("DELETE /v1/tokens/{}", id()), 500, problem("internal", 500, "no luck", json!({})));
    let kept = json!({"id": id(), "name": "ci", "generation": 1, "ttl": "30m"}).to_string().into_bytes();
    let request = pb::close_ephemeral_resource::Request { type_name: NAME.into(), private: Some(kept) };
    let closed = said(&session.client.close_ephemeral_resource(request).await.unwrap().into_inner().diagnostics);
    assert!(closed[0].contains(&format!("lifeboat token delete {}", id())) && closed[0].contains("30m"), "{closed:?}");
    session.end().await;
}

#[tokio::test]
async fn what_makes_no_sense_is_refused_before_anybody_is_asked() {
    let (gateway, mut session) = started().await;
    let mut validate = async |config: Object| {
        let request =
            pb::validate_ephemeral_resource_config::Request { type_name: NAME.into(), config: send(&schema(), config) };
        said(&session.client.validate_ephemeral_resource_config(request).await.unwrap().into_inner().diagnostics)
    };
    assert_eq!(validate(config()).await, Vec::<String>::new());
    for wrong in [
        config().with("roles", vec!["admin".to_owned()]),
        config().with("roles", Vec::<String>::new()),
        config().with("ttl", "1s"),
        config().with("name", ""),
    ] {
        assert_eq!(validate(wrong.clone()).await.len(), 1, "{wrong:?}");
    }
    let opened = open(&mut session, config().with("vault_id", "main")).await;
    assert!(said(&opened.diagnostics)[0].contains("vlt-"), "{:?}", opened.diagnostics);
    assert!(gateway.asked("POST").is_empty());
    session.end().await;
}

mod registration_key {
    use super::*;

    const NAME: &str = "lifeboat_registration_key";
    const CANARY: &str = "lbr_canary_of_a_key";

    fn id() -> String {
        format!("rgk-{:032x}", 9)
    }

    fn site() -> String {
        format!("site-{:032x}", 2)
    }

    fn key(used_by: Option<&str>, expired: bool) -> Json {
        json!({
            "id": id(), "generation": 1, "created": TIME, "updated": TIME,
            "spec": {"vault_id": format!("vlt-{:032x}", 1), "site_id": site(), "name": "web", "roles": ["agent"]},
            "status": {"expires": TIME, "expired": expired, "used_by": used_by, "used": null, "created_by": null},
        })
    }

    fn config() -> Object {
        Object::new().with("site_id", site()).with("name", "web").with("ttl", "10m")
    }

    async fn open(session: &mut Session, config: Object) -> pb::open_ephemeral_resource::Response {
        let request = pb::open_ephemeral_resource::Request {
            type_name: NAME.into(),
            config: send(&schema_of(NAME), config),
            client_capabilities: None,
        };
        session.client.open_ephemeral_resource(request).await.unwrap().into_inner()
    }

    async fn close(session: &mut Session, private: Option<Vec<u8>>) -> Vec<String> {
        let request = pb::close_ephemeral_resource::Request { type_name: NAME.into(), private };
        said(&session.client.close_ephemeral_resource(request).await.unwrap().into_inner().diagnostics)
    }

    #[tokio::test]
    async fn it_is_made_and_deleted_unless_it_was_used_or_is_kept() {
        let (gateway, mut session) = started().await;
        let (read, delete) =
            (format!("GET /v1/registration-keys/{}", id()), format!("DELETE /v1/registration-keys/{}", id()));
        let agent = format!("agt-{:032x}", 9);
        let mut used_by_gateway = key(None, false);
        used_by_gateway["status"]["used_by_gateway"] = json!(format!("gw-{:032x}", 9));
        gateway
            .answers("POST /v1/registration-keys", 201, json!({"registration_key": key(None, false), "key": CANARY}))
            .answers(&read, 200, key(None, false))
            .answers(&read, 200, key(Some(&agent), false))
            .answers(&read, 200, used_by_gateway)
            .answers(&read, 200, key(None, true))
            .answers(&read, 404, problem("not-found", 404, "there is none", json!({})))
            .answers(&delete, 204, Json::Null);
        let opened = open(&mut session, config()).await;
        assert_eq!(said(&opened.diagnostics), Vec::<String>::new());
        let Value::Object(result) = opened.result.unwrap().decode(&schema_of(NAME).value_type()).unwrap() else {
            panic!("no object")
        };
        assert_eq!(result.get("key"), Ok(CANARY.to_owned()));
        assert_eq!((result.get("id"), result.get("expires")), (Ok(id()), Ok(TIME.to_owned())));
        let sent = gateway.asked("POST /v1/registration-keys").concat();
        assert!(sent.contains("\"roles\":[\"agent\"]") && sent.contains("\"ttl\":\"10m\""), "{sent}");
        assert!(opened.renew_at.is_none(), "it isn't renewed");
        let private = opened.private.unwrap();
        assert!(!String::from_utf8_lossy(&private).contains(CANARY), "what is kept names the key and can't use it");

        // Unused: deleted. Used, ended or gone: left alone.
        for _ in 0..5 {
            assert_eq!(close(&mut session, Some(private.clone())).await, Vec::<String>::new());
        }
        assert_eq!(gateway.asked(&read).len(), 5);
        assert_eq!(gateway.asked(&delete).len(), 1);

        let opened = open(&mut session, config().with("keep", true)).await;
        assert_eq!(close(&mut session, opened.private).await, Vec::<String>::new());
        assert_eq!(gateway.asked(&read).len(), 5, "one that is kept isn't looked at");
        session.end().await;
    }

    #[tokio::test]
    async fn what_makes_no_sense_is_refused_and_what_is_left_behind_is_named() {
        let (gateway, mut session) = started().await;
        let mut validate = async |config: Object| {
            let config = send(&schema_of(NAME), config);
            let request = pb::validate_ephemeral_resource_config::Request { type_name: NAME.into(), config };
            said(&session.client.validate_ephemeral_resource_config(request).await.unwrap().into_inner().diagnostics)
        };
        assert_eq!(validate(config()).await, Vec::<String>::new());
        for wrong in [
            config().with("roles", vec!["root".to_owned()]),
            config().with("roles", Vec::<String>::new()),
            config().with("ttl", "2h"),
            config().with("ttl", "1s"),
            config().with("name", ""),
        ] {
            assert_eq!(validate(wrong.clone()).await.len(), 1, "{wrong:?}");
        }
        let opened = open(&mut session, config().with("site_id", "onprem")).await;
        assert!(said(&opened.diagnostics)[0].contains("site-"), "{:?}", opened.diagnostics);
        assert!(gateway.asked("POST").is_empty());

        let read = format!("GET /v1/registration-keys/{}", id());
        gateway.answers(&read, 500, problem("internal", 500, "no luck", json!({})));
        let kept = json!({"id": id(), "name": "web", "ttl": "10m", "keep": false}).to_string().into_bytes();
        let closed = close(&mut session, Some(kept)).await;
        let found =
            closed[0].contains(&format!("lifeboat registration-key delete {}", id())) && closed[0].contains("10m");
        assert!(found, "{closed:?}");
        session.end().await;
    }
}
