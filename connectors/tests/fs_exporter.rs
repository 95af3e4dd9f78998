//! The local file system as a destination.

#![expect(clippy::unwrap_used, reason = "tests")]

use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, symlink};
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

use plakar_connectors::fs::{FsExportOptions, FsExporter, FsImportOptions, FsImporter};
use plakar_engine::exporter::{Attributes, ExportError, Exporter, Made, Overwrite};
use plakar_engine::importer::Importer;
use plakar_engine::meta::{InodeFlags, Kind, Metadata, Timestamp, Xattr};
use rustix::fs::{Mode, XattrFlags};

fn exporter(target: &Path, overwrite: Overwrite) -> FsExporter {
    FsExporter::new(target.to_path_buf(), overwrite, FsExportOptions::default()).unwrap()
}

fn meta(kind: Kind, mode: u32, size: u64) -> Metadata {
    Metadata {
        kind,
        mode,
        uid: rustix::process::getuid().as_raw(),
        gid: rustix::process::getgid().as_raw(),
        mtime: Timestamp { sec: 1_000_000_000, nsec: 123_456_789 },
        size,
        rdev: (0, 0),
        born: None,
    }
}

fn attributes(meta: &Metadata) -> Attributes<'_> {
    Attributes { meta, xattrs: &[], flags: InodeFlags::default() }
}

/// Restores a small file, `None` when the one that is there stays.
fn restore(exporter: &FsExporter, path: &str, content: &[u8]) -> Result<Option<Vec<String>>, ExportError> {
    restore_as(exporter, path, content, &meta(Kind::Regular, 0o644, content.len() as u64), &[])
}

fn restore_as(
    exporter: &FsExporter,
    path: &str,
    content: &[u8],
    meta: &Metadata,
    xattrs: &[Xattr],
) -> Result<Option<Vec<String>>, ExportError> {
    let Some(file) =
        exporter.create_file(path.as_bytes(), Attributes { meta, xattrs, flags: InodeFlags::default() })?
    else {
        return Ok(None);
    };
    file.write_at(content, 0)?;
    file.finish(Attributes { meta, xattrs, flags: InodeFlags::default() }).map(Some)
}

fn xattr(name: &str, value: &[u8]) -> Xattr {
    Xattr { name: name.as_bytes().to_vec(), value: value.to_vec() }
}

/// A POSIX ACL as the kernel keeps it: user::rwx, user:<uid>:r-x, group::r--, mask::r-x, other::---.
fn acl(uid: u32) -> Vec<u8> {
    let mut value = 2u32.to_le_bytes().to_vec();
    for (tag, permissions, id) in
        [(1u16, 7u16, u32::MAX), (2, 5, uid), (4, 4, u32::MAX), (16, 5, u32::MAX), (32, 0, u32::MAX)]
    {
        value.extend(tag.to_le_bytes());
        value.extend(permissions.to_le_bytes());
        value.extend(id.to_le_bytes());
    }
    value
}

fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<String> =
        fs::read_dir(dir).unwrap().map(|e| e.unwrap().file_name().to_str().unwrap().to_owned()).collect();
    names.sort();
    names
}

const NONE: [String; 0] = [];

/// Another umask for a while. The process has only one, so that tests which mind it take turns.
struct Umask {
    before: Mode,
    _turn: MutexGuard<'static, ()>,
}

impl Umask {
    fn set(mask: u32) -> Self {
        static TURN: Mutex<()> = Mutex::new(());
        let turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
        Self { before: rustix::process::umask(Mode::from(mask)), _turn: turn }
    }
}

impl Drop for Umask {
    fn drop(&mut self) {
        rustix::process::umask(self.before);
    }
}

