//! Metrics in Prometheus's text form. Names are constants; labels are ids and names, never secrets.

use std::fmt::Write;

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::{HeaderValue, header};
use lifeboat_model::state::Health;

use super::Shared;
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
    family(AT_REST, "1 where new local files are encrypted.", vec![(name, encrypted)]);
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
