//! `refreshd recover`: stored responses that could not be parsed. Recovers what can be parsed now; shows or deletes the rest.
//!
//! Must not print a byte of a response except for `--show`, and not on a terminal without confirmation.

use clap::Args;
use serde_json::{Value, json};

use super::client::Client;
use super::common::Common;
use super::connect::{connect_to_read_state, connect_to_state};
use super::exit::{CommandError, Exit};
use super::terminal;
use crate::daemon::KeptReplyView;

#[derive(Debug, Args)]
#[command(
    after_help = "A successful response that could not be parsed may contain the new token pair, while the old refresh token is spent. Such responses are stored until the next successful renewal; `status` shows which portals have one. The daemon parses them again at every start, and so does this command.\n\nExamples:\n  refreshd recover acme                      parse again, and store the token pair\n  refreshd recover acme --show > reply.bin   the bytes as received: they may contain tokens\n  refreshd recover acme --show=2 | less      the second one\n  refreshd recover acme --discard\n\nTo store a token pair that you find in one: refreshd import acme\n\nExit codes: 0 done, 64 usage, or not confirmed, 65 none can be parsed, or the portal has another grant by now, 66 unknown portal, or none is stored, 69 daemon unavailable, 74 output not written, 75 a renewal is under way, 77 no permission, 78 configuration."
)]
pub(super) struct Arguments {
    /// The portal.
    portal: String,
    /// Write the bytes of a stored response to standard output; the first one unless a number is given.
    #[arg(long, value_name = "NUMBER", num_args = 0..=1, require_equals = true, default_missing_value = "1", conflicts_with_all = ["discard", "json"])]
    show: Option<usize>,
    /// Delete the stored responses.
    #[arg(long)]
    discard: bool,
    /// Do not ask for confirmation.
    #[arg(long)]
    yes: bool,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

pub(super) async fn run(common: &Common, arguments: &Arguments) -> Result<Exit, CommandError> {
    let portal = &arguments.portal;
    let client = connect(common, arguments).await?;
    let done = work(&client, arguments).await;
    client.close().await;
    let done = done?;
    match done {
        RecoverResult::Body(bytes) => terminal::print_bytes(&bytes),
        RecoverResult::Json(json) => terminal::print(&format!("{json:#}\n")),
        RecoverResult::Recovered(generation) => {
            terminal::eprintln(&format!(
                "{portal}: the grant of a kept reply was accepted (generation {generation})"
            ));
        }
        RecoverResult::Discarded(count) => {
            terminal::eprintln(&format!("{portal}: {count} kept replies were removed"));
        }
    }
    Ok(Exit::Done)
}

/// Without a daemon the state is opened for writing only if it will change.
async fn connect(common: &Common, arguments: &Arguments) -> Result<Client, CommandError> {
    let looking = connect_to_read_state(common).await?;
    if looking.is_daemon() || arguments.show.is_some() {
        return Ok(looking);
    }
    let will_change = |reply: &KeptReplyView| arguments.discard || reply.current && reply.readable;
    match looking.kept(&arguments.portal).await {
        Ok(kept) if kept.iter().any(will_change) => {
            looking.close().await;
            connect_to_state(common).await
        }
        Ok(_) | Err(_) => Ok(looking),
    }
}

/// Result of a recovery.
enum RecoverResult {
    Body(Vec<u8>),
    Json(Value),
    Recovered(u64),
    Discarded(usize),
}

async fn work(client: &Client, arguments: &Arguments) -> Result<RecoverResult, CommandError> {
    let Arguments {
        portal,
        show,
        discard,
        yes,
        json,
    } = arguments;
    let kept = client.kept(portal).await?;
    if let Some(number) = show {
        let question = format!("Print reply {number} of {portal}? It may hold tokens that work.");
        if terminal::is_terminal() && !yes && !terminal::confirm(&question) {
            let message = "not printed on a terminal; confirm with --yes, or send it to a file";
            return Err(CommandError::new(Exit::Usage, message));
        }
        let body = client.kept_body(portal, *number).await;
        return body.map(RecoverResult::Body);
    }
    if *discard {
        let question = format!(
            "Remove {} kept replies of {portal}? A pair in them is lost then.",
            kept.len()
        );
        if !kept.is_empty() && !yes && !terminal::confirm(&question) {
            return Err(CommandError::new(
                Exit::Usage,
                "nothing was removed; confirm with --yes",
            ));
        }
        let discarded = if kept.is_empty() {
            0
        } else {
            client.discard(portal).await?
        };
        let outcome = json!({"portal": portal, "outcome": "discarded", "discarded": discarded});
        return Ok(if *json {
            RecoverResult::Json(outcome)
        } else {
            RecoverResult::Discarded(discarded)
        });
    }
    let recovered = client.recover(portal).await;
    if !json {
        kept.iter()
            .for_each(|reply| terminal::eprintln(&line(portal, reply)));
    } else if recovered.is_err() {
        // Stored responses are listed all the same.
        terminal::print(&format!(
            "{:#}\n",
            json!({"portal": portal, "outcome": "kept", "replies": kept})
        ));
    }
    let outcome = recovered?;
    let generation = outcome
        .get("generation")
        .and_then(Value::as_u64)
        .unwrap_or_default();
    Ok(if *json {
        RecoverResult::Json(outcome)
    } else {
        RecoverResult::Recovered(generation)
    })
}

/// One stored response in a line.
fn line(portal: &str, reply: &KeptReplyView) -> String {
    let KeptReplyView {
        number,
        at,
        answers,
        status,
        content_type,
        content_encoding,
        whole,
        bytes,
        current,
        readable,
    } = reply;
    let kind: Vec<_> = [content_type.as_deref(), content_encoding.as_deref()]
        .into_iter()
        .flatten()
        .collect();
    let kind = if kind.is_empty() {
        String::new()
    } else {
        format!(" of {}", kind.join(", "))
    };
    let cut = if *whole { "" } else { ", cut" };
    let state = match (current, readable) {
        (false, _) => "of an earlier grant",
        (true, true) => "can be read now",
        (true, false) => "cannot be read",
    };
    format!(
        "{portal}: reply {number} to the {answers} of {at}: status {status}, {bytes} bytes{kind}{cut}; {state}"
    )
}
