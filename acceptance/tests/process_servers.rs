//! Several process servers and several agents: real processes, real mounts, mutual TLS. Agents spread; one whose cache is full sends
//! others on; and when a site has none left, a gateway at the recovery site stands in, also for the way back.

use std::path::Path;

use anyhow::{Context, Result};
use lifeboat_acceptance::agent::{Agent, SETTLES_WITHIN, once_heard};
use lifeboat_acceptance::content::{content, scribble};
use lifeboat_acceptance::estate::{Api, Estate, Place};
use lifeboat_acceptance::eventually;
use lifeboat_acceptance::gateway::{Gateway, free_address};
use lifeboat_acceptance::scratch::Scratch;
use lifeboat_api::{BandwidthLimit, Policy, PolicySpec};
use serde_json::Value;

const SIZE: u64 = 24 << 20;

fn free() -> String {
    free_address().expect("a port").to_string()
}

fn place(args: &[&str]) -> Place {
    Place { args: args.iter().map(|arg| (*arg).to_owned()).collect(), ..Place::default() }
}

/// A second gateway at home, which takes agents in.
fn second_at_home(estate: &Estate, args: &[&str]) -> Result<Gateway> {
    estate.primary.run(&["gateway", "create", "--site", "onprem", "--name", "second"])?.ok()?;
    let dir = estate.dir().join("second");
    std::fs::create_dir_all(&dir)?;
    let mut gateway = Gateway::prepare("onprem", "second", &dir)?;
    for arg in args {
        gateway.arg(*arg);
    }
    gateway.restart()?;
    let key = estate.key_file().display().to_string();
    gateway.run(&["vault", "open", estate.vault_url(), "--key-file", &key])?.ok()?;
    Ok(gateway)
}

/// What a gateway says of a process server, by the name of its gateway.
fn process_server(asked: &Gateway, name: &str) -> Result<Value> {
    Ok(asked.json(&["gateway", "show", name])?["status"]["process_server"].clone())
}

/// Events of a kind, as a gateway has them.
fn events(asked: &Gateway, kind: &str) -> Result<Vec<Value>> {
    let list = asked.json(&["event", "list", "--limit", "1000"])?;
    let list = list["items"].as_array().or(list.as_array()).cloned().unwrap_or_default();
    Ok(list.into_iter().filter(|event| event["kind"] == kind).collect())
}

/// A policy like `standard` that ships so much in a second and no more.
fn slow_policy(estate: &Estate, mbps: u32) -> Result<()> {
    let api = Api::of(&estate.primary)?;
    api.call(async |client| {
        let standard = client.find_by_name::<Policy>("standard").await?.expect("the estate's policy");
        let limit = BandwidthLimit { mbps, days: Vec::new(), start: None, end: None, timezone: None };
        let spec = PolicySpec { name: "slow".into(), bandwidth_limit: vec![limit], ..standard.spec };
        client.create::<Policy>(&spec).await.map(drop)
    })
    .context("declare a slow policy")
}

#[test]
fn agents_spread_and_one_that_waits_for_another_ones_records_is_sent_where_there_is_room() {
    let servers = [free(), free()];
    let scratch = Scratch::new("spread").unwrap();
    let vault = format!("file://{}", scratch.path().join("vault").display());
    // Little room: one agent fills that within seconds.
    let args = |server: usize| ["--listen-data", &servers[server], "--cache-bytes", "8MiB"];
    let places = [place(&args(0)), Place::default()];
    let estate = Estate::protect_between("spread", &vault, places, &[("other", 1 << 20)]).unwrap();
    let second = second_at_home(&estate, &args(1)).unwrap();
    slow_policy(&estate, 1).unwrap();
    eventually("both to be process servers", SETTLES_WITHIN, || {
        let shown = [process_server(&estate.primary, "primary")?, process_server(&estate.primary, "second")?];
        Ok(shown.iter().all(Value::is_object).then_some(()))
    })
    .unwrap();

    // One after the other comes, and goes where there are fewer. They know one process server: that there are two they are told.
    let endpoints = [estate.primary.endpoint(), second.endpoint()];
    let mut agents = Vec::new();
    for name in ["one", "two", "three"] {
        let dir = scratch.path().join(name);
        let mut agent = Agent::enrol(&dir, name, SIZE, &estate.primary, &[&servers[0]], &endpoints).unwrap();
        agent.under_policy("slow").start().unwrap();
        agent.settled(&[&servers[0], &servers[1]]).unwrap();
        agents.push(agent);
    }
    let at = |server: &str, agents: &[Agent]| {
        agents.iter().filter(|agent| agent.server().as_deref() == Some(server)).count()
    };
    assert_eq!(at(&servers[0], &agents), 3, "each knew the first one and was well there");

    // A restart makes them choose anew, one after the other.
    for agent in &mut agents {
        agent.stop().unwrap();
    }
    for agent in &mut agents {
        agent.start().unwrap();
        agent.settled(&[&servers[0], &servers[1]]).unwrap();
    }
    let counts = servers.each_ref().map(|server| at(server, &agents));
    assert!(counts == [2, 1] || counts == [1, 2], "{counts:?}");

    // One of two writes more than can be shipped; the other one is sent on, and its writes go through.
    let full = usize::from(counts[1] == 2);
    let other = 1 - full;
    let there: Vec<usize> = (0..3).filter(|one| agents[*one].server().as_deref() == Some(&servers[full])).collect();
    let (heavy, light) = (there[0], there[1]);
    scribble(&agents[heavy].file(), 7, 3000).unwrap();
    let names = ["primary", "second"];
    let told = eventually("an agent to be sent on", SETTLES_WITHIN, || {
        Ok(events(&estate.primary, "agent.sent_away")?.into_iter().next())
    })
    .with_context(|| format!("{:?}", process_server(&estate.primary, names[full])))
    .unwrap();
    assert!(told["message"].as_str().is_some_and(|text| text.contains("cache here is nearly full")), "{told}");
    scribble(&agents[light].file(), 8, 20).unwrap();
    agents[light].settled(&[&servers[other]]).unwrap();
    let alarms = events(&estate.primary, "process_server.health").unwrap();
    let critical = alarms.iter().filter(|event| event["severity"] == "critical");
    let critical: Vec<&str> = critical.filter_map(|event| event["message"].as_str()).collect();
    let of_the_cache = critical.iter().filter(|text| text.contains(names[full]) && text.contains("of its cache of"));
    assert_eq!(of_the_cache.count(), 1, "once: {critical:?}");
    // The other two stay where they were, and nothing is lost on either way.
    assert_eq!(agents[heavy].server().as_deref(), Some(servers[full].as_str()));
    let there = content(&agents[light].file()).unwrap();
    agents[light].stop().unwrap();
    let path = recovered(&estate.primary, ["one", "two", "three"][light]).unwrap();
    assert!(content(Path::new(&path)).unwrap() == there, "what the agent had, through both process servers");
}

