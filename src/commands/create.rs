//! `plakar create`.

use std::ffi::OsString;

use anyhow::Context;
use plakar_connectors::fs::FsStore;
use plakar_engine::repository::{self, CreateOptions};
use serde_json::json;

use crate::context::AppContext;
use crate::exit_code::ExitCode;
use crate::report::Failure;
use crate::screen::Output;
use crate::secret;

/// Make a new store
///
/// The store is made at the place that `at STORE` names, which must be empty or not exist yet. It is encrypted under
/// a passphrase: whoever loses it loses the backups. More keys can be added later with `plakar key add`.
#[derive(Debug, clap::Args)]
pub(crate) struct CreateArgs {
    /// Do not encrypt: whoever can read the store's files can read the backups
    #[arg(long)]
    plaintext: bool,
    /// Do not compress
    #[arg(long)]
    no_compression: bool,
    /// Let the group of the store's directory use it: files and folders in it are for that group too
    #[arg(long)]
    shared: bool,
    /// What to call the first key
    #[arg(
        long,
        value_name = "TEXT",
        default_value = "",
        hide_default_value = true,
        conflicts_with = "plaintext"
    )]
    label: String,
    /// Give it the keys of another store, under a passphrase of its own: what is copied between the two is copied as it
    /// is, and both cut and name files alike. Whoever can read one of them has the keys of both
    #[arg(long, value_name = "STORE", conflicts_with = "plaintext")]
    clone_keys_from: Option<OsString>,
    /// Accept a weak passphrase without a word
    #[arg(long)]
    weak_passphrase: bool,
}

/// Runs it.
pub(crate) async fn run(context: &AppContext, args: CreateArgs) -> anyhow::Result<ExitCode> {
    let store = context.store()?;
    let given = if args.plaintext { None } else { secret::given(context)? };
    if given.is_none() && !args.plaintext {
        secret::need_terminal("the new store")?;
    }
    let keys_of = match &args.clone_keys_from {
        Some(other) => {
            let other = context.open_peer(other, None, given.clone()).await?;
            if !other.config().sealed {
                let place = other.store().location();
                let text =
                    format!("-clone-keys-from: the store at {place} is not encrypted, and has no keys");
                return Err(Failure::usage(text, Some(&["create".into()])).into());
            }
            Some(other)
        }
        None => None,
    };
    // Before anybody is asked for a passphrase in vain.
    store.prepare().await.map_err(plakar_engine::error::Error::from)?;
    if args.shared
        && let Some(path) = store.local_path()
    {
        FsStore::share(path).with_context(|| format!("cannot share {} with its group", path.display()))?;
    }
    let typed = given.is_none() && !args.plaintext;
    let secret = match args.plaintext {
        true => None,
        false => Some(secret::for_new(context, given, "the new store", args.weak_passphrase)?),
    };
    let (no_compression, label) = (args.no_compression, args.label);
    let options = CreateOptions { no_compression, label, keys_of, ..CreateOptions::default() };
    let config = repository::create(&store, secret.as_ref(), &options).await?;
    let mut out = Output::new();
    if context.json() {
        out.json(&json!({
            "type": "summary",
            "command": "create",
            "location": store.location(),
            "store_id": config.store.to_string(),
            "encrypted": config.sealed,
            "compressed": config.zstd_level.is_some(),
        }))?;
    } else if context.is_talkative() {
        let kind = if config.sealed { "an encrypted" } else { "a plaintext" };
        out.line(format_args!("made {kind} store at {}", store.location()))?;
    }
    out.flush()?;
    if typed {
        context.notice("keep the passphrase safe: without it nobody can read the backups, you included");
    }
    Ok(ExitCode::Ok)
}
