//! The `provider` block: which gateways, and with what to be let in.
//!
//! Every argument can come from the environment that the `lifeboat` command reads; the block comes first. A value that
//! is unknown at plan is waited for, not refused. Tokens and keys reach no log and no message.

use lifeboat_api::{Client, ClientConfig, Secret};
use tf_provider_sdk::{
    Action, Attribute, Context, DataSource, Diagnostic, EphemeralResource, Function, Object, Provider, Resource,
    Result, Schema, Type, async_trait, validate,
};

use crate::actions::{self, VerbAction};
use crate::declared::Declared;
use crate::link::Link;
use crate::wording::sentence;
use crate::{data_sources, ephemeral, functions, resources};

/// The provider `registry.terraform.io/lifeboat-dr/lifeboat`.
#[derive(Debug, Clone, Copy)]
pub struct LifeboatProvider;

const DESCRIPTION: &str = "Declares disaster recovery with Lifeboat: vaults, sites, gateways, replication policies, consistency \
groups and protected volumes, through the API of any gateway.

Failover and failback are not declared but done, with the `lifeboat` command or with actions (Terraform 1.14 and later). They \
change no configuration: the plan after a failover is empty, as long as `endpoints` lists a gateway that is still there.";

fn is_https(url: &str) -> bool {
    url.strip_prefix("https://").is_some_and(|rest| !rest.is_empty() && !rest.contains([',', ' ']))
}

#[async_trait]
impl Provider for LifeboatProvider {
    type Client = Link;

    fn address(&self) -> &str {
        "registry.terraform.io/lifeboat-dr/lifeboat"
    }

    fn version(&self) -> &str {
        env!("CARGO_PKG_VERSION")
    }

    fn schema(&self) -> Schema {
        let url = || {
            validate::matches("an address such as https://gateway.example or https://gateway.example:8443", is_https)
        };
        Schema::new()
            .description(DESCRIPTION)
            .attribute(Attribute::string("endpoint").optional().validate(url()).description(
                "Address of the gateway, `https://HOST[:PORT]`. Use `endpoints` for more than one. Environment: \
                 `LIFEBOAT_ENDPOINT`.",
            ))
            .attribute(
                Attribute::list("endpoints", Type::String)
                    .optional()
                    .validate(validate::size(1, 16))
                    .validate(validate::each(url()))
                    .description(
                        "Addresses of gateways, tried in order: list those of every site, and one configuration works before \
                         and after the loss of one. Environment: `LIFEBOAT_ENDPOINT`, separated by commas.",
                    ),
            )
            .attribute(Attribute::string("token").optional().sensitive().description(
                "A token with the roles that the configuration needs (`lifeboat token create`), which is valid at every gateway of its \
                 vault, or the administrator's token of the gateway; or tokens for all `endpoints` in the same order, separated by commas. \
                 Environment: `LIFEBOAT_TOKEN`, or `LIFEBOAT_TOKEN_FILE` with the paths of files that hold them.",
            ))
            .attribute(Attribute::string("ca_certificate").optional().description(
                "PEM certificates of the authorities that sign the gateways' certificates: the `ca.pem` of each gateway's \
                 state directory.",
            ))
            .attribute(Attribute::string("ca_certificate_file").optional().description(
                "File with these certificates, or several files, separated by commas. Environment: `LIFEBOAT_CA_CERT`.",
            ))
            .attribute(
                Attribute::string("client_certificate")
                    .optional()
                    .description("PEM certificate to show to gateways that ask for one."),
            )
            .attribute(
                Attribute::string("client_key")
                    .optional()
                    .sensitive()
                    .description("PEM private key of `client_certificate`."),
            )
            .rule(validate::conflicts(["endpoint", "endpoints"]))
            .rule(validate::conflicts(["ca_certificate", "ca_certificate_file"]))
            .rule(validate::all_or_none(["client_certificate", "client_key"]))
    }

