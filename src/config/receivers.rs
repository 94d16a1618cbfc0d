//! The kinds of channels: the keys of each, and how they are read.
//!
//! Must not show an address, a key or a password: they are validated, and stored as secrets.

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use reqwest::Url;
use reqwest::header::HeaderValue;

use super::environment::Environment;
use super::network::CA_FILE;
use super::secrets::{
    AUTHORIZATION, BOT_TOKEN, PASSWORD, PROXY, ROUTING_KEY, Reported, SecretKeys, URL,
};
use super::source::Diagnostics;
use super::table::Table;
use super::values::{check_any_url, check_url, duration, is_loopback};
use super::{mail, webhook_template};
use refreshd_alerting::channel::{ChannelConfig, ChannelKind};
use refreshd_secrets::ChannelSecret;

const PAGERDUTY: &str = "https://events.pagerduty.com/v2/enqueue";
const TELEGRAM: &str = "https://api.telegram.org";
/// Length of PagerDuty's keys.
const ROUTING_KEY_LENGTH: usize = 32;
/// Limits of a heartbeat interval: more often is rejected (healthchecks.io: five a minute), less often is useless.
const HEARTBEAT_INTERVAL_LIMITS: (Duration, Duration) =
    (Duration::from_secs(15), Duration::from_secs(24 * 3600));

type ChannelResult = Result<ChannelConfig, Reported>;

/// Reads the settings of a receiver.
type ReadChannel = fn(Table<'_>, &Environment, &mut Diagnostics) -> ChannelResult;

/// The keys of a kind of channel.
pub(super) struct ChannelKeys {
    pub secrets: &'static [&'static SecretKeys],
    pub keys: &'static [&'static str],
    /// Default of `timeout`.
    pub timeout: &'static str,
    pub read: ReadChannel,
}

/// Usual default of `timeout`.
const USUAL: &str = "10s";

/// Settings of a kind of channel.
pub(super) const fn keys_of(kind: ChannelKind) -> ChannelKeys {
    match kind {
        ChannelKind::Webhook => ChannelKeys {
            secrets: &[&URL, &AUTHORIZATION, &PROXY],
            keys: &["body", "body_file", "content_type", CA_FILE],
            timeout: USUAL,
            read: webhook,
        },
        ChannelKind::Alertmanager => ChannelKeys {
            secrets: &[&URL, &AUTHORIZATION, &PROXY],
            keys: &[CA_FILE],
            timeout: USUAL,
            read: alertmanager,
        },
        ChannelKind::PagerDuty => ChannelKeys {
            secrets: &[&ROUTING_KEY, &URL, &PROXY],
            keys: &[CA_FILE],
            timeout: USUAL,
            read: pagerduty,
        },
        ChannelKind::Slack => ChannelKeys {
            secrets: &[&URL, &PROXY],
            keys: &[CA_FILE],
            timeout: USUAL,
            read: slack,
        },
        ChannelKind::Telegram => ChannelKeys {
            secrets: &[&BOT_TOKEN, &URL, &PROXY],
            keys: &["chat_id", CA_FILE],
            timeout: USUAL,
            read: telegram,
        },
        ChannelKind::Email => ChannelKeys {
            secrets: &[&PASSWORD],
            keys: &["smtp", "tls", "user", "from", "to", CA_FILE],
            timeout: USUAL,
            read: email,
        },
        ChannelKind::Command => ChannelKeys {
            secrets: &[],
            keys: &["command"],
            timeout: "30s",
            read: command,
        },
        ChannelKind::Heartbeat => ChannelKeys {
            secrets: &[&URL, &PROXY],
            keys: &["every", CA_FILE],
            timeout: USUAL,
            read: heartbeat,
        },
    }
}

fn webhook(table: Table<'_>, environment: &Environment, report: &mut Diagnostics) -> ChannelResult {
    let template = webhook_template::template(table, report);
    let (url, authorization) = address_and_authorization(table, environment, report)?;
    Ok(ChannelConfig::Webhook {
        url,
        authorization,
        template: template?,
    })
}

