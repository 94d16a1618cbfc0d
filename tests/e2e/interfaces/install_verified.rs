//! Valid installs in unusual forms: the authorization server verifies them, and nothing else is accepted.

use std::time::Duration;

use refreshd_fake_server::{FakeServer, Fault, Rules};
use refreshd_time::clock::Clock;

use crate::common::installs::{Form, PROOF, event_of, form_of, removal_of, text, with};
use crate::common::{
    CLIENT_ID, CLIENT_SECRET, Daemon, Rig, SOON, always, domain, eventually, message_contains,
};
use crate::interfaces::contains;
use crate::interfaces::install::{ACME, installing};

fn installed(rig: &Rig, portal: &str, user: u64) -> Form {
    event_of("ONAPPINSTALL", "auth", &rig.grant_of(portal, user))
}

fn seconds(offset: i64) -> String {
    (crate::common::now_millis() / 1000 + offset).to_string()
}

fn refused(error: &str) -> Fault {
    Fault::Refuse {
        status: 400,
        error: error.to_owned(),
        description: String::new(),
    }
}

/// The only log line about an event with this result.
#[track_caller]
fn line(daemon: &Daemon, outcome: &str, reason: &str) {
    daemon.wait_for(&format!("the line of {outcome}: {reason}"), |event| {
        event["target"] == "refreshd::install"
            && event["outcome"] == outcome
            && message_contains(event, reason)
    });
}

#[test]
fn scope_and_host_spelling_do_not_matter() {
    let rig = installing("");
    let daemon = rig.start();
    let scopes = [
        "x".repeat(301),
        vec!["crm"; 67].join(","),
        "crm, task , im".to_owned(),
        "y".repeat(20_000),
    ];
    for (count, scope) in (1..).zip(scopes) {
        let portal = format!("scope{count}");
        let event = with(installed(&rig, &portal, 1), "auth[scope]", &scope);
        assert_eq!(rig.post("", &event).0, 200, "{} characters", scope.len());
        rig.wait_for_installs("stored", f64::from(count));
        rig.wait_for_phase(&domain(&portal), "fresh");
    }
    // The host according to the server, according to the browser, and the portal's name.
    for (count, (host, asked, name)) in (5..).zip([
        (
            "xn--80awhdgm.xn--p1ai",
            "%D0%BF%D0%BE%D1%80%D1%82%D0%B0%D0%BB.%D1%80%D1%84",
            "xn--80awhdgm.xn--p1ai",
        ),
        (
            "b24_test.company.local",
            "b24_test.company.local",
            "b24_test.company.local",
        ),
        (
            "shop.bitrix24.com",
            "SHOP.Bitrix24.COM.",
            "shop.bitrix24.com",
        ),
        (
            "store.bitrix24.com",
            "store.bitrix24.com:8443",
            "store.bitrix24.com",
        ),
        ("b24.company.local", "192.168.1.10", "b24.company.local"),
        (
            "company.bitrix24.com",
            "crm.company.com",
            "company.bitrix24.com",
        ),
        (
            "plain.bitrix24.com",
            "https%3A%2F%2Fplain.bitrix24.com%2F",
            "plain.bitrix24.com",
        ),
    ]) {
        let grant = rig.server.install(host, CLIENT_ID);
        assert_eq!(
            rig.post(&format!("?DOMAIN={asked}"), &form_of(&grant)).0,
            200,
            "{asked}"
        );
        rig.wait_for_installs("stored", f64::from(count));
        rig.wait_for_phase(name, "fresh");
    }
    daemon.stop();
    rig.no_violations();
}

#[test]
fn future_event_counts_as_now_and_skew_is_reported_once() {
    let rig = installing("");
    let daemon = rig.start();
    for (count, portal) in [(1.0, "acme"), (2.0, "globex")] {
        rig.post(
            "",
            &with(installed(&rig, portal, 1), "ts", &seconds(3 * 3600)),
        );
        rig.wait_for_installs("stored", count);
    }
    daemon.wait_for("the skew", |event| {
        message_contains(event, "3h ahead of this machine's")
            || message_contains(event, "ahead of this")
    });
    assert_eq!(
        daemon
            .events(|event| message_contains(event, "ahead of this machine's"))
            .len(),
        1
    );
    rig.post(
        "",
        &with(installed(&rig, "hooli", 1), "ts", &seconds(-90_000)),
    );
    rig.wait_for_installs("replayed", 1.0);
    // An uninstallation from the same clock, later than the installation.
    let grant = rig.grant_of("acme", 1);
    rig.post("", &removal_of(&grant, PROOF, 3 * 3600 + 5));
    rig.wait_for_installs("uninstalled", 1.0);
    daemon.stop();
}

