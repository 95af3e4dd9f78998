//! A kernel mount that ends with the test, however the test ends.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use rustix::mount::{MountFlags, UnmountFlags, mount_bind, mount_remount, unmount};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use super::sandbox::{Outcome, Sandbox, peak_so_far, read_until};

/// Longer than ending can take, even on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// `plakar mount` as a child in the foreground.
#[derive(Debug)]
pub(crate) struct MountGuard {
    directory: PathBuf,
    child: Option<Child>,
    command: Command,
}

impl MountGuard {
    /// Mounts at a new directory, with these arguments behind `mount -to DIR`. Returns when it is mounted.
    #[track_caller]
    pub(crate) fn new<S: AsRef<OsStr>>(sandbox: &Sandbox, args: impl IntoIterator<Item = S>) -> Self {
        let name = (0..).map(|i| format!("mount {i}")).find(|n| !sandbox.path(n).exists()).unwrap();
        let directory = sandbox.path(name);
        std::fs::create_dir(&directory).unwrap();
        let words = [OsStr::new("mount"), OsStr::new("-to"), directory.as_os_str()];
        let mut command = sandbox.command(words);
        command.args(args);
        let child = command.spawn().unwrap();
        // From here on it is taken down also when it never gets ready.
        let mut guard = Self { directory, child: Some(child), command };
        let stdout = guard.child.as_mut().and_then(|c| c.stdout.take());
        read_until(&mut stdout.unwrap(), b"mounted ");
        guard
    }

    /// Where it is.
    pub(crate) fn path(&self) -> &Path {
        &self.directory
    }

    /// The peak of its resident memory so far, MiB.
    pub(crate) fn peak(&self) -> u64 {
        let peak = peak_so_far(self.child.as_ref().unwrap().id());
        assert!(peak > 1, "it has ended");
        peak
    }

    /// Sends the process a signal.
    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(self.child.as_ref().unwrap()), signal).unwrap();
    }

    /// Kills the process, and waits until it is gone. What it leaves behind goes with the guard.
    pub(crate) fn kill(&mut self) {
        let mut child = self.child.take().unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
    }

    /// Waits until the process has ended.
    #[track_caller]
    pub(crate) fn ended(mut self) -> Outcome {
        let child = self.child.take().unwrap();
        let pid = Pid::from_child(&child);
        let ended = within(PATIENCE, move || child.wait_with_output().unwrap());
        if ended.is_none() {
            let _ = kill_process(pid, Signal::KILL);
        }
        Outcome::from_output(ended.unwrap(), &self.command)
    }
}

/// Does something on another thread, and waits for it only so long.
fn within<T: Send + 'static>(patience: Duration, work: impl FnOnce() -> T + Send + 'static) -> Option<T> {
    let (done, ended) = mpsc::channel();
    std::thread::spawn(move || done.send(work()));
    ended.recv_timeout(patience).ok()
}

fn wait(mut child: Child) -> Option<ExitStatus> {
    within(PATIENCE, move || child.wait().ok()).flatten()
}

/// Whether a process is there and not only waits for its parent to take note of its end.
pub(crate) fn is_running(pid: i64) -> bool {
    let status = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // The name, in parentheses, may hold anything.
    let state = status.rsplit(") ").next().and_then(|rest| rest.chars().next());
    state.is_some_and(|s| !matches!(s, 'Z' | 'X'))
}

/// Whether something is mounted at a path.
pub(crate) fn is_mounted(path: &Path) -> bool {
    // As the table writes blanks.
    let escape = |b: &u8| match b {
        b' ' | b'\t' | b'\n' | b'\\' => format!("\\{b:03o}").into_bytes(),
        b => vec![*b],
    };
    let path: Vec<u8> = path.as_os_str().as_bytes().iter().flat_map(escape).collect();
    let table = std::fs::read("/proc/self/mountinfo").unwrap();
    table.split(|b| *b == b'\n').any(|line| line.split(|b| *b == b' ').nth(4) == Some(&path))
}

impl Drop for MountGuard {
    fn drop(&mut self) {
        if let Some(child) = self.child.take() {
            let pid = Pid::from_child(&child);
            let _ = kill_process(pid, Signal::TERM);
            if is_mounted(&self.directory) {
                // Whoever still looks at it must not keep it.
                let _ = unmount(&self.directory, UnmountFlags::DETACH);
            }
            if wait(child).is_none() {
                let _ = kill_process(pid, Signal::KILL);
            }
        }
        if is_mounted(&self.directory) {
            let _ = unmount(&self.directory, UnmountFlags::DETACH);
        }
    }
}

/// A directory seen at a second place, on a file system that nobody can write to any more, with the options that a mount
/// of ours has.
#[derive(Debug)]
pub(crate) struct ReadOnlyView(TempDir);

impl ReadOnlyView {
    /// Beside the directory; from here on the whole file system is read-only.
    pub(crate) fn new(of: &Path) -> Self {
        let at = tempfile::Builder::new().prefix("view-").tempdir_in(of.parent().unwrap()).unwrap();
        mount_bind(of, at.path()).unwrap();
        let view = Self(at);
        let flags = MountFlags::RDONLY | MountFlags::NOSUID | MountFlags::NODEV;
        mount_remount(view.path(), flags, c"").unwrap();
        view
    }

    /// Where it is.
    pub(crate) fn path(&self) -> &Path {
        self.0.path()
    }
}

impl Drop for ReadOnlyView {
    fn drop(&mut self) {
        let _ = unmount(self.0.path(), UnmountFlags::DETACH);
    }
}

/// Looks until it holds, for a while.
#[track_caller]
pub(crate) fn eventually(what: &str, holds: impl Fn() -> bool) {
    let begun = Instant::now();
    while !holds() {
        assert!(begun.elapsed() < Duration::from_secs(20), "never: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}
