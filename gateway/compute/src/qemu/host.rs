//! What this host offers to machines: QEMU, hardware virtualization that works, UEFI, memory, rights.

use std::fs;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use lifeboat_program::{Call, Unrun};

use crate::Order;

/// How a machine's processors are made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Acceleration {
    /// The host's own, by the kernel.
    Kvm,
    /// Emulated, ten to thirty times slower.
    Emulated,
}

/// UEFI for machines: the code, and the variables that every run gets a copy of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UefiFiles {
    /// Read only.
    pub code: PathBuf,
    /// Copied for each run.
    pub variables: PathBuf,
}

/// Where distributions put UEFI for machines: Debian, Fedora, Arch, openSUSE.
const UEFI: &[(&str, &str)] = &[
    ("/usr/share/OVMF/OVMF_CODE_4M.fd", "/usr/share/OVMF/OVMF_VARS_4M.fd"),
    ("/usr/share/OVMF/OVMF_CODE.fd", "/usr/share/OVMF/OVMF_VARS.fd"),
    ("/usr/share/edk2/ovmf/OVMF_CODE.fd", "/usr/share/edk2/ovmf/OVMF_VARS.fd"),
    ("/usr/share/edk2/x64/OVMF_CODE.4m.fd", "/usr/share/edk2/x64/OVMF_VARS.4m.fd"),
    ("/usr/share/qemu/ovmf-x86_64-code.bin", "/usr/share/qemu/ovmf-x86_64-vars.bin"),
];

/// Longest that the trial may take. Where KVM works it takes some 200 ms, and emulation takes 400. Where a hypervisor below only
/// pretends, it takes 38 s when it ends at all; operating systems don't start there.
const TRIAL_LIMIT: Duration = Duration::from_secs(2);
/// What QEMU ends with when the trial's boot sector writes 16 to its debug port.
const TRIAL_CODE: i32 = 33;
/// How far the trial counts: some 20 ms of a processor, and far beyond [`TRIAL_LIMIT`] for a KVM that plays each instruction.
const TRIAL_COUNT: u32 = 50_000_000;
/// Beside a machine's own memory: QEMU itself, and the translated code of an emulated machine.
const BESIDE_MIB: u64 = 128;

/// The program by the name given, or the first of its name on the path.
pub(super) fn program(name: &Path) -> Result<PathBuf, String> {
    let on_path = || {
        let path = std::env::var_os("PATH")?;
        std::env::split_paths(&path).map(|dir| dir.join(name)).find(|path| path.is_file())
    };
    let found = if name.is_absolute() { Some(name.to_owned()).filter(|path| path.is_file()) } else { on_path() };
    found.ok_or_else(|| {
        format!("{} is not installed here: install QEMU (Debian: apt-get install qemu-system-x86)", name.display())
    })
}

/// UEFI for machines, from where it was said to be or where distributions put it.
pub(super) fn uefi(given: Option<&UefiFiles>) -> Result<UefiFiles, String> {
    let usual = UEFI.iter().map(|(code, variables)| UefiFiles { code: code.into(), variables: variables.into() });
    let there = |files: &UefiFiles| files.code.is_file() && files.variables.is_file();
    match given {
        Some(given) if there(given) => Ok(given.clone()),
        Some(given) => Err(format!("UEFI for machines is not at {}: correct the path", given.code.display())),
        None => usual.into_iter().find(there).ok_or_else(|| {
            "UEFI for machines is not installed here: install OVMF (Debian: apt-get install ovmf)".to_owned()
        }),
    }
}

