//! `plakar maintenance`.

use std::time::Duration;

use plakar_engine::error::{Error, ErrorKind};
use plakar_engine::ops::maintenance::{MaintenanceOptions, MaintenanceReport, Packfiles, foresee, maintain};
use serde_json::{Map, Value, json};

use crate::context::AppContext;
use crate::exit_code::ExitCode;
use crate::progress::{Bar, Progress};
use crate::report::Failure;
use crate::screen::{self, Output};
use crate::{text, time};

/// Make room: let go what no snapshot needs
///
/// Nothing is deleted at once: what nobody needs is condemned, and deleted by the next maintenance after the store's
/// grace period, a week. Until then `plakar undelete` brings snapshots back, and backups that were under way can end.
/// Packfiles that are in part needed are written again without the rest, as long as that costs no more than 1.2 bytes
/// for each byte that becomes free. It may run beside backups, restores and mounts, be stopped at any point, and
/// goes on the next time; once a day or a week is often enough.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  plakar maintenance -dry-run\n  plakar maintenance\n  plakar maintenance -grace 0 -exclusive"
)]
pub(crate) struct MaintenanceArgs {
    /// Only show what would be done
    #[arg(long)]
    dry_run: bool,
    /// Wait so long between condemning and deleting (7d, 36h, 0); less than the store's period only with -exclusive
    /// [PLAKAR_GRACEPERIOD, or the store's]
    #[arg(long, value_name = "DURATION")]
    grace: Option<String>,
    /// Be alone: refuse if anybody is at work, and let nobody begin meanwhile
    #[arg(long)]
    exclusive: bool,
    /// Show no progress
    #[arg(long)]
    no_progress: bool,
}

/// Runs it.
pub(crate) async fn run(context: &AppContext, args: MaintenanceArgs) -> anyhow::Result<ExitCode> {
    let usage = |m: String| Failure::usage(m, Some(&["maintenance".into()]));
    let wanted = args.grace.as_deref().or_else(|| context.env.text("PLAKAR_GRACEPERIOD"));
    let grace = wanted.map(time::parse_duration).transpose().map_err(usage)?;
    let repository = context.open().await?;
    let stores = Duration::from_secs(repository.config().grace_seconds);
    if grace.is_some_and(|g| g < stores) && !args.exclusive {
        let message = format!(
            "this store's grace period is {}: backups that are under way rely on it",
            text::duration(stores)
        );
        let hint = "a shorter -grace needs -exclusive, which makes sure that nobody is at work";
        return Err(usage(message).with_hint(hint).into());
    }
    let grace_ns = grace.map(|g| i64::try_from(g.as_nanos()).unwrap_or(i64::MAX));
    let options = MaintenanceOptions { grace_ns, exclusive: args.exclusive };
    let cancel = super::cancel_on_signals("what was done so far stays done, and the store is whole")?;
    let bar = if args.no_progress { Bar::Unwanted } else { Bar::Wanted };
    let progress = Progress::begin(context, "maintenance", bar, false);
    let host = super::host_name();
    let done = match args.dry_run {
        true => Box::pin(foresee(&repository, options, cancel)).await,
        false => Box::pin(maintain(&repository, &host, options, progress.clone(), cancel)).await,
    };
    progress.end();
    let report = done.map_err(|e| explain(e, context.store_hint().as_deref()))?;
    for (object, reason) in &report.unreadable {
        let text =
            format!("error: {object} stays: something that is needed cannot be read from it: {reason}");
        screen::event("error", &text);
    }
    if report.missing > 0 {
        let pieces = text::counted(report.missing, "piece");
        screen::event(
            "error",
            &format!(
                "error: {pieces} of data that snapshots need are missing; `plakar check` names the files"
            ),
        );
    }
    show(context, &report, !args.dry_run)?;
    let is_damaged = report.missing > 0 || !report.unreadable.is_empty();
    Ok(if is_damaged { ExitCode::Damaged } else { ExitCode::Ok })
}

fn explain(e: Error, store: Option<&str>) -> anyhow::Error {
    let at = store.map(|s| format!("at {} ", text::shell_word(s))).unwrap_or_default();
    match (e.kind(), &e) {
        (ErrorKind::Cancelled, _) => {
            let message = "maintenance was stopped; what was done stays done, and the next one goes on";
            Failure::new(message).with_code(ExitCode::Interrupted).into()
        }
        (_, Error::Unsafe { .. }) => {
            let hint = format!(
                "`plakar {at}check` says more; a snapshot that is damaged can be removed with `plakar {at}rm`"
            );
            Failure::new(e.to_string()).with_code(ExitCode::Damaged).with_hint(hint).into()
        }
        (_, Error::InUse { .. }) => {
            let hint = "wait for its end; one that was killed on another machine counts for three hours";
            Failure::new(e.to_string()).with_hint(hint).into()
        }
        _ => anyhow::Error::new(e).context("maintenance failed"),
    }
}

fn show(context: &AppContext, report: &MaintenanceReport, applied: bool) -> anyhow::Result<()> {
    let mut out = Output::new();
    if context.json() {
        let mut summary: Map<String, Value> = Map::new();
        summary.insert("type".into(), "summary".into());
        summary.insert("command".into(), "maintenance".into());
        summary.insert("applied".into(), applied.into());
        if let Value::Object(fields) = json!(report) {
            summary.extend(fields);
        }
        summary.remove("due_ns");
        summary.remove("unreadable");
        summary.insert("due".into(), json!(report.due_ns.map(time::exact_ns)));
        out.json(&summary)?;
    } else if !context.globals.silent {
        for line in lines(report, applied) {
            out.line(line)?;
        }
    }
    out.flush()?;
    Ok(())
}

fn lines(r: &MaintenanceReport, applied: bool) -> Vec<String> {
    let of = |p: Packfiles| format!("{} ({})", text::counted(p.count, "packfile"), text::size(p.bytes));
    let said = |done: &'static str, would: &'static str| if applied { done } else { would };
    let live = text::size(r.live_bytes);
    let mut lines = vec![format!("maintenance: {} in the store, {live} of it needed", of(r.packfiles))];
    let mut line = |what: &str, text: String| lines.push(format!("  {what:<10} {text}"));
    let due = r.due_ns.map(time::show_ns).unwrap_or_default();
    if r.condemned.count > 0 && !(r.deleted.count > 0 && r.due_ns.is_none()) {
        line("condemned", format!("{}, to be deleted by the first maintenance after {due}", of(r.condemned)));
    }
    if r.moved_bytes > 0 {
        line(
            said("rewritten", "to rewrite"),
            format!("{} that is needed and lies among it", text::size(r.moved_bytes)),
        );
    }
    if r.waiting.count > 0 {
        let due = if r.condemned.count > 0 { String::new() } else { format!(", the last of it until {due}") };
        line("waiting", format!("{}, condemned before{due}", of(r.waiting)));
    }
    let more = [
        (r.deleted_snapshots, "removed snapshot"),
        (r.deleted_states, "old state"),
        (r.deleted_notes, "old note"),
    ];
    let more = more.into_iter().filter(|(n, _)| *n > 0).map(|(n, what)| text::counted(n, what));
    let deleted: Vec<String> = (r.deleted.count > 0).then(|| of(r.deleted)).into_iter().chain(more).collect();
    if !deleted.is_empty() {
        line(said("deleted", "to delete"), deleted.join(", "));
    }
    if r.merged_states > 0 {
        line("merged", format!("{} into one", text::counted(r.merged_states, "state")));
    }
    if lines.len() == 1 {
        lines.push("  nothing to do".into());
    }
    lines
}
