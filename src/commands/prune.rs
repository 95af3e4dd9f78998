//! `plakar prune`.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::Arc;

use clap::builder::ValueParser;
use clap::{Arg, ArgMatches, ValueEnum};
use jiff::Zoned;
use jiff::tz::TimeZone;
use plakar_engine::id::ObjectId;
use plakar_engine::repository::catalog::Catalog;
use plakar_engine::retention::{self, Rule, Unit, Verdict};
use plakar_engine::snapshot::Snapshot;
use serde_json::json;

use super::Room;
use crate::cli::Query;
use crate::context::AppContext;
use crate::exit_code::ExitCode;
use crate::report::Failure;
use crate::screen::Output;
use crate::{text, time};

/// Remove snapshots that no rule keeps
///
/// Without -apply it shows the plan and removes nothing. Options that choose snapshots say which ones the rules are about:
/// all others stay. -days 7 keeps all of today and of the six days before it, whether they hold snapshots or not;
/// -per-day 1 keeps the newest of each day, of all days or, with -days, of those. What one rule keeps stays. Days and
/// other units, and times that name no zone, are those of UTC unless -zone says otherwise. Pinned snapshots stay, and so
/// does the last one of a source. The room that removed snapshots alone took becomes free later, by `plakar maintenance`;
/// until then `plakar undelete` brings them back.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  plakar prune -days 7 -per-day 1 -weeks 5 -per-week 1\n  plakar prune -tags finance -per-day 5 -apply\n  plakar prune -per-month 1 -as-of 2027-01-01"
)]
pub(crate) struct PruneArgs {
    /// Do it
    #[arg(long, conflicts_with = "as_of")]
    apply: bool,
    /// Take the options of this policy (`plakar policy`), but for those that are given beside it
    #[arg(long, value_name = "NAME")]
    policy: Option<String>,
    /// Plan as if it were asked then
    #[arg(long, value_name = "TIME")]
    as_of: Option<String>,
    /// Whose days: UTC, local, or a name like Europe/Paris [UTC]
    #[arg(long, value_name = "ZONE", default_value = "UTC", value_parser = zone)]
    zone: TimeZone,
    /// Apply the rules to each group alone: snapshots that agree in these
    #[arg(long, value_name = "LIST", value_delimiter = ',')]
    group_by: Vec<Field>,
    /// Let the last snapshot of a source go, too
    #[arg(long)]
    allow_last: bool,
    #[command(flatten)]
    periods: Periods,
    #[command(flatten)]
    query: Query,
    /// As -tag
    #[arg(long, value_name = "LIST", value_delimiter = ',', hide = true)]
    tags: Vec<String>,
}

fn zone(name: &str) -> Result<TimeZone, String> {
    match name {
        "local" => Ok(TimeZone::system()),
        name => TimeZone::get(name)
            .map_err(|_| format!("there is no time zone {name}: give UTC, Europe/Paris, or local")),
    }
}

/// What snapshots of a group have in common.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Field {
    Name,
    Category,
    Environment,
    Perimeter,
    Job,
    Tag,
    Origin,
    Type,
    Root,
}

impl Field {
    /// What a snapshot has there; of tags, each, and none is one, too.
    fn values(self, s: &Snapshot) -> Vec<String> {
        let one = |text: &str| vec![text.to_owned()];
        match self {
            Self::Name => one(&s.name),
            Self::Category => one(&s.category),
            Self::Environment => one(&s.environment),
            Self::Perimeter => one(&s.perimeter),
            Self::Job => one(&s.job),
            Self::Tag if s.tags.is_empty() => one(""),
            Self::Tag => s.tags.clone(),
            Self::Origin => one(&s.origin),
            Self::Type => one(&s.source),
            Self::Root => one(&roots(s)),
        }
    }
}

fn roots(s: &Snapshot) -> String {
    let roots: Vec<_> = s.roots.iter().map(|r| text::printable(r)).collect();
    roots.join(", ")
}

/// `-days N`, `-per-day N` and the like, of every unit.
#[derive(Clone, Debug, Default)]
struct Periods(Vec<Rule>);

impl Periods {
    fn window(unit: Unit) -> String {
        format!("{}s", unit.name())
    }

    fn cap(unit: Unit) -> String {
        format!("per-{}", unit.name())
    }
}

