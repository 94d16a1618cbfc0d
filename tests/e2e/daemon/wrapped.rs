//! Wrapped, damaged or truncated responses: a received pair is used, and an unreadable response is kept.
//!
//! The server spends a refresh token once, so a pair that is lost here ends the grant.

use std::fs;
use std::io::Write as _;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use flate2::Compression;
use flate2::write::{DeflateEncoder, GzEncoder, ZlibEncoder};
use rusqlite::Connection;
use serde_json::Value;

use crate::common::hostile::{Behaviour, Hostile, RawRequest, reply};
use crate::common::{Daemon, Portal, Rig, SOON, always, eventually, message_contains};

/// Shown only on explicit request.
const HIDDEN: &str = "h1ddenT0ken0fTheReply";

/// The connection is not used again, whatever its body is.
const CLOSE: &str = "Connection: close\r\n";

/// The response to the first request of a grant, from its pair: bytes on the wire.
type Wrap = fn(&str) -> Behaviour;
/// A transformation of a pair.
type Text = fn(&str) -> String;

fn ok(headers: &str, body: &[u8]) -> Vec<u8> {
    let length = body.len();
    let head = format!(
        "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n{CLOSE}{headers}\r\n"
    );
    [head.as_bytes(), body].concat()
}

fn sent(body: impl AsRef<[u8]>) -> Behaviour {
    Behaviour::Close(ok("", body.as_ref()))
}

fn gzip(body: &str) -> Vec<u8> {
    let mut packed = GzEncoder::new(Vec::new(), Compression::default());
    packed
        .write_all(body.as_bytes())
        .expect("as the test made it");
    packed.finish().expect("as the test made it")
}

fn zlib(body: &str) -> Vec<u8> {
    let mut packed = ZlibEncoder::new(Vec::new(), Compression::default());
    packed
        .write_all(body.as_bytes())
        .expect("as the test made it");
    packed.finish().expect("as the test made it")
}

fn deflate(body: &str) -> Vec<u8> {
    let mut packed = DeflateEncoder::new(Vec::new(), Compression::default());
    packed
        .write_all(body.as_bytes())
        .expect("as the test made it");
    packed.finish().expect("as the test made it")
}

fn utf16(text: &str) -> Vec<u8> {
    text.encode_utf16().flat_map(u16::to_le_bytes).collect()
}

/// With further members.
fn with(pair: &str, members: &str) -> String {
    format!(
        "{},{members}}}",
        pair.strip_suffix('}').expect("as the test made it")
    )
}

/// As many header lines.
fn headers(count: usize) -> String {
    (0..count)
        .map(|number| format!("X-Line-{number}: something or other\r\n"))
        .collect()
}

