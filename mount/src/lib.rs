//! Snapshots as a read-only filesystem.
//!
//! ```text
//! kernel ── READ(ino, offset, len)
//!   └ fuse        a hit is answered on the thread that took the request; a miss goes to the runtime
//!      (http: the same for browsers and WebDAV clients, by path)
//!      └ fs       SnapshotFs: inode → entry of a directory → bytes; knows no kernel
//!         ├ view          names at the root: snapshots/, latest, hosts/ …
//!         ├ fs::inodes    numbers, lookup counts, forget; places, from which fs::dirs makes directories
//!         ├ fs::folders   decoded directories
//!         ├ readahead     reading on and on → frames before they are asked for
//!         └ engine::Vfs   extents → blobs → frames
//!            └ cache      clear frames in memory, one load for each, metadata apart from data
//!               └ engine::Repository   locate, merge into ranges, fetch, open, decompress
//!   ◄ bytes, or FsError → errno, by one table
//! ```
//!
//! Nothing below a snapshot ever changes, so the kernel may keep all of it. Only the views at the root change.
//! [`session`] mounts and unmounts, [`daemon`] does so in the background, [`http`] serves without a kernel.

mod activity;
pub mod cache;
pub mod config;
#[cfg(target_os = "linux")]
pub mod daemon;
pub mod error;
pub mod fs;
#[cfg(target_os = "linux")]
mod fuse;
pub mod http;
#[cfg(target_os = "linux")]
mod mounts;
mod readahead;
mod refresh;
#[cfg(target_os = "linux")]
pub mod session;
pub mod view;
pub mod words;

pub use config::{Filter, MountConfig, Owner, What, Xattrs};
pub use error::FsError;
pub use fs::SnapshotFs;
#[cfg(target_os = "linux")]
pub use session::{MountError, MountSession, Unmount};
