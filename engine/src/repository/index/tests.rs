//! The index over states of all sizes, and over damaged local files.

use std::sync::Arc;

use super::*;
use crate::crypto::Class;
use crate::crypto::secret::Secret;
use crate::frame::{Codec, FrameRecord};
use crate::id::StoreId;
use crate::repository::states;
use crate::state::{BlobRecord, PackfileRecord};
use crate::storage::memory::MemoryStore;
use crate::storage::{Area, ObjectName};

fn blob(i: u64) -> BlobId {
    BlobId(*blake3::hash(&i.to_le_bytes()).as_bytes())
}

/// A state of blobs numbered `range`, 100 to a frame, 50 frames to a packfile.
fn batch(keys: &Keyring, range: std::ops::Range<u64>) -> Rows {
    let key = keys.new_data_key();
    let mut b = Rows { keys: vec![keys.wrap(&key)], ..Rows::default() };
    for (n, i) in range.enumerate() {
        if n % 5000 == 0 {
            let id = ObjectId(*blake3::hash(&[&i.to_le_bytes()[..], b"packfile"].concat()).as_bytes());
            let first_frame = b.frames.len() as u32;
            let class = Class::Data;
            b.packfiles.push(PackfileRecord {
                id,
                checksum: [0; 32],
                length: 9,
                first_frame,
                frames: 0,
                key: 0,
                class,
            });
        }
        if n % 100 == 0 {
            let offset = b.frames.len() as u32 * 10 + 40;
            b.frames.push(FrameRecord {
                nonce: [1; 24],
                tag: [2; 16],
                offset,
                stored: 10,
                clear: 1000,
                codec: Codec::Zstd,
            });
            b.packfiles.last_mut().unwrap().frames += 1;
        }
        let (frame, offset) = (b.frames.len() as u32 - 1, n as u32 % 100 * 10);
        b.blobs.push(BlobRecord { id: blob(i), frame, offset, len: 10, sliced: false, class: Class::Data });
    }
    b.sort();
    b
}

struct Bench {
    store: Arc<dyn Store>,
    keys: Arc<Keyring>,
    directory: tempfile::TempDir,
}

impl Bench {
    fn new() -> Self {
        let keys = Arc::new(Keyring::sealed(StoreId([1; 16]), Secret::new([2; 32])));
        Self { store: Arc::new(MemoryStore::new()), keys, directory: tempfile::tempdir().unwrap() }
    }

    async fn write(&self, range: std::ops::Range<u64>) {
        let batch = batch(&self.keys, range);
        states::write(&self.store, &self.keys, &batch, [0; 16], ObjectId([0; 32]), 0).await.unwrap();
    }

    async fn load(&self) -> Index {
        let listed = self.store.list(Area::States).await.unwrap();
        let (index, bad) =
            Index::load(self.directory.path(), &self.store, &self.keys, &listed, false).await.unwrap();
        assert!(bad.is_empty());
        index
    }

    fn assert_holds(&self, index: &Index, range: std::ops::Range<u64>) {
        let removals = Removals::default();
        let data_keys = DataKeys::default();
        for i in range.step_by(7) {
            assert!(index.is_known(&blob(i), &removals));
            let row = index.row(&blob(i), &removals).unwrap().unwrap();
            let (id, located) = index.locate_row(row, &self.keys, &data_keys).unwrap();
            assert_eq!((id, located.len, located.frames.len()), (blob(i), 10, 1));
        }
    }
}

#[tokio::test]
async fn large_states_are_streamed_and_small_ones_gathered() {
    let bench = Bench::new();
    const { assert!(250_000 * 48 > SMALL_STATE) };
    bench.write(0..250_000).await;
    for i in 0..20 {
        bench.write(1_000_000 + i * 50..1_000_000 + (i + 1) * 50).await;
    }
    for _ in 0..2 {
        let index = bench.load().await;
        assert_eq!((index.blobs(), index.states().len()), (251_000, 21));
        assert!(index.segments.len() <= 2);
        bench.assert_holds(&index, 0..250_000);
        bench.assert_holds(&index, 1_000_000..1_001_000);
        let unknown = (2_000_000..2_002_000).filter(|i| index.is_known(&blob(*i), &Removals::default()));
        assert_eq!(unknown.count(), 0);
    }
}

