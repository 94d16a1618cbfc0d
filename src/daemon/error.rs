//! Errors that keep the daemon from starting, or end it.

use std::time::Duration;

use crate::adapters::directory::UntrustedDirectory;
use crate::adapters::state::StateError;
use crate::daemon::api::socket::BindError;
use crate::daemon::http::listen::ListenError;
use refreshd_http::TlsError;

/// Error that keeps the daemon from starting, or ends it.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// An error of the state.
    #[error(transparent)]
    State(#[from] StateError),
    /// Another user could write to the token directory.
    #[error("the token directory is not used")]
    TokenDirectory(#[source] UntrustedDirectory),
    /// TLS cannot be set up.
    #[error(
        "cannot set up TLS; are the system's certificate authorities installed (ca-certificates)?"
    )]
    Tls(#[source] TlsError),
    /// An error of the control socket.
    #[error(transparent)]
    Control(#[from] BindError),
    /// An error of a listener.
    #[error(transparent)]
    Http(#[from] ListenError),
    /// The signal handlers cannot be installed.
    #[error("cannot listen for signals")]
    Signals(#[source] std::io::Error),
    /// A bug.
    #[error("{0} ended unexpectedly; this is a bug, and a restart loses nothing")]
    TaskEnded(&'static str),
    /// Stopped by SIGTERM while a pair could not be written to disk.
    #[error("stopped after {} s with renewals still under way", .0.as_secs())]
    StopTimedOut(Duration),
}
