//! Detects requests that a correct client never sends. Must not change a response.

use std::time::Duration;

use super::authority::{CheckedCredential, FakeAuthority};
use super::form::RequestForm;
use super::ledger::{InFlight, PairIndex};
use super::response::{End, ReplyContent, Ticket};
use super::rules::Reuse;
use refreshd_time::{Timestamp, share_of};
use refreshd_token_client::provider::origin_of;

/// Renewals closer than this share of the lifetime are violations.
const SPACING_SHARE: f64 = 0.1;
/// The client measures from sending, the server from receiving.
const SPACING_TOLERANCE: Duration = Duration::from_millis(200);
/// A client that aborts a request and repeats it may be faster than the news of its closed connection.
const OVERLAP_TOLERANCE: Duration = Duration::from_secs(1);
/// A client may retry a dead grant by itself, but not at once: the server may have been failing.
const ASKED_AGAIN_AFTER: Duration = Duration::from_secs(20);
/// The token endpoint; also the path of a redirect to another host.
pub(super) const TOKEN_PATH: &str = "/oauth/token/";

impl FakeAuthority {
    /// Checks the credential and counts the request as in flight; returns its grant.
    pub(super) fn start_request(
        &mut self,
        presented: CheckedCredential,
        form: &RequestForm,
        faulty: bool,
        now: Timestamp,
    ) -> Option<usize> {
        let CheckedCredential::Refresh(place) = presented else {
            return None;
        };
        self.check_client(place, form);
        self.check_reuse(place, faulty, now);
        let id = self.total_requests;
        let flights = &mut self.ledger.grants[place.grant].flights;
        for flight in flights.iter_mut() {
            flight.overlapped_at.get_or_insert(now);
        }
        flights.push(InFlight {
            id,
            overlapped_at: None,
        });
        Some(place.grant)
    }

    /// Ends a request in flight. Overlapping requests are judged when the first ends: its client may have disconnected
    /// before.
    pub(super) fn end_request(&mut self, ticket: Ticket, end: End, now: Timestamp) {
        let Some(grant) = ticket
            .grant
            .and_then(|grant| self.ledger.grants.get_mut(grant))
        else {
            return;
        };
        let Some(at) = grant
            .flights
            .iter()
            .position(|flight| flight.id == ticket.id)
        else {
            return;
        };
        let overlapped_at = grant.flights.swap_remove(at).overlapped_at;
        let portal = grant.portal;
        let both_open =
            |since: Timestamp| end == End::Written || now.since(since) > OVERLAP_TOLERANCE;
        if overlapped_at.is_some_and(both_open) {
            self.record_violation(
                Some(portal),
                "two requests of one grant were in flight at once",
            );
        }
    }

    /// Two renewals whose replies arrived, within a tenth of the lifetime.
    pub(super) fn check_spacing(&mut self, place: PairIndex, now: Timestamp) {
        let grant = &self.ledger.grants[place.grant];
        let (Some(pair), Some(before)) = (grant.pair(place.number), place.number.checked_sub(1))
        else {
            return;
        };
        let spacing = share_of(pair.lifetime, SPACING_SHARE).saturating_sub(SPACING_TOLERANCE);
        let too_soon = |at: Timestamp| at <= now && now.since(at) < spacing;
        if grant
            .spent(before)
            .is_some_and(|spent| spent.delivered && spent.clean && too_soon(spent.at))
        {
            self.record_violation(
                Some(grant.portal),
                "renewed twice within a tenth of the token's life",
            );
        }
    }

    /// From now on a request to the target of a redirect is a violation.
    pub(super) fn watch_redirect(&mut self, reply: &ReplyContent) {
        let Some(to) = reply.location.as_deref() else {
            return;
        };
        let path = &to[origin_of(to).map_or(0, str::len)..];
        let path = path.split(['?', '#']).next().unwrap_or_default();
        if path != TOKEN_PATH && !self.traps.iter().any(|known| known == path) {
            self.traps.push(path.to_owned());
        }
    }

    /// Records a request to the target of a redirect.
    pub(super) fn check_redirect(&mut self, path: &str) {
        if self.traps.iter().any(|trap| trap == path) {
            self.record_violation(None, "a redirect was followed");
        }
    }

    fn check_client(&mut self, place: PairIndex, form: &RequestForm) {
        let grant = &self.ledger.grants[place.grant];
        let other = form
            .get("client_id")
            .filter(|client_id| *client_id != grant.client_id);
        if other.is_some_and(|client_id| self.clients.contains_key(client_id)) {
            self.record_violation(
                Some(grant.portal),
                "a refresh token was presented by another client",
            );
        }
    }

    fn check_reuse(&mut self, place: PairIndex, faulty: bool, now: Timestamp) {
        let grant = &self.ledger.grants[place.grant];
        let Some(spent) = grant.spent(place.number) else {
            return;
        };
        if matches!(self.rules.reuse, Reuse::Grace(window) if now.since(spent.at) <= window) {
            return;
        }
        // A client that spent the next token had received it, whether the reply counts as delivered or not.
        let known = spent.delivered || grant.spent(place.number + 1).is_some();
        if !known {
            return;
        }
        let portal = &mut self.ledger.portals[grant.portal];
        let asked_again = portal
            .answered_replay
            .is_some_and(|(answered, at)| answered == place && now.since(at) >= ASKED_AGAIN_AFTER);
        if portal.replay_allowed || asked_again {
            // A response suppressed by a fault leaves the client as much in doubt as before.
            portal.replay_allowed = portal.replay_allowed && faulty;
            if !faulty || asked_again {
                portal.answered_replay = Some((place, now));
            }
        } else {
            self.record_violation(
                Some(grant.portal),
                "a spent refresh token was presented again although its reply had arrived",
            );
        }
    }
}
