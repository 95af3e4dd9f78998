//! `plakar check`.

use std::ffi::OsString;
use std::sync::Arc;

use plakar_engine::error::ErrorKind;
use plakar_engine::ops::check::{CheckReport, Depth, Scope, check};
use plakar_engine::repository::catalog::Catalog;
use plakar_engine::select::{Filter, Spec};
use plakar_engine::snapshot::Snapshot;
use serde_json::json;

use super::{find, newest};
use crate::cli::Query;
use crate::context::AppContext;
use crate::exit_code::ExitCode;
use crate::progress::{Bar, Progress};
use crate::report::Failure;
use crate::screen::{self, Output};
use crate::text;

/// Check that snapshots can be restored
///
/// Every piece of data that the snapshots need is read from the store, opened and compared with its id, once. With
/// -fast only the trees are read and the data looked up in the index. Damage is named path by path, does not end the
/// check, and makes the exit code 65.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  plakar check\n  plakar check -since 1w\n  plakar check latest:home/me")]
pub(crate) struct CheckArgs {
    /// Read trees and index only, no data
    #[arg(long)]
    fast: bool,
    /// Show no progress
    #[arg(long)]
    no_progress: bool,
    #[command(flatten)]
    query: Query,
    /// The beginning of a snapshot's id or latest, and a path in it; without any, all that fit the options
    #[arg(value_name = "SNAPSHOT[:PATH]")]
    snapshots: Vec<OsString>,
}

/// Runs it.
pub(crate) async fn run(context: &AppContext, args: CheckArgs) -> anyhow::Result<ExitCode> {
    let repository = context.open().await?;
    let catalog = repository.catalog().await?;
    let filter = args.query.filter().map_err(Failure::new)?;
    let what = choose(&args.snapshots, &catalog, &filter)?;
    let cancel = super::cancel_on_signals("nothing is changed by a check")?;
    let bar = if args.no_progress { Bar::Unwanted } else { Bar::Wanted };
    let progress = Progress::begin(context, "check", bar, context.globals.verbose);
    let depth = if args.fast { Depth::Fast } else { Depth::Full };
    // Damage elsewhere is none of a snapshot that is named.
    let scope = if args.snapshots.is_empty() { Scope::Store } else { Scope::Trees };
    let done = Box::pin(check(&repository, &what, depth, scope, progress.clone(), cancel)).await;
    progress.end();
    let report = done.map_err(|e| match e.kind() {
        ErrorKind::Cancelled => {
            Failure::new("the check was stopped before it was whole").with_code(ExitCode::Interrupted).into()
        }
        _ => anyhow::Error::new(e).context("the check failed"),
    })?;
    conclude(context, &report, depth, &progress, None)
}

/// What to check: what is named, or all that fits.
fn choose(
    arguments: &[OsString],
    catalog: &Catalog,
    filter: &Filter,
) -> anyhow::Result<Vec<(Arc<Snapshot>, Vec<u8>)>> {
    use std::os::unix::ffi::OsStrExt;
    if arguments.is_empty() {
        let found = filter.select(catalog);
        // What cannot be read is named by the check itself.
        if found.is_empty() && !filter.is_empty() && catalog.broken.is_empty() {
            // A filter that nothing fits must not look like a check that passed.
            newest(catalog, filter)?;
        }
        return Ok(found.into_iter().map(|s| (s, b"/".to_vec())).collect());
    }
    let mut what = Vec::new();
    for argument in arguments {
        let (snapshot, path) = find(argument, catalog, filter)?;
        // A snapshot alone is checked whole, not from what was backed up on.
        let whole = Spec::parse(argument.as_bytes()).path.is_none();
        what.push((snapshot, if whole { b"/".to_vec() } else { path }));
    }
    Ok(what)
}

/// Prints what a check found, and gives its exit code. `id` is the only snapshot, if it was one that was just made.
pub(super) fn conclude(
    context: &AppContext,
    report: &CheckReport,
    depth: Depth,
    progress: &Progress,
    id: Option<&str>,
) -> anyhow::Result<ExitCode> {
    let damaged = report.found > 0 || report.damaged_snapshots > 0;
    let mut out = Output::new();
    if context.json() {
        let problem = |(what, reason): &(String, String)| json!({ "path": what, "reason": reason });
        out.json(&json!({
            "type": "summary",
            "command": "check",
            "damaged": damaged,
            "snapshots": report.snapshots,
            "damaged_snapshots": report.damaged_snapshots,
            "entries": report.entries,
            "blobs": report.blobs,
            "bytes": report.bytes,
            "data_read": depth == Depth::Full,
            "found": report.found,
            "problems": report.problems.iter().map(problem).collect::<Vec<_>>(),
            "elapsed_seconds": progress.elapsed().as_secs_f64(),
        }))?;
    } else if report.snapshots == 0 && !damaged {
        context.notice("nothing to check: the store has no snapshots");
    } else if !context.globals.silent {
        let took = text::duration(progress.elapsed());
        let prefix = id.map(|id| format!("{id}: ")).unwrap_or_default();
        out.line(format_args!("{prefix}{}", sentence(report, depth, &took)))?;
        if damaged {
            out.flush()?;
            screen::line("hint: what is neither named above nor below a directory named there is whole");
        }
    }
    out.flush()?;
    Ok(if damaged { ExitCode::Damaged } else { ExitCode::Ok })
}

/// `check completed without errors in 2.0s: 3 snapshots, 81,234 entries, 1.0 GiB of data`
fn sentence(r: &CheckReport, depth: Depth, took: &str) -> String {
    let snapshots = text::counted(r.snapshots, "snapshot");
    let data = match depth {
        Depth::Full => format!("{} of data", text::size(r.bytes)),
        Depth::Fast => format!("{} of data looked up, none of it read", text::size(r.bytes)),
    };
    let looked_at = format!("{}, {data}", text::counted(r.entries, "entry"));
    match r.found {
        0 => format!("check completed without errors in {took}: {snapshots}, {looked_at}"),
        n => format!(
            "check found {} in {} of {snapshots} in {took}: {looked_at}",
            text::counted(n, "problem"),
            text::count(r.damaged_snapshots),
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_summary_is_one_line() {
        let mut r = CheckReport { snapshots: 3, entries: 81_234, bytes: 1 << 30, ..CheckReport::default() };
        assert_eq!(
            sentence(&r, Depth::Full, "2.0s"),
            "check completed without errors in 2.0s: 3 snapshots, 81,234 entries, 1.0 GiB of data"
        );
        r.found = 1;
        r.damaged_snapshots = 1;
        assert_eq!(
            sentence(&r, Depth::Full, "2.0s"),
            "check found 1 problem in 1 of 3 snapshots in 2.0s: 81,234 entries, 1.0 GiB of data"
        );
    }
}
