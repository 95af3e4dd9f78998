//! Decoded directories, so that listing, looking up and reading the files of one decode it once.
//!
//! A huge directory is kept by pages, and only the page that is needed is decoded. What goes when memory is full is
//! decoded again from its frame.

use std::sync::Arc;

use moka::policy::EvictionPolicy;
use moka::sync::Cache;
use plakar_engine::error::{Error, Result};
use plakar_engine::id::BlobId;
use plakar_engine::tree::{Directory, Entry, Page, fits_index};
use plakar_engine::vfs::Vfs;

/// A decoded blob of a directory.
#[derive(Clone, Debug)]
enum Decoded {
    Entries(Arc<Vec<Entry>>),
    Pages(Arc<Pages>),
}

/// Where the pages of a huge directory are.
#[derive(Debug)]
struct Pages {
    pages: Vec<Page>,
    /// Position of each page's first entry in the directory.
    starts: Vec<u32>,
}

/// Entries that stand together in a directory, and where the first of them stands.
#[derive(Clone, Debug)]
pub(crate) struct Run {
    pub(crate) entries: Arc<Vec<Entry>>,
    pub(crate) start: u32,
}

impl Run {
    /// The entry at a position of the directory.
    pub(crate) fn at(&self, position: u32) -> Option<&Entry> {
        self.entries.get(position.checked_sub(self.start)? as usize)
    }
}

/// The decoded directories.
#[derive(Debug)]
pub(crate) struct Folders {
    vfs: Vfs,
    decoded: Cache<BlobId, Decoded>,
}

impl Folders {
    pub(crate) fn new(vfs: Vfs, bytes: u64) -> Self {
        let decoded = Cache::builder()
            .name("directories")
            .max_capacity(bytes)
            .weigher(|_, d: &Decoded| u32::try_from(weight(d)).unwrap_or(u32::MAX))
            .eviction_policy(EvictionPolicy::lru())
            .build();
        Self { vfs, decoded }
    }

    pub(crate) fn vfs(&self) -> &Vfs {
        &self.vfs
    }

    async fn decoded(&self, node: BlobId) -> Result<Decoded> {
        if let Some(decoded) = self.decoded.get(&node) {
            return Ok(decoded);
        }
        let decoded = match self.vfs.directory(node).await? {
            Directory::Node(entries) => Decoded::Entries(Arc::new(entries)),
            Directory::Pages(pages) => Decoded::Pages(Arc::new(Pages::new(node, pages)?)),
        };
        self.decoded.insert(node, decoded.clone());
        self.decoded.run_pending_tasks();
        Ok(decoded)
    }

    async fn page(&self, node: BlobId, pages: &Pages, i: usize) -> Result<Run> {
        let (page, start) = (&pages.pages[i], pages.starts[i]);
        match self.decoded(page.node).await? {
            Decoded::Entries(entries) => {
                fits_index(&pages.pages, i, &entries).map_err(|e| damaged(node, e))?;
                Ok(Run { entries, start })
            }
            Decoded::Pages(_) => Err(damaged(node, "nested pages")),
        }
    }

    /// The entries from a position on: the rest of the directory, or of a page; `None` at the end.
    pub(crate) async fn run_at(&self, node: BlobId, position: u32) -> Result<Option<Run>> {
        let run = match self.decoded(node).await? {
            Decoded::Entries(entries) => Run { entries, start: 0 },
            Decoded::Pages(pages) => {
                let after = pages.starts.partition_point(|start| *start <= position);
                match after.checked_sub(1) {
                    Some(i) => self.page(node, &pages, i).await?,
                    None => return Ok(None),
                }
            }
        };
        Ok(run.at(position).is_some().then_some(run))
    }

    /// A name: where it stands, and the entries it stands among.
    pub(crate) async fn find(&self, node: BlobId, name: &[u8]) -> Result<Option<(Run, u32)>> {
        let run = match self.decoded(node).await? {
            Decoded::Entries(entries) => Run { entries, start: 0 },
            Decoded::Pages(pages) => {
                let after = pages.pages.partition_point(|p| p.first.as_slice() <= name);
                match after.checked_sub(1) {
                    Some(i) => self.page(node, &pages, i).await?,
                    None => return Ok(None),
                }
            }
        };
        let found = run.entries.binary_search_by(|e| e.name.as_slice().cmp(name));
        Ok(found.ok().map(|i| (run.clone(), run.start + i as u32)))
    }
}

impl Pages {
    fn new(node: BlobId, pages: Vec<Page>) -> Result<Self> {
        let mut starts = Vec::with_capacity(pages.len());
        let mut at = 0_u32;
        for page in &pages {
            starts.push(at);
            let next = u32::try_from(page.entries).ok().and_then(|n| at.checked_add(n));
            at = next.ok_or_else(|| damaged(node, "it has too many entries"))?;
        }
        Ok(Self { pages, starts })
    }
}

fn damaged(node: BlobId, how: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Error {
    Error::DamagedBlob {
        what: format!("directory {}", node.short()),
        place: "tree".into(),
        source: how.into(),
    }
}

/// Bytes of memory, near enough.
fn weight(decoded: &Decoded) -> usize {
    match decoded {
        Decoded::Entries(entries) => 200 + entries.iter().map(Entry::weight).sum::<usize>(),
        Decoded::Pages(pages) => {
            200 + pages.pages.iter().map(|p| p.weight() + size_of::<u32>()).sum::<usize>()
        }
    }
}
