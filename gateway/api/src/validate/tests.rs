//! The rules, one by one: what passes, what is refused, and under which field.

use lifeboat_model::{GatewayId, GroupId, MachineId, NetworkId, PolicyId, SiteId, VaultId, VolumeId};

use super::*;
use crate::{
    ActionType, AddressRule, BootGroup, FailoverKind, Firmware, MachineDisk, MachineSpec, MachineTarget,
    NetworkInterface, NetworkMappingSpec, NetworkSpec, PlanAction, PlanDirection, PlanShutdown, PlanSpec, Subnet,
    SubnetMapping, VolumeSource,
};

fn fields(body: &impl Validate) -> Vec<String> {
    body.validate().err().unwrap_or_default().into_iter().map(|error| error.field).collect()
}

fn rule(every: &str, keep_for: &str) -> RetentionRule {
    RetentionRule { every: every.into(), keep_for: keep_for.into() }
}

fn policy() -> PolicySpec {
    PolicySpec {
        vault_id: VaultId::new(),
        name: "gold".into(),
        recovery_point_interval: "5s".into(),
        app_consistent_interval: Some("1h".into()),
        retention: vec![rule("all", "1h"), rule("5m", "24h"), rule("1h", "15d")],
        rpo_threshold: "5m".into(),
        resync: Some(Resync { at_log_percent: 50, window_start: None, window_end: None, timezone: None }),
        bandwidth_limit: vec![BandwidthLimit {
            mbps: 100,
            days: vec!["mon".into()],
            start: None,
            end: None,
            timezone: None,
        }],
        compression: "auto".into(),
    }
}

#[test]
fn durations_are_read_and_shown() {
    for (text, millis) in [("5s", 5000), ("250ms", 250), ("15m", 900_000), ("1h30m", 5_400_000), ("15d", 1_296_000_000)]
    {
        let duration = parse_duration(text).expect(text);
        assert_eq!(duration, Duration::from_millis(millis));
        assert_eq!(format_duration(duration), text);
    }
    for text in [
        "",
        "5",
        "s",
        "5 s",
        "-5s",
        "5S",
        "5s5s",
        "1m1h",
        "1.5h",
        "99999999999999999999d",
        "18446744073709551615d",
        "5µs",
    ] {
        assert!(parse_duration(text).is_err(), "{text:?}");
    }
}

#[test]
fn a_sound_policy_passes() {
    assert_eq!(policy().validate(), Ok(()));
}

#[test]
fn retention_that_cannot_work_is_refused_under_its_field() {
    for (rules, expected) in [
        (vec![], vec!["retention"]),
        (vec![rule("1s", "1h")], vec!["retention[0].every"]),
        (vec![rule("all", "1h"), rule("5m", "30m")], vec!["retention[1].for"]),
        (vec![rule("5m", "1h"), rule("5m", "2h")], vec!["retention[1].every"]),
        (vec![rule("2h", "1h")], vec!["retention[0].for"]),
        (vec![rule("all", "1h"), rule("all", "2h")], vec!["retention[1].every"]),
        (vec![rule("often", "1h")], vec!["retention[0].every"]),
        (vec![rule("all", "5s")], vec!["retention[0].for"]),
    ] {
        assert_eq!(fields(&PolicySpec { retention: rules.clone(), ..policy() }), expected, "{rules:?}");
    }
}

#[test]
fn every_other_field_of_a_policy_is_checked() {
    let limit = |mbps, days: &[&str], start: Option<&str>, end: Option<&str>| BandwidthLimit {
        mbps,
        days: days.iter().map(ToString::to_string).collect(),
        start: start.map(Into::into),
        end: end.map(Into::into),
        timezone: None,
    };
    let spec = PolicySpec {
        name: " gold".into(),
        recovery_point_interval: "2h".into(),
        app_consistent_interval: Some("soon".into()),
        rpo_threshold: "8d".into(),
        resync: Some(Resync {
            at_log_percent: 5,
            window_start: Some("25:00".into()),
            window_end: Some("06:00".into()),
            timezone: Some("Mars Base".into()),
        }),
        bandwidth_limit: vec![
            limit(0, &[], None, None),
            limit(10, &["mon", "monday", "mon"], None, None),
            limit(10, &[], Some("08:00"), None),
            limit(10, &[], Some("08:00"), Some("08:00")),
        ],
        compression: "gzip".into(),
        ..policy()
    };
    assert_eq!(
        fields(&spec),
        [
            "name",
            "recovery_point_interval",
            "app_consistent_interval",
            "rpo_threshold",
            "resync.at_log_percent",
            "resync.window_start",
            "resync.timezone",
            "bandwidth_limit[0].mbps",
            "bandwidth_limit[1].days[1]",
            "bandwidth_limit[1].days[2]",
            "bandwidth_limit[2].end",
            "bandwidth_limit[3].end",
            "compression",
        ]
    );
}

