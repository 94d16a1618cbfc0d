//! Responses of the fake server: rotation, reuse, codes, errors, faults. `server_tests` covers the network.

use std::time::Duration;

use serde_json::{Map, Value, json};

use super::{
    At, DeliveryFault, End, FakeAuthority, FakeResponse, Fault, ReceivedTokenRequest, Reuse, Rules,
};
use refreshd_time::Timestamp;
use refreshd_token_client::provider::Method;

pub(super) const ACME: &str = "acme.bitrix24.com";
pub(super) const APP: &str = "local.1.2";

/// A server with one client, driven without a network.
pub(super) struct Bench {
    pub(super) authority: FakeAuthority,
    pub(super) now: Timestamp,
}

impl Bench {
    pub(super) fn new(rules: Rules) -> Self {
        let mut authority = FakeAuthority::new(rules, 1);
        for client_id in [APP, "local.other"] {
            let client = super::authority::RegisteredClient {
                secret: "s3cret".into(),
                redirect_uri: None,
            };
            authority.clients.insert(client_id.into(), client);
        }
        Self {
            authority,
            now: Timestamp::from_secs(1_780_000_000),
        }
    }

    pub(super) fn later(&mut self, secs: u64) {
        self.now = self.now + Duration::from_secs(secs);
    }

    pub(super) fn install(&mut self) -> Map<String, Value> {
        self.authority.install(ACME, APP, self.now)
    }

    /// Sends a form and leaves the response in progress.
    pub(super) fn send(&mut self, body: &str) -> FakeResponse {
        let content_type = Some("application/x-www-form-urlencoded");
        let request = ReceivedTokenRequest {
            method: "POST",
            content_type,
            query: "",
            body: body.as_bytes(),
        };
        self.authority.token(&request, self.now)
    }

    /// Sends a form and receives the complete response: its status and body.
    pub(super) fn ask(&mut self, body: &str) -> (u16, Map<String, Value>) {
        let answer = self.send(body);
        self.authority.finish(answer.ticket, End::Written, self.now);
        (answer.reply.status, object(&answer))
    }

    pub(super) fn renew(&mut self, token: &str) -> (u16, Map<String, Value>) {
        self.ask(&renewal(token))
    }

    /// The status and `error` of a renewal.
    fn refused(&mut self, token: &str) -> (u16, String) {
        let (status, body) = self.renew(token);
        (status, get(&body, "error"))
    }

    pub(super) fn exchange(&mut self, code: &str) -> (u16, Map<String, Value>) {
        self.ask(&format!(
            "grant_type=authorization_code&client_id={APP}&client_secret=s3cret&code={code}"
        ))
    }

    pub(super) fn fail(&mut self, fault: Fault) {
        self.authority.faults.add(At::All, fault, 1);
    }
}

pub(super) fn renewal(token: &str) -> String {
    format!("grant_type=refresh_token&client_id={APP}&client_secret=s3cret&refresh_token={token}")
}

pub(super) fn object(answer: &FakeResponse) -> Map<String, Value> {
    serde_json::from_slice(&answer.reply.body).unwrap_or_default()
}

pub(super) fn get(body: &Map<String, Value>, name: &str) -> String {
    body.get(name)
        .and_then(Value::as_str)
        .unwrap_or_default()
        .to_owned()
}

pub(super) fn refresh(body: &Map<String, Value>) -> String {
    get(body, "refresh_token")
}

fn rules(reuse: Reuse) -> Rules {
    Rules {
        reuse,
        ..Rules::default()
    }
}

const INVALID_GRANT: (u16, &str) = (400, "invalid_grant");

fn is(got: &(u16, String), expected: (u16, &str)) {
    assert_eq!((got.0, got.1.as_str()), expected);
}

