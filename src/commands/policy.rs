//! `plakar policy`: retention rules under names, for `prune -policy`.

use std::ffi::OsString;
use std::time::Duration;

use clap::{CommandFactory, FromArgMatches};
use jiff::{SignedDuration, Zoned};
use plakar_engine::retention;
use serde_json::json;

use super::named::{changed, pairs, valid_name};
use super::prune::{self, PruneArgs};
use crate::cli::Cli;
use crate::context::AppContext;
use crate::exit_code::ExitCode;
use crate::report::Failure;
use crate::screen::Output;
use crate::settings::{self, Options, Section, Settings};
use crate::text::nearest;
use crate::{text, time};

/// Keep rules for pruning under names: `plakar prune -policy NAME`
///
/// A policy is a set of options of `plakar prune`: those that choose snapshots and those that say what to keep. They are kept
/// in policies.yml in the configuration directory. Times that are relative (-before 30d) stay so.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  plakar policy add home days=7 per-day=1 weeks=5 per-week=1 root=/home\n  plakar policy test -every 6h -for 1y home\n  plakar prune -policy home -apply"
)]
pub(crate) struct PolicyArgs {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, clap::Subcommand)]
enum Action {
    Add(AddArgs),
    Set(SetArgs),
    Unset(UnsetArgs),
    Rm(RmArgs),
    Show(ShowArgs),
    Test(TestArgs),
}

/// Add a policy
#[derive(Debug, clap::Args)]
struct AddArgs {
    /// Its name
    #[arg(value_name = "NAME")]
    name: String,
    /// Options of `plakar prune`, without the dash
    #[arg(value_name = "OPTION=VALUE")]
    options: Vec<String>,
}

/// Change or add options of a policy
#[derive(Debug, clap::Args)]
struct SetArgs {
    /// Its name
    #[arg(value_name = "NAME")]
    name: String,
    /// Options of `plakar prune`, without the dash
    #[arg(value_name = "OPTION=VALUE", required = true)]
    options: Vec<String>,
}

/// Take options of a policy away
#[derive(Debug, clap::Args)]
struct UnsetArgs {
    /// Its name
    #[arg(value_name = "NAME")]
    name: String,
    /// The options
    #[arg(value_name = "OPTION", required = true)]
    keys: Vec<String>,
}

/// Forget a policy
#[derive(Debug, clap::Args)]
struct RmArgs {
    /// Its name
    #[arg(value_name = "NAME")]
    name: String,
}

/// Show policies
#[derive(Debug, clap::Args)]
struct ShowArgs {
    /// As YAML, which is how it is shown anyway
    #[arg(long)]
    yaml: bool,
    /// These, by default all
    #[arg(value_name = "NAME")]
    names: Vec<String>,
}

/// Show what a policy would keep: of the store's snapshots, or of a history made up for the question
#[derive(Debug, clap::Args)]
struct TestArgs {
    /// Make up a history with a snapshot this often (6h, 1d), whatever the store has
    #[arg(long, value_name = "DURATION", value_parser = time::parse_duration)]
    every: Option<Duration>,
    /// That goes so far back
    #[arg(long = "for", value_name = "DURATION", value_parser = time::parse_duration, requires = "every")]
    length: Option<Duration>,
    /// As if it were asked then
    #[arg(long, value_name = "TIME")]
    as_of: Option<String>,
    /// Its name
    #[arg(value_name = "NAME")]
    name: String,
}

