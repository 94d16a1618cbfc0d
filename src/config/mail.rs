//! `kind = "email"`: the mail server, its transport, and sender and recipients.

use lettre::message::Mailbox;

use super::environment::Environment;
use super::secrets::{PASSWORD, Reported};
use super::source::Diagnostics;
use super::table::{Table, TextValue};
use super::values::{choice, is_loopback_host};
use refreshd_alerting::channel::{MailConfig, MailTls};

/// The port of implicit TLS (RFC 8314).
const IMPLICIT_TLS_PORT: u16 = 465;

pub(super) fn mail(
    table: Table<'_>,
    environment: &Environment,
    report: &mut Diagnostics,
) -> Result<MailConfig, Reported> {
    let server = server(table, report);
    let login = login(table, environment, report);
    let from = table
        .required(report, "from")
        .ok_or(Reported)
        .and_then(|from| mailbox("from", from, report));
    let to = recipients(table, report);
    let (host, port, tls) = server?;
    Ok(MailConfig {
        host,
        port,
        tls,
        login: login?,
        from: from?,
        to: to?,
    })
}

/// `host`, `host:port`, `[::1]:port`; port and `tls` imply each other.
fn server(table: Table<'_>, report: &mut Diagnostics) -> Result<(String, u16, MailTls), Reported> {
    let tls = choice(table, report, "tls");
    let text = table.required(report, "smtp").ok_or(Reported)?;
    if tls.is_none() && table.has("tls") {
        return Err(Reported);
    }
    let Some((host, port)) = split(text.value.trim()) else {
        report.problem(
            text.place,
            "`smtp` must be a host, or a host and a port: \"mail.example.org:587\"",
        );
        return Err(Reported);
    };
    let tls = tls.unwrap_or(if port == Some(IMPLICIT_TLS_PORT) {
        MailTls::Implicit
    } else {
        MailTls::StartTls
    });
    if tls == MailTls::Off && !is_loopback_host(host) {
        let place = table.place_of("tls").unwrap_or(text.place);
        report.problem(
            place,
            "`tls = \"off\"` is for a mail server on this machine only",
        );
        return Err(Reported);
    }
    let usual = match tls {
        MailTls::StartTls => 587,
        MailTls::Implicit => IMPLICIT_TLS_PORT,
        MailTls::Off => 25,
    };
    Ok((
        host.trim_matches(['[', ']']).to_owned(),
        port.unwrap_or(usual),
        tls,
    ))
}

fn split(text: &str) -> Option<(&str, Option<u16>)> {
    let (host, port) = match text.rsplit_once(':') {
        Some((host, port)) if !text.ends_with(']') => {
            (host, Some(port.parse().ok().filter(|port| *port > 0)?))
        }
        _ => (text, None),
    };
    let is_name = |host: &str| {
        !host.is_empty()
            && host
                .chars()
                .all(|c| c.is_ascii_alphanumeric() || ".-_".contains(c))
    };
    let is_v6 = |host: &str| {
        let inner = host
            .strip_prefix('[')
            .and_then(|host| host.strip_suffix(']'));
        inner.is_some_and(|inner| inner.parse::<std::net::Ipv6Addr>().is_ok())
    };
    (is_name(host) || is_v6(host)).then_some((host, port))
}

fn login(
    table: Table<'_>,
    environment: &Environment,
    report: &mut Diagnostics,
) -> Result<Option<(String, refreshd_secrets::ChannelSecret)>, Reported> {
    let user = table.text(report, "user");
    let password = PASSWORD.of_channel(table, environment, report)?;
    match (user, password) {
        (Some(user), Some(password)) => Ok(Some((user.value.to_owned(), password))),
        (None, None) if !table.has("user") => Ok(None),
        (None, None) => Err(Reported),
        (Some(user), None) => {
            report.problem(
                user.place,
                format!("`user` {table} has no password: write `password_file`"),
            );
            Err(Reported)
        }
        (None, Some(_)) => {
            let (key, place) = PASSWORD.given(table);
            report.problem(
                place,
                format!("`{key}` {table} needs `user`, which is missing"),
            );
            Err(Reported)
        }
    }
}

fn recipients(table: Table<'_>, report: &mut Diagnostics) -> Result<Vec<String>, Reported> {
    if !table.has("to") {
        report.missing(table.place, format!("`to` is missing {table}"));
    }
    let texts = table.texts(report, "to", true).ok_or(Reported)?;
    if texts.is_empty() {
        report.problem(
            table.place_of("to").unwrap_or(table.place),
            "`to` is empty: the mail has no recipient",
        );
        return Err(Reported);
    }
    texts
        .into_iter()
        .map(|text| mailbox("to", text, report))
        .collect()
}

fn mailbox(key: &str, text: TextValue<'_>, report: &mut Diagnostics) -> Result<String, Reported> {
    if text.value.parse::<Mailbox>().is_err() || text.value.contains(char::is_control) {
        let expected = "a mail address such as \"ops@example.org\" or \"Ops <ops@example.org>\"";
        report.problem(text.place, format!("`{key}` must be {expected}"));
        return Err(Reported);
    }
    Ok(text.value.to_owned())
}
