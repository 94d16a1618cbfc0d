//! Encodes events for the journal's native protocol (<https://systemd.io/JOURNAL_NATIVE_PROTOCOL/>).
//!
//! Written here because `tracing-journald` sends from the logging thread, and blocks it while the journal does not read. Must
//! not send anything: events go to the queue.

use std::fmt::{Debug, Write as _};

use tracing::field::{Field, Visit};
use tracing::{Event, Level, Metadata, Subscriber};
use tracing_subscriber::layer::{Context, Layer};

use super::importance::{importance, is_critical};
use super::queue::LogQueue;
use refreshd_secrets::mask::line;

/// Maximum length of a field's value, in bytes. A datagram must fit into the socket's send buffer of some 200 KB.
const MAX_VALUE_LENGTH: usize = 16 * 1024;

/// A layer that queues each event as a datagram.
pub(super) struct JournalLayer {
    pub(super) queue: LogQueue,
    /// Identifier for `journalctl -t`.
    pub(super) identifier: String,
}

impl<S: Subscriber> Layer<S> for JournalLayer {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let mut fields = Fields(Vec::with_capacity(512));
        fields.put("PRIORITY", priority(event.metadata()));
        fields.put("SYSLOG_IDENTIFIER", &self.identifier);
        fields.put("TARGET", event.metadata().target());
        event.record(&mut fields);
        self.queue.push(fields.0, importance(event.metadata()));
    }
}

/// `PRIORITY=` of syslog(3); tracing has no level above ERROR.
fn priority(metadata: &Metadata<'_>) -> &'static str {
    match *metadata.level() {
        Level::ERROR if is_critical(metadata) => "2",
        Level::ERROR => "3",
        Level::WARN => "4",
        Level::INFO => "5",
        Level::DEBUG => "6",
        Level::TRACE => "7",
    }
}

struct Fields(Vec<u8>);

impl Fields {
    /// A field with a length prefix, which may contain any byte.
    fn put(&mut self, name: &str, value: &str) {
        let name: String = (name.trim_start_matches('_').chars())
            .filter(|c| c.is_ascii_alphanumeric() || *c == '_')
            .map(|c| c.to_ascii_uppercase())
            .collect();
        let value = &value.as_bytes()[..value.floor_char_boundary(MAX_VALUE_LENGTH)];
        self.0.extend_from_slice(name.as_bytes());
        self.0.push(b'\n');
        self.0
            .extend_from_slice(&(value.len() as u64).to_le_bytes());
        self.0.extend_from_slice(value);
        self.0.push(b'\n');
    }
}

impl Visit for Fields {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.put(field.name(), &line(value));
    }

    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        let mut text = String::new();
        // Fails only if a value's own `Debug` does; the partial output is kept.
        let _ = write!(text, "{value:?}");
        self.put(field.name(), &line(&text));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_field_has_its_length_in_front_and_a_name_that_the_journal_takes() {
        let mut fields = Fields(Vec::new());
        fields.put("_took.ms", "a\nb");
        assert_eq!(fields.0, b"TOOKMS\n\x03\0\0\0\0\0\0\0a\nb\n");
        let mut fields = Fields(Vec::new());
        fields.put("message", &"é".repeat(MAX_VALUE_LENGTH));
        assert_eq!(
            fields.0.len(),
            "MESSAGE\n".len() + 8 + MAX_VALUE_LENGTH + 1,
            "cut at a whole character"
        );
    }
}