/// Runs it.
pub(crate) async fn run(context: &AppContext, args: PolicyArgs) -> anyhow::Result<ExitCode> {
    let directory = context.configuration_directory()?;
    let edit = || Settings::edit(&directory, Section::Policy);
    match args.action {
        Action::Add(args) => {
            let name = valid_name(&args.name, Section::Policy)?;
            let options = options(&args.options)?;
            let mut settings = edit()?;
            if settings.get(name).is_some() {
                return Err(Failure::new(format!("there is a policy called {name} already"))
                    .with_hint(format!("`plakar policy set {name} …` changes it"))
                    .into());
            }
            put(context, &mut settings, name, options)
        }
        Action::Set(args) => {
            let mut settings = edit()?;
            let mut all = settings.require(&args.name)?;
            all.extend(options(&args.options)?);
            put(context, &mut settings, &args.name, all)
        }
        Action::Unset(args) => {
            let mut settings = edit()?;
            let mut options = settings.require(&args.name)?;
            for key in &args.keys {
                options.remove(key).ok_or_else(|| {
                    Failure::new(format!("the policy {} has no option {key}", args.name))
                        .with_hint(format!("`plakar policy show {}` shows them", args.name))
                })?;
            }
            settings.unset(&args.name, &args.keys);
            settings.write(&[(&args.name, Some(&options))])?;
            changed(context, Section::Policy, &args.name)
        }
        Action::Rm(args) => {
            let mut settings = edit()?;
            settings.require(&args.name)?;
            settings.remove(&args.name);
            settings.write(&[(&args.name, None)])?;
            changed(context, Section::Policy, &args.name)
        }
        Action::Show(args) => show(context, &args),
        Action::Test(args) => test(context, args).await,
    }
}

/// Names that Plakar has for options of its policies.
fn canonical(key: &str) -> String {
    match key {
        "tags" => "tag".into(),
        "roots" => "root".into(),
        "origins" => "origin".into(),
        "types" => "type".into(),
        key => key.replace('_', "-"),
    }
}

/// Options as they are kept; each must be one that `prune` has.
fn options(words: &[String]) -> anyhow::Result<Options> {
    let given: Options =
        pairs(words, Section::Policy)?.into_iter().map(|(key, value)| (canonical(&key), value)).collect();
    let grammar = Cli::command();
    let prune = grammar.find_subcommand("prune");
    let known: Vec<&str> = prune
        .into_iter()
        .flat_map(|c| c.get_arguments())
        .filter_map(|a| a.get_long())
        .filter(|long| !NOT_IN_A_POLICY.contains(long))
        .collect();
    if let Some(key) = given.keys().find(|key| !known.contains(&key.as_str())) {
        let failure = Failure::usage(
            format!("`plakar prune` has no option -{key} for a policy"),
            Some(&["prune".into()]),
        );
        return Err(match nearest(key, known.iter().copied()) {
            Some(near) => failure.with_hint(format!("did you mean {near}?")),
            None => failure,
        }
        .into());
    }
    Ok(given)
}

/// Options of `prune` that belong to one run of it.
const NOT_IN_A_POLICY: [&str; 4] = ["apply", "as-of", "policy", "tags"];

fn put(
    context: &AppContext,
    settings: &mut Settings,
    name: &str,
    options: Options,
) -> anyhow::Result<ExitCode> {
    // Values are read as `prune` will read them.
    parse(&options, &[])?;
    settings.set(name, &options);
    settings.write(&[(name, Some(&options))])?;
    changed(context, Section::Policy, name)
}

/// Options of `prune` from those of a policy; what `given` has in place of what the policy says.
fn parse(policy: &Options, given: &[OsString]) -> anyhow::Result<PruneArgs> {
    let mut words: Vec<OsString> = vec!["plakar".into(), "prune".into()];
    let name_of = |word: &OsString| {
        let word = word.to_string_lossy();
        word.strip_prefix("--").map(|w| w.split('=').next().unwrap_or_default().to_owned())
    };
    let overridden: Vec<String> = given.iter().filter_map(name_of).map(|name| canonical(&name)).collect();
    for (key, value) in policy {
        let key = from_plakar(key);
        if overridden.contains(&key) {
            continue;
        }
        match value.as_str() {
            "true" if is_flag(&key) => words.push(format!("--{key}").into()),
            "false" if is_flag(&key) => {}
            value if REPEATED.contains(&key.as_str()) => {
                words.extend(value.split(',').map(|v| format!("--{key}={}", v.trim()).into()));
            }
            value => words.push(format!("--{key}={value}").into()),
        }
    }
    words.extend(given.iter().cloned());
    let read = Cli::command().try_get_matches_from(&words);
    let matches = read.map_err(|e| crate::cli::explain(&e, &["prune".into()]))?;
    let (_, matches) = matches.subcommand().ok_or_else(|| Failure::new("a policy is for `prune`"))?;
    Ok(PruneArgs::from_arg_matches(matches).map_err(|e| crate::cli::explain(&e, &["prune".into()]))?)
}

/// Options that may be given several times, each with one value.
const REPEATED: [&str; 3] = ["root", "origin", "type"];

