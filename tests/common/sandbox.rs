//! A directory for one test, and the program run in it as a user runs it, with nothing of the real user's.

use std::ffi::{OsStr, OsString};
use std::fmt::Write;
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};
use serde_json::Value;
use tempfile::TempDir;

/// The passphrase of every store here.
pub(crate) const PASSPHRASE: &str = "correct horse battery staple";

/// Somebody without rights.
pub(crate) const NOBODY: u32 = 65_534;

/// A temporary directory with a home, on a real disk; removed at the end.
#[derive(Debug)]
pub(crate) struct Sandbox {
    directory: TempDir,
    key_file: Option<PathBuf>,
    /// A copy of the program that somebody without rights can reach, and runs.
    for_nobody: Option<PathBuf>,
}

/// A key as a file holds it: it opens a store at once, where a passphrase is made to cost time.
const KEY: &str = "PLAKAR-KEY-1 00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff\n";

/// How a run of the program ended.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: Vec<u8>,
    pub(crate) stderr: String,
    command: String,
}

impl Sandbox {
    /// A place without a store.
    pub(crate) fn empty() -> Self {
        assert!(
            rustix::process::getuid().is_root(),
            "these tests own files by others and mount: run them as root"
        );
        let directory =
            tempfile::Builder::new().prefix("it-").tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let sandbox = Self { directory, key_file: None, for_nobody: None };
        std::fs::create_dir(sandbox.path("home")).unwrap();
        sandbox
    }

    /// A place with a new store that is opened by a key file: for tests that run the program many times.
    pub(crate) fn with_key_file() -> Self {
        let mut sandbox = Self::empty();
        let file = sandbox.path("key");
        std::fs::write(&file, KEY).unwrap();
        sandbox.key_file = Some(file);
        sandbox.run(["create"]).succeeds();
        sandbox
    }

    /// A place with a new store under a passphrase.
    pub(crate) fn new() -> Self {
        let sandbox = Self::empty();
        sandbox.run(["create", "-weak-passphrase"]).succeeds();
        sandbox
    }

    /// A place with a new store where the program runs as somebody without rights, who owns the place.
    pub(crate) fn for_nobody() -> Self {
        use std::os::unix::fs::{PermissionsExt, chown};
        let mut sandbox = Self::empty();
        // Above the build's own directory there may be some that only root may enter.
        sandbox.directory = tempfile::Builder::new().prefix("plakar-it-").tempdir().unwrap();
        std::fs::create_dir(sandbox.path("home")).unwrap();
        let program = sandbox.path("plakar");
        std::fs::copy(env!("CARGO_BIN_EXE_plakar"), &program).unwrap();
        for path in [sandbox.path(""), program.clone()] {
            std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).unwrap();
        }
        for path in [sandbox.path(""), sandbox.path("home")] {
            chown(path, Some(NOBODY), Some(NOBODY)).unwrap();
        }
        sandbox.for_nobody = Some(program);
        sandbox.run(["create", "-weak-passphrase"]).succeeds();
        sandbox
    }

    /// A path in it.
    pub(crate) fn path(&self, name: impl AsRef<Path>) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Where its store is.
    pub(crate) fn store(&self) -> PathBuf {
        self.path("store")
    }

    /// The local cache.
    pub(crate) fn cache(&self) -> PathBuf {
        self.path("home/.cache/plakar")
    }

    /// The program, with the store chosen and its passphrase at hand.
    pub(crate) fn command<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Command {
        let program = self.for_nobody.as_deref().unwrap_or(Path::new(env!("CARGO_BIN_EXE_plakar")));
        let mut command = Command::new(program);
        if self.for_nobody.is_some() {
            // Setting the user drops the groups of root as well.
            command.uid(NOBODY).gid(NOBODY);
        }
        self.as_program(command, args)
    }

    /// The same under another program, which runs what it finds behind its own arguments.
    pub(crate) fn under<S: AsRef<OsStr>>(
        &self,
        program: &[&str],
        args: impl IntoIterator<Item = S>,
    ) -> Command {
        let mut command = Command::new(program[0]);
        command.args(&program[1..]).arg(env!("CARGO_BIN_EXE_plakar"));
        self.as_program(command, args)
    }

    fn as_program<S: AsRef<OsStr>>(
        &self,
        mut command: Command,
        args: impl IntoIterator<Item = S>,
    ) -> Command {
        let path = std::env::var_os("PATH").unwrap_or_default();
        command.env_clear();
        match &self.key_file {
            Some(file) => command.arg("-keyfile").arg(file),
            None => command.env("PLAKAR_PASSPHRASE", PASSPHRASE),
        };
        command
            .args(args)
            .env("PATH", path)
            .env("HOME", self.path("home"))
            .env("PLAKAR_REPOSITORY", self.store())
            .env("TMPDIR", self.directory.path())
            .current_dir(self.directory.path())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
    }

    /// Runs the program to its end.
    pub(crate) fn run<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Outcome {
        Outcome::of(&mut self.command(args))
    }

    /// Runs it with `-json`, which must succeed, and gives the object that sums it up.
    #[track_caller]
    pub(crate) fn summary<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Value {
        let mut command = self.command(args);
        command.arg("-json");
        Outcome::of(&mut command).succeeds().summary()
    }

    /// Backs a path up without errors, and gives the summary.
    #[track_caller]
    pub(crate) fn backup(&self, path: &Path) -> Value {
        self.summary([OsStr::new("backup"), path.as_os_str()])
    }

    /// Restores a snapshot to a new directory without errors, and gives the directory.
    #[track_caller]
    pub(crate) fn restore(&self, snapshot: &str) -> PathBuf {
        let name = (0..).map(|i| format!("restored {i}")).find(|n| !self.path(n).exists()).unwrap();
        let to = self.path(name);
        self.run([OsStr::new("restore"), OsStr::new("-to"), to.as_os_str(), OsStr::new(snapshot)]).succeeds();
        to
    }

    /// The objects of an area of the store, sorted by name.
    pub(crate) fn objects(&self, area: &str) -> Vec<PathBuf> {
        let mut found = files_below(&self.store().join(area));
        // What is still being written is none yet: a process that is stopped now has not got it.
        found.retain(|f| !f.file_name().is_some_and(|n| n.as_encoded_bytes().starts_with(b"tmp-")));
        found.sort();
        found
    }

    /// Bytes of all the store's files. One that gets its name meanwhile may be left out.
    pub(crate) fn stored_bytes(&self) -> u64 {
        files_below(&self.store()).iter().map(|f| f.metadata().map_or(0, |m| m.len())).sum()
    }
}

