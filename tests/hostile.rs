//! Stores that were made to hurt whoever reads them: small, and endless, deep or heavy when they are unfolded. Check comes
//! to an end; restore may have no end, but neither takes more memory than it may.

use std::time::{Duration, Instant};

use plakar_engine::crypto::Class;
use plakar_engine::meta::{Kind, Xattr};
use plakar_engine::tree::{Contents, Detail, Entry, Extent, Summary};
use plakar_engine::wire::Put;

use crate::common::MountGuard;
use crate::common::made::{Builder, entry, file, store};
use crate::common::sandbox::peak_while;
use crate::common::{Outcome, Sandbox};

/// MiB of resident memory, the program itself included.
const BUDGET: u64 = 150;
/// How long a restore without an end is watched.
const WATCHED: Duration = Duration::from_secs(4);

/// Check ends soon, with this code and within its budget; a restore keeps to its budget for as long as it is watched.
#[track_caller]
fn is_borne(sandbox: &Sandbox, code: i32) {
    let begun = Instant::now();
    let mut command = sandbox.command(["check"]);
    let mut child = command.spawn().unwrap();
    let peak = peak_while(&mut child, Duration::from_secs(60));
    let outcome = Outcome::when_ended(child, &command).ends_with(code);
    assert!(begun.elapsed() < Duration::from_secs(60), "{outcome}");
    assert!(peak < BUDGET, "{peak} MiB: {outcome}");

    let mut command = sandbox.command(["restore", "-to", "to", "latest"]);
    let mut child = command.spawn().unwrap();
    let peak = peak_while(&mut child, WATCHED);
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(peak < BUDGET, "restore took {peak} MiB");
}

#[test]
fn a_file_that_unfolds_into_more_extents_than_can_be_counted() {
    let sandbox = store(|b| {
        // One list of each level, over and over in the next one.
        let mut item = Extent { id: Some(b.put(Class::Data, b"x")), len: 1 };
        for level in 0..4 {
            let id = Some(b.put(Class::Meta, &list_of(level, item)));
            item = Extent { id, len: item.len * 4096 };
        }
        let contents =
            Contents { level: 4, items: vec![item; 32], data_bytes: item.len * 32, missing: false };
        b.directory("", &[file("endless", contents)])
    });
    is_borne(&sandbox, 0);
}

/// An extent list of a level that has one item 4096 times: FORMAT.md §9.
fn list_of(level: u8, item: Extent) -> Vec<u8> {
    let mut blob = vec![3, 1, level];
    blob.put_uv(4096);
    for _ in 0..4096 {
        blob.put_uv(item.len << 1);
        blob.extend_from_slice(&item.id.unwrap().0);
    }
    blob
}

#[test]
fn a_list_that_is_said_to_cover_more_than_it_does_is_found_though_it_was_read_before() {
    let sandbox = store(|b| {
        let item = Extent { id: Some(b.put(Class::Data, b"x")), len: 1 };
        let id = Some(b.put(Class::Meta, &list_of(0, item)));
        let of =
            |len| Contents { level: 1, items: vec![Extent { id, len }], data_bytes: 4096, missing: false };
        b.directory("", &[file("a", of(4096)), file("b", of(4097))])
    });
    let outcome = sandbox.run(["check"]).ends_with(65);
    assert!(outcome.stderr.contains("/b: ") && !outcome.stderr.contains("/a: "), "{outcome}");
}

/// A huge directory of such pages: FORMAT.md §9.
fn paged(b: &mut Builder, pages: &[(&str, &[&str])]) -> Entry {
    let mut index = vec![2, 1];
    index.put_uv(pages.len() as u64);
    let mut below = Summary::default();
    for (first, names) in pages {
        let entries: Vec<Entry> = names.iter().map(|n| file(n, Contents::default())).collect();
        let page = b.directory("", &entries);
        let (node, files) = page.directory().unwrap();
        below.add_all(files);
        index.put_bytes(first.as_bytes());
        index.put_uv(names.len() as u64);
        index.extend_from_slice(&node.0);
    }
    let node = b.put(Class::Meta, &index);
    entry("", Kind::Directory, Detail::Directory { node, below, partial: false })
}

