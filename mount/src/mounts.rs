//! What is mounted where, and the calls that change it: by the system call where that is allowed, else by
//! `fusermount3`. Unmounting is done here and never by fuser, which would take a newer mount at the same place after
//! somebody else has unmounted ours.

mod holders;

use std::ffi::{CString, OsStr, OsString};
use std::fs::OpenOptions;
use std::io::{self, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use rustix::io::Errno;
use rustix::mount::{MountFlags, UnmountFlags};
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags};

pub use holders::Holder;
pub(crate) use holders::holders;

/// The kind that the system shows for our mounts.
pub(crate) const KIND: &str = "fuse.plakar";
const DEVICE: &str = "/dev/fuse";
/// How long a mount may take to answer a question that it need not ask its store.
const ANSWER: Duration = Duration::from_secs(2);

/// How to unmount.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unmount {
    /// Only if nobody uses it.
    IfUnused,
    /// From its place at once; it ends when nobody uses it any more.
    Detach,
    /// At once, also where the process behind it does not answer: whoever waits for it gets an error.
    Force,
}

/// What is asked of the kernel beside the place.
#[derive(Clone, Debug)]
pub(crate) struct Options {
    /// The name that the system shows as its source.
    pub(crate) source: String,
    pub(crate) allow_other: bool,
    pub(crate) no_exec: bool,
}

/// One mounted filesystem.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Mounted {
    /// Its device number: unlike the path, it belongs to one mount alone.
    pub(crate) device: (u32, u32),
    pub(crate) at: PathBuf,
    pub(crate) kind: String,
}

/// All mounts that this process sees, lower ones first.
pub(crate) fn table() -> io::Result<Vec<Mounted>> {
    Ok(std::fs::read("/proc/self/mountinfo")?.split(|b| *b == b'\n').filter_map(parse).collect())
}

/// What is mounted at exactly this path, on top.
pub(crate) fn mounted_at(path: &Path) -> io::Result<Option<Mounted>> {
    Ok(table()?.into_iter().rfind(|m| m.at == path))
}

/// `36 35 0:98 / /mnt ro,nosuid - fuse.plakar source options`, with `\ooo` for blanks in paths.
fn parse(line: &[u8]) -> Option<Mounted> {
    let fields: Vec<&[u8]> = line.split(|b| *b == b' ').collect();
    let text = |f: &[u8]| std::str::from_utf8(f).ok().map(String::from);
    let device = text(fields.get(2)?)?;
    let (major, minor) = device.split_once(':')?;
    let dash = fields.iter().position(|f| *f == b"-")?;
    Some(Mounted {
        device: (major.parse().ok()?, minor.parse().ok()?),
        at: OsString::from_vec(unescape(fields.get(4)?)).into(),
        kind: text(fields.get(dash + 1)?)?,
    })
}

fn unescape(field: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((first, after)) = rest.split_first() {
        let digits = after.get(..3).filter(|_| *first == b'\\');
        let byte =
            digits.and_then(|d| std::str::from_utf8(d).ok()).and_then(|d| u8::from_str_radix(d, 8).ok());
        match byte {
            Some(byte) => {
                out.push(byte);
                rest = &after[3..];
            }
            None => {
                out.push(*first);
                rest = after;
            }
        }
    }
    out
}

/// Mounts and gives the connection to the kernel. The kernel's first request waits there.
pub(crate) fn mount(at: &Path, options: &Options) -> io::Result<OwnedFd> {
    match mount_directly(at, options) {
        Err(e) if e.kind() == io::ErrorKind::PermissionDenied => mount_by_helper(at, options),
        done => done,
    }
}

/// Whether worker threads can each have their own connection to the kernel.
pub(crate) fn can_open_device() -> bool {
    OpenOptions::new().read(true).write(true).open(DEVICE).is_ok()
}

