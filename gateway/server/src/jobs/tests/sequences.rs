//! Whatever is asked of a plan, in whatever order, and whenever the gateways are killed: each group has one writer, the
//! machines run where the volumes are and nowhere else, and nothing is left of what has ended.
//!
//! `CASES=N` plays N sequences instead of a few, `SEED=0x…` begins at that seed.

use lifeboat_api::{CommitRequest, Drill, DrillRunRequest, DrillSpec, PlanCleanupRequest, ReprotectRequest};
use lifeboat_model::GroupId;

use super::programs::{Shop, failover};
use super::*;

/// Numbers from a seed: splitmix64, by Steele, Lea and Flood, 2014.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
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

async fn ask(shop: &Shop, drill: &Drill, verb: &str) -> Result<Job, lifeboat_api::ClientError> {
    let plan = shop.plan.id.to_string();
    let client = shop.pair.b();
    let back = |mode| FailbackRequest::new(mode);
    match verb {
        "test" => client.verb::<lifeboat_api::Plan>(&plan, "failover", &failover(FailoverKind::Test)).await,
        "planned" => client.verb::<lifeboat_api::Plan>(&plan, "failover", &failover(FailoverKind::Planned)).await,
        "unplanned" => client.verb::<lifeboat_api::Plan>(&plan, "failover", &failover(FailoverKind::Unplanned)).await,
        "cleanup" => client.verb::<lifeboat_api::Plan>(&plan, "cleanup", &PlanCleanupRequest::default()).await,
        "change-point" => {
            let wanted = ChangePointRequest { point: "latest".into() };
            client.verb::<lifeboat_api::Plan>(&plan, "change-point", &wanted).await
        }
        "commit" => client.verb::<lifeboat_api::Plan>(&plan, "commit", &CommitRequest {}).await,
        "drill" => client.verb::<Drill>(&drill.id.to_string(), "run", &DrillRunRequest {}).await,
        "reprotect" => client.verb::<lifeboat_api::Plan>(&plan, "reprotect", &ReprotectRequest {}).await,
        "failback" => client.verb::<lifeboat_api::Plan>(&plan, "failback", &back(FailbackMode::MinimizeDowntime)).await,
        _ => client.verb::<lifeboat_api::Plan>(&plan, "failback", &back(FailbackMode::Create)).await,
    }
}

/// Plays one sequence; what was asked is in the panic of what was found.
async fn play(seed: u64, length: u64) {
    let mut random = Random(seed);
    let mut shop = Shop::open().await;
    let groups: Vec<GroupId> = shop.groups();
    shop.pair.hosts.1.says("db", "ready");
    let boots = serde_json::json!({"type": "boots", "machine_id": shop.db.id, "contains": "ready"});
    let spec = serde_json::json!({"plan_id": shop.plan.id, "name": "any-time", "assertion": [boots]});
    let spec: DrillSpec = serde_json::from_value(spec).expect("a drill");
    let drill: Drill = shop.pair.b().create(&spec).await.expect("declared");
    let mut stands = Stands::default();
    let mut asked: Vec<String> = Vec::new();
    for _ in 0..length {
        let allowed: Vec<&str> = VERBS.into_iter().filter(|verb| stands.allows(verb)).collect();
        // Now and then what isn't allowed, to be refused.
        let wrong: Vec<&str> = VERBS.into_iter().filter(|verb| !stands.allows(verb) && *verb != "test").collect();
        if random.below(4) == 0 && !wrong.is_empty() {
            let verb = wrong[usize::try_from(random.below(wrong.len() as u64)).expect("small")];
            let refused = ask(&shop, &drill, verb).await;
            assert!(refused.is_err(), "seed {seed:#x}: {verb} after {asked:?} was begun: {refused:?}");
        }
        let verb = allowed[usize::try_from(random.below(allowed.len() as u64)).expect("small")];
        asked.push(verb.to_owned());
        shop.more_points();
        let job = match ask(&shop, &drill, verb).await {
            Ok(job) => job,
            Err(error) => panic!("seed {seed:#x}: {verb} after {asked:?} was refused: {error}"),
        };
        for _ in 0..random.below(3) {
            // At any moment of it.
            tokio::time::sleep(std::time::Duration::from_millis(random.below(400))).await;
            asked.push("kill".to_owned());
            shop.pair.kill().await;
            shop.pair.up().await;
        }
        let job = shop.over(&job).await;
        assert_eq!(job.state, JobState::Succeeded, "seed {seed:#x}: {asked:?}: {job:#?}");
        if verb == "drill" {
            assert!(job.result.drill.as_ref().is_some_and(|out| out.passed), "seed {seed:#x}: {asked:?}: {job:#?}");
        }
        stands = stands.after(verb);
        holds(&shop, &groups, stands, &format!("seed {seed:#x}: {asked:?}")).await;
    }
    shop.pair.kill().await;
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
async fn any_sequence_of_verbs_and_kills_leaves_everything_in_its_place() {
    let number = |name: &str| {
        let text = std::env::var(name).ok()?;
        text.strip_prefix("0x").map_or_else(|| text.parse().ok(), |hex| u64::from_str_radix(hex, 16).ok())
    };
    let (cases, first) = (number("CASES").unwrap_or(3), number("SEED").unwrap_or(0x5e90));
    for seed in first..first + cases {
        play(seed, 6).await;
    }
}
