//! Choosing snapshots: by id prefix, by `latest`, by the query options that `ls`, `check`, `mount` and others share.

use std::sync::Arc;

use crate::error::{Error, Result};
use crate::id::ObjectId;
use crate::repository::catalog::Catalog;
use crate::snapshot::Snapshot;
use crate::storage::{Area, ObjectName};

/// What a snapshot must be like. Empty fields ask for nothing.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    /// This old or older, ns since 1970.
    pub before_ns: Option<i64>,
    /// This old or newer.
    pub since_ns: Option<i64>,
    /// Exact name.
    pub name: Option<String>,
    /// Exact category.
    pub category: Option<String>,
    /// Exact environment.
    pub environment: Option<String>,
    /// Exact perimeter.
    pub perimeter: Option<String>,
    /// Exact job.
    pub job: Option<String>,
    /// Tags that must be there; with a leading `!`, that must not.
    pub tags: Vec<String>,
    /// Any of these is among the roots.
    pub roots: Vec<Vec<u8>>,
    /// Any of these is the origin.
    pub origins: Vec<String>,
    /// Any of these is the type of the source.
    pub types: Vec<String>,
    /// Only the newest of what fits.
    pub latest: bool,
    /// Choose although there are snapshots that cannot be read, and one of them might be meant.
    pub skip_damaged: bool,
}

impl Filter {
    /// Whether it asks for anything.
    pub fn is_empty(&self) -> bool {
        let texts = [&self.name, &self.category, &self.environment, &self.perimeter, &self.job];
        self.before_ns.is_none()
            && self.since_ns.is_none()
            && texts.iter().all(|t| t.is_none())
            && self.tags.is_empty()
            && self.roots.is_empty()
            && self.origins.is_empty()
            && self.types.is_empty()
            && !self.latest
    }

    /// Whether a snapshot fits (`latest` apart).
    pub fn fits(&self, s: &Snapshot) -> bool {
        let exact = |want: &Option<String>, have: &str| want.as_ref().is_none_or(|w| w == have);
        self.before_ns.is_none_or(|t| s.time_ns <= t)
            && self.since_ns.is_none_or(|t| s.time_ns >= t)
            && exact(&self.name, &s.name)
            && exact(&self.category, &s.category)
            && exact(&self.environment, &s.environment)
            && exact(&self.perimeter, &s.perimeter)
            && exact(&self.job, &s.job)
            && self.tags.iter().all(|t| match t.strip_prefix('!') {
                Some(not) => !s.tags.iter().any(|have| have == not),
                None => s.tags.contains(t),
            })
            && (self.roots.is_empty() || self.roots.iter().any(|r| s.roots.contains(r)))
            && (self.origins.is_empty() || self.origins.contains(&s.origin))
            && (self.types.is_empty() || self.types.contains(&s.source))
    }

    /// Whether a choice by time or contents can be made: not while a snapshot that might be the answer cannot be read.
    /// An older one in its place would be taken for the newest.
    ///
    /// # Errors
    /// That of the snapshot.
    pub fn check_choice(&self, catalog: &Catalog) -> Result<()> {
        match catalog.broken.first() {
            Some((id, e)) if !self.skip_damaged => Err(unreadable(*id, e)),
            _ => Ok(()),
        }
    }

    /// The snapshots of a catalogue that fit, newest first.
    pub fn select(&self, catalog: &Catalog) -> Vec<Arc<Snapshot>> {
        let fit = catalog.snapshots.iter().filter(|s| self.fits(s)).cloned();
        if self.latest { fit.take(1).collect() } else { fit.collect() }
    }
}

/// A snapshot argument: `ID[:PATH]`, where ID is a prefix of an id, `latest` or `latest~N`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Spec {
    /// What stands before the colon.
    pub id: String,
    /// What stands behind it, as given; `None` without a colon.
    pub path: Option<Vec<u8>>,
}

impl Spec {
    /// Splits an argument at its first colon.
    pub fn parse(argument: &[u8]) -> Self {
        match argument.iter().position(|b| *b == b':') {
            Some(i) => Self {
                id: String::from_utf8_lossy(&argument[..i]).into_owned(),
                path: Some(argument[i + 1..].to_vec()).filter(|p| !p.is_empty()),
            },
            None => Self { id: String::from_utf8_lossy(argument).into_owned(), path: None },
        }
    }

