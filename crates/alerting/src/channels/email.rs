//! Mail: plain text, one thread for each incident. It is sent without a proxy. Must not send a password over an unencrypted connection, unless it
//! stays on this machine.

use std::error::Error as _;
use std::time::{Duration, UNIX_EPOCH};

use lettre::message::Mailbox;
use lettre::message::header::{ContentType, HeaderName, HeaderValue};
use lettre::transport::smtp::authentication::Credentials;
use lettre::transport::smtp::client::{Certificate, Tls, TlsParameters};
use lettre::transport::smtp::extension::ClientId;
use lettre::{AsyncSmtpTransport, AsyncTransport as _, Tokio1Executor};

use super::http_sender::failed;
use super::sender::Sender;
use super::text_limits::{fit, line, utf16};
use crate::channel::{Delivery, MailConfig, MailTls};
use crate::message::Message;
use refreshd_http::{Authorities, explained};
use refreshd_secrets::Fingerprint;
use refreshd_secrets::mask::mask;

/// Maximum length of a subject.
const MAX_SUBJECT: usize = 250;
/// Maximum length of a body, in characters.
const MAX_TEXT: usize = 100_000;
/// Reply codes (RFC 4954) for a wrong or missing login.
const LOGIN_CODES: [u16; 4] = [530, 534, 535, 538];
/// Reply codes for a wrong address (RFC 5321).
const ADDRESS_CODES: [u16; 2] = [551, 553];

pub(super) async fn send(
    mail: &MailConfig,
    authorities: &Authorities,
    message: &Message,
    sender: Sender<'_>,
) -> Delivery {
    let queued_alert = match mail_message(mail, message, sender) {
        Ok(queued_alert) => queued_alert,
        Err(why) => return Delivery::Rejected(format!("cannot compose the mail: {why}")),
    };
    let transport = match transport(mail, authorities, sender) {
        Ok(transport) => transport,
        Err(error) => return failed(format!("cannot set up TLS: {}", innermost(&error))),
    };
    match transport.send(queued_alert).await {
        Ok(response) => {
            let words = response.message().collect::<Vec<_>>().join(" ");
            Delivery::Delivered(shown(mail, &format!("{} {words}", response.code())))
        }
        Err(error) => judge(mail, &error),
    }
}

/// A permanent error rejects the message, unless it is about the login or an address: an operator can correct those.
fn judge(mail: &MailConfig, error: &lettre::transport::smtp::Error) -> Delivery {
    let words = innermost(error);
    let Some(code) = error.status() else {
        return failed(shown(mail, &words));
    };
    let response = shown(mail, &format!("{code} {words}"));
    let number = code.to_string().parse().unwrap_or(0);
    if error.is_permanent() && !is_temporary(number, &words) {
        Delivery::Rejected(response)
    } else {
        failed(response)
    }
}

fn is_temporary(code: u16, words: &str) -> bool {
    let words = words.to_ascii_lowercase();
    // Enhanced codes (RFC 3463): 5.1 is about addresses.
    LOGIN_CODES.contains(&code)
        || ADDRESS_CODES.contains(&code)
        || words.starts_with("5.1.")
        || words.contains("relay")
}

/// The server's text, masked: it may quote the request.
fn shown(mail: &MailConfig, words: &str) -> String {
    let password = mail.login.as_ref().map(|(_, password)| password.expose());
    mask(words, &password.into_iter().collect::<Vec<_>>())
}

fn innermost(error: &lettre::transport::smtp::Error) -> String {
    let Some(mut cause) = error.source() else {
        return error.to_string();
    };
    while let Some(deeper) = cause.source() {
        cause = deeper;
    }
    explained(cause.to_string())
}

fn transport(
    mail: &MailConfig,
    authorities: &Authorities,
    sender: Sender<'_>,
) -> Result<AsyncSmtpTransport<Tokio1Executor>, lettre::transport::smtp::Error> {
    let parameters = || {
        let mut builder = TlsParameters::builder(mail.host.clone());
        for certificate in authorities.certificates() {
            let certificate = Certificate::from_der(certificate.to_vec())?;
            builder = builder.add_root_certificate(certificate);
        }
        builder.build_rustls()
    };
    let tls = match mail.tls {
        MailTls::StartTls => Tls::Required(parameters()?),
        MailTls::Implicit => Tls::Wrapper(parameters()?),
        MailTls::Off => Tls::None,
    };
    // Strict servers reject a bare name, but not an address in brackets.
    let is_domain = sender.instance.contains('.')
        && sender
            .instance
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || ".-".contains(c));
    let hello = if is_domain {
        ClientId::Domain(sender.instance.to_owned())
    } else {
        ClientId::default()
    };
    let builder = AsyncSmtpTransport::<Tokio1Executor>::builder_dangerous(&mail.host)
        .port(mail.port)
        .tls(tls)
        .hello_name(hello);
    let builder = match &mail.login {
        Some((user, password)) => {
            builder.credentials(Credentials::new(user.clone(), password.expose().to_owned()))
        }
        None => builder,
    };
    Ok(builder.build())
}

