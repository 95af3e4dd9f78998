//! A directory of this machine as a destination.
//!
//! Files grow without a name, or under a temporary one where the file system has no such thing, and get their own when they
//! are whole; everything else is made under its own name where that is free, and under a temporary one where something is
//! replaced.

mod attributes;
mod file;
mod parents;
mod same;

use std::fmt::{self, Debug};
use std::fs;
use std::hash::{BuildHasher, RandomState};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use plakar_engine::exporter::{Attributes, ExportError, ExportFile, Exporter, Made, Overwrite};
use plakar_engine::meta::{InodeFlags, Kind, Timestamp};
use rustix::fs::{
    AtFlags, CWD, FileType, Mode, OFlags, StatxAttributes, StatxFlags, linkat, makedev, mkdirat, mknodat,
    openat, renameat, statat, statx, symlinkat, unlinkat,
};
use rustix::io::{Errno, retry_on_intr};

use super::{flags, stat};
use attributes::{Object, Setter};
use file::FsExportFile;
use parents::{Beginning, Parent, Parents};

/// What to set on restored things.
#[derive(Clone, Copy, Debug)]
pub struct FsExportOptions {
    /// Set owner, mode, ACLs, file capabilities, project, and flags that forbid changes. Otherwise things belong to whoever
    /// restores, with the recorded permissions as far as the umask leaves them.
    pub permissions: bool,
    /// Set extended attributes, and with them ACLs.
    pub xattrs: bool,
}

impl Default for FsExportOptions {
    fn default() -> Self {
        Self { permissions: true, xattrs: true }
    }
}

/// A directory to restore to.
#[derive(Debug)]
pub struct FsExporter {
    location: String,
    /// The directory itself was made for this restore.
    is_new: bool,
    overwrite: Overwrite,
    options: FsExportOptions,
    parents: Parents,
    names: Arc<TemporaryNames>,
    /// Files can be made without a name: nothing is left of them if this process dies, and giving them one costs less than
    /// changing it.
    nameless: AtomicBool,
}

/// A failed call in words; `what` is the operation.
fn failed(what: &str, e: Errno) -> ExportError {
    ExportError::io(what, &io::Error::from(e))
}

fn in_the_way() -> ExportError {
    ExportError::new("exists already")
}

/// What stands at a name, as the overwrite policy sees it.
enum Place {
    Free,
    Replace,
    Keep,
}

impl FsExporter {
    /// Opens a destination, and makes the directory and those above it where they are missing. Symlinks in `target`
    /// are followed, those found in it never.
    ///
    /// Directories are not subject to the policy like the rest: one that is there is used; it gets the recorded
    /// attributes under [`Overwrite::Always`] and [`Overwrite::IfNewer`], and keeps its own otherwise.
    pub fn new(target: PathBuf, overwrite: Overwrite, options: FsExportOptions) -> Result<Self, ExportError> {
        super::raise_open_files_limit();
        let is_new = !target.exists();
        fs::create_dir_all(&target).map_err(|e| ExportError::io("create destination", &e))?;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = openat(CWD, &target, flags, Mode::empty()).map_err(|e| failed("open destination", e))?;
        Ok(Self {
            location: target.display().to_string(),
            is_new,
            overwrite,
            options,
            parents: Parents::new(root),
            names: Arc::new(TemporaryNames::new()),
            // By its place there a file can be named by anybody.
            nameless: AtomicBool::new(Path::new("/proc/self/fd").exists()),
        })
    }

    /// Applies the policy to what stands at a name.
    fn examine(&self, parent: &Parent, name: &[u8], mtime: Timestamp) -> Result<Place, ExportError> {
        let found = match statat(&parent.fd, name, AtFlags::SYMLINK_NOFOLLOW) {
            Err(Errno::NOENT) => return Ok(Place::Free),
            found => found.map_err(|e| failed("stat", e))?,
        };
        match self.overwrite {
            Overwrite::Never => Ok(Place::Keep),
            Overwrite::Error => Err(in_the_way()),
            Overwrite::IfNewer if stat::mtime(&found) >= mtime => Ok(Place::Keep),
            Overwrite::IfNewer if stat::kind(&found) == Some(Kind::Directory) => {
                Err(ExportError::new("a directory is in its place"))
            }
            Overwrite::Always | Overwrite::IfNewer => Ok(Place::Replace),
        }
    }

