//! What was backed up comes back, in every attribute.

use std::os::unix::fs::MetadataExt;
use std::path::Path;

use rustix::fs::{FileType, statfs};
use serde_json::Value;

use crate::common::torture::{self, CROWD, SPARSE};
use crate::common::{ALL, Directory, Sandbox, SmallDisk, hex_id};

/// The 5 GiB may not take more than this.
const MOST_BLOCKS: u64 = (10 << 20) / 512;

fn number(value: &Value) -> u64 {
    value.as_u64().unwrap()
}

#[test]
fn a_tree_of_everything_is_restored_identical() {
    let sandbox = Sandbox::new();
    let source = sandbox.path("source");
    torture::everything(&source);
    // One more name of a file, outside of what is backed up: the link count alone tells.
    std::fs::hard_link(source.join("sizes/noise 1"), sandbox.path("outside")).unwrap();
    let summary = sandbox.backup(&source);
    assert_eq!(number(&summary["errors"]), 0);
    let restored = sandbox.restore(&hex_id(&summary));
    std::fs::hard_link(restored.join("sizes/noise 1"), sandbox.path("outside too")).unwrap();
    let entries = ALL.check(&source, &restored);
    let below = &summary["snapshot"]["summary"];
    let counted: u64 =
        ["files", "directories", "symlinks", "others"].iter().map(|k| number(&below[*k])).sum();
    // The snapshot holds the directories above it too, but not the root itself.
    let above = source.components().count() as u64 - 1;
    assert_eq!(counted, entries - 1 + above);
    sandbox.run(["check"]).succeeds();
}

#[test]
fn a_plaintext_store_restores_identical() {
    let sandbox = Sandbox::empty();
    let plain = |args: &[&str]| {
        let mut command = sandbox.command(args);
        command.env_remove("PLAKAR_PASSPHRASE");
        crate::common::Outcome::of(&mut command).succeeds()
    };
    plain(&["create", "-plaintext"]);
    torture::everything(&sandbox.path("source"));
    plain(&["backup", "source"]);
    plain(&["restore", "-to", "restored", "latest"]);
    ALL.check(&sandbox.path("source"), &sandbox.path("restored"));
    plain(&["check"]);
    // The control: something of it can be read in the store.
    let holds = |needle: &[u8]| {
        let packs = sandbox.objects("data");
        packs.iter().any(|p| std::fs::read(p).unwrap().windows(needle.len()).any(|w| w == needle))
    };
    assert!(holds(&torture::noise(4096, 64)));
}

#[test]
fn an_encrypted_store_holds_nothing_in_clear() {
    let sandbox = Sandbox::new();
    let source = sandbox.path("confidential");
    std::fs::create_dir(&source).unwrap();
    std::fs::write(source.join("a telling name"), torture::noise(1, 3000)).unwrap();
    sandbox.backup(&source);
    let noise = torture::noise(1, 3000);
    let needles: [&[u8]; 4] = [&noise[..32], &noise[1500..1532], b"telling", b"confidential"];
    let home = sandbox.path("home");
    for file in
        [crate::common::sandbox::files_below(&sandbox.store()), crate::common::sandbox::files_below(&home)]
            .concat()
    {
        let bytes = std::fs::read(&file).unwrap();
        for needle in needles {
            let found = bytes.windows(needle.len()).any(|w| w == needle);
            assert!(!found, "{} holds {:?}", file.display(), needle.escape_ascii().to_string());
        }
    }
}

#[test]
fn a_sparse_file_of_5_gib_comes_back_with_its_holes() {
    let sandbox = Sandbox::new();
    let source = sandbox.path("source");
    std::fs::create_dir(&source).unwrap();
    torture::sparse(&Directory::open(&source));
    let summary = sandbox.backup(&source);
    assert!(number(&summary["snapshot"]["read_bytes"]) < 10 << 20, "holes are not read: {summary}");
    assert!(number(&summary["snapshot"]["added_bytes"]) < 2 << 20, "holes are not stored: {summary}");
    let restored = sandbox.restore("latest");
    ALL.check(&source, &restored);
    let found = restored.join("sparse").metadata().unwrap();
    assert_eq!(found.len(), SPARSE);
    assert!(found.blocks() < MOST_BLOCKS, "{} blocks", found.blocks());
    sandbox.run(["check"]).succeeds();
}

