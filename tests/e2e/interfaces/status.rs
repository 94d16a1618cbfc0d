//! `refreshd status`: for people and scripts, with a daemon and without one.

use serde_json::Value;

use crate::common::Rig;
use crate::interfaces::{calm, contains, fresh};

const HEADING: [&str; 7] = [
    "PORTAL",
    "PHASE",
    "EXPIRES IN",
    "RENEWED",
    "NEXT RENEWAL",
    "LAST ERROR",
    "INCIDENT",
];

/// The cells of a line whose columns begin where those of the heading do.
fn cells<'t>(heading: &str, line: &'t str) -> Vec<&'t str> {
    let starts: Vec<_> = HEADING
        .iter()
        .map(|name| heading.find(name).expect("a column"))
        .collect();
    let ends = starts.iter().skip(1).copied().chain([line.len()]);
    starts
        .iter()
        .zip(ends)
        .map(|(&start, end)| line[start..end.min(line.len())].trim())
        .collect()
}

fn json(rig: &Rig, arguments: &[&str]) -> (Option<i32>, Value) {
    let ran = rig.run(arguments.iter().copied());
    (
        ran.code,
        serde_json::from_str(&ran.stdout).unwrap_or_else(|_| panic!("no JSON: {ran:?}")),
    )
}

#[test]
fn piped_output_is_plain_columns_with_hints() {
    let mut rig = calm(["acme", "globex"]);
    rig.grant("acme");
    let daemon = rig.start();
    rig.wait_for_generation("acme", 2);
    let ran = rig.run(["status"]);
    assert_eq!(ran.code, Some(1), "globex is not fresh");
    assert_eq!(ran.stderr, "");
    assert!(
        !ran.stdout.contains('\x1b'),
        "escape codes in a pipe: {}",
        ran.stdout
    );
    let lines: Vec<_> = ran.stdout.lines().collect();
    assert_eq!(cells(lines[0], lines[0]), HEADING);
    let acme = cells(lines[0], lines[1]);
    assert_eq!(
        (acme[0], acme[1], &acme[5..]),
        ("acme", "fresh", ["-", "-"].as_slice())
    );
    assert!(
        acme[2].starts_with("59m") || acme[2].starts_with("1h"),
        "{acme:?}"
    );
    assert!(
        acme[3].ends_with(" ago") && acme[4].starts_with("in 2"),
        "{acme:?}"
    );
    let globex = cells(lines[0], lines[2]);
    assert_eq!(
        globex,
        ["globex", "awaiting-authorization", "-", "-", "-", "-", "-"]
    );
    assert!(
        lines[4].starts_with("globex: ") && lines[4].ends_with("refreshd import globex"),
        "{lines:?}"
    );
    assert_eq!(lines.len(), 5);
    assert!(
        lines.iter().all(|line| line.trim_end() == *line),
        "spaces at the end of a line"
    );
    daemon.stop();
}

#[test]
fn one_portal_is_shown_in_full_and_sets_the_exit_code() {
    let mut rig = calm(["acme", "globex"]);
    rig.grant("acme");
    let daemon = rig.start();
    rig.wait_for_generation("acme", 2);
    let acme = rig.run(["status", "acme"]);
    assert_eq!((acme.code, acme.stderr.as_str()), (Some(0), ""));
    let expires_at = rig.token_json("acme").unwrap()["expires_at"]
        .as_str()
        .unwrap()
        .to_owned();
    contains(
        &acme.stdout,
        &[
            "portal        acme\n",
            "phase         fresh\n",
            "generation    2\n",
            "app           crm\n",
        ],
    );
    contains(
        &acme.stdout,
        &[
            &expires_at,
            "endpoint      https://acme.bitrix24.com/rest/\n",
        ],
    );
    let globex = rig.run(["status", "globex"]);
    assert_eq!(globex.code, Some(1));
    contains(
        &globex.stdout,
        &[
            "phase         awaiting-authorization\n",
            "to do         ",
            "refreshd import globex",
        ],
    );
    daemon.stop();
}

#[test]
fn json_is_the_same_with_and_without_a_daemon() {
    let (rig, daemon) = fresh(["acme"]);
    let (code, with) = json(&rig, &["status", "--json"]);
    daemon.stop();
    let (code_without, without) = json(&rig, &["status", "--json"]);
    assert_eq!((code, code_without), (Some(0), Some(0)));
    for all in [with, without] {
        let [portal] = all["portals"].as_array().expect("portals").as_slice() else {
            panic!("{all}")
        };
        assert_eq!(
            (portal["portal"].as_str(), portal["phase"].as_str()),
            (Some("acme"), Some("fresh"))
        );
        assert_eq!(
            (portal["provider"].as_str(), portal["app"].as_str()),
            (Some("bitrix24"), Some("crm"))
        );
        assert_eq!(
            (portal["fresh"].as_bool(), portal["generation"].as_u64()),
            (Some(true), Some(2))
        );
        for time in ["expires_at", "renewed_at", "next_renewal"] {
            let text = portal[time]
                .as_str()
                .unwrap_or_else(|| panic!("no {time} in {portal}"));
            assert!(humantime::parse_rfc3339(text).is_ok(), "{time} is {text}");
        }
        assert!(
            (3500..=3600).contains(&portal["expires_in"].as_u64().unwrap()),
            "{portal}"
        );
        assert!(
            (1200..=1500).contains(&portal["next_renewal_in"].as_u64().unwrap()),
            "{portal}"
        );
        assert!(portal["renewed_ago"].as_u64().is_some());
        assert!(
            portal.get("last_error").is_none() && portal.get("incident").is_none(),
            "{portal}"
        );
    }
    let one = rig.run(["status", "acme"]);
    assert_eq!(one.code, Some(0));
    contains(&one.stderr, &["no daemon runs"]);
}

#[test]
fn unknown_portal_exits_66_with_a_suggestion() {
    let rig = calm(["acme", "globex"]);
    let daemon = rig.start();
    let check = || {
        for command in [
            &["status", "acmee"][..],
            &["token", "acmee"],
            &["renew", "acmee"],
            &["forget", "acmee"],
        ] {
            let ran = rig.run(command.iter().copied());
            assert_eq!(ran.code, Some(66), "{command:?}: {ran:?}");
            contains(
                &ran.stderr,
                &["refreshd: no portal is named acmee; did you mean acme?\n"],
            );
            assert_eq!(ran.stdout, "");
        }
        let ran = rig.import("acmee", "5bad2d67006e9f06");
        assert_eq!(ran.code, Some(66), "{ran:?}");
        let ran = rig.run(["status", "zzz"]);
        assert_eq!(ran.code, Some(66));
        assert!(!ran.stderr.contains("did you mean"), "{}", ran.stderr);
    };
    check();
    daemon.stop();
    check();
}
