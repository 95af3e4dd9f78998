//! Numbers that look random and follow from a seed, and trees made of them.

use std::collections::BTreeMap;

use plakar_engine::meta::Kind;

use crate::source::Node;

/// SplitMix64.
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    pub(crate) fn below(&mut self, n: usize) -> usize {
        (self.next() % n.max(1) as u64) as usize
    }

    /// One of several; none of none.
    pub(crate) fn pick<'a, T>(&mut self, from: &'a [T]) -> Option<&'a T> {
        from.get(self.below(from.len()))
    }

    /// True once in so many times.
    pub(crate) fn one_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }

    /// Bytes that do not compress.
    pub(crate) fn noise(&mut self, len: usize) -> Vec<u8> {
        (0..len.div_ceil(8)).flat_map(|_| self.next().to_le_bytes()).take(len).collect()
    }

    /// Of an alphabet so small that names meet often.
    pub(crate) fn name(&mut self) -> Vec<u8> {
        (0..1 + self.below(3)).map(|_| b"aabbA\xff"[self.below(6)]).collect()
    }

    /// Around a border of pages, slices or frames, or anywhere.
    pub(crate) fn offset(&mut self) -> u64 {
        match self.below(3) {
            0 => self.next() % 100,
            1 => self.next() % 1_500_000,
            _ => [4096, 128 << 10, 256 << 10, 1 << 20][self.below(4)] + self.next() % 3 - 1,
        }
    }

    /// A directory with things in it.
    pub(crate) fn tree(&mut self, depth: usize) -> Node {
        let mut entries = BTreeMap::new();
        for _ in 0..3 + self.below(10) {
            let mut node = match self.below(12) {
                0..=3 if depth < 4 => self.tree(depth + 1),
                4 => Node::symlink(["a", "../b", "/etc", "bb/a"][self.below(4)]),
                5 => {
                    let kinds = [Kind::Fifo, Kind::Socket, Kind::CharDevice, Kind::BlockDevice];
                    let kind = kinds[self.below(4)];
                    let device = matches!(kind, Kind::CharDevice | Kind::BlockDevice);
                    Node::special(kind, if device { (self.below(300) as u32, 7) } else { (0, 0) })
                }
                6 => self.sparse(),
                7 if self.one_in(2) => Node::missing(),
                8 if self.one_in(2) => Node::file("cannot be read").unreadable(),
                9 => {
                    // A second name, here or elsewhere, is made by the same numbers.
                    let inode = 1 + self.next() % 3;
                    Node::file(format!("linked {inode}")).linked(inode, 3)
                }
                _ => {
                    let len = if self.one_in(3) { self.offset() } else { self.next() % 200 };
                    Node::file(self.noise(len as usize))
                }
            };
            if node.links.is_none() {
                node =
                    node.mode(self.below(0o10000) as u32).owner(self.below(3) as u32, self.below(3) as u32);
                node = node.time(self.next() as i64 >> 28, self.below(1_000_000_000) as u32);
                // What cannot be opened has no attributes that could be read.
                if self.one_in(4) && !node.unreadable {
                    node = node.xattr(["user.a", "user.b"][self.below(2)], "value");
                }
            }
            entries.insert(self.name(), node);
        }
        // So many that they stand in pages of their own.
        if depth == 1 && self.one_in(4) {
            entries.extend((0..6000).map(|i| (format!("entry {i:05}").into_bytes(), Node::file(""))));
        }
        Node::directory_of(entries)
    }

    fn sparse(&mut self) -> Node {
        let (mut end, mut data) = (0, Vec::new());
        for _ in 0..self.below(4) {
            // Smaller holes may be read as zeros by the backup, and are data then.
            let hole = (64 << 10) + 1 + self.next() % 300_000;
            let (start, len) = (end + hole, 1 + self.below(100_000));
            data.push((start, self.noise(len)));
            end = start + len as u64;
        }
        Node::sparse(end + 1 + self.next() % 300_000, data)
    }
}