#[test]
fn a_renewal_gives_a_new_pair_in_bitrix24s_words() {
    let mut bench = Bench::new(Rules::default());
    let first = bench.install();
    bench.later(1500);
    let (status, second) = bench.renew(&refresh(&first));
    assert_eq!(status, 200);
    let keys: Vec<_> = second.keys().map(String::as_str).collect();
    assert_eq!(
        keys,
        [
            "access_token",
            "client_endpoint",
            "domain",
            "expires",
            "expires_in",
            "member_id",
            "refresh_token",
            "scope",
            "server_endpoint",
            "status",
            "user_id"
        ]
    );
    assert_eq!(
        (&second["expires_in"], &second["expires"]),
        (&json!(3600), &json!(1_780_005_100))
    );
    assert_eq!(second["client_endpoint"], "https://acme.bitrix24.com/rest/");
    assert_eq!(second["member_id"], first["member_id"]);
    assert!(refresh(&first) != refresh(&second) && first["access_token"] != second["access_token"]);
    let known = |body: &Map<String, Value>| {
        bench
            .authority
            .ledger
            .access(&get(body, "access_token"))
            .unwrap()
    };
    assert_eq!(
        (known(&first).current, known(&second).current),
        (false, true)
    );
    assert_eq!(
        (known(&first).revoked, known(&second).revoked),
        (false, false)
    );
    assert_eq!(
        known(&second).expires_at,
        bench.now + Duration::from_secs(3600)
    );
}

#[test]
fn strict_reuse_refuses_the_spent_token_and_spares_the_next() {
    let mut bench = Bench::new(rules(Reuse::Strict));
    let first = refresh(&bench.install());
    let second = refresh(&bench.renew(&first).1);
    is(&bench.refused(&first), INVALID_GRANT);
    assert_eq!(bench.renew(&second).0, 200);
}

#[test]
fn family_revocation_kills_the_whole_chain_and_no_other() {
    let mut bench = Bench::new(rules(Reuse::RevokeFamily));
    let (first, parallel) = (refresh(&bench.install()), refresh(&bench.install()));
    let (_, second) = bench.renew(&first);
    is(&bench.refused(&first), INVALID_GRANT);
    is(&bench.refused(&refresh(&second)), INVALID_GRANT);
    assert!(
        bench
            .authority
            .ledger
            .access(&get(&second, "access_token"))
            .unwrap()
            .revoked
    );
    assert_eq!(bench.renew(&parallel).0, 200);
}

#[test]
fn within_grace_the_spent_token_gives_the_same_pair() {
    let mut bench = Bench::new(rules(Reuse::Grace(Duration::from_secs(60))));
    let first = refresh(&bench.install());
    let (_, second) = bench.renew(&first);
    bench.later(60);
    let (_, again) = bench.renew(&first);
    assert_eq!(refresh(&again), refresh(&second));
    assert_eq!(again["access_token"], second["access_token"]);
    assert_eq!(
        (&again["expires"], &again["expires_in"]),
        (&second["expires"], &json!(3540))
    );
    assert_eq!(bench.authority.ledger.portals[0].renewals, 1);
    bench.later(1);
    is(&bench.refused(&first), INVALID_GRANT);
    assert_eq!(bench.renew(&refresh(&second)).0, 200);
}

#[test]
fn the_old_access_token_dies_only_where_the_rules_say_so() {
    for dies in [false, true] {
        let mut bench = Bench::new(Rules {
            old_access_dies: dies,
            ..Rules::default()
        });
        let first = bench.install();
        bench.renew(&refresh(&first));
        assert_eq!(
            bench
                .authority
                .ledger
                .access(&get(&first, "access_token"))
                .unwrap()
                .revoked,
            dies
        );
    }
}

#[test]
fn a_code_lives_thirty_seconds_and_works_once() {
    let mut bench = Bench::new(Rules::default());
    let code = bench.authority.authorize(ACME, APP, bench.now);
    bench.later(29);
    let (status, pair) = bench.exchange(&code);
    assert_eq!(status, 200);
    assert_eq!(bench.renew(&refresh(&pair)).0, 200);
    let bad = |(status, body): (u16, Map<String, Value>)| {
        is(
            &(status, get(&body, "error")),
            (400, "bad_verification_code"),
        );
    };
    bad(bench.exchange(&code));
    let late = bench.authority.authorize(ACME, APP, bench.now);
    bench.later(30);
    bad(bench.exchange(&late));
    let foreign = bench.authority.authorize(ACME, "local.other", bench.now);
    bad(bench.exchange(&foreign));
    bad(bench.exchange("0123"));
}

