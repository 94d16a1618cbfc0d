//! `refreshd install`: disputed installs, by another user than the owner of a portal's grant. The operator decides.

use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::client::Client;
use super::common::Common;
use super::connect::{connect_to_read_state, connect_to_state};
use super::exit::{CommandError, Exit};
use super::import::{describe, print};
use super::terminal;

pub(super) const HELP: &str = "\
The first install event of an installation may be forged by another user of the portal. If another user reports an installation with a different application token, or an administrator opens the app, that user's grant is stored as a dispute until a person decides. An alert reports it.

Examples:
  refreshd install list                      list the open disputes
  refreshd install accept acme               replace the present grant
  refreshd install refuse acme               keep the present grant

Exit codes: 0 done, 64 usage, or not confirmed, 65 refused by the authorization server, 66 unknown portal, or no open dispute, 69 daemon unavailable, 74 output not written, 75 the dispute is about another user, or the grant cannot be verified now, 77 no permission, 78 configuration.";

#[derive(Debug, Subcommand)]
pub(super) enum InstallCommand {
    /// List the open disputes.
    List(ListArguments),
    /// Replace the present grant and its installation by the disputed ones.
    Accept(DecideArguments),
    /// Drop the disputed grant; later installs of that user are not reported.
    Refuse(DecideArguments),
}

#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  refreshd install list\n  refreshd install list --json | jq -r '.waiting[].portal'\n\nExit codes: 0 no open dispute, 1 at least one, 64 usage, 66 no state, 69 daemon unavailable, 74 output not written, 77 no permission, 78 configuration."
)]
pub(super) struct ListArguments {
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  refreshd install accept acme\n  refreshd install accept acme --user 1 --yes --json\n  refreshd install refuse acme --yes\n\nAn accepted grant is renewed first. The present grant stays in force until that has succeeded, across restarts as well.\n\nExit codes: 0 done, 64 usage, or not confirmed, 65 refused by the authorization server, 66 unknown portal, or no open dispute, 69 daemon unavailable, 74 output not written, 75 the dispute is about another user, or the grant cannot be verified now, 77 no permission, 78 configuration."
)]
pub(super) struct DecideArguments {
    /// The portal.
    portal: String,
    /// Only if the dispute is about this user.
    #[arg(long, value_name = "ID")]
    user: Option<String>,
    /// Do not ask for confirmation.
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

/// The user to decide about: the given one, or the one in the dispute that was shown.
async fn user_to_decide(
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
    // The decision itself reports a missing dispute.
    let Some(found) = found else {
        return Ok(user.clone());
    };
    terminal::eprintln(&format!("{portal}: {}", found.reason));
    if !terminal::confirm(&format!("{what} the install of user {}?", found.user)) {
        return Err(CommandError::new(
            Exit::Usage,
            format!("{portal}: nothing was decided; confirm with --yes"),
        ));
    }
    Ok(Some(user.clone().unwrap_or(found.user)))
}

async fn accept(client: &Client, arguments: &DecideArguments) -> Result<Exit, CommandError> {
    let portal = &arguments.portal;
    let user = user_to_decide(client, arguments, "Accept").await?;
    let user = user.as_deref();
    let accepted: Value = client.accept_install(portal, user).await?;
    if arguments.json {
        print(&accepted);
    }
    match describe(portal, &accepted) {
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
    let user = user_to_decide(client, arguments, "Refuse").await?;
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
