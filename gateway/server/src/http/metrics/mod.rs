//! Metrics in Prometheus's text form: what the catalog, the instances that are open here and the counters of this process say at
//! the moment of the request.
//!
//! ```text
//! families   every metric there is: name, kind, labels, meaning     text   how they are written     counters   what is counted
//! ```
//! Nothing is sampled for it and nothing is kept; labels are ids and names, never secrets.

mod counters;
mod families;
#[cfg(test)]
mod tests;
mod text;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::{HeaderValue, header};
use lifeboat_api::{DrillSpec, ProtectionStatus, ResyncState};
use lifeboat_engine::FlowStatus;
use lifeboat_engine::relay::StreamStatus;
use lifeboat_model::Timestamp;
use lifeboat_model::state::Health;

use super::Shared;
use crate::barriers::{Account, Key};
use crate::context::{Context, TraceCounts};
use crate::port::InstanceStatus;
use crate::records::{AgentRecord, DrillRecord, GatewayRecord, JobRecord, kind, status};
use crate::vaults::AttachedVault;
use crate::view;
pub(crate) use counters::Counters;
use families as of;
use text::{Family, Page, Sample};

/// Name and type of every metric.
#[cfg(test)]
pub(super) fn promised() -> Vec<(&'static str, &'static str)> {
    of::ALL.iter().map(|family| (family.name, family.kind.as_str())).collect()
}

const fn level(health: Health) -> u8 {
    match health {
        Health::Healthy => 0,
        Health::Warning => 1,
        Health::Critical => 2,
    }
}

fn since_1970(time: Timestamp) -> String {
    format!("{:.3}", Timestamp::from_micros(time.as_micros()).seconds_since(Timestamp::from_micros(0)))
}

pub(super) async fn metrics(State(context): Shared) -> Response {
    let streams = match context.process_server.get() {
        Some(server) => server.status().await,
        None => Vec::new(),
    };
    let mut response = page(&context, &streams).into_response();
    response
        .headers_mut()
        .insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8"));
    response
}

fn page(context: &Context, streams: &[StreamStatus]) -> String {
    let mut page = Page::default();
    gateway(context, &mut page);
    groups(context, streams, &mut page);
    replication(context, &mut page);
    vaults(context, &mut page);
    declared(context, &mut page);
    process(context, &mut page);
    page.into_text()
}

fn gateway(context: &Context, page: &mut Page) {
    let name = &context.settings.name;
    let mut own = |family: &Family, value: Option<String>| {
        page.family(family, value.map(|value| (vec![name.clone()], value)));
    };
    let number = |number: u64| Some(number.to_string());
    let (health, _) = context.health();
    own(&of::GATEWAY, Some(level(health).to_string()));
    own(&of::STARTED, Some(since_1970(context.started)));
    own(&of::AT_REST, Some(u8::from(context.state.is_encrypted()).to_string()));
    let figures = context.load.figures().unwrap_or_default();
    own(&of::PROCESSOR, figures.processor.map(|share| format!("{share:.4}")));
    own(&of::MEMORY_USED, figures.memory.and_then(|(used, _)| number(used)));
    own(&of::MEMORY_TOTAL, figures.memory.and_then(|(_, total)| number(total)));
    own(&of::DISK_FREE, number(figures.space.0));
    own(&of::DISK_TOTAL, number(figures.space.1));
    let streams = figures.streams;
    let worst = context.load.troubles().iter().map(|(level, _)| *level).max().unwrap_or_default();
    own(&of::SERVER, streams.map(|_| level(worst).to_string()));
    own(&of::AGENTS, streams.and_then(|streams| number(streams.agents.into())));
    own(&of::CACHE_USED, streams.and_then(|streams| number(streams.cache.0)));
    own(&of::CACHE_LIMIT, streams.and_then(|streams| number(streams.cache.1)));
    own(
        &of::BACKLOG_AGE,
        streams.and_then(|streams| streams.backlog).and_then(|backlog| number(backlog.age.as_secs())),
    );
    page.family(&of::INFO, [(vec![name.clone(), env!("CARGO_PKG_VERSION").to_owned()], "1".to_owned())]);
}

/// A group, and the instance that serves it if that is here.
struct Group {
    status: ProtectionStatus,
    own: Option<InstanceStatus>,
    /// What this gateway puts into the vault of it, as its writer or as its agent's process server.
    shipping: Option<FlowStatus>,
}

fn own_instance(context: &Context, attached: &AttachedVault, found: &view::GroupFacts) -> Option<InstanceStatus> {
    let active = found.record.active.as_ref()?;
    let own = context.own_gateway(attached)?;
    let open = context.instances.get(found.id, &active.instance).filter(|_| own == active.gateway)?;
    Some(open.instance.status())
}

