//! Google Cloud Storage's XML interface, as far as a vault uses it, in memory.
//!
//! There is no emulator in the package registries that speaks this interface with create-only writes, so this is one:
//! `PUT` with `x-goog-if-generation-match: 0`, `GET` with a range, `HEAD`, `DELETE`, listings in pages. It follows what
//! Google documents of status codes and error documents; it is no proof of what Google's servers do.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::Result;
use bytes::Bytes;
use http::{HeaderValue, Method, header};

use crate::http::{Request, Response, Server, parameter, text, unescape};

/// Objects in a page of a listing: fewer than Google's 1,000 would make tests slow, more would need no second page.
const PAGE: usize = 1000;

#[derive(Clone)]
struct Object {
    bytes: Bytes,
    generation: u64,
    written: jiff::Timestamp,
}

#[derive(Default)]
struct Bucket {
    objects: BTreeMap<String, Object>,
    generation: u64,
}

/// A running double; it ends when this is dropped.
#[derive(Debug)]
pub struct GcsDouble {
    server: Server,
}

impl GcsDouble {
    /// The token that it wants; with another one access is refused.
    pub const TOKEN: &'static str = "ya29.lab-token";
    /// The credentials that it knows.
    pub const CREDENTIALS: [(&'static str, &'static str); 1] = [("GOOGLE_OAUTH_ACCESS_TOKEN", Self::TOKEN)];

    /// Starts one with a bucket.
    ///
    /// # Errors
    /// No port is free.
    pub async fn start(bucket: &str) -> Result<Self> {
        let name = bucket.to_owned();
        let bucket: Arc<Mutex<Bucket>> = Arc::default();
        let server = Server::start(move |request: Request| {
            let mut bucket = bucket.lock().unwrap_or_else(PoisonError::into_inner);
            let response = answer(&request, &name, &mut bucket);
            async move { response }
        })
        .await?;
        Ok(Self { server })
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.server.address
    }

    /// Its endpoint.
    #[must_use]
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.server.address)
    }
}

fn refuse(status: u16, code: &str) -> Response {
    text(
        status,
        format!("<?xml version='1.0' encoding='UTF-8'?><Error><Code>{code}</Code><Message>no</Message></Error>"),
    )
}

fn answer(request: &Request, name: &str, bucket: &mut Bucket) -> Response {
    let header = |name: &str| request.headers().get(name).and_then(|value| value.to_str().ok());
    match header("authorization") {
        None => return refuse(401, "AuthenticationRequired"),
        Some(given) if given != format!("Bearer {}", GcsDouble::TOKEN) => return refuse(403, "AccessDenied"),
        Some(_) => {}
    }
    let path = unescape(request.uri().path());
    let path = path.trim_start_matches('/');
    let (asked, key) = path.split_once('/').unwrap_or((path, ""));
    if asked != name {
        return refuse(404, "NoSuchBucket");
    }
    if key.is_empty() {
        return list(request, bucket);
    }
    match *request.method() {
        Method::PUT => {
            if header("x-goog-if-generation-match") == Some("0") && bucket.objects.contains_key(key) {
                return refuse(412, "PreconditionFailed");
            }
            bucket.generation += 1;
            let object = Object {
                bytes: request.body().clone(),
                generation: bucket.generation,
                written: jiff::Timestamp::now(),
            };
            let mut response = text(200, "");
            describe(&mut response, &object);
            bucket.objects.insert(key.to_owned(), object);
            response
        }
        Method::DELETE => match bucket.objects.remove(key) {
            Some(_) => text(204, ""),
            None => refuse(404, "NoSuchKey"),
        },
        Method::GET | Method::HEAD => match bucket.objects.get(key) {
            Some(object) => read(request.method(), header("range"), object),
            None => refuse(404, "NoSuchKey"),
        },
        _ => refuse(405, "MethodNotAllowed"),
    }
}

fn describe(response: &mut Response, object: &Object) {
    let headers = response.headers_mut();
    let date = object.written.strftime("%a, %d %b %Y %H:%M:%S GMT").to_string();
    for (name, value) in [
        ("etag", format!("\"{:032x}\"", object.generation)),
        ("x-goog-generation", object.generation.to_string()),
        ("last-modified", date),
    ] {
        if let Ok(value) = HeaderValue::from_str(&value) {
            headers.insert(name, value);
        }
    }
}

fn read(method: &Method, range: Option<&str>, object: &Object) -> Response {
    let size = object.bytes.len();
    let wanted = range.and_then(|range| {
        let (start, end) = range.strip_prefix("bytes=")?.split_once('-')?;
        let end = end.parse::<usize>().ok()?;
        // `bytes=-5` counts from the end.
        Some(if start.is_empty() { (size.saturating_sub(end), size) } else { (start.parse::<usize>().ok()?, end) })
    });
    let mut response = match wanted {
        None if *method == Method::HEAD => {
            let mut response = text(200, "");
            response.headers_mut().insert(header::CONTENT_LENGTH, size.into());
            response
        }
        None => text(200, object.bytes.clone()),
        Some((start, _)) if start >= size => return refuse(416, "InvalidRange"),
        Some((start, end)) => {
            let end = end.min(size - 1);
            let mut response = text(206, object.bytes.slice(start..=end));
            if let Ok(value) = HeaderValue::from_str(&format!("bytes {start}-{end}/{size}")) {
                response.headers_mut().insert(header::CONTENT_RANGE, value);
            }
            response
        }
    };
    describe(&mut response, object);
    response
}

fn list(request: &Request, bucket: &Bucket) -> Response {
    let given = |name: &str| parameter(request.uri(), name);
    let prefix = given("prefix").unwrap_or_default();
    let delimiter = given("delimiter").filter(|delimiter| !delimiter.is_empty());
    // A token is the last name of the page before.
    let after = given("continuation-token").or_else(|| given("start-after")).unwrap_or_default();
    let mut entries = String::new();
    let mut last: Option<String> = None;
    let mut count = 0;
    let mut more = false;
    for (key, object) in &bucket.objects {
        let Some(rest) = key.strip_prefix(&prefix) else { continue };
        let folded = delimiter.as_ref().and_then(|delimiter| {
            rest.split_once(delimiter.as_str()).map(|(first, _)| format!("{prefix}{first}{delimiter}"))
        });
        let name = folded.clone().unwrap_or_else(|| key.clone());
        if name <= after || last.as_ref() == Some(&name) {
            continue;
        }
        if count == PAGE {
            more = true;
            break;
        }
        count += 1;
        let written = match &folded {
            Some(folded) => write!(entries, "<CommonPrefixes><Prefix>{folded}</Prefix></CommonPrefixes>"),
            None => write!(
                entries,
                "<Contents><Key>{key}</Key><Size>{}</Size><LastModified>{}</LastModified><ETag>\"{:032x}\"</ETag></Contents>",
                object.bytes.len(),
                object.written.strftime("%Y-%m-%dT%H:%M:%SZ"),
                object.generation
            ),
        };
        if written.is_err() {
            return refuse(500, "InternalError");
        }
        last = Some(name);
    }
    let token = match (more, last) {
        (true, Some(last)) => format!("<NextContinuationToken>{last}</NextContinuationToken>"),
        _ => String::new(),
    };
    text(200, format!("<?xml version='1.0' encoding='UTF-8'?><ListBucketResult>{entries}{token}</ListBucketResult>"))
}
