//! The commands: one module each, with its options, what it does with the engine, and what it prints.

pub(crate) mod backup;
pub(crate) mod cache;
pub(crate) mod cat;
pub(crate) mod check;
pub(crate) mod create;
pub(crate) mod help;
pub(crate) mod info;
pub(crate) mod key;
pub(crate) mod ls;
pub(crate) mod maintenance;
pub(crate) mod mount;
pub(crate) mod named;
pub(crate) mod pin;
pub(crate) mod policy;
pub(crate) mod prune;
pub(crate) mod ptar;
pub(crate) mod repair;
pub(crate) mod restore;
pub(crate) mod rm;
pub(crate) mod sync;
pub(crate) mod tag;
pub(crate) mod umount;
pub(crate) mod undelete;
pub(crate) mod version;

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::Context;
use plakar_engine::cancel::Cancel;
use plakar_engine::error::{Error, report};
use plakar_engine::id::ObjectId;
use plakar_engine::ops::maintenance::needed_only_by;
use plakar_engine::repository::Repository;
use plakar_engine::repository::catalog::Catalog;
use plakar_engine::repository::recent::RecentFrames;
use plakar_engine::select::{Filter, Spec};
use plakar_engine::snapshot::Snapshot;
use plakar_engine::vfs::Vfs;
use plakar_mount::view::moment::{self, Moment};
use tokio::signal::unix::{SignalKind, signal};

use crate::cli::Command;
use crate::context::AppContext;
use crate::exit_code::ExitCode;
use crate::screen::{self, Output};
use crate::{text, time};

/// Runs a command.
pub(crate) async fn run(context: &AppContext, command: Command) -> anyhow::Result<ExitCode> {
    if context.globals.concurrency.is_some() {
        context.notice("-concurrency has no effect: the number of workers follows -cpu");
    }
    if context.globals.datadir.is_some() {
        context.notice("-datadir has no effect: this version keeps nothing there");
    }
    match command {
        Command::Create(args) => Box::pin(create::run(context, args)).await,
        Command::Backup(args) => Box::pin(backup::run(context, *args)).await,
        Command::Ls(args) => Box::pin(ls::run(context, *args)).await,
        Command::Cat(args) => Box::pin(cat::run(context, args)).await,
        Command::Info(args) => Box::pin(info::run(context, args)).await,
        Command::Restore(args) => Box::pin(restore::run(context, *args)).await,
        Command::Check(args) => Box::pin(check::run(context, *args)).await,
        Command::Mount(args) => Box::pin(mount::run(context, *args)).await,
        Command::Umount(args) => Box::pin(umount::run(context, args)).await,
        Command::Repair(args) => Box::pin(repair::run(context, args)).await,
        Command::Prune(args) => Box::pin(prune::run(context, *args)).await,
        Command::Ptar(args) => Box::pin(ptar::run(context, args)).await,
        Command::Rm(args) => Box::pin(rm::run(context, *args)).await,
        Command::Maintenance(args) => Box::pin(maintenance::run(context, args)).await,
        Command::Undelete(args) => Box::pin(undelete::run(context, args)).await,
        Command::Sync(args) => Box::pin(sync::run(context, *args)).await,
        Command::Pin(args) => Box::pin(pin::pin(context, args)).await,
        Command::Unpin(args) => Box::pin(pin::unpin(context, args)).await,
        Command::Tag(args) => Box::pin(tag::tag(context, args)).await,
        Command::Describe(args) => Box::pin(tag::describe(context, args)).await,
        Command::Store(args) => named::store(context, args).await,
        Command::Source(args) => named::source(context, args).await,
        Command::Destination(args) => named::destination(context, args).await,
        Command::Policy(args) => Box::pin(policy::run(context, args)).await,
        Command::Key(args) => Box::pin(key::run(context, args)).await,
        Command::Cache(args) => cache::run(context, args),
        Command::Version(_) => version::run(context),
        Command::Help(args) => help::run(context, &args),
    }
}

/// What comes free when some snapshots are removed, and from when on.
#[derive(Clone, Copy, Debug)]
struct Room {
    bytes: u64,
    from_ns: i64,
}

impl std::fmt::Display for Room {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (size, from) = (text::size(self.bytes), time::show_ns(self.from_ns));
        write!(
            f,
            "about {size} come free by `plakar maintenance`, the first after {from} and one a while later"
        )
    }
}

