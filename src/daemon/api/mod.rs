//! The control socket: HTTP/1.1 with JSON for commands and scripts. Access by file mode and peer credentials.
//!
//! Must not decide: `operations` does. Whoever can open the socket may look, take a token and ask for a renewal;
//! only root and the daemon's own user may hand over or forget a grant, or reload.

mod alerts;
mod authorization;
mod installs;
mod peer;
mod replies;

use std::os::unix::fs::FileTypeExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::body::Body;
use axum::extract::rejection::{QueryRejection, StringRejection};
use axum::extract::{DefaultBodyLimit, Path as UrlPath, Query, State as Extract};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{delete, get, post};
use axum::{Extension, Router};
use futures_util::stream;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, SemaphorePermit, oneshot};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

pub use authorization::authorized;
use peer::{ApiError, Peer, busy};
pub use replies::recovered;

use crate::adapters::directory::{Directory, Make, Trust, UntrustedDirectory, parent};
use crate::adapters::ownership::give_to_directory_owner;
use crate::adapters::state::StateError;
use crate::adapters::token_files::Format;
use crate::daemon::context::Context;
use crate::daemon::grants::import::{self as grant_import, ImportOutcome};
use crate::daemon::grants::introspect;
use crate::daemon::grants::operations::{self, Driver, RenewalResult};
use crate::daemon::grants::portal_view::{self, PortalView};
use crate::daemon::grants::store;
use crate::daemon::http::connection_limits::Places;
use crate::daemon::http::descriptors;
use crate::daemon::http::server::{Kept, Server, serve};
use crate::daemon::startup::reload::Reloader;
use crate::domain::candidate::ImportResult;
use crate::domain::import;
use crate::domain::name::PortalName;

/// Portals read at a time.
const PAGE: usize = 100;
/// Portals in one reply, unless asked for fewer or more; and the most that may be asked for.
pub const LISTED: (usize, usize) = (1000, 10_000);
/// Connections at a time.
const MAX_CONNECTIONS: usize = 128;
/// Besides these, for root and the daemon's own user: `refreshd renew --all` has 32.
const SPARE: usize = 40;
/// Listings under way at a time, for others.
const LISTING: usize = 8;
/// How long one of them waits for its turn.
const TURN: Duration = Duration::from_secs(10);
/// What waits for the daemon to accept it.
const BACKLOG: i32 = 1024;
/// The owner and the group of the socket may connect.
const SOCKET_MODE: u32 = 0o660;
/// One more than a grant may have, so that it is the reader of grants who says that one is too long.
const MAX_BODY_BYTES: usize = import::MAX_LENGTH + 1;

/// What the handlers need.
#[derive(Clone)]
pub struct Control {
    shared: Arc<Context>,
    reloader: Arc<Reloader>,
    changes: Arc<Mutex<JoinSet<()>>>,
    /// Three quarters of the places may wait for renewals at a time; the others are kept for reading.
    waiting: Arc<Semaphore>,
    listing: Arc<Semaphore>,
}

impl Control {
    /// For this daemon.
    #[must_use]
    pub fn new(shared: Arc<Context>, reloader: Arc<Reloader>) -> Self {
        let (waiting, listing) = (
            Semaphore::new(places().open * 3 / 4),
            Semaphore::new(LISTING),
        );
        let (waiting, listing) = (Arc::new(waiting), Arc::new(listing));
        Self {
            shared,
            reloader,
            changes: Arc::default(),
            waiting,
            listing,
        }
    }

    pub(crate) fn shared(&self) -> &Context {
        &self.shared
    }

