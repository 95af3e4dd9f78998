//! Bytes to work on: the same in every run.

/// A small generator of numbers that look random (SplitMix64).
pub(crate) struct Numbers(u64);

impl Numbers {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }

    /// One below `n`.
    pub(crate) fn below(&mut self, n: u64) -> u64 {
        ((u128::from(self.next()) * u128::from(n)) >> 64) as u64
    }

    /// One of many things, those that stand first more often than others.
    fn rather_early<'a>(&mut self, things: &'a [Vec<u8>]) -> &'a [u8] {
        let most = 1 + self.below(things.len() as u64);
        &things[self.below(most) as usize]
    }
}

/// Bytes that do not compress.
pub(crate) fn noise(len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    blake3::Hasher::new().finalize_xof().fill(&mut bytes);
    bytes
}

/// Phrases, a few of them frequent and most of them rare: compresses like source code, to a bit over a quarter, and no
/// faster.
pub(crate) fn text(len: usize) -> Vec<u8> {
    let mut numbers = Numbers::new(1);
    let words: Vec<Vec<u8>> = (0..4096)
        .map(|_| {
            let letters = 2 + numbers.below(9);
            (0..letters).map(|_| b'a' + numbers.below(26) as u8).collect()
        })
        .collect();
    let phrases: Vec<Vec<u8>> = (0..16384)
        .map(|_| {
            let mut phrase = Vec::new();
            for _ in 0..1 + numbers.below(4) {
                phrase.extend_from_slice(numbers.rather_early(&words));
                phrase.push(b" (.,"[numbers.below(4) as usize]);
            }
            phrase
        })
        .collect();
    let mut bytes = Vec::with_capacity(len + 64);
    while bytes.len() < len {
        bytes.extend_from_slice(numbers.rather_early(&phrases));
        if numbers.below(3) == 0 {
            bytes.extend_from_slice(b";\n\t\t");
        }
    }
    bytes.truncate(len);
    bytes
}
