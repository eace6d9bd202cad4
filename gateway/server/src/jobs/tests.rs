//! Jobs of two gateways that are killed again and again: after every revision of the job, and in the middle of
//! everything that the data path does. They come to the same end as jobs that nobody disturbs.

mod agents;
mod drills;
mod elsewhere;
mod hosts;
mod programs;
mod replace;
mod sequences;
mod undelete;

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::sync::Arc;

use lifeboat_api::{
    ChangePointRequest, CleanupRequest, Client, FailbackMode, FailbackRequest, FailoverKind, FailoverRequest,
    Gateway as GatewayView, GatewaySpec, Group, Job, JobKind, Point, ProtectionState, ProtectionStatus, ReleaseRequest,
    ResumeRequest, ResyncRequest, Site, Volume,
};
use lifeboat_model::state::{GroupState, JobState};
use lifeboat_model::{GroupId, JobId};

use super::brake;
use super::fake::Fake;
use super::fake_host::FakeHost;
use crate::records::{AnySpec, JobRecord, JobStateRecord, kind, status};
use crate::testing::{client, config, declare, eventually, registered, vault_create};
use crate::{Gateway, ServeConfig};

/// Two gateways on one data path.
struct Pair {
    dir: tempfile::TempDir,
    fake: Fake,
    /// Where machines run: beside each gateway.
    hosts: (FakeHost, FakeHost),
    /// A third gateway, where there is one, and its host.
    third: Third,
    /// Deaths of the data path after which both were started again.
    revived: usize,
    running: Option<(Gateway, Gateway)>,
}

#[derive(Default)]
struct Third {
    site: Option<&'static str>,
    host: FakeHost,
    running: Option<Gateway>,
}

impl Pair {
    fn new(dir: tempfile::TempDir, fake: Fake) -> Self {
        // Programs that plans run: one that notes what it was run for.
        let hooks = dir.path().join("hooks");
        std::fs::create_dir(&hooks).expect("made");
        let notes = dir.path().join("notes");
        let text =
            format!("#!/bin/sh\necho \"$LIFEBOAT_ACTION $LIFEBOAT_DIRECTION $LIFEBOAT_KIND\" >> {}\n", notes.display());
        std::fs::write(hooks.join("draft"), text).expect("written");
        std::fs::set_permissions(hooks.join("draft"), std::fs::Permissions::from_mode(0o755)).expect("mode");
        std::fs::copy(hooks.join("draft"), hooks.join("note")).expect("copied");
        Self { dir, fake, hosts: Default::default(), third: Third::default(), revived: 0, running: None }
    }

    async fn start() -> (Self, Volume) {
        let dir = tempfile::tempdir().expect("tempdir");
        let mut pair = Self::new(dir, Fake::default());
        pair.up().await;
        let volume = declare(&pair.a(), &pair.dir.path().join("vault")).await.volume;
        pair.b().create_vault(&vault_create(&pair.dir.path().join("vault"), true)).await.expect("attached");
        let client = pair.b();
        eventually("both registered", async || {
            let gateways: Vec<GatewayView> = client.list("/v1/gateways", &[]).await.expect("list");
            gateways.iter().all(|gateway| gateway.status.registered).then_some(())
        })
        .await;
        (pair, volume)
    }

    /// The same with a third gateway, `c`, at one of the two sites.
    async fn start_three(at: &'static str) -> (Self, Volume) {
        let (mut pair, volume) = Self::start().await;
        let client = pair.b();
        let site = client.find_by_name::<Site>(at).await.expect("list").expect("declared");
        let spec = GatewaySpec { site_id: site.id, name: "c".into(), roles: None, mount_path: None };
        client.create::<GatewayView>(&spec).await.expect("gateway");
        pair.third.site = Some(at);
        pair.third.running = Some(pair.alone("c", at).await);
        pair.c().create_vault(&vault_create(&pair.dir.path().join("vault"), true)).await.expect("attached");
        // Those that are asked have to know of it.
        for client in [pair.a(), client, pair.c()] {
            eventually("the third is known", async || {
                let found = client.find_by_name::<GatewayView>("c").await.expect("list");
                found.filter(|gateway| gateway.status.registered).map(drop)
            })
            .await;
        }
        (pair, volume)
    }

    fn c(&self) -> Client {
        client(self.third.running.as_ref().expect("up"))
    }

