//! A gateway that has no vault yet: it becomes known at one that has, by a registration key.
//!
//! ```text
//! DIR/registering.pem   the key pair, from before the first request until the answer is kept: a lost answer is asked for again
//! ```
//! Nothing that opens the vault comes back, and no certificate: one of a gateway says that its holder has the vault's key, which
//! this one may not have yet. The key pair proves who asks again and is of no use afterwards.

use std::fs;
use std::path::Path;

use lifeboat_api::{Client, GatewayEnrolRequest, GatewayEnrolment, Secret};
use lifeboat_model::Timestamp;
use std::sync::Arc;

use crate::RegistrationKeyText;
use crate::authority::der;
use crate::machine::{MachineError, pair_in, request_for};
use crate::name::server_name;
use crate::pinned::{self, Pinned};

const REGISTERING: &str = "registering.pem";

/// What a gateway says of itself.
#[derive(Clone, Copy, Debug)]
pub struct Newcomer<'a> {
    /// The name that its process was started with.
    pub name: &'a str,
    /// The name of its site, if it was started with one.
    pub site: Option<&'a str>,
    /// Identity of its process.
    pub process_id: &'a str,
    /// Version of the process.
    pub version: &'a str,
    /// `address:port` of its API, once it answers.
    pub address: Option<&'a str>,
}

/// Enrols a gateway with a registration key at the first of these endpoints that answers. `directory` has to be there; it is the
/// gateway's state directory.
///
/// Safe to repeat with the same key until [`forget_newcomer`]: it then gives the same answer.
///
/// # Errors
/// See [`MachineError`]. A gateway that isn't one of the key's vault is refused before anything is sent to it.
pub async fn enrol_gateway(
    directory: &Path,
    key: &str,
    endpoints: &[String],
    newcomer: Newcomer<'_>,
) -> Result<GatewayEnrolment, MachineError> {
    let key = key.trim();
    let parts = RegistrationKeyText::parse(key).ok_or(MachineError::Key)?;
    let pair = pair_in(directory, REGISTERING)?;
    let tls = pinned::config(Arc::new(Pinned::new(parts.authority)))?;
    let client = Client::for_machine(endpoints, tls, &server_name(parts.vault))?;
    let asked = GatewayEnrolRequest {
        key: Secret::new(key.to_owned()),
        csr: request_for(&pair)?,
        name: newcomer.name.to_owned(),
        site: newcomer.site.map(str::to_owned),
        process_id: newcomer.process_id.to_owned(),
        version: newcomer.version.to_owned(),
        address: newcomer.address.map(str::to_owned),
        time: Timestamp::now(),
    };
    let enrolment = client.enrol_gateway(&asked).await?;
    let wrong = |what: &str| Err(MachineError::Answer(format!("{what} isn't the one that was asked for")));
    if enrolment.vault.id != parts.vault {
        return wrong("the vault in it");
    }
    if enrolment.name != newcomer.name {
        return wrong("the name in it");
    }
    let authority = der(&enrolment.authority).map_err(MachineError::Answer)?;
    if pinned::public_key(&authority) != Some(parts.authority) {
        return wrong("the authority");
    }
    Ok(enrolment)
}

/// The answer is kept: the key pair has done its part.
pub fn forget_newcomer(directory: &Path) {
    // What stays behind is a key that opens nothing.
    let _ = fs::remove_file(directory.join(REGISTERING));
}
