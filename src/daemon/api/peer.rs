//! Credentials of the API's caller, and its permissions. Must not know any route.

use tokio::net::UnixStream;

use crate::daemon::api::error::{ApiError, ErrorCode};
use crate::daemon::http::server::PeerExtensions;

#[derive(Clone, Copy, Debug)]
pub(crate) struct Peer {
    uid: Option<u32>,
}

impl Peer {
    fn of(stream: &UnixStream) -> Self {
        Self {
            uid: stream.peer_cred().ok().map(|credentials| credentials.uid()),
        }
    }

    /// This process itself.
    pub(crate) fn own() -> Self {
        Self {
            uid: Some(rustix::process::geteuid().as_raw()),
        }
    }

    pub(crate) fn peer_extensions(stream: &UnixStream) -> PeerExtensions {
        let mut extensions = PeerExtensions::new();
        extensions.insert(Self::of(stream));
        extensions
    }

    /// Returns whether the reserved connections are for this caller: one that may change something.
    pub(crate) fn is_important(stream: &UnixStream) -> bool {
        Self::of(stream).may_change().is_ok()
    }

    /// Checks that the caller is root or the user that this daemon runs as.
    pub(crate) fn may_change(self) -> Result<(), ApiError> {
        let own = rustix::process::geteuid().as_raw();
        if self.uid.is_some_and(|uid| uid == 0 || uid == own) {
            return Ok(());
        }
        let message = "only root and refreshd's own user may do this; try it with sudo";
        Err(ApiError::new(ErrorCode::NotPermitted, message))
    }
}