fn is_flag(key: &str) -> bool {
    matches!(key, "latest" | "allow-last" | "skip-damaged")
}

/// An option as Plakar 1.1 writes it into the file: `periods.day.keep`, `periods.day.cap`, `filters.tags`.
fn from_plakar(key: &str) -> String {
    let parts: Vec<&str> = key.split('.').collect();
    match parts[..] {
        ["periods", unit, "keep"] => format!("{unit}s"),
        ["periods", unit, "cap"] => format!("per-{unit}"),
        ["filters", key] => canonical(key),
        _ => canonical(key),
    }
}

/// The options of a policy, under those that were given to `prune` with it.
pub(super) fn load(context: &AppContext, name: &str, given: &[OsString]) -> anyhow::Result<PruneArgs> {
    let policy = Settings::read(&context.configuration_directory()?, Section::Policy)?.require(name)?;
    parse(&policy, given)
}

fn show(context: &AppContext, args: &ShowArgs) -> anyhow::Result<ExitCode> {
    let settings = Settings::read(&context.configuration_directory()?, Section::Policy)?;
    let names = if args.names.is_empty() { settings.names() } else { args.names.clone() };
    let mut all = Vec::new();
    for name in names {
        let options = settings.require(&name)?;
        all.push((name, options));
    }
    let mut out = Output::new();
    if context.json() {
        for (name, options) in all {
            out.json(
                &json!({ "type": "configuration", "kind": "policy", "name": name, "options": options }),
            )?;
        }
    } else if !all.is_empty() {
        out.bytes(settings::to_yaml(Section::Policy, None, &all).as_bytes())?;
    }
    out.flush()?;
    Ok(ExitCode::Ok)
}

/// More would be no history to look at.
const MOST_MADE_UP: u64 = 1_000_000;

async fn test(context: &AppContext, args: TestArgs) -> anyhow::Result<ExitCode> {
    let as_of = args.as_of.map(|t| OsString::from(format!("--as-of={t}")));
    let given: Vec<OsString> = as_of.into_iter().collect();
    let rules = load(context, &args.name, &given)?;
    let Some(every) = args.every else { return Box::pin(prune::run(context, rules)).await };
    let length = args.length.unwrap_or(Duration::from_secs(365 * 86_400));
    let count = length.as_secs() / every.as_secs().max(1) + 1;
    if every.is_zero() || count > MOST_MADE_UP {
        let text = format!("{} snapshots are too many to look at", text::count(count));
        return Err(Failure::usage(text, Some(&["policy".into(), "test".into()])).into());
    }
    let now = rules.now()?;
    let times = made_up(&now, every, count)?;
    let plan = retention::plan(&times, rules.rules(), &now);
    let kept = plan.iter().filter(|v| v.keep).count();
    let mut out = Output::new();
    for (time_ns, verdict) in times.iter().zip(&plan).filter(|(_, verdict)| verdict.keep) {
        let reasons: Vec<String> = verdict.reasons.iter().map(ToString::to_string).collect();
        if context.json() {
            let time = time::exact_ns(*time_ns);
            out.json(&json!({ "type": "plan", "time": time, "action": "keep", "reasons": reasons }))?;
        } else {
            out.line(format_args!("keep {}  {}", time::show_ns(*time_ns), reasons.join("; ")))?;
        }
    }
    let snapshots = times.len();
    if context.json() {
        out.json(&json!({
            "type": "summary", "command": "policy", "snapshots": snapshots, "kept": kept, "deleted": snapshots - kept,
        }))?;
    } else if !context.globals.silent {
        let of = text::counted(snapshots as u64, "snapshot");
        out.line(format_args!("{}: would keep {} of {of}", args.name, text::count(kept as u64)))?;
    }
    out.flush()?;
    Ok(ExitCode::Ok)
}

/// Times of snapshots that could have been made, the newest first, in ns since 1970.
fn made_up(now: &Zoned, every: Duration, count: u64) -> anyhow::Result<Vec<i64>> {
    let every = SignedDuration::try_from(every)?;
    let mut at = now.timestamp();
    let mut times = Vec::new();
    for _ in 0..count {
        times.push(i64::try_from(at.as_nanosecond())?);
        at = at.checked_sub(every)?;
    }
    Ok(times)
}
