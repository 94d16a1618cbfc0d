//! `refreshd status`: one table, one portal in full, or JSON. Exit 1 if any portal is not fresh.

use std::time::Duration;

use clap::Args;

use super::client::Client;
use super::common::Common;
use super::connect;
use super::exit::{CommandError, Exit};
use super::terminal::{self, TableStyle};
use crate::daemon::grants::portal_view::{CandidateView, PortalView, UnreadReplies};
use refreshd_time::clock::Clock;
use refreshd_time::human;
use refreshd_token_client::problem::Problem;

/// Refresh interval of `--watch`.
const REFRESH_INTERVAL: Duration = Duration::from_secs(1);
/// Maximum number of actions that are kept for the end of a long table.
const MAX_ACTIONS: usize = 1000;

#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  refreshd status\n  refreshd status acme\n  refreshd status --watch\n  refreshd status --json | jq '.portals[] | select(.fresh | not)'\n\nExit codes: 0 every portal is fresh, 1 at least one is not, 64 usage, 66 unknown portal, 69 daemon unavailable, 74 output not written, 77 no permission, 78 configuration."
)]
pub(super) struct Arguments {
    /// Show this portal only, in full.
    portal: Option<String>,
    /// Print JSON.
    #[arg(long)]
    json: bool,
    /// Refresh every second until interrupted.
    #[arg(long)]
    watch: bool,
}

pub(super) async fn run(common: &Common, arguments: &Arguments) -> Result<Exit, CommandError> {
    loop {
        let client = connect::connect_to_read(common).await?;
        if !client.is_daemon() {
            terminal::eprintln("no daemon runs; this is read from the state");
        }
        let shown = show(&client, arguments).await;
        client.close().await;
        let fresh = shown?;
        if !arguments.watch || terminal::is_cut_off() {
            return Ok(if fresh { Exit::Done } else { Exit::NotFresh });
        }
        Clock::system().sleep(REFRESH_INTERVAL).await;
    }
}

/// Shows one portal, or all of them page by page, so that memory does not grow with their number. Returns whether all are fresh.
async fn show(client: &Client, arguments: &Arguments) -> Result<bool, CommandError> {
    let mut out: Box<dyn StatusOutput> = if arguments.json {
        Box::new(JsonOutput { begun: false })
    } else {
        Box::new(TableOutput::default())
    };
    let clear = || {
        if arguments.watch && terminal::is_terminal() {
            // Clear the screen and move the cursor home.
            terminal::print("\x1b[2J\x1b[H");
        }
    };
    if let Some(portal) = &arguments.portal {
        let portals = client.list(Some(portal)).await?;
        clear();
        match portals.as_slice() {
            [portal] if !arguments.json => terminal::print(&one(portal)),
            portals => {
                out.page(portals)?;
                out.end();
            }
        }
        return Ok(portals.iter().all(|portal| portal.fresh));
    }
    let (mut fresh, mut after) = (true, None::<String>);
    loop {
        let (portals, next) = client.page(after.as_deref()).await?;
        if after.is_none() {
            clear();
        }
        fresh &= portals.iter().all(|portal| portal.fresh);
        out.page(&portals)?;
        match next {
            Some(next) => after = Some(next),
            None => break,
        }
    }
    out.end();
    Ok(fresh)
}

/// A listing that is written page by page.
trait StatusOutput: Send {
    fn page(&mut self, portals: &[PortalView]) -> Result<(), CommandError>;
    fn end(&mut self);
}

struct JsonOutput {
    begun: bool,
}

impl StatusOutput for JsonOutput {
    fn page(&mut self, portals: &[PortalView]) -> Result<(), CommandError> {
        let mut text = String::new();
        for portal in portals {
            let view = serde_json::to_value(portal)
                .and_then(|view| serde_json::to_string_pretty(&view))
                .map_err(|_| CommandError::new(Exit::Unavailable, "cannot write JSON"))?;
            text.push_str(if self.begun {
                ",\n    "
            } else {
                "{\n  \"portals\": [\n    "
            });
            self.begun = true;
            text.push_str(&view.replace('\n', "\n    "));
        }
        terminal::print(&text);
        Ok(())
    }

    fn end(&mut self) {
        terminal::print(if self.begun {
            "\n  ]\n}\n"
        } else {
            "{\n  \"portals\": []\n}\n"
        });
    }
}

/// A table, followed by the actions for the operator.
#[derive(Default)]
struct TableOutput {
    listed: usize,
    actions: Vec<String>,
    more: usize,
}

impl StatusOutput for TableOutput {
    fn page(&mut self, portals: &[PortalView]) -> Result<(), CommandError> {
        let text = table(portals);
        // The heading is printed once.
        let skipped = if self.listed > 0 {
            text.find('\n').map_or(0, |end| end + 1)
        } else {
            0
        };
        if !portals.is_empty() {
            terminal::print(&text[skipped..]);
        }
        self.listed += portals.len();
        for portal in portals {
            let line = |text: String| format!("{}: {text}\n", portal.portal);
            let kept = portal.unread_replies.as_ref().map(UnreadReplies::text);
            let candidate = portal
                .candidate
                .as_ref()
                .map(|candidate| format!("a candidate was {}", candidate.text()));
            let details = [
                portal.action.clone(),
                portal.notice.clone(),
                candidate,
                kept,
            ];
            for line in details.into_iter().flatten().map(line) {
                if self.actions.len() < MAX_ACTIONS {
                    self.actions.push(line);
                } else {
                    self.more += 1;
                }
            }
        }
        Ok(())
    }

