//! The fake authorization server as a pure state machine: clients, codes, grants, rotation, and recorded violations.
//!
//! Must not do I/O or read a clock: `now` is an argument, and the same seed and calls give the same responses.

use std::collections::HashMap;
use std::time::Duration;

use serde_json::{Map, Value};

use super::faults::{Fault, Faults};
use super::form::{ReceivedTokenRequest, RequestForm};
use super::ledger::{Ledger, PairIndex, SpentToken, USER_ID};
use super::response::{DeliveryFault, End, FakeResponse, ReplyContent, Ticket};
use super::rules::{Reuse, Rules};
use refreshd_time::Timestamp;

/// Maximum number of recorded violations; the first ones are the most informative.
const MAX_VIOLATIONS: usize = 100;
/// Retention of expired codes.
const CODE_MEMORY: Duration = Duration::from_secs(3600);

/// State of the server.
#[derive(Debug)]
pub struct FakeAuthority {
    pub(super) rules: Rules,
    pub(super) faults: Faults,
    pub(super) ledger: Ledger,
    pub(super) clients: HashMap<String, RegisteredClient>,
    pub(super) total_requests: u64,
    pub(super) violations: Vec<String>,
    pub(super) host: String,
    pub(super) traps: Vec<String>,
    /// Number of requests to `/rest/app.info` so far, and how many of the next fail.
    pub(super) owner_requests: (u64, u32),
    /// Of the next requests that do not fail: the number of refusals, and the number of responses that nothing is
    /// installed.
    pub(super) owner_refusals: (u32, u32),
    /// Delay of each response.
    pub(super) owner_request_delay: Duration,
    /// Administrators of every portal, whose API this server is then; `None`: portals have no API.
    pub(super) admins: Option<Vec<u64>>,
    codes: HashMap<String, Code>,
}

#[derive(Debug)]
pub(super) struct RegisteredClient {
    pub(super) secret: String,
    pub(super) redirect_uri: Option<String>,
}

#[derive(Debug)]
struct Code {
    portal: usize,
    client_id: String,
    expires_at: Timestamp,
    used: bool,
}

/// Credential of a request, as far as the server knows it.
#[derive(Clone, Copy, Debug)]
pub(super) enum CheckedCredential {
    Refresh(PairIndex),
    /// A code of this portal.
    Code(usize),
    Nothing,
}

/// A success: the new pair, and the older pair whose spending it answers.
struct IssuedGrant {
    place: PairIndex,
    settles: Option<u64>,
}

