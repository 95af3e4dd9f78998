//! What `lsattr` shows of files, and when they were made: recorded, shown, and restored as far as a system can.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::common::image::{self, Image};
use crate::common::sandbox::run_tool;
use crate::common::{MountGuard, Sandbox};

/// The kinds of file systems, each with what only it has.
const KINDS: [(&str, u64, &[&str]); 3] = [
    ("ext4", 32 << 20, &["mkfs.ext4", "-q"]),
    ("xfs", 300 << 20, &["mkfs.xfs", "-q"]),
    ("btrfs", 128 << 20, &["mkfs.btrfs", "-qf"]),
];

fn mounted(sandbox: &Sandbox, place: &str, kind: usize) -> Image {
    let (name, bytes, mkfs) = KINDS[kind];
    let image = sandbox.path(format!("{name} {place}.img"));
    image::make(&image, bytes, mkfs);
    let at = sandbox.path(place).join(name);
    std::fs::create_dir_all(&at).unwrap();
    Image::mount(&image, &at)
}

fn chattr(change: &str, path: &Path) {
    run_tool("chattr", [OsStr::new(change), path.as_os_str()]);
}

/// Letters by path, without where blocks are, which is the file system's own matter.
fn lsattr(root: &Path) -> Vec<String> {
    let listed = Command::new("lsattr").args(["-pR", "."]).current_dir(root).output().unwrap();
    let listed = String::from_utf8(listed.stdout).unwrap();
    let mut lines: Vec<String> = listed
        .lines()
        .filter(|line| line.contains(" ./"))
        .map(|line| {
            let words: Vec<&str> = line.split_whitespace().collect();
            let letters: String = words[1].chars().filter(|c| !"-eI".contains(*c)).collect();
            format!("{} {} {letters}", words[2], words[0])
        })
        .collect();
    lines.sort();
    lines
}

/// One of each flag that the file system takes; hard links, and directories with something in them.
fn fill(root: &Path, kind: usize) {
    let at = |name: &str| root.join(name);
    std::fs::create_dir(at("locked")).unwrap();
    for name in ["plain", "append", "locked/immutable", "locked/other"] {
        std::fs::write(at(name), format!("in {name}")).unwrap();
    }
    std::fs::hard_link(at("locked/immutable"), at("a further name")).unwrap();
    std::fs::hard_link(at("append"), at("locked/z further name")).unwrap();
    chattr("+adA", &at("append"));
    match KINDS[kind].0 {
        "ext4" => chattr("+DT", &at("locked")),
        "xfs" => {
            std::fs::create_dir(at("project")).unwrap();
            run_tool("chattr", ["-p".as_ref(), "4711".as_ref(), at("project").as_os_str()]);
            chattr("+P", &at("project"));
            std::fs::write(at("project/of it"), "x").unwrap();
        }
        _ => {
            std::fs::create_dir(at("image")).unwrap();
            chattr("+C", &at("image"));
            std::fs::write(at("image/disk"), "x").unwrap();
            chattr("+c", &at("plain"));
        }
    }
    chattr("+i", &at("locked/immutable"));
    chattr("+i", &at("locked"));
}

fn unlocked(root: &Path) {
    run_tool("chattr", ["-R".as_ref(), "-i".as_ref(), "-a".as_ref(), root.as_os_str()]);
}

#[test]
fn flags_projects_and_birth_times_are_kept() {
    let sandbox = Sandbox::with_key_file();
    let sources: Vec<Image> = (0..KINDS.len()).map(|kind| mounted(&sandbox, "from", kind)).collect();
    for (kind, source) in sources.iter().enumerate() {
        fill(source.path(), kind);
    }
    let from = sandbox.path("from");
    sandbox.backup(&from);
    // Shown by `info` and in a mount.
    let file = from.join("ext4/locked/immutable");
    let born = Command::new("stat").args(["-c", "%w"]).arg(&file).output().unwrap();
    let born = String::from_utf8(born.stdout).unwrap().trim().replace(" +0000", "Z").replace(' ', "T");
    // As many digits as there are.
    let born = format!("{}Z", born.trim_end_matches('Z').trim_end_matches('0'));
    let name = format!("latest:{}", file.display());
    let info = |name: &str| sandbox.run(["info", name]).succeeds().text().to_owned();
    let shown = info(&name);
    assert!(shown.contains("Flags:         immutable\n") && shown.contains(&born), "{shown} {born}");
    let of_project = format!("latest:{}", from.join("xfs/project/of it").display());
    let project = sandbox.run(["info", "-json", &of_project]).succeeds().json();
    assert_eq!(project[0]["project"], 4711, "{project:?}");
    let mount = MountGuard::new(&sandbox, ["-xattr", "on"]);
    let inside = mount.path().join("latest").join(from.strip_prefix("/").unwrap());
    for (kind, source) in sources.iter().enumerate() {
        let shown = lsattr(&inside.join(KINDS[kind].0));
        assert_eq!(shown, lsattr(source.path()));
        assert!(shown.iter().any(|line| line == "./locked/immutable 0 i"), "{shown:?}");
    }
    let attribute = ["--only-values", "-n", "user.plakar.born"];
    let immutable = inside.join("ext4/locked/immutable");
    let given = Command::new("getfattr").args(attribute).arg(&immutable).output().unwrap();
    assert_eq!(String::from_utf8(given.stdout).unwrap(), born);
    drop(mount);
    // Restored.
    let targets: Vec<Image> = (0..KINDS.len()).map(|kind| mounted(&sandbox, "to", kind)).collect();
    let restore = |options: &[&str], kind: usize, to: PathBuf| {
        let what = format!("latest:{}", from.join(KINDS[kind].0).display());
        let words = [&["restore"], options, &["-to", to.to_str().unwrap(), &what]].concat();
        sandbox.run(words)
    };
    for (kind, (source, target)) in sources.iter().zip(&targets).enumerate() {
        restore(&[], kind, target.path().join("all")).succeeds();
        assert_eq!(lsattr(&target.path().join("all")), lsattr(source.path()));
        let further = std::fs::read(target.path().join("all/a further name")).unwrap();
        assert_eq!(further, b"in locked/immutable");
        // Without permissions nothing is in the way of whoever has it.
        restore(&["-skip-permissions"], kind, target.path().join("mine")).succeeds();
        std::fs::remove_dir_all(target.path().join("mine")).unwrap();
    }
    // What is there and locked stays, and that is said.
    std::fs::write(sandbox.path("new"), "").unwrap();
    restore(&["-overwrite", "always"], 0, targets[0].path().join("all")).ends_with(3).says(&["chattr -i -a"]);
    // What a file system does not take is said: of the first in full, of all with their number.
    let poor = restore(&[], 2, targets[1].path().join("poor")).ends_with(3);
    poor.says(&["inode flag c", "an inode flag of 1 other entry could not be set either"]);
    // A flag that changes alone is seen.
    let file = from.join("ext4/plain");
    chattr("+d", &file);
    sandbox.backup(&from);
    let name = format!("latest:{}", file.display());
    assert!(info(&name).contains("no dump"));
    sources.iter().chain(&targets).for_each(|image| unlocked(image.path()));
}
