//! Whatever is asked of a plan, in whatever order, and whenever the gateways are killed or cut off from their vault: each
//! group has one writer, which holds what a model of it says, the machines run where the volumes are and nowhere else, and
//! nothing is left of what has ended.
//!
//! `CASES=N` plays N sequences instead of a few, `SEED=0x…` begins at that seed.

use std::time::Duration;

use lifeboat_api::{CommitRequest, Drill, DrillRunRequest, DrillSpec, PlanCleanupRequest, ReprotectRequest};
use lifeboat_model::{GroupId, Timestamp};

use super::super::fake::Data;
use super::programs::{Shop, failover};
use super::*;
use crate::testing::{Random, given};

/// What one group's volume holds, by what was acknowledged and what was asked for.
#[derive(Clone, Debug, Default)]
struct Model {
    /// At the writer.
    current: Data,
    /// In the newest point of its branch.
    shipped: Data,
    /// What the points hold that were taken on its branch since it is there, in their order.
    points: Vec<Data>,
    /// What those hold that were taken on the branch that it was failed over from.
    left: Vec<Data>,
    /// Which one of those it goes on from; the last one of a planned failover is none of them.
    from: Option<usize>,
    /// In the test, while there is one.
    test: Data,
}

impl Model {
    /// `to`: the point of those it left that it is to go on from.
    fn after(&mut self, verb: &str, to: Option<usize>) {
        match verb {
            "test" => self.test.clone_from(&self.shipped),
            "cleanup" => self.test.clear(),
            "planned" | "unplanned" => {
                if verb == "unplanned" {
                    self.current.clone_from(&self.shipped);
                }
                self.left = std::mem::take(&mut self.points);
                self.from = (verb == "unplanned").then(|| self.left.len() - 1);
            }
            "change-point" if self.from != to => {
                self.from = to;
                self.current.clone_from(&self.left[to.expect("one was chosen")]);
                self.points.clear();
            }
            "failback" | "failback-create" => self.points.clear(),
            _ => {}
        }
        if !["test", "cleanup", "drill", "commit", "reprotect", "change-point"].contains(&verb) {
            self.shipped.clone_from(&self.current);
        }
    }
}

/// Where the plan is, as whoever asks for things knows it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Stands {
    away: bool,
    committed: bool,
    tested: bool,
}

/// What may be asked of a plan that stands so.
const VERBS: [&str; 10] = [
    "test",
    "cleanup",
    "planned",
    "unplanned",
    "change-point",
    "commit",
    "reprotect",
    "failback",
    "failback-create",
    "drill",
];

impl Stands {
    const fn allows(self, verb: &str) -> bool {
        match verb.as_bytes() {
            b"test" => !self.tested,
            b"cleanup" => self.tested,
            b"planned" | b"unplanned" => !self.away,
            b"change-point" => self.away && !self.committed,
            // A second commit comes to the same, for whoever lost the answer to the first.
            b"commit" => self.away,
            // Beside everything, also beside another test.
            b"drill" => true,
            _ => self.away,
        }
    }

    fn after(self, verb: &str) -> Self {
        match verb {
            "test" => Self { tested: true, ..self },
            "cleanup" => Self { tested: false, ..self },
            "planned" | "unplanned" => Self { away: true, committed: false, ..self },
            "commit" => Self { committed: true, ..self },
            "failback" | "failback-create" => Self { away: false, committed: false, ..self },
            _ => self,
        }
    }
}

