//! A hostile or interrupted server: nothing is lost, no secret leaves, and memory stays small.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use refreshd_fake_server::{Fault, Reuse, Rules};
use rusqlite::Connection;

use crate::common::hostile::{Behaviour, Hostile, RawRequest, forward, reply};
use crate::common::{CLIENT_SECRET, Daemon, Portal, Rig, always, domain, eventually};

const HOUR: Duration = Duration::from_secs(3600);

/// A server whose tokens live an hour, and which repeats its response to a spent token.
fn graceful() -> Rules {
    Rules {
        token_lifetime: HOUR,
        reuse: Reuse::Grace(HOUR),
        ..Rules::default()
    }
}

/// A rig whose token requests go to `hostile` first.
fn through(rig: &mut Rig, hostile: &Hostile) {
    rig.config.app().token_url = hostile.token_url();
}

fn server_of(rig: &Rig) -> String {
    rig.config.apps[0]
        .token_url
        .trim_start_matches("http://")
        .trim_end_matches("/oauth/token/")
        .to_owned()
}

fn small(daemon: &Daemon) {
    let peak = daemon.peak_memory();
    assert!(peak < 80 * 1024, "{peak} KiB");
}

/// Every byte of a response is the last one for some portal, twice: with the connection closed, and reset.
#[test]
fn response_cut_at_any_byte_is_replayed_without_loss() {
    let mut rig = Rig::with_rules([], graceful());
    let server = server_of(&rig);
    // Length of a response: requested once, without a daemon.
    let probe = rig
        .server
        .install("probe.bitrix24.com", crate::common::CLIENT_ID);
    let form = format!(
        "grant_type=refresh_token&client_id={}&client_secret={CLIENT_SECRET}&refresh_token={}",
        crate::common::CLIENT_ID,
        probe["refresh_token"].as_str().unwrap()
    );
    let head = "POST /oauth/token/ HTTP/1.1\r\nHost: a\r\nContent-Type: application/x-www-form-urlencoded\r\nContent-Length:";
    let asked = RawRequest {
        text: format!("{head} {}\r\n\r\n{form}", form.len()),
    };
    // The names of the portals below are as long as this one's.
    let length = forward(&server, &asked).len();
    assert!((500..3000).contains(&length), "{length} bytes");

    let names: Vec<_> = (0..2 * length)
        .map(|number| format!("p{number:04}"))
        .collect();
    for name in &names {
        rig.config.portals.push(Portal::new(name, "crm"));
        rig.grant(name);
        // For the fake server, the truncated response has been delivered.
        rig.server.allow_replay(&domain(name));
    }
    rig.config.app().renew_every = HOUR / 2;
    rig.config.rate = Some(1000.0);
    let first: Mutex<HashSet<String>> = Mutex::default();
    let (next, cut) = (AtomicUsize::new(0), Arc::new(AtomicUsize::new(0)));
    let counted = Arc::clone(&cut);
    let hostile = Hostile::listen("127.0.0.1:0", move |asked| {
        let whole = forward(&server, &asked);
        if !first
            .lock()
            .unwrap()
            .insert(asked.parameter("refresh_token").to_owned())
        {
            return Behaviour::Close(whole);
        }
        let number = next.fetch_add(1, Ordering::SeqCst);
        let kept = whole[..(number / 2).min(whole.len() - 1)].to_vec();
        counted.fetch_add(1, Ordering::SeqCst);
        if number % 2 == 0 {
            Behaviour::Close(kept)
        } else {
            Behaviour::Reset(kept)
        }
    });
    through(&mut rig, &hostile);
    let daemon = rig.launch([]);
    eventually(
        "every portal has its pair",
        Duration::from_secs(120),
        || {
            rig.metric_if_any("refreshd_portals{phase=\"fresh\"}") == Some(names.len() as f64)
                && names.iter().all(|name| rig.generation(name) == 2)
        },
    );
    let mut outcomes: HashMap<String, usize> = HashMap::new();
    for name in &names {
        assert!(rig.has_working_token(name), "{name}");
        assert_eq!(
            (rig.renewals(name), rig.requests(name)),
            (1, 2),
            "{name}: one pair, asked for twice"
        );
        *outcomes.entry(daemon.outcomes(name).join(" ")).or_default() += 1;
    }
    assert_eq!(
        outcomes,
        HashMap::from([("in-doubt renewed".to_owned(), names.len())])
    );
    assert_eq!(cut.load(Ordering::SeqCst), names.len());
    println!(
        "{} replies of {length} bytes were cut, none was lost",
        names.len()
    );
    daemon.stop();
    rig.no_violations();
}

