//! `[http] listen`: metrics, health, the status page.

use std::fs;
use std::time::Duration;

use refreshd_fake_server::{At, Fault};

use crate::common::{Daemon, Rig, SOON, domain, eventually, message_contains};
use crate::interfaces::{broken, calm, contains, fresh};

/// The documented outcomes of a renewal.
const RESULTS: [&str; 10] = [
    "renewed",
    "not-sent",
    "transient",
    "in-doubt",
    "client-rejected",
    "blocked",
    "needs-authorization",
    "gone",
    "too-early",
    "unknown",
];

fn is(rig: &Rig, name: &str, value: f64) {
    let metric = rig.metric(name);
    assert!(
        (metric - value).abs() < 1e-6,
        "{name} is {metric}, not {value}"
    );
}

#[test]
fn every_metric_starts_at_zero() {
    let rig = calm(["acme"]);
    let daemon = rig.start();
    let (kind, text) = metrics_as(&rig, Some("application/openmetrics-text; version=1.0.0"));
    assert_eq!(
        kind,
        "application/openmetrics-text; version=1.0.0; charset=utf-8"
    );
    assert!(text.ends_with("# EOF\n"), "{text}");
    for (name, kind) in [
        ("portals", "gauge"),
        ("renewals", "counter"),
        ("renewal_duration_seconds", "histogram"),
        ("renewal_lateness_seconds", "histogram"),
        ("claims_in_doubt", "gauge"),
        ("tokens_unsaved", "gauge"),
        ("state_writable", "gauge"),
        ("token_files_failing", "gauge"),
        ("portals_overdue", "gauge"),
        ("incidents_open", "gauge"),
        ("alert_outbox_oldest_timestamp_seconds", "gauge"),
        ("silences_active", "gauge"),
        ("config_last_reload_successful", "gauge"),
        ("build", "info"),
    ] {
        contains(
            &text,
            &[
                &format!("# TYPE refreshd_{name} {kind}\n"),
                &format!("# HELP refreshd_{name} "),
            ],
        );
    }
    // No timestamp could stand for a missing token, and there is no skew before a server has responded.
    let without = |name: &str| !text.lines().any(|line| line.starts_with(name));
    for name in [
        "refreshd_token_expiry",
        "refreshd_token_renewal",
        "refreshd_token_issued",
        "refreshd_clock_skew",
    ] {
        assert!(without(name), "{text}");
    }
    is(&rig, "refreshd_alert_outbox_oldest_timestamp_seconds", 0.0);
    is(&rig, "refreshd_silences_active", 0.0);
    for result in RESULTS {
        is(
            &rig,
            &format!("refreshd_renewals_total{{provider=\"bitrix24\",result=\"{result}\"}}"),
            0.0,
        );
    }
    let renewals = text
        .lines()
        .filter(|line| line.starts_with("refreshd_renewals_total"))
        .count();
    assert_eq!(
        renewals,
        RESULTS.len(),
        "a result that the contract does not know"
    );
    for severity in ["notice", "warning", "error", "critical"] {
        is(
            &rig,
            &format!("refreshd_incidents_open{{severity=\"{severity}\"}}"),
            0.0,
        );
    }
    for phase in [
        "fresh",
        "retrying",
        "in-doubt",
        "client-rejected",
        "blocked",
        "needs-authorization",
        "gone",
    ] {
        is(&rig, &format!("refreshd_portals{{phase=\"{phase}\"}}"), 0.0);
    }
    is(
        &rig,
        "refreshd_portals{phase=\"awaiting-authorization\"}",
        1.0,
    );
    is(&rig, "refreshd_claims_in_doubt", 0.0);
    is(&rig, "refreshd_tokens_unsaved", 0.0);
    is(&rig, "refreshd_state_writable", 1.0);
    is(&rig, "refreshd_token_files_failing", 0.0);
    is(&rig, "refreshd_portals_overdue", 0.0);
    is(&rig, "refreshd_renewal_duration_seconds_count", 0.0);
    is(&rig, "refreshd_renewal_lateness_seconds_count", 0.0);
    is(&rig, "refreshd_config_last_reload_successful", 1.0);
    is(
        &rig,
        &format!(
            "refreshd_build_info{{version=\"{}\"}}",
            env!("CARGO_PKG_VERSION")
        ),
        1.0,
    );
    daemon.stop();
}

