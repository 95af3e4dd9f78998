//! `plakar cache`.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Context;
use plakar_engine::cache::{FRAMES, LOCATION};
use serde_json::json;

use crate::context::AppContext;
use crate::exit_code::ExitCode;
use crate::report::Failure;
use crate::screen::Output;
use crate::text;

/// Show or clear what is cached on this machine
///
/// For each store there are its index, its list of snapshots, what tells which files have not changed, and, of stores
/// that are far away, what was read last, still encrypted. All of it is made again from the store when it is missing;
/// the next backup then reads every file once.
#[derive(Debug, clap::Args)]
pub(crate) struct CacheArgs {
    #[command(subcommand)]
    action: Option<Action>,
}

#[derive(Debug, clap::Subcommand)]
enum Action {
    Clear(ClearArgs),
}

/// Throw away what is cached of some stores, or of all
#[derive(Debug, clap::Args)]
struct ClearArgs {
    /// Do it
    #[arg(long)]
    apply: bool,
    /// Only what was read last
    #[arg(long)]
    frames: bool,
    /// The beginning of a store's id, as `plakar cache` shows it; without any, all
    #[arg(value_name = "STORE-ID")]
    stores: Vec<String>,
}

/// The cache of one store.
#[derive(Debug)]
struct Cached {
    id: String,
    /// Where the store was when it was last used.
    location: Option<String>,
    path: PathBuf,
    bytes: u64,
    /// Of them, frames.
    frame_bytes: u64,
}

/// Runs it.
pub(crate) fn run(context: &AppContext, args: CacheArgs) -> anyhow::Result<ExitCode> {
    let directory = context.cache_directory()?;
    let mut cached = list(&directory)?;
    let (mut clear, mut apply, mut frames) = (false, false, false);
    if let Some(Action::Clear(args)) = &args.action {
        (clear, apply, frames) = (true, args.apply, args.frames);
        if let Some(unknown) = args.stores.iter().find(|p| !cached.iter().any(|c| c.id.starts_with(*p))) {
            let failure = Failure::new(format!("nothing is cached of a store {unknown}"));
            return Err(failure.with_hint("`plakar cache` shows what there is").into());
        }
        cached.retain(|c| args.stores.is_empty() || args.stores.iter().any(|p| c.id.starts_with(p)));
    }
    if apply {
        for c in &cached {
            let path = if frames { c.path.join(FRAMES) } else { c.path.clone() };
            match fs::remove_dir_all(&path) {
                Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                    return Err(e).with_context(|| format!("cannot clear {}", path.display()));
                }
                _ => {}
            }
        }
    }
    let total: u64 = cached.iter().map(|c| if frames { c.frame_bytes } else { c.bytes }).sum();
    let mut out = Output::new();
    if context.json() {
        let stores: Vec<_> = cached
            .iter()
            .map(|c| json!({ "store_id": c.id, "location": c.location, "path": c.path.to_string_lossy(), "bytes": c.bytes, "frame_bytes": c.frame_bytes }))
            .collect();
        out.json(&json!({ "type": "summary", "command": "cache", "directory": directory.to_string_lossy(), "bytes": total, "stores": stores, "cleared": apply }))?;
    } else {
        for c in &cached {
            let frames = match c.frame_bytes {
                0 => String::new(),
                n => format!(", {} of it frames", text::size(n)),
            };
            let location = c.location.as_deref().unwrap_or_default();
            let line = format!("{} {:>10}{frames} ", c.id, text::size(c.bytes));
            out.named(line, location.as_bytes())?;
        }
        let (n, size) = (text::counted(cached.len() as u64, "store"), text::size(total));
        match (clear, apply) {
            (false, _) => out.line(format_args!("{size} for {n} in {}", directory.display()))?,
            (true, true) => out.line(format_args!("cache: cleared {size} of {n}"))?,
            (true, false) => {
                out.line(format_args!("cache: would clear {size} of {n}, run with -apply to proceed"))?;
            }
        }
    }
    out.flush()?;
    Ok(ExitCode::Ok)
}

/// What is cached: directories named by store ids, below one for each version of the layout. Nothing else is touched.
fn list(directory: &Path) -> anyhow::Result<Vec<Cached>> {
    let mut cached = Vec::new();
    for version in entries(directory)? {
        let name = version.file_name().to_string_lossy().into_owned();
        let is_version = name.strip_prefix('v').is_some_and(|n| n.parse::<u32>().is_ok());
        if !is_version || !version.file_type()?.is_dir() {
            continue;
        }
        for store in entries(&version.path())? {
            let id = store.file_name().to_string_lossy().into_owned();
            let is_id = id.len() == 36 && id.bytes().all(|b| b.is_ascii_hexdigit() || b == b'-');
            if is_id && store.file_type()?.is_dir() {
                let path = store.path();
                let (bytes, frame_bytes) = (size_of(&path), size_of(&path.join(FRAMES)));
                let location = fs::read_to_string(path.join(LOCATION)).ok();
                cached.push(Cached { id, location, path, bytes, frame_bytes });
            }
        }
    }
    cached.sort_by(|a, b| b.bytes.cmp(&a.bytes).then_with(|| a.id.cmp(&b.id)));
    Ok(cached)
}

fn entries(directory: &Path) -> anyhow::Result<Vec<fs::DirEntry>> {
    let what = || format!("cannot list {}", directory.display());
    match fs::read_dir(directory) {
        Ok(entries) => entries.collect::<Result<_, _>>().with_context(what),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(e) => Err(e).with_context(what),
    }
}

/// Bytes of all files below; what goes meanwhile counts nothing.
fn size_of(directory: &Path) -> u64 {
    let Ok(entries) = fs::read_dir(directory) else { return 0 };
    let size = |e: fs::DirEntry| match e.metadata() {
        Ok(m) if m.is_dir() => size_of(&e.path()),
        Ok(m) => m.len(),
        Err(_) => 0,
    };
    entries.flatten().map(size).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_plakar_cached_is_seen() {
        let root = std::env::temp_dir().join(format!("plakar-cache-test-{}", std::process::id()));
        let store = root.join("v1/00112233-4455-6677-8899-aabbccddeeff/index");
        fs::create_dir_all(&store).unwrap();
        fs::create_dir_all(root.join("v1/other")).unwrap();
        fs::create_dir_all(root.join("precious/00112233-4455-6677-8899-aabbccddeeff")).unwrap();
        fs::write(store.join("a"), [0; 100]).unwrap();
        fs::create_dir_all(store.join("../frames/ab")).unwrap();
        fs::write(store.join("../frames/ab/c"), [0; 30]).unwrap();
        let found = list(&root).unwrap();
        fs::remove_dir_all(&root).unwrap();
        assert_eq!(found.iter().map(|c| (c.bytes, c.frame_bytes)).collect::<Vec<_>>(), [(130, 30)]);
        assert!(list(&root).unwrap().is_empty());
    }
}
