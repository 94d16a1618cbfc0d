//! `[network]`, and its keys on apps and channels.

use std::sync::Arc;

use super::{ACME, Rig, loaded, problems};

const AUTHORITY: &str = include_str!("../../../tests/fixtures/tls/authority.pem");
const HOOK: &str = "[channels.hook]\nkind = 'slack'\nurl_env = 'HOOK'\n";

#[test]
fn apps_and_channels_have_the_network_of_all_unless_they_have_keys_of_their_own() {
    let mut rig = Rig::new();
    rig.environment =
        super::Environment::of([("CRM", "s3cr3t"), ("HOOK", "https://hooks.example.org/1")]);
    rig.file("ca.pem", 0o644, AUTHORITY);
    let config = rig
        .load(&format!(
            "[network]\nproxy = 'http://proxy.corp:3128'\nno_proxy = '.lan'\nca_file = 'ca.pem'\n{ACME}\
             [apps.own]\nprovider = 'bitrix24'\nclient_id = 'local.2'\nclient_secret_env = 'CRM'\nproxy = 'socks5h://p'\n\
             [apps.direct]\nprovider = 'bitrix24'\nclient_id = 'local.3'\nclient_secret_env = 'CRM'\nproxy = 'none'\n\
             [apps.same]\nprovider = 'bitrix24'\nclient_id = 'local.4'\nclient_secret_env = 'CRM'\nproxy = 'socks5h://p:1080'\n{HOOK}",
        ))
        .unwrap()
        .config;
    let way = |app: &str, host: &str| config.apps[app].network.way_to(&format!("https://{host}/"));
    assert_eq!(
        way("crm", "a.example"),
        " through the proxy proxy.corp:3128"
    );
    assert_eq!(way("own", "a.example"), " through the proxy p:1080");
    assert_eq!(
        (way("own", "a.lan"), way("direct", "a.example")),
        (String::new(), String::new())
    );
    for app in config.apps.values() {
        assert_eq!(app.network.settings().authorities.certificates().count(), 1);
    }
    assert!(Arc::ptr_eq(&config.network, &config.apps["crm"].network));
    assert!(Arc::ptr_eq(&config.network, &config.channels[0].network));
    assert!(Arc::ptr_eq(
        &config.apps["own"].network,
        &config.apps["same"].network
    ));
}

#[test]
fn a_proxy_with_a_password_is_a_secret_of_its_file_and_one_without_is_not() {
    let rig = Rig::new();
    let load = |proxy: &str| {
        let text = format!("[network]\nproxy = '{proxy}'\n{ACME}");
        super::load(&rig.file("open.toml", 0o644, text), &rig.environment)
    };
    for open in ["http://proxy.corp:3128", "none"] {
        assert!(load(open).is_ok(), "{open}");
    }
    let refused = load("http://u:hunter2@proxy.corp").unwrap_err().to_string();
    assert!(
        refused.contains("every user can access this file"),
        "{refused}"
    );
}

#[test]
fn the_proxy_of_the_environment_may_lack_its_scheme() {
    let load = |variables: &[(&str, &str)]| {
        let mut rig = Rig::new();
        let variables = variables.iter().chain(&[("CRM", "s3cr3t")]);
        rig.environment = super::Environment::of(variables.copied());
        rig.load(&format!("[network]\nproxy = 'environment'\n{ACME}"))
    };
    let way = |variables: &[(&str, &str)], host: &str| {
        let network = load(variables).unwrap().config.network;
        network.way_to(&format!("https://{host}/"))
    };
    let both = [
        ("ALL_PROXY", "socks5h://all"),
        ("https_proxy", "proxy.corp:3128"),
        ("NO_PROXY", "corp, *.x,"),
    ];
    assert_eq!(
        way(&both, "a.example"),
        " through the proxy proxy.corp:3128"
    );
    assert_eq!(way(&both, "a.corp"), "");
    assert_eq!(way(&both[..1], "a.example"), " through the proxy all:1080");
    let warnings = |variables: &[(&str, &str)]| {
        let warnings = load(variables).unwrap().warnings;
        warnings.iter().map(ToString::to_string).collect::<String>()
    };
    assert!(warnings(&both).contains("an entry of the variable NO_PROXY is not used"));
    assert!(warnings(&[("HTTP_PROXY", "x")]).contains("the environment names no proxy"));
    let wrong = load(&[("HTTPS_PROXY", "https://u:hunter2@p")])
        .unwrap_err()
        .to_string();
    assert!(
        wrong.contains(":2:1: the address in the variable HTTPS_PROXY must begin with"),
        "{wrong}"
    );
    assert!(!wrong.contains("hunter2"));
}

#[test]
fn what_belongs_elsewhere_is_said() {
    let app = |line: &str| problems(&ACME.replace("client_id", &format!("{line}\nclient_id")));
    assert!(
        app("proxy = 'environment'")
            .contains("main.toml:3:1: `proxy = \"environment\"` belongs in [network]")
    );
    assert!(app("no_proxy = ['a']").contains("unknown key `no_proxy` in [apps.crm]"));
    let portal = problems(&format!("{ACME}proxy = 'none'\n"));
    assert!(
        portal.contains("`proxy` and `app` exclude each other"),
        "{portal}"
    );
    let mail = problems(&format!(
        "{ACME}[channels.mail]\nkind = 'email'\nproxy = 'none'\n"
    ));
    assert!(
        mail.contains("`proxy` in [channels.mail] is a key of "),
        "{mail}"
    );
    assert!(mail.contains("not of `email`"), "{mail}");
}

#[test]
fn an_authority_that_everybody_may_add_to_is_a_warning() {
    let rig = Rig::new();
    rig.file("ca.pem", 0o666, AUTHORITY);
    let accepted = rig
        .load(&format!("[network]\nca_file = 'ca.pem'\n{ACME}"))
        .unwrap();
    assert!(
        accepted.warnings[0]
            .message
            .contains("every user can write"),
        "{:?}",
        accepted.warnings
    );
    rig.file(
        "ca.pem",
        0o644,
        "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n",
    );
    let problems = rig.problems(&format!("[network]\nca_file = 'ca.pem'\n{ACME}"));
    assert_eq!(
        problems,
        "main.toml:2:11: `ca_file`: ca.pem holds a private key and no certificate: name the file of the authority's certificate"
    );
    assert!(loaded(ACME).warnings.is_empty());
    let elsewhere = rig.environment.clone().without_secrets();
    let text = format!("[network]\nca_file = 'gone.pem'\nproxy_file = 'gone.url'\n{ACME}");
    let unchecked = super::load(&rig.file("main.toml", 0o640, text), &elsewhere)
        .unwrap()
        .unchecked;
    assert_eq!(unchecked.len(), 2, "{unchecked:?}");
}

#[test]
fn an_address_in_the_place_of_a_file_is_not_shown() {
    for key in ["proxy_file", "proxy_credential"] {
        let text = format!("[network]\n{key} = 'http://me:hunter2@p:3128'\n{ACME}");
        let said = problems(&text);
        assert!(!said.contains("hunter2") && !said.contains("me:"), "{said}");
        assert!(said.contains(&format!("`{key}`")), "{said}");
    }
}
