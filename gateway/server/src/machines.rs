//! Which machines are let in: what a gateway knows of authorities and revocations, for TLS and for each request.
//!
//! An agent is let in while its document is in the gateway's copy of the catalog and its certificate's time isn't over. So a
//! revocation holds at once where it was asked for, elsewhere with the next copy, and a gateway that never read its vault lets
//! nobody in. That is asked when hands are shaken, and again by whoever serves something on a connection that lives on:
//! [`admit`].
//!
//! Machines ask for the name of their vault when TLS begins, and are served on the port of the API beside people, who ask for
//! another name: no browser is ever asked for a certificate.

use std::collections::HashSet;
use std::fmt;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use lifeboat_api::{Principal, PrincipalKind};
use lifeboat_identity::{Authority, Demand, MachineKind, Peer, Trust, vault_of};
use lifeboat_model::{AgentId, Timestamp, VaultId};

use crate::context::Context;
use crate::records::kind;
use crate::tls::Identity;

/// Time between two looks at who is connected.
const LOOK: Duration = Duration::from_secs(5);

/// Agents that were revoked here: they are refused although the copy of the catalog can't be renewed.
#[derive(Debug, Default)]
pub(crate) struct Revoked(Mutex<HashSet<AgentId>>);

impl Revoked {
    pub(crate) fn add(&self, id: AgentId) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(id);
    }

    fn has(&self, id: &str) -> bool {
        let revoked = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        id.parse().is_ok_and(|id| revoked.contains(&id))
    }
}

/// Why a machine isn't let in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refused {
    /// Its certificate isn't valid yet, or not any more.
    Time,
    /// Nobody knows it: it was revoked, or enrolled at another gateway just now.
    Unknown,
    /// Whether it was revoked can't be said: its vault could not be read yet.
    Unsure,
    /// It is no agent.
    Kind,
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Time => "its certificate's time is over, or hasn't come by this gateway's clock",
            Self::Unknown => "it was revoked, or enrolled at another gateway just now",
            Self::Unsure => "this gateway hasn't been able to read its vault since it started",
            Self::Kind => "it is no agent",
        })
    }
}

/// The machine that showed this certificate, if it may come in now. Its authority was proven when hands were shaken.
pub(crate) fn admit(context: &Context, peer: &Peer, now: Timestamp) -> Result<Principal, Refused> {
    if now >= peer.not_after || now < peer.not_before {
        return Err(Refused::Time);
    }
    if peer.name.kind != MachineKind::Agent {
        return Err(Refused::Kind);
    }
    let vault = context.vaults.get(peer.name.vault).ok_or(Refused::Unknown)?;
    let snapshot = vault.snapshot();
    if !snapshot.is_read() {
        return Err(Refused::Unsure);
    }
    let id = &peer.name.id;
    match snapshot.get(kind::AGENTS, id) {
        Some(document) if !context.revoked.has(id) => {
            Ok(Principal { kind: PrincipalKind::Agent, id: Some(id.clone()), name: document.name.clone() })
        }
        _ => Err(Refused::Unknown),
    }
}

/// Waits until a machine that was let in may stay no longer.
pub(crate) async fn refused(context: &Context, peer: &Peer) -> Refused {
    loop {
        // A gateway that merely can't read its vault at the moment goes on with what it knew.
        if let Err(why) = admit_any(context, peer, Timestamp::now())
            && why != Refused::Unsure
        {
            return why;
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// An agent as [`admit`] lets it in, or another gateway of the vault: whoever has the vault's key can sign itself a certificate.
fn admit_any(context: &Context, peer: &Peer, now: Timestamp) -> Result<(), Refused> {
    if peer.name.kind == MachineKind::Agent {
        return admit(context, peer, now).map(drop);
    }
    // Its certificate was made for this line, and ends long after it: only who came with an old one is stopped.
    context.vaults.get(peer.name.vault).map(drop).ok_or(Refused::Unknown)
}

/// What TLS asks of a gateway.
#[derive(Debug)]
struct Known {
    context: Arc<Context>,
    /// Other gateways are let in too.
    gateways: bool,
}

impl Trust for Known {
    fn authority(&self, vault: VaultId) -> Option<Arc<Authority>> {
        self.context.vaults.get(vault)?.known_authority()
    }

    fn admit(&self, peer: &Peer, now: Timestamp) -> Result<(), String> {
        let admitted = match self.gateways {
            true => admit_any(&self.context, peer, now),
            false => admit(&self.context, peer, now).map(drop),
        };
        admitted.map_err(|refused| refused.to_string())
    }
}

/// TLS for machines, on a port of their own ([`Demand::Certificate`]) or on that of the API.
pub(crate) fn config(
    context: &Arc<Context>,
    demand: Demand,
    protocols: &[&[u8]],
) -> anyhow::Result<Arc<rustls::ServerConfig>> {
    tls(context, false, demand, protocols)
}

/// The same for agents and gateways.
pub(crate) fn config_for_all(
    context: &Arc<Context>,
    demand: Demand,
    protocols: &[&[u8]],
) -> anyhow::Result<Arc<rustls::ServerConfig>> {
    tls(context, true, demand, protocols)
}

fn tls(
    context: &Arc<Context>,
    gateways: bool,
    demand: Demand,
    protocols: &[&[u8]],
) -> anyhow::Result<Arc<rustls::ServerConfig>> {
    let trust = Arc::new(Known { context: Arc::clone(context), gateways });
    Ok(Arc::new(lifeboat_identity::server_config(trust, context.state.process_id(), demand, protocols)?))
}

/// The port of the API: people and machines, told apart by the name that they ask for.
#[derive(Debug)]
pub(crate) struct Doors {
    people: Arc<Identity>,
    machines: Arc<rustls::ServerConfig>,
}

impl Doors {
    pub(crate) fn new(context: &Arc<Context>, people: Arc<Identity>) -> anyhow::Result<Self> {
        // A machine that enrols has no certificate yet; what is asked for later is its route's business.
        let machines = config(context, Demand::Nothing, &[b"h2", b"http/1.1"])?;
        Ok(Self { people, machines })
    }

    /// How to shake hands with who asks for this name, and came to this address of ours.
    ///
    /// # Errors
    /// No certificate can be made for that.
    pub(crate) fn of(&self, name: Option<&str>, reached: IpAddr) -> anyhow::Result<Arc<rustls::ServerConfig>> {
        if name.is_some_and(|name| vault_of(name).is_some()) {
            return Ok(Arc::clone(&self.machines));
        }
        self.people.people(reached)
    }
}
