//! `lifeboat vault check` against a vault that the engine wrote: exit codes, and what is said.

mod shipped;

use shipped::{Shipped, report};

#[tokio::test]
async fn a_sound_vault_is_0_and_a_damaged_one_is_1_and_says_what_it_costs() {
    let shipped = Shipped::new().await;
    let url = shipped.url();
    let found = report(&shipped.ask(&["vault", "check", &url, "--read-data"]), 0);
    assert_eq!((&found["sound"], &found["complete"]), (&true.into(), &true.into()));
    assert_eq!(found["groups"][0]["branches"][0]["points_sound"], 1);

    let disk = shipped.disk();
    assert!(disk.exists(), "the check leaves everything alone");
    let segments = shipped.segments();
    let mut bytes = std::fs::read(&segments[0]).expect("a segment");
    // Behind the header: the first frame's ciphertext.
    bytes[300] ^= 1;
    std::fs::write(&segments[0], &bytes).expect("written");
    let without_data = report(&shipped.ask(&["vault", "check", &url]), 0);
    assert_eq!(without_data["read_data"], false);
    let found = report(&shipped.ask(&["vault", "check", &url, "--read-data"]), 1);
    let damage = &found["damage"][0];
    assert_eq!(damage["fault"], "authentication");
    assert_eq!(damage["part"], "frame 0");
    let cost = &damage["costs"][0];
    assert_eq!(cost["volume"], shipped.volume.to_string());
    assert_eq!(cost["first"]["id"], shipped.point.to_string());
    assert_eq!(cost["extents"][0], serde_json::json!({"lba": 100, "blocks": 16}));
    assert_eq!(found["groups"][0]["branches"][0]["points_sound"], 0);

    let only = report(&shipped.ask(&["vault", "check", &url, "--group", &shipped.group.to_string()]), 0);
    assert_eq!(only["groups"].as_array().map(Vec::len), Some(1));
}

#[tokio::test]
async fn a_repair_puts_lists_right_and_checks_once_more() {
    let shipped = Shipped::new().await;
    let url = shipped.url();
    let lists = shipped.dir.path().join(format!("vault/groups/{}/gc/kept", shipped.group));
    std::fs::create_dir_all(&lists).expect("made");
    std::fs::write(lists.join("000000000001"), [7; 300]).expect("written");
    let found = report(&shipped.ask(&["vault", "check", &url]), 1);
    assert_eq!(found["damage"][0]["kind"], "list of kept points");
    assert!(found["damage"][0]["consequence"].to_string().contains("--repair"), "{found}");
    assert!(!lists.join("000000000002").exists(), "a check alone writes nothing");
    let found = report(&shipped.ask(&["vault", "check", &url, "--repair"]), 0);
    assert_eq!((&found["sound"], &found["repaired"][0]["list"]["points"]), (&true.into(), &1.into()));
    assert!(lists.join("000000000002").exists());
    let found = report(&shipped.ask(&["vault", "check", &url, "--repair"]), 0);
    assert_eq!(found["repaired"], serde_json::Value::Null, "nothing was left to put right");
}

#[tokio::test]
async fn what_is_not_there_is_3_and_a_wrong_key_is_1() {
    let shipped = Shipped::new().await;
    let url = shipped.url();
    let code = |args: &[&str]| shipped.ask(args).status.code();
    assert_eq!(code(&["vault", "check", &format!("{url}/nothing")]), Some(3));
    assert_eq!(code(&["vault", "check", &url, "--group", "nothing"]), Some(3));
    assert_eq!(code(&["vault", "check"]), Some(2));
    std::fs::write(shipped.dir.path().join("vault.key"), [8; 32]).expect("written");
    let outcome = shipped.ask(&["vault", "check", &url]);
    assert_eq!(outcome.status.code(), Some(1));
    assert!(outcome.stdout.is_empty(), "nothing was checked, so nothing is said to be sound");
}

#[tokio::test]
async fn an_object_is_shown_with_what_is_encrypted_in_it_and_damage_is_said() {
    let shipped = Shipped::new().await;
    let url = shipped.url();
    let segment = shipped.segments().remove(0);
    let root = shipped.dir.path().join("vault");
    let name = segment.strip_prefix(&root).expect("in the vault").display().to_string();
    let found = report(&shipped.ask(&["inspect", &name, "--vault", &url]), 0);
    let values = |found: &serde_json::Value, wanted: &str| -> Vec<String> {
        let fields = found["fields"].as_array().expect("fields");
        let named = fields.iter().filter(|field| field["name"] == wanted);
        named.map(|field| field["value"].as_str().unwrap_or_default().to_owned()).collect()
    };
    assert_eq!(values(&found, "proved"), ["yes"]);
    assert_eq!(values(&found, "frame").len(), 4);
    assert!(values(&found, "frame").iter().all(|frame| frame.ends_with(": sound")), "{found}");
    assert!(
        values(&found, "operation").iter().any(|operation| operation.contains(&shipped.point.to_string())),
        "{found}"
    );
    for object in ["vault/00000001.json", &format!("keys/{}/00000001", shipped.volume)] {
        let found = report(&shipped.ask(&["inspect", object, "--vault", &url]), 0);
        assert_eq!(values(&found, "proved"), ["yes"], "{object}");
        assert!(!found.to_string().contains("wrapped\""), "{object} shows a wrapped key");
    }

    let mut bytes = std::fs::read(&segment).expect("read");
    let end = bytes.len() - 130;
    bytes[end] ^= 1;
    std::fs::write(&segment, bytes).expect("written");
    let found = report(&shipped.ask(&["inspect", &name, "--vault", &url]), 1);
    assert_eq!(values(&found, "group"), [shipped.group.to_string()], "the header is shown all the same");
    assert!(!found["problems"].as_array().expect("problems").is_empty());
    assert_eq!(shipped.ask(&["inspect", "groups/nothing", "--vault", &url]).status.code(), Some(3));
}

#[test]
fn a_state_directory_without_groups_is_sound_and_one_that_is_not_there_is_3() {
    let dir = tempfile::tempdir().expect("a directory");
    let ask = |path: &std::path::Path| {
        std::process::Command::new(env!("CARGO_BIN_EXE_lifeboat"))
            .args(["--output", "json", "check", "--state"])
            .arg(path)
            .env_clear()
            .output()
            .expect("the binary runs")
    };
    assert_eq!(report(&ask(dir.path()), 0)["sound"], true);
    assert_eq!(ask(&dir.path().join("nothing")).status.code(), Some(3));
    let group = dir.path().join("groups/grp-09090909090909090909090909090909/home");
    std::fs::create_dir_all(&group).expect("made");
    std::fs::write(group.join("group.state"), [1; 4096]).expect("written");
    assert_eq!(report(&ask(dir.path()), 1)["damage"][0]["kind"], "group state");
}
