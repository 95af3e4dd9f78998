//! A dry run: says what a backup would take.

use std::collections::VecDeque;
use std::sync::Arc;

use super::exclude::{Excludes, Why};
use super::scan::own_mount_left_out;
use crate::cancel::Cancel;
use crate::error::Result;
use crate::importer::{ImportError, Importer, LeftOut, Listing, SourceDirectory};
use crate::meta::Kind;
use crate::monitor::{Event, Monitor};
use crate::trail::Trail;

/// Names that are asked for at once.
const SOME: usize = 4096;

/// A directory that is being listed.
struct Level {
    root: Arc<[u8]>,
    /// Below its root.
    trail: Trail,
    directory: Arc<dyn SourceDirectory>,
    /// `None` at its end.
    listing: Option<Box<dyn Listing>>,
    /// Directories among the names that were listed last.
    todo: VecDeque<Vec<u8>>,
}

struct DryRun<'a> {
    source: &'a dyn Importer,
    excludes: &'a Excludes,
    monitor: &'a dyn Monitor,
    stack: Vec<Level>,
    errors: u64,
}

/// Lists what a backup would take, and returns how many paths could not be listed.
pub(super) fn list(
    source: &dyn Importer,
    roots: &[Vec<u8>],
    excludes: &Excludes,
    monitor: &dyn Monitor,
    cancel: &Cancel,
) -> Result<u64> {
    let mut run = DryRun { source, excludes, monitor, stack: Vec::new(), errors: 0 };
    for root in roots {
        match source.entry(root) {
            Ok(e) if e.meta.kind == Kind::Directory => {
                run.enter(root.as_slice().into(), Trail::default(), None);
            }
            Ok(e) => monitor.event(Event::Entry { path: root, bytes: e.meta.size }),
            Err(e) => run.failed(root, &e),
        }
        while let Some(level) = run.stack.last_mut() {
            cancel.check()?;
            match level.todo.pop_front() {
                Some(name) => {
                    let (root, trail) = (level.root.clone(), level.trail.join(&name));
                    let parent = level.directory.clone();
                    run.enter(root, trail, Some((parent, name)));
                }
                None => run.some(),
            }
        }
    }
    Ok(run.errors)
}

fn told(why: Why<'_>) -> String {
    match why {
        Why::Store => "it is the store".into(),
        Why::Pattern(pattern) => format!("pattern {pattern}"),
    }
}

impl DryRun<'_> {
    fn failed(&mut self, path: &[u8], e: &ImportError) {
        self.errors += 1;
        self.monitor.event(Event::Failed { path, reason: &e.to_string() });
    }

    /// Opens a directory: a root, or a name in its parent.
    fn enter(&mut self, root: Arc<[u8]>, trail: Trail, below: Option<(Arc<dyn SourceDirectory>, Vec<u8>)>) {
        let path = trail.path(&root);
        self.monitor.event(Event::Entry { path: &path, bytes: 0 });
        let opened = match below {
            Some((parent, name)) => parent.open_directory(&name),
            None => self.source.directory(&path),
        };
        match opened.and_then(|d| Ok((d.clone().list()?, d))) {
            Ok((listing, directory)) => {
                let todo = VecDeque::new();
                self.stack.push(Level { root, trail, directory, listing: Some(listing), todo });
            }
            Err(e) => self.failed(&path, &e),
        }
    }

    /// Lists some more of the directory entered last, or leaves it.
    fn some(&mut self) {
        let Some(mut level) = self.stack.pop() else { return };
        let Some(listing) = &mut level.listing else { return };
        let listed = match listing.more(SOME) {
            Ok(listed) => listed,
            Err(e) => return self.failed(&level.trail.path(&level.root), &e),
        };
        if listed.len() < SOME {
            level.listing = None;
        }
        let mut at = level.trail.path_of(&level.root, b"");
        let above = at.len();
        for (name, now) in listed {
            at.truncate(above);
            at.extend_from_slice(&name);
            match now {
                Err(e) => self.failed(&at, &e),
                Ok(now) => {
                    let is_directory = now.meta.kind == Kind::Directory;
                    if let Some(why) = self.excludes.why(&at, is_directory) {
                        self.monitor.event(Event::LeftOut { path: &at, by: &told(why) });
                    } else if now.left_out == Some(LeftOut::OtherFileSystem) {
                        self.monitor.event(Event::Entry { path: &at, bytes: 0 });
                        self.monitor
                            .event(Event::LeftOut { path: &at, by: "another file system is mounted there" });
                    } else if now.left_out == Some(LeftOut::OwnMount) {
                        own_mount_left_out(self.monitor, &at);
                    } else if is_directory && now.left_out.is_none() {
                        level.todo.push_back(name);
                    } else {
                        self.monitor.event(Event::Entry { path: &at, bytes: now.meta.size });
                    }
                }
            }
        }
        self.stack.push(level);
    }
}
