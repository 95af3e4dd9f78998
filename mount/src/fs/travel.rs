//! Names that are looked up and never listed: `etc/passwd@yesterday`, `@3d`, the beginning of an id at the root.
//!
//! A file is given itself, so that `cp -a` copies it. A directory is given as a link to where it stands in the other
//! snapshot, since one directory can have only one name; so is a symlink, whose target is meant from there, and
//! whatever stood in a directory that was not open to all: only on the straight way there does the kernel check who may
//! enter. A real name always wins.

use std::sync::Arc;

use jiff::Zoned;
use plakar_engine::id::ObjectId;
use plakar_engine::tree::{Detail, Entry};

use super::history::{self, covers, parts};
use super::tree::Dir;
use super::{Holds, Lookup, SnapshotFs, about};
use crate::config::What;
use crate::error::FsError;
use crate::view::moment::{Moment, split};
use crate::view::{self, LATEST, Shown, View};

const MISSING: Lookup = Lookup::Missing { holds: Holds::Once };

impl SnapshotFs {
    /// A name that a directory of a snapshot has not: perhaps one of its names at another time.
    pub(super) async fn lookup_at_another_time(
        &self,
        dir: &Arc<Dir>,
        name: &[u8],
    ) -> Result<Lookup, FsError> {
        let moment = if self.config.what == What::Store { split(name, &Zoned::now()) } else { None };
        let Some((name, moment)) = moment else { return Ok(Lookup::Missing { holds: Holds::ForEver }) };
        let path = if name.is_empty() { dir.path() } else { dir.path_of(name) };
        let origin = &dir.tree.snapshot.origin;
        let view = self.view();
        let Some(there) = view.at(&moment, |s| s.origin == *origin && covers(s, &path)) else {
            return Ok(MISSING);
        };
        let mut held = HeldPath { fs: self, numbers: Vec::new() };
        let Some((parent, entry, position)) = self.entry_at(there, &path, &mut held).await? else {
            return Ok(MISSING);
        };
        let lies_there = matches!(entry.detail, Detail::Directory { .. } | Detail::Symlink(_));
        if !lies_there && is_open_to_all(&parent) {
            let attr = self.hold_entry(&parent, &entry, position);
            return Ok(Lookup::Found { attr, holds: Holds::Once });
        }
        // From `snapshots/<name>/a/b` to the root are two directories more than in the path.
        let depth = 2 + parts(&dir.path()).len();
        let path = if path == b"/" { &b""[..] } else { &path };
        let from = [b"@", &dir.tree.snapshot.id.0[..], &dir.path_of(name)].concat();
        Ok(self.link_to(there, depth, path, &from))
    }

    /// A name that a directory of a view does not list.
    pub(super) async fn lookup_unlisted(
        &self,
        view: &Arc<View>,
        folder: &[u8],
        name: &[u8],
    ) -> Result<Lookup, FsError> {
        if folder.is_empty() && name == about::FOLDER {
            let attr = self.hold_folder(view, &about::FOLDER.into());
            return Ok(Lookup::Found { attr, holds: Holds::WithTheView });
        }
        if folder == about::FOLDER && name == history::OF_HOSTS {
            let attr = self.hold_folder(view, &view::join(folder, name).into());
            return Ok(Lookup::Found { attr, holds: Holds::WithTheView });
        }
        let Some(listed) = view.folder(folder) else { return self.lookup_version(view, folder, name).await };
        if folder == b"snapshots"
            && let Some(gone) = view.departed(name, super::now_ns())
        {
            return Ok(Lookup::Found { attr: self.hold_snapshot(gone), holds: Holds::Once });
        }
        let depth = parts(folder).len();
        let there = match split(name, &Zoned::now()) {
            // In a folder of some snapshots, those: the root and `snapshots` have all.
            Some((b"" | LATEST, moment)) => {
                let name = |id: &ObjectId| view.snapshot(id).map(|s| s.name.clone());
                let fits =
                    |id: &ObjectId| folder.is_empty() || name(id).is_some_and(|n| listed.item(&n).is_some());
                view.at(&moment, |s| fits(&s.id)).filter(|s| fits(&s.snapshot.id))
            }
            // Plakar's own layout.
            None if folder.is_empty() => std::str::from_utf8(name)
                .ok()
                .and_then(|digits| view.at(&Moment::Id(digits.into()), |_| true)),
            _ => None,
        };
        Ok(match there {
            Some(there) => self.link_to(there, depth, b"", &view::join(folder, name)),
            None => Lookup::Missing { holds: Holds::WithTheView },
        })
    }

    fn link_to(&self, there: &Shown, depth: usize, path: &[u8], from: &[u8]) -> Lookup {
        let link = Arc::new(view::link(depth, &there.name, path, &there.snapshot));
        Lookup::Found { attr: self.hold_link(from, &link), holds: Holds::Once }
    }

    /// What stands at a path of a snapshot, with the directory and its place there.
    async fn entry_at(
        &self,
        there: &Shown,
        path: &[u8],
        held: &mut HeldPath<'_>,
    ) -> Result<Option<(Arc<Dir>, Entry, u32)>, FsError> {
        let mut dir = self.hold_top(&there.snapshot);
        held.numbers.push(dir.ino);
        let names = parts(path);
        let Some((last, above)) = names.split_last() else {
            let root = dir.entry.clone();
            return Ok(Some((dir, root, 0)));
        };
        for name in above {
            match self.entry_in(&dir, name).await? {
                Some((entry, position)) if entry.directory().is_some() => {
                    let ino = self.hold_entry(&dir, &entry, position).ino;
                    held.numbers.push(ino);
                    dir = dir.child(&entry, position, ino, &self.numbers);
                }
                _ => return Ok(None),
            }
        }
        Ok(self.entry_in(&dir, last).await?.map(|(entry, position)| (dir, entry, position)))
    }

    async fn entry_in(&self, dir: &Dir, name: &[u8]) -> Result<Option<(Entry, u32)>, FsError> {
        let found = self.within(dir, Some(name), self.folders.find(dir.node(), name)).await?;
        let Some((run, position)) = found else { return Ok(None) };
        let shown = run.at(position).filter(|e| !matches!(e.detail, Detail::Missing));
        Ok(shown.map(|e| (e.clone(), position)))
    }
}

/// Directories on the way to a path, held until whoever looks there is done.
struct HeldPath<'a> {
    fs: &'a SnapshotFs,
    numbers: Vec<u64>,
}

impl Drop for HeldPath<'_> {
    fn drop(&mut self) {
        for ino in &self.numbers {
            self.fs.forget(*ino, 1);
        }
    }
}

/// Whether everybody may pass through a directory and all above it.
fn is_open_to_all(dir: &Dir) -> bool {
    let mut at = Some(dir);
    while let Some(dir) = at {
        let has_acl = dir.entry.xattrs.iter().any(|x| x.name.starts_with(b"system.posix_acl"));
        if dir.entry.meta.mode & 0o111 != 0o111 || has_acl {
            return false;
        }
        at = dir.parent.as_deref();
    }
    true
}