#[test]
fn an_rpo_threshold_below_the_interval_is_refused() {
    assert_eq!(fields(&PolicySpec { rpo_threshold: "4s".into(), ..policy() }), ["rpo_threshold"]);
}

#[test]
fn volumes_have_a_sound_name_size_and_one_owner() {
    let sound = VolumeSpec {
        name: "db".into(),
        gateway_id: GatewayId::new(),
        size_bytes: 1 << 30,
        group_id: None,
        policy_id: Some(PolicyId::new()),
        cache_bytes: None,
        source: None,
        export: None,
    };
    assert_eq!(sound.validate(), Ok(()));
    let adopted = |path: &str, size_bytes| VolumeSpec {
        source: Some(VolumeSource { path: path.into() }),
        size_bytes,
        ..sound.clone()
    };
    for size in [0, 1 << 30] {
        assert_eq!(adopted("/dev/vg0/db", size).validate(), Ok(()));
    }
    assert_eq!(fields(&adopted("/dev/vg0/db", 5000)), ["size_bytes"]);
    for path in ["", "/", "disk.raw", "/srv/../disk.raw", "/srv//disk.raw", "/srv/", "/a\0b"] {
        assert_eq!(fields(&adopted(path, 0)), ["source.path"], "{path:?}");
    }
    for size in [0, 4096, (1 << 20) + 1, VOLUME_BYTES_MAX + 4096] {
        assert_eq!(fields(&VolumeSpec { size_bytes: size, ..sound.clone() }), ["size_bytes"]);
    }
    for name in ["", ".", "..", "a/b", "-x", "ü", "a b", &"x".repeat(64)] {
        assert_eq!(fields(&VolumeSpec { name: name.into(), ..sound.clone() }), ["name"], "{name:?}");
    }
    assert_eq!(fields(&VolumeSpec { policy_id: None, ..sound.clone() }), ["group_id"]);
    assert_eq!(fields(&VolumeSpec { group_id: Some(GroupId::new()), ..sound }), ["policy_id"]);
}

#[test]
fn a_vault_needs_a_directory_and_the_key_that_its_source_names() {
    let create = |url: &str, key_source, passphrase: Option<&str>, key_file: Option<&str>| VaultCreate {
        name: "v".into(),
        storage_url: url.into(),
        storage_endpoint: None,
        storage_region: None,
        storage_credentials: None,
        storage_proxy: None,
        encryption: EncryptionKey {
            key_source,
            passphrase: passphrase.map(|p| crate::types::Secret::new(p.into())),
            key_file: key_file.map(Into::into),
            kms_key: None,
        },
        soft_delete_days: 14,
        immutability: None,
        second_approval: false,
        attach: false,
    };
    use KeySourceKind::{KeyFile, Passphrase};
    assert!(create("file:///srv/v", Passphrase, Some("long enough"), None).validate().is_ok());
    assert!(create("file:///srv/v", KeyFile, None, Some("/etc/key")).validate().is_ok());
    for url in [
        "/srv/v",
        "file://srv/v",
        "file:///",
        "file:///a/../b",
        "s3://b/p",
        "s3://b b",
        "s3://bucket//x",
        "gs://k:s@bucket",
        "ftp://x",
        "file:///a?b",
    ] {
        assert_eq!(fields(&create(url, Passphrase, Some("long enough"), None)), ["storage_url"], "{url}");
    }
    for url in ["s3://bucket", "s3://bucket/a/b/", "az://container/p", "gs://buc.ket/a-b_c"] {
        assert!(create(url, Passphrase, Some("long enough"), None).validate().is_ok(), "{url}");
    }
    let mut local = create("file:///v", Passphrase, Some("long enough"), None);
    local.storage_region = Some("eu-central-1".into());
    assert_eq!(fields(&local), ["storage_region"]);
    assert_eq!(fields(&create("file:///v", Passphrase, None, None)), ["encryption.passphrase"]);
    assert_eq!(fields(&create("file:///v", Passphrase, Some("short"), None)), ["encryption.passphrase"]);
    assert_eq!(fields(&create("file:///v", KeyFile, None, Some("key"))), ["encryption.key_file"]);
    assert_eq!(fields(&create("file:///v", KeyFile, Some("long enough"), Some("/k"))), ["encryption.passphrase"]);
}

