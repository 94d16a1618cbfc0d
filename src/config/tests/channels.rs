//! Channels and common alert settings: parsed values, and messages of invalid ones.

use std::time::Duration;

use super::{ACME, Rig, loaded, without_kinds};
use crate::config::AlertsConfig;
use refreshd_alerting::channel::{Channel, ChannelConfig, MailConfig, MailTls};

fn channel(keys: &str) -> Channel {
    let mut channels = loaded(&format!("{ACME}[channels.a]\n{keys}"))
        .config
        .channels;
    assert_eq!(channels.len(), 1);
    channels.remove(0)
}

/// All messages about a channel, problems or warnings, without positions.
fn messages(keys: &str) -> String {
    let rig = Rig::new();
    let messages = |problems: Vec<crate::config::ConfigError>| {
        problems
            .into_iter()
            .map(|problem| problem.message)
            .collect::<Vec<_>>()
            .join("\n")
    };
    match rig.load(&format!("{ACME}[channels.a]\n{keys}")) {
        Ok(loaded) => format!("(warning) {}", messages(loaded.warnings)),
        Err(problems) => messages(problems.0),
    }
}

fn mail(keys: &str) -> MailConfig {
    let common = "kind = 'email'\nfrom = 'a@example.org'\nto = 'Ops <b@example.org>'\n";
    match channel(&format!("{common}{keys}")).kind {
        ChannelConfig::Email(mail) => mail,
        other => panic!("{other:?}"),
    }
}

const WEBHOOK: &str = "kind = 'webhook'\nurl = 'https://hooks.example.org/1'\n";

#[test]
fn every_kind_has_its_defaults() {
    let secs = Duration::from_secs;
    let webhook = channel(WEBHOOK);
    assert_eq!((webhook.name.as_str(), webhook.timeout), ("a", secs(10)));
    assert!(matches!(
        webhook.kind,
        ChannelConfig::Webhook {
            authorization: None,
            template: None,
            ..
        }
    ));
    let ChannelConfig::PagerDuty { url, routing_key } =
        channel("kind = 'pagerduty'\nrouting_key = '0123456789abcdef0123456789abcdef'").kind
    else {
        panic!()
    };
    assert_eq!(url.expose(), "https://events.pagerduty.com/v2/enqueue");
    assert_eq!(routing_key.expose().len(), 32);
    let telegram = |id: &str| {
        channel(&format!(
            "kind = 'telegram'\nbot_token = '1:a-B_c'\nchat_id = {id}"
        ))
        .kind
    };
    for (written, means) in [
        ("-1001", "-1001"),
        ("'@alerts'", "@alerts"),
        ("' 17 '", "17"),
    ] {
        let ChannelConfig::Telegram {
            url,
            bot_token: _,
            chat_id,
        } = telegram(written)
        else {
            panic!()
        };
        assert_eq!(
            (url.expose(), chat_id.as_str()),
            ("https://api.telegram.org", means)
        );
    }
    let command = channel("kind = 'command'\ncommand = ['/bin/sh', '-c', 'true']\ntimeout = '1s'");
    assert_eq!(command.timeout, secs(1));
    assert_eq!(
        channel("kind = 'command'\ncommand = ['true']").timeout,
        secs(30)
    );
    let beat = |keys: &str| match channel(&format!(
        "kind = 'heartbeat'\nurl = 'https://a.example/1'\n{keys}"
    ))
    .kind
    {
        ChannelConfig::Heartbeat { every, .. } => every,
        other => panic!("{other:?}"),
    };
    assert_eq!((beat(""), beat("every = '15s'")), (secs(60), secs(15)));
}

#[test]
fn programs_with_a_slash_start_from_the_configuration_and_others_from_the_path() {
    let rig = Rig::new();
    rig.file("alert", 0o755, "#!/bin/sh\n");
    let command = |program: &str| {
        let loaded = rig
            .load(&format!(
                "{ACME}[channels.a]\nkind = 'command'\ncommand = ['{program}', './x']"
            ))
            .unwrap();
        assert!(loaded.warnings.is_empty(), "{:?}", loaded.warnings);
        match loaded.config.channels.into_iter().next().unwrap().kind {
            ChannelConfig::Command { command, directory } => (command, directory),
            other => panic!("{other:?}"),
        }
    };
    let folder = rig.path().to_owned();
    let path = folder.join("./alert").to_str().unwrap().to_owned();
    assert_eq!(
        command("./alert"),
        (vec![path, "./x".to_owned()], folder.clone())
    );
    assert_eq!(
        command("alert"),
        (vec!["alert".to_owned(), "./x".to_owned()], folder)
    );
}

