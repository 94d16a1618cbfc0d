//! `refreshd reload`: the running daemon reads its configuration again, and this command prints what that changed, or every
//! problem for which it changed nothing.
//!
//! Must not judge the configuration itself while there is a daemon: the daemon's secrets and environment are its own.

use clap::Args;
use serde_json::{Value, json};

use super::client::NotReloaded;
use super::common::Common;
use super::connect::{daemon_of_file, load, no_daemon};
use super::exit::{CommandError, Exit};
use super::terminal;
use crate::daemon::{ChangedNames, Reloaded};

/// Version of what `--json` prints.
const VERSION: u32 = 1;
/// Names in one line; `--json` has more.
const MAX_SHOWN: usize = 10;

#[derive(Debug, Args)]
#[command(
    after_help = "The daemon reads the file that it was started with; --config only says where its control socket is.\n\nExamples:\n  refreshd reload\n  refreshd check && refreshd reload\n  refreshd reload --json | jq -r '.restart[].key'\n\nExit codes: 0 the new configuration is in force, 64 usage, 69 no daemon, or its state cannot be used, 74 output not written, 75 try again later, 77 no permission, 78 configuration: nothing was changed."
)]
pub(super) struct Arguments {
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

pub(super) async fn run(common: &Common, arguments: &Arguments) -> Result<Exit, CommandError> {
    let Some(client) = daemon_of_file(common).await? else {
        // If the configuration is too broken to name its socket, its problems are printed.
        let config = load(common)?;
        return Err(no_daemon(common, config).await);
    };
    match client.reload().await {
        Ok(done) if arguments.json => print_json(&done, true),
        Ok(done) => tell(&done),
        Err(NotReloaded { error, findings }) => {
            if arguments.json {
                let body = json!({ "error": error.message(), "findings": findings });
                print_json(&body, false);
                return Ok(error.exit());
            }
            return Err(refusal(error, findings.len()));
        }
    }
    Ok(Exit::Done)
}

fn print_json(body: &impl serde::Serialize, reloaded: bool) {
    let mut body = json!(body);
    if let Value::Object(body) = &mut body {
        body.insert("version".to_owned(), VERSION.into());
        body.insert("reloaded".to_owned(), reloaded.into());
    }
    terminal::print(&(serde_json::to_string_pretty(&body).unwrap_or_default() + "\n"));
}

/// Prints the problems of a refused configuration as `refreshd check` does.
fn refusal(error: CommandError, problems: usize) -> CommandError {
    if error.exit() != Exit::Configuration {
        return error;
    }
    let first = match problems {
        0 => "the configuration is not taken".to_owned(),
        1 => "1 problem in the configuration".to_owned(),
        problems => format!("{problems} problems in the configuration"),
    };
    let message = format!(
        "{first}; nothing was changed, the old one stays in force\n{}",
        error.message()
    );
    CommandError::new(Exit::Configuration, message)
}

fn tell(done: &Reloaded) {
    for finding in &done.findings {
        terminal::eprintln(&finding.to_string());
    }
    if done.config.as_os_str().is_empty() {
        // A daemon of an older version.
        return terminal::eprintln("the configuration was reloaded");
    }
    let plural = if done.portals == 1 { "" } else { "s" };
    terminal::eprintln(&format!(
        "{}: the configuration was reloaded; {} portal{plural}",
        done.config.display(),
        done.portals
    ));
    for (what, names) in [
        ("added", &done.added),
        ("changed", &done.changed),
        ("dropped", &done.dropped),
    ] {
        if names.count > 0 {
            terminal::eprintln(&format!("{what}: {}", listed(names)));
        }
    }
    if !done.apps.is_empty() {
        let names: Vec<_> = done
            .apps
            .iter()
            .map(|name| format!("[apps.{name}]"))
            .collect();
        terminal::eprintln(&format!("other than before: {}", names.join(", ")));
    }
    for key in &done.restart {
        terminal::eprintln(&format!("{key}: systemctl restart refreshd"));
    }
}

fn listed(ChangedNames { count, names }: &ChangedNames) -> String {
    let shown = &names[..names.len().min(MAX_SHOWN)];
    match count - shown.len() {
        0 => shown.join(", "),
        more if shown.is_empty() => format!("{more} portals"),
        more => format!("{} and {more} more", shown.join(", ")),
    }
}
