//! A stored install event, and its share of the queue.

use std::net::IpAddr;

use crate::daemon::context::Context;
use crate::daemon::install::fair_queue::EventSender;
use crate::daemon::install::queue_shares::{QueueSlot, ShareOf};
use crate::domain::install_event::InstallEvent;

/// A stored install event.
pub(crate) struct InstallJob {
    /// Its row in the state.
    pub(crate) row: i64,
    /// The app's name.
    pub(crate) app: String,
    pub(crate) notice: InstallEvent,
    /// Sender's address, if the proxy in front reports it.
    pub(crate) source: Option<IpAddr>,
    /// Its slot in the queue.
    pub(crate) place: QueueSlot,
}

impl InstallJob {
    /// Sender whose turn the event uses.
    pub(crate) fn sender(&self) -> EventSender {
        self.place.sender().clone()
    }

    /// Whether the event is of a portal that has the app.
    pub(crate) fn is_known(&self) -> bool {
        self.place.is_known()
    }
}

impl EventSender {
    pub(crate) fn of(source: Option<IpAddr>, notice: &InstallEvent) -> Self {
        match (source, notice) {
            (Some(source), _) => EventSender::Known(number(source)),
            (
                None,
                InstallEvent::Opened(it)
                | InstallEvent::Installed(it)
                | InstallEvent::SystemUser(it),
            ) => EventSender::Claimed(
                it.claims
                    .host
                    .clone()
                    .unwrap_or_else(|| it.claims.member_id.clone()),
            ),
            (None, InstallEvent::Removed(removal)) => EventSender::Claimed(
                removal
                    .host
                    .clone()
                    .unwrap_or_else(|| removal.member_id.clone()),
            ),
            (None, InstallEvent::Incomplete(_) | InstallEvent::Other) => {
                EventSender::Claimed(String::new())
            }
        }
    }
}

/// Share of the queue and of the verification budget that an event uses.
pub(crate) async fn share_of(
    shared: &Context,
    app: &str,
    source: Option<IpAddr>,
    notice: &InstallEvent,
    bytes: usize,
) -> ShareOf {
    let binding = shared.config().apps.get(app).map(|app| app.binding(None));
    let member_id = match notice {
        InstallEvent::Opened(it) | InstallEvent::Installed(it) | InstallEvent::SystemUser(it) => {
            Some(&it.claims.member_id)
        }
        InstallEvent::Removed(removal) => Some(&removal.member_id),
        InstallEvent::Incomplete(_) | InstallEvent::Other => None,
    };
    let is_known = match binding.zip(member_id) {
        Some((binding, member_id)) => shared.state.is_installed(binding, member_id.clone()).await,
        None => Ok(false),
    };
    ShareOf {
        app: app.to_owned(),
        sender: EventSender::of(source, notice),
        // If the state cannot be read, the portal counts as unknown.
        is_known: is_known.unwrap_or_default(),
        bytes,
    }
}

/// A sender as a number. Of an IPv6 address only the upper 64 bits count, since one sender has all of the others.
pub(crate) fn number(source: IpAddr) -> u128 {
    match source {
        IpAddr::V4(address) => address.to_ipv6_mapped().into(),
        IpAddr::V6(address) => u128::from(address) >> 64 << 64,
    }
}
