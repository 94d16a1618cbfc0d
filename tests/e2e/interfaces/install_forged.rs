//! Install requests are unauthenticated: a forged one is refused, counted, and reported without a secret.

use std::io::Read as _;
use std::net::TcpListener;
use std::time::Duration;

use refreshd_fake_server::Rules;

use crate::common::installs::{Form, PROOF, encoded, event_of, form_of, removal_of, text, with};
use crate::common::{Daemon, Rig, SOON, always, domain, eventually};
use crate::interfaces::contains;
use crate::interfaces::install::{ACME, installing};

const FORM: &str = "application/x-www-form-urlencoded";

/// The only log line about a refusal of this kind.
#[track_caller]
fn line(daemon: &Daemon, outcome: &str, reason: &str) -> serde_json::Value {
    daemon.wait_for(&format!("the line of {outcome}: {reason}"), |event| {
        event["target"] == "refreshd::install"
            && event["outcome"] == outcome
            && event["message"]
                .as_str()
                .is_some_and(|message| message.contains(reason))
    })
}

#[test]
fn forged_event_is_refused_without_a_trace() {
    let mut rig = installing("");
    rig.config.level = "trace";
    rig.server.add_client("local.other", "another secret");
    let daemon = rig.start();
    let (mine, other) = (rig.grant_of("acme", 1), rig.grant_of("globex", 1));
    let foreign = rig.server.install(&domain("acme"), "local.other");
    let event = |grant| event_of("ONAPPINSTALL", "auth", grant);
    let cases: [(&str, Form, &str); 6] = [
        ("", form_of(&foreign), "is of another app"),
        ("", event(&foreign), "is of another app"),
        (
            "",
            with(form_of(&other), "member_id", &text(&mine, "member_id")),
            "is of another portal",
        ),
        (
            "",
            with(event(&mine), "auth[user_id]", "2"),
            "is of another user",
        ),
        (
            "",
            with(form_of(&mine), "AUTH_ID", &"0".repeat(70)),
            "does not take its access token (invalid_token)",
        ),
        (
            "",
            with(form_of(&mine), "AUTH_ID", "token"),
            "does not take its access token (invalid_client)",
        ),
    ];
    for (count, (query, form, reason)) in (1..).zip(&cases) {
        assert_eq!(rig.post(query, form).0, 200, "{reason}");
        rig.wait_for_installs("forged", f64::from(count));
        let line = line(&daemon, "forged", reason);
        assert_eq!(
            (&line["app"], &line["level"]),
            (&"crm".into(), &"WARN".into()),
            "{line}"
        );
    }
    assert_eq!(
        daemon.events(|event| event["outcome"] == "forged").len(),
        cases.len(),
        "a line each"
    );
    let removal = removal_of(&mine, PROOF, 0);
    rig.post("", &removal);
    line(
        &daemon,
        "forged",
        "no application token of such an installation is known",
    );
    assert_eq!(
        rig.get_json("/v1/portals")["portals"],
        serde_json::json!([])
    );
    assert_eq!(
        rig.server.total_requests(),
        0,
        "no refresh token was sent anywhere"
    );
    let log = daemon.stderr();
    for grant in [&mine, &other, &foreign] {
        for field in ["access_token", "refresh_token"] {
            let secret = text(grant, field);
            assert!(!log.contains(&secret[32..42]), "{field} is in the log");
        }
    }
    assert!(
        !log.contains(&PROOF[8..18]),
        "the application token is in the log"
    );
    daemon.stop();
    rig.no_violations();
}

