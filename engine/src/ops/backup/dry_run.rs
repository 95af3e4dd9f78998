//! A dry run: says what a backup would take.

use std::sync::Arc;

use super::assemble::join;
use super::exclude::Excludes;
use crate::error::Result;
use crate::importer::{ImportError, Importer, SourceDirectory};
use crate::meta::Kind;
use crate::monitor::{Event, Monitor};
use crate::ops::Cancel;

/// Lists what a backup would take, and returns how many paths could not be listed.
pub(super) fn list(
    source: &dyn Importer,
    excludes: &Excludes,
    monitor: &dyn Monitor,
    cancel: &Cancel,
) -> Result<u64> {
    let mut errors = 0;
    let mut failed = |path: &[u8], e: &ImportError| {
        errors += 1;
        monitor.event(Event::Failed { path, reason: &e.to_string() });
    };
    /// A path, and the open directory that it is in, but for roots.
    type Todo = (Vec<u8>, Option<Arc<dyn SourceDirectory>>);
    let mut stack: Vec<Todo> = Vec::new();
    for root in source.roots() {
        match source.entry(root) {
            Ok(e) if e.meta.kind == Kind::Directory => stack.push((root.clone(), None)),
            Ok(e) => monitor.event(Event::Entry { path: root, bytes: e.meta.size }),
            Err(e) => failed(root, &e),
        }
    }
    while let Some((path, parent)) = stack.pop() {
        cancel.check()?;
        monitor.event(Event::Entry { path: &path, bytes: 0 });
        let name = path.rsplit(|b| *b == b'/').next().unwrap_or_default();
        let opened = match &parent {
            Some(parent) => parent.open_directory(name),
            None => source.directory(&path),
        };
        let listed = opened.and_then(|d| d.list().map(|l| (d, l)));
        let (directory, listed) = match listed {
            Ok(l) => l,
            Err(e) => {
                failed(&path, &e);
                continue;
            }
        };
        for (name, now) in listed.into_iter().rev() {
            let at = join(&path, &name);
            match now {
                Err(e) => failed(&at, &e),
                Ok(now) => {
                    let is_directory = now.meta.kind == Kind::Directory;
                    if excludes.excludes(&at, is_directory) {
                    } else if is_directory && !now.mount_point {
                        stack.push((at, Some(directory.clone())));
                    } else {
                        monitor.event(Event::Entry { path: &at, bytes: now.meta.size });
                    }
                }
            }
        }
    }
    Ok(errors)
}
