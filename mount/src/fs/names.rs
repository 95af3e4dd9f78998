//! The names that ever stood in a directory, as links that all lead to one place: a million of them in little memory.
//!
//! They stand one behind another as they were met, with two orders over them: by name, in which they are found, and by
//! cookie, in which they are listed. A cookie is a hash of its name, so that a listing during which others come and go
//! gives every name once.

use std::collections::HashSet;

use plakar_engine::meta::Timestamp;

use crate::view::Link;

/// Cookies of names stand above those of snapshots.
const FIRST: u64 = 1 << 62;

/// Names, and where the links with these names lead.
#[derive(Debug)]
pub(crate) struct Names {
    bytes: Vec<u8>,
    /// Where each name ends, and the one after it begins.
    ends: Vec<u32>,
    /// The names, sorted.
    sorted: Vec<u32>,
    /// Ranks in that order, by cookie.
    listed: Vec<u32>,
    /// What all targets begin with; the name follows.
    to: Vec<u8>,
    mtime: Timestamp,
    /// A digest of the place and all names.
    id: [u8; 32],
}

impl Names {
    /// Of these bytes, cut at these ends; no two are alike. `place` is where they are listed.
    pub(super) fn new(bytes: Vec<u8>, ends: Vec<u32>, place: &[u8], to: Vec<u8>, mtime: Timestamp) -> Self {
        let mut names = Self { bytes, ends, sorted: Vec::new(), listed: Vec::new(), to, mtime, id: [0; 32] };
        let mut sorted: Vec<u32> = (0..names.ends.len() as u32).collect();
        sorted.sort_unstable_by_key(|i| names.met(*i));
        names.sorted = sorted;
        let mut listed: Vec<(u64, u32)> =
            (0..names.len() as u32).map(|rank| (cookie(names.name(rank)), rank)).collect();
        listed.sort_unstable();
        names.listed = listed.into_iter().map(|(_, rank)| rank).collect();
        let mut id = blake3::Hasher::new();
        id.update(&(place.len() as u64).to_le_bytes()).update(place);
        for rank in 0..names.len() as u32 {
            let name = names.name(rank);
            id.update(&(name.len() as u32).to_le_bytes()).update(name);
        }
        names.id = *id.finalize().as_bytes();
        names
    }

    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.ends.len()
    }

    /// A digest of the place and all names.
    pub(super) fn id(&self) -> &[u8; 32] {
        &self.id
    }

    /// The name that was met so late.
    fn met(&self, i: u32) -> &[u8] {
        let at = |i: usize| self.ends.get(i).map_or(0, |end| *end as usize);
        let begin = (i as usize).checked_sub(1).map_or(0, at);
        &self.bytes[begin..at(i as usize)]
    }

    /// The name of a rank.
    pub(crate) fn name(&self, rank: u32) -> &[u8] {
        self.sorted.get(rank as usize).map_or(b"", |i| self.met(*i))
    }

    /// The rank of a name.
    pub(super) fn find(&self, name: &[u8]) -> Option<u32> {
        self.sorted.binary_search_by(|i| self.met(*i).cmp(name)).ok().map(|rank| rank as u32)
    }

    /// The rank of what is listed at a place, and its cookie.
    pub(super) fn listed(&self, place: usize) -> Option<(u32, u64)> {
        let rank = *self.listed.get(place)?;
        Some((rank, cookie(self.name(rank))))
    }

    /// The place where a listing goes on after a cookie.
    pub(crate) fn after(&self, after: u64) -> usize {
        self.listed.partition_point(|rank| cookie(self.name(*rank)) <= after)
    }

    /// The link with the name of a rank.
    pub(super) fn link(&self, rank: u32) -> Link {
        Link { to: [&self.to, self.name(rank)].concat().into(), mtime: self.mtime }
    }

    /// Bytes of memory, near enough.
    pub(crate) fn weight(&self) -> usize {
        self.bytes.capacity() + self.to.capacity() + 4 * (self.ends.capacity() + 2 * self.ends.len())
    }
}

