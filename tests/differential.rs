//! The same operations on a real directory and on the mount of its snapshot give the same.
//!
//! Trees and operations follow from a seed, which a failure names; `PLAKAR_SEED=N` runs that one alone.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::fs;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::path::Path;

use rustix::fs::{
    Access, AtFlags, FileType, Mode, OFlags, RawDir, RenameFlags, SeekFrom, Timespec, Timestamps,
};
use rustix::io::{Errno, Result};

use crate::common::directory::At;
use crate::common::mount::ReadOnlyView;
use crate::common::torture::noise;
use crate::common::{Directory, MountGuard, Sandbox, SmallDisk, hex_id};

const SEEDS: std::ops::Range<u64> = 1..7;
const OPERATIONS: usize = 4000;
/// Around these, contents are cut: pages, chunks, slices, frames.
const BORDERS: [u64; 6] = [4096, 128 << 10, 256 << 10, 512 << 10, 1 << 20, 2 << 20];
const ATTRIBUTES: [&str; 3] = ["user.a", "user.b", "user.none"];

/// Numbers that look random and follow from the seed.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        // SplitMix64.
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    fn below(&mut self, n: usize) -> usize {
        (self.next() % n as u64) as usize
    }

    fn pick<T: Clone>(&mut self, from: &[T]) -> T {
        from[self.below(from.len())].clone()
    }

    /// True once in so many times.
    fn one_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }

    /// A length or offset, most often at a border or one beside it.
    fn offset(&mut self) -> u64 {
        match self.below(4) {
            0 => self.next() % 100,
            1 => self.next() % (3 << 20),
            _ => (self.pick(&BORDERS) * (1 + self.next() % 2) + self.next() % 3).saturating_sub(1),
        }
    }
}

/// What a tree was made of, for choosing among.
#[derive(Default)]
struct Made {
    /// Directories, by path from the root; how deep they are.
    directories: Vec<(Vec<u8>, usize)>,
    files: Vec<Vec<u8>>,
    others: Vec<Vec<u8>>,
}

impl Made {
    /// Any path; now and then one that is not there or not written as it should be.
    fn path(&self, r: &mut Random) -> Vec<u8> {
        let mut path = match r.below(8) {
            0 | 1 => r.pick(&self.directories).0,
            2 if !self.others.is_empty() => r.pick(&self.others),
            _ if !self.files.is_empty() => r.pick(&self.files),
            _ => b".".to_vec(),
        };
        match r.below(16) {
            0 => path.extend(b"/"),
            1 => path.extend(b"/."),
            2 => path.extend(b"/a"),
            3 => path.extend(b"-none"),
            4 => path.extend([b'n'; 250]),
            5 => {
                // Out of what is certainly not the root.
                let (mut below, depth) = r.pick(&self.directories);
                if depth > 0 {
                    below.extend(b"/../");
                    below.extend(name(r));
                    path = below;
                }
            }
            _ => {}
        }
        path
    }
}

/// Of an alphabet so small that names meet often.
fn name(r: &mut Random) -> Vec<u8> {
    let letters: [&[u8]; 7] = [b"a", b"b", b"a", b"b", b"A", b" ", b"\xff"];
    (0..1 + r.below(3)).flat_map(|_| r.pick(&letters).to_vec()).collect()
}

/// Fills a directory; gives what is in it.
fn fill(d: &Directory, r: &mut Random, path: &[u8], depth: usize, made: &mut Made) {
    made.directories.push((path.to_vec(), depth));
    let mut entries: BTreeMap<Vec<u8>, ()> = BTreeMap::new();
    for _ in 0..r.below(12) + usize::from(depth == 0) * 6 {
        let name = name(r);
        if entries.insert(name.clone(), ()).is_some() {
            continue;
        }
        let below = [path, b"/", &name].concat();
        let at = d.at(&name);
        match r.below(12) {
            0..=3 if depth < 4 => {
                fill(&d.make(&name), r, &below, depth + 1, made);
                finish(at, r, true);
                continue;
            }
            0 | 1 => {
                // Never out of the root: as many steps up as there are, at most.
                let mut target = b"../".repeat(r.below(depth + 1));
                target.extend(self::name(r));
                at.symlink(&target);
                made.others.push(below.clone());
            }
            2 => {
                at.node(r.pick(&[FileType::Fifo, FileType::Socket]), (0, 0));
                made.others.push(below.clone());
            }
            3 if !made.files.is_empty() => {
                let other = r.pick(&made.files);
                let root = Directory::open(Path::new(&format!("{}/{}", d.short_path(), "../".repeat(depth))));
                root.at(&other).link(at);
                made.files.push(below);
                continue;
            }
            4 | 5 => {
                sparse(at, r);
                made.files.push(below.clone());
            }
            _ => {
                let len = if r.one_in(3) { r.offset() } else { r.next() % 300 };
                at.file(&noise(r.next() % 4, len as usize));
                made.files.push(below.clone());
            }
        }
        finish(at, r, false);
    }
}