#[test]
fn response_size_does_not_grow_memory() {
    let names = [
        "huge", "chunked", "zipped", "headed", "lines", "continue", "promise",
    ];
    let mut rig = Rig::with_rules(names, graceful());
    let server = server_of(&rig);
    let firsts: Mutex<HashSet<String>> = Mutex::default();
    let mut wanted = HashMap::new();
    for name in names {
        rig.grant(name);
        rig.server.allow_replay(&domain(name));
        wanted.insert(rig.server.current_refresh(&domain(name)).unwrap(), name);
    }
    let hostile = Hostile::listen("127.0.0.1:0", move |asked| {
        let whole = forward(&server, &asked);
        let token = asked.parameter("refresh_token");
        if !firsts.lock().unwrap().insert(token.to_owned()) {
            return Behaviour::Close(whole);
        }
        let head = |lines: &str| {
            format!("HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n{lines}").into_bytes()
        };
        let much = vec![b' '; 1 << 16];
        match wanted[token] {
            "huge" => Behaviour::Endless(head("Content-Length: 104857600\r\n\r\n"), much),
            "chunked" => {
                Behaviour::Endless(head("Transfer-Encoding: chunked\r\n\r\nffffffff\r\n"), much)
            }
            // Its unpacked size does not matter: it is not unpacked.
            "zipped" => Behaviour::Endless(head("Content-Encoding: gzip\r\n\r\n\x1f"), much),
            "headed" => Behaviour::Endless(head("X: "), vec![b'x'; 1 << 16]),
            "lines" => Behaviour::Endless(head(""), b"X-Header: and another one\r\n".repeat(1000)),
            "continue" => {
                Behaviour::Endless(Vec::new(), b"HTTP/1.1 103 Early Hints\r\n\r\n".repeat(1000))
            }
            _ => Behaviour::Close(head("Content-Length: 18446744073709551615\r\n\r\n{}")),
        }
    });
    through(&mut rig, &hostile);
    rig.config.timeout = Duration::from_secs(5);
    let daemon = rig.start();
    for name in names {
        rig.wait_for_generation(name, 2);
        daemon.wait_for_outcome(name, "renewed");
        assert_eq!(daemon.outcomes(name), ["in-doubt", "renewed"], "{name}");
        assert_eq!(rig.requests(name), 2, "{name}");
    }
    small(&daemon);
    daemon.stop();
    rig.no_violations();
}

#[test]
fn hundred_megabytes_from_the_fake_server() {
    let mut rig = Rig::with_rules(["acme"], graceful());
    rig.grant("acme");
    rig.fail("acme", Fault::Huge { bytes: 100 << 20 }, 1);
    let daemon = rig.start();
    daemon.wait_for_outcome("acme", "renewed");
    assert_eq!(daemon.outcomes("acme"), ["in-doubt", "renewed"]);
    small(&daemon);
    rig.no_violations();
}

#[test]
fn dripping_response_ends_at_the_request_timeout() {
    let mut rig = Rig::with_rules(["head", "body"], graceful());
    let server = server_of(&rig);
    let firsts: Mutex<HashSet<String>> = Mutex::default();
    let mut wanted = HashMap::new();
    for name in ["head", "body"] {
        rig.grant(name);
        rig.server.allow_replay(&domain(name));
        wanted.insert(rig.server.current_refresh(&domain(name)).unwrap(), name);
    }
    let hostile = Hostile::listen("127.0.0.1:0", move |asked| {
        let whole = forward(&server, &asked);
        let token = asked.parameter("refresh_token");
        if !firsts.lock().unwrap().insert(token.to_owned()) {
            return Behaviour::Close(whole);
        }
        let second = Duration::from_secs(1);
        match wanted[token] {
            "head" => Behaviour::Drip(whole, second),
            // The head arrives in time.
            _ => Behaviour::Drip(whole, second / 100),
        }
    });
    through(&mut rig, &hostile);
    rig.config.timeout = Duration::from_secs(2);
    let daemon = rig.start();
    for name in ["head", "body"] {
        let event = daemon.wait_for_outcome(name, "in-doubt");
        let took = event["took_ms"].as_u64().unwrap();
        assert!((1900..10_000).contains(&took), "{event}");
        daemon.wait_for_outcome(name, "renewed");
    }
    rig.no_violations();
}

