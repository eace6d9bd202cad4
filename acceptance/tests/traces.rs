//! Traces at a collector of the test's own: where they come from, what they belong to, what they never say, and a gateway whose
//! collector is away, says nothing, or can't be trusted.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use lifeboat_acceptance::authority::Authority;
use lifeboat_acceptance::command::{Outcome, Run};
use lifeboat_acceptance::estate::{Estate, Place};
use lifeboat_acceptance::eventually;
use lifeboat_acceptance::gateway::{Gateway, free_address};
use lifeboat_acceptance::receiver::Receiver;
use lifeboat_acceptance::scratch::Scratch;
use lifeboat_api::types::FailoverKind;
use lifeboat_lab::Moto;
use serde_json::Value;

const WITHIN: Duration = Duration::from_secs(120);
const SECRET: &str = "canary-of-the-collector";
const SIZE: u64 = 4 << 20;

/// A span as the collector got it.
#[derive(Clone, Debug)]
struct Span {
    instance: String,
    name: String,
    kind: u64,
    trace: String,
    id: String,
    parent: String,
    error: Option<String>,
    attributes: BTreeMap<String, String>,
}

fn text(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

fn attributes(list: &Value) -> BTreeMap<String, String> {
    let one = |attribute: &Value| {
        let value = attribute["value"].as_object().and_then(|value| value.values().next()).map(text);
        (text(&attribute["key"]), value.unwrap_or_default())
    };
    list.as_array().into_iter().flatten().map(one).collect()
}

/// Every span in an `ExportTraceServiceRequest`.
fn spans(body: &[u8]) -> Vec<Span> {
    let body: Value = serde_json::from_slice(body).expect("what is sent is JSON");
    let mut spans = Vec::new();
    for resource in body["resourceSpans"].as_array().expect("spans of a resource") {
        let whose = attributes(&resource["resource"]["attributes"]);
        assert_eq!(whose["service.name"], "lifeboat");
        for span in resource["scopeSpans"]
            .as_array()
            .into_iter()
            .flatten()
            .flat_map(|scope| scope["spans"].as_array())
            .flatten()
        {
            let at = |name: &str| span[name].as_str().and_then(|text| text.parse::<u128>().ok()).expect("a time");
            assert!(at("startTimeUnixNano") <= at("endTimeUnixNano"), "{span}");
            spans.push(Span {
                instance: whose["service.instance.id"].clone(),
                name: text(&span["name"]),
                kind: span["kind"].as_u64().expect("a kind"),
                trace: text(&span["traceId"]),
                id: text(&span["spanId"]),
                parent: text(&span["parentSpanId"]),
                error: span["status"]["message"].as_str().map(str::to_owned),
                attributes: attributes(&span["attributes"]),
            });
        }
    }
    spans
}

/// All that came, of requests that show who sends.
fn all(collector: &Receiver) -> Vec<Span> {
    let taken = collector.all().into_iter().filter(|request| request.status == 200);
    taken.flat_map(|request| spans(&request.body)).collect()
}

fn collector() -> Result<Receiver> {
    Receiver::start(None, |_, request| {
        let shown = request.headers.get("authorization").is_some_and(|shown| *shown == format!("Bearer {SECRET}"));
        let right = shown && request.path == "/v1/traces" && request.headers["content-type"] == "application/json";
        (if right { "200 OK" } else { "403 Forbidden" }, String::new())
    })
}

fn variables(endpoint: &str, more: &[(&str, &str)]) -> Vec<(String, String)> {
    let common = [
        ("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint),
        ("OTEL_EXPORTER_OTLP_HEADERS", &*format!("authorization=Bearer%20{SECRET}")),
        ("OTEL_BSP_SCHEDULE_DELAY", "50"),
    ];
    common.iter().chain(more).map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

/// Dropped in this order.
struct Traced {
    estate: Estate,
    _vault: Scratch,
}

fn traced(label: &str, environment: Vec<(String, String)>) -> Result<Traced> {
    let place = Place { environment, ..Place::default() };
    let vault = Scratch::new(&format!("{label}-vault"))?;
    let url = format!("file://{}", vault.path().join("vault").display());
    let estate = Estate::protect_between(label, &url, [place.clone(), place], &[("data", SIZE)])?;
    Ok(Traced { estate, _vault: vault })
}

fn write(path: &Path, byte: u8) -> Result<()> {
    let file = File::options().write(true).open(path)?;
    file.write_all_at(&[byte; 65536], 0)?;
    file.sync_all().context("flush")
}

/// A request with a header that the command line doesn't send.
fn ask(gateway: &Gateway, path: &str, header: &str) -> Result<Outcome> {
    let token = std::fs::read_to_string(gateway.token_file())?;
    let request = Run::new("curl").args(["--silent", "--show-error", "--fail", "--cacert"]).arg(gateway.ca_file());
    request
        .args(["--header", &format!("authorization: Bearer {}", token.trim()), "--header", header])
        .arg(format!("{}{path}", gateway.endpoint()))
        .outcome()
}

/// The value of a metric that has no labels.
fn metric(gateway: &Gateway, name: &str) -> Result<Option<u64>> {
    let page = ask(gateway, "/metrics", "accept: text/plain")?.ok()?;
    let line = page.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    line.map(|number| number.parse().with_context(|| format!("{name} {number}"))).transpose()
}

const DROPPED: &str = "lifeboat_trace_spans_dropped_total";

#[test]
fn what_gateways_do_is_told_with_what_it_belongs_to() {
    let collector = collector().unwrap();
    let endpoint = format!("http://{}", collector.address());
    let mut traced = traced("traces", variables(&endpoint, &[])).unwrap();
    let estate = &mut traced.estate;
    write(&estate.primary.volume("data"), 1).unwrap();
    estate.take_point(&estate.primary, "known").unwrap();
    estate.add_standby().unwrap();
    estate.open_vault_at_standby().unwrap();
    let job = estate.fail_over(FailoverKind::Planned, "latest").unwrap().id.to_string();

    let (caller, within) = ("4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7");
    // The caller of the first one doesn't want it told; it comes before the other.
    let untold = "5bf92f3577b34da6a3ce929d0e0e4736";
    ask(&estate.primary, "/v1/groups", &format!("traceparent: 00-{untold}-{within}-00")).unwrap().ok().unwrap();
    ask(&estate.primary, "/v1/groups", &format!("traceparent: 00-{caller}-{within}-01")).unwrap().ok().unwrap();

    let found = eventually("the spans of a planned failover and of a request", WITHIN, || {
        let found = all(&collector);
        let over =
            found.iter().any(|span| span.name == "job planned-failover" && span.attributes["lifeboat.job"] == job);
        Ok((over && found.iter().any(|span| span.trace == caller)).then_some(found))
    })
    .unwrap();
    let request = found.iter().find(|span| span.trace == caller).unwrap();
    assert_eq!((&*request.name, &*request.parent, request.kind), ("GET /v1/groups", within, 2), "{request:?}");
    assert_eq!(request.attributes["http.response.status_code"], "200");
    assert!(!found.iter().any(|span| span.trace == untold), "the caller said that it isn't told");
    assert!(!found.iter().any(|span| span.name.contains("metrics")), "probes aren't told");

    // The job is one trace, whoever does its steps.
    let root = found.iter().find(|span| span.name == "job planned-failover").unwrap();
    assert_eq!((&*root.parent, &*root.attributes["lifeboat.job.state"]), ("", "succeeded"), "{root:?}");
    let of_job = |span: &&Span| span.trace == root.trace;
    let steps: Vec<&Span> = found.iter().filter(of_job).filter(|span| span.parent == root.id).collect();
    let by = |instance: &str| steps.iter().find(|step| step.instance == instance).copied();
    let (home, away) = (by("primary").expect("a step at home"), by("standby").expect("a step at the recovery site"));
    assert!(home.error.is_none() && away.attributes["lifeboat.job"] == job, "{home:?} {away:?}");
    let restore = found.iter().find(|span| span.name == "group.fail_over").expect("the restore");
    assert!(steps.iter().any(|step| step.id == restore.parent) && restore.instance == "standby", "{restore:?}");
    let reads = found.iter().filter(|span| span.name == "vault.get" && span.parent == restore.id).count();
    assert!(reads > 0, "the restore reads the vault");

    // A seal and its request.
    let put = |seal: &Span| {
        let made = found.iter().find(|span| span.parent == seal.id && span.name == "vault.create")?;
        (made.attributes["lifeboat.outcome"] == "ok" && made.kind == 3).then_some(made)
    };
    let seals = found.iter().filter(|span| span.name == "group.seal" && span.attributes.contains_key("lifeboat.bytes"));
    let (seal, put) = seals.filter_map(|seal| Some((seal, put(seal)?))).next().expect("a seal that put something");
    assert_eq!(put.trace, seal.trace);
    assert!(put.attributes["lifeboat.bytes"].parse::<u64>().unwrap() > 0, "{put:?}");
    assert!(seal.attributes["lifeboat.segments"].parse::<u64>().unwrap() > 0, "{seal:?}");

    // Nothing was given up; and everybody who isn't the collector gets to see no secret, nor does it get those of others.
    assert_eq!(metric(&estate.primary, DROPPED).unwrap(), Some(0));
    assert!(metric(&estate.primary, "lifeboat_trace_spans_exported_total").unwrap() > Some(0));
    let token = std::fs::read_to_string(estate.primary.token_file()).unwrap();
    let key = std::fs::read(estate.key_file()).unwrap();
    let key: String = key.iter().map(|byte| format!("{byte:02x}")).collect();
    for request in collector.all() {
        let body = String::from_utf8_lossy(&request.body).into_owned();
        for secret in [token.trim(), SECRET, &key] {
            assert!(!body.contains(secret), "a secret is in a span: {body}");
        }
    }
    for gateway in [&estate.primary, estate.standby().unwrap()] {
        let log = std::fs::read_to_string(gateway.log()).unwrap();
        assert!(!log.contains(SECRET) && !log.contains("group.seal"), "spans are no part of the log");
    }
}

#[test]
fn requests_to_object_storage_are_told_attempt_by_attempt() {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let moto = runtime.block_on(Moto::start(&["lifeboat-traces"])).unwrap();
    let collector = collector().unwrap();
    let endpoint = format!("http://{}", collector.address());
    let (keys, at) = ([("AWS_ACCESS_KEY_ID", "AKLAB"), ("AWS_SECRET_ACCESS_KEY", "canary-bucket")], moto.endpoint());
    let more = [&keys[..], &[("AWS_ENDPOINT_URL_S3", &*at), ("OTEL_EXPORTER_OTLP_COMPRESSION", "none")]].concat();
    let environment = variables(&endpoint, &more);
    let estate =
        Estate::protect_remotely("traces-bucket", "s3://lifeboat-traces/acme", environment, &[("data", SIZE)]).unwrap();
    write(&estate.primary.volume("data"), 2).unwrap();
    estate.take_point(&estate.primary, "known").unwrap();
    let found = eventually("a request and its attempt, of each kind", WITHIN, || {
        let found = all(&collector);
        let whole = ["vault.create", "vault.get"].iter().all(|name| attempt(&found, name).is_some());
        Ok(whole.then_some(found))
    })
    .unwrap();
    for name in ["vault.create", "vault.get"] {
        let (request, attempt) = attempt(&found, name).unwrap();
        assert_eq!((&*attempt.attributes["lifeboat.attempt"], attempt.kind), ("1", 3), "{attempt:?}");
        assert_eq!((attempt.attributes["http.response.status_code"].len(), &attempt.trace), (3, &request.trace));
    }
    assert!(collector.all().iter().all(|request| !String::from_utf8_lossy(&request.body).contains("canary")));
}

/// A request that worked, and its first attempt.
fn attempt<'a>(found: &'a [Span], name: &str) -> Option<(&'a Span, &'a Span)> {
    let worked =
        |span: &&Span| span.name == name && span.attributes.get("lifeboat.outcome").is_some_and(|it| it == "ok");
    found.iter().filter(worked).find_map(|request| {
        let attempts = |span: &&Span| {
            let answered =
                span.attributes.get("http.response.status_code").is_some_and(|status| status.starts_with('2'));
            span.name == "storage.attempt" && span.parent == request.id && answered
        };
        Some((request, found.iter().find(attempts)?))
    })
}

#[test]
fn a_collector_that_is_away_or_silent_costs_its_spans_and_nothing_else() {
    let nobody = format!("http://{}", free_address().unwrap());
    let mut traced = traced("traces-away", variables(&nobody, &[("OTEL_BSP_MAX_QUEUE_SIZE", "32")])).unwrap();
    let estate = &mut traced.estate;
    write(&estate.primary.volume("data"), 3).unwrap();
    estate.take_point(&estate.primary, "with nobody there").unwrap();
    eventually("spans that were given up", WITHIN, || {
        Ok(metric(&estate.primary, DROPPED)?.filter(|dropped| *dropped > 0))
    })
    .unwrap();
    assert_eq!(metric(&estate.primary, "lifeboat_trace_spans_exported_total").unwrap(), Some(0));
    let log = eventually("the log to say so", WITHIN, || {
        let log = std::fs::read_to_string(estate.primary.log())?;
        Ok(log.contains("spans can't be sent").then_some(log))
    })
    .unwrap();
    assert!(!log.contains(SECRET), "{log}");
    estate.primary.stop().unwrap();

    // It takes connections and says nothing, for longer than the harness waits for a gateway to stop.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    estate.primary.env("OTEL_EXPORTER_OTLP_ENDPOINT", format!("http://{}", silent.local_addr().unwrap()));
    estate.primary.env("OTEL_EXPORTER_OTLP_TIMEOUT", "3600000");
    estate.primary.restart().unwrap();
    write(&estate.primary.volume("data"), 4).unwrap();
    estate.take_point(&estate.primary, "with nobody who listens").unwrap();
    estate.primary.stop().unwrap();
}

#[test]
fn a_collector_over_tls_is_trusted_by_its_authority_alone() {
    let scratch = Scratch::new("traces-tls").unwrap();
    let [own, other] = ["the collector's", "another"].map(|name| Authority::new(name).unwrap());
    let config = own.server("127.0.0.1").unwrap().config().unwrap();
    let collector = Receiver::start(Some(config), |_, _| ("200 OK", String::new())).unwrap();
    let (own_file, other_file) = (scratch.path().join("own.pem"), scratch.path().join("other.pem"));
    std::fs::write(&own_file, own.pem()).unwrap();
    std::fs::write(&other_file, other.pem()).unwrap();
    let mut gateway = Gateway::prepare("onprem", "primary", scratch.path()).unwrap();
    for (name, value) in variables(&format!("https://{}", collector.address()), &[]) {
        gateway.env(name, value);
    }
    gateway.env("OTEL_EXPORTER_OTLP_CERTIFICATE", other_file.as_os_str());
    gateway.restart().unwrap();
    let log = eventually("the refusal of a stranger", WITHIN, || {
        ask(&gateway, "/v1/whoami", "accept: */*")?;
        let log = std::fs::read_to_string(gateway.log())?;
        Ok(log.contains("spans can't be sent").then_some(log))
    })
    .unwrap();
    assert!(log.contains("OTEL_EXPORTER_OTLP_CERTIFICATE") && !log.contains(SECRET), "{log}");
    assert!(collector.all().is_empty(), "nothing is sent to a stranger");
    gateway.stop().unwrap();

    gateway.env("OTEL_EXPORTER_OTLP_CERTIFICATE", own_file.as_os_str());
    gateway.restart().unwrap();
    eventually("spans over TLS", WITHIN, || Ok(all(&collector).into_iter().find(|span| span.name == "GET /v1/status")))
        .unwrap();
    gateway.stop().unwrap();

    gateway.env("OTEL_TRACES_EXPORTER", "zipkin");
    let refused = gateway.refused_start().unwrap();
    assert!(refused.code() == 2 && refused.stderr.contains("OTEL_TRACES_EXPORTER"), "{refused:?}");
}

/// Without the variables there is nothing to see of all this.
#[test]
fn nothing_is_told_where_nobody_asks() {
    let scratch = Scratch::new("traces-none").unwrap();
    let mut gateway = Gateway::prepare("onprem", "primary", scratch.path()).unwrap();
    gateway.restart().unwrap();
    assert_eq!(metric(&gateway, DROPPED).unwrap(), None);
    let threads = std::fs::read_dir(format!("/proc/{}/task", gateway.pid().unwrap())).unwrap();
    let names = threads.flatten().filter_map(|thread| std::fs::read_to_string(thread.path().join("comm")).ok());
    let names: Vec<String> = names.map(|name| name.trim().to_owned()).collect();
    assert!(!names.is_empty() && !names.contains(&"traces".to_owned()), "{names:?}");
    gateway.stop().unwrap();
}

#[test]
fn the_collector_of_the_test_refuses_who_shows_nothing() -> Result<()> {
    let collector = collector()?;
    let sent =
        Run::new("curl").args(["--silent", "--fail", "--data", "{}"]).arg(format!("http://{}", collector.address()));
    ensure!(sent.outcome()?.code() == 22, "it takes everything");
    Ok(())
}
