//! What only root can restore or set up, and what others are refused.

#![cfg(feature = "root-tests")]
#![expect(clippy::unwrap_used, reason = "tests")]

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, lchown, symlink};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use plakar_connectors::fs::{FsExportOptions, FsExporter, FsImportOptions, FsImporter, FsStore};
use plakar_engine::exporter::{Attributes, Exporter, Made, Overwrite};
use plakar_engine::id::ObjectId;
use plakar_engine::importer::{ImportError, Importer, ListedName, SourceDirectory, SourceEntry};
use plakar_engine::meta::{InodeFlags, Kind, Metadata, Timestamp, Xattr};
use plakar_engine::storage::{Area, ObjectName, StoreErrorKind, put_bytes};
use rustix::fs::{Gid, Uid, XattrFlags};
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};

const NOBODY: u32 = 65534;

/// A small file system of its own, unmounted at the end.
struct SmallDisk(tempfile::TempDir);

impl SmallDisk {
    fn new(size: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let options = std::ffi::CString::new(format!("size={size}")).unwrap();
        mount("tmpfs", dir.path(), "tmpfs", MountFlags::empty(), &*options).unwrap();
        Self(dir)
    }

    fn path(&self) -> &Path {
        self.0.path()
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = unmount(self.path(), UnmountFlags::DETACH);
    }
}

/// Runs as somebody without rights, on a thread of its own: on Linux each thread has its own credentials.
fn as_nobody<T: Send>(work: impl FnOnce() -> T + Send) -> T {
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            rustix::thread::set_thread_groups(&[]).unwrap();
            let (uid, gid) = (Uid::from_raw(NOBODY), Gid::from_raw(NOBODY));
            rustix::thread::set_thread_res_gid(gid, gid, gid).unwrap();
            rustix::thread::set_thread_res_uid(uid, uid, uid).unwrap();
            work()
        });
        thread.join().unwrap()
    })
}

fn meta(kind: Kind, mode: u32) -> Metadata {
    let mtime = Timestamp { sec: -1, nsec: 999_999_999 };
    Metadata { kind, mode, uid: 1234, gid: 4321, mtime, size: 0, rdev: (0, 0), born: None }
}

fn exporter(target: &Path) -> FsExporter {
    FsExporter::new(target.to_path_buf(), Overwrite::Always, FsExportOptions::default()).unwrap()
}

fn restore(exporter: &FsExporter, path: &str, meta: &Metadata, xattrs: &[Xattr]) -> Vec<String> {
    let file = exporter
        .create_file(path.as_bytes(), Attributes { meta, xattrs, flags: InodeFlags::default() })
        .unwrap()
        .unwrap();
    file.finish(Attributes { meta, xattrs, flags: InodeFlags::default() }).unwrap()
}

/// All that is in a directory.
fn list(directory: &Arc<dyn SourceDirectory>) -> Result<Vec<ListedName>, ImportError> {
    directory.clone().list()?.more(usize::MAX)
}

/// What is in a directory, without what nobody can set.
fn entries(path: &Path) -> Vec<SourceEntry> {
    let importer = FsImporter::new(vec![path.to_path_buf()], FsImportOptions::default()).unwrap();
    let directory = importer.directory(&importer.roots()[0]).unwrap();
    let without_birth = |e: SourceEntry| SourceEntry { meta: Metadata { born: None, ..e.meta }, ..e };
    list(&directory).unwrap().into_iter().map(|(_, e)| without_birth(e.unwrap())).collect()
}

const NONE: [String; 0] = [];

#[test]
fn owners_and_set_uid_survive_together() {
    let dir = tempfile::tempdir().unwrap();
    let exporter = exporter(dir.path());
    let file = meta(Kind::Regular, 0o6755);
    assert_eq!(restore(&exporter, "file", &file, &[]), NONE);
    assert_eq!(entries(dir.path())[0].meta, file);

    let directory = meta(Kind::Directory, 0o3775);
    exporter.make_directory(b"sub", InodeFlags::default()).unwrap();
    assert_eq!(
        exporter
            .finish_directory(
                b"sub",
                Attributes { meta: &directory, xattrs: &[], flags: InodeFlags::default() }
            )
            .unwrap(),
        NONE
    );
    assert_eq!(entries(dir.path())[1].meta, directory);
}