    /// The right to wait for a renewal. Root, and the daemon's own user, always have it.
    fn wait(&self, peer: Peer) -> Result<Option<SemaphorePermit<'_>>, ApiError> {
        if peer.may_change().is_ok() {
            return Ok(None);
        }
        self.waiting
            .try_acquire()
            .map(Some)
            .map_err(|_| ApiError::busy("its callers wait for renewals"))
    }

    /// The right to be sent a listing, which holds memory until it is taken. Who may always, as for [`Self::wait`].
    async fn turn(&self, peer: Peer) -> Result<Option<OwnedSemaphorePermit>, ApiError> {
        if peer.may_change().is_ok() {
            return Ok(None);
        }
        let turn = self
            .shared
            .clock
            .within(TURN, Arc::clone(&self.listing).acquire_owned())
            .await;
        turn.and_then(Result::ok)
            .map(Some)
            .ok_or_else(|| ApiError::busy("other listings are under way"))
    }

    /// Carries a change out to its end, though whoever asked for it may go away meanwhile.
    async fn change<T: Send + 'static>(
        &self,
        change: impl Future<Output = Result<T, ApiError>> + Send + 'static,
    ) -> Result<T, ApiError> {
        let (done, wait) = oneshot::channel();
        {
            let mut changes = self.changes.lock().unwrap_or_else(PoisonError::into_inner);
            while changes.try_join_next().is_some() {}
            changes.spawn(async move {
                // Whoever asked may have gone.
                let _ = done.send(change.await);
            });
        }
        let broken = || {
            ApiError::new(
                StatusCode::INTERNAL_SERVER_ERROR,
                "bug",
                "the change ended by a bug; see the log",
            )
        };
        wait.await.unwrap_or_else(|_| Err(broken()))
    }
}