/// `None` where something is damaged, so that it cannot be told. Whatever stands in the way of telling does not stand in the
/// way of removing.
async fn room_of(context: &AppContext, repository: &Arc<Repository>, snapshots: &[ObjectId]) -> Option<Room> {
    let cancel = Cancel::default();
    let bytes = match Box::pin(needed_only_by(repository, snapshots, &cancel)).await {
        Ok(bytes) => bytes,
        Err(e) => {
            context.notice(&format!("how much comes free cannot be told: {}", report(&e)));
            None
        }
    };
    let grace = Duration::from_secs(repository.config().grace_seconds);
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let from_ns = i64::try_from((now + grace).as_nanos()).unwrap_or(i64::MAX);
    bytes.map(|bytes| Room { bytes, from_ns })
}

/// What this machine calls itself.
fn host_name() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

/// How long nothing may get on after a signal. Then the process ends as it is: what a thread waits for in the kernel, a
/// network that is gone or a program that does not answer, may never come.
const PATIENCE: Duration = Duration::from_secs(5);

/// A cancellation that SIGINT and SIGTERM ask for; a second one ends the process at once.
fn cancel_on_signals(what_is_kept: &'static str) -> anyhow::Result<Cancel> {
    let cancel = Cancel::default();
    let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    let asked = cancel.clone();
    tokio::spawn(async move {
        let mut times = 0;
        loop {
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
            }
            times += 1;
            if times > 1 {
                std::process::exit(ExitCode::Interrupted as i32);
            }
            asked.cancel();
            let watched = asked.clone();
            // A thread of the system's: all others may be waiting.
            std::thread::spawn(move || end_if_stuck(&watched, what_is_kept));
            screen::notice(&format!("stopping: {what_is_kept}; Ctrl-C once more stops at once"));
        }
    });
    Ok(cancel)
}

/// Ends the process when an operation that was asked to stop does not get on with that.
fn end_if_stuck(cancel: &Cancel, what_is_kept: &str) {
    let (mut moves, mut since) = (cancel.moves(), Instant::now());
    while since.elapsed() < PATIENCE {
        std::thread::sleep(Duration::from_millis(100));
        if cancel.moves() != moves {
            (moves, since) = (cancel.moves(), Instant::now());
        }
    }
    screen::notice(&format!(
        "stopped: something has not answered for {} seconds; {what_is_kept}",
        PATIENCE.as_secs()
    ));
    std::process::exit(ExitCode::Interrupted as i32);
}

/// Reads snapshots, keeping what was decoded last.
async fn vfs(repository: &Arc<Repository>) -> anyhow::Result<Vfs> {
    repository.index().await?;
    if let Err(e) = repository.use_disk_cache(repository.default_disk_cache()) {
        tracing::warn!(%e, "frames are not cached on this machine");
    }
    Ok(Vfs::new(repository.clone(), Arc::new(RecentFrames::new(repository.clone()))))
}

/// Finds what `ID[:PATH]` means: the snapshot, and the path as an absolute one.
fn find(argument: &OsStr, catalog: &Catalog, filter: &Filter) -> anyhow::Result<(Arc<Snapshot>, Vec<u8>)> {
    let spec = Spec::parse(argument.as_bytes());
    if spec.id.is_empty() {
        // `:PATH`, and `/PATH` as Plakar takes it, would be about the latest one; say how to say that.
        let path = spec.path.map(|p| String::from_utf8_lossy(&p).into_owned()).unwrap_or_default();
        let failure = crate::report::Failure::new("no snapshot is named before the colon");
        return Err(failure.with_hint(format!("for the newest one write latest:{path}")).into());
    }
    if spec.id.contains('/') {
        let argument = argument.to_string_lossy();
        let failure =
            crate::report::Failure::new(format!("{argument}: no snapshot is named before the path"));
        return Err(failure.with_hint(format!("in the newest one it is latest:{argument}")).into());
    }
    let snapshot = match moment(&spec.id)? {
        Some(Moment::Before(end)) => {
            // Whatever was made before it was over.
            let last = end.saturating_sub(1);
            let before_ns = Some(filter.before_ns.map_or(last, |given| given.min(last)));
            newest(catalog, &Filter { before_ns, ..filter.clone() })
                .with_context(|| format!("nothing is that old: {}", spec.id))?
        }
        Some(Moment::Latest(back)) => {
            Spec { id: format!("latest~{back}"), path: None }.find(catalog, filter)?
        }
        Some(Moment::Id(id)) => Spec { id, path: None }.find(catalog, filter)?,
        None => spec.find(catalog, filter)?,
    };
    let path = spec.resolve_path(&snapshot);
    Ok((snapshot, path))
}

