//! The fourth promise: at the most verbose level, no secret is in the log, the pages or the responses.

use std::collections::BTreeSet;
use std::time::Duration;

use refreshd_fake_server::{At, Fault, Reuse, Rules};
use refreshd_token_client::provider::Method;
use serde_json::Value;

use crate::common::{CLIENT_SECRET, LIFE, Rig, SOON, domain, message_contains};

/// Secrets that the test has seen, and texts that must not contain a part of one.
#[derive(Default)]
struct Search {
    secrets: BTreeSet<String>,
    texts: Vec<(String, String)>,
}

impl Search {
    /// Adds the present secrets of the server and the published tokens.
    fn learn(&mut self, rig: &Rig, portals: &[&str]) {
        for portal in portals {
            self.secrets
                .extend(rig.server.current_refresh(&domain(portal)));
            let access = std::fs::read_to_string(rig.token_path(portal, "token"));
            self.secrets.extend(access);
        }
    }

    fn look(&mut self, at: &str, text: String) {
        self.texts.push((at.to_owned(), text));
    }

    /// Tokens begin with a time and ids; the rest is the secret, of which ten digits must not appear.
    #[track_caller]
    fn finds_nothing(&self) {
        for secret in &self.secrets {
            let random = &secret[secret.len().saturating_sub(38)..];
            let parts: Vec<_> = (0..=random.len() - 10)
                .map(|at| &random[at..at + 10])
                .collect();
            for (place, text) in &self.texts {
                let part = parts.iter().find(|part| text.contains(**part));
                assert!(
                    part.is_none(),
                    "{place} holds {part:?} of {secret}:\n{text}"
                );
            }
        }
    }
}

#[test]
fn no_secret_is_logged_or_shown_at_trace_level() {
    for method in [Method::Post, Method::Get] {
        let reuse = Reuse::Grace(Duration::from_secs(60));
        let portals = ["acme", "globex", "hooli", "initech"];
        let rules = Rules {
            token_lifetime: LIFE,
            reuse,
            method,
            ..Rules::default()
        };
        let mut rig = Rig::with_rules(portals, rules);
        if method == Method::Get {
            // All parameters are in the URL then, and errors tend to include URLs.
            rig.config.app().more = "method = \"get\"".to_owned();
        }
        rig.config.level = "trace";
        rig.config.timeout = Duration::from_secs(1);
        let mut search = Search::default();
        search.secrets.insert(CLIENT_SECRET.to_owned());
        portals.iter().for_each(|portal| rig.grant(portal));
        search.learn(&rig, &portals);
        // Servers repeat request parameters.
        let refresh = rig.server.current_refresh(&domain("acme")).unwrap();
        let echo = format!("the token {refresh} of the client with secret {CLIENT_SECRET} is odd");
        rig.fail(
            "acme",
            Fault::Refuse {
                status: 400,
                error: refresh.clone(),
                description: echo.clone(),
            },
            1,
        );
        rig.fail(
            "acme",
            Fault::Refuse {
                status: 500,
                error: "odd".into(),
                description: echo.clone(),
            },
            1,
        );
        rig.fail("globex", Fault::Stall, 1);
        rig.fail("globex", Fault::CutJson { after: 200 }, 1);
        rig.fail("globex", Fault::Truncated { after: 200 }, 1);
        rig.fail("hooli", Fault::Reset, 1);
        rig.fail("hooli", Fault::OtherMember, 1);
        rig.fail(
            "initech",
            Fault::Redirect {
                to: format!("/redirected?refresh_token={refresh}"),
            },
            1,
        );
        let daemon = rig.start();
        for portal in ["acme", "globex", "initech"] {
            daemon.wait_for_outcome(portal, "renewed");
            search.learn(&rig, &portals);
        }
        // A whole grant, an invalid one, and one that is cut in the middle of its token.
        let grant = rig.install("acme");
        search.learn(&rig, &portals);
        for text in [
            grant.as_str(),
            &grant[..grant.len() - 20],
            &format!("{refresh} {refresh}"),
            "{\"error\": 1}",
        ] {
            let ran = rig.import("acme", text);
            search.look("import", format!("{}{}", ran.stdout, ran.stderr));
        }
        search.secrets.insert(
            rig.server
                .authorize(&domain("acme"), crate::common::CLIENT_ID),
        );
        // Without a server: the error is one of connecting.
        let here = rig.config.apps[0].token_url.clone();
        rig.server.fail(At::All, Fault::LostBefore, 1);
        let renew = rig.run(["renew", "--all", "--json"]);
        search.look(
            "renew",
            format!("{}{}", without_token(&renew.stdout), renew.stderr),
        );
        rig.config.more = format!(
            "[portals.x]\nclient_secret = \"{CLIENT_SECRET}\"\nrefresh_token = \"{refresh}\""
        );
        rig.write_config();
        daemon.sighup();
        let bad = daemon.wait_after(0, SOON, "a bad reload", |event| {
            message_contains(event, "not reloaded")
        });
        assert!(
            bad["problems"].as_str().unwrap().contains("refresh_token"),
            "{bad}"
        );
        let check = rig.run(["check"]);
        search.look("check", format!("{}{}", check.stdout, check.stderr));
        rig.config.more.clear();
        rig.write_config();
        search.learn(&rig, &portals);

        for path in ["/metrics", "/", "/livez", "/readyz"] {
            search.look(path, rig.http(path).1);
        }
        for path in [
            "/v1/portals",
            "/v1/portals/acme",
            "/v1/portals/hooli",
            "/v1/portals/none",
        ] {
            search.look(path, rig.control("GET", path, "").1);
        }
        for arguments in [
            vec!["status"],
            vec!["status", "--json"],
            vec!["status", "acme"],
        ] {
            let ran = rig.run(arguments.iter().copied());
            search.look(
                &arguments.join(" "),
                format!("{}{}", ran.stdout, ran.stderr),
            );
        }
        let process = format!("/proc/{}/cmdline", daemon.pid());
        search.look(
            "the process list",
            std::fs::read_to_string(process).unwrap(),
        );
        let trace = daemon.events(|event| event["level"] == "TRACE" || event["level"] == "DEBUG");
        search.look("the log", daemon.stderr());
        assert!(
            search.secrets.len() >= 10 && search.texts.len() > 12,
            "a search for something"
        );
        assert!(
            daemon.stderr().contains("…"),
            "the echoed secret is in the log, masked"
        );
        search.finds_nothing();
        assert!(here.starts_with("http://127.0.0.1:") && trace.len() < 1_000_000);
        // The search works: it finds the token where it belongs.
        let (status, token) = rig.control("GET", "/v1/portals/acme/token?format=raw", "");
        search.look("the token", token);
        assert_eq!(status, 200);
        let seen = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            search.learn(&rig, &portals);
            search.finds_nothing();
        }));
        assert!(seen.is_err(), "a token is not found where it is");
        rig.no_violations();
    }
}

/// The output of `renew --json` without the access token, which it prints on purpose.
fn without_token(renewals: &str) -> String {
    let mut renewals: Value = serde_json::from_str(renewals).expect("JSON");
    let each = renewals["renewals"].as_array_mut().expect("renewals");
    let replies = each
        .iter_mut()
        .filter_map(|renewal| renewal.get_mut("reply")?.as_object_mut());
    let tokens: Vec<_> = replies
        .filter_map(|reply| reply.remove("access_token"))
        .collect();
    assert!(!tokens.is_empty(), "no reply has a token: {renewals}");
    renewals.to_string()
}
