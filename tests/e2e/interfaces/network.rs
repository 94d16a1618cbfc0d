//! Proxies and private certificate authorities: `[network]`, and the same keys of apps and channels.
//!
//! Only the proxies know the name `auth.test`: a request that reaches it was sent through one.

use std::net::SocketAddr;
use std::process::{Command, Stdio};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use crate::common::mailserver::MailServer;
use crate::common::proxies::{
    Behaviour, LOGIN, PASSWORD_IN_URL, ProxyServer, TlsServer, authority,
};
use crate::common::receivers::Receivers;
use crate::common::{CommandOutput, Rig, SOON, eventually, message_contains};
use crate::interfaces::{calm, contains};

/// A rig whose authorization server is `https://auth.test`; its portal `acme` has a first token.
fn behind() -> (Rig, TlsServer) {
    let mut rig = calm(["acme"]);
    let server = TlsServer::before(&rig, plain(&rig));
    rig.config.app().token_url = "https://auth.test/oauth/token/".to_owned();
    rig.grant("acme");
    (rig, server)
}

/// Address of the fake server.
fn plain(rig: &Rig) -> SocketAddr {
    let url = &rig.config.apps[0].token_url;
    let address = url.split('/').nth(2).and_then(|host| host.parse().ok());
    address.expect("an address")
}

/// `[network]` with the private authority.
fn network(keys: &str) -> String {
    format!("[network]\nca_file = {:?}\n{keys}\n", authority())
}

fn renew(rig: &Rig) -> CommandOutput {
    rig.write_config();
    rig.run(["renew", "acme"])
}

#[track_caller]
fn renewed(rig: &Rig) {
    let before = rig.renewals("acme");
    let ran = renew(rig);
    assert_eq!(ran.code, Some(0), "{ran:?}");
    assert_eq!(rig.renewals("acme"), before + 1, "{ran:?}");
}

/// Asserts that a renewal is not sent, with this reason.
#[track_caller]
fn not_sent(rig: &Rig, why: &[&str]) {
    let (before, ran) = (rig.requests("acme"), renew(rig));
    assert_eq!(ran.code, Some(1), "{ran:?}");
    contains(&ran.stderr, &["acme: not renewed (not-sent): "]);
    contains(&ran.stderr, why);
    assert_eq!(rig.requests("acme"), before);
    assert!(!ran.stderr.contains("secret"), "{ran:?}");
}

fn contain_no_password(texts: &[&str]) {
    let sent = Engine::encode(&STANDARD, format!("{}:{}", LOGIN.0, LOGIN.1));
    for text in texts {
        for part in [
            LOGIN.1,
            PASSWORD_IN_URL,
            "Of:The",
            "%40Of",
            &sent,
            &sent[..16],
        ] {
            assert!(!text.contains(part), "{part} in\n{text}");
        }
    }
}

#[test]
fn daemon_renews_through_a_proxy_and_hides_its_password() {
    let (mut rig, server) = behind();
    let proxy = ProxyServer::http(&rig, server.address);
    proxy.set_behaviour(Behaviour::RequireLogin);
    let url = format!("http://{}:{PASSWORD_IN_URL}@{}", LOGIN.0, proxy.address);
    rig.secret("proxy.url", &url);
    rig.config.level = "trace";
    rig.config.more = network("proxy_file = \"proxy.url\"\nuser_agent = \"acme-tokens/7\"");
    let daemon = rig.start_renewed();
    eventually("the raw token", SOON, || rig.has_working_token("acme"));
    let asked = proxy.asked();
    assert!(
        asked
            .iter()
            .all(|head| head.starts_with("CONNECT auth.test:443 HTTP/1.1\r\n")),
        "{asked:?}"
    );
    let heads = server.heads();
    contains(
        &heads[0].to_lowercase(),
        &[
            "\r\nhost: auth.test\r\n",
            "\r\nuser-agent: acme-tokens/7\r\n",
        ],
    );
    assert!(!heads[0].to_lowercase().contains("proxy-"), "{}", heads[0]);
    let online = rig.run(["check", "--online"]);
    let answers = format!(
        "https://auth.test/oauth/token/: answers through the proxy {} (status ",
        proxy.address
    );
    contains(&online.stderr, &[&answers]);
    assert_eq!(online.code, Some(0), "{online:?}");
    contains(
        &server.heads().last().expect("one").to_lowercase(),
        &["head /", "\r\nuser-agent: acme-tokens/7\r\n"],
    );
    let status = rig.run(["status", "--json"]);
    contain_no_password(&[&daemon.stderr(), &online.stderr, &status.stdout]);
    daemon.stop();
    rig.no_violations();
}

