//! Clients for the receivers of alerts: each sends one message and returns the result.
//!
//! Each kind has a file with its format and the meaning of its responses. `http_sender` is the common HTTP client,
//! `text_limits` truncates and escapes texts. Must not choose recipients, nor retry: the outbox does. No returned
//! response contains a secret of the channel.

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
use refreshd_http::{Network, TlsError};
use refreshd_time::clock::Clock;
use refreshd_time::{Timestamp, human};

/// Delivers messages to channels. Cheap to clone.
#[derive(Clone)]
pub struct Notifier {
    wire: HttpSender,
    backend: Option<Arc<dyn NotifierBackend>>,
    instance: Arc<str>,
    url: Option<Arc<str>>,
}

/// Replacement for the network, for simulations.
pub trait NotifierBackend: Send + Sync {
    /// Delivers a message.
    fn deliver(&self, channel: &str, message: Message) -> SendFuture;

    /// Resends firing and recently resolved alerts to an Alertmanager.
    fn resend(&self, _channel: &str, _messages: Vec<Message>) -> SendFuture {
        Box::pin(async { Delivery::Delivered("resent".to_owned()) })
    }

    /// Sends a beat to a heartbeat.
    fn beat(&self, _channel: &str, _pulse: HeartbeatState) -> SendFuture {
        Box::pin(async { Delivery::Delivered("beaten".to_owned()) })
    }
}

/// Result of a delivery in progress.
pub type SendFuture = Pin<Box<dyn Future<Output = Delivery> + Send>>;

impl Notifier {
    /// A notifier with the name of this instance and a link to its status page. Each channel has a network of its own; for
    /// this one the client is made at once.
    ///
    /// # Errors
    /// If TLS cannot be set up, as with no certificate authorities installed.
    pub fn new(instance: &str, url: Option<&str>, network: Arc<Network>) -> Result<Self, TlsError> {
        Ok(Self {
            wire: HttpSender::new(network)?,
            backend: None,
            instance: instance.into(),
            url: url.map(Into::into),
        })
    }

    /// The same notifier with another name and link, as after a reload.
    #[must_use]
    pub fn named(&self, instance: &str, url: Option<&str>) -> Self {
        Self {
            instance: instance.into(),
            url: url.map(Into::into),
            ..self.clone()
        }
    }

    /// The same notifier with another backend than the network.
    #[must_use]
    pub fn with_backend(self, backend: Arc<dyn NotifierBackend>) -> Self {
        Self {
            backend: Some(backend),
            ..self
        }
    }

    /// Delivers a message within the channel's time limit. Cancel safe: it may be dropped at any time.
    pub async fn deliver(&self, channel: &Channel, message: &Message, now: Timestamp) -> Delivery {
        if let Some(backend) = &self.backend {
            return backend.deliver(&channel.name, message.clone()).await;
        }
        limited(
            channel.timeout,
            self.send(channel, message, self.sender(now)),
        )
        .await
    }

    /// Resends to an Alertmanager the alerts that are firing or ended within [`HOLDS`], in one request. Other kinds
    /// keep alerts by themselves and are sent nothing.
    pub async fn resend(
        &self,
        channel: &Channel,
        messages: &[Message],
        now: Timestamp,
    ) -> Delivery {
        let ChannelConfig::Alertmanager { url, authorization } = &channel.kind else {
            return Delivery::Delivered("not resent to this kind of channel".to_owned());
        };
        if let Some(backend) = &self.backend {
            return backend.resend(&channel.name, messages.to_vec()).await;
        }
        let wire = self.wire.over(&channel.network);
        let resend = alertmanager::send(
            &wire,
            url,
            authorization.as_ref(),
            messages,
            self.sender(now),
        );
        limited(channel.timeout, resend).await
    }

    /// Sends a beat to a heartbeat. Other kinds are sent nothing.
    pub async fn beat(&self, channel: &Channel, state: HeartbeatState) -> Delivery {
        let ChannelConfig::Heartbeat { url, .. } = &channel.kind else {
            return Delivery::Rejected("this channel is no heartbeat".to_owned());
        };
        if let Some(backend) = &self.backend {
            return backend.beat(&channel.name, state).await;
        }
        let wire = self.wire.over(&channel.network);
        limited(
            channel.timeout,
            heartbeat::send(&wire, url, &state, Clock::system().now()),
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

    /// The futures of the kinds differ in size, and some are large.
    async fn send(&self, channel: &Channel, message: &Message, sender: Sender<'_>) -> Delivery {
        let wire = &self.wire.over(&channel.network);
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
            ChannelConfig::Email(mail) => {
                let authorities = &channel.network.settings().authorities;
                Box::pin(email::send(mail, authorities, message, sender)).await
            }
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
                    &HeartbeatState::Healthy,
                    sender.now,
                ))
                .await
            }
            ChannelConfig::Heartbeat { .. } => Delivery::Rejected(
                "a heartbeat reports the state of the daemon and receives no incidents".to_owned(),
            ),
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
