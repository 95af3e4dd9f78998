//! A mount from beginning to end.
//!
//! [`MountSession::start`] returns when the mount answers. It ends by [`MountSession::unmount`], or when somebody
//! unmounts it (`umount`, `fusermount3 -u`); dropping a session does not unmount, and nothing here ever unmounts a
//! mount that is not this session's own. A process that dies leaves a mount that gives errors, not an empty
//! directory: a mirroring job must not take it for one. The next mount at the same place clears it away.

mod error;
mod refresh;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use fuser::SessionACL;
use plakar_engine::repository::Repository;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;

use crate::config::MountConfig;
use crate::daemon::notify;
use crate::fs::SnapshotFs;
use crate::fuse::{Fuse, Pusher};
use crate::mounts;

pub use crate::mounts::{Holder, Unmount};
pub use error::MountError;

/// How long an unmounted connection may take to end.
const END: Duration = Duration::from_secs(10);
/// How long a mount may be busy without anybody to be seen.
const PASSING: Duration = Duration::from_secs(2);
/// What the kernel may read ahead, where it lets us say so.
const READAHEAD_KIB: u32 = 1024;

/// A mount that is being served.
#[derive(Debug)]
pub struct MountSession {
    mountpoint: PathBuf,
    device: (u32, u32),
    fs: Arc<SnapshotFs>,
    /// Becomes `Some` when the connection to the kernel has ended: with an error's text if it should not have.
    ended: watch::Receiver<Option<Result<(), String>>>,
    refresh: tokio::task::JoinHandle<()>,
    signals: Option<Signals>,
}

impl MountSession {
    /// Mounts and serves. When it returns, the mount answers.
    pub async fn start(config: MountConfig, repository: Arc<Repository>) -> Result<Self, MountError> {
        // Before there is a mount: a signal in between would leave it without its process.
        let signals = config.handle_signals.then(|| Signals::listen(config.background)).transpose()?;
        let (wanted, store) = (config.mountpoint.clone(), repository.clone());
        let mountpoint = blocking(move || prepare(&wanted, &store)).await?;
        let location = repository.store().location();
        let options = mounts::Options {
            source: match &config.source {
                Some(name) => mounts::plain_source(name),
                None => mounts::source_name(&location),
            },
            allow_other: config.allow_other,
            no_exec: config.no_exec,
        };
        // Recorded ACLs name recorded users, and know of no mask: with either of these the shown modes alone count.
        let as_recorded = config.fs.uid.is_none() && config.fs.gid.is_none() && config.fs.umask == 0;
        let fs = SnapshotFs::open(repository, config.fs).await?;
        let pusher = Pusher::default();
        let adapter = Fuse::new(fs.clone(), pusher.clone(), config.allow_other && as_recorded);
        let at = mountpoint.clone();
        let connected = blocking(move || {
            let cannot = |e| MountError::Mount { mountpoint: at.clone(), source: e };
            let kernel = mounts::mount(&at, &options).map_err(cannot)?;
            let mut options = fuser::Config::default();
            options.n_threads = Some(config.threads.unwrap_or_else(threads));
            options.clone_fd = mounts::can_open_device();
            // The kernel itself keeps other users out unless told not to; fuser's own check would also turn away
            // requests that the kernel makes in another user's name.
            let session = fuser::Session::from_fd(adapter, kernel, SessionACL::All, options);
            let session = session.and_then(|s| {
                let mounted = mounts::mounted_at(&at)?.filter(|m| m.kind == mounts::KIND);
                let mounted = mounted.ok_or_else(|| io::Error::other("it is not in the table of mounts"))?;
                Ok((s, mounted.device))
            });
            session.map_err(|e| {
                let _the_first_error_counts = mounts::unmount(&at, Unmount::Detach);
                cannot(e)
            })
        });
        let (session, device) = connected.await?;
        mounts::raise_readahead(device, READAHEAD_KIB);
        let notifier = session.notifier();
        if let Err(e) = pusher.start(fs.clone(), notifier.clone()) {
            tracing::warn!(%e, "files are not put into the kernel's cache ahead of their readers");
        }
        let (end, ended) = watch::channel(None);
        let serve = move || {
            let result = session.run().map_err(|e| e.to_string());
            let _nobody_waits = end.send(Some(result));
        };
        let started = std::thread::Builder::new().name("plakar-mount".into()).spawn(serve);
        if let Err(e) = started {
            let _the_first_error_counts = mounts::unmount(&mountpoint, Unmount::Detach);
            return Err(MountError::Mount { mountpoint, source: e });
        }
        let refresh = tokio::spawn(refresh::keep_fresh(fs.clone(), notifier, config.refresh));
        tracing::info!(mountpoint = %mountpoint.display(), "mounted");
        Ok(Self { mountpoint, device, fs, ended, refresh, signals })
    }

    /// Where it is, without symlinks.
    pub fn mountpoint(&self) -> &Path {
        &self.mountpoint
    }

    /// What is served.
    pub fn file_system(&self) -> &Arc<SnapshotFs> {
        &self.fs
    }

    /// Waits until the mount has ended, whoever ended it.
    pub async fn wait(&self) -> Result<(), MountError> {
        let mut ended = self.ended.clone();
        let result = match ended.wait_for(Option::is_some).await {
            Ok(result) => result.clone().unwrap_or(Ok(())),
            Err(_sender_gone) => Err("the thread that served it has failed".into()),
        };
        self.refresh.abort();
        tracing::info!(mountpoint = %self.mountpoint.display(), "the mount has ended");
        result.map_err(|reason| MountError::Connection { mountpoint: self.mountpoint.clone(), reason })
    }

