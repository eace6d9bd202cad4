//! What is refused and what is replaced, at plan, through the protocol.

mod session;

use session::{Plan, Session};
use tf_provider_sdk::{Object, Value};

const VOLUME: &str = "lifeboat_volume";
const VAULT: &str = "lifeboat_vault";
const POLICY: &str = "lifeboat_replication_policy";

fn id(prefix: &str, last: u8) -> String {
    format!("{prefix}-{last:032x}")
}

fn volume() -> Object {
    Object::new()
        .with("name", "db")
        .with("gateway_id", id("gw", 1))
        .with("group_id", id("grp", 1))
        .with("size_gib", 2_u64)
}

/// As a refresh left it.
fn volume_state() -> Object {
    volume()
        .with("id", id("vol", 1))
        .with("allow_replace", false)
        .with("path", "/mnt/primary/volumes/db.img")
        .with("nbd_url", "nbd://127.0.0.1:10809/db")
        .with("home_gateway_id", id("gw", 1))
        .with("state", "protected")
        .with("active_site", "onprem")
        .with("health", "healthy")
        .with("landed_rpo_seconds", 1.5_f64)
        .with("latest_recovery_point", "2026-11-20T10:05:00Z")
}

fn vault() -> Object {
    let encryption = Object::new().with("key_source", "passphrase").with("passphrase", "correct horse");
    Object::new().with("name", "main").with("storage_url", "file:///srv/vault").with("encryption", encryption)
}

fn vault_state() -> Object {
    let encryption = Object::new().with("key_source", "passphrase").with("passphrase_version", 1_u64);
    vault()
        .with("encryption", encryption)
        .with("id", id("vlt", 1))
        .with("soft_delete_days", 14_u64)
        .with("second_approval", false)
        .with("vault_uuid", id("vlt", 1))
        .with("format_version", 1_u64)
        .with("health", "healthy")
}

fn rule(every: impl Into<String>, keep: impl Into<String>) -> Object {
    Object::new().with("every", every.into()).with("for", keep.into())
}

fn policy() -> Object {
    Object::new()
        .with("vault_id", id("vlt", 1))
        .with("name", "gold")
        .with("retention", vec![rule("all", "1h"), rule("5m", "24h"), rule("1h", "15d")])
}

async fn plan(name: &str, prior: Option<Object>, config: Option<Object>) -> Plan {
    let mut session = Session::start().await;
    session.configure_unknown().await;
    let plan = session.plan(name, prior.as_ref(), config.as_ref()).await;
    session.end().await;
    plan
}

async fn validate(name: &str, config: Object) -> Vec<String> {
    let mut session = Session::start().await;
    let said = session.validate(name, config).await;
    session.end().await;
    said
}

#[track_caller]
fn assert_one(said: &[String], beginning: &str, part: &str) {
    assert_eq!(said.len(), 1, "{said:#?}");
    assert!(said[0].starts_with(beginning) && said[0].contains(part), "{beginning:?} … {part:?} not in {:?}", said[0]);
}

#[tokio::test]
async fn what_moves_by_itself_makes_no_plan() {
    let plan = plan(VOLUME, Some(volume_state().with("active_site", "recovery")), Some(volume())).await;
    assert!(plan.said.is_empty() && plan.replaces.is_empty(), "{:?} {:?}", plan.said, plan.replaces);
    let before = session::resource(VOLUME).schema().conform(volume_state().with("active_site", "recovery")).unwrap();
    assert_eq!(plan.planned.unwrap(), before);
}

#[tokio::test]
async fn a_volume_grows_in_place_and_promises_nothing_new() {
    let plan = plan(VOLUME, Some(volume_state()), Some(volume().with("size_gib", 3_u64))).await;
    assert!(plan.said.is_empty() && plan.replaces.is_empty(), "{:?} {:?}", plan.said, plan.replaces);
    assert!(plan.planned.unwrap().is_wholly_known());
}

#[tokio::test]
async fn a_volume_never_shrinks() {
    let plan = plan(VOLUME, Some(volume_state()), Some(volume().with("size_gib", 1_u64))).await;
    assert_one(&plan.said, "size_gib: A volume never shrinks", "has 2 GiB");
}