/// The peak of resident memory of a process, in MiB, while it runs, but no longer than so long.
pub(crate) fn peak_while(child: &mut Child, most: std::time::Duration) -> u64 {
    let begun = std::time::Instant::now();
    let mut peak = 0;
    while child.try_wait().unwrap().is_none() && begun.elapsed() < most {
        peak = peak.max(peak_so_far(child.id()));
        std::thread::sleep(std::time::Duration::from_millis(3));
    }
    assert!(peak > 1, "nothing was measured");
    peak
}

/// The peak of a process's resident memory so far, MiB; 0 once it has ended.
pub(crate) fn peak_so_far(pid: u32) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let high = text.lines().find_map(|l| l.strip_prefix("VmHWM:")?.trim().strip_suffix(" kB"));
    high.map_or(0, |kib| kib.parse::<u64>().unwrap() / 1024)
}

/// All regular files below a directory, which need not exist.
pub(crate) fn files_below(directory: &Path) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(directory) else { return Vec::new() };
    let mut found = Vec::new();
    for entry in entries {
        let entry = entry.unwrap();
        if entry.file_type().unwrap().is_dir() {
            found.extend(files_below(&entry.path()));
        } else {
            found.push(entry.path());
        }
    }
    found
}

impl Outcome {
    /// Runs a command to its end.
    pub(crate) fn of(command: &mut Command) -> Self {
        let child = command.spawn().unwrap();
        Self::when_ended(child, command)
    }

    /// Waits for a command that was started.
    pub(crate) fn when_ended(child: Child, command: &Command) -> Self {
        Self::from_output(child.wait_with_output().unwrap(), command)
    }

    pub(crate) fn from_output(output: std::process::Output, command: &Command) -> Self {
        Self {
            code: output.status.code(),
            stdout: output.stdout,
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
            command: describe(command),
        }
    }

    /// It ended with 0.
    #[track_caller]
    pub(crate) fn succeeds(self) -> Self {
        self.ends_with(0)
    }

    /// It ended with this code.
    #[track_caller]
    pub(crate) fn ends_with(self, code: i32) -> Self {
        assert_eq!(self.code, Some(code), "{self}");
        self
    }

    /// What it said on stderr has all of these in it.
    #[track_caller]
    pub(crate) fn says(self, parts: &[&str]) -> Self {
        for part in parts {
            assert!(self.stderr.contains(part), "does not say {part:?}: {self}");
        }
        self
    }

