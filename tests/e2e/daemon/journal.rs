//! Number of lines in the log: a quiet hour is one line, and an outage of many portals a few.

use std::array;
use std::time::Duration;

use refreshd_fake_server::Fault;
use serde_json::Value;

use crate::common::{Daemon, Rig, SOON, eventually, message_contains};

/// The default level.
const DEFAULT: &str = "info";

fn of_target(daemon: &Daemon, target: &str) -> Vec<Value> {
    daemon.events(|event| event["target"] == target)
}

fn stopped(mut daemon: Daemon) -> Daemon {
    daemon.sigterm();
    assert_eq!(daemon.wait_exit(Duration::from_secs(30)), 0);
    daemon
}

#[test]
fn routine_renewals_are_one_summary() {
    let portals = ["acme", "globex", "initech"];
    let mut rig = Rig::new(portals);
    rig.config.level = DEFAULT;
    portals.iter().for_each(|portal| rig.grant(portal));
    let daemon = rig.start();
    for portal in portals {
        rig.wait_for_generation(portal, 5);
    }
    let daemon = stopped(daemon);
    let lines = of_target(&daemon, "refreshd::renewal");
    let first: Vec<_> = lines
        .iter()
        .map(|line| line["generation"].as_u64())
        .collect();
    assert_eq!(
        first,
        [Some(2); 3],
        "only the first of each portal: {lines:?}"
    );
    let summaries = of_target(&daemon, "refreshd::summary");
    let [summary] = summaries.as_slice() else {
        panic!("{summaries:?}")
    };
    let renewed: u64 = portals.iter().map(|portal| rig.renewals(portal)).sum();
    assert_eq!(
        (&summary["renewed"], &summary["failed"]),
        (&renewed.into(), &0.into()),
        "{summary}"
    );
    for part in [
        &format!("{renewed} renewed, 0 attempts failed; 3 of 3 portals fresh"),
        "next: ",
        "slowest: ",
    ] {
        assert!(message_contains(summary, part), "{part}: {summary}");
    }
    rig.no_violations();
}

#[test]
fn outage_of_many_portals_is_a_few_lines_and_a_count() {
    let names: [String; 40] = array::from_fn(|number| format!("portal-{number}"));
    let portals: [&str; 40] = array::from_fn(|number| names[number].as_str());
    let mut rig = Rig::new(portals);
    rig.config.level = DEFAULT;
    portals.iter().for_each(|portal| rig.grant(portal));
    let daemon = rig.start();
    for portal in portals {
        rig.wait_for_generation(portal, 2);
    }
    let before = rig.server.total_requests();
    let away = Fault::Body {
        status: 503,
        content_type: "text/html".to_owned(),
        body: "<html>maintenance</html>".to_owned(),
        retry_after: None,
    };
    for portal in portals {
        rig.fail(portal, away.clone(), 1000);
    }
    eventually("three attempts of each", SOON * 3, || {
        rig.server.total_requests() >= before + 120
    });
    let daemon = stopped(daemon);
    let transient = of_target(&daemon, "refreshd::renewal");
    let (counted, lines): (Vec<_>, Vec<_>) = transient
        .iter()
        .filter(|line| line["outcome"] == "transient")
        .partition(|line| line["count"].is_u64());
    assert_eq!(lines.len(), 10, "{lines:?}");
    let count: u64 = counted
        .iter()
        .filter_map(|line| line["count"].as_u64())
        .sum();
    assert_eq!(count, 30, "the first failures of the others: {counted:?}");
    assert!(message_contains(
        counted[0],
        "more portals: transient (portal-"
    ));
    let escalations = of_target(&daemon, "refreshd::escalation");
    for step in ["warning", "error"] {
        let of_step = escalations.iter().filter(|line| line["step"] == step);
        assert!(of_step.clone().count() <= 22, "{step}: {}", of_step.count());
    }
    let all = daemon.stderr().lines().count();
    assert!(all < 150, "{all} lines: {}", daemon.stderr());
}
