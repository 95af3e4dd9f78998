//! Trees: directory nodes, pages of huge directories, extent lists, owner tables. `docs/FORMAT.md` §9.
//!
//! A node holds nothing that changes without the files in it changing, so that an unchanged directory is the same
//! blob in every snapshot. Submodules: `build` cuts pages and lists, `references` tells what a blob leads
//! to; this one is the encoding.

#![warn(clippy::cast_possible_truncation, clippy::cast_possible_wrap, clippy::cast_sign_loss)]

pub mod build;
mod references;

pub use references::references;

use crate::id::BlobId;
use crate::meta::{InodeFlags, Kind, Metadata, Timestamp, Xattr};
use crate::wire::{Put, Reader, WireError, WireResult};

/// Most items that stand in an entry.
pub const INLINE_ITEMS: usize = 32;
/// Most items in an extent list.
pub const LIST_ITEMS: usize = 4096;
/// Most levels of extent lists.
pub const MAX_LEVEL: u8 = 6;
/// Longest name, in bytes.
pub const MAX_NAME: usize = 4096;
const MAX_TARGET: usize = 65_535;
const MAX_ERROR: usize = 64 << 10;
const MAX_XATTRS: u64 = 4096;
const MAX_XATTR_NAME: usize = 255;
const MAX_XATTR_VALUE: usize = 1 << 20;
const MAX_XATTR_TOTAL: usize = 2 << 20;
const MAX_PAGES: u64 = 1 << 20;
/// Most entries in a node, and extended attributes of all of them: what a hostile one takes in memory is bounded then.
/// Writers stay below half of it.
const MAX_ENTRIES: u64 = 16_384;
const MAX_XATTRS_OF_NODE: usize = 1 << 18;
/// Bytes that the smallest entry takes: bounds allocations.
const LEAST_ENTRY: usize = 9;

const TYPE_NODE: u8 = 1;
const TYPE_PAGES: u8 = 2;
const TYPE_LIST: u8 = 3;
const TYPE_OWNERS: u8 = 4;
const TREE_VERSION: u8 = 1;

const HAS_XATTRS: u64 = 1;
const HAS_GROUP: u64 = 2;
const HAS_ERROR: u64 = 4;
const NO_CONTENTS: u64 = 8;
const HAS_EXTRA: u64 = 16;
/// Bytes of extra fields.
const MAX_EXTRA: usize = 1 << 20;
/// Extra fields, in the order in which they stand there, before those that this version does not know.
const EXTRA_BORN: u64 = 2;
const EXTRA_FLAGS: u64 = 4;
const EXTRA_PROJECT: u64 = 6;

/// Some bytes of a file: a blob (or, in a list above level 0, an extent list), or a hole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// The blob, or `None` for a hole.
    pub id: Option<BlobId>,
    /// Bytes of the file that it covers, at least 1.
    pub len: u64,
}

/// A file's bytes as a list of items, or the top of a tree of lists.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Contents {
    /// 0: items are extents. n: items are extent lists of level n − 1.
    pub level: u8,
    /// The items, in file order.
    pub items: Vec<Extent>,
    /// Bytes of the file that are in no hole.
    pub data_bytes: u64,
    /// They could not be read; there are no items.
    pub missing: bool,
}

/// What lies below a directory, not counting itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Summary {
    /// Regular files.
    pub files: u64,
    /// Directories.
    pub directories: u64,
    /// Symlinks.
    pub symlinks: u64,
    /// FIFOs, sockets, devices.
    pub others: u64,
    /// Sizes of regular files, added up.
    pub bytes: u64,
    /// Entries with an error.
    pub errors: u64,
    /// Whether anything has an extended attribute.
    pub xattrs: bool,
}

impl Summary {
    /// Counts one entry and, for a directory, all below it.
    pub fn add(&mut self, entry: &Entry) {
        match &entry.detail {
            Detail::Regular(_) => {
                self.files = self.files.saturating_add(1);
                self.bytes = self.bytes.saturating_add(entry.meta.size);
            }
            Detail::Directory { below, .. } => {
                self.directories = self.directories.saturating_add(1);
                self.add_all(below);
            }
            Detail::Symlink(_) => self.symlinks = self.symlinks.saturating_add(1),
            Detail::Special => self.others = self.others.saturating_add(1),
            Detail::Missing => {}
        }
        self.errors = self.errors.saturating_add(u64::from(entry.error.is_some()));
        self.xattrs |= !entry.xattrs.is_empty();
    }

