//! Requests that are nearly right: of every operation, with bodies made from its own description in which now and then a value is
//! odd, with the ids of things that exist or don't, with odd headers and queries, and with bytes broken.
//!
//! Whatever is asked, the answer is one that the description allows, comes soon, and is no failure of the gateway's own; afterwards
//! everything that is declared can still be read. `SEED=0x…` begins elsewhere, `CASES=N` asks more often.

use std::time::Duration;

use axum::body::Body;
use http::StatusCode;
use serde_json::{Value, json};

use super::recovery::world;
use super::{Answer, Api};
use crate::http::openapi::document;
use crate::http::operations::operations;
use crate::testing::{Random, given};

/// How long an answer may take on a busy machine.
const WITHIN: Duration = Duration::from_secs(60);
/// Deeper than any description goes.
const DEPTH: usize = 12;

/// What no field was made for.
const ODD: [&str; 14] = [
    "",
    " ",
    "\0",
    "\u{202e}",
    "💾",
    "..",
    "../../etc/passwd",
    "%2e%2e%2f",
    "-1",
    "null",
    "1e400",
    "18446744073709551616",
    "\r\nx-more: 1",
    "${jndi:x}",
];
/// What some field was made for.
const FITTING: [&str; 16] = [
    "db",
    "erp",
    "1h",
    "5s",
    "14d",
    "latest",
    "all",
    "10.20.0.7",
    "10.20.0.0/24",
    "02:00:00:00:00:01",
    "Mon..Fri 02:00",
    "auto",
    "ignore",
    "https://127.0.0.1:9/hook",
    "2026-01-01T00:00:00Z",
    "/nowhere/at/all",
];

fn odd_value(random: &mut Random) -> Value {
    match random.number() % 12 {
        0 => Value::Null,
        1 => json!(true),
        2 => json!(-1),
        3 => json!(u64::MAX),
        4 => json!(1.5e300),
        5 => json!([]),
        6 => json!({}),
        7 => json!("x".repeat(5000)),
        8 => json!(vec![json!({"id": "x"}); 300]),
        9 => (0..100).fold(json!(0), |inner, _| json!([inner])),
        _ => json!(random.one(&ODD)),
    }
}

/// Makes bodies.
struct Maker {
    description: Value,
    random: Random,
    /// What is there: collection and id.
    ids: Vec<(String, String)>,
    directory: String,
}

impl Maker {
    /// Once in `of`.
    fn once(&mut self, of: u64) -> bool {
        self.random.below(of) == 0
    }

    fn body(&mut self, schema: &str) -> Value {
        let reference = json!({"$ref": format!("#/components/schemas/{schema}")});
        self.value(&reference, "", 0)
    }

    fn value(&mut self, schema: &Value, name: &str, depth: usize) -> Value {
        if depth > DEPTH || self.once(50) {
            return odd_value(&mut self.random);
        }
        if let Some(name) = schema["$ref"].as_str() {
            let name = name.rsplit('/').next().unwrap_or_default();
            let target = self.description["components"]["schemas"][name].clone();
            return self.value(&target, name, depth + 1);
        }
        for several in ["oneOf", "anyOf", "allOf"] {
            if let Some(all) = schema[several].as_array() {
                let one = self.random.one(all).clone();
                return self.value(&one, name, depth + 1);
            }
        }
        if let Some(all) = schema["enum"].as_array() {
            return self.random.one(all).clone();
        }
        let kind = match &schema["type"] {
            Value::Array(kinds) => self.random.one(kinds).clone(),
            kind => kind.clone(),
        };
        match kind.as_str() {
            Some("object") => {
                let required = schema["required"].as_array().cloned().unwrap_or_default();
                let mut object = serde_json::Map::new();
                for (field, inner) in schema["properties"].as_object().into_iter().flatten() {
                    let asked = required.iter().any(|one| one == field);
                    if asked && !self.once(20) || !asked && self.once(2) {
                        object.insert(field.clone(), self.value(inner, field, depth + 1));
                    }
                }
                if self.once(30) {
                    object.insert((*self.random.one(&ODD)).to_owned(), odd_value(&mut self.random));
                }
                object.into()
            }
            Some("array") => {
                let count = *self.random.one(&[0, 1, 1, 2, 3]);
                (0..count).map(|_| self.value(&schema["items"], name, depth + 1)).collect()
            }
            Some("integer") => json!(*self.random.one(&[0_i64, 1, 2, 7, 64, 100, 4096, 1 << 20, i64::MAX])),
            Some("number") => json!(*self.random.one(&[0.0, 0.5, 1.0, -1.0])),
            Some("boolean") => json!(self.once(2)),
            Some("string") => self.text(name),
            _ => Value::Null,
        }
    }

