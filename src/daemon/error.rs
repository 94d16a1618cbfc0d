//! Why the daemon did not start, or ended.

use std::time::Duration;

use crate::adapters::directory::UntrustedDirectory;
use crate::adapters::state::StateError;
use crate::daemon::api::socket::BindError;
use crate::daemon::http::listen::ListenError;
use refreshd_http::TlsError;

/// Why the daemon did not start, or ended.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The state said no.
    #[error(transparent)]
    State(#[from] StateError),
    /// The token directory is somebody else's.
    #[error("the token directory is not used")]
    TokenDirectory(#[source] UntrustedDirectory),
    /// TLS cannot be set up.
    #[error(
        "cannot set up TLS; are the system's certificate authorities installed (ca-certificates)?"
    )]
    Tls(#[source] TlsError),
    /// The control socket said no.
    #[error(transparent)]
    Control(#[from] BindError),
    /// A listener said no.
    #[error(transparent)]
    Http(#[from] ListenError),
    /// The kernel said no.
    #[error("cannot listen for signals")]
    Signals(#[source] std::io::Error),
    /// A bug.
    #[error("{0} ended unexpectedly; this is a bug, and a restart loses nothing")]
    TaskEnded(&'static str),
    /// SIGTERM, and a pair that no disk takes.
    #[error("stopped after {} s with renewals still under way", .0.as_secs())]
    StopTimedOut(Duration),
}
