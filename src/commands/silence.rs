//! `refreshd silence`: suppresses notifications for a time. Incidents that last longer are notified afterwards; the log is
//! complete.

use std::time::Duration;

use clap::Args;

use super::common::Common;
use super::connect::{connect, connect_to_state};
use super::exit::{CommandError, Exit};
use super::terminal;

#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  refreshd silence acme 2h        during maintenance of acme\n  refreshd silence acme --end     end it\n  refreshd silence --all 30m      suppress every notification\n  refreshd alert list             show silences and open incidents\n\nIncidents that are still open when the silence ends are notified then. Renewals and the log are not affected.\n\nExit codes: 0 done, 64 usage, 66 unknown portal, 69 daemon unavailable, 77 no permission, 78 configuration."
)]
pub(super) struct Arguments {
    /// The portal and the time, such as `acme 2h`; with --all the time alone.
    #[arg(required = true, num_args = 1..=2, value_names = ["PORTAL", "SPAN"])]
    what: Vec<String>,
    /// Every portal, and every other incident.
    #[arg(long)]
    all: bool,
    /// End the silence.
    #[arg(long)]
    end: bool,
}

/// The parsed arguments.
struct Target {
    portal: Option<String>,
    span: Option<String>,
}

impl Arguments {
    fn target(&self) -> Result<Target, CommandError> {
        let usage = |message: &str| {
            Err(CommandError::new(
                Exit::Usage,
                format!("{message}; see refreshd silence --help"),
            ))
        };
        match (self.what.as_slice(), self.all, self.end) {
            ([portal, span], false, false) => Ok(Target {
                portal: Some(portal.clone()),
                span: Some(span.clone()),
            }),
            ([portal], false, true) => Ok(Target {
                portal: Some(portal.clone()),
                span: None,
            }),
            ([span], true, false) => Ok(Target {
                portal: None,
                span: Some(span.clone()),
            }),
            ([_], false, false) => {
                usage("for how long? Give the duration after the portal, such as 2h")
            }
            (_, true, _) => usage("--all goes with a span alone, such as 2h"),
            _ => usage("--end goes with a portal alone"),
        }
    }
}

pub(super) async fn run(common: &Common, arguments: &Arguments) -> Result<Exit, CommandError> {
    let Target { portal, span } = arguments.target()?;
    span.as_deref().map(parse).transpose()?;
    let subject = portal.as_deref();
    // Ending a silence needs no state.
    let client = if span.is_some() {
        connect(common).await?
    } else {
        connect_to_state(common).await?
    };
    let until = client.silence(subject, span.as_deref()).await;
    client.close().await;
    let until = until?;
    let name = subject.unwrap_or("everything");
    terminal::eprintln(&match until {
        Some(until) => {
            format!(
                "{name}: notifications are suppressed until {until}; incidents that are open then are notified then"
            )
        }
        None => format!("{name}: not silenced any more"),
    });
    Ok(Exit::Done)
}

fn parse(span: &str) -> Result<Duration, CommandError> {
    let bad = |error: &dyn std::fmt::Display| {
        CommandError::new(
            Exit::Usage,
            format!("`{span}` is no span of time such as 2h or 30m: {error}"),
        )
    };
    let span = humantime::parse_duration(span).map_err(|error| bad(&error))?;
    if span.is_zero() {
        Err(bad(&"it is nothing"))
    } else {
        Ok(span)
    }
}