#[tokio::test]
async fn a_volume_is_replaced_only_when_told_so() {
    for (name, value) in [("name", "db2".to_owned()), ("gateway_id", id("gw", 2)), ("group_id", id("grp", 2))] {
        let changed = volume().with(name, &value);
        let refused = plan(VOLUME, Some(volume_state()), Some(changed.clone())).await;
        assert_one(&refused.said, &format!("{name}: A volume with data would be replaced"), "allow_replace = true");
        let allowed = plan(VOLUME, Some(volume_state()), Some(changed.with("allow_replace", true))).await;
        assert!(allowed.said.is_empty(), "{:?}", allowed.said);
        assert_eq!(allowed.replaces, [name]);
    }
    // A new gateway, whose id isn't known yet, is another gateway.
    let unknown = plan(VOLUME, Some(volume_state()), Some(volume().with("gateway_id", Value::Unknown))).await;
    assert_one(&unknown.said, "gateway_id: A volume with data would be replaced", "");
}

#[tokio::test]
async fn a_volume_changes_its_policy_in_place_and_its_group_never() {
    let mut alone = volume().with("policy_id", id("pol", 1));
    alone.remove("group_id");
    let state = volume_state().with("policy_id", id("pol", 1));
    let unchanged = plan(VOLUME, Some(state.clone()), Some(alone.clone())).await;
    assert!(unchanged.said.is_empty() && unchanged.replaces.is_empty());

    let other = plan(VOLUME, Some(state.clone()), Some(alone.with("policy_id", id("pol", 2)))).await;
    assert!(other.said.is_empty() && other.replaces.is_empty(), "{:?} {:?}", other.said, other.replaces);

    // As generated from an import: the group is the one that the volume has for itself.
    let both = plan(VOLUME, Some(state.clone()), Some(volume().with("policy_id", id("pol", 1)))).await;
    assert!(both.said.is_empty() && both.replaces.is_empty(), "{:?} {:?}", both.said, both.replaces);
    let elsewhere = volume().with("policy_id", id("pol", 1)).with("group_id", id("grp", 2));
    let elsewhere = plan(VOLUME, Some(state), Some(elsewhere)).await;
    assert_one(&elsewhere.said, "group_id: A volume with data would be replaced", "");

    let mut leaving = volume().with("policy_id", id("pol", 1));
    leaving.remove("group_id");
    let leaves = plan(VOLUME, Some(volume_state()), Some(leaving)).await;
    assert_one(&leaves.said, "policy_id: A volume with data would be replaced", "");
}

#[tokio::test]
async fn a_vault_is_never_replaced() {
    for (name, value) in [("name", "other"), ("storage_url", "file:///srv/other")] {
        let plan = plan(VAULT, Some(vault_state()), Some(vault().with(name, value))).await;
        assert_one(&plan.said, &format!("{name}: A vault is never replaced"), "");
    }
    let days = plan(VAULT, Some(vault_state()), Some(vault().with("soft_delete_days", 30_u64))).await;
    assert!(days.said.is_empty() && days.replaces.is_empty());
}

#[tokio::test]
async fn a_passphrase_is_in_no_plan_and_an_imported_vault_needs_none() {
    let created = plan(VAULT, None, Some(vault())).await.planned.unwrap();
    assert_eq!(created.at("encryption.passphrase"), Some(&Value::Null));
    assert_eq!(created.at("encryption.passphrase_version"), Some(&Value::Number(1.into())));
    let imported = plan(VAULT, Some(vault_state()), Some(vault())).await;
    assert!(imported.said.is_empty());
    assert_eq!(imported.planned.unwrap(), session::resource(VAULT).schema().conform(vault_state()).unwrap());
}

