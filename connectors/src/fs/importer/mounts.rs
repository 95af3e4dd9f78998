//! What is mounted, as far as a walk through the source has to know.

use std::collections::HashMap;
use std::os::fd::BorrowedFd;

use parking_lot::Mutex;
use rustix::fs::{AtFlags, StatxFlags, major, minor, statx};
use rustix::io::Errno;
use rustix::path::Arg;

/// A file system at a place where it is mounted: the same one somewhere else is another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Mount {
    device: (u32, u32),
    /// 0 on kernels before 5.8, which do not tell.
    id: u64,
}

impl Mount {
    /// The one that something stands on; a symlink itself.
    pub(super) fn of(directory: BorrowedFd<'_>, name: impl Arg) -> Result<Self, Errno> {
        let flags = AtFlags::SYMLINK_NOFOLLOW | AtFlags::EMPTY_PATH | AtFlags::NO_AUTOMOUNT;
        let stat = statx(directory, name, flags, StatxFlags::TYPE | StatxFlags::MNT_ID)?;
        let id = if stat.stx_mask & StatxFlags::MNT_ID.bits() != 0 { stat.stx_mnt_id } else { 0 };
        Ok(Self { device: (stat.stx_dev_major, stat.stx_dev_minor), id })
    }
}

/// The devices that mounts of plakar have.
#[derive(Debug, Default)]
pub(super) struct OwnMounts(Mutex<HashMap<u64, bool>>);

impl OwnMounts {
    /// Whether a device is a mount of plakar, of whatever store.
    pub(super) fn has(&self, device: u64) -> bool {
        let mut known = self.0.lock();
        *known.entry(device).or_insert_with(|| {
            // Without the table nothing is left out.
            MountRow::with(device, |row| row.is_some_and(|r| r.kind == b"fuse.plakar"))
        })
    }
}

/// What the table of mounts says of a file system: proc_pid_mountinfo(5), with its escapes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct MountRow<'a> {
    pub(super) kind: &'a [u8],
    pub(super) source: &'a [u8],
    /// Those of the file system, separated by commas.
    pub(super) options: &'a [u8],
}

impl<'a> MountRow<'a> {
    /// Looks at the row of a device, as it is now.
    pub(super) fn with<T>(device: u64, look: impl FnOnce(Option<MountRow<'_>>) -> T) -> T {
        let table = std::fs::read("/proc/self/mountinfo").unwrap_or_default();
        look(MountRow::of_device(&table, major(device), minor(device)))
    }

    /// The row of a device.
    fn of_device(table: &'a [u8], major: u32, minor: u32) -> Option<Self> {
        let device = format!("{major}:{minor}").into_bytes();
        table.split(|b| *b == b'\n').find_map(|line| {
            let words: Vec<&[u8]> = line.split(|b| *b == b' ').collect();
            let rest = words.get(words.iter().position(|w| *w == b"-")? + 1..)?;
            let (kind, source, options) = (rest.first()?, rest.get(1)?, rest.get(2)?);
            (words.get(2) == Some(&&device[..])).then_some(Self { kind, source, options })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn own_mounts_are_told_by_their_type() {
        let table = b"35 35 0:41 / /no\xfftext ro - ext4 /dev/\xfe rw\n\
            36 35 0:42 / /mnt\\040a ro,nosuid shared:1 master:2 - fuse.plakar /srv/kloset ro,user_id=0\n\
            37 35 0:43 / /fuse.plakar rw - fuse.sshfs fuse.plakar rw\n";
        let kind = |minor| MountRow::of_device(table, 0, minor).map(|r| r.kind);
        assert_eq!(
            (kind(42), kind(43), kind(4)),
            (Some(&b"fuse.plakar"[..]), Some(&b"fuse.sshfs"[..]), None)
        );
        assert_eq!(MountRow::of_device(table, 0, 42).unwrap().source, b"/srv/kloset");
    }
}
