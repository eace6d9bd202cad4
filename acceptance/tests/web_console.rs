//! The web console in a real browser: what it says, what can be done with it, by keyboard, on a telephone, while something is lost.

use std::time::Duration;

use anyhow::{Context, Result};
use lifeboat_acceptance::browser::scenario;
use lifeboat_acceptance::content::{content, scribble};
use lifeboat_acceptance::estate::{Api, Estate};
use lifeboat_acceptance::eventually;
use lifeboat_acceptance::gateway::Gateway;
use lifeboat_api::types::{BootGroup, Drill, DrillSpec, Plan, PlanSpec, Site, Volume};
use serde_json::json;

const WITHIN: Duration = Duration::from_secs(60);

/// A group of two volumes at home, a recovery site that has the vault open, a point that somebody took.
fn estate(label: &str) -> Result<Estate> {
    let mut estate = Estate::protect(label, &[("data", 16 << 20), ("log", 16 << 20)])?;
    estate.add_standby()?;
    estate.open_vault_at_standby()?;
    scribble(&estate.primary.volume("data"), 1, 500)?;
    estate.take_point(&estate.primary, "before the upgrade")?;
    Ok(estate)
}

/// A plan with both volumes, and a drill of it that has never been run; known at the recovery site.
fn plan(estate: &Estate) -> Result<()> {
    let vault_id = estate.vault_id().parse().map_err(|_| anyhow::anyhow!("no vault id"))?;
    Api::of(&estate.primary)?.call(async |client| {
        let mut volume_ids = Vec::new();
        for name in ["data", "log"] {
            volume_ids.extend(client.find_by_name::<Volume>(name).await?.map(|volume| volume.id));
        }
        let site = async |name: &str| client.find_by_name::<Site>(name).await.map(|site| site.expect("declared").id);
        let boot = BootGroup {
            name: Some("the books".into()),
            machine_ids: Vec::new(),
            volume_ids,
            pre_action: Vec::new(),
            post_action: Vec::new(),
        };
        let plan: Plan = client
            .create(&PlanSpec {
                vault_id,
                name: "books".into(),
                source_site_id: site("onprem").await?,
                target_site_id: site("recovery").await?,
                shutdown: None,
                boot_group: vec![boot],
            })
            .await?;
        let drill: DrillSpec =
            serde_json::from_value(json!({"plan_id": plan.id, "name": "quarterly", "max_rto": "1h"})).expect("a drill");
        client.create::<Drill>(&drill).await.map(drop)
    })?;
    let api = Api::of(estate.standby()?)?;
    eventually("the drill at the recovery site", WITHIN, || {
        Ok(api.call(async |client| client.find_by_name::<Drill>("quarterly").await)?.map(drop))
    })
}

/// A token with roles, made by the gateway's administrator.
fn token(gateway: &Gateway, name: &str, roles: &[&str]) -> Result<String> {
    let mut args = vec!["token", "create", "--name", name];
    args.extend(roles.iter().flat_map(|role| ["--role", role]));
    let made = gateway.json(&args)?;
    Ok(made["secret"].as_str().context("a secret")?.to_owned())
}

#[test]
fn everything_is_told_to_everybody_who_looks() {
    let estate = estate("web-look").unwrap();
    plan(&estate).unwrap();
    let reader = token(&estate.primary, "looker", &["reader"]).unwrap();
    // A label that would do something, were it taken for markup.
    estate.take_point(&estate.primary, "<img src=x onerror=alert(1)>").unwrap();
    scenario("look", &estate.primary, &json!({"dir": estate.dir(), "reader": reader})).unwrap();
}

/// The site is lost, the console of the other one has to do: all by keyboard.
#[test]
fn a_site_is_lost_and_comes_back_by_the_other_sites_console() {
    let mut estate = estate("web-lost").unwrap();
    let written = content(&estate.primary.volume("data")).unwrap();
    let point = estate.points(&estate.primary).unwrap().remove(0);
    estate.primary.kill9().unwrap();
    let known = json!({"dir": estate.dir(), "point": point.time});
    scenario("fail-over", estate.standby().unwrap(), &known).unwrap();
    let away = estate.standby().unwrap().volume("data");
    assert!(content(&away).unwrap() == written, "the volume at the recovery site is another");
    scribble(&away, 2, 300).unwrap();
    let written = content(&away).unwrap();
    estate.primary.restart().unwrap();
    scenario("fail-back", estate.standby().unwrap(), &known).unwrap();
    let home = estate.primary.volume("data");
    let found = eventually("the volume to be open at home", WITHIN, || Ok(content(&home).ok())).unwrap();
    assert!(found == written, "the volume at home is another");
}

#[test]
fn a_plan_is_tested_and_drilled_and_the_evidence_is_there() {
    let estate = estate("web-drill").unwrap();
    plan(&estate).unwrap();
    scenario("drill", estate.standby().unwrap(), &json!({"dir": estate.dir()})).unwrap();
    let branches = std::fs::read_dir(estate.standby().unwrap().mount().join("branches")).unwrap().count();
    assert_eq!(branches, 0, "a test was left up");
}

#[test]
fn a_second_person_is_asked_where_the_vault_wants_one() {
    let estate = estate("web-approval").unwrap();
    let operator = token(&estate.primary, "olga", &["operator"]).unwrap();
    let second = token(&estate.primary, "sven", &["security_administrator"]).unwrap();
    estate.primary.run(&["vault", "protect", "main", "--second-approval", "true"]).unwrap().ok().unwrap();
    let known = json!({"dir": estate.dir(), "operator": operator, "second": second});
    scenario("approval", &estate.primary, &known).unwrap();
}

/// The vault goes away under a gateway that runs, and comes back.
#[test]
fn the_console_goes_on_while_the_vault_is_away() {
    let estate = estate("web-away").unwrap();
    let away = estate.dir().join("vault-away");
    std::fs::rename(estate.vault_dir(), &away).unwrap();
    scenario("vault-away", &estate.primary, &json!({"dir": estate.dir()})).unwrap();
    std::fs::rename(&away, estate.vault_dir()).unwrap();
    scenario("vault-back", &estate.primary, &json!({"dir": estate.dir()})).unwrap();
}
