//! Cutting: how fast cut points are found in large files. The floor reads every byte once.

use plakar_engine::chunker::Chunker;
use plakar_engine::config::Config;

use super::input;
use super::table::{Amount, Bench};

const BYTES: usize = 64 << 20;

pub(crate) fn run(bench: &mut Bench) {
    let chunker = Chunker::new(Config::new(true, 0).chunks, &[1; 32]);
    for (name, bytes) in [("noise", input::noise(BYTES)), ("text", input::text(BYTES))] {
        bench.pair(
            &format!("chunk, {name}"),
            Amount { count: BYTES as u64 >> 20, unit: "MiB", bytes: BYTES as u64 },
            "adding up the bytes",
            || cuts(&chunker, &bytes),
            || sum(&bytes),
        );
    }
}

/// How many chunks there are.
fn cuts(chunker: &Chunker, mut bytes: &[u8]) -> usize {
    let most = chunker.sizes().max as usize;
    let mut chunks = 0;
    while !bytes.is_empty() {
        bytes = &bytes[chunker.cut(&bytes[..bytes.len().min(most)])..];
        chunks += 1;
    }
    chunks
}

fn sum(bytes: &[u8]) -> u64 {
    bytes.as_chunks::<8>().0.iter().fold(0, |sum, b| sum.wrapping_add(u64::from_le_bytes(*b)))
}
