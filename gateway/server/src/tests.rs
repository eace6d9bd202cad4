//! Whole gateways on the real engine, spoken to over TLS by the client: from the declaration of a volume to failover and
//! back, with the bytes compared.

use bytes::Bytes;
use lifeboat_api::{
    CleanupRequest, Client, ClientErrorKind, CommitRequest, FailbackMode, FailbackRequest, FailoverKind,
    FailoverRequest, Group, Job, LabelRequest, PinRequest, PointRequest, ProtectionState, UnpinRequest, Volume,
};
use lifeboat_model::state::JobState;
use lifeboat_model::{GroupId, VolumeId};

use crate::Gateway;
use crate::testing::{client, config, declare, eventually, registered, vault_create};

async fn done(client: &Client, job: Job) -> Job {
    let job = client.wait_for_job(&job.id.to_string(), |_| {}).await.expect("job");
    assert_eq!(job.state, JobState::Succeeded, "{job:#?}");
    job
}

async fn protected(client: &Client, volume: &Volume, state: ProtectionState) -> Volume {
    eventually(&format!("volume {state}"), async || {
        let found: Volume = client.read(&volume.id.to_string()).await.expect("volume");
        assert_ne!(found.status.state, ProtectionState::Failed, "{found:#?}");
        (found.status.state == state).then_some(found)
    })
    .await
}

/// The volume as this gateway serves it.
fn file(gateway: &Gateway, volume: VolumeId, instance: &str) -> std::sync::Arc<dyn lifeboat_engine::BlockVolume> {
    let open = gateway.context.instances.all();
    let found =
        open.iter().filter(|((_, name), _)| name == instance).find_map(|(_, open)| open.instance.volume(volume));
    found.expect("open here and readable")
}

async fn write(gateway: &Gateway, volume: VolumeId, instance: &str, offset: u64, text: &'static [u8]) {
    let file = file(gateway, volume, instance);
    file.write(offset, Bytes::from_static(text)).await.expect("written");
    file.flush().await.expect("flushed");
}

