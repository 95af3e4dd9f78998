//! `plakar key`.

use std::ffi::OsStr;
use std::fs::{self, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context;
use plakar_engine::crypto::kdf::KdfParams;
use plakar_engine::id::ObjectId;
use plakar_engine::keyslot::{KeySlot, UserSecret};
use plakar_engine::repository::{Probe, Repository};
use serde_json::json;

use crate::context::AppContext;
use crate::exit_code::ExitCode;
use crate::report::Failure;
use crate::screen::Output;
use crate::{secret, text, time};

/// Show, add and remove the keys that open a store
///
/// A store has any number of keys, passphrases and key files alike, and each of them opens all of it. To remove or
/// replace one rewrites no data, and takes nothing from somebody who has copied it, or the store, before.
#[derive(Debug, clap::Args)]
pub(crate) struct KeyArgs {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, clap::Subcommand)]
enum Action {
    Ls(LsArgs),
    Add(AddArgs),
    Rm(RmArgs),
    Passwd(PasswdArgs),
}

/// List the keys; `*` marks the one whose passphrase or key file was given
#[derive(Debug, clap::Args)]
struct LsArgs {}

/// Add a key: a passphrase, or a new key file
#[derive(Debug, clap::Args)]
struct AddArgs {
    /// What to call it
    #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true)]
    label: String,
    #[command(flatten)]
    new: New,
}

/// Where a new secret comes from; a prompt without any of these.
#[derive(Debug, clap::Args)]
struct New {
    /// Make a random key and write it to this file, which must not exist
    #[arg(long, value_name = "FILE", conflicts_with = "new_passphrase_file")]
    new_keyfile: Option<PathBuf>,
    /// Read the new passphrase from this file
    #[arg(long, value_name = "FILE")]
    new_passphrase_file: Option<PathBuf>,
    /// Accept a weak passphrase without a word
    #[arg(long)]
    weak_passphrase: bool,
}

/// Remove a key
#[derive(Debug, clap::Args)]
struct RmArgs {
    /// Do it
    #[arg(long)]
    apply: bool,
    /// The beginning of the key's id, as `plakar key ls` shows it
    #[arg(value_name = "ID")]
    id: String,
}

/// Replace the key in use by a new one
#[derive(Debug, clap::Args)]
struct PasswdArgs {
    /// What to call the new one, if not as the old one
    #[arg(long, value_name = "TEXT")]
    label: Option<String>,
    #[command(flatten)]
    new: New,
}

/// Runs it.
pub(crate) async fn run(context: &AppContext, args: KeyArgs) -> anyhow::Result<ExitCode> {
    match args.action {
        Action::Ls(_) => list(context).await,
        Action::Add(args) => add(context, &args).await,
        Action::Rm(args) => remove(context, &args).await,
        Action::Passwd(args) => replace(context, &args).await,
    }
}

fn kind(slot: &KeySlot) -> &'static str {
    if slot.kdf.is_some() { "passphrase" } else { "key file" }
}

fn describe(slot: &KeySlot) -> serde_json::Value {
    json!({
        "id": slot.id.to_string(),
        "type": "key",
        "kind": if slot.kdf.is_some() { "passphrase" } else { "key-file" },
        "created": time::exact_ns(slot.created_ns),
        "label": slot.label,
    })
}

/// The slot that a secret opens. A passphrase takes its time.
async fn slot_of(probe: Arc<Probe>, secret: UserSecret) -> anyhow::Result<Option<KeySlot>> {
    Ok(tokio::task::spawn_blocking(move || probe.slot_of(&secret).cloned()).await?)
}

