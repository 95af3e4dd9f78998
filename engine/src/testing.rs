//! For tests: a source in memory, stores that fail on purpose or are watched, and a snapshot's tree as plain values.

mod decoders;
pub mod faulty;
pub mod watched;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

pub use decoders::{DECODERS, decode};

use crate::cache::LocalDirs;
use crate::cancel::Cancel;
use crate::crypto::kdf::KdfParams;
use crate::error::Result;
use crate::importer::{
    ImportError, Importer, ListedName, Listing, SourceDirectory, SourceEntry, SourceFile, Stamp,
};
use crate::keyslot::UserSecret;
use crate::meta::{Kind, Metadata, Timestamp, Xattr};
use crate::monitor::Silent;
use crate::ops::backup::{BackupOptions, BackupReport, backup};
use crate::repository::recent::RecentFrames;
use crate::repository::{CreateOptions, Probe, Repository, create};
use crate::snapshot::Snapshot;
use crate::storage::Store;
use crate::tree::{Detail, Entry};
use crate::vfs::Vfs;
use crate::walk::{Step, Walk};
use parking_lot::Mutex;

/// The passphrase of every test store.
pub fn secret() -> UserSecret {
    UserSecret::passphrase("correct horse battery staple")
}

/// A key derivation that costs nothing.
pub fn cheap_kdf() -> KdfParams {
    KdfParams { memory_kib: 64, passes: 1, lanes: 1, salt: [7; 32] }
}

/// Options for a store with small chunks, so that small files have many.
pub fn small_chunks() -> CreateOptions {
    let chunks = crate::chunker::ChunkSizes { min: 1 << 10, avg: 4 << 10, max: 16 << 10 };
    CreateOptions { kdf: Some(cheap_kdf()), chunks: Some(chunks), ..CreateOptions::default() }
}

/// Directories for local state below a temporary one.
pub fn local_dirs(base: &Path) -> LocalDirs {
    LocalDirs { cache: base.join("cache"), state: base.join("state") }
}

/// Makes a sealed test store.
pub async fn new_store(store: &Arc<dyn Store>) -> Result<()> {
    create(store, Some(&secret()), &small_chunks()).await.map(|_| ())
}

/// Opens a test store.
pub async fn open(store: &Arc<dyn Store>, dirs: &LocalDirs) -> Result<Arc<Repository>> {
    let probe = Probe::read(store).await?;
    let secret = probe.needs_secret().then(secret);
    Repository::open(store.clone(), probe, secret, dirs).await
}

/// A node of a source in memory.
#[derive(Clone, Debug)]
pub struct Fixture {
    /// Metadata; kind and size follow from `what`.
    pub meta: Metadata,
    /// Contents or children.
    pub what: What,
    /// Extended attributes.
    pub xattrs: Vec<Xattr>,
    /// Change stamp: by default derived from the contents' address in the tree and a counter.
    pub ctime_ns: i64,
    /// Equal numbers are one file.
    pub inode: u64,
    /// Names it has.
    pub links: u64,
    /// Its blocks of 4 KiB that are all zeros are holes.
    pub sparse: bool,
}

/// What a fixture is.
#[derive(Clone, Debug)]
pub enum What {
    /// A file's bytes.
    File(Vec<u8>),
    /// A file that cannot be opened.
    Unreadable(u64),
    /// A directory.
    Directory(BTreeMap<Vec<u8>, Fixture>),
    /// A symlink.
    Symlink(Vec<u8>),
    /// A FIFO.
    Fifo,
}

static INODES: AtomicU64 = AtomicU64::new(1);

impl Fixture {
    fn new(kind: Kind, size: u64, what: What) -> Self {
        let meta = Metadata {
            kind,
            mode: if kind == Kind::Directory { 0o755 } else { 0o644 },
            uid: 1000,
            gid: 100,
            mtime: Timestamp { sec: 1_600_000_000, nsec: 123_456_789 },
            size,
            rdev: (0, 0),
            born: None,
        };
        let inode = INODES.fetch_add(1, Ordering::Relaxed);
        Self {
            meta,
            what,
            xattrs: vec![],
            ctime_ns: 1_600_000_000_000_000_000 + inode as i64,
            inode,
            links: 1,
            sparse: false,
        }
    }

    /// A file.
    pub fn file(bytes: impl Into<Vec<u8>>) -> Self {
        let bytes = bytes.into();
        Self::new(Kind::Regular, bytes.len() as u64, What::File(bytes))
    }

