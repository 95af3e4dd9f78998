//! Runs the examples of `docs/MOUNT.md`: what stands behind `$` in its `console` blocks, in one shell, in a namespace of
//! its own with the sandbox in place of `/srv` and `/mnt`. What stands below a command is what it prints; `…` stands for
//! anything in a line, a line of only `…` for any lines.

use std::process::{Command, Stdio};

use crate::common::Sandbox;

/// A command of the manual and what it prints there.
#[derive(Debug)]
struct Example {
    line: usize,
    command: String,
    prints: Vec<String>,
}

fn examples(manual: &str) -> Vec<Example> {
    let mut out: Vec<Example> = Vec::new();
    let mut inside = false;
    for (i, text) in manual.lines().enumerate() {
        match text {
            "```console" => inside = true,
            "```" => inside = false,
            _ if !inside => {}
            _ => {
                if let Some(command) = text.strip_prefix("$ ") {
                    out.push(Example { line: i + 1, command: command.into(), prints: Vec::new() });
                } else {
                    let last = out.last_mut().expect("a command stands before what it prints");
                    last.prints.push(text.into());
                }
            }
        }
    }
    out
}

/// Whether a line is as the manual has it.
fn line_fits(wanted: &str, line: &str) -> bool {
    match wanted.split_once('…') {
        None => wanted == line,
        Some((before, after)) => line.strip_prefix(before).is_some_and(|rest| {
            (0..=rest.len()).any(|i| rest.is_char_boundary(i) && line_fits(after, &rest[i..]))
        }),
    }
}

fn fits(wanted: &[String], lines: &[&str]) -> bool {
    match (wanted, lines) {
        ([], []) => true,
        ([any, rest @ ..], _) if any == "…" => (0..=lines.len()).any(|i| fits(rest, &lines[i..])),
        ([first, rest @ ..], [line, lines @ ..]) => line_fits(first, line) && fits(rest, lines),
        _ => false,
    }
}

#[test]
fn the_manual_of_the_mount_says_what_happens() {
    let manual = include_str!("../docs/MOUNT.md");
    let examples = examples(manual);
    assert!(examples.len() > 20);
    let sandbox = Sandbox::empty();
    for folder in ["srv", "mnt", "bin"] {
        std::fs::create_dir(sandbox.path(folder)).unwrap();
    }
    std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_plakar"), sandbox.path("bin/plakar")).unwrap();
    let mut script = String::from(
        "set -e; mount --make-rprivate /; mount --bind srv /srv; mount --bind mnt /mnt; cd /srv; set +e\n\
         trap 'cd /; plakar umount /mnt >/dev/null 2>&1 || umount -l /mnt 2>/dev/null' EXIT\n",
    );
    for (i, example) in examples.iter().enumerate() {
        script.push_str(&format!("printf '\\001%d\\n' {i}\n{}\n", example.command));
    }
    std::fs::write(sandbox.path("script"), script).unwrap();
    let path = format!("{}:{}", sandbox.path("bin").display(), std::env::var("PATH").unwrap());
    let output = Command::new("unshare")
        .args(["--mount", "bash", "-c", "exec 2>&1; set -- ; source ./script"])
        .current_dir(sandbox.path(""))
        .env("PATH", path)
        .env("HOME", sandbox.path("home"))
        .env("TZ", "UTC")
        .env("LC_ALL", "C.UTF-8")
        .env_remove("XDG_CACHE_HOME")
        .env_remove("XDG_STATE_HOME")
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let printed = String::from_utf8_lossy(&output.stdout).into_owned();
    let mut parts = printed.split('\u{1}');
    let before = parts.next().unwrap();
    assert_eq!(before, "", "the shell");
    let mut wrong = String::new();
    for (i, example) in examples.iter().enumerate() {
        let part = parts.next().unwrap_or("(the shell had ended)");
        let text = part.strip_prefix(&format!("{i}\n")).unwrap_or(part);
        let lines: Vec<&str> = text.lines().collect();
        if !fits(&example.prints, &lines) {
            let Example { line, command, prints } = example;
            let wanted = prints.join("\n");
            wrong.push_str(&format!(
                "docs/MOUNT.md:{line}: $ {command}\n--- says\n{wanted}\n--- prints\n{text}\n"
            ));
        }
    }
    assert!(wrong.is_empty(), "{wrong}");
}

#[test]
fn patterns_fit_what_they_say() {
    assert!(line_fits("a…c", "abc") && line_fits("…", "") && !line_fits("a…c", "abd"));
    let lines = |text: &str| text.lines().map(String::from).collect::<Vec<_>>();
    assert!(fits(&lines("…\nb"), &["x", "y", "b"]) && !fits(&lines("…\nb"), &["b", "c"]));
    assert!(fits(&[], &[]) && !fits(&[], &["x"]));
}