#[test]
fn special_files_come_back_with_owner_and_number() {
    let dir = tempfile::tempdir().unwrap();
    let exporter = exporter(dir.path());
    let kinds = [Kind::CharDevice, Kind::BlockDevice, Kind::Fifo, Kind::Socket, Kind::Symlink];
    for (i, kind) in kinds.into_iter().enumerate() {
        // Twice: new, and in place of the first.
        for _ in 0..2 {
            let mut meta = meta(kind, if kind == Kind::Symlink { 0o777 } else { 0o4620 });
            if matches!(kind, Kind::CharDevice | Kind::BlockDevice) {
                meta.rdev = (259, 70_000);
            }
            let target = (kind == Kind::Symlink).then_some(&b"/dev/null"[..]);
            let xattrs = [Xattr { name: b"trusted.mark".to_vec(), value: b"1".to_vec() }];
            let attributes = Attributes { meta: &meta, xattrs: &xattrs, flags: InodeFlags::default() };
            let made = exporter.make_special(format!("{i}").as_bytes(), target, attributes).unwrap();
            assert_eq!(made, (Made::Yes, vec![]));
            let found = entries(dir.path());
            assert_eq!(found.len(), i + 1);
            assert_eq!(found[i].meta, meta);
            assert_eq!(found[i].target.as_deref(), target);
            let importer = FsImporter::new(vec![dir.path().into()], FsImportOptions::default()).unwrap();
            let directory = importer.directory(&importer.roots()[0]).unwrap();
            assert_eq!(directory.xattrs(format!("{i}").as_bytes()).unwrap(), xattrs);
        }
    }
}

