//! `refreshd alert list` and `acknowledge`: open incidents, silences, channel health; and acknowledgement.

use clap::Args;

use super::client::Client;
use super::common::Common;
use super::connect;
use super::exit::{CommandError, Exit};
use super::terminal::{self, TableStyle};
use crate::daemon::alerts::alert_views::{AlertsView, ChannelView, IncidentView};
use crate::domain::display_level::DisplayLevel;

#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  refreshd alert list\n  refreshd alert list --json | jq '.incidents[] | select(.severity == \"critical\")'\n\nExit codes: 0 no incident is open, 1 at least one, 64 usage, 69 no daemon, 74 output not written, 77 no permission, 78 configuration."
)]
pub(super) struct ListArguments {
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  refreshd alert acknowledge acme\n  refreshd alert acknowledge server/oauth.bitrix.info\n\nAn acknowledged incident is not notified again until its severity rises or another action is needed.\n\nExit codes: 0 done, 64 usage, 66 no such incident, 69 no daemon, 74 output not written, 77 no permission, 78 configuration."
)]
pub(super) struct AcknowledgeArguments {
    /// A portal, or an incident's key as `refreshd alert list` shows it.
    incident: String,
}

pub(super) async fn list(common: &Common, arguments: &ListArguments) -> Result<Exit, CommandError> {
    let report = daemon(common).await?.alerts().await?;
    if arguments.json {
        let text = serde_json::to_string_pretty(&report).unwrap_or_default();
        terminal::print(&(text + "\n"));
    } else {
        terminal::print(&text(&report));
    }
    Ok(if report.incidents.is_empty() {
        Exit::Done
    } else {
        Exit::NotFresh
    })
}

pub(super) async fn acknowledge(
    common: &Common,
    arguments: &AcknowledgeArguments,
) -> Result<Exit, CommandError> {
    let incident = &arguments.incident;
    let count = daemon(common).await?.acknowledge(incident).await?;
    let noun = if count == 1 {
        "incident is"
    } else {
        "incidents are"
    };
    terminal::eprintln(&format!(
        "{incident}: {count} {noun} acknowledged; not notified again until it gets worse"
    ));
    Ok(Exit::Done)
}

/// Incidents exist only in a running daemon.
async fn daemon(common: &Common) -> Result<Client, CommandError> {
    if let Some(client) = connect::daemon(common).await? {
        return Ok(client);
    }
    connect::load(common)?;
    let message = "no daemon runs, so no notifications are sent; see refreshd status";
    Err(CommandError::new(Exit::Unavailable, message))
}

fn text(report: &AlertsView) -> String {
    let AlertsView {
        incidents,
        silences,
        channels,
    } = report;
    let mut text = String::new();
    if incidents.is_empty() {
        text.push_str("no incident is open\n");
    } else {
        let heading = [
            "INCIDENT", "SEVERITY", "STAGE", "SINCE", "PORTALS", "NOTIFIED", "WHAT",
        ];
        text.push_str(&terminal::table(
            &heading,
            incidents.iter().map(incident).collect(),
        ));
        text.push('\n');
        for IncidentView { key, action, .. } in incidents {
            if let Some(action) = action {
                text.push_str(&format!("{key}: {action}\n"));
            }
        }
    }
    for silence in silences {
        let what = if silence.portal == "*" {
            "everything"
        } else {
            &silence.portal
        };
        text.push_str(&format!("silenced: {what}, until {}\n", silence.until));
    }
    if channels.is_empty() {
        text.push_str("no channel is configured: incidents go to the log only\n");
    }
    for ChannelView {
        channel,
        kind,
        waiting,
        failing_since,
        why,
    } in channels
    {
        let state = match (failing_since, why) {
            (Some(since), Some(why)) => format!("fails since {since}: {why}"),
            _ => "ok".to_owned(),
        };
        let waiting = if *waiting > 0 {
            format!(", {waiting} waiting")
        } else {
            String::new()
        };
        text.push_str(&format!("channel {channel} ({kind}): {state}{waiting}\n"));
    }
    text
}

fn incident(incident: &IncidentView) -> Vec<(String, TableStyle)> {
    let style = DisplayLevel::of_severity(incident.severity).into();
    let notified = if incident.notified.is_empty() {
        "-".to_owned()
    } else {
        incident.notified.join(", ")
    };
    vec![
        (incident.key.clone(), TableStyle::Plain),
        (incident.severity.as_str().to_owned(), style),
        (incident.stage.clone(), TableStyle::Plain),
        (incident.since.clone(), TableStyle::Quiet),
        (incident.count.to_string(), TableStyle::Plain),
        (notified, TableStyle::Plain),
        (incident.reason.clone(), TableStyle::Plain),
    ]
}
