//! `refreshd authorize`: every way to obtain a code, and every refusal.

use std::time::Duration;

use refreshd_fake_server::{Fault, Rules};
use serde_json::Value;

use crate::common::authorizing::{Authorizing, free_address};
use crate::common::{
    CLIENT_ID, CLIENT_SECRET, CommandOutput, Rig, SOON, domain, eventually, is_step,
    message_contains,
};
use crate::interfaces::{calm, contains};

/// The redirect of apps whose own page the browser shows, without a way back to this machine.
const REMOTE_PAGE: &str = "https://app.example/installed.html";

/// A calm rig that authorizes at the fake server, whose redirect is `redirect`.
fn rig<const N: usize>(portals: [&str; N], redirect: &str) -> Rig {
    let mut rig = calm(portals);
    rig.authorizes_here();
    rig.server.set_redirect(CLIENT_ID, redirect);
    for portal in portals {
        rig.config
            .portal(portal)
            .more
            .push_str(&format!("redirect_uri = \"{redirect}\"\n"));
    }
    rig
}

/// Such a rig for acme, whose redirect is a free address of this machine; and that address.
fn at_loopback() -> (Rig, String) {
    let address = free_address();
    let redirect = format!("http://{address}/oauth/callback");
    (rig(["acme"], &redirect), address)
}

fn authorize<'a>(rig: &Rig, arguments: impl IntoIterator<Item = &'a str>) -> Authorizing {
    Authorizing::spawn(rig.command(["authorize"].into_iter().chain(arguments)))
}

/// Asserts that no secret is in the output, except for the address to open.
fn is_silent(rig: &Rig, portal: &str, text: &str) {
    let token = rig
        .token_json(portal)
        .map(|json| json["access_token"].as_str().expect("a token").to_owned());
    let refresh = rig.server.current_refresh(&domain(portal));
    for secret in token
        .iter()
        .chain(&refresh)
        .map(String::as_str)
        .chain([CLIENT_SECRET])
    {
        assert!(!text.contains(secret), "a secret is in {text}");
    }
}

#[test]
fn browser_returns_to_this_machine_and_the_portal_renews() {
    let (rig, address) = at_loopback();
    let daemon = rig.start();
    let waiting = authorize(&rig, ["acme", "--json"]);
    let url = waiting.url();
    contains(
        &url,
        &[
            "client_id=local.55d32b338a90f0.23817",
            "domain=acme.bitrix24.com",
            "&state=",
        ],
    );
    for unknown_there in ["redirect_uri", "scope", "response_type", "code_challenge"] {
        assert!(!url.contains(unknown_there), "{unknown_there} is in {url}");
    }
    // A foreign redirect is rejected, and the command goes on waiting. Many of them do not scroll the address off the screen.
    for _ in 0..12 {
        let (status, page, _) = rig.browse(&format!(
            "http://{address}/oauth/callback?code=c0de0fAStranger&state=guessed"
        ));
        assert_eq!(status, 400);
        contains(
            &page,
            &[
                "That did not work",
                "does not belong to an authorization of this portal",
            ],
        );
    }
    waiting.wait_for_output("further ones are not shown");
    assert_eq!(waiting.output().matches("redirect was rejected").count(), 3);
    assert_eq!(rig.browse(&format!("http://{address}/favicon.ico")).0, 404);
    let (status, page, at) = rig.browse(&url);
    assert_eq!(status, 200, "{page}");
    contains(
        &page,
        &["Done.", "acme is authorized and kept fresh from now on"],
    );
    let ran = waiting.end();
    assert_eq!(ran.code, Some(0), "{ran:?}");
    // The output of `oint bitrix24 GetToken` without the refresh token.
    let authorized: Value = serde_json::from_str(&ran.stdout).expect("JSON");
    let reply = &authorized["reply"];
    for field in [
        "access_token",
        "expires",
        "expires_in",
        "scope",
        "domain",
        "server_endpoint",
        "status",
        "client_endpoint",
    ] {
        assert!(!reply[field].is_null(), "{field} is not in {reply}");
    }
    assert!(
        !reply["member_id"].is_null() && !reply["user_id"].is_null(),
        "{reply}"
    );
    assert!(reply["refresh_token"].is_null(), "{reply}");
    let published = rig.token_json("acme").expect("its token file");
    assert_eq!(published["access_token"], reply["access_token"]);
    assert_eq!(
        (&authorized["generation"], &published["generation"]),
        (&1.into(), &1.into())
    );
    let status = rig.wait_for_phase("acme", "fresh");
    assert!(
        status["next_renewal_in"].as_u64().unwrap() > 1000,
        "a token of a moment ago is not renewed: {status}"
    );
    assert!(rig.has_working_token("acme"));
    is_silent(&rig, "acme", &ran.stderr);
    let code = at
        .unwrap()
        .split("code=")
        .nth(1)
        .unwrap()
        .split('&')
        .next()
        .unwrap()
        .to_owned();
    assert!(!daemon.stderr().contains(&code), "the log has the code");
    is_silent(&rig, "acme", &daemon.stderr());
    daemon.wait_for("its authorization", |event| {
        message_contains(event, "acme: authorized")
    });
    assert_eq!(rig.run(["renew", "acme"]).code, Some(0));
    daemon.stop();
    rig.no_violations();
}

