//! Canonical form of a portal's host: case, script, port and final dot are normalised.
//!
//! Must not resolve names: two names of one machine are two hosts here.

use refreshd_secrets::mask::is_loopback;
use url::Host;

/// Maximum length of a host, in bytes (RFC 1035 section 2.3.4), with a port.
const MAX_LENGTH: usize = 260;
/// Characters that no host contains, and that would start another directive or header.
const FOREIGN: &str = ";,\"'<>*\\`(){}|";

/// A host in lower case and in ASCII (RFC 5890), with its port unless that is 80 or 443. A URL is reduced to its host.
/// `None` if it is not a host.
#[must_use]
pub fn plain_host(text: &str) -> Option<String> {
    let text = text.split_once("://").map_or(text, |(_, rest)| rest);
    let text = text.split(['/', '?', '#']).next().unwrap_or_default();
    if text.len() > MAX_LENGTH || text.contains('@') {
        return None;
    }
    let (name, port) = split_port(text)?;
    let host = match Host::parse(name.strip_suffix('.').unwrap_or(name)).ok()? {
        Host::Domain(domain) => domain,
        ip @ (Host::Ipv4(_) | Host::Ipv6(_)) => ip.to_string(),
    };
    let fits = (1..=MAX_LENGTH).contains(&host.len())
        && host
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b".-_:[]".contains(&byte));
    match port {
        _ if !fits => None,
        None | Some(80 | 443) => Some(host),
        Some(port) => Some(format!("{host}:{port}")),
    }
}

/// Returns whether a text could do harm where a host is expected: white space, control characters, other directives.
#[must_use]
pub fn is_hostile(text: &str) -> bool {
    text.trim()
        .contains(|c: char| c.is_control() || c.is_whitespace() || FOREIGN.contains(c))
}

/// Returns whether a [`plain_host`] always means the local machine.
#[must_use]
pub fn is_this_machine(host: &str) -> bool {
    Host::parse(without_port(host)).is_ok_and(|host| is_loopback(&host))
}

fn without_port(host: &str) -> &str {
    split_port(host).map_or(host, |(name, _)| name)
}

/// Name and port; `None` if the text after the colon is not a port.
fn split_port(text: &str) -> Option<(&str, Option<u16>)> {
    let after_name = if text.starts_with('[') {
        text.find(']')? + 1
    } else {
        text.find(':').unwrap_or(text.len())
    };
    let (name, rest) = text.split_at(after_name);
    match rest.strip_prefix(':') {
        None if rest.is_empty() => Some((name, None)),
        None => None,
        Some("") => Some((name, None)),
        Some(port) if port.bytes().all(|byte| byte.is_ascii_digit()) => {
            Some((name, Some(port.parse().ok()?)))
        }
        Some(_) => None,
    }
}

/// Region of a cloud portal: the last label of its host (`acme.bitrix24.ru`).
#[must_use]
pub fn region_of(domain: &str) -> Option<&str> {
    let host = domain.split(':').next()?;
    host.contains(".bitrix24.")
        .then(|| host.rsplit('.').next())?
}

/// Returns whether two texts name one host, regardless of case, default ports, and spelling of international names.
#[must_use]
pub fn same_host(one: &str, other: &str) -> bool {
    let normal = |host: &str| plain_host(host).unwrap_or_else(|| host.to_lowercase());
    normal(one) == normal(other)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn however_it_is_written_it_is_one_host() {
        for (written, host) in [
            ("Acme.Bitrix24.com", "acme.bitrix24.com"),
            ("acme.bitrix24.com.", "acme.bitrix24.com"),
            ("acme.bitrix24.com:443", "acme.bitrix24.com"),
            ("acme.bitrix24.com:80", "acme.bitrix24.com"),
            ("https://acme.bitrix24.com/rest/", "acme.bitrix24.com"),
            ("crm.example.org:8443", "crm.example.org:8443"),
            ("портал.рф", "xn--80awhdgm.xn--p1ai"),
            ("ПОРТАЛ.РФ:443", "xn--80awhdgm.xn--p1ai"),
            ("xn--80awhdgm.xn--p1ai", "xn--80awhdgm.xn--p1ai"),
            ("b24_test.company.local", "b24_test.company.local"),
            ("192.168.1.10", "192.168.1.10"),
            ("[FD00::1]:8443", "[fd00::1]:8443"),
        ] {
            assert_eq!(plain_host(written).as_deref(), Some(host), "{written}");
        }
        for written in [
            "",
            ".",
            ":443",
            "a b",
            "a;b",
            "a*",
            "user@acme.example",
            "acme.example:port",
            "[::1",
            "a%00b",
        ] {
            assert_eq!(plain_host(written), None, "{written}");
        }
        assert_eq!(plain_host(&"a".repeat(300)), None);
    }

    #[test]
    fn what_would_harm_is_told_from_what_is_only_no_host() {
        for hostile in ["a\r\nX:b", "a;script-src *", "a b", "\"a\"", "<a>", "a\0"] {
            assert!(is_hostile(hostile), "{hostile:?}");
        }
        for odd in [
            " acme.example ",
            "a..b",
            "портал.рф",
            "[::1",
            "a:port",
            "a_b",
        ] {
            assert!(!is_hostile(odd), "{odd:?}");
        }
    }

    #[test]
    fn this_machine_is_known_by_every_name() {
        for host in [
            "127.0.0.1",
            "127.1.2.3:80",
            "0.0.0.0",
            "[::1]",
            "[::ffff:127.0.0.1]",
            "x.localhost",
            "localhost:9470",
        ] {
            assert!(is_this_machine(&plain_host(host).unwrap()), "{host}");
        }
        for host in ["acme.bitrix24.com", "192.168.1.10", "localhost.example"] {
            assert!(!is_this_machine(&plain_host(host).unwrap()), "{host}");
        }
    }
}
