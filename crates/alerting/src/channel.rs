//! Where alerts go: a channel's address and what it needs, as the configuration says.
//!
//! Must not send: `adapters::channels` does. An address may be a secret as a whole, so it is one.

use std::path::PathBuf;
use std::time::Duration;

use super::template::Template;
use refreshd_secrets::ChannelSecret;

/// A channel of the configuration.
#[derive(Clone, Debug)]
pub struct Channel {
    /// Its name; a label of metrics.
    pub name: String,
    /// What is at the other end.
    pub kind: ChannelConfig,
    /// How long one delivery may take.
    pub timeout: Duration,
}

/// What is at the other end of a channel.
#[derive(Clone, Debug)]
pub enum ChannelConfig {
    /// Any HTTP server; gets the body of an Alertmanager webhook (version 4), or what the template makes of a message.
    Webhook {
        /// Its address.
        url: ChannelSecret,
        /// The `Authorization` header.
        authorization: Option<ChannelSecret>,
        /// What is sent instead.
        template: Option<Template>,
    },
    /// Alertmanager's API, version 2: firing alerts are sent again and again, resolved ones for five minutes.
    Alertmanager {
        /// Its address, without `/api/v2/alerts`.
        url: ChannelSecret,
        /// The `Authorization` header.
        authorization: Option<ChannelSecret>,
    },
    /// PagerDuty's Events API, version 2.
    PagerDuty {
        /// Where events are sent.
        url: ChannelSecret,
        /// The integration's key.
        routing_key: ChannelSecret,
    },
    /// A Slack incoming webhook.
    Slack {
        /// Its address.
        url: ChannelSecret,
    },
    /// A Telegram bot.
    Telegram {
        /// The API's address, without `/bot…`.
        url: ChannelSecret,
        /// The bot.
        bot_token: ChannelSecret,
        /// A number, or `@name`.
        chat_id: String,
    },
    /// Mail.
    Email(MailConfig),
    /// A program of this machine.
    Command {
        /// The program and its arguments.
        command: Vec<String>,
        /// Where it is started.
        directory: PathBuf,
    },
    /// A dead man's switch: pinged only while every portal is fresh.
    Heartbeat {
        /// Its address; `/fail` below it hears of trouble.
        url: ChannelSecret,
        /// How often.
        every: Duration,
    },
}

impl ChannelConfig {
    /// As written in the configuration.
    #[must_use]
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::Webhook { .. } => "webhook",
            Self::Alertmanager { .. } => "alertmanager",
            Self::PagerDuty { .. } => "pagerduty",
            Self::Slack { .. } => "slack",
            Self::Telegram { .. } => "telegram",
            Self::Email(_) => "email",
            Self::Command { .. } => "command",
            Self::Heartbeat { .. } => "heartbeat",
        }
    }

    /// Whether it hears of incidents. A heartbeat hears of the whole.
    #[must_use]
    pub const fn hears_incidents(&self) -> bool {
        !matches!(self, Self::Heartbeat { .. })
    }
}

/// How mail is sent.
#[derive(Clone, Debug)]
pub struct MailConfig {
    /// The mail server.
    pub host: String,
    /// Its port.
    pub port: u16,
    /// How the connection is protected.
    pub tls: MailTls,
    /// The user to log in as, and the password.
    pub login: Option<(String, ChannelSecret)>,
    /// The sender's address.
    pub from: String,
    /// Whom it is for.
    pub to: Vec<String>,
}

/// How a connection to a mail server is protected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MailTls {
    /// Plain at first, then TLS (RFC 3207); never without.
    StartTls,
    /// TLS from the first byte (RFC 8314).
    Implicit,
    /// None at all; to this machine only.
    Off,
}

/// What a heartbeat says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HeartbeatState {
    /// Every portal is fresh.
    Well,
    /// Something is wrong, in a line.
    Ill(String),
}

/// What became of one delivery.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Delivery {
    /// The receiver has it; its answer, in a line.
    Delivered(String),
    /// The receiver will never take this very message: it is not sent again.
    Rejected(String),
    /// It may be taken later: it is sent again.
    Failed {
        /// Why.
        why: String,
        /// When the receiver wants to be asked again.
        retry_after: Option<Duration>,
    },
}