    /// A file of pseudo-random bytes.
    pub fn noise(len: usize, seed: u64) -> Self {
        let mut bytes = vec![0; len];
        blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut bytes);
        Self::file(bytes)
    }

    /// A symlink.
    pub fn symlink(target: &str) -> Self {
        Self::new(Kind::Symlink, 0, What::Symlink(target.into()))
    }

    /// A FIFO.
    pub fn fifo() -> Self {
        Self::new(Kind::Fifo, 0, What::Fifo)
    }

    /// A file that cannot be opened, of this size as far as is known.
    pub fn unreadable(size: u64) -> Self {
        Self::new(Kind::Regular, size, What::Unreadable(size))
    }

    /// A directory of named things.
    pub fn directory<N: Into<Vec<u8>>>(children: impl IntoIterator<Item = (N, Self)>) -> Self {
        let children = children.into_iter().map(|(n, f)| (n.into(), f)).collect();
        Self::new(Kind::Directory, 0, What::Directory(children))
    }

    /// The thing at a relative path.
    ///
    /// # Panics
    /// If there is none.
    #[expect(clippy::panic, reason = "a wrong test")]
    pub fn at(&mut self, path: &str) -> &mut Self {
        path.split('/').filter(|p| !p.is_empty()).fold(self, |at, part| match &mut at.what {
            What::Directory(children) => {
                children.get_mut(part.as_bytes()).unwrap_or_else(|| panic!("no {part} in {path}"))
            }
            _ => panic!("{part} in {path} is below no directory"),
        })
    }

    /// Puts something into this directory.
    pub fn put(&mut self, name: &str, fixture: Self) {
        if let What::Directory(children) = &mut self.what {
            children.insert(name.into(), fixture);
        }
    }

    fn entry(&self, name: &[u8]) -> SourceEntry {
        SourceEntry {
            name: name.to_vec(),
            meta: self.meta.clone(),
            stamp: Stamp { ctime_ns: self.ctime_ns, inode: self.inode, volume: 1 },
            file: (1, self.inode),
            links: self.links,
            sparse: self.sparse,
            target: match &self.what {
                What::Symlink(t) => Some(t.clone()),
                _ => None,
            },
            left_out: None,
        }
    }
}

/// A source over a fixture, which stands at `/srv/data`. Counts what is opened.
#[derive(Clone, Debug)]
pub struct FixtureImporter {
    root: Arc<Fixture>,
    roots: Vec<Vec<u8>>,
    /// Files opened, by path.
    pub opened: Arc<Mutex<Vec<Vec<u8>>>>,
}

impl FixtureImporter {
    /// Over a directory.
    pub fn new(root: Fixture) -> Self {
        Self { root: Arc::new(root), roots: vec![b"/srv/data".to_vec()], opened: Arc::default() }
    }

    /// How many files were opened.
    pub fn files_opened(&self) -> usize {
        self.opened.lock().len()
    }
}

impl Importer for FixtureImporter {
    fn kind(&self) -> &str {
        "fixture"
    }

    fn origin(&self) -> &str {
        "test"
    }

    fn roots(&self) -> &[Vec<u8>] {
        &self.roots
    }

    fn entry(&self, path: &[u8]) -> Result<SourceEntry, ImportError> {
        let name = path.rsplit(|b| *b == b'/').next().unwrap_or_default();
        if path == self.roots[0] {
            return Ok(self.root.entry(name));
        }
        Ok(Fixture::directory::<&str>([]).entry(name))
    }

    fn directory(&self, path: &[u8]) -> Result<Arc<dyn SourceDirectory>, ImportError> {
        if path == self.roots[0] {
            let opened = self.opened.clone();
            return Ok(Arc::new(FixtureDirectory {
                node: (*self.root).clone(),
                path: path.to_vec(),
                opened,
            }));
        }
        Err(ImportError::new("not part of the fixture"))
    }

    fn user_name(&self, uid: u32) -> Option<String> {
        (uid == 1000).then(|| "user".into())
    }

    fn group_name(&self, _gid: u32) -> Option<String> {
        None
    }
}

struct FixtureDirectory {
    node: Fixture,
    path: Vec<u8>,
    opened: Arc<Mutex<Vec<Vec<u8>>>>,
}

impl FixtureDirectory {
    fn child(&self, name: &[u8]) -> Result<&Fixture, ImportError> {
        match &self.node.what {
            What::Directory(children) => children.get(name),
            _ => None,
        }
        .ok_or_else(|| ImportError::io("open", &std::io::ErrorKind::NotFound.into()))
    }
}

impl SourceDirectory for FixtureDirectory {
    fn list(self: Arc<Self>) -> Result<Box<dyn Listing>, ImportError> {
        match &self.node.what {
            What::Directory(children) => {
                let all: Vec<ListedName> =
                    children.iter().map(|(n, f)| (n.clone(), Ok(f.entry(n)))).collect();
                Ok(Box::new(all.into_iter()))
            }
            _ => Err(ImportError::new("not a directory")),
        }
    }

