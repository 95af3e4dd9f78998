//! File systems of any kind, in files on loop devices.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::sandbox::run_tool;

/// Makes a file system in a new file, or over an old one. `mkfs` has the program and its options.
pub(crate) fn make(image: &Path, bytes: u64, mkfs: &[&str]) {
    File::create(image).unwrap().set_len(bytes).unwrap();
    let (program, options) = mkfs.split_first().unwrap();
    // Some have advice to give.
    let made = Command::new(program).args(options).arg(image).output().unwrap();
    assert!(made.status.success(), "{made:?}");
}

/// One that is mounted, until this is dropped.
#[derive(Debug)]
pub(crate) struct Image(PathBuf);

impl Image {
    pub(crate) fn mount(image: &Path, at: &Path) -> Self {
        run_tool("mount", ["-o".as_ref(), "loop".as_ref(), image.as_os_str(), at.as_os_str()]);
        Self(at.into())
    }

    /// Where it is mounted.
    pub(crate) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Image {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(&self.0).status();
    }
}