/// A file of data and holes, in whole pages as every file system keeps them.
fn sparse(at: At<'_>, r: &mut Random) {
    let (file, mut end) = (at.create(), 0);
    for _ in 0..r.below(6) {
        let (hole, len) = (4096 * (r.next() % 100), 4096 * (1 + r.next() % 80));
        file.write_all_at(&noise(r.next(), len as usize), end + hole).unwrap();
        end += hole + len;
    }
    file.set_len(end + 4096 * (r.next() % 3)).unwrap();
}

/// Mode, owner, attributes and time.
fn finish(at: At<'_>, r: &mut Random, directory: bool) {
    let kind = FileType::from_raw_mode(at.stat().st_mode);
    at.owner(r.next() as u32 % 3, r.next() as u32 % 3);
    if kind != FileType::Symlink {
        at.mode(r.next() as u32 % 0o10000);
    }
    if r.one_in(3) && (directory || kind == FileType::RegularFile) {
        for name in &ATTRIBUTES[..1 + r.below(2)] {
            at.xattr(name, &noise(1, r.below(40)));
        }
    }
    at.mtime((r.next() % 4_000_000_000) as i64 - 1_000_000_000, (r.next() % 1_000_000_000) as i64);
}

/// What a program gets to see.
type Answer = Result<Vec<u8>>;

fn seen(what: impl Debug) -> Vec<u8> {
    format!("{what:?}").into_bytes()
}

/// Something to do, on either side.
#[derive(Clone, Debug)]
enum Operation {
    Stat(Vec<u8>, AtFlags),
    List(Vec<u8>, usize),
    Read(Vec<u8>, u64, usize),
    ReadLink(Vec<u8>),
    GetXattr(Vec<u8>, &'static str, usize),
    ListXattr(Vec<u8>),
    Access(Vec<u8>, Access),
    Open(Vec<u8>, OFlags),
    Seek(Vec<u8>, SeekFrom),
    Change(Vec<u8>, Change),
    /// What is kept open in a place: opened anew, read on, moved, examined.
    OpenKept(usize, Vec<u8>),
    ReadKept(usize, usize),
    SeekKept(usize, SeekFrom),
    StatKept(usize),
}

/// Something that a read-only file system refuses.
#[derive(Clone, Debug)]
enum Change {
    MakeDirectory,
    Unlink,
    RemoveDirectory,
    Rename(Vec<u8>, RenameFlags),
    Link(Vec<u8>),
    Symlink,
    Mode,
    Times,
}

fn operation(made: &Made, r: &mut Random) -> Operation {
    let path = made.path(r);
    let offset = r.offset();
    let seek = match r.below(5) {
        0 => SeekFrom::Start(offset),
        1 => SeekFrom::End(offset as i64 - 5000),
        2 => SeekFrom::Current(offset as i64 - (1 << 19)),
        3 => SeekFrom::Data(offset),
        _ => SeekFrom::Hole(offset),
    };
    let kept = r.below(6);
    match r.below(20) {
        0 | 1 => Operation::Stat(path, r.pick(&[AtFlags::empty(), AtFlags::SYMLINK_NOFOLLOW])),
        2 => Operation::List(path, r.pick(&[64, 300, 4096, 1 << 16])),
        3..=6 => Operation::Read(path, offset, r.offset() as usize),
        7 => Operation::ReadLink(path),
        8 => Operation::GetXattr(path, r.pick(&ATTRIBUTES), r.pick(&[0, 5, 100])),
        9 => Operation::ListXattr(path),
        10 => {
            let all = [Access::EXISTS, Access::READ_OK, Access::WRITE_OK, Access::EXEC_OK];
            Operation::Access(path, r.pick(&all))
        }
        11 | 12 => {
            let mut flags = r.pick(&[OFlags::RDONLY, OFlags::RDONLY, OFlags::WRONLY, OFlags::RDWR]);
            for more in [
                OFlags::CREATE,
                OFlags::EXCL,
                OFlags::TRUNC,
                OFlags::APPEND,
                OFlags::DIRECTORY,
                OFlags::NOFOLLOW,
                OFlags::PATH,
                OFlags::NOATIME,
            ] {
                flags.set(more, r.one_in(6));
            }
            Operation::Open(path, flags)
        }
        13 => Operation::Seek(path, seek),
        14 => Operation::OpenKept(kept, path),
        15 | 16 => Operation::ReadKept(kept, r.offset() as usize),
        17 => Operation::SeekKept(kept, seek),
        18 => Operation::StatKept(kept),
        _ => {
            let other = made.path(r);
            Operation::Change(
                path,
                match r.below(8) {
                    0 => Change::MakeDirectory,
                    1 => Change::Unlink,
                    2 => Change::RemoveDirectory,
                    3 => Change::Rename(other, r.pick(&[RenameFlags::empty(), RenameFlags::NOREPLACE])),
                    4 => Change::Link(other),
                    5 => Change::Symlink,
                    6 => Change::Mode,
                    _ => Change::Times,
                },
            )
        }
    }
}

/// One of the two.
struct Side {
    root: Directory,
    kept: [Option<OwnedFd>; 6],
}

impl Side {
    fn at(path: &Path) -> Self {
        Self { root: Directory::open(path), kept: Default::default() }
    }

