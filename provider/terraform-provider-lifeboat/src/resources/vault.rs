//! `lifeboat_vault`: where everything that recovery needs is kept.
//!
//! The passphrase is write-only: it is in no plan and no state. A vault is never replaced, and destroying it detaches it:
//! what it holds stays in storage.

use std::collections::BTreeMap;

use lifeboat_api::{
    Client, ClientError, ClientErrorKind, EncryptionKey, Group, Immutability, ImmutabilityMode, KeySourceKind, Policy,
    Secret, Site, Vault, VaultCreate, default_soft_delete_days,
};
use tf_provider_sdk::{
    Attribute, Block, Diagnostic, Diagnostics, NestedBlock, Object, PlanChange, Result, Schema, Type, UpdateRequest,
    Value, async_trait, modify, validate,
};

use super::{anchor, in_a_mount, observed, short_timeouts};
use crate::declared::{Dependent, Kind};
use crate::link::Link;
use crate::values::Values;
use crate::wording::{failed, same};

#[derive(Debug)]
pub(crate) struct VaultKind;

const FOR_GOOD: &str = "It can't be changed.";

const KEY_SOURCES: &[(&str, KeySourceKind)] =
    &[("passphrase", KeySourceKind::Passphrase), ("key_file", KeySourceKind::KeyFile), ("kms", KeySourceKind::Kms)];

const fn key_source_name(kind: KeySourceKind) -> &'static str {
    match kind {
        KeySourceKind::Passphrase => "passphrase",
        KeySourceKind::KeyFile => "key_file",
        KeySourceKind::Kms => "kms",
    }
}

fn encryption_block() -> NestedBlock {
    // An imported vault then has the version that a configuration has which doesn't say any.
    let version = modify::custom("first_version_of_a_passphrase", |plan| {
        if plan.config.is_null() {
            let with_passphrase =
                plan.config_object.at("encryption.key_source").and_then(Value::as_str) == Some("passphrase");
            *plan.planned = if with_passphrase { Value::Number(1.into()) } else { Value::Null };
        }
    });
    let body = Block::new()
        .description("What opens the vault. Recovery needs the vault and this key, and nothing else: keep a copy elsewhere.")
        .attribute(anchor("key_source", "`passphrase` (stretched with Argon2id), `key_file` (at least 32 random bytes in a file on the gateway, mode \
             0600) or `kms` (a key in a key management service that the gateway can ask).", FOR_GOOD))
        .attribute(Attribute::string("passphrase").optional().sensitive().write_only().description(
            "With `passphrase`: at least 8 characters. Write-only: it is kept in neither plan nor state.",
        ))
        .attribute(Attribute::number("passphrase_version").optional().computed().modify(version).description(
            "Another number sends the passphrase again, to check that it opens the vault. The passphrase of a vault that \
             exists can't be changed this way. Default: `1` with `passphrase`.",
        ))
        .attribute(
            Attribute::string("key_file").optional().requires_replace().description(
                "With `key_file`: absolute path on the gateway. It can't be changed.",
            ),
        )
        .attribute(Attribute::string("kms_key").optional().requires_replace().description(
            "With `kms`: the key's name, `command:/absolute/path/of/a/program?key=NAME`. The gateway runs only programs that \
             it was started with (`--kms-programs`). It can't be changed.",
        ));
    NestedBlock::single("encryption", body).min(1)
}

const MODES: &[(&str, ImmutabilityMode)] =
    &[("unlocked", ImmutabilityMode::Unlocked), ("locked", ImmutabilityMode::Locked)];

fn immutability_block() -> NestedBlock {
    let body = Block::new()
        .description(
            "How long nothing that the vault holds can be destroyed: whatever is deleted or no longer kept stays in storage for so long, \
             policies have to keep recovery points for so long, and volumes can't be erased within it.",
        )
        .attribute(Attribute::string("mode").required().description(
            "`unlocked`: it can be shortened and ended. `locked`: it can only be made longer, by nobody it is ended; there is no way back.",
        ))
        .attribute(Attribute::number("days").required().description("1 to 3650, and at most `soft_delete_days`."));
    NestedBlock::single("immutability", body)
}

