//! `plakar info`.

use std::ffi::OsString;
use std::sync::Arc;

use plakar_engine::error::is_damage;
use plakar_engine::repository::Repository;
use plakar_engine::repository::catalog::Catalog;
use plakar_engine::select::{Filter, Spec};
use plakar_engine::snapshot::Snapshot;
use plakar_engine::storage::Area;
use plakar_engine::tree::{Contents, Detail, Entry};
use plakar_engine::vfs::Vfs;
use plakar_engine::walk::{Step, Walk};
use serde_json::json;

use super::{find, report_broken};
use crate::context::AppContext;
use crate::exit_code::ExitCode;
use crate::report::Report;
use crate::screen::Output;
use crate::{json, text, time};

/// Show facts about the store, a snapshot, or an entry of one
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  plakar info\n  plakar info latest\n  plakar info -errors latest\n  plakar info latest:etc/passwd"
)]
pub(crate) struct InfoArgs {
    /// List the paths of a snapshot that could not be backed up whole, and why
    #[arg(long)]
    errors: bool,
    /// The beginning of a snapshot's id or latest, and a path in it; without it, the store
    #[arg(value_name = "SNAPSHOT[:PATH]", required_if_eq("errors", "true"))]
    what: Option<OsString>,
}

/// Runs it.
pub(crate) async fn run(context: &AppContext, args: InfoArgs) -> anyhow::Result<ExitCode> {
    use std::os::unix::ffi::OsStrExt;
    let repository = context.open().await?;
    let catalog = repository.catalog().await?;
    let Some(argument) = &args.what else { return store(context, &repository, &catalog).await };
    let (snapshot, path) = find(argument, &catalog, &Filter::default())?;
    let named = Spec::parse(argument.as_bytes()).path.is_some();
    if args.errors {
        let vfs = super::vfs(&repository).await?;
        let path = if named { path } else { b"/".to_vec() };
        return errors(context, &vfs, &snapshot, path).await;
    }
    if named {
        let vfs = super::vfs(&repository).await?;
        return entry(context, &vfs, &snapshot, &path).await;
    }
    let mut out = Output::new();
    match context.json() {
        true => {
            let mut object = json::snapshot(&snapshot);
            object["description"] = json!(catalog.descriptions.get(&snapshot.id));
            object["pinned"] = catalog.pinned.contains(&snapshot.id).into();
            out.json(&object)?;
        }
        false => show_snapshot(&mut out, &snapshot, &catalog)?,
    }
    out.flush()?;
    Ok(ExitCode::Ok)
}

/// Writes `key: value`, values under each other; nothing if there is no value.
fn fact(out: &mut Output, key: &str, value: impl AsRef<[u8]>) -> anyhow::Result<()> {
    match value.as_ref() {
        b"" => Ok(()),
        value => out.named(format_args!("{:15}", format!("{key}:")), value),
    }
}

async fn store(
    context: &AppContext,
    repository: &Arc<Repository>,
    catalog: &Catalog,
) -> anyhow::Result<ExitCode> {
    let config = repository.config();
    let mut areas = Vec::new();
    for area in Area::ALL.into_iter().filter(|a| *a != Area::Config) {
        let listed = repository.store().list(area).await.map_err(plakar_engine::error::Error::from)?;
        areas.push((area, listed.len() as u64, listed.iter().map(|l| l.len).sum::<u64>()));
    }
    let stored: u64 = areas.iter().map(|(.., bytes)| bytes).sum();
    let clear: u64 = catalog.snapshots.iter().map(|s| s.summary().bytes).sum();
    let of = |wanted: Area| areas.iter().find(|(a, ..)| *a == wanted).map_or((0, 0), |(_, n, b)| (*n, *b));
    let keys = of(Area::Keys).0;
    let mut out = Output::new();
    if context.json() {
        let objects: serde_json::Map<_, _> = areas
            .iter()
            .map(|(a, n, b)| (a.name().to_owned(), json!({ "objects": n, "bytes": b })))
            .collect();
        out.json(&json!({
            "type": "store",
            "location": repository.store().location(),
            "store_id": config.store.to_string(),
            "created": time::exact_ns(config.created_ns),
            "encrypted": config.sealed,
            "keys": keys,
            "compression_level": config.zstd_level,
            "chunk_bytes": { "min": config.chunks.min, "avg": config.chunks.avg, "max": config.chunks.max },
            "frame_bytes": config.frame_bytes,
            "slice_bytes": config.slice_bytes,
            "packfile_bytes": config.packfile_bytes,
            "grace_seconds": config.grace_seconds,
            "snapshots": catalog.snapshots.len(),
            "unreadable_snapshots": catalog.broken.len(),
            "logical_bytes": clear,
            "stored_bytes": stored,
            "objects": objects,
            "cache_directory": repository.cache().directory().to_string_lossy(),
        }))?;
    } else {
        let seal = match (config.sealed, keys) {
            (true, n) => format!("XChaCha20-Poly1305, {}", text::counted(n, "key")),
            (false, _) => "none: whoever can read the files of the store can read the backups".into(),
        };
        let chunks = [config.chunks.min, config.chunks.avg, config.chunks.max].map(|n| text::size(n.into()));
        fact(&mut out, "Store", repository.store().location())?;
        fact(&mut out, "Id", config.store.to_string())?;
        fact(&mut out, "Created", time::show_ns(config.created_ns))?;
        fact(&mut out, "Encryption", seal)?;
        fact(
            &mut out,
            "Compression",
            config.zstd_level.map_or("none".into(), |l| format!("zstd, level {l}")),
        )?;
        fact(
            &mut out,
            "Chunks",
            format!("FastCDC, {} to {}, {} on average", chunks[0], chunks[2], chunks[1]),
        )?;
        fact(&mut out, "Packfiles", format!("about {}", text::size(config.packfile_bytes)))?;
        fact(&mut out, "Grace period", text::counted(config.grace_seconds / 86_400, "day"))?;
        fact(&mut out, "Snapshots", text::count(catalog.snapshots.len() as u64))?;
        fact(&mut out, "Backed up", format!("{} in all snapshots together", text::size(clear)))?;
        let packs = of(Area::Data).0 + of(Area::Meta).0;
        let objects: u64 = areas.iter().map(|(_, n, _)| n).sum();
        fact(
            &mut out,
            "Stored",
            format!(
                "{} in {}, of them {}",
                text::size(stored),
                text::counted(objects, "object"),
                text::counted(packs, "packfile")
            ),
        )?;
        fact(&mut out, "Local cache", repository.cache().directory().to_string_lossy().as_bytes())?;
    }
    out.flush()?;
    Ok(if report_broken(context, catalog) { ExitCode::Damaged } else { ExitCode::Ok })
}

