//! Reading and writing the encodings of `docs/FORMAT.md` §3: integers, byte strings and fields.
//!
//! Decoders take untrusted bytes: they bound every length before allocating, and cannot panic.

#![warn(clippy::cast_possible_truncation, clippy::cast_possible_wrap, clippy::cast_sign_loss)]

/// Stored bytes that do not follow the format.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    /// The bytes end in the middle of something.
    #[error("it ends too early")]
    Truncated,
    /// There are bytes after the end.
    #[error("it has trailing bytes")]
    Trailing,
    /// A value that the format does not allow; says which.
    #[error("malformed {0}")]
    Malformed(&'static str),
    /// Something that only a newer program understands; says what.
    #[error("it was written by a newer program ({0})")]
    Newer(&'static str),
}

/// Result of decoding.
pub type WireResult<T> = Result<T, WireError>;

/// Takes values off the front of a byte slice.
#[derive(Clone, Debug)]
pub struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    /// Reads from the first byte on.
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    /// How many bytes are left.
    pub fn remaining(&self) -> usize {
        self.rest.len()
    }

    /// The next `n` bytes.
    pub fn take(&mut self, n: usize) -> WireResult<&'a [u8]> {
        let (head, tail) = self.rest.split_at_checked(n).ok_or(WireError::Truncated)?;
        self.rest = tail;
        Ok(head)
    }

    /// The next `N` bytes as an array.
    pub fn array<const N: usize>(&mut self) -> WireResult<[u8; N]> {
        let (head, tail) = self.rest.split_first_chunk().ok_or(WireError::Truncated)?;
        self.rest = tail;
        Ok(*head)
    }

    /// A byte.
    pub fn u8(&mut self) -> WireResult<u8> {
        self.array::<1>().map(|[b]| b)
    }

    /// A little-endian `u32`.
    pub fn u32(&mut self) -> WireResult<u32> {
        self.array().map(u32::from_le_bytes)
    }

    /// A little-endian `u64`.
    pub fn u64(&mut self) -> WireResult<u64> {
        self.array().map(u64::from_le_bytes)
    }

    /// A LEB128 number in its shortest form.
    pub fn uv(&mut self) -> WireResult<u64> {
        let first = self.u8()?;
        // Most numbers have one byte.
        if first < 0x80 { Ok(first.into()) } else { self.longer_uv(first) }
    }

    fn longer_uv(&mut self, first: u8) -> WireResult<u64> {
        let mut value = u64::from(first & 0x7f);
        for i in 1..10 {
            let byte = self.u8()?;
            let bits = u64::from(byte & 0x7f);
            if i == 9 && bits > 1 {
                return Err(WireError::Malformed("number"));
            }
            value |= bits << (7 * i);
            if byte & 0x80 == 0 {
                if byte == 0 {
                    return Err(WireError::Malformed("number"));
                }
                return Ok(value);
            }
        }
        Err(WireError::Malformed("number"))
    }

    /// A number at most `max`; `what` names it in the error.
    pub fn uv_max(&mut self, max: u64, what: &'static str) -> WireResult<u64> {
        let v = self.uv()?;
        if v > max { Err(WireError::Malformed(what)) } else { Ok(v) }
    }

    /// The same of 32 bits.
    pub fn uv32(&mut self, max: u32, what: &'static str) -> WireResult<u32> {
        u32::try_from(self.uv_max(max.into(), what)?).map_err(|_too_large| WireError::Malformed(what))
    }

    /// A signed number (zigzag).
    pub fn iv(&mut self) -> WireResult<i64> {
        let v = self.uv()?;
        Ok((v >> 1).cast_signed() ^ -(v & 1).cast_signed())
    }

    /// A byte string of at most `max` bytes.
    pub fn bytes(&mut self, max: usize, what: &'static str) -> WireResult<&'a [u8]> {
        let n = self.uv_max(max as u64, what)?;
        self.take(usize::try_from(n).map_err(|_too_many| WireError::Truncated)?)
    }

    /// A byte string that must be UTF-8.
    pub fn text(&mut self, max: usize, what: &'static str) -> WireResult<&'a str> {
        std::str::from_utf8(self.bytes(max, what)?).map_err(|_e| WireError::Malformed(what))
    }

    /// A count of things that take at least `least` bytes each, so that it can be trusted for an allocation.
    pub fn count(&mut self, max: u64, least: usize, what: &'static str) -> WireResult<usize> {
        let n = self.uv_max(max, what)?;
        if n > (self.remaining() / least.max(1)) as u64 {
            return Err(WireError::Truncated);
        }
        usize::try_from(n).map_err(|_too_many| WireError::Truncated)
    }

    /// All that is left.
    pub fn rest(&mut self) -> &'a [u8] {
        std::mem::take(&mut self.rest)
    }

    /// Succeeds when nothing is left.
    pub fn end(&self) -> WireResult<()> {
        if self.rest.is_empty() { Ok(()) } else { Err(WireError::Trailing) }
    }
}

