//! How a mount is set up: who may use it, and how long it waits for a vault.

use std::time::Duration;

/// Settings of a mount. [`Default`] gives what a gateway running as root needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MountOptions {
    /// Lets users other than the one who runs the gateway (and root, if that isn't root) into the mount; permissions are then
    /// checked by the kernel with [`Self::uid`], [`Self::gid`] and [`Self::file_mode`]. Needed, say, for QEMU under its own
    /// user. Without root it takes `user_allow_other` in /etc/fuse.conf.
    pub allow_other: bool,
    /// Owner of every file; `None`: the gateway's effective user.
    pub uid: Option<u32>,
    /// Group of every file; `None`: the gateway's effective group.
    pub gid: Option<u32>,
    /// Permission bits of files, 0o600 by default; read-only files lose the write bits. Directories get the matching search bits.
    pub file_mode: u16,
    /// How long a request waits, trying again, while the engine answers `Retry` (vault unreachable, cache full); then EIO.
    pub retry_for: Duration,
    /// How long the kernel may keep the attributes and the name of a volume or a branch's volume: growth and removal are
    /// visible after this at the latest.
    pub volume_ttl: Duration,
    /// The same for recovery points, whose content never changes.
    pub point_ttl: Duration,
}

impl Default for MountOptions {
    fn default() -> Self {
        Self {
            allow_other: false,
            uid: None,
            gid: None,
            file_mode: 0o600,
            retry_for: Duration::from_secs(30),
            volume_ttl: Duration::from_secs(1),
            point_ttl: Duration::from_secs(60),
        }
    }
}
