//! SIGKILL of the gateway under fio: what fio was acknowledged is there after the next start, no block holds what nobody wrote, and
//! every recovery point that had landed is one moment of the write order, at a gateway that has only vault and key.
//!
//! `KILLS=N` kills so often, `SEED=0x…` decides when; what is written to which place comes from it too. How far the gateway is at that
//! moment is up to the machine. For thousands, `make soak ARGS="--rows kills"`.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use jiff::Timestamp;
use lifeboat_acceptance::estate::Estate;
use lifeboat_acceptance::eventually;
use lifeboat_acceptance::fio::{self, Round, SIZE, Survey};
use lifeboat_acceptance::random::{self, Random};

const LANDS_WITHIN: Duration = Duration::from_secs(60);
/// Blocks that a round writes at most before the gateway is killed: three quarters of the volume.
const WRITES_MAX: u64 = SIZE / 4 * 3;

/// The volume at the newest point that was taken since `began`, at the standby.
fn newest_point(estate: &Estate, began: Timestamp) -> Result<Option<Vec<u8>>> {
    let standby = estate.standby()?;
    let points = estate.points(standby)?;
    let Some(point) = points.into_iter().find(|point| point.time.as_micros() > began.as_microsecond()) else {
        return Ok(None);
    };
    let dir = point.path.context("a point that isn't served")?;
    fio::volume(&Path::new(&dir).join("victim.img")).map(Some).with_context(|| standby.log_tail())
}

/// Kills the gateway once under load, and holds everything against everything; gives the volume, and the blocks of the round in a point.
fn round(estate: &mut Estate, number: u64, random: &mut Random, before: Vec<u8>) -> Result<(Vec<u8>, Option<usize>)> {
    let path = estate.primary.volume("victim");
    // Every second one lasts until a point has landed, which then is in the middle of the writes.
    let paced = number % 2 == 1;
    let began = Timestamp::now();
    let round = Round::new(&estate.dir().join(format!("round-{number}")), &path, random.number() >> 1, paced)?;
    let writing = round.write()?;
    writing.reach((64 << 10) + random.below(if paced { 1 << 20 } else { WRITES_MAX }))?;
    if paced {
        eventually("a point of this round", LANDS_WITHIN, || {
            Ok((!writing.goes_on()? || newest_point(estate, began)?.is_some()).then_some(()))
        })?;
    }
    estate.primary.kill9()?;
    let wrote = writing.end()?;
    estate.primary.restart()?;
    eventually("the volume to be served again", Duration::from_secs(30), || {
        Ok(std::fs::File::options().write(true).open(&path).is_ok().then_some(()))
    })?;
    let verified = round.verify()?;
    let acknowledged: u64 = wrote.written.iter().sum();
    ensure!(verified.verified >= acknowledged && acknowledged > 0, "fio wrote {wrote:?} and verified {verified:?}");
    let survey = Survey::new(before, fio::volume(&path)?, &wrote.written)?;
    // What landed before the kill; what landed after it, with everything in it, is a moment as well.
    let point = newest_point(estate, began)?.map(|point| survey.cut(&point).context("the newest point")).transpose()?;
    std::fs::remove_dir_all(estate.dir().join(format!("round-{number}")))?;
    Ok((survey.into_volume(), point))
}

fn play(kills: u64, seed: u64) -> Result<()> {
    let mut estate = Estate::protect("kills", &[("victim", SIZE)])?;
    estate.add_standby()?;
    estate.open_vault_at_standby()?;
    let mut random = Random(seed);
    let mut volume = vec![0; usize::try_from(SIZE)?];
    let mut seen = 0;
    for number in 1..=kills {
        let (now, blocks) =
            round(&mut estate, number, &mut random, volume).with_context(|| format!("kill {number}"))?;
        volume = now;
        seen += u64::from(blocks.is_some());
    }
    ensure!(seen >= kills / 4, "only {seen} points were looked at");
    // The vault agrees with the volume.
    let since = Timestamp::now();
    estate.take_point(&estate.primary, "after the kills")?;
    let point = eventually("the last point at the standby", LANDS_WITHIN, || newest_point(&estate, since))?;
    ensure!(point == volume, "the last point isn't the volume");
    eprintln!("seed {seed:#x}: {kills} kills, {seen} points looked at");
    Ok(())
}

#[test]
fn what_fio_was_acknowledged_survives_sigkill_again_and_again() {
    let (kills, seed) =
        (random::from_environment("KILLS").unwrap_or(11), random::from_environment("SEED").unwrap_or(0xf10));
    play(kills, seed).unwrap_or_else(|error| panic!("KILLS={kills} SEED={seed:#x}: {error:?}"));
}
