//! `plakar backup`.

use std::ffi::OsString;
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::Context;
use plakar_connectors::fs::{FsImportOptions, FsImporter};
use plakar_engine::cancel::Cancel;
use plakar_engine::error::ErrorKind;
use plakar_engine::importer::Importer;
use plakar_engine::monitor::{Event, Monitor};
use plakar_engine::ops::backup::{BackupOptions, BackupReport, ChangeBy, Ctime, Parent, Pattern, backup};
use plakar_engine::ops::check::{Depth, Scope, check};
use plakar_engine::repository::Repository;
use plakar_engine::select::Filter;
use plakar_engine::snapshot::{Description, Snapshot};
use serde_json::json;

use super::version::CLIENT;
use crate::context::AppContext;
use crate::exit_code::ExitCode;
use crate::progress::{Bar, Progress};
use crate::report::Failure;
use crate::screen::{self, Output};
use crate::settings::{Options, Section};
use crate::{json, location, report, text, time};

/// Back up files: make a snapshot
///
/// What has not changed since the last backup of the same places is neither read nor stored again. Files that cannot
/// be read do not end the backup: they are named as it goes and at the end, kept in the snapshot as such (`plakar
/// info -errors ID`), and the exit code is 3. Ctrl-C stops it; what was uploaded by then is found again by the next one.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  plakar backup\n  plakar backup -tag daily -ignore '*.o' /home /etc")]
pub(crate) struct BackupArgs {
    /// Name of the snapshot
    #[arg(long, value_name = "TEXT", default_value = "default")]
    name: String,
    /// Category, free text to choose by
    #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true)]
    category: String,
    /// Environment, free text to choose by
    #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true)]
    environment: String,
    /// Perimeter, free text to choose by
    #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true)]
    perimeter: String,
    /// Job, free text to choose by
    #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true)]
    job: String,
    /// Tags, separated by commas [PLAKAR_TAGS]
    #[arg(long, value_name = "LIST", value_delimiter = ',')]
    tag: Vec<String>,
    /// Leave out what a gitignore pattern fits; one with a slash from / and from each place backed up; repeatable
    #[arg(long, value_name = "PATTERN")]
    pub(crate) ignore: Vec<String>,
    /// Leave out what the patterns in a file fit, those with a slash from its folder too; repeatable, and before those of
    /// -ignore
    #[arg(long, value_name = "FILE")]
    ignore_file: Vec<PathBuf>,
    /// Stay on the file systems of the given paths
    #[arg(long)]
    one_file_system: bool,
    /// Do not back up extended attributes and ACLs
    #[arg(long)]
    no_xattr: bool,
    /// Read every file, changed or not
    #[arg(long)]
    reread: bool,
    /// Compare with this snapshot, by default the last one of the same places; none reads every file
    #[arg(long, value_name = "ID|none")]
    parent: Option<OsString>,
    /// What tells that a file has changed, beside its size: mtime, inode, volume (the file system), unexplained-ctime (which
    /// no other mode, owner or number of links accounts for), all by default; or ctime (whatever accounts for it)
    #[arg(
        long,
        value_name = "LIST",
        value_delimiter = ',',
        default_value = "mtime,unexplained-ctime,inode,volume",
        hide_default_value = true,
        hide_possible_values = true
    )]
    change_by: Vec<Mark>,
    /// What tells that a file has not changed: the last backup, or nothing
    #[arg(long, value_name = "CACHE", default_value = "vfs", value_parser = ["vfs", "no"])]
    cache: String,
    /// Check the new snapshot at once, reading all its data from the store
    #[arg(long)]
    check: bool,
    /// List what would be backed up, and store nothing
    #[arg(long)]
    dry_run: bool,
    /// Say that the backup was made then; not in the future
    #[arg(long, value_name = "TIME", value_parser = time::parse_argument)]
    force_timestamp: Option<i64>,
    /// Show no progress
    #[arg(long)]
    no_progress: bool,
    /// Taken for the sake of scripts: packfiles go straight to the store
    #[arg(long, value_name = "WHERE", hide = true)]
    packfiles: Option<OsString>,
    /// Option of the source: dont_traverse_fs=true
    #[arg(long = "o", value_name = "KEY=VALUE")]
    options: Vec<String>,
    /// What to back up: files, directories, or @NAME of a source; by default the current directory
    #[arg(value_name = "PATH")]
    paths: Vec<OsString>,
}

