//! The only access to the terminal: results on standard output, messages on standard error.
//!
//! Must not show a secret except for commands that print one. Colours and tables only on a terminal; `NO_COLOR` is respected.

use std::io::{self, ErrorKind, IsTerminal as _, Write as _};
use std::sync::{OnceLock, mpsc};
use std::thread::Builder;
use std::time::Duration;

use comfy_table::{Attribute, Cell, Color, ContentArrangement, Table, presets};

use rustix::termios::{LocalModes, OptionalActions, tcgetattr, tcsetattr};
use secrecy::SecretString;

use crate::adapters::systemd::has_journal;
use crate::domain::display_level::DisplayLevel;
use refreshd_secrets::mask::line;

/// Maximum wait for the reader of a daemon's last message.
const MESSAGE_TIMEOUT: Duration = Duration::from_secs(1);

/// The first error of writing a result.
static UNWRITTEN: OnceLock<io::Error> = OnceLock::new();

/// Prints a result. A closed pipe is not an error; others end the command with [`unwritten`].
pub(super) fn print(text: &str) {
    print_bytes(text.as_bytes());
}

/// Prints raw bytes.
pub(super) fn print_bytes(bytes: &[u8]) {
    let mut out = io::stdout().lock();
    if let Err(error) = out.write_all(bytes).and_then(|()| out.flush()) {
        note_unwritten(error);
    }
}

/// Records that a result could not be written.
pub(super) fn note_unwritten(error: io::Error) {
    // The first one counts.
    let _ = UNWRITTEN.set(error);
}

/// Returns whether nothing more can be written: a reader has closed the pipe, or a disk is full.
pub(super) fn is_cut_off() -> bool {
    UNWRITTEN.get().is_some()
}

/// Error of an unwritten result; `None` if all were written, or the reader has closed the pipe.
pub(super) fn unwritten() -> Option<&'static io::Error> {
    UNWRITTEN
        .get()
        .filter(|error| error.kind() != ErrorKind::BrokenPipe)
}

/// Prints a message.
pub(super) fn eprintln(text: &str) {
    let _ = writeln!(io::stderr().lock(), "{}", printable(text));
}

/// Removes unprintable characters except line feeds: external text must not control the terminal.
fn printable(text: &str) -> String {
    let lines: Vec<_> = text.split('\n').map(line).collect();
    lines.join("\n")
}

/// Prints an error message.
pub(super) fn fail(message: &str) {
    eprintln(&error(message));
}

/// An error message; in the journal each of its lines has the priority of an error (sd-daemon(3)).
fn error(message: &str) -> String {
    let text = format!("refreshd: {message}");
    if !has_journal() {
        return text;
    }
    let lines: Vec<_> = text.lines().map(|line| format!("<3>{line}")).collect();
    lines.join("\n")
}

/// The same if standard error may block: a daemon that cannot start must exit, even if its log is full.
pub(super) fn fail_without_waiting(message: &str) {
    let (done, finished) = mpsc::channel();
    let text = error(message);
    let thread = Builder::new().name("last word".to_owned()).spawn(move || {
        eprintln(&text);
        // The receiver may be gone.
        let _ = done.send(());
    });
    match thread {
        Ok(_) => {
            let _ = finished.recv_timeout(MESSAGE_TIMEOUT);
        }
        Err(_) => fail(message),
    }
}

/// Returns whether standard output supports colours.
pub(super) fn is_colourful() -> bool {
    is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

/// Returns whether the user sits at a desktop with a browser.
pub(super) fn is_desktop() -> bool {
    let shown = |name| std::env::var_os(name).is_some_and(|value| !value.is_empty());
    io::stderr().is_terminal() && (shown("DISPLAY") || shown("WAYLAND_DISPLAY"))
}

/// Returns whether standard error is a terminal.
pub(super) fn is_stderr_terminal() -> bool {
    io::stderr().is_terminal()
}

/// Returns whether standard output is a terminal.
pub(super) fn is_terminal() -> bool {
    io::stdout().is_terminal()
}

/// Minimum width of tables, in columns.
const MIN_TABLE_WIDTH: u16 = 60;

/// Style of a cell.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum TableStyle {
    Plain,
    Good,
    Warning,
    Bad,
    Quiet,
}

