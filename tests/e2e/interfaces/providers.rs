//! Providers other than Bitrix24, according to their documentation: the requests, and the meaning of responses.

use std::fs;

use serde_json::json;

use crate::common::authorizing::Authorizing;
use crate::common::strict::{Request, Strict};
use crate::common::{Rig, SOON, eventually, is_step};
use crate::interfaces::contains;

const REDIRECT: &str = "https://app.example/oauth/callback";

/// A rig with one portal, `news`, with its own client at this provider.
fn rig(lines: &str) -> Rig {
    let mut rig = Rig::new([]);
    rig.secret("news.secret", "n3wsSecretOfTheTests0123456789");
    rig.config.apps.clear();
    rig.config.more = format!("[portals.news]\n{lines}\n");
    rig
}

fn x(server: &Strict, more: &str) -> Rig {
    rig(&format!(
        "provider = 'x'\nclient_id = 'bmV3cw'\ntoken_url = '{0}/2/oauth2/token'\nauthorize_url = '{0}/i/oauth2/authorize'\n\
         redirect_uri = '{REDIRECT}'\nscope = ['tweet.read', 'users.read', 'offline.access']\n{more}",
        server.origin
    ))
}

fn pair(number: u32, life: u32) -> serde_json::Value {
    json!({"token_type": "bearer", "expires_in": life, "access_token": format!("a{number}"), "refresh_token": format!("r{number}"),
           "scope": "tweet.read users.read offline.access"})
}

/// Authorizes by the address that a browser would show, with `more` parameters.
fn authorize(rig: &Rig, more: &str) -> (url::Url, crate::common::CommandOutput) {
    let mut waiting = Authorizing::spawn(rig.command(["authorize", "news"]));
    let address = url::Url::parse(&waiting.url()).expect("an address");
    let state = parameter(&address, "state");
    waiting.paste(&format!("{REDIRECT}?state={state}&code=c0de{more}"));
    let ran = waiting.end();
    (address, ran)
}

fn parameter(address: &url::Url, name: &str) -> String {
    let found = address.query_pairs().find(|(known, _)| known == name);
    found
        .unwrap_or_else(|| panic!("no {name} in {address}"))
        .1
        .into_owned()
}

#[test]
fn x_uses_fresh_pkce_and_client_in_header_and_body() {
    let server = Strict::listen();
    let rig = x(&server, "client_secret_file = 'news.secret'");
    let daemon = rig.start();
    server.respond("/2/oauth2/token", 200, pair(1, 7200));
    let (address, ran) = authorize(&rig, "");
    assert_eq!(ran.code, Some(0), "{ran:?}");
    assert_eq!(parameter(&address, "redirect_uri"), REDIRECT);
    assert_eq!(
        parameter(&address, "scope"),
        "tweet.read users.read offline.access"
    );
    assert_eq!(parameter(&address, "code_challenge_method"), "S256");
    let asked: Vec<Request> = server.asked("/2/oauth2/token");
    let [exchange] = asked.as_slice() else {
        panic!("{asked:?}")
    };
    assert_eq!(
        (exchange.parameter("grant_type"), exchange.parameter("code")),
        ("authorization_code", "c0de")
    );
    assert_eq!(
        (
            exchange.parameter("redirect_uri"),
            exchange.parameter("client_id")
        ),
        (REDIRECT, "bmV3cw")
    );
    assert!(
        exchange.headers["authorization"].starts_with("Basic "),
        "{exchange:?}"
    );
    assert!(
        !exchange.parameters.contains_key("client_secret"),
        "X refuses it there"
    );
    // RFC 7636: the address alone does not suffice to exchange the code.
    let verifier = exchange.parameter("code_verifier");
    assert!((43..=128).contains(&verifier.len()) && !address.as_str().contains(verifier));
    let published = rig.token_json("news").expect("its token file");
    assert_eq!(
        (&published["access_token"], &published["token_type"]),
        (&json!("a1"), &json!("Bearer"))
    );
    assert!(
        published["fields"]
            .as_object()
            .is_some_and(|fields| fields.is_empty()),
        "{published}"
    );
    // Minutes before the two hours are over, and on request at any time after a tenth of them.
    let due = rig.status("news")["next_renewal_in"]
        .as_u64()
        .expect("a time");
    assert!((5600..=6300).contains(&due), "{due}");
    // Another authorization has another verifier.
    server.respond("/2/oauth2/token", 200, pair(2, 7200));
    let (_, ran) = authorize(&rig, "");
    assert_eq!(ran.code, Some(0), "{ran:?}");
    assert_ne!(
        server.asked("/2/oauth2/token")[1].parameter("code_verifier"),
        verifier
    );
    daemon.stop();
}

