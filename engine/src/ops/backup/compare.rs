//! What is in a directory beside what was in it: two lists in the order of names become one, some names at a time.

use super::change::{self, ChangeBy, Verdict};
use super::exclude::Excludes;
use super::previous::{Before, Known, Previous};
use crate::importer::{ImportError, ListedName, SourceEntry, Stamp};
use crate::meta::Kind;
use crate::repository::writer::Run;
use crate::tree::{Detail, Entry, is_valid_name};

/// One name.
pub(super) enum Found {
    /// As it was: its entry is taken over.
    Unchanged(Stamp, Entry),
    /// What is in it is as it was: what it is now, and its entry then.
    Contents(SourceEntry, Box<Entry>),
    /// New, or not as it was; no directory.
    Changed(SourceEntry),
    /// A directory.
    Directory {
        now: SourceEntry,
        /// Its entry if it was one before.
        was: Option<Entry>,
        /// Its own attributes are those of that entry.
        untouched: bool,
    },
    /// It cannot be looked at.
    Failed(Vec<u8>, ImportError),
    /// The format has no room for its name.
    Unstorable(Vec<u8>),
    /// A directory was there, and is not any more, or is something else now.
    Gone(Vec<u8>),
}

impl Found {
    pub(super) fn name(&self) -> &[u8] {
        match self {
            Self::Unchanged(_, entry) => &entry.name,
            Self::Changed(now) | Self::Contents(now, _) | Self::Directory { now, .. } => &now.name,
            Self::Failed(name, _) | Self::Unstorable(name) | Self::Gone(name) => name,
        }
    }

    /// Whether it becomes an entry.
    pub(super) fn is_kept(&self) -> bool {
        !matches!(self, Self::Unstorable(_) | Self::Gone(_))
    }
}

/// What entries are compared with, and how.
pub(super) struct Beside<'a> {
    pub(super) run: &'a Run,
    pub(super) previous: &'a Previous,
    pub(super) excludes: &'a Excludes,
    pub(super) change_by: ChangeBy,
}

impl Beside<'_> {
    /// How something that is no directory is beside what it was.
    fn verdict(&self, stamp: Option<Stamp>, then: &Entry, now: &SourceEntry) -> Verdict {
        let group = (now.links > 1).then(|| self.run.repository().keys().link_group(now.file));
        let verdict = match &then.detail {
            Detail::Regular(_) => change::compare(&self.change_by, stamp, then, now, group),
            _ => change::compare_without_contents(stamp, then, now, group),
        };
        let has_contents = || self.previous.has_contents(then, |id| self.run.is_known(id));
        match verdict {
            Verdict::Same | Verdict::Contents if has_contents() => verdict,
            _ => Verdict::Changed,
        }
    }
}

/// A directory on its way through the comparison.
pub(super) struct Comparison {
    before: Option<Before>,
    /// Something that was there is not any more, or is not what it was.
    pub(super) is_less: bool,
}

impl Comparison {
    /// Begins with what is known of the directory.
    pub(super) fn new(before: Option<Before>) -> Self {
        Self { before, is_less: false }
    }

    /// What the file cache holds of the directory.
    pub(super) fn known(&self) -> Option<Known> {
        self.before.as_ref().map(Before::known)
    }

    fn gone(&mut self, entry: Entry, found: &mut impl Extend<Found>) {
        self.is_less = true;
        if entry.directory().is_some() {
            found.extend([Found::Gone(entry.name)]);
        }
    }

    /// What was there, up to a name; all of it without one.
    fn skip(&mut self, previous: &Previous, to: Option<&[u8]>, found: &mut impl Extend<Found>) {
        let is_before = |e: &Entry| to.is_none_or(|to| e.name.as_slice() < to);
        while let Some((_, gone)) = self.before.as_mut().and_then(|b| b.next_if(previous, is_before)) {
            self.gone(gone, found);
        }
    }

    /// Compares the next names, leaving out what is excluded. `at` is the directory's path with a `/` behind it.
    pub(super) fn next(
        &mut self,
        mut at: Vec<u8>,
        listed: Vec<ListedName>,
        beside: &Beside<'_>,
        found: &mut impl Extend<Found>,
    ) {
        let Beside { previous, excludes, .. } = beside;
        let above = at.len();
        for (name, now) in listed {
            at.truncate(above);
            at.extend_from_slice(&name);
            if !is_valid_name(&name) {
                found.extend([Found::Unstorable(name)]);
                continue;
            }
            let is_directory = matches!(&now, Ok(n) if n.meta.kind == Kind::Directory);
            if excludes.excludes(&at, is_directory) {
                continue;
            }
            self.skip(previous, Some(&name), found);
            let was = self.before.as_mut().and_then(|b| b.next_if(previous, |e| e.name == name));
            let now = match now {
                Ok(now) => now,
                Err(e) => {
                    found.extend([Found::Failed(name, e)]);
                    continue;
                }
            };
            if is_directory {
                let was = was.filter(|(_, e)| e.directory().is_some());
                let untouched = was.as_ref().is_some_and(|(stamp, e)| previous.is_untouched(*stamp, e, &now));
                found.extend([Found::Directory { now, was: was.map(|(_, e)| e), untouched }]);
                continue;
            }
            let Some((stamp, entry)) = was else {
                found.extend([Found::Changed(now)]);
                continue;
            };
            let next = match beside.verdict(stamp, &entry, &now) {
                Verdict::Same => Found::Unchanged(now.stamp, entry),
                Verdict::Contents => Found::Contents(now, Box::new(entry)),
                Verdict::Changed => {
                    self.gone(entry, found);
                    Found::Changed(now)
                }
            };
            found.extend([next]);
        }
    }

    /// The directory has ended: what else was there is gone.
    pub(super) fn end(&mut self, previous: &Previous, found: &mut impl Extend<Found>) {
        self.skip(previous, None, found);
    }
}
