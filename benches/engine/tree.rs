//! Walking a tree: every entry of a snapshot, from a store in memory. Two rows: the walk beside decoding the same nodes
//! from memory, and that beside copying entries that are decoded already.

use std::convert::Infallible;
use std::path::Path;
use std::sync::Arc;

use plakar_engine::cancel::Cancel;
use plakar_engine::crypto::Class;
use plakar_engine::frame_source::Purpose;
use plakar_engine::id::BlobId;
use plakar_engine::meta::{Kind, Metadata, Timestamp};
use plakar_engine::repository::Repository;
use plakar_engine::repository::recent::RecentFrames;
use plakar_engine::repository::writer::Run;
use plakar_engine::storage::Store;
use plakar_engine::storage::memory::MemoryStore;
use plakar_engine::tree::{Contents, Detail, Directory, Entry, Extent, Summary, build};
use plakar_engine::vfs::Vfs;
use plakar_engine::walk::{Step, Walk};
use tokio::runtime::Runtime;

use super::store;
use super::table::{Amount, Bench};

/// Directories in the root, directories in each of them, files in each of these: about 100,000 entries, and as many to a
/// directory as in a tree of source code.
const SHAPE: [u64; 3] = [50, 111, 17];

pub(crate) fn run(bench: &mut Bench) {
    let runtime = Runtime::new().unwrap();
    let local = tempfile::tempdir().unwrap();
    let (repository, root) = runtime.block_on(write(local.path()));
    let (nodes, entries) = runtime.block_on(read(&repository, &root));
    let count: usize = entries.iter().map(Vec::len).sum();
    let amount =
        Amount { count: count as u64, unit: "entry", bytes: nodes.iter().map(|n| n.len() as u64).sum() };
    bench.pair(
        "tree, walk of 100,000 entries",
        amount,
        "decoding the nodes",
        || assert_eq!(runtime.block_on(walk(&repository, &root)), count),
        || assert_eq!(nodes.iter().map(|n| decode(n).len()).sum::<usize>(), count),
    );
    bench.pair(
        "tree, decoding its nodes",
        amount,
        "cloning the entries",
        || assert_eq!(nodes.iter().map(|n| decode(n).len()).sum::<usize>(), count),
        || assert_eq!(entries.iter().map(|e| e.clone().len()).sum::<usize>(), count),
    );
}

fn vfs(repository: &Arc<Repository>) -> Vfs {
    Vfs::new(repository.clone(), Arc::new(RecentFrames::new(repository.clone())))
}

/// The walk that is measured, as `ls` or a restore begin it; gives the number of entries below the root.
async fn walk(repository: &Arc<Repository>, root: &Entry) -> usize {
    let mut walk = Walk::new(vfs(repository), root.clone(), Vec::new());
    let mut met = 0;
    while let Some(step) = walk.next().await {
        met += usize::from(matches!(step, Step::Enter(_) | Step::Entry(_)));
    }
    met - 1
}

fn decode(node: &[u8]) -> Vec<Entry> {
    match Directory::decode(node).unwrap() {
        Directory::Node(entries) => entries,
        Directory::Pages(_) => Vec::new(),
    }
}

/// The tree's nodes as they are stored, and decoded.
async fn read(repository: &Arc<Repository>, root: &Entry) -> (Vec<Vec<u8>>, Vec<Vec<Entry>>) {
    let vfs = vfs(repository);
    let (mut nodes, mut all) = (Vec::new(), Vec::new());
    let mut todo: Vec<BlobId> = root.directory().map(|(node, _)| node).into_iter().collect();
    while let Some(id) = todo.pop() {
        let node = vfs.blob(Class::Meta, id, Purpose::OnDemand).await.unwrap().to_vec();
        let entries = decode(&node);
        todo.extend(entries.iter().filter_map(|e| e.directory().map(|(node, _)| node)));
        nodes.push(node);
        all.push(entries);
    }
    (nodes, all)
}

/// Stores the tree as a backup does, children before parents, and gives its root entry.
async fn write(local: &Path) -> (Arc<Repository>, Entry) {
    let store: Arc<dyn Store> = Arc::new(MemoryStore::new());
    let repository = store::create(&store, local).await;
    let run = Run::begin(&repository, "host", "benchmark", Cancel::default()).await.unwrap();
    let building = run.clone();
    let root = tokio::task::spawn_blocking(move || {
        let mut framer = building.framer(Class::Meta).unwrap();
        let keys = building.repository().keys().clone();
        let root = directory("root", 0, &SHAPE, &mut |entries| {
            let stored = build::directory(entries, keys.chunker(), |node| {
                let id = keys.identify(Class::Meta, &node);
                if building.claim(&id) {
                    framer.push(&building, id, &node).unwrap();
                }
                Ok::<_, Infallible>(id)
            });
            stored.unwrap()
        });
        framer.flush(&building).unwrap();
        root
    });
    let root = root.await.unwrap();
    run.flush().await.unwrap();
    (repository, root)
}

/// A directory of a shape; `store` takes the entries of each directory in it, deepest first.
fn directory(name: &str, seed: u64, shape: &[u64], store: &mut impl FnMut(&[Entry]) -> BlobId) -> Entry {
    let (count, deeper) = shape.split_first().unwrap();
    let mut below = Summary::default();
    let entries: Vec<Entry> = (0..*count)
        .map(|i| {
            let seed = seed * 1000 + i + 1;
            let child = match deeper {
                [] => file(&format!("module_{i:03}.rs"), seed),
                _ => directory(&format!("directory-{i:03}"), seed, deeper, store),
            };
            below.add(&child);
            child
        })
        .collect();
    let node = store(&entries);
    entry(name, Kind::Directory, 0, seed, Detail::Directory { node, below, partial: false })
}

fn file(name: &str, seed: u64) -> Entry {
    let size = 4000 + seed % 9000;
    let id = Some(BlobId(*blake3::hash(&seed.to_le_bytes()).as_bytes()));
    let contents =
        Contents { level: 0, items: vec![Extent { id, len: size }], data_bytes: size, missing: false };
    entry(name, Kind::Regular, size, seed, Detail::Regular(contents))
}

fn entry(name: &str, kind: Kind, size: u64, seed: u64, detail: Detail) -> Entry {
    let mtime = Timestamp { sec: 1_700_000_000, nsec: (seed * 7919 % 1_000_000_000) as u32 };
    let mode = if kind == Kind::Directory { 0o755 } else { 0o644 };
    let meta = Metadata { mode, uid: 1000, gid: 100, mtime, size, kind, ..Metadata::directory(0) };
    Entry::new(name, meta, detail)
}
