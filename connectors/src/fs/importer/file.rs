//! An open file of a source, read from its start to its end.

use std::io::IoSliceMut;
use std::os::fd::{BorrowedFd, OwnedFd};

use plakar_engine::importer::{ImportError, SourceFile};
use plakar_engine::meta::{InodeFlags, Kind, Metadata};
use rustix::fs::{Advice, AtFlags, OFlags, SeekFrom, fadvise, fstatfs, seek, statx};
use rustix::io::{Errno, ReadWriteFlags, preadv2, read};

use super::directory::{failed, open};
use crate::fs::{flags, stat};

/// From this size on the kernel is told that all of it will be read, and reads further ahead.
const WORTH_ADVICE: u64 = 1 << 20;
/// `RWF_DONTCACHE` of `linux/fs.h`, since Linux 6.14: what was not in memory before is not kept there. It would push out
/// what others need, and finding new memory for each page takes longer than using the same again.
const DONT_CACHE: ReadWriteFlags = ReadWriteFlags::from_bits_retain(0x80);
/// File systems that make up their files when they are read, by their numbers in `linux/magic.h`: proc, sysfs, debugfs,
/// tracefs, securityfs, configfs, selinuxfs, cgroup, cgroup2, pstore, efivarfs, bpf.
const MADE_UP: [i64; 12] = [
    0x9fa0,
    0x6265_6572,
    0x6462_6720,
    0x7472_6163,
    0x7363_6673,
    0x6265_6570,
    0xf97c_ff8c,
    0x27_e0eb,
    0x6367_7270,
    0x6165_676c,
    0xde5e_81e4,
    0xcafe_4a11,
];
/// Read on from where the last read ended.
const FROM_HERE: u64 = u64::MAX;

/// One open file.
pub(super) struct FsFile {
    fd: OwnedFd,
    /// Read with `DONT_CACHE`.
    passing: bool,
    /// The last read found the end.
    ended: bool,
}

impl FsFile {
    /// Opens a regular file. Without `NONBLOCK` a FIFO put in its place would block for ever; regular files do not
    /// mind it.
    pub(super) fn open(directory: BorrowedFd<'_>, name: &[u8]) -> Result<Self, ImportError> {
        let fd = open(directory, name, OFlags::NONBLOCK | OFlags::NOCTTY)?;
        let file = Self { fd, passing: true, ended: false };
        let (meta, _) = file.now()?;
        if meta.kind != Kind::Regular {
            return Err(ImportError::new("no longer a regular file"));
        }
        if meta.size > WORTH_ADVICE {
            // Advice only: without it the file is read all the same.
            let _ = fadvise(&file.fd, 0, None, Advice::Sequential);
        }
        Ok(file)
    }

    /// What to take for the next data where the file system does not know its holes.
    fn all_data(&self, at: u64) -> Result<Option<(u64, u64)>, ImportError> {
        let size = self.now()?.0.size;
        Ok((at < size).then_some((at, size)))
    }

    fn read_some(&mut self, buffer: &mut [u8]) -> Result<usize, Errno> {
        if self.passing {
            let read = preadv2(&self.fd, &mut [IoSliceMut::new(buffer)], FROM_HERE, DONT_CACHE);
            if read.is_ok() || read == Err(Errno::INTR) {
                return read;
            }
            // An older kernel, a file system that cannot, a sandbox that does not know the call. Whatever else is wrong
            // the plain call says, too.
            self.passing = false;
        }
        read(&self.fd, buffer)
    }

    fn seek(&mut self, to: SeekFrom) -> Result<u64, Errno> {
        self.ended = false;
        seek(&self.fd, to)
    }
}

impl SourceFile for FsFile {
    fn read(&mut self, buffer: &mut [u8]) -> Result<usize, ImportError> {
        let mut filled = 0;
        while filled < buffer.len() && !self.ended {
            match self.read_some(&mut buffer[filled..]) {
                Ok(0) => self.ended = true,
                Ok(n) => filled += n,
                Err(Errno::INTR) => {}
                Err(e) => return Err(failed("read", e)),
            }
        }
        Ok(filled)
    }

    fn next_data(&mut self, at: u64) -> Result<Option<(u64, u64)>, ImportError> {
        let start = match self.seek(SeekFrom::Data(at)) {
            Ok(start) => start,
            Err(Errno::NXIO) => {
                self.seek(SeekFrom::End(0)).map_err(|e| failed("seek", e))?;
                return Ok(None);
            }
            Err(Errno::INVAL | Errno::OPNOTSUPP) => return self.all_data(at),
            Err(e) => return Err(failed("seek", e)),
        };
        let end = match self.seek(SeekFrom::Hole(start)) {
            // Cut off between the two calls.
            Err(Errno::NXIO) => return Ok(None),
            end => end.map_err(|e| failed("seek", e))?,
        };
        self.seek(SeekFrom::Start(start)).map_err(|e| failed("seek", e))?;
        Ok(Some((start, end)))
    }

    fn now(&self) -> Result<(Metadata, i64), ImportError> {
        let stat = statx(&self.fd, c"", AtFlags::EMPTY_PATH, stat::WANTED);
        let stat = stat.map_err(|e| failed("stat", e))?;
        let meta = stat::metadata(&stat).ok_or_else(|| ImportError::new("of an unknown kind"))?;
        Ok((meta, stat::ctime_ns(&stat)))
    }

    fn flags(&self) -> Result<InodeFlags, ImportError> {
        flags::read(&self.fd).map_err(|e| failed("inode flags", e))
    }

    fn is_made_up(&self) -> bool {
        fstatfs(&self.fd).is_ok_and(|fs| MADE_UP.contains(&fs.f_type))
    }
}
