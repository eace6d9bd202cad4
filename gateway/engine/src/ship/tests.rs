//! Tenures against a model of every byte: in order, under faults, under restarts, and against a second writer.

pub(crate) mod harness;
mod keys;

use std::collections::HashMap;
use std::time::Duration;

use lifeboat_model::{BLOCK_SIZE, PointId, PointKind, Timestamp};
use lifeboat_vault::{Effect, OpKind, Rule};

use super::*;
use crate::branch::{end_of_tenure, fence, list_branches, log_end, settle_tenure};
use crate::points::{find_point, list_points};
use crate::record::{Op, PointMark};
use crate::segments::ReaderLimits;
use crate::tree::tests::Dice;
use crate::view::PointView;
use harness::{Bench, Model, Script, gateway, model_at, same, volume};

const NEW: Open = Open::New { origin: None };

/// Ships all that is missing, again and again until nothing fails; maps when they are due.
async fn ship(writer: &mut BranchWriter, script: &Script) -> Result<(), ShipError> {
    for interval in script.after(writer.shipped().lsn) {
        for attempt in 0.. {
            match writer.append(&interval).await {
                Ok(done) => {
                    assert_eq!(done.shipped.lsn, interval.last_lsn);
                    break;
                }
                Err(error) if error.is_retry() && attempt < 20 => {}
                Err(error) => return Err(error),
            }
        }
        if writer.map_due() {
            match writer.write_map().await {
                Err(error) if !error.is_retry() => return Err(error),
                Ok(_) | Err(_) => {}
            }
        }
    }
    Ok(())
}

async fn open_until_it_works(bench: &Bench, open: Open) -> (BranchWriter, Opened) {
    for _ in 0..20 {
        match bench.open(gateway(1), open).await {
            Ok(opened) => return opened,
            Err(error) => assert!(error.is_retry(), "{error}"),
        }
    }
    panic!("twenty attempts failed");
}

/// Whatever is read from the vault and comes back changed on its way, once: it is noticed, and forgotten.
#[tokio::test]
async fn a_read_that_was_changed_on_its_way_is_no_trouble_for_longer_than_itself() {
    let bench = Bench::new().await;
    let mut script = Script::new(42).with(12);
    let (mut writer, _) = bench.open(gateway(1), NEW).await.unwrap();
    ship(&mut writer, &script).await.unwrap();
    // A point that needs a map, and segments after it.
    script.interval();
    ship(&mut writer, &script).await.unwrap();
    let (_, id, model) = script.points.last().unwrap();
    let (mut changed, mut refused) = (0, 0);
    for request in 1.. {
        let point = find_point(&bench.vault, bench.group, *id).await.unwrap();
        bench.faults.reset_counts();
        bench.faults.inject(Rule::new(Effect::Corrupt).at_request(request).times(1));
        let Ok(view) = PointView::open(bench.vault.clone(), bench.group, &point).await else {
            bench.faults.clear();
            refused += 1;
            continue;
        };
        for volume in view.volumes() {
            // Refused, or right; what is right is compared below.
            let _ = view.read_blocks(volume.id, 0, u64::MAX).await;
        }
        let made = u64::try_from(bench.faults.requests().len()).unwrap();
        bench.faults.clear();
        assert!(same(&Bench::content(&view).await, model), "request {request} came back changed, and is not got over");
        if made < request {
            break;
        }
        changed += 1;
    }
    assert!(changed > 5 && refused > 0, "{changed} requests changed while reading, {refused} while opening");
}

#[tokio::test]
async fn every_point_equals_the_model_byte_for_byte_across_maps_and_tenures() {
    for seed in [3, 77, 1234] {
        let bench = Bench::new().await;
        let mut script = Script::new(seed);
        let (mut writer, opened) = bench.open(gateway(1), NEW).await.unwrap();
        assert_eq!((opened.epoch, opened.end.lsn, opened.volumes.len()), (Epoch(1), Lsn::ZERO, 0));
        for round in 0..4 {
            for _ in 0..5 {
                script.interval();
            }
            ship(&mut writer, &script).await.unwrap();
            let durable_lsn = script.lsn;
            let how = if round % 2 == 0 { Open::Continue } else { Open::Resume { epoch: writer.epoch(), durable_lsn } };
            let (next, opened) = bench.open(gateway(1), how).await.unwrap();
            assert_eq!(opened.end.lsn, script.lsn);
            assert_eq!(opened.last_point.map(|point| point.id), script.points.last().map(|point| point.1));
            writer = next;
        }
        bench.check_points(&script, script.lsn).await;
        let some = script.points[7].1;
        assert_eq!(find_point(&bench.vault, bench.group, some).await.unwrap().id, some);
    }
}