/// Tries whether KVM has a real processor run a machine: one whose boot sector counts, and then ends it.
///
/// A device node and even a virtual processor prove nothing on a host that is itself a machine: some have a KVM that plays most
/// instructions by itself, and starts an operating system that never arrives. Counting takes a processor milliseconds, and such a
/// KVM minutes, however fast or busy the host is.
pub(super) async fn acceleration(qemu: &Path, scratch: &Path) -> (Acceleration, String) {
    let emulated = |why: String| (Acceleration::Emulated, why);
    if !Path::new("/dev/kvm").exists() {
        return emulated("there is no /dev/kvm".to_owned());
    }
    let disk = scratch.join(format!(".kvm-trial-{}", std::process::id()));
    let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(scratch);
    let written = made.and_then(|()| fs::write(&disk, boot_sector()));
    if let Err(error) = written {
        return emulated(format!("{} can't be written: {error}", disk.display()));
    }
    let began = Instant::now();
    let tried = trial(qemu, &disk, "kvm", "host").run().await;
    let _ = fs::remove_file(&disk);
    match tried {
        Ok(ended) if ended.status.code() == Some(TRIAL_CODE) => {
            (Acceleration::Kvm, format!("tried in {:?}", began.elapsed()))
        }
        Ok(ended) => emulated(format!("a trial with KVM ended with {}: {}", ended.status, ended.said)),
        Err(Unrun::TooSlow { .. }) => emulated(format!("KVM takes longer than {TRIAL_LIMIT:?} for what takes moments")),
        Err(Unrun::Unusable(error)) => emulated(error),
    }
}

fn trial(qemu: &Path, disk: &Path, accelerator: &str, processor: &str) -> Call {
    let drive = format!("if=ide,format=raw,file={}", disk.display().to_string().replace(',', ",,"));
    let arguments = [
        "-accel",
        accelerator,
        "-machine",
        "pc",
        "-cpu",
        processor,
        "-m",
        "64",
        "-nodefaults",
        "-no-user-config",
        "-display",
        "none",
        "-device",
        "isa-debug-exit,iobase=0xf4,iosize=4",
        "-drive",
        &drive,
    ];
    Call {
        program: qemu.to_owned(),
        arguments: arguments.map(Into::into).to_vec(),
        input: Vec::new(),
        environment: Vec::new(),
        limit: TRIAL_LIMIT,
        output_bytes: 1 << 10,
    }
}

/// Goes to protected mode, where operating systems live, counts to zero there, and ends QEMU by the debug port, with twice the number
/// that it says there and one.
fn boot_sector() -> Vec<u8> {
    #[rustfmt::skip]
    let mut disk = vec![
        // At 0x7c00, 16 bits:
        0xfa,                                     // cli
        0x31, 0xc0, 0x8e, 0xd8,                   // xor ax, ax; mov ds, ax
        0x0f, 0x01, 0x16, 0x38, 0x7c,             // lgdt [0x7c38]
        0x0f, 0x20, 0xc0, 0x0c, 0x01,             // mov eax, cr0; or al, 1
        0x0f, 0x22, 0xc0,                         // mov cr0, eax
        0xea, 0x17, 0x7c, 0x08, 0x00,             // jmp 8:0x7c17
        // At 0x7c17, 32 bits:
        0xb9,                                     // mov ecx, TRIAL_COUNT
    ];
    disk.extend(TRIAL_COUNT.to_le_bytes());
    #[rustfmt::skip]
    disk.extend([
        0x49, 0x75, 0xfd,                         // dec ecx; jnz to the dec
        0xb0, 0x10, 0xe6, 0xf4,                   // mov al, 16; out 0xf4, al
        0xf4, 0xeb, 0xfd,                         // hlt, for ever
    ]);
    // At 0x7c28 the segments, none and one of code over all of the memory; at 0x7c38 how many bytes they are and where.
    disk.resize(0x28, 0);
    disk.extend([0; 8]);
    disk.extend([0xff, 0xff, 0, 0, 0, 0x9a, 0xcf, 0]);
    disk.extend([0x0f, 0, 0x28, 0x7c, 0, 0]);
    disk.resize(510, 0);
    disk.extend([0x55, 0xaa]);
    disk.resize(64 << 10, 0);
    disk
}

