//! Prometheus with the repository's configuration, rules and dashboard, against a real gateway: every expression is evaluated, and
//! alerts really fire.

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use lifeboat_acceptance::binaries::{repository, tool};
use lifeboat_acceptance::command::{Daemon, Run};
use lifeboat_acceptance::estate::{Api, Estate};
use lifeboat_acceptance::eventually;
use lifeboat_acceptance::gateway::free_address;
use lifeboat_api::types::Policy;
use serde_json::{Value, json};

const WITHIN: Duration = Duration::from_secs(90);

fn examples() -> PathBuf {
    repository().join("examples/monitoring")
}

/// Expressions of the dashboard that have nothing to show here: by a part of each, and why.
const EMPTY: [(&str, &str); 4] = [
    ("lifeboat_group_journal_full_in_seconds", "no journal fills while all is well"),
    ("lifeboat_group_shipping_errors_total", "no try to ship fails while all is well"),
    ("lifeboat_drill_", "no drill is declared"),
    ("lifeboat_notice_", "no channel is configured"),
];

struct Prometheus {
    address: SocketAddr,
    process: Daemon,
}

impl Prometheus {
    /// The repository's configuration, with the paths, targets and times of the test.
    fn start(dir: &Path, targets: &[String], token: &Path, authority: &Path) -> Result<Self> {
        let address = free_address()?;
        let config = std::fs::read_to_string(examples().join("prometheus.yml"))?;
        let mut lines: Vec<String> = Vec::new();
        for line in config.lines() {
            let line = line
                .replace("/etc/prometheus/lifeboat.token", &token.display().to_string())
                .replace("/etc/prometheus/lifeboat-ca.pem", &authority.display().to_string())
                .replace(": 15s", ": 1s");
            match line.trim().strip_prefix("- gateway-1") {
                Some(_) => lines.extend(targets.iter().map(|target| format!("          - {target}"))),
                None if line.trim().starts_with("- gateway-2") => {}
                None => lines.push(line),
            }
        }
        std::fs::write(dir.join("prometheus.yml"), lines.join("\n") + "\n")?;
        let rules = std::fs::read_to_string(examples().join("lifeboat.rules.yml"))?;
        let rules = rules.replace("for: 10m", "for: 1s").replace("for: 1m", "for: 1s").replace("for: 2m", "for: 1s");
        std::fs::write(dir.join("lifeboat.rules.yml"), rules)?;
        let promtool = tool("prometheus/usr/bin/promtool")?;
        Run::new(&promtool).args(["check", "config"]).arg(dir.join("prometheus.yml")).ok()?;
        let args = [
            format!("--config.file={}", dir.join("prometheus.yml").display()),
            format!("--storage.tsdb.path={}", dir.join("data").display()),
            format!("--web.listen-address={address}"),
        ];
        let args: Vec<_> = args.into_iter().map(Into::into).collect();
        let process = Daemon::start(
            "prometheus",
            &tool("prometheus/usr/bin/prometheus")?,
            &args,
            &[],
            &dir.join("prometheus.log"),
        )?;
        let started = Self { address, process };
        eventually("Prometheus to be ready", WITHIN, || {
            if let Some(status) = started.process.ended()? {
                bail!("Prometheus ended: {status}\n{}", started.process.log_tail(20));
            }
            Ok(get(address, "/-/ready").ok().map(drop))
        })?;
        Ok(started)
    }

    fn ask(&self, path: &str) -> Result<Value> {
        let (status, body) = get(self.address, path)?;
        let answer: Value = serde_json::from_str(&body).with_context(|| format!("{path}: {status} {body}"))?;
        ensure!(answer["status"] == "success", "{path}: {answer}");
        Ok(answer["data"].clone())
    }

    fn query(&self, expression: &str) -> Result<Vec<Value>> {
        let data = self.ask(&format!("/api/v1/query?query={}", escaped(expression)))?;
        Ok(data["result"].as_array().cloned().unwrap_or_default())
    }

