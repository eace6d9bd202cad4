//! `lifeboat_token`: a token for the time of one run of Terraform, in neither plan nor state.
//!
//! It is made when Terraform opens it, at plan and at apply, lives on while Terraform needs it, and is revoked when Terraform
//! is done. What a killed Terraform leaves behind ends by itself after `ttl`, and so does the token of a run that fails: Terraform
//! (1.11) closes nothing that something that failed depended on.

mod registration_key;

pub(crate) use registration_key::RegistrationKeyOf;

use std::time::{Duration, SystemTime};

use lifeboat_api::validate::{TTL_MAX, TTL_MIN, parse_duration};
use lifeboat_api::{NewToken, RenewTokenRequest, Role, Token, TokenCreate};
use serde::{Deserialize, Serialize};
use tf_provider_sdk::{
    Attribute, Context, Diagnostic, Diagnostics, EphemeralOpened, EphemeralRenewed, EphemeralResource, Object, Result,
    Schema, Type, async_trait, validate,
};

use crate::link::Link;
use crate::wording::{Rename, failed, judged, sentence};

/// A set's elements have no address.
const RENAME: Rename = |field| if field.starts_with("roles[") { "roles".to_owned() } else { field.to_owned() };

/// What Terraform keeps, in memory only, until the token is revoked: enough to name it, not to use it.
#[derive(Debug, Serialize, Deserialize)]
struct Kept {
    id: String,
    name: String,
    generation: u64,
    ttl: String,
}

impl Kept {
    fn to_bytes(&self) -> Result<Vec<u8>> {
        serde_json::to_vec(self).map_err(|error| Diagnostics::error("The token can't be remembered", error.to_string()))
    }

    fn from_bytes(bytes: &[u8]) -> Result<Self> {
        serde_json::from_slice(bytes).map_err(|error| {
            Diagnostics::error("The token isn't remembered", format!("{error}; it ends by itself after its `ttl`."))
        })
    }

    /// When half of its life is over: time enough for a second try.
    fn renew_at(&self) -> Option<SystemTime> {
        SystemTime::now().checked_add(parse_duration(&self.ttl).ok()? / 2)
    }
}

#[derive(Debug)]
pub(crate) struct TokenOf;

#[async_trait]
impl EphemeralResource<Link> for TokenOf {
    fn type_name(&self) -> &str {
        "lifeboat_token"
    }

    fn schema(&self) -> Schema {
        let duration = validate::matches("a duration between 1m and 3650d, such as 30m or 2h", |text| {
            parse_duration(text).is_ok_and(|ttl: Duration| (TTL_MIN..=TTL_MAX).contains(&ttl))
        });
        let roles = validate::each(validate::one_of(Role::ALL.map(Role::as_str)));
        Schema::new()
            .description(
                "A token of the API for the time of one run: made when Terraform opens it, renewed while Terraform needs it, \
                 revoked when Terraform is done, and stored in neither plan nor state. Hand it to another provider, a provisioner \
                 or a write-only argument. The provider's own token needs the role `security_administrator` for it.",
            )
            .attribute(Attribute::set("roles", Type::String).required().validate(validate::size(1, 4)).validate(roles).description(
                "What it may do: `reader`, `operator` (declares and changes), `recovery` (fails over and back, drills), \
                 `security_administrator` (vaults, keys, tokens). Each of them may read.",
            ))
            .attribute(
                Attribute::string("name")
                    .default("terraform")
                    .validate(validate::length(1, 64))
                    .description("What it is for, as the list of tokens and the events show it."),
            )
            .attribute(Attribute::string("ttl").default("1h").validate(duration).description(
                "How long it lives without being renewed, `1m` to `3650d`. A run that fails or is killed doesn't revoke its token: it ends \
                 then.",
            ))
            .attribute(Attribute::string("vault_id").optional().description(
                "The vault that keeps it; it is valid at every gateway of that vault. The only vault of the gateway when left out.",
            ))
            .attribute(Attribute::id().description("The token's id, which is no secret."))
            .attribute(
                Attribute::string("token")
                    .computed()
                    .sensitive()
                    .description("The token itself, for `LIFEBOAT_TOKEN` or `Authorization: Bearer`."),
            )
            .attribute(Attribute::string("expires").computed().description("When it ends unless it is renewed (RFC 3339)."))
    }

    async fn open(&self, link: &Link, _: &Context, mut config: Object) -> Result<EphemeralOpened> {
        let api = link.api()?;
        let name: String = config.get("name")?;
        let doing = format!("make the token {name}");
        let wanted = request(&config)?;
        judged(&doing, &wanted, RENAME)?;
        // Not to be stopped half-way: a token that was made has to be known, or nobody revokes it.
        let NewToken { token, secret } =
            api.create_token(&wanted).await.map_err(|error| failed(&doing, &error, RENAME))?;
        let kept =
            Kept { id: token.id.to_string(), name, generation: token.generation, ttl: wanted.ttl.unwrap_or_default() };
        config.set("id", &kept.id);
        config.set("token", secret.expose());
        config.set("expires", token.status.expires.map(|time| time.to_string()));
        Ok(EphemeralOpened { result: config, renew_at: kept.renew_at(), private: kept.to_bytes()? })
    }

    async fn renew(&self, link: &Link, _: &Context, private: Vec<u8>) -> Result<EphemeralRenewed> {
        let kept = Kept::from_bytes(&private)?;
        let wanted = RenewTokenRequest { ttl: kept.ttl.clone() };
        let renewed = link.api()?.renew_token(&kept.id, &wanted).await;
        renewed.map_err(|error| failed(&format!("renew the token {} ({})", kept.name, kept.id), &error, RENAME))?;
        Ok(EphemeralRenewed { renew_at: kept.renew_at(), private })
    }

    async fn close(&self, link: &Link, _: &Context, private: Vec<u8>) -> Result<()> {
        let kept = Kept::from_bytes(&private)?;
        link.api()?.delete::<Token>(&kept.id, kept.generation).await.map_err(|error| {
            let detail = format!(
                "{} It ends by itself {} after it was made or renewed; end it now with: lifeboat token delete {}",
                sentence(&error.to_string()),
                kept.ttl,
                kept.id
            );
            Diagnostic::error(format!("Cannot revoke the token {}", kept.name), detail).into()
        })
    }
}

/// The request that a configuration describes.
fn request(config: &Object) -> Result<TokenCreate> {
    let words: Vec<String> = config.get("roles")?;
    let no_role = |error: String| Diagnostic::error("No such role", sentence(&error)).at("roles");
    let roles =
        words.iter().map(|word| word.parse::<Role>().map_err(no_role)).collect::<std::result::Result<_, _>>()?;
    let no_vault = |id: &str| {
        let detail = format!("{id:?} is no id of a vault: expected `vlt-` and 32 hexadecimal digits.");
        Diagnostic::error("No such vault", detail).at("vault_id")
    };
    let vault_id = match config.get::<Option<String>>("vault_id")? {
        Some(id) => Some(id.parse().map_err(|_| no_vault(&id))?),
        None => None,
    };
    Ok(TokenCreate { vault_id, name: config.get("name")?, roles, ttl: Some(config.get("ttl")?) })
}
