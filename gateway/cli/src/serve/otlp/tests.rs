use super::layer::traceparent;
use super::*;
use crate::serve::otlp::settings::Sampler;
use serde_json::{Value, json};
use std::time::SystemTime;
use tracing::field::Empty;
use tracing_subscriber::layer::SubscriberExt as _;

const ENDPOINT: (&str, &str) = ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://otel:4318");

fn read(variables: &[(&str, &str)]) -> Result<Option<Settings>> {
    let variable =
        |name: &str| variables.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned());
    Settings::read(variable, "gw-1")
}

fn with(variables: &[(&str, &str)]) -> Settings {
    read(&[&[ENDPOINT], variables].concat()).unwrap().unwrap()
}

fn refused(variables: &[(&str, &str)]) -> String {
    read(&[variables, &[ENDPOINT]].concat()).expect_err("it makes no sense").to_string()
}

#[test]
fn the_standard_variables_say_where_and_whether() {
    assert!(read(&[]).unwrap().is_none());
    assert_eq!(with(&[]).uri, "http://otel:4318/v1/traces");
    assert_eq!(
        read(&[("OTEL_EXPORTER_OTLP_ENDPOINT", "http://otel:4318/")]).unwrap().unwrap().shown(),
        "http://otel:4318/v1/traces"
    );
    let own = with(&[("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "http://t.example.com/x?key=canary")]);
    assert_eq!(own.uri.path_and_query().unwrap(), "/x?key=canary");
    assert_eq!(own.shown(), "http://t.example.com/x");
    let asked = read(&[("OTEL_TRACES_EXPORTER", "otlp")]).unwrap().unwrap();
    assert_eq!(asked.shown(), "http://localhost:4318/v1/traces");
    for off in [("OTEL_SDK_DISABLED", "true"), ("OTEL_TRACES_EXPORTER", "none")] {
        assert!(read(&[ENDPOINT, off]).unwrap().is_none(), "{off:?}");
    }
    for (name, value, why) in [
        ("OTEL_TRACES_EXPORTER", "zipkin", "otlp"),
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc", "http/json"),
        ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "http/protobuf", "http/json"),
        ("OTEL_EXPORTER_OTLP_COMPRESSION", "br", "gzip"),
        ("OTEL_EXPORTER_OTLP_TIMEOUT", "soon", "OTEL_EXPORTER_OTLP_TIMEOUT"),
        ("OTEL_EXPORTER_OTLP_TRACES_TIMEOUT", "0", "OTEL_EXPORTER_OTLP_TRACES_TIMEOUT"),
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "otel:4318", "http://HOST:PORT"),
        ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "http://u:canary@otel:4318", "OTEL_EXPORTER_OTLP_HEADERS"),
        ("OTEL_EXPORTER_OTLP_HEADERS", "canary", "KEY=VALUE"),
        ("OTEL_EXPORTER_OTLP_HEADERS", "a=canary%2", "KEY=VALUE"),
        ("OTEL_EXPORTER_OTLP_TRACES_HEADERS", "a=canary%0A", "header"),
        ("OTEL_RESOURCE_ATTRIBUTES", "canary", "KEY=VALUE"),
        ("OTEL_TRACES_SAMPLER", "jaeger_remote", "traceidratio"),
        ("OTEL_BSP_MAX_QUEUE_SIZE", "0", "OTEL_BSP_MAX_QUEUE_SIZE"),
    ] {
        let error = refused(&[(name, value)]);
        assert!(error.contains(why) && !error.contains("canary"), "{name}={value}: {error}");
    }
    let share = [("OTEL_TRACES_SAMPLER", "traceidratio"), ("OTEL_TRACES_SAMPLER_ARG", "2")];
    assert!(refused(&share).contains("0 to 1"));
}

