//! The filesystem itself: inodes, names, attributes and bytes in plain types. It knows no kernel and serves any
//! adapter: FUSE here, others by the same calls.
//!
//! Calls are futures that are ready at once when everything they need is in memory. Every wait for the store has a
//! deadline; no lock is held across one. What fails is logged with the snapshot and path, and reaches the caller as
//! an [`FsError`].

mod about;
mod attr;
mod contents;
mod dirs;
mod folders;
pub(crate) mod history;
mod inodes;
mod listing;
pub(crate) mod names;
pub(crate) mod neighbours;
mod travel;
mod tree;

use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::RwLock;
use plakar_engine::error::{Error, Result, report};
use plakar_engine::meta::Timestamp;
use plakar_engine::repository::Repository;
use plakar_engine::snapshot::Snapshot;
use plakar_engine::tree::{Detail, Entry};
use plakar_engine::vfs::Vfs;
use tokio::runtime::Handle;

use crate::activity::Activity;
use crate::cache::CachedFrames;
use crate::config::{FsConfig, What, Xattrs};
use crate::error::FsError;
use crate::readahead::Readahead;
use crate::view::{Change, Folder, Target, View};
use attr::Shape;
use folders::{Folders, Run};
use inodes::{Inode, Inodes, Numbers};
use tree::Dir;

pub use about::Status;
pub use attr::{Attr, BLOCK_SIZE};
pub use contents::Seek;
pub use inodes::ROOT;
pub use listing::{Item, Stretch};
pub use neighbours::{Following, Given};

/// Longest name that the kernel's protocol carries.
const MAX_NAME: usize = 1024;

/// How long what a lookup gave holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Holds {
    /// Nothing below a snapshot ever changes.
    ForEver,
    /// Until the snapshots that are shown change.
    WithTheView,
    /// It is another one each time.
    Once,
}

impl Holds {
    /// How long a name in a view leads to what it stands for.
    fn of(target: &Target) -> Self {
        match target {
            Target::Text(_) => Self::Once,
            Target::Folder(_) | Target::Link(_) | Target::Snapshot(_) => Self::WithTheView,
        }
    }
}

/// What a lookup gave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lookup {
    /// The name is there; its inode is held until it is forgotten.
    Found {
        /// Its attributes.
        attr: Attr,
        /// How long the name leads there.
        holds: Holds,
    },
    /// There is no such name.
    Missing {
        /// How long there is none.
        holds: Holds,
    },
}

/// What `df` says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Statistics {
    /// Bytes of all files shown, by their lengths.
    pub bytes: u64,
    /// Entries shown.
    pub files: u64,
}

tokio::task_local! {
    /// When the request that a task works for must be answered.
    static DUE: Instant;
}

/// Snapshots as a filesystem.
#[derive(Debug)]
pub struct SnapshotFs {
    repository: Arc<Repository>,
    config: FsConfig,
    frames: Arc<CachedFrames>,
    folders: Arc<Folders>,
    inodes: Inodes,
    dirs: dirs::Dirs,
    numbers: Numbers,
    owners: attr::Owners,
    xattrs: bool,
    view: RwLock<Arc<View>>,
    readahead: Readahead,
    walks: neighbours::Walks,
    histories: history::Histories,
    activity: Activity,
    opened: Instant,
    runtime: Handle,
}

