//! Reading through a source of frames that notes what it is asked for.

use async_trait::async_trait;
use parking_lot::Mutex;

use super::*;
use crate::frame_source::FrameKey;
use crate::repository::{CreateOptions, create};
use crate::storage::Store;
use crate::storage::memory::MemoryStore;
use crate::testing::{Fixture, What, back_up, cheap_kdf, local_dirs, open, secret};

/// Notes the data frames that it is asked for.
#[derive(Debug)]
struct Noting(Arc<Repository>, Mutex<Vec<FrameKey>>);

#[async_trait]
impl FrameSource for Noting {
    async fn frames(&self, wanted: &[FrameRef], purpose: Purpose) -> Vec<Result<Bytes, Arc<Error>>> {
        let data = wanted.iter().filter(|f| f.class == Class::Data).map(FrameRef::key);
        self.1.lock().extend(data);
        self.0.frames(wanted, purpose).await
    }
}

#[tokio::test]
async fn the_frames_of_a_range_are_those_that_reading_it_asks_for() {
    let temporary = tempfile::tempdir().unwrap();
    let store: Arc<dyn Store> = Arc::new(MemoryStore::new());
    // Chunks large enough for slices, and small enough for blobs that share a frame.
    let chunks = crate::chunker::ChunkSizes { min: 1 << 10, avg: 300 << 10, max: 1 << 20 };
    let options = CreateOptions { kdf: Some(cheap_kdf()), chunks: Some(chunks), ..CreateOptions::default() };
    create(&store, Some(&secret()), &options).await.unwrap();
    let repository = open(&store, &local_dirs(temporary.path())).await.unwrap();
    let What::File(half) = Fixture::noise(6 << 20, 1).what else { unreachable!() };
    // Its second half is made of the blobs of its first.
    let tree = Fixture::directory([("f", Fixture::file([&half[..], &half].concat()))]);
    let report = back_up(&repository, &tree).await.unwrap();
    let catalog = repository.refresh_catalog().await.unwrap();
    assert_eq!(catalog.snapshots[0].id, report.snapshot.id);
    let source = Arc::new(Noting(repository.clone(), Mutex::default()));
    let vfs = Vfs::new(repository, source.clone());
    let entry = vfs.resolve(&catalog.snapshots[0], b"/srv/data/f").await.unwrap();
    let tree::Detail::Regular(contents) = &entry.detail else { unreachable!() };
    let size = entry.meta.size;
    let mut counts = Vec::new();
    for (from, len) in
        [(0, size), (0, 1), (size - 1, 1), (1 << 20, 300 << 10), (5 << 20, 2 << 20), (3 << 20, 4096)]
    {
        let range = from..from + len;
        let frames = vfs.frames_of(contents, range.clone()).await.unwrap();
        source.1.lock().clear();
        vfs.read(&entry, range.clone(), Purpose::OnDemand).await.unwrap();
        let mut seen = HashSet::new();
        let asked: Vec<_> = source.1.lock().iter().copied().filter(|k| seen.insert(*k)).collect();
        assert_eq!(frames.iter().map(FrameRef::key).collect::<Vec<_>>(), asked, "{range:?}");
        counts.push(asked.len());
    }
    assert_eq!(counts[1..3], [1, 1], "one byte needs one frame");
    assert!(counts[3] >= 2 && counts[3] < counts[0], "{counts:?}");
    assert!(vfs.frames_of(contents, size..size + 10).await.unwrap().is_empty());
    let missing = Contents { missing: true, ..Contents::default() };
    assert!(vfs.frames_of(&missing, 0..10).await.unwrap().is_empty());
}
