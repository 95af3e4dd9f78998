//! Naming blobs. The floor is BLAKE3 over the same bytes as one blob.

use plakar_engine::crypto::secret::Secret;
use plakar_engine::crypto::{Class, Keyring};
use plakar_engine::id::StoreId;

use super::input::{self, Numbers};
use super::table::{Amount, Bench};

const BYTES: usize = 16 << 20;

pub(crate) fn run(bench: &mut Bench) {
    let keys = Keyring::sealed(StoreId([1; 16]), Secret::new([2; 32]));
    let bytes = input::noise(BYTES);
    let mut numbers = Numbers::new(2);
    let mut small = |_| 4096 + numbers.below(12 << 10) as usize;
    for (name, blobs) in [
        ("4–16 KiB", cut(&bytes, &mut small)),
        ("256 KiB", cut(&bytes, |_| 256 << 10)),
        ("1 MiB", cut(&bytes, |_| 1 << 20)),
    ] {
        bench.pair(
            &format!("identify, {name}"),
            Amount { count: blobs.len() as u64, unit: "blob", bytes: BYTES as u64 },
            "BLAKE3 of one large buffer",
            || blobs.iter().fold(0, |all, blob| all ^ keys.identify(Class::Data, blob).0[0]),
            || blake3::hash(&bytes),
        );
    }
}

fn cut(mut bytes: &[u8], mut len: impl FnMut(usize) -> usize) -> Vec<&[u8]> {
    let mut blobs = Vec::new();
    while !bytes.is_empty() {
        let (blob, rest) = bytes.split_at(len(blobs.len()).min(bytes.len()));
        blobs.push(blob);
        bytes = rest;
    }
    blobs
}
