//! `refreshd health`: whether the daemon works, for a container's health check and for scripts.

use clap::Args;

use super::common::Common;
use super::connect;
use super::exit::{CommandError, Exit};
use super::terminal;
use crate::daemon::HealthView;

#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  refreshd health                 is every portal served?\n  refreshd health --live          does the daemon run and make progress? For a container's health check\n  refreshd health --json\n\nExit codes: 0 healthy, 1 not, 64 usage, 69 no daemon, 74 output not written, 77 no permission, 78 configuration."
)]
pub(super) struct Arguments {
    /// Only whether the daemon makes progress, as /livez; a restart helps against nothing else.
    #[arg(long)]
    live: bool,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

pub(super) async fn run(common: &Common, arguments: &Arguments) -> Result<Exit, CommandError> {
    let Some(client) = connect::daemon(common).await? else {
        connect::load(common)?;
        let message = "no daemon runs; see systemctl status refreshd";
        return Err(CommandError::new(Exit::Unavailable, message));
    };
    let health = client.health().await?;
    if arguments.json {
        let text = serde_json::to_string_pretty(&health).unwrap_or_default();
        terminal::print(&(text + "\n"));
    } else {
        terminal::print(&text(&health, arguments.live));
    }
    let is_healthy = health.live && (arguments.live || health.ready);
    Ok(if is_healthy {
        Exit::Done
    } else {
        Exit::NotFresh
    })
}

fn text(health: &HealthView, live_only: bool) -> String {
    let live = if health.live {
        "live"
    } else {
        "not live: the scheduler made no progress in the last minute"
    };
    let ready = match (live_only, health.ready) {
        (true, _) => String::new(),
        (false, true) => "ready\n".to_owned(),
        (false, false) => format!("not ready: {}\n", health.problems.join("; ")),
    };
    format!("{live}\n{ready}")
}
