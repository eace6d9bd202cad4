//! Against a tree with the kernel's manners: what comes with a directory, what may not be removed, and what has to be there first.

use super::fake::Fake;
use super::*;

const SERIAL: &str = "00112233445566778899aabbccddeeff";
const ESX: &str = "iqn.1998-01.com.vmware:esx1";
const WINDOWS: &str = "iqn.1991-05.com.microsoft:host";

fn disk(initiators: &[&str]) -> Disk {
    Disk {
        serial: SERIAL.to_owned(),
        file: PathBuf::from("/mnt/lifeboat/volumes/db.img"),
        size_bytes: 1 << 30,
        initiators: initiators.iter().map(|&name| name.to_owned()).collect(),
    }
}

fn lio(fake: &Fake, chap: Option<Chap>) -> Lio<Fake> {
    Lio::new(fake.clone(), "0.0.0.0:3260".to_owned(), chap)
}

#[test]
fn a_target_is_what_the_kernel_takes_and_goes_without_a_trace() {
    let fake = Fake::default();
    let before = fake.paths();
    let lio = lio(&fake, None);
    lio.set_up(&disk(&[ESX, WINDOWS])).unwrap();
    assert!(fake.is_serving(SERIAL, ESX) && fake.is_serving(SERIAL, WINDOWS));
    assert!(!fake.is_serving(SERIAL, "iqn.1998-01.com.vmware:other"));
    let group = format!("iscsi/{NAMES}{SERIAL}/tpgt_1");
    assert_eq!(fake.value(&format!("{group}/attrib/authentication")), "0");
    assert_eq!(fake.value(&format!("{group}/attrib/generate_node_acls")), "0");
    let control = fake.value(&format!("core/fileio_7133/{SERIAL}/control"));
    assert_eq!(control, "fd_dev_name=/mnt/lifeboat/volumes/db.img,fd_dev_size=1073741824,fd_buffered_io=1");
    assert_eq!(fake.value(&format!("core/fileio_7133/{SERIAL}/wwn/vpd_unit_serial")), SERIAL);
    // Once more is the same.
    lio.take_down(SERIAL).unwrap();
    lio.take_down(SERIAL).unwrap();
    lio.clear().unwrap();
    assert_eq!(fake.paths().into_iter().filter(|path| path != "iscsi").collect::<Vec<_>>(), before);
}

#[test]
fn a_password_is_asked_of_each_initiator() {
    let fake = Fake::default();
    let chap = Chap { user: "vmware".to_owned(), password: "a-long-secret-1".to_owned() };
    assert!(!format!("{chap:?}").contains("secret"));
    lio(&fake, Some(chap)).set_up(&disk(&[ESX, WINDOWS])).unwrap();
    let group = format!("iscsi/{NAMES}{SERIAL}/tpgt_1");
    assert_eq!(fake.value(&format!("{group}/attrib/authentication")), "1");
    for initiator in [ESX, WINDOWS] {
        assert_eq!(fake.value(&format!("{group}/acls/{initiator}/auth/userid")), "vmware");
        assert_eq!(fake.value(&format!("{group}/acls/{initiator}/auth/password")), "a-long-secret-1");
    }
}

#[test]
fn others_are_let_in_and_out_while_one_stays() {
    let fake = Fake::default();
    let lio = lio(&fake, None);
    lio.set_up(&disk(&[ESX])).unwrap();
    let changed = disk(&[WINDOWS]);
    lio.change_initiators(&disk(&[ESX]).initiators, &changed).unwrap();
    assert!(fake.is_serving(SERIAL, WINDOWS) && !fake.is_serving(SERIAL, ESX));
    lio.take_down(SERIAL).unwrap();
}

#[test]
fn whichever_step_is_refused_nothing_is_left_and_the_next_try_succeeds() {
    let steps = {
        let fake = Fake::default();
        lio(&fake, None).set_up(&disk(&[ESX])).unwrap();
        fake.steps()
    };
    assert!(steps > 15, "{steps} steps");
    for step in 0..steps {
        let fake = Fake::default();
        fake.refuse(step);
        let lio = lio(&fake, None);
        let error = lio.set_up(&disk(&[ESX])).unwrap_err().to_string();
        assert!(error.starts_with("the kernel's iSCSI target refuses "), "{error}");
        let left: Vec<String> = fake.paths().into_iter().filter(|path| path.contains(SERIAL)).collect();
        assert!(left.is_empty(), "step {step}: {left:?}");
        lio.set_up(&disk(&[ESX])).unwrap();
        assert!(fake.is_serving(SERIAL, ESX), "step {step}");
    }
}

#[test]
fn what_a_killed_predecessor_left_is_cleared_and_what_is_others_stays() {
    let full = {
        let fake = Fake::default();
        lio(&fake, None).set_up(&disk(&[ESX])).unwrap();
        fake.steps()
    };
    for step in 1..=full {
        let fake = Fake::default();
        fake.make("core/fileio_0").unwrap();
        fake.make("core/fileio_0/theirs").unwrap();
        fake.make("iscsi").unwrap();
        fake.make("iscsi/iqn.2003-01.org.linux-iscsi.host:sn.1").unwrap();
        let theirs = fake.paths();
        fake.die_at(step);
        let killed = lio(&fake, None);
        let _ = killed.set_up(&disk(&[ESX]));
        fake.revive();
        lio(&fake, None).clear().unwrap();
        assert_eq!(fake.paths(), theirs, "step {step}");
    }
}
