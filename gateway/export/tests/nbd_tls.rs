//! NBD for other hosts: with TLS alone, and to each what its certificate opens.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "support/mod.rs"]
mod support;

#[path = "support/nbd.rs"]
mod nbd;

use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use lifeboat_export::nbd::{Admission, Admitted, NbdListener, NbdOptions, NbdServer};
use lifeboat_export::{ExportTree, File};
use nbd::{outcome, run};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use support::{MemoryTree, MemoryVolume, branch, point, volume};
use tokio::runtime::Runtime;
use tokio_util::sync::CancellationToken;

const MIB: usize = 1 << 20;

/// An authority that signs servers and clients, and which exports each client's certificate opens.
struct Door {
    issuer: Issuer<'static, KeyPair>,
    authority: String,
    opens: Mutex<BTreeMap<Vec<u8>, Vec<String>>>,
    unsure: Mutex<bool>,
}

impl Door {
    fn new() -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(Vec::<String>::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let authority = params.self_signed(&key).unwrap().pem();
        let issuer = Issuer::new(params, key);
        Self { issuer, authority, opens: Mutex::default(), unsure: Mutex::new(false) }
    }

    fn signed(&self, name: &str) -> (rcgen::Certificate, KeyPair) {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        (params.signed_by(&key, &self.issuer).unwrap(), key)
    }

    /// A directory with what libnbd and QEMU want of a client, that opens these volumes.
    fn client(&self, dir: &Path, volumes: &[&str]) {
        std::fs::create_dir_all(dir).unwrap();
        let (certificate, key) = self.signed("client");
        let volumes = volumes.iter().map(|&volume| volume.to_owned()).collect();
        self.opens.lock().unwrap().insert(certificate.der().to_vec(), volumes);
        std::fs::write(dir.join("ca-cert.pem"), &self.authority).unwrap();
        std::fs::write(dir.join("client-cert.pem"), certificate.pem()).unwrap();
        std::fs::write(dir.join("client-key.pem"), key.serialize_pem()).unwrap();
    }

    fn shut(&self) {
        self.opens.lock().unwrap().clear();
    }
}

impl Admission for Door {
    fn tls(&self, reached: IpAddr) -> std::io::Result<Arc<ServerConfig>> {
        let (certificate, key) = self.signed(&reached.to_string());
        let mut roots = RootCertStore::empty();
        let authority =
            <CertificateDer<'_> as rustls_pki_types::pem::PemObject>::from_pem_slice(self.authority.as_bytes());
        roots.add(authority.unwrap()).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let clients =
            WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider)).build().unwrap();
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_client_cert_verifier(clients)
            .with_single_cert(vec![certificate.der().clone()], key);
        config.map(Arc::new).map_err(std::io::Error::other)
    }

    fn admits(&self, shown: &[CertificateDer<'static>], file: &File) -> Admitted {
        if *self.unsure.lock().unwrap() {
            return Admitted::Unsure;
        }
        let (File::Volume { volume } | File::Point { volume, .. } | File::Branch { volume, .. }) = file;
        let opens = self.opens.lock().unwrap();
        let own = shown.first().map(|own| own.to_vec()).unwrap_or_default();
        if opens.get(&own).is_some_and(|volumes| volumes.contains(volume)) { Admitted::Yes } else { Admitted::No }
    }
}

/// A server for other hosts.
struct Served {
    tree: Arc<MemoryTree>,
    door: Arc<Door>,
    address: SocketAddr,
    dir: tempfile::TempDir,
    stop: CancellationToken,
    _runtime: Runtime,
}

impl Served {
    fn new() -> Self {
        Self::with(NbdOptions::default())
    }