    /// Names of the alerts that fire.
    fn firing(&self) -> Result<BTreeSet<String>> {
        let alerts = self.ask("/api/v1/alerts")?["alerts"].as_array().cloned().unwrap_or_default();
        let firing = alerts.iter().filter(|alert| alert["state"] == "firing");
        Ok(firing.filter_map(|alert| alert["labels"]["alertname"].as_str().map(str::to_owned)).collect())
    }
}

/// A GET of HTTP/1.0: status line and body.
fn get(address: SocketAddr, path: &str) -> Result<(String, String)> {
    let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(5))?;
    stream.set_read_timeout(Some(Duration::from_secs(20)))?;
    write!(stream, "GET {path} HTTP/1.0\r\nHost: {address}\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let (head, body) = answer.split_once("\r\n\r\n").context("no answer")?;
    let status = head.lines().next().unwrap_or_default().to_owned();
    ensure!(status.contains(" 200 ") || body.starts_with('{'), "{path}: {status}");
    Ok((status, body.to_owned()))
}

fn escaped(text: &str) -> String {
    text.bytes()
        .map(|byte| if byte.is_ascii_alphanumeric() { char::from(byte).to_string() } else { format!("%{byte:02X}") })
        .collect()
}

/// Every expression of the dashboard, as Grafana would ask it with all groups chosen.
fn dashboard() -> Result<Vec<(String, String)>> {
    let text = std::fs::read_to_string(examples().join("lifeboat.dashboard.json"))?;
    let dashboard: Value = serde_json::from_str(&text).context("the dashboard is no JSON")?;
    let mut ids = BTreeSet::new();
    let mut found = Vec::new();
    for panel in dashboard["panels"].as_array().context("no panels")? {
        let title = panel["title"].as_str().context("a panel without a title")?;
        ensure!(ids.insert(panel["id"].as_u64().context("a panel without an id")?), "{title}: its id is taken");
        let targets = panel["targets"].as_array().with_context(|| format!("{title} asks nothing"))?;
        ensure!(!targets.is_empty(), "{title} asks nothing");
        for target in targets {
            let expression = target["expr"].as_str().with_context(|| format!("{title}: no expression"))?;
            let asked = expression.replace("$group", ".*").replace("$__rate_interval", "1m");
            ensure!(!asked.contains('$'), "{title}: a variable that the dashboard hasn't got: {asked}");
            found.push((title.to_owned(), asked));
        }
    }
    let variables: Vec<&str> = dashboard["templating"]["list"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|one| one["name"].as_str())
        .collect();
    ensure!(variables == ["datasource", "group"], "{variables:?}");
    Ok(found)
}

#[test]
fn the_rules_are_sound_and_each_alert_fires_when_it_should() {
    let promtool = tool("prometheus/usr/bin/promtool").unwrap();
    let rules = examples().join("lifeboat.rules.yml");
    Run::new(&promtool).args(["check", "rules"]).arg(&rules).ok().unwrap();
    Run::new(&promtool).args(["test", "rules"]).arg(examples().join("lifeboat.rules.test.yml")).ok().unwrap();
    // None without a test of its own.
    let rules = std::fs::read_to_string(rules).unwrap();
    let tests = std::fs::read_to_string(examples().join("lifeboat.rules.test.yml")).unwrap();
    let guide = std::fs::read_to_string(repository().join("docs/guides/monitoring.md")).unwrap();
    let alerts: Vec<&str> = rules.lines().filter_map(|line| line.trim().strip_prefix("- alert: ")).collect();
    assert!(alerts.len() >= 10, "{alerts:?}");
    for alert in alerts {
        let fires = tests.contains(&format!("alertname: {alert}\n        exp_alerts:\n          - "));
        assert!(fires, "{alert} has no test that it fires");
        assert!(guide.contains(&format!("`{alert}`")), "{alert} isn't in the guide");
    }
}