#[test]
fn redirect_works_behind_a_proxy() {
    let rig = rig(["acme"], REMOTE_PAGE);
    let daemon = rig.start();
    let address = free_address();
    let waiting = authorize(&rig, ["acme", "--listen", &address]);
    // The proxy rewrites the address that the browser is redirected to.
    let sent_on = rig
        .redirect_of(&waiting.url())
        .replace("https://app.example", &format!("http://{address}"));
    let (status, page, _) = rig.browse(&sent_on);
    assert_eq!(status, 200, "{page}");
    let ran = waiting.end();
    assert_eq!(ran.code, Some(0), "{ran:?}");
    assert!(rig.has_working_token("acme"));
    daemon.stop();
    rig.no_violations();
}

#[test]
fn redirect_to_another_host_is_pasted() {
    let rig = rig(["acme", "globex"], REMOTE_PAGE);
    let daemon = rig.start();
    let mut waiting = authorize(&rig, ["acme"]);
    let url = waiting.url();
    assert!(
        !waiting.output().contains("Waiting for the browser"),
        "{}",
        waiting.output()
    );
    // Another portal's authorization, begun here too.
    let other = authorize(&rig, ["globex"]);
    waiting.paste(&rig.redirect_of(&other.url()));
    waiting.wait_for_output("does not belong to an authorization of this portal");
    waiting.paste("https://app.example/installed.html");
    waiting.wait_for_output("the address has no `code` in it");
    waiting.paste("");
    waiting.paste(&rig.redirect_of(&url));
    let ran = waiting.end();
    assert_eq!((ran.code, ran.stdout.as_str()), (Some(0), ""), "{ran:?}");
    contains(
        &ran.stderr,
        &["acme: authorized at https://acme.bitrix24.com/rest/ (generation 1), valid until "],
    );
    is_silent(&rig, "acme", &ran.stderr);
    assert!(rig.has_working_token("acme"));
    assert_eq!(rig.generation("globex"), 0);
    daemon.stop();
    rig.no_violations();
}

#[test]
fn code_argument_works_with_and_without_a_daemon() {
    let rig = rig(["acme", "globex"], REMOTE_PAGE);
    let daemon = rig.start();
    let code = rig.server.authorize(&domain("acme"), CLIENT_ID);
    // Codes of some servers are Base64 for URLs, whose first character may be a hyphen.
    let unknown = rig.run(["authorize", "acme", "--code", "-rVxPq0dZk3"]);
    assert_eq!(unknown.code, Some(65), "{unknown:?}");
    let ran = rig.run(["authorize", "acme", "--code", &code]);
    assert_eq!(ran.code, Some(0), "{ran:?}");
    assert!(rig.has_working_token("acme"));
    // A code works once.
    let ran = rig.run(["authorize", "acme", "--code", &code]);
    assert_eq!(ran.code, Some(65));
    contains(
        &ran.stderr,
        &[
            "refreshd: acme: not authorized: ",
            "A code works once",
            "30 seconds",
        ],
    );
    // Whatever error code the server uses, the refused value was no refresh token.
    let description = "the code is spent".to_owned();
    rig.fail(
        "acme",
        Fault::Refuse {
            status: 400,
            error: "invalid_grant".into(),
            description,
        },
        1,
    );
    let ran = rig.run([
        "authorize",
        "acme",
        "--code",
        &rig.server.authorize(&domain("acme"), CLIENT_ID),
    ]);
    contains(
        &ran.stderr,
        &[
            "the code is not valid: it was used already",
            "the server says: the code is spent",
        ],
    );
    assert!(!ran.stderr.contains("refresh token"), "{ran:?}");
    assert!(rig.has_working_token("acme"), "the published token stays");
    daemon.stop();
    let code = rig.server.authorize(&domain("globex"), CLIENT_ID);
    let ran = rig.run(["authorize", "globex", "--code", &code]);
    assert_eq!(ran.code, Some(0), "{ran:?}");
    contains(
        &ran.stderr,
        &[
            "no daemon runs; the grant is in the state",
            "globex: authorized",
        ],
    );
    assert!(rig.has_working_token("globex"));
    let daemon = rig.start();
    rig.wait_for_phase("globex", "fresh");
    daemon.stop();
    rig.no_violations();
}

