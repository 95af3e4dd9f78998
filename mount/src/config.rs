//! What to mount and how. The command line fills this from its options; nothing here knows a kernel.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use plakar_engine::id::ObjectId;
use plakar_engine::snapshot::Snapshot;

/// Memory for caches unless said otherwise. The process takes that and about 70 MiB: for decoding, for the
/// inodes of the kernel's source, and for what the allocator holds back; below 150 MiB in all.
pub const DEFAULT_CACHE_BYTES: u64 = 56 << 20;
/// How long a request may wait for the store unless said otherwise.
pub const DEFAULT_DEADLINE: Duration = Duration::from_secs(15);

/// What the root of the mount is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum What {
    /// All snapshots, in views.
    Store,
    /// A directory of one snapshot.
    Snapshot {
        /// The snapshot.
        snapshot: ObjectId,
        /// The directory, from the recorded `/`; `None` is what was backed up.
        path: Option<Vec<u8>>,
    },
}

/// Decides which snapshots are shown.
#[derive(Clone)]
pub struct Filter(Arc<dyn Fn(&Snapshot) -> bool + Send + Sync>);

impl Filter {
    /// Shows those for which `shows` says so.
    pub fn new(shows: impl Fn(&Snapshot) -> bool + Send + Sync + 'static) -> Self {
        Self(Arc::new(shows))
    }

    /// Shows everything.
    pub fn all() -> Self {
        Self::new(|_| true)
    }

    /// Whether a snapshot is shown.
    pub fn shows(&self, snapshot: &Snapshot) -> bool {
        (self.0)(snapshot)
    }
}

impl fmt::Debug for Filter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Filter")
    }
}

/// Who owns what is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Owner {
    /// The numbers that were recorded.
    Recorded,
    /// The user who mounts.
    Mounter,
    /// These user and group numbers.
    Ids(u32, u32),
}

/// Whether extended attributes are shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Xattrs {
    /// If any shown snapshot has one. Where none has, the kernel is told once and asks no more, which halves the
    /// messages of a copy.
    Auto,
    /// Always.
    On,
    /// Never.
    Off,
}

/// How snapshots are shown, whatever the kernel interface.
#[derive(Clone, Debug)]
pub struct FsConfig {
    /// What the root is.
    pub what: What,
    /// Which snapshots are shown, when it is the store.
    pub filter: Filter,
    /// Choose by time among the snapshots that can be read, though one that cannot might be what is meant.
    pub skip_damaged: bool,
    /// Who owns things.
    pub owner: Owner,
    /// The one user that everything belongs to, whatever `owner` says.
    pub uid: Option<u32>,
    /// The one group that everything belongs to, whatever `owner` says.
    pub gid: Option<u32>,
    /// Permission bits that nothing has.
    pub umask: u32,
    /// Extended attributes.
    pub xattrs: Xattrs,
    /// Memory for clear frames and decoded directories.
    pub cache_bytes: u64,
    /// Disk for frames as they are stored, shared with whoever else uses the same store here; `None`: as much as the
    /// engine takes for best, zero: none.
    pub disk_cache_bytes: Option<u64>,
    /// Longest wait for the store; then the request fails.
    pub deadline: Duration,
}

impl Default for FsConfig {
    fn default() -> Self {
        Self {
            what: What::Store,
            filter: Filter::all(),
            skip_damaged: false,
            owner: Owner::Recorded,
            uid: None,
            gid: None,
            umask: 0,
            xattrs: Xattrs::Auto,
            cache_bytes: DEFAULT_CACHE_BYTES,
            disk_cache_bytes: None,
            deadline: DEFAULT_DEADLINE,
        }
    }
}

/// A mount.
#[derive(Clone, Debug)]
pub struct MountConfig {
    /// Where.
    pub mountpoint: PathBuf,
    /// What and how.
    pub fs: FsConfig,
    /// Whether other users may look; the kernel then checks modes and ACLs.
    pub allow_other: bool,
    /// How often the store is asked for new snapshots; `None`: each second where it is on this machine, else every
    /// ten. Zero: never.
    pub refresh: Option<Duration>,
    /// Whether programs in it cannot be run.
    pub no_exec: bool,
    /// The name that the system shows as its source, where the store's own will not do.
    pub source: Option<String>,
    /// Whether SIGINT, SIGTERM and SIGHUP are this mount's, from before it is mounted; see
    /// [`MountSession::serve`](crate::MountSession::serve).
    pub handle_signals: bool,
    /// Whether it outlives its terminal: SIGHUP is then taken and means nothing.
    pub background: bool,
    /// Threads that take the kernel's requests; `None`: as many as are useful here.
    pub threads: Option<usize>,
}

impl MountConfig {
    /// All snapshots of a store at `mountpoint`, with the defaults.
    pub fn new(mountpoint: impl Into<PathBuf>) -> Self {
        Self {
            mountpoint: mountpoint.into(),
            fs: FsConfig::default(),
            allow_other: false,
            refresh: None,
            no_exec: false,
            source: None,
            handle_signals: true,
            background: false,
            threads: None,
        }
    }
}