fn alertmanager(
    table: Table<'_>,
    environment: &Environment,
    report: &mut Diagnostics,
) -> ChannelResult {
    let (url, authorization) = address_and_authorization(table, environment, report)?;
    Ok(ChannelConfig::Alertmanager { url, authorization })
}

fn pagerduty(
    table: Table<'_>,
    environment: &Environment,
    report: &mut Diagnostics,
) -> ChannelResult {
    let key = ROUTING_KEY.required_of_channel(table, environment, report);
    let own = address_or(PAGERDUTY, table, environment, report);
    let (routing_key, (url, is_own)) = (key?, own?);
    if !is_own && routing_key.expose().len() != ROUTING_KEY_LENGTH {
        let (key, place) = ROUTING_KEY.given(table);
        let known = "PagerDuty's integration keys have 32 characters, this one has not";
        report.warning(
            place,
            format!("`{key}`: {known}; is it the key of an Events API v2 integration?"),
        );
    }
    Ok(ChannelConfig::PagerDuty { url, routing_key })
}

fn slack(table: Table<'_>, environment: &Environment, report: &mut Diagnostics) -> ChannelResult {
    Ok(ChannelConfig::Slack {
        url: address(table, environment, report)?,
    })
}

fn telegram(
    table: Table<'_>,
    environment: &Environment,
    report: &mut Diagnostics,
) -> ChannelResult {
    let token = BOT_TOKEN
        .required_of_channel(table, environment, report)
        .and_then(|token| {
            // It becomes part of the address.
            let odd = |c: char| !c.is_ascii_alphanumeric() && !":_-".contains(c);
            if token.expose().contains(odd) {
                let (key, place) = BOT_TOKEN.given(table);
                report.problem(
                    place,
                    format!("`{key}` is no bot's token, which is as 123456:ABC-def"),
                );
                return Err(Reported);
            }
            Ok(token)
        });
    let chat_id = chat_id(table, report);
    let (url, _) = address_or(TELEGRAM, table, environment, report)?;
    Ok(ChannelConfig::Telegram {
        url,
        bot_token: token?,
        chat_id: chat_id?,
    })
}

fn email(table: Table<'_>, environment: &Environment, report: &mut Diagnostics) -> ChannelResult {
    mail::mail(table, environment, report).map(ChannelConfig::Email)
}

fn command(table: Table<'_>, _: &Environment, report: &mut Diagnostics) -> ChannelResult {
    let place = table.place_of("command").unwrap_or(table.place);
    if !table.has("command") {
        report.missing(table.place, format!("`command` is missing {table}"));
    }
    let words = table.texts(report, "command", false).ok_or(Reported)?;
    let Some((program, arguments)) = words.split_first() else {
        report.problem(
            place,
            "`command` is empty; write the program and its arguments",
        );
        return Err(Reported);
    };
    if words.iter().any(|word| word.value.contains('\0')) {
        report.problem(
            place,
            "`command` holds a character that no argument can hold (U+0000)",
        );
        return Err(Reported);
    }
    let directory = table.source().directory();
    let directory = if directory == Path::new("") {
        PathBuf::from(".")
    } else {
        directory.to_owned()
    };
    let mut command = vec![program.value.to_owned()];
    if program.value.contains('/') {
        let path = directory.join(program.value);
        // It may be installed later, or be accessible to the daemon's user only.
        if let Some(why) = not_a_program(&path) {
            report.warning(program.place, format!("`command`: the program {why}"));
        }
        command = vec![path.to_string_lossy().into_owned()];
    }
    command.extend(arguments.iter().map(|word| word.value.to_owned()));
    Ok(ChannelConfig::Command { command, directory })
}

fn heartbeat(
    table: Table<'_>,
    environment: &Environment,
    report: &mut Diagnostics,
) -> ChannelResult {
    let every = if table.has("every") {
        duration(table, report, "every", "1m", HEARTBEAT_INTERVAL_LIMITS).ok_or(Reported)
    } else {
        Ok(Duration::from_secs(60))
    };
    Ok(ChannelConfig::Heartbeat {
        url: address(table, environment, report)?,
        every: every?,
    })
}

