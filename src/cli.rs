//! The grammar: global options, the commands, and the query options that several of them share.
//!
//! `plakar [GLOBAL OPTIONS] [at STORE] COMMAND [OPTIONS] [ARGS]`. The structs below and those of the commands say
//! which options there are, and their doc comments are the help. `args` brings a command line into the one form that
//! clap reads (options have one dash or two and stand anywhere), `help` shows it all.

mod args;
mod help;

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{CommandFactory, FromArgMatches};
use plakar_engine::select::Filter;

use crate::commands;
use crate::report::Failure;
use crate::time;

pub(crate) use args::{explain, not_here};
pub(crate) use help::{overview, page, short_overview, usage};

/// A command line, read.
#[derive(Debug, clap::Parser)]
#[command(name = "plakar", args_override_self = true, disable_help_subcommand = true)]
#[command(disable_help_flag = true, disable_version_flag = true)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) globals: Globals,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// Options of every command.
#[derive(Clone, Debug, Default, clap::Args)]
pub(crate) struct Globals {
    /// Print results, progress and errors as JSON, one object a line
    #[arg(long, global = true)]
    pub(crate) json: bool,
    /// Show no progress and no notices, only results and errors
    #[arg(long, global = true)]
    pub(crate) quiet: bool,
    /// Print nothing but what was asked for and the error that ended the command
    #[arg(long, global = true)]
    pub(crate) silent: bool,
    /// List every entry that is worked on
    #[arg(long = "v", global = true)]
    pub(crate) verbose: bool,
    /// Read the passphrase, or a key made by `plakar key add`, from a file
    #[arg(long, global = true, value_name = "FILE", conflicts_with = "passphrase_cmd")]
    pub(crate) keyfile: Option<PathBuf>,
    /// Take the passphrase from what a command prints: one line
    #[arg(long, global = true, value_name = "COMMAND")]
    pub(crate) passphrase_cmd: Option<OsString>,
    /// Keep what is cached here [~/.cache/plakar]
    #[arg(long, global = true, value_name = "DIR")]
    pub(crate) cachedir: Option<PathBuf>,
    /// Configuration directory [~/.config/plakar]
    #[arg(long, global = true, value_name = "DIR", alias = "config")]
    pub(crate) configdir: Option<PathBuf>,
    /// Directory of installed integrations [~/.local/share/plakar]
    #[arg(long, global = true, value_name = "DIR")]
    pub(crate) datadir: Option<PathBuf>,
    /// Use no more than this many CPUs
    #[arg(long, global = true, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) cpu: Option<u32>,
    /// Draw no progress bar, even on a terminal
    #[arg(long, global = true)]
    pub(crate) stdio: bool,
    /// Say at the end how long it took
    #[arg(long, global = true)]
    pub(crate) time: bool,
    /// Log what these parts do: all, or a list of engine, mount, connectors, repository, ops, …
    #[arg(long, global = true, value_name = "LIST", value_delimiter = ',')]
    pub(crate) trace: Vec<String>,
    /// Taken for the sake of scripts; the number of workers follows -cpu
    #[arg(long, global = true, value_name = "N", hide = true, allow_hyphen_values = true)]
    pub(crate) concurrency: Option<i64>,
}

/// The commands, in the order of the overview.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    Create(commands::create::CreateArgs),
    Backup(Box<commands::backup::BackupArgs>),
    Ls(Box<commands::ls::LsArgs>),
    Cat(commands::cat::CatArgs),
    Info(commands::info::InfoArgs),
    Restore(Box<commands::restore::RestoreArgs>),
    Check(Box<commands::check::CheckArgs>),
    Mount(Box<commands::mount::MountArgs>),
    Umount(commands::umount::UmountArgs),
    Repair(commands::repair::RepairArgs),
    Prune(Box<commands::prune::PruneArgs>),
    Rm(Box<commands::rm::RmArgs>),
    Undelete(commands::undelete::UndeleteArgs),
    Maintenance(commands::maintenance::MaintenanceArgs),
    Sync(Box<commands::sync::SyncArgs>),
    Ptar(commands::ptar::PtarArgs),
    Pin(commands::pin::PinArgs),
    Unpin(commands::pin::UnpinArgs),
    Tag(commands::tag::TagArgs),
    Describe(commands::tag::DescribeArgs),
    Store(commands::named::StoreArgs),
    Source(commands::named::SourceArgs),
    Destination(commands::named::DestinationArgs),
    Policy(commands::policy::PolicyArgs),
    Key(commands::key::KeyArgs),
    Cache(commands::cache::CacheArgs),
    Version(commands::version::VersionArgs),
    Help(commands::help::HelpArgs),
}

