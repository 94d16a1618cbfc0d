//! The control socket: plain HTTP with JSON, as curl uses it.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use serde_json::{Value, json};

use crate::common::{Portal, Rig, SOON, domain, eventually};
use crate::interfaces::{calm, contains, fresh};

/// Status and JSON of a response.
fn ask(rig: &Rig, method: &str, path: &str, body: &str) -> (u16, Value) {
    let (status, body) = rig.control(method, path, body);
    (
        status,
        serde_json::from_str(&body)
            .unwrap_or_else(|_| panic!("{method} {path}: no JSON: {status} {body:?}")),
    )
}

#[track_caller]
fn refused(answer: &(u16, Value), status: u16, code: &str) {
    assert_eq!(
        (answer.0, answer.1["error"]["code"].as_str()),
        (status, Some(code)),
        "{}",
        answer.1
    );
    assert!(
        answer.1["error"]["message"]
            .as_str()
            .is_some_and(|message| !message.is_empty())
    );
}

#[test]
fn portals_are_listed_and_shown() {
    let (rig, daemon) = fresh(["acme", "globex"]);
    let (status, all) = ask(&rig, "GET", "/v1/portals", "");
    assert_eq!(status, 200);
    let names: Vec<_> = all["portals"]
        .as_array()
        .unwrap()
        .iter()
        .map(|one| &one["portal"])
        .collect();
    assert_eq!(names, ["acme", "globex"]);
    let (status, acme) = ask(&rig, "GET", "/v1/portals/acme", "");
    assert_eq!(
        (status, &acme["phase"], &acme["generation"]),
        (200, &json!("fresh"), &json!(2))
    );
    assert_eq!(
        acme["expires_at"],
        rig.token_json("acme").unwrap()["expires_at"]
    );
    for secret in [
        "token\"",
        "secret",
        &rig.server.current_refresh(&domain("acme")).unwrap(),
    ] {
        assert!(!all.to_string().contains(secret), "{secret:?} is in {all}");
    }
    daemon.stop();
}

#[test]
fn many_portals_are_listed_in_pages_completely() {
    let mut rig = calm([]);
    rig.config.portals = (0..1200)
        .map(|number| Portal::new(&format!("p{number:04}"), "crm"))
        .collect();
    let daemon = rig.start();
    let (mut names, mut path) = (Vec::new(), "/v1/portals".to_owned());
    loop {
        let (status, page) = ask(&rig, "GET", &path, "");
        assert_eq!(status, 200);
        let listed = page["portals"].as_array().unwrap();
        names.extend(
            listed
                .iter()
                .map(|one| one["portal"].as_str().unwrap().to_owned()),
        );
        let Some(next) = page["next"].as_str() else {
            break;
        };
        path = format!("/v1/portals?after={next}");
    }
    let wanted: Vec<_> = (0..1200).map(|number| format!("p{number:04}")).collect();
    assert_eq!(names, wanted);
    let ran = rig.run(["status"]);
    assert_eq!(
        ran.stdout
            .lines()
            .filter(|line| line.contains(" awaiting-authorization "))
            .count(),
        1200
    );
    daemon.stop();
}

#[test]
fn token_has_every_format_and_a_bad_query_is_400() {
    let (rig, daemon) = fresh(["acme"]);
    // It is written after `token.json`.
    eventually("the raw token", SOON, || {
        rig.token_path("acme", "token").exists()
    });
    let token = fs::read_to_string(rig.token_path("acme", "token")).unwrap();
    let path = "/v1/portals/acme/token";
    assert_eq!(
        ask(&rig, "GET", path, ""),
        (200, rig.token_json("acme").unwrap())
    );
    assert_eq!(
        rig.control("GET", &format!("{path}?min_valid=5m&format=raw"), ""),
        (200, token.clone())
    );
    let (status, header) = rig.control("GET", &format!("{path}?format=header"), "");
    assert_eq!(
        (status, header.trim_end()),
        (200, format!("Authorization: Bearer {token}").as_str())
    );
    let (_, env) = rig.control("GET", &format!("{path}?format=env"), "");
    contains(&env, &[&format!("REFRESHD_ACCESS_TOKEN='{token}'")]);
    for bad in [
        "min_valid=soon",
        "min_valid=",
        "min_valid=-5m",
        "format=xml",
        "min_vaild=5m",
    ] {
        refused(
            &ask(&rig, "GET", &format!("{path}?{bad}"), ""),
            400,
            "bad-request",
        );
    }
    assert_eq!(
        rig.server.requests(&domain("acme")),
        1,
        "nothing was sent for any of it"
    );
    daemon.stop();
}

#[test]
fn not_found_is_json() {
    let rig = calm(["acme"]);
    let daemon = rig.start();
    refused(&ask(&rig, "GET", "/", ""), 404, "not-found");
    refused(&ask(&rig, "GET", "/v2/portals", ""), 404, "not-found");
    refused(
        &ask(&rig, "DELETE", "/v1/portals", ""),
        405,
        "method-not-allowed",
    );
    for (method, rest) in [
        ("GET", ""),
        ("GET", "/token"),
        ("POST", "/renew"),
        ("POST", "/grant"),
        ("DELETE", "/grant"),
    ] {
        let answer = ask(&rig, method, &format!("/v1/portals/acne{rest}"), "");
        refused(&answer, 404, "unknown-portal");
        contains(
            answer.1["error"]["message"].as_str().unwrap(),
            &["did you mean acme?"],
        );
    }
    refused(
        &ask(&rig, "GET", "/v1/portals/a%20b%2F..%00", ""),
        404,
        "unknown-portal",
    );
    refused(
        &ask(&rig, "GET", "/v1/portals/acme/token", ""),
        409,
        "no-grant",
    );
    refused(
        &ask(&rig, "POST", "/v1/portals/acme/renew", ""),
        409,
        "no-grant",
    );
    daemon.stop();
}