#[test]
fn addresses_of_an_event_are_never_connected_to() {
    let rig = installing("");
    let trap = TcpListener::bind("127.0.0.1:0").unwrap();
    trap.set_nonblocking(true).unwrap();
    let address = trap.local_addr().unwrap().to_string();
    let daemon = rig.start();
    let grant = rig.grant_of("acme", 1);
    let server = format!("http://{address}/rest/");
    let form = with(form_of(&grant), "SERVER_ENDPOINT", &server);
    let unknown = "0".repeat(70);
    rig.post(
        &format!("?DOMAIN={address}"),
        &with(form.clone(), "AUTH_ID", &unknown),
    );
    rig.wait_for_installs("forged", 1.0);
    let event = with(
        event_of("ONAPPINSTALL", "auth", &grant),
        "auth[server_endpoint]",
        &server,
    );
    // The profile's own server verifies it; the addresses in the event are ignored.
    rig.post("", &with(event, "auth[client_endpoint]", &server));
    rig.wait_for_installs("stored", 1.0);
    rig.wait_for_generation(ACME, 2);
    let view = rig.get_json(&format!("/v1/portals/{ACME}"));
    assert!(!view.to_string().contains(&address), "{view}");
    rig.post(&format!("?DOMAIN={address}"), &form);
    rig.wait_for_installs("fresh-already", 1.0);
    match trap.accept() {
        Err(error) => assert_eq!(error.kind(), std::io::ErrorKind::WouldBlock),
        Ok((mut stream, _)) => {
            let mut sent = String::new();
            let _ = stream.read_to_string(&mut sent);
            panic!("a connection to an address of the notice: {sent}");
        }
    }
    daemon.stop();
    rig.no_violations();
}

#[test]
fn event_without_the_application_token_ends_nothing() {
    let rig = installing("");
    let daemon = rig.start();
    let grant = rig.grant_of("acme", 1);
    rig.post(
        "",
        &with(
            event_of("ONAPPINSTALL", "auth", &grant),
            "ts",
            &seconds(-60),
        ),
    );
    rig.wait_for_installs("stored", 1.0);
    rig.wait_for_generation(ACME, 2);
    rig.post(
        "",
        &removal_of(&grant, "51856fefc120afa4b628cc82d3935ccf", 0),
    );
    line(
        &daemon,
        "forged",
        "its application token is not that of the installation",
    );
    rig.post("", &removal_of(&grant, PROOF, -90_000));
    line(&daemon, "replayed", "or of another day");
    rig.post("", &removal_of(&grant, PROOF, -120));
    rig.wait_for_installs("replayed", 2.0);
    // An employee has a valid token and forges the event around it.
    let employee = event_of("ONAPPINSTALL", "auth", &rig.grant_of("acme", 67));
    rig.post("", &with(employee, "auth[application_token]", "made up"));
    rig.wait_for_installs("malformed", 1.0);
    let employee = event_of("ONAPPUSERREADY", "data", &rig.grant_of("acme", 67));
    rig.post("", &with(employee, "auth[application_token]", "made-up"));
    line(
        &daemon,
        "forged",
        "its application token is not that of the installation of acme",
    );
    // Or leaves it out.
    for (event, under) in [("ONAPPINSTALL", "auth"), ("ONAPPUSERREADY", "data")] {
        let employee = event_of(event, under, &rig.grant_of("acme", 67));
        let bare: Vec<_> = employee
            .into_iter()
            .filter(|(name, _)| name != "auth[application_token]")
            .collect();
        rig.post("", &bare);
    }
    rig.wait_for_installs("forged", 4.0);
    always("fresh", Duration::from_millis(300), || {
        rig.get_json(&format!("/v1/portals/{ACME}"))["phase"] == "fresh"
            && rig.generation(ACME) == 2
    });
    daemon.stop();
    rig.no_violations();
}

fn seconds(offset: i64) -> String {
    (crate::common::now_millis() / 1000 + offset).to_string()
}

#[test]
fn malformed_event_is_refused_on_receipt() {
    let rig = installing("");
    let daemon = rig.start();
    let good = form_of(&rig.grant_of("acme", 1));
    assert_eq!(
        rig.post_raw("/install/crm", FORM, "x".repeat(140_000)).0,
        413
    );
    assert_eq!(
        rig.post_raw(
            "/install/crm",
            FORM,
            "AUTH_ID=%00%ff&REFRESH_ID=x&member_id=..%2f".to_owned()
        )
        .0,
        400
    );
    assert_eq!(rig.post_raw("/install/crm", FORM, String::new()).0, 400);
    assert_eq!(
        rig.post_raw("/install/crm", "application/json", "{}".to_owned())
            .0,
        415
    );
    assert_eq!(rig.post("?DOMAIN=a%0d%0aX:b", &good).0, 400);
    rig.wait_for_installs("malformed", 5.0);
    // A form of the app without a grant: logged, and no error that would make the sender retry.
    for missing in ["AUTH_ID", "REFRESH_ID", "member_id"] {
        let answer = rig.post("", &with(good.clone(), missing, ""));
        assert_eq!(
            (answer.0, answer.2),
            (200, format!("ignored: {missing} is missing\n"))
        );
    }
    rig.wait_for_installs("ignored", 3.0);
    assert_eq!(rig.post_raw("/install/other", FORM, String::new()).0, 404);
    let url = format!(
        "http://{}/install/crm?DOMAIN=acme.bitrix24.com",
        rig.install_address()
    );
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let got = rig.runtime.block_on(client.get(url).send()).unwrap();
    assert_eq!(
        (
            got.status().as_u16(),
            got.headers()["allow"].to_str().unwrap()
        ),
        (405, "POST")
    );
    contains(
        &rig.runtime.block_on(got.text()).unwrap(),
        &["This address is for portals that install an app."],
    );
    assert_eq!(rig.server.questions(), 0);
    daemon.stop();
}

