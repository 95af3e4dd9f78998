//! Inode flags and projects of open files: ioctl_iflags(2), ioctl_xfs_fsgetxattr(2).

use std::os::fd::AsFd;

use plakar_engine::meta::InodeFlags;
use rustix::fs::{IFlags, ioctl_getflags, ioctl_setflags};
use rustix::io::{Errno, Result};
use rustix::ioctl::{Getter, Opcode, Setter, ioctl, opcode};

/// Flags that keep a file from being changed, even by who set them: they are set when everything else is.
pub(super) const LOCKS: u32 = InodeFlags::IMMUTABLE | InodeFlags::APPEND_ONLY;
/// Flags that only take effect on what is empty, or on what is written later: compressed, not compressed, journalled, no
/// copy-on-write, direct access, case-insensitive.
const FROM_THE_START: u32 = 0x4 | 0x400 | 0x4000 | 0x80_0000 | 0x200_0000 | 0x4000_0000;

/// `struct fsxattr` of `linux/fs.h`.
#[derive(Clone, Copy)]
#[repr(C)]
struct FsXattr {
    flags: u32,
    extent_size: u32,
    extents: u32,
    project: u32,
    cow_extent_size: u32,
    padding: [u8; 8],
}

/// `FS_IOC_FSGETXATTR` and `FS_IOC_FSSETXATTR`.
const GET_XATTR: Opcode = opcode::read::<FsXattr>(b'X', 31);
const SET_XATTR: Opcode = opcode::write::<FsXattr>(b'X', 32);

fn get_xattr(file: impl AsFd) -> Result<FsXattr> {
    // SAFETY: for this opcode the kernel writes a `struct fsxattr`, whose fields and size are those of `FsXattr`; any
    // bytes are a valid value of it.
    #[expect(unsafe_code, reason = "see above")]
    unsafe {
        ioctl(file, Getter::<GET_XATTR, FsXattr>::new())
    }
}

fn set_xattr(file: impl AsFd, value: FsXattr) -> Result<()> {
    // SAFETY: for this opcode the kernel reads a `struct fsxattr`, whose fields and size are those of `FsXattr`.
    #[expect(unsafe_code, reason = "see above")]
    unsafe {
        ioctl(file, Setter::<SET_XATTR, FsXattr>::new(value))
    }
}

/// Whether a file system, or what it calls such a file, has nothing of the kind.
fn has_none(e: Errno) -> bool {
    matches!(e, Errno::NOTTY | Errno::OPNOTSUPP | Errno::INVAL | Errno::NOSYS)
}

/// What an open file or directory has; nothing where its file system knows no such thing.
pub(super) fn read(file: impl AsFd) -> Result<InodeFlags> {
    let bits = match ioctl_getflags(&file) {
        // What knows no flags knows no projects either.
        Err(e) if has_none(e) => return Ok(InodeFlags::default()),
        bits => bits?.bits() & InodeFlags::KEPT,
    };
    let project = match get_xattr(&file) {
        Err(e) if has_none(e) => 0,
        more => more?.project,
    };
    Ok(InodeFlags { bits, project })
}

/// Sets on something empty what would come too late at the end. What is refused now is told then.
pub(super) fn begin(file: impl AsFd, wanted: InodeFlags) {
    if wanted.bits & FROM_THE_START != 0 {
        let _told_at_the_end = add(&file, wanted.bits & FROM_THE_START);
    }
}

/// Sets the project and all flags but the locks. Flags that it has already stay: new files have those of their directory.
/// What cannot be set is given to `note`.
pub(super) fn set(file: impl AsFd, wanted: InodeFlags, mut note: impl FnMut(&str, Errno)) {
    if wanted.project != 0
        && let Err(e) = set_project(&file, wanted.project)
    {
        note(&format!("project {}", wanted.project), e);
    }
    add_each(&file, wanted.bits & InodeFlags::KEPT & !LOCKS, &mut note);
}

/// Sets the locks.
pub(super) fn set_locks(file: impl AsFd, wanted: InodeFlags, mut note: impl FnMut(&str, Errno)) {
    add_each(&file, wanted.bits & LOCKS, &mut note);
}

/// Takes the locks off for a moment in which something is done that they forbid. Gives what to [`lock`] it with again.
pub(super) fn unlock(file: impl AsFd) -> Result<u32> {
    let found = ioctl_getflags(&file)?.bits();
    if found & LOCKS == 0 {
        return Err(Errno::PERM);
    }
    ioctl_setflags(&file, IFlags::from_bits_retain(found & !LOCKS))?;
    Ok(found & LOCKS)
}

/// Undoes [`unlock`].
pub(super) fn lock(file: impl AsFd, locks: u32) -> Result<()> {
    add(file, locks)
}

/// All at once where that works; else one by one, so that one which cannot be set costs no other.
fn add_each(file: impl AsFd, bits: u32, note: &mut impl FnMut(&str, Errno)) {
    if bits == 0 || add(&file, bits).is_ok() {
        return;
    }
    for (bit, ..) in InodeFlags::NAMES.into_iter().filter(|(bit, ..)| bits & bit != 0) {
        if let Err(e) = add(&file, bit) {
            note(&format!("inode flag {}", InodeFlags::letters(bit)), e);
        }
    }
}

fn add(file: impl AsFd, bits: u32) -> Result<()> {
    let found = ioctl_getflags(&file)?.bits();
    if found & bits == bits {
        return Ok(());
    }
    ioctl_setflags(&file, IFlags::from_bits_retain(found | bits))?;
    // Some file systems take a flag that they do not know, and forget it.
    match ioctl_getflags(&file)?.bits() & bits == bits {
        true => Ok(()),
        false => Err(Errno::OPNOTSUPP),
    }
}

fn set_project(file: impl AsFd, project: u32) -> Result<()> {
    let found = get_xattr(&file)?;
    if found.project == project {
        return Ok(());
    }
    set_xattr(&file, FsXattr { project, ..found })
}
