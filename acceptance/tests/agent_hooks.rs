//! Hooks of a server with an agent: an application that writes in transactions is held by programs of its own machine, and what comes up
//! at the recovery site is a whole transaction. Hooks that fail and that hang, an agent that is killed while it holds the application, and
//! a point that the agent shares with a gateway's group.

use std::fs::{self, File};
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use lifeboat_acceptance::agent::{Agent, SETTLES_WITHIN, once_heard};
use lifeboat_acceptance::content::content;
use lifeboat_acceptance::estate::{Estate, GROUP, Place};
use lifeboat_acceptance::eventually;
use lifeboat_acceptance::gateway::{Gateway, free_address};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

const SIZE: u64 = 4 << 20;
/// Blocks of one transaction, each synced before the next: a point at any moment is hardly ever between two.
const TRANSACTION_BLOCKS: u64 = 16;

/// The first program. What it does stands in `mode`: it holds the application, refuses, or holds it and never ends. The application is held
/// once it has repeated the order, which is another one each time.
const FREEZE: &str = r#"#!/bin/sh
cd "$(dirname "$0")/.."
case "$(cat mode)" in
  fail) echo "the database says no" >&2; exit 3 ;;
esac
echo $$ > hold.new
mv hold.new hold
until test "$(cat held 2>/dev/null)" = $$; do test -e hold || exit 1; sleep 0.02; done
case "$(cat mode)" in
  hang) echo $$ > hanging.new; mv hanging.new hanging; exec sleep 600 ;;
esac
"#;
/// The second one.
const THAW: &str = r#"#!/bin/sh
rm -f "$(dirname "$0")/../hold"
"#;

/// An application on a disk: transaction n writes its number to some blocks, one after the other. Between two transactions it can be held.
struct Application {
    stop: Arc<AtomicBool>,
    done: Arc<AtomicU64>,
    orders: PathBuf,
    writing: Option<JoinHandle<()>>,
}

impl Application {
    /// Writes to this file for as long as it is there, and takes orders in a directory.
    fn start(file: PathBuf, orders: &Path) -> Self {
        let (stop, done) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let writing = {
            let (stop, done, orders) = (Arc::clone(&stop), Arc::clone(&done), orders.to_owned());
            std::thread::spawn(move || {
                let mut number = 0;
                while !stop.load(Ordering::SeqCst) {
                    let hold = order(&orders, "hold");
                    if hold.is_some() {
                        if order(&orders, "held") != hold {
                            let _ = fs::write(orders.join("held"), hold.unwrap_or_default());
                        }
                        std::thread::sleep(Duration::from_millis(2));
                        continue;
                    }
                    // A transaction that the disk did not take is done again, as a database does after it was started anew.
                    if transact(&file, number + 1).is_ok() {
                        number += 1;
                        done.store(number, Ordering::SeqCst);
                    }
                }
            })
        };
        Self { stop, done, orders: orders.to_owned(), writing: Some(writing) }
    }

    fn is_held(&self) -> bool {
        order(&self.orders, "hold").is_some_and(|hold| order(&self.orders, "held") == Some(hold))
    }

    fn goes_on(&self) -> Result<()> {
        let before = self.done.load(Ordering::SeqCst);
        eventually("the application to go on", SETTLES_WITHIN, || {
            Ok((self.done.load(Ordering::SeqCst) > before + 2).then_some(()))
        })
    }

    fn end(mut self) -> u64 {
        self.stop.store(true, Ordering::SeqCst);
        if let Some(writing) = self.writing.take() {
            writing.join().expect("it doesn't panic");
        }
        self.done.load(Ordering::SeqCst)
    }
}

impl Drop for Application {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
    }
}

fn order(orders: &Path, name: &str) -> Option<String> {
    fs::read_to_string(orders.join(name)).ok()
}

fn transact(path: &Path, number: u64) -> Result<()> {
    let file = File::options().write(true).open(path)?;
    for block in 0..TRANSACTION_BLOCKS {
        file.write_all_at(&number.to_le_bytes().repeat(512), block * 4096)?;
        file.sync_data()?;
    }
    Ok(())
}