#[test]
fn files_come_back_with_all_attributes() {
    let dir = tempfile::tempdir().unwrap();
    let target = dir.path().join("made/on the way");
    let exporter = exporter(&target, Overwrite::Error);
    let content = b"hello";
    let mut meta = meta(Kind::Regular, 0o6750, 5);
    meta.mtime = Timestamp { sec: -5, nsec: 1 };
    let xattrs =
        [xattr("system.posix_acl_access", &acl(1234)), xattr("user.a", b""), xattr("user.b", &[0; 2000])];
    let refused = restore_as(&exporter, "file", content, &meta, &xattrs).unwrap().unwrap();
    assert_eq!(refused, NONE);

    let importer = FsImporter::new(vec![target.clone()], FsImportOptions::default()).unwrap();
    let directory = importer.directory(&importer.roots()[0]).unwrap();
    let (name, entry) = directory.clone().list().unwrap().more(1).unwrap().pop().unwrap();
    assert_eq!(name, b"file");
    // When it was made nobody can set.
    assert_eq!(Metadata { born: None, ..entry.unwrap().meta }, meta);
    assert_eq!(directory.xattrs(b"file").unwrap(), xattrs);
    assert_eq!(fs::read(target.join("file")).unwrap(), content);
    exporter.finish().unwrap();
}

#[test]
fn the_mode_is_the_recorded_one_whatever_the_umask() {
    let dir = tempfile::tempdir().unwrap();
    let exporter = exporter(dir.path(), Overwrite::Error);
    let _umask = Umask::set(0o077);
    for (i, mode) in [0o000, 0o400, 0o644, 0o666, 0o777, 0o4755, 0o2755, 0o1777].into_iter().enumerate() {
        let name = format!("{i}");
        restore_as(&exporter, &name, b"x", &meta(Kind::Regular, mode, 1), &[]).unwrap();
        assert_eq!(fs::metadata(dir.path().join(name)).unwrap().mode() & 0o7777, mode);

        let name = format!("d{i}");
        exporter.make_directory(name.as_bytes(), InodeFlags::default()).unwrap();
        let directory = meta(Kind::Directory, mode, 0);
        exporter.finish_directory(name.as_bytes(), attributes(&directory)).unwrap();
        assert_eq!(fs::metadata(dir.path().join(name)).unwrap().mode() & 0o7777, mode);

        let name = format!("f{i}");
        let fifo = meta(Kind::Fifo, mode, 0);
        exporter.make_special(name.as_bytes(), None, attributes(&fifo)).unwrap();
        assert_eq!(fs::metadata(dir.path().join(name)).unwrap().mode() & 0o7777, mode);
    }
}

#[test]
fn many_files_of_one_new_directory_get_each_its_own_mode() {
    let dir = tempfile::tempdir().unwrap();
    let exporter = exporter(dir.path(), Overwrite::Error);
    let _umask = Umask::set(0o027);
    exporter.make_directory(b"sub", InodeFlags::default()).unwrap();
    // Often enough that what became of the first ones is known, with and without bits that the umask takes.
    for i in 0..5 {
        for mode in [0o000, 0o444, 0o600, 0o644, 0o666, 0o755, 0o4755, 0o2711] {
            let path = format!("sub/{i}-{mode:o}");
            restore_as(&exporter, &path, b"x", &meta(Kind::Regular, mode, 1), &[]).unwrap();
            assert_eq!(fs::metadata(dir.path().join(path)).unwrap().mode() & 0o7777, mode);
        }
        let path = format!("sub/{i}-acl");
        let xattrs = [xattr("system.posix_acl_access", &acl(1234))];
        let refused = restore_as(&exporter, &path, b"x", &meta(Kind::Regular, 0o750, 1), &xattrs).unwrap();
        assert_eq!(refused.unwrap(), NONE);
        assert_eq!(fs::metadata(dir.path().join(path)).unwrap().mode() & 0o7777, 0o750);
    }
}

#[test]
fn what_came_into_a_new_directory_meanwhile_stays() {
    let dir = tempfile::tempdir().unwrap();
    for policy in [Overwrite::Error, Overwrite::Never] {
        let exporter = exporter(dir.path(), policy);
        let sub = format!("{policy:?}");
        exporter.make_directory(sub.as_bytes(), InodeFlags::default()).unwrap();
        let path = format!("{sub}/file");
        fs::write(dir.path().join(&path), "theirs").unwrap();
        let error = restore(&exporter, &path, b"ours").unwrap_err();
        assert_eq!(error.to_string(), "exists already");
        assert_eq!(fs::read(dir.path().join(&path)).unwrap(), b"theirs");
        assert_eq!(names(&dir.path().join(sub)), ["file"]);
    }
}

