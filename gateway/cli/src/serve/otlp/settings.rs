//! What the standard variables say of traces.
//!
//! Of <https://opentelemetry.io/docs/specs/otel/configuration/sdk-environment-variables/> and
//! <https://opentelemetry.io/docs/specs/otel/protocol/exporter/>. What isn't spoken here is refused with what is, at the start. A value that
//! may be a secret (headers, keys) is never repeated.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderName, HeaderValue, Uri};
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

use crate::failure::{Failure, Result};

const EXPORTER: &str = "OTEL_TRACES_EXPORTER";
const SAMPLER: &str = "OTEL_TRACES_SAMPLER";
const SAMPLER_ARG: &str = "OTEL_TRACES_SAMPLER_ARG";
const DEFAULT_ENDPOINT: &str = "http://localhost:4318";

/// Which traces are told, by whoever begins one.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Sampler {
    /// Whether the caller's word counts, if there is one.
    pub(super) by_parent: bool,
    /// The share of the others, 0 to 1.
    pub(super) share: f64,
}

impl Sampler {
    /// Whether a trace that begins here is told: by its id, so that all who go by the same share tell the same ones.
    pub(super) fn takes(self, trace: [u8; 16]) -> bool {
        // The last 56 bits are the random ones (W3C Trace Context, level 2).
        let [.., a, b, c, d, e, f, g] = trace;
        let random = u64::from_be_bytes([0, a, b, c, d, e, f, g]);
        // A double has 53 bits: with the last three it would round up to all.
        let (random, all) = ((random >> 3) as f64, (1_u64 << 53) as f64);
        random >= (1.0 - self.share) * all
    }
}

/// Where traces go, and which.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    pub(super) uri: Uri,
    pub(super) headers: Vec<(HeaderName, HeaderValue)>,
    pub(super) resource: Vec<(String, String)>,
    /// How long one request may take.
    pub(super) timeout: Duration,
    pub(super) gzip: bool,
    /// For `https://`.
    pub(super) tls: Option<Arc<ClientConfig>>,
    pub(super) sampler: Sampler,
    /// Spans that wait, at most.
    pub(super) queue_max: usize,
    /// Spans in one request, at most.
    pub(super) batch_max: usize,
    /// How long a span waits for others.
    pub(super) delay: Duration,
}

/// The variables; one that is set to nothing isn't set.
struct Variables<F>(F);

impl<F: Fn(&str) -> Option<String>> Variables<F> {
    fn get(&self, name: &str) -> Option<String> {
        self.0(name).map(|text| text.trim().to_owned()).filter(|text| !text.is_empty())
    }

    /// Of one that exists for all signals and for traces alone, which counts first: its name and value.
    fn either(&self, end: &str) -> Option<(String, String)> {
        let names = [format!("OTEL_EXPORTER_OTLP_TRACES_{end}"), format!("OTEL_EXPORTER_OTLP_{end}")];
        names.into_iter().find_map(|name| self.get(&name).map(|value| (name, value)))
    }

    fn is(&self, name: &str, value: &str) -> bool {
        self.get(name).is_some_and(|text| text.eq_ignore_ascii_case(value))
    }

    fn number(&self, name: &str, default: u64, least: u64) -> Result<u64> {
        match self.get(name) {
            None => Ok(default),
            Some(text) => number(name, &text, least),
        }
    }

    /// `KEY=VALUE,…`, percent-encoded.
    fn pairs(&self, name: &str) -> Result<Vec<(String, String)>> {
        let text = self.get(name).unwrap_or_default();
        let pairs = text.split(',').map(str::trim).filter(|pair| !pair.is_empty()).map(|pair| {
            let (key, value) = pair.split_once('=')?;
            Some((decoded(key.trim())?, decoded(value.trim())?))
        });
        let pairs: Option<Vec<_>> = pairs.collect();
        pairs.ok_or_else(|| {
            Failure::usage(format!("{name} must be KEY=VALUE, separated by commas; write other characters as %XX"))
        })
    }
}

fn number(name: &str, text: &str, least: u64) -> Result<u64> {
    let sound = text.parse().ok().filter(|number| (least..=3_600_000).contains(number));
    sound.ok_or_else(|| Failure::usage(format!("{name} is {text:?}: give a number from {least} to 3600000")))
}

fn size(number: u64) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}

