use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt;

use proptest::prelude::*;

use super::*;
use crate::disk::LocalDisk;

fn key(byte: u8) -> LocalKey {
    LocalKey::from_bytes([byte; 32])
}

fn machine(byte: u8) -> Arc<dyn Machine> {
    Encrypted::host(Some(key(byte)))
}

fn raw(dir: &Path, name: &str) -> Vec<u8> {
    std::fs::read(dir.join(name)).unwrap()
}

#[test]
fn nothing_that_is_written_shows_on_the_disk() {
    let dir = tempfile::tempdir().unwrap();
    let disk = machine(1).open(dir.path()).unwrap();
    let secret = b"attack at dawn, sixteen ships!!!";
    for (name, io) in [("journal-1", Io::Direct), ("v.img", Io::Buffered)] {
        let file = disk.open(name, true, io).unwrap();
        let mut block = AlignedBuf::zeroed(8192);
        block.as_mut_slice().chunks_mut(32).for_each(|chunk| chunk.copy_from_slice(secret));
        file.write_at(block.as_slice(), 4096).unwrap();
        file.sync().unwrap();
        let on_disk = raw(dir.path(), name);
        assert_eq!(on_disk.len(), 12288);
        assert!(on_disk[..4096].iter().all(|byte| *byte == 0), "a hole stays one");
        for needle in [&secret[..16], &secret[16..]] {
            assert!(!on_disk.windows(16).any(|window| window == needle));
        }
        let mut read = AlignedBuf::zeroed(12288);
        file.read_at(read.as_mut_slice(), 0).unwrap();
        assert!(read.as_slice()[..4096].iter().all(|byte| *byte == 0));
        assert_eq!(&read.as_slice()[4096..], block.as_slice());
    }
    assert_eq!(disk.list().unwrap(), ["journal-1", "v.img"], "the marker is nobody's business");
}

#[test]
fn punched_ranges_give_their_space_back() {
    let dir = tempfile::tempdir().unwrap();
    let disk = machine(1).open(dir.path()).unwrap();
    let file = disk.open("v.img", true, Io::Buffered).unwrap();
    file.write_at(&vec![7; 1 << 20], 0).unwrap();
    file.sync().unwrap();
    let before = std::fs::metadata(dir.path().join("v.img")).unwrap().blocks();
    file.punch(0, 1 << 20).unwrap();
    file.sync().unwrap();
    assert!(std::fs::metadata(dir.path().join("v.img")).unwrap().blocks() < before / 2);
    let mut read = vec![1; 1 << 20];
    file.read_at(&mut read, 0).unwrap();
    assert_eq!(read, vec![0; 1 << 20]);
}

#[derive(Clone, Debug)]
enum Step {
    Write(u64, Vec<u8>),
    Punch(u64, u64),
    Length(u64),
    Reopen,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let place =
        || prop_oneof![0..20_000_u64, (0..5_u64).prop_map(|block| block * 4096), (0..1250_u64).prop_map(|u| u * 16)];
    let bytes = prop_oneof![
        proptest::collection::vec(any::<u8>(), 0..9000),
        (0..3_usize, any::<u8>()).prop_map(|(blocks, byte)| vec![byte; blocks * 4096]),
    ];
    let step = prop_oneof![
        4 => (place(), bytes).prop_map(|(at, bytes)| Step::Write(at, bytes)),
        1 => (place(), place()).prop_map(|(at, len)| Step::Punch(at, len)),
        1 => place().prop_map(Step::Length),
        1 => Just(Step::Reopen),
    ];
    proptest::collection::vec(step, 1..24)
}

proptest! {
    /// Whatever is written, cut off and punched, at whatever place, is what a plain file would hold; lengths are rounded up.
    #[test]
    fn it_is_a_file(steps in steps()) {
        let dir = tempfile::tempdir().unwrap();
        let disk = machine(1).open(dir.path()).unwrap();
        let mut file = disk.open("f", true, Io::Buffered).unwrap();
        let mut model: Vec<u8> = Vec::new();
        let round = |model: &mut Vec<u8>| model.resize(model.len().next_multiple_of(UNIT), 0);
        for step in steps {
            match step {
                Step::Write(at, bytes) => {
                    file.write_at(&bytes, at).unwrap();
                    let (at, end) = (usize::try_from(at).unwrap(), usize::try_from(at).unwrap() + bytes.len());
                    if !bytes.is_empty() {
                        model.resize(model.len().max(end), 0);
                        model[at..end].copy_from_slice(&bytes);
                    }
                }
                // Within the file, as the engine does: what happens beyond differs between file systems.
                Step::Punch(at, len) => {
                    let end = (at + len).min(model.len() as u64);
                    if at < end {
                        file.punch(at, end - at).unwrap();
                        model[usize::try_from(at).unwrap()..usize::try_from(end).unwrap()].fill(0);
                    }
                }
                Step::Length(len) => {
                    file.set_len(len).unwrap();
                    model.resize(usize::try_from(len).unwrap(), 0);
                }
                Step::Reopen => {
                    drop(file);
                    file = machine(1).open(dir.path()).unwrap().open("f", false, Io::Buffered).unwrap();
                }
            }
            round(&mut model);
            prop_assert_eq!(file.len().unwrap(), model.len() as u64);
            let mut read = vec![0; model.len()];
            file.read_at(&mut read, 0).unwrap();
            prop_assert_eq!(&read, &model);
            if model.len() > 37 {
                let mut part = vec![0; model.len() - 37];
                file.read_at(&mut part, 13).unwrap();
                prop_assert_eq!(&part[..], &model[13..model.len() - 24]);
            }
            prop_assert!(file.read_at(&mut [0; 17], model.len() as u64).is_err(), "past the end");
        }
    }
}

