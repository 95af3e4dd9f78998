//! Frames: compressing and sealing, opening and decompressing. The floors are the libraries alone, on buffers that are
//! there already: zstd as the engine uses it, and ring's cipher over as many bytes as are stored.

use plakar_engine::config::Config;
use plakar_engine::crypto::secret::Secret;
use plakar_engine::crypto::{Class, DataKey, Keyring};
use plakar_engine::frame::{Codec, FrameDecoder, FrameEncoder};
use plakar_engine::id::StoreId;
use ring::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, Tag, UnboundKey};

use super::input;
use super::table::{Amount, Bench};

pub(crate) fn run(bench: &mut Bench) {
    let config = Config::new(true, 0);
    let key = Keyring::sealed(StoreId([1; 16]), Secret::new([2; 32])).new_data_key();
    let (frame, slice) = (config.frame_bytes as usize, config.slice_bytes as usize);
    let full = format!("{} MiB of small files", frame >> 20);
    for (name, clear) in [
        (full.as_str(), input::text(frame)),
        ("slice of text", input::text(slice)),
        ("slice of noise", input::noise(slice)),
    ] {
        let amount = Amount { count: 1, unit: "frame", bytes: clear.len() as u64 };
        encode(bench, &format!("frame encode, {name}"), amount, config.zstd_level, &key, &clear);
        decode(bench, &format!("frame decode, {name}"), amount, config.zstd_level, &key, &clear);
    }
}

fn encode(bench: &mut Bench, work: &str, amount: Amount, level: Option<u8>, key: &DataKey, clear: &[u8]) {
    let mut encoder = FrameEncoder::new(level).unwrap();
    let mut zstd = zstd::bulk::Compressor::new(level.map_or(1, i32::from)).unwrap();
    let mut cipher = Cipher::new();
    let mut body = clear.to_vec();
    // No more room than the engine gives it: zstd stops early where compression does not pay.
    let mut packed = vec![0; clear.len() - clear.len() / 32];
    bench.pair(
        work,
        amount,
        "bare zstd and ring",
        || encoder.encode(key, Class::Data, clear),
        || match zstd.compress_to_buffer(clear, &mut packed) {
            Ok(n) => cipher.pass(&mut packed[..n]),
            Err(_no_room) => cipher.pass(&mut body),
        },
    );
}

fn decode(bench: &mut Bench, work: &str, amount: Amount, level: Option<u8>, key: &DataKey, clear: &[u8]) {
    let frame = FrameEncoder::new(level).unwrap().encode(key, Class::Data, clear);
    let mut decoder = FrameDecoder::new().unwrap();
    let packed = zstd::bulk::compress(clear, level.map_or(1, i32::from)).unwrap();
    let mut zstd = zstd::bulk::Decompressor::new().unwrap();
    let mut cipher = Cipher::new();
    let mut stored = frame.bytes.to_vec();
    let mut out = vec![0; clear.len()];
    bench.pair(
        work,
        amount,
        "bare ring and zstd",
        || decoder.decode(key, Class::Data, &frame.record, &frame.bytes).unwrap(),
        || {
            let tag = cipher.pass(&mut stored);
            if frame.record.codec == Codec::Zstd {
                zstd.decompress_to_buffer(&packed, &mut out).unwrap();
            }
            tag
        },
    );
}

/// ring's cipher. Sealing stands for opening too: the work is the same, and leaves bytes that it can be done to again.
struct Cipher(LessSafeKey);

impl Cipher {
    fn new() -> Self {
        Self(LessSafeKey::new(UnboundKey::new(&CHACHA20_POLY1305, &[3; 32]).unwrap()))
    }

    fn pass(&mut self, bytes: &mut [u8]) -> Tag {
        let nonce = Nonce::assume_unique_for_key([4; 12]);
        self.0.seal_in_place_separate_tag(nonce, Aad::empty(), bytes).unwrap()
    }
}