#[tokio::test]
async fn an_idle_writer_asks_for_one_object_and_a_seal_costs_one_put_and_one_look() {
    let bench = Bench::new().await;
    let script = Script::new(5).with(3);
    let (mut writer, _) = bench.open(gateway(1), NEW).await.unwrap();
    ship(&mut writer, &script).await.unwrap();
    bench.faults.reset_counts();
    writer.check_fence().await.unwrap();
    assert_eq!((bench.faults.counts().total(), bench.faults.counts().head), (1, 1));
    bench.faults.reset_counts();
    let mut more = Script::from(6, script.lsn, script.model.clone());
    more.interval();
    writer.append(&more.intervals[0]).await.unwrap();
    let counts = bench.faults.counts();
    assert_eq!((counts.create, counts.head, counts.total()), (1, 1, 2), "{:?}", bench.faults.requests());
    bench.faults.reset_counts();
    assert_eq!(writer.append(&more.intervals[0]).await.unwrap().segments, 0, "the interval was shipped before");
    assert_eq!(bench.faults.counts().total(), 0);
}

#[tokio::test]
async fn a_large_interval_becomes_several_segments_each_a_prefix_and_only_the_last_has_the_point() {
    let bench = Bench::new().await;
    let (mut writer, _) = bench.open(gateway(1), NEW).await.unwrap();
    let blocks: u64 = 12_000;
    let mut records = vec![LogRecord { lsn: Lsn(1), op: Op::Resize { volume: volume(1), blocks } }];
    for index in 0..blocks / 8 {
        let mut data = vec![0_u8; 8 * BLOCK_SIZE];
        data.chunks_mut(8).zip(index * 100_000..).for_each(|(word, n)| word.copy_from_slice(&n.to_le_bytes()));
        let op = Op::Write { volume: volume(1), lba: index * 8, data: data.into() };
        records.push(LogRecord { lsn: Lsn(index + 2), op });
    }
    let mark = PointMark {
        id: PointId::new(),
        time: Timestamp::now(),
        kind: PointKind::Manual,
        label: "all".into(),
        consistent: true,
    };
    let last_lsn = Lsn(blocks / 8 + 2);
    records.push(LogRecord { lsn: last_lsn, op: Op::Point(mark.clone()) });
    let interval = Interval { records, last_lsn, ..Interval::default() };

    // The second segment's put fails at first: the first one counts, and the same interval goes on after it.
    bench.faults.inject(Rule::new(Effect::FailBefore).on(OpKind::Create).key("/log/").nth(2).times(1));
    let error = writer.append(&interval).await.expect_err("the second put failed");
    assert!(error.is_retry());
    let between = writer.shipped();
    assert_eq!(between.seq, SegmentSeq(1));
    let done = writer.append(&interval).await.unwrap();
    assert_eq!((done.segments, done.shipped.seq, done.shipped.lsn), (1, SegmentSeq(2), last_lsn));
    assert_eq!(done.point.unwrap().id, mark.id);

    let mut script = Script::new(1);
    script.intervals.push(interval);
    for position in [between, done.shipped] {
        let view = PointView::open_at(writer.reader(), position).await.unwrap();
        assert!(same(&Bench::content(&view).await, &model_at(&script, position.lsn)), "position {}", position.lsn);
    }
    let points = bench.points().await;
    assert_eq!(points.len(), 1);
    bench.check_point(&points[0], &model_at(&script, last_lsn)).await;
}

/// Each request of a script fails once, in every way: nothing is lost, nothing is shipped twice.
#[tokio::test]
async fn a_fault_at_any_request_loses_nothing_and_ships_nothing_twice() {
    // Throttling and time-outs are of the same class as these two: not carried out, and carried out unanswered.
    for effect in [Effect::FailBefore, Effect::FailAfter] {
        for request in 1.. {
            let bench = Bench::new().await;
            let script = Script::new(11).with(7);
            bench.faults.inject(Rule::new(effect).at_request(request).times(1));
            let (mut writer, _) = open_until_it_works(&bench, NEW).await;
            ship(&mut writer, &script).await.unwrap();
            let made = bench.faults.counts().total();
            bench.faults.clear();
            let segments = bench.vault.store().list(&names::log(bench.group, bench.branch)).await.unwrap();
            assert_eq!(segments.len(), 7, "{effect:?} at request {request}");
            let end = log_end(&bench.vault, bench.group, bench.branch).await.unwrap();
            assert_eq!((end.lsn, end.seq), (script.lsn, SegmentSeq(7)));
            let last = bench.points().await.pop().unwrap();
            bench.check_point(&last, &script.model).await;
            if made < request {
                break;
            }
        }
    }
}

