//! Metrics in Prometheus's text form. Names are constants; labels are ids and names, never secrets.

use std::fmt::Write;

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::{HeaderValue, header};
use lifeboat_model::Timestamp;
use lifeboat_model::state::Health;

use super::Shared;
use crate::barriers::{Account, Key};
use crate::view;

const HEALTH: &str = "lifeboat_group_health";
const RPO: &str = "lifeboat_group_landed_rpo_seconds";
const BACKLOG: &str = "lifeboat_group_backlog_bytes";
const JOURNAL: &str = "lifeboat_group_journal_used_bytes";
const CHURN: &str = "lifeboat_group_churn_bytes_per_second";
const GATEWAY: &str = "lifeboat_gateway_health";
const VAULT: &str = "lifeboat_vault_reachable";
const INFO: &str = "lifeboat_gateway_info";
const AT_REST: &str = "lifeboat_gateway_local_key";
const PROCESSOR: &str = "lifeboat_gateway_processor_share";
const MEMORY_USED: &str = "lifeboat_gateway_memory_used_bytes";
const MEMORY_TOTAL: &str = "lifeboat_gateway_memory_total_bytes";
const DISK_FREE: &str = "lifeboat_gateway_disk_free_bytes";
const DISK_TOTAL: &str = "lifeboat_gateway_disk_total_bytes";
const SERVER: &str = "lifeboat_process_server_health";
const AGENTS: &str = "lifeboat_process_server_agents";
const CACHE_USED: &str = "lifeboat_process_server_cache_used_bytes";
const CACHE_LIMIT: &str = "lifeboat_process_server_cache_limit_bytes";
const BACKLOG_AGE: &str = "lifeboat_process_server_backlog_age_seconds";

const SHARED: &str = "lifeboat_replication_group_points";
const UNSHARED: &str = "lifeboat_replication_group_missed";
const SHARED_AGE: &str = "lifeboat_replication_group_point_age_seconds";
const HELD: &str = "lifeboat_replication_group_hold_seconds";

const fn level(health: Health) -> u8 {
    match health {
        Health::Healthy => 0,
        Health::Warning => 1,
        Health::Critical => 2,
    }
}

fn escape(text: &str) -> String {
    text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

pub(super) async fn metrics(State(context): Shared) -> Response {
    let report = view::report(&context);
    let mut text = String::new();
    let mut family = |name: &str, help: &str, samples: Vec<(String, String)>| {
        // Writing to a string can't fail.
        let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} gauge");
        for (labels, value) in samples {
            let _ = writeln!(text, "{name}{{{labels}}} {value}");
        }
    };
    let name = format!("gateway=\"{}\"", escape(&report.name));
    family(INFO, "The gateway's version.", vec![(format!("{name},version=\"{}\"", report.version), "1".to_owned())]);
    family(GATEWAY, "0 healthy, 1 warning, 2 critical.", vec![(name.clone(), level(report.health).to_string())]);
    let encrypted = u8::from(context.state.is_encrypted()).to_string();
    family(AT_REST, "1 where new local files are encrypted.", vec![(name.clone(), encrypted)]);
    let figures = context.load.figures().unwrap_or_default();
    let mut own = |family_name: &str, help: &str, value: Option<String>| {
        family(family_name, help, value.into_iter().map(|value| (name.clone(), value)).collect());
    };
    let number = |number: u64| Some(number.to_string());
    let processor = figures.processor.map(|share| format!("{share:.4}"));
    own(PROCESSOR, "Share of its processors' time that was used in the last minute, 0 to 1.", processor);
    own(MEMORY_USED, "Bytes of memory in use.", figures.memory.and_then(|(used, _)| number(used)));
    own(MEMORY_TOTAL, "Bytes of memory that there are for it.", figures.memory.and_then(|(_, total)| number(total)));
    own(DISK_FREE, "Bytes free on the file system of its state directory.", number(figures.space.0));
    own(DISK_TOTAL, "Bytes of that file system.", number(figures.space.1));
    if let Some(streams) = figures.streams {
        let worst = context.load.troubles().iter().map(|(level, _)| *level).max().unwrap_or_default();
        own(SERVER, "0 healthy, 1 warning, 2 critical.", Some(level(worst).to_string()));
        own(AGENTS, "Agents that stream to this process server.", number(streams.agents.into()));
        own(CACHE_USED, "Bytes cached that are not in the vault yet.", number(streams.cache.0));
        own(CACHE_LIMIT, "Bytes that may be cached.", number(streams.cache.1));
        let age = streams.backlog.and_then(|backlog| number(backlog.age.as_secs()));
        own(BACKLOG_AGE, "Age of the oldest cached record that could be in the vault.", age);
    }
    family(
        VAULT,
        "1 while the vault can be reached.",
        report
            .vaults
            .iter()
            .map(|vault| {
                let reachable = u8::from(vault.status.health == Health::Healthy);
                (format!("vault=\"{}\"", vault.id), reachable.to_string())
            })
            .collect(),
    );
    let replication = context.replication.all();
    let shared = |value: &dyn Fn(&Account) -> Option<String>| -> Vec<(String, String)> {
        let labels = |key: &Key| format!("vault=\"{}\",replication_group=\"{}\"", key.vault, escape(&key.name));
        replication.iter().filter_map(|(key, account)| value(account).map(|value| (labels(key), value))).collect()
    };
    family(
        SHARED,
        "Points taken together by all groups of a replication group, since this gateway coordinates it.",
        shared(&|account| Some(account.taken.to_string())),
    );
    family(
        UNSHARED,
        "Tries to take a point together that came to nothing.",
        shared(&|account| Some(account.missed.to_string())),
    );
    family(
        SHARED_AGE,
        "Seconds since the last point that all groups took together.",
        shared(&|account| account.last.map(|at| Timestamp::now().seconds_since(at).to_string())),
    );
    family(
        HELD,
        "Seconds that writes waited for the last point taken together, at most.",
        shared(&|account| account.last.map(|_| account.held.as_secs_f64().to_string())),
    );
    let groups = |value: &dyn Fn(&lifeboat_api::ProtectionStatus) -> Option<String>| -> Vec<(String, String)> {
        report
            .protection
            .iter()
            .filter_map(|status| {
                let labels = format!("group=\"{}\",name=\"{}\"", status.group_id, escape(&status.group));
                value(status).map(|value| (labels, value))
            })
            .collect()
    };
    family(HEALTH, "0 healthy, 1 warning, 2 critical.", groups(&|s| Some(level(s.health).to_string())));
    family(
        RPO,
        "Seconds of acknowledged writes that a disaster now would lose.",
        groups(&|s| s.landed_rpo_seconds.map(|seconds| seconds.to_string())),
    );
    family(BACKLOG, "Bytes acknowledged and not in the vault yet.", groups(&|s| Some(s.backlog_bytes.to_string())));
    family(JOURNAL, "Bytes of the journal in use.", groups(&|s| Some(s.journal_bytes_used.to_string())));
    family(CHURN, "Bytes written per second.", groups(&|s| Some(s.churn_bytes_per_second.to_string())));
    let mut response = text.into_response();
    response
        .headers_mut()
        .insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8"));
    response
}
