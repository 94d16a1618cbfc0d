//! The listing of portals under load: in pages, in bounded memory, and completely with `refreshd status`.

use std::fmt::Write as _;

use serde_json::Value;

use crate::interfaces::{calm, contains};

const MANY: usize = 3_500;

#[test]
fn thousands_of_portals_are_paged_in_bounded_memory() {
    let mut rig = calm(["acme"]);
    rig.config.more = (0..MANY).fold(String::new(), |mut text, n| {
        let _ = writeln!(text, "[portals.p{n:05}]\napp = \"crm\"");
        text
    });
    let daemon = rig.start();
    let before = daemon.peak_memory();
    let page = |query: &str| rig.get_json(&format!("/v1/portals{query}"));
    let names = |page: &Value| -> Vec<String> {
        let portals = page["portals"].as_array().expect("a list");
        portals
            .iter()
            .map(|view| view["portal"].as_str().expect("a name").to_owned())
            .collect()
    };
    let first = page("");
    assert_eq!(
        (names(&first).len(), names(&first)[0].as_str()),
        (1000, "acme")
    );
    assert_eq!(first["next"], "p00998");
    let (mut all, mut query) = (Vec::new(), "?limit=700".to_owned());
    loop {
        let page = page(&query);
        all.extend(names(&page));
        match page["next"].as_str() {
            Some(next) => query = format!("?limit=700&after={next}"),
            None => break,
        }
    }
    assert_eq!(all.len(), MANY + 1);
    assert!(
        all.windows(2).all(|pair| pair[0] < pair[1]),
        "in the order of their names, each once"
    );
    assert_eq!(names(&page("?limit=1&after=p03498")), ["p03499"]);
    assert_eq!(
        (
            names(&page("?after=p03499")).len(),
            page("?after=p03499")["next"].clone()
        ),
        (0, Value::Null)
    );
    let whole = page(&format!("?limit={}", MANY + 1));
    assert_eq!(
        (names(&whole).len(), whole["next"].clone()),
        (MANY + 1, Value::Null),
        "the last page is marked as the last"
    );
    for bad in [
        "?limit=0",
        "?limit=10001",
        "?limit=many",
        "?after=..%2F",
        "?page=2",
    ] {
        assert_eq!(
            rig.control("GET", &format!("/v1/portals{bad}"), "").0,
            400,
            "{bad}"
        );
    }

    // The command follows the pages.
    let ran = rig.run(["status"]);
    let lines: Vec<_> = ran
        .stdout
        .lines()
        .filter(|line| line.contains("awaiting-authorization"))
        .collect();
    assert_eq!(lines.len(), MANY + 1);
    assert_eq!(ran.stdout.matches("LAST ERROR").count(), 1, "one heading");
    contains(
        &ran.stdout,
        &[
            "acme: authorize it in a browser",
            "… and 2501 more; see: refreshd status PORTAL",
        ],
    );
    let json: Value = serde_json::from_str(&rig.run(["status", "--json"]).stdout).expect("JSON");
    assert_eq!(names(&json), all);
    let grown = daemon.peak_memory().saturating_sub(before);
    assert!(grown < 24 * 1024, "{grown} KiB for listings");
    daemon.stop();
    // So does the command without a daemon.
    let json: Value = serde_json::from_str(&rig.run(["status", "--json"]).stdout).expect("JSON");
    assert_eq!(names(&json), all);
}

#[test]
fn json_of_few_portals_is_unchanged() {
    let mut rig = calm(["acme", "globex"]);
    let daemon = rig.start();
    let ran = rig.run(["status", "--json"]);
    let json: Value = serde_json::from_str(&ran.stdout).expect("JSON");
    assert_eq!(
        ran.stdout,
        format!("{}\n", serde_json::to_string_pretty(&json).expect("JSON")),
        "as it was printed"
    );
    assert_eq!(json.as_object().map(|json| json.len()), Some(1));
    let listing = rig.get_json("/v1/portals");
    assert_eq!(
        listing.as_object().map(|json| json.len()),
        Some(1),
        "no `next` where there is none"
    );
    daemon.stop();
    rig.config.portals.clear();
    rig.write_config();
    assert_eq!(
        rig.run(["status", "--json"]).stdout,
        "{\n  \"portals\": []\n}\n"
    );
    contains(
        &rig.run(["status"]).stdout,
        &["no portals; name one in the configuration"],
    );
}
