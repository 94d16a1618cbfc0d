//! Violations that the fake server must record, and correct requests that it must accept.

use std::time::Duration;

use super::authority_tests::{ACME, APP, Bench, get, object, refresh, renewal};
use super::{End, Fault, ReceivedTokenRequest, Reuse, Rules};

const SPENT: &str = "a spent refresh token was presented again although its reply had arrived";
const AT_ONCE: &str = "two requests of one grant were in flight at once";
const TOO_SOON: &str = "renewed twice within a tenth of the token's life";

impl Bench {
    /// Violations, without the portal in front and the request's number at the end.
    fn noticed(&self) -> Vec<&str> {
        let texts = self.authority.violations.iter();
        texts
            .map(|text| text.split(": ").nth(1).unwrap().split(" (").next().unwrap())
            .collect()
    }
}

#[test]
fn a_spent_token_comes_again_after_its_reply_arrived() {
    let mut bench = Bench::new(Rules::default());
    let first = refresh(&bench.install());
    bench.renew(&first);
    bench.renew(&first);
    assert_eq!(
        bench.authority.violations,
        [format!("{ACME}: {SPENT} (request 2)")]
    );
}

#[test]
fn a_replay_is_legitimate_while_the_reply_has_not_arrived() {
    let zero = Duration::ZERO;
    for fault in [
        Fault::Lost,
        Fault::Reset,
        Fault::Truncated { after: 9 },
        Fault::CutJson { after: 9 },
        Fault::Gateway { status: 502 },
        Fault::Stall,
        Fault::Slow { by: zero },
        Fault::Drip { every: zero },
        Fault::Huge { bytes: 9 },
    ] {
        let mut bench = Bench::new(Rules::default());
        let token = refresh(&bench.install());
        bench.fail(fault.clone());
        // Written or not, the client may have been unable to parse it.
        bench.renew(&token);
        bench.renew(&token);
        assert!(bench.noticed().is_empty(), "{fault:?}");
        let newest = bench.authority.ledger.grants[0]
            .pair(1)
            .unwrap()
            .refresh
            .to_string();
        assert_eq!(bench.renew(&newest).0, 200);
        bench.renew(&token);
        assert_eq!(
            bench.noticed(),
            [SPENT],
            "{fault:?}: the client that spent the next token had it"
        );
    }
}

#[test]
fn a_reply_that_could_not_leave_may_be_asked_for_again() {
    let mut bench = Bench::new(Rules::default());
    let first = refresh(&bench.install());
    let answer = bench.send(&renewal(&first));
    bench
        .authority
        .finish(answer.ticket, End::Written, bench.now);
    bench.authority.unwritten(answer.ticket);
    bench.renew(&first);
    assert!(bench.noticed().is_empty());
    let second = refresh(&object(&answer));
    let gone = bench.send(&renewal(&second));
    bench.authority.finish(gone.ticket, End::Gone, bench.now);
    bench.renew(&second);
    assert!(bench.noticed().is_empty());
}

#[test]
fn a_reply_without_its_tokens_did_not_arrive_and_one_with_them_did() {
    for (field, expected) in [
        ("access_token", &[][..]),
        ("refresh_token", &[]),
        ("scope", &[SPENT]),
    ] {
        let mut bench = Bench::new(Rules::default());
        let token = refresh(&bench.install());
        let fields = serde_json::Map::from_iter([(field.to_owned(), serde_json::Value::Null)]);
        bench.fail(Fault::Odd { fields });
        assert_eq!(get(&bench.renew(&token).1, field), "");
        bench.renew(&token);
        assert_eq!(bench.noticed(), expected, "{field}");
    }
}

#[test]
fn within_grace_a_replay_is_legitimate() {
    let mut bench = Bench::new(Rules {
        reuse: Reuse::Grace(Duration::from_secs(9)),
        ..Rules::default()
    });
    let token = refresh(&bench.install());
    bench.renew(&token);
    bench.later(9);
    bench.renew(&token);
    assert!(bench.noticed().is_empty());
    bench.later(1);
    bench.renew(&token);
    assert_eq!(bench.noticed(), [SPENT]);
}

#[test]
fn a_killed_client_may_replay_until_it_gets_an_answer_and_then_only_ask_again_later() {
    let mut bench = Bench::new(Rules::default());
    let token = refresh(&bench.install());
    bench.renew(&token);
    bench.authority.ledger.portals[0].replay_allowed = true;
    bench.fail(Fault::Gateway { status: 502 });
    bench.renew(&token);
    bench.renew(&token);
    assert!(bench.noticed().is_empty());
    bench.later(20);
    bench.renew(&token);
    assert!(
        bench.noticed().is_empty(),
        "a dead grant is asked about again"
    );
    bench.later(19);
    bench.renew(&token);
    assert_eq!(bench.noticed(), [SPENT]);
}