#[test]
fn public_x_client_needs_more_than_a_bare_code() {
    let server = Strict::listen();
    let rig = x(&server, "client_authentication = 'none'");
    let daemon = rig.start();
    server.respond("/2/oauth2/token", 200, pair(1, 7200));
    let ran = rig.run(["authorize", "news", "--code", "c0de"]);
    assert_eq!(ran.code, Some(65), "{ran:?}");
    contains(
        &ran.stderr,
        &["exchanges a code only for who began the authorization"],
    );
    assert_eq!(server.asked("/2/oauth2/token").len(), 0, "nothing was sent");
    let (_, ran) = authorize(&rig, "");
    assert_eq!(ran.code, Some(0), "{ran:?}");
    let exchange = server.asked("/2/oauth2/token").remove(0);
    assert_eq!(exchange.parameter("client_id"), "bmV3cw");
    assert!(
        !exchange.headers.contains_key("authorization"),
        "{exchange:?}"
    );
    daemon.stop();
}

#[test]
fn x_401_is_an_app_problem() {
    let server = Strict::listen();
    let rig = x(&server, "client_secret_file = 'news.secret'");
    let daemon = rig.start();
    let auth = json!({"client_id": "bmV3cw", "client_secret": "s", "access_token": "a0", "refresh_token": "r0",
                      "redirect_uri": REDIRECT, "scope": "tweet.read", "oauth_token": "o"});
    server.respond(
        "/2/oauth2/token",
        401,
        json!({"error": "unauthorized_client", "error_description": "Missing valid authorization header"}),
    );
    assert_eq!(
        rig.import("news", &auth.to_string().replace('"', "'")).code,
        Some(75)
    );
    let status = rig.wait_for_phase("news", "client-rejected");
    contains(
        status["action"].as_str().expect("a remedy"),
        &["client_id and client_secret"],
    );
    let renewal = server.asked("/2/oauth2/token").remove(0);
    assert_eq!(
        (
            renewal.parameter("grant_type"),
            renewal.parameter("refresh_token")
        ),
        ("refresh_token", "r0")
    );
    assert!(
        !renewal.parameters.contains_key("scope"),
        "never asked for again: {renewal:?}"
    );
    // The grant is kept, and X's response to it counts once the app is accepted.
    server.respond(
        "/2/oauth2/token",
        400,
        json!({"error": "invalid_request", "error_description": "Value passed for the token was invalid."}),
    );
    let ran = rig.run(["renew", "news"]);
    assert_eq!(ran.code, Some(1), "{ran:?}");
    rig.wait_for_phase("news", "needs-authorization");
    daemon.wait_for("an escalation", |event| {
        is_step(event, "person") && event["portal"] == "news"
    });
    // A grant of another client is refused.
    let other = auth.to_string().replace("bmV3cw", "b3RoZXI");
    let ran = rig.import("news", &other);
    assert_eq!(ran.code, Some(65), "{ran:?}");
    contains(
        &ran.stderr,
        &["it belongs to another client than the app's"],
    );
    daemon.stop();
}

