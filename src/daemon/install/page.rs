//! Page for the browser of the user who installs an app: completes the installation.
//!
//! Must not show anything of the event, and must not run any script but the profile's.

use aws_lc_rs::digest;
use axum::http::{HeaderValue, header};
use axum::response::{Html, IntoResponse as _, Response};
use base64::Engine as _;
use maud::{DOCTYPE, Markup, PreEscaped, html};

use refreshd_token_client::provider::origin_of;
use refreshd_token_client::quirks::InstallFields;

/// A page with one sentence.
pub(crate) fn plain(sentence: &str) -> Html<String> {
    Html(document(sentence, &html! {}).into_string())
}

fn document(sentence: &str, scripts: &Markup) -> Markup {
    html! {
        (DOCTYPE)
        html lang="en" {
            head { meta charset="utf-8"; meta name="robots" content="noindex"; title { "refreshd" } }
            body { p { (sentence) } (scripts) }
        }
    }
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
    let page = document("The app is connected. This page may be closed.", &scripts).into_string();
    let mut response = Html(page).into_response();
    let headers = response.headers_mut();
    for (name, value) in [
        (
            header::CONTENT_SECURITY_POLICY,
            policy(script.as_deref(), run.as_deref(), host),
        ),
        (header::CACHE_CONTROL, "no-store".to_owned()),
        (header::REFERRER_POLICY, "no-referrer".to_owned()),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff".to_owned()),
    ] {
        if let Ok(value) = HeaderValue::try_from(value) {
            headers.insert(name, value);
        }
    }
    response
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
