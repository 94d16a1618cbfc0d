//! Invalid configurations, with all their messages.

use super::{ACME, Rig, load, problems, without_kinds};

/// The only problem of a configuration with this addition, without its position.
fn only(piece: &str) -> String {
    let found = problems(&format!("{piece}\n{ACME}"));
    let (_, message) = found.split_once(": ").unwrap();
    message.to_owned()
}

/// The only problem with these keys on the portal.
fn on_portal(keys: &str) -> String {
    let found = problems(&format!("{ACME}{keys}"));
    found.split_once(": ").unwrap().1.to_owned()
}

/// The only problem with these keys on an app.
fn on_app(keys: &str) -> String {
    on_portal(&format!(
        "[apps.other]\nprovider = 'bitrix24'\nclient_id = 'x'\nclient_secret_env = 'CRM'\n{keys}"
    ))
}

#[test]
fn all_problems_are_said_at_once_by_position() {
    insta::assert_snapshot!(problems("stat = 'x'\n\
        [http]\nlisten = 'localhost'\n[renewal]\nrate = 0\ntimeout = '10m'\nconcurrency = '5'\n\
        [apps.crm]\nprovider = 'bitrix42'\nclient_secret_env = 'NONE'\n\
        [apps.shop]\nprovider = 'x'\nclient_id = 'a'\n\
        [portals.acme]\napp = 'cmr'\nformats = ['jsn']\ndomain = 'https://acme.bitrix24.ru/rest/'\n\
        [portals.'../etc']\napp = 'shop'\n\
        [portals.lone]\ndomain = 'lone.bitrix24.de'\n"), @r#"
    main.toml:1:1: unknown key `stat` at the top level; did you mean `state`?
    main.toml:3:10: `listen` must be an IP address and a port such as "127.0.0.1:9470"
    main.toml:5:8: `rate` must be a number above 0, at most 100000
    main.toml:6:11: `timeout` must be between 1s and 5m
    main.toml:7:15: `concurrency` must be a whole number from 1 to 10000
    main.toml:8:7: `client_id` is missing in [apps.crm]
    main.toml:9:12: unknown provider `bitrix42`; did you mean `bitrix24`?
    main.toml:10:21: `client_secret_env`: no environment variable has that name; write the variable's name here, and its value in the environment of the daemon
    main.toml:11:7: a secret is missing in [apps.shop]: write `client_secret_file` (or `client_secret_env`, `client_secret_credential` or `client_secret`)
    main.toml:15:7: unknown app `cmr`; did you mean `crm`?
    main.toml:16:12: unknown format `jsn`; did you mean `json`? (there are json, raw, header, env)
    main.toml:17:10: `domain` must be a bare host name without scheme and path: write `acme.bitrix24.ru`
    main.toml:18:10: the portal needs another name: a name holds '.'; letters, digits, '.', '_' and '-' are safe in a file name, the first a letter or digit
    main.toml:20:10: `app` is missing in [portals.lone]: name an app, or write `provider`, `client_id` and a secret
    "#);
}

#[test]
fn every_syntax_error_is_said_and_nothing_that_follows_from_it() {
    insta::assert_snapshot!(problems("stat = 'x'\n[apps.crm]\nprovider = 'bitrix24\nclient_id = 5\n\
        [portals.acme]\napp = 'crn'\nformats = [1 2]\n"), @r#"
    main.toml:1:1: unknown key `stat` at the top level; did you mean `state`?
    main.toml:3:21: invalid literal string, expected `'`
    main.toml:7:12: string values must be quoted, expected literal string
    "#);
}

#[test]
fn names_are_guessed() {
    let mut found = String::new();
    for piece in [
        "[apps.a]\nprovider = 'bitrx24'\nclient_id = 'a'\nclient_secret_env = 'CRM'",
        "[portals.b]\napp = 'cmr'",
        "[portals.b]\napp = 'crm'\nformats = ['heder']",
        "[portals.b]\napp = 'crm'\nrenew_evry = '5m'",
        "[[escalation.step]]\nwhen = 'overdu'\nseverity = 'error'",
        "[[escalation.step]]\nwhen = 'failed'\nseverity = 'eror'",
        "[[escalation.step]]\nwhen = 'failed'\nseverity = 'error'\nnotify = ['osp']\n[channels.ops]\nkind = 'command'\ncommand = ['a']",
        "[channels.ops]\nkind = 'webhok'",
        "[log]\nlevel = 'inf'",
        "[log]\nformat = 'jurnald'",
        "[prtals.b]\napp = 'crm'",
    ] {
        found += &only(piece);
        found.push('\n');
    }
    insta::assert_snapshot!(without_kinds(&found), @r#"
    unknown provider `bitrx24`; did you mean `bitrix24`?
    unknown app `cmr`; did you mean `crm`?
    unknown format `heder`; did you mean `header`? (there are json, raw, header, env)
    unknown key `renew_evry` in [portals.b]; did you mean `renew_every`?
    `when` must be one of `failed`, `overdue`, `remaining < 20%`, `remaining < 10m`, `expired`, `needs-person`; did you mean `overdue`?
    `severity` must be one of `notice`, `warning`, `error`, `critical`; did you mean `error`?
    unknown channel `osp`; did you mean `ops`?
    `kind` must be one of KINDS; did you mean `webhook`?
    `level` must be one of `off`, `error`, `warn`, `info`, `debug`, `trace`; did you mean `info`?
    `format` must be one of `auto`, `text`, `json`, `journald`; did you mean `journald`?
    unknown key `prtals` at the top level; did you mean `portals`?
    "#);
}

#[test]
fn a_remedy_must_be_one_that_can_be_filled_in_and_done() {
    let mut found = String::new();
    for remedy in [
        "'ask {user}'",
        "'ask {Portal}'",
        "'ask {portal'",
        "'then: refreshd authorise {portal}'",
        "'then: refreshd renw {portal}'",
        "'''one\ntwo'''",
        "''",
        "5",
    ] {
        let row = format!(
            "[[apps.other.errors]]\nerror = 'locked'\nclass = 'blocked'\nremedy = {remedy}"
        );
        found += &format!("{remedy}: {}\n", on_app(&row));
    }
    insta::assert_snapshot!(found, @r#"
    'ask {user}': `remedy` holds `{user}`, which nothing fills in (there are {portal}, {domain}, {app})
    'ask {Portal}': `remedy` holds `{Portal}`, which nothing fills in; did you mean `portal`? (there are {portal}, {domain}, {app})
    'ask {portal': `remedy` has a brace without its other half (there are {portal}, {domain}, {app})
    'then: refreshd authorise {portal}': `remedy` names refreshd's command `authorise`, which does not exist; did you mean `authorize`? (there are check, status, token, renew, authorize, import, recover, forget)
    'then: refreshd renw {portal}': `remedy` names refreshd's command `renw`, which does not exist; did you mean `renew`? (there are check, status, token, renew, authorize, import, recover, forget)
    '''one
    two''': `remedy` must be one line without control characters
    '': `remedy` is empty
    5: `remedy` must be a string in quotes
    "#);
    let place = problems(&format!(
        "{ACME}\n[[apps.crm.errors]]\nerror = 'a'\nclass = 'gone'\nremedy = 'ask {{me}}'\n"
    ));
    assert!(place.starts_with("main.toml:11:10: "), "{place}");
}

#[test]
fn only_safe_urls_are_taken() {
    let mut found = String::new();
    for url in [
        "http://sso.example.org/token",
        "http://127.0.0.1.example.org/",
        "http://10.0.0.1/",
        "ftp://sso.example.org/",
        "sso.example.org/token",
        "https://user@sso.example.org/",
        "https://sso.example.org/#a",
        "https:\\\\sso.example.org",
        "https://sso.example.org/ x",
        "",
    ] {
        found += &format!("{url}: {}\n", on_app(&format!("token_url = '{url}'")));
    }
    insta::assert_snapshot!(found, @r#"
    http://sso.example.org/token: `token_url` must begin with https://; plain http is for loopback addresses only
    http://127.0.0.1.example.org/: `token_url` must begin with https://; plain http is for loopback addresses only
    http://10.0.0.1/: `token_url` must begin with https://; plain http is for loopback addresses only
    ftp://sso.example.org/: `token_url` must be a URL that begins with https://
    sso.example.org/token: `token_url` must be a whole URL such as "https://host.example/path"
    https://user@sso.example.org/: `token_url` must not hold a user name or password
    https://sso.example.org/#a: `token_url` must not hold a fragment (#…)
    https:\\sso.example.org: `token_url` must be a URL without white space and backslashes
    https://sso.example.org/ x: `token_url` must be a URL without white space and backslashes
    : `token_url` is empty
    "#);
    for url in [
        "http://127.0.0.1:9480/t",
        "http://[::1]/t",
        "http://localhost:1/t",
        "https://sso.example.org/t?a=b",
    ] {
        super::loaded(
            &format!("{ACME}token_url = '{url}'\n").replace("[portals.acme]\napp = 'crm'\n", ""),
        );
    }
}

#[test]
fn an_age_leaves_a_tenth_of_the_life() {
    insta::assert_snapshot!([
        on_app("renew_every = '55m'"), on_app("renew_every = '95%'"), on_app("renew_every = '0s'"), on_app("renew_every = 25"),
        on_app("renew_every = '25'"), on_app("assumed_lifetime = '20m'"), on_app("assumed_lifetime = '0s'"),
        on_portal("renew_every = '55m'"), on_portal("renew_every = '100%'"),
        only("[portals.p]\nprovider = 'bitrix24'\nclient_id = 'a'\nclient_secret_env = 'CRM'\nrenew_every = '1h'"),
    ].join("\n"), @r#"
    `renew_every` of 55m is beyond 90 % of the lifetime, 1h (`assumed_lifetime`)
    `renew_every` of 95% is beyond 90 % of the lifetime, 1h (`assumed_lifetime`)
    `renew_every` must be a duration such as "25m" or a share of the lifetime such as "67%"
    `renew_every` must be a duration such as "25m" or a share of the lifetime such as "67%"
    `renew_every` must be a duration such as "25m" or a share of the lifetime such as "67%"
    `renew_every` of 25m is beyond 90 % of the lifetime, 20m (`assumed_lifetime`)
    `assumed_lifetime` must be a duration in quotes such as "1h"
    `renew_every` of 55m is beyond 90 % of the lifetime, 1h (`assumed_lifetime`)
    `renew_every` must be a duration such as "25m" or a share of the lifetime such as "67%"
    `renew_every` of 1h is beyond 90 % of the lifetime, 1h (`assumed_lifetime`)
    "#);
}

#[test]
fn portals_are_checked() {
    insta::assert_snapshot!([
        on_portal("provider = 'bitrix24'"), on_portal("token_url = 'https://a.example/'"), on_portal("formats = []"),
        on_portal("domain = 'acme.bitrix24.ru/'"), on_portal("domain = 'a b'"), on_portal("region = 'r/u'"),
        on_portal("[portals.ACME]\napp = 'crm'"), on_portal("[portals.'a b']\napp = 'crm'"), on_portal("scope = 'crm'"),
        on_portal("redirect_uri = 'here'"), on_portal("[portals]\nx = 1"),
        on_portal("[portals.x]\nprovider = 'x'\nclient_id = 'a'\nclient_secret_env = 'CRM'\nmember_id = 'm'"),
    ].join("\n"), @r#"
    `provider` and `app` exclude each other in [portals.acme]; write it on the app
    `token_url` and `app` exclude each other in [portals.acme]; write it on the app
    `formats` is empty: no reader would get a token
    `domain` must be a bare host name without scheme and path: write `acme.bitrix24.ru`
    `domain` must be a bare host name such as `acme.bitrix24.com`
    `region` must be a word such as "ru"
    the name `acme` differs only by case from the one at main.toml:7:10
    the portal needs another name: a name holds ' '; letters, digits, '.', '_' and '-' are safe in a file name, the first a letter or digit
    `scope` must be a list of strings, none of them empty
    `redirect_uri` must be a whole URL such as "https://host.example/path"
    `x` in [portals] must be a table
    `member_id` cannot be checked: the provider has no `identity` field
    "#);
}

#[test]
fn secrets_are_checked() {
    let rig = Rig::new();
    rig.file("open", 0o644, "x");
    rig.file("group", 0o640, "x\n");
    rig.file("empty", 0o600, "\n");
    rig.file("binary", 0o600, [0xff, 0xfe]);
    rig.file("large", 0o600, vec![b'x'; 65_537]);
    rig.file("credentials/open", 0o644, "x");
    let app = "[apps.crm]\nprovider = 'bitrix24'\nclient_id = 'a'\n[portals.a]\napp = 'crm'\n";
    let with = |line: &str| app.replace("client_id = 'a'", &format!("client_id = 'a'\n{line}"));
    let mut found = String::new();
    for line in [
        "",
        "client_secret_file = './open'",
        "client_secret_file = './empty'",
        "client_secret_file = './binary'",
        "client_secret_file = './large'",
        "client_secret_file = './none'",
        "client_secret_file = './credentials'",
        "client_secret_env = 'NONE'",
        "client_secret_env = 'EMPTY'",
        "client_secret_credential = 'none'",
        "client_secret_credential = 'a/b'",
        "client_secret = ''",
        "client_secret_file = './group'\nclient_secret_env = 'CRM'",
    ] {
        found += &rig
            .problems(&with(line))
            .replace(rig.path().to_str().unwrap(), "DIR");
        found.push('\n');
    }
    found += &rig.problems(&format!("{ACME}refresh_token_file = './open'"));
    insta::assert_snapshot!(found, @r#"
    main.toml:1:7: a secret is missing in [apps.crm]: write `client_secret_file` (or `client_secret_env`, `client_secret_credential` or `client_secret`)
    main.toml:4:22: `client_secret_file`: ./open can be accessed by every user (mode 0644): chmod o-rwx it
    main.toml:4:22: `client_secret_file`: ./empty is empty
    main.toml:4:22: `client_secret_file`: ./binary is not UTF-8
    main.toml:4:22: `client_secret_file`: ./large is larger than 64 KiB, which no secret is
    main.toml:4:22: `client_secret_file`: ./none cannot be read: no such file or directory
    main.toml:4:22: `client_secret_file`: ./credentials is not a regular file
    main.toml:4:21: `client_secret_env`: no environment variable has that name; write the variable's name here, and its value in the environment of the daemon
    main.toml:4:21: `client_secret_env`: the environment variable of that name is empty
    main.toml:4:28: `client_secret_credential`: the credential of that name in credentials cannot be read: no such file or directory
    main.toml:4:28: `client_secret_credential`: a credential is named without slashes and leading dots
    main.toml:4:17: `client_secret` is empty
    main.toml:5:1: `client_secret_file` and `client_secret_env` in [apps.crm] mean the same; keep one of them
    main.toml:7:22: `refresh_token_file`: ./open can be accessed by every user (mode 0644): chmod o-rwx it
    "#);
    for line in [
        "client_secret_file = './group'",
        "client_secret_credential = 'open'",
        "client_secret_env = 'CRM'",
    ] {
        rig.load(&with(line)).unwrap();
    }
    let nowhere = load(
        &rig.file(
            "main.toml",
            0o640,
            with("client_secret_credential = 'open'"),
        ),
        &super::Environment::of([("", ""); 0]),
    );
    assert!(
        nowhere
            .unwrap_err()
            .to_string()
            .contains("$CREDENTIALS_DIRECTORY is not set")
    );
}

#[test]
fn settings_and_providers_are_checked() {
    insta::assert_snapshot!([
        only("state = 'postgres://db/refreshd'"), only("state = 'sqlite://x'"), only("include = ['none.toml']"),
        only("include = 'x'"), only("[http]\nlisten = '127.0.0.1'"), only("[http]"),
        only("[providers.bitrix24]\ntoken_url = 'https://a.example/'"), only("[providers.own]\nmethod = 'post'"),
        only("[providers.own]\nissuer = 'http://a.example/'"), only("[[providers.own.errors]]\nclass = 'gone'\n[providers.own]\ntoken_url = 'https://a.example/'"),
        only("[providers.own]\ntoken_url = 'https://a.example/'\n[[providers.own.errors]]\nstatus = 99\nclass = 'dead'"),
        only("[providers.own]\ntoken_url = 'https://a.example/'\nfields = ['refresh_token']"),
        only("[providers.own]\ntoken_url = 'https://a.example/'\ntoken_url_by_region = { ru = 'http://a.example/' }"),
    ].join("\n"), @r#"
    `state` must be a path: several machines on PostgreSQL are not supported by this version
    `state` must be a path, not a URL
    `include` names a file that does not exist
    `include` must be a list of strings, none of them empty
    `listen` must be an IP address and a port such as "127.0.0.1:9470"
    `listen` is missing in [http]
    the provider `bitrix24` is built in; override its keys on the app instead
    `token_url` is missing in [providers.own]
    `issuer` must begin with https://; plain http is for loopback addresses only
    a row of [[errors]] must have `status`, `error`, `description` or `match`: it would match every reply
    `status` must be a whole number from 100 to 599, or a list of them
    main.toml:5:9: `class` must be one of `not-sent`, `transient`, `in-doubt`, `client-rejected`, `blocked`, `needs-authorization`, `gone`, `too-early`, `unknown`
    `fields` names a field that is never handed to readers
    `token_url_by_region` must begin with https://; plain http is for loopback addresses only
    "#);
}

#[test]
fn the_forms_of_a_provider_are_checked() {
    let own = |keys: &str| {
        only(&format!(
            "[providers.own]\ntoken_url = 'https://a.example/'\n{keys}"
        ))
    };
    insta::assert_snapshot!([
        own("issuer = 'https://a.example/?x'"), own("allowed_hosts = ['https://b.example/']"), own("default_domain = 'https://b.example/'"), own("grant = 'password'"),
        own("pkce = 's256'"), own("scope_in_renewal = 'yes'"), own("parameter_names = { client = 'x' }"), own("headers = { Host = 'x' }"),
        own("headers = { 'a b' = 'x' }"), own("headers = { a = \"x\\ny\" }"), own("redirect_fields = ['id_token']"),
        own("reply = { access = 'x' }"), own("reply = { access_token = 1 }"), own("reply = { success = { code = 0 } }"), own("expires_in_unit = 'h'"),
        own("not_before = 'soon'"), own("not_before = 'expiry'\nrenew_every = '50%'"), own("not_before = '50m'\nrenew_every = '10m'"),
        own("rotation = 'often'"), own("errors = [{ match = { x = 1 }, class = 'gone' }]"),
        own("[portals.b]\nprovider = 'own'\nclient_id = 'x'\nclient_authentication = 'none'\ntoken_url = 'https://{domain}/token'"),
    ].join("\n"), @r#"
    `issuer` must not hold a query (?…)
    `allowed_hosts` must be a bare host name without scheme and path: write `b.example`
    `default_domain` must be a bare host name without scheme and path: write `b.example`
    `grant` must be one of `authorization-code`, `client-credentials`, `device`
    `pkce` must be one of `S256`, `plain`, `none`; did you mean `S256`?
    `scope_in_renewal` must be true or false, without quotes
    unknown key `client` in [parameter_names] of `own`
    `headers` must not set `Host`
    `a b` is no name of a header
    the value of a header must be one line without control characters
    `redirect_fields` names a field that is never handed to readers
    unknown key `access` in [reply] of `own`; did you mean `success`?
    `access_token` must be a string or a list of strings, none of them empty
    `code` must be a string or a list of strings, none of them empty
    `expires_in_unit` must be one of `s`, `ms`; did you mean `s`?
    `not_before` must be a duration in quotes such as "24h"
    `renew_every` is sooner than the provider's `not_before`
    `renew_every` is sooner than the provider's `not_before`
    `rotation` must be one of `always`, `sometimes`, `never`
    `x` must be a string or a list of strings, none of them empty
    `domain` is missing in [portals.b]: the provider's endpoints are on the portal's own host
    "#);
}

#[test]
fn steps_are_checked() {
    let step = |keys: &str| only(&format!("[[escalation.step]]\n{keys}"));
    insta::assert_snapshot!([
        step("when = 'failed'"), step("severity = 'error'"), step("when = 'remaining < soon'\nseverity = 'error'"),
        step("when = 'failed'\nshare = '10%'\nseverity = 'error'"), step("when = 'overdue'\nshare = '30'\nseverity = 'error'"),
        step("when = 'expired'\nseverity = 'error'\n[[escalation.step]]\nwhen = ' expired'\nseverity = 'error'"),
        step("when = 'failed'\nseverity = 'error'\nnotify = ['a']\n[channels.a]\nkind = 'heartbeat'\nurl = 'https://a.example/'"),
        only("[escalation]\nstep = 1"),
    ].join("\n"), @r#"
    `severity` is missing in [[escalation.step]]
    `when` is missing in [[escalation.step]]
    `when` must be as "remaining < 20%" or "remaining < 10m"
    `share` belongs to `when = "overdue"` alone
    `share` must be a share such as "30%"
    this step is given already at main.toml:1:1; name all channels in one step
    the channel `a` is a heartbeat: it only reports that all is well, and is not notified of incidents
    `step` must be a list of tables: [[escalation.step]]
    "#);
}

#[test]
fn a_name_is_given_once_in_all_files() {
    let rig = Rig::new();
    rig.file(
        "portals.d/a.toml",
        0o640,
        "[portals.globex]\napp = 'crm'\n[portals.acme]\napp = 'crm'\n",
    );
    rig.file(
        "portals.d/b.toml",
        0o640,
        "state = 'x'\nlisten = 1\n[portals.globex]\napp = 'crm'\n",
    );
    rig.file("portals.d/.#c.toml", 0o640, "an editor's lock");
    let found = rig.problems(&format!(
        "include = ['portals.d/*.toml', 'portals.d/a.toml']\n{ACME}"
    ));
    insta::assert_snapshot!(found.replace(rig.path().to_str().unwrap(), "DIR"), @r#"
    portals.d/a.toml:3:10: the portal `acme` is given already at main.toml:6:10
    portals.d/b.toml:1:1: `state` belongs in the main file, main.toml
    portals.d/b.toml:2:1: unknown key `listen` at the top level
    portals.d/b.toml:3:10: the portal `globex` is given already at portals.d/a.toml:1:10
    "#);
}

#[test]
fn unreadable_files_are_said() {
    let rig = Rig::new();
    let path = rig.path().join("none.toml");
    let found = load(&path, &rig.environment).unwrap_err().to_string();
    assert_eq!(
        found,
        format!(
            "{}:1:1: this file cannot be read: no such file or directory",
            path.display()
        )
    );
    let path = rig.file("latin.toml", 0o640, b"a = 1\nb = '\xe9'\n");
    let found = load(&path, &rig.environment).unwrap_err().to_string();
    assert_eq!(
        found,
        format!(
            "{}:2:1: this line is not UTF-8, as TOML must be",
            path.display()
        )
    );
}

#[test]
fn columns_are_characters() {
    insta::assert_snapshot!(problems("[http]\nlisten = '127.0.0.1:1'\n[log]\n'é' = 1\n[portals]\nüber = { app = 'ключ', x = 1 }\n"), @r#"
    main.toml:4:1: unknown key `é` in [log]
    main.toml:6:1: invalid unquoted key, expected letters, numbers, `-`, `_`
    "#);
}

#[test]
fn the_client_of_one_portal_is_not_for_another() {
    let own = "[portals.a]\nprovider = 'bitrix24'\nclient_id = 'a'\nclient_secret_env = 'CRM'\n";
    let found = problems(&format!("{own}[portals.b]\napp = 'portal a'\n"));
    assert_eq!(found, "main.toml:6:7: unknown app `portal a`");
}

#[test]
fn what_another_file_may_hold_is_not_called_unknown() {
    let rig = Rig::new();
    rig.file("apps.toml", 0o640, "[apps.shop\nclient_id = 'a'\n");
    let main = "include = ['apps.toml']\n[portals.acme]\napp = 'shop'\nformats = ['xml']\n";
    insta::assert_snapshot!(rig.problems(main), @r"
    apps.toml:1:11: unclosed table, expected `]`
    main.toml:4:12: unknown format `xml` (there are json, raw, header, env)
    ");
}
