//! Work that waits for files or computes, on threads of its own.

use crate::error::{Error, Result};

/// Runs it off the async threads.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    tokio::task::spawn_blocking(work).await.unwrap_or(Err(Error::Bug("a worker ended early")))
}
