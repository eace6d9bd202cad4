//! Every form of a disk, held against what QEMU reads of it, and against the bytes that it had before.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use lifeboat_imager::{boot, hex, ova, ovf, sha256, vhd, vhdx, vmdk};

const MIB: u64 = 1 << 20;
const TIME: u64 = 1_700_000_000;

/// A disk with something at its beginning, in its middle and at its end, and nothing between.
fn disk(directory: &Path) -> std::io::Result<PathBuf> {
    let path = directory.join("disk.raw");
    let file = File::create(&path)?;
    file.set_len(70 * MIB)?;
    let noise: Vec<u8> = (0..200_000_u32).flat_map(|at| at.wrapping_mul(2_654_435_761).to_le_bytes()).collect();
    file.write_all_at(&noise, 512)?;
    file.write_all_at(&noise[..4096], 33 * MIB - 100)?;
    file.write_all_at(b"the end", 70 * MIB - 7)?;
    Ok(path)
}

fn qemu_img(arguments: &[&str], files: &[&Path]) -> String {
    let ended = Command::new("qemu-img").args(arguments).args(files).output().expect("qemu-img is there: make deps");
    let said = String::from_utf8_lossy(&ended.stdout).into_owned() + &String::from_utf8_lossy(&ended.stderr);
    assert!(ended.status.success(), "qemu-img {arguments:?}: {said}");
    said
}

#[test]
fn a_vmdk_is_whole_holds_the_disk_and_is_the_same_each_time() {
    let dir = tempfile::tempdir().unwrap();
    let raw = disk(dir.path()).unwrap();
    let packed = dir.path().join("disk.vmdk");
    let populated = vmdk::write(&raw, &packed).unwrap();
    assert_eq!(populated, 16 * 65536, "the grains that hold something");
    qemu_img(&["check", "-f", "vmdk"], &[&packed]);
    qemu_img(&["compare", "-f", "raw", "-F", "vmdk"], &[&raw, &packed]);
    let info = qemu_img(&["info", "--output=json", "-f", "vmdk"], &[&packed]);
    assert!(info.contains("\"create-type\": \"streamOptimized\""), "{info}");

    let bytes = fs::read(&packed).unwrap();
    // The directory's place is in the footer alone; the last sector says that there is no more.
    assert_eq!(bytes[56..64], u64::MAX.to_le_bytes());
    let (footer, end) = (&bytes[bytes.len() - 1024..bytes.len() - 512], &bytes[bytes.len() - 512..]);
    assert_eq!(&footer[..4], b"KDMV");
    assert!(footer[56..64] != u64::MAX.to_le_bytes() && end.iter().all(|byte| *byte == 0));

    fs::create_dir(dir.path().join("again")).unwrap();
    let again = dir.path().join("again/disk.vmdk");
    vmdk::write(&raw, &again).unwrap();
    assert_eq!(sha256(&packed).unwrap(), sha256(&again).unwrap());
    // A byte of the disk more or less is another disk, with another identifier.
    File::options().write(true).open(&raw).unwrap().write_all_at(b"!", 40 * MIB).unwrap();
    vmdk::write(&raw, &again).unwrap();
    let cid = |bytes: &[u8]| String::from_utf8_lossy(&bytes[512..2048]).lines().nth(2).map(str::to_owned);
    assert_ne!(cid(&bytes), cid(&fs::read(&again).unwrap()));
}

#[test]
fn a_vmdk_of_nothing_and_one_that_ends_within_a_grain_are_whole() {
    let dir = tempfile::tempdir().unwrap();
    for (bytes, content) in [(64 * MIB, None), (32 * MIB + 512, Some(32 * MIB)), (512, Some(0)), (32 * MIB, Some(MIB))]
    {
        let raw = dir.path().join("disk.raw");
        let file = File::create(&raw).unwrap();
        file.set_len(bytes).unwrap();
        if let Some(at) = content {
            file.write_all_at(b"here", at).unwrap();
        }
        let packed = dir.path().join("disk.vmdk");
        vmdk::write(&raw, &packed).unwrap();
        qemu_img(&["check", "-f", "vmdk"], &[&packed]);
        // Sizes of whole grains: QEMU takes what is more for zeros.
        qemu_img(&["compare", "-f", "raw", "-F", "vmdk"], &[&raw, &packed]);
    }
}

#[test]
fn a_vhd_holds_the_disk_in_its_very_size() {
    let dir = tempfile::tempdir().unwrap();
    let raw = disk(dir.path()).unwrap();
    let packed = dir.path().join("disk.vhd");
    vhd::write(&raw, &packed, TIME).unwrap();
    assert_eq!(fs::metadata(&packed).unwrap().len(), 70 * MIB + 512);
    qemu_img(&["compare", "-f", "raw", "-F", "vpc"], &[&raw, &packed]);
    let info = qemu_img(&["info", "--output=json", "-f", "vpc"], &[&packed]);
    assert!(info.contains(&format!("\"virtual-size\": {}", 70 * MIB)), "{info}");
    File::options().write(true).open(&raw).unwrap().set_len(70 * MIB + 512).unwrap();
    let refused = vhd::write(&raw, &packed, TIME).unwrap_err().to_string();
    assert!(refused.contains("no whole mebibytes"), "{refused}");
}