fn cookie(name: &[u8]) -> u64 {
    FIRST | crate::view::cookie_of_name(name)
}

/// Gathers names that come in any order.
#[derive(Debug)]
pub(super) struct Gathered {
    bytes: Vec<u8>,
    ends: Vec<u32>,
    /// Hashes of those that came, where they may come again.
    seen: Option<HashSet<u128>>,
}

impl Gathered {
    /// From one directory, where no two are alike, or from several.
    pub(super) fn of(directories: usize) -> Self {
        Self { bytes: Vec::new(), ends: Vec::new(), seen: (directories > 1).then(HashSet::new) }
    }

    /// Takes one; whether there was room for it.
    pub(super) fn add(&mut self, name: &[u8]) -> bool {
        let hash = || blake3::hash(name).as_bytes().first_chunk().map_or(0, |b| u128::from_le_bytes(*b));
        if self.seen.as_mut().is_some_and(|seen| !seen.insert(hash())) {
            return true;
        }
        self.bytes.extend_from_slice(name);
        let Ok(end) = u32::try_from(self.bytes.len()) else { return false };
        self.ends.push(end);
        true
    }

    /// No other will come.
    pub(super) fn end(self, place: &[u8], to: Vec<u8>, mtime: Timestamp) -> Names {
        let Self { mut bytes, mut ends, seen } = self;
        drop(seen);
        bytes.shrink_to_fit();
        ends.shrink_to_fit();
        Names::new(bytes, ends, place, to, mtime)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(names: &[&str], place: &str) -> Names {
        let mut all = Gathered::of(2);
        assert!(names.iter().all(|name| all.add(name.as_bytes())));
        all.end(place.as_bytes(), b"../1/".to_vec(), Timestamp::default())
    }

    #[test]
    fn names_are_found_and_listed_once_each() {
        let names = of(&["b", "a", "c c", "a", "b"], "here");
        assert_eq!(names.len(), 3);
        assert_eq!([0, 1, 2].map(|rank| names.name(rank)), [&b"a"[..], b"b", b"c c"]);
        assert_eq!((names.find(b"c c"), names.find(b"c")), (Some(2), None));
        assert_eq!(&*names.link(2).to, b"../1/c c");
        let mut seen = Vec::new();
        let mut after = 0;
        while let Some((rank, cookie)) = names.listed(names.after(after)) {
            assert!(cookie > after);
            (after, _) = (cookie, seen.push(rank));
        }
        seen.sort_unstable();
        assert_eq!(seen, [0, 1, 2]);
    }

    #[test]
    fn a_listing_goes_on_where_it_was_when_others_have_come() {
        let all: Vec<String> = (0..500).map(|i| format!("name {i}")).collect();
        let all: Vec<&str> = all.iter().map(String::as_str).collect();
        let (before, after) = (of(&all[..300], "here"), of(&all, "here"));
        let first: Vec<u32> = (0..100).map(|place| before.listed(place).unwrap().0).collect();
        let (_, cookie) = before.listed(99).unwrap();
        let rest: Vec<u32> = (after.after(cookie)..500).map(|place| after.listed(place).unwrap().0).collect();
        for rank in 0..300 {
            let times = usize::from(first.contains(&rank))
                + rest.iter().filter(|r| after.name(**r) == before.name(rank)).count();
            assert_eq!(times, 1);
        }
    }

    #[test]
    fn the_same_names_in_the_same_place_are_the_same() {
        assert_eq!(of(&["a", "b"], "here").id(), of(&["b", "a"], "here").id());
        assert_ne!(of(&["a", "b"], "here").id(), of(&["a", "b"], "there").id());
        assert_ne!(of(&["ab"], "here").id(), of(&["a", "b"], "here").id());
    }
}
