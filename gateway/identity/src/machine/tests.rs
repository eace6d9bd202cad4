//! Real handshakes on loopback, one for each way to be refused; and what is kept.

use std::collections::HashSet;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::sync::Mutex;

use lifeboat_model::VaultId;
use rustls::{RootCertStore, ServerConfig};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::{TlsAcceptor, TlsConnector};

use super::*;
use crate::{Authority, Demand, Request, Trust, peer, server_config};

/// A gateway's knowledge: some authorities, and the agents that aren't revoked.
#[derive(Debug, Default)]
struct Known {
    authorities: Mutex<Vec<Arc<Authority>>>,
    agents: Mutex<HashSet<String>>,
}

impl Trust for Known {
    fn authority(&self, vault: VaultId) -> Option<Arc<Authority>> {
        self.authorities.lock().expect("sound").iter().find(|known| known.vault() == vault).cloned()
    }

    fn admit(&self, peer: &Peer, _: Timestamp) -> Result<(), String> {
        if self.agents.lock().expect("sound").contains(&peer.name.id) { Ok(()) } else { Err("revoked".to_owned()) }
    }
}

fn authority(byte: u8) -> Arc<Authority> {
    Arc::new(Authority::new(VaultId::from_bytes([byte; 16]), &[byte; 32]).expect("made"))
}

/// A machine whose certificate was signed `ago` seconds ago for `life` seconds.
fn machine(directory: &Path, authority: &Authority, id: &str, ago: i64, life: u64) -> Machine {
    let pair = pair_in(directory, ENROLLING).expect("made");
    let signing = Request::read(&request_for(&pair).expect("a request")).expect("sound");
    let then = Timestamp::from_micros(Timestamp::now().as_micros() - ago * 1_000_000);
    let issued = authority.sign_for(&signing, id, then, Duration::from_secs(life)).expect("signed");
    let text = Zeroizing::new(pair.serialize_pem());
    Current::of(text, &issued.pem, authority.pem()).expect("sound").keep(directory).expect("written");
    Machine::open(directory).expect("kept")
}

struct Gateway {
    address: SocketAddr,
    known: Arc<Known>,
}

impl Gateway {
    /// A gateway of these vaults that tells whoever is let in who they are.
    async fn start(authorities: Vec<Arc<Authority>>, demand: Demand) -> Self {
        let known = Arc::new(Known { authorities: Mutex::new(authorities), ..Known::default() });
        let config = server_config(Arc::clone(&known) as Arc<dyn Trust>, "gw-1", demand, &[b"x"]).expect("TLS");
        Self::with(config, known).await
    }

    async fn with(config: ServerConfig, known: Arc<Known>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("bound");
        let acceptor = TlsAcceptor::from(Arc::new(config));
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let acceptor = acceptor.clone();
                tokio::spawn(async move {
                    let mut stream = acceptor.accept(stream).await?;
                    let who = peer(stream.get_ref().1).map_or("nobody".to_owned(), |peer| peer.name.to_string());
                    stream.write_all(who.as_bytes()).await?;
                    stream.shutdown().await
                });
            }
        });
        Self { address, known }
    }

    fn admit(&self, id: &str) {
        self.known.agents.lock().expect("sound").insert(id.to_owned());
    }

    /// What it says to who connects so, or why there was no connection.
    async fn meet(&self, tls: Arc<rustls::ClientConfig>, name: ServerName<'static>) -> Result<String, String> {
        let meeting = async {
            let stream = TcpStream::connect(self.address).await?;
            let mut stream = TlsConnector::from(tls).connect(name, stream).await?;
            let mut said = String::new();
            stream.read_to_string(&mut said).await?;
            Ok(said)
        };
        meeting.await.map_err(|error: std::io::Error| error.to_string())
    }

    async fn welcome(&self, machine: &Machine) -> Result<String, String> {
        self.meet(machine.tls(&[b"x"]).expect("TLS"), machine.server_name()).await
    }
}

/// TLS that believes an authority and shows this certificate, or none.
fn client(authority: &Authority, shown: Option<Arc<CertifiedKey>>) -> Arc<rustls::ClientConfig> {
    #[derive(Debug)]
    struct Shows(Arc<CertifiedKey>);
    impl ResolvesClientCert for Shows {
        fn resolve(&self, _: &[&[u8]], _: &[rustls::SignatureScheme]) -> Option<Arc<CertifiedKey>> {
            Some(Arc::clone(&self.0))
        }
        fn has_certs(&self) -> bool {
            true
        }
    }
    let mut roots = RootCertStore::empty();
    roots.add(authority.certificate().clone()).expect("an authority");
    let builder = rustls::ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .expect("known versions")
        .with_root_certificates(roots);
    let mut config = match shown {
        Some(shown) => builder.with_client_cert_resolver(Arc::new(Shows(shown))),
        None => builder.with_no_client_auth(),
    };
    config.alpn_protocols = vec![b"x".to_vec()];
    Arc::new(config)
}

#[track_caller]
fn refused(met: Result<String, String>, alert: &str) {
    let error = met.expect_err("no connection");
    assert!(error.contains(alert), "{error}, not {alert}");
}

