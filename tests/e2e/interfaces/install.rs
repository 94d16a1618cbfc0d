//! `[install] listen`: portals that are installed by events, and stay.

use std::sync::Arc;
use std::time::Duration;

use crate::common::installs::{Grant, encoded, event_of, form_of, text, with};
use crate::common::{CLIENT_ID, Rig, SOON, domain, eventually};
use crate::interfaces::{calm, contains};

/// A rig without configured portals that accepts the app's installs.
pub fn installing(rule: &str) -> Rig {
    let mut rig = calm([]);
    rig.take_installs(rule, "");
    rig
}

/// A portal's name without a naming rule.
pub const ACME: &str = "acme.bitrix24.com";

/// Results of an event, each counted from zero on.
const RESULTS: [&str; 12] = [
    "stored",
    "resumed",
    "fresh-already",
    "other-user",
    "uninstalled",
    "forged",
    "replayed",
    "unverified",
    "malformed",
    "too-many",
    "ignored",
    "not-stored",
];

fn user_of(rig: &Rig, portal: &str) -> String {
    rig.token_json(portal)
        .map(|json| json["fields"]["user_id"].to_string())
        .unwrap_or_default()
}

#[test]
fn opening_the_app_installs_the_portal() {
    let rig = installing("");
    let daemon = rig.start();
    for result in RESULTS {
        assert!(rig.installs(result) < 0.1, "{result}");
    }
    let (_, metrics) = rig.http("/metrics");
    contains(&metrics, &["# TYPE refreshd_installs_total counter\n"]);
    assert_eq!(
        metrics.matches("refreshd_installs_total{").count(),
        RESULTS.len()
    );
    let (status, headers, page) = rig.open("acme", &rig.grant_of("acme", 1));
    assert_eq!(status, 200);
    contains(
        &page,
        &[
            "<script src=\"https://api.bitrix24.com/api/v1/\"></script>",
            "BX24.installFinish();",
        ],
    );
    let policy = headers["content-security-policy"].to_str().unwrap();
    contains(
        policy,
        &[
            "default-src 'none'",
            "frame-ancestors https://acme.bitrix24.com http://acme.bitrix24.com",
        ],
    );
    assert!(!policy.contains("unsafe"), "{policy}");
    rig.wait_for_installs("stored", 1.0);
    rig.wait_for_generation(ACME, 2);
    rig.wait_for_phase(ACME, "fresh");
    assert_eq!(user_of(&rig, ACME), "1");
    assert!(rig.token_path(ACME, "token").exists() && rig.token_path(ACME, "token.json").exists());
    assert_eq!(rig.server.questions(), 1);

    // Further visits change nothing, least of all an employee's.
    assert_eq!(rig.open("acme", &rig.grant_of("acme", 1)).0, 200);
    rig.wait_for_installs("fresh-already", 1.0);
    assert_eq!(rig.open("acme", &rig.grant_of("acme", 67)).0, 200);
    rig.wait_for_installs("other-user", 1.0);
    assert_eq!(
        (rig.generation(ACME), user_of(&rig, ACME).as_str()),
        (2, "1")
    );

    // It survives a restart, and is renewed on request.
    daemon.stop();
    let daemon = rig.start();
    assert_eq!(rig.wait_for_phase(ACME, "fresh")["generation"], 2);
    rig.open("acme", &rig.grant_of("acme", 67));
    rig.wait_for_installs("other-user", 1.0);
    daemon.stop();
    rig.no_violations();
}

#[test]
fn configured_portal_is_resumed() {
    let mut rig = calm(["acme"]);
    rig.take_installs("", "");
    let daemon = rig.start();
    rig.wait_for_phase("acme", "awaiting-authorization");
    rig.open("acme", &rig.grant_of("acme", 1));
    rig.wait_for_installs("resumed", 1.0);
    rig.wait_for_generation("acme", 2);
    rig.open("acme", &rig.grant_of("acme", 67));
    rig.wait_for_installs("other-user", 1.0);
    assert_eq!(rig.status(ACME), serde_json::Value::Null, "it has one row");
    daemon.stop();
    rig.no_violations();
}

/// A new installation ends the grants of the previous one: its grant is the only live one, however fresh the previous one
/// looks.
#[test]
fn reinstallation_is_accepted_for_a_fresh_configured_portal() {
    let mut rig = calm(["acme"]);
    rig.take_installs("", "");
    let daemon = rig.start();
    let first = event_of("ONAPPINSTALL", "auth", &rig.grant_of("acme", 1));
    rig.post("", &first);
    rig.wait_for_installs("resumed", 1.0);
    rig.wait_for_generation("acme", 2);
    rig.server.uninstall(&domain("acme"));
    assert_eq!(rig.wait_for_phase("acme", "fresh")["generation"], 2);
    let second = event_of("ONAPPINSTALL", "auth", &rig.grant_of("acme", 1));
    rig.post("", &second);
    rig.wait_for_installs("resumed", 2.0);
    rig.wait_for_generation("acme", 3);
    eventually("a working token", SOON, || rig.has_working_token("acme"));
    // The same event again does nothing and sends no token request; a rejected one is sent once.
    let asked = rig.requests("acme");
    for (count, event) in (1..).zip([&second; 3]) {
        rig.post("", event);
        rig.wait_for_installs("replayed", f64::from(count));
    }
    let forged = with(
        event_of("ONAPPINSTALL", "auth", &rig.grant_of("acme", 1)),
        "auth[refresh_token]",
        &"0".repeat(70),
    );
    rig.post("", &forged);
    rig.wait_for_installs("forged", 1.0);
    let refused = rig.server.total_requests();
    rig.post("", &forged);
    rig.wait_for_installs("replayed", 4.0);
    assert_eq!(
        (rig.requests("acme"), rig.server.total_requests()),
        (asked, refused)
    );
    // Another user's event, which may be forged around a token of that user, replaces nothing.
    let other = event_of("ONAPPINSTALL", "auth", &rig.grant_of("acme", 67));
    rig.post("", &with(other, "auth[application_token]", "planted"));
    daemon.wait_for_step("acme", "disputed");
    assert_eq!(rig.generation("acme"), 3);
    assert_eq!(user_of(&rig, "acme"), "1");
    daemon.stop();
}