#[test]
fn grant_is_imported_renewed_and_forgotten() {
    let rig = calm(["acme", "globex"]);
    let daemon = rig.start();
    let grant = rig.install("acme");
    let (status, answer) = ask(&rig, "POST", "/v1/portals/acme/grant", &grant);
    assert_eq!(
        (status, &answer["portal"], &answer["generation"]),
        (200, &json!("acme"), &json!(2))
    );
    assert_eq!(
        (&answer["outcome"], &answer["detail"], &answer["kept"]),
        (&json!("renewed"), &json!(null), &json!(false))
    );
    let (status, answer) = ask(
        &rig,
        "POST",
        "/v1/portals/acme/grant",
        "5bad2d67006e9f06006b12e4",
    );
    assert_eq!(
        (status, &answer["outcome"], &answer["kept"]),
        (409, &json!("refused"), &json!(true)),
        "{answer}"
    );
    refused(
        &ask(&rig, "POST", "/v1/portals/globex/grant", &grant),
        409,
        "refused",
    );
    refused(
        &ask(&rig, "POST", "/v1/portals/globex/grant", "no grant at all"),
        400,
        "not-a-grant",
    );
    refused(
        &ask(
            &rig,
            "POST",
            "/v1/portals/globex/grant",
            &"a".repeat(100_000),
        ),
        400,
        "not-a-grant",
    );
    refused(
        &ask(
            &rig,
            "POST",
            "/v1/portals/globex/grant",
            &"a".repeat(1_500_000),
        ),
        413,
        "not-a-grant",
    );
    rig.wait_for_generation("acme", 2);
    rig.wait_for_phase("acme", "fresh");
    let (status, renewed) = ask(&rig, "POST", "/v1/portals/acme/renew", "");
    assert_eq!(
        (status, &renewed["outcome"]),
        (200, &json!("fresh-already"))
    );
    assert_eq!(renewed["status"]["generation"], 2);
    let forgotten = |is| (200, json!({"portal": "acme", "forgotten": is}));
    assert_eq!(
        ask(&rig, "DELETE", "/v1/portals/acme/grant", ""),
        forgotten(true)
    );
    assert!(rig.token_json("acme").is_none());
    assert_eq!(
        ask(&rig, "DELETE", "/v1/portals/acme/grant", ""),
        forgotten(false)
    );
    daemon.stop();
    rig.no_violations();
}

#[test]
fn reload_accepts_valid_and_rejects_invalid_configuration() {
    let mut rig = calm(["acme"]);
    let daemon = rig.start();
    rig.config.portals.push(Portal::new("globex", "crm"));
    rig.write_config();
    let (status, done) = ask(&rig, "POST", "/v1/reload", "");
    assert_eq!(
        (status, &done["reloaded"], &done["added"]),
        (200, &json!(true), &json!({"count": 1, "names": ["globex"]}))
    );
    assert_eq!(ask(&rig, "GET", "/v1/portals/globex", "").0, 200);
    rig.config.portals.push(Portal::new("initech", "crn"));
    rig.write_config();
    let answer = ask(&rig, "POST", "/v1/reload", "");
    refused(&answer, 422, "configuration");
    contains(
        answer.1["error"]["message"].as_str().unwrap(),
        &["refreshd.toml:", "did you mean `crm`?"],
    );
    assert_eq!(
        ask(&rig, "GET", "/v1/portals/initech", "").0,
        404,
        "the old one stays in force"
    );
    assert_eq!(ask(&rig, "GET", "/v1/portals/globex", "").0, 200);
    assert!((rig.metric("refreshd_config_last_reload_successful") - 0.0).abs() < 0.1);
    daemon.stop();
}

#[test]
fn only_the_socket_of_a_dead_daemon_is_replaced() {
    let rig = calm(["acme"]);
    let socket = rig.path("control.sock");
    rig.start().kill9();
    assert!(socket.exists(), "a killed daemon leaves it");
    assert!(
        rig.run(["status"]).stderr.contains("no daemon runs"),
        "which is not taken for a daemon"
    );
    let daemon = rig.start();
    assert_eq!(ask(&rig, "GET", "/v1/portals", "").0, 200);
    assert_eq!(
        fs::metadata(&socket).unwrap().permissions().mode() & 0o777,
        0o660
    );
    daemon.stop();
    eventually("the socket to go", SOON, || !socket.exists());
    // A mistake in the configuration must not delete a file.
    rig.secret("control.sock", "foreign");
    let mut daemon = rig.launch([]);
    assert_eq!(daemon.wait_exit(SOON), 69);
    contains(&daemon.stderr(), &["control.sock", "is no socket"]);
    assert_eq!(fs::read_to_string(&socket).unwrap(), "foreign");
}
