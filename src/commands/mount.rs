//! `plakar mount`.

use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use plakar_engine::keyslot::UserSecret;
use plakar_engine::repository::Repository;
use plakar_engine::select::Spec;
use plakar_mount::daemon::{self, Readiness, Registration, StartError};
use plakar_mount::{Filter, MountConfig, MountError, MountSession, Owner, What, Xattrs};
use serde_json::json;

use super::{find, newest};
use crate::cli::Query;
use crate::context::AppContext;
use crate::exit_code::ExitCode;
use crate::report::{Failure, Report};
use crate::screen::{self, Output};
use crate::{location, text, time};

/// Show snapshots as a filesystem
///
/// Without a snapshot every one that fits the options stands below snapshots/, named by time and id; latest, ids/,
/// hosts/, tags/ and sources/ lead there, and new snapshots appear by themselves. With a snapshot, what was backed up
/// is the root; with a path, that is. Everything is read-only.
///
/// It runs until Ctrl-C, `plakar umount DIR` or `umount DIR`. With -background it goes on by itself.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  plakar mount -to /mnt/backups\n  plakar mount -to /mnt/backups -background -tag daily\n  plakar mount -to /mnt/home latest:home/me"
)]
pub(crate) struct MountArgs {
    /// Where: a directory that exists; by default one is made here and removed at the end
    #[arg(long, value_name = "DIR")]
    to: Option<OsString>,
    /// Return as soon as it is mounted
    #[arg(long)]
    background: bool,
    /// Let other users look too, as far as the recorded permissions let them
    #[arg(long, alias = "allow-others")]
    allow_other: bool,
    /// Whose everything is: recorded, me, or UID:GID
    #[arg(long, value_name = "WHO", default_value = "recorded", value_parser = owner)]
    owner: Owner,
    /// Show extended attributes and ACLs; auto: if there are any
    #[arg(long, value_name = "WHEN", default_value = "auto")]
    xattr: XattrChoice,
    /// Memory for what was read last: 96MiB, 1G, …
    #[arg(long, value_name = "SIZE", value_parser = text::parse_size)]
    cache_size: Option<u64>,
    #[command(flatten)]
    query: Query,
    /// The beginning of a snapshot's id or latest, and a directory in it
    #[arg(value_name = "SNAPSHOT[:PATH]")]
    snapshot: Option<OsString>,
}

/// Whether extended attributes are shown.
#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum XattrChoice {
    Auto,
    On,
    Off,
}

fn owner(text: &str) -> Result<Owner, String> {
    let wrong = || format!("{text:?} is none of: recorded, me, UID:GID (two numbers)");
    match text {
        "recorded" => Ok(Owner::Recorded),
        "me" => Ok(Owner::Mounter),
        ids => {
            let (uid, gid) = ids.split_once(':').ok_or_else(wrong)?;
            Ok(Owner::Ids(uid.parse().map_err(|_| wrong())?, gid.parse().map_err(|_| wrong())?))
        }
    }
}

/// A directory made for the mount, removed after it.
#[derive(Debug)]
struct MadeHere(PathBuf);

impl Drop for MadeHere {
    fn drop(&mut self) {
        // What is not empty, or still mounted, stays.
        let _ = std::fs::remove_dir(&self.0);
    }
}

/// Runs it.
pub(crate) async fn run(context: &AppContext, args: MountArgs) -> anyhow::Result<ExitCode> {
    let Some(readiness) = Readiness::from_env() else {
        let (repository, secret) = context.open_with_secret().await?;
        return match args.background {
            true => start_in_background(context, &args, repository, secret).await,
            false => in_foreground(context, &args, repository).await,
        };
    };
    let session = async {
        let secret = Some(readiness.secret()?).filter(|s| !s.is_empty()).map(UserSecret::from_file_contents);
        let (repository, _) = context.open_given(secret).await?;
        mount(&args, &mountpoint(context, &args)?.0, repository).await
    };
    match session.await {
        Ok(session) => {
            let registration = register(context, &session);
            // The directory it was called in must not be kept busy.
            std::env::set_current_dir("/")?;
            readiness.ready()?;
            let ended = session.serve(|e| screen::line(&format!("{e}"))).await;
            drop(registration);
            ended.map_err(explain)?;
            Ok(ExitCode::Ok)
        }
        Err(e) => {
            let report = Report::of(&e, context.store_hint().as_deref());
            readiness.failed(report.text().trim_start_matches("plakar: "), report.code as u8);
            Ok(report.code)
        }
    }
}

