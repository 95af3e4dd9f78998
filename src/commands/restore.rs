//! `plakar restore`.

use std::ffi::OsString;
use std::path::PathBuf;
use std::sync::Arc;

use plakar_connectors::fs::{FsExportOptions, FsExporter};
use plakar_engine::error::{Error, ErrorKind};
use plakar_engine::exporter::Overwrite;
use plakar_engine::ops::restore::{RestoreReport, restore};
use serde_json::json;

use super::{find, newest};
use crate::cli::Query;
use crate::context::AppContext;
use crate::exit_code::ExitCode;
use crate::progress::{Bar, Progress};
use crate::report::Failure;
use crate::screen::{self, Output};
use crate::settings::Section;
use crate::{json, text, time};

/// Restore files from a snapshot
///
/// A directory's contents, and its own attributes, become those of the destination; a single file is put into it
/// under its name. Without a snapshot the newest one that fits the options is restored. What fails for one entry does
/// not end the restore: it is named as it happens and at the end, and the exit code is 3, or 65 where the store's own
/// data is damaged or missing.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  plakar restore -to /tmp/back latest\n  plakar restore -to . 1093df0c:etc/passwd"
)]
pub(crate) struct RestoreArgs {
    /// Where to: a directory, or @NAME of a destination [./plakar-<time>]
    #[arg(long, value_name = "DIR")]
    pub(crate) to: Option<OsString>,
    /// What happens to a file that is there already
    #[arg(long, value_name = "POLICY", default_value = "ask-by-error")]
    overwrite: Policy,
    /// Leave owners, permissions and ACLs as the system sets them for new files
    #[arg(long)]
    skip_permissions: bool,
    /// Leave extended attributes and ACLs out
    #[arg(long)]
    no_xattr: bool,
    /// Show no progress
    #[arg(long)]
    no_progress: bool,
    #[command(flatten)]
    query: Query,
    /// The beginning of a snapshot's id or latest, and what to restore of it
    #[arg(value_name = "SNAPSHOT[:PATH]")]
    pub(crate) snapshot: Option<OsString>,
}

/// What to do with what is there.
#[derive(PartialEq, Eq, Clone, Copy, Debug, clap::ValueEnum)]
enum Policy {
    /// Replace it.
    Always,
    /// Replace it if the one in the snapshot was modified later.
    Newer,
    /// Keep it, and go on.
    Never,
    /// Keep it, and name it as an error.
    AskByError,
}

impl Policy {
    fn overwrite(self) -> Overwrite {
        match self {
            Self::Always => Overwrite::Always,
            Self::Newer => Overwrite::IfNewer,
            Self::Never => Overwrite::Never,
            Self::AskByError => Overwrite::Error,
        }
    }
}