fn all_groups(context: &Context, streams: &[StreamStatus]) -> Vec<Group> {
    let mut groups = Vec::new();
    for attached in context.vaults.all() {
        for document in attached.snapshot().of(kind::GROUPS) {
            let Ok(facts) = view::group_facts(context, &attached, document) else { continue };
            let own = own_instance(context, &attached, &facts);
            let stream = || streams.iter().find(|stream| stream.group == facts.id && stream.open);
            let shipping = match &own {
                Some(own) => Some(own.flow.clone()),
                None => stream().map(|stream| stream.flow.clone()),
            };
            groups.push(Group { status: view::protection(context, &facts), own, shipping });
        }
    }
    groups
}

fn groups(context: &Context, streams: &[StreamStatus], page: &mut Page) {
    let groups = all_groups(context, streams);
    let labels = |group: &Group| vec![group.status.group_id.to_string(), group.status.group.clone()];
    let mut each = |family: &Family, value: &dyn Fn(&Group) -> Option<String>| {
        page.family(family, groups.iter().filter_map(|group| Some((labels(group), value(group)?))));
    };
    let text = |number: Option<f64>| number.map(|number| number.to_string());
    let now = Timestamp::now();
    each(&of::HEALTH, &|group| Some(level(group.status.health).to_string()));
    each(&of::ACTIVE, &|group| Some(u8::from(group.own.is_some()).to_string()));
    each(&of::RPO, &|group| text(group.status.landed_rpo_seconds));
    each(&of::APPLIED, &|group| text(group.status.applied_rpo_seconds));
    each(&of::THRESHOLD, &|group| text(Some(group.status.rpo_threshold_seconds)));
    each(&of::OLDEST, &|group| text(group.status.oldest_unshipped_seconds));
    each(&of::POINT_AGE, &|group| {
        text(group.status.latest_recovery_point.as_ref().map(|point| now.seconds_since(point.time).max(0.0)))
    });
    each(&of::BACKLOG, &|group| Some(group.status.backlog_bytes.to_string()));
    each(&of::JOURNAL, &|group| Some(group.status.journal_bytes_used.to_string()));
    each(&of::JOURNAL_LIMIT, &|group| group.status.journal_bytes_limit.map(|bytes| bytes.to_string()));
    each(&of::JOURNAL_FULL, &|group| text(group.status.journal_full_in_seconds));
    each(&of::CHURN, &|group| text(Some(group.status.churn_bytes_per_second)));
    each(&of::SHIP_RATE, &|group| text(group.status.shipped_bytes_per_second));
    let shipped = |group: &Group| group.shipping.as_ref().and_then(|flow| flow.shipped);
    each(&of::SHIPPED, &|group| shipped(group).map(|shipped| shipped.payload_bytes.to_string()));
    each(&of::SHIPPED_RAW, &|group| shipped(group).map(|shipped| shipped.raw_bytes.to_string()));
    each(&of::EPOCH, &|group| group.own.as_ref().map(|own| own.epoch.0.to_string()));
    each(&of::RESYNC, &|group| {
        let state = group.status.resync.as_ref().map_or(0, |resync| match resync.state {
            ResyncState::Waiting => 1,
            ResyncState::Copying => 2,
        });
        Some(state.to_string())
    });
    each(&of::RESYNC_LEFT, &|group| {
        Some(group.status.resync.as_ref().map_or(0, |resync| resync.bytes_left).to_string())
    });
    let failures = groups.iter().flat_map(|group| {
        let failures = group.shipping.iter().flat_map(|flow| &flow.failures);
        failures.map(|(class, count)| {
            let mut values = labels(group);
            values.push((*class).to_owned());
            (values, count.to_string())
        })
    });
    page.family(&of::SHIP_FAILED, failures);
    let syncs = groups.iter().filter_map(|group| group.own.as_ref().map(|own| (labels(group), own.flow.syncs.clone())));
    page.histograms(&of::SYNCS, syncs);
}

fn replication(context: &Context, page: &mut Page) {
    let all = context.replication.all();
    let mut each = |family: &Family, value: &dyn Fn(&Account) -> Option<String>| {
        let labels = |key: &Key| vec![key.vault.to_string(), key.name.clone()];
        page.family(family, all.iter().filter_map(|(key, account)| Some((labels(key), value(account)?))));
    };
    each(&of::SHARED, &|account| Some(account.taken.to_string()));
    each(&of::UNSHARED, &|account| Some(account.missed.to_string()));
    each(&of::SHARED_AGE, &|account| account.last.map(|at| Timestamp::now().seconds_since(at).to_string()));
    each(&of::HELD, &|account| account.last.map(|_| account.held.as_secs_f64().to_string()));
}

fn vaults(context: &Context, page: &mut Page) {
    let all = context.vaults.all();
    let labels = |vault: &AttachedVault| vec![vault.id().to_string(), vault.attachment.name.clone()];
    let reachable = |vault: &AttachedVault| u8::from(vault.trouble().is_none()).to_string();
    page.family(&of::VAULT, all.iter().map(|vault| (labels(vault), reachable(vault))));
    let mut samples: Vec<Sample> = Vec::new();
    for vault in &all {
        let counts = vault.vault().ok().and_then(|open| open.store().counts());
        for (operation, outcome, count) in counts.map(|counts| counts.read()).unwrap_or_default() {
            let mut values = labels(vault);
            values.extend([operation.to_owned(), outcome.to_owned()]);
            samples.push((values, count.to_string()));
        }
    }
    page.family(&of::VAULT_REQUESTS, samples);
}