#[tokio::test]
async fn places_are_replaced() {
    let site = Object::new().with("vault_id", id("vlt", 1)).with("name", "onprem");
    let state = site.clone().with("id", id("site", 1)).with("gateway_ids", Vec::<String>::new());
    let moved = plan("lifeboat_site", Some(state.clone()), Some(site.clone().with("name", "elsewhere"))).await;
    assert_eq!(moved.replaces, ["name"]);
    let described = plan("lifeboat_site", Some(state), Some(site.with("description", "cellar"))).await;
    assert!(described.replaces.is_empty() && described.said.is_empty());
}

#[tokio::test]
async fn sound_configurations_are_accepted_known_or_not() {
    assert_eq!(validate(VOLUME, volume()).await, Vec::<String>::new());
    assert_eq!(validate(VAULT, vault()).await, Vec::<String>::new());
    assert_eq!(validate(POLICY, policy()).await, Vec::<String>::new());
    let unknown =
        volume().with("gateway_id", Value::Unknown).with("group_id", Value::Unknown).with("size_gib", Value::Unknown);
    assert_eq!(validate(VOLUME, unknown).await, Vec::<String>::new());
    let encryption = Object::new().with("key_source", Value::Unknown).with("passphrase", Value::Unknown);
    assert_eq!(validate(VAULT, vault().with("encryption", encryption)).await, Vec::<String>::new());
    let unknown = policy().with("recovery_point_interval", Value::Unknown).with("rpo_threshold", Value::Unknown);
    assert_eq!(validate(POLICY, unknown).await, Vec::<String>::new());
    let generated = policy().with("retention", Value::Unknown);
    assert_eq!(validate(POLICY, generated).await, Vec::<String>::new());
}

#[tokio::test]
async fn bad_volumes_are_refused_under_their_attribute() {
    let cases: [(&str, Value, &str); 6] = [
        ("name", Value::String("a/b".into()), "can't be a name"),
        ("size_gib", Value::Number("0.0001".parse().unwrap()), "size_gib"),
        ("size_gib", Value::Number(70_000_u64.into()), "64 TiB"),
        ("gateway_id", Value::String(id("site", 1)), "is no gateway id"),
        ("group_id", Value::Null, "Either group_id or policy_id is required"),
        ("cache_gib", Value::Number("0.01".parse().unwrap()), "cache_gib"),
    ];
    for (name, value, part) in cases {
        assert_one(&validate(VOLUME, volume().with(name, value)).await, &format!("{name}: "), part);
    }
    let both = plan(VOLUME, None, Some(volume().with("policy_id", id("pol", 1)))).await;
    assert_one(&both.said, "policy_id: ", "set group_id or policy_id, not both");
}

#[tokio::test]
async fn bad_vaults_are_refused_under_their_attribute() {
    assert_one(
        &validate(VAULT, vault().with("storage_url", "s3a://bucket/prefix")).await,
        "storage_url: ",
        "is no storage URL",
    );
    assert_one(
        &validate(VAULT, vault().with("storage_url", "file:///srv/vault/")).await,
        "storage_url: ",
        "without a slash",
    );
    assert_one(&validate(VAULT, vault().with("soft_delete_days", 9999_u64)).await, "soft_delete_days: ", "3650");
    let short = Object::new().with("key_source", "passphrase").with("passphrase", "short");
    let said = validate(VAULT, vault().with("encryption", short)).await;
    assert_one(&said, "encryption.passphrase: ", "at least 8 characters");
    assert!(!said[0].contains("short"), "a passphrase is in no message");
    let kms = Object::new().with("key_source", "kms");
    assert_one(&validate(VAULT, vault().with("encryption", kms)).await, "encryption.kms_key: ", "is required");
    let file = Object::new().with("key_source", "key_file");
    assert_one(&validate(VAULT, vault().with("encryption", file)).await, "encryption.key_file: ", "is required");
}