    /// Unmounts this mount, and no other that stands at the same place.
    ///
    /// # Errors
    /// `Busy` with the processes that use it. `Covered` when something else was mounted over it.
    pub async fn unmount(&self, how: Unmount) -> Result<(), MountError> {
        if self.ended.borrow().is_some() {
            return Ok(());
        }
        let (at, device) = (self.mountpoint.clone(), self.device);
        let unmounted = blocking(move || {
            let here: Vec<_> =
                mounts::table().unwrap_or_default().into_iter().filter(|m| m.at == at).collect();
            match here.iter().rposition(|m| m.device == device && m.kind == mounts::KIND) {
                // Somebody has unmounted or moved it.
                None => Ok(false),
                Some(i) if i + 1 == here.len() => take_down(&at, how).map(|()| true),
                Some(_) => Err(MountError::Covered { mountpoint: at }),
            }
        });
        if unmounted.await? && how != Unmount::IfUnused {
            return Ok(());
        }
        let mut ended = self.ended.clone();
        match tokio::time::timeout(END, ended.wait_for(Option::is_some)).await {
            Ok(_) => Ok(()),
            Err(_elapsed) => Err(MountError::Lingers { mountpoint: self.mountpoint.clone() }),
        }
    }

    /// Serves until the mount ends or, where signals are handled, the process is asked to stop. SIGINT, SIGTERM or, in
    /// the foreground, SIGHUP unmounts; while somebody uses the mount it stays, `tell` learns who, and a second signal
    /// detaches it. A third one gives up whoever still has files open.
    pub async fn serve(mut self, tell: impl Fn(&MountError)) -> Result<(), MountError> {
        let Some(mut signals) = self.signals.take() else { return self.wait().await };
        for how in [Unmount::IfUnused, Unmount::Detach] {
            tokio::select! {
                result = self.wait() => return result,
                () = signals.next() => {}
            }
            notify::stopping();
            if let Err(e) = self.unmount(how).await {
                tracing::warn!(error = %e, "not unmounted");
                tell(&e);
            }
        }
        tokio::select! {
            result = self.wait() => result,
            () = signals.next() => Ok(()),
        }
    }
}

/// The signals that ask the process to stop.
#[derive(Debug)]
struct Signals {
    interrupt: Signal,
    terminate: Signal,
    hangup: Signal,
    /// A terminal that goes is nothing to a mount in the background, but the signal has to be taken: left alone it
    /// would end the process.
    background: bool,
}

impl Signals {
    fn listen(background: bool) -> Result<Self, MountError> {
        let listen = |kind| signal(kind).map_err(|source| MountError::Signals { source });
        Ok(Self {
            interrupt: listen(SignalKind::interrupt())?,
            terminate: listen(SignalKind::terminate())?,
            hangup: listen(SignalKind::hangup())?,
            background,
        })
    }

    async fn next(&mut self) {
        loop {
            tokio::select! {
                _ = self.interrupt.recv() => return,
                _ = self.terminate.recv() => return,
                _ = self.hangup.recv() => {
                    if !self.background {
                        return;
                    }
                }
            }
        }
    }
}

/// Threads that take requests. More than the processors, since some wait for the kernel.
fn threads() -> usize {
    std::thread::available_parallelism().map_or(2, |n| (n.get() + 2).min(4))
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, MountError> + Send + 'static,
) -> Result<T, MountError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(e) => Err(MountError::Signals { source: io::Error::other(e) }),
    }
}

/// Unmounts what is on top; a busy one says who holds it.
pub(crate) fn take_down(at: &Path, how: Unmount) -> Result<(), MountError> {
    let begun = std::time::Instant::now();
    loop {
        match mounts::unmount(at, how) {
            Err(e) if e.kind() == io::ErrorKind::ResourceBusy => {}
            done => return done.map_err(|e| MountError::Unmount { mountpoint: at.into(), source: e }),
        }
        let holders = mounts::holders(at);
        // Somebody who only looks something up has it busy for a moment, and is gone when one asks who it was.
        if !holders.is_empty() || begun.elapsed() > PASSING {
            return Err(MountError::Busy { mountpoint: at.into(), holders });
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Makes sure that the place can be mounted on; gives it without symlinks.
fn prepare(wanted: &Path, repository: &Repository) -> Result<PathBuf, MountError> {
    let unusable = |e| MountError::Mountpoint { mountpoint: wanted.into(), source: e };
    let mountpoint = mounts::resolve(wanted).map_err(unusable)?;
    // Several, where they were mounted over each other.
    while mounts::mounted_at(&mountpoint).map_err(unusable)?.is_some_and(|m| m.kind == mounts::KIND) {
        if mounts::ask(&mountpoint) != mounts::Answer::Dead {
            return Err(MountError::AlreadyMounted { mountpoint });
        }
        // Its process died; nobody else will clear it away.
        tracing::warn!(mountpoint = %mountpoint.display(), "clearing away a mount whose process has died");
        take_down(&mountpoint, Unmount::Detach)?;
    }
    if !std::fs::metadata(&mountpoint).map_err(unusable)?.is_dir() {
        return Err(unusable(io::ErrorKind::NotADirectory.into()));
    }
    // A store under its own mount would wait for itself, in the kernel, for ever.
    let cache = repository.cache().directory();
    for place in repository.store().local_path().into_iter().chain([cache]) {
        let place = place.canonicalize().unwrap_or_else(|_| place.to_owned());
        if mounts::lies_in(&mountpoint, &place) || mounts::lies_in(&place, &mountpoint) {
            return Err(MountError::Overlap { mountpoint, place });
        }
    }
    Ok(mountpoint)
}
