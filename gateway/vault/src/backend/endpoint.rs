//! Which addresses the gateway talks to: the rules for a storage endpoint, and for what a name resolves to.
//!
//! A storage endpoint is given by whoever may attach vaults; the gateway connects to it with its own position in the
//! network. So a request must not be turned to what only this machine can reach: link-local addresses and the metadata
//! services of clouds are refused, both as they are written and as names resolve when the connection is made. Without
//! TLS only this machine itself is talked to, unless the operator allows more. Redirects are followed nowhere.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use http::Uri;

use crate::error::{StoreClass, StoreError};

/// Set to `1` by the operator, it allows `http:` endpoints that are not on this machine.
pub(crate) const ALLOW_HTTP: &str = "LIFEBOAT_ALLOW_HTTP_STORAGE";

/// Why an address is never connected to for somebody who only gave its name or URL; `None` for one that may be: link-local
/// addresses, the metadata services of clouds (which are link-local, but for 168.63.129.16 of Azure, 100.100.100.200 of Alibaba
/// and `fd00:ec2::254` of AWS), and what is no address of one machine. IPv4 in IPv6 counts as what it stands for.
#[must_use]
pub fn forbidden(address: IpAddr) -> Option<&'static str> {
    let address = address.to_canonical();
    match address {
        IpAddr::V4(v4) => {
            // Services that clouds offer to their own machines outside the link-local range.
            let metadata = [Ipv4Addr::new(168, 63, 129, 16), Ipv4Addr::new(100, 100, 100, 200)];
            if v4.is_link_local() {
                Some("it is link-local")
            } else if metadata.contains(&v4) {
                Some("it is a cloud's metadata service")
            } else if v4.is_unspecified() || v4.is_multicast() || v4.is_broadcast() {
                Some("it is no address of one machine")
            } else {
                None
            }
        }
        IpAddr::V6(v6) => {
            let metadata = Ipv6Addr::new(0xfd00, 0x0ec2, 0, 0, 0, 0, 0, 0x0254);
            if v6.is_unicast_link_local() {
                Some("it is link-local")
            } else if v6 == metadata {
                Some("it is a cloud's metadata service")
            } else if v6.is_unspecified() || v6.is_multicast() {
                Some("it is no address of one machine")
            } else {
                None
            }
        }
    }
}

/// The address that a host is written as, if it isn't a name.
pub(crate) fn literal(host: &str) -> Option<IpAddr> {
    host.trim_start_matches('[').trim_end_matches(']').parse().ok()
}

/// Whether a host is this machine as it is written.
fn is_local(host: &str) -> bool {
    host.eq_ignore_ascii_case("localhost") || literal(host).is_some_and(|address| address.to_canonical().is_loopback())
}

/// A storage endpoint without a trailing slash, if it may be used.
pub(crate) fn check(endpoint: &str, allow_http: bool) -> Result<String, StoreError> {
    let bad = |why: &str| {
        // It may carry a password by mistake: what stands before an `@` is not repeated.
        let shown = match endpoint.rsplit_once('@') {
            Some((_, host)) => format!("…@{host}"),
            None => endpoint.to_owned(),
        };
        StoreError::new(
            StoreClass::Fatal,
            format!("the storage endpoint {shown:?} can't be used: {why}; give one such as https://s3.example.com"),
        )
    };
    let uri: Uri = endpoint.parse().map_err(|_| bad("it is no URL"))?;
    let (Some(scheme), Some(authority)) = (uri.scheme_str(), uri.authority()) else {
        return Err(bad("it must begin with https://"));
    };
    if authority.as_str().contains('@') {
        return Err(bad("credentials don't belong into it"));
    }
    if uri.query().is_some() || endpoint.contains('#') {
        return Err(bad("it has a query or a fragment"));
    }
    let segment = |part: &str| {
        !matches!(part, "." | "..")
            && part.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-' | b'~'))
    };
    if !uri.path().split('/').all(segment) {
        return Err(bad("its path has characters that are not allowed"));
    }
    if authority.host().is_empty() {
        return Err(bad("it names no host"));
    }
    if let Some(why) = literal(authority.host()).and_then(forbidden) {
        return Err(bad(why));
    }
    match scheme {
        "https" => {}
        "http" if allow_http || is_local(authority.host()) => {}
        "http" => {
            return Err(bad(&format!(
                "without TLS only an address of this machine is allowed, unless the operator of the gateway sets \
                 {ALLOW_HTTP}=1"
            )));
        }
        _ => return Err(bad("it must begin with https://")),
    }
    Ok(endpoint.trim_end_matches('/').to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn https_endpoints_and_those_of_this_machine_are_taken() {
        for (given, taken) in [
            ("https://s3.example.com", "https://s3.example.com"),
            ("https://minio.corp:9000/", "https://minio.corp:9000"),
            ("https://10.1.2.3:9000/some/path", "https://10.1.2.3:9000/some/path"),
            ("http://127.0.0.1:10000/devstoreaccount1", "http://127.0.0.1:10000/devstoreaccount1"),
            ("http://127.8.9.1:1", "http://127.8.9.1:1"),
            ("http://[::1]:9000", "http://[::1]:9000"),
            ("http://localhost:9000", "http://localhost:9000"),
        ] {
            assert_eq!(check(given, false).unwrap(), taken);
        }
        assert!(check("http://minio.corp:9000", true).is_ok());
    }

    #[test]
    fn endpoints_that_reach_what_they_should_not_are_refused_with_what_to_do() {
        for (given, why) in [
            ("http://minio.corp:9000", ALLOW_HTTP),
            ("http://10.1.2.3", ALLOW_HTTP),
            ("http://[::ffff:10.1.2.3]", ALLOW_HTTP),
            ("https://169.254.169.254", "link-local"),
            ("https://169.254.170.2:443/x", "link-local"),
            ("https://[fe80::1]", "link-local"),
            ("https://[::ffff:169.254.169.254]", "link-local"),
            ("https://[fd00:ec2::254]", "metadata"),
            ("https://168.63.129.16", "metadata"),
            ("https://0.0.0.0", "no address of one machine"),
            ("https://[::]", "no address of one machine"),
            ("https://user@s3.example.com", "credentials"),
            ("https://s3.example.com?x=y", "query"),
            ("https://s3.example.com/#x", "fragment"),
            ("https://s3.example.com/a/../b", "path"),
            ("https://s3.example.com/a%2fb", "path"),
            ("ftp://s3.example.com", "https://"),
            ("s3.example.com", "https://"),
            ("file:///etc", "https://"),
            ("", "no URL"),
        ] {
            for allowed in [false, true] {
                if allowed && why == ALLOW_HTTP {
                    continue;
                }
                let error = check(given, allowed).unwrap_err();
                assert_eq!(error.class(), StoreClass::Fatal);
                let text = error.to_string();
                assert!(text.contains(why) && text.contains("give one such as"), "{given}: {text}");
            }
        }
        let text = check("https://me:hunter2@s3.example.com", false).unwrap_err().to_string();
        assert!(!text.contains("hunter2"), "{text}");
    }
}