    /// Makes something that is not written to: at its own name if that is free, else as the policy says.
    ///
    /// `make` returns the name it used, so that attributes can be set before a replacement becomes visible.
    fn make_at(
        &self,
        parent: &Parent,
        name: &[u8],
        mtime: Timestamp,
        make: impl Fn(&[u8]) -> rustix::io::Result<()>,
        finish: impl FnOnce(&[u8]) -> Result<Vec<String>, ExportError>,
    ) -> Result<(Made, Vec<String>), ExportError> {
        match make(name) {
            Ok(()) => return Ok((Made::Yes, finish(name)?)),
            Err(Errno::EXIST) => {}
            Err(e) => return Err(failed("create", e)),
        }
        if let Place::Keep = self.examine(parent, name, mtime)? {
            return Ok((Made::Kept, Vec::new()));
        }
        Ok((Made::Yes, self.make_over(parent, name, self.overwrite, make, finish)?))
    }

    /// Makes something in place of what stands at a name.
    fn make_over(
        &self,
        parent: &Parent,
        name: &[u8],
        policy: Overwrite,
        make: impl Fn(&[u8]) -> rustix::io::Result<()>,
        finish: impl FnOnce(&[u8]) -> Result<Vec<String>, ExportError>,
    ) -> Result<Vec<String>, ExportError> {
        let ((), temporary) = self.names.make(&make)?;
        let placed = finish(&temporary).and_then(|refused| {
            replace(parent, &temporary, name, policy)?;
            Ok(refused)
        });
        // Also after success: renaming a name over another one of the same file does nothing at all.
        let _ = unlinkat(&parent.fd, temporary.as_slice(), AtFlags::empty());
        placed
    }

    /// Takes the directory that is there, or says why that cannot be.
    fn take_directory(&self, parent: &Parent, name: &[u8]) -> Result<Made, ExportError> {
        let found = statat(&parent.fd, name, AtFlags::SYMLINK_NOFOLLOW).map_err(|e| failed("stat", e))?;
        let takes_over = matches!(self.overwrite, Overwrite::Always | Overwrite::IfNewer);
        match stat::kind(&found) {
            Some(Kind::Directory) if takes_over => {
                if found.st_mode & 0o700 != 0o700 && self.options.permissions {
                    // Refused where it is not ours; then it is writable anyway, or what goes into it says why not.
                    let _ = open_directory(parent, name)
                        .and_then(|fd| rustix::fs::fchmod(fd, Mode::from(found.st_mode | 0o700)));
                }
                Ok(Made::Yes)
            }
            Some(Kind::Directory) => Ok(Made::Kept),
            _ if self.overwrite == Overwrite::Always => {
                unlinkat(&parent.fd, name, AtFlags::empty()).map_err(|e| failed("remove", e))?;
                mkdirat(&parent.fd, name, self.directory_mode()).map_err(|e| failed("create", e))?;
                Ok(Made::Yes)
            }
            _ => Err(in_the_way()),
        }
    }

    fn directory_mode(&self) -> Mode {
        Mode::from(if self.options.permissions { 0o700 } else { 0o777 })
    }

    /// Sets everything on an open directory.
    fn finish_open(&self, fd: BorrowedFd<'_>, has_foreign: bool, attributes: Attributes<'_>) -> Vec<String> {
        let mut refused = self.setter().set(&Object::open(fd, has_foreign), attributes);
        refused.extend(self.setter().lock(fd, attributes));
        refused
    }

    /// Makes a file without a name in a directory; `None` where there is no such thing.
    fn make_nameless(&self, parent: &Parent, mode: Mode) -> Result<Option<OwnedFd>, ExportError> {
        if !self.nameless.load(Ordering::Relaxed) {
            return Ok(None);
        }
        let flags = OFlags::WRONLY | OFlags::TMPFILE | OFlags::CLOEXEC;
        match retry_on_intr(|| openat(&parent.fd, c".", flags, mode)) {
            Ok(fd) => Ok(Some(fd)),
            Err(Errno::OPNOTSUPP | Errno::INVAL | Errno::ISDIR) => {
                self.nameless.store(false, Ordering::Relaxed);
                Ok(None)
            }
            Err(e) => Err(failed("create", e)),
        }
    }