    /// Adds what another one counts.
    pub fn add_all(&mut self, other: &Self) {
        for (own, more) in [
            (&mut self.files, other.files),
            (&mut self.directories, other.directories),
            (&mut self.symlinks, other.symlinks),
            (&mut self.others, other.others),
            (&mut self.bytes, other.bytes),
            (&mut self.errors, other.errors),
        ] {
            *own = own.saturating_add(more);
        }
        self.xattrs |= other.xattrs;
    }

    /// Entries of every kind.
    pub fn entries(&self) -> u64 {
        [self.directories, self.symlinks, self.others]
            .iter()
            .fold(self.files, |sum, n| sum.saturating_add(*n))
    }

    fn encode(&self, out: &mut Vec<u8>) {
        for n in [self.files, self.directories, self.symlinks, self.others, self.bytes, self.errors] {
            out.put_uv(n);
        }
        out.push(u8::from(self.xattrs));
    }

    fn decode(r: &mut Reader<'_>) -> WireResult<Self> {
        Ok(Self {
            files: r.uv()?,
            directories: r.uv()?,
            symlinks: r.uv()?,
            others: r.uv()?,
            bytes: r.uv()?,
            errors: r.uv()?,
            xattrs: match r.u8()? {
                0 => false,
                1 => true,
                _ => return Err(WireError::Malformed("summary")),
            },
        })
    }
}

/// A file with several names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Links {
    /// Keyed hash of (file system, inode).
    pub group: u64,
    /// How many names it had, in and outside of what was backed up.
    pub count: u32,
}

/// What an entry has beside its metadata, by kind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Detail {
    /// Nothing is known but the name and an error.
    Missing,
    /// A regular file's contents.
    Regular(Contents),
    /// A directory's node.
    Directory {
        /// The node, or page index.
        node: BlobId,
        /// What lies below.
        below: Summary,
        /// Not all that was in it could be listed.
        partial: bool,
    },
    /// A symlink's target.
    Symlink(Vec<u8>),
    /// A FIFO, socket or device.
    Special,
}

/// One entry of a directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its name.
    pub name: Vec<u8>,
    /// Its metadata; `meta.kind` and `detail` agree.
    pub meta: Metadata,
    /// What it has by kind.
    pub detail: Detail,
    /// Extended attributes, by name.
    pub xattrs: Vec<Xattr>,
    /// Names of one file share it.
    pub links: Option<Links>,
    /// What else its file system kept of it.
    pub flags: InodeFlags,
    /// What went wrong when it was backed up.
    pub error: Option<String>,
    /// Fields that this version knows nothing of, as they are: whoever takes the entry over keeps them.
    pub extra: Option<Box<[u8]>>,
}

/// Whether bytes may be a name in a directory.
pub fn is_valid_name(name: &[u8]) -> bool {
    (1..=MAX_NAME).contains(&name.len())
        && name != b"."
        && name != b".."
        && !name.iter().any(|b| matches!(b, b'/' | 0))
}

impl Entry {
    /// An entry with nothing beside these.
    pub fn new(name: impl Into<Vec<u8>>, meta: Metadata, detail: Detail) -> Self {
        Self {
            name: name.into(),
            meta,
            detail,
            xattrs: Vec::new(),
            links: None,
            flags: InodeFlags::default(),
            error: None,
            extra: None,
        }
    }

    /// A directory's node and summary.
    pub fn directory(&self) -> Option<(BlobId, &Summary)> {
        match &self.detail {
            Detail::Directory { node, below, .. } => Some((*node, below)),
            _ => None,
        }
    }

    /// Whether it is a directory of which not all could be listed when it was backed up: what is missing in it may have
    /// been there. Older snapshots do not say so of one that could not be listed at all; it is empty then, and has an error.
    pub fn is_partial(&self) -> bool {
        match &self.detail {
            Detail::Directory { partial, below, .. } => {
                *partial || self.error.is_some() && *below == Summary::default()
            }
            _ => false,
        }
    }

    /// Bytes of memory that it takes, near enough.
    pub fn weight(&self) -> usize {
        let detail = match &self.detail {
            Detail::Regular(Contents { items, .. }) => items.capacity() * size_of::<Extent>(),
            Detail::Symlink(target) => target.capacity(),
            Detail::Directory { .. } | Detail::Special | Detail::Missing => 0,
        };
        let xattrs: usize = self.xattrs.iter().map(|x| 80 + x.name.len() + x.value.len()).sum();
        let error = self.error.as_ref().map_or(0, String::capacity);
        // 16: what the allocator adds to a name.
        let extra = self.extra.as_ref().map_or(0, |extra| 16 + extra.len());
        size_of::<Self>() + 16 + self.name.capacity() + detail + xattrs + error + extra
    }