#[test]
fn redirects_carry_no_secret() {
    let statuses = [
        "301 Moved",
        "302 Found",
        "303 See Other",
        "307 Temporary",
        "308 Permanent",
        "300 Many",
    ];
    let trap = Hostile::listen("127.0.0.2:0", |_| Behaviour::Close(Vec::new()));
    let mut rig = Rig::with_rules(["acme"], graceful());
    let server = server_of(&rig);
    let (met, to) = (AtomicUsize::new(0), trap.token_url());
    let places = [
        to.clone(),
        to.replace("http:", ""),
        format!("http://{server}@{}", &to["http://".len()..]),
    ];
    let tries = statuses.len() * places.len();
    let hostile = Hostile::listen("127.0.0.1:0", move |asked| {
        let number = met.fetch_add(1, Ordering::SeqCst);
        if number >= tries {
            return Behaviour::Close(forward(&server, &asked));
        }
        let (status, place) = (
            statuses[number % statuses.len()],
            &places[number / statuses.len()],
        );
        let more = format!(
            "Location: {place}\r\nRefresh: 0; url={to}\r\nAlt-Svc: h3=\":1\"\r\nConnection: close\r\n"
        );
        Behaviour::Close(reply(status, &more, ""))
    });
    through(&mut rig, &hostile);
    // Tokens with a short life are retried quickly.
    rig.config.app().assumed_lifetime = Duration::from_secs(20);
    rig.config.app().renew_every = Duration::from_secs(8);
    rig.grant("acme");
    let daemon = rig.start();
    let renewed = |event: &serde_json::Value| event["outcome"] == "renewed";
    daemon.wait_after(0, Duration::from_secs(90), "a renewal after all", renewed);
    let outcomes = daemon.outcomes("acme");
    assert_eq!(
        outcomes
            .iter()
            .filter(|outcome| *outcome == "unknown")
            .count(),
        tries,
        "{outcomes:?}"
    );
    assert_eq!(trap.connections(), 0, "a redirect was followed");
    rig.no_violations();
}

#[test]
fn pair_of_another_portal_is_quarantined() {
    let mut rig = Rig::with_rules(["acme"], graceful());
    let daemon = rig.start();
    let grant = rig.install("acme");
    assert_eq!(rig.import("acme", &grant).code, Some(0));
    rig.wait_for_generation("acme", 2);
    daemon.stop();
    // Due at once; its response is the other portal's pair.
    rig.fail("acme", Fault::OtherMember, 1);
    rig.config.app().assumed_lifetime = HOUR;
    let state = Connection::open(rig.path("state.db")).unwrap();
    state
        .execute("UPDATE portal SET next_attempt_at = 1", [])
        .unwrap();
    drop(state);
    let before = rig.token_json("acme");
    let daemon = rig.start();
    let event = daemon.wait_for_step("acme", "person");
    assert!(
        event["severity"] == "critical"
            && event["reason"].as_str().unwrap().contains("another portal"),
        "{event}"
    );
    let requests = rig.requests("acme");
    always(
        "readers keep the old one, nothing is sent",
        Duration::from_secs(2),
        || rig.token_json("acme") == before && rig.requests("acme") == requests,
    );
    daemon.stop();
    let state = Connection::open(rig.path("state.db")).unwrap();
    let (why, aside): (String, String) = state
        .query_row("SELECT why, refresh_token FROM superseded", [], |row| {
            Ok((row.get(0)?, row.get(1)?))
        })
        .unwrap();
    assert_eq!(
        (why.as_str(), Some(aside)),
        ("foreign", rig.server.current_refresh(&domain("acme")))
    );
    rig.no_violations();
}

