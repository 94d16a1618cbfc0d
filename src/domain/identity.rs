//! Comparison of a grant's owner with the portal's: by identity if both are known, else by host.
//!
//! Must not decide what to do about a mismatch, nor quote a token.

use super::portal::Portal;
use refreshd_secrets::mask::short;
use refreshd_token_client::host::same_host;
use refreshd_token_client::provider::{Profile, host_of};

/// The expected owner.
#[derive(Clone, Copy, Debug, Default)]
pub struct ExpectedIdentity<'a> {
    /// Identity pinned in the configuration.
    pub pinned: Option<&'a str>,
    /// Identity of the grant in force.
    pub identity: Option<&'a str>,
    /// Configured host of the portal's API; `None` if `domain` is the authorization server's.
    pub domain: Option<&'a str>,
    /// Host of the API, from the grant in force.
    pub host: Option<&'a str>,
}

/// The owner that a grant names.
#[derive(Clone, Copy, Debug, Default)]
pub struct ClaimedIdentity<'a> {
    /// Identity.
    pub identity: Option<&'a str>,
    /// Host of its API.
    pub host: Option<&'a str>,
}

/// The owners differ. `Display` names both.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IdentityMismatch {
    /// Differs from the pinned identity.
    #[error("it is the grant of {got}, the configuration expects {pinned}")]
    ThanPinned {
        /// Actual identity.
        got: String,
        /// Expected identity.
        pinned: String,
    },
    /// Differs from the grant in force.
    #[error("it is the grant of {got}, and {portal} has been {known} until now")]
    ThanLiving {
        /// Actual identity.
        got: String,
        /// Name of the portal.
        portal: String,
        /// Expected identity.
        known: String,
    },
    /// The host differs.
    #[error("it is the grant of {got}, and {portal} is {known}")]
    ThanHost {
        /// Actual host.
        got: String,
        /// Name of the portal.
        portal: String,
        /// Expected host.
        known: String,
    },
}

impl<'a> ExpectedIdentity<'a> {
    /// The expectations of the configuration and the state.
    #[must_use]
    pub fn of(portal: &'a Portal, profile: &Profile) -> Self {
        let settings = portal.settings.as_ref();
        let grant = portal.grant.as_ref();
        let endpoint = grant.and_then(|grant| grant.tokens.details.endpoint.as_deref());
        let domain = settings.and_then(|settings| settings.domain.as_deref());
        Self {
            pinned: settings.and_then(|settings| settings.identity.as_deref()),
            identity: grant.and_then(|grant| grant.identity.as_deref()),
            domain: domain.filter(|_| profile.endpoint_field.is_some() && !profile.is_at_domain()),
            host: endpoint.and_then(host_of),
        }
    }

    /// Without what only the grant in force knows, for an operator's override.
    #[must_use]
    pub const fn configured(self) -> Self {
        Self {
            identity: None,
            host: None,
            ..self
        }
    }

    /// Only the pinned identity.
    #[must_use]
    pub const fn pinned_only(self) -> Self {
        Self {
            identity: None,
            domain: None,
            host: None,
            ..self
        }
    }
}

/// Returns whether two identities are equal. The case of hexadecimal digits is ignored: servers use either.
#[must_use]
pub fn is_same(one: &str, other: &str) -> bool {
    one.eq_ignore_ascii_case(other)
}

/// Compares the owners. An equal identity is sufficient: the host of a portal may change.
///
/// # Errors
/// [`IdentityMismatch`] names both.
pub fn compare(
    portal: &str,
    known: ExpectedIdentity<'_>,
    claimed: ClaimedIdentity<'_>,
) -> Result<(), IdentityMismatch> {
    let got = |identity: &str| named(identity, claimed.host);
    if let (Some(pinned), Some(identity)) = (known.pinned, claimed.identity) {
        return match is_same(pinned, identity) {
            true => Ok(()),
            false => Err(IdentityMismatch::ThanPinned {
                got: got(identity),
                pinned: short(pinned),
            }),
        };
    }
    if let (Some(living), Some(identity)) = (known.identity, claimed.identity) {
        return match is_same(living, identity) {
            true => Ok(()),
            false => Err(IdentityMismatch::ThanLiving {
                got: got(identity),
                portal: portal.to_owned(),
                known: named(living, known.host.or(known.domain)),
            }),
        };
    }
    let expected = [known.domain, known.host];
    let mut expected = expected.iter().flatten().peekable();
    let (Some(host), Some(first)) = (claimed.host, expected.peek().copied()) else {
        return Ok(());
    };
    if expected.any(|expected| same_host(expected, host)) {
        return Ok(());
    }
    let got = claimed.identity.map_or_else(|| short(host), got);
    Err(IdentityMismatch::ThanHost {
        got,
        portal: portal.to_owned(),
        known: short(first),
    })
}