    async fn configure(&self, _: &Context, config: &Object) -> Result<Link> {
        let unknown: Vec<String> =
            config.iter().filter(|(_, value)| !value.is_wholly_known()).map(|(name, _)| format!("`{name}`")).collect();
        if !unknown.is_empty() {
            return Ok(Link::waiting_for(unknown));
        }
        let settings = client_config(config, |name| std::env::var(name).ok().filter(|text| !text.is_empty()))?;
        let client = Client::new(&settings).map_err(|error| misconfigured(&error))?;
        Ok(Link::new(client, settings.endpoints.len()))
    }

    fn resources(&self) -> Vec<Box<dyn Resource<Link>>> {
        vec![
            Declared::<resources::VaultKind>::boxed(),
            Declared::<resources::SiteKind>::boxed(),
            Declared::<resources::GatewayKind>::boxed(),
            Declared::<resources::PolicyKind>::boxed(),
            Declared::<resources::GroupKind>::boxed(),
            Declared::<resources::VolumeKind>::boxed(),
            Declared::<resources::NetworkKind>::boxed(),
            Declared::<resources::NetworkMappingKind>::boxed(),
            Declared::<resources::MachineKind>::boxed(),
            Declared::<resources::RecoveryPlanKind>::boxed(),
            resources::DrillResource::boxed(),
        ]
    }

    fn data_sources(&self) -> Vec<Box<dyn DataSource<Link>>> {
        vec![
            Box::new(data_sources::RecoveryPoints),
            Box::new(data_sources::CleanPoint),
            Box::new(data_sources::ProtectionStatusOf),
            Box::new(data_sources::VaultOf),
            Box::new(data_sources::SiteOf),
            Box::new(data_sources::Gateways),
            Box::new(data_sources::Jobs),
            Box::new(data_sources::Feasibility),
            Box::new(data_sources::RecoveryPlanOf),
        ]
    }

    fn functions(&self) -> Vec<Box<dyn Function>> {
        vec![Box::new(functions::RequiredBandwidth), Box::new(functions::ExpectedRpo), Box::new(functions::VaultGib)]
    }

    fn ephemeral_resources(&self) -> Vec<Box<dyn EphemeralResource<Link>>> {
        vec![Box::new(ephemeral::TokenOf), Box::new(ephemeral::RegistrationKeyOf)]
    }

    fn actions(&self) -> Vec<Box<dyn Action<Link>>> {
        vec![
            VerbAction::<actions::Failover>::boxed(),
            VerbAction::<actions::ChangePoint>::boxed(),
            VerbAction::<actions::Commit>::boxed(),
            VerbAction::<actions::Failback>::boxed(),
            VerbAction::<actions::Reprotect>::boxed(),
            VerbAction::<actions::Resync>::boxed(),
            VerbAction::<actions::TakePoint>::boxed(),
        ]
    }
}

fn misconfigured(error: &lifeboat_api::ClientError) -> Diagnostic {
    Diagnostic::error("The provider can't be configured", sentence(&error.to_string()))
}