#[test]
fn directories_get_their_attributes_last() {
    let dir = tempfile::tempdir().unwrap();
    let exporter = exporter(dir.path(), Overwrite::Error);
    assert_eq!(exporter.make_directory(b"sub", InodeFlags::default()).unwrap(), Made::Yes);
    assert_eq!(fs::metadata(dir.path().join("sub")).unwrap().mode() & 0o7777, 0o700);
    restore(&exporter, "sub/file", b"x").unwrap();
    let meta = meta(Kind::Directory, 0o2555, 0);
    let mut xattrs = vec![
        xattr("system.posix_acl_access", &acl(1)),
        xattr("system.posix_acl_default", &acl(2)),
        xattr("user.x", b"1"),
    ];
    let mut set = |mode| {
        let meta = Metadata { mode, ..meta.clone() };
        let refused = exporter
            .finish_directory(
                b"sub",
                Attributes { meta: &meta, xattrs: &xattrs, flags: InodeFlags::default() },
            )
            .unwrap();
        assert_eq!(refused, NONE);
        xattrs.clear();
    };
    set(0o2750);
    let found = fs::metadata(dir.path().join("sub")).unwrap();
    assert_eq!(found.mode() & 0o7777, 0o2750);
    assert_eq!((found.mtime(), found.mtime_nsec()), (1_000_000_000, 123_456_789));
    let importer = FsImporter::new(vec![dir.path().join("sub")], FsImportOptions::default()).unwrap();
    let sub = importer.directory(&importer.roots()[0]).unwrap();
    assert_eq!(sub.own_xattrs().unwrap().len(), 3);
    // Set again without: what is not recorded goes.
    set(0o2750);
    assert_eq!(sub.own_xattrs().unwrap(), []);
}

#[test]
fn inherited_acls_do_not_stay() {
    let dir = tempfile::tempdir().unwrap();
    rustix::fs::setxattr(dir.path(), "system.posix_acl_default", &acl(77), XattrFlags::empty()).unwrap();
    let exporter = exporter(dir.path(), Overwrite::Error);
    restore(&exporter, "file", b"x").unwrap();
    exporter.make_directory(b"sub", InodeFlags::default()).unwrap();
    restore(&exporter, "sub/file", b"x").unwrap();
    exporter.finish_directory(b"sub", attributes(&meta(Kind::Directory, 0o755, 0))).unwrap();
    exporter.make_special(b"fifo", None, attributes(&meta(Kind::Fifo, 0o644, 0))).unwrap();
    for path in ["file", "sub", "sub/file", "fifo"] {
        let path = dir.path().join(path);
        let mut list = [0; 1000];
        assert_eq!(rustix::fs::llistxattr(&path, &mut list).unwrap(), 0, "{}", path.display());
    }
    assert_eq!(fs::metadata(dir.path().join("file")).unwrap().mode() & 0o7777, 0o644);
}

#[test]
fn files_are_filled_in_any_order_and_keep_their_holes() {
    let dir = tempfile::tempdir().unwrap();
    let exporter = exporter(dir.path(), Overwrite::Error);
    let meta = meta(Kind::Regular, 0o644, 64 << 20);
    let file = exporter.create_file(b"file", attributes(&meta)).unwrap().unwrap();
    // It has no name before it is whole.
    assert!(names(dir.path()).is_empty());
    std::thread::scope(|scope| {
        for i in (0..8u64).rev() {
            let file = &file;
            scope.spawn(move || file.write_at(&[i as u8 + 1; 4096], i * (1 << 20)).unwrap());
        }
    });
    file.finish(attributes(&meta)).unwrap();
    assert_eq!(names(dir.path()), ["file"]);
    let content = fs::read(dir.path().join("file")).unwrap();
    assert_eq!(content.len(), 64 << 20);
    assert!((0..8).all(|i| content[i << 20] == i as u8 + 1 && content[(i << 20) + 4096] == 0));
    assert!(fs::metadata(dir.path().join("file")).unwrap().blocks() * 512 < 1 << 20);

    let empty = Metadata { size: 0, ..meta.clone() };
    restore_as(&exporter, "empty", b"", &empty, &[]).unwrap();
    let hole = Metadata { size: 10_000, ..meta };
    restore_as(&exporter, "hole", b"", &hole, &[]).unwrap();
    assert_eq!(fs::read(dir.path().join("hole")).unwrap(), [0; 10_000]);
}

