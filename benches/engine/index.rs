//! Looking blobs up in a large index, and learning such an index from a store's states: time and memory.
//!
//! The floor of a miss is one line of 64 bytes at a random place of a table as large as the index's filters; that of a
//! hit is a hash table in memory.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};
use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

use plakar_connectors::fs::FsStore;
use plakar_engine::crypto::{Class, Keyring};
use plakar_engine::frame::{Codec, FrameRecord};
use plakar_engine::id::{BlobId, ObjectId};
use plakar_engine::object::Preamble;
use plakar_engine::removal::Removals;
use plakar_engine::repository::Repository;
use plakar_engine::state::{BlobRecord, Head, PackfileRecord, Table, TablePlace};
use plakar_engine::storage::{Area, ObjectName, Store, put_bytes};
use tempfile::TempDir;
use tokio::runtime::Runtime;

use super::input::Numbers;
use super::memory::{self, Anonymous};
use super::store;
use super::table::{Amount, Bench};

/// Blobs of a state: where a long backup writes one.
const PER_STATE: u64 = 100_000;
const PER_FRAME: u64 = 100;
const PER_PACKFILE: u64 = 50 * PER_FRAME;
/// Bytes of a blob; nobody reads them.
const BLOB: u32 = 10;
/// Bits of the index's filter for each blob.
const FILTER_BITS: u64 = 12;
/// Lookups of one round: more than fit into a processor's caches.
const ROUND: usize = 1 << 20;

pub(crate) fn run(bench: &mut Bench) {
    let runtime = Runtime::new().unwrap();
    for (blobs, name) in [(10_000_000, "10 million"), (1_000_000, "1 million")] {
        let states = States::write(&runtime, blobs);
        let (repository, learning, memory) = states.learn(&runtime);
        bench.note(note(name, blobs, learning, &memory, states.open_again(&runtime)));
        lookups(bench, &runtime, &repository, name, blobs);
    }
}

fn note(name: &str, blobs: u64, learning: Duration, memory: &Anonymous, opening: Duration) -> String {
    let mib = |bytes: u64| bytes >> 20;
    format!(
        "index of {name} blobs: learned from {} states in {:.2} s ({:.2} s per million); RssAnon {} MiB before, {} at \
         most (DESIGN §10: at most 200), {} after; opened again in {:.1} ms",
        blobs / PER_STATE,
        learning.as_secs_f64(),
        learning.as_secs_f64() * 1e6 / blobs as f64,
        mib(memory.before),
        mib(memory.peak),
        mib(memory.after),
        opening.as_secs_f64() * 1e3
    )
}

fn lookups(bench: &mut Bench, runtime: &Runtime, repository: &Repository, name: &str, blobs: u64) {
    let index = runtime.block_on(repository.index()).unwrap();
    let removals = Removals::default();
    let is_known = |id: &BlobId| index.is_known(id, &removals);
    let mut numbers = Numbers::new(4);
    let there: Vec<BlobId> = (0..ROUND).map(|_| blob_id(numbers.below(blobs))).collect();
    let missing: Vec<BlobId> = (0..ROUND as u64).map(|i| blob_id(blobs + i)).collect();
    // Blocks of the index are verified when they are first used: not what is measured here.
    assert!(there.iter().all(is_known));
    let one = Amount { count: 1, unit: "lookup", bytes: 0 };

    let lines = vec![[1_u8; 64]; (blobs * FILTER_BITS / 512) as usize];
    let line = |id: &BlobId| {
        let place = u64::from_le_bytes(*id.0.first_chunk().unwrap());
        let line = &lines[((u128::from(place) * lines.len() as u128) >> 64) as usize];
        line[usize::from(id.0[8] & 63)]
    };
    let (mut ours, mut bare) = (missing.iter().cycle(), missing.iter().cycle());
    bench.pair(
        &format!("index, miss in {name}"),
        one,
        "64 random bytes",
        || is_known(ours.next().unwrap()),
        || line(bare.next().unwrap()),
    );

    let table: HashMap<BlobId, [u32; 3], BuildHasherDefault<IdHasher>> =
        (0..blobs).map(|i| (blob_id(i), [i as u32; 3])).collect();
    let (mut ours, mut bare) = (there.iter().cycle(), there.iter().cycle());
    bench.pair(
        &format!("index, hit in {name}"),
        one,
        "a HashMap",
        || is_known(ours.next().unwrap()),
        || table[bare.next().unwrap()],
    );
    let (mut ours, mut bare) = (there.iter().cycle(), there.iter().cycle());
    bench.pair(
        &format!("index, locate in {name}"),
        one,
        "a HashMap",
        || repository.locate(ours.next().unwrap()).unwrap(),
        || table[bare.next().unwrap()],
    );
}

/// Ids are random already.
#[derive(Default)]
struct IdHasher(u64);

impl Hasher for IdHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    /// The length of the array first, then its bytes.
    fn write(&mut self, bytes: &[u8]) {
        self.0 = bytes.first_chunk().map_or(self.0, |b| u64::from_le_bytes(*b));
    }
}

