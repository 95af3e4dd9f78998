//! `plakar mount`.

mod http;
mod list;

use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use plakar_engine::keyslot::UserSecret;
use plakar_engine::repository::Repository;
use plakar_engine::repository::catalog::Catalog;
use plakar_engine::select::Spec;
use plakar_mount::config::FsConfig;
use plakar_mount::daemon::{self, Log, PidFile, Readiness, Record, Registration, StartError, notify};
use plakar_mount::{Filter, MountConfig, MountError, MountSession, Owner, Unmount, What, Xattrs};
use serde_json::json;

use super::{find, newest};
use crate::cli::Query;
use crate::context::AppContext;
use crate::exit_code::ExitCode;
use crate::report::{Failure, Report};
use crate::screen::{self, Output};
use crate::settings::Section;
use crate::{json, text, time};

/// Show snapshots as a filesystem
///
/// Without a snapshot every one that fits the options stands below snapshots/, named by time and id; latest, ids/,
/// hosts/, tags/ and sources/ lead there, and new snapshots appear by themselves. With a snapshot, what was backed up
/// is the root; with a path, that is. Everything is read-only.
///
/// With http://HOST:PORT or webdav://HOST:PORT instead of a directory the same is served over both, for browsers and for
/// machines without FUSE; http://:8080 is for this machine alone, other addresses need a token.
///
/// It runs until Ctrl-C, `plakar umount DIR` or `umount DIR`. With -background it goes on by itself, and logs to a file
/// in ~/.local/state/plakar/mounts unless -log-file names another.
///
/// With -list, what is mounted: since when (UTC), whether it is alive, its process, what it holds in memory and on disk,
/// requests so far, the store, which part of it, and where.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  plakar mount -to /mnt/backups\n  plakar mount -to /mnt/backups -background -tag daily\n  plakar mount -to /mnt/home latest:home/me\n  plakar mount -to http://:8080\n  plakar mount -list"
)]
pub(crate) struct MountArgs {
    /// Where: a directory that exists, or http://HOST:PORT; by default a directory is made here and removed at the end
    #[arg(long, value_name = "DIR")]
    to: Option<OsString>,
    /// Return as soon as it is mounted
    #[arg(long)]
    background: bool,
    /// Where one in the background logs; it is kept small
    #[arg(long, value_name = "FILE", requires = "background")]
    log_file: Option<PathBuf>,
    /// Write the number of its process there; removed at the end
    #[arg(long, value_name = "FILE")]
    pid_file: Option<PathBuf>,
    /// Let other users look too, as far as the recorded permissions let them
    #[arg(long, alias = "allow-others")]
    allow_other: bool,
    /// Whose everything is: recorded, me, or UID:GID
    #[arg(long, value_name = "WHO", default_value = "recorded", value_parser = owner)]
    owner: Owner,
    /// Everything belongs to this user
    #[arg(long, value_name = "N")]
    uid: Option<u32>,
    /// Everything belongs to this group
    #[arg(long, value_name = "N")]
    gid: Option<u32>,
    /// Permission bits that nothing shall have: 022, 077, …
    #[arg(long, value_name = "OCTAL", value_parser = umask)]
    umask: Option<u32>,
    /// Let no program in it be run
    #[arg(long)]
    noexec: bool,
    /// The name that the table of mounts shows as its source: that of the line in /etc/fstab
    #[arg(long, value_name = "NAME", hide = true)]
    fsname: Option<String>,
    /// Show extended attributes and ACLs; auto: if there are any
    #[arg(long, value_name = "WHEN", default_value = "auto")]
    xattr: XattrChoice,
    /// Memory for what was read last: 96MiB, 1G, …
    #[arg(long, value_name = "SIZE", value_parser = text::parse_size)]
    cache_size: Option<u64>,
    /// Disk for what was read, still encrypted; 0 for none; by default 1 GiB for a store that is far away
    #[arg(long, value_name = "SIZE", value_parser = text::parse_size)]
    disk_cache_size: Option<u64>,
    /// List what is mounted
    #[arg(long, conflicts_with_all = ["to", "background", "snapshot"])]
    list: bool,
    /// Over HTTP, let in only who shows the token in this file [PLAKAR_MOUNT_TOKEN]
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
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

fn umask(text: &str) -> Result<u32, String> {
    let bits = u32::from_str_radix(text, 8).ok().filter(|m| *m <= 0o777 && !text.starts_with('+'));
    bits.ok_or_else(|| format!("{text:?} is no mask of permissions: three digits from 0 to 7, as 022"))
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
    if args.list {
        return list::run(context).await;
    }
    if let Some(to) = http::asked(&args) {
        return http::run(context, &args, to).await;
    }
    if args.token_file.is_some() {
        return Err(Failure::usage("-token-file is for -to http://HOST:PORT", Some(&["mount".into()])).into());
    }
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
        let at = mountpoint(context, &args)?.0;
        let log = log_file(context, &args, &at)?;
        screen::set_log(Log::new(&log));
        let pid_file = pid_file(&args)?;
        Ok((mount(context, &args, &at, repository).await?, log, pid_file))
    };
    match session.await {
        Ok((session, log, pid_file)) => {
            let registration =
                register(context, &args, &session, |r| r.log = Some(log.to_string_lossy().into_owned()));
            // The directory it was called in must not be kept busy.
            std::env::set_current_dir("/")?;
            if let Err(e) = readiness.ready() {
                // Whoever started it was stopped meanwhile and knows of no mount: there shall be none.
                session.unmount(Unmount::Detach).await?;
                return Err(anyhow::Error::new(e).context("nobody waits for the mount any more"));
            }
            serve(session, |e| screen::event("error", &format!("plakar: {e}"))).await?;
            drop((registration, pid_file));
            Ok(ExitCode::Ok)
        }
        Err(e) => {
            let report = Report::of(&e, context.store_hint().as_deref());
            readiness.failed(report.text().trim_start_matches("plakar: "), report.code as u8);
            Ok(report.code)
        }
    }
}

