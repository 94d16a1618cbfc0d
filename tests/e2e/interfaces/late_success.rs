//! A step notified during a request is notified once, and resolved.

use std::time::Duration;

use refreshd_fake_server::{At, Fault};

use crate::common::{Rig, is_step};

#[test]
fn step_notified_during_a_request_is_resolved_by_success() {
    let life = Duration::from_secs(10);
    let mut rig = Rig::with_lifetime(["acme"], life);
    rig.config.app().renew_every = Duration::from_secs(3);
    rig.grant("acme");
    let daemon = rig.start();
    rig.wait_for_generation("acme", 2);
    // Sent at the age of 3 s and overdue at 5, it is answered at 7.
    rig.server.fail(
        At::All,
        Fault::Slow {
            by: Duration::from_secs(4),
        },
        1,
    );
    let mark = daemon.mark();
    let limit = Duration::from_secs(20);
    daemon.wait_after(mark, limit, "overdue", |event| is_step(event, "overdue"));
    daemon.wait_after(mark, limit, "the renewal", |event| {
        event["outcome"] == "renewed"
    });
    daemon.wait_after(mark, limit, "the end of it", |event| {
        is_step(event, "resolved")
    });
    let steps: Vec<_> = daemon
        .steps("acme")
        .into_iter()
        .map(|(step, _)| step)
        .collect();
    assert_eq!(steps, ["overdue", "resolved"]);
    assert_eq!(rig.status("acme").get("incident"), None);
    daemon.stop();
    rig.no_violations();
}
