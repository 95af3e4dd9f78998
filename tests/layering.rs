//! The packages depend on each other in one direction only.

use std::collections::BTreeSet;
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
