//! Template of a webhook body: its variables, its rendering, and its check.
//!
//! Must not print the text of a template: it may contain a receiver's key. An error names line and kind only.

use std::fmt;
use std::io;
use std::sync::Arc;

use minijinja::{AutoEscape, Environment, ErrorKind, UndefinedBehavior, Value, context};

use super::message::{Event, Message, MessageSubject};
use crate::Severity;
use refreshd_time::Timestamp;

/// Maximum size of a rendered body, in bytes.
pub const MAX_BODY_BYTES: usize = 512 * 1024;
/// Maximum number of steps of a rendering: enough for some thousand portals, and stops an endless loop.
const MAX_STEPS: u64 = 200_000;

/// Variables of a template.
pub const VARIABLES: [&str; 21] = [
    "instance",
    "url",
    "key",
    "event",
    "firing",
    "severity",
    "subject",
    "name",
    "whom",
    "title",
    "lines",
    "text",
    "reason",
    "action",
    "since",
    "at",
    "expires_at",
    "portals",
    "count",
    "number",
    "now",
];

/// Template of a webhook body. Cheap to clone; redacted in `Debug`.
#[derive(Clone, PartialEq, Eq)]
pub struct Template {
    source: Arc<str>,
    content_type: Arc<str>,
}

/// Error in a template.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WebhookTemplateError {
    /// It uses an unknown variable.
    Unknown {
        /// Name of the variable.
        name: String,
        /// Line of its first use.
        line: usize,
    },
    /// Any other error.
    Other {
        /// Line.
        line: usize,
        /// Description, without a part of the template.
        why: String,
    },
}

impl Template {
    /// A template and the content type of its body.
    #[must_use]
    pub fn new(source: &str, content_type: &str) -> Self {
        Self {
            source: source.into(),
            content_type: content_type.into(),
        }
    }

    /// Content type of the body.
    #[must_use]
    pub fn content_type(&self) -> &str {
        &self.content_type
    }

    /// Renders a message.
    ///
    /// # Errors
    /// [`WebhookTemplateError`]: mostly one that [`Template::check`] would have found.
    pub fn render(
        &self,
        message: &Message,
        instance: &str,
        url: Option<&str>,
        now: Timestamp,
    ) -> Result<String, WebhookTemplateError> {
        // A missing variable must not prevent an alert.
        self.made(
            UndefinedBehavior::Chainable,
            names(message, instance, url, now),
        )
    }

    /// Renders sample messages of every kind.
    ///
    /// # Errors
    /// The first [`WebhookTemplateError`].
    pub fn check(&self) -> Result<(), WebhookTemplateError> {
        self.only_known_names()?;
        for message in samples() {
            let names = names(
                &message,
                "host",
                Some("https://refreshd.example.org/"),
                SAMPLE_TIME,
            );
            let body = self.made(UndefinedBehavior::SemiStrict, names)?;
            if self.escape() == AutoEscape::Json {
                is_json(&body)?;
            }
        }
        Ok(())
    }

    fn made(
        &self,
        undefined: UndefinedBehavior,
        names: Value,
    ) -> Result<String, WebhookTemplateError> {
        let environment = self.environment(undefined);
        let template = environment
            .template_from_str(&self.source)
            .map_err(|error| WebhookTemplateError::of(&error))?;
        let mut body = Bounded(Vec::new());
        template
            .render_captured_to(names, &mut body)
            .map_err(|error| WebhookTemplateError::of(&error))?;
        String::from_utf8(body.0).map_err(|_| WebhookTemplateError::Other {
            line: 1,
            why: "is not UTF-8".to_owned(),
        })
    }

    /// Also finds variables in branches that no sample reaches.
    fn only_known_names(&self) -> Result<(), WebhookTemplateError> {
        let environment = self.environment(UndefinedBehavior::SemiStrict);
        let template = environment
            .template_from_str(&self.source)
            .map_err(|error| WebhookTemplateError::of(&error))?;
        let known = |name: &str| {
            VARIABLES.contains(&name) || environment.globals().any(|(global, _)| global == name)
        };
        let unknown = template
            .undeclared_variables(false)
            .into_iter()
            .filter(|name| !known(name));
        let placed = unknown.map(|name| {
            let at = self.source.find(&name).unwrap_or_default();
            (1 + self.source[..at].matches('\n').count(), name)
        });
        match placed.min() {
            Some((line, name)) => Err(WebhookTemplateError::Unknown { name, line }),
            None => Ok(()),
        }
    }

    fn environment(&self, undefined: UndefinedBehavior) -> Environment<'_> {
        let mut environment = Environment::new();
        let escape = self.escape();
        environment.set_auto_escape_callback(move |_| escape.clone());
        environment.set_undefined_behavior(undefined);
        environment.set_fuel(Some(MAX_STEPS));
        environment
    }

    fn escape(&self) -> AutoEscape {
        let content_type = self.content_type.to_ascii_lowercase();
        match () {
            () if content_type.contains("json") => AutoEscape::Json,
            () if content_type.contains("html") || content_type.contains("xml") => AutoEscape::Html,
            () => AutoEscape::None,
        }
    }
}

