//! `refreshd renew`: renews one portal, several or all now, and prints each outcome. Exit 1 if one was not renewed.

use clap::Args;
use futures_util::stream::{self, StreamExt as _};
use serde_json::{Value, json};

use super::client::Client;
use super::common::Common;
use super::connect::{connect_to_grants, connect_to_read};
use super::exit::{CommandError, Exit};
use super::terminal;
use crate::daemon::grants::portal_view::PortalView;
use crate::domain::portal::Kind;
use refreshd_token_client::problem::Problem;

/// Number of concurrent requests; the daemon's own budget applies as well.
const MAX_CONCURRENT: usize = 32;

#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  refreshd renew acme\n  refreshd renew acme globex --json\n  refreshd renew --all\n\nExit codes: 0 renewed, or renewed a moment ago, 1 a portal was not renewed, 64 usage, 66 unknown portal, 69 daemon unavailable, 74 output not written, 75 no grant to renew, 77 no permission, 78 configuration."
)]
pub(super) struct Arguments {
    /// The portals.
    #[arg(required_unless_present = "all")]
    portals: Vec<String>,
    /// Every portal of the configuration; portals that cannot be renewed are listed.
    #[arg(long, conflicts_with = "portals")]
    all: bool,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

const NONE_RENEWABLE: &str = "no portal has a grant that could be renewed; see refreshd status";

pub(super) async fn run(common: &Common, arguments: &Arguments) -> Result<Exit, CommandError> {
    let client = match connect_to_grants(common).await {
        Ok(client) => client,
        // Without a state nothing can be renewed, and each portal is listed.
        Err(failure) if arguments.all && failure.exit() == Exit::TryAgain => {
            terminal::eprintln(NONE_RENEWABLE);
            return Ok(report(
                arguments,
                &configured_portals(common).await?,
                Vec::new(),
                Exit::Done,
            ));
        }
        Err(failure) => return Err(failure),
    };
    let (names, left) = if arguments.all {
        partition_renewable(client.list(None).await?)
    } else {
        (arguments.portals.clone(), Vec::new())
    };
    if names.is_empty() {
        terminal::eprintln(NONE_RENEWABLE);
    }
    let outcomes = renew_each(&client, &names).await;
    let mut exit = Exit::Done;
    let mut answers = Vec::new();
    for (name, outcome) in outcomes {
        match outcome {
            Ok(outcome) => {
                if !arguments.json {
                    terminal::eprintln(&sentence(name, &outcome));
                }
                if !is_good(&outcome) {
                    exit = Exit::NotFresh;
                }
                answers.push(outcome);
            }
            Err(failure) => {
                answers.push(json!({ "portal": name, "error": failure.message() }));
                exit = failure.print();
            }
        }
    }
    client.close().await;
    Ok(report(arguments, &left, answers, exit))
}

/// Prints the portals that were not tried, and with JSON all of them.
fn report(
    arguments: &Arguments,
    left: &[PortalView],
    mut answers: Vec<Value>,
    mut exit: Exit,
) -> Exit {
    for portal in left {
        let outcome = not_tried(portal);
        if !arguments.json {
            terminal::eprintln(&sentence(&portal.portal, &outcome));
        }
        exit = if matches!(exit, Exit::Done) {
            Exit::NotFresh
        } else {
            exit
        };
        answers.push(outcome);
    }
    if arguments.json {
        let text =
            serde_json::to_string_pretty(&json!({ "renewals": answers })).unwrap_or_default();
        terminal::print(&(text + "\n"));
    }
    exit
}

/// Renews the portals, concurrently if a daemon limits the requests.
async fn renew_each<'n>(
    client: &Client,
    names: &'n [String],
) -> Vec<(&'n String, Result<Value, CommandError>)> {
    let at_once = if client.is_daemon() {
        MAX_CONCURRENT
    } else {
        1
    };
    let asked = names
        .iter()
        .map(|name| async move { (name, client.renew(name).await) });
    stream::iter(asked).buffered(at_once).collect().await
}

/// The configured portals, if there is no state.
async fn configured_portals(common: &Common) -> Result<Vec<PortalView>, CommandError> {
    let client = connect_to_read(common).await?;
    let portals = client.list(None).await;
    client.close().await;
    portals
}

/// Separates the portals that can be renewed from the others.
fn partition_renewable(portals: Vec<PortalView>) -> (Vec<String>, Vec<PortalView>) {
    let named = portals
        .into_iter()
        .filter(|portal| portal.phase != Kind::Unconfigured);
    let (renewable, left): (Vec<_>, Vec<_>) =
        named.partition(|portal| portal.next_renewal_in.is_some());
    (
        renewable.into_iter().map(|portal| portal.portal).collect(),
        left,
    )
}

/// Result for a portal without a request.
fn not_tried(portal: &PortalView) -> Value {
    let why = portal.last_error.as_ref().map_or_else(
        || "it has no grant that may be used".to_owned(),
        Problem::text,
    );
    json!({"portal": portal.portal, "outcome": "not-tried", "detail": why, "reply": null, "status": portal})
}

fn is_good(outcome: &Value) -> bool {
    matches!(
        outcome.get("outcome").and_then(Value::as_str),
        Some("renewed" | "fresh-already")
    )
}

fn sentence(name: &str, outcome: &Value) -> String {
    let text = |key: &str| outcome.get(key).and_then(Value::as_str).unwrap_or_default();
    let status = |key: &str| {
        outcome
            .get("status")
            .and_then(|status| status.get(key))
            .and_then(Value::as_str)
    };
    let expires_at = status("expires_at").unwrap_or("an unknown time");
    match text("outcome") {
        "renewed" => format!("{name}: renewed, valid until {expires_at}"),
        "fresh-already" => {
            format!(
                "{name}: renewed a moment ago, {}; valid until {expires_at}",
                text("detail")
            )
        }
        "set-aside" => {
            format!("{name}: replaced while it was renewed; the newer grant is in force")
        }
        "not-tried" => {
            let phase = status("phase").unwrap_or("unknown");
            let action = status("action")
                .map(|action| format!("\n  to do: {action}"))
                .unwrap_or_default();
            format!(
                "{name}: not renewed, nothing was sent ({phase}): {}{action}",
                text("detail")
            )
        }
        class => {
            let action = status("action")
                .map(|action| format!("\n  to do: {action}"))
                .unwrap_or_default();
            format!("{name}: not renewed ({class}): {}{action}", text("detail"))
        }
    }
}
