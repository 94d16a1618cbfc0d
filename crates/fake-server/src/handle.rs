//! Handle to a fake server.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde_json::{Map, Value};

use super::authority::{self, FakeAuthority};
use super::faults::{At, Fault};
use super::form::ReceivedTokenRequest;
use super::ledger::{IssuedAccess, TokenState};
use super::response::{End, FakeResponse, Ticket};
use super::rules::Rules;
use refreshd_time::clock::Clock;

/// Handle to a fake server; clones share the server.
#[derive(Clone, Debug)]
pub struct FakeServer {
    pub(super) authority: Arc<Mutex<FakeAuthority>>,
    pub(super) clock: Clock,
}

impl FakeServer {
    /// A server without clients and portals. Each server issues tokens of its own.
    #[must_use]
    pub fn new(clock: Clock, rules: Rules) -> Self {
        let seed = clock.random_fraction().to_bits() ^ clock.now().millis().unsigned_abs();
        Self {
            authority: Arc::new(Mutex::new(FakeAuthority::new(rules, seed))),
            clock,
        }
    }

    /// Sets the address that token replies contain, before it serves there.
    pub fn name(&self, host: &str) {
        host.clone_into(&mut self.lock().host);
    }

    /// Answers a token request without a network. The caller sends the response and returns its ticket to
    /// [`Self::finish`].
    #[must_use]
    pub fn token(&self, request: &ReceivedTokenRequest<'_>) -> FakeResponse {
        let now = self.clock.now();
        self.lock().token(request, now)
    }

    /// Ends a request; see [`FakeAuthority::finish`].
    pub fn finish(&self, ticket: Ticket, end: End) {
        let now = self.clock.now();
        self.lock().finish(ticket, end, now);
    }

    /// Registers a client, or changes its secret.
    pub fn add_client(&self, client_id: &str, client_secret: &str) {
        let secret = client_secret.to_owned();
        let mut authority = self.lock();
        let redirect_uri = authority
            .clients
            .remove(client_id)
            .and_then(|client| client.redirect_uri);
        authority.clients.insert(
            client_id.to_owned(),
            authority::RegisteredClient {
                secret,
                redirect_uri,
            },
        );
    }

    /// Sets the redirect target of a client's authorization page; without it the page shows the code.
    pub fn set_redirect(&self, client_id: &str, redirect_uri: &str) {
        if let Some(client) = self.lock().clients.get_mut(client_id) {
            client.redirect_uri = Some(redirect_uri.to_owned());
        }
    }

    /// Issues a new grant for the portal with this host and returns the token reply. Older grants of the portal stay
    /// valid.
    #[must_use]
    pub fn install(&self, domain: &str, client_id: &str) -> Map<String, Value> {
        let now = self.clock.now();
        self.lock().install(domain, client_id, now)
    }

    /// As [`Self::install`], for another user.
    #[must_use]
    pub fn install_as(&self, domain: &str, client_id: &str, user_id: u64) -> Map<String, Value> {
        let now = self.clock.now();
        self.lock().install_as(domain, client_id, user_id, now)
    }

    /// Number of requests for the owner of an access token so far.
    #[must_use]
    pub fn questions(&self) -> u64 {
        self.lock().owner_requests.0
    }

    /// The next owner requests are answered with a server error.
    pub fn fail_questions(&self, times: u32) {
        self.lock().owner_requests.1 = times;
    }

    /// The next owner requests are refused although the token is valid; after them, `not_installed` requests are
    /// answered as before the end of an installation.
    pub fn answer_wrongly(&self, refusals: u32, not_installed: u32) {
        self.lock().owner_refusals = (refusals, not_installed);
    }

    /// Delays the response to each owner request from now on.
    pub fn delay_questions(&self, delay: Duration) {
        self.lock().owner_request_delay = delay;
    }

    /// From now on, portals have an API at this server, with these users as administrators.
    pub fn serve_portals(&self, admins: &[u64]) {
        self.lock().admins = Some(admins.to_vec());
    }