#[test]
fn other_administrator_replaces_only_a_dead_grant() {
    let rig = installing("");
    rig.fail("acme", refused("invalid_grant"), 1);
    let daemon = rig.start();
    rig.post("", &installed(&rig, "acme", 1));
    rig.wait_for_installs("stored", 1.0);
    rig.wait_for_phase(ACME, "needs-authorization");
    // The log lines about a dead grant differ from those about a live one.
    rig.open("acme", &rig.grant_of("acme", 67));
    rig.wait_for_installs("other-user", 1.0);
    line(
        &daemon,
        "other-user",
        "is another user's, and it does not work (needs-authorization)",
    );
    let reinstall = with(
        installed(&rig, "acme", 5),
        "auth[application_token]",
        "another-installation",
    );
    assert_eq!(rig.post("", &reinstall).0, 200);
    rig.wait_for_installs("resumed", 1.0);
    rig.wait_for_phase(ACME, "fresh");
    eventually("the token of user 5", SOON, || {
        rig.token_json(ACME)
            .is_some_and(|json| json["fields"]["user_id"] == 5)
    });
    let again = with(
        installed(&rig, "acme", 6),
        "auth[application_token]",
        "a-third-one",
    );
    rig.post("", &again);
    // The first was received today only: the operator decides.
    rig.wait_for_installs("other-user", 2.0);
    let event = daemon.wait_for_step(ACME, "disputed");
    assert!(
        event["action"]
            .as_str()
            .unwrap()
            .contains("refreshd install accept acme.bitrix24.com"),
        "{event}"
    );
    daemon.stop();
    rig.no_violations();
}

/// Portals that are renewed every few seconds.
fn lively(rule: &str) -> Rig {
    let rules = Rules {
        token_lifetime: Duration::from_secs(60),
        ..Rules::default()
    };
    let mut rig = Rig::with_rules([], rules);
    rig.config.app().renew_every = Duration::from_secs(8);
    rig.take_installs(rule, "");
    rig
}

/// A reinstallation of user 5 at this portal, whose grant is user 1's and looks alive; its next renewal is rejected as dead.
fn dispute(rig: &Rig, name: &str) -> Daemon {
    let daemon = rig.start();
    rig.post("", &installed(rig, "acme", 1));
    rig.wait_for_installs("stored", 1.0);
    rig.wait_for_generation(name, 2);
    let reinstall = with(
        installed(rig, "acme", 5),
        "auth[application_token]",
        "another-installation",
    );
    rig.post("", &reinstall);
    rig.wait_for_installs("other-user", 1.0);
    daemon.wait_for_step(name, "disputed");
    rig.fail("acme", refused("invalid_grant"), 1);
    daemon.wait_for_outcome(name, "needs-authorization");
    daemon
}

#[test]
fn waiting_reinstallation_is_used_once_the_grant_is_dead() {
    let rig = lively("");
    let daemon = dispute(&rig, ACME);
    eventually("the token of user 5", SOON, || {
        rig.token_json(ACME)
            .is_some_and(|json| json["fields"]["user_id"] == 5)
    });
    rig.wait_for_phase(ACME, "fresh");
    let list = rig.run(["install", "list", "--json"]);
    assert!(list.stdout.contains("\"waiting\": []"), "{list:?}");
    daemon.stop();
    rig.no_violations();
}

#[test]
fn hint_for_a_dead_grant_names_the_waiting_install() {
    let rig = lively("name = \"{member_id}\"");
    // The portal reports neither as an administrator.
    rig.server.serve_portals(&[]);
    let name = text(&rig.grant_of("acme", 1), "member_id");
    let daemon = dispute(&rig, &name);
    let view = rig.wait_for_phase(&name, "needs-authorization");
    let action = view["action"].as_str().expect("an action");
    let accept = action.find(&format!("refreshd install accept {name}"));
    assert!(
        accept.is_some() && accept < action.find("refreshd authorize"),
        "{action}"
    );
    daemon.stop();
}