/// What may tell that a file has changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Mark {
    Mtime,
    Ctime,
    UnexplainedCtime,
    Inode,
    Volume,
}

/// The largest file of patterns.
const MAX_PATTERNS: u64 = 16 << 20;

/// Runs it.
pub(crate) async fn run(context: &AppContext, args: BackupArgs) -> anyhow::Result<ExitCode> {
    if args.packfiles.is_some() {
        context.notice("-packfiles has no effect: packfiles go straight to the store");
    }
    let source = source(context, &args)?;
    let mut options = BackupOptions {
        ignore: patterns(&args)?,
        parent: Parent::Newest,
        change_by: change_by(&args.change_by),
        dry_run: args.dry_run,
        description: describe(context, &args, &*source)?,
    };
    let repository = context.open().await?;
    options.parent = parent(&args, &repository, source.kind()).await?;
    let cancel = super::cancel_on_signals("what was uploaded is kept")?;
    let bar = if args.no_progress || args.dry_run { Bar::Unwanted } else { Bar::Wanted };
    let lists = args.dry_run || context.globals.verbose;
    let progress = Progress::begin(context, "backup", bar, lists);
    let counting = Cancel::default();
    let counter = count(&repository, &source, &options, &progress, &counting);
    let done = Box::pin(backup(&repository, source, options, progress.clone(), cancel.clone())).await;
    counting.cancel();
    counter.abort();
    progress.end();
    let done = done.map_err(|e| match e.kind() {
        ErrorKind::Cancelled => {
            Failure::new("the backup was stopped before it was whole: there is no snapshot of it")
                .with_code(ExitCode::Interrupted)
                .with_hint("what was uploaded is kept: the same backup again goes on from there")
                .into()
        }
        _ => anyhow::Error::new(e).context("the backup failed"),
    })?;
    if args.dry_run {
        progress.sum_up_failures(done.errors, None);
    } else {
        let id = done.snapshot.id.short();
        progress.sum_up_failures(done.errors, Some(&format!("`plakar info -errors {id}`")));
    }
    idle_patterns(&done, &*progress);
    summarize(context, &args, &done, &progress)?;
    if args.check && !args.dry_run {
        let code = check_new(context, &repository, done.snapshot, cancel).await?;
        if code != ExitCode::Ok {
            return Ok(code);
        }
    }
    // What they name was uploaded again where this backup needed it; older snapshots may miss it.
    let unreadable = repository.unreadable_states();
    for (id, reason) in &unreadable {
        let object = format!("states/{id}");
        screen::line(&match context.json() {
            true => json!({ "type": "error", "object": object, "reason": reason }).to_string(),
            // The reason names it.
            false => format!("error: {}", report::tidy(reason)),
        });
    }
    Ok(match (unreadable.len(), done.errors) {
        (1.., _) => ExitCode::Damaged,
        (0, 1..) => ExitCode::CompletedWithErrors,
        (0, 0) => ExitCode::Ok,
    })
}

fn change_by(marks: &[Mark]) -> ChangeBy {
    let has = |mark| marks.contains(&mark);
    ChangeBy {
        mtime: has(Mark::Mtime),
        ctime: match (has(Mark::Ctime), has(Mark::UnexplainedCtime)) {
            (true, _) => Ctime::Any,
            (false, true) => Ctime::Unexplained,
            (false, false) => Ctime::Ignored,
        },
        inode: has(Mark::Inode),
        volume: has(Mark::Volume),
    }
}