    fn open(&self, path: &[u8], flags: OFlags) -> Result<OwnedFd> {
        // A FIFO would wait for its other end.
        let flags = flags | OFlags::NONBLOCK | OFlags::CLOEXEC | OFlags::NOCTTY;
        rustix::fs::openat(&self.root, path, flags, Mode::from(0o644))
    }

    /// For calls that know no directory to begin at.
    fn whole(&self, path: &[u8]) -> Vec<u8> {
        [self.root.short_path().as_bytes(), b"/", path].concat()
    }

    fn kept(&self, place: usize) -> Result<&OwnedFd> {
        self.kept[place].as_ref().ok_or(Errno::BADF)
    }

    fn does(&mut self, operation: &Operation) -> Answer {
        match operation {
            Operation::Stat(path, flags) => {
                rustix::fs::statat(&self.root, path, *flags).map(|s| attributes(&s))
            }
            Operation::List(path, size) => list(&self.open(path, OFlags::RDONLY)?, *size),
            Operation::Read(path, at, len) => read(&self.open(path, OFlags::RDONLY)?, *at, *len),
            Operation::ReadLink(path) => {
                rustix::fs::readlinkat(&self.root, path, Vec::new()).map(|t| t.into_bytes())
            }
            Operation::GetXattr(path, name, room) => {
                let mut value = vec![0; *room];
                let n = match room {
                    0 => return rustix::fs::lgetxattr_query(self.whole(path), *name).map(seen),
                    _ => rustix::fs::lgetxattr(self.whole(path), *name, &mut value[..])?,
                };
                Ok(value[..n].to_vec())
            }
            Operation::ListXattr(path) => {
                let mut room = vec![0; 4096];
                let n = rustix::fs::llistxattr(self.whole(path), &mut room[..])?;
                let mut names: Vec<_> = room[..n].split(|b| *b == 0).collect();
                names.sort_unstable();
                Ok(seen(names))
            }
            Operation::Access(path, how) => {
                rustix::fs::accessat(&self.root, path, *how, AtFlags::empty()).map(seen)
            }
            Operation::Open(path, flags) => self.open(path, *flags).map(|_| Vec::new()),
            Operation::Seek(path, to) => seek(&self.open(path, OFlags::RDONLY)?, *to),
            Operation::Change(path, change) => self.change(path, change).map(seen),
            Operation::OpenKept(place, path) => {
                self.kept[*place] = None;
                self.kept[*place] = Some(self.open(path, OFlags::RDONLY)?);
                Ok(Vec::new())
            }
            Operation::ReadKept(place, len) => {
                let (mut bytes, mut n) = (vec![0; *len], 0);
                while n < *len {
                    match rustix::io::read(self.kept(*place)?, &mut bytes[n..])? {
                        0 => break,
                        more => n += more,
                    }
                }
                bytes.truncate(n);
                Ok(bytes)
            }
            Operation::SeekKept(place, to) => seek(self.kept(*place)?, *to),
            Operation::StatKept(place) => rustix::fs::fstat(self.kept(*place)?).map(|s| attributes(&s)),
        }
    }