#[test]
fn socks_proxy_resolves_names() {
    let (mut rig, server) = behind();
    let proxy = ProxyServer::socks(&rig, server.address);
    rig.config.more = network(&format!("proxy = \"socks5h://{}\"", proxy.address));
    renewed(&rig);
    assert_eq!(proxy.asked(), ["auth.test:443"]);
    let online = rig.run(["check", "--online"]);
    assert_eq!(online.code, Some(0), "{online:?}");
    assert_eq!(proxy.asked(), ["auth.test:443", "auth.test:443"]);

    let (mut rig, server) = behind();
    let proxy = ProxyServer::socks(&rig, server.address);
    proxy.set_behaviour(Behaviour::RequireLogin);
    let way = format!(
        "cannot connect to auth.test through the proxy {}: the proxy does not connect: ",
        proxy.address
    );
    rig.config.more = network(&format!("proxy = \"socks5h://{}\"", proxy.address));
    not_sent(&rig, &[&way]);
    let url = format!("socks5h://{}:{PASSWORD_IN_URL}@{}", LOGIN.0, proxy.address);
    rig.config.more = network(&format!("proxy = \"{url}\""));
    renewed(&rig);
    rig.no_violations();
}

#[test]
fn failure_of_the_proxy_is_not_sent_and_names_it() {
    let (mut rig, server) = behind();
    let proxy = ProxyServer::http(&rig, server.address);
    let url = format!("http://{}:{PASSWORD_IN_URL}@{}", LOGIN.0, proxy.address);
    rig.config.more = network(&format!("proxy = \"{url}\""));
    let way = format!(
        "cannot connect to auth.test through the proxy {}: ",
        proxy.address
    );
    for (status, why) in [
        (
            407,
            "the proxy requires a user and a password, or rejects the configured ones (status 407)",
        ),
        (403, "the proxy refuses to connect (status 403)"),
        (502, "the proxy refuses to connect (status 502)"),
    ] {
        proxy.set_behaviour(Behaviour::Refuse(status));
        not_sent(&rig, &[&way, why]);
        let online = rig.run(["check", "--online"]);
        assert_eq!(online.code, Some(69), "{online:?}");
        contains(
            &online.stderr,
            &[&format!(
                "does not answer through the proxy {}: {}",
                proxy.address,
                // The other client does not know the status.
                why.split(" (").next().unwrap_or_default()
            )],
        );
        contain_no_password(&[&online.stderr]);
    }
    proxy.set_behaviour(Behaviour::RequireLogin);
    renewed(&rig);
    // Nobody listens there any more.
    let gone = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = gone.local_addr().expect("its address");
    drop(gone);
    for scheme in ["http", "socks5h"] {
        rig.config.more = network(&format!("proxy = \"{scheme}://{address}\""));
        let way =
            format!("through the proxy {address}: the proxy cannot be reached: Connection refused");
        // A moment after a renewal nothing is sent.
        rig.grant("acme");
        rig.write_config();
        let ran = rig.run(["check", "--online"]);
        contains(
            &ran.stderr,
            &[&format!("does not answer through the proxy {address}: ")],
        );
        let mut fresh = calm(["acme"]);
        fresh.grant("acme");
        fresh.config.app().token_url = "https://auth.test/oauth/token/".to_owned();
        fresh.config.more.clone_from(&rig.config.more);
        not_sent(&fresh, &[&way]);
    }
    rig.no_violations();
}

