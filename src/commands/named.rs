//! `plakar store`, `source` and `destination`: places under names.

use std::fmt::Write;
use std::io::Read;
use std::path::PathBuf;

use anyhow::Context;
use plakar_connectors::fs::{FsExportOptions, FsExporter};
use plakar_engine::exporter::Overwrite;
use plakar_engine::repository::Probe;
use serde_json::json;

use crate::context::AppContext;
use crate::exit_code::ExitCode;
use crate::location::{self, Place};
use crate::report::Failure;
use crate::screen::Output;
use crate::settings::{self, Options, Section, Settings};
use crate::text::nearest;

/// Give stores names: `plakar at @NAME …`
///
/// They are kept in stores.yml in the configuration directory, readable for their owner only. An option of a store is a
/// secret or says where to get it: passphrase, passphrase_cmd (a command that prints it), passphrase_file, passphrase_env
/// (a variable), passphrase_keyring (SERVICE/USER in the desktop's keyring), or keyfile.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  plakar store add nas /mnt/nas/backups passphrase_cmd='pass show nas'\n  plakar store default nas\n  plakar at @nas ls"
)]
pub(crate) struct StoreArgs {
    #[command(subcommand)]
    action: StoreAction,
}

/// Give sources names: `plakar backup @NAME`
///
/// They are kept in sources.yml in the configuration directory, readable for their owner only. Files take the option
/// dont_traverse_fs=true, to stay on one file system.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  plakar source add home /home dont_traverse_fs=true\n  plakar backup @home @home:../etc"
)]
pub(crate) struct SourceArgs {
    #[command(subcommand)]
    action: Action,
}

/// Give destinations names: `plakar restore -to @NAME`
///
/// They are kept in destinations.yml in the configuration directory, readable for their owner only.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  plakar destination add spare /mnt/spare\n  plakar restore -to @spare:today latest"
)]
pub(crate) struct DestinationArgs {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, clap::Subcommand)]
enum StoreAction {
    #[command(flatten)]
    Common(Action),
    Default(DefaultArgs),
}

#[derive(Debug, clap::Subcommand)]
enum Action {
    Add(AddArgs),
    Set(SetArgs),
    Unset(UnsetArgs),
    Rm(RmArgs),
    Show(ShowArgs),
    Check(CheckArgs),
    Ping(PingArgs),
    Import(ImportArgs),
}

/// Add a name
#[derive(Debug, clap::Args)]
struct AddArgs {
    /// The name, with or without @
    #[arg(value_name = "NAME")]
    name: String,
    /// Where it is; location=… does as well
    #[arg(value_name = "LOCATION")]
    location: String,
    /// Its options
    #[arg(value_name = "KEY=VALUE")]
    options: Vec<String>,
}

/// Change or add options of a name, or its location
#[derive(Debug, clap::Args)]
struct SetArgs {
    /// The name
    #[arg(value_name = "NAME")]
    name: String,
    /// Its options, and location=…
    #[arg(value_name = "KEY=VALUE", required = true)]
    options: Vec<String>,
}

/// Take options of a name away
#[derive(Debug, clap::Args)]
struct UnsetArgs {
    /// The name
    #[arg(value_name = "NAME")]
    name: String,
    /// The options
    #[arg(value_name = "KEY", required = true)]
    keys: Vec<String>,
}

/// Forget a name; what it stands for stays as it is
#[derive(Debug, clap::Args)]
struct RmArgs {
    /// The name
    #[arg(value_name = "NAME")]
    name: String,
}

/// Show what is configured, without secrets
#[derive(Debug, clap::Args)]
struct ShowArgs {
    /// Show secrets, too
    #[arg(long)]
    secrets: bool,
    /// As YAML, which is how it is shown anyway
    #[arg(long, conflicts_with = "ini")]
    yaml: bool,
    /// As an INI file
    #[arg(long)]
    ini: bool,
    /// These names, by default all
    #[arg(value_name = "NAME")]
    names: Vec<String>,
}

