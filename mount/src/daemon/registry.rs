//! Which mounts run: a small file for each, and a socket beside it at which its process says how it is.
//!
//! A mount is never looked at to find out: one that does not answer would hold up whoever asks.

use std::io::{self, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::make_private;
use super::status::{self, Service};
use crate::mounts::{self, Mounted};

/// A mount that runs, or ran.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// Where, without symlinks.
    #[serde(with = "any_path")]
    pub mountpoint: PathBuf,
    /// The store, without secrets.
    pub store: String,
    /// What of it, in the words of the command line; `None`: all of it.
    #[serde(default)]
    pub shows: Option<String>,
    /// The process that serves it.
    pub pid: u32,
    /// When that process began, in the system's own ticks: tells it from a later one with the same number.
    pub started_ticks: u64,
    /// When it was mounted, seconds since 1970.
    pub mounted: i64,
    /// Its log, if it has one of its own.
    #[serde(default)]
    pub log: Option<String>,
    /// Whether the directory was made for it and goes with it.
    #[serde(default)]
    pub directory_made: bool,
}

impl Record {
    /// A mount that this process serves from now on.
    pub fn new(mountpoint: impl Into<PathBuf>, store: impl Into<String>) -> Self {
        let pid = std::process::id();
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        Self {
            mountpoint: mountpoint.into(),
            store: store.into(),
            shows: None,
            pid,
            started_ticks: process_start(pid).unwrap_or(0),
            mounted: now.map_or(0, |d| i64::try_from(d.as_secs()).unwrap_or(i64::MAX)),
            log: None,
            directory_made: false,
        }
    }

    /// Whether its process runs.
    pub fn is_running(&self) -> bool {
        process_start(self.pid) == Some(self.started_ticks)
    }
}

/// Keeps a mount in the list while it runs.
#[derive(Debug)]
pub struct Registration {
    path: PathBuf,
    _service: Option<Service>,
}

impl Registration {
    /// Registers a mount of this process, whose mountpoint is that of the session, without symlinks; `status` says how
    /// it is, whenever somebody asks.
    pub fn new(
        state: &Path,
        record: &Record,
        status: impl Fn() -> Value + Send + 'static,
    ) -> io::Result<Self> {
        make_private(&directory(state))?;
        let path = path(state, &record.mountpoint, "json");
        let unfinished = path.with_extension(format!("{}.new", record.pid));
        let mut file = std::fs::OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&unfinished)?;
        file.write_all(&serde_json::to_vec(record)?)?;
        std::fs::rename(&unfinished, &path)?;
        // Only now: a mount that was here before would take the socket away with its record.
        let service = status::serve(&socket(&path), status);
        let service = service.map_err(|e| tracing::warn!(%e, "nobody can ask the mount how it is")).ok();
        Ok(Self { path, _service: service })
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        // A newer mount at the same place has its own record there by now.
        if read_file(&self.path).is_some_and(|r| r.pid == std::process::id()) {
            remove(&self.path);
        }
    }
}

/// How a registered mount is.
#[derive(Clone, Debug, PartialEq)]
pub enum State {
    /// Its process answers: so.
    Alive(Value),
    /// Its process runs and does not answer.
    Silent,
    /// Its process runs, the mount has been taken from its place.
    Detached,
    /// Its process has gone, the mount still stands and gives errors.
    Dead,
}

/// All records, each with its file.
fn records(state: &Path) -> io::Result<Vec<(PathBuf, Record)>> {
    let files = match std::fs::read_dir(directory(state)) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        files => files?,
    };
    let mut records = Vec::new();
    for file in files {
        let path = file?.path();
        if path.extension().is_some_and(|e| e == "json")
            && let Some(record) = read_file(&path)
        {
            records.push((path, record));
        }
    }
    Ok(records)
}