#[test]
fn client_credentials_portal_renews_by_itself() {
    let server = Strict::listen();
    server.respond(
        "/token",
        200,
        json!({"access_token": "a1", "expires_in": 3600}),
    );
    let mut rig = rig(&format!(
        "provider = 'own'\nclient_id = 'svc'\nclient_secret_file = 'news.secret'\nscope = ['read', 'write']\n\
         [providers.own]\ntoken_url = '{}/token'\ngrant = 'client-credentials'\nrevoke_url = '{0}/revoke'",
        server.origin
    ));
    let daemon = rig.start();
    eventually("a token", SOON, || {
        rig.token_json("news")
            .is_some_and(|json| json["access_token"] == "a1")
    });
    let request = server.asked("/token").remove(0);
    assert_eq!(
        (request.parameter("grant_type"), request.parameter("scope")),
        ("client_credentials", "read write")
    );
    assert!(!request.parameters.contains_key("refresh_token"));
    let ran = rig.run(["authorize", "news"]);
    assert_eq!(ran.code, Some(78), "{ran:?}");
    contains(&ran.stderr, &["the client's own credentials suffice"]);
    // A lost response is harmless: it is an ordinary failure, and the next one brings another token.
    assert_eq!(rig.status("news")["phase"], "fresh");
    daemon.stop();
    // It survives a restart, and a change of the client needs no authorization either.
    rig.config.more = rig.config.more.replace("'svc'", "'svc2'");
    server.respond(
        "/token",
        200,
        json!({"access_token": "a2", "expires_in": 3600}),
    );
    let daemon = rig.start();
    eventually("another token", SOON, || {
        rig.token_json("news")
            .is_some_and(|json| json["access_token"] == "a2")
    });
    server.respond("/revoke", 200, json!({}));
    let ran = rig.run(["forget", "news", "--yes", "--revoke"]);
    assert_eq!(ran.code, Some(0), "{ran:?}");
    let revoked = server.asked("/revoke").remove(0);
    assert_eq!(
        (
            revoked.parameter("token"),
            revoked.parameter("token_type_hint")
        ),
        ("a2", "access_token")
    );
    daemon.stop();
}

#[test]
fn device_flow_shows_a_code_and_keeps_the_interval() {
    let server = Strict::listen();
    let rig = rig(&format!(
        "provider = 'own'\nclient_id = 'tv'\nclient_authentication = 'none'\nscope = ['read']\n\
         [providers.own]\ntoken_url = '{0}/token'\ndevice_url = '{0}/device'\ngrant = 'device'",
        server.origin
    ));
    let daemon = rig.start();
    server.respond(
        "/device",
        200,
        json!({"device_code": "d1", "user_code": "WDJB-MJHT", "verification_uri": "https://a.example/device", "interval": 1}),
    );
    server.respond("/token", 400, json!({"error": "authorization_pending"}));
    server.respond("/token", 200, pair(1, 3600));
    let ran = Authorizing::spawn(rig.command(["authorize", "news", "--json"])).end();
    assert_eq!(ran.code, Some(0), "{ran:?}");
    contains(
        &ran.stderr,
        &["type the code WDJB-MJHT:\nhttps://a.example/device"],
    );
    let polls = server.asked("/token");
    assert_eq!(polls.len(), 2);
    assert_eq!(polls[0].parameter("device_code"), "d1");
    assert_eq!(
        polls[0].parameter("grant_type"),
        "urn:ietf:params:oauth:grant-type:device_code"
    );
    assert!(!ran.stderr.contains("d1") && !daemon.stderr().contains("d1"));
    assert_eq!(
        rig.token_json("news").expect("its file")["access_token"],
        "a1"
    );
    // A denial ends it.
    let codes = json!({"device_code": "d2", "user_code": "AAAA", "verification_uri": "https://a.example/device", "interval": 1});
    server.respond("/device", 200, codes);
    server.respond("/token", 400, json!({"error": "access_denied"}));
    let ran = Authorizing::spawn(rig.command(["authorize", "news"])).end();
    assert_eq!(ran.code, Some(65), "{ran:?}");
    daemon.stop();
}