fn named(identity: &str, host: Option<&str>) -> String {
    host.map_or_else(
        || short(identity),
        |host| format!("{} ({})", short(identity), short(host)),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn known() -> ExpectedIdentity<'static> {
        ExpectedIdentity {
            pinned: None,
            identity: Some("a223"),
            domain: Some("acme.example"),
            host: Some("new.example"),
        }
    }

    fn claimed<'a>(identity: Option<&'a str>, host: Option<&'a str>) -> ClaimedIdentity<'a> {
        ClaimedIdentity { identity, host }
    }

    #[test]
    fn an_identity_that_both_know_decides_whatever_the_host_is() {
        assert_eq!(
            compare(
                "acme",
                known(),
                claimed(Some("a223"), Some("third.example"))
            ),
            Ok(())
        );
        let other = compare("acme", known(), claimed(Some("b1"), Some("acme.example")))
            .unwrap_err()
            .to_string();
        assert_eq!(
            other,
            "it is the grant of b1 (acme.example), and acme has been a223 (new.example) until now"
        );
        let pinned = ExpectedIdentity {
            pinned: Some("b1"),
            ..known()
        };
        assert_eq!(
            compare("acme", pinned, claimed(Some("b1"), None)),
            Ok(()),
            "the configuration has the last word"
        );
        let other = compare("acme", pinned, claimed(Some("a223"), None))
            .unwrap_err()
            .to_string();
        assert_eq!(
            other,
            "it is the grant of a223, the configuration expects b1"
        );
        assert!(compare("acme", pinned.pinned_only(), claimed(Some("a223"), None)).is_err());
    }

    #[test]
    fn without_one_the_host_decides_where_both_name_one() {
        let unknown = ExpectedIdentity {
            identity: None,
            host: None,
            ..known()
        };
        assert_eq!(compare("acme", unknown, claimed(None, None)), Ok(()));
        assert_eq!(
            compare(
                "acme",
                unknown,
                claimed(Some("b1"), Some("ACME.example:443"))
            ),
            Ok(())
        );
        let other = compare("acme", unknown, claimed(Some("b1"), Some("b.example")))
            .unwrap_err()
            .to_string();
        assert_eq!(
            other,
            "it is the grant of b1 (b.example), and acme is acme.example"
        );
        // The grant in force reflects a rename; the configuration may not.
        for host in ["acme.example", "new.example"] {
            assert_eq!(compare("acme", known(), claimed(None, Some(host))), Ok(()));
        }
        assert!(compare("acme", known(), claimed(None, Some("b.example"))).is_err());
        assert!(
            compare(
                "acme",
                known().configured(),
                claimed(None, Some("new.example"))
            )
            .is_err()
        );
        assert_eq!(
            compare(
                "acme",
                known().pinned_only(),
                claimed(Some("b1"), Some("b.example"))
            ),
            Ok(())
        );
        assert_eq!(
            compare(
                "acme",
                ExpectedIdentity::default(),
                claimed(Some("b1"), Some("b.example"))
            ),
            Ok(())
        );
    }

    #[test]
    fn one_host_is_written_in_many_ways() {
        for (one, other) in [
            ("acme.example", "ACME.Example:443"),
            ("acme.example.", "acme.example:80"),
            ("портал.рф", "xn--80awhdgm.xn--p1ai"),
            ("b24_test.company.local", "B24_test.company.local"),
            ("127.0.0.1:8080", "127.0.0.1:8080"),
        ] {
            assert!(same_host(one, other), "{one} {other}");
        }
        assert!(!same_host("acme.example", "acme.example:8080"));
        assert!(!same_host("acme.example", "acme.example.evil"));
    }
}