fn immutability(block: &Values<'_>) -> Option<Immutability> {
    if block.is_unknown("mode") {
        return None;
    }
    let mode = block.word("mode", &block.required("mode", String::new()), MODES)?;
    Some(Immutability { mode, days: block.required("days", 1) })
}

#[async_trait]
impl Kind for VaultKind {
    type Spec = VaultCreate;
    type View = Vault;
    const TYPE: &'static str = "lifeboat_vault";
    const NOUN: &'static str = "vault";

    fn schema() -> Schema {
        let no_slash =
            validate::matches("written without a slash at its end", |url| !url.ends_with('/') || url == "file:///");
        Schema::new()
            .description(
                "A vault: the place in storage that holds everything recovery needs, encrypted. A vault is never replaced: a \
                 change that would need it is refused at plan. Destroying it detaches it from the gateway; its objects stay in \
                 storage.",
            )
            .attribute(Attribute::id())
            .attribute(anchor("name", "1 to 64 characters.", FOR_GOOD))
            .attribute(
                anchor(
                    "storage_url",
                    "Where it is kept, as the gateways see it: `file:///absolute/directory`, `s3://bucket/prefix`, \
                     `az://container/prefix` or `gs://bucket/prefix`.",
                    FOR_GOOD,
                )
                .validate(no_slash),
            )
            .attribute(Attribute::string("storage_endpoint").optional().requires_replace().description(
                "Address of the storage service, where it isn't the provider's own: `https://host[:port]`. It can't be changed.",
            ))
            .attribute(
                Attribute::string("storage_region")
                    .optional()
                    .requires_replace()
                    .description("Region of an S3 bucket. It can't be changed."),
            )
            .attribute(Attribute::map("storage_credentials", Type::String).optional().sensitive().write_only().description(
                "Credentials of the storage service by name, such as `AWS_ACCESS_KEY_ID` and `AWS_SECRET_ACCESS_KEY`. \
                 Write-only: they are kept in neither plan nor state. Default: those of the gateway's environment.",
            ))
            .attribute(Attribute::number("storage_credentials_version").optional().description(
                "Another number sends the credentials again: the gateway tries them and keeps them in place of the old ones.",
            ))
            .attribute(Attribute::number("soft_delete_days").default(default_soft_delete_days()).description(
                "Days for which data is kept after it is deleted: 0 to 3650. Default: `14`.",
            ))
            .attribute(Attribute::bool("second_approval").default(false).description(
                "Whether what destroys (deleting volumes and groups, cutting retention, erasing, detaching the vault, adding keys, ending these \
                 protections) needs a second person's approval: the apply fails naming it, and succeeds once a security administrator other \
                 than this token has run `lifeboat approval approve`. Set it once such a person has a token. Default: `false`.",
            ))
            .attribute(
                Attribute::string("vault_uuid")
                    .computed()
                    .use_state_for_unknown()
                    .description("The vault's own identity, as it stands in storage."),
            )
            .attribute(
                observed(Attribute::number("format_version")).description("The version of the format that it is kept in."),
            )
            .attribute(
                observed(Attribute::string("health"))
                    .description("Whether it can be reached and is sound: `healthy`, `warning` or `critical`."),
            )
            .attribute(
                observed(Attribute::number("bytes_stored"))
                    .description("Bytes that its objects take. Null until they were counted."),
            )
            .block(encryption_block())
            .block(immutability_block())
            .timeouts(short_timeouts())
    }