    fn end(&mut self) {
        if self.listed == 0 {
            terminal::print("no portals; name one in the configuration\n");
        }
        if self.actions.is_empty() {
            return;
        }
        terminal::print(&format!("\n{}", self.actions.concat()));
        if self.more > 0 {
            terminal::print(&format!(
                "… and {} more; see: refreshd status PORTAL\n",
                self.more
            ));
        }
    }
}

fn table(portals: &[PortalView]) -> String {
    let heading = [
        "PORTAL",
        "PHASE",
        "EXPIRES IN",
        "RENEWED",
        "NEXT RENEWAL",
        "LAST ERROR",
        "INCIDENT",
    ];
    let rows = portals.iter().map(|portal| {
        vec![
            (portal.portal.clone(), TableStyle::Plain),
            (portal.phase.as_str().to_owned(), portal.level().into()),
            (
                expires_in(portal),
                if portal.expires_in == Some(0) {
                    TableStyle::Bad
                } else {
                    TableStyle::Plain
                },
            ),
            (ago(portal.renewed_ago), TableStyle::Quiet),
            (next(portal), TableStyle::Plain),
            (last_error(portal), TableStyle::Plain),
            (dash(portal.incident.join(", ")), portal.level().into()),
        ]
    });
    terminal::table(&heading, rows.collect())
}

fn one(portal: &PortalView) -> String {
    let mut lines = vec![
        ("portal", portal.portal.clone()),
        ("provider", portal.provider.clone().unwrap_or_default()),
        ("app", portal.app.clone().unwrap_or_default()),
        ("phase", portal.phase.as_str().to_owned()),
        (
            "expires in",
            with_time(expires_in(portal), portal.expires_at.as_deref()),
        ),
        (
            "renewed",
            with_time(ago(portal.renewed_ago), portal.renewed_at.as_deref()),
        ),
        ("refresh token", refresh_end(portal)),
        (
            "next renewal",
            with_time(next(portal), portal.next_renewal.as_deref()),
        ),
        ("generation", portal.generation.to_string()),
        ("endpoint", portal.endpoint.clone().unwrap_or_default()),
        ("identity", portal.identity.clone().unwrap_or_default()),
        (
            "last error",
            portal
                .last_error
                .as_ref()
                .map(Problem::text)
                .unwrap_or_default(),
        ),
        ("waits", waits(portal).unwrap_or_default()),
        (
            "candidate",
            portal
                .candidate
                .as_ref()
                .map(CandidateView::text)
                .unwrap_or_default(),
        ),
        ("incident", dash(portal.incident.join(", "))),
        ("notice", portal.notice.clone().unwrap_or_default()),
        ("to do", portal.action.clone().unwrap_or_default()),
        (
            "kept",
            portal
                .unread_replies
                .as_ref()
                .map(UnreadReplies::text)
                .unwrap_or_default(),
        ),
    ];
    lines.retain(|(_, value)| !value.is_empty() && value != "-");
    lines
        .iter()
        .map(|(name, value)| format!("{name:<13} {value}\n"))
        .collect()
}

fn expires_in(portal: &PortalView) -> String {
    match portal.expires_in {
        None => "-".to_owned(),
        Some(0) => "expired".to_owned(),
        Some(left) => span(left),
    }
}

/// The refresh token's own end, and whether renewals move it.
fn refresh_end(portal: &PortalView) -> String {
    let Some(left) = portal.refresh_expires_in else {
        return String::new();
    };
    let ends = if left == 0 {
        "ended".to_owned()
    } else {
        format!("ends in {}", span(left))
    };
    let motion = match portal.refresh_end.as_deref() {
        Some("moves") => ", each renewal moves that",
        Some("fixed") => ", no renewal moves that",
        Some("short") => ", sooner than a renewal may come",
        _ => "",
    };
    with_time(ends, portal.refresh_expires_at.as_deref()) + motion
}

fn next(portal: &PortalView) -> String {
    match portal.next_renewal_in {
        None => "-".to_owned(),
        Some(0) => "now".to_owned(),
        Some(left) => format!("in {}", span(left)),
    }
}

fn ago(seconds: Option<u64>) -> String {
    seconds.map_or_else(
        || "-".to_owned(),
        |seconds| format!("{} ago", span(seconds)),
    )
}

fn last_error(portal: &PortalView) -> String {
    let error = portal.last_error.as_ref().map(Problem::text);
    error
        .or_else(|| portal.waits.clone())
        .unwrap_or_else(|| "-".to_owned())
}

/// Without the first word of the line.
fn waits(portal: &PortalView) -> Option<String> {
    portal
        .waits
        .as_ref()
        .map(|waits| waits.trim_start_matches("waits: ").to_owned())
}

fn span(seconds: u64) -> String {
    human(Duration::from_secs(seconds))
}

fn dash(text: String) -> String {
    if text.is_empty() {
        "-".to_owned()
    } else {
        text
    }
}

fn with_time(span: String, time: Option<&str>) -> String {
    match time {
        Some(time) => span + " (" + time + ")",
        None => span,
    }
}
