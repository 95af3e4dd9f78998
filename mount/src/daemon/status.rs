//! How a running mount is: its process says so at a socket, one JSON object on a line for each who asks.
//!
//! The socket lies in a directory that only its user may enter. It is served by a thread of its own, so that a mount
//! whose other threads all wait for a store still answers.

use std::fs::{File, Permissions};
use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::fd::AsRawFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::fs::SnapshotFs;

/// How long who asks waits for the whole answer.
const PATIENCE: Duration = Duration::from_secs(2);
/// The longest answer.
const LONGEST: u64 = 1 << 20;

/// How a filesystem is, in numbers: the one place where that object is made. It is that of `.plakar/statistics.json`.
pub fn of(fs: &SnapshotFs) -> Value {
    json!(fs.status())
}

/// Answers until it is dropped.
#[derive(Debug)]
pub(super) struct Service(Arc<UnixListener>);

/// Begins to answer at a socket, in place of what stands there.
pub(super) fn serve(at: &Path, status: impl Fn() -> Value + Send + 'static) -> io::Result<Service> {
    match std::fs::remove_file(at) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
        _ => {}
    }
    let (_directory, short) = short(at)?;
    let listener = Arc::new(UnixListener::bind(short)?);
    std::fs::set_permissions(at, Permissions::from_mode(0o600))?;
    let accepts = listener.clone();
    let answer = move || {
        for asker in accepts.incoming() {
            let Ok(mut asker) = asker else { return };
            let mut line = status().to_string();
            line.push('\n');
            // Who does not read must not keep the next one waiting.
            let _ = asker.set_write_timeout(Some(PATIENCE)).and_then(|()| asker.write_all(line.as_bytes()));
        }
    };
    std::thread::Builder::new().name("plakar-status".into()).spawn(answer)?;
    Ok(Service(listener))
}

impl Drop for Service {
    fn drop(&mut self) {
        // Its thread waits in `accept`, which this ends.
        let _ = rustix::net::shutdown(&self.0, rustix::net::Shutdown::Both);
    }
}

/// Asks at a socket.
///
/// # Errors
/// Nobody is there, or nothing sensible is said in time.
pub(super) fn ask(at: &Path) -> io::Result<Value> {
    let (_directory, short) = short(at)?;
    let mut stream = UnixStream::connect(short)?;
    stream.shutdown(Shutdown::Write)?;
    let until = Instant::now() + PATIENCE;
    let mut said = Vec::new();
    let mut part = [0; 4096];
    while said.len() as u64 <= LONGEST {
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        stream.set_read_timeout(Some(left))?;
        match stream.read(&mut part)? {
            0 => return Ok(serde_json::from_slice(&said)?),
            n => said.extend_from_slice(&part[..n]),
        }
    }
    Err(io::ErrorKind::FileTooLarge.into())
}

/// The same place by a short path, which holds as long as the directory is open: a socket's own path may have no more
/// than 107 bytes.
fn short(at: &Path) -> io::Result<(File, PathBuf)> {
    let (Some(directory), Some(name)) = (at.parent(), at.file_name()) else {
        return Err(io::ErrorKind::InvalidInput.into());
    };
    let directory = File::open(directory)?;
    let path = Path::new("/proc/self/fd").join(directory.as_raw_fd().to_string()).join(name);
    Ok((directory, path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everybody_who_asks_gets_an_answer_of_his_own() {
        let place = tempfile::tempdir().unwrap();
        // Longer than a socket's path may be.
        let deep = place.path().join("x".repeat(100)).join("y".repeat(100));
        std::fs::create_dir_all(&deep).unwrap();
        let at = deep.join("a.sock");
        let asked = std::sync::atomic::AtomicU64::new(0);
        let count = move || json!({ "n": asked.fetch_add(1, std::sync::atomic::Ordering::Relaxed) });
        let service = serve(&at, count).unwrap();
        assert_eq!(at.metadata().unwrap().permissions().mode() & 0o777, 0o600);
        for n in 0..3 {
            assert_eq!(ask(&at).unwrap(), json!({ "n": n }));
        }
        // One that came to a bad end has left its socket.
        drop(service);
        assert!(ask(&at).is_err());
        let _service = serve(&at, || json!({})).unwrap();
        assert_eq!(ask(&at).unwrap(), json!({}));
    }

    #[test]
    fn one_that_does_not_answer_is_not_waited_for() {
        let place = tempfile::tempdir().unwrap();
        let at = place.path().join("a.sock");
        // It listens and never accepts.
        let _listener = UnixListener::bind(&at).unwrap();
        let e = ask(&at).unwrap_err();
        assert!(matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut), "{e}");
        assert!(ask(&place.path().join("b.sock")).is_err());
    }
}
