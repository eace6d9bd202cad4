//! Which gateway to ask, and with what right.
//!
//! ```text
//! --state DIR                    the gateway that runs on this machine with that state directory
//! --endpoint --token-file --ca-cert    each over LIFEBOAT_ENDPOINT, LIFEBOAT_TOKEN(_FILE), LIFEBOAT_CA_CERT
//! LIFEBOAT_STATE                 when nothing names an endpoint
//! ```
//! Lists are separated by commas, as in the environment. Tokens are read here and go into requests; nothing prints them.

use std::path::{Path, PathBuf};

use clap::Args;
use lifeboat_api::{Client, ClientConfig, ClientError, ClientErrorKind};

use crate::failure::{Exit, Failure, Result};

/// Where the gateway is.
#[derive(Args, Clone, Debug, Default)]
#[command(next_help_heading = "Connection")]
pub(crate) struct ConnectionArgs {
    /// Gateways, tried in order: https://HOST:PORT, separated by commas [env: LIFEBOAT_ENDPOINT]
    #[arg(long, global = true, value_name = "URL,…")]
    endpoint: Option<String>,
    /// File of the token, or one for each gateway [env: LIFEBOAT_TOKEN_FILE, or LIFEBOAT_TOKEN for the token itself]
    #[arg(long, global = true, value_name = "FILE,…")]
    token_file: Option<String>,
    /// Certificates of the gateways' authorities, PEM [env: LIFEBOAT_CA_CERT]
    #[arg(long, global = true, value_name = "FILE,…")]
    ca_cert: Option<String>,
    /// Instead: the state directory of the gateway on this machine [env: LIFEBOAT_STATE]
    #[arg(long, global = true, value_name = "DIR")]
    state: Option<PathBuf>,
}

/// A variable of this process's environment; one that is set to nothing isn't set.
pub(crate) fn environment(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|text| !text.is_empty())
}

impl ConnectionArgs {
    /// The gateway on this machine with that state directory.
    pub(crate) fn of_state(state: &Path) -> Self {
        Self { state: Some(state.to_owned()), ..Self::default() }
    }

    /// The state directory that is named, by the flag or in the environment.
    pub(crate) fn state(&self) -> Option<PathBuf> {
        self.state.clone().or_else(|| environment("LIFEBOAT_STATE").map(PathBuf::from))
    }

    /// The gateways that are named, by the flag alone.
    pub(crate) fn endpoint(&self) -> Option<String> {
        self.endpoint.clone()
    }

    /// A client of the gateway that the arguments and the environment name.
    ///
    /// # Errors
    /// `Usage` when they make no sense, `NotFound` for a file, `Unreachable` when no gateway runs on the state directory.
    pub(crate) fn client(&self) -> Result<Client> {
        Ok(Client::new(&self.config(environment)?)?)
    }

    fn config(&self, variable: impl Fn(&str) -> Option<String>) -> Result<ClientConfig> {
        let named = self.endpoint.is_some() || self.token_file.is_some() || self.ca_cert.is_some();
        if let Some(state) = &self.state {
            if named {
                return Err(Failure::usage(
                    "--state says where the gateway is: leave out --endpoint, --token-file and --ca-cert",
                ));
            }
            return local(state);
        }
        if !named
            && variable("LIFEBOAT_ENDPOINT").is_none()
            && let Some(state) = variable("LIFEBOAT_STATE")
        {
            return local(Path::new(&state));
        }
        let config = ClientConfig::from_variables(|name| match name {
            "LIFEBOAT_ENDPOINT" => self.endpoint.clone().or_else(|| variable(name)),
            "LIFEBOAT_TOKEN" if self.token_file.is_some() => None,
            "LIFEBOAT_TOKEN_FILE" => self.token_file.clone().or_else(|| variable(name)),
            "LIFEBOAT_CA_CERT" => self.ca_cert.clone().or_else(|| variable(name)),
            _ => variable(name),
        })?;
        if config.endpoints.is_empty() {
            return Err(Failure::usage(
                "no gateway is named: set LIFEBOAT_ENDPOINT or give --endpoint https://HOST:PORT, or --state DIR for the \
                 gateway on this machine",
            ));
        }
        Ok(config)
    }
}

