//! `refreshd import`: takes an existing grant from a file or standard input, never from an argument.

use std::io::{IsTerminal as _, Read as _};
use std::path::PathBuf;

use clap::Args;
use serde_json::Value;

use super::exit::{Exit, Failure};
use super::reach::{Reach, not_done, reach};
use super::{Common, screen};
use crate::domain::intake::LONGEST;

#[derive(Debug, Args)]
#[command(
    after_help = "Takes a token reply in JSON (what `oint bitrix24 GetToken` prints), a CRest settings.json, or a bare\nrefresh token. Whoever held it before must not use it any more: a refresh token works once.\n\nExamples:\n  oint bitrix24 GetToken … | refreshd import acme\n  refreshd import acme /srv/www/app/settings.json\n\nExit codes: 0 taken in, 64 usage, 65 not a grant, or another portal's, 66 unknown portal or file,\n69 daemon unavailable, 77 no permission, 78 configuration."
)]
pub(super) struct Arguments {
    /// For which portal of the configuration.
    portal: String,
    /// The file; `-` or nothing is standard input.
    file: Option<PathBuf>,
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
    String::from_utf8(bytes).map_err(|_| Failure::new(Exit::Data, "what was handed over is not text"))
}
