//! A server that is hostile or cut off in the middle: nothing is lost, nothing leaves, and memory stays small.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use refreshd_fake_server::{Fault, Reuse, Rules};
use rusqlite::Connection;

use crate::common::hostile::{Asked, Hostile, Play, pass_on, reply};
use crate::common::{CLIENT_SECRET, Daemon, Portal, Rig, always, domain, eventually};

const HOUR: Duration = Duration::from_secs(3600);

/// A server whose tokens live an hour, which answers again what it has answered a spent token.
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

/// Every byte of a reply is the last one for some portal, twice: once the connection is closed there, once reset.
#[test]
fn a_reply_that_ends_at_any_byte_is_asked_for_again_and_nothing_is_lost() {
    let mut rig = Rig::with_rules([], graceful());
    let server = server_of(&rig);
    // How long a reply is: asked once, without a daemon.
    let probe = rig
        .sandbox
        .install("probe.bitrix24.com", crate::common::CLIENT_ID);
    let form = format!(
        "grant_type=refresh_token&client_id={}&client_secret={CLIENT_SECRET}&refresh_token={}",
        crate::common::CLIENT_ID,
        probe["refresh_token"].as_str().unwrap()
    );
    let head = "POST /oauth/token/ HTTP/1.1\r\nHost: a\r\nContent-Type: application/x-www-form-urlencoded\r\nContent-Length:";
    let asked = Asked {
        text: format!("{head} {}\r\n\r\n{form}", form.len()),
    };
    // The names of the portals below are as long as this one's.
    let length = pass_on(&server, &asked).len();
    assert!((500..3000).contains(&length), "{length} bytes");

    let names: Vec<_> = (0..2 * length)
        .map(|number| format!("p{number:04}"))
        .collect();
    for name in &names {
        rig.config.portals.push(Portal::new(name, "crm"));
        rig.grant(name);
        // The reply that is cut here has arrived as far as the stand-in server knows.
        rig.sandbox.allow_replay(&domain(name));
    }
    rig.config.app().renew_every = HOUR / 2;
    rig.config.rate = Some(1000);
    let first: Mutex<HashSet<String>> = Mutex::default();
    let (next, cut) = (AtomicUsize::new(0), Arc::new(AtomicUsize::new(0)));
    let counted = Arc::clone(&cut);
    let hostile = Hostile::listen("127.0.0.1:0", move |asked| {
        let whole = pass_on(&server, &asked);
        if !first
            .lock()
            .unwrap()
            .insert(asked.parameter("refresh_token").to_owned())
        {
            return Play::Close(whole);
        }
        let number = next.fetch_add(1, Ordering::SeqCst);
        let kept = whole[..(number / 2).min(whole.len() - 1)].to_vec();
        counted.fetch_add(1, Ordering::SeqCst);
        if number % 2 == 0 {
            Play::Close(kept)
        } else {
            Play::Reset(kept)
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
fn a_reply_of_any_size_costs_no_memory() {
    let names = [
        "huge", "chunked", "zipped", "headed", "lines", "continue", "promise",
    ];
    let mut rig = Rig::with_rules(names, graceful());
    let server = server_of(&rig);
    let firsts: Mutex<HashSet<String>> = Mutex::default();
    let mut wanted = HashMap::new();
    for name in names {
        rig.grant(name);
        rig.sandbox.allow_replay(&domain(name));
        wanted.insert(rig.sandbox.current_refresh(&domain(name)).unwrap(), name);
    }
    let hostile = Hostile::listen("127.0.0.1:0", move |asked| {
        let whole = pass_on(&server, &asked);
        let token = asked.parameter("refresh_token");
        if !firsts.lock().unwrap().insert(token.to_owned()) {
            return Play::Close(whole);
        }
        let head = |lines: &str| {
            format!("HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n{lines}").into_bytes()
        };
        let much = vec![b' '; 1 << 16];
        match wanted[token] {
            "huge" => Play::Endless(head("Content-Length: 104857600\r\n\r\n"), much),
            "chunked" => {
                Play::Endless(head("Transfer-Encoding: chunked\r\n\r\nffffffff\r\n"), much)
            }
            // What it would be once unpacked is nobody's concern: it is not unpacked.
            "zipped" => Play::Endless(head("Content-Encoding: gzip\r\n\r\n\x1f"), much),
            "headed" => Play::Endless(head("X: "), vec![b'x'; 1 << 16]),
            "lines" => Play::Endless(head(""), b"X-Header: and another one\r\n".repeat(1000)),
            "continue" => {
                Play::Endless(Vec::new(), b"HTTP/1.1 103 Early Hints\r\n\r\n".repeat(1000))
            }
            _ => Play::Close(head("Content-Length: 18446744073709551615\r\n\r\n{}")),
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
fn a_hundred_megabytes_from_the_stand_in_server_too() {
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
fn a_reply_that_drips_ends_with_the_requests_time() {
    let mut rig = Rig::with_rules(["head", "body"], graceful());
    let server = server_of(&rig);
    let firsts: Mutex<HashSet<String>> = Mutex::default();
    let mut wanted = HashMap::new();
    for name in ["head", "body"] {
        rig.grant(name);
        rig.sandbox.allow_replay(&domain(name));
        wanted.insert(rig.sandbox.current_refresh(&domain(name)).unwrap(), name);
    }
    let hostile = Hostile::listen("127.0.0.1:0", move |asked| {
        let whole = pass_on(&server, &asked);
        let token = asked.parameter("refresh_token");
        if !firsts.lock().unwrap().insert(token.to_owned()) {
            return Play::Close(whole);
        }
        let second = Duration::from_secs(1);
        match wanted[token] {
            "head" => Play::Drip(whole, second),
            // Its head comes within the time.
            _ => Play::Drip(whole, second / 100),
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
fn no_redirect_takes_a_secret_anywhere() {
    let statuses = [
        "301 Moved",
        "302 Found",
        "303 See Other",
        "307 Temporary",
        "308 Permanent",
        "300 Many",
    ];
    let trap = Hostile::listen("127.0.0.2:0", |_| Play::Close(Vec::new()));
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
            return Play::Close(pass_on(&server, &asked));
        }
        let (status, place) = (
            statuses[number % statuses.len()],
            &places[number / statuses.len()],
        );
        let more = format!(
            "Location: {place}\r\nRefresh: 0; url={to}\r\nAlt-Svc: h3=\":1\"\r\nConnection: close\r\n"
        );
        Play::Close(reply(status, &more, ""))
    });
    through(&mut rig, &hostile);
    // Retries come quickly for a token of a short life.
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
    assert_eq!(
        trap.connections(),
        0,
        "somebody came to where the redirects lead"
    );
    rig.no_violations();
}

#[test]
fn another_portals_pair_is_kept_aside_and_never_read() {
    let mut rig = Rig::with_rules(["acme"], graceful());
    let daemon = rig.start();
    let grant = rig.install("acme");
    assert_eq!(rig.import("acme", &grant).code, Some(0));
    rig.wait_for_generation("acme", 2);
    daemon.stop();
    // Due at once, and met by the other portal's pair.
    rig.fail("acme", Fault::OtherMember, 1);
    rig.config.app().assumed_lifetime = HOUR;
    let state = Connection::open(rig.path("state.db")).unwrap();
    state
        .execute("UPDATE portal SET next_attempt_at = 1", [])
        .unwrap();
    drop(state);
    let before = rig.token_json("acme");
    let daemon = rig.start();
    let told = daemon.wait_for_step("acme", "person");
    assert!(
        told["severity"] == "critical"
            && told["reason"].as_str().unwrap().contains("another portal"),
        "{told}"
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
        ("foreign", rig.sandbox.current_refresh(&domain("acme")))
    );
    rig.no_violations();
}

#[test]
fn a_server_whose_clock_is_wrong_is_said_and_not_believed() {
    let mut rig = Rig::with_lifetime(["acme"], HOUR);
    let server = server_of(&rig);
    let hostile = Hostile::listen("127.0.0.1:0", move |asked| {
        let whole = String::from_utf8(pass_on(&server, &asked)).expect("text");
        let (_, body) = whole.split_once("\r\n\r\n").expect("a reply");
        let mut body: serde_json::Value = serde_json::from_str(body).expect("JSON");
        // 1994, and long over by that clock and by any other.
        body["expires"] = 784_111_777.into();
        let date = "Date: Sun, 06 Nov 1994 08:49:37 GMT\r\nConnection: close\r\n";
        Play::Close(reply("200 OK", date, &body.to_string()))
    });
    through(&mut rig, &hostile);
    rig.grant("acme");
    let daemon = rig.start();
    rig.wait_for_generation("acme", 2);
    let said = daemon.wait_for("a word about the clock", |event| {
        event["skew_seconds"].is_number()
    });
    assert_eq!(said["level"], "WARN", "{said}");
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
        "said once"
    );
    rig.no_violations();
}

/// What a server may write as the life of a token, with what is made of it: seconds, or the profile's life.
#[test]
fn whatever_is_written_as_the_life_of_a_token_is_no_spin_and_no_crash() {
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
    always(
        "nothing is sent but what is due",
        Duration::from_secs(4),
        || {
            cases
                .iter()
                .all(|(name, _, secs)| rig.requests(name) <= if *secs <= 1 { 12 } else { 1 })
        },
    );
    // The one that lives a second ends before it can be renewed, and that is said.
    let errors = daemon.events(|event| event["level"] == "ERROR" && event["portal"] != "tiny");
    assert!(errors.is_empty(), "{errors:?}");
    daemon.stop();
}
