//! `plakar ptar`.

use std::ffi::{OsStr, OsString};
use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context;
use plakar_connectors::fs::FsImportOptions;
use plakar_connectors::ptar::PtarWriter;
use plakar_engine::cache::LocalDirs;
use plakar_engine::cancel::Cancel;
use plakar_engine::error::{Error, ErrorKind};
use plakar_engine::importer::Importer;
use plakar_engine::ops::backup::{BackupOptions, Parent, backup};
use plakar_engine::ops::sync::sync;
use plakar_engine::repository::{self, CreateOptions, Probe, Repository};
use plakar_engine::storage::{Store, StoreErrorKind};
use serde_json::json;
use tempfile::NamedTempFile;

use super::backup::{description, files};
use crate::context::AppContext;
use crate::exit_code::ExitCode;
use crate::progress::{Bar, Progress};
use crate::report::{self, Failure};
use crate::screen::{self, Output};
use crate::settings::Section;
use crate::{secret, text};

/// Put files, or whole stores, into one file that is a store
///
/// The file holds what a store does, encrypted under a passphrase of its own, deduplicated and compressed. It is opened as
/// every store is: `plakar at FILE.ptar ls`, `mount`, `restore`, `check`, `sync from FILE.ptar`; it is never changed.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  plakar ptar -o photos.ptar ~/Pictures\n  plakar ptar -o all.ptar -k @nas\n  plakar ptar -o - /etc | ssh host 'cat >etc.ptar'"
)]
pub(crate) struct PtarArgs {
    /// The file; - is the standard output
    #[arg(long = "o", value_name = "FILE", required = true)]
    output: OsString,
    /// Do not encrypt: whoever can read the file can read what is in it
    #[arg(long)]
    plaintext: bool,
    /// Do not compress
    #[arg(long)]
    no_compression: bool,
    /// Replace the file if it is there
    #[arg(long)]
    overwrite: bool,
    /// Copy all snapshots of this store into it; repeatable
    #[arg(long = "k", visible_alias = "kloset", value_name = "STORE")]
    stores: Vec<OsString>,
    /// Accept a weak passphrase without a word
    #[arg(long)]
    weak_passphrase: bool,
    /// Show no progress
    #[arg(long)]
    no_progress: bool,
    /// Taken for the sake of scripts: names are BLAKE3
    #[arg(long, value_name = "NAME", hide = true)]
    hashing: Option<String>,
    /// Files and directories, or @NAME of a source: one snapshot of them all. Without any, and without -k, the current directory
    #[arg(value_name = "PLACE")]
    places: Vec<OsString>,
}

/// Where it goes.
enum Target {
    Pipe,
    /// Beside its place, until it is whole.
    File(NamedTempFile, PathBuf),
}

/// Runs it.
pub(crate) async fn run(context: &AppContext, args: PtarArgs) -> anyhow::Result<ExitCode> {
    if args.hashing.as_ref().is_some_and(|h| !h.eq_ignore_ascii_case("blake3")) {
        return Err(Failure::usage("-hashing: names are always BLAKE3", Some(&["ptar".into()])).into());
    }
    let source = source(context, &args)?;
    let mut target = target(&args)?;
    let given = if args.plaintext { None } else { secret::given(context)? };
    if given.is_none() && !args.plaintext {
        secret::need_terminal("the new ptar")?;
    }
    let mut peers = Vec::new();
    for store in &args.stores {
        peers.push(context.open_peer(store, None, given.clone()).await?);
    }
    let secret = match args.plaintext {
        true => None,
        false => Some(secret::for_new(context, given, "the new ptar", args.weak_passphrase)?),
    };
    let writer = writer(&args, &mut target)?;
    let store: Arc<dyn Store> = Arc::new(writer.clone());
    let options = CreateOptions { no_compression: args.no_compression, ..CreateOptions::default() };
    let failed = |e: Error| failure(&args, e);
    repository::create(&store, secret.as_ref(), &options).await.map_err(failed)?;
    // What is known here of a ptar that is being written is of no use later.
    let local = tempfile::tempdir().context("cannot make a temporary directory")?;
    let dirs = LocalDirs { cache: local.path().join("cache"), state: local.path().join("state") };
    let probe = Probe::read(&store).await?;
    let repository = Box::pin(Repository::open(store, probe, secret, &dirs)).await?;
    let cancel = super::cancel_on_signals("nothing is kept")?;
    let bar = if args.no_progress { Bar::Unwanted } else { Bar::Wanted };
    let progress = Progress::begin(context, "ptar", bar, false);
    let done = Box::pin(fill(&repository, &peers, source, context, &progress, &cancel)).await;
    progress.end();
    let (snapshots, errors, code) = done.map_err(failed)?;
    let bytes = writer.finish().await.map_err(|e| failed(e.into()))?;
    if let Target::File(file, path) = target {
        let what = || format!("cannot write {}", path.display());
        file.as_file().sync_all().with_context(what)?;
        match args.overwrite {
            true => drop(file.persist(&path).map_err(|e| e.error).with_context(what)?),
            false => drop(file.persist_noclobber(&path).map_err(|e| e.error).with_context(what)?),
        }
    }
    summarize(context, &args, snapshots, errors, bytes, &progress)?;
    Ok(code)
}

