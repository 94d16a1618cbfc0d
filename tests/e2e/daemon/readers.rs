//! The first promise: a reader never sees a torn, unknown or expired token while renewals and failures go on.

use std::fs;
use std::thread;
use std::time::Duration;

use refreshd_fake_server::{At, Fault, Reuse, Rules};
use serde_json::Value;

use crate::common::{LIFE, Rig, always, domain, now_millis};

const PORTALS: [&str; 5] = ["acme", "globex", "hooli", "initech", "umbrella"];

/// Reads both files of a portal as a consumer would; a panic is a broken promise.
fn read(rig: &Rig, portal: &str) {
    let raw = fs::read_to_string(rig.token_path(portal, "token"))
        .unwrap_or_else(|error| panic!("{portal}: {error}"));
    let json = fs::read(rig.token_path(portal, "token.json"))
        .unwrap_or_else(|error| panic!("{portal}: {error}"));
    let json: Value =
        serde_json::from_slice(&json).unwrap_or_else(|error| panic!("{portal}: torn: {error}"));
    for token in [
        raw.as_str(),
        json["access_token"].as_str().unwrap_or_default(),
    ] {
        let known = rig.server.knows_access(token);
        let known =
            known.unwrap_or_else(|| panic!("{portal}: the server never issued this: {token:?}"));
        assert_eq!(known.domain, domain(portal), "another portal's token");
        let left = known.expires_at.millis() - now_millis();
        assert!(left > 0, "{portal}: expired {} ms ago", -left);
    }
    assert!(
        json["expires_at_unix"]
            .as_i64()
            .is_some_and(|at| at * 1000 > now_millis()),
        "{portal}: {json}"
    );
}

#[test]
fn readers_never_see_a_torn_unknown_or_expired_token() {
    let reuse = Reuse::Grace(Duration::from_secs(60));
    let mut rig = Rig::with_rules(
        PORTALS,
        Rules {
            token_lifetime: LIFE,
            reuse,
            ..Rules::default()
        },
    );
    PORTALS.iter().for_each(|portal| rig.grant(portal));
    let daemon = rig.start();
    PORTALS
        .iter()
        .for_each(|portal| drop(daemon.wait_for_outcome(portal, "renewed")));
    let reads = thread::scope(|scope| {
        let reader = scope.spawn(|| {
            let mut reads = 0_u64;
            always("everybody reads", Duration::from_secs(60), || {
                PORTALS.iter().for_each(|portal| read(&rig, portal));
                reads += 1;
                true
            });
            reads
        });
        // One request of each portal's first renewals fails, and one loses its response: there is time for another.
        for fault in [
            Fault::Refuse {
                status: 500,
                error: "x".into(),
                description: String::new(),
            },
            Fault::Lost,
        ] {
            PORTALS.iter().for_each(|portal| {
                rig.server
                    .fail(At::Portal(domain(portal)), fault.clone(), 1);
            });
        }
        reader.join().expect("no reader was disappointed")
    });
    assert!(reads > 500, "only {reads} reads");
    for portal in PORTALS {
        assert!(
            rig.renewals(portal) >= 6,
            "{portal}: {:?}",
            daemon.outcomes(portal)
        );
        let outcomes = daemon.outcomes(portal);
        assert!(
            ["transient", "in-doubt"]
                .iter()
                .all(|fault| outcomes.iter().any(|outcome| outcome == fault))
        );
    }
    rig.no_violations();
}
