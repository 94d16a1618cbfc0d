//! Output of log events: text, JSON, or the journal with the right priority.
//!
//! The daemon's log has a bounded queue and a thread of its own ([`LogWriter`]): a blocked reader must not block anything
//! else. Must not know the logged content. Escalations of severity critical have the event name [`CRITICAL`], since tracing has no
//! level above ERROR and the journal does.

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

use crate::domain::log_format::LogFormat;
use importance::importance as importance_of;
pub use importance::{CRITICAL, ESCALATION};
use journal::JournalLayer;
use queue::{Importance, LogQueue, Sink};
use refreshd_secrets::mask::{line, seen};
use sinks::{Journal, StandardError};

/// Changes the level of a running log.
#[derive(Clone)]
pub struct LogHandle(std::sync::Arc<dyn Fn(EnvFilter) + Send + Sync>);

impl LogHandle {
    /// A handle without a log.
    #[must_use]
    pub fn none() -> Self {
        Self(std::sync::Arc::new(|_| {}))
    }

    /// Applies other directives; invalid ones are skipped.
    pub fn set_level(&self, level: &str) {
        (self.0)(filter(level));
    }
}

/// Queue of the daemon's log; a process has one log.
static QUEUE: OnceLock<LogQueue> = OnceLock::new();

/// Number of log lines dropped since the start, because the reader was too slow or a write failed.
#[must_use]
pub fn dropped() -> u64 {
    QUEUE.get().map_or(0, LogQueue::dropped)
}

/// Waits until the queue is written, but no longer than `limit`.
pub fn flush(limit: Duration) {
    if let Some(queue) = QUEUE.get() {
        queue.flush(limit);
    }
}

/// Writes the queued lines. Run it on a thread of its own; it ends with the process.
pub struct LogWriter {
    queue: LogQueue,
    sink: Box<dyn Sink>,
}

impl LogWriter {
    /// Writes lines; never returns.
    pub fn run(mut self) {
        self.queue.serve(&mut *self.sink, |lines| {
            tracing::warn!(lines, "{lines} lines of the log were dropped: its reader was too slow, or they could not be written");
        });
    }
}

/// Starts the log of a daemon: logging never waits for the reader.
///
/// # Errors
/// If the journal's socket cannot be reached, or logging was started before.
pub fn start(form: LogFormat, level: &str) -> Result<(LogHandle, LogWriter), StartError> {
    let form = match form {
        // Without its socket, standard error leads to the journal just as well.
        LogFormat::Auto if super::systemd::has_journal() && Journal::open().is_ok() => {
            LogFormat::Journald
        }
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

/// Starts the log of a command: text, written to standard error at once.
///
/// # Errors
/// If logging was started before.
pub fn start_for_command(level: &str) -> Result<LogHandle, StartError> {
    install(text().with_writer(io::stderr), level)
}

/// Text for people, coloured on a terminal.
fn text()
-> tracing_subscriber::fmt::Layer<Base, impl for<'w> tracing_subscriber::fmt::FormatFields<'w>> {
    tracing_subscriber::fmt::layer()
        .with_ansi(io::stderr().is_terminal())
        .with_target(false)
        .fmt_fields(debug_fn(for_people).delimited(""))
}

/// Writes each event to the queue.
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

/// Why logging could not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The journal's socket is not reachable.
    #[error("cannot reach the journal; set [log] format to \"text\" or \"json\"")]
    Journal(#[source] io::Error),
    /// Logging was started before.
    #[error("logging was started before")]
    Twice(#[source] tracing::subscriber::SetGlobalDefaultError),
}

/// Fields that the message contains already, in more words.
const USER_FIELDS: [&str; 5] = ["portal", "app", "reason", "action", "detail"];

/// Formats a field on one line, without unprintable characters.
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

/// The base layer: a level that can be changed at run time.
type Base = tracing_subscriber::layer::Layered<reload::Layer<EnvFilter, Registry>, Registry>;

fn install<L: Layer<Base> + Send + Sync>(layer: L, level: &str) -> Result<LogHandle, StartError> {
    let (filter_layer, handle) = reload::Layer::new(filter(level));
    let subscriber = tracing_subscriber::registry()
        .with(filter_layer)
        .with(layer);
    tracing::subscriber::set_global_default(subscriber).map_err(StartError::Twice)?;
    Ok(LogHandle(std::sync::Arc::new(move |filter| {
        // Fails only if the subscriber is gone, and then nothing is logged.
        let _ = handle.reload(filter);
    })))
}

fn filter(level: &str) -> EnvFilter {
    // Events of libraries are of little use at info, and their debug output may contain anything.
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
