//! A source in memory: a tree of nodes that the engine backs up as it would a disk.

use std::collections::BTreeMap;
use std::sync::Arc;

use plakar_engine::importer::{
    ImportError, Importer, Listing, SourceDirectory, SourceEntry, SourceFile, Stamp,
};
use plakar_engine::meta::{Kind, Metadata, Timestamp, Xattr};

/// One thing in a source.
#[derive(Clone, Debug)]
pub(crate) struct Node {
    pub(crate) meta: Metadata,
    pub(crate) xattrs: Vec<Xattr>,
    pub(crate) what: What,
    /// Inode and count, where it has several names.
    pub(crate) links: Option<(u64, u64)>,
    /// Its contents cannot be read.
    pub(crate) unreadable: bool,
}

/// What a node is.
#[derive(Clone, Debug)]
pub(crate) enum What {
    Directory(BTreeMap<Vec<u8>, Node>),
    /// Data at offsets; holes between.
    File(Vec<(u64, Vec<u8>)>),
    Symlink(Vec<u8>),
    Special,
    /// It is listed and cannot be examined.
    Missing,
}

fn meta(kind: Kind, mode: u32, size: u64) -> Metadata {
    let mtime = Timestamp { sec: 1_700_000_000, nsec: 123_456_789 };
    Metadata { kind, mode, uid: 1000, gid: 1001, mtime, size, rdev: (0, 0), born: None }
}

impl Node {
    fn new(meta: Metadata, what: What) -> Self {
        Self { meta, xattrs: vec![], what, links: None, unreadable: false }
    }

    pub(crate) fn directory<const N: usize>(entries: [(&str, Self); N]) -> Self {
        Self::directory_of(entries.into_iter().map(|(n, e)| (n.as_bytes().to_vec(), e)).collect())
    }

    pub(crate) fn directory_of(entries: BTreeMap<Vec<u8>, Self>) -> Self {
        Self::new(meta(Kind::Directory, 0o755, 0), What::Directory(entries))
    }

    pub(crate) fn file(contents: impl Into<Vec<u8>>) -> Self {
        let contents = contents.into();
        let meta = meta(Kind::Regular, 0o644, contents.len() as u64);
        let data = if contents.is_empty() { vec![] } else { vec![(0, contents)] };
        Self::new(meta, What::File(data))
    }

    pub(crate) fn sparse(size: u64, data: Vec<(u64, Vec<u8>)>) -> Self {
        Self::new(meta(Kind::Regular, 0o644, size), What::File(data))
    }

    pub(crate) fn symlink(target: &str) -> Self {
        Self::new(meta(Kind::Symlink, 0o777, 0), What::Symlink(target.into()))
    }

    pub(crate) fn special(kind: Kind, rdev: (u32, u32)) -> Self {
        Self::new(Metadata { rdev, ..meta(kind, 0o600, 0) }, What::Special)
    }

    pub(crate) fn missing() -> Self {
        Self::new(meta(Kind::Regular, 0, 0), What::Missing)
    }

    pub(crate) fn mode(mut self, mode: u32) -> Self {
        self.meta.mode = mode;
        self
    }

    pub(crate) fn owner(mut self, uid: u32, gid: u32) -> Self {
        (self.meta.uid, self.meta.gid) = (uid, gid);
        self
    }

    pub(crate) fn time(mut self, sec: i64, nsec: u32) -> Self {
        self.meta.mtime = Timestamp { sec, nsec };
        self
    }

    pub(crate) fn xattr(mut self, name: &str, value: &str) -> Self {
        self.xattrs.push(Xattr { name: name.into(), value: value.into() });
        self.xattrs.sort();
        self
    }

    pub(crate) fn linked(mut self, inode: u64, count: u64) -> Self {
        self.links = Some((inode, count));
        self
    }

    pub(crate) fn unreadable(mut self) -> Self {
        self.unreadable = true;
        self
    }

    pub(crate) fn at(&self, path: &[u8]) -> Option<&Self> {
        path.split(|b| *b == b'/').filter(|p| !p.is_empty()).try_fold(self, |node, name| match &node.what {
            What::Directory(entries) => entries.get(name),
            _ => None,
        })
    }

    fn entry(&self, name: &[u8]) -> SourceEntry {
        let (inode, links) = self.links.unwrap_or((0, 1));
        let target = match &self.what {
            What::Symlink(target) => Some(target.clone()),
            _ => None,
        };
        let held: u64 = match &self.what {
            What::File(data) => data.iter().map(|(_, d)| d.len() as u64).sum(),
            _ => 0,
        };
        SourceEntry {
            name: name.to_vec(),
            meta: self.meta.clone(),
            stamp: Stamp { ctime_ns: 1, inode, volume: 1 },
            file: (1, inode),
            links,
            sparse: self.meta.kind == Kind::Regular && held < self.meta.size,
            target,
            left_out: None,
        }
    }
}

