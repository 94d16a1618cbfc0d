//! `refreshd renew`: one portal, several, all; and the cases in which nothing is sent or no token is obtained.

use std::process::{Command, Stdio};
use std::time::Duration;

use refreshd_fake_server::{At, Fault};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::common::{CommandOutput, SOON, domain, eventually};
use crate::interfaces::{broken, calm, contains, fresh};

fn outcomes(ran: &CommandOutput) -> Vec<(String, String)> {
    let all: Value =
        serde_json::from_str(&ran.stdout).unwrap_or_else(|_| panic!("no JSON: {ran:?}"));
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let renewals = all["renewals"].as_array().expect("renewals");
    renewals
        .iter()
        .map(|one| (text(&one["portal"]), text(&one["outcome"])))
        .collect()
}

fn pair(portal: &str, outcome: &str) -> (String, String) {
    (portal.to_owned(), outcome.to_owned())
}

#[test]
fn just_after_a_renewal_nothing_is_sent() {
    let (rig, daemon) = fresh(["acme", "globex"]);
    let sent = rig.server.total_requests();
    let check = || {
        let ran = rig.run(["renew", "acme", "globex"]);
        assert_eq!((ran.code, ran.stdout.as_str()), (Some(0), ""));
        contains(
            &ran.stderr,
            &[
                "acme: renewed a moment ago, not again before 20",
                "globex: renewed a moment ago",
            ],
        );
        let all = rig.run(["renew", "--all", "--json"]);
        assert_eq!(
            outcomes(&all),
            [
                pair("acme", "fresh-already"),
                pair("globex", "fresh-already")
            ]
        );
    };
    check();
    daemon.stop();
    check();
    assert_eq!(rig.server.total_requests(), sent);
    rig.no_violations();
}

#[test]
fn with_a_daemon_failure_exits_1_and_skips_the_retry_wait() {
    let mut rig = calm(["acme", "globex", "initech"]);
    rig.server.fail(At::All, broken(), u32::MAX);
    rig.grant("acme");
    rig.grant("globex");
    let daemon = rig.start();
    rig.wait_for_phase("acme", "retrying");
    rig.wait_for_phase("globex", "retrying");
    let ran = rig.run(["renew", "acme"]);
    assert_eq!((ran.code, ran.stdout.as_str()), (Some(1), ""));
    contains(
        &ran.stderr,
        &["acme: not renewed (transient): ", "INTERNAL_SERVER_ERROR: "],
    );
    let ran = rig.run(["renew", "--all", "--json"]);
    assert_eq!(ran.code, Some(1));
    let all = [
        pair("acme", "transient"),
        pair("globex", "transient"),
        pair("initech", "not-tried"),
    ];
    assert_eq!(outcomes(&ran), all, "portals without a request are named");

    rig.server.heal(At::All);
    let ran = rig.run(["renew", "acme", "globex"]);
    assert_eq!(ran.code, Some(0), "{ran:?}");
    contains(
        &ran.stderr,
        &[
            "acme: renewed, valid until 20",
            "globex: renewed, valid until 20",
        ],
    );
    assert_eq!(
        (
            rig.server.renewals(&domain("acme")),
            rig.server.renewals(&domain("globex"))
        ),
        (1, 1)
    );
    assert_eq!(
        rig.generation("acme"),
        2,
        "its files are there when the command ends"
    );

    let ran = rig.run(["renew", "initech"]);
    assert_eq!(ran.code, Some(75));
    contains(
        &ran.stderr,
        &[
            "initech has no usable grant (awaiting-authorization)",
            "refreshd import initech",
        ],
    );
    let ran = rig.run(["renew", "acme", "unknown"]);
    assert_eq!(ran.code, Some(66), "the unknown one decides");
    contains(
        &ran.stderr,
        &["acme: renewed a moment ago", "no portal is named unknown"],
    );
    let ran = rig.run(["renew", "unknown", "acme", "--json"]);
    assert_eq!(ran.code, Some(66));
    assert_eq!(
        outcomes(&ran),
        [pair("unknown", ""), pair("acme", "fresh-already")]
    );
    contains(&ran.stdout, &["\"error\": \"no portal is named unknown\""]);
    daemon.stop();
    rig.no_violations();
}

#[test]
fn without_a_daemon_the_command_renews() {
    let rig = calm(["acme", "globex"]);
    rig.write_config();
    let ran = rig.run(["renew", "--all"]);
    assert_eq!(ran.code, Some(1), "nothing was renewed: {ran:?}");
    contains(
        &ran.stderr,
        &[
            "no portal has a grant that could be renewed",
            "acme: not renewed, nothing was sent (awaiting-authorization)",
            "refreshd import globex",
        ],
    );
    rig.server.fail(At::All, broken(), u32::MAX);
    assert_eq!(rig.import("acme", &rig.install("acme")).code, Some(75));
    assert_eq!(rig.import("globex", &rig.install("globex")).code, Some(75));
    rig.server.heal(At::All);
    rig.server
        .fail(At::Portal(domain("globex")), broken(), u32::MAX);
    let ran = rig.run(["renew", "--all", "--json"]);
    assert_eq!(
        outcomes(&ran),
        [pair("acme", "renewed"), pair("globex", "transient")],
        "{ran:?}"
    );
    assert_eq!(ran.code, Some(1));
    assert_eq!(
        (rig.generation("acme"), rig.server.renewals(&domain("acme"))),
        (2, 1)
    );
    rig.server.heal(At::All);
    let ran = rig.run(["renew", "globex"]);
    assert_eq!(ran.code, Some(0), "{ran:?}");
    contains(&ran.stderr, &["globex: renewed, valid until 20"]);
    rig.no_violations();
}

#[test]
fn without_a_daemon_a_signal_waits_for_the_sent_request() {
    let ignored = ["USR1", "USR2", "ALRM", "VTALRM", "PROF", "IO", "40"];
    for (signal, code) in [
        (Signal::INT, 130),
        (Signal::TERM, 143),
        (Signal::HUP, 129),
        (Signal::QUIT, 131),
        (Signal::POWER, 158),
    ] {
        let mut rig = calm(["acme", "globex"]);
        let slow = Fault::Slow {
            by: Duration::from_secs(2),
        };
        rig.server.fail(At::All, slow, 1);
        rig.grant("acme");
        rig.grant("globex");
        rig.write_config();
        let mut command = rig.command(["renew", "acme", "globex"]);
        let command = command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let child = command.spawn().unwrap();
        eventually("a request", SOON, || rig.server.total_requests() == 1);
        for ignored in ignored {
            let kill = format!("kill -{ignored} {}", child.id());
            let sent = Command::new("/bin/sh").args(["-c", &kill]).status();
            assert!(sent.unwrap().success(), "{kill}");
        }
        let pid = Pid::from_raw(i32::try_from(child.id()).unwrap()).unwrap();
        kill_process(pid, signal).unwrap();
        let ended = child.wait_with_output().unwrap();
        let stderr = String::from_utf8_lossy(&ended.stderr);
        assert_eq!(ended.status.code(), Some(code), "{stderr}");
        contains(
            &stderr,
            &[
                "interrupted; waiting for the request",
                "SIGUSR1 has no meaning for refreshd and is ignored",
            ],
        );
        assert_eq!(rig.server.total_requests(), 1, "{stderr}");
        // The pair of the reply is stored: it is used, and the next renewal of each portal succeeds.
        assert_eq!(rig.run(["token", "acme"]).code, Some(0));
        assert_eq!(rig.server.total_requests(), 1);
        assert_eq!(rig.run(["renew", "globex"]).code, Some(0));
        rig.no_violations();
    }
}
