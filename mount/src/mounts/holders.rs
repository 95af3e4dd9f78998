//! Who keeps a mount busy. Reads links and tables of /proc and never touches the mount itself, which may not answer.

use std::fmt;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use super::text_lies_in;

/// A process that uses something in a mount.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Holder {
    /// Its number.
    pub pid: u32,
    /// Its name.
    pub name: String,
    /// What it uses, for people.
    pub how: &'static str,
    /// Which path.
    pub path: PathBuf,
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({}): {} {}", self.name, self.pid, self.how, self.path.display())
    }
}

/// Processes that use something at or below a path, as far as this user may see.
pub(crate) fn holders(mountpoint: &Path) -> Vec<Holder> {
    let Ok(processes) = fs::read_dir("/proc") else { return Vec::new() };
    let mut found: Vec<Holder> = processes
        .filter_map(|entry| {
            let entry = entry.ok()?;
            let pid: u32 = entry.file_name().to_str()?.parse().ok()?;
            let (how, path) = usage(&entry.path(), mountpoint)?;
            let name = fs::read_to_string(entry.path().join("comm")).unwrap_or_default();
            Some(Holder { pid, name: name.trim_end().to_owned(), how, path })
        })
        .collect();
    found.sort_by_key(|h| h.pid);
    found
}

fn usage(process: &Path, mountpoint: &Path) -> Option<(&'static str, PathBuf)> {
    let leads_in =
        |link: &Path| fs::read_link(link).ok().filter(|to| text_lies_in(to.as_os_str(), mountpoint));
    if let Some(path) = leads_in(&process.join("cwd")) {
        return Some(("is in", path));
    }
    if let Some(path) = leads_in(&process.join("root")) {
        return Some(("has its root in", path));
    }
    let open = fs::read_dir(process.join("fd")).into_iter().flatten().flatten();
    if let Some(path) = open.filter_map(|fd| leads_in(&fd.path())).next() {
        return Some(("has open", path));
    }
    let maps = fs::read(process.join("maps")).unwrap_or_default();
    maps.split(|b| *b == b'\n').find_map(|line| {
        let at = line.iter().position(|b| *b == b'/')?;
        let path = std::ffi::OsStr::from_bytes(&line[at..]);
        text_lies_in(path, mountpoint).then(|| ("has mapped", PathBuf::from(path)))
    })
}
