//! Check that a request's `Host` names this machine (RFC 9110 section 7.2). Must not resolve names: the owner of a name
//! controls its addresses.

use std::net::IpAddr;

use axum::extract::Request;
use axum::http::{StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};

/// Returns whether `host`, as the header has it, is an IP address, a name of the loopback, this machine's own name, or one of
/// `names`. Compared without case, without the port.
pub(crate) fn is_allowed_host<'n>(host: &str, names: impl IntoIterator<Item = &'n str>) -> bool {
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

/// Middleware that accepts only requests to this machine by an address or a name of its own: protects listeners for local
/// browsers from web pages whose name resolves to this machine (DNS rebinding).
pub(crate) async fn only_this_machine(request: Request, next: Next) -> Response {
    let host = request
        .headers()
        .get(header::HOST)
        .map(|host| host.to_str().unwrap_or_default());
    if host.is_none_or(|host| is_allowed_host(host, [])) {
        return next.run(request).await;
    }
    (
        StatusCode::MISDIRECTED_REQUEST,
        "this host name is not this machine's\n",
    )
        .into_response()
}

fn without_port(host: &str) -> &str {
    if let Some((inside, after)) = host.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        let port = after.strip_prefix(':').unwrap_or(after);
        let is_port =
            after.is_empty() || (after.len() > 1 && port.bytes().all(|byte| byte.is_ascii_digit()));
        return if is_port { inside } else { host };
    }
    match host.rsplit_once(':') {
        Some((name, port))
            if !name.contains(':') && port.bytes().all(|byte| byte.is_ascii_digit()) =>
        {
            name
        }
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
            "[127.0.0.1].evil.example",
            "[::1].evil.example:80",
            "",
            "ops.example.org.evil.example",
        ] {
            assert!(!is_allowed_host(host, ["ops.example.org"]), "{host}");
        }
    }
}
