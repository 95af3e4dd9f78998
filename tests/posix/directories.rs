//! Reading directories.

use std::collections::BTreeSet;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{AtFlags, Dir, FileType, OFlags, RawDir, SeekFrom};
use rustix::io::Errno;

use super::{CROWD, Check, Place, crowd_name, gives};

pub(super) const CHECKS: &[Check] = &[
    ("each name once, and dot and dot-dot", once),
    ("100,000 names through buffers that hold a few", small_buffers),
    ("a buffer too small for a name is refused", too_small),
    ("rewinddir gives the same again", rewind),
    ("telldir and seekdir go to any place", seek),
    ("a listing goes on through another descriptor's reading", independent),
    ("types and numbers are those of stat", types_and_numbers),
    ("what is no directory is not listed", no_directory),
];

fn open(p: &Place, path: &str) -> OwnedFd {
    p.open(path, OFlags::RDONLY | OFlags::DIRECTORY).unwrap()
}

/// Reads on to the end through a buffer of that size.
fn names(directory: &OwnedFd, size: usize) -> Vec<Vec<u8>> {
    let mut buffer = vec![MaybeUninit::uninit(); size];
    let mut entries = RawDir::new(directory.as_fd(), &mut buffer);
    let mut found = Vec::new();
    while let Some(entry) = entries.next() {
        found.push(entry.unwrap().file_name().to_bytes().to_vec());
    }
    found
}

fn once(p: &Place) {
    let mut found = names(&open(p, "dir"), 32 << 10);
    found.sort();
    assert_eq!(found, [&b"."[..], b"..", b"linked too", b"sub", b"up"]);
}

fn small_buffers(p: &Place) {
    let expected: BTreeSet<Vec<u8>> = (0..CROWD).map(|i| crowd_name(i).into_bytes()).collect();
    let directory = open(p, "crowd");
    for size in [120, 1000, 4096, 1 << 20] {
        rustix::fs::seek(&directory, SeekFrom::Start(0)).unwrap();
        let found = names(&directory, size);
        assert_eq!(found.len(), CROWD + 2, "{size}");
        let mut unique: BTreeSet<_> = found.into_iter().collect();
        assert!(unique.remove(&b"."[..]) && unique.remove(&b".."[..]));
        assert!(unique == expected, "{size}");
        assert!(names(&directory, size).is_empty(), "the end stays the end");
    }
}

fn too_small(p: &Place) {
    let directory = open(p, "crowd");
    let mut buffer = [MaybeUninit::uninit(); 24];
    let mut entries = RawDir::new(directory.as_fd(), &mut buffer);
    let mut failed = None;
    while failed.is_none() {
        failed = entries.next().expect("the directory is longer").err();
    }
    assert_eq!(failed, Some(Errno::INVAL));
    // Nothing was skipped by it.
    rustix::fs::seek(&directory, SeekFrom::Start(0)).unwrap();
    assert_eq!(names(&directory, 4096).len(), CROWD + 2);
}

/// Names, and where a listing goes on behind each.
fn places(directory: &mut Dir) -> Vec<(Vec<u8>, i64)> {
    let mut found = Vec::new();
    while let Some(entry) = directory.read() {
        let entry = entry.unwrap();
        found.push((entry.file_name().to_bytes().to_vec(), entry.offset()));
    }
    found
}

fn rewind(p: &Place) {
    let mut directory = Dir::new(open(p, "crowd")).unwrap();
    let first = places(&mut directory);
    directory.rewind();
    assert!(places(&mut directory) == first);
    // From the middle too.
    directory.rewind();
    (0..1234).for_each(|_| drop(directory.read()));
    directory.rewind();
    assert!(places(&mut directory) == first);
}

fn seek(p: &Place) {
    let mut directory = Dir::new(open(p, "crowd")).unwrap();
    let all = places(&mut directory);
    // Back and forth.
    for i in (0..40).map(|i| (i * 7919 * 13) % (all.len() - 1)) {
        directory.seek(all[i].1).unwrap();
        let next = directory.read().unwrap().unwrap();
        assert_eq!(next.file_name().to_bytes(), all[i + 1].0, "behind {i}");
        // Places that were told stay good wherever the reading is.
        assert_eq!(next.offset(), all[i + 1].1);
    }
    directory.seek(all[all.len() - 1].1).unwrap();
    assert!(directory.read().is_none(), "behind the last");
    directory.seek(all[0].1).unwrap();
    assert!(places(&mut directory) == all[1..]);
}

fn independent(p: &Place) {
    let (mut a, mut b) = (Dir::new(open(p, "crowd")).unwrap(), Dir::new(open(p, "crowd")).unwrap());
    let of = |d: &mut Dir| d.read().unwrap().unwrap().file_name().to_bytes().to_vec();
    let mut from_a = Vec::new();
    for i in 0..5000 {
        from_a.push(of(&mut a));
        if i % 3 == 0 {
            of(&mut b);
        }
    }
    a.rewind();
    let again: Vec<_> = (0..5000).map(|_| of(&mut a)).collect();
    assert!(from_a == again);
}

fn types_and_numbers(p: &Place) {
    for path in [".", "dir", "dir/sub"] {
        let mut seen = 0;
        for entry in Dir::new(open(p, path)).unwrap() {
            let entry = entry.unwrap();
            let inside = format!("{path}/{}", entry.file_name().to_str().unwrap());
            if inside == "./.." {
                // What a mount covers is nothing that it knows.
                continue;
            }
            let stat = rustix::fs::statat(&p.root, &inside, AtFlags::SYMLINK_NOFOLLOW).unwrap();
            assert_eq!(entry.file_type(), FileType::from_raw_mode(stat.st_mode), "{inside}");
            assert_eq!(entry.ino(), stat.st_ino, "{inside}");
            seen += 1;
        }
        assert!(seen >= 3);
    }
}

fn no_directory(p: &Place) {
    let mut buffer = [MaybeUninit::uninit(); 1024];
    let file = p.file("file");
    let listed = RawDir::new(file.as_fd(), &mut buffer).next().unwrap().map(drop);
    gives("a file", listed, Errno::NOTDIR);
}
