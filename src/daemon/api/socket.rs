//! The control socket: HTTP/1.1 with JSON for commands and scripts. Access by file mode and peer credentials.

use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use axum::http::request::Parts;
use axum::response::{IntoResponse as _, Response};
use axum::serve::Listener;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use tokio::net::unix::SocketAddr;
use tokio::net::{UnixListener, UnixStream};
use tokio_util::sync::CancellationToken;

use crate::adapters::directory::{Directory, Make, Trust, UntrustedDirectory, parent};
use crate::adapters::ownership::give_to_directory_owner;
use crate::daemon::api::control::Control;
use crate::daemon::api::error::ApiError;
use crate::daemon::api::peer::Peer;
use crate::daemon::api::routes::{MAX_BODY_BYTES, MAX_GRANT_BYTES, routes};
use crate::daemon::context::Context;
use crate::daemon::http::connection_limits::ConnectionLimits;
use crate::daemon::http::descriptors;
use crate::daemon::http::server::{Reservation, Server, serve};
use crate::daemon::startup::reload::Reloader;
use crate::domain::error_chain::error_chain;
use refreshd_time::clock::{Clock, Tick};

/// Maximum number of concurrent connections.
const MAX_CONNECTIONS: usize = 128;
/// Additional connections for root and the daemon's own user: `refreshd renew --all` uses 32.
const RESERVED_CONNECTIONS: usize = 40;
/// Length of the queue of connections that the daemon has not accepted yet.
const BACKLOG: i32 = 1024;
/// Interval of the check that the socket is still at its path.
const CHECK_INTERVAL: Duration = Duration::from_secs(2);
/// The owner and the group of the socket may connect.
const SOCKET_MODE: u32 = 0o660;

/// Reason why the socket could not be created.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// Another process listens there.
    #[error("another process listens on the control socket {}", path.display())]
    InUse {
        /// The socket.
        path: PathBuf,
    },
    /// Something else is at the path, which a daemon must not remove.
    #[error("control_socket = \"{}\" is there and is no socket; it was left as it is", path.display())]
    NotASocket {
        /// Path of that file.
        path: PathBuf,
    },
    /// Another user could write to its directory.
    #[error("the directory of the control socket is not used")]
    Directory(#[source] UntrustedDirectory),
    /// An error of the file system.
    #[error("cannot make the control socket {}", path.display())]
    Io {
        /// The socket.
        path: PathBuf,
        /// The cause.
        source: std::io::Error,
    },
}

/// A listening socket, and the path at which it must stay.
pub struct ControlSocket {
    listener: UnixListener,
    path: PathBuf,
    trust: Trust,
    /// Device and inode of its file.
    identity: Option<(u64, u64)>,
}

impl ControlSocket {
    /// Creates the socket, in place of one that a dead process left. The owner of its directory could listen in its place,
    /// so the directory must belong to a trusted user.
    ///
    /// # Errors
    /// [`BindError`].
    pub async fn bind(path: &Path, trust: &Trust) -> Result<Self, BindError> {
        Ok(Self {
            listener: bind(path, trust).await?,
            path: path.to_owned(),
            trust: trust.clone(),
            identity: identity(path),
        })
    }

    /// Returns whether commands cannot find the socket at its path any more.
    fn is_displaced(&self) -> bool {
        self.identity.is_some() && identity(&self.path) != self.identity
    }
}

/// Removes the file of a socket; any other file at the path is left.
pub fn remove(path: &Path) {
    if std::fs::symlink_metadata(path).is_ok_and(|found| found.file_type().is_socket()) {
        // A socket that is left behind only costs the next command a moment.
        let _ = std::fs::remove_file(path);
    }
}

/// `None` if nothing is there.
fn identity(path: &Path) -> Option<(u64, u64)> {
    let found = std::fs::symlink_metadata(path).ok()?;
    Some((found.dev(), found.ino()))
}

/// A socket that is recreated after its file was removed or replaced.
struct WatchedSocket {
    socket: ControlSocket,
    clock: Clock,
    checked: Tick,
    /// Last logged reason why it could not be recreated.
    logged: Option<String>,
}

