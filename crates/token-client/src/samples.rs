//! A sample profile for tests of this crate and of its users.

use std::time::Duration;

use crate::error_table::{Class, ErrorRule};
use crate::provider::{ClientAuthentication, Profile};
use crate::quirks::{InstallFields, Pkce};
use crate::renew_every::RenewEvery;

/// A profile similar to Bitrix24's.
#[must_use]
pub fn profile() -> Profile {
    let rule = |status: &[u16], error: &[&str], description: &str, class| ErrorRule {
        status: status.to_vec(),
        error: error.iter().map(|&code| code.to_owned()).collect(),
        description: description.to_owned(),
        also: Vec::new(),
        class,
        meaning: None,
        remedy: None,
    };
    Profile {
        name: "bitrix24".into(),
        token_url: "https://oauth.bitrix.info/oauth/token/".into(),
        token_url_by_region: [(
            "ru".to_owned(),
            "https://oauth.bitrix24.tech/oauth/token/".to_owned(),
        )]
        .into(),
        client_authentication: ClientAuthentication::Body,
        pkce: Pkce::None,
        renew_every: RenewEvery::Age(Duration::from_secs(1500)),
        scope_separator: ",".into(),
        identity_field: Some("member_id".into()),
        endpoint_field: Some("client_endpoint".into()),
        server_field: Some("server_endpoint".into()),
        fields: vec!["member_id".into(), "user_id".into(), "status".into()],
        install: InstallFields {
            check: Some("/rest/app.info".into()),
            ..InstallFields::default()
        },
        errors: vec![
            rule(
                &[],
                &["invalid_request"],
                "token was invalid",
                Class::NeedsAuthorization,
            ),
            rule(&[], &["invalid_grant"], "", Class::NeedsAuthorization),
            rule(
                &[],
                &["invalid_client", "wrong_client"],
                "",
                Class::ClientRejected,
            ),
            rule(&[], &["PAYMENT_REQUIRED"], "", Class::Blocked),
            rule(&[], &["NOT_INSTALLED"], "", Class::Gone),
        ],
        ..Profile::blank()
    }
}
