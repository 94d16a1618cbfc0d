//! The HTML document of every page, with the headers of every page.

use axum::http::{HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use maud::{DOCTYPE, Markup, PreEscaped, html};

/// Content security policy of a page without scripts that must not be framed.
pub const NO_SCRIPTS: &str = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// A page.
pub struct Document<'d> {
    /// Title, after the program's name; empty for the name alone.
    pub title: &'d str,
    /// Style sheet.
    pub style: &'d str,
    /// Further elements of the head.
    pub head: Markup,
    /// Content.
    pub body: Markup,
}

impl Document<'_> {
    /// The page as text.
    #[must_use]
    pub fn render(&self) -> String {
        let Self {
            title,
            style,
            head,
            body,
        } = self;
        let page = html! {
            (DOCTYPE)
            html lang="en" {
                head {
                    meta charset="utf-8";
                    meta name="viewport" content="width=device-width, initial-scale=1";
                    meta name="robots" content="noindex";
                    (head)
                    title { "refreshd" @if !title.is_empty() { ": " (title) } }
                    @if !style.is_empty() { style { (PreEscaped(style)) } }
                }
                body { (body) }
            }
        };
        page.into_string()
    }
}

/// A page as a response: not stored, and without its URL in requests of the browser, since the URL may contain a code.
/// `policy` is its content security policy; an invalid one is replaced by [`NO_SCRIPTS`].
pub fn response(status: StatusCode, page: String, policy: &str) -> Response {
    let policy = HeaderValue::try_from(policy);
    let policy = policy.unwrap_or(HeaderValue::from_static(NO_SCRIPTS));
    let fixed = |name: HeaderName, value| (name, HeaderValue::from_static(value));
    let headers = [
        fixed(header::CONTENT_TYPE, "text/html; charset=utf-8"),
        fixed(header::CACHE_CONTROL, "no-store"),
        fixed(header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        fixed(header::REFERRER_POLICY, "no-referrer"),
        (header::CONTENT_SECURITY_POLICY, policy),
    ];
    (status, headers, page).into_response()
}