/// `Content-Type` and body of the metrics, for a client that accepts this.
fn metrics_as(rig: &Rig, accept: Option<&str>) -> (String, String) {
    let url = format!("http://{}/metrics", rig.config.http);
    let client = reqwest::Client::builder()
        .no_proxy()
        .build()
        .expect("a client");
    let mut request = client.get(url);
    if let Some(accept) = accept {
        request = request.header("accept", accept);
    }
    rig.runtime.block_on(async {
        let reply = request.send().await.expect("a response");
        let kind = reply.headers()["content-type"]
            .to_str()
            .expect("a text")
            .to_owned();
        (kind, reply.text().await.expect("a body"))
    })
}

#[test]
fn text_format_is_the_default() {
    let rig = calm(["acme"]);
    let daemon = rig.start();
    for accept in [
        None,
        Some("text/html,*/*;q=0.8"),
        Some("text/plain;version=0.0.4"),
    ] {
        let (kind, text) = metrics_as(&rig, accept);
        assert_eq!(
            kind, "text/plain; version=0.0.4; charset=utf-8",
            "{accept:?}"
        );
        contains(
            &text,
            &[
                "# TYPE refreshd_renewals_total counter\n",
                "# TYPE refreshd_build_info gauge\n",
                "# TYPE refreshd_portals gauge\n",
            ],
        );
        for word in ["# EOF", "# UNIT", " info\n", " unknown\n"] {
            assert!(!text.contains(word), "{word:?} in\n{text}");
        }
    }
    daemon.stop();
}

#[test]
fn renewal_is_counted_at_once() {
    let (rig, daemon) = fresh(["acme"]);
    let json = rig.token_json("acme").unwrap();
    let ends = json["expires_at_unix"].as_f64().unwrap();
    let expiry = rig.metric("refreshd_token_expiry_timestamp_seconds{portal=\"acme\"}");
    let issued = rig.metric("refreshd_token_issued_timestamp_seconds{portal=\"acme\"}");
    let due = rig.metric("refreshd_token_renewal_due_timestamp_seconds{portal=\"acme\"}");
    assert!((expiry - ends).abs() <= 1.0, "{expiry} is not {ends}");
    assert!(
        (expiry - issued - 3600.0).abs() <= 1.0,
        "{issued} to {expiry}"
    );
    assert!(
        (1349.0..=1501.0).contains(&(due - issued)),
        "due at the age of {}",
        due - issued
    );
    daemon.wait_for("the renewal", |event| event["outcome"] == "renewed");
    eventually("the count", SOON, || {
        rig.metric("refreshd_renewal_duration_seconds_count") > 0.0
    });
    is(
        &rig,
        "refreshd_renewals_total{provider=\"bitrix24\",result=\"renewed\"}",
        1.0,
    );
    is(&rig, "refreshd_renewal_lateness_seconds_count", 1.0);
    is(&rig, "refreshd_portals{phase=\"fresh\"}", 1.0);
    let server = rig.config.apps[0]
        .token_url
        .trim_start_matches("http://")
        .trim_end_matches("/oauth/token/");
    assert!(
        rig.metric(&format!(
            "refreshd_clock_skew_seconds{{server=\"{server}\"}}"
        ))
        .abs()
            <= 1.0
    );
    daemon.stop();
}

#[test]
fn no_series_per_portal_beyond_the_limit() {
    let mut rig = calm(["acme", "globex"]);
    rig.grant("acme");
    for (limit, series) in [(2, 1), (1, 0)] {
        let config = rig.config.to_string().replace(
            "[http]\n",
            &format!("[http]\nper_portal_metrics_limit = {limit}\n"),
        );
        rig.secret("refreshd.toml", &config);
        let daemon = Daemon::spawn(rig.command(["run"]));
        daemon.wait_for("the daemon to be ready", |event| {
            message_contains(event, "is ready")
        });
        rig.wait_for_generation("acme", 2);
        let (_, text) = rig.http("/metrics");
        assert_eq!(
            text.matches("{portal=\"").count(),
            4 * series,
            "per_portal_metrics_limit = {limit}\n{text}"
        );
        is(&rig, "refreshd_portals{phase=\"fresh\"}", 1.0);
        daemon.stop();
    }
}

#[test]
fn healthy_daemon_is_live_and_ready() {
    let (rig, daemon) = fresh(["acme"]);
    assert_eq!(rig.http("/livez"), (200, "live\n".to_owned()));
    assert_eq!(rig.http("/readyz"), (200, "ready\n".to_owned()));
    assert_eq!(
        rig.http("/v1/portals").0,
        404,
        "the control API is not served here"
    );
    daemon.stop();
}