    async fn up(&mut self) {
        self.running = Some((self.alone("a", "east").await, self.alone("b", "west").await));
        if let Some(site) = self.third.site {
            self.third.running = Some(self.alone("c", site).await);
        }
    }

    /// One gateway.
    async fn alone(&self, name: &str, site: &str) -> Gateway {
        let path = self.dir.path().join(name);
        let host = match name {
            "a" => self.hosts.0.clone(),
            "b" => self.hosts.1.clone(),
            "c" => self.third.host.clone(),
            _ => FakeHost::default(),
        };
        let settings = ServeConfig { hooks: self.dir.path().join("hooks"), ..config(&path, name, site) };
        let started = Gateway::start_with(settings, Arc::new(self.fake.clone()), Some(Arc::new(host))).await;
        started.expect("starts")
    }

    /// As a kill, seen from the catalog and the data path: the fake keeps nothing in memory.
    async fn kill(&mut self) {
        let (a, b) = self.running.take().expect("up");
        a.stop().await;
        b.stop().await;
        if let Some(c) = self.third.running.take() {
            c.stop().await;
        }
    }

    fn a(&self) -> Client {
        client(&self.running.as_ref().expect("up").0)
    }

    fn b(&self) -> Client {
        client(&self.running.as_ref().expect("up").1)
    }

    async fn job(&self, id: JobId) -> (u64, JobRecord) {
        let context = &self.running.as_ref().expect("up").0.context;
        let vault = context.vaults.all().remove(0).vault().expect("open");
        let document = vault.catalog().get(kind::JOBS, &id.to_string()).await.expect("job");
        (document.revision, status(&document))
    }

    /// Kills both gateways in every step of the job and between them, as often as its document changes meanwhile, until it
    /// is over. With [`brake::hold`] before it was asked for, from its first step.
    async fn disturb(&mut self, id: JobId) -> (JobRecord, usize) {
        let (mut seen, mut record) = self.job(id).await;
        let mut kills = 0;
        while !record.is_over() {
            self.kill().await;
            kills += 1;
            self.up().await;
            (seen, record) = self.go_on(id, seen, &record).await;
        }
        brake::release();
        (record, kills)
    }

    /// Lets the job do the step that it is in, and waits for what comes of it.
    async fn go_on(&self, id: JobId, seen: u64, record: &JobRecord) -> (u64, JobRecord) {
        brake::hold_after(id, record.current().map_or(usize::MAX, |(index, _)| index));
        eventually("the job goes on", async || {
            let (revision, record) = self.job(id).await;
            (revision > seen).then_some((revision, record))
        })
        .await
    }

    /// Starts both again whenever the data path died, until the job is over.
    async fn revive(&mut self, id: JobId) -> JobRecord {
        loop {
            let before = self.revived;
            let over = {
                let pair = &*self;
                eventually("the job goes on, or the data path dies", async || {
                    let (_, record) = pair.job(id).await;
                    match (record.is_over(), pair.fake.killed().len() > before) {
                        (true, _) => Some(Some(record)),
                        (false, true) => Some(None),
                        (false, false) => None,
                    }
                })
                .await
            };
            match over {
                Some(record) => return record,
                None => {
                    self.revived += 1;
                    self.kill().await;
                    self.up().await;
                }
            }
        }
    }

    /// Which instances could be written, by directory.
    fn writers(&self, group: GroupId) -> Vec<String> {
        let (a, b) = self.running.as_ref().expect("up");
        let mut writers = Vec::new();
        let third = self.third.running.iter().map(|c| (c, "c"));
        for (gateway, name) in [(a, "a"), (b, "b")].into_iter().chain(third) {
            for (instance, open) in gateway.context.instances.of(group) {
                if open.instance.status().state == GroupState::Active {
                    writers.push(format!("{name}/{instance}"));
                }
            }
        }
        writers
    }

    /// Directories of the instances that could be written.
    fn written_at(&self, group: GroupId) -> Vec<std::path::PathBuf> {
        self.writers(group).iter().map(|writer| self.instance_dir(group, writer)).collect()
    }

    /// `writer`: gateway and instance, as `b/home`.
    fn instance_dir(&self, group: GroupId, writer: &str) -> std::path::PathBuf {
        let (gateway, instance) = writer.split_once('/').expect("gateway and instance");
        self.dir.path().join(gateway).join("groups").join(group.to_string()).join(instance)
    }

