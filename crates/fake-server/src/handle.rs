//! The handle to one fake server.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde_json::{Map, Value};

use super::authority::{self, AuthorizationServer};
use super::faults::{At, Fault};
use super::form::TokenRequest;
use super::ledger::{Access, Fate};
use super::response::{End, FakeResponse, Ticket};
use super::rules::Rules;
use refreshd_time::clock::Clock;

/// A handle to one stand-in server; clones lead to the same server.
#[derive(Clone, Debug)]
pub struct FakeServer {
    pub(super) authority: Arc<Mutex<AuthorizationServer>>,
    pub(super) clock: Clock,
}

impl FakeServer {
    /// A server without clients and portals. Each one has tokens of its own.
    #[must_use]
    pub fn new(clock: Clock, rules: Rules) -> Self {
        let seed = clock.chance().to_bits() ^ clock.now().millis().unsigned_abs();
        Self {
            authority: Arc::new(Mutex::new(AuthorizationServer::new(rules, seed))),
            clock,
        }
    }

    /// Names the address that token replies give, before it serves there.
    pub fn name(&self, host: &str) {
        host.clone_into(&mut self.lock().host);
    }

    /// Answers a token request without a network. Carry the answer out and give its ticket to [`Self::finish`].
    #[must_use]
    pub fn token(&self, request: &TokenRequest<'_>) -> FakeResponse {
        let now = self.clock.now();
        self.lock().token(request, now)
    }

    /// Takes a ticket back; see [`AuthorizationServer::finish`].
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

    /// Where the authorization page sends a registered client's user; without it the page shows the code.
    pub fn set_redirect(&self, client_id: &str, redirect_uri: &str) {
        if let Some(client) = self.lock().clients.get_mut(client_id) {
            client.redirect_uri = Some(redirect_uri.to_owned());
        }
    }

    /// A new grant for the portal with this host, as the whole token reply. Older grants of the portal go on working.
    #[must_use]
    pub fn install(&self, domain: &str, client_id: &str) -> Map<String, Value> {
        let now = self.clock.now();
        self.lock().install(domain, client_id, now)
    }

    /// The same for a user other than the first.
    #[must_use]
    pub fn install_as(&self, domain: &str, client_id: &str, user_id: u64) -> Map<String, Value> {
        let now = self.clock.now();
        self.lock().install_as(domain, client_id, user_id, now)
    }

    /// Questions whose an access token is, so far.
    #[must_use]
    pub fn questions(&self) -> u64 {
        self.lock().questions.0
    }

    /// The next questions of that kind are answered with an error of the server's own.
    pub fn fail_questions(&self, times: u32) {
        self.lock().questions.1 = times;
    }

    /// The next questions of that kind are refused, though the token is good; after them, so many are answered as before the
    /// end of an installation.
    pub fn answer_wrongly(&self, refusals: u32, not_installed: u32) {
        self.lock().wrong_answers = (refusals, not_installed);
    }

    /// Each question of that kind takes so long from now on.
    pub fn delay_questions(&self, delay: Duration) {
        self.lock().question_delay = delay;
    }

    /// Portals have an API from now on, at this server, which knows these users as administrators.
    pub fn serve_portals(&self, admins: &[u64]) {
        self.lock().admins = Some(admins.to_vec());
    }

    /// A fresh authorization code, as a user of the portal gets it: short-lived, and good for one exchange.
    #[must_use]
    pub fn authorize(&self, domain: &str, client_id: &str) -> String {
        let now = self.clock.now();
        self.lock().authorize(domain, client_id, now)
    }

    /// Takes the application out of a portal: `NOT_INSTALLED` until it is installed or authorized again.
    pub fn uninstall(&self, domain: &str) {
        self.lock().uninstall(domain);
    }

    /// Gives a portal another host. The old name still leads to it in calls of this handle.
    pub fn rename(&self, domain: &str, new_domain: &str) {
        self.lock().ledger.rename(domain, new_domain);
    }

    /// Makes the next `times` token requests there fail (`u32::MAX`: until healed). Of several faults that meet a
    /// request, the one asked for first applies, and only that.
    pub fn fail(&self, at: At, fault: Fault, times: u32) {
        self.lock().faults.add(at, fault, times);
    }

    /// Takes the faults of that place away; [`At::All`] takes away every fault.
    #[expect(
        clippy::needless_pass_by_value,
        reason = "reads like `fail` at the caller's"
    )]
    pub fn heal(&self, at: At) {
        self.lock().faults.heal(&at);
    }

    /// New rules from the next request on.
    pub fn set_rules(&self, rules: Rules) {
        self.lock().rules = rules;
    }

    /// What is known of an access token; `None` if it was never issued, or over 1000 renewals ago.
    #[must_use]
    pub fn knows_access(&self, token: &str) -> Option<Access> {
        self.lock().ledger.access(token)
    }

    /// The newest refresh token issued for a portal: what its client must have stored.
    #[must_use]
    pub fn current_refresh(&self, domain: &str) -> Option<String> {
        let authority = self.lock();
        let grant = &authority.ledger.grants[authority.portal(domain)?.newest_grant?];
        grant
            .pair(grant.newest())
            .map(|pair| pair.refresh.as_ref().to_owned())
    }

    /// What has become of a refresh token that was handed out.
    #[must_use]
    pub fn fate(&self, refresh: &str) -> Fate {
        let authority = self.lock();
        let Some(place) = authority.ledger.refresh(refresh) else {
            return Fate::Unknown;
        };
        let grant = &authority.ledger.grants[place.grant];
        match grant.spent(place.number) {
            Some(spent) if spent.delivered => Fate::Spent,
            Some(_) => Fate::SpentUnheard,
            None if grant.revoked || !authority.ledger.portals[grant.portal].installed => {
                Fate::Revoked
            }
            None => Fate::Good,
        }
    }

    /// Rotations of a portal's grants so far.
    #[must_use]
    pub fn renewals(&self, domain: &str) -> u64 {
        self.lock()
            .portal(domain)
            .map_or(0, |portal| portal.renewals)
    }

    /// Token requests with a refresh token or code of the portal so far, failed ones too.
    #[must_use]
    pub fn requests(&self, domain: &str) -> u64 {
        self.lock()
            .portal(domain)
            .map_or(0, |portal| portal.requests)
    }

    /// All token requests so far.
    #[must_use]
    pub fn total_requests(&self) -> u64 {
        self.lock().total_requests
    }

    /// What clients did that a correct one never does: the first hundred, without secrets.
    #[must_use]
    pub fn violations(&self) -> Vec<String> {
        self.lock().violations.clone()
    }

    /// As [`Self::violations`], which are forgotten then.
    #[must_use]
    pub fn take_violations(&self) -> Vec<String> {
        std::mem::take(&mut self.lock().violations)
    }

    /// The portal's client was killed: one replay of a refresh token whose reply had arrived is legitimate.
    pub fn allow_replay(&self, domain: &str) {
        let mut authority = self.lock();
        if let Some(portal) = authority.ledger.portal(domain) {
            authority.ledger.portals[portal].replay_allowed = true;
        }
    }

    /// Never held across an `await`. A panic elsewhere leaves the books as they were: single steps, all complete.
    pub(super) fn lock(&self) -> MutexGuard<'_, AuthorizationServer> {
        self.authority
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}