    fn setter(&self) -> Setter {
        Setter::new(self.options)
    }
}

impl Exporter for FsExporter {
    fn finish(&self) -> Result<(), ExportError> {
        rustix::fs::syncfs(self.parents.root()).map_err(|e| failed("sync", e))
    }

    fn location(&self) -> String {
        self.location.clone()
    }

    fn make_directory(&self, path: &[u8], wanted: InodeFlags) -> Result<Made, ExportError> {
        if path.is_empty() {
            let ours = self.is_new || matches!(self.overwrite, Overwrite::Always | Overwrite::IfNewer);
            return Ok(if ours { Made::Yes } else { Made::Kept });
        }
        let (parent, name) = self.parents.of(path)?;
        match mkdirat(&parent.fd, name, self.directory_mode()) {
            Ok(()) => {
                self.parents.made(path);
                if wanted != InodeFlags::default() {
                    // Where it cannot be opened now, it cannot at the end, and that is told.
                    let _begun = open_directory(&parent, name).map(|fd| flags::begin(&fd, wanted));
                }
                Ok(Made::Yes)
            }
            Err(Errno::EXIST) => self.take_directory(&parent, name),
            Err(e) => Err(failed("create", e)),
        }
    }

    fn create_file(
        &self,
        path: &[u8],
        attributes: Attributes<'_>,
    ) -> Result<Option<Box<dyn ExportFile>>, ExportError> {
        let (parent, name) = self.parents.of(path)?;
        let meta = attributes.meta;
        // Under `Always` there is nothing to know before the rename. In a directory of our own nothing can be, and
        // what is nevertheless makes the rename fail under all others but `IfNewer`.
        let needs_no_look = match self.overwrite {
            Overwrite::Always => true,
            Overwrite::Never | Overwrite::Error => parent.is_ours,
            Overwrite::IfNewer => false,
        };
        if !needs_no_look && let Place::Keep = self.examine(&parent, name, meta.mtime)? {
            return Ok(None);
        }
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let beginning = if self.options.permissions {
            parent.beginning(meta, attributes.xattrs.is_empty())
        } else {
            Beginning { mode: meta.mode & 0o777, birth: None }
        };
        let mode = Mode::from(beginning.mode);
        let (fd, temporary) = match self.make_nameless(&parent, mode)? {
            Some(fd) => (fd, None),
            None => {
                let make = |name: &[u8]| retry_on_intr(|| openat(&parent.fd, name, flags, mode));
                let (fd, temporary) = self.names.make(make)?;
                (fd, Some(temporary))
            }
        };
        flags::begin(&fd, attributes.flags);
        let place = file::Place { parent, temporary, name: name.to_vec(), names: self.names.clone() };
        let file = FsExportFile::new(fd, place, beginning, meta.size, self.overwrite, self.setter());
        Ok(Some(Box::new(file)))
    }

    fn make_special(
        &self,
        path: &[u8],
        target: Option<&[u8]>,
        attributes: Attributes<'_>,
    ) -> Result<(Made, Vec<String>), ExportError> {
        let meta = attributes.meta;
        let node = match meta.kind {
            Kind::Symlink => None,
            Kind::Fifo => Some(FileType::Fifo),
            Kind::Socket => Some(FileType::Socket),
            Kind::CharDevice => Some(FileType::CharacterDevice),
            Kind::BlockDevice => Some(FileType::BlockDevice),
            Kind::Missing | Kind::Regular | Kind::Directory => {
                return Err(ExportError::new("not a special file"));
            }
        };
        let (parent, name) = self.parents.of(path)?;
        let mode = Mode::from(if self.options.permissions { 0o600 } else { meta.mode & 0o777 });
        let device = makedev(meta.rdev.0, meta.rdev.1);
        let make = |name: &[u8]| match node {
            Some(kind) => mknodat(&parent.fd, name, kind, mode, device),
            None => symlinkat(target.unwrap_or_default(), &parent.fd, name),
        };
        self.make_at(&parent, name, meta.mtime, make, |name| {
            let object = Object::named(&parent, name, meta.kind)?;
            Ok(self.setter().set(&object, attributes))
        })
    }