#[test]
fn the_marker_is_made_again_only_while_nothing_else_is_there() {
    let dir = tempfile::tempdir().unwrap();
    // A crash while it was written.
    std::fs::write(dir.path().join(MARKER_NAME), b"LBA").unwrap();
    let disk = machine(1).open(dir.path()).unwrap();
    disk.open("f", true, Io::Buffered).and_then(|file| file.write_at(&[9; 16], 0)).unwrap();
    let whole = raw(dir.path(), MARKER_NAME);
    for damage in [b"LBA".to_vec(), vec![0; MARKER_LEN], [whole.clone(), vec![0]].concat()] {
        std::fs::write(dir.path().join(MARKER_NAME), damage).unwrap();
        let error = machine(1).open(dir.path()).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData, "{error}");
        assert!(error.to_string().contains("restore it, or recover the volumes from the vault"), "{error}");
    }
    std::fs::write(dir.path().join(MARKER_NAME), whole).unwrap();
    let mut read = [0; 16];
    let file = machine(1).open(dir.path()).unwrap().open("f", false, Io::Buffered).unwrap();
    file.read_at(&mut read, 0).unwrap();
    assert_eq!(read, [9; 16]);
}

#[test]
fn a_wrong_key_and_no_key_are_told_apart_and_nothing_is_changed() {
    let dir = tempfile::tempdir().unwrap();
    let disk = machine(1).open(dir.path()).unwrap();
    disk.open("f", true, Io::Buffered).and_then(|file| file.write_at(&[9; 16], 0)).unwrap();
    let before = raw(dir.path(), "f");
    let wrong = machine(2).open(dir.path()).unwrap_err().to_string();
    assert!(wrong.contains("encrypted with another local key"), "{wrong}");
    let none = Host.open(dir.path()).unwrap_err().to_string();
    assert!(none.contains("are encrypted: give what opens the local key, --local-key-file"), "{none}");
    let lying: Arc<dyn Disk> = LocalDisk::open(dir.path()).unwrap();
    assert!(revealed(Arc::clone(&lying), None).is_err());
    let mut read = [0; 16];
    revealed(lying, Some(&key(1))).unwrap().open("f", false, Io::Buffered).unwrap().read_at(&mut read, 0).unwrap();
    assert_eq!((read, raw(dir.path(), "f")), ([9; 16], before));
}

/// What was there before the key stays readable, and is encrypted by a conversion: all of it, holes as holes.
#[test]
fn a_directory_is_converted_whole() {
    let root = tempfile::tempdir().unwrap();
    let dir = root.path().join("groups/g/home");
    std::fs::create_dir_all(&dir).unwrap();
    std::fs::write(root.path().join("disk"), b"somebody's own").unwrap();
    let plain = machine(1).raw(&dir).unwrap();
    let files: BTreeMap<&str, Vec<u8>> =
        [("group.state", vec![3; 131_072]), ("odd", vec![4; 1001]), ("empty", Vec::new())].into();
    for (name, content) in &files {
        plain.open(name, true, Io::Buffered).and_then(|file| file.write_at(content, 0)).unwrap();
    }
    let image = plain.open("v.img", true, Io::Buffered).unwrap();
    image.set_len(1 << 30).unwrap();
    image.write_at(&[5; 4096], 512 << 20).unwrap();
    plain.adopt("own.img", &root.path().join("disk")).unwrap();
    drop(image);

    let same = machine(1).open(&dir).unwrap();
    assert_eq!(same.list().unwrap().len(), 5, "served as it is until then");
    assert!(!is_encrypted(&dir));
    // What an interrupted conversion left.
    std::fs::create_dir_all(draft_of(&dir)).unwrap();
    std::fs::write(draft_of(&dir).join("group.state"), b"half").unwrap();
    assert_eq!(encrypted_now(root.path()).unwrap().iter().filter(|(_, yes)| *yes).count(), 0);

    let mut seen = (0, 0);
    let done = convert(&dir, &key(1), &system_salts(), &mut |done, all| seen = (done, all)).unwrap();
    assert!(matches!(done, Conversion::Encrypted(bytes) if (135_000..8 << 20).contains(&bytes)), "{done:?}, {seen:?}");
    assert!(is_encrypted(&dir) && !draft_of(&dir).exists());
    assert!(Host.open(&dir).is_err());
    let disk = machine(1).open(&dir).unwrap();
    assert_eq!(disk.list().unwrap(), ["empty", "group.state", "odd", "own.img", "v.img"]);
    for (name, content) in &files {
        let file = disk.open(name, false, Io::Buffered).unwrap();
        assert_eq!(file.len().unwrap(), (content.len() as u64).next_multiple_of(16), "{name}");
        let mut read = vec![0; content.len()];
        file.read_at(&mut read, 0).unwrap();
        assert_eq!(&read, content, "{name}");
        assert!(content.is_empty() || !raw(&dir, name).windows(16).any(|window| window == &content[..16]), "{name}");
    }
    assert_eq!(disk.adopted("own.img").unwrap(), Some(root.path().join("disk")));
    assert!(std::fs::metadata(dir.join("v.img")).unwrap().blocks() * 512 < 1 << 20);
    let mut read = vec![0; 12288];
    disk.open("v.img", false, Io::Buffered).unwrap().read_at(&mut read, (512 << 20) - 4096).unwrap();
    assert_eq!(read, [vec![0; 4096], vec![5; 4096], vec![0; 4096]].concat());
    let again = convert(&dir, &key(1), &system_salts(), &mut |_, _| ()).unwrap();
    assert_eq!(again, Conversion::Already);
}

fn draft_of(dir: &Path) -> PathBuf {
    dir.with_file_name("home.encrypting")
}