#[test]
fn unresponsive_proxy_is_not_sent_and_renewals_continue() {
    let (mut rig, server) = behind();
    let proxy = ProxyServer::http(&rig, server.address);
    proxy.set_behaviour(Behaviour::Hang);
    rig.config.timeout = Duration::from_secs(2);
    rig.config.more = network(&format!("proxy = \"http://{}\"", proxy.address));
    let daemon = rig.start();
    let event = daemon.wait_for_outcome("acme", "not-sent");
    let way = format!(
        "cannot connect to auth.test through the proxy {}: no connection within 2s",
        proxy.address
    );
    assert!(event.to_string().contains(&way), "{event}");
    assert_eq!(rig.requests("acme"), 0);
    proxy.set_behaviour(Behaviour::Connect);
    daemon.wait_for_outcome("acme", "renewed");
    daemon.stop();
    rig.no_violations();
}

#[test]
fn no_proxy_and_loopback_connect_directly() {
    let (mut rig, server) = behind();
    let proxy = ProxyServer::http(&rig, server.address);
    let proxied = format!("proxy = \"http://{}\"\n", proxy.address);
    rig.config.more = network(&format!("{proxied}no_proxy = [\"10.0.0.0/8\", \".test\"]"));
    not_sent(&rig, &["cannot connect to auth.test: "]);
    assert_eq!(proxy.asked(), Vec::<String>::new());
    let mut here = calm(["acme"]);
    let server = TlsServer::before(&here, plain(&here));
    here.config.app().token_url =
        format!("https://localhost:{}/oauth/token/", server.address.port());
    here.config.more = network(&proxied);
    here.grant("acme");
    renewed(&here);
    assert_eq!(proxy.asked(), Vec::<String>::new());
    rig.no_violations();
}

#[test]
fn proxy_of_an_app_overrides_the_global_one() {
    let (mut rig, server) = behind();
    let (of_all, own) = (
        ProxyServer::http(&rig, server.address),
        ProxyServer::socks(&rig, server.address),
    );
    rig.config.more = network(&format!("proxy = \"http://{}\"", of_all.address));
    rig.config.app().more = "proxy = \"none\"".to_owned();
    not_sent(&rig, &["cannot connect to auth.test: "]);
    rig.config.app().more = format!("proxy = \"socks5h://{}\"", own.address);
    renewed(&rig);
    assert_eq!(
        (of_all.asked(), own.asked()),
        (vec![], vec!["auth.test:443".to_owned()])
    );
    rig.no_violations();
}

#[test]
fn private_authority_is_trusted_after_a_reload() {
    let (mut rig, server) = behind();
    let port = server.address.port();
    rig.config.app().token_url = format!("https://localhost:{port}/oauth/token/");
    let daemon = rig.start();
    let event = daemon.wait_for_outcome("acme", "not-sent");
    contains(
        &event.to_string(),
        &[
            &format!(
                "cannot connect to localhost:{port}: its certificate was issued by an untrusted authority (UnknownIssuer)"
            ),
            "`ca_file`",
        ],
    );
    rig.config.app().more = format!("ca_file = {:?}", authority());
    rig.write_config();
    daemon.sighup();
    daemon.wait_for_outcome("acme", "renewed");
    daemon.stop();
    rig.no_violations();
}

#[test]
fn reload_changes_the_proxy() {
    let (mut rig, server) = behind();
    let (before, after) = (
        ProxyServer::http(&rig, server.address),
        ProxyServer::http(&rig, server.address),
    );
    before.set_behaviour(Behaviour::Refuse(403));
    rig.config.more = network(&format!("proxy = \"http://{}\"", before.address));
    let daemon = rig.start();
    daemon.wait_for_outcome("acme", "not-sent");
    rig.config.more = network(&format!("proxy = \"http://{}\"", after.address));
    rig.write_config();
    let mark = daemon.mark();
    daemon.sighup();
    daemon.wait_after(mark, SOON, "the reload", |event| {
        message_contains(event, "configuration was reloaded") || message_contains(event, "reloaded")
    });
    let asked = before.asked().len();
    daemon.wait_for_outcome("acme", "renewed");
    assert_eq!((before.asked().len(), after.asked().len()), (asked, 1));
    daemon.stop();
    rig.no_violations();
}

