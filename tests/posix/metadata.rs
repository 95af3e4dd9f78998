//! What stat and its relatives say.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;

use rustix::fs::{AtFlags, StatVfsMountFlags, StatxFlags};
use rustix::io::Errno;

use super::{Check, LARGE, Place, SPARSE, gives};

pub(super) const CHECKS: &[Check] = &[
    ("stat gives what was recorded", stat),
    ("stat through a symlink and of it", stat_of_symlinks),
    ("fstat and stat agree", fstat),
    ("sizes, blocks and the size of reads", sizes),
    ("statx gives the basic fields, the mount's id and its root", statx),
    ("names of one file are one file", hard_links),
    ("every inode has a number of its own", inode_numbers),
    ("statvfs says read-only, nosuid, nodev", statvfs),
    ("extended attributes: value, size, list, refusals", extended_attributes),
];

fn stat(p: &Place) {
    let s = p.root.at("file").stat();
    assert_eq!((s.st_mode, s.st_nlink, s.st_uid, s.st_gid, s.st_size), (0o104_640, 1, 1000, 1001, 8));
    assert_eq!((s.st_mtime, s.st_mtime_nsec), (1_234_567_890, 123_456_789));
    assert_eq!(s.st_dev, p.root.at(".").stat().st_dev);
    let null = p.root.at("null").stat();
    let device = (rustix::fs::major(null.st_rdev), rustix::fs::minor(null.st_rdev));
    assert_eq!((null.st_mode, device, null.st_size), (0o020_666, (1, 3), 0));
    let kinds = ["block", "fifo", "socket", "dir"].map(|n| p.root.at(n).stat().st_mode & 0o170_000);
    assert_eq!(kinds, [0o060_000, 0o010_000, 0o140_000, 0o040_000]);
    assert!(p.root.at("dir").stat().st_nlink >= 1);
}

fn stat_of_symlinks(p: &Place) {
    let own = p.root.at("symlink").stat();
    assert_eq!((own.st_mode, own.st_size), (0o120_777, 4));
    let behind = rustix::fs::statat(&p.root, "symlink", AtFlags::empty()).unwrap();
    assert_eq!(behind.st_ino, p.root.at("file").stat().st_ino);
    assert_eq!(p.root.at("absolute").target(), b"/etc/passwd");
    gives("dangling", rustix::fs::statat(&p.root, "dangling", AtFlags::empty()), Errno::NOENT);
    gives("readlink of a file", rustix::fs::readlinkat(&p.root, "file", Vec::new()), Errno::INVAL);
    gives("readlink of a directory", rustix::fs::readlinkat(&p.root, "dir", Vec::new()), Errno::INVAL);
}

fn fstat(p: &Place) {
    for name in ["file", "large", "dir"] {
        let (open, named) = (p.file(name).metadata().unwrap(), p.root.at(name).stat());
        let of_named = (named.st_ino, named.st_mode, named.st_size as u64, named.st_mtime);
        assert_eq!((open.ino(), open.mode(), open.size(), open.mtime()), of_named, "{name}");
    }
    let empty = rustix::fs::statat(p.file("file"), "", AtFlags::EMPTY_PATH).unwrap();
    assert_eq!(empty.st_ino, p.root.at("file").stat().st_ino);
}

fn sizes(p: &Place) {
    let (large, sparse, empty) =
        (p.root.at("large").stat(), p.root.at("sparse").stat(), p.root.at("empty").stat());
    assert_eq!((large.st_size, sparse.st_size, empty.st_size), (LARGE as i64, SPARSE as i64, 0));
    // Whole pages on a local one.
    let blocks = LARGE.div_ceil(512) as i64;
    assert!((blocks..blocks + 8).contains(&large.st_blocks), "{}", large.st_blocks);
    assert_eq!((sparse.st_blocks, empty.st_blocks), ((2 << 20) / 512, 0));
    assert!(large.st_blksize >= 4096 && (large.st_blksize as u64).is_power_of_two());
}