async fn ask(shop: &Shop, drill: &Drill, verb: &str, point: &str) -> Result<Job, lifeboat_api::ClientError> {
    let plan = shop.plan.id.to_string();
    let client = shop.pair.b();
    let back = |mode| FailbackRequest::new(mode);
    match verb {
        "test" => client.verb::<lifeboat_api::Plan>(&plan, "failover", &failover(FailoverKind::Test)).await,
        "planned" => client.verb::<lifeboat_api::Plan>(&plan, "failover", &failover(FailoverKind::Planned)).await,
        "unplanned" => client.verb::<lifeboat_api::Plan>(&plan, "failover", &failover(FailoverKind::Unplanned)).await,
        "cleanup" => client.verb::<lifeboat_api::Plan>(&plan, "cleanup", &PlanCleanupRequest::default()).await,
        "change-point" => {
            let wanted = ChangePointRequest { point: point.into() };
            client.verb::<lifeboat_api::Plan>(&plan, "change-point", &wanted).await
        }
        "commit" => client.verb::<lifeboat_api::Plan>(&plan, "commit", &CommitRequest {}).await,
        "drill" => client.verb::<Drill>(&drill.id.to_string(), "run", &DrillRunRequest {}).await,
        "reprotect" => client.verb::<lifeboat_api::Plan>(&plan, "reprotect", &ReprotectRequest {}).await,
        "failback" => client.verb::<lifeboat_api::Plan>(&plan, "failback", &back(FailbackMode::MinimizeDowntime)).await,
        _ => client.verb::<lifeboat_api::Plan>(&plan, "failback", &back(FailbackMode::Create)).await,
    }
}

/// A sequence that is being played.
struct Play {
    shop: Shop,
    drill: Drill,
    random: Random,
    stands: Stands,
    models: Vec<(GroupId, Model)>,
    /// When all groups had the points that they have, and when those that they left had.
    times: (Vec<Timestamp>, Vec<Timestamp>),
    stamp: u64,
    /// The seed, and what was asked so far: in the panic of what was found.
    asked: String,
}

impl Play {
    async fn open(seed: u64) -> Self {
        let shop = Shop::open().await;
        shop.pair.hosts.1.says("db", "ready");
        let boots = serde_json::json!({"type": "boots", "machine_id": shop.db.id, "contains": "ready"});
        let spec = serde_json::json!({"plan_id": shop.plan.id, "name": "any-time", "assertion": [boots]});
        let spec: DrillSpec = serde_json::from_value(spec).expect("a drill");
        let drill: Drill = shop.pair.b().create(&spec).await.expect("declared");
        let models = shop.groups().into_iter().map(|group| (group, Model::default())).collect();
        let asked = format!("seed {seed:#x}:");
        Self {
            shop,
            drill,
            random: Random(seed),
            stands: Stands::default(),
            models,
            times: (vec![], vec![]),
            stamp: 0,
            asked,
        }
    }