/// The process dies at any request; its successor finds out from the vault what has to be shipped again.
#[tokio::test]
async fn a_restart_at_any_request_goes_on_exactly_where_the_log_ends() {
    for landed in [false, true] {
        for request in 1.. {
            let bench = Bench::new().await;
            let script = Script::new(23).with(7);
            if landed {
                bench.faults.inject(Rule::new(Effect::FailAfter).at_request(request));
                bench.faults.inject(Rule::new(Effect::FailBefore).nth(request + 1));
            } else {
                bench.faults.inject(Rule::new(Effect::FailBefore).nth(request));
            }
            let mut counted = Position { branch: bench.branch, epoch: Epoch(1), seq: SegmentSeq(0), lsn: Lsn::ZERO };
            let died;
            match bench.open(gateway(1), NEW).await {
                Ok((mut writer, _)) => {
                    died = ship(&mut writer, &script).await.is_err();
                    counted = writer.shipped();
                }
                Err(error) => {
                    assert!(error.is_retry(), "{error}");
                    died = true;
                }
            }
            bench.faults.clear();

            // The journal doesn't know whether the branch was made: `New` again. It does once it was.
            let how = if counted.lsn == Lsn::ZERO {
                NEW
            } else {
                Open::Resume { epoch: counted.epoch, durable_lsn: script.lsn }
            };
            let (mut writer, opened) = bench.open(gateway(1), how).await.unwrap();
            assert!(opened.end.lsn >= counted.lsn, "what was counted as shipped is not in the log");
            ship(&mut writer, &script).await.unwrap();
            if request % 5 == 0 {
                bench.check_points(&script, script.lsn).await;
            } else {
                let last = bench.points().await.pop().unwrap();
                bench.check_point(&last, &script.model).await;
            }
            if !died {
                break;
            }
        }
    }
}

/// The future of a call is dropped in the middle of any request; the next call goes on as if an answer was lost.
#[tokio::test]
async fn a_call_that_is_dropped_at_any_request_can_be_made_again() {
    for request in 1.. {
        let bench = Bench::new().await;
        let script = Script::new(29).with(7);
        let (mut writer, _) = bench.open(gateway(1), NEW).await.unwrap();
        let (reached, stop) = tokio::sync::oneshot::channel::<()>();
        bench.hook.before(request, async move {
            reached.send(()).unwrap();
            std::future::pending().await
        });
        tokio::select! {
            done = ship(&mut writer, &script) => done.unwrap(),
            _ = stop => {}
        }
        if bench.hook.waiting() {
            break;
        }
        let counted = writer.shipped();
        ship(&mut writer, &script).await.unwrap();
        assert!(writer.shipped().lsn >= counted.lsn);
        let segments = bench.vault.store().list(&names::log(bench.group, bench.branch)).await.unwrap();
        assert_eq!(segments.len(), 7, "dropped at request {request}");
        let last = bench.points().await.pop().unwrap();
        bench.check_point(&last, &script.model).await;
    }
}

/// A second gateway takes the branch over right before any request of the first one's.
#[tokio::test]
async fn of_two_writers_exactly_one_goes_on_and_what_counted_is_in_its_history() {
    for request in 1.. {
        let bench = Arc::new(Bench::new().await);
        let script = Script::new(31).with(7);
        let (mut first, _) = bench.open(gateway(1), NEW).await.unwrap();
        let end: Arc<std::sync::Mutex<Option<(Position, Script)>>> = Arc::default();
        let (hooked, told) = (bench.clone(), end.clone());
        let plan = script.clone();
        bench.hook.before(request, async move {
            let (mut second, opened) = hooked.open(gateway(2), Open::Continue).await.unwrap();
            let start = model_at(&plan, opened.end.lsn);
            let mut own = Script::from(99, opened.end.lsn, start);
            own.interval();
            second.append(&own.intervals[0]).await.unwrap();
            *told.lock().unwrap() = Some((opened.end, own));
        });
        let outcome = ship(&mut first, &script).await;
        if bench.hook.waiting() {
            outcome.unwrap();
            break;
        }
        let (cut, mut own) = end.lock().unwrap().take().expect("the second writer opened");
        let counted = first.shipped().lsn;
        assert!(counted <= cut.lsn, "request {request}: {counted} was counted, the history ends at {}", cut.lsn);
        match outcome {
            Err(ShipError::Fenced(fenced)) => assert_eq!((fenced.by_epoch, fenced.gateway), (Epoch(2), gateway(2))),
            Err(error) => panic!("request {request}: {error}"),
            // It had looked for the last time before the second one came.
            Ok(()) => assert_eq!(counted, script.lsn),
        }
        let again = Interval { last_lsn: Lsn(u64::MAX), ..Interval::default() };
        assert!(matches!(first.append(&again).await, Err(ShipError::Fenced(_))), "a fenced writer shipped again");
        assert!(matches!(first.write_map().await, Err(ShipError::Fenced(_))));
        let ended = end_of_tenure(&bench.vault, bench.group, bench.branch, Epoch(1)).await.unwrap();
        assert_eq!(ended, Some(cut));
        // The history: the first one's points up to the cut, then the second one's.
        let mut points: Vec<_> = script.points.iter().filter(|(lsn, ..)| *lsn <= cut.lsn).cloned().collect();
        points.append(&mut own.points);
        own.points = points;
        bench.check_points(&own, own.lsn).await;
        // The fenced gateway comes back and is told so.
        let back = bench.open(gateway(1), Open::Resume { epoch: Epoch(1), durable_lsn: script.lsn }).await;
        assert!(matches!(back, Err(ShipError::Fenced(_))));
    }
}