#[test]
fn naming_rule_can_make_a_portal_per_user() {
    let rig = installing(
        "name = \"b24-{member_id}.{user_id}\"\nusers = \"each\"\nformats = [\"header\"]",
    );
    let daemon = rig.start();
    let grants = [1, 67].map(|user| rig.grant_of("acme", user));
    for (count, grant) in (1..).zip(&grants) {
        rig.open("acme", grant);
        rig.wait_for_installs("stored", f64::from(count));
        let name = format!(
            "b24-{}.{}",
            text(grant, "member_id"),
            text(grant, "user_id")
        );
        rig.wait_for_phase(&name, "fresh");
        eventually("its one file", SOON, || {
            rig.token_path(&name, "header").exists()
        });
        assert!(!rig.token_path(&name, "token").exists());
    }
    daemon.stop();
    rig.no_violations();
}

#[test]
fn invalid_name_is_replaced_by_the_member_id() {
    let rig = installing("");
    let daemon = rig.start();
    let grant = rig.server.install("crm.example.org:8443", CLIENT_ID);
    rig.post("?DOMAIN=crm.example.org%3A8443", &form_of(&grant));
    rig.wait_for_installs("stored", 1.0);
    rig.wait_for_phase(&text(&grant, "member_id"), "fresh");
    daemon.stop();
}

#[test]
fn portal_of_a_removed_install_table_is_kept_unrenewed() {
    let mut rig = installing("");
    let daemon = rig.start();
    rig.open("acme", &rig.grant_of("acme", 1));
    rig.wait_for_generation(ACME, 2);
    let more = std::mem::take(&mut rig.config.app().more);
    rig.write_config();
    daemon.sighup();
    rig.wait_for_phase(ACME, "unconfigured");
    assert_eq!(rig.open("acme", &rig.grant_of("acme", 1)).0, 404);
    rig.config.app().more = format!("{more}formats = [\"raw\"]\n");
    rig.write_config();
    daemon.sighup();
    rig.wait_for_phase(ACME, "fresh");
    eventually("the app's formats", SOON, || {
        !rig.token_path(ACME, "token.json").exists()
    });
    assert_eq!(rig.run(["forget", ACME, "--yes"]).code, Some(0));
    assert_eq!(rig.status(ACME), serde_json::Value::Null);
    assert!(!rig.token_path(ACME, "token").exists());
    daemon.stop();
    rig.no_violations();
}

#[test]
fn accepted_events_are_processed_before_shutdown() {
    let rig = installing("");
    let mut daemon = rig.start();
    // It is retried while the daemon stops.
    rig.server.fail_questions(2);
    assert_eq!(rig.open("acme", &rig.grant_of("acme", 1)).0, 200);
    daemon.sigterm();
    assert_eq!(daemon.wait_exit(Duration::from_secs(60)), 0);
    assert_eq!(rig.server.questions(), 3);
    let daemon = rig.start();
    rig.wait_for_generation(ACME, 2);
    daemon.stop();
    rig.no_violations();
}

#[test]
fn thousand_simultaneous_portals_are_installed() {
    let mut rig = installing("");
    rig.config.rate = Some(1000.0);
    let daemon = rig.start();
    let grants: Vec<(String, Grant)> = (0..1000)
        .map(|number| {
            let portal = format!("p{number}");
            let grant = rig.grant_of(&portal, 1);
            (portal, grant)
        })
        .collect();
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let base = Arc::new(format!(
        "http://{}/install/crm?DOMAIN=",
        rig.install_address()
    ));
    let statuses = rig.runtime.block_on(async {
        let mut posts = tokio::task::JoinSet::new();
        let mut statuses = Vec::new();
        for (portal, grant) in &grants {
            let (client, url) = (client.clone(), format!("{base}{}", domain(portal)));
            let body = encoded(&form_of(grant));
            let post = client
                .post(url)
                .header("content-type", "application/x-www-form-urlencoded")
                .body(body);
            posts
                .spawn(async move { post.send().await.map(|response| response.status().as_u16()) });
            if posts.len() >= 32 {
                statuses.extend(posts.join_next().await);
            }
        }
        statuses.extend(posts.join_all().await.into_iter().map(Ok));
        statuses
    });
    let taken = statuses
        .into_iter()
        .filter(|status| matches!(status, Ok(Ok(200))))
        .count();
    assert_eq!(taken, 1000);
    let limit = Duration::from_secs(120);
    eventually("all are stored", limit, || rig.installs("stored") >= 1000.0);
    eventually("all are fresh", limit, || {
        rig.metric("refreshd_renewals_total{provider=\"bitrix24\",result=\"renewed\"}") >= 1000.0
    });
    assert!((rig.metric("refreshd_portals{phase=\"fresh\"}") - 1000.0).abs() < 0.1);
    for portal in ["p0", "p500", "p999"] {
        eventually("a working token", SOON, || {
            let token = std::fs::read_to_string(rig.token_path(&domain(portal), "token"))
                .unwrap_or_default();
            rig.server
                .knows_access(&token)
                .is_some_and(|known| known.current && !known.revoked)
        });
    }
    daemon.stop();
    rig.no_violations();
}