#[tokio::test]
async fn blobs_are_found_wherever_their_ids_lie() {
    let bench = Bench::new();
    let mut batch = batch(&bench.keys, 0..4000);
    // Ends, neighbours, ids that agree in more than their first 8 bytes, and one that stands there twice.
    let crowded = |i: u64, j: u64| {
        let mut id = [i as u8; 32];
        id[24..].copy_from_slice(&j.to_be_bytes());
        BlobId(id)
    };
    for (i, b) in batch.blobs.iter_mut().take(3000).enumerate() {
        b.id = crowded([0, 0x80, 0xff][i % 3], i as u64 / 3);
    }
    batch.blobs[0].id = batch.blobs[3].id;
    batch.sort();
    let ids: Vec<BlobId> = batch.blobs.iter().map(|b| b.id).collect();
    states::write(&bench.store, &bench.keys, &batch, [0; 16], ObjectId([0; 32]), 0).await.unwrap();
    let index = bench.load().await;
    let removals = Removals::default();
    for id in &ids {
        let row = index.row(id, &removals).unwrap().unwrap();
        assert_eq!(index.locate_row(row, &bench.keys, &DataKeys::default()).unwrap().0, *id);
        assert_eq!(index.segments[0].find(id).count(), ids.iter().filter(|other| *other == id).count());
    }
    let others = [0, 0x80, 0xff].map(|i| crowded(i, 5000)).into_iter().chain((5000..6000).map(blob));
    for id in others.chain([BlobId([0x7f; 32]), BlobId([1; 32]), BlobId([0xff; 32])]) {
        assert_eq!(index.row(&id, &removals).unwrap(), None);
    }
}

#[tokio::test]
async fn a_state_that_is_listed_no_more_is_forgotten() {
    let bench = Bench::new();
    bench.write(0..1000).await;
    bench.load().await;
    bench.write(5000..6000).await;
    assert_eq!(bench.load().await.blobs(), 2000);
    for l in bench.store.list(Area::States).await.unwrap() {
        bench.store.delete(ObjectName::new(Area::States, l.id)).await.unwrap();
    }
    bench.write(9000..9100).await;
    let index = bench.load().await;
    assert_eq!(index.blobs(), 100);
    assert!(!index.is_known(&blob(1), &Removals::default()));
}

#[tokio::test]
async fn a_flipped_bit_in_a_local_file_is_never_believed() {
    let bench = Bench::new();
    bench.write(0..300).await;
    let index = bench.load().await;
    let path = index.segments[0].path().to_owned();
    drop(index);
    let good = std::fs::read(&path).unwrap();
    for at in (0..good.len()).step_by(97) {
        let mut bad = good.clone();
        bad[at] ^= 4;
        std::fs::remove_file(&path).unwrap();
        std::fs::write(&path, &bad).unwrap();
        let index = bench.load().await;
        for i in 0..300 {
            let data_keys = DataKeys::default();
            let Ok(Some(row)) = index.row(&blob(i), &Removals::default()) else { continue };
            if let Ok((id, located)) = index.locate_row(row, &bench.keys, &data_keys) {
                assert_eq!((id, located.len), (blob(i), 10));
            }
        }
        // A second, thorough look throws the file away; what is in the store is whole.
        drop(index);
        let listed = bench.store.list(Area::States).await.unwrap();
        let (index, _) =
            Index::load(bench.directory.path(), &bench.store, &bench.keys, &listed, true).await.unwrap();
        bench.assert_holds(&index, 0..300);
        for file in segment::list(bench.directory.path()) {
            std::fs::remove_file(file).unwrap();
        }
        std::fs::write(&path, &good).unwrap();
    }
}
