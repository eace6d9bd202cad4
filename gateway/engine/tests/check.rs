//! The local files of a group that ran: sound as they are, and what is said when a disk loses something.

mod lab;

use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use lab::{Lab, checked, volume};
use lifeboat_engine::check::Fault;
use lifeboat_model::Lsn;

/// The files of a group that wrote eight batches, each flushed, and shipped nothing.
async fn stopped(lab: &Lab) -> PathBuf {
    let group = lab.create().await;
    for number in 0..8_u8 {
        let volume = volume(&group, lab);
        volume.write(u64::from(number) * 4096, Bytes::from(vec![number + 1; 4096])).await.expect("written");
        volume.flush().await.expect("durable");
    }
    group.close(Duration::ZERO).await;
    lab.dir.path().join(lab.primary.to_string())
}

/// The journal file that holds batches, and where each begins.
fn batches(dir: &Path) -> (PathBuf, Vec<u64>) {
    let mut names: Vec<PathBuf> =
        std::fs::read_dir(dir).expect("listed").map(|entry| entry.expect("one").path()).collect();
    names.sort();
    for path in names {
        if !path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("journal-")) {
            continue;
        }
        let bytes = std::fs::read(&path).expect("read");
        let found: Vec<u64> = (4096..bytes.len())
            .step_by(4096)
            .filter(|at| bytes[*at..].starts_with(b"LBJB"))
            .map(|at| at as u64)
            .collect();
        if found.len() > 3 {
            return (path, found);
        }
    }
    panic!("no journal file has batches");
}

fn flip(path: &Path, at: u64) {
    let file = std::fs::OpenOptions::new().read(true).write(true).open(path).expect("opened");
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).expect("read");
    file.write_all_at(&[byte[0] ^ 1], at).expect("written");
}

#[tokio::test(flavor = "multi_thread")]
async fn sound_files_are_sound_and_a_torn_tail_is_told_from_lost_records() {
    let lab = Lab::new().await;
    let dir = stopped(&lab).await;
    let report = checked(&dir);
    assert_eq!(report.damage.len(), 0, "{report:#?}");
    let journal = report.groups[0].journal.expect("a journal");
    assert!(journal.records >= 8 && journal.last_lsn >= Lsn(8) && !journal.torn, "{journal:?}");
    assert_eq!(report.groups[0].group, Some(lab.group));

    let (path, at) = batches(&dir);
    let last = *at.last().expect("batches");
    flip(&path, last + 4096 + 17);
    let report = checked(&dir);
    assert_eq!(report.damage.len(), 0, "nothing says that the last batch was durable: {report:#?}");
    assert!(report.groups[0].journal.expect("a journal").torn);
    flip(&path, last + 4096 + 17);

    // The second batch: later ones know that its record was durable.
    flip(&path, at[1] + 4096 + 17);
    let report = checked(&dir);
    let [damage] = &report.damage[..] else { panic!("{report:#?}") };
    assert_eq!((damage.fault, damage.offset), (Fault::Damaged, Some(at[1])));
    assert_eq!(damage.object, path.display().to_string());
    assert!(
        damage.consequence.as_deref().is_some_and(|text| text.contains("recover the volumes from the vault")),
        "{damage:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn one_torn_slot_of_the_state_is_no_damage_and_two_are() {
    let lab = Lab::new().await;
    let dir = stopped(&lab).await;
    let state = dir.join("group.state");
    flip(&state, 30);
    let report = checked(&dir);
    assert_eq!(report.damage.len(), 0, "{report:#?}");
    assert!(report.notes.iter().any(|note| note.text.contains("torn")), "{report:#?}");
    flip(&state, 65_536 + 30);
    let report = checked(&dir);
    assert_eq!(report.damage.len(), 1, "{report:#?}");
    assert_eq!(report.groups[0].group, None);
    std::fs::remove_file(&state).expect("removed");
    assert_eq!(checked(&dir).damage[0].fault, Fault::Missing);
}

#[tokio::test(flavor = "multi_thread")]
async fn images_and_presence_maps_are_held_against_the_state() {
    let lab = Lab::new().await;
    let group = lab.create().await;
    let branch = group.status().branch;
    group.take_point(lifeboat_model::PointKind::Manual, "x").await.expect("taken");
    // A test: nothing is fetched in the background, which would end with the map gone.
    let recovered = lab.fail_over(branch, true).await;
    recovered.close(Duration::ZERO).await;
    group.close(Duration::ZERO).await;
    let dir = lab.dir.path().join(lab.recovery.to_string());
    assert_eq!(checked(&dir).damage.len(), 0, "{:#?}", checked(&dir));
    let find = |end: &str| {
        let names = std::fs::read_dir(&dir).expect("listed").map(|entry| entry.expect("one").path());
        names.into_iter().find(|path| path.to_string_lossy().ends_with(end)).unwrap_or_else(|| panic!("no {end}"))
    };
    let present = find(".present");
    flip(&present, 20);
    let report = checked(&dir);
    assert_eq!(report.damage.len(), 1, "{report:#?}");
    assert_eq!(report.damage[0].kind, "presence map");
    flip(&present, 20);
    std::fs::remove_file(find(".img")).expect("removed");
    let report = checked(&dir);
    assert_eq!((report.damage.len(), report.damage[0].fault), (1, Fault::Missing), "{report:#?}");
}
