//! `[install]` and `[apps.NAME.install]`: parsed values and problems.

use crate::domain::token_format::TokenFormat;
use std::time::Duration;

use super::{Rig, loaded, problems};
use crate::domain::install::Users;
use crate::domain::settings::RenewSetting;

/// An app without a portal.
const APP: &str =
    "[apps.crm]\nprovider = 'bitrix24'\nclient_id = 'local.1'\nclient_secret_env = 'CRM'\n";
const LISTENER: &str = "[install]\nlisten = '127.0.0.1:9472'\n";

/// The problems of these lines of `[apps.crm.install]`, which start at line 7.
fn on_rule(lines: &str) -> String {
    problems(&format!("{LISTENER}{APP}[apps.crm.install]\n{lines}"))
}

#[test]
fn an_empty_table_is_enough() {
    let loaded = loaded(&format!("{LISTENER}{APP}[apps.crm.install]\n"));
    assert!(loaded.warnings.is_empty(), "{:?}", loaded.warnings);
    let listener = loaded.config.install.unwrap();
    assert_eq!(
        (listener.listen.port(), listener.rate, listener.source_rate),
        (9472, 50.0, 25.0)
    );
    assert_eq!(listener.source_header, None);
    let app = &loaded.config.apps["crm"];
    let rule = app.install.as_ref().unwrap();
    assert_eq!(
        (rule.path.as_str(), rule.users),
        ("/install/crm", Users::Installer)
    );
    assert_eq!(
        (rule.names.of_app("crm").as_str(), rule.formats.len()),
        ("{domain}", 2)
    );
    let terms = app.install_context().unwrap();
    assert_eq!(
        (terms.binding, Duration::from_secs(1500)),
        (
            app.binding(None),
            match terms.every() {
                refreshd_token_client::renew_every::RenewEvery::Age(age) => age,
                other => panic!("{other:?}"),
            }
        )
    );
}

#[test]
fn every_key_is_read() {
    let config = loaded(&format!(
        "{LISTENER}rate = 5\nsource_rate = 0.5\nsource_header = 'X-Real-IP'\n{APP}[apps.crm.install]\nname = '{{app}}-{{domain}}'\n\
         formats = ['env']\nrenew_every = '10m'\npath = '/b24'\n\
         [apps.each]\nprovider = 'bitrix24'\nclient_id = 'local.2'\nclient_secret_env = 'CRM'\n[apps.each.install]\nusers = 'each'\n"
    ))
    .config;
    let listener = config.install.unwrap();
    assert_eq!((listener.rate, listener.source_rate), (5.0, 0.5));
    assert_eq!(listener.source_header.as_deref(), Some("x-real-ip"));
    let rule = config.apps["crm"].install.clone().unwrap();
    assert_eq!(
        (rule.path.as_str(), rule.formats),
        ("/b24", vec![TokenFormat::Env])
    );
    assert_eq!(rule.renew_every, Some(RenewSetting::AgeMillis(600_000)));
    assert_eq!(rule.names.of_app("crm"), "crm-{domain}");
    let each = config.apps["each"].install.as_ref().unwrap();
    assert_eq!((each.users, each.names.has("user_id")), (Users::Each, true));
}

