//! Stand-in until the channels are merged.

use std::pin::Pin;
use std::sync::Arc;

use crate::domain::channel::{Channel, Delivery, Pulse};
use crate::domain::message::Message;
use crate::domain::time::Timestamp;

/// Delivers messages.
#[derive(Clone)]
pub struct Courier {
    carrier: Option<Arc<dyn Carrier>>,
}

/// Another way.
pub trait Carrier: Send + Sync {
    /// Carries.
    fn carry(&self, channel: &str, message: Message) -> Pin<Box<dyn Future<Output = Delivery> + Send>>;
}

impl Courier {
    /// New.
    ///
    /// # Errors
    /// Never.
    pub fn new(_instance: &str, _url: Option<&str>) -> Result<Self, reqwest::Error> {
        Ok(Self { carrier: None })
    }

    /// Through.
    #[must_use]
    pub fn through(self, carrier: Arc<dyn Carrier>) -> Self {
        Self { carrier: Some(carrier) }
    }

    /// Delivers.
    pub async fn deliver(&self, channel: &Channel, message: &Message, _now: Timestamp) -> Delivery {
        match &self.carrier {
            Some(carrier) => carrier.carry(&channel.name, message.clone()).await,
            None => Delivery::Delivered(String::new()),
        }
    }

    /// Resends.
    pub async fn resend(&self, _: &Channel, _: &[Message], _: Timestamp) -> Delivery {
        Delivery::Delivered(String::new())
    }

    /// Beats.
    pub async fn beat(&self, _: &Channel, _: Pulse) -> Delivery {
        Delivery::Delivered(String::new())
    }
}
