//! Failover and failback between two gateways, against a model of the volumes kept outside.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use lifeboat_acceptance::content::{content, scribble};
use lifeboat_acceptance::estate::Estate;
use lifeboat_acceptance::eventually;
use lifeboat_acceptance::gateway::Gateway;
use lifeboat_api::types::{CleanupRequest, CommitRequest, FailbackMode, FailoverKind, Job};

const SIZE: u64 = 32 << 20;
const VOLUMES: [(&str, u64); 2] = [("data", SIZE), ("log", SIZE / 2)];

fn contents(paths: &[PathBuf]) -> Result<Vec<Vec<u8>>> {
    paths.iter().map(|path| content(path)).collect()
}

/// Blocks that differ between two equally long volumes.
fn differing(a: &[u8], b: &[u8]) -> u64 {
    assert_eq!(a.len(), b.len());
    a.chunks(4096).zip(b.chunks(4096)).filter(|(a, b)| a != b).count() as u64
}

fn at_home(estate: &Estate) -> Vec<PathBuf> {
    VOLUMES.iter().map(|(name, _)| estate.primary.volume(name)).collect()
}

/// The volumes' files that a failover's job names, in the order of [`VOLUMES`].
fn served(job: &Job) -> Vec<PathBuf> {
    VOLUMES
        .iter()
        .map(|(name, _)| {
            let file = format!("/{name}.img");
            let path = job.result.paths.iter().find(|path| path.ends_with(&file));
            PathBuf::from(path.unwrap_or_else(|| panic!("no {name} among {:?}", job.result.paths)))
        })
        .collect()
}

fn same(found: &[Vec<u8>], model: &[Vec<u8>], when: &str) {
    for ((name, _), (found, model)) in VOLUMES.iter().zip(found.iter().zip(model)) {
        assert!(found == model, "{name} {when}: {} blocks differ", differing(found, model));
    }
}

fn refuses_writes(path: &Path) -> Result<()> {
    eventually(&format!("{} to refuse writes", path.display()), Duration::from_secs(30), || {
        let Ok(file) = File::options().write(true).open(path) else { return Ok(Some(())) };
        Ok(file.write_all_at(&[1; 4096], 0).is_err().then_some(()))
    })
}

#[test]
fn a_lost_primary_is_recovered_and_taken_back_by_moving_what_differs() {
    let mut estate = Estate::protect("failover", &VOLUMES).unwrap();
    estate.add_standby().unwrap();
    let home = at_home(&estate);
    scribble(&home[0], 1, 3000).unwrap();
    scribble(&home[1], 2, 1000).unwrap();
    let model = contents(&home).unwrap();
    let point = estate.take_point(&estate.primary, "known").unwrap().result.point_id.unwrap();
    // Written after the point and before the disaster: shipped or not, it isn't part of that point.
    scribble(&home[0], 3, 50).unwrap();
    estate.primary.kill9().unwrap();

    estate.open_vault_at_standby().unwrap();
    let job = estate.fail_over(FailoverKind::Unplanned, &point.to_string()).unwrap();
    let away = served(&job);
    same(&contents(&away).unwrap(), &model, "after the failover");
    scribble(&away[0], 4, 200).unwrap();
    scribble(&away[1], 5, 20).unwrap();
    let written = contents(&away).unwrap();
    let standby = estate.standby().unwrap();
    estate.verb(standby, "commit", &CommitRequest::default()).unwrap();

    estate.primary.restart().unwrap();
    for path in &home {
        refuses_writes(path).unwrap();
    }
    let changed: u64 = contents(&home).unwrap().iter().zip(&written).map(|(home, away)| differing(home, away)).sum();
    assert!(changed > 200, "{changed} blocks differ before the failback");
    let job = estate.fail_back(FailbackMode::MinimizeDowntime).unwrap();
    same(&contents(&home).unwrap(), &written, "after the failback");
    let (counted, moved) = (job.result.bytes_changed.unwrap(), job.result.bytes_moved.unwrap());
    assert_eq!(counted, changed * 4096, "what the failback counted as changed");
    // The content can't be compressed, so 1.05 times what changed is a limit on overhead. What the primary itself wrote after
    // the point (50 blocks, scattered) is brought back from frames that hold 15 other blocks each: a frame is the unit of
    // encryption, and can only be read as a whole.
    let whole_frames = 50 * 15 * 4096;
    assert!(moved <= counted + counted / 20 + 65_536 + whole_frames, "{moved} bytes moved for {counted} changed");
    assert!(job.result.orphan_branch_id.is_some(), "what the primary wrote after the point is kept on a branch");

    // At home again: writable here, and not there.
    for path in &away {
        refuses_writes(path).unwrap();
    }
    scribble(&home[0], 6, 30).unwrap();
    estate.take_point(&estate.primary, "home again").unwrap();
}