    /// Appends the encoding.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let m = &self.meta;
        out.put_bytes(&self.name);
        out.push(m.kind as u8);
        let missing = match &self.detail {
            Detail::Regular(contents) => contents.missing,
            Detail::Directory { partial, .. } => *partial,
            Detail::Missing | Detail::Symlink(_) | Detail::Special => false,
        };
        let flags = if self.xattrs.is_empty() { 0 } else { HAS_XATTRS }
            | self.links.map_or(0, |_| HAS_GROUP)
            | self.error.as_ref().map_or(0, |_| HAS_ERROR)
            | if self.has_extra() { HAS_EXTRA } else { 0 }
            | if missing { NO_CONTENTS } else { 0 };
        out.put_uv(flags);
        out.put_uv(u64::from(m.mode));
        out.put_uv(u64::from(m.uid));
        out.put_uv(u64::from(m.gid));
        out.put_iv(m.mtime.sec);
        out.put_uv(u64::from(m.mtime.nsec));
        match &self.detail {
            Detail::Missing => {}
            Detail::Regular(c) => {
                out.put_uv(m.size);
                out.push(c.level);
                if c.level > 0 {
                    out.put_uv(c.data_bytes);
                }
                out.put_uv(c.items.len() as u64);
                encode_items(&c.items, out);
            }
            Detail::Directory { node, below, .. } => {
                out.extend_from_slice(&node.0);
                below.encode(out);
            }
            Detail::Symlink(target) => out.put_bytes(target),
            Detail::Special => {
                if matches!(m.kind, Kind::CharDevice | Kind::BlockDevice) {
                    out.put_uv(u64::from(m.rdev.0));
                    out.put_uv(u64::from(m.rdev.1));
                }
            }
        }
        if !self.xattrs.is_empty() {
            out.put_uv(self.xattrs.len() as u64);
            for x in &self.xattrs {
                out.put_bytes(&x.name);
                out.put_bytes(&x.value);
            }
        }
        if let Some(links) = self.links {
            out.put_u64(links.group);
            out.put_uv(u64::from(links.count));
        }
        if let Some(error) = &self.error {
            out.put_bytes(error.as_bytes());
        }
        if self.has_extra() {
            self.encode_extra(out);
        }
    }

    fn has_extra(&self) -> bool {
        self.extra.is_some() || self.meta.born.is_some() || self.flags != InodeFlags::default()
    }

    fn encode_extra(&self, out: &mut Vec<u8>) {
        let mut fields = Vec::with_capacity(32);
        if let Some(born) = self.meta.born {
            let mut value = Vec::with_capacity(16);
            value.put_iv(born.sec);
            value.put_uv(born.nsec.into());
            fields.put_field(EXTRA_BORN, &value);
        }
        for (tag, number) in [(EXTRA_FLAGS, self.flags.bits), (EXTRA_PROJECT, self.flags.project)] {
            if number != 0 {
                let mut value = Vec::with_capacity(5);
                value.put_uv(number.into());
                fields.put_field(tag, &value);
            }
        }
        fields.extend_from_slice(self.extra.as_deref().unwrap_or_default());
        out.put_bytes(&fields);
    }

    /// Takes an entry off a reader. `root` allows the name `.`, which the snapshot's root entry has.
    fn decode(r: &mut Reader<'_>, root: bool) -> WireResult<Self> {
        let name = r.bytes(MAX_NAME, "name")?.to_vec();
        if !(is_valid_name(&name) || root && name == b".") {
            return Err(WireError::Malformed("name"));
        }
        let kind = match r.u8()? {
            0 => Kind::Missing,
            1 => Kind::Regular,
            2 => Kind::Directory,
            3 => Kind::Symlink,
            4 => Kind::Fifo,
            5 => Kind::Socket,
            6 => Kind::CharDevice,
            7 => Kind::BlockDevice,
            _ => return Err(WireError::Newer("kind of entry")),
        };
        let flags = r.uv()?;
        if flags & !(HAS_XATTRS | HAS_GROUP | HAS_ERROR | NO_CONTENTS | HAS_EXTRA) != 0 {
            return Err(WireError::Newer("flags of an entry"));
        }
        let mode = r.uv32(0o7777, "mode")?;
        let uid = r.uv32(u32::MAX, "owner")?;
        let gid = r.uv32(u32::MAX, "group")?;
        let mtime = Timestamp { sec: r.iv()?, nsec: r.uv32(999_999_999, "time")? };
        let (mut size, mut rdev) = (0, (0, 0));
        let detail = match kind {
            Kind::Missing => Detail::Missing,
            Kind::Regular => {
                size = r.uv()?;
                let level = r.u8()?;
                let stored = if level > 0 { Some(r.uv_max(size, "data bytes of a file")?) } else { None };
                let n = r.count(INLINE_ITEMS as u64, 2, "items")?;
                let items = decode_items(r, n, level)?;
                let missing = flags & NO_CONTENTS != 0;
                if missing && !items.is_empty() || !missing && total(&items)? != size {
                    return Err(WireError::Malformed("size of a file"));
                }
                let data_bytes = stored.unwrap_or_else(|| data_bytes(&items));
                Detail::Regular(Contents { level, items, data_bytes, missing })
            }
            Kind::Directory => {
                let (node, below) = (BlobId(r.array()?), Summary::decode(r)?);
                Detail::Directory { node, below, partial: flags & NO_CONTENTS != 0 }
            }
            Kind::Symlink => Detail::Symlink(r.bytes(MAX_TARGET, "symlink target")?.to_vec()),
            Kind::Fifo | Kind::Socket => Detail::Special,
            Kind::CharDevice | Kind::BlockDevice => {
                let mut number = || r.uv32(u32::MAX, "device number");
                rdev = (number()?, number()?);
                Detail::Special
            }
        };
        let xattrs = if flags & HAS_XATTRS != 0 { decode_xattrs(r)? } else { Vec::new() };
        let links = if flags & HAS_GROUP != 0 {
            let group = r.u64()?;
            Some(Links { group, count: r.uv32(u32::MAX, "link count")? })
        } else {
            None
        };
        let error = (flags & HAS_ERROR != 0)
            .then(|| r.text(MAX_ERROR, "error text").map(String::from))
            .transpose()?;
        let Extra { born, flags, unknown: extra } = match flags & HAS_EXTRA {
            0 => Extra::default(),
            _ => Extra::decode(r.bytes(MAX_EXTRA, "extra fields")?)?,
        };
        let meta = Metadata { kind, mode, uid, gid, mtime, size, rdev, born };
        Ok(Self { name, meta, detail, xattrs, links, flags, error, extra })
    }

    /// The next entry of a local record.
    pub(crate) fn decode_next(r: &mut Reader<'_>) -> WireResult<Self> {
        Self::decode(r, false)
    }

    /// The root entry of a snapshot, alone.
    pub fn decode_root(bytes: &[u8]) -> WireResult<Self> {
        let mut r = Reader::new(bytes);
        let entry = Self::decode(&mut r, true)?;
        r.end()?;
        if entry.directory().is_none() {
            return Err(WireError::Malformed("root entry"));
        }
        Ok(entry)
    }
}