/// See whether what is configured makes sense, without going there
#[derive(Debug, clap::Args)]
struct CheckArgs {
    /// The name
    #[arg(value_name = "NAME")]
    name: String,
}

/// See whether the place can be reached and used
#[derive(Debug, clap::Args)]
struct PingArgs {
    /// The name
    #[arg(value_name = "NAME")]
    name: String,
}

/// Read names from YAML, JSON or INI, on standard input or in a file
#[derive(Debug, clap::Args)]
struct ImportArgs {
    /// Read this file
    #[arg(long, value_name = "FILE")]
    from: Option<PathBuf>,
    /// Replace what has such a name
    #[arg(long)]
    overwrite: bool,
    /// It is the configuration of rclone: each of its remotes becomes rclone://REMOTE:
    #[arg(long)]
    rclone: bool,
    /// Only these, and under which name
    #[arg(value_name = "SECTION[:NAME]")]
    sections: Vec<String>,
}

/// Show or say which store is meant when none is named
#[derive(Debug, clap::Args)]
struct DefaultArgs {
    /// None from now on
    #[arg(long, conflicts_with = "name")]
    unset: bool,
    /// Its name
    #[arg(value_name = "NAME")]
    name: Option<String>,
}

/// `plakar store`.
pub(crate) async fn store(context: &AppContext, args: StoreArgs) -> anyhow::Result<ExitCode> {
    match args.action {
        StoreAction::Common(action) => run(context, Section::Store, action).await,
        StoreAction::Default(args) => default(context, &args),
    }
}

/// `plakar source`.
pub(crate) async fn source(context: &AppContext, args: SourceArgs) -> anyhow::Result<ExitCode> {
    run(context, Section::Source, args.action).await
}

/// `plakar destination`.
pub(crate) async fn destination(context: &AppContext, args: DestinationArgs) -> anyhow::Result<ExitCode> {
    run(context, Section::Destination, args.action).await
}

async fn run(context: &AppContext, section: Section, action: Action) -> anyhow::Result<ExitCode> {
    let directory = context.configuration_directory()?;
    match action {
        Action::Add(args) => {
            let mut words = vec![match args.location.strip_prefix("location=") {
                Some(_) => args.location,
                None => format!("location={}", args.location),
            }];
            words.extend(args.options);
            let name = valid_name(&args.name, section)?;
            let options = pairs(&words, section)?;
            let mut settings = Settings::edit(&directory, section)?;
            if settings.get(name).is_some() {
                let word = section.word();
                return Err(Failure::new(format!("there is a {word} called {name} already"))
                    .with_hint(format!("`plakar {word} set {name} …` changes it"))
                    .into());
            }
            put(context, &mut settings, section, name, options)
        }
        Action::Set(args) => {
            let name = bare(&args.name);
            let mut settings = Settings::edit(&directory, section)?;
            let mut options = settings.require(name)?;
            options.extend(pairs(&args.options, section)?);
            put(context, &mut settings, section, name, options)
        }
        Action::Unset(args) => {
            let name = bare(&args.name);
            let mut settings = Settings::edit(&directory, section)?;
            let mut options = settings.require(name)?;
            for key in &args.keys {
                if key == "location" {
                    let hint = format!("`plakar {} rm {name}` forgets all of it", section.word());
                    return Err(Failure::new("a place cannot be without its location")
                        .with_hint(hint)
                        .into());
                }
                if options.remove(key).is_none() {
                    let failure = Failure::new(format!("{name} has no option {key}"));
                    return Err(near(failure, key, options.keys()).into());
                }
            }
            settings.unset(name, &args.keys);
            settings.write(&[(name, Some(&options))])?;
            changed(context, section, name)
        }
        Action::Rm(args) => {
            let name = bare(&args.name);
            let mut settings = Settings::edit(&directory, section)?;
            settings.require(name)?;
            settings.remove(name);
            settings.write(&[(name, None)])?;
            changed(context, section, name)
        }
        Action::Show(args) => show(context, section, &args),
        Action::Check(args) => {
            let place = checked(context, section, &args.name)?;
            done(context, section, &args.name, &place, "makes sense")
        }
        Action::Ping(args) => {
            let place = checked(context, section, &args.name)?;
            ping(context, section, &place).await?;
            done(context, section, &args.name, &place, "can be reached")
        }
        Action::Import(args) => import(context, section, &args),
    }
}