#[tokio::test]
async fn bad_policies_are_refused_under_their_attribute() {
    let retention = |rules: Vec<Object>| policy().with("retention", rules);
    let order = validate(POLICY, retention(vec![rule("1h", "15d"), rule("2h", "1d")])).await;
    assert_one(&order, "retention[1].for: ", "longer than in the rule before");
    let impossible = validate(POLICY, retention(vec![rule("1s", "1h")])).await;
    assert_one(&impossible, "retention[0].every: ", "recovery_point_interval gives one every 5s");
    // What is known is judged although something else is not.
    let unknown =
        retention(vec![rule("all", "1h"), rule("5 minutes", "1d"), rule("1h", "2d").with("for", Value::Unknown)]);
    assert_one(&validate(POLICY, unknown).await, "retention[1].every: ", "is no duration");
    let window = Object::new().with("window_start", "08:30");
    assert_one(&validate(POLICY, policy().with("resync", window)).await, "resync.window_end: ", "is required");
    let limit = Object::new().with("mbps", 10_u64).with("days", vec!["mon".to_owned(), "monday".to_owned()]);
    assert_one(
        &validate(POLICY, policy().with("bandwidth_limit", vec![limit])).await,
        "bandwidth_limit[0].days[1]: ",
        "monday",
    );
    let fraction = Object::new().with("mbps", 1.5_f64);
    assert_one(
        &validate(POLICY, policy().with("bandwidth_limit", vec![fraction])).await,
        "bandwidth_limit[0].mbps: ",
        "whole",
    );
    assert_one(&validate(POLICY, policy().with("compression", "zstd:20")).await, "compression: ", "zstd:19");
}

#[tokio::test]
async fn bad_gateways_and_groups_are_refused_under_their_attribute() {
    let gateway = Object::new().with("site_id", id("site", 1)).with("name", "primary");
    let roles = gateway.clone().with("roles", Value::Set(vec![Value::String("king".into())]));
    assert_one(&validate("lifeboat_gateway", roles).await, "roles: ", "master_target");
    let empty = gateway.clone().with("roles", Value::Set(Vec::new()));
    assert_one(&validate("lifeboat_gateway", empty).await, "roles: ", "at least one role");
    let path = gateway.with("mount_path", "mnt");
    assert_one(&validate("lifeboat_gateway", path).await, "mount_path: ", "absolute path");
    let group = Object::new()
        .with("vault_id", id("vlt", 1))
        .with("site_id", id("site", 1))
        .with("policy_id", id("pol", 1))
        .with("name", "a b");
    assert_one(&validate("lifeboat_consistency_group", group).await, "name: ", "can't be a name");
}

fn subnet(name: &str, cidr: impl Into<String>) -> Object {
    Object::new().with("name", name).with("cidr", cidr.into())
}

fn network() -> Object {
    let subnets = vec![subnet("web", "10.20.0.0/24").with("gateway", "10.20.0.1"), subnet("db", "10.20.1.0/24")];
    Object::new().with("site_id", id("site", 1)).with("name", "servers").with("subnet", subnets)
}

fn mapping() -> Object {
    Object::new().with("source_network_id", id("net", 1)).with("target_network_id", id("net", 2))
}

fn machine(name: &str, address: &str) -> Object {
    let interface = Object::new().with("network_id", id("net", 1)).with("address", address);
    Object::new()
        .with("site_id", id("site", 1))
        .with("name", name)
        .with("group_id", id("grp", 1))
        .with("cpus", 2_u64)
        .with("memory_mib", 2048_u64)
        .with("disk", vec![Object::new().with("volume_id", Value::Unknown)])
        .with("network_interface", vec![interface])
}

fn machine_state(name: &str, address: &str) -> Object {
    machine(name, address)
        .with("id", id("mch", 1))
        .with("disk", vec![Object::new().with("volume_id", id("vol", 1))])
        .with("firmware", "bios")
        .with("state", "protected")
        .with("active_site", "onprem")
        .with("health", "healthy")
        .with("mac_addresses", vec!["02:01:02:03:04:05".to_owned()])
}

fn boot_group(action: Object) -> Object {
    Object::new().with("machine_ids", vec![id("mch", 1)]).with("pre_action", vec![action])
}

fn recovery_plan(groups: Vec<Object>) -> Object {
    Object::new()
        .with("vault_id", id("vlt", 1))
        .with("name", "erp")
        .with("source_site_id", id("site", 1))
        .with("target_site_id", id("site", 2))
        .with("boot_group", groups)
}

fn action(kind: &str) -> Object {
    Object::new().with("name", "a").with("type", kind)
}