/// A store on disk whose states name blobs that nobody wrote.
struct States {
    directory: TempDir,
    store: Arc<dyn Store>,
    blobs: u64,
}

impl States {
    fn write(runtime: &Runtime, blobs: u64) -> Self {
        let directory = TempDir::new_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let store: Arc<dyn Store> = Arc::new(FsStore::new(directory.path().join("store")));
        let states = Self { directory, store, blobs };
        runtime.block_on(async {
            let repository = store::create(&states.store, &states.directory.path().join("writer")).await;
            for first in (0..blobs).step_by(PER_STATE as usize) {
                put_state(&*states.store, repository.keys(), first..blobs.min(first + PER_STATE)).await;
            }
        });
        states
    }

    async fn open(&self) -> Arc<Repository> {
        store::open(&self.store, &self.directory.path().join("reader")).await
    }

    /// As a command does for which all states are new.
    fn learn(&self, runtime: &Runtime) -> (Arc<Repository>, Duration, Anonymous) {
        let repository = runtime.block_on(self.open());
        let begun = Instant::now();
        let (index, memory) = memory::watch(|| runtime.block_on(repository.index()).unwrap());
        assert_eq!(index.blobs(), self.blobs);
        (repository, begun.elapsed(), memory)
    }

    /// How long a command takes for its index that has nothing to learn.
    fn open_again(&self, runtime: &Runtime) -> Duration {
        runtime.block_on(async {
            let repository = self.open().await;
            let begun = Instant::now();
            repository.index().await.unwrap();
            begun.elapsed()
        })
    }
}

fn blob_id(i: u64) -> BlobId {
    BlobId(*blake3::hash(&i.to_le_bytes()).as_bytes())
}

/// Puts a state that names the made-up blobs of a range, 100 to a frame, 50 frames to a packfile.
async fn put_state(store: &dyn Store, keys: &Keyring, range: Range<u64>) {
    let id = ObjectId::random();
    let preamble = Preamble::new(Area::States, keys.store(), keys.is_sealed());
    let context = preamble.context(id);
    let mut out = preamble.encode().to_vec();
    let mut head = Head {
        writer: [0; 16],
        run: ObjectId([0; 32]),
        created_ns: 0,
        tables: Vec::new(),
        fences: Vec::new(),
        client: "benchmark".into(),
    };
    let mut block = 0;
    for (table, records) in tables(keys, range) {
        let place = TablePlace {
            table,
            records: (records.len() / table.record()) as u64,
            offset: out.len() as u64,
            first_block: block,
        };
        for clear in records.chunks(table.per_block() as usize * table.record()) {
            if table == Table::Blobs {
                head.fences.push(BlobId(*clear.first_chunk().unwrap()));
            }
            out.extend_from_slice(&keys.index.seal(&context, block, false, clear));
            block += 1;
        }
        head.tables.push(place);
    }
    out.extend_from_slice(&head.encode(keys, &context));
    put_bytes(store, ObjectName::new(Area::States, id), out.into()).await.unwrap();
}

fn tables(keys: &Keyring, range: Range<u64>) -> [(Table, Vec<u8>); 4] {
    let (mut packfiles, mut frames, mut blobs) = (Vec::new(), Vec::new(), Vec::new());
    let (first, end) = (range.start, range.end);
    for (n, i) in range.map(|i| (i - first, i)) {
        if n % PER_PACKFILE == 0 {
            let frames = PER_PACKFILE.min(end - i).div_ceil(PER_FRAME) as u32;
            packfiles.push(PackfileRecord {
                id: ObjectId(blob_id(u64::MAX - i).0),
                checksum: [0; 32],
                length: 32 << 20,
                first_frame: (n / PER_FRAME) as u32,
                frames,
                key: 0,
                class: Class::Data,
            });
        }
        if n % PER_FRAME == 0 {
            frames.push(FrameRecord {
                nonce: [1; 24],
                tag: [2; 16],
                offset: 40 + (n % PER_PACKFILE / PER_FRAME) as u32 * BLOB,
                stored: BLOB,
                clear: PER_FRAME as u32 * BLOB,
                codec: Codec::Zstd,
            });
        }
        blobs.push(BlobRecord {
            id: blob_id(i),
            frame: (n / PER_FRAME) as u32,
            offset: (n % PER_FRAME) as u32 * BLOB,
            len: BLOB,
            sliced: false,
            class: Class::Data,
        });
    }
    blobs.sort_unstable_by_key(|b| b.id);
    let mut frame_table = Vec::new();
    frames.iter().for_each(|f| f.encode(&mut frame_table));
    [
        (Table::Keys, keys.wrap(&keys.new_data_key()).to_vec()),
        (Table::Packfiles, packfiles.iter().flat_map(PackfileRecord::encode).collect()),
        (Table::Frames, frame_table),
        (Table::Blobs, blobs.iter().flat_map(BlobRecord::encode).collect()),
    ]
}
