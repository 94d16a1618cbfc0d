//! Install events as Bitrix24 sends them, and invalid ones.

use super::*;

const OPENED: &str = "AUTH_ID=access&AUTH_EXPIRES=3600&REFRESH_ID=refresh&member_id=a223&status=F&PLACEMENT=DEFAULT\
    &SERVER_ENDPOINT=https%3A%2F%2Foauth.bitrix.info%2Frest%2F&APPLICATION_TOKEN=planted";
const QUERY: &str = "DOMAIN=Acme.Bitrix24.com%3A443&PROTOCOL=1&LANG=en&APP_SID=dd8cec11";
const INSTALLED: &str = "event=ONAPPINSTALL&event_handler_id=17&data%5BVERSION%5D=1&ts=1696527000&auth%5Baccess_token%5D=access\
    &auth%5Brefresh_token%5D=refresh&auth%5Bexpires%5D=1696530600&auth%5Bdomain%5D=oauth.bitrix.info&auth%5Bmember_id%5D=a223\
    &auth%5Bclient_endpoint%5D=https%3A%2F%2Facme.bitrix24.com%2Frest%2F&auth%5Buser_id%5D=1&auth%5Bapplication_token%5D=5185";

fn claims(notice: InstallEvent) -> (ClaimedOwner, String, Option<ApplicationToken>) {
    match notice {
        InstallEvent::Opened(it) | InstallEvent::Installed(it) | InstallEvent::SystemUser(it) => (
            it.claims,
            format!("{}/{}", it.access.expose(), it.refresh.expose()),
            it.application_token,
        ),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_browser_brings_tokens_in_the_body_and_the_domain_in_the_address() {
    let notice = read(QUERY, OPENED.as_bytes()).unwrap();
    assert!(matches!(notice, InstallEvent::Opened(_)));
    let (claims, tokens, application_token) = claims(notice);
    assert_eq!(
        (claims.host.as_deref(), claims.member_id.as_str()),
        (Some("acme.bitrix24.com"), "a223")
    );
    assert_eq!(
        claims.server.as_deref(),
        Some("https://oauth.bitrix.info/rest/")
    );
    assert_eq!(tokens, "access/refresh");
    assert!(
        application_token.is_none(),
        "what its user can write is no proof"
    );
    let in_the_body = read("", format!("{OPENED}&DOMAIN=other.example").as_bytes()).unwrap();
    assert_eq!(
        self::claims(in_the_body).0.host.as_deref(),
        Some("other.example")
    );
    let in_the_address = read("AUTH_ID=access&REFRESH_ID=refresh&member_id=a223", b"").unwrap_err();
    assert_eq!(in_the_address, InstallEventError::Neither);
}

#[test]
fn brackets_may_be_percent_encoded_or_not() {
    for body in [
        INSTALLED.to_owned(),
        INSTALLED.replace("%5B", "[").replace("%5D", "]"),
    ] {
        let notice = read("", body.as_bytes()).unwrap();
        let InstallEvent::Installed(it) = &notice else {
            panic!("{notice:?}")
        };
        assert_eq!(
            (it.sent_at, it.expires.as_deref()),
            (
                Some(Timestamp::from_secs(1_696_527_000)),
                Some("1696530600")
            )
        );
        let (claims, tokens, application_token) = claims(notice);
        assert_eq!(
            (claims.host.as_deref(), claims.user_id.as_deref()),
            (Some("acme.bitrix24.com"), Some("1"))
        );
        assert_eq!(
            (tokens.as_str(), application_token.unwrap().expose()),
            ("access/refresh", "5185")
        );
    }
}

#[test]
fn the_tokens_of_a_system_user_stand_in_the_data() {
    let body = "event=onAppUserReady&data[access_token]=a512&data[refresh_token]=r512&data[member_id]=a223&data[user_id]=512\
        &data[client_endpoint]=https://acme.bitrix24.com/rest/&ts=1756890123&auth[access_token]=a1&auth[refresh_token]=r1\
        &auth[member_id]=a223&auth[user_id]=1&auth[application_token]=5185";
    let notice = read("", body.as_bytes()).unwrap();
    assert!(matches!(notice, InstallEvent::SystemUser(_)));
    let (claims, tokens, application_token) = claims(notice);
    assert_eq!(
        (claims.user_id.as_deref(), tokens.as_str()),
        (Some("512"), "a512/r512")
    );
    assert!(application_token.is_some());
    let mixed = body.replace("auth[member_id]=a223", "auth[member_id]=b224");
    assert_eq!(
        read("", mixed.as_bytes()).unwrap_err(),
        InstallEventError::Unfit("data[member_id]")
    );
}

#[test]
fn a_removal_has_no_tokens() {
    let body = "event=ONAPPUNINSTALL&data[CLEAN]=1&ts=1466439714&auth[member_id]=a223&auth[application_token]=5185";
    let InstallEvent::Removed(removal) = read("", body.as_bytes()).unwrap() else {
        panic!()
    };
    assert_eq!(
        (
            removal.member_id.as_str(),
            removal.application_token.as_ref().unwrap().expose()
        ),
        ("a223", "5185")
    );
    let nobodys = body.replace("auth[member_id]=a223&", "");
    assert!(matches!(
        read("", nobodys.as_bytes()).unwrap(),
        InstallEvent::Incomplete(it) if it.missing == "auth[member_id]"
    ));
    // Not proven by anything; a renewal verifies them.
    for gone in ["ts=1466439714&", "&auth[application_token]=5185"] {
        let InstallEvent::Removed(bare) = read("", body.replace(gone, "").as_bytes()).unwrap()
        else {
            panic!()
        };
        assert!(
            bare.sent_at.is_none() || bare.application_token.is_none(),
            "{gone}"
        );
    }
}

#[test]
fn an_event_without_tokens_is_known_as_such() {
    for (event, part, gone) in [
        ("ONAPPINSTALL", "auth", "access_token"),
        ("ONAPPINSTALL", "auth", "refresh_token"),
        ("ONAPPUSERREADY", "data", "refresh_token"),
        ("ONAPPINSTALL", "auth", "member_id"),
        ("ONAPPUSERREADY", "data", "member_id"),
    ] {
        let body = INSTALLED
            .replace("%5B", "[")
            .replace("%5D", "]")
            .replace("ONAPPINSTALL", event);
        let body = body.replace("auth[", &format!("{part}["));
        let word = match gone {
            "member_id" => "a223",
            token => token.trim_end_matches("_token"),
        };
        let body = body.replace(&format!("{part}[{gone}]={word}"), "x=1");
        let notice = read("", body.as_bytes()).unwrap();
        let InstallEvent::Incomplete(it) = notice else {
            panic!("{notice:?}")
        };
        assert_eq!(
            (it.missing, it.host.as_deref()),
            (&*format!("{part}[{gone}]"), Some("acme.bitrix24.com"))
        );
    }
}

#[test]
fn what_decides_nothing_refuses_nothing() {
    let many = format!("auth[scope]={}", vec!["crm"; 67].join(","));
    for (more, scope) in [
        (many, Some(67 * 4 - 1)),
        (format!("auth[scope]={}", "x".repeat(301)), Some(301)),
        (format!("auth[scope]={}", "x".repeat(20_000)), None),
        ("auth[scope]=crm,+task+,%20im".to_owned(), Some(14)),
        ("auth[scope]=a%00b".to_owned(), None),
        ("auth[scope]=a&auth[scope]=b".to_owned(), None),
        (format!("auth[server_endpoint]={}", "x".repeat(301)), None),
        (
            "auth[server_endpoint]=a&auth[server_endpoint]=b".to_owned(),
            None,
        ),
    ] {
        let notice = read("", format!("{INSTALLED}&{more}").as_bytes()).unwrap();
        let InstallEvent::Installed(it) = notice else {
            panic!("{more}")
        };
        assert_eq!(it.scope.map(|scope| scope.len()), scope, "{more}");
        assert_eq!(it.claims.server, None, "{more}");
    }
}

#[test]
fn a_form_without_a_grant_is_known_as_such() {
    for (from, to, missing) in [
        ("AUTH_ID=access", "x=1", "AUTH_ID"),
        ("AUTH_ID=access", "AUTH_ID=", "AUTH_ID"),
        ("REFRESH_ID=refresh", "x=1", "REFRESH_ID"),
        ("REFRESH_ID=refresh", "REFRESH_ID=", "REFRESH_ID"),
        ("member_id=a223", "x=1", "member_id"),
    ] {
        let body = OPENED.replacen(from, to, 1);
        let notice = read(QUERY, body.as_bytes()).unwrap();
        let InstallEvent::Incomplete(it) = notice else {
            panic!("{notice:?}")
        };
        assert_eq!(
            (it.missing, it.host.as_deref()),
            (missing, Some("acme.bitrix24.com"))
        );
    }
}

#[test]
fn a_time_is_read_where_it_is_one_and_refuses_nothing() {
    let at = Some(Timestamp::from_secs(1_696_527_000));
    for (ts, sent_at) in [
        ("1696527000.482", at),
        ("1696527000000", at),
        ("2023-10-05T17:30:00Z", at),
        ("soon", None),
        ("", None),
        ("NaN", None),
        ("1e9", None),
    ] {
        let body = INSTALLED.replace("ts=1696527000", &format!("ts={ts}"));
        let InstallEvent::Installed(it) = read("", body.as_bytes()).unwrap() else {
            panic!("{ts}")
        };
        assert_eq!(it.sent_at, sent_at, "{ts}");
    }
}

#[test]
fn a_host_that_is_none_or_comes_twice_loses_no_notice() {
    for (endpoint, host) in [
        ("not+a+url", None),
        ("%00", None),
        ("a;b", None),
        (
            "x&auth%5Bclient_endpoint%5D=https%3A%2F%2Facme.bitrix24.com%2Frest%2F",
            Some("x"),
        ),
    ] {
        let body = INSTALLED.replace("https%3A%2F%2Facme.bitrix24.com%2Frest%2F", endpoint);
        let notice = read("", body.as_bytes()).unwrap();
        assert_eq!(claims(notice).0.host.as_deref(), host, "{endpoint}");
    }
    for query in [
        "DOMAIN=acme.example&DOMAIN=acme.example",
        "DOMAIN=a..b:x&DOMAIN=acme.example",
    ] {
        let notice = read(query, OPENED.as_bytes()).unwrap();
        assert_eq!(
            claims(notice).0.host.as_deref(),
            Some("acme.example"),
            "{query}"
        );
    }
}

#[test]
fn a_host_is_read_however_it_is_written() {
    for (written, host) in [
        (
            "%D0%BF%D0%BE%D1%80%D1%82%D0%B0%D0%BB.%D1%80%D1%84",
            Some("xn--80awhdgm.xn--p1ai"),
        ),
        ("b24_test.company.local", Some("b24_test.company.local")),
        ("192.168.1.10:8080", Some("192.168.1.10:8080")),
        ("ACME.bitrix24.com.", Some("acme.bitrix24.com")),
        ("https://acme.bitrix24.com/", Some("acme.bitrix24.com")),
        ("acme..com:port", None),
    ] {
        let notice = read(&format!("DOMAIN={written}"), OPENED.as_bytes()).unwrap();
        assert_eq!(claims(notice).0.host.as_deref(), host, "{written}");
    }
}

#[test]
fn other_events_are_known_as_such_whatever_they_hold() {
    let body = "event=ONCRMDEALADD&data[FIELDS][ID]=1&auth=x&ts=soon&auth[member_id]=%00";
    assert!(matches!(
        read("", body.as_bytes()).unwrap(),
        InstallEvent::Other
    ));
}

#[test]
fn what_is_unfit_is_refused_without_quoting_it() {
    let long = "x".repeat(5000);
    for (from, to, error) in [
        (
            "AUTH_ID=access&AUTH_EXPIRES=3600&REFRESH_ID=refresh",
            "x=1",
            InstallEventError::Neither,
        ),
        (
            "REFRESH_ID=refresh",
            "REFRESH_ID=two+words",
            InstallEventError::Unfit("REFRESH_ID"),
        ),
        (
            "REFRESH_ID=refresh",
            "REFRESH_ID=a&REFRESH_ID=b",
            InstallEventError::Twice("REFRESH_ID"),
        ),
        (
            "AUTH_ID=access",
            &format!("AUTH_ID={long}"),
            InstallEventError::Unfit("AUTH_ID"),
        ),
        (
            "member_id=a223",
            "member_id=..%2F..%2Fetc",
            InstallEventError::Unfit("member_id"),
        ),
        (
            "&status=F",
            "&DOMAIN=a%0d%0ab",
            InstallEventError::Unfit("DOMAIN"),
        ),
        (
            "&status=F",
            "&DOMAIN=a;script-src+*",
            InstallEventError::Unfit("DOMAIN"),
        ),
    ] {
        let body = OPENED.replacen(from, to, 1);
        assert_eq!(read("", body.as_bytes()).unwrap_err(), error, "{body}");
    }
    assert_eq!(
        read("", &[0xff; 100]).unwrap_err(),
        InstallEventError::Neither
    );
    let shown = format!("{:?}", read(QUERY, OPENED.as_bytes()).unwrap());
    assert!(
        !shown.contains("\"access\"") && !shown.contains("refresh\""),
        "{shown}"
    );
}
