//! A small real Linux for tests: a disk image that boots by BIOS and by UEFI, with data of its own.
//!
//! ```text
//! sector 0         MBR with GRUB's first stage, and the core of GRUB in the sectors behind it
//! partition 1      FAT, 20 MiB: kernel, initrd, GRUB for UEFI
//! partition 2      ext4, the rest: the data, unless there is a second disk with an ext4 file system
//! ```
//! The kernel is Debian's for clouds, everything else is busybox and one script (`guest/init`): its first line on the
//! serial port after boot is [`GUEST_READY`] and its address. `GET /data/…` reads the data, `POST /cgi-bin/append` adds a
//! body to `/data/log` and syncs it before it answers, `POST /cgi-bin/deaf` makes it ignore the power button from then
//! on. Asked to go down by that button it syncs, unmounts and switches itself off. A file `address` in its data
//! (`10.0.0.2/24`) is its address; otherwise it asks DHCP.
//!
//! `make deps` unpacks Debian's packages into the tools directory, without installing them; the image is made from that
//! at the first use and kept beside it. Making it needs no privilege, no mount and no loop device.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail, ensure};
use aws_lc_rs::digest;

use crate::servers::tools;

/// What the guest says on its serial port when it serves.
pub const GUEST_READY: &str = "GUEST READY";