#[test]
fn a_vhdx_loses_what_was_random_and_stays_whole() {
    let dir = tempfile::tempdir().unwrap();
    let raw = disk(dir.path()).unwrap();
    let sum = sha256(&raw).unwrap();
    let make = |name: &str| {
        let packed = dir.path().join(name);
        qemu_img(&["convert", "-f", "raw", "-O", "vhdx", "-o", "subformat=dynamic"], &[&raw, &packed]);
        packed
    };
    let (first, second) = (make("a.vhdx"), make("b.vhdx"));
    assert_ne!(sha256(&first).unwrap(), sha256(&second).unwrap(), "nothing was random: this step can go");
    for packed in [&first, &second] {
        vhdx::settle(packed, &sum).unwrap();
    }
    assert_eq!(sha256(&first).unwrap(), sha256(&second).unwrap());
    qemu_img(&["check", "-f", "vhdx"], &[&first]);
    qemu_img(&["compare", "-f", "raw", "-F", "vhdx"], &[&raw, &first]);
    assert!(vhdx::settle(&raw, &sum).is_err(), "a raw disk is no VHDX");
}

fn appliance() -> ovf::Appliance<'static> {
    ovf::Appliance {
        version: "1.2.3 <beta>",
        disk: "lifeboat-disk1.vmdk",
        file_bytes: 7,
        capacity: 70 * MIB,
        populated: 4096,
        data_gib: 64,
    }
}

#[test]
fn an_ova_lists_first_what_describes_it_and_its_sums_are_right() {
    let dir = tempfile::tempdir().unwrap();
    let packed = dir.path().join("lifeboat-disk1.vmdk");
    fs::write(&packed, b"content").unwrap();
    let archive = dir.path().join("lifeboat.ova");
    let descriptor = ovf::descriptor(&appliance());
    ova::write(&archive, "lifeboat", &descriptor, std::slice::from_ref(&packed), TIME).unwrap();
    let listed = Command::new("tar").arg("-tvf").arg(&archive).env("TZ", "UTC").output().unwrap();
    let listed = String::from_utf8(listed.stdout).unwrap();
    let names: Vec<&str> = listed.lines().filter_map(|line| line.split_whitespace().last()).collect();
    assert_eq!(names, ["lifeboat.ovf", "lifeboat.mf", "lifeboat-disk1.vmdk"]);
    assert!(listed.starts_with("-rw-r--r-- root/root"), "{listed}");
    assert!(listed.contains("2023-11-14"), "{listed}");
    let unpacked = Command::new("tar").arg("-xf").arg(&archive).arg("-C").arg(dir.path()).status().unwrap();
    assert!(unpacked.success());
    let manifest = fs::read_to_string(dir.path().join("lifeboat.mf")).unwrap();
    for name in ["lifeboat.ovf", "lifeboat-disk1.vmdk"] {
        let line = format!("SHA256({name})= {}\n", hex(&sha256(&dir.path().join(name)).unwrap()));
        assert!(manifest.contains(&line), "{manifest} lacks {line}");
    }
    assert_eq!(fs::metadata(&archive).unwrap().len() % 10240, 0);
}

/// What a descriptor says is what people import and script against: a change of it is to be seen.
#[test]
fn the_descriptor_is_the_one_in_the_repository() {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/appliance.ovf");
    let text = ovf::descriptor(&appliance());
    if std::env::var_os("LIFEBOAT_BLESS").is_some() {
        fs::write(&golden, &text).unwrap();
    }
    assert_eq!(text, fs::read_to_string(&golden).unwrap(), "LIFEBOAT_BLESS=1 writes it anew");
}

#[test]
fn grub_finds_its_core_by_the_record_and_by_the_list() {
    let dir = tempfile::tempdir().unwrap();
    let put = |name: &str, bytes: &[u8]| {
        let path = dir.path().join(name);
        fs::write(&path, bytes).unwrap();
        path
    };
    let disk = put("disk", &vec![0xee; 4 << 20]);
    let (stage, core) = (put("boot.img", &[1; 512]), put("core.img", &[2; 1300]));
    boot::install(&disk, &stage, &core, 2048, 2048).unwrap();
    let bytes = fs::read(&disk).unwrap();
    assert_eq!(bytes[92..100], 2048_u64.to_le_bytes());
    assert_eq!(bytes[0x66..0x68], [0x90, 0x90]);
    assert!(bytes[440..512].iter().all(|byte| *byte == 0xee), "signature and table are not touched");
    let core_at = 2048 * 512;
    assert_eq!(bytes[core_at + 500..core_at + 508], 2049_u64.to_le_bytes());
    assert_eq!(bytes[core_at + 508..core_at + 510], 2_u16.to_le_bytes());
    assert_eq!(bytes[core_at + 1300..core_at + 1536], [0; 236]);
    let large = put("large.img", &[2; 4096]);
    let refused = boot::install(&disk, &stage, &large, 2048, 4).unwrap_err().to_string();
    assert!(refused.contains("8 sectors, its partition 4"), "{refused}");
}
