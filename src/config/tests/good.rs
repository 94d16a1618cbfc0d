//! Valid configurations and their values.

use crate::domain::token_format::TokenFormat;
use std::path::Path;
use std::time::Duration;

use super::{ACME, Rig, loaded, problems};
use crate::config::{Loaded, Paths, load_paths};
use crate::domain::escalation::{Threshold, Trigger, default_steps};
use crate::domain::settings::RenewSetting;
use refreshd_alerting::Severity;
use refreshd_token_client::provider::{Class, ClientAuthentication, Method, Replay};
use refreshd_token_client::renew_every::RenewEvery;

const INFO: &str = "https://oauth.bitrix.info/oauth/token/";
const TECH: &str = "https://oauth.bitrix24.tech/oauth/token/";

#[test]
fn a_small_file_gets_the_defaults() {
    let config = loaded(ACME).config;
    assert_eq!(config.paths, Paths::default());
    assert_eq!(config.ladder, default_steps());
    assert_eq!(
        (
            config.renewal.limits.concurrency,
            config.renewal.limits.rate
        ),
        (256, 50.0)
    );
    assert_eq!(
        (config.renewal.timeout, config.http.is_none()),
        (Duration::from_secs(30), true)
    );
    let portal = &config.portals[0];
    assert_eq!(
        portal.settings.formats,
        [TokenFormat::Json, TokenFormat::Raw]
    );
    assert_eq!(portal.renewal_url(&config.apps["crm"]), INFO);
    assert_eq!(
        config.apps["crm"].client_secret.as_ref().unwrap().expose(),
        "s3cr3t"
    );
}

#[test]
fn the_region_chooses_the_server() {
    for (keys, url) in [
        ("domain = 'acme.bitrix24.ru'", TECH),
        ("domain = 'ACME.Bitrix24.By:443'", TECH),
        ("domain = 'acme.bitrix24.com.br'", INFO),
        ("domain = 'acme.bitrix24.de'", INFO),
        ("domain = 'crm.example.ru'", INFO),
        ("domain = 'crm.example.ru'\nregion = 'RU'", TECH),
        ("domain = 'acme.bitrix24.ru'\nregion = 'com'", INFO),
    ] {
        let config = loaded(&format!("{ACME}{keys}")).config;
        assert_eq!(
            config.portals[0].renewal_url(&config.apps["crm"]),
            url,
            "{keys}"
        );
    }
    // An app's own endpoint applies to all regions: nothing is sent to the profile's servers.
    let own = ACME.replace(
        "[portals.acme]",
        "token_url = 'http://127.0.0.1:1/t'\n[portals.acme]",
    );
    let config = loaded(&format!("{own}domain = 'acme.bitrix24.ru'")).config;
    assert_eq!(
        config.portals[0].renewal_url(&config.apps["crm"]),
        "http://127.0.0.1:1/t"
    );
    assert_eq!(
        config.apps["crm"]
            .profile
            .renewal_urls()
            .collect::<Vec<_>>(),
        ["http://127.0.0.1:1/t"]
    );
}

#[test]
fn overrides_and_own_providers_are_applied() {
    let config = loaded(&format!(
        "{ACME}renew_every = '10m'\nmember_id = 'm1'\n\
         [providers.own]\ntoken_url = 'https://sso.example.org/t'\n\
         [[providers.own.errors]]\nerror = 'invalid_grant'\ndescription = 'soon'\nclass = 'too-early'\n\
         [portals.wiki]\nprovider = 'own'\nclient_id = 'w'\nmethod = 'get'\nclient_authentication = 'none'\nrenew_every = '80%'\n\
         errors = [{{ status = [400, 401], class = 'gone', remedy = 'ask {{portal}}' }}]\n"
    ))
    .config;
    let acme = &config.portals[0].settings;
    assert_eq!(acme.renew_every, Some(RenewSetting::AgeMillis(600_000)));
    assert_eq!(
        (acme.app.as_str(), acme.identity.as_deref()),
        ("crm", Some("m1"))
    );
    let app = &config.apps[&config.portals[1].settings.app];
    assert_eq!(app.name, "portal wiki");
    assert!(app.client_secret.is_none());
    let profile = &app.profile;
    assert_eq!(
        (profile.name.as_str(), profile.method),
        ("own", Method::Get)
    );
    assert_eq!(profile.client_authentication, ClientAuthentication::None);
    assert_eq!(
        (profile.renew_every, profile.replay),
        (RenewEvery::Share(0.8), Replay::Now)
    );
    let classes: Vec<_> = profile
        .errors
        .iter()
        .take(3)
        .map(|rule| rule.class)
        .collect();
    assert_eq!(
        classes,
        [Class::Gone, Class::TooEarly, Class::NeedsAuthorization],
        "own rows first, then common ones"
    );
    assert_eq!(profile.errors[0].remedy.as_deref(), Some("ask {portal}"));
}