    fn text(&mut self, name: &str) -> Value {
        match name {
            // Nothing is looked for outside this test's own directory, and nobody is called.
            "storage_url" => {
                json!(format!("file://{}/{}", self.directory, self.random.one(&["vault", "more", "none"])))
            }
            "storage_endpoint" | "storage_proxy" => json!(self.random.one(&ODD)),
            name if name.ends_with("_id") => json!(self.id(name.trim_end_matches("_id"))),
            _ => json!(self.random.one(&FITTING)),
        }
    }

    /// An id of this kind, mostly.
    fn id(&mut self, kind: &str) -> String {
        // `source_network` is a network.
        let kind = kind.rsplit('_').next().unwrap_or(kind);
        let alike: Vec<&String> =
            self.ids.iter().filter(|(collection, _)| collection.contains(kind)).map(|(_, id)| id).collect();
        match self.random.number() % 10 {
            0 => (*self.random.one(&ODD)).to_owned(),
            1 => self.random.one(&self.ids).1.clone(),
            _ if alike.is_empty() => self.random.one(&self.ids).1.clone(),
            _ => (*self.random.one(&alike)).clone(),
        }
    }

    /// For a path: what can stand there is escaped, what can't be in a path at all comes as such where it may.
    fn escaped_id(&mut self, kind: &str) -> String {
        let escape = |byte: u8| {
            if byte.is_ascii_alphanumeric() || byte == b'-' {
                char::from(byte).to_string()
            } else {
                format!("%{byte:02X}")
            }
        };
        match self.random.number() % 20 {
            0 => "x".repeat(3000),
            1 => "%00%ff".to_owned(),
            _ => self.id(kind).bytes().map(escape).collect(),
        }
    }

    /// The body as it is sent: now and then bytes of it are broken.
    fn bytes(&mut self, body: &Value) -> Vec<u8> {
        let mut bytes = body.to_string().into_bytes();
        if self.once(12) && !bytes.is_empty() {
            let at = usize::try_from(self.random.number() % bytes.len() as u64).expect("small");
            match self.random.number() % 3 {
                0 => bytes.truncate(at),
                1 => bytes.insert(at, 0xff),
                _ => *bytes.get_mut(at).expect("inside") ^= 1 << (self.random.number() % 8),
            }
        }
        bytes
    }
}

async fn ids_of(api: &Api) -> Vec<(String, String)> {
    let mut ids = Vec::new();
    for operation in operations().filter(|one| one.method == "get" && !one.path.contains('{')) {
        let answer = api.get(operation.path).await;
        let items = answer.body["items"].as_array().cloned().unwrap_or_default();
        let found = items.iter().filter_map(|item| item["id"].as_str());
        ids.extend(found.map(|id| (operation.path.to_owned(), id.to_owned())));
    }
    ids
}

fn allowed(description: &Value, path: &str, method: &str, answer: &Answer) -> Result<(), String> {
    let status = answer.status;
    if status.is_server_error() && status != StatusCode::SERVICE_UNAVAILABLE {
        return Err(format!("the gateway failed: {}", answer.body));
    }
    if status.is_success() {
        return Ok(());
    }
    if answer.content_type != "application/problem+json" || answer.body["status"] != status.as_u16() {
        return Err(format!("no problem document: {} {}", answer.content_type, answer.body));
    }
    let known = &description["paths"][path][method]["responses"];
    let (exact, class) = (status.as_str(), format!("{}XX", &status.as_str()[..1]));
    let described = [exact, &class, "default"].iter().any(|one| known.get(*one).is_some());
    if described { Ok(()) } else { Err(format!("not described: {}", answer.body)) }
}

