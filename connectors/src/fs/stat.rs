//! From `stat` to the engine's metadata.

use plakar_engine::meta::{Kind, Metadata, Timestamp};
use rustix::fs::{FileType, Stat, major, minor};

/// The kind of what was examined; `None` for what Unix has no name for.
pub(super) fn kind(stat: &Stat) -> Option<Kind> {
    Some(match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile => Kind::Regular,
        FileType::Directory => Kind::Directory,
        FileType::Symlink => Kind::Symlink,
        FileType::Fifo => Kind::Fifo,
        FileType::Socket => Kind::Socket,
        FileType::CharacterDevice => Kind::CharDevice,
        FileType::BlockDevice => Kind::BlockDevice,
        _ => return None,
    })
}

/// Permission bits with set-uid, set-gid and sticky.
pub(super) fn permissions(stat: &Stat) -> u32 {
    stat.st_mode & 0o7777
}

/// Time of the last modification.
pub(super) fn mtime(stat: &Stat) -> Timestamp {
    Timestamp { sec: stat.st_mtime, nsec: stat.st_mtime_nsec as u32 }
}

/// Everything a backup keeps of it.
pub(super) fn metadata(stat: &Stat) -> Option<Metadata> {
    let kind = kind(stat)?;
    let is_device = matches!(kind, Kind::CharDevice | Kind::BlockDevice);
    Some(Metadata {
        kind,
        mode: permissions(stat),
        uid: stat.st_uid,
        gid: stat.st_gid,
        mtime: mtime(stat),
        size: if kind == Kind::Regular { stat.st_size as u64 } else { 0 },
        rdev: if is_device { (major(stat.st_rdev), minor(stat.st_rdev)) } else { (0, 0) },
    })
}

/// Time of the last change, in nanoseconds since 1970.
pub(super) fn ctime_ns(stat: &Stat) -> i64 {
    nanoseconds(stat.st_ctime, stat.st_ctime_nsec as i64)
}

/// Nanoseconds since 1970, at the ends of the range for times that some file systems make up.
pub(super) fn nanoseconds(sec: i64, nsec: i64) -> i64 {
    sec.saturating_mul(1_000_000_000).saturating_add(nsec)
}