/// The transaction that a disk holds, whole.
fn whole_transaction(disk: &Path) -> Result<u64> {
    let found = content(disk)?;
    let found = found.get(..usize::try_from(TRANSACTION_BLOCKS * 4096)?).context("the disk is too short")?;
    let first = found.get(..8).context("the disk is empty")?;
    ensure!(found.chunks(8).all(|word| word == first), "the disk holds parts of two transactions");
    Ok(u64::from_le_bytes(first.try_into()?))
}

/// A gateway at home that is a process server, one at the recovery site, and a server with hooks.
struct Shop {
    estate: Estate,
    agent: Agent,
    server: PathBuf,
    // Dropped last: everything is inside.
    _directory: tempfile::TempDir,
}

impl Shop {
    fn open(label: &str, hook_timeout: &str, consistency: Option<&str>) -> Result<Self> {
        let data = free_address()?.to_string();
        let mut args = vec!["--listen-data".to_owned(), data.clone()];
        args.extend(consistency.iter().flat_map(|at| ["--listen-consistency".to_owned(), (*at).to_owned()]));
        let directory = tempfile::tempdir()?;
        let vault = format!("file://{}", directory.path().join("vault").display());
        let places = [Place { args, ..Place::default() }, Place::default()];
        let mut estate = Estate::protect_between(label, &vault, places, &[("orders", SIZE)])?;
        estate.add_standby()?;
        estate.open_vault_at_standby()?;
        let policy = ["policy", "create", "--name", "gold", "--interval", "1s", "--app-consistent-interval", "2s"];
        estate.primary.run(&[&policy[..], &["--retain", "all:1h"]].concat())?.ok()?;

        let server = directory.path().join("server");
        let endpoints = [estate.primary.endpoint(), estate.standby()?.endpoint()];
        let mut agent = Agent::enrol(&server, "erp", SIZE, &estate.primary, &[&data], &endpoints)?;
        let hooks = server.join("hooks");
        fs::create_dir(&hooks)?;
        fs::set_permissions(&hooks, fs::Permissions::from_mode(0o755))?;
        program(&hooks.join("freeze"), FREEZE)?;
        program(&hooks.join("thaw"), THAW)?;
        agent.under_policy("gold");
        let hooks = hooks.display().to_string();
        let names = ["--hooks", &hooks, "--pre-script", "freeze", "--post-script", "thaw"];
        agent.args(&[&names[..], &["--hook-timeout", hook_timeout]].concat());
        if let Some(at) = consistency {
            agent.args(&["--consistency-server", at]);
        }
        let shop = Self { estate, agent, server, _directory: directory };
        shop.mode("hold")?;
        Ok(shop)
    }

    /// Starts the agent, and waits until both gateways show its group.
    fn start(&mut self) -> Result<()> {
        transact(&self.agent.disk(), 0)?;
        self.agent.start()?;
        for gateway in [&self.estate.primary, self.estate.standby()?] {
            eventually("the agent's group to be shown", SETTLES_WITHIN, || {
                let group = gateway.run(&["group", "show", "erp", "--output", "json"])?;
                let group: Value =
                    group.ok().ok().and_then(|text| serde_json::from_str(&text).ok()).unwrap_or_default();
                Ok(group["status"]["active_branch_id"].is_string().then_some(()))
            })
            .with_context(|| self.agent.log())?;
        }
        Ok(())
    }

    fn mode(&self, mode: &str) -> Result<()> {
        fs::write(self.server.join("mode.new"), mode)?;
        Ok(fs::rename(self.server.join("mode.new"), self.server.join("mode"))?)
    }

    fn app_points(&self, group: &str) -> Result<Vec<Value>> {
        let listed = self.estate.standby()?.json(&["point", "list", "--group", group])?;
        let points = listed["items"].as_array().or(listed.as_array()).cloned().unwrap_or_default();
        Ok(points.into_iter().filter(|point| point["kind"] == "app-consistent").collect())
    }

    /// Waits for an application-consistent point that wasn't there before.
    fn another(&self, group: &str) -> Result<Value> {
        let before = self.app_points(group)?;
        eventually("another application-consistent point", SETTLES_WITHIN, || {
            Ok(self.app_points(group)?.into_iter().find(|point| before.iter().all(|known| known["id"] != point["id"])))
        })
        .with_context(|| format!("{:?}\n{}", self.agent.status(), self.agent.log()))
    }

