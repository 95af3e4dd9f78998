//! `plakar rm`.

use std::ffi::OsString;
use std::sync::Arc;

use plakar_engine::id::ObjectId;
use plakar_engine::repository::catalog::Catalog;
use plakar_engine::select::Filter;
use plakar_engine::snapshot::Snapshot;
use serde_json::json;

use super::{find_whole, newest, room_of, write_snapshot};
use crate::cli::Query;
use crate::context::AppContext;
use crate::exit_code::ExitCode;
use crate::report::Failure;
use crate::screen::Output;
use crate::{json, text, time};

/// Remove snapshots
///
/// Without -apply it shows what it would remove, and removes nothing. Removed snapshots are gone from every list at
/// once; the room that they alone took becomes free later, by `plakar maintenance`, and until then `plakar undelete` brings
/// them back.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  plakar rm 1093df0c\n  plakar rm -before 1y -tag daily -apply")]
pub(crate) struct RmArgs {
    /// Do it
    #[arg(long)]
    apply: bool,
    #[command(flatten)]
    query: Query,
    /// The beginnings of snapshots' ids; without any, all that fit the options
    #[arg(value_name = "SNAPSHOT")]
    snapshots: Vec<OsString>,
}

/// What is to go.
#[derive(Debug, Default)]
struct Plan {
    snapshots: Vec<Arc<Snapshot>>,
    /// Those whose header cannot be read.
    broken: Vec<ObjectId>,
}

/// Runs it.
pub(crate) async fn run(context: &AppContext, args: RmArgs) -> anyhow::Result<ExitCode> {
    let filter = args.query.filter().map_err(Failure::new)?;
    if args.snapshots.is_empty() && filter.is_empty() {
        let failure = Failure::usage("rm needs snapshots, or options that choose some", Some(&["rm".into()]));
        return Err(failure.into());
    }
    let repository = context.open().await?;
    let catalog = repository.catalog().await?;
    let plan = plan(&args.snapshots, &catalog, &filter)?;
    if let Some(pinned) = plan.snapshots.iter().find(|s| catalog.pinned.contains(&s.id)) {
        let failure = Failure::new(format!("{} is pinned: it is not removed", pinned.id.short()));
        return Err(failure.with_hint("name the others by their ids, or take the pin away first").into());
    }
    let ids: Vec<ObjectId> = plan.snapshots.iter().map(|s| s.id).chain(plan.broken.iter().copied()).collect();
    let room = match context.globals.silent || !plan.broken.is_empty() {
        true => None,
        false => room_of(context, &repository, &ids).await,
    };
    if args.apply {
        repository.remove_snapshots(&ids, "plakar rm").await?;
    }
    let mut out = Output::new();
    if context.json() {
        out.json(&json!({
            "type": "summary",
            "command": "rm",
            "applied": args.apply,
            "snapshots": plan.snapshots.iter().map(|s| json::snapshot(s)).collect::<Vec<_>>(),
            "freed_bytes": room.map(|r| r.bytes),
            "freed_from": room.map(|r| time::exact_ns(r.from_ns)),
            "unreadable_snapshots": plan.broken.iter().map(ToString::to_string).collect::<Vec<_>>(),
        }))?;
    } else if !context.globals.silent {
        let these = match ids.len() as u64 {
            1 => "this snapshot".to_owned(),
            n => format!("these {}", text::counted(n, "snapshot")),
        };
        match args.apply {
            true => out.line(format_args!("rm: removed {these}"))?,
            false => out.line(format_args!("rm: would remove {these}, run with -apply to proceed"))?,
        }
        for s in &plan.snapshots {
            write_snapshot(&mut out, s, false, true)?;
        }
        for id in &plan.broken {
            out.line(format_args!("{:20} {:>10}  (its header cannot be read)", "", id.short()))?;
        }
        out.flush()?;
        if let Some(room) = room {
            context.notice(&room.to_string());
        }
    }
    out.flush()?;
    Ok(ExitCode::Ok)
}

fn plan(arguments: &[OsString], catalog: &Catalog, filter: &Filter) -> anyhow::Result<Plan> {
    let mut plan = Plan::default();
    if arguments.is_empty() {
        newest(catalog, filter)?;
        plan.snapshots = filter.select(catalog);
        return Ok(plan);
    }
    for argument in arguments {
        match find_whole(argument, catalog, filter, "rm") {
            Ok(snapshot) if plan.snapshots.iter().any(|s| s.id == snapshot.id) => {}
            Ok(snapshot) => plan.snapshots.push(snapshot),
            // One that cannot be read can still be named.
            Err(e) => match broken(argument, catalog) {
                Some(id) => plan.broken.push(id),
                None => return Err(e),
            },
        }
    }
    Ok(plan)
}

/// The one unreadable snapshot whose id begins like that, if none that can be read does.
fn broken(argument: &OsString, catalog: &Catalog) -> Option<ObjectId> {
    let prefix = argument.to_str()?.to_ascii_lowercase();
    let fits = |id: &ObjectId| !prefix.is_empty() && id.to_string().starts_with(&prefix);
    let mut found = catalog.broken.iter().map(|(id, _)| *id).filter(fits);
    let one = found.next()?;
    (found.next().is_none() && !catalog.snapshots.iter().any(|s| fits(&s.id))).then_some(one)
}