/// Why the socket could not be made.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// Somebody answers there.
    #[error("another process listens on the control socket {}", path.display())]
    InUse {
        /// The socket.
        path: PathBuf,
    },
    /// Something else lies there, which is not for a daemon to remove.
    #[error("control_socket = \"{}\" is there and is no socket; it was left as it is", path.display())]
    NotASocket {
        /// What lies there.
        path: PathBuf,
    },
    /// Its directory is somebody else's.
    #[error("the directory of the control socket is not used")]
    Directory(#[source] UntrustedDirectory),
    /// The file system said no.
    #[error("cannot make the control socket {}", path.display())]
    Io {
        /// The socket.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
}

/// Makes the socket, in place of one that a dead process left. Who has its directory could listen in its place: that must
/// be somebody who is trusted.
///
/// # Errors
/// [`BindError`].
pub async fn bind(path: &Path, trust: &Trust) -> Result<UnixListener, BindError> {
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

/// Binds and listens. A socket is made with the mode of its descriptor, so nobody whom the mode keeps out can connect at
/// any moment, whatever the umask.
fn listen(path: &Path, directory: &Directory) -> std::io::Result<UnixListener> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    rustix::fs::fchmod(&socket, rustix::fs::Mode::from_raw_mode(SOCKET_MODE))?;
    rustix::net::bind(&socket, &SocketAddrUnix::new(path)?)?;
    // A strict umask took away more than was asked for.
    let name = path
        .file_name()
        .ok_or(std::io::ErrorKind::InvalidFilename)?;
    directory.set_socket_mode(name, SOCKET_MODE)?;
    rustix::net::listen(&socket, BACKLOG)?;
    UnixListener::from_std(socket.into())
}

fn places() -> Places {
    descriptors::for_guests(MAX_CONNECTIONS, SPARE)
}

/// Serves until `stop`.
pub async fn run(control: Control, listener: UnixListener, stop: CancellationToken) {
    let clock = control.shared.clock;
    let changes = Arc::clone(&control.changes);
    let routes = Router::new()
        .route("/v1/portals", get(list))
        .route("/v1/portals/{portal}", get(show))
        .route("/v1/portals/{portal}/token", get(token))
        .route("/v1/portals/{portal}/renew", post(renew))
        .route("/v1/portals/{portal}/grant", post(import))
        .route("/v1/portals/{portal}/grant", delete(forget))
        .route("/v1/portals/{portal}/introspect", post(introspect))
        .route("/v1/reload", post(reload))
        .merge(alerts::routes())
        .merge(authorization::routes())
        .merge(replies::routes())
        .merge(installs::routes())
        .fallback(async || {
            ApiError::new(StatusCode::NOT_FOUND, "not-found", "there is nothing here")
        })
        .method_not_allowed_fallback(async || {
            let message = "this is not done with that method";
            ApiError::new(
                StatusCode::METHOD_NOT_ALLOWED,
                "method-not-allowed",
                message,
            )
        })
        .layer(DefaultBodyLimit::max(MAX_BODY_BYTES))
        .with_state(control);
    let introduce = Peer::peer_extensions;
    serve(
        listener,
        Server {
            routes,
            places: places(),
            kept: Some(Kept::Guests(Peer::is_important)),
            longest_body: MAX_BODY_BYTES,
            introduce,
            busy,
            clock,
        },
        stop,
    )
    .await;
    let mut changes = std::mem::take(&mut *changes.lock().unwrap_or_else(PoisonError::into_inner));
    while changes.join_next().await.is_some() {}
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ListQuery {
    limit: Option<usize>,
    after: Option<String>,
}

/// Portals in the order of their names, those after `after`, at most `limit`; `next` is there if there are more. Sent piece
/// by piece: memory grows neither with their number nor with `limit`.
async fn list(
    Extract(control): Extract<Control>,
    Extension(peer): Extension<Peer>,
    query: Result<Query<ListQuery>, QueryRejection>,
) -> Result<Response, ApiError> {
    let bad = |message: String| ApiError::new(StatusCode::BAD_REQUEST, "bad-request", message);
    let Query(ListQuery { limit, after }) =
        query.map_err(|rejection| bad(rejection.body_text()))?;
    let (usual, most) = LISTED;
    let limit = limit.unwrap_or(usual);
    if !(1..=most).contains(&limit) {
        return Err(bad(format!("limit is a number from 1 to {most}")));
    }
    let after = match after
        .filter(|after| !after.is_empty())
        .map(|after| PortalName::parse(&after))
    {
        None => None,
        Some(Ok(after)) => Some(after),
        Some(Err(error)) => return Err(bad(format!("after is no name of a portal: {error}"))),
    };
    let turn = control.turn(peer).await?;
    let begin = PortalStream::At {
        shared: control.shared,
        after,
        left: limit,
        first: true,
    };
    // The turn is over when the last piece has been taken.
    let pieces = stream::unfold((begin, turn), |(listing, turn)| async move {
        let (piece, rest) = next_piece(listing).await?;
        Some((piece, (rest, turn)))
    });
    Ok((
        [(header::CONTENT_TYPE, "application/json")],
        Body::from_stream(pieces),
    )
        .into_response())
}

/// A piece of a listing, and how it goes on.
async fn next_piece(listing: PortalStream) -> Option<(Result<String, StateError>, PortalStream)> {
    let PortalStream::At {
        shared,
        after,
        left,
        first,
    } = listing
    else {
        return None;
    };
    let size = left.min(PAGE);
    // One more than is sent tells whether there are more.
    let mut page = match shared.state.page(after, size + 1).await {
        Ok(page) => page,
        // A reply that breaks off is no JSON, and that is the truth.
        Err(error) => return Some((Err(error), PortalStream::Ended)),
    };
    let more = page.len() > size;
    page.truncate(size);
    let views = match portal_view::views(&shared, &page).await {
        Ok(views) => views,
        Err(error) => return Some((Err(error), PortalStream::Ended)),
    };
    let mut text = if first {
        "{\"portals\":[".to_owned()
    } else {
        String::new()
    };
    for (index, view) in views.into_iter().enumerate() {
        text.push_str(if first && index == 0 { "\n" } else { ",\n" });
        text.push_str(&serde_json::to_string(&view).unwrap_or_default());
    }
    let last = page.pop().map(|portal| portal.name).filter(|_| more);
    Some(match last {
        Some(last) if left > size => (
            Ok(text),
            PortalStream::At {
                shared,
                after: Some(last),
                left: left - size,
                first: false,
            },
        ),
        Some(last) => (
            Ok(format!("{text}\n],\"next\":{}}}\n", json!(last.as_str()))),
            PortalStream::Ended,
        ),
        None => (Ok(text + "\n]}\n"), PortalStream::Ended),
    })
}

/// How far a listing has come.
enum PortalStream {
    At {
        shared: Arc<Context>,
        after: Option<PortalName>,
        left: usize,
        first: bool,
    },
    Ended,
}

async fn show(
    Extract(control): Extract<Control>,
    UrlPath(portal): UrlPath<String>,
) -> Result<Response, ApiError> {
    let view = operations::view(&control.shared, &portal).await?;
    Ok(axum::Json(view).into_response())
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct TokenQuery {
    min_valid: Option<String>,
    format: Option<String>,
}

async fn token(
    Extract(control): Extract<Control>,
    Extension(peer): Extension<Peer>,
    UrlPath(portal): UrlPath<String>,
    query: Result<Query<TokenQuery>, QueryRejection>,
) -> Result<Response, ApiError> {
    let bad = |message: String| ApiError::new(StatusCode::BAD_REQUEST, "bad-request", message);
    let Query(query) = query.map_err(|rejection| bad(rejection.body_text()))?;
    let min_valid = match query.min_valid.as_deref().map(humantime::parse_duration) {
        None => Duration::ZERO,
        Some(Ok(span)) => span,
        Some(Err(error)) => {
            return Err(bad(format!("min_valid is no duration such as 5m: {error}")));
        }
    };
    let format = query.format.as_deref().unwrap_or("json");
    let format = Format::parse(format)
        .ok_or_else(|| bad("format is one of json, raw, header, env".to_owned()))?;
    let _waiting = control.wait(peer)?;
    let text =
        operations::token(&control.shared, &portal, min_valid, format, Driver::Daemon).await?;
    let kind = if format == Format::Json {
        "application/json"
    } else {
        "text/plain; charset=utf-8"
    };
    Ok((
        [
            (header::CONTENT_TYPE, kind),
            (header::CACHE_CONTROL, "no-store"),
        ],
        text,
    )
        .into_response())
}

async fn renew(
    Extract(control): Extract<Control>,
    Extension(peer): Extension<Peer>,
    UrlPath(portal): UrlPath<String>,
) -> Result<Response, ApiError> {
    let _waiting = control.wait(peer)?;
    let renewal = operations::renew(&control.shared, &portal, Driver::Daemon).await?;
    let (view, reply) = operations::outcome(&control.shared, &portal).await?;
    let outcome = outcome_json(&renewal, &view, reply.as_ref());
    let failed = matches!(&renewal, RenewalResult::Ended(report) if report.failure.is_some());
    let status = if failed {
        StatusCode::SERVICE_UNAVAILABLE
    } else {
        StatusCode::OK
    };
    Ok((status, axum::Json(outcome)).into_response())
}

/// What `renew` says, in JSON: over the socket, and from `renew --json` without a daemon.
#[must_use]
pub fn outcome_json(renewal: &RenewalResult, view: &PortalView, reply: Option<&Value>) -> Value {
    let (outcome, detail) = match renewal {
        RenewalResult::FreshAlready { not_before } => (
            "fresh-already",
            Some(format!("not again before {not_before}")),
        ),
        RenewalResult::Ended(report) => match &report.failure {
            None if report.set_aside => ("set-aside", None),
            None => ("renewed", None),
            Some((class, detail)) => (class.as_str(), Some(detail.clone())),
        },
    };
    json!({"portal": view.portal, "outcome": outcome, "detail": detail, "reply": reply, "status": view})
}

async fn import(
    Extract(control): Extract<Control>,
    Extension(peer): Extension<Peer>,
    UrlPath(portal): UrlPath<String>,
    query: Result<Query<ImportQuery>, QueryRejection>,
    body: Result<String, StringRejection>,
) -> Result<Response, ApiError> {
    peer.may_change()?;
    let bad = |rejection: QueryRejection| {
        ApiError::new(
            StatusCode::BAD_REQUEST,
            "bad-request",
            rejection.body_text(),
        )
    };
    let Query(ImportQuery { replace, aside_of }) = query.map_err(bad)?;
    let body = body.map_err(|rejection| {
        ApiError::new(rejection.status(), "not-a-grant", rejection.body_text())
    })?;
    let (shared, name) = (Arc::clone(&control.shared), portal.clone());
    let import = async move {
        Ok(match aside_of {
            Some(at) => {
                grant_import::import_superseded(&shared, &name, &at, replace, Driver::Daemon)
                    .await?
            }
            None => grant_import::import(&shared, &name, &body, replace, Driver::Daemon).await?,
        })
    };
    let imported = control.change(import).await?;
    let (view, _) = operations::outcome(&control.shared, &portal).await?;
    Ok((
        status_of(&imported),
        axum::Json(imported_json(&imported, &view)),
    )
        .into_response())
}

const fn status_of(imported: &ImportOutcome) -> StatusCode {
    match imported.proof {
        ImportResult::TakenIn | ImportResult::SetAside => StatusCode::OK,
        ImportResult::Refused(_) => StatusCode::CONFLICT,
        ImportResult::Waits { .. } => StatusCode::ACCEPTED,
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ImportQuery {
    /// Whether the grant may be another owner's than the present one.
    #[serde(default)]
    replace: bool,
    /// The portal at which the pair was put aside that is to be taken in, instead of what the body holds.
    aside_of: Option<String>,
}

/// What `import` says, in JSON: over the socket, and from `import --json` without a daemon.
#[must_use]
pub fn imported_json(imported: &ImportOutcome, view: &PortalView) -> Value {
    let ImportOutcome {
        proof,
        generation,
        had_grant,
    } = imported;
    let (outcome, detail, again_at) = match proof {
        ImportResult::TakenIn => ("renewed", None, None),
        ImportResult::Refused(why) => ("refused", Some(why), None),
        ImportResult::Waits { problem, act_at } => ("pending", Some(problem), *act_at),
        ImportResult::SetAside => ("superseded", None, None),
    };
    json!({
        "portal": view.portal, "outcome": outcome, "generation": generation.0, "detail": detail,
        "again_at": again_at.map(|at| at.to_string()), "kept": *had_grant && !matches!(proof, ImportResult::TakenIn),
        "identity": view.identity, "endpoint": view.endpoint, "status": view,
    })
}

async fn forget(
    Extract(control): Extract<Control>,
    Extension(peer): Extension<Peer>,
    UrlPath(portal): UrlPath<String>,
    query: Result<Query<ForgetQuery>, QueryRejection>,
) -> Result<Response, ApiError> {
    peer.may_change()?;
    let bad = |rejection: QueryRejection| {
        ApiError::new(
            StatusCode::BAD_REQUEST,
            "bad-request",
            rejection.body_text(),
        )
    };
    let Query(ForgetQuery { revoke }) = query.map_err(bad)?;
    let (shared, name) = (Arc::clone(&control.shared), portal.clone());
    let forget = async move { Ok(store::forget(&shared, &name, revoke).await?) };
    let forgotten = control.change(forget).await?;
    Ok(axum::Json(json!({"portal": portal, "forgotten": forgotten})).into_response())
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ForgetQuery {
    #[serde(default)]
    revoke: bool,
}

async fn introspect(
    Extract(control): Extract<Control>,
    UrlPath(portal): UrlPath<String>,
) -> Result<Response, ApiError> {
    Ok(axum::Json(introspect::introspect(&control.shared, &portal).await?).into_response())
}

async fn reload(
    Extract(control): Extract<Control>,
    Extension(peer): Extension<Peer>,
) -> Result<Response, ApiError> {
    peer.may_change()?;
    let (shared, reloader) = (Arc::clone(&control.shared), Arc::clone(&control.reloader));
    let reload = async move {
        let done = reloader.reload(&shared).await;
        done.map_err(|problems| {
            ApiError::new(StatusCode::UNPROCESSABLE_ENTITY, "configuration", problems)
        })
    };
    control.change(reload).await?;
    Ok(axum::Json(json!({"reloaded": true})).into_response())
}
