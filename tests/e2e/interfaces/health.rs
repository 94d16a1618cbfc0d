//! `/readyz` and `/livez`: not ready for each possible reason, and ready again afterwards.
//!
//! A limit of the file size, which any user can set for an own process, simulates the full disk.

use std::time::Duration;

use refreshd_fake_server::Fault;

use crate::common::{Rig, SOON, always, eventually};
use crate::interfaces::{calm, fresh};

/// An idle daemon writes at least once in this time.
const NOTICED: Duration = Duration::from_secs(75);

fn is(rig: &Rig, name: &str, value: f64) -> bool {
    (rig.metric(name) - value).abs() < 0.1
}

fn ready(rig: &Rig) -> (u16, String) {
    rig.http("/readyz")
}

#[test]
fn full_disk_is_detected_though_nothing_is_due() {
    let (rig, daemon) = fresh(["acme"]);
    assert_eq!(ready(&rig), (200, "ready\n".to_owned()));
    assert!(is(&rig, "refreshd_state_writable", 1.0));
    let mark = daemon.mark();
    let health = rig.run(["health"]);
    assert_eq!(
        (health.code, health.stdout.as_str()),
        (Some(0), "live\nready\n")
    );
    daemon.limit_file_size(Some(0));
    eventually("not ready", NOTICED, || {
        ready(&rig) == (503, "the state cannot be written\n".to_owned())
    });
    assert!(is(&rig, "refreshd_state_writable", 0.0));
    assert_eq!(rig.http("/livez").0, 200, "the scheduler goes on");
    let health = rig.run(["health"]);
    assert_eq!(
        (health.code, health.stdout.as_str()),
        (Some(1), "live\nnot ready: the state cannot be written\n")
    );
    assert_eq!(rig.run(["health", "--live"]).code, Some(0));
    let json: serde_json::Value =
        serde_json::from_str(&rig.run(["health", "--json"]).stdout).unwrap();
    assert_eq!(
        json,
        serde_json::json!({"live": true, "ready": false, "problems": ["the state cannot be written"]})
    );
    let state = |event: &serde_json::Value| {
        event["target"] == "refreshd::escalation" && event["portal"].is_null()
    };
    let event = daemon.wait_after(mark, SOON, "the report about the state", state);
    assert_eq!(
        (event["step"].as_str(), event["severity"].as_str()),
        (Some("state"), Some("critical")),
        "{event}"
    );
    assert!(
        event["action"].as_str().unwrap().contains("free space"),
        "{event}"
    );

    daemon.limit_file_size(None);
    eventually("ready again", SOON, || ready(&rig).0 == 200);
    assert!(is(&rig, "refreshd_state_writable", 1.0));
    daemon.wait_after(mark, SOON, "that it is over", |event| {
        state(event) && event["step"] == "resolved"
    });
    let steps: Vec<_> = daemon
        .events_after(mark, state)
        .iter()
        .map(|event| event["step"].clone())
        .collect();
    assert_eq!(steps, ["state", "resolved"]);
    assert_eq!(rig.requests("acme"), 1, "nothing was sent for it");
    daemon.stop();
    rig.no_violations();
    assert_eq!(rig.run(["health"]).code, Some(69), "no daemon");
}

#[test]
fn unsaved_pair_makes_it_not_ready() {
    // The loop wakes each second and finds nothing due, or it sleeps all the time.
    for watchdog in ["2000000", "0"] {
        let mut rig = calm(["acme"]);
        rig.grant("acme");
        rig.fail(
            "acme",
            Fault::Slow {
                by: Duration::from_secs(2),
            },
            1,
        );
        let daemon = rig.launch([("WATCHDOG_USEC", watchdog.as_ref())]);
        eventually("a request under way", SOON, || rig.renewals("acme") == 1);
        daemon.limit_file_size(Some(0));
        daemon.wait_for_step("acme", "unsaved");
        let not_ready = (
            503,
            "the state cannot be written\n1 new pair is not on disk\n".to_owned(),
        );
        always("only this is reported", Duration::from_secs(4), || {
            ready(&rig) == not_ready
        });
        assert!(
            is(&rig, "refreshd_tokens_unsaved", 1.0) && is(&rig, "refreshd_state_writable", 0.0)
        );
        let state = || {
            daemon.events(|event| {
                event["target"] == "refreshd::escalation" && event["portal"].is_null()
            })
        };
        assert_eq!(
            state()
                .iter()
                .map(|event| &event["step"])
                .collect::<Vec<_>>(),
            ["state"],
            "no all-clear"
        );

        daemon.limit_file_size(None);
        rig.wait_for_generation("acme", 2);
        eventually("ready again", SOON, || {
            ready(&rig) == (200, "ready\n".to_owned())
        });
        assert!(
            is(&rig, "refreshd_tokens_unsaved", 0.0) && is(&rig, "refreshd_state_writable", 1.0)
        );
        daemon.wait_for_step("acme", "resolved");
        eventually("the all-clear", Duration::from_secs(5), || {
            state().len() == 2
        });
        assert_eq!(state()[1]["step"], "resolved");
        assert!(rig.has_working_token("acme"));
        daemon.stop();
        rig.no_violations();
    }
}

#[test]
fn stopping_daemon_is_not_ready_and_gives_the_reason() {
    let mut rig = calm(["acme"]);
    rig.grant("acme");
    rig.fail(
        "acme",
        Fault::Slow {
            by: Duration::from_secs(4),
        },
        1,
    );
    let mut daemon = rig.start();
    eventually("a request under way", SOON, || rig.renewals("acme") == 1);
    assert_eq!(ready(&rig), (200, "ready\n".to_owned()));
    daemon.sigterm();
    eventually("not ready", SOON, || {
        ready(&rig) == (503, "refreshd is stopping\n".to_owned())
    });
    assert_eq!(
        (rig.http("/livez").0, rig.http("/metrics").0),
        (200, 200),
        "as long as there is something to see"
    );
    assert_eq!(daemon.wait_exit(SOON), 0);
    assert!(rig.has_working_token("acme"), "published on the way out");
    rig.no_violations();
}
