//! The status page: shows at a glance whether anything is wrong, and what to do. Must not show a secret or need a script.

use maud::{Markup, html};

use crate::adapters::state::{Census, StateError};
use crate::daemon::alerts::alert_views::{IncidentView, open};
use crate::daemon::context::Context;
use crate::daemon::grants::portal_view::{self, PortalView};
use crate::daemon::http::document::Document;
use crate::domain::display_level::DisplayLevel;
use crate::domain::portal::Kind;
use refreshd_time::human;

/// Maximum number of portals listed; `refreshd status` lists the rest.
const MAX_LISTED: usize = 500;

const STYLE: &str = "\
:root{color-scheme:light dark;font:15px/1.5 system-ui,sans-serif}\
body{max-width:70rem;margin:2rem auto;padding:0 1rem}\
h1{font-size:1.4rem;margin:0}p.sum{margin:.3rem 0 1.2rem;opacity:.8}\
table{border-collapse:collapse;width:100%}table.i{margin-bottom:1.6rem}th,td{text-align:left;padding:.45rem .6rem;vertical-align:top}\
th{font-weight:600;border-bottom:2px solid #8885}td{border-bottom:1px solid #8883}\
td.n{white-space:nowrap;font-variant-numeric:tabular-nums}\
.b{border-radius:.6rem;padding:.05rem .55rem;color:#fff;white-space:nowrap;font-size:.85rem}\
.good{background:#18794e}.warn{background:#ad5700}.bad{background:#c62a2f}.idle{background:#60646c}\
.why{font-size:.88rem;opacity:.85}code{font-size:.92em}footer{margin-top:1.5rem;font-size:.88rem;opacity:.75}";

/// Renders the page as of now.
///
/// # Errors
/// If the state cannot be read.
pub async fn render(shared: &Context) -> Result<String, StateError> {
    let now = shared.clock.now();
    let census = shared.state.census(now).await?;
    let portals = shared.state.first_portals(MAX_LISTED).await?;
    let mut views = portal_view::views(shared, &portals).await?;
    views.sort_by_key(|view| (view.level(), view.portal.clone()));
    Ok(page(&census, &views, &open(shared), &now.to_string()))
}

const fn class_of(level: DisplayLevel) -> &'static str {
    match level {
        DisplayLevel::Bad => "bad",
        DisplayLevel::Warning => "warn",
        DisplayLevel::Idle => "idle",
        DisplayLevel::Good => "good",
    }
}

fn page(census: &Census, views: &[PortalView], incidents: &[IncidentView], now: &str) -> String {
    let total = census.total();
    let fresh = census.of(Kind::Fresh);
    let title = format!("{fresh} of {total} fresh");
    let body = html! {
        h1 { "refreshd" }
        p.sum {
            (fresh) " of " (total) " portals fresh"
            @if census.overdue > 0 { ", " (census.overdue) " overdue" }
            ", as of " (now)
        }
        @if !incidents.is_empty() { (open_incidents(incidents)) }
        table {
            thead { tr { th { "Portal" } th { "Phase" } th { "Expires in" } th { "Renewed" } th { "Next" } th { "What is wrong, and what to do" } } }
            tbody { @for view in views { (row(view)) } }
        }
        @if total > views.len() as u64 {
            p { "The first " (views.len()) " are listed; all of them: " code { "refreshd status" } }
        }
        footer { a href="/metrics" { "metrics" } " · " a href="/readyz" { "readyz" } " · " a href="/livez" { "livez" } " · this page renews itself every 5 s" }
    };
    let document = Document {
        title: &title,
        style: STYLE,
        head: html! { meta http-equiv="refresh" content="5"; },
        body,
    };
    document.render()
}

/// Open incidents, the most severe first.
fn open_incidents(incidents: &[IncidentView]) -> Markup {
    html! {
        table.i {
            thead { tr { th { "Incident" } th { "Severity" } th { "Since" } th { "Notified" } th { "What is wrong, and what to do" } } }
            tbody {
                @for incident in incidents {
                    tr {
                        td { strong { (incident.key) } @if incident.count > 1 { br; span.why { (incident.count) " portals" } } }
                        td { span class={ "b " (class_of(DisplayLevel::of_severity(incident.severity))) } { (incident.severity.as_str()) } @if incident.stage != "open" { br; span.why { (incident.stage) } } }
                        td.n { (incident.since) }
                        td { @if incident.notified.is_empty() { "the log" } @else { (incident.notified.join(", ")) } }
                        td { div { (incident.reason) } @if let Some(action) = &incident.action { div.why { "→ " (action) } } }
                    }
                }
            }
        }
    }
}

/// Remaining lifetime of the refresh token, and whether renewals extend it.
fn refresh_end(view: &PortalView) -> String {
    let fixed = if view.refresh_end.as_deref() == Some("fixed") {
        ", whatever is renewed"
    } else {
        ""
    };
    match view.refresh_expires_in {
        None => String::new(),
        Some(_) if view.refresh_end.as_deref() == Some("short") => {
            "ends sooner than a renewal may come".to_owned()
        }
        Some(0) => "ended".to_owned(),
        Some(left) => human(std::time::Duration::from_secs(left)) + fixed,
    }
}

fn row(view: &PortalView) -> Markup {
    let span = |secs: Option<u64>| secs.map(|secs| human(std::time::Duration::from_secs(secs)));
    html! {
        tr {
            td { strong { (view.portal) } @if let Some(provider) = &view.provider { br; span.why { (provider) } } }
            td { span class={ "b " (class_of(view.level())) } { (view.phase.as_str()) } }
            td.n {
                @match view.expires_in { Some(0) => "expired", left => (span(left).unwrap_or_else(|| "–".into())) }
                @if let Some(at) = &view.refresh_expires_at { br; span.why title=(at) { "refresh token " (refresh_end(view)) } }
            }
            td.n { (span(view.renewed_ago).map_or_else(|| "–".into(), |ago| format!("{ago} ago"))) }
            td.n { @match view.next_renewal_in { Some(0) => "due", left => (span(left).unwrap_or_else(|| "–".into())) } }
            td {
                @if let Some(problem) = &view.last_error {
                    div { @if let Some(code) = &problem.code { code { (code) } " " } (problem.detail) }
                    @if let Some(more) = problem.more() { div.why { (more) } }
                }
                @if let Some(waits) = &view.waits { div { (waits) } }
                @if let Some(notice) = &view.notice { div { (notice) } }
                @if let Some(candidate) = &view.candidate { div.why { "candidate: " (candidate.text()) } }
                @if let Some(action) = &view.action { div.why { "→ " (action) } }
                @if let Some(kept) = &view.unread_replies { div.why { (kept.text()) } }
            }
        }
    }
}
