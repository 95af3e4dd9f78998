//! Two trees side by side: every attribute and every byte.

use std::collections::HashMap;
use std::fmt::Write;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

use rustix::fs::{self, FileType, SeekFrom};
use rustix::io::Errno;

use super::directory::{At, Directory};

/// What two trees must agree in.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Compare {
    /// Modification times of directories too.
    pub(crate) directory_times: bool,
    /// Extended attributes of symlinks too.
    pub(crate) symlink_xattrs: bool,
    /// Number of links too: not for parts of trees.
    pub(crate) link_counts: bool,
}

/// Everything.
pub(crate) const ALL: Compare = Compare { directory_times: true, symlink_xattrs: true, link_counts: true };

/// What one entry has beside its content and its children.
#[derive(Debug, PartialEq, Eq)]
struct Attributes {
    kind: FileType,
    mode: String,
    owner: (u32, u32),
    mtime: Option<(i64, u64)>,
    size: u64,
    device: Option<(u32, u32)>,
    links: u64,
    target: Option<Vec<u8>>,
    xattrs: Vec<(String, Vec<u8>)>,
}

struct Walk {
    compare: Compare,
    /// The first path of every file that has several, on either side.
    first: [HashMap<(u64, u64), String>; 2],
    found: Vec<String>,
    entries: u64,
}

impl Compare {
    /// Compares what lies at two paths, they themselves included. Fails with a list of what differs; gives the number
    /// of entries.
    #[track_caller]
    pub(crate) fn check(self, left: &Path, right: &Path) -> u64 {
        self.check_open(&Directory::open(left), &Directory::open(right))
    }

    /// The same for open directories.
    #[track_caller]
    pub(crate) fn check_open(self, left: &Directory, right: &Directory) -> u64 {
        let mut walk =
            Walk { compare: self, first: [HashMap::new(), HashMap::new()], found: Vec::new(), entries: 0 };
        walk.entry([left.at("."), right.at(".")], "");
        walk.directory([left, right], "");
        let shown = walk.found.len().min(40);
        assert!(
            walk.found.is_empty(),
            "{} differences, first on the left:\n{}",
            walk.found.len(),
            walk.found[..shown].join("\n")
        );
        walk.entries
    }
}

impl Walk {
    fn attributes(&self, at: At<'_>) -> Attributes {
        let stat = at.stat();
        let kind = FileType::from_raw_mode(stat.st_mode);
        let (is_directory, is_symlink) = (kind == FileType::Directory, kind == FileType::Symlink);
        let is_device = matches!(kind, FileType::CharacterDevice | FileType::BlockDevice);
        let has_size = kind == FileType::RegularFile || is_symlink;
        let with_time = !is_directory || self.compare.directory_times;
        let with_xattrs = !is_symlink || self.compare.symlink_xattrs;
        #[expect(clippy::unnecessary_cast, reason = "their types differ between systems")]
        Attributes {
            kind,
            mode: format!("{:04o}", stat.st_mode & 0o7777),
            owner: (stat.st_uid, stat.st_gid),
            mtime: with_time.then_some((stat.st_mtime as i64, stat.st_mtime_nsec as u64)),
            size: if has_size { stat.st_size as u64 } else { 0 },
            device: is_device.then(|| (fs::major(stat.st_rdev), fs::minor(stat.st_rdev))),
            links: if is_directory || !self.compare.link_counts { 0 } else { stat.st_nlink as u64 },
            target: is_symlink.then(|| at.target()),
            xattrs: if with_xattrs { at.xattrs() } else { Vec::new() },
        }
    }