#[test]
fn what_is_wrong_is_said_with_its_place() {
    insta::assert_snapshot!([
        on_rule("name = '{domian}'\nusers = 'all'\nformats = ['jsn']\nrenew_every = '55m'\npath = 'x?y'\nportals = 1"),
        on_rule("name = 'b24'"), on_rule("name = '{domain'"), on_rule("name = '{domain}/{user_id}'"),
        on_rule("users = 'each'\nname = '{domain}'"),
        problems("[install]\nlisten = '9472'\nrate = 0\nsource_header = 'X Y'\nport = 1"),
        problems(&format!("{LISTENER}{}[apps.crm.install]\n", APP.replace("bitrix24", "x"))),
        problems(&format!("{LISTENER}{APP}[apps.crm.install]\npath = '/i'\n{}[apps.two.install]\npath = '/i'\n", APP.replace("crm", "two"))),
        problems(&format!("{APP}install_check = 'app.info'\ninstall_script = 'http://a.example/'\ninstall_run = '</script>'\n")),
        problems(&format!("{LISTENER}{APP}token_url = 'https://{{domain}}/t'\n[apps.crm.install]\n")),
        problems(&format!("[portals.acme]\nprovider = 'bitrix24'\nclient_id = 'l'\nclient_secret_env = 'CRM'\ninstall = {{}}\n{LISTENER}")),
    ].join("\n"), @r#"
    main.toml:8:8: `name` holds a name in braces that nothing fills in; did you mean `domain`? (there are {domain}, {member_id}, {user_id}, {app})
    main.toml:9:9: `users` must be one of `installer`, `each`
    main.toml:10:12: unknown format `jsn`; did you mean `json`? (there are json, raw, header, env)
    main.toml:11:1: `renew_every` of 55m is beyond 90 % of the lifetime, 1h (`assumed_lifetime`)
    main.toml:12:8: `path` must begin with / and hold letters, digits and / . _ ~ - only
    main.toml:13:1: unknown key `portals` in [install] of `crm`
    main.toml:8:8: `name` must hold {domain} or {member_id}: all portals would have one name (there are {domain}, {member_id}, {user_id}, {app})
    main.toml:8:8: `name` has a brace without its other half (there are {domain}, {member_id}, {user_id}, {app})
    main.toml:8:8: `name` holds '/', which is not safe in a file name (there are {domain}, {member_id}, {user_id}, {app})
    main.toml:9:8: `name` must hold {user_id} where each user is a portal
    main.toml:2:10: `listen` must be an IP address and a port such as "127.0.0.1:9472"
    main.toml:3:8: `rate` must be a number above 0, at most 10000
    main.toml:4:17: `source_header` must be a header's name such as "X-Real-IP"
    main.toml:5:1: unknown key `port` in [install]
    main.toml:7:11: `install` needs a provider that returns a token's owner (`install_check`)
    main.toml:13:11: the `path` of this `install` is also that of the one at main.toml:7:11
    main.toml:5:17: `install_check` must begin with / and hold letters, digits and / . _ ~ - only
    main.toml:6:18: `install_script` must begin with https://; plain http is for loopback addresses only
    main.toml:7:15: `install_run` must not hold </, which would end it
    main.toml:8:11: `install` needs endpoints that are the provider's own: a portal must not choose them
    main.toml:5:1: unknown key `install` in [portals.acme]
    "#);
}

#[test]
fn what_does_nothing_is_a_warning() {
    let warnings = |text: &str| {
        let loaded = Rig::new()
            .load(text)
            .unwrap_or_else(|problems| panic!("{problems}"));
        loaded
            .warnings
            .iter()
            .map(ToString::to_string)
            .collect::<Vec<_>>()
            .join("\n")
    };
    let alone = warnings(&format!("{APP}[apps.crm.install]\n"));
    assert!(
        alone
            .ends_with("main.toml:5:11: `install` does nothing without [install] in the main file"),
        "{alone}"
    );
    let unused = warnings(&format!("{LISTENER}{}", super::ACME));
    assert!(
        unused.contains(
            "main.toml:1:2: no app has an install rule: write [apps.NAME.install] for one"
        ),
        "{unused}"
    );
    let two = APP
        .replace("apps.crm", "apps.two")
        .replace("local.1", "local.2");
    let same = warnings(&format!(
        "{LISTENER}{APP}[apps.crm.install]\n{two}[apps.two.install]\n"
    ));
    assert!(same.contains("put {app} into `name`"), "{same}");
    let own = warnings(&format!(
        "{LISTENER}{APP}[apps.crm.install]\n{two}[apps.two.install]\nname = '{{app}}.{{domain}}'\n"
    ));
    assert_eq!(own, "");
}