impl WatchedSocket {
    /// Recreates the socket if its file is not at its path any more. If the path cannot be inspected, nothing is known, and
    /// nothing is logged.
    async fn check(&mut self) {
        self.checked = self.clock.tick();
        if !self.socket.is_displaced() {
            return;
        }
        let path = self.socket.path.display();
        match ControlSocket::bind(&self.socket.path, &self.socket.trust).await {
            Ok(socket) => {
                tracing::warn!(
                    "the control socket {path} was removed or replaced, and is made anew; no command reached refreshd \
                     meanwhile: find out who removes files there"
                );
                (self.socket, self.logged) = (socket, None);
            }
            Err(error) => {
                let why = error_chain(&error);
                if self.logged.as_ref() != Some(&why) {
                    tracing::warn!(
                        "the control socket {path} was removed or replaced, and cannot be made anew yet, so no command \
                         reaches refreshd: {why}"
                    );
                    self.logged = Some(why);
                }
            }
        }
    }
}

impl Listener for WatchedSocket {
    type Io = UnixStream;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (UnixStream, SocketAddr) {
        loop {
            // The caller may cancel this call and repeat it: that must not delay the check.
            let left = CHECK_INTERVAL.saturating_sub(self.clock.elapsed(self.checked));
            if left.is_zero() {
                self.check().await;
                continue;
            }
            tokio::select! {
                arrived = Listener::accept(&mut self.socket.listener) => return arrived,
                () = self.clock.sleep(left) => {}
            }
        }
    }

    fn local_addr(&self) -> std::io::Result<SocketAddr> {
        self.socket.listener.local_addr()
    }
}

async fn bind(path: &Path, trust: &Trust) -> Result<UnixListener, BindError> {
    let io = |source| BindError::Io {
        path: path.to_owned(),
        source,
    };
    if UnixStream::connect(path).await.is_ok() {
        return Err(BindError::InUse {
            path: path.to_owned(),
        });
    }
    let make = Make {
        mode: 0o755,
        above: 0o755,
    };
    let directory = match Directory::open_trusted(parent(path), trust, Some(make)) {
        Err(UntrustedDirectory::Io { source, .. }) => return Err(io(source)),
        opened => opened.map_err(BindError::Directory)?,
    };
    match std::fs::symlink_metadata(path) {
        Ok(found) if found.file_type().is_socket() => std::fs::remove_file(path).map_err(io)?,
        Ok(_) => {
            return Err(BindError::NotASocket {
                path: path.to_owned(),
            });
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
        Err(error) => return Err(io(error)),
    }
    let listener = listen(path, &directory).map_err(io)?;
    give_to_directory_owner(path);
    Ok(listener)
}

/// Binds and listens. A socket is created with the mode of its descriptor, so a user excluded by the mode cannot connect at
/// any moment, whatever the umask.
fn listen(path: &Path, directory: &Directory) -> std::io::Result<UnixListener> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    rustix::fs::fchmod(&socket, rustix::fs::Mode::from_raw_mode(SOCKET_MODE))?;
    rustix::net::bind(&socket, &SocketAddrUnix::new(path)?)?;
    // A strict umask may have removed more permissions than intended.
    let name = path
        .file_name()
        .ok_or(std::io::ErrorKind::InvalidFilename)?;
    directory.set_socket_mode(name, SOCKET_MODE)?;
    rustix::net::listen(&socket, BACKLOG)?;
    UnixListener::from_std(socket.into())
}

fn connection_limits() -> ConnectionLimits {
    descriptors::for_clients(MAX_CONNECTIONS, RESERVED_CONNECTIONS)
}

/// Maximum length of a request's body. A grant may be as long as a token response; a caller without permission to import
/// must not occupy that much memory.
fn max_body_bytes(head: &Parts) -> usize {
    let may_change = || {
        let peer = head.extensions.get::<Peer>();
        peer.is_some_and(|peer| peer.may_change().is_ok())
    };
    if head.uri.path().ends_with("/grant") && may_change() {
        MAX_GRANT_BYTES
    } else {
        MAX_BODY_BYTES
    }
}

fn busy() -> Response {
    ApiError::busy("all connections of its control socket are in use").into_response()
}

/// Serves until `stop`.
pub async fn run(
    shared: Arc<Context>,
    reloader: Arc<Reloader>,
    socket: ControlSocket,
    stop: CancellationToken,
) {
    let clock = shared.clock;
    let listener = WatchedSocket {
        socket,
        clock,
        checked: clock.tick(),
        logged: None,
    };
    let control = Control::of_daemon(shared, reloader, connection_limits().open);
    let server = Server {
        routes: routes(control.clone()),
        limits: connection_limits(),
        reserved_for: Some(Reservation::ClientConnections(Peer::is_important)),
        max_body_bytes,
        peer_extensions_of: Peer::peer_extensions,
        busy,
        clock,
    };
    serve(listener, server, stop).await;
    control.finish_changes().await;
}
