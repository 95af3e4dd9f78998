//! What tells that a file has changed since the previous backup: its entry and stamp then beside those of now.

use crate::importer::{SourceEntry, Stamp};
use crate::tree::{Detail, Entry};

/// A stamp's time that never matches: the clock may have hidden a change.
pub(super) const UNTRUSTED: i64 = i64::MIN;

/// By what a change is known, beside the size (decision 0012). What a source does not have tells nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChangeBy {
    /// Time of the last modification.
    pub mtime: bool,
    /// Time of the last change of contents or attributes.
    pub ctime: Ctime,
    /// Inode.
    pub inode: bool,
    /// File system.
    pub volume: bool,
}

/// What another ctime says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ctime {
    /// Nothing.
    Ignored,
    /// That the contents changed, unless mode, owner, group or the number of links did, which changes it as well.
    Unexplained,
    /// That the contents changed.
    Any,
}

impl Default for ChangeBy {
    fn default() -> Self {
        Self { mtime: true, ctime: Ctime::Unexplained, inode: true, volume: true }
    }
}

/// How a file is beside what it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// As it was, attributes and all.
    Same,
    /// Its contents are as they were. What else there is to know of it is asked for again.
    Contents,
    /// It is read.
    Changed,
}

/// Compares a regular file with what it was. `then_stamp` is `None` where only its entry is known: then its times and size
/// are all that tells. `group` is the group that the links of the file belong to now, if it has further ones.
pub(super) fn compare(
    by: &ChangeBy,
    then_stamp: Option<Stamp>,
    then: &Entry,
    now: &SourceEntry,
    group: Option<u64>,
) -> Verdict {
    let is_there = matches!(&then.detail, Detail::Regular(c) if !c.missing) && then.error.is_none();
    let same_kind_and_size = (then.meta.kind, then.meta.size) == (now.meta.kind, now.meta.size);
    let same_mtime = then.meta.mtime == now.meta.mtime;
    if !is_there || !same_kind_and_size || !same_mtime && (by.mtime || then_stamp.is_none()) {
        return Verdict::Changed;
    }
    let same_links = same_links(then, now);
    let same_group = then.links.map(|l| l.group) == group;
    let (a, b) = (&then.meta, &now.meta);
    let same_attributes = (a.mode, a.uid, a.gid) == (b.mode, b.uid, b.gid) && same_links;
    // A birth time tells nothing, but is to be right.
    let alike = same_attributes && same_group && same_mtime && a.born == b.born;
    let Some(stamp) = then_stamp else {
        return if alike { Verdict::Same } else { Verdict::Contents };
    };
    if stamp.ctime_ns == UNTRUSTED
        || by.inode && stamp.inode != now.stamp.inode
        || by.volume && stamp.volume != now.stamp.volume
    {
        return Verdict::Changed;
    }
    match by.ctime {
        _ if stamp == now.stamp && alike => Verdict::Same,
        _ if stamp.ctime_ns == now.stamp.ctime_ns => Verdict::Contents,
        Ctime::Ignored => Verdict::Contents,
        Ctime::Unexplained if !same_attributes => Verdict::Contents,
        Ctime::Unexplained | Ctime::Any => Verdict::Changed,
    }
}

fn same_links(then: &Entry, now: &SourceEntry) -> bool {
    then.links.map_or(1, |l| u64::from(l.count)) == now.links.max(1)
}

