//! The objects of `-json`, on both streams and nothing else there. Each says by `type` what it is: `snapshot`, `entry`,
//! `key`, `mount`, `store`, `version`, `page`, `plan` (of `prune`), `copied` (of `sync`); `progress`, `notice`, `log`, `error`, `left_out`; `summary` (with its `command`) at
//! the end of one, `failure` of what failed. Field names are stable: what is added later gets a new name, nothing is renamed.
//!
//! Times are RFC 3339 in UTC; sizes are bytes and end in `bytes`; ids are 64 hexadecimal digits. Paths and names are
//! text; where they are not UTF-8 the wrong bytes are shown as U+FFFD and `path_hex` or `name_hex` has the bytes.

use plakar_engine::meta::Metadata;
use plakar_engine::snapshot::Snapshot;
use plakar_engine::tree::{Detail, Entry, Owners};
use serde_json::{Map, Value, json};

use crate::{text, time};

/// Puts bytes under a key, and their hexadecimal form beside it where they are no text.
pub(crate) fn put_bytes(object: &mut Value, key: &str, bytes: &[u8]) {
    let Some(map) = object.as_object_mut() else { return };
    map.insert(key.into(), String::from_utf8_lossy(bytes).into());
    if std::str::from_utf8(bytes).is_err() {
        map.insert(format!("{key}_hex"), hex(bytes).into());
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

/// A snapshot's header.
pub(crate) fn snapshot(s: &Snapshot) -> Value {
    let roots: Vec<_> = s.roots.iter().map(|r| String::from_utf8_lossy(r)).collect();
    json!({
        "id": s.id.to_string(),
        "short_id": s.id.short(),
        "time": time::exact_ns(s.time_ns),
        "duration_seconds": s.duration_ns as f64 / 1e9,
        "name": s.name,
        "category": s.category,
        "environment": s.environment,
        "perimeter": s.perimeter,
        "job": s.job,
        "tags": s.tags,
        "type": "snapshot",
        "source": s.source,
        "origin": s.origin,
        "roots": roots,
        "summary": s.summary(),
        "read_bytes": s.read_bytes,
        "added_bytes": s.added_bytes,
        "host": s.host,
        "user": s.user,
        "system": s.system,
        "architecture": s.architecture,
        "machine": s.machine,
        "client": s.client,
        "command_line": s.command_line,
        "excludes": s.excludes,
        "copy_of": s.original.map(|(store, id)| json!({ "store_id": store.to_string(), "snapshot": id.to_string() })),
    })
}

/// An entry of a tree, at a path.
pub(crate) fn entry(path: &[u8], e: &Entry, owners: &Owners) -> Value {
    let m: &Metadata = &e.meta;
    let mut out = json!({
        "type": "entry",
        "kind": text::kind(m.kind),
        "mode": format!("{:04o}", m.mode),
        "permissions": text::mode(m),
        "uid": m.uid,
        "gid": m.gid,
        "user": owners.users.get(&m.uid),
        "group": owners.groups.get(&m.gid),
        "mtime": time::exact(m.mtime),
        "bytes": m.size,
    });
    put_bytes(&mut out, "path", path);
    put_bytes(&mut out, "name", &e.name);
    let mut more = Map::new();
    match &e.detail {
        Detail::Symlink(target) => {
            let mut with_target = json!({});
            put_bytes(&mut with_target, "target", target);
            // As stat has it.
            out["bytes"] = target.len().into();
            if let Value::Object(map) = with_target {
                more.extend(map);
            }
        }
        Detail::Directory { below, .. } => {
            more.insert("below".into(), json!(below));
        }
        Detail::Special if m.rdev != (0, 0) => {
            more.insert("device".into(), json!([m.rdev.0, m.rdev.1]));
        }
        _ => {}
    }
    if let Some(born) = m.born {
        more.insert("born".into(), time::exact(born).into());
    }
    if e.flags.bits != 0 {
        more.insert("flags".into(), e.flags.names().collect());
    }
    if e.flags.project != 0 {
        more.insert("project".into(), e.flags.project.into());
    }
    if let Some(links) = &e.links {
        more.insert("links".into(), links.count.into());
    }
    if let Some(error) = &e.error {
        more.insert("error".into(), error.as_str().into());
    }
    if let Some(map) = out.as_object_mut() {
        map.extend(more);
    }
    out
}