/// What stands in the extra fields of an entry.
#[derive(Default)]
struct Extra {
    born: Option<Timestamp>,
    flags: InodeFlags,
    unknown: Option<Box<[u8]>>,
}

impl Extra {
    fn decode(fields: &[u8]) -> WireResult<Self> {
        let (mut extra, mut last) = (Self::default(), 0);
        let mut unknown = Vec::new();
        crate::wire::read_fields(fields, "extra fields of an entry", |tag, mut value| {
            // Those known come first, and once: they are written so again.
            if tag < EXTRA_BORN || tag <= EXTRA_PROJECT && tag == last {
                return Err(WireError::Malformed("extra fields of an entry"));
            }
            last = tag;
            match tag {
                EXTRA_BORN => {
                    let (sec, nsec) = (value.iv()?, value.uv32(999_999_999, "time")?);
                    extra.born = Some(Timestamp { sec, nsec });
                }
                EXTRA_FLAGS => extra.flags.bits = value.uv32(u32::MAX, "inode flags")?,
                EXTRA_PROJECT => extra.flags.project = value.uv32(u32::MAX, "project")?,
                tag => {
                    unknown.put_field(tag, value.rest());
                    return Ok(false);
                }
            }
            value.end()?;
            Ok(true)
        })?;
        extra.unknown = (!unknown.is_empty()).then(|| unknown.into());
        Ok(extra)
    }
}

