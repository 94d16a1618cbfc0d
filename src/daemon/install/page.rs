//! Page for the browser of the user who installs an app: completes the installation.
//!
//! Must not show anything of the event, and must not run any script but the profile's.

use aws_lc_rs::digest;
use axum::http::StatusCode;
use axum::response::Response;
use base64::Engine as _;
use maud::{Markup, PreEscaped, html};

use crate::daemon::http::document::{self, Document};
use refreshd_token_client::provider::origin_of;
use refreshd_token_client::quirks::InstallFields;

/// A page with one sentence.
pub(crate) fn plain(status: StatusCode, sentence: &str) -> Response {
    let page = rendered(sentence, &html! {});
    document::response(status, page, document::NO_SCRIPTS)
}

fn rendered(sentence: &str, scripts: &Markup) -> String {
    let document = Document {
        title: "",
        style: "",
        head: html! {},
        body: html! { p { (sentence) } (scripts) },
    };
    document.render()
}

/// Page of an app that was opened or is being installed at `host`, which may frame it.
pub(crate) fn finish(form: &InstallFields, host: Option<&str>) -> Response {
    let InstallFields {
        check: _,
        admin: _,
        script,
        run,
    } = form;
    let scripts = html! {
        @if let Some(script) = script { script src=(script) {} }
        @if let Some(run) = run { script { (PreEscaped(run)) } }
    };
    let page = rendered("The app is connected. This page may be closed.", &scripts);
    let policy = policy(script.as_deref(), run.as_deref(), host);
    document::response(StatusCode::OK, page, &policy)
}

/// Content security policy that permits the two scripts, and the portal to frame the page. The host was parsed as one, so
/// it cannot contain another directive.
fn policy(script: Option<&str>, run: Option<&str>, host: Option<&str>) -> String {
    let from = script.and_then(origin_of).unwrap_or_default();
    let hash = run.map(|run| {
        let digest = digest::digest(&digest::SHA256, run.as_bytes());
        format!(
            "'sha256-{}'",
            base64::engine::general_purpose::STANDARD.encode(digest)
        )
    });
    let allowed = format!("{from} {}", hash.unwrap_or_default());
    let allowed = if allowed.trim().is_empty() {
        "'none'"
    } else {
        allowed.trim()
    };
    let framed_by = host.map_or_else(
        || "https:".to_owned(),
        |host| format!("https://{host} http://{host}"),
    );
    format!(
        "default-src 'none'; script-src {allowed}; frame-ancestors {framed_by}; base-uri 'none'; form-action 'none'"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    // The digest was computed with openssl.
    #[test]
    fn the_policy_names_the_script_and_the_portal() {
        let policy = policy(
            Some("https://api.example/v1/"),
            Some("f();"),
            Some("acme.example"),
        );
        assert_eq!(
            policy,
            "default-src 'none'; script-src https://api.example 'sha256-9RATIFdqkCJTNwEc6+pNG0qjxmJA9pKWbaKmy3Jw3G0='; \
             frame-ancestors https://acme.example http://acme.example; base-uri 'none'; form-action 'none'"
        );
        assert!(
            super::policy(None, None, None).contains("script-src 'none'; frame-ancestors https:;")
        );
    }
}
