//! `refreshd completions` and `refreshd man`, generated from the arguments, for packaging.

use clap::{Args, Command};
use clap_complete::Shell;

use super::exit::{CommandError, Exit};
use super::terminal;

#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  refreshd completions bash > /usr/share/bash-completion/completions/refreshd\n  refreshd completions zsh > /usr/share/zsh/site-functions/_refreshd\n\nExit codes: 0 printed, 64 usage."
)]
pub(super) struct Arguments {
    /// The shell.
    shell: Shell,
}

#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  refreshd man | man -l -\n  refreshd man alert test > /usr/share/man/man1/refreshd-alert-test.1\n\nExit codes: 0 printed, 64 usage."
)]
pub(super) struct ManualArguments {
    /// The command whose page it is, for example `alert test` [default: refreshd itself].
    #[arg(value_name = "COMMAND")]
    command: Vec<String>,
}

pub(super) fn completions(
    arguments: &Arguments,
    command: &mut Command,
) -> Result<Exit, CommandError> {
    let mut script = Vec::new();
    clap_complete::generate(arguments.shell, command, "refreshd", &mut script);
    print(script)
}

pub(super) fn manual(arguments: &ManualArguments, command: Command) -> Result<Exit, CommandError> {
    // A page refers to those of its subcommands, and `help` has none.
    let mut command = command.disable_help_subcommand(true);
    command.build();
    let mut described = &command;
    for name in &arguments.command {
        described = described
            .find_subcommand(name)
            .ok_or_else(|| CommandError::new(Exit::Usage, format!("no command `{name}`")))?;
    }
    let mut page = Vec::new();
    let rendered = clap_mangen::Man::new(described.clone())
        .source(concat!("refreshd ", env!("CARGO_PKG_VERSION")))
        .render(&mut page);
    rendered.map_err(|error| {
        CommandError::new(
            Exit::Unavailable,
            format!("cannot write the manual page: {error}"),
        )
    })?;
    print(page)
}

fn print(bytes: Vec<u8>) -> Result<Exit, CommandError> {
    let text =
        String::from_utf8(bytes).map_err(|_| CommandError::new(Exit::Unavailable, "not text"))?;
    terminal::print(&text);
    Ok(Exit::Done)
}
