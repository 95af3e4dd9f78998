//! Tests of the tree encoding and its building.

use std::collections::HashMap;
use std::convert::Infallible;

use super::*;
use crate::crypto::{Class, Keyring};
use crate::id::StoreId;
use crate::wire::Put;

fn file(name: &[u8], size: u64) -> Entry {
    let items = if size == 0 { vec![] } else { vec![Extent { id: Some(BlobId([7; 32])), len: size }] };
    let meta = Metadata {
        kind: Kind::Regular,
        mode: 0o4755,
        uid: 1,
        gid: 2,
        mtime: Timestamp { sec: -5, nsec: 9 },
        size,
        rdev: (0, 0),
        born: None,
    };
    Entry::new(name, meta, Detail::Regular(Contents { items, data_bytes: size, ..Contents::default() }))
}

fn plain(name: &[u8], kind: Kind, detail: Detail) -> Entry {
    let meta = Metadata { kind, ..Metadata::directory(0o755) };
    Entry::new(name, meta, detail)
}

#[derive(Default)]
struct Blobs(HashMap<BlobId, Vec<u8>>);

impl Blobs {
    fn put(&mut self, b: Vec<u8>) -> Result<BlobId, Infallible> {
        let id = Keyring::plaintext(StoreId([0; 16])).identify(Class::Meta, &b);
        self.0.insert(id, b);
        Ok(id)
    }

    fn build(&mut self, entries: &[Entry]) -> BlobId {
        let Ok(id) = build::directory(entries, &[1; 32], |b| self.put(b));
        id
    }

    fn read(&self, id: BlobId) -> Vec<Entry> {
        match Directory::decode(&self.0[&id]).unwrap() {
            Directory::Node(e) => e,
            Directory::Pages(p) => p
                .into_iter()
                .flat_map(|p| {
                    let entries = self.read(p.node);
                    assert_eq!((&entries[0].name, entries.len() as u64), (&p.first, p.entries));
                    entries
                })
                .collect(),
        }
    }
}

#[test]
fn every_kind_of_entry_round_trips() {
    let mut odd = file(b"a\n\xff", 10);
    odd.xattrs = vec![
        Xattr { name: b"user.a".to_vec(), value: vec![0; 70_000] },
        Xattr { name: b"user.b".to_vec(), value: vec![] },
    ];
    odd.links = Some(Links { group: u64::MAX, count: 3 });
    odd.error = Some("changed while it was read".into());
    let mut sparse = file(b"b", 5 << 30);
    sparse.detail =
        Detail::Regular(Contents { items: vec![Extent { id: None, len: 5 << 30 }], ..Contents::default() });
    let mut listed = file(b"bb", 5 << 30);
    listed.detail = Detail::Regular(Contents {
        level: 2,
        items: vec![Extent { id: Some(BlobId([8; 32])), len: 5 << 30 }],
        data_bytes: 12345,
        missing: false,
    });
    let mut unknown = file(b"cc", 0);
    unknown.detail = Detail::Regular(Contents { missing: true, ..Contents::default() });
    let mut lost = file(b"c", 77);
    lost.detail = Detail::Regular(Contents { missing: true, ..Contents::default() });
    let mut device = plain(b"h", Kind::BlockDevice, Detail::Special);
    device.meta.rdev = (259, u32::MAX);
    let below = Summary { files: 1, bytes: u64::MAX, errors: 2, xattrs: true, ..Summary::default() };
    let entries = vec![
        odd,
        sparse,
        listed,
        lost,
        unknown,
        plain(b"d", Kind::Directory, Detail::Directory { node: BlobId([3; 32]), below, partial: true }),
        plain(b"e", Kind::Symlink, Detail::Symlink(vec![b'x'; 5000])),
        plain(b"f", Kind::Fifo, Detail::Special),
        plain(b"g", Kind::Socket, Detail::Special),
        device,
        plain(b"i", Kind::CharDevice, Detail::Special),
        plain(b"j", Kind::Missing, Detail::Missing),
        file(b"k", 0),
    ];
    let mut blobs = Blobs::default();
    let id = blobs.build(&entries);
    assert_eq!(blobs.read(id), entries);
}

#[test]
fn a_truncated_or_flipped_node_never_panics() {
    let mut blobs = Blobs::default();
    let id = blobs.build(&[
        file(b"a", 3),
        file(b"b", 4),
        plain(b"c", Kind::Symlink, Detail::Symlink(b"t".to_vec())),
    ]);
    let blob = blobs.0[&id].clone();
    for n in 0..blob.len() {
        assert!(Directory::decode(&blob[..n]).is_err());
    }
    for bit in 0..blob.len() * 8 {
        let mut bad = blob.clone();
        bad[bit / 8] ^= 1 << (bit % 8);
        let _ = Directory::decode(&bad);
    }
}

#[test]
fn hostile_names_are_refused() {
    for name in [&b""[..], b".", b"..", b"a/b", b"a\0b", &[b'x'; 4097]] {
        let mut blob = vec![TYPE_NODE, TREE_VERSION, 1];
        file(name, 0).encode(&mut blob);
        assert!(Directory::decode(&blob).is_err(), "{name:?}");
    }
    let mut twice = vec![TYPE_NODE, TREE_VERSION, 2];
    file(b"a", 0).encode(&mut twice);
    file(b"a", 0).encode(&mut twice);
    assert!(Directory::decode(&twice).is_err());
}