#[test]
fn redirect_parameters_are_kept_and_resent() {
    let server = Strict::listen();
    let rig = rig(&format!(
        "provider = 'vk'\nclient_id = '5'\nredirect_uri = '{REDIRECT}'\ntoken_url = '{0}/auth'\nauthorize_url = '{0}/authorize'",
        server.origin
    ));
    let daemon = rig.start();
    server.respond(
        "/auth",
        200,
        json!({"access_token": "a1", "refresh_token": "r1", "expires_in": 3600, "user_id": 77}),
    );
    let (_, ran) = authorize(&rig, "&device_id=dev1ce&type=code_v2");
    assert_eq!(ran.code, Some(0), "{ran:?}");
    let exchange = server.asked("/auth").remove(0);
    assert_eq!(exchange.parameter("device_id"), "dev1ce");
    assert!(exchange.parameter("state").len() >= 32);
    // Its renewal, of a token that is nearly expired.
    server.respond(
        "/auth",
        200,
        json!({"access_token": "a2", "refresh_token": "r2", "expires_in": 1, "user_id": 77}),
    );
    let (_, ran) = authorize(&rig, "&device_id=dev1ce");
    assert_eq!(ran.code, Some(0), "{ran:?}");
    server.respond(
        "/auth",
        200,
        json!({"access_token": "a3", "refresh_token": "r3", "expires_in": 3600, "user_id": 77}),
    );
    eventually("its renewal", SOON, || {
        rig.token_json("news")
            .is_some_and(|json| json["access_token"] == "a3")
    });
    let renewal = server.asked("/auth").pop().expect("a renewal");
    assert_eq!(
        (
            renewal.parameter("refresh_token"),
            renewal.parameter("device_id")
        ),
        ("r2", "dev1ce")
    );
    assert_eq!(
        rig.token_json("news").expect("its file")["fields"]["device_id"],
        "dev1ce"
    );
    // A login of another user is not accepted for this account.
    server.respond(
        "/auth",
        200,
        json!({"access_token": "b1", "refresh_token": "s1", "expires_in": 3600, "user_id": 78}),
    );
    let (_, ran) = authorize(&rig, "&device_id=other");
    assert_eq!(ran.code, Some(65), "{ran:?}");
    contains(
        &ran.stderr,
        &["it is the grant of 78, and news has been 77 until now"],
    );
    daemon.stop();
}

#[test]
fn issuer_metadata_gives_endpoints_of_its_own_host_only() {
    let server = Strict::listen();
    let origin = &server.origin;
    let rig = rig(&format!(
        "provider = 'sso'\nclient_id = 'app'\nclient_secret_file = 'news.secret'\nredirect_uri = '{REDIRECT}'\n\
         [providers.sso]\nissuer = '{origin}'"
    ));
    let metadata = |token: &str| {
        json!({"issuer": origin, "token_endpoint": token, "authorization_endpoint": format!("{origin}/authorize"),
               "introspection_endpoint": format!("{origin}/introspect"), "authorization_response_iss_parameter_supported": true,
               "token_endpoint_auth_methods_supported": ["client_secret_post"]})
    };
    // Metadata that would send the secret to another host is rejected.
    server.respond(
        "/.well-known/openid-configuration",
        200,
        metadata("https://evil.example/token"),
    );
    let daemon = rig.start();
    let ran = rig.run([
        "authorize",
        "news",
        "--redirected-url",
        "https://app.example/?code=c&state=s",
    ]);
    assert_eq!(ran.code, Some(65), "{ran:?}");
    let ran = rig.run(["authorize", "news"]);
    assert_eq!(ran.code, Some(75), "{ran:?}");
    contains(
        &ran.stderr,
        &[
            "the metadata names token_endpoint on evil.example",
            "allowed_hosts = [\"evil.example\"]",
        ],
    );
    daemon.stop();
    server.respond(
        "/.well-known/openid-configuration",
        200,
        metadata(&format!("{origin}/token")),
    );
    let daemon = rig.start();
    server.respond("/token", 200, pair(1, 3600));
    // RFC 9207: the response must name its issuer.
    let mut waiting = Authorizing::spawn(rig.command(["authorize", "news"]));
    let address = url::Url::parse(&waiting.url()).expect("an address");
    assert!(
        address
            .as_str()
            .starts_with(&format!("{origin}/authorize?")),
        "{address}"
    );
    let state = parameter(&address, "state");
    waiting.paste(&format!("{REDIRECT}?code=c0de&state={state}"));
    waiting.wait_for_output("another authorization server answered");
    waiting.paste(&format!("{REDIRECT}?code=c0de&state={state}&iss={origin}"));
    let ran = waiting.end();
    assert_eq!(ran.code, Some(0), "{ran:?}");
    let exchange = server.asked("/token").remove(0);
    assert_eq!(
        exchange.parameter("client_secret"),
        "n3wsSecretOfTheTests0123456789"
    );
    server.respond(
        "/introspect",
        200,
        json!({"active": true, "exp": 1_795_000_000, "scope": "read", "username": "ann"}),
    );
    let ran = rig.run(["introspect", "news"]);
    assert_eq!(ran.code, Some(0), "{ran:?}");
    contains(
        &ran.stderr,
        &["its token works until 2026-11-18T11:06:40Z, scope: read"],
    );
    server.respond("/introspect", 200, json!({"active": false}));
    assert_eq!(rig.run(["introspect", "news"]).code, Some(1));
    daemon.stop();
    // The metadata is kept for a start without the issuer.
    let daemon = rig.start();
    assert_eq!(rig.status("news")["phase"], "fresh");
    assert_eq!(server.asked("/.well-known/openid-configuration").len(), 2);
    assert!(
        !daemon.stderr().contains("is not known"),
        "{}",
        daemon.stderr()
    );
    let ran = rig.run(["forget", "news", "--yes", "--revoke"]);
    assert_eq!(ran.code, Some(78), "it has no revocation endpoint: {ran:?}");
    assert!(
        fs::metadata(rig.token_path("news", "token")).is_ok(),
        "nothing was forgotten"
    );
    daemon.stop();
}