#[test]
fn overdue_portal_makes_it_not_ready() {
    let life = Duration::from_secs(10);
    let mut rig = Rig::with_lifetime(["acme"], life);
    rig.config.app().renew_every = Duration::from_secs(3);
    rig.grant("acme");
    let daemon = rig.start();
    rig.wait_for_generation("acme", 2);
    rig.server.fail(At::All, broken(), u32::MAX);
    eventually("not ready", SOON, || {
        rig.http("/readyz") == (503, "1 portal is overdue\n".to_owned())
    });
    is(&rig, "refreshd_portals_overdue", 1.0);
    assert_eq!(rig.http("/livez").0, 200, "a restart would not help");
    rig.server.heal(At::All);
    eventually("ready again", Duration::from_secs(45), || {
        rig.http("/readyz").0 == 200
    });
    is(&rig, "refreshd_portals_overdue", 0.0);
    daemon.stop();
    rig.no_violations();
}

#[test]
fn unwritable_files_make_it_not_ready() {
    let mut rig = calm(["acme"]);
    fs::create_dir(rig.path("tokens")).unwrap();
    // Not even root can write into a directory that is a file.
    rig.secret("tokens/acme", "in the way");
    rig.grant("acme");
    let daemon = rig.start();
    eventually("not ready", SOON, || {
        rig.http("/readyz")
            == (
                503,
                "the token files of 1 portal cannot be written\n".to_owned(),
            )
    });
    is(&rig, "refreshd_token_files_failing", 1.0);
    is(&rig, "refreshd_state_writable", 1.0);
    assert_eq!(
        rig.run(["token", "acme"]).code,
        Some(0),
        "the command still prints it"
    );
    fs::remove_file(rig.path("tokens/acme")).unwrap();
    eventually("ready again", Duration::from_secs(60), || {
        rig.http("/readyz").0 == 200
    });
    is(&rig, "refreshd_token_files_failing", 0.0);
    assert_eq!(rig.generation("acme"), 2);
    daemon.stop();
}

#[test]
fn status_page_shows_every_portal_and_escapes_markup() {
    let mut rig = calm(["acme", "globex"]);
    rig.grant("acme");
    let description = "<script>alert('x')</script> & \"more\"".to_owned();
    let fault = Fault::Refuse {
        status: 400,
        error: "odd<b>".to_owned(),
        description,
    };
    rig.server.fail(At::Portal(domain("acme")), fault, u32::MAX);
    let daemon = rig.start();
    rig.wait_for_phase("acme", "retrying");
    let (status, page) = rig.http("/");
    assert_eq!(status, 200);
    contains(
        &page,
        &[
            "<strong>acme</strong>",
            "<strong>globex</strong>",
            ">retrying<",
            ">awaiting-authorization<",
        ],
    );
    contains(
        &page,
        &[
            "&lt;script&gt;alert",
            "odd&lt;b&gt;",
            "refreshd authorize globex",
            "0 of 2 portals fresh",
        ],
    );
    assert!(!page.contains("<script") && !page.contains("<b>"), "{page}");
    // The same text on a terminal: no control characters.
    let ran = rig.run(["status"]);
    contains(&ran.stdout, &["<script>"]);
    daemon.stop();
}

#[test]
fn dns_rebinding_reads_nothing() {
    let mut rig = calm(["acme"]);
    rig.config.http_hosts = vec!["ops.example.org".to_owned()];
    let daemon = rig.start();
    let get = |path: &str, host: &str| {
        let client = reqwest::Client::builder()
            .no_proxy()
            .timeout(SOON)
            .build()
            .expect("a client");
        let request = client
            .get(format!("http://{}{path}", rig.config.http))
            .header("host", host);
        rig.runtime
            .block_on(async { request.send().await.expect("an answer") })
    };
    for path in ["/", "/metrics", "/readyz", "/livez"] {
        assert_eq!(get(path, "evil.example").status(), 421, "{path}");
        assert_eq!(get(path, "evil.example:9470").status(), 421, "{path}");
        for host in [
            "127.0.0.1",
            "localhost:9470",
            "[::1]",
            "ops.example.org",
            "OPS.example.org:443",
        ] {
            assert_ne!(get(path, host).status(), 421, "{path} at {host}");
        }
    }
    let page = get("/", "localhost");
    let policy = page.headers()["content-security-policy"]
        .to_str()
        .expect("text")
        .to_owned();
    assert!(
        policy.contains("default-src 'none'") && policy.contains("frame-ancestors 'none'"),
        "{policy}"
    );
    assert_eq!(page.headers()["x-content-type-options"], "nosniff");
    daemon.stop();
}
