//! The way to the gateways: one API client, or the reason why there is none yet.
//!
//! During plan, parts of the provider's configuration may be unknown (the address of a machine that is to be created).
//! The link then exists, and says so when it is used. It also remembers what this process has planned to destroy, so that
//! a plan warns only of what is left in the way, and what it has planned to make, so that a plan isn't refused for the lack of it.

use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError};

use lifeboat_api::Client;
use tf_provider_sdk::{Diagnostics, Result};

use crate::claims::Claims;
use crate::mentions::Mentions;

/// What every operation gets.
#[derive(Debug)]
pub struct Link {
    client: std::result::Result<Client, Vec<String>>,
    /// Whether the configuration lists more than one gateway.
    several: bool,
    /// Ids of everything that a plan in this process destroys.
    doomed: Mutex<BTreeSet<String>>,
    /// What the plans in this process say who has.
    pub(crate) claims: Claims,
    /// What the objects that plans in this process keep or make name.
    pub(crate) mentions: Mentions,
    /// Network mappings that plans in this process create: source, and target where it is known.
    coming: Mutex<Vec<(String, Option<String>)>>,
}

impl Link {
    pub(crate) fn new(client: Client, endpoints: usize) -> Self {
        Self {
            client: Ok(client),
            several: endpoints > 1,
            doomed: Mutex::default(),
            claims: Claims::default(),
            mentions: Mentions::default(),
            coming: Mutex::default(),
        }
    }

    /// A link that waits for these arguments of the provider block to be known.
    pub(crate) fn waiting_for(arguments: Vec<String>) -> Self {
        Self {
            client: Err(arguments),
            several: false,
            doomed: Mutex::default(),
            claims: Claims::default(),
            mentions: Mentions::default(),
            coming: Mutex::default(),
        }
    }

    /// The client.
    ///
    /// # Errors
    /// The provider's configuration isn't known yet.
    pub(crate) fn api(&self) -> Result<&Client> {
        self.client.as_ref().map_err(|arguments| {
            Diagnostics::error(
                "Provider configuration not known yet",
                format!(
                    "{} of the provider \"lifeboat\" will be known after apply only, and this needs a gateway now. Apply what \
                     gives the value first (terraform apply -target=…), or set the environment variables LIFEBOAT_ENDPOINT, \
                     LIFEBOAT_TOKEN_FILE and LIFEBOAT_CA_CERT.",
                    arguments.join(" and ")
                ),
            )
        })
    }

    /// Whether more than one gateway is configured, so that one that doesn't know the vault may be answering.
    pub(crate) const fn has_several_gateways(&self) -> bool {
        self.several
    }

    /// Remembers that a plan maps this network to that one, which may not be known yet.
    pub(crate) fn expect_mapping(&self, source: String, target: Option<String>) {
        self.coming.lock().unwrap_or_else(PoisonError::into_inner).push((source, target));
    }

    /// The networks that plans in this process map this one to; `None` for one that isn't known yet.
    pub(crate) fn expected_targets(&self, source: &str) -> Vec<Option<String>> {
        let coming = self.coming.lock().unwrap_or_else(PoisonError::into_inner);
        coming.iter().filter(|(from, _)| from == source).map(|(_, target)| target.clone()).collect()
    }

    /// Remembers that a plan destroys this object.
    pub(crate) fn doom(&self, id: &str) {
        self.doomed.lock().unwrap_or_else(PoisonError::into_inner).insert(id.to_owned());
    }

    /// Whether a plan in this process destroys this object.
    pub(crate) fn is_doomed(&self, id: &str) -> bool {
        self.doomed.lock().unwrap_or_else(PoisonError::into_inner).contains(id)
    }
}
