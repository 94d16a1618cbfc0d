//! The command line: what a person or a script types. One file per command.
//!
//! Must not know how anything works: commands read arguments, call the configuration and the daemon, and say what
//! happened. `--json` goes to standard output; what is for people goes to standard error, or is a table.

mod alert_list;
mod alert_test;
mod authorize;
mod check;
mod client;
mod completions;
mod connect;
mod demo;
mod exit;
mod forget;
mod import;
mod install;
mod introspect;
mod provider;
mod recover;
mod renew;
mod run;
mod runtime;
mod sandbox;
mod silence;
mod status;
mod terminal;
mod token;

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, CommandFactory as _, Parser, Subcommand};

pub use exit::Exit;

use crate::adapters::log;

/// Keeps OAuth 2.0 access tokens fresh, and writes them where other processes read them.
#[derive(Debug, Parser)]
#[command(name = "refreshd", version, max_term_width = 100, after_help = EXAMPLES)]
struct Cli {
    #[command(subcommand)]
    command: Command,
    #[command(flatten)]
    common: Common,
}

const EXAMPLES: &str = "\
Examples:
  refreshd demo                              see renewal, escalation and recovery in two minutes
  refreshd check --config refreshd.toml      find every mistake in a configuration
  refreshd authorize acme                    get a portal's first grant, in a browser
  refreshd import acme < reply.json          or hand one over
  refreshd run                               the daemon, as systemd starts it
  refreshd status --watch                    look at it
  curl -H @<(refreshd token acme --format header) https://acme.bitrix24.com/rest/profile

Exit codes: 0 done, 1 not fresh, 64 usage, 65 not a grant, 66 unknown portal, 69 daemon or server
unavailable, 75 try again later, 77 no permission, 78 configuration.";

/// What every command knows.
#[derive(Debug, Clone, Args)]
struct Common {
    /// The configuration file.
    #[arg(long, short, global = true, value_name = "FILE", default_value = crate::config::DEFAULT_PATH, env = "REFRESHD_CONFIG")]
    config: PathBuf,
    /// The control socket of the daemon to talk to, instead of the configuration's.
    #[arg(long, global = true, value_name = "PATH", env = "REFRESHD_SOCKET")]
    socket: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the daemon in the foreground.
    #[command(after_help = run::HELP)]
    Run,
    /// Find every problem of a configuration at once.
    Check(check::Arguments),
    /// Show the portals: phase, time left, next renewal, what is wrong.
    Status(status::Arguments),
    /// Print a portal's access token, renewed first if need be.
    Token(token::Arguments),
    /// Renew portals now.
    Renew(renew::Arguments),
    /// Authorize a portal in a browser: its first grant, or its next.
    Authorize(authorize::Arguments),
    /// Take in a grant: a token reply, settings.json, a refresh token, a dump of pizauth.
    Import(import::Arguments),
    /// Installs of another user than the grant's: list, accept, refuse.
    #[command(subcommand, after_help = install::HELP)]
    Install(install::InstallCommand),
    /// Replies that could not be read: take in what can be read by now, show or discard them.
    Recover(recover::Arguments),
    /// Ask the authorization server what a portal's token is worth.
    Introspect(introspect::Arguments),
    /// Remove a portal's grant and its token files.
    Forget(forget::Arguments),
    /// Leave people in peace about a portal, or everything, for a while.
    Silence(silence::Arguments),
    /// Alerts: what is open, who takes it on, and whether they arrive.
    #[command(subcommand, after_help = ALERT_HELP)]
    Alert(Alert),
    /// Providers: which there are, and a profile as it is in force.
    #[command(subcommand, after_help = PROVIDER_HELP)]
    Provider(Provider),
    /// See it work: a stand-in authorization server, three portals, a failure and a recovery.
    Demo(demo::Arguments),
    /// Print a completion script for a shell.
    Completions(completions::Arguments),
    /// Print the manual page.
    #[command(after_help = completions::MANUAL_HELP)]
    Man,
    /// Run the stand-in authorization server alone, for tests.
    #[command(hide = true)]
    Sandbox(sandbox::Arguments),
}

const ALERT_HELP: &str = "\
Examples:
  refreshd alert test                        see whether alerts arrive
  refreshd alert list                        see what is open
  refreshd alert acknowledge acme            take it on

Exit codes: 0 done, 1 something is open, 64 usage, 66 unknown channel or incident, 69 no daemon, or a receiver
did not take it, 77 no permission, 78 configuration.";

const PROVIDER_HELP: &str = "\
Examples:
  refreshd provider list                     see which there are
  refreshd provider show bitrix24            see one

Exit codes: 0 done, 64 usage, 66 unknown provider, 78 configuration.";

#[derive(Debug, Subcommand)]
enum Provider {
    /// Show which providers there are.
    List(provider::ListArguments),
    /// Print a profile as it is in force, as TOML.
    Show(provider::ShowArguments),
}

#[derive(Debug, Subcommand)]
enum Alert {
    /// Show open incidents, silences, and how the channels are.
    List(alert_list::ListArguments),
    /// Send a test through every channel, or one, and show what the receiver answers.
    Test(alert_test::Arguments),
    /// Take an incident on: it is not repeated until it gets worse.
    Acknowledge(alert_list::AcknowledgeArguments),
}

/// How long the end of a process waits for the reader of its log.
const HELP_FOOTER: Duration = Duration::from_secs(2);

/// Runs the command that the arguments name.
#[must_use]
pub fn main() -> Exit {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // Help and version are no errors; nothing can be said if even this cannot be printed.
            let _ = error.print();
            return if error.use_stderr() {
                Exit::Usage
            } else {
                Exit::Done
            };
        }
    };
    let common = cli.common;
    runtime::protect_memory();
    let is_daemon = matches!(cli.command, Command::Run);
    let threads = match cli.command {
        Command::Run => {
            runtime::raise_descriptor_limit();
            runtime::DAEMON
        }
        _ => runtime::COMMAND,
    };
    let runtime = match runtime::runtime(threads) {
        Ok(runtime) => runtime,
        Err(why) if is_daemon => return terminal::fail_unheard(Exit::Unavailable, &why),
        Err(why) => return terminal::fail(Exit::Unavailable, &why),
    };
    let done = runtime.block_on(async {
        match cli.command {
            Command::Run => Box::pin(run::run(&common)).await,
            Command::Check(arguments) => check::run(&common, &arguments).await,
            Command::Status(arguments) => status::run(&common, &arguments).await,
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
            Command::Demo(arguments) => demo::run(&arguments).await,
            Command::Completions(arguments) => {
                completions::completions(&arguments, &mut Cli::command())
            }
            Command::Man => completions::manual(Cli::command()),
            Command::Sandbox(arguments) => sandbox::run(&arguments).await,
        }
    });
    // Reading standard input blocks a thread that nobody needs any more.
    runtime.shutdown_background();
    log::flush(HELP_FOOTER);
    done.unwrap_or_else(|failure| {
        if is_daemon {
            failure.say_unheard()
        } else {
            failure.say()
        }
    })
}