    /// Cuts the gateways off from the vault for a while.
    async fn cut(&self, time: std::time::Duration) {
        let (vault, away) = (self.dir.path().join("vault"), self.dir.path().join("away"));
        self.fake.cut(true);
        std::fs::rename(&vault, &away).expect("cut off");
        tokio::time::sleep(time).await;
        // What was begun just before may have made the empty directory again, below what is mounted there.
        while std::fs::rename(&away, &vault).is_err() {
            let _ = std::fs::remove_dir_all(&vault);
        }
        self.fake.cut(false);
    }

    /// Waits until exactly that instance can be written.
    async fn sole_writer(&self, group: GroupId, expected: &str) {
        eventually(&format!("{expected} is the sole writer"), async || {
            (self.writers(group) == [expected]).then_some(())
        })
        .await;
    }
}

fn ask(kind: FailoverKind) -> FailoverRequest {
    FailoverRequest { kind, point: "latest".into(), branch_id: None }
}

fn succeeded(record: &JobRecord) {
    assert_eq!(record.state.0, JobState::Succeeded, "{record:#?}");
    assert!(record.steps.iter().all(|step| step.state == JobState::Succeeded));
}

async fn protected(client: &Client, volume: &Volume, state: ProtectionState) -> GroupId {
    let found = eventually(&format!("volume {state}"), async || {
        let found: Volume = client.read(&volume.id.to_string()).await.expect("volume");
        (found.status.state == state && found.status.job_id.is_none()).then_some(found)
    })
    .await;
    found.status.group_id.expect("group")
}

