//! FIFOs, sockets, devices and programs.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::process::{Command, Stdio};

use rustix::fs::OFlags;
use rustix::io::{Errno, FdFlags};

use super::{Check, Kind, Place, as_nobody, gives};
use crate::common::sandbox::NOBODY;

pub(super) const CHECKS: &[Check] = &[
    ("a FIFO is a FIFO", fifo),
    ("a socket without a listener refuses", socket),
    ("devices cannot be opened", devices),
    ("programs and scripts run", programs),
    ("set-user-id does nothing", set_user_id),
    ("many programs at once", many_programs),
];

fn fifo(p: &Place) {
    let nonblocking = OFlags::NONBLOCK;
    let reader = p.open("fifo", OFlags::RDONLY | nonblocking).unwrap();
    let mut writer: File = p.open("fifo", OFlags::WRONLY | nonblocking).unwrap().into();
    writer.write_all(b"through").unwrap();
    drop(writer);
    let mut said = String::new();
    File::from(reader).read_to_string(&mut said).unwrap();
    assert_eq!(said, "through");
    gives("without a reader", p.open("fifo", OFlags::WRONLY | nonblocking), Errno::NXIO);
}

fn socket(p: &Place) {
    let connected = UnixStream::connect(format!("{}/socket", p.root.short_path()));
    assert_eq!(connected.unwrap_err().raw_os_error(), Some(Errno::CONNREFUSED.raw_os_error()));
    gives("open", p.open("socket", OFlags::RDONLY), Errno::NXIO);
}

fn devices(p: &Place) {
    for name in ["null", "block"] {
        for flags in [OFlags::RDONLY, OFlags::WRONLY, OFlags::RDWR | OFlags::NONBLOCK] {
            gives(name, p.open(name, flags), Errno::ACCESS);
        }
        assert!(p.open(name, OFlags::PATH).is_ok());
    }
}

fn programs(p: &Place) {
    assert!(Command::new(p.path("true")).status().unwrap().success());
    let script = Command::new(p.path("script")).arg("well").output().unwrap();
    assert_eq!(script.stdout, b"it runs: well\n");
    let refused = Command::new(p.path("public")).spawn().unwrap_err();
    assert!(
        [Errno::ACCESS, Errno::NOEXEC].map(|e| Some(e.raw_os_error())).contains(&refused.raw_os_error()),
        "{refused}"
    );
}

fn set_user_id(p: &Place) {
    if p.kind == Kind::Own {
        return;
    }
    // The way there may be closed to others; this descriptor is the way.
    let way = p.open(".", OFlags::PATH).unwrap();
    rustix::io::fcntl_setfd(&way, FdFlags::empty()).unwrap();
    let program = format!("/proc/self/fd/{}/id", way.as_raw_fd());
    let said = as_nobody(|| Command::new(program).arg("-u").stdin(Stdio::null()).output().unwrap());
    assert_eq!(String::from_utf8_lossy(&said.stdout).trim(), NOBODY.to_string(), "{said:?}");
}

fn many_programs(p: &Place) {
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                for _ in 0..20 {
                    assert!(Command::new(p.path("true")).status().unwrap().success());
                    let said = Command::new(p.path("id")).arg("-u").output().unwrap();
                    assert_eq!(said.stdout, b"0\n");
                }
            });
        }
    });
}