/// Builds the mail. The same message always has the same `Message-ID`, so that receivers recognise duplicates.
fn mail_message(
    mail: &MailConfig,
    message: &Message,
    sender: Sender<'_>,
) -> Result<lettre::Message, String> {
    let from: Mailbox = mail
        .from
        .parse()
        .map_err(|_| "`from` is no mail address".to_owned())?;
    let domain = from.email.domain().to_owned();
    let now = u64::try_from(sender.now.millis()).unwrap_or(0);
    // Consecutive incidents share a key; a thread is one incident.
    let incident = format!(
        "{}\n{}",
        message.dedup_key(sender.instance),
        message.since.millis()
    );
    let incident: String = Fingerprint::of(incident.as_bytes())
        .bytes()
        .iter()
        .take(12)
        .map(|byte| format!("{byte:02x}"))
        .collect();
    let thread = format!("<{incident}@{domain}>");
    let own = format!(
        "<{incident}.{}.{}@{domain}>",
        message.number,
        message.at.millis()
    );
    let mut builder = lettre::Message::builder()
        .from(from)
        .date(UNIX_EPOCH + Duration::from_millis(now))
        .message_id(Some(own))
        .references(thread.clone())
        .in_reply_to(thread)
        .subject(fit(&line(&message.title()), MAX_SUBJECT, utf16))
        .raw_header(raw("Auto-Submitted", "auto-generated")?)
        .header(ContentType::TEXT_PLAIN);
    for to in &mail.to {
        builder = builder.to(to
            .parse()
            .map_err(|_| "`to` holds what is no mail address".to_owned())?);
    }
    builder
        .body(text(message, sender))
        .map_err(|error| error.to_string())
}

fn raw(name: &str, value: &str) -> Result<HeaderValue, String> {
    let name = HeaderName::new_from_ascii(name.to_owned()).map_err(|error| error.to_string())?;
    Ok(HeaderValue::new(name, value.to_owned()))
}

fn text(message: &Message, sender: Sender<'_>) -> String {
    let mut text = fit(&message.text(sender.now), MAX_TEXT, utf16);
    text.push_str(&format!("\n\n-- \nrefreshd on {}\n", sender.instance));
    if let Some(url) = sender.url {
        text.push_str(url);
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::super::samples::{SENDER, huge, message, resolved};
    use super::*;
    use refreshd_secrets::ChannelSecret;

    fn mail() -> MailConfig {
        MailConfig {
            host: "mx.example.org".into(),
            port: 587,
            tls: MailTls::StartTls,
            login: Some(("refreshd".into(), ChannelSecret::new("hunter2").unwrap())),
            from: "refreshd <refreshd@example.org>".into(),
            to: vec!["ops@example.org".into(), "Zoë <zoe@example.org>".into()],
        }
    }

    fn formatted(message: &Message) -> String {
        String::from_utf8(mail_message(&mail(), message, SENDER).unwrap().formatted()).unwrap()
    }

    fn header(mail: &str, name: &str) -> String {
        let start = format!("{name}: ");
        mail.split("\r\n")
            .find_map(|line| line.strip_prefix(&start))
            .unwrap_or_else(|| panic!("{name} in {mail}"))
            .to_owned()
    }

    #[test]
    fn a_mail_is_plain_text_with_the_title_as_its_subject() {
        let mail = formatted(&Message {
            reason: "it is\r\nBcc: x@example.org".into(),
            ..message()
        });
        assert_eq!(
            header(&mail, "Subject"),
            "[critical] acme: it is  Bcc: x@example.org"
        );
        assert_eq!(header(&mail, "Auto-Submitted"), "auto-generated");
        assert_eq!(header(&mail, "Date"), "Fri, 20 Nov 2026 16:01:00 +0000");
        assert_eq!(header(&mail, "Content-Type"), "text/plain; charset=utf-8");
        let (head, body) = mail.split_once("\r\n\r\n").unwrap();
        assert!(!head.contains("\nBcc"), "{head}");
        assert!(body.contains("To do: refreshd import acme"), "{body}");
        assert!(
            body.ends_with(
                "-- \r\nrefreshd on host-1\r\nhttps://refreshd.example.org/?a=1&b=2\r\n"
            ),
            "{body:?}"
        );
        assert!(!mail.contains("hunter2"));
    }

    #[test]
    fn the_mails_of_one_incident_are_one_thread_and_the_next_incident_is_another() {
        let (first, last) = (
            formatted(&message()),
            formatted(&Message {
                number: 3,
                ..resolved()
            }),
        );
        for name in ["References", "In-Reply-To"] {
            assert_eq!(header(&first, name), header(&last, name));
        }
        assert_ne!(header(&first, "Message-ID"), header(&last, "Message-ID"));
        assert_eq!(
            header(&first, "Message-ID"),
            header(&formatted(&message()), "Message-ID"),
            "sent twice"
        );
        let next = Message {
            since: message().since + Duration::from_secs(3600),
            ..message()
        };
        assert_ne!(
            header(&formatted(&next), "References"),
            header(&first, "References")
        );
    }

    #[test]
    fn nothing_is_too_long() {
        let mail = formatted(&huge());
        assert!(mail.len() < 600_000, "{}", mail.len());
        assert!(
            mail.split("\r\n").all(|line| line.len() <= 998),
            "RFC 5322 section 2.1.1"
        );
    }

    #[test]
    fn what_can_be_mended_is_kept() {
        for (code, words) in [
            (535, "5.7.8 bad credentials"),
            (530, "log in first"),
            (550, "5.1.1 no such user"),
            (554, "Relay access denied"),
            (553, ""),
        ] {
            assert!(is_temporary(code, words), "{code} {words}");
        }
        for (code, words) in [
            (552, "5.3.4 message too big"),
            (554, "5.7.1 spam"),
            (550, "5.7.1 content"),
        ] {
            assert!(!is_temporary(code, words), "{code} {words}");
        }
        assert_eq!(shown(&mail(), "no hunter2 here"), "no … here");
    }
}
