//! `refreshd introspect`: introspection of a portal's access token at the authorization server (RFC 7662). Exit 1 if the token
//! is not valid.

use clap::Args;

use super::common::Common;
use super::connect::connect_to_read;
use super::exit::{CommandError, Exit};
use super::terminal;
use refreshd_token_client::introspection::Introspection;

#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  refreshd introspect wiki\n  refreshd introspect wiki --json\n\nExit codes: 0 the token is active, 1 it is not, 64 usage, 66 unknown portal, 69 daemon unavailable, 74 output not written, 75 no token, or the server does not answer, 77 no permission, 78 configuration, or the provider has no introspection endpoint."
)]
pub(super) struct Arguments {
    /// The portal.
    portal: String,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

pub(super) async fn run(common: &Common, arguments: &Arguments) -> Result<Exit, CommandError> {
    let portal = &arguments.portal;
    let client = connect_to_read(common).await?;
    let introspection = client.introspect(portal).await;
    client.close().await;
    let introspection = introspection?;
    if arguments.json {
        terminal::print(&(serde_json::to_string_pretty(&introspection).unwrap_or_default() + "\n"));
    } else {
        terminal::eprintln(&sentence(portal, &introspection));
    }
    Ok(if introspection.active {
        Exit::Done
    } else {
        Exit::NotFresh
    })
}

fn sentence(portal: &str, introspection: &Introspection) -> String {
    let Introspection {
        active,
        expires_at,
        scope,
        client_id: _,
        sub,
    } = introspection;
    if !active {
        return format!("{portal}: the authorization server reports that its token does not work");
    }
    let until = expires_at
        .as_ref()
        .map(|at| format!(" until {at}"))
        .unwrap_or_default();
    let owner = sub
        .as_ref()
        .map(|sub| format!(", for {sub}"))
        .unwrap_or_default();
    let scope = scope
        .as_ref()
        .map(|scope| format!(", scope: {scope}"))
        .unwrap_or_default();
    format!("{portal}: the authorization server reports that its token works{until}{owner}{scope}")
}
