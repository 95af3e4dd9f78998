//! The packages depend on each other in one direction only.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

/// Package, and which of ours it may use.
const ALLOWED: [(&str, &[&str]); 4] = [
    ("plakar", &["plakar-engine", "plakar-mount", "plakar-connectors"]),
    ("plakar-engine", &[]),
    ("plakar-mount", &["plakar-engine"]),
    ("plakar-connectors", &["plakar-engine"]),
];

/// Heavy crates, and the one package that may use them directly.
const OWNED: [(&str, &str); 12] = [
    ("fuser", "plakar-mount"),
    ("moka", "plakar-mount"),
    ("hyper", "plakar-mount"),
    ("dav-server", "plakar-mount"),
    ("clap", "plakar"),
    ("anyhow", "plakar"),
    ("rusqlite", "plakar-engine"),
    ("zstd", "plakar-engine"),
    ("argon2", "plakar-engine"),
    ("chacha20poly1305", "plakar-engine"),
    ("ring", "plakar-engine"),
    ("uzers", "plakar-connectors"),
];

/// The engine's modules, each using only those before it.
const RINGS: [&str; 32] = [
    "id",
    "wire",
    "crypto",
    "chunker",
    "meta",
    "moment",
    "retention",
    "storage",
    "ptar",
    "object",
    "config",
    "keyslot",
    "frame",
    "tree",
    "packfile",
    "state",
    "snapshot",
    "removal",
    "importer",
    "exporter",
    "error",
    "monitor",
    "cancel",
    "blocking",
    "frame_source",
    "trail",
    "cache",
    "repository",
    "vfs",
    "walk",
    "select",
    "ops",
];

/// Every source below a directory, with the module at the top that it belongs to.
fn sources(directory: &Path) -> Vec<(String, String)> {
    let mut found = Vec::new();
    let mut todo = vec![directory.to_path_buf()];
    while let Some(next) = todo.pop() {
        for entry in std::fs::read_dir(next).unwrap().map(|e| e.unwrap()) {
            let path = entry.path();
            if path.is_dir() {
                todo.push(path);
                continue;
            }
            let inside = path.strip_prefix(directory).unwrap().to_str().unwrap();
            let module = inside.split('/').next().unwrap().trim_end_matches(".rs").to_owned();
            if !inside.ends_with("tests.rs") {
                found.push((module, std::fs::read_to_string(&path).unwrap()));
            }
        }
    }
    found
}

#[test]
fn the_engines_rings_use_only_those_inside_them() {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("engine/src");
    let rank = |module: &str| RINGS.iter().position(|m| *m == module);
    let sources = sources(&source);
    assert!(sources.len() > 60, "{}", sources.len());
    for (module, text) in sources.iter().filter(|(m, _)| !matches!(m.as_str(), "lib" | "testing")) {
        let own = rank(module).unwrap_or_else(|| panic!("{module} has no place among the rings"));
        let (ships, _tests) = text.split_once("#[cfg(test)]").unwrap_or((text, ""));
        let code = ships.lines().filter(|line| !line.trim_start().starts_with("//"));
        for used in code.flat_map(|line| line.split("crate::").skip(1)) {
            let name: String = used.chars().take_while(|c| c.is_ascii_lowercase() || *c == '_').collect();
            if let Some(other) = rank(&name) {
                assert!(other <= own, "{module} must not use {name}");
            }
        }
    }
}

#[test]
fn packages_depend_downwards_only() {
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".into());
    let out = Command::new(cargo)
        .args(["metadata", "--format-version", "1", "--no-deps", "--offline", "--manifest-path"])
        .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml"))
        .output()
        .unwrap();
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    let metadata: serde_json::Value = serde_json::from_slice(&out.stdout).unwrap();
    let packages = metadata["packages"].as_array().unwrap();
    assert_eq!(packages.len(), ALLOWED.len(), "a package that this test does not know");
    for (name, allowed) in ALLOWED {
        let package = packages.iter().find(|p| p["name"] == name).unwrap();
        let uses: BTreeSet<&str> =
            package["dependencies"].as_array().unwrap().iter().map(|d| d["name"].as_str().unwrap()).collect();
        for other in uses.iter().filter(|d| d.starts_with("plakar")) {
            assert!(allowed.contains(other), "{name} must not depend on {other}");
        }
        // Benchmarks and tests may compare with the bare library.
        let ships: BTreeSet<&str> = package["dependencies"]
            .as_array()
            .unwrap()
            .iter()
            .filter(|d| d["kind"] != "dev")
            .map(|d| d["name"].as_str().unwrap())
            .collect();
        for (heavy, owner) in OWNED {
            assert!(!ships.contains(heavy) || owner == name, "{heavy} belongs to {owner}, not to {name}");
        }
    }
}
