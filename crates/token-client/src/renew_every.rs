//! At which age a provider's tokens are renewed, and how often at most. Must not know a portal: its own share is `schedule`'s.

use std::time::Duration;

use refreshd_time::share_of;

/// A renewal is never planned later than this share of the life.
pub const LATEST_SHARE: f64 = 0.9;
/// At most one renewal of a portal in this share of its life.
const SPACING_SHARE: f64 = 0.1;
/// Nor more than one in this time, however short a life the server claims.
pub const SHORTEST_SPACING: Duration = Duration::from_secs(1);
/// A refresh token that ends sooner is not run after.
const SHORTEST_BEFORE_AN_END: Duration = Duration::from_secs(60);
/// After the expiry, for servers whose clock is a little behind.
pub const AFTER_EXPIRY: Duration = Duration::from_secs(1);

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
        wanted
            .min(share_of(lifetime, LATEST_SHARE))
            .max(spacing(lifetime))
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

/// The least time between two renewals of a portal.
#[must_use]
pub fn spacing(lifetime: Duration) -> Duration {
    share_of(lifetime, SPACING_SHARE).max(SHORTEST_SPACING)
}

/// The least time between two renewals where a refresh token ends sooner than a tenth of the access token's life:
/// session servers give half an hour beside an access token of a day, and a grant must not end of our patience.
#[must_use]
pub fn before_an_end(lifetime: Duration) -> Duration {
    spacing(lifetime).min(SHORTEST_BEFORE_AN_END)
}