/// Without percent-encoding; nothing where it makes no sense.
fn decoded(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, behind)) = rest.split_first() {
        rest = behind;
        if first != b'%' {
            bytes.push(first);
            continue;
        }
        let (digits, behind) = rest.split_at_checked(2)?;
        let digits =
            std::str::from_utf8(digits).ok().filter(|digits| digits.bytes().all(|digit| digit.is_ascii_hexdigit()))?;
        bytes.push(u8::from_str_radix(digits, 16).ok()?);
        rest = behind;
    }
    String::from_utf8(bytes).ok()
}

impl Settings {
    /// What the variables say; nothing where they don't ask for traces. `instance` is what this process is called.
    ///
    /// # Errors
    /// `Usage` for what makes no sense, or asks for what isn't spoken here.
    pub(crate) fn read(variable: impl Fn(&str) -> Option<String>, instance: &str) -> Result<Option<Self>> {
        let variables = Variables(variable);
        if variables.is("OTEL_SDK_DISABLED", "true") {
            return Ok(None);
        }
        let asked = variables.get(EXPORTER);
        match asked.as_deref() {
            None | Some("otlp") => {}
            Some("none") => return Ok(None),
            Some(other) => {
                return Err(Failure::usage(format!(
                    "{EXPORTER} is {other:?}: traces go out as otlp, or not at all (none)"
                )));
            }
        }
        let own = variables.get("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT");
        let base = variables.get("OTEL_EXPORTER_OTLP_ENDPOINT").or_else(|| asked.map(|_| DEFAULT_ENDPOINT.to_owned()));
        let base = base.map(|base| format!("{}/v1/traces", base.trim_end_matches('/')));
        let Some(endpoint) = own.or(base) else { return Ok(None) };
        if let Some((name, asked)) = variables.either("PROTOCOL").filter(|(_, asked)| asked != "http/json") {
            return Err(Failure::usage(format!(
                "{name} is {asked:?}: traces are sent as http/json only, which collectors take at port 4318"
            )));
        }
        let gzip = match variables.either("COMPRESSION") {
            None => false,
            Some((_, how)) if how == "none" => false,
            Some((_, how)) if how == "gzip" => true,
            Some((name, how)) => return Err(Failure::usage(format!("{name} is {how:?}: give gzip or none"))),
        };
        let uri = uri(&endpoint)?;
        let timeout = match variables.either("TIMEOUT") {
            None => 10_000,
            Some((name, text)) => number(&name, &text, 1)?,
        };
        let queue_max = size(variables.number("OTEL_BSP_MAX_QUEUE_SIZE", 2048, 1)?);
        let batch_max = size(variables.number("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", 512, 1)?).min(queue_max);
        Ok(Some(Self {
            headers: headers(&variables)?,
            resource: resource(&variables, instance)?,
            timeout: Duration::from_millis(timeout),
            gzip,
            tls: if uri.scheme_str() == Some("https") { Some(tls(&variables)?) } else { None },
            sampler: sampler(&variables)?,
            queue_max,
            batch_max,
            delay: Duration::from_millis(variables.number("OTEL_BSP_SCHEDULE_DELAY", 5000, 0)?),
            uri,
        }))
    }

    /// Where they go, for messages: without a query, which may hold a key.
    pub(super) fn shown(&self) -> String {
        let scheme = self.uri.scheme_str().unwrap_or_default();
        let authority = self.uri.authority().map_or("", http::uri::Authority::as_str);
        format!("{scheme}://{authority}{}", self.uri.path())
    }
}

fn uri(endpoint: &str) -> Result<Uri> {
    let found = endpoint.parse::<Uri>().ok().filter(|uri| {
        matches!(uri.scheme_str(), Some("http" | "https")) && uri.host().is_some_and(|host| !host.is_empty())
    });
    // A name and a password may stand in it: it isn't repeated.
    let Some(uri) = found else {
        return Err(Failure::usage("the endpoint for traces must be http://HOST:PORT or https://HOST:PORT"));
    };
    if uri.authority().is_some_and(|whole| whole.as_str().contains('@')) {
        return Err(Failure::usage(
            "the endpoint for traces names a user: leave that out, and give what the collector wants to see by \
             OTEL_EXPORTER_OTLP_HEADERS",
        ));
    }
    Ok(uri)
}

