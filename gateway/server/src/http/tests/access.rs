//! Every route and every verb with every role, over HTTPS, held against the description that the gateway gives of itself.

use std::sync::Arc;

use bytes::Bytes;
use http::{Method, Request, StatusCode, header};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use lifeboat_api::Role;
use lifeboat_identity::{Machine, MachineKind};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, ServerName};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::Api;
use crate::Gateway;
use crate::http::operations::{Need, operations};
use crate::records::{TokenRecord, kind};

/// One connection to a gateway, as a program of somebody else's would make it.
struct Line(SendRequest<Full<Bytes>>);

impl Line {
    /// The line of a machine, which shows its certificate.
    async fn of(machine: &Machine, gateway: &Gateway) -> Self {
        Self::open(machine.tls(&[b"http/1.1"]).expect("TLS"), machine.server_name(), gateway).await
    }

    async fn to(gateway: &Gateway) -> Self {
        let pem = std::fs::read(gateway.state_path().join("ca.pem")).expect("made at the first start");
        let mut roots = rustls::RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(&pem).expect("a certificate")).expect("an authority");
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let tls = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("known versions")
            .with_root_certificates(roots)
            .with_no_client_auth();
        Self::open(Arc::new(tls), ServerName::IpAddress(gateway.address().ip().into()), gateway).await
    }

    async fn open(tls: Arc<rustls::ClientConfig>, name: ServerName<'static>, gateway: &Gateway) -> Self {
        let stream = TcpStream::connect(gateway.address()).await.expect("it listens");
        let stream = TlsConnector::from(tls).connect(name, stream).await.expect("a handshake");
        let (sender, connection) = handshake(TokioIo::new(stream)).await.expect("HTTP");
        tokio::spawn(connection);
        Self(sender)
    }

    /// Status, content type and body of the answer.
    async fn ask(&mut self, method: &str, path: &str, token: Option<&str>) -> (StatusCode, String, Value) {
        let mut request = Request::builder()
            .method(method)
            .uri(path)
            .header(header::HOST, "gateway")
            .header(header::CONTENT_TYPE, "application/json")
            .header(header::IF_MATCH, "\"1\"");
        if let Some(token) = token {
            request = request.header(header::AUTHORIZATION, format!("Bearer {token}"));
        }
        let body = if method == Method::GET { Bytes::new() } else { Bytes::from_static(b"{}") };
        self.0.ready().await.expect("the line is up");
        let answer = self.0.send_request(request.body(Full::new(body)).expect("sound")).await.expect("an answer");
        let (status, kind) = (answer.status(), answer.headers().get(header::CONTENT_TYPE).cloned());
        let kind = kind.and_then(|value| value.to_str().ok().map(str::to_owned)).unwrap_or_default();
        let body = answer.into_body().collect().await.expect("a body").to_bytes();
        (status, kind, serde_json::from_slice(&body).unwrap_or(Value::Null))
    }
}

/// Somebody who asks, and what is expected of asking.
struct Caller {
    who: &'static str,
    token: Option<String>,
    /// Nothing for who isn't let in at all.
    roles: Option<Vec<Role>>,
}

impl Api {
    /// A token with these roles, and its id.
    pub(super) async fn token(&self, name: &str, roles: &[Role]) -> (String, String) {
        let made = self.declare("/v1/tokens", &json!({"name": name, "roles": roles})).await;
        let text = |value: &Value| value.as_str().expect("a text").to_owned();
        (text(&made["secret"]), text(&made["token"]["id"]))
    }

