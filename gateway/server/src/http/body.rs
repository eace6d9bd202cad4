//! Reading requests: bodies, queries, preconditions, idempotency keys.

use aws_lc_rs::digest;
use axum::extract::Request;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, StatusCode, header};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use lifeboat_api::{Page, Problem, ProblemCode};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::error::{ApiError, ApiResult};

/// Largest body.
pub(crate) const BODY_BYTES_MAX: usize = 1 << 20;
const PAGE_DEFAULT: usize = 100;
const PAGE_MAX: usize = 1000;

/// Reads a JSON body.
pub(crate) async fn json(request: Request) -> ApiResult<Value> {
    let content_type = request.headers().get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or("");
    let media_type = content_type.split(';').next().unwrap_or("").trim();
    if !media_type.eq_ignore_ascii_case("application/json")
        && !media_type.eq_ignore_ascii_case("application/merge-patch+json")
    {
        return Err(ApiError::new(
            ProblemCode::UnsupportedMediaType,
            format!("the body must be application/json, not {media_type:?}"),
        ));
    }
    let bytes: Bytes = Limited::new(request.into_body(), BODY_BYTES_MAX)
        .collect()
        .await
        .map_err(|error| {
            if error.downcast_ref::<LengthLimitError>().is_some() {
                ApiError::new(ProblemCode::TooLarge, format!("a body can have {BODY_BYTES_MAX} bytes at most"))
            } else {
                ApiError::new(ProblemCode::Malformed, format!("the body broke off: {error}"))
            }
        })?
        .to_bytes();
    serde_json::from_slice(&bytes)
        .map_err(|error| ApiError::new(ProblemCode::Malformed, format!("the body is no JSON: {error}")))
}

/// Reads a value as `T`: a field of the wrong type, missing or unknown is named.
pub(crate) fn typed<T: DeserializeOwned + Serialize>(value: &Value) -> ApiResult<T> {
    if !value.is_object() {
        return Err(ApiError::new(ProblemCode::Malformed, "the body must be a JSON object"));
    }
    let typed: T = serde_path_to_error::deserialize(value.clone()).map_err(|error| -> ApiError {
        let message = error.inner().to_string();
        let path = error.path().to_string();
        // A missing field is reported at its parent; its own name is in the message.
        let missing = message.strip_prefix("missing field `").and_then(|rest| rest.split('`').next());
        let field = match (missing, path.as_str()) {
            (Some(name), ".") => name.to_owned(),
            (Some(name), parent) => format!("{parent}.{name}"),
            (None, path) => path.to_owned(),
        };
        let message = if missing.is_some() { "is required".to_owned() } else { without_value(&message) };
        Problem::invalid_field(field, message).into()
    })?;
    let known =
        serde_json::to_value(&typed).map_err(|error| ApiError::new(ProblemCode::Internal, error.to_string()))?;
    let mut errors = Vec::new();
    unknown_fields("", value, &known, &mut errors);
    if errors.is_empty() { Ok(typed) } else { Err(errors.into()) }
}

/// What serde says of text in the wrong place, without the text: it may be a passphrase that stands one level too high.
fn without_value(message: &str) -> String {
    let texts = ["invalid type: string", "invalid value: string", "unknown variant"];
    let cut = texts.iter().find(|text| message.starts_with(**text)).zip(message.rfind(", expected "));
    match cut {
        Some((text, end)) => format!("{text}{}", message.get(end..).unwrap_or_default()),
        None => message.to_owned(),
    }
}

/// Fields of `sent` that `known` hasn't. Specs always write all of their fields, so what is missing there isn't known.
fn unknown_fields(path: &str, sent: &Value, known: &Value, errors: &mut Vec<lifeboat_api::FieldError>) {
    match (sent, known) {
        (Value::Object(sent), Value::Object(known)) => {
            for (name, value) in sent {
                let field = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
                match known.get(name) {
                    Some(known) => unknown_fields(&field, value, known, errors),
                    None => {
                        errors.push(lifeboat_api::FieldError { field, message: "is no field of this object".into() })
                    }
                }
            }
        }
        (Value::Array(sent), Value::Array(known)) => {
            for (index, (sent, known)) in sent.iter().zip(known).enumerate() {
                unknown_fields(&format!("{path}[{index}]"), sent, known, errors);
            }
        }
        _ => {}
    }
}