#[test]
fn a_planned_failover_loses_nothing_and_comes_back() {
    let mut estate = Estate::protect("planned", &VOLUMES).unwrap();
    estate.add_standby().unwrap();
    estate.open_vault_at_standby().unwrap();
    let home = at_home(&estate);
    scribble(&home[0], 11, 800).unwrap();
    scribble(&home[1], 12, 300).unwrap();
    let model = contents(&home).unwrap();
    let job = estate.fail_over(FailoverKind::Planned, "latest").unwrap();
    assert_eq!(job.result.rpo_seconds, Some(0.0));
    let away = served(&job);
    same(&contents(&away).unwrap(), &model, "after the planned failover");
    for path in &home {
        refuses_writes(path).unwrap();
    }
    scribble(&away[0], 13, 40).unwrap();
    let written = contents(&away).unwrap();
    let job = estate.fail_back(FailbackMode::MinimizeDowntime).unwrap();
    same(&contents(&home).unwrap(), &written, "after the failback");
    assert!(job.result.orphan_branch_id.is_none(), "an orderly switch leaves no tail");
}

#[test]
fn a_test_failover_disturbs_nobody_and_leaves_nothing() {
    let mut estate = Estate::protect("drill", &VOLUMES).unwrap();
    estate.add_standby().unwrap();
    estate.open_vault_at_standby().unwrap();
    let home = at_home(&estate);
    scribble(&home[0], 21, 500).unwrap();
    let point = estate.take_point(&estate.primary, "drill").unwrap().result.point_id.unwrap();
    let model = contents(&home).unwrap();
    let job = estate.fail_over(FailoverKind::Test, &point.to_string()).unwrap();
    let copy = served(&job);
    same(&contents(&copy).unwrap(), &model, "in the test");
    scribble(&copy[0], 22, 60).unwrap();
    scribble(&home[0], 23, 60).unwrap();
    let home_now = contents(&home).unwrap();
    assert!(differing(&home_now[0], &content(&copy[0]).unwrap()) > 60, "the copy and the original are apart");
    estate.verb(estate.standby().unwrap(), "cleanup", &CleanupRequest::default()).unwrap();
    eventually("the test's directory to go", Duration::from_secs(30), || Ok((!copy[0].exists()).then_some(())))
        .unwrap();
    same(&contents(&home).unwrap(), &home_now, "after the test");
    scribble(&home[1], 24, 10).unwrap();
    estate.take_point(&estate.primary, "still protected").unwrap();
}

/// Begins a switch and gives its job's id.
fn begin(gateway: &Gateway, words: &[&str]) -> Result<String> {
    let words: Vec<&str> = words.iter().copied().chain(["--group", "ledger", "--no-wait"]).collect();
    let job = gateway.json(&words)?;
    Ok(job["id"].as_str().with_context(|| format!("no job in {job}"))?.to_owned())
}

/// Kills both gateways after so many milliseconds, starts them again, and waits until the job has succeeded.
fn kill_both_and_finish(estate: &mut Estate, job: &str, after_ms: u64) -> Result<()> {
    std::thread::sleep(Duration::from_millis(after_ms));
    estate.primary.kill9()?;
    estate.standby_mut()?.kill9()?;
    estate.primary.restart()?;
    estate.standby_mut()?.restart()?;
    let standby = estate.standby()?;
    eventually(&format!("{job} to succeed after both gateways were killed"), Duration::from_secs(90), || {
        let Ok(found) = standby.json(&["job", "show", job]) else { return Ok(None) };
        match found["state"].as_str() {
            Some("succeeded") => Ok(Some(())),
            Some("failed" | "cancelled") => bail!("the job ended badly: {found}"),
            _ => Ok(None),
        }
    })
}

/// Waits until the volumes at these paths are open, and gives their content.
fn contents_once_open(paths: &[PathBuf]) -> Result<Vec<Vec<u8>>> {
    eventually("the volumes to be open", Duration::from_secs(30), || Ok(contents(paths).ok()))
}

#[test]
fn both_gateways_may_be_killed_in_the_middle_of_every_switch() {
    let mut estate = Estate::protect("killed", &VOLUMES).unwrap();
    estate.add_standby().unwrap();
    estate.open_vault_at_standby().unwrap();
    let home = at_home(&estate);
    let away: Vec<PathBuf> = VOLUMES.iter().map(|(name, _)| estate.standby().unwrap().volume(name)).collect();
    for (round, after_ms) in [10, 120, 500].into_iter().enumerate() {
        let seed = 100 * (round as u64 + 1);
        scribble(&home[0], seed, 300).unwrap();
        scribble(&home[1], seed + 1, 100).unwrap();
        let model = contents(&home).unwrap();
        let job = begin(estate.standby().unwrap(), &["failover", "planned"]).unwrap();
        kill_both_and_finish(&mut estate, &job, after_ms).unwrap();
        same(&contents_once_open(&away).unwrap(), &model, "at the recovery site");
        scribble(&away[0], seed + 2, 200).unwrap();
        let written = contents(&away).unwrap();
        let job = begin(estate.standby().unwrap(), &["failback", "--mode", "minimize-downtime"]).unwrap();
        kill_both_and_finish(&mut estate, &job, after_ms).unwrap();
        same(&contents_once_open(&home).unwrap(), &written, "back at home");
    }
}