fn show_snapshot(out: &mut Output, s: &Snapshot, catalog: &Catalog) -> anyhow::Result<()> {
    let below = s.summary();
    fact(out, "Snapshot", s.id.to_string())?;
    if let Some((store, id)) = &s.original {
        fact(out, "Copy of", format!("{id} in store {store}"))?;
    }
    fact(out, "Time", time::show_ns(s.time_ns))?;
    fact(out, "Duration", text::duration(std::time::Duration::from_nanos(s.duration_ns)))?;
    fact(out, "Name", &s.name)?;
    fact(out, "Description", catalog.descriptions.get(&s.id).map_or("", String::as_str))?;
    fact(out, "Pinned", if catalog.pinned.contains(&s.id) { "yes" } else { "" })?;
    fact(out, "Category", &s.category)?;
    fact(out, "Environment", &s.environment)?;
    fact(out, "Perimeter", &s.perimeter)?;
    fact(out, "Job", &s.job)?;
    fact(out, "Tags", s.tags.join(", "))?;
    fact(out, "Source", format!("{} on {}", s.source, s.origin))?;
    for root in &s.roots {
        fact(out, "Root", root)?;
    }
    fact(out, "Excluded", s.excludes.join(", "))?;
    let mut kinds = vec![text::counted(below.files, "file"), text::counted(below.directories, "directory")];
    if below.symlinks > 0 {
        kinds.push(text::counted(below.symlinks, "symlink"));
    }
    if below.others > 0 {
        kinds.push(text::counted(below.others, "other"));
    }
    fact(out, "Contents", format!("{}, {}", kinds.join(", "), text::size(below.bytes)))?;
    fact(out, "Read", text::size(s.read_bytes))?;
    fact(out, "Added", format!("{} to the store", text::size(s.added_bytes)))?;
    let errors = match below.errors {
        0 => "none".to_owned(),
        n => format!("{}: `plakar info -errors {}` lists them", text::count(n), s.id.short()),
    };
    fact(out, "Errors", errors)?;
    fact(out, "Made by", format!("{} on {} ({}, {})", s.user, s.host, s.system, s.architecture))?;
    fact(out, "Machine", &s.machine)?;
    fact(out, "Program", &s.client)?;
    fact(out, "Command", &s.command_line)
}

async fn entry(
    context: &AppContext,
    vfs: &Vfs,
    snapshot: &Snapshot,
    path: &[u8],
) -> anyhow::Result<ExitCode> {
    let e = vfs.resolve(snapshot, path).await?;
    let owners = vfs.owners(snapshot).await?;
    let mut out = Output::new();
    if context.json() {
        let mut value = json::entry(path, &e, &owners);
        let xattr = |x: &plakar_engine::meta::Xattr| {
            let mut o = json!({});
            json::put_bytes(&mut o, "name", &x.name);
            json::put_bytes(&mut o, "value", &x.value);
            o
        };
        if let Some(map) = value.as_object_mut() {
            map.insert("xattrs".into(), e.xattrs.iter().map(xattr).collect());
            if let Detail::Regular(c) = &e.detail {
                let made = makeup(vfs, c, e.meta.size).await?;
                map.insert("pieces".into(), (made.blobs + made.holes).into());
                map.insert("hole_bytes".into(), made.hole_bytes.into());
            }
        }
        out.json(&value)?;
    } else {
        show_entry(&mut out, vfs, snapshot, path, &e, &owners).await?;
    }
    out.flush()?;
    Ok(ExitCode::Ok)
}

