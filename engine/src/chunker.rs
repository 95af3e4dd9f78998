//! Content-defined cut points: FastCDC (2020) over a gear table that is derived from the store's key, so that cut
//! points tell an onlooker nothing about known files.
//!
//! The cut points are those of the crate `fastcdc`, found in less time: each step of its hash waits for the one
//! before, but the hash knows only the last 64 bytes, so that several stretches can be hashed side by side.

use std::ops::Range;

use fastcdc::v2020::{Normalization, select_masks};

/// Bytes after which the hash has forgotten all before.
const WINDOW: usize = 64;
/// Stretches that are hashed side by side.
const LANES: usize = 6;
/// Bytes of a stretch.
const STRETCH: usize = 2048;

/// Chunk sizes in bytes, as CONFIG keeps them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChunkSizes {
    /// No chunk but a file's last is smaller.
    pub min: u32,
    /// The usual size.
    pub avg: u32,
    /// No chunk is larger.
    pub max: u32,
}

impl ChunkSizes {
    /// Whether they are usable: even, ordered, within the format's limits.
    pub fn is_valid(&self) -> bool {
        self.min >= 64
            && self.min <= self.avg
            && self.avg <= self.max
            && self.max <= 8 << 20
            && [self.min, self.avg, self.max].iter().all(|n| n % 2 == 0)
            && self.avg >= 256
    }
}

/// Finds where chunks end. Cheap to share.
pub struct Chunker {
    sizes: ChunkSizes,
    /// A cut is where none of these bits is in the hash: before the usual size, and after it.
    masks: (u64, u64),
    gear: Box<[u64; 256]>,
}

impl std::fmt::Debug for Chunker {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Chunker").field("sizes", &self.sizes).finish_non_exhaustive()
    }
}

impl Chunker {
    /// Derives the table. The sizes must be valid.
    pub fn new(sizes: ChunkSizes, key: &[u8; 32]) -> Self {
        debug_assert!(sizes.is_valid());
        let mut bytes = [0; 256 * 8];
        blake3::Hasher::new_keyed(key).update(b"gear").finalize_xof().fill(&mut bytes);
        let mut gear = Box::new([0; 256]);
        for (g, b) in gear.iter_mut().zip(bytes.as_chunks::<8>().0) {
            *g = u64::from_le_bytes(*b);
        }
        Self { sizes, masks: select_masks(sizes.avg as usize, Normalization::Level1), gear }
    }

    /// The sizes.
    pub fn sizes(&self) -> ChunkSizes {
        self.sizes
    }

    /// Length of the first chunk of `bytes`, which begin at a cut point and hold `sizes.max` bytes, or all up to the
    /// end of the file. Never 0 unless `bytes` is empty.
    pub fn cut(&self, bytes: &[u8]) -> usize {
        let [min, avg, max] = [self.sizes.min, self.sizes.avg, self.sizes.max].map(|n| n as usize);
        let bytes = &bytes[..bytes.len().min(max)];
        if bytes.len() <= min {
            return bytes.len();
        }
        // The original looks at two bytes at once, and so never at the last one of an odd number.
        let end = bytes.len() & !1;
        let usual = avg.min(end);
        let mut hash = 0;
        self.scan(bytes, min..usual, self.masks.0, &mut hash)
            .or_else(|| self.scan(bytes, usual..end, self.masks.1, &mut hash))
            .unwrap_or(bytes.len())
    }

    /// The first place in a range where the hash, which goes on from the bytes before it, has no bit of a mask.
    fn scan(&self, bytes: &[u8], range: Range<usize>, mask: u64, hash: &mut u64) -> Option<usize> {
        let mut at = range.start;
        while range.end - at >= LANES * STRETCH {
            match self.pass(&bytes[at..at + LANES * STRETCH], mask, *hash) {
                Some(after) => *hash = after,
                None => break,
            }
            at += LANES * STRETCH;
        }
        (at..range.end).find(|i| {
            *hash = self.roll(*hash, bytes[*i]);
            *hash & mask == 0
        })
    }