const NETWORK: &str = "lifeboat_network";
const MAPPING: &str = "lifeboat_network_mapping";
const MACHINE: &str = "lifeboat_machine";
const PLAN: &str = "lifeboat_recovery_plan";

#[tokio::test]
async fn what_recovers_is_accepted_known_or_not() {
    let nothing = Vec::<String>::new();
    assert_eq!(validate(NETWORK, network()).await, nothing);
    let unknown = |name: &str| subnet(name, "x").with("cidr", Value::Unknown).with("gateway", "10.20.0.1");
    assert_eq!(validate(NETWORK, network().with("subnet", vec![unknown("a"), unknown("b")])).await, nothing);
    assert_eq!(validate(MAPPING, mapping()).await, nothing);
    let both = mapping()
        .with("source_network_id", Value::Unknown)
        .with("target_network_id", Value::Unknown)
        .with("test_network_id", Value::Unknown)
        .with("address_rule", Value::Unknown);
    assert_eq!(validate(MAPPING, both).await, nothing);
    assert_eq!(validate(MACHINE, machine("web", "10.20.0.11")).await, nothing);
    let disks = vec![Object::new().with("volume_id", Value::Unknown), Object::new().with("volume_id", Value::Unknown)];
    assert_eq!(validate(MACHINE, machine("web", "10.20.0.11").with("disk", disks)).await, nothing);
    assert_eq!(validate(MACHINE, machine("web", "10.20.0.11").with("disk", Value::Unknown)).await, nothing);
    assert_eq!(validate(PLAN, recovery_plan(vec![boot_group(action("script").with("script", "x"))])).await, nothing);
    let open = Object::new().with("machine_ids", vec![Value::Unknown, Value::Unknown]);
    let open_action = action("script").with("type", Value::Unknown).with("url", Value::Unknown);
    assert_eq!(validate(PLAN, recovery_plan(vec![open, boot_group(open_action)])).await, nothing);
    let unknown = Object::new().with("machine_ids", Value::Unknown);
    assert_eq!(validate(PLAN, recovery_plan(vec![unknown]).with("target_site_id", Value::Unknown)).await, nothing);
    let generated = recovery_plan(vec![]).with("boot_group", Value::Unknown).with("source_site_id", Value::Unknown);
    assert_eq!(validate(PLAN, generated.with("target_site_id", Value::Unknown)).await, nothing);
}

#[tokio::test]
async fn what_cannot_recover_is_refused_under_its_attribute() {
    let overlap = network().with("subnet", vec![subnet("a", "10.0.0.0/8"), subnet("b", "10.1.0.0/16")]);
    assert_one(&validate(NETWORK, overlap).await, "subnet[1].cidr: ", "overlaps 10.0.0.0/8");
    let outside = network().with("subnet", vec![subnet("a", "10.0.0.0/24").with("gateway", "10.0.1.1")]);
    assert_one(&validate(NETWORK, outside).await, "subnet[0].gateway: ", "a host in 10.0.0.0/24");
    let same = mapping().with("target_network_id", id("net", 1));
    assert_one(&validate(MAPPING, same).await, "target_network_id: ", "must be another network");
    assert_one(&validate(MAPPING, mapping().with("address_rule", "keep")).await, "address_rule: ", "next-free");

    let boot = |volume: u8| Object::new().with("volume_id", id("vol", volume)).with("boot", true);
    let disks = |disks: Vec<Object>| machine("web", "10.20.0.11").with("disk", disks);
    assert_one(&validate(MACHINE, disks(vec![boot(1), boot(2)])).await, "disk[1].boot: ", "boots from disk[0] already");
    let twice = validate(MACHINE, disks(vec![boot(1), boot(1).with("boot", false)])).await;
    assert_one(&twice, "disk[1].volume_id: ", "is the volume of disk[0] already");
    assert_one(
        &validate(MACHINE, machine("web", "10.20.0.256")).await,
        "network_interface[0].address: ",
        "is no address",
    );
    let wide = machine("web", "10.20.0.11").with("target", Object::new().with("cpus", 1024_u64));
    assert_one(&validate(MACHINE, wide).await, "target.cpus: ", "between 1 and 512");
    assert_one(
        &validate(MACHINE, machine("web", "10.20.0.11").with("firmware", "efi")).await,
        "firmware: ",
        "bios, uefi",
    );

    let with = |action: Object| recovery_plan(vec![boot_group(action)]);
    let at = "boot_group[0].pre_action[0]";
    assert_one(&validate(PLAN, with(action("script"))).await, &format!("{at}.script: "), "is required");
    let extra = action("http").with("url", "https://x").with("instruction", "y");
    assert_one(&validate(PLAN, with(extra)).await, &format!("{at}.instruction: "), "goes with type `manual` only");
    assert_one(&validate(PLAN, with(action("mail"))).await, &format!("{at}.type: "), "script, manual, http");
    let kinds = action("script").with("script", "x").with("kinds", vec!["drill".to_owned()]);
    assert_one(&validate(PLAN, with(kinds)).await, &format!("{at}.kinds[0]: "), "test, planned, unplanned");
    let again =
        vec![boot_group(action("script").with("script", "x")), Object::new().with("machine_ids", vec![id("mch", 1)])];
    assert_one(
        &validate(PLAN, recovery_plan(again)).await,
        "boot_group[1].machine_ids[0]: ",
        "in boot_group[0] already",
    );
    let here =
        recovery_plan(vec![boot_group(action("script").with("script", "x"))]).with("target_site_id", id("site", 1));
    assert_one(&validate(PLAN, here).await, "target_site_id: ", "must be another site");
}