    fn make_link(&self, path: &[u8], existing: &[u8]) -> Result<Made, ExportError> {
        let (from, existing) = self.parents.of(existing)?;
        let (parent, name) = self.parents.of(path)?;
        let make = |name: &[u8]| link(&from, existing, &parent, name);
        let found = statat(&from.fd, existing, AtFlags::SYMLINK_NOFOLLOW).map_err(|e| failed("stat", e))?;
        let (made, _) = self.make_at(&parent, name, stat::mtime(&found), make, |_| Ok(Vec::new()))?;
        Ok(made)
    }

    fn join(&self, path: &[u8], existing: &[u8]) -> Result<(), ExportError> {
        let (from, existing) = self.parents.of(existing)?;
        let (parent, name) = self.parents.of(path)?;
        if !same::is_same(&from, existing, &parent, name).map_err(|e| failed("compare", e))? {
            return Ok(());
        }
        let make = |name: &[u8]| link(&from, existing, &parent, name);
        // A plain rename, whatever the policy: nothing is lost with what it replaces.
        self.make_over(&parent, name, Overwrite::IfNewer, make, |_| Ok(Vec::new())).map(drop)
    }

    fn finish_directory(&self, path: &[u8], attributes: Attributes<'_>) -> Result<Vec<String>, ExportError> {
        if path.is_empty() {
            return Ok(self.finish_open(self.parents.root().as_fd(), true, attributes));
        }
        let (parent, name) = self.parents.of(path)?;
        let fd = open_directory(&parent, name).map_err(|e| failed("open", e))?;
        let is_ours = self.parents.forget(path);
        let has_foreign = !is_ours || parent.gives_acl;
        Ok(self.finish_open(fd.as_fd(), has_foreign, attributes))
    }
}

/// Gives a file another name, also where its flags forbid it: then they are off meanwhile.
fn link(from: &Parent, existing: &[u8], parent: &Parent, name: &[u8]) -> rustix::io::Result<()> {
    let link = || linkat(&from.fd, existing, &parent.fd, name, AtFlags::empty());
    match link() {
        Err(Errno::PERM) => {}
        linked => return linked,
    }
    let file = same::open(from, existing)?;
    let locks = flags::unlock(&file)?;
    let linked = link();
    flags::lock(&file, locks).and(linked)
}

fn open_directory(parent: &Parent, name: &[u8]) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    openat(&parent.fd, name, flags, Mode::empty())
}

/// Gives a file without a name one that is free.
fn name(fd: BorrowedFd<'_>, parent: &Parent, name: &[u8]) -> rustix::io::Result<()> {
    let path = format!("/proc/self/fd/{}", fd.as_raw_fd());
    linkat(CWD, path, &parent.fd, name, AtFlags::SYMLINK_FOLLOW)
}

/// Gives something its name in place of its temporary one.
fn replace(parent: &Parent, temporary: &[u8], name: &[u8], policy: Overwrite) -> Result<(), ExportError> {
    use rustix::fs::{RenameFlags, renameat_with};
    let rename = || renameat(&parent.fd, temporary, &parent.fd, name);
    let renamed = match policy {
        Overwrite::Always => rename().or_else(|e| match e {
            // An empty directory may go; one that is not empty makes this fail.
            Errno::ISDIR => {
                unlinkat(&parent.fd, name, AtFlags::REMOVEDIR)?;
                rename()
            }
            e => Err(e),
        }),
        Overwrite::IfNewer => rename(),
        // Nothing was there when the file was begun; what has come since stays.
        Overwrite::Never | Overwrite::Error => {
            match renameat_with(&parent.fd, temporary, &parent.fd, name, RenameFlags::NOREPLACE) {
                Err(Errno::INVAL | Errno::NOSYS) => rename(),
                renamed => renamed,
            }
        }
    };
    renamed.map_err(|e| match e {
        Errno::EXIST if policy != Overwrite::Always => in_the_way(),
        Errno::NOTEMPTY | Errno::EXIST => ExportError::new("a directory that is not empty is in its place"),
        Errno::PERM if is_locked(parent, name) => {
            ExportError::new("what is in its place is immutable or append-only (chattr -i -a)")
        }
        e => failed("rename", e),
    })
}

