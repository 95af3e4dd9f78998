//! `plakar version`.

use serde_json::json;

use crate::context::AppContext;
use crate::exit_code::ExitCode;
use crate::screen::Output;

/// Print the version
#[derive(Debug, clap::Args)]
pub(crate) struct VersionArgs {}

/// The program and its version, as snapshots record them.
pub(crate) const CLIENT: &str = concat!("plakar/v", env!("CARGO_PKG_VERSION"));

/// Runs it.
pub(crate) fn run(context: &AppContext) -> anyhow::Result<ExitCode> {
    let mut out = Output::new();
    match context.json() {
        true => out.json(&json!({
            "type": "version",
            "version": env!("CARGO_PKG_VERSION"),
            "system": std::env::consts::OS,
            "architecture": std::env::consts::ARCH,
            "format_version": plakar_engine::crypto::VERSION,
        }))?,
        false => out.line(CLIENT)?,
    }
    out.flush()?;
    Ok(ExitCode::Ok)
}
