//! No message shows a secret, whatever the mistake.

use super::{Rig, problems};

const SECRET: &str = "Hunter2Hunter2";

#[test]
fn no_mistake_shows_a_secret() {
    for (line, expected) in [
        ("client_secret = \"SECRET", "invalid basic string"),
        ("client_secret = 'SECRET", "invalid literal string"),
        (
            "client_secret = \"\"\"SECRET",
            "invalid multi-line basic string",
        ),
        ("client_secret = SECRET", "string values must be quoted"),
        ("client_secret \"SECRET\"", "key with no value"),
        ("client_secret =\n\"SECRET\"", "key with no value"),
        ("client_secret = \"SECRET\" junk", "unexpected key or value"),
        ("client_secret = \"a\" SECRET", "unexpected key or value"),
        ("client_secret = \"a\"SECRET\"", "unexpected key or value"),
        ("client_secret = \"\\SECRET\"", "missing escaped value"),
        (
            "client_secrt = 'SECRET'",
            "unknown key `client_secrt` in [apps.crm]; did you mean `client_secret`?",
        ),
        (
            "client_secret = ['SECRET']",
            "`client_secret` must be a string in quotes",
        ),
        (
            "client_secret = { value = 'SECRET' }",
            "`client_secret` must be a string in quotes",
        ),
        (
            "client_secret.SECRET = 1",
            "`client_secret` must be a string in quotes",
        ),
        (
            "client_secret_file = 'SECRET'",
            "`client_secret_file`: the file cannot be read: no such file or directory",
        ),
        (
            "client_secret_env = 'SECRET'",
            "no environment variable has that name",
        ),
        (
            "client_secret_credential = 'SECRET'",
            "cannot be read: no such file or directory",
        ),
        ("client_secret_credential = '../SECRET'", "without slashes"),
        (
            "client_secret = 'SECRET'\nclient_secret_env = 'SECRET'",
            "mean the same; keep one of them",
        ),
        (
            "client_secret = 'a'\ndomain = 'SECRET'",
            "unknown key `domain`",
        ),
        (
            "client_secret = 'a'\ntoken_url = 'https://user:SECRET@host.example/'",
            "must not hold a user name",
        ),
        (
            "client_secret = 'a'\ntoken_url = 'SECRET'",
            "`token_url` must be a whole URL",
        ),
        (
            "client_secret = 'a'\nmethod = 'SECRET'",
            "`method` must be one of `post`, `get`",
        ),
        (
            "client_secret = 'a'\nrenew_every = 'SECRET'",
            "`renew_every` must be a duration",
        ),
        ("client_secret = 'a'\nprovider = 'SECRET'", "given twice"),
        (
            "token_url = \"\"\"x\nclient_secret = 'SECRET'",
            "invalid multi-line basic string",
        ),
        (
            "assumed_lifetime = \"\"\"x\nclient_secret = 'SECRET'\n\"\"\"",
            "`assumed_lifetime` must be a duration",
        ),
        (
            "assumed_lifetime = [\"x\",\nclient_secret = 'SECRET'",
            "in array",
        ),
        (
            "client_secret = 'a'\n[portals.x]\napp = \"\"\"x\nclient_secret = 'SECRET'\n\"\"\"",
            "unknown app of that name",
        ),
        (
            "client_secret = 'a'\n[portals.x]\napp='crm'\ndomain = 'https://h.bitrix24.ru/rest/1/SECRET/'",
            "bare host name",
        ),
        (
            "client_secret = 'a'\n[portals.x]\napp='crm'\ndomain = 'https://a:SECRET@h.bitrix24.ru/'",
            "bare host name",
        ),
        (
            "client_secret = 'a'\n[portals.x]\napp='crm'\nrefresh_token = 'SECRET'",
            "unknown key `refresh_token`",
        ),
        (
            "client_secret = 'a'\n[channels.x]\nkind='slack'\nurl = 'SECRET'",
            "the address in `url` must be a whole URL",
        ),
        (
            "client_secret = 'a'\n[channels.x]\nkind='telegram'\nchat_id=1\nbot_token = 5",
            "`bot_token` must be a string",
        ),
        (
            "client_secret = 'a'\n[channels.x]\nkind='telegram'\nchat_id='SECRET'\nbot_token = '1:SECRET/x'",
            "`bot_token` is no bot's token",
        ),
        (
            "client_secret = 'a'\n[channels.x]\nkind='webhook'\nauthorization=\"Bearer\\u0007SECRET\"\nurl='https://a.example/SECRET'",
            "`authorization` holds characters",
        ),
        (
            "client_secret = 'a'\n[channels.x]\nkind='webhook'\nauthorization='Bearer SECRET'\nurl='http://a.example/SECRET'",
            "must begin with https://, since",
        ),
        (
            "client_secret = 'a'\n[channels.x]\nkind='webhook'\nurl='https://a.example/'\nbody='{\"SECRET\": \"SECRET\"|int }'",
            "is no JSON",
        ),
        (
            "client_secret = 'a'\n[channels.x]\nkind='webhook'\nurl='https://a.example/'\nbody='{{ \"SECRET\"|int }}'",
            "invalid operation",
        ),
        (
            "client_secret = 'a'\n[channels.x]\nkind='email'\nsmtp='SECRET:SECRET'\nfrom='SECRET'\nto='SECRET'\npassword='SECRET'",
            "`from` must be a mail address",
        ),
        (
            "client_secret = 'a'\n[channels.x]\nkind='command'\ncommand=['/SECRET', 'SECRET\\u0000']\npassword='SECRET'",
            "is a key of `email`, not of `command`",
        ),
        (
            "client_secret = 'a'\n[http]\nlisten = 'SECRET'",
            "`listen` must be",
        ),
        (
            "client_secret = 'a'\n[log]\nlevel = 'SECRET'",
            "`level` must be one of",
        ),
    ] {
        let line = line.replace("SECRET", SECRET);
        let found = problems(&format!(
            "[apps.crm]\nprovider = 'bitrix24'\nclient_id = 'local.1'\n{line}\n"
        ));
        assert!(!found.contains(SECRET), "shown for {line}:\n{found}");
        assert!(
            !found.contains("2Hunter"),
            "shown in part for {line}:\n{found}"
        );
        assert!(found.contains(expected), "for {line}:\n{found}");
    }
}

