//! A store in a directory: one file per object, at the path that the format document gives it.
//!
//! An object is written to `tmp-…` in its own directory, fsynced, renamed without replacing anything, and
//! acknowledged once the directory is on disk too.

use std::collections::HashSet;
use std::fmt;
use std::fs::{self, DirBuilder, File, Metadata, TryLockError};
use std::io::{self, ErrorKind, Write};
use std::ops::Range;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use async_trait::async_trait;
use bytes::Bytes;
use parking_lot::Mutex;
use plakar_engine::id::ObjectId;
use plakar_engine::storage::{Area, Listed, ObjectName, PutObject, Store, StoreError, StoreErrorKind};
use rustix::buffer::spare_capacity;
use rustix::fs::{Mode, OFlags};
use rustix::io::{Errno, pread, retry_on_intr};
use tempfile::NamedTempFile;

use super::stat::nanoseconds;

/// What names of temporary files begin with.
const TEMPORARY: &str = "tmp-";
/// A temporary file that was not written to for so long is looked at more closely.
const LATELY_NS: i64 = 15 * 60 * 1_000_000_000;

/// Objects as files below a directory.
#[derive(Debug)]
pub struct FsStore {
    location: String,
    place: Arc<Place>,
}

#[derive(Debug)]
struct Place {
    root: PathBuf,
    /// Directories whose own names are known to be on disk.
    durable: Mutex<HashSet<PathBuf>>,
    /// Who may use what is made in it.
    sharing: OnceLock<Sharing>,
    /// Whether objects were met: where they were and nothing is now, the disk was taken away, and nothing is missing.
    seen: AtomicBool,
}

impl FsStore {
    /// Names a store; nothing is read or made yet. A relative path is taken from the current directory as it is now.
    pub fn new(path: PathBuf) -> Self {
        let location = path.display().to_string();
        // Fails only for an empty path or a current directory that is gone; using it then says so.
        let root = std::path::absolute(&path).unwrap_or(path);
        Self {
            location,
            place: Arc::new(Place {
                root,
                durable: Mutex::default(),
                sharing: OnceLock::new(),
                seen: AtomicBool::new(false),
            }),
        }
    }

    /// Lets the group of the store's directory use the store: what is made in it from now on is for that group too.
    ///
    /// # Errors
    /// The directory is another's, or has a group that its owner is not in: then the system does not let the group be handed
    /// down.
    pub fn share(path: &Path) -> io::Result<()> {
        fs::set_permissions(path, fs::Permissions::from_mode(0o2770))?;
        match Sharing::of(path) {
            Sharing::Group(_) => Ok(()),
            Sharing::Private => Err(io::Error::new(ErrorKind::PermissionDenied, "you are not in its group")),
        }
    }

    /// Runs file-system work where it may block.
    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(Arc<Place>) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let place = self.place.clone();
        joined(&self.place, tokio::task::spawn_blocking(move || work(place)).await)
    }
}

fn joined<T>(
    place: &Place,
    outcome: Result<Result<T, StoreError>, tokio::task::JoinError>,
) -> Result<T, StoreError> {
    outcome.unwrap_or_else(|e| Err(StoreError::new(StoreErrorKind::Other, "use", place, e)))
}

#[async_trait]
impl Store for FsStore {
    fn location(&self) -> String {
        self.location.clone()
    }

    fn local_path(&self) -> Option<&Path> {
        Some(&self.place.root)
    }

    async fn prepare(&self) -> Result<(), StoreError> {
        self.blocking(|place| place.prepare()).await
    }

    async fn list(&self, area: Area) -> Result<Vec<Listed>, StoreError> {
        self.blocking(move |place| place.present("list", place.list(area), Vec::is_empty)).await
    }

    async fn get(&self, name: ObjectName, range: Option<Range<u64>>) -> Result<Bytes, StoreError> {
        self.blocking(move |place| place.present("read", place.get(name, range), |_| false)).await
    }

