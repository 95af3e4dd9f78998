//! Looking names up: what is there, what is not, and which error says so.

use std::os::fd::AsFd;
use std::process::Command;

use rustix::fs::{AtFlags, Mode, OFlags, ResolveFlags, openat2};
use rustix::io::Errno;

use super::{Check, Place, gives};

pub(super) const CHECKS: &[Check] = &[
    ("missing names are ENOENT, names below files ENOTDIR", missing),
    ("symlinks that lead to themselves are ELOOP", loops),
    ("names and paths too long are ENAMETOOLONG", too_long),
    ("O_NOFOLLOW, O_DIRECTORY, O_PATH", open_flags),
    ("openat2 stays beneath, in the root, on the mount", resolve),
    ("dot-dot leads up, and out of the mount", upwards),
    ("chdir and getcwd", working_directory),
];

const RD: OFlags = OFlags::RDONLY;

fn missing(p: &Place) {
    for flags in [RD, OFlags::PATH, RD | OFlags::NONBLOCK] {
        for name in ["absent", "dir/absent", "absent/below", "dangling"] {
            gives(name, p.open(name, flags), Errno::NOENT);
        }
        for name in ["file/", "file/below", "file/..", "symlink/below", "fifo/below"] {
            gives(name, p.open(name, flags), Errno::NOTDIR);
        }
        gives("the empty name", p.open("", flags), Errno::NOENT);
    }
    // Again, since the kernel remembers what is not there.
    gives("absent", rustix::fs::statat(&p.root, "absent", AtFlags::empty()), Errno::NOENT);
    gives("case", p.open("FILE", RD), Errno::NOENT);
    for odd in [&b"\xff\xfe"[..], b"\n", b"fil\xc3\xa9", b"@", b"file@", b"*"] {
        gives("odd", p.open(odd, RD), Errno::NOENT);
    }
}

fn loops(p: &Place) {
    gives("open", p.open("loop", RD), Errno::LOOP);
    gives("below", p.open("loop/x", RD), Errno::LOOP);
    gives("stat", rustix::fs::statat(&p.root, "loop", AtFlags::empty()), Errno::LOOP);
    assert_eq!(p.root.at("loop").target(), b"loop");
}

fn too_long(p: &Place) {
    gives("255 bytes", p.open("n".repeat(255), RD), Errno::NOENT);
    for len in [256, 1000, 1024, 1025, 4000] {
        gives(&format!("{len} bytes"), p.open("n".repeat(len), RD), Errno::NAMETOOLONG);
    }
    gives("4,096 bytes", p.open("./".repeat(2048), RD), Errno::NAMETOOLONG);
    assert!(p.open("./".repeat(2000) + "file", RD).is_ok());
}

fn open_flags(p: &Place) {
    gives("nofollow", p.open("symlink", RD | OFlags::NOFOLLOW), Errno::LOOP);
    gives("directory nofollow", p.open("to dir", RD | OFlags::NOFOLLOW | OFlags::DIRECTORY), Errno::NOTDIR);
    gives("directory", p.open("file", RD | OFlags::DIRECTORY), Errno::NOTDIR);
    assert!(p.open("to dir", RD | OFlags::DIRECTORY).is_ok());
    let link = p.open("symlink", OFlags::PATH | OFlags::NOFOLLOW).unwrap();
    assert_eq!(rustix::fs::readlinkat(&link, "", Vec::new()).unwrap().to_bytes(), b"file");
    let file = p.open("file", OFlags::PATH).unwrap();
    gives("read of a path", rustix::io::read(&file, &mut [0; 1]), Errno::BADF);
    gives("read of a directory", rustix::io::read(p.open("dir", RD).unwrap(), &mut [0; 1]), Errno::ISDIR);
    // Flags that change nothing here.
    for flags in [OFlags::NOATIME, OFlags::SYNC, OFlags::NONBLOCK, OFlags::NOCTTY, OFlags::APPEND] {
        assert!(p.open("file", RD | flags).is_ok(), "{flags:?}");
    }
}

fn resolve(p: &Place) {
    // While anything is mounted or renamed anywhere on the machine, the kernel cannot say that `..` stayed inside, and asks
    // to be asked again (openat2(2), EAGAIN).
    let open = |path: &str, how: ResolveFlags| loop {
        let opened = openat2(p.root.as_fd(), path, RD | OFlags::CLOEXEC, Mode::empty(), how);
        if how == ResolveFlags::CACHED || !matches!(opened, Err(Errno::AGAIN)) {
            return opened;
        }
    };
    assert!(open("dir/sub/leaf", ResolveFlags::BENEATH).is_ok());
    assert!(open("dir/../file", ResolveFlags::BENEATH).is_ok());
    assert!(open("dir/up", ResolveFlags::BENEATH).is_ok());
    gives("up", open("../x", ResolveFlags::BENEATH), Errno::XDEV);
    gives("absolute link", open("absolute", ResolveFlags::BENEATH), Errno::XDEV);
    gives("absolute path", open("/etc", ResolveFlags::BENEATH), Errno::XDEV);
    gives("link", open("symlink", ResolveFlags::NO_SYMLINKS), Errno::LOOP);
    assert!(open("/file", ResolveFlags::IN_ROOT).is_ok());
    assert!(open("../../file", ResolveFlags::IN_ROOT).is_ok());
    gives("a link within the root", open("absolute", ResolveFlags::IN_ROOT), Errno::NOENT);
    gives("off the mount", open("..", ResolveFlags::NO_XDEV), Errno::XDEV);
    assert!(open("dir/sub", ResolveFlags::NO_XDEV).is_ok());
    // What was just looked up is known without asking anybody, unless the mount has to be asked.
    let cached = open("dir/sub/leaf", ResolveFlags::CACHED).map(drop);
    assert!(matches!(cached, Ok(()) | Err(Errno::AGAIN)), "{cached:?}");
}

fn upwards(p: &Place) {
    let number = |path: &str| rustix::fs::statat(&p.root, path, AtFlags::empty()).unwrap().st_ino;
    assert_eq!(number("dir/sub/.."), number("dir"));
    assert_eq!(number("dir/.."), number("."));
    assert_eq!(number("to dir/.."), number("."));
    let (above, parent) = (rustix::fs::stat(p.path.parent().unwrap()).unwrap(), p.root.at("..").stat());
    assert_eq!((above.st_dev, above.st_ino), (parent.st_dev, parent.st_ino));
}

fn working_directory(p: &Place) {
    let pwd = Command::new("/bin/pwd").arg("-P").current_dir(p.path("to dir/sub")).output().unwrap();
    assert_eq!(String::from_utf8(pwd.stdout).unwrap().trim_end(), p.path("dir/sub").to_str().unwrap());
    let up = Command::new("cat").arg("../../file").current_dir(p.path("dir/sub")).output().unwrap();
    assert_eq!(up.stdout, b"content\n");
}
