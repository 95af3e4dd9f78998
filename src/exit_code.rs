//! The exit codes, and what each means. Scripts rely on them: they never change.

/// How a command ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum ExitCode {
    /// Everything was done.
    Ok = 0,
    /// It could not be done.
    Failed = 1,
    /// The command line makes no sense.
    Usage = 2,
    /// It was done, but for some files.
    CompletedWithErrors = 3,
    /// Stored data is damaged or missing.
    Damaged = 65,
    /// There is no store at that place, or it cannot be opened.
    NoStore = 66,
    /// Wrong passphrase or key, or none where one is needed.
    WrongSecret = 77,
    /// Written by a newer program, in a form that this one does not know.
    Newer = 78,
    /// Stopped by SIGINT or SIGTERM.
    Interrupted = 130,
}

impl ExitCode {
    /// Each code with its meaning, for the help.
    pub(crate) const TABLE: [(Self, &'static str); 9] = [
        (Self::Ok, "done"),
        (Self::Failed, "failed"),
        (Self::Usage, "the command line makes no sense"),
        (Self::CompletedWithErrors, "done, but for some files"),
        (Self::Damaged, "stored data is damaged or missing"),
        (Self::NoStore, "no store there, or it cannot be opened"),
        (Self::WrongSecret, "wrong passphrase or key, or none given"),
        (Self::Newer, "written by a newer version, in a form not known here"),
        (Self::Interrupted, "stopped by Ctrl-C or SIGTERM"),
    ];
}

impl ExitCode {
    /// The code that another process of this program ended with.
    pub(crate) fn from_u8(code: u8) -> Self {
        Self::TABLE.iter().map(|(c, _)| *c).find(|c| *c as u8 == code).unwrap_or(Self::Failed)
    }
}

impl From<ExitCode> for std::process::ExitCode {
    fn from(code: ExitCode) -> Self {
        Self::from(code as u8)
    }
}