#[test]
fn times_sizes_headers_and_the_resource_are_what_the_variables_say() {
    let plain = with(&[]);
    assert_eq!((plain.timeout.as_secs(), plain.delay.as_secs(), plain.queue_max, plain.batch_max), (10, 5, 2048, 512));
    let settings = with(&[
        ("OTEL_EXPORTER_OTLP_TIMEOUT", "700"),
        ("OTEL_EXPORTER_OTLP_TRACES_TIMEOUT", "300"),
        ("OTEL_EXPORTER_OTLP_HEADERS", "authorization=Bearer%20canary,x-a=1"),
        ("OTEL_EXPORTER_OTLP_TRACES_HEADERS", "x-a=2"),
        ("OTEL_RESOURCE_ATTRIBUTES", "service.name=x,deployment.environment.name=a%2Cb"),
        ("OTEL_SERVICE_NAME", "dr"),
        ("OTEL_BSP_SCHEDULE_DELAY", "20"),
        ("OTEL_BSP_MAX_QUEUE_SIZE", "16"),
    ]);
    assert_eq!((settings.timeout.as_millis(), settings.delay.as_millis()), (300, 20));
    assert_eq!((settings.queue_max, settings.batch_max), (16, 16));
    let headers: Vec<_> =
        settings.headers.iter().map(|(name, value)| (name.as_str(), value.to_str().unwrap())).collect();
    assert_eq!(headers, [("authorization", "Bearer canary"), ("x-a", "2")]);
    let resource: Vec<_> = settings.resource.iter().map(|(key, value)| (&**key, &**value)).collect();
    let version = env!("CARGO_PKG_VERSION");
    assert_eq!(
        resource,
        [
            ("deployment.environment.name", "a,b"),
            ("service.name", "dr"),
            ("service.instance.id", "gw-1"),
            ("service.version", version)
        ]
    );
    assert!(!format!("{settings:?}").contains("canary"), "{settings:?}");
}

#[test]
fn https_trusts_the_file_that_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let https = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "https://otel:4318/v1/traces");
    let file = dir.path().join("ca.pem");
    let named = ("OTEL_EXPORTER_OTLP_CERTIFICATE", file.to_str().unwrap());
    assert!(refused(&[https, named]).contains("ca.pem"));
    std::fs::write(&file, "nothing").unwrap();
    assert!(refused(&[https, named]).contains("holds no certificate"));
    let made = rcgen::generate_simple_self_signed(["otel".to_owned()]).unwrap();
    std::fs::write(&file, made.cert.pem()).unwrap();
    assert!(with(&[https, named]).tls.is_some());
    let alone = ("OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE", file.to_str().unwrap());
    assert!(refused(&[https, named, alone]).contains("belong together"));
    let key = dir.path().join("key.pem");
    std::fs::write(&key, made.signing_key.serialize_pem()).unwrap();
    assert!(with(&[https, named, alone, ("OTEL_EXPORTER_OTLP_CLIENT_KEY", key.to_str().unwrap())]).tls.is_some());
}

#[test]
fn a_sampler_takes_its_share_of_new_traces_and_what_the_caller_says_of_others() {
    let of = |name: &str, arg: &str| with(&[("OTEL_TRACES_SAMPLER", name), ("OTEL_TRACES_SAMPLER_ARG", arg)]).sampler;
    assert_eq!(with(&[]).sampler, Sampler { by_parent: true, share: 1.0 });
    assert_eq!(of("always_off", ""), Sampler { by_parent: false, share: 0.0 });
    assert_eq!(of("parentbased_always_off", ""), Sampler { by_parent: true, share: 0.0 });
    let quarter = of("parentbased_traceidratio", "0.25");
    assert_eq!(quarter, Sampler { by_parent: true, share: 0.25 });
    // What stands before the last 56 bits isn't random: a job's id has its time and a form there.
    let trace = |last: u64| {
        let mut trace = [0xff; 16];
        trace[9..].copy_from_slice(&last.to_be_bytes()[1..]);
        trace
    };
    let edge = 3 << 54;
    assert!(quarter.takes(trace(edge)) && quarter.takes(trace(u64::MAX >> 8)));
    assert!(!quarter.takes(trace(edge - 1024)) && !quarter.takes(trace(0)));
    assert!(of("always_on", "").takes(trace(0)));
    assert!(!of("always_off", "").takes(trace(u64::MAX >> 8)));
}