/// Compares a symlink or special file with what it was: either all of it is as it was, or it is asked for again, which
/// costs as little.
pub(super) fn compare_without_contents(
    then_stamp: Option<Stamp>,
    then: &Entry,
    now: &SourceEntry,
    group: Option<u64>,
) -> Verdict {
    let same_stamp = then_stamp.is_none_or(|s| s.ctime_ns != UNTRUSTED && s == now.stamp);
    let same_group = then.links.map(|l| l.group) == group;
    let same_detail = match &then.detail {
        Detail::Symlink(target) => Some(target) == now.target.as_ref(),
        Detail::Special => true,
        Detail::Regular(_) | Detail::Missing | Detail::Directory { .. } => false,
    };
    let is_same = same_stamp
        && same_links(then, now)
        && same_group
        && same_detail
        && then.meta == now.meta
        && then.error.is_none();
    if is_same { Verdict::Same } else { Verdict::Changed }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::meta::{Kind, Metadata, Timestamp};
    use crate::tree::{Contents, Links};

    const STAMP: Stamp = Stamp { ctime_ns: 1_000, inode: 7, volume: 3 };

    fn then() -> Entry {
        let mtime = Timestamp { sec: 5, nsec: 0 };
        let meta = Metadata { kind: Kind::Regular, mode: 0o644, size: 9, mtime, ..Metadata::directory(0) };
        let detail = Detail::Regular(Contents::default());
        Entry::new(*b"f", meta, detail)
    }

    fn now() -> SourceEntry {
        SourceEntry {
            name: b"f".to_vec(),
            meta: then().meta,
            stamp: STAMP,
            file: (1, 7),
            links: 1,
            sparse: false,
            target: None,
            left_out: None,
        }
    }

    fn verdict(by: ChangeBy, change: impl FnOnce(&mut SourceEntry)) -> Verdict {
        let mut now = now();
        change(&mut now);
        compare(&by, Some(STAMP), &then(), &now, (now.links > 1).then_some(1))
    }

    #[test]
    fn each_mark_counts_unless_it_is_left_out() {
        use Verdict::{Changed, Contents, Same};
        let by = ChangeBy::default();
        assert_eq!(verdict(by, |_| ()), Same);
        assert_eq!(verdict(by, |n| n.meta.size += 1), Changed);
        assert_eq!(verdict(by, |n| n.meta.mtime.nsec += 1), Changed);
        assert_eq!(verdict(by, |n| n.stamp.inode += 1), Changed);
        assert_eq!(verdict(by, |n| n.stamp.volume += 1), Changed);
        assert_eq!(verdict(by, |n| n.stamp.ctime_ns += 1), Changed);
        let chmod = |n: &mut SourceEntry| (n.stamp.ctime_ns, n.meta.mode) = (2_000, 0o600);
        assert_eq!(verdict(by, chmod), Contents);
        assert_eq!(verdict(by, |n| (n.stamp.ctime_ns, n.links) = (2_000, 2)), Contents);
        // A file in its place, whatever its mode.
        assert_eq!(verdict(by, |n| (n.stamp.inode, n.meta.mode) = (8, 0o600)), Changed);
        let strict = ChangeBy { ctime: Ctime::Any, ..by };
        assert_eq!(verdict(strict, chmod), Changed);
        let loose = ChangeBy { mtime: false, ctime: Ctime::Ignored, inode: false, volume: false };
        assert_eq!(verdict(loose, |n| (n.stamp.ctime_ns, n.meta.mtime.sec) = (2_000, 6)), Contents);
        assert_eq!(verdict(loose, |n| (n.stamp.inode, n.stamp.volume) = (8, 8)), Contents);
        assert_eq!(verdict(loose, |n| n.meta.size += 1), Changed);
    }

    #[test]
    fn without_a_stamp_times_and_size_tell_whatever_is_left_out() {
        let loose = ChangeBy { mtime: false, ..ChangeBy::default() };
        let compare = |now: &SourceEntry| compare(&loose, None, &then(), now, None);
        assert_eq!(compare(&now()), Verdict::Same);
        let mut touched = now();
        touched.meta.mtime.sec += 1;
        assert_eq!(compare(&touched), Verdict::Changed);
        let mut others = now();
        others.meta.uid = 5;
        assert_eq!(compare(&others), Verdict::Contents);
    }

    #[test]
    fn what_was_not_whole_or_not_old_enough_is_read() {
        let by = ChangeBy::default();
        let young = Stamp { ctime_ns: UNTRUSTED, ..STAMP };
        let mut chmod = now();
        chmod.meta.mode = 0o600;
        assert_eq!(compare(&by, Some(young), &then(), &chmod, None), Verdict::Changed);
        let broken = Entry { error: Some("read: EIO".into()), ..then() };
        assert_eq!(compare(&by, Some(STAMP), &broken, &now(), None), Verdict::Changed);
    }

    #[test]
    fn names_of_a_file_that_has_another_number_now_are_joined_anew() {
        let links = Some(Links { group: 1, count: 2 });
        let then = Entry { links, ..then() };
        let now = SourceEntry { links: 2, ..now() };
        let with = |group| compare(&ChangeBy::default(), Some(STAMP), &then, &now, Some(group));
        assert_eq!(with(1), Verdict::Same);
        assert_eq!(with(2), Verdict::Contents);
    }
}
