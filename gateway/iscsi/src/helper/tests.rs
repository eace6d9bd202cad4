use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::*;
use crate::line::Line;
use crate::lio::fake::Fake;

const ESX: &str = "iqn.1998-01.com.vmware:esx1";
const WINDOWS: &str = "iqn.1991-05.com.microsoft:host";

/// Files by name, with their sizes.
#[derive(Clone, Default)]
struct Sizes(Arc<Mutex<BTreeMap<String, u64>>>);

impl Sizes {
    fn put(&self, name: &str, size: u64) {
        self.0.lock().unwrap().insert(name.to_owned(), size);
    }
}

impl Files for Sizes {
    fn find(&self, name: &str) -> Result<(PathBuf, u64), String> {
        let size = self.0.lock().unwrap().get(name).copied();
        size.map(|size| (PathBuf::from(format!("/m/volumes/{name}.img")), size))
            .ok_or_else(|| format!("no file {name}"))
    }
}

fn volume(number: u8) -> VolumeId {
    VolumeId::from_bytes([number; 16])
}

fn target(number: u8, name: &str, initiators: &[&str]) -> Target {
    Target {
        volume: volume(number),
        name: name.to_owned(),
        initiators: initiators.iter().map(|&one| one.to_owned()).collect(),
    }
}

fn helper(fake: &Fake, sizes: &Sizes) -> Helper<Fake, Sizes> {
    Helper::new(Lio::new(fake.clone(), "0.0.0.0:3260".to_owned(), None), sizes.clone())
}

#[test]
fn an_order_is_all_that_there_is_then() {
    let (fake, sizes) = (Fake::default(), Sizes::default());
    sizes.put("db", 1 << 30);
    sizes.put("web", 1 << 20);
    let mut helper = helper(&fake, &sizes);
    let both = Order { targets: vec![target(1, "db", &[ESX]), target(2, "web", &[WINDOWS])] };
    let report = helper.apply(&both);
    assert!(report.targets.iter().all(|target| target.trouble.is_none()), "{report:?}");
    assert_eq!(report.portal, "0.0.0.0:3260");
    assert!(fake.is_serving(&serial(volume(1)), ESX) && fake.is_serving(&serial(volume(2)), WINDOWS));
    // The same again touches nothing.
    let steps = fake.steps();
    helper.apply(&both);
    assert_eq!(fake.steps(), steps);
    // Who stays is not disturbed by who comes.
    let more = Order { targets: vec![target(1, "db", &[ESX, WINDOWS]), target(2, "web", &[WINDOWS])] };
    helper.apply(&more);
    assert!(fake.is_serving(&serial(volume(1)), ESX) && fake.is_serving(&serial(volume(1)), WINDOWS));
    // One that has grown is made again.
    sizes.put("db", 2 << 30);
    helper.apply(&more);
    assert!(fake.value(&format!("core/fileio_7133/{}/control", serial(volume(1)))).contains("fd_dev_size=2147483648"));
    assert!(fake.is_serving(&serial(volume(1)), ESX));
    let report = helper.apply(&Order { targets: vec![target(2, "web", &[WINDOWS])] });
    assert_eq!(report.targets.len(), 1);
    assert!(!fake.is_serving(&serial(volume(1)), ESX) && fake.is_serving(&serial(volume(2)), WINDOWS));
    helper.clear();
    assert!(fake.paths().iter().all(|path| path == "iscsi"), "{:?}", fake.paths());
}

#[test]
fn one_that_fails_is_said_and_tried_again_and_the_others_are_served() {
    let (fake, sizes) = (Fake::default(), Sizes::default());
    sizes.put("web", 1 << 20);
    let mut helper = helper(&fake, &sizes);
    let both = Order { targets: vec![target(1, "db", &[ESX]), target(2, "web", &[ESX])] };
    let report = helper.apply(&both);
    assert_eq!(report.targets[0].trouble.as_deref(), Some("no file db"));
    assert_eq!(report.targets[1].trouble, None);
    sizes.put("db", 1 << 20);
    fake.refuse(fake.steps() + 5);
    let report = helper.apply(&both);
    assert!(report.targets[0].trouble.as_deref().is_some_and(|why| why.contains("refuses")), "{report:?}");
    let report = helper.apply(&both);
    assert_eq!(report.targets[0].trouble, None);
    assert!(fake.is_serving(&serial(volume(1)), ESX));
    // Its file goes: so does the target.
    sizes.0.lock().unwrap().remove("db");
    helper.apply(&both);
    assert!(!fake.is_serving(&serial(volume(1)), ESX) && fake.is_serving(&serial(volume(2)), ESX));
}

#[test]
fn only_volumes_of_a_mount_are_handed_out() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join("volumes")).unwrap();
    std::fs::write(dir.path().join("volumes/db.img"), "no volume").unwrap();
    std::os::unix::fs::symlink("/dev/null", dir.path().join("volumes/link.img")).unwrap();
    let mounted = Mounted(dir.path().to_owned());
    for name in ["", "../etc/shadow", "a/b", "a,fd_dev_size=1", "a b", "db\n", "db", "link", "absent"] {
        let why = mounted.find(name).unwrap_err();
        assert!(why.contains("no name of a volume") || why.contains("--mount"), "{name:?}: {why}");
    }
}

#[tokio::test]
async fn targets_live_as_long_as_the_line_of_the_gateway_that_ordered_them() {
    let (fake, sizes) = (Fake::default(), Sizes::default());
    sizes.put("db", 1 << 20);
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("iscsi.sock");
    let stop = CancellationToken::new();
    // What a predecessor left.
    helper(&fake, &sizes).apply(&Order { targets: vec![target(9, "db", &[ESX])] });
    let running = tokio::spawn(run(helper(&fake, &sizes), bind(&socket).unwrap(), stop.clone()));
    let order = Order { targets: vec![target(1, "db", &[ESX])] };
    let mut line = Line::open(&socket).await.unwrap();
    assert_eq!(line.order(&order).await.unwrap().targets, [TargetReport { volume: volume(1), trouble: None }]);
    assert!(fake.is_serving(&serial(volume(1)), ESX) && !fake.is_serving(&serial(volume(9)), ESX));
    assert_eq!(std::fs::metadata(&socket).unwrap().permissions().mode() & 0o777, 0o660);

    // A gateway that comes while the old line still stands: what was ordered over that is gone before it is served.
    let mut newer = Line::open(&socket).await.unwrap();
    let served = newer.order(&Order::default()).await.unwrap();
    assert!(served.targets.is_empty() && !fake.is_serving(&serial(volume(1)), ESX));
    assert!(line.order(&order).await.is_err());

    newer.order(&order).await.unwrap();
    drop(newer);
    tokio::time::timeout(Duration::from_secs(20), async {
        while fake.is_serving(&serial(volume(1)), ESX) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await
    .expect("the target goes with the line");

    // Something that is no order ends the line, and another one is served.
    let mut odd = UnixStream::connect(&socket).await.unwrap();
    odd.write_all(b"{\"targets\": 5}\n").await.unwrap();
    let mut rest = Vec::new();
    odd.read_to_end(&mut rest).await.unwrap();
    assert!(rest.is_empty());
    let mut last = Line::open(&socket).await.unwrap();
    last.order(&order).await.unwrap();
    assert!(fake.is_serving(&serial(volume(1)), ESX));
    stop.cancel();
    running.await.unwrap();
    assert!(!fake.is_serving(&serial(volume(1)), ESX), "a helper that stops leaves nothing");
}