#[test]
fn a_file_with_an_inline_secret_must_be_closed_to_others() {
    let rig = Rig::new();
    let text = "[apps.crm]\nprovider = 'bitrix24'\nclient_id = 'local.1'\nclient_secret = 'Hunter2'\n[portals.a]\napp = 'crm'\n";
    assert!(rig.load(text).is_ok());
    let path = rig.file("open.toml", 0o644, text);
    let problems = super::load(&path, &rig.environment).unwrap_err();
    assert_eq!(
        problems.to_string(),
        format!(
            "{}:4:17: a secret stands here, and every user can access this file (mode 0644): chmod o-rwx it, or move \
             the secret to a file of its own",
            path.display()
        )
    );
}

#[test]
fn a_problem_is_one_line_whatever_the_names_in_it() {
    for line in [
        "client_secret_file = \"a\\nb.secret\"",
        "client_secret = 'a'\n[channels.\"x\\ny\"]\n[[escalation.step]]\nwhen = 'failed'\nseverity = 'notice'\nnotify = [\"x\\nz\"]",
    ] {
        let text = format!("[apps.crm]\nprovider = 'bitrix24'\nclient_id = 'local.1'\n{line}\n");
        let found = Rig::new().load(&text).unwrap_err();
        for problem in &found.0 {
            assert!(!problem.message.contains('\n'), "{problem}");
        }
    }
}

#[test]
fn debug_is_blind() {
    let channels = "[channels.a]\nkind='webhook'\nurl='https://a.example/s3cr3t'\nauthorization='s3cr3t'\nbody='\"s3cr3t\"'\n\
                    [channels.b]\nkind='email'\nsmtp='a.example'\nuser='a'\npassword='s3cr3t'\nfrom='a@a.example'\nto='a@a.example'\n\
                    [channels.c]\nkind='telegram'\nbot_token='1:s3cr3t'\nchat_id=1\n";
    let loaded = super::loaded(&format!("{}{channels}", super::ACME));
    assert_eq!(loaded.config.channels.len(), 3);
    let shown = format!("{loaded:?} {:?}", Rig::new().environment);
    assert!(!shown.contains("s3cr3t"), "{shown}");
}
