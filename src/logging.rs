//! What the libraries log: warnings on stderr as one line each, more with -trace or PLAKAR_LOG.

use std::io::{self, Write};

use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::MakeWriter;

use crate::cli::Globals;
use crate::env::Env;
use crate::report::Failure;
use crate::screen;

/// Collects one event and writes it as a line above the progress bar.
#[derive(Debug, Default)]
struct Line(Vec<u8>);

impl Write for Line {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        let text = String::from_utf8_lossy(&self.0);
        screen::event("log", text.trim());
    }
}

#[derive(Debug)]
struct Lines;

impl MakeWriter<'_> for Lines {
    type Writer = Line;

    fn make_writer(&self) -> Line {
        Line::default()
    }
}

/// The parts that -trace knows by name, and what they are called inside.
const PARTS: [(&str, &str); 10] = [
    ("engine", "plakar_engine"),
    ("connectors", "plakar_connectors"),
    ("mount", "plakar_mount"),
    ("repository", "plakar_engine::repository"),
    ("storage", "plakar_engine::storage"),
    ("cache", "plakar_engine::cache"),
    ("ops", "plakar_engine::ops"),
    ("backup", "plakar_engine::ops::backup"),
    // Parts of Plakar's own list that have another name or place here.
    ("snapshot", "plakar_engine::ops"),
    ("server", "plakar_mount::http"),
];

/// Which events to show: by -trace, else PLAKAR_LOG, else warnings; of a quiet program only errors.
fn filter(globals: &Globals, env: &Env) -> Result<EnvFilter, Failure> {
    if globals.trace.is_empty() {
        let usual = match (globals.silent, globals.quiet) {
            (true, _) => "off",
            (false, true) => "error",
            (false, false) => "warn",
        };
        let text = env.text("PLAKAR_LOG").unwrap_or(usual);
        return EnvFilter::try_new(text).map_err(|e| {
            Failure::usage(format!("PLAKAR_LOG={text}: {e}"), None).with_hint(
                "give a level (error, warn, info, debug, trace), or parts with levels: plakar_engine=debug",
            )
        });
    }
    let mut parts = vec!["warn".to_owned()];
    for name in &globals.trace {
        match (name.trim(), PARTS.iter().find(|(known, _)| *known == name.trim())) {
            // A target fits all whose names begin so.
            ("all" | "trace", _) => parts.push("plakar=trace".into()),
            (_, Some((_, at))) => parts.push(format!("{at}=trace")),
            (unknown, None) => {
                let known: Vec<&str> = PARTS.iter().map(|(known, _)| *known).collect();
                let text = format!("-trace knows no part {unknown:?}: it knows all, {}", known.join(", "));
                return Err(Failure::usage(text, None));
            }
        }
    }
    let text = parts.join(",");
    EnvFilter::try_new(&text).map_err(|e| Failure::usage(format!("-trace {text}: {e}"), None))
}

/// Begins logging. A second call in one process changes nothing.
///
/// # Errors
/// An unknown name.
pub(crate) fn start(globals: &Globals, env: &Env) -> Result<(), Failure> {
    let filter = filter(globals, env)?;
    let detailed = !globals.trace.is_empty() || env.text("PLAKAR_LOG").is_some();
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(Lines).with_ansi(false);
    let _ = match detailed {
        true => builder.try_init(),
        false => builder.without_time().with_target(false).try_init(),
    };
    Ok(())
}
