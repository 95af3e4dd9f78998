//! Any number of backups into one store at once.

use std::path::PathBuf;
use std::process::{Child, Command};

use crate::common::torture::{self, noise};
use crate::common::{ALL, Outcome, Sandbox, hex_id};

/// Starts one backup for each source, all before the first is waited for; gives the snapshots' ids.
fn backup_at_once(commands: Vec<Command>) -> Vec<String> {
    let running: Vec<(Child, Command)> =
        commands.into_iter().map(|mut c| (c.arg("-json").spawn().unwrap(), c)).collect();
    let ended: Vec<_> = running.into_iter().map(|(child, c)| Outcome::when_ended(child, &c)).collect();
    ended.into_iter().map(|o| hex_id(&o.succeeds().summary())).collect()
}

/// A tree of its own, and some files that all have.
fn tree(sandbox: &Sandbox, n: u64) -> PathBuf {
    let root = sandbox.path(format!("tree {n}"));
    std::fs::create_dir_all(root.join("sub")).unwrap();
    for i in 0..20 {
        let size = (i * 7919) % 40_000;
        std::fs::write(root.join(format!("own {i}")), noise(n * 100 + i, size as usize)).unwrap();
        std::fs::write(root.join(format!("sub/common {i}")), noise(i, size as usize)).unwrap();
    }
    root
}

#[test]
fn two_backups_at_the_same_moment_both_succeed() {
    let sandbox = Sandbox::with_key_file();
    let sources = [sandbox.path("one"), sandbox.path("two")];
    torture::everything(&sources[0]);
    std::fs::create_dir(&sources[1]).unwrap();
    for i in 0..300 {
        std::fs::write(sources[1].join(format!("{i}")), noise(i, 60_000)).unwrap();
    }
    let ids =
        backup_at_once(sources.iter().map(|s| sandbox.command(["backup", s.to_str().unwrap()])).collect());
    sandbox.run(["check"]).succeeds();
    for (id, source) in ids.iter().zip(&sources) {
        ALL.check(source, &sandbox.restore(id));
    }
}

#[test]
fn ten_backups_at_once_all_succeed() {
    let sandbox = Sandbox::with_key_file();
    let sources: Vec<_> = (0..10).map(|n| tree(&sandbox, n)).collect();
    // Half of them as another host, whose cache is its own.
    let commands = sources.iter().enumerate().map(|(i, source)| {
        let mut command = sandbox.command(["backup", source.to_str().unwrap()]);
        if i % 2 == 1 {
            command.env("HOME", sandbox.path(format!("home {i}")));
        }
        command
    });
    let ids = backup_at_once(commands.collect());
    assert_eq!(sandbox.run(["ls"]).succeeds().text().lines().count(), 10);
    for (id, source) in ids.iter().zip(&sources) {
        ALL.check(source, &sandbox.restore(id));
    }
    sandbox.run(["check"]).succeeds();
    assert!(sandbox.objects("leases").is_empty(), "a run that ends takes its lease away");
}

#[test]
fn the_same_tree_may_be_backed_up_twice_at_once() {
    let sandbox = Sandbox::with_key_file();
    let source = tree(&sandbox, 1);
    let words = || sandbox.command(["backup", source.to_str().unwrap()]);
    let ids = backup_at_once((0..4).map(|_| words()).collect());
    for id in &ids {
        ALL.check(&source, &sandbox.restore(id));
    }
    sandbox.run(["check"]).succeeds();
    ALL.check(&source, &sandbox.restore(&hex_id(&sandbox.backup(&source))));
}

#[test]
fn readers_do_not_mind_writers() {
    let sandbox = Sandbox::with_key_file();
    let first = tree(&sandbox, 1);
    let id = hex_id(&sandbox.backup(&first));
    let others: Vec<_> = (2..5).map(|n| tree(&sandbox, n)).collect();
    let mut writers: Vec<_> =
        others.iter().map(|s| sandbox.command(["backup", s.to_str().unwrap()])).collect();
    let running: Vec<Child> = writers.iter_mut().map(|c| c.spawn().unwrap()).collect();
    for _ in 0..3 {
        ALL.check(&first, &sandbox.restore(&id));
        sandbox.run(["check", &id]).succeeds();
        sandbox.run(["ls"]).succeeds();
    }
    for (child, command) in running.into_iter().zip(&writers) {
        Outcome::when_ended(child, command).succeeds();
    }
    sandbox.run(["check"]).succeeds();
}