#[test]
fn steps_are_read() {
    let config = loaded(&format!(
        "{ACME}[channels.ops]\nkind = 'command'\ncommand = ['true']\n\
         [[escalation.step]]\nwhen = 'overdue'\nshare = '25%'\nseverity = 'warning'\nnotify = ['ops']\n\
         [[escalation.step]]\nwhen = 'remaining  <  20%'\nseverity = 'error'\n\
         [[escalation.step]]\nwhen = 'remaining < 10m'\nseverity = 'critical'\nnotify = []\n"
    ));
    let steps: Vec<_> = config
        .config
        .ladder
        .iter()
        .map(|step| (step.key.as_str(), step.when, step.severity))
        .collect();
    assert_eq!(
        steps,
        [
            ("overdue 25%", Trigger::Overdue(0.25), Severity::Warning),
            (
                "remaining < 20%",
                Trigger::Remaining(Threshold::Share(0.2)),
                Severity::Error
            ),
            (
                "remaining < 10m",
                Trigger::Remaining(Threshold::Span(Duration::from_secs(600))),
                Severity::Critical
            ),
        ]
    );
    let notify: Vec<_> = config
        .config
        .ladder
        .iter()
        .map(|step| step.notify.clone())
        .collect();
    assert_eq!(
        notify,
        [Some(vec!["ops".to_owned()]), None, Some(Vec::new())],
        "these, all, none"
    );
    assert!(config.warnings.is_empty(), "{:?}", config.warnings);
}

#[test]
fn what_is_hardly_meant_is_a_warning() {
    let messages = |text: &str| {
        loaded(text)
            .warnings
            .into_iter()
            .map(|warning| warning.message)
            .collect::<Vec<_>>()
            .join("\n")
    };
    assert_eq!(
        messages(""),
        "no portals are configured: nothing is kept fresh"
    );
    let unused = "[apps.old]\nprovider = 'x'\nclient_id = 'a'\nclient_secret_env = 'CRM'\n";
    assert_eq!(
        messages(&format!("{ACME}{unused}")),
        "no portal uses the app `old`"
    );
}

#[test]
fn paths_start_from_the_file_and_are_read_whatever_else_is_wrong() {
    let rig = Rig::new();
    let text = "state = 'a/state.db'\ntoken_dir = '/t'\nnonsense = 1\n[apps.crm]\nprovider = \n";
    let path = rig.file("main.toml", 0o640, text);
    let expected = Paths {
        state: rig.path().join("a/state.db"),
        token_dir: "/t".into(),
        control_socket: "/run/refreshd/control.sock".into(),
    };
    assert_eq!(load_paths(&path), Some(expected));
    assert_eq!(
        load_paths(Path::new("/nonexistent/refreshd.toml")),
        None,
        "a mistyped name leads nowhere"
    );
    assert_eq!(load_paths(&rig.file("main.toml", 0o640, "state = 1")), None);
    assert_eq!(
        load_paths(&rig.file("main.toml", 0o640, "state = 'postgres://a/b'")),
        None
    );
}

#[test]
fn included_files_are_put_together() {
    let rig = Rig::new();
    rig.file(
        "portals.d/z.toml",
        0o644,
        "[portals.alpha]\napp = 'crm'\nrefresh_token_file = 'alpha.refresh'\n",
    );
    let token = rig.file("portals.d/alpha.refresh", 0o600, "r1");
    let config = rig
        .load(&format!("include = ['portals.d/*.toml']\n{ACME}"))
        .unwrap()
        .config;
    let names: Vec<_> = config
        .portals
        .iter()
        .map(|portal| portal.name.as_str())
        .collect();
    assert_eq!(names, ["acme", "alpha"]);
    assert_eq!(config.portals[0].settings.refresh_token_file, None);
    assert_eq!(config.portals[1].settings.refresh_token_file, Some(token));
}