fn mount_directly(at: &Path, options: &Options) -> io::Result<OwnedFd> {
    let device = OpenOptions::new().read(true).write(true).open(DEVICE)?;
    let (user, group) = (rustix::process::getuid(), rustix::process::getgid());
    let mut data = format!(
        "fd={},rootmode=40000,user_id={},group_id={}",
        device.as_raw_fd(),
        user.as_raw(),
        group.as_raw()
    );
    if options.allow_other {
        data.push_str(",allow_other,default_permissions");
    }
    let data = CString::new(data)?;
    let mut flags = MountFlags::RDONLY | MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOATIME;
    flags.set(MountFlags::NOEXEC, options.no_exec);
    rustix::mount::mount(options.source.as_str(), at, KIND, flags, Some(data.as_c_str()))?;
    Ok(device.into())
}

/// The helper mounts for a user who may not, and sends the connection over a socket: its standard input.
fn mount_by_helper(at: &Path, options: &Options) -> io::Result<OwnedFd> {
    let (ours, theirs) = UnixStream::pair()?;
    let mut words = format!("ro,nosuid,nodev,noatime,subtype=plakar,fsname={}", options.source);
    if options.allow_other {
        words.push_str(",allow_other,default_permissions");
    }
    if options.no_exec {
        words.push_str(",noexec");
    }
    let child = helper()
        .args(["-o", &words, "--"])
        .arg(at)
        .env("_FUSE_COMMFD", "0")
        .stdin(Stdio::from(OwnedFd::from(theirs)))
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(no_helper)?;
    let received = receive_descriptor(&ours);
    let output = child.wait_with_output()?;
    match received {
        Ok(Some(device)) if output.status.success() => Ok(device),
        Err(e) if output.status.success() => Err(e),
        _ => Err(io::Error::other(complaint(&output.stderr))),
    }
}

fn helper() -> Command {
    Command::new("fusermount3")
}

fn no_helper(e: io::Error) -> io::Error {
    match e.kind() {
        io::ErrorKind::NotFound => io::Error::new(e.kind(), "fusermount3 is not installed (package fuse3)"),
        _ => e,
    }
}

fn complaint(stderr: &[u8]) -> String {
    let text = String::from_utf8_lossy(stderr);
    let text = text.trim();
    text.strip_prefix("fusermount3: ").unwrap_or(text).to_owned()
}

fn receive_descriptor(socket: &UnixStream) -> io::Result<Option<OwnedFd>> {
    let mut byte = [0_u8];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let flags = RecvFlags::CMSG_CLOEXEC;
    rustix::net::recvmsg(socket, &mut [IoSliceMut::new(&mut byte)], &mut control, flags)?;
    let descriptors = control.drain().filter_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut rights) => rights.next(),
        _ => None,
    });
    Ok(descriptors.last())
}

/// Unmounts what is on top at a path.
///
/// # Errors
/// `ResourceBusy` when somebody uses it, which only [`Unmount::IfUnused`] minds.
pub(crate) fn unmount(at: &Path, how: Unmount) -> io::Result<()> {
    let more = match how {
        Unmount::IfUnused => UnmountFlags::empty(),
        Unmount::Detach => UnmountFlags::DETACH,
        Unmount::Force => UnmountFlags::DETACH | UnmountFlags::FORCE,
    };
    match rustix::mount::unmount(at, UnmountFlags::NOFOLLOW | more) {
        Err(Errno::PERM) => unmount_by_helper(at, how),
        done => Ok(done?),
    }
}

fn unmount_by_helper(at: &Path, how: Unmount) -> io::Result<()> {
    if how == Unmount::Force
        && let Err(e) = abort(at)
    {
        // It ends with its process all the same.
        tracing::debug!(%e, "the connection cannot be given up");
    }
    let options: &[&str] = if how == Unmount::IfUnused { &["-u", "--"] } else { &["-u", "-z", "--"] };
    let output = helper().args(options).arg(at).stdin(Stdio::null()).output().map_err(no_helper)?;
    if output.status.success() {
        return Ok(());
    }
    let text = complaint(&output.stderr);
    if text.contains("busy") {
        return Err(io::Error::new(io::ErrorKind::ResourceBusy, text));
    }
    Err(io::Error::other(text))
}

/// Gives up the connection of a mount: whoever waits for it gets an error. Its user may do that as well as root.
fn abort(at: &Path) -> io::Result<()> {
    let Some(mounted) = mounted_at(at)? else { return Ok(()) };
    std::fs::write(format!("/sys/fs/fuse/connections/{}/abort", mounted.device.1), "1")
}