#[test]
fn mixed_user_pair_replaces_nothing() {
    let rig = installing("");
    let daemon = rig.start();
    rig.post("", &installed(&rig, "acme", 1));
    rig.wait_for_installs("stored", 1.0);
    rig.wait_for_generation(ACME, 2);
    let others = rig.grant_of("acme", 5);
    let crossed = with(
        installed(&rig, "acme", 1),
        "auth[refresh_token]",
        &text(&others, "refresh_token"),
    );
    rig.post("", &crossed);
    rig.wait_for_installs("forged", 1.0);
    line(
        &daemon,
        "forged",
        "its refresh token is of user 5, and its access token of user 1",
    );
    let json = rig.token_json(ACME).expect("its file");
    assert_eq!(json["fields"]["user_id"], 1, "{json}");
    assert_eq!(
        (rig.generation(ACME), rig.has_working_token(ACME)),
        (2, true)
    );
    daemon.stop();
    rig.no_violations();
}

#[test]
fn event_without_tokens_is_acknowledged_and_unverified() {
    let rig = installing("");
    let daemon = rig.start();
    let grant = rig.grant_of("acme", 1);
    for (count, field) in [(1.0, "auth[access_token]"), (2.0, "auth[refresh_token]")] {
        let mut event = event_of("ONAPPINSTALL", "auth", &grant);
        event.retain(|(name, _)| name != field);
        let (status, _, body) = rig.post("", &event);
        assert_eq!(status, 200);
        contains(&body, &[&format!("{field} is missing")]);
        rig.wait_for_installs("ignored", count);
        line(
            &daemon,
            "ignored",
            &format!("it brings no grant ({field} is missing)"),
        );
    }
    assert_eq!(
        (
            rig.server.questions(),
            rig.get_json("/v1/portals")["portals"]
                .as_array()
                .map(Vec::len)
        ),
        (0, Some(0))
    );
    rig.open("acme", &grant);
    rig.wait_for_installs("stored", 1.0);
    rig.post("", &removal_of(&grant, PROOF, 0));
    line(
        &daemon,
        "forged",
        "no application token of such an installation is known",
    );
    daemon.stop();
}

#[test]
fn unverifiable_grant_does_not_end_the_live_one() {
    let rig = installing("");
    let daemon = rig.start();
    rig.post("", &installed(&rig, "acme", 1));
    rig.wait_for_installs("stored", 1.0);
    rig.wait_for_generation(ACME, 2);
    let grant = rig.grant_of("acme", 1);
    let event = event_of("ONAPPINSTALL", "auth", &grant);
    for (count, refresh) in [
        (1.0, text(&grant, "refresh_token")[..60].to_owned()),
        (2.0, "0".repeat(70)),
    ] {
        rig.post("", &with(event.clone(), "auth[refresh_token]", &refresh));
        rig.wait_for_installs("forged", count);
    }
    line(
        &daemon,
        "forged",
        "its refresh token was tried: the authorization server refuses it",
    );
    always("untouched", Duration::from_millis(300), || {
        rig.generation(ACME) == 2
    });
    assert_eq!(rig.wait_for_phase(ACME, "fresh")["generation"], 2);
    assert!(rig.has_working_token(ACME));
    // An unreachable server verifies nothing either, and is retried.
    rig.fail("acme", refused("INTERNAL_SERVER_ERROR"), 1);
    rig.post("", &event);
    rig.wait_for_installs("resumed", 1.0);
    rig.wait_for_generation(ACME, 3);
    let status = rig.wait_for_phase(ACME, "fresh");
    assert!(
        status["next_renewal_in"].as_u64().unwrap() > 1000,
        "its proof was its renewal: {status}"
    );
    assert!(rig.has_working_token(ACME));
    daemon.stop();
    let daemon = rig.start();
    rig.wait_for_phase(ACME, "fresh");
    rig.post("", &event);
    rig.wait_for_installs("replayed", 1.0);
    daemon.stop();
}