impl SnapshotFs {
    /// Over a repository. Loads run on the runtime that this is called on.
    ///
    /// # Errors
    /// The catalogue cannot be read; or one snapshot was asked for and it or its path cannot be found.
    pub async fn open(repository: Arc<Repository>, config: FsConfig) -> Result<Arc<Self>> {
        let runtime = Handle::current();
        match config.disk_cache_bytes {
            Some(bytes) => repository.use_disk_cache(bytes)?,
            None => {
                if let Err(e) = repository.use_disk_cache(repository.default_disk_cache()) {
                    tracing::warn!(error = report(&e), "frames are not cached on this machine");
                }
            }
        }
        let catalog = repository.catalog().await?;
        for (id, e) in &catalog.broken {
            tracing::warn!(snapshot = %id, error = report(e), "a snapshot cannot be read and is not shown");
        }
        // Names at the root need no index: it is read while somebody looks at them.
        let early = repository.clone();
        runtime.spawn(async move {
            if let Err(e) = early.index().await {
                tracing::error!(error = report(&e), "the index cannot be read");
            }
        });
        let shares = Shares::of(config.cache_bytes);
        let frames = CachedFrames::new(repository.clone(), shares.data, shares.meta, runtime.clone());
        let frames = Arc::new(frames.with_patience(config.deadline));
        let vfs = Vfs::new(repository.clone(), frames.clone());
        let folders = Arc::new(Folders::new(vfs, shares.folders));
        let numbers = Numbers::new(repository.keys());
        let (view, root) = match &config.what {
            What::Store => {
                (View::new(&catalog, &config.filter, config.skip_damaged), Inode::Folder(Arc::from(&b""[..])))
            }
            What::Snapshot { snapshot, path } => {
                let found = catalog.snapshots.iter().find(|s| s.id == *snapshot);
                let found = found.ok_or_else(|| Error::NoSnapshot { what: snapshot.to_string() })?;
                repository.index().await?;
                let path = path.clone().unwrap_or_else(|| found.base());
                let root = descend(&folders, &numbers, found.clone(), &path).await?;
                (View::default(), Inode::Directory(root))
            }
        };
        let some_xattrs = match &root {
            Inode::Directory(dir) => {
                !dir.entry.xattrs.is_empty() || dir.entry.directory().is_some_and(|(_, below)| below.xattrs)
            }
            _ => view.snapshots().iter().any(|s| has_xattrs(&s.snapshot)),
        };
        let xattrs = match config.xattrs {
            Xattrs::On => true,
            Xattrs::Off => false,
            Xattrs::Auto => some_xattrs,
        };
        let readahead = Readahead::new(frames.clone(), folders.vfs().clone(), runtime.clone());
        Ok(Arc::new(Self {
            repository,
            frames,
            folders,
            inodes: Inodes::new(root),
            dirs: dirs::Dirs::default(),
            numbers,
            owners: attr::Owners::new(&config),
            xattrs,
            view: RwLock::new(Arc::new(view)),
            readahead,
            walks: neighbours::Walks::default(),
            histories: history::Histories::default(),
            activity: Activity::default(),
            opened: Instant::now(),
            runtime,
            config,
        }))
    }

    /// The repository below.
    pub fn repository(&self) -> &Arc<Repository> {
        &self.repository
    }

    /// The runtime that loads run on.
    pub fn runtime(&self) -> &Handle {
        &self.runtime
    }

    /// The cache of frames.
    pub fn frames(&self) -> &CachedFrames {
        &self.frames
    }

    /// Notes a file that was put into the kernel's cache.
    #[cfg(target_os = "linux")]
    pub(crate) fn note_pushed(&self, bytes: u64) {
        self.activity.pushed_files.add(1);
        self.activity.pushed_bytes.add(bytes);
    }

    /// Whether extended attributes are shown.
    pub fn shows_xattrs(&self) -> bool {
        self.xattrs
    }

    /// How many inodes are held.
    pub fn held_inodes(&self) -> usize {
        self.inodes.len()
    }

    /// The names at the root, as they are now.
    pub fn view(&self) -> Arc<View> {
        self.view.read().clone()
    }

    /// Looks for snapshots that have come or gone, and changes the names at the root; says which the kernel has to
    /// forget. While nothing has changed it costs three listings.
    pub async fn refresh(&self) -> Result<Vec<Change>> {
        if self.config.what != What::Store {
            return Ok(Vec::new());
        }
        let seen = *self.view().listing();
        let Some(catalog) = self.repository.catalog_since(&seen).await? else { return Ok(Vec::new()) };
        let mut view = View::new(&catalog, &self.config.filter, self.config.skip_damaged);
        if self.config.xattrs == Xattrs::Auto
            && !self.xattrs
            && view.snapshots().iter().any(|s| has_xattrs(&s.snapshot))
        {
            tracing::warn!("a new snapshot has extended attributes; they show when it is mounted again");
        }
        let mut current = self.view.write();
        let changes = view.succeed(&current, now_ns());
        *current = Arc::new(view);
        Ok(changes)
    }

    /// The inode number of a view's directory, by path: to tell the kernel about changes.
    pub fn folder_number(&self, path: &[u8]) -> u64 {
        if path.is_empty() { ROOT } else { self.numbers.of_folder(path).first_number() }
    }