/// What is meant by a point in time, as in names of a mount: `latest@yesterday`, and `2026-01-01` alone where that could
/// not be the beginning of an id.
fn moment(id: &str) -> anyhow::Result<Option<Moment>> {
    let now = jiff::Zoned::now();
    if let Some(text) = id.strip_prefix("latest@") {
        let found = moment::parse(text, &now).ok_or_else(|| {
            let failure = crate::report::Failure::new(format!("{text:?} is no point in time"));
            failure.with_hint(
                "give a date (2026-01-01, 2026-01-01T12-30, 2026-01), how long ago (3d, 2h30m, 1mo), yesterday, or a weekday",
            )
        })?;
        return Ok(Some(found));
    }
    let may_be_id = id.bytes().all(|b| b.is_ascii_hexdigit()) || id.starts_with("latest");
    Ok(if may_be_id { None } else { moment::parse(id, &now).filter(|m| matches!(m, Moment::Before(_))) })
}

/// Finds what `ID` means, where no path may follow.
fn find_whole(
    argument: &OsStr,
    catalog: &Catalog,
    filter: &Filter,
    command: &str,
) -> anyhow::Result<Arc<Snapshot>> {
    if Spec::parse(argument.as_bytes()).path.is_some() {
        let text = format!("{}: {command} takes whole snapshots, no path in one", argument.to_string_lossy());
        return Err(crate::report::Failure::usage(text, Some(&[command.into()])).into());
    }
    Ok(find(argument, catalog, filter)?.0)
}

/// The newest snapshot that fits.
fn newest(catalog: &Catalog, filter: &Filter) -> anyhow::Result<Arc<Snapshot>> {
    filter.check_choice(catalog)?;
    let what = if filter.is_empty() { crate::report::EMPTY_STORE } else { "fits these options" };
    let found = filter.select(catalog).into_iter().next();
    found.ok_or_else(|| Error::NoSnapshot { what: what.into() }.into())
}

/// Tells of snapshots that cannot be read; whether there are any.
fn report_broken(context: &AppContext, catalog: &Catalog) -> bool {
    let mut broken: Vec<(String, String)> = Vec::new();
    for (id, e) in &catalog.broken {
        broken.push((format!("snapshot {}", id.short()), why(&format!("snapshots/{id}"), e)));
    }
    for (name, e) in &catalog.unreadable {
        broken.push((name.to_string(), why(&name.to_string(), e)));
    }
    for (what, reason) in &broken {
        if context.json() {
            let event = serde_json::json!({ "type": "error", "object": what, "reason": reason });
            screen::line(&event.to_string());
        } else {
            screen::line(&format!("error: {what}: {reason}"));
        }
    }
    !broken.is_empty()
}

/// An error and its causes on one line, without the name of the object that stands beside it.
fn why(name: &str, e: &Error) -> String {
    let text = plakar_engine::error::report(e);
    match text.strip_prefix(name).and_then(|rest| rest.strip_prefix(' ')) {
        Some(rest) => rest.to_owned(),
        None => text,
    }
}

/// A snapshot on a line, as `ls` shows it.
fn snapshot_line(s: &Snapshot, full_id: bool, tags: bool) -> (String, Vec<u8>) {
    let id = if full_id { s.id.to_string() } else { s.id.short() };
    let duration = text::whole_seconds(std::time::Duration::from_nanos(s.duration_ns));
    let line =
        format!("{} {id:>10} {:>9} {duration:>9} ", time::show_ns(s.time_ns), text::size(s.summary().bytes));
    let mut roots = s.roots.join(&b","[..]);
    let errors = s.summary().errors;
    if errors > 0 {
        roots.extend_from_slice(format!("  ({})", text::counted(errors, "error")).as_bytes());
    }
    if tags && !s.tags.is_empty() {
        roots.extend_from_slice(format!(" tags={}", s.tags.join(",")).as_bytes());
    }
    (line, roots)
}

/// Writes a snapshot's line.
fn write_snapshot(out: &mut Output, s: &Snapshot, full_id: bool, tags: bool) -> anyhow::Result<()> {
    let (line, roots) = snapshot_line(s, full_id, tags);
    out.named(line, &roots)
}