/// What the backup is compared with.
async fn parent(args: &BackupArgs, repository: &Arc<Repository>, kind: &str) -> anyhow::Result<Parent> {
    if args.reread || args.cache == "no" {
        return Ok(Parent::None);
    }
    match &args.parent {
        None => Ok(Parent::Newest),
        Some(none) if none == "none" => Ok(Parent::None),
        Some(id) => {
            let catalog = repository.catalog().await?;
            let snapshot = super::find_whole(id, &catalog, &Filter::default(), "backup")?;
            if snapshot.source != kind {
                let text =
                    format!("-parent {}: its source is {}, not {kind}", snapshot.id.short(), snapshot.source);
                return Err(Failure::usage(text, Some(&["backup".into()])).into());
            }
            Ok(Parent::Snapshot(snapshot.id))
        }
    }
}

/// How many patterns without effect are told one by one.
const FEW_PATTERNS: usize = 3;

/// Tells of patterns that fitted nothing: each with what may be wrong with it, or, of many, all on one line. A list that
/// serves for many machines has most of its patterns idle on each.
fn idle_patterns(done: &BackupReport, monitor: &dyn Monitor) {
    let idle = &done.idle_patterns;
    let notice = |text: &str| monitor.event(Event::Notice { text });
    let (told, other): (Vec<_>, Vec<_>) =
        idle.iter().partition(|(_, cause)| idle.len() <= FEW_PATTERNS || cause.is_some());
    for (pattern, cause) in told.iter().take(2 * FEW_PATTERNS) {
        let cause = cause.unwrap_or("nothing has such a name");
        notice(&format!("the pattern {pattern} fitted nothing: {cause}"));
    }
    let rest: Vec<&str> =
        told.iter().skip(2 * FEW_PATTERNS).chain(&other).map(|(pattern, _)| pattern.as_str()).collect();
    if !rest.is_empty() {
        let count = text::counted(rest.len() as u64, "pattern");
        let most = 8;
        let more = if rest.len() > most { ", …" } else { "" };
        notice(&format!("{count} fitted nothing: {}{more}", rest[..rest.len().min(most)].join(", ")));
    }
}

/// For a bar that has no previous backup to tell how much there is: counts beside the backup, as a dry run, once that
/// has gone on for a moment. The backup's own scan then finds what was counted in the system's caches.
fn count(
    repository: &Arc<Repository>,
    source: &Arc<dyn Importer>,
    options: &BackupOptions,
    progress: &Arc<Progress>,
    cancel: &Cancel,
) -> tokio::task::JoinHandle<()> {
    let (repository, source, progress) = (repository.clone(), source.clone(), progress.clone());
    let options = BackupOptions { dry_run: true, ..options.clone() };
    let cancel = cancel.clone();
    tokio::spawn(async move {
        tokio::time::sleep(Duration::from_secs(1)).await;
        if !progress.wants_total() {
            return;
        }
        let counted = Arc::<Counted>::default();
        let done = Box::pin(backup(&repository, source, options, counted.clone(), cancel)).await;
        if done.is_ok() {
            let get = |n: &AtomicU64| n.load(Ordering::Relaxed);
            progress.event(Event::Total { entries: get(&counted.entries), bytes: get(&counted.bytes) });
        }
    })
}

/// How much a dry run has met.
#[derive(Debug, Default)]
struct Counted {
    entries: AtomicU64,
    bytes: AtomicU64,
}

impl Monitor for Counted {
    fn event(&self, event: Event<'_>) {
        if let Event::Entry { bytes, .. } = event {
            self.entries.fetch_add(1, Ordering::Relaxed);
            self.bytes.fetch_add(bytes, Ordering::Relaxed);
        }
    }
}