/// RFC 7396: what is absent stays, `null` clears, objects are merged, everything else is replaced.
pub(crate) fn merge(target: &mut Value, patch: &Value) {
    match (target, patch) {
        (Value::Object(target), Value::Object(patch)) => {
            for (name, value) in patch {
                if value.is_null() {
                    target.remove(name);
                } else {
                    merge(target.entry(name.clone()).or_insert(Value::Null), value);
                }
            }
        }
        (target, Value::Object(patch)) => {
            *target = Value::Object(serde_json::Map::new());
            merge(target, &Value::Object(patch.clone()));
        }
        (target, patch) => *target = patch.clone(),
    }
}

/// The generation in `If-Match`.
pub(crate) fn if_match(headers: &HeaderMap) -> ApiResult<u64> {
    let value = headers.get(header::IF_MATCH).ok_or_else(|| {
        ApiError::new(
            ProblemCode::PreconditionRequired,
            "a change needs `If-Match` with the ETag of the object as it was read, so that nobody's change is lost",
        )
    })?;
    value.to_str().ok().and_then(|text| text.trim().strip_prefix('"')?.strip_suffix('"')?.parse().ok()).ok_or_else(
        || ApiError::new(ProblemCode::Malformed, "`If-Match` must be the ETag as it was read, for example \"3\""),
    )
}

/// Makes sure that the object is still as the caller read it.
pub(crate) fn check_generation(wanted: u64, found: u64) -> ApiResult<()> {
    if wanted == found {
        return Ok(());
    }
    Err(ApiError::new(
        ProblemCode::PreconditionFailed,
        format!("it is of generation {found} now, not {wanted}: read it again and apply the change to what it is now"),
    ))
}

/// The id that a POST makes: derived from its idempotency key, so that the same key names the same object on every
/// gateway and after every restart; random without a key.
pub(crate) fn new_id(headers: &HeaderMap, kind: &str) -> ApiResult<([u8; 16], bool)> {
    let Some(key) = headers.get("idempotency-key") else {
        return Ok((*uuid::Uuid::now_v7().as_bytes(), false));
    };
    let key = key.as_bytes();
    if key.is_empty() || key.len() > 255 {
        return Err(ApiError::new(ProblemCode::Malformed, "`Idempotency-Key` must have 1 to 255 characters"));
    }
    let mut context = digest::Context::new(&digest::SHA256);
    context.update(b"lifeboat/v1/idempotency\0");
    context.update(kind.as_bytes());
    context.update(b"\0");
    context.update(key);
    let mut id = [0; 16];
    if let Some(part) = context.finish().as_ref().get(..16) {
        id.copy_from_slice(part);
    }
    Ok((id, true))
}

/// Query parameters, each at most once; unknown ones are refused by name.
#[derive(Debug)]
pub(crate) struct Query(Vec<(String, String)>);

impl Query {
    pub(crate) fn of(request_query: Option<&str>, known: &[&str]) -> ApiResult<Self> {
        let pairs: Vec<(String, String)> = form_pairs(request_query.unwrap_or(""))?;
        for (index, (name, _)) in pairs.iter().enumerate() {
            if !known.contains(&name.as_str()) {
                return Err(ApiError::new(
                    ProblemCode::Malformed,
                    format!("there is no parameter {name:?} here; there are {}", known.join(", ")),
                ));
            }
            if pairs.iter().take(index).any(|(earlier, _)| earlier == name) {
                return Err(ApiError::new(ProblemCode::Malformed, format!("the parameter {name:?} stands here twice")));
            }
        }
        Ok(Self(pairs))
    }

    pub(crate) fn text(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(n, value)| n == name && !value.is_empty()).map(|(_, value)| value.as_str())
    }

    pub(crate) fn parsed<T: std::str::FromStr>(&self, name: &str) -> ApiResult<Option<T>>
    where
        T::Err: std::fmt::Display,
    {
        self.text(name)
            .map(|text| {
                text.parse().map_err(|error: T::Err| ApiError::new(ProblemCode::Malformed, format!("{name}: {error}")))
            })
            .transpose()
    }
}

fn form_pairs(query: &str) -> ApiResult<Vec<(String, String)>> {
    query
        .split('&')
        .filter(|pair| !pair.is_empty())
        .map(|pair| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            Ok((unescape(name)?, unescape(value)?))
        })
        .collect()
}

fn unescape(text: &str) -> ApiResult<String> {
    let wrong = || ApiError::new(ProblemCode::Malformed, "the query isn't properly escaped");
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'+' => b' ',
            b'%' => {
                let digits = [rest.next().ok_or_else(wrong)?, rest.next().ok_or_else(wrong)?];
                let digits = std::str::from_utf8(&digits).map_err(|_| wrong())?;
                u8::from_str_radix(digits, 16).map_err(|_| wrong())?
            }
            byte => byte,
        });
    }
    String::from_utf8(bytes).map_err(|_| wrong())
}