fn encode_items(items: &[Extent], out: &mut Vec<u8>) {
    for item in items {
        out.put_uv(item.len << 1 | u64::from(item.id.is_none()));
        if let Some(id) = item.id {
            out.extend_from_slice(&id.0);
        }
    }
}

fn decode_items(r: &mut Reader<'_>, n: usize, level: u8) -> WireResult<Vec<Extent>> {
    if level > MAX_LEVEL {
        return Err(WireError::Malformed("level of an extent list"));
    }
    let mut items = Vec::with_capacity(n);
    for _ in 0..n {
        let word = r.uv()?;
        let hole = word & 1 == 1;
        let len = word >> 1;
        if len == 0 || hole && level > 0 || !hole && level == 0 && len > u64::from(crate::config::MAX_FRAME) {
            return Err(WireError::Malformed("extent"));
        }
        let id = (!hole).then(|| r.array().map(BlobId)).transpose()?;
        items.push(Extent { id, len });
    }
    Ok(items)
}

/// Bytes that extents cover without being holes. Their lengths add up to no more than a file's size.
pub fn data_bytes(extents: &[Extent]) -> u64 {
    extents.iter().filter(|e| e.id.is_some()).fold(0, |sum, e| sum.saturating_add(e.len))
}

/// Bytes that items cover.
pub fn total(items: &[Extent]) -> WireResult<u64> {
    items
        .iter()
        .try_fold(0_u64, |sum, item| sum.checked_add(item.len))
        .ok_or(WireError::Malformed("size of a file"))
}

fn decode_xattrs(r: &mut Reader<'_>) -> WireResult<Vec<Xattr>> {
    let n = r.count(MAX_XATTRS, 2, "extended attributes")?;
    let mut xattrs: Vec<Xattr> = Vec::with_capacity(n);
    let mut bytes = 0;
    for _ in 0..n {
        let name = r.bytes(MAX_XATTR_NAME, "name of an extended attribute")?.to_vec();
        let value = r.bytes(MAX_XATTR_VALUE, "extended attribute")?.to_vec();
        bytes += name.len() + value.len();
        let ordered = xattrs.last().is_none_or(|last| last.name < name);
        if name.is_empty() || name.contains(&0) || !ordered || bytes > MAX_XATTR_TOTAL {
            return Err(WireError::Malformed("extended attributes"));
        }
        xattrs.push(Xattr { name, value });
    }
    Ok(xattrs)
}

/// Whether attributes can be stored, by the format's limits.
pub fn xattrs_fit(xattrs: &[Xattr]) -> bool {
    xattrs.len() as u64 <= MAX_XATTRS
        && xattrs.iter().all(|x| x.name.len() <= MAX_XATTR_NAME && x.value.len() <= MAX_XATTR_VALUE)
        && xattrs.iter().map(|x| x.name.len() + x.value.len()).sum::<usize>() <= MAX_XATTR_TOTAL
}

/// One page of a huge directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Page {
    /// The name of its first entry.
    pub first: Vec<u8>,
    /// How many entries it has.
    pub entries: u64,
    /// Its node.
    pub node: BlobId,
}

impl Page {
    /// Bytes of memory that it takes, near enough.
    pub fn weight(&self) -> usize {
        size_of::<Self>() + 16 + self.first.capacity()
    }
}

/// Whether these are the entries of one page of several, as their index says: with the first ones' names in order, then
/// all names of the directory are, and no two alike.
///
/// # Errors
/// They are not.
pub fn fits_index(pages: &[Page], i: usize, entries: &[Entry]) -> WireResult<()> {
    let page = pages.get(i).ok_or(WireError::Malformed("number of pages"))?;
    if entries.len() as u64 != page.entries {
        return Err(WireError::Malformed("page: it has not as many entries as its index says"));
    }
    if entries.first().is_none_or(|e| e.name != page.first) {
        return Err(WireError::Malformed("page: it does not begin as its index says"));
    }
    let next = pages.get(i + 1);
    if next.is_some_and(|next| entries.last().is_some_and(|e| e.name >= next.first)) {
        return Err(WireError::Malformed("order of pages"));
    }
    Ok(())
}

/// What a directory's blob holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Directory {
    /// All its entries, by name.
    Node(Vec<Entry>),
    /// Where its pages are, by name.
    Pages(Vec<Page>),
}

