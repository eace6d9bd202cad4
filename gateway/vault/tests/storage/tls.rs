//! TLS and proxies: who is trusted, what a proxy gets to see, and what is never connected to.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::Mutex;

use lifeboat_lab::GcsDouble;
use lifeboat_vault::{Credentials, Environment, StorageTarget, StoreClass};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls_pki_types::PrivateKeyDer;
use tokio::io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

use crate::open;

/// An authority, and a server of its that hands every connection on to `behind`.
struct Front {
    address: SocketAddr,
    authority: tempfile::NamedTempFile,
}

async fn front(behind: SocketAddr) -> Front {
    let authority_key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(Vec::<String>::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let authority = params.clone().self_signed(&authority_key).unwrap();
    let issuer = Issuer::new(params, authority_key);
    let key = KeyPair::generate().unwrap();
    let names = vec!["localhost".to_owned(), "storage.test".to_owned()];
    let certificate = CertificateParams::new(names).unwrap().signed_by(&key, &issuer).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate.der().clone()], PrivateKeyDer::Pkcs8(key.serialize_der().into()))
        .unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                let Ok(mut stream) = acceptor.accept(stream).await else { return };
                let mut behind = TcpStream::connect(behind).await.unwrap();
                let _ = copy_bidirectional(&mut stream, &mut behind).await;
            });
        }
    });
    let mut file = tempfile::NamedTempFile::new().unwrap();
    std::io::Write::write_all(&mut file, authority.pem().as_bytes()).unwrap();
    Front { address, authority: file }
}

/// A proxy that connects everything to `to`, and writes down what it was asked.
async fn proxy(to: SocketAddr, wants: Option<&'static str>) -> (SocketAddr, Arc<Mutex<Vec<String>>>) {
    let asked: Arc<Mutex<Vec<String>>> = Arc::default();
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    let seen = Arc::clone(&asked);
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let seen = Arc::clone(&seen);
            tokio::spawn(async move {
                let mut head = Vec::new();
                while !head.ends_with(b"\r\n\r\n") {
                    head.push(stream.read_u8().await.unwrap());
                }
                let head = String::from_utf8(head).unwrap();
                let allowed = wants.is_none_or(|wants| head.contains(wants));
                seen.lock().unwrap().push(head);
                if !allowed {
                    stream.write_all(b"HTTP/1.1 407 no\r\ncontent-length: 0\r\n\r\n").await.unwrap();
                    return;
                }
                stream.write_all(b"HTTP/1.1 200 connected\r\n\r\n").await.unwrap();
                let mut to = TcpStream::connect(to).await.unwrap();
                let _ = copy_bidirectional(&mut stream, &mut to).await;
            });
        }
    });
    (address, asked)
}

fn target(endpoint: &str, environment: Environment) -> StorageTarget {
    let credentials = GcsDouble::CREDENTIALS.iter().map(|(name, value)| ((*name).to_owned(), (*value).into()));
    StorageTarget {
        endpoint: Some(endpoint.to_owned()),
        credentials: Credentials::of(credentials),
        environment,
        ..StorageTarget::new("gs://lab-bucket/v")
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_is_trusted_for_its_authority_and_its_name() {
    let gcs = GcsDouble::start("lab-bucket").await.unwrap();
    let front = front(gcs.address()).await;
    let port = front.address.port();
    let authority = front.authority.path().to_str().unwrap();
    let trusting = || Environment::of([("LIFEBOAT_STORAGE_CA_FILE", authority)]);
    let store = open(&target(&format!("https://localhost:{port}"), trusting())).await;
    store.create("k", "v".into()).await.unwrap();
    assert_eq!(store.get("k", 1).await.unwrap(), "v");

    let unknown = open(&target(&format!("https://localhost:{port}"), Environment::of([]))).await;
    let misnamed = open(&target(&format!("https://127.0.0.1:{port}"), trusting())).await;
    for store in [unknown, misnamed] {
        let error = store.get("k", 1).await.unwrap_err();
        assert_eq!(error.class(), StoreClass::Denied, "{error}");
        assert!(error.to_string().contains("not trusted"), "{error}");
    }
    // A server that speaks no TLS at all is a passing trouble: perhaps it is being set up.
    let plain = open(&target(&format!("https://localhost:{}", gcs.address().port()), trusting())).await;
    assert_eq!(plain.get("k", 1).await.unwrap_err().class(), StoreClass::Retry);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proxy_gets_to_see_host_and_port_and_nothing_else() {
    let gcs = GcsDouble::start("lab-bucket").await.unwrap();
    let front = front(gcs.address()).await;
    let authority = front.authority.path().to_str().unwrap();
    let (address, asked) = proxy(front.address, None).await;
    // The name exists behind the proxy only.
    let url = "https://storage.test:8443";
    let explicit = StorageTarget {
        proxy: Some(format!("http://{address}").into()),
        ..target(url, Environment::of([("LIFEBOAT_STORAGE_CA_FILE", authority), ("NO_PROXY", "storage.test")]))
    };
    let store = open(&explicit).await;
    store.create("through", "v".into()).await.unwrap();
    let seen = asked.lock().unwrap().clone();
    assert!(seen[0].starts_with("CONNECT storage.test:8443 HTTP/1.1\r\n"), "{seen:?}");
    assert!(seen.iter().all(|head| !head.contains("through") && !head.contains(GcsDouble::TOKEN)), "{seen:?}");

    let from_environment = [("LIFEBOAT_STORAGE_CA_FILE", authority), ("HTTPS_PROXY", &format!("http://{address}"))];
    let store = open(&target(url, Environment::of(from_environment))).await;
    assert_eq!(store.get("through", 1).await.unwrap(), "v");
    let exempt = [from_environment[0], from_environment[1], ("NO_PROXY", "example.com,.test")];
    let store = open(&target(url, Environment::of(exempt))).await;
    let error = store.get("through", 1).await.unwrap_err();
    assert!(error.is_retry() && error.to_string().contains("can't be resolved"), "{error}");

    let (address, _) = proxy(front.address, Some("Proxy-Authorization: Basic bWU6aHVudGVyMg==")).await;
    let with_password = |password: &str| StorageTarget {
        proxy: Some(format!("http://me:{password}@{address}").into()),
        ..target(url, Environment::of([("LIFEBOAT_STORAGE_CA_FILE", authority)]))
    };
    assert_eq!(open(&with_password("hunter2")).await.get("through", 1).await.unwrap(), "v");
    let error = open(&with_password("hunter3")).await.get("through", 1).await.unwrap_err();
    assert_eq!(error.class(), StoreClass::Denied, "{error}");
    assert!(error.to_string().contains("proxy") && !format!("{error:?}").contains("hunter3"), "{error}");
}
