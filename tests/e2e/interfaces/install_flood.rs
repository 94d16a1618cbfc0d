//! Floods of forged events: few introspections, capacity for others, and no delay of other apps.

use std::time::Duration;

use refreshd::domain::verification_budget::{APP_BUDGET, RESERVED_FOR_KNOWN, SENDER_BUDGET};
use refreshd_fake_server::{FakeServer, Rules};
use refreshd_time::clock::Clock;
use tokio_util::sync::CancellationToken;

use crate::common::installs::{Form, encoded, form_of, with};
use crate::common::{App, CLIENT_SECRET, Rig, SOON, domain, eventually, message_contains};
use crate::interfaces::install::installing;

const FORM: &str = "application/x-www-form-urlencoded";

/// Posts forms concurrently to a path, each from an address; returns the number accepted.
fn flood(rig: &Rig, path: &str, forms: impl Iterator<Item = (String, Form)>) -> usize {
    let client = reqwest::Client::builder()
        .no_proxy()
        .build()
        .expect("a client");
    let address = rig.install_address();
    rig.runtime.block_on(async {
        let mut posts = tokio::task::JoinSet::new();
        let mut statuses = Vec::new();
        for (source, form) in forms {
            let post = client
                .post(format!("http://{address}{path}"))
                .header("content-type", FORM);
            posts.spawn(post.header("x-real-ip", source).body(encoded(&form)).send());
            if posts.len() >= 64 {
                statuses.extend(posts.join_next().await);
            }
        }
        statuses.extend(posts.join_all().await.into_iter().map(Ok));
        let taken = |posted: Result<Result<reqwest::Response, _>, _>| {
            posted
                .expect("no panic")
                .expect("an answer")
                .status()
                .as_u16()
                == 200
        };
        statuses
            .into_iter()
            .filter_map(|posted| taken(posted).then_some(()))
            .count()
    })
}

/// Forms forged around one: each with an own token, of an own portal or of this one.
fn forged(form: &Form, number: usize, member_id: Option<&str>) -> Form {
    let form = with(form.clone(), "AUTH_ID", &format!("{number:070}"));
    let made_up = format!("member{number}");
    with(form, "member_id", member_id.unwrap_or(&made_up))
}

#[test]
fn introspections_per_sender_and_portal_are_limited() {
    for (source_header, same) in [(true, false), (false, true), (false, false)] {
        let mut rig = installing("");
        let header = if source_header {
            "source_header = \"X-Real-IP\""
        } else {
            ""
        };
        rig.take_installs("", &format!("rate = 10000\nsource_rate = 10000\n{header}"));
        let daemon = rig.start();
        let known = rig.grant_of("known", 1);
        rig.open("known", &known);
        rig.wait_for_installs("stored", 1.0);
        rig.wait_for_generation("known.bitrix24.com", 2);
        let before = rig.server.questions();
        let form = form_of(&rig.grant_of("acme", 1));
        let clock = Clock::system();
        let began = clock.tick();
        let member_id = same.then_some("acme");
        let forms = (0..900).map(|n| ("198.51.100.1".to_owned(), forged(&form, n, member_id)));
        assert_eq!(
            flood(&rig, "/install/crm", forms),
            900,
            "they wait, and nothing of it is lost"
        );
        // A known portal is verified at once: the rest of the budget is reserved for it.
        assert_eq!(rig.open("known", &rig.grant_of("known", 1)).0, 200);
        rig.wait_for_installs("fresh-already", 1.0);
        // So is an unknown one, within seconds.
        assert_eq!(rig.open("globex", &rig.grant_of("globex", 1)).0, 200);
        rig.wait_for_installs("stored", 2.0);
        let what = "more than the first questions";
        let burst = if source_header || same {
            SENDER_BUDGET.0
        } else {
            APP_BUDGET.0 - RESERVED_FOR_KNOWN
        };
        eventually(what, SOON, || {
            rig.server.questions() - before > u64::from(burst) + 10
        });
        let asked = rig.server.questions() - before;
        let seconds = clock.elapsed(began).as_secs() + 1;
        let rate = if source_header || same {
            SENDER_BUDGET.1
        } else {
            APP_BUDGET.1
        };
        // And those about the two genuine ones; one request beyond the limit may be counted.
        let most = u64::from(burst) + seconds * u64::from(rate) + 5;
        assert!(
            asked <= most,
            "{asked} questions in {seconds} s, not {most}"
        );
        let counted = rig.metric("refreshd_install_questions_total{app=\"crm\"}");
        assert!(counted >= 100.0_f64.min(f64::from(burst)), "{counted}");
        daemon.wait_for("that notices wait", |event| {
            message_contains(event, "notices of crm wait: questions about")
        });
        let lines = daemon
            .events(|event| message_contains(event, "notices of crm wait: questions about"))
            .len();
        assert_eq!(lines, 1, "once a minute");
        daemon.kill9();
    }
}