/// A segment and a map that land after the cut are in nobody's history.
#[tokio::test]
async fn what_lands_after_the_cut_is_ignored() {
    let bench = Bench::new().await;
    let script = Script::new(41).with(6);
    let (mut first, _) = bench.open(gateway(1), NEW).await.unwrap();
    for interval in &script.intervals[..4] {
        first.append(interval).await.unwrap();
    }
    let (mut second, opened) = bench.open(gateway(2), Open::Continue).await.unwrap();
    // The old writer's requests land late, all of them.
    assert!(matches!(first.append(&script.intervals[4]).await, Err(ShipError::Fenced(_))));
    first.fenced = None;
    assert!(matches!(first.write_map().await, Err(ShipError::Fenced(_))));
    let stored = bench.vault.store().list(&names::log(bench.group, bench.branch)).await.unwrap();
    assert_eq!(stored.len(), 5, "the late segment is there");

    let cut = opened.end;
    assert_eq!(cut.lsn, script.intervals[3].last_lsn);
    let late = Position { seq: SegmentSeq(5), lsn: script.intervals[4].last_lsn, ..cut };
    let error = PointView::open_at(second.reader(), late).await.expect_err("it is past the cut");
    assert_eq!(error.kind(), ErrorKind::NotFound);
    let mut own = Script::from(7, cut.lsn, model_at(&script, cut.lsn)).with(1);
    second.append(&own.intervals[0]).await.unwrap();
    second.write_map().await.unwrap();
    let mut points = script.points[..4].to_vec();
    points.append(&mut own.points);
    own.points = points;
    bench.check_points(&own, own.lsn).await;
}

#[tokio::test]
async fn a_branch_forks_at_a_point_and_both_go_on() {
    let bench = Bench::new().await;
    let script = Script::new(51).with(8);
    let (mut main, _) = bench.open(gateway(1), NEW).await.unwrap();
    ship(&mut main, &script).await.unwrap();
    let points = bench.points().await;
    let fork = points[4].clone();

    let branch = BranchId::from_bytes([77; 16]);
    let fenced = fence(&bench.vault, bench.group, bench.branch, gateway(2), branch).await.unwrap();
    assert_eq!((fenced.epoch, fenced.cut.lsn), (Epoch(2), script.lsn));
    let again = fence(&bench.vault, bench.group, bench.branch, gateway(2), branch).await.unwrap();
    assert_eq!(again, fenced, "a fence that stands is found, not made again");
    let Err(ShipError::Fenced(told)) = main.check_fence().await else { panic!("the old writer saw no fence") };
    assert_eq!((told.gateway, told.promoted_to), (gateway(2), Some(branch)));

    let origin = Some(Origin { at: fork.position(), point: Some(fork.id) });
    let (mut writer, opened) = bench.open_on(branch, gateway(2), Open::New { origin }).await.unwrap();
    assert_eq!((opened.epoch, opened.end.lsn), (Epoch(1), fork.lsn));
    let mut own = Script::from(52, fork.lsn, script.at(fork.id).clone()).with(7);
    ship(&mut writer, &own).await.unwrap();

    let mut expected = script.points[..5].to_vec();
    expected.append(&mut own.points);
    own.points = expected;
    let listed = list_points(&bench.vault, bench.group, branch).await.unwrap();
    assert_eq!(listed.iter().map(|p| p.id).collect::<Vec<_>>(), own.points.iter().map(|p| p.1).collect::<Vec<_>>());
    for point in &listed {
        bench.check_point(point, own.at(point.id)).await;
    }
    bench.check_points(&script, script.lsn).await;

    // Crashed while it was being made: the same call goes on. Another origin is refused.
    let (_, opened) = bench.open_on(branch, gateway(2), Open::New { origin }).await.unwrap();
    assert_eq!((opened.epoch, opened.end.lsn), (Epoch(2), own.lsn));
    let elsewhere = Some(Origin { at: points[3].position(), point: Some(points[3].id) });
    assert!(bench.open_on(branch, gateway(2), Open::New { origin: elsewhere }).await.is_err());

    // Failback: the primary takes the branch over; and an orphan keeps what it had not shipped.
    let (mut back, opened) = bench.open_on(branch, gateway(1), Open::Continue).await.unwrap();
    assert_eq!((opened.epoch, opened.end.lsn), (Epoch(3), own.lsn));
    let more = Script::from(53, own.lsn, own.model.clone()).with(2);
    ship(&mut back, &more).await.unwrap();
    let end = end_of_tenure(&bench.vault, bench.group, bench.branch, Epoch(1)).await.unwrap().unwrap();
    let orphan = BranchId::from_bytes([78; 16]);
    let origin = Some(Origin { at: end, point: None });
    let (mut tail, opened) = bench.open_on(orphan, gateway(1), Open::New { origin }).await.unwrap();
    assert_eq!(opened.end.lsn, script.lsn);
    let lost = Script::from(54, script.lsn, script.model.clone()).with(1);
    ship(&mut tail, &lost).await.unwrap();
    let last = list_points(&bench.vault, bench.group, orphan).await.unwrap().pop().unwrap();
    bench.check_point(&last, &lost.model).await;

    let branches = list_branches(&bench.vault, bench.group).await.unwrap();
    assert_eq!(branches.len(), 3);
    let main = branches.iter().find(|found| found.id == bench.branch).unwrap();
    assert_eq!((main.promoted_to, main.writer(), main.epochs.len()), (Some(branch), Some(gateway(1)), 2));
    let forked = branches.iter().find(|found| found.id == branch).unwrap();
    assert_eq!(forked.origin.unwrap().point, Some(fork.id));
    assert_eq!(branches.iter().find(|found| found.id == orphan).unwrap().origin.unwrap().point, None);
}

