//! The command line. One file per command.
//!
//! Must not contain logic of its own: commands parse arguments, call the configuration and the API, and print the result.
//! `--json` goes to standard output; text for people goes to standard error, or is a table.

mod alert_list;
mod alert_test;
mod authorize;
mod check;
mod check_service;
mod client;
mod common;
mod completions;
mod connect;
#[cfg(feature = "demo")]
mod demo;
mod exit;
mod findings;
mod forget;
mod health;
mod import;
mod init;
mod install;
mod interruption;
mod introspect;
mod provider;
mod recover;
mod reload;
mod renew;
mod run;
mod runtime;
#[cfg(feature = "demo")]
mod sandbox;
mod silence;
mod status;
mod terminal;
mod token;

use std::time::Duration;

use clap::{CommandFactory as _, Parser, Subcommand};

use exit::CommandError;
pub use exit::Exit;

use common::Common;

use crate::adapters::log;

/// Keeps OAuth 2.0 access tokens fresh and writes them to files for other processes.
#[derive(Debug, Parser)]
#[command(name = "refreshd", version, max_term_width = 100, after_help = examples())]
struct Cli {
    #[command(subcommand)]
    command: Command,
    #[command(flatten)]
    common: Common,
}

/// Usage example of the demo, if it is compiled in.
const DEMO: &str = if cfg!(feature = "demo") {
    "  refreshd demo                              renewal, escalation and recovery in two minutes\n"
} else {
    ""
};

fn examples() -> String {
    format!("Examples:\n{DEMO}{EXAMPLES}")
}

const EXAMPLES: &str = "\
  sudo refreshd init                         write a first configuration
  refreshd check --config refreshd.toml      find every mistake in a configuration
  refreshd authorize acme                    get a portal's first grant, in a browser
  refreshd import acme < reply.json          or import an existing grant
  refreshd run                               run the daemon, as systemd does
  refreshd status --watch                    watch the portals
  curl -H @<(refreshd token acme --format header) https://acme.bitrix24.com/rest/profile

Exit codes: 0 done, 1 not fresh, 64 usage, 65 not a grant, 66 unknown portal, 69 daemon or server unavailable, 74 output not written, 75 try again later, 77 no permission, 78 configuration.";

#[derive(Debug, Subcommand)]
enum Command {
    /// Write a first configuration, from a few questions or from options.
    Init(init::Arguments),
    /// Run the daemon in the foreground.
    #[command(after_help = run::HELP)]
    Run,
    /// Find every problem of a configuration at once.
    Check(check::Arguments),
    /// Make the running daemon read its configuration again, and show what changed.
    Reload(reload::Arguments),
    /// Show the portals: phase, time left, next renewal, what is wrong.
    Status(status::Arguments),
    /// Check that the daemon works.
    Health(health::Arguments),
    /// Print a portal's access token; renew it first if needed.
    Token(token::Arguments),
    /// Renew portals now.
    Renew(renew::Arguments),
    /// Authorize a portal in a browser.
    Authorize(authorize::Arguments),
    /// Import an existing grant: a token response, settings.json or a refresh token.
    Import(import::Arguments),
    /// Decide disputed installs: list, accept, refuse.
    #[command(subcommand, after_help = install::HELP)]
    Install(install::InstallCommand),
    /// Recover token pairs from stored responses that could not be parsed.
    Recover(recover::Arguments),
    /// Introspect a portal's access token at the authorization server (RFC 7662).
    Introspect(introspect::Arguments),
    /// Delete a portal's grant and token files; optionally revoke the grant (RFC 7009).
    Forget(forget::Arguments),
    /// Suppress notifications for a portal, or for everything, for a time.
    Silence(silence::Arguments),
    /// List and acknowledge incidents; test the alert channels.
    #[command(subcommand, after_help = ALERT_HELP)]
    Alert(Alert),
    /// List the providers; print a profile.
    #[command(subcommand, after_help = PROVIDER_HELP)]
    Provider(Provider),
    /// Run a demo: a fake authorization server, three portals, a failure and a recovery.
    #[cfg(feature = "demo")]
    Demo(demo::Arguments),
    /// Print a completion script for a shell.
    Completions(completions::Arguments),
    /// Print the manual page of refreshd, or of a command.
    Man(completions::ManualArguments),
    /// Run the fake authorization server alone, for tests.
    #[cfg(feature = "demo")]
    #[command(hide = true)]
    Sandbox(sandbox::Arguments),
}

const ALERT_HELP: &str = "\
Examples:
  refreshd alert test                        send a test notification
  refreshd alert list                        list open incidents
  refreshd alert acknowledge acme            acknowledge acme's incidents

Exit codes: 0 done, 1 at least one incident is open, 64 usage, 66 unknown channel or incident, 69 no daemon, or a receiver rejected the test, 74 output not written, 77 no permission, 78 configuration.";

const PROVIDER_HELP: &str = "\
Examples:
  refreshd provider list                     list the providers
  refreshd provider show bitrix24            print one profile
  refreshd provider keys                     print the keys that a profile may have

Exit codes: 0 done, 64 usage, 66 unknown provider, 74 output not written, 78 configuration.";