impl clap::FromArgMatches for Periods {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let given = |name: String| matches.get_one::<u32>(&name).copied();
        let rule = |unit| Rule { unit, last: given(Self::window(unit)), cap: given(Self::cap(unit)) };
        let rules = Unit::ALL.into_iter().map(rule);
        Ok(Self(rules.filter(|r| r.last.is_some() || r.cap.is_some()).collect()))
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

impl clap::Args for Periods {
    fn augment_args(command: clap::Command) -> clap::Command {
        let number = || ValueParser::from(clap::value_parser!(u32).range(1..));
        let option = |name: String, help: String| {
            Arg::new(name.clone())
                .long(name)
                .value_name("N")
                .value_parser(number())
                .help(help)
                .help_heading("What to keep")
        };
        let options = Unit::ALL.into_iter().flat_map(|unit| {
            let weekday = matches!(unit, Unit::Weekday(_));
            let name = unit.name();
            let more = if weekday { "; so with every day of the week" } else { "" };
            let these = format!("All of this {name} and of the N - 1 before it{more}");
            let each = format!("The newest N of each {name}{more}");
            // One of seven stands for all in the list of options.
            let hidden = weekday && name != "monday";
            [option(Self::window(unit), these).hide(hidden), option(Self::cap(unit), each).hide(hidden)]
        });
        command.args(options)
    }

    fn augment_args_for_update(command: clap::Command) -> clap::Command {
        Self::augment_args(command)
    }
}

/// What becomes of one snapshot, and why.
struct Line {
    snapshot: Arc<Snapshot>,
    keep: bool,
    reasons: Vec<String>,
}

impl PruneArgs {
    /// The clock by which it plans.
    pub(super) fn now(&self) -> Result<Zoned, Failure> {
        let now = Zoned::now().with_time_zone(self.zone.clone());
        match &self.as_of {
            None => Ok(now),
            Some(text) => time::at(text, &now).map_err(|e| Failure::usage(e, Some(&["prune".into()]))),
        }
    }