#[test]
fn a_key_in_a_service_is_named_by_a_program() {
    let key = |kms_key: Option<&str>| EncryptionKey {
        key_source: KeySourceKind::Kms,
        passphrase: None,
        key_file: None,
        kms_key: kms_key.map(Into::into),
    };
    assert!(key(Some("command:/usr/local/bin/my-kms?key=vault")).validate().is_ok());
    for bad in [None, Some(""), Some("/usr/local/bin/my-kms"), Some("command:my-kms"), Some("command:/"), Some("aws:x")]
    {
        assert_eq!(fields(&key(bad)), ["kms_key"], "{bad:?}");
    }
    let both = EncryptionKey { key_file: Some("/k".into()), ..key(Some("command:/x")) };
    assert_eq!(fields(&both), ["key_file"]);
}

#[test]
fn secrets_do_not_show() {
    let key = EncryptionKey {
        key_source: KeySourceKind::Passphrase,
        passphrase: Some(crate::types::Secret::new("canary-secret".into())),
        key_file: None,
        kms_key: None,
    };
    assert!(!format!("{key:?}").contains("canary"));
}

#[test]
fn compression_is_one_of_three() {
    assert_eq!(parse_compression("zstd:19"), Ok(CompressionSetting::Level(19)));
    for text in ["", "zstd", "zstd:", "zstd:0", "zstd:20", "zstd:+3", "AUTO"] {
        assert!(parse_compression(text).is_err(), "{text:?}");
    }
}

fn subnet(name: &str, cidr: &str, gateway: Option<&str>) -> Subnet {
    Subnet { name: name.into(), cidr: cidr.into(), gateway: gateway.map(Into::into) }
}

#[test]
fn subnets_of_a_network_are_apart_and_hold_their_router() {
    let network = |subnet| NetworkSpec { site_id: SiteId::new(), name: "servers".into(), bridge: None, subnet };
    let sound = network(vec![
        subnet("web", "10.20.0.0/24", Some("10.20.0.1")),
        subnet("db", "10.20.1.0/24", None),
        subnet("six", "fd00:20::/64", Some("fd00:20::1")),
    ]);
    assert_eq!(fields(&sound), Vec::<String>::new());
    assert_eq!(sound.subnet_of("10.20.1.7".parse().expect("an address")).map(|found| found.name.as_str()), Some("db"));
    assert!(sound.subnet_of("10.20.2.7".parse().expect("an address")).is_none());
    let cases = [
        (network(vec![subnet("web", "10.20.0.0", None)]), "subnet[0].cidr"),
        (network(vec![subnet("web", "10.20.0.7/24", None)]), "subnet[0].cidr"),
        (network(vec![subnet("web", "10.20.0.0/24", Some("10.20.1.1"))]), "subnet[0].gateway"),
        (network(vec![subnet("web", "10.20.0.0/24", Some("10.20.0.255"))]), "subnet[0].gateway"),
        (network(vec![subnet("web", "10.20.0.0/24", Some("router"))]), "subnet[0].gateway"),
        (network(vec![subnet("web", "10.0.0.0/8", None), subnet("db", "10.20.1.0/24", None)]), "subnet[1].cidr"),
        (network(vec![subnet("web", "10.20.0.0/24", None), subnet("web", "10.20.1.0/24", None)]), "subnet[1].name"),
        (NetworkSpec { bridge: Some("br/0".into()), ..network(vec![]) }, "bridge"),
        (NetworkSpec { bridge: Some("a-bridge-too-long".into()), ..network(vec![]) }, "bridge"),
        (NetworkSpec { name: " servers".into(), ..network(vec![]) }, "name"),
    ];
    for (wrong, field) in cases {
        assert_eq!(fields(&wrong), [field], "{wrong:?}");
    }
}