    async fn stat(&self, name: ObjectName) -> Result<Listed, StoreError> {
        self.blocking(move |place| place.present("look at", place.stat(name), |_| false)).await
    }

    async fn put(&self, name: ObjectName) -> Result<Box<dyn PutObject>, StoreError> {
        self.blocking(move |place| {
            let file = place.temporary(name)?;
            Ok(Box::new(FsPut { place, name, file: Some(file) }) as Box<dyn PutObject>)
        })
        .await
    }

    async fn delete(&self, name: ObjectName) -> Result<(), StoreError> {
        self.blocking(move |place| match fs::remove_file(place.path(name)) {
            Err(e) if e.kind() != ErrorKind::NotFound => Err(StoreError::io("remove", name, e)),
            _ => Ok(()),
        })
        .await
    }

    async fn remove_unfinished(&self, now_ns: i64) -> Result<u64, StoreError> {
        self.blocking(move |place| place.remove_unfinished(now_ns)).await
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.root.display().fmt(f)
    }
}

impl Place {
    fn path(&self, name: ObjectName) -> PathBuf {
        self.root.join(name.path())
    }

    fn prepare(&self) -> Result<(), StoreError> {
        let fail = |e| StoreError::io("create", self, e);
        match self.is_void() {
            Ok(true) => Ok(()),
            Ok(false) => {
                Err(StoreError::new(StoreErrorKind::AlreadyExists, "create", self, "it is not empty"))
            }
            Err(e) if e.kind() == ErrorKind::NotFound => {
                let existing = self.root.ancestors().find(|a| a.exists());
                private_directories().recursive(true).create(&self.root).map_err(fail)?;
                // Each directory that was made is a new name in the one above it.
                let made = self.root.ancestors().take_while(|a| Some(*a) != existing);
                made.filter_map(Path::parent).try_for_each(sync_directory).map_err(fail)
            }
            Err(e) => Err(fail(e)),
        }
    }