#[test]
fn flood_leaves_queue_capacity_for_others() {
    let mut rig = installing("");
    rig.take_installs(
        "",
        "rate = 10000\nsource_rate = 10000\nsource_header = \"X-Real-IP\"",
    );
    let daemon = rig.start();
    rig.server.fail_questions(u32::MAX);
    let form = form_of(&rig.grant_of("acme", 1));
    let from = |source: &'static str, first: usize| {
        let form = form.clone();
        (first..first + 2000).map(move |n| (source.to_owned(), forged(&form, n, None)))
    };
    // A quarter each.
    assert_eq!(flood(&rig, "/install/crm", from("198.51.100.1", 0)), 1024);
    assert_eq!(
        flood(&rig, "/install/crm", from("198.51.100.2", 2000)),
        1024
    );
    assert_eq!(rig.open("globex", &rig.grant_of("globex", 1)).0, 200);
    daemon.kill9();
}

#[test]
fn slow_flooded_app_does_not_delay_another_app() {
    let mut rig = installing("");
    let rules = Rules {
        token_lifetime: Duration::from_secs(3600),
        ..Rules::default()
    };
    let other = FakeServer::new(Clock::system(), rules);
    other.add_client("local.shop", CLIENT_SECRET);
    let stop = CancellationToken::new();
    let listener = rig
        .runtime
        .block_on(tokio::net::TcpListener::bind("127.0.0.1:0"))
        .unwrap();
    let token_url = format!("http://{}/oauth/token/", listener.local_addr().unwrap());
    rig.runtime
        .spawn(other.clone().serve(listener, stop.clone()));
    let mut shop = App::new("shop", "local.shop", &token_url, Duration::from_secs(3600));
    shop.more = "[apps.shop.install]\nname = \"shop-{member_id}\"\n".to_owned();
    rig.config.apps.push(shop);
    rig.secret("shop.secret", CLIENT_SECRET);
    rig.take_installs("", "rate = 10000");
    let daemon = rig.start();
    // Longer than the other app may wait, and shorter than a request may take.
    rig.server.delay_questions(Duration::from_secs(9));
    let form = form_of(&rig.grant_of("acme", 1));
    let forms = (0..900).map(|n| (String::new(), forged(&form, n, None)));
    assert_eq!(flood(&rig, "/install/crm", forms), 900);
    let of_shop = form_of(&other.install_as(&domain("initech"), "local.shop", 1));
    assert_eq!(
        rig.post_raw("/install/shop", FORM, encoded(&of_shop)).0,
        200
    );
    let stored = "refreshd_installs_total{app=\"shop\",result=\"stored\"}";
    eventually("the other app's is stored", Duration::from_secs(4), || {
        rig.metric(stored) >= 1.0
    });
    assert!(
        rig.installs("forged") < 0.1,
        "the flooded app's first questions are not answered yet"
    );
    daemon.kill9();
    stop.cancel();
}

#[test]
fn genuine_event_waits_seconds_with_a_slow_server() {
    let mut rig = installing("");
    rig.take_installs("", "rate = 10000");
    let daemon = rig.start();
    rig.server.delay_questions(Duration::from_secs(2));
    let form = form_of(&rig.grant_of("acme", 1));
    let forms = (0..900).map(|n| (String::new(), forged(&form, n, None)));
    assert_eq!(flood(&rig, "/install/crm", forms), 900);
    assert_eq!(rig.open("globex", &rig.grant_of("globex", 1)).0, 200);
    eventually("it is stored", Duration::from_secs(12), || {
        rig.installs("stored") >= 1.0
    });
    rig.wait_for_generation("globex.bitrix24.com", 2);
    assert!(
        rig.installs("forged") < 200.0,
        "it did not wait for the others"
    );
    daemon.kill9();
}
