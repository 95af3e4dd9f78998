//! Help as it is shown: the overview, and a page for each command, from the grammar and its doc comments.

use std::fmt::Write;

use clap::{Arg, Command, CommandFactory};

use super::Cli;
use crate::exit_code::ExitCode;

/// The widest a page gets: longer lines are hard to read.
const MAX_WIDTH: usize = 100;
/// Commands that nobody needs at first: the short overview, which fits on any screen, leaves them to the long one.
const LATER: [&str; 10] =
    ["repair", "undelete", "pin", "unpin", "describe", "source", "destination", "policy", "ptar", "version"];

/// Looks a command up by its words.
fn find(path: &[String]) -> Option<Command> {
    let mut command = Cli::command();
    for word in path {
        command = command.find_subcommand(word)?.clone();
    }
    Some(command)
}

/// How a command is called: `plakar [at STORE] cat [OPTIONS] SNAPSHOT:PATH...`.
pub(crate) fn usage(path: &[String]) -> String {
    let Some(command) = find(path).filter(|_| !path.is_empty()) else {
        return "plakar [OPTIONS] [at STORE] COMMAND [ARGUMENTS]".into();
    };
    let mut out = String::from("plakar ");
    if !matches!(
        path.first().map(String::as_str),
        Some("umount" | "version" | "help" | "cache" | "store" | "source" | "destination")
    ) {
        out.push_str("[at STORE] ");
    }
    out.push_str(&path.join(" "));
    if options(&command).next().is_some() {
        out.push_str(" [OPTIONS]");
    }
    if command.has_subcommands() {
        out.push_str(if command.is_subcommand_required_set() { " COMMAND" } else { " [COMMAND]" });
    }
    for arg in command.get_positionals() {
        let name = value_name(arg);
        let more = if arg.get_num_args().is_some_and(|n| n.max_values() > 1) { "..." } else { "" };
        let _ = match arg.is_required_set() {
            true => write!(out, " {name}{more}"),
            false => write!(out, " [{name}{more}]"),
        };
    }
    out
}

/// What `plakar` alone and `plakar help` print.
pub(crate) fn overview(width: usize) -> String {
    let mut out =
        String::from("plakar: encrypted, deduplicated backups whose snapshots are real filesystems\n\n");
    let _ = writeln!(out, "Usage: {}\n", usage(&[]));
    out.push_str("Commands:\n");
    let grammar = Cli::command();
    let rows: Vec<_> = grammar.get_subcommands().map(|c| (c.get_name().to_owned(), about(c))).collect();
    table(&mut out, &rows, width);
    out.push_str("\nOptions of every command:\n");
    table(&mut out, &rows_of(grammar.get_arguments()), width);
    out.push_str("\nEnvironment:\n");
    let environment = [
        ("PLAKAR_REPOSITORY", "the store, where `at STORE` does not say it [fs:~/.plakar]"),
        ("PLAKAR_PASSPHRASE", "its passphrase"),
        ("PLAKAR_PASSPHRASE_CMD", "a command that prints it"),
        ("PLAKAR_TAGS", "tags for `backup`, where -tag does not say them"),
        ("PLAKAR_LOG", "what to log: warn, debug, plakar_engine=trace, …"),
    ];
    table(&mut out, &environment.map(|(a, b)| (a.to_owned(), b.to_owned())), width);
    out.push_str("\nExit codes:\n");
    let codes = ExitCode::TABLE.map(|(code, means)| ((code as u8).to_string(), means.to_owned()));
    table(&mut out, &codes, width);
    out.push_str("\n`plakar help COMMAND` tells more about a command.\n");
    out
}

/// The few lines that `plakar` without anything prints.
pub(crate) fn short_overview(width: usize) -> String {
    let mut out =
        String::from("plakar: encrypted, deduplicated backups whose snapshots are real filesystems\n\n");
    let _ = writeln!(out, "Usage: {}\n", usage(&[]));
    let grammar = Cli::command();
    let first = grammar.get_subcommands().filter(|c| !LATER.contains(&c.get_name()));
    let rows: Vec<_> = first.map(|c| (c.get_name().to_owned(), about(c))).collect();
    table(&mut out, &rows, width);
    out.push_str("\nBegin with `plakar create`, then `plakar backup DIR`. `plakar help` has all commands and options.\n");
    out
}

/// The page of a command; `None` if there is none of that name.
pub(crate) fn page(path: &[String], width: usize) -> Option<String> {
    let command = find(path)?;
    let mut out = format!("plakar {}: {}\n\nUsage: {}\n", path.join(" "), about(&command), usage(path));
    if let Some(long) = command.get_long_about() {
        // Its first paragraph is the short one.
        for paragraph in long.to_string().split("\n\n").skip(1) {
            out.push('\n');
            paragraphs(&mut out, paragraph, width);
        }
    }
    if command.has_subcommands() {
        out.push_str("\nCommands:\n");
        let rows: Vec<_> = command
            .get_subcommands()
            .map(|c| (format!("{} {}", path.join(" "), c.get_name()), about(c)))
            .collect();
        table(&mut out, &rows, width);
    }
    let arguments: Vec<_> =
        command.get_positionals().filter_map(|a| Some((value_name(a), a.get_help()?.to_string()))).collect();
    if !arguments.is_empty() {
        out.push_str("\nArguments:\n");
        table(&mut out, &arguments, width);
    }
    let own: Vec<&Arg> = options(&command).filter(|a| a.get_help_heading().is_none()).collect();
    if !own.is_empty() {
        out.push_str("\nOptions:\n");
        table(&mut out, &rows_of(own.into_iter()), width);
    }
    let choosing: Vec<&Arg> = options(&command).filter(|a| a.get_help_heading().is_some()).collect();
    if let Some(heading) = choosing.first().and_then(|a| a.get_help_heading()) {
        let _ = writeln!(out, "\n{heading}:");
        table(&mut out, &rows_of(choosing.into_iter()), width);
    }
    if let Some(after) = command.get_after_help() {
        let _ = writeln!(out, "\n{after}");
    }
    out.push_str("\nOptions of every command: `plakar help`.\n");
    Some(out)
}

