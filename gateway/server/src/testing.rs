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
        export: None,
    };
    let volume = client.create::<Volume>(&spec).await.expect("volume");
    Declared { volume }
}

/// Numbers from a seed: splitmix64, by Steele, Lea and Flood, 2014; small, and the same everywhere.
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn number(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `limit`, which isn't 0.
    pub(crate) fn below(&mut self, limit: u64) -> u64 {
        self.number() % limit
    }

    /// One of these, which are some.
    pub(crate) fn one<'a, T>(&mut self, of: &'a [T]) -> &'a T {
        let at = self.below(of.len() as u64);
        of.get(usize::try_from(at).expect("small")).expect("there is one")
    }
}

/// A number that whoever runs a test gave it, such as `SEED=0x5e90`.
pub(crate) fn given(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    text.strip_prefix("0x").map_or_else(|| text.parse().ok(), |hex| u64::from_str_radix(hex, 16).ok())
}