#[test]
fn refusals_have_bitrix24s_statuses() {
    let mut bench = Bench::new(Rules::default());
    let token = refresh(&bench.install());
    let form = |client_id: &str, secret: &str, rest: &str| {
        format!("client_id={client_id}&client_secret={secret}&{rest}")
    };
    let good = format!("grant_type=refresh_token&refresh_token={token}");
    for (body, status, error) in [
        (form("local.9", "s3cret", &good), 200, "wrong_client"),
        (form(APP, "wrong", &good), 400, "invalid_client"),
        (form(APP, "", &good), 400, "invalid_request"),
        (
            form(APP, "s3cret", "grant_type=refresh_token"),
            400,
            "invalid_request",
        ),
        (
            form(APP, "s3cret", "grant_type=refresh_token&refresh_token=0123"),
            400,
            "invalid_grant",
        ),
        (
            form(APP, "s3cret", "grant_type=authorization_code"),
            400,
            "invalid_request",
        ),
        (
            form(APP, "s3cret", "grant_type=password"),
            400,
            "unsupported_grant_type",
        ),
        (form(APP, "s3cret", "x=1"), 400, "invalid_request"),
        (form("local.other", "s3cret", &good), 400, "invalid_grant"),
    ] {
        let (got, reply) = bench.ask(&body);
        assert_eq!(
            (got, get(&reply, "error").as_str()),
            (status, error),
            "{body}"
        );
    }
    assert_eq!(bench.renew(&token).0, 200, "no refusal spent it");
}

#[test]
fn an_uninstalled_portal_is_gone_until_a_new_grant() {
    let mut bench = Bench::new(Rules::default());
    let first = bench.install();
    bench.authority.uninstall(ACME);
    is(&bench.refused(&refresh(&first)), (401, "NOT_INSTALLED"));
    assert!(
        bench
            .authority
            .ledger
            .access(&get(&first, "access_token"))
            .unwrap()
            .revoked
    );
    let second = bench.install();
    assert_eq!(second["member_id"], first["member_id"]);
    is(&bench.refused(&refresh(&first)), INVALID_GRANT);
    assert_eq!(bench.renew(&refresh(&second)).0, 200);
}

#[test]
fn a_renamed_portal_keeps_its_member_id() {
    let mut bench = Bench::new(Rules::default());
    let first = bench.install();
    bench.authority.ledger.rename(ACME, "new.bitrix24.com");
    let (_, second) = bench.renew(&refresh(&first));
    assert_eq!(second["client_endpoint"], "https://new.bitrix24.com/rest/");
    assert_eq!(second["member_id"], first["member_id"]);
    assert_eq!(
        bench.authority.ledger.portal(ACME),
        bench.authority.ledger.portal("new.bitrix24.com")
    );
}

#[test]
fn with_get_everything_is_in_the_query() {
    let mut bench = Bench::new(Rules {
        method: Method::Get,
        ..Rules::default()
    });
    let query = renewal(&refresh(&bench.install()));
    let request = ReceivedTokenRequest {
        method: "GET",
        content_type: None,
        query: &query,
        body: b"",
    };
    assert_eq!(bench.authority.token(&request, bench.now).reply.status, 200);
    assert!(bench.authority.violations.is_empty());
    assert_eq!(bench.ask(&query).1["error"], "invalid_request");
}