    /// What it printed, which must be text.
    #[track_caller]
    pub(crate) fn text(&self) -> &str {
        std::str::from_utf8(&self.stdout).unwrap()
    }

    /// What it printed as JSON, an object a line.
    #[track_caller]
    pub(crate) fn json(&self) -> Vec<Value> {
        let parse = |line: &str| serde_json::from_str(line).map_err(|e| format!("{e}: {line:?} of {self}"));
        self.text().lines().map(|line| parse(line).unwrap()).collect()
    }

    /// The last object, which sums up.
    #[track_caller]
    pub(crate) fn summary(&self) -> Value {
        let last = self.json().pop();
        let last = last.filter(|v| v["type"] == "summary");
        assert!(last.is_some(), "no summary: {self}");
        last.unwrap()
    }
}

impl std::fmt::Display for Outcome {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        writeln!(f, "`{}` ended with {:?}", self.command, self.code)?;
        writeln!(f, "stdout: {}", tail(&String::from_utf8_lossy(&self.stdout)))?;
        write!(f, "stderr: {}", tail(&self.stderr))
    }
}

/// The end of a long text.
fn tail(text: &str) -> &str {
    &text[text.ceil_char_boundary(text.len().saturating_sub(4000))..]
}

fn describe(command: &Command) -> String {
    let mut out = String::from("plakar");
    let words: Vec<&OsStr> = command.get_args().collect();
    let own = words.iter().position(|w| *w == OsStr::new(env!("CARGO_BIN_EXE_plakar"))).map_or(0, |i| i + 1);
    for word in &words[own..] {
        let _ = write!(out, " {}", word.as_bytes().escape_ascii());
    }
    out
}

/// The id in a backup's summary.
#[track_caller]
pub(crate) fn hex_id(summary: &Value) -> String {
    summary["snapshot"]["id"].as_str().unwrap().to_owned()
}

/// A source of some files of noise; of other seeds other noise.
pub(crate) fn noise(root: &Path, files: std::ops::Range<u64>) {
    std::fs::create_dir_all(root).unwrap();
    for i in files {
        let mut bytes = vec![0; 30_000 + (i * 7919 % 90_000) as usize];
        blake3::Hasher::new().update(&i.to_le_bytes()).finalize_xof().fill(&mut bytes);
        std::fs::write(root.join(format!("{i}")), bytes).unwrap();
    }
}

/// Copies a tree of plain files, as `cp -a` does.
pub(crate) fn copy_tree(from: &Path, to: &Path) {
    let words: [&OsStr; 4] = ["-a".as_ref(), "--".as_ref(), from.as_ref(), to.as_ref()];
    run_tool("cp", words);
}

/// Runs a program of the system, which must succeed and say nothing.
#[track_caller]
pub(crate) fn run_tool<S: AsRef<OsStr>>(program: &str, args: impl IntoIterator<Item = S>) {
    let args: Vec<OsString> = args.into_iter().map(|a| a.as_ref().to_owned()).collect();
    let output = Command::new(program).args(&args).env("LC_ALL", "C").stdin(Stdio::null()).output().unwrap();
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said);
    assert!(
        output.status.success() && said.is_empty(),
        "{program} {args:?}: {} {}",
        output.status,
        tail(&said)
    );
}

/// A small file system in memory, unmounted at the end.
#[derive(Debug)]
pub(crate) struct SmallDisk(TempDir);

impl SmallDisk {
    pub(crate) fn new(size: &str) -> Self {
        let directory =
            tempfile::Builder::new().prefix("disk-").tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let options = std::ffi::CString::new(format!("size={size}")).unwrap();
        mount("tmpfs", directory.path(), "tmpfs", MountFlags::empty(), &*options).unwrap();
        Self(directory)
    }

    pub(crate) fn path(&self) -> &Path {
        self.0.path()
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = unmount(self.0.path(), UnmountFlags::DETACH);
    }
}

/// Reads a stream until it has said something, whatever comes behind it; fails at its end.
#[track_caller]
pub(crate) fn read_until(stream: &mut impl Read, words: &[u8]) -> Vec<u8> {
    let mut said = Vec::new();
    let mut byte = [0];
    while !said.windows(words.len()).any(|w| w == words) {
        let n = stream.read(&mut byte).unwrap_or(0);
        let so_far = String::from_utf8_lossy(&said).into_owned();
        assert_eq!(n, 1, "it ended before it said {:?}: {so_far}", words.escape_ascii().to_string());
        said.push(byte[0]);
    }
    said
}
