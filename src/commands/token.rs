//! `refreshd token`: prints the access token, renewed first if it expires too soon. Exit 75 if none is available.

use crate::domain::token_format::TokenFormat;
use std::time::Duration;

use clap::{Args, ValueEnum};

use super::common::Common;
use super::connect::{connect_to_grants, connect_to_read};
use super::exit::{CommandError, Exit};
use super::terminal;

#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  TOKEN=$(refreshd token acme)\n  refreshd token acme --min-valid 10m --format json\n  curl -H @<(refreshd token acme --format header) https://acme.bitrix24.com/rest/profile\n  eval \"$(refreshd token acme --format env)\"\n\nExit codes: 0 printed, 64 usage, 66 unknown portal, 69 daemon unavailable, 75 not available now, 77 no permission, 78 configuration."
)]
pub(super) struct Arguments {
    /// The portal.
    portal: String,
    /// Renew first if less than this is left.
    #[arg(long, value_name = "TIME", default_value = "5m", value_parser = humantime::parse_duration)]
    min_valid: Duration,
    /// The output format.
    #[arg(long, value_enum, default_value_t = OutputFormat::Raw)]
    format: OutputFormat,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum OutputFormat {
    /// The token alone.
    Raw,
    /// As in token.json.
    Json,
    /// A header line for `curl -H @file`.
    Header,
    /// Assignments for a shell.
    Env,
}

pub(super) async fn run(common: &Common, arguments: &Arguments) -> Result<Exit, CommandError> {
    let Arguments {
        portal,
        min_valid,
        format,
    } = arguments;
    let format = match format {
        OutputFormat::Raw => TokenFormat::Raw,
        OutputFormat::Json => TokenFormat::Json,
        OutputFormat::Header => TokenFormat::Header,
        OutputFormat::Env => TokenFormat::Env,
    };
    let client = connect_to_read(common).await?;
    let token = client
        .token_if_valid(portal, *min_valid, format.as_str())
        .await;
    client.close().await;
    let text = match token? {
        Some(token) => token,
        None => renewed(common, portal, *min_valid, format).await?,
    };
    let newline = if text.ends_with('\n') { "" } else { "\n" };
    terminal::print(&format!("{text}{newline}"));
    Ok(Exit::Done)
}

/// The token after a renewal.
async fn renewed(
    common: &Common,
    portal: &str,
    min_valid: Duration,
    format: TokenFormat,
) -> Result<String, CommandError> {
    let client = connect_to_grants(common).await?;
    let token = client.token(portal, min_valid, format.as_str()).await;
    client.close().await;
    token
}