#[derive(Debug, Subcommand)]
enum Provider {
    /// List the providers.
    List(provider::ListArguments),
    /// Print the effective profile of a provider or app as TOML.
    Show(provider::ShowArguments),
    /// Print the keys that a profile may have, with examples, as TOML or Markdown.
    Keys(provider::KeysArguments),
}

#[derive(Debug, Subcommand)]
enum Alert {
    /// List open incidents and silences, and the state of the channels.
    List(alert_list::ListArguments),
    /// Send a test notification to every channel, or to one, and show the answers.
    Test(alert_test::Arguments),
    /// Acknowledge an incident: it is not notified again until it gets worse.
    Acknowledge(alert_list::AcknowledgeArguments),
}

/// Maximum wait for the log's reader at the end of a process.
const LOG_FLUSH_TIMEOUT: Duration = Duration::from_secs(2);

/// Returns whether a command runs until it is stopped, and handles signals by itself.
const fn is_server(command: &Command) -> bool {
    match command {
        Command::Run => true,
        #[cfg(feature = "demo")]
        Command::Demo(_) | Command::Sandbox(_) => true,
        _ => false,
    }
}

/// Runs the command line.
#[must_use]
pub fn main() -> Exit {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            let printed = error.print();
            // Help and version are not errors.
            return match printed {
                _ if error.use_stderr() => Exit::Usage,
                Ok(()) => Exit::Done,
                Err(unwritten) => {
                    terminal::note_unwritten(unwritten);
                    written(Exit::Done)
                }
            };
        }
    };
    let common = cli.common;
    runtime::protect_memory();
    let is_daemon = matches!(cli.command, Command::Run);
    runtime::raise_descriptor_limit();
    let threads = if is_daemon {
        runtime::DAEMON
    } else {
        runtime::COMMAND
    };
    let runtime = match runtime::runtime(threads) {
        Ok(runtime) => runtime,
        Err(why) if is_daemon => {
            return CommandError::new(Exit::Unavailable, why).print_without_waiting();
        }
        Err(why) => return CommandError::new(Exit::Unavailable, why).print(),
    };
    let serves = is_server(&cli.command);
    let command = async {
        match cli.command {
            Command::Run => Box::pin(run::run(&common)).await,
            Command::Init(arguments) => init::run(&common, &arguments).await,
            Command::Check(arguments) => check::run(&common, &arguments).await,
            Command::Reload(arguments) => reload::run(&common, &arguments).await,
            Command::Status(arguments) => status::run(&common, &arguments).await,
            Command::Health(arguments) => health::run(&common, &arguments).await,
            Command::Token(arguments) => token::run(&common, &arguments).await,
            Command::Renew(arguments) => renew::run(&common, &arguments).await,
            Command::Authorize(arguments) => authorize::run(&common, &arguments).await,
            Command::Import(arguments) => import::run(&common, &arguments).await,
            Command::Install(install) => install::run(&common, &install).await,
            Command::Recover(arguments) => recover::run(&common, &arguments).await,
            Command::Introspect(arguments) => introspect::run(&common, &arguments).await,
            Command::Forget(arguments) => forget::run(&common, &arguments).await,
            Command::Silence(arguments) => silence::run(&common, &arguments).await,
            Command::Alert(Alert::Test(arguments)) => alert_test::run(&common, &arguments).await,
            Command::Alert(Alert::List(arguments)) => alert_list::list(&common, &arguments).await,
            Command::Alert(Alert::Acknowledge(arguments)) => {
                alert_list::acknowledge(&common, &arguments).await
            }
            Command::Provider(Provider::List(arguments)) => provider::list(&common, &arguments),
            Command::Provider(Provider::Show(arguments)) => provider::show(&common, &arguments),
            Command::Provider(Provider::Keys(arguments)) => Ok(provider::keys(&arguments)),
            #[cfg(feature = "demo")]
            Command::Demo(arguments) => demo::run(&arguments).await,
            Command::Completions(arguments) => {
                completions::completions(&arguments, &mut Cli::command())
            }
            Command::Man(arguments) => completions::manual(&arguments, Cli::command()),
            #[cfg(feature = "demo")]
            Command::Sandbox(arguments) => sandbox::run(&arguments).await,
        }
    };
    let done = runtime.block_on(async {
        if serves {
            return command.await;
        }
        tokio::select! {
            // A response received just now is printed.
            biased;
            done = command => done,
            Ok(exit) = interruption::interrupted() => Ok(exit),
        }
    });
    // Reading standard input may block a thread that is no longer needed.
    runtime.shutdown_background();
    log::flush(LOG_FLUSH_TIMEOUT);
    match done {
        Ok(exit) => written(exit),
        Err(failure) if is_daemon => failure.print_without_waiting(),
        Err(failure) => failure.print(),
    }
}

/// The exit status of a command that is done, unless its result could not be written.
fn written(exit: Exit) -> Exit {
    match (exit, terminal::unwritten()) {
        (Exit::Interrupted(_), _) | (_, None) => exit,
        (_, Some(error)) => CommandError::new(
            Exit::Output,
            format!(
                "the result could not be written to standard output ({error}); what the command did is done"
            ),
        )
        .print(),
    }
}
