//! `plakar sync`.

use std::ffi::{OsStr, OsString};
use std::path::PathBuf;
use std::sync::Arc;

use plakar_engine::cancel::Cancel;
use plakar_engine::error::{Error, ErrorKind};
use plakar_engine::ops::check::{Depth, Scope, check};
use plakar_engine::ops::sync::{SyncReport, missing, sync};
use plakar_engine::repository::Repository;
use plakar_engine::select::Filter;
use plakar_engine::snapshot::Snapshot;
use serde_json::json;

use super::{find_whole, host_name, report_broken, snapshot_line};
use crate::cli::Query;
use crate::context::AppContext;
use crate::exit_code::ExitCode;
use crate::progress::{Bar, Progress};
use crate::report::Failure;
use crate::screen::{self, Output};
use crate::{secret, text};

/// Copy snapshots to another store, from it, or both ways
///
/// What the other store lacks is copied, and of that only what is not there in another snapshot. A copy has an id of its own
/// and knows what it is a copy of: it is not copied again, nor back. Between stores that share their keys (`plakar create
/// -clone-keys-from`) stored data is copied as it is; otherwise it is encrypted anew, cut where it is cut now: the other
/// store's own backups of the same files are cut elsewhere and share little with it. Interrupted, it goes on the next time.
/// A snapshot that cannot be copied whole is named and not copied at all; the exit code is 65 then.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  plakar sync to @offsite\n  plakar at @nas sync -since 1w -tag daily to /mnt/usb/backups\n  plakar sync 1093df0c with @offsite"
)]
pub(crate) struct SyncArgs {
    /// List what would be copied, and copy nothing
    #[arg(long)]
    dry_run: bool,
    /// Check the copies at once, reading all their data
    #[arg(long)]
    check: bool,
    /// Show no progress
    #[arg(long)]
    no_progress: bool,
    /// The key file of the other store, or a file with its passphrase
    #[arg(long, value_name = "FILE", conflicts_with = "peer_passphrase_cmd")]
    peer_keyfile: Option<PathBuf>,
    /// A command that prints the passphrase of the other store
    #[arg(long, value_name = "COMMAND")]
    peer_passphrase_cmd: Option<OsString>,
    /// Taken for the sake of scripts: what is unchanged is known without it
    #[arg(long, value_name = "CACHE", hide = true)]
    cache: Option<OsString>,
    /// Taken for the sake of scripts: packfiles go straight to the store
    #[arg(long, value_name = "WHERE", hide = true)]
    packfiles: Option<OsString>,
    #[command(flatten)]
    query: Query,
    /// Snapshots, by default all that fit; then to, from, or with; then the other store: a place or @NAME
    #[arg(value_name = "[SNAPSHOT...] to|from|with STORE", required = true, num_args = 1..)]
    words: Vec<OsString>,
}

/// Which way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Direction {
    To,
    From,
    With,
}

/// Takes the words apart.
fn parts(words: &[OsString]) -> Result<(&[OsString], Direction, &OsStr), Failure> {
    let wrong = |text: &str| Failure::usage(text, Some(&["sync".into()]));
    let [snapshots @ .., direction, peer] = words else {
        return Err(wrong("sync needs to, from or with, and the other store"));
    };
    let direction = match direction.to_str() {
        Some("to") => Direction::To,
        Some("from") => Direction::From,
        Some("with") => Direction::With,
        _ => return Err(wrong("before the other store stands to, from or with")),
    };
    Ok((snapshots, direction, peer))
}

/// Runs it.
pub(crate) async fn run(context: &AppContext, args: SyncArgs) -> anyhow::Result<ExitCode> {
    let (named, direction, peer) = parts(&args.words)?;
    let filter = args.query.filter().map_err(Failure::new)?;
    let given = match (&args.peer_keyfile, &args.peer_passphrase_cmd) {
        (Some(file), _) => Some(secret::from_file(file)?),
        (None, Some(command)) => Some(secret::from_command(command)?),
        (None, None) => None,
    };
    let (own, own_secret) = context.open_with_secret().await?;
    let peer = context.open_peer(peer, given, own_secret).await?;
    let cancel = super::cancel_on_signals("what was copied is kept, and the next sync goes on from there")?;
    let ways = match direction {
        Direction::To => vec![(&own, &peer)],
        Direction::From => vec![(&peer, &own)],
        Direction::With => vec![(&own, &peer), (&peer, &own)],
    };
    let mut code = ExitCode::Ok;
    for (from, to) in ways {
        let done = Box::pin(one_way(context, &args, from, to, (named, &filter), &cancel)).await?;
        code = if done == ExitCode::Ok { code } else { done };
    }
    Ok(code)
}

