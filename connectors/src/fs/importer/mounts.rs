//! What is mounted, as far as a walk through the source has to know.

use std::collections::HashMap;
use std::os::fd::BorrowedFd;
use std::sync::{Mutex, PoisonError};

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
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        *known.entry(device).or_insert_with(|| {
            // Without the table nothing is left out.
            let table = std::fs::read("/proc/self/mountinfo").unwrap_or_default();
            is_own(&table, major(device), minor(device))
        })
    }
}

/// Whether a device is of the type that mounts of plakar have, in such a table: proc_pid_mountinfo(5).
fn is_own(table: &[u8], major: u32, minor: u32) -> bool {
    let device = format!("{major}:{minor}").into_bytes();
    table.split(|b| *b == b'\n').any(|line| {
        let words: Vec<&[u8]> = line.split(|b| *b == b' ').collect();
        let kind = words.iter().position(|w| *w == b"-").and_then(|at| words.get(at + 1));
        words.get(2) == Some(&&device[..]) && kind == Some(&&b"fuse.plakar"[..])
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn own_mounts_are_told_by_their_type() {
        let table =
            b"36 35 0:42 / /mnt\\040a ro,nosuid shared:1 master:2 - fuse.plakar /srv/kloset ro,user_id=0\n\
            37 35 0:43 / /fuse.plakar rw - fuse.sshfs fuse.plakar rw\n";
        assert!(is_own(table, 0, 42));
        assert!(!is_own(table, 0, 43) && !is_own(table, 0, 4) && !is_own(b"", 0, 42));
    }
}