    /// Whether there is nothing but folders of areas with nothing in them: a store that could not be made leaves such.
    fn is_void(&self) -> io::Result<bool> {
        for entry in fs::read_dir(&self.root)? {
            let entry = entry?;
            let is_area = Area::ALL.iter().any(|a| *a != Area::Config && entry.file_name() == a.name());
            if !is_area || !entry.file_type()?.is_dir() || fs::read_dir(entry.path())?.next().is_some() {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Looks twice at "not there" and "empty": a disk that was unmounted leaves an empty directory behind, or none.
    fn present<T>(
        &self,
        operation: &'static str,
        answer: Result<T, StoreError>,
        is_empty: impl Fn(&T) -> bool,
    ) -> Result<T, StoreError> {
        let nothing = match &answer {
            Ok(value) => is_empty(value),
            Err(e) => e.kind() == StoreErrorKind::NotFound,
        };
        if !nothing {
            self.seen.store(true, Ordering::Relaxed);
        } else if let Some(gone) = self.gone(operation) {
            return Err(gone);
        }
        answer
    }

    /// The failure of whatever is tried when all that was there is gone.
    fn gone(&self, operation: &'static str) -> Option<StoreError> {
        if !self.seen.load(Ordering::Relaxed) {
            return None;
        }
        match fs::read_dir(&self.root).and_then(|mut entries| entries.next().transpose()) {
            Ok(Some(_)) => None,
            // Nobody can tell.
            Err(e) if !matches!(e.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {
                Some(unseen(operation, self, e))
            }
            _ => {
                let why = "everything in it is gone: was the disk unmounted?";
                Some(StoreError::new(StoreErrorKind::Unavailable, operation, self, why))
            }
        }
    }

    /// Whether there is a place at all: what tells an empty area from a disk that is not mounted.
    fn check_root(&self, operation: &'static str) -> Result<(), StoreError> {
        match fs::metadata(&self.root) {
            Ok(m) if m.is_dir() => Ok(()),
            Ok(_) => Err(StoreError::new(StoreErrorKind::Unusable, operation, self, "it is not a directory")),
            Err(e) => Err(unseen(operation, self, e)),
        }
    }

    fn list(&self, area: Area) -> Result<Vec<Listed>, StoreError> {
        let mut found = Vec::new();
        if area == Area::Config {
            match self.stat(ObjectName::CONFIG) {
                Ok(listed) => found.push(listed),
                Err(e) if e.kind() == StoreErrorKind::NotFound => self.check_root("list")?,
                Err(e) => return Err(e),
            }
            return Ok(found);
        }
        let folder = self.root.join(area.name());
        let fail = |e| unlisted(&folder, e);
        let entries = match fs::read_dir(&folder) {
            Err(e) if e.kind() == ErrorKind::NotFound => {
                self.check_root("list")?;
                return Ok(found);
            }
            entries => entries.map_err(fail)?,
        };
        if !area.is_sharded() {
            collect(entries, None, &mut found).map_err(fail)?;
            return Ok(found);
        }
        for shard in entries {
            let shard = shard.map_err(fail)?;
            let Some(first) = shard.file_name().to_str().and_then(shard_byte) else { continue };
            match fs::read_dir(shard.path()) {
                Ok(entries) => {
                    collect(entries, Some(first), &mut found).map_err(|e| unlisted(&shard.path(), e))?;
                }
                // Somebody else's file, or a folder removed meanwhile.
                Err(e) if matches!(e.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {}
                Err(e) => return Err(unlisted(&shard.path(), e)),
            }
        }
        Ok(found)
    }

    fn stat(&self, name: ObjectName) -> Result<Listed, StoreError> {
        let path = self.path(name);
        let meta = fs::symlink_metadata(path).map_err(|e| unseen("look at", name, e))?;
        if !meta.is_file() {
            return Err(StoreError::new(StoreErrorKind::Unreadable, "look at", name, "it is not a file"));
        }
        Ok(listed(name.id, &meta))
    }

    fn get(&self, name: ObjectName, range: Option<Range<u64>>) -> Result<Bytes, StoreError> {
        let fail = |e| unreadable(name, e);
        let shorter = || StoreError::new(StoreErrorKind::OutOfRange, "read", name, "it is shorter");
        let (file, length) = self.open(name)?;
        // Before memory is set aside: a damaged index cannot ask for terabytes.
        let range = match range {
            None => 0..length,
            Some(r) if r.start > r.end || r.end > length => return Err(shorter()),
            Some(r) => r,
        };
        let wanted = usize::try_from(range.end - range.start).map_err(|_| shorter())?;
        let mut bytes = Vec::with_capacity(wanted);
        while bytes.len() < wanted {
            let at = range.start + bytes.len() as u64;
            match pread(&file, spare_capacity(&mut bytes), at) {
                Ok(0) => return Err(shorter()),
                Ok(_) | Err(Errno::INTR) => {}
                Err(e) => return Err(fail(e.into())),
            }
        }
        // The allocator may have given more room than was asked for, and then more was read.
        bytes.truncate(wanted);
        Ok(bytes.into())
    }

    /// Opens an object, and gives its length. Whatever else stands in its place is refused: a FIFO would otherwise be waited for until somebody
    /// writes into it.
    fn open(&self, name: ObjectName) -> Result<(File, u64), StoreError> {
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
        let opened = retry_on_intr(|| rustix::fs::open(self.path(name), flags, Mode::empty()));
        let file = File::from(opened.map_err(|e| unreadable(name, e.into()))?);
        let meta = file.metadata().map_err(|e| unreadable(name, e))?;
        if !meta.is_file() {
            return Err(StoreError::new(StoreErrorKind::Unreadable, "read", name, "it is not a file"));
        }
        Ok((file, meta.len()))
    }

    /// Makes a temporary file beside where the object will stand. Areas and shards are made as they are needed, the
    /// root never: a disk that is not mounted must not become a new store on the disk below.
    fn temporary(&self, name: ObjectName) -> Result<NamedTempFile, StoreError> {
        let fail = |e| StoreError::io("write", name, e);
        let path = self.path(name);
        let folder = path.parent().unwrap_or(&self.root);
        // Files of this kind are made 0600.
        let make = || {
            let file = tempfile::Builder::new().prefix(TEMPORARY).tempfile_in(folder)?;
            self.sharing().open_file(file.as_file())?;
            io::Result::Ok(file)
        };
        match make() {
            Err(e) if e.kind() == ErrorKind::NotFound => {
                if let Some(gone) = self.gone("write to") {
                    return Err(gone);
                }
                self.check_root("write")?;
                self.durable.lock().remove(folder);
                self.make_folder(folder).map_err(fail)?;
                make().map_err(fail)
            }
            made => made.map_err(fail),
        }
        // Tells that somebody is at work on it, where locks are to be had.
        .inspect(|file| drop(file.as_file().try_lock()))
    }

    /// Makes a folder in the store, and the area that it is in.
    fn make_folder(&self, folder: &Path) -> io::Result<()> {
        let Sharing::Group(mode) = self.sharing() else {
            return private_directories().recursive(true).create(folder);
        };
        let missing: Vec<&Path> = folder.ancestors().take_while(|f| *f != self.root && !f.exists()).collect();
        for folder in missing.into_iter().rev() {
            // Under another name first: whoever else comes by finds none, or one that is the group's already.
            let above = folder.parent().unwrap_or(&self.root);
            let made = tempfile::Builder::new().prefix(TEMPORARY).tempdir_in(above)?;
            fs::set_permissions(made.path(), fs::Permissions::from_mode(0o700 | mode))?;
            match rename_if_free(made.path(), folder) {
                Ok(()) => drop(made.keep()),
                Err(Errno::EXIST | Errno::NOTEMPTY) => {}
                Err(e) => return Err(e.into()),
            }
        }
        Ok(())
    }

    fn sharing(&self) -> Sharing {
        *self.sharing.get_or_init(|| Sharing::of(&self.root))
    }

    /// Removes temporary files of writers that are no more; gives how many may be such and are too new to tell.
    fn remove_unfinished(&self, now_ns: i64) -> Result<u64, StoreError> {
        let mut left = 0;
        let mut folders: Vec<PathBuf> = vec![self.root.clone()];
        for area in Area::ALL {
            let folder = self.root.join(area.name());
            if area.is_sharded()
                && let Ok(entries) = fs::read_dir(&folder)
            {
                let shards = entries
                    .flatten()
                    .filter(|e| e.file_name().to_str().is_some_and(|n| shard_byte(n).is_some()));
                folders.extend(shards.map(|e| e.path()));
            }
            folders.push(folder);
        }
        for folder in folders {
            let entries = match fs::read_dir(&folder) {
                Err(e) if matches!(e.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => continue,
                entries => entries.map_err(|e| StoreError::io("list", folder.display(), e))?,
            };
            for entry in entries.flatten() {
                if entry.file_name().to_str().is_some_and(|n| n.starts_with(TEMPORARY)) {
                    let is_gone =
                        is_abandoned(&entry.path(), now_ns) && fs::remove_file(entry.path()).is_ok();
                    left += u64::from(!is_gone);
                }
            }
        }
        Ok(left)
    }

    fn finish(&self, name: ObjectName, file: NamedTempFile) -> Result<Listed, StoreError> {
        let fail = |e: io::Error| match e.kind() {
            // What it was written to has no name any more.
            ErrorKind::NotFound => self.gone("write to").unwrap_or_else(|| StoreError::io("write", name, e)),
            _ => StoreError::io("write", name, e),
        };
        let path = self.path(name);
        // A lease speaks for a run that goes on: it need not outlive the machine, and every command would wait for it.
        let outlives = name.area != Area::Leases;
        if outlives {
            file.as_file().sync_all().map_err(fail)?;
        }
        let file = file.persist_noclobber(&path).map_err(|e| fail(e.error))?;
        if outlives {
            self.sync_folders(path.parent().unwrap_or(&self.root)).map_err(fail)?;
        }
        Ok(listed(name.id, &file.metadata().map_err(fail)?))
    }

    /// Puts a directory's names on disk, and once the names of the directories up to the root. Whoever made them may
    /// not have got so far yet, so that this process does it once itself for each that it uses.
    fn sync_folders(&self, folder: &Path) -> io::Result<()> {
        sync_directory(folder)?;
        let known = self.durable.lock().contains(folder);
        if known || folder == self.root {
            return Ok(());
        }
        for above in folder.ancestors().skip(1) {
            sync_directory(above)?;
            if above == self.root {
                break;
            }
        }
        self.durable.lock().insert(folder.to_path_buf());
        Ok(())
    }
}

/// An object under way. The file is `None` while it is being written to and after a failed or interrupted write:
/// what has a gap must not get a name.
struct FsPut {
    place: Arc<Place>,
    name: ObjectName,
    file: Option<NamedTempFile>,
}

impl FsPut {
    fn take(&mut self) -> Result<NamedTempFile, StoreError> {
        self.file.take().ok_or_else(|| {
            StoreError::new(StoreErrorKind::Other, "write", self.name, "an earlier write did not succeed")
        })
    }
}

#[async_trait]
impl PutObject for FsPut {
    async fn write(&mut self, bytes: Bytes) -> Result<(), StoreError> {
        let (mut file, name) = (self.take()?, self.name);
        let written = tokio::task::spawn_blocking(move || {
            file.write_all(&bytes).map_err(|e| StoreError::io("write", name, e))?;
            Ok(file)
        });
        self.file = Some(joined(&self.place, written.await)?);
        Ok(())
    }

    async fn finish(mut self: Box<Self>) -> Result<Listed, StoreError> {
        let (file, name, place) = (self.take()?, self.name, self.place.clone());
        let finished = tokio::task::spawn_blocking(move || place.finish(name, file));
        joined(&self.place, finished.await)
    }

    async fn abort(mut self: Box<Self>) {
        let file = self.file.take();
        // Where even this fails, a temporary file is left, which nobody takes for an object.
        let _ = tokio::task::spawn_blocking(move || drop(file)).await;
    }
}

/// Whether nobody is at work on a temporary file: nothing was written to it lately, and nobody has locked it. Each alone
/// would not do: locks may not reach other machines, and a writer may be slow.
fn is_abandoned(path: &Path, now_ns: i64) -> bool {
    let flags = OFlags::RDWR | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOFOLLOW;
    let Ok(file) = rustix::fs::open(path, flags, Mode::empty()).map(File::from) else { return false };
    let Ok(meta) = file.metadata() else { return false };
    let age = now_ns.saturating_sub(nanoseconds(meta.mtime(), meta.mtime_nsec()));
    meta.is_file() && age > LATELY_NS && !matches!(file.try_lock(), Err(TryLockError::WouldBlock))
}

/// A failure to list a folder of the store.
fn unlisted(folder: &Path, e: io::Error) -> StoreError {
    // What a damaged disk says, and a server that has lost the folder.
    const LOST: [Errno; 4] = [Errno::IO, Errno::BADMSG, Errno::UCLEAN, Errno::STALE];
    let is_lost = Errno::from_io_error(&e).is_some_and(|e| LOST.contains(&e));
    let e = StoreError::io("list", folder.display(), e);
    if is_lost { e.with_kind(StoreErrorKind::Unreadable) } else { e }
}

/// A failure to read one object: of that object alone, unless the machine has run out of something.
fn unreadable(name: ObjectName, e: io::Error) -> StoreError {
    let errno = Errno::from_io_error(&e);
    if errno == Some(Errno::NOENT) {
        return StoreError::new(StoreErrorKind::NotFound, "read", name, "it is missing");
    }
    let exhausted = matches!(errno, Some(Errno::MFILE | Errno::NFILE | Errno::NOMEM | Errno::NOBUFS));
    match StoreError::io("read", name, e) {
        e if exhausted || e.is_retryable() => e,
        e => e.with_kind(StoreErrorKind::Unreadable),
    }
}

/// A failure to see what there is. What a cable or a network file system says in a bad moment is worth another try.
fn unseen(operation: &'static str, subject: impl fmt::Display, e: io::Error) -> StoreError {
    let may_pass = matches!(Errno::from_io_error(&e), Some(Errno::IO | Errno::STALE));
    match StoreError::io(operation, subject, e) {
        e if may_pass => e.with_kind(StoreErrorKind::Unavailable),
        e => e,
    }
}

/// The folder `ab` holds ids that begin with 0xab.
fn shard_byte(name: &str) -> Option<u8> {
    let is_hex = name.len() == 2 && name.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    u8::from_str_radix(name, 16).ok().filter(|_| is_hex)
}

/// Adds what is an object by its name; `first` is what its id must begin with. What is no file is one too: whoever reads it
/// learns that something else stands in its place, where it would be missed by nobody otherwise.
fn collect(entries: fs::ReadDir, first: Option<u8>, found: &mut Vec<Listed>) -> io::Result<()> {
    for entry in entries {
        let entry = entry?;
        let Some(id) = entry.file_name().to_str().and_then(ObjectId::from_hex) else { continue };
        if first.is_some_and(|b| b != id.0[0]) {
            continue;
        }
        match entry.metadata() {
            Ok(meta) => found.push(listed(id, &meta)),
            // Deleted since the directory was read.
            Err(e) if e.kind() == ErrorKind::NotFound => {}
            Err(e) => return Err(e),
        }
    }
    Ok(())
}

fn listed(id: ObjectId, meta: &Metadata) -> Listed {
    Listed { id, len: meta.len(), modified_ns: nanoseconds(meta.mtime(), meta.mtime_nsec()) }
}

/// Who may use what is made in a store, whatever the umask says: its owner alone, or the group of its directory, if that hands
/// the group down (set-group-id) and lets it write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sharing {
    Private,
    /// The permission bits of its directory.
    Group(u32),
}

/// Set-group-id, and that the group may write.
const SHARED: u32 = 0o2020;

impl Sharing {
    fn of(root: &Path) -> Self {
        let mode = fs::metadata(root).map_or(0, |m| m.mode() & 0o7777);
        if mode & SHARED == SHARED { Self::Group(mode) } else { Self::Private }
    }

    /// Lets the group at a file that was made for its owner alone.
    fn open_file(self, file: &File) -> io::Result<()> {
        match self {
            Self::Private => Ok(()),
            Self::Group(mode) => file.set_permissions(fs::Permissions::from_mode(0o600 | mode & 0o066)),
        }
    }
}

fn rename_if_free(from: &Path, to: &Path) -> Result<(), Errno> {
    use rustix::fs::{CWD, RenameFlags, renameat, renameat_with};
    match renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE) {
        // File systems that cannot: over a folder with something in it nothing is renamed, over an empty one it does no harm.
        Err(Errno::INVAL | Errno::NOSYS) => renameat(CWD, from, CWD, to),
        renamed => renamed,
    }
}

fn private_directories() -> DirBuilder {
    let mut builder = DirBuilder::new();
    builder.mode(0o700);
    builder
}

fn sync_directory(path: &Path) -> io::Result<()> {
    match File::open(path)?.sync_all() {
        // Some network file systems have no such call for directories; their servers decide.
        Err(e) if e.kind() == ErrorKind::InvalidInput => Ok(()),
        synced => synced,
    }
}