#[test]
fn invalid_settings_exit_78_with_position_and_without_secret() {
    let mut rig = calm(["acme"]);
    rig.secret("empty.pem", "\n");
    rig.secret("text.pem", "no certificate");
    for (keys, problem) in [
        (
            "proxy = \"https://u:hunter2@p:3128\"",
            "the address in `proxy` must begin with http:// or socks5h://: TLS to the proxy itself",
        ),
        (
            "proxy = \"ftp://u:hunter2@p\"",
            "the address in `proxy` must begin with http:// or socks5h://",
        ),
        (
            "proxy = \"http://u:hunter2@\"",
            "the address in `proxy` holds no host",
        ),
        ("proxy = \"enviroment\"", "did you mean `environment`?"),
        (
            "proxi = \"hunter2\"",
            "unknown key `proxi` in [network]; did you mean `proxy`?",
        ),
        (
            "proxy_env = \"HUNTER2\"",
            "`proxy_env`: no environment variable has that name",
        ),
        (
            "no_proxy = [\"10.0.0.0/33\"]",
            "`no_proxy` holds a network that is none",
        ),
        (
            "ca_file = \"gone.pem\"",
            "gone.pem cannot be read: no such file or directory",
        ),
        ("ca_file = \"empty.pem\"", "empty.pem is empty"),
        (
            "ca_file = \"text.pem\"",
            "text.pem holds no certificate in PEM",
        ),
        (
            "user_agent = \"a\\nb\"",
            "`user_agent` must be printable ASCII",
        ),
    ] {
        rig.config.more = format!("[network]\n{keys}\n");
        rig.write_config();
        let line = rig
            .config
            .to_string()
            .lines()
            .position(|line| line == keys)
            .expect("it is there")
            + 1;
        for command in ["check", "run"] {
            let ran = rig.run([command]);
            assert_eq!(ran.code, Some(78), "{keys}: {ran:?}");
            contains(&ran.stderr, &[&format!("refreshd.toml:{line}:"), problem]);
            assert!(!ran.stderr.to_lowercase().contains("hunter2"), "{ran:?}");
        }
    }
}

#[test]
fn proxy_of_the_environment_is_only_used_if_configured() {
    let (mut rig, server) = behind();
    let proxy = ProxyServer::http(&rig, server.address);
    let with = |rig: &Rig, arguments: &[&str]| {
        rig.write_config();
        let mut command: Command = rig.command(arguments.iter().copied());
        command
            .env("HTTPS_PROXY", format!("http://u:hunter2@{}", proxy.address))
            .env("NO_PROXY", "localhost,.corp,auth.test:443")
            .stdin(Stdio::null());
        CommandOutput::run(&mut command)
    };
    rig.config.more = network("");
    let ignored = "HTTPS_PROXY is set in the environment and not used: write `proxy = \"environment\"` in [network]";
    let ran = with(&rig, &["check"]);
    assert_eq!(ran.code, Some(0), "{ran:?}");
    contains(&ran.stderr, &[ignored, "(warning)"]);
    let environment = format!("http://u:hunter2@{}", proxy.address);
    let daemon = rig.launch([("HTTPS_PROXY", environment.as_ref())]);
    daemon.wait_for("the warning", |event| {
        event["level"] == "WARN" && message_contains(event, ignored)
    });
    daemon.wait_for_outcome("acme", "not-sent");
    daemon.stop();
    assert_eq!(proxy.asked(), Vec::<String>::new());

    rig.config.more = network("proxy = \"none\"");
    let ran = with(&rig, &["check"]);
    assert!(!ran.stderr.contains("warning"), "{ran:?}");
    rig.config.more = network("proxy = \"environment\"");
    let ran = with(&rig, &["check"]);
    contains(
        &ran.stderr,
        &["an entry of the variable NO_PROXY is not used: it takes hosts without a port"],
    );
    let ran = with(&rig, &["renew", "acme"]);
    assert_eq!((ran.code, rig.renewals("acme")), (Some(0), 1), "{ran:?}");
    assert_eq!(proxy.asked().len(), 1);
    assert!(!ran.stderr.contains("hunter2"), "{ran:?}");
    rig.no_violations();
}

