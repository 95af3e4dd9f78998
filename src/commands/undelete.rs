//! `plakar undelete`.

use std::sync::Arc;

use plakar_engine::cancel::Cancel;
use plakar_engine::error::report;
use plakar_engine::id::ObjectId;
use plakar_engine::monitor::Silent;
use plakar_engine::ops::check::{Depth, Scope, check};
use plakar_engine::repository::Repository;
use plakar_engine::snapshot::Snapshot;
use serde_json::json;

use super::write_snapshot;
use crate::context::AppContext;
use crate::exit_code::ExitCode;
use crate::json;
use crate::report::Failure;
use crate::screen::{self, Output};

/// Bring removed snapshots back
///
/// Without any named it lists those that can be brought back: what `rm` or `prune` removed and maintenance has not taken
/// yet. Within the store's grace period, a week, all of it is there for sure; after that it is first looked up.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  plakar undelete\n  plakar undelete 1093df0c")]
pub(crate) struct UndeleteArgs {
    /// The beginnings of ids of removed snapshots
    #[arg(value_name = "SNAPSHOT")]
    snapshots: Vec<String>,
}

/// Runs it.
pub(crate) async fn run(context: &AppContext, args: UndeleteArgs) -> anyhow::Result<ExitCode> {
    let repository = context.open().await?;
    let catalog = repository.catalog().await?;
    let mut code = ExitCode::Ok;
    let mut deleted: Vec<Arc<Snapshot>> = Vec::new();
    for (id, snapshot) in repository.deleted_snapshots(&catalog).await {
        match snapshot {
            Ok(snapshot) => deleted.push(Arc::new(snapshot)),
            Err(e) => {
                code = ExitCode::Damaged;
                screen::event("error", &format!("error: removed snapshot {}: {}", id.short(), report(&e)));
            }
        }
    }
    deleted.sort_by_key(|s| (std::cmp::Reverse(s.time_ns), s.id));
    let chosen: Vec<Arc<Snapshot>> = match args.snapshots.as_slice() {
        [] => deleted,
        named => named.iter().map(|prefix| choose(&deleted, prefix)).collect::<Result<_, _>>()?,
    };
    let applied = !args.snapshots.is_empty();
    if applied {
        let ids: Vec<ObjectId> = chosen.iter().map(|s| s.id).collect();
        is_whole(&repository, &chosen).await?;
        repository.undelete_snapshots(&catalog, &ids).await?;
    }
    let mut out = Output::new();
    if context.json() {
        for snapshot in &chosen {
            out.json(&json::snapshot(snapshot))?;
        }
        let count = chosen.len();
        out.json(
            &json!({ "type": "summary", "command": "undelete", "applied": applied, "snapshots": count }),
        )?;
    } else if !context.globals.silent {
        if applied {
            out.line("undelete: these are back")?;
        }
        for snapshot in &chosen {
            write_snapshot(&mut out, snapshot, false, true)?;
        }
        if chosen.is_empty() {
            out.flush()?;
            context.notice("no snapshot is removed that could be brought back");
        }
    }
    out.flush()?;
    Ok(code)
}

/// Fails unless all that the snapshots need is still there.
async fn is_whole(repository: &Arc<Repository>, chosen: &[Arc<Snapshot>]) -> anyhow::Result<()> {
    let what: Vec<_> = chosen.iter().map(|s| (s.clone(), b"/".to_vec())).collect();
    let (silent, cancel) = (Arc::new(Silent), Cancel::default());
    let found = Box::pin(check(repository, &what, Depth::Fast, Scope::Trees, silent, cancel)).await?;
    match found.problems.first() {
        None => Ok(()),
        Some((path, reason)) => {
            let message = format!("what these need is no longer all there: {path}: {reason}");
            let hint = "maintenance has deleted it; what is left of one cannot be told from the rest";
            Err(Failure::new(message).with_code(ExitCode::Damaged).with_hint(hint).into())
        }
    }
}

fn choose(deleted: &[Arc<Snapshot>], prefix: &str) -> Result<Arc<Snapshot>, Failure> {
    let wanted = prefix.to_ascii_lowercase();
    let mut found = deleted.iter().filter(|s| !wanted.is_empty() && s.id.to_string().starts_with(&wanted));
    let hint = "`plakar undelete` lists those that can be brought back";
    match (found.next(), found.next()) {
        (Some(one), None) => Ok(one.clone()),
        (Some(_), Some(_)) => {
            Err(Failure::new(format!("{prefix} fits several removed snapshots")).with_hint(hint))
        }
        (None, _) => {
            Err(Failure::new(format!("no removed snapshot has the prefix {prefix}")).with_hint(hint))
        }
    }
}