#[test]
fn dropped_files_leave_nothing() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("file"), "old").unwrap();
    let exporter = exporter(dir.path(), Overwrite::Always);
    let file = exporter.create_file(b"file", attributes(&meta(Kind::Regular, 0o644, 3))).unwrap().unwrap();
    file.write_at(b"new", 0).unwrap();
    assert_eq!(fs::read(dir.path().join("file")).unwrap(), b"old");
    drop(file);
    assert_eq!(names(dir.path()), ["file"]);
    assert_eq!(fs::read(dir.path().join("file")).unwrap(), b"old");
}

#[test]
fn symlinks_fifos_and_sockets_are_made() {
    let dir = tempfile::tempdir().unwrap();
    let exporter = exporter(dir.path(), Overwrite::Error);
    let long = "t".repeat(4000);
    let link = meta(Kind::Symlink, 0o777, 0);
    for (name, target) in [("long", long.as_str()), ("dangling", "/nowhere/at all"), ("here", ".")] {
        let made =
            exporter.make_special(name.as_bytes(), Some(target.as_bytes()), attributes(&link)).unwrap();
        assert_eq!(made, (Made::Yes, vec![]));
        let path = dir.path().join(name);
        assert_eq!(fs::read_link(&path).unwrap().as_os_str().as_bytes(), target.as_bytes());
        assert_eq!(fs::symlink_metadata(&path).unwrap().mtime_nsec(), 123_456_789);
    }
    for (name, kind) in [("fifo", Kind::Fifo), ("socket", Kind::Socket)] {
        let made = exporter.make_special(name.as_bytes(), None, attributes(&meta(kind, 0o4640, 0))).unwrap();
        assert_eq!(made, (Made::Yes, vec![]));
        let found = fs::symlink_metadata(dir.path().join(name)).unwrap();
        assert!(if kind == Kind::Fifo { found.file_type().is_fifo() } else { found.file_type().is_socket() });
        assert_eq!((found.mode() & 0o7777, found.mtime()), (0o4640, 1_000_000_000));
    }
    assert!(exporter.make_special(b"x", None, attributes(&meta(Kind::Regular, 0o644, 0))).is_err());
}

#[test]
fn hard_links_share_one_file() {
    let dir = tempfile::tempdir().unwrap();
    let exporter = exporter(dir.path(), Overwrite::Always);
    exporter.make_directory(b"a", InodeFlags::default()).unwrap();
    exporter.make_directory(b"b", InodeFlags::default()).unwrap();
    restore(&exporter, "a/one", b"content").unwrap();
    fs::write(dir.path().join("b/three"), "old").unwrap();
    for other in ["a/two", "b/three", "b/three"] {
        assert_eq!(exporter.make_link(other.as_bytes(), b"a/one").unwrap(), Made::Yes);
    }
    let stat = |path| fs::metadata(dir.path().join(path)).unwrap();
    assert_eq!(stat("a/one").nlink(), 3);
    assert_eq!(stat("b/three").ino(), stat("a/one").ino());
    assert_eq!(
        (names(&dir.path().join("a")), names(&dir.path().join("b"))),
        (vec!["one".into(), "two".into()], vec!["three".into()])
    );
    // A link to a symlink is another name of the symlink.
    exporter.make_special(b"s", Some(b"/etc/passwd"), attributes(&meta(Kind::Symlink, 0o777, 0))).unwrap();
    exporter.make_link(b"s2", b"s").unwrap();
    assert_eq!(fs::read_link(dir.path().join("s2")).unwrap(), Path::new("/etc/passwd"));
    assert!(exporter.make_link(b"x", b"missing").is_err());
}