    fn open_directory(&self, name: &[u8]) -> Result<Arc<dyn SourceDirectory>, ImportError> {
        let path = [&self.path, &b"/"[..], name].concat();
        Ok(Arc::new(Self { node: self.child(name)?.clone(), path, opened: self.opened.clone() }))
    }

    fn open_file(&self, name: &[u8]) -> Result<Box<dyn SourceFile>, ImportError> {
        let child = self.child(name)?;
        let path = [&self.path, &b"/"[..], name].concat();
        self.opened.lock().push(path);
        match &child.what {
            What::File(bytes) => {
                let entry = child.entry(name);
                Ok(Box::new(FixtureFile { bytes: bytes.clone(), at: 0, entry }))
            }
            _ => Err(ImportError::new("permission denied")),
        }
    }

    fn xattrs(&self, name: &[u8]) -> Result<Vec<Xattr>, ImportError> {
        Ok(self.child(name)?.xattrs.clone())
    }

    fn own_xattrs(&self) -> Result<Vec<Xattr>, ImportError> {
        Ok(self.node.xattrs.clone())
    }
}

struct FixtureFile {
    bytes: Vec<u8>,
    at: usize,
    entry: SourceEntry,
}

impl SourceFile for FixtureFile {
    fn read(&mut self, buffer: &mut [u8]) -> Result<usize, ImportError> {
        let n = buffer.len().min(self.bytes.len() - self.at);
        buffer[..n].copy_from_slice(&self.bytes[self.at..self.at + n]);
        self.at += n;
        Ok(n)
    }

    fn next_data(&mut self, at: u64) -> Result<Option<(u64, u64)>, ImportError> {
        let len = self.bytes.len();
        let is_hole =
            |i: &usize| self.entry.sparse && self.bytes[*i..len.min(i + 4096)].iter().all(|b| *b == 0);
        let from = at as usize;
        let next_block = |i: usize| (i / 4096 + 1) * 4096;
        let blocks = |from: usize| std::iter::successors(Some(from), move |i| Some(next_block(*i)));
        let blocks = |from: usize| blocks(from).take_while(|i| *i < len);
        let Some(start) = blocks(from).find(|i| !is_hole(i)) else {
            self.at = len;
            return Ok(None);
        };
        let end = blocks(start).find(is_hole).unwrap_or(len);
        self.at = start;
        Ok(Some((start as u64, end as u64)))
    }

    fn now(&self) -> Result<(Metadata, i64), ImportError> {
        Ok((self.entry.meta.clone(), self.entry.stamp.ctime_ns))
    }
}

/// Backs a fixture up.
///
/// # Errors
/// Those of the backup.
pub async fn back_up(repository: &Arc<Repository>, root: &Fixture) -> Result<BackupReport> {
    let source = Arc::new(FixtureImporter::new(root.clone()));
    backup(repository, source, BackupOptions::default(), Arc::new(Silent), Cancel::default()).await
}

/// Entry and contents by path.
pub type PlainTree = BTreeMap<Vec<u8>, (Entry, Vec<u8>)>;

/// A snapshot's tree below `/srv/data` as plain values: entry (without node ids) and contents by path.
///
/// # Errors
/// The first thing that cannot be read.
pub async fn read_tree(repository: &Arc<Repository>, snapshot: &Snapshot) -> Result<PlainTree> {
    repository.index().await?;
    let vfs = Vfs::new(repository.clone(), Arc::new(RecentFrames::new(repository.clone())));
    let entry = vfs.resolve(snapshot, b"/srv/data").await?;
    let mut walk = Walk::new(vfs.clone(), entry, Vec::new());
    let mut out = BTreeMap::new();
    while let Some(step) = walk.next().await {
        match step {
            Step::Unreadable(e) => return Err(e),
            Step::Leave(_) => {}
            Step::Enter(mut entry) => {
                entry.detail = Detail::Special;
                out.insert(walk.path().to_vec(), (entry, vec![]));
            }
            Step::Entry(mut entry) => {
                let bytes = match &entry.detail {
                    Detail::Regular(c) if !c.missing => {
                        let all = 0..entry.meta.size;
                        vfs.read(&entry, all, crate::frame_source::Purpose::OnDemand).await?.joined().to_vec()
                    }
                    _ => vec![],
                };
                if matches!(entry.detail, Detail::Regular(_)) {
                    entry.detail = Detail::Special;
                }
                out.insert(walk.path().to_vec(), (entry, bytes));
            }
        }
    }
    Ok(out)
}
