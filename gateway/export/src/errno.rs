//! The one translation from the engine's error kinds to the numbers that applications see: errno in the mount, and NBD's
//! own, which are a few of them.
//!
//! | Kind | errno | Meaning for the application |
//! |---|---|---|
//! | NoSpace | ENOSPC | the gateway's disk is full |
//! | Fenced | EROFS | the volume's writer is elsewhere, or it is a recovery point |
//! | Invalid | EINVAL | a wrong request; past the volume's end it is EFBIG, found before the engine is asked |
//! | Damaged, Tampered | EIO | the bytes can't be had or can't be trusted; a person is needed |
//! | Retry | EIO | after [`crate::MountOptions::retry_for`]: EAGAIN would make applications spin, or fail as on no disk |
//! | NotFound | ENOENT by name, ESTALE by inode or handle | removed; on ESTALE the kernel looks the name up once more |
//! | Closed | ESTALE | the volume was closed; open it again |
//! | WrongKey | ENOKEY | the vault's key is missing |
//! | NewerFormat | EOPNOTSUPP | written by a newer Lifeboat |
//!
//! Over NBD, Fenced is EPERM, NewerFormat ENOTSUP, NotFound and Closed are ESHUTDOWN, Invalid past the end of the volume is
//! ENOSPC for a write; what NBD has no number for is EIO.

use std::fmt;

use lifeboat_engine::ErrorKind;

/// An error number of the NBD protocol.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct NbdError(u32);

impl NbdError {
    /// Written to a recovery point or a fenced volume.
    pub const EPERM: Self = Self(1);
    /// Bytes that can't be had or trusted.
    pub const EIO: Self = Self(5);
    /// A wrong request.
    pub const EINVAL: Self = Self(22);
    /// A write past the end, or the gateway's disk is full.
    pub const ENOSPC: Self = Self(28);
    /// Written by a newer Lifeboat.
    pub const ENOTSUP: Self = Self(95);
    /// The volume has gone; the connection ends.
    pub const ESHUTDOWN: Self = Self(108);

    /// The number.
    #[must_use]
    pub const fn code(self) -> u32 {
        self.0
    }
}

impl fmt::Debug for NbdError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "NbdError({})", self.0)
    }
}

/// NBD's number for an engine error of this kind. `Retry` has been retried before it comes here.
#[must_use]
pub const fn nbd_error_of(kind: ErrorKind) -> NbdError {
    match kind {
        ErrorKind::NoSpace => NbdError::ENOSPC,
        ErrorKind::Fenced => NbdError::EPERM,
        ErrorKind::Invalid => NbdError::EINVAL,
        ErrorKind::NotFound | ErrorKind::Closed => NbdError::ESHUTDOWN,
        ErrorKind::NewerFormat => NbdError::ENOTSUP,
        ErrorKind::WrongKey | ErrorKind::Damaged | ErrorKind::Tampered | ErrorKind::Retry | ErrorKind::Denied => {
            NbdError::EIO
        }
    }
}

/// An error number as in errno(3), positive.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Errno(i32);

impl Errno {
    /// Removed or closed while the kernel still knew it.
    pub const ESTALE: Self = Self(libc::ESTALE);
    /// No such name.
    pub const ENOENT: Self = Self(libc::ENOENT);
    /// A handle that isn't open, or not open for this.
    pub const EBADF: Self = Self(libc::EBADF);
    /// A directory where a file is needed.
    pub const EISDIR: Self = Self(libc::EISDIR);
    /// A file where a directory is needed.
    pub const ENOTDIR: Self = Self(libc::ENOTDIR);
    /// What a volume file can't do: change its size, its name, its owner.
    pub const EPERM: Self = Self(libc::EPERM);
    /// Written to a recovery point or a fenced volume.
    pub const EROFS: Self = Self(libc::EROFS);
    /// Past the end of the volume, which has a fixed size.
    pub const EFBIG: Self = Self(libc::EFBIG);
    /// A wrong argument.
    pub const EINVAL: Self = Self(libc::EINVAL);
    /// Bytes that can't be had or trusted.
    pub const EIO: Self = Self(libc::EIO);
    /// A mode of fallocate that moves bytes.
    pub const EOPNOTSUPP: Self = Self(libc::EOPNOTSUPP);
    /// Asked of a file system that doesn't do it: the kernel falls back, and does not ask again.
    pub const ENOSYS: Self = Self(libc::ENOSYS);

    /// The number.
    #[must_use]
    pub const fn code(self) -> i32 {
        self.0
    }
}

impl fmt::Debug for Errno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Errno({}: {})", self.0, std::io::Error::from_raw_os_error(self.0))
    }
}

/// How the kernel named what failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Named {
    /// By a name in a directory: what is missing is simply not there.
    ByName,
    /// By an inode or a handle that the kernel got before: what is missing has gone away meanwhile.
    ByInode,
}

/// The number for an engine error of this kind. `Retry` has been retried before it comes here.
#[must_use]
pub const fn errno_of(kind: ErrorKind, named: Named) -> Errno {
    match kind {
        ErrorKind::NoSpace => Errno(libc::ENOSPC),
        ErrorKind::Fenced => Errno::EROFS,
        ErrorKind::Invalid => Errno::EINVAL,
        ErrorKind::NotFound => match named {
            Named::ByName => Errno::ENOENT,
            Named::ByInode => Errno::ESTALE,
        },
        ErrorKind::Closed => Errno::ESTALE,
        ErrorKind::WrongKey => Errno(libc::ENOKEY),
        ErrorKind::NewerFormat => Errno::EOPNOTSUPP,
        ErrorKind::Damaged | ErrorKind::Tampered | ErrorKind::Retry | ErrorKind::Denied => Errno::EIO,
    }
}