#[test]
fn prometheus_scrapes_a_gateway_with_its_token_and_authority_and_alerts_fire() {
    let estate = Estate::protect("monitoring", &[("data", 4 << 20)]).unwrap();
    let gateway = &estate.primary;
    let token = gateway.json(&["token", "create", "--name", "prometheus", "--role", "reader"]).unwrap();
    let secret = token["secret"].as_str().or_else(|| token["token"].as_str());
    let token_file = estate.dir().join("prometheus.token");
    std::fs::write(&token_file, secret.unwrap_or_else(|| panic!("no token in {token}"))).unwrap();
    let dir = estate.dir().join("prometheus");
    std::fs::create_dir_all(&dir).unwrap();
    let gone = free_address().unwrap();
    let targets = [gateway.management().to_string(), gone.to_string()];
    let prometheus = Prometheus::start(&dir, &targets, &token_file, &gateway.ca_file()).unwrap();

    let write = |byte: u8, bytes: usize| {
        let mut file = std::fs::File::options().write(true).open(gateway.volume("data")).unwrap();
        file.write_all(&vec![byte; bytes]).unwrap();
        file.sync_all().unwrap();
    };
    let mut round = 0_u8;
    eventually("the first scrapes", WITHIN, || {
        // Rates need something that goes on.
        round = round.wrapping_add(1);
        write(round, 1 << 16);
        let up = prometheus.query("up{job=\"lifeboat\"} == 1")?;
        let shipped = prometheus.query("rate(lifeboat_group_shipped_bytes_total[1m]) > 0")?;
        let synced = prometheus.query("rate(lifeboat_group_journal_fdatasync_seconds_count[1m])")?;
        Ok((up.len() == 1 && shipped.len() == 1 && synced.len() == 1).then_some(()))
    })
    .unwrap();
    for (title, expression) in dashboard().unwrap() {
        let found = prometheus.query(&expression).unwrap();
        let may_be_empty = EMPTY.iter().any(|(part, _)| expression.contains(part));
        assert!(!found.is_empty() || may_be_empty, "{title}: {expression} gives nothing");
    }
    let rules = prometheus.ask("/api/v1/rules").unwrap();
    let rules = rules["groups"][0]["rules"].as_array().cloned().unwrap_or_default();
    assert!(rules.len() >= 10, "{rules:?}");
    for rule in &rules {
        prometheus.query(rule["query"].as_str().unwrap()).unwrap();
    }
    let healthy = |name: &str| {
        let rules = prometheus.ask("/api/v1/rules")?;
        let rules = rules["groups"][0]["rules"].as_array().cloned().unwrap_or_default();
        Ok(rules.iter().find(|rule| rule["name"] == name).is_some_and(|rule| rule["health"] == "ok").then_some(()))
    };
    for rule in &rules {
        let name = rule["name"].as_str().unwrap();
        eventually(&format!("the rule {name} to be evaluated"), WITHIN, || healthy(name)).unwrap();
    }

    // The second target was never there.
    eventually("the alert on a gateway that doesn't answer", WITHIN, || {
        Ok(prometheus.firing()?.contains("LifeboatGatewayUnreachable").then_some(()))
    })
    .unwrap();
    let firing = prometheus.firing().unwrap();
    assert!(!firing.contains("LifeboatVaultUnreachable") && !firing.contains("LifeboatRpoExceeded"), "{firing:?}");

    Api::of(gateway)
        .unwrap()
        .call(async |client| {
            let policy = client.find_by_name::<Policy>("standard").await?.expect("the estate has it");
            client.patch::<Policy>(&policy.id.to_string(), policy.generation, &json!({"rpo_threshold": "2s"})).await
        })
        .unwrap();
    // The vault is taken away, and writes go on.
    let vault = estate.vault_dir();
    std::fs::rename(&vault, vault.with_extension("away")).unwrap();
    write(9, 65536);
    eventually("the alerts on the vault and the RPO", WITHIN, || {
        let firing = prometheus.firing()?;
        Ok((firing.contains("LifeboatVaultUnreachable") && firing.contains("LifeboatRpoExceeded")).then_some(()))
    })
    .unwrap();
    // And ends when it is back.
    std::fs::rename(vault.with_extension("away"), &vault).unwrap();
    eventually("the alerts to end", WITHIN, || {
        let firing = prometheus.firing()?;
        Ok((!firing.contains("LifeboatVaultUnreachable") && !firing.contains("LifeboatRpoExceeded")).then_some(()))
    })
    .unwrap();
}
