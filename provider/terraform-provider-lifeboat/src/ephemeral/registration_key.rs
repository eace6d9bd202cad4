//! `lifeboat_registration_key`: what a machine enrols with, in neither plan nor state.
//!
//! It is made when Terraform opens it and deleted when Terraform is done, unless a machine has enrolled with it by then, or it is
//! to be kept for one that starts later. What a killed Terraform leaves behind ends by itself after `ttl`, an hour at most.

use std::time::Duration;

use lifeboat_api::validate::{REGISTRATION_TTL_MAX, REGISTRATION_TTL_MIN, parse_duration};
use lifeboat_api::{MachineRole, NewRegistrationKey, RegistrationKey, RegistrationKeyCreate};
use serde::{Deserialize, Serialize};
use tf_provider_sdk::{
    Attribute, Context, Diagnostic, Diagnostics, EphemeralOpened, EphemeralResource, Object, Result, Schema, Type,
    async_trait, validate,
};

use super::RENAME;
use crate::link::Link;
use crate::wording::{failed, judged, sentence};

/// What Terraform keeps, in memory only, until the key is deleted: enough to name it, not to use it.
#[derive(Debug, Serialize, Deserialize)]
struct Kept {
    id: String,
    name: String,
    ttl: String,
    keep: bool,
}

#[derive(Debug)]
pub(crate) struct RegistrationKeyOf;

#[async_trait]
impl EphemeralResource<Link> for RegistrationKeyOf {
    fn type_name(&self) -> &str {
        "lifeboat_registration_key"
    }

    fn schema(&self) -> Schema {
        let duration = validate::matches("a duration between 1m and 1h, such as 15m", |text| {
            parse_duration(text).is_ok_and(|ttl: Duration| (REGISTRATION_TTL_MIN..=REGISTRATION_TTL_MAX).contains(&ttl))
        });
        let roles = validate::each(validate::one_of(MachineRole::ALL.map(MachineRole::as_str)));
        Schema::new()
            .description(
                "A registration key: what one machine, an agent or a gateway, enrols with, once. It is made when Terraform opens it, stored in neither plan nor \
                 state, and deleted when Terraform is done, unless a machine has enrolled with it by then. Hand it to a provisioner or a \
                 write-only argument. The provider's own token needs the role `security_administrator` for it.",
            )
            .attribute(Attribute::string("site_id").required().description("The site that the machine is at."))
            .attribute(
                Attribute::set("roles", Type::String)
                    .optional()
                    .validate(validate::size(1, MachineRole::ALL.len()))
                    .validate(roles)
                    .description(
                        "What the machine is to be: `agent`, which is what it is when left out, or for a gateway one or several of \
                         `configuration_server`, `process_server` and `master_target`. A gateway that was declared before \
                         (`lifeboat_gateway`) keeps its own roles, which have to be among these.",
                    ),
            )
            .attribute(
                Attribute::string("name")
                    .default("terraform")
                    .validate(validate::length(1, 64))
                    .description("What it is for, as the list of registration keys and the events show it."),
            )
            .attribute(Attribute::string("ttl").default("15m").validate(duration).description(
                "How long it can be used, `1m` to `1h`. A run that fails or is killed doesn't delete its key: it ends then.",
            ))
            .attribute(Attribute::bool("keep").default(false).description(
                "Whether it stays valid for its `ttl` when Terraform is done and no machine has enrolled with it: for a machine that starts \
                 later.",
            ))
            .attribute(Attribute::id().description("The key's id, which is no secret."))
            .attribute(
                Attribute::string("key")
                    .computed()
                    .sensitive()
                    .description("The key itself, for `lifeboat agent enrol` or `lifeboat gateway enrol` (`--key-file`, or \
                                  `LIFEBOAT_REGISTRATION_KEY`), or for an appliance's property `registration_key`."),
            )
            .attribute(Attribute::string("expires").computed().description("When it ends (RFC 3339)."))
    }

    async fn open(&self, link: &Link, _: &Context, mut config: Object) -> Result<EphemeralOpened> {
        let api = link.api()?;
        let name: String = config.get("name")?;
        let doing = format!("make the registration key {name}");
        let wanted = request(&config)?;
        judged(&doing, &wanted, RENAME)?;
        // Not to be stopped half-way: a key that was made has to be known, or nobody deletes it.
        let NewRegistrationKey { registration_key, key } =
            api.create_registration_key(&wanted).await.map_err(|error| failed(&doing, &error, RENAME))?;
        let kept = Kept { id: registration_key.id.to_string(), name, ttl: wanted.ttl, keep: config.get("keep")? };
        config.set("id", &kept.id);
        config.set("key", key.expose());
        config.set("expires", registration_key.status.expires.to_string());
        let private = serde_json::to_vec(&kept)
            .map_err(|error| Diagnostics::error("The registration key can't be remembered", error.to_string()))?;
        Ok(EphemeralOpened { result: config, renew_at: None, private })
    }

    async fn close(&self, link: &Link, _: &Context, private: Vec<u8>) -> Result<()> {
        let kept: Kept = serde_json::from_slice(&private).map_err(|error| {
            let detail = format!("{error}; it ends by itself after its `ttl`.");
            Diagnostics::error("The registration key isn't remembered", detail)
        })?;
        if kept.keep {
            return Ok(());
        }
        let api = link.api()?;
        let delete = async || {
            let found: RegistrationKey = match api.read(&kept.id).await {
                Err(error) if error.is_not_found() => return Ok(()),
                found => found?,
            };
            // Used up, it lets nobody in, and says which machine it let in.
            if found.status.used_by.is_some() || found.status.used_by_gateway.is_some() || found.status.expired {
                return Ok(());
            }
            api.delete::<RegistrationKey>(&kept.id, found.generation).await
        };
        delete().await.map_err(|error: lifeboat_api::ClientError| {
            let detail = format!(
                "{} It ends by itself {} after it was made; end it now with: lifeboat registration-key delete {}",
                sentence(&error.to_string()),
                kept.ttl,
                kept.id
            );
            Diagnostic::error(format!("Cannot delete the registration key {}", kept.name), detail).into()
        })
    }
}

/// The request that a configuration describes.
fn request(config: &Object) -> Result<RegistrationKeyCreate> {
    let words: Option<Vec<String>> = config.get("roles")?;
    let no_role = |error: String| Diagnostic::error("No such role", sentence(&error)).at("roles");
    let roles = match words {
        Some(words) => words.iter().map(|word| word.parse().map_err(no_role)).collect::<std::result::Result<_, _>>()?,
        None => lifeboat_api::default_machine_roles(),
    };
    let site: String = config.get("site_id")?;
    let site_id = site.parse().map_err(|_| {
        let detail = format!("{site:?} is no id of a site: expected `site-` and 32 hexadecimal digits.");
        Diagnostic::error("No such site", detail).at("site_id")
    })?;
    Ok(RegistrationKeyCreate { site_id, roles, name: config.get("name")?, ttl: config.get("ttl")? })
}
