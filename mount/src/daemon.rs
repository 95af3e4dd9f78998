//! Mounts in the background.
//!
//! ```text
//! command line                         the same program again, in its own session
//!   start(command, secret, …)  ──────►   Readiness::from_env()
//!      secret  ───── standard input ──►  .secret()
//!                                        MountSession::start, register
//!      pid     ◄──── standard output ──  .ready()  or  .failed(text, code)
//!   ends                                 MountSession::serve; its log is standard error, which is a file
//! ```
//!
//! The secret never stands in arguments or the environment, where other processes can read it.
//! Mounts that run, in the background or not, are registered as `<state>/mounts/<hash of the mountpoint>.json`, and
//! answer at the socket beside it; a record whose process has gone and whose mount is no more means nothing and is
//! removed when it is met.

mod log;
pub mod notify;
mod pid_file;
mod registry;
pub mod status;

use std::hash::{BuildHasher, RandomState};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::mounts;
use crate::session::{MountError, Unmount, take_down};

pub use log::Log;
pub use pid_file::PidFile;
pub use registry::{Record, Registration, State, find, list};

/// Tells a process that it is the one in the background.
const ENVIRONMENT: &str = "PLAKAR_MOUNT_IN_BACKGROUND";
/// How long an unmounted process may take to end.
const END: Duration = Duration::from_secs(15);
/// How long one whose mount was taken from it by force.
const END_BY_FORCE: Duration = Duration::from_secs(3);

/// What the process in the background says, once, as a line of its own.
#[derive(Debug, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
enum Message {
    Ready,
    Failed { text: String, code: u8 },
}

/// Why a mount did not come up in the background.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The process cannot be started.
    #[error("cannot start the mount in the background")]
    Spawn(#[from] io::Error),
    /// It said why it gave up.
    #[error("{text}")]
    Failed {
        /// Its words.
        text: String,
        /// The exit code it would have ended with.
        code: u8,
    },
    /// It ended without a word.
    #[error("the mount in the background ended before it was ready; its log is {}", log.display())]
    Died {
        /// Its log.
        log: PathBuf,
    },
}

/// Whether a log can be kept at a path, whose directory is made if there is none.
///
/// # Errors
/// Why it cannot.
pub fn try_log(path: &Path) -> io::Result<()> {
    path.parent().map_or(Ok(()), make_private)?;
    log::open(path).map(drop)
}

/// A place for a log in the system's temporary directory, where nobody else's can be taken for it; or one that keeps
/// nothing, where there is no room for it either.
pub fn spare_log() -> PathBuf {
    let place = std::env::temp_dir();
    let random = RandomState::new().hash_one(std::process::id());
    let file = place.join(format!("plakar-mount-{random:016x}.log"));
    let made = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&file);
    if made.is_ok() { file } else { PathBuf::from("/dev/null") }
}

/// Runs a command, which mounts, in the background. Returns its process when it is ready.
///
/// The command is the current program with the arguments that mount in the foreground; `secret` is handed to it on
/// its standard input. What it logs goes to the file `log`, whose directory is made if there is none.
pub fn start(
    mut command: Command,
    secret: Option<&[u8]>,
    mountpoint: &Path,
    log: &Path,
) -> Result<u32, StartError> {
    if let Some(directory) = log.parent() {
        make_private(directory)?;
    }
    let log_file = log::open(log)?;
    // Frames pass through many threads; with a heap for each, glibc holds back as much again as the caches hold.
    command.env("MALLOC_ARENA_MAX", "2");
    command.env(ENVIRONMENT, "1").stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(log_file);
    inherit_nothing(&mut command);
    let mut child = command.spawn()?;
    let said = converse(&mut child, secret);
    match said {
        Ok(Some(Message::Ready)) => Ok(child.id()),
        Ok(Some(Message::Failed { text, code })) => {
            let _reaped = child.wait();
            Err(StartError::Failed { text, code })
        }
        Ok(None) | Err(_) => {
            let _gone = child.kill();
            let _reaped = child.wait();
            // It may have come as far as mounting.
            if let Err(e) = clear_dead(mountpoint) {
                tracing::warn!(%e, "the mount that it has left is still there");
            }
            Err(StartError::Died { log: log.to_owned() })
        }
    }
}