#[test]
fn events_beyond_the_rate_limit_are_deferred() {
    let mut rig = installing("");
    // Bursts of 20 seconds' worth are allowed: 4 in all, 2 of one sender.
    rig.take_installs(
        "",
        "rate = 0.2\nsource_rate = 0.1\nsource_header = \"X-Forwarded-For\"",
    );
    let daemon = rig.start();
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let post = |sender: &str| {
        let url = format!("http://{}/install/crm", rig.install_address());
        let post = client
            .post(url)
            .header("content-type", FORM)
            .header("x-forwarded-for", sender);
        let reply = rig
            .runtime
            .block_on(post.body("event=ONCRMDEALADD").send())
            .unwrap();
        (
            reply.status().as_u16(),
            reply
                .headers()
                .get("retry-after")
                .map(|wait| wait.to_str().unwrap().to_owned()),
        )
    };
    // Only the last address is set by the proxy itself.
    let one = [
        "198.51.100.1",
        "10.0.0.1, 198.51.100.1",
        "10.0.0.2, 198.51.100.1",
    ];
    let [first, second, third] = one.map(post);
    assert_eq!((first.0, second.0, third.0), (200, 200, 429));
    assert!(third.1.unwrap().parse::<u32>().unwrap() >= 1);
    assert_eq!(
        (
            post("2001:db8::1").0,
            post("2001:db8::2").0,
            post("198.51.100.2").0
        ),
        (200, 200, 429)
    );
    rig.wait_for_installs("too-many", 2.0);
    let line = line(&daemon, "too-many", "more came than [install] rate allows");
    assert_eq!(line["source"], "198.51.100.1");
    daemon.stop();
}

#[test]
fn events_beyond_the_queue_limit_are_deferred() {
    let mut rig = installing("");
    rig.take_installs("", "rate = 10000");
    let daemon = rig.start();
    // Pending events wait for their next try.
    rig.server.fail_questions(u32::MAX);
    let form = encoded(&form_of(&rig.grant_of("acme", 1)));
    let url = format!("http://{}/install/crm?DOMAIN={ACME}", rig.install_address());
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let mut full = 0;
    rig.runtime.block_on(async {
        for _ in 0..300 {
            let mut posts = tokio::task::JoinSet::new();
            for _ in 0..32 {
                posts.spawn(
                    client
                        .post(&url)
                        .header("content-type", FORM)
                        .body(form.clone())
                        .send(),
                );
            }
            for reply in posts.join_all().await.into_iter().map(Result::unwrap) {
                match reply.status().as_u16() {
                    200 => {}
                    503 => {
                        assert_eq!(reply.headers()["retry-after"], "30");
                        full += 1;
                    }
                    other => panic!("{other}"),
                }
            }
            if full > 0 {
                break;
            }
        }
    });
    assert!(full > 0, "9,600 may wait");
    assert!((rig.installs("too-many") - f64::from(full)).abs() < 0.1);
    line(&daemon, "too-many", "too many wait to be worked off");
    let lines = daemon.events(|event| event["outcome"] == "too-many").len();
    assert_eq!(lines, 1, "a flood is one line");
    daemon.kill9();
}