#[test]
fn two_requests_of_a_grant_at_once() {
    let mut bench = Bench::new(Rules::default());
    let first = refresh(&bench.install());
    let other = refresh(&bench.install());
    let one = bench.send(&renewal(&first));
    let elsewhere = bench.send(&renewal(&other));
    bench
        .authority
        .finish(elsewhere.ticket, End::Written, bench.now);
    assert!(bench.noticed().is_empty(), "another grant's is no concern");
    let two = bench.send(&renewal(&first));
    bench.authority.finish(one.ticket, End::Written, bench.now);
    assert_eq!(bench.noticed(), [AT_ONCE]);
    bench.authority.finish(two.ticket, End::Written, bench.now);
    assert_eq!(bench.noticed().len(), 1);
}

#[test]
fn a_client_that_hung_up_before_it_asked_again_had_one_request_at_once() {
    for (late, expected) in [(1, &[][..]), (2, &[AT_ONCE])] {
        let mut bench = Bench::new(Rules::default());
        let token = refresh(&bench.install());
        bench.fail(Fault::Stall);
        let one = bench.send(&renewal(&token));
        bench.later(30);
        bench.renew(&token);
        bench.later(late);
        bench.authority.finish(one.ticket, End::Gone, bench.now);
        assert_eq!(bench.noticed(), expected, "{late} s");
    }
}

#[test]
fn renewed_twice_within_a_tenth_of_the_life() {
    for (secs, expected) in [(359, &[TOO_SOON][..]), (360, &[])] {
        let mut bench = Bench::new(Rules::default());
        let first = refresh(&bench.install());
        let second = refresh(&bench.renew(&first).1);
        assert!(
            bench.noticed().is_empty(),
            "a new grant may be proved at once"
        );
        bench.later(secs);
        bench.renew(&second);
        assert_eq!(bench.noticed(), expected, "{secs} s");
    }
}

#[test]
fn renewals_that_a_fault_or_a_replay_made_necessary_are_not_too_many() {
    let mut bench = Bench::new(Rules {
        reuse: Reuse::Grace(Duration::from_secs(60)),
        ..Rules::default()
    });
    let first = refresh(&bench.install());
    bench.renew(&first);
    let second = refresh(&bench.renew(&first).1);
    let third = refresh(&bench.renew(&second).1);
    assert!(bench.noticed().is_empty(), "after a replay");
    bench.later(400);
    bench.fail(Fault::OtherMember);
    let fourth = refresh(&bench.renew(&third).1);
    bench.renew(&fourth);
    assert!(bench.noticed().is_empty(), "after a fault");
}

#[test]
fn the_token_of_one_client_comes_from_another() {
    let mut bench = Bench::new(Rules::default());
    let token = refresh(&bench.install());
    bench.ask(&renewal(&token).replace(APP, "local.unknown"));
    assert!(
        bench.noticed().is_empty(),
        "an unregistered client_id is a configuration error"
    );
    bench.ask(&renewal(&token).replace(APP, "local.other"));
    assert_eq!(
        bench.noticed(),
        ["a refresh token was presented by another client"]
    );
}

#[test]
fn parameters_in_the_wrong_place_are_noticed_with_the_portal() {
    let mut bench = Bench::new(Rules::default());
    let token = refresh(&bench.install());
    let (query, body) = (format!("refresh_token={token}"), renewal(&token));
    let content_type = Some("application/x-www-form-urlencoded");
    let request = ReceivedTokenRequest {
        method: "POST",
        content_type,
        query: &query,
        body: body.as_bytes(),
    };
    bench.authority.token(&request, bench.now);
    assert_eq!(
        bench.authority.violations,
        [format!(
            "{ACME}: refresh_token was sent in the URL (request 1)"
        )]
    );
}

#[test]
fn whoever_follows_a_redirect_is_noticed() {
    let mut bench = Bench::new(Rules::default());
    for to in [
        "http://127.0.0.1:9/trap/?x=1",
        "http://127.0.0.1:9/oauth/token/",
        "/plain",
    ] {
        bench.fail(Fault::Redirect { to: to.to_owned() });
        assert_eq!(bench.send("").reply.location.as_deref(), Some(to));
    }
    for (path, noticed) in [
        ("/oauth/token/", 0),
        ("/other", 0),
        ("/trap/", 1),
        ("/plain", 2),
        ("/redirected", 3),
    ] {
        bench.authority.check_redirect(path);
        assert_eq!(bench.noticed().len(), noticed, "{path}");
    }
}

#[test]
fn violations_are_bounded_and_hold_no_secret() {
    let mut bench = Bench::new(Rules::default());
    let token = refresh(&bench.install());
    for _ in 0..150 {
        bench.ask(&(renewal(&token) + "&redirect_uri=s3cret&scope=s3cret"));
    }
    assert_eq!(bench.authority.violations.len(), 100);
    let text = bench.authority.violations.concat();
    assert!(!text.contains("s3cret") && !text.contains(&token));
}
