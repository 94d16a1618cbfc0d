//! Renewal end to end without faults: on time, published, counted, with the secrets protected.

use std::fs;
use std::time::Duration;

use refreshd_fake_server::Fault;
use serde_json::json;

use crate::common::{
    CLIENT_SECRET, EVERY, LIFE, Rig, SOON, always, domain, eventually, message_contains, mode,
    now_millis,
};

#[test]
fn first_refresh_token_is_published_and_renewed_on_time() {
    let mut rig = Rig::new(["acme"]);
    rig.grant("acme");
    let first_refresh = rig.server.current_refresh(&domain("acme")).unwrap();
    let daemon = rig.start();
    // 1 is the imported grant, 2 its first renewal, which brings the first access token.
    rig.wait_for_generation("acme", 2);
    // The event comes after the files.
    let limit = EVERY * 3 + SOON;
    daemon.wait_after(0, limit, "the renewal to generation 4", |event| {
        event["generation"] == 4
    });
    let json = rig.token_json("acme").unwrap();
    let raw = fs::read_to_string(rig.token_path("acme", "token")).unwrap();
    assert_eq!(json["version"], 1);
    assert_eq!(
        (json["portal"].as_str(), json["provider"].as_str()),
        (Some("acme"), Some("bitrix24"))
    );
    assert_eq!(json["access_token"], raw);
    assert_eq!(json["token_type"], "Bearer");
    assert_eq!(json["endpoint"], "https://acme.bitrix24.com/rest/");
    assert_eq!(json["fields"]["member_id"].as_str().map(str::len), Some(32));
    let known = rig.server.knows_access(&raw).expect("the server issued it");
    assert!(known.current && known.expires_at.millis() > now_millis());
    let promised = json["expires_at_unix"].as_i64().unwrap();
    assert!(
        (promised - known.expires_at.secs()).abs() <= 1,
        "{promised} is not {}",
        known.expires_at
    );

    let renewals =
        daemon.events(|event| event["outcome"].is_string() && event["outcome"] == "renewed");
    let generations: Vec<_> = renewals
        .iter()
        .filter_map(|event| event["generation"].as_u64())
        .collect();
    assert_eq!(generations[..3], [2, 3, 4], "one up with each renewal");
    for event in &renewals {
        assert_eq!(event["portal"], "acme");
        assert!(
            event["took_ms"].is_u64()
                && event["expires_at"].is_string()
                && event["next_renewal"].is_string()
        );
    }
    let at: Vec<_> = renewals
        .iter()
        .map(|event| event["timestamp"].as_str().unwrap())
        .collect();
    let at: Vec<_> = at
        .iter()
        .map(|at| humantime::parse_rfc3339(at).unwrap())
        .collect();
    let age = at[2].duration_since(at[1]).unwrap();
    assert!(
        age >= EVERY.mul_f64(0.89) && age <= EVERY + LIFE / 10,
        "renewed at the age of {age:?}"
    );
    assert_eq!(
        rig.server.renewals(&domain("acme")),
        rig.server.requests(&domain("acme")),
        "no request in vain"
    );

    let directory = rig.path("tokens");
    assert_eq!(
        (mode(&directory), mode(&directory.join("acme"))),
        (0o751, 0o750)
    );
    let mut files: Vec<_> = fs::read_dir(directory.join("acme"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .collect();
    files.sort();
    assert_eq!(files, ["token", "token.json"]);
    let refresh = rig.server.current_refresh(&domain("acme")).unwrap();
    for file in files {
        let path = directory.join("acme").join(file);
        assert_eq!(mode(&path), 0o640, "{}", path.display());
        let text = fs::read_to_string(&path).unwrap();
        for secret in [&*refresh, &first_refresh, CLIENT_SECRET] {
            assert!(!text.contains(secret), "{} holds a secret", path.display());
        }
    }
    assert_eq!(mode(&rig.path("state.db")), 0o600);
    daemon.stop();
    rig.no_violations();
}

#[test]
fn imported_response_is_published_and_renewed_at_once() {
    let rig = Rig::new(["acme"]);
    let daemon = rig.start();
    assert_eq!(rig.status("acme")["phase"], "awaiting-authorization");
    let grant = rig.install("acme");
    rig.fail(
        "acme",
        Fault::Slow {
            by: Duration::from_secs(1),
        },
        1,
    );
    rig.start_import("acme", &grant);
    eventually("a token for readers", SOON, || rig.generation("acme") > 0);
    assert_eq!(
        rig.generation("acme"),
        1,
        "readers need not wait for the first renewal"
    );
    eventually("the same in the other file", SOON, || {
        rig.has_working_token("acme")
    });
    daemon.wait_for_outcome("acme", "renewed");
    assert_eq!(rig.generation("acme"), 2);
    rig.no_violations();
}

#[test]
fn repeated_import_does_not_replace_the_newer_pair() {
    let rig = Rig::new(["acme"]);
    let daemon = rig.start();
    let grant = rig.install("acme");
    // Nothing is spent while the server fails, so the same import again is allowed.
    rig.fail(
        "acme",
        Fault::Refuse {
            status: 503,
            error: "x".into(),
            description: String::new(),
        },
        u32::MAX,
    );
    assert_eq!(rig.import("acme", &grant).code, Some(75));
    assert_eq!(rig.import("acme", &grant).code, Some(75));
    rig.heal("acme");
    daemon.wait_for_outcome("acme", "renewed");
    let again = rig.import("acme", &grant);
    assert!(
        again.code == Some(65) && again.stderr.contains("exchanged for a newer one"),
        "{again:?}"
    );
    let requests = rig.requests("acme");
    rig.wait_for_renewals("acme", 1);
    assert_eq!(rig.requests("acme"), requests + 1);
    assert!(
        daemon
            .events(|event| event["severity"] == "critical")
            .is_empty()
    );
    rig.no_violations();
}

#[test]
fn renamed_portal_gets_its_new_endpoint_published() {
    let rig = Rig::new(["acme"]);
    let daemon = rig.start();
    let grant = rig.install("acme");
    rig.server.rename(&domain("acme"), "umbrella.bitrix24.com");
    assert_eq!(rig.import("acme", &grant).code, Some(0));
    let renamed = daemon.wait_for("the new name", |event| message_contains(event, "renamed"));
    assert_eq!(renamed["portal"], "acme");
    assert_eq!(renamed["from"], "https://acme.bitrix24.com/rest/");
    assert_eq!(renamed["to"], "https://umbrella.bitrix24.com/rest/");
    assert_eq!(
        rig.token_json("acme").unwrap()["endpoint"],
        "https://umbrella.bitrix24.com/rest/"
    );
    rig.no_violations();
}

#[test]
fn odd_lifetimes_are_parsed_or_assumed() {
    let cases = [
        ("text", json!("20"), 20),
        ("fraction", json!(12.5), 12),
        ("short", json!(9), 9),
        ("word", json!("soon"), 20),
        ("absent", json!(null), 20),
        ("zero", json!(0), 0),
        ("negative", json!(-3600), 0),
        ("object", json!({"seconds": 5}), 5),
    ];
    let mut rig = Rig::new(cases.each_ref().map(|(name, ..)| *name));
    for (name, value, _) in &cases {
        rig.grant(name);
        let fields = json!({"expires_in": value}).as_object().cloned().unwrap();
        rig.fail(name, Fault::Odd { fields }, 1);
    }
    let daemon = rig.start();
    for (name, value, life) in &cases {
        // A token that is expired on arrival is published unchanged, and does not count as renewed.
        daemon.wait_for_outcome(name, if *life == 0 { "unknown" } else { "renewed" });
        let json = rig.token_json(name).unwrap();
        let time = |key: &str| humantime::parse_rfc3339(json[key].as_str().unwrap()).unwrap();
        let lives = time("expires_at")
            .duration_since(time("issued_at"))
            .unwrap()
            .as_secs();
        assert!(
            lives.abs_diff(*life) <= 1,
            "{name}: expires_in {value} became {lives} s"
        );
    }
    rig.no_violations();
}

#[test]
fn response_without_refresh_token_keeps_the_old_one() {
    let mut rig = Rig::new(["acme"]);
    rig.config.app().renew_every = Duration::from_secs(3);
    rig.grant("acme");
    rig.fail("acme", Fault::WithoutRefreshToken, 1);
    let daemon = rig.start();
    daemon.wait_for_outcome("acme", "renewed");
    let before = rig.server.current_refresh(&domain("acme"));
    assert_eq!(rig.renewals("acme"), 0, "the server did not rotate");
    eventually("the next renewal", SOON, || rig.renewals("acme") == 1);
    assert_ne!(rig.server.current_refresh(&domain("acme")), before);
    rig.wait_for_generation("acme", 3);
    // The files are written before the log.
    eventually("both in the log", SOON, || {
        daemon.outcomes("acme") == ["renewed", "renewed"]
    });
    rig.no_violations();
}

#[test]
fn short_lifetimes_and_command_loops_cause_no_spin() {
    let mut rig = Rig::new(["hasty", "looped"]);
    rig.grant("hasty");
    rig.grant("looped");
    let fields = json!({"expires_in": 1}).as_object().cloned().unwrap();
    rig.fail("hasty", Fault::Odd { fields }, u32::MAX);
    let daemon = rig.start();
    daemon.wait_for_outcome("looped", "renewed");
    let span = Duration::from_secs(6);
    let (hasty, looped) = (rig.requests("hasty"), rig.requests("looped"));
    let mut outcomes = Vec::new();
    always("fewer than two requests a second", span, || {
        let (_, answer) = rig.control("POST", "/v1/portals/looped/renew", "");
        outcomes.push(answer);
        rig.requests("hasty") - hasty <= 2 * span.as_secs()
    });
    assert!(
        outcomes
            .iter()
            .any(|answer| answer.contains("fresh-already")),
        "{outcomes:?}"
    );
    let (asked, sent) = (outcomes.len() as u64, rig.requests("looped") - looped);
    let most = span.as_millis().div_ceil((LIFE / 10).as_millis()) as u64 + 1;
    assert!(
        asked > 4 * most && (1..=most).contains(&sent),
        "{sent} requests for {asked} wishes in {span:?}"
    );
    // The server, too, counts renewals closer than a tenth of the life.
    rig.no_violations();
}

#[test]
fn refresh_token_shared_by_two_portals_is_refused() {
    let mut rig = Rig::new(["acme", "globex"]);
    rig.grant("acme");
    let reply = rig.server.current_refresh(&domain("acme")).unwrap();
    rig.secret("globex.refresh", &reply);
    rig.config.portal("globex").refresh_token_file = true;
    let daemon = rig.start();
    let refused = daemon.wait_for("a refusal", |event| {
        message_contains(event, "refresh_token_file is not used")
    });
    assert!(
        refused["portal"] == "globex" && message_contains(&refused, "acme"),
        "{refused}"
    );
    let ran = rig.import("globex", &reply);
    assert!(
        ran.code == Some(65) && ran.stderr.contains("globex") && ran.stderr.contains("acme"),
        "{ran:?}"
    );
    assert!(!ran.stderr.contains(&reply));
    let view = rig.get_json("/v1/portals/globex");
    assert_eq!(view["phase"], "awaiting-authorization");
    let notice = view["notice"].as_str().unwrap();
    assert!(
        notice.contains("globex.refresh is not used: ") && notice.contains("acme"),
        "{notice}"
    );
    daemon.wait_for_outcome("acme", "renewed");
    rig.no_violations();
}