/// Serves to the end, and keeps a service manager informed.
async fn serve(session: MountSession, tell: impl Fn(&MountError)) -> anyhow::Result<()> {
    notify::ready();
    let fs = session.file_system().clone();
    let ended = session.serve(|e| {
        notify::status(&e.to_string());
        tell(e);
    });
    let ended = ended.await;
    // Whoever was just asked something may hold the file system until the process is gone.
    fs.repository().cache().clear_away();
    ended.map_err(explain)
}

/// Where the mount in the background logs.
fn log_file(context: &AppContext, args: &MountArgs, at: &Path) -> anyhow::Result<PathBuf> {
    match &args.log_file {
        Some(file) => Ok(std::path::absolute(file)?),
        None => Ok(daemon::log_path(&context.dirs()?.state, at)),
    }
}

fn pid_file(args: &MountArgs) -> anyhow::Result<Option<PidFile>> {
    let Some(file) = &args.pid_file else { return Ok(None) };
    // It is removed when this process is somewhere else.
    let file = std::path::absolute(file)?;
    let written = PidFile::create(&file).map_err(|e| {
        let failure = Failure::new(format!("cannot write the process's number to {}", file.display()));
        let hint = "name a file that is not there yet, in a directory that is, with -pid-file";
        anyhow::Error::new(e).context(failure.with_hint(hint))
    });
    written.map(Some)
}

/// Where to mount, and the directory to remove afterwards.
fn mountpoint(context: &AppContext, args: &MountArgs) -> anyhow::Result<(PathBuf, Option<MadeHere>)> {
    if let Some(to) = &args.to {
        return Ok((context.local(to, Section::Destination)?, None));
    }
    if args.background {
        return Err(Failure::usage("-background needs -to DIR", Some(&["mount".into()])).into());
    }
    let here = std::env::current_dir()?;
    if let Err(e) = daemon::sweep(&context.dirs()?.state, &here) {
        tracing::warn!(%e, "cannot look for what killed mounts have left");
    }
    let path = PathBuf::from(format!("plakar-{}", time::compact(jiff::Timestamp::now())));
    std::fs::create_dir(&path)
        .map_err(|e| anyhow::Error::new(e).context(format!("cannot make {}", path.display())))?;
    Ok((path.clone(), Some(MadeHere(path))))
}