/// What a mount says when it is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    /// It answers.
    Alive,
    /// Its process has gone.
    Dead,
    /// Nothing, in the time that it may take.
    Silent,
}

/// Asks a mount whether it answers: by a question that the kernel always hands on, where what it has cached would make
/// a dead mount look alive. On a thread of its own, which may wait for ever.
pub(crate) fn ask(at: &Path) -> Answer {
    let (said, answer) = mpsc::channel();
    let at = at.to_owned();
    std::thread::spawn(move || said.send(rustix::fs::statfs(&at).map(drop)));
    match answer.recv_timeout(ANSWER) {
        Err(_elapsed) => Answer::Silent,
        Ok(Err(e)) if is_dead(&e.into()) => Answer::Dead,
        Ok(_) => Answer::Alive,
    }
}

/// The name under which the system shows a store's mount.
pub(crate) fn source_name(location: &str) -> String {
    format!("plakar:{}", plain_source(location))
}

/// A name without commas, which separate options, and without what is hard to see.
pub(crate) fn plain_source(name: &str) -> String {
    let plain = |c: char| if c == ',' || c == '\\' || c.is_control() { '_' } else { c };
    name.chars().map(plain).collect()
}

/// Lets the kernel read ahead further than its default of 128 KiB, which it does not let the protocol exceed. Only
/// root may; without it large files are read in smaller steps.
pub(crate) fn raise_readahead(device: (u32, u32), kib: u32) {
    let path = format!("/sys/class/bdi/{}:{}/read_ahead_kb", device.0, device.1);
    if let Err(e) = std::fs::write(&path, kib.to_string()) {
        tracing::debug!(%e, path, "the kernel's readahead stays as it is");
    }
}

/// A path without symlinks, also where a dead mount stands at its end.
pub(crate) fn resolve(path: &Path) -> io::Result<PathBuf> {
    match path.canonicalize() {
        Err(e) if is_dead(&e) => {
            let name = path.file_name().ok_or(e)?;
            let above = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
            Ok(above.canonicalize()?.join(name))
        }
        resolved => resolved,
    }
}

/// Whether an error says that the process behind a mount has gone ("Transport endpoint is not connected").
pub(crate) fn is_dead(e: &io::Error) -> bool {
    let codes = [Errno::NOTCONN, Errno::CONNABORTED];
    codes.iter().any(|c| e.raw_os_error() == Some(c.raw_os_error()))
}

/// Whether `path` is `place` or lies in it.
pub(crate) fn lies_in(path: &Path, place: &Path) -> bool {
    path.starts_with(place)
}

/// Whether a link's text, as /proc shows it, is a path in `place`.
fn text_lies_in(text: &OsStr, place: &Path) -> bool {
    let (text, place) = (text.as_bytes(), place.as_os_str().as_bytes());
    text.strip_prefix(place).is_some_and(|rest| rest.is_empty() || rest.starts_with(b"/"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_the_table_is_taken_apart() {
        let line = b"36 35 0:98 / /mnt/a\\040b ro,nosuid shared:1 - fuse.plakar plakar:/x ro,user_id=0";
        let mounted = parse(line).expect("a line");
        assert_eq!(mounted.device, (0, 98));
        assert_eq!(mounted.at, Path::new("/mnt/a b"));
        assert_eq!(mounted.kind, KIND);
        let no_text = parse(b"36 35 0:98 / /mnt/\xff\\134 ro - ext4 /dev/\xfe rw").expect("a line");
        assert_eq!(no_text.at.as_os_str().as_bytes(), b"/mnt/\xff\\");
        assert_eq!(parse(b""), None);
    }

    #[test]
    fn source_names_separate_no_options() {
        assert_eq!(source_name("s3://a,b\\c\n"), "plakar:s3://a_b_c_");
    }

    #[test]
    fn paths_are_compared_by_parts() {
        assert!(text_lies_in(OsStr::new("/mnt/a"), Path::new("/mnt")));
        assert!(text_lies_in(OsStr::new("/mnt"), Path::new("/mnt")));
        assert!(!text_lies_in(OsStr::new("/mnt2"), Path::new("/mnt")));
    }
}
