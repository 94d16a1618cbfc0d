//! SIGHUP: an invalid file changes nothing, a valid one is in force at once, and no change loses a grant.

use std::fs;
use std::net::TcpListener;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::common::hostile::{Behaviour, Hostile};
use crate::common::{App, Daemon, Portal, Rig, SOON, always, domain, eventually, message_contains};

/// Reloads the configuration and waits for the log line.
#[track_caller]
fn reload(rig: &Rig, daemon: &Daemon, word: &str) -> serde_json::Value {
    rig.write_config();
    reload_as_it_is(daemon, word)
}

#[track_caller]
fn reload_as_it_is(daemon: &Daemon, word: &str) -> serde_json::Value {
    let mark = daemon.mark();
    daemon.sighup();
    daemon.wait_after(mark, SOON, word, |event| message_contains(event, word))
}

const DONE: &str = "the configuration was reloaded";
const KEPT: &str = "the old one stays in force";

/// Makes a pipe without a writer.
fn pipe(rig: &Rig, name: &str) {
    assert!(
        Command::new("mkfifo")
            .arg(rig.path(name))
            .status()
            .expect("mkfifo")
            .success()
    );
}

/// A reload queries issuers, which may be slow. Shutdown does not wait for them.
#[test]
fn reload_waiting_for_a_server_does_not_block_shutdown() {
    let mut rig = Rig::new(["acme"]);
    rig.grant("acme");
    let mut daemon = rig.start();
    rig.wait_for_generation("acme", 2);
    let mute = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let issuer = format!("http://{}", mute.local_addr().expect("its address"));
    rig.config.more = format!(
        "[portals.news]\nprovider = 'own'\nclient_id = 'svc'\nclient_secret_file = 'crm.secret'\n\
         [providers.own]\nissuer = '{issuer}'\n"
    );
    rig.write_config();
    daemon.sighup();
    let _silent = mute.accept().expect("the daemon asks");
    daemon.sigterm();
    assert_eq!(daemon.wait_exit(Duration::from_secs(3)), 0);
    rig.no_violations();
}

#[test]
fn pipe_as_configuration_file_blocks_nothing() {
    let mut rig = Rig::new(["acme"]);
    rig.grant("acme");
    rig.secret("more.toml", "");
    rig.secret(
        "refreshd.toml",
        &format!("include = ['more.toml']\n{}", rig.config),
    );
    let mut daemon = Daemon::spawn(rig.command(["run"]));
    rig.wait_for_generation("acme", 2);
    fs::remove_file(rig.path("more.toml")).expect("a file");
    pipe(&rig, "more.toml");
    daemon.sighup();
    daemon.wait_for("the reported problem", |event| {
        message_contains(event, "was not reloaded")
            && event["problems"]
                .as_str()
                .is_some_and(|text| text.contains("regular file"))
    });
    assert_eq!(rig.control("POST", "/v1/reload", "").0, 422);
    rig.wait_for_renewals("acme", 1);
    daemon.sigterm();
    assert_eq!(daemon.wait_exit(SOON), 0);
    for command in ["run", "check"] {
        let ran = rig.run([command]);
        assert!(
            ran.code == Some(78) && ran.stderr.contains("regular file"),
            "{command}: {ran:?}"
        );
    }
    rig.no_violations();
}

#[test]
fn invalid_file_keeps_the_old_configuration() {
    let mut rig = Rig::new(["acme"]);
    rig.grant("acme");
    let daemon = rig.start();
    daemon.wait_for_outcome("acme", "renewed");
    assert_eq!(rig.metric("refreshd_config_last_reload_successful"), 1.0);
    let good = rig.config.clone();
    rig.config.remove("acme");
    rig.config.more = "[portals.globex]\napp = \"crm\nsecret-in-this-line".to_owned();
    let event = reload(&rig, &daemon, KEPT);
    assert_eq!(event["level"], "ERROR");
    let line = rig
        .config
        .to_string()
        .lines()
        .position(|line| line == "app = \"crm")
        .unwrap()
        + 1;
    let problems = event["problems"].as_str().unwrap();
    assert!(
        problems.contains(&format!("refreshd.toml:{line}:")),
        "{problems}"
    );
    assert!(!daemon.stderr().contains("secret-in-this-line"));
    assert_eq!(rig.metric("refreshd_config_last_reload_successful"), 0.0);
    rig.wait_for_renewals("acme", 1);
    let (status, body) = rig.control("POST", "/v1/reload", "");
    assert!(status == 422 && body.contains("refreshd.toml:"), "{body}");

    rig.config = good;
    reload(&rig, &daemon, DONE);
    assert_eq!(rig.metric("refreshd_config_last_reload_successful"), 1.0);
    rig.wait_for_renewals("acme", 1);
    rig.no_violations();
}

