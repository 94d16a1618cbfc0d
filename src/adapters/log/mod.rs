//! Where log events go: lines for people, JSON, or the journal with the right priority.
//!
//! The daemon's log has a bounded queue and a thread of its own ([`LogWriter`]): a reader that stops reading must not stop
//! anything else. Must not know what is logged. Escalations of severity critical carry the event name [`CRITICAL`], since
//! tracing has no level above ERROR and the journal does.

mod importance;
mod journal;
mod queue;
mod sinks;

use std::io::{self, IsTerminal as _};
use std::sync::OnceLock;
use std::time::Duration;

use tracing::Metadata;
use tracing::field::Field;
use tracing_subscriber::field::MakeExt as _;
use tracing_subscriber::filter::EnvFilter;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::fmt::format::{Writer, debug_fn};
use tracing_subscriber::layer::{Layer, SubscriberExt as _};
use tracing_subscriber::{Registry, reload};

use importance::importance as importance_of;
pub use importance::{CRITICAL, ESCALATION};
use journal::JournalLayer;
use queue::{Importance, LogQueue, Sink};
use refreshd_secrets::mask::{line, seen};
use sinks::{Journal, StandardError};

/// A form of the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// The journal if standard error goes there, else text.
    Auto,
    /// Lines for people, coloured on a terminal.
    Text,
    /// An object a line.
    Json,
    /// The journal's own protocol.
    Journald,
}

/// Changes the level of a log that runs.
#[derive(Clone)]
pub struct LogHandle(std::sync::Arc<dyn Fn(EnvFilter) + Send + Sync>);

impl LogHandle {
    /// A handle to no log at all.
    #[must_use]
    pub fn none() -> Self {
        Self(std::sync::Arc::new(|_| {}))
    }

    /// Puts other directives in force; those that cannot be read are left out.
    pub fn set_level(&self, level: &str) {
        (self.0)(filter(level));
    }
}

/// The queue of the daemon's log; there is one log in a process.
static QUEUE: OnceLock<LogQueue> = OnceLock::new();

/// How many lines of the log were dropped since the start, because its reader did not take them or they could not be written.
#[must_use]
pub fn dropped() -> u64 {
    QUEUE.get().map_or(0, LogQueue::dropped)
}

/// Waits until what was logged is delivered, but no longer than `limit`.
pub fn flush(limit: Duration) {
    if let Some(queue) = QUEUE.get() {
        queue.flush(limit);
    }
}

/// Delivers the log's lines. Run it on a thread of its own; it ends with the process.
pub struct LogWriter {
    queue: LogQueue,
    sink: Box<dyn Sink>,
}

impl LogWriter {
    /// Delivers lines; never returns.
    pub fn run(mut self) {
        self.queue.serve(&mut *self.sink, |lines| {
            tracing::warn!(lines, "{lines} lines of the log were dropped: its reader did not take them, or they could not be written");
        });
    }
}

/// Starts the log of a daemon: whoever logs never waits for its reader.
///
/// # Errors
/// If the journal's socket cannot be reached, or logging was started before.
pub fn start(form: LogFormat, level: &str) -> Result<(LogHandle, LogWriter), StartError> {
    let form = match form {
        LogFormat::Auto if super::systemd::has_journal() => LogFormat::Journald,
        LogFormat::Auto => LogFormat::Text,
        other => other,
    };
    let queue = LogQueue::default();
    let (handle, sink): (_, Box<dyn Sink>) = match form {
        LogFormat::Journald => {
            let sink = Journal::open().map_err(StartError::Journal)?;
            let program = std::env::current_exe().ok();
            let name = program.as_deref().and_then(std::path::Path::file_name);
            let identifier = name.map_or_else(
                || "refreshd".to_owned(),
                |name| name.to_string_lossy().into_owned(),
            );
            (
                install(
                    JournalLayer {
                        queue: queue.clone(),
                        identifier,
                    },
                    level,
                )?,
                Box::new(sink),
            )
        }
        LogFormat::Json => {
            let layer = tracing_subscriber::fmt::layer().json().flatten_event(true);
            (
                install(layer.with_writer(QueuedWriter(queue.clone())), level)?,
                Box::new(StandardError::default()),
            )
        }
        LogFormat::Text | LogFormat::Auto => (
            install(text().with_writer(QueuedWriter(queue.clone())), level)?,
            Box::new(StandardError::default()),
        ),
    };
    // A panic's message must not wait for the log's reader either.
    std::panic::set_hook(Box::new(|panic| {
        tracing::error!("a bug: {panic}");
    }));
    let queue = QUEUE.get_or_init(|| queue).clone();
    Ok((handle, LogWriter { queue, sink }))
}

