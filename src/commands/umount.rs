//! `plakar umount`.

use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use plakar_mount::daemon::{self, Record};
use plakar_mount::{MountError, Unmount};
use serde_json::json;

use super::mount::explain;
use crate::context::AppContext;
use crate::exit_code::ExitCode;
use crate::report::Failure;
use crate::screen::Output;
use crate::{json, text, time};

/// Unmount what `plakar mount` has mounted, or list it
///
/// A mount that somebody uses stays, and is told who; -detach takes it from its place all the same, and open files go
/// on being read. -force is for one that does not answer: whoever waits for it gets an error, and its process is ended.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  plakar umount\n  plakar umount /mnt/backups\n  plakar umount -detach /mnt/backups"
)]
pub(crate) struct UmountArgs {
    /// Take it from its place even while somebody uses it
    #[arg(long, alias = "lazy", conflicts_with = "force")]
    detach: bool,
    /// Give it up with all that goes on in it
    #[arg(long)]
    force: bool,
    /// Where it is mounted; without it, the mounts are listed
    #[arg(value_name = "DIR")]
    directory: Option<PathBuf>,
}

/// Runs it.
pub(crate) async fn run(context: &AppContext, args: UmountArgs) -> anyhow::Result<ExitCode> {
    let state = context.dirs()?.state;
    let mut out = Output::new();
    let Some(directory) = args.directory else {
        let mounts = tokio::task::spawn_blocking(move || daemon::list(&state)).await??;
        for (m, _) in &mounts {
            if context.json() {
                out.json(&describe(m))?;
            } else {
                let place = text::printable(m.mountpoint.as_os_str().as_bytes());
                out.line(format_args!("{} {place}: {} (process {})", time::show(m.mounted), m.store, m.pid))?;
            }
        }
        out.flush()?;
        if mounts.is_empty() {
            context.notice("nothing is mounted");
        }
        return Ok(ExitCode::Ok);
    };
    let how = match (args.force, args.detach) {
        (true, _) => Unmount::Force,
        (false, true) => Unmount::Detach,
        (false, false) => Unmount::IfUnused,
    };
    let at = directory.clone();
    tokio::task::spawn_blocking(move || daemon::umount(&at, &state, how)).await?.map_err(|e| match e {
        MountError::Mountpoint { mountpoint, source } if source.kind() == std::io::ErrorKind::NotFound => {
            let text = format!("nothing is mounted at {}: it does not exist", mountpoint.display());
            Failure::new(text).with_hint("`plakar umount` alone lists what is mounted").into()
        }
        e => explain(e),
    })?;
    if context.json() {
        let mut said =
            json!({ "type": "summary", "command": "umount", "detached": args.detach, "forced": args.force });
        json::put_bytes(&mut said, "mountpoint", directory.as_os_str().as_bytes());
        out.json(&said)?;
    } else if context.is_talkative() {
        out.named("unmounted ", directory.as_os_str().as_bytes())?;
    }
    out.flush()?;
    Ok(ExitCode::Ok)
}

/// What is known of a mount without asking it.
pub(super) fn describe(m: &Record) -> serde_json::Value {
    let mut out =
        json!({ "type": "mount", "store": m.store, "process": m.pid, "since": time::show(m.mounted) });
    json::put_bytes(&mut out, "mountpoint", m.mountpoint.as_os_str().as_bytes());
    out
}
