//! What a number of portals asks of one authorization server, and whether its budget is enough.
//!
//! Must not be more exact than it can be: lifetimes are those that the profiles assume.

use std::time::Duration;

use super::budget::Limits;
use refreshd_token_client::renew_every::RenewEvery;

/// Renewals come earlier than their age by up to a tenth of it, half of that on average.
const MEAN_SHARE: f64 = 0.95;
/// Share of the rate that planned renewals may take: the rest is for retries and for catching up.
const USABLE_SHARE: f64 = 0.8;
/// Share of the time between renewal and expiry in which all portals must be renewed after an outage.
const CATCH_UP_SHARE: f64 = 0.5;
/// A longer age than this share of the lifetime is not recommended.
const LONGEST_AGE: f64 = 0.67;

/// The renewals of one authorization server.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Demand {
    /// Number of portals.
    pub portals: usize,
    /// Renewals in a second, on average.
    pub per_second: f64,
    /// Shortest time between a renewal and the expiry of the token; `None` if tokens are renewed once they have expired.
    window: Option<Duration>,
    /// Shortest lifetime.
    lifetime: Duration,
}

/// Why a rate is not enough.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Shortage {
    /// Planned renewals alone take too much of it.
    Always {
        /// The rate that is enough.
        rate: f64,
        /// The age at which this rate is enough, if it leaves enough of the lifetime.
        renew_every: Option<Duration>,
    },
    /// It is enough until all are due at once, as after an outage or a restart.
    AtOnce {
        /// The rate that is enough.
        rate: f64,
        /// Time that all of them take.
        takes: Duration,
        /// Time between a renewal and the expiry.
        window: Duration,
    },
}

impl Demand {
    /// That of no portal.
    #[must_use]
    pub const fn none() -> Self {
        Self {
            portals: 0,
            per_second: 0.0,
            window: None,
            lifetime: Duration::MAX,
        }
    }

    /// With one portal more.
    pub fn add(&mut self, every: RenewEvery, lifetime: Duration) {
        let age = every.age(lifetime);
        self.portals += 1;
        self.per_second += 1.0 / (age.as_secs_f64() * MEAN_SHARE).max(0.001);
        self.lifetime = self.lifetime.min(lifetime);
        let window = lifetime.saturating_sub(age);
        if !window.is_zero() {
            self.window = Some(self.window.map_or(window, |shortest| shortest.min(window)));
        }
    }

    /// What is missing; `None` if the rate is enough.
    #[must_use]
    pub fn shortage(&self, limits: Limits) -> Option<Shortage> {
        if self.portals == 0 {
            return None;
        }
        let count = self.portals as f64;
        let at_once = self.window.map_or(0.0, |window| {
            count / (window.as_secs_f64() * CATCH_UP_SHARE)
        });
        let rate = (self.per_second / USABLE_SHARE).max(at_once);
        if self.per_second > limits.rate * USABLE_SHARE {
            let age = count / (limits.rate * USABLE_SHARE * MEAN_SHARE);
            let longest = self.lifetime.mul_f64(LONGEST_AGE);
            let renew_every = Duration::try_from_secs_f64(age)
                .ok()
                .filter(|age| *age <= longest);
            return Some(Shortage::Always { rate, renew_every });
        }
        let window = self.window?;
        (at_once > limits.rate).then(|| Shortage::AtOnce {
            rate,
            takes: Duration::from_secs_f64(count / limits.rate),
            window,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);
    const AGE: RenewEvery = RenewEvery::Age(Duration::from_secs(1500));

    fn demand(portals: usize, every: RenewEvery) -> Demand {
        let mut demand = Demand::none();
        (0..portals).for_each(|_| demand.add(every, HOUR));
        demand
    }

    fn at(rate: f64) -> Limits {
        Limits {
            concurrency: 256,
            rate,
        }
    }

    #[test]
    fn a_rate_that_is_enough_is_no_shortage_and_the_one_that_is_named_is_enough() {
        assert_eq!(demand(10_000, AGE).shortage(at(50.0)), None);
        assert_eq!(Demand::none().shortage(at(0.001)), None);
        for (portals, rate) in [(1000, 0.5), (10_000, 7.0), (100_000, 50.0), (3, 0.001)] {
            let demand = demand(portals, AGE);
            let shortage = demand.shortage(at(rate));
            let Some(Shortage::Always { rate: needed, .. }) = shortage else {
                panic!("{portals} at {rate}: {shortage:?}");
            };
            assert_eq!(
                demand.shortage(at(needed * 1.001)),
                None,
                "{portals} at {needed}"
            );
        }
    }

    #[test]
    fn a_longer_age_is_named_only_where_it_leaves_enough_of_the_lifetime() {
        let often = RenewEvery::Age(Duration::from_secs(360));
        let Some(Shortage::Always {
            renew_every: Some(age),
            ..
        }) = demand(1000, often).shortage(at(1.0))
        else {
            panic!("1000 every 6 minutes are more than one a second");
        };
        assert!(
            age <= HOUR.mul_f64(0.67) && age > Duration::from_secs(1000),
            "{age:?}"
        );
        let longer = RenewEvery::Age(age + Duration::from_secs(1));
        let shortage = demand(1000, longer).shortage(at(1.0));
        assert!(
            !matches!(shortage, Some(Shortage::Always { .. })),
            "{shortage:?}"
        );
        let Some(Shortage::Always { renew_every, .. }) = demand(4000, often).shortage(at(1.0))
        else {
            panic!("four times as many are more");
        };
        assert_eq!(renew_every, None);
    }

    #[test]
    fn a_rate_that_cannot_catch_up_is_a_shortage() {
        let late = RenewEvery::Age(Duration::from_secs(3200));
        let thousand = demand(1000, late);
        let shortage = thousand.shortage(at(1.0));
        let Some(Shortage::AtOnce {
            rate,
            takes,
            window,
        }) = shortage
        else {
            panic!("a thousand take a thousand seconds, and there are 400: {shortage:?}");
        };
        assert_eq!((takes.as_secs(), window.as_secs()), (1000, 400));
        assert_eq!(thousand.shortage(at(rate)), None);
        // Renewed after the expiry: nothing can be caught up with.
        assert_eq!(demand(1000, RenewEvery::Expiry).shortage(at(1.0)), None);
    }
}
