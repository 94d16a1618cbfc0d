//! Renewal times. Must not depend on why a renewal failed: `backoff` has the waits after failures.

use std::time::Duration;

use super::name::PortalName;
use refreshd_secrets::Fingerprint;
use refreshd_time::{Timestamp, share_of};
use refreshd_token_client::refresh_end::{Motion, RefreshEnd};
use refreshd_token_client::renew_every::{
    AFTER_EXPIRY, LATEST_SHARE, MIN_SPACING, RenewEvery, before_an_end, spacing,
};
use refreshd_token_client::token::Tokens;

/// Renewals are spread over this share of the age, earlier.
const SPREAD_SHARE: f64 = 0.1;

/// Renewals after expiry are spread over this time.
const SPREAD_AFTER_EXPIRY: Duration = Duration::from_secs(30);

/// Renewal time of `portal`: its age, earlier by the portal's own share of up to a tenth.
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

/// Renewal time of these tokens: by the access token's age, and before the refresh token's own end. `None` without an access
/// token.
#[must_use]
pub fn planned(every: RenewEvery, portal: &PortalName, tokens: &Tokens) -> Option<Timestamp> {
    let access = tokens.access.as_ref()?;
    let usual = renew_at(every, portal, access.issued_at, access.lifetime());
    let end = tokens.validity.refresh.as_ref();
    Some(end.map_or(usual, |end| {
        before_end(
            usual,
            every,
            portal,
            end,
            (access.issued_at, access.lifetime()),
        )
    }))
}

/// `usual`, or earlier if the refresh token ends before: with the margin of the access token.
#[must_use]
pub fn before_end(
    usual: Timestamp,
    every: RenewEvery,
    portal: &PortalName,
    end: &RefreshEnd,
    (asked_at, lifetime): (Timestamp, Duration),
) -> Timestamp {
    let left = end.at.since(asked_at);
    // A renewal after the access token's expiry still comes before the refresh token's end.
    let every = if every == RenewEvery::Expiry {
        RenewEvery::Share(LATEST_SHARE)
    } else {
        every
    };
    let latest = renew_at(every, portal, asked_at, left).max(asked_at + before_an_end(lifetime));
    // If no renewal moves the end: one renewal shortly before it, and no more.
    let in_vain = end.motion == Motion::Fixed && latest < asked_at + spacing(lifetime);
    if end.motion == Motion::Short {
        usual.min(asked_at + spacing(lifetime))
    } else if left.is_zero() || in_vain {
        usual
    } else {
        usual.min(latest)
    }
}

/// Next attempt after a response with the unchanged token, which ends at `expires_at` as before. A few attempts before
/// that, and one when the server must issue another.
#[must_use]
pub fn unchanged_retry_at(
    every: RenewEvery,
    portal: &PortalName,
    (issued_at, expires_at): (Timestamp, Timestamp),
    asked_at: Timestamp,
) -> Timestamp {
    let by_age = renew_at(every, portal, asked_at, expires_at.since(asked_at));
    let at = by_age.max(asked_at + spacing(expires_at.since(issued_at)));
    if every != RenewEvery::Expiry && at >= expires_at {
        expires_at + AFTER_EXPIRY
    } else {
        at
    }
}

/// Wait after the `attempt`th token in a row that was expired on arrival: from a second on, doubling, up to a tenth of the
/// assumed lifetime.
#[must_use]
pub fn wait_after_expired_arrival(attempt: u32, assumed: Duration) -> Duration {
    MIN_SPACING
        .saturating_mul(1 << attempt.saturating_sub(1).min(16))
        .min(spacing(assumed))
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
            renew_at(
                BITRIX24,
                &PortalName::parse(name).unwrap(),
                Timestamp::default(),
                HOUR,
            )
            .secs()
        };
        let ages: Vec<_> = (0..100).map(|n| at(&format!("portal-{n}"))).collect();
        assert!(
            ages.iter().all(|age| (1350..=1500).contains(age)),
            "{ages:?}"
        );
        assert!(
            ages.iter().max().unwrap() - ages.iter().min().unwrap() > 100,
            "no spread: {ages:?}"
        );
        assert_eq!(at("acme"), at("acme"), "the offset is the portal's own");
    }

    #[test]
    fn a_token_that_is_to_expire_first_is_renewed_within_half_a_minute_of_its_end() {
        for name in ["acme", "globex", "initech"] {
            let at = renew_at(
                RenewEvery::Expiry,
                &PortalName::parse(name).unwrap(),
                Timestamp::default(),
                HOUR,
            );
            assert!(
                (3_601_000..=3_631_000).contains(&at.millis()),
                "{name}: {at:?}"
            );
        }
    }

    #[test]
    fn no_end_of_a_refresh_token_makes_a_spin() {
        let acme = PortalName::parse("acme").unwrap();
        let asked = Timestamp::default();
        let next = |life: u64, left: u64, motion| {
            let life = Duration::from_secs(life);
            let end = RefreshEnd {
                at: asked + Duration::from_secs(left),
                since: asked,
                motion,
            };
            let usual = renew_at(BITRIX24, &acme, asked, life);
            before_end(usual, BITRIX24, &acme, &end, (asked, life))
                .since(asked)
                .as_secs()
        };
        // A lifetime of a second, or days written as seconds.
        assert_eq!(next(40, 1, Motion::Short), 4);
        assert_eq!(next(3600, 1, Motion::Short), 360);
        assert_eq!(next(3600, 30, Motion::Short), 360);
        assert_eq!(next(3600, 0, Motion::Short), 360);
        // A session of half an hour with a token of a day is kept alive.
        let day = next(86_400, 1800, Motion::Moves);
        assert!((1300..1700).contains(&day), "{day}");
        assert_eq!(next(86_400, 61, Motion::Unknown), 60);
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
