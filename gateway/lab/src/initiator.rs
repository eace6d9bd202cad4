//! A small real Linux with an iSCSI initiator: another host, that uses a target as hypervisors do.
//!
//! `make deps-image` unpacks Debian's kernel, its modules and open-iscsi into the tools directory; kernel and initrd are booted without a
//! disk. What it is to do stands on the kernel's command line (`initiator/init`); it says what came of it on its serial port and switches
//! itself off.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::guest::{Archive, find, only};
use crate::servers::tools;

const INIT: &str = include_str!("initiator/init");
/// Modules in the order in which each finds what it needs.
const MODULES: &[&str] = &[
    "virtio_ring",
    "virtio",
    "virtio_pci_modern_dev",
    "virtio_pci_legacy_dev",
    "virtio_pci",
    "failover",
    "net_failover",
    "virtio_net",
    "crc32c_generic",
    "scsi_common",
    "scsi_mod",
    "t10-pi",
    "sd_mod",
    "scsi_transport_iscsi",
    "libiscsi",
    "libiscsi_tcp",
    "iscsi_tcp",
];
/// What logs in, and what it is linked with.
const PROGRAM: &str = "sbin/iscsistart";
const LIBRARIES: &[&str] =
    &["libcrypto.so.3", "libkmod.so.2", "libopeniscsiusr.so.0.2.0", "libc.so.6", "libzstd.so.1", "liblzma.so.5"];
const LOADER: &str = "ld-linux-x86-64.so.2";

/// Kernel and initrd of a host with an initiator, in `dir`.
///
/// # Errors
/// `make deps-image` has not unpacked what they are made of.
pub fn initiator(dir: &Path) -> Result<(PathBuf, PathBuf)> {
    let root = tools()?.join("initiator/root");
    let kernel = only(&root.join("boot"), "vmlinuz-").context("make deps-image installs the test initiator")?;
    let modules = only(&root.join("lib/modules"), "")?;
    let mut archive = Archive::default();
    for directory in ["bin", "dev", "proc", "sys", "tmp", "etc", "sbin", "modules", "lib64", "usr", "usr/lib"] {
        archive.directory(directory);
    }
    archive.directory("usr/lib/x86_64-linux-gnu");
    archive.entry("lib", 0o120_777, b"usr/lib", 0);
    archive.file("bin/busybox", &fs::read(root.join("bin/busybox"))?);
    archive.file(PROGRAM, &fs::read(root.join(PROGRAM))?);
    for name in LIBRARIES.iter().chain([&LOADER]) {
        let found = find(&root, name)?.with_context(|| format!("{} has no {name}", root.display()))?;
        let to = if *name == LOADER { "lib64" } else { "usr/lib/x86_64-linux-gnu" };
        archive.file(&format!("{to}/{name}"), &fs::read(fs::canonicalize(found)?)?);
    }
    archive.file("init", INIT.as_bytes());
    archive.entry("dev/console", 0o020_600, b"", 5 << 8 | 1);
    let mut order = Vec::new();
    for name in MODULES {
        // Some kernels have one or the other built in.
        if let Some(found) = find(&modules, &format!("{name}.ko"))? {
            archive.file(&format!("modules/{name}.ko"), &fs::read(found)?);
            order.push(*name);
        }
    }
    archive.file("modules/order", order.join("\n").as_bytes());
    let initrd = dir.join("initiator.initrd");
    fs::write(&initrd, archive.finish())?;
    Ok((kernel, initrd))
}
