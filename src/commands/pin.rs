//! `plakar pin` and `plakar unpin`.

use std::ffi::OsString;

use plakar_engine::removal::NoteKind;
use plakar_engine::select::Filter;
use serde_json::json;

use super::find_whole;
use crate::context::AppContext;
use crate::exit_code::ExitCode;
use crate::screen::Output;
use crate::text;

/// Protect snapshots: nothing removes them
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  plakar pin 1093df0c\n  plakar pin latest")]
pub(crate) struct PinArgs {
    /// The beginnings of snapshots' ids, or latest
    #[arg(value_name = "SNAPSHOT", required = true)]
    snapshots: Vec<OsString>,
}

/// Take the protection of snapshots away
#[derive(Debug, clap::Args)]
pub(crate) struct UnpinArgs {
    /// The beginnings of snapshots' ids, or latest
    #[arg(value_name = "SNAPSHOT", required = true)]
    snapshots: Vec<OsString>,
}

/// Pins.
pub(crate) async fn pin(context: &AppContext, args: PinArgs) -> anyhow::Result<ExitCode> {
    set(context, &args.snapshots, "pin", &["pinned".to_owned()]).await
}

/// Unpins.
pub(crate) async fn unpin(context: &AppContext, args: UnpinArgs) -> anyhow::Result<ExitCode> {
    set(context, &args.snapshots, "unpin", &[]).await
}

async fn set(
    context: &AppContext,
    snapshots: &[OsString],
    command: &str,
    values: &[String],
) -> anyhow::Result<ExitCode> {
    let repository = context.open().await?;
    let catalog = repository.catalog().await?;
    let mut ids = Vec::new();
    for argument in snapshots {
        let id = find_whole(argument, &catalog, &Filter::default(), command)?.id;
        if !ids.contains(&id) {
            ids.push(id);
        }
    }
    for id in &ids {
        if catalog.pinned.contains(id) == values.is_empty() {
            repository.note(&catalog, NoteKind::Pin, *id, values).await?;
        }
    }
    let mut out = Output::new();
    if context.json() {
        let ids: Vec<String> = ids.iter().map(ToString::to_string).collect();
        out.json(&json!({ "type": "summary", "command": command, "snapshots": ids }))?;
    } else if context.is_talkative() {
        let what = if values.is_empty() { "unpinned" } else { "pinned" };
        out.line(format_args!("{command}: {what} {}", text::counted(ids.len() as u64, "snapshot")))?;
    }
    out.flush()?;
    Ok(ExitCode::Ok)
}