/// Slots stand in the store in the clear: no secret is needed to list them, and nobody vouches for what they say until
/// one is to be removed. A secret that is given tells which one it opens; none is asked for.
async fn list(context: &AppContext) -> anyhow::Result<ExitCode> {
    let probe = Arc::new(context.probe().await?);
    let in_use = match secret::given(context)? {
        Some(secret) if probe.needs_secret() => {
            Some(slot_of(probe.clone(), secret).await?.map(|slot| slot.id))
        }
        _ => None,
    };
    let is_in_use = |slot: &KeySlot| in_use.map(|id| id == Some(slot.id));
    let mut slots: Vec<&KeySlot> = probe.slots().iter().collect();
    slots.sort_by_key(|s| (s.created_ns, s.id));
    let mut out = Output::new();
    for slot in &slots {
        match context.json() {
            true => {
                let mut key = describe(slot);
                key["in_use"] = is_in_use(slot).into();
                out.json(&key)?;
            }
            false => {
                let label = text::printable(slot.label.as_bytes());
                let mark = if is_in_use(slot) == Some(true) { '*' } else { ' ' };
                let line = format!(
                    "{} {} {mark} {:10} {label}",
                    time::show_ns(slot.created_ns),
                    slot.id.short(),
                    kind(slot)
                );
                out.line(line.trim_end())?;
            }
        }
    }
    out.flush()?;
    if in_use == Some(None) {
        context.notice("the passphrase or key that was given opens none of them");
    }
    if slots.is_empty() {
        probe.is_plaintext()?;
        context.notice("the store has no keys: it is not encrypted");
    }
    Ok(ExitCode::Ok)
}

/// Takes a new secret from where the options say, or asks for it.
fn new_secret(context: &AppContext, new: &New) -> anyhow::Result<UserSecret> {
    if let Some(file) = &new.new_keyfile {
        let secret = UserSecret::new_key_file();
        write_key_file(file, &secret)?;
        return Ok(secret);
    }
    if let Some(file) = &new.new_passphrase_file {
        let given = Some(secret::from_file(file)?);
        return secret::for_new(context, given, "the new key", new.weak_passphrase);
    }
    if !secret::can_ask() {
        let failure = Failure::new("a new passphrase is needed, and there is no terminal to ask");
        return Err(failure.with_hint("give -new-passphrase-file FILE or -new-keyfile FILE").into());
    }
    secret::ask_new("the new key", new.weak_passphrase)
}

/// Writes a key file for this user alone, and to the disk, before the store depends on it.
fn write_key_file(file: &Path, secret: &UserSecret) -> anyhow::Result<()> {
    let what = || format!("cannot write the key file {}", file.display());
    let mut written =
        OpenOptions::new().write(true).create_new(true).mode(0o600).open(file).with_context(what)?;
    let directory = file.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut write = || {
        written.write_all(secret.key_file_text().unwrap_or_default().as_bytes())?;
        written.sync_all()?;
        fs::File::open(directory)?.sync_all()
    };
    write().with_context(what).inspect_err(|_| remove_key_file(file))
}

/// Removes a key file that opens nothing: it would stand in the way of the next try.
fn remove_key_file(file: &Path) {
    if let Err(e) = fs::remove_file(file) {
        tracing::warn!(file = %file.display(), error = %e, "a key file that opens nothing cannot be removed");
    }
}

async fn add_slot(
    context: &AppContext,
    repository: &Arc<Repository>,
    new: &New,
    label: &str,
) -> anyhow::Result<KeySlot> {
    if !repository.config().sealed {
        return Err(Failure::new("the store is not encrypted: it has no keys, and takes none").into());
    }
    let secret = new_secret(context, new)?;
    let added = repository.add_key(&secret, label, KdfParams::recommended()).await;
    if let (Err(_), Some(file)) = (&added, &new.new_keyfile) {
        remove_key_file(file);
    }
    Ok(added?)
}

async fn add(context: &AppContext, args: &AddArgs) -> anyhow::Result<ExitCode> {
    let repository = context.open().await?;
    let slot = add_slot(context, &repository, &args.new, &args.label).await?;
    let mut out = Output::new();
    if context.json() {
        out.json(&json!({ "type": "summary", "command": "key add", "key": describe(&slot) }))?;
    } else if context.is_talkative() {
        let file =
            args.new.new_keyfile.as_deref().map(|f| format!(" in {}", f.display())).unwrap_or_default();
        out.line(format_args!("added {} {}{file}", kind(&slot), slot.id.short()))?;
    }
    out.flush()?;
    Ok(ExitCode::Ok)
}