#[test]
fn expired_code_is_explained_without_loss() {
    let rules = Rules {
        code_lifetime: Duration::ZERO,
        ..Rules::default()
    };
    let mut rig = Rig::with_rules(["acme"], rules);
    rig.authorizes_here();
    let daemon = rig.start();
    let code = rig.server.authorize(&domain("acme"), CLIENT_ID);
    let ran = rig.run(["authorize", "acme", "--code", &code]);
    assert_eq!(ran.code, Some(65));
    contains(
        &ran.stderr,
        &[
            "acme: not authorized: ",
            "for as little as 30 seconds; begin again",
        ],
    );
    assert_eq!(ran.stderr.lines().count(), 1, "{}", ran.stderr);
    assert!(!ran.stderr.contains(&code) && !daemon.stderr().contains(&code));
    assert_eq!(rig.status("acme")["phase"], "awaiting-authorization");
    daemon.stop();
}

#[test]
fn permanent_refusal_names_what_to_correct() {
    let mut rig = Rig::with_rules(["acme"], Rules::default());
    rig.authorizes_here();
    let daemon = rig.start();
    for (error, correct) in [
        ("invalid_client", "correct client_id and client_secret"),
        ("redirect_uri_mismatch", "redirect_uri in the configuration"),
    ] {
        let refuse = Fault::Refuse {
            status: 400,
            error: error.to_owned(),
            description: String::new(),
        };
        rig.fail("acme", refuse, u32::MAX);
        let code = rig.server.authorize(&domain("acme"), CLIENT_ID);
        let ran = rig.run(["authorize", "acme", "--code", &code]);
        assert_eq!(ran.code, Some(65), "{ran:?}");
        contains(&ran.stderr, &[error, correct]);
        assert!(!ran.stderr.contains("begin again"), "{ran:?}");
        rig.heal("acme");
    }
    daemon.stop();
}

#[test]
fn dead_portal_resumes_and_its_incident_ends() {
    let mut rig = rig(["acme"], REMOTE_PAGE);
    rig.grant("acme");
    let daemon = rig.start();
    rig.wait_for_generation("acme", 2);
    let refuse = |error: &str| Fault::Refuse {
        status: 400,
        error: error.into(),
        description: String::new(),
    };
    rig.fail("acme", refuse("invalid_grant"), 1);
    // It was renewed just before, so only another grant allows an immediate request.
    assert_eq!(rig.run(["forget", "acme", "--yes"]).code, Some(0));
    assert_eq!(rig.import("acme", &rig.install("acme")).code, Some(65));
    let status = rig.wait_for_phase("acme", "needs-authorization");
    daemon.wait_for("an escalation", |event| is_step(event, "person"));
    let code = rig.server.authorize(&domain("acme"), CLIENT_ID);
    let ran = rig.run(["authorize", "acme", "--code", &code]);
    assert_eq!(ran.code, Some(0), "{ran:?}");
    daemon.wait_for("that it is over", |event| {
        is_step(event, "resolved") && event["portal"] == "acme"
    });
    let after = rig.wait_for_phase("acme", "fresh");
    assert!(after["incident"].is_null(), "{after}");
    assert_eq!(
        after["generation"].as_u64().unwrap(),
        status["generation"].as_u64().unwrap() + 1
    );
    assert!(rig.has_working_token("acme"));
    eventually("nothing is open", SOON, || {
        rig.run(["alert", "list"]).code == Some(0)
    });
    daemon.stop();
    rig.no_violations();
}

#[test]
fn grant_of_another_portal_is_refused() {
    let rig = rig(["acme", "globex"], REMOTE_PAGE);
    let daemon = rig.start();
    assert_eq!(rig.import("acme", &rig.install("acme")).code, Some(0));
    rig.wait_for_generation("acme", 2);
    let code = rig.server.authorize(&domain("globex"), CLIENT_ID);
    let ran = rig.run(["authorize", "acme", "--code", &code]);
    assert_eq!(ran.code, Some(65), "{ran:?}");
    contains(
        &ran.stderr,
        &[
            "acme: not accepted: it is the grant of ",
            "its new pair is put aside",
            "refreshd import THAT-PORTAL --aside-of acme",
        ],
    );
    assert!(rig.has_working_token("acme"), "the published token stays");
    daemon.stop();
}