    fn with(options: NbdOptions) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let tree = Arc::new(MemoryTree::default());
        let door = Arc::new(Door::new());
        let server = NbdServer::new(Arc::clone(&tree) as Arc<dyn ExportTree>, options)
            .admitting(Arc::clone(&door) as Arc<dyn Admission>);
        let listener = runtime.block_on(tokio::net::TcpListener::bind("127.0.0.1:0")).unwrap();
        let address = listener.local_addr().unwrap();
        let stop = CancellationToken::new();
        runtime.spawn(Arc::new(server).serve(NbdListener::Tcp(listener), stop.clone()));
        Self { tree, door, address, dir: tempfile::tempdir().unwrap(), stop, _runtime: runtime }
    }

    /// A volume of this name, and the directory of a client that it is open to.
    fn volume(&self, name: &str) -> (Arc<MemoryVolume>, String) {
        let content = MemoryVolume::new(4 * MIB);
        self.tree.put(volume(name), 1, &content);
        let dir = self.dir.path().join(name);
        self.door.client(&dir, &[name]);
        (content, dir.display().to_string())
    }

    fn uri(&self, name: &str, client: &str) -> String {
        format!("nbds://{}/{name}?tls-certificates={client}", self.address)
    }

    fn clear(&self) -> TcpStream {
        let stream = TcpStream::connect(self.address).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        stream
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

fn eventually(what: &str, mut done: impl FnMut() -> bool) {
    let end = Instant::now() + Duration::from_secs(30);
    while !done() {
        assert!(Instant::now() < end, "{what}: not within 30 s");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn each_sees_and_gets_what_its_certificate_opens() {
    let served = Served::new();
    let (db, dba) = served.volume("db");
    let (_, web) = served.volume("web");
    served.tree.put(point("crm", "2026-11-20T10:05:00Z", "db"), 2, &MemoryVolume::new(MIB));
    served.tree.put(branch("drill-7", "db"), 3, &MemoryVolume::new(MIB));
    let list = run("nbdinfo", &["--list", &served.uri("", &dba)]);
    assert!(list.contains("export=\"db\"") && list.contains("branches/drill-7/db") && !list.contains("web"), "{list}");
    assert!(list.contains("with TLS"), "{list}");
    for name in ["db", "points/crm/2026-11-20T10:05:00Z/db", "branches/drill-7/db"] {
        run("nbdinfo", &["--size", &served.uri(name, &dba)]);
        let (ok, said) = outcome("nbdinfo", &["--size", &served.uri(name, &web)]);
        assert!(!ok && said.contains("policy"), "{name}: {said}");
    }
    // What isn't there is refused in the same words.
    let (ok, said) = outcome("nbdinfo", &["--size", &served.uri("absent", &web)]);
    assert!(!ok && said.contains("policy"), "{said}");

    let source = served.dir.path().join("source");
    let bytes: Vec<u8> = (0..4 * MIB).map(|place| u8::try_from(place % 251).unwrap()).collect();
    std::fs::write(&source, &bytes).unwrap();
    run("nbdcopy", &["--connections=4", "--flush", source.to_str().unwrap(), &served.uri("db", &dba)]);
    assert!(*db.bytes.lock().unwrap() == bytes);
    let copy = served.dir.path().join("copy");
    run("nbdcopy", &["--connections=4", &served.uri("db", &dba), copy.to_str().unwrap()]);
    assert!(std::fs::read(copy).unwrap() == bytes);
}

#[test]
fn qemu_comes_in_with_a_certificate_of_its_own() {
    let served = Served::new();
    let (db, dba) = served.volume("db");
    let credentials = format!("tls-creds-x509,id=tls,endpoint=client,dir={dba}");
    let port = served.address.port();
    let options = format!(
        "driver=raw,file.driver=nbd,file.server.type=inet,file.server.host=127.0.0.1,file.server.port={port},file.export=db,file.tls-creds=tls"
    );
    let io = |commands: &[&str]| {
        let mut args = vec!["--object", &credentials, "--image-opts", &options];
        args.extend(commands.iter().flat_map(|command| ["-c", *command]));
        outcome("qemu-io", &args)
    };
    let (ok, said) =
        io(&["write -P 0x5a 64k 1M", "write -z 128k 64k", "flush", "read -P 0x5a 64k 64k", "read -P 0 128k 64k"]);
    assert!(ok && !said.contains("failed"), "{said}");
    assert!(db.bytes.lock().unwrap()[64 << 10..128 << 10].iter().all(|byte| *byte == 0x5a));
    served.door.shut();
    let (ok, said) = io(&["read 0 4k"]);
    assert!(!ok && said.contains("no export block"), "{said}");
}

#[test]
fn in_the_clear_there_is_nothing_but_the_wish_for_tls() {
    let served = Served::new();
    served.volume("db");
    let option = |number: u32, data: &[u8]| {
        [b"IHAVEOPT".as_slice(), &number.to_be_bytes(), &u32::try_from(data.len()).unwrap().to_be_bytes(), data]
            .concat()
    };
    let greeted = |flags: u32| {
        let mut stream = served.clear();
        let mut greeting = [0; 18];
        stream.read_exact(&mut greeting).unwrap();
        stream.write_all(&flags.to_be_bytes()).unwrap();
        stream
    };
    let kind = |stream: &mut TcpStream| {
        let mut header = [0; 20];
        stream.read_exact(&mut header).unwrap();
        let mut words = vec![0; u32::from_be_bytes(header[16..20].try_into().unwrap()) as usize];
        stream.read_exact(&mut words).unwrap();
        u32::from_be_bytes(header[12..16].try_into().unwrap())
    };
    let ends = |mut stream: TcpStream| {
        let mut rest = Vec::new();
        let ended = stream.read_to_end(&mut rest);
        let reset = ended.as_ref().is_err_and(|error| error.kind() == std::io::ErrorKind::ConnectionReset);
        assert!((reset || ended.is_ok()) && rest.is_empty(), "{ended:?} {rest:?}");
    };
    let go = [&2_u32.to_be_bytes()[..], b"db", &[0, 0]].concat();
    let mut stream = greeted(3);
    for (number, data) in [(3, &[][..]), (7, &go), (6, &go), (99, &[])] {
        stream.write_all(&option(number, data)).unwrap();
        assert_eq!(kind(&mut stream), (1 << 31) | 5, "option {number}: TLS is required");
    }
    // Afterwards TLS is still to be had; what stands behind the wish in the clear isn't taken for what comes in secret.
    stream.write_all(&option(5, &[])).unwrap();
    assert_eq!(kind(&mut stream), 1);
    let mut stream = greeted(3);
    stream.write_all(&[option(5, &[]), option(7, &go)].concat()).unwrap();
    ends(stream);
    // An old client can't be told.
    let mut stream = greeted(3);
    stream.write_all(&option(1, b"db")).unwrap();
    ends(stream);
    // Something else than TLS.
    let mut stream = greeted(3);
    stream.write_all(&option(5, &[])).unwrap();
    assert_eq!(kind(&mut stream), 1);
    stream.write_all(b"GET / HTTP/1.1\r\n\r\n").unwrap();
    let mut rest = Vec::new();
    // An alert of TLS at most.
    let _ = stream.read_to_end(&mut rest);
    assert!(rest.len() < 16, "{rest:?}");
    // Nobody without a certificate, nobody with one that nobody asked for.
    let bare = served.dir.path().join("bare");
    std::fs::create_dir(&bare).unwrap();
    std::fs::write(bare.join("ca-cert.pem"), &served.door.authority).unwrap();
    let (ok, said) = outcome("nbdinfo", &["--list", &served.uri("", bare.to_str().unwrap())]);
    assert!(!ok && !said.contains("export=\"db\""), "{said}");
    let stranger = Door::new();
    let strange = served.dir.path().join("strange");
    stranger.client(&strange, &["db"]);
    std::fs::write(strange.join("ca-cert.pem"), &served.door.authority).unwrap();
    let (ok, said) = outcome("nbdinfo", &["--size", &served.uri("db", strange.to_str().unwrap())]);
    assert!(!ok, "{said}");
}

#[test]
fn who_may_no_longer_have_it_is_out_soon_and_what_was_under_way_is_done() {
    let served = Served::new();
    let (db, dba) = served.volume("db");
    let credentials = format!("tls-creds-x509,id=tls,endpoint=client,dir={dba}");
    let port = served.address.port();
    let options = format!(
        "driver=raw,file.driver=nbd,file.server.type=inet,file.server.host=127.0.0.1,file.server.port={port},file.export=db,file.tls-creds=tls"
    );
    // Takes commands as long as it is not told to leave.
    let mut child = std::process::Command::new("qemu-io")
        .args(["--object", &credentials, "--image-opts", &options])
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .expect("qemu-io: `make deps` installs what tests need");
    let mut stdin = child.stdin.take().unwrap();
    writeln!(stdin, "write -P 0x78 0 4k").unwrap();
    eventually("the write", || db.bytes.lock().unwrap()[..4096].iter().all(|byte| *byte == b'x'));
    served.door.shut();
    // Whoever holds the content: the tree, this, and the client's connection as long as it lasts.
    eventually("the client to be out", || Arc::strong_count(&db) <= 2);
    writeln!(stdin, "read 0 4k\nquit").unwrap();
    drop(stdin);
    let said = child.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&said.stdout).into_owned();
    assert!(said.contains("wrote 4096/4096") && said.contains("read failed"), "{said}");
}

#[test]
fn a_gateway_that_has_just_started_lets_wait_and_then_says_so() {
    let served = Served::with(NbdOptions { wait_for_volume: Duration::from_millis(500), ..NbdOptions::default() });
    let (_, dba) = served.volume("db");
    *served.door.unsure.lock().unwrap() = true;
    let (ok, said) = outcome("nbdinfo", &["--size", &served.uri("db", &dba)]);
    assert!(!ok && !said.contains("policy"), "{said}");
    let waiting = std::thread::scope(|scope| {
        let uri = served.uri("db", &dba);
        let asked = scope.spawn(move || outcome("nbdinfo", &["--size", &uri]));
        *served.door.unsure.lock().unwrap() = false;
        asked.join().unwrap()
    });
    assert_eq!(waiting, (true, format!("{}\n", 4 * MIB)));
}

#[test]
fn many_strangers_keep_nobody_out() {
    let served = Served::new();
    let (_, dba) = served.volume("db");
    let strangers: Vec<TcpStream> = (0..200).map(|_| served.clear()).collect();
    run("nbdinfo", &["--size", &served.uri("db", &dba)]);
    // The first of them have been shown the door.
    eventually("a stranger to be out", || {
        let mut first = strangers.first().unwrap();
        first.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
        let mut bytes = [0; 64];
        // The greeting, and then the end.
        matches!(first.read(&mut bytes), Ok(0)) || matches!(first.read(&mut bytes), Ok(0))
    });
}