/// What a file is made of.
#[derive(Default)]
struct Makeup {
    blobs: u64,
    holes: u64,
    hole_bytes: u64,
}

async fn makeup(vfs: &Vfs, contents: &Contents, size: u64) -> anyhow::Result<Makeup> {
    let mut made = Makeup::default();
    let mut pieces = vfs.pieces(contents, 0..size);
    while let Some(piece) = pieces.next().await? {
        match piece.extent.id {
            Some(_) => made.blobs += 1,
            None => {
                made.holes += 1;
                made.hole_bytes += piece.extent.len;
            }
        }
    }
    Ok(made)
}

async fn show_entry(
    out: &mut Output,
    vfs: &Vfs,
    snapshot: &Snapshot,
    path: &[u8],
    e: &Entry,
    owners: &plakar_engine::tree::Owners,
) -> anyhow::Result<()> {
    let m = &e.meta;
    let named = |id: u32, name: Option<&String>| match name {
        Some(name) => format!("{name} ({id})"),
        None => id.to_string(),
    };
    fact(out, "Path", path)?;
    fact(out, "Snapshot", snapshot.id.to_string())?;
    fact(out, "Type", text::kind(m.kind))?;
    fact(out, "Permissions", format!("{} ({:04o})", text::mode(m), m.mode))?;
    fact(out, "Owner", named(m.uid, owners.users.get(&m.uid)))?;
    fact(out, "Group", named(m.gid, owners.groups.get(&m.gid)))?;
    fact(out, "Modified", time::exact(m.mtime))?;
    fact(out, "Born", m.born.map_or_else(String::new, time::exact))?;
    fact(out, "Flags", e.flags.names().collect::<Vec<_>>().join(", "))?;
    if e.flags.project != 0 {
        fact(out, "Project", e.flags.project.to_string())?;
    }
    match &e.detail {
        Detail::Regular(c) if c.missing => fact(out, "Contents", "could not be read")?,
        Detail::Regular(c) => {
            let made = makeup(vfs, c, m.size).await?;
            let size = match m.size {
                0..1024 => text::size(m.size),
                n => format!("{} ({} bytes)", text::size(n), text::count(n)),
            };
            fact(out, "Size", size)?;
            fact(out, "Stored as", text::counted(made.blobs, "chunk"))?;
            if made.hole_bytes > 0 {
                fact(out, "Holes", text::size(made.hole_bytes))?;
            }
        }
        Detail::Directory { below, .. } => {
            let entries = text::counted(below.entries(), "entry");
            fact(
                out,
                "Below",
                format!("{entries}, {}, {}", text::size(below.bytes), text::counted(below.errors, "error")),
            )?;
        }
        Detail::Symlink(target) => fact(out, "Target", target)?,
        Detail::Special if m.rdev != (0, 0) => fact(out, "Device", format!("{}, {}", m.rdev.0, m.rdev.1))?,
        Detail::Special | Detail::Missing => {}
    }
    if let Some(links) = &e.links {
        fact(out, "Links", text::count(links.count.into()))?;
    }
    for x in &e.xattrs {
        let value = [&x.name[..], b" = ", text::printable(&x.value).as_bytes()].concat();
        fact(out, "Attribute", value)?;
    }
    fact(out, "Error", e.error.as_deref().unwrap_or_default())
}

/// Lists what was not backed up whole, looking only where the summaries say there is something.
async fn errors(
    context: &AppContext,
    vfs: &Vfs,
    snapshot: &Snapshot,
    path: Vec<u8>,
) -> anyhow::Result<ExitCode> {
    let start = vfs.resolve(snapshot, &path).await?;
    let mut out = Output::new();
    let mut code = ExitCode::Ok;
    let mut found = 0_u64;
    let mut walk = Walk::new(vfs.clone(), start, path);
    while let Some(step) = walk.next().await {
        let entry = match step {
            Step::Enter(entry) => {
                if entry.directory().is_some_and(|(_, below)| below.errors == 0) {
                    walk.skip();
                }
                entry
            }
            Step::Entry(entry) => entry,
            Step::Leave(_) => continue,
            Step::Unreadable(e) => {
                code = if is_damage(&e) { ExitCode::Damaged } else { ExitCode::Failed };
                Report::of(&e.into(), None).print(context.json());
                continue;
            }
        };
        let Some(reason) = entry.error else { continue };
        let reason = crate::report::tidy(&reason);
        found += 1;
        if context.json() {
            let mut line = json!({ "type": "error", "reason": reason });
            json::put_bytes(&mut line, "path", walk.path());
            out.json(&line)?;
        } else {
            let text = [walk.path(), b": ", reason.as_bytes()].concat();
            out.named("", &text)?;
        }
    }
    out.flush()?;
    if found == 0 && code == ExitCode::Ok {
        context.notice(&format!("everything in {} was backed up whole", snapshot.id.short()));
    }
    Ok(code)
}