/// Keeps what the caller has open from the process in the background, which would hold it for as long as it runs: a
/// lock of `flock`, the pipe of a script that waits for its end.
fn inherit_nothing(command: &mut Command) {
    let mark = || {
        const FROM: libc::c_uint = 3;
        // SAFETY: a single system call that takes numbers only, allowed between fork and exec; it marks descriptors to
        // be closed by exec and closes none, so that whoever owns one here keeps it. An old kernel refuses it, and then
        // they are inherited.
        #[expect(unsafe_code, reason = "there is no safe door to this call")]
        unsafe {
            libc::syscall(libc::SYS_close_range, FROM, libc::c_uint::MAX, libc::CLOSE_RANGE_CLOEXEC);
        }
        Ok(())
    };
    // SAFETY: the closure makes one system call; it allocates nothing and takes no lock.
    #[expect(unsafe_code, reason = "there is no safe door to what happens before exec")]
    unsafe {
        command.pre_exec(mark);
    }
}

/// Takes away a mount of ours whose process has gone, if one stands there.
fn clear_dead(mountpoint: &Path) -> Result<(), MountError> {
    let unusable = |e| MountError::Mountpoint { mountpoint: mountpoint.into(), source: e };
    let at = mounts::resolve(mountpoint).map_err(unusable)?;
    let here = mounts::mounted_at(&at).map_err(unusable)?;
    if here.is_some_and(|m| m.kind == mounts::KIND) && mounts::ask(&at) == mounts::Answer::Dead {
        take_down(&at, Unmount::Detach)?;
    }
    Ok(())
}

fn converse(child: &mut Child, secret: Option<&[u8]>) -> io::Result<Option<Message>> {
    if let Some(mut stdin) = child.stdin.take() {
        // It may end without reading it; what it says tells more than a broken pipe.
        let _unread = stdin.write_all(secret.unwrap_or_default());
    }
    let Some(stdout) = child.stdout.take() else { return Ok(None) };
    for line in BufReader::new(stdout).lines() {
        // Anything else that it prints is not for us.
        if let Ok(message) = serde_json::from_str(&line?) {
            return Ok(Some(message));
        }
    }
    Ok(None)
}

/// The background side: tells whoever started this process how the mount came out.
#[derive(Debug)]
pub struct Readiness(());

impl Readiness {
    /// `Some` in a process that [`start`] has started, which from here on is a session of its own: it outlives the
    /// terminal.
    pub fn from_env() -> Option<Self> {
        std::env::var_os(ENVIRONMENT)?;
        // It fails only for the leader of a process group, which outlives the terminal just as well.
        let _leads_already = rustix::process::setsid();
        Some(Self(()))
    }

    /// What was handed to it; empty if nothing was.
    pub fn secret(&self) -> io::Result<Vec<u8>> {
        let mut secret = Vec::new();
        io::stdin().lock().read_to_end(&mut secret)?;
        Ok(secret)
    }

    /// The mount is there: whoever waits goes on, and this process lets go of what they share.
    pub fn ready(self) -> io::Result<()> {
        say(&Message::Ready)?;
        let nothing = std::fs::OpenOptions::new().read(true).write(true).open("/dev/null")?;
        rustix::stdio::dup2_stdin(&nothing)?;
        rustix::stdio::dup2_stdout(&nothing)?;
        Ok(())
    }

    /// There will be no mount.
    pub fn failed(self, text: &str, code: u8) {
        if let Err(e) = say(&Message::Failed { text: text.into(), code }) {
            tracing::warn!(%e, text, "nobody waits for the mount any more");
        }
    }
}