/// What stands in the catalogs: drills, jobs, certificates, other gateways.
fn declared(context: &Context, page: &mut Page) {
    let now = Timestamp::now();
    let (mut silence, mut jobs, mut certificates) = (Vec::new(), Vec::new(), Vec::new());
    let [mut age, mut passed, mut expires, mut rto, mut rpo]: [Vec<Sample>; 5] = Default::default();
    certificates.extend(
        context
            .authority_ends
            .get()
            .map(|end| (vec!["gateway-authority".to_owned(), context.settings.name.clone()], since_1970(*end))),
    );
    for vault in context.vaults.all() {
        let snapshot = vault.snapshot();
        for document in snapshot.of(kind::GATEWAYS) {
            let record: GatewayRecord = status(document);
            let other = !record.agent && record.process_id.as_deref() != Some(context.state.process_id());
            if let Some(seen) = record.last_seen.filter(|_| other && record.replaced.is_none()) {
                silence.push((vec![document.name.clone()], now.seconds_since(seen).max(0.0).to_string()));
            }
        }
        for document in snapshot.of(kind::DRILLS) {
            let record: DrillRecord = status(document);
            let (Some(run), Ok(declared)) = (record.runs.first(), document.spec_as::<DrillSpec>()) else { continue };
            let labels = || vec![document.id.clone(), document.name.clone()];
            age.push((labels(), now.seconds_since(run.finished).max(0.0).to_string()));
            passed.push((labels(), u8::from(run.outcome.passed).to_string()));
            let end = view::drill_expires(&declared, run);
            expires.extend(end.map(|end| (labels(), since_1970(end))));
            rto.extend(run.outcome.rto_seconds.map(|seconds| (labels(), seconds.to_string())));
            rpo.extend(run.outcome.rpo_seconds.map(|seconds| (labels(), seconds.to_string())));
        }
        let mut states: BTreeMap<&'static str, u64> =
            lifeboat_model::state::JobState::ALL.iter().map(|state| (state.as_str(), 0)).collect();
        for document in snapshot.of(kind::JOBS) {
            *states.entry(status::<JobRecord>(document).state.0.as_str()).or_default() += 1;
        }
        let id = vault.id().to_string();
        jobs.extend(states.into_iter().map(|(state, count)| (vec![id.clone(), state.to_owned()], count.to_string())));
        for document in snapshot.of(kind::AGENTS) {
            let record: AgentRecord = status(document);
            let end = record.certificate.map(|signed| since_1970(signed.expires));
            certificates.extend(end.map(|end| (vec!["agent".to_owned(), document.name.clone()], end)));
        }
    }
    page.family(&of::SILENCE, silence);
    page.family(&of::DRILL_AGE, age);
    page.family(&of::DRILL_PASSED, passed);
    page.family(&of::DRILL_EXPIRES, expires);
    page.family(&of::DRILL_RTO, rto);
    page.family(&of::DRILL_RPO, rpo);
    page.family(&of::JOBS, jobs);
    page.family(&of::CERTIFICATE, certificates);
}

fn process(context: &Context, page: &mut Page) {
    let requests = context.counters.requests().into_iter();
    page.family(
        &of::REQUESTS,
        requests.map(|((method, route, status), count)| {
            (vec![method.to_owned(), route, status.to_string()], count.to_string())
        }),
    );
    let failed = lifeboat_export::failed_requests().into_iter();
    page.family(&of::MOUNT_ERRORS, failed.map(|(class, count)| (vec![class.to_owned()], count.to_string())));
    let events = context.counters.events().into_iter();
    page.family(
        &of::EVENTS,
        events.map(|((kind, severity), count)| (vec![kind.to_owned(), severity.to_string()], count.to_string())),
    );
    let traces = context.settings.traces.as_ref();
    let spans = |of: fn(&TraceCounts) -> &AtomicU64| {
        traces.map(|counts| (Vec::new(), of(counts).load(Ordering::Relaxed).to_string()))
    };
    page.family(&of::SPANS_EXPORTED, spans(|counts| &counts.exported));
    page.family(&of::SPANS_DROPPED, spans(|counts| &counts.dropped));
    let channels = context.notices.channels();
    let mut each = |family: &Family, value: &dyn Fn(&crate::notices::ChannelFigures) -> u64| {
        page.family(family, channels.iter().map(|channel| (vec![channel.name.clone()], value(channel).to_string())));
    };
    each(&of::NOTICE_FAILING, &|channel| u64::from(channel.failing_since.is_some()));
    each(&of::NOTICE_WAITING, &|channel| channel.waiting);
    each(&of::NOTICE_SENT, &|channel| channel.sent);
    each(&of::NOTICE_FAILED, &|channel| channel.failed);
    each(&of::NOTICE_DROPPED, &|channel| channel.dropped);
}
