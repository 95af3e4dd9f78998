//! Whether two files, or symlinks, are the same but for their names.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::AsFd;

use plakar_engine::meta::Kind;
use rustix::fs::{AtFlags, Mode, OFlags, Stat, openat, readlinkat, statat};
use rustix::io::Errno;

use super::parents::Parent;
use crate::fs::xattr::{Subject, path_in};
use crate::fs::{flags, stat};

/// Bytes compared at once.
const SOME: usize = 64 << 10;

/// Whether two names are two files, or two symlinks, that agree in contents and attributes. Not those of one already.
pub(super) fn is_same(a: &Parent, a_name: &[u8], b: &Parent, b_name: &[u8]) -> Result<bool, Errno> {
    let look = |at: &Parent, name| match statat(&at.fd, name, AtFlags::SYMLINK_NOFOLLOW) {
        Err(Errno::NOENT) => Ok(None),
        found => found.map(Some),
    };
    let (Some(a_stat), Some(b_stat)) = (look(a, a_name)?, look(b, b_name)?) else { return Ok(false) };
    let id = |s: &Stat| (s.st_dev, s.st_ino);
    let shared =
        |s: &Stat| (stat::kind(s), stat::permissions(s), s.st_uid, s.st_gid, s.st_size, stat::mtime(s));
    if id(&a_stat) == id(&b_stat) || shared(&a_stat) != shared(&b_stat) {
        return Ok(false);
    }
    let attributes = |at: &Parent, name| Subject::At(&path_in(at.fd.as_fd(), name)).read();
    if attributes(a, a_name)? != attributes(b, b_name)? {
        return Ok(false);
    }
    match stat::kind(&a_stat) {
        Some(Kind::Symlink) => Ok(target(a, a_name)? == target(b, b_name)?),
        Some(Kind::Regular) => {
            let to_errno = |e: io::Error| Errno::from_io_error(&e).unwrap_or(Errno::IO);
            let (mut a, mut b) = (open(a, a_name)?, open(b, b_name)?);
            Ok(flags::read(&a)? == flags::read(&b)? && same_contents(&mut a, &mut b).map_err(to_errno)?)
        }
        _ => Ok(false),
    }
}

fn target(parent: &Parent, name: &[u8]) -> Result<Vec<u8>, Errno> {
    Ok(readlinkat(&parent.fd, name, Vec::new())?.into_bytes())
}

/// Opens what stands at a name, never through a symlink, and waits for nobody.
pub(super) fn open(parent: &Parent, name: &[u8]) -> Result<File, Errno> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    Ok(openat(&parent.fd, name, flags, Mode::empty())?.into())
}

fn same_contents(a: &mut impl Read, b: &mut impl Read) -> io::Result<bool> {
    let (mut one, mut two) = (Vec::with_capacity(SOME), Vec::with_capacity(SOME));
    loop {
        one.clear();
        two.clear();
        a.take(SOME as u64).read_to_end(&mut one)?;
        b.take(SOME as u64).read_to_end(&mut two)?;
        if one != two {
            return Ok(false);
        }
        if one.len() < SOME {
            return Ok(true);
        }
    }
}