fn failure(args: &PtarArgs, e: Error) -> anyhow::Error {
    let file = shown(&args.output);
    let is_full = report::store_error(&e).is_some_and(|e| e.kind() == StoreErrorKind::NoSpace);
    match e.kind() {
        ErrorKind::Cancelled => Failure::new("stopped before the ptar was whole: there is none")
            .with_code(ExitCode::Interrupted)
            .into(),
        _ if is_full => Failure::new(format!("cannot write {file}: {}", plakar_engine::error::report(&e)))
            .with_hint("a ptar is written in one go: make room, and run it again")
            .into(),
        _ => anyhow::Error::new(e).context(format!("cannot write {file}")),
    }
}

fn shown(path: &OsStr) -> String {
    path.to_string_lossy().into_owned()
}

fn source(context: &AppContext, args: &PtarArgs) -> anyhow::Result<Option<Arc<dyn Importer>>> {
    let mut paths = Vec::new();
    for place in &args.places {
        paths.push(context.local(place, Section::Source)?);
    }
    if paths.is_empty() && args.stores.is_empty() {
        paths.push(PathBuf::from("."));
    }
    if paths.is_empty() {
        return Ok(None);
    }
    files(paths, FsImportOptions { one_file_system: false, xattrs: true }).map(Some)
}

fn target(args: &PtarArgs) -> anyhow::Result<Target> {
    if args.output == "-" {
        if std::io::stdout().is_terminal() {
            return Err(Failure::usage("a ptar is not shown on a terminal", Some(&["ptar".into()])).into());
        }
        return Ok(Target::Pipe);
    }
    let path = std::path::absolute(&args.output).unwrap_or_else(|_| PathBuf::from(&args.output));
    if !args.overwrite && path.symlink_metadata().is_ok() {
        let failure = Failure::new(format!("{} is there already", shown(&args.output)));
        return Err(failure.with_hint("-overwrite replaces it").into());
    }
    let folder = path.parent().unwrap_or(Path::new("/"));
    let made = tempfile::Builder::new().prefix(".plakar-").suffix(".tmp").tempfile_in(folder);
    Ok(Target::File(made.with_context(|| format!("cannot write to {}", folder.display()))?, path))
}

fn writer(args: &PtarArgs, target: &mut Target) -> anyhow::Result<PtarWriter> {
    let location = shown(&args.output);
    let (out, back): (Box<dyn Write + Send>, _) = match target {
        Target::Pipe => (Box::new(std::io::stdout()), None),
        Target::File(file, _) => {
            let again = || file.as_file().try_clone().context("cannot open the new file twice");
            (Box::new(again()?), Some(again()?))
        }
    };
    PtarWriter::begin(location, out, back).map_err(|e| failure(args, e.into()))
}

/// Copies stores and backs places up; how many snapshots there are, how many errors, and the exit code.
async fn fill(
    repository: &Arc<Repository>,
    peers: &[Arc<Repository>],
    source: Option<Arc<dyn Importer>>,
    context: &AppContext,
    progress: &Arc<Progress>,
    cancel: &Cancel,
) -> Result<(u64, u64, ExitCode), Error> {
    let (mut snapshots, mut errors, mut code) = (0, 0, ExitCode::Ok);
    for peer in peers {
        let catalog = peer.catalog().await?;
        let host = super::host_name();
        let done = sync(peer, repository, &catalog.snapshots, &host, progress.clone(), cancel.clone());
        let report = Box::pin(done).await?;
        super::sync::tell_failed(&report);
        if super::report_broken(context, &catalog) || !report.failed.is_empty() {
            code = ExitCode::Damaged;
        }
        snapshots += report.copied.len() as u64;
        errors += report.failed.len() as u64;
    }
    if let Some(source) = source {
        let options = BackupOptions {
            ignore: Vec::new(),
            parent: Parent::None,
            description: description(context, &*source),
            ..BackupOptions::default()
        };
        let done = Box::pin(backup(repository, source, options, progress.clone(), cancel.clone())).await?;
        progress.sum_up_failures(done.errors, None);
        snapshots += 1;
        errors += done.errors;
        if done.errors > 0 && code == ExitCode::Ok {
            code = ExitCode::CompletedWithErrors;
        }
    }
    Ok((snapshots, errors, code))
}

fn summarize(
    context: &AppContext,
    args: &PtarArgs,
    snapshots: u64,
    errors: u64,
    bytes: u64,
    progress: &Progress,
) -> anyhow::Result<()> {
    let to = if args.output == "-" { "the standard output".to_owned() } else { shown(&args.output) };
    let line = match context.json() {
        true => json!({
            "type": "summary", "command": "ptar", "file": to, "snapshots": snapshots, "errors": errors,
            "bytes": bytes, "elapsed_seconds": progress.elapsed().as_secs_f64(),
        })
        .to_string(),
        false => format!(
            "ptar completed {} in {}: {} in {to}, {}",
            text::with_errors(errors),
            text::duration(progress.elapsed()),
            text::counted(snapshots, "snapshot"),
            text::size(bytes)
        ),
    };
    if context.globals.silent && !context.json() {
        return Ok(());
    }
    if args.output == "-" {
        screen::line(&line);
        return Ok(());
    }
    let mut out = Output::new();
    out.line(line)?;
    out.flush()
}