impl fmt::Debug for Template {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Template({})", self.content_type)
    }
}

impl WebhookTemplateError {
    /// The error's detail may quote the template, so it is shown only if it consists of words of the template language.
    fn of(error: &minijinja::Error) -> Self {
        let harmless = matches!(
            error.kind(),
            ErrorKind::SyntaxError
                | ErrorKind::UnknownFilter
                | ErrorKind::UnknownTest
                | ErrorKind::UnknownFunction
                | ErrorKind::MissingArgument
                | ErrorKind::TooManyArguments
        );
        let why = match (error.kind(), error.detail().filter(|_| harmless)) {
            (ErrorKind::OutOfFuel, _) => "it takes too many steps".to_owned(),
            (ErrorKind::WriteFailure, _) => format!("it makes more than {MAX_BODY_BYTES} bytes"),
            (kind, None) => kind.to_string(),
            (kind, Some(detail)) => format!("{kind}: {}", refreshd_secrets::mask::short(detail)),
        };
        Self::Other {
            line: error.line().unwrap_or(1),
            why: why.replace(char::is_control, " "),
        }
    }
}

impl fmt::Display for WebhookTemplateError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unknown { name, line } => write!(f, "line {line}: unknown name {name}"),
            Self::Other { line, why } => write!(f, "line {line}: {why}"),
        }
    }
}

/// Writer with a size limit.
struct Bounded(Vec<u8>);

impl io::Write for Bounded {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.0.len() + bytes.len() > MAX_BODY_BYTES {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        self.0.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn is_json(body: &str) -> Result<(), WebhookTemplateError> {
    let Err(error) = serde_json::from_str::<serde::de::IgnoredAny>(body) else {
        return Ok(());
    };
    let why = format!(
        "what it makes of a sample is no JSON: {error} of that; values come with their quotation marks: \
         write {{{{ title }}}} and not \"{{{{ title }}}}\""
    );
    Err(WebhookTemplateError::Other { line: 1, why })
}

fn names(message: &Message, instance: &str, url: Option<&str>, now: Timestamp) -> Value {
    let (subject, name) = message.subject.label().unwrap_or(("daemon", ""));
    let time = |at: Timestamp| at.to_string();
    context! {
        instance,
        url,
        key => message.dedup_key(instance),
        event => message.event.as_str(),
        firing => !message.is_over(),
        severity => message.severity.as_str(),
        subject,
        name,
        whom => message.affected(),
        title => message.title(),
        lines => message.lines(now),
        text => message.text(now),
        reason => message.reason.as_str(),
        action => message.action.as_deref(),
        since => time(message.since),
        at => time(message.at),
        expires_at => message.expires_at.map(time),
        portals => message.portals.clone(),
        count => message.count,
        number => message.number,
        now => time(now),
    }
}

/// Time of the samples.
const SAMPLE_TIME: Timestamp = Timestamp::from_secs(1_795_190_400);

/// One message of every kind, with characters that break unescaped output.
fn samples() -> Vec<Message> {
    let one = Message {
        key: "portal/acme".to_owned(),
        event: Event::Opened,
        severity: Severity::Critical,
        levels: vec![
            (Severity::Warning, SAMPLE_TIME),
            (Severity::Critical, SAMPLE_TIME),
        ],
        subject: MessageSubject::Portal("acme".to_owned()),
        reason: "a sample: \"quoted\", <b>bold</b> & späť\\".to_owned(),
        action: Some("refreshd import acme".to_owned()),
        since: SAMPLE_TIME,
        at: SAMPLE_TIME,
        expires_at: Some(SAMPLE_TIME),
        portals: vec!["acme".to_owned()],
        count: 1,
        number: 1,
    };
    let many = Message {
        subject: MessageSubject::Server("oauth.example.org".to_owned()),
        portals: vec!["acme".to_owned(), "globex".to_owned()],
        count: 200,
        ..one.clone()
    };
    let bare = Message {
        subject: MessageSubject::Daemon,
        action: None,
        expires_at: None,
        portals: Vec::new(),
        count: 0,
        ..one.clone()
    };
    let others = [
        Event::Raised,
        Event::Repeated,
        Event::Acknowledged,
        Event::Resolved,
    ];
    let others = others.map(|event| Message {
        event,
        ..one.clone()
    });
    [one, many, bare, Message::test(SAMPLE_TIME, "ops")]
        .into_iter()
        .chain(others)
        .collect()
}

#[cfg(test)]
#[path = "template_tests.rs"]
mod tests;
