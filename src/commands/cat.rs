//! `plakar cat`.

use std::ffi::OsString;

use plakar_engine::frame_source::Purpose;
use plakar_engine::meta::Kind;
use plakar_engine::select::Filter;
use plakar_engine::tree::Entry;
use plakar_engine::vfs::Vfs;

use super::find;
use crate::context::AppContext;
use crate::exit_code::ExitCode;
use crate::report::{Failure, Report};
use crate::screen::{self, Output};
use crate::text;

/// Write files of snapshots to standard output
///
/// Several are written one after another. What cannot be read is named on standard error, and the exit code is 1.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  plakar cat latest:etc/passwd")]
pub(crate) struct CatArgs {
    /// A file: the beginning of a snapshot's id or latest, and a path, absolute or below what was backed up
    #[arg(value_name = "SNAPSHOT:PATH", required = true)]
    files: Vec<OsString>,
}

/// How much is read at once.
const PIECE: u64 = 4 << 20;

/// Runs it.
pub(crate) async fn run(context: &AppContext, args: CatArgs) -> anyhow::Result<ExitCode> {
    let repository = context.open().await?;
    let catalog = repository.catalog().await?;
    let vfs = super::vfs(&repository).await?;
    let mut out = Output::new();
    let mut code = ExitCode::Ok;
    for file in &args.files {
        let done = async {
            let (snapshot, path) = find(file, &catalog, &Filter::default())?;
            let entry = vfs.resolve(&snapshot, &path).await?;
            if entry.meta.kind != Kind::Regular {
                let what = text::kind(entry.meta.kind);
                let text = format!("{} is a {what}, not a regular file", text::printable(&path));
                return Err(Failure::new(text).into());
            }
            copy(&vfs, &entry, &mut out).await
        };
        match done.await {
            Ok(()) => {}
            Err(e) if screen::is_closed(&e) => return Err(e),
            Err(e) => {
                // What was written so far belongs before the message.
                out.flush()?;
                let report = Report::of(&e, context.store_hint().as_deref());
                report.print(context.json());
                code = if report.code == ExitCode::Damaged { report.code } else { ExitCode::Failed };
            }
        }
    }
    out.flush()?;
    Ok(code)
}

/// Writes a file, reading the next piece while one is written.
async fn copy(vfs: &Vfs, entry: &Entry, out: &mut Output) -> anyhow::Result<()> {
    let read = |at: u64| {
        let (vfs, entry) = (vfs.clone(), entry.clone());
        tokio::spawn(async move { vfs.read(&entry, at..at.saturating_add(PIECE), Purpose::OnDemand).await })
    };
    let mut next = read(0);
    let mut at = 0;
    loop {
        let piece = next.await??;
        at += piece.len() as u64;
        if piece.is_empty() {
            return Ok(());
        }
        next = read(at);
        for part in piece.iter() {
            out.bytes(part)?;
        }
    }
}