#[test]
fn a_directory_of_100_000_entries_is_restored_identical() {
    let sandbox = Sandbox::new();
    // In memory: some disks take minutes to delete so many files again.
    let disk = SmallDisk::new("1g");
    let source = disk.path().join("source");
    std::fs::create_dir(&source).unwrap();
    torture::crowd(&Directory::open(&source));
    sandbox.backup(&source);
    let restored = disk.path().join("restored");
    sandbox.run(["restore", "-to", restored.to_str().unwrap(), "latest"]).succeeds();
    assert_eq!(ALL.check(&source, &restored), u64::from(CROWD) + 1);
    let listed = sandbox.run(["ls", "latest"]).succeeds();
    assert_eq!(listed.text().lines().count(), CROWD as usize);
}

#[test]
fn attributes_too_large_for_ext4_come_back_where_they_fit() {
    let sandbox = Sandbox::new();
    let disk = SmallDisk::new("16m");
    let source = disk.path().join("source");
    std::fs::create_dir(&source).unwrap();
    let d = Directory::open(&source);
    let large = torture::noise(60, 60 << 10);
    d.at("file").file(b"x").xattr("trusted.large", &large).xattr("trusted.also", &large);
    d.at("link").symlink(b"x").xattr("trusted.large", &large);
    d.at("fifo").node(FileType::Fifo, (0, 0)).xattr("trusted.large", &large);
    d.at(".").xattr("trusted.large", &large);
    sandbox.backup(&source);
    let to = disk.path().join("restored");
    sandbox.run(["restore", "-to", to.to_str().unwrap(), "latest"]).succeeds();
    ALL.check(&source, &to);
    // To ext4 it does not go; that is said, and the rest is restored.
    let refused = sandbox.run(["restore", "-to", "on ext4", "latest"]);
    if statfs(sandbox.path("home")).unwrap().f_type == 0xEF53 {
        refused.ends_with(3).says(&["trusted.large", "file", "link", "fifo"]);
        assert_eq!(std::fs::read(sandbox.path("on ext4/file")).unwrap(), b"x");
    }
}

#[test]
fn times_of_directories_are_right_even_where_files_are_added_later() {
    let sandbox = Sandbox::new();
    let source = sandbox.path("source");
    std::fs::create_dir(&source).unwrap();
    let d = Directory::open(&source);
    let mut all = vec![d.make("0")];
    for i in 1..40 {
        let next = all[i - 1].make(i.to_string());
        next.at("file").file(&torture::noise(i as u64, i << 14)).link(all[0].at(&format!("link {i}")));
        all.push(next);
    }
    for d in all.iter().rev() {
        d.at(".").mtime(-86_400, 42);
    }
    d.at(".").mtime(-86_400, 42);
    sandbox.backup(&source);
    ALL.check(&source, &sandbox.restore("latest"));
}

#[test]
fn a_part_is_restored_as_it_was() {
    let sandbox = Sandbox::new();
    let source = sandbox.path("source");
    torture::everything(&source);
    sandbox.backup(&source);
    for part in ["attributes", "names", "kinds/links"] {
        let to = sandbox.restore(&format!("latest:{part}"));
        let compare = crate::common::Compare { link_counts: false, ..ALL };
        compare.check(&source.join(part), &to);
    }
    let to = sandbox.restore("latest:kinds/regular");
    assert_eq!(std::fs::read(to.join("regular")).unwrap(), b"content\n");
}

#[test]
fn names_that_are_no_text_can_be_given() {
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt;
    let sandbox = Sandbox::new();
    let source = sandbox.path("source");
    std::fs::create_dir(&source).unwrap();
    let d = Directory::open(&source);
    let inner = d.make(b"dir\nwith\xff");
    inner.at(b"\x80").file(b"found");
    let path = source.join(OsStr::from_bytes(b"dir\nwith\xff"));
    sandbox.run([OsStr::new("backup"), path.as_os_str()]).succeeds();
    let out = sandbox.run([OsStr::new("cat"), OsStr::from_bytes(b"latest:\x80")]).succeeds();
    assert_eq!(out.stdout, b"found");
    let to = sandbox.path(OsStr::from_bytes(b"to\n\xfe"));
    sandbox.run([OsStr::new("restore"), OsStr::new("-to"), to.as_os_str(), OsStr::new("latest")]).succeeds();
    ALL.check(&path, &to);
}

