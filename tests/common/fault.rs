//! One call of a program to the system fails, whichever thread makes it: a seccomp filter hands each call of some kinds to
//! a thread here, which counts those that concern a directory and lets one of them fail. seccomp_unotify(2).
#![expect(unsafe_code, reason = "seccomp has no safe interface; each use says why it is sound")]

use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::mem::{MaybeUninit, size_of};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::FileExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};

use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, PidfdGetfdFlags, pidfd_getfd, pidfd_open};

/// Where the child keeps the descriptor that its calls are answered through.
const LISTENER: i32 = 250;

/// A kind of call: where it names what it concerns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Names {
    /// By the descriptor that is its first argument.
    Descriptor,
    /// By a path, at this place among its arguments, from the descriptor before it.
    Path(usize),
}

/// The calls that can fail: number, name, and what they concern.
const CALLS: [(i64, &str, Names); 28] = [
    (libc::SYS_read, "read", Names::Descriptor),
    (libc::SYS_pread64, "pread", Names::Descriptor),
    (libc::SYS_readv, "readv", Names::Descriptor),
    (libc::SYS_preadv, "preadv", Names::Descriptor),
    (libc::SYS_write, "write", Names::Descriptor),
    (libc::SYS_pwrite64, "pwrite", Names::Descriptor),
    (libc::SYS_writev, "writev", Names::Descriptor),
    (libc::SYS_pwritev, "pwritev", Names::Descriptor),
    (libc::SYS_fsync, "fsync", Names::Descriptor),
    (libc::SYS_fdatasync, "fdatasync", Names::Descriptor),
    (libc::SYS_ftruncate, "ftruncate", Names::Descriptor),
    (libc::SYS_fallocate, "fallocate", Names::Descriptor),
    (libc::SYS_fstat, "fstat", Names::Descriptor),
    (libc::SYS_getdents64, "getdents", Names::Descriptor),
    (libc::SYS_fchmod, "fchmod", Names::Descriptor),
    (libc::SYS_fchown, "fchown", Names::Descriptor),
    (libc::SYS_utimensat, "utimensat", Names::Descriptor),
    (libc::SYS_flock, "flock", Names::Descriptor),
    (libc::SYS_openat, "openat", Names::Path(1)),
    (libc::SYS_newfstatat, "fstatat", Names::Path(1)),
    (libc::SYS_statx, "statx", Names::Path(1)),
    (libc::SYS_mkdirat, "mkdirat", Names::Path(1)),
    (libc::SYS_unlinkat, "unlinkat", Names::Path(1)),
    (libc::SYS_symlinkat, "symlinkat", Names::Path(2)),
    (libc::SYS_readlinkat, "readlinkat", Names::Path(1)),
    (libc::SYS_linkat, "linkat", Names::Path(3)),
    (libc::SYS_renameat, "renameat", Names::Path(3)),
    (libc::SYS_renameat2, "renameat2", Names::Path(3)),
];

/// A call that failed, or would have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Call {
    pub(crate) name: &'static str,
    /// What it concerned.
    pub(crate) path: PathBuf,
}

/// Runs a program to its end; of the calls that concern what lies below a directory, one fails: the one before which
/// there were so many. Gives that one, if it came to it, and how many there were.
pub(crate) fn run(
    command: &mut Command,
    below: &Path,
    fails: Option<(usize, Errno)>,
) -> (Child, Option<Call>, usize) {
    let filter = filter();
    let install = move || install(&filter);
    // SAFETY: what runs between fork and exec makes three system calls with arguments that were made before, and neither
    // allocates nor locks.
    unsafe { command.pre_exec(install) };
    let child = command.spawn().unwrap();
    let pidfd = pidfd_open(Pid::from_child(&child), PidfdFlags::empty()).unwrap();
    let listener = pidfd_getfd(&pidfd, LISTENER, PidfdGetfdFlags::empty()).unwrap();
    let (mut failed, mut seen) = (None, 0);
    while let Some(call) = receive(&listener) {
        let concerned = concerned(&call).filter(|c| c.path.starts_with(below));
        let fails = match (&concerned, fails) {
            (Some(_), Some((n, errno))) if n == seen => Some(errno),
            _ => None,
        };
        seen += usize::from(concerned.is_some());
        if fails.is_some() {
            failed = concerned;
        }
        answer(&listener, call.id, fails);
    }
    (child, failed, seen)
}