#[tokio::test]
async fn two_machines_of_a_configuration_cannot_have_the_same() {
    let mut session = Session::start().await;
    session.configure_unknown().await;
    let first = session.plan(MACHINE, None, Some(&machine("web1", "10.20.0.11"))).await;
    assert!(first.said.is_empty(), "{:?}", first.said);
    let second = session.plan(MACHINE, None, Some(&machine("web2", "10.20.0.11"))).await;
    assert_one(&second.said, "network_interface[0].address: The machine web2 clashes", "is the machine web1's already");
    // One that stays as it is has its address as well, and one that gives it up has it no more.
    let state = machine_state("web1", "10.20.0.11");
    let mut config = state.clone();
    for computed in ["id", "firmware", "state", "active_site", "health", "mac_addresses"] {
        config.remove(computed);
    }
    let unchanged = session.plan(MACHINE, Some(&state), Some(&config)).await;
    assert!(unchanged.said.is_empty(), "{:?}", unchanged.said);
    assert_eq!(session.plan(MACHINE, None, Some(&machine("web2", "10.20.0.11"))).await.said.len(), 1);
    let elsewhere = Object::new().with("network_id", id("net", 1)).with("address", "10.20.0.12");
    let moved = session.plan(MACHINE, Some(&state), Some(&config.with("network_interface", vec![elsewhere]))).await;
    assert!(moved.said.is_empty() && moved.planned.unwrap().is_unknown("mac_addresses"), "{:?}", moved.said);
    let second = session.plan(MACHINE, None, Some(&machine("web2", "10.20.0.11"))).await;
    assert!(second.said.is_empty(), "{:?}", second.said);
    session.end().await;
}

#[tokio::test]
async fn a_volume_that_came_home_elsewhere_is_declared_there_in_place() {
    let state = volume_state().with("home_gateway_id", id("gw", 2));
    let same = plan(VOLUME, Some(state.clone()), Some(volume())).await;
    assert!(same.said.is_empty() && same.replaces.is_empty(), "{:?}", same.said);
    let follows = plan(VOLUME, Some(state.clone()), Some(volume().with("gateway_id", id("gw", 2)))).await;
    assert!(follows.said.is_empty() && follows.replaces.is_empty(), "{:?}", follows.said);
    let elsewhere = plan(VOLUME, Some(state), Some(volume().with("gateway_id", id("gw", 3)))).await;
    assert_one(&elsewhere.said, "gateway_id: A volume with data would be replaced", "allow_replace = true");
}