    async fn callers(&self) -> Vec<Caller> {
        let mut callers = vec![
            Caller { who: "the administrator", token: Some(self.token.clone()), roles: Some(Role::ALL.to_vec()) },
            Caller { who: "nobody", token: None, roles: None },
            Caller { who: "a wrong token", token: Some("lbt_wrong".to_owned()), roles: None },
        ];
        for role in Role::ALL {
            let (token, _) = self.token(role.as_str(), &[role]).await;
            callers.push(Caller { who: role.as_str(), token: Some(token), roles: Some(vec![role]) });
        }
        let both = [Role::Operator, Role::Recovery];
        let (token, _) = self.token("both", &both).await;
        callers.push(Caller { who: "operator and recovery", token: Some(token), roles: Some(both.to_vec()) });

        let (token, id) = self.token("revoked", &Role::ALL).await;
        let answer = self.change("DELETE", &format!("/v1/tokens/{id}"), "\"1\"", &json!({})).await;
        assert_eq!(answer.status, StatusCode::NO_CONTENT);
        callers.push(Caller { who: "a revoked token", token: Some(token), roles: None });

        let (token, id) = self.token("rotated", &Role::ALL).await;
        let answer = self.post(&format!("/v1/tokens/{id}:rotate"), &json!({"grace": "0s"})).await;
        assert_eq!(answer.status, StatusCode::OK, "{}", answer.body);
        callers.push(Caller { who: "the old secret of a rotated token", token: Some(token), roles: None });

        let (token, id) = self.token("expired", &Role::ALL).await;
        self.expire(&id).await;
        callers.push(Caller { who: "an expired token", token: Some(token), roles: None });
        callers
    }