/// Whoever claims an epoch may die before it says where the one before ended.
#[tokio::test]
async fn a_fence_whose_maker_died_is_completed_by_whoever_needs_it() {
    let bench = Bench::new().await;
    let script = Script::new(61).with(3);
    let (mut writer, _) = bench.open(gateway(1), NEW).await.unwrap();
    ship(&mut writer, &script).await.unwrap();
    bench.faults.inject(Rule::new(Effect::FailBefore).on(OpKind::Create).key(".cut").times(1));
    let branch = BranchId::from_bytes([77; 16]);
    assert!(fence(&bench.vault, bench.group, bench.branch, gateway(2), branch).await.is_err());
    assert!(matches!(writer.check_fence().await, Err(ShipError::Fenced(_))), "a claim without a cut fences too");
    assert_eq!(end_of_tenure(&bench.vault, bench.group, bench.branch, Epoch(1)).await.unwrap(), None);
    let end = settle_tenure(&bench.vault, bench.group, bench.branch, Epoch(1)).await.unwrap();
    assert_eq!(end.lsn, script.lsn);
    let fenced = fence(&bench.vault, bench.group, bench.branch, gateway(2), branch).await.unwrap();
    assert_eq!((fenced.epoch, fenced.cut), (Epoch(2), end));
    let (_, opened) = bench.open(gateway(3), Open::Continue).await.unwrap();
    assert_eq!((opened.epoch, opened.end.lsn), (Epoch(3), script.lsn));
}

#[tokio::test]
async fn a_gateway_whose_disks_were_rolled_back_is_refused_before_it_writes_anything() {
    let bench = Bench::new().await;
    let script = Script::new(71).with(3);
    let (mut writer, _) = bench.open(gateway(1), NEW).await.unwrap();
    ship(&mut writer, &script).await.unwrap();
    bench.faults.reset_counts();
    let durable_lsn = script.lsn.previous();
    let error = bench.open(gateway(1), Open::Resume { epoch: Epoch(1), durable_lsn }).await.expect_err("rolled back");
    assert_eq!(EngineError::from(error).kind(), ErrorKind::Damaged);
    let error =
        bench.open(gateway(1), Open::Resume { epoch: Epoch(2), durable_lsn }).await.expect_err("vault rolled back");
    assert_eq!(EngineError::from(error).kind(), ErrorKind::Tampered);
    assert_eq!(bench.faults.counts().create, 0);
}

/// Every object of the group, damaged: reading gives an error or the right bytes, never others.
#[tokio::test]
async fn a_flipped_bit_or_a_missing_object_is_never_read_as_content() {
    let bench = Bench::new().await;
    let script = Script::new(81).with(8);
    let (mut writer, _) = bench.open(gateway(1), NEW).await.unwrap();
    ship(&mut writer, &script).await.unwrap();
    let objects = bench.vault.store().list("groups").await.unwrap();
    let mut refused = 0;
    for object in &objects {
        for effect in [Effect::Corrupt, Effect::Truncate, Effect::Missing] {
            bench.faults.inject(Rule::new(effect).key(object.key.clone()));
            let points = list_points(&bench.vault, bench.group, bench.branch).await;
            let Ok(points) = points else {
                refused += 1;
                bench.faults.clear();
                continue;
            };
            for point in points {
                let read = async {
                    let view = PointView::open(bench.vault.clone(), bench.group, &point).await?;
                    let mut model = Model::new();
                    for volume in view.volumes() {
                        let blocks = u32::try_from(volume.size_blocks).unwrap() * 4096;
                        let content = view.volume(volume.id).unwrap().read(0, blocks).await?;
                        model.insert(volume.id, content.to_vec());
                    }
                    Ok::<_, EngineError>(model)
                };
                match read.await {
                    Ok(model) => assert!(same(&model, script.at(point.id)), "{effect:?} of {}", object.key),
                    Err(_) => refused += 1,
                }
            }
            bench.faults.clear();
        }
    }
    assert!(refused > objects.len(), "damage was hardly ever noticed: {refused}");
}

