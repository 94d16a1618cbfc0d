//! `refreshd forget`: removes a grant and its token files, after a question. It cannot be undone.

use clap::Args;

use super::client::Client;
use super::common::Common;
use super::connect::connect_to_state;
use super::exit::{CommandError, Exit};
use super::terminal;

#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  refreshd forget acme\n  refreshd forget acme --yes\n  refreshd forget acme --revoke              revoke it first (RFC 7009)\n\nExit codes: 0 done, also if there was no grant, 64 usage, or not confirmed, 66 unknown portal, 69 daemon unavailable, 75 not revoked, and not forgotten, 77 no permission, 78 configuration, or the provider has no revocation endpoint."
)]
pub(super) struct Arguments {
    /// The portal.
    portal: String,
    /// Do not ask for confirmation.
    #[arg(long)]
    yes: bool,
    /// Revoke the grant at the authorization server first.
    #[arg(long)]
    revoke: bool,
}

pub(super) async fn run(common: &Common, arguments: &Arguments) -> Result<Exit, CommandError> {
    let portal = &arguments.portal;
    let client = connect_to_state(common).await?;
    let forgotten = forget(&client, arguments).await;
    client.close().await;
    let forgotten = forgotten?;
    terminal::eprintln(&match forgotten {
        true if arguments.revoke => {
            format!("{portal}: the grant is given back and forgotten, its token files are gone")
        }
        true => format!("{portal}: the grant is forgotten, its token files are gone"),
        false => format!("{portal}: there was no grant to forget"),
    });
    Ok(Exit::Done)
}

/// Forgets the grant, if that is meant; false if there was none.
async fn forget(client: &Client, arguments: &Arguments) -> Result<bool, CommandError> {
    let portal = &arguments.portal;
    // Nobody is asked about a portal that is not there.
    client.list(Some(portal)).await?;
    let question =
        format!("Forget the grant of {portal}? A person must authorize it again afterwards.");
    if !arguments.yes && !terminal::confirm(&question) {
        return Err(CommandError::new(
            Exit::Usage,
            format!("{portal} was not forgotten; say --yes to mean it"),
        ));
    }
    client.forget(portal, arguments.revoke).await
}