fn source(context: &AppContext, args: &BackupArgs) -> anyhow::Result<Arc<dyn Importer>> {
    let mut options = FsImportOptions { one_file_system: args.one_file_system, xattrs: !args.no_xattr };
    let mut paths = Vec::new();
    let mut given = Options::new();
    for path in &args.paths {
        let place = context.place(path, Section::Source)?;
        paths.push(location::local(&place.location, &context.env)?);
        given.extend(place.options);
    }
    // Those on the command line come last, and count.
    for option in &args.options {
        let (key, value) = option.split_once('=').unwrap_or((option, ""));
        given.insert(key.to_owned(), value.to_owned());
    }
    if let Some(value) = given.get("dont_traverse_fs") {
        options.one_file_system |= value.parse::<bool>().map_err(|_| {
            let text = format!("dont_traverse_fs={value}: it is true or false");
            Failure::usage(text, Some(&["backup".into()]))
        })?;
    }
    if let Some(option) = args.options.iter().find(|o| o.split('=').next() != Some("dont_traverse_fs")) {
        let text = format!("-o {option}: files take dont_traverse_fs=true or =false");
        return Err(Failure::usage(text, Some(&["backup".into()])).into());
    }
    if paths.is_empty() {
        paths.push(PathBuf::from("."));
    }
    for path in &paths {
        if path.symlink_metadata().is_ok_and(|m| m.is_symlink())
            && let Ok(there) = path.canonicalize()
        {
            let shown = |p: &std::path::Path| text::printable(p.as_os_str().as_bytes()).into_owned();
            context.notice(&format!(
                "{} is a symlink: {}, where it leads, is backed up, and not the symlink",
                shown(path),
                shown(&there)
            ));
        }
    }
    files(paths, options)
}

/// Files of this machine as a source.
pub(crate) fn files(paths: Vec<PathBuf>, options: FsImportOptions) -> anyhow::Result<Arc<dyn Importer>> {
    match FsImporter::new(paths, options) {
        Ok(source) => Ok(Arc::new(source)),
        // It names the path that it is about.
        Err(e) => Err(Failure::new(format!("cannot back up {}", report::tidy(&e.to_string())))
            .with_hint("every path that is named must exist")
            .into()),
    }
}

/// Patterns of files first, in order, then those of -ignore.
fn patterns(args: &BackupArgs) -> anyhow::Result<Vec<Pattern>> {
    let mut patterns = Vec::new();
    for file in &args.ignore_file {
        let what = || format!("cannot read the ignore file {}", file.display());
        let mut text = String::new();
        let opened = std::fs::File::open(file).with_context(what)?;
        opened.take(MAX_PATTERNS).read_to_string(&mut text).with_context(what)?;
        let text = text.strip_prefix('\u{feff}').unwrap_or(&text);
        // As in git, what belongs to a place belongs to the file's folder.
        let file = std::fs::canonicalize(file).ok();
        let folder = file.as_ref().and_then(|f| f.parent()).map(|f| f.as_os_str().as_bytes().to_vec());
        let lines = text.lines().filter(|line| !line.trim().is_empty() && !line.starts_with('#'));
        patterns.extend(lines.map(|line| Pattern { text: line.into(), folder: folder.clone() }));
    }
    patterns.extend(args.ignore.iter().map(|text| Pattern::from(text.as_str())));
    Ok(patterns)
}

fn describe(context: &AppContext, args: &BackupArgs, source: &dyn Importer) -> anyhow::Result<Description> {
    let now = jiff::Timestamp::now().as_nanosecond() as i64;
    if args.force_timestamp.is_some_and(|t| t > now) {
        return Err(Failure::usage("-force-timestamp lies in the future", Some(&["backup".into()])).into());
    }
    let given = if args.tag.is_empty() { context.env.text("PLAKAR_TAGS").unwrap_or("") } else { "" };
    let tags = args.tag.iter().map(String::as_str).chain(given.split(','));
    let mut tags: Vec<String> = tags.map(|t| t.trim().to_owned()).filter(|t| !t.is_empty()).collect();
    let mut seen = std::collections::HashSet::new();
    tags.retain(|t| seen.insert(t.clone()));
    Ok(Description {
        time_ns: args.force_timestamp.unwrap_or(0),
        name: args.name.clone(),
        category: args.category.clone(),
        environment: args.environment.clone(),
        perimeter: args.perimeter.clone(),
        job: args.job.clone(),
        tags,
        ..description(context, source)
    })
}