#[test]
fn capabilities_survive_the_change_of_owner() {
    let dir = tempfile::tempdir().unwrap();
    let mut value = 0x0200_0001u32.to_le_bytes().to_vec();
    value.extend([0, 0x20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    let xattrs = [
        Xattr { name: b"security.capability".to_vec(), value },
        Xattr { name: b"trusted.x".to_vec(), value: b"y".to_vec() },
    ];
    assert_eq!(restore(&exporter(dir.path()), "file", &meta(Kind::Regular, 0o755), &xattrs), NONE);
    let importer = FsImporter::new(vec![dir.path().into()], FsImportOptions::default()).unwrap();
    let directory = importer.directory(&importer.roots()[0]).unwrap();
    assert_eq!(directory.xattrs(b"file").unwrap(), xattrs);
}

#[test]
fn others_are_told_what_they_may_not_set() {
    let dir = tempfile::tempdir().unwrap();
    chown(dir.path(), Some(NOBODY), Some(NOBODY)).unwrap();
    as_nobody(|| {
        let exporter = exporter(dir.path());
        let foreign = meta(Kind::Regular, 0o4755);
        let refused = restore(&exporter, "foreign", &foreign, &[]);
        assert_eq!(refused.len(), 2, "{refused:?}");
        assert!(refused[0].starts_with("owner 1234:4321: "), "{refused:?}");
        assert!(refused[1].starts_with("mode 4755 without its owner: "), "{refused:?}");
        let found = fs::metadata(dir.path().join("foreign")).unwrap();
        assert_eq!((found.mode() & 0o7777, found.uid()), (0o755, NOBODY), "no foreign set-uid");
        assert_eq!((found.mtime(), found.mtime_nsec()), (-1, 999_999_999));

        let own = Metadata { uid: NOBODY, gid: NOBODY, mode: 0o4444, ..foreign.clone() };
        let xattrs = [Xattr { name: b"user.x".to_vec(), value: b"1".to_vec() }];
        assert_eq!(restore(&exporter, "own", &own, &xattrs), NONE);
        assert_eq!(fs::metadata(dir.path().join("own")).unwrap().mode() & 0o7777, 0o4444);

        // Anybody may make the device 0:0.
        let device = Metadata { kind: Kind::CharDevice, rdev: (1, 3), ..foreign };
        let error = exporter.make_special(
            b"device",
            None,
            Attributes { meta: &device, xattrs: &[], flags: InodeFlags::default() },
        );
        assert!(!error.unwrap_err().is_fatal());
        assert_eq!(entries(dir.path()).len(), 2);
    });
}

#[test]
fn others_write_into_read_only_directories_of_theirs() {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join("sub")).unwrap();
    fs::set_permissions(dir.path().join("sub"), fs::Permissions::from_mode(0o555)).unwrap();
    chown(dir.path(), Some(NOBODY), Some(NOBODY)).unwrap();
    chown(dir.path().join("sub"), Some(NOBODY), Some(NOBODY)).unwrap();
    as_nobody(|| {
        let exporter = exporter(dir.path());
        assert_eq!(exporter.make_directory(b"sub", InodeFlags::default()).unwrap(), Made::Yes);
        let own = Metadata { uid: NOBODY, gid: NOBODY, ..meta(Kind::Regular, 0o644) };
        restore(&exporter, "sub/file", &own, &[]);
        let directory = Metadata { kind: Kind::Directory, mode: 0o555, ..own };
        exporter
            .finish_directory(
                b"sub",
                Attributes { meta: &directory, xattrs: &[], flags: InodeFlags::default() },
            )
            .unwrap();
        assert_eq!(fs::metadata(dir.path().join("sub")).unwrap().mode() & 0o777, 0o555);
    });
}

#[test]
fn unreadable_things_are_errors_of_their_own() {
    let dir = tempfile::tempdir().unwrap();
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
    fs::write(dir.path().join("private"), "x").unwrap();
    fs::write(dir.path().join("public"), "x").unwrap();
    fs::create_dir(dir.path().join("closed")).unwrap();
    fs::create_dir(dir.path().join("names only")).unwrap();
    fs::write(dir.path().join("names only/file"), "x").unwrap();
    for (path, mode) in [("private", 0o600), ("public", 0o644), ("closed", 0o700), ("names only", 0o744)] {
        fs::set_permissions(dir.path().join(path), fs::Permissions::from_mode(mode)).unwrap();
    }
    rustix::fs::setxattr(dir.path().join("private"), "user.x", b"1", XattrFlags::empty()).unwrap();
    as_nobody(|| {
        let importer = FsImporter::new(vec![dir.path().into()], FsImportOptions::default()).unwrap();
        let directory = importer.directory(&importer.roots()[0]).unwrap();
        assert_eq!(list(&directory).unwrap().iter().filter(|(_, e)| e.is_ok()).count(), 4);
        // Root's file: the access time cannot be spared, and it is read all the same.
        assert!(directory.open_file(b"public").is_ok());
        let error = directory.open_file(b"private").err().unwrap();
        assert!(error.to_string().starts_with("open: Permission denied"), "{error}");
        assert!(!error.is_vanished());
        assert!(directory.xattrs(b"private").is_err());
        assert!(directory.open_directory(b"closed").is_err());
        let listed = list(&directory.open_directory(b"names only").unwrap()).unwrap();
        assert_eq!(listed[0].0, b"file");
        assert!(listed[0].1.as_ref().unwrap_err().to_string().starts_with("stat: Permission denied"));
    });
}

#[test]
fn nobody_else_can_open_a_file_before_it_is_its_owners() {
    let dir = tempfile::tempdir().unwrap();
    let exporter = exporter(dir.path());
    exporter.make_directory(b"sub", InodeFlags::default()).unwrap();
    let theirs = meta(Kind::Regular, 0o666);
    let ours = Metadata { uid: 0, gid: 0, ..theirs.clone() };
    // In turn, so that what is known of new files is of both.
    for i in 0..4 {
        for (who, meta) in [("theirs", &theirs), ("ours", &ours)] {
            let path = format!("sub/{who}{i}");
            let attributes = Attributes { meta, xattrs: &[], flags: InodeFlags::default() };
            let file = exporter.create_file(path.as_bytes(), attributes).unwrap().unwrap();
            // It has no name yet: this process's own handle leads to it.
            let handles = fs::read_dir("/proc/self/fd").unwrap().map(|e| e.unwrap().path());
            let is_it = |handle: &std::path::PathBuf| {
                let leads_to = fs::read_link(handle).unwrap_or_default();
                leads_to.starts_with(dir.path().join("sub"))
                    && leads_to.to_string_lossy().ends_with(" (deleted)")
            };
            let modes: Vec<u32> =
                handles.filter(is_it).map(|h| fs::metadata(h).unwrap().mode() & 0o7777).collect();
            if who == "theirs" {
                assert_eq!(modes, [0o600]);
            }
            assert!(file.finish(attributes).unwrap().is_empty());
            let found = fs::metadata(dir.path().join(path)).unwrap();
            assert_eq!((found.uid(), found.gid(), found.mode() & 0o7777), (meta.uid, meta.gid, 0o666));
        }
    }
}

#[test]
fn a_full_disk_ends_the_restore() {
    let disk = SmallDisk::new("64k");
    let exporter = exporter(disk.path());
    let meta = Metadata { size: 1 << 20, ..meta(Kind::Regular, 0o644) };
    let file = exporter
        .create_file(b"file", Attributes { meta: &meta, xattrs: &[], flags: InodeFlags::default() })
        .unwrap()
        .unwrap();
    let error = file.write_at(&vec![1; 1 << 20], 0).unwrap_err();
    assert!(error.is_fatal(), "{error}");
    drop(file);
    assert!(entries(disk.path()).is_empty());
}

#[tokio::test]
async fn a_full_store_says_so_and_stays_whole() {
    let disk = SmallDisk::new("64k");
    let store = FsStore::new(disk.path().to_path_buf());
    let name = ObjectName::new(Area::States, ObjectId([1; 32]));
    let error = put_bytes(&store, name, vec![1; 1 << 20].into()).await.unwrap_err();
    assert_eq!(error.kind(), StoreErrorKind::NoSpace);
    put_bytes(&store, name, vec![1; 1000].into()).await.unwrap();
}

#[test]
fn other_file_systems_are_left_out_but_those_asked_for() {
    let dir = tempfile::tempdir().unwrap();
    let disk = SmallDisk::new("64k");
    fs::create_dir(dir.path().join("mnt")).unwrap();
    let inside = dir.path().join("mnt");
    rustix::mount::mount_bind(disk.path(), &inside).unwrap();
    fs::create_dir(inside.join("deep")).unwrap();
    let marked = |paths: Vec<PathBuf>, one_file_system| {
        let options = FsImportOptions { one_file_system, ..FsImportOptions::default() };
        let importer = FsImporter::new(paths, options).unwrap();
        assert_eq!(importer.roots().len(), 1);
        let list = list(&importer.directory(&importer.roots()[0]).unwrap()).unwrap();
        list[0].1.as_ref().unwrap().left_out.is_some()
    };
    let base = dir.path().to_path_buf();
    let found = [
        marked(vec![base.clone()], true),
        marked(vec![base.clone()], false),
        marked(vec![base.clone(), inside.join("deep")], true),
    ];
    unmount(&inside, UnmountFlags::DETACH).unwrap();
    assert_eq!(found, [true, false, false]);
    // The same file system at a second place is another one.
    let elsewhere = tempfile::tempdir_in(dir.path().parent().unwrap()).unwrap();
    rustix::mount::mount_bind(elsewhere.path(), &inside).unwrap();
    fs::create_dir(inside.join("deep")).unwrap();
    let found = [
        marked(vec![base.clone()], true),
        marked(vec![base.clone()], false),
        marked(vec![base.clone(), inside.join("deep")], true),
    ];
    unmount(&inside, UnmountFlags::DETACH).unwrap();
    assert_eq!(found, [true, false, false]);
}

#[test]
fn foreign_symlinks_keep_their_owner() {
    let dir = tempfile::tempdir().unwrap();
    symlink("/etc/passwd", dir.path().join("link")).unwrap();
    lchown(dir.path().join("link"), Some(5), Some(6)).unwrap();
    let entry = entries(dir.path()).pop().unwrap();
    let target = tempfile::tempdir().unwrap();
    let attributes = Attributes { meta: &entry.meta, xattrs: &[], flags: InodeFlags::default() };
    let before = fs::metadata("/etc/passwd").unwrap();
    exporter(target.path()).make_special(b"link", entry.target.as_deref(), attributes).unwrap();
    assert_eq!(entries(target.path())[0].meta, entry.meta);
    let after = fs::metadata("/etc/passwd").unwrap();
    assert_eq!((after.uid(), after.mtime(), after.mode()), (before.uid(), before.mtime(), before.mode()));
}
