//! `plakar mount -list`: each mount is asked how it is, and not waited for.

use std::os::unix::ffi::OsStrExt;

use plakar_mount::daemon::{self, Record, State};
use serde_json::Value;

use crate::commands::umount;
use crate::context::AppContext;
use crate::exit_code::ExitCode;
use crate::screen::Output;
use crate::{text, time};

/// What `-list` says of a mount that shows everything.
const ALL: &str = "all";

/// Lists the mounts of this user.
pub(super) async fn run(context: &AppContext) -> anyhow::Result<ExitCode> {
    let state = context.dirs()?.state;
    let mounts = tokio::task::spawn_blocking(move || daemon::list(&state)).await??;
    let mut out = Output::new();
    for (record, state) in &mounts {
        match context.json() {
            true => out.json(&object(record, state))?,
            false => out.named(line(record, state), record.mountpoint.as_os_str().as_bytes())?,
        }
    }
    out.flush()?;
    if mounts.is_empty() {
        context.notice("nothing is mounted");
    }
    let hint = |wanted: State, text: &str| {
        if mounts.iter().any(|(_, state)| *state == wanted) {
            context.notice(text);
        }
    };
    hint(State::Dead, "`plakar umount DIR` takes a dead mount away; so does mounting there again");
    hint(State::Silent, "`plakar umount -force DIR` ends a mount that does not answer");
    Ok(ExitCode::Ok)
}

fn word(state: &State) -> &'static str {
    match state {
        State::Alive(_) => "alive",
        State::Silent => "not answering",
        State::Detached => "detached",
        State::Dead => "dead",
    }
}

/// When, state, process, what it holds in memory and on disk, requests, store, part and place; `-` stands for what is
/// not known or not used.
fn line(record: &Record, state: &State) -> String {
    let status = match state {
        State::Alive(status) => status,
        _ => &Value::Null,
    };
    let number = |at: &str| status.pointer(at).and_then(Value::as_u64);
    let memory =
        number("/frames/data_bytes").zip(number("/frames/meta_bytes")).map(|(a, b)| text::size(a + b));
    let disk = number("/disk_cache/held_bytes").map(text::size);
    let requests = status.get("requests").and_then(Value::as_object);
    let requests = requests.map(|kinds| text::count(kinds.values().filter_map(Value::as_u64).sum()));
    let or_dash = |shown: Option<String>| shown.unwrap_or_else(|| "-".into());
    format!(
        "{} {:13} pid {:<7} {:>9} memory {:>9} disk {:>9} requests {} {} ",
        time::show(record.mounted),
        word(state),
        record.pid,
        or_dash(memory),
        or_dash(disk),
        or_dash(requests),
        text::shell_word(&text::printable(record.store.as_bytes())),
        text::shell_word(&text::printable(record.shows.as_deref().unwrap_or(ALL).as_bytes())),
    )
}

fn object(record: &Record, state: &State) -> Value {
    let mut out = umount::describe(record);
    let status = match state {
        State::Alive(status) => status.clone(),
        _ => Value::Null,
    };
    if let Some(map) = out.as_object_mut() {
        map.insert("shows".into(), record.shows.as_deref().unwrap_or(ALL).into());
        map.insert("state".into(), word(state).into());
        map.insert("log".into(), record.log.clone().into());
        map.insert("status".into(), status);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_line_looks_like_this() {
        let record = Record { pid: 12345, mounted: 1_795_213_617, ..Record::new("/mnt", "/srv/my store") };
        let alive = State::Alive(json!({
            "frames": { "data_bytes": 12_000_000, "meta_bytes": 900_000 },
            "disk_cache": { "held_bytes": 1024 },
            "requests": { "reads": 1000, "lookups": 234 },
        }));
        assert_eq!(
            line(&record, &alive),
            "2026-11-20T22:26:57Z alive         pid 12345    12.3 MiB memory   1.0 KiB disk     1,234 requests '/srv/my store' all "
        );
        let part = Record { shows: Some("latest:etc".into()), ..record };
        assert_eq!(
            line(&part, &State::Silent),
            "2026-11-20T22:26:57Z not answering pid 12345           - memory         - disk         - requests '/srv/my store' latest:etc "
        );
    }
}