/// A name without the `@` that it has where it is used.
fn bare(name: &str) -> &str {
    name.strip_prefix('@').unwrap_or(name)
}

/// A name that can be typed behind `@`.
pub(super) fn valid_name(name: &str, section: Section) -> anyhow::Result<&str> {
    let name = bare(name);
    let allowed = |c: char| c.is_alphanumeric() || "-_.+".contains(c);
    if name.is_empty() || !name.chars().all(allowed) {
        let text = format!("{name:?} is no name: letters, digits, and - _ . + make one");
        return Err(Failure::usage(text, Some(&[section.word().into(), "add".into()])).into());
    }
    Ok(name)
}

/// Reads `KEY=VALUE` words.
pub(super) fn pairs(words: &[String], section: Section) -> anyhow::Result<Options> {
    let mut options = Options::new();
    for word in words {
        let Some((key, value)) = word.split_once('=').filter(|(key, _)| !key.is_empty()) else {
            let text = format!("{word:?} is no KEY=VALUE");
            return Err(Failure::usage(text, Some(&[section.word().into(), "set".into()])).into());
        };
        options.insert(key.to_owned(), value.to_owned());
    }
    Ok(options)
}

fn near<'a>(failure: Failure, key: &str, known: impl IntoIterator<Item = &'a String>) -> Failure {
    match nearest(key, known.into_iter().map(String::as_str)) {
        Some(near) => failure.with_hint(format!("did you mean {near}?")),
        None => failure,
    }
}

/// Refuses options that nothing takes.
fn check_options(place: &Place, section: Section) -> anyhow::Result<()> {
    let Some(known) = location::known_options(&place.location, section) else { return Ok(()) };
    if let Some(key) = place.options.keys().find(|key| !known.contains(key)) {
        let failure = Failure::new(format!("a {} of files has no option {key}", section.word()));
        let others: Vec<&str> = known.iter().map(String::as_str).filter(|k| *k != "location").collect();
        let all = match others.is_empty() {
            true => failure.with_hint("it has none"),
            false => failure.with_hint(format!("it has {}", others.join(", "))),
        };
        return Err(near(all, key, &known).into());
    }
    let ways: Vec<&String> =
        place.options.keys().filter(|k| crate::secret::option_names().any(|n| n == **k)).collect();
    if let [one, other, ..] = ways[..] {
        let failure = Failure::new(format!("{one} and {other} both say what opens it"));
        return Err(failure.with_hint("keep one of them: `unset` takes the other away").into());
    }
    Ok(())
}

fn place_of(mut options: Options) -> anyhow::Result<Place> {
    let location = options.remove("location").filter(|l| !l.is_empty());
    let location = location.ok_or_else(|| Failure::new("the location is missing"))?;
    Ok(Place { location: location.into(), options })
}

fn put(
    context: &AppContext,
    settings: &mut Settings,
    section: Section,
    name: &str,
    options: Options,
) -> anyhow::Result<ExitCode> {
    let place = place_of(options.clone())?;
    check_options(&place, section)?;
    if location::known_options(&place.location, section).is_none() {
        let location = location::without_secrets(&place.location.to_string_lossy());
        context.notice(&format!("{name} is kept, but this version cannot use {location} yet"));
    }
    settings.set(name, &options);
    settings.write(&[(name, Some(&options))])?;
    changed(context, section, name)
}

/// Says nothing, as Plakar does, but for who asked for JSON.
pub(super) fn changed(context: &AppContext, section: Section, name: &str) -> anyhow::Result<ExitCode> {
    if context.json() {
        let mut out = Output::new();
        out.json(&json!({ "type": "summary", "command": section.word(), "name": name }))?;
        out.flush()?;
    }
    Ok(ExitCode::Ok)
}