    /// What it keeps.
    pub(super) fn rules(&self) -> &[Rule] {
        &self.periods.0
    }
}

/// Runs it.
pub(crate) async fn run(context: &AppContext, args: PruneArgs) -> anyhow::Result<ExitCode> {
    let args = match &args.policy {
        // The first word is the command.
        Some(policy) => super::policy::load(context, policy, context.words.get(1..).unwrap_or_default())?,
        None => args,
    };
    let now = args.now()?;
    let mut filter = args.query.filter_at(&now).map_err(|e| Failure::usage(e, Some(&["prune".into()])))?;
    filter.tags.extend(args.tags.iter().map(|t| t.trim().to_owned()).filter(|t| !t.is_empty()));
    let rules = &args.periods.0;
    if rules.is_empty() && filter.is_empty() {
        let failure = Failure::usage("prune needs a rule that says what to keep", Some(&["prune".into()]));
        return Err(failure
            .with_hint("for example -days 7 -per-day 1; `plakar rm` removes what is named")
            .into());
    }
    if rules.is_empty() && args.apply {
        let failure = Failure::usage("there is no rule that says what to keep", Some(&["prune".into()]));
        return Err(failure.with_hint("`plakar rm` with the same options removes what they choose").into());
    }
    let repository = context.open().await?;
    let catalog = repository.catalog().await?;
    filter.check_choice(&catalog)?;
    let as_of_ns = args.as_of.as_ref().map(|_| now.timestamp().as_nanosecond() as i64);
    let mut candidates = filter.select(&catalog);
    candidates.retain(|s| as_of_ns.is_none_or(|then| s.time_ns <= then));
    let lines = plan(candidates, &catalog, &args, &now);
    let gone: Vec<ObjectId> = lines.iter().filter(|l| !l.keep).map(|l| l.snapshot.id).collect();
    if args.apply && !gone.is_empty() {
        repository.remove_snapshots(&gone, "plakar prune").await?;
    }
    let room = match gone.is_empty() || context.globals.silent {
        true => None,
        false => super::room_of(context, &repository, &gone).await,
    };
    show(context, &args, &lines, gone.len() as u64, room)?;
    if rules.is_empty() {
        context.notice(
            "no rule says what to keep, so all of these stay; `plakar rm` with the same options removes them",
        );
    }
    Ok(ExitCode::Ok)
}

fn plan(candidates: Vec<Arc<Snapshot>>, catalog: &Catalog, args: &PruneArgs, now: &Zoned) -> Vec<Line> {
    let rules = &args.periods.0;
    let mut groups: BTreeMap<Vec<String>, Vec<usize>> = BTreeMap::new();
    for (i, snapshot) in candidates.iter().enumerate() {
        for key in keys(snapshot, &args.group_by) {
            groups.entry(key).or_default().push(i);
        }
    }
    let mut verdicts = vec![Verdict::default(); candidates.len()];
    for members in groups.values() {
        let times: Vec<i64> = members.iter().map(|i| candidates[*i].time_ns).collect();
        for (i, verdict) in members.iter().zip(retention::plan(&times, rules, now)) {
            verdicts[*i].join(verdict);
        }
    }
    let mut lines: Vec<Line> = candidates
        .into_iter()
        .zip(verdicts)
        .map(|(snapshot, verdict)| {
            let mut line = Line {
                keep: verdict.keep || rules.is_empty(),
                reasons: verdict.reasons.iter().map(ToString::to_string).collect(),
                snapshot,
            };
            if !line.keep && line.reasons.is_empty() {
                line.reasons.push("no rule keeps it".into());
            }
            if !line.keep && catalog.pinned.contains(&line.snapshot.id) {
                line.keep = true;
                line.reasons = vec!["it is pinned".into()];
            }
            line
        })
        .collect();
    if !args.allow_last {
        keep_the_last(&mut lines, catalog);
    }
    lines
}

/// The groups that a snapshot is in.
fn keys(snapshot: &Snapshot, by: &[Field]) -> Vec<Vec<String>> {
    by.iter().fold(vec![Vec::new()], |keys, field| {
        let values = field.values(snapshot);
        let with = |key: Vec<String>| {
            values.iter().map(move |v| [key.clone(), vec![v.clone()]].concat()).collect::<Vec<_>>()
        };
        keys.into_iter().flat_map(with).collect()
    })
}

/// Keeps the newest snapshot of each source that would have none left.
fn keep_the_last(lines: &mut [Line], catalog: &Catalog) {
    let source =
        |s: &Snapshot| (s.source.clone(), s.origin.clone(), s.roots.iter().cloned().collect::<BTreeSet<_>>());
    let gone: HashSet<ObjectId> = lines.iter().filter(|l| !l.keep).map(|l| l.snapshot.id).collect();
    let mut left: HashSet<_> =
        catalog.snapshots.iter().filter(|s| !gone.contains(&s.id)).map(|s| source(s)).collect();
    // Newest first.
    for line in lines.iter_mut().filter(|l| !l.keep) {
        if left.insert(source(&line.snapshot)) {
            line.keep = true;
            line.reasons = vec!["it is the last one of its source (-allow-last lets it go)".into()];
        }
    }
}

fn show(
    context: &AppContext,
    args: &PruneArgs,
    lines: &[Line],
    gone: u64,
    room: Option<Room>,
) -> anyhow::Result<()> {
    let kept = lines.len() as u64 - gone;
    let zone = args.zone.iana_name().unwrap_or("local").to_owned();
    let mut out = Output::new();
    if context.json() {
        for line in lines {
            out.json(&json!({
                "type": "plan",
                "id": line.snapshot.id.to_string(),
                "time": time::exact_ns(line.snapshot.time_ns),
                "action": if line.keep { "keep" } else { "delete" },
                "reasons": line.reasons,
            }))?;
        }
        out.json(&json!({
            "type": "summary", "command": "prune", "applied": args.apply, "zone": zone, "kept": kept, "deleted": gone,
            "freed_bytes": room.map(|r| r.bytes), "freed_from": room.map(|r| time::exact_ns(r.from_ns)),
        }))?;
    } else if !context.globals.silent {
        let of = |n| text::counted(n, "snapshot");
        match args.apply {
            true => out.line(format_args!("prune: kept {kept} and removed {}", of(gone)))?,
            false if args.as_of.is_some() => {
                out.line(format_args!("prune: would have kept {kept} and removed {}", of(gone)))?;
            }
            false => out.line(format_args!(
                "prune: would keep {kept} and delete {}, run with -apply to proceed",
                of(gone)
            ))?,
        }
        for line in lines {
            let action = if line.keep { "keep" } else { "delete" };
            let (time, id) = (time::show_ns(line.snapshot.time_ns), line.snapshot.id.short());
            let why = line.reasons.join("; ");
            out.line(format!("{action:6} {time} {id}  {}  {why}", roots(&line.snapshot)).trim_end())?;
        }
        out.flush()?;
        if let Some(room) = room {
            context.notice(&room.to_string());
        }
        if !args.periods.0.is_empty() {
            context.notice(&format!("days and other units are those of {zone}"));
        }
    }
    out.flush()?;
    Ok(())
}