/// A program for the kernel: the calls above are handed over, all others go through.
fn filter() -> Vec<libc::sock_filter> {
    let op = |code: u32, jt: usize, k: u32| libc::sock_filter { code: code as u16, jt: jt as u8, jf: 0, k };
    // The number stands at the beginning of what the filter sees.
    let mut program = vec![op(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0)];
    for (i, (number, ..)) in CALLS.iter().enumerate() {
        // Past the other numbers and the first verdict.
        let over = CALLS.len() - i;
        program.push(op(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, over, *number as u32));
    }
    program.push(op(libc::BPF_RET | libc::BPF_K, 0, libc::SECCOMP_RET_ALLOW));
    program.push(op(libc::BPF_RET | libc::BPF_K, 0, libc::SECCOMP_RET_USER_NOTIF));
    program
}

/// In the child, before it becomes the program.
fn install(filter: &[libc::sock_filter]) -> io::Result<()> {
    let program = libc::sock_fprog { len: filter.len() as u16, filter: filter.as_ptr().cast_mut() };
    let what = libc::SECCOMP_SET_MODE_FILTER;
    let flags = libc::SECCOMP_FILTER_FLAG_NEW_LISTENER;
    // SAFETY: plain system calls; the filter outlives them and the kernel only reads it.
    let listener = unsafe {
        if libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0 {
            return Err(io::Error::last_os_error());
        }
        libc::syscall(libc::SYS_seccomp, what, flags, &raw const program)
    };
    // SAFETY: as above. The copy stays open over exec, unlike the first one.
    if listener < 0 || unsafe { libc::dup2(listener as i32, LISTENER) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// The next call, which waits for its answer; `None` when nobody is left who could make one.
fn receive(listener: &OwnedFd) -> Option<libc::seccomp_notif> {
    loop {
        let mut poll = libc::pollfd { fd: listener.as_raw_fd(), events: libc::POLLIN, revents: 0 };
        // SAFETY: one valid structure, as said.
        unsafe { libc::poll(&raw mut poll, 1, -1) };
        if poll.revents & libc::POLLIN == 0 {
            return None;
        }
        let mut call = MaybeUninit::<libc::seccomp_notif>::zeroed();
        // SAFETY: the kernel fills the structure that this request is for, which has to be zero before.
        let got =
            unsafe { libc::ioctl(listener.as_raw_fd(), libc::SECCOMP_IOCTL_NOTIF_RECV, call.as_mut_ptr()) };
        // Whoever made it may have been killed meanwhile.
        if got == 0 {
            // SAFETY: it was filled, and was zero, which is a value of it, before.
            return Some(unsafe { call.assume_init() });
        }
    }
}

fn answer(listener: &OwnedFd, id: u64, fails: Option<Errno>) {
    let (error, flags) = match fails {
        Some(errno) => (-errno.raw_os_error(), 0),
        None => (0, libc::SECCOMP_USER_NOTIF_FLAG_CONTINUE as u32),
    };
    let mut response = libc::seccomp_notif_resp { id, val: 0, error, flags };
    // SAFETY: the kernel reads the structure that this request is for. It fails where the caller is gone.
    unsafe { libc::ioctl(listener.as_raw_fd(), libc::SECCOMP_IOCTL_NOTIF_SEND, &raw mut response) };
}

/// What a call concerns; `None` where that is gone, or no file.
fn concerned(call: &libc::seccomp_notif) -> Option<Call> {
    let (_, name, names) = CALLS.iter().find(|(number, ..)| *number == i64::from(call.data.nr))?;
    let of_process = |what: String| PathBuf::from(format!("/proc/{}/{what}", call.pid));
    let directory = |fd: u64| match fd as i32 {
        libc::AT_FDCWD => std::fs::read_link(of_process("cwd".into())),
        fd => std::fs::read_link(of_process(format!("fd/{fd}"))),
    };
    let path = match *names {
        Names::Descriptor => directory(call.data.args[0]).ok()?,
        Names::Path(at) => {
            let named = text(&of_process("mem".into()), call.data.args[at])?;
            match named.is_absolute() {
                true => named,
                false => directory(call.data.args[at - 1]).ok()?.join(named),
            }
        }
    };
    Some(Call { name, path })
}

/// A string in the memory of another process.
fn text(memory: &Path, at: u64) -> Option<PathBuf> {
    let memory = File::open(memory).ok()?;
    let mut text = Vec::new();
    while text.len() < 4096 {
        // Up to where the next page begins, which may not be there.
        let from = at + text.len() as u64;
        let mut part = vec![0; 4096 - (from % 4096) as usize];
        memory.read_exact_at(&mut part, from).ok()?;
        let end = part.iter().position(|b| *b == 0);
        text.extend_from_slice(&part[..end.unwrap_or(part.len())]);
        if end.is_some() {
            break;
        }
    }
    Some(OsString::from_vec(text).into())
}

/// The structures are those of the kernel's interface: a wrong size would make every request fail.
const _: () = assert!(size_of::<libc::seccomp_notif>() == 80 && size_of::<libc::seccomp_notif_resp>() == 24);
