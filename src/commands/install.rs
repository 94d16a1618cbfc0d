//! `refreshd install`: installs of another user than the one whose grant a portal has. A person decides whose is kept.

use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::client::Client;
use super::connect::{connect_to_read_state, connect_to_state};
use super::exit::{CommandError, Exit};
use super::import::{print, said};
use super::{Common, terminal};

pub(super) const HELP: &str = "\
The first notice of an installation may have been a stranger's. Where another user of the portal says that he installed
the app, with another application token, or an administrator opens it, his grant is kept aside until a person decides;
the alert says so.

Examples:
  refreshd install list                      see what waits for a decision
  refreshd install accept acme               the newcomer's grant takes the place of the one that is there
  refreshd install refuse acme               the grant stays as it is

Exit codes: 0 done, 64 usage, or not meant, 65 refused by the authorization server, 66 unknown portal, or nothing
waits, 69 daemon unavailable, 75 another user waits now, or it cannot be proved now, 77 no permission, 78
configuration.";

#[derive(Debug, Subcommand)]
pub(super) enum InstallCommand {
    /// Show the installs that wait for a decision.
    List(ListArguments),
    /// Take the newcomer's grant, and the proof of its installation, in the place of those that are there.
    Accept(DecideArguments),
    /// Drop the newcomer's grant; that user is not told of again.
    Refuse(DecideArguments),
}

#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  refreshd install list\n  refreshd install list --json | jq -r '.waiting[].portal'\n\nExit codes: 0 nothing waits, 1 something does, 64 usage, 66 no state, 69 daemon unavailable, 77 no permission,\n78 configuration."
)]
pub(super) struct ListArguments {
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  refreshd install accept acme\n  refreshd install accept acme --user 1 --yes --json\n  refreshd install refuse acme --yes\n\nAn accepted grant is exchanged with the authorization server first; the one that is there goes on until that has\nworked, also over a restart.\n\nExit codes: 0 done, 64 usage, or not meant, 65 refused by the authorization server, 66 unknown portal, or nothing\nwaits, 69 daemon unavailable, 75 another user waits now, or it cannot be proved now, 77 no permission, 78\nconfiguration."
)]
pub(super) struct DecideArguments {
    /// At which portal.
    portal: String,
    /// Only if it is this user who waits.
    #[arg(long, value_name = "ID")]
    user: Option<String>,
    /// Do not ask.
    #[arg(long)]
    yes: bool,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

pub(super) async fn run(common: &Common, install: &InstallCommand) -> Result<Exit, CommandError> {
    let client = match install {
        InstallCommand::List(_) => connect_to_read_state(common).await?,
        InstallCommand::Accept(_) | InstallCommand::Refuse(_) => connect_to_state(common).await?,
    };
    let done = match install {
        InstallCommand::List(arguments) => list(&client, arguments).await,
        InstallCommand::Accept(arguments) => accept(&client, arguments).await,
        InstallCommand::Refuse(arguments) => refuse(&client, arguments).await,
    };
    client.close().await;
    done
}

async fn list(client: &Client, arguments: &ListArguments) -> Result<Exit, CommandError> {
    let waiting = client.installs().await?;
    if arguments.json {
        terminal::print(&format!("{:#}\n", json!({ "waiting": waiting })));
    } else if waiting.is_empty() {
        terminal::eprintln("no install waits for a decision");
    } else {
        let lines = waiting
            .iter()
            .map(|it| format!("{}: since {}: {}\n", it.portal, it.since, it.reason));
        terminal::print(&lines.collect::<String>());
    }
    Ok(if waiting.is_empty() {
        Exit::Done
    } else {
        Exit::NotFresh
    })
}

/// The user to decide about: the one who is named, or the one who waits and whom a person was shown.
async fn meant(
    client: &Client,
    arguments: &DecideArguments,
    what: &str,
) -> Result<Option<String>, CommandError> {
    let DecideArguments {
        portal,
        user,
        yes,
        json: _,
    } = arguments;
    if *yes {
        return Ok(user.clone());
    }
    let found = client
        .installs()
        .await?
        .into_iter()
        .find(|it| it.portal == *portal);
    // What is not there is said by whoever is asked to decide.
    let Some(found) = found else {
        return Ok(user.clone());
    };
    terminal::eprintln(&format!("{portal}: {}", found.reason));
    if !terminal::confirm(&format!("{what} the install of user {}?", found.user)) {
        return Err(CommandError::new(
            Exit::Usage,
            format!("{portal}: nothing was decided; say --yes to mean it"),
        ));
    }
    Ok(Some(user.clone().unwrap_or(found.user)))
}

async fn accept(client: &Client, arguments: &DecideArguments) -> Result<Exit, CommandError> {
    let portal = &arguments.portal;
    let user = meant(client, arguments, "Accept").await?;
    let user = user.as_deref();
    let accepted: Value = client.accept_install(portal, user).await?;
    if arguments.json {
        print(&accepted);
    }
    match said(portal, &accepted) {
        (Exit::Done, sentence) => {
            if !arguments.json {
                terminal::eprintln(&sentence);
            }
            Ok(Exit::Done)
        }
        (exit, sentence) => Err(CommandError::new(exit, sentence)),
    }
}

async fn refuse(client: &Client, arguments: &DecideArguments) -> Result<Exit, CommandError> {
    let portal = &arguments.portal;
    let user = meant(client, arguments, "Refuse").await?;
    let user = user.as_deref();
    let refused = client.refuse_install(portal, user).await?;
    if arguments.json {
        let outcome = json!({"portal": portal, "outcome": "refused", "user": refused.user, "holder": refused.holder});
        terminal::print(&format!("{outcome:#}\n"));
    } else {
        let user = refused.user;
        terminal::eprintln(&format!(
            "{portal}: the install of user {user} is refused; the grant stays as it is"
        ));
    }
    Ok(Exit::Done)
}
