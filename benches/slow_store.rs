//! Mounts a store as if it were far away: each request waits, and all share a line that carries only so much.
//!
//! For `benches/mount` and `benches/soak`. It prints a line when it is mounted, answers each line on its standard input
//! with a line of gauges as JSON, and ends when it is unmounted or asked to stop. `PLAKAR_PASSPHRASE` opens the store.

#![expect(clippy::print_stdout, reason = "that is how it speaks")]

use std::io::BufRead;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Context;
use async_trait::async_trait;
use bytes::Bytes;
use clap::Parser;
use plakar_connectors::fs::FsStore;
use plakar_engine::cache::LocalDirs;
use plakar_engine::keyslot::UserSecret;
use plakar_engine::repository::{Probe, Repository};
use plakar_engine::storage::{Area, Listed, ObjectName, PutObject, Store, StoreError};
use plakar_mount::{MountConfig, MountSession};
use tokio::time::Instant;

/// Mounts a store behind set latency and bandwidth.
#[derive(Debug, Parser)]
struct Options {
    /// The store's directory.
    store: PathBuf,
    /// Where to mount it.
    mountpoint: PathBuf,
    /// Each request waits so many milliseconds.
    #[arg(long, default_value_t = 0)]
    latency: u64,
    /// All requests together carry so many MB in a second; 0: as many as they can.
    #[arg(long, default_value_t = 0)]
    bandwidth: u64,
    /// Where local caches are kept.
    #[arg(long)]
    cache: PathBuf,
}

/// A store behind a line.
#[derive(Debug)]
struct SlowStore {
    below: FsStore,
    latency: Duration,
    bytes_per_second: u64,
    /// When the line has carried what was put on it.
    free: Mutex<Instant>,
    requests: AtomicU64,
    bytes: AtomicU64,
}

impl SlowStore {
    /// Waits as long as a request takes that carries so many bytes.
    async fn carry(&self, bytes: u64) {
        self.requests.fetch_add(1, Ordering::Relaxed);
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
        if !self.latency.is_zero() {
            tokio::time::sleep(self.latency).await;
        }
        if self.bytes_per_second > 0 {
            let takes = Duration::from_secs_f64(bytes as f64 / self.bytes_per_second as f64);
            let done = {
                let mut free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
                *free = (*free).max(Instant::now()) + takes;
                *free
            };
            tokio::time::sleep_until(done).await;
        }
    }
}

#[async_trait]
impl Store for SlowStore {
    fn location(&self) -> String {
        self.below.location()
    }

    fn local_path(&self) -> Option<&Path> {
        self.below.local_path()
    }

    async fn prepare(&self) -> Result<(), StoreError> {
        self.below.prepare().await
    }

    async fn list(&self, area: Area) -> Result<Vec<Listed>, StoreError> {
        let listed = self.below.list(area).await?;
        // As much as a line of a listing takes.
        self.carry(listed.len() as u64 * 200).await;
        Ok(listed)
    }

    async fn get(&self, name: ObjectName, range: Option<Range<u64>>) -> Result<Bytes, StoreError> {
        let bytes = self.below.get(name, range).await?;
        self.carry(bytes.len() as u64).await;
        Ok(bytes)
    }

    async fn stat(&self, name: ObjectName) -> Result<Listed, StoreError> {
        self.carry(0).await;
        self.below.stat(name).await
    }

    async fn put(&self, name: ObjectName) -> Result<Box<dyn PutObject>, StoreError> {
        self.below.put(name).await
    }

    async fn delete(&self, name: ObjectName) -> Result<(), StoreError> {
        self.below.delete(name).await
    }
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let options = Options::parse();
    let slow = Arc::new(SlowStore {
        below: FsStore::new(options.store),
        latency: Duration::from_millis(options.latency),
        bytes_per_second: options.bandwidth * 1_000_000,
        free: Mutex::new(Instant::now()),
        requests: AtomicU64::new(0),
        bytes: AtomicU64::new(0),
    });
    let store: Arc<dyn Store> = slow.clone();
    let probe = Probe::read(&store).await.context("cannot read the store")?;
    let secret = match probe.needs_secret() {
        true => {
            let passphrase = std::env::var("PLAKAR_PASSPHRASE").context("set PLAKAR_PASSPHRASE")?;
            Some(UserSecret::passphrase(passphrase.as_bytes()))
        }
        false => None,
    };
    let dirs = LocalDirs { cache: options.cache.join("cache"), state: options.cache.join("state") };
    let repository = Repository::open(store, probe, secret, &dirs).await.context("cannot open the store")?;
    let session = MountSession::start(MountConfig::new(options.mountpoint), repository).await?;
    println!("mounted {}", session.mountpoint().display());

    let fs = session.file_system().clone();
    std::thread::spawn(move || {
        for _asked in std::io::stdin().lock().lines().map_while(Result::ok) {
            let gauges = serde_json::json!({
                "held_inodes": fs.held_inodes(),
                "loads": fs.frames().counts().under_way,
                "requests": slow.requests.load(Ordering::Relaxed),
                "bytes": slow.bytes.load(Ordering::Relaxed),
            });
            println!("{gauges}");
        }
    });
    session.serve(|e| println!("{e}")).await?;
    // The thread at the standard input may wait for ever.
    std::process::exit(0)
}