/// The client's configuration: the block where it says something, else the environment.
fn client_config(config: &Object, variable: impl Fn(&str) -> Option<String>) -> Result<ClientConfig> {
    let endpoints: Vec<String> = match config.get::<Option<String>>("endpoint")? {
        Some(one) => vec![one],
        None => config.get::<Option<Vec<String>>>("endpoints")?.unwrap_or_default(),
    };
    let token: Option<String> = config.get("token")?;
    let certificate: Option<String> = config.get("ca_certificate")?;
    let file: Option<String> = config.get("ca_certificate_file")?;
    // A variable that the block overrides isn't looked at: what it names need not exist.
    let overridden = |name: &str| match name {
        "LIFEBOAT_ENDPOINT" => !endpoints.is_empty(),
        "LIFEBOAT_TOKEN" | "LIFEBOAT_TOKEN_FILE" => token.is_some(),
        "LIFEBOAT_CA_CERT" => certificate.is_some() || file.is_some(),
        _ => false,
    };
    let mut settings = ClientConfig::from_variables(|name| variable(name).filter(|_| !overridden(name)))
        .map_err(|error| misconfigured(&error))?;
    if !endpoints.is_empty() {
        settings.endpoints = endpoints;
    }
    if let Some(token) = token {
        settings.tokens = list(&token).map(Secret::new).collect();
    }
    settings.ca_certificates.extend(certificate);
    for path in file.iter().flat_map(|paths| list(paths)) {
        settings.add_ca_file(&path).map_err(|error| misconfigured(&error).at("ca_certificate_file"))?;
    }
    if let (Some(certificate), Some(key)) = (config.get("client_certificate")?, config.get("client_key")?) {
        settings.client_identity = Some((certificate, Secret::new(key)));
    }
    for (missing, attribute, text) in [
        (settings.endpoints.is_empty(), "endpoint", "No gateway: set `endpoint` or `endpoints`, or LIFEBOAT_ENDPOINT."),
        (
            settings.tokens.is_empty(),
            "token",
            "No token: set LIFEBOAT_TOKEN_FILE to the admin.token of the gateway's state directory, or LIFEBOAT_TOKEN, or \
             `token`.",
        ),
        (
            settings.ca_certificates.is_empty(),
            "ca_certificate_file",
            "No authority: set `ca_certificate_file` or LIFEBOAT_CA_CERT to the ca.pem of the gateway's state directory, or \
             `ca_certificate` to its content.",
        ),
    ] {
        if missing {
            return Err(Diagnostic::error("The provider isn't configured", text).at(attribute).into());
        }
    }
    Ok(settings)
}

fn list(text: &str) -> impl Iterator<Item = String> {
    text.split(',').map(str::trim).filter(|part| !part.is_empty()).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;
    use tf_provider_sdk::Value;

    fn block(object: Object) -> Object {
        LifeboatProvider.schema().conform(object).unwrap()
    }

    fn environment(name: &str) -> Option<String> {
        match name {
            "LIFEBOAT_ENDPOINT" => Some("https://a:1,https://b:2".to_owned()),
            "LIFEBOAT_TOKEN" => Some("one,two".to_owned()),
            // Must not be read when it isn't needed.
            "LIFEBOAT_CA_CERT" => Some("/nonexistent/ca.pem".to_owned()),
            _ => None,
        }
    }

    #[test]
    fn the_block_comes_before_the_environment() {
        let config = block(Object::new().with("ca_certificate", "PEM"));
        let settings = client_config(&config, environment).unwrap();
        assert_eq!(settings.endpoints, ["https://a:1", "https://b:2"]);
        assert_eq!(settings.tokens.len(), 2);

        let config = block(config.with("endpoint", "https://c").with("token", "three"));
        let settings = client_config(&config, environment).unwrap();
        assert_eq!(settings.endpoints, ["https://c"]);
        assert_eq!(settings.tokens.first().map(Secret::expose), Some("three"));
        assert_eq!(settings.ca_certificates, ["PEM"]);
    }

    #[test]
    fn what_is_missing_or_unreadable_is_named() {
        let nothing = client_config(&block(Object::new()), |_| None).unwrap_err().to_string();
        assert!(nothing.contains("(endpoint)") && nothing.contains("LIFEBOAT_ENDPOINT"), "{nothing}");
        let unreadable = client_config(&block(Object::new()), environment).unwrap_err().to_string();
        assert!(unreadable.contains("/nonexistent/ca.pem"), "{unreadable}");
        let config = block(Object::new().with("ca_certificate_file", "/nonexistent/mine.pem"));
        let unreadable = client_config(&config, environment).unwrap_err().to_string();
        assert!(unreadable.contains("(ca_certificate_file)"), "{unreadable}");
    }

    #[tokio::test]
    async fn unknown_values_are_waited_for() {
        let config = block(Object::new().with("endpoint", Value::Unknown));
        let link = LifeboatProvider.configure(&Context::for_test(), &config).await.unwrap();
        let said = link.api().unwrap_err().to_string();
        assert!(said.contains("`endpoint`"), "{said}");
    }

    #[test]
    fn addresses_are_https() {
        assert!(is_https("https://gateway.example:8443"));
        for url in ["http://gateway", "gateway:443", "https://", "https://a,https://b"] {
            assert!(!is_https(url), "{url}");
        }
    }
}
