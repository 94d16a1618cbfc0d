//! `refreshd token`: prints the access token, renewed first if too little of it is left. Exit 75 if it cannot be had.

use std::time::Duration;

use clap::{Args, ValueEnum};

use super::exit::{Exit, Failure};
use super::reach::{Reach, Sight, look, not_done, reach_grants};
use super::{Common, screen};
use crate::adapters::token_files::Format;

#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  TOKEN=$(refreshd token acme)\n  refreshd token acme --min-valid 10m --format json\n  curl -H @<(refreshd token acme --format header) https://acme.bitrix24.com/rest/profile\n  eval \"$(refreshd token acme --format env)\"\n\nExit codes: 0 printed, 64 usage, 66 unknown portal, 69 daemon unavailable, 75 not to be had now,\n77 no permission, 78 configuration."
)]
pub(super) struct Arguments {
    /// Whose token.
    portal: String,
    /// Renew first if less than this is left.
    #[arg(long, value_name = "TIME", default_value = "5m", value_parser = humantime::parse_duration)]
    min_valid: Duration,
    /// In which form.
    #[arg(long, value_enum, default_value_t = Form::Raw)]
    format: Form,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Form {
    /// The token alone.
    Raw,
    /// As in token.json.
    Json,
    /// A header line for `curl -H @file`.
    Header,
    /// Assignments for a shell.
    Env,
}

pub(super) async fn run(common: &Common, arguments: &Arguments) -> Result<Exit, Failure> {
    let Arguments { portal, min_valid, format } = arguments;
    let format = match format {
        Form::Raw => Format::Raw,
        Form::Json => Format::Json,
        Form::Header => Format::Header,
        Form::Env => Format::Env,
    };
    let text = match look(common).await? {
        Sight::Daemon(client) => client.token(portal, *min_valid, format.as_str()).await?,
        Sight::State(glance) => {
            let token = glance.token(portal, *min_valid, format).await.map_err(|error| not_done(&error));
            glance.close().await;
            match token? {
                Some(token) => token,
                None => renewed(common, portal, *min_valid, format).await?,
            }
        }
    };
    let newline = if text.ends_with('\n') { "" } else { "\n" };
    screen::result(&format!("{text}{newline}"));
    Ok(Exit::Done)
}

/// The token after a renewal.
async fn renewed(
    common: &Common,
    portal: &str,
    min_valid: Duration,
    format: Format,
) -> Result<String, Failure> {
    match reach_grants(common).await? {
        Reach::Daemon(client) => client.token(portal, min_valid, format.as_str()).await,
        Reach::Offline(offline) => {
            let token = offline.token(portal, min_valid, format).await.map_err(|error| not_done(&error));
            offline.close().await;
            token
        }
    }
}
