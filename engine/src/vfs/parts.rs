//! Bytes as they lie in frames: in parts, which are joined only by who needs them in one piece. A read of a megabyte
//! covers several frames, and every joining is a copy into memory that nobody has touched yet.

use bytes::{Bytes, BytesMut};

static ZEROS: [u8; 256 << 10] = [0; 256 << 10];

/// Bytes in parts, none of them empty.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Parts {
    parts: Vec<Bytes>,
    len: usize,
}

impl Parts {
    /// How many bytes.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Adds bytes at the end.
    pub fn push(&mut self, part: Bytes) {
        self.len += part.len();
        if !part.is_empty() {
            self.parts.push(part);
        }
    }

    /// Adds zeros at the end, which take no memory.
    pub fn push_zeros(&mut self, mut count: usize) {
        while count > 0 {
            let part = count.min(ZEROS.len());
            self.push(Bytes::from_static(&ZEROS[..part]));
            count -= part;
        }
    }

    /// Adds what others hold.
    pub fn append(&mut self, others: Self) {
        self.len += others.len;
        self.parts.extend(others.parts);
    }

    /// All of it as one slice, where it lies in one piece.
    pub fn as_one(&self) -> Option<&[u8]> {
        match self.parts.as_slice() {
            [] => Some(&[]),
            [one] => Some(one),
            _ => None,
        }
    }

    /// In one piece: a copy, unless it is in one already.
    pub fn joined(mut self) -> Bytes {
        if self.parts.len() < 2 {
            return self.parts.pop().unwrap_or_default();
        }
        let mut all = BytesMut::with_capacity(self.len);
        self.iter().for_each(|part| all.extend_from_slice(part));
        all.freeze()
    }

    /// The parts in order.
    pub fn iter(&self) -> impl Iterator<Item = &Bytes> {
        self.parts.iter()
    }
}

impl From<Bytes> for Parts {
    fn from(one: Bytes) -> Self {
        let mut parts = Self::default();
        parts.push(one);
        parts
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_the_bytes_that_were_pushed() {
        let mut parts = Parts::from(Bytes::from_static(b"abc"));
        assert_eq!(parts.as_one(), Some(&b"abc"[..]));
        parts.push(Bytes::new());
        parts.push_zeros(ZEROS.len() + 1);
        parts.append(Bytes::from_static(b"de").into());
        assert_eq!((parts.len(), parts.iter().count(), parts.as_one()), (3 + ZEROS.len() + 1 + 2, 4, None));
        let joined = parts.joined();
        assert!(joined.starts_with(b"abc\0") && joined.ends_with(b"\0de") && joined.len() == ZEROS.len() + 6);
        assert_eq!(Parts::default().as_one(), Some(&[][..]));
        assert!(Parts::default().joined().is_empty());
    }
}