/// A source whose recorded `/` is a node.
#[derive(Debug)]
pub(crate) struct MemorySource {
    top: Node,
    roots: Vec<Vec<u8>>,
    origin: String,
}

impl MemorySource {
    pub(crate) fn new(top: Node, roots: &[&str], origin: &str) -> Arc<Self> {
        let roots = roots.iter().map(|r| r.as_bytes().to_vec()).collect();
        Arc::new(Self { top, roots, origin: origin.into() })
    }
}

fn gone() -> ImportError {
    ImportError::new("no such thing")
}

impl Importer for MemorySource {
    fn kind(&self) -> &str {
        "memory"
    }

    fn origin(&self) -> &str {
        &self.origin
    }

    fn roots(&self) -> &[Vec<u8>] {
        &self.roots
    }

    fn entry(&self, path: &[u8]) -> Result<SourceEntry, ImportError> {
        let name = path.rsplit(|b| *b == b'/').next().unwrap_or_default();
        self.top.at(path).map(|n| n.entry(name)).ok_or_else(gone)
    }

    fn directory(&self, path: &[u8]) -> Result<Arc<dyn SourceDirectory>, ImportError> {
        self.top.at(path).map(|n| Arc::new(Opened(n.clone())) as _).ok_or_else(gone)
    }

    fn user_name(&self, _uid: u32) -> Option<String> {
        None
    }

    fn group_name(&self, _gid: u32) -> Option<String> {
        None
    }
}

struct Opened(Node);

impl Opened {
    fn child(&self, name: &[u8]) -> Result<&Node, ImportError> {
        match &self.0.what {
            What::Directory(entries) => entries.get(name).ok_or_else(gone),
            _ => Err(gone()),
        }
    }
}

impl SourceDirectory for Opened {
    fn list(self: Arc<Self>) -> Result<Box<dyn Listing>, ImportError> {
        let What::Directory(entries) = &self.0.what else { return Err(gone()) };
        let listed = |(name, node): (&Vec<u8>, &Node)| match node.what {
            What::Missing => (name.clone(), Err(ImportError::new("cannot be examined"))),
            _ => (name.clone(), Ok(node.entry(name))),
        };
        Ok(Box::new(entries.iter().map(listed).collect::<Vec<_>>().into_iter()))
    }

    fn open_directory(&self, name: &[u8]) -> Result<Arc<dyn SourceDirectory>, ImportError> {
        Ok(Arc::new(Self(self.child(name)?.clone())))
    }

    fn open_file(&self, name: &[u8]) -> Result<Box<dyn SourceFile>, ImportError> {
        let node = self.child(name)?.clone();
        if node.unreadable {
            return Err(ImportError::new("permission denied"));
        }
        Ok(Box::new(OpenedFile { node, at: 0 }))
    }

    fn xattrs(&self, name: &[u8]) -> Result<Vec<Xattr>, ImportError> {
        Ok(self.child(name)?.xattrs.clone())
    }

    fn own_xattrs(&self) -> Result<Vec<Xattr>, ImportError> {
        Ok(self.0.xattrs.clone())
    }
}

struct OpenedFile {
    node: Node,
    at: u64,
}

impl OpenedFile {
    fn data(&self) -> &[(u64, Vec<u8>)] {
        match &self.node.what {
            What::File(data) => data,
            _ => &[],
        }
    }
}

impl SourceFile for OpenedFile {
    fn read(&mut self, buffer: &mut [u8]) -> Result<usize, ImportError> {
        let len = (self.node.meta.size - self.at).min(buffer.len() as u64) as usize;
        buffer[..len].fill(0);
        for (start, data) in self.data() {
            let (from, to) = (self.at.max(*start), (self.at + len as u64).min(start + data.len() as u64));
            if from < to {
                let part = &data[(from - start) as usize..(to - start) as usize];
                buffer[(from - self.at) as usize..(to - self.at) as usize].copy_from_slice(part);
            }
        }
        self.at += len as u64;
        Ok(len)
    }

    fn next_data(&mut self, at: u64) -> Result<Option<(u64, u64)>, ImportError> {
        let next = self.data().iter().map(|(s, d)| (*s, s + d.len() as u64)).find(|(_, end)| *end > at);
        let next = next.map(|(start, end)| (start.max(at), end));
        self.at = next.map_or(self.node.meta.size, |(start, _)| start);
        Ok(next)
    }

    fn now(&self) -> Result<(Metadata, i64), ImportError> {
        let entry = self.node.entry(b"");
        Ok((entry.meta, entry.stamp.ctime_ns))
    }
}
