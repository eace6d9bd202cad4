//! What tests share: gateways in this process, on a vault in a temporary directory.

use std::path::Path;
use std::time::{Duration, Instant};

use lifeboat_api::{
    Client, ClientConfig, EncryptionKey, Gateway as GatewayView, GatewaySpec, KeySourceKind, Policy, PolicySpec,
    RetentionRule, Secret, Site, SiteSpec, Vault, VaultCreate, Volume, VolumeSpec,
};

use crate::{Gateway, ServeConfig};

/// Polls until `check` gives something; panics with `what` at the deadline.
pub(crate) async fn eventually<T, F: Future<Output = Option<T>>>(what: &str, mut check: impl FnMut() -> F) -> T {
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        if let Some(found) = check().await {
            return found;
        }
        assert!(Instant::now() < deadline, "{what}: not within a minute");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Waits until the gateway of that name has taken its declaration up.
pub(crate) async fn registered(client: &Client, name: &str) {
    eventually(&format!("{name} registered"), async || {
        let gateway = client.find_by_name::<GatewayView>(name).await.expect("list").expect("declared");
        gateway.status.registered.then_some(())
    })
    .await;
}

pub(crate) fn config(state: &Path, name: &str, site: &str) -> ServeConfig {
    ServeConfig {
        site: Some(site.to_owned()),
        name: name.to_owned(),
        listen_management: "127.0.0.1:0".to_owned(),
        reconcile_interval: Duration::from_millis(100),
        ..ServeConfig::new(state)
    }
}

/// A client of that gateway, as a person would set it up.
pub(crate) fn client(gateway: &Gateway) -> Client {
    let token = std::fs::read_to_string(gateway.state_path().join("admin.token")).expect("made at the first start");
    client_with(gateway, &Secret::new(token.trim().to_owned()))
}

/// A client of that gateway, for whoever has this token.
pub(crate) fn client_with(gateway: &Gateway, token: &Secret) -> Client {
    let mut config = ClientConfig {
        endpoints: vec![format!("https://{}", gateway.address())],
        tokens: vec![token.clone()],
        ..ClientConfig::default()
    };
    config.add_ca_file(gateway.state_path().join("ca.pem")).expect("made at the first start");
    Client::new(&config).expect("sound")
}

pub(crate) fn vault_create(directory: &Path, attach: bool) -> VaultCreate {
    VaultCreate {
        name: "vault".into(),
        storage_url: format!("file://{}", directory.display()),
        storage_endpoint: None,
        storage_region: None,
        storage_credentials: None,
        storage_proxy: None,
        encryption: EncryptionKey {
            key_source: KeySourceKind::Passphrase,
            passphrase: Some(Secret::new("canary-correct-horse".into())),
            key_file: None,
            kms_key: None,
        },
        soft_delete_days: 14,
        immutability: None,
        second_approval: false,
        attach,
    }
}

pub(crate) fn policy_spec(vault: &Vault) -> PolicySpec {
    PolicySpec {
        vault_id: vault.id,
        name: "gold".into(),
        recovery_point_interval: "1s".into(),
        app_consistent_interval: None,
        retention: vec![RetentionRule { every: "all".into(), keep_for: "24h".into() }],
        rpo_threshold: "5m".into(),
        resync: None,
        bandwidth_limit: vec![],
        compression: "auto".into(),
    }
}

/// What a plain configuration declares.
#[derive(Debug)]
pub(crate) struct Declared {
    pub(crate) volume: Volume,
}

/// Declares a vault, two sites with a gateway each (`a` at `east`, `b` at `west`), a policy and a volume at `a`.
pub(crate) async fn declare(client: &Client, directory: &Path) -> Declared {
    let vault = client.create_vault(&vault_create(directory, false)).await.expect("vault");
    let site = async |name: &str| {
        let spec = SiteSpec { vault_id: vault.id, name: name.into(), description: None };
        client.create::<Site>(&spec).await.expect("site")
    };
    let (east, west) = (site("east").await, site("west").await);
    let gateway = async |site: &Site, name: &str| {
        let spec = GatewaySpec { site_id: site.id, name: name.into(), roles: None, mount_path: None };
        client.create::<GatewayView>(&spec).await.expect("gateway")
    };
    let home = gateway(&east, "a").await;
    gateway(&west, "b").await;
    let policy = client.create::<Policy>(&policy_spec(&vault)).await.expect("policy");
    let spec = VolumeSpec {
        name: "db".into(),
        gateway_id: home.id,
        size_bytes: 16 << 20,
        group_id: None,
        policy_id: Some(policy.id),
        cache_bytes: None,
        source: None,
    };
    let volume = client.create::<Volume>(&spec).await.expect("volume");
    Declared { volume }
}