const WRAPPED: &[(&str, Wrap)] = &[
    ("as-it-is", |r| sent(r)),
    ("bom", |r| sent(format!("\u{feff}{r}"))),
    ("form", |r| {
        let r: Value = serde_json::from_str(r).expect("as the test made it");
        let text = |key: &str| r[key].as_str().expect("as the test made it").to_owned();
        sent(format!(
            "access_token={}&refresh_token={}&expires_in=2",
            text("access_token"),
            text("refresh_token")
        ))
    }),
    ("gzip-declared", |r| {
        Behaviour::Close(ok("Content-Encoding: gzip\r\n", &gzip(r)))
    }),
    ("gzip-undeclared", |r| sent(gzip(r))),
    ("zlib-declared", |r| {
        Behaviour::Close(ok("Content-Encoding: deflate\r\n", &zlib(r)))
    }),
    ("deflate-undeclared", |r| sent(deflate(r))),
    ("gzip-declared-only", |r| {
        Behaviour::Close(ok("Content-Encoding: gzip\r\n", r.as_bytes()))
    }),
    ("notice", |r| sent(format!("<br /><b>Notice</b>: x {r}"))),
    ("comment", |r| sent(format!("{r}<!-- 0.02 s -->"))),
    ("nul", |r| sent(format!("{r}\0"))),
    ("comments-of-json", |r| {
        let (rest, open) = (r.replace(',', ", // x\n"), "/* https://a.example */");
        sent(format!(
            "// v2\n{{{open}{},}} // end",
            &rest[1..rest.len() - 1]
        ))
    }),
    ("comma-at-the-end", |r| sent(format!("{r},"))),
    ("xssi", |r| sent(format!(")]}}',\n{r}"))),
    ("while", |r| sent(format!("while(1);{r}"))),
    ("jsonp", |r| sent(format!("cb({r});"))),
    ("list", |r| sent(format!("[{r}]"))),
    ("string", |r| sent(Value::from(r).to_string())),
    ("data", |r| sent(format!(r#"{{"code":0,"data":{r}}}"#))),
    ("utf-16", |r| sent([vec![0xff, 0xfe], utf16(r)].concat())),
    ("utf-16-without-mark", |r| sent(utf16(r))),
    ("deep", |r| {
        sent(with(
            r,
            &format!(r#""x":{}{}"#, "[".repeat(200), "]".repeat(200)),
        ))
    }),
    ("absurd-number", |r| sent(with(r, r#""x":1e999"#))),
    ("odd-values", |r| {
        sent(with(r, r#""x":nan,"y":0,02,"z":TRUE,"w":"#))
    }),
    ("stray-bracket", |r| {
        sent(format!(
            "PHP Parse error:  syntax error, unexpected '{{' in a.php on line 3\n{r}]"
        ))
    }),
    ("form-and-comment", |r| {
        let r: Value = serde_json::from_str(r).expect("as the test made it");
        let text = |key: &str| r[key].as_str().expect("as the test made it").to_owned();
        sent(format!(
            "access_token={}&refresh_token={}&expires_in=2<!-- 0.02 -->",
            text("access_token"),
            text("refresh_token")
        ))
    }),
    ("envelope-cut", |r| {
        sent(format!(r#"{{"result":{r},"time":{{"start":17"#))
    }),
    ("not-utf-8", |r| {
        sent(
            [
                with(r, r#""x":""#).trim_end_matches('}').as_bytes(),
                b"M\xfcller\x01\"}",
            ]
            .concat(),
        )
    }),
    ("no-last-chunk", |r| {
        Behaviour::Close(
            format!(
                "HTTP/1.1 200 OK\r\n{CLOSE}Transfer-Encoding: chunked\r\n\r\n{:x}\r\n{r}\r\n",
                r.len()
            )
            .into_bytes(),
        )
    }),
    ("jsonp-cut", |r| {
        let body = format!("cb({r}");
        Behaviour::Close(
            format!(
                "HTTP/1.1 200 OK\r\n{CLOSE}Content-Length: {}\r\n\r\n{body}",
                body.len() + 2
            )
            .into_bytes(),
        )
    }),
    ("list-cut", |r| {
        let body = format!("[{r}");
        Behaviour::Close(
            format!(
                "HTTP/1.1 200 OK\r\n{CLOSE}Content-Length: {}\r\n\r\n{body}",
                body.len() + 1
            )
            .into_bytes(),
        )
    }),
    ("closed-then-reset", |r| {
        Behaviour::Reset(format!("HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n{r}").into_bytes())
    }),
    ("too-short", |r| {
        Behaviour::Close(
            format!("HTTP/1.1 200 OK\r\n{CLOSE}Content-Length: 9999\r\n\r\n{r}").into_bytes(),
        )
    }),
    ("150-headers", |r| {
        Behaviour::Close(ok(&headers(150), r.as_bytes()))
    }),
    ("256-headers", |r| {
        Behaviour::Close(ok(&headers(253), r.as_bytes()))
    }),
    ("damaged-header", |r| {
        Behaviour::Close(ok("Bad Header\r\nX-Folded: a\r\n b\r\n", r.as_bytes()))
    }),
    ("long", |r| {
        let token: Value = serde_json::from_str(r).expect("as the test made it");
        let short = token["access_token"].as_str().expect("as the test made it");
        sent(r.replace(short, &short.repeat(300_000 / short.len())))
    }),
    ("a-megabyte", |r| {
        sent(format!("{}{r}", " ".repeat((1 << 20) - r.len())))
    }),
    ("error-0", |r| sent(with(r, r#""error":0"#))),
    ("error-0-text", |r| sent(with(r, r#""error":"0""#))),
    ("error-list", |r| sent(with(r, r#""error":[]"#))),
    ("error-object", |r| sent(with(r, r#""error":{}"#))),
    ("error-null", |r| sent(with(r, r#""error":null"#))),
    ("error-false", |r| sent(with(r, r#""error":false"#))),
    ("error-ok", |r| sent(with(r, r#""error":"ok""#))),
    ("error-success", |r| {
        sent(with(
            r,
            r#""error":"success","error_description":"all is well""#,
        ))
    }),
];

/// Name and number in a refresh token such as `r-bom-3`.
fn parts(token: &str) -> (&str, u64) {
    let (name, number) = token.rsplit_once('-').unwrap_or_default();
    (
        name.strip_prefix("r-").unwrap_or_default(),
        number.parse().unwrap_or_default(),
    )
}

fn pair(name: &str, number: u64) -> String {
    format!(
        r#"{{"access_token":"a-{name}-{number}","refresh_token":"r-{name}-{number}","expires_in":4}}"#
    )
}

/// A server that accepts each refresh token once; `play` makes the first response to each grant.
fn strict(play: impl Fn(&str, &str) -> Behaviour + Send + Sync + 'static) -> Hostile {
    let spent: Mutex<Vec<String>> = Mutex::default();
    Hostile::listen("127.0.0.1:0", move |asked: RawRequest| {
        let token = asked.parameter("refresh_token").to_owned();
        assert!(
            asked
                .text
                .to_lowercase()
                .contains("accept-encoding: identity"),
            "{}",
            asked.text
        );
        let mut spent = spent.lock().expect("no thread panics");
        if spent.contains(&token) {
            return Behaviour::Close(reply(
                "400 Bad Request",
                CLOSE,
                r#"{"error":"invalid_grant"}"#,
            ));
        }
        let (name, number) = parts(&token);
        let next = pair(name, number + 1);
        let play = if number == 1 {
            play(name, &next)
        } else {
            Behaviour::Close(reply("200 OK", CLOSE, &next))
        };
        spent.push(token.clone());
        play
    })
}

/// A rig with these portals, whose grants are `r-NAME-1`, at that server.
fn rig(hostile: &Hostile, names: &[&str]) -> Rig {
    let mut rig = Rig::new([]);
    rig.config.app().token_url = hostile.token_url();
    rig.config.app().renew_every = Duration::from_secs(2);
    for name in names {
        rig.secret(&format!("{name}.refresh"), &format!("r-{name}-1"));
        rig.config.portals.push(Portal {
            refresh_token_file: true,
            ..Portal::new(name, "crm")
        });
    }
    rig
}

/// A server that wraps each portal's first response according to the table, and a daemon that renewed each portal twice.
fn renewed_twice(wraps: &'static [(&str, Wrap)]) -> (Hostile, Rig, Daemon) {
    let names: Vec<_> = wraps.iter().map(|(name, _)| *name).collect();
    let hostile = strict(move |name, next| {
        let (_, wrap) = wraps
            .iter()
            .find(|(known, _)| *known == name)
            .expect("a portal of the test");
        wrap(next)
    });
    let rig = rig(&hostile, &names);
    let daemon = rig.start();
    for name in &names {
        rig.wait_for_generation(name, 3);
        let outcomes = daemon.outcomes(name);
        assert!(
            outcomes.iter().all(|outcome| outcome == "renewed"),
            "{name}: {outcomes:?}"
        );
    }
    (hostile, rig, daemon)
}

#[test]
fn every_wrapped_response_yields_a_pair() {
    let (_hostile, rig, _daemon) = renewed_twice(WRAPPED);
    for (name, _) in WRAPPED {
        let token = fs::read_to_string(rig.token_path(name, "token")).expect("as the test made it");
        assert!(token.starts_with(&format!("a-{name}-")), "{name}: {token}");
        assert!(
            rig.get_json(&format!("/v1/portals/{name}"))["unread_replies"].is_null(),
            "{name}"
        );
    }
}

#[test]
fn numeric_token_keeps_its_digits() {
    let (number, asked) = ("47110000000000000000001", Arc::new(AtomicUsize::new(0)));
    let seen = Arc::clone(&asked);
    let hostile = Hostile::listen("127.0.0.1:0", move |asked| {
        if asked.parameter("refresh_token") == number {
            seen.fetch_add(1, Ordering::SeqCst);
        }
        sent(format!(
            r#"{{"access_token":4711,"refresh_token":{number},"expires_in":4}}"#
        ))
    });
    let rig = rig(&hostile, &["acme"]);
    let _daemon = rig.start();
    rig.wait_for_generation("acme", 3);
    assert!(asked.load(Ordering::SeqCst) > 0);
    assert_eq!(
        fs::read_to_string(rig.token_path("acme", "token")).expect("as the test made it"),
        "4711"
    );
}

/// These bytes unchanged.
fn raw(text: impl AsRef<[u8]>) -> Behaviour {
    Behaviour::Close(text.as_ref().to_vec())
}

/// The start of another response, which some servers send after a complete one.
const NEXT_ANSWER: &str = "HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n<html>";
/// Responses whose framing breaks RFC 9112, so that an HTTP library returns no byte of them, or not all.
const BROKEN: &[(&str, Wrap)] = &[
    ("length-is-no-number", |r| {
        raw(format!("HTTP/1.1 200 OK\r\nContent-Length: abc\r\n\r\n{r}"))
    }),
    ("length-is-empty", |r| {
        raw(format!("HTTP/1.1 200 OK\r\nContent-Length:\r\n\r\n{r}"))
    }),
    ("length-is-negative", |r| {
        raw(format!("HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n{r}"))
    }),
    ("two-lengths", |r| {
        raw(format!(
            "HTTP/1.1 200 OK\r\nContent-Length: 7\r\nContent-Length: {}\r\n\r\n{r}",
            r.len()
        ))
    }),
    ("length-is-too-short", |r| {
        raw(format!("HTTP/1.1 200 OK\r\nContent-Length: 20\r\n\r\n{r}"))
    }),
    ("length-is-0", |r| {
        raw(format!("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n{r}"))
    }),
    ("length-counts-characters", |r| {
        let r = with(r, r#""name":"Мюллер""#);
        raw(format!(
            "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{r}",
            r.chars().count()
        ))
    }),
    ("form-that-is-longer", |r| {
        let r: Value = serde_json::from_str(r).expect("as the test made it");
        let text = |key: &str| r[key].as_str().expect("as the test made it").to_owned();
        let form = format!(
            "access_token={}&expires_in=4&refresh_token={}",
            text("access_token"),
            text("refresh_token")
        );
        raw(format!(
            "HTTP/1.1 200 OK\r\nContent-Length: 30\r\n\r\n{form}"
        ))
    }),
    ("chunked-and-is-not", |r| {
        raw(format!(
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n{r}"
        ))
    }),
    ("chunks-end-with-lf", |r| {
        let (one, two) = r.split_at(30);
        raw(format!(
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n{:x}\n{one}\n{:x}\n{two}\n0\n\n",
            one.len(),
            two.len()
        ))
    }),
    ("a-next-answer", |r| {
        raw(format!(
            "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{r}{NEXT_ANSWER}",
            r.len()
        ))
    }),
    ("a-next-answer-after-chunks", |r| {
        let head = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
        raw(format!(
            "{head}{:x}\r\n{r}\r\n0\r\n\r\n{NEXT_ANSWER}",
            r.len()
        ))
    }),
    ("lines-end-with-cr", |r| {
        raw(format!("HTTP/1.1 200 OK\rServer: x\r\r{r}"))
    }),
    ("switched-protocols", |r| {
        raw(format!(
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\nHTTP/1.1 200 OK\r\n\r\n{r}"
        ))
    }),
    ("no-head", |r| raw(r)),
    ("no-version", |r| raw(format!("HTTP 200\r\n\r\n{r}"))),
    ("no-slash", |r| {
        raw(format!(
            "HTTP 1.1 200 OK\nContent-Type: application/json\n\n{r}"
        ))
    }),
    ("version-9", |r| raw(format!("HTTP/9.9 200 OK\r\n\r\n{r}"))),
    ("no-content", |r| {
        raw(format!("HTTP/1.1 204 No Content\r\n\r\n{r}"))
    }),
    ("nul-in-the-reason", |r| {
        raw(format!("HTTP/1.1 200 O\0K\r\n\r\n{r}"))
    }),
    ("a-code-of-four-digits", |r| {
        raw(format!("HTTP/1.1 2000 OK\r\n\r\n{r}"))
    }),
    ("control-in-a-name", |r| {
        raw(format!("HTTP/1.1 200 OK\r\nA\u{1}: b\r\n: c\r\n\r\n{r}"))
    }),
    ("head-and-body-apart", |r| {
        // One byte at a time: the library gives up long before the body arrives.
        let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n{r}");
        Behaviour::Drip(answer.into_bytes(), Duration::from_millis(2))
    }),
    ("open-for-good", |r| {
        Behaviour::Hold(format!("HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n{r}").into_bytes())
    }),
    ("too-short-and-open", |r| {
        Behaviour::Hold(format!("HTTP/1.1 200 OK\r\nContent-Length: 20\r\n\r\n{r}").into_bytes())
    }),
    ("200-kb-of-headers", |r| {
        raw(format!(
            "HTTP/1.1 200 OK\r\nX: {}\r\nContent-Length: x\r\n\r\n{r}",
            "x".repeat(200_000)
        ))
    }),
];

#[test]
fn pair_in_a_non_http_response_is_used() {
    renewed_twice(BROKEN);
}

#[test]
fn unreadable_non_http_response_is_kept() {
    let hostile = strict(|_, next| {
        raw(format!(
            "HTTP/1.1 200 OK\r\nContent-Length: abc\r\n\r\n{}",
            unparsable(next)
        ))
    });
    let rig = rig(&hostile, &["acme"]);
    let daemon = rig.start();
    daemon.wait_for_outcome("acme", "needs-authorization");
    assert_eq!(daemon.outcomes("acme"), ["in-doubt", "needs-authorization"]);
    let ran = rig.run(["recover", "acme", "--show"]);
    assert_eq!(
        (ran.code, ran.stdout),
        (Some(0), unparsable(&pair("acme", 2)))
    );
    is_silent(&rig, &daemon);
}

#[test]
fn rejection_in_a_non_http_response_is_ignored() {
    let hostile = Hostile::listen("127.0.0.1:0", |_| {
        raw("HTTP/1.1 400 Bad\r\nContent-Length: x\r\n\r\n{\"error\":\"invalid_grant\"}")
    });
    let rig = rig(&hostile, &["acme"]);
    let daemon = rig.start();
    eventually("two tries", SOON, || daemon.outcomes("acme").len() >= 2);
    assert!(
        daemon
            .outcomes("acme")
            .iter()
            .all(|outcome| outcome == "in-doubt"),
        "{:?}",
        daemon.outcomes("acme")
    );
}

/// A response that no version can parse, although it contains a token.
fn unparsable(next: &str) -> String {
    let token = format!("{HIDDEN}-{}", next.len());
    format!("<html><body><p>Your new tokens are {token} and {next}</p></body></html>")
}

/// A rig whose portal had one unreadable response, and whose replay was rejected.
fn unread() -> (Hostile, Rig, Daemon) {
    let hostile = strict(|_, next| Behaviour::Close(ok("", unparsable(next).as_bytes())));
    let rig = rig(&hostile, &["acme"]);
    let daemon = rig.start();
    rig.wait_for_phase("acme", "needs-authorization");
    daemon.wait_for_outcome("acme", "needs-authorization");
    (hostile, rig, daemon)
}

#[test]
fn text_of_an_unread_success_is_shown_nowhere() {
    // No mask knows that these are tokens.
    for hidden in ["correct-horse-battery-staple", "9f86d081884c7d65"] {
        let body = ok("", hidden.as_bytes());
        let hostile = strict(move |_, _| Behaviour::Close(body.clone()));
        let rig = rig(&hostile, &["acme"]);
        let daemon = rig.start();
        rig.wait_for_phase("acme", "needs-authorization");
        daemon.wait_for_outcome("acme", "needs-authorization");
        for shown in [
            daemon.stderr(),
            rig.http("/").1,
            rig.run(["status", "acme"]).stdout,
            rig.run(["status", "--json"]).stdout,
        ] {
            assert!(!shown.contains(hidden), "{shown}");
        }
        assert_eq!(rig.run(["recover", "acme", "--show"]).stdout, hidden);
        daemon.stop();
    }
}

/// Asserts that no byte of it is in the log or in any view.
fn is_silent(rig: &Rig, daemon: &Daemon) {
    let (_, page) = rig.http("/");
    let (_, metrics) = rig.http("/metrics");
    let status = rig.run(["status"]);
    let json = rig.run(["status", "--json"]);
    let recover = rig.run(["recover", "acme", "--json"]);
    let replies = rig.control("GET", "/v1/portals/acme/replies", "").1;
    for shown in [
        daemon.stderr(),
        page,
        metrics,
        status.stdout,
        json.stdout,
        recover.stdout,
        recover.stderr,
        replies,
    ] {
        assert!(
            !shown.contains(HIDDEN) && !shown.contains("a-acme-2"),
            "{shown}"
        );
    }
}

#[test]
fn unreadable_response_is_kept_and_in_doubt() {
    let (_hostile, rig, daemon) = unread();
    assert_eq!(daemon.outcomes("acme"), ["in-doubt", "needs-authorization"]);
    let view = rig.status("acme");
    assert_eq!(
        (
            &view["unread_replies"]["count"],
            &view["unread_replies"]["action"]
        ),
        (&1.into(), &"refreshd recover acme".into())
    );
    assert!(view["unread_replies"]["newest"].is_string());
    let action = view["action"].as_str().unwrap();
    assert!(
        action.contains("refreshd recover acme --show") && action.contains("authorize acme"),
        "{action}"
    );
    for shown in [
        rig.run(["status"]).stdout,
        rig.run(["status", "acme"]).stdout,
        rig.http("/").1,
    ] {
        assert!(
            shown.contains("could not be read is kept") && shown.contains("refreshd recover acme"),
            "{shown}"
        );
    }
    is_silent(&rig, &daemon);
    let ran = rig.run(["recover", "acme"]);
    assert_eq!(ran.code, Some(65), "{ran:?}");
    assert!(
        ran.stderr.contains("reply 1 to the renewal") && ran.stderr.contains("cannot be read"),
        "{ran:?}"
    );
    let ran = rig.run(["recover", "acme", "--show"]);
    assert_eq!(
        (ran.code, ran.stdout),
        (Some(0), unparsable(&pair("acme", 2)))
    );
    assert_eq!(rig.run(["recover", "acme", "--show=2"]).code, Some(66));
    assert_eq!(rig.run(["recover", "unknown"]).code, Some(66));
    // It survives a kill, and is available without a daemon.
    daemon.kill9();
    let ran = rig.run(["recover", "acme", "--show"]);
    assert_eq!(
        (ran.code, ran.stdout),
        (Some(0), unparsable(&pair("acme", 2)))
    );
    assert_eq!(
        rig.run(["recover", "acme", "--discard"]).code,
        Some(64),
        "without a confirmation"
    );
    assert_eq!(
        rig.run(["recover", "acme", "--discard", "--yes"]).code,
        Some(0)
    );
    assert_eq!(rig.run(["recover", "acme"]).code, Some(66));
    assert!(rig.status("acme")["unread_replies"].is_null());
}

#[test]
fn recovered_pair_resumes_and_the_response_is_dropped_later() {
    let (_hostile, rig, daemon) = unread();
    let shown = rig.run(["recover", "acme", "--show"]).stdout;
    let found = &shown[shown.find('{').expect("as the test made it")
        ..=shown.find('}').expect("as the test made it")];
    assert_eq!(rig.import("acme", found).code, Some(0));
    rig.wait_for_phase("acme", "fresh");
    eventually("nothing is kept", SOON, || {
        rig.status("acme")["unread_replies"].is_null()
    });
    assert_eq!(rig.run(["recover", "acme"]).code, Some(66));
    daemon.stop();
}

/// The output of `recover --show` is accepted if it holds one pair; otherwise the error names the unreadable part.
#[test]
fn kept_response_is_imported_whole_or_refused_with_reason() {
    let (_hostile, rig, daemon) = unread();
    let ran = rig.run(["recover", "acme", "--show"]);
    let ran = rig.import("acme", &ran.stdout);
    assert_eq!(ran.code, Some(65), "{ran:?}");
    assert!(
        ran.stderr.contains("It is a reply that refreshd keeps")
            && ran.stderr.contains("refreshd recover acme"),
        "{ran:?}"
    );
    assert_eq!(rig.status("acme")["unread_replies"]["count"], 1);
    let texts: [fn(&str) -> Vec<u8>; 6] = [
        |r| with(r, r#""error":"an_unknown_error""#).into_bytes(),
        |r| format!(r#"{{"success":false,"data":{r}}}"#).into_bytes(),
        |r| format!("Refresh failed.\n{r}").into_bytes(),
        |r| format!("HTTP/1.1 400 Bad Request\r\n\r\n{r}").into_bytes(),
        |r| deflate(r),
        |r| utf16(&format!("// v2\n{r},")),
    ];
    for (number, text) in (10..).zip(texts) {
        let text = text(&pair("handed", number));
        rig.secret_bytes("kept", &text);
        let ran = rig.run(["import", "acme", rig.path("kept").to_str().expect("a path")]);
        assert_eq!(
            ran.code,
            Some(0),
            "{}: {ran:?}",
            String::from_utf8_lossy(&text)
        );
        rig.wait_for_phase("acme", "fresh");
    }
    daemon.stop();
}

/// Replaces the kept response with one that this version can parse, as if it were newer.
fn becomes_readable(rig: &Rig, body: &str) {
    let state = Connection::open(rig.path("state.db")).expect("as the test made it");
    assert_eq!(
        state
            .execute("UPDATE unread_reply SET body = ?1", [body.as_bytes()])
            .expect("as the test made it"),
        1
    );
}

#[test]
fn newer_version_parses_kept_responses_before_sending() {
    let (hostile, rig, daemon) = unread();
    daemon.stop();
    becomes_readable(&rig, &pair("acme", 2));
    let asked = hostile.connections();
    let daemon = rig.start();
    daemon.wait_for("the grant of the reply", |event| {
        message_contains(event, "the grant of a kept reply was accepted")
    });
    rig.wait_for_phase("acme", "fresh");
    rig.wait_for_generation("acme", 3);
    assert!(
        !daemon
            .outcomes("acme")
            .contains(&"needs-authorization".to_owned())
    );
    assert!(hostile.connections() > asked);
    assert!(rig.status("acme")["unread_replies"].is_null());
}

/// The profile learns the place of the token: then the same daemon can parse the response, and so can a command without one.
#[test]
fn recover_imports_with_and_without_a_daemon() {
    for offline in [false, true] {
        let hostile = strict(|_, next| sent(next.replace("access_token", "tok")));
        let mut rig = rig(&hostile, &["acme"]);
        let daemon = rig.start();
        rig.wait_for_phase("acme", "needs-authorization");
        rig.config
            .app()
            .more
            .push_str("reply = { access_token = [\"access_token\", \"tok\"] }\n");
        rig.write_config();
        let daemon = if offline {
            daemon.stop();
            None
        } else {
            assert_eq!(rig.control("POST", "/v1/reload", "").0, 200);
            Some(daemon)
        };
        let ran = rig.run(["recover", "acme", "--json"]);
        assert_eq!(ran.code, Some(0), "{ran:?}");
        let outcome: Value = serde_json::from_str(&ran.stdout).expect("as the test made it");
        assert_eq!(
            (&outcome["outcome"], &outcome["generation"]),
            (&"recovered".into(), &2.into())
        );
        assert!(!ran.stdout.contains("a-acme"), "{ran:?}");
        assert_eq!(rig.generation("acme"), 2);
        let _daemon = daemon.unwrap_or_else(|| rig.start());
        rig.wait_for_generation("acme", 3);
    }
}

#[test]
fn response_to_an_earlier_grant_is_not_imported() {
    let (_hostile, rig, daemon) = unread();
    daemon.stop();
    becomes_readable(&rig, &pair("acme", 2));
    // Without a daemon the portal is not renewed, so the response stays.
    let state = Connection::open(rig.path("state.db")).expect("as the test made it");
    state
        .execute("UPDATE portal SET generation = 7", [])
        .expect("as the test made it");
    drop(state);
    let ran = rig.run(["recover", "acme"]);
    assert_eq!(ran.code, Some(65), "{ran:?}");
    assert!(ran.stderr.contains("has another grant by now"), "{ran:?}");
    let daemon = rig.start();
    always("it is left alone", Duration::from_secs(1), || {
        rig.generation("acme") != 8
    });
    assert!(
        daemon
            .events(|event| message_contains(event, "was accepted"))
            .is_empty()
    );
    assert_eq!(rig.run(["forget", "acme", "--yes"]).code, Some(0));
    daemon.stop();
    let state = Connection::open(rig.path("state.db")).expect("as the test made it");
    let left: i64 = state
        .query_row("SELECT count(*) FROM unread_reply", [], |row| row.get(0))
        .expect("as the test made it");
    assert_eq!(left, 0);
}

#[test]
fn html_success_is_in_doubt_and_repeats_are_kept_once() {
    let hostile = Hostile::listen("127.0.0.1:0", |_| {
        sent("<!DOCTYPE html><title>Sorry</title>")
    });
    let rig = rig(&hostile, &["acme"]);
    let daemon = rig.start();
    eventually("three tries", SOON, || daemon.outcomes("acme").len() >= 3);
    assert!(
        daemon
            .outcomes("acme")
            .iter()
            .all(|outcome| outcome == "in-doubt"),
        "{:?}",
        daemon.outcomes("acme")
    );
    assert_eq!(rig.status("acme")["unread_replies"]["count"], 1);
}

#[test]
fn first_and_newest_responses_are_kept() {
    let count = AtomicUsize::new(0);
    let hostile = Hostile::listen("127.0.0.1:0", move |_| {
        let number = count.fetch_add(1, Ordering::SeqCst);
        sent(format!("<p>{number}</p>"))
    });
    let rig = rig(&hostile, &["acme"]);
    let daemon = rig.start();
    eventually("five tries", SOON * 2, || {
        rig.control("POST", "/v1/portals/acme/renew", "");
        daemon.outcomes("acme").len() >= 5
    });
    daemon.stop();
    let shown = |number: &str| rig.run(["recover", "acme", &format!("--show={number}")]);
    assert_eq!(shown("1").stdout, "<p>0</p>");
    assert!(shown("3").code == Some(0) && shown("4").code == Some(66));
}

#[test]
fn pair_with_an_error_status_is_used_after_rejection() {
    let statuses = [
        "500 Internal Server Error",
        "503 Service Unavailable",
        "400 Bad Request",
        "404 Not Found",
    ];
    let names: Vec<_> = statuses
        .iter()
        .map(|status| format!("s{}", &status[..3]))
        .collect();
    let names: Vec<_> = names.iter().map(String::as_str).collect();
    let hostile = strict(move |name, next| {
        let status = statuses
            .iter()
            .find(|status| status.starts_with(&name[1..]));
        Behaviour::Close(reply(status.expect("a portal of the test"), CLOSE, next))
    });
    let rig = rig(&hostile, &names);
    let daemon = rig.start();
    for name in &names {
        rig.wait_for_generation(name, 4);
        let outcomes = daemon.outcomes(name);
        assert_eq!(outcomes[0], "in-doubt", "{name}: {outcomes:?}");
        assert!(
            outcomes[1..].iter().all(|outcome| outcome == "renewed"),
            "{name}: {outcomes:?}"
        );
        assert!(
            rig.get_json(&format!("/v1/portals/{name}"))["unread_replies"].is_null(),
            "{name}"
        );
        daemon.wait_for("the log line", |event| {
            message_contains(event, "is used") && event["portal"].as_str() == Some(*name)
        });
    }
}

/// Text beside or around the pair indicates a failure: the authorization server decides, and no one is notified.
#[test]
fn doubtful_pair_is_tried_after_rejection() {
    let bodies: [(&str, Text); 5] = [
        ("beside", |r| with(r, r#""error":"an_unknown_error""#)),
        ("flag", |r| format!(r#"{{"success":false,"data":{r}}}"#)),
        ("around", |r| format!("Refresh failed.\n{r}")),
        ("comment", |r| format!("/* refresh token invalid */ {r}")),
        ("meta", |r| with(r, r#""meta":{"status":"failed"}"#)),
    ];
    let names = bodies.map(|(name, _)| name);
    let hostile = strict(move |name, next| {
        let body = bodies.iter().find(|(of, _)| *of == name);
        sent(body.expect("a portal of the test").1(next))
    });
    let rig = rig(&hostile, &names);
    let daemon = rig.start();
    for name in names {
        rig.wait_for_generation(name, 4);
        let outcomes = daemon.outcomes(name);
        assert_eq!(
            outcomes[..2],
            ["in-doubt", "in-doubt"],
            "{name}: {outcomes:?}"
        );
        assert!(
            outcomes[2..].iter().all(|outcome| outcome == "renewed"),
            "{name}: {outcomes:?}"
        );
        let view = rig.get_json(&format!("/v1/portals/{name}"));
        assert!(view["unread_replies"].is_null(), "{view}");
        assert_eq!(view["phase"], "fresh", "{view}");
    }
    daemon.stop();
}

/// A token that a server echoes, rejects or mentions in a sentence is not sent, and each pair is sent once.
#[test]
fn doubtful_pair_is_sent_once_and_a_non_pair_never() {
    let failing: Text = |r| format!("Refresh failed.\n{}", r.replace("r-", "x-"));
    let bodies: [(&str, Text, usize); 5] = [
        ("unknown", failing, 1),
        (
            "echo",
            |r| format!("Refresh failed.\n{}", r.replace("-2", "-1")),
            0,
        ),
        ("sentence", |r| format!("<p>Refresh failed for {r}</p>"), 0),
        (
            "two",
            |r| format!("Refresh failed.\n{r}\n{}", r.replace("-2", "-3")),
            0,
        ),
        (
            "code",
            |r| format!(r#"{{"data":{r},"log":["invalid_grant"],"success":false}}"#),
            0,
        ),
    ];
    let names = bodies.map(|(name, ..)| name);
    let asked: Arc<Mutex<Vec<String>>> = Arc::default();
    let seen = Arc::clone(&asked);
    let hostile = Hostile::listen("127.0.0.1:0", move |request: RawRequest| {
        let token = request.parameter("refresh_token").to_owned();
        let mut seen = seen.lock().expect("no thread panics");
        let is_first = !seen.contains(&token);
        seen.push(token.clone());
        let (name, number) = parts(&token);
        match bodies.iter().find(|(of, ..)| *of == name) {
            Some((_, body, _)) if is_first && number == 1 => sent(body(&pair(name, 2))),
            _ => Behaviour::Close(reply(
                "400 Bad Request",
                CLOSE,
                r#"{"error":"invalid_grant"}"#,
            )),
        }
    });
    let rig = rig(&hostile, &names);
    let daemon = rig.start();
    for (name, _, sent) in bodies {
        rig.wait_for_phase(name, "needs-authorization");
        rig.control("POST", &format!("/v1/portals/{name}/renew"), "");
        daemon.wait_for("the refusal once more", |event| {
            event["outcome"] == "needs-authorization" && event["portal"] == name
        });
        let asked = asked.lock().expect("no thread panics");
        let others: Vec<_> = (asked.iter())
            .filter(|token| {
                token.contains(&format!("-{name}-")) && **token != format!("r-{name}-1")
            })
            .collect();
        assert_eq!(others.len(), sent, "{name}: {others:?}");
        drop(asked);
        assert!(rig.token_json(name).is_none(), "{name}");
        assert_eq!(rig.status(name)["unread_replies"]["count"], 1, "{name}");
    }
    daemon.stop();
}

#[test]
fn truncated_json_is_kept_and_yields_no_pair() {
    let hostile = strict(|_, next| {
        let cut = &next[..next.len() - 1];
        Behaviour::Close(
            format!(
                "HTTP/1.1 200 OK\r\n{CLOSE}Content-Length: {}\r\n\r\n{cut}",
                next.len()
            )
            .into_bytes(),
        )
    });
    let rig = rig(&hostile, &["acme"]);
    let daemon = rig.start();
    daemon.wait_for_outcome("acme", "needs-authorization");
    assert_eq!(daemon.outcomes("acme"), ["in-doubt", "needs-authorization"]);
    let ran = rig.run(["recover", "acme", "--show"]);
    let shown = &ran.stdout;
    assert_eq!(
        shown,
        pair("acme", 2)
            .strip_suffix('}')
            .expect("as the test made it")
    );
    let ran = rig.run(["recover", "acme"]);
    assert!(ran.stderr.contains(", cut;"), "{ran:?}");
}

#[test]
fn truncated_form_is_kept_and_yields_no_token() {
    let form = |next: &str, order: [&str; 3]| {
        let next: Value = serde_json::from_str(next).expect("as the test made it");
        let field = |name: &&str| match &next[name] {
            Value::String(text) => format!("{name}={text}"),
            other => format!("{name}={other}"),
        };
        order.iter().map(field).collect::<Vec<_>>().join("&")
    };
    const REFRESH_LAST: [&str; 3] = ["expires_in", "access_token", "refresh_token"];
    const ACCESS_LAST: [&str; 3] = ["expires_in", "refresh_token", "access_token"];
    let names = [
        "length",
        "chunked",
        "reset",
        "access",
        "no-refresh",
        "packed",
    ];
    let hostile = strict(move |name, next| {
        let (last, access) = (form(next, REFRESH_LAST), form(next, ACCESS_LAST));
        let cut = &last[..last.len() - 1];
        let short = |body: &[u8]| {
            let head = format!(
                "HTTP/1.1 200 OK\r\n{CLOSE}Content-Length: {}\r\n\r\n",
                body.len() + 40
            );
            Behaviour::Close([head.as_bytes(), body].concat())
        };
        match name {
            "length" => short(cut.as_bytes()),
            "chunked" => Behaviour::Close(
                format!(
                    "HTTP/1.1 200 OK\r\n{CLOSE}Transfer-Encoding: chunked\r\n\r\n{:x}\r\n{cut}",
                    last.len()
                )
                .into_bytes(),
            ),
            "reset" => {
                Behaviour::Reset(format!("HTTP/1.1 200 OK\r\n{CLOSE}\r\n{cut}").into_bytes())
            }
            "access" => short(&access.as_bytes()[..access.len() - 1]),
            "no-refresh" => short(&last.as_bytes()[..last.find("&refresh").expect("there")]),
            _ => {
                let mut packed = GzEncoder::new(Vec::new(), Compression::default());
                packed
                    .write_all(cut.as_bytes())
                    .expect("as the test made it");
                packed.flush().expect("as the test made it");
                sent(packed.get_ref())
            }
        }
    });
    let rig = rig(&hostile, &names);
    let daemon = rig.start();
    for name in names {
        daemon.wait_for_outcome(name, "needs-authorization");
        assert_eq!(
            daemon.outcomes(name),
            ["in-doubt", "needs-authorization"],
            "{name}"
        );
        assert!(rig.token_json(name).is_none(), "{name}");
        let ran = rig.run(["recover", name]);
        assert!(
            ran.code == Some(65) && ran.stderr.contains("; cannot be read"),
            "{name}: {ran:?}"
        );
        assert_eq!(
            ran.stderr.contains(", cut;"),
            name != "packed",
            "{name}: {ran:?}"
        );
    }
}

#[test]
fn wrapped_rejections_stay_rejections() {
    for (body, outcome) in [
        (
            format!("\u{feff}{}", r#"{"error":"invalid_grant"}"#),
            "needs-authorization",
        ),
        (
            with(&pair("acme", 2), r#""error":"invalid_grant""#),
            "needs-authorization",
        ),
        (
            format!(r#"{{"error":"invalid_grant","data":{}}}"#, pair("acme", 2)),
            "needs-authorization",
        ),
        (
            format!(r#"{{"success":false,"data":{}}}"#, pair("acme", 2)),
            "in-doubt",
        ),
        (
            format!("{}{}", pair("acme", 2), pair("acme", 3)),
            "in-doubt",
        ),
        (format!("Refresh failed.\n{}", pair("acme", 2)), "in-doubt"),
        (
            with(&pair("acme", 2), r#""meta":{"error":"invalid_grant"}"#),
            "in-doubt",
        ),
    ] {
        let text = body.clone();
        let hostile = Hostile::listen("127.0.0.1:0", move |_| sent(&text));
        let rig = rig(&hostile, &["acme"]);
        let daemon = rig.start();
        daemon.wait_for("an outcome", |event| event["outcome"].is_string());
        assert_eq!(daemon.outcomes("acme")[0], outcome, "{body}");
        assert!(rig.token_json("acme").is_none(), "{body}");
    }
}

/// A token that an error page repeats from the request is not used after the rejection.
#[test]
fn pair_echoed_in_a_rejection_is_ignored() {
    for (words, outcome) in [
        (r#""error":"invalid_grant""#, "needs-authorization"),
        (r#""status":"invalid_grant""#, "unknown"),
        (r#""message":"The refresh token is invalid""#, "unknown"),
    ] {
        let hostile = strict(move |_, next| {
            Behaviour::Close(reply("400 Bad Request", CLOSE, &with(next, words)))
        });
        let rig = rig(&hostile, &["acme"]);
        let daemon = rig.start();
        daemon.wait_for_outcome("acme", outcome);
        rig.control("POST", "/v1/portals/acme/renew", "");
        rig.wait_for_phase("acme", "needs-authorization");
        assert_eq!(daemon.outcomes("acme")[0], outcome, "{words}");
        assert!(rig.token_json("acme").is_none(), "{words}");
        assert!(rig.status("acme")["unread_replies"].is_null(), "{words}");
    }
}

#[test]
fn profile_defines_success() {
    let hostile = strict(|_, next| sent(with(next, r#""error":"all is well","code":200"#)));
    let mut rig = rig(&hostile, &["acme"]);
    rig.config
        .app()
        .more
        .push_str("reply = { success = { code = [\"0\", \"200\"] } }\n");
    let daemon = rig.start();
    rig.wait_for_generation("acme", 3);
    assert!(
        daemon
            .outcomes("acme")
            .iter()
            .all(|outcome| outcome == "renewed")
    );
}