#[test]
fn a_traceparent_is_read_as_the_standard_says() {
    let (trace, span) = ("4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7");
    for sound in [format!("00-{trace}-{span}-01"), format!("cc-{trace}-{span}-03-what-comes-later")] {
        assert!(traceparent(&sound).is_some(), "{sound}");
    }
    assert_ne!(traceparent(&format!("00-{trace}-{span}-01")), traceparent(&format!("00-{trace}-{span}-00")));
    let zeroes = "0".repeat(32);
    for broken in [
        String::new(),
        "canary".to_owned(),
        format!("00-{trace}-{span}"),
        format!("00-{trace}-{span}-01-more"),
        format!("ff-{trace}-{span}-01"),
        format!("00-{zeroes}-{span}-01"),
        format!("00-{trace}-0000000000000000-01"),
        format!("00-{}-{span}-01", trace.to_uppercase()),
        format!("00-{trace}-{span}-0g"),
        format!("00-{trace}é-{span}-01"),
    ] {
        assert!(traceparent(&broken).is_none(), "{broken}");
    }
}

/// What is told of the spans of `work`.
fn told(sampler: Sampler, work: impl FnOnce()) -> Vec<Value> {
    let (queue, mut spans) = mpsc::channel(16);
    let layer = Spans::new(queue, sampler, Arc::default());
    tracing::subscriber::with_default(tracing_subscriber::registry().with(layer), work);
    let mut batch = Vec::new();
    while let Ok(span) = spans.try_recv() {
        batch.push(span);
    }
    let message = send::message(&[("service.name".to_owned(), "lifeboat".to_owned())], &batch);
    assert_eq!(
        message["resourceSpans"][0]["resource"]["attributes"],
        json!([{"key": "service.name", "value": {"stringValue": "lifeboat"}}])
    );
    message["resourceSpans"][0]["scopeSpans"][0]["spans"].as_array().unwrap().clone()
}

const ALL: Sampler = Sampler { by_parent: true, share: 1.0 };

#[test]
fn spans_are_told_with_their_parents_and_what_they_say() {
    let spans = told(ALL, || {
        let outer =
            tracing::info_span!(target: TRACE_TARGET, "job.step", otel.name = "Check", otel.status_message = Empty);
        outer.in_scope(|| {
            drop(tracing::info_span!(target: TRACE_TARGET, "seal", otel.kind = "client", lifeboat.epoch = 7_u64, a = "x", a = "y"));
        });
        outer.record("otel.status_message", "the vault is away");
    });
    let [inner, outer] = spans.as_slice() else { panic!("{spans:?}") };
    assert_eq!((&inner["name"], &outer["name"]), (&json!("seal"), &json!("Check")));
    assert_eq!((&inner["parentSpanId"], &inner["traceId"]), (&outer["spanId"], &outer["traceId"]));
    assert_eq!((&outer["parentSpanId"], &inner["kind"], &outer["kind"]), (&json!(""), &json!(3), &json!(1)));
    assert_eq!(
        inner["attributes"],
        json!([{"key": "lifeboat.epoch", "value": {"intValue": "7"}}, {"key": "a", "value": {"stringValue": "y"}}])
    );
    assert_eq!(outer["status"], json!({"code": 2, "message": "the vault is away"}));
    assert_eq!(inner["status"], json!({}));
    assert_eq!((outer["traceId"].as_str().unwrap().len(), outer["spanId"].as_str().unwrap().len()), (32, 16));
    let at = |name: &str| outer[name].as_str().unwrap().parse::<u128>().unwrap();
    assert!(at("startTimeUnixNano") <= at("endTimeUnixNano"));
}

#[test]
fn what_belongs_together_is_one_trace_wherever_it_is_done() {
    let (trace, span) = ("4bf92f3577b34da6a3ce929d0e0e4736", "a3ce929d0e0e4736");
    let caller = format!("00-{trace}-{span}-01");
    let spans = told(ALL, || {
        drop(tracing::info_span!(target: TRACE_TARGET, "api.request", trace.parent = caller));
        let around = tracing::info_span!(target: TRACE_TARGET, "around");
        around.in_scope(|| {
            drop(tracing::info_span!(target: TRACE_TARGET, "step", trace.within = format!("{trace}-{span}")))
        });
        drop(around);
        drop(tracing::info_span!(
            target: TRACE_TARGET, "job", trace.is = format!("{trace}-{span}"), trace.begun_us = 1_000_000_i64
        ));
    });
    let [request, step, around, job] = spans.as_slice() else { panic!("{spans:?}") };
    for one in [request, step, job] {
        assert_eq!(one["traceId"], json!(trace), "{one}");
    }
    assert_eq!((&request["parentSpanId"], &step["parentSpanId"]), (&json!(span), &json!(span)));
    assert_eq!((&job["spanId"], &job["parentSpanId"]), (&json!(span), &json!("")));
    assert_eq!((&job["startTimeUnixNano"], &job["attributes"]), (&json!("1000000000"), &json!([])));
    assert_ne!(around["traceId"], json!(trace));
}

