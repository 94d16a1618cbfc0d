//! Authorization page: returns a code by redirect, or shows it. It does not ask the user.
//!
//! Must not redirect anywhere but to the client's registered address.

use super::authority::FakeAuthority;
use super::form::{encoded, pairs};
use super::response::ReplyContent;
use refreshd_time::Timestamp;

/// The authorization endpoint.
pub(super) const AUTHORIZE_PATH: &str = "/oauth/authorize/";

impl FakeAuthority {
    /// Answers `GET /oauth/authorize/`. The portal is `domain` in the query, or the requested host.
    pub(super) fn authorization_page(
        &mut self,
        query: &str,
        host: Option<&str>,
        now: Timestamp,
    ) -> ReplyContent {
        let fields = pairs(query);
        let get = |name: &str| {
            fields
                .iter()
                .find(|(field, _)| field == name)
                .map(|(_, value)| value.as_str())
        };
        // As at Bitrix24, a failure is a page: no redirect, no `error`.
        let client_id = get("client_id").unwrap_or_default();
        let Some(client) = self.clients.get(client_id) else {
            return ReplyContent::html(400, "There is no application with this client_id.");
        };
        let redirect_uri = client.redirect_uri.clone();
        let Some(domain) = get("domain").or(host).filter(|domain| is_host(domain)) else {
            return ReplyContent::html(400, "The portal's domain is missing.");
        };
        let code = self.authorize(domain, client_id, now);
        let Some(redirect_uri) = redirect_uri else {
            return ReplyContent::html(200, &format!("Authorization code: <code>{code}</code>"));
        };
        let portal = self.ledger.portal_or_new(domain);
        let member_id = &self.ledger.portals[portal].member_id;
        let separator = if redirect_uri.contains('?') { '&' } else { '?' };
        ReplyContent::found(format!(
            "{redirect_uri}{separator}code={code}&state={}&domain={}&member_id={member_id}&scope=app&server_domain={}",
            encoded(get("state").unwrap_or_default()),
            encoded(domain),
            encoded(&self.host),
        ))
    }
}

fn is_host(text: &str) -> bool {
    (1..=253).contains(&text.len())
        && text
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b".-:[]".contains(&byte))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::authority_tests::{ACME, APP, Bench};
    use crate::rules::Rules;

    #[test]
    fn the_authorization_page_redirects_only_where_the_client_registered() {
        let mut bench = Bench::new(Rules::default());
        let query = "client_id=local.1.2&state=a%26b&domain=acme.bitrix24.com&redirect_uri=https://evil.example/";
        let page = bench.authority.authorization_page(query, None, bench.now);
        let text = String::from_utf8(page.body).unwrap();
        let code = text
            .split("<code>")
            .nth(1)
            .unwrap()
            .split("</code>")
            .next()
            .unwrap();
        assert_eq!(
            (page.status, page.location.is_none(), bench.exchange(code).0),
            (200, true, 200)
        );
        bench.authority.clients.get_mut(APP).unwrap().redirect_uri =
            Some("http://127.0.0.1:1/cb".into());
        let location = bench
            .authority
            .authorization_page(query, None, bench.now)
            .location
            .unwrap();
        let sent = pairs(location.strip_prefix("http://127.0.0.1:1/cb?").unwrap());
        assert_eq!((sent[1].1.as_str(), sent[2].1.as_str()), ("a&b", ACME));
        assert_eq!(bench.exchange(&sent[0].1).0, 200);
        for (query, host) in [
            ("client_id=x", Some(ACME)),
            ("client_id=local.1.2", None),
            ("client_id=local.1.2", Some("<p>")),
        ] {
            let page = bench.authority.authorization_page(query, host, bench.now);
            assert_eq!((page.status, page.location), (400, None), "{query}");
        }
    }
}
