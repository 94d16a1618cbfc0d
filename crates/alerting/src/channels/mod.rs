//! The ways to the receivers of alerts: one message out, what became of it back.
//!
//! One file for each kind says how that receiver wants a message and what its answers mean; `http_sender` is what all over HTTP
//! have in common, `words` how texts are fitted and escaped. Must not decide who hears of what, nor try again: the
//! outbox does. No answer that is passed on holds a secret of the channel.

mod alertmanager;
mod command;
mod email;
mod heartbeat;
mod http_sender;
mod pagerduty;
mod sender;
mod slack;
mod telegram;
mod text_limits;
mod webhook;

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use self::http_sender::HttpSender;
pub use self::sender::HOLDS;
use self::sender::Sender;
use crate::channel::{Channel, ChannelConfig, Delivery, HeartbeatState};
use crate::message::{Event, Message};
use refreshd_http::TlsError;
use refreshd_time::clock::Clock;
use refreshd_time::{Timestamp, human};

/// Brings messages to channels. Cheap to clone.
#[derive(Clone)]
pub struct Notifier {
    wire: HttpSender,
    carrier: Option<Arc<dyn NotifierBackend>>,
    instance: Arc<str>,
    url: Option<Arc<str>>,
}

/// A way to receivers in place of the network: a simulation's.
pub trait NotifierBackend: Send + Sync {
    /// Brings a message there, and what became of it back.
    fn carry(&self, channel: &str, message: Message) -> SendFuture;

    /// Says again what is firing and what has just ended, to an Alertmanager.
    fn carry_again(&self, _channel: &str, _messages: Vec<Message>) -> SendFuture {
        Box::pin(async { Delivery::Delivered("said again".to_owned()) })
    }

    /// Brings a beat to a heartbeat.
    fn beat(&self, _channel: &str, _pulse: HeartbeatState) -> SendFuture {
        Box::pin(async { Delivery::Delivered("beaten".to_owned()) })
    }
}

/// A message under way.
pub type SendFuture = Pin<Box<dyn Future<Output = Delivery> + Send>>;

impl Notifier {
    /// A notifier that names this refreshd so, and links to that page. Trusts the system's certificate authorities, or
    /// those of `SSL_CERT_FILE`.
    ///
    /// # Errors
    /// If TLS cannot be set up, as with no certificate authorities installed.
    pub fn new(instance: &str, url: Option<&str>) -> Result<Self, TlsError> {
        Ok(Self {
            wire: HttpSender::new()?,
            carrier: None,
            instance: instance.into(),
            url: url.map(Into::into),
        })
    }

    /// The same under another name, as after a reload.
    #[must_use]
    pub fn named(&self, instance: &str, url: Option<&str>) -> Self {
        Self {
            instance: instance.into(),
            url: url.map(Into::into),
            ..self.clone()
        }
    }

    /// The same by another way than the network.
    #[must_use]
    pub fn through(self, carrier: Arc<dyn NotifierBackend>) -> Self {
        Self {
            carrier: Some(carrier),
            ..self
        }
    }

    /// Brings a message to a channel, within the channel's time limit. It may be dropped at any time.
    pub async fn deliver(&self, channel: &Channel, message: &Message, now: Timestamp) -> Delivery {
        if let Some(carrier) = &self.carrier {
            return carrier.carry(&channel.name, message.clone()).await;
        }
        limited(
            channel.timeout,
            self.send(channel, message, self.sender(now)),
        )
        .await
    }

    /// Says again to an Alertmanager what is firing and what ended within [`HOLDS`], all at once. Nothing is sent to
    /// other kinds, which remember what they were told.
    pub async fn resend(
        &self,
        channel: &Channel,
        messages: &[Message],
        now: Timestamp,
    ) -> Delivery {
        let ChannelConfig::Alertmanager { url, authorization } = &channel.kind else {
            return Delivery::Delivered("needs no reminder".to_owned());
        };
        if let Some(carrier) = &self.carrier {
            return carrier.carry_again(&channel.name, messages.to_vec()).await;
        }
        let said = alertmanager::send(
            &self.wire,
            url,
            authorization.as_ref(),
            messages,
            self.sender(now),
        );
        limited(channel.timeout, said).await
    }

    /// Tells a heartbeat how it is. Nothing is sent to other kinds.
    pub async fn beat(&self, channel: &Channel, pulse: HeartbeatState) -> Delivery {
        let ChannelConfig::Heartbeat { url, .. } = &channel.kind else {
            return Delivery::Rejected("this channel is no heartbeat".to_owned());
        };
        if let Some(carrier) = &self.carrier {
            return carrier.beat(&channel.name, pulse).await;
        }
        limited(
            channel.timeout,
            heartbeat::send(&self.wire, url, &pulse, Clock::system().now()),
        )
        .await
    }

    fn sender(&self, now: Timestamp) -> Sender<'_> {
        Sender {
            instance: &self.instance,
            url: self.url.as_deref(),
            now,
        }
    }

    /// Each kind's future is of its own size, and some are large.
    async fn send(&self, channel: &Channel, message: &Message, sender: Sender<'_>) -> Delivery {
        let wire = &self.wire;
        match &channel.kind {
            ChannelConfig::Webhook {
                url,
                authorization,
                template,
            } => {
                let to = webhook::To {
                    channel: &channel.name,
                    url,
                    authorization: authorization.as_ref(),
                };
                Box::pin(webhook::send(wire, to, template.as_ref(), message, sender)).await
            }
            ChannelConfig::Alertmanager { url, authorization } => {
                let messages = std::slice::from_ref(message);
                Box::pin(alertmanager::send(
                    wire,
                    url,
                    authorization.as_ref(),
                    messages,
                    sender,
                ))
                .await
            }
            ChannelConfig::PagerDuty { url, routing_key } => {
                Box::pin(pagerduty::send(wire, url, routing_key, message, sender)).await
            }
            ChannelConfig::Slack { url } => Box::pin(slack::send(wire, url, message, sender)).await,
            ChannelConfig::Telegram {
                url,
                bot_token,
                chat_id,
            } => {
                Box::pin(telegram::send(
                    wire, url, bot_token, chat_id, message, sender,
                ))
                .await
            }
            ChannelConfig::Email(mail) => Box::pin(email::send(mail, message, sender)).await,
            ChannelConfig::Command { command, directory } => {
                Box::pin(command::send(
                    &channel.name,
                    command,
                    directory,
                    message,
                    sender,
                ))
                .await
            }
            ChannelConfig::Heartbeat { url, .. } if message.event == Event::Test => {
                Box::pin(heartbeat::send(
                    wire,
                    url,
                    &HeartbeatState::Well,
                    sender.now,
                ))
                .await
            }
            ChannelConfig::Heartbeat { .. } => {
                Delivery::Rejected("a heartbeat hears of the whole, and of no incident".to_owned())
            }
        }
    }
}

async fn limited(limit: Duration, work: impl Future<Output = Delivery>) -> Delivery {
    Clock::system()
        .within(limit, work)
        .await
        .unwrap_or_else(|| Delivery::Failed {
            why: format!("no answer within {}", human(limit)),
            retry_after: None,
        })
}

#[cfg(test)]
mod samples;