#[test]
fn planted_symlinks_lead_nowhere() {
    for overwrite in [Overwrite::Always, Overwrite::IfNewer, Overwrite::Never, Overwrite::Error] {
        let dir = tempfile::tempdir().unwrap();
        let outside = tempfile::tempdir().unwrap();
        fs::write(outside.path().join("file"), "precious").unwrap();
        for name in ["dir", "file", "link", "fifo"] {
            let to = if name == "dir" { outside.path().to_path_buf() } else { outside.path().join("file") };
            symlink(to, dir.path().join(name)).unwrap();
        }
        let exporter = exporter(dir.path(), overwrite);
        let replaced = overwrite == Overwrite::Always;

        // Without making the directory first, nothing goes through the link.
        assert!(restore(&exporter, "dir/file", b"evil").is_err());
        assert!(exporter.make_directory(b"dir/sub", InodeFlags::default()).is_err());
        assert!(exporter.finish_directory(b"dir", attributes(&meta(Kind::Directory, 0o777, 0))).is_err());
        assert!(exporter.make_link(b"stolen", b"dir/file").is_err());
        assert_eq!(exporter.make_directory(b"dir", InodeFlags::default()).is_ok(), replaced);
        assert_eq!(restore(&exporter, "dir/file", b"good").is_ok(), replaced);
        let _ = restore(&exporter, "file", b"good");
        let _ = exporter.make_special(b"fifo", None, attributes(&meta(Kind::Fifo, 0o666, 0)));
        let _ = exporter.make_special(b"link", Some(b"x"), attributes(&meta(Kind::Symlink, 0o777, 0)));

        assert_eq!(names(outside.path()), ["file"]);
        assert_eq!(fs::read(outside.path().join("file")).unwrap(), b"precious");
        assert_ne!(fs::metadata(outside.path().join("file")).unwrap().mode() & 0o777, 0o666);
        if replaced {
            assert_eq!(fs::read(dir.path().join("dir/file")).unwrap(), b"good");
            assert!(fs::symlink_metadata(dir.path().join("dir")).unwrap().is_dir());
            assert!(fs::symlink_metadata(dir.path().join("file")).unwrap().is_file());
        }
        assert!(names(dir.path()).iter().all(|n| !n.starts_with(".plakar-")));
    }
}

#[test]
fn invalid_paths_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let target = dir.path().join("target");
    let exporter = exporter(&target, Overwrite::Always);
    for path in ["..", ".", "../x", "a/../../x", "/x", "a//b", "x/", "nul\0", "./x"] {
        assert!(restore(&exporter, path, b"x").is_err(), "{path:?}");
        assert!(exporter.make_directory(path.as_bytes(), InodeFlags::default()).is_err(), "{path:?}");
    }
    assert_eq!(names(dir.path()), ["target"]);
    assert!(names(&target).is_empty());
}