    /// Finds the snapshot among those that fit a filter.
    ///
    /// # Errors
    /// `NoSnapshot`; `Ambiguous` with enough of each id to tell them apart; the error of a snapshot that is meant and cannot be read.
    pub fn find(&self, catalog: &Catalog, filter: &Filter) -> Result<Arc<Snapshot>> {
        let mut candidates = catalog.snapshots.iter().filter(|s| filter.fits(s));
        if let Some(back) = latest(&self.id) {
            filter.check_choice(catalog)?;
            let what = if back == 0 { "is in the store" } else { "is that old" };
            return candidates.nth(back).cloned().ok_or_else(|| Error::NoSnapshot { what: what.into() });
        }
        let prefix = self.id.to_ascii_lowercase();
        if prefix.is_empty() || prefix.len() > 64 || !prefix.bytes().all(|b| b.is_ascii_hexdigit()) {
            return Err(Error::NoSnapshot {
                what: format!("is called {:?}: give the beginning of an id, or latest", self.id),
            });
        }
        let found: Vec<_> = candidates.filter(|s| s.id.to_string().starts_with(&prefix)).collect();
        match found.as_slice() {
            [one] => Ok((*one).clone()),
            [] => match catalog.broken.iter().find(|(id, _)| id.to_string().starts_with(&prefix)) {
                Some((id, e)) => Err(unreadable(*id, e)),
                // An id says which one is meant: it is there, but the options say otherwise.
                None if catalog.snapshots.iter().any(|s| s.id.to_string().starts_with(&prefix)) => {
                    let what = format!("has the prefix {prefix} and fits the other options: leave those out");
                    Err(Error::NoSnapshot { what })
                }
                None => Err(Error::NoSnapshot { what: format!("has the prefix {prefix}") }),
            },
            many => {
                let length = (prefix.len() + 4).clamp(8, 64);
                let mut matches: Vec<String> =
                    many.iter().map(|s| s.id.to_string()[..length].into()).collect();
                matches.sort_unstable();
                matches.truncate(8);
                Err(Error::Ambiguous { prefix, matches })
            }
        }
    }

    /// The absolute path in the snapshot: as given, or relative to what was backed up.
    pub fn resolve_path(&self, snapshot: &Snapshot) -> Vec<u8> {
        match &self.path {
            None => snapshot.base(),
            Some(p) if p.first() == Some(&b'/') => clean(p),
            Some(p) => {
                let mut path = snapshot.base();
                path.push(b'/');
                path.extend_from_slice(p);
                clean(&path)
            }
        }
    }
}

/// What to say of a snapshot that is meant, or may be, and cannot be read.
fn unreadable(id: ObjectId, e: &Error) -> Error {
    match e {
        Error::Newer { object } => Error::Newer { object: object.clone() },
        e => Error::damaged(ObjectName::new(Area::Snapshots, id), crate::error::report(e)),
    }
}

fn latest(id: &str) -> Option<usize> {
    match id.strip_prefix("latest")? {
        "" => Some(0),
        rest => rest.strip_prefix('~')?.parse().ok(),
    }
}

/// An absolute path without empty parts, `.` and `..`.
pub fn clean(path: &[u8]) -> Vec<u8> {
    let mut parts: Vec<&[u8]> = Vec::new();
    for part in path.split(|b| *b == b'/') {
        match part {
            b"" | b"." => {}
            b".." => {
                parts.pop();
            }
            part => parts.push(part),
        }
    }
    let mut out = b"/".to_vec();
    out.extend_from_slice(&parts.join(&b'/'));
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn catalog() -> Catalog {
        let mut c = Catalog::default();
        for (i, first) in [(3, 0xab), (2, 0xab), (1, 0xcd)] {
            let mut id = [i; 32];
            id[0] = first;
            let s = Snapshot {
                id: ObjectId(id),
                time_ns: i64::from(i),
                tags: vec![format!("t{i}")],
                roots: vec![b"/srv/data".to_vec()],
                ..Snapshot::empty()
            };
            c.snapshots.push(Arc::new(s));
        }
        c
    }

    #[test]
    fn prefixes_must_be_unique() {
        let c = catalog();
        let find = |id: &str| Spec::parse(id.as_bytes()).find(&c, &Filter::default()).map(|s| s.time_ns);
        assert_eq!(find("cd").ok(), Some(1));
        assert_eq!(find("AB03").ok(), Some(3));
        assert!(matches!(find("ab"), Err(Error::Ambiguous { matches, .. }) if matches.len() == 2));
        assert!(matches!(find("ee"), Err(Error::NoSnapshot { .. })));
        assert!(matches!(find("xyz"), Err(Error::NoSnapshot { .. })));
        assert_eq!(find("latest").ok(), Some(3));
        assert_eq!(find("latest~2").ok(), Some(1));
        assert!(find("latest~3").is_err());
    }

    #[test]
    fn paths_are_absolute_or_below_what_was_backed_up() {
        let s = &catalog().snapshots[0];
        let path = |arg: &str| String::from_utf8(Spec::parse(arg.as_bytes()).resolve_path(s)).unwrap();
        assert_eq!(path("ab"), "/srv/data");
        assert_eq!(path("ab:"), "/srv/data");
        assert_eq!(path("ab:/etc//x/../y"), "/etc/y");
        assert_eq!(path("ab:sub/f"), "/srv/data/sub/f");
        assert_eq!(path("ab:/"), "/");
    }

    #[test]
    fn filters_combine() {
        let c = catalog();
        let count = |f: Filter| f.select(&c).len();
        assert_eq!(count(Filter { tags: vec!["!t1".into()], ..Filter::default() }), 2);
        // Both ends are part of it.
        assert_eq!(count(Filter { since_ns: Some(2), before_ns: Some(3), ..Filter::default() }), 2);
        assert_eq!(count(Filter { since_ns: Some(2), before_ns: Some(2), ..Filter::default() }), 1);
        assert_eq!(count(Filter { latest: true, ..Filter::default() }), 1);
        assert_eq!(count(Filter { roots: vec![b"/nope".to_vec()], ..Filter::default() }), 0);
    }
}