/// Starts the log of a command: lines for people, written to standard error at once.
///
/// # Errors
/// If logging was started before.
pub fn start_for_command(level: &str) -> Result<LogHandle, StartError> {
    install(text().with_writer(io::stderr), level)
}

/// Lines for people, coloured on a terminal.
fn text()
-> tracing_subscriber::fmt::Layer<Base, impl for<'w> tracing_subscriber::fmt::FormatFields<'w>> {
    tracing_subscriber::fmt::layer()
        .with_ansi(io::stderr().is_terminal())
        .with_target(false)
        .fmt_fields(debug_fn(for_people).delimited(""))
}

/// Writes each event into the queue.
struct QueuedWriter(LogQueue);

/// One event.
struct LineWriter<'a> {
    queue: &'a LogQueue,
    importance: Importance,
}

impl<'a> MakeWriter<'a> for QueuedWriter {
    type Writer = LineWriter<'a>;

    fn make_writer(&'a self) -> Self::Writer {
        LineWriter {
            queue: &self.0,
            importance: Importance::Normal,
        }
    }

    fn make_writer_for(&'a self, metadata: &Metadata<'_>) -> Self::Writer {
        LineWriter {
            queue: &self.0,
            importance: importance_of(metadata),
        }
    }
}

impl io::Write for LineWriter<'_> {
    /// The layer writes an event at once.
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        // JSON escapes control characters only.
        let seen = std::str::from_utf8(line)
            .ok()
            .map(|line| seen(line).into_owned().into_bytes());
        self.queue
            .push(seen.unwrap_or_else(|| line.to_vec()), self.importance);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Why logging did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// No journal.
    #[error("cannot reach the journal; set [log] format to \"text\" or \"json\"")]
    Journal(#[source] io::Error),
    /// Twice.
    #[error("logging was started before")]
    Twice(#[source] tracing::subscriber::SetGlobalDefaultError),
}

/// Fields that the message says already, in more words.
const USER_FIELDS: [&str; 5] = ["portal", "app", "reason", "action", "detail"];

/// Writes a field for a person's eye: as one line, and without characters that are not printed.
fn for_people(
    writer: &mut Writer<'_>,
    field: &Field,
    value: &dyn std::fmt::Debug,
) -> std::fmt::Result {
    match field.name() {
        "message" => writer.write_str(&line(&format!("{value:?}"))),
        name if USER_FIELDS.contains(&name) => Ok(()),
        name => write!(writer, " {name}={}", line(&format!("{value:?}"))),
    }
}

/// What the layers sit on: a level that can be changed while the daemon runs.
type Base = tracing_subscriber::layer::Layered<reload::Layer<EnvFilter, Registry>, Registry>;

fn install<L: Layer<Base> + Send + Sync>(layer: L, level: &str) -> Result<LogHandle, StartError> {
    let (filter_layer, handle) = reload::Layer::new(filter(level));
    let subscriber = tracing_subscriber::registry()
        .with(filter_layer)
        .with(layer);
    tracing::subscriber::set_global_default(subscriber).map_err(StartError::Twice)?;
    Ok(LogHandle(std::sync::Arc::new(move |filter| {
        // Fails only when the subscriber is gone, and then nobody logs.
        let _ = handle.reload(filter);
    })))
}

fn filter(level: &str) -> EnvFilter {
    // Libraries below us say little of use at info, and their debug texts are not ours to vouch for.
    let ours = EnvFilter::builder().parse_lossy(level);
    [
        "hyper=warn",
        "hyper_util=warn",
        "reqwest=warn",
        "rustls=warn",
        "h2=warn",
    ]
    .iter()
    .filter_map(|directive| directive.parse().ok())
    .fold(ours, EnvFilter::add_directive)
}