    /// Issues an authorization code for a user of the portal: short-lived, and valid for one exchange.
    #[must_use]
    pub fn authorize(&self, domain: &str, client_id: &str) -> String {
        let now = self.clock.now();
        self.lock().authorize(domain, client_id, now)
    }

    /// Removes the application from a portal: `NOT_INSTALLED` until it is installed or authorized again.
    pub fn uninstall(&self, domain: &str) {
        self.lock().uninstall(domain);
    }

    /// Changes the host of a portal. The old name still refers to it in calls of this handle.
    pub fn rename(&self, domain: &str, new_domain: &str) {
        self.lock().ledger.rename(domain, new_domain);
    }

    /// Makes the next `times` token requests there fail (`u32::MAX`: until healed). If several faults apply to a
    /// request, only the first added one takes effect.
    pub fn fail(&self, at: At, fault: Fault, times: u32) {
        self.lock().faults.add(at, fault, times);
    }

    /// Removes the faults of that place; [`At::All`] removes every fault.
    #[expect(
        clippy::needless_pass_by_value,
        reason = "reads like `fail` at the caller's"
    )]
    pub fn heal(&self, at: At) {
        self.lock().faults.heal(&at);
    }

    /// Sets new rules, from the next request on.
    pub fn set_rules(&self, rules: Rules) {
        self.lock().rules = rules;
    }

    /// State of an access token; `None` if it was never issued, or over 1000 renewals ago.
    #[must_use]
    pub fn knows_access(&self, token: &str) -> Option<IssuedAccess> {
        self.lock().ledger.access(token)
    }

    /// Latest refresh token of a portal: the one that its client must have stored.
    #[must_use]
    pub fn current_refresh(&self, domain: &str) -> Option<String> {
        let authority = self.lock();
        let grant = &authority.ledger.grants[authority.portal(domain)?.newest_grant?];
        grant
            .pair(grant.newest())
            .map(|pair| pair.refresh.as_ref().to_owned())
    }

    /// State of an issued refresh token.
    #[must_use]
    pub fn fate(&self, refresh: &str) -> TokenState {
        let authority = self.lock();
        let Some(place) = authority.ledger.refresh(refresh) else {
            return TokenState::Unknown;
        };
        let grant = &authority.ledger.grants[place.grant];
        match grant.spent(place.number) {
            Some(spent) if spent.delivered => TokenState::Spent,
            Some(_) => TokenState::SpentUndelivered,
            None if grant.revoked || !authority.ledger.portals[grant.portal].installed => {
                TokenState::Revoked
            }
            None => TokenState::Good,
        }
    }

    /// Number of rotations of a portal's grants.
    #[must_use]
    pub fn renewals(&self, domain: &str) -> u64 {
        self.lock()
            .portal(domain)
            .map_or(0, |portal| portal.renewals)
    }

    /// Number of token requests with a refresh token or code of the portal, including failed ones.
    #[must_use]
    pub fn requests(&self, domain: &str) -> u64 {
        self.lock()
            .portal(domain)
            .map_or(0, |portal| portal.requests)
    }

    /// Number of all token requests.
    #[must_use]
    pub fn total_requests(&self) -> u64 {
        self.lock().total_requests
    }

    /// Violations by clients: the first hundred, without secrets.
    #[must_use]
    pub fn violations(&self) -> Vec<String> {
        self.lock().violations.clone()
    }

    /// Takes the violations; see [`Self::violations`].
    #[must_use]
    pub fn take_violations(&self) -> Vec<String> {
        std::mem::take(&mut self.lock().violations)
    }

    /// Permits one replay of a refresh token whose reply had arrived: the portal's client was killed.
    pub fn allow_replay(&self, domain: &str) {
        let mut authority = self.lock();
        if let Some(portal) = authority.ledger.portal(domain) {
            authority.ledger.portals[portal].replay_allowed = true;
        }
    }

    /// Must not be held across an `await`. A panic elsewhere leaves the state consistent: each step is complete.
    pub(super) fn lock(&self) -> MutexGuard<'_, FakeAuthority> {
        self.authority
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}
