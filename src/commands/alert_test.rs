//! `refreshd alert test`: sends a test notification through the channels and shows each receiver's response.
//!
//! A running daemon sends it with its current configuration; without one this process does, and does not touch the state.

use std::sync::Arc;

use clap::Args;

use super::common::Common;
use super::connect::{daemon, load};
use super::exit::{CommandError, Exit};
use super::terminal;
use crate::adapters::log;
use crate::daemon::alerts::test_channels::test_channels;
use crate::domain::error_chain::error_chain;
use refreshd_alerting::channel_test::TestResult;
use refreshd_alerting::channels::Notifier;
use refreshd_time::clock::Clock;

#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  refreshd alert test\n  refreshd alert test ops\n  refreshd alert test --json | jq '.tests[] | select(.result != \"delivered\")'\n\nExit codes: 0 every receiver accepted it, 64 usage, 66 unknown channel, or none is configured, 69 a receiver rejected it, 74 output not written, 77 no permission, 78 configuration."
)]
pub(super) struct Arguments {
    /// The channel; without one, all of them.
    channel: Option<String>,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

pub(super) async fn run(common: &Common, arguments: &Arguments) -> Result<Exit, CommandError> {
    let only = arguments.channel.as_deref();
    let trials = match daemon(common).await? {
        Some(client) => client.test(only).await?,
        None => without_daemon(common, only).await?,
    };
    if arguments.json {
        let text = serde_json::to_string_pretty(&serde_json::json!({ "tests": trials }))
            .unwrap_or_default();
        terminal::print(&(text + "\n"));
    } else {
        for TestResult {
            channel,
            kind,
            result,
            answer,
        } in &trials
        {
            terminal::eprintln(&format!("{channel} ({kind}): {result}: {answer}"));
        }
    }
    if trials.is_empty() {
        let message = "no channel is configured: incidents go to the log only";
        return Err(CommandError::new(Exit::NoInput, message));
    }
    Ok(if trials.iter().all(TestResult::is_delivered) {
        Exit::Done
    } else {
        Exit::Unavailable
    })
}

async fn without_daemon(
    common: &Common,
    only: Option<&str>,
) -> Result<Vec<TestResult>, CommandError> {
    if let Some(socket) = &common.socket {
        let message = format!("no daemon listens on {}", socket.display());
        return Err(CommandError::new(Exit::Unavailable, message));
    }
    let config = load(common)?;
    // Output of a program channel is shown here too. The test works without a log as well.
    let _ = log::start_for_command("info");
    let (alerts, network) = (&config.alerts, Arc::clone(&config.network));
    let notifier =
        Notifier::new(&alerts.instance, alerts.url.as_deref(), network).map_err(|error| {
            CommandError::new(
                Exit::Unavailable,
                format!("cannot set up TLS: {}", error_chain(&error)),
            )
        })?;
    let tested = test_channels(&notifier, &config.channels, only, Clock::system().now()).await;
    tested.map_err(|unknown| CommandError::new(Exit::NoInput, unknown))
}