#[test]
fn a_mapping_leads_elsewhere_and_names_a_subnet_once() {
    let mapping = NetworkMappingSpec {
        source_network_id: NetworkId::new(),
        target_network_id: NetworkId::new(),
        test_network_id: Some(NetworkId::new()),
        subnet: vec![SubnetMapping { source: "web".into(), target: "dmz".into() }],
        address_rule: AddressRule::default(),
    };
    assert_eq!(fields(&mapping), Vec::<String>::new());
    let target_network_id = mapping.source_network_id;
    assert_eq!(fields(&NetworkMappingSpec { target_network_id, ..mapping.clone() }), ["target_network_id"]);
    let test_network_id = Some(mapping.target_network_id);
    assert_eq!(fields(&NetworkMappingSpec { test_network_id, ..mapping.clone() }), ["test_network_id"]);
    let twice = SubnetMapping { source: "web".into(), target: "db".into() };
    let subnet = mapping.subnet.iter().cloned().chain([twice]).collect();
    assert_eq!(fields(&NetworkMappingSpec { subnet, ..mapping }), ["subnet[1].source"]);
}

/// A change that makes a body wrong, and the field that is to blame then.
type Case<'a, T> = (&'a dyn Fn(&mut T), &'a str);

fn machine() -> MachineSpec {
    let disk = |boot| MachineDisk { volume_id: VolumeId::new(), boot };
    let interface = |mac: Option<&str>, address: Option<&str>| NetworkInterface {
        network_id: NetworkId::new(),
        mac: mac.map(Into::into),
        address: address.map(Into::into),
        test_address: None,
    };
    MachineSpec {
        site_id: SiteId::new(),
        name: "web".into(),
        group_id: GroupId::new(),
        cpus: 2,
        memory_mib: 2048,
        firmware: Firmware::Bios,
        disk: vec![disk(None), disk(Some(false))],
        network_interface: vec![interface(Some("52:54:00:00:00:01"), Some("10.20.0.11")), interface(None, None)],
        target: Some(MachineTarget { cpus: Some(1), memory_mib: None, anti_affinity_group: Some("web".into()) }),
    }
}

#[test]
fn a_machine_boots_from_one_of_its_disks_and_repeats_nothing() {
    let sound = machine();
    assert_eq!(fields(&sound), Vec::<String>::new());
    assert_eq!(sound.boot_disk(), Some(0));
    let changed = |change: &dyn Fn(&mut MachineSpec)| {
        let mut spec = machine();
        change(&mut spec);
        spec
    };
    assert_eq!(changed(&|spec| spec.disk[1].boot = Some(true)).boot_disk(), Some(1));
    assert_eq!(changed(&|spec| spec.disk[0].boot = Some(false)).boot_disk(), None);
    let again = |spec: &mut MachineSpec| {
        let first = spec.network_interface[0].clone();
        spec.network_interface[1] = NetworkInterface { mac: Some("52:54:00:00:00:02".into()), ..first };
    };
    let cases: [Case<'_, MachineSpec>; 9] = [
        (&|spec| spec.disk[0].boot = Some(false), "disk[0].boot"),
        (&|spec| spec.disk.iter_mut().for_each(|disk| disk.boot = Some(true)), "disk[1].boot"),
        (&|spec| spec.disk[1].volume_id = spec.disk[0].volume_id, "disk[1].volume_id"),
        (&|spec| spec.disk.clear(), "disk"),
        (&|spec| spec.network_interface[1].mac = Some("52:54:00:00:00:01".into()), "network_interface[1].mac"),
        (&again, "network_interface[1].address"),
        (&|spec| spec.network_interface[1].test_address = Some("x".into()), "network_interface[1].test_address"),
        (&|spec| spec.memory_mib = 32, "memory_mib"),
        (&|spec| spec.target = Some(MachineTarget { cpus: Some(0), ..MachineTarget::default() }), "target.cpus"),
    ];
    for (change, field) in cases {
        assert_eq!(fields(&changed(change)), [field]);
    }
}