/// HTTP status, `error`, `error_description`.
type TokenError = (u16, &'static str, String);

impl FakeAuthority {
    /// A server without clients and portals. Tokens depend on `seed` alone.
    #[must_use]
    pub fn new(rules: Rules, seed: u64) -> Self {
        Self {
            rules,
            faults: Faults::default(),
            ledger: Ledger::new(seed),
            clients: HashMap::new(),
            total_requests: 0,
            violations: Vec::new(),
            host: "sandbox.invalid".to_owned(),
            traps: vec!["/redirected".to_owned()],
            owner_requests: (0, 0),
            owner_refusals: (0, 0),
            owner_request_delay: Duration::ZERO,
            admins: None,
            codes: HashMap::new(),
        }
    }

    /// Answers a token request. The caller sends the response and returns its ticket to [`Self::finish`].
    pub fn token(&mut self, request: &ReceivedTokenRequest<'_>, now: Timestamp) -> FakeResponse {
        self.total_requests += 1;
        let form = RequestForm::read(request, self.rules.method);
        let presented = self.presented(&form);
        let portal = match presented {
            CheckedCredential::Refresh(place) => Some(self.ledger.grants[place.grant].portal),
            CheckedCredential::Code(portal) => Some(portal),
            CheckedCredential::Nothing => None,
        };
        if let Some(portal) = portal {
            self.ledger.portals[portal].requests += 1;
        }
        for wrong in &form.wrong {
            self.record_violation(portal, wrong);
        }
        let fault = self.take_fault(&form, portal);
        let grant = self.start_request(presented, &form, fault.is_some(), now);
        let ticket = Ticket {
            id: self.total_requests,
            grant,
            settles: None,
        };
        if let Some((reply, delivery)) = fault.as_ref().and_then(Fault::unprocessed) {
            self.watch_redirect(&reply);
            return FakeResponse {
                reply,
                delivery,
                delay: self.rules.delay,
                ticket,
            };
        }
        self.processed(&form, presented, fault.as_ref(), ticket, now)
    }

    /// Issues an authorization code. The authorizing user has the application installed.
    pub fn authorize(&mut self, domain: &str, client_id: &str, now: Timestamp) -> String {
        self.codes
            .retain(|_, code| now.since(code.expires_at) < CODE_MEMORY);
        let portal = self.ledger.portal_or_new(domain);
        self.ledger.portals[portal].installed = true;
        let text = self.ledger.mint.hex(70);
        let expires_at = now + self.rules.code_lifetime;
        let code = Code {
            portal,
            client_id: client_id.to_owned(),
            expires_at,
            used: false,
        };
        self.codes.insert(text.clone(), code);
        text
    }

    fn presented(&self, form: &RequestForm) -> CheckedCredential {
        if let Some(place) = form
            .get("refresh_token")
            .and_then(|token| self.ledger.refresh(token))
        {
            return CheckedCredential::Refresh(place);
        }
        let code = form.get("code").and_then(|code| self.codes.get(code));
        code.map_or(CheckedCredential::Nothing, |code| {
            CheckedCredential::Code(code.portal)
        })
    }

    fn take_fault(&mut self, form: &RequestForm, portal: Option<usize>) -> Option<Fault> {
        let Self { faults, ledger, .. } = self;
        faults.take(|at| match at {
            super::At::All => true,
            super::At::Portal(domain) => portal.is_some() && ledger.portal(domain) == portal,
            super::At::Client(client_id) => form.get("client_id") == Some(client_id),
        })
    }

    fn processed(
        &mut self,
        form: &RequestForm,
        presented: CheckedCredential,
        fault: Option<&Fault>,
        mut ticket: Ticket,
        now: Timestamp,
    ) -> FakeResponse {
        let mut reply = match self.process(form, presented, fault, now) {
            Ok(granted) => {
                let body = self.reply_of(granted.place, now);
                let mut shown = body.clone();
                if let Some(fault) = fault {
                    fault.change(&mut shown, || self.ledger.mint.hex(32));
                }
                let intact = ["access_token", "refresh_token"]
                    .iter()
                    .all(|name| shown.get(*name) == body.get(*name));
                if intact && fault.is_none_or(Fault::leaves_whole) {
                    ticket.settles = granted.settles;
                }
                ReplyContent::json(200, shown)
            }
            Err((status, error, description)) => ReplyContent::error(status, error, &description),
        };
        let (delivery, late) = fault.map_or((DeliveryFault::Whole, Duration::ZERO), |fault| {
            fault.shape(&mut reply)
        });
        FakeResponse {
            reply,
            delivery,
            delay: self.rules.delay + late,
            ticket,
        }
    }

    fn process(
        &mut self,
        form: &RequestForm,
        presented: CheckedCredential,
        fault: Option<&Fault>,
        now: Timestamp,
    ) -> Result<IssuedGrant, TokenError> {
        if let Some(reason) = &form.refused {
            return Err((400, "invalid_request", reason.clone()));
        }
        let needed = |name: &str| {
            form.get(name).ok_or_else(|| {
                (
                    400,
                    "invalid_request",
                    format!("No \"{name}\" parameter found"),
                )
            })
        };
        let client_id = needed("client_id")?;
        // Bitrix24 answers an unknown client with status 200 and no description.
        let client = self
            .clients
            .get(client_id)
            .ok_or((200, "wrong_client", String::new()))?;
        if needed("client_secret")? != client.secret {
            return Err((400, "invalid_client", "Invalid client".to_owned()));
        }
        match needed("grant_type")? {
            "refresh_token" => {
                needed("refresh_token")?;
                match presented {
                    CheckedCredential::Refresh(place) => self.renew(place, client_id, fault, now),
                    CheckedCredential::Code(_) | CheckedCredential::Nothing => Err(invalid_grant()),
                }
            }
            "authorization_code" => self.exchange(needed("code")?, client_id, now),
            _ => Err((
                400,
                "unsupported_grant_type",
                "Unsupported grant type".to_owned(),
            )),
        }
    }

    fn renew(
        &mut self,
        place: PairIndex,
        client_id: &str,
        fault: Option<&Fault>,
        now: Timestamp,
    ) -> Result<IssuedGrant, TokenError> {
        let Rules {
            token_lifetime,
            reuse,
            old_access_dies,
            ..
        } = self.rules;
        let grant = &mut self.ledger.grants[place.grant];
        if grant.client_id != client_id {
            return Err(invalid_grant());
        }
        if !self.ledger.portals[grant.portal].installed {
            return Err((401, "NOT_INSTALLED", "Application not installed".to_owned()));
        }
        if grant.revoked {
            return Err(invalid_grant());
        }
        if let Some(spent) = grant.spent_mut(place.number) {
            return match reuse {
                Reuse::Grace(window) if now.since(spent.at) <= window => {
                    spent.clean = false;
                    let next = PairIndex {
                        number: place.number + 1,
                        ..place
                    };
                    if next.number == grant.newest()
                        && grant
                            .pair(next.number)
                            .is_some_and(|pair| pair.expires_at.until(now).as_secs() == 0)
                    {
                        self.ledger
                            .reissue(place.grant, token_lifetime, old_access_dies, now);
                    }
                    Ok(IssuedGrant {
                        place: next,
                        settles: Some(place.number),
                    })
                }
                Reuse::Strict | Reuse::Grace(_) => Err(invalid_grant()),
                Reuse::RevokeFamily => {
                    grant.revoked = true;
                    Err(invalid_grant())
                }
            };
        }
        if fault == Some(&Fault::WithoutRefreshToken) {
            self.ledger
                .reissue(place.grant, token_lifetime, old_access_dies, now);
            return Ok(IssuedGrant {
                place,
                settles: None,
            });
        }
        if fault.is_none() {
            self.check_spacing(place, now);
        }
        let spent = SpentToken {
            at: now,
            delivered: false,
            clean: fault.is_none(),
        };
        let next = self
            .ledger
            .rotate(place.grant, spent, token_lifetime, old_access_dies);
        Ok(IssuedGrant {
            place: next,
            settles: Some(place.number),
        })
    }

    fn exchange(
        &mut self,
        code: &str,
        client_id: &str,
        now: Timestamp,
    ) -> Result<IssuedGrant, TokenError> {
        let bad = || {
            (
                400,
                "bad_verification_code",
                "The code passed is incorrect or expired".to_owned(),
            )
        };
        let code = self.codes.get_mut(code).ok_or_else(bad)?;
        if code.used || code.client_id != client_id || now >= code.expires_at {
            return Err(bad());
        }
        code.used = true;
        if !self.ledger.portals[code.portal].installed {
            return Err((401, "NOT_INSTALLED", "Application not installed".to_owned()));
        }
        let place = self.ledger.grant(
            code.portal,
            (client_id, USER_ID),
            self.rules.token_lifetime,
            now,
        );
        Ok(IssuedGrant {
            place,
            settles: None,
        })
    }

    /// Bitrix24's token reply.
    pub(super) fn reply_of(&self, place: PairIndex, now: Timestamp) -> Map<String, Value> {
        let grant = &self.ledger.grants[place.grant];
        let portal = &self.ledger.portals[grant.portal];
        let mut body = Map::new();
        let mut put = |name: &str, value: Value| body.insert(name.to_owned(), value);
        if let Some(pair) = grant.pair(place.number) {
            put("access_token", pair.access.as_ref().into());
            put("refresh_token", pair.refresh.as_ref().into());
            put("expires", pair.expires_at.secs().into());
            put("expires_in", pair.expires_at.until(now).as_secs().into());
        }
        put("member_id", portal.member_id.as_str().into());
        put("client_endpoint", self.endpoint_of(&portal.domain).into());
        put(
            "server_endpoint",
            format!("http://{}/rest/", self.host).into(),
        );
        put("domain", self.host.as_str().into());
        put("scope", "app".into());
        put("status", "L".into());
        put("user_id", grant.user_id.into());
        body
    }

    /// Address of a portal's API.
    pub(super) fn endpoint_of(&self, domain: &str) -> String {
        match self.admins {
            Some(_) => format!("http://{}/rest/", self.host),
            None => format!("https://{domain}/rest/"),
        }
    }

    /// Records a violation. `text` contains no secret.
    pub(super) fn record_violation(&mut self, portal: Option<usize>, text: &str) {
        if self.violations.len() < MAX_VIOLATIONS {
            let who = portal.map_or("no known portal", |portal| {
                self.ledger.portals[portal].domain.as_str()
            });
            self.violations
                .push(format!("{who}: {text} (request {})", self.total_requests));
        }
    }
}

fn invalid_grant() -> TokenError {
    (400, "invalid_grant", "Invalid grant".to_owned())
}

impl FakeAuthority {
    /// Ends a request. [`End::Written`] is reported before the last byte is sent, so that the client cannot be faster;
    /// if that byte then cannot be sent, [`Self::unwritten`] reverts it.
    pub fn finish(&mut self, ticket: Ticket, end: End, now: Timestamp) {
        self.end_request(ticket, end, now);
        if end == End::Written
            && let Some(spent) = self.spent_of(ticket)
        {
            spent.delivered = true;
        }
    }

    /// Reverts a reply counted as written: it was not sent.
    pub fn unwritten(&mut self, ticket: Ticket) {
        if let Some(spent) = self.spent_of(ticket) {
            spent.delivered = false;
        }
    }

    fn spent_of(&mut self, ticket: Ticket) -> Option<&mut SpentToken> {
        self.ledger
            .grants
            .get_mut(ticket.grant?)?
            .spent_mut(ticket.settles?)
    }
}
