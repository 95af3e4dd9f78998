//! `plakar umount`.

use std::path::PathBuf;

use plakar_mount::{Unmount, daemon};
use serde_json::json;

use super::mount::explain;
use crate::context::AppContext;
use crate::exit_code::ExitCode;
use crate::screen::Output;
use crate::time;

/// Unmount what `plakar mount` has mounted, or list it
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  plakar umount\n  plakar umount /mnt/backups")]
pub(crate) struct UmountArgs {
    /// Take it from its place even while somebody uses it
    #[arg(long)]
    detach: bool,
    /// Where it is mounted; without it, the mounts are listed
    #[arg(value_name = "DIR")]
    directory: Option<PathBuf>,
}

/// Runs it.
pub(crate) async fn run(context: &AppContext, args: UmountArgs) -> anyhow::Result<ExitCode> {
    let state = context.dirs()?.state;
    let mut out = Output::new();
    let Some(directory) = args.directory else {
        let mounts = daemon::list(&state)?;
        for m in &mounts {
            if context.json() {
                out.json(&json!({
                    "mountpoint": m.mountpoint.to_string_lossy(),
                    "store": m.store,
                    "process": m.pid,
                    "since": time::show(m.mounted),
                }))?;
            } else {
                let place = m.mountpoint.display();
                out.line(format_args!("{} {place}: {} (process {})", time::show(m.mounted), m.store, m.pid))?;
            }
        }
        out.flush()?;
        if mounts.is_empty() {
            context.notice("nothing is mounted");
        }
        return Ok(ExitCode::Ok);
    };
    let how = if args.detach { Unmount::Detach } else { Unmount::IfUnused };
    let at = directory.clone();
    tokio::task::spawn_blocking(move || daemon::umount(&at, &state, how)).await?.map_err(explain)?;
    if context.json() {
        out.json(&json!({
            "type": "summary", "command": "umount", "mountpoint": directory.to_string_lossy(), "detached": args.detach,
        }))?;
    } else if context.is_talkative() {
        out.line(format_args!("unmounted {}", directory.display()))?;
    }
    out.flush()?;
    Ok(ExitCode::Ok)
}