    /// The hash after all stretches, if there is no cut in any of them.
    fn pass(&self, bytes: &[u8], mask: u64, hash: u64) -> Option<u64> {
        let stretches: &[[u8; STRETCH]; LANES] = bytes.as_chunks().0.try_into().ok()?;
        let mut hashes = [hash; LANES];
        for (hash, before) in hashes[1..].iter_mut().zip(stretches) {
            *hash = before[STRETCH - WINDOW..].iter().fold(0, |hash, byte| self.roll(hash, *byte));
        }
        for i in 0..STRETCH {
            for (hash, stretch) in hashes.iter_mut().zip(stretches) {
                *hash = self.roll(*hash, stretch[i]);
                if *hash & mask == 0 {
                    return None;
                }
            }
        }
        hashes.last().copied()
    }

    fn roll(&self, hash: u64, byte: u8) -> u64 {
        (hash << 1).wrapping_add(self.gear[usize::from(byte)])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn noise(n: usize, seed: u8) -> Vec<u8> {
        let mut v = vec![0; n];
        blake3::Hasher::new().update(&[seed]).finalize_xof().fill(&mut v);
        v
    }

    fn cuts(c: &Chunker, mut bytes: &[u8]) -> Vec<usize> {
        let mut out = Vec::new();
        while !bytes.is_empty() {
            let n = c.cut(&bytes[..bytes.len().min(c.sizes.max as usize)]);
            out.push(n);
            bytes = &bytes[n..];
        }
        out
    }

    const SIZES: ChunkSizes = ChunkSizes { min: 1024, avg: 4096, max: 16384 };

    #[test]
    fn chunks_keep_to_their_sizes_and_find_themselves_again_after_an_insertion() {
        let c = Chunker::new(SIZES, &[1; 32]);
        let data = noise(1 << 20, 1);
        let before = cuts(&c, &data);
        assert!(before[..before.len() - 1].iter().all(|n| (1024..=16384).contains(n)));
        let mut changed = noise(100, 2);
        changed.extend_from_slice(&data);
        let after = cuts(&c, &changed);
        let tail = |v: &[usize]| v[v.len() - 50..].to_vec();
        assert_eq!(tail(&before), tail(&after));
    }

    #[test]
    fn cuts_are_those_of_fastcdc() {
        let real = ChunkSizes { min: 128 << 10, avg: 512 << 10, max: 2 << 20 };
        let text: Vec<u8> =
            (0_u32..3 << 20).flat_map(|i| i.wrapping_mul(i).to_string().into_bytes()).collect();
        for sizes in [SIZES, ChunkSizes { min: 9002, avg: 40_000, max: 100_002 }, real] {
            let c = Chunker::new(sizes, &[1; 32]);
            let shifted = c.gear.map(|g| g << 1);
            let (s, l) = c.masks;
            let reference = |bytes: &[u8]| {
                let [min, avg, max] = [sizes.min, sizes.avg, sizes.max].map(|n| n as usize);
                fastcdc::v2020::cut_gear(bytes, min, avg, max, s, l, s << 1, l << 1, &c.gear[..], &shifted).1
            };
            for data in [noise(16 << 20, 3), text.clone(), vec![0; 5 << 20]] {
                let mut rest = &data[..];
                while !rest.is_empty() {
                    let n = c.cut(rest);
                    assert_eq!(n, reference(rest), "{sizes:?}");
                    // Ends of files, of odd and even lengths.
                    for end in [n, n + 1, n - 1, n / 2 + 1, sizes.min as usize + 1].map(|n| n.min(rest.len()))
                    {
                        assert_eq!(c.cut(&rest[..end]), reference(&rest[..end]), "{sizes:?}");
                    }
                    rest = &rest[n..];
                }
            }
        }
    }

    #[test]
    fn another_key_cuts_elsewhere() {
        let data = noise(1 << 20, 1);
        let a = cuts(&Chunker::new(SIZES, &[1; 32]), &data);
        let b = cuts(&Chunker::new(SIZES, &[2; 32]), &data);
        assert_ne!(a, b);
    }
}
