//! A gateway as a service: what it tells systemd, and what it tells of itself as a process server.

use std::os::unix::net::UnixDatagram;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use lifeboat_acceptance::estate::{Api, Estate, Place};
use lifeboat_acceptance::eventually;
use lifeboat_acceptance::gateway::{Gateway, free_address};
use lifeboat_acceptance::scratch::Scratch;

const WITHIN: Duration = Duration::from_secs(60);

/// What was told, up to the first word of this kind.
fn told_until(socket: &UnixDatagram, wanted: &str) -> Result<Vec<String>> {
    let (begun, mut told) = (Instant::now(), Vec::new());
    while begun.elapsed() < WITHIN {
        let mut bytes = [0; 2048];
        let length = socket.recv(&mut bytes).with_context(|| format!("{wanted} was not told, but {told:?}"))?;
        told.push(String::from_utf8_lossy(&bytes[..length]).into_owned());
        if told.last().is_some_and(|last| last.starts_with(wanted)) {
            return Ok(told);
        }
    }
    anyhow::bail!("{wanted} was not told within {WITHIN:?}, but {told:?}")
}

#[test]
fn systemd_is_told_that_a_gateway_is_up_lives_and_stops() {
    let scratch = Scratch::new("service").unwrap();
    let path = scratch.path().join("notify");
    let socket = UnixDatagram::bind(&path).unwrap();
    socket.set_read_timeout(Some(WITHIN)).unwrap();
    let dir = scratch.path().join("gateway");
    std::fs::create_dir_all(&dir).unwrap();
    let mut gateway = Gateway::prepare("onprem", "service", &dir).unwrap();
    gateway.env("NOTIFY_SOCKET", &path).env("WATCHDOG_USEC", "3000000");
    gateway.restart().unwrap();
    let told = told_until(&socket, "READY=1").unwrap();
    assert!(told.iter().all(|word| word.starts_with("STATUS=") || word == "READY=1"), "{told:?}");
    let told = told_until(&socket, "WATCHDOG=1").unwrap();
    let more = told_until(&socket, "WATCHDOG=1").unwrap();
    assert!(
        told.iter().chain(&more).all(|word| word.starts_with("STATUS=") || word == "WATCHDOG=1"),
        "{told:?} {more:?}"
    );
    gateway.stop().unwrap();
    let told = told_until(&socket, "STOPPING=1").unwrap();
    assert_eq!(told.last().map(String::as_str), Some("STOPPING=1"), "{told:?}");
}

#[test]
fn a_process_server_says_how_it_is_in_the_api_on_the_command_line_and_in_its_metrics() {
    let (first, second) = (free_address().unwrap().to_string(), free_address().unwrap().to_string());
    let place = |args: &[&str]| Place { args: args.iter().map(|arg| (*arg).to_owned()).collect(), ..Place::default() };
    let scratch = Scratch::new("process-server").unwrap();
    let vault = format!("file://{}", scratch.path().join("vault").display());
    let places = [
        place(&["--listen-data", &first, "--data-address", "ps.example.org:9443"]),
        place(&["--listen-data", &second]),
    ];
    let mut estate = Estate::protect_between("process-server", &vault, places, &[("data", 1 << 20)]).unwrap();
    estate.add_standby().unwrap();
    estate.open_vault_at_standby().unwrap();

    // Of itself as it is now, of the other one as that wrote it down; whichever is asked.
    let gateways = [&estate.primary, estate.standby().unwrap()];
    for asked in gateways {
        let found = eventually("both process servers to be shown", WITHIN, || {
            let list = asked.json(&["gateway", "list"])?;
            let list = list["items"].as_array().or(list.as_array()).cloned().unwrap_or_default();
            let shown: Vec<_> = list.into_iter().filter(|one| one["status"]["process_server"].is_object()).collect();
            Ok((shown.len() == 2).then_some(shown))
        })
        .unwrap();
        for gateway in found {
            let server = &gateway["status"]["process_server"];
            let here = gateway["spec"]["name"] == gateways[0].name();
            let address = if here { "ps.example.org:9443" } else { second.as_str() };
            assert_eq!(server["address"], address, "{server}");
            assert_eq!(
                (server["agents"].as_u64(), server["cache_bytes_used"].as_u64()),
                (Some(0), Some(0)),
                "{server}"
            );
            for figure in ["memory_bytes_used", "memory_bytes_total", "disk_bytes_total", "cache_bytes_limit"] {
                assert!(server[figure].as_u64().is_some_and(|bytes| bytes > 0), "{figure}: {server}");
            }
        }
    }
    let text = estate.primary.run(&["gateway", "list"]).unwrap().ok().unwrap();
    assert!(text.contains("PROCESS SERVER") && text.contains(", 0 agents"), "{text}");

    let metrics = Api::of(&estate.primary).unwrap().call(async |client| client.get_text("/metrics").await).unwrap();
    for name in [
        "lifeboat_gateway_memory_used_bytes",
        "lifeboat_gateway_disk_free_bytes",
        "lifeboat_process_server_health",
        "lifeboat_process_server_agents",
        "lifeboat_process_server_cache_limit_bytes",
    ] {
        assert!(metrics.lines().any(|line| line.starts_with(&format!("{name}{{gateway="))), "{name}: {metrics}");
    }
}