/// Fails a group over to a gateway, and gives the file of its volume there.
fn recovered(gateway: &Gateway, group: &str) -> Result<String> {
    let job = gateway.json(&["failover", "unplanned", "--group", group])?;
    let paths = job["result"]["paths"].as_array().into_iter().flatten().filter_map(Value::as_str);
    let wanted = format!("{group}-data.img");
    let path = paths.into_iter().find(|path| path.ends_with(&wanted)).map(str::to_owned);
    path.with_context(|| format!("the job names no path: {job}"))
}

#[test]
fn a_gateway_at_the_recovery_site_stands_in_for_process_servers_that_are_gone_also_for_the_way_back() {
    let (home, away) = (free(), free());
    let scratch = Scratch::new("stand-in").unwrap();
    let vault = format!("file://{}", scratch.path().join("vault").display());
    let places = [place(&["--listen-data", &home]), Place::default()];
    let mut estate = Estate::protect_between("stand-in", &vault, places, &[("other", 1 << 20)]).unwrap();
    estate.add_standby().unwrap();
    estate.open_vault_at_standby().unwrap();
    let endpoints = [estate.primary.endpoint(), estate.standby().unwrap().endpoint()];
    let mut agent =
        Agent::enrol(&scratch.path().join("server"), "erp", SIZE, &estate.primary, &[&home], &endpoints).unwrap();
    agent.start().unwrap();
    scribble(&agent.file(), 2, 100).unwrap();
    agent.settled(&[&home]).unwrap();

    // The site loses its process server for good, and the group fails over; the server itself is well, and doesn't know.
    estate.primary.kill9().unwrap();
    scribble(&agent.file(), 3, 30).unwrap();
    let path = recovered(estate.standby().unwrap(), "erp").unwrap();
    scribble(Path::new(&path), 5, 40).unwrap();
    let refused = estate.standby().unwrap().run(&["failback", "--group", "erp"]).unwrap();
    assert!(refused.code() != 0, "nobody hears the agent: {}", refused.stdout);

    // A gateway that never had agents takes them in for a while. The agent is told by a gateway that it knows.
    let standby = estate.standby_mut().unwrap();
    standby.stop().unwrap();
    standby.arg("--listen-data").arg(&away);
    standby.restart().unwrap();
    eventually("the agent to say that it is fenced", SETTLES_WITHIN, || {
        Ok(agent.status().filter(|status| status["state"] == "fenced").map(drop))
    })
    .with_context(|| agent.log())
    .unwrap();
    let standby = estate.standby().unwrap();
    let there = content(Path::new(&path)).unwrap();
    let job = once_heard(standby, &["failback", "--group", "erp"], || agent.log()).unwrap();
    assert_eq!(job["state"], "succeeded", "{job}");
    assert!(job["result"]["orphan_branch_id"].is_string(), "what it wrote meanwhile is kept: {job}");
    assert!(content(&agent.file()).unwrap() == there, "its own disk has what the recovery site had");
    scribble(&agent.file(), 6, 20).unwrap();
    agent.settled(&[&away]).unwrap();

    // Home is built again, and the stand-in is taken away: the agent goes on at home.
    estate.primary.restart().unwrap();
    let standby = estate.standby_mut().unwrap();
    standby.stop().unwrap();
    standby.without("--listen-data");
    standby.restart().unwrap();
    scribble(&agent.file(), 7, 20).unwrap();
    agent.settled(&[&home]).unwrap();
    let shown = process_server(estate.standby().unwrap(), "standby").unwrap();
    assert!(shown.is_null(), "it is none any more: {shown}");
    let here = content(&agent.file()).unwrap();
    agent.stop().unwrap();
    let path = recovered(estate.standby().unwrap(), "erp").unwrap();
    assert!(content(Path::new(&path)).unwrap() == here, "everything, over all three");
}