const SECTOR: u64 = 512;
const IMAGE_BYTES: u64 = 40 << 20;
const BOOT_START: u64 = 2048;
const BOOT_SECTORS: u64 = 40960;
const DATA_START: u64 = BOOT_START + BOOT_SECTORS;
const DATA_SECTORS: u64 = IMAGE_BYTES / SECTOR - DATA_START;
const INIT: &str = include_str!("guest/init");
const DHCP: &str = "#!/bin/busybox sh
case \"$1\" in bound|renew)
  ip addr add \"$ip/$mask\" dev \"$interface\"
  [ -z \"$router\" ] || ip route add default via \"${router%% *}\"
esac
";
const APPEND: &str = "#!/bin/busybox sh
cat >> /data/log && sync && printf 'Content-Type: text/plain\\r\\n\\r\\n' && cat /data/log
";
const DEAF: &str = "#!/bin/busybox sh
touch /data/deaf && sync && printf 'Content-Type: text/plain\\r\\n\\r\\n'
";
const POWER: &str = "#!/bin/busybox sh
[ -e /data/deaf ] && exit
echo 'GUEST goes down' > /dev/console
sync
umount /data
poweroff -f
";
const GRUB: &str = "search --no-floppy --file --set=root /lifeboat-guest
linux /vmlinuz console=tty0 console=ttyS0 quiet panic=10
initrd /initrd
boot
";
/// Modules in the order in which each finds what it needs.
const MODULES: &[&str] = &[
    "virtio_ring",
    "virtio",
    "virtio_pci_modern_dev",
    "virtio_pci_legacy_dev",
    "virtio_pci",
    "virtio_blk",
    "failover",
    "net_failover",
    "virtio_net",
    "button",
    "evdev",
];

/// The guest's disk image, 40 MiB and mostly holes; made at the first call. Copy it: it is everybody's.
///
/// # Errors
/// `make deps` has not unpacked what it is made of, or a tool fails.
pub fn guest_image() -> Result<PathBuf> {
    let home = tools()?.join("guest");
    let packages = fs::read(home.join("packages"))
        .with_context(|| format!("{} holds no packages of a guest: run `make deps`", home.display()))?;
    let mut version = digest::Context::new(&digest::SHA256);
    version.update(&packages);
    for text in [INIT, DHCP, APPEND, DEAF, POWER, GRUB] {
        version.update(text.as_bytes());
    }
    let version: String = version.finish().as_ref().iter().take(8).map(|byte| format!("{byte:02x}")).collect();
    let image = home.join(format!("guest-{version}.img"));
    if !image.is_file() {
        // Whoever is first to finish wins; the others' is the same.
        let scratch = tempfile::tempdir_in(&home)?;
        let draft = build(&home.join("root"), scratch.path()).context("make the test guest's image")?;
        fs::rename(draft, &image)?;
    }
    Ok(image)
}

/// Makes a file with an ext4 file system that holds these files (`name`, content): a second disk for the guest.
///
/// # Errors
/// The file can't be written, or `mke2fs` fails.
pub fn guest_data_disk(disk: &Path, bytes: u64, files: &[(&str, &str)]) -> Result<()> {
    let content = tempfile::tempdir()?;
    for (name, text) in files {
        fs::write(content.path().join(name), text)?;
    }
    File::create(disk)?.set_len(bytes)?;
    ext4(disk, 0, bytes, content.path())
}

fn build(root: &Path, scratch: &Path) -> Result<PathBuf> {
    let draft = scratch.join("draft.img");
    let early = scratch.join("early.cfg");
    fs::write(&early, GRUB)?;
    let (core, efi) = (scratch.join("core.img"), scratch.join("boot.efi"));
    grub(root, "i386-pc", &early, &core, &["biosdisk"])?;
    grub(root, "x86_64-efi", &early, &efi, &[])?;
    let mut image = File::create(&draft)?;
    image.set_len(IMAGE_BYTES)?;
    image.write_all(&master_boot_record(&fs::read(root.join("usr/lib/grub/i386-pc/boot.img"))?)?)?;
    let core = fs::read(core)?;
    ensure!(core.len() < usize::try_from((BOOT_START - 1) * SECTOR)?, "GRUB's core is larger than its gap");
    image.seek(SeekFrom::Start(SECTOR))?;
    image.write_all(&core)?;
    drop(image);

    let (initrd, mark) = (scratch.join("initrd"), scratch.join("lifeboat-guest"));
    fs::write(&initrd, initial_files(root)?)?;
    fs::write(&mark, "")?;
    let kernel = only(&root.join("boot"), "vmlinuz-")?;
    let partition = format!("{}@@{}", draft.display(), BOOT_START * SECTOR);
    let mtools = |name: &str, arguments: &[&OsStr]| {
        let mut command = Command::new(root.join("usr/bin/mtools"));
        command.args(["-c", name, "-i", &partition]).args(arguments).env("MTOOLS_SKIP_CHECK", "1");
        run(&mut command)
    };
    let boot_sectors = BOOT_SECTORS.to_string();
    mtools("mformat", &["-T", &boot_sectors, "-h", "16", "-s", "63", "::"].map(OsStr::new))?;
    mtools("mmd", &["::/EFI", "::/EFI/BOOT"].map(OsStr::new))?;
    for (file, to) in
        [(&kernel, "::/vmlinuz"), (&initrd, "::/initrd"), (&mark, "::/"), (&efi, "::/EFI/BOOT/BOOTX64.EFI")]
    {
        mtools("mcopy", &[file.as_os_str(), OsStr::new(to)])?;
    }

    let content = scratch.join("data");
    fs::create_dir(&content)?;
    fs::write(content.join("log"), "made\n")?;
    ext4(&draft, DATA_START * SECTOR, DATA_SECTORS * SECTOR, &content)?;
    Ok(draft)
}

fn grub(root: &Path, platform: &str, config: &Path, to: &Path, more: &[&str]) -> Result<()> {
    let modules = ["part_msdos", "fat", "linux", "search", "search_fs_file"];
    run(Command::new(root.join("usr/bin/grub-mkimage"))
        .env("LD_LIBRARY_PATH", root.join("lib/x86_64-linux-gnu"))
        .arg("-d")
        .arg(root.join("usr/lib/grub").join(platform))
        .args(["-O", platform, "-p", "/", "-c"])
        .arg(config)
        .arg("-o")
        .arg(to)
        .args(more)
        .args(modules))
}

fn ext4(file: &Path, offset: u64, bytes: u64, content: &Path) -> Result<()> {
    run(Command::new("mke2fs")
        .args(["-q", "-F", "-t", "ext4", "-b", "1024", "-E", &format!("offset={offset}"), "-d"])
        .arg(content)
        .arg(file)
        .arg(format!("{}k", bytes >> 10)))
}

/// GRUB's first stage, which reads on from sector 1, with the table of partitions.
fn master_boot_record(stage: &[u8]) -> Result<Vec<u8>> {
    ensure!(stage.len() == 512, "GRUB's first stage has {} bytes", stage.len());
    let mut record: Vec<u8> = stage.iter().copied().take(440).collect();
    // The disk's signature, and two bytes that mean nothing.
    record.extend(*b"LIFE\0\0");
    for (active, kind, start, sectors) in [(0x80, 0xef, BOOT_START, BOOT_SECTORS), (0, 0x83, DATA_START, DATA_SECTORS)]
    {
        record.extend([active, 0xfe, 0xff, 0xff, kind, 0xfe, 0xff, 0xff]);
        record.extend(u32::try_from(start)?.to_le_bytes());
        record.extend(u32::try_from(sectors)?.to_le_bytes());
    }
    record.resize(510, 0);
    record.extend([0x55, 0xaa]);
    Ok(record)
}

/// The initrd: busybox, modules, scripts, as a cpio archive of the kind that the kernel reads ("newc").
fn initial_files(root: &Path) -> Result<Vec<u8>> {
    let mut archive = Archive::default();
    for directory in ["bin", "dev", "proc", "sys", "data", "tmp", "var", "var/log", "var/run"] {
        archive.directory(directory);
    }
    for directory in ["etc", "etc/acpi", "etc/acpi/PWRF", "www", "www/cgi-bin", "modules"] {
        archive.directory(directory);
    }
    archive.file("bin/busybox", &fs::read(root.join("bin/busybox"))?);
    for (name, text) in [
        ("init", INIT),
        ("etc/udhcpc", DHCP),
        ("etc/acpi/PWRF/00000080", POWER),
        ("www/cgi-bin/append", APPEND),
        ("www/cgi-bin/deaf", DEAF),
    ] {
        archive.file(name, text.as_bytes());
    }
    archive.entry("www/data", 0o120_777, b"/data", 0);
    // Without it nothing before `init` mounts /dev is seen.
    archive.entry("dev/console", 0o020_600, b"", 5 << 8 | 1);
    archive.file("modules/order", MODULES.join("\n").as_bytes());
    let modules = only(&root.join("lib/modules"), "")?;
    for name in MODULES {
        let file = format!("{name}.ko");
        let found = find(&modules, &file)?.with_context(|| format!("{} has no {file}", modules.display()))?;
        archive.file(&format!("modules/{file}"), &fs::read(found)?);
    }
    Ok(archive.finish())
}

/// A cpio archive that grows.
#[derive(Default)]
pub(crate) struct Archive {
    bytes: Vec<u8>,
    entries: u32,
}

impl Archive {
    pub(crate) fn directory(&mut self, name: &str) {
        self.entry(name, 0o040_755, b"", 0);
    }

    pub(crate) fn file(&mut self, name: &str, content: &[u8]) {
        self.entry(name, 0o100_755, content, 0);
    }

    pub(crate) fn entry(&mut self, name: &str, mode: u32, content: &[u8], device: u32) {
        self.entries += 1;
        let (size, named) = (content.len(), name.len() + 1);
        let (major, minor) = (device >> 8, device & 0xff);
        let fields = format!(
            "070701{:08x}{mode:08x}{:08x}{:08x}{:08x}{:08x}{size:08x}{:08x}{:08x}{major:08x}{minor:08x}{named:08x}{:08x}",
            self.entries, 0, 0, 1, 0, 0, 0, 0
        );
        self.bytes.extend(fields.bytes().chain(name.bytes()).chain([0]));
        self.align();
        self.bytes.extend(content);
        self.align();
    }

    fn align(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }

    pub(crate) fn finish(mut self) -> Vec<u8> {
        self.entry("TRAILER!!!", 0, b"", 0);
        self.bytes
    }
}

/// The only entry of a directory whose name begins so.
pub(crate) fn only(directory: &Path, start: &str) -> Result<PathBuf> {
    let entries = fs::read_dir(directory).with_context(|| format!("read {}", directory.display()))?;
    let mut found = entries.flatten().filter(|entry| entry.file_name().to_string_lossy().starts_with(start));
    match (found.next(), found.next()) {
        (Some(entry), None) => Ok(entry.path()),
        _ => bail!("{} has none or several of {start}*: run `make deps` anew", directory.display()),
    }
}

/// A file of that name anywhere below a directory.
pub(crate) fn find(directory: &Path, name: &str) -> Result<Option<PathBuf>> {
    for entry in fs::read_dir(directory)?.flatten() {
        if entry.file_name() == name {
            return Ok(Some(entry.path()));
        }
        if entry.file_type()?.is_dir()
            && let Some(found) = find(&entry.path(), name)?
        {
            return Ok(Some(found));
        }
    }
    Ok(None)
}

fn run(command: &mut Command) -> Result<()> {
    let program = Path::new(command.get_program()).display().to_string();
    let ended = command.stdin(Stdio::null()).output().with_context(|| format!("run {program}: run `make deps`"))?;
    ensure!(
        ended.status.success(),
        "{program} ended with {}: {}",
        ended.status,
        String::from_utf8_lossy(&ended.stderr)
    );
    Ok(())
}