/// Those whose process has gone and whose directory was made for them in `place`.
pub(super) fn left_in(state: &Path, place: &Path) -> io::Result<Vec<Record>> {
    let left = |r: &Record| r.directory_made && r.mountpoint.parent() == Some(place) && !r.is_running();
    Ok(records(state)?.into_iter().map(|(_, record)| record).filter(left).collect())
}

/// The mounts of this user, by mountpoint, each with how it is. None is waited for longer than two seconds.
///
/// Records of processes that have gone without leaving anything are removed.
pub fn list(state: &Path) -> io::Result<Vec<(Record, State)>> {
    let mounted = mounts::table()?;
    let mut found = Vec::new();
    for (path, record) in records(state)? {
        let stands = mounted.iter().any(|m| is_at(m, &record.mountpoint));
        match (record.is_running(), stands) {
            (false, false) => forget(&path, &record),
            (running, stands) => found.push((path, record, running, stands)),
        }
    }
    // All at once: several that do not answer take no longer than one.
    let mut listed: Vec<(Record, State)> = std::thread::scope(|scope| {
        let asked: Vec<_> = found
            .into_iter()
            .map(|(path, record, running, stands)| {
                let how = move || match (running, stands) {
                    (false, _) => State::Dead,
                    (true, false) => State::Detached,
                    (true, true) => status::ask(&socket(&path)).map_or(State::Silent, State::Alive),
                };
                (record, scope.spawn(how))
            })
            .collect();
        asked.into_iter().map(|(record, how)| (record, how.join().unwrap_or(State::Silent))).collect()
    });
    listed.sort_by(|(a, _), (b, _)| a.mountpoint.cmp(&b.mountpoint));
    Ok(listed)
}

/// What is registered at a place.
pub fn find(state: &Path, mountpoint: &Path) -> Option<Record> {
    read_file(&path(state, mountpoint, "json"))
}

fn is_at(mounted: &Mounted, place: &Path) -> bool {
    mounted.at == place && mounted.kind == mounts::KIND
}

pub(super) fn directory(state: &Path) -> PathBuf {
    state.join("mounts")
}

pub(super) fn path(state: &Path, mountpoint: &Path, extension: &str) -> PathBuf {
    let mountpoint = mounts::resolve(mountpoint).unwrap_or_else(|_| mountpoint.to_owned());
    let hash = blake3::hash(mountpoint.as_os_str().as_bytes()).to_hex();
    directory(state).join(format!("{}.{extension}", &hash[..16]))
}

/// Takes what a process that has gone has left: its record, its socket, and the directory if that was made for it.
pub(super) fn clear(state: &Path, record: &Record) {
    forget(&path(state, &record.mountpoint, "json"), record);
}

fn forget(path: &Path, record: &Record) {
    if record.directory_made {
        // What is not empty stays.
        let _ = std::fs::remove_dir(&record.mountpoint);
    }
    remove(path);
}

fn remove(path: &Path) {
    for file in [&socket(path), path] {
        let _stale_ones_mean_nothing = std::fs::remove_file(file);
    }
}

fn socket(path: &Path) -> PathBuf {
    path.with_extension("sock")
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

/// A path as text, or as its bytes where it is none.
mod any_path {
    use std::ffi::OsString;
    use std::os::unix::ffi::{OsStrExt, OsStringExt};
    use std::path::{Path, PathBuf};

    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    #[derive(Serialize, Deserialize)]
    #[serde(untagged)]
    enum Form {
        Text(String),
        Bytes(Vec<u8>),
    }

    pub(super) fn serialize<S: Serializer>(path: &Path, to: S) -> Result<S::Ok, S::Error> {
        match path.to_str() {
            Some(text) => Form::Text(text.to_owned()),
            None => Form::Bytes(path.as_os_str().as_bytes().to_vec()),
        }
        .serialize(to)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<PathBuf, D::Error> {
        Ok(match Form::deserialize(from)? {
            Form::Text(text) => text.into(),
            Form::Bytes(bytes) => OsString::from_vec(bytes).into(),
        })
    }
}