    /// What may be asked, or what may not.
    fn pick(&mut self, allowed: bool) -> Option<&'static str> {
        let stands = self.stands;
        let verbs: Vec<&str> = VERBS
            .into_iter()
            // A second test is a matter of names, not of where things stand.
            .filter(|verb| stands.allows(verb) == allowed && (allowed || *verb != "test"))
            .collect();
        let which = usize::try_from(self.random.below(verbs.len().max(1) as u64)).expect("small");
        verbs.get(which).copied()
    }

    /// The applications write, at the writer and in the test.
    fn write(&mut self) {
        for (group, model) in &mut self.models {
            for writer in self.shop.pair.writers(*group) {
                let dir = self.shop.pair.instance_dir(*group, &writer);
                for _ in 0..self.random.below(4) {
                    let block = self.random.below(8);
                    self.stamp += 1;
                    assert!(self.shop.pair.fake.write(&dir, block, self.stamp), "{} {writer} refuses", self.asked);
                    let held = if self.shop.is_active(*group, &writer) { &mut model.current } else { &mut model.test };
                    held.insert(block, self.stamp);
                }
            }
        }
    }

    async fn step(&mut self) {
        if self.random.below(4) == 0
            && let Some(verb) = self.pick(false)
        {
            let refused = ask(&self.shop, &self.drill, verb, "latest").await;
            assert!(refused.is_err(), "{} {verb} was begun: {refused:?}", self.asked);
        }
        self.write();
        self.shop.more_points();
        self.times.0.push(Timestamp::now());
        for (_, model) in &mut self.models {
            model.shipped.clone_from(&model.current);
            model.points.push(model.current.clone());
        }
        if self.random.below(2) == 0 {
            // Not in the vault yet.
            self.write();
        }
        let verb = self.pick(true).expect("something may always be asked");
        self.asked = format!("{} {verb}", self.asked);
        let to = self.random.below(self.times.1.len().max(1) as u64);
        let to = (verb == "change-point").then(|| usize::try_from(to).expect("small"));
        let time = to.and_then(|to| self.times.1.get(to)).map_or_else(|| "latest".to_owned(), Timestamp::to_string);
        let job = match ask(&self.shop, &self.drill, verb, &time).await {
            Ok(job) => job,
            Err(error) => panic!("{} was refused: {error}", self.asked),
        };
        for _ in 0..self.random.below(3) {
            // At any moment of it.
            tokio::time::sleep(Duration::from_millis(self.random.below(400))).await;
            if self.random.below(2) == 0 {
                self.asked.push_str(" (kill)");
                self.shop.pair.kill().await;
                self.shop.pair.up().await;
            } else {
                self.asked.push_str(" (cut)");
                self.shop.pair.cut(Duration::from_millis(self.random.below(600))).await;
            }
        }
        let job = self.shop.over(&job).await;
        assert_eq!(job.state, JobState::Succeeded, "{}: {job:#?}", self.asked);
        if verb == "drill" {
            assert!(job.result.drill.as_ref().is_some_and(|out| out.passed), "{}: {job:#?}", self.asked);
        }
        self.stands = self.stands.after(verb);
        let changed = self.models.iter().any(|(_, model)| verb != "change-point" || model.from != to);
        self.models.iter_mut().for_each(|(_, model)| model.after(verb, to));
        match verb {
            "planned" | "unplanned" => self.times.1 = std::mem::take(&mut self.times.0),
            "failback" | "failback-create" => self.times.0.clear(),
            "change-point" if changed => self.times.0.clear(),
            _ => {}
        }
        let groups: Vec<GroupId> = self.models.iter().map(|(group, _)| *group).collect();
        holds(&self.shop, &groups, self.stands, &self.asked).await;
        for (group, model) in &self.models {
            for writer in self.shop.pair.writers(*group) {
                let found = self.shop.pair.fake.data(&self.shop.pair.instance_dir(*group, &writer));
                let expected = if self.shop.is_active(*group, &writer) { &model.current } else { &model.test };
                assert_eq!(found.as_ref(), Some(expected), "{}: {group} at {writer}", self.asked);
            }
        }
    }
}

/// Plays one sequence.
async fn play(seed: u64, length: u64) {
    let mut play = Play::open(seed).await;
    for _ in 0..length {
        play.step().await;
    }
    play.shop.pair.kill().await;
}

/// Holds what has to be so against what is.
async fn holds(shop: &Shop, groups: &[GroupId], stands: Stands, when: &str) {
    let (a, b) = (&shop.pair.hosts.0, &shop.pair.hosts.1);
    let side = if stands.away { "b/" } else { "a/" };
    eventually(&format!("{when}: one writer each, at {side}"), async || {
        groups
            .iter()
            .all(|group| {
                let writers = shop.pair.writers(*group);
                let tests = writers.iter().filter(|one| !shop.is_active(*group, one)).count();
                let active: Vec<&String> = writers.iter().filter(|one| shop.is_active(*group, one)).collect();
                tests == usize::from(stands.tested) && active.len() == 1 && active[0].starts_with(side)
            })
            .then_some(())
    })
    .await;
    // Nothing was ever run by us at home, so it runs at the recovery site or in a test, or not at all.
    let mut expected: Vec<String> = Vec::new();
    for _ in 0..usize::from(stands.away) + usize::from(stands.tested) {
        expected.extend(["db".to_owned(), "web".to_owned()]);
    }
    expected.sort_unstable();
    eventually(&format!("{when}: {expected:?} run at b"), async || {
        (a.names().is_empty() && b.names() == expected).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn any_sequence_of_verbs_kills_and_cuts_leaves_everything_in_its_place() {
    let (cases, first) = (given("CASES").unwrap_or(3), given("SEED").unwrap_or(0x5e90));
    for seed in first..first + cases {
        play(seed, 6).await;
    }
}