/// An address for secrets, or that is one: https, or loopback.
fn address(
    table: Table<'_>,
    environment: &Environment,
    report: &mut Diagnostics,
) -> Result<ChannelSecret, Reported> {
    let url = URL.required_of_channel(table, environment, report)?;
    checked(&url, check_url, table, report)?;
    Ok(url)
}

/// The same with a default; whether it is configured.
fn address_or(
    default: &str,
    table: Table<'_>,
    environment: &Environment,
    report: &mut Diagnostics,
) -> Result<(ChannelSecret, bool), Reported> {
    match URL.of_channel(table, environment, report)? {
        Some(url) => checked(&url, check_url, table, report).map(|_| (url, true)),
        None => Ok((ChannelSecret::new(default).ok_or(Reported)?, false)),
    }
}

/// An address that is rarely secret, of a receiver that rarely has TLS in a private network: plain http with a warning, unless
/// credentials are sent there.
fn address_and_authorization(
    table: Table<'_>,
    environment: &Environment,
    report: &mut Diagnostics,
) -> Result<(ChannelSecret, Option<ChannelSecret>), Reported> {
    let authorization = AUTHORIZATION
        .of_channel(table, environment, report)
        .and_then(|authorization| {
            let unfit = |secret: &ChannelSecret| HeaderValue::from_str(secret.expose()).is_err();
            if authorization.as_ref().is_some_and(unfit) {
                let (key, place) = AUTHORIZATION.given(table);
                report.problem(
                    place,
                    format!("`{key}` holds characters that no header can hold"),
                );
                return Err(Reported);
            }
            Ok(authorization)
        });
    let url = URL.required_of_channel(table, environment, report)?;
    let parsed = checked(&url, check_any_url, table, report)?;
    let authorization = authorization?;
    if parsed.scheme() == "http" && !is_loopback(&parsed) {
        let (key, place) = URL.given(table);
        if authorization.is_some() {
            let message = "must begin with https://, since `authorization` is sent there";
            report.problem(place, format!("the address in `{key}` {message}"));
            return Err(Reported);
        }
        let message =
            "is plain http: alerts hold no secret, but can be read and kept back on the way";
        report.warning(place, format!("the address in `{key}` {message}"));
    }
    Ok((url, authorization))
}

/// An address may be secret as a whole, so messages do not quote it.
fn checked(
    url: &ChannelSecret,
    check: fn(&str) -> Result<Url, &'static str>,
    table: Table<'_>,
    report: &mut Diagnostics,
) -> Result<Url, Reported> {
    check(url.expose()).map_err(|message| {
        let (key, place) = URL.given(table);
        report.problem(place, format!("the address in `{key}` {message}"));
        Reported
    })
}

fn chat_id(table: Table<'_>, report: &mut Diagnostics) -> Result<String, Reported> {
    const EXPECTED: &str = "a number, or the name of a public channel such as \"@alerts\"";
    if table.is_integer("chat_id") {
        let number = table.integer(report, "chat_id", i64::MIN..=i64::MAX);
        return number.map(|number| number.to_string()).ok_or(Reported);
    }
    if !table.has("chat_id") {
        report.missing(table.place, format!("`chat_id` is missing {table}"));
    }
    let text = table.text_as(report, "chat_id", EXPECTED).ok_or(Reported)?;
    let id = text.value.trim();
    let word = |name: &str| {
        !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
    };
    if id.parse::<i64>().is_ok() || id.strip_prefix('@').is_some_and(word) {
        return Ok(id.to_owned());
    }
    report.problem(text.place, format!("`chat_id` must be {EXPECTED}"));
    Err(Reported)
}

fn not_a_program(path: &Path) -> Option<&'static str> {
    match std::fs::metadata(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Some("does not exist"),
        Err(_) => Some("cannot be looked at"),
        Ok(about) if !about.is_file() => Some("is not a regular file"),
        Ok(about) if about.permissions().mode() & 0o111 == 0 => Some("is not executable"),
        Ok(_) => None,
    }
}