fn say(message: &Message) -> io::Result<()> {
    let mut line = serde_json::to_vec(message)?;
    line.push(b'\n');
    let mut out = io::stdout().lock();
    out.write_all(&line)?;
    out.flush()
}

/// Whether a mount of this program stands at a place. It is not touched.
pub fn is_mounted(mountpoint: &Path) -> bool {
    let here = mounts::resolve(mountpoint).and_then(|at| mounts::mounted_at(&at));
    here.is_ok_and(|m| m.is_some_and(|m| m.kind == mounts::KIND))
}

/// Where a mount in the background logs unless told otherwise.
pub fn log_path(state: &Path, mountpoint: &Path) -> PathBuf {
    registry::path(state, mountpoint, "log")
}

/// Unmounts what this program has mounted at a directory, and waits until its process has ended, but for
/// [`Unmount::Detach`].
///
/// # Errors
/// `NotMounted`; `Busy` with the processes that use it; `Lingers` when its process goes on.
pub fn umount(mountpoint: &Path, state: &Path, how: Unmount) -> Result<(), MountError> {
    let unusable = |e| MountError::Mountpoint { mountpoint: mountpoint.into(), source: e };
    let at = mounts::resolve(mountpoint).map_err(unusable)?;
    let here = mounts::mounted_at(&at).map_err(unusable)?;
    if here.is_none_or(|m| m.kind != mounts::KIND) {
        return Err(MountError::NotMounted { mountpoint: at });
    }
    let record = registry::find(state, &at);
    let dead = match &record {
        Some(record) => !record.is_running(),
        None => mounts::ask(&at) == mounts::Answer::Dead,
    };
    // Nobody can use a dead one, so nobody keeps it from going.
    take_down(&at, if dead && how == Unmount::IfUnused { Unmount::Detach } else { how })?;
    let Some(record) = record else { return Ok(()) };
    if dead {
        registry::clear(state, &record);
        return Ok(());
    }
    match how {
        Unmount::Detach => Ok(()),
        _ if record.pid == std::process::id() => Ok(()),
        Unmount::IfUnused if has_ended(&record, END) => Ok(()),
        Unmount::IfUnused => Err(MountError::Lingers { mountpoint: at }),
        Unmount::Force => {
            end_by_force(&record).map_err(|e| MountError::Unmount { mountpoint: at, source: e })?;
            registry::clear(state, &record);
            Ok(())
        }
    }
}

/// Takes away what killed mounts have left in a directory where their mountpoints were made, with these.
pub fn sweep(state: &Path, directory: &Path) -> io::Result<()> {
    for record in registry::left_in(state, directory)? {
        if let Err(e) = clear_dead(&record.mountpoint) {
            tracing::warn!(%e, "a mount whose process has gone is still there");
        }
        registry::clear(state, &record);
    }
    Ok(())
}

fn has_ended(record: &Record, patience: Duration) -> bool {
    let begun = Instant::now();
    while record.is_running() {
        if begun.elapsed() > patience {
            return false;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    true
}

/// Waits for a process whose connection is gone, and kills it if it does not end: one that was stopped, or waits for a
/// disk that does not answer.
fn end_by_force(record: &Record) -> io::Result<()> {
    if has_ended(record, END_BY_FORCE) {
        return Ok(());
    }
    let process = i32::try_from(record.pid).ok().and_then(rustix::process::Pid::from_raw);
    let process = process.ok_or(io::ErrorKind::InvalidData)?;
    // The handle stands for the process that has the number now; then that must still be the one meant.
    let handle = rustix::process::pidfd_open(process, rustix::process::PidfdFlags::empty())?;
    if record.is_running() {
        rustix::process::pidfd_send_signal(&handle, rustix::process::Signal::KILL)?;
        has_ended(record, END);
    }
    Ok(())
}

pub(crate) fn make_private(directory: &Path) -> io::Result<()> {
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(directory)
}