#[test]
fn the_port_and_the_protection_of_mail_each_say_something_of_the_other() {
    for (keys, host, port, tls) in [
        (
            "smtp = 'mx.example.org'",
            "mx.example.org",
            587,
            MailTls::StartTls,
        ),
        (
            "smtp = 'mx.example.org:25'",
            "mx.example.org",
            25,
            MailTls::StartTls,
        ),
        (
            "smtp = 'mx.example.org:465'",
            "mx.example.org",
            465,
            MailTls::Implicit,
        ),
        (
            "smtp = 'mx.example.org'\ntls = 'implicit'",
            "mx.example.org",
            465,
            MailTls::Implicit,
        ),
        (
            "smtp = 'mx.example.org:465'\ntls = 'starttls'",
            "mx.example.org",
            465,
            MailTls::StartTls,
        ),
        (
            "smtp = '127.0.0.1'\ntls = 'off'",
            "127.0.0.1",
            25,
            MailTls::Off,
        ),
        (
            "smtp = '[::1]:2525'\ntls = 'off'",
            "::1",
            2525,
            MailTls::Off,
        ),
        (
            "smtp = 'localhost:1025'\ntls = 'off'",
            "localhost",
            1025,
            MailTls::Off,
        ),
    ] {
        let found = mail(keys);
        assert_eq!(
            (found.host.as_str(), found.port, found.tls),
            (host, port, tls),
            "{keys}"
        );
        assert!(found.login.is_none());
    }
    let with_login = mail("smtp = 'mx.example.org'\nuser = 'u'\npassword_env = 'CRM'");
    assert_eq!(with_login.login.unwrap().1.expose(), "s3cr3t");
    assert_eq!(with_login.to, ["Ops <b@example.org>"]);
}