    /// Finds a name in a directory and holds its inode.
    pub async fn lookup(&self, parent: u64, name: &[u8]) -> Result<Lookup, FsError> {
        self.activity.lookups.one();
        if name.len() > MAX_NAME {
            return Err(FsError::NameTooLong);
        }
        match self.inode(parent).await? {
            Inode::Folder(path) => self.lookup_in_view(&path, name).await,
            Inode::Directory(dir) => {
                let found = self.within(&dir, Some(name), self.folders.find(dir.node(), name)).await?;
                let shown = found.as_ref().and_then(|(run, position)| {
                    let entry = run.at(*position)?;
                    (!matches!(entry.detail, Detail::Missing)).then_some((entry, *position))
                });
                match shown {
                    Some((entry, position)) => {
                        let attr = self.hold_entry(&dir, entry, position);
                        Ok(Lookup::Found { attr, holds: Holds::ForEver })
                    }
                    None if parent == ROOT && name == about::FOLDER => {
                        self.lookup_in_view(&Arc::from(&b""[..]), name).await
                    }
                    None => self.lookup_at_another_time(&dir, name).await,
                }
            }
            Inode::Leaf(..) | Inode::Link(_) | Inode::Text(_) => Err(FsError::NotDirectory),
        }
    }

    async fn lookup_in_view(&self, path: &Arc<[u8]>, name: &[u8]) -> Result<Lookup, FsError> {
        let view = self.view();
        let folder = self.folder(&view, path).await?;
        if let Some(item) = folder.as_ref().and_then(|f| f.item(name)) {
            let holds = Holds::of(&item.target);
            return Ok(Lookup::Found { attr: self.hold_item(&view, path, item), holds });
        }
        if let Some(names) = folder.as_ref().and_then(|f| f.names.as_ref())
            && let Some(rank) = names.find(name)
        {
            return Ok(Lookup::Found { attr: self.hold_name(names, rank), holds: Holds::WithTheView });
        }
        self.lookup_unlisted(&view, path, name).await
    }

    /// A directory of a view, by its path from the root.
    async fn folder(&self, view: &Arc<View>, path: &[u8]) -> Result<Option<Arc<Folder>>, FsError> {
        if let Some(folder) = self.about(view, path) {
            return Ok(Some(Arc::new(folder)));
        }
        if let Some(folder) = view.folder(path) {
            return Ok(Some(folder.clone()));
        }
        self.history(view, path).await
    }

    /// When the names in a directory of a view last changed.
    fn folder_time(&self, view: &View, path: &[u8]) -> Timestamp {
        let folder = view.folder(path).or_else(|| view.folder(b"snapshots"));
        folder.map(|f| f.mtime).unwrap_or_default()
    }

    /// Takes back lookups of an inode.
    pub fn forget(&self, ino: u64, lookups: u64) {
        self.inodes.forget(ino, lookups);
    }

    /// Attributes of an inode.
    pub async fn attributes(&self, ino: u64) -> Result<Attr, FsError> {
        self.activity.attributes.one();
        match self.inode(ino).await? {
            Inode::Directory(dir) => Ok(self.attr_of_dir(&dir)),
            Inode::Leaf(dir, position) => {
                let run = self.run(&dir, position).await?;
                Ok(self.owners.attr(ino, run.at(position).ok_or(FsError::Failed)?))
            }
            Inode::Folder(path) => {
                let time = self.folder_time(&self.view(), &path);
                Ok(self.owners.attr_of_view(ino, Shape::Folder, time))
            }
            Inode::Link(link) => Ok(self.owners.attr_of_view(ino, Shape::Link(link.to.len()), link.mtime)),
            Inode::Text(text) => Ok(self.owners.attr_of_view(ino, Shape::Text(text.bytes.len()), text.mtime)),
        }
    }

    /// What is shown, added up.
    pub fn statistics(&self) -> Statistics {
        let mut all = Statistics::default();
        let mut add = |below: &plakar_engine::tree::Summary| {
            all.bytes = all.bytes.saturating_add(below.bytes);
            all.files = all.files.saturating_add(below.entries());
        };
        match self.inodes.root() {
            Some(dir) => dir.entry.directory().iter().for_each(|(_, below)| add(below)),
            None => self.view().snapshots().iter().for_each(|s| add(&s.snapshot.summary())),
        }
        all
    }

    /// The entries around a position of a directory.
    async fn run(&self, dir: &Dir, position: u32) -> Result<Run, FsError> {
        let run = self.within(dir, None, self.folders.run_at(dir.node(), position)).await?;
        run.ok_or_else(|| {
            let (snapshot, path) = name_of(dir, None);
            tracing::error!(snapshot, path, position, "a directory is shorter than it was");
            FsError::Failed
        })
    }

