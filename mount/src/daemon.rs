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
//! Mounts that run are registered as `<state>/mounts/<hash of the mountpoint>.json`; a record whose process has gone
//! means nothing and is removed when it is met.

mod registry;

use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::mounts;
use crate::session::{MountError, Unmount, take_down};

pub use registry::{Record, Registration, list};

/// Tells a process that it is the one in the background.
const ENVIRONMENT: &str = "PLAKAR_MOUNT_IN_BACKGROUND";
/// How long an unmounted process may take to end.
const END: Duration = Duration::from_secs(15);

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

/// Runs a command, which mounts, in the background. Returns its process when it is ready.
///
/// The command is the current program with the arguments that mount in the foreground; `secret` is handed to it on
/// its standard input. What it logs goes to [`log_path`].
pub fn start(
    mut command: Command,
    secret: Option<&[u8]>,
    mountpoint: &Path,
    state: &Path,
) -> Result<u32, StartError> {
    let log = log_path(state, mountpoint);
    make_private(&registry::directory(state))?;
    let log_file = std::fs::OpenOptions::new().create(true).append(true).mode(0o600).open(&log)?;
    // Frames pass through many threads; with a heap for each, glibc holds back as much again as the caches hold.
    command.env("MALLOC_ARENA_MAX", "2");
    command.env(ENVIRONMENT, "1").stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(log_file);
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
            Err(StartError::Died { log })
        }
    }
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

/// Where a mount in the background logs.
pub fn log_path(state: &Path, mountpoint: &Path) -> PathBuf {
    registry::path(state, mountpoint, "log")
}

/// Unmounts what this program has mounted at a directory, and waits until its process has ended.
///
/// # Errors
/// `NotMounted`; `Busy` with the processes that use it.
pub fn umount(mountpoint: &Path, state: &Path, how: Unmount) -> Result<(), MountError> {
    let unusable = |e| MountError::Mountpoint { mountpoint: mountpoint.into(), source: e };
    let at = mounts::resolve(mountpoint).map_err(unusable)?;
    let here = mounts::mounted_at(&at).map_err(unusable)?;
    if here.is_none_or(|m| m.kind != mounts::KIND) {
        return Err(MountError::NotMounted { mountpoint: at });
    }
    let record = registry::read(state, &at);
    take_down(&at, how)?;
    let Some(record) = record.filter(|_| how == Unmount::IfUnused) else { return Ok(()) };
    let begun = Instant::now();
    while record.is_running() && record.pid != std::process::id() {
        if begun.elapsed() > END {
            return Err(MountError::Lingers { mountpoint: at });
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

pub(crate) fn make_private(directory: &Path) -> io::Result<()> {
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(directory)
}
