//! Why a request to the filesystem fails, and the one table from that to the numbers programs see.
//!
//! `NotFound` means that a name is not there and nothing else; a store that fails is never reported as that.

use rustix::io::Errno;

/// Why a request fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FsError {
    /// There is no such name.
    #[error("no such file or directory")]
    NotFound,
    /// The inode is not known (any more).
    #[error("stale inode")]
    Stale,
    /// A directory was needed.
    #[error("not a directory")]
    NotDirectory,
    /// A directory was given where a file was needed.
    #[error("is a directory")]
    IsDirectory,
    /// The request makes no sense for this kind of thing.
    #[error("invalid for this kind of file")]
    Invalid,
    /// A name is longer than any that can be stored.
    #[error("name too long")]
    NameTooLong,
    /// Snapshots are not changed.
    #[error("snapshots are read-only")]
    ReadOnly,
    /// There is no such extended attribute.
    #[error("no such attribute")]
    NoAttribute,
    /// A position past the last data of a file.
    #[error("no data there")]
    NoData,
    /// The caller's buffer is too small for an extended attribute.
    #[error("buffer too small")]
    TooSmall,
    /// The filesystem never does this: the kernel stops asking.
    #[error("not supported")]
    Unsupported,
    /// The store failed, or what it gave is damaged; the log says more.
    #[error("the store failed")]
    Failed,
    /// The store did not answer in time.
    #[error("the store did not answer in time")]
    TimedOut,
}

impl FsError {
    /// The system's number for it.
    pub fn errno(self) -> i32 {
        let errno = match self {
            Self::NotFound => Errno::NOENT,
            Self::Stale => Errno::STALE,
            Self::NotDirectory => Errno::NOTDIR,
            Self::IsDirectory => Errno::ISDIR,
            Self::Invalid => Errno::INVAL,
            Self::NameTooLong => Errno::NAMETOOLONG,
            Self::ReadOnly => Errno::ROFS,
            #[cfg(target_os = "linux")]
            Self::NoAttribute => Errno::NODATA,
            #[cfg(all(unix, not(target_os = "linux")))]
            Self::NoAttribute => Errno::NOATTR,
            Self::NoData => Errno::NXIO,
            Self::TooSmall => Errno::RANGE,
            Self::Unsupported => Errno::NOSYS,
            Self::Failed | Self::TimedOut => Errno::IO,
        };
        errno.raw_os_error()
    }
}
