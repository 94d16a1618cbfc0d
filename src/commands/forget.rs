//! `refreshd forget`: removes a grant and its token files, after a question. It cannot be undone.

use clap::Args;

use super::exit::{Exit, Failure};
use super::reach::{Reach, not_done, reach_known};
use super::{Common, screen};

#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  refreshd forget acme\n  refreshd forget acme --yes\n  refreshd forget acme --revoke              give it back to the authorization server first (RFC 7009)\n\nExit codes: 0 done, also if there was no grant, 64 usage, or not meant, 66 unknown portal,\n69 daemon unavailable, 75 not given back, and not forgotten, 77 no permission, 78 configuration, or the\nprovider takes nothing back."
)]
pub(super) struct Arguments {
    /// Whose grant.
    portal: String,
    /// Do not ask.
    #[arg(long)]
    yes: bool,
    /// Give the grant back to the authorization server first.
    #[arg(long)]
    revoke: bool,
}

pub(super) async fn run(common: &Common, arguments: &Arguments) -> Result<Exit, Failure> {
    let portal = &arguments.portal;
    let reach = reach_known(common).await?;
    // Nobody is asked about a portal that is not there.
    let known = match &reach {
        Reach::Daemon(client) => client.list(Some(portal)).await,
        Reach::Offline(offline) => offline.list(Some(portal)).await.map_err(|error| not_done(&error)),
    };
    known?;
    let question = format!("Forget the grant of {portal}? A person must authorize it again afterwards.");
    if !arguments.yes && !screen::confirm(&question) {
        return Err(Failure::new(Exit::Usage, format!("{portal} was not forgotten; say --yes to mean it")));
    }
    let forgotten = match reach {
        Reach::Daemon(client) => client.forget(portal, arguments.revoke).await?,
        Reach::Offline(offline) => {
            let forgotten = offline.forget(portal, arguments.revoke).await.map_err(|error| not_done(&error));
            offline.close().await;
            forgotten?
        }
    };
    screen::note(&match forgotten {
        true if arguments.revoke => {
            format!("{portal}: the grant is given back and forgotten, its token files are gone")
        }
        true => format!("{portal}: the grant is forgotten, its token files are gone"),
        false => format!("{portal}: there was no grant to forget"),
    });
    Ok(Exit::Done)
}