    fn spec(values: &Values<'_>) -> VaultCreate {
        VaultCreate {
            name: values.name("name"),
            storage_url: values.required("storage_url", "file:///neutral".to_owned()),
            storage_endpoint: values.optional("storage_endpoint"),
            storage_region: values.optional("storage_region"),
            storage_credentials: values
                .configured_only::<BTreeMap<String, String>>("storage_credentials")
                .map(|given| given.into_iter().map(|(name, value)| (name, Secret::new(value))).collect()),
            storage_proxy: None,
            encryption: encryption(values),
            soft_delete_days: values.required("soft_delete_days", default_soft_delete_days()),
            immutability: values.block("immutability").and_then(|block| immutability(&block)),
            second_approval: values.required("second_approval", false),
            attach: false,
        }
    }

    fn describe(vault: &Vault, state: &mut Object) {
        state.set("name", &vault.spec.name);
        state.set("storage_url", &vault.spec.storage_url);
        state.set("storage_endpoint", vault.spec.storage_endpoint.clone());
        state.set("storage_region", vault.spec.storage_region.clone());
        state.set("soft_delete_days", vault.spec.soft_delete_days);
        let immutability = vault
            .spec
            .immutability
            .map(|immutability| Object::new().with("mode", immutability.mode.as_str()).with("days", immutability.days));
        state.set("immutability", immutability);
        state.set("second_approval", vault.spec.second_approval);
        state.set("vault_uuid", vault.status.vault_uuid.to_string());
        state.set("format_version", vault.status.format_version);
        state.set("health", vault.status.health.as_str());
        state.set("bytes_stored", vault.status.bytes_stored);
        let known_version = state.at("encryption.passphrase_version").cloned().unwrap_or_default();
        let version = match vault.spec.encryption.key_source {
            KeySourceKind::Passphrase if known_version.is_null() => Value::Number(1.into()),
            _ => known_version,
        };
        let encryption = Object::new()
            .with("key_source", key_source_name(vault.spec.encryption.key_source))
            .with("passphrase", Value::Null)
            .with("passphrase_version", version)
            .with("key_file", vault.spec.encryption.key_file.clone())
            .with("kms_key", vault.spec.encryption.kms_key.clone());
        state.set("encryption", encryption);
    }

    /// Nothing else can be changed, and the key is not to be sent along.
    fn patch(spec: &VaultCreate) -> serde_json::Result<serde_json::Value> {
        Ok(serde_json::json!({
            "soft_delete_days": spec.soft_delete_days,
            "immutability": spec.immutability,
            "second_approval": spec.second_approval,
        }))
    }

    fn judge(plan: &PlanChange) -> Result<()> {
        if !plan.is_replacement() {
            return Ok(());
        }
        let refusal = |path: &tf_provider_sdk::Path| {
            Diagnostic::error(
                "A vault is never replaced",
                format!(
                    "{path} of a vault that exists can't be changed, and the vault holds recovery points. Set it back, or declare \
                     another vault beside this one and move the volumes' protection there."
                ),
            )
            .at(path)
        };
        Err(plan.requires_replace().iter().map(refusal).collect())
    }

    async fn foresee(_: &Link, api: &Client, plan: &PlanChange) -> Result<()> {
        let Ok(url) = plan.get::<String>("storage_url") else { return Ok(()) };
        if let Some(path) = url.strip_prefix("file://")
            && let Some(volume) = in_a_mount(api, path, |_| true).await
        {
            let detail = format!(
                "{path} lies in a gateway's mount, where volumes such as {} are served: what is written to a volume there would have \
                 to be kept in it first. Choose a directory outside of every gateway's mount.",
                volume.spec.name
            );
            return Err(Diagnostic::error("A vault in a volume", detail).at("storage_url").into());
        }
        match attached_at(api, &url).await {
            Some(vault) => Err(exists(&url, Some(&vault))),
            None => Ok(()),
        }
    }