/// The answer to "the step is done" may be lost. Whoever did that step then asks again, and finds that the next one is another's.
#[tokio::test(flavor = "multi_thread")]
async fn nobody_does_the_step_of_another_gateway() {
    let (pair, volume) = Pair::start().await;
    let group = protected(&pair.a(), &volume, ProtectionState::Protected).await;
    let text = group.to_string();
    let planned = pair.b().group_verb(&text, "failover", &ask(FailoverKind::Planned)).await.expect("planned");
    pair.b().wait_for_job(&planned.id.to_string(), |_| ()).await.expect("over");
    pair.sole_writer(group, &format!("b/{}", planned.id)).await;
    let context = &pair.running.as_ref().expect("up").0.context;
    let attached = context.vaults.all().remove(0);
    let begun = super::change_job(&attached, planned.id, |record| {
        record.state = JobStateRecord(JobState::Running);
        record.steps.iter_mut().skip(1).for_each(|step| step.state = JobState::Queued);
        true
    });
    begun.await.expect("written");
    let (before, record) = pair.job(planned.id).await;
    assert_ne!(record.steps[0].gateway, record.steps[1].gateway);
    let document =
        attached.vault().expect("open").catalog().get(kind::JOBS, &planned.id.to_string()).await.expect("job");
    let spec = document.spec_as::<AnySpec>().expect("a spec");
    let own = context.own_gateway(&attached).expect("declared");
    super::try_step(context, &attached, planned.id, &spec, own, lifeboat_model::Timestamp::now(), None)
        .await
        .expect("nothing to do");
    assert_eq!(pair.job(planned.id).await.0, before, "it wrote to a step that isn't its own");
    assert_eq!(pair.writers(group), [format!("b/{}", planned.id)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn jobs_killed_after_every_revision_come_to_their_end() {
    let (mut pair, volume) = Pair::start().await;
    let group = protected(&pair.a(), &volume, ProtectionState::Protected).await;
    let text = group.to_string();
    brake::hold();
    let planned = pair.b().group_verb(&text, "failover", &ask(FailoverKind::Planned)).await.expect("planned");
    let (record, kills) = pair.disturb(planned.id).await;
    succeeded(&record);
    assert!(kills >= record.steps.len(), "{kills} kills in {} steps", record.steps.len());
    pair.sole_writer(group, &format!("b/{}", planned.id)).await;
    protected(&pair.a(), &volume, ProtectionState::FailedOver).await;

    let back = FailbackRequest::new(FailbackMode::MinimizeDowntime);
    brake::hold();
    let back = pair.a().group_verb(&text, "failback", &back).await.expect("failback");
    let (record, kills) = pair.disturb(back.id).await;
    succeeded(&record);
    assert!(kills >= record.steps.len(), "{kills} kills in {} steps", record.steps.len());
    assert!(record.result.downtime_seconds.is_some());
    pair.sole_writer(group, "a/home").await;
    protected(&pair.b(), &volume, ProtectionState::Protected).await;
    assert!(!pair.dir.path().join("b/groups").join(&text).join(planned.id.to_string()).exists());
    pair.kill().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn jobs_killed_inside_every_step_come_to_their_end() {
    let places = [
        "create: begins",
        "create: the vault has it",
        "create: done",
        "release: begins",
        "release: shipped",
        "release: done",
        "fail over: begins",
        "fail over: fenced",
        "fail over: the branch is there",
        "fail over: done",
        "rehydrate: begins",
        "rehydrate: in between",
        "rehydrate: done",
        "take over: begins",
        "take over: the epoch is open",
        "take over: done",
        "forget: begins",
        "forget: the state is gone",
        "forget: done",
    ];
    let dir_fake = Fake::default();
    dir_fake.kill_at(&places);
    let (mut pair, volume) = {
        let mut pair = Pair::new(tempfile::tempdir().expect("tempdir"), dir_fake);
        pair.up().await;
        let volume = declare(&pair.a(), &pair.dir.path().join("vault")).await.volume;
        pair.b().create_vault(&vault_create(&pair.dir.path().join("vault"), true)).await.expect("attached");
        (pair, volume)
    };
    let group = GroupId::from_bytes(volume.id.to_bytes());
    let text = group.to_string();
    let enable = JobId::from_bytes(group.to_bytes());
    let client = pair.a();
    eventually("protection begins", async || client.job(&enable.to_string()).await.ok()).await;
    succeeded(&pair.revive(enable).await);
    protected(&pair.a(), &volume, ProtectionState::Protected).await;
    let client = pair.b();
    registered(&client, "b").await;
    let planned = pair.b().group_verb(&text, "failover", &ask(FailoverKind::Planned)).await.expect("planned");
    succeeded(&pair.revive(planned.id).await);
    pair.sole_writer(group, &format!("b/{}", planned.id)).await;
    protected(&pair.a(), &volume, ProtectionState::FailedOver).await;
    let back = FailbackRequest::new(FailbackMode::MinimizeDowntime);
    let back = pair.b().group_verb(&text, "failback", &back).await.expect("failback");
    succeeded(&pair.revive(back.id).await);
    pair.sole_writer(group, "a/home").await;
    pair.nothing_left("b", group).await;
    let mut killed = pair.fake.killed();
    killed.sort_unstable();
    let mut expected = places.to_vec();
    expected.sort_unstable();
    assert_eq!(killed, expected);
    pair.kill().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn another_point_and_a_home_on_a_new_disk_come_to_their_end_whenever_they_are_killed() {
    let (mut pair, volume) = Pair::start().await;
    let group = protected(&pair.a(), &volume, ProtectionState::Protected).await;
    let text = group.to_string();
    let first = pair.b().group_verb(&text, "failover", &ask(FailoverKind::Unplanned)).await.expect("unplanned");
    succeeded(&pair.revive(first.id).await);
    pair.fake.kill_at(&[
        "release: begins",
        "release: shipped",
        "fail over: fenced",
        "fail over: the branch is there",
        "forget: begins",
        "forget: the state is gone",
        "forget: done",
        "take over lazily: begins",
        "take over lazily: the epoch is open",
        "take over lazily: done",
    ]);
    let points: Vec<Point> = pair.b().list("/v1/points", &[("group", text.clone())]).await.expect("points");
    let same = pair.b().group_verb(&text, "change-point", &change(&points[0].id.to_string())).await;
    assert!(same.expect_err("it is that one").to_string().contains("already"), "the point it runs from");
    // The fake's first branch has the one point that the failover chose, so a second one is made for the choice.
    let other = pair.fake.another_point(points[0].branch_id, &pair.instance_dir(group, "a/home"));
    let changed = pair.a().group_verb(&text, "change-point", &change(&other.to_string())).await.expect("change point");
    let record = pair.revive(changed.id).await;
    succeeded(&record);
    assert_eq!(record.result.point_id, Some(other));
    pair.sole_writer(group, &format!("b/{}", changed.id)).await;
    protected(&pair.a(), &volume, ProtectionState::FailedOver).await;
    assert!(!pair.dir.path().join("b/groups").join(&text).join(first.id.to_string()).exists(), "what was left is gone");

    let back = FailbackRequest::new(FailbackMode::Create);
    let back = pair.a().group_verb(&text, "failback", &back).await.expect("failback");
    succeeded(&pair.revive(back.id).await);
    pair.sole_writer(group, "a/home").await;
    protected(&pair.b(), &volume, ProtectionState::Protected).await;
    let late = pair.b().group_verb(&text, "change-point", &change("latest")).await.expect_err("at home");
    assert!(late.to_string().contains("isn't failed over"), "{late}");
    assert!(pair.fake.killed().len() >= 10, "{:?}", pair.fake.killed());
    pair.kill().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_resync_on_request_comes_to_its_end_whenever_it_is_killed() {
    let (mut pair, volume) = Pair::start().await;
    let group = protected(&pair.a(), &volume, ProtectionState::Protected).await;
    let text = group.to_string();
    // The gateway that is asked isn't the one that does it.
    brake::hold();
    let compared = pair.b().group_verb(&text, "resync", &ResyncRequest { compare: true }).await.expect("resync");
    let (record, kills) = pair.disturb(compared.id).await;
    succeeded(&record);
    assert!(kills >= record.steps.len(), "{kills} kills in {} steps", record.steps.len());
    assert_eq!(record.result.bytes_changed, Some(5 * 4096));
    assert!(record.result.bytes_compared >= Some(1));

    pair.fake.kill_at(&["compare: begins", "compare: done"]);
    let compared = pair.a().group_verb(&text, "resync", &ResyncRequest { compare: true }).await.expect("resync");
    succeeded(&pair.revive(compared.id).await);
    assert_eq!(pair.fake.killed().len(), 2);
    let status = async |client: Client| {
        let found: Vec<ProtectionStatus> =
            client.list("/v1/protection-status", &[("group", text.clone())]).await.expect("status");
        found.into_iter().next().expect("a group").resync
    };
    assert_eq!(status(pair.a()).await, None);
    // Nothing to copy is no failure.
    let idle = pair.a().group_verb(&text, "resync", &ResyncRequest::default()).await.expect("resync");
    let idle = over(&pair.a(), &idle).await;
    assert_eq!((idle.state, idle.steps[0].message.as_str()), (JobState::Succeeded, "the vault lacks nothing"));
    pair.kill().await;
}

fn change(point: &str) -> ChangePointRequest {
    ChangePointRequest { point: point.to_owned() }
}

async fn over(client: &Client, job: &Job) -> Job {
    client.wait_for_job(&job.id.to_string(), |_| {}).await.expect("job")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_group_has_one_job_at_a_time_and_a_failed_one_leaves_it_where_it_was() {
    let (mut pair, volume) = Pair::start().await;
    let group = protected(&pair.a(), &volume, ProtectionState::Protected).await;
    let text = group.to_string();
    // Stops in the middle of the failover, after the source gave its place up.
    pair.fake.kill_at(&["fail over: begins"]);
    let (to_a, to_b) = (pair.a(), pair.b());
    let planned = to_b.group_verb(&text, "failover", &ask(FailoverKind::Planned)).await.expect("planned");
    eventually("the source has released", async || (!pair.fake.killed().is_empty()).then_some(())).await;
    let busy = to_a.group_verb(&text, "release", &ReleaseRequest {}).await.expect_err("busy");
    assert!(busy.to_string().contains(&planned.id.to_string()), "{busy}");
    assert_eq!(busy.as_problem().expect("answered").status, 409);
    let blocked = to_a.delete::<Volume>(&volume.id.to_string(), 1).await.expect_err("busy");
    assert!(blocked.blockers()[0].contains(&planned.id.to_string()), "{blocked}");
    assert!(to_a.list::<Job>("/v1/jobs", &[]).await.expect("jobs").iter().all(|job| job.kind != JobKind::Release));
    // Cancelled while nobody can go on; the next start sees it, and the source goes on.
    to_a.cancel_job(&planned.id.to_string()).await.expect("asked");
    pair.kill().await;
    pair.up().await;
    let planned = over(&pair.a(), &planned).await;
    assert_eq!(planned.state, JobState::Cancelled);
    pair.sole_writer(group, "a/home").await;
    protected(&pair.a(), &volume, ProtectionState::Protected).await;

    // Released on purpose: it isn't resumed until somebody says so.
    let release = pair.a().group_verb(&text, "release", &ReleaseRequest {}).await.expect("release");
    assert_eq!(over(&pair.a(), &release).await.state, JobState::Succeeded);
    pair.kill().await;
    pair.up().await;
    assert!(pair.a().read::<Group>(&text).await.expect("group").status.released);
    assert!(pair.writers(group).is_empty());
    let resume = pair.a().group_verb(&text, "resume", &ResumeRequest {}).await.expect("resume");
    assert_eq!(over(&pair.a(), &resume).await.state, JobState::Succeeded);
    pair.sole_writer(group, "a/home").await;
    pair.kill().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_state_does_not_allow_is_refused_with_the_reason() {
    let (mut pair, volume) = Pair::start().await;
    let group = protected(&pair.a(), &volume, ProtectionState::Protected).await.to_string();
    let (to_a, to_b) = (pair.a(), pair.b());
    let refused = async |client: &Client, verb: &str, body: serde_json::Value| {
        let error = client.group_verb(&group, verb, &body).await.expect_err(verb);
        error.to_string()
    };
    let unplanned = serde_json::json!({"kind": "unplanned"});
    assert!(refused(&to_a, "failover", unplanned).await.contains("active at this gateway already"));
    assert!(refused(&to_a, "failback", serde_json::json!({})).await.contains("at home"));
    assert!(refused(&to_a, "commit", serde_json::json!({})).await.contains("isn't failed over"));
    assert!(refused(&to_a, "cleanup", serde_json::json!({})).await.contains("no test failover"));
    assert!(refused(&to_a, "resume", serde_json::json!({})).await.contains("isn't released"));
    assert!(refused(&to_a, "explode", serde_json::json!({})).await.contains("no verb"));
    let early = serde_json::json!({"kind": "test", "point": "2001-01-01T00:00:00Z"});
    assert!(refused(&to_b, "failover", early).await.contains("no recovery point fits"));
    let planned = serde_json::json!({"kind": "planned", "point": "2001-01-01T00:00:00Z"});
    assert!(refused(&to_b, "failover", planned).await.contains("goes on from the last write"));
    // Tests leave the running side alone, and are cleaned up one by one.
    let first = over(&to_b, &to_b.group_verb(&group, "failover", &ask(FailoverKind::Test)).await.expect("test")).await;
    let second = over(&to_b, &to_b.group_verb(&group, "failover", &ask(FailoverKind::Test)).await.expect("test")).await;
    let shown = to_b.read::<Group>(&group).await.expect("group");
    assert_eq!((shown.status.state, shown.status.tests.len()), (ProtectionState::Protected, 2));
    let one = CleanupRequest { branch_id: first.result.branch_id.map(|branch| branch.to_string()) };
    over(&to_a, &to_a.group_verb(&group, "cleanup", &one).await.expect("cleanup")).await;
    assert!(pair.fake.is_dropped(first.result.branch_id.expect("a branch")), "what the test wrote is kept for ever");
    // The gateway that was asked; the other one sees it at its next look.
    let shown = to_a.read::<Group>(&group).await.expect("group");
    assert_eq!(shown.status.tests.iter().map(|test| test.job_id).collect::<Vec<_>>(), [second.id]);
    assert!(!instance_dir(pair.dir.path(), &group, first.id).exists());
    assert!(instance_dir(pair.dir.path(), &group, second.id).exists());
    pair.kill().await;
}

fn instance_dir(root: &Path, group: &str, job: JobId) -> std::path::PathBuf {
    root.join("b/groups").join(group).join(job.to_string())
}

#[tokio::test(flavor = "multi_thread")]
async fn protection_begins_with_its_prerequisites_and_ends_with_what_a_recovery_still_needs() {
    let dir = tempfile::tempdir().expect("tempdir");
    let pair = Pair::new(dir, Fake::default());
    let gateway = pair.alone("a", "east").await;
    let client = client(&gateway);
    let volume = declare(&client, &pair.dir.path().join("vault")).await.volume;
    protected(&client, &volume, ProtectionState::Protected).await;
    let jobs: Vec<Job> = client.list("/v1/jobs", &[("kind", "enable-protection".to_owned())]).await.expect("jobs");
    let steps: Vec<(&str, &str)> =
        jobs[0].steps.iter().map(|step| (step.name.as_str(), step.message.as_str())).collect();
    let [(first, could), (second, _), (last, missing)] = steps[..] else { panic!("three steps: {steps:?}") };
    assert_eq!((first, second, last), ("Check prerequisites", "Set the group up", "Finalize protection"));
    assert_eq!(could, "1 volumes can be protected");
    assert!(missing.contains("a gateway at another site that has opened this vault"), "{missing}");
    gateway.stop().await;
}
