//! Content-defined cut points: FastCDC (2020) over a gear table that is derived from the store's key, so that cut
//! points tell an onlooker nothing about known files.

use fastcdc::v2020::{Normalization, cut_gear, select_masks};

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
    masks: [u64; 4],
    gear: Box<[u64; 256]>,
    gear_shifted: Box<[u64; 256]>,
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
        let mut gear_shifted = Box::new([0; 256]);
        for (i, b) in bytes.as_chunks::<8>().0.iter().enumerate() {
            gear[i] = u64::from_le_bytes(*b);
            gear_shifted[i] = gear[i] << 1;
        }
        let (s, l) = select_masks(sizes.avg as usize, Normalization::Level1);
        Self { sizes, masks: [s, l, s << 1, l << 1], gear, gear_shifted }
    }

    /// The sizes.
    pub fn sizes(&self) -> ChunkSizes {
        self.sizes
    }

    /// Length of the first chunk of `bytes`, which begin at a cut point and hold `sizes.max` bytes, or all up to the
    /// end of the file. Never 0 unless `bytes` is empty.
    pub fn cut(&self, bytes: &[u8]) -> usize {
        let ChunkSizes { min, avg, max } = self.sizes;
        let [s, l, s_ls, l_ls] = self.masks;
        let (gear, shifted) = (&self.gear[..], &self.gear_shifted[..]);
        cut_gear(bytes, min as usize, avg as usize, max as usize, s, l, s_ls, l_ls, gear, shifted).1
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
    fn another_key_cuts_elsewhere() {
        let data = noise(1 << 20, 1);
        let a = cuts(&Chunker::new(SIZES, &[1; 32]), &data);
        let b = cuts(&Chunker::new(SIZES, &[2; 32]), &data);
        assert_ne!(a, b);
    }
}
