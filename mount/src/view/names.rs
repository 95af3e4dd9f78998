//! Names made from times, hosts, tags and paths.

use std::collections::HashSet;
use std::sync::Arc;

use jiff::Timestamp;
use jiff::tz::TimeZone;
use plakar_engine::snapshot::Snapshot;

/// Longest name made here.
const LONGEST: usize = 200;

/// Names of snapshots' directories: local time, and enough of the id that no two are alike.
pub(super) fn of_snapshots(snapshots: &[&Arc<Snapshot>]) -> Vec<Vec<u8>> {
    let zone = TimeZone::system();
    let mut taken = HashSet::new();
    let name_of = |s: &&Arc<Snapshot>| {
        let time = Timestamp::from_nanosecond(i128::from(s.time_ns)).unwrap_or_default();
        let time = time.to_zoned(zone.clone()).strftime("%Y-%m-%dT%H-%M-%S").to_string();
        let id = s.id.to_string();
        let mut name = format!("{time}_{}", &id[..8]);
        for digits in [16, 32, 64] {
            if taken.insert(name.clone()) {
                break;
            }
            name = format!("{time}_{}", &id[..digits]);
        }
        name.into_bytes()
    };
    snapshots.iter().map(name_of).collect()
}

/// Any text as a name: what cannot stand in one is written as `%` and two digits. Different texts give different
/// names.
pub fn safe_name(text: &[u8]) -> Vec<u8> {
    let name = match text {
        b"" => b"%".to_vec(),
        b"." => b"%2E".to_vec(),
        b".." => b"%2E%2E".to_vec(),
        _ => encode(text, |b| b.is_ascii_control() || matches!(b, b'/' | b'%')),
    };
    shorten(name)
}

/// An absolute path as a name: `/srv/my_data` is `srv_my%5Fdata`, `/` is `_`.
pub fn escape_path(path: &[u8]) -> Vec<u8> {
    let path = path.strip_prefix(b"/").unwrap_or(path);
    if path.is_empty() {
        return b"_".to_vec();
    }
    let mut name = Vec::new();
    for (i, part) in path.split(|b| *b == b'/').enumerate() {
        if i > 0 {
            name.push(b'_');
        }
        name.extend(encode(part, |b| b.is_ascii_control() || matches!(b, b'%' | b'_')));
    }
    if name == b"." || name == b".." { safe_name(&name) } else { shorten(name) }
}

fn encode(text: &[u8], unsafe_: impl Fn(u8) -> bool) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len());
    for b in text {
        if unsafe_(*b) {
            out.extend_from_slice(format!("%{b:02X}").as_bytes());
        } else {
            out.push(*b);
        }
    }
    out
}

fn shorten(mut name: Vec<u8>) -> Vec<u8> {
    if name.len() > LONGEST {
        let hash = blake3::hash(&name).to_hex();
        name.truncate(LONGEST - 17);
        name.push(b'~');
        name.extend_from_slice(&hash.as_bytes()[..16]);
    }
    name
}