#[test]
fn no_client_data_reaches_another_client_or_server() {
    let (server, other) = (Strict::listen(), Strict::listen());
    let lines = |origin: &str, client: &str| {
        format!(
            "[portals.news]\nprovider = 'own'\nclient_id = '{client}'\nclient_secret_file = 'news.secret'\n[providers.own]\n\
             token_url = '{origin}/token'\nrevoke_url = '{origin}/revoke'\nintrospect_url = '{origin}/introspect'\n"
        )
    };
    let mut rig = rig("");
    rig.config.more = lines(&server.origin, "one");
    server.respond("/token", 200, pair(1, 3600));
    let daemon = rig.start();
    assert_eq!(rig.import("news", "r0").code, Some(0));
    rig.wait_for_generation("news", 2);
    rig.config.more = lines(&other.origin, "two");
    rig.write_config();
    daemon.sighup();
    rig.wait_for_phase("news", "client-changed");
    for path in ["/revoke", "/introspect"] {
        other.respond(path, 200, json!({"active": true}));
    }
    let ran = rig.run(["forget", "news", "--yes", "--revoke"]);
    assert_eq!(ran.code, Some(75), "{ran:?}");
    contains(
        &ran.stderr,
        &["its client or server changed in the configuration"],
    );
    assert_eq!(rig.run(["introspect", "news"]).code, Some(75));
    assert_eq!(
        other.asked("/revoke").len() + other.asked("/introspect").len(),
        0
    );
    // If the revocation fails, the grant is not forgotten, and is renewed as before.
    rig.config.more = lines(&server.origin, "one");
    rig.write_config();
    daemon.sighup();
    rig.wait_for_phase("news", "fresh");
    server.respond("/revoke", 503, json!({}));
    let due = rig.status("news")["next_renewal"].clone();
    let ran = rig.run(["forget", "news", "--yes", "--revoke"]);
    assert_eq!(ran.code, Some(75), "{ran:?}");
    contains(&ran.stderr, &["the server answered with status 503"]);
    let status = rig.status("news");
    assert_eq!(
        (&status["phase"], &status["next_renewal"]),
        (&json!("fresh"), &due)
    );
    server.respond("/revoke", 200, json!({}));
    assert_eq!(
        rig.run(["forget", "news", "--yes", "--revoke"]).code,
        Some(0)
    );
    assert_eq!(
        server
            .asked("/revoke")
            .pop()
            .expect("asked")
            .parameter("token"),
        "r1"
    );
    daemon.stop();
}

