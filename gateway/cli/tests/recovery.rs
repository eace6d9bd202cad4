//! A recovery declared by hand: networks, a mapping, a machine and a plan through the binary.

mod support;

use serde_json::Value;
use support::{Gateway, write_passphrase};

/// A gateway with a vault, two sites, a group and a volume, and networks at both sites.
fn prepared() -> Gateway {
    let gateway = Gateway::start();
    let key = write_passphrase(gateway.dir.path());
    let url = format!("file://{}", gateway.dir.path().join("vault").display());
    gateway.json(&["vault", "create", &url, "--name", "main", "--key", &key]);
    for site in ["onprem", "recovery"] {
        gateway.json(&["site", "create", "--name", site]);
    }
    gateway.json(&["gateway", "create", "--name", "primary", "--site", "onprem"]);
    gateway.json(&["policy", "create", "--name", "standard", "--retain", "all:1h"]);
    gateway.json(&["group", "create", "--name", "erp", "--site", "onprem", "--policy", "standard"]);
    let volume = ["volume", "create", "--name", "disk", "--gateway", "primary", "--group", "erp", "--size", "1MiB"];
    gateway.json(&[&volume[..], &["--no-wait"]].concat());
    let subnet = "web=10.20.0.0/24,10.20.0.1";
    gateway
        .json(&["network", "create", "--name", "servers", "--site", "onprem", "--bridge", "br0", "--subnet", subnet]);
    gateway.json(&["network", "create", "--name", "servers", "--site", "recovery", "--subnet", "dmz=10.30.0.0/24"]);
    gateway
}

const MACHINE: [&str; 9] = ["machine", "create", "--name", "web", "--group", "erp", "--memory", "512MiB", "--disk"];

#[test]
fn a_recovery_is_declared_shown_and_deleted() {
    let gateway = prepared();
    // Two sites have a network of that name: which one is said with the site, or by id.
    let line = gateway.refused(&["network", "show", "servers"], 4);
    assert!(line.contains("use an id"), "{line}");
    let source = gateway.json(&["network", "show", "onprem/servers"]);
    assert_eq!(source["spec"]["subnet"][0]["gateway"], "10.20.0.1");
    assert_eq!(source, gateway.json(&["network", "show", source["id"].as_str().expect("an id")]));
    gateway.refused(&["network", "show", "elsewhere/servers"], 3);

    let mapping = ["network-mapping", "create", "--source", "onprem/servers", "--target", "recovery/servers"];
    let line = gateway.refused(&mapping, 2);
    assert!(line.contains("what becomes of the subnet \"web\""), "{line}");
    let mapping = gateway.json(&[&mapping[..], &["--subnet", "web=dmz"]].concat());
    let name = "onprem/servers to recovery/servers";
    assert_eq!(gateway.json(&["network-mapping", "show", name])["id"], mapping["id"]);
    let listed = gateway.text(&["network-mapping", "list"]);
    assert!(listed.contains("web to dmz") && listed.contains("keep-or-next-free"), "{listed}");

    let interface = |address| [&MACHINE[..], &["disk", "--interface", address]].concat();
    let line = gateway.refused(&interface("onprem/servers=10.20.0.1"), 2);
    assert!(line.contains("network_interface[0].address"), "{line}");
    let machine = gateway.json(&interface("onprem/servers=10.20.0.11"));
    assert_eq!(machine["spec"]["memory_mib"], 512);
    assert!(gateway.text(&["machine", "list"]).contains("512 MiB"));
    assert!(gateway.text(&["machine", "show", "web"]).contains("mac_addresses"));

    let plan = ["plan", "create", "--name", "erp", "--source", "onprem", "--target", "recovery", "--boot", "web"];
    let plan = gateway.json(&plan);
    assert_eq!(plan["status"]["readiness"], "not-ready", "{plan}");
    let listed = gateway.text(&["plan", "list"]);
    let cells: Vec<&str> = listed.lines().nth(1).expect("a row").split_whitespace().collect();
    assert_eq!(cells.get(..3), Some(&["erp", "onprem", "recovery"][..]), "{listed}");
    let reasons = gateway.json(&["plan", "show", "erp"])["status"]["reasons"].to_string();
    assert!(reasons.contains("no gateway of the site recovery has registered"), "{reasons}");

    // From the plan to the networks: what is used stays, and says by what.
    for (arguments, user) in [
        (["machine", "delete", "web"], "plan erp"),
        (["volume", "delete", "disk"], "machine web"),
        (["network", "delete", "onprem/servers"], "machine web"),
        (["network", "delete", "recovery/servers"], "network mapping onprem/servers"),
    ] {
        let line = gateway.refused(&arguments, 4);
        assert!(line.contains(user), "{arguments:?}: {line}");
    }
    for arguments in [["plan", "delete", "erp"], ["machine", "delete", "web"], ["network-mapping", "delete", name]] {
        assert_eq!(gateway.json(&arguments)["deleted"], Value::Bool(true), "{arguments:?}");
    }
    for network in ["onprem/servers", "recovery/servers"] {
        gateway.text(&["network", "delete", network]);
    }
    assert_eq!(gateway.text(&["network", "list"]), "no network is declared\n");
}
