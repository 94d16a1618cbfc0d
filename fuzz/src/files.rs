//! Any token with any company, in each form of the token files.
//!
//! An input is a text of parts between unit separators: token, type, endpoint, scope, provider, fields in JSON, begin
//! and end in milliseconds.

use refreshd::adapters::token_files::Published;
use refreshd::domain::name::PortalName;
use refreshd::domain::token_format::TokenFormat;
use refreshd_secrets::AccessToken;
use refreshd_time::Timestamp;
use refreshd_token_client::token::{Access, Details, Generation};
use serde_json::{Value, json};

/// Checks the properties.
pub fn holds(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let mut parts = text.split('\x1f');
    let mut next = || parts.next().unwrap_or_default().to_owned();
    let Some(token) = AccessToken::new(&next()) else {
        return;
    };
    let (token_type, endpoint, scope, provider) = (next(), next(), next(), next());
    let fields = serde_json::from_str(&next()).unwrap_or_default();
    let mut moment = || Timestamp::from_millis(next().parse().unwrap_or(1_795_194_000_000));
    let access = Access {
        token,
        token_type,
        issued_at: moment(),
        expires_at: moment(),
    };
    let details = Details {
        scope: scope.split(' ').map(str::to_owned).collect(),
        endpoint: (!endpoint.is_empty()).then_some(endpoint),
        fields,
    };
    let portal = PortalName::parse("acme").expect("a name");
    let published = Published {
        portal: &portal,
        provider: &provider,
        access: &access,
        generation: Generation(u64::MAX),
        details: &details,
    };
    let render = |format| published.render(format);
    assert_eq!(render(TokenFormat::Raw), access.token.expose());
    is_the_json(&render(TokenFormat::Json), &published);
    is_the_header(&render(TokenFormat::Header), &access);
    is_the_environment(
        &render(TokenFormat::Env),
        &access,
        details.endpoint.as_deref().unwrap_or_default(),
    );
}

fn is_the_json(file: &str, published: &Published<'_>) {
    let Published {
        portal,
        provider,
        access,
        generation,
        details,
    } = *published;
    assert!(
        file.ends_with('\n') && file.lines().count() == 1,
        "{file:?}"
    );
    let mut read: Value = serde_json::from_str(file).expect("token.json is JSON");
    let fields = read
        .as_object_mut()
        .and_then(|read| read.remove("fields"))
        .expect("there are fields");
    assert!(
        same(&fields, &json!(details.fields)),
        "{fields} is not {}",
        json!(details.fields)
    );
    let mut wanted = json!({
        "version": 1,
        "portal": portal.as_str(),
        "provider": provider,
        "token_type": access.token_type,
        "access_token": access.token.expose(),
        "issued_at": access.issued_at.to_string(),
        "expires_at": access.expires_at.to_string(),
        "expires_at_unix": access.expires_at.secs(),
        "generation": generation.0,
        "scope": details.scope,
    });
    if let Some(endpoint) = &details.endpoint {
        wanted["endpoint"] = json!(endpoint);
    }
    assert_eq!(read, wanted);
}

/// Equal, but for the last bits of a fraction, which serde_json loses when it reads one.
pub(super) fn same(one: &Value, other: &Value) -> bool {
    match (one, other) {
        (Value::Array(one), Value::Array(other)) => {
            one.len() == other.len() && one.iter().zip(other).all(|(one, other)| same(one, other))
        }
        (Value::Object(one), Value::Object(other)) => {
            one.len() == other.len()
                && one
                    .iter()
                    .all(|(key, one)| other.get(key).is_some_and(|other| same(one, other)))
        }
        (Value::Number(one), Value::Number(other)) if one.is_f64() && other.is_f64() => {
            let (one, other) = (
                one.as_f64().unwrap_or(f64::NAN),
                other.as_f64().unwrap_or(f64::NAN),
            );
            one == other || (one - other).abs() <= other.abs() * 4.0 * f64::EPSILON
        }
        _ => one == other,
    }
}

fn is_the_header(file: &str, access: &Access) {
    let line = file.strip_suffix('\n').expect("a line ends");
    assert!(
        !line.contains(char::is_control),
        "more than a line: {file:?}"
    );
    let clean = |text: &str| text.replace(char::is_control, "");
    let (token_type, token) = (clean(&access.token_type), clean(access.token.expose()));
    assert_eq!(line, format!("Authorization: {token_type} {token}"));
}

fn is_the_environment(file: &str, access: &Access, endpoint: &str) {
    let wanted = [
        ("PORTAL", "acme"),
        ("ACCESS_TOKEN", access.token.expose()),
        ("TOKEN_TYPE", &access.token_type),
        ("EXPIRES_AT", &access.expires_at.to_string()),
        ("ENDPOINT", endpoint),
    ];
    assert_eq!(file.matches('\n').count(), wanted.len(), "{file:?}");
    for (line, (name, value)) in file.split_terminator('\n').zip(wanted) {
        let quoted = line
            .strip_prefix(&format!("REFRESHD_{name}="))
            .expect("the lines are in their order");
        let value = value.replace(['\n', '\r', '\0'], "");
        assert_eq!(as_a_shell(quoted), value, "a shell reads {quoted}");
        assert_eq!(as_systemd(quoted), value, "systemd reads {quoted}");
    }
}

/// POSIX.1-2024, 2.2 Quoting; panics where anything but a plain word would come of it.
fn as_a_shell(text: &str) -> String {
    let (mut word, mut chars) = (String::new(), text.chars());
    while let Some(c) = chars.next() {
        match c {
            '\'' => word.extend(chars.by_ref().take_while(|c| *c != '\'')),
            '"' => word.extend(chars.by_ref().take_while(|c| *c != '"').inspect(|c| {
                assert!(
                    !"$`\\".contains(*c),
                    "expanded within double quotes: {text}"
                );
            })),
            '\\' => word.extend(chars.next()),
            _ => {
                assert!(c.is_ascii_alphanumeric(), "outside of quotes: {text}");
                word.push(c);
            }
        }
    }
    word
}

/// systemd.exec(5), `EnvironmentFile=`, as systemd's `parse_env_file` reads a value: quotes count at the start of a
/// value and right after a closing quote only, and a backslash outside of them makes the rest of the value plain.
fn as_systemd(text: &str) -> String {
    let (mut value, mut chars) = (String::new(), text.chars());
    while let Some(c) = chars.next() {
        match c {
            '\'' => value.extend(chars.by_ref().take_while(|c| *c != '\'')),
            '"' => {
                while let Some(c) = chars.next().filter(|c| *c != '"') {
                    match c {
                        '\\' => match chars.next() {
                            Some(c) if "\"\\`$".contains(c) => value.push(c),
                            Some('\n') | None => {}
                            Some(c) => value.extend(['\\', c]),
                        },
                        c => value.push(c),
                    }
                }
            }
            ' ' | '\t' => {}
            first => {
                let mut rest = Some(first);
                while let Some(c) = rest {
                    value.extend(if c == '\\' { chars.next() } else { Some(c) });
                    rest = chars.next();
                }
            }
        }
    }
    value
}
