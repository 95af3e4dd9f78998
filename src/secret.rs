//! Where the secret that opens a store comes from. In this order: -keyfile, -passphrase-cmd, what is configured for a named
//! store, PLAKAR_PASSPHRASE, PLAKAR_PASSPHRASE_CMD, a prompt on the terminal. Nothing here is ever printed or logged.

use std::ffi::OsStr;
use std::io::IsTerminal;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::Context;
use plakar_engine::keyslot::UserSecret;
use zeroize::Zeroizing;

use crate::context::AppContext;
use crate::location::Place;
use crate::report::Failure;
use crate::{ExitCode, screen};

/// The ways, for whoever gave none.
pub(crate) const WAYS: &str = "give one of: -keyfile FILE, -passphrase-cmd COMMAND, PLAKAR_PASSPHRASE, PLAKAR_PASSPHRASE_CMD, or run it on a terminal and type it";

/// What a passphrase should have: a machine that tries a billion a second needs millions of years for 80 bits.
const ENOUGH_BITS: f64 = 80.0;

/// The largest key file: more is a mistake in the name.
const MAX_FILE: u64 = 64 << 10;

/// The secret that options or environment give.
pub(crate) fn given(context: &AppContext) -> anyhow::Result<Option<UserSecret>> {
    if let Some(file) = &context.globals.keyfile {
        return Ok(Some(from_file(file)?));
    }
    if let Some(command) = &context.globals.passphrase_cmd {
        return Ok(Some(from_command(command)?));
    }
    if let Some(secret) = of_place(context, &context.store_place()?)? {
        return Ok(Some(secret));
    }
    if let Some(passphrase) = context.env.get("PLAKAR_PASSPHRASE") {
        return Ok(Some(UserSecret::passphrase(passphrase.as_bytes())));
    }
    match context.env.get("PLAKAR_PASSPHRASE_CMD") {
        Some(command) => Ok(Some(from_command(command)?)),
        None => Ok(None),
    }
}

/// The secret that is configured for a store.
pub(crate) fn of_place(context: &AppContext, place: &Place) -> anyhow::Result<Option<UserSecret>> {
    let get = |how: &str| place.options.get(&format!("passphrase{how}")).filter(|v| !v.is_empty());
    if let Some(file) = place.options.get("keyfile").filter(|v| !v.is_empty()) {
        return Ok(Some(from_file(Path::new(file))?));
    }
    if let Some(passphrase) = get("") {
        return Ok(Some(UserSecret::passphrase(passphrase.as_bytes())));
    }
    if let Some(command) = get("_cmd") {
        return Ok(Some(from_command(OsStr::new(command))?));
    }
    if let Some(file) = get("_file") {
        return Ok(Some(from_file(Path::new(file))?));
    }
    if let Some(name) = get("_env") {
        let value = context.env.get(name).ok_or_else(|| {
            Failure::new(format!("the passphrase is to be in the variable {name}, which is not set"))
                .with_code(ExitCode::WrongSecret)
        })?;
        return Ok(Some(UserSecret::passphrase(value.as_bytes())));
    }
    match get("_keyring") {
        Some(entry) => Ok(Some(from_keyring(entry)?)),
        None => Ok(None),
    }
}

/// What a store's configuration may say of its secret.
pub(crate) fn option_names() -> impl Iterator<Item = String> {
    let ways = ["", "_cmd", "_file", "_env", "_keyring"].map(|way| format!("passphrase{way}"));
    ways.into_iter().chain(["keyfile".to_owned()])
}