async fn mount(
    context: &AppContext,
    args: &MountArgs,
    at: &Path,
    repository: Arc<Repository>,
) -> anyhow::Result<MountSession> {
    let catalog = repository.catalog().await?;
    let mut config = MountConfig::new(at);
    config.allow_other = args.allow_other;
    config.no_exec = args.noexec;
    config.source = args.fsname.clone();
    config.background = args.background;
    config.fs.owner = args.owner;
    (config.fs.uid, config.fs.gid) = (args.uid, args.gid);
    config.fs.umask = args.umask.unwrap_or(0);
    config.fs.xattrs = match args.xattr {
        XattrChoice::Auto => Xattrs::Auto,
        XattrChoice::On => Xattrs::On,
        XattrChoice::Off => Xattrs::Off,
    };
    if let Some(bytes) = args.cache_size {
        config.fs.cache_bytes = bytes;
    }
    config.fs.disk_cache_bytes = args.disk_cache_size;
    choose(&mut config.fs, args, &catalog)?;
    if config.fs.what == What::Store && !catalog.broken.is_empty() && !config.fs.skip_damaged {
        let n = text::counted(catalog.broken.len() as u64, "snapshot");
        context.notice(&format!(
            "{n} cannot be read: nothing is called `latest` meanwhile, since that may be one of them; -skip-damaged chooses among the others"
        ));
    }
    drop(catalog);
    let started = Box::pin(MountSession::start(config, repository)).await;
    started.map_err(|e| match e {
        MountError::AlreadyMounted { mountpoint } => mounted_already(context, &mountpoint),
        e => explain(e),
    })
}

/// Says by whom.
fn mounted_already(context: &AppContext, at: &Path) -> anyhow::Error {
    let record = context.dirs().ok().and_then(|dirs| daemon::find(&dirs.state, at));
    let by = record.map(|r| format!(": {}, by process {}", r.store, r.pid)).unwrap_or_default();
    let failure = Failure::new(format!("{} is mounted already{by}", at.display()));
    let end = at.display().to_string();
    failure.with_hint(format!("`plakar umount {}` unmounts it", text::shell_word(&end))).into()
}

/// What the arguments choose: all that fits, or one.
fn choose(fs: &mut FsConfig, args: &MountArgs, catalog: &Catalog) -> anyhow::Result<()> {
    let filter = args.query.filter().map_err(Failure::new)?;
    fs.skip_damaged = filter.skip_damaged;
    match &args.snapshot {
        Some(argument) => {
            let (snapshot, path) = find(argument, catalog, &filter)?;
            let path = Spec::parse(argument.as_bytes()).path.map(|_| path);
            fs.what = What::Snapshot { snapshot: snapshot.id, path };
        }
        None if filter.latest => {
            fs.what = What::Snapshot { snapshot: newest(catalog, &filter)?.id, path: None };
        }
        None => fs.filter = Filter::new(move |s| filter.fits(s)),
    }
    Ok(())
}

/// Enters the mount in the list of those that run. Without it `plakar umount` works all the same.
fn register(
    context: &AppContext,
    args: &MountArgs,
    session: &MountSession,
    add: impl FnOnce(&mut Record),
) -> Option<Registration> {
    let state = context.dirs().ok()?.state;
    let store = context.store().ok()?;
    // Who reads the list may be somewhere else.
    let location = store.local_path().map_or_else(|| store.location(), |p| p.display().to_string());
    let mut record = Record::new(session.mountpoint(), location);
    record.shows = args.snapshot.as_ref().map(|s| s.to_string_lossy().into_owned());
    add(&mut record);
    let fs = session.file_system().clone();
    let registered = Registration::new(&state, &record, move || daemon::status::of(&fs));
    registered.map_err(|e| tracing::warn!(%e, "the mount is not in the list of mounts")).ok()
}

/// Tells whoever mounts over something that it is there.
fn tell_what_is_hidden(context: &AppContext, at: &Path) {
    // One of ours may not answer, and whether it may be covered is found out later.
    if !daemon::is_mounted(at) && std::fs::read_dir(at).is_ok_and(|mut entries| entries.next().is_some()) {
        let shown = text::printable(at.as_os_str().as_bytes());
        context.notice(&format!("{shown} is not empty: what is in it is hidden while it is mounted on"));
    }
}