#[test]
fn added_portal_is_renewed_and_readded_keeps_its_grant() {
    let mut rig = Rig::new(["acme"]);
    rig.grant("acme");
    let daemon = rig.start();
    daemon.wait_for_outcome("acme", "renewed");
    rig.config.portals.push(Portal::new("globex", "crm"));
    rig.grant("globex");
    let event = reload(&rig, &daemon, DONE);
    assert_eq!(
        (event["added"].as_u64(), event["dropped"].as_u64()),
        (Some(1), Some(0)),
        "{event}"
    );
    daemon.wait_for_outcome("globex", "renewed");

    let generation = rig.generation("globex");
    let kept = rig.config.clone();
    rig.config.remove("globex");
    reload(&rig, &daemon, DONE);
    eventually("its files go", SOON, || !rig.path("tokens/globex").exists());
    assert_eq!(rig.status("globex")["phase"], "unconfigured");
    let page = rig.http("/metrics").1;
    let series = |portal: &str| {
        page.contains(&format!(
            "refreshd_token_expiry_timestamp_seconds{{portal=\"{portal}\"}}"
        ))
    };
    assert!(
        series("acme") && !series("globex"),
        "an unconfigured portal raises no alarm\n{page}"
    );
    let requests = rig.requests("globex");
    rig.wait_for_renewals("acme", 1);
    assert_eq!(
        rig.requests("globex"),
        requests,
        "it is not renewed any more"
    );

    rig.config = kept;
    reload(&rig, &daemon, DONE);
    eventually("its files are back", SOON, || {
        rig.generation("globex") >= generation
    });
    rig.wait_for_phase("globex", "fresh");
    rig.wait_for_renewals("globex", 1);
    rig.no_violations();
}

#[test]
fn changed_client_never_gets_the_refresh_token() {
    let mut rig = Rig::new(["acme"]);
    rig.config.app().renew_every = Duration::from_secs(3);
    rig.grant("acme");
    rig.server.add_client("local.other", "the other secret");
    rig.secret("other.secret", "the other secret");
    let daemon = rig.start();
    daemon.wait_for_outcome("acme", "renewed");
    let crm = rig.config.apps[0].clone();
    let life = crm.assumed_lifetime;
    let other = App {
        name: "crm".into(),
        ..App::new("other", "local.other", &crm.token_url, life)
    };
    // The same client id at another server is another client, too.
    let elsewhere = App {
        token_url: "http://127.0.0.1:1/oauth/token/".into(),
        ..crm.clone()
    };
    for changed in [
        App {
            renew_every: crm.renew_every,
            ..other
        },
        elsewhere,
    ] {
        rig.config.apps[0] = changed;
        reload(&rig, &daemon, DONE);
        rig.wait_for_phase("acme", "client-changed");
        let requests = rig.server.total_requests();
        let ran = rig.run(["renew", "acme"]);
        assert_eq!(ran.code, Some(75), "{ran:?}");
        always("nothing is sent", Duration::from_secs(4), || {
            rig.server.total_requests() == requests
        });
        rig.config.apps[0] = crm.clone();
        reload(&rig, &daemon, DONE);
        rig.wait_for_phase("acme", "fresh");
        let renewals = rig.renewals("acme");
        eventually("a renewal", SOON, || rig.renewals("acme") > renewals);
    }
    assert!(
        daemon
            .outcomes("acme")
            .iter()
            .all(|outcome| outcome == "renewed"),
        "{:?}",
        daemon.outcomes("acme")
    );
    rig.no_violations();
}