/// The gateway that runs with this state directory.
///
/// # Errors
/// `Unreachable` when none does; its files can't be read.
pub(crate) fn local(state: &Path) -> Result<ClientConfig> {
    let file = state.join("management.address");
    let address = match std::fs::read_to_string(&file) {
        Ok(text) => text.trim().to_owned(),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            return Err(Failure::new(
                Exit::Unreachable,
                format!(
                    "no gateway runs with the state directory {}: start one with `lifeboat serve --state {0}`, or name \
                     another directory",
                    state.display()
                ),
            ));
        }
        Err(error) => return Err(Failure::unreadable("the gateway's address", &file, &error)),
    };
    let mut config = ClientConfig { endpoints: vec![endpoint(&address)], ..ClientConfig::default() };
    let readable = |error: ClientError| match error.kind() {
        // The files of a running gateway are there: who can't read them isn't allowed to.
        ClientErrorKind::Usage => Failure::new(Exit::Conflict, format!("{error}; run this as the gateway's user")),
        _ => error.into(),
    };
    config.add_token_file(state.join("admin.token")).map_err(readable)?;
    config.add_ca_file(state.join("ca.pem")).map_err(readable)?;
    Ok(config)
}

/// Where to ask a gateway that listens on `address`: one that listens everywhere answers on the loopback.
fn endpoint(address: &str) -> String {
    let reachable = match address.parse::<std::net::SocketAddr>() {
        Ok(socket) if socket.ip().is_unspecified() => {
            let host = if socket.is_ipv4() { "127.0.0.1" } else { "[::1]" };
            format!("{host}:{}", socket.port())
        }
        _ => address.to_owned(),
    };
    format!("https://{reachable}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn variables(pairs: &'static [(&str, &str)]) -> impl Fn(&str) -> Option<String> {
        |name| pairs.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned())
    }

    #[test]
    fn flags_come_before_the_environment() {
        let dir = tempfile::tempdir().expect("a directory");
        let token = dir.path().join("token");
        std::fs::write(&token, "from-the-flag\n").expect("written");
        let args = ConnectionArgs {
            endpoint: Some("https://flag:1,https://second:2".into()),
            token_file: Some(token.display().to_string()),
            ..ConnectionArgs::default()
        };
        let config = args
            .config(variables(&[
                ("LIFEBOAT_ENDPOINT", "https://variable:1"),
                ("LIFEBOAT_TOKEN", "from-the-environment"),
            ]))
            .expect("complete");
        assert_eq!(config.endpoints, ["https://flag:1", "https://second:2"]);
        assert_eq!(config.tokens.len(), 1);
        assert_eq!(config.tokens[0].expose(), "from-the-flag");
    }

    #[test]
    fn nothing_named_is_wrong_usage_that_says_how_to_name_it() {
        let failure = ConnectionArgs::default().config(|_| None).expect_err("nothing is named");
        assert_eq!(failure.exit(), Exit::Usage);
        assert!(failure.to_string().contains("LIFEBOAT_ENDPOINT"), "{failure}");
    }

    #[test]
    fn a_state_directory_names_endpoint_token_and_authority() {
        let dir = tempfile::tempdir().expect("a directory");
        for (name, text) in [("management.address", "0.0.0.0:8443\n"), ("admin.token", "secret\n"), ("ca.pem", "PEM")] {
            std::fs::write(dir.path().join(name), text).expect("written");
        }
        let args = ConnectionArgs { state: Some(dir.path().to_owned()), ..ConnectionArgs::default() };
        let config = args.config(variables(&[("LIFEBOAT_ENDPOINT", "https://elsewhere")])).expect("complete");
        assert_eq!(config.endpoints, ["https://127.0.0.1:8443"]);
        assert_eq!(config.tokens[0].expose(), "secret");
        assert_eq!(config.ca_certificates, ["PEM"]);
        assert_eq!(endpoint("[::]:443"), "https://[::1]:443");
        assert_eq!(endpoint("10.0.0.1:443"), "https://10.0.0.1:443");
    }

    #[test]
    fn a_state_directory_without_a_gateway_is_unreachable() {
        let dir = tempfile::tempdir().expect("a directory");
        let args = ConnectionArgs { state: Some(dir.path().to_owned()), ..ConnectionArgs::default() };
        let failure = args.config(|_| None).expect_err("no gateway");
        assert_eq!(failure.exit(), Exit::Unreachable);
        let both = ConnectionArgs { endpoint: Some("https://x".into()), ..args };
        assert_eq!(both.config(|_| None).expect_err("both").exit(), Exit::Usage);
    }
}