#[test]
fn lost_response_or_outage_is_reported_without_retry() {
    let rig = rig(["acme"], REMOTE_PAGE);
    let daemon = rig.start();
    let code = rig.server.authorize(&domain("acme"), CLIENT_ID);
    rig.fail("acme", Fault::Lost, 1);
    let requests = rig.requests("acme");
    let ran = rig.run(["authorize", "acme", "--code", &code]);
    assert_eq!(ran.code, Some(75), "{ran:?}");
    contains(
        &ran.stderr,
        &[
            "broke the connection",
            "The code may be spent; authorize again",
        ],
    );
    assert_eq!(rig.requests("acme"), requests + 1, "a code is sent once");
    daemon.stop();
}

#[test]
fn waiting_for_the_browser_times_out() {
    let mut rig = rig(["acme"], REMOTE_PAGE);
    let daemon = rig.start();
    let ran = authorize(&rig, ["acme", "--timeout", "300ms"]).end();
    assert_eq!(ran.code, Some(75), "{ran:?}");
    contains(
        &ran.stderr,
        &[
            "no answer within 300ms",
            "show a failure in the browser and send it nowhere",
        ],
    );
    // Socket users cannot redirect a browser to another host.
    for elsewhere in [
        "https://evil.example/",
        "http://evil.example/",
        "http://127.0.0.1@evil.example/",
    ] {
        let body = format!("{{\"redirect_uri\": \"{elsewhere}\"}}");
        let (status, body) = rig.control("POST", "/v1/portals/acme/authorization", &body);
        assert_eq!(status, 400, "{elsewhere}: {body}");
    }
    // Without a terminal nothing can be pasted, and the browser is redirected to another host.
    let ran = rig.run(["authorize", "acme"]);
    assert_eq!(ran.code, Some(64), "{ran:?}");
    contains(
        &ran.stderr,
        &["hand the address over with --redirected-url"],
    );
    let ran = rig.run(["authorize", "acne"]);
    assert_eq!(ran.code, Some(66), "{ran:?}");
    contains(
        &ran.stderr,
        &["no portal is named acne; did you mean acme?"],
    );
    daemon.stop();
    rig.config.app().more = String::new();
    let no_page = "[portals.nowhere]\napp = \"crm\"\n";
    rig.config.more = no_page.to_owned();
    let daemon = rig.start();
    let ran: CommandOutput = rig.run(["authorize", "nowhere"]);
    assert_eq!(ran.code, Some(78), "{ran:?}");
    contains(
        &ran.stderr,
        &["nowhere is not authorized in a browser: its `domain` is not in the configuration"],
    );
    daemon.stop();
}

#[test]
fn repeated_redirects_are_answered_and_the_command_ends() {
    let (rig, _) = at_loopback();
    let daemon = rig.start();
    let waiting = authorize(&rig, ["acme"]);
    let sent_to = rig.redirect_of(&waiting.url());
    rig.fail(
        "acme",
        Fault::Slow {
            by: Duration::from_secs(2),
        },
        1,
    );
    std::thread::scope(|scope| {
        let tabs: Vec<_> = (0..5)
            .map(|_| scope.spawn(|| rig.browse(&sent_to)))
            .collect();
        for tab in tabs {
            let (status, page, _) = tab.join().expect("a browser");
            assert_eq!(status, 200, "{page}");
            contains(&page, &["acme is authorized and kept fresh from now on"]);
        }
    });
    let ran = waiting.end();
    assert_eq!(ran.code, Some(0), "{ran:?}");
    assert_eq!(rig.requests("acme"), 1, "the code was sent once");
    daemon.stop();
    rig.no_violations();
}

#[test]
fn head_and_prefetch_do_not_spend_the_code() {
    let (rig, _) = at_loopback();
    let daemon = rig.start();
    let waiting = authorize(&rig, ["acme"]);
    let sent_to = rig.redirect_of(&waiting.url());
    let client = reqwest::Client::builder()
        .no_proxy()
        .timeout(SOON)
        .build()
        .unwrap();
    for (method, header) in [
        ("HEAD", None),
        ("OPTIONS", None),
        ("POST", None),
        ("GET", Some("prefetch;prerender")),
    ] {
        let request = client.request(method.parse().unwrap(), &sent_to);
        let request = header
            .into_iter()
            .fold(request, |it, value| it.header("sec-purpose", value));
        let reply = rig
            .runtime
            .block_on(async { request.send().await })
            .unwrap();
        assert!(reply.status() != 400, "{method}: {reply:?}");
    }
    assert_eq!(rig.requests("acme"), 0);
    assert_eq!(rig.browse(&sent_to).0, 200);
    assert_eq!(waiting.end().code, Some(0));
    daemon.stop();
    rig.no_violations();
}