    /// Lets a token's time be over.
    pub(super) async fn expire(&self, id: &str) {
        let vault = self.gateway.context.vaults.all().remove(0);
        let mut past = |document: &lifeboat_vault::Document| {
            let mut record = document.status_as::<TokenRecord>().expect("a record");
            record.expires = Some(document.created);
            serde_json::to_value(record).ok()
        };
        vault.vault().expect("open").catalog().update_status(kind::TOKENS, id, &mut past).await.expect("written");
        vault.refresh().await.expect("read");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_operation_asks_every_caller_for_what_the_description_says() {
    let api = Api::start().await;
    api.vault().await;
    let callers = api.callers().await;
    let home = tempfile::tempdir().expect("tempdir");
    let agent = api.agent(home.path(), "web").await;
    let mut agents_line = Line::of(&agent, &api.gateway).await;
    let mut line = Line::to(&api.gateway).await;
    let (status, _, description) = line.ask("GET", "/v1/openapi.json", Some(&api.token)).await;
    assert_eq!(status, StatusCode::OK);
    let mut asked = 0;
    for (path, methods) in description["paths"].as_object().expect("paths") {
        for (method, operation) in methods.as_object().expect("methods") {
            let method = method.to_uppercase();
            let open = operation["security"] == json!([]);
            let needed: Option<Role> =
                serde_json::from_value(operation["x-required-role"].clone()).expect("a role or nothing");
            let by_body = ["/v1/enrolments", "/v1/gateway-enrolments"].contains(&path.as_str());
            assert_eq!(operation["responses"].get("401").is_some(), !open || by_body, "{method} {path}");
            let may_lack = needed.is_some() || operation.get("x-required-machine").is_some();
            assert_eq!(operation["responses"].get("403").is_some(), may_lack, "{method} {path}");
            let real = path.replace("{id}", "x").replace("{point}", "y");
            let machine = operation["x-required-machine"].as_str();
            // A machine, with a token of all roles and without: what is a machine's, and nothing else. About itself, too.
            let about_itself = path.replace("{id}", &agent.name().id).replace("{point}", "y");
            for token in [None, Some(api.token.as_str())] {
                let what = format!("{method} {path} by an agent");
                let (status, kind, body) = agents_line.ask(&method, &about_itself, token).await;
                asked += 1;
                if open || machine == Some("agent") {
                    assert!(!matches!(status.as_u16(), 401 | 403 | 405), "{what}: {status} {body}");
                } else {
                    let refused = (StatusCode::FORBIDDEN, "application/problem+json");
                    assert_eq!((status, kind.as_str()), refused, "{what}: {body}");
                    assert!(body["detail"].as_str().is_some_and(|said| said.contains("not for the agent")), "{body}");
                }
            }
            for caller in &callers {
                let what = format!("{method} {path} by {}", caller.who);
                let (status, kind, body) = line.ask(&method, &real, caller.token.as_deref()).await;
                asked += 1;
                let lacking = |role: Role| !caller.roles.iter().flatten().any(|has| has.covers(role));
                match (&caller.roles, needed) {
                    (None, _) if !open => {
                        assert_eq!(
                            (status, kind.as_str()),
                            (StatusCode::UNAUTHORIZED, "application/problem+json"),
                            "{what}"
                        );
                        assert_eq!(body["code"], "unauthorized", "{what}");
                        assert!(body["detail"].as_str().is_some_and(|said| said.contains("token")), "{what}: {body}");
                    }
                    (Some(_), None) if machine.is_some() => {
                        let refused = (StatusCode::FORBIDDEN, "application/problem+json");
                        assert_eq!((status, kind.as_str()), refused, "{what}: {body}");
                        assert!(body["detail"].as_str().is_some_and(|said| said.contains("for an agent")), "{body}");
                    }
                    (Some(roles), Some(role)) if lacking(role) => {
                        assert_eq!(
                            (status, kind.as_str()),
                            (StatusCode::FORBIDDEN, "application/problem+json"),
                            "{what}"
                        );
                        assert_eq!(body["code"], "forbidden", "{what}");
                        assert_eq!(
                            (&body["required_role"], &body["token_roles"]),
                            (&json!(role), &json!(roles)),
                            "{what}"
                        );
                        let detail = body["detail"].as_str().expect("a sentence");
                        assert!(
                            detail.contains(role.as_str()) && roles.iter().all(|r| detail.contains(r.as_str())),
                            "{what}"
                        );
                    }
                    _ => {
                        assert!(
                            !matches!(status.as_u16(), 401 | 403 | 405) && !status.is_server_error(),
                            "{what}: {status} {body}"
                        );
                        let detail = body["detail"].as_str().unwrap_or_default();
                        assert!(!detail.contains("in this API"), "{what} is described and has no route: {detail}");
                    }
                }
            }
        }
    }
    assert_eq!(asked, operations().count() * (callers.len() + 2));
    api.gateway.stop().await;
}

/// What isn't reading, by role. Moving a line is a decision about security: docs/decisions/0019 and docs/guides/security.md
/// say why each stands where it does.
#[test]
fn the_roles_are_these() {
    let listed = |need: Need| -> Vec<String> {
        let rows = operations().filter(|row| row.need == need);
        let mut rows: Vec<String> = rows.map(|row| format!("{} {}", row.method, row.path)).collect();
        rows.sort();
        rows
    };
    let resources = |names: &[&str], verbs: &[&str]| -> Vec<String> {
        let mut all: Vec<String> = verbs.iter().map(|verb| (*verb).to_owned()).collect();
        for name in names {
            all.extend([
                format!("post /v1/{name}"),
                format!("patch /v1/{name}/{{id}}"),
                format!("delete /v1/{name}/{{id}}"),
            ]);
        }
        all.sort();
        all
    };
    assert_eq!(listed(Need::Nothing), ["get /livez", "get /readyz"]);
    assert_eq!(listed(Need::Token), ["get /v1/openapi.json", "get /v1/whoami"]);
    assert_eq!(listed(Need::RegistrationKey), ["post /v1/enrolments", "post /v1/gateway-enrolments"]);
    assert_eq!(
        listed(Need::Machine(MachineKind::Agent)),
        ["get /v1/agents/{id}/process-servers", "post /v1/agents/{id}:renew"]
    );
    assert!(listed(Need::Role(Role::Reader)).iter().all(|row| row.starts_with("get ")));
    assert_eq!(
        listed(Need::Role(Role::Operator)),
        resources(
            &[
                "sites",
                "gateways",
                "policies",
                "groups",
                "volumes",
                "networks",
                "network-mappings",
                "machines",
                "plans",
                "drills"
            ],
            &[
                "post /v1/deleted/{id}:undelete",
                "post /v1/groups/{id}:point",
                "post /v1/groups/{id}:resync",
                "post /v1/groups/{id}:undelete",
                "post /v1/groups/{id}/points/{point}:label",
                "post /v1/groups/{id}/points/{point}:pin",
                "post /v1/groups/{id}/points/{point}:unpin",
                "post /v1/notice-tests",
            ]
        )
    );
    let recovered = ["groups", "machines", "plans"].iter().flat_map(|of| {
        ["failover", "change-point", "commit", "cleanup", "reprotect", "failback"]
            .map(|verb| format!("post /v1/{of}/{{id}}:{verb}"))
    });
    let mut recovered: Vec<String> = recovered.collect();
    recovered.extend(
        [
            "gateways/{id}:replace",
            "groups/{id}:move",
            "groups/{id}:release",
            "groups/{id}:resume",
            "machines/{id}:start",
            "machines/{id}:stop",
            "machines/{id}:reach",
            "drills/{id}:run",
            "drills/{id}:cleanup",
            "jobs/{id}:cancel",
            "jobs/{id}:retry",
            "jobs/{id}:continue",
        ]
        .map(|row| format!("post /v1/{row}")),
    );
    recovered.sort();
    assert_eq!(listed(Need::Role(Role::Recovery)), recovered);
    assert_eq!(
        listed(Need::Role(Role::SecurityAdministrator)),
        resources(
            &["vaults"],
            &[
                "post /v1/approvals/{id}:approve",
                "post /v1/approvals/{id}:reject",
                "post /v1/registration",
                "post /v1/registration-keys",
                "delete /v1/registration-keys/{id}",
                "delete /v1/agents/{id}",
                "get /v1/support-bundles/{id}",
                "post /v1/tokens",
                "delete /v1/tokens/{id}",
                "post /v1/tokens/{id}:renew",
                "post /v1/tokens/{id}:rotate",
                "post /v1/vaults/{id}:add-key",
                "post /v1/vaults/{id}:remove-key",
                "post /v1/vaults/{id}:rotate-key",
                "post /v1/vaults/{id}:verify-key",
                "post /v1/volumes/{id}:erase",
                "post /v1/volumes/{id}:rotate-key",
            ]
        )
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_verb_in_disguise_needs_what_the_verb_needs() {
    let api = Api::start().await;
    api.vault().await;
    let (operator, _) = api.token("operator", &[Role::Operator]).await;
    let (recovery, _) = api.token("recovery", &[Role::Recovery]).await;
    let mut line = Line::to(&api.gateway).await;
    for path in ["/v1/groups/x%3Afailover", "/v1/groups/x:%66ailover", "/v1/groups/x%3afailover?a=b"] {
        let (status, _, body) = line.ask("POST", path, Some(&operator)).await;
        assert_eq!(status, StatusCode::FORBIDDEN, "{path}: {body}");
        let (status, _, body) = line.ask("POST", path, Some(&recovery)).await;
        assert_eq!(status, StatusCode::NOT_FOUND, "{path}: {body}");
        assert!(body["detail"].as_str().expect("a sentence").contains("no group x"), "{body}");
    }
    for (method, path, status) in [
        ("POST", "/v1/groups/x:point:failover", 404),
        ("POST", "/v1/groups/x", 405),
        ("POST", "/v1/groups/%ff:point", 400),
        ("POST", "/v1/groups/x:failover/", 404),
        ("POST", "/v1//groups/x:failover", 404),
        // HEAD is answered as GET is, without a body.
        ("HEAD", "/v1/groups", 200),
        ("PUT", "/v1/groups/x", 405),
    ] {
        let (found, _, body) = line.ask(method, path, Some(&operator)).await;
        assert_eq!(found.as_u16(), status, "{method} {path}: {body}");
        let (found, ..) = line.ask(method, path, None).await;
        assert_eq!(found, StatusCode::UNAUTHORIZED, "{method} {path}");
    }
    api.gateway.stop().await;
}