/// Runs it.
pub(crate) async fn run(context: &AppContext, args: RestoreArgs) -> anyhow::Result<ExitCode> {
    let target = match &args.to {
        Some(to) => context.local(to, Section::Destination)?,
        None => free_name(&format!("./plakar-{}", time::compact(jiff::Timestamp::now()))),
    };
    let repository = context.open().await?;
    let catalog = repository.catalog().await?;
    let filter = args.query.filter().map_err(Failure::new)?;
    let (snapshot, path) = match &args.snapshot {
        Some(argument) => find(argument, &catalog, &filter)?,
        None => {
            let snapshot = newest(&catalog, &filter)?;
            let path = snapshot.base();
            (snapshot, path)
        }
    };
    // Before a directory is made for something that is not there.
    super::vfs(&repository).await?.resolve(&snapshot, &path).await?;
    let options = FsExportOptions { permissions: !args.skip_permissions, xattrs: !args.no_xattr };
    let shown = target.display().to_string();
    let exporter = FsExporter::new(target, args.overwrite.overwrite(), options)
        .map_err(|source| Error::Export { what: shown.clone(), source })?;
    let cancel = super::cancel_on_signals("files that are complete are kept")?;
    let bar = if args.no_progress { Bar::Unwanted } else { Bar::Wanted };
    let progress = Progress::begin(context, "restore", bar, context.globals.verbose);
    let done =
        Box::pin(restore(&repository, &snapshot, &path, Arc::new(exporter), progress.clone(), cancel)).await;
    repository.flush_disk_cache().await;
    progress.end();
    let report = done.map_err(|e| match e.kind() {
        ErrorKind::Cancelled => {
            Failure::new(format!("the restore to {shown} was stopped before it was whole"))
                .with_code(ExitCode::Interrupted)
                .with_hint("with -overwrite newer it goes on where it was")
                .into()
        }
        _ => anyhow::Error::new(e).context("the restore failed"),
    })?;
    progress.sum_up_failures(report.errors, None);
    if !context.globals.silent && !context.json() {
        let failed = progress.failed();
        if failed.iter().any(|(_, reason)| reason == "exists already") {
            let others: Vec<_> =
                [(Policy::Always, "always"), (Policy::Newer, "newer"), (Policy::Never, "never")]
                    .into_iter()
                    .filter_map(|(policy, name)| (policy != args.overwrite).then_some(name))
                    .collect();
            let others = others.join(" or ");
            screen::line(&format!("hint: -overwrite {others} says what to do with what is there already"));
        }
        if failed.iter().any(|(_, reason)| reason.starts_with("owner ")) {
            screen::line("hint: only root can give files to others; -skip-permissions makes them all yours");
        }
    }
    let mut out = Output::new();
    if context.json() {
        out.json(&json!({
            "type": "summary",
            "command": "restore",
            "snapshot": json::snapshot(&snapshot),
            "path": String::from_utf8_lossy(&path),
            "destination": shown,
            "report": report,
            "elapsed_seconds": progress.elapsed().as_secs_f64(),
        }))?;
    } else if !context.globals.silent {
        let took = text::duration(progress.elapsed());
        out.line(format_args!("{}: {}", snapshot.id.short(), sentence(&report, &took, &shown)))?;
    }
    out.flush()?;
    Ok(match report {
        RestoreReport { damaged: 1.., .. } => ExitCode::Damaged,
        RestoreReport { errors: 1.., .. } => ExitCode::CompletedWithErrors,
        _ => ExitCode::Ok,
    })
}

/// A name that is free; another restore may have begun within the same second.
fn free_name(name: &str) -> PathBuf {
    let numbered = (2..).map(|n| format!("{name}-{n}"));
    let mut names = std::iter::once(name.to_owned()).chain(numbered).map(PathBuf::from);
    names.find(|p| p.symlink_metadata().is_err()).unwrap_or_else(|| name.into())
}

/// `restore completed without errors in 1.2s to ./x: 1,234 files, 56 directories, 3 others, 1.0 GiB`
fn sentence(r: &RestoreReport, took: &str, target: &str) -> String {
    let errors = text::with_errors(r.errors);
    let mut counts = vec![text::counted(r.files, "file"), text::counted(r.directories, "directory")];
    if r.others > 0 {
        counts.push(text::counted(r.others, "other"));
    }
    if r.links > 0 {
        counts.push(text::counted(r.links, "further name"));
    }
    if r.kept > 0 {
        counts.push(format!("{} kept as found", text::count(r.kept)));
    }
    counts.push(text::size(r.bytes));
    format!("restore completed {errors} in {took} to {target}: {}", counts.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_summary_is_one_line() {
        let r = RestoreReport {
            files: 1234,
            directories: 1,
            others: 2,
            links: 4,
            bytes: 1 << 30,
            kept: 3,
            errors: 1,
            damaged: 0,
        };
        assert_eq!(
            sentence(&r, "1.2s", "./x"),
            "restore completed with 1 error in 1.2s to ./x: 1,234 files, 1 directory, 2 others, 4 further names, 3 kept as found, 1.0 GiB"
        );
    }
}