    /// Compares two entries; whether both are directories.
    fn entry(&mut self, [left, right]: [At<'_>; 2], path: &str) -> bool {
        self.entries += 1;
        let (a, b) = (self.attributes(left), self.attributes(right));
        if a != b {
            self.found.push(format!("{path}\n  {}", describe(&a, &b)));
        }
        if a.kind != b.kind {
            return false;
        }
        if a.kind != FileType::Directory {
            let [a, b] = [(0, left.stat()), (1, right.stat())].map(|(side, stat)| {
                let name = || path.to_owned();
                self.first[side].entry((stat.st_dev, stat.st_ino)).or_insert_with(name).clone()
            });
            if a != b {
                self.found.push(format!("{path}\n  is linked to {a:?} and {b:?}"));
            }
        }
        if a.kind == FileType::RegularFile
            && a.size == b.size
            && let Some(at) = first_difference(&left.open(), &right.open(), a.size)
        {
            self.found.push(format!("{path}\n  contents differ at {at}"));
        }
        a.kind == FileType::Directory
    }

    fn directory(&mut self, [left, right]: [&Directory; 2], path: &str) {
        let (a, b) = (left.names(), right.names());
        for (names, others, side) in [(&a, &b, "left"), (&b, &a, "right")] {
            for name in names.iter().filter(|n| others.binary_search(n).is_err()) {
                self.found.push(format!("{path}/{}\n  is only on the {side}", name.escape_ascii()));
            }
        }
        for name in a.iter().filter(|n| b.binary_search(n).is_ok()) {
            let below = format!("{path}/{}", name.escape_ascii());
            if self.entry([left.at(name), right.at(name)], &below) {
                let (left, right) = (left.enter(name).unwrap(), right.enter(name).unwrap());
                self.directory([&left, &right], &below);
            }
        }
    }
}

/// What differs, and only that.
fn describe(a: &Attributes, b: &Attributes) -> String {
    let mut out = String::new();
    let fields = |x: &Attributes| {
        let short = |v: &[u8]| match v.len() {
            0..80 => v.escape_ascii().to_string(),
            n => format!("{}… ({n} bytes)", v[..80].escape_ascii()),
        };
        let xattrs: Vec<_> = x.xattrs.iter().map(|(n, v)| format!("{n}={}", short(v))).collect();
        vec![
            ("kind", format!("{:?}", x.kind)),
            ("mode", x.mode.clone()),
            ("owner", format!("{:?}", x.owner)),
            ("mtime", format!("{:?}", x.mtime)),
            ("size", x.size.to_string()),
            ("device", format!("{:?}", x.device)),
            ("links", x.links.to_string()),
            ("target", x.target.as_deref().map(short).unwrap_or_default()),
            ("xattrs", xattrs.join(" ")),
        ]
    };
    for ((name, a), (_, b)) in fields(a).into_iter().zip(fields(b)).filter(|(a, b)| a != b) {
        let _ = write!(out, "{name}: {a} and {b}; ");
    }
    if out.is_empty() { "extended attributes differ far behind".into() } else { out }
}

/// The first byte that differs. What is a hole on both sides is not read.
fn first_difference(left: &File, right: &File, size: u64) -> Option<u64> {
    let (mut a, mut b) = (vec![0; 256 << 10], vec![0; 256 << 10]);
    let mut at = 0;
    while at < size {
        let starts = [left, right].map(|f| next_data(f, at).unwrap_or(size));
        at = starts[0].min(starts[1]);
        let n = a.len().min((size - at) as usize);
        left.read_exact_at(&mut a[..n], at).unwrap();
        right.read_exact_at(&mut b[..n], at).unwrap();
        if a[..n] != b[..n] {
            let i = a.iter().zip(&b).position(|(x, y)| x != y).unwrap_or(0);
            return Some(at + i as u64);
        }
        at += n as u64;
    }
    None
}

/// Where the next data begins; `None` if there is none.
fn next_data(file: &File, at: u64) -> Option<u64> {
    match fs::seek(file, SeekFrom::Data(at)) {
        Ok(at) => Some(at),
        Err(Errno::NXIO) => None,
        // No such thing here: all is data.
        Err(_) => Some(at),
    }
}