const NOTHING_REVOKED: &str = "whoever has copied this key can still open copies of the store made until now";

async fn remove(context: &AppContext, args: &RmArgs) -> anyhow::Result<ExitCode> {
    let slots = context.probe().await?;
    let slot = choose(slots.slots(), OsStr::new(&args.id))?.clone();
    // Who removes a key must have one.
    let repository = context.open().await?;
    let doubt = match slot.is_authentic(repository.keys()) {
        Some(true) => None,
        None => Some("its label and date are not vouched for: an older program wrote it"),
        Some(false) => {
            let text =
                format!("key {}: its label or date was changed by somebody without a key", slot.id.short());
            let failure = Failure::new(text).with_code(ExitCode::Damaged);
            return Err(failure
                .with_hint("it may not be what its label says; add a new key before you remove any")
                .into());
        }
    };
    if let Some(doubt) = doubt {
        context.notice(doubt);
    }
    if args.apply {
        repository.remove_key(slot.id).await?;
    }
    let mut out = Output::new();
    if context.json() {
        out.json(&json!({
            "type": "summary", "command": "key rm", "applied": args.apply, "key": describe(&slot),
        }))?;
    } else if !context.globals.silent {
        let what = format!("{} {} {}", kind(&slot), slot.id.short(), text::printable(slot.label.as_bytes()));
        match args.apply {
            true => out.line(format_args!("key rm: removed {}", what.trim_end()))?,
            false => out
                .line(format_args!("key rm: would remove {}, run with -apply to proceed", what.trim_end()))?,
        }
        out.flush()?;
        context.notice(NOTHING_REVOKED);
    }
    out.flush()?;
    Ok(ExitCode::Ok)
}

fn choose<'a>(slots: &'a [KeySlot], prefix: &OsStr) -> anyhow::Result<&'a KeySlot> {
    let prefix = prefix.to_string_lossy().to_ascii_lowercase();
    let mut found = slots.iter().filter(|s| !prefix.is_empty() && s.id.to_string().starts_with(&prefix));
    let hint = "`plakar key ls` lists the keys";
    let Some(slot) = found.next() else {
        return Err(Failure::new(format!("there is no key {prefix}")).with_hint(hint).into());
    };
    match found.next() {
        Some(_) => Err(Failure::new(format!("{prefix} fits several keys")).with_hint(hint).into()),
        None => Ok(slot),
    }
}

async fn replace(context: &AppContext, args: &PasswdArgs) -> anyhow::Result<ExitCode> {
    let (repository, secret) = context.open_with_secret().await?;
    let old = match secret {
        Some(secret) => slot_of(Arc::new(context.probe().await?), secret).await?,
        None => None,
    };
    let label = args.label.clone().or_else(|| old.as_ref().map(|o| o.label.clone())).unwrap_or_default();
    let new = add_slot(context, &repository, &args.new, &label).await?;
    let removed: Option<ObjectId> = old.map(|o| o.id);
    if let Some(id) = removed {
        repository.remove_key(id).await?;
    }
    let mut out = Output::new();
    if context.json() {
        out.json(&json!({
            "type": "summary", "command": "key passwd",
            "key": describe(&new), "removed": removed.map(|id| id.to_string()),
        }))?;
    } else if context.is_talkative() {
        let old = removed.map(|id| format!(" in place of {}", id.short())).unwrap_or_default();
        out.line(format_args!("added {} {}{old}", kind(&new), new.id.short()))?;
        out.flush()?;
        context.notice("whoever has copied the old key can still open copies of the store made until now");
    }
    out.flush()?;
    Ok(ExitCode::Ok)
}