/// Where to mount, and the directory to remove afterwards.
fn mountpoint(context: &AppContext, args: &MountArgs) -> anyhow::Result<(PathBuf, Option<MadeHere>)> {
    if let Some(to) = &args.to {
        return Ok((location::local(to, &context.env)?, None));
    }
    if args.background {
        return Err(Failure::usage("-background needs -to DIR", Some(&["mount".into()])).into());
    }
    let path = PathBuf::from(format!("plakar-{}", time::compact(jiff::Timestamp::now())));
    std::fs::create_dir(&path)
        .map_err(|e| anyhow::Error::new(e).context(format!("cannot make {}", path.display())))?;
    Ok((path.clone(), Some(MadeHere(path))))
}

async fn mount(args: &MountArgs, at: &Path, repository: Arc<Repository>) -> anyhow::Result<MountSession> {
    let catalog = repository.catalog().await?;
    let filter = args.query.filter();
    let mut config = MountConfig::new(at);
    config.allow_other = args.allow_other;
    config.fs.owner = args.owner;
    config.fs.xattrs = match args.xattr {
        XattrChoice::Auto => Xattrs::Auto,
        XattrChoice::On => Xattrs::On,
        XattrChoice::Off => Xattrs::Off,
    };
    if let Some(bytes) = args.cache_size {
        config.fs.cache_bytes = bytes;
    }
    match &args.snapshot {
        Some(argument) => {
            let (snapshot, path) = find(argument, &catalog, &filter)?;
            let path = Spec::parse(argument.as_bytes()).path.map(|_| path);
            config.fs.what = What::Snapshot { snapshot: snapshot.id, path };
        }
        None if filter.latest => {
            config.fs.what = What::Snapshot { snapshot: newest(&catalog, &filter)?.id, path: None };
        }
        None => config.fs.filter = Filter::new(move |s| filter.fits(s)),
    }
    drop(catalog);
    Box::pin(MountSession::start(config, repository)).await.map_err(explain)
}

/// Enters the mount in the list of those that run. Without it `plakar umount` works all the same.
fn register(context: &AppContext, session: &MountSession) -> Option<Registration> {
    let state = context.dirs().ok()?.state;
    let store = context.store().ok()?.location();
    let registered = Registration::new(&state, session.mountpoint(), &store);
    registered.map_err(|e| tracing::warn!(%e, "the mount is not in the list of mounts")).ok()
}

async fn in_foreground(
    context: &AppContext,
    args: &MountArgs,
    repository: Arc<Repository>,
) -> anyhow::Result<ExitCode> {
    let (at, made) = mountpoint(context, args)?;
    let session = mount(args, &at, repository).await?;
    let registration = register(context, &session);
    let shown = session.mountpoint().display().to_string();
    announce(context, &shown, None)?;
    let end = text::shell_word(&shown).into_owned();
    context.notice(&format!("Ctrl-C or `plakar umount {end}` unmounts it"));
    let told = session.serve(|e| {
        screen::line(&format!("plakar: {e}"));
        if matches!(e, MountError::Busy { .. }) {
            screen::line(
                "  hint: Ctrl-C once more takes it away from its place; open files go on being read",
            );
        }
    });
    told.await.map_err(explain)?;
    drop((registration, made));
    Ok(ExitCode::Ok)
}

/// Starts this program again, which mounts and goes on by itself.
async fn start_in_background(
    context: &AppContext,
    args: &MountArgs,
    repository: Arc<Repository>,
    secret: Option<UserSecret>,
) -> anyhow::Result<ExitCode> {
    let (at, _) = mountpoint(context, args)?;
    // What cannot be found is better said from here.
    if let Some(argument) = &args.snapshot {
        find(argument, &*repository.catalog().await?, &args.query.filter())?;
    }
    drop(repository);
    let mut command = Command::new(std::env::current_exe()?);
    if let Some(store) = &context.store {
        command.arg("at").arg(store);
    }
    let handed_over: [&[u8]; 3] = [b"--background", b"--keyfile=", b"--passphrase-cmd="];
    let stays = |word: &&OsString| !handed_over.iter().any(|o| word.as_bytes().starts_with(o));
    command.args(context.words.iter().filter(stays));
    command.env_remove("PLAKAR_PASSPHRASE").env_remove("PLAKAR_PASSPHRASE_CMD");
    let handed: Option<zeroize::Zeroizing<Vec<u8>>> = secret.map(|s| match &s {
        UserSecret::Passphrase(p) => zeroize::Zeroizing::new([&p[..], b"\n"].concat()),
        UserSecret::KeyFile(_) => {
            zeroize::Zeroizing::new(s.key_file_text().map(|t| t.as_bytes().to_vec()).unwrap_or_default())
        }
    });
    let state = context.dirs()?.state;
    let (place, log_state) = (at.clone(), state.clone());
    let started = tokio::task::spawn_blocking(move || {
        daemon::start(command, handed.as_ref().map(|s| s.as_slice()), &place, &state)
    });
    match started.await? {
        Ok(process) => {
            let shown = at.canonicalize().unwrap_or(at).display().to_string();
            announce(context, &shown, Some(process))?;
            let end = text::shell_word(&shown).into_owned();
            context.notice(&format!("`plakar umount {end}` unmounts it"));
            Ok(ExitCode::Ok)
        }
        // The other process has said it all, its hint included.
        Err(StartError::Failed { text, code }) => {
            Err(Failure::new(text).with_code(ExitCode::from_u8(code)).into())
        }
        Err(e) => {
            let log = daemon::log_path(&log_state, &at);
            let failure = Failure::new("cannot mount in the background");
            Err(anyhow::Error::new(e).context(failure.with_hint(format!("its log is {}", log.display()))))
        }
    }
}

