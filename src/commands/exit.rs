//! Exit codes, from sysexits.h. Must not exit: only `main` does.

use std::process::{ExitCode, Termination};

use super::terminal;

/// How a command ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// 0.
    Done,
    /// 1: a portal is not fresh, or a renewal failed.
    NotFresh,
    /// 64 `EX_USAGE`.
    Usage,
    /// 65 `EX_DATAERR`: what was handed over is no grant.
    Data,
    /// 66 `EX_NOINPUT`: an unknown portal, or a file that is not there.
    NoInput,
    /// 69 `EX_UNAVAILABLE`: no daemon, or no server.
    Unavailable,
    /// 75 `EX_TEMPFAIL`: try again later.
    TryAgain,
    /// 77 `EX_NOPERM`.
    NoPermission,
    /// 78 `EX_CONFIG`.
    Configuration,
}

impl Exit {
    /// The number.
    #[must_use]
    pub const fn code(self) -> u8 {
        match self {
            Self::Done => 0,
            Self::NotFresh => 1,
            Self::Usage => 64,
            Self::Data => 65,
            Self::NoInput => 66,
            Self::Unavailable => 69,
            Self::TryAgain => 75,
            Self::NoPermission => 77,
            Self::Configuration => 78,
        }
    }
}

impl Termination for Exit {
    fn report(self) -> ExitCode {
        ExitCode::from(self.code())
    }
}

/// Why a command was not done, in words for whoever typed it.
#[derive(Debug)]
pub(super) struct CommandError {
    exit: Exit,
    message: String,
}

impl CommandError {
    pub(super) fn new(exit: Exit, message: impl Into<String>) -> Self {
        Self {
            exit,
            message: message.into(),
        }
    }

    /// What the command ends with.
    pub(super) const fn exit(&self) -> Exit {
        self.exit
    }

    /// Why not, in words.
    pub(super) fn message(&self) -> &str {
        &self.message
    }

    /// Says it and returns the code to end with.
    pub(super) fn say(&self) -> Exit {
        terminal::fail(self.exit, &self.message)
    }
}
