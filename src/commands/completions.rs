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

pub(super) const MANUAL_HELP: &str = "\
Examples:
  refreshd man | man -l -
  refreshd man > /usr/share/man/man1/refreshd.1

Exit codes: 0 printed, 64 usage.";

pub(super) fn completions(
    arguments: &Arguments,
    command: &mut Command,
) -> Result<Exit, CommandError> {
    let mut script = Vec::new();
    clap_complete::generate(arguments.shell, command, "refreshd", &mut script);
    print(script)
}

pub(super) fn manual(command: Command) -> Result<Exit, CommandError> {
    let mut page = Vec::new();
    let rendered = clap_mangen::Man::new(command).render(&mut page);
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