#[test]
fn reload_and_import_leave_a_pending_request_alone() {
    let mut rig = Rig::new(["acme", "globex"]);
    rig.grant("acme");
    rig.grant("globex");
    let slow = refreshd_fake_server::Fault::Slow {
        by: Duration::from_secs(2),
    };
    rig.fail("acme", slow.clone(), 1);
    rig.fail("globex", slow, 1);
    let daemon = rig.start();
    eventually("two requests under way", SOON, || {
        rig.renewals("acme") + rig.renewals("globex") == 2
    });
    reload(&rig, &daemon, DONE);
    // An imported grant wins over the pending response.
    let grant = rig.install("globex");
    assert_eq!(rig.import("globex", &grant).code, Some(0));
    daemon.wait_for_outcome("acme", "renewed");
    let aside = daemon.wait_for("the late reply", |event| {
        message_contains(event, "set aside")
    });
    assert_eq!(aside["portal"], "globex");
    // The pair of its verification.
    assert_eq!(rig.generation("globex"), 2);
    let token = rig.token_json("globex").unwrap()["access_token"]
        .as_str()
        .unwrap()
        .to_owned();
    assert!(rig.server.knows_access(&token).unwrap().current);
    assert_eq!(rig.requests("acme"), 1);
    assert!(rig.server.current_refresh(&domain("acme")).is_some());
    rig.no_violations();
}

#[test]
fn pipe_as_token_file_blocks_nothing() {
    let mut rig = Rig::new(["acme"]);
    rig.grant("acme");
    rig.config.more = "include = [\"portals.d/*.toml\"]".to_owned();
    fs::create_dir(rig.path("portals.d")).expect("a directory");
    let text = rig.config.to_string();
    let (include, rest) = (&rig.config.more, text.replace(&rig.config.more, ""));
    let text = format!("{include}\n{rest}");
    rig.config.more.clear();
    rig.secret("refreshd.toml", &text);
    let daemon = Daemon::spawn(rig.command(["run"]));
    daemon.wait_for_outcome("acme", "renewed");
    let pipe = rig.path("portals.d/x.toml");
    assert!(
        Command::new("mkfifo")
            .arg(&pipe)
            .status()
            .expect("mkfifo")
            .success()
    );
    let event = reload_as_it_is(&daemon, KEPT);
    let problems = event["problems"].as_str().unwrap_or_default();
    assert!(
        problems.contains("x.toml:1:1: this file is not a regular file"),
        "{event}"
    );
    rig.wait_for_renewals("acme", 1);
    daemon.stop();
    let ran = rig.run(["check"]);
    assert!(
        ran.code == Some(78) && ran.stderr.contains("is not a regular file"),
        "{ran:?}"
    );
    rig.no_violations();
}

#[test]
fn sigterm_stops_a_reload_that_waits_for_an_issuer() {
    let mut rig = Rig::new(["acme"]);
    rig.grant("acme");
    let daemon = rig.start();
    daemon.wait_for_outcome("acme", "renewed");
    let asked = Arc::new(AtomicBool::new(false));
    let received = Arc::clone(&asked);
    let issuer = Hostile::listen("127.0.0.1:0", move |_| {
        received.store(true, Ordering::Relaxed);
        Behaviour::Hold(Vec::new())
    });
    let url = issuer.token_url();
    let issuer = url.strip_suffix("/token").unwrap_or(&url);
    rig.config.more = format!(
        "[providers.own]\nissuer = \"{issuer}\"\n[portals.news]\nprovider = \"own\"\nclient_id = \"news\"\nclient_secret_file = \"crm.secret\"\n"
    );
    rig.write_config();
    daemon.sighup();
    eventually("the issuer is asked", SOON, || {
        asked.load(Ordering::Relaxed)
    });
    rig.wait_for_renewals("acme", 1);
    let reloaded = daemon
        .events(|event| message_contains(event, DONE) || message_contains(event, KEPT))
        .len();
    assert_eq!(reloaded, 0, "it waits");
    daemon.sigterm();
    daemon.wait_for("it stops", |event| {
        message_contains(event, "SIGTERM: stopping")
    });
    let given_up = daemon
        .events(|event| message_contains(event, "the metadata of"))
        .len();
    assert_eq!(given_up, 0, "SIGTERM did not wait for the issuer");
    daemon.stop();
    rig.no_violations();
}