#[test]
fn huge_directories_are_paged_and_a_change_rewrites_one_page() {
    let mut entries: Vec<_> = (0..100_000).map(|i| file(format!("file-{i:06}").as_bytes(), i)).collect();
    let mut blobs = Blobs::default();
    let id = blobs.build(&entries);
    assert!(matches!(Directory::decode(&blobs.0[&id]), Ok(Directory::Pages(p)) if p.len() > 20));
    assert_eq!(blobs.read(id), entries);
    let before = blobs.0.len();
    entries.remove(50_000);
    let id = blobs.build(&entries);
    assert_eq!(blobs.read(id), entries);
    assert!(blobs.0.len() - before <= 4, "index, the page, at most two neighbours");
}

#[test]
fn long_extent_lists_become_trees_and_a_change_rewrites_a_part() {
    let noise = |i: u64| BlobId(*blake3::hash(&i.to_le_bytes()).as_bytes());
    let mut extents: Vec<_> =
        (0..100_000).map(|i| Extent { id: Some(noise(i)), len: 1000 + i % 7 }).collect();
    extents[500].id = None;
    let mut blobs = Blobs::default();
    let Ok(c) = build::contents(extents.clone(), |b| blobs.put(b));
    assert!(c.level >= 2 && c.items.len() <= INLINE_ITEMS);
    assert_eq!(c.data_bytes, extents.iter().map(|e| e.len).sum::<u64>() - extents[500].len);
    fn flatten(blobs: &Blobs, items: &[Extent], level: u8) -> Vec<Extent> {
        if level == 0 {
            return items.to_vec();
        }
        items
            .iter()
            .flat_map(|i| {
                flatten(blobs, &decode_list(&blobs.0[&i.id.unwrap()], level - 1, i.len).unwrap(), level - 1)
            })
            .collect()
    }
    assert_eq!(flatten(&blobs, &c.items, c.level), extents);
    let before = blobs.0.len();
    extents[40_000].id = Some(noise(1 << 40));
    let Ok(c) = build::contents(extents.clone(), |b| blobs.put(b));
    assert_eq!(flatten(&blobs, &c.items, c.level), extents);
    assert!(blobs.0.len() - before <= 2 * usize::from(c.level) + 2);
}

#[test]
fn owners_round_trip() {
    let mut owners = Owners::default();
    owners.users.insert(0, "root".into());
    owners.groups.insert(u32::MAX, "ö".into());
    assert_eq!(Owners::decode(&owners.encode()), Ok(owners));
}

#[test]
fn what_stat_does_not_say_stands_in_extra_fields() {
    let born = Some(Timestamp { sec: -5, nsec: 999_999_999 });
    let flags = InodeFlags { bits: InodeFlags::IMMUTABLE | 0x80_0000, project: 77 };
    let with = |born, flags, extra: Option<&[u8]>| {
        let plain = file(b"f", 5);
        let meta = Metadata { born, ..plain.meta.clone() };
        Entry { meta, flags, extra: extra.map(Into::into), ..plain }
    };
    let mut future = Vec::new();
    future.put_field(8, b"later");
    let entries = [
        with(None, InodeFlags::default(), None),
        with(born, InodeFlags::default(), None),
        with(None, flags, None),
        with(born, flags, Some(&future)),
    ];
    for entry in entries {
        let mut blobs = Blobs::default();
        let id = blobs.build(std::slice::from_ref(&entry));
        assert_eq!(blobs.read(id), [entry]);
    }
    // Twice, or with more in it than there is: refused, since it could not be written again as it is.
    let refused = |fields: &[(u64, &[u8])]| {
        let mut extra = Vec::new();
        fields.iter().for_each(|(tag, value)| extra.put_field(*tag, value));
        let mut blobs = Blobs::default();
        let id = blobs.build(&[with(None, InodeFlags::default(), Some(&extra))]);
        matches!(Directory::decode(&blobs.0[&id]), Err(WireError::Malformed(_) | WireError::Trailing))
    };
    assert!(refused(&[(4, &[1]), (4, &[2])]));
    assert!(refused(&[(4, &[1, 1])]));
    assert!(refused(&[(0, &[])]));
    assert!(!refused(&[(4, &[1]), (6, &[2])]));
}

#[test]
fn fields_from_the_future_are_kept_as_they_are() {
    let with = |tag, value: &[u8]| {
        let mut extra = Vec::new();
        extra.put_field(tag, value);
        Entry { extra: Some(extra.into()), ..file(b"future", 5) }
    };
    // An even tag: whoever does not know it goes on without it.
    let entry = with(40, b"created in 2031");
    let mut blobs = Blobs::default();
    let id = blobs.build(std::slice::from_ref(&entry));
    let again = blobs.read(id);
    assert_eq!(again, [entry]);
    assert_eq!(blobs.build(&again), id);
    // An odd one says that nobody may.
    let id = blobs.build(&[with(41, b"needed")]);
    assert!(matches!(Directory::decode(&blobs.0[&id]), Err(WireError::Newer(_))));
}