    async fn dependents(api: &Client, id: &str) -> std::result::Result<Vec<Dependent>, ClientError> {
        let sites: Vec<Site> = api.list("/v1/sites", &[]).await?;
        let policies: Vec<Policy> = api.list("/v1/policies", &[]).await?;
        let groups: Vec<Group> = api.list("/v1/groups", &[]).await?;
        let sites = sites.iter().filter(|site| site.spec.vault_id.to_string() == id);
        let policies = policies.iter().filter(|policy| policy.spec.vault_id.to_string() == id);
        let groups = groups.iter().filter(|group| group.spec.vault_id.to_string() == id && !group.status.implicit);
        Ok(sites
            .map(|site| Dependent::new("site", site))
            .chain(policies.map(|policy| Dependent::new("replication policy", policy)))
            .chain(groups.map(|group| Dependent::new("consistency group", group)))
            .collect())
    }

    async fn explain(api: &Client, spec: &VaultCreate, error: &ClientError) -> Option<Diagnostics> {
        if error.kind() != ClientErrorKind::Conflict {
            return None;
        }
        Some(exists(&spec.storage_url, attached_at(api, &spec.storage_url).await.as_ref()))
    }

    async fn before_patch(api: &Client, spec: &VaultCreate, request: &UpdateRequest) -> Result<()> {
        let is_new = |version: &str| request.prior.at(version) != request.plan.at(version);
        let key = is_new("encryption.passphrase_version") && spec.encryption.passphrase.is_some();
        let credentials = is_new("storage_credentials_version") && spec.storage_credentials.is_some();
        if !key && !credentials {
            return Ok(());
        }
        // Attaching what is attached already checks the key, and renews the credentials.
        let again = VaultCreate { attach: true, ..spec.clone() };
        let checked = api.create_vault(&again).await;
        checked.map(drop).map_err(|error| failed(&format!("open the vault {} with its key", spec.name), &error, same))
    }
}

/// The key. What goes with an unknown key source can't be judged.
fn encryption(values: &Values<'_>) -> EncryptionKey {
    let neutral_key = EncryptionKey {
        key_source: KeySourceKind::KeyFile,
        passphrase: None,
        key_file: Some("/neutral".to_owned()),
        kms_key: None,
    };
    let Some(block) = values.block("encryption") else { return neutral_key };
    if block.is_unknown("key_source") {
        return neutral_key;
    }
    let Some(key_source) = block.word("key_source", &block.required("key_source", String::new()), KEY_SOURCES) else {
        return neutral_key;
    };
    let stand_in = |path: &str, text: &str| block.is_unknown(path).then(|| text.to_owned());
    EncryptionKey {
        key_source,
        // The only place where a write-only value is: the block of the configuration.
        passphrase: values
            .configured_only::<String>("encryption.passphrase")
            .or_else(|| stand_in("passphrase", "neutral passphrase"))
            .map(Secret::new),
        key_file: block.optional("key_file").or_else(|| stand_in("key_file", "/neutral")),
        kms_key: block.optional("kms_key").or_else(|| stand_in("kms_key", "command:/neutral")),
    }
}

/// The vault that the gateway has attached from there, if that can be found out.
async fn attached_at(api: &Client, url: &str) -> Option<Vault> {
    let vaults: Vec<Vault> = api.list("/v1/vaults", &[]).await.ok()?;
    vaults.into_iter().find(|vault| vault.spec.storage_url == url || vault.status.attached_url == url)
}

fn exists(url: &str, attached: Option<&Vault>) -> Diagnostics {
    let how = match attached {
        Some(vault) => format!(
            "The gateway has it attached as {:?}. To manage it here, import it:\n  terraform import lifeboat_vault.NAME {}",
            vault.spec.name, vault.id
        ),
        None => format!(
            "To manage it here, attach it and import it:\n  lifeboat vault open {url} --key-file FILE (or --key PASSPHRASE_FILE)\n  \
             lifeboat vault list\n  terraform import lifeboat_vault.NAME ID"
        ),
    };
    let detail = format!(
        "There is a vault at {url}, and creating never overwrites one. {how}\nOr choose an empty directory for a new vault."
    );
    Diagnostic::error("The vault exists already", detail).at("storage_url").into()
}