#[test]
fn a_plan_has_each_of_its_members_once_and_actions_their_argument() {
    let action = |kind: ActionType| PlanAction {
        name: "a".into(),
        kind,
        script: (kind == ActionType::Script).then(|| "check".into()),
        url: (kind == ActionType::Http).then(|| "https://example.org/hook".into()),
        instruction: (kind == ActionType::Manual).then(|| "Call them.".into()),
        directions: vec![PlanDirection::Failback],
        kinds: vec![FailoverKind::Test],
        timeout: Some("90s".into()),
    };
    let group = |name: &str| BootGroup {
        name: Some(name.into()),
        machine_ids: vec![MachineId::new()],
        volume_ids: vec![VolumeId::new()],
        pre_action: ActionType::ALL.map(|kind| PlanAction { name: kind.as_str().into(), ..action(kind) }).into(),
        post_action: Vec::new(),
    };
    let sound = PlanSpec {
        vault_id: VaultId::new(),
        name: "erp".into(),
        source_site_id: SiteId::new(),
        target_site_id: SiteId::new(),
        shutdown: Some(PlanShutdown { timeout: "10m".into(), pre_action: Vec::new(), post_action: Vec::new() }),
        boot_group: vec![group("db"), group("web")],
    };
    assert_eq!(fields(&sound), Vec::<String>::new());
    let cases: [Case<'_, PlanSpec>; 9] = [
        (&|plan| plan.target_site_id = plan.source_site_id, "target_site_id"),
        (&|plan| plan.boot_group.clear(), "boot_group"),
        (&|plan| plan.boot_group[1].name = Some("db".into()), "boot_group[1].name"),
        (
            &|plan| plan.boot_group[1].machine_ids = plan.boot_group[0].machine_ids.clone(),
            "boot_group[1].machine_ids[0]",
        ),
        (&|plan| plan.boot_group[1].volume_ids = plan.boot_group[0].volume_ids.clone(), "boot_group[1].volume_ids[0]"),
        (&|plan| plan.boot_group[0].pre_action[0].script = None, "boot_group[0].pre_action[0].script"),
        (&|plan| plan.boot_group[0].pre_action[1].url = Some("https://x".into()), "boot_group[0].pre_action[1].url"),
        (&|plan| plan.boot_group[0].pre_action[2].url = Some("https:///x".into()), "boot_group[0].pre_action[2].url"),
        (&|plan| plan.shutdown.as_mut().expect("is there").timeout = "2d".into(), "shutdown.timeout"),
    ];
    for (change, field) in cases {
        let mut plan = sound.clone();
        change(&mut plan);
        assert_eq!(fields(&plan), [field]);
    }
    let mut empty = sound;
    empty.boot_group[0].machine_ids.clear();
    assert_eq!(fields(&empty), Vec::<String>::new(), "a volume alone is something");
    empty.boot_group[0].volume_ids.clear();
    assert_eq!(fields(&empty), ["boot_group[0].machine_ids"]);
}

fn drill(assertion: serde_json::Value, more: serde_json::Value) -> crate::types::DrillSpec {
    let mut spec = serde_json::json!({
        "plan_id": "plan-00000000000000000000000000000001", "name": "weekly", "assertion": [assertion],
    });
    spec.as_object_mut().expect("an object").extend(more.as_object().expect("an object").clone());
    serde_json::from_value(spec).expect("a drill")
}

