//! Memory for clear frames that is used again and again.
//!
//! Frames come and go by the megabyte. Left to the system's allocator, those that stay lie between those that went,
//! and the process grows to twice what it holds; and every new one is memory that nobody has touched yet. So they are
//! decoded into buffers of a few fixed sizes, and a buffer that nobody looks at any more takes the next frame.

use bytes::Bytes;
use parking_lot::Mutex;

/// Smaller frames are left to the allocator.
const SMALLEST: usize = 64 << 10;
/// Sizes grow by quarters: little is wasted, and there are few of them.
const STEPS: usize = 4;
/// Bytes of unused buffers that are kept.
const SPARE: usize = 4 << 20;

/// The buffers of this process.
pub(super) static BUFFERS: Buffers = Buffers::new();

/// A pool of buffers.
#[derive(Debug)]
pub(super) struct Buffers {
    /// Unused buffers with their sizes.
    unused: Mutex<Vec<(usize, Vec<u8>)>>,
}

/// A buffer of the pool with a frame in it.
struct Lent {
    buffer: Vec<u8>,
    size: usize,
    pool: &'static Buffers,
}

impl AsRef<[u8]> for Lent {
    fn as_ref(&self) -> &[u8] {
        &self.buffer
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        self.pool.take_back(self.size, std::mem::take(&mut self.buffer));
    }
}

impl Buffers {
    const fn new() -> Self {
        Self { unused: Mutex::new(Vec::new()) }
    }

    /// Lets an empty buffer with room for `len` bytes be filled, and gives what is then in it. It must not grow.
    pub(super) fn fill<E>(
        &'static self,
        len: usize,
        fill: impl FnOnce(&mut Vec<u8>) -> Result<(), E>,
    ) -> Result<Bytes, E> {
        let Some(size) = size_for(len) else {
            let mut buffer = Vec::with_capacity(len);
            fill(&mut buffer)?;
            return Ok(buffer.into());
        };
        let buffer = self.unused_of(size).unwrap_or_else(|| Vec::with_capacity(size));
        // In case of failure it goes back too.
        let mut lent = Lent { buffer, size, pool: self };
        fill(&mut lent.buffer)?;
        Ok(Bytes::from_owner(lent))
    }

    fn unused_of(&self, size: usize) -> Option<Vec<u8>> {
        let mut unused = self.unused.lock();
        let i = unused.iter().rposition(|(s, _)| *s == size)?;
        Some(unused.remove(i).1)
    }

    fn take_back(&self, size: usize, mut buffer: Vec<u8>) {
        buffer.clear();
        let mut unused = self.unused.lock();
        unused.push((size, buffer));
        let mut bytes: usize = unused.iter().map(|(s, _)| s).sum();
        while bytes > SPARE && unused.len() > 1 {
            // The one that has waited longest is of a size that is not asked for.
            bytes -= unused.remove(0).0;
        }
    }
}

/// The buffer that a frame goes into; `None` for small ones.
fn size_for(len: usize) -> Option<usize> {
    if len < SMALLEST {
        return None;
    }
    let step = (len.next_power_of_two() / 2 / STEPS).max(1);
    Some(len.next_multiple_of(step))
}

/// Bytes of memory that a decoded frame of so many bytes takes.
pub fn footprint(len: usize) -> usize {
    size_for(len).unwrap_or(len)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keep(pool: &'static Buffers, frame: &[u8]) -> Bytes {
        let filled = pool.fill(frame.len(), |buffer| {
            buffer.extend_from_slice(frame);
            Ok::<_, ()>(())
        });
        filled.unwrap()
    }

    #[test]
    fn a_buffer_is_used_again() {
        static POOL: Buffers = Buffers::new();
        let first = keep(&POOL, &[1; 100_000]);
        let (address, part) = (first.as_ptr(), first.slice(5..10));
        drop(first);
        let second = keep(&POOL, &[2; 100_001]);
        assert_ne!(second.as_ptr(), address, "somebody still looks at it");
        assert_eq!(&part[..], [1; 5]);
        drop(part);
        assert_eq!(POOL.fill(100_000, |_| Err(7)), Err(7));
        let third = keep(&POOL, &[3; 100_002]);
        assert_eq!(third.as_ptr(), address);
        assert_eq!((third.len(), third[100_001]), (100_002, 3));
    }

    #[test]
    fn little_is_wasted() {
        for len in (SMALLEST..3 << 20).step_by(4093) {
            let size = footprint(len);
            assert!(size >= len && size <= len + len / 4, "{len} {size}");
        }
        assert_eq!(footprint(1 << 20), 1 << 20);
        assert_eq!(footprint(10), 10);
    }
}
