//! `refreshd import`: takes an existing grant from a file or standard input, never from an argument.

use std::io::{IsTerminal as _, Read as _};
use std::path::PathBuf;

use clap::Args;
use serde_json::{Value, json};

use super::exit::{Exit, Failure};
use super::reach::{Reach, not_done, reach};
use super::{Common, screen};
use crate::domain::intake::LONGEST;
use crate::domain::pizauth::{self, Account};

#[derive(Debug, Args)]
#[command(
    after_help = "Takes a token reply in JSON (what `oint bitrix24 GetToken` prints), a CRest settings.json, a bare\nrefresh token, or what `pizauth dump` writes: of it the account of the portal's name, or\nthe only one. Whoever held it before must not use it any more: a refresh token works once.\n\nExamples:\n  oint bitrix24 GetToken … | refreshd import acme\n  refreshd import acme /srv/www/app/settings.json\n  pizauth dump | refreshd import acme --account work\n\nExit codes: 0 taken in, 64 usage, 65 not a grant, or another portal's, 66 unknown portal or file,\n69 daemon unavailable, 77 no permission, 78 configuration."
)]
pub(super) struct Arguments {
    /// For which portal of the configuration.
    portal: String,
    /// The file; `-` or nothing is standard input.
    file: Option<PathBuf>,
    /// Which account of a dump of pizauth.
    #[arg(long, value_name = "NAME")]
    account: Option<String>,
}

pub(super) async fn run(common: &Common, arguments: &Arguments) -> Result<Exit, Failure> {
    let portal = &arguments.portal;
    let text = read(arguments)?;
    let generation = match reach(common).await? {
        Reach::Daemon(client) => {
            let answer = client.import(portal, text).await?;
            answer.get("generation").and_then(Value::as_u64).unwrap_or_default()
        }
        Reach::Offline(offline) => {
            let imported = offline.import(portal, &text).await.map_err(|error| not_done(&error));
            offline.close().await;
            let generation = imported?.0;
            screen::note("no daemon runs; the grant is in the state and is renewed when one starts");
            generation
        }
    };
    screen::note(&format!("{portal}: the grant was taken in (generation {generation})"));
    Ok(Exit::Done)
}

fn read(arguments: &Arguments) -> Result<String, Failure> {
    let mut bytes = Vec::new();
    let limit = LONGEST as u64 + 1;
    let read = match arguments.file.as_ref().filter(|file| file.as_os_str() != "-") {
        Some(file) => std::fs::File::open(file)
            .and_then(|file| file.take(limit).read_to_end(&mut bytes))
            .map_err(|error| (file.display().to_string(), error)),
        None => {
            if std::io::stdin().is_terminal() {
                screen::note("paste the grant and end with Ctrl-D:");
            }
            let stdin = std::io::stdin().lock().take(limit).read_to_end(&mut bytes);
            stdin.map_err(|error| ("standard input".to_owned(), error))
        }
    };
    read.map_err(|(from, error)| Failure::new(Exit::NoInput, format!("cannot read {from}: {error}")))?;
    let not_taken =
        |why: String| Failure::new(Exit::Data, format!("{}: not taken in: {why}", arguments.portal));
    let account = arguments.account.as_deref();
    match String::from_utf8(bytes) {
        Ok(_) if account.is_some() => {
            Err(not_taken("--account chooses from a dump of pizauth, and this is none".to_owned()))
        }
        Ok(text) => Ok(text),
        Err(error) => {
            let bytes = error.as_bytes();
            if bytes.len() > LONGEST {
                return Err(not_taken(format!("it is longer than {LONGEST} bytes")));
            }
            let accounts = pizauth::open(bytes).map_err(|error| not_taken(error.to_string()))?;
            let chosen = pizauth::choose(accounts, account, &arguments.portal);
            grant(chosen.map_err(|error| not_taken(error.to_string()))?).map_err(not_taken)
        }
    }
}

/// The control socket takes text: an account's grant as a token reply.
fn grant(Account { name, client_id, refresh }: Account) -> Result<String, String> {
    let refresh = refresh.ok_or_else(|| {
        format!(
            "account {name} of pizauth has no refresh token, and without one there is nothing to renew with"
        )
    })?;
    Ok(json!({ "refresh_token": refresh.expose(), "client_id": client_id }).to_string())
}