#[test]
fn localhost_listens_on_both_loopbacks() {
    let port = free_address().rsplit(':').next().unwrap().to_owned();
    let redirect = format!("http://localhost:{port}/cb");
    let rig = rig(["acme"], &redirect);
    let daemon = rig.start();
    let has_v6 = std::net::TcpListener::bind("[::1]:0").is_ok();
    for host in ["127.0.0.1", "[::1]"] {
        if host == "[::1]" && !has_v6 {
            continue;
        }
        let waiting = authorize(&rig, ["acme"]);
        let sent_to = rig.redirect_of(&waiting.url()).replace("localhost", host);
        let (status, page, _) = rig.browse(&sent_to);
        assert_eq!(status, 200, "{host}: {page}");
        assert_eq!(waiting.end().code, Some(0), "{host}");
    }
    daemon.stop();
    rig.no_violations();
}

#[test]
fn redirect_port_in_use_is_refused() {
    let port = free_address().rsplit(':').next().unwrap().to_owned();
    let redirect = format!("http://localhost:{port}/cb");
    let rig = rig(["acme"], &redirect);
    let daemon = rig.start();
    for squatted in ["127.0.0.1", "[::1]"] {
        let Ok(_squatter) = std::net::TcpListener::bind(format!("{squatted}:{port}")) else {
            assert_eq!(squatted, "[::1]", "a machine without IPv6");
            continue;
        };
        let ran = rig.run(["authorize", "acme"]);
        assert_eq!(ran.code, Some(75), "{ran:?}");
        contains(
            &ran.stderr,
            &[
                &format!("another program listens on {squatted}:{port}"),
                "--listen",
            ],
        );
        assert!(!ran.stderr.contains("Open this address"), "{ran:?}");
    }
    let waiting = authorize(&rig, ["acme"]);
    let to = rig
        .redirect_of(&waiting.url())
        .replace("localhost", "127.0.0.1");
    assert_eq!(rig.browse(&to).0, 200);
    assert_eq!(waiting.end().code, Some(0));
    daemon.stop();
    rig.no_violations();
}

#[test]
fn pasted_address_is_accepted_in_every_form() {
    let rig = rig(["acme"], REMOTE_PAGE);
    let daemon = rig.start();
    let escaped = |address: &str| address.replace('&', "&amp;");
    let wrapped = |address: &str| {
        let (one, two) = address.split_at(address.len() / 2);
        format!("{one}\n    {two}\n")
    };
    let quoted = |address: &str| format!("\u{feff} \"{address}\" ");
    let in_words = |address: &str| format!("The browser went to <{address}>, and that was it.");
    let query_alone = |address: &str| address.split_once('?').unwrap().1.to_owned();
    let in_a_fragment = |address: &str| address.replace('?', "#");
    let encoded = |address: &str| {
        url::form_urlencoded::byte_serialize(address.as_bytes()).collect::<String>()
    };
    let copies: [&dyn Fn(&str) -> String; 7] = [
        &escaped,
        &wrapped,
        &quoted,
        &in_words,
        &query_alone,
        &in_a_fragment,
        &encoded,
    ];
    for copy in copies {
        let waiting = authorize(&rig, ["acme"]);
        let copied = copy(&rig.redirect_of(&waiting.url()));
        let ran = rig.run(["authorize", "acme", "--redirected-url", &copied]);
        assert_eq!(ran.code, Some(0), "{copied:?}: {ran:?}");
        drop(waiting);
    }
    // Pasted: several lines at once, or the rest of a line that was too long later.
    let mut waiting = authorize(&rig, ["acme"]);
    let address = wrapped(&rig.redirect_of(&waiting.url()));
    waiting.paste(&address);
    assert_eq!(waiting.end().code, Some(0));
    let mut waiting = authorize(&rig, ["acme"]);
    let address = rig.redirect_of(&waiting.url());
    let (one, two) = address.split_at(address.find("code=").unwrap() + 12);
    assert!(!one.contains("state="), "{one}");
    waiting.paste(one);
    waiting.wait_for_output("does not belong to an authorization of this portal");
    waiting.paste(two);
    assert_eq!(waiting.end().code, Some(0));
    daemon.stop();
    rig.no_violations();
}