fn is_locked(parent: &Parent, name: &[u8]) -> bool {
    let found = statx(&parent.fd, name, AtFlags::SYMLINK_NOFOLLOW, StatxFlags::TYPE);
    let locks = StatxAttributes::IMMUTABLE | StatxAttributes::APPEND;
    found.is_ok_and(|found| found.stx_attributes.intersects(locks))
}

/// Names that nobody else uses: `.plakar-`, a random number of this restore, a counter.
struct TemporaryNames {
    seed: u64,
    next: AtomicU64,
}

impl TemporaryNames {
    fn new() -> Self {
        Self { seed: RandomState::new().hash_one(std::process::id()), next: AtomicU64::new(0) }
    }

    /// Makes something under a new name. `make` must fail with `EEXIST` rather than take what is there.
    fn make<T>(&self, make: impl Fn(&[u8]) -> rustix::io::Result<T>) -> Result<(T, Vec<u8>), ExportError> {
        loop {
            let number = self.next.fetch_add(1, Ordering::Relaxed);
            let name = format!(".plakar-{:016x}{number:x}", self.seed).into_bytes();
            match make(&name) {
                Ok(made) => return Ok((made, name)),
                Err(Errno::EXIST) => {}
                Err(e) => return Err(failed("create", e)),
            }
        }
    }
}

impl Debug for TemporaryNames {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TemporaryNames").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use plakar_engine::meta::Metadata;

    use super::*;

    #[test]
    fn files_are_made_alike_with_and_without_names_that_do_not_last() {
        for nameless in [true, false] {
            let directory = tempfile::tempdir().unwrap();
            let at = |overwrite| {
                let made =
                    FsExporter::new(directory.path().into(), overwrite, FsExportOptions::default()).unwrap();
                made.nameless.store(nameless, Ordering::Relaxed);
                made
            };
            let uid = rustix::process::geteuid().as_raw();
            let gid = rustix::process::getegid().as_raw();
            let meta = Metadata { kind: Kind::Regular, mode: 0o640, uid, gid, ..Metadata::directory(0) };
            let attributes = Attributes { meta: &meta, xattrs: &[], flags: InodeFlags::default() };
            let write = |to: &FsExporter, text: &str| {
                let file = to.create_file(b"file", attributes).unwrap()?;
                assert_eq!(
                    names(directory.path()).iter().filter(|n| *n != "file").count(),
                    usize::from(!nameless)
                );
                file.write_at(text.as_bytes(), 0).unwrap();
                Some(file.finish(attributes).map_err(|e| e.to_string()))
            };
            assert_eq!(write(&at(Overwrite::Error), "one"), Some(Ok(vec![])));
            assert_eq!(write(&at(Overwrite::Always), "two"), Some(Ok(vec![])));
            assert_eq!(write(&at(Overwrite::Never), "three"), None);
            assert_eq!(fs::read(directory.path().join("file")).unwrap(), b"two");
            // What has come since the file was begun stays.
            fs::remove_file(directory.path().join("file")).unwrap();
            let never = at(Overwrite::Never);
            let late = never.create_file(b"file", attributes).unwrap().unwrap();
            fs::write(directory.path().join("file"), "another's").unwrap();
            assert_eq!(late.finish(attributes).unwrap_err().to_string(), "exists already");
            assert_eq!(fs::read(directory.path().join("file")).unwrap(), b"another's");
            assert_eq!(names(directory.path()), ["file"]);
        }
    }

    fn names(at: &Path) -> Vec<std::ffi::OsString> {
        fs::read_dir(at).unwrap().map(|e| e.unwrap().file_name()).collect()
    }
}
