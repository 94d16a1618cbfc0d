//! Installation and removal of applications, and `/rest/app.info`, which returns the owner of an access token.
//!
//! Must not identify the requester: possession of a token suffices.

use serde_json::{Map, Value, json};

use super::authority::FakeAuthority;
use super::form::pairs;
use super::ledger::USER_ID;
use super::response::ReplyContent;
use refreshd_time::Timestamp;

/// Endpoint for the owner of an access token.
pub(super) const APP_INFO_PATH: &str = "/rest/app.info";
/// Endpoint of a portal for whether the user of a token is an administrator.
pub(super) const USER_ADMIN_PATH: &str = "/rest/user.admin";

impl FakeAuthority {
    /// Issues a new grant and returns its token reply.
    pub fn install(&mut self, domain: &str, client_id: &str, now: Timestamp) -> Map<String, Value> {
        self.install_as(domain, client_id, USER_ID, now)
    }

    /// As [`Self::install`], for this user.
    pub fn install_as(
        &mut self,
        domain: &str,
        client_id: &str,
        user_id: u64,
        now: Timestamp,
    ) -> Map<String, Value> {
        let portal = self.ledger.portal_or_new(domain);
        self.ledger.portals[portal].installed = true;
        let place = self
            .ledger
            .grant(portal, (client_id, user_id), self.rules.token_lifetime, now);
        self.reply_of(place, now)
    }

    /// Removes the application from a portal: all of its grants are dead, even after a new installation.
    pub fn uninstall(&mut self, domain: &str) {
        let Some(portal) = self.ledger.portal(domain) else {
            return;
        };
        self.ledger.portals[portal].installed = false;
        self.ledger
            .grants
            .iter_mut()
            .filter(|grant| grant.portal == portal)
            .for_each(|grant| grant.revoked = true);
    }

    /// Answers whether the user of an access token is an administrator.
    pub(super) fn user_admin(&self, body: &[u8], now: Timestamp) -> ReplyContent {
        let form = pairs(&String::from_utf8_lossy(body));
        let token = form
            .iter()
            .find(|(name, _)| name == "auth")
            .map(|(_, value)| value.as_str());
        let known = token.and_then(|token| self.ledger.grant_of_access(token));
        match (&self.admins, known) {
            (Some(admins), Some((grant, expires_at))) if expires_at > now && !grant.revoked => {
                let mut answer = Map::new();
                answer.insert("result".to_owned(), admins.contains(&grant.user_id).into());
                ReplyContent::json(200, answer)
            }
            _ => ReplyContent::error(
                401,
                "expired_token",
                "The access token provided has expired",
            ),
        }
    }

    /// Answers a request for the owner of an access token.
    pub(super) fn app_info(
        &mut self,
        method: &str,
        query: &str,
        body: &[u8],
        now: Timestamp,
    ) -> ReplyContent {
        let (asked, failing) = &mut self.owner_requests;
        *asked += 1;
        if *failing > 0 {
            *failing -= 1;
            return ReplyContent::error(500, "INTERNAL_SERVER_ERROR", "out of order");
        }
        if self.owner_refusals.0 > 0 {
            self.owner_refusals.0 -= 1;
            return ReplyContent::error(401, "invalid_token", "Unable to get application by token");
        }
        if pairs(query).iter().any(|(name, _)| name == "auth") {
            self.record_violation(None, "an access token was sent in the URL");
        }
        let form = pairs(&String::from_utf8_lossy(body));
        let token = form
            .iter()
            .find(|(name, _)| name == "auth")
            .map(|(_, value)| value.as_str());
        let Some(token) = token.filter(|token| method == "POST" && is_token(token)) else {
            return ReplyContent::error(400, "invalid_client", "Invalid client");
        };
        let Some((grant, expires_at)) = self
            .ledger
            .grant_of_access(token)
            .filter(|(grant, _)| !grant.revoked)
        else {
            return ReplyContent::error(401, "invalid_token", "Unable to get application by token");
        };
        if expires_at <= now {
            return ReplyContent::error(
                401,
                "expired_token",
                "The access token provided has expired",
            );
        }
        let not_yet = self.owner_refusals.1 > 0;
        self.owner_refusals.1 = self.owner_refusals.1.saturating_sub(1);
        let portal = &self.ledger.portals[grant.portal];
        let (domain, member_id) = (&portal.domain, &portal.member_id);
        let uri = format!("https://{domain}");
        let answer = json!({
            "result": {
                "client_id": grant.client_id, "scope": "app", "expires": expires_at.to_string(),
                "install": {
                    "installed": portal.installed && !not_yet, "version": 1, "status": "L", "scope": "app", "domain": domain, "uri": uri,
                    "client_endpoint": self.endpoint_of(domain), "member_id": member_id, "member_type": "cloud",
                },
                "user_id": grant.user_id,
            },
            "time": {"start": now.secs()},
        });
        match answer {
            Value::Object(answer) => ReplyContent::json(200, answer),
            _ => ReplyContent::error(500, "INTERNAL_SERVER_ERROR", ""),
        }
    }
}

/// Returns whether a text has the format of a token; others are not looked up.
fn is_token(text: &str) -> bool {
    text.len() == 70 && text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::authority_tests::{ACME, APP, Bench};
    use crate::rules::Rules;

    fn asked(bench: &mut Bench, token: &str) -> (u16, Value) {
        let reply =
            bench
                .authority
                .app_info("POST", "", format!("auth={token}").as_bytes(), bench.now);
        (reply.status, serde_json::from_slice(&reply.body).unwrap())
    }

    #[test]
    fn a_token_is_said_to_be_its_users_until_it_ends_or_is_taken_away() {
        let mut bench = Bench::new(Rules::default());
        let installed = bench.authority.install_as(ACME, APP, 67, bench.now);
        let token = installed["access_token"].as_str().unwrap();
        let (status, answer) = asked(&mut bench, token);
        assert_eq!(status, 200);
        assert_eq!(
            (&answer["result"]["user_id"], &answer["result"]["client_id"]),
            (&67.into(), &APP.into())
        );
        assert_eq!(
            answer["result"]["install"]["member_id"],
            installed["member_id"]
        );
        assert_eq!(installed["user_id"], 67);
        bench.authority.owner_requests.1 = 1;
        assert_eq!(asked(&mut bench, token).0, 500);
        bench.authority.uninstall(ACME);
        let (status, answer) = asked(&mut bench, token);
        assert_eq!((status, &answer["error"]), (401, &"invalid_token".into()));
        assert_eq!(asked(&mut bench, "x").0, 400);
        assert_eq!(bench.authority.owner_requests.0, 4);
    }
}
