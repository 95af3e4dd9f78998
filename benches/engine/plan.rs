//! Planning reads: which requests bring the frames that are wanted. The floor sorts as many keys.

use std::sync::Arc;

use plakar_engine::crypto::secret::Secret;
use plakar_engine::crypto::{Class, Keyring};
use plakar_engine::frame::{Codec, FrameRecord};
use plakar_engine::frame_source::{FrameKey, FrameRef};
use plakar_engine::id::{ObjectId, StoreId};
use plakar_engine::repository::reader::plan;

use super::input::Numbers;
use super::table::{Amount, Bench};

const FRAMES: u32 = 30_000;
const PER_PACKFILE: u32 = 100;
const STORED: u32 = 300 << 10;

pub(crate) fn run(bench: &mut Bench) {
    let key = Arc::new(Keyring::sealed(StoreId([1; 16]), Secret::new([2; 32])).new_data_key());
    let mut wanted: Vec<FrameRef> = (0..FRAMES)
        .map(|i| FrameRef {
            packfile: ObjectId(*blake3::hash(&(i / PER_PACKFILE).to_le_bytes()).as_bytes()),
            class: Class::Data,
            record: FrameRecord {
                nonce: [0; 24],
                tag: [0; 16],
                offset: i % PER_PACKFILE * STORED,
                stored: STORED,
                clear: 1 << 20,
                codec: Codec::Zstd,
            },
            key: key.clone(),
        })
        .collect();
    let mut numbers = Numbers::new(3);
    for i in (1..wanted.len()).rev() {
        wanted.swap(i, numbers.below(i as u64 + 1) as usize);
    }
    let keys: Vec<FrameKey> = wanted.iter().map(FrameRef::key).collect();
    bench.pair(
        "plan, 30,000 frames",
        Amount { count: FRAMES.into(), unit: "frame", bytes: 0 },
        "sorting their keys",
        || plan(&wanted, 0..wanted.len()),
        || {
            let mut keys = keys.clone();
            keys.sort_unstable();
            keys
        },
    );
}
