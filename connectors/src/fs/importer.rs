//! Directories and files of this machine as a source.

mod directory;
mod file;
mod mounts;
mod volume;

use std::collections::{HashMap, HashSet};
use std::fs;
use std::io;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;
use plakar_engine::importer::{ImportError, Importer, SourceDirectory, SourceEntry};
use rustix::fs::CWD;

use directory::{FsDirectory, examine};
use mounts::{Mount, OwnMounts};
use volume::Volumes;

/// What to take of a source.
#[derive(Clone, Copy, Debug)]
pub struct FsImportOptions {
    /// Leave directories empty where another file system is mounted, or the same one once more. What the given paths
    /// stand on, and what is on the way to a path that stands below another one, belongs to the source.
    pub one_file_system: bool,
    /// Read extended attributes, and with them ACLs.
    pub xattrs: bool,
}

impl Default for FsImportOptions {
    fn default() -> Self {
        Self { one_file_system: false, xattrs: true }
    }
}

/// Paths of this machine, opened for one run.
#[derive(Debug)]
pub struct FsImporter {
    origin: String,
    roots: Vec<Vec<u8>>,
    source: Arc<Source>,
    users: Names,
    groups: Names,
}

/// What every open directory needs to know.
#[derive(Debug)]
struct Source {
    options: FsImportOptions,
    /// Mounts that are part of the source, under `one_file_system`.
    mounts: HashSet<Mount>,
    own_mounts: OwnMounts,
    volumes: Volumes,
}

impl FsImporter {
    /// Takes the paths to back up. Relative ones are made absolute, symlinks in them and at their end are followed
    /// now, and a path at or below another one is covered by that.
    ///
    /// Fails when there is none, or none of them exists and can be reached; if others do, the backup says what became
    /// of those that do not.
    pub fn new(paths: Vec<PathBuf>, options: FsImportOptions) -> Result<Self, ImportError> {
        super::raise_open_files_limit();
        if paths.is_empty() {
            return Err(ImportError::new("no path given"));
        }
        let failed = |path: &Path, e| ImportError::new(format!("{}: {e}", path.display()));
        let (mut resolved, mut failure) = (Vec::with_capacity(paths.len()), None);
        for path in &paths {
            match fs::canonicalize(path) {
                Ok(path) => resolved.push(path),
                Err(e) => {
                    // What stands above it may be reached through symlinks all the same.
                    resolved.push(resolve_missing(path).map_err(|e| failed(path, e))?);
                    failure.get_or_insert((path, e));
                }
            }
        }
        if let Some((path, e)) = failure
            && paths.iter().all(|p| fs::canonicalize(p).is_err())
        {
            return Err(failed(path, e));
        }
        // By components, so that what is below a path follows it at once.
        resolved.sort_unstable();
        let mut roots: Vec<PathBuf> = Vec::new();
        let mut mounts = HashSet::new();
        for path in resolved {
            let Some(root) = roots.last().filter(|r| path.starts_with(r)) else {
                roots.push(path);
                continue;
            };
            for step in path.ancestors().take_while(|p| p != root).filter(|_| options.one_file_system) {
                mounts.insert(Mount::of(CWD, step).map_err(|e| failed(step, e.into()))?);
            }
        }
        Ok(Self {
            origin: rustix::system::uname().nodename().to_string_lossy().into_owned(),
            roots: roots.into_iter().map(|r| r.into_os_string().into_vec()).collect(),
            source: Arc::new(Source {
                options,
                mounts,
                own_mounts: OwnMounts::default(),
                volumes: Volumes::default(),
            }),
            users: Names::default(),
            groups: Names::default(),
        })
    }
}

/// Where something that does not exist would stand.
fn resolve_missing(path: &Path) -> io::Result<PathBuf> {
    let absolute = std::path::absolute(path)?;
    let (Some(above), Some(name)) = (absolute.parent(), absolute.file_name()) else { return Ok(absolute) };
    Ok(fs::canonicalize(above).map_or_else(|_| absolute.clone(), |above| above.join(name)))
}

impl Importer for FsImporter {
    fn kind(&self) -> &str {
        "fs"
    }

    fn origin(&self) -> &str {
        &self.origin
    }

    fn roots(&self) -> &[Vec<u8>] {
        &self.roots
    }

    fn entry(&self, path: &[u8]) -> Result<SourceEntry, ImportError> {
        let mut entry = examine(CWD, path)?;
        entry.name = path.rsplit(|b| *b == b'/').next().unwrap_or_default().to_vec();
        Ok(entry)
    }

    fn directory(&self, path: &[u8]) -> Result<Arc<dyn SourceDirectory>, ImportError> {
        Ok(Arc::new(FsDirectory::open(CWD, path, &self.source)?))
    }

    fn user_name(&self, uid: u32) -> Option<String> {
        self.users.of(uid, |uid| Some(uzers::get_user_by_uid(uid)?.name().to_str()?.to_owned()))
    }

    fn group_name(&self, gid: u32) -> Option<String> {
        self.groups.of(gid, |gid| Some(uzers::get_group_by_gid(gid)?.name().to_str()?.to_owned()))
    }
}

/// Names by number, asked for once: behind the question may stand a directory service.
#[derive(Debug, Default)]
struct Names(Mutex<HashMap<u32, Option<String>>>);

impl Names {
    fn of(&self, number: u32, ask: impl FnOnce(u32) -> Option<String>) -> Option<String> {
        let mut known = self.0.lock();
        known.entry(number).or_insert_with(|| ask(number)).clone()
    }
}
