//! Which file system a file stands on, by what stays the same wherever and whenever that is mounted: device numbers are
//! given anew with each mount of a snapshot, a stick, a network share. Decision 0012 says why so.

use std::collections::HashMap;
use std::os::fd::BorrowedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use parking_lot::Mutex;
use plakar_engine::importer::Stamp;
use rustix::fs::{major, minor};
use rustix::ioctl::{Getter, ioctl, opcode};

use super::mounts::MountRow;

/// Kinds whose files have no number that outlives a mount: FAT makes them up.
const WITHOUT_INODES: [&[u8]; 3] = [b"vfat", b"msdos", b"exfat"];
/// Kinds that are made whole and never written: a file's ctime is what was given to it then.
const IMAGES: [&[u8]; 5] = [b"squashfs", b"erofs", b"iso9660", b"cramfs", b"romfs"];

/// What is known of a file system.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Volume {
    id: u64,
    has_inodes: bool,
}

impl Volume {
    /// Puts into a stamp what it has to say.
    pub(super) fn complete(self, stamp: &mut Stamp) {
        stamp.volume = self.id;
        if !self.has_inodes {
            stamp.inode = 0;
        }
    }
}

/// The file systems that a walk has met, by device number, with and without an open directory of theirs.
#[derive(Debug, Default)]
pub(super) struct Volumes(Mutex<HashMap<(u64, bool), Volume>>);

impl Volumes {
    /// The one with a device number. With a directory of it that is open, it is asked itself.
    pub(super) fn of(&self, device: u64, directory: Option<BorrowedFd<'_>>) -> Volume {
        let mut known = self.0.lock();
        *known.entry((device, directory.is_some())).or_insert_with(|| {
            let uuid = directory.and_then(uuid).or_else(|| uuid_by_link(device));
            MountRow::with(device, |row| identify(device, row.as_ref(), uuid.as_deref()))
        })
    }
}

fn identify(device: u64, row: Option<&MountRow<'_>>, uuid: Option<&[u8]>) -> Volume {
    let kind = row.map_or(&b""[..], |r| r.kind);
    let id = match (uuid, row) {
        (Some(uuid), _) => hash(&[b"uuid", uuid]),
        (None, Some(row)) if IMAGES.contains(&kind) => match image(device) {
            Some(image) => hash(&[b"image", kind, &image]),
            None => hash(&[b"device", kind, row.source, &device.to_le_bytes()]),
        },
        // The share of a server, the dataset of a pool (a snapshot of it is that dataset), a disk by its name.
        (None, Some(row)) => {
            let source = match kind {
                b"zfs" => row.source.split(|b| *b == b'@').next().unwrap_or_default(),
                _ => row.source,
            };
            hash(&[b"source", kind, source])
        }
        (None, None) => hash(&[b"device", &device.to_le_bytes()]),
    };
    // libfuse numbers files as they are looked up, unless a file system does it itself (fuse(8), `use_ino`); of SMB
    // mount.cifs(8) says when the client does.
    let numbers_anew = kind == b"fuse"
        || kind.starts_with(b"fuse.")
        || WITHOUT_INODES.contains(&kind)
        || row.is_some_and(|r| r.options.split(|b| *b == b',').any(|o| o == b"noserverino"));
    Volume { id, has_inodes: !numbers_anew }
}

/// Never 0, which is no file system.
fn hash(parts: &[&[u8]]) -> u64 {
    let mut hasher = blake3::Hasher::new();
    for part in parts {
        hasher.update(&(part.len() as u64).to_le_bytes()).update(part);
    }
    hasher.finalize().as_bytes().first_chunk().map_or(1, |b| u64::from_le_bytes(*b).max(1))
}

/// `FS_IOC_GETFSUUID` of `linux/fs.h`, since Linux 6.9: a length and up to 16 bytes.
const GET_UUID: rustix::ioctl::Opcode = opcode::read::<[u8; 17]>(0x15, 0);

/// What a file system calls itself.
fn uuid(directory: BorrowedFd<'_>) -> Option<Vec<u8>> {
    // SAFETY: for this opcode the kernel writes a `struct fsuuid2`, which is 17 bytes without padding; any bytes are a
    // valid value of the array.
    #[expect(unsafe_code, reason = "see above")]
    let answer = unsafe { ioctl(directory, Getter::<GET_UUID, [u8; 17]>::new()) }.ok()?;
    let uuid = answer.get(1..=usize::from(answer[0]))?;
    (!uuid.is_empty()).then(|| uuid.to_vec())
}

/// What udev read from the disk that a file system is on.
fn uuid_by_link(device: u64) -> Option<Vec<u8>> {
    std::fs::read_dir("/dev/disk/by-uuid").ok()?.flatten().find_map(|link| {
        let disk = std::fs::metadata(link.path()).ok()?;
        (disk.rdev() == device).then(|| link.file_name().as_bytes().to_vec())
    })
}

/// The file behind a loop device, and its state.
fn image(device: u64) -> Option<Vec<u8>> {
    let block = format!("/sys/dev/block/{}:{}/loop/backing_file", major(device), minor(device));
    let file = std::fs::read(block).ok()?;
    let path = Path::new(std::ffi::OsStr::from_bytes(file.strip_suffix(b"\n").unwrap_or(&file)));
    let state = std::fs::metadata(path).ok()?;
    let state = format!("{} {} {} {}", state.ino(), state.len(), state.ctime(), state.ctime_nsec());
    Some([path.as_os_str().as_bytes(), b"\0", state.as_bytes()].concat())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row<'a>(kind: &'a str, source: &'a str, options: &'a str) -> MountRow<'a> {
        MountRow { kind: kind.as_bytes(), source: source.as_bytes(), options: options.as_bytes() }
    }

    fn id(device: u64, row: MountRow<'_>, uuid: Option<&[u8]>) -> u64 {
        identify(device, Some(&row), uuid).id
    }

    #[test]
    fn what_stays_the_same_counts_before_the_number() {
        let ext4 = |device, disk, uuid: &[u8]| id(device, row("ext4", disk, "rw"), Some(uuid));
        assert_eq!(ext4(1, "/dev/loop0", b"U"), ext4(2, "/dev/loop1", b"U"));
        assert_ne!(ext4(1, "/dev/loop0", b"U"), ext4(1, "/dev/loop0", b"V"));
        let nfs = |device, share| id(device, row("nfs4", share, "rw"), None);
        assert_eq!(nfs(40, "nas:/home"), nfs(51, "nas:/home"));
        assert_ne!(nfs(40, "nas:/home"), nfs(40, "nas:/music"));
        let zfs = |source| id(40, row("zfs", source, "rw"), None);
        assert_eq!(zfs("tank/home@monday"), zfs("tank/home@tuesday"));
        assert_ne!(zfs("tank/home@monday"), zfs("tank/mail@monday"));
        assert_ne!(identify(1, None, None).id, identify(2, None, None).id);
    }

    #[test]
    fn numbers_that_do_not_last_are_left_out() {
        let has = |kind, options| identify(1, Some(&row(kind, "x", options)), None).has_inodes;
        assert!(has("ext4", "rw") && has("fuseblk", "rw") && has("cifs", "rw,serverino"));
        assert!(!has("fuse.sshfs", "rw") && !has("vfat", "rw") && !has("cifs", "rw,noserverino"));
    }
}
