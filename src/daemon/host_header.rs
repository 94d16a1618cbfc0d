//! Whether a request's `Host` names this machine (RFC 9110 section 7.2). Must not resolve names: whoever controls a name
//! controls what it resolves to.

use std::net::IpAddr;

/// Whether `host`, as the header has it, is an IP address, a name of the loopback, this machine's own name, or one of
/// `names`. Compared without case, without the port.
pub(super) fn is_allowed_host<'n>(host: &str, names: impl IntoIterator<Item = &'n str>) -> bool {
    let name = without_port(host.trim()).trim_end_matches('.');
    if name.parse::<IpAddr>().is_ok() || name.eq_ignore_ascii_case("localhost") {
        return true;
    }
    let machine = rustix::system::uname();
    let machine = machine.nodename().to_str().unwrap_or_default();
    let short = machine.split('.').next().unwrap_or_default();
    let is_name = |own: &str| !own.is_empty() && name.eq_ignore_ascii_case(without_port(own));
    is_name(machine) || is_name(short) || names.into_iter().any(is_name)
}

fn without_port(host: &str) -> &str {
    if let Some(inside) = host.strip_prefix('[') {
        return inside.split(']').next().unwrap_or_default();
    }
    match host.rsplit_once(':') {
        Some((name, port)) if !name.contains(':') && port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => host,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_that_is_not_this_machines_is_foreign() {
        for host in [
            "127.0.0.1",
            "127.0.0.1:9470",
            "[::1]:9470",
            "10.0.0.7:80",
            "localhost",
            "LOCALHOST:9470",
            "ops.example.org",
            "ops.example.org:443",
            "OPS.example.org.",
        ] {
            assert!(is_allowed_host(host, ["ops.example.org"]), "{host}");
        }
        for host in [
            "evil.example",
            "evil.example:9470",
            "localhost.evil.example",
            "127.0.0.1.evil.example",
            "",
            "ops.example.org.evil.example",
        ] {
            assert!(!is_allowed_host(host, ["ops.example.org"]), "{host}");
        }
    }
}
