//! Configuration of a channel: the receiver's address and what a delivery to it needs.
//!
//! Must not send: [`crate::channels`] does. An address may contain a key (a webhook URL does), so each address is a
//! secret.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use super::template::Template;
use refreshd_http::Network;
use refreshd_secrets::ChannelSecret;

/// A channel of the configuration.
#[derive(Clone, Debug)]
pub struct Channel {
    /// Name; a label of metrics.
    pub name: String,
    /// Kind of receiver, with its settings.
    pub kind: ChannelConfig,
    /// Time limit of one delivery.
    pub timeout: Duration,
    /// How its receiver is reached. Mail uses the certificate authorities only.
    pub network: Arc<Network>,
}

/// Receiver of a channel, with its settings.
#[derive(Clone, Debug, strum::EnumDiscriminants)]
#[strum_discriminants(
    name(ChannelKind),
    doc = "Kind of receiver; its word is the `kind` of the configuration.",
    derive(strum::IntoStaticStr, strum::EnumString, strum::VariantArray),
    strum(serialize_all = "lowercase")
)]
pub enum ChannelConfig {
    /// Any HTTP server. Receives the body of an Alertmanager webhook (version 4), or the rendered template.
    Webhook {
        /// Address.
        url: ChannelSecret,
        /// The `Authorization` header.
        authorization: Option<ChannelSecret>,
        /// Body that replaces the Alertmanager webhook's.
        template: Option<Template>,
    },
    /// Alertmanager's API, version 2. Firing alerts are resent periodically, resolved ones for five minutes.
    Alertmanager {
        /// Address, without `/api/v2/alerts`.
        url: ChannelSecret,
        /// The `Authorization` header.
        authorization: Option<ChannelSecret>,
    },
    /// PagerDuty's Events API, version 2.
    PagerDuty {
        /// Address of the events endpoint.
        url: ChannelSecret,
        /// Routing key of the integration.
        routing_key: ChannelSecret,
    },
    /// A Slack incoming webhook.
    Slack {
        /// Address.
        url: ChannelSecret,
    },
    /// A Telegram bot.
    Telegram {
        /// Address of the API, without `/bot…`.
        url: ChannelSecret,
        /// Token of the bot.
        bot_token: ChannelSecret,
        /// Chat: a number, or `@name`.
        chat_id: String,
    },
    /// Mail.
    Email(MailConfig),
    /// A program on this machine.
    Command {
        /// Program and arguments.
        command: Vec<String>,
        /// Working directory.
        directory: PathBuf,
    },
    /// A dead man's switch: pinged only while every portal is fresh.
    Heartbeat {
        /// Address; failures are reported to `/fail` below it.
        url: ChannelSecret,
        /// Interval.
        every: Duration,
    },
}

impl ChannelConfig {
    /// Name in the configuration.
    #[must_use]
    pub fn as_str(&self) -> &'static str {
        ChannelKind::from(self).into()
    }

    /// See [`ChannelKind::receives_incidents`].
    #[must_use]
    pub fn receives_incidents(&self) -> bool {
        ChannelKind::from(self).receives_incidents()
    }
}

impl ChannelKind {
    /// Returns whether channels of this kind receive incidents. A heartbeat reports the state of the whole daemon instead.
    #[must_use]
    pub const fn receives_incidents(self) -> bool {
        !matches!(self, Self::Heartbeat)
    }
}

/// Settings for mail.
#[derive(Clone, Debug)]
pub struct MailConfig {
    /// Mail server.
    pub host: String,
    /// Port.
    pub port: u16,
    /// Protection of the connection.
    pub tls: MailTls,
    /// User name and password.
    pub login: Option<(String, ChannelSecret)>,
    /// Sender address.
    pub from: String,
    /// Recipient addresses.
    pub to: Vec<String>,
}

/// Protection of the connection to a mail server.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, strum::IntoStaticStr, strum::EnumString, strum::VariantArray,
)]
#[strum(serialize_all = "kebab-case")]
pub enum MailTls {
    /// STARTTLS (RFC 3207), mandatory: never continues in plain text.
    #[strum(serialize = "starttls")]
    StartTls,
    /// TLS from the first byte (RFC 8314).
    Implicit,
    /// Unencrypted; allowed to this machine only.
    Off,
}

/// State that a heartbeat reports.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HeartbeatState {
    /// Every portal is fresh.
    Healthy,
    /// An incident is open; its title.
    Failing(String),
}

/// Result of a delivery attempt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Delivery {
    /// The receiver accepted the message; its response in one line.
    Delivered(String),
    /// The receiver will never accept this message: it is not retried.
    Rejected(String),
    /// The receiver may accept the message later: it is retried.
    Failed {
        /// Reason.
        why: String,
        /// Delay that the receiver asked for (`Retry-After`).
        retry_after: Option<Duration>,
    },
}
