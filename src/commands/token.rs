//! `refreshd token`: prints the access token, renewed first if it expires too soon. Exit 75 if none is available.

use crate::domain::token_format::TokenFormat;
use std::time::Duration;

use clap::Args;
use clap::builder::{PossibleValue, PossibleValuesParser, TypedValueParser};
use strum::VariantArray as _;

use super::common::Common;
use super::connect::{connect_to_grants, connect_to_read};
use super::exit::{CommandError, Exit};
use super::terminal;

#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  TOKEN=$(refreshd token acme)\n  refreshd token acme --min-valid 10m --format json\n  curl -H @<(refreshd token acme --format header) https://acme.bitrix24.com/rest/profile\n  eval \"$(refreshd token acme --format env)\"\n\nExit codes: 0 printed, 64 usage, 66 unknown portal, 69 daemon unavailable, 74 output not written, 75 not available now, 77 no permission, 78 configuration."
)]
pub(super) struct Arguments {
    /// The portal.
    portal: String,
    /// Renew first if less than this is left.
    #[arg(long, value_name = "TIME", default_value = "5m", value_parser = humantime::parse_duration)]
    min_valid: Duration,
    /// The output format.
    #[arg(long, default_value = TokenFormat::Raw.as_str(), value_parser = format_parser())]
    format: TokenFormat,
}

/// Parser of `--format`, the default first in its help.
fn format_parser() -> impl TypedValueParser<Value = TokenFormat> {
    let help = |format| match format {
        TokenFormat::Raw => "The token alone",
        TokenFormat::Json => "As in token.json",
        TokenFormat::Header => "A header line for `curl -H @file`",
        TokenFormat::Env => "Assignments for a shell",
    };
    let mut formats = TokenFormat::VARIANTS.to_vec();
    formats.sort_by_key(|format| *format != TokenFormat::Raw);
    let values = formats
        .into_iter()
        .map(|format| PossibleValue::new(format.as_str()).help(help(format)));
    PossibleValuesParser::new(values).try_map(|name| name.parse())
}

pub(super) async fn run(common: &Common, arguments: &Arguments) -> Result<Exit, CommandError> {
    let Arguments {
        portal,
        min_valid,
        format,
    } = arguments;
    let client = connect_to_read(common).await?;
    let token = client
        .token_if_valid(portal, *min_valid, format.as_str())
        .await;
    client.close().await;
    let text = match token? {
        Some(token) => token,
        None => renewed(common, portal, *min_valid, *format).await?,
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