fn statx(p: &Place) {
    let wanted = StatxFlags::BASIC_STATS | StatxFlags::BTIME | StatxFlags::MNT_ID;
    let of = |path: &str| rustix::fs::statx(&p.root, path, AtFlags::SYMLINK_NOFOLLOW, wanted).unwrap();
    let (x, s) = (of("file"), p.root.at("file").stat());
    let mask = StatxFlags::from_bits_retain(x.stx_mask);
    assert!(mask.contains(StatxFlags::BASIC_STATS | StatxFlags::MNT_ID), "{mask:?}");
    assert_eq!((x.stx_ino, x.stx_size, u32::from(x.stx_mode)), (s.st_ino, s.st_size as u64, s.st_mode));
    assert_eq!((x.stx_mtime.tv_sec, x.stx_mtime.tv_nsec), (1_234_567_890, 123_456_789));
    // When a file was made is not recorded.
    assert!(p.is_local() || !mask.contains(StatxFlags::BTIME));
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let line = table.lines().rfind(|l| l.split(' ').nth(4) == Some(&*escaped(p))).unwrap();
    assert_eq!(line.split(' ').next().unwrap().parse::<u64>().unwrap(), x.stx_mnt_id);
    const MOUNT_ROOT: u64 = 0x2000;
    let is_root = |path| of(path).stx_attributes.bits() & MOUNT_ROOT != 0;
    assert_eq!((is_root("."), is_root("dir")), (true, false));
    let unknown = StatxFlags::from_bits_retain(0x8000_0000);
    gives("a reserved bit", rustix::fs::statx(&p.root, "file", AtFlags::empty(), unknown), Errno::INVAL);
}

/// Its path as the table of mounts has it.
fn escaped(p: &Place) -> String {
    p.path.to_str().unwrap().replace(' ', "\\040")
}

fn hard_links(p: &Place) {
    let (a, b) = (p.root.at("linked").stat(), p.root.at("dir/linked too").stat());
    assert_eq!((a.st_ino, a.st_nlink), (b.st_ino, 2));
    assert_eq!(fs::read(p.path("dir/linked too")).unwrap(), b"two names");
}

fn inode_numbers(p: &Place) {
    let mut seen: BTreeMap<u64, Vec<u8>> = BTreeMap::new();
    for name in p.root.names() {
        let ino = p.root.at(&name).stat().st_ino;
        assert!(ino > 0);
        let other = seen.insert(ino, name.clone());
        assert_eq!(other, None, "{} has the same number", name.escape_ascii());
    }
    // Asked again, they are the same.
    assert!(seen.iter().all(|(ino, name)| p.root.at(name).stat().st_ino == *ino));
}

fn statvfs(p: &Place) {
    for all in [rustix::fs::statvfs(p.path("dir")).unwrap(), rustix::fs::fstatvfs(p.file("file")).unwrap()] {
        let wanted = StatVfsMountFlags::RDONLY | StatVfsMountFlags::NOSUID | StatVfsMountFlags::NODEV;
        assert!(all.f_flag.contains(wanted), "{:?}", all.f_flag);
        assert_eq!(all.f_namemax, 255);
        assert!(all.f_blocks * all.f_frsize >= LARGE as u64);
        if !p.is_local() {
            assert_eq!((all.f_bfree, all.f_bavail, all.f_ffree), (0, 0, 0), "there is no room");
            assert!(all.f_files > super::CROWD as u64);
        }
    }
}

fn extended_attributes(p: &Place) {
    let path = p.path("file");
    let mut room = [0; 64];
    let n = rustix::fs::getxattr(&path, "user.colour", &mut room).unwrap();
    assert_eq!(&room[..n], b"blue");
    assert_eq!(rustix::fs::getxattr_query(&path, "user.colour"), Ok(4), "the size alone");
    let n = rustix::fs::fgetxattr(p.file("file"), "user.colour", &mut room).unwrap();
    assert_eq!(&room[..n], b"blue");
    let n = rustix::fs::listxattr(&path, &mut room).unwrap();
    assert_eq!(&room[..n], b"user.colour\0");
    assert_eq!(rustix::fs::listxattr_query(&path), Ok(12));
    gives("too small", rustix::fs::getxattr(&path, "user.colour", &mut [0; 2]), Errno::RANGE);
    gives("list too small", rustix::fs::listxattr(&path, &mut [0; 2]), Errno::RANGE);
    gives("none", rustix::fs::getxattr(&path, "user.none", &mut room), Errno::NODATA);
    gives("of nothing", rustix::fs::getxattr(p.path("absent"), "user.colour", &mut room), Errno::NOENT);
    assert_eq!(rustix::fs::listxattr(p.path("public"), &mut room), Ok(0));
    // A symlink has no attributes of that kind; what it leads to has.
    let n = rustix::fs::getxattr(p.path("symlink"), "user.colour", &mut room).unwrap();
    assert_eq!(&room[..n], b"blue");
    assert_eq!(rustix::fs::llistxattr(p.path("symlink"), &mut room), Ok(0));
}