#[tokio::test]
async fn a_volume_view_reads_any_bytes_and_refuses_writes() {
    let bench = Bench::new().await;
    let script = Script::new(91).with(6);
    let (mut writer, _) = bench.open(gateway(1), NEW).await.unwrap();
    ship(&mut writer, &script).await.unwrap();
    let point = bench.points().await.pop().unwrap();
    let reader = Reader::open(&bench.vault, bench.group, ReaderLimits::default()).await.unwrap();
    let view = PointView::open_point(&reader, &point).await.unwrap();
    let content = &script.model[&volume(1)];
    let shown = view.volume(volume(1)).unwrap();
    assert_eq!(shown.size_bytes(), u64::try_from(content.len()).unwrap());
    let mut dice = crate::tree::tests::Dice(17);
    for _ in 0..300 {
        let start = dice.below(shown.size_bytes() + 10);
        let len = dice.below(40_000);
        let bytes = shown.read(start, u32::try_from(len).unwrap()).await.unwrap();
        let from = usize::try_from(start).unwrap().min(content.len());
        let to = usize::try_from(start + len).unwrap().min(content.len());
        assert!(bytes == content[from..to], "{len} bytes at {start}");
    }
    assert!(shown.read_only());
    assert_eq!(shown.write(0, Bytes::from_static(&[1])).await.unwrap_err().kind(), ErrorKind::Fenced);
    assert_eq!(shown.zero(0, 1, true).await.unwrap_err().kind(), ErrorKind::Fenced);
    assert!(view.volume(volume(9)).is_none());
}

/// The volume of 1 TiB has five levels of nodes, and every request takes a second of a clock that only requests move: what
/// has passed is the number of requests that had to wait for each other.
#[tokio::test(start_paused = true)]
async fn the_first_byte_of_any_point_takes_four_round_trips_and_any_other_byte_few_more() {
    const BLOCKS: u64 = 1 << 28;
    let bench = Bench::new().await;
    let settings = ShipSettings::default();
    let (mut writer, _) =
        BranchWriter::open(&bench.vault, bench.group, bench.branch, gateway(1), NEW, settings).await.unwrap();
    let mut dice = Dice(4711);
    let mut content: HashMap<u64, u8> = HashMap::new();
    let mut at_points = Vec::new();
    let mut lsn = Lsn::ZERO;
    for number in 0..260_u32 {
        let mut records = Vec::new();
        let mut push = |op| {
            lsn = lsn.next();
            records.push(LogRecord { lsn, op });
        };
        if number == 0 {
            push(Op::Resize { volume: volume(1), blocks: BLOCKS });
        }
        for index in 0..4 {
            // Now and then the first block, mostly anywhere.
            let lba = if index == 0 && number % 50 == 0 { 0 } else { dice.below(BLOCKS) };
            let value = u8::try_from(1 + dice.below(250)).unwrap();
            content.insert(lba, value);
            push(Op::Write { volume: volume(1), lba, data: vec![value; BLOCK_SIZE].into() });
        }
        let (id, time) = (PointId::new(), Timestamp::from_micros(i64::from(number) * 5_000_000));
        push(Op::Point(PointMark {
            id,
            time,
            kind: PointKind::CrashConsistent,
            label: String::new(),
            consistent: true,
        }));
        writer.append(&Interval { records, last_lsn: lsn, ..Interval::default() }).await.unwrap();
        at_points.push((id, content.clone()));
        if writer.map_due() {
            writer.write_map().await.unwrap();
        }
    }
    let points = bench.points().await;
    bench.faults.inject(Rule::new(Effect::Delay(Duration::from_secs(1))));
    for (point, (id, content)) in points.iter().zip(&at_points).skip(127).step_by(6) {
        assert_eq!(point.id, *id);
        let started = tokio::time::Instant::now();
        let view = PointView::open(bench.vault.clone(), bench.group, point).await.unwrap();
        let shown = view.volume(volume(1)).unwrap();
        let first = shown.read(0, 4096).await.unwrap();
        let trips = started.elapsed().as_secs();
        assert!(first.iter().all(|byte| *byte == content[&0]));
        assert!(trips <= 4, "{trips} round trips for point {}: {:#?}", point.lsn, bench.faults.requests());

        let (lba, value) = content.iter().max().unwrap();
        let started = tokio::time::Instant::now();
        let other = shown.read(lba * 4096, 4096).await.unwrap();
        let trips = started.elapsed().as_secs();
        assert!(other.iter().all(|byte| byte == value));
        assert!(trips <= 4, "{trips} round trips for another block: {:#?}", bench.faults.requests());
    }
}