#[test]
fn failing_server_is_retried_a_limited_time() {
    let mut rig = Rig::with_rules([], Rules::default());
    rig.take_installs("", "");
    let daemon = rig.start();
    rig.server.fail_questions(2);
    rig.open("acme", &rig.grant_of("acme", 1));
    rig.wait_for_installs("stored", 1.0);
    assert_eq!(rig.server.questions(), 3);
    rig.server.fail_questions(u32::MAX);
    assert_eq!(rig.open("globex", &rig.grant_of("globex", 1)).0, 200);
    eventually("it is given up", SOON * 3, || {
        rig.installs("unverified") > 0.0
    });
    assert_eq!(rig.server.questions(), 8);
    line(
        &daemon,
        "unverified",
        "it answered 500, INTERNAL_SERVER_ERROR",
    );
    rig.server.fail_questions(0);
    rig.open("globex", &rig.grant_of("globex", 1));
    rig.wait_for_installs("stored", 2.0);
    daemon.stop();
    rig.no_violations();
}

/// Posts these forms concurrently.
fn flood(rig: &Rig, forms: impl Iterator<Item = (String, Form)>) {
    let client = reqwest::Client::builder()
        .no_proxy()
        .build()
        .expect("a client");
    let address = rig.install_address();
    rig.runtime.block_on(async {
        let mut posts = tokio::task::JoinSet::new();
        for (query, form) in forms {
            let url = format!("http://{address}/install/crm{query}");
            posts.spawn(
                client
                    .post(url)
                    .header("content-type", FORM)
                    .body(encoded(&form))
                    .send(),
            );
            if posts.len() >= 64 {
                let posted = posts
                    .join_next()
                    .await
                    .expect("some")
                    .expect("no panic")
                    .expect("an answer");
                assert_eq!(posted.status().as_u16(), 200);
            }
        }
        posts.join_all().await;
    });
}

#[test]
fn genuine_event_waits_seconds_behind_hundreds_of_forged() {
    let mut rig = installing("");
    rig.take_installs("", "rate = 10000");
    let mut daemon = rig.start();
    let form = form_of(&rig.grant_of("acme", 1));
    let forged = |number: usize| {
        let query = format!("?DOMAIN=p{number}.bitrix24.com");
        let form = with(form.clone(), "AUTH_ID", &format!("{number:070}"));
        (query, with(form, "member_id", &format!("member{number}")))
    };
    flood(&rig, (0..900).map(forged));
    let behind = rig.grant_of("globex", 1);
    assert_eq!(rig.open("globex", &behind).0, 200);
    eventually("the genuine one is stored", SOON, || {
        rig.installs("stored") >= 1.0
    });
    assert!(
        rig.installs("forged") < 800.0,
        "it did not wait for all others"
    );
    rig.wait_for_generation("globex.bitrix24.com", 2);
    eventually("all are refused", SOON * 8, || {
        rig.installs("forged") >= 900.0
    });
    daemon.sigterm();
    assert_eq!(daemon.wait_exit(Duration::from_secs(60)), 0);
    let log = daemon.stderr();
    let lines: Vec<_> = log
        .lines()
        .filter(|line| line.contains("\"outcome\":\"forged\""))
        .collect();
    assert!(lines.len() < 40, "{} lines", lines.len());
    let counted: u64 = lines
        .iter()
        .filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok())
        .map(|line| line["count"].as_u64().unwrap_or(1))
        .sum();
    assert_eq!(counted, 900, "each is counted in one of the lines");
    rig.no_violations();
}

#[test]
fn acknowledged_events_survive_crash_and_shutdown() {
    for crash in [true, false] {
        let rig = installing("");
        let mut daemon = rig.start();
        rig.server.fail_questions(u32::MAX);
        for portal in ["acme", "globex"] {
            assert_eq!(rig.open(portal, &rig.grant_of(portal, 1)).0, 200);
        }
        eventually("a first question", SOON, || rig.server.questions() > 0);
        if crash {
            daemon.kill9();
        } else {
            daemon.sigterm();
            assert_eq!(daemon.wait_exit(Duration::from_secs(60)), 0);
            assert!(
                daemon.stderr().contains("the next start goes on with them"),
                "{}",
                daemon.stderr()
            );
        }
        rig.server.fail_questions(0);
        let daemon = rig.start();
        rig.wait_for_installs("stored", 2.0);
        rig.wait_for_generation(ACME, 2);
        daemon.stop();
        // They are processed.
        let daemon = rig.start();
        assert!(
            !daemon.stderr().contains("that were accepted before"),
            "{}",
            daemon.stderr()
        );
        daemon.stop();
        rig.no_violations();
    }
}