fn announce(context: &AppContext, at: &str, process: Option<u32>) -> anyhow::Result<()> {
    let mut out = Output::new();
    let store = context.store()?.location();
    if context.json() {
        out.json(&json!({
            "type": "summary", "command": "mount", "store": store, "mountpoint": at, "process": process,
        }))?;
    } else if context.is_talkative() {
        out.line(format_args!("mounted {store} at {at}"))?;
    }
    out.flush()
}

/// Adds what to do about it.
pub(super) fn explain(e: MountError) -> anyhow::Error {
    let at = |p: &Path| text::shell_word(&p.display().to_string()).into_owned();
    let hint = match &e {
        MountError::Engine(_) => {
            return match e {
                MountError::Engine(e) => e.into(),
                e => e.into(),
            };
        }
        MountError::Mountpoint { mountpoint, source } if source.kind() == std::io::ErrorKind::NotFound => {
            format!("make the directory first: mkdir -p {}", at(mountpoint))
        }
        MountError::Mountpoint { .. } => "a mountpoint is a directory of your own, best an empty one".into(),
        MountError::AlreadyMounted { mountpoint } => {
            format!("`plakar umount {}` unmounts it", at(mountpoint))
        }
        MountError::Overlap { .. } => "mount somewhere else".into(),
        MountError::Mount { source, .. } => match source.kind() {
            std::io::ErrorKind::NotFound => {
                "install fuse3 (the program fusermount3), and load the module: modprobe fuse".into()
            }
            std::io::ErrorKind::PermissionDenied => {
                "the directory must be yours; -allow-other needs user_allow_other in /etc/fuse.conf, or root"
                    .into()
            }
            _ => "check that /dev/fuse exists and that the package fuse3 is installed".into(),
        },
        MountError::Busy { mountpoint, .. } => format!(
            "leave it and try again, or `plakar umount -detach {}`: it goes from its place, open files go on",
            at(mountpoint)
        ),
        MountError::NotMounted { .. } => "`plakar umount` alone lists what is mounted".into(),
        MountError::Covered { .. } => "unmount that first".into(),
        _ => String::new(),
    };
    // `anyhow` shows the causes; the message stays the mount's own.
    let failure = Failure::new(e.to_string());
    let failure = if hint.is_empty() { failure } else { failure.with_hint(hint) };
    match std::error::Error::source(&e) {
        Some(cause) => anyhow::anyhow!("{cause}").context(failure),
        None => failure.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn owners_are_recorded_or_mine_or_numbers() {
        assert_eq!(owner("recorded"), Ok(Owner::Recorded));
        assert_eq!(owner("me"), Ok(Owner::Mounter));
        assert_eq!(owner("1000:100"), Ok(Owner::Ids(1000, 100)));
        assert!(owner("1000").is_err() && owner("root:root").is_err());
    }

    #[test]
    fn failures_say_what_to_do() {
        let e = explain(MountError::NotMounted { mountpoint: "/mnt/x".into() });
        assert_eq!(
            Report::of(&e, None).text(),
            "plakar: no plakar mount at /mnt/x\n  hint: `plakar umount` alone lists what is mounted"
        );
        let source = std::io::Error::from_raw_os_error(2);
        let e = explain(MountError::Mountpoint { mountpoint: "/mnt/my x".into(), source });
        assert_eq!(
            Report::of(&e, None).text(),
            "plakar: cannot mount on /mnt/my x\n  cause: No such file or directory\n  hint: make the directory first: mkdir -p '/mnt/my x'"
        );
    }
}