#[test]
fn assertions_have_the_arguments_of_their_type_and_no_other() {
    let (machine, volume) = ("mch-00000000000000000000000000000001", "vol-00000000000000000000000000000001");
    let sum = "0".repeat(64);
    for sound in [
        serde_json::json!({"type": "boots", "machine_id": machine, "contains": "ready", "within": "10m"}),
        serde_json::json!({"type": "tcp", "machine_id": machine, "port": 22, "interface": 1}),
        serde_json::json!({"type": "http", "machine_id": machine, "path": "/a?b=c", "status": 301, "tls": true, "sha256": sum}),
        serde_json::json!({"type": "file_hash", "volume_id": volume, "path": "/srv/a b", "sha256": sum, "partition": 2}),
        serde_json::json!({"type": "script", "script": "probe"}),
        serde_json::json!({"type": "screen", "machine_id": machine, "picture": "00ff00ff00ff00ff"}),
    ] {
        assert_eq!(drill(sound.clone(), serde_json::json!({})).validate(), Ok(()), "{sound}");
    }
    for (wrong, fields) in [
        (serde_json::json!({"type": "boots"}), vec!["machine_id"]),
        (serde_json::json!({"type": "tcp", "machine_id": machine}), vec!["port"]),
        (serde_json::json!({"type": "tcp", "machine_id": machine, "port": 0, "path": "/x"}), vec!["path", "port"]),
        (
            serde_json::json!({"type": "http", "machine_id": machine, "path": "health", "status": 99}),
            vec!["path", "status"],
        ),
        (serde_json::json!({"type": "http", "machine_id": machine, "path": "/a\r\nHost: b"}), vec!["path"]),
        (serde_json::json!({"type": "file_hash"}), vec!["volume_id", "path", "sha256"]),
        (
            serde_json::json!({"type": "file_hash", "volume_id": volume, "path": "/a/../b", "sha256": "AB", "partition": 0}),
            vec!["path", "sha256", "partition"],
        ),
        (serde_json::json!({"type": "script", "script": "../probe"}), vec!["script"]),
        (serde_json::json!({"type": "script", "script": "probe", "machine_id": machine}), vec!["machine_id"]),
        (
            serde_json::json!({"type": "screen", "machine_id": machine, "picture": "xyz", "within": "2d"}),
            vec!["within", "picture"],
        ),
    ] {
        let errors = drill(wrong.clone(), serde_json::json!({})).validate().expect_err("wrong");
        let found: Vec<&str> = errors.iter().map(|error| error.field.as_str()).collect();
        let fields: Vec<String> = fields.into_iter().map(|field| format!("assertion[0].{field}")).collect();
        assert_eq!(found, fields, "{wrong}: {errors:?}");
    }
}

#[test]
fn a_drill_is_of_one_plan_and_its_schedule_makes_sense() {
    let script = serde_json::json!({"type": "script", "script": "probe"});
    for (wrong, field) in [
        (serde_json::json!({"point": "pt-00000000000000000000000000000001"}), "point"),
        (serde_json::json!({"network": "lan"}), "network"),
        (serde_json::json!({"max_rto": "soon"}), "max_rto"),
        (serde_json::json!({"valid_for": "1m"}), "valid_for"),
        (serde_json::json!({"schedule": {"every": "1m"}}), "schedule.every"),
        (serde_json::json!({"schedule": {"every": "7d", "days": ["sat", "sat"]}}), "schedule.days[1]"),
        (serde_json::json!({"schedule": {"every": "7d", "start": "22:00"}}), "schedule.end"),
        (serde_json::json!({"schedule": {"every": "7d", "timezone": "Nowhere/Land"}}), "schedule.timezone"),
        (serde_json::json!({"schedule": {"every": "7d"}, "keep": true}), "keep"),
    ] {
        let errors = drill(script.clone(), wrong.clone()).validate().expect_err("wrong");
        assert_eq!(errors.iter().map(|error| error.field.as_str()).collect::<Vec<_>>(), [field], "{wrong}");
    }
    let schedule = serde_json::json!({"every": "7d", "days": ["sat"], "start": "22:00", "end": "04:00", "timezone": "Europe/Zurich"});
    let sound =
        serde_json::json!({"network": "net-00000000000000000000000000000001", "schedule": schedule, "max_rto": "15m"});
    assert_eq!(drill(script, sound).validate(), Ok(()));
}