/// A place whose configuration makes sense.
fn checked(context: &AppContext, section: Section, name: &str) -> anyhow::Result<Place> {
    let name = bare(name);
    let options = Settings::read(&context.configuration_directory()?, section)?.require(name)?;
    let place = place_of(options)?;
    check_options(&place, section)?;
    location::local(&place.location, &context.env)?;
    Ok(place)
}

async fn ping(context: &AppContext, section: Section, place: &Place) -> anyhow::Result<()> {
    let path = location::local(&place.location, &context.env)?;
    match section {
        Section::Store => {
            Probe::read(&context.store_at(place)?).await?;
        }
        Section::Source => {
            let opened =
                if path.is_dir() { path.read_dir().map(drop) } else { std::fs::File::open(&path).map(drop) };
            opened.with_context(|| format!("cannot read {}", path.display()))?;
        }
        Section::Destination | Section::Policy => {
            // As a restore would do it; but nothing is made for a question.
            let there = path.ancestors().find(|p| p.exists()).unwrap_or(&path);
            let probe = there.join(format!(".plakar-ping-{}", std::process::id()));
            let made = FsExporter::new(probe.clone(), Overwrite::Error, FsExportOptions::default());
            let _ = std::fs::remove_dir(&probe);
            made.map_err(|e| Failure::new(format!("cannot write below {}: {e}", there.display())))?;
        }
    }
    Ok(())
}

fn done(
    context: &AppContext,
    section: Section,
    name: &str,
    place: &Place,
    what: &str,
) -> anyhow::Result<ExitCode> {
    let (name, location) = (bare(name), location::without_secrets(&place.location.to_string_lossy()));
    let mut out = Output::new();
    if context.json() {
        let word = section.word();
        out.json(
            &json!({ "type": "configuration", "kind": word, "name": name, "location": location, "ok": true }),
        )?;
    } else if context.is_talkative() {
        out.line(format_args!("{name}: {location} {what}: configuration OK"))?;
    }
    out.flush()?;
    Ok(ExitCode::Ok)
}

/// Keys whose values are not shown: these, and what ends in them behind a `_`.
const SECRETS: [&str; 9] = [
    "access_key",
    "secret_access_key",
    "passphrase",
    "password",
    "pass",
    "private_key",
    "token",
    "client_id",
    "client_secret",
];

fn is_secret(key: &str) -> bool {
    let key = key.to_ascii_lowercase();
    SECRETS.iter().any(|s| key == *s || key.ends_with(&format!("_{s}")))
}

fn shown(options: &Options, secrets: bool) -> Options {
    let show = |key: &String, value: &String| match (secrets, key.as_str()) {
        (true, _) => value.clone(),
        (false, "location") => location::without_secrets(value),
        (false, key) if is_secret(key) => "********".to_owned(),
        (false, _) => value.clone(),
    };
    options.iter().map(|(key, value)| (key.clone(), show(key, value))).collect()
}

fn show(context: &AppContext, section: Section, args: &ShowArgs) -> anyhow::Result<ExitCode> {
    let settings = Settings::read(&context.configuration_directory()?, section)?;
    let names = match args.names.is_empty() {
        true => settings.names(),
        false => args.names.iter().map(|n| bare(n).to_owned()).collect(),
    };
    let mut all = Vec::new();
    for name in names {
        let options = shown(&settings.require(&name)?, args.secrets);
        all.push((name, options));
    }
    let default = settings.default().filter(|_| section == Section::Store);
    let mut out = Output::new();
    if context.json() {
        for (name, options) in all {
            let is_default = default.as_ref() == Some(&name);
            let word = section.word();
            out.json(&json!({
                "type": "configuration", "kind": word, "name": name, "default": is_default, "options": options,
            }))?;
        }
    } else if args.ini {
        for (name, options) in all {
            out.line(format_args!("[{name}]"))?;
            for (key, value) in options {
                out.line(format_args!("{key} = {value}"))?;
            }
            out.line("")?;
        }
    } else if !all.is_empty() {
        out.bytes(settings::to_yaml(section, default.as_deref(), &all).as_bytes())?;
    }
    out.flush()?;
    Ok(ExitCode::Ok)
}

