//! Where log events go: lines for people, JSON, or the journal with the right priority.
//!
//! Must not know what is logged. Escalations of severity critical carry the event name [`CRITICAL`], since tracing
//! has no level above ERROR and the journal does.

use std::io::IsTerminal as _;

use tracing::field::Field;
use tracing::{Level, Metadata};
use tracing_journald::{Priority, PriorityMappings};
use tracing_subscriber::field::MakeExt as _;
use tracing_subscriber::filter::{EnvFilter, FilterFn, filter_fn};
use tracing_subscriber::fmt::format::{Writer, debug_fn};
use tracing_subscriber::layer::{Layer, SubscriberExt as _};
use tracing_subscriber::{Registry, reload};

/// The target of every escalation.
pub const ESCALATION: &str = "refreshd::escalation";
/// The name of an escalation event of severity critical: PRIORITY=2 in the journal.
pub const CRITICAL: &str = "critical escalation";

/// A form of the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
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

/// Starts logging to standard error, or to the journal.
///
/// # Errors
/// If the journal's socket cannot be reached, or logging was started before.
pub fn start(form: Form, level: &str) -> Result<LogHandle, StartError> {
    let form = match form {
        Form::Auto if super::systemd::has_journal() => Form::Journald,
        Form::Auto => Form::Text,
        other => other,
    };
    match form {
        Form::Journald => {
            let usual = tracing_journald::layer().map_err(StartError::Journal)?.with_field_prefix(None);
            let loud = tracing_journald::layer()
                .map_err(StartError::Journal)?
                .with_field_prefix(None)
                .with_priority_mappings(PriorityMappings {
                    error: Priority::Critical,
                    ..PriorityMappings::new()
                });
            install(
                usual.with_filter(not_critical()).and_then(loud.with_filter(filter_fn(is_critical))),
                level,
            )
        }
        Form::Json => install(
            tracing_subscriber::fmt::layer().json().flatten_event(true).with_writer(std::io::stderr),
            level,
        ),
        Form::Text | Form::Auto => install(
            tracing_subscriber::fmt::layer()
                .with_ansi(std::io::stderr().is_terminal())
                .with_target(false)
                .fmt_fields(debug_fn(for_people).delimited(""))
                .with_writer(std::io::stderr),
            level,
        ),
    }
}

/// Why logging did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// No journal.
    #[error("cannot reach the journal; set [log] format to \"text\" or \"json\"")]
    Journal(#[source] std::io::Error),
    /// Twice.
    #[error("logging was started before")]
    Twice(#[source] tracing::subscriber::SetGlobalDefaultError),
}

/// Fields that the message says already, in more words.
const SAID: [&str; 5] = ["portal", "app", "reason", "action", "detail"];

/// Writes a field for a person's eye.
fn for_people(writer: &mut Writer<'_>, field: &Field, value: &dyn std::fmt::Debug) -> std::fmt::Result {
    match field.name() {
        "message" => write!(writer, "{value:?}"),
        name if SAID.contains(&name) => Ok(()),
        name => write!(writer, " {name}={value:?}"),
    }
}

/// What the layers sit on: a level that can be changed while the daemon runs.
type Base = tracing_subscriber::layer::Layered<reload::Layer<EnvFilter, Registry>, Registry>;

fn install<L: Layer<Base> + Send + Sync>(layer: L, level: &str) -> Result<LogHandle, StartError> {
    let (filter_layer, handle) = reload::Layer::new(filter(level));
    let subscriber = tracing_subscriber::registry().with(filter_layer).with(layer);
    tracing::subscriber::set_global_default(subscriber).map_err(StartError::Twice)?;
    Ok(LogHandle(std::sync::Arc::new(move |filter| {
        // Fails only when the subscriber is gone, and then nobody logs.
        let _ = handle.reload(filter);
    })))
}

fn filter(level: &str) -> EnvFilter {
    // Libraries below us say little of use at info, and their debug texts are not ours to vouch for.
    let ours = EnvFilter::builder().parse_lossy(level);
    ["hyper=warn", "hyper_util=warn", "reqwest=warn", "rustls=warn", "h2=warn"]
        .iter()
        .filter_map(|directive| directive.parse().ok())
        .fold(ours, EnvFilter::add_directive)
}

fn is_critical(metadata: &Metadata<'_>) -> bool {
    metadata.name() == CRITICAL && *metadata.level() == Level::ERROR
}

fn not_critical() -> FilterFn {
    filter_fn(|metadata| !is_critical(metadata))
}