fn about(command: &Command) -> String {
    command.get_about().map(ToString::to_string).unwrap_or_default()
}

fn options(command: &Command) -> impl Iterator<Item = &Arg> {
    command.get_arguments().filter(|a| !a.is_positional() && !a.is_hide_set())
}

fn value_name(arg: &Arg) -> String {
    arg.get_value_names()
        .and_then(|n| n.first())
        .map_or_else(|| arg.get_id().to_string(), ToString::to_string)
}

fn rows_of<'a>(args: impl Iterator<Item = &'a Arg>) -> Vec<(String, String)> {
    let row = |arg: &Arg| {
        let name = arg.get_long().unwrap_or_default();
        let left = if arg.get_action().takes_values() {
            format!("-{name} {}", value_name(arg))
        } else {
            format!("-{name}")
        };
        let mut right = arg.get_help().map(ToString::to_string).unwrap_or_default();
        let hidden = !arg.get_action().takes_values() || arg.is_hide_possible_values_set();
        let values: Vec<_> = arg.get_possible_values().iter().map(|v| v.get_name().to_owned()).collect();
        if !hidden && !values.is_empty() {
            let default: Vec<_> = arg.get_default_values().iter().map(|v| v.to_string_lossy()).collect();
            let _ = write!(right, ": {}", values.join(", "));
            if let Some(default) = default.first() {
                let _ = write!(right, " [{default}]");
            }
        }
        (left, right)
    };
    args.filter(|a| !a.is_hide_set()).map(row).collect()
}

/// Two columns; what is too wide for the left one gets a line of its own.
fn table(out: &mut String, rows: &[(String, String)], width: usize) {
    let left = rows.iter().map(|(l, _)| l.chars().count()).filter(|n| *n <= 22).max().unwrap_or(0);
    let right = width.clamp(40, MAX_WIDTH).saturating_sub(left + 4).max(20);
    for (name, text) in rows {
        let mut lines = wrap(text, right).into_iter();
        if name.chars().count() > left {
            let _ = writeln!(out, "  {name}");
        } else {
            let _ = writeln!(out, "  {name:left$}  {}", lines.next().unwrap_or_default());
        }
        for line in lines {
            let _ = writeln!(out, "  {:left$}  {line}", "");
        }
    }
}

/// A paragraph; lines that begin with a space or a dash stand as they are.
fn paragraphs(out: &mut String, text: &str, width: usize) {
    if text.lines().any(|l| l.starts_with([' ', '-'])) {
        text.lines().for_each(|l| {
            let _ = writeln!(out, "{l}");
        });
        return;
    }
    for line in wrap(&text.replace('\n', " "), width.clamp(40, MAX_WIDTH)) {
        let _ = writeln!(out, "{line}");
    }
}

fn wrap(text: &str, width: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in text.split_whitespace() {
        let last = lines.len() - 1;
        let line = &mut lines[last];
        if !line.is_empty() && line.chars().count() + 1 + word.chars().count() > width {
            lines.push(word.to_owned());
        } else {
            if !line.is_empty() {
                line.push(' ');
            }
            line.push_str(word);
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    fn paths(command: &Command, path: &[String], out: &mut Vec<Vec<String>>) {
        for c in command.get_subcommands() {
            let path = [path, &[c.get_name().to_owned()]].concat();
            paths(c, &path, out);
            out.push(path);
        }
    }

    #[test]
    fn every_command_and_option_is_explained() {
        let mut all = Vec::new();
        paths(&Cli::command(), &[], &mut all);
        assert!(all.len() > 15);
        for path in all {
            let command = find(&path).unwrap();
            assert!(!about(&command).is_empty(), "{path:?}");
            for arg in command.get_arguments() {
                assert!(arg.get_help().is_some(), "{path:?} {arg}");
            }
            for width in [60, 80, 300] {
                let page = page(&path, width).unwrap();
                let examples = page.find("Example").unwrap_or(page.len());
                let lines = page[..examples].lines().skip(1).filter(|l| !l.starts_with("Usage"));
                let widest = lines.map(|l| l.chars().count()).max();
                assert!(widest <= Some(width.min(MAX_WIDTH)), "{path:?} {width}: {page}");
            }
        }
    }

    #[test]
    fn a_page_looks_like_this() {
        assert_eq!(
            page(&["cat".into()], 80).as_deref(),
            Some(
                "plakar cat: Write files of snapshots to standard output

Usage: plakar [at STORE] cat SNAPSHOT:PATH...

Several are written one after another. What cannot be read is named on standard
error, and the exit code is 1.

Arguments:
  SNAPSHOT:PATH  A file: the beginning of a snapshot's id or latest, and a path,
                 absolute or below what was backed up

Example:
  plakar cat latest:etc/passwd

Options of every command: `plakar help`.
"
            )
        );
    }

    #[test]
    fn the_overview_has_all_commands_and_codes() {
        let text = overview(80);
        for word in ["backup", "umount", "-keyfile FILE", "PLAKAR_REPOSITORY", "  65 "] {
            assert!(text.contains(word), "{word}");
        }
        assert!(short_overview(80).lines().count() < 25);
    }
}