#[test]
fn a_fault_spends_the_token_exactly_if_it_is_a_processed_one() {
    let second = Duration::from_secs(1);
    let body = |status| Fault::Body {
        status,
        content_type: "text/html".into(),
        body: "<p>".into(),
        retry_after: Some(9),
    };
    let refuse = Fault::Refuse {
        status: 503,
        error: "INTERNAL_SERVER_ERROR".into(),
        description: String::new(),
    };
    let odd = Fault::Odd {
        fields: json!({"scope": null, "expires_in": "3600"})
            .as_object()
            .unwrap()
            .clone(),
    };
    for (fault, spends, status, delivery, delay) in [
        (refuse, false, 503, DeliveryFault::Whole, 0),
        (body(429), false, 429, DeliveryFault::Whole, 0),
        (Fault::LostBefore, false, 500, DeliveryFault::Closed, 0),
        (
            Fault::Redirect {
                to: "/elsewhere".into(),
            },
            false,
            307,
            DeliveryFault::Whole,
            0,
        ),
        (
            Fault::WithoutRefreshToken,
            false,
            200,
            DeliveryFault::Whole,
            0,
        ),
        (
            Fault::Gateway { status: 504 },
            true,
            504,
            DeliveryFault::Whole,
            0,
        ),
        (Fault::Lost, true, 200, DeliveryFault::Closed, 0),
        (Fault::Reset, true, 200, DeliveryFault::Reset, 0),
        (
            Fault::Truncated { after: 9 },
            true,
            200,
            DeliveryFault::Truncated(9),
            0,
        ),
        (
            Fault::CutJson { after: 9 },
            true,
            200,
            DeliveryFault::Whole,
            0,
        ),
        (
            Fault::Slow { by: second },
            true,
            200,
            DeliveryFault::Whole,
            1,
        ),
        (Fault::Stall, true, 200, DeliveryFault::Never, 0),
        (
            Fault::Drip { every: second },
            true,
            200,
            DeliveryFault::Drip(second),
            0,
        ),
        (
            Fault::Huge { bytes: 7 },
            true,
            200,
            DeliveryFault::Huge(7),
            0,
        ),
        (Fault::OtherMember, true, 200, DeliveryFault::Whole, 0),
        (odd, true, 200, DeliveryFault::Whole, 0),
    ] {
        let mut bench = Bench::new(Rules::default());
        let token = refresh(&bench.install());
        bench.fail(fault.clone());
        let answer = bench.send(&renewal(&token));
        assert_eq!(
            (answer.reply.status, answer.delivery, answer.delay.as_secs()),
            (status, delivery, delay),
            "{fault:?}"
        );
        bench.authority.finish(answer.ticket, End::Gone, bench.now);
        assert_eq!(bench.renew(&token).0 == 400, spends, "{fault:?}");
        assert!(
            bench.authority.violations.is_empty(),
            "{fault:?} {:?}",
            bench.authority.violations
        );
    }
}

#[test]
fn faults_that_change_the_contents_change_only_them() {
    let mut bench = Bench::new(Rules::default());
    let first = bench.install();
    bench.fail(Fault::OtherMember);
    let (_, foreign) = bench.renew(&refresh(&first));
    assert!(foreign["member_id"] != first["member_id"] && get(&foreign, "member_id").len() == 32);
    bench.fail(Fault::WithoutRefreshToken);
    let (_, bare) = bench.renew(&refresh(&foreign));
    assert!(!bare.contains_key("refresh_token") && bare["access_token"] != foreign["access_token"]);
    assert!(
        bench
            .authority
            .ledger
            .access(&get(&bare, "access_token"))
            .unwrap()
            .current
    );
    bench.fail(Fault::Odd {
        fields: json!({"scope": null, "expires_in": "60"})
            .as_object()
            .unwrap()
            .clone(),
    });
    let (status, odd) = bench.renew(&refresh(&foreign));
    assert_eq!(
        (status, odd.contains_key("scope"), &odd["expires_in"]),
        (200, false, &json!("60"))
    );
    bench.fail(Fault::CutJson { after: usize::MAX });
    let cut = bench.send(&renewal(&refresh(&odd))).reply.body;
    assert!(
        cut.starts_with(b"{") && !cut.ends_with(b"}"),
        "at least a byte is missing"
    );
}

#[test]
fn a_fault_meets_only_its_portal_or_client() {
    let mut bench = Bench::new(Rules::default());
    let here = refresh(&bench.install());
    let there = refresh(&bench.authority.install("beta.bitrix24.com", APP, bench.now));
    bench.authority.faults.add(
        At::Portal("beta.bitrix24.com".into()),
        Fault::Gateway { status: 502 },
        1,
    );
    bench.authority.faults.add(
        At::Client("local.other".into()),
        Fault::Gateway { status: 503 },
        1,
    );
    assert_eq!(bench.renew(&here).0, 200);
    assert_eq!(bench.renew(&there).0, 502);
    assert_eq!(bench.ask("client_id=local.other").0, 503);
}
