//! The local file system as store, source and destination.
//!
//! The store is plain files and needs nothing special. Source and destination work by directory handles: each step
//! is one name relative to an open directory and never follows a symlink, so that paths may be of any length, a
//! directory renamed meanwhile changes nothing, and a symlink planted in a destination leads nowhere.
//!
//! Source and destination use what only Linux has (`getdents64`, `O_PATH`, `/proc/self/fd`).

mod exporter;
mod flags;
mod importer;
mod stat;
mod store;
mod xattr;

use std::sync::Once;

use rustix::process::{Resource, getrlimit, setrlimit};

pub use exporter::{FsExportOptions, FsExporter};
pub use importer::{FsImportOptions, FsImporter};
pub use store::FsStore;

/// Lets the process open as many files as the system allows: the usual soft limit of 1024 is for programs that use
/// `select`, and a backup keeps a handle for each directory under way.
fn raise_open_files_limit() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let mut limit = getrlimit(Resource::Nofile);
        if limit.current != limit.maximum {
            limit.current = limit.maximum;
            if let Err(e) = setrlimit(Resource::Nofile, limit) {
                tracing::debug!("the limit of open files stays: {e}");
            }
        }
    });
}