#[test]
fn custom_request_and_response_formats_work() {
    let server = Strict::listen();
    let mut rig = rig("");
    rig.config.more = format!(
        "[portals.news]\nprovider = 'own'\nclient_id = 'app'\nclient_secret_file = 'news.secret'\n[providers.own]\n\
         token_url = '{0}/token'\nrefresh_url = '{0}/refresh'\nbody = 'json'\nclient_authentication = 'body'\n\
         parameter_names = {{ client_id = 'client_key', refresh_token = 'rt' }}\nheaders = {{ User-Agent = 'acme/1.0' }}\n\
         renewal_parameters = {{ audience = 'api' }}\nexpires_in_unit = 'ms'\nfields = ['team.id']\n\
         reply = {{ access_token = 'user.token', refresh_token = 'user.refresh', expires_in = 'user.life', error = ['status'] }}\n\
         [[providers.own.errors]]\nerror = 'BAD'\nalso = {{ sub = 'soft' }}\nclass = 'blocked'\nmeaning = 'an administrator must allow it'\n",
        server.origin
    );
    server.respond(
        "/refresh",
        200,
        json!({"user": {"token": "a1", "refresh": "r1", "life": 3_600_000}, "team": {"id": 7}, "status": ""}),
    );
    let daemon = rig.start();
    assert_eq!(rig.import("news", "r0").code, Some(0));
    rig.wait_for_generation("news", 2);
    let request = server.asked("/refresh").remove(0);
    assert_eq!(
        (
            request.method.as_str(),
            request.headers["content-type"].as_str()
        ),
        ("POST", "application/json")
    );
    assert_eq!(request.headers["user-agent"], "acme/1.0");
    let sent: Vec<_> = request.parameters.keys().map(String::as_str).collect();
    assert_eq!(
        sent,
        [
            "audience",
            "client_key",
            "client_secret",
            "grant_type",
            "rt"
        ]
    );
    assert_eq!(request.parameter("rt"), "r0");
    let published = rig.token_json("news").expect("its file");
    assert_eq!(
        (&published["access_token"], &published["fields"]["team.id"]),
        (&json!("a1"), &json!(7))
    );
    let left = rig.status("news")["expires_in"].as_u64().expect("a life");
    assert!((3500..=3600).contains(&left), "{left}");
    // An error in the provider's own format, with a status that carries no information.
    server.respond("/refresh", 200, json!({"status": "BAD", "sub": "soft"}));
    let ran = rig.import("news", "r9");
    assert_eq!(ran.code, Some(75), "{ran:?}");
    contains(
        &ran.stderr,
        &[
            "an administrator must allow it",
            "the grant that news has stays in force",
        ],
    );
    let status = rig.status("news");
    assert_eq!(
        (&status["phase"], &status["candidate"]["phase"]),
        (&json!("fresh"), &json!("blocked")),
        "{status}"
    );
    assert!(server.asked("/token").is_empty());
    daemon.stop();
}

#[test]
fn renewable_only_after_expiry_waits_until_then() {
    let server = Strict::listen();
    let rig = rig(&format!(
        "provider = 'hh'\nclient_id = 'app'\nclient_secret_file = 'news.secret'\ntoken_url = '{}/token'",
        server.origin
    ));
    let daemon = rig.start();
    // The first try, which would verify the grant, is too early, which says nothing about the grant.
    let early = json!({"error": "invalid_grant", "error_description": "token not expired"});
    server.respond("/token", 400, early);
    let grant = json!({"access_token": "a0", "refresh_token": "r0", "expires_in": 1_209_600,
                       "expires": now_secs() + 3});
    assert_eq!(
        rig.import("news", &grant.to_string()).code,
        Some(75),
        "it cannot be proved before"
    );
    daemon.wait_for_outcome("news", "too-early");
    let view = rig.get_json("/v1/portals/news");
    assert!(
        view["incident"].is_null() && view["phase"] == "fresh",
        "{view}"
    );
    assert!(rig.metric("refreshd_renewals_total{provider=\"hh\",result=\"too-early\"}") > 0.0);
    server.respond("/token", 200, pair(1, 1_209_600));
    // Once it has expired, at once: not after a tenth of its two weeks.
    rig.wait_for_generation("news", 2);
    let renewal = server.asked("/token").remove(0);
    assert_eq!(renewal.parameter("refresh_token"), "r0");
    assert!(
        !renewal.parameters.contains_key("client_secret"),
        "{renewal:?}"
    );
    daemon.stop();
}

fn now_secs() -> i64 {
    crate::common::now_millis() / 1000
}

#[test]
fn percent_encoded_code_is_decoded() {
    let server = Strict::listen();
    let rig = rig(&format!(
        "provider = 'own'\nclient_id = 'n'\nclient_secret_file = 'news.secret'\n[providers.own]\ntoken_url = '{0}/token'\n\
         authorize_url = '{0}/authorize'\npkce = 'none'",
        server.origin
    ));
    let daemon = rig.start();
    for (count, code) in (1..).zip([
        "4%2F0Axyz",
        "4/0Axyz",
        "4%252F0Axyz",
        "\"4%2F0Axyz\"",
        "code=4%2F0Axyz",
        " 4%2F0A\n xyz",
    ]) {
        server.respond("/token", 200, pair(count, 3600));
        let ran = rig.run(["authorize", "news", "--code", code]);
        assert_eq!(ran.code, Some(0), "{code:?}: {ran:?}");
        assert_eq!(
            server
                .asked("/token")
                .pop()
                .expect("asked")
                .parameter("code"),
            "4/0Axyz",
            "{code:?}"
        );
    }
    daemon.stop();
}