#[test]
fn pages_that_are_not_what_their_index_says_are_found_by_whoever_reads_them() {
    let cases: [&[(&str, &[&str])]; 4] = [
        &[("a", &["a", "c"]), ("b", &["b", "c"])],
        &[("a", &["a", "b"]), ("c", &["d", "e"])],
        &[("a", &["a", "b"]), ("b", &["b", "c"])],
        &[("a", &["a", "b"]), ("c", &["c"]), ("d", &["c", "d"])],
    ];
    for pages in cases {
        let sandbox = store(|b| {
            let fine = paged(b, &[("a", &["a", "b"]), ("c", &["c", "d"])]);
            let bad = paged(b, pages);
            let named = |name: &str, d: &Entry| Entry { name: name.into(), ..d.clone() };
            b.directory("", &[named("bad", &bad), named("fine", &fine)])
        });
        let outcome = sandbox.run(["check"]).ends_with(65);
        assert!(outcome.stderr.contains("/bad") && !outcome.stderr.contains("/fine"), "{outcome}");
        sandbox.run(["ls", "-recursive", "latest"]).ends_with(65);
        sandbox.run(["restore", "-to", "to", "latest"]).ends_with(65);
        assert_eq!(std::fs::read_dir(sandbox.path("to/fine")).unwrap().count(), 4);
        let mount = MountGuard::new(&sandbox, ["latest:/"]);
        let names = |d: &str| std::fs::read_dir(mount.path().join(d)).unwrap().collect::<Vec<_>>();
        assert_eq!(names("fine").len(), 4);
        assert!(names("bad").iter().any(Result::is_err), "{pages:?}");
    }
}

#[test]
fn directories_that_miscount_what_is_below_them_are_found() {
    let sandbox = store(|b| {
        let empty = b.directory("empty", &[]);
        let mut full = b.directory("full", &[file("file", Contents::default())]);
        let again = Entry { name: b"again".to_vec(), ..full.clone() };
        let node = empty.directory().unwrap().0;
        let below = Summary { files: u64::MAX, ..Summary::default() };
        let many = entry("many", Kind::Directory, Detail::Directory { node, below, partial: false });
        // The same node as one that is counted right.
        if let Detail::Directory { below, .. } = &mut full.detail {
            below.bytes = 1;
        }
        b.directory("", &[again, empty, full, many])
    });
    let outcome = sandbox.run(["check"]).ends_with(65);
    let named = |path: &str| outcome.stderr.contains(&format!(":{path}: "));
    let found = ["/again", "/empty", "/full", "/many", "/"].map(named);
    assert_eq!(found, [false, false, true, true, false], "{outcome}");
}

#[test]
fn directories_that_unfold_into_more_entries_than_can_be_counted() {
    let sandbox = store(|b| {
        let mut below = b.directory("", &[]);
        for _ in 0..30 {
            let entries: Vec<Entry> =
                (0..3000).map(|i| Entry { name: format!("{i:05}").into(), ..below.clone() }).collect();
            below = b.directory("", &entries);
        }
        below
    });
    is_borne(&sandbox, 0);
}

#[test]
fn a_tree_deeper_than_a_path_may_be_long() {
    let sandbox = store(|b| {
        let mut below = b.directory("bottom", &[]);
        for _ in 0..6000 {
            below = Entry { name: vec![b'd'; 4000], ..below };
            below = b.directory("", &[below]);
        }
        below
    });
    is_borne(&sandbox, 65);
}

#[test]
fn a_deep_tree_of_heavy_attributes() {
    let sandbox = store(|b| {
        let heavy =
            |i: usize, part: u8| Xattr { name: format!("user.{part}").into(), value: vec![i as u8; 900_000] };
        let mut below = b.directory("bottom", &[]);
        for i in 0..400 {
            below.xattrs = vec![heavy(i, 1), heavy(i, 2)];
            let mut beside = entry("beside", Kind::Fifo, Detail::Special);
            beside.xattrs.clone_from(&below.xattrs);
            below.name = b"deeper".to_vec();
            below = b.directory("", &[beside, below]);
        }
        below
    });
    is_borne(&sandbox, 0);
}
