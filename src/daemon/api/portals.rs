//! Routes of portals: list, show, renew, import, forget.
//!
//! Must not decide: `grants` does. Users who can open the socket may read, get a token and request a renewal; only root and
//! the daemon's own user may import or forget a grant.

use std::sync::Arc;
use std::time::Duration;

use axum::Extension;
use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::rejection::{BytesRejection, QueryRejection};
use axum::extract::{Path as UrlPath, Query, State as Extract};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use futures_util::stream;
use serde::Deserialize;
use serde_json::json;

use crate::adapters::state::{PortalPages, StateError};
use crate::daemon::api::control::Control;
use crate::daemon::api::error::{ApiError, ErrorCode};
use crate::daemon::api::outcomes::{imported_json, outcome_json, status_of};
use crate::daemon::api::peer::Peer;
use crate::daemon::context::Context;
use crate::daemon::grants::import as grant_import;
use crate::daemon::grants::introspect as introspection;
use crate::daemon::grants::operations::{self, RenewalResult};
use crate::daemon::grants::portal_view;
use crate::daemon::grants::store::{self, Forgotten};
use crate::domain::name::PortalName;
use crate::domain::token_format::TokenFormat;

/// Portals read at a time.
const PAGE: usize = 100;
/// Portals in one response: the default, and the maximum of `limit`.
pub const LISTING_LIMITS: (usize, usize) = (1000, 10_000);

pub(crate) fn routes() -> Router<Control> {
    Router::new()
        .route("/v1/portals", get(list))
        .route("/v1/portals/{portal}", get(show))
        .route("/v1/portals/{portal}/token", get(token))
        .route("/v1/portals/{portal}/renew", post(renew))
        .route("/v1/portals/{portal}/grant", post(import).delete(forget))
        .route("/v1/portals/{portal}/introspect", post(introspect))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ListQuery {
    limit: Option<usize>,
    after: Option<String>,
}

/// Lists portals ordered by name, those after `after`, at most `limit`; `next` is present if there are more. Streamed in
/// pages: memory grows neither with the number of portals nor with `limit`.
async fn list(
    Extract(control): Extract<Control>,
    Extension(peer): Extension<Peer>,
    query: Result<Query<ListQuery>, QueryRejection>,
) -> Result<Response, ApiError> {
    let bad = |message: String| ApiError::bad_request(message);
    let Query(ListQuery { limit, after }) = query?;
    let (usual, most) = LISTING_LIMITS;
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
    let pages = control.shared.state.portals().after(after);
    let begin = PortalStream::At {
        pages: pages.limit(limit).in_pages_of(PAGE),
        shared: control.shared,
        first: true,
    };
    // The permit is released when the last page has been read.
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

/// Next page of a listing, and its continuation.
async fn next_piece(listing: PortalStream) -> Option<(Result<String, StateError>, PortalStream)> {
    let PortalStream::At {
        shared,
        mut pages,
        first,
    } = listing
    else {
        return None;
    };
    // A truncated response is no valid JSON, so the client notices the error.
    let page = match pages.next().await {
        Ok(page) => page?,
        Err(error) => return Some((Err(error), PortalStream::Ended)),
    };
    let views = match portal_view::views(&shared, &page.portals).await {
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
    if !pages.has_ended() {
        let rest = PortalStream::At {
            shared,
            pages,
            first: false,
        };
        return Some((Ok(text), rest));
    }
    text.push_str("\n]");
    if let Some(next) = page.next {
        text.push_str(&format!(",\"next\":{}", json!(next.as_str())));
    }
    text.push_str("}\n");
    Some((Ok(text), PortalStream::Ended))
}

/// Position of a listing.
enum PortalStream {
    At {
        shared: Arc<Context>,
        pages: PortalPages,
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
    let bad = |message: String| ApiError::bad_request(message);
    let Query(query) = query?;
    let min_valid = match query.min_valid.as_deref().map(humantime::parse_duration) {
        None => Duration::ZERO,
        Some(Ok(span)) => span,
        Some(Err(error)) => {
            return Err(bad(format!("min_valid is no duration such as 5m: {error}")));
        }
    };
    let format = query.format.as_deref().unwrap_or("json");
    let format = format
        .parse::<TokenFormat>()
        .map_err(|_| bad(format!("format is one of {}", TokenFormat::names())))?;
    let _waiting = control.wait(peer)?;
    let text =
        operations::token(&control.shared, &portal, min_valid, format, &control.driver).await?;
    let kind = if format == TokenFormat::Json {
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
    let renewal = operations::renew(&control.shared, &portal, &control.driver).await?;
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

async fn import(
    Extract(control): Extract<Control>,
    Extension(peer): Extension<Peer>,
    UrlPath(portal): UrlPath<String>,
    query: Result<Query<ImportQuery>, QueryRejection>,
    body: Result<Bytes, BytesRejection>,
) -> Result<Response, ApiError> {
    control.may_change(peer)?;
    let Query(ImportQuery { replace, aside_of }) = query?;
    let body = body.map_err(|rejection| ApiError::of_bytes(ErrorCode::NotAGrant, &rejection))?;
    let (shared, driver) = (Arc::clone(&control.shared), control.driver.clone());
    let name = portal.clone();
    let import = async move {
        Ok(match aside_of {
            Some(at) => {
                grant_import::import_superseded(&shared, &name, &at, replace, &driver).await?
            }
            None => grant_import::import(&shared, &name, &body, replace, &driver).await?,
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

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ImportQuery {
    /// Whether the grant may belong to another owner than the present one.
    #[serde(default)]
    replace: bool,
    /// Portal at which the superseded pair is stored that is to be imported, instead of the body.
    aside_of: Option<String>,
}

async fn forget(
    Extract(control): Extract<Control>,
    Extension(peer): Extension<Peer>,
    UrlPath(portal): UrlPath<String>,
    query: Result<Query<ForgetQuery>, QueryRejection>,
) -> Result<Response, ApiError> {
    control.may_change(peer)?;
    let Query(ForgetQuery { revoke }) = query?;
    let (shared, name) = (Arc::clone(&control.shared), portal.clone());
    let forget = async move { Ok(store::forget(&shared, &name, revoke).await?) };
    let Forgotten { had_grant, left } = control.change(forget).await?;
    let mut reply = json!({"portal": portal, "forgotten": had_grant});
    if let (Some(left), Some(reply)) = (left, reply.as_object_mut()) {
        reply.insert("left".to_owned(), left.into());
    }
    Ok(axum::Json(reply).into_response())
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
    Ok(axum::Json(introspection::introspect(&control.shared, &portal).await?).into_response())
}
