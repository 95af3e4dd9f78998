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

/// Whether a page that holds so many entries ends before the one with this name. It follows from the names alone, so that
/// what is added to or taken from a huge directory leaves most of its pages as they were.
pub(crate) fn ends_page(page_key: &[u8; 32], held: usize, name: &[u8]) -> bool {
    held >= PAGE_MOST || held >= PAGE_LEAST && is_page_start(page_key, name)
}

/// Encodes entries that stand together in a directory, sorted by name: one page, or several where one would be too large.
///
/// # Errors
/// Those of the sink.
pub fn pages<E>(
    entries: &[Entry],
    mut sink: impl FnMut(Vec<u8>) -> Result<BlobId, E>,
) -> Result<Vec<Page>, E> {
    debug_assert!(entries.windows(2).all(|w| w[0].name < w[1].name));
    let mut pages: Vec<Page> = Vec::new();
    let mut body = Vec::new();
    let mut first = 0;
    let mut end = |body: &mut Vec<u8>, held: &[Entry]| {
        let node = sink(node_blob(held.len(), body))?;
        body.clear();
        let first = held.first().map(|e| e.name.clone()).unwrap_or_default();
        Ok(Page { first, entries: held.len() as u64, node })
    };
    for (i, entry) in entries.iter().enumerate() {
        if body.len() >= PAGE_BYTES {
            pages.push(end(&mut body, &entries[first..i])?);
            first = i;
        }
        entry.encode(&mut body);
    }
    pages.push(end(&mut body, &entries[first..])?);
    Ok(pages)
}

/// The id of a directory that has these pages, at least one: that of its only page, or of an index of them.
///
/// # Errors
/// Those of the sink.
pub fn index<'a, E>(
    mut pages: impl ExactSizeIterator<Item = &'a Page>,
    sink: impl FnOnce(Vec<u8>) -> Result<BlobId, E>,
) -> Result<BlobId, E> {
    let mut index = vec![TYPE_PAGES, TREE_VERSION];
    index.put_uv(pages.len() as u64);
    if pages.len() == 1
        && let Some(only) = pages.next()
    {
        return Ok(only.node);
    }
    for page in pages {
        index.put_bytes(&page.first);
        index.put_uv(page.entries);
        index.extend_from_slice(&page.node.0);
    }
    sink(index)
}

/// Encodes a directory all of whose entries are at hand, sorted by name, and gives its id.
///
/// # Errors
/// Those of the sink.
pub fn directory<E>(
    entries: &[Entry],
    page_key: &[u8; 32],
    mut sink: impl FnMut(Vec<u8>) -> Result<BlobId, E>,
) -> Result<BlobId, E> {
    let (mut all, mut first) = (Vec::new(), 0);
    for (i, entry) in entries.iter().enumerate() {
        if ends_page(page_key, i - first, &entry.name) {
            all.extend(pages(&entries[first..i], &mut sink)?);
            first = i;
        }
    }
    all.extend(pages(&entries[first..], &mut sink)?);
    index(all.iter(), sink)
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