    async fn entry(&self, dir: &Dir, position: u32) -> Result<Entry, FsError> {
        let run = self.run(dir, position).await?;
        run.at(position).cloned().ok_or(FsError::Failed)
    }

    fn attr_of_dir(&self, dir: &Dir) -> Attr {
        let mut attr = match dir.above {
            true => self.owners.attr_above(dir.ino, &dir.entry),
            false => self.owners.attr(dir.ino, &dir.entry),
        };
        // Snapshots list by their time; a `/` that was itself backed up keeps its own.
        if dir.parent.is_none() && dir.above {
            attr.mtime = crate::view::timestamp(dir.tree.snapshot.time_ns);
        }
        attr
    }

    /// Does the work of one request: all that it waits for together takes no longer than a request may.
    pub fn request<F: Future>(&self, work: F) -> impl Future<Output = F::Output> + use<F> {
        DUE.scope(Instant::now() + self.config.deadline, work)
    }

    /// How long it may still be waited for: until the request is due, or as long as a request may take where there is none.
    fn time_left(&self) -> Duration {
        let left = |due: &Instant| due.saturating_duration_since(Instant::now());
        DUE.try_with(left).unwrap_or(self.config.deadline)
    }

    /// Waits for the store, but not for ever, and logs a failure with what was asked for.
    async fn within<T>(
        &self,
        dir: &Dir,
        name: Option<&[u8]>,
        work: impl Future<Output = Result<T>>,
    ) -> Result<T, FsError> {
        let with_index = async {
            self.repository.index().await?;
            work.await
        };
        match tokio::time::timeout(self.time_left(), with_index).await {
            Ok(Ok(value)) => Ok(value),
            Ok(Err(e)) => {
                let (snapshot, path) = name_of(dir, name);
                tracing::error!(snapshot, path, error = report(&e), "cannot read");
                if e.is_timeout() {
                    self.activity.timed_out.one();
                    return Err(FsError::TimedOut);
                }
                self.activity.failed.one();
                Err(FsError::Failed)
            }
            Err(_elapsed) => {
                self.activity.timed_out.one();
                let (snapshot, path) = name_of(dir, name);
                let seconds = self.config.deadline.as_secs_f32();
                tracing::error!(snapshot, path, seconds, "the store did not answer in time");
                Err(FsError::TimedOut)
            }
        }
    }
}

/// How memory for caches is divided. A walk through many small files that are read in another order than they are
/// stored in has some 30 MiB of them under way: with half of that a third of the kernel's source was decoded twice.
struct Shares {
    data: u64,
    meta: u64,
    folders: u64,
}

impl Shares {
    fn of(bytes: u64) -> Self {
        let (meta, folders) = (bytes / 8, bytes / 4);
        Self { data: bytes - meta - folders, meta, folders }
    }
}

/// The directory at a path of a snapshot, as the root.
async fn descend(
    folders: &Folders,
    numbers: &Numbers,
    snapshot: Arc<Snapshot>,
    path: &[u8],
) -> Result<Arc<Dir>> {
    let shown = || String::from_utf8_lossy(path).into_owned();
    let missing = || Error::NoPath { path: shown(), snapshot: snapshot.id.short() };
    let mut dir = Dir::top(snapshot.clone(), ROOT, numbers);
    for name in path.split(|b| *b == b'/').filter(|p| !p.is_empty() && *p != b".") {
        let (run, position) = folders.find(dir.node(), name).await?.ok_or_else(missing)?;
        let entry = run.at(position).ok_or_else(missing)?;
        if entry.directory().is_none() {
            return Err(Error::WrongPath {
                path: shown(),
                reason: "not a directory, so it cannot be mounted",
            });
        }
        dir = dir.child(entry, position, ROOT, numbers);
    }
    Ok(dir)
}

fn has_xattrs(snapshot: &Snapshot) -> bool {
    snapshot.summary().xattrs || !snapshot.root.xattrs.is_empty()
}

fn name_of(dir: &Dir, name: Option<&[u8]>) -> (String, String) {
    let path = name.map_or_else(|| dir.path(), |name| dir.path_of(name));
    (dir.tree.snapshot.id.short(), String::from_utf8_lossy(&path).into_owned())
}

/// Now, ns since 1970.
fn now_ns() -> i64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    now.map_or(0, |d: Duration| i64::try_from(d.as_nanos()).unwrap_or(i64::MAX))
}
