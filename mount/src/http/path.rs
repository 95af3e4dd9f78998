//! From the path of a URL to an inode.
//!
//! Symlinks are followed here, as a kernel would, as long as they stay inside what is shown: an HTTP client knows
//! nothing of them. A [`Place`] holds the inodes on the way to it, and lets go of them when it is dropped.

use std::sync::Arc;

use bytes::Bytes;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, percent_encode};
use plakar_engine::meta::Kind;

use crate::error::FsError;
use crate::fs::{Attr, Lookup, ROOT, SnapshotFs};

/// Most symlinks on one way: the kernel's own limit.
const MOST_LINKS: usize = 40;
/// Longest path in a URL, in names: none on a disk is longer.
const MOST_NAMES: usize = 2048;
/// What stands as it is in a path (RFC 3986 §2.3).
const ENCODED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~');

/// Why a path leads nowhere.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum PathError {
    /// The filesystem says no.
    #[error(transparent)]
    Fs(#[from] FsError),
    /// The URL is no path: its escapes or names make no sense.
    #[error("no such path can be: {0}")]
    Malformed(&'static str),
    /// A symlink leads out of what is shown.
    #[error("a symlink leads outside of what is shown here: to {}", String::from_utf8_lossy(.0))]
    Outside(Bytes),
    /// Symlinks lead to one another without end.
    #[error("symlinks lead to one another without end")]
    Loop,
}

/// Splits the path of a URL into names, and says whether it ends with a slash.
pub(super) fn names(path: &str) -> Result<(Vec<Vec<u8>>, bool), PathError> {
    let mut names = Vec::new();
    for name in path.split('/').filter(|n| !n.is_empty()) {
        if !escapes_are_whole(name) {
            return Err(PathError::Malformed("a % must be followed by two digits"));
        }
        let name: Vec<u8> = percent_decode_str(name).collect();
        match &name[..] {
            b"." => continue,
            // Clients resolve these before they ask; what comes here was written by hand.
            b".." => return Err(PathError::Malformed("`..` is not taken")),
            n if n.contains(&b'/') || n.contains(&0) => {
                return Err(PathError::Malformed("a name holds neither a slash nor a zero byte"));
            }
            _ => names.push(name),
        }
    }
    match names.len() > MOST_NAMES {
        true => Err(FsError::NameTooLong.into()),
        false => Ok((names, path.ends_with('/'))),
    }
}

fn escapes_are_whole(name: &str) -> bool {
    let hex = |b: Option<&u8>| b.is_some_and(u8::is_ascii_hexdigit);
    let bytes = name.as_bytes();
    (0..bytes.len()).all(|i| bytes[i] != b'%' || hex(bytes.get(i + 1)) && hex(bytes.get(i + 2)))
}

/// A name as it stands in a URL, whatever its bytes.
pub(super) fn encode(name: &[u8]) -> String {
    percent_encode(name, ENCODED).to_string()
}

/// An inode held by a lookup; let go of when it is dropped.
#[derive(Debug)]
pub(super) struct Held {
    fs: Arc<SnapshotFs>,
    pub(super) attr: Attr,
}

impl Held {
    /// Takes over one lookup.
    pub(super) fn new(fs: &Arc<SnapshotFs>, attr: Attr) -> Self {
        Self { fs: fs.clone(), attr }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        // The root is nobody's: forgetting it does nothing.
        self.fs.forget(self.attr.ino, 1);
    }
}

/// Something in the filesystem, and the way to it.
#[derive(Clone, Debug)]
pub(super) struct Place {
    fs: Arc<SnapshotFs>,
    /// The directories that it really lies in, from the root, each with its name; the last one may be itself.
    directories: Vec<(Arc<Held>, Arc<[u8]>)>,
    /// Itself, if it is no directory.
    leaf: Option<Arc<Held>>,
    /// Directories that names of the URL led to, from the root.
    passed: Vec<u64>,
    /// Whether the way goes through one directory twice, which only symlinks can make it do.
    goes_round: bool,
}

impl Place {
    /// The root.
    pub(super) async fn root(fs: &Arc<SnapshotFs>) -> Result<Self, FsError> {
        let held = Arc::new(Held::new(fs, fs.attributes(ROOT).await?));
        let directories = vec![(held, Arc::from(&b""[..]))];
        Ok(Self { fs: fs.clone(), directories, leaf: None, passed: vec![ROOT], goes_round: false })
    }

    /// What names lead to, from the root.
    pub(super) async fn find(fs: &Arc<SnapshotFs>, names: &[Vec<u8>]) -> Result<Self, PathError> {
        let mut place = Self::root(fs).await?;
        for name in names {
            place.step(name).await?;
        }
        Ok(place)
    }

    /// What it is.
    pub(super) fn attr(&self) -> &Attr {
        &self.held().attr
    }

    /// Its inode.
    pub(super) fn held(&self) -> &Arc<Held> {
        match &self.leaf {
            Some(leaf) => leaf,
            // There is always the root.
            None => &self.directories[self.directories.len() - 1].0,
        }
    }

    pub(super) fn is_directory(&self) -> bool {
        self.leaf.is_none()
    }

    /// Whether whoever goes on like this never ends.
    pub(super) fn goes_round(&self) -> bool {
        self.goes_round
    }

    /// The names of the directories that it really lies in, itself included, without symlinks.
    pub(super) fn real_names(&self) -> impl Iterator<Item = &[u8]> {
        self.directories[1..].iter().map(|(_, name)| &name[..])
    }

    /// Goes on to a name, and on along the symlinks there.
    pub(super) async fn step(&mut self, name: &[u8]) -> Result<(), PathError> {
        let mut links = 0;
        // Names still to go, the next one last.
        let mut ahead = vec![name.to_vec()];
        while let Some(name) = ahead.pop() {
            if self.leaf.is_some() {
                return Err(FsError::NotDirectory.into());
            }
            match &name[..] {
                b"" | b"." => continue,
                b".." if self.directories.len() > 1 => {
                    self.directories.pop();
                    continue;
                }
                b".." => return Err(PathError::Outside(Bytes::from_static(b".."))),
                _ => {}
            }
            let here = self.attr().ino;
            let Lookup::Found { attr, .. } = self.fs.lookup(here, &name).await? else {
                return Err(FsError::NotFound.into());
            };
            let held = Arc::new(Held::new(&self.fs, attr));
            match attr.kind {
                Kind::Directory => self.directories.push((held, name.into())),
                Kind::Symlink => {
                    links += 1;
                    if links > MOST_LINKS {
                        return Err(PathError::Loop);
                    }
                    let target = self.fs.read_link(attr.ino).await?;
                    if self.leaves_by(&target) {
                        return Err(PathError::Outside(target));
                    }
                    ahead.extend(target.rsplit(|b| *b == b'/').map(<[u8]>::to_vec));
                }
                _ => self.leaf = Some(held),
            }
        }
        if self.leaf.is_none() {
            let ino = self.attr().ino;
            self.goes_round |= self.passed.contains(&ino);
            self.passed.push(ino);
        }
        Ok(())
    }

    /// Whether a symlink in this directory leads out of what is shown at once: from the root, or by more steps up than
    /// there are directories.
    pub(super) fn leaves_by(&self, target: &[u8]) -> bool {
        if target.starts_with(b"/") {
            return true;
        }
        let up = target.split(|b| *b == b'/').filter(|n| !n.is_empty() && *n != b".");
        up.take_while(|n| *n == b"..").count() >= self.directories.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_any_bytes_but_slash_and_zero() {
        let (found, slash) = names("/a//b%20c/%FF%0a/./%2e%2e%2e/").unwrap_or_default();
        assert_eq!(found, [&b"a"[..], b"b c", b"\xff\n", b"..."]);
        assert!(slash);
        assert_eq!(names("/").ok(), Some((vec![], true)));
        for bad in ["/..", "/a/%2E%2e/b", "/%", "/%1", "/%zz", "/a%2fb", "/%00", "/%+1"] {
            assert!(matches!(names(bad), Err(PathError::Malformed(_))), "{bad}");
        }
        assert!(names(&"/x".repeat(MOST_NAMES + 1)).is_err());
    }

    #[test]
    fn what_is_encoded_reads_back() {
        let all: Vec<u8> = (1..=255).filter(|b| *b != b'/').collect();
        let encoded = encode(&all);
        assert!(encoded.is_ascii() && !encoded.contains(['"', '\'', '<', '&', ':', '?', '#']), "{encoded}");
        assert_eq!(names(&encoded), Ok((vec![all], false)));
    }
}