/// How many objects a page has.
pub(crate) fn limit(query: &Query) -> ApiResult<usize> {
    Ok(query.parsed::<usize>("limit")?.unwrap_or(PAGE_DEFAULT).clamp(1, PAGE_MAX))
}

/// One page of objects in a stable order; the token names the last one shown.
pub(crate) fn page<T: Serialize>(query: &Query, items: Vec<T>, key: impl Fn(&T) -> String) -> ApiResult<Page<T>> {
    let limit = limit(query)?;
    let start = match query.text("page_token") {
        None => 0,
        Some(token) => items.iter().position(|item| key(item) == token).map(|index| index + 1).ok_or_else(|| {
            ApiError::new(ProblemCode::Malformed, "page_token: the object it names is gone; begin again without it")
        })?,
    };
    let more = items.len() > start.saturating_add(limit);
    let items: Vec<T> = items.into_iter().skip(start).take(limit).collect();
    let next_page_token = if more { items.last().map(key) } else { None };
    Ok(Page { items, next_page_token })
}

/// Names of the parameters of every paged list.
pub(crate) const PAGING: [&str; 2] = ["limit", "page_token"];

/// An object with its ETag.
pub(crate) fn with_etag(status: StatusCode, generation: u64, body: &impl Serialize) -> Response {
    let mut response = (status, axum::Json(body)).into_response();
    if let Ok(tag) = HeaderValue::from_str(&format!("\"{generation}\"")) {
        response.headers_mut().insert(header::ETAG, tag);
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_patch_merges_as_rfc_7396_says() {
        let mut target = serde_json::json!({"a": 1, "b": {"c": 2, "d": 3}, "e": [1, 2]});
        merge(&mut target, &serde_json::json!({"a": null, "b": {"c": 4}, "e": [3], "f": {"g": null, "h": 1}}));
        assert_eq!(target, serde_json::json!({"b": {"c": 4, "d": 3}, "e": [3], "f": {"h": 1}}));
    }

    #[test]
    fn unknown_fields_are_named_by_their_path() {
        let mut errors = Vec::new();
        let known = serde_json::json!({"a": [{"b": 1}], "c": null});
        unknown_fields("", &serde_json::json!({"a": [{"b": 1, "x": 2}], "y": 3, "c": {"z": 1}}), &known, &mut errors);
        let fields: Vec<_> = errors.iter().map(|error| error.field.as_str()).collect();
        assert_eq!(fields, ["a[0].x", "y"]);
    }

    #[test]
    fn what_is_wrong_is_said_without_what_was_sent() {
        #[derive(Debug, Serialize, serde::Deserialize)]
        struct Inner {
            mode: lifeboat_api::AuditKind,
        }
        #[derive(Debug, Serialize, serde::Deserialize)]
        struct Outer {
            inner: Inner,
        }
        for (sent, field) in [
            (serde_json::json!({"inner": "my secret\", expected 5"}), "inner"),
            (serde_json::json!({"inner": {"mode": "my secret`, expected x"}}), "inner.mode"),
        ] {
            let error = format!("{:?}", typed::<Outer>(&sent).expect_err("it is wrong"));
            assert!(error.contains(field) && error.contains("expected "), "{error}");
            assert!(!error.contains("secret"), "{error}");
        }
    }

    #[test]
    fn queries_are_read_strictly() {
        let query = Query::of(Some("from=2026-01-01T00:00:00%2B01:00&name=a+b"), &["from", "name"]).expect("sound");
        assert_eq!(query.text("from"), Some("2026-01-01T00:00:00+01:00"));
        assert_eq!(query.text("name"), Some("a b"));
        for wrong in ["other=1", "name=1&name=2", "name=%zz", "name=%2"] {
            assert!(Query::of(Some(wrong), &["name"]).is_err(), "{wrong}");
        }
    }

    #[test]
    fn pages_follow_one_another() {
        let all: Vec<u32> = (0..5).collect();
        let mut seen = Vec::new();
        let mut token = String::new();
        loop {
            let text = format!("limit=2&page_token={token}");
            let query = Query::of(Some(&text), &PAGING).expect("sound");
            let page = page(&query, all.clone(), u32::to_string).expect("sound");
            seen.extend(page.items);
            match page.next_page_token {
                Some(next) => token = next,
                None => break,
            }
        }
        assert_eq!(seen, all);
    }
}
