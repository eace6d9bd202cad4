//! Two sites with a line each to their vault, and everything that is asked of a plan: in each step of each job the gateway is
//! killed, or its line cut without a word. What was promised of the volumes holds, one side can write, and nothing is left behind.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Context, Result};
use lifeboat_acceptance::ambush::{At, Side, Step, Weapon};
use lifeboat_acceptance::content::scribble;
use lifeboat_acceptance::hosts::Cut;
use lifeboat_acceptance::sites::{Sites, Verb, contents};
use lifeboat_acceptance::stamps::{History, Writer};
use lifeboat_api::types::FailbackMode;

/// Every step that the story's jobs consist of: of plans, and of their groups.
const STEPS: [(&str, &[&str], &[&str]); 8] = [
    ("test-failover", &["open-test", "check", "groups"], &["test-branch"]),
    ("cleanup", &["end-tests", "groups", "record-plan"], &["end-tests"]),
    ("planned-failover", &["check", "groups", "record-plan"], &["release", "branch", "record-failover"]),
    ("unplanned-failover", &["check", "groups", "record-plan"], &["branch", "record-failover"]),
    ("change-point", &["groups"], &["release", "branch", "record-failover", "retire"]),
    ("commit", &["groups", "record-plan"], &["commit"]),
    ("reprotect", &["reprotect"], &["rehydrate"]),
    (
        "failback",
        &["reprotect", "groups", "record-plan"],
        &["rehydrate", "release", "last-delta", "take-over", "take-over-lazily", "retire"],
    ),
];

fn every_step() -> BTreeSet<Step> {
    let step = |kind: &str, of_plan, name: &&str| Step { kind: kind.to_owned(), of_plan, name: (*name).to_owned() };
    STEPS
        .iter()
        .flat_map(|(kind, plan, group)| {
            let plans = plan.iter().map(move |name| step(kind, true, name));
            plans.chain(group.iter().map(move |name| step(kind, false, name)))
        })
        .collect()
}

/// Sees that everything that was acknowledged is at this side, which alone can write, and lets the writer go on there.
fn all_is_at(sites: &Sites, writer: &Writer, side: Side) -> Result<()> {
    writer.pause()?;
    sites.one_writer(side)?;
    let mut history = writer.history();
    history.check(&sites.contents(side)?).with_context(|| format!("the volumes at {side:?}"))?;
    writer.go_on_from(history)?;
    sites.nothing_is_left(side, 0)?;
    writer.resume(&sites.files(side)?);
    writer.write(20)
}

/// Takes a point while nothing is written; gives it with what it has to hold.
fn point(sites: &Sites, writer: &Writer, label: &str) -> Result<(String, History)> {
    writer.pause()?;
    let (point, history) = (sites.point(Side::Home, label)?, writer.history());
    writer.resume(&sites.files(Side::Home)?);
    writer.write(20)?;
    Ok((point, history))
}

/// A test beside the running side: it holds what was safe when it was asked for, and what is written in it stays in it.
fn test_and_clean_up(sites: &mut Sites, writer: &Writer) -> Result<()> {
    let (_, safe) = point(sites, writer, "before the test")?;
    let job = sites.carry(&Verb::Test)?;
    let volumes = sites.served(&job)?;
    let copy = contents(&volumes)?;
    writer.history().check_prefix(&copy, safe.last()).context("in the test")?;
    scribble(&volumes[0], 7, 16).context("write in the test")?;
    sites.carry(&Verb::Cleanup)?;
    writer.write(20)?;
    all_is_at(sites, writer, Side::Home)
}

/// The whole story; whatever strikes does so by the ambush.
fn story(sites: &mut Sites) -> Result<()> {
    let writer = Writer::start()?;
    writer.resume(&sites.files(Side::Home)?);
    writer.write(100)?;
    test_and_clean_up(sites, &writer)?;

    // A planned move under writes, and home with what was written meanwhile.
    sites.carry(&Verb::Planned)?;
    all_is_at(sites, &writer, Side::Away).context("after the planned failover")?;
    sites.carry(&Verb::Commit)?;
    sites.carry(&Verb::Reprotect)?;
    sites.carry(&Verb::Failback(FailbackMode::MinimizeDowntime))?;
    all_is_at(sites, &writer, Side::Home).context("after the failback")?;

    // The site is lost: it goes on from a point, and from another one.
    let (early, then) = point(sites, &writer, "early")?;
    let (late, later) = point(sites, &writer, "late")?;
    writer.pause()?;
    sites.estate.primary.kill9()?;
    sites.carry(&Verb::Unplanned(late))?;
    later.clone().check(&sites.contents(Side::Away)?).context("at the late point")?;
    sites.carry(&Verb::ChangePoint(early))?;
    then.clone().check(&sites.contents(Side::Away)?).context("at the early point")?;
    writer.go_on_from(then)?;
    writer.resume(&sites.files(Side::Away)?);
    writer.write(50)?;
    sites.estate.primary.restart()?;
    all_is_at(sites, &writer, Side::Away).context("after the loss")?;
    sites.carry(&Verb::Failback(FailbackMode::FullDownload))?;
    all_is_at(sites, &writer, Side::Home).context("after the failback in full")?;

    sites.carry(&Verb::Planned)?;
    all_is_at(sites, &writer, Side::Away).context("after the second planned failover")?;
    sites.carry(&Verb::Failback(FailbackMode::Create))?;
    all_is_at(sites, &writer, Side::Home).context("after the failback to a new disk")?;
    point(sites, &writer, "still protected").map(drop)
}

/// Says what struck, and holds it against every step that there is.
fn every_step_was_struck(sites: &Sites) {
    let struck: BTreeSet<Step> = sites.strikes.iter().map(|strike| strike.step.clone()).collect();
    eprintln!("{} strikes in {} steps", sites.strikes.len(), struck.len());
    let missed: Vec<String> = every_step().difference(&struck).map(ToString::to_string).collect();
    assert!(missed.is_empty(), "never struck: {missed:?}");
}

/// In the beginning of a step, in its middle, at its end: one after the other, so that kinds of jobs that share a step differ.
fn moments(at: u32) -> At {
    match at % 3 {
        0 => At::End,
        1 => At::Request(at % 7),
        _ => At::Begin,
    }
}

/// From now on every step of every job of the story is struck; or each kind of step once.
fn strike_every_step(sites: &Sites, once: bool, weapon: fn(u32) -> Weapon) {
    let (mut steps, mut count) = (every_step(), 0);
    sites.ambush.strike(move |step| {
        count += 1;
        let strikes = if once { steps.remove(step) } else { steps.contains(step) };
        strikes.then(|| (moments(count), weapon(count)))
    });
}

#[test]
fn the_gateway_may_be_killed_in_every_step_of_every_job() {
    let mut sites = Sites::new("kills").unwrap();
    strike_every_step(&sites, false, |_| Weapon::Kill);
    story(&mut sites).unwrap();
    every_step_was_struck(&sites);
}

#[test]
fn the_line_may_be_cut_in_every_step_of_every_job() {
    let mut sites = Sites::new("cuts").unwrap();
    // Some requests are given up while the line is still cut, others are not.
    sites.cut_for = Duration::from_millis(1800);
    // Once: what was lost in a cut is asked for again only after seconds.
    strike_every_step(&sites, true, |count| Weapon::Cut(if count % 4 == 0 { Cut::Plain } else { Cut::Silent }));
    story(&mut sites).unwrap();
    every_step_was_struck(&sites);
}
