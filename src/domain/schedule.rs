//! When a token is renewed. Must not know why a renewal failed: waits after failures are `backoff`.

use std::time::Duration;

use super::name::PortalName;
use super::secret::Fingerprint;
use super::time::{Timestamp, share_of};

/// A renewal is never planned later than this share of the life.
const LATEST_SHARE: f64 = 0.9;
/// At most one renewal of a portal in this share of its life.
const SPACING_SHARE: f64 = 0.1;
/// Nor more than one in this time, however short a life the server claims.
const SHORTEST_SPACING: Duration = Duration::from_secs(1);
/// Portals spread over this share of the age, earlier.
const SPREAD_SHARE: f64 = 0.1;

/// The age at which a token is renewed.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum RenewEvery {
    /// A fixed age.
    Age(Duration),
    /// A share of the life, in (0, 1).
    Share(f64),
    /// Once it has expired, for servers that renew no sooner.
    Expiry,
}

/// After the expiry, for servers whose clock is a little behind.
const AFTER_EXPIRY: Duration = Duration::from_secs(1);
/// Portals whose tokens are renewed after expiry spread over this time.
const SPREAD_AFTER_EXPIRY: Duration = Duration::from_secs(30);

impl RenewEvery {
    /// The age for a token of this life, before spreading: at most 90 % of the life, unless it is to expire first; at
    /// least a tenth of it.
    #[must_use]
    pub fn age(self, lifetime: Duration) -> Duration {
        let wanted = match self {
            Self::Age(age) => age,
            Self::Share(share) => share_of(lifetime, share),
            Self::Expiry => return lifetime + AFTER_EXPIRY,
        };
        wanted.min(share_of(lifetime, LATEST_SHARE)).max(spacing(lifetime))
    }

    /// Whether this age fits into a life with its last tenth left over.
    #[must_use]
    pub fn fits(self, lifetime: Duration) -> bool {
        match self {
            Self::Age(age) => age <= share_of(lifetime, LATEST_SHARE),
            Self::Share(share) => share <= LATEST_SHARE,
            Self::Expiry => true,
        }
    }
}

/// When the token of `portal` is to be renewed: its age, earlier by the portal's own share of up to a tenth.
#[must_use]
pub fn renew_at(
    every: RenewEvery,
    portal: &PortalName,
    issued_at: Timestamp,
    lifetime: Duration,
) -> Timestamp {
    let age = every.age(lifetime);
    let unit = Fingerprint::of(portal.as_str().as_bytes()).unit();
    if every == RenewEvery::Expiry {
        return issued_at + age + SPREAD_AFTER_EXPIRY.mul_f64(unit);
    }
    let offset = share_of(age, SPREAD_SHARE * unit);
    issued_at + age.saturating_sub(offset).max(spacing(lifetime))
}

/// The least time between two renewals of a portal.
#[must_use]
pub fn spacing(lifetime: Duration) -> Duration {
    share_of(lifetime, SPACING_SHARE).max(SHORTEST_SPACING)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const HOUR: Duration = Duration::from_secs(3600);
    const BITRIX24: RenewEvery = RenewEvery::Age(Duration::from_secs(1500));

    #[test]
    fn bitrix24_renews_between_22_and_25_minutes_and_portals_differ() {
        let at = |name: &str| {
            renew_at(BITRIX24, &PortalName::parse(name).unwrap(), Timestamp::default(), HOUR).secs()
        };
        let ages: Vec<_> = (0..100).map(|n| at(&format!("portal-{n}"))).collect();
        assert!(ages.iter().all(|age| (1350..=1500).contains(age)), "{ages:?}");
        assert!(ages.iter().max().unwrap() - ages.iter().min().unwrap() > 100, "no spread: {ages:?}");
        assert_eq!(at("acme"), at("acme"), "the offset is the portal's own");
    }

    #[test]
    fn a_token_that_is_to_expire_first_is_renewed_within_half_a_minute_of_its_end() {
        for name in ["acme", "globex", "initech"] {
            let at =
                renew_at(RenewEvery::Expiry, &PortalName::parse(name).unwrap(), Timestamp::default(), HOUR);
            assert!((3_601_000..=3_631_000).contains(&at.millis()), "{name}: {at:?}");
        }
    }

    proptest! {
        #[test]
        fn never_later_than_nine_tenths_and_never_sooner_than_a_tenth(
            secs in 1u64..40_000_000, age in 0u64..80_000_000, share in 0.0f64..1.0, by_share: bool, name in "[a-z]{1,8}"
        ) {
            let life = Duration::from_secs(secs);
            let every = if by_share { RenewEvery::Share(share) } else { RenewEvery::Age(Duration::from_secs(age)) };
            let at = renew_at(every, &PortalName::parse(&name).unwrap(), Timestamp::default(), life).millis();
            let life = i64::try_from(life.as_millis()).unwrap();
            prop_assert!(at >= (life / 10).min(1000), "{at} of {life}");
            prop_assert!(at <= (life * 9 / 10 + 1).max(1000), "{at} of {life}");
        }
    }
}
