//! What the rest of the system does with a file system: watches, handles, unmounting.

use std::fs::File;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::fs::{FileExt, MetadataExt};

use rustix::fs::inotify::{self, CreateFlags, ReadFlags, WatchFlags};
use rustix::fs::{AtFlags, OFlags};
use rustix::io::Errno;
use rustix::mount::{UnmountFlags, unmount};

use super::{Check, LARGE, Place};
use crate::common::torture::noise;

pub(super) const CHECKS: &[Check] = &[
    ("inotify tells of what is opened", watches),
    ("name_to_handle_at gives a handle that leads back, or refuses", handles),
    // Last of all: behind it there is no mount.
    ("what is open goes on when the mount is detached", detached),
];

fn watches(p: &Place) {
    let inotify = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK).unwrap();
    inotify::add_watch(&inotify, p.path("dir/sub"), WatchFlags::OPEN).unwrap();
    drop(p.file("dir/sub/leaf"));
    let mut room = [MaybeUninit::uninit(); 1024];
    let mut events = inotify::Reader::new(&inotify, &mut room);
    let event = events.next().unwrap();
    assert!(event.events().contains(ReadFlags::OPEN));
    assert_eq!(event.file_name().unwrap().to_bytes(), b"leaf");
}

/// A `struct file_handle` with room for any.
#[repr(C)]
struct Handle {
    bytes: u32,
    kind: i32,
    room: [u8; 128],
}

fn handles(p: &Place) {
    let mut handle = Handle { bytes: 128, kind: 0, room: [0; 128] };
    let (mut mount, file) = (0, p.file("file"));
    // SAFETY: the path is empty and ends with 0; `handle` has the layout of `struct file_handle` and as much room as
    // it says.
    #[expect(unsafe_code, reason = "there is no safe call for it")]
    let answer = unsafe {
        let at: *mut libc::file_handle = (&raw mut handle).cast();
        libc::name_to_handle_at(file.as_raw_fd(), c"".as_ptr(), at, &raw mut mount, libc::AT_EMPTY_PATH)
    };
    if answer != 0 {
        let errno = std::io::Error::last_os_error().raw_os_error();
        assert!(!p.is_local() && errno == Some(Errno::OPNOTSUPP.raw_os_error()), "{errno:?}");
        return;
    }
    // SAFETY: as above; the kernel has filled it in.
    #[expect(unsafe_code, reason = "there is no safe call for it")]
    let opened = unsafe {
        let at: *mut libc::file_handle = (&raw mut handle).cast();
        libc::open_by_handle_at(p.root.as_fd().as_raw_fd(), at, libc::O_RDONLY | libc::O_CLOEXEC)
    };
    if opened < 0 {
        let errno = std::io::Error::last_os_error().raw_os_error();
        assert!(!p.is_local() && errno == Some(Errno::STALE.raw_os_error()), "{errno:?}");
        return;
    }
    // SAFETY: the kernel has just given the number, and nobody else has it.
    #[expect(unsafe_code, reason = "there is no safe call for it")]
    let opened = File::from(unsafe { OwnedFd::from_raw_fd(opened) });
    assert_eq!(opened.metadata().unwrap().ino(), file.metadata().unwrap().ino());
    let mut content = [0; 8];
    opened.read_exact_at(&mut content, 0).unwrap();
    assert_eq!(&content, b"content\n");
}

fn detached(p: &Place) {
    let (file, all) = (p.file("large"), noise(1, LARGE));
    let dir = p.open("dir", OFlags::RDONLY).unwrap();
    // Nothing of it is in memory but what is read from here on.
    rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed).unwrap();
    let mut step = vec![0; 50_000];
    for (i, part) in all.chunks(step.len()).enumerate() {
        if i == 20 {
            unmount(&p.path, UnmountFlags::DETACH).unwrap();
            assert!(!p.path.join("large").exists(), "it has left its place");
        }
        let step = &mut step[..part.len()];
        file.read_exact_at(step, (i * 50_000) as u64).unwrap();
        assert!(*step == *part, "part {i}");
    }
    // Names too, from any directory that is still open.
    let leaf = rustix::fs::statat(&dir, "sub/leaf", AtFlags::empty()).unwrap();
    assert_eq!(leaf.st_size, 4);
}