/// Options that choose among snapshots.
#[derive(Clone, Debug, Default, clap::Args)]
#[command(next_help_heading = "Choosing snapshots")]
pub(crate) struct Query {
    /// Older than this: a date or time, local unless it has a zone, or how long ago (2d, 3 months, yesterday)
    #[arg(long, value_name = "TIME", value_parser = time::check)]
    before: Option<String>,
    /// Not older than this
    #[arg(long, value_name = "TIME", value_parser = time::check)]
    since: Option<String>,
    #[command(flatten)]
    fields: Fields,
    /// That backed up this path; repeatable, any will do
    #[arg(long, value_name = "PATH")]
    root: Vec<PathBuf>,
    /// Of this source: the host's name for files; repeatable, any will do
    #[arg(long, value_name = "NAME")]
    origin: Vec<String>,
    /// Of a source of this type: fs, …; repeatable, any will do
    #[arg(long = "type", value_name = "TYPE")]
    kind: Vec<String>,
    /// Only the newest of those that fit
    #[arg(long)]
    latest: bool,
    /// Choose among the snapshots that can be read, although others cannot
    #[arg(long)]
    skip_damaged: bool,
}

/// The part of the query that asks for what a backup was given.
#[derive(Clone, Debug, Default, clap::Args)]
#[command(next_help_heading = "Choosing snapshots")]
pub(crate) struct Fields {
    /// With this name
    #[arg(long, value_name = "TEXT")]
    name: Option<String>,
    /// With this category
    #[arg(long, value_name = "TEXT")]
    category: Option<String>,
    /// With this environment
    #[arg(long, value_name = "TEXT")]
    environment: Option<String>,
    /// With this perimeter
    #[arg(long, value_name = "TEXT")]
    perimeter: Option<String>,
    /// With this job
    #[arg(long, value_name = "TEXT")]
    job: Option<String>,
    /// With all of these tags; !TAG: without it
    #[arg(long, value_name = "LIST", value_delimiter = ',')]
    tag: Vec<String>,
}

impl Fields {
    /// As the engine takes it.
    pub(crate) fn filter(&self) -> Filter {
        let Self { name, category, environment, perimeter, job, tag } = self.clone();
        let tags = tag.iter().map(|t| t.trim().to_owned()).filter(|t| !t.is_empty()).collect();
        Filter { name, category, environment, perimeter, job, tags, ..Filter::default() }
    }
}

impl Query {
    /// As the engine takes it.
    ///
    /// # Errors
    /// A time that was given is none by now.
    pub(crate) fn filter(&self) -> Result<Filter, String> {
        self.filter_at(&jiff::Zoned::now())
    }

    /// The same, with times that are relative to a clock, and in its zone.
    pub(crate) fn filter_at(&self, now: &jiff::Zoned) -> Result<Filter, String> {
        use std::os::unix::ffi::OsStringExt;
        let time = |given: &Option<String>| {
            given.as_ref().map(|text| plakar_engine::moment::parse(text, now).map(|p| p.start_ns)).transpose()
        };
        let absolute = |p: &PathBuf| std::path::absolute(p).unwrap_or_else(|_| p.clone());
        let bytes = |p: &PathBuf| plakar_engine::select::clean(&absolute(p).into_os_string().into_vec());
        Ok(Filter {
            before_ns: time(&self.before)?,
            since_ns: time(&self.since)?,
            roots: self.root.iter().map(bytes).collect(),
            origins: self.origin.clone(),
            types: self.kind.clone(),
            latest: self.latest,
            skip_damaged: self.skip_damaged,
            ..self.fields.filter()
        })
    }
}

/// The names of all commands.
pub(crate) fn names() -> Vec<String> {
    Cli::command().get_subcommands().map(|c| c.get_name().to_owned()).collect()
}

/// What a command line asks for.
#[derive(Debug)]
pub(crate) enum Asked {
    /// To run a command.
    Run {
        /// The command and the global options.
        cli: Box<Cli>,
        /// What stood behind `at`.
        store: Option<OsString>,
        /// The whole, for the snapshot's header: without secrets.
        recorded: String,
        /// The command and its arguments in one form.
        words: Vec<OsString>,
    },
    /// The overview, by `plakar` alone or `plakar -help`.
    Overview {
        /// Whether it was asked for.
        wanted: bool,
    },
    /// The page of a command.
    Page(Vec<String>),
}