    fn reasons(&self) -> Result<String> {
        Ok(self.estate.standby()?.json(&["group", "show", "erp"])?["status"]["reasons"].to_string())
    }
}

fn program(path: &Path, text: &str) -> Result<()> {
    // Written under another name first: a program can't be run while it is open for writing, here or in a child.
    let draft = path.with_extension("draft");
    fs::write(&draft, text)?;
    fs::set_permissions(&draft, fs::Permissions::from_mode(0o755))?;
    fs::copy(&draft, path)?;
    Ok(fs::remove_file(draft)?)
}

fn failed_over(gateway: &Gateway, point: &str) -> Result<(Value, PathBuf)> {
    let job = gateway.json(&["failover", "unplanned", "--group", "erp", "--point", point])?;
    let paths = job["result"]["paths"].as_array().into_iter().flatten().filter_map(Value::as_str);
    let path = paths.into_iter().find(|path| path.ends_with("erp-data.img")).map(PathBuf::from);
    Ok((job.clone(), path.with_context(|| format!("the job names no path: {job}"))?))
}

#[test]
fn hooks_at_an_agent_make_points_of_whole_transactions_and_nobody_stays_held() {
    let mut shop = Shop::open("agent-hooks", "20s", None).unwrap();
    shop.start().unwrap();
    let application = Application::start(shop.agent.file(), &shop.server);
    application.goes_on().unwrap();

    // At the policy's interval, which the agent was told; and when somebody asks, from another gateway.
    shop.another("erp").unwrap();
    let ask = ["point", "take", "--group", "erp", "--app-consistent", "--label", "month's end"];
    let taken = once_heard(shop.estate.standby().unwrap(), &ask, || shop.agent.log()).unwrap();
    let id = taken["result"]["point_id"].clone();
    let listed = eventually("the point to be listed", SETTLES_WITHIN, || {
        Ok(shop.app_points("erp")?.into_iter().find(|point| point["id"] == id))
    })
    .unwrap();
    assert_eq!(listed["label"], "month's end");
    application.goes_on().unwrap();

    // One that fails: no such point, whoever asks is told why, and so is everybody else; the points without go on.
    shop.mode("fail").unwrap();
    let refused = shop.estate.standby().unwrap().run(&ask).unwrap();
    assert!(refused.failure().to_string().contains("the database says no"), "{}", refused.failure());
    eventually("the failure to be told", SETTLES_WITHIN, || {
        Ok(shop.reasons()?.contains("the database says no").then_some(()))
    })
    .with_context(|| format!("{}\n{}", shop.reasons().unwrap_or_default(), shop.agent.log()))
    .unwrap();
    let last_point = || shop.agent.status().map(|status| status["last_point"].to_string());
    let before = last_point();
    eventually("points to go on", SETTLES_WITHIN, || Ok((last_point() != before).then_some(()))).unwrap();
    application.goes_on().unwrap();
    shop.mode("hold").unwrap();
    shop.another("erp").unwrap();
    // The job that failed stands there until one succeeds.
    shop.estate.standby().unwrap().run(&ask).unwrap().ok().unwrap();
    eventually("the failure to be over", SETTLES_WITHIN, || {
        Ok((!shop.reasons()?.contains("the database says no")).then_some(()))
    })
    .with_context(|| shop.reasons().unwrap_or_default())
    .unwrap();

    // Killed while it holds the application, with what was running: the next start lets the application go.
    let hanging = shop.server.join("hanging");
    shop.mode("hang").unwrap();
    eventually("a hook that doesn't end", SETTLES_WITHIN, || Ok(hanging.exists().then_some(()))).unwrap();
    assert!(application.is_held());
    shop.agent.kill9().unwrap();
    let orphan = fs::read_to_string(&hanging).unwrap().trim().parse().ok().and_then(Pid::from_raw).unwrap();
    // It may have reached its own limit just before.
    let _ = kill_process(orphan, Signal::KILL);
    shop.mode("hold").unwrap();
    shop.agent.start().unwrap();
    application.goes_on().with_context(|| shop.agent.log()).unwrap();
    shop.another("erp").unwrap();

    // The server burns. What comes up is a transaction as it was.
    let written = application.end();
    shop.agent.kill9().unwrap();
    let (job, path) = failed_over(shop.estate.standby().unwrap(), "latest-app-consistent").unwrap();
    let found = whole_transaction(&path).with_context(|| job.to_string()).unwrap();
    assert!(found > 0 && found <= written + 1, "{found} of {written}");
}

