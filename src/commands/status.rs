//! `refreshd status`: one table, one portal in full, or JSON. Exit 1 if any portal is not fresh.

use std::time::Duration;

use clap::Args;

use super::Common;
use super::exit::{Exit, Failure};
use super::reach::{Reach, not_done, reach};
use super::screen::{self, Look};
use crate::adapters::clock::Clock;
use crate::daemon::view::{PortalView, UnreadReplies};
use crate::domain::portal::{Kind, Problem};
use crate::domain::time::human;

/// How often `--watch` looks.
const EVERY: Duration = Duration::from_secs(1);

#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  refreshd status\n  refreshd status acme\n  refreshd status --watch\n  refreshd status --json | jq '.portals[] | select(.fresh | not)'\n\nExit codes: 0 every portal is fresh, 1 one is not, 64 usage, 66 unknown portal,\n69 daemon unavailable, 77 no permission, 78 configuration."
)]
pub(super) struct Arguments {
    /// Show this portal only, in full.
    portal: Option<String>,
    /// Print JSON.
    #[arg(long)]
    json: bool,
    /// Look again every second until interrupted.
    #[arg(long)]
    watch: bool,
}

pub(super) async fn run(common: &Common, arguments: &Arguments) -> Result<Exit, Failure> {
    loop {
        let portals = list(common, arguments.portal.as_deref()).await?;
        let text = if arguments.json {
            json(&portals)?
        } else {
            match (&arguments.portal, portals.as_slice()) {
                (Some(_), [portal]) => one(portal),
                _ => all(&portals),
            }
        };
        if arguments.watch && screen::is_terminal() {
            // Clear and go home, so that the table stays in place.
            screen::result("\x1b[2J\x1b[H");
        }
        screen::result(&text);
        if !arguments.watch {
            let fresh = portals.iter().all(|portal| portal.fresh);
            return Ok(if fresh { Exit::Done } else { Exit::NotFresh });
        }
        Clock::system().sleep(EVERY).await;
    }
}

async fn list(common: &Common, portal: Option<&str>) -> Result<Vec<PortalView>, Failure> {
    match reach(common).await? {
        Reach::Daemon(client) => client.list(portal).await,
        Reach::Offline(offline) => {
            let portals = offline.list(portal).await.map_err(|error| not_done(&error));
            offline.close().await;
            screen::note("no daemon runs; this is what the state says");
            portals
        }
    }
}

fn json(portals: &[PortalView]) -> Result<String, Failure> {
    let text = serde_json::to_string_pretty(&serde_json::json!({ "portals": portals }));
    text.map(|text| text + "\n").map_err(|_| Failure::new(Exit::Unavailable, "cannot write JSON"))
}

fn all(portals: &[PortalView]) -> String {
    if portals.is_empty() {
        return "no portals; name one in the configuration\n".to_owned();
    }
    let heading = ["PORTAL", "PHASE", "EXPIRES IN", "RENEWED", "NEXT RENEWAL", "LAST ERROR", "INCIDENT"];
    let rows = portals.iter().map(|portal| {
        vec![
            (portal.portal.clone(), Look::Plain),
            (portal.phase.as_str().to_owned(), look(portal)),
            (expires_in(portal), if portal.expires_in == Some(0) { Look::Bad } else { Look::Plain }),
            (ago(portal.renewed_ago), Look::Quiet),
            (next(portal), Look::Plain),
            (last_error(portal), Look::Plain),
            (dash(portal.incident.join(", ")), look(portal)),
        ]
    });
    let mut text = screen::table(&heading, rows.collect());
    let actions: Vec<_> =
        portals.iter().filter_map(|portal| Some((portal, portal.action.as_ref()?))).collect();
    if !actions.is_empty() {
        text.push('\n');
    }
    for (portal, action) in actions {
        text.push_str(&format!("{}: {action}\n", portal.portal));
    }
    for (portal, kept) in portals.iter().filter_map(|portal| Some((portal, portal.unread_replies.as_ref()?)))
    {
        text.push_str(&format!("{}: {}\n", portal.portal, kept.text()));
    }
    text
}

fn one(portal: &PortalView) -> String {
    let mut lines = vec![
        ("portal", portal.portal.clone()),
        ("provider", portal.provider.clone().unwrap_or_default()),
        ("app", portal.app.clone().unwrap_or_default()),
        ("phase", portal.phase.as_str().to_owned()),
        ("expires in", with_time(expires_in(portal), portal.expires_at.as_deref())),
        ("renewed", with_time(ago(portal.renewed_ago), portal.renewed_at.as_deref())),
        ("next renewal", with_time(next(portal), portal.next_renewal.as_deref())),
        ("generation", portal.generation.to_string()),
        ("endpoint", portal.endpoint.clone().unwrap_or_default()),
        ("last error", portal.last_error.as_ref().map(Problem::text).unwrap_or_default()),
        ("waits", waits(portal).unwrap_or_default()),
        ("incident", dash(portal.incident.join(", "))),
        ("to do", portal.action.clone().unwrap_or_default()),
        ("kept", portal.unread_replies.as_ref().map(UnreadReplies::text).unwrap_or_default()),
    ];
    lines.retain(|(_, value)| !value.is_empty() && value != "-");
    lines.iter().map(|(name, value)| format!("{name:<13} {value}\n")).collect()
}

fn look(portal: &PortalView) -> Look {
    match portal.phase {
        Kind::Fresh if portal.fresh => Look::Good,
        Kind::Fresh | Kind::Retrying | Kind::InDoubt => Look::Warning,
        Kind::AwaitingAuthorization | Kind::Unconfigured => Look::Quiet,
        Kind::ClientRejected
        | Kind::Blocked
        | Kind::NeedsAuthorization
        | Kind::Gone
        | Kind::OldState
        | Kind::ClientChanged
        | Kind::Unreadable => Look::Bad,
    }
}

fn expires_in(portal: &PortalView) -> String {
    match portal.expires_in {
        None => "-".to_owned(),
        Some(0) => "expired".to_owned(),
        Some(left) => span(left),
    }
}

fn next(portal: &PortalView) -> String {
    match portal.next_renewal_in {
        None => "-".to_owned(),
        Some(0) => "now".to_owned(),
        Some(left) => format!("in {}", span(left)),
    }
}

fn ago(seconds: Option<u64>) -> String {
    seconds.map_or_else(|| "-".to_owned(), |seconds| format!("{} ago", span(seconds)))
}

fn last_error(portal: &PortalView) -> String {
    let error = portal.last_error.as_ref().map(Problem::text);
    error.or_else(|| portal.waits.clone()).unwrap_or_else(|| "-".to_owned())
}

/// Without the word that the line begins with.
fn waits(portal: &PortalView) -> Option<String> {
    portal.waits.as_ref().map(|waits| waits.trim_start_matches("waits: ").to_owned())
}

fn span(seconds: u64) -> String {
    human(Duration::from_secs(seconds))
}

fn dash(text: String) -> String {
    if text.is_empty() { "-".to_owned() } else { text }
}

fn with_time(span: String, time: Option<&str>) -> String {
    match time {
        Some(time) => span + " (" + time + ")",
        None => span,
    }
}
