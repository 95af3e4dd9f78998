//! Which mounts run: one small file for each.

use std::io::{self, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::make_private;
use crate::mounts;

/// A mount that runs, or ran.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// Where, without symlinks.
    pub mountpoint: PathBuf,
    /// The store, without secrets.
    pub store: String,
    /// The process that serves it.
    pub pid: u32,
    /// When that process began, in the system's own ticks: tells it from a later one with the same number.
    pub started_ticks: u64,
    /// When it was mounted, seconds since 1970.
    pub mounted: i64,
}

impl Record {
    /// Whether its process runs.
    pub fn is_running(&self) -> bool {
        process_start(self.pid) == Some(self.started_ticks)
    }
}

/// Keeps a mount in the list while it runs.
#[derive(Debug)]
pub struct Registration {
    path: PathBuf,
}

impl Registration {
    /// Registers a mount of this process. `mountpoint` is that of the session, without symlinks.
    pub fn new(state: &Path, mountpoint: &Path, store: &str) -> io::Result<Self> {
        make_private(&directory(state))?;
        let pid = std::process::id();
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        let record = Record {
            mountpoint: mountpoint.into(),
            store: store.into(),
            pid,
            started_ticks: process_start(pid).unwrap_or(0),
            mounted: now.map_or(0, |d| i64::try_from(d.as_secs()).unwrap_or(i64::MAX)),
        };
        let path = path(state, mountpoint, "json");
        let unfinished = path.with_extension(format!("{pid}.new"));
        let mut file = std::fs::OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&unfinished)?;
        file.write_all(&serde_json::to_vec(&record)?)?;
        std::fs::rename(&unfinished, &path)?;
        Ok(Self { path })
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        // A newer mount at the same place has its own record there by now.
        if read_file(&self.path).is_some_and(|r| r.pid == std::process::id()) {
            let _stale_records_mean_nothing = std::fs::remove_file(&self.path);
        }
    }
}

/// The mounts that run, by mountpoint.
pub fn list(state: &Path) -> io::Result<Vec<Record>> {
    let files = match std::fs::read_dir(directory(state)) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        files => files?,
    };
    let mounted = mounts::table()?;
    let mut records = Vec::new();
    for file in files {
        let path = file?.path();
        if path.extension().is_none_or(|e| e != "json") {
            continue;
        }
        let Some(record) = read_file(&path) else { continue };
        if !record.is_running() {
            let _next_time = std::fs::remove_file(&path);
        } else if mounted.iter().any(|m| m.at == record.mountpoint && m.kind == mounts::KIND) {
            records.push(record);
        }
    }
    records.sort_by(|a, b| a.mountpoint.cmp(&b.mountpoint));
    Ok(records)
}

pub(super) fn directory(state: &Path) -> PathBuf {
    state.join("mounts")
}

pub(super) fn path(state: &Path, mountpoint: &Path, extension: &str) -> PathBuf {
    let mountpoint = mounts::resolve(mountpoint).unwrap_or_else(|_| mountpoint.to_owned());
    let hash = blake3::hash(mountpoint.as_os_str().as_bytes()).to_hex();
    directory(state).join(format!("{}.{extension}", &hash[..16]))
}

pub(super) fn read(state: &Path, mountpoint: &Path) -> Option<Record> {
    read_file(&path(state, mountpoint, "json"))
}

fn read_file(path: &Path) -> Option<Record> {
    serde_json::from_slice(&std::fs::read(path).ok()?).ok()
}

/// When a process began, in ticks since the system did; `None` if it does not run.
fn process_start(pid: u32) -> Option<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name stands in brackets and may hold anything.
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace();
    // A zombie has ended.
    if fields.next()? == "Z" {
        return None;
    }
    fields.nth(18)?.parse().ok()
}
