//! `plakar repair`.

use plakar_engine::repository::repair::Fault;
use serde_json::json;

use crate::context::AppContext;
use crate::exit_code::ExitCode;
use crate::screen::Output;

/// Mend a store
///
/// So far: CONFIG, which says what a store was created with and without which nothing can be read, is written again from
/// its copy, and the copy from CONFIG. Without -apply it shows what it would do, and changes nothing. Lost states and
/// missing data are to come.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  plakar repair\n  plakar repair -apply")]
pub(crate) struct RepairArgs {
    /// Do it
    #[arg(long)]
    apply: bool,
}

/// Runs it.
pub(crate) async fn run(context: &AppContext, args: RepairArgs) -> anyhow::Result<ExitCode> {
    let repository = context.open().await?;
    let faults = repository.faults().await?;
    if args.apply {
        repository.mend(&faults).await?;
    }
    let steps: Vec<(String, String)> = faults.iter().map(describe).collect();
    let mut out = Output::new();
    if context.json() {
        let step = |(object, what): &(String, String)| json!({ "object": object, "step": what });
        out.json(&json!({
            "type": "summary",
            "command": "repair",
            "applied": args.apply,
            "steps": steps.iter().map(step).collect::<Vec<_>>(),
        }))?;
    } else if !context.globals.silent {
        match (steps.len(), args.apply) {
            (0, _) => out.line("repair: nothing to mend was found; `plakar check` looks at everything")?,
            (_, true) => out.line("repair: done")?,
            (_, false) => out.line("repair: would do this, run with -apply to proceed")?,
        }
        for (object, what) in &steps {
            out.line(format_args!("  {object}: {what}"))?;
        }
    }
    out.flush()?;
    Ok(ExitCode::Ok)
}

fn describe(fault: &Fault) -> (String, String) {
    match fault {
        Fault::Config(why) => ("CONFIG".into(), format!("write it again from its copy ({why})")),
        Fault::NoCopy => ("keys".into(), "write a copy of CONFIG".into()),
        Fault::Copy(id) => (format!("keys/{id}"), "remove it: it is damaged, and is no key".into()),
    }
}