#[test]
fn metadata_discovery_uses_the_proxy_of_the_app() {
    let (mut rig, server) = behind();
    let (of_all, own) = (
        ProxyServer::http(&rig, server.address),
        ProxyServer::http(&rig, server.address),
    );
    rig.config.app().more = format!(
        "issuer = \"https://auth.test\"\nproxy = \"http://{}\"",
        own.address
    );
    rig.config.more = network(&format!("proxy = \"http://{}\"", of_all.address));
    rig.write_config();
    let ran = rig.run(["check", "--online"]);
    assert_eq!(ran.code, Some(69), "the fake server has none: {ran:?}");
    let unknown = "https://auth.test: its metadata is not known: https://auth.test/.well-known/";
    contains(&ran.stderr, &[unknown, "answers 404 without it"]);
    assert!(!own.asked().is_empty() && of_all.asked().is_empty());
    own.set_behaviour(Behaviour::Refuse(403));
    let ran = rig.run(["check", "--online"]);
    let way = format!(
        "auth.test does not answer through the proxy {}: the proxy refuses to connect",
        own.address
    );
    contains(&ran.stderr, &[&way]);
}

#[test]
fn channels_use_the_global_or_their_own_network() {
    let mut rig = calm(["acme"]);
    let receivers = Receivers::listen(&rig);
    let tls = TlsServer::before(&rig, receivers.address);
    let (of_all, own) = (
        ProxyServer::http(&rig, tls.address),
        ProxyServer::http(&rig, receivers.address),
    );
    let mail = MailServer::listen();
    let mail_tls = TlsServer::before_mail(&rig, mail.address);
    rig.secret("password", crate::common::mailserver::LOGIN.1);
    let more = format!(
        "proxy = \"http://{}\"\n\
         [channels.slack]\nkind = \"slack\"\nurl = \"https://auth.test/slack/T0/B0/secretOfTheHook\"\n\
         [channels.plain]\nkind = \"webhook\"\nurl = \"http://hooks.test/push\"\nbody = '{{\"t\": {{{{ title }}}}}}'\nproxy = \"http://{}\"\n\
         [channels.mail]\nkind = \"email\"\nsmtp = \"localhost:{}\"\ntls = \"implicit\"\nuser = \"{}\"\npassword_file = \"password\"\n\
         from = \"refreshd <refreshd@example.org>\"\nto = [\"ops@example.org\"]\n",
        of_all.address,
        own.address,
        mail_tls.address.port(),
        crate::common::mailserver::LOGIN.0,
    );
    rig.config.more = network(&more);
    rig.write_config();
    let ran = rig.run(["alert", "test"]);
    assert_eq!(ran.code, Some(0), "{ran:?}");
    contains(
        &ran.stderr,
        &[
            "slack (slack): delivered",
            "plain (webhook): delivered",
            "mail (email): delivered",
        ],
    );
    assert!(
        of_all
            .asked()
            .iter()
            .all(|head| head.starts_with("CONNECT auth.test:443 ")),
        "{:?}",
        of_all.asked()
    );
    assert!(
        own.asked()
            .iter()
            .all(|head| head.starts_with("POST http://hooks.test/push ")),
        "{:?}",
        own.asked()
    );
    assert_eq!((receivers.seen("/slack").len(), mail.mails().len()), (1, 1));
    assert_eq!(receivers.seen("/push").len(), 1);

    of_all.set_behaviour(Behaviour::Refuse(407));
    rig.config.more = format!("[network]\n{more}");
    rig.write_config();
    let ran = rig.run(["alert", "test"]);
    assert_ne!(ran.code, Some(0), "{ran:?}");
    contains(
        &ran.stderr,
        &[
            &format!(
                "slack (slack): failed: cannot connect through the proxy {}: the proxy requires a user",
                of_all.address
            ),
            "mail (email): failed: its certificate was issued by an untrusted authority (UnknownIssuer)",
        ],
    );
    receivers.no_complaints();
    // The proxy of a plain request reads it, and may repeat what it was told.
    own.set_behaviour(Behaviour::Echo);
    let url = format!("http://{}:{PASSWORD_IN_URL}@{}", LOGIN.0, own.address);
    rig.config.more = network(&more.replace(&format!("http://{}", own.address), &url));
    rig.write_config();
    let ran = rig.run(["alert", "test", "plain"]);
    assert_eq!(ran.code, Some(69), "{ran:?}");
    contains(
        &ran.stderr,
        &[
            "plain (webhook): failed: status 502: ",
            "proxy-authorization: Basic …",
        ],
    );
    contain_no_password(&[&ran.stderr]);
}