#[tokio::test]
async fn a_machine_is_who_its_certificate_says() {
    let (ours, also) = (authority(1), authority(2));
    let gateway = Gateway::start(vec![Arc::clone(&ours), Arc::clone(&also)], Demand::Certificate).await;
    for (vault, id) in [(&ours, "agt-1"), (&also, "agt-2")] {
        let home = tempfile::tempdir().expect("a directory");
        let machine = machine(home.path(), vault, id, 0, 3600);
        gateway.admit(id);
        assert_eq!(gateway.welcome(&machine).await, Ok(format!("lifeboat://{}/agent/{id}", vault.vault())));
    }
}

#[tokio::test]
async fn who_is_not_known_is_refused_and_told_nothing() {
    let (ours, strange) = (authority(1), authority(9));
    let gateway = Gateway::start(vec![Arc::clone(&ours)], Demand::Certificate).await;
    gateway.admit("agt-1");
    let home = || tempfile::tempdir().expect("a directory");

    let none = gateway.meet(client(&ours, None), server_name(ours.vault())).await;
    refused(none, "CertificateRequired");

    let dir = home();
    let revoked = machine(dir.path(), &ours, "agt-2", 0, 3600);
    refused(gateway.welcome(&revoked).await, "CertificateRevoked");
    gateway.admit("agt-2");
    assert!(gateway.welcome(&revoked).await.is_ok());
    gateway.known.agents.lock().expect("sound").remove("agt-2");
    refused(gateway.welcome(&revoked).await, "CertificateRevoked");

    let dir = home();
    refused(gateway.welcome(&machine(dir.path(), &ours, "agt-1", 7200, 3600)).await, "CertificateExpired");
    let dir = home();
    refused(gateway.welcome(&machine(dir.path(), &ours, "agt-1", -7200, 3600)).await, "CertificateExpired");
    // A clock that is a few minutes behind the signer's is no reason.
    let dir = home();
    assert!(gateway.welcome(&machine(dir.path(), &ours, "agt-1", -240, 3600)).await.is_ok());

    // An authority that this gateway doesn't know, and one that vouches for somebody of another vault.
    let dir = home();
    let stranger = machine(dir.path(), &strange, "agt-1", 0, 3600).current().certified.clone();
    refused(gateway.meet(client(&ours, Some(stranger)), server_name(ours.vault())).await, "UnknownCA");
    let forger = Authority::new(ours.vault(), &[9; 32]).expect("made");
    let dir = home();
    let forged = machine(dir.path(), &forger, "agt-1", 0, 3600).current().certified.clone();
    refused(gateway.meet(client(&ours, Some(forged)), server_name(ours.vault())).await, "DecryptError");

    // The authority's own certificate is nobody's, and so is that of a gateway where agents are asked for.
    let own = ours.gateway("agt-1x", Timestamp::now()).expect("made");
    refused(gateway.meet(client(&ours, Some(own)), server_name(ours.vault())).await, "CertificateRevoked");
}

#[tokio::test]
async fn a_revoked_machine_does_not_come_back_by_an_old_session() {
    let ours = authority(1);
    let gateway = Gateway::start(vec![Arc::clone(&ours)], Demand::Certificate).await;
    gateway.admit("agt-1");
    let dir = tempfile::tempdir().expect("a directory");
    let certified = machine(dir.path(), &ours, "agt-1", 0, 3600).current().certified.clone();
    // A client that would resume, were it let.
    let eager = client(&ours, Some(certified));
    for _ in 0..2 {
        assert!(gateway.meet(Arc::clone(&eager), server_name(ours.vault())).await.is_ok());
    }
    gateway.known.agents.lock().expect("sound").clear();
    refused(gateway.meet(eager, server_name(ours.vault())).await, "CertificateRevoked");
}