async fn in_foreground(
    context: &AppContext,
    args: &MountArgs,
    repository: Arc<Repository>,
) -> anyhow::Result<ExitCode> {
    let (at, made) = mountpoint(context, args)?;
    tell_what_is_hidden(context, &at);
    let pid_file = pid_file(args)?;
    let session = mount(context, args, &at, repository).await?;
    let registration = register(context, args, &session, |r| r.directory_made = made.is_some());
    let shown = session.mountpoint().to_owned();
    announce(context, &shown, None)?;
    context.notice(&format!("Ctrl-C or `plakar umount {}` unmounts it", typed(&shown)));
    let told = serve(session, |e| {
        screen::event("error", &format!("plakar: {e}"));
        if matches!(e, MountError::Busy { .. }) {
            screen::line(
                "  hint: Ctrl-C once more takes it away from its place; open files go on being read",
            );
        }
    });
    told.await?;
    drop((registration, made, pid_file));
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
        find(argument, &*repository.catalog().await?, &args.query.filter().map_err(Failure::new)?)?;
    }
    drop(repository);
    let mut command = Command::new(std::env::current_exe()?);
    // By another name it might take itself for the helper of mount(8).
    command.arg0("plakar");
    if let Some(store) = &context.store {
        command.arg("at").arg(store);
    }
    let handed_over: [&[u8]; 2] = [b"--keyfile=", b"--passphrase-cmd="];
    let stays = |word: &&OsString| !handed_over.iter().any(|o| word.as_bytes().starts_with(o));
    command.args(context.words.iter().filter(stays));
    command.env_remove("PLAKAR_PASSPHRASE").env_remove("PLAKAR_PASSPHRASE_CMD");
    let handed: Option<zeroize::Zeroizing<Vec<u8>>> = secret.map(|s| match &s {
        UserSecret::Passphrase(p) => zeroize::Zeroizing::new([&p[..], b"\n"].concat()),
        UserSecret::KeyFile(_) => {
            zeroize::Zeroizing::new(s.key_file_text().map(|t| t.as_bytes().to_vec()).unwrap_or_default())
        }
    });
    tell_what_is_hidden(context, &at);
    let mut log = log_file(context, args, &at)?;
    if args.log_file.is_none()
        && let Err(e) = daemon::try_log(&log)
    {
        let why = crate::report::tidy(&e.to_string());
        let usual = std::mem::replace(&mut log, daemon::spare_log());
        command.arg("--log-file").arg(&log);
        context.notice(&format!(
            "its log is {}, since {} cannot be written: {why}",
            log.display(),
            usual.display()
        ));
    }
    let (place, logged) = (at.clone(), log.clone());
    let started = tokio::task::spawn_blocking(move || {
        daemon::start(command, handed.as_ref().map(|s| s.as_slice()), &place, &logged)
    });
    match started.await? {
        Ok(process) => {
            let shown = at.canonicalize().unwrap_or(at);
            announce(context, &shown, Some(process))?;
            context.notice(&format!("`plakar umount {}` unmounts it", typed(&shown)));
            Ok(ExitCode::Ok)
        }
        // The other process has said it all, its hint included.
        Err(StartError::Failed { text, code }) => {
            Err(Failure::new(text).with_code(ExitCode::from_u8(code)).into())
        }
        Err(e) => {
            let failure = Failure::new("cannot mount in the background");
            Err(anyhow::Error::new(e).context(failure.with_hint(format!("its log is {}", log.display()))))
        }
    }
}

/// A path as one would type it.
fn typed(path: &Path) -> String {
    text::shell_word(&text::printable(path.as_os_str().as_bytes())).into_owned()
}

fn announce(context: &AppContext, at: &Path, process: Option<u32>) -> anyhow::Result<()> {
    let mut out = Output::new();
    let store = context.store()?.location();
    let place = at.as_os_str().as_bytes();
    if context.json() {
        let mut said = json!({ "type": "summary", "command": "mount", "store": store, "process": process });
        json::put_bytes(&mut said, "mountpoint", place);
        out.json(&said)?;
    } else if context.is_talkative() {
        out.named(format_args!("mounted {store} at "), place)?;
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
        // The words are those of fusermount3, which has no numbers.
        MountError::Mount { source, .. } if source.to_string().contains("allow_other") => {
            "put the line user_allow_other into /etc/fuse.conf, or leave -allow-other out".into()
        }
        MountError::Mount { mountpoint, source } if source.to_string().contains("access to mountpoint") => {
            format!(
                "a mountpoint is a directory that you may write in: who owns it shows `ls -ld {}`",
                at(mountpoint)
            )
        }
        MountError::Mount { source, .. } => match source.kind() {
            std::io::ErrorKind::NotFound => {
                "install fuse3 (the program fusermount3), and load the module: modprobe fuse".into()
            }
            _ if source.to_string().ends_with("Permission denied") => {
                "the directory must be yours, and /dev/fuse open to you (chmod 666 /dev/fuse, as udev has it)"
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
        MountError::Lingers { .. } => "`plakar mount -list` shows its process".into(),
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
    fn masks_are_octal() {
        assert_eq!((umask("022"), umask("77"), umask("0")), (Ok(0o022), Ok(0o077), Ok(0)));
        assert!(["", "8", "1000", "+22", "0o22", "-1"].iter().all(|m| umask(m).is_err()));
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