#[test]
fn a_trace_is_told_as_a_whole_or_not_at_all() {
    let begin = |flags: &str| {
        let caller = format!("00-4bf92f3577b34da6a3ce929d0e0e4736-a3ce929d0e0e4736-{flags}");
        let request = tracing::info_span!(target: TRACE_TARGET, "request", trace.parent = caller);
        request.in_scope(|| drop(tracing::info_span!(target: TRACE_TARGET, "within")));
    };
    let none = Sampler { by_parent: true, share: 0.0 };
    assert_eq!(told(none, || begin("01")).len(), 2);
    assert_eq!(told(ALL, || begin("00")).len(), 0);
    assert_eq!(told(Sampler { by_parent: false, share: 1.0 }, || begin("00")).len(), 2);
    assert_eq!(told(Sampler { by_parent: false, share: 0.0 }, || begin("01")).len(), 0);
}

#[test]
fn what_the_collector_did_not_take_is_known() {
    assert_eq!(send::rejected(b"{\"partialSuccess\":{\"rejectedSpans\":\"3\",\"errorMessage\":\"x\"}}"), 3);
    assert_eq!(send::rejected(b"{\"partialSuccess\":{\"rejectedSpans\":3}}"), 3);
    assert_eq!(send::rejected(b"{\"partialSuccess\":{}}") + send::rejected(b"{}") + send::rejected(b""), 0);
}

fn ended(settings: &Settings) -> (mpsc::Sender<Ended>, mpsc::Receiver<Ended>) {
    let (queue, spans) = mpsc::channel(settings.queue_max);
    let layer = Spans::new(queue.clone(), ALL, Arc::default());
    tracing::subscriber::with_default(tracing_subscriber::registry().with(layer), || {
        for _ in 0..3 {
            drop(tracing::info_span!(target: TRACE_TARGET, "one"));
        }
    });
    (queue, spans)
}

#[tokio::test(start_paused = true)]
async fn a_collector_that_says_nothing_costs_its_spans_and_the_end_is_bounded() {
    // It takes connections and never answers.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = format!("http://{}", silent.local_addr().unwrap());
    let settings =
        read(&[("OTEL_EXPORTER_OTLP_ENDPOINT", &endpoint), ("OTEL_BSP_SCHEDULE_DELAY", "1")]).unwrap().unwrap();
    let (queue, spans) = ended(&settings);
    let (stop, asked) = watch::channel(None);
    let counts = TraceCounts::default();
    let begun = Instant::now();
    stop.send_replace(Some(begun + FINISH_MAX));
    export(&settings, spans, asked, &counts).await;
    assert!(begun.elapsed() <= FINISH_MAX + Duration::from_millis(10), "{:?}", begun.elapsed());
    assert_eq!((counts.exported.load(Ordering::Relaxed), counts.dropped.load(Ordering::Relaxed)), (0, 3));
    drop(queue);
}

#[test]
fn a_full_queue_gives_spans_up_and_counts_them() {
    let (queue, mut spans) = mpsc::channel(2);
    let counts = Arc::new(TraceCounts::default());
    let layer = Spans::new(queue, ALL, Arc::clone(&counts));
    tracing::subscriber::with_default(tracing_subscriber::registry().with(layer), || {
        for _ in 0..5 {
            drop(tracing::info_span!(target: TRACE_TARGET, "one"));
        }
    });
    assert_eq!(counts.dropped.load(Ordering::Relaxed), 3);
    let first = spans.try_recv().unwrap();
    assert!(first.begun <= first.ended && first.ended <= SystemTime::now());
}
