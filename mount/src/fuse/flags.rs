//! What `lsattr` asks: inode flags and projects, by the two calls of ioctl_iflags(2) and ioctl_xfs_fsgetxattr(2). The
//! kernel brings them as ioctls of these numbers.

use plakar_engine::meta::InodeFlags;

/// `FS_IOC_GETFLAGS` and its form for 32 bits: a number.
const GET_FLAGS: [u32; 2] = [0x8008_6601, 0x8004_6601];
/// `FS_IOC_FSGETXATTR`: a `struct fsxattr`.
const GET_XATTR: u32 = 0x801c_581f;

/// Flags of `struct fsxattr` (`FS_XFLAG_*` of `linux/fs.h`) beside those of the other call.
const OF_XATTR: [(u32, u32); 7] = [
    (InodeFlags::IMMUTABLE, 0x8),
    (InodeFlags::APPEND_ONLY, 0x10),
    (0x8, 0x20),
    (0x80, 0x40),
    (0x40, 0x80),
    (0x2000_0000, 0x200),
    (0x200_0000, 0x8000),
];

/// Whether a call asks for flags.
pub(super) fn is_asked_by(command: u32) -> bool {
    command == GET_XATTR || GET_FLAGS.contains(&command)
}

/// The answer to such a call, `len` bytes long.
pub(super) fn answer(command: u32, flags: InodeFlags, len: u32) -> Vec<u8> {
    let words = match command {
        GET_XATTR => {
            let xflags = OF_XATTR.iter().filter(|(bit, _)| flags.bits & bit != 0).map(|(_, x)| x).sum();
            // Flags, extent size, extents, project.
            [xflags, 0, 0, flags.project]
        }
        _ => [flags.bits, 0, 0, 0],
    };
    let mut bytes: Vec<u8> = words.iter().flat_map(|word: &u32| word.to_ne_bytes()).collect();
    bytes.resize(len as usize, 0);
    bytes
}
