//! The keys of a profile but those of `wire_format`.

use super::super::source::Diagnostics;
use super::super::table::{Table, TextValue};
use super::super::values::{check_age, set};
use super::super::values::{choice, duration, host, one_of, renew_every, url};
use super::error_rules::rows;
use super::install_fields;
use super::wire_format;
use refreshd_token_client::provider::{ClientAuthentication, Method, Profile, Replay};
use refreshd_token_client::quirks::{GrantType, NotBefore, Pkce, Rotation};
use refreshd_token_client::renew_every::RenewEvery;
use refreshd_token_client::token::LIFETIME_RANGE;

/// Puts the keys of a table over a profile. Its error rows come before those that were there.
pub(in crate::config) fn apply(table: Table<'_>, profile: &mut Profile, report: &mut Diagnostics) {
    endpoints(table, profile, report);
    wire_format::apply(table, profile, report);
    let starts = [
        ("authorization-code", GrantType::AuthorizationCode),
        ("client-credentials", GrantType::ClientCredentials),
        ("device", GrantType::Device),
    ];
    set(&mut profile.start, choice(table, report, "grant", &starts));
    let methods = [("post", Method::Post), ("get", Method::Get)];
    set(
        &mut profile.method,
        choice(table, report, "method", &methods),
    );
    let ways = [
        ("none", ClientAuthentication::None),
        ("basic", ClientAuthentication::Basic),
        ("body", ClientAuthentication::Body),
        ("basic-with-body", ClientAuthentication::BasicWithBody),
    ];
    set(
        &mut profile.client_authentication,
        choice(table, report, "client_authentication", &ways),
    );
    set(&mut profile.replay, retry_ambiguous(table, report));
    let ways = [
        ("S256", Pkce::S256),
        ("plain", Pkce::Plain),
        ("none", Pkce::None),
    ];
    set(&mut profile.pkce, choice(table, report, "pkce", &ways));
    ages(table, profile, report);
    set(
        &mut profile.scope_separator,
        table
            .text_as(report, "scope_separator", "a string in quotes")
            .map(|text| text.value.to_owned()),
    );
    for (key, field) in [
        ("identity", &mut profile.identity_field),
        ("endpoint", &mut profile.endpoint_field),
        ("token_server_field", &mut profile.server_field),
    ] {
        set(
            field,
            table
                .text(report, key)
                .map(|text| Some(text.value.to_owned())),
        );
    }
    if let Some(fields) = table.texts(report, "fields", false) {
        for field in fields
            .iter()
            .filter(|field| wire_format::is_secret(field.value))
        {
            report.problem(
                field.place,
                "`fields` names a field that is never handed to readers",
            );
        }
        profile.fields = fields.iter().map(|field| field.value.to_owned()).collect();
    }
    install_fields::read(table, &mut profile.install, report);
    if table.has("errors") {
        let mut errors = rows(table, report);
        errors.append(&mut profile.errors);
        profile.errors = errors;
    }
}

/// When a request without a known outcome is sent again. `late` is the former name of `before-expiry`.
fn retry_ambiguous(table: Table<'_>, report: &mut Diagnostics) -> Option<Replay> {
    let key = "retry_ambiguous";
    let text = table.text(report, key)?;
    if text.value == "late" {
        report.warning(text.place, "`late` was renamed to `before-expiry`");
        return Some(Replay::Late);
    }
    let words = [("now", Replay::Now), ("before-expiry", Replay::Late)];
    one_of(report, key, text, &words)
}

