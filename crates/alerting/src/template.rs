//! A webhook's body of one's own: what a message is called in it, and whether it can be made at all.
//!
//! Must not show the text of a template: it may hold a receiver's key. What is wrong with it is said by line and kind.

use std::fmt;
use std::io;
use std::sync::Arc;

use minijinja::{AutoEscape, Environment, ErrorKind, UndefinedBehavior, Value, context};

use super::message::{Event, Message, MessageSubject};
use crate::Severity;
use refreshd_time::Timestamp;

/// No body is longer, in bytes.
pub const LONGEST_BODY: usize = 512 * 1024;
/// Steps that a template may take: some thousand portals fit in, a loop without end does not.
const FUEL: u64 = 200_000;

/// What a message is called in a template.
pub const NAMES: [&str; 21] = [
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

/// A body of one's own for a webhook. Cheap to clone; blind in `Debug`.
#[derive(Clone, PartialEq, Eq)]
pub struct Template {
    source: Arc<str>,
    content_type: Arc<str>,
}

/// Why a template cannot be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WebhookTemplateError {
    /// It uses a name that no message has.
    Unknown {
        /// The name.
        name: String,
        /// Where it stands first.
        line: usize,
    },
    /// Anything else.
    Other {
        /// Where.
        line: usize,
        /// What, without a part of the template.
        why: String,
    },
}

impl Template {
    /// A template and the type of what it makes.
    #[must_use]
    pub fn new(source: &str, content_type: &str) -> Self {
        Self {
            source: source.into(),
            content_type: content_type.into(),
        }
    }

    /// The type of what it makes.
    #[must_use]
    pub fn content_type(&self) -> &str {
        &self.content_type
    }

    /// What it makes of a message.
    ///
    /// # Errors
    /// [`WebhookTemplateError`]: what [`Template::check`] would have found, mostly.
    pub fn render(
        &self,
        message: &Message,
        instance: &str,
        url: Option<&str>,
        now: Timestamp,
    ) -> Result<String, WebhookTemplateError> {
        // A name that is missing must not keep an alert from leaving.
        self.made(
            UndefinedBehavior::Chainable,
            names(message, instance, url, now),
        )
    }

    /// Makes a body of messages of every kind, to see that it can be done.
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
                SAMPLED,
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
            why: "makes no UTF-8".to_owned(),
        })
    }

    /// Also looks where no sample comes by.
    fn only_known_names(&self) -> Result<(), WebhookTemplateError> {
        let environment = self.environment(UndefinedBehavior::SemiStrict);
        let template = environment
            .template_from_str(&self.source)
            .map_err(|error| WebhookTemplateError::of(&error))?;
        let known = |name: &str| {
            NAMES.contains(&name) || environment.globals().any(|(global, _)| global == name)
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
        environment.set_fuel(Some(FUEL));
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
    /// An error's detail may quote the template, so it is shown only where it names nothing but words of the language.
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
            (ErrorKind::WriteFailure, _) => format!("it makes more than {LONGEST_BODY} bytes"),
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

/// A body that does not grow for ever.
struct Bounded(Vec<u8>);

impl io::Write for Bounded {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.0.len() + bytes.len() > LONGEST_BODY {
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
        whom => message.whom(),
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

/// When samples are made and sent.
const SAMPLED: Timestamp = Timestamp::from_secs(1_795_190_400);

/// One of every kind, with characters that break what is not escaped.
fn samples() -> Vec<Message> {
    let one = Message {
        key: "portal/acme".to_owned(),
        event: Event::Opened,
        severity: Severity::Critical,
        levels: vec![(Severity::Warning, SAMPLED), (Severity::Critical, SAMPLED)],
        subject: MessageSubject::Portal("acme".to_owned()),
        reason: "a sample: \"quoted\", <b>bold</b> & späť\\".to_owned(),
        action: Some("refreshd import acme".to_owned()),
        since: SAMPLED,
        at: SAMPLED,
        expires_at: Some(SAMPLED),
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
    [one, many, bare, Message::test(SAMPLED, "ops")]
        .into_iter()
        .chain(others)
        .collect()
}

#[cfg(test)]
#[path = "template_tests.rs"]
mod tests;
