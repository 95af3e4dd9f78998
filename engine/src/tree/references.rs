//! What a metadata blob leads to, whatever it is: for whoever asks what is needed and not what it means.

use super::{Detail, Directory, TYPE_LIST, TYPE_NODE, TYPE_OWNERS, TYPE_PAGES, decode_any_list};
use crate::crypto::Class;
use crate::id::BlobId;
use crate::tree::{Extent, Owners};
use crate::wire::{WireError, WireResult};

/// Tells every blob that a node, page index, extent list or owner table names, in order, as often as it is named. The
/// blob is decoded as strictly as if it were read.
pub fn references(blob: &[u8], mut each: impl FnMut(Class, BlobId)) -> WireResult<()> {
    match blob.first() {
        Some(&(TYPE_NODE | TYPE_PAGES)) => match Directory::decode(blob)? {
            Directory::Pages(pages) => pages.iter().for_each(|p| each(Class::Meta, p.node)),
            Directory::Node(entries) => {
                for entry in &entries {
                    match &entry.detail {
                        Detail::Directory { node, .. } => each(Class::Meta, *node),
                        Detail::Regular(contents) => {
                            of_items(contents.level, &contents.items, &mut each);
                        }
                        _ => {}
                    }
                }
            }
        },
        Some(&TYPE_LIST) => {
            let (level, items) = decode_any_list(blob)?;
            of_items(level, &items, each);
        }
        Some(&TYPE_OWNERS) => drop(Owners::decode(blob)?),
        Some(_) => return Err(WireError::Newer("type of a metadata blob")),
        None => return Err(WireError::Truncated),
    }
    Ok(())
}

fn of_items(level: u8, items: &[Extent], mut each: impl FnMut(Class, BlobId)) {
    let class = if level == 0 { Class::Data } else { Class::Meta };
    items.iter().filter_map(|i| i.id).for_each(|id| each(class, id));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::meta::{Kind, Metadata, Timestamp};
    use crate::tree::{Contents, Entry, Page, Summary};
    use crate::wire::Put;

    fn id(n: u8) -> BlobId {
        BlobId([n; 32])
    }

    fn all(blob: &[u8]) -> WireResult<Vec<(Class, u8)>> {
        let mut found = Vec::new();
        references(blob, |class, id| found.push((class, id.0[0])))?;
        Ok(found)
    }

    #[test]
    fn every_kind_of_blob_says_what_it_leads_to() {
        let extent = |n, len| Extent { id: Some(id(n)), len };
        let file = |level, items: Vec<Extent>| {
            let data_bytes = items.iter().map(|i| i.len).sum();
            Detail::Regular(Contents { level, items, data_bytes, missing: false })
        };
        let meta = |kind, size| Metadata {
            kind,
            mode: 0,
            uid: 0,
            gid: 0,
            mtime: Timestamp::default(),
            size,
            rdev: (0, 0),
            born: None,
        };
        let sized = |size| meta(Kind::Regular, size);
        let entries = [
            Entry::new("a", sized(9), file(0, vec![extent(1, 4), Extent { id: None, len: 1 }, extent(2, 4)])),
            Entry::new("b", sized(8), file(1, vec![extent(3, 8)])),
            Entry::new(
                "c",
                meta(Kind::Directory, 0),
                Detail::Directory { node: id(4), below: Summary::default(), partial: false },
            ),
        ];
        let mut node = vec![TYPE_NODE, super::super::TREE_VERSION];
        node.put_uv(entries.len() as u64);
        entries.iter().for_each(|e| e.encode(&mut node));
        let (data, meta) = (Class::Data, Class::Meta);
        assert_eq!(all(&node).unwrap(), [(data, 1), (data, 2), (meta, 3), (meta, 4)]);
        let mut pages = vec![TYPE_PAGES, super::super::TREE_VERSION];
        let page = Page { first: b"a".to_vec(), entries: 3, node: id(5) };
        pages.put_uv(1);
        pages.put_bytes(&page.first);
        pages.put_uv(page.entries);
        pages.extend_from_slice(&page.node.0);
        assert_eq!(all(&pages).unwrap(), [(meta, 5)]);
        assert_eq!(all(&Owners::default().encode()).unwrap(), []);
        assert!(all(&[]).is_err() && all(&[99, 1]).is_err() && all(&node[..node.len() - 1]).is_err());
    }
}
