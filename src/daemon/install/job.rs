//! A notice that was taken in, and whose share of the queue it uses.

use std::net::IpAddr;

use crate::daemon::context::Context;
use crate::daemon::install::fair_queue::EventSender;
use crate::daemon::install::queue_shares::{QueueSlot, ShareOf};
use crate::domain::install_event::InstallEvent;

/// A notice that was taken in.
pub(crate) struct InstallJob {
    /// Its row in the state.
    pub(crate) row: i64,
    /// The app's name.
    pub(crate) app: String,
    pub(crate) notice: InstallEvent,
    /// Who sent it, if the proxy in front says so.
    pub(crate) source: Option<IpAddr>,
    /// Its place in the queue.
    pub(crate) place: QueueSlot,
}

impl InstallJob {
    /// Whose turn it takes.
    pub(crate) fn sender(&self) -> EventSender {
        self.place.sender().clone()
    }

    /// Whether it is of a portal that has the app.
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

/// Whose share of the queue and of the questions a notice uses.
pub(crate) async fn whose(
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
        // A state that cannot be read decides nothing here.
        is_known: is_known.unwrap_or_default(),
        bytes,
    }
}

/// A sender as a number; who has one address of version 6 has 2^64 of them.
pub(crate) fn number(source: IpAddr) -> u128 {
    match source {
        IpAddr::V4(address) => address.to_ipv6_mapped().into(),
        IpAddr::V6(address) => u128::from(address) >> 64 << 64,
    }
}