async fn read(gateway: &Gateway, volume: VolumeId, instance: &str, offset: u64, len: u32) -> Vec<u8> {
    file(gateway, volume, instance).read(offset, len).await.expect("read").to_vec()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_volume_is_protected_failed_over_and_failed_back() {
    let dir = tempfile::tempdir().expect("tempdir");
    let storage = dir.path().join("vault");
    let a = Gateway::start(config(&dir.path().join("a"), "a", "east")).await.expect("a starts");
    let to_a = client(&a);
    let declared = declare(&to_a, &storage).await;
    let volume = protected(&to_a, &declared.volume, ProtectionState::Protected).await;
    let id = volume.id;
    let group = volume.status.group_id.expect("has a group").to_string();
    assert_eq!(volume.status.active_site.as_deref(), Some("east"));
    write(&a, id, "home", 0, b"written at home").await;
    let label = PointRequest { label: "first".into(), ..PointRequest::default() };
    let point = done(&to_a, to_a.group_verb(&group, "point", &label).await.expect("point")).await;

    // A blank machine: the vault's place and its key are all it takes.
    let b = Gateway::start(config(&dir.path().join("b"), "b", "west")).await.expect("b starts");
    let to_b = client(&b);
    to_b.create_vault(&vault_create(&storage, true)).await.expect("attached");
    registered(&to_b, "b").await;

    // Test failover: a copy beside the running one.
    let ask = |kind| FailoverRequest { kind, point: "latest".into(), branch_id: None };
    let test = done(&to_b, to_b.group_verb(&group, "failover", &ask(FailoverKind::Test)).await.expect("test")).await;
    let on_test = test.id.to_string();
    assert_eq!(test.result.point_id, point.result.point_id);
    assert_eq!(read(&b, id, &on_test, 0, 15).await, b"written at home");
    write(&b, id, &on_test, 0, b"scribbled").await;
    write(&a, id, "home", 8192, b"meanwhile at home").await;
    done(&to_b, to_b.group_verb(&group, "cleanup", &CleanupRequest::default()).await.expect("cleanup")).await;
    assert!(b.context.instances.of(group.parse().expect("id")).is_empty());

    // Planned: nothing is lost, although nothing was waited for.
    let planned = to_b.group_verb(&group, "failover", &ask(FailoverKind::Planned)).await.expect("planned");
    let planned = done(&to_b, planned).await;
    let there = planned.id.to_string();
    assert_eq!(planned.result.rpo_seconds, Some(0.0));
    assert_eq!(read(&b, id, &there, 0, 15).await, b"written at home");
    assert_eq!(read(&b, id, &there, 8192, 17).await, b"meanwhile at home");
    let moved = protected(&to_b, &volume, ProtectionState::FailedOver).await;
    assert_eq!((moved.status.active_site.as_deref(), moved.generation), (Some("west"), volume.generation));
    write(&b, id, &there, 0, b"written in the west").await;
    done(&to_b, to_b.group_verb(&group, "commit", &CommitRequest {}).await.expect("commit")).await;
    assert!(to_b.read::<Group>(&group).await.expect("group").status.committed);

    // Back, asking either gateway.
    let back = FailbackRequest::new(FailbackMode::MinimizeDowntime);
    let back = done(&to_a, to_a.group_verb(&group, "failback", &back).await.expect("failback")).await;
    assert!(back.result.downtime_seconds.is_some() && back.result.bytes_changed > Some(0), "{back:#?}");
    assert_eq!(read(&a, id, "home", 0, 19).await, b"written in the west");
    write(&a, id, "home", 4096, b"home again").await;
    let home = protected(&to_a, &volume, ProtectionState::Protected).await;
    assert_eq!((home.status.active_site.as_deref(), home.generation), (Some("east"), volume.generation));

    // Unplanned, with home stopped; then home comes back, fenced, and the gateway says so.
    let last = done(&to_a, to_a.group_verb(&group, "point", &PointRequest::default()).await.expect("point")).await;
    a.stop().await;
    let lost = to_b.group_verb(&group, "failover", &ask(FailoverKind::Unplanned)).await.expect("unplanned");
    let lost = done(&to_b, lost).await;
    assert!(lost.result.point_time >= last.result.point_time, "{lost:#?}");
    assert_eq!(read(&b, id, &lost.id.to_string(), 4096, 10).await, b"home again");
    let a = Gateway::start(config(&dir.path().join("a"), "a", "east")).await.expect("a starts again");
    let to_a = client(&a);
    eventually("home is open and read-only", async || {
        let open = a.context.instances.get(group.parse().expect("id"), "home")?;
        open.instance.volume(id)?.read_only().then_some(())
    })
    .await;
    let shown = to_a.read::<Volume>(&id.to_string()).await.expect("volume");
    assert_eq!(shown.status.active_site.as_deref(), Some("west"));
    a.stop().await;
    b.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_needs_nothing_and_volumes_grow_and_go() {
    let dir = tempfile::tempdir().expect("tempdir");
    let a = Gateway::start(config(&dir.path().join("a"), "a", "east")).await.expect("starts");
    let to_a = client(&a);
    let declared = declare(&to_a, &dir.path().join("vault")).await;
    let volume = protected(&to_a, &declared.volume, ProtectionState::Protected).await;
    write(&a, volume.id, "home", 0, b"kept").await;
    a.stop().await;

    let a = Gateway::start(config(&dir.path().join("a"), "a", "east")).await.expect("starts again");
    let to_a = client(&a);
    let volume = protected(&to_a, &volume, ProtectionState::Protected).await;
    let group: GroupId = volume.status.group_id.expect("group");
    eventually("opened", async || a.context.instances.get(group, "home")).await;
    assert_eq!(read(&a, volume.id, "home", 0, 4).await, b"kept");

    let id = volume.id.to_string();
    let bigger = serde_json::json!({"size_bytes": 32 << 20});
    to_a.patch::<Volume>(&id, volume.generation, &bigger).await.expect("grown");
    let grown = eventually("grown", async || {
        let volume: Volume = to_a.read(&id).await.expect("volume");
        (volume.status.size_bytes == Some(32 << 20)).then_some(volume)
    })
    .await;
    let smaller = serde_json::json!({"size_bytes": 16 << 20});
    let error = to_a.patch::<Volume>(&id, grown.generation, &smaller).await.expect_err("shrinking");
    assert_eq!((error.kind(), error.fields()[0].field.as_str()), (ClientErrorKind::Invalid, "size_bytes"));

    to_a.delete::<Volume>(&id, grown.generation).await.expect("deleted");
    eventually("local files are gone", async || {
        let there = a.state_path().join("groups").join(group.to_string()).exists();
        (!there).then_some(())
    })
    .await;
    assert_eq!(to_a.read::<Volume>(&id).await.expect_err("gone").kind(), ClientErrorKind::NotFound);
    a.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn starting_fails_with_one_sentence_and_changes_nothing() {
    let dir = tempfile::tempdir().expect("tempdir");
    let a = Gateway::start(config(&dir.path().join("a"), "a", "east")).await.expect("starts");
    let mut taken = config(&dir.path().join("new"), "b", "west");
    taken.listen_management = a.address().to_string();
    let error = format!("{:#}", Gateway::start(taken).await.expect_err("the port is taken"));
    assert!(error.contains(&a.address().to_string()) && error.contains("--listen-management"), "{error}");
    assert!(!dir.path().join("new").exists());

    let error = format!("{:#}", Gateway::start(config(&dir.path().join("a"), "a", "east")).await.expect_err("held"));
    assert!(error.contains("in use by another gateway"), "{error}");

    // A vault whose key was changed under us: refused, by name.
    let to_a = client(&a);
    to_a.create_vault(&vault_create(&dir.path().join("vault"), false)).await.expect("vault");
    a.stop().await;
    let remembered = dir.path().join("a/vaults.json");
    let text = std::fs::read_to_string(&remembered).expect("there");
    std::fs::write(&remembered, text.replace("canary-correct-horse", "another horse")).expect("written");
    let error =
        format!("{:#}", Gateway::start(config(&dir.path().join("a"), "a", "east")).await.expect_err("wrong key"));
    assert!(error.contains("can't be opened") && !error.contains("horse"), "{error}");
    // A vault that is merely away stops nothing.
    std::fs::write(&remembered, text).expect("written");
    std::fs::rename(dir.path().join("vault"), dir.path().join("away")).expect("renamed");
    let a = Gateway::start(config(&dir.path().join("a"), "a", "east")).await.expect("starts without its vault");
    let to_a = client(&a);
    let vault = to_a.list::<lifeboat_api::Vault>("/v1/vaults", &[]).await.expect("list").remove(0);
    assert_eq!(vault.status.health, lifeboat_model::state::Health::Critical);
    std::fs::rename(dir.path().join("away"), dir.path().join("vault")).expect("renamed");
    eventually("the vault is back", async || {
        let vault = to_a.read::<lifeboat_api::Vault>(&vault.id.to_string()).await.expect("vault");
        (vault.status.health == lifeboat_model::state::Health::Healthy).then_some(())
    })
    .await;
    a.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn another_authority_or_token_is_refused() {
    let dir = tempfile::tempdir().expect("tempdir");
    let a = Gateway::start(config(&dir.path().join("a"), "a", "east")).await.expect("starts");
    let b = Gateway::start(config(&dir.path().join("b"), "b", "west")).await.expect("starts");
    let mut mixed = lifeboat_api::ClientConfig {
        endpoints: vec![format!("https://{}", a.address())],
        ..lifeboat_api::ClientConfig::default()
    };
    mixed.add_token_file(a.state_path().join("admin.token")).expect("there");
    mixed.add_ca_file(b.state_path().join("ca.pem")).expect("there");
    let error = Client::new(&mixed).expect("sound").list::<Volume>("/v1/volumes", &[]).await.expect_err("not signed");
    assert_eq!(error.kind(), ClientErrorKind::Unauthorized);
    mixed.tokens.clear();
    mixed.add_token_file(b.state_path().join("admin.token")).expect("there");
    mixed.add_ca_file(a.state_path().join("ca.pem")).expect("there");
    let error =
        Client::new(&mixed).expect("sound").list::<Volume>("/v1/volumes", &[]).await.expect_err("not its token");
    assert_eq!(error.kind(), ClientErrorKind::Unauthorized);

    // One configuration for both, in turn.
    let mut both = mixed.clone();
    both.endpoints.push(format!("https://{}", b.address()));
    both.tokens.clear();
    both.add_token_file(a.state_path().join("admin.token")).expect("there");
    both.add_token_file(b.state_path().join("admin.token")).expect("there");
    let client = Client::new(&both).expect("sound");
    client.list::<Volume>("/v1/volumes", &[]).await.expect("a answers");
    let first = client.endpoint().to_owned();
    a.stop().await;
    client.list::<Volume>("/v1/volumes", &[]).await.expect("b answers");
    assert_ne!(client.endpoint(), first);
    b.stop().await;
}

/// Reads through the mount; never on a runtime worker.
async fn through_mount<T: Send + 'static>(
    work: impl FnOnce() -> std::io::Result<T> + Send + 'static,
) -> std::io::Result<T> {
    tokio::task::spawn_blocking(work).await.expect("no panic")
}

#[tokio::test(flavor = "multi_thread")]
async fn volumes_points_and_branches_are_files() {
    let dir = tempfile::tempdir().expect("tempdir");
    let mounted = |name: &str, site: &str| {
        let mut config = config(&dir.path().join(name), name, site);
        config.mount = Some(dir.path().join(format!("mount-{name}")));
        config
    };
    let a = Gateway::start(mounted("a", "east")).await.expect("a starts");
    let b = Gateway::start(mounted("b", "west")).await.expect("b starts");
    let (to_a, to_b) = (client(&a), client(&b));
    let declared = declare(&to_a, &dir.path().join("vault")).await;
    let volume = protected(&to_a, &declared.volume, ProtectionState::Protected).await;
    let group = volume.status.group_id.expect("group").to_string();
    let path = std::path::PathBuf::from(volume.status.path.clone().expect("mounted"));
    assert_eq!(path, dir.path().canonicalize().expect("there").join("mount-a/volumes/db.img"));
    let file = path.clone();
    through_mount(move || {
        use std::io::Write;
        let mut file = std::fs::OpenOptions::new().write(true).open(file)?;
        file.write_all(b"through the mount")?;
        file.sync_all()
    })
    .await
    .expect("written");
    done(&to_a, to_a.group_verb(&group, "point", &PointRequest::default()).await.expect("point")).await;
    to_b.create_vault(&vault_create(&dir.path().join("vault"), true)).await.expect("attached");
    registered(&to_b, "b").await;
    // The point, at a gateway that never had the volume.
    let points: Vec<lifeboat_api::Point> = to_b.list("/v1/points", &[("group", group.clone())]).await.expect("points");
    let newest = std::path::PathBuf::from(points[0].path.clone().expect("mounted"));
    let text = through_mount(move || {
        let names: Vec<_> = std::fs::read_dir(&newest)?.flatten().map(|entry| entry.file_name()).collect();
        assert_eq!(names, ["db.img"]);
        std::fs::read(newest.join("db.img"))
    })
    .await
    .expect("read");
    assert_eq!((&text[..17], text.len()), (&b"through the mount"[..], 16 << 20));
    let query = [("group", group.clone())];
    let shown: lifeboat_api::Point = to_b.get(&format!("/v1/points/{}", points[0].id), &query).await.expect("point");
    assert_eq!(shown.volumes.expect("asked for one")[0].name.as_deref(), Some("db"));
    // A test's volumes can be written beside it.
    let ask = |kind| FailoverRequest { kind, point: "latest".into(), branch_id: None };
    let test = done(&to_b, to_b.group_verb(&group, "failover", &ask(FailoverKind::Test)).await.expect("test")).await;
    let copy = test.result.paths[0].clone();
    assert!(copy.contains("/branches/br-"), "{copy}");
    through_mount(move || std::fs::OpenOptions::new().write(true).open(copy)).await.expect("writable");
    done(&to_b, to_b.group_verb(&group, "cleanup", &CleanupRequest::default()).await.expect("cleanup")).await;
    // After the failover: writable there, read-only here.
    let moved =
        done(&to_b, to_b.group_verb(&group, "failover", &ask(FailoverKind::Planned)).await.expect("planned")).await;
    let there = moved.result.paths[0].clone();
    assert!(there.ends_with("mount-b/volumes/db.img"), "{there}");
    let text = through_mount(move || std::fs::read(there)).await.expect("read");
    assert_eq!(&text[..17], b"through the mount");
    let here = path.clone();
    let refused =
        through_mount(move || std::fs::OpenOptions::new().write(true).open(here)).await.expect_err("read-only");
    assert_eq!(refused.kind(), std::io::ErrorKind::ReadOnlyFilesystem);
    a.stop().await;
    b.stop().await;
    assert!(!path.exists(), "unmounted");
}

#[tokio::test(flavor = "multi_thread")]
async fn volumes_join_and_leave_a_group_and_a_home_that_lost_its_disk_gets_everything_back() {
    let dir = tempfile::tempdir().expect("tempdir");
    let a = Gateway::start(config(&dir.path().join("a"), "a", "east")).await.expect("a starts");
    let b = Gateway::start(config(&dir.path().join("b"), "b", "west")).await.expect("b starts");
    let (to_a, to_b) = (client(&a), client(&b));
    let declared = declare(&to_a, &dir.path().join("vault")).await;
    to_b.create_vault(&vault_create(&dir.path().join("vault"), true)).await.expect("attached");
    let spec = declared.volume.spec.clone();
    let home: lifeboat_api::Gateway = to_a.read(&spec.gateway_id.to_string()).await.expect("gateway");
    let site: lifeboat_api::Site = to_a.read(&home.spec.site_id.to_string()).await.expect("site");
    let shop = lifeboat_api::GroupSpec {
        vault_id: site.spec.vault_id,
        site_id: site.id,
        name: "shop".into(),
        policy_id: spec.policy_id.expect("has a policy"),
        app_consistency: None,
        shared_points: None,
    };
    let shop = to_a.create::<Group>(&shop).await.expect("group");
    let member = async |name: &str| {
        let spec =
            lifeboat_api::VolumeSpec { name: name.into(), group_id: Some(shop.id), policy_id: None, ..spec.clone() };
        let volume = to_a.create::<Volume>(&spec).await.expect("volume");
        protected(&to_a, &volume, ProtectionState::Protected).await
    };
    let (orders, stock, gone) = (member("orders").await, member("stock").await, member("gone").await);
    write(&a, orders.id, "home", 0, b"an order").await;
    write(&a, stock.id, "home", 4096, b"a shelf").await;
    to_a.delete::<Volume>(&gone.id.to_string(), gone.generation).await.expect("deleted");
    eventually("it left the group", async || {
        let open = a.context.instances.get(shop.id, "home")?;
        (open.instance.volumes().len() == 2).then_some(())
    })
    .await;
    let group = shop.id.to_string();
    registered(&to_b, "b").await;
    let ask = FailoverRequest { kind: FailoverKind::Planned, point: "latest".into(), branch_id: None };
    let moved = done(&to_b, to_b.group_verb(&group, "failover", &ask).await.expect("planned")).await;
    write(&b, stock.id, &moved.id.to_string(), 4096, b"another").await;

    a.stop().await;
    std::fs::remove_dir_all(dir.path().join("a/groups").join(&group)).expect("lost");
    let a = Gateway::start(config(&dir.path().join("a"), "a", "east")).await.expect("a starts again");
    let to_a = client(&a);
    let back = FailbackRequest::new(FailbackMode::FullDownload);
    let back = done(&to_a, to_a.group_verb(&group, "failback", &back).await.expect("failback")).await;
    assert!(back.result.bytes_moved > Some(0), "{back:#?}");
    // The history still has the volume that left; it is taken out again.
    eventually("it left the group again", async || {
        let open = a.context.instances.get(shop.id, "home")?;
        (open.instance.volumes().len() == 2).then_some(())
    })
    .await;
    assert_eq!(read(&a, orders.id, "home", 0, 8).await, b"an order");
    assert_eq!(read(&a, stock.id, "home", 4096, 7).await, b"another");
    a.stop().await;
    b.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_point_changes_until_the_commit_and_home_comes_back_on_a_new_disk() {
    let dir = tempfile::tempdir().expect("tempdir");
    let a = Gateway::start(config(&dir.path().join("a"), "a", "east")).await.expect("a starts");
    let b = Gateway::start(config(&dir.path().join("b"), "b", "west")).await.expect("b starts");
    let (to_a, to_b) = (client(&a), client(&b));
    let declared = declare(&to_a, &dir.path().join("vault")).await;
    to_b.create_vault(&vault_create(&dir.path().join("vault"), true)).await.expect("attached");
    let volume = protected(&to_a, &declared.volume, ProtectionState::Protected).await;
    let (id, group) = (volume.id, volume.status.group_id.expect("has a group").to_string());
    registered(&to_b, "b").await;
    let mut points = Vec::new();
    for text in [b"the first version", b"the later version"] {
        write(&a, id, "home", 0, text).await;
        let point = to_a.group_verb(&group, "point", &PointRequest::default()).await.expect("point");
        points.push(done(&to_a, point).await.result.point_id.expect("a point").to_string());
    }
    a.stop().await;

    let ask = FailoverRequest { kind: FailoverKind::Unplanned, point: points[0].clone(), branch_id: None };
    let first = done(&to_b, to_b.group_verb(&group, "failover", &ask).await.expect("unplanned")).await;
    assert_eq!(read(&b, id, &first.id.to_string(), 0, 17).await, b"the first version");
    write(&b, id, &first.id.to_string(), 4096, b"written on the first choice").await;
    let change = lifeboat_api::ChangePointRequest { point: points[1].clone() };
    let second = done(&to_b, to_b.group_verb(&group, "change-point", &change).await.expect("change")).await;
    let there = second.id.to_string();
    assert_eq!(read(&b, id, &there, 0, 17).await, b"the later version");
    assert_eq!(read(&b, id, &there, 4096, 7).await, [0; 7], "the first choice is another branch");
    let found: Group = to_b.read(&group).await.expect("group");
    assert_eq!(found.status.active_branch_id, second.result.branch_id);
    // What was written on the first choice is to be had, writable, from its branch.
    let salvage = FailoverRequest {
        kind: FailoverKind::Test,
        point: "latest".into(),
        branch_id: first.result.branch_id.map(|branch| branch.to_string()),
    };
    let salvage = done(&to_b, to_b.group_verb(&group, "failover", &salvage).await.expect("test")).await;
    assert_eq!(read(&b, id, &salvage.id.to_string(), 4096, 7).await, b"written");
    done(&to_b, to_b.group_verb(&group, "cleanup", &CleanupRequest::default()).await.expect("cleanup")).await;
    write(&b, id, &there, 0, b"written in the west").await;
    done(&to_b, to_b.group_verb(&group, "commit", &CommitRequest {}).await.expect("commit")).await;
    let change = lifeboat_api::ChangePointRequest { point: points[0].clone() };
    let late = to_b.group_verb(&group, "change-point", &change).await.expect_err("committed");
    assert!(late.to_string().contains("committed"), "{late}");

    let a = Gateway::start(config(&dir.path().join("a"), "a", "east")).await.expect("a starts again");
    let to_a = client(&a);
    let back = FailbackRequest::new(FailbackMode::Create);
    let back = done(&to_a, to_a.group_verb(&group, "failback", &back).await.expect("failback")).await;
    assert!(back.result.downtime_seconds.is_some(), "{back:#?}");
    assert_eq!(read(&a, id, "home", 0, 19).await, b"written in the west");
    write(&a, id, "home", 8192, b"home again").await;
    protected(&to_a, &volume, ProtectionState::Protected).await;
    assert_eq!(read(&a, id, "home", 8192, 10).await, b"home again");
    a.stop().await;
    b.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_point_is_pinned_and_labelled_at_any_gateway_and_everybody_sees_it() {
    let dir = tempfile::tempdir().expect("tempdir");
    let a = Gateway::start(config(&dir.path().join("a"), "a", "east")).await.expect("a starts");
    let b = Gateway::start(config(&dir.path().join("b"), "b", "west")).await.expect("b starts");
    let (to_a, to_b) = (client(&a), client(&b));
    let declared = declare(&to_a, &dir.path().join("vault")).await;
    let volume = protected(&to_a, &declared.volume, ProtectionState::Protected).await;
    let group = volume.status.group_id.expect("group").to_string();
    done(&to_a, to_a.group_verb(&group, "point", &PointRequest::default()).await.expect("point")).await;
    to_b.create_vault(&vault_create(&dir.path().join("vault"), true)).await.expect("attached");
    registered(&to_b, "b").await;

    let listed = async |client: &Client| -> Vec<lifeboat_api::Point> {
        client.list("/v1/points", &[("group", group.clone()), ("kind", "manual".to_owned())]).await.expect("points")
    };
    let point = listed(&to_b).await.remove(0);
    assert!(!point.pinned);
    let path = |verb: &str| format!("/v1/groups/{group}/points/{}:{verb}", point.id);
    let pin = PinRequest { until: Some("2099-01-01T00:00:00Z".into()), reason: "audit".into() };
    let pinned: lifeboat_api::Point = to_b.post(&path("pin"), &pin).await.expect("pinned");
    assert_eq!((pinned.pinned, pinned.id, pinned.time), (true, point.id, point.time));
    let label = LabelRequest { label: "before the upgrade".into() };
    let labelled: lifeboat_api::Point = to_a.post(&path("label"), &label).await.expect("labelled");
    assert_eq!((labelled.pinned, labelled.label.as_str()), (true, "before the upgrade"));
    // The other gateway keeps its list for a moment.
    eventually("the label at b", async || listed(&to_b).await.into_iter().find(|point| point == &labelled)).await;

    let unpinned: lifeboat_api::Point = to_b.post(&path("unpin"), &UnpinRequest {}).await.expect("unpinned");
    assert_eq!((unpinned.pinned, unpinned.label.as_str()), (false, "before the upgrade"));
    let over = PinRequest { until: Some("2001-01-01T00:00:00Z".into()), reason: String::new() };
    for (verb, body, status) in [
        ("pin", serde_json::to_value(over).expect("plain"), 422),
        ("label", serde_json::json!({"label": "x".repeat(256)}), 422),
        ("paint", serde_json::json!({}), 404),
    ] {
        let error = to_a.post::<lifeboat_api::Point>(&path(verb), &body).await.expect_err(verb);
        assert_eq!(error.as_problem().map(|problem| problem.status), Some(status), "{error}");
    }
    let nowhere = format!("/v1/groups/{group}/points/{}:pin", lifeboat_model::PointId::from_bytes([9; 16]));
    let error = to_a.post::<lifeboat_api::Point>(&nowhere, &PinRequest::default()).await.expect_err("unknown");
    assert_eq!(error.as_problem().map(|problem| problem.status), Some(404), "{error}");
    a.stop().await;
    b.stop().await;
}
