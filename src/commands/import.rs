//! `refreshd import`: imports an existing grant from a file or standard input, never from an argument.

use std::borrow::Cow;
use std::io::{IsTerminal as _, Read as _};
use std::path::PathBuf;

use clap::Args;
use serde_json::{Value, json};

use super::client::ImportInput;
use super::common::Common;
use super::connect::connect;
use super::exit::{CommandError, Exit};
use super::terminal;
use crate::domain::import::{MAX_LENGTH, may_be_a_reply};
use crate::domain::pizauth::{self, Account, DumpError};
use refreshd_token_client::body_decoding;

#[derive(Debug, Args)]
#[command(
    after_help = "Reads a token response in JSON (the output of `oint bitrix24 GetToken`), a saved install event or installation form, a CRest settings.json, the token stores of Bitrix24's PHP, Python and JavaScript SDKs, a bare refresh token, or the output of `pizauth dump` (the account with the portal's name, or the only account). Stop the program that used the grant before: a refresh token works once.\n\nThe grant is renewed at once. If the portal already has a grant, that grant stays in force until the new one has been renewed successfully.\n\nExamples:\n  oint bitrix24 GetToken … | refreshd import acme\n  refreshd import acme /srv/www/app/settings.json\n  pizauth dump | refreshd import acme --account work\n\nExit codes: 0 imported and renewed, 64 usage, or not confirmed, 65 not a grant, another portal's, or refused by the authorization server, 66 unknown portal or file, 69 daemon unavailable, 74 output not written, 75 stored, and cannot be verified now, 77 no permission, 78 configuration."
)]
pub(super) struct Arguments {
    /// The portal.
    portal: String,
    /// The file; standard input if it is `-` or omitted.
    file: Option<PathBuf>,
    /// The account of a pizauth dump.
    #[arg(long, value_name = "NAME")]
    account: Option<String>,
    /// Import the pair that was superseded last at that portal, because it belongs to this one.
    #[arg(long, value_name = "PORTAL", conflicts_with_all = ["file", "account"])]
    aside_of: Option<String>,
    /// Import it even if it belongs to another owner than the portal's present grant.
    #[arg(long)]
    replace: bool,
    /// Do not ask for confirmation of `--replace`.
    #[arg(long, requires = "replace")]
    yes: bool,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

pub(super) async fn run(common: &Common, arguments: &Arguments) -> Result<Exit, CommandError> {
    let portal = &arguments.portal;
    let question = format!("Replace the grant of {portal} even if this one is another portal's?");
    if arguments.replace && !arguments.yes && !terminal::confirm(&question) {
        return Err(CommandError::new(
            Exit::Usage,
            format!("{portal}: not accepted; confirm --replace with --yes"),
        ));
    }
    let grant = match &arguments.aside_of {
        Some(at) => ImportInput::AsideOf(at.clone()),
        None => ImportInput::Grant(read(arguments)?),
    };
    let client = connect(common).await?;
    let imported = client.import(portal, grant, arguments.replace).await;
    client.close().await;
    let imported = match imported {
        Err(failure) if arguments.json => {
            let outcome =
                json!({ "portal": portal, "outcome": "refused", "detail": failure.message() });
            let is_refused = failure.exit() == Exit::Data;
            if is_refused {
                print(&outcome);
            }
            return Err(failure);
        }
        imported => imported?,
    };
    if arguments.json {
        print(&imported);
    }
    let (exit, sentence) = describe(portal, &imported);
    match exit {
        Exit::Done if arguments.json => Ok(Exit::Done),
        Exit::Done => {
            terminal::eprintln(&sentence);
            Ok(Exit::Done)
        }
        exit => Err(CommandError::new(exit, sentence)),
    }
}

pub(super) fn print(outcome: &Value) {
    terminal::print(&(serde_json::to_string_pretty(outcome).unwrap_or_default() + "\n"));
}

/// The result as text.
pub(super) fn describe(portal: &str, imported: &Value) -> (Exit, String) {
    let text = |key: &str| imported.get(key).and_then(Value::as_str);
    let detail = text("detail").unwrap_or_default();
    let is_kept = imported
        .get("kept")
        .and_then(Value::as_bool)
        .unwrap_or_default();
    // The grant that stays may be one that does not work.
    let phase = imported.pointer("/status/phase").and_then(Value::as_str);
    let dead = phase.filter(|phase| matches!(*phase, "needs-authorization" | "gone"));
    match text("outcome").unwrap_or_default() {
        "renewed" => {
            let generation = imported
                .get("generation")
                .and_then(Value::as_u64)
                .unwrap_or_default();
            let owner = [text("identity"), text("endpoint")]
                .into_iter()
                .flatten()
                .collect::<Vec<_>>()
                .join(", ");
            let of = if owner.is_empty() {
                String::new()
            } else {
                format!("; it is of {owner}")
            };
            (
                Exit::Done,
                format!(
                    "{portal}: the grant was imported and renewed (generation {generation}){of}"
                ),
            )
        }
        "refused" => {
            let rest = if let (true, Some(dead)) = (is_kept, dead) {
                format!(
                    "; the grant that {portal} has does not work either ({dead}). To do: refreshd authorize {portal}"
                )
            } else if is_kept {
                format!("; the grant that {portal} has stays as it is")
            } else {
                format!(
                    "; it is kept, and the server is asked about it again by itself. To do: get another grant: refreshd authorize \
                     {portal}; or drop it: refreshd forget {portal}"
                )
            };
            let what = if is_kept { "not accepted" } else { "refused" };
            (Exit::Data, format!("{portal}: {what}: {detail}{rest}"))
        }
        "superseded" => (
            Exit::TryAgain,
            format!(
                "{portal}: not accepted: a newer grant was imported meanwhile, or the portal was forgotten; see refreshd \
                 status {portal}"
            ),
        ),
        _ => {
            let again = text("again_at")
                .map(|at| format!("; it is tried again at {at}"))
                .unwrap_or_default();
            let goes_on = if let (true, Some(dead)) = (is_kept, dead) {
                format!(" beside the one that {portal} has, which does not work ({dead})")
            } else if is_kept {
                format!(", and the grant that {portal} has stays in force")
            } else {
                String::new()
            };
            (
                Exit::TryAgain,
                format!(
                    "{portal}: the grant is stored{goes_on}, but it cannot be verified now: {detail}{again}"
                ),
            )
        }
    }
}

fn read(arguments: &Arguments) -> Result<Vec<u8>, CommandError> {
    let mut bytes = Vec::new();
    let limit = MAX_LENGTH as u64 + 1;
    let read = match arguments
        .file
        .as_ref()
        .filter(|file| file.as_os_str() != "-")
    {
        Some(file) => std::fs::File::open(file)
            .and_then(|file| file.take(limit).read_to_end(&mut bytes))
            .map_err(|error| (file.display().to_string(), error)),
        None => {
            if std::io::stdin().is_terminal() {
                terminal::eprintln("paste the grant and end with Ctrl-D:");
            }
            let stdin = std::io::stdin().lock().take(limit).read_to_end(&mut bytes);
            stdin.map_err(|error| ("standard input".to_owned(), error))
        }
    };
    read.map_err(|(from, error)| {
        CommandError::new(Exit::NoInput, format!("cannot read {from}: {error}"))
    })?;
    let rejected = |why: String| {
        CommandError::new(
            Exit::Data,
            format!("{}: not accepted: {why}", arguments.portal),
        )
    };
    let account = arguments.account.as_deref();
    if bytes.len() > MAX_LENGTH {
        return Err(rejected(format!("it is longer than {MAX_LENGTH} bytes")));
    }
    if let Some(text) = as_text(&bytes) {
        return match local_name(&text) {
            _ if account.is_some() => Err(rejected(
                "--account chooses from a dump of pizauth, and this is none".to_owned(),
            )),
            Some(what) => Err(rejected(what.to_owned())),
            None => Ok(bytes),
        };
    }
    match pizauth::open(&bytes) {
        Err(DumpError::NotADump) if account.is_none() && may_be_a_reply(&bytes) => Ok(bytes),
        Err(error) => Err(rejected(error.to_string())),
        Ok(accounts) => {
            let chosen = pizauth::choose(accounts, account, &arguments.portal);
            let account = chosen.map_err(|error| rejected(error.to_string()))?;
            grant(account).map(String::into_bytes).map_err(rejected)
        }
    }
}

/// Decodes text; Windows writes UTF-16.
fn as_text(bytes: &[u8]) -> Option<String> {
    let text = match body_decoding::decode(bytes) {
        Cow::Owned(text) if text.trim_ascii().is_ascii() => text,
        _ => bytes.to_vec(),
    };
    String::from_utf8(text).ok()
}

/// Describes a word that is a name on this machine or of a file instead of a token.
fn local_name(text: &str) -> Option<&'static str> {
    let word = text.trim();
    if word.is_empty()
        || word.len() > 4096
        || word.contains(char::is_whitespace)
        || word.starts_with(['{', '[', '"'])
    {
        return None;
    }
    if rustix::system::uname()
        .nodename()
        .to_str()
        .is_ok_and(|name| name == word)
    {
        Some("it is the name of this machine, and no refresh token")
    } else if std::path::Path::new(word).exists() {
        Some("it is the name of a file; give the file itself: refreshd import PORTAL FILE")
    } else {
        None
    }
}

/// An account's grant as a token response.
fn grant(
    Account {
        name,
        client_id,
        refresh,
    }: Account,
) -> Result<String, String> {
    let refresh = refresh.ok_or_else(|| {
        format!(
            "account {name} of pizauth has no refresh token, and without one there is nothing to renew with"
        )
    })?;
    Ok(json!({ "refresh_token": refresh.expose(), "client_id": client_id }).to_string())
}