#[test]
fn bad_channels_are_told_apart() {
    let email = "kind = 'email'\nfrom = 'a@example.org'\nto = 'b@example.org'\n";
    let cases = [
        "kind = 'pagerduty'",
        "kind = 'pagerduty'\nrouting_key = 'short'",
        "kind = 'telegram'\nbot_token_env = 'CRM'",
        "kind = 'telegram'\nbot_token_env = 'CRM'\nchat_id = 'alerts'",
        "kind = 'telegram'\nbot_token = '1/x'\nchat_id = 1.5",
        "kind = 'slack'\nurl_env = 'CRM'",
        "kind = 'slack'\nurl = 'http://chat.example.org/hooks/1'",
        "kind = 'slack'\nurl = 'https://a.example/'\nchat_id = 1\nautorization = 'x'",
        "kind = 'webhook'\nurl = 'http://10.0.0.1:8080/alerts'",
        "kind = 'webhook'\nurl = 'http://10.0.0.1:8080/alerts'\nauthorization = 'Bearer x'",
        "kind = 'alertmanager'\nurl = 'http://alertmanager:9093'\ntimeout = '3m'",
        "kind = 'command'",
        "kind = 'command'\ncommand = []",
        "kind = 'command'\ncommand = ['./none']",
        "kind = 'command'\ncommand = 'none'",
        "kind = 'email'",
        &format!("{email}smtp = 'mx.example.org'\ntls = 'off'"),
        &format!("{email}smtp = 'mx example:x'\ntls = 'of'\nuser = 'u'"),
        &format!("{email}smtp = 'mx.example.org:0'\npassword_env = 'CRM'"),
        "kind = 'email'\nsmtp = 'mx'\nfrom = 'nobody'\nto = []",
        "kind = 'email'\nsmtp = 'mx'\nfrom = 'a@b'\nto = ['a@b', 'a b@c']",
        "kind = 'heartbeat'\nurl = 'https://a.example/'\nevery = '5s'\nauthorization = 'x'",
        "kind = 'slak'\nurl = 'https://a.example/'\nnonsense = 1",
        "kind = 'webhook'\nurl = 'https://a.example/'\nbody = '{}'\nbody_file = 'x'",
        "kind = 'webhook'\nurl = 'https://a.example/'\nbody_file = './none'",
        "kind = 'webhook'\nurl = 'https://a.example/'\ncontent_type = 'text/plain'",
        "kind = 'webhook'\nurl = 'https://a.example/'\nbody = 'x'\ncontent_type = 'plain'",
    ];
    insta::assert_snapshot!(without_kinds(&cases.map(messages).join("\n---\n")), @r#"
    a secret is missing in [channels.a]: write `routing_key_file` (or `routing_key_env`, `routing_key_credential` or `routing_key`)
    ---
    (warning) `routing_key`: PagerDuty's integration keys have 32 characters, this one has not; is it the key of an Events API v2 integration?
    ---
    `chat_id` is missing in [channels.a]
    ---
    `chat_id` must be a number, or the name of a public channel such as "@alerts"
    ---
    `bot_token` is no bot's token, which is as 123456:ABC-def
    `chat_id` must be a number, or the name of a public channel such as "@alerts"
    ---
    the address in `url_env` must be a whole URL such as "https://host.example/path"
    ---
    the address in `url` must begin with https://; plain http is for loopback addresses only
    ---
    `chat_id` in [channels.a] is a key of `telegram`, not of `slack`
    unknown key `autorization` in [channels.a], a channel of kind `slack`
    ---
    (warning) the address in `url` is plain http: alerts hold no secret, but can be read and kept back on the way
    ---
    the address in `url` must begin with https://, since `authorization` is sent there
    ---
    `timeout` must be between 1s and 2m
    ---
    `command` is missing in [channels.a]
    ---
    `command` is empty; write the program and its arguments
    ---
    (warning) `command`: the program does not exist
    ---
    `command` must be a list of strings, none of them empty
    ---
    `from` is missing in [channels.a]
    `smtp` is missing in [channels.a]
    `to` is missing in [channels.a]
    ---
    `tls = "off"` is for a mail server on this machine only
    ---
    `tls` must be one of `starttls`, `implicit`, `off`; did you mean `off`?
    `user` in [channels.a] has no password: write `password_file`
    ---
    `smtp` must be a host, or a host and a port: "mail.example.org:587"
    `password_env` in [channels.a] needs `user`, which is missing
    ---
    `from` must be a mail address such as "ops@example.org" or "Ops <ops@example.org>"
    `to` is empty: the mail has no recipient
    ---
    `to` must be a mail address such as "ops@example.org" or "Ops <ops@example.org>"
    ---
    `every` must be between 15s and 1d
    `authorization` in [channels.a] is a key of `webhook` and `alertmanager`, not of `heartbeat`
    ---
    `kind` must be one of KINDS; did you mean `slack`?
    ---
    `body` and `body_file` in [channels.a] mean the same; keep one of them
    ---
    `body_file`: the file cannot be read: no such file or directory
    ---
    `content_type` is that of `body`, which is missing
    ---
    `content_type` must be as "application/json" or "text/plain"
    "#);
}

#[test]
fn templates_are_tried_and_their_faults_have_a_place() {
    let rig = Rig::new();
    let own = |body: &str| rig.problems(&format!("{ACME}[channels.a]\n{WEBHOOK}{body}"));
    rig.file("body.j2", 0o644, "{\n  \"text\": {{ titel }}\n}\n");
    rig.file("long.j2", 0o644, "x".repeat(70_000));
    insta::assert_snapshot!([
        own("body = '''{\n\"text\": \"{{ title }}\"}'''"),
        own("body = '{{ mesage }}'\ncontent_type = 'text/plain'"),
        own("body = '{{ lnes|join }'"),
        own("body_file = 'body.j2'"),
        own("body_file = 'long.j2'"),
    ].join("\n").replace(rig.path().to_str().unwrap(), "DIR"), @r#"
    main.toml:10:8: `body`, its line 1: what it makes of a sample is no JSON: expected `,` or `}` at line 2 column 11 of that; values come with their quotation marks: write {{ title }} and not "{{ title }}"
    main.toml:10:8: `body`, its line 1: no message has a `mesage` (there are instance, url, key, event, firing, severity, subject, name, whom, title, lines, text, reason, action, since, at, expires_at, portals, count, number, now)
    main.toml:10:8: `body`, its line 1: syntax error: unexpected `}`, expected end of variable block
    body.j2:2:1: no message has a `titel`; did you mean `title`?
    main.toml:10:13: `body_file`: the file is larger than 64 KiB
    "#);
    let good = format!(
        "{ACME}[channels.a]\n{WEBHOOK}body = 'm={{{{ text|urlencode }}}}'\ncontent_type = 'application/x-www-form-urlencoded'"
    );
    let ChannelConfig::Webhook {
        template: Some(template),
        ..
    } = &loaded(&good).config.channels[0].kind
    else {
        panic!()
    };
    assert_eq!(template.content_type(), "application/x-www-form-urlencoded");
}

#[test]
fn what_alerts_have_in_common() {
    let alerts = |keys: &str| loaded(&format!("[alerts]\n{keys}\n{ACME}")).config.alerts;
    let host = rustix::system::uname()
        .nodename()
        .to_str()
        .unwrap()
        .to_owned();
    let default = AlertsConfig {
        instance: host,
        url: None,
        group_threshold: 10,
        self_test: None,
    };
    assert_eq!(
        (loaded(ACME).config.alerts, alerts("")),
        (default.clone(), default)
    );
    assert_eq!(
        alerts("instance = 'eu-1'\nurl = 'http://10.0.0.1:9470/'\nfold = 2\nself_test = '30d'"),
        AlertsConfig {
            instance: "eu-1".to_owned(),
            url: Some("http://10.0.0.1:9470/".to_owned()),
            group_threshold: 2,
            self_test: Some(Duration::from_secs(30 * 86_400)),
        }
    );
    let bad =
        "[alerts]\ninstance = 'a b'\nurl = 'here'\nfold = 1\nself_test = '1h'\nselftest = 1\n";
    let rig = Rig::new();
    rig.file("more.toml", 0o644, "[alerts]\nfold = 5\n");
    insta::assert_snapshot!(rig.problems(&format!("include = ['more.toml']\n{bad}{ACME}")).replace(rig.path().to_str().unwrap(), "DIR"), @r#"
    main.toml:3:12: `instance` must be a word of at most 100 characters
    main.toml:4:7: `url` must be a whole URL such as "https://host.example/path"
    main.toml:5:8: `group_threshold` must be a whole number from 2 to 1000
    main.toml:6:13: `self_test` must be between 1d and 400d
    main.toml:7:1: unknown key `selftest` in [alerts]; did you mean `self_test`?
    more.toml:1:2: `alerts` belongs in the main file, main.toml
    "#);
}