/// Reads a command line, the program's name left out.
///
/// # Errors
/// A [`Failure`] of usage.
pub(crate) fn read(words: Vec<OsString>) -> Result<Asked, Failure> {
    let grammar = Cli::command();
    let line = args::normalize(&grammar, words)?;
    if line.help {
        return Ok(if line.path.is_empty() {
            Asked::Overview { wanted: true }
        } else {
            Asked::Page(line.path)
        });
    }
    if line.path.is_empty() {
        return match line.store {
            Some(_) => Err(Failure::usage("`at STORE` needs a command behind it", None)),
            None => Ok(Asked::Overview { wanted: false }),
        };
    }
    let recorded = args::without_secrets(&line);
    let read = grammar.try_get_matches_from(&line.words).and_then(|m| Cli::from_arg_matches(&m));
    let cli = read.map_err(|e| args::explain(&e, &line.path))?;
    let words = line.words.into_iter().skip(1).collect();
    Ok(Asked::Run { cli: Box::new(cli), store: line.store, recorded, words })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(line: &str) -> Result<Asked, Failure> {
        read(line.split_whitespace().map(OsString::from).collect())
    }

    fn run(line: &str) -> (Cli, Option<OsString>, String) {
        match ask(line) {
            Ok(Asked::Run { cli, store, recorded, .. }) => (*cli, store, recorded),
            other => unreachable!("{line}: {other:?}"),
        }
    }

    #[test]
    fn the_grammar_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn options_have_one_dash_or_two_and_stand_anywhere() {
        for line in [
            "at /s restore -to /t -overwrite never -json latest:sub",
            "-json at /s restore latest:sub --to=/t --overwrite never",
            "--json at /s restore --to /t latest:sub -overwrite=never",
            "at /s restore -to /t -overwrite=always -overwrite=never -json -- latest:sub",
        ] {
            let (cli, store, _) = run(line);
            assert_eq!(store, Some("/s".into()), "{line}");
            assert!(cli.globals.json, "{line}");
            let Command::Restore(restore) = cli.command else { unreachable!("{line}") };
            assert_eq!(restore.to, Some("/t".into()), "{line}");
            assert_eq!(restore.snapshot, Some("latest:sub".into()), "{line}");
        }
    }

    #[test]
    fn a_flag_can_be_taken_back() {
        assert!(!run("ls -json -json=false").0.globals.json);
        assert!(run("ls -json=false --json=true").0.globals.json);
        assert!(ask("ls -json=perhaps").is_err());
    }

    #[test]
    fn values_may_begin_with_a_dash_and_be_any_bytes() {
        use std::os::unix::ffi::OsStringExt;
        let (cli, ..) = run("backup -ignore -x -ignore *.o /a");
        let Command::Backup(backup) = cli.command else { unreachable!() };
        assert_eq!(backup.ignore, ["-x", "*.o"]);
        let odd = OsString::from_vec(b"-to=/\xff".to_vec());
        let Ok(Asked::Run { cli, .. }) = read(vec!["restore".into(), odd, "ab".into()]) else {
            unreachable!()
        };
        let Command::Restore(restore) = cli.command else { unreachable!() };
        assert_eq!(restore.to.map(OsStringExt::into_vec), Some(b"/\xff".to_vec()));
    }

    #[test]
    fn mistakes_are_named() {
        for (line, words) in [
            ("bakcup", "backup"),
            ("ls -recursiv", "-recursive"),
            ("ls -since", "-since"),
            ("at", "STORE"),
            ("at /s", "command"),
            ("key", "key ls"),
            ("key frob", "frob"),
            ("archive a", "not in this version"),
            ("ls -since 90m", "90min"),
            ("cat", "SNAPSHOT:PATH"),
        ] {
            let e = ask(line).map(|_| ()).unwrap_err();
            let text = format!("{e} {:?} {:?}", e.hint(), e.page());
            assert!(text.contains(words), "{line}: {text}");
            assert_eq!(e.code(), crate::ExitCode::Usage, "{line}");
        }
    }

    #[test]
    fn help_is_everywhere() {
        assert!(matches!(ask(""), Ok(Asked::Overview { wanted: false })));
        assert!(matches!(ask("-help"), Ok(Asked::Overview { wanted: true })));
        assert!(matches!(ask("key add --help"), Ok(Asked::Page(p)) if p == ["key", "add"]));
        assert!(matches!(ask("ls -h"), Ok(Asked::Page(p)) if p == ["ls"]));
    }

    #[test]
    fn what_is_recorded_has_no_secrets() {
        let (.., recorded) =
            run("-passphrase-cmd pass=geheim at sftp://me:geheim@host/s backup -o k=geheim /a");
        assert!(!recorded.contains("geheim"), "{recorded}");
        assert!(recorded.contains("backup") && recorded.contains("/a"), "{recorded}");
    }
}
