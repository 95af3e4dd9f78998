//! `plakar help`.

use crate::context::AppContext;
use crate::exit_code::ExitCode;
use crate::report::Failure;
use crate::screen::{self, Output};
use crate::{cli, text};

/// Show how a command is used
#[derive(Debug, clap::Args)]
pub(crate) struct HelpArgs {
    /// The command; without one, an overview
    #[arg(value_name = "COMMAND")]
    command: Vec<String>,
}

/// Runs it.
pub(crate) fn run(context: &AppContext, args: &HelpArgs) -> anyhow::Result<ExitCode> {
    let width = screen::width();
    let page = match args.command.as_slice() {
        [] => cli::overview(width),
        path => cli::page(path, width).ok_or_else(|| {
            if let Some(failure) = cli::not_here(&path[0]) {
                return failure;
            }
            let failure = Failure::usage(format!("there is no command `plakar {}`", path.join(" ")), None);
            match text::nearest(&path[0], cli::names().iter().map(String::as_str)) {
                Some(near) => failure.with_hint(format!("did you mean `plakar help {near}`?")),
                None => failure.with_hint("`plakar help` lists what there is"),
            }
        })?,
    };
    let mut out = Output::new();
    match context.json() {
        true => {
            out.json(
                &serde_json::json!({ "type": "page", "command": args.command.join(" "), "text": page }),
            )?;
        }
        false => out.bytes(page.as_bytes())?,
    }
    out.flush()?;
    Ok(ExitCode::Ok)
}
