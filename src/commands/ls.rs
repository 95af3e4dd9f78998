//! `plakar ls`.

use std::ffi::OsString;

use plakar_engine::error::is_damage;
use plakar_engine::repository::catalog::Catalog;
use plakar_engine::snapshot::Snapshot;
use plakar_engine::tree::{Detail, Entry, Owners};
use plakar_engine::vfs::Vfs;
use plakar_engine::walk::{Step, Walk};

use super::{find, report_broken, write_snapshot};
use crate::cli::Query;
use crate::context::AppContext;
use crate::exit_code::ExitCode;
use crate::report::{Failure, Report};
use crate::screen::Output;
use crate::{json, text, time};

/// List snapshots, or what is in one
///
/// Snapshots are listed newest first: time (UTC), id, size, how long the backup took, and what was backed up. With a
/// snapshot, its entries: time, permissions, owner, group, size (of a directory: of all files below it) and name.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  plakar ls -since 1w -tag daily\n  plakar ls latest\n  plakar ls -recursive 1093df0c:src"
)]
pub(crate) struct LsArgs {
    /// Show ids in full
    #[arg(long)]
    uuid: bool,
    /// List everything below, with whole paths
    #[arg(long)]
    recursive: bool,
    /// Show tags
    #[arg(long)]
    tags: bool,
    #[command(flatten)]
    query: Query,
    /// The beginning of a snapshot's id or latest, and a path in it
    #[arg(value_name = "SNAPSHOT[:PATH]")]
    snapshot: Option<OsString>,
}

/// Runs it.
pub(crate) async fn run(context: &AppContext, args: LsArgs) -> anyhow::Result<ExitCode> {
    let repository = context.open().await?;
    let catalog = repository.catalog().await?;
    let Some(argument) = &args.snapshot else { return list_snapshots(context, &args, &catalog) };
    let (snapshot, path) = find(argument, &catalog, &args.query.filter().map_err(Failure::new)?)?;
    let vfs = super::vfs(&repository).await?;
    list_entries(context, &args, &vfs, &snapshot, path).await
}

fn list_snapshots(context: &AppContext, args: &LsArgs, catalog: &Catalog) -> anyhow::Result<ExitCode> {
    let mut out = Output::new();
    for s in args.query.filter().map_err(Failure::new)?.select(catalog) {
        match context.json() {
            true => out.json(&json::snapshot(&s))?,
            false => write_snapshot(&mut out, &s, args.uuid, args.tags)?,
        }
    }
    out.flush()?;
    Ok(if report_broken(context, catalog) { ExitCode::Damaged } else { ExitCode::Ok })
}

async fn list_entries(
    context: &AppContext,
    args: &LsArgs,
    vfs: &Vfs,
    snapshot: &Snapshot,
    path: Vec<u8>,
) -> anyhow::Result<ExitCode> {
    let entry = vfs.resolve(snapshot, &path).await?;
    let mut code = ExitCode::Ok;
    let mut is_partial = false;
    let store = context.store_hint();
    let mut failed = |e: plakar_engine::error::Error| {
        let damage = is_damage(&e);
        let report = Report::of(&e.into(), store.as_deref());
        report.print(context.json());
        code = if damage { ExitCode::Damaged } else { report.code };
    };
    // Numbers serve where names cannot be had.
    let owners = vfs.owners(snapshot).await.unwrap_or_else(|e| {
        failed(e);
        Owners::default()
    });
    let mut out = Output::new();
    let mut show = |path: &[u8], name: &[u8], entry: &Entry| match context.json() {
        true => out.json(&json::entry(path, entry, &owners)),
        false => write_entry(&mut out, name, entry, &owners),
    };
    let mut walk = Walk::new(vfs.clone(), entry, path);
    while let Some(step) = walk.next().await {
        match step {
            Step::Enter(_) if walk.depth() == 1 => {}
            Step::Enter(entry) | Step::Entry(entry) => {
                let name = if args.recursive { walk.path() } else { &entry.name };
                show(walk.path(), name, &entry)?;
                if entry.directory().is_some() && !args.recursive {
                    walk.skip();
                }
            }
            Step::Leave(Ok(entry)) if entry.is_partial() && (args.recursive || walk.depth() == 0) => {
                is_partial = true;
                let path = text::printable(walk.path());
                let reason = entry.error.as_deref().unwrap_or("for an unknown reason");
                let message =
                    format!("{path}: not all of it could be listed when it was backed up: {reason}");
                Report::of(&Failure::new(message).into(), store.as_deref()).print(context.json());
            }
            Step::Leave(Ok(_)) => {}
            Step::Leave(Err(e)) | Step::Unreadable(e) => failed(e),
        }
    }
    out.flush()?;
    Ok(if code == ExitCode::Ok && is_partial { ExitCode::CompletedWithErrors } else { code })
}

/// `2025-01-02T03:04:05Z -rw-r--r--     root     root      6 B a.txt`
fn write_entry(out: &mut Output, name: &[u8], e: &Entry, owners: &Owners) -> anyhow::Result<()> {
    let owner = |names: &std::collections::BTreeMap<u32, String>, id: u32| match names.get(&id) {
        Some(name) => text::printable(name.as_bytes()).into_owned(),
        None => id.to_string(),
    };
    let size = match &e.detail {
        Detail::Directory { below, .. } => text::size(below.bytes),
        Detail::Symlink(target) => text::size(target.len() as u64),
        Detail::Special if e.meta.rdev != (0, 0) => format!("{}, {}", e.meta.rdev.0, e.meta.rdev.1),
        _ => text::size(e.meta.size),
    };
    let line = format!(
        "{} {} {:>8} {:>8} {size:>8} ",
        time::show(e.meta.mtime.sec),
        text::mode(&e.meta),
        owner(&owners.users, e.meta.uid),
        owner(&owners.groups, e.meta.gid),
    );
    let mut shown = name.to_vec();
    if let Detail::Symlink(target) = &e.detail {
        shown.extend_from_slice(b" -> ");
        shown.extend_from_slice(target);
    }
    if let Some(error) = &e.error {
        shown.extend_from_slice(format!("  ({error})").as_bytes());
    }
    out.named(line, &shown)
}