#[test]
fn a_hook_that_hangs_is_ended_and_an_agent_that_comes_back_too_late_still_lets_its_application_go() {
    let mut shop = Shop::open("agent-hang", "5s", None).unwrap();
    shop.start().unwrap();
    let application = Application::start(shop.agent.file(), &shop.server);
    shop.another("erp").unwrap();
    let hanging = shop.server.join("hanging");
    shop.mode("hang").unwrap();
    eventually("a hook that doesn't end", SETTLES_WITHIN, || Ok(hanging.exists().then_some(()))).unwrap();
    // It is ended after its five seconds, the second one runs, and people are told.
    application.goes_on().unwrap();
    eventually("people to be told", SETTLES_WITHIN, || Ok(shop.reasons()?.contains("within 5 s").then_some(())))
        .with_context(|| shop.reasons().unwrap_or_default())
        .unwrap();

    // Killed while it holds the application, and its group is taken over before it is back: it takes no points any more, and lets the
    // application go all the same.
    fs::remove_file(&hanging).unwrap();
    eventually("a hook that doesn't end", SETTLES_WITHIN, || Ok(hanging.exists().then_some(()))).unwrap();
    shop.agent.kill9().unwrap();
    let orphan = fs::read_to_string(&hanging).unwrap().trim().parse().ok().and_then(Pid::from_raw).unwrap();
    let _ = kill_process(orphan, Signal::KILL);
    let (_, path) = failed_over(shop.estate.standby().unwrap(), "latest-app-consistent").unwrap();
    whole_transaction(&path).unwrap();
    shop.agent.start().unwrap();
    eventually("the agent to say that it is fenced", SETTLES_WITHIN, || {
        Ok(shop.agent.status().filter(|status| status["state"] == "fenced").map(drop))
    })
    .with_context(|| shop.agent.log())
    .unwrap();
    eventually("the application to be let go", SETTLES_WITHIN, || {
        Ok((!shop.server.join("hold").exists()).then_some(()))
    })
    .with_context(|| shop.agent.log())
    .unwrap();
    application.end();
}

#[test]
fn an_agent_with_hooks_shares_application_consistent_points() {
    let consistency = free_address().unwrap().to_string();
    let mut shop = Shop::open("agent-shares", "20s", Some(&consistency)).unwrap();
    shop.start().unwrap();
    for group in [GROUP, "erp"] {
        let share = ["group", "share", group, "--replication-group", "site", "--shared-every", "5s"];
        shop.estate.primary.run(&share).unwrap().ok().unwrap();
    }
    let application = Application::start(shop.agent.file(), &shop.server);
    let orders = File::options().write(true).open(shop.estate.primary.volume("orders")).unwrap();
    let mut stamp = 0_u64;
    let both = || -> Result<Option<Value>> {
        let other = shop.app_points(GROUP)?;
        Ok(shop.app_points("erp")?.into_iter().find(|point| other.iter().any(|one| one["id"] == point["id"])))
    };
    eventually("an application-consistent point that both have", SETTLES_WITHIN, || {
        stamp += 1;
        orders.write_all_at(&stamp.to_le_bytes().repeat(512), 0)?;
        orders.sync_data()?;
        both()
    })
    .with_context(|| format!("{}\n{}", shop.agent.log(), shop.estate.primary.log_tail()))
    .unwrap();
    application.goes_on().unwrap();
    application.end();
    shop.agent.kill9().unwrap();
    let (job, path) = failed_over(shop.estate.standby().unwrap(), "latest-shared-app-consistent").unwrap();
    whole_transaction(&path).with_context(|| job.to_string()).unwrap();
    let other = shop.app_points(GROUP).unwrap();
    assert!(other.iter().any(|point| point["id"] == job["result"]["point_id"]), "{job}: {other:?}");
}
