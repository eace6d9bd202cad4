//! Which process servers there are, for agents that come, and which agents this one asks to go: the catalog's side of [`super::spread`].
//!
//! A process server counts as there while its gateway is heard of and says where agents reach it. One that stops taking agents in
//! is gone from the list with its next report.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use lifeboat_api::{GatewaySpec, KnownProcessServer};
use lifeboat_engine::relay::{ADDRESS_BYTES_MAX, KnownServer, ProcessServer, SERVERS_MAX, Standing};
use lifeboat_model::state::Health;
use lifeboat_model::{AgentId, GatewayId, SiteId};

use super::spread::{Guest, Other, Own, Spread};
use crate::context::{Context, Happening};
use crate::load::Measure;
use crate::records::{AgentSpecRecord, GatewayRecord, GroupRecord, ProcessServerRecord, kind, status};
use crate::vaults::{AttachedVault, Snapshot};
use crate::view::{self, SILENCE_WARNING};

/// Time between two looks at who might go.
const LOOK: Duration = Duration::from_secs(5);

/// A process server in a catalog.
struct There {
    gateway: GatewayId,
    site: SiteId,
    record: ProcessServerRecord,
}

/// Those of a vault that are heard of.
fn there(context: &Context, attached: &AttachedVault) -> Vec<There> {
    let snapshot = attached.snapshot();
    let own = context.own_gateway(attached);
    let one = |document: &Arc<lifeboat_vault::Document>| {
        let record: GatewayRecord = status(document);
        let gateway = document.id.parse::<GatewayId>().ok()?;
        let site = document.spec_as::<GatewaySpec>().ok()?.site_id;
        if record.agent {
            return None;
        }
        if own == Some(gateway) {
            let record = context.data_address.get().and_then(|address| context.load.now(address))?;
            return Some(There { gateway, site, record });
        }
        let heard = view::is_alive(&record, SILENCE_WARNING);
        record.process_server.filter(|_| heard).map(|record| There { gateway, site, record })
    };
    snapshot.of(kind::GATEWAYS).iter().filter_map(one).collect()
}

/// The process servers that an agent of this site may go to, those of the site first.
pub(crate) fn known(context: &Context, attached: &AttachedVault, site: Option<SiteId>) -> Vec<KnownServer> {
    let all = there(context, attached).into_iter();
    let mut all: Vec<KnownServer> = all
        .map(|one| KnownServer { address: one.record.address, same_site: site == Some(one.site) })
        .filter(|one| one.address.len() <= ADDRESS_BYTES_MAX)
        .collect();
    all.sort_by_key(|one| !one.same_site);
    all.truncate(SERVERS_MAX);
    all
}

/// How this process server is doing, for an agent that comes.
pub(super) fn standing(context: &Context, agent: AgentId) -> Standing {
    let worst = context.load.troubles().into_iter().map(|(level, _)| level).max().unwrap_or_default();
    let health = match worst {
        Health::Healthy => 0,
        Health::Warning => 1,
        Health::Critical => 2,
    };
    let vaults = context.vaults.all();
    let found = vaults.iter().find_map(|attached| Some((attached, site_of(&attached.snapshot(), agent)?)));
    let servers = found.map(|(attached, site)| known(context, attached, Some(site))).unwrap_or_default();
    Standing { health, servers, ..Standing::default() }
}

fn site_of(snapshot: &Snapshot, agent: AgentId) -> Option<SiteId> {
    let document = snapshot.get(kind::AGENTS, &agent.to_string())?;
    document.spec_as::<AgentSpecRecord>().ok().map(|spec| spec.site_id)
}

/// Asks agents to go where there is more room, until the context is stopped.
pub(super) async fn keep(context: Arc<Context>, server: Arc<ProcessServer>) {
    let begun = Instant::now();
    // One vault's agents can't be weighed against another one's: their process servers differ.
    let mut spreads: BTreeMap<lifeboat_model::VaultId, Spread> = BTreeMap::new();
    loop {
        tokio::select! {
            () = context.stop.cancelled() => return,
            () = tokio::time::sleep(LOOK) => {}
        }
        for attached in context.vaults.all() {
            let Some(gateway) = context.own_gateway(&attached) else { continue };
            let all = there(&context, &attached);
            let own = Own {
                site: all.iter().find(|one| one.gateway == gateway).map(|one| one.site),
                full: context.load.level(Measure::Cache) == Health::Critical,
            };
            let others: Vec<Other> = all.into_iter().filter(|one| one.gateway != gateway).map(other).collect();
            let guests = guests(&server, &attached.snapshot()).await;
            let spread = spreads.entry(attached.id()).or_default();
            for leave in spread.decide(begun.elapsed(), &own, &guests, &others) {
                if server.send_away(leave.group, &leave.why).await {
                    let snapshot = attached.snapshot();
                    let name = snapshot.get(kind::GROUPS, &leave.group.to_string()).map(|found| found.name.clone());
                    let message = format!(
                        "the process server {} asks the agent of the group {} to go to another one: {}",
                        context.settings.name,
                        name.unwrap_or_default(),
                        leave.why
                    );
                    let (kind, group) = ("agent.sent_away", Some(leave.group));
                    context.event(&attached, Happening { kind, message, group, ..Happening::default() }).await;
                }
            }
        }
    }
}

fn other(one: There) -> Other {
    let ProcessServerRecord { address, takes_more, agents, cache_bytes_used, cache_bytes_limit, measured, .. } =
        one.record;
    Other { site: one.site, address, takes_more, agents, cache: (cache_bytes_used, cache_bytes_limit), measured }
}

/// The agents of a vault that stream here and may be asked to go: none whose group a job has.
async fn guests(server: &ProcessServer, snapshot: &Snapshot) -> Vec<Guest> {
    let guest = |stream: lifeboat_engine::relay::StreamStatus| {
        let here_for = stream.attached_for?;
        let document = snapshot.get(kind::GROUPS, &stream.group.to_string())?;
        let record: GroupRecord = status(document);
        let site = site_of(snapshot, AgentId::from_bytes(stream.agent.to_bytes()));
        let cached_bytes = stream.cached_bytes;
        let stuck = !stream.trouble.is_empty();
        record.job.is_none().then_some(Guest { group: stream.group, site, here_for, cached_bytes, stuck })
    };
    server.status().await.into_iter().filter(|stream| stream.open).filter_map(guest).collect()
}

/// The same for the API.
pub(crate) fn shown(known: KnownServer) -> KnownProcessServer {
    KnownProcessServer { address: known.address, same_site: known.same_site }
}
