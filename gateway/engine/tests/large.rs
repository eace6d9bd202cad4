//! A volume that is longer than any file of ext4 can be.

mod lab;

use std::sync::Arc;

use bytes::Bytes;
use lab::{Lab, PATIENCE};
use lifeboat_engine::view::PointView;
use lifeboat_engine::{Group, VolumeSpec};
use lifeboat_model::PointKind;

const TIB: u64 = 1 << 40;
const SIZE: u64 = 20 * TIB;

#[tokio::test(flavor = "multi_thread")]
async fn a_volume_of_twenty_tebibytes_is_written_recovered_and_grown() {
    let lab = Lab::new().await;
    let spec = VolumeSpec { id: lab.volume, name: "archive".into(), size_bytes: SIZE, source: None };
    let group = Group::create(lab.config(lab.primary), vec![spec]).await.expect("creates the group");
    // Around the border of the files of an image, past what one file holds, and at the very end.
    let places = [0, 15 * TIB - 4096, 17 * TIB, SIZE - 8192];
    let content = |number: usize| Bytes::from(vec![u8::try_from(number).expect("small") + 1; 8192]);
    for (number, at) in places.into_iter().enumerate() {
        lab::volume(&group, &lab).write(at, content(number)).await.expect("writes");
    }
    let point = group.take_point(PointKind::Manual, "all").await.expect("lands");
    group.close(PATIENCE).await;

    let group = Group::open(lab.config(lab.primary)).await.expect("opens");
    group.grow_volume(lab.volume, SIZE + 12 * TIB).await.expect("grows");
    let view = PointView::open(Arc::clone(&lab.vault), point.group, &point).await.expect("opens the point");
    let shown = view.volume(lab.volume).expect("shows the volume");
    for (number, at) in places.into_iter().enumerate() {
        assert_eq!(lab::volume(&group, &lab).read(at, 8192).await.expect("reads"), content(number), "here, at {at}");
        assert_eq!(shown.read(at, 8192).await.expect("reads"), content(number), "in the vault, at {at}");
    }
    let end = SIZE + 12 * TIB - 4096;
    lab::volume(&group, &lab).write(end, Bytes::from(vec![9; 4096])).await.expect("writes to what it grew by");
    assert_eq!(lab::volume(&group, &lab).read(end, 4096).await.expect("reads"), vec![9; 4096]);
    group.close(PATIENCE).await;
}