/// Asks the desktop's keyring for `SERVICE/USER`, by the program that it comes with.
fn from_keyring(entry: &str) -> anyhow::Result<UserSecret> {
    let (service, user) = entry.split_once('/').ok_or_else(|| {
        Failure::new(format!("passphrase_keyring={entry}: an entry of the keyring is named SERVICE/USER"))
    })?;
    let mut program = if cfg!(target_os = "macos") {
        let mut program = Command::new("security");
        program.args(["find-generic-password", "-w", "-s", service, "-a", user]);
        program
    } else {
        let mut program = Command::new("secret-tool");
        program.args(["lookup", "service", service, "username", user]);
        program
    };
    let name = program.get_program().to_string_lossy().into_owned();
    let output = program.stdin(Stdio::null()).stderr(Stdio::inherit()).output();
    let output = output.with_context(|| {
        Failure::new(format!("cannot ask the keyring: {name} cannot be run"))
            .with_hint("on Debian and Ubuntu it is in the package libsecret-tools")
            .with_code(ExitCode::WrongSecret)
    })?;
    let printed = Zeroizing::new(output.stdout);
    let line = printed.strip_suffix(b"\n").unwrap_or(&printed);
    if !output.status.success() || line.is_empty() {
        let failure =
            Failure::new(format!("the keyring has no entry {entry}")).with_code(ExitCode::WrongSecret);
        return Err(failure
            .with_hint(format!(
                "`secret-tool store --label=plakar service {service} username {user}` makes it"
            ))
            .into());
    }
    Ok(UserSecret::passphrase(line))
}

/// Reads a passphrase or a key from a file.
pub(crate) fn from_file(file: &Path) -> anyhow::Result<UserSecret> {
    use std::io::Read;
    let what = || format!("cannot read the key file {}", file.display());
    let mut bytes = Zeroizing::new(Vec::with_capacity(MAX_FILE as usize + 1));
    let opened = std::fs::File::open(file).with_context(what)?;
    opened.take(MAX_FILE + 1).read_to_end(&mut bytes).with_context(what)?;
    if bytes.len() as u64 > MAX_FILE {
        return Err(Failure::new(format!("{} is too large for a key file", file.display())).into());
    }
    let secret = UserSecret::from_file_contents(bytes.to_vec());
    match &secret {
        UserSecret::Passphrase(p) if p.is_empty() => {
            Err(Failure::new(format!("the key file {} is empty", file.display())).into())
        }
        _ => Ok(secret),
    }
}

/// Takes a passphrase from what a command prints.
pub(crate) fn from_command(command: &OsStr) -> anyhow::Result<UserSecret> {
    // The command itself may hold a secret: it is not named.
    let output = Command::new("sh")
        .arg("-c")
        .arg(command)
        .stdin(Stdio::inherit())
        .stderr(Stdio::inherit())
        .output()
        .context("cannot run the passphrase command")?;
    let printed = Zeroizing::new(output.stdout);
    if !output.status.success() {
        return Err(Failure::new(format!("the passphrase command failed: {}", output.status)).into());
    }
    let line = printed.strip_suffix(b"\n").unwrap_or(&printed);
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    if line.is_empty() || line.contains(&b'\n') {
        let lines = line.split(|b| *b == b'\n').count() - usize::from(line.is_empty());
        let text = format!("the passphrase command must print exactly one line, and printed {lines}");
        return Err(Failure::new(text).into());
    }
    Ok(UserSecret::passphrase(line))
}

/// Whether somebody sits there to be asked. A test or a service has a terminal at most by accident.
pub(crate) fn can_ask() -> bool {
    std::io::stdin().is_terminal() || std::io::stderr().is_terminal()
}

/// Asks for a line without showing it.
pub(crate) fn ask(prompt: &str) -> anyhow::Result<Zeroizing<String>> {
    match rpassword::prompt_password(prompt) {
        Ok(line) => Ok(Zeroizing::new(line)),
        Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {
            Err(Failure::new("interrupted").with_code(ExitCode::Interrupted).into())
        }
        Err(e) => Err(anyhow::Error::new(e).context(no_terminal("cannot ask for the passphrase"))),
    }
}

fn no_terminal(text: &str) -> Failure {
    Failure::new(text).with_code(ExitCode::WrongSecret).with_hint(WAYS)
}

/// Whether an option names the secret, and not only the environment, which is there for all stores.
pub(crate) fn is_explicit(context: &AppContext) -> bool {
    let is_configured =
        || context.store_place().is_ok_and(|p| option_names().any(|name| p.options.contains_key(&name)));
    context.globals.keyfile.is_some() || context.globals.passphrase_cmd.is_some() || is_configured()
}

/// Fails where nobody can be asked for a new passphrase.
pub(crate) fn need_terminal(what: &str) -> anyhow::Result<()> {
    if can_ask() {
        return Ok(());
    }
    let failure = Failure::new(format!("a passphrase for {what} is needed, and there is no terminal to ask"));
    Err(failure.with_hint(WAYS).into())
}

