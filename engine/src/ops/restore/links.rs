//! Files that have several names: which one was made first, and where.

use std::collections::HashMap;

use crate::trail::Trail;
use crate::tree::Entry;
use parking_lot::{Mutex, MutexGuard};

/// The first names of files that have further ones still to come.
#[derive(Debug, Default)]
pub(super) struct FirstNames(Mutex<HashMap<u64, First>>);

/// Kept small: a tree may have millions.
#[derive(Debug)]
struct First {
    directory: Trail,
    name: Box<[u8]>,
    /// Of all that names of one file share.
    digest: [u8; 16],
    fate: Fate,
    /// Names still to come, here or elsewhere.
    left: u32,
}

/// What became of a first name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    /// It was not restored, so far.
    Missing,
    /// It was restored.
    Made,
    /// Something was there, and stays.
    Kept,
}

/// What an entry is among the names of one file.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Name {
    /// The file has no other, or they are different now.
    Only,
    /// The first of the group with this number.
    First(u64),
    /// A further one of that group.
    Further(u64),
}

impl FirstNames {
    /// Meets an entry in a directory.
    pub(super) fn meet(&self, directory: &Trail, entry: &Entry) -> Name {
        let Some(links) = entry.links else { return Name::Only };
        let digest = digest(entry);
        let mut names = self.lock();
        if let Some(first) = names.get_mut(&links.group) {
            return if first.digest == digest { Name::Further(links.group) } else { Name::Only };
        }
        let (directory, name, left) =
            (directory.clone(), entry.name.as_slice().into(), links.count.max(1) - 1);
        names.insert(links.group, First { directory, name, digest, fate: Fate::Missing, left });
        Name::First(links.group)
    }

    /// What became of the first name of a group.
    pub(super) fn settle(&self, group: u64, fate: Fate) {
        if let Some(first) = self.lock().get_mut(&group) {
            first.fate = fate;
        }
    }

    /// The path of a group's first name and what became of it, for one further name.
    pub(super) fn path(&self, group: u64) -> Option<(Vec<u8>, Fate)> {
        let mut names = self.lock();
        let first = names.get_mut(&group)?;
        let path = Some((first.directory.path_of(b"", &first.name), first.fate));
        first.left = first.left.saturating_sub(1);
        if first.left == 0 {
            names.remove(&group);
        }
        path
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<u64, First>> {
        self.0.lock()
    }
}

fn digest(entry: &Entry) -> [u8; 16] {
    let mut shared = Vec::with_capacity(128);
    let bare = Entry { flags: entry.flags, ..Entry::new(*b"-", entry.meta.clone(), entry.detail.clone()) };
    bare.encode(&mut shared);
    blake3::hash(&shared).as_bytes().first_chunk().copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::meta::{Kind, Metadata};
    use crate::tree::{Contents, Detail, Links};

    fn entry(name: &str, mode: u32) -> Entry {
        let meta = Metadata { kind: Kind::Regular, ..Metadata::directory(mode) };
        let links = Some(Links { group: 7, count: 3 });
        let detail = Detail::Regular(Contents::default());
        Entry { links, ..Entry::new(name, meta, detail) }
    }

    #[test]
    fn names_of_one_file_are_kept_until_the_last() {
        let (names, here) = (FirstNames::default(), Trail::default().join(b"d"));
        assert_eq!(names.meet(&here, &entry("a", 0o644)), Name::First(7));
        assert_eq!(names.meet(&here, &entry("b", 0o644)), Name::Further(7));
        assert_eq!(names.meet(&here, &entry("c", 0o600)), Name::Only, "it was changed in between");
        names.settle(7, Fate::Made);
        assert_eq!(names.path(7), Some((b"d/a".to_vec(), Fate::Made)));
        assert_eq!(names.meet(&here, &entry("e", 0o644)), Name::Further(7));
        assert_eq!(names.path(7), Some((b"d/a".to_vec(), Fate::Made)));
        assert!(names.lock().is_empty());
    }
}