impl From<DisplayLevel> for TableStyle {
    fn from(level: DisplayLevel) -> Self {
        match level {
            DisplayLevel::Bad => Self::Bad,
            DisplayLevel::Warning => Self::Warning,
            DisplayLevel::Idle => Self::Quiet,
            DisplayLevel::Good => Self::Good,
        }
    }
}

/// Formats rows under a heading: with rules and colours on a terminal, plain columns in a pipe.
pub(super) fn table(heading: &[&str], rows: Vec<Vec<(String, TableStyle)>>) -> String {
    let colour = is_colourful();
    let mut table = Table::new();
    if is_terminal() {
        // With an unknown or tiny width each line would get one character.
        let fit = match table.width() {
            Some(width) if width >= MIN_TABLE_WIDTH => ContentArrangement::Dynamic,
            _ => ContentArrangement::Disabled,
        };
        table
            .load_style(presets::UTF8_HORIZONTAL_ONLY)
            .set_content_arrangement(fit);
    } else {
        table
            .load_style(presets::NOTHING)
            .set_content_arrangement(ContentArrangement::Disabled);
    }
    table.set_header(heading.iter().map(|text| {
        let cell = Cell::new(text);
        if colour {
            cell.add_attribute(Attribute::Bold)
        } else {
            cell
        }
    }));
    for row in rows {
        table.add_row(row.into_iter().map(|(text, style)| {
            let cell = Cell::new(printable(&text));
            match style {
                _ if !colour => cell,
                TableStyle::Plain => cell,
                TableStyle::Good => cell.fg(Color::Green),
                TableStyle::Warning => cell.fg(Color::Yellow),
                TableStyle::Bad => cell.fg(Color::Red).add_attribute(Attribute::Bold),
                TableStyle::Quiet => cell.add_attribute(Attribute::Dim),
            }
        }));
    }
    table
        .lines()
        .map(|line| line.trim_end().to_owned() + "\n")
        .collect()
}

/// Asks for a line; an empty answer is the default. `None` at the end of the input.
pub(super) fn ask(question: &str, default: Option<&str>) -> Option<String> {
    let shown = default.map_or_else(String::new, |default| format!(" [{default}]"));
    let _ = write!(io::stderr().lock(), "{question}{shown}: ");
    let mut answer = String::new();
    let read = io::stdin().read_line(&mut answer).ok()?;
    let answer = answer.trim();
    match default {
        _ if read == 0 => None,
        Some(default) if answer.is_empty() => Some(default.to_owned()),
        _ => Some(answer.to_owned()),
    }
}

/// Asks for a secret: it is not shown as it is typed.
pub(super) fn ask_secret(question: &str) -> SecretString {
    let stdin = io::stdin();
    let before = tcgetattr(&stdin).ok();
    if let Some(mut silent) = before.clone() {
        silent.local_modes.remove(LocalModes::ECHO);
        let _ = tcsetattr(&stdin, OptionalActions::Flush, &silent);
    }
    let _ = write!(io::stderr().lock(), "{question}: ");
    let mut answer = String::new();
    // An error is an empty answer.
    let _ = stdin.read_line(&mut answer);
    if let Some(before) = before {
        let _ = tcsetattr(&stdin, OptionalActions::Now, &before);
        let _ = writeln!(io::stderr().lock());
    }
    SecretString::from(answer)
}

/// Asks a yes-or-no question; any answer but yes is no, and so is a missing terminal.
pub(super) fn confirm(question: &str) -> bool {
    if !io::stdin().is_terminal() {
        return false;
    }
    let _ = write!(io::stderr().lock(), "{question} [y/N] ");
    let mut answer = String::new();
    io::stdin().read_line(&mut answer).is_ok() && matches!(answer.trim(), "y" | "Y" | "yes")
}