#[test]
fn the_policy_decides_about_what_is_there() {
    for (overwrite, older, newer) in [
        (Overwrite::Always, Some(true), Some(true)),
        (Overwrite::IfNewer, Some(true), Some(false)),
        (Overwrite::Never, Some(false), Some(false)),
        (Overwrite::Error, None, None),
    ] {
        for (there, expected) in [(-1, older), (0, newer), (1, newer)] {
            let dir = tempfile::tempdir().unwrap();
            let exporter = exporter(dir.path(), overwrite);
            let recorded = meta(Kind::Regular, 0o644, 3);
            let time = std::time::UNIX_EPOCH
                + std::time::Duration::new((recorded.mtime.sec + there) as u64, recorded.mtime.nsec);
            for name in ["file", "special", "link"] {
                let file = fs::File::create(dir.path().join(name)).unwrap();
                file.set_modified(time).unwrap();
            }
            fs::write(dir.path().join("one"), "linked").unwrap();
            fs::File::open(dir.path().join("one"))
                .unwrap()
                .set_modified(
                    std::time::UNIX_EPOCH
                        + std::time::Duration::new(recorded.mtime.sec as u64, recorded.mtime.nsec),
                )
                .unwrap();

            let made = restore(&exporter, "file", b"new").map(|r| r.is_some()).ok();
            assert_eq!(made, expected, "{overwrite:?} {there}");
            assert_eq!(fs::read(dir.path().join("file")).unwrap() == b"new", expected == Some(true));

            let link = Metadata { kind: Kind::Symlink, ..recorded };
            let made = exporter.make_special(b"special", Some(b"to"), attributes(&link));
            assert_eq!(made.map(|(m, _)| m == Made::Yes).ok(), expected);
            assert_eq!(dir.path().join("special").is_symlink(), expected == Some(true));

            let made = exporter.make_link(b"link", b"one");
            assert_eq!(made.map(|m| m == Made::Yes).ok(), expected);
            assert_eq!(fs::read(dir.path().join("link")).unwrap() == b"linked", expected == Some(true));

            assert_eq!(names(dir.path()), ["file", "link", "one", "special"]);
        }
    }
}

#[test]
fn refusals_say_why() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("file"), "").unwrap();
    fs::create_dir_all(dir.path().join("full/x")).unwrap();
    fs::create_dir(dir.path().join("empty")).unwrap();
    let error = restore(&exporter(dir.path(), Overwrite::Error), "file", b"x").unwrap_err();
    assert_eq!(error.to_string(), "exists already");
    assert!(!error.is_fatal());
    let always = exporter(dir.path(), Overwrite::Always);
    let error = restore(&always, "full", b"x").unwrap_err();
    assert_eq!(error.to_string(), "a directory that is not empty is in its place");
    restore(&always, "empty", b"x").unwrap().unwrap();
    assert_eq!(names(dir.path()), ["empty", "file", "full"]);
    let newer = exporter(dir.path(), Overwrite::IfNewer);
    let mut late = meta(Kind::Regular, 0o644, 1);
    late.mtime.sec = i64::from(u32::MAX);
    let error = restore_as(&newer, "full", b"x", &late, &[]).unwrap_err();
    assert_eq!(error.to_string(), "a directory is in its place");
}

#[test]
fn directories_that_are_there_are_used() {
    for (overwrite, expected) in [
        (Overwrite::Always, Made::Yes),
        (Overwrite::IfNewer, Made::Yes),
        (Overwrite::Never, Made::Kept),
        (Overwrite::Error, Made::Kept),
    ] {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("sub")).unwrap();
        fs::set_permissions(dir.path().join("sub"), fs::Permissions::from_mode(0o511)).unwrap();
        let exporter = exporter(dir.path(), overwrite);
        assert_eq!(exporter.make_directory(b"", InodeFlags::default()).unwrap(), expected);
        assert_eq!(exporter.make_directory(b"sub", InodeFlags::default()).unwrap(), expected);
        let mode = if expected == Made::Yes { 0o711 } else { 0o511 };
        assert_eq!(fs::metadata(dir.path().join("sub")).unwrap().mode() & 0o777, mode);
    }
    let dir = tempfile::tempdir().unwrap();
    let new = exporter(&dir.path().join("new"), Overwrite::Never);
    assert_eq!(new.make_directory(b"", InodeFlags::default()).unwrap(), Made::Yes);
    let meta = meta(Kind::Directory, 0o751, 0);
    assert_eq!(new.finish_directory(b"", attributes(&meta)).unwrap(), NONE);
    assert_eq!(fs::metadata(dir.path().join("new")).unwrap().mode() & 0o777, 0o751);
}

