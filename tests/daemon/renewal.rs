//! Renewal end to end, while everything is well: on time, published, counted, and the secrets kept in.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use crate::common::{CLIENT_SECRET, EVERY, LIFE, Rig, SOON, domain, now_millis};

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o7777
}

#[test]
fn a_first_refresh_token_becomes_files_that_are_renewed_on_time_again_and_again() {
    let mut rig = Rig::new(["acme"]);
    rig.grant("acme");
    let first_refresh = rig.sandbox.current_refresh(&domain("acme")).unwrap();
    let daemon = rig.start();
    // 1 is the grant that came in, 2 its first renewal, which brings the first access token.
    rig.wait_for_generation("acme", 2);
    // The event comes after the files.
    let limit = EVERY * 3 + SOON;
    daemon.wait_after(0, limit, "the renewal to generation 4", |event| event["generation"] == 4);
    let json = rig.token_json("acme").unwrap();
    let raw = fs::read_to_string(rig.token_path("acme", "token")).unwrap();
    assert_eq!(json["version"], 1);
    assert_eq!((json["portal"].as_str(), json["provider"].as_str()), (Some("acme"), Some("bitrix24")));
    assert_eq!(json["access_token"], raw);
    assert_eq!(json["token_type"], "Bearer");
    assert_eq!(json["endpoint"], "https://acme.bitrix24.com/rest/");
    assert_eq!(json["fields"]["member_id"].as_str().map(str::len), Some(32));
    let known = rig.sandbox.knows_access(&raw).expect("the server issued it");
    assert!(known.current && known.expires_at.millis() > now_millis());
    let promised = json["expires_at_unix"].as_i64().unwrap();
    assert!((promised - known.expires_at.secs()).abs() <= 1, "{promised} is not {}", known.expires_at);

    let renewals = daemon.events(|event| event["message"] == "renewal" && event["outcome"] == "renewed");
    let generations: Vec<_> = renewals.iter().filter_map(|event| event["generation"].as_u64()).collect();
    assert_eq!(generations[..3], [2, 3, 4], "one up with each renewal");
    for event in &renewals {
        assert_eq!(event["portal"], "acme");
        assert!(
            event["took_ms"].is_u64() && event["expires_at"].is_string() && event["next_renewal"].is_string()
        );
    }
    let at: Vec<_> = renewals.iter().map(|event| event["timestamp"].as_str().unwrap()).collect();
    let at: Vec<_> = at.iter().map(|at| humantime::parse_rfc3339(at).unwrap()).collect();
    let age = at[2].duration_since(at[1]).unwrap();
    assert!(age >= EVERY.mul_f64(0.89) && age <= EVERY + LIFE / 10, "renewed at the age of {age:?}");
    assert_eq!(
        rig.sandbox.renewals(&domain("acme")),
        rig.sandbox.requests(&domain("acme")),
        "no request in vain"
    );

    let directory = rig.path("tokens");
    assert_eq!((mode(&directory), mode(&directory.join("acme"))), (0o751, 0o750));
    let mut files: Vec<_> =
        fs::read_dir(directory.join("acme")).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    files.sort();
    assert_eq!(files, ["token", "token.json"]);
    let refresh = rig.sandbox.current_refresh(&domain("acme")).unwrap();
    for file in files {
        let path = directory.join("acme").join(file);
        assert_eq!(mode(&path), 0o640, "{}", path.display());
        let text = fs::read_to_string(&path).unwrap();
        for secret in [&*refresh, &first_refresh, CLIENT_SECRET] {
            assert!(!text.contains(secret), "{} holds a secret", path.display());
        }
    }
    assert_eq!(mode(&rig.path("state.db")), 0o600);
    daemon.stop();
    rig.no_violations();
}