/// A number of things in memory, as formats have it: they are limited to less than 2³².
pub fn len32(n: usize) -> u32 {
    u32::try_from(n).unwrap_or(u32::MAX)
}

/// A number of a format as a position in memory; one that no memory has is behind its end.
pub fn index(n: u64) -> usize {
    usize::try_from(n).unwrap_or(usize::MAX)
}

/// Appends encoded values to a buffer.
pub trait Put {
    /// Appends a `u32`, little-endian.
    fn put_u32(&mut self, v: u32);
    /// Appends a `u64`, little-endian.
    fn put_u64(&mut self, v: u64);
    /// Appends a LEB128 number.
    fn put_uv(&mut self, v: u64);
    /// Appends a zigzag number.
    fn put_iv(&mut self, v: i64);
    /// Appends a length and bytes.
    fn put_bytes(&mut self, b: &[u8]);
    /// Appends a field.
    fn put_field(&mut self, tag: u64, value: &[u8]);
}

impl Put for Vec<u8> {
    fn put_u32(&mut self, v: u32) {
        self.extend_from_slice(&v.to_le_bytes());
    }

    fn put_u64(&mut self, v: u64) {
        self.extend_from_slice(&v.to_le_bytes());
    }

    fn put_uv(&mut self, mut v: u64) {
        while v >= 0x80 {
            self.push((v & 0x7f) as u8 | 0x80);
            v >>= 7;
        }
        self.push((v & 0x7f) as u8);
    }

    fn put_iv(&mut self, v: i64) {
        self.put_uv(((v << 1) ^ (v >> 63)).cast_unsigned());
    }

    fn put_bytes(&mut self, b: &[u8]) {
        self.put_uv(b.len() as u64);
        self.extend_from_slice(b);
    }

    fn put_field(&mut self, tag: u64, value: &[u8]) {
        self.put_uv(tag);
        self.put_bytes(value);
    }
}

/// Calls `take(tag, value)` for each field until the bytes end. `take` says whether it knew the tag; an unknown odd
/// tag is refused, an unknown even one skipped. Tags must ascend, and may repeat.
pub fn read_fields<'a>(
    bytes: &'a [u8],
    what: &'static str,
    mut take: impl FnMut(u64, Reader<'a>) -> WireResult<bool>,
) -> WireResult<()> {
    let mut r = Reader::new(bytes);
    let mut last = 0;
    while r.remaining() > 0 {
        let tag = r.uv()?;
        if tag < last {
            return Err(WireError::Malformed("order of fields"));
        }
        last = tag;
        let value = r.bytes(usize::MAX, "field")?;
        if !take(tag, Reader::new(value))? && tag % 2 == 1 {
            return Err(WireError::Newer(what));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_round_trip() {
        let numbers = [0, 1, 127, 128, 300, u64::from(u32::MAX), u64::MAX - 1, u64::MAX];
        for v in numbers {
            let mut b = Vec::new();
            b.put_uv(v);
            b.put_iv(v.cast_signed());
            let mut r = Reader::new(&b);
            assert_eq!(r.uv(), Ok(v));
            assert_eq!(r.iv(), Ok(v.cast_signed()));
            assert_eq!(r.end(), Ok(()));
        }
    }

    #[test]
    fn only_the_shortest_form_of_a_number_is_taken() {
        for bad in
            [&[0x80, 0x00][..], &[0xff; 10], &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x02]]
        {
            assert_eq!(Reader::new(bad).uv(), Err(WireError::Malformed("number")));
        }
        assert_eq!(Reader::new(&[0x80]).uv(), Err(WireError::Truncated));
    }

    #[test]
    fn lengths_are_bounded_before_anything_is_taken() {
        let mut b = Vec::new();
        b.put_uv(1 << 40);
        assert_eq!(Reader::new(&b).bytes(100, "name"), Err(WireError::Malformed("name")));
        assert_eq!(Reader::new(&b).count(u64::MAX, 1, "count"), Err(WireError::Truncated));
    }

    #[test]
    fn unknown_fields_are_skipped_if_even_and_refused_if_odd() {
        let mut b = Vec::new();
        b.put_field(2, b"x");
        b.put_field(4, b"y");
        let mut seen = Vec::new();
        let known = |tag, _: Reader<'_>| {
            seen.push(tag);
            Ok(tag == 2)
        };
        assert_eq!(read_fields(&b, "thing", known), Ok(()));
        assert_eq!(seen, [2, 4]);
        b.put_field(5, b"z");
        let refused = read_fields(&b, "thing", |tag, _| Ok(tag == 2));
        assert_eq!(refused, Err(WireError::Newer("thing")));
        b.put_field(1, b"");
        assert!(read_fields(&b, "thing", |_, _| Ok(true)).is_err());
    }
}
