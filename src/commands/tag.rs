//! `plakar tag` and `plakar describe`: what people say of snapshots afterwards.

use std::ffi::OsString;

use plakar_engine::removal::NoteKind;
use plakar_engine::repository::Repository;
use plakar_engine::repository::catalog::Catalog;
use plakar_engine::select::Filter;
use plakar_engine::snapshot::Snapshot;
use serde_json::json;
use std::sync::Arc;

use super::find_whole;
use crate::context::AppContext;
use crate::exit_code::ExitCode;
use crate::report::Failure;
use crate::screen::Output;
use crate::text;

/// Change the tags of snapshots
///
/// The snapshots themselves never change: this is noted beside them, and holds from then on for every command.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  plakar tag -add finance,2026 1093df0c\n  plakar tag -rm draft latest\n  plakar tag -set '' latest"
)]
pub(crate) struct TagArgs {
    /// Add these
    #[arg(long, value_name = "LIST", value_delimiter = ',')]
    add: Vec<String>,
    /// Take these away
    #[arg(long, value_name = "LIST", value_delimiter = ',')]
    rm: Vec<String>,
    /// These in place of all that there are
    #[arg(long, value_name = "LIST", value_delimiter = ',', conflicts_with_all = ["add", "rm"])]
    set: Option<Vec<String>>,
    /// The beginnings of snapshots' ids, or latest
    #[arg(value_name = "SNAPSHOT", required = true)]
    snapshots: Vec<OsString>,
}

/// Give a snapshot a name, or words that describe it
///
/// An empty text takes it away again. `plakar info` shows it.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  plakar describe 1093df0c 'before the upgrade'\n  plakar describe -name golden latest"
)]
pub(crate) struct DescribeArgs {
    /// Its name, by which `-name` finds it
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
    /// The beginning of the snapshot's id, or latest
    #[arg(value_name = "SNAPSHOT")]
    snapshot: OsString,
    /// What to say of it
    #[arg(value_name = "TEXT", required_unless_present = "name")]
    text: Option<String>,
}

/// Changes tags.
pub(crate) async fn tag(context: &AppContext, args: TagArgs) -> anyhow::Result<ExitCode> {
    if args.add.is_empty() && args.rm.is_empty() && args.set.is_none() {
        return Err(Failure::usage("tag needs -add, -rm or -set", Some(&["tag".into()])).into());
    }
    let (repository, catalog, snapshots) = find(context, &args.snapshots, "tag").await?;
    let mut out = Output::new();
    for s in &snapshots {
        let mut tags = args.set.clone().unwrap_or_else(|| s.tags.clone());
        tags.extend(args.add.iter().cloned());
        let mut wanted: Vec<String> = Vec::new();
        for tag in
            tags.iter().map(|t| t.trim()).filter(|t| !t.is_empty() && !args.rm.iter().any(|r| r.trim() == *t))
        {
            if !wanted.iter().any(|t| t == tag) {
                wanted.push(tag.to_owned());
            }
        }
        if wanted != s.tags {
            repository.note(&catalog, NoteKind::Tags, s.id, &wanted).await?;
        }
        if context.json() {
            out.json(&json!({ "type": "tags", "id": s.id.to_string(), "tags": wanted }))?;
        } else if context.is_talkative() {
            let shown = if wanted.is_empty() { "none".to_owned() } else { wanted.join(", ") };
            out.line(format_args!("{}: {}", s.id.short(), text::printable(shown.as_bytes())))?;
        }
    }
    if context.json() {
        out.json(&json!({ "type": "summary", "command": "tag", "snapshots": snapshots.len() }))?;
    }
    out.flush()?;
    Ok(ExitCode::Ok)
}

/// Names or describes.
pub(crate) async fn describe(context: &AppContext, args: DescribeArgs) -> anyhow::Result<ExitCode> {
    let (repository, catalog, snapshots) = find(context, &[args.snapshot], "describe").await?;
    for s in &snapshots {
        let notes = [(NoteKind::Name, &args.name), (NoteKind::Description, &args.text)];
        for (kind, text) in notes.into_iter().filter_map(|(kind, text)| Some((kind, text.as_ref()?))) {
            let values: Vec<String> = (!text.is_empty()).then(|| text.clone()).into_iter().collect();
            repository.note(&catalog, kind, s.id, &values).await?;
        }
    }
    let mut out = Output::new();
    let ids: Vec<String> = snapshots.iter().map(|s| s.id.to_string()).collect();
    if context.json() {
        out.json(&json!({ "type": "summary", "command": "describe", "snapshots": ids }))?;
    } else if context.is_talkative() {
        for s in &snapshots {
            out.line(format_args!("describe: noted of {}", s.id.short()))?;
        }
    }
    out.flush()?;
    Ok(ExitCode::Ok)
}

async fn find(
    context: &AppContext,
    arguments: &[OsString],
    command: &str,
) -> anyhow::Result<(Arc<Repository>, Arc<Catalog>, Vec<Arc<Snapshot>>)> {
    let repository = context.open().await?;
    let catalog = repository.catalog().await?;
    let mut found: Vec<Arc<Snapshot>> = Vec::new();
    for argument in arguments {
        let snapshot = find_whole(argument, &catalog, &Filter::default(), command)?;
        if !found.iter().any(|s| s.id == snapshot.id) {
            found.push(snapshot);
        }
    }
    Ok((repository, catalog, found))
}