async fn one_way(
    context: &AppContext,
    args: &SyncArgs,
    from: &Arc<Repository>,
    to: &Arc<Repository>,
    (named, filter): (&[OsString], &Filter),
    cancel: &Cancel,
) -> anyhow::Result<ExitCode> {
    let catalog = from.catalog().await?;
    let mut chosen: Vec<Arc<Snapshot>> = Vec::new();
    for argument in named {
        chosen.push(find_whole(argument, &catalog, filter, "sync")?);
    }
    if named.is_empty() {
        chosen = filter.select(&catalog);
    }
    // Of those that cannot be read nobody knows whether they were meant.
    let broken = named.is_empty() && report_broken(context, &catalog);
    let bar = if args.no_progress || args.dry_run { Bar::Unwanted } else { Bar::Wanted };
    let progress = Progress::begin(context, "sync", bar, false);
    let done = match args.dry_run {
        true => foresee(from, to, &chosen).await,
        false => {
            let host = host_name();
            Box::pin(sync(from, to, &chosen, &host, progress.clone(), cancel.clone())).await
        }
    };
    progress.end();
    let report = done.map_err(|e| match e.kind() {
        ErrorKind::Cancelled => Failure::new("the sync was stopped before all was copied")
            .with_code(ExitCode::Interrupted)
            .with_hint("the same sync again goes on from there")
            .into(),
        _ => anyhow::Error::new(e).context(format!("the sync to {} failed", to.store().location())),
    })?;
    tell_failed(&report);
    show(context, args, &report, from, to, &progress)?;
    let damaged = broken || !report.failed.is_empty();
    let mut code = if damaged { ExitCode::Damaged } else { ExitCode::Ok };
    if args.check && !args.dry_run && !report.copied.is_empty() {
        to.refresh_index().await?;
        let what: Vec<_> = report.copied.iter().map(|(_, s)| (Arc::new(s.clone()), b"/".to_vec())).collect();
        let progress = Progress::begin(context, "check", bar, false);
        let done = check(to, &what, Depth::Full, Scope::Trees, progress.clone(), cancel.clone());
        let done = Box::pin(done).await;
        progress.end();
        let checked = super::check::conclude(context, &done?, Depth::Full, &progress, None)?;
        code = if checked == ExitCode::Ok { code } else { checked };
    }
    Ok(code)
}

/// What would be copied, as if it had been.
async fn foresee(from: &Repository, to: &Repository, chosen: &[Arc<Snapshot>]) -> Result<SyncReport, Error> {
    let (missing, present) = missing(from, to, chosen).await?;
    let copied = missing.iter().map(|s| (s.id, (**s).clone())).collect();
    Ok(SyncReport { copied, present, ..SyncReport::default() })
}

/// Tells of snapshots that could not be copied.
pub(super) fn tell_failed(report: &SyncReport) {
    for (id, reason) in &report.failed {
        screen::event("error", &format!("error: snapshot {} was not copied: {reason}", id.short()));
    }
}

fn show(
    context: &AppContext,
    args: &SyncArgs,
    report: &SyncReport,
    from: &Repository,
    to: &Repository,
    progress: &Progress,
) -> anyhow::Result<()> {
    let (here, there) = (from.store().location(), to.store().location());
    let copied = report.copied.len() as u64;
    let mut out = Output::new();
    if context.json() {
        for (id, copy) in &report.copied {
            let copy = (!args.dry_run).then(|| copy.id.to_string());
            out.json(&json!({ "type": "copied", "id": id.to_string(), "copy": copy, "to": there }))?;
        }
        let failed: Vec<_> = report.failed.iter().map(|(id, _)| id.to_string()).collect();
        out.json(&json!({
            "type": "summary", "command": "sync", "applied": !args.dry_run, "from": here, "to": there,
            "copied": copied, "present": report.present, "failed": failed, "added_bytes": report.added_bytes,
            "elapsed_seconds": progress.elapsed().as_secs_f64(),
        }))?;
    } else if !context.globals.silent {
        for (id, copy) in report.copied.iter().filter(|_| context.is_talkative()) {
            let (line, roots) = snapshot_line(copy, false, false);
            let roots = text::printable(&roots).into_owned();
            let of = if args.dry_run { String::new() } else { format!("  (copy of {})", id.short()) };
            out.line(format_args!("{line}{roots}{of}"))?;
        }
        let of = text::counted(copied, "snapshot");
        let already = match report.present {
            0 => String::new(),
            n => format!(", {} there already", text::count(n)),
        };
        let failed = match report.failed.len() as u64 {
            0 => String::new(),
            n => format!(", {} not", text::count(n)),
        };
        let took = text::duration(progress.elapsed());
        match args.dry_run {
            true => out.line(format_args!("sync would copy {of} to {there}{already}"))?,
            false => out.line(format_args!(
                "sync completed in {took}: {of} copied to {there}{failed}{already}, {} added",
                text::size(report.added_bytes)
            ))?,
        }
    }
    out.flush()?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_words_say_what_goes_where() {
        let words = |text: &str| text.split(' ').map(OsString::from).collect::<Vec<_>>();
        let read = |text: &str| parts(&words(text)).map(|(s, d, p)| (s.len(), d, p.to_owned())).ok();
        assert_eq!(read("to @offsite"), Some((0, Direction::To, "@offsite".into())));
        assert_eq!(read("ab cd from to"), Some((2, Direction::From, "to".into())));
        assert_eq!(read("with /x"), Some((0, Direction::With, "/x".into())));
        assert_eq!((read("to"), read("@offsite"), read("ab @offsite")), (None, None, None));
    }
}