    fn change(&self, path: &[u8], change: &Change) -> Result<()> {
        let (d, nothing) = (&self.root, Timespec { tv_sec: 0, tv_nsec: 0 });
        match change {
            Change::MakeDirectory => rustix::fs::mkdirat(d, path, Mode::from(0o755)),
            Change::Unlink => rustix::fs::unlinkat(d, path, AtFlags::empty()),
            Change::RemoveDirectory => rustix::fs::unlinkat(d, path, AtFlags::REMOVEDIR),
            Change::Rename(to, how) => rustix::fs::renameat_with(d, path, d, to, *how),
            Change::Link(to) => rustix::fs::linkat(d, path, d, to, AtFlags::empty()),
            Change::Symlink => rustix::fs::symlinkat("x", d, path),
            Change::Mode => rustix::fs::chmodat(d, path, Mode::from(0o600), AtFlags::empty()),
            Change::Times => {
                let times = Timestamps { last_access: nothing, last_modification: nothing };
                rustix::fs::utimensat(d, path, &times, AtFlags::SYMLINK_NOFOLLOW)
            }
        }
    }
}

/// What a directory's size and links are is its file system's own affair.
fn attributes(s: &rustix::fs::Stat) -> Vec<u8> {
    let own = match FileType::from_raw_mode(s.st_mode) {
        FileType::Directory => None,
        _ => Some((s.st_size, s.st_nlink, s.st_rdev)),
    };
    seen((s.st_mode, s.st_uid, s.st_gid, s.st_mtime, s.st_mtime_nsec, own))
}

fn list(directory: &OwnedFd, size: usize) -> Answer {
    let mut buffer = vec![MaybeUninit::uninit(); size];
    let mut entries = RawDir::new(directory.as_fd(), &mut buffer);
    let mut found = Vec::new();
    while let Some(entry) = entries.next() {
        let entry = entry?;
        found.push((entry.file_name().to_owned(), entry.file_type()));
    }
    found.sort_by(|a, b| a.0.cmp(&b.0));
    Ok(seen(found))
}

fn read(file: &OwnedFd, at: u64, len: usize) -> Answer {
    let (mut bytes, mut n) = (vec![0; len], 0);
    while n < len {
        match rustix::io::pread(file, &mut bytes[n..], at + n as u64)? {
            0 => break,
            more => n += more,
        }
    }
    bytes.truncate(n);
    Ok(bytes)
}

fn seek(file: &OwnedFd, to: SeekFrom) -> Answer {
    if FileType::from_raw_mode(rustix::fs::fstat(file)?.st_mode) == FileType::Directory {
        // Places in a directory are its file system's own affair.
        return Ok(Vec::new());
    }
    rustix::fs::seek(file, to).map(seen)
}

fn run(seed: u64) {
    let mut r = Random(seed);
    let sandbox = Sandbox::with_key_file();
    let disk = SmallDisk::new("1g");
    let source = disk.path().join("source");
    fs::create_dir(&source).unwrap();
    let mut made = Made::default();
    fill(&Directory::open(&source), &mut r, b".", 0, &mut made);
    let id = hex_id(&sandbox.backup(&source));
    let real = ReadOnlyView::new(&source);
    // Behind this the kernel checks modes, as it does on a disk.
    let mount = MountGuard::new(&sandbox, ["-allow-other", &id]);
    let (mut left, mut right) = (Side::at(real.path()), Side::at(mount.path()));
    let mut refused = 0;
    for i in 0..OPERATIONS {
        let operation = operation(&made, &mut r);
        let (expected, found) = (left.does(&operation), right.does(&operation));
        refused += usize::from(expected.is_err());
        if expected != found {
            let short = |a: Answer| a.map(|bytes| bytes[..bytes.len().min(300)].escape_ascii().to_string());
            assert_eq!(short(expected), short(found), "PLAKAR_SEED={seed}, operation {i}: {operation:?}");
            unreachable!("PLAKAR_SEED={seed}, operation {i}: {operation:?} differs behind its beginning");
        }
    }
    // A test that only ever sees errors, or never any, shows little.
    assert!((OPERATIONS / 20..OPERATIONS * 19 / 20).contains(&refused), "seed {seed}: {refused} refused");
}

#[test]
fn a_directory_and_the_mount_of_its_snapshot_agree() {
    match std::env::var("PLAKAR_SEED") {
        Ok(seed) => run(seed.parse().unwrap()),
        Err(_) => SEEDS.for_each(run),
    }
}