#[test]
fn several_paths_in_one_backup_keep_their_places() {
    let sandbox = Sandbox::new();
    for (dir, file) in [("a/b", "one"), ("a/c", "two"), ("d", "three")] {
        std::fs::create_dir_all(sandbox.path(dir)).unwrap();
        std::fs::write(sandbox.path(dir).join(file), file).unwrap();
    }
    sandbox.run(["backup", "a/b", "d/three"]).succeeds();
    let here = sandbox.path("");
    let to = sandbox.restore(&format!("latest:{}", here.to_str().unwrap()));
    assert_eq!(std::fs::read(to.join("a/b/one")).unwrap(), b"one");
    assert_eq!(std::fs::read(to.join("d/three")).unwrap(), b"three");
    assert!(!to.join("a/c").exists() && !to.join("home").exists());
}

#[test]
fn what_is_there_already_is_handled_as_stated() {
    let sandbox = Sandbox::new();
    let source = sandbox.path("source");
    std::fs::create_dir(&source).unwrap();
    let d = Directory::open(&source);
    d.at("older").file(b"recorded").mtime(1_000_000_000, 0);
    d.at("newer").file(b"recorded").mtime(2_000_000_000, 0);
    d.at("absent").file(b"recorded");
    sandbox.backup(&source);
    let expected = |policy: &str| match policy {
        "always" => [b"recorded", b"recorded"],
        "newer" => [b"existing", b"recorded"],
        _ => [b"existing", b"existing"],
    };
    for policy in ["always", "newer", "never", "ask-by-error"] {
        let to = sandbox.path(policy);
        std::fs::create_dir(&to).unwrap();
        let there = Directory::open(&to);
        for name in ["older", "newer"] {
            there.at(name).file(b"existing").mtime(1_500_000_000, 0);
        }
        there.at("foreign").file(b"stays");
        let outcome = sandbox.run(["restore", "-to", policy, "-overwrite", policy, "latest"]);
        outcome.ends_with(if policy == "ask-by-error" { 3 } else { 0 });
        let found = |name: &str| std::fs::read(to.join(name)).unwrap();
        assert_eq!([found("older"), found("newer")], expected(policy).map(|b| b.to_vec()), "{policy}");
        assert_eq!(found("absent"), b"recorded");
        assert_eq!(found("foreign"), b"stays");
        let left: Vec<_> = std::fs::read_dir(&to).unwrap().collect();
        assert_eq!(left.len(), 4, "no temporary files: {left:?}");
    }
}

#[test]
fn a_restore_never_leaves_its_destination() {
    let sandbox = Sandbox::new();
    let source = sandbox.path("source");
    std::fs::create_dir_all(source.join("inner")).unwrap();
    std::fs::write(source.join("inner/file"), "recorded").unwrap();
    sandbox.backup(&source);
    let outside = sandbox.path("outside");
    std::fs::create_dir(&outside).unwrap();
    for policy in ["always", "newer", "never", "ask-by-error"] {
        let to = sandbox.path(format!("to {policy}"));
        std::fs::create_dir(&to).unwrap();
        std::os::unix::fs::symlink(&outside, to.join("inner")).unwrap();
        let _any_code = sandbox.run(["restore", "-to", to.to_str().unwrap(), "-overwrite", policy, "latest"]);
        assert_eq!(std::fs::read_dir(&outside).unwrap().count(), 0, "{policy}");
    }
}

#[test]
fn patterns_and_other_file_systems_are_left_out() {
    let sandbox = Sandbox::new();
    let source = sandbox.path("source");
    std::fs::create_dir_all(source.join("keep/build")).unwrap();
    std::fs::create_dir_all(source.join("mnt")).unwrap();
    for name in ["a.o", "a.c", "keep/b.o", "keep/important.o", "keep/build/x", "keep/x.tmp"] {
        std::fs::write(source.join(name), name).unwrap();
    }
    std::fs::write(sandbox.path("patterns"), "# objects\n*.o\n!important.o\nbuild/\n").unwrap();
    let disk = SmallDisk::new("64k");
    std::fs::write(disk.path().join("elsewhere"), "x").unwrap();
    let place = source.join("mnt");
    rustix::mount::mount_bind(disk.path(), &place).unwrap();
    let outcome =
        sandbox.run(["backup", "-one-file-system", "-ignore-file", "patterns", "-ignore", "*.tmp", "source"]);
    rustix::mount::unmount(&place, rustix::mount::UnmountFlags::DETACH).unwrap();
    outcome.succeeds();
    let to = sandbox.restore("latest");
    let mut found = crate::common::sandbox::files_below(&to);
    found.sort();
    let found: Vec<_> = found.iter().map(|p| p.strip_prefix(&to).unwrap()).collect();
    assert_eq!(found, [Path::new("a.c"), Path::new("keep/important.o")]);
    assert!(to.join("mnt").is_dir(), "the place of the other file system stays");
}