#[tokio::test]
async fn a_machine_believes_gateways_of_its_vault_and_no_others() {
    let (ours, strange) = (authority(1), authority(9));
    let dir = tempfile::tempdir().expect("a directory");
    let machine = machine(dir.path(), &ours, "agt-1", 0, 3600);

    // One that has another vault only has no certificate for the name that is asked for.
    let elsewhere = Gateway::start(vec![Arc::clone(&strange)], Demand::Certificate).await;
    refused(elsewhere.welcome(&machine).await, "AccessDenied");
    // One that says it is of our vault, by an authority of its own.
    let forger = Arc::new(Authority::new(ours.vault(), &[9; 32]).expect("made"));
    let liar = Gateway::start(vec![forger], Demand::Nothing).await;
    refused(liar.welcome(&machine).await, "invalid peer certificate");
    // An agent of our own vault that plays the gateway.
    let certified = machine.current().certified.clone();
    let chain = CertifiedKey::new(vec![certified.cert[0].clone(), ours.certificate().clone()], certified.key.clone());
    #[derive(Debug)]
    struct Plays(Arc<CertifiedKey>);
    impl rustls::server::ResolvesServerCert for Plays {
        fn resolve(&self, _: rustls::server::ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
            Some(Arc::clone(&self.0))
        }
    }
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .expect("known versions")
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(Plays(Arc::new(chain))));
    config.alpn_protocols = vec![b"x".to_vec()];
    let actor = Gateway::with(config, Arc::default()).await;
    refused(actor.welcome(&machine).await, "invalid peer certificate");
    let pin = || pinned::config(Arc::new(Pinned::new(ours.fingerprint()))).expect("TLS");
    let named = |mut config: Arc<rustls::ClientConfig>| {
        Arc::make_mut(&mut config).alpn_protocols = vec![b"x".to_vec()];
        config
    };
    refused(actor.meet(named(pin()), machine.server_name()).await, "invalid peer certificate");

    // By the fingerprint alone: the right gateway is believed, the liar and a wrong fingerprint aren't.
    let right = Gateway::start(vec![Arc::clone(&ours)], Demand::Nothing).await;
    assert_eq!(right.meet(named(pin()), machine.server_name()).await, Ok("nobody".to_owned()));
    refused(liar.meet(named(pin()), machine.server_name()).await, "UnknownIssuer");
    let wrong = pinned::config(Arc::new(Pinned::new(strange.fingerprint()))).expect("TLS");
    refused(right.meet(named(wrong), machine.server_name()).await, "UnknownIssuer");
    refused(right.meet(named(pin()), server_name(strange.vault())).await, "AccessDenied");
}

#[test]
fn what_is_kept_is_for_its_owner_and_is_read_as_it_was_written() {
    let dir = tempfile::tempdir().expect("a directory");
    assert!(matches!(Machine::open(dir.path()), Err(MachineError::NotEnrolled(_))));
    let ours = authority(1);
    let made = machine(dir.path(), &ours, "agt-1", 0, 86_400);
    for name in [IDENTITY, ENROLLING] {
        let mode = fs::metadata(dir.path().join(name)).expect("there").permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{name}");
    }
    let key = made.current().key.clone();
    let secret = key.lines().nth(1).expect("the key itself").to_owned();
    assert!(!format!("{made:?}").contains(&secret));
    assert_eq!(Machine::open(dir.path()).expect("kept").certificate(), made.certificate());
    assert_eq!(
        pair_in(dir.path(), ENROLLING).expect("kept").serialize_pem().trim(),
        key.trim(),
        "a repetition has the same key"
    );

    // At two thirds of its life, whatever was allowed for clocks.
    let signed = made.certificate().not_after.as_micros() - 86_400_000_000;
    assert_eq!(made.renew_at().as_micros() - signed, 57_600_000_000);

    let text = fs::read_to_string(dir.path().join(IDENTITY)).expect("there");
    for damaged in ["", &text[..text.len() / 2], &text.replacen("CERTIFICATE", "CERTIFICATION", 1), &text[200..]] {
        fs::write(dir.path().join(IDENTITY), damaged).expect("written");
        let error = Machine::open(dir.path()).expect_err("damaged");
        assert!(matches!(&error, MachineError::Files(said) if said.contains("identity.pem is damaged")), "{error}");
        assert!(!error.to_string().contains(&secret));
    }
    // A certificate that isn't for the key.
    let other = tempfile::tempdir().expect("a directory");
    machine(other.path(), &ours, "agt-2", 0, 3600);
    let foreign = fs::read_to_string(other.path().join(IDENTITY)).expect("there");
    let (_, certificates) = split(&foreign, "PRIVATE KEY").expect("a key");
    fs::write(dir.path().join(IDENTITY), format!("{}{certificates}", key.as_str())).expect("written");
    assert!(matches!(Machine::open(dir.path()), Err(MachineError::Files(_))));
}

#[tokio::test]
async fn what_is_no_registration_key_is_refused_before_anything_is_made() {
    let dir = tempfile::tempdir().expect("a directory");
    let home = dir.path().join("agent");
    let endpoints = ["https://127.0.0.1:1".to_owned()];
    let error = Machine::enrol(&home, "lbt_not-a-key", &endpoints, "web").await.expect_err("refused");
    assert!(matches!(error, MachineError::Key) && !home.exists(), "{error}");

    let ours = authority(1);
    let key =
        RegistrationKeyText::new(ours.vault(), lifeboat_model::RegistrationKeyId::new(), [7; 32], [7; 32]).expose();
    let error = Machine::enrol(&home, &key, &endpoints, "web").await.expect_err("nobody there");
    assert!(matches!(error, MachineError::Asking(_)) && !error.to_string().contains(key.as_str()), "{error}");
    assert!(home.join(ENROLLING).exists(), "kept for the next try");

    machine(&home, &ours, "agt-1", 0, 3600);
    let error = Machine::enrol(&home, &key, &endpoints, "web").await.expect_err("refused");
    assert!(matches!(error, MachineError::Enrolled { .. }), "{error}");
    machine(&home, &ours, "agt-1", 7200, 3600);
    let error = Machine::enrol(&home, &key, &endpoints, "web").await.expect_err("nobody there");
    assert!(matches!(error, MachineError::Asking(_)), "one that has ended may be replaced: {error}");
}