#[test]
fn unproven_uninstall_triggers_a_renewal_that_decides() {
    let rules = Rules {
        token_lifetime: Duration::from_secs(60),
        ..Rules::default()
    };
    let mut rig = Rig::with_rules([], rules);
    rig.config.app().renew_every = Duration::from_secs(50);
    rig.take_installs("", "");
    let daemon = rig.start();
    let grants = ["acme", "globex"].map(|portal| rig.grant_of(portal, 1));
    for (count, (portal, grant)) in (1..).zip(["acme", "globex"].iter().zip(&grants)) {
        rig.open(portal, grant);
        rig.wait_for_installs("stored", f64::from(count));
        rig.wait_for_generation(&domain(portal), 2);
    }
    rig.server.uninstall(&domain("acme"));
    for (count, grant) in (1..).zip(&grants) {
        rig.post("", &removal_of(grant, "made-up", 0));
        rig.wait_for_installs("forged", f64::from(count));
    }
    line(&daemon, "forged", "acme.bitrix24.com is renewed in");
    // A tenth of a life later, not at the next regular time.
    daemon.wait_for_outcome(ACME, "gone");
    rig.wait_for_phase(ACME, "gone");
    rig.wait_for_generation(&domain("globex"), 3);
    rig.wait_for_phase(&domain("globex"), "fresh");
    // Repeated events cause no further renewal.
    rig.post("", &removal_of(&grants[1], "made-up-again", 0));
    rig.wait_for_installs("forged", 3.0);
    line(
        &daemon,
        "forged",
        "a renewal was asked for in the last hour already",
    );
    daemon.stop();
}

#[test]
fn refused_or_uninstalled_tokens_are_verified_again() {
    let mut rig = installing("");
    let other = FakeServer::new(Clock::system(), Rules::default());
    other.add_client(CLIENT_ID, CLIENT_SECRET);
    let stop = tokio_util::sync::CancellationToken::new();
    let listener = rig
        .runtime
        .block_on(tokio::net::TcpListener::bind("127.0.0.1:0"))
        .unwrap();
    let origin = format!("http://{}", listener.local_addr().unwrap());
    rig.runtime
        .spawn(other.clone().serve(listener, stop.clone()));
    rig.config.app().more = format!(
        "token_url_by_region = {{ ru = \"{origin}/oauth/token/\" }}\n{}",
        rig.config.app().more
    );
    let daemon = rig.start();
    // The named server does not know the token; the other does, and gets its renewals.
    let grant = rig.grant_of("acme", 1);
    rig.post(
        "",
        &with(
            form_of(&grant),
            "SERVER_ENDPOINT",
            &format!("{origin}/rest/"),
        ),
    );
    rig.wait_for_installs("stored", 1.0);
    rig.wait_for_generation(ACME, 2);
    assert_eq!((other.questions(), rig.server.questions()), (1, 1));
    // Rejected once by every server, and not installed before the installation ends.
    rig.server.answer_wrongly(1, 2);
    rig.open("globex", &rig.grant_of("globex", 1));
    rig.wait_for_installs("stored", 2.0);
    rig.wait_for_phase(&domain("globex"), "fresh");
    // "Never installed" is reported in the end: the server is retried for about 15 s.
    rig.server.answer_wrongly(0, 1000);
    rig.open("hooli", &rig.grant_of("hooli", 1));
    daemon.wait_after(0, SOON * 3, "the refusal", |event| {
        event["outcome"] == "forged" && message_contains(event, "the app is not installed there")
    });
    daemon.stop();
    stop.cancel();
}

#[test]
fn first_sender_cannot_end_the_installers_grant() {
    let rig = installing("");
    let daemon = rig.start();
    let employee = rig.grant_of("acme", 67);
    let planted = with(
        event_of("ONAPPINSTALL", "auth", &employee),
        "auth[application_token]",
        "planted",
    );
    rig.post("", &with(planted, "ts", &seconds(-60)));
    rig.wait_for_installs("stored", 1.0);
    rig.wait_for_generation(ACME, 2);
    rig.post("", &installed(&rig, "acme", 1));
    let event = daemon.wait_for_step(ACME, "disputed");
    assert_eq!(event["severity"], "critical", "{event}");
    rig.post("", &removal_of(&employee, "planted", 0));
    line(
        &daemon,
        "forged",
        "two users say that the installation is theirs",
    );
    assert_eq!(
        rig.get_json(&format!("/v1/portals/{ACME}"))["phase"],
        "fresh",
        "the planted proof ends nothing"
    );
    // The operator decides.
    assert_eq!(rig.run(["forget", ACME, "--yes"]).code, Some(0));
    rig.post("", &installed(&rig, "acme", 1));
    rig.wait_for_installs("stored", 2.0);
    rig.post("", &removal_of(&rig.grant_of("acme", 1), PROOF, 60));
    rig.wait_for_installs("uninstalled", 1.0);
    daemon.stop();
    rig.no_violations();
}