#[test]
fn device_flow_survives_proxy_pages_and_ends_on_errors() {
    let server = Strict::listen();
    let rig = rig(&format!(
        "provider = 'own'\nclient_id = 'tv'\nclient_secret_file = 'news.secret'\n\
         [providers.own]\ntoken_url = '{0}/token'\ndevice_url = '{0}/device'\ngrant = 'device'",
        server.origin
    ));
    let daemon = rig.start();
    let codes = json!({"device_code": "d1", "user_code": "WDJB-MJHT", "verification_uri": "https://a.example/device", "interval": 1});
    server.respond("/device", 200, codes.clone());
    server.respond("/token", 403, json!("<html>Attention required</html>"));
    server.respond("/token", 403, json!({"error": "forbidden_by_the_proxy"}));
    server.respond("/token", 200, pair(1, 3600));
    let ran = rig.run(["authorize", "news"]);
    assert_eq!(ran.code, Some(0), "{ran:?}");
    assert_eq!(server.asked("/token").len(), 3);
    for error in ["access_denied", "expired_token"] {
        server.respond("/device", 200, codes.clone());
        server.respond("/token", 400, json!({"error": error}));
        let ran = rig.run(["authorize", "news"]);
        assert_eq!(ran.code, Some(65), "{ran:?}");
        contains(&ran.stderr, &[error, "begin again"]);
    }
    daemon.stop();
}

#[test]
fn microsoft_renewals_send_the_scope() {
    let server = Strict::listen();
    let rig = rig(&format!(
        "provider = 'microsoft'\nclient_id = 'm'\nclient_secret_file = 'news.secret'\ntoken_url = '{}/token'\n\
         scope = ['api://ID/read']",
        server.origin
    ));
    server.respond("/token", 200, pair(1, 3600));
    let daemon = rig.start();
    assert_eq!(
        rig.import("news", "0.AXoAr3fr3shT0kenOfMicrosoft").code,
        Some(0)
    );
    rig.wait_for_generation("news", 2);
    assert_eq!(
        server.asked("/token").remove(0).parameter("scope"),
        "api://ID/read"
    );
    daemon.stop();
}

#[test]
fn openid_nonce_is_verified() {
    let server = Strict::listen();
    let rig = rig(&format!(
        "provider = 'own'\nclient_id = 'n'\nclient_secret_file = 'news.secret'\nscope = ['openid', 'offline_access']\n\
         redirect_uri = '{REDIRECT}'\n[providers.own]\ntoken_url = '{0}/token'\nauthorize_url = '{0}/authorize'",
        server.origin
    ));
    let daemon = rig.start();
    let with_token = |nonce: &str| {
        use base64::Engine as _;
        let claims = json!({"sub": "1", "nonce": nonce}).to_string();
        let claims = base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(claims);
        let mut pair = pair(1, 3600);
        pair["id_token"] = format!("e30.{claims}.c2ln").into();
        pair
    };
    let mut nonces = Vec::new();
    for own in [false, true] {
        let mut waiting = Authorizing::spawn(rig.command(["authorize", "news"]));
        let address = url::Url::parse(&waiting.url()).expect("an address");
        let (state, nonce) = (parameter(&address, "state"), parameter(&address, "nonce"));
        server.respond(
            "/token",
            200,
            with_token(if own { &nonce } else { "of another user" }),
        );
        waiting.paste(&format!("{REDIRECT}?state={state}&code=c0de"));
        let ran = waiting.end();
        assert_eq!(ran.code, Some(if own { 0 } else { 65 }), "{ran:?}");
        if !own {
            contains(&ran.stderr, &["nonce"]);
            assert!(rig.token_json("news").is_none());
        }
        assert!(nonce.len() >= 22 && !nonces.contains(&nonce), "{nonce}");
        nonces.push(nonce);
    }
    daemon.stop();
}