fn import(context: &AppContext, section: Section, args: &ImportArgs) -> anyhow::Result<ExitCode> {
    let mut text = String::new();
    match &args.from {
        Some(file) if file.to_string_lossy().contains("://") => {
            let failure = Failure::new(format!("cannot read {}: it is no file", file.display()));
            let hint = format!("fetch it first: `curl … | plakar {} import`", section.word());
            return Err(failure.with_hint(hint).into());
        }
        Some(file) => {
            text =
                std::fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
        }
        None => {
            std::io::stdin().read_to_string(&mut text).context("cannot read standard input")?;
        }
    }
    let is_ini = text.lines().map(str::trim).find(|l| !l.is_empty() && !l.starts_with(['#', ';']));
    let is_ini = is_ini.is_some_and(|l| l.starts_with('[') && l.ends_with(']') && !l.contains('"'));
    let read = if is_ini { settings::read_ini(&text) } else { settings::read_yaml(&text, section) };
    let mut found = read.map_err(|e| Failure::new(format!("what is to be imported cannot be read: {e}")))?;
    if args.rclone {
        for (name, options) in &mut found {
            options.insert("location".into(), format!("rclone://{name}:"));
        }
    }
    if !args.sections.is_empty() {
        let mut chosen = Vec::new();
        for wanted in &args.sections {
            let (from, to) = wanted.split_once(':').unwrap_or((wanted, wanted));
            let Some((_, options)) = found.iter().find(|(name, _)| name == from) else {
                let failure = Failure::new(format!("there is no {from} in what is to be imported"));
                return Err(near(failure, from, found.iter().map(|(name, _)| name)).into());
            };
            chosen.push((to.to_owned(), options.clone()));
        }
        found = chosen;
    }
    if found.is_empty() {
        return Err(Failure::new("there is nothing in what is to be imported").into());
    }
    // All or nothing.
    let mut settings = Settings::edit(&context.configuration_directory()?, section)?;
    for (name, options) in &found {
        valid_name(name, section)?;
        let place = place_of(options.clone()).with_context(|| format!("{name} cannot be imported"))?;
        check_options(&place, section).with_context(|| format!("{name} cannot be imported"))?;
        if let Some(there) = settings.get(name) {
            if !args.overwrite {
                return Err(Failure::new(format!("there is a {} called {name} already", section.word()))
                    .with_hint("-overwrite replaces it")
                    .into());
            }
            settings.unset(name, &there.into_keys().collect::<Vec<_>>());
        }
        settings.set(name, options);
    }
    let wanted: Vec<(&str, Option<&Options>)> = found.iter().map(|(n, o)| (n.as_str(), Some(o))).collect();
    settings.write(&wanted)?;
    let mut names = String::new();
    found.iter().for_each(|(name, _)| {
        let _ = write!(names, "{}{name}", if names.is_empty() { "" } else { ", " });
    });
    context.notice(&format!("imported {names}"));
    Ok(ExitCode::Ok)
}

fn default(context: &AppContext, args: &DefaultArgs) -> anyhow::Result<ExitCode> {
    let directory = context.configuration_directory()?;
    if args.name.is_none() && !args.unset {
        let name = Settings::read(&directory, Section::Store)?.default();
        let mut out = Output::new();
        if context.json() {
            out.json(&json!({ "type": "summary", "command": "store", "default": name }))?;
        } else if let Some(name) = name {
            out.line(name)?;
        } else {
            context.notice("no store is the default one: fs:~/.plakar is used");
        }
        out.flush()?;
        return Ok(ExitCode::Ok);
    }
    let mut settings = Settings::edit(&directory, Section::Store)?;
    let name = args.name.as_deref().map(bare);
    if let Some(name) = name {
        settings.require(name)?;
    }
    settings.set_default(name);
    settings.write(&[])?;
    changed(context, Section::Store, name.unwrap_or_default())
}
