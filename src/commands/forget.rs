//! `refreshd forget`: deletes a grant and its token files after confirmation. It cannot be undone. Must not report files as
//! removed that still exist.

use clap::Args;

use super::client::{Client, ForgottenView};
use super::common::Common;
use super::connect::connect_to_state;
use super::exit::{CommandError, Exit};
use super::terminal;

#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  refreshd forget acme\n  refreshd forget acme --yes\n  refreshd forget acme --revoke              revoke it first (RFC 7009)\n\nExit codes: 0 done, also if there was no grant, 64 usage, or not confirmed, 66 unknown portal, 69 daemon unavailable, 75 not revoked, and not forgotten, or token files could not be removed, 77 no permission, 78 configuration, or the provider has no revocation endpoint."
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
    let ForgottenView { forgotten, left } = forgotten?;
    let grant = match forgotten {
        true if arguments.revoke => "the grant is revoked and forgotten",
        true => "the grant is forgotten",
        false => "there was no grant to forget",
    };
    match left {
        None if forgotten => {
            terminal::eprintln(&format!("{portal}: {grant}, its token files are gone"));
        }
        None => terminal::eprintln(&format!("{portal}: {grant}")),
        Some(left) => {
            terminal::eprintln(&format!(
                "{portal}: {grant}, but {left}. The tokens in them may work until they expire. A running refreshd tries again by \
                 itself; without one, remove them"
            ));
            return Ok(Exit::TryAgain);
        }
    }
    Ok(Exit::Done)
}

/// Deletes the grant, if confirmed.
async fn forget(client: &Client, arguments: &Arguments) -> Result<ForgottenView, CommandError> {
    let portal = &arguments.portal;
    // No confirmation for an unknown portal.
    client.list(Some(portal)).await?;
    let question =
        format!("Forget the grant of {portal}? A person must authorize it again afterwards.");
    if !arguments.yes && !terminal::confirm(&question) {
        return Err(CommandError::new(
            Exit::Usage,
            format!("{portal} was not forgotten; confirm with --yes"),
        ));
    }
    client.forget(portal, arguments.revoke).await
}
