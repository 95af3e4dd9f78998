//! The command line of plakar: what is typed, what is shown, how it ends. What is done is in the libraries below it.

mod cli;
mod commands;
mod context;
mod env;
mod exit_code;
mod json;
mod location;
mod logging;
mod mount_helper;
mod progress;
mod report;
mod screen;
mod secret;
mod settings;
mod text;
mod time;

use std::ffi::{OsStr, OsString};
use std::time::Instant;

pub use env::Env;
pub use exit_code::ExitCode;

use cli::Asked;
use context::AppContext;
use report::Report;

/// Runs the program under the name that it was called by: as the helper of mount(8), or as itself. `args` leave the name
/// out.
pub fn run_as(
    program: Option<&OsStr>,
    args: impl IntoIterator<Item = OsString>,
    env: Env,
) -> std::process::ExitCode {
    let words: Vec<OsString> = args.into_iter().collect();
    let Some(caller) = mount_helper::caller(program, &words) else { return run(words, env).into() };
    let code = match mount_helper::read(&words, caller) {
        Ok(mount_helper::Asked::Run(line)) => run(line, env),
        Ok(mount_helper::Asked::Nothing) => ExitCode::Ok,
        Err(failure) => fail(&failure.into(), None, false),
    };
    mount_helper::exit_code(code).into()
}

/// Runs a command line, the program's name left out, in an environment. Prints, and never ends the process, but for a
/// second Ctrl-C.
pub fn run(args: impl IntoIterator<Item = OsString>, env: Env) -> ExitCode {
    let words: Vec<OsString> = args.into_iter().collect();
    // A command line that cannot be read may ask for JSON all the same.
    let json = words.iter().any(|w| w == "-json" || w == "--json");
    match cli::read(words) {
        Err(failure) => fail(&failure.into(), None, json),
        Ok(Asked::Overview { wanted: false }) => {
            screen::line(cli::short_overview(screen::width()).trim_end());
            ExitCode::Failed
        }
        Ok(Asked::Overview { wanted: true }) => print_page(Some(cli::overview(screen::width()))),
        Ok(Asked::Page(path)) => print_page(cli::page(&path, screen::width())),
        Ok(Asked::Run { cli, store, recorded, words }) => {
            let cli = *cli;
            let context = AppContext { globals: cli.globals, env, store, command_line: recorded, words };
            execute(&context, cli.command)
        }
    }
}

fn print_page(page: Option<String>) -> ExitCode {
    let mut out = screen::Output::new();
    match out.bytes(page.unwrap_or_default().as_bytes()).and_then(|()| out.flush()) {
        Ok(()) => ExitCode::Ok,
        Err(e) => fail(&e, None, false),
    }
}

fn execute(context: &AppContext, command: cli::Command) -> ExitCode {
    let began = Instant::now();
    if context.json() {
        screen::set_json();
    }
    if let Err(failure) = logging::start(&context.globals, &context.env) {
        return fail(&failure.into(), None, context.json());
    }
    let outcome = limit_cpus(context.globals.cpu).and_then(|()| {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().enable_all().max_blocking_threads(64).build()?;
        let outcome = runtime.block_on(Box::pin(commands::run(context, command)));
        // A thread that still waits for a slow disk must not hold the end up.
        runtime.shutdown_background();
        outcome
    });
    let code = match outcome {
        Ok(code) => code,
        Err(e) => fail(&e, context.store_hint().as_deref(), context.json()),
    };
    if context.globals.time {
        screen::notice(&format!("time: {}", text::duration(began.elapsed())));
    }
    code
}

fn fail(error: &anyhow::Error, store: Option<&str>, json: bool) -> ExitCode {
    screen::set_bar(None);
    if screen::is_closed(error) {
        return ExitCode::Ok;
    }
    let report = Report::of(error, store);
    report.print(json);
    report.code
}

/// Keeps this process, and every thread it will have, on so many CPUs: what counts them then counts these.
fn limit_cpus(cpus: Option<u32>) -> anyhow::Result<()> {
    use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
    let Some(cpus) = cpus.map(|n| n as usize) else { return Ok(()) };
    let allowed = sched_getaffinity(None)?;
    let there = allowed.count() as usize;
    if cpus > there {
        let text = format!("-cpu {cpus}: this machine has {there}");
        return Err(report::Failure::usage(text, None).into());
    }
    let mut set = CpuSet::new();
    (0..CpuSet::MAX_CPU).filter(|i| allowed.is_set(*i)).take(cpus).for_each(|i| set.set(i));
    Ok(sched_setaffinity(None, &set)?)
}