#[tokio::test(flavor = "multi_thread")]
async fn nearly_right_requests_are_answered_as_described_and_break_nothing() {
    let (seed, cases) = (given("SEED").unwrap_or(0x6a7b1ed), given("CASES").unwrap_or(1500));
    let world = world().await;
    let api = &world.api;
    for (name, disk, address) in [("db", 0, "10.20.0.7"), ("web", 1, "10.20.0.8")] {
        api.declare("/v1/machines", &world.machine(name, disk, address)).await;
    }
    let description: Value = serde_json::to_value(document()).expect("a document");
    let mut maker = Maker {
        description: description.clone(),
        random: Random(seed),
        ids: ids_of(api).await,
        directory: api.dir.path().display().to_string(),
    };
    // Without them nothing more would be asked of anything.
    let ends = |path: &str, method: &str| path == "/v1/vaults/{id}" && method == "delete";
    let all: Vec<_> = operations().filter(|one| !ends(one.path, one.method)).collect();
    let mut counts = std::collections::BTreeMap::<u16, usize>::new();
    for case in 0..cases {
        let operation = *maker.random.one(&all);
        let mut path = operation.path.to_owned();
        let kind = path.split('/').nth(2).unwrap_or_default().trim_end_matches('s').to_owned();
        let kind = kind.as_str();
        for part in ["{id}", "{point}"] {
            if path.contains(part) {
                path = path.replace(part, &maker.escaped_id(kind));
            }
        }
        if !operation.query.is_empty() && maker.once(2) {
            let name = *maker.random.one(operation.query);
            // A wait is one on purpose.
            let value = if name == "wait" { "0s".to_owned() } else { maker.escaped_id(name) };
            path = format!("{path}?{name}={value}");
        }
        let body = operation.body.map(|schema| maker.body(schema));
        let bytes = body.as_ref().map(|body| maker.bytes(body)).unwrap_or_default();
        let mut request = api.request(&operation.method.to_uppercase(), &path);
        let generation = *maker.random.one(&["\"1\"", "\"1\"", "\"2\"", "*", "1", "\"18446744073709551616\""]);
        if !maker.once(20) {
            request = request.header("if-match", generation);
        }
        if maker.once(10) {
            request = request.header("idempotency-key", "k".repeat(usize::from(maker.once(2)) * 300 + 1));
        }
        let Ok(request) = request.body(Body::from(bytes.clone())) else { continue };
        let said =
            format!("seed {seed:#x}, case {case}: {} {path} {:?}", operation.method, String::from_utf8_lossy(&bytes));
        let answer =
            tokio::time::timeout(WITHIN, api.send(request)).await.unwrap_or_else(|_| panic!("{said}: no answer"));
        if let Err(wrong) = allowed(&description, operation.path, operation.method, &answer) {
            panic!("{said}: {}: {wrong}", answer.status);
        }
        *counts.entry(answer.status.as_u16()).or_default() += 1;
        if case % 200 == 199 {
            maker.ids = ids_of(api).await;
        }
    }
    println!("seed {seed:#x}: {counts:?}");
    // What was asked got past the checks now and then, and was refused by most of them.
    assert!([200, 201].iter().all(|status| counts.get(status).is_some_and(|count| *count > 10)), "{counts:?}");
    assert!([404, 422].iter().all(|status| counts.get(status).is_some_and(|count| *count > 20)), "{counts:?}");
    for operation in operations().filter(|one| one.method == "get" && !one.path.contains('{')) {
        let answer = api.get(operation.path).await;
        // Some want to be told of which group.
        let fine = answer.status.is_success() || answer.status == StatusCode::BAD_REQUEST;
        assert!(fine, "{}: {} {}", operation.path, answer.status, answer.body);
    }
    world.api.gateway.stop().await;
}
