//! What the libraries log: warnings on stderr as one line each, more with -trace or PLAKAR_LOG.

use std::io::{self, Write};

use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::MakeWriter;

use crate::cli::Globals;
use crate::env::Env;
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
        screen::line(text.trim_end());
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

/// Which events to show: by -trace, else PLAKAR_LOG, else warnings.
fn filter(globals: &Globals, env: &Env) -> String {
    if globals.trace.is_empty() {
        let usual = if globals.silent { "off" } else { "warn" };
        return env.text("PLAKAR_LOG").unwrap_or(usual).to_owned();
    }
    let part = |name: &String| match name.trim() {
        "all" | "trace" => {
            "plakar=trace,plakar_engine=trace,plakar_connectors=trace,plakar_mount=trace".into()
        }
        name @ ("engine" | "connectors" | "mount") => format!("plakar_{name}=trace"),
        // Parts of Plakar's own list that have another name or place here.
        "snapshot" => "plakar_engine::ops=trace".into(),
        name => format!("plakar_engine::{name}=trace"),
    };
    let parts: Vec<String> = globals.trace.iter().map(part).collect();
    format!("warn,{}", parts.join(","))
}

/// Begins logging. A second call in one process changes nothing.
pub(crate) fn start(globals: &Globals, env: &Env) {
    let Ok(filter) = EnvFilter::try_new(filter(globals, env)) else {
        screen::line("warning: PLAKAR_LOG or -trace names no part of the program that could be logged");
        return;
    };
    let detailed = !globals.trace.is_empty() || env.text("PLAKAR_LOG").is_some();
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(Lines).with_ansi(false);
    let _ = match (globals.json, detailed) {
        (_, true) => builder.try_init(),
        (_, false) => builder.without_time().with_target(false).try_init(),
    };
}
