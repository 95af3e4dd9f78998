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

use rustix::mount::{MountFlags, UnmountFlags};
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags};

pub use holders::Holder;
pub(crate) use holders::holders;

/// The kind that the system shows for our mounts.
pub(crate) const KIND: &str = "fuse.plakar";
const DEVICE: &str = "/dev/fuse";

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
pub(crate) fn mount(at: &Path, source: &str, allow_other: bool) -> io::Result<OwnedFd> {
    match mount_directly(at, source, allow_other) {
        Err(e) if e.kind() == io::ErrorKind::PermissionDenied => mount_by_helper(at, source, allow_other),
        done => done,
    }
}

/// Whether worker threads can each have their own connection to the kernel.
pub(crate) fn can_open_device() -> bool {
    OpenOptions::new().read(true).write(true).open(DEVICE).is_ok()
}

fn mount_directly(at: &Path, source: &str, allow_other: bool) -> io::Result<OwnedFd> {
    let device = OpenOptions::new().read(true).write(true).open(DEVICE)?;
    let (user, group) = (rustix::process::getuid(), rustix::process::getgid());
    let mut data = format!(
        "fd={},rootmode=40000,user_id={},group_id={}",
        device.as_raw_fd(),
        user.as_raw(),
        group.as_raw()
    );
    if allow_other {
        data.push_str(",allow_other,default_permissions");
    }
    let data = CString::new(data)?;
    let flags = MountFlags::RDONLY | MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOATIME;
    rustix::mount::mount(source, at, KIND, flags, Some(data.as_c_str()))?;
    Ok(device.into())
}

/// The helper mounts for a user who may not, and sends the connection over a socket: its standard input.
fn mount_by_helper(at: &Path, source: &str, allow_other: bool) -> io::Result<OwnedFd> {
    let (ours, theirs) = UnixStream::pair()?;
    let mut options = format!("ro,nosuid,nodev,noatime,subtype=plakar,fsname={source}");
    if allow_other {
        options.push_str(",allow_other,default_permissions");
    }
    let child = helper()
        .args(["-o", &options, "--"])
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

/// Unmounts what is on top at a path. With `detach` it leaves the path at once and ends when nobody uses it any more.
///
/// # Errors
/// `ResourceBusy` when somebody uses it.
pub(crate) fn unmount(at: &Path, detach: bool) -> io::Result<()> {
    let flags = UnmountFlags::NOFOLLOW | if detach { UnmountFlags::DETACH } else { UnmountFlags::empty() };
    match rustix::mount::unmount(at, flags) {
        Err(rustix::io::Errno::PERM) => unmount_by_helper(at, detach),
        done => Ok(done?),
    }
}

fn unmount_by_helper(at: &Path, detach: bool) -> io::Result<()> {
    let options: &[&str] = if detach { &["-u", "-z", "--"] } else { &["-u", "--"] };
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

/// The name under which the system shows a mount: no commas, which separate options, and nothing that is hard to see.
pub(crate) fn source_name(location: &str) -> String {
    let plain = |c: char| if c == ',' || c == '\\' || c.is_control() { '_' } else { c };
    format!("plakar:{}", location.chars().map(plain).collect::<String>())
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
    let codes = [rustix::io::Errno::NOTCONN, rustix::io::Errno::CONNABORTED];
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