/// When a token is renewed, and what a renewal does to the refresh token.
fn ages(table: Table<'_>, profile: &mut Profile, report: &mut Diagnostics) {
    let lifetime = duration(table, report, "assumed_lifetime", "1h", LIFETIME_RANGE);
    let every = renew_every(table, report);
    set(&mut profile.assumed_lifetime, lifetime);
    set(&mut profile.renew_every, every);
    if table
        .text(report, "not_before")
        .is_some_and(|text| text.value == "expiry")
    {
        profile.earliest = NotBefore::Expiry;
        if every.is_none() {
            profile.renew_every = RenewEvery::Expiry;
        }
    } else if let Some(age) = duration(table, report, "not_before", "24h", LIFETIME_RANGE) {
        profile.earliest = NotBefore::Age(age);
    }
    if lifetime.is_some() || every.is_some() {
        check_age(table, profile.renew_every, profile.assumed_lifetime, report);
    }
    let rotations = [
        ("always", Rotation::Always),
        ("sometimes", Rotation::Sometimes),
        ("never", Rotation::Never),
    ];
    set(
        &mut profile.rotation,
        choice(table, report, "rotation", &rotations),
    );
    set(
        &mut profile.grace,
        duration(table, report, "grace", "10m", LIFETIME_RANGE).map(Some),
    );
    let too_soon = match (profile.earliest, profile.renew_every) {
        (NotBefore::Any, _) | (_, RenewEvery::Expiry) => false,
        (NotBefore::Expiry, _) => true,
        (NotBefore::Age(earliest), every) => every.age(profile.assumed_lifetime) < earliest,
    };
    if let (true, Some(place)) = (
        too_soon,
        table
            .place_of("renew_every")
            .or_else(|| table.place_of("not_before")),
    ) {
        report.problem(
            place,
            "`renew_every` is sooner than the provider's `not_before`",
        );
    }
}

fn endpoints(table: Table<'_>, profile: &mut Profile, report: &mut Diagnostics) {
    if let Some(text) = table.text(report, "issuer") {
        // Whoever names an issuer means its endpoints, but for those written beside it.
        let endpoints = [
            &mut profile.refresh_url,
            &mut profile.authorize_url,
            &mut profile.device_url,
            &mut profile.revoke_url,
            &mut profile.introspect_url,
        ];
        endpoints.into_iter().for_each(|url| *url = None);
        profile.token_url.clear();
        profile.token_url_by_region.clear();
        set(&mut profile.issuer, issuer(report, text).map(Some));
    }
    if let Some(hosts) = table.texts(report, "allowed_hosts", false) {
        profile.hosts = hosts
            .into_iter()
            .filter_map(|text| host(report, "allowed_hosts", text))
            .collect();
    }
    let default_domain = table.text(report, "default_domain");
    if let Some(domain) = default_domain.and_then(|text| host(report, "default_domain", text)) {
        profile.default_domain = Some(domain);
    }
    if let Some(text) = table.text(report, "token_url") {
        // Whoever names one endpoint means it for every region, and for renewals.
        profile.token_url_by_region.clear();
        profile.refresh_url = None;
        set(&mut profile.token_url, url(report, "token_url", text, true));
    }
    for (key, endpoint) in [
        ("refresh_url", &mut profile.refresh_url),
        ("authorize_url", &mut profile.authorize_url),
        ("device_url", &mut profile.device_url),
        ("revoke_url", &mut profile.revoke_url),
        ("introspect_url", &mut profile.introspect_url),
    ] {
        if let Some(text) = table.text(report, key) {
            set(endpoint, url(report, key, text, true).map(Some));
        }
    }
    let Some(regions) = table.table(report, "token_url_by_region", "token_url_by_region") else {
        return;
    };
    profile.token_url_by_region.clear();
    for region in regions.keys() {
        let address = regions.text(report, region.value);
        if let Some(address) =
            address.and_then(|text| url(report, "token_url_by_region", text, false))
        {
            profile
                .token_url_by_region
                .insert(region.value.to_lowercase(), address);
        }
    }
}

/// An issuer as its metadata must repeat it: RFC 8414 section 2 wants https, and neither query nor fragment.
fn issuer(report: &mut Diagnostics, text: TextValue<'_>) -> Option<String> {
    url(report, "issuer", text, false)?;
    if text.value.contains('?') {
        report.problem(text.place, "`issuer` must not hold a query (?…)");
        return None;
    }
    Some(text.value.to_owned())
}
