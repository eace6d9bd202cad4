//! How the storage of a vault is reached, as it is given on the command line.
//!
//! Secrets come from a file or from the environment. `--credential NAME=VALUE` exists for values that are no secret, such
//! as the name of an account: arguments show in lists of processes.

use std::collections::BTreeMap;
use std::path::PathBuf;

use clap::Args;
use lifeboat_api::{Secret, VaultCreate};

use crate::connect::environment;
use crate::failure::{Failure, Result};

/// A longer file is a mistake.
const FILE_BYTES_MAX: u64 = 65_536;

/// Endpoint, region, credentials, proxy.
#[derive(Args, Clone, Debug, Default)]
#[command(next_help_heading = "Storage over the network (credentials: otherwise those of the gateway's environment)")]
pub(crate) struct StorageArgs {
    /// Address of the storage service, where it isn't the provider's own: https://host[:port]
    #[arg(long, value_name = "URL")]
    storage_endpoint: Option<String>,
    /// Region of an S3 bucket
    #[arg(long, value_name = "REGION")]
    region: Option<String>,
    /// A credential such as AZURE_STORAGE_ACCOUNT_NAME=acme; NAME alone takes its value from this environment. Arguments
    /// show in lists of processes: give secrets by NAME, or in a file
    #[arg(long = "credential", value_name = "NAME[=VALUE]")]
    credentials: Vec<String>,
    /// File with credentials, one NAME=VALUE a line
    #[arg(long, value_name = "FILE")]
    credentials_file: Option<PathBuf>,
    /// Proxy of the gateway to the storage: http://host:port. With a password: set LIFEBOAT_STORAGE_PROXY instead
    #[arg(long, value_name = "URL")]
    proxy: Option<String>,
}

impl StorageArgs {
    /// Nothing but credentials from a file.
    pub(crate) fn of_file(credentials_file: Option<PathBuf>) -> Self {
        Self { credentials_file, ..Self::default() }
    }

    /// Adds what was given to a request.
    ///
    /// # Errors
    /// A credential has no value, or the file can't be read.
    pub(crate) fn put_into(self, wanted: &mut VaultCreate) -> Result<()> {
        let credentials = self.gather(environment)?;
        wanted.storage_endpoint = self.storage_endpoint;
        wanted.storage_region = self.region;
        wanted.storage_credentials = (!credentials.is_empty()).then_some(credentials);
        wanted.storage_proxy = self.proxy.or_else(|| environment("LIFEBOAT_STORAGE_PROXY")).map(Secret::new);
        Ok(())
    }

    /// The credentials.
    ///
    /// # Errors
    /// One has no value, or the file can't be read.
    pub(crate) fn gather(&self, variable: impl Fn(&str) -> Option<String>) -> Result<BTreeMap<String, Secret>> {
        let mut found = BTreeMap::new();
        if let Some(path) = &self.credentials_file {
            let unreadable = |error| Failure::unreadable("the file with credentials", path, &error);
            if std::fs::metadata(path).map_err(unreadable)?.len() > FILE_BYTES_MAX {
                return Err(Failure::usage(format!("{} is too large for a file with credentials", path.display())));
            }
            let text = std::fs::read_to_string(path).map_err(unreadable)?;
            for (number, line) in text.lines().enumerate() {
                let line = line.trim();
                if line.is_empty() || line.starts_with('#') {
                    continue;
                }
                let Some((name, value)) = line.split_once('=') else {
                    // The line may be the secret itself.
                    let place = format!("{}, line {}", path.display(), number + 1);
                    return Err(Failure::usage(format!("{place}: expected NAME=VALUE")));
                };
                let value = value.trim().trim_matches('"');
                found.insert(name.trim().trim_start_matches("export ").to_owned(), Secret::new(value.to_owned()));
            }
        }
        for given in &self.credentials {
            let (name, value) = match given.split_once('=') {
                Some((name, value)) => (name, value.to_owned()),
                None => {
                    let unset = || Failure::usage(format!("--credential {given}: there is no such variable here"));
                    (given.as_str(), variable(given).ok_or_else(unset)?)
                }
            };
            found.insert(name.to_owned(), Secret::new(value));
        }
        Ok(found)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::failure::Exit;

    #[test]
    fn credentials_come_from_a_file_the_environment_and_arguments() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("credentials");
        std::fs::write(&path, "# ours\nexport AWS_ACCESS_KEY_ID=AK\nAWS_SESSION_TOKEN=\"a=b\"\n\n").expect("written");
        let args = StorageArgs {
            credentials: vec!["AWS_SECRET_ACCESS_KEY".into(), "X=1=2".into()],
            credentials_file: Some(path.clone()),
            ..StorageArgs::default()
        };
        let found = args.gather(|name| (name == "AWS_SECRET_ACCESS_KEY").then(|| "hunter2".into())).expect("found");
        let shown: Vec<_> = found.iter().map(|(name, value)| (name.as_str(), value.expose())).collect();
        let wanted = [
            ("AWS_ACCESS_KEY_ID", "AK"),
            ("AWS_SECRET_ACCESS_KEY", "hunter2"),
            ("AWS_SESSION_TOKEN", "a=b"),
            ("X", "1=2"),
        ];
        assert_eq!(shown, wanted);
        assert!(!format!("{found:?}").contains("hunter2"));
        assert_eq!(args.gather(|_| None).expect_err("unset").exit(), Exit::Usage);
        std::fs::write(&path, "hunter2").expect("written");
        let failure = args.gather(|_| None).expect_err("no name");
        assert!(failure.to_string().contains("line 1") && !failure.to_string().contains("hunter2"), "{failure}");
    }
}