/// What a snapshot that is made here says of how it was made.
pub(crate) fn description(context: &AppContext, source: &dyn Importer) -> Description {
    let uid = rustix::process::getuid().as_raw();
    let machine = std::fs::read_to_string("/etc/machine-id").unwrap_or_default();
    Description {
        host: super::host_name(),
        user: source.user_name(uid).unwrap_or_else(|| uid.to_string()),
        system: std::env::consts::OS.into(),
        architecture: std::env::consts::ARCH.into(),
        machine: machine.trim().into(),
        command_line: context.command_line.clone(),
        client: CLIENT.into(),
        ..Description::default()
    }
}

fn summarize(
    context: &AppContext,
    args: &BackupArgs,
    report: &BackupReport,
    progress: &Progress,
) -> anyhow::Result<()> {
    let s = &report.snapshot;
    let mut out = Output::new();
    if context.json() {
        let (entries, bytes) = progress.entries();
        let summary = match args.dry_run {
            true => json!({
                "type": "summary", "command": "backup", "dry_run": true,
                "entries": entries, "bytes": bytes, "errors": report.errors,
            }),
            false => json!({
                "type": "summary", "command": "backup", "dry_run": false,
                "snapshot": json::snapshot(s),
                "files_read": report.files_read,
                "errors": report.errors,
                "elapsed_seconds": progress.elapsed().as_secs_f64(),
            }),
        };
        out.json(&summary)?;
    } else if args.dry_run {
        let (entries, bytes) = progress.entries();
        context.notice(&format!(
            "{} of {} would be backed up; nothing was stored",
            text::counted(entries, "entry"),
            text::size(bytes)
        ));
    } else if !context.globals.silent {
        out.line(sentence(report, &text::duration(progress.elapsed())))?;
    }
    out.flush()
}

/// `1093df0c: backup completed without errors in 28.7ms (in: 1.2 MiB, out: 20.1 KiB): 12 of 1,234 files read, 1.0 GiB in all`
fn sentence(report: &BackupReport, took: &str) -> String {
    let s = &report.snapshot;
    let errors = text::with_errors(report.errors);
    format!(
        "{}: backup completed {errors} in {took} (in: {}, out: {}): {} of {} read, {} in all",
        s.id.short(),
        text::size(s.read_bytes),
        text::size(report.written_bytes),
        text::count(report.files_read),
        text::counted(s.summary().files, "file"),
        text::size(s.summary().bytes),
    )
}

async fn check_new(
    context: &AppContext,
    repository: &Arc<Repository>,
    snapshot: Snapshot,
    cancel: Cancel,
) -> anyhow::Result<ExitCode> {
    let id = snapshot.id.short();
    let progress = Progress::begin(context, "check", Bar::Wanted, false);
    let what = [(Arc::new(snapshot), b"/".to_vec())];
    let done = Box::pin(check(repository, &what, Depth::Full, Scope::Trees, progress.clone(), cancel)).await;
    progress.end();
    super::check::conclude(context, &done?, Depth::Full, &progress, Some(&id))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_summary_is_one_line() {
        let snapshot = Snapshot { read_bytes: 0, ..Snapshot::empty() };
        let report = BackupReport {
            snapshot,
            errors: 0,
            files_read: 3,
            written_bytes: 1 << 20,
            idle_patterns: vec![],
        };
        assert_eq!(
            sentence(&report, "28.7ms"),
            "00000000: backup completed without errors in 28.7ms (in: 0 B, out: 1.0 MiB): 3 of 0 files read, 0 B in all"
        );
    }
}
