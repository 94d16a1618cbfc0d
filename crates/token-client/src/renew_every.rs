//! Age at which a provider's tokens are renewed, and the minimum time between renewals. Must not know a portal: a
//! portal's own jitter belongs to the scheduler.

use std::time::Duration;

use refreshd_time::share_of;

/// Latest planned renewal, as a share of the lifetime.
pub const LATEST_SHARE: f64 = 0.9;
/// Minimum time between renewals of a portal, as a share of the lifetime.
const SPACING_SHARE: f64 = 0.1;
/// Minimum time between renewals, however short a lifetime the server reports.
pub const MIN_SPACING: Duration = Duration::from_secs(1);
/// Minimum time between renewals that precede a refresh token's expiry; one that expires sooner is not chased.
const MIN_SPACING_BEFORE_END: Duration = Duration::from_secs(60);
/// Delay after the expiry, for servers whose clock is slightly behind.
pub const AFTER_EXPIRY: Duration = Duration::from_secs(1);

/// Age at which a token is renewed.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum RenewEvery {
    /// A fixed age.
    Age(Duration),
    /// A share of the lifetime, in (0, 1).
    Share(f64),
    /// After its expiry, for servers that do not renew sooner.
    Expiry,
}

impl RenewEvery {
    /// Age for a token with this lifetime, before jitter: at most 90 % of the lifetime, unless it is to expire first;
    /// at least a tenth of it.
    #[must_use]
    pub fn age(self, lifetime: Duration) -> Duration {
        let wanted = match self {
            Self::Age(age) => age,
            Self::Share(share) => share_of(lifetime, share),
            Self::Expiry => return lifetime + AFTER_EXPIRY,
        };
        wanted
            .min(share_of(lifetime, LATEST_SHARE))
            .max(spacing(lifetime))
    }

    /// Returns whether this age leaves the last tenth of the lifetime.
    #[must_use]
    pub fn fits(self, lifetime: Duration) -> bool {
        match self {
            Self::Age(age) => age <= share_of(lifetime, LATEST_SHARE),
            Self::Share(share) => share <= LATEST_SHARE,
            Self::Expiry => true,
        }
    }
}

/// Minimum time between two renewals of a portal.
#[must_use]
pub fn spacing(lifetime: Duration) -> Duration {
    share_of(lifetime, SPACING_SHARE).max(MIN_SPACING)
}

/// Minimum time between two renewals if the refresh token expires within a tenth of the access token's lifetime.
/// Session servers allow half an hour beside an access token of a day, and waiting must not end the grant.
#[must_use]
pub fn before_an_end(lifetime: Duration) -> Duration {
    spacing(lifetime).min(MIN_SPACING_BEFORE_END)
}