#[test]
fn wrong_server_clock_is_reported_and_ignored() {
    let mut rig = Rig::with_lifetime(["acme"], HOUR);
    let server = server_of(&rig);
    let hostile = Hostile::listen("127.0.0.1:0", move |asked| {
        let whole = String::from_utf8(forward(&server, &asked)).expect("text");
        let (_, body) = whole.split_once("\r\n\r\n").expect("a reply");
        let mut body: serde_json::Value = serde_json::from_str(body).expect("JSON");
        // 1994, which is long expired by any clock.
        body["expires"] = 784_111_777.into();
        let date = "Date: Sun, 06 Nov 1994 08:49:37 GMT\r\nConnection: close\r\n";
        Behaviour::Close(reply("200 OK", date, &body.to_string()))
    });
    through(&mut rig, &hostile);
    rig.grant("acme");
    let daemon = rig.start();
    rig.wait_for_generation("acme", 2);
    let event = daemon.wait_for("the warning about the clock", |event| {
        event["skew_seconds"].is_number()
    });
    assert_eq!(event["level"], "WARN", "{event}");
    let skew = rig.metric(&format!(
        "refreshd_clock_skew_seconds{{server=\"{}\"}}",
        hostile.address
    ));
    assert!(skew < -900_000_000.0, "{skew}");
    assert!(rig.has_working_token("acme"));
    let view = rig.get_json("/v1/portals/acme");
    assert!(
        view["phase"] == "fresh" && view["expires_in"].as_u64().is_some_and(|left| left > 3500),
        "{view}"
    );
    always("no spin", Duration::from_secs(2), || {
        rig.requests("acme") == 1
    });
    assert_eq!(
        daemon
            .events(|event| event["skew_seconds"].is_number())
            .len(),
        1,
        "logged once"
    );
    rig.no_violations();
}

/// Values of `expires_in` with the resulting lifetime: in seconds, or the profile's.
#[test]
fn any_expires_in_causes_neither_loop_nor_crash() {
    let cases = [
        ("string", "\"3600\"", 3600),
        ("spaces", "\" 3600 \"", 3600),
        ("float", "3599.9", 3599),
        ("exponent", "3.6e3", 3600),
        ("zero", "0", 0),
        ("minus-zero", "-0.0", 0),
        ("negative", "-3600", 0),
        ("string-negative", "\"-1\"", 0),
        ("absent", "null", 1800),
        ("empty", "\"\"", 1800),
        ("word", "\"soon\"", 1800),
        ("nan", "\"NaN\"", 1800),
        ("infinite", "\"inf\"", 1800),
        ("minus-infinite", "\"-Infinity\"", 1800),
        ("too-infinite", "\"1e999\"", 1800),
        ("array", "[3600]", 3600),
        ("object", "{\"secs\":3600}", 3600),
        ("true", "true", 1800),
        ("tiny", "0.000001", 1),
        ("huge", "1e30", 1_800),
        ("i64", "9223372036854775807", 1_800),
        ("two-63", "9223372036854775808", 1_800),
        ("two-64", "18446744073709551616", 1_800),
        (
            "digits",
            "\"99999999999999999999999999999999999999\"",
            1_800,
        ),
    ];
    let mut rig = Rig::with_rules([], graceful());
    rig.config.app().assumed_lifetime = Duration::from_secs(1800);
    rig.config.app().renew_every = Duration::from_secs(600);
    for (name, expires_in, _) in cases {
        rig.config.portals.push(Portal::new(name, "crm"));
        rig.grant(name);
        let fields =
            serde_json::from_str(&format!("{{\"expires_in\":{expires_in},\"expires\":null}}"))
                .unwrap();
        rig.fail(name, Fault::Odd { fields }, u32::MAX);
    }
    let daemon = rig.start();
    for (name, expires_in, secs) in cases {
        rig.wait_for_generation(name, 2);
        let json = rig.token_json(name).unwrap();
        let issued = humantime::parse_rfc3339(json["issued_at"].as_str().unwrap()).unwrap();
        let issued = issued
            .duration_since(std::time::UNIX_EPOCH)
            .unwrap()
            .as_secs();
        let life = json["expires_at_unix"].as_u64().unwrap() - issued;
        assert!(
            life.abs_diff(secs) <= 1,
            "{name}: {expires_in} became {life} s"
        );
    }
    always("only due requests are sent", Duration::from_secs(4), || {
        cases
            .iter()
            .all(|(name, _, secs)| rig.requests(name) <= if *secs <= 1 { 12 } else { 1 })
    });
    // The token that lives a second expires before it can be renewed, which is reported.
    let errors = daemon.events(|event| event["level"] == "ERROR" && event["portal"] != "tiny");
    assert!(errors.is_empty(), "{errors:?}");
    daemon.stop();
}