#[test]
fn a_spent_refresh_token_file_may_be_gone_or_empty() {
    let rig = Rig::new();
    rig.file("empty.refresh", 0o600, "\n");
    rig.file("open.refresh", 0o644, "");
    let with = |file: &str| format!("{ACME}refresh_token_file = '{file}'");
    let warned = |file: &str| {
        let Loaded {
            mut config,
            warnings,
            ..
        } = rig.load(&with(file)).unwrap();
        let warnings: String = warnings
            .iter()
            .map(|warning| format!("{warning}\n"))
            .collect();
        let file = config.portals.remove(0).settings.refresh_token_file;
        (
            warnings.replace(&format!("{}/", rig.path().display()), ""),
            file,
        )
    };
    let needed = "it is only needed while the state has no grant for `acme`";
    assert_eq!(
        warned("./gone.refresh"),
        (
            format!(
                "main.toml:7:22: `refresh_token_file`: ./gone.refresh does not exist; {needed}\n"
            ),
            Some(rig.path().join("./gone.refresh"))
        )
    );
    assert_eq!(
        warned("none/empty.refresh").0,
        format!(
            "main.toml:7:22: `refresh_token_file`: none/empty.refresh does not exist; {needed}\n"
        )
    );
    assert_eq!(
        warned("empty.refresh").0,
        format!("main.toml:7:22: `refresh_token_file`: empty.refresh is empty; {needed}\n")
    );
    // It may be the token itself, so it is never shown.
    assert_eq!(
        warned("5bad2d67"),
        (
            format!("main.toml:7:22: `refresh_token_file`: the file does not exist; {needed}\n"),
            None
        )
    );
    // An empty file that others may fill is a problem as well.
    assert!(
        rig.problems(&with("open.refresh"))
            .contains("can be accessed by every user")
    );
}

#[test]
fn clients_without_overrides_share_a_profile() {
    let client = "provider = 'bitrix24'\nclient_id = 'a'\nclient_secret = 'b'\n";
    let text = format!(
        "{ACME}[portals.one]\n{client}[portals.two]\n{client}domain = 'two.bitrix24.ru'\n[portals.own]\n{client}replay = 'late'\n"
    );
    let apps = loaded(&text).config.apps;
    let shared = |app: &str| std::sync::Arc::ptr_eq(&apps["crm"].profile, &apps[app].profile);
    assert!(
        shared("portal one") && shared("portal two"),
        "a profile is held twice"
    );
    assert!(!shared("portal own"), "an override reaches other clients");
    assert_ne!(
        apps["crm"].profile.replay,
        apps["portal own"].profile.replay
    );
}

/// 100,000 take a second or two even without optimisation; this number would reveal growth faster than linear.
#[test]
fn many_portals_load_quickly() {
    use std::fmt::Write as _;
    let mut text = ACME.to_owned();
    for n in 0..20_000 {
        let _ = write!(
            text,
            "[portals.p{n}]\napp = 'crm'\ndomain = 'p{n}.bitrix24.ru'\nformats = ['json']\n"
        );
    }
    assert_eq!(loaded(&text).config.portals.len(), 20_001);
}

#[test]
fn a_renamed_key_is_read_by_its_old_name_with_a_warning() {
    let text = format!(
        "{ACME}[alerts]\nfold = 7\n[http]\nlisten = '127.0.0.1:9'\nportal_series = 3\nhosts = ['h.example']\n\
         [providers.own]\ntoken_url = 'https://a.example/'\nreplay = 'late'\nearliest = '1m'\nnames = {{ client_id = 'key' }}\n\
         server = 'next'\nerrors = [{{ also = {{ kind = 'x' }}, class = 'gone' }}]\n\
         [portals.b]\nprovider = 'own'\nclient_id = 'x'\nclient_authentication = 'none'\n"
    );
    let Loaded {
        config, warnings, ..
    } = loaded(&text);
    assert_eq!(config.alerts.group_threshold, 7);
    let http = config.http.unwrap();
    assert_eq!(http.per_portal_metrics_limit, 3);
    assert_eq!(http.hosts, ["h.example"]);
    let profile = &config.apps["portal b"].profile;
    assert_eq!(profile.replay, Replay::Late);
    assert_eq!(profile.server_field.as_deref(), Some("next"));
    let mut messages: Vec<_> = warnings
        .iter()
        .map(|warning| warning.to_string().split(": ").nth(1).unwrap().to_owned())
        .collect();
    messages.sort();
    let renamed = |old: &str, new: &str| format!("`{old}` was renamed to `{new}`");
    assert_eq!(
        messages,
        [
            renamed("also", "match"),
            renamed("earliest", "not_before"),
            renamed("fold", "group_threshold"),
            renamed("hosts", "allowed_hosts"),
            renamed("late", "before-expiry"),
            renamed("names", "parameter_names"),
            renamed("portal_series", "per_portal_metrics_limit"),
            renamed("replay", "retry_ambiguous"),
            renamed("server", "token_server_field"),
        ]
    );
}

#[test]
fn a_renamed_key_beside_its_new_name_is_a_problem() {
    let text = format!("{ACME}[alerts]\nfold = 7\ngroup_threshold = 7\n");
    assert_eq!(
        problems(&text),
        "main.toml:8:1: `fold` was renamed to `group_threshold`, and both are there in [alerts]"
    );
}