/// Waits until the task that writes a map has made `count` requests for map objects.
async fn map_requests(bench: &Bench, count: usize) {
    let deadline = tokio::time::Instant::now() + Duration::from_secs(30);
    while bench.faults.requests().iter().filter(|r| r.op == OpKind::Create && r.key.contains("/map/")).count() < count {
        assert!(tokio::time::Instant::now() < deadline, "no map was put");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn points_land_while_a_map_is_being_written_and_the_map_is_taken_over_when_it_is_done() {
    let bench = Bench::new().await;
    let script = Script::new(61).with(16);
    let (mut writer, _) = bench.open(gateway(1), NEW).await.unwrap();
    // A map takes an hour, everything else a moment.
    bench.faults.inject(Rule::new(Effect::Delay(Duration::from_secs(3600))).on(OpKind::Create).key("/map/").times(1));
    let started = tokio::time::Instant::now();
    for (number, interval) in script.intervals.iter().enumerate() {
        writer.append(interval).await.unwrap();
        writer.drive_map().await.unwrap();
        if number == 5 {
            map_requests(&bench, 1).await;
        }
    }
    assert!(started.elapsed() < Duration::from_secs(60), "shipping waited for a map");
    let maps = |requests: Vec<lifeboat_vault::Request>| {
        requests.iter().filter(|r| r.op == OpKind::Create && r.key.contains("/map/")).count()
    };
    assert_eq!(maps(bench.faults.requests()), 1, "one map at a time");
    // No head is there that could refer to anything: points are read from the log alone.
    bench.check_points(&script, script.lsn).await;

    tokio::time::sleep(Duration::from_secs(3600)).await;
    let landed = loop {
        if let Some(landed) = writer.drive_map().await.unwrap() {
            break landed;
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    };
    assert_eq!(landed.lsn, script.intervals[4].last_lsn, "it stands for the position at which it was begun");
    assert!(landed.nodes > 0);
    // The next one was due at once, and holds only what was changed since, and what readers open first.
    let next = writer.write_map().await.unwrap();
    assert_eq!(next.lsn, script.lsn);
    bench.check_points(&script, script.lsn).await;
    let (mut writer, opened) = bench.open(gateway(1), Open::Continue).await.unwrap();
    assert_eq!(opened.end.lsn, script.lsn);
    let mut more = Script::from(62, script.lsn, script.model.clone()).with(3);
    ship(&mut writer, &more).await.unwrap();
    more.points.splice(0..0, script.points.clone());
    bench.check_points(&more, more.lsn).await;
}

#[tokio::test(start_paused = true)]
async fn a_map_that_fails_is_written_later_and_one_that_is_cut_off_is_no_harm() {
    let bench = Bench::new().await;
    let script = Script::new(67).with(12);
    let (mut writer, _) = bench.open(gateway(1), NEW).await.unwrap();
    bench.faults.inject(Rule::new(Effect::FailBefore).on(OpKind::Create).key("/map/").times(1));
    for interval in &script.intervals[..6] {
        writer.append(interval).await.unwrap();
    }
    writer.drive_map().await.unwrap();
    map_requests(&bench, 1).await;
    let error = loop {
        match writer.drive_map().await {
            Ok(_) => tokio::time::sleep(Duration::from_millis(1)).await,
            Err(error) => break error,
        }
    };
    assert!(error.is_retry(), "{error}");
    assert!(!writer.map_due(), "not again at once");
    for interval in &script.intervals[6..9] {
        writer.append(interval).await.unwrap();
        assert!(writer.drive_map().await.unwrap().is_none());
    }
    writer.maps.failed = writer.maps.failed.map(|at| Timestamp::from_micros(at.as_micros() - 3_600_000_000));
    assert!(writer.map_due(), "an hour later it is");
    // The gateway dies while the map is on its way; the put may land or not.
    bench.faults.inject(Rule::new(Effect::Delay(Duration::from_secs(60))).on(OpKind::Create).key("/map/").times(1));
    writer.drive_map().await.unwrap();
    map_requests(&bench, 2).await;
    drop(writer);
    let (mut writer, opened) = bench.open(gateway(1), Open::Continue).await.unwrap();
    assert_eq!(opened.end.lsn, script.intervals[8].last_lsn);
    ship(&mut writer, &script).await.unwrap();
    bench.check_points(&script, script.lsn).await;
}

/// A vault that takes segments and no maps: memory is bounded, and nothing is lost.
#[tokio::test]
async fn without_maps_shipping_stops_before_the_changed_nodes_fill_the_memory() {
    let bench = Bench::new().await;
    let script = Script::new(71).with(40);
    let map = MapPolicy { fresh_bytes: 8 << 10, ..MapPolicy::default() };
    let settings = ShipSettings { map, ..ShipSettings::default() };
    let (mut writer, _) =
        BranchWriter::open(&bench.vault, bench.group, bench.branch, gateway(1), NEW, settings).await.unwrap();
    bench.faults.inject(Rule::new(Effect::FailBefore).on(OpKind::Create).key("/map/"));
    let mut stopped = None;
    for interval in &script.intervals {
        if let Err(error) = writer.append(interval).await {
            assert!(error.is_retry(), "{error}");
            stopped = Some(writer.shipped().lsn);
            break;
        }
        let _ = writer.drive_map().await;
    }
    let stopped = stopped.expect("shipping went on without maps");
    assert!(stopped < script.lsn);
    bench.faults.clear();
    ship(&mut writer, &script).await.unwrap();
    bench.check_points(&script, script.lsn).await;
}

#[tokio::test]
async fn the_root_of_a_file_equals_the_root_of_the_point_with_the_same_content() {
    let bench = Bench::new().await;
    let script = Script::new(101).with(5);
    let (mut writer, _) = bench.open(gateway(1), NEW).await.unwrap();
    ship(&mut writer, &script).await.unwrap();
    let point = bench.points().await.pop().unwrap();
    let view = PointView::open(bench.vault.clone(), bench.group, &point).await.unwrap();
    let directory = tempfile::tempdir().unwrap();
    for shown in view.volumes() {
        let path = directory.path().join(shown.id.to_string());
        let content = &script.model[&shown.id];
        // With holes where it is zero, as an image has them.
        let mut file = std::fs::File::create(&path).unwrap();
        file.set_len(u64::try_from(content.len()).unwrap()).unwrap();
        for (at, block) in content.chunks(BLOCK_SIZE).enumerate().filter(|(_, block)| block.iter().any(|b| *b != 0)) {
            use std::io::{Seek as _, Write as _};
            file.seek(std::io::SeekFrom::Start(u64::try_from(at * BLOCK_SIZE).unwrap())).unwrap();
            file.write_all(block).unwrap();
        }
        let told = Arc::new(std::sync::Mutex::new(Vec::new()));
        let tell = Arc::clone(&told);
        let root = crate::view::root_of_file(&bench.vault, shown.id, &path, move |done, all| {
            tell.lock().unwrap().push((done, all));
        })
        .await
        .unwrap();
        let told = told.lock().unwrap().clone();
        assert!(told.is_sorted(), "{told:?}");
        assert!(told.last().is_some_and(|(done, all)| done == all && *all > 0), "{told:?}");
        assert_eq!(Some(root), shown.root);
        file.set_len(5000).unwrap();
        let error =
            crate::view::root_of_file(&bench.vault, shown.id, &path, |_, _| ()).await.expect_err("no whole block");
        assert_eq!(error.kind(), ErrorKind::Invalid);
    }
}

#[tokio::test(start_paused = true)]
async fn a_limited_pace_spreads_the_log_over_time_in_small_objects() {
    let bench = Bench::new().await;
    let (mut writer, _) = bench.open(gateway(1), NEW).await.unwrap();
    let rule = crate::pace::PaceRule { hours: lifeboat_model::Hours::always(), bytes_per_second: 1 << 20 };
    writer.set_pace(Arc::new(crate::pace::Pace::new(vec![rule])));
    // Twelve MiB that don't compress.
    let blocks = 3072_u64;
    let mut seed = 7_u64;
    let mut noise = move || {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        seed.to_be_bytes()
    };
    let mut records = vec![LogRecord { lsn: Lsn(1), op: Op::Resize { volume: volume(1), blocks } }];
    for lba in (0..blocks).step_by(256) {
        let data: Vec<u8> = (0..256 * BLOCK_SIZE / 8).flat_map(|_| noise()).collect();
        records
            .push(LogRecord { lsn: Lsn(2 + lba / 256), op: Op::Write { volume: volume(1), lba, data: data.into() } });
    }
    let last_lsn = records.last().unwrap().lsn;
    let start = tokio::time::Instant::now();
    let done = writer.append(&Interval { records, last_lsn, ..Interval::default() }).await.unwrap();
    assert_eq!((done.shipped.lsn, done.segments), (last_lsn, 3), "four seconds of the line each");
    let took = start.elapsed().as_secs_f64();
    assert!((7.9..12.0).contains(&took), "the third object waits until the first two are paid for: {took} s");
}