#[test]
fn paths_may_be_longer_than_the_system_takes() {
    let dir = tempfile::tempdir().unwrap();
    let exporter = exporter(dir.path(), Overwrite::Error);
    let name = "n".repeat(250);
    // More directories than stay open, so that they are opened again from above.
    let mut path = String::new();
    for depth in 0..200 {
        path = if depth == 0 { name.clone() } else { format!("{path}/{name}") };
        exporter.make_directory(path.as_bytes(), InodeFlags::default()).unwrap();
    }
    restore(&exporter, &format!("{path}/{name}"), b"deep").unwrap();
    restore(&exporter, &format!("{name}/{name}/file"), b"less deep").unwrap();
    exporter.make_link(b"shortcut", format!("{path}/{name}").as_bytes()).unwrap();
    assert_eq!(fs::read(dir.path().join("shortcut")).unwrap(), b"deep");
    let meta = meta(Kind::Directory, 0o755, 0);
    while !path.is_empty() {
        assert_eq!(exporter.finish_directory(path.as_bytes(), attributes(&meta)).unwrap(), NONE);
        path.truncate(path.rfind('/').unwrap_or(0));
    }
}

#[test]
fn many_threads_restore_into_many_directories() {
    let dir = tempfile::tempdir().unwrap();
    let exporter = exporter(dir.path(), Overwrite::Error);
    for i in 0..300 {
        exporter.make_directory(format!("{i}").as_bytes(), InodeFlags::default()).unwrap();
    }
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let exporter = &exporter;
            scope.spawn(move || {
                for i in 0..300 {
                    let path = format!("{}/{thread}", (i * 7 + thread * 31) % 300);
                    restore(exporter, &path, path.as_bytes()).unwrap().unwrap();
                }
            });
        }
    });
    for i in 0..300 {
        assert_eq!(names(&dir.path().join(format!("{i}"))), ["0", "1", "2", "3"]);
    }
}

#[test]
fn permissions_can_be_left_to_the_umask() {
    let dir = tempfile::tempdir().unwrap();
    let options = FsExportOptions { permissions: false, xattrs: true };
    let exporter = FsExporter::new(dir.path().to_path_buf(), Overwrite::Error, options).unwrap();
    let umask = Umask::set(0o022);
    let mut meta = meta(Kind::Regular, 0o6777, 1);
    meta.uid += 1;
    let xattrs = [xattr("system.posix_acl_access", &acl(1)), xattr("user.kept", b"1")];
    let refused = restore_as(&exporter, "file", b"x", &meta, &xattrs).unwrap().unwrap();
    drop(umask);
    assert_eq!(refused, NONE);
    let found = fs::metadata(dir.path().join("file")).unwrap();
    assert_eq!((found.mode() & 0o7777, found.uid(), found.mtime()), (0o755, meta.uid - 1, meta.mtime.sec));
    let mut list = [0; 100];
    let n = rustix::fs::listxattr(dir.path().join("file"), &mut list).unwrap();
    assert_eq!(&list[..n], b"user.kept\0");
}

#[test]
fn what_a_file_system_refuses_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let exporter = exporter(dir.path(), Overwrite::Error);
    let mut meta = meta(Kind::Regular, 0o644, 1);
    meta.mtime.nsec = 2_000_000_000;
    let xattrs = [xattr("nonsense.name", b"x"), xattr("user.kept", b"1")];
    let refused = restore_as(&exporter, "file", b"x", &meta, &xattrs).unwrap().unwrap();
    assert_eq!(refused.len(), 2, "{refused:?}");
    assert!(refused[0].starts_with("attribute nonsense.name: "), "{refused:?}");
    assert!(refused[1].starts_with("modification time: "), "{refused:?}");
    assert_eq!(fs::read(dir.path().join("file")).unwrap(), b"x");
}

#[test]
fn a_destination_may_be_a_symlink_but_no_file() {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join("real")).unwrap();
    symlink("real", dir.path().join("link")).unwrap();
    restore(&exporter(&dir.path().join("link"), Overwrite::Error), "file", b"x").unwrap();
    assert_eq!(names(&dir.path().join("real")), ["file"]);
    let file = dir.path().join("real/file");
    assert!(FsExporter::new(file, Overwrite::Always, FsExportOptions::default()).is_err());
}