/// Asks for a new passphrase, twice, and for a better one if it is weak.
pub(crate) fn ask_new(what: &str, weak_allowed: bool) -> anyhow::Result<UserSecret> {
    need_terminal(what)?;
    let mut weak: Option<Zeroizing<String>> = None;
    for _ in 0..5 {
        let first = ask(&format!("Passphrase for {what}: "))?;
        if first.is_empty() {
            screen::line("An empty passphrase protects nothing.");
            continue;
        }
        let bits = bits(&first);
        let insisted = weak.as_ref().is_some_and(|w| **w == *first);
        if bits < ENOUGH_BITS && !weak_allowed && !insisted {
            screen::line(&format!(
                "That one is weak: about {bits:.0} bits, where {ENOUGH_BITS:.0} are advised. Type a longer one, or the same again to insist."
            ));
            weak = Some(first);
            continue;
        }
        // To insist is to have typed it twice.
        if !insisted && *ask("The same again: ")? != *first {
            screen::line("They differ.");
            continue;
        }
        return Ok(UserSecret::passphrase(first.as_bytes()));
    }
    Err(Failure::new("no passphrase after five tries").into())
}

/// The secret of something new: the given one, with a word if it is weak, or one that is asked for.
pub(crate) fn for_new(
    context: &AppContext,
    given: Option<UserSecret>,
    what: &str,
    weak_allowed: bool,
) -> anyhow::Result<UserSecret> {
    let Some(secret) = given else { return ask_new(what, weak_allowed) };
    if !weak_allowed && !context.globals.silent {
        warn_if_weak(&secret);
    }
    Ok(secret)
}

/// Warns of a weak passphrase that nobody can be asked about.
fn warn_if_weak(secret: &UserSecret) {
    let UserSecret::Passphrase(bytes) = secret else { return };
    let bits = bits(&String::from_utf8_lossy(bytes));
    if bits < ENOUGH_BITS {
        screen::line(&format!(
            "warning: the passphrase is weak: about {bits:.0} bits, where {ENOUGH_BITS:.0} are advised (-weak-passphrase: no warning)"
        ));
    }
}

/// A rough lower estimate of a passphrase's entropy: the kinds of characters it draws from, times its length, where
/// repeated and neighbouring characters (`aaa`, `abc`, `321`) count once.
fn bits(passphrase: &str) -> f64 {
    let chars: Vec<char> = passphrase.chars().collect();
    let mut pool = 0;
    for (size, has) in [
        (26, chars.iter().any(char::is_ascii_lowercase)),
        (26, chars.iter().any(char::is_ascii_uppercase)),
        (10, chars.iter().any(char::is_ascii_digit)),
        (33, chars.iter().any(|c| c.is_ascii() && !c.is_ascii_alphanumeric())),
        (100, chars.iter().any(|c| !c.is_ascii())),
    ] {
        pool += if has { size } else { 0 };
    }
    let steps = chars.windows(2).map(|w| i64::from(u32::from(w[1])) - i64::from(u32::from(w[0])));
    let steps: Vec<i64> = steps.collect();
    let predictable = steps.windows(2).filter(|s| s[0] == s[1] && s[0].abs() <= 1).count();
    (chars.len() - predictable) as f64 * f64::from(pool.max(1)).log2()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weak_and_strong_passphrases_are_told_apart() {
        for weak in [
            "abc",
            "password",
            "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
            "abcdefghijklmnopqrstuvwxyz",
            "Tr0ub4dor&3",
        ] {
            assert!(bits(weak) < ENOUGH_BITS, "{weak}: {}", bits(weak));
        }
        for strong in ["correct horse battery staple", "x7Gp!mQ2#vLz9@Rd", "zwölf Boxkämpfer jagen"] {
            assert!(bits(strong) >= ENOUGH_BITS, "{strong}: {}", bits(strong));
        }
    }

    #[test]
    fn a_command_prints_exactly_one_line() {
        let run = |c: &str| from_command(OsStr::new(c));
        assert!(matches!(run("printf 'a b\\n'"), Ok(UserSecret::Passphrase(p)) if p[..] == *b"a b"));
        for bad in ["true", "echo", "printf 'a\\nb\\n'", "false"] {
            let e = run(bad).map(|_| ()).unwrap_err();
            assert!(!format!("{e:#}").contains("printf"), "{e}");
        }
    }
}
