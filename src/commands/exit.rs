//! Exit codes, from sysexits.h. Must not exit: only `main` does.

use std::process::{ExitCode, Termination};

use super::terminal;
use crate::daemon::ErrorCode;

/// Exit status of a command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// 0.
    Done,
    /// 1: a portal is not fresh, or a renewal failed.
    NotFresh,
    /// 64 `EX_USAGE`.
    Usage,
    /// 65 `EX_DATAERR`: the input is not a grant.
    Data,
    /// 66 `EX_NOINPUT`: an unknown portal, or a missing file.
    NoInput,
    /// 69 `EX_UNAVAILABLE`: no daemon, or no server.
    Unavailable,
    /// 74 `EX_IOERR`: the result could not be written to standard output.
    Output,
    /// 75 `EX_TEMPFAIL`: try again later.
    TryAgain,
    /// 77 `EX_NOPERM`.
    NoPermission,
    /// 78 `EX_CONFIG`.
    Configuration,
    /// 128 and the number of the signal that ended the command.
    Interrupted(i32),
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
            Self::Output => 74,
            Self::TryAgain => 75,
            Self::NoPermission => 77,
            Self::Configuration => 78,
            Self::Interrupted(signal) => 128 | (signal & 0x7f) as u8,
        }
    }
}

impl From<ErrorCode> for Exit {
    fn from(code: ErrorCode) -> Self {
        match code {
            ErrorCode::BadRequest => Self::Usage,
            ErrorCode::NotPermitted => Self::NoPermission,
            ErrorCode::UnknownPortal
            | ErrorCode::UnknownIncident
            | ErrorCode::UnknownChannel
            | ErrorCode::NothingKept => Self::NoInput,
            ErrorCode::NoGrant | ErrorCode::NeedsRenewal | ErrorCode::NotNow | ErrorCode::Busy => {
                Self::TryAgain
            }
            ErrorCode::Refused
            | ErrorCode::NotAGrant
            | ErrorCode::NotAnAnswer
            | ErrorCode::CodeRefused => Self::Data,
            ErrorCode::NoAuthorization | ErrorCode::NotThere | ErrorCode::Configuration => {
                Self::Configuration
            }
            ErrorCode::NotFound
            | ErrorCode::MethodNotAllowed
            | ErrorCode::State
            | ErrorCode::Bug
            | ErrorCode::Unknown => Self::Unavailable,
        }
    }
}

impl Termination for Exit {
    fn report(self) -> ExitCode {
        ExitCode::from(self.code())
    }
}

/// Why a command failed, as a message for the user.
#[derive(Debug)]
pub(super) struct CommandError {
    exit: Exit,
    /// Error code of the API.
    code: Option<ErrorCode>,
    message: String,
}

impl CommandError {
    pub(super) fn new(exit: Exit, message: impl Into<String>) -> Self {
        Self {
            exit,
            code: None,
            message: message.into(),
        }
    }

    /// Error of the API.
    pub(super) fn of_api(code: ErrorCode, message: String) -> Self {
        Self {
            exit: code.into(),
            code: Some(code),
            message,
        }
    }

    /// Error code of the API, if it is an API error.
    pub(super) const fn code(&self) -> Option<ErrorCode> {
        self.code
    }

    /// Exit status.
    pub(super) const fn exit(&self) -> Exit {
        self.exit
    }

    /// Message for the user.
    pub(super) fn message(&self) -> &str {
        &self.message
    }

    /// Prints the message and returns the exit status.
    pub(super) fn print(&self) -> Exit {
        terminal::fail(&self.message);
        self.exit
    }

    /// The same if standard error may block.
    pub(super) fn print_without_waiting(&self) -> Exit {
        terminal::fail_without_waiting(&self.message);
        self.exit
    }
}