impl Directory {
    /// Reads a node or page index.
    pub fn decode(bytes: &[u8]) -> WireResult<Self> {
        let mut r = Reader::new(bytes);
        let kind = r.u8()?;
        version(&mut r)?;
        let directory = match kind {
            TYPE_NODE => {
                let n = r.count(MAX_ENTRIES, LEAST_ENTRY, "entries")?;
                let mut entries: Vec<Entry> = Vec::with_capacity(n);
                let mut xattrs = 0;
                for _ in 0..n {
                    let e = Entry::decode(&mut r, false)?;
                    xattrs += e.xattrs.len();
                    if xattrs > MAX_XATTRS_OF_NODE {
                        return Err(WireError::Malformed("number of extended attributes"));
                    }
                    if entries.last().is_some_and(|last| last.name >= e.name) {
                        return Err(WireError::Malformed("order of entries"));
                    }
                    entries.push(e);
                }
                Self::Node(entries)
            }
            TYPE_PAGES => {
                let n = r.count(MAX_PAGES, 34, "pages")?;
                let mut pages: Vec<Page> = Vec::with_capacity(n);
                for _ in 0..n {
                    let first = r.bytes(MAX_NAME, "name")?.to_vec();
                    let entries = r.uv_max(MAX_ENTRIES, "entries of a page")?;
                    let page = Page { first, entries, node: BlobId(r.array()?) };
                    if entries == 0 {
                        return Err(WireError::Malformed("empty page"));
                    }
                    if pages.last().is_some_and(|last| last.first >= page.first) {
                        return Err(WireError::Malformed("order of pages"));
                    }
                    pages.push(page);
                }
                Self::Pages(pages)
            }
            _ => return Err(WireError::Malformed("type of a directory node")),
        };
        r.end()?;
        Ok(directory)
    }
}

fn version(r: &mut Reader<'_>) -> WireResult<()> {
    match r.u8()? {
        TREE_VERSION => Ok(()),
        0 => Err(WireError::Malformed("version of a tree blob")),
        _ => Err(WireError::Newer("version of a tree blob")),
    }
}

/// Reads an extent list that should have a level and cover `len` bytes.
pub fn decode_list(bytes: &[u8], level: u8, len: u64) -> WireResult<Vec<Extent>> {
    let (found, items) = decode_any_list(bytes)?;
    if found != level {
        return Err(WireError::Malformed("level of an extent list"));
    }
    if total(&items)? != len {
        return Err(WireError::Malformed("length of an extent list"));
    }
    Ok(items)
}

/// Reads an extent list; gives its level, too.
fn decode_any_list(bytes: &[u8]) -> WireResult<(u8, Vec<Extent>)> {
    let mut r = Reader::new(bytes);
    if r.u8()? != TYPE_LIST {
        return Err(WireError::Malformed("type of an extent list"));
    }
    version(&mut r)?;
    let level = r.u8()?;
    let n = r.count(LIST_ITEMS as u64, 2, "items")?;
    let items = decode_items(&mut r, n, level)?;
    r.end()?;
    Ok((level, items))
}

/// Names of owners at the time of a backup, by number.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Owners {
    /// User names.
    pub users: std::collections::BTreeMap<u32, String>,
    /// Group names.
    pub groups: std::collections::BTreeMap<u32, String>,
}

impl Owners {
    /// Its blob.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = vec![TYPE_OWNERS, TREE_VERSION];
        for table in [&self.users, &self.groups] {
            out.put_uv(table.len() as u64);
            for (id, name) in table {
                out.put_uv(u64::from(*id));
                out.put_bytes(name.as_bytes());
            }
        }
        out
    }

    /// Reads its blob.
    pub fn decode(bytes: &[u8]) -> WireResult<Self> {
        let mut r = Reader::new(bytes);
        if r.u8()? != TYPE_OWNERS {
            return Err(WireError::Malformed("type of an owner table"));
        }
        version(&mut r)?;
        let mut owners = Self::default();
        for table in [&mut owners.users, &mut owners.groups] {
            for _ in 0..r.count(1 << 24, 2, "owners")? {
                let id = r.uv32(u32::MAX, "owner")?;
                let name = r.bytes(1024, "name of an owner")?;
                table.insert(id, String::from_utf8_lossy(name).into_owned());
            }
        }
        r.end()?;
        Ok(owners)
    }
}

#[cfg(test)]
mod tests;