fn headers(variables: &Variables<impl Fn(&str) -> Option<String>>) -> Result<Vec<(HeaderName, HeaderValue)>> {
    let mut headers: Vec<(HeaderName, HeaderValue)> = Vec::new();
    for name in ["OTEL_EXPORTER_OTLP_HEADERS", "OTEL_EXPORTER_OTLP_TRACES_HEADERS"] {
        for (key, value) in variables.pairs(name)? {
            let Some((key, mut value)) = HeaderName::try_from(key).ok().zip(HeaderValue::try_from(value).ok()) else {
                return Err(Failure::usage(format!("{name} has something that can't be a header of HTTP")));
            };
            value.set_sensitive(true);
            // The one for traces counts.
            headers.retain(|(known, _)| *known != key);
            headers.push((key, value));
        }
    }
    Ok(headers)
}

fn resource(variables: &Variables<impl Fn(&str) -> Option<String>>, instance: &str) -> Result<Vec<(String, String)>> {
    let mut resource = variables.pairs("OTEL_RESOURCE_ATTRIBUTES")?;
    if let Some(name) = variables.get("OTEL_SERVICE_NAME") {
        resource.retain(|(key, _)| key != "service.name");
        resource.push(("service.name".to_owned(), name));
    }
    let own = [
        ("service.name", "lifeboat"),
        ("service.instance.id", instance),
        ("service.version", env!("CARGO_PKG_VERSION")),
    ];
    for (key, value) in own {
        if !resource.iter().any(|(known, _)| known == key) {
            resource.push((key.to_owned(), value.to_owned()));
        }
    }
    Ok(resource)
}

fn sampler(variables: &Variables<impl Fn(&str) -> Option<String>>) -> Result<Sampler> {
    let asked = variables.get(SAMPLER).unwrap_or_else(|| "parentbased_always_on".to_owned());
    let (by_parent, own) = match asked.strip_prefix("parentbased_") {
        Some(own) => (true, own),
        None => (false, &*asked),
    };
    let share = match own {
        "always_on" => 1.0,
        "always_off" => 0.0,
        "traceidratio" => {
            let text = variables.get(SAMPLER_ARG).unwrap_or_else(|| "1".to_owned());
            let share = text.parse().ok().filter(|share: &f64| (0.0..=1.0).contains(share));
            share.ok_or_else(|| Failure::usage(format!("{SAMPLER_ARG} is {text:?}: give a share from 0 to 1")))?
        }
        _ => {
            return Err(Failure::usage(format!(
                "{SAMPLER} is {asked:?}: give always_on, always_off, traceidratio, or one of these behind parentbased_"
            )));
        }
    };
    Ok(Sampler { by_parent, share })
}

fn certificates(name: &str, path: &Path) -> Result<Vec<CertificateDer<'static>>> {
    let text = std::fs::read(path).map_err(|error| Failure::unreadable(name, path, &error))?;
    let found: Vec<_> = CertificateDer::pem_slice_iter(&text).filter_map(std::result::Result::ok).collect();
    if found.is_empty() {
        return Err(Failure::usage(format!("{name}: {} holds no certificate (PEM)", path.display())));
    }
    Ok(found)
}

fn tls(variables: &Variables<impl Fn(&str) -> Option<String>>) -> Result<Arc<ClientConfig>> {
    let trusted = match variables.either("CERTIFICATE") {
        Some((name, path)) => certificates(&name, Path::new(&path))?,
        None => rustls_native_certs::load_native_certs().certs,
    };
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(trusted);
    if roots.is_empty() {
        return Err(Failure::usage(
            "traces go to https, and there is no authority to trust: install ca-certificates, or give \
             OTEL_EXPORTER_OTLP_CERTIFICATE",
        ));
    }
    let failed =
        |error: rustls::Error| Failure::usage(format!("TLS to the collector of traces can't be set up: {error}"));
    let config = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(failed)?
        .with_root_certificates(roots);
    let config = match (variables.either("CLIENT_CERTIFICATE"), variables.either("CLIENT_KEY")) {
        (None, None) => config.with_no_client_auth(),
        (Some((name, path)), Some((key_name, key_path))) => {
            let chain = certificates(&name, Path::new(&path))?;
            let key_path = Path::new(&key_path);
            let text = std::fs::read(key_path).map_err(|error| Failure::unreadable(&key_name, key_path, &error))?;
            let key = PrivateKeyDer::from_pem_slice(&text).map_err(|_| {
                Failure::usage(format!("{key_name}: {} holds no private key (PEM)", key_path.display()))
            })?;
            config.with_client_auth_cert(chain, key).map_err(failed)?
        }
        _ => {
            return Err(Failure::usage(
                "OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE and OTEL_EXPORTER_OTLP_CLIENT_KEY belong together",
            ));
        }
    };
    Ok(Arc::new(config))
}