/// What speaks against the machine's size here.
pub(super) fn room(order: &Order, acceleration: Acceleration) -> Vec<String> {
    let mut against = Vec::new();
    let name = &order.name;
    let available_mib = fs::read_to_string("/proc/meminfo").ok().and_then(|text| available_mib(&text));
    if let Some(available_mib) = available_mib.filter(|mib| *mib < order.memory_mib.saturating_add(BESIDE_MIB)) {
        let wanted = order.memory_mib;
        against.push(format!(
            "machine {name}: it wants {wanted} MiB, and this host has {available_mib} MiB to give, of which {BESIDE_MIB} go \
             to QEMU: free memory or give the machine less"
        ));
    }
    let processors =
        std::thread::available_parallelism().map_or(u32::MAX, |n| u32::try_from(n.get()).unwrap_or(u32::MAX));
    if acceleration == Acceleration::Kvm && order.cpus > processors {
        against.push(format!(
            "machine {name}: it wants {} processors, and this host has {processors}: give it fewer",
            order.cpus
        ));
    }
    against
}

fn available_mib(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    line.trim().strip_suffix(" kB")?.parse::<u64>().ok().map(|kib| kib >> 10)
}

/// Whether this process may make taps, and why not.
pub(super) fn may_make_taps() -> Result<(), String> {
    const CAP_NET_ADMIN: u32 = 12;
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    let effective = effective.and_then(|bits| u64::from_str_radix(bits.trim(), 16).ok()).unwrap_or(0);
    if effective >> CAP_NET_ADMIN & 1 == 0 {
        return Err("a bridge needs the right CAP_NET_ADMIN: run the gateway as root or give it that".to_owned());
    }
    if !Path::new("/dev/net/tun").exists() {
        return Err("a bridge needs /dev/net/tun: load the kernel's module (modprobe tun)".to_owned());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::order::tests::order;

    #[test]
    fn what_is_not_installed_says_how_to_install_it() {
        let missing = program(Path::new("qemu-system-nowhere")).expect_err("missing");
        assert!(missing.contains("qemu-system-nowhere") && missing.contains("apt-get install"), "{missing}");
        assert!(program(Path::new("sh")).expect("on the path").is_absolute());
        let files = UefiFiles { code: "/nowhere/code.fd".into(), variables: "/nowhere/vars.fd".into() };
        assert!(uefi(Some(&files)).expect_err("missing").contains("/nowhere/code.fd"));
    }

    #[tokio::test]
    async fn the_trial_ends_at_once_where_processors_work() {
        let dir = tempfile::tempdir().expect("tempdir");
        let disk = dir.path().join("a, trial");
        fs::write(&disk, boot_sector()).expect("written");
        let qemu = program(Path::new("qemu-system-x86_64")).expect("installed");
        let mut call = trial(&qemu, &disk, "tcg", "max");
        call.limit = Duration::from_secs(60);
        assert_eq!(call.run().await.expect("ended").status.code(), Some(TRIAL_CODE));
        // A disk without a boot sector starts nothing: what ends the trial is the machine.
        fs::write(&disk, vec![0; 64 << 10]).expect("written");
        let mut call = trial(&qemu, &disk, "tcg", "max");
        call.limit = Duration::from_secs(1);
        assert!(matches!(call.run().await, Err(Unrun::TooSlow { .. })));
    }

    #[test]
    fn a_machine_that_is_too_large_is_spoken_against() {
        let mut order = order("mach_1");
        assert_eq!(available_mib("MemTotal: 9 kB\nMemAvailable:   2048 kB\n"), Some(2));
        order.memory_mib = 1 << 40;
        order.cpus = 1 << 20;
        assert_eq!(room(&order, Acceleration::Kvm).len(), 2);
        assert_eq!(room(&order, Acceleration::Emulated).len(), 1, "an emulated machine has one processor anyway");
    }
}
