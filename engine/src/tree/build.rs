//! Building trees: a directory's entries become one node or content-defined pages, a file's extents become an inline
//! list or a tree of content-defined extent lists. Blobs are handed to a sink, which names them.

use super::{
    Contents, Entry, Extent, INLINE_ITEMS, Page, TREE_VERSION, TYPE_LIST, TYPE_NODE, TYPE_PAGES, encode_items,
};
use crate::id::BlobId;
use crate::wire::Put;

/// A directory with fewer entries is one node.
pub(crate) const PAGE_LEAST: usize = 128;
const PAGE_MOST: usize = 8192;
const PAGE_BYTES: usize = 512 << 10;
const LIST_LEAST: usize = 32;
const LIST_MOST: usize = 1024;

/// Encodes a directory's entries, which are sorted by name, and gives the id of its node or page index.
///
/// # Errors
/// Those of the sink.
pub fn directory<E>(
    entries: &[Entry],
    page_key: &[u8; 32],
    mut sink: impl FnMut(Vec<u8>) -> Result<BlobId, E>,
) -> Result<BlobId, E> {
    debug_assert!(entries.windows(2).all(|w| w[0].name < w[1].name));
    let mut pages: Vec<Page> = Vec::new();
    let mut body = Vec::new();
    let mut first = 0;
    for (i, entry) in entries.iter().enumerate() {
        let held = i - first;
        let full = held >= PAGE_MOST || body.len() >= PAGE_BYTES;
        if full || held >= PAGE_LEAST && is_page_start(page_key, &entry.name) {
            let node = sink(node_blob(held, &body))?;
            pages.push(Page { first: entries[first].name.clone(), entries: held as u64, node });
            body.clear();
            first = i;
        }
        entry.encode(&mut body);
    }
    let held = entries.len() - first;
    let node = sink(node_blob(held, &body))?;
    if pages.is_empty() {
        return Ok(node);
    }
    pages.push(Page { first: entries[first].name.clone(), entries: held as u64, node });
    let mut index = vec![TYPE_PAGES, TREE_VERSION];
    index.put_uv(pages.len() as u64);
    for page in &pages {
        index.put_bytes(&page.first);
        index.put_uv(page.entries);
        index.extend_from_slice(&page.node.0);
    }
    sink(index)
}

fn node_blob(entries: usize, body: &[u8]) -> Vec<u8> {
    let mut blob = Vec::with_capacity(body.len() + 8);
    blob.extend_from_slice(&[TYPE_NODE, TREE_VERSION]);
    blob.put_uv(entries as u64);
    blob.extend_from_slice(body);
    blob
}

fn is_page_start(key: &[u8; 32], name: &[u8]) -> bool {
    let hash = blake3::keyed_hash(key, name);
    hash.as_bytes().first_chunk().is_some_and(|b| u32::from_le_bytes(*b) % 1024 == 0)
}

/// Turns a file's extents into the contents of its entry, handing lists to the sink when they are many.
///
/// # Errors
/// Those of the sink.
pub fn contents<E>(
    extents: Vec<Extent>,
    mut sink: impl FnMut(Vec<u8>) -> Result<BlobId, E>,
) -> Result<Contents, E> {
    let data_bytes = super::data_bytes(&extents);
    let mut items = extents;
    let mut level = 0;
    while items.len() > INLINE_ITEMS {
        let mut above = Vec::new();
        let mut rest = items.as_slice();
        while !rest.is_empty() {
            let n = list_cut(rest);
            let (page, tail) = rest.split_at(n);
            let mut blob = vec![TYPE_LIST, TREE_VERSION, level];
            blob.put_uv(page.len() as u64);
            encode_items(page, &mut blob);
            let len = page.iter().map(|i| i.len).sum();
            above.push(Extent { id: Some(sink(blob)?), len });
            rest = tail;
        }
        items = above;
        level += 1;
    }
    Ok(Contents { level, items, data_bytes, missing: false })
}

/// How many of the items make the next list: the cut depends on ids, so that a change in the middle of a file leaves
/// the lists before and after it as they were.
fn list_cut(items: &[Extent]) -> usize {
    let most = items.len().min(LIST_MOST);
    (LIST_LEAST..most).find(|n| items[n - 1].id.is_some_and(|id| id.0[0] == 0)).unwrap_or(most)
}
