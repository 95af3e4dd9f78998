//! From `stat` to the engine's metadata.

use plakar_engine::meta::{Kind, Metadata, Timestamp};
use rustix::fs::{FileType, RawMode, Stat, Statx, StatxFlags, StatxTimestamp};

/// The kind of what was examined; `None` for what Unix has no name for.
pub(super) fn kind(stat: &Stat) -> Option<Kind> {
    kind_of(stat.st_mode)
}

fn kind_of(mode: RawMode) -> Option<Kind> {
    Some(match FileType::from_raw_mode(mode) {
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

/// What to ask for so that [`metadata`] has all there is.
pub(super) const WANTED: StatxFlags = StatxFlags::BASIC_STATS.union(StatxFlags::BTIME);

/// Everything a backup keeps of it.
pub(super) fn metadata(stat: &Statx) -> Option<Metadata> {
    let kind = kind_of(stat.stx_mode.into())?;
    let is_device = matches!(kind, Kind::CharDevice | Kind::BlockDevice);
    let time = |t: StatxTimestamp| Timestamp { sec: t.tv_sec, nsec: t.tv_nsec };
    let is_born = stat.stx_mask & StatxFlags::BTIME.bits() != 0;
    Some(Metadata {
        kind,
        mode: u32::from(stat.stx_mode) & 0o7777,
        uid: stat.stx_uid,
        gid: stat.stx_gid,
        mtime: time(stat.stx_mtime),
        size: if kind == Kind::Regular { stat.stx_size } else { 0 },
        rdev: if is_device { (stat.stx_rdev_major, stat.stx_rdev_minor) } else { (0, 0) },
        born: is_born.then(|| time(stat.stx_btime)),
    })
}

/// Time of the last change, in nanoseconds since 1970.
pub(super) fn ctime_ns(stat: &Statx) -> i64 {
    nanoseconds(stat.stx_ctime.tv_sec, stat.stx_ctime.tv_nsec.into())
}

/// Nanoseconds since 1970, at the ends of the range for times that some file systems make up.
pub(super) fn nanoseconds(sec: i64, nsec: i64) -> i64 {
    sec.saturating_mul(1_000_000_000).saturating_add(nsec)
}
